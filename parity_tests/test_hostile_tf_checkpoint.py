"""TensorFlow checkpoints whose index lies, in pieces, and with data that are no file: weights, or
one line, and no process ends of it."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import segtwin_weights
from segtwin_weights import WeightsError
from segtwin_weights.formats import wire

import tensorflow

FILTER = np.random.default_rng(0).random((7, 7, 4, 5)).astype("f4")
MASKED = 0xA282EAD8
TABLE = [0] * 256
for _index in range(256):
    _value = _index
    for _ in range(8):
        _value = _value >> 1 ^ (0x82F63B78 if _value & 1 else 0)
    TABLE[_index] = _value


def crc(data: bytes) -> int:
    """CRC-32C, masked as TensorFlow's tables have it."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ TABLE[(value ^ byte) & 0xFF]
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + MASKED) & 0xFFFFFFFF


def number(field: int, value: int) -> bytes:
    return wire.key(field, 0) + wire.encode(value % (1 << 64))


def entry(shape=FILTER.shape, dtype=1, shard=0, offset=0, size=FILTER.nbytes, checksum=None, more=b"") -> bytes:
    """A BundleEntryProto."""
    dims = b"".join(wire.delimited(2, number(1, one)) for one in shape)
    sums = wire.key(6, 5) + struct.pack("<I", crc(FILTER.tobytes()) if checksum is None else checksum)
    return (
        number(1, dtype)
        + wire.delimited(2, dims)
        + number(3, shard)
        + number(4, offset)
        + number(5, size)
        + sums
        + more
    )


def block(pairs, kind: int = 0, content: bytes | None = None) -> bytes:
    """A block of a table, with its kind and checksum."""
    if content is None:
        content = b"".join(
            b"\0" + wire.encode(len(key)) + wire.encode(len(value)) + key + value for key, value in pairs
        )
        content += struct.pack("<II", 0, 1)
    content += bytes([kind])
    return content + struct.pack("<I", crc(content))


