"""The FCNs without what sees padding alone: the same scores as Caffe's and as the whole network's, the same gradients,
in both twins and both exports; and whoever looks at a blob sees a whole one."""

from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import segtwin_keras
import segtwin_torch
import segtwin_weights
import torch
from goldens import TINY, caffe_goldens
from onnx import helper
from segtwin import noise, oracle
from segtwin.architectures import get_architecture
from segtwin_engines.onnxruntime import onnx_blobs
from segtwin_weights import Weights, onnx_dead_zones

import tensorflow as tf
from engines import TWINS, exported, made, scores

FCNS = ("fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce")
SIZES = [(1, 1), (34, 67), (35, 70), (36, 65)]


def weights_with_biases(name: str = "fcn8s") -> Weights:
    random = np.random.default_rng(3)
    start = segtwin_weights.initialize(name, widths=TINY, num_classes=5)
    drawn = {
        name: random.uniform(-0.5, 1, blob.shape).astype(np.float32) * np.float32(1 / np.sqrt(blob[0].size))
        for name, blob in start.items()
        if not name.startswith(("upscore", "scale"))
    }
    return Weights({**start, **drawn}, start.metadata)


@pytest.fixture(scope="module")
def drawn() -> Weights:
    return weights_with_biases()


@pytest.mark.parametrize("framework", TWINS)
@pytest.mark.parametrize("network", FCNS)
def test_in_float64_nothing_is_moved(framework: str, network: str) -> None:
    one = made(framework, network, weights_with_biases(network), "float64")
    for size in SIZES:
        data = np.random.default_rng(4).uniform(-120, 130, (2, 3, *size))
        without = scores(framework, one, data)
        TWINS[framework].leave_out_dead_zones(one, False)
        whole = scores(framework, one, data)
        TWINS[framework].leave_out_dead_zones(one, True)
        assert oracle.relative_error(without, whole) < 1e-13, size


def counted(framework: str, network, data: np.ndarray, training: bool) -> int:
    """Rows of the largest blob that a call computes."""
    if framework == "torch":
        rows = 0

        class Rows(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                nonlocal rows
                result = func(*args, **(kwargs or {}))
                if "convolution" in str(func) and result.shape[1] == TINY[0]:
                    rows = max(rows, result.shape[2])
                return result

        network.train(training)
        with Rows():
            network(torch.from_numpy(data))
        network.eval()
        return rows
    last = np.ascontiguousarray(data.transpose(0, 2, 3, 1))
    graph = tf.function(lambda x: network(x, training=training)).get_concrete_function(last).graph
    shapes = [one.outputs[0].shape for one in graph.get_operations() if one.type == "Relu"]
    return max(shape[1] for shape in shapes if shape[3] == TINY[0])


@pytest.mark.parametrize("framework", TWINS)
def test_the_switch(framework: str, drawn: Weights) -> None:
    network = made(framework, "fcn8s", drawn)
    data = np.zeros((1, 3, 20, 20), np.float32)
    switch = TWINS[framework].leave_out_dead_zones
    whole, inner = 20 + 198, 20 + 14
    for leave_out, rows in ((None, inner), (False, whole), (True, inner)):
        if leave_out is not None:
            switch(network, leave_out)
        for training in (False, True):
            assert counted(framework, network, data, training=training) == rows
    with pytest.raises(TypeError):
        switch(keras.Sequential() if framework == "keras" else torch.nn.ReLU(), True)


@pytest.mark.parametrize("framework", TWINS)
def test_gradients_are_the_same(framework: str, drawn: Weights) -> None:
    network = made(framework, "fcn8s", drawn, "float64")
    data = np.random.default_rng(4).uniform(-120, 130, (1, 3, 35, 33))
    label = np.random.default_rng(5).integers(0, 5, (1, 1, 35, 33))
    found = {}
    for leave_out in (False, True):
        TWINS[framework].leave_out_dead_zones(network, leave_out)
        own = data if framework == "torch" else np.ascontiguousarray(data.transpose(0, 2, 3, 1))
        found[leave_out] = TWINS[framework].gradients(
            network, torch.from_numpy(own) if framework == "torch" else own, label
        )
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-12)
    for name, gradient in found[False][1].items():
        assert oracle.relative_error(np.asarray(found[True][1][name]), np.asarray(gradient)) < 1e-12, name


