"""Caffe's way of adding up, in both twins and whatever the CPU; vendors' kernels within what their
sums may cost."""

import threading

import goldens
import numpy as np
import pytest
import segtwin_keras
import segtwin_torch
import torch
from goldens import CaffeGolden, caffe_goldens, unet_paper_goldens
from segtwin import geometry, noise, oracle
from segtwin.architectures import get_architecture
from segtwin_keras import layers

import tensorflow as tf
from engines import TWINS, model


@pytest.mark.parametrize("products", [27, 576, 4608, 25088])
def test_running_sums_cost_what_the_model_says(products: int) -> None:
    """Sums of random products in float32, term by term and in pieces, against float64."""
    random = np.random.default_rng(products)
    terms = (random.standard_normal((2000, products)) * random.standard_normal((2000, products))).astype(np.float32)
    truth = terms.sum(axis=1, dtype=np.float64)
    running = np.add.accumulate(terms, axis=1, dtype=np.float32)[:, -1]
    pieces = [
        np.add.accumulate(terms[:, i : i + noise.PIECE], axis=1, dtype=np.float32)[:, -1]
        for i in range(0, products, noise.PIECE)
    ]
    cut = np.add.accumulate(np.stack(pieces, axis=1), axis=1, dtype=np.float32)[:, -1]
    ratio = np.sqrt(np.mean((running - truth) ** 2) / np.mean((cut - truth) ** 2))
    assert ratio == pytest.approx(noise.growth(products), rel=0.25)


def test_growth_of_the_networks() -> None:
    architecture, weights = get_architecture("fcn8s"), goldens.weights_of("fcn8s", goldens.TINY, 1)
    longest = noise.longest_sums(architecture, weights)
    c1, c5 = goldens.TINY[0], goldens.TINY[4]
    assert (longest["data"], longest["conv1_1"], longest["conv1_2"], longest["pool1"]) == (
        1,
        27,
        max(27, 9 * c1),
        max(27, 9 * c1),
    )
    assert longest["fc6"] == longest["score"] == 49 * c5
    assert noise.growth(25088) == pytest.approx(8.42, abs=0.01)
    assert noise.growth(256) == 1


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("at_once", [layers.BLOCK, 2000])
def test_keras_convolution_as_caffe(kernel: int, stride: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "BLOCK", at_once)
    random = np.random.default_rng(0)
    x, weight = random.standard_normal((2, 40, 15, 18)), random.standard_normal((5, 40, kernel, kernel))
    want = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(weight), stride=stride).numpy()
    got = layers.convolve(
        tf.constant(x.transpose(0, 2, 3, 1)), tf.constant(weight.transpose(2, 3, 1, 0)), stride
    ).numpy()
    np.testing.assert_allclose(got.transpose(0, 3, 1, 2), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (4, 2), (3, 2), (16, 8), (64, 32), (5, 2), (2, 3)])
def test_keras_deconvolution_as_caffe(kernel: int, stride: int) -> None:
    random = np.random.default_rng(0)
    x, weight = random.standard_normal((2, 300, 3, 4)), random.standard_normal((300, 5, kernel, kernel))
    want = torch.nn.functional.conv_transpose2d(torch.from_numpy(x), torch.from_numpy(weight), stride=stride).numpy()
    got = layers.deconvolve(
        tf.constant(x.transpose(0, 2, 3, 1)), tf.constant(weight.transpose(2, 3, 1, 0)), stride
    ).numpy()
    np.testing.assert_allclose(got.transpose(0, 3, 1, 2), want, rtol=1e-10, atol=1e-10)


