"""`.caffemodel`: a NetParameter with the blobs of every layer, as Caffe writes it (`layer`, V2) and
wrote it (`layers`, V1).

Source: `src/caffe/proto/caffe.proto` and `util/upgrade_proto.cpp` of BVLC/caffe at
9b891540183ddc834a02b2bd81b31afae71b2153. Field numbers:

    NetParameter       name 1, layers 2 (V1), layer 100 (V2)
    LayerParameter     name 1, type 2, bottom 3, top 4, blobs 7
    V1LayerParameter   name 4, type 5, blobs 6; layer 1 marks a V0 file
    BlobProto          num 1, channels 2, height 3, width 4 (V1); shape 7 {dim 1}; data 5, double_data 8; diff 6
                       and double_diff 9 are left

V1 blobs have four dimensions: an inner product is 1×1×O×I and a bias 1×1×1×O; they come out as O×I
and O. Data, ReLU, Split, Dropout and whatever other layers have no blobs are passed over, as are
fields that are not named above.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from segtwin.files import whole_together

from segtwin_weights import metadata
from segtwin_weights.door import OBJECT, Budget, file_name, reader
from segtwin_weights.formats import prototxt, wire
from segtwin_weights.hub import Metadata, Weights, WeightsError, at_most, check_finite, sha256
from segtwin_weights.mappings.names import identify
from segtwin_weights.surgery import dimensions

MOST_DIMENSIONS = 32
"""kMaxBlobAxes of Caffe."""
V1_TYPES = {4: "Convolution", 14: "InnerProduct", 39: "Deconvolution"}
"""V1LayerParameter.LayerType, the layers with weights that V1 had."""
MOST_PIECES = 1000
"""Of a blob's numbers; writers make one, packed or number by number."""
BLOB_NAMES = {"BatchNorm": ("mean", "variance", "factor")}
"""What the blobs of a layer are called; elsewhere weight and bias."""


@reader
def read(path: str | os.PathLike[str]) -> Weights:
    """Read a .caffemodel of any network.

    Returns:
        `Weights` under Caffe's names, float32 (double data keep float64).

    Raises:
        WeightsError: the file is damaged or hostile, holds no blobs, contradicts itself, or holds
            NaN.
        OSError: it cannot be read.
    """
    blobs: dict[str, np.ndarray] = {}
    with wire.mapped(path) as data:
        try:
            for layer, blob_names, arrays in _layers(path, data):
                for name, array in zip(blob_names, arrays, strict=True):
                    if name in blobs:
                        raise WeightsError(f"{path}: has two layers {layer!r} with weights")
                    check_finite(path, name, array)
                    blobs[name] = array
        except wire.Malformed as error:
            raise WeightsError(f"{path}: is cut short or damaged ({error}); fetch it again") from None
    if not blobs:
        raise WeightsError(f"{path}: holds no layer with weights; it is no .caffemodel")
    metadata: Metadata = {"source": file_name(path), "sha256": sha256(path)}
    if architecture := identify(blobs):
        metadata["architecture"] = architecture.name
    return Weights(blobs, metadata)


def _layers(path: object, data: memoryview) -> Iterator[tuple[str, list[str], list[np.ndarray]]]:
    """(layer, names of its blobs, blobs) of every layer that has some."""
    reader, budget = wire.Reader(), Budget(path, len(data))
    for field in reader.fields(data):
        if isinstance(field.value, memoryview) and field.number in (2, 100):
            name, kind, blobs = _layer(path, reader, field.value, field.number == 2, budget)
            if blobs:
                known = BLOB_NAMES.get(kind, ("weight", "bias"))
                labels = [known[i] if i < len(known) else f"blob{i}" for i in range(len(blobs))]
                yield name, [f"{name}/{label}" for label in labels], blobs


def _layer(
    path: object, reader: wire.Reader, data: memoryview, legacy: bool, budget: Budget
) -> tuple[str, str, list[np.ndarray]]:
    name = kind = ""
    pending = []
    name_field, type_field, blob_field = (4, 5, 6) if legacy else (1, 2, 7)
    for number, _, value in reader.fields(data):
        if number == name_field and isinstance(value, memoryview):
            name = _text(path, value)
        elif number == type_field:
            kind = _text(path, value) if isinstance(value, memoryview) else V1_TYPES.get(value, "")
        elif number == blob_field and isinstance(value, memoryview):
            pending.append(value)
            budget.spend(OBJECT, "holds more blobs")
        elif number == 1 and legacy:
            raise WeightsError(f"{path}: is a V0 network of 2013; Caffe's upgrade_net_proto_binary makes it readable")
    blobs = [_blob(path, reader, blob, f"{name} blob {i}") for i, blob in enumerate(pending)]
    if kind == "InnerProduct" and blobs and blobs[0].ndim == 4:
        if blobs[0].shape[:2] != (1, 1):
            shape = "×".join(map(str, blobs[0].shape))
            raise WeightsError(
                f"{path}: the inner product {name} has weights of shape {shape}, not 1×1×O×I; the file is damaged"
            )
        blobs[0] = blobs[0].reshape(blobs[0].shape[2:])
    return (
        name,
        kind,
        [blob.reshape(-1) if i and blob.shape[:-1] == (1, 1, 1) else blob for i, blob in enumerate(blobs)],
    )


def _text(path: object, value: memoryview) -> str:
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise WeightsError(f"{path}: a layer's name is no text; the file is damaged") from None


