"""Ways to compute a network's blobs, one function an engine, all with the same arguments: what parity is measured between."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from segtwin_cli.extras import missing

ENGINES = ("onnxruntime", "torch", "keras", "oracle")
"""What can compute a network; "oracle" is numpy in float64, which is always there."""


def available_engines() -> list[str]:
    """The engines that are installed here, none of them imported."""
    return [engine for engine in ENGINES if engine == "oracle" or not missing(engine)]


def onnx_blobs(
    path: str | os.PathLike[str], data: np.ndarray, names: Sequence[str], overrides: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Blobs of an exported network by ONNX Runtime on the CPU.

    Args:
        path: a file of `export_onnx`; its values carry the names of the blobs.
        data: N×C×H×W.
        names: which blobs; the network's input may be among them.
        overrides: weights to compute with in place of the file's, hub name → array.

    Raises:
        ValueError: the graph has no such value.
    """
    import onnx
    import onnxruntime

    # The session gets a copy of the graph in which every blob is an output; the weights stay in the file.
    model = onnx.load(os.fspath(path), load_external_data=False)
    graph = model.graph
    for initializer in graph.initializer:
        if overrides and initializer.name in overrides:
            initializer.CopyFrom(onnx.numpy_helper.from_array(overrides[initializer.name], initializer.name))
    wanted = [name for name in names if name != graph.input[0].name]
    computed = {value for node in graph.node for value in node.output}
    if missing := [name for name in wanted if name not in computed]:
        raise ValueError(f"{path}: the graph has no blob {missing[0]!r} ({len(missing)} missing)")
    present = {output.name for output in graph.output}
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted if name not in present)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(Path(path).resolve().parent))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = session.run(wanted, {graph.input[0].name: data})
    return {graph.input[0].name: data, **dict(zip(wanted, values, strict=True))}
