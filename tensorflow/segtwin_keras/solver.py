"""Caffe's solver in Keras: the optimizer, its learning-rate policies, gradients and whole steps.

Source: `src/caffe/solvers/sgd_solver.cpp` of BVLC/caffe at 9b891540183ddc834a02b2bd81b31afae71b2153.
`segtwin.solver` has the same in numpy; the twin is `segtwin_torch/solver.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops
from segtwin.arguments import checked_images
from segtwin.errors import known_arguments
from segtwin.solver import Solver, check_scores, check_steps
from segtwin.solver import trained as trained_parameters

import tensorflow as tf
from segtwin_keras.layers import caffe_arithmetic
from segtwin_keras.losses import SoftmaxWithLoss
from segtwin_keras.network import Network, checked_network
from segtwin_keras.weights import ONE_AT_A_TIME, hub_array, table


class Multiplied(keras.optimizers.Optimizer):
    """An optimizer whose rate and decay are multiplied variable by variable."""

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        weight_decay: float,
        multipliers: Mapping[str, Sequence[float]] | None,
        name: str,
        **kwargs: Any,
    ) -> None:
        scheduled = isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule)
        rate = 1.0 if scheduled else float(learning_rate)
        solver = Solver(base_lr=rate, weight_decay=weight_decay)  # refuses what is no number
        super().__init__(learning_rate if scheduled else rate, weight_decay=None, name=name, **kwargs)
        if not scheduled:  # in float32 it would be off by 6e-8
            self._untrack_variable(self.learning_rate)
            self._learning_rate = keras.Variable(rate, dtype="float64", trainable=False, name="learning_rate")
        self.decay = solver.weight_decay
        self.multipliers = {path: tuple(map(float, pair)) for path, pair in (multipliers or {}).items()}

    def slots(self, variables: list[keras.Variable], name: str) -> list[keras.Variable]:
        """A variable of zeros beside each one."""
        self.pairs = [self.multipliers.get(variable.path, (1.0, 1.0)) for variable in variables]
        return [self.add_variable_from_reference(variable, name=name) for variable in variables]

    def rate_and_gradient(
        self, number: int, gradient: KerasTensor, variable: keras.Variable, learning_rate: KerasTensor
    ) -> tuple[KerasTensor, KerasTensor]:
        """lr · lr_mult in float64, and gradient + weight_decay · decay_mult · w."""
        lr_mult, decay_mult = self.pairs[number]
        rate, gradient = ops.cast(learning_rate, "float64"), ops.cast(gradient, variable.dtype)
        # what changes nothing is left out of the graph
        rate = rate if lr_mult == 1 else rate * lr_mult
        decay = self.decay * decay_mult
        return rate, gradient if decay == 0 else gradient + decay * variable

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        return {
            **super().get_config(),
            "weight_decay": self.decay,
            "multipliers": {path: list(pair) for path, pair in self.multipliers.items()},
        }


@keras.saving.register_keras_serializable("segtwin")
class CaffeSGD(Multiplied):
    """Caffe's SGD: the learning rate is inside the history, as in Keras' own.

        history ← momentum · history + lr · lr_mult · (gradient / iter_size + weight_decay · decay_mult · w)
        w       ← w − history

    Keras' own lacks the multipliers, and its weight_decay is another (decoupled) one.

    Args:
        learning_rate: base_lr, kept in float64; or a schedule: `CaffeSchedule` as Caffe's.
        momentum: share of the history that stays.
        weight_decay: of the squares of the weights, times one half.
        iter_size: batches whose gradients were added up before a step.
        multipliers: path of a variable → (lr_mult, decay_mult), where they are not 1: `multipliers` of a
            network has those of its prototxt.
        name: of the optimizer.
        **kwargs: of every Keras optimizer, as clipnorm.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        momentum: float = 0.99,
        weight_decay: float = 0.0005,
        iter_size: int = 1,
        multipliers: Mapping[str, Sequence[float]] | None = None,
        name: str = "caffe_sgd",
        **kwargs: Any,
    ) -> None:
        solver = Solver(base_lr=1.0, momentum=momentum, iter_size=iter_size)
        super().__init__(learning_rate, weight_decay, multipliers, name, **kwargs)
        self.momentum, self.iter_size = solver.momentum, solver.iter_size

    def build(self, variables: list[keras.Variable]) -> None:
        """Make the histories, which start at zero."""
        if not self.built:
            super().build(variables)
            self.history = self.slots(variables, "history")

    def update_step(self, gradient: KerasTensor, variable: keras.Variable, learning_rate: KerasTensor) -> None:
        """One update of one variable."""
        number = self._get_variable_index(variable)
        history = self.history[number]
        mean = gradient if self.iter_size == 1 else gradient / self.iter_size
        rate, gradient = self.rate_and_gradient(number, mean, variable, learning_rate)
        self.assign(history, self.momentum * history + ops.cast(rate, variable.dtype) * gradient)
        self.assign_sub(variable, history)

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        return {**super().get_config(), "momentum": self.momentum, "iter_size": self.iter_size}


