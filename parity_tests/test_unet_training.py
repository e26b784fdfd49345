"""Train mode of the U-Nets against the original torch code: batch statistics, running statistics,
gradients, three steps of SGD."""

import json
from functools import cache

import keras
import numpy as np
import pytest
import segtwin_keras
import segtwin_torch
import torch
from goldens import FOLDER, recipe, seed_weights
from segtwin import oracle
from segtwin_keras.weights import hub_array
from segtwin_keras.weights import table as keras_table

import tensorflow as tf

RATE, MOMENTUM, STEPS = 0.01, 0.9, 3
EXACT = 1e-9
"""float64 against float64; measured errors are below 1e-12. A biased running variance is 1e-3,
Keras' momentum 1e-1."""


def load(name: str):
    file = np.load(FOLDER / "seed" / name)
    return file, json.loads(str(file["meta"]))


def batch(meta: dict, step: int) -> tuple[np.ndarray, np.ndarray]:
    image = recipe.seed_input(meta["input_shape"], meta["seed"], *meta["input_range"], tag=f"train/x{step}")
    target = recipe.seed_input([2, 1, 32, 32], meta["seed"], *meta["input_range"], tag=f"train/t{step}") > 0.5
    return image.astype(np.float64), target.astype(np.float64)


def torch_steps(meta: dict):
    """(loss, gradients, state after the step) of each step; names and layouts of the hub."""
    network = segtwin_torch.build("unet", weights=seed_weights("Unet_3_1", 1), dtype="float64").train()
    optimizer = torch.optim.SGD(network.parameters(), RATE, MOMENTUM)
    for step in range(STEPS):
        image, target = (torch.from_numpy(one) for one in batch(meta, step))
        loss = torch.nn.functional.binary_cross_entropy(network(image), target)
        optimizer.zero_grad()
        loss.backward()
        gradients = {name: parameter.grad.numpy().copy() for name, parameter in network.named_parameters()}
        optimizer.step()
        yield float(loss.detach()), gradients, dict(segtwin_torch.read_weights(network))


def keras_steps(meta: dict):
    network = segtwin_keras.build("unet", weights=seed_weights("Unet_3_1", 1), dtype="float64")
    names = {id(variable): (name, order) for name, (variable, order) in keras_table(network).items()}
    floatx = keras.config.floatx()
    keras.config.set_floatx("float64")  # the optimizer keeps its rate in it; 0.01 in float32 would be 2e-8 off
    try:
        optimizer = keras.optimizers.SGD(RATE, MOMENTUM)
        optimizer.build(network.trainable_variables)
    finally:
        keras.config.set_floatx(floatx)

    @tf.function
    def gradients_of(image, target):
        with tf.GradientTape() as tape:
            p = network(image, training=True)
            # Keras' own crossentropy moves p away from 0 and 1 by 1e-7
            loss = -tf.reduce_mean(target * tf.math.log(p) + (1 - target) * tf.math.log(1 - p))
        return loss, tape.gradient(loss, network.trainable_variables)

    for step in range(STEPS):
        image, target = (tf.constant(one.transpose(0, 2, 3, 1)) for one in batch(meta, step))
        loss, gradients = gradients_of(image, target)
        found = {}
        for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
            name, order = names[id(variable)]
            found[name] = hub_array(gradient, order)
        optimizer.apply(gradients)
        yield float(loss), found, dict(segtwin_keras.read_weights(network))


FRAMEWORKS = {"torch": torch_steps, "keras": keras_steps}


@cache
def run(framework: str) -> list:
    return list(FRAMEWORKS[framework](load("unet_3_1_train_lr0.01.npz")[1]))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_three_steps_of_sgd_are_the_originals(framework: str) -> None:
    """Losses, gradients, parameters, running means and unbiased running variances, in float64."""
    file, meta = load("unet_3_1_train_lr0.01.npz")
    steps = run(framework)
    np.testing.assert_allclose([loss for loss, _, _ in steps], file["losses"], rtol=EXACT)

    gradients = steps[0][1]
    assert list(gradients) == meta["param_order"]
    norms = np.array([np.linalg.norm(gradients[name]) for name in meta["param_order"]])
    # a bias before BatchNorm has no gradient but rounding: norms are compared with the largest
    np.testing.assert_allclose(norms, file["step1_grad_norms"], rtol=EXACT, atol=EXACT * file["step1_grad_norms"].max())
    compared = 0
    for key in file.files:
        step, _, name = key.partition("/")
        if step == "step1_grad":
            got = gradients[name]
        elif step in ("step1", "step2", "step3"):
            got = steps[int(step[-1]) - 1][2][name]
        else:
            continue
        assert oracle.relative_error(got, file[key]) < EXACT, key
        compared += 1
    assert compared == 25
    norms = [np.linalg.norm(steps[-1][2][name]) for name in meta["param_order"]]
    np.testing.assert_allclose(norms, file["step3_param_norms"], rtol=EXACT)


