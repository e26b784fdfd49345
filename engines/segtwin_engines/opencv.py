"""OpenCV's Caffe importer as an engine: someone else's reader of the exported prototxt and .caffemodel."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import segtwin_weights
from segtwin import Architecture, threads
from segtwin_weights import Dimensions, Weights
from segtwin_weights.formats import prototxt


def start(
    architecture: Architecture, size: Dimensions, weights: Weights
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], dict[str, np.ndarray]], object]:
    """Weights of a network of Caffe's layers.

    Raises:
        ValueError: Caffe has not all of its layers.
        ImportError: this OpenCV has no Caffe importer (5 and later).
    """
    if not prototxt.writable(architecture):
        raise ValueError(f"{architecture.name}: opencv runs networks of Caffe's layers alone; use another engine")
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        raise ImportError("OpenCV 5 has no Caffe importer; pip install 'opencv-python-headless<5'")
    if count := threads.allowed():
        cv2.setNumThreads(count)
    with tempfile.TemporaryDirectory(prefix="segtwin-") as folder:
        file = Path(folder) / "network.caffemodel"
        # its importer takes float32 alone
        single = {name: blob.astype(np.float32) for name, blob in weights.items()}
        segtwin_weights.write(Weights(single, weights.metadata), file)
        deploy = str(file.with_suffix(".deploy.prototxt"))
        net, unfused = (cv2.dnn.readNetFromCaffe(deploy, str(file)) for _ in range(2))
    for one in (net, unfused):
        one.enableWinograd(False)  # rounds more than Caffe does
    unfused.enableFusion(False)
    layers = {layer.name: last_in_place(layer.name, layer.relu, layer.dropout) for layer in architecture.layers}

    def scores(data: np.ndarray) -> np.ndarray:
        net.setInput(data)
        return net.forward(layers[architecture.output])

    def blobs(data: np.ndarray) -> dict[str, np.ndarray]:
        unfused.setInput(data)
        values = unfused.forward(list(layers.values()))
        return {architecture.input: data} | {name: np.array(one) for name, one in zip(layers, values, strict=True)}

    return scores, blobs, net


def last_in_place(name: str, relu: bool, dropout: float) -> str:
    """The layer that leaves a blob as Caffe names it: the ReLU or Dropout that runs in place behind it."""
    if dropout:
        return prototxt.beside(name, "drop")
    return prototxt.beside(name, "relu") if relu else name
