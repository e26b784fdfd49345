"""The networks of UNET-ZOO beside its U-Net and its ResNet-34: attention U-Net, R2U-Net, U-Net++, SegNet,
a U-Net with channel attention, CE-Net and two FCNs.

Source: Andy-zhujunwen/UNET-ZOO at b526ce5dc2bef53249506883b92feb15f4f89bbb: `attention_unet.py`
AttU_Net (`attention-unet-unetzoo`), `r2unet.py` R2U_Net (`r2unet`), `unetpp.py` NestedUNet
(`nested-unet-4heads` with deep supervision, `nested-unet-1head` without), `segnet.py` SegNet
(`segnet`), `channel_unet.py` myChannelUnet (`channel-unet`), `cenet.py` CE_Net_ (`ce-net`), `fcn.py`
FCN8s and FCN32s (`fcn8s-unetzoo`, `fcn32s-unetzoo`). All of them end in a sigmoid.

As written there, and kept here for the sake of the weights that were trained so:

* `r2unet`: x₁ = f(x), then t times x₁ = f(x + x₁), which is the recurrence of Alom et al.
  (arXiv:1802.06955); t is 2, as by default there, and no file says it. Nest of U-Nets' block of the
  same shapes is not recurrent (`nests.r2unet-nests`).
* `nested-unet-4heads`: four heads, whose losses are averaged in training; the output is the last
  one's, as in the script's evaluation. The others are blobs beside it.
* `segnet` (Badrinarayanan, Kendall and Cipolla, arXiv:1511.00561): pools with stride 1, so that a
  stage loses one row and one column and its unpooling gives them back. Windows overlap, and several
  pixels of a window may be largest: see `layer_kinds.Unpooling` for which counts.
* `channel-unet`: each attention block looks at the block before it and not at the decoder, and holds a
  BatchNorm, `bn_high`, that is never called.
* `ce-net` (Gu and others, CE-Net, arXiv:1903.02740): convolutions of its dilated block, and the one
  of its pyramid, are called several times. `num_channels` is not used: images have three. Its largest
  pooling takes six rows of the deepest map.
* `fcn8s-unetzoo`, `fcn32s-unetzoo`: VGG-16 without classifier and transposed convolutions, BatchNorm
  behind the ReLU, no padding by 100 and no crop: not the networks of Long, Shelhamer and Darrell.
  The 32s starts from pool4, so that the last stage of its VGG-16, `deconv5` and `bn5` have no part
  in it, and scales by 16.

Preprocessing: values 0..1, minus 0.5, divided by 0.5 (`main.py`, `x_transforms`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from segtwin.architectures import register
from segtwin.architectures.nests import (
    ATTENTION,
    PLUSPLUS,
    R2UNET,
    UNET_5,
    blobs,
    call,
    conv_block,
    nested,
    rrcnn_block,
    u_shape,
)
from segtwin.architectures.resnet34_unet import decoder_block, encoder, encoder_conv
from segtwin.architectures.schema import Architecture, Layer
from segtwin.architectures.unet import (
    VGG_FEATURES,
    double_conv,
    halve,
    merge,
    norm,
    sigmoid,
    torch_conv,
    torch_deconv,
    vgg_conv,
)


def zoo(
    name: str,
    layers: tuple[Layer, ...],
    blob_names: tuple[str, ...],
    source: str,
    paper: str,
    widths: Mapping[str, int] = UNET_5,
    **more: Any,
) -> Architecture:
    """A network that ends in `logits` and their sigmoid; multiples of 16 unless `more` says otherwise."""
    how = {"size_least": 16, "size_step": 16} | more
    return register(
        Architecture(
            name=name,
            layers=(*layers, sigmoid()),
            blob_names=blob_names,
            input="image",
            output="probability",
            num_classes=1,
            colour="RGB",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            divisor=255.0,
            widths=widths,
            citation=f"UNET-ZOO's torch code of {paper}",
            source=f"Andy-zhujunwen/UNET-ZOO@b526ce5 {source}",
            naming="torch",
            dropout=None,
            options=("pad",) if how["size_step"] > 1 else (),
            **how,
        )
    )


def head(bottom: str, module: str, name: str = "logits", kernel: int = 1) -> Layer:
    """The convolution that gives the classes."""
    return torch_conv(name, bottom, "classes", kernel=kernel, module=module)


# ------------------------------------------------------------ attention U-Net, R2U-Net, U-Net++

GATED = u_shape("Conv", conv_block, gated=True)
ATTENTION_UNET_UNETZOO = zoo(
    "attention-unet-unetzoo",
    (*GATED, head("Up_conv2", "Conv_1x1")),
    blobs(GATED, "logits", "probability"),
    "attention_unet.py, class AttU_Net",
    ATTENTION,
)


def thrice(module: str, bottom: str, width: str) -> tuple[Layer, ...]:
    """`Recurrent_block` of UNET-ZOO for t = 2: x₁ = f(x), x₁ = f(x + x₁), x₁ = f(x + x₁)."""
    first, second = f"{module}.first", f"{module}.second"
    return (
        *call(first, bottom, width, module),
        Layer(f"{second}.sum", "Eltwise", (bottom, first)),
        *call(second, f"{second}.sum", width, module),
        Layer(f"{module}.sum", "Eltwise", (bottom, second)),
        *call(module, f"{module}.sum", width, module),
    )


def recurrent_block(module: str, bottom: str, width: str) -> tuple[Layer, ...]:
    """`RRCNN_block` of UNET-ZOO."""
    return rrcnn_block(module, bottom, width, thrice, entry="Conv_1x1")


RECURRENT = u_shape("RRCNN", recurrent_block, gated=False)
R2UNET_UNETZOO = zoo(
    "r2unet",
    (*RECURRENT, head("Up_RRCNN2", "Conv_1x1")),
    blobs(RECURRENT, "logits", "probability"),
    "r2unet.py, class R2U_Net",
    R2UNET,
)

UNET_32 = MappingProxyType({"c1": 32, "c2": 64, "c3": 128, "c4": 256, "c5": 512})
NESTED = nested(conv_block)
NESTED_UNET_4HEADS = zoo(
    "nested-unet-4heads",
    (
        *NESTED,
        *(head(f"conv0_{number}", f"final{number}", f"logits{number}") for number in (1, 2, 3)),
        *(Layer(f"probability{number}", "Sigmoid", (f"logits{number}",)) for number in (1, 2, 3)),
        head("conv0_4", "final4"),
    ),
    (
        *blobs(NESTED, "logits1", "logits2", "logits3", "probability1", "probability2", "probability3", "logits"),
        "probability",
    ),
    "unetpp.py, class NestedUNet, deepsupervision",
    PLUSPLUS,
    UNET_32,
    heads=("logits1", "logits2", "logits3", "logits"),
)
NESTED_UNET_1HEAD = zoo(
    "nested-unet-1head",
    (*NESTED, head("conv0_4", "final")),
    blobs(NESTED, "logits", "probability"),
    "unetpp.py, class NestedUNet",
    PLUSPLUS,
    UNET_32,
)


# -------------------------------------------------------------------------------------- SegNet


def stage(bottom: str, width: str, names: tuple[str, ...]) -> tuple[Layer, ...]:
    """Convolution, BatchNorm and ReLU for each name: `53d` is conv53d, bn53d and the blob x53d."""
    layers: tuple[Layer, ...] = ()
    for name in names:
        layers += torch_conv(f"conv{name}", bottom, width), norm(f"x{name}", f"conv{name}", f"bn{name}")
        bottom = f"x{name}"
    return layers


def pooled(number: int, bottom: str) -> Layer:
    """`max_pool2d(kernel_size=2, stride=1)`."""
    return Layer(f"x{number}p", "Pooling", (bottom,), kernel=2, stride=1, sizes="floor")


def unpooled(number: int, bottom: str, like: str) -> Layer:
    """`max_unpool2d(kernel_size=2, stride=1)` by the places of the maxima of `like`."""
    return Layer(f"x{number}d", "Unpooling", (bottom, like), kernel=2, stride=1)


SEGNET = zoo(
    "segnet",
    (
        *stage("image", "c1", ("11", "12")),
        pooled(1, "x12"),
        *stage("x1p", "c2", ("21", "22")),
        pooled(2, "x22"),
        *stage("x2p", "c3", ("31", "32", "33")),
        pooled(3, "x33"),
        *stage("x3p", "c4", ("41", "42", "43")),
        pooled(4, "x43"),
        *stage("x4p", "c5", ("51", "52", "53")),
        pooled(5, "x53"),
        unpooled(5, "x5p", "x53"),
        *stage("x5d", "c5", ("53d", "52d")),
        *stage("x52d", "c4", ("51d",)),
        unpooled(4, "x51d", "x43"),
        *stage("x4d", "c4", ("43d", "42d")),
        *stage("x42d", "c3", ("41d",)),
        unpooled(3, "x41d", "x33"),
        *stage("x3d", "c3", ("33d", "32d")),
        *stage("x32d", "c2", ("31d",)),
        unpooled(2, "x31d", "x22"),
        *stage("x2d", "c2", ("22d",)),
        *stage("x22d", "c1", ("21d",)),
        unpooled(1, "x21d", "x12"),
        *stage("x1d", "c1", ("12d",)),
        head("x12d", "conv11d", kernel=3),
    ),
    (
        "image", "x11", "x12", "x1p", "x21", "x22", "x2p", "x31", "x32", "x33", "x3p", "x41", "x42", "x43", "x4p",
        "x51", "x52", "x53", "x5p", "x5d", "x53d", "x52d", "x51d", "x4d", "x43d", "x42d", "x41d", "x3d", "x33d",
        "x32d", "x31d", "x2d", "x22d", "x21d", "x1d", "x12d", "logits", "probability",
    ),
    "segnet.py, class SegNet",
    "Badrinarayanan, Kendall, Cipolla: SegNet (arXiv:1511.00561)",
    MappingProxyType({"c1": 64, "c2": 128, "c3": 256, "c4": 512, "c5": 512}),
    size_least=6,
    size_step=1,
)  # fmt: skip


# -------------------------------------------------------------------------------- channel-unet


def gau(name: str, high: str, low: str, width: str, module: str) -> tuple[Layer, ...]:
    """`GAU`, Global Attention Upsample: ReLU(BN(transposed convolution of `high`) + BN(convolution of
    `low`) · ReLU(1×1 of the mean of `high`))."""
    return (
        Layer(f"{module}.mean", "GlobalMean", (high,)),
        replace(torch_conv(f"{module}.conv1x1", f"{module}.mean", width, kernel=1), bias=False, relu=True),
        replace(norm(f"{module}.bn_high", f"{module}.conv1x1", relu=False), idle=True),
        replace(torch_conv(f"{module}.conv3x3", low, width), bias=False),
        norm(f"{module}.bn_low", f"{module}.conv3x3", relu=False),
        Layer(f"{module}.att", "Multiply", (f"{module}.bn_low", f"{module}.conv1x1")),
        replace(torch_deconv(f"{module}.conv_upsample", high, width, kernel=4, pad=1), bias=False),
        norm(f"{module}.bn_upsample", f"{module}.conv_upsample", relu=False),
        Layer(name, "Eltwise", (f"{module}.bn_upsample", f"{module}.att"), relu=True),
    )


CHANNEL_UNET = zoo(
    "channel-unet",
    (
        *double_conv("c1", "image", "c1", "conv1"),
        halve("p1", "c1"),
        *double_conv("c2", "p1", "c2", "conv2"),
        halve("p2", "c2"),
        *double_conv("c3", "p2", "c3", "conv3"),
        halve("p3", "c3"),
        *double_conv("c4", "p3", "c4", "conv4"),
        halve("p4", "c4"),
        *double_conv("c5", "p4", "c5", "conv5"),
        torch_deconv("up_6", "c5", "c4", kernel=2, module="up6"),
        *gau("gau1", "c5", "c4", "c4", "gau_1"),
        merge("merge6", "c4", "up_6", "gau1"),
        *double_conv("c6", "merge6", "c4", "conv6"),
        torch_deconv("up_7", "c6", "c3", kernel=2, module="up7"),
        *gau("gau2", "gau1", "c3", "c3", "gau_2"),
        merge("merge7", "c3", "up_7", "gau2"),
        *double_conv("c7", "merge7", "c3", "conv7"),
        torch_deconv("up_8", "c7", "c2", kernel=2, module="up8"),
        *gau("gau3", "gau2", "c2", "c2", "gau_3"),
        merge("merge8", "c2", "up_8", "gau3"),
        *double_conv("c8", "merge8", "c2", "conv8"),
        torch_deconv("up_9", "c8", "c1", kernel=2, module="up9"),
        *gau("gau4", "gau3", "c1", "c1", "gau_4"),
        merge("merge9", "c1", "up_9", "gau4"),
        *double_conv("c9", "merge9", "c1", "conv9"),
        head("c9", "conv10"),
    ),
    (
        "image", "c1", "p1", "c2", "p2", "c3", "p3", "c4", "p4", "c5",
        "up_6", "gau1", "merge6", "c6", "up_7", "gau2", "merge7", "c7", "up_8", "gau3", "merge8", "c8",
        "up_9", "gau4", "merge9", "c9", "logits", "probability",
    ),
    "channel_unet.py, class myChannelUnet",
    "a U-Net with the Global Attention Upsample of Li, Xiong, An, Wang: Pyramid Attention Network (arXiv:1805.10180)",
)  # fmt: skip


# -------------------------------------------------------------------------------------- CE-Net


def dilated(name: str, bottom: str, module: str, dilation: int = 1, kernel: int = 3, relu: bool = False) -> Layer:
    """A convolution of `DACblock`, which keeps the size; its bias starts at zero."""
    layer = torch_conv(name, bottom, 512, kernel=kernel, pad=dilation * (kernel // 2), module=module)
    return replace(layer, dilation=dilation, relu=relu, fill="torch, no bias")


DACBLOCK = (
    dilated("dblock.1", "e4", "dblock.dilate1"),
    Layer("dblock.dilate1_out", "ReLU", ("dblock.1",)),
    dilated("dblock.2", "e4", "dblock.dilate2", 3),
    dilated("dblock.dilate2_out", "dblock.2", "dblock.conv1x1", kernel=1, relu=True),
    dilated("dblock.3", "dblock.1", "dblock.dilate2", 3),
    dilated("dblock.dilate3_out", "dblock.3", "dblock.conv1x1", kernel=1, relu=True),
    dilated("dblock.4", "dblock.3", "dblock.dilate3", 5),
    dilated("dblock.dilate4_out", "dblock.4", "dblock.conv1x1", kernel=1, relu=True),
    Layer("dblock", "Eltwise", ("e4", *(f"dblock.dilate{number}_out" for number in (1, 2, 3, 4)))),
)
"""What the original computes again (dilate1 of e4 three times, dilate2 of that twice) is computed once: the same
numbers."""


def pyramid(number: int, size: int) -> tuple[Layer, ...]:
    """One level of `SPPblock`: size×size maxima, one channel, back to the size of the map."""
    return (
        Layer(f"spp.pool{number}", "Pooling", ("dblock",), kernel=size, stride=size, sizes="floor"),
        torch_conv(f"spp.conv{number}", f"spp.pool{number}", 1, kernel=1, module="spp.conv"),
        Layer(f"spp.layer{number}", "ResizeHalfPixel", (f"spp.conv{number}", "dblock")),
    )


CE_NET = zoo(
    "ce-net",
    (
        encoder_conv("firstconv", "image", 64, kernel=7, stride=2),
        norm("firstrelu", "firstconv", "firstbn"),
        Layer("firstmaxpool", "Pooling", ("firstrelu",), kernel=3, stride=2, pad=1, sizes="floor"),
        *encoder("e1", "firstmaxpool", 64, "encoder1", blocks=3, stride=1),
        *encoder("e2", "e1", 128, "encoder2", blocks=4),
        *encoder("e3", "e2", 256, "encoder3", blocks=6),
        *encoder("e4", "e3", 512, "encoder4", blocks=3),
        *DACBLOCK,
        *(layer for number, size in enumerate((2, 3, 5, 6), start=1) for layer in pyramid(number, size)),
        merge("spp", *(f"spp.layer{number}" for number in (1, 2, 3, 4)), "dblock"),
        *decoder_block("decoder4", "spp", 516, 256, "decoder4"),
        Layer("d4", "Eltwise", ("decoder4", "e3")),
        *decoder_block("decoder3", "d4", 256, 128, "decoder3"),
        Layer("d3", "Eltwise", ("decoder3", "e2")),
        *decoder_block("decoder2", "d3", 128, 64, "decoder2"),
        Layer("d2", "Eltwise", ("decoder2", "e1")),
        *decoder_block("d1", "d2", 64, 64, "decoder1"),
        replace(torch_deconv("finalrelu1", "d1", 32, kernel=4, pad=1, module="finaldeconv1"), relu=True),
        replace(torch_conv("finalrelu2", "finalrelu1", 32, module="finalconv2"), relu=True),
        head("finalrelu2", "finalconv3", kernel=3),
    ),
    (
        "image", "firstrelu", "firstmaxpool", "e1", "e2", "e3", "e4", "dblock",
        "spp.layer1", "spp.layer2", "spp.layer3", "spp.layer4", "spp",
        "decoder4", "d4", "d3", "d2", "d1", "finalrelu1", "finalrelu2", "logits", "probability",
    ),
    "cenet.py, class CE_Net_; torchvision models/resnet.py",
    "Gu et al.: CE-Net: Context Encoder Network (arXiv:1903.02740), on ResNet-34 (He, Zhang, Ren, Sun, CVPR 2016)",
    MappingProxyType({}),
    any_channels=False,
    size_least=192,
    size_step=32,
    size_slack=(3, 0),
)  # fmt: skip


# -------------------------------------------------------------------------------- the two FCNs


def vgg16_stages(prefix: str, idle: tuple[int, ...] = ()) -> tuple[Layer, ...]:
    """VGG-16's convolutions, their ReLUs, and the poolings x1 … x5; `idle` stages give nothing to the output."""
    layers: tuple[Layer, ...] = ()
    bottom = "image"
    for number, modules in enumerate(VGG_FEATURES, start=1):
        for module in modules:
            name = f"{prefix}.{module}"
            layer = vgg_conv(name, bottom, number, name)
            layers += (replace(layer, idle=number in idle),)
            bottom = name
        if number not in idle:
            layers += (halve(f"x{number}", bottom),)
            bottom = f"x{number}"
    return layers


