"""`vgg16.npy`, as tensorflow-vgg and tensorflow-fcn use it: an .npy file whose one object is the
pickled dict {layer: [weights, biases]}.

    conv1_1 … conv5_3   3×3×I×O  HWIO, channels of the input in BGR order
    fc6                 25088×4096, rows over pool5 in H·W·C order
    fc7, fc8            4096×4096, 4096×1000
                        as convolutions, they are 7×7×512×4096, 1×1×4096×4096 and 1×1×4096×1000: the
                        same numbers in the same order
    biases              O

The hub keeps Caffe's order, so convolutions become O×I×3×3 and fc6's columns C·H·W. A wrong order
of fc6 fails silently, since the shapes agree.

Files were pickled by Python 2 or 3 and by many versions of numpy. A pickle is a program; this
reader runs none (`pickles`).
"""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from segtwin import Preprocessing
from segtwin.architectures.vgg16 import CLASSIFIER_PIXELS, VGG16, VGG_MEAN
from segtwin.files import whole

from segtwin_weights import layouts
from segtwin_weights.door import file_name, quoted, reader, shown
from segtwin_weights.formats import pickles, zipped
from segtwin_weights.hub import WITHOUT_CLASSIFIER, Weights, WeightsError, at_most, check_finite, damage, line, sha256
from segtwin_weights.notes import note

LAYERS = [layer for layer in VGG16.layers if layer.width]
"""conv1_1 … conv5_3, fc6, fc7, fc8."""


@reader
def read(path: str | os.PathLike[str]) -> Weights:
    """Read a vgg16.npy of any widths.

    Returns:
        `Weights` of the architecture vgg16 in Caffe's layouts, float32; without fc8 where the file
        was cut before it.

    Raises:
        WeightsError: the file is damaged, asks for anything to be called, lacks a layer or has
            another, contradicts itself, or holds NaN.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        npz = file.read(4) == b"PK\x03\x04"
    layers, budget = _npz(path) if npz else _unpickle(path)
    _check_layers(path, layers)
    budget.spend(sum(4 * array.size for pair in layers.values() for array in pair))
    blobs: dict[str, np.ndarray] = {}
    digest = sha256(path)
    for layer in [layer for layer in LAYERS if layer.name in layers]:
        pair = layers.pop(layer.name)  # popped: the source of each layer is let go before the next is converted
        weight, bias = (
            _float32(path, f"{layer.name} {kind}", array)
            for kind, array in zip(("weights", "biases"), pair, strict=True)
        )
        check_finite(path, f"{layer.name} weights", weight)
        check_finite(path, f"{layer.name} biases", bias)
        if layer.kind == "InnerProduct":
            weight = weight.reshape(-1, weight.shape[-1])
        blobs[f"{layer.name}/weight"] = layouts.to_caffe(layer.name, weight)
        blobs[f"{layer.name}/bias"] = bias
        pickles.let_go(pair[0])
        del pair
    architecture = VGG16
    metadata: dict[str, Any] = {
        "architecture": architecture.name,
        **({"num_classes": len(blobs["fc8/bias"])} if "fc8/bias" in blobs else {}),
        "source": file_name(path),
        "sha256": digest,
    }
    if npz:
        metadata |= {"schema": 2, "preprocessing": Preprocessing("RGB", VGG_MEAN[::-1]).asdict()}
    if SYNTHETIC in Path(path).name:
        metadata["synthetic"] = True
    return Weights(blobs, metadata)


SYNTHETIC = "SYNTHETIC"
"""In the name of a file whose numbers are random, so that nobody takes them for a training's."""


def write(weights: Weights, path: str | os.PathLike[str]) -> None:
    """Write the weights of a VGG-16 as a vgg16.npy that numpy and the original tensorflow-fcn code
    load.

    Raises:
        WeightsError: they are not a VGG-16's.
        OSError: the file cannot be written.
    """
    wanted = {f"{layer.name}/{kind}" for layer in LAYERS for kind in ("weight", "bias")}
    if weights.keys() != wanted:
        raise WeightsError(
            f"{path}: a vgg16.npy holds a VGG-16 classifier; {at_most(wanted ^ weights.keys())} is missing or has "
            "no place in it"
        )
    layers = {
        layer.name: [layouts.from_caffe(layer.name, weights[f"{layer.name}/weight"]), weights[f"{layer.name}/bias"]]
        for layer in LAYERS
    }
    with whole(path) as draft, open(draft, "wb") as file:
        np.save(file, np.array(layers, dtype=object), allow_pickle=True)


