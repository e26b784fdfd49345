"""`segtwin bench`: every engine in a process of its own, judged by its blobs; the fastest that is right is "auto"."""

import json
from pathlib import Path

import numpy as np
import pytest
import segtwin_engines
import segtwin_weights
from click.testing import CliRunner
from goldens import TINY
from segtwin import oracle
from segtwin.architectures import get_architecture
from segtwin_cli.main import main, segtwin
from segtwin_engines import fastest, loading, speed
from segtwin_engines.facts import machine
from segtwin_engines.speed import PLAIN, ROWS, Judge, Speed, rows_for
from segtwin_weights import Weights


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGTWIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "fastest", fastest.fastest)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(3)
    start = segtwin_weights.initialize("fcn8s", widths=TINY, num_classes=5)
    blobs = {
        name: blob
        if name.startswith("upscore")
        else random.standard_normal(blob.shape, np.float32) * np.float32(np.sqrt(2 / max(blob[0].size, 2)))
        for name, blob in start.items()
    }
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    segtwin_weights.write(Weights(blobs, start.metadata), path)
    return path


def test_the_rows_fit_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    fcn = {row.name for row in rows_for(get_architecture("fcn8s"))}
    assert fcn - {"torchfcn"} == {row.name for row in ROWS} - {"PyTorch, torch.compile", "torchfcn"}
    assert "PyTorch, torch.compile" in {row.name for row in rows_for(get_architecture("unet"), ["torch"])}
    unet = {row.name for row in rows_for(get_architecture("unet"))}
    assert fcn - unet - {"torchfcn"} == {PLAIN, "PyTorch, whole canvas", "OpenCV"}
    assert "ncnn" not in {row.name for row in rows_for(get_architecture("vggfcn8"))}
    assert [row.name for row in rows_for(get_architecture("fcn8s"), ["ncnn"])] == ["ncnn"]
    assert [row.name for row in rows_for(get_architecture("unet"), ["ncnn"])] == ["ncnn"]
    with pytest.raises(ValueError, match="vggfcn8: ncnn cannot run it here"):
        rows_for(get_architecture("vggfcn8"), ["ncnn", "torch"])
    monkeypatch.setattr(speed, "there_is", lambda module: False)
    with pytest.raises(ImportError, match="torchfcn is not installed; pip install --no-deps torchfcn"):
        rows_for(get_architecture("fcn8s"), ["torchfcn"])
    with pytest.raises(ValueError, match=r"there is no engine 'ncn' to measure; there are .*did you mean ncnn"):
        rows_for(get_architecture("unet"), ["ncn"])


def test_the_command_measures_judges_and_remembers(weights: Path, tmp_path: Path, cache: Path) -> None:
    file, picture = tmp_path / "b.json", tmp_path / "b.png"
    arguments = ["bench", str(weights), "--size", "20x30", "--batch", "2", "--runs", "2", "--threads", "1", "--quiet"]
    some = ["--engine", "ncnn,opencv", "--json", str(file), "--picture", str(picture)]
    done = CliRunner().invoke(segtwin, [*arguments, *some])
    assert done.exit_code == 0, done.output
    facts = json.loads(file.read_text())
    assert (facts["network"], facts["size"], facts["batch"], facts["threads"]) == ("fcn8s", [20, 30], 2, 1)
    assert (facts["unit"], [row["name"] for row in facts["rows"]]) == (PLAIN, ["ncnn", "OpenCV"])
    for row in facts["rows"]:
        assert not row["failed"]
        assert len(row["seconds"]) == 2
        assert 0 < row["least"] <= row["median"]
        assert row["peak"] > 10e6
        assert row["within"]
        assert 0 < row["error"] < 10
        assert row["same_classes"] > 0.99
    assert facts["rows"][0]["ratio"] is None, "there is nothing to divide by"
    assert {"numpy", "ncnn", "opencv-python-headless"} <= facts["versions"].keys()
    assert picture.stat().st_size > 10_000
    assert not (cache / "fastest.json").exists(), "some engines alone say nothing of the fastest"


def test_an_engine_that_is_wrong_is_listed_as_wrong(weights: Path, tmp_path: Path) -> None:
    loaded, architecture = segtwin_weights.read(weights), get_architecture("fcn8s")
    judge = Judge(architecture, loaded, tmp_path)
    row = next(row for row in ROWS if row.name == "ncnn")
    running = speed.Running(row, str(weights), {}, (1, 3, 20, 30), 1, architecture)
    try:
        right = running.judged(judge)
        assert right.within
        judge.truth = {name: np.roll(blob, name == "score", -1) for name, blob in judge.truth.items()}
        wrong = running.judged(judge)
        assert (wrong.within, wrong.worst) == (False, "score")
        assert wrong.error > 1000
    finally:
        running.end()


