"""HDF5 files that hang, crash or fill a reader, and the process that walks them first: it is
killed, it ends with its parent, it serves all."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
import zlib

import fuzz
import h5py
import numpy as np
import pytest
import segtwin_weights
from segtwin_weights import WeightsError, door
from segtwin_weights.formats import hdf5_guard, pickles, zipped

pytestmark = pytest.mark.slow

READ_ALL = """
import json, os, resource, sys, warnings
import segtwin_weights
from segtwin_weights import WeightsError
warnings.simplefilter("ignore")
first, *paths = sys.argv[1:]
segtwin_weights.read(first)  # the libraries are loaded, and the process runs
for path in paths:
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20) + 3 * os.path.getsize(path), -1))
    try:
        print(json.dumps([path, repr(segtwin_weights.read(path))]), flush=True)
    except WeightsError as error:
        print(json.dumps([path, str(error)]), flush=True)
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    weights = segtwin_weights.read(fuzz.GOLDEN / "tiny_vgg16_s1_v2.caffemodel")
    segtwin_weights.write(weights, folder / "good.weights.h5")
    fuzz._keras(folder / "good.weights.h5", folder / "good.keras")
    return folder


def keras3(path, fill) -> None:
    with h5py.File(path, "w") as file:
        fill(file.create_group("layers/conv2d/vars"))


def heap(path) -> None:
    """A heap of strings whose next object has no bytes: HDF5 looks at it again and again."""

    def fill(group) -> None:
        group.attrs["name"] = "conv"
        group["0"] = np.ones(4, "f4")

    keras3(path, fill)
    data = bytearray(path.read_bytes())
    at = data.find(b"GCOL")
    data[at + 40 : at + 64] = bytes(24)
    path.write_bytes(data)


def inflate(path, size: int = 1 << 28) -> None:
    """A chunk that declares 1 kB and inflates to 256 MB."""

    def fill(group) -> None:
        group.create_dataset("0", (256,), "f4", chunks=(256,), compression="gzip").id.write_direct_chunk(
            (0,), zlib.compress(bytes(size), 1)
        )

    keras3(path, fill)


