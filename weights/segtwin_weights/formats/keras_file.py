"""Keras' files: `.weights.h5` and `.keras` of Keras 3, and the .h5 of Keras 1 and 2
(keras.applications' VGG-16). Weights only.

    .weights.h5    layers/conv2d_3/vars/{0, 1}, the layer's own name in an attribute of `vars`; layers are
                   counted class by class
    .keras         a zip archive of such a file and config.json, from which names are looked up and nothing is built
    .h5            groups by layer, in whose attribute `weight_names` stand the paths of the arrays

    Keras                                      hub
    kernel of a convolution    kh×kw×I×O       O×I×kh×kw
    kernel of a deconvolution  kh×kw×O×I       I×O×kh×kw
    kernel of a Dense          I×O             O×I; the columns of VGG-16's fc6 from H·W·C to C·H·W
    gamma, beta, moving_mean, moving_variance  weight, bias, running_mean, running_var

HDF5 can point out of a file: links, external and virtual data sets are refused, as are filters that
would load a plug-in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from segtwin.architectures import Architecture, find_architecture
from segtwin.architectures.vgg16 import CLASSIFIER_PIXELS, VGG16
from segtwin.files import check_room, whole, written_by_a_library

from segtwin_weights import layouts, plausibility
from segtwin_weights.door import file_name, line, reader
from segtwin_weights.door import loads as loads_json
from segtwin_weights.formats import hdf5, vgg16_npy, zipped
from segtwin_weights.hub import Metadata, Weights, WeightsError, check_finite, damage, sha256
from segtwin_weights.mappings import keras_names
from segtwin_weights.mappings.keras_names import Described, Layer
from segtwin_weights.mappings.names import KERAS_VGG16, identify
from segtwin_weights.notes import note
from segtwin_weights.surgery import dimensions

if TYPE_CHECKING:
    import h5py

MOST_TIMES = 3
"""Bytes of numbers that a file may declare, in sizes of the file: Keras compresses nothing."""
CLASSES = {"Convolution": "conv2d", "Deconvolution": "conv2d_transpose", "InnerProduct": "dense", "Scale": "scale"}
"""Caffe's layer types → the snake_case of the Keras classes by which Keras 3 counts layers."""


@reader
def read(path: str | os.PathLike[str]) -> Weights:
    """Read the weights of a Keras file. A model's config is never executed.

    Returns:
        `Weights`: of keras.applications' VGG-16 under Caffe's names; of a network of this project
        under its hub names; else `LAYER/weight`, `LAYER/bias` and the like, as the file's names or
        the layers' classes say.

    Raises:
        WeightsError: the file is damaged or hostile, holds no weights, does not tell what an array
            is, or holds NaN.
        OSError: it cannot be read.
    """
    with damage(path), ExitStack() as stack:
        file, config = _open(path, stack)
        content = _content(path, file, config, os.path.getsize(path))
    return _to_hub(path, content)


@dataclass
class Content:
    """What a file holds."""

    layers: list[Layer]
    network: str = ""
    """The model's name, or ""."""
    channels_first: bool = False
    """Its kernels are O×I×kh×kw, as Keras 1 kept them for Theano."""
    flat_rows: bool = True
    """The rows of the first inner product are H·W·C; else C·H·W."""
    theano: bool | None = False
    """Its kernels are turned by 180°, for Theano's convolution; None: nothing says so or otherwise."""


def _open(path: str | os.PathLike[str], stack: ExitStack) -> tuple[h5py.File, Any]:
    """The HDF5 file, and the model's config where there is one."""
    with open(path, "rb") as file:
        head = file.read(4)
    size = os.path.getsize(path)
    if head != b"PK\x03\x04":
        opened = stack.enter_context(hdf5.opened(path))
        config = opened.attrs.get("model_config")
        return opened, None if config is None else _config(path, _text(config), size)
    archive, _ = stack.enter_context(zipped.opened(path))
    members = {entry.filename: entry for entry in archive.infolist()}
    if "model.weights.h5" not in members:
        raise WeightsError(f"{path}: is a zip archive without Keras' model.weights.h5")
    places = {
        name: zipped.place(archive, members[name]) for name in ("model.weights.h5", "config.json") if name in members
    }
    config = _config(path, archive.read("config.json"), size) if "config.json" in members else None
    return stack.enter_context(hdf5.opened(path, places["model.weights.h5"])), config


