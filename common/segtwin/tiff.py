"""TIFF files of several bands, which Pillow does not read: any number of channels of integers or floats, uncompressed or deflated.

Source: Adobe's TIFF Revision 6.0, sections 2 (structure), 8 (fields), 14 (predictor), 15 (tiles).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

KINDS = {1: "B", 2: "B", 3: "H", 4: "I", 12: "d", 16: "Q"}
"""Type of a field → struct's letter, of those that are used here."""
SAMPLES = {(1, 8): "u1", (1, 16): "u2", (1, 32): "u4", (2, 8): "i1", (2, 16): "i2", (2, 32): "i4", (3, 16): "f2", (3, 32): "f4", (3, 64): "f8"}
"""(SampleFormat, BitsPerSample) → numpy's type."""
WIDTH, HEIGHT, BITS, COMPRESSION, STRIPS, BANDS, STRIP_ROWS, COUNTS, PLANAR, PREDICTOR = 256, 257, 258, 259, 273, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_COUNTS, FORMAT, SUBFILE = 322, 323, 324, 325, 339, 254
DEFLATE = (8, 32946)
MOST_VALUES = 1 << 31


def is_tiff(path: str) -> bool:
    """Whether a file begins as a TIFF does."""
    with open(path, "rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*")


def directories(path: str) -> list[dict[int, tuple[int, ...]]]:
    """The fields of each page that is no reduced copy of another.

    Raises:
        ValueError: the file is damaged.
    """
    found: list[dict[int, tuple[int, ...]]] = []
    with open(path, "rb") as file:
        order = "<" if file.read(4)[:2] == b"II" else ">"
        (at,) = _unpack(file, order, "I")
        seen = set()
        while at and at not in seen:
            seen.add(at)
            file.seek(at)
            (count,) = _unpack(file, order, "H")
            entries = [_unpack(file, order, "HHI4s") for _ in range(count)]
            (at,) = _unpack(file, order, "I")
            fields = {tag: _values(file, order, kind, number, raw) for tag, kind, number, raw in entries if kind in KINDS}
            if not fields.get(SUBFILE, (0,))[0] & 1:
                found.append(fields)
    return found


def beyond_pillow(path: str) -> bool:
    """Whether the first page has bands that Pillow refuses or takes for one band: more than four, 32 bits, floats, deep planes."""
    try:
        fields = next(iter(directories(path)), {})
    except ValueError:  # it is Pillow's to say what is wrong
        return False
    bands, bits = fields.get(BANDS, (1,))[0], fields.get(BITS, (1,))[0]
    return bands > 4 or (bands > 1 and (bits > 16 or fields.get(FORMAT, (1,))[0] == 3 or (bits > 8 and fields.get(PLANAR, (1,))[0] == 2)))


def pages(path: str) -> Iterator[np.ndarray]:
    """Each page, H×W×bands in the file's own values.

    Raises:
        ValueError: the file is damaged, or compressed otherwise; the message says so without the file's name.
    """
    for fields in directories(path):
        with open(path, "rb") as file:
            yield _page(file, "<" if file.read(2) == b"II" else ">", fields)


def _page(file: BinaryIO, order: str, fields: dict[int, tuple[int, ...]]) -> np.ndarray:
    def one(tag: int, default: int | None = None) -> int:
        if tag not in fields and default is None:
            raise ValueError(f"the TIFF has no field {tag}")
        return int(fields.get(tag, (default,))[0] or 0)

    width, height, bands, planar, compression = one(WIDTH), one(HEIGHT), one(BANDS, 1), one(PLANAR, 1), one(COMPRESSION, 1)
    kinds = set(zip(fields.get(FORMAT, (1,) * bands), fields.get(BITS, (1,)), strict=False))
    if len(kinds) != 1 or (kind := kinds.pop()) not in SAMPLES:
        raise ValueError("a TIFF of several bands has values of 8, 16 or 32 bits, alike in all bands")
    if compression not in (1, *DEFLATE):
        raise ValueError(f"a TIFF of several bands is read uncompressed or deflated, not with compression {compression}; save it as .npy, H×W×C")
    if one(PREDICTOR, 1) not in (1, 2) or (one(PREDICTOR, 1) == 2 and kind[0] == 3):
        raise ValueError("a TIFF with the predictor of floats is not read; save it as .npy, H×W×C")
    if not 0 < width * height * bands < MOST_VALUES:
        raise ValueError(f"the TIFF has {width}×{height} pixels of {bands} bands")
    tiled = TILES in fields
    rows, columns = (one(TILE_HEIGHT), one(TILE_WIDTH)) if tiled else (min(one(STRIP_ROWS, height), height), width)
    offsets, sizes = (fields[TILES], fields[TILE_COUNTS]) if tiled else (fields[STRIPS], fields[COUNTS])
    dtype = np.dtype(order + SAMPLES[kind])
    together = bands if planar == 1 else 1
    page = np.empty((height, width, bands), dtype.newbyteorder("="))
    places = [(plane, y, x) for plane in range(bands // together) for y in range(0, height, rows) for x in range(0, width, columns)]
    for (plane, y, x), offset, size in zip(places, offsets, sizes, strict=True):
        file.seek(offset)
        data = file.read(size)
        taken = rows if tiled else min(rows, height - y)
        wanted = taken * columns * together * dtype.itemsize
        data = zlib.decompressobj().decompress(data, wanted) if compression in DEFLATE else data
        if len(data) < wanted:
            raise ValueError("the TIFF is cut off")
        block = np.frombuffer(data[:wanted], dtype).reshape(taken, columns, together).astype(page.dtype)
        if one(PREDICTOR, 1) == 2:
            block = np.cumsum(block, axis=1, dtype=block.dtype)
        page[y : y + taken, x : x + columns, plane * together : (plane + 1) * together] = block[: height - y, : width - x]
    return page


def _unpack(file: BinaryIO, order: str, form: str) -> tuple:
    size = struct.calcsize(order + form)
    data = file.read(size)
    if len(data) < size:
        raise ValueError("the TIFF is cut off")
    return struct.unpack(order + form, data)


def _values(file: BinaryIO, order: str, kind: int, number: int, raw: bytes) -> tuple[int, ...]:
    form = f"{order}{number}{KINDS[kind]}"
    size = struct.calcsize(form)
    if size > 4:
        file.seek(struct.unpack(order + "I", raw)[0])
        raw = file.read(size)
    if len(raw) < size:
        raise ValueError("the TIFF is cut off")
    return struct.unpack(form, raw[:size])
