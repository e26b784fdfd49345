"""How inputs were made belongs to the weights: stated, proven by the numbers, or assumed and said
so."""

import json

import numpy as np
import onnx
import pytest
import segtwin
import segtwin_keras
import segtwin_torch
import segtwin_weights
import torch
import torchvision
from goldens import TINY
from PIL import Image
from segtwin import Preprocessing
from segtwin.architectures import get_architecture
from segtwin_cli.main import main
from segtwin_weights import Weights, WeightsError, metadata, plausibility
from segtwin_weights.mappings import names

OXFORD = (0.429470569, 0.550379455, 0.480015397)
"""B, G, R of the first filter's corner, as keras.applications' VGG16 prints it."""
MEAN = [103.939, 116.779, 123.68]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code or 0


def state_dict(first: tuple[float, ...] | None = None, factor: float = 1.0) -> dict[str, torch.Tensor]:
    """Of torchvision's class, narrow, with numbers of a training's size."""
    c1, c2, c3, c4, c5, fc6, fc7 = TINY
    torch.manual_seed(3)
    layers = [c1, c1, "M", c2, c2, "M", c3, c3, c3, "M", c4, c4, c4, "M", c5, c5, c5, "M"]
    model = torchvision.models.VGG(torchvision.models.vgg.make_layers(layers), init_weights=False)
    for i, (inputs, outputs) in {0: (49 * c5, fc6), 3: (fc6, fc7), 6: (fc7, 30)}.items():
        model.classifier[i] = torch.nn.Linear(inputs, outputs)
    state = model.state_dict()
    state["features.0.weight"] = torch.randn(c1, 3, 3, 3) * 0.3 * factor
    if first is not None:
        state["features.0.weight"][0, :, 0, 0] = torch.tensor(first)
    return state


# ---------------------------------------------------------------------------------------- the value


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (Preprocessing("BGR", MEAN), lambda rgb: rgb[..., ::-1] - MEAN),
        (Preprocessing("rgb", 0.5, 0.5, 1 / 255), lambda rgb: (rgb / 255 - 0.5) / 0.5),
        (Preprocessing("RGB", (1, 2, 3), (4, 5, 6), 0.25), lambda rgb: (rgb * 0.25 - [1, 2, 3]) / [4, 5, 6]),
        (Preprocessing("BGR", (1, 2, 3), (4, 5, 6)), lambda rgb: (rgb[..., ::-1] - [1, 2, 3]) / [4, 5, 6]),
    ],
)
def test_a_preprocessing_is_one_formula(value: Preprocessing, want) -> None:
    image = np.random.default_rng(1).integers(0, 256, (6, 5, 3), np.uint8)
    got = segtwin.preprocess(image, value)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want(image.astype(np.float64)).transpose(2, 0, 1)[None], rtol=1e-5, atol=1e-5)
    assert Preprocessing.from_dict(json.loads(json.dumps(value.asdict()))) == value


def test_values_0_to_1_are_torchvisions() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, axis=2)
    want = torchvision.transforms.functional.to_tensor(Image.fromarray(image)).numpy()[None]
    np.testing.assert_array_equal(segtwin.preprocess(image, Preprocessing(scale=1 / 255)), want)


@pytest.mark.parametrize(
    "wrong",
    [
        {"colour": "cmyk"}, {"std": 0}, {"std": (1, -1, 1)}, {"mean": float("nan")}, {"mean": "abc"}, {"scale": 0},
        {"scale": float("inf")},
        {"bits": 0}, {"bits": 8.5}, {"std": float("nan")}, {"mean": None},
    ],
)  # fmt: skip
def test_nonsense_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Preprocessing(**wrong)
    with pytest.raises(WeightsError, match="preprocessing cannot be used"):
        metadata.stated({"preprocessing": {"colour": "RGB", **wrong}})


def test_a_divisor_in_place_of_a_scale_is_said() -> None:
    with pytest.warns(segtwin.Converted, match="taken for a divisor"):
        assert Preprocessing(scale=255).scale == 1 / 255


# -------------------------------------------------------------------- names and numbers of a VGG-16


