"""Images of any size, tile by tile, seam-free, in memory that does not grow with the image: by overlap-tile for
unet-paper, whose output is smaller than its input, and by tiles with enough context for the other networks.

Ronneberger, Fischer and Brox, "U-Net" (arXiv:1505.04597), section 2 and figure 2: the valid
convolutions leave only pixels whose whole context was there, so tiles laid side by side give the
picture that one pass over the whole image would; context beyond the border is the mirrored image.

Seam-free has one condition that the paper leaves unsaid. The network is the same everywhere only up
to shifts by 16 pixels: it pools four times. Figure 2's tiles of 388 pixels (388 = 24·16 + 4), set
388 apart, would stand in different phases of the pooling grid and agree neither with one pass over
the image nor with each other. So tiles are set a multiple of 16 apart here: 384, with 4 pixels
computed twice.

The other networks give a class to every pixel they see, and near a tile's edge they would see padding in the place of
the image. So a tile looks as far beyond its edges as its pixels do (`reach`), begins in the same phase of the pooling
grid, and ends in the same phase as the image, since rounding at the far edge counts from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from segtwin.architectures import Architecture, get_architecture
from segtwin.errors import ArchitectureError
from segtwin.explanation import coordinate_maps, crops, sees
from segtwin.layer_kinds import KINDS

UNET_PAPER = get_architecture("unet-paper")
BORDER = 92
"""Pixels of context that the output lacks on each side: a legal input of n pixels gives n − 184."""
TILE = 572
"""Rows and columns of the paper's input tiles."""


class Tile(NamedTuple):
    """One tile: what it writes of the output, and the rows and columns of the image it looks at
    (mirrored where there are none)."""

    top: int
    left: int
    rows: np.ndarray
    columns: np.ndarray


def overlap_tile(
    network: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    tile: int | tuple[int, int] = TILE,
    out: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
    fixed: bool = False,
) -> np.ndarray:
    """Run unet-paper over an image, tile by tile.

    Beyond the image and the result only one tile is in memory; both may be `numpy.memmap`s.

    Args:
        network: takes N×C×h×w (float32) and returns N×classes×(h−184)×(w−184): any engine.
        image: N×C×H×W, as `preprocess` gives it; H and W from 1 up.
        tile: rows and columns of the input tiles, legal sizes of the network (16k + 60) from 204
            up. Small images take smaller tiles.
        out: where to put the result; by default a new array.
        progress: called after each tile with (tiles done, tiles in all).
        fixed: the network takes this one size: small images are mirrored further.

    Returns:
        N×classes×H×W.

    Raises:
        ValueError: the tile size is not legal.
    """
    height, width = image.shape[2:]
    every = tiles(height, width, tile, fixed)
    high, wide = (tile, tile) if isinstance(tile, int) else tile
    todo = len(cuts(height, high, fixed)) * len(cuts(width, wide, fixed))
    for done, one in enumerate(every, start=1):
        scores = network(np.ascontiguousarray(image[:, :, one.rows[:, np.newaxis], one.columns]))
        if out is None:
            out = np.empty((*scores.shape[:2], height, width), scores.dtype)
        target = out[:, :, one.top : one.top + scores.shape[2], one.left : one.left + scores.shape[3]]
        target[...] = scores[:, :, : target.shape[2], : target.shape[3]]
        if progress is not None:
            progress(done, todo)
    assert out is not None
    return out


def tiles(height: int, width: int, tile: int | tuple[int, int] = TILE, fixed: bool = False) -> Iterator[Tile]:
    """The tiles of an image, row by row."""
    high, wide = (tile, tile) if isinstance(tile, int) else tile
    for top, rows in cuts(height, high, fixed):
        for left, columns in cuts(width, wide, fixed):
            yield Tile(top, left, looked_at(top, rows, height), looked_at(left, columns, width))


