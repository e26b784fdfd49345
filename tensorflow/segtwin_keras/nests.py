"""The networks of bigmb's Nest of U-Nets in Keras.

bigmb/Unet-Segmentation-Pytorch-Nest-of-Unets@f63262d Models.py: `unet-64` is its class `U_Net`,
`r2unet-nests` `R2U_Net` (Alom et al., arXiv:1802.06955), `attention-unet` `AttU_Net` (Oktay et al.,
arXiv:1804.03999), `r2attention-unet` `R2AttU_Net`, `nested-unet` `NestedUNet` (Zhou et al., UNet++,
arXiv:1807.10165). Layers with weights have the names of its state_dict; blobs have those of its
modules. Its twin is `segtwin_torch/nests.py`.

Departures from the originals: none in what is computed; their bugs are kept (see
`segtwin/architectures/nests.py`); blobs are N×H×W×C. The recurrent block gives the same for every
t ≥ 1, so that it is computed once; in training the running statistics are updated as often as there.
Sizes that do not fit are treated as in `unet.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import KerasTensor, layers, ops
from segtwin.architectures import get_architecture

import tensorflow as tf
from segtwin_keras.milesial import upsample_bilinear
from segtwin_keras.network import Network, register
from segtwin_keras.unet import (
    BatchNorm,
    Fit,
    answer,
    conv,
    double_conv,
    double_conv2d_bn,
    image_input,
    max_pool,
    shared_conv,
)

T = 2
"""Calls of a recurrent block beside the first: the original's default."""
FINEST_GATE = 32

Blobs = dict[str, KerasTensor]
"""Those that no layer has the name of."""
Block = Callable[[KerasTensor, int, str, Blobs], KerasTensor]


@keras.saving.register_keras_serializable("segtwin")
class UpsampleNearest(layers.Layer):
    """Every pixel four times. Keras' own layer does it in a longer way."""

    def call(self, x: KerasTensor) -> KerasTensor:
        """N×2H×2W×C."""
        size = [2 * side for side in ops.shape(x)[1:3]]
        return tf.raw_ops.ResizeNearestNeighbor(images=x, size=size)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """N×2H×2W×C."""
        return shape[0], *(None if side is None else 2 * side for side in shape[1:3]), shape[3]


def up_conv(x: KerasTensor, filters: int, name: str) -> KerasTensor:
    """Every pixel four times, 3×3 convolution, BatchNorm, ReLU."""
    x = UpsampleNearest(name=f"{name}.up.0")(x)
    return BatchNorm("relu", name=f"{name}.up.2")(conv(x, filters, f"{name}.up.1"))


def conv_block(x: KerasTensor, filters: int, name: str, n: Blobs) -> KerasTensor:
    """(3×3 convolution, BatchNorm, ReLU) twice."""
    x = n[name] = double_conv(x, filters, name)
    return x


def nested_block(x: KerasTensor, filters: int, name: str, n: Blobs) -> KerasTensor:
    """The same two stages, their four modules side by side."""
    x = n[name] = double_conv2d_bn(x, filters, name)
    return x


def recurrent(x: KerasTensor, filters: int, name: str) -> KerasTensor:
    """y = f(x), then f(y + y): as written there, not as published."""
    convolution, norm = shared_conv(filters, f"{name}.conv.0"), BatchNorm("relu", name=f"{name}.conv.1")
    y = norm(convolution(x))
    return norm(convolution(layers.Add(name=f"{name}.doubled")([y, y])), updates=T)


def rrcnn_block(
    x: KerasTensor,
    filters: int,
    name: str,
    n: Blobs,
    recurrent: Callable[[KerasTensor, int, str], KerasTensor] = recurrent,
    entry: str = "Conv",
) -> KerasTensor:
    """A 1×1 convolution, and beside its result two recurrent blocks, added."""
    x = conv(x, filters, f"{name}.{entry}", kernel=1, pad=0)
    y = n[f"{name}.RCNN.0"] = recurrent(x, filters, f"{name}.RCNN.0")
    y = n[f"{name}.RCNN.1"] = recurrent(y, filters, f"{name}.RCNN.1")
    x = n[name] = layers.Add(name=name)([x, y])
    return x


def attention(gate: KerasTensor, skip: KerasTensor, inside: int, name: str, n: Blobs) -> KerasTensor:
    """The skip times σ(BN(1×1(ReLU(W_g·gate + W_x·skip)))), one number a pixel."""
    g = BatchNorm(name=f"{name}.W_g.1")(conv(gate, inside, f"{name}.W_g.0", kernel=1, pad=0))
    x = BatchNorm(name=f"{name}.W_x.1")(conv(skip, inside, f"{name}.W_x.0", kernel=1, pad=0))
    x = layers.ReLU(name=f"{name}.relu")(layers.Add(name=f"{name}.add")([g, x]))
    x = BatchNorm(name=f"{name}.psi.1")(conv(x, 1, f"{name}.psi.0", kernel=1, pad=0))
    psi = n[f"{name}.psi"] = layers.Activation("sigmoid", name=f"{name}.psi.2")(x)
    x = n[name] = layers.Multiply(name=name)([skip, psi])
    return x


