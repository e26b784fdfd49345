"""Loss, gradients and solver against eight runs of real Caffe's solver, and against the numpy oracle's
backward pass in float64."""

import json
import zlib
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
import pytest
import segtwin_keras
import segtwin_torch
import torch
from drawn_networks import VARIED
from goldens import FOLDER, recipe, weights_of
from segtwin import backward, losses, oracle
from segtwin.architectures import Architecture, get_architecture
from segtwin.errors import ArchitectureError, LabelError, SolverError
from segtwin.solver import PUBLISHED, Solver, trained
from segtwin_weights import Weights, initialize

import tensorflow as tf

TWINS = {"torch": segtwin_torch, "keras": segtwin_keras}
TINY = (4, 6, 8, 10, 12, 14, 16)
EXACT = 1e-9
"""float64 against float64; measured errors are below 1e-13."""
MOVED = 1e-4
"""Of a parameter's largest movement. Caffe's own float32 gradients are up to 2e-6 off the float64 ones,
and where w − h rounds the other way, a parameter is one float32 unit off, which is allowed beside it."""


class Run:
    """One file train_*.npz of real Caffe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = np.load(path)
        _, _, net, _, rate, size, *scale = path.stem.split("_")
        self.architecture = get_architecture(net)
        self.base_lr = float(rate.removeprefix("lr"))
        self.iter_size = int(size.removeprefix("iter"))
        self.scale = np.float32(scale[0].removeprefix("x") if scale else 1)
        self.weights = weights_of(net, TINY, 1)

    def __str__(self) -> str:
        return self.path.stem.removeprefix("train_tiny_")

    def pairs(self, framework: str, dtype: str = "float32") -> list[tuple[np.ndarray, np.ndarray]]:
        """The (data, label) pairs of every step, as a twin takes them."""
        found = []
        for k in range(self.iter_size):
            data = (recipe.caffe_input((1, 3, 67, 91), 1 + 100 * k) * self.scale).astype(dtype)
            label = recipe.caffe_labels(67, 91, (3 + 100 * k, 4 + 100 * k))
            found.append((data if framework == "torch" else data.transpose(0, 2, 3, 1), label))
        return found

    def model(self, framework: str, dtype: str = "float32"):
        return TWINS[framework].build(self.architecture.name, widths=TINY, weights=self.weights, dtype=dtype)

    @property
    def names(self) -> list[str]:
        return [one.name for one in trained(self.architecture)]

    def stored(self, kind: str) -> dict[str, np.ndarray]:
        return {name: self.file[f"{kind}/{name}"] for name in self.names}


@cache
def runs() -> list[Run]:
    paths = sorted((FOLDER / "caffe").glob("train_*.npz"))
    assert len(paths) == 8
    return [Run(path) for path in paths]


@cache
def oracle_gradients(number: int) -> tuple[list[float], dict[str, np.ndarray]]:
    """In float64: losses of the micro-batches, and the sums of their gradients."""
    run = runs()[number]
    weights = {name: blob.astype(np.float64) for name, blob in run.weights.items()}
    found = [backward.gradients(run.architecture, weights, data, label) for data, label in run.pairs("torch")]
    return [loss for loss, _ in found], {name: sum(slopes[name] for _, slopes in found) for name in run.names}


numbered = pytest.mark.parametrize("number", range(8), ids=lambda number: str(runs()[number]))
frameworks = pytest.mark.parametrize("framework", TWINS)


@numbered
def test_the_update_is_caffes_bit_for_bit(number: int) -> None:
    """With Caffe's own gradients, the numpy solver leaves Caffe's parameters."""
    run = runs()[number]
    solver = Solver(run.base_lr, momentum=0.99, weight_decay=0.0005, iter_size=run.iter_size)
    parameters = run.architecture.parameters(21, TINY)
    moved, _ = solver.updated(run.weights, {}, run.stored("grad0"), parameters, 0)
    for name, want in run.stored("p1").items():
        np.testing.assert_array_equal(moved[name], want, err_msg=name)


@numbered
def test_the_oracle_has_caffes_loss_and_gradients(number: int) -> None:
    """Within what float32 costs Caffe: 2e-6 of a gradient's largest value."""
    run = runs()[number]
    losses_of, slopes = oracle_gradients(number)
    np.testing.assert_allclose(losses_of, run.file["loss_micro"][0], rtol=1e-4)
    for name, want in run.stored("grad0").items():
        assert oracle.relative_error(want, slopes[name]) < 3e-6, name


