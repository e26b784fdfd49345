"""Weights of the Caffe-era networks from and to the files people have. No framework is needed to
read one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segtwin import Architecture, __version__
from segtwin.architectures import list_architectures
from segtwin.errors import known_arguments, nearest

from segtwin_weights import metadata, plausibility
from segtwin_weights.formats import (
    caffe_h5,
    caffemodel,
    keras_file,
    onnx_weights,
    safetensors_file,
    tf_checkpoint,
    torch_file,
    vgg16_npy,
)
from segtwin_weights.hub import Weights, WeightsError, check_finite, check_keys, file_kind
from segtwin_weights.initialize import initialize
from segtwin_weights.mappings import names
from segtwin_weights.surgery import Dimensions, convert, dimensions, found_dimensions

__all__ = [
    "DEMO",
    "Dimensions",
    "Weights",
    "WeightsError",
    "__version__",
    "check_keys",
    "convert",
    "dimensions",
    "file_kind",
    "initialize",
    "metadata",
    "network_of",
    "read",
    "resolve",
    "weights_for",
    "write",
]


def __dir__() -> list[str]:
    return sorted(__all__)


DEMO = Path(__file__).parent / "demo" / "demo.safetensors"
"""The demonstration: unet-small, nuclei under a fluorescence microscope; its folder says how it was made."""
FORMATS = {
    "vgg16.npy": vgg16_npy,
    "safetensors": safetensors_file,
    "caffemodel": caffemodel,
    "caffemodel.h5": caffe_h5,
    "torch": torch_file,
    "keras": keras_file,
    "onnx": onnx_weights,
    "tensorflow": tf_checkpoint,
}
SUFFIXES = {
    ".npy": vgg16_npy, ".safetensors": safetensors_file, ".caffemodel": caffemodel, ".pth": torch_file,
    ".pt": torch_file, ".weights.h5": keras_file,
}  # fmt: skip

CAFFE_NAMED = (vgg16_npy, caffemodel, keras_file)
"""Formats that hold Caffe's layers, for BGR minus the mean; the others keep names as they are."""


@known_arguments
def read(path: str | os.PathLike[str], format: str | None = None, *, raw: bool = False) -> Weights:
    """Read weights. The format is told by the file's content, not by its name.

    Names and layouts are those of the hub wherever the file holds a network that is known here:
    Caffe's for the Caffe nets and VGG-16 (a checkpoint of torchvision's or torchfcn's becomes
    `conv1_1/weight` …), the original's state_dict keys for networks that come from torch.

    Args:
        path: the file; of a TensorFlow checkpoint its prefix or any of its files, of shards their
            index.
        format: a key of `FORMATS`, to insist on one.
        raw: keep the names that the file has.

    Raises:
        WeightsError: the file is empty, damaged, hostile or of another format; one line with its
            name, the reason and what to do.
        OSError: it cannot be read.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"format is one of {', '.join(FORMATS)}, not {format!r}{nearest(format, FORMATS)}")
    weights = FORMATS[format or file_kind(path)].read(path)
    return weights if raw else names.known_under_hub_names(weights)


def write(weights: Weights, path: str | os.PathLike[str]) -> None:
    """Write weights; the name's ending chooses the format.

    .safetensors · .npy, the schema of vgg16.npy · .caffemodel, with STEM.deploy.prototxt beside it
    · .pth or .pt, a state_dict · .weights.h5 for `load_weights` of the Keras twin. Every file
    appears whole or not at all.

    Raises:
        WeightsError: the ending is unknown, or the format cannot hold these weights.
        OSError: the file cannot be written.
    """
    for suffix, module in SUFFIXES.items():
        if os.fspath(path).endswith(suffix):
            if module in CAFFE_NAMED:
                weights = names.hub_names(weights)
                # these formats are of Caffe's layers, for BGR minus the mean
                if weights.metadata.get("names") == "torchvision":
                    weights = names.turned(weights, plausibility.OXFORD_INPUTS)
            return module.write(weights, path)
    raise WeightsError(f"{path}: the name has to end in {', '.join(SUFFIXES)}")


def weights_for(weights: Any, architecture: Architecture) -> Weights:
    """Weights on their way into a model of an architecture: under the hub's names, from a file or a
    mapping.

    Raises:
        TypeError: they are no weights.
        WeightsError, OSError: of `read`.
    """
    if isinstance(weights, str | os.PathLike):
        weights = read(weights)
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights are Weights, a mapping or a file's path, not {type(weights).__name__}")
    if isinstance(weights, Weights) and weights.metadata.get("batchnorm") == "folded":
        source = weights.metadata.get("source", "the weights")
        raise WeightsError(
            f"{source}: its BatchNorm is folded into the convolutions; run it as it is (segtwin predict {source})"
        )
    named = names.hub_names(weights if isinstance(weights, Weights) else Weights(weights))
    where = named.metadata.get("source", "the weights")
    for name, blob in named.items():
        if blob.dtype.kind not in "fiub":
            raise WeightsError(f"{where}: {name} is of the type {blob.dtype}, which is no real number")
        check_finite(where, name, blob)
    return names.with_counters(named, architecture)


def resolve(
    architecture: Architecture,
    weights: Weights,
    num_classes: int | None = None,
    in_channels: int | None = None,
    widths: tuple[int, ...] | None = None,
) -> Dimensions:
    """Classes, channels and widths of the model that weights are to be loaded into: the weights'
    own, unless they are another network's.

    Raises:
        ValueError: an argument contradicts the weights.
    """
    own = Dimensions(architecture.num_classes, architecture.in_channels, tuple(architecture.resolve_widths().values()))
    found = own._replace(**found_dimensions(weights, architecture))
    asked = {
        "num_classes": num_classes,
        "in_channels": in_channels,
        "widths": None if widths is None else tuple(widths),
    }
    for name, value in asked.items():
        if value is not None and value != getattr(found, name):
            where = weights.metadata.get("source", "the weights")
            raise ValueError(
                f"{architecture.name}: {name} is {value}, but {where} has {getattr(found, name)}; leave the "
                "argument out, or convert the weights"
            )
    return found


def network_of(weights: Weights, network: str | None = None) -> str:
    """The network that weights, under the hub's names, are of: as asked, as their metadata say, or
    as their names tell.

    Raises:
        WeightsError: none that is built here.
    """
    known = names.identify(names.hub_names(weights))  # names what is nearly a VGG-16
    stated = weights.metadata.get("architecture")
    found = network or (stated if isinstance(stated, str) else None) or (known.name if known else None)
    if found not in list_architectures():
        near = names.nearest(weights) if found is None else None
        what = f"are a {found}'s" if found else f"({weights!r}) are of no network that is known here"
        what += f" ({near})" if near else ""
        todo = (
            "a network with other layers is another network"
            if near
            else "make them a network's with `segtwin convert … --to NETWORK`"
        )
        raise WeightsError(f"{weights.metadata.get('source', 'the weights')}: {what}; {todo}")
    return found
