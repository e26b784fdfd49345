"""ONNX files, in ONNX Runtime, with every value of the graph as an output."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from segtwin_weights import onnx_dead_zones, onnx_session
from segtwin_weights.onnx_check import first_line, load_graph, read_tensor

from segtwin_engines.ports.port import Input, Port, PortError, Values, failed, up_to_failure

TYPES: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32, "tensor(int64)": np.int64,
}  # fmt: skip


def of_file(path: Path, kind: str, in_channels: int | None) -> Port:
    """Open an ONNX file.

    Raises:
        PortError: ONNX Runtime cannot run it, or it takes no image.
    """
    try:
        graph = load_graph(path)
        plain = session(path, None)
    except Exception as error:  # ONNX Runtime's errors have no class in common
        raise PortError(f"{path}: ONNX Runtime cannot run it: {first_line(error)}") from None
    inputs = plain.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in TYPES:
        found = ", ".join(f"{one.name} {one.type} {'×'.join(map(str, one.shape))}" for one in inputs)
        raise PortError(f"{path}: takes {found}; a port has one input, an image")
    try:
        source = Input.of(inputs[0].name, inputs[0].shape, TYPES[inputs[0].type], in_channels, last=False)
    except ValueError as error:
        raise PortError(f"{path}: {error}") from None
    nodes = {name: node for node in graph.graph.node for name in node.output if name}
    inner = onnx_dead_zones.held(onnx_dead_zones.stated(graph), graph)
    blobs = {value: name for name, (value, _) in inner.items()}
    repeats = {value: repeat for value, repeat in inner.values() if repeat is not None}
    opened: dict[int, onnxruntime.InferenceSession] = {}

    def run(data: np.ndarray) -> list[np.ndarray]:
        try:
            return [one for one in plain.run(None, {source.name: source.fed(data)}) if isinstance(one, np.ndarray)]
        except Exception as error:
            raise failed(str(path), data, RuntimeError(reason(error))) from None

    def values(data: np.ndarray) -> Values:
        outputs = {one.name for one in plain.get_outputs()}
        every = [name for node in graph.graph.node for name in node.output if name and name not in outputs]

        def fetch(some: Sequence[str]) -> list[Any]:
            last = max(number for number, node in enumerate(graph.graph.node) if some[-1] in node.output)
            if last not in opened:  # ONNX Runtime runs a whole graph, whatever is asked of it
                opened[last] = session(path, graph, last + 1)
            there = {one.name for one in opened[last].get_outputs()}
            asked = [name for name in some if name in there]
            found = dict(zip(asked, opened[last].run(asked, {source.name: source.fed(data)}), strict=True))
            return [found.get(name) for name in some]

        found = up_to_failure(every, fetch)
        return {
            blobs.get(name, name): repeats[name].whole(value) if name in repeats else value
            for name, value in found.items()
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim >= 2
        }

    def weights() -> Values:
        constants = {one.name: one for one in graph.graph.initializer}
        for node in graph.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                constants[node.output[0]] = node.attribute[0].t
        found = {name: read_tensor(one, path) for name, one in constants.items()}
        return {
            name: array.astype(np.float32, copy=False)
            for name, array in found.items()
            if array.dtype.kind == "f" and array.ndim
        }

    return Port(
        str(path), run, values, source.size, source.channels, nodes=nodes, weights=weights,
        channels_last=source.channels_last,
    )  # fmt: skip


def reason(error: Exception) -> str:
    """What ONNX Runtime says of a run that failed: the node, and what is wrong; not where in its source that is."""
    text = " ".join(str(error).split())
    node = re.search(r"running (\w+) node\. Name:'([^']*)'", text)
    what = text.rpartition(" was false. ")[2][-160:]
    return f"{node[1]} {node[2]}: {what}" if node else what


def session(path: Path, graph: onnx.ModelProto | None, nodes: int = 0) -> onnxruntime.InferenceSession:
    """A session of a file as it is, or of the first nodes of its graph with every value as an output."""
    options = onnx_session.options(4)
    if graph is None:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.resolve().parent))
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    del changed.graph.node[nodes:]
    del changed.graph.output[:]
    names = dict.fromkeys(name for node in changed.graph.node for name in node.output if name)
    changed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return onnxruntime.InferenceSession(changed.SerializeToString(), options, providers=["CPUExecutionProvider"])