def _config(path: object, text: str | bytes, size: int) -> Any:
    try:
        return loads_json(text, size)
    except ValueError as error:
        raise WeightsError(
            f"{path}: the model's config is no JSON that can be read ({line(error)}); save the model's weights alone"
        ) from None


def _content(path: str | os.PathLike[str], file: h5py.File, config: Any, size: int) -> Content:
    root = file["model_weights"] if "model_weights" in file and not _listed(file, "layer_names") else file
    layer_names = _listed(root, "layer_names")
    arrays = list(_datasets(path, root, MOST_TIMES * size, layer_names is not None or "nb_layers" in root.attrs))
    known = list(keras_names.described(config))
    inner = config.get("config") if isinstance(config, dict) else None
    name = str(inner.get("name", "")) if isinstance(inner, dict) else ""
    if layer_names is None and "nb_layers" not in root.attrs:
        vars_name = _text(root["vars"].attrs.get("name", "")) if isinstance(root.get("vars"), hdf5.group()) else ""
        return Content(_counted(path, root, arrays, {counted: one for counted, _, one in known}), vars_name or name)
    layers = _stated(path, root, layer_names, arrays, {names: one for _, names, one in known})
    return _ordering(path, root, Content(layers, name), [one for _, _, one in known])


def _listed(group: h5py.Group, key: str) -> list[str] | None:
    """A list of names in an attribute, or in numbered pieces of one: HDF5's attributes end at 64
    KB."""
    if key in group.attrs:
        return [_text(name) for name in group.attrs[key]]
    names: list[str] = []
    count = 0
    while f"{key}{count}" in group.attrs:
        names += [_text(name) for name in group.attrs[f"{key}{count}"]]
        count += 1
    return names if count else None


def _datasets(path: object, root: h5py.Group, budget: int, legacy: bool) -> Iterator[tuple[str, Any]]:
    """(path, data set) of every array of weights, checked."""
    for where, item in hdf5.objects(path, root):
        if isinstance(item, hdf5.group()):
            continue
        parts = where.split("/")
        if not legacy and (
            len(parts) < 3 or parts[-2] != "vars" or parts[0] in ("optimizer", "metrics") or "seed_generator" in parts
        ):
            continue
        hdf5.check_dataset(path, where, item)
        budget -= item.size * item.dtype.itemsize
        if budget < 0:
            raise WeightsError(f"{path}: {hdf5.TOO_MANY}")
        yield where, item


def _counted(
    path: object, root: h5py.Group, arrays: list[tuple[str, Any]], known: Mapping[tuple[str, ...], Described]
) -> list[Layer]:
    """The layers of a Keras 3 file: `layers/functional/layers/conv2d_3/vars/0`."""
    groups: dict[str, list[tuple[int, Any]]] = {}
    for where, item in arrays:
        parent, _, number = where.rpartition("/")
        groups.setdefault(parent, []).append((int(number) if number.isdecimal() else len(groups), item))
    layers = []
    for parent, items in groups.items():
        steps = parent.split("/")[:-1]
        counted = tuple(step for step in steps if step not in CONTAINERS)
        names: list[str] = []
        for i in range(1, len(steps) + 1):
            if steps[i - 1] in CONTAINERS:
                continue
            vars_group = root.get("/".join((*steps[:i], "vars")))
            own = _text(vars_group.attrs.get("name", "")) if vars_group is not None else ""
            one = known.get(counted[: len(names) + 1])
            names.append(own or (one.name if one else steps[i - 1]))
        one = known.get(counted)
        layer = Layer(tuple(names), one.kind if one else counted[-1], one.config if one else None)
        for _, item in sorted(items, key=lambda numbered: numbered[0]):
            layer.arrays.append(item[()])
            layer.parts.append(None)
        layers.append(layer)
    return layers


CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
"""What a model's list of layers is called in a Keras 3 file."""


