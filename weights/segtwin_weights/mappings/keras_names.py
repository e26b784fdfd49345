"""What the arrays of a Keras file are: the layer that each belongs to, and its part in it.

    stated    the .h5 of Keras 1 and 2: `weight_names` say "inner/norm/moving_mean:0", or
              "convolution2d_1_W" before Keras 2
    counted   Keras 3 says `layers/batch_normalization_2/vars/1`: the layer's class and config say which
              variable is the first, where there is one

A layer in a model in a model has its own name; only names that are there twice are lengthened by
those of the models around them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from segtwin_weights.hub import WeightsError

DEEPEST = 16
"""How deep models may lie in each other."""
KINDS = {
    "kernel": "weight", "W": "weight", "weights": "weight", "gamma": "weight", "b": "bias", "beta": "bias",
    "biases": "bias",
    "moving_mean": "running_mean", "moving_variance": "running_var", "running_variance": "running_var",
    "running_std": "running_var",
}  # fmt: skip
"""Keras' word → the hub's. Keras 1 called the variance of BatchNorm running_std."""
FLAT = re.compile(r"(.*)_(W|b|gamma|beta|running_mean|running_std|kernel|bias)(?:_\d+)?")
"""How Keras 1 joined a layer's name and the variable's."""
KERNELS = ("weight", "depthwise_kernel", "pointwise_kernel")
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
BY_CLASS = {
    "depthwise_conv2d": ("depthwise_kernel", "bias"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "p_re_lu": ("alpha",),
    "scale": ("weight",),
    "embedding": ("embeddings",),
}
NORMALISED = ("batch_normalization", "layer_normalization", "group_normalization")
"""Classes whose first variables, gamma and beta, can be left out."""


class Described(NamedTuple):
    """A layer in a model's config."""

    name: str
    kind: str
    """Its class, in the snake_case by which Keras 3 counts."""
    config: Mapping[str, Any]
    nested: bool
    """It is a model of layers."""


@dataclass
class Layer:
    """The arrays of one layer, in the order of the file; a part is None where nothing states it."""

    path: tuple[str, ...]
    """Names of the models around it, from the outermost, and its own."""
    kind: str = ""
    config: Mapping[str, Any] | None = None
    parts: list[str | None] = field(default_factory=list)
    arrays: list[np.ndarray] = field(default_factory=list)


def snake(name: str) -> str:
    """`Conv2DTranspose` as Keras 3 writes it: conv2d_transpose."""
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


def described(
    config: Any, around: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], Described]]:
    """(counted path, path of names, layer) of every layer of a model's config; Keras counts the
    layers of a class, model by model."""
    inner = config.get("config") if isinstance(config, dict) else None
    # Keras 1 and 2.0 list a Sequential's layers at once
    layers = inner.get("layers") if isinstance(inner, dict) else inner
    counts: Counter[str] = Counter()
    for layer in layers if isinstance(layers, list) and len(around) < DEEPEST else []:
        settings = layer["config"]
        kind = snake(str(layer["class_name"]))
        number, counts[kind] = counts[kind], counts[kind] + 1
        own = settings if isinstance(settings, dict) else {}
        name = str(own.get("name", layer.get("name", kind)))
        nested = isinstance(settings, list) or isinstance(own.get("layers"), list)
        counted = f"{kind}_{number}" if number else kind
        yield (counted,), (name,), Described(name, kind, own, nested)
        if nested:
            for below, names, one in described(layer, (*around, name)):
                yield (counted, *below), (name, *names), one


def stated(group: str, name: str) -> tuple[tuple[str, ...], str | None]:
    """(layers that lead to an array, its part) as an entry of a group's `weight_names` says; no
    part where it only counts."""
    *parents, last = re.sub(r":\d+$", "", name).split("/")
    if re.fullmatch(r"param_\d+", last):
        return tuple(parents), None
    flat = FLAT.fullmatch(last)
    # block1_conv1/block1_conv1_W_1:0 in keras.applications' own files
    if flat and (not parents or flat[1] == parents[-1]):
        parents, last = parents or [flat[1]], flat[2]
    elif (stem := re.sub(r"_\d+$", "", last)) in KINDS:
        last = stem  # kernel_1: a second model of one session
    return tuple(parents), KINDS.get(last, last)


def place(group: str, parents: tuple[str, ...], others: bool, nested: bool | None) -> tuple[str, ...]:
    """The path of an array's layer.

    Args:
        group: the outermost layer, by which the file groups.
        parents: as `stated` in the array's name.
        others: arrays of the group have other parents.
        nested: whether the group is a model, where a config tells.
    """
    own = group.rsplit("/", 1)[-1]
    below = parents[1:] if parents[:1] == (group,) else parents
    renamed = not below or below[-1] == own or re.fullmatch(rf"{re.escape(own)}_\d+", below[-1])
    if nested is False and not others:
        return (group,)
    if not others and renamed and not nested:
        return (group,)
    return (group, *below) if below else (group,)


def unique_names(layers: list[Layer]) -> list[str]:
    """The layers' own names; those that several have, with the models around them."""
    counts = Counter(layer.path[-1] for layer in layers)
    return [layer.path[-1] if counts[layer.path[-1]] == 1 else "/".join(layer.path) for layer in layers]


def parts(path: object, name: str, layer: Layer) -> list[str]:
    """The hub's word for each array of a layer: stated, or by the layer's class and config.

    Raises:
        WeightsError: a normalisation lacks some of its variables, and nothing tells which.
    """
    if layer.parts and all(part is not None for part in layer.parts):
        named = [part for part in layer.parts if part is not None]
        alone = "depthwise_kernel" in named and "pointwise_kernel" not in named and "weight" not in named
        return ["weight" if alone and part == "depthwise_kernel" else part for part in named]
    arrays, count = layer.arrays, len(layer.arrays)
    kind = re.sub(r"_\d+$", "", layer.kind)
    if kind in NORMALISED:
        return _normalisation(path, name, layer, kind)
    if count >= 4 and all(array.ndim == 1 and array.shape == arrays[0].shape for array in arrays[:4]):
        known: tuple[str, ...] = (*BATCH_NORM, "num_batches_tracked")
    elif kind in BY_CLASS:
        known = BY_CLASS[kind]
        known = ("weight", *known[1:]) if kind == "depthwise_conv2d" else known
    elif arrays[0].ndim > 1 and all(array.ndim == 1 for array in arrays[1:2]):
        known = ("weight", "bias")
    else:
        known = ()
    return [known[i] if i < len(known) else f"var{i}" for i in range(count)]


def _normalisation(path: object, name: str, layer: Layer, kind: str) -> list[str]:
    batch = kind == "batch_normalization"
    rest = BATCH_NORM[2:] if batch else ()
    count = len(layer.arrays)
    affine = count - len(rest)
    if layer.config is not None and {"scale", "center"} <= layer.config.keys():
        names = [word for word, key in (("weight", "scale"), ("bias", "center")) if layer.config[key]]
        if len(names) == affine:
            return [*names, *rest]
    elif affine in (0, 2):
        return [*BATCH_NORM[:affine], *rest]
    elif affine == 1:
        raise WeightsError(
            f"{path}: {name} is a {kind} without gamma or without beta, and the file does not say which; save the "
            "whole model "
            "(model.save('NAME.keras')), whose config does"
        )
    raise WeightsError(
        f"{path}: {name} has {count} arrays, not those of a {kind}; the file is damaged or of a layer that is not "
        "known here"
    )
