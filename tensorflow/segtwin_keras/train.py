"""Training in Keras: the half of `segtwin_weights.training` that is Keras'. Its twin is
`segtwin_torch/train.py`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops
from segtwin.data.stream import Batch
from segtwin.recipe import Recipe
from segtwin_weights import Weights, training

import tensorflow as tf
from segtwin_keras.losses import BinaryCrossEntropy, CrossEntropy, Dice, OneNumber, SoftmaxWithLoss
from segtwin_keras.network import Network, computed_in
from segtwin_keras.processes import Processes, joined
from segtwin_keras.solver import Adam, CaffeSGD, multipliers, trained
from segtwin_keras.weights import blob_tensors, hub_array, load_weights, read_weights

STATES = {"caffe-sgd": {"history": "history"}, "adam": {"adam_m": "m", "adam_v": "v"}}
"""Optimizer → name in a checkpoint → the optimizer's list of variables."""


def losses_of(recipe: Recipe) -> list[tuple[OneNumber, bool]]:
    """What a recipe's loss is the sum of, and of each whether it is a mean over the pixels that count."""
    if recipe.loss == "softmax":
        return [(SoftmaxWithLoss(recipe.normalization), recipe.normalization == "VALID")]
    if recipe.loss in ("cross-entropy", "border"):
        return [(CrossEntropy(), True)]
    both: list[tuple[OneNumber, bool]] = [(BinaryCrossEntropy(), True), (Dice(), False)]
    return {"bce": both[:1], "dice": both[1:], "bce-dice": both}[recipe.loss]


class Learner:
    """A network and its optimizer.

    Args:
        model: made by `build`, with logits where it ends with a sigmoid.
        recipe: of the training.
        processes: that train together.
    """

    def __init__(self, model: Network, recipe: Recipe, processes: training.Processes | None = None) -> None:
        self.model, self.recipe = model, recipe
        self.processes = processes or training.Processes()
        self.architecture, self.preprocessing = model.architecture, model.preprocessing
        self.in_channels = model.in_channels
        self.num_classes = int(
            model.metadata.get("num_classes") or recipe.num_classes or model.architecture.num_classes
        )
        self.losses = losses_of(recipe)
        if self.architecture.heads:
            tensors = blob_tensors(model)
            self.heads = keras.Model(model.input, [tensors[name] for name in self.architecture.heads])
        self.parameters = trained(model)
        self.variables = [variable for variable, _ in self.parameters.values()]
        pairs = multipliers(model)
        self.optimizer: Adam | CaffeSGD
        if recipe.optimizer == "adam":
            self.optimizer = Adam(recipe.base_lr, recipe.weight_decay, multipliers=pairs)
        else:
            self.optimizer = CaffeSGD(
                recipe.base_lr, recipe.momentum, recipe.weight_decay, recipe.iter_size, multipliers=pairs
            )
        self.optimizer.build(self.variables)
        gradients: Any = self._gradients
        if isinstance(self.processes, Processes):
            gradients = self.processes.together(gradients)
        self.gradients = tf.function(gradients, reduce_retracing=True, autograph=False)
        self.update = tf.function(self._update, autograph=False)
        self.forward = tf.function(
            lambda data: self.model(data, training=False), reduce_retracing=True, autograph=False
        )

    def step(self, number: int, batches: Sequence[Batch], rate: float) -> float:
        """Train on iter_size batches; the mean of their losses before the update, of all processes."""
        seed = np.random.SeedSequence([self.recipe.seed, 3 + self.processes.rank, number]).generate_state(2, np.uint32)
        for layer in self.model.layers:
            if isinstance(layer, keras.layers.Dropout) and layer.rate > 0:
                layer.seed_generator.state.assign(seed)
        total = 0.0
        slopes: list[KerasTensor] | None = None
        for batch in batches:
            loss, found = self._loss(batch)
            slopes = found if slopes is None else [one + more for one, more in zip(slopes, found, strict=True)]
            total += float(loss) / len(batches)
        assert slopes is not None
        if self.recipe.optimizer == "adam" and len(batches) > 1:
            slopes = [one / len(batches) for one in slopes]
        self.optimizer.learning_rate.assign(rate)
        self.update(slopes)
        return total

    def _loss(self, batch: Batch) -> tuple[KerasTensor, list[KerasTensor]]:
        data = tf.constant(batch.data.transpose(0, 2, 3, 1), self.model.input.dtype)
        label = tf.constant(batch.label[:, 0], "int64")
        more = () if batch.weight is None else (tf.constant(batch.weight[:, 0], self.model.input.dtype),)
        return self.gradients(data, label, tf.constant(self.processes.weight(batch), self.model.input.dtype), *more)

    def _gradients(
        self, data: KerasTensor, label: KerasTensor, weight: KerasTensor, *more: KerasTensor
    ) -> tuple[KerasTensor, list[KerasTensor]]:
        with tf.GradientTape() as tape:
            with computed_in(self.model, self.recipe.dtype):
                outputs = [ops.cast(one, self.recipe.weights_dtype) for one in self._outputs(data)]
            parts = [
                one(label, output, *more) * (weight if mean else 1) for output in outputs for one, mean in self.losses
            ]
            loss = ops.sum(ops.stack(parts)) / len(outputs)
        values = [variable.value for variable in self.variables]
        return loss, tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def _outputs(self, data: KerasTensor) -> list[KerasTensor]:
        """The network's output, or the logits of all of its heads."""
        if not self.architecture.heads:
            return [self.model(data, training=True)]
        outputs: list[KerasTensor] = self.heads(data, training=True)
        return outputs

    def _update(self, slopes: list[KerasTensor]) -> None:
        self.optimizer.apply(slopes, self.variables)

    def output(self, data: np.ndarray) -> np.ndarray:
        """N×C×H×W → scores, or logits of one class, N×classes×H×W."""
        x = ops.convert_to_tensor(data.transpose(0, 2, 3, 1), self.model.input.dtype)
        return self.forward(x).numpy().transpose(0, 3, 1, 2).astype(np.float32)

    def blobs(self, data: np.ndarray) -> Mapping[str, np.ndarray]:
        """Every blob of an inference pass, N×C×H×W."""
        from segtwin_keras import blobs

        return blobs(self.model, data.astype(self.recipe.weights_dtype), caffe=False)

    def weights(self) -> Weights:
        """The network's, under the hub's names, with metadata."""
        return read_weights(self.model)

    def state(self) -> dict[str, np.ndarray]:
        """The optimizer's: histories, or Adam's moments and its count of steps."""
        return {
            f"{ours}/{name}": hub_array(getattr(self.optimizer, theirs)[number], order)
            for number, (name, (_, order)) in enumerate(self.parameters.items())
            for ours, theirs in STATES[self.recipe.optimizer].items()
        }

    def restore(self, weights: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray], number: int) -> None:
        """Go on from a step's weights and state."""
        load_weights(self.model, Weights(weights, self.model.metadata))
        for place, (name, (_, order)) in enumerate(self.parameters.items()):
            for ours, theirs in STATES[self.recipe.optimizer].items():
                getattr(self.optimizer, theirs)[place].assign(np.transpose(state[f"{ours}/{name}"], order))
        self.optimizer.iterations.assign(number)


