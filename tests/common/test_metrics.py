"""Scores against scikit-learn and torchmetrics, and against the formulas in other words."""

import numpy as np
import pytest
import torch
import torchmetrics.classification as tm
from segtwin import metrics
from segtwin.errors import LabelError
from segtwin.metrics import Confusion, objects, rand_and_information
from sklearn.metrics import confusion_matrix


def case(seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(seed)
    truth = random.randint(0, classes, (3, 20, 30))
    predicted = np.where(random.rand(*truth.shape) < 0.6, truth, random.randint(0, classes, truth.shape))
    return truth, predicted


@pytest.mark.parametrize(("seed", "classes"), [(0, 2), (1, 5), (2, 21)])
def test_the_confusion_is_scikit_learns_and_the_scores_torchmetrics(seed: int, classes: int) -> None:
    truth, predicted = case(seed, classes)
    ignored = truth.copy()
    ignored[np.random.RandomState(9).rand(*truth.shape) < 0.1] = 255
    found = Confusion(classes)
    for one, other in zip(ignored, predicted, strict=True):
        found.add(one, other)
    kept = ignored != 255
    want = confusion_matrix(ignored[kept], predicted[kept], labels=list(range(classes)))
    np.testing.assert_array_equal(found.counts, want)
    tensors = torch.from_numpy(predicted), torch.from_numpy(ignored)
    options = {"num_classes": classes, "ignore_index": 255}
    assert found.pixel_accuracy == pytest.approx(tm.MulticlassAccuracy(average="micro", **options)(*tensors).item())
    np.testing.assert_allclose(found.accuracy, tm.MulticlassAccuracy(average="none", **options)(*tensors), rtol=1e-6)
    np.testing.assert_allclose(found.iou, tm.MulticlassJaccardIndex(average="none", **options)(*tensors), rtol=1e-6)
    np.testing.assert_allclose(found.dice, tm.MulticlassF1Score(average="none", **options)(*tensors), rtol=1e-6)
    assert found.frequency_weighted_iou == pytest.approx(
        tm.MulticlassJaccardIndex(average="weighted", **options)(*tensors).item(), rel=1e-6
    )


def test_classes_that_do_not_occur_are_in_no_mean() -> None:
    """score.py takes nanmean: class 2 neither occurs nor is predicted, class 1 is predicted alone."""
    found = Confusion(3).add(np.array([[0, 0, 0, 0]]), np.array([[0, 0, 0, 1]]))
    assert found.accuracy.tolist()[0] == 0.75
    assert np.isnan(found.accuracy[1:]).all()
    assert found.mean_accuracy == 0.75
    assert found.iou.tolist()[:2] == [0.75, 0.0]
    assert found.mean_iou == 0.375
    assert found.frequency_weighted_iou == 0.75
    stated = found.asdict(["a", "b", "c"])
    assert stated["classes"][2] == {
        "name": "c", "accuracy": None, "iou": None, "dice": None, "pixels": 0, "predicted": 0,
    }  # fmt: skip


def test_nothing_counted_is_nan_without_a_warning() -> None:
    found = Confusion(2).add(np.full((2, 2), 255), np.zeros((2, 2), int))
    assert found.pixels == 0
    assert np.isnan([found.pixel_accuracy, found.mean_iou, found.mean_accuracy, found.frequency_weighted_iou]).all()


def test_wrong_pixels_are_refused() -> None:
    with pytest.raises(LabelError, match="are not of the same pixels"):
        Confusion(2).add(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(LabelError, match="a prediction of class 5 where the classes are 0 to 1"):
        Confusion(2).add(np.zeros((2, 2), int), np.full((2, 2), 5))


def test_rand_and_information_of_a_split_and_a_merge() -> None:
    """Two objects of 8 pixels. One of them split in halves: Σp² = 1/4 + 2/16; merged: 1/4 + 1/4 of 1."""
    truth = np.repeat([1, 2], 8).reshape(4, 4)
    perfect = rand_and_information(truth, truth * 7)
    assert perfect == {"rand": 1.0, "rand_split": 1.0, "rand_merge": 1.0, "information": pytest.approx(1.0)}
    split = truth.copy()
    split[0] = 3
    scores = rand_and_information(truth, split)
    assert scores["rand_split"] == pytest.approx((1 / 4 + 2 / 16) / (1 / 2))
    assert scores["rand_merge"] == pytest.approx(1.0)
    merged = rand_and_information(truth, np.ones_like(truth))
    assert merged["rand_split"] == pytest.approx(1.0)
    assert merged["rand_merge"] == pytest.approx(0.5)
    assert merged["rand"] == pytest.approx(2 * 0.5 / 1.5)
    assert merged["information"] == pytest.approx(0.0)


def test_objects_touch_at_their_sides() -> None:
    assert objects(np.array([[1, 0], [0, 1]])).max() == 2
    assert objects(np.array([[1, 1], [0, 1]])).max() == 1


def pieces(ring: list[int], corners: bool, sides_only: bool) -> int:
    """Connected pieces of a pixel's neighbours, found by scipy."""
    from scipy.ndimage import label

    places = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
    patch = np.zeros((3, 3), int)
    for place, value in zip(places, ring, strict=True):
        patch[place] = value
    found, count = label(patch, np.ones((3, 3)) if corners else None)
    touching = {found[place] for place in places[1::2]} - {0}
    return len(touching) if sides_only else count


def test_a_simple_pixel_neither_joins_nor_parts() -> None:
    """All 256 neighbourhoods, against scipy's connected pieces."""
    for code, simple in enumerate(metrics._simple()):
        ring = [code >> bit & 1 for bit in range(8)]
        objects = pieces(ring, corners=False, sides_only=True)
        rest = pieces([1 - one for one in ring], corners=True, sides_only=False)
        assert simple == (objects == 1 and rest == 1), ring


def test_the_warping_error_counts_topology_alone() -> None:
    truth = np.zeros((20, 30), bool)
    truth[2:18, 2:14] = truth[2:18, 15:28] = True
    assert metrics.warping_error(truth, truth) == 0
    moved = np.zeros_like(truth)
    moved[3:19, 3:13] = moved[3:19, 14:29] = True
    assert (moved != truth).mean() > 0.1
    assert metrics.warping_error(truth, moved) == 0  # borders elsewhere, the same two objects
    merged = truth.copy()
    merged[8, 14] = True
    assert metrics.warping_error(truth, merged) == 1 / truth.size  # one pixel joins two objects
    merged[2:18, 14] = True
    assert 1 / truth.size <= metrics.warping_error(truth, merged) <= 16 / truth.size
    hole = truth.copy()
    hole[5:8, 5:8] = False
    assert metrics.warping_error(truth, hole) == 9 / truth.size
    assert metrics.warping_error(truth, np.zeros_like(truth)) >= 2 / truth.size  # an object shrinks to one pixel