def _stated(
    path: object,
    root: h5py.Group,
    layer_names: list[str] | None,
    arrays: list[tuple[str, Any]],
    known: Mapping[tuple[str, ...], Described],
) -> list[Layer]:
    """The layers of a file of Keras 1 or 2, by the `weight_names` of its groups, in the order of
    its `layer_names`."""
    groups: dict[str, dict[str, Any]] = {}
    listed = sorted(layer_names or [], key=len, reverse=True)
    for where, item in arrays:
        group = next((name for name in listed if where.startswith(f"{name}/")), where.partition("/")[0])
        groups.setdefault(group, {})[where[len(group) + 1 :]] = item
    order = {name: i for i, name in enumerate(layer_names or [])}
    layers: list[Layer] = []
    for group in sorted(groups, key=lambda name: (order.get(name, len(order)), hdf5.natural(name))):
        found = groups[group]
        wanted = _listed(root[group], "weight_names") if isinstance(root.get(group), hdf5.group()) else None
        if wanted is None and all(name.startswith("param_") for name in found):
            wanted = sorted(found, key=hdf5.natural)  # Keras before 0.3 counts
        if wanted is None or sorted(found) != sorted(wanted):
            raise WeightsError(f"{path}: layer {group!r} lists other arrays than it holds; the file is damaged")
        said = [keras_names.stated(group, name) for name in wanted]
        one = known.get((group,))
        others = len({parents for parents, _ in said}) > 1
        own: dict[tuple[str, ...], Layer] = {}
        for name, (parents, part) in zip(wanted, said, strict=True):
            where_it_is = keras_names.place(group, parents, others, one.nested if one else None)
            if where_it_is not in own:
                kind = known.get(where_it_is) or known.get((group, where_it_is[-1]))
                own[where_it_is] = Layer(where_it_is, kind.kind if kind else "", kind.config if kind else None)
            if part is not None and part in own[where_it_is].parts:
                raise WeightsError(f"{path}: {group!r} has two arrays called {name!r}; what they are cannot be told")
            own[where_it_is].arrays.append(found[name][()])
            own[where_it_is].parts.append(part)
        layers += own.values()
    return layers


def _ordering(path: str | os.PathLike[str], root: h5py.Group, content: Content, known: list[Described]) -> Content:
    """How the kernels of a file of Keras 1 or 2 lie."""
    file_name = Path(path).name
    attributes = [group.attrs for group in (root, root.file)]
    version, backend = (
        next((_text(a[key]) for a in attributes if key in a), "") for key in ("keras_version", "backend")
    )
    orders = {str(one.config["dim_ordering"]) for one in known if "dim_ordering" in one.config}
    counted = "nb_layers" in root.attrs  # before Keras 0.3, when there was Theano alone
    convolutions = [layer.arrays for layer in content.layers if layer.arrays[0].ndim == 4]
    biased = [(arrays[0].shape, len(arrays[1])) for arrays in convolutions if len(arrays) > 1 and arrays[1].ndim == 1]
    first = [shape[0] == count and shape[2] == shape[3] for shape, count in biased]
    last = [count in shape[2:] and shape[0] == shape[1] for shape, count in biased]
    if version.split(".")[0] in ("", "0", "1"):
        if counted or orders == {"th"} or (not orders and biased and all(first) and not all(last)):
            content.channels_first = True
        elif not orders and biased and all(first) and all(last):  # 3×3×3×3 and 3 biases
            content.channels_first = "th_dim_ordering" in file_name
    formats = {str(one.config["data_format"]) for one in known if "conv" in one.kind and "data_format" in one.config}
    flattened = [str(one.config.get("data_format", "")) for one in known if one.kind == "flatten"]
    content.flat_rows = not content.channels_first and (
        formats != {"channels_first"} or flattened == ["channels_first"]
    )
    if backend:
        content.theano = backend == "theano"
    elif kernels := re.search(r"(th|tf)_kernels", file_name):
        content.theano = kernels[1] == "th"
    elif counted:
        content.theano = True
    else:
        content.theano = None if content.channels_first else False
    return content


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _to_hub(path: str | os.PathLike[str], content: Content) -> Weights:
    layers = content.layers
    if not layers:
        raise WeightsError(f"{path}: holds no weights of Keras layers")
    own_names = keras_names.unique_names(layers)
    renamed = (
        KERAS_VGG16
        if {"block1_conv1", "block5_conv3"} <= set(own_names)
        else _vgg16_by_shape(path, layers, own_names, content)
    )
    vgg16 = bool(renamed)
    architecture: Architecture | None = find_architecture(content.network)
    between = "." if architecture is not None and architecture.naming == "torch" else "/"
    turned = _turned(
        path,
        content,
        next((layer for layer, name in zip(layers, own_names, strict=True) if renamed.get(name) == "conv1_1"), None),
    )
    blobs: dict[str, np.ndarray] = {}
    for keras_name in own_names:
        layer = layers.pop(0)  # popped: the source of each layer is let go before the next is converted
        name = renamed.get(keras_name, keras_name)
        known = _row_parts(architecture, name, between)
        carried = architecture is not None and any(
            idle.startswith(f"{name}.") for idle in architecture.carried if idle not in architecture.aliases
        )
        parts = (
            known
            if len(known) == len(layer.arrays) and None in layer.parts
            else keras_names.parts(path, keras_name, layer)
        )
        kind = layer.kind or _kind_by_bias(layer.arrays)
        while layer.arrays:
            array, part = layer.arrays.pop(0), parts.pop(0)
            blob = f"{name}{between}{part}"
            if blob in blobs:
                raise WeightsError(f"{path}: has two layers {keras_name!r}")
            check_finite(path, blob, array)
            if part in keras_names.KERNELS and not carried:  # what is carried along is in torch's layouts
                if array.ndim == 2:
                    fc6 = name == "fc6" and content.flat_rows and not len(array) % CLASSIFIER_PIXELS
                    array = layouts.to_caffe("fc6" if fc6 else "", array)
                else:
                    array = _kernel(array, kind, part, content.channels_first, turned)
            blobs[blob] = array
    blobs |= {
        alias: blobs[owner].reshape(len(blobs[owner]), -1)
        for alias, owner in (architecture.aliases if architecture else {}).items()
        if owner in blobs
    }
    metadata: Metadata = {"source": file_name(path), "sha256": sha256(path)}
    architecture = architecture or identify(blobs)
    if architecture or vgg16:
        architecture = architecture or VGG16
        metadata["architecture"] = architecture.name
    return Weights(_in_order(blobs, architecture), metadata)


