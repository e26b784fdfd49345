"""Between the hub and a torch model: one table, walked both ways.

torch keeps Caffe's layouts, so only the names differ: `conv1_1/weight` is the parameter
`conv1_1.weight`, and `conv_d0a-b/weight` the parameter `conv_d0a_b.weight`. Networks that come from
torch keep their state_dict's keys in the hub.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import torch
from segtwin_weights import Weights, building
from torch import nn

from segtwin_torch.network import Network, unwrap

M = TypeVar("M", bound=nn.Module)

ONE_AT_A_TIME = threading.RLock()
"""torch's switch of kernels and a model's weights are for all threads: who changes them, or needs
them to stay, holds this."""


def hub_names(model: Network, keys: Iterable[str]) -> dict[str, str]:
    """Key of the state_dict → hub name."""
    architecture = model.architecture
    if architecture.naming != "caffe":
        return {key: key for key in keys}
    layers = {layer.name.replace("-", "_"): layer.name for layer in architecture.layers}
    parts = {key: key.rsplit(".", 1) for key in keys}
    return {key: f"{layers[module]}/{kind}" for key, (module, kind) in parts.items()}


def table(model: Network) -> dict[str, torch.Tensor]:
    """Hub name → the model's own tensor."""
    state = model.state_dict()
    return {name: state[key] for key, name in hub_names(model, state).items()}


def parameter_table(model: Network) -> dict[str, nn.Parameter]:
    """Hub name → the model's own parameter, which autograd knows."""
    parameters = dict(model.named_parameters())
    return {name: parameters[key] for key, name in hub_names(model, parameters).items()}


def blob_names(model: Network) -> tuple[str, ...]:
    """The architecture's blobs that the model computes: with `logits`, all but the probability."""
    names = model.architecture.blobs
    return names[:-1] if model.logits else names


def used_weights(model: Network) -> dict[str, torch.Tensor]:
    """The part of the table that goes into an ONNX file: without BatchNorm's counters, and without
    what the output does not come from."""
    left_out, slots = model.architecture.not_exported, table(model)
    return {name: tensor for name, tensor in slots.items() if name not in left_out and tensor.is_floating_point()}


def load_weights(model: nn.Module, weights: Weights | str | os.PathLike[str]) -> None:
    """Copy weights into a model. The model is untouched unless all of them fit.

    Args:
        model: made by `build`.
        weights: of exactly this network, or a file that `segtwin_weights.read` understands.

    Raises:
        TypeError: the model is no network of `build`.
        WeightNamesError: names are missing or left over; the first of each and the count are named.
        WeightsError: a shape differs; NaN, infinities, negative variances, or no numbers; the first
            is named.
        WeightsError, OSError: the file cannot be read.
    """
    network = unwrap(model)
    slots = table(network)
    wanted = {name: (tuple(slot.shape), dtype_name(slot)) for name, slot in slots.items()}
    weights, preprocessing = building.fitted(network.architecture, weights, network.in_channels, wanted)
    with ONE_AT_A_TIME, torch.no_grad():
        for name, slot in slots.items():
            if name not in network.architecture.aliases:  # the later key of a shared storage wins
                slot.copy_(torch.from_numpy(np.require(weights[name], dtype_name(slot), ["C", "W"])))
        network.metadata, network.preprocessing = dict(weights.metadata), preprocessing


def read_weights(model: nn.Module) -> Weights:
    """The model's weights in the hub's names and layouts and in the model's dtype, bit for bit;
    copies, so that later training leaves them alone."""
    network = unwrap(model)
    slots, aliases = table(network), network.architecture.aliases
    with ONE_AT_A_TIME:
        own = {name: slot.detach().cpu().numpy().copy() for name, slot in slots.items() if name not in aliases}
    blobs = {name: own[aliases.get(name, name)].reshape(slot.shape) for name, slot in slots.items()}  # shared as there
    return Weights(blobs, dict(network.metadata))


def dtype_name(tensor: torch.Tensor) -> str:
    """ "float32" of torch.float32."""
    return str(tensor.dtype).removeprefix("torch.")


def in_eval_mode(module: M) -> M:
    """The same module with the same parameters, buffers and hooks, in eval mode; the one that was
    given stays in its mode."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = {
        name: None if child is None else in_eval_mode(child) for name, child in module._modules.items()
    }
    twin.training = False
    return twin
