"""Caffe's solver, in numpy: what a solver.prototxt says, the learning-rate policies, and the update.

Source: BVLC/caffe at 9b891540183ddc834a02b2bd81b31afae71b2153, `src/caffe/proto/caffe.proto`
(SolverParameter and its defaults) and `src/caffe/solvers/sgd_solver.cpp` (GetLearningRate,
Normalize, Regularize, ComputeUpdateValue). Rates are computed in float64; Caffe's are float32.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from segtwin.architectures import Architecture, Parameter
from segtwin.errors import ArchitectureError, SolverError, nearest

NEEDS: Mapping[str, tuple[str, ...]] = {
    "fixed": (),
    "step": ("gamma", "stepsize"),
    "multistep": ("gamma", "stepvalue"),
    "exp": ("gamma",),
    "inv": ("gamma", "power"),
    "poly": ("power", "max_iter"),
    "sigmoid": ("gamma", "stepsize"),
}
"""lr_policy → the fields that it reads."""

HONOURED = {"type": ("SGD",), "solver_type": ("SGD",), "regularization_type": ("L2",)}
"""Field → the values of it that are what is done here."""
IGNORED = (
    "solver_mode", "device_id", "debug_info", "snapshot_after_train", "snapshot_diff", "snapshot_format",
    "layer_wise_reduce", "test_compute_loss",
)  # fmt: skip
"""Fields that change where and how Caffe runs and what it writes."""
ORDER = (
    "net", "train_net", "test_net", "test_iter", "test_interval", "display", "average_loss", "lr_policy", "base_lr",
    "gamma", "power", "stepsize", "stepvalue", "momentum", "iter_size", "max_iter", "weight_decay", "snapshot",
    "snapshot_prefix", "test_initialization", "random_seed",
)  # fmt: skip
"""The fields as the authors' files have them."""