def table(path: Path, pairs, first: bytes | None = None, length: int | None = None) -> None:
    """An .index file of these keys and values."""
    data = first or block(pairs)
    meta = block([])
    handle = wire.encode(0) + wire.encode(len(data) - 5 if length is None else length)
    index = block([(b"zzzz", handle)])
    footer = (
        wire.encode(len(data))
        + wire.encode(len(meta) - 5)
        + wire.encode(len(data) + len(meta))
        + wire.encode(len(index) - 5)
    )
    path.write_bytes(data + meta + index + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db"))


HEADER = number(1, 1)


def hostile(folder: Path) -> dict[str, str]:
    """Name → what is said."""
    told = {}

    def made(name: str, *entries: bytes, header: bytes = HEADER, said: str = "", **options) -> None:
        keys = (b"fc6/weights", b"fc7/weights", *(b"fc8/%06d/weights" % i for i in range(max(len(entries) - 2, 0))))
        table(folder / f"{name}.index", [(b"", header), *zip(keys, entries, strict=False)], **options)
        (folder / f"{name}.data-00000-of-00001").write_bytes(FILTER.tobytes())
        told[name] = said

    made("honest.ckpt", entry(), said="Weights")
    made("negative.ckpt", entry(shape=(-1, 7, 4, 5)))
    made("product.ckpt", entry(shape=(1 << 31, 1 << 31, 1 << 31, 5)))
    made("zero.ckpt", entry(shape=(0, 1 << 40, 1 << 40, 5), size=0))
    made("ranks.ckpt", entry(shape=(1,) * 300))
    made("beyond.ckpt", entry(offset=1 << 40))
    made("before.ckpt", entry(offset=-8))
    made("huge.ckpt", entry(size=1 << 62))
    made("minus.ckpt", entry(size=-1))
    made("larger.ckpt", entry(shape=(7, 7, 4, 6), size=FILTER.nbytes * 6 // 5))
    made("smaller.ckpt", entry(size=FILTER.nbytes - 4))
    made("kind.ckpt", entry(dtype=999))
    made("strings.ckpt", entry(dtype=7))
    made("variant.ckpt", entry(dtype=21))
    made("resource.ckpt", entry(dtype=20))
    made("shard.ckpt", entry(shard=1 << 30))
    made("shard-minus.ckpt", entry(shard=-5))
    made("shards.ckpt", entry(), header=number(1, (1 << 31) - 1))
    made("no-shards.ckpt", entry(), header=number(1, 0))
    made("shards-minus.ckpt", entry(), header=number(1, -1))
    made("endian.ckpt", entry(), header=HEADER + number(2, 1))
    made("version.ckpt", entry(), header=HEADER + wire.delimited(3, number(1, 1000) + number(2, 1000)))
    made("same.ckpt", *[entry()] * 100)
    made("unknown-rank.ckpt", number(1, 1) + wire.delimited(2, number(3, 1)) + number(5, FILTER.nbytes))
    extents = wire.delimited(1, b"") * 4
    made("slices.ckpt", entry(more=wire.delimited(7, extents)), said="Weights")
    odd = wire.delimited(1, number(1, -3) + number(2, -5))
    made("slices-minus.ckpt", entry(more=wire.delimited(7, odd * 4)))
    made("slices-many.ckpt", entry(more=wire.delimited(7, extents) * 50_000))
    made("snappy.ckpt", first=block((), 1, wire.encode((1 << 32) - 1) + bytes(50)))
    made("length.ckpt", entry(), length=1 << 62)
    made("varint.ckpt", first=block((), 0, b"\xff" * 100))
    made("restarts.ckpt", first=block((), 0, b"\0\0\0" + struct.pack("<I", 0xFFFFFFFF)))
    made("lengths.ckpt", first=block((), 0, b"\xff\xff\xff\xff\x0f" * 3 + struct.pack("<II", 0, 1)))
    return told


CHILD = """
import json, resource, sys
import segtwin_weights, tensorflow
from segtwin_weights import WeightsError
segtwin_weights.read(sys.argv[1])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), -1))
for path in sys.argv[2:]:
    print(json.dumps([path, None]), flush=True)
    try:
        print(json.dumps([path, repr(segtwin_weights.read(path))]), flush=True)
    except (WeightsError, OSError) as error:
        print(json.dumps([path, f"{type(error).__name__}: {error}"]), flush=True)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="a limit of memory needs Linux")
def test_an_index_that_lies_is_one_line(tmp_path: Path) -> None:
    told = hostile(tmp_path)
    paths = [str(tmp_path / name) for name in told]
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, *paths[:1], *paths], capture_output=True, text=True, timeout=200
    )
    said = dict(json.loads(one) for one in ended.stdout.splitlines())
    assert ended.returncode == 0, (list(said)[-1:], ended.stderr[-600:])
    for path, words in zip(paths, told.values(), strict=True):
        assert said[path].startswith(words or f"WeightsError: {path}: "), said[path]
        assert "\n" not in said[path]


# ---------------------------------------------------------------------------------------- its parts


def save(prefix: Path, slices: dict[str, np.ndarray]) -> str:
    """A checkpoint of parts of fc6/weights, by TensorFlow."""
    tensorflow.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=["fc6/weights"] * len(slices),
        shape_and_slices=list(slices),
        tensors=list(slices.values()),
    )
    return str(prefix)


def sharded(prefix: Path, *slices: dict[str, np.ndarray]) -> Path:
    parts = [save(prefix.with_name(f"part{number}"), one) for number, one in enumerate(slices)]
    tensorflow.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=str(prefix), delete_old_dirs=False
    )
    return prefix


def test_parts_holes_and_overlaps(tmp_path: Path) -> None:
    first = {"7 7 4 5 0,3:-:-:-": FILTER[:3]}
    whole = segtwin_weights.read(sharded(tmp_path / "whole.ckpt", first, {"7 7 4 5 3,4:-:-:-": FILTER[3:]}))
    assert np.array_equal(whole["fc6/weight"], FILTER.transpose(3, 2, 0, 1))
    hole = sharded(tmp_path / "hole.ckpt", first, {"7 7 4 5 5,2:-:-:-": FILTER[5:]})
    overlap = sharded(tmp_path / "overlap.ckpt", first, {"7 7 4 5 2,5:-:-:-": FILTER[2:]})
    absurd = save(tmp_path / "absurd.ckpt", {"1000000 7 4 5 0,3:-:-:-": FILTER[:3]})
    for path, words in (
        (hole, "not have sufficient slices"),
        (overlap, "Overlapping slices"),
        (absurd, "more numbers than its files can hold"),
    ):
        with pytest.raises(WeightsError, match=words) as error:
            segtwin_weights.read(path)
        assert str(error.value).startswith(f"{path}: ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize(
    "what",
    [
        "missing",
        "short",
        "empty",
        "flipped",
        "fifo",
        "link to fifo",
        "device",
        "hole",
        "index is fifo",
        "index is hole",
    ],
)
def test_a_part_that_is_no_data(what: str, tmp_path: Path) -> None:
    prefix = sharded(tmp_path / "x.ckpt", {"7 7 4 5 0,3:-:-:-": FILTER[:3]}, {"7 7 4 5 3,4:-:-:-": FILTER[3:]})
    part = Path(f"{prefix}.index" if "index" in what else f"{prefix}.data-00001-of-00002")
    data = bytearray(part.read_bytes())
    part.unlink()
    if what == "short":
        part.write_bytes(data[:-100])
    elif what == "empty":
        part.touch()
    elif what == "flipped":
        data[50] ^= 1
        part.write_bytes(data)
    elif what == "link to fifo":
        os.mkfifo(tmp_path / "pipe")
        part.symlink_to("pipe")
    elif what == "device":
        part.symlink_to("/dev/zero")
    elif what.endswith("hole"):
        with open(part, "wb") as file:
            file.truncate(1 << 33)
    elif what.endswith("fifo"):
        os.mkfifo(part)
    given = part if "index" in what else prefix
    with pytest.raises(
        WeightsError, match=r"No such file|Read less|is empty|calculated on|is a FIFO|is a device|is a hole"
    ) as error:
        segtwin_weights.read(given)
    assert str(error.value).startswith(f"{tmp_path}{os.sep}x.ckpt")
    assert "\n" not in str(error.value)


def test_files_of_the_old_kind_are_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "old.ckpt"
    tensorflow.raw_ops.SaveSlices(
        filename=str(path), tensor_names=["fc6/weights"], shapes_and_slices=[""], data=[tensorflow.constant(FILTER)]
    )
    assert np.array_equal(segtwin_weights.read(path)["fc6/weight"], FILTER.transpose(3, 2, 0, 1))
    shape = wire.delimited(2, number(1, -1)) * 4
    meta = wire.delimited(1, wire.delimited(1, wire.text(1, "fc6/weights") + wire.delimited(2, shape) + number(3, 1)))
    table(path, [(b"", meta)])
    with pytest.raises(WeightsError, match=r"old\.ckpt: is damaged \(a tensor of shape -1×-1×-1×-1\)"):
        segtwin_weights.read(path)
