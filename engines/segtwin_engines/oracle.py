"""The numpy implementation as an engine: slow, always installed, in float32 or float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from segtwin import Architecture, oracle
from segtwin_weights import Dimensions, Weights


def start(
    architecture: Architecture, size: Dimensions, weights: Weights
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], dict[str, np.ndarray]], object]:
    """Weights of a network; scores are computed in float32, as Caffe computes them, blobs in float64."""
    return (
        lambda data: oracle.run(architecture, weights, data, "float32")[architecture.output],
        lambda data: oracle.run(architecture, weights, data),
        weights,
    )
