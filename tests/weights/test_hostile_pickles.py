"""Pickles and archives that multiply: each is one line with the file's name, in a process that may
hold little more than 3 times the file."""

import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

READ = """
import resource, sys, time
from pathlib import Path
import numpy, segtwin_weights
from segtwin_weights.formats import torch_file, vgg16_npy
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (96 << 20),) * 2)
for path in sys.argv[1:]:
    try:
        weights = segtwin_weights.read(path)
    except segtwin_weights.WeightsError as error:
        assert str(error).startswith(f"{path}:") and "\\n" not in str(error) and len(str(error)) < 1200, error
        print(Path(path).name, "refused", flush=True)
    else:
        print(Path(path).name, "read", sum(blob.nbytes for blob in weights.values()), flush=True)
"""


def text(data: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data if len(data) < 256 else b"\x8b" + struct.pack("<i", len(data)) + data


def tensor(
    shape: bytes,
    strides: bytes,
    offset: bytes = b"K\0",
    count: int = 4,
    kind: bytes = b"FloatStorage",
    metadata: bytes = b"",
) -> bytes:
    """A state_dict of one tensor, whose storage "0" is there."""
    storage = b"(" + text(b"storage") + b"ctorch\n" + kind + b"\n" + text(b"0") + text(b"cpu") + integer(count) + b"tQ"
    empty = b"ccollections\nOrderedDict\n)R"
    return (
        b"}"
        + text(b"w")
        + b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + offset
        + shape
        + strides
        + b"\x89"
        + empty
        + metadata
        + b"tRs."
    )


def archive(path: Path, program: bytes, storage: bytes = bytes(16)) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02" + program)
        file.writestr("a/data/0", storage)


PROGRAMS = {
    "deep-key": b"})" + b"\x85" * 300_000 + b"K\x01s.",
    "deep-list": b"]" * 300_000 + b"a" * 299_999 + b".",
    "deep-dict": b"}" * 300_000 + b".",
    "encode": b"](c_codecs\nencode\nq\0" + text(b"a" * 100_000) + b"q\x01" + b"h\0h\x01\x85R" * 3000 + b"e.",
    "sets": b"\x8f" * 1_000_000 + b".",
    "dicts": b"}" * 1_000_000 + b".",
    "lists": b"]" * 1_000_000 + b".",
    "marks": b"(" * 2_000_000 + b".",
    "doubled": b"]" + b"2" * 1_000_000 + b".",
    "equal-hashes": b"}(" + b"".join(integer(((1 << 61) - 1) * (k + 1)) + b"N" for k in range(60_000)) + b"u.",
    "equal-hashes-in-a-set": b"\x8f(" + b"".join(integer(((1 << 61) - 1) * (k + 1)) for k in range(60_000)) + b"\x90.",
    "digits": b"}" + text(b"n") + b"L" + b"9" * 1_000_000 + b"L\ns.",
    "memo": b"]" + b"".join(b"r" + struct.pack("<I", 2**31 - k) for k in range(1, 200_000)) + b".",
    "huge-shape": tensor(b"(" + integer(2**62) + integer(2**62) + b"t", b"(K\x01K\x01t"),
    "absurd-shape": tensor(b"(" + integer(10**5000) + b"t", b"(K\x01t"),
    "zero-times-huge": tensor(b"(K\0" + integer(2**62) + integer(2**62) + b"t", b"(K\x01K\x01K\x01t"),
    "expanded": tensor(b"(" + integer(10**9) + b"t", b"(K\0t"),
    "65-dimensions": tensor(b"(" + b"K\x01" * 65 + b"t", b"(" + b"K\x01" * 65 + b"t"),
    "negative-offset": tensor(b"(K\x02t", b"(K\x01t", integer(-1)),
    "negative-stride": tensor(b"(K\x02t", b"(" + integer(-1) + b"t", b"K\x01"),
    "shape-of-floats": tensor(b"(G" + struct.pack(">d", 2.0) + b"t", b"(K\x01t"),
    "beyond-float32": tensor(b"(K\x02t", b"(K\x01t", count=2, kind=b"DoubleStorage"),
    "surrogate": b"}" + text("\ud800".encode("utf-8", "surrogatepass")) + b"K\x01s.",
}
STORAGES = {"beyond-float32": np.array([1e300, 1.0]).tobytes()}


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", b"\x80\x02}.")
        file.writestr("a/data/0", bytes(300 << 20))


def four_exbibytes(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}.")
        file.getinfo("a/data.pkl").file_size = 1 << 62


def overlapping(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02" + PROGRAMS["expanded"])
        for number in range(2000):
            file.writestr(f"a/data/{number}", b"")
        first = file.getinfo("a/data.pkl")
        for entry in file.infolist()[1:]:
            entry.header_offset, entry.file_size, entry.compress_size = (
                first.header_offset,
                first.file_size,
                first.compress_size,
            )


def npz_of_other_things(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name in ("conv1_1_W", "conv1_1_b"):
            file.writestr(f"{name}.npy", b"no array")


def npy(header: bytes) -> Callable[[Path], None]:
    return lambda path: (
        path.write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + b"\x80\x02}.") and None
    )


FILES: dict[str, Callable[[Path], None]] = {
    "bomb.pth": bomb,
    "four-exbibytes.pth": four_exbibytes,
    "overlapping.pth": overlapping,
    "other.npz": npz_of_other_things,
    "huge.npy": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }\n"),
    "deep.npy": npy(b"(" * 9000 + b"\n"),
    "negative.npy": npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (-1,), }\n"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each file, all of them read in one process."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = []
    for name, program in PROGRAMS.items():
        paths.append(folder / f"{name}.pth")
        archive(paths[-1], program, STORAGES.get(name, bytes(16)))
    for name, make in FILES.items():
        paths.append(folder / name)
        make(paths[-1])
    done = subprocess.run(
        [sys.executable, "-c", READ, *map(str, paths)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-1500:]
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", [*(f"{name}.pth" for name in PROGRAMS), *FILES])
def test_what_multiplies_is_refused(name: str, outcomes: dict[str, str]) -> None:
    assert outcomes[name] == "refused"


def test_honest_tensors_of_the_same_making_are_read(tmp_path: Path) -> None:
    """The makers above make files that are read where nothing is wrong with them."""
    import segtwin_weights

    archive(tmp_path / "good.pth", tensor(b"(K\x02K\x02t", b"(K\x02K\x01t"), np.arange(4, dtype=np.float32).tobytes())
    np.testing.assert_array_equal(segtwin_weights.read(tmp_path / "good.pth")["w"], [[0, 1], [2, 3]])


@pytest.mark.parametrize("make", ["neg", "conj"])
def test_bits_of_a_tensor_are_refused(make: str, tmp_path: Path) -> None:
    """torch may keep a sign or a conjugation as a bit beside the numbers: read without it, they are
    others."""
    import segtwin_weights
    import torch

    numbers = torch.arange(1.0, 5.0)
    tensor = torch._neg_view(numbers) if make == "neg" else torch.conj(torch.complex(numbers, numbers))
    torch.save({"w": tensor, "v": numbers}, tmp_path / "bit.pth")
    with pytest.raises(segtwin_weights.WeightsError, match=f"bit.pth: w has torch's bit '{make}'"):
        segtwin_weights.read(tmp_path / "bit.pth")
