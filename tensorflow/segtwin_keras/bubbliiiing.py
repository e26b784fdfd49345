"""bubbliiiing's U-Nets over VGG-16 and ResNet-50, in Keras.

bubbliiiing/unet-pytorch@5bcd6b4 nets/unet.py, class `Unet` with backbone='vgg' and 'resnet50', after
Ronneberger, Fischer and Brox, "U-Net" (MICCAI 2015, arXiv:1505.04597); layers with weights have the
names of its state_dict. Its twin is `segtwin_torch/bubbliiiing.py`.

Departures from the original: none in what is computed; blobs are N×H×W×C. Its ResNet-50 differs from
torchvision's in the first pooling, which is not padded and rounds up. Sizes that do not fit are
treated as in `unet.py`.
"""

from __future__ import annotations

from keras import KerasTensor, layers

from segtwin_keras.fcn import three_channels
from segtwin_keras.milesial import upsample_bilinear
from segtwin_keras.nests import Blobs, named
from segtwin_keras.network import Network, register
from segtwin_keras.unet import BatchNorm, Fit, PaddedMaxPool, answer, conv, image_input, max_pool


def unet_up(skip: KerasTensor, x: KerasTensor, filters: int, number: int, n: Blobs) -> KerasTensor:
    """Bilinear to twice the size, behind the skip, two convolutions with ReLU."""
    name = f"up_concat{number}"
    x = upsample_bilinear(x, f"{name}.up")
    x = layers.Concatenate(name=f"{name}.cat")([skip, x])
    x = conv(x, filters, f"{name}.conv1", activation="relu")
    x = n[f"up{number}"] = conv(x, filters, f"{name}.conv2", activation="relu")
    return x


def decode(feat: tuple[KerasTensor, ...], widths: tuple[int, ...], n: Blobs) -> KerasTensor:
    """up1 of feat1 … feat5."""
    w1, w2, w3, w4 = widths
    feat1, feat2, feat3, feat4, x = feat
    x = unet_up(feat4, x, w4, 4, n)
    x = unet_up(feat3, x, w3, 3, n)
    x = unet_up(feat2, x, w2, 2, n)
    return unet_up(feat1, x, w1, 1, n)


def vgg(x: KerasTensor, filters: int, *modules: int) -> KerasTensor:
    """Convolutions of VGG-16 with ReLU."""
    for module in modules:
        x = conv(x, filters, f"vgg.features.{module}", activation="relu")
    return x


@register("vgg16-unet")
def vgg16_unet(num_classes: int, in_channels: int, widths: tuple[int, ...], pad: str | None = None) -> Network:
    """`Unet(backbone='vgg')`. Input `image` N×H×W×3, H and W multiples of 16; output `logits` N×H×W×classes."""
    three_channels("vgg16-unet", in_channels)
    n: Blobs = {}
    c1, c2, c3, c4, c5 = widths
    image = image_input(in_channels, "image")
    x = Fit("vgg16-unet", pad, name="fit")(image)

    feat1 = n["feat1"] = vgg(x, c1, 0, 2)  # N×H×W×64
    feat2 = n["feat2"] = vgg(max_pool(feat1, "pool1"), c2, 5, 7)  # N×H/2×W/2×128
    feat3 = n["feat3"] = vgg(max_pool(feat2, "pool2"), c3, 10, 12, 14)  # N×H/4×W/4×256
    feat4 = n["feat4"] = vgg(max_pool(feat3, "pool3"), c4, 17, 19, 21)  # N×H/8×W/8×512
    feat5 = n["feat5"] = vgg(max_pool(feat4, "pool4"), c5, 24, 26, 28)  # N×H/16×W/16×512

    x = decode((feat1, feat2, feat3, feat4, feat5), widths[:4], n)
    x = conv(x, num_classes, "final", kernel=1, pad=0)
    return named(Network(image, answer(x, image, logits=True, pad=pad), name="vgg16-unet"), n)


def bottleneck(x: KerasTensor, inside: int, stride: int, downsample: bool, name: str) -> KerasTensor:
    """1×1, 3×3 with the stride, 1×1 to four times the channels, added to what came in, which passes a 1×1 convolution
    where size or width change."""
    identity = x
    x = BatchNorm("relu", name=f"{name}.bn1")(conv(x, inside, f"{name}.conv1", kernel=1, pad=0, bias=False))
    x = BatchNorm("relu", name=f"{name}.bn2")(conv(x, inside, f"{name}.conv2", stride=stride, bias=False))
    x = BatchNorm(name=f"{name}.bn3")(conv(x, 4 * inside, f"{name}.conv3", kernel=1, pad=0, bias=False))
    if downsample:
        identity = conv(identity, 4 * inside, f"{name}.downsample.0", kernel=1, stride=stride, pad=0, bias=False)
        identity = BatchNorm(name=f"{name}.downsample.1")(identity)
    return layers.ReLU(name=f"{name}.relu")(layers.Add(name=f"{name}.add")([x, identity]))


def layer(x: KerasTensor, inside: int, name: str, blocks: int, stride: int = 2) -> KerasTensor:
    """One layer of ResNet-50."""
    for block in range(blocks):
        x = bottleneck(x, inside, stride if block == 0 else 1, block == 0, f"{name}.{block}")
    return x


@register("resnet50-unet")
def resnet50_unet(num_classes: int, in_channels: int, widths: tuple[int, ...], pad: str | None = None) -> Network:
    """`Unet(backbone='resnet50')`. Input `image` N×H×W×3, H and W multiples of 32 or one less; output `logits`
    N×32k×32l×classes."""
    three_channels("resnet50-unet", in_channels)
    n: Blobs = {}
    image = image_input(in_channels, "image")
    x = Fit("resnet50-unet", pad, name="fit")(image)

    x = conv(x, 64, "resnet.conv1", kernel=7, stride=2, pad=3, bias=False)
    feat1 = n["feat1"] = BatchNorm("relu", name="resnet.bn1")(x)  # N×H/2×W/2×64
    # not padded, and rounds up: the last window may hang over by one; torchvision's pads by one
    x = PaddedMaxPool(3, stride=2, pad=0, more=1, name="maxpool")(feat1)
    feat2 = n["feat2"] = layer(x, 64, "resnet.layer1", blocks=3, stride=1)  # N×H/4×W/4×256
    feat3 = n["feat3"] = layer(feat2, 128, "resnet.layer2", blocks=4)  # N×H/8×W/8×512
    feat4 = n["feat4"] = layer(feat3, 256, "resnet.layer3", blocks=6)  # N×H/16×W/16×1024
    feat5 = n["feat5"] = layer(feat4, 512, "resnet.layer4", blocks=3)  # N×H/32×W/32×2048

    x = decode((feat1, feat2, feat3, feat4, feat5), (64, 128, 256, 512), n)
    x = upsample_bilinear(x, "up_conv.0")  # N×H×W×64
    x = conv(x, 64, "up_conv.1", activation="relu")
    x = n["up_conv"] = conv(x, 64, "up_conv.3", activation="relu")
    x = conv(x, num_classes, "final", kernel=1, pad=0)
    return named(Network(image, answer(x, image, logits=True, pad=pad), name="resnet50-unet"), n)
