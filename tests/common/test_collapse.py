"""What is said of a network that predicts one class everywhere."""

from collections import Counter
from pathlib import Path

import numpy as np
from segtwin import recipe
from segtwin.collapse import causes
from segtwin.data.labels import Coding, Contents
from segtwin.metrics import Confusion

MANY = [[step, 0.5, 1e-3] for step in range(1, 101)]


def scores(truth: list[int], predicted: list[int]) -> dict:
    return Confusion(2).add(np.array(truth), np.array(predicted)).asdict()


def labels(**counts: int) -> list[Contents]:
    return [Contents(Path("a.png"), (1, 1), Counter({(int(name[1:]),): count for name, count in counts.items()}))]


def said(
    network: str = "unet-small", losses: list[list[float]] = MANY, more: dict | None = None, **fields: object
) -> str:
    made = recipe.make(network, None, **fields)
    found = scores([0] * 98 + [1] * 2, [0] * 100)
    arguments = {"contents": labels(v0=98, v1=2), "with_weights": False} | (more or {})
    return "\n".join(causes(made, found, losses or MANY, [found], Coding("index"), **arguments))


def test_one_class_everywhere_is_said_with_both_shares() -> None:
    assert "COLLAPSE: class 0 is predicted in 100.0% of the pixels, and is 98.0% of the labels" in said()
    assert "the other classes are 2.0% of the pixels" in said()


def test_nothing_is_said_of_a_network_that_tells_apart() -> None:
    made = recipe.make("unet-small")
    good = scores([0] * 50 + [1] * 50, [0] * 40 + [1] * 60)
    assert causes(made, good, MANY, [good], Coding("index"), labels(v0=1), False) == []
    blank = scores([0] * 100, [0] * 100)
    assert causes(made, blank, MANY, [blank], Coding("index"), labels(v0=1), False) == []


def test_rates_that_belong_to_another_loss() -> None:
    assert "is for a loss that is a mean over pixels" in said("fcn8s", base_lr=1e-3)
    assert "is for a loss that is summed over pixels" in said(base_lr=1e-10)
    assert "started without weights" in said("fcn8s")
    assert "started without weights" not in said("fcn8s", more={"with_weights": True})


def test_losses_that_stay_or_grow() -> None:
    assert "the loss stays at 0.5" in said()
    growing = [[step, 0.01 * step, 1e-3] for step in range(1, 101)]
    assert "the loss grew from" in said(losses=growing)


def test_void_everywhere() -> None:
    assert "80% of the pixels of the labels are void" in said(more={"contents": labels(v0=10, v1=10, v255=80)})


def test_a_score_that_never_changes() -> None:
    made = recipe.make("unet-small")
    same = scores([0] * 50 + [1] * 50, [0] * 40 + [1] * 60)
    found = causes(made, same, MANY, [same] * 3, Coding("index"), labels(v0=1), False)
    assert found[0].startswith("STUCK: the last 3 validations have the same mean IoU")


def test_weights_that_are_still_zero_and_relus_that_are_dead() -> None:
    text = said(
        "fcn8s", more={"zero": lambda: ["score_fr/weight", "score_pool4/weight"], "dead": lambda: ["fc6", "fc7"]}
    )
    assert "score_fr/weight and score_pool4/weight are still zero after 100 steps" in text
    assert "the ReLU of fc6 lets nothing through (2 such layers)" in text
    asked = []
    made, good = recipe.make("unet-small"), scores([0] * 50 + [1] * 50, [0] * 40 + [1] * 60)
    assert (
        causes(made, good, MANY, [good], Coding("index"), labels(v0=1), False, *2 * [lambda: asked.append(1) or []])
        == []
    )
    assert not asked  # a forward pass, only where something is wrong