def _row_parts(architecture: Architecture | None, layer: str, between: str) -> list[str]:
    """What a layer of a network of this project holds, in the order of Keras' variables."""
    if architecture is None:
        return []
    prefix = f"{layer}{between}"
    idle = [name for name in architecture.idle if name not in architecture.aliases and name.startswith(prefix)]
    return [
        name.removeprefix(prefix)
        for name in idle or [p.name for p in architecture.parameters()]
        if name.startswith(prefix)
    ]


def _kind_by_bias(arrays: list[np.ndarray]) -> str:
    """A depthwise kernel, kh×kw×I×M, has I·M biases; that of a convolution or deconvolution as many
    as one of its last axes."""
    if len(arrays) == 2 and arrays[0].ndim == 4 and arrays[1].ndim == 1:
        *_, inputs, times = arrays[0].shape
        if len(arrays[1]) == inputs * times and len(arrays[1]) not in (inputs, times):
            return "depthwise_conv2d"
    return ""


def _kernel(array: np.ndarray, kind: str, part: str, channels_first: bool, turned: bool) -> np.ndarray:
    """A kernel of three or more axes in the hub's layout."""
    if array.ndim == 4:
        if channels_first:
            array = array.transpose(1, 0, 2, 3) if kind.startswith("deconvolution") else array
        elif kind.startswith("deconvolution"):  # Keras 1 kept them as convolutions
            array = array.transpose(2, 3, 0, 1)
        elif part == "depthwise_kernel" or kind.startswith("depthwise"):
            height, width, inputs, times = array.shape
            array = array.transpose(2, 3, 0, 1).reshape(inputs * times, 1, height, width)
        else:
            array = array.transpose(layouts.TO_OIHW)
        return np.ascontiguousarray(array[:, :, ::-1, ::-1] if turned else array)
    if array.ndim == 5 or (array.ndim == 3 and kind.startswith("conv1d")):
        return np.ascontiguousarray(np.moveaxis(array, (-1, -2), (0, 1)))
    return array


def _turned(path: str | os.PathLike[str], content: Content, first: Layer | None) -> bool:
    """Whether the kernels are to be turned by 180°: Theano's convolution turns them, all others
    take them as they lie.

    Oxford's first filter is known, and tells for itself; else what the file states.

    Raises:
        WeightsError: the file is of Theano's time, and nothing tells.
    """
    if first is not None:
        kernel = first.arrays[0] if content.channels_first else first.arrays[0].transpose(layouts.TO_OIHW)
        ends = [plausibility.training(one, None) for one in (kernel, kernel[:, :, ::-1, ::-1])]
        known = [end is not None and end.colour is not None for end in ends]
        if known[0] != known[1]:
            if content.theano is not None and content.theano != known[1]:
                note(
                    f"{path}: says that its kernels are {'' if content.theano else 'not '}turned for Theano, but "
                    "conv1_1 begins as Oxford's "
                    f"{'turned by 180°' if known[1] else 'not turned'}; they are read so",
                    stacklevel=4,
                )
            return known[1]
    if content.theano is None:
        raise WeightsError(
            f"{path}: its kernels are O×I×kh×kw, of Keras 1, and nothing says whether they are turned by 180° for "
            "Theano's convolution; "
            "put th_kernels (turned) or tf_kernels (not turned) into the file's name"
        )
    return content.theano


