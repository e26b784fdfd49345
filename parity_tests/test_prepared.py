"""Weights are prepared once: the second start reads what was kept, computes the same bits, and never the bits of
another file."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import segtwin_engines
import segtwin_weights
import torch
from goldens import TINY
from segtwin.architectures import get_architecture
from segtwin.errors import WeightsError
from segtwin_engines import loading, mapped, prepared
from segtwin_engines.loading import start
from segtwin_weights import Weights, onnx_table
from segtwin_weights.onnx_check import onnx_values

pytestmark = pytest.mark.filterwarnings("ignore::segtwin_engines.Assumed")
DATA = np.random.default_rng(1).uniform(-120, 130, (2, 3, 35, 40)).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "cache_folder", lambda: tmp_path / "cache")
        yield tmp_path / "cache" / "prepared"


def drawn(network: str = "fcn8s", seed: int = 1) -> Weights:
    widths = TINY if get_architecture(network).naming == "caffe" and "unet" not in network else None
    start = segtwin_weights.initialize(network, widths=widths, seed=seed)
    random = np.random.default_rng(seed)
    blobs = {
        name: blob
        if name.startswith("upscore") or blob.dtype.kind != "f"
        else (random.uniform(0.2, 1, blob.shape) * blob.shape[0] / max(blob.size, 1)).astype(np.float32)
        for name, blob in start.items()
    }
    return Weights(blobs, start.metadata)


def saved(folder: Path, seed: int = 1) -> Path:
    segtwin_weights.write(drawn(seed=seed), folder / "w.safetensors")
    return folder / "w.safetensors"


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read and nothing is prepared any more."""
    for module, name in ((loading, "read_network"), (prepared, "write")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("it was read again"))


@pytest.mark.parametrize("network", ["fcn8s", "fcn8s-atonce", "fcn8-vgg", "unet-small", "resnet34-unet"])
def test_the_second_start_reads_nothing_and_computes_the_same_bits(
    network: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    weights = drawn(network)
    channels = segtwin_weights.dimensions(weights, get_architecture(network)).in_channels
    data = np.random.default_rng(2).uniform(0, 1, (2, channels, 64, 96)).astype(np.float32)
    segtwin_weights.write(weights, tmp_path / "w.safetensors")
    first = segtwin_engines.load(tmp_path / "w.safetensors", network=network)
    request.getfixturevalue("unread")
    second = segtwin_engines.load(tmp_path / "w.safetensors", network=network)
    assert first.name == second.name == "onnxruntime"
    plain = start("onnxruntime", get_architecture(network), weights)
    np.testing.assert_array_equal(second.scores(data), plain.scores(data))
    np.testing.assert_array_equal(first.scores(data), plain.scores(data))
    facts = ("network", "num_classes", "in_channels", "preprocessing", "output", "widths", "file", "metadata")
    assert {name: getattr(first, name) for name in facts} == {name: getattr(second, name) for name in facts}
    assert second.metadata["version"]


@pytest.mark.parametrize("engine", ["auto", "ncnn"])
def test_a_process_that_starts_again_imports_no_framework(engine: str, tmp_path: Path) -> None:
    file = saved(tmp_path)
    np.save(tmp_path / "photo.npy", np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8))
    program = (
        "import sys; from segtwin_cli.main import main\n"
        f"sys.argv = ['segtwin', 'predict', {str(file)!r}, {str(tmp_path / 'photo.npy')!r}, '-o', sys.argv[1], "
        f"'--engine', {engine!r}]\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'tensorflow', 'keras', 'onnx', 'requests'} & set(sys.modules)))\n"
    )
    place = dict(os.environ, SEGTWIN_CACHE=str(tmp_path / "own"))
    for run, imported in (("first", "['onnx']" if engine == "auto" else "[]"), ("second", "[]")):
        command = [sys.executable, "-c", program, str(tmp_path / run)]
        done = subprocess.run(command, env=place, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == imported, done.stderr
    masks = [(tmp_path / run / "photo.mask.png").read_bytes() for run in ("first", "second")]
    assert masks[0] == masks[1]


def test_a_file_that_changes_is_read_again_whatever_its_times_say(tmp_path: Path) -> None:
    file = saved(tmp_path)
    segtwin_engines.load(file)
    before = file.stat()
    other = tmp_path / "other"
    other.mkdir()
    file.write_bytes(saved(other, seed=2).read_bytes())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    want = start("onnxruntime", get_architecture("fcn8s"), drawn(seed=2)).scores(DATA)
    np.testing.assert_array_equal(segtwin_engines.load(file).scores(DATA), want)


def test_blobs_are_the_files_and_never_another_files(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    file = saved(tmp_path)
    segtwin_engines.load(file)
    engine, later = segtwin_engines.load(file), segtwin_engines.load(file)
    want = start("onnxruntime", get_architecture("fcn8s"), drawn()).blobs(DATA)
    got = engine.blobs(DATA)
    assert list(got) == list(want)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])
    saved(tmp_path, seed=2)
    with pytest.raises(WeightsError, match="was changed since it was loaded"):
        later.blobs(DATA)


