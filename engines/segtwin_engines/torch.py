"""PyTorch as an engine."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import segtwin_torch
import torch
from segtwin import Architecture
from segtwin_torch import read_weights
from segtwin_torch.network import unwrap as network_of
from segtwin_torch.weights import in_eval_mode
from segtwin_weights import Dimensions, Weights

__all__ = ["gives_logits", "network_of", "of_network", "read_weights", "start", "twin"]

Started = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], dict[str, np.ndarray]], object]
"""scores, blobs, and what has to live as long as they do."""


def twin() -> ModuleType:
    """`segtwin_torch`."""
    return segtwin_torch


def start(architecture: Architecture, size: Dimensions, weights: Weights) -> Started:
    """Weights of a network in a model of PyTorch."""
    return of_network(segtwin_torch.build(architecture.name, **size._asdict(), weights=weights))


def of_network(model: segtwin_torch.Network) -> Started:
    """A model of `segtwin_torch`, run in eval mode whatever its own mode is."""
    running = in_eval_mode(model)
    like: Any = next(model.parameters())

    def scores(data: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            output = running(torch.from_numpy(data).to(like.device, like.dtype))
        return output.contiguous().cpu().numpy()

    return scores, lambda data: segtwin_torch.blobs(model, data), model


def gives_logits(model: segtwin_torch.Network) -> bool:
    """Whether the last sigmoid was left off."""
    return model.logits
