"""The tables that TensorFlow keeps a checkpoint's contents in (`NAME.index`, or the one file of the
old kind), checked before TensorFlow opens them: it ends the process on a shape or a slice that
cannot be.

A table is LevelDB's: blocks of sorted (key, value), each with a byte for its compression and a
CRC-32C; the last 48 bytes say where the block of blocks lies. The key "" has the header
(BundleHeaderProto, or SavedTensorSlices with its meta), the others an entry each:

    BundleEntryProto     dtype 1, shape 2, shard_id 3, offset 4, size 5, crc32c 6, slices 7
    SavedTensorSlices    meta 1 {tensor 1 {name 1, shape 2, type 3, slice 4}}, data 2 {name 1, slice 2,
                         data 3 {dtype 1, tensor_shape 2, …}}
    TensorShapeProto     dim 2 {size 1}, unknown_rank 3
    TensorSliceProto     extent 1 {start 1, length 2}
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from segtwin.errors import WeightsError

from segtwin_weights.door import Budget
from segtwin_weights.formats import wire

FOOTER = 48
TRAILER = 5
"""Bytes behind a block: its compression, its checksum."""
MOST_DIMENSIONS = 8
"""Weights have four; TensorFlow ends the process on 255."""
Extents = tuple[tuple[int, int | None], ...]


def check(path: str, prefix: str, bundle: bool) -> None:
    """Refuse a table that TensorFlow does not return from.

    Args:
        path: the table.
        prefix: of the checkpoint, for messages.
        bundle: it is an .index, not the one file of the old kind.

    Raises:
        WeightsError: it is damaged, or hostile.
        OSError: it cannot be read.
    """
    with wire.mapped(path) as data:
        try:
            _check(prefix, data, bundle)
        except wire.Malformed as error:
            raise WeightsError(f"{prefix}: is damaged ({error}); fetch it again") from None


def _check(prefix: str, data: memoryview, bundle: bool) -> None:
    reader, budget = wire.Reader(), Budget(prefix, len(data))
    keys = slices = 0
    for key, value in _pairs(data, budget):
        keys += 1
        if not bundle:
            slices += _saved(reader, value)
        elif key:
            slices += _tensor(reader, value, shape=2, piece=7)
    if slices > keys:
        raise wire.Malformed(f"{slices:,} slices in {keys:,} entries")


def _saved(reader: wire.Reader, message: memoryview) -> int:
    slices = 0
    for part, inner in _messages(reader, message):
        if part == 1:
            slices += sum(
                _tensor(reader, tensor, shape=2, piece=4) for number, tensor in _messages(reader, inner) if number == 1
            )
        elif part == 2:
            for number, value in _messages(reader, inner):
                if number == 2:
                    _extents(reader, value)
                elif number == 3:
                    _shapes(reader, value, 2)
    return slices


def _tensor(reader: wire.Reader, message: memoryview, shape: int, piece: int) -> int:
    """How many slices a tensor has; they and its shape are checked."""
    sizes: list[int] = []
    pieces: list[Extents] = []
    for number, value in _messages(reader, message):
        if number == shape:
            sizes += _shape(reader, value)
        elif number == piece:
            pieces.append(_extents(reader, value))
    _sane(sizes)
    for one in pieces:
        if len(one) != len(sizes):
            raise wire.Malformed(f"a slice of {len(one)} dimensions of a tensor of {len(sizes)}")
        for (start, length), size in zip(one, sizes, strict=True):
            if (start, length) != (0, None) and (length is None or start + length > size):
                raise wire.Malformed(
                    f"a slice from {start:,} of {length if length is not None else 'any number of'} where there "
                    f"are {size:,}"
                )
    if len(set(pieces)) < len(pieces):
        raise wire.Malformed("a slice twice")
    return len(pieces)


def _shapes(reader: wire.Reader, message: memoryview, shape: int) -> None:
    _sane([size for number, value in _messages(reader, message) if number == shape for size in _shape(reader, value)])


def _sane(sizes: list[int]) -> None:
    if len(sizes) > MOST_DIMENSIONS:
        raise wire.Malformed(f"a tensor of {len(sizes):,} dimensions")
    if min(sizes, default=0) < 0 or math.prod(max(size, 1) for size in sizes) >= 1 << 60:
        raise wire.Malformed(f"a tensor of shape {'×'.join(map(str, sizes))}")


def _shape(reader: wire.Reader, message: memoryview) -> list[int]:
    sizes = []
    for number, _, value in reader.fields(message):
        if number == 3 and value:
            raise wire.Malformed("a tensor of unknown rank")
        if number == 2 and isinstance(value, memoryview):
            sizes.append(
                sum(
                    wire.signed(size) for place, _, size in reader.fields(value) if place == 1 and isinstance(size, int)
                )
            )
    return sizes


def _extents(reader: wire.Reader, message: memoryview) -> Extents:
    found = []
    for number, value in _messages(reader, message):
        if number == 1:
            numbers = {place: wire.signed(one) for place, _, one in reader.fields(value) if isinstance(one, int)}
            start, length = numbers.get(1, 0), numbers.get(2)
            if start < 0 or (length is not None and length < 1):
                raise wire.Malformed(f"a slice from {start:,}, of {length}")
            found.append((start, length))
    if len(found) > MOST_DIMENSIONS:
        raise wire.Malformed(f"a slice of {len(found):,} dimensions")
    return tuple(found)


def _messages(reader: wire.Reader, message: memoryview) -> Iterator[tuple[int, memoryview]]:
    return (
        (number, value) for number, kind, value in reader.fields(message) if kind == 2 and isinstance(value, memoryview)
    )


# ---------------------------------------------------------------------------------------- the table


def _pairs(data: memoryview, budget: Budget) -> Iterator[tuple[bytes, memoryview]]:
    """(key, value) of a table's blocks, which lie one after the other."""
    if len(data) < FOOTER:
        raise wire.Malformed("cut short")
    footer, at = data[-FOOTER:], 0
    places = []
    for _ in range(4):  # of the meta block, which is passed over, and of the block of blocks
        place, at = wire.varint(footer, at)
        places.append(place)
    body, end = data[: len(data) - FOOTER], 0
    for _, handle in _entries(_block(body, places[2], places[3]), budget):
        offset, at = wire.varint(handle, 0)
        size, _ = wire.varint(handle, at)
        if offset < end:
            raise wire.Malformed("blocks that overlap")
        end = offset + size + TRAILER
        yield from _entries(_block(body, offset, size), budget)
    _block(body, places[0], places[1])


def _block(body: memoryview, offset: int, size: int) -> memoryview:
    if offset + size + TRAILER > len(body):
        raise wire.Malformed(f"a block of {size:,} bytes at {offset:,} of {len(body):,}")
    if body[offset + size]:
        raise wire.Malformed("a compressed block, as TensorFlow writes none")
    return body[offset : offset + size]


def _entries(block: memoryview, budget: Budget) -> Iterator[tuple[bytes, memoryview]]:
    """(key, value) of one block; a key begins with so many bytes of the one before."""
    if len(block) < 4:
        raise wire.Malformed("a block that is cut short")
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if end < 0:
        raise wire.Malformed("a block that is cut short")
    at, key = 0, b""
    entries = block[:end]
    while at < end:
        shared, at = wire.varint(entries, at)
        own, at = wire.varint(entries, at)
        size, at = wire.varint(entries, at)
        if shared > len(key) or own + size > end - at:
            raise wire.Malformed("a block whose entries are cut short")
        budget.spend(shared + own, "names more tensors")
        key = key[:shared] + bytes(entries[at : at + own])
        at += own
        yield key, entries[at : at + size]
        at += size
