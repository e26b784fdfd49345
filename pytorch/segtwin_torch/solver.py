"""Caffe's solver in PyTorch: the optimizer, its learning-rate policies, gradients and whole steps.

Source: `src/caffe/solvers/sgd_solver.cpp` of BVLC/caffe at 9b891540183ddc834a02b2bd81b31afae71b2153.
`segtwin.solver` has the same in numpy; the twin is `segtwin_keras/solver.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from segtwin.arguments import checked_images
from segtwin.errors import known_arguments
from segtwin.solver import Solver, check_scores, check_steps
from segtwin.solver import trained as trained_parameters
from torch import Tensor, nn

from segtwin_torch.layers import caffe_arithmetic
from segtwin_torch.losses import SoftmaxWithLoss
from segtwin_torch.network import Network, unwrap
from segtwin_torch.weights import ONE_AT_A_TIME, dtype_name, in_eval_mode, parameter_table


class CaffeSGD(torch.optim.Optimizer):
    """Caffe's SGD: the learning rate is inside the history.

        history ← momentum · history + lr · lr_mult · (gradient / iter_size + weight_decay · decay_mult · w)
        w       ← w − history

    While the rate is constant it is `torch.optim.SGD`'s path; when the rate changes, torch's rescales
    all of the history and Caffe's does not. Any `torch.optim.lr_scheduler` drives it, `caffe_schedule`
    as Caffe does.

    Args:
        params: tensors, or groups of them that may hold lr_mult and decay_mult: `parameter_groups` of a
            network has those of its prototxt.
        lr: base_lr.
        momentum: share of the history that stays.
        weight_decay: of the squares of the weights, times one half.
        iter_size: batches whose gradients were added up before a step.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.99,
        weight_decay: float = 0.0005,
        iter_size: int = 1,
    ) -> None:
        solver = Solver(base_lr=lr, momentum=momentum, weight_decay=weight_decay, iter_size=iter_size)
        defaults = {
            "lr": solver.base_lr,
            "momentum": solver.momentum,
            "weight_decay": solver.weight_decay,
            "iter_size": solver.iter_size,
            "lr_mult": 1.0,
            "decay_mult": 1.0,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; what `closure` returns, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                gradient = w.grad if group["iter_size"] == 1 else w.grad / group["iter_size"]
                gradient = gradient.add(w, alpha=group["weight_decay"] * group["decay_mult"])
                state = self.state[w]
                if "history" not in state:
                    state["history"] = torch.zeros_like(w)
                history = state["history"]
                history.mul_(group["momentum"]).add_(gradient, alpha=group["lr"] * group["lr_mult"])
                w.sub_(history)
        return loss


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The trained parameters of a network for `CaffeSGD`, grouped by the multipliers of its prototxt
    (`lr_mult`, `decay_mult`). What has lr_mult 0 or requires_grad False is in no group."""
    network = unwrap(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    multipliers = {one.name: (one.lr_mult, one.decay_mult) for one in network.architecture.parameters()}
    for name, parameter in trained(network).items():
        groups.setdefault(multipliers[name], []).append(parameter)
    return [{"params": group, "lr_mult": lr, "decay_mult": decay} for (lr, decay), group in groups.items()]


def trained(network: Network) -> dict[str, nn.Parameter]:
    """Hub name → the parameters that a solver moves: those of `segtwin.solver.trained` with
    requires_grad."""
    own = parameter_table(network)
    return {one.name: own[one.name] for one in trained_parameters(network.architecture) if own[one.name].requires_grad}


def caffe_schedule(optimizer: CaffeSGD, solver: Solver) -> torch.optim.lr_scheduler.LambdaLR:
    """A scheduler of Caffe's policy: `.step()` after each step of the optimizer."""
    if not solver.base_lr:
        raise ValueError("base_lr is 0; there is nothing to schedule")
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: solver.learning_rate(step) / solver.base_lr)


