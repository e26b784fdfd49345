"""From a Keras model to ONNX, and to Keras' own weights file.

tf2onnx traces the network with every blob as an output, so that each keeps its name in the graph; then the outputs are reduced to the row's
one. The weights stay out of the trace and are put into the file as the hub has them: with 537 MB of them inside, tf2onnx and Keras' own
exporter take more than 24 GB.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import keras
import numpy as np
import onnx
import onnx_ir as ir
from segtwin import architectures
from segtwin.files import whole
from segtwin_weights import batchnorm, onnx_file

import tensorflow as tf
from segtwin_keras import onnx_graph
from segtwin_keras.unet import Fit
from segtwin_keras.weights import blob_names, blob_tensors, hub_array, used_weights

OPSET = 18
LAST_OPSET = 18


def export_onnx(
    model: keras.Model, path: str | os.PathLike[str], opset: int = OPSET, external_data: bool | None = None, fold_batchnorm: bool = False
) -> None:
    """Write a model as ONNX.

    The graph takes one input N×C×H×W under the row's name (`data`, `image`) and gives one output N×classes×H×W (`score`, `probability`, `logits`);
    N, H and W are free, as far as they fit the network. Row, colour order and mean stand in its metadata.

    Args:
        model: made by `build`; exported as in inference.
        path: the .onnx file; external weights go to `path` + ".data".
        opset: version of the ONNX operators, 18, the last that tf2onnx knows; the file has this one.
        external_data: weights in a file of their own: None (above 100 MB), True or False.
        fold_batchnorm: make one operation of a convolution and the BatchNorm behind it, and check the result against the unfolded graph.

    Raises:
        ValueError: another opset, or one that the graph cannot be written in.
        ValueError: the model was built with `pad`; folding moves the output.
        ValueError: the weights are above 2 GB and `external_data` is False.
        OSError: a file cannot be written.
    """
    row = architectures.get(model.name)
    if any(getattr(layer, "pad", None) for layer in model.layers if isinstance(layer, Fit)):
        raise ValueError(f"{path}: the ONNX graph of {row.name} takes sizes that fit; build the model without pad")
    onnx_file.check_opset(path, opset, OPSET, LAST_OPSET)
    weights: Iterable[tuple[str, np.ndarray]] = ((name, hub_array(*slot)) for name, slot in used_weights(model).items())
    graph, metadata = skeleton(model, opset), dict(getattr(model, "metadata", {}))
    onnx_file.check_written(path, graph, opset)
    if fold_batchnorm:
        graph, folded = batchnorm.fold(graph, dict(weights), row)
        weights, metadata["batchnorm"] = folded.items(), "folded"
    onnx_file.write(graph, weights, path, row, metadata, external_data)


def save_checkpoint(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Write the weights as Keras does (.weights.h5), which `model.load_weights(path)` reads.

    Raises:
        OSError: the file cannot be written.
    """
    with whole(path) as draft:
        model.save_weights(draft)


def skeleton(model: keras.Model, opset: int) -> onnx.ModelProto:
    """The graph of a model, its weights as inputs under their hub names, its values under the names of the blobs."""
    row = architectures.get(model.name)
    blobs = [name for name in blob_names(model)[1:] if name in row.exported]
    tensors, dtype = blob_tensors(model), model.input.dtype
    every_blob = keras.Model(model.input, [tensors[name] for name in blobs])
    every_blob(np.zeros((1, *row.example_size, model.input.shape[-1]), dtype))  # tf2onnx fails on a functional model that was never called
    slots = {name: variable for name, (variable, _) in used_weights(model).items()}

    def forward(data: tf.Tensor, *weights: tf.Tensor) -> list[tf.Tensor]:
        with keras.StatelessScope(state_mapping=list(zip(slots.values(), weights, strict=True))):
            return every_blob(data, training=False)

    signature = [tf.TensorSpec((None, None, None, model.input.shape[-1]), dtype, name=row.input)]
    signature += [tf.TensorSpec(variable.shape, dtype, name=name.replace("/", ".")) for name, variable in slots.items()]
    graph = onnx_graph.convert(tf.function(forward, input_signature=signature, autograph=False), signature, opset, row.input, blobs)
    onnx_graph.tidy(graph, list(slots), blobs[-1])
    return ir.to_proto(graph)