@keras.saving.register_keras_serializable("segtwin")
class Adam(Multiplied):
    """Adam as torch.optim.Adam computes it; the U-Nets from torch were trained with that one.

        m ← β₁·m + (1 − β₁)·g,  v ← β₂·v + (1 − β₂)·g²,  w ← w − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)

    Keras' own adds ε to √v before the correction: early steps along small gradients are shorter there.

    Args:
        learning_rate: kept in float64; or a schedule.
        weight_decay: added to the gradient, as torch's.
        beta_1: share of the mean that stays.
        beta_2: share of the mean of squares that stays.
        epsilon: ε.
        multipliers: as of `CaffeSGD`.
        name: of the optimizer.
        **kwargs: of every Keras optimizer.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
        weight_decay: float = 0.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        multipliers: Mapping[str, Sequence[float]] | None = None,
        name: str = "adam_as_torch",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay, multipliers, name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, variables: list[keras.Variable]) -> None:
        """Make both means, which start at zero."""
        if not self.built:
            super().build(variables)
            self.m, self.v = self.slots(variables, "m"), self.slots(variables, "v")

    def update_step(self, gradient: KerasTensor, variable: keras.Variable, learning_rate: KerasTensor) -> None:
        """One update of one variable."""
        number = self._get_variable_index(variable)
        m, v = self.m[number], self.v[number]
        rate, gradient = self.rate_and_gradient(number, gradient, variable, learning_rate)
        steps = ops.cast(self.iterations + 1, "float64")
        # `ops.cast` would make them float32 first
        beta_1, beta_2 = (ops.convert_to_tensor(beta, "float64") for beta in (self.beta_1, self.beta_2))
        size = ops.cast(rate / (1 - ops.power(beta_1, steps)), variable.dtype)
        root = ops.cast(ops.sqrt(1 - ops.power(beta_2, steps)), variable.dtype)
        self.assign(m, m + (gradient - m) * (1 - self.beta_1))
        self.assign(v, self.beta_2 * v + (1 - self.beta_2) * gradient * gradient)
        self.assign_sub(variable, size * m / (ops.sqrt(v) / root + self.epsilon))

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("segtwin")
class CaffeSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning-rate policy of Caffe's, in float64.

    Args:
        solver: a `segtwin.solver.Solver`, or its fields.
    """

    def __init__(self, solver: Solver | None = None, **fields: Any) -> None:
        self.solver = Solver.of(fields) if solver is None else solver

    def __call__(self, step: KerasTensor | int) -> KerasTensor:
        """The rate of a step, counted from 0."""
        if isinstance(step, int) or tf.executing_eagerly():
            return ops.convert_to_tensor(self.solver.learning_rate(int(step)), "float64")
        rate = tf.numpy_function(lambda number: self.solver.learning_rate(int(number)), [step], tf.float64)
        rate.set_shape(())
        return rate

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in self.solver.stated().items()
        }


def multipliers(model: keras.Model) -> dict[str, tuple[float, float]]:
    """Path of a network's trained variable → (lr_mult, decay_mult) of its prototxt, for `CaffeSGD`."""
    network = checked_network(model)
    pairs = {one.name: (one.lr_mult, one.decay_mult) for one in network.architecture.parameters()}
    return {variable.path: pairs[name] for name, (variable, _) in trained(network).items()}


