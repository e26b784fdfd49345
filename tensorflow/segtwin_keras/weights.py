"""Between the hub and a Keras model: one table, walked both ways.

    hub                        Keras                    hub → Keras
    {}/weight  O×I×kh×kw       {}.kernel  kh×kw×I×O     2, 3, 1, 0    convolutions
    {}/weight  I×O×kh×kw       {}.kernel  kh×kw×O×I     2, 3, 1, 0    deconvolutions
    {}/bias    O               {}.bias    O
    {}/weight  C               {}.weight  C                           scales
    {}.weight, .bias, .running_mean, .running_var, .num_batches_tracked
                               {}.gamma, .beta, .moving_mean, .moving_variance, .num_batches_tracked    BatchNorm

Networks that come from torch keep their state_dict's keys in the hub (`{}.weight`); their Keras
layers have the names of the torch modules. Of two keys that share their storage, the model holds
the later one, and the other is an O×I view of it.
"""

from __future__ import annotations

import math
import os
import threading
from typing import Any

import keras
import numpy as np
from keras import layers
from segtwin_weights import Weights, building
from segtwin_weights.layouts import TO_HWIO

from segtwin_keras.fcn import Scale
from segtwin_keras.network import Network, checked_network
from segtwin_keras.unet import BatchNorm
from segtwin_keras.unet_zoo import Idle
from segtwin_keras.vggfcn import Carried

BIAS = (0,)
BATCHNORM = {
    "weight": ("gamma", BIAS),
    "bias": ("beta", BIAS),
    "running_mean": ("moving_mean", BIAS),
    "running_var": ("moving_variance", BIAS),
    "num_batches_tracked": ("num_batches_tracked", ()),
}


ONE_AT_A_TIME = threading.RLock()
"""A model's weights are for all threads: who changes them, or needs them to stay, holds this."""


def table(model: Network) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Hub name → the model's own variable, and the transposition that brings the hub's array into
    its layout."""
    architecture = model.architecture
    slots: dict[str, tuple[Any, tuple[int, ...]]] = {}
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D | layers.Conv2DTranspose):
            slots[architecture.parameter_name(layer.name, "weight")] = layer.kernel, TO_HWIO
            if layer.use_bias:
                slots[architecture.parameter_name(layer.name, "bias")] = layer.bias, BIAS
        elif isinstance(layer, Scale):
            slots[architecture.parameter_name(layer.name, "weight")] = layer.weight, BIAS
        elif isinstance(layer, BatchNorm):
            slots |= {
                architecture.parameter_name(layer.name, kind): (getattr(layer, name), order)
                for kind, (name, order) in BATCHNORM.items()
            }
        elif isinstance(layer, Carried | Idle):
            slots |= {
                architecture.parameter_name(layer.name, name): (variable, tuple(range(len(variable.shape))))
                for name, variable in layer.carried.items()
            }
    return slots


def blob_names(model: Network) -> tuple[str, ...]:
    """The architecture's blobs that the model computes: with `logits`, all but the probability."""
    names = model.architecture.blobs
    return names[:-1] if model.arguments.get("logits") else names


def blob_tensors(model: Network) -> dict[str, keras.KerasTensor]:
    """Map blob names to KerasTensors; blobs off the output path are in `model.aside`."""
    layers_by_name = {layer.name: layer for layer in model.layers}
    modules = {layer.name: layer.module for layer in model.architecture.layers}
    aside: dict[str, keras.KerasTensor] = getattr(model, "aside", {})
    found = {}
    for name in blob_names(model):
        if name in aside:
            found[name] = aside[name]
        else:
            found[name] = layers_by_name[name if name in layers_by_name else modules[name]].output
    return found


def used_weights(model: Network) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """The part of the table that goes into an ONNX file: without BatchNorm's counters, and without
    what the output does not come from."""
    left_out = model.architecture.not_exported
    return {
        name: slot
        for name, slot in table(model).items()
        if name not in left_out and keras.backend.is_float_dtype(slot[0].dtype)
    }


def load_weights(model: keras.Model, weights: Weights | str | os.PathLike[str]) -> None:
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
    network = checked_network(model)
    slots = table(network)
    wanted = {name: (_hub_shape(*slot), slot[0].dtype) for name, slot in slots.items()}
    for name, owner in network.architecture.aliases.items():
        (outputs, *window), dtype = wanted[owner]
        wanted[name] = (outputs, math.prod(window)), dtype
    weights, preprocessing = building.fitted(network.architecture, weights, network.in_channels, wanted)
    with ONE_AT_A_TIME:
        for name, (variable, to_keras) in slots.items():
            variable.assign(np.require(np.transpose(weights[name], to_keras), variable.dtype, "C"))
        network.metadata, network.preprocessing = dict(weights.metadata), preprocessing


def read_weights(model: keras.Model) -> Weights:
    """The model's weights in the hub's names and layouts and in the model's dtype, bit for bit;
    copies, so that later training leaves them alone."""
    network = checked_network(model)
    with ONE_AT_A_TIME:
        own = {name: hub_array(*slot) for name, slot in table(network).items()}
    aliases = network.architecture.aliases
    blobs = own | {name: own[owner].reshape(len(own[owner]), -1) for name, owner in aliases.items()}
    return Weights(blobs, dict(network.metadata))


def hub_array(variable: Any, to_keras: tuple[int, ...]) -> np.ndarray:
    """One variable in the hub's layout, contiguous."""
    return np.array(np.transpose(variable.numpy(), np.argsort(to_keras)), order="C")


def _hub_shape(variable: Any, to_keras: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(variable.shape[axis] for axis in np.argsort(to_keras))
