"""From a Keras model to ONNX, and to Keras' own weights file.

tf2onnx traces the network with every blob as an output, so that each keeps its name in the graph;
then the outputs are reduced to the architecture's one. The weights stay out of the trace and are
put into the file as the hub has them: with 537 MB of them inside, tf2onnx and Keras' own exporter
take more than 24 GB.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial

import keras
import numpy as np
import onnx
import onnx_ir as ir
from segtwin.errors import known_arguments
from segtwin.files import check_room, whole, written_by_a_library
from segtwin_weights import onnx_export, onnx_file
from segtwin_weights.formats import keras_file

import tensorflow as tf
from segtwin_keras import onnx_graph
from segtwin_keras.network import Network, checked_network
from segtwin_keras.weights import blob_names, blob_tensors, hub_array, table, used_weights

OPSET = onnx_file.OPSETS["keras"][0]

NOT_IN_DOUBLE = {"BatchNorm", "Resize"}
"""Layers that TensorFlow computes in float64 in pieces, of which tf2onnx makes no graph of blobs."""


@known_arguments
def export_onnx(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    opset: int = OPSET,
    external_data: bool | None = None,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    fold_batchnorm: bool = False,
    verify: bool = True,
) -> None:
    """Write a model as ONNX.

    The graph takes one input N×C×H×W under the architecture's name (`data`, `image`) and gives one
    output N×classes×H×W (`score`, `probability`, `logits`); N, H and W are free, as far as they fit
    the network, unless `size` is given. Architecture and preprocessing stand in its metadata. What sees
    padding alone is left out unless `leave_out_dead_zones(model, False)` was called.
    Before the file takes its name it is checked, its weights are compared with the model's, and
    ONNX Runtime and the model compute one small random image.

    Args:
        model: made by `build`; exported as in inference.
        path: the .onnx file; external weights go to `path` + ".data".
        opset: version of the ONNX operators, 18, the last that tf2onnx knows; the file has this
            one.
        external_data: weights in a file of their own: None (above 100 MB), True or False.
        size: rows and columns of every image: the graph is of this one size, and computes no sizes.
        batch: number of images, with `size`; by default 1.
        fold_batchnorm: make one operation of a convolution and the BatchNorm behind it, and check
            the result against the unfolded graph.
        verify: False: write the file without checking, comparing and running it.

    Raises:
        ValueError: another opset, or one that the graph cannot be written in; float64 of a network
            with BatchNorm or resizing.
        ValueError: the model was built with `pad`; the size does not fit the network; `batch`
            without `size`; folding moves the output.
        ValueError: the weights are above 2 GB and `external_data` is False; the file differs from
            the model. Nothing is left of it then.
        OSError: a file cannot be written.
    """
    network = checked_network(model)
    double = network.input.dtype == "float64"
    if double and {layer.kind for layer in network.architecture.layers} & NOT_IN_DOUBLE:
        raise ValueError(
            f"{path}: {network.architecture.name} cannot be exported in float64 from Keras; build it in float32, or "
            "export it with segtwin_torch"
        )
    source = onnx_export.Exportable(
        framework="keras",
        architecture=network.architecture,
        metadata=network.metadata,
        blobs=blob_names(network),
        in_channels=network.in_channels,
        pad=network.pad,
        skeleton=partial(skeleton, network),
        weights=lambda: ((name, hub_array(*slot)) for name, slot in used_weights(network).items()),
        run=partial(run, network),
        leaves_out=network.leaves_out,
    )
    onnx_export.export(source, path, opset, external_data, size, batch, fold_batchnorm, verify)


def save_checkpoint(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Write the weights as Keras does (.weights.h5), which `model.load_weights(path)` reads.

    Raises:
        OSError: the file cannot be written.
    """
    with whole(path) as draft, written_by_a_library(path):
        check_room(draft, keras_file.hdf5_bytes(variable.numpy() for variable in model.variables))
        model.save_weights(draft)


def run(
    model: Network, data: np.ndarray, instead: Mapping[str, np.ndarray], blobs: Sequence[str]
) -> dict[str, np.ndarray]:
    """Some blobs of an inference pass on the CPU by TensorFlow's default kernels, with other
    weights in the place of some.

    Args:
        model: left as it is.
        data: N×C×H×W.
        instead: hub name → array.
        blobs: their names.
    """
    slots, tensors = table(model), blob_tensors(model)
    changed = [(slots[name][0], tf.constant(np.transpose(array, slots[name][1]))) for name, array in instead.items()]
    with tf.device("CPU:0"), keras.StatelessScope(state_mapping=changed):
        x = tf.constant(data.transpose(0, 2, 3, 1), model.input.dtype)
        values = keras.tree.flatten(keras.Model(model.input, [tensors[name] for name in blobs])(x, training=False))
    return {
        name: np.ascontiguousarray(value.numpy().transpose(0, 3, 1, 2))
        for name, value in zip(blobs, values, strict=True)
    }


def skeleton(model: Network, opset: int, shape: tuple[int, int, int] | None = None) -> onnx.ModelProto:
    """The graph of a model, its weights as inputs under their hub names, its values under the names
    of the blobs; of any N, H and W, or of one."""
    architecture = model.architecture
    blobs = [name for name in blob_names(model)[1:] if name in architecture.exported]
    tensors, dtype = blob_tensors(model), model.input.dtype
    every_blob = keras.Model(model.input, [tensors[name] for name in blobs])
    # tf2onnx fails on a functional model that was never called
    every_blob(np.zeros((1, *architecture.example_size, model.input.shape[-1]), dtype))
    slots = {name: variable for name, (variable, _) in used_weights(model).items()}

    def forward(data: tf.Tensor, *weights: tf.Tensor) -> list[tf.Tensor]:
        with keras.StatelessScope(state_mapping=list(zip(slots.values(), weights, strict=True))):
            return every_blob(data, training=False)

    n, *size = shape or (None, None, None)
    signature = [tf.TensorSpec((n, *size, model.input.shape[-1]), dtype, name=architecture.input)]
    signature += [tf.TensorSpec(variable.shape, dtype, name=name.replace("/", ".")) for name, variable in slots.items()]
    graph = onnx_graph.convert(
        tf.function(forward, input_signature=signature, autograph=False),
        signature,
        opset,
        architecture.input,
        blobs,
    )
    onnx_graph.tidy(graph, list(slots), blobs[-1])
    return ir.to_proto(graph)
