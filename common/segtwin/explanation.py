"""What a row does to an image of some size, layer by layer: sizes, receptive fields, coordinate maps, crops with their derivation, cost.

All of it is algebra on the row (`geometry`), exact and without a network. Receptive fields are those of Araujo, Norris and Sim, "Computing
Receptive Fields of Convolutional Neural Networks" (Distill, 2019), carried on through deconvolutions, where they depend on the phase of the pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from segtwin import architectures, geometry
from segtwin.architectures import Layer, Row
from segtwin.geometry import CoordinateMap

ROWS_AND_COLUMNS = (0, 1)


@dataclass(frozen=True)
class Explained:
    """One blob of a network, for one size of the image."""

    name: str
    kind: str
    shape: tuple[int, int, int]
    """Channels, rows, columns."""
    field: tuple[int, int]
    """Rows and columns of the image (and of the zeros around it) that one pixel sees; the most, where it depends on the pixel."""
    maps: tuple[CoordinateMap, CoordinateMap]
    """From the image's pixels to this blob's, of rows and of columns."""
    offset: tuple[int, int] | None
    """First row and column that a crop keeps."""
    derivation: str
    """Where the offset comes from."""
    parameters: int
    flops: int
    """Floating point operations: two a product, of convolutions, deconvolutions (dense) and inner products; what else there is, is not counted."""


def explain(row: str | Row, height: int, width: int, num_classes: int | None = None, in_channels: int | None = None) -> list[Explained]:
    """Every blob of a row after its input, in order, for an image of height × width.

    Args:
        row: a network.
        height: rows of the image.
        width: its columns.
        num_classes: classes of the scores; by default the row's own.
        in_channels: channels of the image; by default the row's own.

    Raises:
        ValueError: there is no such row; it has no table of layers; it cannot take the size.
    """
    row = architectures.get(row)
    if not row.layers:
        raise ValueError(f"{row.name} is described by its state_dict, not by a table of layers; only rows with one can be explained")
    if in_channels not in (None, row.in_channels) and not row.any_channels:
        raise ValueError(f"{row.name} with {in_channels} channels: its original takes {row.in_channels}")
    if min(height, width) < 1:
        raise ValueError(f"a size is at least 1 × 1, not {height} × {width}")
    shapes = row.shapes(height, width, num_classes, every_layer=True)
    if in_channels is not None:
        channels = row.channels(num_classes, None, in_channels)
        shapes = {name: (channels[name], *shape[1:]) for name, shape in shapes.items()}
    offsets = crops(row, shapes)
    maps = coordinate_maps(row, shapes, offsets)
    explained = []
    for layer in row.layers:
        fields = [max(size_of(sees(row, layer.name, (y, y), axis, shapes, offsets)[row.input]) for y in range(64)) for axis in ROWS_AND_COLUMNS]
        inputs, outputs = shapes[layer.bottoms[0]], shapes[layer.name]
        parameters = weights_of(row, layer, inputs[0], outputs[0])
        positions = inputs[1:] if layer.kind.startswith("Deconvolution") else outputs[1:]
        weight = parameters - (outputs[0] if layer.bias and parameters else 0)
        counted = layer.kind in ("Convolution", "Deconvolution", "DeconvolutionSame", "InnerProduct")
        explained.append(
            Explained(
                name=layer.name,
                kind=layer.kind,
                shape=outputs,
                field=(fields[0], fields[1]),
                maps=maps[layer.name],
                offset=offsets.get(layer.name),
                derivation=derivation(row, layer, shapes, offsets),
                parameters=parameters,
                flops=2 * weight * math.prod(positions) if counted else 0,
            )
        )
    return explained


Offsets = Mapping[str, tuple[int, int]]
Shapes = Mapping[str, tuple[int, int, int]]
Interval = tuple[int, int]


def weights_of(row: Row, layer: Layer, inputs: int, outputs: int) -> int:
    """How many numbers a layer holds."""
    window = layer.kernel**2
    if layer.kind == "InnerProduct":
        window = architectures.CLASSIFIER_PIXELS if layer.bottoms[0] == "pool5" else 1
    elif layer.kind == "Scale":
        return inputs
    elif layer.kind == "BatchNorm":
        return 2 * inputs  # weight and bias; the running statistics are counted with no layer
    elif layer.kind not in ("Convolution", "Deconvolution", "DeconvolutionSame"):
        return 0
    return inputs * outputs * window + (outputs if layer.bias else 0)


def crops(row: Row, shapes: Shapes) -> dict[str, tuple[int, int]]:
    """First row and column that each cropping layer keeps: derived from coordinate maps in Caffe, from the sizes in TensorFlow."""
    offsets = {name: (offset, offset) for name, offset in row.offsets.items()}
    for layer in row.layers:
        if layer.kind == "DeconvolutionSame":
            whole = [(size - 1) * layer.stride + layer.kernel for size in shapes[layer.bottoms[0]][1:]]
            offsets[layer.name] = ((whole[0] - shapes[layer.name][1]) // 2, (whole[1] - shapes[layer.name][2]) // 2)
    return offsets


def coordinate_maps(row: Row, shapes: Shapes, offsets: Offsets) -> dict[str, tuple[CoordinateMap, CoordinateMap]]:
    """Blob → the maps from the image's rows and columns to its own, by the first bottom of every layer."""
    maps = {row.input: (CoordinateMap(), CoordinateMap())}
    for layer in row.layers:
        bottom = layer.bottoms[0]
        steps = [step(layer, axis, shapes, offsets) for axis in ROWS_AND_COLUMNS]
        maps[layer.name] = (steps[0].after(maps[bottom][0]), steps[1].after(maps[bottom][1]))
    return maps


