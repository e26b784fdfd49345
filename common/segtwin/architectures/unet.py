"""The U-Nets: the network of the paper, and two that torch code defines.

Sources: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image
Segmentation", MICCAI 2015 (arXiv:1505.04597), section 2 and figure 1, with the layer names of the
authors' Caffe release; Andy-zhujunwen/UNET-ZOO@b526ce5 `UNet.py`, classes `Unet` (`unet`) and
`DoubleConv`; for `unet-small` the class `Unet` of 8 to 128 channels over `double_conv2d_bn` and
`deconv2d_bn` (tutorials of 2021).

Networks from torch list their layers under the names of their torch modules. A layer whose top has
a name in the original's forward pass has that name, and states in `module` where its weights are;
only the named tops are blobs.

Preprocessing: all three take values 0..1 (torchvision's `ToTensor`: 0..255 divided by 255;
UNET-ZOO's own script goes on to −1..1, which weights have to state), grey where there is one
channel, as the microscopy images that they were made for.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from segtwin.architectures import register
from segtwin.architectures.schema import Architecture, Layer

# ---------------------------------------------------------------------------------------- the paper

ALIKE = (1, 1)
"""lr_mult and decay_mult of weight and bias: the paper names none, so Caffe's defaults hold."""


def conv(name: str, bottom: str, width: str, kernel: int = 3, relu: bool = True, dropout: float = 0.0) -> Layer:
    """An unpadded ("valid") convolution and its ReLU."""
    return Layer(
        name,
        "Convolution",
        (bottom,),
        width,
        kernel,
        relu=relu,
        dropout=dropout,
        lr_mult=ALIKE,
        decay_mult=ALIKE,
        fill="he",
    )


def down(name: str, bottom: str) -> Layer:
    """2×2 maxima, stride 2. Legal sizes are even here, so that rounding has nothing to do."""
    return Layer(name, "Pooling", (bottom,), kernel=2, stride=2)


def up(level: int, bottom: str, upconv: str) -> tuple[Layer, ...]:
    """One step of the expansive path: up-convolution, the cropped skip, both concatenated, two
    convolutions."""
    skip, width = f"d{level}c", f"c{level + 1}"
    return (
        Layer(
            upconv, "Deconvolution", (bottom,), width, kernel=2, stride=2, lr_mult=ALIKE, decay_mult=ALIKE, fill="he"
        ),
        Layer(f"crop_{skip}-{skip}c", "Crop", (f"conv_d{level}b-c", upconv)),
        Layer(f"concat_{skip}c_u{level}a-b", "Concat", (upconv, f"crop_{skip}-{skip}c")),
        conv(f"conv_u{level}b-c", f"concat_{skip}c_u{level}a-b", width),
        conv(f"conv_u{level}c-d", f"conv_u{level}b-c", width),
    )


UNET_PAPER = Architecture(
    name="unet-paper",
    layers=(
        conv("conv_d0a-b", "data", "c1"),
        conv("conv_d0b-c", "conv_d0a-b", "c1"),
        down("pool_d0c-1a", "conv_d0b-c"),
        conv("conv_d1a-b", "pool_d0c-1a", "c2"),
        conv("conv_d1b-c", "conv_d1a-b", "c2"),
        down("pool_d1c-2a", "conv_d1b-c"),
        conv("conv_d2a-b", "pool_d1c-2a", "c3"),
        conv("conv_d2b-c", "conv_d2a-b", "c3"),
        down("pool_d2c-3a", "conv_d2b-c"),
        conv("conv_d3a-b", "pool_d2c-3a", "c4"),
        conv("conv_d3b-c", "conv_d3a-b", "c4", dropout=0.5),
        down("pool_d3c-4a", "conv_d3b-c"),
        conv("conv_d4a-b", "pool_d3c-4a", "c5"),
        conv("conv_d4b-c", "conv_d4a-b", "c5", dropout=0.5),
        *up(3, "conv_d4b-c", "upconv_d4c_u3a"),
        *up(2, "conv_u3c-d", "upconv_u3d_u2a"),
        *up(1, "conv_u2c-d", "upconv_u2d_u1a"),
        *up(0, "conv_u1c-d", "upconv_u1d_u0a"),
        conv("conv_u0d-score", "conv_u0c-d", "classes", kernel=1, relu=False),
    ),
    output="conv_u0d-score",
    num_classes=2,
    colour="grey",
    mean=(0.0,),
    divisor=255.0,
    in_channels=1,
    widths=MappingProxyType({"c1": 64, "c2": 128, "c3": 256, "c4": 512, "c5": 1024}),
    citation="Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI "
    "2015 (arXiv:1505.04597)",
    source="arXiv:1505.04597 section 2 and figure 1",
    published="warping error 3.53e-4 on ISBI 2012 (EM stacks)",
    size_least=188,  # leaves 4 pixels: conv_d4b-c is 4×4
    size_step=16,
)
register(UNET_PAPER)