def test_every_number_is_the_same_in_both_after_three_steps() -> None:
    """The file keeps some of the parameters and statistics; the twins agree in all of them."""
    torch_state, keras_state = run("torch")[-1][2], run("keras")[-1][2]
    assert torch_state.keys() == keras_state.keys()
    for name, blob in torch_state.items():
        if name.endswith("num_batches_tracked"):
            assert blob == keras_state[name] == STEPS
        else:
            assert oracle.relative_error(keras_state[name], blob) < EXACT, name


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_forward_pass_in_train_mode_is_the_originals(framework: str) -> None:
    """float32 with batch statistics: within 4 times what float32 cost the original (in its file),
    outputs and all running statistics.

    At the deepest level the unbiased variance of 2·4·6 pixels is 2 % above the biased one, which
    shows as 2e-3 in the running variance.
    """
    file, meta = load("unet_3_2_trainfwd_2x64x96.npz")
    data = recipe.seed_input(meta["input_shape"], meta["seed"], *meta["input_range"])
    floor = meta["f32_vs_f64_logits_relerr"]
    assert floor < 5e-6
    weights = seed_weights("Unet_3_2", 1)
    for dtype, bound in (("float32", 4 * floor), ("float64", 2 * floor)):
        if framework == "torch":
            network = segtwin_torch.build("unet", num_classes=2, weights=weights, dtype=dtype).train()
            with torch.no_grad():
                out = network(torch.from_numpy(data).to(getattr(torch, dtype))).numpy()
            state = segtwin_torch.read_weights(network)
        else:
            network = segtwin_keras.build("unet", num_classes=2, weights=weights, dtype=dtype)
            out = network(data.transpose(0, 2, 3, 1), training=True).numpy().transpose(0, 3, 1, 2)
            state = segtwin_keras.read_weights(network)
        assert oracle.relative_error(out, file["out"]) < bound
        statistics = [key for key in file.files if key.startswith("stat/")]
        assert len(statistics) == 36
        for key in statistics:
            assert oracle.relative_error(state[key.removeprefix("stat/")], file[key]) < bound, key
        assert {int(blob) for name, blob in state.items() if name.endswith("num_batches_tracked")} == {1}


@pytest.mark.parametrize("name", ["unet-small", "resnet34-unet"])
def test_the_other_nets_keep_the_same_statistics_in_both_twins(name: str) -> None:
    """Where no golden is: torch's own BatchNorm2d is the reference, in float64, every statistic of
    every layer after two batches."""
    networks = {twin: twin.build(name, seed=2, dtype="float64", logits=True) for twin in (segtwin_torch, segtwin_keras)}
    networks[segtwin_torch].train()
    for step in range(2):
        image = np.random.RandomState(step).uniform(-2, 2, (2, 1 if name == "unet-small" else 3, 64, 96))
        with torch.no_grad():
            want = networks[segtwin_torch](torch.from_numpy(image)).numpy()
        got = networks[segtwin_keras](image.transpose(0, 2, 3, 1), training=True).numpy().transpose(0, 3, 1, 2)
        assert oracle.relative_error(got, want) < EXACT
    got, want = (twin.read_weights(networks[twin]) for twin in (segtwin_keras, segtwin_torch))
    assert got.keys() == want.keys()
    for blob, values in want.items():
        assert oracle.relative_error(got[blob], values) < EXACT, blob
    assert {int(values) for blob, values in got.items() if blob.endswith("num_batches_tracked")} == {2}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_inference_leaves_the_statistics_alone(framework: str) -> None:
    twin = segtwin_torch if framework == "torch" else segtwin_keras
    network = twin.build("unet-small", widths=(2, 2, 2, 2, 2), seed=1)
    before = twin.read_weights(network).fingerprint()
    twin.blobs(network, np.ones((1, 1, 16, 16), np.float32))
    assert twin.read_weights(network).fingerprint() == before


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_value_a_channel_is_refused_in_training(framework: str) -> None:
    """16×16 pixels are 1×1 at the deepest level: no variance, whose unbiased estimate would be 0/0.
    The statistics there stay as they were."""
    twin = segtwin_torch if framework == "torch" else segtwin_keras
    network, fresh = (twin.build("unet", widths=(2, 2, 2, 2, 2), seed=1) for _ in range(2))
    image = np.random.RandomState(0).uniform(0, 1, (1, 3, 16, 16)).astype(np.float32)
    two = np.concatenate([image, 1 - image])
    if framework == "torch":
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            network.train()(torch.from_numpy(image))
        network(torch.from_numpy(two))
        fresh.train()(torch.from_numpy(two))
    else:
        with pytest.raises(
            ValueError, match="more than one value a channel; give larger images or more of them, not 1×1×1"
        ) as caught:
            network(image.transpose(0, 2, 3, 1), training=True)
        assert "\n" not in str(caught.value)
        graph = tf.function(lambda x: network(x, training=True), input_signature=[tf.TensorSpec((None, None, None, 3))])
        with pytest.raises(tf.errors.InvalidArgumentError, match="more than one value a channel"):
            graph(image.transpose(0, 2, 3, 1))
        graph(two.transpose(0, 2, 3, 1))
        fresh(two.transpose(0, 2, 3, 1), training=True)
    got, want = twin.read_weights(network), twin.read_weights(fresh)
    for statistic in ("running_mean", "running_var"):
        name = f"conv5.conv.1.{statistic}"
        assert oracle.relative_error(got[name], want[name]) < 1e-5, name  # NaN, or a batch counted twice, is 1e-1