@frameworks
@numbered
def test_gradients_are_caffes(number: int, framework: str) -> None:
    """float32, within 4 times Caffe's own distance from float64 (no parameter is asked for more than the
    network's noise); the loss, clipped and unclipped, within 1e-4: Caffe adds up in float32."""
    run = runs()[number]
    _, truth = oracle_gradients(number)
    floor = max(oracle.relative_error(want, truth[name]) for name, want in run.stored("grad0").items())
    assert floor < 3e-6
    found: dict[str, np.ndarray] = {}
    model = run.model(framework)
    before = TWINS[framework].read_weights(model).fingerprint()
    for k, (data, label) in enumerate(run.pairs(framework)):
        loss, slopes = TWINS[framework].gradients(model, data, label)
        assert loss == pytest.approx(run.file["loss_micro"][0, k], rel=1e-4)
        assert slopes.keys() == set(run.names)
        found = {name: found.get(name, 0) + slope for name, slope in slopes.items()}
        unclipped = TWINS[framework].SoftmaxWithLoss(clip=False)
        if framework == "torch":
            with torch.no_grad():
                value = unclipped(model(torch.from_numpy(data)), torch.from_numpy(label))
        else:
            value = unclipped(label[:, 0], model(data))
        assert float(value) == pytest.approx(run.file["loss_micro_unclipped"][0, k], rel=1e-5)
    assert TWINS[framework].read_weights(model).fingerprint() == before
    for name, want in run.stored("grad0").items():
        assert found[name].dtype == np.float32
        assert oracle.relative_error(found[name], want) < 4 * floor, name


@frameworks
@numbered
def test_parameters_move_as_caffes(number: int, framework: str) -> None:
    """After the first step and the last; what has lr_mult 0 keeps every bit; the losses are Caffe's."""
    run = runs()[number]
    steps = len(run.file["loss"])
    for kind, count in {"p1": 1, "last": steps}.items():
        model = run.model(framework)
        reported = TWINS[framework].solver_steps(model, [run.pairs(framework)] * count, base_lr=run.base_lr)
        np.testing.assert_allclose(reported, run.file["loss"][:count], rtol=1e-4)
        after = TWINS[framework].read_weights(model)
        for name, want in run.stored(kind).items():
            start = run.weights[name]
            unit = np.spacing(np.abs(start).max())
            assert np.abs(after[name] - want).max() <= MOVED * np.abs(want - start).max() + unit, (kind, name)
            # most of all flips would be needed to excuse a rule that is not Caffe's
            assert np.linalg.norm(after[name] - want) <= 5 * MOVED * np.linalg.norm(want - start), (kind, name)
        for name in run.weights.keys() - set(run.names):
            np.testing.assert_array_equal(after[name], run.weights[name], err_msg=name)


# ------------------------------------------------------------------------------------- in float64

WIDTHS = {"resnet34-unet": None, "unet-paper": (2, 3, 4, 5, 6), "unet": (2, 3, 4, 5, 6), "unet-small": (2, 3, 4, 5, 6)}


