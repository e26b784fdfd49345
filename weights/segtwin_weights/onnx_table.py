"""An ONNX graph from the table of layers: no framework has a part in it, and it is made in a second.

It is what `--engine onnxruntime` and `--engine openvino` run weights in. `segtwin export` goes through the frameworks:
there the file is to show what the model computes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from segtwin.architectures import Architecture, Layer
from segtwin.architectures.schema import BATCHNORM_EPS
from segtwin.architectures.vgg16 import VGG_MEAN

from segtwin_weights import onnx_dead_zones, onnx_file
from segtwin_weights.from_table import KINDS, single
from segtwin_weights.hub import Weights
from segtwin_weights.surgery import dimensions

OPSET = 18


def write(weights: Weights, architecture: Architecture, path: str | os.PathLike[str], most: int | None = None) -> None:
    """Write weights as the ONNX file of their network, in float32, as a model is built in.

    Args:
        weights: hub name → array.
        architecture: the network that they are for.
        path: the .onnx file; weights above 100 MB go to `path` + ".data".
        most: bytes of the largest kernels: a convolution with larger ones is computed in parts, some of its outputs
            in each. Whoever moves the weights about needs less memory for that, and the sums stay the same ones.

    Raises:
        WeightsError: the network has a layer that is not written, or a weight is no number of float32.
        OSError: a file cannot be written.
    """
    graph = skeleton(weights, architecture)
    metadata = dict(weights.metadata) | {"num_classes": dimensions(weights, architecture).num_classes}
    if left_out := onnx_dead_zones.leave_out(graph, architecture):
        metadata[onnx_dead_zones.KEY] = left_out
    names = [slot.name for slot in graph.graph.input[1:]]
    parts = {} if most is None else in_parts(graph.graph, most)
    arrays = (
        (part, array[outputs])
        for name in names
        for array in [single(weights[name], name)]
        for part, outputs in parts.get(name, {name: slice(None)}).items()
    )
    onnx_file.write(graph, arrays, path, architecture, metadata)


def writable(architecture: Architecture) -> bool:
    """Whether every layer that the output is computed from is written here."""
    return all(layer.kind in WRITERS for layer in architecture.used)


def skeleton(weights: Weights, architecture: Architecture) -> onnx.ModelProto:
    """The graph: its inputs are the data and every weight under its hub name, its values the blobs."""
    size = dimensions(weights, architecture)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    slots: list[onnx.ValueInfoProto] = []
    for layer in architecture.used:
        names = [architecture.parameter_name(layer, kind) for kind in KINDS]
        own = [name for name in names if name in weights]
        slots += [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, weights[name].shape)
            for name in own
            if name not in (slot.name for slot in slots)  # layers may share theirs
        ]
        made = Made(layer, own, architecture.offsets.get(layer.name, 0))
        for one in WRITERS[layer.kind](made):
            (constants if isinstance(one, onnx.TensorProto) else nodes).append(one)
        if layer.relu:
            nodes.append(helper.make_node("Relu", [made.top], [layer.name]))
    data = helper.make_tensor_value_info(architecture.input, TensorProto.FLOAT, [None, size.in_channels, None, None])
    output = helper.make_tensor_value_info(architecture.output, TensorProto.FLOAT, [None, size.num_classes, None, None])
    graph = helper.make_graph(nodes, architecture.name, [data, *slots], [output], constants)
    # the version of the file's own format that came with this opset
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def in_parts(graph: onnx.GraphProto, most: int) -> dict[str, dict[str, slice]]:
    """Replace each convolution whose kernels are larger than `most` bytes by several and a Concat.

    Returns:
        Weight → its parts: their names, and which outputs they hold.
    """
    shapes = {slot.name: [dim.dim_value for dim in slot.type.tensor_type.shape.dim] for slot in graph.input[1:]}
    found: dict[str, dict[str, slice]] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        size = FLOAT32 * math.prod(shapes[node.input[1]]) if node.op_type == "Conv" else 0
        outputs = shapes[node.input[1]][0] if size else 0
        step = max(BLOCK, most * outputs // max(size, 1) // BLOCK * BLOCK)
        if size <= most or outputs <= step:
            nodes.append(node)
            continue
        pieces = [slice(first, min(first + step, outputs)) for first in range(0, outputs, step)]
        for name in node.input[1:]:
            found[name] = {f"{name} {number}": piece for number, piece in enumerate(pieces)}
        (top,) = node.output
        for number in range(len(pieces)):
            nodes.append(onnx.NodeProto())
            nodes[-1].CopyFrom(node)
            nodes[-1].input[1:] = [f"{name} {number}" for name in node.input[1:]]
            nodes[-1].output[:] = [f"{top} {number}"]
        nodes.append(helper.make_node("Concat", [f"{top} {number}" for number in range(len(pieces))], [top], axis=1))
    slots = [
        helper.make_tensor_value_info(
            part, TensorProto.FLOAT, [len(range(*piece.indices(shapes[name][0]))), *shapes[name][1:]]
        )
        for name in shapes
        for part, piece in found.get(name, {name: slice(None)}).items()
    ]
    del graph.node[:], graph.input[1:]
    graph.node.extend(nodes)
    graph.input.extend(slots)
    return found


BLOCK = 64
"""Outputs of a part are a multiple of it, as kernels take them."""
FLOAT32 = 4


@dataclass
class Made:
    """What a layer is written from."""

    layer: Layer
    weights: list[str]
    offset: int
    """Of a crop."""

    @property
    def top(self) -> str:
        """Name of the layer's value before its ReLU."""
        return f"{self.layer.name} linear" if self.layer.relu else self.layer.name

    def node(self, kind: str, *more: str, **attributes: Any) -> onnx.NodeProto:
        """One operation of the first bottom and others that gives the top."""
        return helper.make_node(kind, [self.layer.bottoms[0], *more], [self.top], **attributes)

    def constant(self, what: str, values: object, dtype: type = np.int64) -> onnx.TensorProto:
        """A constant of this layer's own."""
        return numpy_helper.from_array(np.array(values, dtype), f"{self.layer.name} {what}")


