"""Injuries of files that keep a format's structure, so that they reach what lies behind its first
checks.

Flipped bits stop at a checksum or a length. Here a file is taken apart at its own boundaries
(members of an archive, opcodes of a pickle, fields of a message, chunks of a picture), and a piece
is left out, doubled, taken from another file of the kind, cut at a boundary, or states another
length.
"""

from __future__ import annotations

import io
import json
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

LIES = (0, 1, 255, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
"""Lengths, counts and offsets that overflow what holds them, or promise more than there is."""

Random = np.random.Generator
Pieces = list[bytes]


def injured(data: bytes, random: Random) -> bytes:
    """Bytes with one to four injuries, most of them near the ends, where formats keep their
    structure."""
    return plain(data, data, random)


BOMBS = [
    b"\xff" * 4,
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x00" * 8,
    b"\x80" * 10,
    b"\xff" * 9 + b"\x01",
]


def plain(data: bytes, other: bytes, random: Random) -> bytes:
    """Without regard for any format: bits flipped, lengths blown up, pieces cut out, doubled,
    swapped with another file's."""
    out = bytearray(data)
    for _ in range(int(random.integers(1, 5))):
        if not out:
            break
        where = int(
            random.choice(
                [
                    random.integers(len(out)),
                    random.integers(min(len(out), 512)),
                    len(out) - 1 - random.integers(min(len(out), 2048)),
                ]
            )
        )
        length = int(random.integers(1, 64))
        match int(random.integers(8)):
            case 0:
                out[where] ^= 1 << int(random.integers(8))
            case 1:
                out[where] = int(random.integers(256))
            case 2:
                bomb = BOMBS[int(random.integers(len(BOMBS)))]
                out[where : where + len(bomb)] = bomb
            case 3:
                del out[where:]
            case 4:
                del out[where : where + length]
            case 5:
                out[where:where] = out[where : where + length]
            case 6:
                start = int(random.integers(max(1, len(other))))
                out[where : where + length] = other[start : start + length]
            case 7:
                out[where:where] = bytes(random.integers(0, 256, length, dtype=np.uint8))
    return bytes(out)


def rearranged(pieces: Pieces, others: Pieces, random: Random, inner: Callable[[bytes, Random], bytes]) -> Pieces:
    """One to three pieces left out, doubled, moved, taken from another file, injured inside; or all
    cut off from one on."""
    pieces = list(pieces)
    for _ in range(int(random.integers(1, 4))):
        if not pieces:
            break
        at = int(random.integers(len(pieces)))
        match int(random.integers(7)):
            case 0:
                del pieces[at]
            case 1:
                pieces.insert(at, pieces[at])
            case 2:
                pieces.insert(int(random.integers(len(pieces))), pieces.pop(at))
            case 3 if others:
                pieces[at] = others[int(random.integers(len(others)))]
            case 4:
                del pieces[at:]
            case _:
                pieces[at] = inner(pieces[at], random)
    return pieces


# ------------------------------------------------------------------------------------------ pickles


def opcodes(data: bytes) -> tuple[Pieces, bytes]:
    """The opcodes of the first pickle in some bytes, each with its argument, and what follows it."""
    places = []
    try:
        for _, _, place in pickletools.genops(data):
            places.append(int(place or 0))
    except Exception:  # pickletools raises what it likes of a pickle that is none
        return [data], b""
    end = places[-1] + 1
    return [data[start:stop] for start, stop in zip(places, [*places[1:], end], strict=True)], data[end:]


def opcode(piece: bytes, random: Random) -> bytes:
    """An opcode with another argument, or another opcode."""
    if random.integers(3) == 0 or len(piece) < 2:
        return bytes([int(random.integers(33, 256))]) + piece[1:]
    if len(piece) in (2, 3, 5, 9):
        size = len(piece) - 1
        return piece[:1] + (LIES[int(random.integers(len(LIES)))] % 256**size).to_bytes(size, "little")
    return piece[:1] + injured(piece[1:], random)


def pickled(data: bytes, other: bytes, random: Random) -> bytes:
    """A pickle, and what follows it as it is."""
    pieces, rest = opcodes(data)
    return b"".join(rearranged(pieces, opcodes(other)[0], random, opcode)) + rest


def npy(data: bytes, other: bytes, random: Random) -> bytes:
    """The array of one object that np.save makes of a dict: its header, or the pickle behind it."""
    end = 10 + int.from_bytes(data[8:10], "little")
    theirs = 10 + int.from_bytes(other[8:10], "little") if other[:6] == data[:6] else 0
    if random.integers(4) == 0:
        text = injured(data[10:end], random)
        return data[:8] + struct.pack("<H", len(text) & 0xFFFF) + text + data[end:]
    return data[:end] + pickled(data[end:], other[theirs:], random)


# ----------------------------------------------------------------------------------------- archives


def members(data: bytes) -> dict[str, bytes]:
    """Of a zip archive; none of what is no archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # as above
        return {}


def zipped(data: bytes, other: bytes, random: Random) -> bytes:
    """An archive whose members are injured inside, with checksums that hold; or whose directory
    tells other sizes, places and names."""
    mine, theirs = members(data), list(members(other).values())
    if not mine:
        return plain(data, other, random)
    if random.integers(3) == 0:
        return directory(data, random)
    names = list(mine)
    # the small members say what the large ones are
    chances = np.array(
        [1.0 if len(mine[name]) > 4096 or name.endswith((".pkl", ".npy", ".json", ".h5")) else 0.2 for name in names]
    )
    name = names[int(random.choice(len(names), p=chances / chances.sum()))]
    match int(random.integers(8)):
        case 0:
            del mine[name]
        case 1 if theirs:
            mine[name] = theirs[int(random.integers(len(theirs)))]
        case 2:
            mine = {
                one if one != name else injured(one.encode(), random).decode("latin-1"): content
                for one, content in mine.items()
            }
        case 3:
            mine[name] = injured(mine[name], random)
        case _:
            inside = (
                pickled
                if name.endswith(".pkl")
                else npy
                if name.endswith(".npy")
                else hdf5
                if name.endswith(".h5")
                else plain
            )
            mine[name] = inside(mine[name], theirs[int(random.integers(len(theirs)))] if theirs else mine[name], random)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED if random.integers(2) else zipfile.ZIP_STORED) as archive:
        for one, content in mine.items():
            archive.writestr(one.replace("\0", "") or "x", content)
    return made.getvalue()


def directory(data: bytes, random: Random) -> bytes:
    """A field of a record of the central directory, or of its end, states something else (PKWARE's
    APPNOTE, 4.3.12 and 4.3.16)."""
    out = bytearray(data)
    kinds = ((b"PK\1\2", ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4))),
        (b"PK\5\6", ((8, 2), (10, 2), (12, 4), (16, 4))),
             (b"PK\3\4", ((6, 2), (8, 2), (18, 4), (22, 4), (26, 2), (28, 2))))  # fmt: skip
    signature, fields = kinds[int(random.integers(len(kinds)))]
    places = [place for place in range(len(data) - 4) if data[place : place + 4] == signature]
    if not places:
        return plain(data, data, random)
    place = places[int(random.integers(len(places)))]
    offset, size = fields[int(random.integers(len(fields)))]
    out[place + offset : place + offset + size] = (LIES[int(random.integers(len(LIES)))] % 256**size).to_bytes(
        size, "little"
    )
    return bytes(out)


# ----------------------------------------------------------------------------------------- messages


def fields_of(data: bytes) -> Pieces:
    """The fields of a Protocol Buffers message, keys and lengths with them; nothing where the bytes
    are none."""
    pieces, at = [], 0
    while at < len(data):
        start = at
        key, at = varint(data, at)
        match key & 7:
            case 0:
                _, at = varint(data, at)
            case 1:
                at += 8
            case 2:
                length, at = varint(data, at)
                at += length
            case 5:
                at += 4
            case _:
                return []
        if not key >> 3 or at > len(data) or at <= start:
            return []
        pieces.append(data[start:at])
    return pieces


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next begins; beyond the end where it does not
    end."""
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at
    return value, len(data) + 1


def encoded(value: int) -> bytes:
    """The varint of a number."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(piece: bytes, random: Random) -> bytes:
    """A field with another number, kind, length or value; or its inside, where that is a message,
    rearranged."""
    key, at = varint(piece, 0)
    if random.integers(5) == 0:
        return (
            encoded(
                int(random.choice([1, 2, 3, 4, 5, 7, 8, 9, 13, 14, 100, 2**29])) << 3
                | int(random.choice([0, 1, 2, 5, key & 7]))
            )
            + piece[at:]
        )
    if key & 7 == 0:
        return piece[:at] + encoded(LIES[int(random.integers(len(LIES)))])
    if key & 7 != 2:
        return injured(piece, random)
    _, start = varint(piece, at)
    if random.integers(6) == 0:
        return piece[:at] + encoded(LIES[int(random.integers(len(LIES)))]) + piece[start:]
    inside = fields_of(piece[start:])
    made = b"".join(rearranged(inside, inside, random, field)) if inside else injured(piece[start:], random)
    return piece[:at] + encoded(len(made)) + made


def message(data: bytes, other: bytes, random: Random) -> bytes:
    """A file that is one message."""
    return b"".join(rearranged(fields_of(data), fields_of(other), random, field))


# ------------------------------------------------------------------------------------------- tables


def safetensors(data: bytes, other: bytes, random: Random) -> bytes:
    """The header says something else, and its length is right."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    name = list(header)[int(random.integers(len(header)))]
    lie = LIES[int(random.integers(len(LIES)))]
    entry = header[name]
    deep: object = lie
    for _ in range(int(random.choice([1, 50, 5000]))):
        deep = [deep]
    if "dtype" in entry:
        match int(random.integers(7)):
            case 0:
                entry["dtype"] = str(
                    random.choice(["F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X", ""])
                )
            case 1:
                entry["shape"] = [int(random.choice([0, 1, 7])), lie, *entry["shape"]]
            case 2:
                entry["data_offsets"][int(random.integers(2))] = lie
            case 3:
                entry["data_offsets"] = header[list(header)[-1]].get("data_offsets", [0, 0])
            case 4:
                entry["shape"] = [1] * 70
            case 5:
                entry[str(random.choice(["shape", "dtype", "data_offsets"]))] = None
            case 6:
                entry["shape"] = []
    else:
        key = list(entry)[int(random.integers(len(entry)))]
        entry[key] = str(
            random.choice(
                [
                    "NaN",
                    "-1",
                    "0",
                    "null",
                    "[]",
                    "{}",
                    '"abc"',
                    "[1e999]",
                    "true",
                    '{"mean": "abc"}',
                    '{"std": [0]}',
                    '{"scale": 0}',
                ]
            )
        )
    text = (
        json.dumps(header)
        if random.integers(8)
        else json.dumps(header).replace(json.dumps(name), json.dumps(name) + ": 1, " + json.dumps(name), 1)
    )
    if random.integers(8) == 0:
        text = "[" * 5000 + text
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw + data[end:]


SIGNATURES = (b"TREE", b"SNOD", b"HEAP", b"GCOL", b"OHDR", b"OCHK", b"FRHP", b"FSHD", b"FADB", b"BTHD", b"\x89HDF")
"""What the parts of an HDF5 file begin with (HDF5 File Format Specification, version 3.0, III and
IV)."""


def hdf5(data: bytes, other: bytes, random: Random) -> bytes:
    """Lengths, addresses and counts near the head of a part say something else."""
    out = bytearray(data)
    places = [place for sign in SIGNATURES for place in _places(data, sign)] or [0]
    for _ in range(int(random.integers(1, 4))):
        place = places[int(random.integers(len(places)))] + int(random.integers(4, 96))
        if place + 8 > len(out):
            continue
        match int(random.integers(4)):
            case 0:
                out[place : place + 8] = (LIES[int(random.integers(len(LIES)))] & (2**64 - 1)).to_bytes(8, "little")
            case 1:  # an address of another part: things are shared that should not be
                out[place : place + 8] = places[int(random.integers(len(places)))].to_bytes(8, "little")
            case 2:
                size = int(random.choice([1, 2, 4]))
                out[place : place + size] = (LIES[int(random.integers(len(LIES)))] % 256**size).to_bytes(size, "little")
            case 3:
                out[place] ^= 1 << int(random.integers(8))
    return bytes(out)


def _places(data: bytes, sign: bytes) -> list[int]:
    found, at = [], data.find(sign)
    while at >= 0:
        found.append(at)
        at = data.find(sign, at + 1)
    return found


# ----------------------------------------------------------------------------------------- pictures


def png(data: bytes, other: bytes, random: Random) -> bytes:
    """Chunks of a PNG, with checksums that hold."""

    def chunks(of: bytes) -> Pieces:
        pieces, at = [], 8
        while at + 12 <= len(of):
            length = int.from_bytes(of[at : at + 4], "big")
            pieces.append(of[at + 4 : at + 8 + length])
            at += 12 + length
        return pieces

    def chunk(piece: bytes, random: Random) -> bytes:
        if piece[:4] == b"IHDR" and random.integers(2):
            place, size = int(random.choice([4, 8, 12, 13, 16])), int(random.choice([1, 4]))
            return (
                piece[:place]
                + (LIES[int(random.integers(len(LIES)))] % 256**size).to_bytes(size, "big")
                + piece[place + size :]
            )
        return piece[:4] + injured(piece[4:], random)

    out = data[:8]
    for piece in rearranged(chunks(data), chunks(other) if other[:8] == data[:8] else [], random, chunk):
        out += struct.pack(">I", max(len(piece) - 4, 0)) + piece + struct.pack(">I", zlib.crc32(piece))
    return out


def tiff(data: bytes, other: bytes, random: Random) -> bytes:
    """An entry of a TIFF's first directory says something else."""
    out = bytearray(data)
    order, big = "<" if data[:2] == b"II" else ">", data[2:4] in (b"\x2b\0", b"\0\x2b")
    first = struct.unpack(order + "Q", data[8:16])[0] if big else struct.unpack(order + "I", data[4:8])[0]
    if first + 8 > len(data):
        return plain(data, other, random)
    count = struct.unpack(order + ("Q" if big else "H"), data[first : first + (8 if big else 2)])[0]
    step = 20 if big else 12
    place = first + (8 if big else 2) + step * int(random.integers(max(min(count, 40), 1)))
    offset, size = ((2, 2), (4, 8 if big else 4), (12 if big else 8, 4), (0, 2))[int(random.integers(4))]
    value = (
        int(random.choice([0, 1, 2, 3, 4, 8, 16, 32946]))
        if random.integers(2)
        else LIES[int(random.integers(len(LIES)))]
    )
    out[place + offset : place + offset + size] = (value % 256**size).to_bytes(
        size, "little" if order == "<" else "big"
    )
    return bytes(out)


def structured(name: str) -> Callable[[bytes, bytes, Random], bytes] | None:
    """What injures a file of this name."""
    endings: dict[str, Callable[[bytes, bytes, Random], bytes]] = {
        "zip.pth": zipped, ".npz": zipped, ".keras": zipped, "legacy.pth": pickled, "vgg16.npy": npy,
        ".caffemodel": message, ".onnx": message,
        ".safetensors": safetensors, ".h5": hdf5, ".png": png, ".tif": tiff,
    }  # fmt: skip
    return next((injure for ending, injure in endings.items() if name.endswith(ending)), None)
