"""torch's .pth and .pt: state_dicts, read without torch and without running what is in them, and written so that `torch.load` reads them.

Since torch 1.6 a file is a zip archive: `NAME/data.pkl`, a pickle whose tensors refer to storages by key, and `NAME/data/KEY`, the bytes of
each storage. Before that it is a run of pickles (a magic number, a version, the machine's byte order, the object, the keys) and then the
storages. Source: `torch/serialization.py` and `torch/_utils.py` of torch 2.15.0.

Keys stay as they are (`conv1_1.weight`), but for what training scripts put around a state_dict (`checkpoints`).
"""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from segtwin import Converted
from segtwin.files import whole

from segtwin_weights import checkpoints, pickles
from segtwin_weights.door import reader
from segtwin_weights.hub import Weights, WeightsError, check_finite, damage, sha256
from segtwin_weights.names import FEATURES_ONLY, state_dict_names

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
DTYPES = {
    "HalfStorage": "f2", "FloatStorage": "f4", "DoubleStorage": "f8", "BFloat16Storage": "bf16", "BoolStorage": "b1",
    "CharStorage": "i1", "ByteStorage": "u1", "ShortStorage": "i2", "IntStorage": "i4", "LongStorage": "i8", "UntypedStorage": "u1",
}  # fmt: skip
METADATA = "segtwin.json"
"""A record of the archive that torch leaves alone: the hub's metadata, so that mean and colour travel with the weights."""
MOST_TIMES = 3
"""A file of weights names every number of its storages once, or twice where modules share one (VGGFCN). More was made to exhaust a reader."""


class Storage(pickles.StandIn):
    """Where the numbers of tensors lie: a key into the file."""

    __slots__ = ("data", "dtype", "key", "numel")

    def __init__(self, key: str, dtype: str, numel: int) -> None:
        self.key, self.dtype, self.numel = key, dtype, numel
        self.data: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a storage has no state")

    @property
    def item(self) -> np.dtype[Any]:
        """Type of its numbers as they lie in the file."""
        return np.dtype("u2" if self.dtype == "bf16" else self.dtype)


