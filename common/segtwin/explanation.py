"""What an architecture does to an image of some size, layer by layer: sizes, receptive fields,
coordinate maps, crops with their derivation, cost.

All of it is algebra on the row (`geometry`), exact and without a network. Receptive fields are
those of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks"
(Distill, 2019), carried on through deconvolutions, where they depend on the phase of the pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from segtwin import geometry
from segtwin.architectures import Architecture, Layer, get_architecture
from segtwin.errors import ArchitectureError
from segtwin.layer_kinds import KINDS, Axis, CoordinateMap, Interval, coordinate_map

ROWS_AND_COLUMNS = (0, 1)


@dataclass(frozen=True)
class Explained:
    """One blob of a network, for one size of the image."""

    name: str
    kind: str
    shape: tuple[int, int, int]
    """Channels, rows, columns."""
    field: tuple[int, int]
    """Rows and columns of the image (and of the zeros around it) that one pixel sees; the most,
    where it depends on the pixel."""
    maps: tuple[CoordinateMap, CoordinateMap]
    """From the image's pixels to this blob's, of rows and of columns."""
    window: tuple[int, int, int] | None
    """Kernel, stride and pad; None for a layer without a window."""
    offset: tuple[int, int] | None
    """First row and column that a crop keeps."""
    derivation: str
    """Where the offset comes from."""
    parameters: int
    flops: int
    """Floating point operations: two a product, of convolutions, deconvolutions (dense) and inner
    products; what else there is, is not counted."""


def explain(
    architecture: str | Architecture,
    height: int,
    width: int,
    num_classes: int | None = None,
    in_channels: int | None = None,
) -> list[Explained]:
    """Every blob of a network after its input, in order, for an image of height × width.

    Args:
        architecture: a network.
        height: rows of the image.
        width: its columns.
        num_classes: classes of the scores; by default the architecture's own.
        in_channels: channels of the image; by default the architecture's own.

    Raises:
        ValueError: there is no such architecture; it has no table of layers; it cannot take the
            size.
    """
    architecture = get_architecture(architecture)
    if not architecture.layers:
        raise ValueError(
            f"{architecture.name} is described by its state_dict, not by a table of layers; only networks with one can "
            "be explained"
        )
    if in_channels not in (None, architecture.in_channels) and not architecture.any_channels:
        raise ValueError(
            f"{architecture.name} with {in_channels} channels: its original takes {architecture.in_channels}"
        )
    if min(height, width) < 1:
        raise ValueError(f"a size is at least 1 × 1, not {height} × {width}")
    shapes = architecture.shapes(height, width, num_classes, every_layer=True)
    if in_channels is not None:
        channels = architecture.channels(num_classes, None, in_channels)
        shapes = {name: (channels[name], *shape[1:]) for name, shape in shapes.items()}
    offsets = crops(architecture, shapes)
    maps = coordinate_maps(architecture, shapes, offsets)
    explained: list[Explained] = []
    counted: set[str] = set()
    for layer in architecture.layers:
        if layer.idle:
            continue
        fields = [
            max(
                size_of(sees(architecture, layer.name, (y, y), axis, shapes, offsets)[architecture.input])
                for y in range(64)
            )
            for axis in ROWS_AND_COLUMNS
        ]
        inputs, outputs = shapes[layer.bottoms[0]], shapes[layer.name]
        kind = KINDS[layer.kind]
        weight_shape = kind.weight_shape(layer, inputs[0], outputs[0])
        weight = 0 if weight_shape is None else math.prod(weight_shape)
        bias = outputs[0] if layer.bias and weight else 0  # running statistics are counted with no layer
        held = architecture.parameter_name(layer, "weight")
        own = 0 if held in counted else weight + bias  # weights that layers share are counted with the first
        counted.add(held)
        explained.append(
            Explained(
                name=layer.name,
                kind=layer.kind,
                shape=outputs,
                field=(fields[0], fields[1]),
                maps=maps[layer.name],
                window=(layer.kernel, layer.stride, layer.pad) if kind.windowed else None,
                offset=offsets.get(layer.name),
                derivation=derivation(architecture, layer, shapes, offsets),
                parameters=own,
                flops=kind.flops(weight, math.prod(inputs[1:]), math.prod(outputs[1:])),
            )
        )
    return explained


Offsets = Mapping[str, tuple[int, int]]
Shapes = Mapping[str, tuple[int, int, int]]


def crops(architecture: Architecture, shapes: Shapes) -> dict[str, tuple[int, int]]:
    """First row and column that each cropping layer keeps: derived from coordinate maps in Caffe,
    from the sizes in TensorFlow."""
    offsets = {name: (offset, offset) for name, offset in architecture.offsets.items()}
    for layer in architecture.layers:
        found = [KINDS[layer.kind].offset(layer, axis_of(layer, axis, shapes, offsets)) for axis in ROWS_AND_COLUMNS]
        if found[0] is not None and found[1] is not None:
            offsets[layer.name] = found[0], found[1]
    return offsets


def coordinate_maps(
    architecture: Architecture, shapes: Shapes, offsets: Offsets
) -> dict[str, tuple[CoordinateMap, CoordinateMap]]:
    """Blob → the maps from the image's rows and columns to its own, by the first bottom of every
    layer."""
    maps = {architecture.input: (CoordinateMap(), CoordinateMap())}
    for layer in architecture.layers:
        bottom = layer.bottoms[0]
        steps = [coordinate_map(layer, axis_of(layer, axis, shapes, offsets)) for axis in ROWS_AND_COLUMNS]
        maps[layer.name] = (steps[0].after(maps[bottom][0]), steps[1].after(maps[bottom][1]))
    return maps


def axis_of(layer: Layer, axis: int, shapes: Shapes, offsets: Offsets) -> Axis:
    """Sizes and offset of one layer along one axis."""
    return Axis(shapes[layer.bottoms[0]][1 + axis], shapes[layer.name][1 + axis], offsets.get(layer.name, (0, 0))[axis])


def sees(
    architecture: Architecture, blob: str, pixels: Interval, axis: int, shapes: Shapes, offsets: Offsets
) -> dict[str, Interval]:
    """Blob → the first and last pixel of it, along one axis, that go into these pixels of `blob`;
    pixels beyond its edges are padding.

    `blob` itself is among them, and so is the image.
    """
    seen = {blob: pixels}
    for layer in reversed(architecture.layers):
        if layer.name not in seen:
            continue
        first, last = KINDS[layer.kind].window(layer, seen[layer.name], axis_of(layer, axis, shapes, offsets))
        for bottom in layer.sources:
            before = seen.get(bottom, (first, last))
            seen[bottom] = (min(first, before[0]), max(last, before[1]))
    return seen


@dataclass(frozen=True)
class Sight:
    """What one pixel of the output sees of the image."""

    branch: str
    """By way of which pooling; the output's own name where a network has no such branches."""
    pixel: tuple[int, int]
    """Architecture and column in the output."""
    centre: tuple[Fraction, Fraction]
    """Where that pixel lies in the image."""
    box: tuple[Interval, Interval]
    """First and last row, first and last column, in the image's coordinates: within the image and
    the padding of the first convolution. What layers further on see beyond that is their own
    padding, and no place of the image."""