# ---------------------------------------------------------------------------- the U-Nets from torch

UNET_ZOO = "UNET-ZOO's torch code of Ronneberger, Fischer, Brox: U-Net, MICCAI 2015 (arXiv:1505.04597)"


def torch_conv(
    name: str, bottom: str, width: str | int, kernel: int = 3, stride: int = 1, pad: int | None = None, module: str = ""
) -> Layer:
    """nn.Conv2d with bias; padded so that stride 1 keeps the size, unless `pad` is given."""
    pad = kernel // 2 if pad is None else pad
    return Layer(
        name,
        "Convolution",
        (bottom,),
        width,
        kernel,
        stride,
        pad,
        lr_mult=ALIKE,
        decay_mult=ALIKE,
        fill="torch",
        module=module,
    )


VGG_FEATURES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Where the convolutions of each stage stand in torchvision's `vgg16().features`."""


def vgg_conv(name: str, bottom: str, stage: int, module: str) -> Layer:
    """A convolution of VGG-16 and its ReLU, which starts as torchvision's does without a download."""
    layer = replace(torch_conv(name, bottom, f"c{stage}", module=module), relu=True)
    return replace(layer, fill="fan-out")


def torch_deconv(
    name: str, bottom: str, width: str | int, kernel: int, pad: int = 0, output_pad: int = 0, module: str = ""
) -> Layer:
    """nn.ConvTranspose2d of stride 2 with bias."""
    layer = Layer(
        name,
        "Deconvolution",
        (bottom,),
        width,
        kernel,
        2,
        pad,
        lr_mult=ALIKE,
        decay_mult=ALIKE,
        fill="torch",
        module=module,
    )
    return replace(layer, output_pad=output_pad)


def norm(name: str, bottom: str, module: str = "", relu: bool = True) -> Layer:
    """nn.BatchNorm2d, by default with a ReLU in place."""
    return Layer(name, "BatchNorm", (bottom,), relu=relu, lr_mult=ALIKE, decay_mult=ALIKE, fill=1.0, module=module)


def halve(name: str, bottom: str) -> Layer:
    """nn.MaxPool2d(2)."""
    return Layer(name, "Pooling", (bottom,), kernel=2, stride=2, sizes="floor")


def merge(name: str, *bottoms: str) -> Layer:
    """torch.cat over the channels: [up, skip]."""
    return Layer(name, "Concat", bottoms)


def double_conv(name: str, bottom: str, width: str, module: str) -> tuple[Layer, ...]:
    """`DoubleConv`: (convolution, BatchNorm, ReLU) twice, an nn.Sequential called `conv`."""
    return (
        torch_conv(f"{module}.conv.0", bottom, width),
        norm(f"{module}.conv.1", f"{module}.conv.0"),
        torch_conv(f"{module}.conv.3", f"{module}.conv.1", width),
        norm(name, f"{module}.conv.3", f"{module}.conv.4"),
    )


def sigmoid(bottom: str = "logits") -> Layer:
    """The sigmoid at the end."""
    return Layer("probability", "Sigmoid", (bottom,))


