"""Keras files and models, SavedModels and frozen graphs. Variables are made constants, and every value of the graph
can be fetched."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segtwin_engines.ports.port import Input, Port, PortError, Values, failed, up_to_failure


def plain(error: Exception) -> str:
    """The beginning of a message, without the colours that Keras gives it."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())[:200]


def planes(value: np.ndarray) -> np.ndarray:
    """N×H×W×C as N×C×H×W: in a graph that takes its images so, everything is laid out so."""
    return value.transpose(0, 3, 1, 2) if value.ndim == 4 else value


def of_file(path: Path, kind: str, in_channels: int | None) -> Port:
    """Open a .keras or .h5 file, a SavedModel's folder or a frozen .pb.

    Raises:
        PortError: TensorFlow cannot read it, or it takes no image.
    """
    import tensorflow as tf

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "keras":
                import keras

                return of_model(keras.models.load_model(path, compile=False, safe_mode=True), in_channels, str(path))
            if kind == "savedmodel":
                loaded = tf.saved_model.load(str(path))
                signatures = list(loaded.signatures.values())
                if not signatures:
                    raise ValueError("it has no signature; save it with model.export or with signatures=…")
                return of_concrete(signatures[0], in_channels, str(path), loaded)
            graph = tf.compat.v1.GraphDef()
            graph.ParseFromString(path.read_bytes())
            return of_graph(graph, in_channels, str(path))
    except PortError:
        raise
    except Exception as error:  # Keras' and TensorFlow's errors have no class in common
        raise PortError(f"{path}: TensorFlow cannot run it: {plain(error)}") from None


def of_model(model: Any, in_channels: int | None, name: str | None = None) -> Port:
    """A Keras model."""
    import tensorflow as tf

    own = name or model.name
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) not in (3, 4):
        raise PortError(f"{own}: is not a Keras model of one input of images; build it on keras.Input first")
    dtype = getattr(model.inputs[0], "dtype", "float32") if getattr(model, "inputs", None) else "float32"
    if hasattr(model, "leaves_out"):  # one of ours: its layers, whose blobs are whole
        import keras

        model = keras.Model(model.inputs, model.outputs)
    function = tf.function(lambda x: model(x, training=False), autograph=False)

    def of_shape(shape: Sequence[int | None]) -> Port:
        return of_concrete(function.get_concrete_function(tf.TensorSpec(shape, dtype)), in_channels, own, model)

    try:
        return of_shape(shape)
    except (TypeError, ValueError):
        if None not in shape[1:]:
            raise
    # a layer that wants to know its size, as Keras' bilinear UpSampling2D: one graph for each size
    ports: dict[tuple[int, ...], Port] = {}
    taken = Input.of(own, shape, dtype, in_channels, last=True)

    def at(data: np.ndarray) -> Port:
        fed = taken.fed(data).shape
        if fed not in ports:
            ports[fed] = of_shape(fed)
        return ports[fed]

    channels = taken.channels or in_channels or 3
    example = np.zeros((1, channels, *(size or 64 for size in taken.size)), np.float32)
    return Port(
        own, lambda data: at(data).run(data), lambda data: at(data).values(data), taken.size, taken.channels,
        weights=lambda: at(example).weights(), channels_last=taken.channels_last,
    )  # fmt: skip


def of_concrete(concrete: Any, in_channels: int | None, name: str, holds: Any) -> Port:
    """A concrete function of one input."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    return of_graph(frozen.graph.as_graph_def(), in_channels, name, [one.name for one in frozen.outputs])


def of_graph(graph: Any, in_channels: int | None, name: str, outputs: list[str] | None = None) -> Port:
    """A graph without variables.

    Raises:
        PortError: it has no input, or more than one.
    """
    import tensorflow as tf

    wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
    inner = wrapped.graph
    sources = [op.outputs[0] for op in inner.get_operations() if op.type == "Placeholder"]
    if len(sources) != 1 or sources[0].shape.rank not in (3, 4):
        found = ", ".join(f"{one.name} {one.shape}" for one in sources) or "nothing"
        raise PortError(f"{name}: takes {found}; a port has one input, an image")
    (source,) = sources
    taken = Input.of(source.name, source.shape.as_list(), source.dtype.as_numpy_dtype, in_channels, last=True)
    if outputs is None:
        used = {one.name for op in inner.get_operations() for one in op.inputs}
        ends = [one for op in inner.get_operations() for one in op.outputs if one.name not in used]
        outputs = [one.name for one in ends if one.shape.rank in (3, 4) or one.shape.rank is None]
    if not outputs:
        raise PortError(f"{name}: has no output of images")
    floats = {one.as_datatype_enum for one in (tf.float32, tf.float16, tf.float64, tf.bfloat16)}
    between = [
        one.name
        for op in inner.get_operations()
        if op.type not in ("Placeholder", "Const", "Identity")
        for one in op.outputs
        if one.dtype.as_datatype_enum in floats and one.name not in outputs
    ]
    fetched: dict[tuple[str, ...], Any] = {}

    def fetch(names: Sequence[str], data: np.ndarray) -> list[np.ndarray]:
        key = tuple(names)
        if key not in fetched:
            fetched[key] = wrapped.prune(source, [inner.get_tensor_by_name(one) for one in names])
        try:
            results = fetched[key](tf.constant(taken.fed(data)))
        except Exception as error:  # TensorFlow's errors
            raise failed(name, data, error) from None
        return [planes(np.asarray(one)) if taken.channels_last else np.asarray(one) for one in results]

    def values(data: np.ndarray) -> Values:
        found = up_to_failure(between, lambda some: fetch(some, data))
        return {key: value.astype(np.float32) for key, value in found.items() if value.ndim >= 2}

    def weights() -> Values:
        constants = (node for node in graph.node if node.op == "Const" and node.attr["dtype"].type in floats)
        found = {node.name: tf.make_ndarray(node.attr["value"].tensor) for node in constants}
        return {key: value.astype(np.float32) for key, value in found.items() if value.ndim}

    return Port(
        name, lambda data: fetch(outputs, data), values, taken.size, taken.channels, weights=weights,
        channels_last=taken.channels_last,
    )  # fmt: skip
