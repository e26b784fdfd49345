"""OpenVINO on the CPU, in float32, as an engine: on ONNX files and on exports."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import openvino
from segtwin import Architecture, threads
from segtwin_weights import Dimensions, Weights, onnx_dead_zones

from segtwin_engines import onnxruntime
from segtwin_engines.engine import Engine

FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
"""By default OpenVINO computes in bfloat16 where the processor has it: 9e-3 off."""


def start(
    architecture: Architecture, size: Dimensions, weights: Weights
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], dict[str, np.ndarray]], object]:
    """Weights of a network, by way of its ONNX file."""
    folder = onnxruntime.export(architecture, weights)
    scores, of_file = compile_file(str(folder.path / "network.onnx"), architecture)

    def blobs(data: np.ndarray) -> dict[str, np.ndarray]:
        assert folder.path.exists()  # it lives as long as this function
        return of_file(data)

    return scores, blobs, folder


def open_file(
    path: str, network: str | None, in_channels: int | None, chosen: bool, say: Callable[[str], None]
) -> Engine:
    """An ONNX file, run as it is; what is known of it is found as for ONNX Runtime.

    Raises:
        ValueError: the file cannot be run.
    """
    found = onnxruntime.open_file(path, network, in_channels, chosen, say)
    scores, blobs = compile_file(path, found.architecture)
    return replace(found, name="openvino", scores=scores, blobs=blobs)


def compile_file(
    path: str, architecture: Architecture | None, options: Mapping[str, str] = MappingProxyType(FLOAT32)
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], dict[str, np.ndarray]]]:
    """scores and blobs of a file; `options` are OpenVINO's."""
    core = openvino.Core()
    chosen = {"INFERENCE_NUM_THREADS": str(threads.allowed() or 0), **options}  # 0: as it sees fit
    try:
        compiled = core.compile_model(core.read_model(path), "CPU", chosen)
    except RuntimeError as error:
        raise ValueError(f"{path}: OpenVINO cannot run it: {' '.join(str(error).split())[:300]}") from None

    def scores(data: np.ndarray) -> np.ndarray:
        return np.array(compiled(data)[0])

    def blobs(data: np.ndarray) -> dict[str, np.ndarray]:
        model: Any = core.read_model(path)
        source = model.input(0).get_any_name()
        names = [name for name in onnxruntime.blob_names(path, architecture) if name != source]
        held = onnx_dead_zones.held(names, onnx.load(path, load_external_data=False))
        outputs = {name for output in model.outputs for name in output.get_names()}
        model.add_outputs([value for value, _ in held.values() if value not in outputs])
        values = core.compile_model(model, "CPU", chosen)(data)
        return {source: data} | onnx_dead_zones.whole(held, (np.array(values[value]) for value, _ in held.values()))

    return scores, blobs


def onnx_blobs(
    path: str, data: np.ndarray, architecture: Architecture, overrides: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Blobs of an exported network, computed with other weights in the place of some.

    Args:
        path: a file of `export_onnx`.
        data: N×C×H×W.
        architecture: the network.
        overrides: hub name → array.
    """
    if not overrides:
        return compile_file(path, architecture)[1](data)
    with tempfile.TemporaryDirectory(prefix="segtwin-") as folder:
        model = onnx.load(path)
        for held in model.graph.initializer:
            if held.name in overrides:
                held.CopyFrom(onnx.numpy_helper.from_array(overrides[held.name], held.name))
        changed = str(Path(folder) / "network.onnx")
        onnx.save(model, changed, save_as_external_data=True)
        return compile_file(changed, architecture)[1](data)