def old(path, attributes, layer="a", more=None) -> None:
    """A file of Keras 2 with these attributes."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode()]
        group = file.create_group(layer)
        group.attrs["weight_names"] = [b"kernel:0", b"bias:0"]
        group["kernel:0"], group["bias:0"] = np.ones((4, 5), "f4"), np.ones(5, "f4")
        for name, array in (more or {}).items():
            group[name] = array
        for key, value in attributes.items():
            file.attrs[key] = value


def one_string_many_times(path) -> None:
    """3,000 names that all are the same megabyte."""
    old(path, {"layer_names": np.array(["x" * 8] * 3000 + ["y" * 1_000_000], dtype=h5py.string_dtype())})
    data = bytearray(path.read_bytes())
    long, short, at = (1_000_000).to_bytes(4, "little"), (8).to_bytes(4, "little"), 0
    # of the references, length · address · number, the last
    while data[at - 16 : at - 12] != short or data[at - 32 : at - 28] != short:
        at = data.index(long, at + 1)
    data[at - 16 * 3000 : at] = bytes(data[at : at + 16]) * 3000
    path.write_bytes(data)


def deep(path) -> None:
    old(path, {})
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = "[" * 30_000 + "]" * 30_000


def archive(path, members, kind=zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, data in members:
            file.writestr(name, data)


@pytest.fixture(scope="module")
def hostile(good, tmp_path_factory):
    """File → what the message says."""
    folder = tmp_path_factory.mktemp("hostile")
    said: dict[str, str] = {}

    def made(name: str, reason: str):
        said[name] = reason
        return folder / name

    whole = (good / "good.weights.h5").read_bytes()
    heap(made("heap.weights.h5", "does not come to an end"))
    inflate(made("inflate.weights.h5", "damaged"))
    one_string_many_times(made("names.h5", "memory"))
    deep(made("deep.h5", "levels|deeper"))
    old(made("config.h5", "config is no JSON"), {"model_config": "{" * 50})
    old(made("backend.h5", "damaged|no JSON"), {"model_config": b"\xff\xfe{}"})
    old(made("escape.h5", r"is called '\S*x1b"), {}, layer="a\x1b[2Jb")
    old(made("empty.h5", "and no numbers|other arrays"), {}, more={"w": np.zeros((0, 1 << 40), "f4")})
    old(made("variance.h5", "less than zero"), {}, layer="bn")
    with h5py.File(folder / "variance.h5", "r+") as file:
        file["bn"].attrs["weight_names"] = [b"moving_variance:0"]
        del file["bn/kernel:0"], file["bn/bias:0"]
        file["bn/moving_variance:0"] = -np.ones(3, "f4")
    old(made("text.h5", "damaged"), {"layer_names": 7})
    archive(
        made("heap.keras", "does not come to an end"), [("model.weights.h5", (folder / "heap.weights.h5").read_bytes())]
    )
    archive(made("inflate.keras", "damaged"), [("model.weights.h5", (folder / "inflate.weights.h5").read_bytes())])
    archive(made("deflated.keras", "is compressed"), [("model.weights.h5", bytes(50_000_000))], zipfile.ZIP_DEFLATED)
    archive(made("config.keras", "config is no JSON"), [("config.json", "[" * 100_000), ("model.weights.h5", whole)])
    archive(
        made("many.keras", "more members"),
        [("model.weights.h5", whole), *((f"{number:x}", b"") for number in range(40_000))],
    )
    for name, reason, change in (
        ("lying.keras", "beyond the file.s end", {"file_size": 1 << 40, "compress_size": 1 << 40}),
        ("unequal.keras", "claims 1,048,576 bytes", {"file_size": 1 << 20}),
        ("before.keras", "which are not there|damaged", {"header_offset": 3}),
    ):
        with zipfile.ZipFile(made(name, reason), "w") as file:
            file.writestr("model.weights.h5", whole)
            for key, value in change.items():
                setattr(file.getinfo("model.weights.h5"), key, value)
    with zipfile.ZipFile(made("over.keras", "lie in each other"), "w") as file:
        file.writestr("model.weights.h5", whole)
        file.writestr("config.json", "{}")
        file.getinfo("config.json").header_offset = 0
    return folder, said


def test_each_is_one_line(good, hostile) -> None:
    folder, said = hostile
    paths = [str(folder / name) for name in said]
    run = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(good / "good.weights.h5"), *paths],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = dict(map(json.loads, run.stdout.splitlines()))
    assert run.returncode == 0, (run.stderr[-500:], len(told))
    for name in said:
        message = told[str(folder / name)]
        assert message.startswith(f"{folder / name}: "), message
        assert message.isprintable()
    missed = {
        name: told[str(folder / name)]
        for name, reason in said.items()
        if not re.search(reason, told[str(folder / name)])
    }
    assert not missed


def test_real_files_are_read(good, tmp_path) -> None:
    weights = segtwin_weights.read(good / "good.weights.h5")
    assert segtwin_weights.read(good / "good.keras").fingerprint() == weights.fingerprint()
    with h5py.File(
        tmp_path / "small.weights.h5", "w"
    ) as file:  # as save_weights with compression, and with chunks alone
        vars_ = file.create_group("layers/conv2d/vars")
        numbers = np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype("f4")
        vars_.create_dataset("0", data=numbers, chunks=True, compression="gzip", shuffle=True, fletcher32=True)
        vars_.create_dataset("1", data=numbers[0, 0, 0], chunks=(1,))
    found = segtwin_weights.read(tmp_path / "small.weights.h5")
    assert np.array_equal(found["conv2d/weight"], numbers.transpose(3, 2, 0, 1))
    with h5py.File(tmp_path / "one.weights.h5", "w") as file:  # one chunk of all
        numbers = np.random.default_rng(0).normal(size=(1, 1, 4000, 2000)).astype("f4")
        file.create_dataset(
            "layers/conv2d/vars/0",
            data=numbers,
            chunks=numbers.shape,
            compression="gzip",
            compression_opts=1,
            shuffle=True,
        )
    assert segtwin_weights.read(tmp_path / "one.weights.h5")["conv2d/weight"].shape == (2000, 4000, 1, 1)


# -------------------------------------------------------------------------------------- the process


def child() -> int:
    assert hdf5_guard._child is not None
    return hdf5_guard._child.process.pid


def test_one_process_serves_all_threads_and_is_started_again(good) -> None:
    segtwin_weights.read(good / "good.weights.h5")
    first = child()
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.extend(segtwin_weights.read(good / "good.weights.h5").fingerprint() for _ in range(3))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert len(set(found)) == 1
    assert child() == first
    os.kill(first, signal.SIGKILL)
    time.sleep(0.1)
    hdf5_guard._walked.clear()
    assert segtwin_weights.read(good / "good.weights.h5").fingerprint() == found[0]
    assert child() != first


def test_a_file_is_walked_once_while_it_stays_as_it_is(good, tmp_path, monkeypatch) -> None:
    path = tmp_path / "w.weights.h5"
    path.write_bytes((good / "good.weights.h5").read_bytes())
    asked: list[str] = []
    real = hdf5_guard._asked
    monkeypatch.setattr(hdf5_guard, "_asked", lambda name, *rest: (asked.append(name), real(name, *rest)))
    segtwin_weights.read(path)
    assert len(asked) == 2, "a file of this moment may change and keep its time"
    monkeypatch.setattr(hdf5_guard, "RACY_NANOSECONDS", -(1 << 62))
    segtwin_weights.read(path)
    segtwin_weights.read(path)
    assert len(asked) == 3
    heap(path)
    with pytest.raises(WeightsError, match="come to an end"):
        segtwin_weights.read(path)
    assert len(asked) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_has_a_process_of_its_own(good) -> None:
    script = f"""
