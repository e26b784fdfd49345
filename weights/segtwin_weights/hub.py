"""The hub: weights as a dictionary of numpy arrays under Caffe's names and in Caffe's layouts,
whatever file they came from."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from segtwin.errors import WeightNamesError, WeightsError

from segtwin_weights import kinds
from segtwin_weights.door import damage, line, reader_of_parts, shown

__all__ = [
    "Metadata", "Weights", "WeightsError", "at_most", "check_finite", "check_keys", "checkpoint_prefix", "damage",
    "file_kind", "is_checkpoint",
    "line", "sha256",
]  # fmt: skip

Metadata = dict[str, Any]


class Weights(Mapping[str, np.ndarray]):
    """Blob name → array, with what is known about them.

    Names and layouts are Caffe's for the Caffe nets (`conv1_1/weight` O×I×kh×kw, `upscore2/weight`
    I×O×kh×kw, `fc8/weight` O×I). Networks that come from torch keep the keys and layouts of their
    state_dict.

    `metadata` may hold: schema, architecture, num_classes, widths, preprocessing (of
    `segtwin.Preprocessing`; absent where nobody stated it), source, sha256 (of the source),
    classes, palette, version, synthetic (true: random numbers, not trained);
    `segtwin_weights.metadata` writes and reads it.
    """

    def __init__(self, blobs: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
        self._blobs = {name: np.asarray(blob) for name, blob in blobs.items()}
        self.metadata: Metadata = dict(metadata or {})

    __eq__ = object.__eq__  # arrays do not compare to one answer; `fingerprint` does
    __hash__ = object.__hash__

    def __getitem__(self, name: str) -> np.ndarray:
        return self._blobs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blobs)

    def __len__(self) -> int:
        return len(self._blobs)

    def __repr__(self) -> str:
        count = sum(blob.size for blob in self.values())
        return f"Weights({self.metadata.get('architecture', 'unknown network')}, {len(self)} blobs, {count:,} numbers)"

    def fingerprint(self) -> str:
        """sha256 over names, types, shapes and values, in the order of the names: equal weights
        have equal fingerprints."""
        digest = hashlib.sha256()
        for name in sorted(self):
            blob = np.ascontiguousarray(self[name])
            digest.update(f"{name}\0{blob.dtype.str}\0{blob.shape}\0".encode())
            digest.update(blob.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()


def check_finite(path: str | os.PathLike[str], name: str, array: np.ndarray) -> None:
    """Refuse numbers that no network computes with: NaN and infinity spread until every logit is
    NaN, and say nothing; so do numbers that become infinite as float32, and variances below zero. A
    shape of a zero and a huge dimension holds no numbers and asks for as large a model.

    Raises:
        WeightsError: the array holds some.
    """
    if not array.size:
        if math.prod(size for size in array.shape if size) > MOST_EMPTY:
            raise WeightsError(
                f"{path}: {shown(name, 80)} has the shape {'×'.join(map(str, array.shape))} and no numbers; the "
                "file is damaged"
            )
        return
    if array.dtype.kind != "f":
        return
    # both pass NaN on and need no copy of the array, as isfinite would
    low, high = (float(array.min()), float(array.max()))
    if not (math.isfinite(low) and math.isfinite(high)):
        count = int(array.size - np.isfinite(array).sum())
        raise WeightsError(
            f"{path}: {shown(name, 80)} holds {count} NaN or infinite values of {array.size}; the file is damaged "
            "or its training diverged"
        )
    if max(-low, high) > LARGEST:
        raise WeightsError(
            f"{path}: {shown(name, 80)} holds {max(high, low, key=abs):g}, which float32 cannot hold; the file is "
            "damaged or its training diverged"
        )
    if low < 0 and VARIANCE.search(name):
        raise WeightsError(
            f"{path}: {shown(name, 80)} is a variance and holds {low:g}, less than zero; the file is damaged"
        )


LARGEST = float(np.finfo(np.float32).max)
MOST_EMPTY = 1 << 31
"""More numbers than any layer has."""
VARIANCE = re.compile(r"(running_var|running_variance|moving_variance)$")
"""What BatchNorm's variance is called; Caffe's is divided by a factor, and its sign is the
factor's."""


WITHOUT_CLASSIFIER = (
    "without its classifier (no fc6, no fc7: include_top=False, or a feature extractor), and an FCN starts from "
    "these too; "
    "give the whole VGG-16 (segtwin download vgg16)"
)