@pytest.mark.parametrize("first", [OXFORD, OXFORD[::-1]], ids=["BGR", "RGB"])
def test_oxfords_numbers_under_torchvisions_names_are_not_turned_silently(first, tmp_path) -> None:
    torch.save(state_dict(first), tmp_path / "vgg16_from_caffe.pth")
    read = segtwin_weights.read(tmp_path / "vgg16_from_caffe.pth", raw=True)
    with pytest.raises(WeightsError, match=r"vgg16_from_caffe.pth: torchvision names say RGB.*Oxford.*--colour bgr"):
        segtwin_weights.convert(read, to="fcn8s", num_classes=5)
    told = segtwin_weights.convert(read, to="fcn8s", num_classes=5, preprocessing=Preprocessing("BGR", MEAN))
    np.testing.assert_array_equal(told["conv1_1/weight"], read["features.0.weight"])
    np.testing.assert_array_equal(told["conv1_1/bias"], read["features.0.bias"])
    assert told.metadata["preprocessing"]["colour"] == "BGR"
    as_rgb = segtwin_weights.convert(read, to="fcn8s", num_classes=5, preprocessing=Preprocessing("RGB", MEAN[::-1]))
    np.testing.assert_array_equal(as_rgb["conv1_1/weight"], read["features.0.weight"][:, ::-1])


def test_inputs_of_hundreds_show_in_the_norm(tmp_path) -> None:
    """torchvision's training, folded for 0..255: the names are contradicted."""
    torch.save(state_dict(factor=1 / 57), tmp_path / "folded.pth")
    read = segtwin_weights.read(tmp_path / "folded.pth")
    with pytest.raises(WeightsError, match=r"folded.pth.*inputs of hundreds"):
        segtwin_weights.convert(read, to="fcn8s", num_classes=5)
    with pytest.raises(WeightsError, match="inputs of hundreds"):
        segtwin_weights.write(read, tmp_path / "vgg16.npy")
    biases = state_dict(factor=0.5)
    biases["features.0.bias"] = torch.full_like(biases["features.0.bias"], 40.0)
    assert plausibility.training(biases["features.0.weight"].numpy(), biases["features.0.bias"].numpy()).large


def test_no_evidence_is_an_assumption(tmp_path) -> None:
    torch.save(state_dict(), tmp_path / "vgg16.pth")
    read = segtwin_weights.read(tmp_path / "vgg16.pth", raw=True)
    converted = segtwin_weights.convert(read, to="fcn8s", num_classes=5)
    assert "preprocessing" not in converted.metadata
    weight = (
        read["features.0.weight"].astype(np.float64)[:, ::-1]
        / (255 * np.array([0.225, 0.224, 0.229]))[::-1][::-1][:, None, None]
    )
    np.testing.assert_allclose(converted["conv1_1/weight"], weight / 1.0, rtol=0.03)


def test_caffe_names_with_rgb_numbers_are_refused(tmp_path) -> None:
    hub = names.hub_names(Weights({key: value.numpy() for key, value in state_dict(OXFORD[::-1]).items()}))
    caffe = Weights(hub, {"architecture": "vgg16", "source": "rgb.npy"})
    with pytest.raises(WeightsError, match=r"rgb\.npy: names of the Caffe training say BGR.*takes RGB"):
        segtwin_weights.convert(caffe, to="fcn8s", num_classes=5)
    right = Weights({**caffe, "conv1_1/weight": caffe["conv1_1/weight"][:, ::-1]}, caffe.metadata)
    assert segtwin_weights.convert(right, to="fcn8s", num_classes=5).metadata["preprocessing"]["colour"] == "BGR", (
        "the numbers prove it"
    )


def test_options_of_convert(tmp_path, capsys: pytest.CaptureFixture) -> None:
    torch.save(state_dict(OXFORD), tmp_path / "v.pth")
    assert run("convert", tmp_path / "v.pth", tmp_path / "f.safetensors", "--to", "fcn8s", "--num-classes", 5) == 2
    assert "--colour bgr" in capsys.readouterr().err
    assert (
        run(
            "convert",
            tmp_path / "v.pth",
            tmp_path / "f.safetensors",
            "--to",
            "fcn8s",
            "--num-classes",
            5,
            "--colour",
            "bgr",
        )
        == 0
    )
    weights = segtwin_weights.read(tmp_path / "f.safetensors")
    np.testing.assert_array_equal(
        weights["conv1_1/weight"], segtwin_weights.read(tmp_path / "v.pth", raw=True)["features.0.weight"]
    )
    assert run("convert", tmp_path / "f.safetensors", tmp_path / "g.safetensors", "--num-classes", 7) == 2
    assert "goes with --to" in capsys.readouterr().err


