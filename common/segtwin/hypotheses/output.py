"""Wrong at the end: a sigmoid or softmax too many or too few."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from segtwin.hypotheses.case import Case, Change, computed_by, left_out, output_is
from segtwin.hypotheses.catalogue import Hypothesis


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the channels."""
    small = np.exp(scores - scores.max(1, keepdims=True))
    return small / small.sum(1, keepdims=True)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Over the channels; the logarithm of `softmax`, which may be zero, would be infinite."""
    small = scores - scores.max(1, keepdims=True)
    return small - np.log(np.exp(small).sum(1, keepdims=True))


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """Of every number."""
    small = np.exp(-np.abs(scores))
    return np.where(scores < 0, small, 1) / (1 + small)


def of(case: Case) -> Iterator[Hypothesis]:
    """Hypotheses about the output of a network."""
    output = case.architecture.output
    last = case.architecture.layer(output)

    def after(id: str, text: str, function: Change) -> Hypothesis:
        return Hypothesis(id, (output,), text, output_is(output, function))

    if last.kind == "Sigmoid":
        yield after("sigmoid_twice", "the sigmoid is applied twice", sigmoid)
        yield Hypothesis(
            "sigmoid_missing",
            (output,),
            "the output is logits: the original ends in a sigmoid",
            computed_by(left_out, output),
        )
        yield Hypothesis(
            "softmax",
            (output,),
            "the output is a softmax over classes: the original ends in a sigmoid",
            lambda one: one.with_operator(lambda layer, table, bottoms, parameters: softmax(bottoms[0]), output),
        )
        yield after(
            "threshold", "the output is 0 or 1, cut at one half: the original gives probabilities",
            lambda p: (p > 0.5).astype(p.dtype),
        )  # fmt: skip
        return
    yield after("softmax", "the output is probabilities of a softmax: the original gives scores", softmax)
    yield after(
        "log_softmax", "the output is logarithms of probabilities: the original gives scores",
        log_softmax,
    )  # fmt: skip
    yield after("sigmoid", "the output goes through a sigmoid: the original gives scores", sigmoid)
    yield after(
        "argmax", "the output is a class a pixel: the original gives scores",
        lambda scores: scores.argmax(1)[:, None].astype(scores.dtype),
    )  # fmt: skip
    if case.architecture.num_classes > 1 and last.kind != "ArgMax":
        yield after("classes_reversed", "the classes are in the reverse order", lambda scores: scores[:, ::-1])
        yield after(
            "background_last", "the background is the last class: it is the first", lambda s: np.roll(s, -1, axis=1)
        )
