"""Mistakes that a stranger made in ports of his own, in every kind of file, and what `segtwin diagnose` says of them:
around the network, in single layers, in the arrays, and of two models without a network."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import conftest  # noqa: F401 - torch before TensorFlow
import numpy as np
import onnx
import pytest
import segtwin_engines
import segtwin_torch
import torch
from broken_ports import MEAN, FCN8s, UNet, build, weights_of
from onnx import helper, numpy_helper
from segtwin_engines.ports import Port, open_port
from torch.nn import functional

Weights = dict[str, np.ndarray]


def ids(found: segtwin_engines.Diagnosis) -> list[str]:
    return [cause.id for cause in found.causes]


def padded(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    wide = functional.pad(x, (0, -x.shape[3] % 32, 0, -x.shape[2] % 32))
    return module(wide)[:, :, : x.shape[2], : x.shape[3]]


AROUND: dict[str, tuple[str, str, Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]]] = {
    "classes in another order": ("output_channels_permuted", "score", lambda net, x: net(x)[:, [2, 0, 1, 4, 3]]),
    "a temperature": ("output_scaled", "score", lambda net, x: net(x) / 10),
    "no background": ("output_channels", "score", lambda net, x: net(x)[:, 1:]),
    "one more class": ("output_channels", "score", lambda net, x: functional.pad(net(x), (0, 0, 0, 0, 0, 1))),
    "one-hot": ("argmax", "score", lambda net, x: (net(x) == net(x).amax(1, keepdim=True)).float()),
    "a multiple of 32": ("input_padded", "conv1_1", padded),
    "0..1": ("preprocessing_other", "conv1_1", lambda net, x: net((x + MEAN) / 255)),
    "-1..1": ("preprocessing_other", "conv1_1", lambda net, x: net((x + MEAN) / 127.5 - 1)),
    "inverted": ("input_inverted", "conv1_1", lambda net, x: net(255 - (x + MEAN) - MEAN)),
}


@pytest.mark.parametrize("what", AROUND)
def test_what_is_done_before_and_behind_a_network(what: str) -> None:
    id, first, change = AROUND[what]
    net, weights = build("fcn8s")

    class Around(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return change(self.net, x)

    inside = segtwin_engines.diagnose(Around().eval(), "fcn8s", weights, patience=1)
    assert (ids(inside), inside.first_difference, inside.reproduced) == ([id], first, True), inside.explanation
    assert not inside.notes
    alone = Port.of_function(lambda x: change(net, torch.from_numpy(x.copy())).detach().numpy())
    assert ids(segtwin_engines.diagnose(alone, "fcn8s", weights, patience=1)) == [id]


class Fcn(FCN8s):
    """With a mistake in one layer."""

    def conv(self, x: torch.Tensor, name: str, pad: int = 1, relu: bool = True) -> torch.Tensor:
        if "dilated" in self.bugs and name == "conv5_1":
            arrays = self.blob("conv5_1/weight"), self.blob("conv5_1/bias")
            return functional.relu(functional.conv2d(x, *arrays, padding=2, dilation=2))
        if "no conv5_3" in self.bugs and name == "conv5_3":
            return x
        if "gelu" in self.bugs and relu:
            return functional.gelu(super().conv(x, name, pad, False))
        if "pooled conv4_2" in self.bugs and name == "conv4_2":
            self.kept = super().conv(x, name, pad, relu)
            return self.kept
        if "pooled conv4_2" in self.bugs and name == "score_pool4":
            x = self.pool(self.kept)
        return super().conv(x, name, pad, relu)


ONE_LAYER = {
    "dilated": ("dilation", "conv5_1"), "no conv5_3": ("layer_missing", "conv5_3"), "gelu": ("gelu", "conv1_1"),
    "pooled conv4_2": ("skip_source", "score_pool4"),
}  # fmt: skip


@pytest.mark.parametrize("bug", ONE_LAYER)
def test_a_mistake_in_a_layer(bug: str) -> None:
    weights = weights_of("fcn8s")
    found = segtwin_engines.diagnose(Fcn(weights, bug).eval(), "fcn8s", weights, patience=1)
    assert (ids(found), found.first_difference) == ([ONE_LAYER[bug][0]], ONE_LAYER[bug][1]), found.explanation
    assert found.reproduced


class Net(UNet):
    """With a mistake in its BatchNorms."""

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias, mean, variance = (
            self.blob(f"{name}.{kind}") for kind in ("weight", "bias", "running_mean", "running_var")
        )
        if "no weight" in self.bugs:
            weight = torch.ones_like(weight)
        if "no mean" in self.bugs:
            mean = torch.zeros_like(mean)
        if "no variance" in self.bugs:
            variance = torch.ones_like(variance)
        if "not loaded" in self.bugs:
            weight, bias, mean, variance = (torch.full_like(weight, value) for value in (1, 0, 0, 1))
        if "weight and bias" in self.bugs:
            weight, bias = bias, weight
        if "relu twice" in self.bugs:
            x = functional.relu(x)
        if "no second" in self.bugs and name.endswith(".4"):
            return x
        one = name == "conv3.conv.4"
        eps = 1e-2 if "one eps" in self.bugs and one else 1e-5
        return functional.batch_norm(x, mean, variance, weight, bias, "one in training" in self.bugs and one, 0, eps)


NORMS = {
    "no weight": ("batchnorm_identity", "conv1.conv.1", 1), "no mean": ("batchnorm_statistics", "conv1.conv.1", 1),
    "no variance": ("batchnorm_statistics", "conv1.conv.1", 1), "not loaded": ("batchnorm_unloaded", "conv1.conv.1", 1),
    "weight and bias": ("batchnorm_swapped", "conv1.conv.1", 1), "one eps": ("batchnorm_eps", "c3", 1),
    "relu twice": ("relu_before_batchnorm", "conv1.conv.1", 1), "one in training": ("batchnorm_train", "c3", 1),
    "no second": ("batchnorm_missing", "c1", 9),
}  # fmt: skip


@pytest.mark.parametrize("bug", NORMS)
def test_batchnorms(bug: str) -> None:
    weights = weights_of("unet")
    found = segtwin_engines.diagnose(Net(weights, bug).eval(), "unet", weights, patience=1)
    id, first, count = NORMS[bug]
    assert (ids(found), found.first_difference, found.reproduced) == ([id] * count, first, True), found.explanation
    assert (f"({count} in all)" in found.explanation) == (count > 1)


def layers_apart(weights: Weights) -> Weights:
    new = {**weights}
    for kind in ("weight", "bias"):
        new[f"conv4_2/{kind}"], new[f"conv5_2/{kind}"] = weights[f"conv5_2/{kind}"], weights[f"conv4_2/{kind}"]
    return new


def biases_turned(weights: Weights) -> Weights:
    return {**weights, **{f"conv3_{n}/bias": weights[f"conv3_{n % 3 + 1}/bias"] for n in (1, 2, 3)}}


def untransposed(weights: Weights) -> Weights:
    kernel = weights["conv3_2/weight"]
    return {**weights, "conv3_2/weight": kernel.transpose(2, 3, 1, 0).reshape(kernel.shape)}


def inputs_turned(weights: Weights) -> Weights:
    return {**weights, "conv1_1/weight": weights["conv1_1/weight"][:, [2, 0, 1]]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (layers_apart, [("weights_swapped", "conv4_2")]),
        (biases_turned, [("bias_copied", f"conv3_{n}") for n in (1, 2, 3)]),
        (untransposed, [("kernel_layout", "conv3_2")]),
        (inputs_turned, [("channels_permuted", "conv1_1")]),
    ],
)
def test_arrays_that_are_there_but_not_in_their_place(
    change: Callable[[Weights], Weights], named: list[tuple[str, str]]
) -> None:
    weights = weights_of("fcn8s", widths=(8, 9, 10, 12, 12, 13, 14))
    found = segtwin_engines.diagnose(FCN8s(change(weights)).eval(), "fcn8s", weights, patience=1)
    assert [(cause.id, cause.layer) for cause in found.causes] == named, found.explanation
    assert found.reproduced


def test_what_every_port_has_on_its_way_is_no_cause() -> None:
    """Values before a ReLU, which a wrong ReLU leaves in the port, do not show that there is none."""

    class Squared(FCN8s):
        def conv(self, x: torch.Tensor, name: str, pad: int = 1, relu: bool = True) -> torch.Tensor:
            x = super().conv(x, name, pad, relu and name != "conv3_2")
            return x * x.abs() / (1 + x.abs()) if name == "conv3_2" else x

    weights = weights_of("fcn8s")
    found = segtwin_engines.diagnose(Squared(weights).eval(), "fcn8s", weights, patience=1)
    assert (found.first_difference, ids(found)) == ("conv3_2", []), found.explanation


def test_blobs_of_a_file_agree_though_the_output_does_not_show_them(tmp_path: Path) -> None:
    weights = weights_of("fcn8s")
    data = np.random.default_rng(0).standard_normal((1, 3, 33, 46)).astype(np.float32)
    twin = segtwin_torch.build("fcn8s", num_classes=5, widths=(8, 9, 10, 11, 12, 13, 14), weights=weights)
    with torch.no_grad():
        blobs = segtwin_torch.blobs(twin.eval(), data)
    values = {"data": data, "conv3_2": blobs["conv3_2"].copy(), "score": blobs["score"]}
    np.savez(tmp_path / "right.npz", **values)
    assert segtwin_engines.diagnose(tmp_path / "right.npz", "fcn8s", weights).equal
    values["conv3_2"][:, :, 0] += 1
    np.savez(tmp_path / "wrong.npz", **values)
    found = segtwin_engines.diagnose(tmp_path / "wrong.npz", "fcn8s", weights)
    assert (found.verdict, found.first_difference) == ("differs", "conv3_2")
    assert "at the edge alone" in found.explanation


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A right U-Net as an ONNX file."""
    path = tmp_path_factory.mktemp("exported") / "right.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            UNet(weights_of("unet")), (torch.zeros(1, 3, 64, 96),), path, dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {2: "rows", 3: "columns"}, "y": {2: "rows", 3: "columns"}},
        )  # fmt: skip
    return path


