"""The Caffe-era segmentation networks in Keras. `segtwin_torch` has the same functions for the same
networks."""

from __future__ import annotations

import os
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
from segtwin.architectures import list_architectures
from segtwin.arguments import checked_images
from segtwin.errors import known_arguments
from segtwin_weights import Weights, building

from segtwin_keras.export import export_onnx, save_checkpoint
from segtwin_keras.fcn8_vgg import regularization_terms
from segtwin_keras.layers import caffe_arithmetic
from segtwin_keras.losses import BinaryCrossEntropy, BinaryCrossEntropyDice, CrossEntropy, Dice, SoftmaxWithLoss
from segtwin_keras.network import Network, checked_network, leave_out_dead_zones, make
from segtwin_keras.solver import Adam, CaffeSchedule, CaffeSGD, gradients, multipliers, solver_steps
from segtwin_keras.train import train
from segtwin_keras.weights import ONE_AT_A_TIME, blob_names, blob_tensors, load_weights, read_weights

__all__ = [
    "Adam",
    "BinaryCrossEntropy",
    "BinaryCrossEntropyDice",
    "CaffeSGD",
    "CaffeSchedule",
    "CrossEntropy",
    "Dice",
    "Network",
    "SoftmaxWithLoss",
    "__version__",
    "blobs",
    "build",
    "caffe_arithmetic",
    "export_onnx",
    "gradients",
    "leave_out_dead_zones",
    "list_networks",
    "load",
    "load_weights",
    "multipliers",
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
    seed: int | None = None,
    pad: building.Pad | None = None,
    use_dilated: bool = False,
    random_init_fc8: bool = False,
    bilinear: bool | None = None,
) -> Network:
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
        logits: if True, the U-Nets from torch return logits instead of probabilities. The other
            networks return scores in any case.
        dropout: rate in training, after fc6 and fc7 or at the end of unet-paper's contracting path;
            0.5 by default. The others have none.
        dtype: "float32" or "float64", of all weights and blobs.
        seed: of what starts at random: nothing in the Caffe nets, the skips' score layers in
            fcn8-vgg, everything in vggfcn* and the U-Nets (None: another start each time).
        pad: "reflect", for the U-Nets from torch: images whose sizes do not fit are mirrored at the
            bottom and right, and the output is cut.
        use_dilated: of fcn8-vgg: fc6 and fc7 at the resolution of pool3; the output is `fc7`.
        random_init_fc8: of fcn8-vgg: score_fr starts at random, not from fc8.
        bilinear: of unet-milesial: upsampled instead of by transposed convolutions, which is unet-milesial-bilinear;
            None: as the weights are.

    Returns:
        A functional model. It takes N×H×W×C and returns the network's output, N×H×W×classes; H and W
        are free.

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
    network = make(plan.architecture, plan.arguments, dtype)
    load_weights(network, plan.weights)
    return network


def load(path: str | os.PathLike[str], **overrides: Any) -> Network:
    """The network that a file of weights holds, with the file's classes, channels, widths and preprocessing.

    Args:
        path: a file that `segtwin_weights.read` understands.
        **overrides: arguments of `build`, as logits=True.

    Raises:
        WeightsError: the file holds no network that is built here.
        TypeError, ValueError, OSError: of `build`.
    """
    weights = segtwin_weights.read(path)
    return build(segtwin_weights.network_of(weights), weights=weights, **overrides)


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
    network = checked_network(model)
    data = checked_images(data, network.in_channels, network.input.dtype)
    with ONE_AT_A_TIME, caffe_arithmetic() if caffe else nullcontext():
        notebook = keras.Model(network.input, blob_tensors(network))
        x = keras.ops.convert_to_tensor(np.transpose(data, (0, 2, 3, 1)), network.input.dtype)
        values = notebook(x, training=False)
    return {name: np.array(values[name].numpy().transpose(0, 3, 1, 2), order="C") for name in blob_names(network)}
