"""Augmentation, decided by a random generator that is handed in, and the U-Net's weight map.

Ronneberger, Fischer and Brox, "U-Net" (arXiv:1505.04597), section 3.1 (elastic deformation: random
displacements on a coarse 3×3 grid, Gaussian with 10 pixels standard deviation, bicubic interpolation
between) and equation 2 (the weight map). numpy and scipy alone: both frameworks get the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from segtwin.errors import DataError
from segtwin.losses import IGNORE_LABEL
from segtwin.tiles import mirrored

GRID = 3
"""Points of the elastic grid along each axis."""
W0, SIGMA = 10.0, 5.0
"""Of equation 2; σ in pixels."""
REACH = 6.1
"""Standard deviations beyond which exp(−d²/2σ²) is below 1e-8."""
FLIPS = ("none", "horizontal", "vertical", "both")


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training image and its label, in this order; the defaults do nothing."""

    scale: tuple[float, float] = (1.0, 1.0)
    """Bounds of a factor of rows and columns, drawn log-uniformly. Labels are scaled by nearest neighbours."""
    elastic: float = 0.0
    """Standard deviation in pixels of the displacements of a 3×3 grid."""
    flip: str = "none"
    """"horizontal" (left and right), "vertical", or "both": each with probability ½."""
    right_angles: bool = False
    """Turned by 0, 90, 180 or 270 degrees."""
    crop: tuple[int, int] | None = None
    """Rows and columns of a piece, anywhere; a smaller image is mirrored, its label filled with void."""
    brightness: float = 0.0
    """Values 0..255 times a factor from 1 − b to 1 + b, cut at 0 and 255."""

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises:
            DataError: a value is out of its bounds.
        """
        if self.flip not in FLIPS:
            raise DataError(f"flip is {' or '.join(FLIPS)}, not {self.flip!r}")
        low, high = self.scale
        if not 0 < low <= high:
            raise DataError(f"scale is two positive factors, the smaller first, not {self.scale}")
        if not 0 <= self.brightness <= 1:
            raise DataError(f"brightness is a share from 0 to 1, not {self.brightness}")
        if self.elastic < 0:
            raise DataError(f"elastic is a standard deviation in pixels, not {self.elastic}")
        if self.crop is not None and min(self.crop) < 1:
            raise DataError(f"crop is rows and columns, not {self.crop}")

    def apply(
        self, values: np.ndarray, label: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """An image and its label, changed alike.

        Args:
            values: H×W×C, 0..255.
            label: H×W uint8.
            random: every draw is from it.

        Returns:
            float32 h×w×C and uint8 h×w.
        """
        values = values.astype(np.float32)
        if self.scale != (1.0, 1.0):
            low, high = np.log(self.scale)
            values, label = scaled(values, label, float(np.exp(random.uniform(low, high))))
        if self.elastic:
            values, label = deformed(values, label, self.elastic, random)
        if self.flip in ("horizontal", "both") and random.random() < 0.5:
            values, label = values[:, ::-1], label[:, ::-1]
        if self.flip in ("vertical", "both") and random.random() < 0.5:
            values, label = values[::-1], label[::-1]
        if self.right_angles:
            turns = int(random.integers(4))
            values, label = np.rot90(values, turns), np.rot90(label, turns)
        if self.crop is not None:
            values, label = cropped(values, label, self.crop, random)
        if self.brightness:
            factor = np.float32(random.uniform(1 - self.brightness, 1 + self.brightness))
            values = (values * factor).clip(0, 255)
        return np.ascontiguousarray(values), np.ascontiguousarray(label)


def scaled(values: np.ndarray, label: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Image by bilinear interpolation, label by nearest neighbours."""
    height, width = (max(1, round(size * factor)) for size in label.shape)
    channels = [
        np.asarray(Image.fromarray(values[..., channel]).resize((width, height), Image.Resampling.BILINEAR))
        for channel in range(values.shape[2])
    ]
    smaller = Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST)
    return np.stack(channels, axis=2), np.asarray(smaller)


def deformed(
    values: np.ndarray, label: np.ndarray, deviation: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Elastic deformation; beyond the border the image is mirrored. The label takes nearest neighbours."""
    from scipy.ndimage import map_coordinates

    height, width = label.shape
    grid = random.normal(0, deviation, (2, GRID, GRID))
    rows, columns = np.linspace(0, GRID - 1, height), np.linspace(0, GRID - 1, width)
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"))
    shift = [map_coordinates(one, places, order=3, mode="nearest") for one in grid]
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    source = np.stack([y + shift[0], x + shift[1]])
    channels = [
        map_coordinates(values[..., channel], source, order=1, mode="mirror") for channel in range(values.shape[2])
    ]
    return np.stack(channels, axis=2), map_coordinates(label, source, order=0, mode="mirror")


def cropped(
    values: np.ndarray, label: np.ndarray, size: tuple[int, int], random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A piece of `size` rows and columns."""
    values, label = grown(values, label, *size)
    top, left = (int(random.integers(have - want + 1)) for have, want in zip(label.shape, size, strict=True))
    window = np.s_[top : top + size[0], left : left + size[1]]
    return values[window], label[window]


def grown(values: np.ndarray, label: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """At least so many rows and columns: the image mirrored below and to the right, the label filled
    with void, of which nothing is learned."""
    have = label.shape
    height, width = max(height, have[0]), max(width, have[1])
    if (height, width) == have:
        return values, label
    rows, columns = mirrored(0, height, have[0]), mirrored(0, width, have[1])
    filled = np.full((height, width), IGNORE_LABEL, label.dtype)
    filled[: have[0], : have[1]] = label
    return values[rows[:, np.newaxis], columns], filled


def weight_map(
    label: np.ndarray, w0: float = W0, sigma: float = SIGMA, balance: bool = True, objects: np.ndarray | None = None
) -> np.ndarray:
    """Equation 2 of the U-Net paper: w(x) = w_c(x) + w0 · exp(−(d1 + d2)² / 2σ²).

    d1 and d2 are the distances to the nearest and the second nearest object. The border term is for the
    background, which the network has to learn between touching objects; there is none where fewer than
    two objects are near.

    Args:
        label: H×W of classes; 255 is void, whose weight is 0.
        w0: weight of the borders.
        sigma: in pixels.
        balance: w_c gives every class that occurs the same total; False: w_c is 1.
        objects: H×W numbers of the objects, 0 none; by default the connected pieces of the classes
            above 0.

    Returns:
        float32 H×W.
    """
    from scipy.ndimage import distance_transform_edt, find_objects
    from scipy.ndimage import label as pieces

    counted = label != IGNORE_LABEL
    weights = np.ones(label.shape)
    if balance and counted.any():
        classes, counts = np.unique(label[counted], return_counts=True)
        for one, count in zip(classes, counts, strict=True):
            weights[label == one] = counted.sum() / (len(classes) * count)
    if objects is None:
        objects, _ = pieces((label != 0) & counted)
    reach = int(np.ceil(REACH * sigma))
    first, second = np.full(label.shape, np.inf), np.full(label.shape, np.inf)
    for number, place in enumerate(find_objects(objects), 1):
        if place is None:
            continue
        near = tuple(slice(max(0, one.start - reach), one.stop + reach) for one in place)
        distance = distance_transform_edt(objects[near] != number)
        mine, next_one = first[near], second[near]
        np.minimum(next_one, np.maximum(mine, distance), out=next_one)
        np.minimum(mine, distance, out=mine)
    border = w0 * np.exp(-((first + second) ** 2) / (2 * sigma**2))
    weights += np.where(objects == 0, border, 0)
    return np.where(counted, weights, 0).astype(np.float32)