def sha256(path: str | os.PathLike[str]) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def at_most(names: list[str] | set[str]) -> str:
    """The first of some names and how many more there are: "'fc6' and 3 more"."""
    first = sorted(names)[0]
    return f"{first!r}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def check_keys(have: Mapping[str, tuple[int, ...]], want: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Compare names and shapes of weights with those of a model.

    Args:
        have: name → shape in the weights.
        want: name → shape in the model.
        what: the model, for the message.

    Raises:
        WeightNamesError: names are missing or left over; the message names the first of each kind
            and their count.
        WeightsError: a shape differs; the message names the first and the count.
    """
    missing, extra = want.keys() - have.keys(), have.keys() - want.keys()
    if missing or extra:
        parts = [
            f"{len(names)} {kind}, first {sorted(names)[0]!r}"
            for kind, names in (("missing", missing), ("not expected", extra))
            if names
        ]
        raise WeightNamesError(f"{what}: blobs do not match: {'; '.join(parts)}")
    misfits = [name for name in want if tuple(have[name]) != tuple(want[name])]
    if misfits:
        name = misfits[0]
        raise WeightsError(
            f"{what}: {len(misfits)} blobs have another shape, first {name!r}: {tuple(have[name])} given, "
            f"{tuple(want[name])} expected"
        )


@reader_of_parts
def file_kind(path: str | os.PathLike[str]) -> str:
    """What a file is by its content: a key of `segtwin_weights.FORMATS`.

    Raises:
        WeightsError: it is empty, or none of them.
        OSError: it cannot be read.
    """
    if is_checkpoint(path):
        return "tensorflow"
    if Path(path).is_dir() and (what := kinds.folder(Path(path))):
        raise WeightsError(f"{path}: is {what}")
    with open(path, "rb") as file:
        head = file.read(32)
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= Path(path).stat().st_size:
        return "safetensors"  # first: its length may begin as other kinds do
    if what := kinds.other(path):
        raise WeightsError(f"{path}: is {what}")
    if head.startswith(b"\x93NUMPY"):
        return "vgg16.npy"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _hdf5_kind(path)
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    if head.startswith(b"\x80") and TORCH_LEGACY in head:
        return "torch"
    if head.lstrip()[:1] == b"{":
        return "safetensors"  # the index of shards
    if head[:1] == b"\x08":
        return "onnx"
    if head[:1] in (b"\x0a", b"\x12") or head[:2] == b"\xa2\x06":
        return "caffemodel"
    if head.lstrip()[:1] == b"<":
        raise WeightsError(f"{path}: is a web page; the download failed")
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        with open(path, "rb") as file:
            what = kinds.pickled(file.read(kinds.HEAD))
        raise WeightsError(
            f"{path}: is {what}, no file of weights; give a state_dict that torch.save wrote, or a .npy, "
            ".safetensors or .h5 file"
        )
    raise WeightsError(
        f"{path}: is neither {', '.join(KINDS)} nor a TensorFlow checkpoint (it begins with {head[:8]!r})"
    )


KINDS = ("vgg16.npy", "safetensors", "caffemodel", "a torch or Keras file", "ONNX")
TORCH_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled magic number that a .pth of before torch 1.6 begins with, after the pickle's
protocol."""
TABLE_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
"""How a LevelDB table ends: the .index of a TensorFlow checkpoint, and a whole checkpoint of the
old kind."""


def _hdf5_kind(path: str | os.PathLike[str]) -> str:
    from segtwin_weights.formats import hdf5

    with damage(path), hdf5.opened(path) as file:
        kind = kinds.hdf5(file)
    if kind in ("keras", "caffemodel.h5"):
        return kind
    raise WeightsError(f"{path}: is {kind}")


def _zip_kind(path: str | os.PathLike[str]) -> str:
    from segtwin_weights.formats import zipped

    with damage(path), zipped.opened(path) as (archive, _):
        names = archive.namelist()
    if "model.weights.h5" in names:
        return "keras"
    if {"conv1_1_W.npy", "conv1_1_b.npy"} <= set(names):
        return "vgg16.npy"
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        raise WeightsError(f"{path}: is a program of torch.export; save model.state_dict() instead")
    if names and all(name.endswith(".npy") for name in names):
        held = ", ".join(shown(name.removesuffix(".npy"), 80) for name in names[:4])
        raise WeightsError(
            f"{path}: is a .npz of other arrays ({held}) than VGG-16's (conv1_1_W, conv1_1_b, …); give a file of "
            "weights"
        )
    raise WeightsError(f"{path}: is a zip archive, but neither torch's nor Keras'; unpack it")


def checkpoint_prefix(path: str | os.PathLike[str]) -> str:
    """`fcn8.ckpt` of `fcn8.ckpt.index` and `fcn8.ckpt.data-00000-of-00001`."""
    return os.fspath(path).removesuffix(".index").split(".data-0")[0]


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the prefix of a TensorFlow checkpoint, or one of its files."""
    if not Path(path).is_file() or os.fspath(path) != checkpoint_prefix(path):
        return Path(f"{checkpoint_prefix(path)}.index").is_file()
    if Path(path).stat().st_size < 48:
        return False
    with open(path, "rb") as file:
        file.seek(-8, os.SEEK_END)
        return file.read() == TABLE_MAGIC