def step(layer: Layer, axis: int, shapes: Shapes, offsets: Offsets) -> CoordinateMap:
    """The map of one layer, from its first bottom to its top, along one axis."""
    if layer.kind == "Crop":
        return CoordinateMap(shift=Fraction(-offsets[layer.name][axis]))
    if layer.kind == "DeconvolutionSame":
        return CoordinateMap(Fraction(layer.stride), Fraction(layer.kernel - 1, 2) - offsets[layer.name][axis])
    if layer.kind == "Resize":
        have, want = shapes[layer.bottoms[0]][1 + axis], shapes[layer.name][1 + axis]
        return CoordinateMap(Fraction(want - 1, have - 1)) if have > 1 and want > 1 else CoordinateMap()
    if layer.kind in ("SpaceToBatch", "BatchToSpace"):
        return CoordinateMap(Fraction(1, 2) if layer.kind == "SpaceToBatch" else Fraction(2))
    return geometry.coordinate_map(layer)


def sees(row: Row, blob: str, pixels: Interval, axis: int, shapes: Shapes, offsets: Offsets) -> dict[str, Interval]:
    """Blob → the first and last pixel of it, along one axis, that go into these pixels of `blob`; pixels beyond its edges are padding.

    `blob` itself is among them, and so is the image.
    """
    seen = {blob: pixels}
    for layer in reversed(row.layers):
        if layer.name not in seen:
            continue
        first, last = look(layer, seen[layer.name], axis, shapes, offsets)
        for bottom in layer.bottoms[:1] if layer.kind in architectures.LIKE else layer.bottoms:
            before = seen.get(bottom, (first, last))
            seen[bottom] = (min(first, before[0]), max(last, before[1]))
    return seen