Parts = Iterator[onnx.NodeProto | onnx.TensorProto]


def convolution(made: Made) -> Parts:
    """O×I×kh×kw, as in the hub."""
    layer = made.layer
    before, after = layer.pads
    yield made.node(
        "Conv",
        *made.weights,
        kernel_shape=[layer.kernel] * 2,
        strides=[layer.stride] * 2,
        dilations=[layer.dilation] * 2,
        group=layer.groups,
        pads=[before, before, after, after],
    )


def deconvolution(made: Made) -> Parts:
    """I×O×kh×kw, as in the hub."""
    yield made.node("ConvTranspose", *made.weights, **transposed(made.layer))


def transposed(layer: Layer) -> dict[str, Any]:
    """The attributes of a ConvTranspose."""
    return {
        "kernel_shape": [layer.kernel] * 2,
        "strides": [layer.stride] * 2,
        "pads": [layer.pad] * 4,
        "output_padding": [layer.output_pad] * 2,
    }


def deconvolution_same(made: Made) -> Parts:
    """Cut to the size of the second bottom, the smaller half first."""
    name = made.layer.name
    yield helper.make_node(
        "ConvTranspose", [made.layer.bottoms[0], *made.weights], [f"{name} whole"], **transposed(made.layer)
    )
    yield helper.make_node("Shape", [f"{name} whole"], [f"{name} whole size"], start=2)
    yield helper.make_node("Shape", [made.layer.bottoms[1]], [f"{name} size"], start=2)
    yield helper.make_node("Sub", [f"{name} whole size", f"{name} size"], [f"{name} too much"])
    yield made.constant("half", [2])
    yield helper.make_node("Div", [f"{name} too much", f"{name} half"], [f"{name} start"])
    yield helper.make_node("Add", [f"{name} start", f"{name} size"], [f"{name} end"])
    yield made.constant("axes", [2, 3])
    yield helper.make_node("Slice", [f"{name} whole", f"{name} start", f"{name} end", f"{name} axes"], [made.top])


