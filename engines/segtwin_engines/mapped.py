"""ONNX Runtime sessions that are saved as they are when they are ready, and mapped into memory at the next start.

A session of FCN-8s takes seconds to make: the graph is rewritten for the processor, and every weight is moved into
the order that its kernel reads. A saved one takes a few hundredths of a second, and the weights are in memory once,
not twice. It computes the same bits.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from segtwin import Architecture
from segtwin_weights import Weights, onnx_session

FILE = "network.onnx"
PLAIN = "plain"
"""Folder of the graph as it is written."""
LARGEST = 64_000_000
"""Bytes of a kernel: while ONNX Runtime moves one into another order it holds it three times, and fc6 has 411 MB."""
EXTERNAL_FROM = "1024"
"""Bytes of an array from which on it goes into the file that is mapped."""


def write(weights: Weights, architecture: Architecture, folder: Path) -> None:
    """Write a network into a folder, for `finish`.

    Raises:
        WeightsError: a weight is no number of float32.
        OSError: it cannot be written.
    """
    from segtwin_weights import onnx_table  # a start that finds everything prepared needs no `onnx`

    onnx_table.write(weights, architecture, folder / PLAIN / FILE, most=LARGEST)


def finish(folder: Path) -> None:
    """Make a session of what was written, and save it in its place."""
    plain = folder / PLAIN / FILE
    options = onnx_session.options(3)
    options.optimized_model_filepath = str(folder / FILE)
    for entry, value in (
        ("optimized_model_external_initializers_file_name", f"{FILE}.data"),
        ("optimized_model_external_initializers_min_size_in_bytes", EXTERNAL_FROM),
        ("save_external_prepacked_constant_initializers", "1"),
    ):
        options.add_session_config_entry(f"session.{entry}", value)
    onnxruntime.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
    shutil.rmtree(plain.parent)


def open_prepared(folder: Path, architecture: Architecture) -> Callable[[np.ndarray], np.ndarray]:
    """The scores of a session that `finish` saved."""
    options = onnx_session.options(3)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is optimized
    session = onnxruntime.InferenceSession(str(folder / FILE), options, providers=["CPUExecutionProvider"])

    def scores(data: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {architecture.input: data})[0])

    return scores
