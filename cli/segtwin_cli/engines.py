"""Ways to compute a network's blobs, one function an engine, all with the same arguments: what
parity is measured between."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from segtwin_cli.extras import missing

ENGINES = ("onnxruntime", "torch", "keras", "oracle")
"""What can compute a network; "oracle" is numpy in float64, which is always there."""


def available_engines() -> list[str]:
    """The engines that are installed here, none of them imported."""
    return [engine for engine in ENGINES if engine == "oracle" or not missing(engine)]


def onnx_blobs(
    path: str | os.PathLike[str],
    data: np.ndarray,
    names: Sequence[str],
    overrides: Mapping[str, np.ndarray] | None = None,
    held: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Blobs of an exported network by ONNX Runtime on the CPU.

    Args:
        path: a file of `export_onnx`; its values carry the names of the blobs.
        data: N×C×H×W.
        names: which blobs; the network's input may be among them.
        overrides: weights to compute with in place of the file's, hub name → array.
        held: what the file should hold of these; where it holds something else, that stays, so that
            the comparison shows it.

    Raises:
        ValueError: it is no ONNX file, or cannot be run; the graph has no such value.
    """
    from segtwin_weights.onnx_check import first_line, onnx_values, values_of

    if overrides and held is not None:
        own = values_of(path, overrides)
        overrides = {
            name: array for name, array in overrides.items() if name in own and np.array_equal(own[name], held[name])
        }
    try:
        return onnx_values(path, data, names, overrides)
    except Exception as error:  # ONNX Runtime's errors have no class in common
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise ValueError(f"{path}: ONNX Runtime cannot run it: {first_line(error)}") from None
