"""bubbliiiing's U-Nets over VGG-16 and ResNet-50.

Source: bubbliiiing/unet-pytorch at 5bcd6b4c832648beed1b92e78ed1e85c56343eca, `nets/unet.py` class
`Unet` with backbone='vgg' (`vgg16-unet`) and 'resnet50' (`resnet50-unet`), `nets/vgg.py`,
`nets/resnet.py`; after Ronneberger, Fischer and Brox, "U-Net" (arXiv:1505.04597), Simonyan and
Zisserman, VGG (arXiv:1409.1556), and He, Zhang, Ren and Sun, "Deep Residual Learning for Image
Recognition" (CVPR 2016).

As written there: the decoder has no BatchNorm. The encoders have torchvision's keys, but the first
pooling of the ResNet is not padded and rounds its size up, where torchvision's pads by one: weights
of ImageNet load into it and give other features. At 32k − 1 rows or columns it still gives 32k. There
is no sigmoid and no softmax at the end.

Preprocessing: values 0..1 (`utils/utils.py`, `preprocess_input`: divided by 255).
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from segtwin.architectures import register
from segtwin.architectures.resnet34_unet import encoder_conv
from segtwin.architectures.schema import Architecture, Layer
from segtwin.architectures.unet import VGG_FEATURES, halve, merge, norm, torch_conv, vgg_conv

DECODER = (64, 128, 256, 512)
"""Channels of up1 … up4."""


def vgg16_features() -> tuple[Layer, ...]:
    """VGG-16 up to conv5_3: feat1 … feat5, each before the next pooling."""
    layers: tuple[Layer, ...] = ()
    bottom = "image"
    for number, modules in enumerate(VGG_FEATURES, start=1):
        if number > 1:
            layers += (halve(f"pool{number - 1}", bottom),)
            bottom = f"pool{number - 1}"
        for module in modules:
            name = f"feat{number}" if module == modules[-1] else f"vgg.features.{module}"
            layers += (vgg_conv(name, bottom, number, f"vgg.features.{module}"),)
            bottom = name
    return layers


def bottleneck(name: str, bottom: str, inside: int, module: str, stride: int, downsample: bool) -> tuple[Layer, ...]:
    """`Bottleneck`: 1×1, 3×3 with the stride, 1×1 to four times the channels, beside the identity (or a 1×1
    convolution), added, ReLU."""
    beside: tuple[Layer, ...] = ()
    identity = bottom
    if downsample:
        identity = f"{module}.downsample.1"
        beside = (
            encoder_conv(f"{module}.downsample.0", bottom, 4 * inside, kernel=1, stride=stride),
            norm(identity, f"{module}.downsample.0", relu=False),
        )
    return (
        encoder_conv(f"{module}.conv1", bottom, inside, kernel=1),
        norm(f"{module}.bn1", f"{module}.conv1"),
        encoder_conv(f"{module}.conv2", f"{module}.bn1", inside, stride=stride),
        norm(f"{module}.bn2", f"{module}.conv2"),
        encoder_conv(f"{module}.conv3", f"{module}.bn2", 4 * inside, kernel=1),
        norm(f"{module}.bn3", f"{module}.conv3", relu=False),
        *beside,
        Layer(name, "Eltwise", (f"{module}.bn3", identity), relu=True),
    )


def layer_of_blocks(
    name: str, bottom: str, inside: int, module: str, blocks: int, stride: int = 2
) -> tuple[Layer, ...]:
    """One `layer` of ResNet-50."""
    layers: tuple[Layer, ...] = ()
    for block in range(blocks):
        top = name if block == blocks - 1 else f"{module}.{block}"
        layers += bottleneck(top, bottom, inside, f"{module}.{block}", stride if block == 0 else 1, block == 0)
        bottom = top
    return layers


def unet_up(number: int, bottom: str, skip: str, width: str | int) -> tuple[Layer, ...]:
    """`unetUp`: bilinear to twice the size, behind the skip, two convolutions with ReLU."""
    module = f"up_concat{number}"
    return (
        Layer(f"{module}.up", "UpsampleBilinear", (bottom,)),
        merge(f"{module}.cat", skip, f"{module}.up"),
        replace(torch_conv(f"{module}.conv1", f"{module}.cat", width), relu=True),
        replace(torch_conv(f"up{number}", f"{module}.conv1", width, module=f"{module}.conv2"), relu=True),
    )


def decoder(widths: tuple[str | int, ...]) -> tuple[Layer, ...]:
    """up4 to up1."""
    return (
        *unet_up(4, "feat5", "feat4", widths[3]),
        *unet_up(3, "up4", "feat3", widths[2]),
        *unet_up(2, "up3", "feat2", widths[1]),
        *unet_up(1, "up2", "feat1", widths[0]),
    )


BOTH: dict[str, Any] = {
    "input": "image",
    "output": "logits",
    "num_classes": 21,
    "colour": "RGB",
    "mean": (0.0, 0.0, 0.0),
    "divisor": 255.0,
    "naming": "torch",
    "dropout": None,
    "any_channels": False,
    "options": ("pad",),
}
CODE = "bubbliiiing's torch code of Ronneberger, Fischer, Brox: U-Net, MICCAI 2015 (arXiv:1505.04597)"
SOURCE = "bubbliiiing/unet-pytorch@5bcd6b4 nets/unet.py, class Unet"

VGG16_UNET = register(
    Architecture(
        name="vgg16-unet",
        layers=(
            *vgg16_features(),
            *decoder(("c1", "c2", "c3", "c4")),
            torch_conv("logits", "up1", "classes", kernel=1, module="final"),
        ),
        blob_names=(
            "image", "feat1", "pool1", "feat2", "pool2", "feat3", "pool3", "feat4", "pool4", "feat5",
            "up_concat4.up", "up4", "up_concat3.up", "up3", "up_concat2.up", "up2", "up_concat1.up", "up1", "logits",
        ),
        widths=MappingProxyType({"c1": 64, "c2": 128, "c3": 256, "c4": 512, "c5": 512}),
        citation=f"{CODE}, on VGG-16 (Simonyan, Zisserman, arXiv:1409.1556)",
        source=f"{SOURCE}, backbone='vgg'; nets/vgg.py",
        size_least=16,
        size_step=16,
        **BOTH,
    )
)  # fmt: skip
RESNET50_UNET = register(
    Architecture(
        name="resnet50-unet",
        layers=(
            encoder_conv("resnet.conv1", "image", 64, kernel=7, stride=2),
            norm("feat1", "resnet.conv1", "resnet.bn1"),
            Layer("maxpool", "Pooling", ("feat1",), kernel=3, stride=2, sizes="ceil"),
            *layer_of_blocks("feat2", "maxpool", 64, "resnet.layer1", blocks=3, stride=1),
            *layer_of_blocks("feat3", "feat2", 128, "resnet.layer2", blocks=4),
            *layer_of_blocks("feat4", "feat3", 256, "resnet.layer3", blocks=6),
            *layer_of_blocks("feat5", "feat4", 512, "resnet.layer4", blocks=3),
            *decoder(DECODER),
            Layer("up_conv.0", "UpsampleBilinear", ("up1",)),
            replace(torch_conv("up_conv.1", "up_conv.0", DECODER[0]), relu=True),
            replace(torch_conv("up_conv", "up_conv.1", DECODER[0], module="up_conv.3"), relu=True),
            torch_conv("logits", "up_conv", "classes", kernel=1, module="final"),
        ),
        blob_names=(
            "image", "feat1", "maxpool", "feat2", "feat3", "feat4", "feat5",
            "up_concat4.up", "up4", "up_concat3.up", "up3", "up_concat2.up", "up2", "up_concat1.up", "up1",
            "up_conv.0", "up_conv", "logits",
        ),
        citation=f"{CODE}, on ResNet-50 (He, Zhang, Ren, Sun, CVPR 2016)",
        source=f"{SOURCE}, backbone='resnet50'; nets/resnet.py",
        size_least=32,
        size_step=32,
        size_slack=(1, 0),
        **BOTH,
    )
)  # fmt: skip