def drawn(architecture: Architecture, widths: tuple[int, ...] | None, classes: int) -> Weights:
    """Weights of which none is zero, so that each has a gradient: uniform, of the size that keeps blobs
    near 1."""
    start = initialize(architecture.name, num_classes=classes, widths=widths, seed=3)
    fixed = {one.name for one in architecture.parameters() if not one.lr_mult}
    blobs = {}
    for name, blob in start.items():
        random = np.random.RandomState(zlib.crc32(name.encode()) % 2**32)
        bound = np.sqrt(6 / max(1, np.prod(blob.shape[1:])))
        if name.endswith("running_var"):
            blobs[name] = random.uniform(0.5, 2, blob.shape).astype(np.float32)
        elif blob.dtype.kind != "f" or (name in fixed and "running" not in name):
            blobs[name] = blob
        else:
            blobs[name] = random.uniform(-bound, bound, blob.shape).astype(np.float32)
            if ".RCNN." in name and name.endswith("conv.1.weight"):  # doubled, again and again
                blobs[name] *= 0.25
            if name.endswith((".W_g.1.bias", ".W_x.1.bias", ".conv1x1.weight")) or (
                ".RCNN." in name and name.endswith("conv.1.bias")
            ):  # in front of ReLUs of few channels
                blobs[name] = np.abs(blobs[name]) + (1 if name.endswith("bias") else 0)
    for name, owner in architecture.aliases.items():
        blobs[name] = blobs[owner].reshape(blobs[name].shape)
    return Weights(blobs, start.metadata)


@pytest.mark.parametrize("name", VARIED)
def test_both_twins_have_the_oracles_gradients_of_every_network(name: str) -> None:
    """In float64: every kind of layer, with labels of which a tenth is ignored."""
    architecture = get_architecture(name)
    widths = WIDTHS.get(name, TINY[: len(architecture.widths)] or None)
    weights = drawn(architecture, widths, 4)
    height, width = architecture.example_size if architecture.widths else map(architecture.legal_size, (32, 32))
    random = np.random.RandomState(5)
    low, high = (-120, 130) if architecture.colour == "BGR" and architecture.divisor == 1 else (0, 1)
    data = random.uniform(low, high, (2, architecture.in_channels, height, width))
    exact = {one: blob.astype(np.float64) for one, blob in weights.items()}
    logits = architecture.sigmoid
    output = architecture.layers[-2].name if logits else architecture.output
    blobs = {architecture.input: data} | {
        layer.name: blob
        for layer, blob in zip(
            [layer for layer in architecture.layers if not layer.idle],
            every_top(architecture, exact, data),
            strict=True,
        )
    }
    size = blobs[output].shape[2:]
    label = random.randint(0, 4, (2, 1, *size))
    label[random.rand(*label.shape) < 0.1] = 255
    loss, slope = losses.softmax_with_loss(blobs[output], label)
    if logits:
        ended = without_last(architecture)
        want = backward.of_output(ended, exact, blobs, slope)
    else:
        want = backward.of_output(architecture, exact, blobs, slope)
    assert want.keys() == {one.name for one in trained(architecture)}
    # the loss is the last head's
    assert all(np.abs(one).max() > 0 for key, one in want.items() if key not in architecture.not_exported)
    for twin in TWINS.values():
        options = {"logits": True} if logits else {}
        model = twin.build(name, num_classes=4, widths=widths, weights=weights, dtype="float64", **options)
        value, got = twin.gradients(model, data if twin is segtwin_torch else data.transpose(0, 2, 3, 1), label)
        assert value == pytest.approx(loss, rel=EXACT)
        assert list(got) == list(want)
        for one, slopes in want.items():
            assert oracle.relative_error(got[one], slopes) < EXACT, (twin.__name__, one)


def every_top(architecture: Architecture, weights: dict[str, np.ndarray], data: np.ndarray):
    """Tops of all layers, named or not."""
    yield from (
        blob
        for name, blob in oracle.blobs(replace(architecture, blob_names=()), weights, data)
        if name != architecture.input
    )


def without_last(architecture: Architecture) -> Architecture:
    return replace(architecture, layers=architecture.layers[:-1], output=architecture.layers[-2].name)


