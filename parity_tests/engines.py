"""The engines under test: each takes a row, weights and N×C×H×W data and returns every blob N×C×H×W."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import segtwin
import segtwin_keras
import segtwin_torch
from segtwin_cli.engines import onnx_blobs
from segtwin_weights import Weights, dimensions

TWINS = {"torch": segtwin_torch, "keras": segtwin_keras}
FOLDER = tempfile.TemporaryDirectory(prefix="segtwin-")


def made(framework: str, row: str, weights: Weights, dtype: str = "float32"):
    """A model of these weights, in their widths and for their classes; a variant of a row is made by its option."""
    base = segtwin.get_architecture(segtwin.get_architecture(row).variant_of or row)
    options = {option: True for option, variant in base.variants.items() if variant == row}
    return TWINS[framework].build(base.name, **dimensions(weights, base)._asdict(), weights=weights, dtype=dtype, **options)


model = cache(made)
"""The same, made once."""


def torch_engine(row: str, weights: Weights, data: np.ndarray, dtype: str = "float32") -> dict[str, np.ndarray]:
    return segtwin_torch.blobs(model("torch", row, weights, dtype), data)


def keras_engine(row: str, weights: Weights, data: np.ndarray, dtype: str = "float32") -> dict[str, np.ndarray]:
    return segtwin_keras.blobs(model("keras", row, weights, dtype), data)


@cache
def exported(framework: str, row: str, weights: Weights) -> Path:
    path = Path(FOLDER.name) / f"{row}-{id(weights)}-{framework}.onnx"
    TWINS[framework].export_onnx(model(framework, row, weights), path)
    return path


def onnx_of_torch(row: str, weights: Weights, data: np.ndarray) -> dict[str, np.ndarray]:
    return onnx_blobs(exported("torch", row, weights), data, segtwin.get_architecture(row).exported)


def onnx_of_keras(row: str, weights: Weights, data: np.ndarray) -> dict[str, np.ndarray]:
    return onnx_blobs(exported("keras", row, weights), data, segtwin.get_architecture(row).exported)


ENGINES = [torch_engine, keras_engine, onnx_of_torch, onnx_of_keras]
