"""Training in several processes, that torchrun starts: `torchrun --nproc-per-node 2 -m segtwin train …`.
Its twin is `segtwin_keras/processes.py`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from segtwin.errors import RunError
from segtwin_weights import training
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from segtwin_torch.network import Network


class Processes(training.Processes):
    """The process group."""

    def __init__(self, device: str) -> None:
        self.rank, self.size, self.device = distributed.get_rank(), distributed.get_world_size(), device

    def total(self, values: np.ndarray) -> np.ndarray:
        """The sum over all processes, float64."""
        summed = torch.from_numpy(np.array(values, np.float64)).to(self.device)
        distributed.all_reduce(summed)
        return summed.cpu().numpy()


@contextmanager
def joined(device: str) -> Iterator[tuple[training.Processes, str]]:
    """The processes that torchrun started, or that a process group holds already; and this one's device.

    Raises:
        RunError: they are TensorFlow's; one of them has ended.
    """
    if "RANK" not in os.environ and training.tensorflow_workers() > 1:
        raise RunError("TF_CONFIG is TensorFlow's: take --framework keras, or start PyTorch's processes by torchrun")
    started = "RANK" in os.environ and not distributed.is_initialized()
    if not started and not distributed.is_initialized():
        yield training.Processes(), device
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if started:
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Processes(device), device
    except RuntimeError as error:  # Gloo's errors have no class of their own
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error).lower():
            raise
        raise RunError(f"another process of the training has ended ({' '.join(str(error).split())[:200]})") from None
    finally:
        if started:
            distributed.destroy_process_group()


def together(model: Network) -> DistributedDataParallel:
    """A network whose processes add up gradients, and whose BatchNorms take the statistics of the whole
    batch."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm
    return DistributedDataParallel(model)


class Summed(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The sum, of the same shape."""
        x = x.clone()
        distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        """The sum of the gradients."""
        return Summed.forward(ctx, slope)


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm of a batch that several processes share. torch's SyncBatchNorm is for GPUs alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalised, scaled and shifted; the same shape."""
        if not self.training:
            return super().forward(x)
        size = distributed.get_world_size()
        mean = Summed.apply(x.mean((0, 2, 3))) / size
        variance = Summed.apply((x - mean[:, None, None]).square().mean((0, 2, 3))) / size
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            values = size * x.numel() / x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (values / (values - 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight / (variance + self.eps).sqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
