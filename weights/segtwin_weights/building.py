"""What both twins do before they build a network: check the arguments, take sizes from the weights, start the rest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from segtwin import Preprocessing
from segtwin.architectures import Architecture, get_architecture, list_architectures
from segtwin.arguments import check_build, check_memory, network_name, shown
from segtwin.errors import ArchitectureError

import segtwin_weights
from segtwin_weights import metadata
from segtwin_weights.hub import Weights, WeightsError, check_finite, check_keys
from segtwin_weights.initialize import initialize
from segtwin_weights.mappings import names

DTypeName = Literal["float32", "float64"]
Pad = Literal["reflect"]
PADS = (None, "reflect")


class Plan(NamedTuple):
    """How a network is built."""

    architecture: Architecture
    """Its own, or the variant that the options select."""
    arguments: dict[str, Any]
    """Keyword arguments of the class or function on the network's page."""
    weights: Weights
    """Weights to load into it."""


def plan(
    name: str,
    *,
    num_classes: int | None,
    in_channels: int | None,
    widths: tuple[int, ...] | None,
    weights: Weights | str | os.PathLike[str] | None,
    logits: bool,
    dropout: float | None,
    dtype: str,
    seed: int | None,
    pad: str | None,
    use_dilated: bool,
    random_init_fc8: bool,
    bilinear: bool | None,
) -> Plan:
    """Check the arguments of `build` and complete them.

    Args:
        name: one of `list_networks()`; the others are described at `build` of the twins.

    Raises:
        TypeError: an argument is of another type.
        ArchitectureError: there is no such network, or it does not have such an option.
        ValueError: an argument is out of bounds, or contradicts the weights.
        WeightsError, OSError: the weights cannot be read.
    """
    base = get_architecture(network_name(name, list_architectures()))
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype is 'float32' or 'float64', not {dtype!r}")
    if pad not in PADS:
        raise ValueError(f"pad is None or 'reflect', not {pad!r}")
    switches = {"logits": logits, "use_dilated": use_dilated, "random_init_fc8": random_init_fc8}
    switches |= {} if bilinear is None else {"bilinear": bilinear}
    for option, value in switches.items():
        if not isinstance(value, bool):
            raise TypeError(f"{option} is True or False, not {shown(value)}")
    if bilinear is not None and any(
        one.variants.get("bilinear") is base for one in map(get_architecture, list_architectures())
    ):
        if not bilinear:
            raise ArchitectureError(f"{base.name} with bilinear=False: it is the bilinear one; build unet-milesial")
        bilinear = None  # it is
    options = {"pad": pad, "use_dilated": use_dilated, "random_init_fc8": random_init_fc8, "bilinear": bilinear}
    architecture = base.variant({option: value for option, value in options.items() if value})
    num_classes, in_channels, widths = check_build(architecture, num_classes, in_channels, widths, dropout, seed)
    start = None if weights is None else segtwin_weights.weights_for(weights, architecture)
    if start is not None and "bilinear" in base.variants:
        known = names.identify(start)  # the keys say which of the two it is
        if bilinear is None and known is base.variants["bilinear"]:
            architecture = known
        elif known in (base, base.variants["bilinear"]) and known is not architecture:
            where = start.metadata.get("source", "the weights")
            raise ArchitectureError(f"{base.name} with bilinear={bilinear}: {where} holds a {known.name}")
    if start is not None:
        # a variant that is a network of its own has its own layers; of others the base's are those that are stored
        layers = base if architecture.variant_of else architecture
        num_classes, in_channels, widths = segtwin_weights.resolve(layers, start, num_classes, in_channels, widths)
    check_memory(architecture, num_classes, in_channels, widths, np.dtype(dtype).itemsize)
    if start is None:
        start = initialize(architecture, num_classes=num_classes, in_channels=in_channels, widths=widths, seed=seed)
    arguments: dict[str, Any] = {
        "num_classes": architecture.num_classes if num_classes is None else num_classes,
        "in_channels": architecture.in_channels if in_channels is None else in_channels,
        "widths": tuple(architecture.resolve_widths(widths).values()),
    }
    if architecture.dropout is not None:
        arguments["dropout"] = architecture.dropout if dropout is None else dropout
    elif dropout:
        raise ArchitectureError(f"{architecture.name} has no dropout")
    if architecture.sigmoid:
        arguments["logits"] = logits
    if "pad" in architecture.options:
        arguments["pad"] = pad
    return Plan(architecture, arguments, start)


def fitted(
    architecture: Architecture,
    weights: Weights | str | os.PathLike[str],
    in_channels: int,
    slots: Mapping[str, tuple[tuple[int, ...], str]],
) -> tuple[Weights, Preprocessing]:
    """Weights that fit a model, checked as a whole before the first of them is copied, and their preprocessing.

    Args:
        architecture: of the model.
        weights: of exactly this network, or a file that `segtwin_weights.read` understands.
        in_channels: of the model.
        slots: hub name → shape in the hub's layout, and dtype, of every array of the model.

    Raises:
        WeightNamesError: names are missing or left over; the first of each and the count are named.
        WeightsError: a shape differs; NaN, infinities, negative variances, or no numbers; the first is named.
        WeightsError, OSError: the file cannot be read.
    """
    found = segtwin_weights.weights_for(weights, architecture)
    have = {name: np.shape(blob) for name, blob in found.items() if name not in architecture.unused}
    check_keys(have, {name: shape for name, (shape, _) in slots.items()}, architecture.name)
    check_values(found, ((name, dtype) for name, (_, dtype) in slots.items()), architecture.name)
    preprocessing, _ = metadata.preprocessing_of(found, architecture, in_channels)
    return found, preprocessing


def check_values(weights: Mapping[str, np.ndarray], dtypes: Iterable[tuple[str, str]], what: str) -> None:
    """Compare types and values with what a model holds; names and shapes fit already.

    Args:
        weights: hub name → array; may have more names.
        dtypes: hub name and dtype of each of the model's.
        what: the model, for the message.

    Raises:
        WeightsError: numbers of another kind, NaN, infinities, numbers beyond the model's type, a
            negative variance; the first is named.
    """
    for name, dtype in dtypes:
        array, wanted = weights[name], np.dtype(dtype)
        if array.dtype.kind not in ("fiu" if wanted.kind == "f" else "iu"):
            raise WeightsError(
                f"{what}: {name} holds {array.dtype}, and the model {wanted}; convert it to numbers of that kind"
            )
        check_finite(what, name, array)
        if not array.size:
            continue
        limits = np.finfo(wanted) if wanted.kind == "f" else np.iinfo(wanted)
        low, high = array.min(), array.max()
        if low < limits.min or high > limits.max:
            raise WeightsError(
                f"{what}: {name} holds {float(low):.3g} … {float(high):.3g}, beyond what {wanted} can hold; its "
                "training diverged"
            )
        if name.endswith("running_var") and low < 0:
            raise WeightsError(
                f"{what}: {name} holds a variance of {float(low):.3g}; a variance is not negative: the file is damaged"
            )