def cuts(size: int, tile: int, fixed: bool = False) -> list[tuple[int, int]]:
    """(first output pixel, input pixels) of the tiles along an axis of `size` pixels.

    Raises:
        ValueError: the tile size is not legal, or too small to move by a multiple of 16.
    """
    step, border = UNET_PAPER.size_step, BORDER
    least = UNET_PAPER.size_least + step
    if tile < least or UNET_PAPER.legal_size(tile) != tile:
        raise ValueError(
            f"a tile of {tile} pixels does not fit {UNET_PAPER.name}: tiles are {least}, {least + step}, "
            f"{least + 2 * step} … pixels"
        )
    output = tile - 2 * border
    if size <= output and fixed:
        return [(0, tile)]
    if size <= output:
        return [(0, UNET_PAPER.legal_size(size + 2 * border))]
    apart = output // step * step
    return [(apart * i, tile) for i in range(-((size - output) // -apart) + 1)]


def looked_at(start: int, count: int, size: int) -> np.ndarray:
    """Indices of the `count` pixels from `start` − 92 on of an axis of `size` pixels, mirrored
    where there are none."""
    return mirrored(start - BORDER, start - BORDER + count, size)


def mirrored(start: int, stop: int, size: int) -> np.ndarray:
    """Indices start … stop − 1 of an axis of `size` pixels, mirrored at both ends, as often as it
    takes; the last pixel is not repeated."""
    there_and_back = max(2 * (size - 1), 1)
    i = np.arange(start, stop) % there_and_back
    return np.where(i < size, i, there_and_back - i)


# ------------------------------------------------------------------- networks that keep an image's size


class Reach(NamedTuple):
    """How far a pixel of an output looks, along an axis."""

    before: int
    """Pixels, at the most."""
    after: int
    step: int
    """Shifts of the image by so many pixels shift the output, and change nothing else."""


class Cut(NamedTuple):
    """A tile along one axis."""

    first: int
    """Pixel of the output that it gives first."""
    last: int
    """And the one behind its last."""
    start: int
    """Pixel of the image that it looks at first."""
    stop: int


def reach(architecture: Architecture) -> Reach:
    """How far a network looks, from its table of layers.

    Raises:
        ArchitectureError: its output is not made of windows of the image: it cannot be cut into tiles.
    """
    for layer in architecture.layers:
        if layer.name in architecture.exported and not KINDS[layer.kind].local:
            raise ArchitectureError(
                f"{architecture.name}: {layer.name} ({layer.kind}) looks at the whole image, which cannot be cut into "
                "tiles"
            )
    if not architecture.keeps_size:
        raise ArchitectureError(f"{architecture.name}: its output has not the size of its image")
    return _reach(*architecture.stored_name)


@cache
def _reach(name: str, option: str | None) -> Reach:
    architecture = get_architecture(name)
    architecture = architecture.variants[option] if option else architecture
    size = architecture.legal_size(FAR_INSIDE)
    shapes = architecture.shapes(size, size, every_layer=True)
    maps = coordinate_maps(architecture, shapes, crops(architecture, shapes))
    step = math.lcm(*((1 / rows.scale).numerator for rows, _ in maps.values()))
    before = after = 0
    for more in range(0, step, architecture.size_step):  # where sizes round, and offsets follow from them
        shapes = architecture.shapes(size + more, size + more, every_layer=True)
        offsets = crops(architecture, shapes)
        for pixel in range(size // 2, size // 2 + step):
            seen = sees(architecture, architecture.output, (pixel, pixel), 0, shapes, offsets)
            first, last = seen[architecture.input]
            before, after = max(before, pixel - first), max(after, last - pixel)
    return Reach(before, after, step)


FAR_INSIDE = 2048
"""Pixels of an image whose middle is farther from its edges than any network here looks."""


def cuts_with_context(architecture: Architecture, size: int, tile: int) -> list[Cut]:
    """The tiles along an axis of `size` pixels, a legal size; one where the axis is not longer than a tile.

    Args:
        architecture: the network.
        size: pixels of the axis.
        tile: pixels that a tile gives; made a multiple of the network's step.

    Raises:
        ArchitectureError: of `reach`.
        ValueError: the tile has no pixel.
    """
    if tile < 1:
        raise ValueError(f"a tile has at least one row and column, not {tile}")
    before, after, step = reach(architecture)
    tile = -(tile // -step) * step
    found = []
    for first in range(0, size, tile):
        last = min(first + tile, size)
        start = max(0, (first - before) // step * step)
        stop = min(size, last + after + (size - last - after) % step)
        found.append(Cut(first, last, start, stop))
    return found
