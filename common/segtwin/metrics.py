"""Scores of a segmentation: fcn's four metrics, IoU and Dice of each class, and those of ISBI 2012.

Sources: `score.py` of shelhamer/fcn.berkeleyvision.org at 1305c7378a9f0ab44b2c936f4d60e4687e3d8743
(`fast_hist`, `do_seg_tests`); the challenge's paper, Arganda-Carreras et al., "Crowdsourcing the
creation of image segmentation algorithms for connectomics" (Frontiers in Neuroanatomy 2015), for the
foreground-restricted Rand and information scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from segtwin.errors import LabelError


@dataclass
class Confusion:
    """Counts of pixels, classes of the truth × classes that were predicted.

    Pixels whose truth is outside 0 … classes − 1, as 255, count nowhere, as in score.py's `fast_hist`.
    """

    classes: int
    counts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.classes, self.classes), np.int64)

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> Confusion:
        """Count the pixels of one image, or of several.

        Args:
            truth: class of each pixel.
            predicted: of the same number of pixels; every one is a class.

        Raises:
            LabelError: other sizes, or a prediction that is no class.
        """
        truth, predicted = np.asarray(truth), np.asarray(predicted)
        if truth.size != predicted.size or np.squeeze(truth).shape != np.squeeze(predicted).shape:
            raise LabelError(
                f"a truth of {truth.shape} and a prediction of {predicted.shape} are not of the same pixels"
            )
        truth, predicted = truth.ravel().astype(np.int64), predicted.ravel().astype(np.int64)
        counted = (truth >= 0) & (truth < self.classes)
        inside = predicted[counted]
        if inside.size and not 0 <= inside.min() <= inside.max() < self.classes:
            raise LabelError(f"a prediction of class {inside.max()} where the classes are 0 to {self.classes - 1}")
        pairs = np.bincount(self.classes * truth[counted] + inside, minlength=self.classes**2)
        self.counts += pairs.reshape(self.classes, self.classes)
        return self

    @property
    def pixels(self) -> int:
        """Pixels that were counted."""
        return int(self.counts.sum())

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels that are right; NaN of none."""
        return _ratio(np.trace(self.counts), self.counts.sum())

    @property
    def accuracy(self) -> np.ndarray:
        """Of each class, the share of its pixels that are right; NaN where it does not occur."""
        return _ratios(np.diag(self.counts), self.counts.sum(1))

    @property
    def iou(self) -> np.ndarray:
        """Of each class, intersection over union; NaN where it neither occurs nor is predicted."""
        right = np.diag(self.counts)
        return _ratios(right, self.counts.sum(1) + self.counts.sum(0) - right)

    @property
    def dice(self) -> np.ndarray:
        """Of each class, 2·intersection over the sum of both; NaN likewise."""
        return _ratios(2 * np.diag(self.counts), self.counts.sum(1) + self.counts.sum(0))

    @property
    def mean_accuracy(self) -> float:
        """Mean of `accuracy` over the classes that occur."""
        return _mean(self.accuracy)

    @property
    def mean_iou(self) -> float:
        """Mean of `iou` over the classes that occur or are predicted."""
        return _mean(self.iou)

    @property
    def frequency_weighted_iou(self) -> float:
        """`iou`, each weighted by its class's share of the truth, over the classes that occur."""
        share = self.counts.sum(1)
        here = share > 0
        return _ratio((share[here] * self.iou[here]).sum(), share.sum())

    def asdict(self, names: list[str] | None = None) -> dict[str, Any]:
        """For JSON: fcn's four metrics, and of each class accuracy, IoU, Dice and pixels; None for NaN."""
        names = names or [str(number) for number in range(self.classes)]
        rows = zip(names, self.accuracy, self.iou, self.dice, self.counts.sum(1), self.counts.sum(0), strict=True)
        return {
            "pixels": self.pixels,
            "pixel_accuracy": plain(self.pixel_accuracy),
            "mean_accuracy": plain(self.mean_accuracy),
            "mean_iou": plain(self.mean_iou),
            "frequency_weighted_iou": plain(self.frequency_weighted_iou),
            "mean_dice": plain(_mean(self.dice)),
            "classes": [
                {
                    "name": name,
                    "accuracy": plain(accuracy),
                    "iou": plain(iou),
                    "dice": plain(dice),
                    "pixels": int(there),
                    "predicted": int(found),
                }
                for name, accuracy, iou, dice, there, found in rows
            ],
        }


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")


