"""Layers of a port that hold other numbers than the weights given, or the same ones laid out otherwise: told by the
arrays of the port, under whatever name they are there, and proven by computing with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from segtwin.architectures import Layer
from segtwin.hypotheses import Case, Hypothesis
from segtwin.hypotheses.case import PARAMETERS

from segtwin_engines.weights_diagnosis import way

LARGEST = 64
"""As many of the largest and smallest numbers of an array are looked at."""
ROUNDED = 1 / 128
"""Relative difference of a number from itself rounded to bfloat16."""
ORDERS = (
    PARAMETERS,
    ("bias", "running_mean", "running_var", "weight"),
    ("bias", "weight", "running_mean", "running_var"),
)
"""In which frameworks keep the arrays of a layer: as torch and Keras, and sorted by torch's and by Keras' names."""
VARIANT = "the port's"
"""Begins the variant of a hypothesis with the port's own arrays."""


class Fit(NamedTuple):
    """An array of the port that can stand in the place of a weight."""

    number: int
    """Its place among the port's arrays."""
    array: np.ndarray
    """It, laid out as the weight."""


class OtherWeights:
    """What a port's own arrays say about the weights of the network.

    Args:
        arrays: the port's, under its names, in its order; none where it cannot be looked into.
        case: the network, with the weights given.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], case: Case) -> None:
        self.case = case
        self.arrays = list(arrays.items())
        self.by_size: dict[int, list[int]] = {}
        for number, (_, array) in enumerate(self.arrays):
            self.by_size.setdefault(array.size, []).append(number)
        self.held: set[str] = set()
        """Weights that the port has, in a layout of one of the frameworks."""
        taken: set[int] = set()
        for name, weight in case.weights.items():
            same = {fit.number for fit in self.fitting(name) if np.array_equal(fit.array, weight)}
            if same:
                self.held.add(name)
                taken |= same
        self.taken = taken
        """Places of its arrays that are weights."""

    def fitting(self, name: str, free: bool = False) -> list[Fit]:
        """The arrays that can stand in the place of a weight, in every layout; only those that are no weight."""
        shape = np.shape(self.case.weights[name])
        numbers = self.by_size.get(int(np.prod(shape)), [])
        return [
            Fit(number, laid)
            for number in numbers
            if not (free and number in self.taken)
            for laid in layouts(self.arrays[number][1], shape)
        ]

    def names(self, layer: Layer) -> dict[str, str]:
        """Kind → name of those of a layer's weights that the port does not have."""
        table = self.case.architecture
        names = {kind: table.parameter_name(layer, kind) for kind in PARAMETERS}
        return {kind: name for kind, name in names.items() if name in self.case.weights and name not in self.held}

    def folded(self, layer: Layer) -> bool:
        """Whether a BatchNorm behind a layer may be part of its kernel: fewer arrays are there of its size than are
        needed."""
        users = [one for one in self.case.architecture.layers if layer.name in one.bottoms]
        if layer.kind != "Convolution" or len(users) != 1 or users[0].kind != "BatchNorm":
            return False
        size = np.size(self.case.weights[self.case.architecture.parameter_name(users[0], "weight")])
        wanted = sum(np.size(array) == size == max(np.shape(array)) for array in self.case.weights.values())
        return sum(max(self.arrays[number][1].shape) == size for number in self.by_size.get(size, [])) < wanted

    def lacks(self, layer: Layer) -> bool:
        """Whether the port, which can be looked into, has other weights for a layer."""
        return not self.folded(layer) and any(self.fitting(name, free=True) for name in self.names(layer).values())

    def hypotheses(self, layer: Layer) -> Iterator[Hypothesis]:
        """The layer with arrays of the port in place of the weights that the port does not have."""
        lacking = self.names(layer)
        if not lacking or self.folded(layer):
            return
        places = {kind: self.fitting(name, free=True) for kind, name in lacking.items()}
        tried: set[tuple[int, ...]] = set()
        for order in ORDERS:
            kinds = [kind for kind in order if kind in places]
            for chosen in consecutive([places[kind] for kind in kinds]):
                new = dict(zip((lacking[kind] for kind in kinds), chosen, strict=True))
                key = tuple(id(new[name].array) for name in lacking.values())
                if key not in tried:
                    tried.add(key)
                    yield self.hypothesis(layer, new, len(tried))

    def hypothesis(self, layer: Layer, new: Mapping[str, Fit], number: int) -> Hypothesis:
        """A layer with arrays of the port."""
        texts, ids = [], []
        for name, fit in new.items():
            own, want = self.arrays[fit.number][0], np.asarray(self.case.weights[name])
            id, words = way(fit.array.astype(np.float32), want)
            if not id and fit.array.size > 1 and not np.ptp(fit.array):
                words = f"is {fit.array.flat[0]:g} everywhere"
            elif not id and near(fit.array, want):
                words = "holds nearly, but not exactly, the numbers given (rounded, or trained on)"
            texts.append(f"{name}, {own} in the port, {words or 'holds other numbers than those given'}")
            ids.append(id or "weights_other")
        return Hypothesis(
            ids[0] if len(set(ids)) == 1 else "weights_other", (layer.name,), "; ".join(texts),
            lambda case: with_weights(case, new), f"{VARIANT} {number}",
        )  # fmt: skip


def with_weights(case: Case, new: Mapping[str, Fit]) -> Case:
    """A case with other weights."""
    for name, fit in new.items():
        case = case.with_weight(name, lambda _, array=fit.array: array.astype(np.float32))  # type: ignore[misc]
    return case


def consecutive(places: Sequence[Sequence[Fit]]) -> Iterator[list[Fit]]:
    """For each array that can be the first of a layer, the nearest behind it that can be the next, and so on."""
    for first in places[0] if places else ():
        chosen = [first]
        for others in places[1:]:
            behind = [one for one in others if one.number > chosen[-1].number]
            if not behind:
                break
            chosen.append(behind[0])
        else:
            yield chosen


def near(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are the same but for rounding, told by their ends."""
    scale = float(np.abs(other).max(initial=0))
    return bool(np.abs(ends(one) - ends(other)).max(initial=0) <= ROUNDED * scale)


def ends(array: np.ndarray) -> np.ndarray:
    """The smallest and the largest numbers, sorted."""
    flat = np.asarray(array, np.float32).ravel()
    if flat.size > 2 * LARGEST:
        flat = np.partition(flat, (LARGEST, flat.size - LARGEST))
        flat = np.concatenate([flat[:LARGEST], flat[-LARGEST:]])
    return np.sort(flat)


def layouts(array: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """An array of a port as a weight of this shape, O×I×kh×kw or one axis: as torch has it, TensorFlow's kh×kw×I×O,
    and a fully connected layer's two axes in either; a vector with axes of one."""
    if array.shape == shape:
        yield array
    if len(shape) == 4:
        height, width = shape[2:]
        if array.ndim == 4 and (turned := array.transpose(3, 2, 0, 1)).shape == shape:
            yield turned
        if array.ndim == 2 and array.shape == (shape[0], np.prod(shape[1:])):
            yield array.reshape(shape)
        if array.ndim == 2 and array.shape == (np.prod(shape[1:]), shape[0]):
            yield array.reshape(height, width, shape[1], shape[0]).transpose(3, 2, 0, 1)
    elif len(shape) == 1 and array.ndim > 1 and max(array.shape) == shape[0]:
        yield array.reshape(shape)