class Tensor(pickles.StandIn):
    """A view into a storage."""

    __slots__ = ("offset", "shape", "storage", "stride")

    def __init__(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> None:
        sizes = (offset, *shape, *stride)
        if not isinstance(storage, Storage) or not all(type(size) is int and 0 <= size < 1 << 48 for size in sizes):
            raise ValueError("a tensor that is no view of a storage")
        if len(shape) != len(stride) or len(shape) > pickles.MOST_DIMENSIONS:
            raise ValueError(f"a tensor of shape {shape} and strides {stride}")
        self.storage, self.offset, self.shape, self.stride = storage, offset, tuple(shape), tuple(stride)
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if math.prod(shape) and last >= storage.numel:
            raise ValueError(f"a tensor reaches number {last} of a storage of {storage.numel}")

    def __setstate__(self, state: Any) -> None:
        """Attributes that somebody gave to a tensor are not weights."""

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers, as an array."""
        return math.prod(self.shape) * self.storage.item.itemsize

    def array(self) -> np.ndarray:
        """Its numbers; a view of the storage where they lie in order, else a copy."""
        data, step = self.storage.data, self.storage.item.itemsize
        assert data is not None
        flat = data[self.offset :]
        array = np.lib.stride_tricks.as_strided(flat, self.shape, [s * step for s in self.stride], writeable=False)
        array = np.array(array, order="C") if not array.flags.c_contiguous else array
        if self.storage.dtype == "bf16":
            return (array.astype(np.uint32) << 16).view(np.float32)  # bfloat16 is the upper half of a float32
        return array.astype(array.dtype.newbyteorder("="), copy=False)


class StorageType(str):
    """Stands in for `torch.FloatStorage` and its kin, and for types and devices; calls nothing."""

    __slots__ = ()


def _parameter(data: Any, *_: Any) -> Any:
    """`torch._utils._rebuild_parameter(data, requires_grad, backward_hooks)`."""
    return data


def _typed(function: Any, kind: Any, arguments: Any, state: Any = None) -> Any:
    """`torch._tensor._rebuild_from_type_v2(function, type, arguments, state)`: a tensor with attributes."""
    if function is not Tensor and function is not _parameter:
        raise ValueError("a tensor of a kind that weights do not need")
    return function(*arguments)


def _mapping(*arguments: Any) -> dict[Any, Any]:
    """`OrderedDict()` or `defaultdict(list)`; protocol 0 hands the pairs over at once."""
    return dict(arguments[0]) if arguments and isinstance(arguments[0], list | tuple) else {}


def _size(values: Any = ()) -> tuple[Any, ...]:
    return tuple(values)


def _word(*_: Any) -> str:
    """`torch.device("cpu")`: where a tensor was."""
    return "device"


CONSTRUCTORS: dict[tuple[str, str], Any] = {
    **pickles.NUMPY,
    **{("torch", name): StorageType(name) for name in DTYPES},
    ("torch.storage", "UntypedStorage"): StorageType("UntypedStorage"),
    ("collections", "OrderedDict"): _mapping,
    ("collections", "defaultdict"): _mapping,
    ("__builtin__", "list"): _size,
    ("builtins", "list"): _size,
    ("__builtin__", "set"): _size,
    ("builtins", "set"): _size,
    ("torch", "Size"): _size,
    ("torch", "device"): _word,
    ("torch._utils", "_rebuild_tensor_v2"): Tensor,
    ("torch._utils", "_rebuild_tensor"): Tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _typed,
    ("torch.nn.parameter", "Parameter"): StorageType("Parameter"),
    **{
        ("torch", name): StorageType(name)
        for name in ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")
    },
}


@reader
def read(path: str | os.PathLike[str]) -> Weights:
    """Read the state_dict of a torch file; keys and numbers stay as they are, bfloat16 becomes float32.

    Raises:
        WeightsError: the file is damaged or hostile, asks for anything to be called, holds a whole module or no tensors, or holds NaN.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        with damage(path):
            loaded, load_storages, metadata = (_zip_object if file.read(4) == b"PK\x03\x04" else _legacy_object)(path, file)
        found = checkpoints.find(path, loaded, Tensor, nested=isinstance(loaded, pickles.Module))
        found = [one for i, one in enumerate(found) if not any(_views(one) == _views(other) for other in found[:i])]
        total, size = sum(tensor.nbytes for tensors in found for tensor in tensors.values()), os.fstat(file.fileno()).st_size
        if total > MOST_TIMES * size:
            raise WeightsError(f"{path}: names {total:,} bytes of numbers in a file of {size:,}; it is damaged or was made to fill memory")
        with damage(path):
            load_storages({tensor.storage.key for tensors in found for tensor in tensors.values()})
        tensors = found[0]
        blobs = {name: tensor.array() for name, tensor in tensors.items()}
        if any(not _same_numbers(blobs, other) for other in found[1:]):
            raise WeightsError(
                f"{path}: holds a network more than once, with other numbers: {checkpoints.places(loaded, Tensor)}; save the one to use alone"
            )
    if (weight := blobs.get("classifier.0.weight")) is not None and "features.28.weight" in blobs and np.isnan(weight[:1]).all():
        raise WeightsError(f"{path}: these {FEATURES_ONLY}")
    for name, blob in blobs.items():
        check_finite(path, name, blob)
    if halves := [name for name, tensor in tensors.items() if tensor.storage.dtype == "bf16"]:
        warnings.warn(f"{path}: {len(halves)} tensors are bfloat16, converted to float32", Converted, stacklevel=2)
    return Weights(blobs, {**metadata, "source": Path(path).name, "sha256": sha256(path)})


def _views(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    return {name: (tensor.storage.key, tensor.offset, tensor.shape, tensor.stride) for name, tensor in tensors.items()}


def _same_numbers(blobs: Mapping[str, np.ndarray], other: Mapping[str, Tensor]) -> bool:
    return blobs.keys() == other.keys() and all(
        blob.dtype == (array := other[name].array()).dtype and np.array_equal(blob, array, equal_nan=blob.dtype.kind == "f")
        for name, blob in blobs.items()
    )


def _storage(pid: Any, storages: dict[str, Storage]) -> Storage | pickles.Foreign:
    """The storage that a pickle's persistent id names: ("storage", type, key, location, count, …)."""
    if isinstance(pid, tuple) and len(pid) > 1 and pid[0] in ("module", b"module") and isinstance(pid[1], pickles.Foreign):
        return pid[1]  # a class with its source, of a whole model as torch before 1.6 saved it
    kind, storage_type, key, _, numel, *view = pid
    if kind not in ("storage", b"storage") or storage_type not in DTYPES or not isinstance(key, str | bytes) or type(numel) is not int or numel < 0:
        raise ValueError("a reference that is no storage")
    if view and view[0] is not None:
        raise ValueError("a view of a storage, as torch 0.1 wrote it; save it again")
    key = key if isinstance(key, str) else key.decode("latin1")
    storage = storages.setdefault(key, Storage(key, DTYPES[storage_type], numel))
    if (storage.dtype, storage.numel) != (DTYPES[storage_type], numel):
        raise ValueError(f"two storages {key!r}")
    return storage


# ------------------------------------------------------------------------------------------------------------------------------ the zip format


def _zip_object(path: object, file: BinaryIO) -> tuple[Any, Callable[..., None], dict[str, Any]]:
    file.seek(0)
    archive = zipfile.ZipFile(file)
    program = any(name.endswith("/constants.pkl") for name in archive.namelist())  # TorchScript: its code, which is compressed, is not looked at
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        code = program and not entry.filename.endswith(("/data.pkl", f"/{METADATA}", "/byteorder")) and entry.filename.split("/")[1:2] != ["data"]
        if not code and (entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1):
            raise WeightsError(f"{path}: {entry.filename!r} is compressed or encrypted, as torch writes none; do not trust this file")
        if entry.filename in entries:
            raise WeightsError(f"{path}: holds {entry.filename!r} twice; do not trust this file")
        entries[entry.filename] = entry
    pickled = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickled) != 1:
        raise WeightsError(f"{path}: is a zip archive without torch's data.pkl")
    folder = pickled[0].removesuffix("data.pkl")
    order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
        raise WeightsError(f"{path}: has the byte order {order[:16]!r}; the file is damaged")
    metadata = json.loads(archive.read(f"{folder}{METADATA}")) if f"{folder}{METADATA}" in entries else {}
    storages: dict[str, Storage] = {}
    with archive.open(pickled[0]) as stream:
        loaded = pickles.Unpickler(stream, path, CONSTRUCTORS, lambda pid: _storage(pid, storages), foreign=True).load()  # type: ignore[arg-type]

    def load(keys: set[str]) -> None:
        for key in keys:
            storage, entry = storages[key], entries.get(f"{folder}data/{key}")
            dtype = storage.item.newbyteorder("<" if order == b"little" else ">")
            if entry is None or entry.file_size != storage.numel * dtype.itemsize:
                raise WeightsError(f"{path}: storage {key} is missing or has not {storage.numel} numbers; the file is damaged")
            with archive.open(entry) as stream:
                storage.data = _fill(stream, storage.numel, dtype)

    return loaded, load, metadata if isinstance(metadata, dict) else {}


def _fill(stream: Any, count: int, dtype: np.dtype[Any]) -> np.ndarray:
    """Numbers from a stream, piece by piece, so that a length that is not true costs nothing."""
    array = np.empty(count, dtype)
    view = array.view(np.uint8).data if count else memoryview(b"")
    at = 0
    while at < len(view):
        got = stream.readinto(view[at : at + (1 << 24)])
        if not got:
            raise EOFError(f"{at:,} bytes of {len(view):,}")
        at += got
    if stream.read(1):  # lets zipfile check the sum of the whole record
        raise ValueError("a record that is longer than it says")
    return array


# --------------------------------------------------------------------------------------------------------------------------- the legacy format


def _legacy_object(path: object, file: BinaryIO) -> tuple[Any, Callable[..., None], dict[str, Any]]:
    file.seek(0)
    size = os.fstat(file.fileno()).st_size
    storages: dict[str, Storage] = {}

    def unpickle(persistent: Callable[[Any], Any] | None = None) -> Any:
        return pickles.Unpickler(file, path, CONSTRUCTORS, persistent, foreign=True).load()

    if unpickle() != LEGACY_MAGIC or unpickle() != LEGACY_PROTOCOL:
        raise WeightsError(f"{path}: is a pickle, but none that torch.save made")
    system = unpickle()
    if not isinstance(system, dict):
        raise ValueError("no system information")
    little = system.get("little_endian", system.get(b"little_endian", True))
    loaded = unpickle(lambda pid: _storage(pid, storages))
    keys = unpickle()
    if not isinstance(keys, list) or {k if isinstance(k, str) else bytes(k).decode("latin1") for k in keys} != storages.keys():
        raise ValueError("the storages are not those that the tensors name")

    def load(wanted: set[str]) -> None:
        for key in keys:
            storage = storages[key if isinstance(key, str) else key.decode("latin1")]
            dtype = storage.item.newbyteorder("<" if little else ">")
            (count,) = struct.unpack("<q" if little else ">q", file.read(8))
            if count != storage.numel or count * dtype.itemsize > size - file.tell():
                raise EOFError(f"storage {storage.key} is cut short")
            if storage.key in wanted:
                storage.data = np.fromfile(file, dtype, count)
            else:
                file.seek(count * dtype.itemsize, os.SEEK_CUR)

    return loaded, load, {}


# -------------------------------------------------------------------------------------------------------------------------------------- writing


STORAGES = {"f2": "HalfStorage", "f4": "FloatStorage", "f8": "DoubleStorage", "i1": "CharStorage", "u1": "ByteStorage", "b1": "BoolStorage",
            "i2": "ShortStorage", "i4": "IntStorage", "i8": "LongStorage"}  # fmt: skip


def write(weights: Weights, path: str | os.PathLike[str]) -> None:
    """Write a state_dict that `torch.load(path, weights_only=True)` reads; a Caffe net's keys are `conv1_1.weight`.

    Raises:
        WeightsError: an array's type has no storage in torch.
        OSError: the file cannot be written.
    """
    state = state_dict_names(weights)
    for name, blob in state.items():
        if blob.dtype.str[1:] not in STORAGES:
            raise WeightsError(f"{path}: {name} is {blob.dtype}, which a torch file cannot hold")
    folder = Path(path).stem or "archive"
    with whole(path) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{folder}/data.pkl", _state_dict_pickle(state))
        archive.writestr(f"{folder}/byteorder", "little")
        archive.writestr(f"{folder}/{METADATA}", json.dumps(weights.metadata, ensure_ascii=False))
        for key, blob in enumerate(state.values()):
            with _record(archive, f"{folder}/data/{key}") as record:
                record.write(np.ascontiguousarray(blob, blob.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)
        archive.writestr(f"{folder}/version", "3\n")


@contextmanager
def _record(archive: zipfile.ZipFile, name: str) -> Iterator[Any]:
    with archive.open(name, "w", force_zip64=True) as record:
        yield record


def _state_dict_pickle(state: Mapping[str, np.ndarray]) -> bytes:
    """OrderedDict of `_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`, in pickle protocol 2."""
    mark, to_tuple, call = pickle.MARK, pickle.TUPLE, pickle.REDUCE
    empty = b"ccollections\nOrderedDict\n" + pickle.EMPTY_TUPLE + call
    out = [pickle.PROTO, b"\x02", empty, mark]
    for key, (name, blob) in enumerate(state.items()):
        strides = np.empty(blob.shape, "i1").strides  # in numbers, of the array in order
        reference = [_string("storage"), f"ctorch\n{STORAGES[blob.dtype.str[1:]]}\n".encode(), _string(str(key)), _string("cpu"), _integer(blob.size)]
        arguments = [
            mark, *reference, to_tuple, pickle.BINPERSID,
            _integer(0), mark, *map(_integer, blob.shape), to_tuple, mark, *map(_integer, strides), to_tuple, pickle.NEWFALSE, empty,
        ]  # fmt: skip
        out += [_string(name), b"ctorch._utils\n_rebuild_tensor_v2\n", mark, *arguments, to_tuple, call]
    return b"".join([*out, pickle.SETITEMS, pickle.STOP])


def _string(text: str) -> bytes:
    data = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    if value < 1 << 31:
        return pickle.BININT + struct.pack("<i", value)
    return pickle.LONG1 + b"\x08" + struct.pack("<q", value)


def add_metadata(path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
    """Put the hub's metadata into a file that `torch.save` wrote, where `write` puts them; torch reads past them."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        folder = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{folder}/{METADATA}", json.dumps(dict(metadata), ensure_ascii=False))
