"""`segtwin parity` of engines by name, with gradients and steps: what it finds, what it refuses, and what it writes."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
import segtwin_engines
import segtwin_weights
from goldens import TINY, recipe
from PIL import Image
from segtwin import Preprocessing, backward
from segtwin.architectures import Architecture, get_architecture
from segtwin_cli.main import main
from segtwin_engines import comparison, contestants
from segtwin_engines.comparison import Comparison, View, check_options, disagreement, margins_of
from segtwin_engines.contestants import Contestant, columns
from segtwin_engines.installed import missing
from segtwin_engines.report import draw
from segtwin_engines.training_comparison import (
    drawn_label,
    first_step,
    gradients_compared,
    loss_of,
    numpy_steps,
    steps_compared,
)
from segtwin_weights import Weights

SCHEMA = json.loads((Path(segtwin_engines.__file__).parent / "parity.schema.json").read_text(encoding="utf-8"))


def weights_of(name: str) -> Weights:
    """Of which none is zero."""
    architecture = get_architecture(name)
    widths = TINY if len(architecture.widths) == len(TINY) else (2, 3, 4, 5, 6)
    start = segtwin_weights.initialize(name, widths=widths, num_classes=4, seed=1)
    random = np.random.default_rng(2)
    blobs = {
        one: blob if blob.dtype.kind != "f" or blob.any() else random.normal(0, 0.2, blob.shape).astype(np.float32)
        for one, blob in start.items()
    }
    return Weights(blobs, {**start.metadata, "preprocessing": architecture.preprocessing.asdict()})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    segtwin_weights.write(weights_of("fcn8s"), folder / "fcn8s.safetensors")
    segtwin_weights.write(weights_of("unet-small"), folder / "unet-small.safetensors")
    random = np.random.default_rng(3)
    Image.fromarray(random.integers(0, 256, (33, 40, 3), np.uint8)).save(folder / "a.png")
    Image.fromarray(random.integers(0, 256, (32, 48), np.uint8)).save(folder / "grey.png")
    return folder


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code or 0


def test_engines_by_name_with_gradients_and_steps(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """One column an engine and export; everything is within its bound, and all that is written says the same."""
    names = ("opencv", "torch", "openvino")
    written = ("--report", tmp_path / "p.html", "--junit", tmp_path / "p.xml", "--json", tmp_path / "facts.json")
    options = ("--engine", "opencv,torch", "--engine", "openvino", "--gradients", "--steps", "2")
    assert run("parity", files / "fcn8s.safetensors", files / "a.png", *options, *written) == 0
    out, err = capsys.readouterr()
    assert "parity of fcn8s holds" in out
    for what in ("blob", "gradient", "loss in PyTorch", "parameter"):
        assert f"a.png: worst {what}" in out
    assert "without a backward pass, so not in gradients and steps: OpenVINO, OpenCV\n" in out
    assert not err
    facts = json.loads((tmp_path / "facts.json").read_text())
    jsonschema.validate(facts, SCHEMA)
    assert json.loads((tmp_path / "p.json").read_text()) == facts
    labels = ["PyTorch", "OpenVINO (torch export)", "OpenVINO (Keras export)", "OpenCV", "PyTorch (default kernels)"]
    assert facts["columns"] == labels == [column.label for column in columns(("torch", "openvino", "opencv"))]
    assert set(facts["engines"]) == set(names)
    (found,) = facts["comparisons"]
    assert all(list(blob["errors"]) == labels for blob in found["blobs"])
    trained = [one["name"] for one in found["gradients"]]
    assert trained[-1] == "loss"
    assert [one["name"] for one in found["parameters"]] == trained
    assert len(trained) == 1 + 36
    assert all(list(one["errors"]) == ["PyTorch"] for one in (*found["gradients"], *found["parameters"]))
    assert all(one["largest"] > 0 for one in (*found["gradients"], *found["parameters"])), "zeros compare nothing"
    assert len(found["losses"]["PyTorch"]) == 2
    assert found["losses"]["float64 (numpy)"][1] < found["losses"]["float64 (numpy)"][0], "it learns"
    assert set(found["disagreements"]) == set(labels)
    root = ElementTree.parse(tmp_path / "p.xml").getroot()
    cases = len(found["blobs"]) * len(labels) + 2 * len(trained)
    assert (root.tag, root.get("tests"), root.get("failures")) == ("testsuites", str(cases), "0")
    assert len(root.findall("./testsuite/testcase")) == cases
    page = (tmp_path / "p.html").read_text()
    verdict = "Equal: every blob of every engine and every gradient and parameter after the steps of PyTorch is within"
    assert verdict in page
    assert "not in gradients and steps: OpenVINO, OpenCV<" in page
    assert not re.search(r"""(src|href)="(?!data:|#)""", page), "self-contained"
    assert page.index('class="verdict') < page.index("<table")