def larger(
    number: int, bottom: str, width: str | int, skip: str | None = None, idle: bool = False
) -> tuple[Layer, ...]:
    """Transposed convolution of stride 2, ReLU, the skip added, BatchNorm."""
    deconv = torch_deconv(f"deconv{number}", bottom, width, kernel=3, pad=1, output_pad=1)
    layers: tuple[Layer, ...] = (replace(deconv, relu=True, idle=idle),)
    if skip is not None:
        layers += (Layer(f"sum{number}", "Eltwise", (f"deconv{number}", skip)),)
    return *layers, replace(norm(f"bn{number}", layers[-1].name, relu=False), idle=idle)


VGG_5 = MappingProxyType({"c1": 64, "c2": 128, "c3": 256, "c4": 512, "c5": 512})
LAST_WIDTH = 32
"""Outputs of `deconv5`."""
FCN_PAPER = "an FCN over VGG-16, after Long, Shelhamer, Darrell, CVPR 2015, with other layers"

FCN8S_UNETZOO = zoo(
    "fcn8s-unetzoo",
    (
        *vgg16_stages("pretrained_net.features"),
        *larger(1, "x5", "c4", skip="x4"),
        *larger(2, "bn1", "c3", skip="x3"),
        *larger(3, "bn2", "c2"),
        *larger(4, "bn3", "c1"),
        *larger(5, "bn4", LAST_WIDTH),
        head("bn5", "classifier"),
    ),
    ("image", "x1", "x2", "x3", "x4", "x5", "bn1", "bn2", "bn3", "bn4", "bn5", "logits", "probability"),
    "fcn.py, class FCN8s",
    FCN_PAPER,
    VGG_5,
    any_channels=False,
    size_least=32,
    size_step=32,
    size_slack=(0, 7),
)
FCN32S_UNETZOO = zoo(
    "fcn32s-unetzoo",
    (
        *vgg16_stages("pretrained_net.features", idle=(5,)),
        *larger(1, "x4", "c4"),
        *larger(2, "bn1", "c3"),
        *larger(3, "bn2", "c2"),
        *larger(4, "bn3", "c1"),
        *larger(5, "bn4", LAST_WIDTH, idle=True),
        head("bn4", "classifier"),
    ),
    ("image", "x1", "x2", "x3", "x4", "bn1", "bn2", "bn3", "bn4", "logits", "probability"),
    "fcn.py, class FCN32s",
    FCN_PAPER,
    VGG_5,
    any_channels=False,
    size_least=32,
    size_step=16,
    size_slack=(0, 15),
)
