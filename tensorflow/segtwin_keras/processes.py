"""Training in several processes, that TF_CONFIG names: TensorFlow's MultiWorkerMirroredStrategy. Its twin
is `segtwin_torch/processes.py`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from keras import KerasTensor
from segtwin.errors import RunError
from segtwin_weights import training

import tensorflow as tf


class Processes(training.Processes):
    """The workers of a MultiWorkerMirroredStrategy, one replica each.

    The strategy adds up; the variables are each process' own. They start alike and take the same steps.

    Raises:
        RunError: TF_CONFIG is no such thing; TensorFlow was at work before; a process has several GPUs.
    """

    def __init__(self) -> None:
        try:
            resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
            self.rank, self.size = resolver.task_id, resolver.cluster_spec().num_tasks("worker")
            self.strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
        except (ValueError, RuntimeError, tf.errors.OpError) as error:
            raise RunError(f"TF_CONFIG: {' '.join(str(error).split())}") from None
        if self.strategy.num_replicas_in_sync != self.size:
            raise RunError("show each process one GPU (CUDA_VISIBLE_DEVICES), and TF_CONFIG a worker for each")
        self._total = tf.function(lambda values: self.strategy.run(self._sum, (values,)), autograph=False)

    def _sum(self, values: KerasTensor) -> KerasTensor:
        return tf.distribute.get_replica_context().all_reduce("sum", tf.identity(values))  # on this device

    def total(self, values: np.ndarray) -> np.ndarray:
        """The sum over all processes, float64."""
        return self._total(tf.constant(values, "float64")).numpy()

    def together(self, gradients: Callable[..., tuple[KerasTensor, list[KerasTensor]]]) -> Callable[..., Any]:
        """A function of a loss and its gradients, as the mean over all processes."""

        def mean(*arguments: KerasTensor) -> tuple[KerasTensor, list[KerasTensor]]:
            return tf.distribute.get_replica_context().all_reduce("mean", gradients(*arguments))

        return lambda *arguments: self.strategy.run(mean, arguments)


@contextmanager
def joined() -> Iterator[training.Processes]:
    """The processes that TF_CONFIG names.

    Raises:
        RunError: they are PyTorch's; one of them has ended.
    """
    if "RANK" in os.environ and training.tensorflow_workers() < 2:
        raise RunError("torchrun starts PyTorch's processes: take --framework torch, or name Keras' by TF_CONFIG")
    if training.tensorflow_workers() < 2:
        yield training.Processes()
        return
    try:
        yield Processes()
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        raise RunError(f"another process of the training has ended ({' '.join(str(error).split())[:200]})") from None
