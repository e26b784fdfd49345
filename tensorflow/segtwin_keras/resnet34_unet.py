"""resnet34-unet in Keras: ResNet-34 as the encoder, LinkNet's decoder with sums in place of
concatenations.

Class `resnet34_unet` of Andy-zhujunwen/UNET-ZOO@b526ce5 UNet.py; layers with weights have the names
of its state_dict. The encoder is torchvision's `resnet34` (He, Zhang, Ren, Sun, "Deep Residual
Learning for Image Recognition", CVPR 2016); the decoder is that of Chaurasia and Culurciello,
"LinkNet" (VCIP 2017, arXiv:1707.03718). Its twin is `segtwin_torch/resnet34_unet.py`.

Departures from the original: none in what is computed; blobs are N×H×W×C. Without weights the
encoder starts as torchvision's untrained one; the original downloads ImageNet weights, which
`segtwin_weights.convert(…, to="resnet34-unet")` makes of torchvision's file. Sizes that do not fit
and `logits` are treated as in `unet.py`.
"""

from __future__ import annotations

from keras import KerasTensor, layers

from segtwin_keras.network import Network, register
from segtwin_keras.unet import BatchNorm, Fit, PaddedMaxPool, answer, conv, deconv, image_input


def basic_block(x: KerasTensor, filters: int, stride: int, name: str, top: str) -> KerasTensor:
    """Two 3×3 convolutions, added to what came in; where the size is halved, that passes a 1×1
    convolution of stride 2."""
    identity = x
    x = BatchNorm("relu", name=f"{name}.bn1")(conv(x, filters, f"{name}.conv1", stride=stride, bias=False))
    x = BatchNorm(name=f"{name}.bn2")(conv(x, filters, f"{name}.conv2", bias=False))
    if stride != 1:
        identity = conv(identity, filters, f"{name}.downsample.0", kernel=1, stride=stride, pad=0, bias=False)
        identity = BatchNorm(name=f"{name}.downsample.1")(identity)
    return layers.ReLU(name=top)(layers.Add(name=f"{name}.add")([x, identity]))


def encoder(x: KerasTensor, filters: int, name: str, top: str, blocks: int, stride: int = 2) -> KerasTensor:
    """One layer of ResNet-34; its first block halves the size, but for the first layer. Its blob is
    `top`."""
    for block in range(blocks):
        x = basic_block(
            x,
            filters,
            stride if block == 0 else 1,
            f"{name}.{block}",
            top if block == blocks - 1 else f"{name}.{block}",
        )
    return x


def decoder_block(x: KerasTensor, filters: int, name: str) -> KerasTensor:
    """1×1 to a quarter of the channels, transposed convolution of stride 2, 1×1; each with
    BatchNorm and ReLU."""
    quarter = x.shape[-1] // 4
    x = BatchNorm("relu", name=f"{name}.norm1")(conv(x, quarter, f"{name}.conv1", kernel=1, pad=0))
    x = BatchNorm("relu", name=f"{name}.norm2")(deconv(x, quarter, f"{name}.deconv2", kernel=3, pad=1, output_pad=1))
    return BatchNorm("relu", name=f"{name}.norm3")(conv(x, filters, f"{name}.conv3", kernel=1, pad=0))


@register("resnet34-unet")
def resnet34_unet(
    num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
) -> Network:
    """Input `image` N×H×W×3, H and W multiples of 32; output `probability` (or `logits`)
    N×H×W×classes."""
    image = image_input(in_channels, "image")
    x = Fit("resnet34-unet", pad, name="fit")(image)

    # N×H/2×W/2×64
    x = BatchNorm("relu", name="firstbn")(conv(x, 64, "firstconv", kernel=7, stride=2, pad=3, bias=False))
    x = PaddedMaxPool(3, stride=2, pad=1, name="firstmaxpool")(x)  # pads with −∞
    e1 = encoder(x, 64, "encoder1", "e1", blocks=3, stride=1)  # N×H/4×W/4×64
    e2 = encoder(e1, 128, "encoder2", "e2", blocks=4)  # N×H/8×W/8×128
    e3 = encoder(e2, 256, "encoder3", "e3", blocks=6)  # N×H/16×W/16×256
    x = encoder(e3, 512, "encoder4", "e4", blocks=3)  # N×H/32×W/32×512

    x = layers.Add(name="d4")([decoder_block(x, 256, "decoder4"), e3])
    x = layers.Add(name="d3")([decoder_block(x, 128, "decoder3"), e2])
    x = layers.Add(name="d2")([decoder_block(x, 64, "decoder2"), e1])
    x = decoder_block(x, 64, "decoder1")  # N×H/2×W/2×64

    x = layers.ReLU(name="finalrelu1")(deconv(x, 32, "finaldeconv1", kernel=4, pad=1))  # N×H×W×32
    x = conv(x, 32, "finalconv2", activation="relu")
    x = conv(x, num_classes, "finalconv3")
    return Network(image, answer(x, image, logits, pad), name="resnet34-unet")