POLICIES = {
    "step": {"lr_policy": "step", "gamma": 0.1, "stepsize": 2},
    "poly": {"lr_policy": "poly", "power": 0.9, "max_iter": 4},
}


@cache
def solved(policy: str):
    """Three steps of two batches each by the numpy solver: start, steps, end, losses."""
    architecture = get_architecture("fcn16s")
    start = drawn(architecture, TINY, 3)
    random = np.random.RandomState(2)
    steps = [
        [(random.uniform(-120, 130, (1, 3, 40, 33)), random.randint(0, 3, (1, 1, 40, 33))) for _ in range(2)]
        for _ in range(3)
    ]
    solver = Solver(base_lr=1e-7, momentum=0.9, weight_decay=0.01, iter_size=2, **POLICIES[policy])
    end = {name: blob.astype(np.float64) for name, blob in start.items()}
    history: dict[str, np.ndarray] = {}
    reported = []
    for number, pairs in enumerate(steps):
        found = [backward.gradients(architecture, end, data, label) for data, label in pairs]
        slopes = {name: sum(slope[name] for _, slope in found) for name in found[0][1]}
        end, history = solver.updated(end, history, slopes, architecture.parameters(3, TINY), number)
        reported.append(sum(loss for loss, _ in found) / 2)
    return start, steps, end, reported


@frameworks
@pytest.mark.parametrize("policy", POLICIES)
def test_steps_in_float64_are_the_numpy_solvers(framework: str, policy: str) -> None:
    """Changing rates, two batches a step, decay. torch.optim.SGD, whose rate is outside the history,
    would be 1e-1 off."""
    start, steps, end, reported = solved(policy)
    twin = TWINS[framework]
    model = twin.build("fcn16s", num_classes=3, widths=TINY, weights=start, dtype="float64")
    if framework == "keras":
        steps = [[(data.transpose(0, 2, 3, 1), label) for data, label in pairs] for pairs in steps]
    got = twin.solver_steps(model, steps, base_lr=1e-7, momentum=0.9, weight_decay=0.01, **POLICIES[policy])
    np.testing.assert_allclose(got, reported, rtol=EXACT)
    after = twin.read_weights(model)
    for name, blob in end.items():
        assert np.abs(after[name] - blob).max() <= EXACT * np.abs(blob - start[name]).max(), name
    assert min(np.abs(end[one.name] - start[one.name]).max() for one in trained(get_architecture("fcn16s"))) > 1e-8


# ------------------------------------------------------------------------------- in anyone's loop


def one_step(dtype: str = "float64") -> tuple[Weights, np.ndarray, np.ndarray]:
    weights = drawn(get_architecture("fcn32s"), TINY, 3)
    random = np.random.RandomState(4)
    data = random.uniform(-120, 130, (2, 3, 33, 40)).astype(np.float32)  # `fit` casts to float32
    return weights, data.astype(dtype), random.randint(0, 3, (2, 1, 33, 40))


def test_the_torch_optimizer_and_loss_in_a_plain_loop_with_a_scheduler() -> None:
    """Three steps of anyone's loop are those of `solver_steps`."""
    weights, data, label = one_step()
    policy = {"lr_policy": "exp", "gamma": 0.5}
    mine, theirs = (
        segtwin_torch.build("fcn32s", num_classes=3, widths=TINY, weights=weights, dtype="float64") for _ in range(2)
    )
    want = segtwin_torch.solver_steps(mine, [[(data, label)]] * 3, base_lr=1e-7, **policy)
    optimizer = segtwin_torch.CaffeSGD(segtwin_torch.parameter_groups(theirs), lr=1e-7)
    scheduler = segtwin_torch.caffe_schedule(optimizer, Solver(1e-7, **policy))
    loss_of = segtwin_torch.SoftmaxWithLoss()
    for step in range(3):
        optimizer.zero_grad()
        loss = loss_of(theirs(torch.from_numpy(data)), torch.from_numpy(label))
        loss.backward()
        optimizer.step()
        scheduler.step()
        assert loss.item() == pytest.approx(want[step], rel=EXACT)
    same(segtwin_torch.read_weights(theirs), segtwin_torch.read_weights(mine), weights)


