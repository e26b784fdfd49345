"""The engines under test: each takes an architecture, weights and N×C×H×W data and returns every
blob N×C×H×W."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import segtwin_keras
import segtwin_torch
import torch
from segtwin.architectures import get_architecture
from segtwin_engines.onnxruntime import onnx_blobs
from segtwin_weights import Weights, dimensions

TWINS = {"torch": segtwin_torch, "keras": segtwin_keras}
FOLDER = tempfile.TemporaryDirectory(prefix="segtwin-")


def made(framework: str, architecture: str, weights: Weights, dtype: str = "float32"):
    """A model of these weights, in their widths and for their classes; a variant of an architecture
    is made by its option."""
    base = get_architecture(get_architecture(architecture).variant_of or architecture)
    options = {option: True for option, variant in base.variants.items() if variant.name == architecture != base.name}
    return TWINS[framework].build(
        base.name, **dimensions(weights, base)._asdict(), weights=weights, dtype=dtype, **options
    )


model = cache(made)
"""The same, made once."""


def torch_engine(
    architecture: str, weights: Weights, data: np.ndarray, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    return segtwin_torch.blobs(model("torch", architecture, weights, dtype), data)


def keras_engine(
    architecture: str, weights: Weights, data: np.ndarray, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    return segtwin_keras.blobs(model("keras", architecture, weights, dtype), data)


def scores(framework: str, network, data: np.ndarray) -> np.ndarray:
    """What a call of the model gives, N×C×H×W: by default kernels, and of an FCN without its dead zones."""
    if framework == "torch":
        with torch.inference_mode():
            return network(torch.from_numpy(data)).numpy()
    return np.asarray(network(np.ascontiguousarray(data.transpose(0, 2, 3, 1)))).transpose(0, 3, 1, 2)


@cache
def exported(framework: str, architecture: str, weights: Weights) -> Path:
    path = Path(FOLDER.name) / f"{architecture}-{id(weights)}-{framework}.onnx"
    TWINS[framework].export_onnx(model(framework, architecture, weights), path)
    return path


def onnx_of_torch(architecture: str, weights: Weights, data: np.ndarray) -> dict[str, np.ndarray]:
    return onnx_blobs(exported("torch", architecture, weights), data, get_architecture(architecture).exported)


def onnx_of_keras(architecture: str, weights: Weights, data: np.ndarray) -> dict[str, np.ndarray]:
    return onnx_blobs(exported("keras", architecture, weights), data, get_architecture(architecture).exported)


ENGINES = [torch_engine, keras_engine, onnx_of_torch, onnx_of_keras]
