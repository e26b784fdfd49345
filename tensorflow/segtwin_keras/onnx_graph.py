"""What lies between a TensorFlow graph and the ONNX graph that one would draw by hand.

tf2onnx is exact but careful: for what it cannot know it computes at run time. Two of its
translations are replaced where more is known of the operation, and `tidy` removes what the detour
over N×H×W×C leaves behind. Nothing here knows a network; every step is an identity of the operators
involved, and the tests compare the result with Caffe's blobs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import onnx_ir as ir
import tf2onnx
from onnx_ir.passes import common as passes
from segtwin_weights.layouts import TO_OIHW
from tf2onnx.onnx_opset.nn import conv_convert_inputs, conv_dims_attr, conv_kernel_shape
from tf2onnx.onnx_opset.tensor import StridedSlice
from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

TO_CHANNELS_LAST, TO_CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
CHANNELS_LAST = " (channels last)"


def convert(function: Any, signature: list[Any], opset: int, image: str, blobs: list[str]) -> ir.Model:
    """A tf.function as ONNX: its first input N×C×H×W, its outputs N×H×W×C under the names of the
    blobs."""
    with transposes_of_one_channel():
        proto, _ = tf2onnx.convert.from_function(
            function,
            input_signature=signature,
            opset=opset,
            inputs_as_nchw=[f"{image}:0"],
            custom_op_handlers={
                "Conv2DBackpropInput": (deconvolution, []),
                "StridedSlice": (strided_slice, []),
                "SpaceToBatchND": (space_to_batch, []),
                "BatchToSpaceND": (batch_to_space, []),
                "ResizeBilinear": (resize, []),
                "ResizeNearestNeighbor": (resize, []),
            },
        )
    model = ir.from_proto(proto)
    for value, name in zip(model.graph.outputs, blobs, strict=True):
        value.name = name + CHANNELS_LAST
    return model


@contextmanager
def transposes_of_one_channel() -> Iterator[None]:
    """Blobs of one channel keep their Transposes. tf2onnx ends by making Reshapes of them, which
    nobody could cancel any more."""
    change = TransposeOptimizer.post_optimize_action
    try:
        TransposeOptimizer.post_optimize_action = lambda self: None
        yield
    finally:
        TransposeOptimizer.post_optimize_action = change


def deconvolution(ctx: Any, node: Any, name: str, args: Any) -> None:
    """A VALID Conv2DBackpropInput. Keras always asks it for (n − 1)·s + k pixels, which is all that
    ONNX's ConvTranspose gives.

    tf2onnx provides for any size, by computing the size at run time and then cutting and padding.
    """
    if node.get_attr_str("padding") != "VALID":
        raise NotImplementedError(f"{name}: only VALID transposed convolutions are exported")
    node.type = "ConvTranspose"
    conv_kernel_shape(ctx, node, 1)
    conv_dims_attr(node, "strides")
    conv_dims_attr(node, "dilations")
    size, kernel, image, *_ = node.input  # and a bias, where tf2onnx has found one to go with it
    ctx.remove_input(node, size, 0)
    node.input[0], node.input[1] = image, kernel
    node.set_attr("auto_pad", "NOTSET")
    conv_convert_inputs(ctx, node, with_kernel=True)


def strided_slice(ctx: Any, node: Any, name: str, args: Any) -> None:
    """x[:, a:b, c:d]: one Slice. What is computed, and not known, counts forwards here, so it needs
    no clamping.

    Whatever else a StridedSlice can do is left to tf2onnx.
    """
    begin, end, strides = node.inputs[1:4]
    masks = {
        kind: node.get_attr_value(f"{kind}_mask", 0) for kind in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    plain = strides.is_const() and not (masks["ellipsis"] or masks["new_axis"] or masks["shrink_axis"])
    if end.is_const() or not plain or set(strides.get_tensor_value()) != {1}:
        StridedSlice.version_10(ctx, node)
        return
    axes = [
        axis
        for axis in range(len(strides.get_tensor_value()))
        if not (masks["begin"] >> axis & 1 and masks["end"] >> axis & 1)
    ]
    dtype = tf2onnx.utils.map_onnx_to_numpy_type(ctx.get_dtype(node.input[2]))

    def constant(values: list[int], kind: Any = dtype) -> str:
        return ctx.make_const(tf2onnx.utils.make_name(name), np.array(values, kind)).output[0]

    def chosen(value: str) -> str:
        return ctx.make_node("Gather", [value, constant(axes, np.int64)]).output[0]

    if begin.is_const():
        starts = constant([0 if masks["begin"] >> axis & 1 else begin.get_tensor_value()[axis] for axis in axes])
    else:
        starts = chosen(node.input[1])
    shapes, dtypes = node.output_shapes, node.output_dtypes
    inputs = [node.input[0], starts, chosen(node.input[2]), constant(axes)]
    ctx.remove_node(node.name)
    ctx.make_node("Slice", inputs, name=node.name, outputs=node.output, shapes=shapes, dtypes=dtypes)


def space_to_batch(ctx: Any, node: Any, name: str, args: Any) -> None:
    """The four phases of 2×2 blocks: SpaceToDepth lays them side by side in the channels, then they
    are cut apart and stacked."""
    depth = ["SpaceToDepth", "Split", "Concat"]
    blocks_of_two(
        ctx,
        node,
        depth,
        {"SpaceToDepth": {"blocksize": 2}, "Split": {"axis": 1, "num_outputs": 4}, "Concat": {"axis": 0}},
    )


def batch_to_space(ctx: Any, node: Any, name: str, args: Any) -> None:
    """The way back."""
    depth = ["Split", "Concat", "DepthToSpace"]
    blocks_of_two(
        ctx,
        node,
        depth,
        {
            "Split": {"axis": 0, "num_outputs": 4},
            "Concat": {"axis": 1},
            "DepthToSpace": {"blocksize": 2, "mode": "DCR"},
        },
    )


def resize(ctx: Any, node: Any, name: str, args: Any) -> None:
    """A ResizeBilinear, or a ResizeNearestNeighbor, to any size: one Resize of rows and columns."""
    aligned, half = (bool(node.get_attr_value(key, 0)) for key in ("align_corners", "half_pixel_centers"))
    how: dict[str, Any]
    if node.type == "ResizeNearestNeighbor" and not (aligned or half):
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    elif node.type == "ResizeBilinear" and aligned != half:
        how = {"mode": "linear", "coordinate_transformation_mode": "align_corners" if aligned else "half_pixel"}
    else:
        raise NotImplementedError(f"{name}: this kind of resizing is not exported")
    shapes, dtypes = node.output_shapes, node.output_dtypes
    image = ctx.make_node("Transpose", [node.input[0]], attr={"perm": TO_CHANNELS_FIRST}).output[0]
    if -1 in shapes[0]:
        size, how["axes"] = (
            ctx.make_node("Cast", [node.input[1]], attr={"to": ir.DataType.INT64.value}).output[0],
            [2, 3],
        )
    else:  # of one size: all four sizes, as OpenCV asks for
        size = ctx.make_const(
            tf2onnx.utils.make_name(name), np.array([shapes[0][axis] for axis in TO_CHANNELS_FIRST], np.int64)
        ).output[0]
    ctx.remove_node(node.name)
    resized = ctx.make_node("Resize", [image, "", "", size], attr=how).output
    ctx.make_node(
        "Transpose",
        resized,
        attr={"perm": TO_CHANNELS_LAST},
        name=node.name,
        outputs=node.output,
        shapes=shapes,
        dtypes=dtypes,
    )


def blocks_of_two(ctx: Any, node: Any, operators: list[str], attributes: dict[str, dict[str, Any]]) -> None:
    """A chain of operators on N×C×H×W in the place of a node on N×H×W×C whose blocks are 2×2 and
    whose pads or crops are none."""
    if node.inputs[1].get_tensor_value() != [2, 2] or np.any(node.inputs[2].get_tensor_value()):
        raise NotImplementedError(f"{node.name}: only blocks of 2×2 without pads are exported")
    shapes, dtypes = node.output_shapes, node.output_dtypes
    values = [ctx.make_node("Transpose", [node.input[0]], attr={"perm": TO_CHANNELS_FIRST}).output[0]]
    for operator in operators:
        values = ctx.make_node(
            operator, values, attr=attributes[operator], output_count=4 if operator == "Split" else 1
        ).output
    ctx.remove_node(node.name)
    ctx.make_node(
        "Transpose",
        values,
        attr={"perm": TO_CHANNELS_LAST},
        name=node.name,
        outputs=node.output,
        shapes=shapes,
        dtypes=dtypes,
    )


# ------------------------------------------------------------------------------------------ tidying


def tidy(model: ir.Model, weights: list[str], output: str) -> None:
    """Simplify the graph: NCHW throughout, weights in the hub's layouts, biases fused, blobs under
    their names, no redundant transposes.

    Args:
        model: of `convert`; changed in place.
        weights: hub names, in the order of the inputs after the first.
        output: the blob to keep as the output.
    """
    graph = model.graph
    take_weights_as_the_hub_has_them(graph, weights)
    move_channels_first(graph)
    mean_of_rows_and_columns(graph)
    cancel_transposes(graph)
    put_biases_into_convolutions(graph)
    put_crops_into_deconvolutions(graph)
    name_blobs(graph, output)
    crop_by_shape(graph)
    resize_by_shape(graph)
    for clean in (
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.DeduplicateInitializersPass(),
        passes.TopologicalSortPass(),
    ):
        clean(model)


def operator(value: ir.Value | None) -> str:
    """The operator that a value comes from; "" for inputs and initializers."""
    node = value.producer() if value is not None else None
    return node.op_type if node is not None else ""


def permutation(node: ir.Node | None) -> tuple[int, ...] | None:
    """Of a Transpose; None for other nodes and for no node."""
    return tuple(node.attributes["perm"].as_ints()) if node is not None and node.op_type == "Transpose" else None


def source(value: ir.Value) -> ir.Value:
    """The first input of the node that a value comes from."""
    node = value.producer()
    assert node is not None
    assert node.inputs[0] is not None
    return node.inputs[0]


def take_weights_as_the_hub_has_them(graph: ir.Graph, names: list[str]) -> None:
    """Kernels arrive as TensorFlow has them and are transposed to ONNX's layout, which is the
    hub's; biases are reshaped to broadcast.

    Let them arrive as the hub has them, and pass by the Transposes and Reshapes.
    """
    for value, name in zip(graph.inputs[1:], names, strict=True):
        value.name = name
        if len(value.shape) == 4:
            if any(permutation(node) != TO_OIHW for node, _ in value.uses()):
                raise NotImplementedError(f"{name} is used in TensorFlow's layout")
            value.shape = ir.Shape([value.shape[axis] for axis in TO_OIHW])
        pass_by(value, ("Transpose",) if len(value.shape) == 4 else ("Reshape", "Squeeze", "Transpose"))


def pass_by(value: ir.Value, operators: tuple[str, ...]) -> None:
    """Whoever uses a value through these operators uses the value itself."""
    for node, _ in list(value.uses()):
        if node.op_type in operators:
            pass_by(node.outputs[0], operators)
            node.outputs[0].replace_all_uses_with(value)


def move_channels_first(graph: ir.Graph) -> None:
    """Arithmetic on N×H×W×C blobs is the same on N×C×H×W, a vector over C being C×1×1. tf2onnx
    moves Transposes past some of it only."""
    for node in list(graph):
        images = [
            value
            for value in node.inputs
            if permutation(value.producer() if value is not None else None) == TO_CHANNELS_LAST
        ]
        others = [value for value in node.inputs if value not in images]
        vectors = [value for value in others if value in graph.inputs and len(value.shape) == 1]
        numbers = [value for value in others if (integers(value) or [0, 0])[1:] == []]
        if (
            node.op_type not in ("Split", "Sub", "Mul", "Concat")
            or not images
            or len(vectors) + len(numbers) < len(others)
        ):
            continue
        new = {value: source(value) for value in images}
        for vector in vectors:
            column = ir.node("Unsqueeze", [vector, constant(graph, f"{node.outputs[0].name} axes", [1, 2])])
            graph.insert_before(node, column)
            new[vector] = column.outputs[0]
        attributes = dict(node.attributes)
        if "axis" in attributes:
            attributes["axis"] = ir.AttrInt64("axis", TO_CHANNELS_LAST[attributes["axis"].as_int()])
        moved = ir.Node(
            "",
            node.op_type,
            [new.get(value, value) for value in node.inputs],
            attributes.values(),
            num_outputs=len(node.outputs),
        )
        graph.insert_after(node, moved)
        for was, value in zip(node.outputs, moved.outputs, strict=True):
            back = ir.node("Transpose", [value], attributes={"perm": TO_CHANNELS_LAST})
            graph.insert_after(moved, back)
            back.outputs[0].shape, back.outputs[0].dtype = was.shape, was.dtype
            was.name, back.outputs[0].name = f"{was.name} (as translated)", was.name
            was.replace_all_uses_with(back.outputs[0], replace_graph_outputs=True)


def mean_of_rows_and_columns(graph: ir.Graph) -> None:
    """The mean over rows and columns of an N×H×W×C blob is that of the N×C×H×W one."""
    for node in list(graph):
        image = node.inputs[0] if node.op_type == "ReduceMean" else None
        if image is None or permutation(image.producer()) != TO_CHANNELS_LAST or integers(node.inputs[1]) != [1, 2]:
            continue
        mean = ir.Node(
            "",
            "ReduceMean",
            [source(image), constant(graph, f"{node.outputs[0].name} axes", [2, 3])],
            node.attributes.values(),
        )
        back = ir.node("Transpose", [mean.outputs[0]], attributes={"perm": TO_CHANNELS_LAST})
        graph.insert_after(node, [mean, back])
        node.outputs[0].replace_all_uses_with(back.outputs[0], replace_graph_outputs=True)


def cancel_transposes(graph: ir.Graph) -> None:
    """To N×H×W×C and back to N×C×H×W is nothing."""
    for node in graph:
        if permutation(node) == TO_CHANNELS_FIRST and permutation(node.inputs[0].producer()) == TO_CHANNELS_LAST:
            node.outputs[0].replace_all_uses_with(source(node.inputs[0]))


def put_biases_into_convolutions(graph: ir.Graph) -> None:
    """A convolution without bias, used only to have one added, takes the bias itself."""
    for add in graph:
        if (
            add.op_type == "Add"
            and operator(add.inputs[0]) in ("Conv", "ConvTranspose")
            and add.inputs[1] in graph.inputs
        ):
            conv = add.inputs[0].producer()
            if len(conv.inputs) == 2 and len(add.inputs[0].uses()) == 1:
                conv.resize_inputs(3)
                conv.replace_input_with(2, add.inputs[1])
                add.outputs[0].replace_all_uses_with(conv.outputs[0])


def put_crops_into_deconvolutions(graph: ir.Graph) -> None:
    """A deconvolution used only to have constant rows and columns cut off its edges takes them as
    its pads."""
    for cut in graph:
        deconvolution = (
            cut.inputs[0].producer() if cut.op_type == "Slice" and operator(cut.inputs[0]) == "ConvTranspose" else None
        )
        if deconvolution is None or len(cut.inputs[0].uses()) > 1 or "pads" in deconvolution.attributes:
            continue
        starts, ends, axes = (integers(value) for value in cut.inputs[1:4])
        if starts is None or ends is None or axes is None:
            continue
        begin, end = dict(zip(axes, starts, strict=True)), dict(zip(axes, ends, strict=True))
        open_end = np.iinfo(np.int32).max
        counted_inwards = min(starts) >= 0 and all(one < 0 or one >= open_end for one in ends)
        if not counted_inwards or any(begin.get(axis, 0) or end.get(axis, open_end) < 0 for axis in (0, 1)):
            continue
        first, last = [begin.get(2, 0), begin.get(3, 0)], [max(0, -end.get(2, 0)), max(0, -end.get(3, 0))]
        more = [one - other for one, other in zip(first, last, strict=True)]
        strides = deconvolution.attributes["strides"].as_ints()
        # as torch says it; OpenCV knows no other way
        if any(more) and all(0 <= one < stride for one, stride in zip(more, strides, strict=True)):
            deconvolution.attributes["output_padding"] = ir.AttrInt64s("output_padding", more)
            last = first
        deconvolution.attributes["pads"] = ir.AttrInt64s("pads", [*first, *last])
        cut.outputs[0].replace_all_uses_with(deconvolution.outputs[0])


def name_blobs(graph: ir.Graph, output: str) -> None:
    """Every blob's N×C×H×W value gets the blob's name; the outputs are reduced to `output`."""
    for last in list(graph.outputs):
        if permutation(last.producer()) != TO_CHANNELS_LAST:
            raise NotImplementedError(f"{last.name} has no value with its channels first")
        blob = source(last)
        blob.name = last.name.removesuffix(CHANNELS_LAST)
        blob.shape, blob.dtype = (
            ir.Shape([last.shape[axis] for axis in TO_CHANNELS_FIRST]) if last.shape else None,
            last.dtype,
        )
        graph.outputs.remove(last)
        if blob.name == output:
            graph.outputs.append(blob)


def crop_by_shape(graph: ir.Graph) -> None:
    """x cut to the size of another blob, from one offset in rows and columns or from its middle:
    Slice(x, o, Shape(like) + o), whatever led there."""
    for node in list(graph):
        if node.op_type != "Slice" or integers(node.inputs[2]) is not None:
            continue
        starts, ends, axes = entries(node.inputs[1]), entries(node.inputs[2]), integers(node.inputs[3])
        new: list[ir.Node]
        if axes is None or axes[-2:] != [2, 3] or starts is None or ends is None:
            continue
        name, x, start, end = node.outputs[0].name, node.inputs[0], starts[-1], ends[-1]
        if (
            isinstance(end, Pixel)
            and isinstance(start, int)
            and starts[-2:] == [start] * 2
            and ends[-2:] == [Pixel(end.blob, axis, start) for axis in (2, 3)]
        ):
            size = ir.node("Shape", [end.blob], attributes={"start": 2, "end": 4})
            new, offset = [size], constant(graph, f"{name} offset", [start, start])
        elif isinstance(start, Centre) and (starts[-2:], ends[-2:]) == tuple(
            [Centre(x, start.part, i, e) for i in (2, 3)] for e in (False, True)
        ):
            size = ir.node("Shape", [start.part], attributes={"start": 2, "end": 4})
            whole = ir.node("Shape", [x], attributes={"start": 2, "end": 4})
            rest = ir.node("Sub", [whole.outputs[0], size.outputs[0]])
            half = ir.node("Div", [rest.outputs[0], constant(graph, f"{name} halves", [2])])
            new, offset = [size, whole, rest, half], half.outputs[0]
        else:
            continue
        last = ir.node("Add", [size.outputs[0], offset])
        cut = ir.node("Slice", [x, offset, last.outputs[0], constant(graph, f"{name} axes", [2, 3])])
        graph.insert_after(node, [*new, last, cut])
        node.outputs[0].name, cut.outputs[0].name = f"{name} (as translated)", name
        cut.outputs[0].shape, cut.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        node.outputs[0].replace_all_uses_with(cut.outputs[0], replace_graph_outputs=True)


def resize_by_shape(graph: ir.Graph) -> None:
    """A Resize of rows and columns to those of a blob takes its sizes from Shape(like), whatever
    led to them; one to twice its own says so."""
    for node in list(graph):
        sizes = entries(node.inputs[3]) if node.op_type == "Resize" and len(node.inputs) > 3 else None
        if sizes and isinstance(sizes[0], Pixel) and sizes == [Pixel(sizes[0].blob, axis) for axis in (2, 3)]:
            size = ir.node("Shape", [sizes[0].blob], attributes={"start": 2, "end": 4})
            graph.insert_before(node, size)
            node.replace_input_with(3, size.outputs[0])
        elif sizes and sizes == [Pixel(node.inputs[0], axis, times=2) for axis in (2, 3)]:
            twice = ir.tensor(np.array([2, 2], np.float32), name=f"{node.outputs[0].name} scales")
            scales = ir.Value(name=twice.name, shape=twice.shape, type=ir.TensorType(twice.dtype), const_value=twice)
            graph.initializers.add(scales)
            node.replace_input_with(3, None)
            node.resize_inputs(3)
            node.replace_input_with(2, scales)


def constant(graph: ir.Graph, name: str, values: list[int]) -> ir.Value:
    """A new int64 vector in the graph."""
    tensor = ir.tensor(np.array(values, np.int64), name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.initializers.add(value)
    return value


class Pixel(NamedTuple):
    """A number that is known when the graph runs: the size of a blob along one axis, times and plus
    something."""

    blob: ir.Value
    axis: int
    plus: int = 0
    times: int = 1


class Centre(NamedTuple):
    """⌊(whole − part) / 2⌋ along one axis, where the middle part of a blob begins, or, plus the
    part, where it ends."""

    whole: ir.Value
    part: ir.Value
    axis: int
    end: bool = False


class Difference(NamedTuple):
    """One size minus another."""

    whole: Pixel
    part: Pixel


def integers(value: ir.Value | None) -> list[int] | None:
    """A constant vector or number, as a list."""
    constant = ir.convenience.get_const_tensor(value) if value is not None else None
    return (
        [int(i) for i in np.atleast_1d(constant.numpy())] if constant is not None and len(constant.shape) < 2 else None
    )


def entries(value: ir.Value | None) -> list[int | Pixel | Difference | Centre] | None:
    """A vector or number made of sizes and constants, entry by entry; None when it is made in a way
    not known here."""
    known = integers(value)
    if value is None or known is not None:
        return cast("list[int | Pixel | Difference | Centre] | None", known)
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "Shape" and not node.attributes:
        blob = source(value)
        order = permutation(blob.producer())
        return [Pixel(source(blob) if order else blob, axis) for axis in order or range(4)]
    inputs = [entries(one) for one in node.inputs]
    if any(one is None for one in inputs):
        return None
    first, *rest = cast("list[list[Any]]", inputs)
    if node.op_type in ("Cast", "Squeeze", "Unsqueeze"):
        return first
    if node.op_type == "Gather":
        return [first[index] for index in rest[0]]
    if node.op_type == "Slice":
        return first[rest[0][0] : rest[1][0]]
    if node.op_type == "Concat":
        return [entry for one in (first, *rest) for entry in one]
    if len(inputs) == 2 and len(first) == len(rest[0]) == 1:
        match node.op_type, first[0], rest[0][0]:
            case ("Mul", Pixel(plus=0, times=1) as pixel, int(number)) | (
                "Mul",
                int(number),
                Pixel(plus=0, times=1) as pixel,
            ):
                return [pixel._replace(times=number)]
            case "Sub", Pixel(plus=0, times=1) as whole, Pixel(plus=0, times=1) as part if whole.axis == part.axis:
                return [Difference(whole, part)]
            case "Div", Difference(whole, part), 2:
                return [Centre(whole.blob, part.blob, whole.axis)]
            case "Add", Centre(end=False) as middle, Pixel(plus=0, times=1) as part if (part.blob, part.axis) == (
                middle.part,
                middle.axis,
            ):
                return [middle._replace(end=True)]
            case ("Add", Pixel() as pixel, int(number)) | ("Add", int(number), Pixel() as pixel):
                return [pixel._replace(plus=pixel.plus + number)]
            case "Add", int(one), int(other):
                return [one + other]
    return None