def test_the_keras_optimizer_and_loss_in_compile_and_fit() -> None:
    """Three epochs of `fit`, in a graph, are three `solver_steps`; the model, with its optimizer, can be
    saved and loaded."""
    weights, data, label = one_step()
    policy = {"lr_policy": "exp", "gamma": 0.5}
    mine, theirs = (
        segtwin_keras.build("fcn32s", num_classes=3, widths=TINY, weights=weights, dtype="float64") for _ in range(2)
    )
    images = data.transpose(0, 2, 3, 1)
    want = segtwin_keras.solver_steps(mine, [[(images, label)]] * 3, base_lr=1e-7, **policy)
    optimizer = segtwin_keras.CaffeSGD(
        segtwin_keras.CaffeSchedule(Solver(1e-7, **policy)), multipliers=segtwin_keras.multipliers(theirs)
    )
    for layer in theirs.layers:
        if layer.name.startswith("drop"):
            layer.rate = 0.0
    theirs.compile(optimizer, segtwin_keras.SoftmaxWithLoss())
    history = theirs.fit(images, label[:, 0], epochs=3, batch_size=2, verbose=0)
    np.testing.assert_allclose(history.history["loss"], want, rtol=1e-6)  # Keras reports in float32
    same(segtwin_keras.read_weights(theirs), segtwin_keras.read_weights(mine), weights)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    assert isinstance(again, segtwin_keras.CaffeSGD)
    loss = keras.losses.deserialize(keras.losses.serialize(segtwin_keras.SoftmaxWithLoss("VALID", None, clip=False)))
    assert (loss.normalization, loss.ignore_label, loss.clip) == ("VALID", None, False)


def same(got: Weights, want: Weights, start: Weights) -> None:
    for name, blob in want.items():
        moved = np.abs(blob - start[name]).max()
        assert np.abs(got[name] - blob).max() <= EXACT * moved, name


# ------------------------------------------------------------------------------------- wrong use


@frameworks
def test_wrong_labels_data_and_options_are_errors_of_one_line(framework: str) -> None:
    twin = TWINS[framework]
    weights, data, label = one_step("float32")
    data = data if framework == "torch" else data.transpose(0, 2, 3, 1)
    model = twin.build("fcn32s", num_classes=3, widths=TINY, weights=weights)
    before = twin.read_weights(model).fingerprint()
    wrong = label.copy()
    wrong[0, 0, 3, 4:6] = 3
    for bad, match in (
        (wrong, "label 3 in 2 of 2640 pixels; the classes are 0 to 2, and 255 is ignored"),
        (label[:, :, :-1], "a label of the shape .* it is 2×1×33×40"),
        (label + 0.5, "label .*.5 in 2640 of 2640 pixels"),
        (label - 1, "label -1 in"),
    ):
        with pytest.raises(LabelError, match=match) as caught:
            twin.gradients(model, data, bad)
        assert "\n" not in str(caught.value)
        with pytest.raises(LabelError):
            twin.solver_steps(model, [[(data, bad)]], base_lr=1e-7)
    with pytest.raises(SolverError, match=r"there is no lr_policy 'stp'.*did you mean step"):
        twin.solver_steps(model, [[(data, label)]], base_lr=1e-7, lr_policy="stp")
    with pytest.raises(SolverError, match="'poly' needs power and max_iter"):
        twin.solver_steps(model, [[(data, label)]], base_lr=1e-7, lr_policy="poly")
    with pytest.raises(TypeError, match="no argument 'momentun'; did you mean momentum"):
        twin.solver_steps(model, [[(data, label)]], base_lr=1e-7, momentun=0.9)
    with pytest.raises(ValueError, match="step 1 has no"):
        twin.solver_steps(model, [[(data, label)], []], base_lr=1e-7)
    with pytest.raises(TypeError, match="step 0 is no list of"):
        twin.solver_steps(model, [(data, label)], base_lr=1e-7)
    assert twin.read_weights(model).fingerprint() == before
    probability = twin.build("unet", widths=(2, 2, 2, 2, 2), num_classes=2, seed=1)
    image = np.zeros((1, 3, 32, 32), np.float32) if framework == "torch" else np.zeros((1, 32, 32, 3), np.float32)
    with pytest.raises(ArchitectureError, match="build it with logits=True"):
        twin.gradients(probability, image, np.zeros((1, 1, 32, 32), int))


