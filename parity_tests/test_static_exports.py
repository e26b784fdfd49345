"""Graphs of one size: nothing in them computes a size, and OpenCV's DNN module, an implementation
of its own, gets the oracle's numbers from them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import segtwin_weights
from drawn_networks import VARIED
from PIL import Image
from segtwin import oracle
from segtwin.architectures import get_architecture
from segtwin_cli import export as export_command
from segtwin_cli.main import main
from segtwin_weights import Weights, initialize

from engines import TWINS

SIZES = {"unet-paper": (204, 220), "resnet34-unet": (64, 96)}
COMPUTED = {
    "Shape",
    "Size",
    "Gather",
    "Range",
    "Reshape",
    "Squeeze",
    "Cast",
    "ConstantOfShape",
    "Expand",
    "Where",
    "NonZero",
    "Loop",
    "If",
}
"""Operators that compute sizes, or whose results have sizes that are not known before."""
CV2_ROUNDING = 2e-4
"""Of a blob's maximum. OpenCV convolves by Winograd's transform, which costs a decimal; a crop or
pad off by one is beyond 1e-2 in all of them."""


@cache
def weights_of(name: str) -> tuple[Weights, np.ndarray, np.ndarray]:
    """Weights that are nowhere zero, two images, and the float64 oracle's output of them."""
    architecture = get_architecture(name)
    widths = {7: (3, 4, 5, 6, 7, 8, 9), 5: (3, 4, 5, 6, 7), 0: None}[len(architecture.widths)]
    random = np.random.default_rng(5)
    start = initialize(name, num_classes=3, widths=widths, seed=3)
    blobs = {
        key: blob if blob.any() else np.asarray(random.uniform(-0.5, 0.5, blob.shape), blob.dtype)
        for key, blob in start.items()
    }
    data = random.uniform(-100, 100, (2, architecture.in_channels, *size_of(name))).astype(np.float32)
    return Weights(blobs, start.metadata), data, oracle.run(architecture, blobs, data)[architecture.output]


def size_of(name: str) -> tuple[int, int]:
    return SIZES.get(name, get_architecture(name).example_size)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


NOT_IN_OPENCV = {"ce-net", "resnet50-unet", "segnet"}
"""OpenCV 4.14 crashes on the first two, and takes other maxima than float32 where they are near (see `check_run`)."""


@pytest.mark.parametrize("name", [name for name in VARIED if name not in NOT_IN_OPENCV])
@pytest.mark.parametrize("framework", TWINS)
def test_opencv_computes_the_same(framework: str, name: str, tmp_path: Path) -> None:
    weights, data, truth = weights_of(name)
    architecture, twin = get_architecture(name), TWINS[framework]
    model = twin.build(name, **segtwin_weights.dimensions(weights, architecture)._asdict(), weights=weights)
    twin.export_onnx(model, tmp_path / "x.onnx", size=data.shape[2:], batch=2)
    proto = onnx.load(tmp_path / "x.onnx")
    assert not {node.op_type for node in proto.graph.node} & COMPUTED
    for value, shape in ((proto.graph.input[0], data.shape), (proto.graph.output[0], truth.shape)):
        assert [(axis.dim_param, axis.dim_value) for axis in value.type.tensor_type.shape.dim] == [
            ("", size) for size in shape
        ]
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    assert properties["input"].startswith(f"float32 {'×'.join(map(str, data.shape))}; ")

    network = cv2.dnn.readNetFromONNX(str(tmp_path / "x.onnx"))
    network.setInput(data)
    got = network.forward()
    assert got.shape == truth.shape
    assert oracle.relative_error(got, truth) < CV2_ROUNDING
    moved = np.roll(truth, 1, -1)
    assert oracle.relative_error(got, moved) > 50 * CV2_ROUNDING, "a pixel off would be seen"


@pytest.mark.parametrize("framework", TWINS)
def test_sizes_and_batches_that_cannot_be_are_refused_before_anything_is_written(
    framework: str, tmp_path: Path
) -> None:
    twin = TWINS[framework]
    small, fcn = twin.build("unet-small", widths=(3, 4, 5, 6, 7)), twin.build("fcn32s", widths=(3, 4, 5, 6, 7, 8, 9))
    for model, options, message in (
        (
            small,
            {"size": (65, 80)},
            "65×80 pixels do not fit; rows and columns are multiples of 16, the nearest 64×80 or 80×80",
        ),
        (small, {"batch": 2}, "batch 2 fixes the number of images of a graph of one size; give the size too"),
        (fcn, {"size": (0, 4)}, "whole numbers from 1 on"),
        (fcn, {"size": (4.5, 4)}, "whole numbers from 1 on"),
        (fcn, {"size": (4, 4, 4)}, r"size is \(rows, columns\)"),
        (fcn, {"size": (4, 4), "batch": 0}, "whole numbers from 1 on"),
        (fcn, {"size": (4, 4), "batch": True}, "whole numbers from 1 on"),
    ):
        with pytest.raises(ValueError, match=message):
            twin.export_onnx(model, tmp_path / "x.onnx", **options)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, file in (("unet-small", "u.safetensors"), ("unet-small", "u.pth"), ("unet-paper", "p.safetensors")):
        segtwin_weights.write(weights_of(name)[0], file)
    return tmp_path


