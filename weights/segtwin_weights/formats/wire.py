"""The wire format of Protocol Buffers, as far as files of weights need it: read where it lies,
without a schema and without a copy.

A message is a run of fields: a varint (number · 8 + wire type), then a varint (0), 8 bytes (1), a
length and so many bytes (2), or 4 bytes (5). https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from segtwin_weights.hub import WeightsError

MOST_FIELDS = 300_000
"""A network of weights has thousands of fields beside its numbers; a file with so many was made to
keep a reader busy."""


class Field(NamedTuple):
    """One field. `value` is the integer, or the bytes of a length-delimited field or of a run of 4-
    or 8-byte ones."""

    number: int
    wire: int
    value: int | memoryview


class Malformed(ValueError):
    """The bytes are no message."""


class Reader:
    """Walks messages of one file; counts the fields of all of them."""

    def __init__(self) -> None:
        self.left = MOST_FIELDS

    def count(self) -> None:
        """One more field.

        Raises:
            Malformed: it is one of too many.
        """
        self.left -= 1
        if self.left < 0:
            raise Malformed(f"more than {MOST_FIELDS:,} fields")

    def fields(self, data: memoryview) -> Iterator[Field]:
        """The fields of one message, in order. Fixed-size fields of one number in a row
        come as one field with all of their bytes.

        Raises:
            Malformed: a length goes beyond the end, a varint has more than 10 bytes, a wire type
                does not exist, there are too many fields.
        """
        at = 0
        while at < len(data):
            self.count()
            start = at
            key, at = varint(data, at)
            number, wire = key >> 3, key & 7
            if not 0 < number < 1 << 29:
                raise Malformed(f"a field of number {number}")
            if wire == 0:
                value, at = varint(data, at)
                yield Field(number, wire, value)
            elif wire == 2:
                length, at = varint(data, at)
                if length > len(data) - at:
                    raise Malformed(f"a field of {length:,} bytes where {len(data) - at:,} are left")
                yield Field(number, wire, data[at : at + length])
                at += length
            elif wire in (1, 5):
                run, at = fixed_run(data, start, at - start, 8 if wire == 1 else 4)
                yield Field(number, wire, run)
            else:
                raise Malformed(f"wire type {wire}")


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The integer that begins at `at`, and where the next thing does."""
    value = shift = 0
    for byte in data[at : at + 10]:
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise Malformed("a number without an end")


def varints(data: memoryview) -> Iterator[np.ndarray]:
    """Packed integers, uint64, some thousand at a time: a network's numbers may be stored so.

    Raises:
        Malformed: a varint has more than 10 bytes, or no end.
    """
    at = 0
    while at < len(data):
        block = np.frombuffer(data[at : at + BLOCK], np.uint8)
        ends = np.flatnonzero(block < 0x80)
        if not len(ends):
            raise Malformed("a number without an end")
        starts = np.concatenate(([0], ends[:-1] + 1))
        lengths = ends - starts + 1
        if lengths.max() > 10:
            raise Malformed("a number without an end")
        values = np.zeros(len(ends), np.uint64)
        for place in range(int(lengths.max())):
            there = lengths > place
            values[there] |= (block[starts[there] + place] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * place)
        yield values
        at += int(ends[-1]) + 1


BLOCK = 1 << 16


def fixed_run(data: memoryview, start: int, key: int, size: int) -> tuple[memoryview, int]:
    """The values of a run of unpacked fixed-size fields with equal keys (`key` bytes each), joined,
    and where the run ends.

    Caffe's oldest files hold each number of a blob as a field of its own; there are 138 million in
    a VGG-16, so numpy looks at them.
    """
    record = key + size
    if start + record > len(data):
        raise Malformed("cut short in a number")
    head = np.frombuffer(data[start : start + key], np.uint8)
    pieces, at, look = [], start, 16
    while True:
        count = min(look, (len(data) - at) // record)
        if not count:
            break
        records = np.frombuffer(data[at : at + count * record], np.uint8).reshape(count, record)
        other = np.flatnonzero((records[:, :key] != head).any(axis=1))
        same = int(other[0]) if len(other) else count
        pieces.append(records[:same, key:])
        at += same * record
        if same < count:
            break
        look = min(look * 2, 1 << 20)  # doubled, so that short runs cost little and long ones few steps
    joined = np.concatenate(pieces) if len(pieces) > 1 else np.ascontiguousarray(pieces[0])
    return joined.reshape(-1).data, at


def signed(value: int) -> int:
    """A varint as int64."""
    return value - (1 << 64) if value >= 1 << 63 else value


@contextmanager
def mapped(path: str | os.PathLike[str]) -> Iterator[memoryview]:
    """The bytes of a file, mapped into memory for the length of the block: what is not looked at is
    not loaded.

    Raises:
        OSError: it cannot be read.
        WeightsError: it is empty.
    """
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise WeightsError(f"{path}: is empty (0 bytes); fetch it again")
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    yield memoryview(mapping)  # unmapped when the last slice of it is gone: an error's traceback may hold one


# ------------------------------------------------------------------------------------------ writing


def key(number: int, wire: int) -> bytes:
    """What a field begins with."""
    return encode(number << 3 | wire)


def encode(value: int) -> bytes:
    """A non-negative integer as a varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    return key(number, 2) + encode(len(data)) + data


def text(number: int, value: str) -> bytes:
    """A string field."""
    return delimited(number, value.encode())
