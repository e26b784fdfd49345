"""The Caffe-era segmentation networks in PyTorch. `segtwin_keras` has the same functions for the same networks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from segtwin import __version__, architectures
from segtwin_weights import Weights, untrained
from torch import nn

from segtwin_torch.export import export_onnx, save_checkpoint
from segtwin_torch.fcn import FCN8s
from segtwin_torch.weights import load_weights, read_weights

__all__ = ["__version__", "blobs", "build", "caffe_arithmetic", "export_onnx", "load_weights", "names", "read_weights", "save_checkpoint"]

NETWORKS: dict[str, Callable[..., nn.Module]] = {"fcn8s": FCN8s}


def names() -> list[str]:
    """The networks that `build` makes."""
    return list(NETWORKS)


def build(
    name: str,
    num_classes: int | None = None,
    in_channels: int | None = None,
    widths: tuple[int, ...] | None = None,
    weights: Weights | str | os.PathLike[str] | None = None,
    logits: bool = False,
    dropout: float | None = None,
    dtype: str = "float32",
    seed: int | None = None,
    **row_options: Any,
) -> nn.Module:
    """Make a network, in eval mode.

    Args:
        name: one of `names()`.
        num_classes: outputs; by default the row's own (21 for the FCNs).
        in_channels: channels of the image; by default the row's own (3).
        widths: (c1, c2, c3, c4, c5, fc6, fc7) in place of the row's (64, 128, 256, 512, 512, 4096, 4096), for cheap tests.
        weights: `Weights` of this network, or a file of them. Without them it starts as the original does (`segtwin_weights.untrained`: the
            Caffe nets at zero).
        logits: changes nothing in the Caffe nets, whose scores are logits.
        dropout: rate after fc6 and fc7 in training; 0.5 as in net.py.
        dtype: "float32" or "float64", of all weights and blobs.
        seed: of what starts at random: nothing in the Caffe nets.

    Returns:
        The module. It takes N×C×H×W and returns the row's output, N×classes×H×W.

    Raises:
        ValueError: there is no such network, width, dtype or option.
        KeyError, ValueError, WeightsError, OSError: of `load_weights`.
    """
    row = checked(name, dtype, row_options)
    with torch.device("meta"):  # no memory is filled twice
        network = NETWORKS[name](
            num_classes=row.num_classes if num_classes is None else num_classes,
            in_channels=row.in_channels if in_channels is None else in_channels,
            widths=tuple(row.resolve_widths(widths).values()),
            dropout=row.dropout if dropout is None else dropout,
            **row_options,
        )
    model = network.to(getattr(torch, dtype)).to_empty(device="cpu").eval()
    model.name = name  # type: ignore[assignment]
    load_weights(model, untrained(row, num_classes, in_channels, widths, seed) if weights is None else weights)
    return model


def checked(name: str, dtype: str, row_options: dict[str, Any]) -> architectures.Row:
    """The row of a network that `build` can make with these options."""
    if name not in NETWORKS:
        raise ValueError(f"there is no network {name!r}; there are {', '.join(NETWORKS)}")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype is 'float32' or 'float64', not {dtype!r}")
    row = architectures.get(name)
    if unknown := row_options.keys() - set(row.options):
        raise ValueError(f"{name} has no option {', '.join(sorted(unknown))}")
    return row


@contextmanager
def caffe_arithmetic() -> Iterator[None]:
    """Inside, torch computes a convolution on the CPU as Caffe does: im2col and one matrix product.

    By default torch takes oneDNN's direct convolutions, which are faster and add up all products of an output in one float32 number. In fc6 these
    are 25,088, and the rounding grows to 8 times Caffe's. The switch is torch's own and holds for the whole process while the block runs.
    """
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def blobs(model: nn.Module, x: np.ndarray | torch.Tensor, caffe: bool = True) -> dict[str, np.ndarray]:
    """Every blob of an inference pass under its original name.

    Args:
        model: made by `build`; it is run in eval mode and left in the mode it was in.
        x: N×C×H×W.
        caffe: compute as Caffe does (`caffe_arithmetic`); False: with torch's default kernels.

    Returns:
        Blob name → N×C×H×W in the model's dtype, in the order of the row.
    """
    like = next(model.parameters())
    training = model.training
    notebook: dict[str, torch.Tensor] = {}
    try:
        with torch.inference_mode(), caffe_arithmetic() if caffe else nullcontext():
            model.eval()(torch.as_tensor(x).to(like), notebook)
    finally:
        model.train(training)
    return {name: blob.cpu().numpy() for name, blob in notebook.items()}
