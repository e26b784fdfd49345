"""Wrong weights: orders of axes, mirrored kernels, swapped layers, biases left out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from segtwin.architectures import Layer
from segtwin.hypotheses.case import PARAMETERS, Apply, Case, Change, weight_is
from segtwin.hypotheses.catalogue import Hypothesis

APART = 4
"""Layers of one shape that are exchanged: as many places apart."""


def of(case: Case) -> Iterator[Hypothesis]:
    """Hypotheses about the weights of a network."""
    those = [layer for layer in case.architecture.layers if layer.kind == "Convolution" and known(case, layer)]
    spatial = [layer for layer in those if layer.kernel > 1]
    for id, change in LAYOUTS.items():
        words = WORDS[id]
        if len(spatial) > 1:
            yield Hypothesis(
                id, tuple(layer.name for layer in spatial), f"the kernels of all convolutions {words}",
                every(case, spatial, change),
            )  # fmt: skip
        for layer in spatial:
            yield Hypothesis(
                id if layer.kernel < 7 or "order" not in id else f"{layer.name}_order" if layer.relu else id,
                (layer.name,), f"{weight(case, layer)} {of_one(words)}",
                weight_is(weight(case, layer), change),
                "chw" if id == "kernel_order_chw" else "",
            )  # fmt: skip
    for layer in those:
        shape = case.weights[weight(case, layer)].shape
        if shape[0] == shape[1]:
            yield Hypothesis(
                "kernel_in_out", (layer.name,), f"{weight(case, layer)} has inputs and outputs exchanged",
                weight_is(weight(case, layer), lambda w: w.swapaxes(0, 1)),
            )  # fmt: skip
        if layer.bottoms[0] == case.architecture.input:
            yield Hypothesis(
                "input_order", (layer.name,),
                f"the inputs of {weight(case, layer)} are in the reverse order (RGB for BGR)",
                weight_is(weight(case, layer), lambda w: w[:, ::-1]), "kernels",
            )  # fmt: skip
    square = [layer for layer in those if len({*case.weights[weight(case, layer)].shape[:2]}) == 1 and layer.kernel > 1]
    if len(square) > 1:
        yield Hypothesis(
            "kernel_in_out", tuple(layer.name for layer in square), "kernels have inputs and outputs exchanged",
            every(case, square, lambda w: w.swapaxes(0, 1)),
        )  # fmt: skip
    yield from biases(case)
    yield from swapped(case, those)
    yield from narrowed(case)


def of_one(words: str) -> str:
    """What is said of several kernels, of one."""
    several, rest = words.split(" ", 1)
    verb = {"are": "is", "were": "was", "have": "has"}[several]
    return f"{verb} {rest}".replace("their", "its").replace(" are ", " is ")


def weight(case: Case, layer: Layer) -> str:
    """The name of a layer's weight."""
    return case.architecture.parameter_name(layer, "weight")


def known(case: Case, layer: Layer) -> bool:
    """Whether a layer has a weight with two axes of pixels."""
    return weight(case, layer) in case.weights and case.weights[weight(case, layer)].ndim == 4


LAYOUTS: dict[str, Change] = {
    "kernel_flipped": lambda w: w[:, :, ::-1, ::-1],
    "kernel_transposed": lambda w: w.swapaxes(2, 3),
    "kernel_order": lambda w: w.transpose(0, 2, 3, 1).reshape(w.shape),
    "kernel_order_chw": lambda w: w.reshape(w.shape[0], *w.shape[2:], w.shape[1]).transpose(0, 3, 1, 2),
    "kernel_flipped_rows": lambda w: w[:, :, ::-1],
    "kernel_flipped_columns": lambda w: w[:, :, :, ::-1],
}
"""Ways to lay out a kernel O×I×kh×kw, or I×O×kh×kw, wrongly."""
WORDS = {
    "kernel_flipped": "are mirrored along both axes: these networks' convolutions do not turn them",
    "kernel_transposed": "have rows and columns exchanged: kh comes before kw in every format",
    "kernel_order": "were stored in the order H·W·C and are read as C·H·W: reshape to (kh, kw, I, O), then transpose",
    "kernel_order_chw": "were stored in the order C·H·W and are read as H·W·C: reshape to (O, I, kh, kw)",
    "kernel_flipped_rows": "have their rows in the reverse order",
    "kernel_flipped_columns": "have their columns in the reverse order",
}
"""The same in words, of a convolution."""