def test_no_kernel_is_asked_for_a_longer_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a CPU's kernels do, they add up at most PIECE products: that is what holds on
    machines that this was never run on."""
    asked = []
    plain = tf.matmul
    monkeypatch.setattr(tf, "matmul", lambda a, b: asked.append(a.shape[-1]) or plain(a, b))
    monkeypatch.setattr(tf.nn, "convolution", lambda *_, **__: pytest.fail("a vendor's convolution"))
    monkeypatch.setattr(tf.nn, "conv2d_transpose", lambda *_, **__: pytest.fail("a vendor's deconvolution"))
    golden = caffe_goldens("fcn8s")[1]
    segtwin_keras.blobs(model("keras", "fcn8s", golden.weights), golden.data)
    assert max(asked) <= layers.PIECE == noise.PIECE
    assert len(asked) > 20


@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize(
    "golden", [*caffe_goldens("fcn8s"), *caffe_goldens("fcn32s")[1:2], *unet_paper_goldens()], ids=str
)
def test_default_kernels_stay_within_their_bound(golden: CaffeGolden, framework: str) -> None:
    blobs = TWINS[framework].blobs(model(framework, golden.architecture.name, golden.weights), golden.data, caffe=False)
    bounds = noise.default_bounds(golden.architecture, golden.weights)
    missed = {name: error for name, error in golden.errors(blobs).items() if not error < bounds[name]}
    assert not missed


def test_what_is_wrong_is_far_beyond_the_bound_of_default_kernels() -> None:
    """The crop of fcn8s' last layer a pixel late."""
    golden = caffe_goldens("fcn8s")[2]
    blobs = segtwin_torch.blobs(model("torch", "fcn8s", golden.weights), golden.data)
    late = {**blobs, "score": np.roll(blobs["score"], 1, axis=3)}
    assert golden.errors(late)["score"] > 1000 * noise.default_bounds(golden.architecture, golden.weights)["score"]
    assert geometry.crop_offsets(golden.architecture.layers)["score"] == 31


def test_several_orders_of_summation_make_the_floor() -> None:
    golden = caffe_goldens("fcn8s")[1]
    truth = dict(oracle.blobs(golden.architecture, golden.weights, golden.data))
    runs = [
        dict(oracle.blobs(golden.architecture, golden.weights, golden.data, "float32", order)) for order in noise.ORDERS
    ]
    assert len({run["fc6"].tobytes() for run in runs}) == len(noise.ORDERS), "each order rounds otherwise"
    double = [
        dict(oracle.blobs(golden.architecture, golden.weights, golden.data, "float64", order))["fc6"]
        for order in noise.ORDERS
    ]
    assert max(oracle.relative_error(one, truth["fc6"]) for one in double) < 1e-13, "and computes the same"
    floors = noise.floors(golden.architecture, golden.weights, golden.data, truth)
    assert floors["fc6"] >= max(oracle.relative_error(run["fc6"], truth["fc6"]) for run in runs)


def test_the_floor_behind_a_sigmoid_is_what_its_logits_floor_becomes_where_it_is_steep() -> None:
    """Logits of 17, and one pixel near 0: the runs that measure the floor need not be off there, an engine may be."""
    architecture = get_architecture("unet-small")
    layer = architecture.layer(architecture.output)
    logits = np.full((1, 1, 8, 8), 17.0)
    logits[0, 0, 3, 3] = 0.1

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    truth = {layer.bottoms[0]: logits, layer.name: sigmoid(logits)}
    floor = 7.5e-7
    carried = noise.carried(layer, {layer.bottoms[0]: floor}, truth)
    off = np.abs(sigmoid(logits + floor * 17) - sigmoid(logits)).max() / sigmoid(logits).max()
    assert 3 * floor < off <= carried * (1 + 1e-3) < 1.01 * off
    flat = {layer.bottoms[0]: logits + 17, layer.name: sigmoid(logits + 17)}
    assert noise.carried(layer, {layer.bottoms[0]: floor}, flat) == floor, "never less than the logits' own"


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_blobs_from_four_threads(framework: str) -> None:
    """Bit-equal, and torch's switch and the model's mode are left as they were."""
    golden = caffe_goldens("fcn8s")[1]
    network = model(framework, "fcn8s", golden.weights)
    want = TWINS[framework].blobs(network, golden.data)
    before = torch.backends.mkldnn.enabled
    results: list[dict[str, np.ndarray]] = []
    threads = [
        threading.Thread(target=lambda: results.append(TWINS[framework].blobs(network, golden.data))) for _ in range(4)
    ]
    if framework == "torch":
        network.train()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert torch.backends.mkldnn.enabled == before
    if framework == "torch":
        assert network.training
        network.eval()
    for result in results:
        for name, blob in want.items():
            np.testing.assert_array_equal(result[name], blob)