def _ratios(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    """numpy's nanmean, NaN of nothing without a warning."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def plain(value: float) -> float | None:
    """For JSON, which has no word for NaN."""
    return None if np.isnan(value) else float(value)


def objects(foreground: np.ndarray) -> np.ndarray:
    """Numbers of the connected pieces of a mask, 1, 2, …, H×W; 0 is the rest. Pixels touch at their
    sides, as in the challenge's scripts."""
    from scipy.ndimage import label

    found, _ = label(np.asarray(foreground, bool))
    return found


def rand_and_information(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """ISBI 2012's foreground-restricted scores of two segmentations into objects.

    p is the share of the pixels, among those that belong to an object in the truth, that belong to
    object i of the prediction and j of the truth; s and t are its sums. Background of the prediction
    counts as objects of one pixel each.

    Args:
        truth: H×W numbers of objects; 0 is no object, and its pixels do not count.
        predicted: likewise.

    Returns:
        "rand": V^Rand = Σp² / (½Σs² + ½Στ²), with its parts "rand_split" and "rand_merge";
        "information": V^Info, likewise. 1 is best.
    """
    inside = truth > 0
    total = int(inside.sum())
    if not total:
        return dict.fromkeys(("rand", "rand_split", "rand_merge", "information"), float("nan"))
    t, s = truth[inside].astype(np.int64), predicted[inside].astype(np.int64)
    alone = s == 0
    s[alone] = s.max(initial=0) + 1 + np.arange(int(alone.sum()))  # each pixel its own
    _, pair = np.unique(np.stack([s, t]), axis=1, return_counts=True)
    _, of_s = np.unique(s, return_counts=True)
    _, of_t = np.unique(t, return_counts=True)
    pairs, rows, columns = ((counts / total).astype(np.float64) for counts in (pair, of_s, of_t))
    both, mine, theirs = (float((p**2).sum()) for p in (pairs, rows, columns))
    entropy_pair, entropy_s, entropy_t = (float(-(p * np.log(p)).sum()) for p in (pairs, rows, columns))
    shared = entropy_s + entropy_t - entropy_pair
    return {
        "rand": 2 * both / (mine + theirs),
        "rand_split": both / theirs,
        "rand_merge": both / mine,
        "information": 1.0 if entropy_s + entropy_t == 0 else 2 * shared / (entropy_s + entropy_t),
    }


def warping_error(truth: np.ndarray, predicted: np.ndarray) -> float:
    """ISBI 2012's warping error: the share of the pixels that still differ when the truth has been
    deformed towards the prediction as far as its topology allows. What is left are splits, mergers,
    holes and pieces, not a border that runs a pixel beside.

    V. Jain et al., "Boundary learning by optimization with topological constraints" (CVPR 2010): a pixel
    that differs is flipped if it is simple, if flipping it neither joins nor parts anything. Objects touch
    at their sides and the rest at corners, too; outside of the image is no object. Which deformation is
    found depends on the order; here it is row by row, and then what has become simple.

    Args:
        truth: H×W, not 0 is an object.
        predicted: likewise.
    """
    target = np.asarray(predicted) != 0
    height, width = target.shape
    if not target.size:
        return float("nan")
    wide = width + 2
    now = np.pad(np.asarray(truth) != 0, 1).ravel().tolist()
    want = np.pad(target, 1).ravel().tolist()
    around = (-wide - 1, -wide, -wide + 1, 1, wide + 1, wide, wide - 1, -1)  # clockwise
    inside = np.pad(np.ones((height, width), bool), 1).ravel().tolist()
    simple = _simple()
    waiting = [at for at, (mine, yours) in enumerate(zip(now, want, strict=True)) if mine != yours]
    while waiting:
        again: list[int] = []
        for at in waiting:
            if now[at] == want[at] or not simple[sum(now[at + step] << bit for bit, step in enumerate(around))]:
                continue
            now[at] = want[at]
            again += [at + step for step in around if inside[at + step] and now[at + step] != want[at + step]]
        waiting = sorted(set(again))
    return sum(mine != yours for mine, yours in zip(now, want, strict=True)) / target.size


@cache
def _simple() -> tuple[bool, ...]:
    """Whether a pixel is simple, by its eight neighbours, clockwise from above left: one piece of objects
    (of those that touch sides) at its sides, and one piece of the rest (touching at corners, too)."""
    found = []
    for code in range(256):
        ring = [code >> bit & 1 for bit in range(8)]
        # along the ring, neighbours touch at their sides; a piece counts if it holds one of the pixel's own sides
        objects = sum(
            1
            for start in range(8)
            if ring[start] and not ring[start - 1]
            for length in [next(n for n in range(1, 9) if not ring[(start + n) % 8])]
            if any((start + n) % 2 for n in range(length))
        )
        if all(ring):
            objects = 1
        # of the rest, two sides that meet at a corner touch across it
        rest = [
            not one or (bit % 2 == 0 and not ring[bit - 1] and not ring[(bit + 1) % 8]) for bit, one in enumerate(ring)
        ]
        others = sum(1 for bit in range(8) if rest[bit] and not rest[bit - 1]) or int(all(rest))
        found.append(objects == 1 and others == 1)
    return tuple(found)