# ----------------------------------------------------------------------------- it travels with them


@pytest.mark.parametrize("twin", [segtwin_torch, segtwin_keras])
def test_half_and_half_travels_through_every_file(twin, tmp_path, capsys: pytest.CaptureFixture) -> None:
    """A U-Net trained on (x − 0.5) / 0.5."""
    start = segtwin_weights.initialize("unet", widths=(2, 3, 4, 5, 6), seed=1)
    torch.save({name: torch.from_numpy(blob) for name, blob in start.items()}, tmp_path / "u.pth")
    options = ("--mean", 0.5, "--std", 0.5)
    assert run("convert", tmp_path / "u.pth", tmp_path / "u.safetensors", "--to", "unet", *options) == 0
    want = Preprocessing("RGB", (0.5,), (0.5,), 1 / 255)
    assert metadata.stated(segtwin_weights.read(tmp_path / "u.safetensors")) == want
    model = twin.load(tmp_path / "u.safetensors")
    assert model.preprocessing == want
    twin.export_onnx(model, tmp_path / "u.onnx")
    facts = {prop.key: prop.value for prop in onnx.load(tmp_path / "u.onnx").metadata_props}
    assert Preprocessing.from_dict(json.loads(facts["preprocessing"])) == want
    assert "preprocessing_assumed" not in facts
    assert metadata.stated(segtwin_weights.read(tmp_path / "u.onnx")) == want
    image = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)
    np.testing.assert_allclose(
        segtwin.preprocess(image, model), (image.transpose(2, 0, 1)[None] / 255 - 0.5) / 0.5, rtol=1e-5, atol=1e-6
    )


def test_conversion_of_an_fcn_keeps_its_own(tmp_path) -> None:
    """nyud-fcn32s-color: fcn32s' names, 40 classes, NYUD's mean."""
    nyud = Preprocessing("BGR", (116.190, 97.203, 92.318))
    start = segtwin_weights.initialize("fcn32s", num_classes=40, widths=TINY)
    assert metadata.stated(start) is None, "names alone prove nothing"
    told = segtwin_weights.convert(start, to="fcn16s", preprocessing=nyud)
    again = segtwin_weights.convert(told, to="fcn8s")
    assert metadata.stated(again) == nyud
    assert segtwin_torch.build("fcn8s", weights=again).preprocessing == nyud


def test_files_of_schema_1_are_still_read() -> None:
    told = {"architecture": "resnet34-unet", "colour": "RGB", "mean": [0.485, 0.456, 0.406]}
    assert metadata.stated(told) == get_architecture("resnet34-unet").preprocessing


# ----------------------------------------------------------------- no dimension is read and dropped


@pytest.mark.parametrize("channels", [1, 4, 6])
@pytest.mark.parametrize("target", ["fcn16s", "fcn8s", "fcn8s-atonce"])
def test_channels_follow_the_source(channels: int, target: str) -> None:
    """nyud-fcn32s-color-d takes colour and depth."""
    start = segtwin_weights.initialize("fcn32s", num_classes=5, in_channels=channels, widths=TINY)
    random = np.random.default_rng(0)
    weights = Weights(
        {name: random.standard_normal(blob.shape, np.float32) for name, blob in start.items()}, start.metadata
    )
    converted = segtwin_weights.convert(weights, to=target)
    np.testing.assert_array_equal(converted["conv1_1/weight"], weights["conv1_1/weight"])
    data = random.standard_normal((1, channels, 9, 12), np.float32)
    torch_model, keras_model = (twin.build(target, weights=converted) for twin in (segtwin_torch, segtwin_keras))
    one, two = segtwin_torch.blobs(torch_model, data)["score_fr"], segtwin_keras.blobs(keras_model, data)["score_fr"]
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)
    assert torch_model.conv1_1.weight.shape[1] == channels