def learner(job: training.Job, processes: training.Processes | None = None) -> Learner:
    """The learner of a job."""
    from segtwin_keras import build

    recipe = job.recipe
    options: dict[str, Any] = {} if recipe.dropout is None else {"dropout": recipe.dropout}
    model = build(
        recipe.network,
        num_classes=recipe.num_classes,
        in_channels=recipe.in_channels,
        widths=recipe.widths,
        weights=job.start,
        logits=recipe.architecture.sigmoid,
        dtype=recipe.weights_dtype,  # type: ignore[arg-type] # checked by the recipe
        seed=recipe.seed,
        **options,
    )
    model.metadata |= recipe.labels
    return Learner(model, recipe, processes)


def train(
    name_or_weights: str | Weights,
    data: str | os.PathLike[str],
    run: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | Weights | None = None,
    recipe: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overfit: int | None = None,
    workers: int = training.WORKERS,
    progress: Callable[[training.Said], None] = lambda said: None,
    say: Callable[[str], None] = lambda line: None,
    **fields: Any,
) -> training.Result:
    """Train a network on a folder of images and labels: what `segtwin train` does.

    Where TF_CONFIG names several workers, the processes share each batch of the recipe and train as one
    process does, but for dropout, whose masks are of each process.

    Args:
        name_or_weights: a network's name, or weights (or a file of them) to start from.
        data: the folder; its layout is told.
        run: the folder to write to.
        weights: to start from; those of VGG-16 or of another FCN are converted.
        recipe: a TOML file, a solver.prototxt, the name of one of the network's recipes, or fields.
        resume: go on with the run in the folder, to the same bits as without an interruption.
        overwrite: begin anew in a folder that holds a run.
        overfit: learn so many images by heart.
        workers: threads that read images.
        progress: told of every step.
        say: takes each line that the user should read.
        **fields: of `segtwin.recipe.Recipe`.

    Returns:
        What it came to; `run` holds last.safetensors, best.safetensors, log.json, recipe.toml.

    Raises:
        RunError, DataError, SolverError, WeightsError, OSError: in one line.
    """
    with joined() as processes:
        if processes.rank:  # one speaks
            progress, say = lambda said: None, lambda line: None
        job = training.prepare(
            name_or_weights, data, weights, recipe, overfit, say, workers, run if resume else None, **fields
        )
        learned = learner(job, processes)
        return training.run(job, learned, run, resume, overwrite, "keras", progress, say, workers)