import os, segtwin_weights
from segtwin_weights.formats import hdf5_guard
path = {str(good / "good.weights.h5")!r}
segtwin_weights.read(path)
first = hdf5_guard._child.process.pid
if (forked := os.fork()) == 0:
    hdf5_guard._walked.clear()
    segtwin_weights.read(path)
    assert hdf5_guard._child.process.pid != first
    hdf5_guard._at_exit()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 7
hdf5_guard._walked.clear()
segtwin_weights.read(path)
assert hdf5_guard._child.process.pid == first
print("both")
"""
    run = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.stdout, run.stderr, run.returncode) == ("both\n", "", 0)


def running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc here")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_its_parent(number: int, good, tmp_path) -> None:
    """On Ctrl-C, at once; the file on which HDF5 never returns would else keep it busy."""
    heap(tmp_path / "heap.weights.h5")
    script = f"""
import segtwin_weights, sys
from segtwin_weights.formats import hdf5_guard
segtwin_weights.read({str(good / "good.weights.h5")!r})
hdf5_guard.SECONDS = 1000
print(hdf5_guard._child.process.pid, flush=True)
try:
    segtwin_weights.read({str(tmp_path / "heap.weights.h5")!r})
except KeyboardInterrupt:
    print("interrupted")
"""
    if number == signal.SIGKILL:  # nobody is left to kill it: the limit of processor time does
        script = script.replace("= 1000", "= 1")
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        time.sleep(0.5)
        process.send_signal(number)
        said = process.stdout.read()
        process.wait(60)
    assert said == ("interrupted\n" if number == signal.SIGINT else "")
    for _ in range(600):
        if not running(pid):
            break
        time.sleep(0.1)
    assert not running(pid)


@pytest.mark.parametrize("flags", [["-I"], ["-E", "-s"], []])
def test_it_finds_what_its_parent_finds(flags, good, tmp_path) -> None:
    """Not by PYTHONPATH alone, and nothing of the folder in which the command runs."""
    for name in ("h5py", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)")
    script = (
        f"import sys; sys.path[:] = {sys.path!r}; import segtwin_weights; "
        f"print(len(segtwin_weights.read({str(good / 'good.weights.h5')!r})))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PYTHONWARNINGS": "error"}
    run = subprocess.run(
        [sys.executable, "-P", *flags, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.stdout, run.returncode) == ("32\n", 0), run.stderr[-500:]


def test_without_it_nothing_is_read(good, monkeypatch) -> None:
    hdf5_guard._at_exit()
    hdf5_guard._walked.clear()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(WeightsError, match=r"good\.weights\.h5: cannot be examined: .*nowhere/python"):
        segtwin_weights.read(good / "good.weights.h5")


def test_archives_with_a_comment_or_a_large_directory(tmp_path, monkeypatch) -> None:
    """The directory is found behind a comment, and by the end record of archives of more than 4 GB."""
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)  # so many members, and the large record is written
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in "abc":
            file.writestr(name, b"1")
        file.comment = b"c" * 60_000
    assert b"PK\6\6" in (tmp_path / "a.zip").read_bytes()
    with zipped.opened(tmp_path / "a.zip") as (archive, budget):
        assert archive.namelist() == ["a", "b", "c"]
    spent = door.TIMES * budget.size + pickles.ROOM - budget.left
    assert 3 * zipped.ENTRY <= spent < 3 * zipped.ENTRY + 1000
