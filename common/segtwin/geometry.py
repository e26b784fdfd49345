"""Where a pixel goes through several layers: crop offsets, and the bilinear kernels that upsampling
needs.

The map of a single layer is in `layer_kinds`. Nothing here knows a network or an image size.

Sources: `python/caffe/coord_map.py` (the crop rule) and `include/caffe/filler.hpp` (BilinearFiller)
of BVLC/caffe at 9b891540183ddc834a02b2bd81b31afae71b2153; `surgery.py` (`upsample_filt`, `interp`)
of shelhamer/fcn.berkeleyvision.org at 1305c7378a9f0ab44b2c936f4d60e4687e3d8743.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from segtwin.layer_kinds import Axis, CoordinateMap, coordinate_map

if TYPE_CHECKING:
    from segtwin.architectures.schema import Layer


def maps_to_ancestors(layers: Mapping[str, Layer], blob: str, offsets: Mapping[str, int]) -> dict[str, CoordinateMap]:
    """Blob name → the map from that blob's pixels to the pixels of `blob`, for `blob` itself and
    everything it is computed from.

    `offsets` holds the offsets of the Crop layers among them. A Crop keeps the grid of its first
    bottom only; the second lends its size.
    """
    maps = {blob: CoordinateMap()}
    pending = [blob]
    while pending:
        top = pending.pop()
        if top not in layers:  # the network's input
            continue
        step = coordinate_map(layers[top], Axis(offset=offsets.get(top, 0)))
        for bottom in layers[top].sources:
            if bottom not in maps:
                maps[bottom] = maps[top].after(step)
                pending.append(bottom)
    return maps


def crop_offset(layers: Mapping[str, Layer], blob: str, like: str, offsets: Mapping[str, int]) -> int:
    """First row and column of `blob` that lies on row and column 0 of `like`.

    Both are followed back to the nearest blob that they share; the map from `blob` to `like` has to
    keep the scale and shift by a whole number of pixels, and `like` has to begin inside `blob`.

    Raises:
        ValueError: when the two blobs cannot be aligned by cropping.
    """
    here, there = maps_to_ancestors(layers, blob, offsets), maps_to_ancestors(layers, like, offsets)
    common = next((name for name in here if name in there), None)
    if common is None:
        raise ValueError(f"crop of {blob} onto {like}: they share no ancestor")
    onto = here[common].after(there[common].inverse())  # pixels of `like` → pixels of `blob`
    if onto.scale != 1:
        raise ValueError(f"crop of {blob} onto {like}: scale {onto.scale}, not 1: their strides differ")
    if onto.shift.denominator != 1:
        raise ValueError(f"crop of {blob} onto {like}: offset {onto.shift} is not a whole number")
    if onto.shift < 0:
        raise ValueError(f"crop of {blob} onto {like}: offset {onto.shift} is negative: {blob} begins after {like}")
    return int(onto.shift)


def crop_offsets(layers: Sequence[Layer]) -> dict[str, int]:
    """The offset of every Crop layer of a network, in the order of its layers: a later crop may
    look through an earlier one."""
    by_name = {layer.name: layer for layer in layers}
    offsets: dict[str, int] = {}
    for layer in layers:
        if layer.kind == "Crop":
            blob, like = layer.bottoms
            offsets[layer.name] = crop_offset(by_name, blob, like, offsets)
    return offsets


class Repeat(NamedTuple):
    """A row that stands for its neighbours, counted from the start and again from the end; columns alike."""

    row: int
    """0: the first, and the last."""
    times: int
    """How often it is put back beside itself."""

    def rows(self, size: int) -> np.ndarray:
        """Which rows of a blob of `size` rows make the whole one, in order.

        Raises:
            ValueError: it has no such row on either side.
        """
        if 2 * self.row >= size:
            raise ValueError(f"{size} rows or columns have no row {self.row} to repeat from either side")
        once = np.ones(size, int)
        once[[self.row, -1 - self.row]] += self.times
        return np.repeat(np.arange(size), once)

    def whole(self, blob: np.ndarray) -> np.ndarray:
        """N×C×H×W with its rows and columns repeated."""
        height, width = blob.shape[2:]
        return blob.take(self.rows(height), axis=2).take(self.rows(width), axis=3)


class DeadZones(NamedTuple):
    """What a network that pads its image generously need not compute: rows that see padding alone are all the same.

    The first convolution pads by `pad` only, and where rows are left out, one of those that are the same
    is repeated behind a pooling, so that every later blob is whole.
    """

    pad: int
    repeats: Mapping[str, Repeat]
    """Pooling layer → the row that is repeated in its top."""
    left_out: Mapping[str, Repeat]
    """Blob that is computed without them → the repetition that makes it whole."""


def dead_zones(layers: Sequence[Layer]) -> DeadZones | None:
    """The smallest canvas that a network's first blocks can be computed on, or None where nothing can be left out.

    Counted from either edge of the canvas, row r of the first convolution sees padding alone for
    0 ≤ r ≤ pad − kernel. A convolution that is padded itself, by zeros, takes a row off such a zone at both of its
    ends. A window of a pooling has to lie in it; at the far edge windows begin at an even or an odd row, as the
    size of the image has it, and both are allowed for. So a zone does not depend on the size. Each pooling gets as
    many rows as the next one needs to keep one, the last one all that are still missing.

    Every repeated row is one that the whole network computes from the same numbers.
    """
    chain = list(_chain(layers))
    poolings = [layer for layer in chain if layer.kind == "Pooling"]
    for count in range(len(poolings), 0, -1):
        for pad in range(1, chain[0].pad):
            if found := _repeats(chain, poolings[:count], pad):
                return DeadZones(pad, found, _left_out(chain, found, chain[0].pad - pad))
    return None


def _chain(layers: Sequence[Layer]) -> Iterator[Layer]:
    """Padded 3×3 convolutions and 2×2 poolings one behind the other, from the input on."""
    before = layers[0].bottoms
    for position, layer in enumerate(layers):
        plain = (layer.stride, layer.dilation, layer.pad_after) == (1, 1, None) and layer.kind == "Convolution"
        padded = layer.pad * 2 == layer.kernel - 1 if position else layer.pad > layer.kernel
        halves = (layer.kind, layer.kernel, layer.stride, layer.pad, layer.sizes) == ("Pooling", 2, 2, 0, "ceil")
        if layer.bottoms != before or not ((plain and padded) or halves):
            return
        yield layer
        before = (layer.name,)


def _repeats(chain: Sequence[Layer], poolings: Sequence[Layer], pad: int) -> dict[str, Repeat] | None:
    """The repetitions for a first pad, at these poolings; None where a zone is lost or the rows do not come out."""
    found: dict[str, Repeat] = {}
    missing, stride = chain[0].pad - pad, 1
    first, last = 0, pad - chain[0].kernel  # of the zone
    for position, layer in enumerate(chain[1:], start=1):
        if layer.kind == "Convolution":
            first, last = first + layer.pad, last - layer.pad
            continue
        first, last, stride = (first + 2) // 2, (last - 1) // 2, stride * 2
        if layer not in poolings:
            break
        if last < first:
            return None
        rows, left = divmod(missing, stride)
        if left:
            return None
        if layer is not poolings[-1]:
            rows = next((n for n in range(rows + 1) if _survives(chain[position + 1 :], first, last + n)), rows)
            # what is still missing afterwards is put back in rows of the next pooling, twice as high
            rows += (missing // stride - rows) % 2
        found[layer.name] = Repeat(first, rows)
        missing, last = missing - rows * stride, last + rows
    return None if missing else found


def _survives(rest: Sequence[Layer], first: int, last: int) -> bool:
    """Whether something of a zone is left behind the next pooling."""
    for layer in rest:
        if layer.kind == "Pooling":
            return (first + 2) // 2 <= (last - 1) // 2
        first, last = first + layer.pad, last - layer.pad
    return False


def _left_out(chain: Sequence[Layer], repeats: Mapping[str, Repeat], missing: int) -> dict[str, Repeat]:
    """Of every blob before the last repetition, at its own stride."""
    found: dict[str, Repeat] = {}
    stride, row = 1, 0
    for layer in chain:
        if layer.kind == "Convolution":
            row += layer.pad if found else 0
        else:
            row, stride = (row + 2) // 2, stride * 2
        if layer.name in repeats:
            missing -= repeats[layer.name].times * stride
        if not missing:
            return found
        found[layer.name] = Repeat(row, missing // stride)
    return found


def bilinear_kernel(kernel: int) -> np.ndarray:
    """kernel × kernel weights of bilinear upsampling, float64: (1 − |i − c| / f)(1 − |j − c| / f).

    f = ⌈k/2⌉ is the upsampling factor; the centre c is f − 1 for an odd kernel and f − ½ for an
    even one (`upsample_filt`).
    """
    factor = (kernel + 1) // 2
    centre = factor - 1 if kernel % 2 else factor - 0.5
    ramp = 1 - np.abs(np.arange(kernel) - centre) / factor
    return np.outer(ramp, ramp)


def bilinear_deconvolution(channels: int, kernel: int, dtype: str = "float32") -> np.ndarray:
    """Full channels × channels × kernel × kernel deconvolution weights (I×O×kh×kw): the bilinear
    kernel on the diagonal, zero elsewhere.

    This is `surgery.interp`; Caffe's own BilinearFiller would fill the off-diagonal too, which is
    right for grouped layers only.
    """
    weights = np.zeros((channels, channels, kernel, kernel), dtype)
    weights[np.arange(channels), np.arange(channels)] = bilinear_kernel(kernel)
    return weights