def look(layer: Layer, pixels: Interval, axis: int, shapes: Shapes, offsets: Offsets) -> Interval:
    """The first and last pixel of a layer's bottom that go into these of its top."""
    first, last = pixels
    if layer.kind in ("Convolution", "Pooling"):
        return first * layer.stride - layer.pad, last * layer.stride - layer.pad + layer.kernel - 1
    if layer.kind in ("Deconvolution", "DeconvolutionSame"):
        shift = offsets[layer.name][axis] if layer.kind == "DeconvolutionSame" else layer.pad
        return -((first + shift - layer.kernel + 1) // -layer.stride), (last + shift) // layer.stride
    if layer.kind == "Crop":
        offset = offsets[layer.name][axis]
        return first + offset, last + offset
    if layer.kind == "Resize":
        have, want = shapes[layer.bottoms[0]][1 + axis], shapes[layer.name][1 + axis]
        scale = Fraction(have - 1, want - 1) if want > 1 else Fraction(0)
        return math.floor(first * scale), math.ceil(last * scale)
    if layer.kind == "SpaceToBatch":
        return first * 2, last * 2 + 1
    if layer.kind == "BatchToSpace":
        return first // 2, last // 2
    if layer.kind == "InnerProduct":
        return 0, shapes[layer.bottoms[0]][1 + axis] - 1
    return pixels


@dataclass(frozen=True)
class Sight:
    """What one pixel of the output sees of the image."""

    branch: str
    """By way of which pooling; the output's own name where a network has no such branches."""
    pixel: tuple[int, int]
    """Row and column in the output."""
    centre: tuple[Fraction, Fraction]
    """Where that pixel lies in the image."""
    box: tuple[Interval, Interval]
    """First and last row, first and last column, in the image's coordinates: within the image and the padding of the first convolution.
    What layers further on see beyond that is their own padding, and no place of the image."""


def sights(row: Row, height: int, width: int) -> list[Sight]:
    """What the first and the middle pixel of the output see, through each of `branches`."""
    shapes = row.shapes(height, width, every_layer=True)
    offsets = crops(row, shapes)
    onto_image = [mapping.inverse() for mapping in coordinate_maps(row, shapes, offsets)[row.output]]
    pad = next(layer.pad for layer in row.layers if layer.kind == "Convolution")
    rows, columns = shapes[row.output][1:]
    found = []
    for branch in branches(row):
        for pixel in ((0, 0), (rows // 2, columns // 2)):
            box = [
                (max(first, -pad), min(last, size - 1 + pad))
                for size, (first, last) in zip(
                    (height, width), (through(row, branch, place, axis, shapes, offsets) for axis, place in enumerate(pixel)), strict=True
                )
            ]
            centre = [back.scale * place + back.shift for back, place in zip(onto_image, pixel, strict=True)]
            found.append(Sight(branch, pixel, (centre[0], centre[1]), (box[0], box[1])))
    return found


def branches(row: Row) -> list[str]:
    """The poolings that the output is computed from by another way than the next convolution, and the deepest: where an FCN's branches part.

    Other networks have too many, or one: then it is the output itself.
    """
    parted = parting(row)
    return [name for name in ("pool3", "pool4", "pool5") if name in parted] or [row.output]


def parting(row: Row) -> set[str]:
    """The poolings whose blob goes two ways, and the deepest."""
    users: dict[str, int] = {}
    for layer in row.layers:
        for bottom in layer.bottoms[:1] if layer.kind in architectures.LIKE else layer.bottoms:
            users[bottom] = users.get(bottom, 0) + 1
    parted = {name for name, count in users.items() if name.startswith("pool") and count > 1}
    return parted | {"pool5"} if "pool5" in users else set()


def through(row: Row, branch: str, pixel: int, axis: int, shapes: Shapes, offsets: Offsets) -> Interval:
    """First and last row (or column) of the image that one pixel of the output sees by way of a pooling."""
    seen = sees(row, row.output, (pixel, pixel), axis, shapes, offsets)
    if branch == row.output:
        return seen[row.input]
    deeper = [name for name in ("pool3", "pool4", "pool5") if name > branch]
    if deeper and branch in parting(row):  # what the branch itself is asked for, without what goes on below it
        heads = [layer for layer in row.layers if layer.bottoms[0] == branch and not layer.name.startswith(("conv", "vgg16"))]
        asked = [look(layer, seen[layer.name], axis, shapes, offsets) for layer in heads]
        pixels = min(first for first, _ in asked), max(last for _, last in asked)
    else:
        pixels = seen[branch]
    return sees(row, branch, pixels, axis, shapes, offsets)[row.input]


def size_of(pixels: Interval) -> int:
    """How many there are."""
    return pixels[1] - pixels[0] + 1


def derivation(row: Row, layer: Layer, shapes: Shapes, offsets: Offsets) -> str:
    """Why a crop begins where it does, as a line of algebra; "" for other layers."""
    if layer.kind == "Crop":
        layers = {one.name: one for one in row.layers}
        blob, like = layer.bottoms
        here, there = (geometry.maps_to_ancestors(layers, name, row.offsets) for name in (blob, like))
        common = next(name for name in here if name in there)
        onto = here[common].after(there[common].inverse())
        return (
            f"{blob} onto {like}, both from {common}: {blob} = {formula(here[common], common)}, {like} = {formula(there[common], common)}; "
            f"so {blob} = {formula(onto, like)}"
        )
    if layer.kind == "DeconvolutionSame":
        parts = [
            f"⌊(({n} − 1)·{layer.stride} + {layer.kernel} − {out})/2⌋ = {offset} {what}"
            for n, out, offset, what in zip(
                shapes[layer.bottoms[0]][1:], shapes[layer.name][1:], offsets[layer.name], ("rows", "columns"), strict=True
            )
        ]
        return f"SAME, {layer.bottoms[0]} to the size of {layer.bottoms[1]}: {', '.join(parts)}"
    return ""


def formula(mapping: CoordinateMap, variable: str) -> str:
    """ "x/2 + 1/4" of a map, x being the variable."""
    scale, shift = mapping
    factor = "" if scale == 1 else f"{scale.numerator}·" if scale.numerator != 1 else ""
    divisor = "" if scale.denominator == 1 else f"/{scale.denominator}"
    tail = "" if not shift else f" {'+' if shift > 0 else '−'} {abs(shift)}"
    return f"{factor}{variable}{divisor}{tail}"
