"""What the builders and `blobs` of both twins take; a wrong argument is an error of one line, with
the same words in both."""

from __future__ import annotations

import operator
import os
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from segtwin.errors import ArchitectureError, listed, nearest

if TYPE_CHECKING:
    from segtwin.architectures import Architecture

MOST_CLASSES = 1 << 16
"""A label image has at most 16 bits a pixel."""
MOST_CHANNELS = 1 << 16
"""TIFF, the format of the most channels, counts them with 16 bits; so no layer has more either (the
widest one here: 4,096)."""


def whole_number(what: str, value: Any, least: int, most: int) -> int:
    """A whole number within bounds; Python's and numpy's, no truth values.

    Raises:
        TypeError: it is none.
        ValueError: it is outside of the bounds.
    """
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{what} is a whole number from {least} to {most}, not {shown(value)}")
    if not least <= number <= most:
        raise ValueError(f"{what} is {number}; it is a whole number from {least} to {most}")
    return number


def shown(value: Any) -> str:
    """A value in a message: short, on one line."""
    text = " ".join(repr(value).split())
    return f"{text[:60]} ({type(value).__name__})" if len(text) <= 60 else f"{text[:60]}… ({type(value).__name__})"


def network_name(name: Any, known: Collection[str]) -> str:
    """The name of a network.

    Raises:
        TypeError: it is no text.
        ArchitectureError: there is no such network.
    """
    if not isinstance(name, str):
        raise TypeError(f"the network is a name, one of {listed(known)}, not {shown(name)}")
    if name not in known:
        raise ArchitectureError(f"there is no network {name!r}; there are {listed(known)}{nearest(name, known)}")
    return name


def check_build(
    architecture: Architecture,
    num_classes: Any = None,
    in_channels: Any = None,
    widths: Any = None,
    dropout: Any = None,
    seed: Any = None,
) -> tuple[int | None, int | None, tuple[int, ...] | None]:
    """Arguments of `build`, made plain ints; None stays.

    Raises:
        TypeError: one is of another type.
        ValueError: one is outside of its bounds, or there are too many or too few widths.
    """
    if num_classes is not None:
        num_classes = whole_number("num_classes", num_classes, 1, MOST_CLASSES)
    if in_channels is not None:
        in_channels = whole_number("in_channels", in_channels, 1, MOST_CHANNELS)
    if widths is not None:
        wanted = (
            f"{architecture.name}: widths are {len(architecture.widths)} positive numbers "
            f"({', '.join(architecture.widths)})"
            if architecture.widths
            else f"{architecture.name} has no widths"
        )
        if isinstance(widths, str | bytes) or not isinstance(widths, Iterable):
            raise TypeError(f"{wanted}, not {shown(widths)}")
        widths = tuple(widths)
        if len(widths) != len(architecture.widths):
            raise ValueError(f"{wanted}, not {shown(widths)}")
        widths = tuple(
            whole_number(f"{architecture.name}: the width {name}", width, 1, MOST_CHANNELS)
            for name, width in zip(architecture.widths, widths, strict=True)
        )
    if dropout is not None:
        if isinstance(dropout, bool) or not isinstance(dropout, int | float | np.floating | np.integer):
            raise TypeError(f"dropout is a rate from 0 to below 1, not {shown(dropout)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it is a rate from 0 to below 1")
    if seed is not None:
        whole_number("seed", seed, 0, (1 << 64) - 1)
    return num_classes, in_channels, widths


def check_memory(
    architecture: Architecture,
    num_classes: int | None,
    in_channels: int | None,
    widths: tuple[int, ...] | None,
    item: int = 4,
) -> None:
    """Refuse a network whose weights alone are larger than this machine's memory, before they are
    asked for.

    Raises:
        ValueError: they are.
    """
    try:
        have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # a system that does not say
        return
    need = (
        sum(int(np.prod(one.shape, dtype=object)) for one in architecture.parameters(num_classes, widths, in_channels))
        * item
    )
    if need > have:
        raise ValueError(
            f"{architecture.name}: its weights would take {need / 1e9:,.1f} GB, and this machine has "
            f"{have / 1e9:,.1f} GB; take fewer classes or widths"
        )


def checked_images(data: Any, channels: int, dtype: str) -> np.ndarray:
    """Images for a network, in its dtype: always a copy.

    Args:
        data: N×C×H×W numbers with a decimal point.
        channels: of the network.
        dtype: "float32" or "float64".

    Raises:
        TypeError: they are no such numbers.
        ValueError: another number of axes or channels, nothing at all, NaN, or numbers that the
            dtype cannot hold.
    """
    array = np.asarray(data)
    if array.dtype.kind != "f":
        raise TypeError(
            f"data is an array of float32 or float64, N×{channels}×H×W, as segtwin.preprocess makes it, not one of "
            f"{array.dtype}"
        )
    if array.ndim != 4:
        raise ValueError(f"data is N×{channels}×H×W, of four axes, not of the shape {array.shape}")
    if array.shape[1] != channels:
        raise ValueError(f"data is N×{channels}×H×W, and {array.shape} has {array.shape[1]} channels")
    if 0 in array.shape:
        raise ValueError(f"data is N×{channels}×H×W and not empty, and {array.shape} holds nothing")
    # numpy's own: a number of Python's would be cast to float32, where it overflows
    most = np.float64(np.finfo(dtype).max)
    if not (-most <= array.min() and array.max() <= most):  # false for NaN, too
        good = int((np.abs(array) <= most).sum())
        raise ValueError(
            f"data holds {array.size - good} values that are NaN, infinite or too large for {dtype}, of {array.size}"
        )
    return np.array(array, dtype, order="C")
