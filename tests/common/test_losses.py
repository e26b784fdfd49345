"""The numpy losses: values worked out in other words, gradients by finite differences."""

from collections.abc import Callable

import numpy as np
import pytest
from segtwin import losses
from segtwin.errors import LabelError


def example(classes: int = 5, seed: int = 0, spread: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(seed)
    label = random.randint(0, classes, (2, 1, 4, 6))
    label[random.rand(*label.shape) < 0.2] = 255
    return random.normal(0, spread, (2, classes, 4, 6)), label


def slow(score: np.ndarray, label: np.ndarray, clip: bool) -> tuple[float, int]:
    """Pixel by pixel: the sum, and how many count."""
    total, counted = 0.0, 0
    for n, y, x in np.ndindex(label.shape[0], *label.shape[2:]):
        target = label[n, 0, y, x]
        if target == 255:
            continue
        counted += 1
        powers = np.exp(score[n, :, y, x] - score[n, :, y, x].max())
        p = powers[target] / powers.sum()
        total -= np.log(max(p, 1.1754943508222875e-38) if clip else p)
    return total, counted


@pytest.mark.parametrize("clip", [True, False])
def test_softmax_with_loss_pixel_by_pixel(clip: bool) -> None:
    score, label = example(spread=80.0)
    total, counted = slow(score, label, clip)
    assert total != slow(score, label, not clip)[0]
    for normalization, divisor in {"BATCH_SIZE": 2, "VALID": counted, "FULL": 48, "NONE": 1}.items():
        loss, _ = losses.softmax_with_loss(score, label, normalization, clip=clip)
        assert loss == pytest.approx(total / divisor, rel=1e-12), normalization
    assert losses.cross_entropy(score, label)[0] == pytest.approx(slow(score, label, False)[0] / counted, rel=1e-12)


def test_ignored_pixels_alone_are_no_division_by_zero() -> None:
    score, label = example()
    for normalization in losses.NORMALIZATIONS:
        loss, slope = losses.softmax_with_loss(score, np.full_like(label, 255), normalization)
        assert loss == 0
        assert not slope.any()


def test_the_clip_is_caffes_and_not_in_the_gradient() -> None:
    score = np.array([1000.0, 0.0]).reshape(1, 2, 1, 1)
    loss, slope = losses.softmax_with_loss(score, np.array([[[[1]]]]))
    assert loss == pytest.approx(87.33654475)
    assert slope.ravel().tolist() == [1.0, -1.0]


FUNCTIONS: dict[str, Callable] = {
    "batch": losses.softmax_with_loss,
    "valid": lambda score, label: losses.softmax_with_loss(score, label, "VALID"),
    "weighted": lambda score, label: losses.cross_entropy(score, label, weight=np.arange(48).reshape(2, 4, 6)),
    "bce": losses.binary_cross_entropy,
    "dice": losses.dice,
    "both": losses.binary_cross_entropy_dice,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    score, label = example(1 if name in ("bce", "dice", "both") else 5)
    if score.shape[1] == 1:
        label[:, :, ::2][label[:, :, ::2] == 0] = 1
    function = FUNCTIONS[name]
    _, slope = function(score, label)
    for index in list(np.ndindex(score.shape))[::7]:
        step = np.zeros_like(score)
        step[index] = 1e-5
        estimate = (function(score + step, label)[0] - function(score - step, label)[0]) / 2e-5
        assert slope[index] == pytest.approx(estimate, rel=1e-6, abs=1e-8)
    assert not np.moveaxis(slope, 1, -1)[label[:, 0] == 255].any()


def test_dice_of_a_perfect_and_of_an_empty_mask() -> None:
    label = np.zeros((1, 1, 4, 4), int)
    assert losses.dice(np.full((1, 1, 4, 4), -50.0), label)[0] == pytest.approx(0)
    label[:, :, 1] = 1
    assert losses.dice(np.where(label, 50.0, -50.0), label)[0] == pytest.approx(0)
    assert losses.dice(np.where(label, -50.0, 50.0), label)[0] == pytest.approx(1 - 1 / 17)


@pytest.mark.parametrize(
    ("classes", "label", "message"),
    [
        (3, np.full((2, 1, 4, 6), 7), "label 7 in 48 of 48 pixels; the classes are 0 to 2, and 255 is ignored"),
        (2, np.full((2, 1, 4, 6), 128), "label 128 in 48 of 48"),
        (3, np.full((2, 1, 4, 6), 0.5), "label 0.5 in 48 of 48"),
        (3, np.zeros((2, 4, 5), int), "a label of the shape (2, 4, 5) for scores of (2, 3, 4, 6); it is 2×1×4×6"),
    ],
)
def test_wrong_labels_are_named(classes: int, label: np.ndarray, message: str) -> None:
    with pytest.raises(LabelError) as caught:
        losses.softmax_with_loss(np.zeros((2, classes, 4, 6)), label)
    assert message in str(caught.value)


def test_a_mask_of_0_and_255_gets_a_hint_where_255_is_not_ignored() -> None:
    label = np.zeros((1, 1, 2, 2), int)
    label[..., 0] = 255
    with pytest.raises(LabelError, match="a mask of 0 and 255 has to become 0 and 1 first"):
        losses.softmax_with_loss(np.zeros((1, 2, 2, 2)), label, ignore_label=None)
    with pytest.raises(LabelError, match="label 2 in 4 of 4 pixels; the foreground is 1"):
        losses.dice(np.zeros((1, 1, 2, 2)), np.full((1, 1, 2, 2), 2))


def test_there_is_no_fifth_normalization() -> None:
    with pytest.raises(ValueError, match="no normalization 'MEAN'"):
        losses.softmax_with_loss(*example(), "MEAN")
