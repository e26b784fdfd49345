"""A network as somebody wrote it, and its values where somebody else's are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from segtwin import oracle
from segtwin.architectures import Architecture, Layer
from segtwin.oracle import Operator

Change = Callable[[np.ndarray], np.ndarray]
DATA = "data"
"""Stands for the input in `Hypothesis.layers`, whatever the network calls it."""


def as_it_is(data: np.ndarray) -> np.ndarray:
    """No change."""
    return data


def cut(
    layer: Layer,
    architecture: Architecture,
    bottoms: list[np.ndarray],
    parameters: list[np.ndarray],
    top: int,
    left: int,
) -> np.ndarray:
    """The first bottom cut to the size of the second, from row `top` and column `left` on."""
    x, like = bottoms
    return x[:, :, top : top + like.shape[2], left : left + like.shape[3]]


@dataclass(frozen=True)
class Case:
    """A network as somebody wrote it: what is computed, with which weights, on which input."""

    architecture: Architecture
    weights: Mapping[str, np.ndarray]
    operators: Mapping[str, Operator] = field(default_factory=dict)
    """Layer → what computes it in place of its kind's operator."""
    offsets: Mapping[str, int] = field(default_factory=dict)
    """Crop layer → its offset: the architecture's at first, and through any change of the table. Who writes a port
    copies numbers."""
    prepare: Change = as_it_is
    """What is done to the network's input first."""

    def __post_init__(self) -> None:
        if not self.offsets:
            object.__setattr__(self, "offsets", dict(self.architecture.offsets))

    def with_layer(self, name: str, **changes: object) -> Case:
        """With a layer changed."""
        return self.with_layers(
            [replace(one, **changes) if one.name == name else one for one in self.architecture.layers]  # type: ignore[arg-type]
        )

    def with_layers(self, layers: Sequence[Layer]) -> Case:
        """With another table."""
        return replace(self, architecture=replace(self.architecture, layers=tuple(layers)))

    def with_offset(self, name: str, offset: int) -> Case:
        """With another crop offset."""
        return replace(self, offsets={**self.offsets, name: offset})

    def with_weight(self, name: str, change: Change) -> Case:
        """With a weight changed."""
        changed = np.ascontiguousarray(change(self.weights[name]))
        return replace(self, weights={**self.weights, name: changed})

    def with_operator(self, operator: Operator, *names: str) -> Case:
        """With layers computed otherwise."""
        return replace(self, operators={**self.operators, **dict.fromkeys(names, operator)})

    def with_output(self, name: str, change: Change) -> Case:
        """With something done to what a layer computes, before its ReLU."""
        own = self.operator(self.architecture.layer(name))

        def operator(
            layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
        ) -> np.ndarray:
            return change(own(layer, architecture, bottoms, parameters))

        return self.with_operator(operator, name)

    def with_input(self, change: Change) -> Case:
        """With something done to the input."""
        before = self.prepare
        return replace(self, prepare=lambda data: change(before(data)))

    def operator(self, layer: Layer) -> Operator:
        """What computes a layer."""
        if layer.name in self.operators:
            return self.operators[layer.name]
        if layer.kind == "Crop":
            offset = self.offsets[layer.name]
            return partial(cut, top=offset, left=offset)
        return oracle.OPERATORS[layer.kind]

    def compute(self, layer: Layer, bottoms: list[np.ndarray]) -> np.ndarray:
        """The top of a layer, in the dtype of its bottoms."""
        names = (self.architecture.parameter_name(layer, kind) for kind in PARAMETERS)
        parameters = [np.asarray(self.weights[name], bottoms[0].dtype) for name in names if name in self.weights]
        with np.errstate(all="ignore"):  # a wrong network may overflow
            top = self.operator(layer)(layer, self.architecture, bottoms, parameters)
            return np.maximum(top, 0) if layer.relu else top


PARAMETERS = ("weight", "bias", "running_mean", "running_var")


class Values:
    """The values of a case on an input, computed when they are asked for.

    Args:
        case: the network.
        data: N×C×H×W.
        given: values that are known, blob → array; what is computed starts from them.
        base: values of another case, used where nothing before them has changed.
        changed: the layers in which the case differs from that one.
    """

    def __init__(
        self,
        case: Case,
        data: np.ndarray,
        given: Mapping[str, np.ndarray] | None = None,
        base: Values | None = None,
        changed: Sequence[str] = (),
    ) -> None:
        self.case, self.data, self.base = case, data, base
        self.given: Mapping[str, np.ndarray] = given if given is not None else {}
        self.found: dict[str, np.ndarray] = {}
        self.layers = {layer.name: layer for layer in case.architecture.layers}
        self.stale: set[str] = set()
        if base is not None:
            if DATA in changed:
                self.stale.add(case.architecture.input)
            for layer in case.architecture.layers:
                after = any(bottom in self.stale and bottom not in self.given for bottom in layer.bottoms)
                if after or layer.name in changed or layer.name not in base.layers:
                    self.stale.add(layer.name)

    def __getitem__(self, name: str) -> np.ndarray:
        """The top of a layer, or the input.

        Raises:
            ValueError, IndexError: sizes do not fit: such a network cannot run.
        """
        if name in self.given:
            return self.given[name]
        if name in self.found:
            return self.found[name]
        if self.base is not None and name not in self.stale:
            return self.base[name]
        if name == self.case.architecture.input:
            self.found[name] = self.case.prepare(self.data).astype(self.data.dtype)
        else:
            layer = self.layers[name]
            self.found[name] = self.case.compute(layer, [self[bottom] for bottom in layer.bottoms])
        return self.found[name]

    def get(self, name: str) -> np.ndarray | None:
        """The same; None where the network cannot run."""
        try:
            return self[name]
        except (ValueError, IndexError, ZeroDivisionError):
            return None

    def of(self, case: Case, changed: Sequence[str]) -> Values:
        """Those of a case that differs in some layers."""
        return Values(case, self.data, self.given, self, changed)


Apply = Callable[[Case], Case]
"""A mistake: the network as somebody wrote it → the same with the mistake."""


def layer_is(name: str, **changes: object) -> Apply:
    """A layer is changed."""
    return lambda case: case.with_layer(name, **changes)


def layers_are(layers: Sequence[Layer], **changes: object) -> Apply:
    """Layers are changed alike."""

    def apply(case: Case) -> Case:
        for layer in layers:
            case = case.with_layer(layer.name, **changes)
        return case

    return apply


def weight_is(name: str, change: Change) -> Apply:
    """A weight is changed."""
    return lambda case: case.with_weight(name, change)


def computed_by(operator: Operator, *names: str) -> Apply:
    """Layers are computed otherwise."""
    return lambda case: case.with_operator(operator, *names)


def output_is(name: str, change: Change) -> Apply:
    """Something is done to what a layer computes, before its ReLU."""
    return lambda case: case.with_output(name, change)


def times(factor: float) -> Change:
    """A multiplication."""
    return lambda array: array * array.dtype.type(factor)


def left_out(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """Nothing is done."""
    return bottoms[0]


def cropped_at(name: str, offset: int) -> Apply:
    """A crop has another offset."""
    return lambda case: case.with_offset(name, offset)
