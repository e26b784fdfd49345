"""Where a pixel goes through several layers: crop offsets, and the bilinear kernels that upsampling
needs.

The map of a single layer is in `layer_kinds`. Nothing here knows a network or an image size.

Sources: `python/caffe/coord_map.py` (the crop rule) and `include/caffe/filler.hpp` (BilinearFiller)
of BVLC/caffe at 9b891540183ddc834a02b2bd81b31afae71b2153; `surgery.py` (`upsample_filt`, `interp`)
of shelhamer/fcn.berkeleyvision.org at 1305c7378a9f0ab44b2c936f4d60e4687e3d8743.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

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
