"""How a network's input is made of an image: a value that belongs to the weights and travels with
them.

Source of the Caffe nets' defaults: `voc_layers.py` of shelhamer/fcn.berkeleyvision.org at
1305c7378a9f0ab44b2c936f4d60e4687e3d8743, `load_image`: RGB uint8 → float32 → BGR → minus the mean →
C×H×W.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from segtwin.errors import ImageError
from segtwin.images import Converted, ImageLike, pages

if TYPE_CHECKING:
    from segtwin.architectures import Architecture

COLOURS = {"rgb": "RGB", "bgr": "BGR", "grey": "grey", "gray": "grey"}
LUMA = (0.299, 0.587, 0.114)
"""Shares of R, G and B in a grey value (ITU-R BT.601), as Pillow converts."""
MOST_BITS = 32
LARGEST, SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Preprocessing:
    """What happens to the values of an image before the network sees them: (values · scale − mean)
    / std, channel by channel.

    Args:
        colour: order of the channels, "RGB", "BGR" or "grey", in any case.
        mean: subtracted, in the order of `colour`; one value for all channels, or one a channel.
        std: divided by, likewise.
        scale: factor on the values 0..255, as 1/255 for a network that takes 0..1. A number of 2 or
            more is taken for the divisor, and that is said.
        bits: of the image's values: 0 … 2^bits − 1 count as 0..255, unrounded.

    Raises:
        ValueError: a colour that is none of these, a number that is not finite, a std or scale that
            is not positive, bits outside 1..32.
    """

    colour: str = "RGB"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1.0
    bits: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.colour, str) or self.colour.lower() not in COLOURS:
            raise ValueError(f"colour is RGB, BGR or grey, not {self.colour!r}")
        scale = _numbers("scale", self.scale)
        if len(scale) != 1 or scale[0] <= 0:
            raise ValueError(f"scale is one positive number, not {self.scale!r}")
        if scale[0] >= 2:
            warnings.warn(
                f"scale {scale[0]:g} is taken for a divisor: values 0..255 are multiplied by 1/{scale[0]:g}",
                Converted,
                stacklevel=3,
            )
            scale = (1 / scale[0],)
        std = _numbers("std", self.std) or (1.0,)
        if min(std) <= 0:
            raise ValueError(f"std is positive, not {self.std!r}")
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 1 <= self.bits <= MOST_BITS:
            raise ValueError(f"bits is a whole number from 1 to {MOST_BITS}, not {self.bits!r}")
        mean = _numbers("mean", self.mean) or (0.0,)
        if len(mean) != len(std) and 1 not in (len(mean), len(std)):
            raise ValueError(f"mean has {len(mean)} values and std {len(std)}; each has one, or one a channel")
        if (255 * scale[0] + max(map(abs, mean))) / min(std) > LARGEST or scale[0] < SMALLEST:
            raise ValueError(
                f"scale {scale[0]:g}, mean {_listed(mean)} and std {_listed(std)} make values that float32 cannot hold"
            )
        values = {"colour": COLOURS[self.colour.lower()], "mean": mean, "std": std, "scale": scale[0]}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any], default: Preprocessing | None = None) -> Preprocessing:
        """Of a file's metadata; what is not stated is taken from `default`.

        Raises:
            ValueError: a value is no number, or a key is unknown.
        """
        if not isinstance(stated, Mapping):
            raise ValueError(
                f"preprocessing is a dict of {', '.join(field.name for field in fields(cls))}, not {stated!r}"
            )
        if unknown := stated.keys() - {field.name for field in fields(cls)}:
            raise ValueError(f"preprocessing has no {', '.join(sorted(map(repr, unknown)))}")
        return replace(default or cls(), **stated)

    def asdict(self) -> dict[str, Any]:
        """For metadata: lists and numbers."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def replace(self, **changed: Any) -> Preprocessing:
        """Another one with these values changed."""
        return replace(self, **changed)

    def in_order(self, colour: str) -> Preprocessing:
        """The same for channels in another order: mean and std go with their channels."""
        other = replace(self, colour=colour)
        if {self.colour, other.colour} == {"RGB", "BGR"}:
            return replace(other, mean=self.mean[::-1], std=self.std[::-1])
        return other

    def describe(self, channels: int | None = None) -> str:
        """In one line of words: "BGR, values 0..255, minus (104.007, 116.669, 122.679)". Channels
        beyond three have no colours: they keep the order that they have in the image.
        """
        top = 255 * self.scale
        colour = self.colour if channels in (None, 1, 3) else f"{channels} channels as the image has them"
        parts = [colour, f"values 0..{top:g}" + (f" of {self.bits} bits" if self.bits != 8 else "")]
        if any(self.mean):
            parts.append(f"minus {_listed(self.mean)}")
        if any(value != 1 for value in self.std):
            parts.append(f"over {_listed(self.std)}")
        return ", ".join(parts)

    def for_channels(self, channels: int) -> Preprocessing:
        """The same for a network of another number of channels. One grey channel gets the grey
        value of the mean; for other numbers nothing is known: only the scale stays.
        """
        if (
            channels in (len(self.mean), len(self.std))
            and len(self.mean) in (1, channels)
            and len(self.std) in (1, channels)
        ):
            return self
        if channels == 1:
            luma = LUMA[::-1] if self.colour == "BGR" else LUMA
            grey = [sum(share * value for share,
                value in zip(luma, values, strict=True)) if len(values) == 3 else values[0]
                    for values in (self.mean, self.std)]  # fmt: skip
            return replace(self, colour="grey", mean=(grey[0],), std=(grey[1],))
        if len(self.mean) == len(self.std) == 1:
            return self if channels != 3 or self.colour != "grey" else replace(self, colour="RGB")
        return replace(self, mean=(0.0,), std=(1.0,))

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Values 0..255 (`bits` are accounted for by the reader of the image) as the network takes
        them.

        Args:
            pixels: N×H×W×C, RGB where C is 3; other numbers of channels keep their order.

        Returns:
            float32, N×C×H×W.

        Raises:
            ValueError: mean or std are for another number of channels.
        """
        channels = pixels.shape[-1]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(f"{name} {_listed(values)} is for {len(values)} channels, the image has {channels}")
        batch: np.ndarray = pixels.astype(np.float32)
        if self.colour == "BGR" and channels == 3:
            batch = batch[..., ::-1]
        divisor = 1 / self.scale
        # 255, not the rounded 1/255: the division that torchvision's ToTensor makes
        if math.isclose(divisor, round(divisor), rel_tol=1e-9):
            divisor = round(divisor)
        if divisor != 1:
            batch = batch / np.float32(divisor)
        if any(self.mean):
            batch = batch - np.array(self.mean, np.float32)
        if any(value != 1 for value in self.std):
            batch = batch / np.array(self.std, np.float32)
        return np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32)


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else (value,)
    try:
        numbers = tuple(float(one) for one in values if not isinstance(one, str | bool))
    except (TypeError, ValueError, OverflowError):  # of an integer beyond float64
        numbers = ()
    if len(numbers) != len(values) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} is a finite number, or one a channel, not {value!r}")
    return numbers


def _listed(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})" if len(values) > 1 else f"{values[0]:g}"


def preprocess(
    image: ImageLike | Sequence[ImageLike],
    network: str | Architecture | Preprocessing | Any,
    in_channels: int | None = None,
    value_range: tuple[float, float] | None = None,
) -> np.ndarray:
    """An image as a network takes it.

    Args:
        image: a file, a PIL image, or an array H×W×3 of RGB (for one channel H×W); a list of
            equally large ones makes a batch, and so do the pages of a stack.
        network: a `Preprocessing`; a model, whose weights' `preprocessing` is taken; or a network's
            name, for the architecture's default.
        in_channels: of the network, where they are not its own: 1 takes grey values.
        value_range: of float and 32-bit images, the values that become 0 and 255.

    Returns:
        float32, N×C×H×W. By default, for the Caffe nets: BGR, 0..255 minus the mean; for fcn8-vgg
        RGB 0..255; for the U-Nets 0..1; for vggfcn* and resnet34-unet RGB as torchvision's networks
        take it, 0..1, minus their mean, over their deviation.

    Raises:
        ImageError: the file is no image; images of a batch differ in size.
        ValueError: there is no such network, or it takes other numbers of channels; the mean is for
            another number.
    """
    preprocessing, own, any_channels = _of(network)
    channels = own if in_channels is None else in_channels
    if channels != own and not any_channels:
        raise ValueError(f"{getattr(network, 'name', network)} with {channels} channels: its original takes {own}")
    images = [image] if isinstance(image, str | os.PathLike | Image.Image | np.ndarray) else image
    bits = preprocessing.bits if preprocessing.bits != 8 else None  # 8 is what every image has that does not say it
    pixels = [page.values(channels, bits, value_range) for one in images for page in pages(one)]
    if len({one.shape for one in pixels}) != 1:
        raise ImageError(
            "a batch holds images of one size, not "
            f"{' and '.join(sorted({f'{p.shape[0]}×{p.shape[1]}' for p in pixels}))}"
        )
    return preprocessing.for_channels(channels).apply(np.stack(pixels))


def _of(network: Any) -> tuple[Preprocessing, int, bool]:
    """A network's preprocessing, its number of channels, and whether it can be built for others."""
    from segtwin.architectures import Architecture, get_architecture  # an architecture holds a Preprocessing

    if isinstance(network, Preprocessing):
        return network, 1 if network.colour == "grey" else max(3, len(network.mean), len(network.std)), True
    if isinstance(own := getattr(network, "preprocessing", None), Preprocessing) and not isinstance(
        network, Architecture
    ):
        return own, getattr(network, "in_channels", None) or (1 if own.colour == "grey" else 3), True
    architecture = get_architecture(network)
    return architecture.preprocessing, architecture.in_channels, architecture.any_channels