def every(case: Case, layers: list[Layer], change: Change) -> Apply:
    """The weights of these layers are changed."""
    names = [weight(case, layer) for layer in layers]

    def apply(one: Case) -> Case:
        for name in names:
            one = one.with_weight(name, change)
        return one

    return apply


def without(names: list[str]) -> Apply:
    """These weights are zero."""
    return lambda one: replace(
        one, weights={**one.weights, **{name: np.zeros_like(one.weights[name]) for name in names}}
    )


def biases(case: Case) -> Iterator[Hypothesis]:
    """Biases left out, or added twice."""
    table = case.architecture
    having = [
        (layer, name)
        for layer in table.layers
        if layer.kind in ("Convolution", "Deconvolution")
        and (name := table.parameter_name(layer, "bias")) in case.weights
        and np.any(case.weights[name])
    ]
    for layer, name in having:
        yield Hypothesis(
            "bias_missing", (layer.name,), f"{name} is not added",
            weight_is(name, np.zeros_like),
        )  # fmt: skip
        yield Hypothesis(
            "bias_twice", (layer.name,), f"{name} is added twice",
            weight_is(name, lambda b: 2 * b),
        )  # fmt: skip
    for (one, mine), (other, theirs) in itertools.pairwise(having):
        if case.weights[mine].shape == case.weights[theirs].shape:
            yield Hypothesis(
                "bias_swapped", (one.name, other.name), f"{mine} and {theirs} are exchanged",
                exchanged(one, other, ("bias",)), f"{one.name}, {other.name}",
            )  # fmt: skip
    for (first, (one, mine)), (second, (other, theirs)) in itertools.permutations(enumerate(having), 2):
        if abs(second - first) <= APART and case.weights[mine].shape == case.weights[theirs].shape:
            yield Hypothesis(
                "bias_copied", (one.name,), f"{mine} is {theirs} there",
                copied(case, one, other, ("bias",)), other.name,
            )  # fmt: skip
    if len(having) > 1:
        yield Hypothesis(
            "bias_missing", tuple(layer.name for layer, _ in having), "no bias is added",
            without([name for _, name in having]),
        )  # fmt: skip


def swapped(case: Case, layers: list[Layer]) -> Iterator[Hypothesis]:
    """Two layers that have each other's weights; a layer with its neighbour's."""
    by_shape: dict[tuple[int, ...], list[Layer]] = {}
    for layer in layers:
        by_shape.setdefault(case.weights[weight(case, layer)].shape, []).append(layer)
    for those in by_shape.values():
        for (first, one), (second, other) in itertools.combinations(enumerate(those), 2):
            if second - first > APART:
                continue
            yield Hypothesis(
                "weights_swapped", (one.name, other.name), f"{one.name} and {other.name} have each other's weights",
                exchanged(one, other, ("weight", "bias")), f"{one.name}, {other.name}",
            )  # fmt: skip
            for mine, theirs in ((one, other), (other, one)):
                yield Hypothesis(
                    "weights_copied", (mine.name,), f"{mine.name} has the weights of {theirs.name}",
                    copied(case, mine, theirs, ("weight", "bias")), theirs.name,
                )  # fmt: skip


def narrowed(case: Case) -> Iterator[Hypothesis]:
    """All weights rounded to half precision, and computed with in float32."""
    names = {
        name: layer.name
        for layer in case.architecture.layers
        for kind in PARAMETERS
        if (name := case.architecture.parameter_name(layer, kind)) in case.weights
    }

    def apply(one: Case) -> Case:
        with np.errstate(over="ignore"):
            half = {name: one.weights[name].astype(np.float16).astype(np.float32) for name in names}
        return replace(one, weights={**one.weights, **half})

    if names:
        text = "the weights are rounded to float16: the network's are float32"
        yield Hypothesis("half_precision_weights", tuple(dict.fromkeys(names.values())), text, apply)


def exchanged(one: Layer, other: Layer, kinds: Sequence[str]) -> Apply:
    """Two layers have each other's weights."""

    def apply(case: Case) -> Case:
        return copied(case, other, one, kinds)(copied(case, one, other, kinds)(case))

    return apply


def copied(original: Case, one: Layer, other: Layer, kinds: Sequence[str]) -> Apply:
    """A layer has what the original has in another."""
    table, weights = original.architecture, original.weights
    pairs = [(table.parameter_name(one, kind), table.parameter_name(other, kind)) for kind in kinds]
    new = {mine: weights[theirs] for mine, theirs in pairs if mine in weights and theirs in weights}
    return lambda case: replace(case, weights={**case.weights, **new})
