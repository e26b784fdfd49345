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


@keras.saving.register_keras_serializable("segtwin")
class CaffeSGD(keras.optimizers.Optimizer):
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
        scheduled = isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule)
        rate = 1.0 if scheduled else float(learning_rate)
        solver = Solver(base_lr=rate, momentum=momentum, weight_decay=weight_decay, iter_size=iter_size)
        super().__init__(learning_rate if scheduled else rate, weight_decay=None, name=name, **kwargs)
        if not scheduled:  # in float32 it would be off by 6e-8
            self._untrack_variable(self.learning_rate)
            self._learning_rate = keras.Variable(rate, dtype="float64", trainable=False, name="learning_rate")
        self.momentum, self.decay, self.iter_size = solver.momentum, solver.weight_decay, solver.iter_size
        self.multipliers = {path: tuple(map(float, pair)) for path, pair in (multipliers or {}).items()}

    def build(self, variables: list[keras.Variable]) -> None:
        """Make the histories, which start at zero."""
        if not self.built:
            super().build(variables)
            self.pairs = [self.multipliers.get(variable.path, (1.0, 1.0)) for variable in variables]
            self.history = [self.add_variable_from_reference(variable, name="history") for variable in variables]

    def update_step(self, gradient: KerasTensor, variable: keras.Variable, learning_rate: KerasTensor) -> None:
        """One update of one variable."""
        number = self._get_variable_index(variable)
        (lr_mult, decay_mult), history = self.pairs[number], self.history[number]
        rate = ops.cast(ops.cast(learning_rate, "float64") * lr_mult, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype) / self.iter_size + self.decay * decay_mult * variable
        self.assign(history, self.momentum * history + rate * gradient)
        self.assign_sub(variable, history)

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "weight_decay": self.decay,
            "iter_size": self.iter_size,
            "multipliers": {path: list(pair) for path, pair in self.multipliers.items()},
        }


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
    model: keras.Model, data: np.ndarray, label: np.ndarray, caffe: bool = True
) -> tuple[float, dict[str, np.ndarray]]:
    """Caffe's SoftmaxWithLoss (normalize: false, ignore_label 255) at the model's scores, and its
    gradients.

    Args:
        model: made by `build`. Dropout is off, and BatchNorm takes its running statistics; the model
            stays as it is.
        data: N×H×W×C.
        label: N×1×h×w, h×w the size of the output.
        caffe: compute as Caffe does (`caffe_arithmetic`); False: with TensorFlow's default kernels.

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
        loss, slopes = _gradients(network, data, label, [variable for variable, _ in slots.values()])
    return float(loss), {
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
                loss, slopes = _gradients(network, data, label, variables)
                total = slopes if total is None else [one + more for one, more in zip(total, slopes, strict=True)]
                losses[-1] += float(loss) / len(pairs)
            optimizer.apply(total, variables)
    return losses


def _gradients(
    network: Network, data: np.ndarray, label: np.ndarray, variables: list[keras.Variable]
) -> tuple[KerasTensor, list[KerasTensor]]:
    check_scores(network.architecture, bool(network.arguments.get("logits")))
    images = np.asarray(data)
    images = np.moveaxis(images, -1, 1) if images.ndim == 4 else images
    checked = checked_images(images, network.in_channels, network.input.dtype)
    values = [variable.value for variable in variables]
    with tf.GradientTape() as tape:
        score = network(ops.convert_to_tensor(np.moveaxis(checked, 1, -1)), training=False)
        target = np.asarray(label)
        loss = SoftmaxWithLoss()(target[:, 0] if target.ndim == 4 and target.shape[1] == 1 else target, score)
    return loss, tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