def _blob(path: object, reader: wire.Reader, data: memoryview, what: str) -> np.ndarray:
    legacy = [1, 1, 1, 1]
    shape: list[int] | None = None
    pieces: list[np.ndarray] = []
    seen_legacy = False
    for number, kind, value in reader.fields(data):
        if number in (1, 2, 3, 4) and isinstance(value, int):
            legacy[number - 1], seen_legacy = wire.signed(value), True
        elif number == 7 and isinstance(value, memoryview):
            shape = [] if shape is None else shape  # a blob without axes is one number
            for dim in reader.fields(value):
                shape += [dim.value] if isinstance(dim.value, int) else _packed(dim.value)
                if len(shape) > MOST_DIMENSIONS:
                    raise WeightsError(
                        f"{path}: {what} has more than {MOST_DIMENSIONS} dimensions; the file is damaged"
                    )
        elif number in (5, 8) and isinstance(value, memoryview) and kind != (1 if number == 5 else 5):
            dtype = np.dtype("<f4" if number == 5 else "<f8")
            if len(value) % dtype.itemsize:
                raise WeightsError(
                    f"{path}: {what} holds {len(value)} bytes, no whole number of values; the file is damaged"
                )
            pieces.append(np.frombuffer(value, dtype))
            if len(pieces) > MOST_PIECES:
                raise WeightsError(
                    f"{path}: {what} is in more than {MOST_PIECES} pieces; the file is damaged or was made to fill "
                    "memory"
                )
    count = sum(piece.size for piece in pieces)
    if shape is None:
        shape = legacy if seen_legacy else [count]
    if min(shape, default=1) < 0 or math.prod(shape) != count:
        raise WeightsError(
            f"{path}: {what} holds {count} numbers for the shape {'×'.join(map(str, shape))}; the file is damaged"
        )
    # one copy, off the mapping; np.concatenate makes it where there are pieces
    flat = np.concatenate(pieces) if len(pieces) > 1 else pieces[0].copy() if pieces else np.zeros(0, np.float32)
    return flat.astype(flat.dtype.newbyteorder("="), copy=False).reshape(shape)


def _packed(data: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(data):
        value, at = wire.varint(data, at)
        values.append(wire.signed(value))
        if len(values) > MOST_DIMENSIONS:
            raise wire.Malformed(f"more than {MOST_DIMENSIONS} dimensions")
    return values


# ------------------------------------------------------------------------------------------ writing


def write(weights: Weights, path: str | os.PathLike[str]) -> None:
    """Write a V2 .caffemodel, and STEM.deploy.prototxt beside it; for the FCNs
    STEM.train_val.prototxt and STEM.solver.prototxt too.

    Caffe and OpenCV's importer run them. The blobs are written as they are, so a round trip changes
    no bit.

    Raises:
        WeightsError: the weights are of no network with Caffe layers, or not all of that network's.
        OSError: a file cannot be written.
    """
    path = Path(path)
    architecture = identify(weights)
    if architecture is None or not prototxt.writable(architecture):
        raise WeightsError(f"{path}: {weights!r} is no network that Caffe has the layers for; convert it to one first")
    classes, in_channels, widths = dimensions(weights, architecture)
    odd = {name: blob.dtype for name, blob in weights.items() if blob.dtype not in (np.float32, np.float64)}
    if odd:
        raise WeightsError(
            f"{path}: {at_most(set(odd))} is {next(iter(odd.values()))}; a .caffemodel holds float32 or float64"
        )
    texts = prototxt.files(
        architecture, classes, in_channels, widths, path.stem, metadata.stated(weights, architecture)
    )
    with whole_together(*(path.with_name(path.stem + suffix) for suffix in texts), path) as (*drafts, draft):
        for beside, text in zip(drafts, texts.values(), strict=True):
            # the solver names a file, whose name may be no text
            beside.write_text(text, encoding="utf-8", errors="surrogateescape")
        with open(draft, "wb") as file:
            file.write(wire.text(1, architecture.name))
            for layer in prototxt.net(architecture, classes, in_channels, widths):
                _write_layer(
                    file,
                    layer,
                    [weights[name] for kind in ("weight", "bias") if (name := f"{layer.name}/{kind}") in weights],
                )


def companions(path: str | os.PathLike[str]) -> list[Path]:
    """The files that `write` may put beside a .caffemodel."""
    return [
        Path(path).with_name(Path(path).stem + suffix)
        for suffix in (".deploy.prototxt", ".train_val.prototxt", ".solver.prototxt")
    ]


def _write_layer(file: BinaryIO, layer: prototxt.CaffeLayer, blobs: list[np.ndarray]) -> None:
    """One `layer` field; the lengths are counted first, so that no blob is copied into a message."""
    head = wire.text(1, layer.name) + wire.text(2, layer.kind)
    head += b"".join(wire.text(3, name) for name in layer.bottoms) + b"".join(wire.text(4, name) for name in layer.tops)
    parts = []
    for blob in blobs:
        shape = wire.delimited(7, wire.delimited(1, b"".join(wire.encode(size) for size in blob.shape)))
        data = wire.key(5 if blob.dtype == np.float32 else 8, 2) + wire.encode(blob.nbytes)
        parts.append((wire.key(7, 2) + wire.encode(len(shape) + len(data) + blob.nbytes) + shape + data, blob))
    length = len(head) + sum(len(start) + blob.nbytes for start, blob in parts)
    file.write(wire.key(100, 2) + wire.encode(length) + head)
    for start, blob in parts:
        file.write(start)
        array = np.ascontiguousarray(blob, blob.dtype.newbyteorder("<"))
        file.write(array.reshape(-1).view(np.uint8).data)
