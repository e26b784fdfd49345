"""Caffe itself as an engine, where pycaffe can be imported."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import caffe
import numpy as np
import segtwin_weights
from segtwin import Architecture
from segtwin_weights import Dimensions, Weights
from segtwin_weights.formats import prototxt


def start(
    architecture: Architecture, size: Dimensions, weights: Weights
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], dict[str, np.ndarray]], object]:
    """Weights of a network of Caffe's layers, on the CPU.

    Raises:
        ValueError: Caffe has not all of its layers.
    """
    if not prototxt.writable(architecture):
        raise ValueError(f"{architecture.name}: caffe runs networks of Caffe's layers alone; use another engine")
    with tempfile.TemporaryDirectory(prefix="segtwin-") as folder:
        file = Path(folder) / "network.caffemodel"
        segtwin_weights.write(weights, file)
        caffe.set_mode_cpu()
        net = caffe.Net(str(file.with_suffix(".deploy.prototxt")), str(file), caffe.TEST)

    def blobs(data: np.ndarray) -> dict[str, np.ndarray]:
        net.blobs[architecture.input].reshape(*data.shape)
        net.blobs[architecture.input].data[...] = data
        net.forward()
        return {name: net.blobs[name].data.copy() for name in architecture.blobs}

    return lambda data: blobs(data)[architecture.output], blobs, net