def test_a_grey_vgg16_becomes_a_grey_fcn() -> None:
    classifier = segtwin_weights.initialize("vgg16", num_classes=30, in_channels=1, widths=TINY)
    random = np.random.default_rng(0)
    weights = Weights(
        {name: random.standard_normal(blob.shape, np.float32) for name, blob in classifier.items()},
        {"architecture": "vgg16"},
    )
    converted = segtwin_weights.convert(weights, to="fcn8s", num_classes=5)
    np.testing.assert_array_equal(converted["conv1_1/weight"], weights["conv1_1/weight"])
    with pytest.raises(WeightsError, match="fcn8-vgg takes 3 channels"):
        segtwin_weights.convert(weights, to="fcn8-vgg", num_classes=5)


def test_a_trained_layer_of_another_shape_is_named() -> None:
    weights = dict(segtwin_weights.initialize("fcn32s", num_classes=5, widths=TINY))
    weights["conv3_2/weight"] = np.ones((*weights["conv3_2/weight"].shape[:2], 5, 5), np.float32)
    with pytest.raises(WeightsError, match="conv3_2/weight"):
        segtwin_weights.convert(Weights(weights), to="fcn16s")


@pytest.mark.parametrize("twin", [segtwin_torch, segtwin_keras])
def test_a_files_dimensions_are_the_defaults(twin, tmp_path) -> None:
    segtwin_weights.write(
        segtwin_weights.initialize("fcn8s", num_classes=5, in_channels=4, widths=TINY), tmp_path / "five.safetensors"
    )
    for model in (twin.build("fcn8s", weights=tmp_path / "five.safetensors"), twin.load(tmp_path / "five.safetensors")):
        read = twin.read_weights(model)
        assert read["score_fr/weight"].shape[0] == 5
        assert read["conv1_1/weight"].shape[:2] == (TINY[0], 4)
    for argument, says in (
        ({"num_classes": 21}, "num_classes is 21"),
        ({"in_channels": 3}, "in_channels is 3"),
        ({"widths": (1,) * 7}, "widths is"),
    ):
        with pytest.raises(ValueError, match=says):
            twin.build("fcn8s", weights=tmp_path / "five.safetensors", **argument)
    assert twin.build("fcn8s", weights=tmp_path / "five.safetensors", num_classes=5, in_channels=4, widths=TINY)


def test_the_convolutional_vgg16_is_a_classifier() -> None:
    """What the FCN authors started from: fc6 O×I×7×7, fc7 O×I×1×1."""
    random = np.random.default_rng(0)
    start = segtwin_weights.initialize("vgg16", num_classes=30, widths=TINY)
    flat = Weights(
        {name: random.standard_normal(blob.shape, np.float32) for name, blob in start.items()},
        {"architecture": "vgg16"},
    )
    c5, fc6, fc7 = TINY[4], TINY[5], TINY[6]
    shapes = {"fc6/weight": (fc6, c5, 7, 7), "fc7/weight": (fc7, fc6, 1, 1), "fc8/weight": (30, fc7, 1, 1)}
    convolutional = Weights({name: blob.reshape(shapes.get(name, blob.shape)) for name, blob in flat.items()})
    want, got = (segtwin_weights.convert(one, to="fcn32s", num_classes=5) for one in (flat, convolutional))
    for name, blob in want.items():
        np.testing.assert_array_equal(got[name], blob)
    np.testing.assert_array_equal(got["fc6/weight"], convolutional["fc6/weight"])
    headless = Weights({name: blob for name, blob in convolutional.items() if not name.startswith("fc8")})
    with pytest.raises(WeightsError, match=r"no fc8.*--score-init zeros"):
        segtwin_weights.convert(headless, to="fcn32s", num_classes=5)
    zeros = segtwin_weights.convert(headless, to="fcn32s", num_classes=5, score_init="zeros")
    np.testing.assert_array_equal(zeros["fc7/weight"], convolutional["fc7/weight"])


