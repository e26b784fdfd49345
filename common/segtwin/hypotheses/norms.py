"""Wrong BatchNorm: statistics of the batch, eps, weights left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from segtwin.architectures import Architecture, Layer
from segtwin.architectures.schema import BATCHNORM_EPS
from segtwin.hypotheses.case import Apply, Case, computed_by, layers_are, left_out
from segtwin.hypotheses.catalogue import Hypothesis
from segtwin.oracle import Operator

EPS = (1e-3, 1e-4, 2e-5, 1e-6, 1e-2, 1e-12)
"""Of Keras; older Keras and Caffe2; MXNet; CNTK and DeepLab; and none."""
FACTORS = (0.999, 0.99, 0.9, 0.1, 0.01, 0.001, 999.982361)
"""Momenta, for one another's complement too; the last is Caffe's third blob after thousands of
iterations, 1/(1 − 0.999) in the limit, by which its statistics are to be divided."""


def of(case: Case) -> Iterator[Hypothesis]:
    """Hypotheses about BatchNorm, of all layers together: one option or one line makes them all."""
    names = tuple(layer.name for layer in case.architecture.layers if layer.kind == "BatchNorm")
    if not names:
        return

    def all_of(id: str, text: str, operator: Operator, variant: str = "") -> Hypothesis:
        return Hypothesis(id, names, text, computed_by(operator, *names), variant)

    yield all_of(
        "batchnorm_train",
        "BatchNorm takes the statistics of the batch: call eval(), or training=False",
        of_the_batch,
    )
    for eps in EPS:
        yield all_of(
            "batchnorm_eps",
            f"the eps of BatchNorm is {eps:g}: it is {BATCHNORM_EPS:g}",
            normed(eps=eps),
            f"{eps:g}",
        )
    yield all_of("batchnorm_missing", "BatchNorm is left out", left_out)
    for id, words, operator, variant in UNLOADED:
        yield all_of(id, f"BatchNorm's {words}", operator, variant)
    for factor in FACTORS:
        yield all_of(
            "batchnorm_folded",
            f"BatchNorm's running statistics are {factor:g} of what they are: a momentum, or Caffe's third blob, is "
            "folded into them",
            normed(mean=factor, variance=factor),
            f"{factor:g}",
        )
    yield all_of(
        "batchnorm_deviation",
        "BatchNorm's running variance is taken for a standard deviation",
        normed(deviation=True),
    )
    yield all_of(
        "batchnorm_deviation", "BatchNorm's running variance is a standard deviation", normed(root=True), "root"
    )
    for words, order in SWAPPED:
        yield all_of("batchnorm_swapped", f"BatchNorm's {words} are exchanged", in_order(order), words)
    active = [layer for layer in case.architecture.layers if layer.kind == "BatchNorm" and layer.relu]
    if active:
        yield Hypothesis(
            "relu_before_batchnorm",
            tuple(layer.name for layer in active),
            "the ReLU comes before BatchNorm: it comes behind it",
            relu_first(active, twice=False),
        )
        yield Hypothesis(
            "relu_before_batchnorm",
            tuple(layer.name for layer in active),
            "there is a ReLU before BatchNorm, beside the one behind it",
            relu_first(active, twice=True),
            "twice",
        )
    for layer in active if len(active) > 1 else ():
        for words, twice in (("its ReLU comes before it, not behind", False), ("there is a ReLU before it, too", True)):
            yield Hypothesis(
                "relu_before_batchnorm", (layer.name,), f"{layer.name}: {words}", relu_first([layer], twice),
                "twice" * twice,
            )  # fmt: skip
    for name in names if len(names) > 1 else ():
        for id, text, operator, variant in of_one():
            yield Hypothesis(id, (name,), text.format(name), computed_by(operator, name), variant)


def of_one() -> Iterator[tuple[str, str, Operator, str]]:
    """What happens to one layer alone: id, words with its name, operator and variant."""
    yield "batchnorm_missing", "{} is left out", left_out, ""
    for id, words, operator, variant in UNLOADED:
        yield id, f"{{}}'s {words}", operator, variant
    yield "batchnorm_train", "{} takes the statistics of the batch, the others their own", of_the_batch, ""
    for eps in EPS:
        text = f"the eps of {{}} is {eps:g}: it is {BATCHNORM_EPS:g}, as in the other layers"
        yield "batchnorm_eps", text, normed(eps=eps), f"{eps:g}"
    for words, order in SWAPPED:
        yield "batchnorm_swapped", f"{words} of {{}} are exchanged", in_order(order), words


def normed(
    eps: float = BATCHNORM_EPS,
    mean: float = 1.0,
    variance: float = 1.0,
    deviation: bool = False,
    root: bool = False,
    unloaded: Sequence[int] = (),
) -> Operator:
    """BatchNorm with something else in place of its numbers; of its four arrays, those `unloaded` as they begin."""

    def operator(
        layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
    ) -> np.ndarray:
        (x,) = bottoms
        weight, bias, running_mean, running_var = (
            (np.full_like(one, INITIAL[place]) if place in unloaded else one)[:, None, None]
            for place, one in enumerate(parameters)
        )
        number = x.dtype.type
        middle, spread = running_mean * number(mean), running_var * number(variance)
        spread = np.sqrt(spread) if root else spread
        return (x - middle) / (spread if deviation else np.sqrt(spread + number(eps))) * weight + bias

    return operator


INITIAL = (1, 0, 0, 1)
"""What weight, bias, running mean and variance are before training."""
UNLOADED = (
    ("batchnorm_identity", "weight and bias are not loaded: they are 1 and 0", normed(unloaded=(0, 1)), ""),
    ("batchnorm_identity", "weight is not loaded: it is 1", normed(unloaded=(0,)), "weight"),
    ("batchnorm_identity", "bias is not loaded: it is 0", normed(unloaded=(1,)), "bias"),
    ("batchnorm_statistics", "running statistics are not loaded: they are 0 and 1", normed(unloaded=(2, 3)), ""),
    ("batchnorm_statistics", "running mean is not loaded: it is 0", normed(unloaded=(2,)), "mean"),
    ("batchnorm_statistics", "running variance is not loaded: it is 1", normed(unloaded=(3,)), "variance"),
    ("batchnorm_unloaded", "arrays are not loaded: they are 1, 0, 0 and 1", normed(unloaded=(0, 1, 2, 3)), ""),
)
"""Id, in words, operator and variant."""


def of_the_batch(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """BatchNorm as in training."""
    (x,) = bottoms
    weight, bias = (one[:, None, None] for one in parameters[:2])
    mean, variance = (of((0, 2, 3), keepdims=True) for of in (x.mean, x.var))
    return (x - mean) / np.sqrt(variance + x.dtype.type(BATCHNORM_EPS)) * weight + bias


def relu_first(layers: list[Layer], twice: bool) -> Apply:
    """BatchNorm of what a ReLU leaves; with another ReLU behind it, or without."""

    def operator(
        layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
    ) -> np.ndarray:
        return normed()(layer, architecture, [np.maximum(bottoms[0], 0)], parameters)

    names = [layer.name for layer in layers]
    return lambda case: layers_are(layers, relu=twice)(case).with_operator(operator, *names)


SWAPPED = (
    ("running mean and bias", (0, 2, 1, 3)),
    ("weight and bias", (1, 0, 2, 3)),
    ("running mean and variance", (0, 1, 3, 2)),
)
"""Two of the four arrays that are exchanged, in words, and the order that makes of them."""


def in_order(order: Sequence[int]) -> Operator:
    """BatchNorm with its arrays, weight, bias, running mean and variance, in another order."""

    def operator(
        layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
    ) -> np.ndarray:
        return normed()(layer, architecture, bottoms, [parameters[place] for place in order])

    return operator