def trained(network: Network) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Hub name → variable and layout of what a solver moves: `segtwin.solver.trained`, as far as it is
    trainable."""
    own = table(network)
    movable = {id(variable) for variable in network.trainable_variables}
    return {
        one.name: own[one.name] for one in trained_parameters(network.architecture) if id(own[one.name][0]) in movable
    }


def gradients(
    model: keras.Model,
    data: np.ndarray,
    label: np.ndarray,
    caffe: bool = True,
    loss: keras.losses.Loss | None = None,
) -> tuple[float, dict[str, np.ndarray]]:
    """A loss at the model's scores, and its gradients.

    Args:
        model: made by `build`. Dropout is off, and BatchNorm takes its running statistics; the model
            stays as it is.
        data: N×H×W×C.
        label: N×1×h×w, h×w the size of the output.
        caffe: compute as Caffe does (`caffe_arithmetic`); False: with TensorFlow's default kernels.
        loss: of (label, scores); by default `SoftmaxWithLoss()`: normalize: false, ignore_label 255.

    Returns:
        The loss as Caffe reports it, and hub name → gradient of every trained parameter, in the hub's
        layout.

    Raises:
        LabelError: labels of another size, or that are no class.
        ArchitectureError: the model's output are no scores of two or more classes.
        TypeError, ValueError: the data are no such images.
    """
    network = checked_network(model)
    slots = trained(network)
    with ONE_AT_A_TIME, caffe_arithmetic() if caffe else nullcontext():
        value, slopes = _gradients(network, data, label, [variable for variable, _ in slots.values()], loss)
    return float(value), {
        name: hub_array(slope, order) for (name, (_, order)), slope in zip(slots.items(), slopes, strict=True)
    }


@known_arguments
def solver_steps(
    model: keras.Model,
    steps: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]],
    *,
    base_lr: float,
    momentum: float = 0.99,
    weight_decay: float = 0.0005,
    lr_policy: str = "fixed",
    gamma: float | None = None,
    power: float | None = None,
    stepsize: int | None = None,
    stepvalue: Sequence[int] = (),
    max_iter: int | None = None,
    caffe: bool = True,
    loss: keras.losses.Loss | None = None,
) -> list[float]:
    """Train a model as Caffe's solver does; the model is changed.

    Args:
        model: made by `build`. Dropout is off, as in `gradients`.
        steps: a list of steps, each a list of iter_size (data, label) pairs; data N×H×W×C, label
            N×1×h×w.
        base_lr: learning rate.
        momentum, weight_decay, lr_policy, gamma, power, stepsize, stepvalue, max_iter: as in
            solver.prototxt.
        caffe: compute as Caffe does; False: with TensorFlow's default kernels.
        loss: as of `gradients`.

    Returns:
        The loss of each step before its update, as Caffe reports it: the mean over its pairs.

    Raises:
        SolverError: there is no such policy, or it lacks a field.
        LabelError, TypeError, ValueError: as of `gradients`; a step without pairs.
    """
    network = checked_network(model)
    solver = Solver(
        base_lr, lr_policy, gamma, power, stepsize, tuple(stepvalue), momentum, weight_decay, max_iter=max_iter
    )
    checked = check_steps(steps)
    variables = [variable for variable, _ in trained(network).values()]
    optimizer = CaffeSGD(CaffeSchedule(solver), momentum, weight_decay, multipliers=multipliers(network))
    optimizer.build(variables)
    losses = []
    with ONE_AT_A_TIME, caffe_arithmetic() if caffe else nullcontext():
        for pairs in checked:
            optimizer.iter_size = len(pairs)
            total: list[KerasTensor] | None = None
            losses.append(0.0)
            for data, label in pairs:
                value, slopes = _gradients(network, data, label, variables, loss)
                total = slopes if total is None else [one + more for one, more in zip(total, slopes, strict=True)]
                losses[-1] += float(value) / len(pairs)
            optimizer.apply(total, variables)
    return losses


def _gradients(
    network: Network,
    data: np.ndarray,
    label: np.ndarray,
    variables: list[keras.Variable],
    loss: keras.losses.Loss | None,
) -> tuple[KerasTensor, list[KerasTensor]]:
    check_scores(network.architecture, bool(network.arguments.get("logits")))
    images = np.asarray(data)
    images = np.moveaxis(images, -1, 1) if images.ndim == 4 else images
    checked = checked_images(images, network.in_channels, network.input.dtype)
    values = [variable.value for variable in variables]
    with tf.GradientTape() as tape:
        score = network(ops.convert_to_tensor(np.moveaxis(checked, 1, -1)), training=False)
        target = np.asarray(label)
        if target.ndim == 4 and target.shape[1] in (1, score.shape[-1]):
            target = np.moveaxis(target, 1, -1)
        value = (loss or SoftmaxWithLoss())(target, score)
    return value, tape.gradient(value, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
