"""Between the hub and a Keras model: one table, walked both ways.

    hub                        Keras                    hub → Keras
    {}/weight  O×I×kh×kw       {}.kernel  kh×kw×I×O     2, 3, 1, 0    convolutions
    {}/weight  I×O×kh×kw       {}.kernel  kh×kw×O×I     2, 3, 1, 0    deconvolutions
    {}/bias    O               {}.bias    O

Networks that come from torch keep their state_dict's keys in the hub (`{}.weight`); their Keras layers have the names of the torch modules.
"""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
import segtwin_weights
from keras import layers
from segtwin import architectures
from segtwin_weights import Weights

KERNEL = (2, 3, 1, 0)
"""Transposition of a kernel from the hub to Keras; it is the same for convolutions and deconvolutions, since both turn I and O."""
BIAS = (0,)


def table(model: keras.Model) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Hub name → the model's own variable, and the transposition that brings the hub's array into its layout."""
    between = "/" if architectures.get(model.name).naming == "caffe" else "."
    slots: dict[str, tuple[Any, tuple[int, ...]]] = {}
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D | layers.Conv2DTranspose):
            slots[f"{layer.name}{between}weight"] = layer.kernel, KERNEL
            if layer.use_bias:
                slots[f"{layer.name}{between}bias"] = layer.bias, BIAS
    return slots


def load_weights(model: keras.Model, weights: Weights | str | os.PathLike[str]) -> None:
    """Copy weights into a model. The model is untouched unless all of them fit.

    Args:
        model: made by `build`.
        weights: of exactly this network, or a file that `segtwin_weights.read` understands.

    Raises:
        KeyError: names are missing or left over; the first of each and the count are named.
        ValueError: a shape differs; the first and the count are named. Or the weights were made for another colour order, mean or scale.
        WeightsError, OSError: the file cannot be read.
    """
    if isinstance(weights, str | os.PathLike):
        weights = segtwin_weights.read(weights)
    weights = segtwin_weights.as_row(weights, architectures.get(model.name))
    slots = table(model)
    have = {name: np.shape(blob) for name, blob in weights.items()}
    segtwin_weights.check_keys(have, {name: _hub_shape(*slot) for name, slot in slots.items()}, model.name)
    for name, (variable, to_keras) in slots.items():
        variable.assign(np.ascontiguousarray(np.transpose(weights[name], to_keras)))
    model.weights_metadata = dict(weights.metadata) if isinstance(weights, Weights) else {}


def read_weights(model: keras.Model) -> Weights:
    """The model's weights in the hub's names and layouts and in the model's dtype, bit for bit; copies, so that later training leaves them alone."""
    return Weights({name: hub_array(*slot) for name, slot in table(model).items()}, getattr(model, "weights_metadata", {}))


def hub_array(variable: Any, to_keras: tuple[int, ...]) -> np.ndarray:
    """One variable in the hub's layout, contiguous."""
    return np.array(np.transpose(variable.numpy(), np.argsort(to_keras)), order="C")


def _hub_shape(variable: Any, to_keras: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(variable.shape[axis] for axis in np.argsort(to_keras))
