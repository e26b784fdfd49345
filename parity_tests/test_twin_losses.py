"""The twins' losses against the numpy ones, which share no line with them: values and gradients."""

import numpy as np
import pytest
import segtwin_keras
import segtwin_torch
import torch
from segtwin import losses

import tensorflow as tf

CASES = {
    **{
        f"softmax {normalization} {'clipped' if clip else 'as it is'}": (
            lambda score, label, normalization=normalization, clip=clip: losses.softmax_with_loss(
                score, label, normalization, clip=clip
            ),
            ("SoftmaxWithLoss", {"normalization": normalization, "clip": clip}),
        )
        for normalization in losses.NORMALIZATIONS
        for clip in (True, False)
    },
    "every label a class": (
        lambda score, label: losses.softmax_with_loss(score, label % 5, ignore_label=None),
        ("SoftmaxWithLoss", {"ignore_label": None}),
    ),
    "cross entropy": (losses.cross_entropy, ("CrossEntropy", {})),
    "bce": (losses.binary_cross_entropy, ("BinaryCrossEntropy", {})),
    "dice": (losses.dice, ("Dice", {})),
    "bce and dice": (losses.binary_cross_entropy_dice, ("BinaryCrossEntropyDice", {})),
}
BINARY = ("bce", "dice", "bce and dice")
EXACT = 1e-12
BOUND = 2e-6
"""float32: sums of 96 pixels of up to 90, a few roundings each."""


def example(name: str, channels: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(1)
    score = random.normal(0, 60 if "softmax" in name else 3, (2, channels, 6, 8))
    label = random.randint(0, 2 if name in BINARY else channels, (2, channels if name in BINARY else 1, 6, 8))
    label[random.rand(*label.shape) < 0.2] = 255
    return score, label % 5 if name == "every label a class" else label


def by_torch(name: str, score: np.ndarray, label: np.ndarray) -> tuple[float, np.ndarray]:
    kind, options = CASES[name][1]
    tensor = torch.tensor(score, requires_grad=True)
    loss = getattr(segtwin_torch, kind)(**options)(tensor, torch.from_numpy(label))
    loss.backward()
    return loss.item(), tensor.grad.numpy()


def by_keras(name: str, score: np.ndarray, label: np.ndarray) -> tuple[float, np.ndarray]:
    kind, options = CASES[name][1]
    found = []
    for graph in (False, True):
        loss_of = getattr(segtwin_keras, kind)(**options)
        tensor = tf.constant(score.transpose(0, 2, 3, 1))
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            loss = (tf.function(loss_of) if graph else loss_of)(label.transpose(0, 2, 3, 1), tensor)
        found.append((float(loss), tape.gradient(loss, tensor).numpy().transpose(0, 3, 1, 2)))
    (eager, slope), (traced, other) = found
    assert eager == pytest.approx(traced, rel=1e-6 if score.dtype == np.float32 else EXACT)
    np.testing.assert_allclose(slope, other, rtol=1e-5, atol=1e-7)
    return found[0]


@pytest.mark.parametrize("twin", [by_torch, by_keras])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_the_numpy_ones(name: str, twin) -> None:
    for channels in (1, 3) if name in BINARY else (5,):
        score, label = example(name, channels)
        want, slope = CASES[name][0](score, label)
        for dtype, bound in (("float64", EXACT), ("float32", BOUND)):
            value, got = twin(name, score.astype(dtype), label)
            assert value == pytest.approx(want, rel=bound)
            assert got.dtype == dtype
            assert np.abs(got - slope).max() <= bound * np.abs(slope).max()


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_weights_of_pixels_are_the_numpy_ones(framework: str) -> None:
    """The U-Net paper's map."""
    score, label = example("cross entropy", 5)
    weight = np.random.RandomState(3).uniform(1, 11, (2, 6, 8))
    want, _ = losses.cross_entropy(score, label, weight=weight)
    if framework == "torch":
        got = segtwin_torch.CrossEntropy()(torch.from_numpy(score), torch.from_numpy(label), torch.from_numpy(weight))
    else:
        got = segtwin_keras.CrossEntropy()(label[:, 0], score.transpose(0, 2, 3, 1), weight)
    assert float(got) == pytest.approx(want, rel=EXACT)


def test_torchs_own_cross_entropies_agree_where_they_mean_the_same() -> None:
    score, label = example("cross entropy", 5)
    tensor, target = torch.from_numpy(score), torch.from_numpy(label)
    own = torch.nn.functional.cross_entropy(tensor, target[:, 0], ignore_index=255)
    assert segtwin_torch.CrossEntropy()(tensor, target).item() == pytest.approx(own.item(), rel=EXACT)


def test_a_loss_of_sigmoids_takes_no_weights_of_pixels() -> None:
    score, label = example("dice", 1)
    with pytest.raises(ValueError, match="dice takes no sample_weight"):
        segtwin_keras.Dice()(label.transpose(0, 2, 3, 1), score.transpose(0, 2, 3, 1), np.ones((2, 6, 8)))