def gradients(
    model: nn.Module,
    data: np.ndarray | Tensor,
    label: np.ndarray,
    caffe: bool = True,
    loss: nn.Module | None = None,
) -> tuple[float, dict[str, np.ndarray]]:
    """A loss at the model's scores, and its gradients.

    Args:
        model: made by `build`. Dropout is off, and BatchNorm takes its running statistics; mode,
            weights and `.grad` of the model stay as they are.
        data: N×C×H×W.
        label: N×1×h×w, h×w the size of the output.
        caffe: compute as Caffe does (`caffe_arithmetic`); False: with torch's default kernels.
        loss: of (scores, label); by default `SoftmaxWithLoss()`: normalize: false, ignore_label 255.

    Returns:
        The loss as Caffe reports it, and hub name → gradient of every trained parameter.

    Raises:
        LabelError: labels of another size, or that are no class.
        ArchitectureError: the model's output are no scores of two or more classes.
        TypeError, ValueError: the data are no such images.
    """
    network = unwrap(model)
    parameters = trained(network)
    with ONE_AT_A_TIME, torch.enable_grad(), caffe_arithmetic() if caffe else nullcontext():
        value = _loss(network, data, label, loss)
        slopes = torch.autograd.grad(value, list(parameters.values()), materialize_grads=True)
    return value.item(), {name: one.cpu().numpy() for name, one in zip(parameters, slopes, strict=True)}


@known_arguments
def solver_steps(
    model: nn.Module,
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
    loss: nn.Module | None = None,
) -> list[float]:
    """Train a model as Caffe's solver does; the model is changed.

    Args:
        model: made by `build`. Dropout is off, as in `gradients`.
        steps: a list of steps, each a list of iter_size (data, label) pairs; data N×C×H×W, label
            N×1×h×w.
        base_lr: learning rate.
        momentum, weight_decay, lr_policy, gamma, power, stepsize, stepvalue, max_iter: as in
            solver.prototxt.
        caffe: compute as Caffe does; False: with torch's default kernels.
        loss: as of `gradients`.

    Returns:
        The loss of each step before its update, as Caffe reports it: the mean over its pairs.

    Raises:
        SolverError: there is no such policy, or it lacks a field.
        LabelError, TypeError, ValueError: as of `gradients`; a step without pairs.
    """
    network = unwrap(model)
    solver = Solver(
        base_lr, lr_policy, gamma, power, stepsize, tuple(stepvalue), momentum, weight_decay, max_iter=max_iter
    )
    checked = check_steps(steps)
    optimizer = CaffeSGD(parameter_groups(network), base_lr, momentum, weight_decay)
    losses = []
    with ONE_AT_A_TIME, torch.enable_grad(), caffe_arithmetic() if caffe else nullcontext():
        before = {parameter: parameter.grad for parameter in network.parameters()}
        try:
            for number, pairs in enumerate(checked):
                for group in optimizer.param_groups:
                    group["lr"], group["iter_size"] = solver.learning_rate(number), len(pairs)
                optimizer.zero_grad()
                losses.append(0.0)
                for data, label in pairs:
                    value = _loss(network, data, label, loss)
                    value.backward()
                    losses[-1] += value.item() / len(pairs)
                optimizer.step()
        finally:
            for parameter, gradient in before.items():
                parameter.grad = gradient
    return losses


def _loss(network: Network, data: np.ndarray | Tensor, label: np.ndarray, loss: nn.Module | None) -> Tensor:
    check_scores(network.architecture, network.logits)
    like = next(network.parameters())
    images = data.detach().cpu().numpy() if isinstance(data, Tensor) else data
    checked = checked_images(images, network.in_channels, dtype_name(like))
    score = in_eval_mode(network)(torch.from_numpy(checked).to(like.device))
    return (loss or SoftmaxWithLoss())(score, torch.from_numpy(np.asarray(label)))
