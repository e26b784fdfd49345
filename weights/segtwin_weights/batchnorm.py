"""BatchNorm folded into the convolution before it, in an ONNX skeleton and its weights: fewer
operations, other roundings.

In inference BatchNorm is x ↦ (x − mean) · scale + bias with scale = weight / √(variance + eps), a
number a channel. Behind a convolution W·x + b that is (scale · W)·x + (b − mean) · scale + bias:
another convolution. The products are rounded once, from float64.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from segtwin.architectures import Architecture
from segtwin.oracle import relative_error

OUTPUTS = {"Conv": 0, "ConvTranspose": 1}
"""Operator → the axis of its weights that counts the outputs."""
BOUND = 1e-5
"""How far, relative to its largest number, a value of the graph may move. float32 costs these
networks up to 5e-6; a wrong fold is beyond 1e-2."""


def fold(
    skeleton: onnx.ModelProto, weights: Mapping[str, np.ndarray], architecture: Architecture
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The same network without BatchNormalization, checked against the given one.

    Args:
        skeleton: its inputs are the data and every weight under its hub name; left as it is.
        weights: hub name → array, for every weight input.
        architecture: what it computes; one image of its smallest size is run through both graphs.

    Returns:
        The new skeleton and its weights: convolutions keep their names, those without bias gain
            one.

    Raises:
        ValueError: a BatchNormalization does not follow a convolution, or the two graphs disagree.
    """
    folded, arrays = onnx.ModelProto(), dict(weights)
    folded.CopyFrom(skeleton)
    graph = folded.graph
    producers = {output: node for node in graph.node for output in node.output}
    uses = [name for node in graph.node for name in node.input]
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    if not norms:
        return folded, arrays
    for norm in norms:
        conv = producers.get(norm.input[0])
        if conv is None or conv.op_type not in OUTPUTS or uses.count(norm.input[0]) != 1:
            raise ValueError(
                f"{norm.output[0]}: BatchNormalization is folded into a convolution whose only user it is; there "
                "is none here"
            )
        eps = next(helper.get_attribute_value(attribute) for attribute in norm.attribute if attribute.name == "epsilon")
        gamma, beta, mean, variance = (arrays.pop(name).astype(np.float64) for name in norm.input[1:])
        scale = gamma / np.sqrt(variance + eps)
        weight = arrays[conv.input[1]]
        along = scale.reshape([-1 if axis == OUTPUTS[conv.op_type] else 1 for axis in range(weight.ndim)])
        arrays[conv.input[1]] = (weight * along).astype(weight.dtype)
        if len(conv.input) == 2:
            conv.input.append(conv.input[1].removesuffix("weight") + "bias")
            graph.input.append(
                helper.make_tensor_value_info(conv.input[2], helper.np_dtype_to_tensor_dtype(weight.dtype), beta.shape)
            )
        bias = arrays.get(conv.input[2], np.zeros(beta.shape))
        arrays[conv.input[2]] = ((bias - mean) * scale + beta).astype(weight.dtype)
        conv.output[0] = norm.output[0]
        graph.node.remove(norm)
    kept = [value for value in graph.input if value.name in arrays or value.name == graph.input[0].name]
    del graph.input[:]
    graph.input.extend(kept)
    check(skeleton, weights, folded, arrays, architecture)
    return folded, {value.name: arrays[value.name] for value in kept[1:]}


def check(
    skeleton: onnx.ModelProto,
    weights: Mapping[str, np.ndarray],
    folded: onnx.ModelProto,
    folded_weights: Mapping[str, np.ndarray],
    architecture: Architecture,
) -> None:
    """Run a random image through both and compare every value that both have, up to a sigmoid at
    the end: ReLUs that pass nothing on, or a saturated sigmoid, would hide an error from the
    output.

    Raises:
        ValueError: a value differs by more than `BOUND`.
    """
    first = skeleton.graph.input[0]
    shape = 1, first.type.tensor_type.shape.dim[1].dim_value, architecture.size_least, architecture.size_least
    image = (
        np.random.default_rng(0)
        .uniform(0, 1, shape)
        .astype(helper.tensor_dtype_to_np_dtype(first.type.tensor_type.elem_type))
    )
    in_both = {output for node in skeleton.graph.node for output in node.output}
    common = [node.output[0] for node in folded.graph.node if node.op_type != "Sigmoid" and node.output[0] in in_both]
    results: list[list[np.ndarray]] = []
    for model, arrays in ((skeleton, weights), (folded, folded_weights)):
        filled = onnx.ModelProto()
        filled.CopyFrom(model)
        del filled.graph.input[1:], filled.graph.value_info[:]
        for last in [node for node in filled.graph.node if node.op_type == "Sigmoid"]:
            filled.graph.node.remove(last)
        del filled.graph.output[:]
        filled.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in common)
        filled.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
        results.append([np.asarray(value) for value in ReferenceEvaluator(filled).run(common, {first.name: image})])
    for name, before, after in zip(common, *results, strict=True):
        error = relative_error(after, before)
        if not error < BOUND:
            raise ValueError(
                f"{architecture.name}: BatchNorm folded into its convolutions moves {name} by {error:.1e} of its "
                "maximum; export it unfolded"
            )
