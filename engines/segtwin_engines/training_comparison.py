"""Gradients and solver steps of engines, compared with the numpy oracle's in float64.

The noise floor of a network's gradients is the largest distance, of any gradient, of several float32 runs of the oracle
from its float64 run, relative to the gradient's largest value. All but one of these runs begin with weights and data
that were moved by up to one unit in the last place: where a ReLU's input or the lead of a pooling window's maximum is a
rounding from zero, an engine may go either way, and which gradient that meets is luck; so no gradient is asked for more
than the network's noise. The floor of parameters after some steps is found likewise, relative to how far they moved,
and is no less than one unit in the last place of the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from segtwin import Architecture, backward, noise, oracle
from segtwin.losses import binary_cross_entropy, softmax_with_loss
from segtwin.solver import Solver, trained
from segtwin_weights import Weights
from segtwin_weights.surgery import found_dimensions

from segtwin_engines.contestants import Contestant, Pair
from segtwin_engines.measured import Measured

TRUTH = "float64 (numpy)"
MOMENTUM, WEIGHT_DECAY = 0.99, 0.0005
"""Of the published solvers of the FCNs."""
RUNS = 4
"""In float32."""
FAR = 100
"""Units in the last place."""
FIRST_STEP = 1e-3
"""How far the first step moves a parameter at most, in units of its largest value, where no base_lr is given: much
farther than float32 rounds, and not so far that the next steps are another network's."""


class Trained(NamedTuple):
    """What was found of one image."""

    gradients: list[Measured]
    parameters: list[Measured]
    losses: dict[str, list[float]]
    """TRUTH and each engine → the loss of each step; of gradients alone, of the one pass."""
    solver: Solver | None = None
    """Of the steps."""


def loss_of(architecture: Architecture, weights: Mapping[str, np.ndarray]) -> backward.Loss:
    """Caffe's SoftmaxWithLoss, or of a network of sigmoids the mean binary cross-entropy of its logits."""
    binary = architecture.binary(found_dimensions(weights, architecture).get("num_classes"))
    return binary_cross_entropy if binary else softmax_with_loss


def drawn_label(architecture: Architecture, output: np.ndarray) -> np.ndarray:
    """Seeded labels for an output N×C×h×w, a tenth of them 255: a class a pixel, or 0 and 1 for each sigmoid."""
    random = np.random.default_rng(15)
    images, classes, *size = output.shape
    channels, values = (classes, 2) if architecture.binary(classes) else (1, classes)
    label = random.integers(0, values, (images, channels, *size))
    label[random.random(label.shape) < 0.1] = 255
    return label


def gradients_compared(
    architecture: Architecture,
    weights: Weights,
    pair: Pair,
    engines: Sequence[Contestant],
    step: Callable[[str], None],
) -> Trained:
    """The gradients of every trained parameter, and the loss."""
    loss = loss_of(architecture, weights)
    step("gradients: float64")
    value, truth = backward.gradients(architecture, weights, *pair, loss)
    step("gradients: noise floor")
    near, floor = [], noise.LEAST_FLOOR
    for start, data in moved_by_units(weights, pair[0]):
        rounded, slopes = backward.gradients(architecture, start, data, pair[1], loss, "float32")
        near.append(rounded)
        floor = max(floor, *(oracle.relative_error(slopes[name], one) for name, one in truth.items()))
    found = [
        Measured(name, one.shape, float(np.abs(one).max()), floor, noise.BOUND, {}, "gradient")
        for name, one in truth.items()
    ]
    lossy = Measured("loss", (), abs(value), loss_floor(near, value, pair[1].size), noise.BOUND, {}, "loss")
    losses = {TRUTH: [value]}
    for engine in engines:
        if engine.gradients is None:
            continue
        step(f"gradients: {engine.label}")
        got, slopes = engine.gradients(*pair)
        losses[engine.label] = [got]
        for one in found:
            one.errors[engine.label] = oracle.relative_error(slopes[one.name], truth[one.name]) / floor
        lossy.errors[engine.label] = _relative([got], [value]) / lossy.floor
    return Trained([*found, lossy], [], losses)