@dataclass(frozen=True)
class Solver:
    """A SolverParameter of Caffe's SGD; the fields have Caffe's names and defaults."""

    base_lr: float
    lr_policy: str = "fixed"
    gamma: float | None = None
    power: float | None = None
    stepsize: int | None = None
    stepvalue: tuple[int, ...] = ()
    momentum: float = 0.0
    weight_decay: float = 0.0
    iter_size: int = 1
    max_iter: int | None = None
    net: str | None = None
    train_net: str | None = None
    test_net: str | None = None
    test_iter: int | None = None
    test_interval: int = 0
    test_initialization: bool = True
    display: int = 0
    average_loss: int = 1
    snapshot: int = 0
    snapshot_prefix: str | None = None
    random_seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no solver can do.

        Raises:
            SolverError: a value is out of its bounds, or the policy lacks a field that it reads.
        """
        if self.lr_policy not in NEEDS:
            raise SolverError(
                f"there is no lr_policy {self.lr_policy!r}; there are {', '.join(NEEDS)}"
                f"{nearest(self.lr_policy, NEEDS)}"
            )
        for name in ("base_lr", "momentum", "weight_decay", "gamma", "power"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise SolverError(f"{name} is {value}; it is a number of at least 0")
        if missing := [name for name in NEEDS[self.lr_policy] if getattr(self, name) in (None, ())]:
            raise SolverError(f"the lr_policy {self.lr_policy!r} needs {' and '.join(missing)}")
        for name in ("stepsize", "iter_size", "max_iter", "average_loss"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SolverError(f"{name} is {value}; it is at least 1")
        if list(self.stepvalue) != sorted(self.stepvalue):
            raise SolverError(f"stepvalue is {list(self.stepvalue)}; its values do not fall")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Solver:
        """A solver from names and values.

        Raises:
            SolverError: a name is no field; the nearest one is named.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise SolverError(f"a solver has no field {name!r}{nearest(name, known)}")
        if "base_lr" not in values:
            raise SolverError("a solver needs base_lr, its learning rate")
        return cls(**values)

    def learning_rate(self, step: int) -> float:
        """The rate of a step, counted from 0: `SGDSolver::GetLearningRate`.

        Raises:
            SolverError: poly has no rate beyond max_iter.
        """
        gamma, power, stepsize = self.gamma or 0.0, self.power or 0.0, self.stepsize or 1
        if self.lr_policy == "step":
            return self.base_lr * gamma ** (step // stepsize)
        if self.lr_policy == "multistep":
            return self.base_lr * gamma ** sum(step >= value for value in self.stepvalue)
        if self.lr_policy == "exp":
            return self.base_lr * gamma**step
        if self.lr_policy == "inv":
            return self.base_lr * (1 + gamma * step) ** -power
        if self.lr_policy == "sigmoid":
            exponent = -gamma * (step - stepsize)
            return self.base_lr / (1 + math.exp(exponent)) if exponent < 700 else 0.0
        if self.lr_policy == "poly":
            last = self.max_iter or 1
            if step > last:
                raise SolverError(f"the lr_policy 'poly' ends at max_iter, {last}; there is no rate for step {step}")
            return self.base_lr * (1 - step / last) ** power
        return self.base_lr

    @classmethod
    def from_prototxt(cls, text: str) -> Solver:
        """The solver that a solver.prototxt describes.

        Fields that change nothing of what is computed (`IGNORED`) are passed over.

        Raises:
            SolverError: the text is no solver.prototxt, or asks for what there is not here: another type than
                SGD, L1 regularisation, clipped gradients. The line is named.
        """
        values: dict[str, Any] = {}
        types = {field.name: str(field.type) for field in fields(cls)}
        for number, name, value in prototxt_fields(text):
            where = f"line {number} of the solver: "
            if name in HONOURED:
                if value not in HONOURED[name]:
                    raise SolverError(f"{where}{name} is {value}; here it is {' or '.join(HONOURED[name])}")
            elif name == "clip_gradients":
                raise SolverError(f"{where}{name} is not built here; take the line out to train without it")
            elif name in IGNORED:
                continue
            elif name not in types:
                raise SolverError(f"{where}there is no field {name!r}{nearest(name, types)}")
            elif name in values and name != "stepvalue":
                raise SolverError(f"{where}{name} a second time")
            else:
                one = _typed(types[name], value, f"{where}{name}")
                values[name] = (*values.get(name, ()), one) if name == "stepvalue" else one
        return cls.of(values)

    def prototxt(self) -> str:
        """The text of a solver.prototxt; `from_prototxt` reads it back."""
        lines = []
        for name in ORDER:
            value = getattr(self, name)
            stated = self.stated()
            if name in stated or name in ("iter_size", "lr_policy"):
                for one in value if isinstance(value, tuple) else (value,):
                    lines.append(f"{name}: {_shown(one)}\n")
        return "".join(lines)

    def stated(self) -> dict[str, Any]:
        """The fields that differ from Caffe's defaults, in its order."""
        default = asdict(Solver(base_lr=0.0))
        return {name: value for name, value in asdict(self).items() if name == "base_lr" or value != default[name]}

    def updated(
        self,
        weights: Mapping[str, np.ndarray],
        history: Mapping[str, np.ndarray],
        gradients: Mapping[str, np.ndarray],
        parameters: Iterable[Parameter],
        step: int,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Weights and history after a step.

            history ← momentum · history + lr · lr_mult · (gradient / iter_size + weight_decay · decay_mult · w)
            w       ← w − history

        The learning rate is inside the history, so a change of it acts on what is added from then on;
        torch.optim.SGD keeps it outside, which is the same only while it is constant.

        Args:
            weights: hub name → array.
            history: the same names; those that are missing start at zero.
            gradients: sums over the iter_size batches, without decay.
            parameters: with the multipliers; what has lr_mult 0 stays as it is.
            step: counted from 0.
        """
        rate = self.learning_rate(step)
        weights, history = dict(weights), dict(history)
        for one in parameters:
            if one.lr_mult:
                w = weights[one.name]
                gradient = gradients[one.name] / self.iter_size + self.weight_decay * one.decay_mult * w
                before = history.get(one.name, np.zeros_like(w))
                history[one.name] = self.momentum * before + rate * one.lr_mult * gradient
                weights[one.name] = w - history[one.name]
        return weights, history


FIELD = re.compile(
    r"""\s*([A-Za-z_]\w*)\s*(?::\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s;,{}#"']+)|(:?\s*[{<]))\s*[;,]?"""
)


def prototxt_fields(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, name, value) of each field of a prototxt without messages inside; strings without their
    quotes.

    Raises:
        SolverError: a line is no field.
    """
    for number, line in enumerate(text.splitlines(), 1):
        rest = line
        while rest.strip() and not rest.lstrip().startswith("#"):
            found = FIELD.match(rest)
            if found is None or found[3]:
                raise SolverError(f"line {number} of the solver is no field: {rest.strip()[:60]}")
            value = found[2]
            yield (
                number,
                found[1],
                value[1:-1].replace('\\"', '"').replace("\\\\", "\\") if value[0] in "\"'" else value,
            )
            rest = rest[found.end() :]


def _shown(value: Any) -> str:
    """A value as a prototxt has it."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _typed(kind: str, value: str, what: str) -> Any:
    """A field's text as its type."""
    if kind.startswith("str"):
        return value
    if kind == "bool":
        if value not in ("true", "false"):
            raise SolverError(f"{what} is {value}; it is true or false")
        return value == "true"
    number = float if kind.startswith("float") else int
    try:
        return number(value)
    except ValueError:
        raise SolverError(f"{what} is {value}; it is a {'number' if number is float else 'whole number'}") from None


HEAVY = Solver(
    base_lr=1e-10,
    momentum=0.99,
    weight_decay=0.0005,
    max_iter=100_000,
    test_iter=736,
    test_interval=999999999,
    test_initialization=False,
    display=20,
    average_loss=20,
    snapshot=4000,
)
"""voc-fcn32s/solver.prototxt of shelhamer/fcn.berkeleyvision.org at
1305c7378a9f0ab44b2c936f4d60e4687e3d8743: one image a step, and a loss that is summed over its pixels."""
PUBLISHED: Mapping[str, Solver] = {
    "fcn32s": HEAVY,
    "fcn16s": replace(HEAVY, base_lr=1e-12),
    "fcn8s": replace(HEAVY, base_lr=1e-14),
    "fcn8s-atonce": replace(HEAVY, max_iter=300_000),
}
"""Network → the solver.prototxt that its authors trained it with."""
LIGHT = Solver(base_lr=1e-4, momentum=0.9, weight_decay=0.0005)
"""The "light" models of the CVPR paper (arXiv:1411.4038, section 4.3): batches of 20 images, the loss
normalised (VALID), 1e-4 for the VGG nets."""


def trained(architecture: Architecture) -> tuple[Parameter, ...]:
    """The parameters that a solver moves: lr_mult above 0, used in the forward pass, and each storage
    once."""
    idle = {*architecture.carried, *architecture.aliases, *architecture.unused}
    return tuple(one for one in architecture.parameters() if one.lr_mult and one.name not in idle)


def check_scores(architecture: Architecture, logits: bool) -> None:
    """Refuse a network whose output is no score.

    Raises:
        ArchitectureError: it ends with a sigmoid.
    """
    if architecture.sigmoid and not logits:
        raise ArchitectureError(
            f"{architecture.name}: its output are probabilities, and the loss takes scores; build it with logits=True"
        )


def check_steps(steps: Iterable[Iterable[Any]]) -> list[list[tuple[Any, Any]]]:
    """The steps of `solver_steps`, as lists.

    Raises:
        TypeError: they are no lists of lists of pairs.
        ValueError: a step has no pair.
    """
    checked = []
    for number, step in enumerate(steps):
        pairs = [step] if isinstance(step, np.ndarray) else list(step)
        if not pairs:
            raise ValueError(f"step {number} has no (data, label) pair; it has iter_size of them")
        for pair in pairs:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise TypeError(
                    f"step {number} is no list of (data, label) pairs; steps are a list of steps, each a list of "
                    "iter_size pairs"
                )
        checked.append([(data, label) for data, label in pairs])
    return checked
