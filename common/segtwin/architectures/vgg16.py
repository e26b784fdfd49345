"""VGG-16, configuration D: the classifier that the FCNs are made of.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR
2015 (arXiv:1409.1556). Layer for layer the authors' `VGG_ILSVRC_16_layers_deploy.prototxt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from segtwin.architectures import register
from segtwin.architectures.schema import Architecture, Layer

VGG16_WIDTHS: Mapping[str, int] = MappingProxyType(
    {"c1": 64, "c2": 128, "c3": 256, "c4": 512, "c5": 512, "fc6": 4096, "fc7": 4096}
)
VGG_MEAN = (103.939, 116.779, 123.68)
"""B, G, R, as the VGG authors give it."""
CLASSIFIER_SIDE = 7
"""Rows and columns of pool5 for an image of 224×224: fc6 is a 7×7 convolution in disguise."""
CLASSIFIER_PIXELS = CLASSIFIER_SIDE**2


def conv(name: str, bottom: str, width: str, kernel: int = 3, pad: int = 1, dropout: float = 0.0) -> Layer:
    """`conv_relu` of net.py, with the Dropout that follows fc6 and fc7."""
    return Layer(name, "Convolution", (bottom,), width, kernel, pad=pad, relu=True, dropout=dropout)


def pool(name: str, bottom: str, sizes: str = "ceil", stride: int = 2) -> Layer:
    """`max_pool` of net.py: 2×2, stride 2, sizes rounded up."""
    return Layer(name, "Pooling", (bottom,), kernel=2, stride=stride, sizes=sizes)


def vgg16_features(pad: int) -> tuple[Layer, ...]:
    """conv1_1 … pool5 of VGG-16. The FCNs pad the first convolution by 100 pixels, so that an image
    of any size reaches fc6."""
    return (
        conv("conv1_1", "data", "c1", pad=pad),
        conv("conv1_2", "conv1_1", "c1"),
        pool("pool1", "conv1_2"),
        conv("conv2_1", "pool1", "c2"),
        conv("conv2_2", "conv2_1", "c2"),
        pool("pool2", "conv2_2"),
        conv("conv3_1", "pool2", "c3"),
        conv("conv3_2", "conv3_1", "c3"),
        conv("conv3_3", "conv3_2", "c3"),
        pool("pool3", "conv3_3"),
        conv("conv4_1", "pool3", "c4"),
        conv("conv4_2", "conv4_1", "c4"),
        conv("conv4_3", "conv4_2", "c4"),
        pool("pool4", "conv4_3"),
        conv("conv5_1", "pool4", "c5"),
        conv("conv5_2", "conv5_1", "c5"),
        conv("conv5_3", "conv5_2", "c5"),
        pool("pool5", "conv5_3"),
    )


def inner_product(
    name: str, bottom: str, width: str, kernel: int = 1, relu: bool = True, dropout: float = 0.0
) -> Layer:
    """A fully connected layer of the classifier; its columns run over its bottom in C·H·W order."""
    return Layer(name, "InnerProduct", (bottom,), width, kernel, relu=relu, dropout=dropout)


VGG16 = Architecture(
    name="vgg16",
    layers=(
        *vgg16_features(pad=1),
        inner_product("fc6", "pool5", "fc6", kernel=CLASSIFIER_SIDE, dropout=0.5),
        inner_product("fc7", "fc6", "fc7", dropout=0.5),
        inner_product("fc8", "fc7", "classes", relu=False),
    ),
    output="fc8",
    num_classes=1000,
    colour="BGR",
    mean=VGG_MEAN,
    widths=VGG16_WIDTHS,
    citation="Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015 "
    "(arXiv:1409.1556)",
    source="VGG_ILSVRC_16_layers_deploy.prototxt (the authors' release)",
)
register(VGG16, listed=False)
