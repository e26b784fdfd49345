"""Between the hub and a torch model: one table, walked both ways.

torch keeps Caffe's layouts, so only the names differ: `conv1_1/weight` is the parameter
`conv1_1.weight`, and `conv_d0a-b/weight` the parameter `conv_d0a_b.weight`. Networks that come from
torch keep their state_dict's keys in the hub.
"""

from __future__ import annotations

import copy
import os
import threading

import numpy as np
import segtwin_weights
import torch
from segtwin.architectures import get_architecture
from segtwin_weights import Weights
from segtwin_weights.fitting import check_values
from torch import nn

ONE_AT_A_TIME = threading.RLock()
"""torch's switch of kernels and a model's weights are for all threads: who changes them, or needs
them to stay, holds this."""


def table(model: nn.Module) -> dict[str, torch.Tensor]:
    """Hub name → the model's own tensor."""
    architecture = get_architecture(str(model.name))
    if architecture.naming != "caffe":
        return model.state_dict()
    layers = {layer.name.replace("-", "_"): layer.name for layer in architecture.layers}
    parts = ((*key.rsplit(".", 1), tensor) for key, tensor in model.state_dict().items())
    return {f"{layers[module]}/{kind}": tensor for module, kind, tensor in parts}


def blob_names(model: nn.Module) -> tuple[str, ...]:
    """The architecture's blobs that the model computes: with `logits`, all but the probability."""
    names = get_architecture(str(model.name)).blobs
    return names[:-1] if getattr(model, "logits", False) else names


def used_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The part of the table that goes into an ONNX file: without BatchNorm's counters, and without
    what the original carries along unused."""
    idle = get_architecture(str(model.name)).idle
    return {name: tensor for name, tensor in table(model).items() if name not in idle and tensor.is_floating_point()}


def load_weights(model: nn.Module, weights: Weights | str | os.PathLike[str]) -> None:
    """Copy weights into a model. The model is untouched unless all of them fit.

    Args:
        model: made by `build`.
        weights: of exactly this network, or a file that `segtwin_weights.read` understands.

    Raises:
        KeyError: names are missing or left over; the first of each and the count are named.
        ValueError: a shape differs; the first and the count are named.
        WeightsError: NaN, infinities, negative variances, or no numbers; the first is named.
        WeightsError, OSError: the file cannot be read.
    """
    weights = segtwin_weights.weights_for(weights, get_architecture(str(model.name)))
    slots = table(model)
    architecture = get_architecture(str(model.name))
    spare = architecture.unused
    have = {name: np.shape(blob) for name, blob in weights.items() if name not in spare}
    segtwin_weights.check_keys(have, {name: tuple(slot.shape) for name, slot in slots.items()}, str(model.name))
    check_values(
        weights, ((name, str(slot.dtype).removeprefix("torch.")) for name, slot in slots.items()), str(model.name)
    )
    preprocessing, _ = segtwin_weights.metadata.preprocessing_of(
        weights, architecture, getattr(model, "in_channels", None)
    )
    with ONE_AT_A_TIME, torch.no_grad():
        for name, slot in slots.items():
            if name not in architecture.aliases:  # the later key of a shared storage wins
                dtype = str(slot.dtype).removeprefix("torch.")
                slot.copy_(torch.from_numpy(np.require(weights[name], dtype, ["C", "W"])))
        model.metadata, model.preprocessing = dict(weights.metadata), preprocessing  # type: ignore[assignment]


def read_weights(model: nn.Module) -> Weights:
    """The model's weights in the hub's names and layouts and in the model's dtype, bit for bit;
    copies, so that later training leaves them alone."""
    slots, aliases = table(model), get_architecture(str(model.name)).aliases
    with ONE_AT_A_TIME:
        own = {name: slot.detach().cpu().numpy().copy() for name, slot in slots.items() if name not in aliases}
    blobs = {
        name: own[aliases.get(name, name)].reshape(slot.shape) for name, slot in slots.items()
    }  # shared here as there
    return Weights(blobs, dict(getattr(model, "metadata", {})))


def in_eval_mode(module: nn.Module) -> nn.Module:
    """The same module with the same parameters, buffers and hooks, in eval mode; the one that was
    given stays in its mode."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = {
        name: None if child is None else in_eval_mode(child) for name, child in module._modules.items()
    }
    twin.training = False
    return twin
