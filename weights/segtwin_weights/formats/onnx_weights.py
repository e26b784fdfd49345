"""The weights of an ONNX file, read from the wire format: this project's exports, torchvision's,
others'.

Weights are initializers and Constant nodes, and what `onnx_graph` makes of them on their way into
the layer that takes them.

Source: `onnx.proto` of onnx 1.23. Field numbers:

    ModelProto         graph 7, metadata_props 14 {key 1, value 2}
    GraphProto         node 1, initializer 5, input 11 {name 1}, output 12 {name 1}, sparse_initializer 15
    TensorProto        dims 1, data_type 2, float_data 4, int32_data 5, int64_data 7, name 8, raw_data 9,
                       double_data 10, external_data 13, data_location 14
    SparseTensorProto  values 1, indices 2, dims 3
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from segtwin.architectures import find_architecture

from segtwin_weights import onnx_stamp
from segtwin_weights.door import OBJECT, Budget, file_name, reader, regular, shown
from segtwin_weights.formats import onnx_graph, wire
from segtwin_weights.formats.onnx_graph import Graph
from segtwin_weights.hub import Metadata, Weights, WeightsError, check_finite, sha256
from segtwin_weights.mappings.names import identify
from segtwin_weights.metadata import loads
from segtwin_weights.notes import note

DTYPES = {
    1: "<f4",
    2: "u1",
    3: "i1",
    5: "<i2",
    6: "<i4",
    7: "<i8",
    9: "?",
    10: "<f2",
    11: "<f8",
    12: "<u4",
    13: "<u8",
    16: "bf16",
}
NAMES = {
    8: "string", 14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8", 18: "float8", 19: "float8",
    20: "float8", 21: "uint4", 22: "int4",
    23: "float4", 24: "float8", 25: "uint2", 26: "int2",
}  # fmt: skip
"""Of types that numpy has not."""
TAKEN_OVER = {
    "schema", "architecture", "num_classes", "preprocessing", "preprocessing_assumed", "synthetic", "classes",
    "palette", "batchnorm",
    "colour", "mean", "divisor", "std",
}  # fmt: skip
"""Properties of our own files that are the weights' metadata; the last four are of schema 1."""
TYPED = {4: "<f4", 10: "<f8"}
"""Fields that hold numbers as they are; int32_data and int64_data hold varints: of float16 and
bfloat16, the bits."""
MOST_DIMENSIONS = 32


@reader
def read(path: str | os.PathLike[str]) -> Weights:
    """Read the weights of an ONNX file, external data beside it included.

    Of this project's exports: exactly the architecture's weights. Of others: every initializer and
    constant of floating-point numbers that has an axis, in the hub's layout for the layer that
    takes it, and batch-normalisation counters; shapes, axes and scales that operators take as
    constants are none. A layer whose weights are computed in the graph is warned about.

    Raises:
        WeightsError: the file is damaged or hostile, names a file outside its folder, is quantised,
            has no weights, or holds NaN.
        OSError: it cannot be read.
    """
    properties: dict[str, Any] = {}
    graph = Graph(path)
    with wire.mapped(path) as data, ExitStack() as stack:
        reader = wire.Reader()
        stored = Stored(path, len(data), stack)
        try:
            for number, _, value in reader.fields(data):
                if number == 7 and isinstance(value, memoryview):
                    _graph(path, reader, value, graph, stored)
                elif number == 14 and isinstance(value, memoryview):
                    key, text = _entry(reader, value)
                    properties[key] = loads(path, key, text, len(data))
            onnx_stamp.check_data(path, properties, stored.files)
            architecture = find_architecture(properties.get("architecture"))
            blobs = onnx_graph.weights(
                graph, None if architecture is None else [parameter.name for parameter in architecture.parameters()]
            )
        except wire.Malformed as error:
            raise WeightsError(f"{path}: is cut short or damaged ({error}); export or fetch it again") from None
        except UnicodeDecodeError:
            raise WeightsError(f"{path}: a name in it is no text; the file is damaged") from None
    if not blobs and len(graph.inputs) > 1:
        raise WeightsError(
            f"{path}: holds no weights: its graph takes them as inputs ({len(graph.inputs)}); export it again with them"
        )
    if not blobs:
        if properties.get("precision") == "int8":
            raise WeightsError(f"{path}: is quantised; give the float model that it was made from")
        raise WeightsError(f"{path}: holds no weights")
    for name, array in blobs.items():
        check_finite(path, name, array)
    metadata: Metadata = {key: properties[key] for key in properties.keys() & TAKEN_OVER}
    if architecture is None and (architecture := identify(blobs)):
        metadata["architecture"] = architecture.name
    return Weights(blobs, {**metadata, "source": file_name(path), "sha256": sha256(path)})