def test_help_names_every_engine(capsys: pytest.CaptureFixture) -> None:
    assert run("parity", "--help") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in contestants.NAMES)


def test_images_of_one_name_are_told_apart(files: Path, tmp_path: Path) -> None:
    images = [tmp_path / "a/same.png", tmp_path / "b/same.png", tmp_path / "b/other.png"]
    for number, image in enumerate(images):
        image.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 33), (90 * number, 80, 70)).save(image)
    result = segtwin_engines.parity(files / "fcn8s.safetensors", images, engines="opencv", say=lambda line: None)
    result.write_junit(tmp_path / "p.xml")
    suites = [suite.get("name") for suite in ElementTree.parse(tmp_path / "p.xml").getroot()]
    assert suites == [str(images[0]), str(images[1]), "other.png"]


@pytest.mark.parametrize("name", ["unet-small", "unet-milesial"])
def test_a_single_output_is_named_as_what_it_is(name: str, tmp_path: Path) -> None:
    """A probability where a sigmoid ends the network, else a logit; of the class beside the background."""
    weights = segtwin_weights.initialize(name, num_classes=1, in_channels=1, widths=(2, 3, 4, 5, 6), seed=1)
    weights.metadata["classes"] = ["nothing", "something"]
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (64, 64), np.uint8)).save(tmp_path / "a.png")
    result = segtwin_engines.parity(
        weights, tmp_path / "a.png", preprocessing=Preprocessing(), engines="torch", say=lambda line: None
    )
    result.write_report(tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    sigmoid = get_architecture(name).sigmoid
    assert ("Probabilities of the middle pixel" in page) == sigmoid
    assert ("Logits of the middle pixel" in page) != sigmoid
    assert "<td>something</td>" in page
    assert "<td>nothing</td>" not in page
    assert f"the float64 run is from {'one half' if sigmoid else 'zero'}" in page
    (found,) = result.comparisons
    view = found.views["float64 (numpy)"]
    np.testing.assert_array_equal(view.labels, view.logits >= (0.5 if sigmoid else 0))
    box = page[page.index('"synthetic"') : page.index("for the comparison seeded probe values")]
    assert len(result.probed) > 20
    assert sum(probe in box for probe in result.probed) == 4
    assert all(probe in page for probe in result.probed)


def test_the_numbers_of_the_pictures_scales_are_whole() -> None:
    """Of many engines, too."""
    random = np.random.default_rng(0)
    views = {
        name: View(np.zeros((60, 90), np.uint8), random.uniform(-60, 50, (60, 90)), random.uniform(0, 1, (60, 90)))
        for name in ("float64 (numpy)", *"abcdefghi")
    }
    picture = random.integers(0, 256, (60, 90, 3), np.uint8)
    found = Comparison("a.png", (60, 90), [], [], [], {}, {}, {}, {}, picture, 0, views)
    with Image.open(io.BytesIO(draw(found, "logit", "0", False))) as drawn:
        assert (np.asarray(drawn.convert("L"))[-3:] == 255).all(), "something is cut off below"


def test_a_network_that_ends_with_a_sigmoid_and_json_alone(files: Path, capsys: pytest.CaptureFixture) -> None:
    """By Keras alone: its loss is the cross-entropy of the sigmoids."""
    options = ("--engines", "keras", "--gradients", "--json", "-", "--quiet")
    assert run("parity", files / "unet-small.safetensors", files / "grey.png", *options) == 0
    facts = json.loads(capsys.readouterr().out)
    jsonschema.validate(facts, SCHEMA)
    assert facts["columns"] == ["Keras", "Keras (default kernels)"]
    assert "torch" not in facts["versions"]
    (found,) = facts["comparisons"]
    assert found["parameters"] == []
    assert found["solver"] is None
    assert len(found["gradients"]) > 40


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--engine", "tensorrt"), "there is no engine 'tensorrt' to compare"),
        (("--engine", "kearas"), "did you mean keras?"),
        (("--engine", "oracle"), "what the engines are compared with"),
        (("--engine", "opencv", "--gradients"), "none of the engines opencv has a backward pass"),
        (("--engine", "openvino,opencv", "--steps", "1"), "torch, keras and caffe have"),
        (("--engine", "torch", "--torch-onnx", "fcn8s.safetensors"), "no ONNX file"),
        (("--base-lr", "0.1"), "say how many steps"),
        (("--steps", "1", "--base-lr", "0"), "base_lr is above 0"),
        (("--steps", "0"), "0"),
        (("--junit", "."), "folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_refused_in_one_line(
    options: tuple[str, ...], said: str, files: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    assert run("parity", "fcn8s.safetensors", "a.png", *options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize("options", [{"engines": ["kearas"]}, {"engines": ["opencv"], "gradients": True}])
def test_a_wrong_option_is_refused_before_the_weights_are_read(
    options: dict, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "read_network", lambda *_: pytest.fail("read"))
    with pytest.raises(ValueError, match="engine"):
        segtwin_engines.parity(files / "fcn8s.safetensors", files / "a.png", **options)


def test_opencv_and_caffe_take_weights_of_float64() -> None:
    weights = weights_of("fcn32s")
    double = Weights({name: blob.astype(np.float64) for name, blob in weights.items()}, weights.metadata)
    data = np.random.default_rng(6).uniform(-120, 130, (1, 3, 33, 40)).astype(np.float32)
    for name in ("opencv", *(["caffe"] if not missing("caffe") else [])):
        one, other = (segtwin_engines.load(held, name).scores(data) for held in (weights, double))
        np.testing.assert_array_equal(one, other)


def test_an_export_that_nobody_would_run_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x.onnx: none of the engines torch, opencv runs an export"):
        check_options(("torch", "opencv"), {"torch": "x.onnx", "keras": None}, training=False)


def test_engines_of_caffes_layers_refuse_other_networks(files: Path) -> None:
    with pytest.raises(ValueError, match="unet-small: opencv runs networks of Caffe's layers alone"):
        segtwin_engines.parity(files / "unet-small.safetensors", files / "grey.png", engines=["opencv"])


# ---------------------------------------------------------------------- what the comparison can see


def case(name: str) -> tuple[Architecture, Weights, tuple[np.ndarray, np.ndarray]]:
    architecture, weights = get_architecture(name), weights_of(name)
    size = (33, 40) if name.startswith("fcn") else (32, 64)
    low, high = (-120, 130) if name.startswith("fcn") else (0, 1)
    data = np.random.default_rng(4).uniform(low, high, (1, architecture.in_channels, *size)).astype(np.float32)
    output = segtwin_engines.load(weights, "oracle", network=name, preprocessing=Preprocessing()).scores(data)
    return architecture, weights, (data, drawn_label(architecture, output))


def reversed_order(
    architecture: Architecture, weights: Weights, change: Callable[[dict], dict] = lambda slopes: slopes
) -> Contestant:
    """An honest engine in float32 that rounds in its own way (its image and weights are mirrored in the channels of the
    first layer), with a bug in its gradients."""
    first = next(one.name for one in architecture.parameters() if one.name.endswith("weight"))

    def flipped(held: dict) -> dict:
        return {**held, first: np.ascontiguousarray(held[first][:, ::-1])}

    def gradients(data: np.ndarray, label: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        turned = np.ascontiguousarray(data[:, ::-1])
        loss, slopes = backward.gradients(
            architecture, flipped(dict(weights)), turned, label, loss_of(architecture, weights), "float32"
        )
        return loss, change(flipped(slopes))

    def steps(given: list, **options: float) -> tuple[list[float], dict[str, np.ndarray]]:
        from segtwin.solver import Solver

        ((data, label),) = given[0]
        momentum = options["momentum"] if change({"": 1}) == {"": 1} else 0.9
        solver = Solver(**{**options, "momentum": momentum})
        return numpy_steps(architecture, weights, (data, label), len(given), solver, "float32")

    return Contestant("PyTorch", lambda data: {}, gradients, steps)


@pytest.mark.parametrize("name", ["fcn16s", "unet-small", "vggfcn32"])
def test_a_gradient_a_thousandth_off_is_seen(name: str) -> None:
    """And an honest engine is not blamed."""
    architecture, weights, pair = case(name)
    culprit = next(one for one in architecture.parameters() if one.lr_mult and one.name.endswith("bias")).name

    def wrong(slopes: dict) -> dict:
        return {**slopes, culprit: slopes[culprit] * 1.001}

    honest = reversed_order(architecture, weights)
    liar = reversed_order(architecture, weights, wrong)
    liar.label = "Keras"
    found = gradients_compared(architecture, weights, pair, [honest, liar], lambda text: None)
    assert {one.name: one.missed_by for one in found.gradients if one.missed_by} == {culprit: ["Keras"]}
    assert all(one.errors["PyTorch"] < 4 for one in found.gradients)


def test_another_momentum_is_seen() -> None:
    architecture, weights, pair = case("fcn16s")
    honest, liar = (
        reversed_order(architecture, weights, change) for change in (lambda slopes: slopes, lambda slopes: {"": 2})
    )
    liar.label = "Keras"
    found = steps_compared(architecture, weights, pair, 2, None, [honest, liar], lambda text: None)
    assert found.solver is not None
    assert found.solver.base_lr == first_step(architecture, weights, pair)
    missed = [one.name for one in found.parameters if one.missed_by]
    assert "score_fr/bias" in missed
    assert all(one.missed_by in ([], ["Keras"]) for one in found.parameters)


def test_disagreements_are_told_with_their_margins() -> None:
    output = np.zeros((1, 3, 2, 2))
    output[0, :, 0, 0], output[0, :, 1, 1] = (5, 1, 3), (0, 1, 4)
    margins = margins_of(output)
    assert margins[0].tolist() == [[2, 0], [0, 3]]
    exact = output[0].argmax(0)
    found = disagreement(exact, np.array([[2, 0], [0, 0]]), margins[0])
    assert (found.pixels, found.share, found.largest_margin) == (2, 0.5, 3)
    assert found.worst == [(1, 1, 2, 0, 3.0), (0, 0, 0, 2, 2.0)]
    assert disagreement(exact, exact, margins[0]).worst == []
    assert margins_of(np.full((1, 1, 1, 1), 0.75)).item() == 0.25


# -------------------------------------------------------------------------------------- live Caffe


@pytest.mark.skipif(bool(missing("caffe")), reason="pycaffe is not installed")
@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce", "unet-paper"])
def test_caffe_itself_is_an_engine(name: str, tmp_path: Path) -> None:
    """Forward, backward and solver, from the files that this project writes."""
    architecture, weights = get_architecture(name), weights_of(name)
    size = (188, 204) if name == "unet-paper" else (33, 40)
    shape = size if architecture.in_channels == 1 else (*size, 3)
    Image.fromarray(np.random.default_rng(5).integers(0, 256, shape, np.uint8)).save(tmp_path / "a.png")
    result = segtwin_engines.parity(
        weights, tmp_path / "a.png", engines=["caffe"], gradients=True, steps=2, say=lambda line: None
    )
    assert result.labels == ["Caffe"]
    assert result.equal, result.comparisons[0].verdict
    assert len(result.comparisons[0].parameters) == len(result.comparisons[0].gradients) > 30


@pytest.mark.skipif(bool(missing("caffe")), reason="pycaffe is not installed")
def test_the_goldens_are_what_caffe_computes() -> None:
    import subprocess
    import sys

    script = Path(recipe.__file__).parent / "make_caffe.py"
    names = ("fwd_tiny_fcn8s_s1_c21_1x33x64", "tiny_vgg16_s1_v2", "train_tiny_fcn8s_s1_lr1e-10_iter2")
    done = subprocess.run([sys.executable, script, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == len(names)


def test_caffe_is_there_by_default_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contestants, "missing", lambda name: [])
    monkeypatch.setattr(contestants, "require", lambda *names, purpose: None)
    assert contestants.chosen(None, get_architecture("fcn8s")) == ("torch", "keras", "onnxruntime", "caffe")
    assert contestants.chosen(None, get_architecture("unet")) == ("torch", "keras", "onnxruntime")
