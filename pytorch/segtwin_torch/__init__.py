"""The Caffe-era segmentation networks in PyTorch. `segtwin_keras` has the same functions for the
same networks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
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
from segtwin.architectures import Architecture, get_architecture
from segtwin.arguments import check_build, check_memory, checked_images, network_name
from segtwin_weights import Weights, initialize
from torch import nn

from segtwin_torch.export import export_onnx, save_checkpoint
from segtwin_torch.fcn import FCN8s, FCN8sAtOnce, FCN16s, FCN32s
from segtwin_torch.fcn8_vgg import FCN8VGG, DilatedFCN8VGG, regularization_terms
from segtwin_torch.resnet34_unet import ResNet34UNet
from segtwin_torch.unet import PADS, UNet, UNetPaper, UNetSmall
from segtwin_torch.vggfcn import VGGFCN8, VGGFCN16, VGGFCN32
from segtwin_torch.weights import ONE_AT_A_TIME, blob_names, in_eval_mode, load_weights, read_weights

# torch's optimizers, and torchvision, import triton. It brings an LLVM, as TensorFlow does, and has
# to be there before TensorFlow's: the other order aborts the interpreter. So it is imported now,
# or, after TensorFlow, never: torch does without it, as builds that lack it do.
if "tensorflow" in sys.modules:
    sys.modules.setdefault("triton", None)  # type: ignore[arg-type] # None: an import of it fails
else:
    with suppress(ImportError):
        import_module("triton")

__all__ = [
    "__version__",
    "blobs",
    "build",
    "caffe_arithmetic",
    "export_onnx",
    "list_networks",
    "load",
    "load_weights",
    "read_weights",
    "regularization_terms",
    "save_checkpoint",
]


def __dir__() -> list[str]:
    return sorted(__all__)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "fcn32s": FCN32s,
    "fcn16s": FCN16s,
    "fcn8s": FCN8s,
    "fcn8s-atonce": FCN8sAtOnce,
    "fcn8-vgg": FCN8VGG,
    "vggfcn32": VGGFCN32,
    "vggfcn16": VGGFCN16,
    "vggfcn8": VGGFCN8,
    "unet-paper": UNetPaper,
    "unet": UNet,
    "unet-small": UNetSmall,
    "resnet34-unet": ResNet34UNet,
}

VARIANTS: dict[str, Callable[..., nn.Module]] = {"fcn8-vgg-dilated": DilatedFCN8VGG}
"""What a architecture option makes of a network (`Architecture.variants`)."""


def list_networks() -> list[str]:
    """The networks that `build` makes."""
    return list(NETWORKS)


def build(
    name: str,
    *,
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
        logits: leave the sigmoid at the end of the U-Nets from torch off. It changes nothing in the
            other nets, whose scores are logits.
        dropout: rate in training, after fc6 and fc7 or at the end of unet-paper's contracting path;
            0.5 by default. The others have none.
        dtype: "float32" or "float64", of all weights and blobs.
        seed: of what starts at random: nothing in the Caffe nets, the skips' score layers in
            fcn8-vgg, everything in vggfcn* and the U-Nets (None: another start each time).
        **row_options: pad="reflect" for the U-Nets from torch: images whose sizes do not fit are
            mirrored at the bottom and right, and the output cut. fcn8-vgg has `random_init_fc8`
            (score_fr starts at random, not from fc8) and `use_dilated` (fc6 and fc7 at the
            resolution of pool3; the output is `fc7`).

    Returns:
        The module. It takes N×C×H×W and returns the architecture's output, N×classes×H×W.

    Raises:
        TypeError: an argument is of another type.
        ValueError: there is no such network, width, dtype or option; an argument is out of bounds,
            or contradicts the weights.
        KeyError, ValueError, WeightsError, OSError: of `load_weights`.
    """
    base = checked(name, dtype, row_options)
    architecture = base.variant(row_options)
    num_classes, in_channels, widths = check_build(architecture, num_classes, in_channels, widths, dropout, seed)
    start = None if weights is None else segtwin_weights.weights_for(weights, architecture)
    size = (
        (num_classes, in_channels, widths)
        if start is None
        else segtwin_weights.resolve(base, start, num_classes, in_channels, widths)
    )
    num_classes, in_channels, widths = size
    check_memory(architecture, num_classes, in_channels, widths, np.dtype(dtype).itemsize)
    options = training_and_output(architecture, dropout, logits) | {
        option: value for option, value in row_options.items() if option not in base.variants
    }
    with torch.device("meta"):  # no memory is filled twice
        network = (NETWORKS | VARIANTS)[architecture.name](
            num_classes=architecture.num_classes if num_classes is None else num_classes,
            in_channels=architecture.in_channels if in_channels is None else in_channels,
            widths=tuple(architecture.resolve_widths(widths).values()),
            **options,
        )
    model = network.to(getattr(torch, dtype)).to_empty(device="cpu").eval()
    model.name, model.row_options = architecture.name, row_options  # type: ignore[assignment]
    model.in_channels = architecture.in_channels if in_channels is None else in_channels  # type: ignore[assignment]
    load_weights(model, initialize(architecture, num_classes, in_channels, widths, seed) if start is None else start)
    return model


