"""`export --int8`: a quantised file is smaller, says what it costs, and is never taken for the network."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import segtwin_engines
import segtwin_weights
from click.testing import CliRunner
from goldens import TINY
from PIL import Image
from segtwin.architectures import get_architecture
from segtwin.errors import WeightsError
from segtwin_cli.main import main, segtwin
from segtwin_engines import int8
from segtwin_weights import DEMO

NUCLEI = Path(__file__).parent.parent / "docs/nuclei"


def run(*arguments: object) -> str:
    done = CliRunner().invoke(segtwin, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def mistake(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    with pytest.raises(SystemExit) as status:
        main([str(one) for one in arguments])
    assert status.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_the_demonstration_keeps_its_masks_at_a_third_of_the_size(tmp_path: Path) -> None:
    file = tmp_path / "small.onnx"
    said = run("export", DEMO, file, "--int8", NUCLEI / "train/images")
    assert "in 8-bit integers; of the pixels of" in said
    assert file.stat().st_size < DEMO.stat().st_size / 3
    engine = segtwin_engines.load(file)
    assert (engine.network, engine.name, engine.metadata["precision"]) == ("unet-small", "onnxruntime", "int8")
    assert engine.preprocessing == segtwin_engines.load(DEMO).preprocessing
    found = {}
    for weights in (DEMO, file):  # on images that gave no ranges
        json_file = tmp_path / "scores.json"
        run("evaluate", weights, NUCLEI, "--part", "val", "--json", json_file, "--overwrite", "--quiet")
        found[weights] = json.loads(json_file.read_text())["mean_iou"]
    assert found[DEMO] > 0.9
    assert abs(found[DEMO] - found[file]) < 0.01


def test_scores_of_many_classes_and_any_size(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    start = segtwin_weights.initialize("fcn8s", widths=TINY, num_classes=4, seed=1)
    blobs = {
        name: blob if name.startswith("upscore") else random.uniform(-0.5, 1, blob.shape).astype(np.float32) / 8
        for name, blob in start.items()
    }
    weights = segtwin_weights.Weights(blobs, start.metadata)
    image = tmp_path / "a.png"
    Image.fromarray(random.integers(0, 256, (50, 61, 3), np.uint8)).save(image)
    cost = int8.export(weights, get_architecture("fcn8s"), [image], tmp_path / "w.onnx")
    assert 0.5 < cost.mean_iu <= cost.same_classes <= 1
    plain, quantized = (segtwin_engines.load(one, say=lambda line: None) for one in (weights, tmp_path / "w.onnx"))
    data = random.uniform(-120, 130, (1, 3, 33, 40)).astype(np.float32)
    want, got = plain.scores(data), quantized.scores(data)
    assert want.shape == got.shape
    assert 1e-5 < abs(got - want).max() / abs(want).max() < 0.1, "not quantized, or something else"
    kinds = {node.op_type for node in onnx.load(tmp_path / "w.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds


def test_it_is_not_read_as_weights(tmp_path: Path) -> None:
    run("export", DEMO, tmp_path / "w.onnx", "--int8", NUCLEI / "train/images", "--quiet")
    with pytest.raises(WeightsError, match="is quantised; give the float model"):
        segtwin_weights.read(tmp_path / "w.onnx")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--framework", "torch"], "--framework does not go with --int8"),
        (["--size", "64x64"], "--size does not go with --int8"),
        (["--no-verify"], "--no-verify does not go with --int8"),
        (["--colour", "rgb"], "--colour does not go with --int8"),
    ],
)
def test_what_does_not_go_with_it_is_refused(more: list[str], line: str, tmp_path: Path, capsys) -> None:
    assert line in mistake(capsys, "export", DEMO, tmp_path / "w.onnx", "--int8", NUCLEI / "train/images", *more)
    assert not list(tmp_path.iterdir())


def test_images_and_names_are_looked_at_first(tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    for name, images, line in (
        ("w.onnx", tmp_path / "empty", "the folder holds no image"),
        ("w.ncnn", NUCLEI / "train/images", "--int8 writes one file that ends in .onnx"),
    ):
        assert line in mistake(capsys, "export", DEMO, tmp_path / name, "--int8", images)
    assert [one.name for one in tmp_path.iterdir()] == ["empty"]