UNET = Architecture(
    name="unet",
    layers=(
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
        merge("merge6", "up_6", "c4"),
        *double_conv("c6", "merge6", "c4", "conv6"),
        torch_deconv("up_7", "c6", "c3", kernel=2, module="up7"),
        merge("merge7", "up_7", "c3"),
        *double_conv("c7", "merge7", "c3", "conv7"),
        torch_deconv("up_8", "c7", "c2", kernel=2, module="up8"),
        merge("merge8", "up_8", "c2"),
        *double_conv("c8", "merge8", "c2", "conv8"),
        torch_deconv("up_9", "c8", "c1", kernel=2, module="up9"),
        merge("merge9", "up_9", "c1"),
        *double_conv("c9", "merge9", "c1", "conv9"),
        torch_conv("logits", "c9", "classes", kernel=1, module="conv10"),
        sigmoid(),
    ),
    blob_names=(
        "image", "c1", "p1", "c2", "p2", "c3", "p3", "c4", "p4", "c5",
        "up_6", "merge6", "c6", "up_7", "merge7", "c7", "up_8", "merge8", "c8", "up_9", "merge9", "c9", "logits",
        "probability",
    ),
    input="image",
    output="probability",
    num_classes=1,
    colour="RGB",
    mean=(0.0, 0.0, 0.0),
    divisor=255.0,
    widths=MappingProxyType({"c1": 32, "c2": 64, "c3": 128, "c4": 256, "c5": 512}),
    citation=UNET_ZOO,
    source="Andy-zhujunwen/UNET-ZOO@b526ce5 UNet.py, class Unet",
    naming="torch",
    dropout=None,
    options=("pad",),
    size_least=16,
    size_step=16,
)  # fmt: skip
register(UNET)


def double_conv2d_bn(name: str, bottom: str, width: str, module: str) -> tuple[Layer, ...]:
    """`double_conv2d_bn`: the same two stages, their four modules side by side."""
    return (
        torch_conv(f"{module}.conv1", bottom, width),
        norm(f"{module}.bn1", f"{module}.conv1"),
        torch_conv(f"{module}.conv2", f"{module}.bn1", width),
        norm(name, f"{module}.conv2", f"{module}.bn2"),
    )


def deconv2d_bn(name: str, bottom: str, width: str, module: str) -> tuple[Layer, ...]:
    """`deconv2d_bn`: transposed convolution, BatchNorm, ReLU."""
    return torch_deconv(f"{module}.conv1", bottom, width, kernel=2), norm(name, f"{module}.conv1", f"{module}.bn1")


UNET_SMALL = Architecture(
    name="unet-small",
    layers=(
        *double_conv2d_bn("conv1", "image", "c1", "layer1_conv"),
        halve("pool1", "conv1"),
        *double_conv2d_bn("conv2", "pool1", "c2", "layer2_conv"),
        halve("pool2", "conv2"),
        *double_conv2d_bn("conv3", "pool2", "c3", "layer3_conv"),
        halve("pool3", "conv3"),
        *double_conv2d_bn("conv4", "pool3", "c4", "layer4_conv"),
        halve("pool4", "conv4"),
        *double_conv2d_bn("conv5", "pool4", "c5", "layer5_conv"),
        *deconv2d_bn("convt1", "conv5", "c4", "deconv1"),
        merge("concat1", "convt1", "conv4"),
        *double_conv2d_bn("conv6", "concat1", "c4", "layer6_conv"),
        *deconv2d_bn("convt2", "conv6", "c3", "deconv2"),
        merge("concat2", "convt2", "conv3"),
        *double_conv2d_bn("conv7", "concat2", "c3", "layer7_conv"),
        *deconv2d_bn("convt3", "conv7", "c2", "deconv3"),
        merge("concat3", "convt3", "conv2"),
        *double_conv2d_bn("conv8", "concat3", "c2", "layer8_conv"),
        *deconv2d_bn("convt4", "conv8", "c1", "deconv4"),
        merge("concat4", "convt4", "conv1"),
        *double_conv2d_bn("conv9", "concat4", "c1", "layer9_conv"),
        torch_conv("logits", "conv9", "classes", module="layer10_conv"),
        sigmoid(),
    ),
    blob_names=(
        "image", "conv1", "pool1", "conv2", "pool2", "conv3", "pool3", "conv4", "pool4", "conv5",
        "convt1", "concat1", "conv6", "convt2", "concat2", "conv7", "convt3", "concat3", "conv8", "convt4",
        "concat4", "conv9",
        "logits", "probability",
    ),
    input="image",
    output="probability",
    num_classes=1,
    colour="grey",
    mean=(0.0,),
    divisor=255.0,
    in_channels=1,
    widths=MappingProxyType({"c1": 8, "c2": 16, "c3": 32, "c4": 64, "c5": 128}),
    citation=UNET_ZOO,
    source="class Unet of 8 to 128 channels over double_conv2d_bn, deconv2d_bn",
    naming="torch",
    dropout=None,
    options=("pad",),
    size_least=16,
    size_step=16,
)  # fmt: skip
register(UNET_SMALL)
