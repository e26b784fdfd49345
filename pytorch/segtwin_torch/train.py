"""Training in PyTorch: the half of `segtwin_weights.training` that is torch's. Its twin is
`segtwin_keras/train.py`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from segtwin.data.stream import Batch
from segtwin.recipe import Recipe
from segtwin_weights import Weights, training
from torch import nn

from segtwin_torch.losses import BinaryCrossEntropy, CrossEntropy, Dice, SoftmaxWithLoss
from segtwin_torch.network import Network
from segtwin_torch.processes import joined, together
from segtwin_torch.solver import CaffeSGD, parameter_groups, trained
from segtwin_torch.weights import in_eval_mode, load_weights, read_weights

STATES = {"caffe-sgd": {"history": "history"}, "adam": {"adam_m": "exp_avg", "adam_v": "exp_avg_sq"}}
"""Optimizer → name in a checkpoint → torch's name."""


def losses_of(recipe: Recipe) -> list[tuple[nn.Module, bool]]:
    """What a recipe's loss is the sum of, and of each whether it is a mean over the pixels that count."""
    if recipe.loss == "softmax":
        return [(SoftmaxWithLoss(recipe.normalization), recipe.normalization == "VALID")]
    if recipe.loss in ("cross-entropy", "border"):
        return [(CrossEntropy(), True)]
    both: list[tuple[nn.Module, bool]] = [(BinaryCrossEntropy(), True), (Dice(), False)]
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
        self.forward: Any = together(model) if self.processes.size > 1 else model
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
        """Train on iter_size batches; the mean of their losses before the update, of all processes."""
        device = next(self.model.parameters()).device
        rank, size = self.processes.rank, self.processes.size
        self.model.train()
        self.optimizer.zero_grad()
        total = 0.0
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(
                np.random.SeedSequence([self.recipe.seed, 3 + rank, number]).generate_state(1, np.uint64)[0].item()
            )
            for place, batch in enumerate(batches, 1):
                # gradients are exchanged with the last batch of a step
                with nullcontext() if size == 1 or place == len(batches) else self.forward.no_sync():
                    loss = self._loss(batch)
                    loss.backward()
                total += loss.item() / len(batches)
        total = self.processes.total(np.array(total)).item() / size
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
        label, weight = torch.from_numpy(batch.label), self.processes.weight(batch)
        with torch.autocast(like.device.type, torch.bfloat16, enabled=self.recipe.mixed):
            outputs = self._outputs(torch.from_numpy(batch.data).to(like))
        more = () if batch.weight is None else (torch.from_numpy(batch.weight),)
        parts = [
            loss(output.to(like.dtype), label, *more) * (weight if mean else 1)
            for output in outputs
            for loss, mean in self.losses
        ]
        return torch.stack(parts).sum() / len(outputs)

    def _outputs(self, data: torch.Tensor) -> list[torch.Tensor]:
        """The network's output, or the logits of all of its heads."""
        if not self.architecture.heads:
            return [self.forward(data)]
        notebook: dict[str, torch.Tensor] = {}
        self.forward(data, notebook)
        return [notebook[name] for name in self.architecture.heads]

    def output(self, data: np.ndarray) -> np.ndarray:
        """N×C×H×W → scores, or logits of one class, N×classes×H×W."""
        like = next(self.model.parameters())
        with torch.inference_mode():
            return in_eval_mode(self.model)(torch.from_numpy(data).to(like)).float().cpu().numpy()

    def blobs(self, data: np.ndarray) -> Mapping[str, np.ndarray]:
        """Every blob of an inference pass, N×C×H×W."""
        from segtwin_torch import blobs

        return blobs(self.model, data.astype(self.recipe.weights_dtype), caffe=False)

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


def learner(job: training.Job, device: str = "cpu", processes: training.Processes | None = None) -> Learner:
    """The learner of a job."""
    from segtwin_torch import build

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
        device=device,
        seed=recipe.seed,
        **options,
    )
    model.metadata |= recipe.labels
    if torch.device(device).type == "cuda":  # the layout that the tensor cores take
        model = model.to(memory_format=torch.channels_last)
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
    device: str = "cpu",
    workers: int = training.WORKERS,
    progress: Callable[[training.Said], None] = lambda said: None,
    say: Callable[[str], None] = lambda line: None,
    **fields: Any,
) -> training.Result:
    """Train a network on a folder of images and labels: what `segtwin train` does.

    Started by torchrun, the processes share each batch of the recipe and train as one process does, but
    for dropout, whose masks are of each process.

    Args:
        name_or_weights: a network's name, or weights (or a file of them) to start from.
        data: the folder; its layout is told.
        run: the folder to write to.
        weights: to start from; those of VGG-16 or of another FCN are converted.
        recipe: a TOML file, a solver.prototxt, the name of one of the network's recipes, or fields.
        resume: go on with the run in the folder, to the same bits as without an interruption.
        overwrite: begin anew in a folder that holds a run.
        overfit: learn so many images by heart.
        device: where it is computed; "cuda" is a GPU for each process.
        workers: threads that read images.
        progress: told of every step.
        say: takes each line that the user should read.
        **fields: of `segtwin.recipe.Recipe`.

    Returns:
        What it came to; `run` holds last.safetensors, best.safetensors, log.json, recipe.toml.

    Raises:
        RunError, DataError, SolverError, WeightsError, OSError: in one line.
    """
    with joined(device) as (processes, device):
        if processes.rank:  # one speaks
            progress, say = lambda said: None, lambda line: None
        job = training.prepare(
            name_or_weights, data, weights, recipe, overfit, say, workers, run if resume else None, **fields
        )
        learned = learner(job, device, processes)
        return training.run(job, learned, run, resume, overwrite, "torch", progress, say, workers)