def u_shape(
    name: str,
    num_classes: int,
    in_channels: int,
    widths: tuple[int, ...],
    logits: bool = False,
    pad: str | None = None,
    *,
    stage: str = "Conv",
    up: str = "Up_conv",
    head: str = "Conv",
    block: Block = conv_block,
    gated: bool = False,
) -> Network:
    """What the networks in the form of a U have in common: stages `stage`1 … 5, steps up `Up`5 … 2 with stages
    `up`5 … 2, gates `Att`5 … 2 or none, and a 1×1 convolution `head`."""
    n: Blobs = {}
    c1, c2, c3, c4, c5 = widths
    image = image_input(in_channels, "image")
    x = Fit(name, pad, name="fit")(image)

    e1 = block(x, c1, f"{stage}1", n)  # N×H×W×64
    x = n["Maxpool1"] = max_pool(e1, "Maxpool1")
    e2 = block(x, c2, f"{stage}2", n)  # N×H/2×W/2×128
    x = n["Maxpool2"] = max_pool(e2, "Maxpool2")
    e3 = block(x, c3, f"{stage}3", n)  # N×H/4×W/4×256
    x = n["Maxpool3"] = max_pool(e3, "Maxpool3")
    e4 = block(x, c4, f"{stage}4", n)  # N×H/8×W/8×512
    x = n["Maxpool4"] = max_pool(e4, "Maxpool4")
    x = block(x, c5, f"{stage}5", n)  # N×H/16×W/16×1024

    for level, skip, inside in ((5, e4, c3), (4, e3, c2), (3, e2, c1), (2, e1, FINEST_GATE)):
        filters = widths[level - 2]
        x = n[f"Up{level}"] = up_conv(x, filters, f"Up{level}")
        if gated:
            skip = attention(x, skip, inside, f"Att{level}", n)
        x = block(layers.Concatenate(name=f"cat{level}")([skip, x]), filters, f"{up}{level}", n)

    x = conv(x, num_classes, head, kernel=1, pad=0)
    x = answer(x, image, logits or not get_architecture(name).sigmoid, pad)
    return named(Network(image, x, name=name), n)


def named(network: Network, n: Blobs) -> Network:
    """The network, with names of blobs that no layer has."""
    network.aside = n
    return network


@register("unet-64")
def unet_64(num_classes: int, in_channels: int, widths: tuple[int, ...], pad: str | None = None) -> Network:
    """`U_Net`. Input `image` N×H×W×3, H and W multiples of 16; output `logits` N×H×W×classes."""
    return u_shape("unet-64", num_classes, in_channels, widths, pad=pad)


@register("r2unet-nests")
def r2unet_nests(num_classes: int, in_channels: int, widths: tuple[int, ...], pad: str | None = None) -> Network:
    """`R2U_Net`. Input `image` N×H×W×3, H and W multiples of 16; output `logits` N×H×W×classes."""
    return u_shape(
        "r2unet-nests", num_classes, in_channels, widths, pad=pad, stage="RRCNN", up="Up_RRCNN", block=rrcnn_block
    )


@register("attention-unet")
def attention_unet(num_classes: int, in_channels: int, widths: tuple[int, ...], pad: str | None = None) -> Network:
    """`AttU_Net`. Input `image` N×H×W×3, H and W multiples of 16; output `logits` N×H×W×classes."""
    return u_shape("attention-unet", num_classes, in_channels, widths, pad=pad, gated=True)


@register("r2attention-unet")
def r2attention_unet(num_classes: int, in_channels: int, widths: tuple[int, ...], pad: str | None = None) -> Network:
    """`R2AttU_Net`. Input `image` N×H×W×3, H and W multiples of 16; output `logits` N×H×W×classes."""
    name, stage, up = "r2attention-unet", "RRCNN", "Up_RRCNN"
    return u_shape(name, num_classes, in_channels, widths, pad=pad, stage=stage, up=up, block=rrcnn_block, gated=True)


def nest(x: KerasTensor, widths: tuple[int, ...], n: Blobs, block: Block) -> list[KerasTensor]:
    """U-Net++'s x(0, 1) … x(0, 4): x(i, j) of level i is made of x(i, 0) … x(i, j − 1) and of x(i + 1, j − 1),
    upsampled."""
    rows: list[list[KerasTensor]] = [[], [], [], [], []]  # level → what there is of it
    for last in range(5):  # by antidiagonals: x(0,0); x(1,0), x(0,1); x(2,0), …
        for column in range(last + 1):
            level = last - column
            if column:
                below = n[f"up{level}_{column}"] = upsample_bilinear(rows[level + 1][column - 1], f"up{level}_{column}")
                x = layers.Concatenate(name=f"cat{level}_{column}")([*rows[level], below])
            elif level:
                x = n[f"pool{level}"] = max_pool(rows[level - 1][0], f"pool{level}")
            x = block(x, widths[level], f"conv{level}_{column}", n)
            rows[level].append(x)
    return rows[0][1:]


@register("nested-unet")
def nested_unet(num_classes: int, in_channels: int, widths: tuple[int, ...], pad: str | None = None) -> Network:
    """`NestedUNet`. Input `image` N×H×W×3, H and W multiples of 16; output `logits` N×H×W×classes."""
    n: Blobs = {}
    image = image_input(in_channels, "image")
    x = Fit("nested-unet", pad, name="fit")(image)
    *_, x = nest(x, widths, n, nested_block)
    x = conv(x, num_classes, "final", kernel=1, pad=0)
    return named(Network(image, answer(x, image, logits=True, pad=pad), name="nested-unet"), n)