def _graph(path: str | os.PathLike[str], reader: wire.Reader, data: memoryview, graph: Graph, stored: Stored) -> None:
    """Initializers first: nodes may stand before them in the file."""
    for number, _, value in reader.fields(data):
        if not isinstance(value, memoryview):
            continue
        if number == 5:
            graph.add(*_tensor(path, reader, value, stored))
        elif number == 15:
            graph.add(*_sparse(path, reader, value, stored))
        elif number in (11, 12):
            name = next(
                (str(one, "utf-8") for n, _, one in reader.fields(value) if n == 1 and isinstance(one, memoryview)), ""
            )
            (graph.inputs if number == 11 else graph.outputs).append(name)
    for number, _, value in reader.fields(data):
        if number == 1 and isinstance(value, memoryview):
            node = onnx_graph.node(reader, value)
            graph.visit(
                node,
                lambda tensor: _tensor(path, reader, tensor, stored)[1:],
                lambda tensor: _sparse(path, reader, tensor, stored)[1:],
            )
    graph.inputs = [name for name in graph.inputs if name not in graph.values]


def _sparse(
    path: str | os.PathLike[str], reader: wire.Reader, data: memoryview, stored: Stored
) -> tuple[str, np.ndarray | None, str]:
    """(name, dense array, type) of a SparseTensorProto."""
    parts: dict[int, tuple[str, np.ndarray | None, str]] = {}
    shape: list[int] = []
    for number, _, value in reader.fields(data):
        if number in (1, 2) and isinstance(value, memoryview):
            parts[number] = _tensor(path, reader, value, stored)
        elif number == 3:
            shape += [value] if isinstance(value, int) else _dims(value)
    name, values, kind = parts.get(1, ("", None, ""))
    at = parts.get(2, ("", None, ""))[1]
    size = math.prod(shape)
    if values is None or at is None or at.dtype.kind != "i" or len(shape) > MOST_DIMENSIONS or values.ndim != 1:
        raise WeightsError(f"{path}: the sparse tensor {name!r} is damaged; export or fetch the file again")
    if size > MOST_SPARSE * max(values.size, 1):
        raise WeightsError(
            f"{path}: the sparse tensor {name!r} has {values.size} numbers for a shape of {size:,}; save it dense"
        )
    if at.shape == (values.size, len(shape)) and ((at >= 0) & (at < np.array(shape, np.int64))).all():
        at = np.ravel_multi_index(tuple(at.T), tuple(shape)) if values.size else at[:, 0]
    if at.shape != values.shape or (at.size and not (at.min() >= 0 and at.max() < size)):
        raise WeightsError(f"{path}: the sparse tensor {name!r} has numbers outside its shape; the file is damaged")
    stored.made.spend(size * values.dtype.itemsize, f"the sparse tensor {shown(name, 80)} asks for more numbers")
    dense = np.zeros(size, values.dtype)
    dense[at] = values
    return name, dense.reshape(shape), kind


MOST_SPARSE = 100
"""How many numbers of a shape one number of a sparse tensor may stand for."""


def _entry(reader: wire.Reader, data: memoryview) -> tuple[str, str]:
    pair = {1: "", 2: ""}
    for number, _, value in reader.fields(data):
        if number in pair and isinstance(value, memoryview):
            pair[number] = str(value, "utf-8")
    return pair[1], pair[2]


