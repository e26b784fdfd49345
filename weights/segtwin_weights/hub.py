"""The hub: weights as a dictionary of numpy arrays under Caffe's names and in Caffe's layouts, whatever file they came from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Metadata = dict[str, Any]


class WeightsError(ValueError):
    """A file that holds no usable weights, or weights that do not fit; the message is one line: the file, what is wrong, what to do."""


class Weights(Mapping[str, np.ndarray]):
    """Blob name → array, with what is known about them.

    Names and layouts are Caffe's for the Caffe nets (`conv1_1/weight` O×I×kh×kw, `upscore2/weight` I×O×kh×kw, `fc8/weight` O×I). Networks that
    come from torch keep the keys and layouts of their state_dict.

    `metadata` may hold: architecture, num_classes, widths, colour ("BGR" or "RGB"), mean (in the order of colour), source, sha256 (of the
    source), classes, palette, version, synthetic (true: random numbers, not trained).
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
        """sha256 over names, types, shapes and values, in the order of the names: equal weights have equal fingerprints."""
        digest = hashlib.sha256()
        for name in sorted(self):
            blob = np.ascontiguousarray(self[name])
            digest.update(f"{name}\0{blob.dtype.str}\0{blob.shape}\0".encode())
            digest.update(blob.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()


def check_finite(path: str | os.PathLike[str], name: str, array: np.ndarray) -> None:
    """Refuse NaN and infinity: they spread through a network until every logit is NaN, and say nothing.

    Raises:
        WeightsError: the array holds some.
    """
    # min and max pass NaN on and need no copy of the array, as isfinite would
    if array.dtype.kind == "f" and array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        count = int(array.size - np.isfinite(array).sum())
        raise WeightsError(f"{path}: {name} holds {count} NaN or infinite values of {array.size}; the file is damaged or its training diverged")


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
        KeyError: names are missing or left over; the message names the first of each kind and their count.
        ValueError: a shape differs; the message names the first and the count.
    """
    missing, extra = want.keys() - have.keys(), have.keys() - want.keys()
    if missing or extra:
        parts = [f"{len(names)} {kind}, first {sorted(names)[0]!r}" for kind, names in (("missing", missing), ("not expected", extra)) if names]
        raise KeyError(f"{what}: blobs do not match: {'; '.join(parts)}")
    misfits = [name for name in want if tuple(have[name]) != tuple(want[name])]
    if misfits:
        name = misfits[0]
        raise ValueError(f"{what}: {len(misfits)} blobs have another shape, first {name!r}: {tuple(have[name])} given, {tuple(want[name])} expected")


def file_kind(path: str | os.PathLike[str]) -> str:
    """What a file is by its first bytes: "vgg16.npy" or "safetensors".

    Raises:
        WeightsError: it is empty, or neither.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(16)
    if not head:
        raise WeightsError(f"{path}: is empty (0 bytes); fetch it again")
    if head.startswith(b"\x93NUMPY"):
        return "vgg16.npy"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= Path(path).stat().st_size:
        return "safetensors"
    raise WeightsError(f"{path}: is neither a vgg16.npy nor a safetensors file (it begins with {head[:8]!r})")