def test_whoever_looks_sees_whole_blobs(drawn: Weights) -> None:
    data = np.random.default_rng(4).uniform(-120, 130, (1, 3, 9, 12)).astype(np.float32)
    whole = get_architecture("fcn8s").shapes(9, 12, 5, TINY)
    for framework, twin in TWINS.items():
        for name, blob in twin.blobs(made(framework, "fcn8s", drawn), data).items():
            assert blob.shape[1:] == whole[name], (framework, name)
    network, seen = made("torch", "fcn8s", drawn), []
    hook = network.conv2_1.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[1:])))
    scores("torch", network, data)
    hook.remove()
    scores("torch", network, data)
    assert seen == [whole["conv2_1"]]
    network = made("keras", "fcn8s", drawn)
    part = keras.Model(network.input, network.get_layer("conv2_1").output)
    channels, *size = whole["conv2_1"]
    assert tuple(part(data.transpose(0, 2, 3, 1)).shape[1:]) == (*size, channels)


def test_keras_predict_follows_the_switch_and_a_saved_model_computes_the_same(drawn: Weights, tmp_path: Path) -> None:
    network = made("keras", "fcn8s", drawn)
    data = np.random.default_rng(4).uniform(-120, 130, (1, 9, 12, 3)).astype(np.float32)
    without = network.predict(data, verbose=0)
    segtwin_keras.leave_out_dead_zones(network, False)
    whole = network.predict(data, verbose=0)
    np.testing.assert_allclose(without, whole, rtol=0, atol=4 * noise.LEAST_FLOOR * np.abs(whole).max())
    network.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras").predict(data, verbose=0)
    np.testing.assert_allclose(again, whole, rtol=0, atol=4 * noise.LEAST_FLOOR * np.abs(whole).max())


@pytest.mark.parametrize("framework", TWINS)
def test_an_export_computes_less_and_says_so(framework: str) -> None:
    golden = caffe_goldens("fcn8s")[0]
    path = exported(framework, "fcn8s", golden.weights)
    file = onnx.load(path)
    first = next(node for node in file.graph.node if node.op_type == "Conv")
    assert list(helper.get_node_attr_value(first, "pads")) == [8] * 4
    assert onnx_dead_zones.stated(file) == get_architecture("fcn8s").dead_zones.left_out
    values = {name for node in file.graph.node for name in node.output}
    assert "conv1_1" not in values, "a value of another size has another name"
    assert {"conv1_1_inner", "pool1_inner", "pool3", "conv4_1"} <= values
    blobs = onnx_blobs(path, golden.data, ["conv1_1", "pool1", "pool3"])
    assert {name: blob.shape for name, blob in blobs.items() if name != "data"} == {
        name: golden.shapes[name] for name in ("conv1_1", "pool1", "pool3")
    }


def test_what_a_file_says_wrongly_of_itself_is_refused(tmp_path: Path, drawn: Weights) -> None:
    path = tmp_path / "fcn8s.onnx"
    segtwin_torch.export_onnx(made("torch", "fcn8s", drawn), path)
    file = onnx.load(path)
    entry = next(entry for entry in file.metadata_props if entry.key == onnx_dead_zones.KEY)
    for value in (
        "3",
        '{"conv1_1": 3}',
        '{"conv1_1": [0, 1000000000]}',
        '{"conv1_1": [-1, 92]}',
        '{"conv1_1": [0, 1e999]}',
    ):
        entry.value = value
        onnx.save(file, path)
        with pytest.raises(ValueError, match="left_out is damaged"):
            onnx_blobs(path, np.zeros((1, 3, 4, 4), np.float32), ["conv1_1"])
    entry.value = '{"conv1_1": [900, 9]}'
    onnx.save(file, path)
    with pytest.raises(ValueError, match="18 rows or columns have no row 900"):
        onnx_blobs(path, np.zeros((1, 3, 4, 4), np.float32), ["conv1_1"])
