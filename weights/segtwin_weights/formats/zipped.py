"""Zip archives of weights (.pth, .npz, .keras), whose directory is checked before anything is done
on its word.

The directory of a zip archive says where each member lies, how long it is there, and how long it
becomes. All of that may be untrue: members may lie in each other or outside the file, promise
exabytes, or be a million that hold nothing.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from segtwin.errors import WeightsError

from segtwin_weights.door import quoted
from segtwin_weights.formats.pickles import Budget

MOST_INFLATED = 1032
"""Bytes that a byte of deflate becomes at most: 258 for a bit or two (RFC 1951)."""
LOCAL = struct.Struct("<4s22xHH")
"""The head of a member: signature, lengths of its name and of an extra field."""
ENCRYPTED = 1
RECORD = 46
"""Bytes of a member in the directory, at least, and its name."""
ENTRY = 1000
"""Bytes of a `ZipInfo` and of what holds it."""


@contextmanager
def opened(path: str | os.PathLike[str], file: BinaryIO | None = None) -> Iterator[tuple[zipfile.ZipFile, Budget]]:
    """An archive whose directory can be true, and the budget of its file.

    Args:
        path: for messages, and to be opened where there is no `file`.
        file: the archive.

    Raises:
        WeightsError: the directory is not true, or has more entries than the file may ask memory
            for.
        zipfile.BadZipFile, ValueError, …: it is none.
    """
    if file is None:
        with open(path, "rb") as own, opened(path, own) as both:
            yield both
        return
    size = os.fstat(file.fileno()).st_size
    budget = Budget(path, size)
    budget.spend(_directory(file, size, budget), "names more members")
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        _check(path, archive.infolist(), size)
        yield archive, budget


def _directory(file: BinaryIO, size: int, budget: Budget) -> int:
    """Bytes that the directory takes as objects, told by its records' signatures."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if not end:
        raise zipfile.BadZipFile("no directory at the end of the archive")
    # a 64-bit end has 76 bytes more before it
    length, at = (end[5], end[9] - end[5] - (76 if end[0] == b"PK\6\6" else 0))
    if not 0 <= length <= size or at < 0:
        raise zipfile.BadZipFile("a directory that is longer than the archive")
    budget.spend(2 * length)
    file.seek(at)
    return ENTRY * min(file.read(length).count(b"PK\1\2"), length // RECORD)


def _check(path: object, entries: list[zipfile.ZipInfo], size: int) -> None:
    """Members lie in the file, beside each other, under names of their own, and are as long as
    their kind of compression lets them be."""
    at, before = 0, ""
    names: set[str] = set()
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        name = quoted(entry.filename)
        if entry.filename in names:
            raise WeightsError(f"{path}: holds {name} twice; do not trust this file")
        names.add(entry.filename)
        end = entry.header_offset + LOCAL.size + len(entry.orig_filename) + entry.compress_size
        if end > size:
            raise WeightsError(
                f"{path}: {name} goes on beyond the file's end; it is cut short, or made to mislead; fetch it again"
            )
        if entry.header_offset < at:
            raise WeightsError(f"{path}: {before} and {name} lie in each other; do not trust this file")
        stored = entry.compress_type == zipfile.ZIP_STORED
        if entry.file_size > entry.compress_size * (1 if stored else MOST_INFLATED) or (
            stored and entry.file_size != entry.compress_size
        ):
            raise WeightsError(
                f"{path}: {name} claims {entry.file_size:,} bytes, which its {entry.compress_size:,} cannot hold; "
                "do not trust this file"
            )
        at, before = end, name


def place(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """(first byte, bytes) of a member that is neither compressed nor encrypted, and may be read
    without the archive.

    Raises:
        WeightsError: it is, or other bytes than a member's head lie there.
    """
    name = quoted(entry.filename)
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & ENCRYPTED:
        raise WeightsError(f"{name} is compressed, as Keras writes none; unpack it and save it again")
    assert archive.fp is not None
    archive.fp.seek(entry.header_offset)
    head = archive.fp.read(LOCAL.size)
    signature, name_length, extra_length = LOCAL.unpack(head) if len(head) == LOCAL.size else (b"", 0, 0)
    at = entry.header_offset + LOCAL.size + name_length + extra_length
    if signature != b"PK\x03\x04" or at + entry.file_size > archive.fp.seek(0, os.SEEK_END):
        raise WeightsError(
            f"{name} is said to have {entry.file_size:,} bytes, which are not there; the file is cut short or damaged"
        )
    return at, entry.file_size


def fill(stream: Any, count: int, dtype: np.dtype[Any]) -> np.ndarray:
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