@pytest.mark.parametrize(
    "damage", ["cut short", "other bytes", "another time", "gone", "no facts", "facts of something else", "other notes"]
)
def test_what_is_damaged_is_made_again(damage: str, tmp_path: Path, cache: Path) -> None:
    file = saved(tmp_path)
    want = segtwin_engines.load(file).scores(DATA)
    (part,) = cache.glob("*/onnxruntime-*/network.onnx")
    (facts,) = cache.glob("*/facts.json")
    if damage == "cut short":
        part.write_bytes(part.read_bytes()[:-7])
    elif damage == "other bytes":
        before = part.stat()
        part.write_bytes(part.read_bytes()[:-64] + bytes(64))
        os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif damage == "another time":
        os.utime(part)
    elif damage == "gone":
        part.unlink()
    elif damage == "other notes":
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "notes": 7}))
    else:
        facts.write_text("" if damage == "no facts" else json.dumps({"network": "fcn8s", "size": 3}))
    np.testing.assert_array_equal(segtwin_engines.load(file).scores(DATA), want)
    (again,) = cache.glob("*/onnxruntime-*/network.onnx")
    assert again.stat().st_size > 0
    assert not list(cache.glob("*/.draft*"))


def test_what_reading_a_file_says_is_said_at_every_start(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    tensors = {name: torch.from_numpy(np.array(blob)) for name, blob in drawn("unet-small").items()}
    halves = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    torch.save(halves, tmp_path / "w.pth")
    said = []
    for run in range(2):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            segtwin_engines.load(tmp_path / "w.pth")
        said.append([str(one.message) for one in heard])
        if not run:
            request.getfixturevalue("unread")
    assert any("bfloat16" in line for line in said[0])
    assert said[0] == said[1]


def test_without_room_it_is_done_without(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(tmp_path)
    want = start("onnxruntime", get_architecture("fcn8s"), drawn()).scores(DATA)
    cache.parent.write_text("a file where the folder should be")
    np.testing.assert_array_equal(segtwin_engines.load(file).scores(DATA), want)
    cache.parent.unlink()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("write", "finish"):
        with monkeypatch.context() as patch:
            patch.setattr(mapped, name, full)
            np.testing.assert_array_equal(segtwin_engines.load(file).scores(DATA), want)
        assert not list(cache.glob("*/*"))


@pytest.mark.parametrize("what", ["processor", "program"])
def test_another_processor_or_program_makes_its_own(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(tmp_path)
    segtwin_engines.load(file)
    monkeypatch.setattr(prepared, what, lambda: "another")
    kept = prepared.find(prepared.place(file, None))
    assert kept is None or kept.open("onnxruntime") is None


def test_what_was_not_used_for_long_goes_first(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "MOST_FILES", 2)
    files = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        files.append(saved(folder))
        segtwin_engines.load(files[-1])
        (place,) = (one for one in [prepared.place(files[-1], None)] if one)
        os.utime(place / "facts.json", (number, number))
        if number == 1:
            segtwin_engines.load(files[0])  # used again: the second is the oldest now
    assert prepared.find(prepared.place(files[0], None))
    assert not prepared.find(prepared.place(files[1], None))
    assert prepared.find(prepared.place(files[2], None))
    monkeypatch.setattr(prepared, "MOST_BYTES", 1)
    fourth = tmp_path / "fourth"
    fourth.mkdir()
    segtwin_engines.load(saved(fourth))
    assert len(list(cache.iterdir())) == 1


def test_files_that_belong_together_are_not_kept(tmp_path: Path) -> None:
    for name, text in (("index.json", '{"weight_map": {}}'), ("empty", "")):
        (tmp_path / name).write_text(text)
        assert prepared.place(tmp_path / name, None) is None
    (tmp_path / "one").write_bytes((0x7B).to_bytes(8, "little") + b'{"__metadata__": {}}'.ljust(0x7B))  # begins with {
    assert prepared.place(tmp_path / "one", None) is not None
    assert prepared.place(tmp_path, None) is None
    assert prepared.place(tmp_path / "nothing", None) is None


def test_weights_that_speak_against_their_names_are_refused_at_every_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path)

    def against(*_: object) -> None:
        raise WeightsError("the names say BGR, but the filters RGB")

    with monkeypatch.context() as patch:
        patch.setattr(loading.names, "check_inputs", against)
        for chosen in (None, get_architecture("fcn8s").preprocessing, None):
            if chosen is None:
                with pytest.raises(WeightsError, match="the filters RGB"):
                    segtwin_engines.load(file)
            else:
                assert segtwin_engines.load(file, preprocessing=chosen).name == "onnxruntime"


def test_kernels_in_parts_make_the_same_bits(tmp_path: Path) -> None:
    start = segtwin_weights.initialize("fcn8s", widths=(8, 8, 8, 8, 8, 200, 8), seed=1)
    random = np.random.default_rng(1)
    blobs = {
        name: blob if name.startswith("upscore") else random.uniform(-1, 1, blob.shape).astype(np.float32) / 8
        for name, blob in start.items()
    }
    weights, architecture = Weights(blobs, start.metadata), get_architecture("fcn8s")
    onnx_table.write(weights, architecture, tmp_path / "whole.onnx")
    onnx_table.write(weights, architecture, tmp_path / "parts.onnx", most=100_000)  # fc6 is 200×8×7×7
    names = [one.name for one in onnx.load(tmp_path / "parts.onnx").graph.initializer]
    assert {"fc6/weight 0", "fc6/weight 1", "fc6/bias 1", "fc7/weight"} <= set(names)
    whole, parts = (onnx_values(tmp_path / f"{name}.onnx", DATA, architecture.exported) for name in ("whole", "parts"))
    assert list(parts) == list(whole)
    for name in whole:
        np.testing.assert_array_equal(parts[name], whole[name])
