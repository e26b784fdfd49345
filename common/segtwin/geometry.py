"""The algebra of where a pixel goes: output sizes, coordinate maps, crop offsets and bilinear kernels, as Caffe defines them.

Nothing here knows a network or an image size. A layer is whatever has `kind`, `kernel`, `stride` and `pad` (`architectures.Layer`).

Sources, BVLC/caffe at 9b891540183ddc834a02b2bd81b31afae71b2153: `python/caffe/coord_map.py` (coordinate maps and the crop rule),
`src/caffe/layers/{base_conv,pooling,deconv}_layer.cpp` (sizes), `include/caffe/filler.hpp` (BilinearFiller); and `surgery.py` of
shelhamer/fcn.berkeleyvision.org at 1305c7378a9f0ab44b2c936f4d60e4687e3d8743 (`upsample_filt`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple, Protocol

import numpy as np


class LayerLike(Protocol):
    """What the algebra needs to know of a layer."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def bottoms(self) -> tuple[str, ...]: ...
    @property
    def kernel(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def pad(self) -> int: ...
    @property
    def sizes(self) -> str: ...
    @property
    def output_pad(self) -> int: ...


def output_size(layer: LayerLike, size: int) -> int:
    """Pixels along one axis after a convolution, pooling or deconvolution of an axis of `size` pixels.

    Convolutions round down. Poolings round as their `sizes` say: Caffe's up, so the last window may hang over the edge, but it has to start
    inside the image or its leading pad; torch's down. Deconvolutions are the inverse of convolutions. Space goes to the batch in blocks of 2×2.

    Raises:
        ValueError: when nothing is left of the axis.
    """
    if layer.kind == "Convolution":
        out = (size + 2 * layer.pad - layer.kernel) // layer.stride + 1
    elif layer.kind == "Pooling":
        if layer.sizes == "same":
            return -(size // -layer.stride)
        if layer.sizes == "floor":
            out = (size + 2 * layer.pad - layer.kernel) // layer.stride + 1
        else:
            out = -((size + 2 * layer.pad - layer.kernel) // -layer.stride) + 1
        if layer.sizes == "ceil" and layer.pad and (out - 1) * layer.stride >= size + layer.pad:
            out -= 1
    elif layer.kind == "Deconvolution":
        out = (size - 1) * layer.stride + layer.kernel - 2 * layer.pad + layer.output_pad
    elif layer.kind == "SpaceToBatch":
        out = size // 2
    elif layer.kind == "BatchToSpace":
        out = size * 2
    else:
        out = size
    if out < 1:
        raise ValueError(f"{layer.name}: an axis of {size} pixels is too small for kernel {layer.kernel}, stride {layer.stride}, pad {layer.pad}")
    return out


class CoordinateMap(NamedTuple):
    """y ↦ scale · y + shift, from the pixels of a layer's bottom to those of its top, in pixel centres."""

    scale: Fraction = Fraction(1)
    shift: Fraction = Fraction(0)

    def after(self, earlier: CoordinateMap) -> CoordinateMap:
        """The map of `earlier`, then this one: s₁(s₂y + b₂) + b₁ (Caffe's `compose(base_map, next_map)`)."""
        return CoordinateMap(self.scale * earlier.scale, self.scale * earlier.shift + self.shift)

    def inverse(self) -> CoordinateMap:
        """From the top back to the bottom."""
        return CoordinateMap(1 / self.scale, -self.shift / self.scale)


def coordinate_map(layer: LayerLike) -> CoordinateMap:
    """The (scale, shift) of one layer: a convolution or pooling looks through its window, a deconvolution is the inverse of that.

    A convolution's output y is centred on the input pixel s·y − p + (k − 1)/2; solve for y. Layers that keep the grid map onto themselves.
    The map of a Crop depends on its offset, which `crop_offsets` finds.
    """
    look = CoordinateMap(Fraction(1, layer.stride), (layer.pad - Fraction(layer.kernel - 1, 2)) / layer.stride)
    if layer.kind in ("Convolution", "Pooling"):
        return look
    if layer.kind == "Deconvolution":
        return CoordinateMap(Fraction(layer.stride), Fraction(layer.kernel - 1, 2) - layer.pad)
    return CoordinateMap()


def maps_to_ancestors(layers: Mapping[str, LayerLike], blob: str, offsets: Mapping[str, int]) -> dict[str, CoordinateMap]:
    """Blob name → the map from that blob's pixels to the pixels of `blob`, for `blob` itself and everything it is computed from.

    `offsets` holds the offsets of the Crop layers among them. A Crop keeps the grid of its first bottom only; the second lends its size.
    """
    maps = {blob: CoordinateMap()}
    pending = [blob]
    while pending:
        top = pending.pop()
        layer = layers.get(top)
        if layer is None:  # the network's input
            continue
        step = coordinate_map(layer)
        bottoms = layer.bottoms
        if layer.kind == "Crop":
            step, bottoms = CoordinateMap(shift=Fraction(-offsets[top])), bottoms[:1]
        for bottom in bottoms:
            if bottom not in maps:
                maps[bottom] = maps[top].after(step)
                pending.append(bottom)
    return maps


def crop_offset(layers: Mapping[str, LayerLike], blob: str, like: str, offsets: Mapping[str, int]) -> int:
    """First row and column of `blob` that lies on row and column 0 of `like`.

    Both are followed back to the nearest blob that they share; the map from `blob` to `like` has to keep the scale and shift by a whole
    number of pixels, and `like` has to begin inside `blob`.

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


def crop_offsets(layers: Sequence[LayerLike]) -> dict[str, int]:
    """The offset of every Crop layer of a network, in the order of its layers: a later crop may look through an earlier one."""
    by_name = {layer.name: layer for layer in layers}
    offsets: dict[str, int] = {}
    for layer in layers:
        if layer.kind == "Crop":
            blob, like = layer.bottoms
            offsets[layer.name] = crop_offset(by_name, blob, like, offsets)
    return offsets


def bilinear_kernel(kernel: int) -> np.ndarray:
    """kernel × kernel weights of bilinear upsampling, float64: (1 − |i − c| / f)(1 − |j − c| / f).

    f = ⌈k/2⌉ is the upsampling factor; the centre c is f − 1 for an odd kernel and f − ½ for an even one (`upsample_filt`).
    """
    factor = (kernel + 1) // 2
    centre = factor - 1 if kernel % 2 else factor - 0.5
    ramp = 1 - np.abs(np.arange(kernel) - centre) / factor
    return np.outer(ramp, ramp)


def bilinear_deconvolution(channels: int, kernel: int, dtype: str = "float32") -> np.ndarray:
    """Full channels × channels × kernel × kernel deconvolution weights (I×O×kh×kw): the bilinear kernel on the diagonal, zero elsewhere.

    This is `surgery.interp`; Caffe's own BilinearFiller would fill the off-diagonal too, which is right for grouped layers only.
    """
    weights = np.zeros((channels, channels, kernel, kernel), dtype)
    weights[np.arange(channels), np.arange(channels)] = bilinear_kernel(kernel)
    return weights