def pooling(made: Made) -> Parts:
    """Maxima. Caffe's sizes are ONNX's with ceil_mode where nothing is padded."""
    layer = made.layer
    if layer.sizes == "ceil" and layer.pad:
        raise NotImplementedError(f"{layer.name}: ONNX's sizes differ from Caffe's for a pooling that is padded")
    how: dict[str, dict[str, Any]] = {
        "ceil": {"ceil_mode": 1},
        "floor": {"pads": [layer.pad] * 4},
        "same": {"auto_pad": "SAME_UPPER"},
    }
    yield made.node("MaxPool", kernel_shape=[layer.kernel] * 2, strides=[layer.stride] * 2, **how[layer.sizes])


def crop(made: Made) -> Parts:
    """From the offset on, to the rows and columns of the second bottom."""
    name = made.layer.name
    yield helper.make_node("Shape", [made.layer.bottoms[1]], [f"{name} size"], start=2)
    yield made.constant("start", [made.offset] * 2)
    yield made.constant("axes", [2, 3])
    yield helper.make_node("Add", [f"{name} size", f"{name} start"], [f"{name} end"])
    yield made.node("Slice", f"{name} start", f"{name} end", f"{name} axes")


def eltwise(made: Made) -> Parts:
    """The sum, from the first on."""
    name, total = made.layer.name, made.layer.bottoms[0]
    for number, bottom in enumerate(made.layer.bottoms[1:], start=2):
        last = number == len(made.layer.bottoms)
        total_of = made.top if last else f"{name} of {number}"
        yield helper.make_node("Add", [total, bottom], [total_of])
        total = total_of


def concat(made: Made) -> Parts:
    """Along the channels."""
    yield made.node("Concat", *made.layer.bottoms[1:], axis=1)


def scale(made: Made) -> Parts:
    """Every channel times its number."""
    name = made.layer.name
    yield made.constant("shape", [-1, 1, 1])
    yield helper.make_node("Reshape", [*made.weights, f"{name} shape"], [f"{name} column"])
    yield made.node("Mul", f"{name} column")


def batch_norm(made: Made) -> Parts:
    """By the running statistics."""
    yield made.node("BatchNormalization", *made.weights, epsilon=BATCHNORM_EPS)


def sigmoid(made: Made) -> Parts:
    """1 / (1 + e⁻ˣ)."""
    yield made.node("Sigmoid")


def bgr(made: Made) -> Parts:
    """RGB turned round, minus VGG_MEAN."""
    name = made.layer.name
    yield made.constant("order", [2, 1, 0])
    yield made.constant("mean", np.reshape(VGG_MEAN, (1, 3, 1, 1)), np.float32)
    yield helper.make_node("Gather", [made.layer.bottoms[0], f"{name} order"], [f"{name} turned"], axis=1)
    yield helper.make_node("Sub", [f"{name} turned", f"{name} mean"], [made.top])


def pad_to(made: Made) -> Parts:
    """Zeros below and to the right, up to the size of the second bottom."""
    name, (bottom, like) = made.layer.name, made.layer.bottoms
    yield helper.make_node("Shape", [bottom], [f"{name} own size"], start=2)
    yield helper.make_node("Shape", [like], [f"{name} size"], start=2)
    yield helper.make_node("Sub", [f"{name} size", f"{name} own size"], [f"{name} lacking"])
    yield made.constant("none", [0, 0])
    yield made.constant("zero", 0, np.float32)
    yield made.constant("axes", [2, 3])
    yield helper.make_node("Concat", [f"{name} none", f"{name} lacking"], [f"{name} pads"], axis=0)
    yield made.node("Pad", f"{name} pads", f"{name} zero", f"{name} axes")


def resize(made: Made, transformation: str = "align_corners") -> Parts:
    """Bilinear to the size of the second bottom: with aligned corners, or edges onto edges ("half_pixel")."""
    name, (bottom, like) = made.layer.name, made.layer.bottoms
    yield helper.make_node("Shape", [bottom], [f"{name} images and channels"], start=0, end=2)
    yield helper.make_node("Shape", [like], [f"{name} size"], start=2)
    yield helper.make_node("Concat", [f"{name} images and channels", f"{name} size"], [f"{name} shape"], axis=0)
    yield made.node("Resize", "", "", f"{name} shape", mode="linear", coordinate_transformation_mode=transformation)


