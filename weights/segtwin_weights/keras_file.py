"""Keras' files: `.weights.h5` and `.keras` of Keras 3, and the .h5 of Keras 1 and 2 (keras.applications' VGG-16). Weights only.

    .weights.h5    layers/conv2d_3/vars/{0, 1}, the layer's own name in an attribute of `vars`; layers are counted class by class
    .keras         a zip archive of such a file and config.json, from which names are looked up and nothing is built
    .h5            groups by layer, in whose attribute `weight_names` stand the paths of the arrays

    Keras                                      hub
    kernel of a convolution    kh×kw×I×O       O×I×kh×kw
    kernel of a deconvolution  kh×kw×O×I       I×O×kh×kw
    kernel of a Dense          I×O             O×I; the columns of VGG-16's fc6 from H·W·C to C·H·W
    gamma, beta, moving_mean, moving_variance  weight, bias, running_mean, running_var

HDF5 can point out of a file: links, external and virtual data sets are refused, as are filters that would load a plug-in.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from segtwin import architectures
from segtwin.architectures import Row
from segtwin.files import whole

from segtwin_weights import vgg16_npy
from segtwin_weights.hub import Metadata, Weights, WeightsError, check_finite, damage, sha256
from segtwin_weights.names import KERAS_VGG16, identify
from segtwin_weights.surgery import dimensions

MOST_TIMES = 3
"""Bytes of numbers that a file may declare, in sizes of the file: Keras compresses nothing."""
MOST_OBJECTS = 100_000
DEEPEST = 16
KERNEL = (3, 2, 0, 1)
"""From Keras' kernels of four axes to the hub's."""
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
"""Of our own layer; Keras' has no counter."""
CLASSES = {"Convolution": "conv2d", "Deconvolution": "conv2d_transpose", "InnerProduct": "dense", "Scale": "scale"}
"""Caffe's layer types → the snake_case of the Keras classes by which Keras 3 counts layers."""


def read(path: str | os.PathLike[str]) -> Weights:
    """Read the weights of a Keras file. A model's config is never executed.

    Returns:
        `Weights`: of keras.applications' VGG-16 under Caffe's names; of a network of this project under its hub names; else
        `LAYER/weight`, `LAYER/bias`.

    Raises:
        WeightsError: the file is damaged or hostile, holds no weights, or holds NaN.
        OSError: it cannot be read.
    """
    with damage(path), ExitStack() as stack:
        file, layer_names = _open(path, stack)
        layers, network = _arrays(path, file, layer_names, os.path.getsize(path))
    return _to_hub(path, layers, network)


def _open(path: str | os.PathLike[str], stack: ExitStack) -> tuple[h5py.File, dict[str, str]]:
    """The HDF5 file, and counted name → layer's own name where a .keras file tells."""
    with open(path, "rb") as file:
        head = file.read(4)
    if head != b"PK\x03\x04":
        return stack.enter_context(h5py.File(path, "r")), {}
    archive = stack.enter_context(zipfile.ZipFile(path))
    for entry in archive.infolist():
        if entry.filename in ("model.weights.h5", "config.json") and entry.compress_type != zipfile.ZIP_STORED:
            raise WeightsError(f"{path}: {entry.filename} is compressed, as Keras writes none; unpack it and save it again")
    if "model.weights.h5" not in archive.namelist():
        raise WeightsError(f"{path}: is a zip archive without Keras' model.weights.h5")
    names = _counted_names(json.loads(archive.read("config.json"))) if "config.json" in archive.namelist() else {}
    return stack.enter_context(h5py.File(stack.enter_context(archive.open("model.weights.h5")), "r")), names


def _counted_names(config: Any) -> dict[str, str]:
    """{"conv2d_3": "conv2_2"} of a functional model's config: how Keras counts its layers."""
    layers = config.get("config", {}).get("layers", []) if isinstance(config, dict) and isinstance(config.get("config"), dict) else []
    counts: dict[str, int] = {}
    names = {}
    for layer in layers if isinstance(layers, list) else []:
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", str(layer["class_name"]))).lower()
        count = counts[kind] = counts.get(kind, -1) + 1
        names[f"{kind}_{count}" if count else kind] = str(layer["config"]["name"])
    return names


def _arrays(path: object, file: h5py.File, layer_names: Mapping[str, str], size: int) -> tuple[dict[str, list[np.ndarray]], str]:
    """({layer: its arrays in order}, the model's name or "")."""
    budget = MOST_TIMES * size
    layers: dict[str, list[np.ndarray]] = {}
    root = file["model_weights"] if "model_weights" in file and "layer_names" not in file.attrs else file
    legacy = "layer_names" in root.attrs
    order: dict[str, list[str]] = {}
    network = ""
    for where, item in _objects(path, root):
        parts = where.split("/")
        if isinstance(item, h5py.Group):
            if legacy and "weight_names" in item.attrs and len(parts) == 1:
                order[where] = [_text(name) for name in item.attrs["weight_names"]]
            elif parts == ["vars"]:
                network = _text(item.attrs.get("name", ""))
            continue
        if not legacy and (len(parts) < 3 or parts[-2] != "vars" or parts[0] in ("optimizer", "metrics") or "seed_generator" in parts):
            continue
        _check_dataset(path, where, item)
        budget -= item.size * item.dtype.itemsize
        if budget < 0:
            raise WeightsError(f"{path}: declares more numbers than the file can hold; it is damaged or was made to fill memory")
        array = item[()]
        if legacy:
            layers.setdefault(parts[0], []).append(array)
            order.setdefault(f"{parts[0]}//", []).append("/".join(parts[1:]))
        else:
            layer = _text(item.parent.attrs.get("name", "")) or layer_names.get(parts[-3], parts[-3])
            if parts[-1] == "0" and layer in layers:
                raise WeightsError(f"{path}: has two layers {layer!r}")
            layers.setdefault(layer, []).append(array)
    for layer in layers if legacy else ():
        found, wanted = order.get(f"{layer}//", []), order.get(layer, [])
        if sorted(found) != sorted(wanted):
            raise WeightsError(f"{path}: layer {layer!r} lists other arrays than it holds; the file is damaged")
        layers[layer] = [layers[layer][found.index(name)] for name in wanted]
    return layers, network