@frameworks
def test_a_model_keeps_its_mode_and_its_gradients(framework: str) -> None:
    """`gradients` and `solver_steps` have no dropout and leave no trace but the weights."""
    weights, data, label = one_step("float32")
    if framework == "torch":
        model = segtwin_torch.build("fcn32s", num_classes=3, widths=TINY, weights=weights).train()
        model.fc6.weight.grad = torch.ones_like(model.fc6.weight)
        first, second = (segtwin_torch.gradients(model, data, label) for _ in range(2))
        segtwin_torch.solver_steps(model, [[(data, label)]], base_lr=1e-10)
        assert model.training
        assert model.drop6.training
        assert (model.fc6.weight.grad == 1).all()
        assert model.conv1_1.weight.grad is None
    else:
        model = segtwin_keras.build("fcn32s", num_classes=3, widths=TINY, weights=weights)
        first, second = (segtwin_keras.gradients(model, data.transpose(0, 2, 3, 1), label) for _ in range(2))
    assert first[0] == second[0]
    for name, slope in first[1].items():
        np.testing.assert_array_equal(slope, second[1][name])


@frameworks
def test_a_frozen_layer_does_not_move(framework: str) -> None:
    weights, data, label = one_step("float32")
    model = TWINS[framework].build("fcn32s", num_classes=3, widths=TINY, weights=weights)
    if framework == "torch":
        model.conv1_1.requires_grad_(False)
    else:
        model.get_layer("conv1_1").trainable = False
        data = data.transpose(0, 2, 3, 1)
    _, slopes = TWINS[framework].gradients(model, data, label)
    assert "conv1_1/weight" not in slopes
    TWINS[framework].solver_steps(model, [[(data, label)]], base_lr=1e-6)
    after = TWINS[framework].read_weights(model)
    np.testing.assert_array_equal(after["conv1_1/weight"], weights["conv1_1/weight"])
    assert (after["conv1_2/weight"] != weights["conv1_2/weight"]).any()


def test_a_wrong_label_stops_a_graph() -> None:
    """In `fit`, where values are symbols; and in a graph that XLA compiled, where nothing can stop, the
    loss is NaN."""
    loss_of = segtwin_keras.SoftmaxWithLoss()
    score, label = np.zeros((1, 2, 2, 3), np.float32), np.array([[[0, 1], [2, 3]]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="none of the classes 0 to 2"):
        tf.function(loss_of)(label, score)
    assert np.isnan(tf.function(loss_of, jit_compile=True)(label, score))
    assert np.isfinite(tf.function(loss_of, jit_compile=True)(label % 3, score))


def test_the_meta_of_the_files_says_what_the_names_say() -> None:
    for run in runs():
        meta = json.loads(str(run.file["meta"]))
        assert meta["base_lr"] == run.base_lr
        assert run.file["loss_micro"].shape[1] == run.iter_size


def test_published_solvers_fall_by_two_orders_a_stage() -> None:
    rates = [PUBLISHED[name].base_lr for name in ("fcn32s", "fcn16s", "fcn8s")]
    assert all(high / low == pytest.approx(100) for high, low in pairwise(rates))
