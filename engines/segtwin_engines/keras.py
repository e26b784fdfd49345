"""Keras, on TensorFlow, as an engine."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
from segtwin import Architecture
from segtwin_weights import Dimensions, Weights

from segtwin_engines.quiet import quiet_start

with quiet_start():
    import segtwin_keras
    from segtwin_keras import read_weights
    from segtwin_keras.network import checked_network as network_of

__all__ = ["gives_logits", "network_of", "of_network", "read_weights", "start", "twin"]

Started = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], dict[str, np.ndarray]], object]
"""scores, blobs, and what has to live as long as they do."""


def twin() -> ModuleType:
    """`segtwin_keras`."""
    return segtwin_keras


def start(architecture: Architecture, size: Dimensions, weights: Weights) -> Started:
    """Weights of a network in a model of Keras."""
    return of_network(segtwin_keras.build(architecture.name, **size._asdict(), weights=weights))


def of_network(model: segtwin_keras.Network) -> Started:
    """A model of `segtwin_keras`, run in inference."""

    def scores(data: np.ndarray) -> np.ndarray:
        output = model(data.transpose(0, 2, 3, 1).astype(model.input.dtype, copy=False), training=False)
        return np.ascontiguousarray(output.numpy().transpose(0, 3, 1, 2))

    return scores, lambda data: segtwin_keras.blobs(model, data), model


def gives_logits(model: segtwin_keras.Network) -> bool:
    """Whether the last sigmoid was left off."""
    return bool(model.arguments.get("logits"))