def steps_compared(
    architecture: Architecture,
    weights: Weights,
    pair: Pair,
    count: int,
    base_lr: float | None,
    engines: Sequence[Contestant],
    step: Callable[[str], None],
) -> Trained:
    """`count` steps of Caffe's solver on one pair: the parameters afterwards, and the loss of each step."""
    step(f"{count} steps: float64")
    rate = base_lr or first_step(architecture, weights, pair)
    solver = Solver(base_lr=rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    values, truth = numpy_steps(architecture, weights, pair, count, solver, "float64")
    names = [one.name for one in trained(architecture)]
    step(f"{count} steps: noise floor")
    near, apart = [], dict.fromkeys(names, 0.0)
    for start, data in moved_by_units(weights, pair[0]):
        rounded, after = numpy_steps(architecture, start, (data, pair[1]), count, solver, "float32")
        near += [rounded]
        for name in names:
            movement = after[name].astype(np.float64) - start[name]
            apart[name] = max(apart[name], float(np.abs(movement - (truth[name] - weights[name])).max()))
    way = {name: float(np.abs(truth[name] - weights[name]).max()) for name in names}
    unit = {name: float(np.spacing(np.float32(np.abs(weights[name]).max()))) for name in names}
    # of parameters that moved so far that the rounding of w − history has no part in it
    far = [name for name in names if way[name] > FAR * unit[name]]
    floor = max([0.0, *(max(0.0, apart[name] - unit[name]) / way[name] for name in far)])
    allowed = {name: max(unit[name], floor * way[name]) for name in names}
    found = [
        Measured(name, truth[name].shape, way[name], allowed[name] / (way[name] or 1), noise.BOUND, {}, "parameter")
        for name in names
    ]
    of_loss = max(loss_floor([run[k] for run in near], value, pair[1].size) for k, value in enumerate(values))
    lossy = Measured("loss", (count,), max(map(abs, values)), of_loss, noise.BOUND, {}, "loss")
    losses = {TRUTH: values}
    for engine in engines:
        if engine.solver_steps is None:
            continue
        step(f"{count} steps: {engine.label}")
        losses[engine.label], after = engine.solver_steps(
            [[pair]] * count, base_lr=rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        for one in found:
            distance = float(np.abs(np.asarray(after[one.name], np.float64) - truth[one.name]).max())
            one.errors[engine.label] = distance / allowed[one.name]
        lossy.errors[engine.label] = _relative(losses[engine.label], values) / of_loss
    return Trained([], [*found, lossy], losses, solver)


def first_step(architecture: Architecture, weights: Weights, pair: Pair) -> float:
    """A power of ten at which the first step moves no parameter by more than about FIRST_STEP of its largest value."""
    _, slopes = backward.gradients(architecture, weights, *pair, loss_of(architecture, weights))
    sizes = {one.name: float(np.abs(weights[one.name]).max()) for one in trained(architecture)}
    farthest = max((float(np.abs(one).max()) / (sizes[name] or 1) for name, one in slopes.items()), default=0.0)
    return 10.0 ** math.floor(math.log10(FIRST_STEP / farthest)) if farthest else FIRST_STEP


def moved_by_units(weights: Weights, data: np.ndarray) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Weights and data as they are, and moved by up to one unit in the last place of float32."""
    random = np.random.default_rng(15)

    def moved(array: np.ndarray) -> np.ndarray:
        return (array * (1 + 2.0**-23 * random.uniform(-1, 1, array.shape))).astype(np.float32)

    for run in range(RUNS):
        if not run:
            yield dict(weights), data
            continue
        yield {name: moved(blob) if blob.dtype.kind == "f" else blob for name, blob in weights.items()}, moved(data)


def numpy_steps(
    architecture: Architecture, weights: Mapping[str, np.ndarray], pair: Pair, count: int, solver: Solver, dtype: str
) -> tuple[list[float], Mapping[str, np.ndarray]]:
    """The loss of each step, and the parameters afterwards."""
    now: dict[str, np.ndarray] = {
        name: blob.astype(dtype) if blob.dtype.kind == "f" else blob for name, blob in weights.items()
    }
    history: dict[str, np.ndarray] = {}
    losses, loss_at = [], loss_of(architecture, weights)
    for number in range(count):
        loss, slopes = backward.gradients(architecture, now, *pair, loss_at, dtype)
        now, history = solver.updated(now, history, slopes, trained(architecture), number)
        losses.append(loss)
    return losses, now


def loss_floor(rounded: Sequence[float], exact: float, pixels: int) -> float:
    """What float32 costs a loss, relative: the oracle's own float32, or a running sum of its pixels, whose rounding is
    a random walk of √pixels halves of a unit (`segtwin.noise`; Caffe adds up so)."""
    return max(noise.LEAST_FLOOR / 2 * math.sqrt(pixels), *(_relative([one], [exact]) for one in rounded))


def _relative(got: Sequence[float], want: Sequence[float]) -> float:
    return oracle.relative_error(np.array(got), np.array(want))