def test_the_command_refuses_before_it_reads_numbers(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(export_command, "read_network", lambda path: pytest.fail("it was read"))
    before = sorted(work.iterdir())
    for file, options, message in (
        ("u.safetensors", ("--size", "65x80"), "--size 65x80 for u.safetensors: unet-small: 65×80 pixels do not fit"),
        ("p.safetensors", ("--size", "200x300"), "rows and columns are 188 + 16·k, the nearest 188×300 or 204×300"),
        ("u.safetensors", ("--batch", "2"), "--batch goes with --size"),
        ("u.safetensors", ("--size", "64"), "give rows x columns"),
        ("u.safetensors", ("--size", "0x64"), "give rows x columns"),
        ("u.safetensors", ("--size", "64x64", "--batch", "0"), "--batch"),
        (
            "u.safetensors",
            ("--opset", "13"),
            "x.onnx: opset 13 cannot be written; this framework's exporter writes opsets 18 to 23",
        ),
        ("u.safetensors", ("--opset", "24"), "opsets 18 to 23"),
    ):
        assert run("export", file, "x.onnx", "--framework", "torch", *options) == 2, options
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1 or "Usage" in err
    assert sorted(work.iterdir()) == before


def test_a_size_of_a_file_that_does_not_name_its_network_is_refused(work: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("export", "u.pth", "x.onnx", "--framework", "torch", "--size", "64x72") == 2
    assert "the nearest 64×64 or 64×80" in capsys.readouterr().err
    assert not Path("x.onnx").exists()


def test_predict_runs_a_graph_of_one_size(work: Path, capsys: pytest.CaptureFixture) -> None:
    """Whatever its batch; an image of another size is refused in one line, or mirrored to it."""
    random = np.random.default_rng(2)
    for name, shape in (("fits", (64, 80)), ("odd", (63, 71)), ("large", (96, 80))):
        Image.fromarray(random.integers(0, 255, shape, np.uint8)).save(f"{name}.png")
    assert (
        run("export", "u.safetensors", "x.onnx", "--framework", "torch", "--size", "64x80", "--batch", "3", "--quiet")
        == 0
    )
    assert run("predict", "x.onnx", "fits.png", "-o", "a", "--probability") == 0
    assert run("predict", "u.safetensors", "fits.png", "-o", "b", "--probability", "--engine", "oracle") == 0
    np.testing.assert_allclose(np.load("a/fits.probability.npy"), np.load("b/fits.probability.npy"), atol=1e-5)
    capsys.readouterr()
    assert run("predict", "x.onnx", "odd.png", "large.png", "-o", "c") == 2
    err = capsys.readouterr().err
    assert "failed: odd.png: x.onnx: takes images of 64×80 pixels alone, not 63×71 (or add --pad reflect)" in err
    assert "failed: large.png: x.onnx: takes images of 64×80 pixels alone, not 96×80" in err
    assert run("predict", "x.onnx", "odd.png", "-o", "c", "--pad", "reflect") == 0
    with Image.open("c/odd.mask.png") as mask:
        assert mask.size == (71, 63)
    assert run("predict", "x.onnx", "large.png", "-o", "c", "--pad", "reflect") == 2
    assert "takes images of 64×80 pixels alone, not 96×80" in capsys.readouterr().err


def test_predict_tiles_to_a_paper_graph_of_one_size(work: Path) -> None:
    """Images of any size, tiles that are not square; the numbers are those of one large tile."""
    random = np.random.default_rng(3)
    Image.fromarray(random.integers(0, 255, (70, 9), np.uint8)).save("tall.png")
    assert run("export", "p.safetensors", "p.onnx", "--framework", "torch", "--size", "204x220", "--quiet") == 0
    assert run("predict", "p.onnx", "tall.png", "-o", "a", "--probability") == 0
    assert run("predict", "p.safetensors", "tall.png", "-o", "b", "--probability") == 0
    np.testing.assert_allclose(np.load("a/tall.probability.npy"), np.load("b/tall.probability.npy"), atol=1e-4)


def test_export_carries_what_is_stated(work: Path) -> None:
    """Preprocessing of the options, classes and colours of the weights; .pt is as good as .pth."""
    weights = weights_of("unet-small")[0]
    labels = {"classes": ["ground", "road", "roof"], "palette": [[0, 0, 0], [255, 0, 0], [0, 0, 255]]}
    segtwin_weights.write(Weights(weights, weights.metadata | labels), "l.safetensors")
    options = ("--mean", "0.25", "--std", "0.5", "--bits", "12", "--no-verify", "--quiet")
    assert run("export", "l.safetensors", "l.onnx", "l.pt", "--framework", "torch", *options) == 0
    properties = {entry.key: entry.value for entry in onnx.load("l.onnx").metadata_props}
    assert json.loads(properties["preprocessing"]) == {
        "colour": "grey",
        "mean": [0.25],
        "std": [0.5],
        "scale": 1 / 255,
        "bits": 12,
    }
    assert "preprocessing_assumed" not in properties
    assert {key: json.loads(properties[key]) for key in labels} == labels
    assert segtwin_weights.read("l.pt").fingerprint() == weights.fingerprint()
    assert (
        run("export", "l.safetensors", "l.onnx", "--framework", "torch", "--mean", "0.5,0.5", "--overwrite", "--quiet")
        == 2
    )