def test_an_engine_that_fails_is_said_and_the_others_go_on(weights: Path) -> None:
    row = speed.Row("broken", "onnxruntime", "onnxruntime", {"file": "nowhere"})
    running = speed.Running(
        row, str(weights), {"nowhere": "/nowhere.onnx"}, (1, 3, 20, 30), 1, get_architecture("fcn8s")
    )
    running.run(counted=True)
    running.end()
    assert "nowhere.onnx" in running.found.failed
    assert running.found.seconds == []


def found(name: str, least: float, within: bool = True) -> Speed:
    row = next(row for row in ROWS if row.name == name)
    return Speed(name, row.engine, [least, 2 * least], 1.0, 1, 1.0, "score", within, 1.0)


def test_auto_is_the_fastest_that_is_right(weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastest.fastest("fcn8s") is None
    assert segtwin_engines.load(weights, say=lambda line: None).name == "onnxruntime"
    measured = [
        found("OpenVINO, bfloat16", 0.1),  # not as --engine runs it
        found("OpenVINO", 0.2, within=False),
        found("ncnn", 0.3),
        found("PyTorch", 0.4),
    ]
    assert speed.remember("fcn8s", measured) == "ncnn"
    engine = segtwin_engines.load(weights, say=lambda line: None)
    assert engine.name == "ncnn"
    data = np.random.default_rng(1).uniform(-100, 100, (1, 3, 20, 30)).astype(np.float32)
    want = oracle.run(get_architecture("fcn8s"), segtwin_weights.read(weights), data)["score"]
    assert oracle.relative_error(engine.scores(data), want) < 2e-5
    assert segtwin_engines.load(weights, "torch", say=lambda line: None).name == "torch"
    assert fastest.fastest("fcn16s") is None
    with monkeypatch.context() as patch:  # two processors of one name need not have the same instructions
        patch.setattr(fastest, "machine", lambda: {**machine(), "instructions": "none"})
        assert fastest.fastest("fcn8s") is None
    assert fastest.fastest("fcn8s") is not None
    kept = json.loads((cache / "fastest.json").read_text())
    (cache / "fastest.json").write_text(json.dumps({"another machine": next(iter(kept.values()))}))
    assert fastest.fastest("fcn8s") is None
    for damaged in ("", "[1]", '{"a": 3}', "\x00"):
        (cache / "fastest.json").write_text(damaged)
        assert fastest.fastest("fcn8s") is None
    assert speed.remember("fcn8s", [found("ncnn", 0.3, within=False)]) is None


def test_what_cannot_be_is_refused(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there.json").write_text("{}")
    for arguments, complaint in (
        ([weights, "--network", "fcn8s"], "--network goes without WEIGHTS"),
        ([weights, "--picture", "x.txt"], "x.txt: the name has to end in"),
        ([weights, "--json", tmp_path / "there.json"], f"{tmp_path}/there.json: exists already"),
        ([weights, "--engine", "ncn"], "there is no engine 'ncn' to measure"),
        (["--network", "fcn9s"], "there is no network 'fcn9s'"),
        (["--network", "unet-small", "--size", "33x64"], "unet-small: 33×64 pixels do not fit"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["bench", *map(str, arguments)])
        said = capsys.readouterr().err
        assert end.value.code == 2, arguments
        assert complaint in said, said


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_an_export_of_the_whole_canvas(weights: Path, tmp_path: Path, framework: str) -> None:
    path = tmp_path / "x.onnx"
    main_arguments = ["export", str(weights), str(path), "--framework", framework, "--whole-canvas", "--quiet"]
    assert CliRunner().invoke(segtwin, main_arguments).exit_code == 0
    engine = loading.load(path, say=lambda line: None)
    data = np.random.default_rng(1).uniform(-100, 100, (1, 3, 20, 30)).astype(np.float32)
    blobs = engine.blobs(data)
    import onnx

    values = {name for node in onnx.load(path).graph.node for name in node.output}
    assert {"conv1_1", "pool1", "conv3_3"} <= values
    assert (
        oracle.relative_error(
            blobs["score"], oracle.run(get_architecture("fcn8s"), segtwin_weights.read(weights), data)["score"]
        )
        < 2e-5
    )


def test_ratios_are_to_a_plain_export() -> None:
    rows = speed.facts([found(PLAIN, 2.0), found("ncnn", 1.0), found("OpenCV", 3.0)], "fcn8s", (20, 30), 1, 2)["rows"]
    assert [row["ratio"] for row in rows] == [1, 0.5, 1.5]
    rows = speed.facts([found("ONNX Runtime", 2.0), found("ncnn", 1.0)], "unet", (32, 32), 1, 2)["rows"]
    assert [row["ratio"] for row in rows] == [1, 0.5]