def test_parity_is_measured_on_inputs_as_stated(tmp_path, capsys) -> None:
    """--mean, --std and --scale reach the engines: the largest input is that of numpy's own
    arithmetic, and of a four-channel array likewise."""
    segtwin_weights.write(
        segtwin_weights.initialize("unet-small", widths=(2, 3, 4, 5, 6), seed=1), tmp_path / "u.safetensors"
    )
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 48), np.uint8)).save(tmp_path / "a.png")
    report = tmp_path / "p.json"
    assert (
        run(
            "parity", tmp_path / "u.safetensors", tmp_path / "a.png", "--report", report.with_suffix(".html"), "--quiet"
        )
        == 0
    )
    assert "assumed" in json.loads(report.read_text())["preprocessing"]
    options = ("--report", report.with_suffix(".html"), "--overwrite", "--mean", "0.5", "--std", "0.25")
    assert run("parity", tmp_path / "u.safetensors", tmp_path / "a.png", *options) == 0
    assert "does not state" not in capsys.readouterr().err
    facts = json.loads(report.read_text())
    assert facts["weights"]["preprocessing"] == {
        "colour": "grey",
        "mean": [0.5],
        "std": [0.25],
        "scale": 1 / 255,
        "bits": 8,
    }
    assert "assumed" not in facts["preprocessing"]
    assert "0.25" in facts["preprocessing"]


def test_parity_takes_arrays_of_any_channels(tmp_path) -> None:
    """RGB and depth as the user's own array, for a network of four channels."""
    weights = segtwin_weights.initialize("fcn32s", widths=TINY, in_channels=4, num_classes=3, seed=1)
    segtwin_weights.write(weights, tmp_path / "d.safetensors")
    np.save(tmp_path / "a.npy", np.random.default_rng(1).integers(0, 256, (33, 41, 4), np.uint8))
    assert (
        run(
            "parity",
            tmp_path / "d.safetensors",
            tmp_path / "a.npy",
            "--report",
            tmp_path / "p.html",
            "--mean",
            "1,2,3,4",
        )
        == 0
    )
    assert json.loads((tmp_path / "p.json").read_text())["comparisons"][0]["size"] == [33, 41]


@pytest.mark.parametrize("options", [("--mean", "0.5,0.5"), ("--std", "1,1,1"), ("--colour", "rgb")], ids=" ".join)
@pytest.mark.parametrize("command", ["convert", "export", "predict", "parity"])
def test_numbers_for_other_channels_are_refused(command, options, tmp_path, capsys) -> None:
    """By every command alike, before anything is written: of a network of one channel there is one
    mean."""
    segtwin_weights.write(
        segtwin_weights.initialize("unet-small", widths=(2, 3, 4, 5, 6), seed=1), tmp_path / "u.safetensors"
    )
    Image.fromarray(np.zeros((32, 48), np.uint8)).save(tmp_path / "a.png")
    rest = {
        "convert": (tmp_path / "o.safetensors",),
        "export": (tmp_path / "o.onnx", "--framework", "torch"),
        "predict": (tmp_path / "a.png", "-o", tmp_path / "o"),
        "parity": (tmp_path / "a.png", "--report", tmp_path / "o.html"),
    }[command]
    assert run(command, tmp_path / "u.safetensors", *rest, *options) == 2
    assert options[0] in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.glob("o*"))


TORCHVISION = (-0.5537, 0.1755, 0.3130)
"""R, G, B of the corner of features.0's first filter in torchvision's vgg16 IMAGENET1K_V1, as
notebooks print it."""