def altered(exported: Path, change: Callable[[onnx.GraphProto], None]) -> Path:
    model = onnx.load(exported)
    change(model.graph)
    path = exported.with_name("altered.onnx")
    onnx.save(model, path)
    return path


def test_a_file_that_fails_at_every_size_is_followed_to_where_it_fails(exported: Path) -> None:
    def stride(graph: onnx.GraphProto) -> None:
        pool = [node for node in graph.node if node.op_type == "MaxPool"][1]
        del pool.attribute[:]
        pool.attribute.extend([helper.make_attribute("kernel_shape", [2, 2]), helper.make_attribute("strides", [1, 1])])

    found = segtwin_engines.diagnose(altered(exported, stride), "unet", weights_of("unet"), patience=1)
    assert (ids(found), found.first_difference) == (["pool_stride"], "p2"), found.explanation
    assert "something else is wrong" not in found.explanation
    assert ": Concat " in found.explanation, "the node that fails"
    assert not found.notes
    assert found.explanation.startswith("the port fails on every input that was tried (")


def test_two_files_are_compared_by_their_arrays_and_operands(exported: Path) -> None:
    def other_array(graph: onnx.GraphProto) -> None:
        one = next(one for one in graph.initializer if one.name.endswith("conv4__conv__3__weight"))
        array = numpy_helper.to_array(one)
        one.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array[:, :, ::-1, ::-1]), one.name))

    def other_operand(graph: onnx.GraphProto) -> None:
        joins = [node for node in graph.node if node.op_type == "Concat"]
        joins[1].input[1] = joins[1].input[0]

    found = segtwin_engines.diagnose(altered(exported, other_array), reference=exported)
    assert ids(found) == ["weights_other"]
    assert found.explanation.endswith("conv4__conv__3__weight is mirrored along both axes")
    found = segtwin_engines.diagnose(altered(exported, other_operand), reference=exported)
    assert ids(found) == ["operand"], found.explanation