def load(path: str | os.PathLike[str], **overrides: Any) -> nn.Module:
    """The network that a file of weights holds, in eval mode, with the file's classes, channels,
    widths and preprocessing.

    Args:
        path: a file that `segtwin_weights.read` understands.
        **overrides: arguments of `build`, as logits=True.

    Raises:
        WeightsError: the file holds no network that is built here.
        ValueError, KeyError, OSError: of `build`.
    """
    weights = segtwin_weights.names.hub_names(segtwin_weights.read(path))
    return build(segtwin_weights.network_of(weights), weights=weights, **overrides)


def checked(name: str, dtype: str, row_options: dict[str, Any]) -> Architecture:
    """The architecture of a network that `build` can make with these options."""
    network_name(name, NETWORKS)
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype is 'float32' or 'float64', not {dtype!r}")
    if row_options.get("pad") not in PADS:
        raise ValueError(f"pad is None or 'reflect', not {row_options['pad']!r}")
    return get_architecture(name)


def training_and_output(architecture: Architecture, dropout: float | None, logits: bool) -> dict[str, Any]:
    """The arguments that not every network has: a dropout rate, and whether the sigmoid is left
    off."""
    if architecture.dropout is None and dropout:
        raise ValueError(f"{architecture.name} has no dropout")
    rate = {} if architecture.dropout is None else {"dropout": architecture.dropout if dropout is None else dropout}
    return rate | ({"logits": logits} if architecture.output == "probability" else {})


@contextmanager
def caffe_arithmetic() -> Iterator[None]:
    """Inside, torch computes a convolution on the CPU as Caffe does: im2col and one matrix product.

    By default torch takes its vendor's kernels (oneDNN on x86), which are faster and may add up all
    products of an output in one float32 number: 25,088 in fc6. What that may cost is
    `segtwin.noise.growth`. The switch is torch's own and holds for the whole process while the
    block runs.
    """
    with ONE_AT_A_TIME:
        before = torch.backends.mkldnn.enabled
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.backends.mkldnn.enabled = before


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
    like = next(model.parameters())
    images = data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else data
    data = torch.from_numpy(checked_images(images, int(model.in_channels), str(like.dtype).removeprefix("torch.")))  # type: ignore[arg-type]
    notebook: dict[str, torch.Tensor] = {}
    with ONE_AT_A_TIME, torch.inference_mode(), caffe_arithmetic() if caffe else nullcontext():
        in_eval_mode(model)(data.to(like.device), notebook)
    return {name: notebook[name].cpu().numpy() for name in blob_names(model)}