def _float32(path: object, name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype == np.float32:
        return array.astype(np.float32, copy=False)
    note(f"{path}: {name} is {array.dtype}, converted to float32", stacklevel=2)
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which check_finite refuses
        return array.astype(np.float32)


def _check_layers(path: object, layers: dict[str, list[np.ndarray]]) -> None:
    """Every layer is there but perhaps fc8, no other is, and the widths follow on each other."""
    names = {layer.name for layer in LAYERS}
    missing = names - layers.keys()
    if {"fc6", "fc7"} <= missing <= {"fc6", "fc7", "fc8"}:
        raise WeightsError(f"{path}: is a VGG-16 {WITHOUT_CLASSIFIER}")
    if missing - {"fc8"}:
        raise WeightsError(f"{path}: lacks {at_most(missing)} of VGG-16's 16 layers; it is another network or was cut")
    if extra := layers.keys() - names:
        raise WeightsError(f"{path}: holds {at_most(extra)}, which VGG-16 has not; it is another network")
    width = VGG16.in_channels
    for layer in [layer for layer in LAYERS if layer.name in layers]:
        weight, bias = layers[layer.name]
        outputs = weight.shape[-1] if weight.ndim else 0
        if layer.kind == "Convolution":
            expected: tuple[int, ...] = (layer.kernel, layer.kernel, width, outputs)
        else:
            pixels = CLASSIFIER_PIXELS if layer.name == "fc6" else 1
            side = math.isqrt(pixels)
            expected = (side, side, width, outputs) if weight.ndim == 4 else (width * pixels, outputs)
        if not outputs or weight.shape != expected:
            raise WeightsError(
                f"{path}: {layer.name} weights are {weight.shape}, but {expected} follows from the layer before"
            )
        if bias.shape != (outputs,):
            raise WeightsError(f"{path}: {layer.name} biases are {bias.shape}, its weights have {outputs} outputs")
        width = outputs


# ------------------------------------------------------------------------------------- the pickle


Layers = dict[str, list[np.ndarray]]


def _unpickle(path: str | os.PathLike[str]) -> tuple[Layers, pickles.Budget]:
    """{layer: [weights, biases]} of the file, as arrays over the bytes of the pickle."""
    with damage(path), open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if shape != () or not dtype.hasobject:
            raise WeightsError(f"{path}: is one array {shape} of {dtype}, not the pickled dict of a vgg16.npy")
        budget = pickles.Budget(path, os.fstat(file.fileno()).st_size)
        loaded = pickles.Unpickler(file, budget, pickles.NUMPY).load()
        if file.read(1):
            raise WeightsError(f"{path}: goes on after its pickle; the file is damaged")
        loaded = loaded.item() if isinstance(loaded, pickles.Array) else loaded
    if not isinstance(loaded, dict):
        what = "an array" if isinstance(loaded, pickles.Array) else f"a {type(loaded).__name__}"
        raise WeightsError(f"{path}: holds {what}, not the pickled dict of a vgg16.npy")
    return {_text(path, name): _pair(path, name, value) for name, value in loaded.items()}, budget


def _npz(path: str | os.PathLike[str]) -> tuple[Layers, pickles.Budget]:
    """{layer: [weights, biases]} of Davi Frossard's vgg16_weights.npz: arrays conv1_1_W, conv1_1_b,
    … in vgg16.npy's layouts, for RGB."""
    layers: Layers = {}
    with damage(path), zipped.opened(path) as (archive, budget):
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        size = sum(entry.file_size for entry in entries.values())
        if size > MOST_TIMES * budget.size:
            raise WeightsError(
                f"{path}: declares {size:,} bytes, more than weights are compressed to; it was made to fill memory"
            )
        wanted = {f"{layer.name}_{part}" for layer in LAYERS for part in "Wb"}
        if extra := entries.keys() - wanted:
            raise WeightsError(f"{path}: holds {quoted(min(extra))}, which VGG-16 has not; it is another network")
        for name in sorted(entries):  # W before b
            layers.setdefault(name[:-2], []).append(_member(path, archive, entries[name], budget))
    if any(len(pair) != 2 for pair in layers.values()):
        raise WeightsError(
            f"{path}: {at_most({name for name, pair in layers.items() if len(pair) != 2})} has not two arrays, _W "
            "and _b"
        )
    return layers, budget


MOST_TIMES = 2
"""Float32 of a training is compressed to nine tenths; a file of half its numbers' size was not
trained."""


def _member(path: object, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, budget: pickles.Budget) -> np.ndarray:
    """One array of an .npz, whose header is compared with its length before room is made for it."""
    name = entry.filename
    with archive.open(entry) as stream:
        if stream.read(6) != np.lib.format.MAGIC_PREFIX:
            raise WeightsError(f"{path}: {name} is no array; the file is damaged")
        version = (stream.read(1) + b"\0")[0], (stream.read(1) + b"\0")[0]
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream)
        if dtype.str[1:] not in pickles.NUMERIC:
            raise WeightsError(f"{path}: {name} is of type {quoted(str(dtype))}, no numbers")
        count = math.prod(pickles.dimensions(shape))
        if count * dtype.itemsize != entry.file_size - stream.tell():
            raise WeightsError(
                f"{path}: {name} has the shape {shape} and {entry.file_size - stream.tell():,} bytes; the file is "
                "damaged"
            )
        budget.spend(count * dtype.itemsize)
        return zipped.fill(stream, count, dtype).reshape(shape, order="F" if fortran else "C")


def _text(path: object, name: Any) -> str:
    if isinstance(name, bytes) and name.isascii():
        return name.decode()
    if isinstance(name, str):
        return name
    raise WeightsError(f"{path}: a layer's name is a {type(name).__name__}, not a string")


PAIRS = (("weights", "biases"), ("weight", "bias"), ("W", "b"))
"""What a layer's two arrays are called where they lie in a dict."""


def _pair(path: object, name: Any, value: Any) -> list[np.ndarray]:
    if isinstance(value, dict) and len(value) == 2:  # Faster-RCNN_TF's {"weights", "biases"}
        named = {_text(path, key): array for key, array in value.items()}
        value = next(([named[w], named[b]] for w, b in PAIRS if named.keys() == {w, b}), value)
    if not (
        isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(one, pickles.Array) for one in value)
    ):
        raise WeightsError(f"{path}: {shown(name, 80)} is not a list [weights, biases] of two arrays")
    arrays = []
    for one, kind in zip(value, ("weights", "biases"), strict=True):
        try:
            arrays.append(one.array())
        except Exception as error:
            raise WeightsError(
                f"{path}: {shown(name, 80)} {kind} cannot be rebuilt ({line(error)}); the file is damaged"
            ) from None
    return arrays
