"""What the writers of a network's files from its table of layers share: `ncnn_file` and `onnx_table`."""

from __future__ import annotations

import numpy as np
from segtwin.errors import WeightsError

KINDS = ("weight", "bias", "running_mean", "running_var")
"""Of a layer's weights, in the order of every writer."""

INNER = "_inner"
"""Of the name of a value that is a blob without what was left out (`segtwin.geometry.dead_zones`)."""


def single(array: np.ndarray, name: str) -> np.ndarray:
    """In float32, as a model is built in.

    Raises:
        WeightsError: a number is none there.
    """
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise WeightsError(f"{name}: holds NaN, or numbers that float32 has not")
    return array
