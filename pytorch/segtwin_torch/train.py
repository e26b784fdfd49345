"""Training in PyTorch: the half of `segtwin_weights.training` that is torch's. Its twin is
`segtwin_keras/train.py`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from segtwin.data.stream import Batch
from segtwin.recipe import Recipe
from segtwin_weights import Weights, training
from torch import nn

from segtwin_torch.losses import BinaryCrossEntropy, BinaryCrossEntropyDice, CrossEntropy, Dice, SoftmaxWithLoss
from segtwin_torch.network import Network
from segtwin_torch.solver import CaffeSGD, parameter_groups, trained
from segtwin_torch.weights import in_eval_mode, load_weights, read_weights

STATES = {"caffe-sgd": {"history": "history"}, "adam": {"adam_m": "exp_avg", "adam_v": "exp_avg_sq"}}
"""Optimizer → name in a checkpoint → torch's name."""


def loss_of(recipe: Recipe) -> nn.Module:
    """The loss that a recipe names."""
    if recipe.loss == "softmax":
        return SoftmaxWithLoss(recipe.normalization)
    if recipe.loss in ("cross-entropy", "border"):
        return CrossEntropy()
    return {"bce": BinaryCrossEntropy, "dice": Dice, "bce-dice": BinaryCrossEntropyDice}[recipe.loss]()


class Learner:
    """A network and its optimizer.

    Args:
        model: made by `build`, with logits where it ends with a sigmoid.
        recipe: of the training.
    """

    def __init__(self, model: Network, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        self.architecture, self.preprocessing = model.architecture, model.preprocessing
        self.in_channels = model.in_channels
        self.num_classes = int(
            model.metadata.get("num_classes") or recipe.num_classes or model.architecture.num_classes
        )
        self.loss = loss_of(recipe)
        self.parameters = trained(model)
        groups = parameter_groups(model)
        self.optimizer: torch.optim.Optimizer
        if recipe.optimizer == "adam":
            for group in groups:
                group["weight_decay"] = recipe.weight_decay * group["decay_mult"]
            self.optimizer = torch.optim.Adam(groups, recipe.base_lr)
        else:
            self.optimizer = CaffeSGD(groups, recipe.base_lr, recipe.momentum, recipe.weight_decay, recipe.iter_size)

    def step(self, number: int, batches: Sequence[Batch], rate: float) -> float:
        """Train on iter_size batches; the mean of their losses before the update."""
        device = next(self.model.parameters()).device
        self.model.train()
        self.optimizer.zero_grad()
        total = 0.0
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(
                np.random.SeedSequence([self.recipe.seed, 3, number]).generate_state(1, np.uint64)[0].item()
            )
            for batch in batches:
                loss = self._loss(batch)
                loss.backward()
                total += loss.item() / len(batches)
        if self.recipe.optimizer == "adam" and len(batches) > 1:
            for parameter in self.parameters.values():
                if parameter.grad is not None:
                    parameter.grad /= len(batches)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * (group["lr_mult"] if self.recipe.optimizer == "adam" else 1)
        self.optimizer.step()
        return total

    def _loss(self, batch: Batch) -> torch.Tensor:
        like = next(self.model.parameters())
        data, label = torch.from_numpy(batch.data).to(like), torch.from_numpy(batch.label)
        if batch.weight is None:
            return self.loss(self.model(data), label)
        return self.loss(self.model(data), label, torch.from_numpy(batch.weight))

    def output(self, data: np.ndarray) -> np.ndarray:
        """N×C×H×W → scores, or logits of one class, N×classes×H×W."""
        like = next(self.model.parameters())
        with torch.inference_mode():
            return in_eval_mode(self.model)(torch.from_numpy(data).to(like)).float().cpu().numpy()

    def weights(self) -> Weights:
        """The network's, under the hub's names, with metadata."""
        return read_weights(self.model)

    def state(self) -> dict[str, np.ndarray]:
        """The optimizer's: histories, or Adam's moments and its count of steps."""
        found: dict[str, np.ndarray] = {}
        for name, parameter in self.parameters.items():
            state = self.optimizer.state.get(parameter, {})
            for ours, theirs in STATES[self.recipe.optimizer].items():
                value = state.get(theirs)
                found[f"{ours}/{name}"] = (torch.zeros_like(parameter) if value is None else value).cpu().numpy()
        return found

    def restore(self, weights: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray], number: int) -> None:
        """Go on from a step's weights and state."""
        load_weights(self.model, Weights(weights, self.model.metadata))
        for name, parameter in self.parameters.items():
            own = self.optimizer.state[parameter]
            for ours, theirs in STATES[self.recipe.optimizer].items():
                own[theirs] = torch.from_numpy(np.array(state[f"{ours}/{name}"])).to(parameter)
            if self.recipe.optimizer == "adam":
                own["step"] = torch.tensor(float(number))


def learner(job: training.Job, device: str = "cpu") -> Learner:
    """The learner of a job."""
    from segtwin_torch import build

    recipe = job.recipe
    sigmoid = recipe.architecture.layer(recipe.architecture.output).kind == "Sigmoid"
    options: dict[str, Any] = {} if recipe.dropout is None else {"dropout": recipe.dropout}
    model = build(
        recipe.network,
        num_classes=recipe.num_classes,
        in_channels=recipe.in_channels,
        widths=recipe.widths,
        weights=job.start,
        logits=sigmoid,
        dtype=recipe.dtype,  # type: ignore[arg-type] # checked by the recipe
        device=device,
        seed=recipe.seed,
        **options,
    )
    return Learner(model, recipe)


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
    device: str = "cpu",
    workers: int = training.WORKERS,
    progress: Callable[[training.Said], None] = lambda said: None,
    say: Callable[[str], None] = lambda line: None,
    **fields: Any,
) -> training.Result:
    """Train a network on a folder of images and labels: what `segtwin train` does.

    Args:
        name_or_weights: a network's name, or weights to start from.
        data: the folder; its layout is told.
        run: the folder to write to.
        weights: to start from; those of VGG-16 or of another FCN are converted.
        recipe: a TOML file, a solver.prototxt, the name of one of the network's recipes, or fields.
        resume: go on with the run in the folder, to the same bits as without an interruption.
        overwrite: begin anew in a folder that holds a run.
        overfit: learn so many images by heart.
        device: where it is computed.
        workers: threads that read images.
        progress: told of every step.
        say: takes each line that the user should read.
        **fields: of `segtwin.recipe.Recipe`.

    Returns:
        What it came to; `run` holds last.safetensors, best.safetensors, log.json, recipe.toml.

    Raises:
        RunError, DataError, SolverError, WeightsError, OSError: in one line.
    """
    job = training.prepare(
        name_or_weights, data, weights, recipe, overfit, say, workers, run if resume else None, **fields
    )
    return training.run(job, learner(job, device), run, resume, overwrite, "torch", progress, say, workers)
