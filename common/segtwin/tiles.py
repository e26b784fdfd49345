"""Overlap-tile: unet-paper on an image of any size, seam-free, in memory that does not grow with
the image.

Ronneberger, Fischer and Brox, "U-Net" (arXiv:1505.04597), section 2 and figure 2: the valid
convolutions leave only pixels whose whole context was there, so tiles laid side by side give the
picture that one pass over the whole image would; context beyond the border is the mirrored image.

Seam-free has one condition that the paper leaves unsaid. The network is the same everywhere only up
to shifts by 16 pixels: it pools four times. Figure 2's tiles of 388 pixels (388 = 24·16 + 4), set
388 apart, would stand in different phases of the pooling grid and agree neither with one pass over
the image nor with each other. So tiles are set a multiple of 16 apart here: 384, with 4 pixels
computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from segtwin.architectures import get_architecture

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