def test_outputs_of_two_models_that_are_turned_or_lack_a_class() -> None:
    net, _ = build("fcn8s")
    for change, id in (
        (lambda x: x.transpose(2, 3), "output_transposed"), (lambda x: x.flip(3), "output_flipped"),
        (lambda x: x[:, 1:], "output_channels"),
    ):  # fmt: skip
        port = Port.of_function(lambda x, change=change: change(net(torch.from_numpy(x.copy()))).detach().numpy())
        assert ids(segtwin_engines.diagnose(port, reference=net)) == [id]


def test_a_keras_model_that_wants_to_know_its_size() -> None:
    import keras

    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.UpSampling2D(interpolation="bilinear")(keras.layers.Conv2D(2, 3)(image)))
    port = open_port(model, 3)
    for rows in (16, 20):
        data = np.random.default_rng(rows).standard_normal((1, 3, rows, 24)).astype(np.float32)
        want = np.asarray(model(data.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
        assert np.abs(port.run(data)[0] - want).max() < 1e-5
        assert any(one.shape == (1, 2, rows - 2, 22) for one in port.values(data).values())
    assert any(one.shape == (3, 3, 3, 2) for one in port.weights().values())


def test_torch_beside_keras_in_a_process_that_imported_neither(tmp_path: Path) -> None:
    import keras

    image = keras.Input((32, 32, 3))
    keras.Model(image, keras.layers.Conv2D(2, 3)(image)).save(tmp_path / "one.keras")
    program = torch.export.export(torch.nn.Conv2d(3, 2, 3), (torch.zeros(1, 3, 32, 32),))
    torch.export.save(program, tmp_path / "other.pt2")
    command = [sys.executable, "-m", "segtwin", "diagnose", "other.pt2", "--reference", "one.keras"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, ""), done.stderr
    assert "differs from" in done.stdout


def test_weights_alone_that_are_rounded_turned_or_folded() -> None:
    weights = weights_of("unet")
    kernel, variance = weights["conv4.conv.0.weight"], "conv1.conv.1.running_var"
    factors = np.float32([0.9, 1.1, 1.3])
    first = weights["conv1.conv.0.weight"]
    for name, array, id, words in (
        ("conv4.conv.0.weight", np.rot90(kernel, 1, (2, 3)), "kernel_turned", "is turned by 90 degrees"),
        (variance, np.sqrt(weights[variance]), "batchnorm_deviation", "is the square root"),
        ("conv1.conv.0.weight", first * factors[:, None, None], "scaled", "each of its inputs times a number"),
        ("conv5.conv.1.bias", np.roll(weights["conv5.conv.1.bias"], 1), "channels_permuted", "in another order"),
        ("conv10.bias", weights["conv10.bias"] * np.float32(1.1), "other_numbers", "holds other numbers"),
    ):
        found = segtwin_engines.diagnose({**weights, name: array}, None, weights, weights_only=True)
        assert (ids(found), found.first_difference) == ([id], name), found.explanation
        assert words in found.explanation
    fcn = weights_of("fcn8s")
    dense = fcn["fc6/weight"].transpose(0, 2, 3, 1).reshape(len(fcn["fc6/weight"]), -1)
    assert ids(segtwin_engines.diagnose({**fcn, "fc6/weight": dense}, None, fcn, weights_only=True)) == ["fc6_order"]
    lacking = {name: array for name, array in weights.items() if not name.startswith("conv5.")}
    found = segtwin_engines.diagnose(lacking, None, weights, weights_only=True)
    assert found.explanation.endswith("… (14 arrays) are missing")
    exchanged = {**weights}
    for name in (name for name in weights if name.endswith(".1.weight")):
        exchanged[name], other = weights[name.replace("weight", "bias")], name.replace("weight", "bias")
        exchanged[other] = weights[name]
    found = segtwin_engines.diagnose(exchanged, None, weights, weights_only=True)
    assert found.explanation.startswith("18 arrays, conv1.conv.1.weight … conv9.conv.1.bias, alike: ")