def _objects(path: object, root: h5py.Group) -> Iterator[tuple[str, Any]]:
    """(path, group or data set) of everything under a group, every object once. Nothing that leads out of the file is followed."""
    seen: set[int] = set()
    pending = [("", root)]
    while pending:
        prefix, group = pending.pop()
        for name in group:
            link = group.get(name, getlink=True)
            where = f"{prefix}{name}"
            if not isinstance(link, h5py.HardLink):
                raise WeightsError(f"{path}: {where} is a link ({type(link).__name__}), as Keras writes none; do not trust this file")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen or len(seen) > MOST_OBJECTS or where.count("/") > DEEPEST:
                raise WeightsError(f"{path}: {where} is there twice, or one of too many; do not trust this file")
            seen.add(address)
            yield where, item
            if isinstance(item, h5py.Group):
                pending.append((f"{where}/", item))


def _check_dataset(path: object, where: str, item: Any) -> None:
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu":
        raise WeightsError(f"{path}: {where} is no array of numbers; the file is damaged")
    plist = item.id.get_create_plist()
    filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    if item.external or item.is_virtual or filters - {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}:
        raise WeightsError(f"{path}: {where} lies outside the file or needs a plug-in; do not trust this file")


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _to_hub(path: str | os.PathLike[str], layers: dict[str, list[np.ndarray]], network: str) -> Weights:
    if not layers:
        raise WeightsError(f"{path}: holds no weights of Keras layers")
    vgg16 = layers.keys() >= {"block1_conv1", "block5_conv3"}
    row: Row | None = architectures.ROWS.get(network)
    between = "." if row is not None and row.naming == "torch" else "/"
    blobs: dict[str, np.ndarray] = {}
    for keras_name in list(layers):
        arrays = layers.pop(keras_name)  # popped: the source of each layer is let go before the next is converted
        name = KERAS_VGG16.get(keras_name, keras_name) if vgg16 else keras_name
        carried = [idle.removeprefix(f"{name}.") for idle in row.idle if idle not in row.aliases and idle.startswith(f"{name}.")] if row else []
        kinds = carried or list(BATCH_NORM if len(arrays) >= 4 else ("weight", "bias"))
        for i, array in enumerate(arrays):
            blob = f"{name}{between}{kinds[i] if i < len(kinds) else f'var{i}'}"
            check_finite(path, blob, array)
            if array.ndim == 4:
                array = np.ascontiguousarray(array.transpose(KERNEL))
            elif array.ndim == 2 and not carried:  # what vggfcn* carry along is in torch's layouts
                array = vgg16_npy.to_caffe("fc6" if vgg16 and name == "fc6" and not len(array) % architectures.CLASSIFIER_PIXELS else name, array)
            blobs[blob] = array
    blobs |= {alias: blobs[owner].reshape(len(blobs[owner]), -1) for alias, owner in (row.aliases if row else {}).items() if owner in blobs}
    metadata: Metadata = {"source": Path(path).name, "sha256": sha256(path)}
    row = row or identify(blobs)
    if row or vgg16:
        row = row or architectures.VGG16
        metadata["architecture"] = row.name
    return Weights(_in_order(blobs, row), metadata)


def _in_order(blobs: dict[str, np.ndarray], row: Row | None) -> dict[str, np.ndarray]:
    """The row's order; HDF5 sorts names."""
    order = [parameter.name for parameter in row.parameters()] if row else []
    return {name: blobs[name] for name in [*(n for n in order if n in blobs), *(n for n in blobs if n not in order)]}


def write(weights: Weights, path: str | os.PathLike[str]) -> None:
    """Write `.weights.h5`, which `load_weights` of the Keras twin reads.

    Keras finds layers by class and number, so the file holds them in the order of the row.

    Raises:
        WeightsError: the weights are of no Caffe net: the order of others is known to the Keras model alone (`segtwin export`).
        OSError: the file cannot be written.
    """
    row = identify(weights)
    if row is None or row.naming != "caffe" or not {layer.kind for layer in row.layers if layer.width} <= CLASSES.keys():
        raise WeightsError(f"{path}: {weights!r} are of no Caffe network; use segtwin export … --framework keras")
    dimensions(weights, row)
    counts: dict[str, int] = {}
    with whole(path) as draft, h5py.File(draft, "w") as file:
        file.create_group("vars").attrs["name"] = row.name
        for layer in row.layers:
            blobs = [weights[name] for kind in ("weight", "bias") if (name := f"{layer.name}/{kind}") in weights]
            if not blobs:
                continue
            kind = CLASSES[layer.kind]
            count = counts[kind] = counts.get(kind, -1) + 1
            group = file.create_group(f"layers/{kind}_{count}/vars" if count else f"layers/{kind}/vars")
            group.attrs["name"] = layer.name
            for i, blob in enumerate(blobs):
                if blob.ndim == 2:
                    blob = vgg16_npy.from_caffe(layer.name if row is architectures.VGG16 else "", blob)
                group.create_dataset(str(i), data=blob.transpose(np.argsort(KERNEL)) if blob.ndim == 4 else blob)
