"""The Caffe-era segmentation networks in Keras. `segtwin_torch` has the same functions for the same
networks."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

try:
    import keras

    import tensorflow  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("keras", "tensorflow"):
        raise
    raise ImportError(
        f"segtwin_keras needs {error.name}, which is not installed; pip install 'segtwin[keras]'", name=error.name
    ) from None

import numpy as np
import segtwin_weights
from segtwin import __version__
from segtwin.architectures import Architecture, get_architecture
from segtwin.arguments import check_build, check_memory, checked_images, network_name
from segtwin_weights import Weights, initialize

from segtwin_keras.export import export_onnx, save_checkpoint
from segtwin_keras.fcn import fcn8s, fcn8s_atonce, fcn16s, fcn32s
from segtwin_keras.fcn8_vgg import dilated_fcn8_vgg, fcn8_vgg, regularization_terms
from segtwin_keras.layers import caffe_arithmetic
from segtwin_keras.resnet34_unet import resnet34_unet
from segtwin_keras.unet import PADS, unet, unet_paper, unet_small
from segtwin_keras.vggfcn import vggfcn8, vggfcn16, vggfcn32
from segtwin_keras.weights import ONE_AT_A_TIME, blob_names, blob_tensors, load_weights, read_weights

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


NETWORKS: dict[str, Callable[..., keras.Model]] = {
    "fcn32s": fcn32s,
    "fcn16s": fcn16s,
    "fcn8s": fcn8s,
    "fcn8s-atonce": fcn8s_atonce,
    "fcn8-vgg": fcn8_vgg,
    "vggfcn32": vggfcn32,
    "vggfcn16": vggfcn16,
    "vggfcn8": vggfcn8,
    "unet-paper": unet_paper,
    "unet": unet,
    "unet-small": unet_small,
    "resnet34-unet": resnet34_unet,
}

VARIANTS: dict[str, Callable[..., keras.Model]] = {"fcn8-vgg-dilated": dilated_fcn8_vgg}
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
) -> keras.Model:
    """Make a network.

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
        A functional model. It takes N×H×W×C and returns the architecture's output, N×H×W×classes; H
        and W are free.

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
    with every_layer_in(dtype):
        model = (NETWORKS | VARIANTS)[architecture.name](
            num_classes=architecture.num_classes if num_classes is None else num_classes,
            in_channels=architecture.in_channels if in_channels is None else in_channels,
            widths=tuple(architecture.resolve_widths(widths).values()),
            **options,
        )
    model.row_options = row_options
    model.in_channels = architecture.in_channels if in_channels is None else in_channels
    load_weights(model, initialize(architecture, num_classes, in_channels, widths, seed) if start is None else start)
    return model


class every_layer_in:
    """Layers made inside compute and keep their weights in `dtype`. A policy set later would change
    nothing."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        self.before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.dtype)

    def __exit__(self, *_: object) -> None:
        keras.config.set_dtype_policy(self.before)


def load(path: str | os.PathLike[str], **overrides: Any) -> keras.Model:
    """The network that a file of weights holds, with the file's classes, channels, widths and
    preprocessing.

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


def blobs(model: keras.Model, data: np.ndarray, caffe: bool = True) -> dict[str, np.ndarray]:
    """Every blob of an inference pass under its original name.

    Args:
        model: made by `build`.
        data: N×C×H×W of floats.
        caffe: compute as Caffe does (`caffe_arithmetic`); False: with TensorFlow's default kernels.

    Returns:
        Blob name → N×C×H×W in the model's dtype, in the order of the architecture.

    Raises:
        TypeError, ValueError: the data are no such images; their size does not fit the network.
    """
    data = checked_images(data, model.input.shape[-1], model.input.dtype)
    with ONE_AT_A_TIME, caffe_arithmetic() if caffe else nullcontext():
        notebook = keras.Model(model.input, blob_tensors(model))
        x = keras.ops.convert_to_tensor(np.transpose(data, (0, 2, 3, 1)), model.input.dtype)
        values = notebook(x, training=False)
    return {name: np.array(values[name].numpy().transpose(0, 3, 1, 2), order="C") for name in blob_names(model)}
