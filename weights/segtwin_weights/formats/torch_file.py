"""torch's .pth and .pt: state_dicts, read without torch and without running what is in them, and
written so that `torch.load` reads them.

Since torch 1.6 a file is a zip archive: `NAME/data.pkl`, a pickle whose tensors refer to storages
by key, and `NAME/data/KEY`, the bytes of each storage. Before that it is a run of pickles (a magic
number, a version, the machine's byte order, the object, the keys) and then the storages. Source:
`torch/serialization.py` and `torch/_utils.py` of torch 2.15.0.

Keys stay as they are (`conv1_1.weight`), but for what training scripts put around a state_dict
(`checkpoints`).
"""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from segtwin.files import whole

from segtwin_weights.door import file_name, quoted, reader
from segtwin_weights.door import loads as loads_json
from segtwin_weights.formats import pickles, zipped
from segtwin_weights.hub import Weights, WeightsError, check_finite, damage, sha256
from segtwin_weights.mappings import checkpoints
from segtwin_weights.mappings.names import FEATURES_ONLY, hub_names, identify, state_dict_names
from segtwin_weights.metadata import as_many
from segtwin_weights.notes import note

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
DTYPES = {
    "HalfStorage": "f2", "FloatStorage": "f4", "DoubleStorage": "f8", "BFloat16Storage": "bf16", "BoolStorage": "b1",
    "CharStorage": "i1", "ByteStorage": "u1", "ShortStorage": "i2", "IntStorage": "i4", "LongStorage": "i8",
    "UntypedStorage": "u1",
}  # fmt: skip
METADATA = "segtwin.json"
"""A record of the archive that torch leaves alone: the hub's metadata, so that mean and colour
travel with the weights."""
MOST_METADATA = 1 << 18
"""Bytes of that record: a thousand classes and their colours take 50 thousand."""
JSON_TIMES = 24
"""Bytes that a byte of JSON becomes at most: an empty list is three and takes 64."""
MOST_TIMES = 3
"""A file of weights names every number of its storages once, or twice where modules share one
(VGGFCN). More was made to exhaust a reader."""


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

    __slots__ = ("odd", "offset", "shape", "storage", "stride")

    def __init__(self, storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> None:
        shape, stride = pickles.dimensions(shape), pickles.dimensions(stride)
        if not isinstance(storage, Storage) or type(offset) is not int or not 0 <= offset <= storage.numel:
            raise ValueError("a tensor that is no view of a storage")
        if len(shape) != len(stride):
            raise ValueError(f"a tensor of shape {shape} and strides {stride}")
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride
        self.odd = ""
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if math.prod(shape) and last >= storage.numel:
            raise ValueError(f"a tensor reaches number {last} of a storage of {storage.numel}")
        # requires_grad, backward_hooks, metadata: the bits conj and neg, which say that the numbers are others
        if len(rest) > 2 and rest[2]:
            if not isinstance(rest[2], dict):
                raise ValueError("a tensor whose metadata are no dict")
            bits = [quoted(name) for name, value in rest[2].items() if value]
            self.odd = (
                f"has torch's bit {bits[0]}, so that its numbers are not those of the file; save tensor.clone()"
                if bits
                else ""
            )

    @classmethod
    def of_kind(cls, odd: str) -> Tensor:
        """A tensor that has no numbers here, and why."""
        tensor = cls(Storage("", "f4", 0), 0, (0,), (1,))
        tensor.odd = odd
        return tensor

    def __setstate__(self, state: Any) -> None:
        """Attributes that somebody gave to a tensor are not weights."""

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers, as an array."""
        return math.prod(self.shape) * self.storage.item.itemsize

    @property
    def copied(self) -> int:
        """Bytes that `array` takes beside the storage's: of numbers that do not lie in order, and
        of bfloat16, which becomes float32."""
        expected = 1
        for size, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and step != expected:
                break
            expected *= size
        else:
            return 2 * self.nbytes if self.storage.dtype == "bf16" else 0
        return 3 * self.nbytes if self.storage.dtype == "bf16" else self.nbytes

    def array(self) -> np.ndarray:
        """Its numbers; a view of the storage where they lie in order, else a copy.

        Raises:
            ValueError: it is of a kind that has none here.
        """
        if self.odd:
            raise ValueError(self.odd)
        data, step = self.storage.data, self.storage.item.itemsize
        assert data is not None
        flat = data[self.offset :]
        array = np.lib.stride_tricks.as_strided(flat, self.shape, [s * step for s in self.stride], writeable=False)
        array = np.array(array, order="C") if not array.flags.c_contiguous else array
        if self.storage.dtype == "bf16":
            wide = array.astype(np.uint32)
            wide <<= 16  # bfloat16 is the upper half of a float32
            return wide.view(np.float32)
        return array.astype(array.dtype.newbyteorder("="), copy=False)


class StorageType(pickles.StandInText):
    """Stands in for `torch.FloatStorage` and its kin, and for types and devices; calls nothing."""

    __slots__ = ()


def _parameter(data: Any, *_: Any) -> Any:
    """`torch._utils._rebuild_parameter(data, requires_grad, backward_hooks)`."""
    return data


def _typed(function: Any, kind: Any, arguments: Any, state: Any = None) -> Any:
    """`torch._tensor._rebuild_from_type_v2(function, type, arguments, state)`: a tensor with
    attributes."""
    if function is not Tensor and function is not _parameter:
        raise ValueError("a tensor of a kind that weights do not need")
    if not isinstance(arguments, tuple | list) or len(arguments) > pickles.MOST_ARGUMENTS:
        raise ValueError("a tensor of arguments that are none")
    return function(*arguments)


def _of_kind(odd: str) -> Callable[..., Tensor]:
    """What rebuilds tensors of a kind that no network here is made of; one beside the network does
    not hide it."""

    def rebuild(*_: Any) -> Tensor:
        return Tensor.of_kind(odd)

    return rebuild


def _mapping(*arguments: Any) -> dict[Any, Any]:
    """`OrderedDict()` or `defaultdict(list)`; protocol 0 hands the pairs over at once."""
    if not arguments or not isinstance(arguments[0], list | tuple):
        return {}
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in arguments[0]):
        raise ValueError("a dict of things that are no pairs")
    return {pickles.key(name): value for name, value in arguments[0]}


def _size(values: Any = ()) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple | dict):
        raise ValueError(f"a list of a {type(values).__name__}")
    return tuple(values)


def _word(*_: Any) -> str:
    """`torch.device("cpu")`: where a tensor was."""
    return "device"


DENSE = "save tensor.to_dense()"
PLAIN = "save it as float32 (tensor.float().cpu())"
ODD = {
    "_rebuild_sparse_tensor": f"is sparse; {DENSE}",
    "_rebuild_sparse_csr_tensor": f"is sparse; {DENSE}",
    "_rebuild_nested_tensor": "is a nested tensor; save its parts",
    "_rebuild_qtensor": "is quantised; save tensor.dequantize()",
    "_rebuild_meta_tensor_no_storage": "is on the device meta and has no numbers; save the model once it has some",
    "_rebuild_wrapper_subclass": "is of a subclass of tensors that wraps others; save the tensors in it",
    "_rebuild_device_tensor_from_numpy": f"is of another device; {PLAIN}",
    "_rebuild_device_tensor_from_cpu_tensor": f"is of another device; {PLAIN}",
    "_rebuild_tensor_v3": f"is of a type of numbers that weights have not (float8, uint16, …); {PLAIN}",
}
"""What rebuilds tensors that are no views of numbers, and what to do about these."""
COMPLEX = {"ComplexFloatStorage": "c8", "ComplexDoubleStorage": "c16"}
"""Storages of complex numbers, which no network here has."""
STORAGE_TYPES = DTYPES | COMPLEX
CONSTRUCTORS: dict[tuple[str, str], Any] = {
    **pickles.NUMPY,
    **{("torch", name): StorageType(name) for name in (*DTYPES, *COMPLEX)},
    ("torch.storage", "UntypedStorage"): StorageType("UntypedStorage"),
    ("collections", "OrderedDict"): _mapping,
    ("collections", "defaultdict"): _mapping,
    ("__builtin__", "list"): _size,
    ("builtins", "list"): _size,
    ("__builtin__", "set"): pickles.make_set,
    ("builtins", "set"): pickles.make_set,
    ("builtins", "frozenset"): pickles.make_set,
    ("__builtin__", "frozenset"): pickles.make_set,
    ("torch", "Size"): _size,
    ("torch", "device"): _word,
    ("torch._utils", "_rebuild_tensor_v2"): Tensor,
    ("torch._utils", "_rebuild_tensor"): Tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _typed,
    **{("torch._utils", name): _of_kind(odd) for name, odd in ODD.items()},
    ("torch.nn.parameter", "Parameter"): StorageType("Parameter"),
    **{
        ("torch", name): StorageType(name)
        for name in ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")
    },
}


@reader
def read(path: str | os.PathLike[str]) -> Weights:
    """Read the state_dict of a torch file; keys and numbers stay as they are, bfloat16 becomes
    float32.

    Raises:
        WeightsError: the file is damaged or hostile, asks for anything to be called, holds a whole
            module or no tensors, or holds NaN.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file, damage(path), _loaded(path, file) as (loaded, load_storages, metadata, budget):
        found = checkpoints.find(path, loaded, Tensor, nested=isinstance(loaded, pickles.Module), spend=budget.spend)
        found = [one for i, one in enumerate(found) if not any(_views(one) == _views(other) for other in found[:i])]
        for name, tensor in ((name, tensor) for tensors in found for name, tensor in tensors.items()):
            if tensor.odd:
                raise WeightsError(f"{path}: {name} {tensor.odd}")
            if tensor.storage.dtype in COMPLEX.values():
                raise WeightsError(f"{path}: {name} is complex; weights are real numbers")
        total = sum(tensor.nbytes for tensors in found for tensor in tensors.values())
        if total > MOST_TIMES * budget.size:
            raise WeightsError(
                f"{path}: names {total:,} bytes of numbers in a file of {budget.size:,}; it is damaged or was made "
                "to fill memory"
            )
        tensors = found[0]
        storages = {tensor.storage.key: tensor.storage for one in found for tensor in one.values()}
        budget.spend(sum(storage.numel * storage.item.itemsize for storage in storages.values()))
        budget.spend(sum(tensor.copied for tensor in tensors.values()))
        for other in found[1:]:
            budget.spend(max(tensor.copied for tensor in other.values()))
        load_storages(set(storages))
        blobs = {name: tensor.array() for name, tensor in tensors.items()}
        beside = checkpoints.of_classes(loaded)
        if any(not _same_numbers(blobs, other) for other in found[1:]):
            raise WeightsError(
                f"{path}: holds a network more than once, with other numbers: "
                f"{checkpoints.places(loaded, Tensor)}; save the one to use alone"
            )
    if (
        (weight := blobs.get("classifier.0.weight")) is not None
        and "features.28.weight" in blobs
        and np.isnan(weight[:1]).all()
    ):
        raise WeightsError(f"{path}: these {FEATURES_ONLY}")
    for name, blob in blobs.items():
        check_finite(path, name, blob)
        if blob.dtype == np.float64 and blob.size and max(blob.max(), -blob.min()) > np.finfo(np.float32).max:
            raise WeightsError(
                f"{path}: {name} holds numbers beyond float32 (±3.4e38), which would become infinite; the file is "
                "damaged"
            )
    if halves := [name for name, tensor in tensors.items() if tensor.storage.dtype == "bf16"]:
        note(f"{path}: {len(halves)} tensors are bfloat16, converted to float32", stacklevel=2)
    return Weights(
        blobs, {**_fitting(path, blobs, beside), **metadata, "source": file_name(path), "sha256": sha256(path)}
    )


def _fitting(
    path: str | os.PathLike[str], blobs: Mapping[str, np.ndarray], beside: dict[str, list[Any]]
) -> dict[str, list[Any]]:
    """The names and colours of classes that stand beside a network, where they are as many as its
    classes."""
    if not beside:
        return {}
    from segtwin_weights import surgery

    weights = hub_names(Weights(blobs))
    architecture = identify(weights)
    count = surgery.found_dimensions(weights, architecture).get("num_classes", 0) if architecture is not None else 0
    if not count:
        return {}
    classes, palette = len(beside.get("classes", ())), len(beside.get("palette", ()))
    kept = {}
    if as_many(classes, count):
        kept["classes"] = beside["classes"]
    if palette == max(count, 2):
        kept["palette"] = beside["palette"]
    if left := beside.keys() - kept.keys():
        said = f"{classes} names and {palette} colours stand beside a network of {count} classes"
        note(f"{path}: {said}; left aside: {' and '.join(sorted(left))}", stacklevel=3)
    return kept


Loaded = tuple[Any, Callable[..., None], dict[str, Any], pickles.Budget]
"""The object, what fills storages by their keys, the metadata, and what may still be taken."""


@contextmanager
def _loaded(path: str | os.PathLike[str], file: BinaryIO) -> Iterator[Loaded]:
    if file.read(4) != b"PK\x03\x04":
        yield _legacy_object(path, file)
        return
    with zipped.opened(path, file) as (archive, budget):
        yield _zip_object(path, archive, budget)


def _views(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    return {name: (tensor.storage.key, tensor.offset, tensor.shape, tensor.stride) for name, tensor in tensors.items()}


def _same_numbers(blobs: Mapping[str, np.ndarray], other: Mapping[str, Tensor]) -> bool:
    return blobs.keys() == other.keys() and all(
        blob.dtype == (array := other[name].array()).dtype
        and np.array_equal(blob, array, equal_nan=blob.dtype.kind == "f")
        for name, blob in blobs.items()
    )


def _storage(pid: Any, storages: dict[str, Storage]) -> Storage | pickles.Foreign:
    """The storage that a pickle's persistent id names: ("storage", type, key, location, count, …)."""
    if (
        isinstance(pid, tuple)
        and len(pid) > 1
        and pid[0] in ("module", b"module")
        and isinstance(pid[1], pickles.Foreign)
    ):
        return pid[1]  # a class with its source, of a whole model as torch before 1.6 saved it
    if not isinstance(pid, tuple) or not 5 <= len(pid) <= 6:
        raise ValueError("a reference that is no storage")
    kind, storage_type, key, _, numel, *view = pid
    if not isinstance(storage_type, StorageType) or type(numel) is not int or not 0 <= numel < 1 << 48:
        raise ValueError("a reference that is no storage")
    if (
        kind not in ("storage", b"storage")
        or storage_type not in STORAGE_TYPES
        or not isinstance(key, str | bytes)
        or len(key) > pickles.MOST_NAME
    ):
        raise ValueError("a reference that is no storage")
    if view and view[0] is not None:
        raise ValueError("a view of a storage, as torch 0.1 wrote it; save it again")
    key = key if isinstance(key, str) else key.decode("latin1")
    storage = storages.setdefault(key, Storage(key, STORAGE_TYPES[storage_type], numel))
    if (storage.dtype, storage.numel) != (STORAGE_TYPES[storage_type], numel):
        raise ValueError(f"two storages {quoted(key)}")
    return storage


# ----------------------------------------------------------------------------------- the zip format


def _zip_object(path: object, archive: zipfile.ZipFile, budget: pickles.Budget) -> Loaded:
    # TorchScript: its code, which is compressed, is not looked at
    program = any(name.endswith("/constants.pkl") for name in archive.namelist())
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        code = (
            program
            and not entry.filename.endswith(("/data.pkl", f"/{METADATA}", "/byteorder"))
            and entry.filename.split("/")[1:2] != ["data"]
        )
        if not code and (entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & zipped.ENCRYPTED):
            raise WeightsError(
                f"{path}: {quoted(entry.filename)} is compressed or encrypted, as torch writes none; do not trust "
                "this file"
            )
        entries[entry.filename] = entry
    pickled = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickled) != 1:
        raise WeightsError(f"{path}: is a zip archive without torch's data.pkl")
    folder = pickled[0].removesuffix("data.pkl")

    def record(name: str, most: int) -> bytes:
        """A small record, whose bytes are not more than it can need."""
        if entries[name].file_size > most:
            raise WeightsError(f"{path}: {quoted(name)} has {entries[name].file_size:,} bytes; the file is damaged")
        return archive.read(name)

    order = record(f"{folder}byteorder", 16) if f"{folder}byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
        raise WeightsError(f"{path}: has the byte order {quoted(order)}; the file is damaged")
    metadata = {}
    if f"{folder}{METADATA}" in entries:
        text = record(f"{folder}{METADATA}", MOST_METADATA)
        budget.spend(JSON_TIMES * len(text))
        metadata = loads_json(text, budget.size)
    storages: dict[str, Storage] = {}
    budget.spend(entries[pickled[0]].file_size)
    program_of = archive.read(pickled[0])
    loaded = pickles.Unpickler(
        program_of, budget, CONSTRUCTORS, lambda pid: _storage(pid, storages), foreign=True
    ).load()

    def load(keys: set[str]) -> None:
        for key in keys:
            storage, entry = storages[key], entries.get(f"{folder}data/{key}")
            dtype = storage.item.newbyteorder("<" if order == b"little" else ">")
            if entry is None or entry.file_size != storage.numel * dtype.itemsize:
                raise WeightsError(
                    f"{path}: storage {quoted(key)} is missing or has not {storage.numel} numbers; the file is damaged"
                )
            with archive.open(entry) as stream:
                storage.data = zipped.fill(stream, storage.numel, dtype)

    return loaded, load, metadata if isinstance(metadata, dict) else {}, budget


# -------------------------------------------------------------------------------- the legacy format


def _legacy_object(path: object, file: BinaryIO) -> Loaded:
    file.seek(0)
    size = os.fstat(file.fileno()).st_size
    budget = pickles.Budget(path, size)
    storages: dict[str, Storage] = {}

    def unpickle(persistent: Callable[[Any], Any] | None = None) -> Any:
        return pickles.Unpickler(file, budget, CONSTRUCTORS, persistent, foreign=True).load()

    magic, protocol = unpickle(), unpickle()
    if type(magic) is not int or magic != LEGACY_MAGIC or type(protocol) is not int or protocol != LEGACY_PROTOCOL:
        raise WeightsError(f"{path}: is a pickle, but none that torch.save made")
    system = unpickle()
    if not isinstance(system, dict):
        raise ValueError("no system information")
    little = system.get("little_endian", system.get(b"little_endian", True))
    loaded = unpickle(lambda pid: _storage(pid, storages))
    keys = unpickle()
    if (
        not isinstance(keys, list)
        or len(keys) != len(storages)
        or not all(isinstance(one, str | bytes) for one in keys)
    ):
        raise ValueError("the storages are not those that the tensors name")
    keys = [one if isinstance(one, str) else one.decode("latin1") for one in keys]
    if set(keys) != storages.keys():
        raise ValueError("the storages are not those that the tensors name")

    def load(wanted: set[str]) -> None:
        for key in keys:
            storage = storages[key]
            dtype = storage.item.newbyteorder("<" if little else ">")
            (count,) = struct.unpack("<q" if little else ">q", file.read(8))
            if count != storage.numel or count * dtype.itemsize > size - file.tell():
                raise EOFError(f"storage {quoted(storage.key)} is cut short")
            if storage.key in wanted:
                storage.data = np.fromfile(file, dtype, count)
            else:
                file.seek(count * dtype.itemsize, os.SEEK_CUR)

    return loaded, load, {}, budget


# ------------------------------------------------------------------------------------------ writing


STORAGES = {"f2": "HalfStorage", "f4": "FloatStorage", "f8": "DoubleStorage", "i1": "CharStorage",
    "u1": "ByteStorage", "b1": "BoolStorage",
            "i2": "ShortStorage", "i4": "IntStorage", "i8": "LongStorage"}  # fmt: skip


def write(weights: Weights, path: str | os.PathLike[str]) -> None:
    """Write a state_dict that `torch.load(path, weights_only=True)` reads; a Caffe net's keys are
    `conv1_1.weight`.

    Raises:
        WeightsError: an array's type has no storage in torch.
        OSError: the file cannot be written.
    """
    state = state_dict_names(weights)
    for name, blob in state.items():
        if blob.dtype.str[1:] not in STORAGES:
            raise WeightsError(f"{path}: {name} is {blob.dtype}, which a torch file cannot hold")
    folder = file_name(Path(path).stem) or "archive"
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
    """OrderedDict of `_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`, in
    pickle protocol 2."""
    mark, to_tuple, call = pickle.MARK, pickle.TUPLE, pickle.REDUCE
    empty = b"ccollections\nOrderedDict\n" + pickle.EMPTY_TUPLE + call
    out = [pickle.PROTO, b"\x02", empty, mark]
    for key, (name, blob) in enumerate(state.items()):
        strides = np.empty(blob.shape, "i1").strides  # in numbers, of the array in order
        reference = [
            _string("storage"),
            f"ctorch\n{STORAGES[blob.dtype.str[1:]]}\n".encode(),
            _string(str(key)),
            _string("cpu"),
            _integer(blob.size),
        ]
        arguments = [
            mark, *reference, to_tuple, pickle.BINPERSID,
            _integer(0), mark, *map(_integer, blob.shape), to_tuple, mark, *map(_integer, strides), to_tuple,
            pickle.NEWFALSE, empty,
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
    """Put the hub's metadata into a file that `torch.save` wrote, where `write` puts them; torch
    reads past them."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        folder = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{folder}/{METADATA}", json.dumps(dict(metadata), ensure_ascii=False))