def upsample_bilinear(made: Made) -> Parts:
    """To twice the size, with aligned corners."""
    yield made.constant("scales", [1, 1, 2, 2], np.float32)
    how = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    yield made.node("Resize", "", f"{made.layer.name} scales", **how)


def upsample_nearest(made: Made) -> Parts:
    """Every pixel four times."""
    yield made.constant("scales", [1, 1, 2, 2], np.float32)
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    yield made.node("Resize", "", f"{made.layer.name} scales", **how)


def relu(made: Made) -> Parts:
    """max(x, 0)."""
    yield made.node("Relu")


def global_mean(made: Made) -> Parts:
    """Of every channel."""
    yield made.node("GlobalAveragePool")


def multiply(made: Made) -> Parts:
    """ONNX lets one channel, or one pixel, stand for all."""
    yield made.node("Mul", *made.layer.bottoms[1:])


def unpooling(made: Made) -> Parts:
    """2×2 windows with stride 1, from comparisons alone: for each of the four pixels of a window, what lies there.

    Of the windows that share a pixel, the first, row by row, has it as its last pixel; so the last pixels are put down
    first.
    """
    layer = made.layer
    if (layer.kernel, layer.stride) != (2, 1):
        raise NotImplementedError(f"{layer.name}: only 2×2 windows with stride 1 are unpooled")
    name, (bottom, like) = layer.name, layer.bottoms
    yield made.constant("axes", [2, 3])
    yield made.constant("none", -1)
    yield made.constant("zero", 0, np.float32)
    for corner in range(4):
        i, j = divmod(corner, 2)
        yield made.constant(f"start {corner}", [i, j])
        yield made.constant(f"end {corner}", [(-1, END)[i], (-1, END)[j]])
        yield made.constant(f"place {corner}", corner)
        yield made.constant(f"around {corner}", [i, j, 1 - i, 1 - j])
        inputs = [like, f"{name} start {corner}", f"{name} end {corner}", f"{name} axes"]
        yield helper.make_node("Slice", inputs, [f"{name} corner {corner}"])
    yield helper.make_node("Max", [f"{name} corner {corner}" for corner in range(4)], [f"{name} most"])
    place = f"{name} place 3"
    for corner in (2, 1, 0):
        yield helper.make_node("Equal", [f"{name} corner {corner}", f"{name} most"], [f"{name} is {corner}"])
        inputs = [f"{name} is {corner}", f"{name} place {corner}", place]
        yield helper.make_node("Where", inputs, [f"{name} up to {corner}"])
        place = f"{name} up to {corner}"
    top = f"{name} zero"
    for corner in (3, 2, 1, 0):
        inputs = [place, f"{name} around {corner}", f"{name} none", f"{name} axes"]
        yield helper.make_node("Pad", inputs, [f"{name} places {corner}"])
        inputs = [bottom, f"{name} around {corner}", f"{name} zero", f"{name} axes"]
        yield helper.make_node("Pad", inputs, [f"{name} values {corner}"])
        inputs = [f"{name} places {corner}", f"{name} place {corner}"]
        yield helper.make_node("Equal", inputs, [f"{name} here {corner}"])
        put = made.top if corner == 0 else f"{name} put {corner}"
        yield helper.make_node("Where", [f"{name} here {corner}", f"{name} values {corner}", top], [put])
        top = put


END = 2**31 - 1
"""Behind the last row or column."""

WRITERS: Mapping[str, Callable[[Made], Parts]] = {
    "Convolution": convolution,
    "Deconvolution": deconvolution,
    "DeconvolutionSame": deconvolution_same,
    "Pooling": pooling,
    "Crop": crop,
    "Eltwise": eltwise,
    "Concat": concat,
    "Scale": scale,
    "BatchNorm": batch_norm,
    "Sigmoid": sigmoid,
    "BGR": bgr,
    "PadTo": pad_to,
    "Resize": resize,
    "ResizeHalfPixel": partial(resize, transformation="half_pixel"),
    "UpsampleBilinear": upsample_bilinear,
    "UpsampleNearest": upsample_nearest,
    "ReLU": relu,
    "GlobalMean": global_mean,
    "Multiply": multiply,
    "Unpooling": unpooling,
}
"""Kind of layer → its operations."""