def _vgg16_by_shape(path: object, layers: list[Layer], own_names: list[str], content: Content) -> dict[str, str]:
    """Keras' name → VGG-16's, where the layers in the file's order have the shapes of a VGG-16 and
    names that say nothing; else none."""
    pairs = [layer.arrays for layer in layers]
    if len(pairs) != len(vgg16_npy.LAYERS) or any(len(pair) != 2 or pair[1].ndim != 1 for pair in pairs):
        return {}
    if not all(re.fullmatch(r"(layer|convolution2d|conv2d|dense)(_\d+)?", name) for name in own_names):
        return {}
    width, stage = 0, ""
    for layer, (weight, bias) in zip(vgg16_npy.LAYERS, pairs, strict=True):
        if layer.kind == "Convolution":
            if weight.ndim != 4:
                return {}
            outputs, inputs, *kernel = (
                weight.shape if content.channels_first else (weight.shape[3], weight.shape[2], *weight.shape[:2])
            )
            if (
                kernel != [3, 3]
                or len(bias) != outputs
                or (width and inputs != width)
                or (stage == str(layer.width) and outputs != width)
            ):
                return {}
        else:
            inputs = width * (CLASSIFIER_PIXELS if layer.name == "fc6" else 1)
            if weight.shape != (inputs, len(bias)):
                return {}
        width, stage = len(bias), str(layer.width)
    note(
        f"{path}: its layers have no names that say anything ({own_names[0]} …); by their shapes and order they "
        "are a VGG-16's",
        stacklevel=4,
    )
    return dict(zip(own_names, (layer.name for layer in vgg16_npy.LAYERS), strict=True))


def _in_order(blobs: dict[str, np.ndarray], architecture: Architecture | None) -> dict[str, np.ndarray]:
    """The architecture's order; HDF5 sorts names."""
    order = [parameter.name for parameter in architecture.parameters()] if architecture else []
    return {name: blobs[name] for name in [*(n for n in order if n in blobs), *(n for n in blobs if n not in order)]}


def write(weights: Weights, path: str | os.PathLike[str]) -> None:
    """Write `.weights.h5`, which `load_weights` of the Keras twin reads.

    Keras finds layers by class and number, so the file holds them in the order of the architecture.

    Raises:
        WeightsError: the weights are of no Caffe net: the order of others is known to the Keras
            model alone (`segtwin export`).
        OSError: the file cannot be written.
    """
    import h5py

    architecture = identify(weights)
    if (
        architecture is None
        or architecture.naming != "caffe"
        or not {layer.kind for layer in architecture.layers if layer.width} <= CLASSES.keys()
    ):
        raise WeightsError(
            f"{path}: this file is written here for Caffe's networks alone; use segtwin export … --framework keras"
        )
    dimensions(weights, architecture)
    counts: dict[str, int] = {}
    with whole(path) as draft, written_by_a_library(path):
        check_room(draft, hdf5_bytes(weights.values()))
        with h5py.File(draft, "w") as file:
            file.create_group("vars").attrs["name"] = architecture.name
            for layer in architecture.layers:
                blobs = [weights[name] for kind in ("weight", "bias") if (name := f"{layer.name}/{kind}") in weights]
                if not blobs:
                    continue
                kind = CLASSES[layer.kind]
                count = counts[kind] = counts.get(kind, -1) + 1
                group = file.create_group(f"layers/{kind}_{count}/vars" if count else f"layers/{kind}/vars")
                group.attrs["name"] = layer.name
                for i, blob in enumerate(blobs):
                    if blob.ndim == 2:
                        blob = layouts.from_caffe(layer.name if architecture is VGG16 else "", blob)
                    group.create_dataset(str(i), data=blob.transpose(layouts.TO_HWIO) if blob.ndim == 4 else blob)


def hdf5_bytes(arrays: Iterable[Any]) -> int:
    """At most what a .weights.h5 of these takes: 4 KB of groups and headers with each (measured:
    3.1 KB), and 256 KB for the file."""
    return sum(array.nbytes + 4096 for array in arrays) + (256 << 10)