def _tensor(
    path: str | os.PathLike[str], reader: wire.Reader, data: memoryview, stored: Stored
) -> tuple[str, np.ndarray | None, str]:
    """(name, array, type) of a TensorProto; no array where numpy has no such type."""
    name, kind, shape = "", 0, []
    raw: memoryview | None = None
    typed: list[np.ndarray] = []
    varints: list[np.ndarray] = []
    external: dict[str, str] = {}
    for number, wire_type, value in reader.fields(data):
        if number == 1:
            shape += [value] if isinstance(value, int) else _dims(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8 and isinstance(value, memoryview):
            name = str(value, "utf-8")
        elif number == 9 and isinstance(value, memoryview):
            raw = value
        elif number in TYPED and isinstance(value, memoryview) and wire_type in (2, 5 if number == 4 else 1):
            typed.append(
                np.frombuffer(value[: len(value) // int(TYPED[number][2]) * int(TYPED[number][2])], TYPED[number])
            )
        elif number in (5, 7):
            varints += (
                [np.array([value], np.uint64)]
                if isinstance(value, int)
                else _narrowed(wire.varints(value), kind, stored)
            )
        elif number == 13 and isinstance(value, memoryview):
            key, text = _entry(reader, value)
            external[key] = text
        if len(typed) + len(varints) > MOST_PIECES:
            raise WeightsError(
                f"{path}: {shown(name, 80)} is in more than {MOST_PIECES:,} pieces; the file is damaged or was "
                "made to fill memory"
            )
    stored.made.spend(OBJECT, "holds more tensors")
    dtype = _dtype(kind)
    said = NAMES.get(kind, str(dtype) if kind in DTYPES else f"of type {kind}")
    if len(shape) > MOST_DIMENSIONS:
        raise WeightsError(f"{path}: {name} has more than {MOST_DIMENSIONS} dimensions; the file is damaged")
    if dtype.kind == "V":
        return name, None, said
    if external:
        flat = _external(path, name, external, dtype, math.prod(shape), stored)
    elif raw is not None:
        flat = np.frombuffer(raw, dtype).copy() if len(raw) == math.prod(shape) * dtype.itemsize else np.zeros(0, dtype)
    elif typed:
        flat = np.concatenate(typed)
    elif varints:
        flat = _of_varints(varints, dtype)
    else:
        flat = np.zeros(0, dtype)
    if flat.size != math.prod(shape):
        raise WeightsError(
            f"{path}: {name} has other numbers than its shape {'×'.join(map(str, shape))} asks for; the file is damaged"
        )
    if DTYPES[kind] == "bf16":
        note(f"{path}: {shown(name, 80)} is bfloat16, converted to float32", stacklevel=2)
        bits = flat.astype(np.uint32)
        bits <<= 16  # in place: a third array would be beyond the file's budget
        flat = bits.view(np.float32)
    return name, flat.astype(flat.dtype.newbyteorder("="), copy=False).reshape(shape), said


def _narrowed(blocks: Iterator[np.ndarray], kind: int, stored: Stored) -> Iterator[np.ndarray]:
    """Integers in as many bytes as their type has, where it was stated before them."""
    bits = np.dtype(f"<u{_dtype(kind).itemsize}") if kind in DTYPES else np.dtype(np.uint64)
    for block in blocks:
        stored.made.spend(block.size * bits.itemsize, "holds more numbers as varints")
        yield block.astype(bits)


def _of_varints(pieces: list[np.ndarray], dtype: np.dtype[Any]) -> np.ndarray:
    """Numbers of `dtype` from int32_data or int64_data: integers as they are, 16-bit floats by
    their bits."""
    bits = np.dtype(f"<u{dtype.itemsize}")
    return np.concatenate([piece.astype(bits, copy=False) for piece in pieces]).view(dtype)


def _dtype(kind: int) -> np.dtype[Any]:
    return np.dtype("<u2" if DTYPES.get(kind) == "bf16" else DTYPES.get(kind, "V1"))


def _dims(data: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(data):
        value, at = wire.varint(data, at)
        values.append(value)
        if len(values) > MOST_DIMENSIONS:
            raise wire.Malformed(f"more than {MOST_DIMENSIONS} dimensions")
    return values


def _external(
    path: str | os.PathLike[str], name: str, entries: dict[str, str], dtype: np.dtype[Any], count: int, stored: Stored
) -> np.ndarray:
    """Numbers in a file beside the graph; never one elsewhere."""
    location = entries.get("location", "")
    folder = onnx_stamp.folder_of(path, location if "\0" not in location else "")
    beside = (folder / location).resolve() if location and "\0" not in location else folder
    if Path(location).is_absolute() or not beside.is_relative_to(folder) or beside == folder:
        raise WeightsError(f"{path}: {name} lies in {location!r}, outside the file's folder; do not trust this file")
    if len(location) > MOST_NAME or not beside.exists():
        raise WeightsError(
            f"{path}: {name} lies in {shown(repr(location), 80)}, which is not there; put it beside the file"
        )
    if beside not in stored.files:
        regular(beside)
        stored.files[beside] = stored.stack.enter_context(open(beside, "rb"))  # noqa: SIM115 - closed by the stack
        stored.sizes[beside] = os.fstat(stored.files[beside].fileno()).st_size
        stored.external.left += int(TIMES * stored.sizes[beside])
    try:
        offset = int(entries.get("offset") or 0)
    except ValueError:
        raise WeightsError(
            f"{path}: {name} begins at {entries['offset'][:20]!r} of {location!r}; the file is damaged"
        ) from None
    if offset < 0 or offset + count * dtype.itemsize > stored.sizes[beside]:
        raise WeightsError(f"{path}: {name} goes beyond the end of {location!r}; the file is cut short")
    stored.external.spend(count * dtype.itemsize, "names more numbers in the data beside it")
    file = stored.files[beside]
    file.seek(offset)
    return np.fromfile(file, dtype, count)


class Stored:
    """What may be made of one file: its own bytes once as they lie, and so with the files beside
    it, whose ranges tensors may share in part.

    Each file beside it is opened once, so that all tensors come from the same one where another
    process replaces it meanwhile.
    """

    def __init__(self, path: object, size: int, stack: ExitStack) -> None:
        self.made = Budget(path, size)
        self.external = Budget(path, size, TIMES, 0)
        self.stack = stack
        self.files: dict[Path, BinaryIO] = {}
        self.sizes: dict[Path, int] = {}


TIMES = 1.5
"""Bytes that tensors may name in external data, in sizes of these files: some exporters store equal
tensors once and name them twice."""
MOST_PIECES = 20_000
"""Of a tensor's numbers; writers make one, and those of 64 kB that `wire.varints` makes are of
files of less than 1 GB."""
MOST_NAME = 1024
"""Characters of a relative path."""