def network(name: str, first: tuple[float, ...], path) -> None:
    weights = dict(segtwin_weights.initialize(name, widths=TINY, seed=1))
    conv = "vgg16.features.0.weight" if name.startswith("vggfcn") else "conv1_1/weight"
    weights[conv] = (np.random.default_rng(1).normal(size=weights[conv].shape) * 0.3).astype(np.float32)
    weights[conv][0, :, 0, 0] = first
    if path.suffix == ".pth":
        torch.save(
            {key: torch.from_numpy(np.array(blob)) for key, blob in names.state_dict_names(Weights(weights)).items()},
            path,
        )
    else:
        segtwin_weights.write(Weights(weights, {"architecture": name}), path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("name", "first", "good"),
    [
        ("fcn32s", OXFORD, True),
        ("fcn32s", OXFORD[::-1], False),
        ("fcn16s", TORCHVISION, False),
        ("fcn8s", TORCHVISION[::-1], False),
        ("fcn8-vgg", OXFORD, True),
        ("fcn8-vgg", OXFORD[::-1], False),
        ("fcn8-vgg", TORCHVISION, False),
        ("vggfcn8", TORCHVISION, True),
        ("vggfcn16", TORCHVISION[::-1], False),
        ("vggfcn32", OXFORD, False),
        ("vggfcn8", OXFORD[::-1], False),
    ],
)
def test_networks_are_asked_what_vgg16s_are_asked(name: str, first, good: bool, suffix: str, tmp_path, capsys) -> None:
    """The names say how the inputs are made; first filters of a known training that say otherwise
    are a refusal until the user says it."""
    path, image = tmp_path / f"w{suffix}", tmp_path / "x.png"
    network(name, first, path)
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)).save(image)
    to = {"fcn32s": "fcn16s", "fcn16s": "fcn8s", "fcn8s": "fcn8s"}.get(name, name)
    for command in (
        ("convert", path, tmp_path / "out.safetensors", "--to", to),
        ("predict", path, image, "-o", tmp_path / "out", "--engine", "oracle"),
    ):
        if good:
            assert run(*command) == 0
            assert "assumed" in capsys.readouterr().err
            continue
        assert run(*command) == 2
        said = capsys.readouterr().err
        assert "begins" in said
        assert "--colour" in said
        assert "Traceback" not in said
        assert run(*command, "--colour", "rgb") == 0  # the user's word settles it
        capsys.readouterr()
    assert run("inspect", path, "--check") == (0 if good else 1)
    assert ("WRONG ORDER" in capsys.readouterr().out) is not good


def test_a_turned_first_layer_is_called_turned(tmp_path, capsys) -> None:
    torch.save(state_dict(), tmp_path / "vgg.pth")
    assert run("convert", tmp_path / "vgg.pth", tmp_path / "x.safetensors", "--to", "fcn32s") == 0
    said = capsys.readouterr().out
    assert "2 turned" in said
    assert "26 copied" in said or "24 copied" in said


def test_channels_beyond_three_have_no_colours(tmp_path, capsys) -> None:
    segtwin_weights.write(
        Weights(segtwin_weights.initialize("fcn32s", in_channels=4, widths=TINY), {"architecture": "fcn32s"}),
        tmp_path / "w.pth",
    )
    with pytest.raises(WeightsError, match="mean and deviation"):
        names.turned(
            Weights({"conv1_1/weight": np.ones((2, 4, 3, 3)), "conv1_1/bias": np.ones(2)}, {"names": "torchvision"}),
            names.OXFORD_INPUTS,
        )
    for command in ("convert", "export"):
        out = tmp_path / ("x.caffemodel" if command == "convert" else "x.onnx")
        assert (
            run(
                command,
                tmp_path / "w.pth",
                out,
                "--colour",
                "bgr",
                *(("--framework", "torch") if command == "export" else ()),
            )
            == 2
        )
        assert "keep the order" in capsys.readouterr().err
    assert run("inspect", tmp_path / "w.pth") == 0
    assert "inputs: 4 channels as the image has them, values 0..255 (assumed" in " ".join(
        capsys.readouterr().out.split()
    )
    assert run("convert", tmp_path / "w.pth", tmp_path / "x.caffemodel") == 0
    assert "4 channels as the image has them, values 0..255" in (tmp_path / "x.deploy.prototxt").read_text()
    assert run("export", tmp_path / "w.pth", tmp_path / "x.onnx", "--framework", "torch") == 0
    facts = {one.key: one.value for one in onnx.load(tmp_path / "x.onnx").metadata_props}
    assert "4 channels as the image has them, values 0..255" in facts["input"]
    assert json.loads(facts["preprocessing"])["mean"] == [0.0]
    np.save(tmp_path / "x.npy", np.zeros((32, 32, 4), np.uint8))
    capsys.readouterr()
    assert run("predict", tmp_path / "w.pth", tmp_path / "x.npy", "-o", tmp_path / "out", "--engine", "oracle") == 0
    assert "4 channels as the image has them, values 0..255" in " ".join(capsys.readouterr().err.split())
