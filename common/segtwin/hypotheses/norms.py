"""Wrong BatchNorm: statistics of the batch, eps, weights left out."""

from __future__ import annotations

from collections.abc import Iterator

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
    yield all_of(
        "batchnorm_identity", "BatchNorm's weight and bias are not loaded: they are 1 and 0", normed(affine=False)
    )
    yield all_of(
        "batchnorm_statistics",
        "BatchNorm's running statistics are not loaded: they are 0 and 1",
        normed(statistics=False),
    )
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
    yield all_of("batchnorm_swapped", "BatchNorm's running mean and bias are exchanged", swapped)
    active = [layer for layer in case.architecture.layers if layer.kind == "BatchNorm" and layer.relu]
    if active:
        yield Hypothesis(
            "relu_before_batchnorm",
            tuple(layer.name for layer in active),
            "the ReLU comes before BatchNorm: it comes behind it",
            relu_first(active),
        )
    for name in names:
        yield Hypothesis(
            "batchnorm_missing",
            (name,),
            f"{name} is left out",
            computed_by(left_out, name),
        )


def normed(
    eps: float = BATCHNORM_EPS,
    affine: bool = True,
    statistics: bool = True,
    mean: float = 1.0,
    variance: float = 1.0,
    deviation: bool = False,
    root: bool = False,
) -> Operator:
    """BatchNorm with something else in place of its numbers."""

    def operator(
        layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
    ) -> np.ndarray:
        (x,) = bottoms
        weight, bias, running_mean, running_var = (one[:, None, None] for one in parameters)
        number = x.dtype.type
        middle = running_mean * number(mean) if statistics else number(0)
        spread = running_var * number(variance) if statistics else np.ones_like(running_var)
        spread = np.sqrt(spread) if root else spread
        top = (x - middle) / (spread if deviation else np.sqrt(spread + number(eps)))
        return top * weight + bias if affine else top

    return operator


def of_the_batch(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """BatchNorm as in training."""
    (x,) = bottoms
    weight, bias = (one[:, None, None] for one in parameters[:2])
    mean, variance = (of((0, 2, 3), keepdims=True) for of in (x.mean, x.var))
    return (x - mean) / np.sqrt(variance + x.dtype.type(BATCHNORM_EPS)) * weight + bias


def relu_first(layers: list[Layer]) -> Apply:
    """BatchNorm of what a ReLU leaves."""

    def operator(
        layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
    ) -> np.ndarray:
        return normed()(layer, architecture, [np.maximum(bottoms[0], 0)], parameters)

    names = [layer.name for layer in layers]
    return lambda case: layers_are(layers, relu=False)(case).with_operator(operator, *names)


def swapped(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """Running mean and bias exchanged."""
    weight, bias, mean, variance = parameters
    return normed()(layer, architecture, bottoms, [weight, mean, bias, variance])
