"""Why a network predicts one class everywhere: the causes that people's questions turn out to have,
with the evidence.

The questions: "predictions are all black" (milesial/Pytorch-UNet#370 #420 #506), "16s is worse than
32s", "only background" (wkentaro/pytorch-fcn#25 #79 #89).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from segtwin.data.labels import Coding, Contents
from segtwin.losses import IGNORE_LABEL
from segtwin.recipe import Recipe

ONE_CLASS = 0.999
"""Share of the pixels from which one class is said to be everywhere."""
RARE = 0.05
"""Share of all classes but the largest below which a network may well predict the largest alone."""
FEW = 50
"""Steps before which a network may well predict one class."""
SAME = 3
"""Validations of exactly the same score after which nothing is being learned."""


def causes(
    recipe: Recipe,
    scores: Mapping[str, Any],
    steps: Sequence[Sequence[float]],
    validations: Sequence[Mapping[str, Any]],
    coding: Coding,
    contents: Sequence[Contents],
    with_weights: bool,
    zero: Callable[[], Sequence[str]] = tuple,
    dead: Callable[[], Sequence[str]] = tuple,
) -> list[str]:
    """Sentences, the likeliest cause first; none where nothing is wrong.

    Args:
        recipe: of the training.
        scores: of the last validation.
        steps: (step, loss, rate) so far.
        validations: all so far.
        coding: of the labels.
        contents: of the training's label files.
        with_weights: whether it started from weights.
        zero: gives the trained weights that are all zero; asked, as `dead`, where something is wrong.
        dead: gives the layers whose ReLU lets nothing through.
    """
    found: list[str] = []
    total = sum(one["predicted"] for one in scores["classes"])
    largest = max(scores["classes"], key=lambda one: one["predicted"])
    occurring = [one for one in scores["classes"] if one["pixels"]]
    losses = [loss for _, loss, _ in steps]
    stuck = len(validations) >= SAME and len({one["mean_iou"] for one in validations[-SAME:]}) == 1
    collapsed = total and largest["predicted"] >= ONE_CLASS * total and len(occurring) > 1
    if not collapsed and not stuck:
        return found
    if collapsed:
        share = largest["pixels"] / max(1, sum(one["pixels"] for one in scores["classes"]))
        found.append(
            f"COLLAPSE: class {largest['name']} is predicted in {largest['predicted'] / total:.1%} of the pixels, and "
            f"is {share:.1%} of the labels"
        )
        found += _of_labels(coding, contents)
        if 1 - share < RARE:
            found.append(
                f"likely: the other classes are {1 - share:.1%} of the pixels, and the largest alone gives a low loss; "
                "train longer, or with the loss dice or bce-dice, or crop around the objects"
            )
    else:
        found.append(
            f"STUCK: the last {SAME} validations have the same mean IoU, {validations[-1]['mean_iou']}: nothing changes"
        )
    found += _of_rate(recipe, losses)
    if empty := list(zero()):
        found.append(
            f"likely: {' and '.join(empty[:3])} {'is' if len(empty) == 1 else 'are'} still zero after {len(steps)} "
            "steps: what comes before cannot reach the output; start from weights that are not zero, or learn faster"
        )
    if silent := list(dead()):
        found.append(
            f"likely: the ReLU of {silent[0]} lets nothing through ({len(silent)} such layers): a step was too long "
            "for it to come back; begin anew with a tenth of the learning rate"
        )
    if not with_weights and recipe.network.startswith(("fcn", "vggfcn")):
        found.append(
            "likely: the network started without weights; give --weights vgg16.npy, or those of a stage before"
        )
    if collapsed and len(found) == 1 and len(steps) < FEW:
        return []  # it has hardly begun
    if collapsed and len(found) == 1:
        found.append(
            "likely: too few steps so far; if it stays, try --overfit 4, which shows in minutes whether the network "
            "can learn these labels at all"
        )
    return found


def _of_labels(coding: Coding, contents: Sequence[Contents]) -> list[str]:
    counts = coding.count(contents)
    void = counts.get(IGNORE_LABEL, 0) / max(1, sum(counts.values()))
    if void > 0.5:
        return [f"likely: {void:.0%} of the pixels of the labels are void (255), and teach nothing"]
    return []


def _of_rate(recipe: Recipe, losses: Sequence[float]) -> list[str]:
    window = max(1, len(losses) // 5)
    first, last = float(np.mean(losses[:window])), float(np.mean(losses[-window:]))
    if recipe.summed and recipe.base_lr > 1e-7:
        return [
            f"likely: the learning rate {recipe.base_lr:g} is for a loss that is a mean over pixels, and this one is "
            "their sum (normalization BATCH_SIZE); take 1e-10 (fcn32s) to 1e-14 (fcn8s), or normalization VALID"
        ]
    if not recipe.summed and recipe.base_lr < 1e-8:
        return [
            f"likely: the learning rate {recipe.base_lr:g} is for a loss that is summed over pixels, and this one is "
            "their mean; take 1e-4"
        ]
    if len(losses) >= FEW and first and abs(last - first) < 1e-3 * abs(first):
        what = f"the loss stays at {last:.4g}: the learning rate {recipe.base_lr:g} is too small, or gradients vanish"
        return [f"likely: {what}"]
    if last > 1.5 * first:
        what = f"the loss grew from {first:.4g} to {last:.4g}: the learning rate {recipe.base_lr:g} is too large"
        return [f"likely: {what}"]
    return []
