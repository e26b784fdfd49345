"""From a network's output to classes, masks and overlays; and the mirrored borders that make a size fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segtwin.images import Converted, Page
from segtwin.losses import IGNORE_LABEL
from segtwin.palette import voc_palette
from segtwin.tiles import TILE, mirrored, overlap_tile

if TYPE_CHECKING:
    from segtwin.architectures import Architecture

ROWS = 256
"""Of an overlay, mixed at a time."""
FOREGROUND = (255, 40, 40)
"""Colour of the one class in an overlay."""
MOST_CLASSES = 256
"""A mask is an image of one byte per pixel."""


def padded(data: np.ndarray, height: int, width: int) -> np.ndarray:
    """N×C×H×W mirrored at the bottom and right to N×C×height×width; the last pixel is not repeated."""
    rows, columns = (mirrored(0, new, size) for new, size in zip((height, width), data.shape[2:], strict=True))
    return np.ascontiguousarray(data[:, :, rows[:, np.newaxis], columns])


def whole_output(
    network: Callable[[np.ndarray], np.ndarray], data: np.ndarray, architecture: Architecture, tile: int = TILE
) -> np.ndarray:
    """The output for an image of any size that the network takes, N×classes×H×W: unet-paper tile by
    tile; images of other sizes are mirrored at the bottom and right, and the output is cut.

    Args:
        network: N×C×h×w → N×classes×h×w (h − 184 and w − 184 of unet-paper).
        data: N×C×H×W.
        architecture: of the network.
        tile: rows and columns of unet-paper's tiles.
    """
    height, width = data.shape[2:]
    if architecture.name == "unet-paper":
        return overlap_tile(network, data, tile)
    legal = architecture.legal_size(height), architecture.legal_size(width)
    return network(padded(data, *legal))[:, :, :height, :width]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + e⁻ˣ), in float64."""
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities of N×classes×H×W scores, over the classes."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def best_class(output: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Each pixel's class: the largest of N×classes×H×W; of a single class, whose output is its
    probability, 1 from the threshold on. N×H×W uint8."""
    best = output[:, 0] >= threshold if output.shape[1] == 1 else output.argmax(1)
    return best.astype(np.uint8)


def picture_of_page(
    page: Page, channels: int, bits: int | None = None, value_range: tuple[float, float] | None = None
) -> np.ndarray:
    """A page as it is shown, H×W×3 uint8; of arrays with other channels the first three, or the
    first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Converted)
        if isinstance(page.raw, np.ndarray) or channels not in (1, 3):
            values = page.values(channels, bits, value_range)
            return shown(values[..., :3] if values.shape[2] >= 3 else np.repeat(values[..., :1], 3, axis=2))
        return shown(page.values(3, bits, value_range))


def shown(values: np.ndarray) -> np.ndarray:
    """Values 0..255 as uint8, rounded."""
    return values if values.dtype == np.uint8 else np.rint(values).clip(0, 255).astype(np.uint8)


def legend(classes: list[tuple[str, tuple[int, int, int]]]) -> Image.Image:
    """A picture of names beside their colours, a line each."""
    line = 20
    font = ImageFont.load_default()
    width = max((round(font.getlength(_drawable(name))) for name, _ in classes), default=0)
    picture = Image.new("RGB", (width + 2 * line, line * max(len(classes), 1)), "white")
    draw = ImageDraw.Draw(picture)
    for number, (name, colour) in enumerate(classes):
        top = number * line
        draw.rectangle((3, top + 3, line - 4, top + line - 4), fill=tuple(map(int, colour)), outline="black")
        draw.text((line + 4, top + 4), _drawable(name), fill="black", font=font)
    return picture


def _drawable(name: str) -> str:
    """What the built-in font has letters for."""
    return name.encode("latin-1", "replace").decode("latin-1")


def mask_of(labels: np.ndarray, colours: np.ndarray) -> Image.Image:
    """A palette image whose indices are the classes."""
    mask = Image.fromarray(labels)
    mask.putpalette(colours.tobytes())
    return mask


def overlay_of(labels: np.ndarray, picture: np.ndarray, colours: np.ndarray) -> Image.Image:
    """The image; where there is a class other than 0, the mean of it and the class's colour."""
    result = picture.copy()
    for start in range(0, len(labels), ROWS):
        rows = slice(start, start + ROWS)
        both = picture[rows].astype(np.uint16) + colours[labels[rows]]
        mean = (both + (both >> 1 & 1)) >> 1  # a half is rounded to the even number
        np.copyto(result[rows], mean.astype(np.uint8), where=(labels[rows] != 0)[..., np.newaxis])
    return Image.fromarray(result)


def overlays(values: np.ndarray, labels: list[np.ndarray], classes: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """An image's values 0..255 as H×W×3 uint8, and the same tinted by each of the labels; void is not."""
    picture = shown(values[..., :3] if values.shape[2] >= 3 else values[..., :1].repeat(3, 2))
    _, colours = colours_of({}, None, classes)
    masks = [np.where(one == IGNORE_LABEL, 0, one).astype(np.uint8) for one in labels]
    return picture, [np.asarray(overlay_of(one, picture, colours)) for one in masks]


def colours_of(facts: dict[str, Any], palette: list[list[int]] | None, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """n×3 uint8: colours of a mask's classes, and of an overlay's. One or two classes without a
    palette are black and white, in an overlay red."""
    colours = palette or facts.get("palette")
    if colours is None and classes <= 2:
        return np.array([(0, 0, 0), (255, 255, 255)], np.uint8), np.array([(0, 0, 0), FOREGROUND], np.uint8)
    chosen_colours = np.array(colours if colours is not None else voc_palette(), np.uint8).reshape(-1, 3)
    if len(chosen_colours) < max(classes, 2):
        raise ValueError(f"the palette has {len(chosen_colours)} colours, the network {max(classes, 2)} classes")
    return chosen_colours, chosen_colours


def names_of(facts: dict[str, Any], names: list[str] | None, classes: int) -> list[str]:
    """Names of a mask's indices; numbers where nobody names them. A single class stands beside the
    background."""
    found = list(map(str, names or facts.get("classes") or []))
    indices = max(classes, 2)
    if classes == 1 and len(found) == 1:
        found = ["background", *found]
    if names is not None and len(found) != indices:
        raise ValueError(f"--classes names {len(found)} classes, the network has {classes}")
    return found if len(found) >= indices else [str(number) for number in range(indices)]