def sights(architecture: Architecture, height: int, width: int) -> list[Sight]:
    """What the first and the middle pixel of the output see, through each of `branches`."""
    shapes = architecture.shapes(height, width, every_layer=True)
    offsets = crops(architecture, shapes)
    onto_image = [mapping.inverse() for mapping in coordinate_maps(architecture, shapes, offsets)[architecture.output]]
    pad = next(layer.pad for layer in architecture.layers if layer.kind == "Convolution")
    rows, columns = shapes[architecture.output][1:]
    found = []
    for branch in branches(architecture):
        for pixel in ((0, 0), (rows // 2, columns // 2)):
            box = [
                (max(first, -pad), min(last, size - 1 + pad))
                for size, (first, last) in zip(
                    (height, width),
                    (through(architecture, branch, place, axis, shapes, offsets) for axis, place in enumerate(pixel)),
                    strict=True,
                )
            ]
            centre = [back.scale * place + back.shift for back, place in zip(onto_image, pixel, strict=True)]
            found.append(Sight(branch, pixel, (centre[0], centre[1]), (box[0], box[1])))
    return found


def branches(architecture: Architecture) -> list[str]:
    """The poolings that the output is computed from by another way than the next convolution, and
    the deepest: where an FCN's branches part.

    Other networks have too many, or one: then it is the output itself.
    """
    parted = parting(architecture)
    return [name for name in ("pool3", "pool4", "pool5") if name in parted] or [architecture.output]


def parting(architecture: Architecture) -> set[str]:
    """The poolings whose blob goes two ways, and the deepest."""
    users: dict[str, int] = {}
    for layer in architecture.layers:
        for bottom in layer.sources:
            users[bottom] = users.get(bottom, 0) + 1
    parted = {name for name, count in users.items() if name.startswith("pool") and count > 1}
    return parted | {"pool5"} if "pool5" in users else set()


def through(
    architecture: Architecture, branch: str, pixel: int, axis: int, shapes: Shapes, offsets: Offsets
) -> Interval:
    """First and last row (or column) of the image that one pixel of the output sees by way of a
    pooling."""
    seen = sees(architecture, architecture.output, (pixel, pixel), axis, shapes, offsets)
    if branch == architecture.output:
        return seen[architecture.input]
    deeper = [name for name in ("pool3", "pool4", "pool5") if name > branch]
    if deeper and branch in parting(architecture):  # what the branch itself is asked for, without what goes on below it
        heads = [
            layer
            for layer in architecture.layers
            if layer.bottoms[0] == branch and not layer.name.startswith(("conv", "vgg16"))
        ]
        asked = [
            KINDS[layer.kind].window(layer, seen[layer.name], axis_of(layer, axis, shapes, offsets)) for layer in heads
        ]
        pixels = min(first for first, _ in asked), max(last for _, last in asked)
    else:
        pixels = seen[branch]
    return sees(architecture, branch, pixels, axis, shapes, offsets)[architecture.input]


def size_of(pixels: Interval) -> int:
    """How many there are."""
    return pixels[1] - pixels[0] + 1


def derivation(architecture: Architecture, layer: Layer, shapes: Shapes, offsets: Offsets) -> str:
    """Why a crop begins where it does, as a line of algebra; "" for other layers."""
    if layer.kind == "Crop":
        layers = {one.name: one for one in architecture.layers}
        blob, like = layer.bottoms
        here, there = (geometry.maps_to_ancestors(layers, name, architecture.offsets) for name in (blob, like))
        common = next(name for name in here if name in there)
        onto = here[common].after(there[common].inverse())
        return (
            f"{blob} onto {like}, both from {common}: {blob} = {formula(here[common], common)}, {like} = "
            f"{formula(there[common], common)}; "
            f"so {blob} = {formula(onto, like)}"
        )
    if layer.kind == "DeconvolutionSame":
        parts = [
            f"⌊(({n} − 1)·{layer.stride} + {layer.kernel} − {out})/2⌋ = {offset} {what}"
            for n, out, offset, what in zip(
                shapes[layer.bottoms[0]][1:],
                shapes[layer.name][1:],
                offsets[layer.name],
                ("rows", "columns"),
                strict=True,
            )
        ]
        return f"SAME, {layer.bottoms[0]} to the size of {layer.bottoms[1]}: {', '.join(parts)}"
    return ""


@dataclass(frozen=True)
class Step:
    """One layer on the way from a blob to another, along one axis."""

    layer: str
    arithmetic: str
    """Its map with the numbers of the layer: "(x + 100 − (3 − 1)/2) / 1"."""
    own: CoordinateMap
    total: CoordinateMap
    """From the first blob of the way to this layer's top."""


def steps(architecture: Architecture, start: str, end: str) -> list[Step]:
    """The layers from blob `start` to blob `end`, each with its coordinate map and the product so far.

    Offsets are those of Caffe's crops, which depend on no size. Of several ways the first bottoms' is taken.

    Raises:
        ArchitectureError: `end` is not computed from `start`.
    """
    layers = {layer.name: layer for layer in architecture.layers}
    way = way_between(layers, start, end)
    if way is None:
        raise ArchitectureError(f"{architecture.name}: {end} is not computed from {start}")
    total, found = CoordinateMap(), []
    for layer in way:
        axis = Axis(offset=architecture.offsets.get(layer.name, 0))
        own = coordinate_map(layer, axis)
        total = own.after(total)
        found.append(Step(layer.name, KINDS[layer.kind].arithmetic(layer, axis), own, total))
    return found


def way_between(layers: Mapping[str, Layer], start: str, end: str) -> list[Layer] | None:
    """The layers from `start` (without its own) to `end`; None where there is no way."""
    if end == start:
        return []
    for source in layers[end].sources if end in layers else ():
        before = way_between(layers, start, source)
        if before is not None:
            return [*before, layers[end]]
    return None


def alignments(architecture: Architecture) -> dict[str, tuple[str, str, str]]:
    """Crop layer → (the blob that is cut, the blob that it is aligned with, the nearest blob that both come from)."""
    layers = {layer.name: layer for layer in architecture.layers}
    found = {}
    for layer in architecture.layers:
        if layer.kind == "Crop":
            blob, like = layer.bottoms
            here, there = (geometry.maps_to_ancestors(layers, name, architecture.offsets) for name in (blob, like))
            found[layer.name] = blob, like, next(name for name in here if name in there)
    return found


def with_pad(architecture: Architecture, pad: int) -> Architecture:
    """The same network with another padding of its first convolution, to see what its crops make of it."""
    first = next(layer for layer in architecture.layers if layer.kind == "Convolution")
    layers = tuple(replace(layer, pad=pad) if layer is first else layer for layer in architecture.layers)
    return replace(architecture, layers=layers)


def formula(mapping: CoordinateMap, variable: str) -> str:
    """ "x/2 + 1/4" of a map, x being the variable."""
    scale, shift = mapping
    factor = "" if scale == 1 else f"{scale.numerator}·" if scale.numerator != 1 else ""
    divisor = "" if scale.denominator == 1 else f"/{scale.denominator}"
    tail = "" if not shift else f" {'+' if shift > 0 else '−'} {abs(shift)}"
    return f"{factor}{variable}{divisor}{tail}"
