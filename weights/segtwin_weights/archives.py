"""Zip archives, opened when their directory is one that a file of weights may have: Python makes an object of every entry before any can be asked."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from segtwin_weights.door import Budget, WeightsError, damage

ENTRY = 46
"""Bytes of an entry without its name."""
MEMBER = 700
"""Bytes of the object that Python makes of it."""
LOCAL = struct.Struct("<4s22xHH")
"""The head of a member: signature, lengths of name and extra field."""
ENCRYPTED = 1


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """A zip archive.

    Raises:
        WeightsError: it is damaged, or has more members than it has room for.
        OSError: it cannot be read.
    """
    size = os.path.getsize(path)
    budget = Budget(path, size)
    with damage(path):
        for length in directories(path, size):
            budget.spend(min(length, size) // ENTRY * MEMBER, "names more members")
        with zipfile.ZipFile(path) as archive:
            yield archive


def directories(path: str | os.PathLike[str], size: int) -> Iterator[int]:
    """Bytes of the directory, as the records at the file's end say: the short one, and that of large archives."""
    with open(path, "rb") as file:
        file.seek(max(size - TAIL, 0))
        tail = file.read(TAIL)
    for signature, place, length in ((b"PK\5\6", 12, 4), (b"PK\6\6", 40, 8)):
        at = tail.rfind(signature)
        while at >= 0:
            if (
                at + place + length <= len(tail)
                and (said := int.from_bytes(tail[at + place : at + place + length], "little")) != (1 << 8 * length) - 1
            ):
                yield said
                break
            at = tail.rfind(signature, 0, at)


TAIL = (1 << 16) + 22 + 20 + 56 + 4096
"""Bytes in which these records lie: with a comment of 64 kB at the most, and what the large one may be lengthened by."""


def stored(path: object, archive: zipfile.ZipFile, names: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Name → (first byte, bytes) of members, where the file itself says that they lie.

    Args:
        path: of the file, for messages.
        archive: it.
        names: of the members that are asked for; those that are not there are left out.

    Raises:
        WeightsError: one is compressed, there twice, goes beyond the file's end, or lies over another.
    """
    assert archive.fp is not None
    size = archive.fp.seek(0, os.SEEK_END)
    found: dict[str, tuple[int, int]] = {}
    for entry in archive.infolist():
        if entry.filename not in names:
            continue
        name = entry.filename
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & ENCRYPTED:
            raise WeightsError(f"{path}: {name} is compressed, as Keras writes none; unpack it and save it again")
        archive.fp.seek(entry.header_offset)
        head = archive.fp.read(LOCAL.size)
        signature, name_length, extra_length = LOCAL.unpack(head) if len(head) == LOCAL.size else (b"", 0, 0)
        at = entry.header_offset + LOCAL.size + name_length + extra_length
        if signature != b"PK\x03\x04" or entry.file_size != entry.compress_size or at + entry.file_size > size:
            raise WeightsError(f"{path}: {name} is said to have {entry.file_size:,} bytes, which are not there; the file is cut short or damaged")
        if name in found or any(at < other + count and other < at + entry.file_size for other, count in found.values()):
            raise WeightsError(f"{path}: {name} is there twice, or lies over another member; do not trust this file")
        found[name] = (at, entry.file_size)
    return found
