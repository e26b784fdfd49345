"""Ports that are wrong in known ways, and what `segtwin diagnose` says of them."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import conftest  # noqa: F401 - torch before TensorFlow
import numpy as np
import pytest
import segtwin_engines
import segtwin_keras
import segtwin_weights
import torch
from broken_ports import FCN, UNET, FCN8s, UNet, build, weights_of
from segtwin_cli.main import main
from segtwin_engines.ports import Port, PortError, open_port

WHERE = {
    "rgb": "conv1_1", "floor": "pool1", "no_relu_conv3_2": "conv3_2", "fc6_hwc": "fc6", "crop9_early": "score_pool3c",
    "softmax": "score", "dropout": "fc6", "pad_at_conv1_2": "conv1_1", "off_diagonal": "upscore2",
    "fuse_mean": "fuse_pool4", "dropout_scaled": "fc6", "half": "conv1_1", "relu6": "conv1_1", "pool_3x3": "pool1",
    "biases_swapped": "conv4_1", "half_weights": "conv1_1", "reflect_conv4_2": "conv4_2", "crop5_row": "score_pool4c",
    "log_softmax": "score", "skip_conv4_2": "score_pool4",
    "output_transposed": "score", "other_conv4_2": "conv4_2", "transposed_image": "conv1_1",
}  # fmt: skip


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(one) for one in arguments])
    return int(stopped.value.code or 0)


def function_of(module: torch.nn.Module) -> Port:
    return Port.of_function(lambda x: module(torch.from_numpy(x.copy())).detach().numpy())


@pytest.mark.parametrize("bug", WHERE)
def test_a_bug_is_named_and_placed(bug: str) -> None:
    module, weights = build("fcn8s", bug)
    found = segtwin_engines.diagnose(module, "fcn8s", weights)
    assert (found.verdict, [cause.id for cause in found.causes]) == ("differs", [FCN[bug]])
    assert found.first_difference == WHERE[bug]
    assert found.causes[0].text in found.explanation
    assert found.reproduced is (None if bug in ("dropout", "half") else True)


@pytest.mark.parametrize("bug", ["rgb", "crop31_early", "fc6_hwc", "transposed_image"])
def test_a_port_that_is_a_function_alone(bug: str) -> None:
    module, weights = build("fcn8s", bug)
    found = segtwin_engines.diagnose(function_of(module), "fcn8s", weights, patience=600)
    assert [cause.id for cause in found.causes] == [FCN[bug]]
    assert found.reproduced


def test_an_image_that_is_turned_and_scores_that_are_turned_back() -> None:
    module, weights = build("fcn8s", "transposed_and_back")
    found = segtwin_engines.diagnose(module, "fcn8s", weights)
    assert ([cause.id for cause in found.causes], found.first_difference) == (["input_transposed"], "conv1_1")
    found = segtwin_engines.diagnose(function_of(module), "fcn8s", weights)
    assert [cause.id for cause in found.causes] == ["kernel_transposed"]  # it computes the same


@pytest.mark.parametrize("bug", UNET)
def test_a_unet(bug: str) -> None:
    module, weights = build("unet", bug)
    before = [one.clone() for one in module.buffers()]
    found = segtwin_engines.diagnose(module, "unet", weights)
    assert [cause.id for cause in found.causes] == [UNET[bug]]
    assert all(torch.equal(a, b) for a, b in zip(before, module.buffers(), strict=True))


def test_two_bugs_of_which_one_lies_behind_the_other() -> None:
    module, weights = build("fcn8s", "floor", "no_relu_conv3_2", "crop31_early")
    found = segtwin_engines.diagnose(module, "fcn8s", weights)
    assert [cause.id for cause in found.causes] == ["floor_pooling", "relu_missing", "crop_offset"]
    assert [cause.layer for cause in found.causes] == ["pool1", "conv3_2", "score"]
    assert found.reproduced


def test_two_bugs_in_one_place_of_a_function_alone() -> None:
    module, weights = build("fcn8s", "off_diagonal", "floor")
    found = segtwin_engines.diagnose(function_of(module), "fcn8s", weights, patience=600)
    assert {cause.id for cause in found.causes} == {"deconv_off_diagonal", "floor_pooling"}


@pytest.mark.parametrize("bug", ["fc_leaky", "dropout_scaled_twice"])
def test_one_mistake_in_two_layers(bug: str) -> None:
    module, weights = build("fcn8s", bug)
    found = segtwin_engines.diagnose(module, "fcn8s", weights)
    assert [(cause.id, cause.layer) for cause in found.causes] == [(FCN[bug], "fc6"), (FCN[bug], "fc7")]
    assert found.first_difference == "fc6"
    assert found.reproduced


@pytest.mark.parametrize("bug", ["eps", "root", "relu_first"])
def test_batchnorm_that_an_exporter_folded_into_its_convolution(bug: str, tmp_path: Path) -> None:
    module, weights = build("unet", bug)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(1, 3, 64, 96),), tmp_path / "port.onnx", dynamo=True, verbose=False)
    found = segtwin_engines.diagnose(tmp_path / "port.onnx", "unet", weights)
    assert ([cause.id for cause in found.causes], found.reproduced) == ([UNET[bug]], True)
    assert found.first_difference == "conv1.conv.1"


@pytest.mark.parametrize(("network", "first", "layers"), [("fcn8s", "conv1_1", 18), ("unet", "conv1.conv.0", 41)])
def test_a_port_with_other_weights_is_right_but_for_them(network: str, first: str, layers: int) -> None:
    module, _ = build(network, seed=2)
    found = segtwin_engines.diagnose(module, network, weights_of(network, seed=1), patience=1)
    assert ([cause.id for cause in found.causes], found.first_difference) == (["weights_other"], first)
    assert found.explanation.count(f"{layers} layers ({first}") == 1
    assert found.reproduced


def test_other_weights_that_cannot_be_read_differ_from_the_first_layer_on(tmp_path: Path) -> None:
    module, _ = build("fcn8s", seed=2)
    data = np.random.default_rng(0).standard_normal((1, 3, 33, 46)).astype(np.float32)
    values = open_port(module, 3).values(data)
    np.savez(tmp_path / "port.npz", data=data, **values, out=module(torch.from_numpy(data)).numpy())
    found = segtwin_engines.diagnose(tmp_path / "port.npz", "fcn8s", weights_of("fcn8s", seed=1), patience=1)
    assert (found.first_difference, found.causes) == ("conv1_1", [])
    assert any(
        note.startswith("nothing in the port is what the weights of conv1_1, conv1_2 make") for note in found.notes
    )


@pytest.mark.parametrize("kind", ["onnx", "pt2", "script", "keras"])
def test_one_layer_with_other_weights(kind: str, tmp_path: Path) -> None:
    weights = weights_of("unet")
    wrong = {**weights, "conv4.conv.3.weight": weights_of("unet", seed=2)["conv4.conv.3.weight"]}
    wrong["conv10.bias"] = np.zeros_like(weights["conv10.bias"])
    wrong["conv8.conv.1.running_var"] = weights["conv8.conv.1.running_var"] * np.float32(1.001)
    example = torch.zeros(1, 3, 64, 96)
    port = tmp_path / f"port.{kind}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "keras":
            segtwin_keras.build("unet", widths=(4, 5, 6, 7, 8), weights=wrong).save(port)
        elif kind == "onnx":
            torch.onnx.export(UNet(wrong), (example,), port, dynamo=False, training=torch.onnx.TrainingMode.PRESERVE)
        elif kind == "pt2":
            torch.export.save(torch.export.export(UNet(wrong), (example,)), port)
        else:
            torch.jit.save(torch.jit.trace(UNet(wrong), example), port)
    found = segtwin_engines.diagnose(port, "unet", weights)
    assert [cause.id for cause in found.causes] == ["weights_other", "scaled", "weights_zero"], found.explanation
    assert [cause.layer for cause in found.causes[:2]] == ["conv4.conv.3", "conv8.conv.1"]
    assert found.reproduced
    assert "conv4.conv.3.weight, " in found.explanation


def test_an_output_that_is_laid_out_otherwise_is_equal_and_said_to_be_so() -> None:
    module, weights = build("fcn8s")
    for turned, words in (
        (lambda x: x.transpose(0, 2, 3, 1), "has its channels last"), (lambda x: x[0], "has fewer axes"),
        (lambda x: x[0].transpose(1, 2, 0), "has its channels last and fewer axes"),
    ):  # fmt: skip
        port = Port.of_function(lambda x, turned=turned: turned(function_of(module).run(x)[0]))
        found = segtwin_engines.diagnose(port, "fcn8s", weights)
        assert found.equal
        assert len(found.notes) == 1
        assert words in found.notes[0]
    assert segtwin_engines.diagnose(module, "fcn8s", weights).notes == []


@pytest.mark.parametrize("network", ["fcn8s", "unet"])
def test_an_output_that_does_not_depend_on_the_image_proves_no_cause(network: str) -> None:
    module, weights = build(network)
    constant = Port.of_function(lambda x: np.full_like(function_of(module).run(x)[0], 0.5))
    found = segtwin_engines.diagnose(constant, network, weights, patience=1)
    assert (found.verdict, found.causes, found.reproduced) == ("differs", [], None)
    assert any(note.startswith("the port's output is the same on another input") for note in found.notes)


def test_a_mistake_in_the_last_layer_is_named_though_the_output_is_constant() -> None:
    class Classes(FCN8s):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).argmax(1, keepdim=True).float()

    weights = weights_of("fcn8s")
    weights["score_fr/bias"] = weights["score_fr/bias"] + np.float32([1e4, 0, 0, 0, 0])
    found = segtwin_engines.diagnose(Classes(weights).eval(), "fcn8s", weights)
    assert [cause.id for cause in found.causes] == ["argmax"]


def test_an_output_that_is_not_a_number_is_followed_to_where_it_begins() -> None:
    module, weights = build("unet", "negative_variance")
    found = segtwin_engines.diagnose(module, "unet", weights)
    assert (found.verdict, found.first_difference, found.causes) == ("differs", "conv4.conv.1", [])
    assert found.explanation.startswith("the output is not a number; the first such value of the port is ")


def test_a_program_of_one_size_is_run_at_that_size(tmp_path: Path) -> None:
    module, weights = build("fcn8s", "average")
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 64, 96),)), tmp_path / "port.pt2")
    for port in (tmp_path / "port.pt2", torch.export.load(tmp_path / "port.pt2")):
        found = segtwin_engines.diagnose(port, "fcn8s", weights)
        assert ([cause.id for cause in found.causes], found.inputs) == (["average_pooling"], ["64×96"])


def test_a_right_port_is_equal() -> None:
    for network in ("fcn8s", "unet"):
        module, weights = build(network)
        found = segtwin_engines.diagnose(module, network, weights)
        assert found.equal
        assert found.floors < 1
        assert not found.causes


def test_honest_where_nothing_fits() -> None:
    class Faded(FCN8s):
        def conv(self, x: torch.Tensor, name: str, pad: int = 1, relu: bool = True) -> torch.Tensor:
            return super().conv(x * torch.linspace(1, 2, x.shape[3]) if name == "conv4_1" else x, name, pad, relu)

    weights = weights_of("fcn8s")
    found = segtwin_engines.diagnose(Faded(weights).eval(), "fcn8s", weights, patience=1)
    assert (found.first_difference, found.causes) == ("conv4_1", [])
    assert found.explanation.startswith("differs from conv4_1 on; no known cause")
    assert found.maps is not None


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A port with one bug, a pooling that rounds down, in every kind of file."""
    folder = tmp_path_factory.mktemp("ports")
    module, weights = build("unet", "concat")
    example = torch.zeros(1, 3, 64, 96)
    found = {"weights": folder / "weights.safetensors", "onnx": folder / "port.onnx", "script": folder / "port.pt"}
    segtwin_weights.write(segtwin_weights.Weights(weights, {"architecture": "unet"}), found["weights"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows, columns = (torch.export.Dim(name, min=2, max=32) for name in ("rows", "columns"))
        sizes = {"x": {2: 16 * rows, 3: 16 * columns}}
        program = torch.export.export(module, (example,), dynamic_shapes=sizes)
        torch.onnx.export(program, (example,), found["onnx"], dynamo=True, verbose=False)
        torch.export.save(program, found.setdefault("pt2", folder / "port.pt2"))
        torch.jit.save(torch.jit.trace(module, example), found["script"])
    twin = segtwin_keras.build("unet", widths=(4, 5, 6, 7, 8), weights=weights)
    segtwin_keras.export_onnx(twin, found.setdefault("right", folder / "right.onnx"))
    random = np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype(np.float32)
    np.savez(found.setdefault("npz", folder / "port.npz"), data=random, out=module(torch.from_numpy(random)).numpy())
    return found


@pytest.mark.parametrize("kind", ["onnx", "script", "pt2", "npz"])
def test_every_kind_of_file(files: dict[str, Path], kind: str) -> None:
    found = segtwin_engines.diagnose(files[kind], "unet", files["weights"])
    assert [cause.id for cause in found.causes] == ["concat_order"], found.explanation
    assert found.reproduced


def test_keras_files_and_savedmodels(tmp_path: Path) -> None:
    import keras

    import tensorflow as tf

    weights = build("unet")[1]
    inputs = keras.Input((None, None, 3))
    outputs = keras.layers.Conv2D(4, 3, padding="same", name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Conv2D(1, 1, activation="sigmoid")(outputs))
    kernel = np.ascontiguousarray(weights["conv1.conv.0.weight"].transpose(2, 3, 1, 0))
    model.get_layer("first").set_weights([kernel, weights["conv1.conv.0.bias"]])
    model.save(tmp_path / "port.keras")
    tf.saved_model.save(model, str(tmp_path / "port"))
    data = np.random.default_rng(0).standard_normal((1, 3, 16, 32)).astype(np.float32)
    kernels = [torch.from_numpy(weights[f"conv1.conv.0.{kind}"]) for kind in ("weight", "bias")]
    want = torch.nn.functional.conv2d(torch.from_numpy(data), *kernels, padding=1).numpy()
    for port in (model, tmp_path / "port.keras", tmp_path / "port"):
        opened = open_port(port, 3)
        (output,) = opened.run(data)
        assert output.shape == (1, 1, 16, 32)
        first = [x for x in opened.values(data).values() if x.shape == (1, 4, 16, 32)]
        assert any(np.abs(x - want).max() < 1e-5 for x in first)
        assert opened.channels == 3


def test_two_models_without_a_network(files: dict[str, Path]) -> None:
    found = segtwin_engines.diagnose(files["onnx"], reference=files["right"])
    assert found.verdict == "differs"
    assert segtwin_engines.diagnose(files["right"], reference=files["right"]).equal
    module, _ = build("fcn8s", "rgb")
    right, _ = build("fcn8s")
    found = segtwin_engines.diagnose(module, reference=right)
    assert [cause.id for cause in found.causes] == ["input_order"]
    found = segtwin_engines.diagnose(build("fcn8s", "softmax")[0], reference=right)
    assert [cause.id for cause in found.causes] == ["softmax"]


def test_weights_alone(tmp_path: Path) -> None:
    weights = segtwin_weights.Weights(weights_of("fcn8s"), {"architecture": "fcn8s"})
    wrong = dict(weights)
    wrong["conv1_1/weight"] = weights["conv1_1/weight"][:, ::-1]
    wrong["conv2_1/weight"] = weights["conv2_1/weight"][:, :, ::-1, ::-1]
    fc6 = weights["fc6/weight"]
    wrong["fc6/weight"] = np.ascontiguousarray(fc6.transpose(0, 2, 3, 1)).reshape(fc6.shape)
    wrong["fc7/weight"] = weights["fc7/weight"] * np.float32(0.5)
    paths = [tmp_path / name for name in ("right.safetensors", "wrong.safetensors")]
    segtwin_weights.write(weights, paths[0])
    segtwin_weights.write(segtwin_weights.Weights(wrong, weights.metadata), paths[1])
    found = segtwin_engines.diagnose_weights(paths[1], paths[0])
    assert {cause.layer: cause.id for cause in found.causes} == {
        "conv1_1/weight": "input_order", "conv2_1/weight": "kernel_flipped", "fc6/weight": "fc6_order",
        "fc7/weight": "scaled",
    }  # fmt: skip
    assert segtwin_engines.diagnose_weights(paths[0], paths[0]).equal
    assert run("diagnose", paths[1], "--weights", paths[0], "--weights-only", "--quiet") == 1
    assert run("diagnose", paths[0], paths[0], "--weights-only", "--quiet") == 0
    assert segtwin_engines.diagnose(paths[1], weights=paths[0], weights_only=True).verdict == "differs"


def test_the_command(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, facts = tmp_path / "page.html", tmp_path / "facts.json"
    status = run(
        "diagnose",
        files["onnx"],
        "--network",
        "unet",
        "--weights",
        files["weights"],
        "--report",
        report,
        "--json",
        facts,
    )
    assert status == 1
    said = capsys.readouterr().out
    assert "differs from unet" in said
    assert "concatenations" in said
    page = report.read_text(encoding="utf-8")
    assert "concat_order" in page
    assert "data:image/jpeg" in page
    read = json.loads(facts.read_text(encoding="utf-8"))
    assert (read["verdict"], read["causes"]) == ("differs", ["concat_order"])
    assert run("diagnose", files["right"], "--network", "unet", "--weights", files["weights"], "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "equal"
    assert run("diagnose", files["onnx"], "--network", "unet") == 2
    assert run("diagnose", files["weights"], "--network", "unet", "--weights", files["weights"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) >= 2


def test_what_cannot_be_run_is_refused_in_a_line(tmp_path: Path) -> None:
    weights = build("unet")[1]
    bad = tmp_path / "port.onnx"
    bad.write_bytes(b"\x08\x07nothing")
    state = tmp_path / "state.pth"
    torch.save({"a": torch.zeros(3)}, state)
    for path, words in ((bad, "cannot run it"), (state, "holds weights"), (tmp_path, "folder without")):
        with pytest.raises(PortError, match=words) as error:
            segtwin_engines.diagnose(path, "unet", weights)
        assert "\n" not in str(error.value)
    with pytest.raises(PortError, match="fails on an input"):
        segtwin_engines.diagnose(lambda x: 1 / 0, "unet", weights)


def test_a_caffe_network_against_a_port_of_it(tmp_path: Path) -> None:
    module, weights = build("fcn8s", "no_relu_conv3_2")
    segtwin_weights.write(segtwin_weights.Weights(weights, {"architecture": "fcn8s"}), tmp_path / "net.caffemodel")
    found = segtwin_engines.diagnose(tmp_path / "net.deploy.prototxt", "fcn8s", weights)
    assert found.equal, found.explanation
    found = segtwin_engines.diagnose(module, reference=tmp_path / "net.caffemodel")
    assert (found.verdict, found.first_difference) == ("differs", "relu3_2")
