"""The Caffe-era segmentation networks in PyTorch. `segtwin_keras` has the same functions for the
same networks."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext, suppress
from importlib import import_module
from typing import Any

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError(
        "segtwin_torch needs PyTorch, which is not installed; pip install 'segtwin[torch]'", name="torch"
    ) from None

import numpy as np
import segtwin_weights
from segtwin import __version__
from segtwin.architectures import list_architectures
from segtwin.arguments import checked_images
from segtwin.errors import known_arguments
from segtwin_weights import Weights, building
from torch import nn

from segtwin_torch.export import export_onnx, save_checkpoint
from segtwin_torch.fcn8_vgg import regularization_terms
from segtwin_torch.layers import caffe_arithmetic
from segtwin_torch.losses import BinaryCrossEntropy, BinaryCrossEntropyDice, CrossEntropy, Dice, SoftmaxWithLoss
from segtwin_torch.network import Network, leave_out_dead_zones, network_class, unwrap
from segtwin_torch.solver import CaffeSGD, caffe_schedule, gradients, parameter_groups, solver_steps
from segtwin_torch.train import train
from segtwin_torch.weights import ONE_AT_A_TIME, blob_names, dtype_name, in_eval_mode, load_weights, read_weights

# torch's optimizers, and torchvision, import triton. It brings an LLVM, as TensorFlow does, and has
# to be there before TensorFlow's: the other order aborts the interpreter. So it is imported now,
# or, after TensorFlow, never: torch does without it, as builds that lack it do.
if "tensorflow" in sys.modules:
    sys.modules.setdefault("triton", None)  # type: ignore[arg-type] # None: an import of it fails
else:
    with suppress(ImportError):
        import_module("triton")

__all__ = [
    "BinaryCrossEntropy",
    "BinaryCrossEntropyDice",
    "CaffeSGD",
    "CrossEntropy",
    "Dice",
    "Network",
    "SoftmaxWithLoss",
    "__version__",
    "blobs",
    "build",
    "caffe_arithmetic",
    "caffe_schedule",
    "export_onnx",
    "gradients",
    "leave_out_dead_zones",
    "list_networks",
    "load",
    "load_weights",
    "parameter_groups",
    "read_weights",
    "regularization_terms",
    "save_checkpoint",
    "solver_steps",
    "train",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def list_networks() -> list[str]:
    """Names of the networks that `build` makes."""
    return list_architectures()


@known_arguments
def build(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    widths: tuple[int, ...] | None = None,
    weights: Weights | str | os.PathLike[str] | None = None,
    logits: bool = False,
    dropout: float | None = None,
    dtype: building.DTypeName = "float32",
    device: str | torch.device = "cpu",
    seed: int | None = None,
    pad: building.Pad | None = None,
    use_dilated: bool = False,
    random_init_fc8: bool = False,
    bilinear: bool | None = None,
) -> Network:
    """Make a network, in eval mode.

    Args:
        name: one of `list_networks()`.
        num_classes: outputs; by default those of `weights`, else the architecture's own (21 for the
            FCNs).
        in_channels: channels of the image; by default those of `weights`, else the architecture's
            own (3; 1 for unet-paper and unet-small). vggfcn*, fcn8-vgg and resnet34-unet take 3.
        widths: (c1, c2, c3, c4, c5, fc6, fc7) in place of the architecture's (64, 128, 256, 512,
            512, 4096, 4096), for cheap tests; the widths of the five levels for the U-Nets;
            resnet34-unet has none.
        weights: `Weights` of this network, or a file of them. Without them it starts as the
            original does (`segtwin_weights.initialize`: the Caffe nets at zero, the U-Nets at
            random).
        logits: if True, the U-Nets from torch return logits instead of probabilities. The other
            networks return scores in any case.
        dropout: rate in training, after fc6 and fc7 or at the end of unet-paper's contracting path;
            0.5 by default. The others have none.
        dtype: "float32" or "float64", of all weights and blobs.
        device: where the weights are.
        seed: of what starts at random: nothing in the Caffe nets, the skips' score layers in
            fcn8-vgg, everything in vggfcn* and the U-Nets (None: another start each time).
        pad: "reflect", for the U-Nets from torch: images whose sizes do not fit are mirrored at the
            bottom and right, and the output is cut.
        use_dilated: of fcn8-vgg: fc6 and fc7 at the resolution of pool3; the output is `fc7`.
        random_init_fc8: of fcn8-vgg: score_fr starts at random, not from fc8.
        bilinear: of unet-milesial: upsampled instead of by transposed convolutions, which is unet-milesial-bilinear;
            None: as the weights are.

    Returns:
        The module. It takes N×C×H×W and returns the network's output, N×classes×H×W.

    Raises:
        TypeError: an argument is unknown, or of another type.
        ArchitectureError: there is no such network, or it does not have such an option.
        ValueError: an argument is out of bounds, or contradicts the weights.
        WeightsError, OSError: of `load_weights`.
    """
    plan = building.plan(
        name,
        num_classes=num_classes,
        in_channels=in_channels,
        widths=widths,
        weights=weights,
        logits=logits,
        dropout=dropout,
        dtype=dtype,
        seed=seed,
        pad=pad,
        use_dilated=use_dilated,
        random_init_fc8=random_init_fc8,
        bilinear=bilinear,
    )
    with torch.device("meta"):  # no memory is filled twice
        network = network_class(plan.architecture)(**plan.arguments)
    network.architecture = plan.architecture
    network = network.to(getattr(torch, dtype)).to_empty(device=device).eval()
    load_weights(network, plan.weights)
    return network


def load(path: str | os.PathLike[str], **overrides: Any) -> Network:
    """The network that a file of weights holds, in eval mode, with the file's classes, channels,
    widths and preprocessing.

    Args:
        path: a file that `segtwin_weights.read` understands.
        **overrides: arguments of `build`, as logits=True.

    Raises:
        WeightsError: the file holds no network that is built here.
        TypeError, ValueError, OSError: of `build`.
    """
    weights = segtwin_weights.read(path)
    return build(segtwin_weights.network_of(weights), weights=weights, **overrides)


def blobs(model: nn.Module, data: np.ndarray | torch.Tensor, caffe: bool = True) -> dict[str, np.ndarray]:
    """Every blob of an inference pass under its original name.

    Args:
        model: made by `build`; it is run in eval mode, and its own mode is not touched: another
            thread may be training it.
        data: N×C×H×W of floats.
        caffe: compute as Caffe does (`caffe_arithmetic`); False: with torch's default kernels.

    Returns:
        Blob name → N×C×H×W in the model's dtype, in the order of the architecture.

    Raises:
        TypeError, ValueError: the data are no such images; their size does not fit the network.
    """
    network = unwrap(model)
    like = next(network.parameters())
    images = data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else data
    data = torch.from_numpy(checked_images(images, network.in_channels, dtype_name(like)))
    notebook: dict[str, torch.Tensor] = {}
    with ONE_AT_A_TIME, torch.inference_mode(), caffe_arithmetic() if caffe else nullcontext():
        in_eval_mode(network)(data.to(like.device), notebook)
    return {name: notebook[name].cpu().numpy() for name in blob_names(network)}
