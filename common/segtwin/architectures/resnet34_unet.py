"""U-Net's decoder in LinkNet's form over ResNet-34.

Class `resnet34_unet` and `DecoderBlock` of Andy-zhujunwen/UNET-ZOO@b526ce5 `UNet.py`; torchvision's
`resnet.py` for ResNet-34 (He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition",
CVPR 2016).

Preprocessing: it starts from torchvision's ImageNet weights (`pretrained=True`), so it takes what
those were trained on: values 0..1, minus torchvision's mean, divided by its standard deviation.
"""

from __future__ import annotations

from dataclasses import replace

from segtwin.architectures import register
from segtwin.architectures.schema import Architecture, Layer
from segtwin.architectures.unet import ALIKE, UNET_ZOO, norm, sigmoid, torch_conv, torch_deconv


def encoder_conv(name: str, bottom: str, width: int, kernel: int = 3, stride: int = 1) -> Layer:
    """A convolution of torchvision's ResNet: no bias, padded by half its kernel on every side."""
    layer = Layer(
        name,
        "Convolution",
        (bottom,),
        width,
        kernel,
        stride,
        kernel // 2,
        lr_mult=ALIKE,
        decay_mult=ALIKE,
        fill="fan-out",
    )
    return replace(layer, bias=False)


def basic_block(
    name: str, bottom: str, width: int, module: str, stride: int = 1, downsample: bool = False
) -> tuple[Layer, ...]:
    """`BasicBlock`: two convolutions beside the identity (or beside a 1×1 convolution, where size
    and width change), added, ReLU."""
    beside: tuple[Layer, ...] = ()
    identity = bottom
    if downsample:
        identity = f"{module}.downsample.1"
        beside = (
            encoder_conv(f"{module}.downsample.0", bottom, width, kernel=1, stride=stride),
            norm(identity, f"{module}.downsample.0", relu=False),
        )
    return (
        encoder_conv(f"{module}.conv1", bottom, width, stride=stride),
        norm(f"{module}.bn1", f"{module}.conv1"),
        encoder_conv(f"{module}.conv2", f"{module}.bn1", width),
        norm(f"{module}.bn2", f"{module}.conv2", relu=False),
        *beside,
        Layer(name, "Eltwise", (f"{module}.bn2", identity), relu=True),
    )


def encoder(name: str, bottom: str, width: int, module: str, blocks: int, stride: int = 2) -> tuple[Layer, ...]:
    """One `layer` of ResNet-34: its first block halves the size, but for the first layer."""
    layers: tuple[Layer, ...] = ()
    for block in range(blocks):
        top = name if block == blocks - 1 else f"{module}.{block}"
        first = block == 0 and stride == 2
        layers += basic_block(top, bottom, width, f"{module}.{block}", stride if first else 1, downsample=first)
        bottom = top
    return layers


def decoder_block(name: str, bottom: str, inputs: int, outputs: int, module: str) -> tuple[Layer, ...]:
    """`DecoderBlock`: 1×1 to a quarter of the channels, transposed convolution 3 stride 2, 1×1;
    each with BatchNorm and ReLU."""
    return (
        torch_conv(f"{module}.conv1", bottom, inputs // 4, kernel=1),
        norm(f"{module}.norm1", f"{module}.conv1"),
        torch_deconv(f"{module}.deconv2", f"{module}.norm1", inputs // 4, kernel=3, pad=1, output_pad=1),
        norm(f"{module}.norm2", f"{module}.deconv2"),
        torch_conv(f"{module}.conv3", f"{module}.norm2", outputs, kernel=1),
        norm(name, f"{module}.conv3", f"{module}.norm3"),
    )


RESNET34_UNET = Architecture(
    name="resnet34-unet",
    layers=(
        encoder_conv("firstconv", "image", 64, kernel=7, stride=2),
        norm("firstrelu", "firstconv", "firstbn"),
        Layer("firstmaxpool", "Pooling", ("firstrelu",), kernel=3, stride=2, pad=1, sizes="floor"),
        *encoder("e1", "firstmaxpool", 64, "encoder1", blocks=3, stride=1),
        *encoder("e2", "e1", 128, "encoder2", blocks=4),
        *encoder("e3", "e2", 256, "encoder3", blocks=6),
        *encoder("e4", "e3", 512, "encoder4", blocks=3),
        *decoder_block("decoder4", "e4", 512, 256, "decoder4"),
        Layer("d4", "Eltwise", ("decoder4", "e3")),
        *decoder_block("decoder3", "d4", 256, 128, "decoder3"),
        Layer("d3", "Eltwise", ("decoder3", "e2")),
        *decoder_block("decoder2", "d3", 128, 64, "decoder2"),
        Layer("d2", "Eltwise", ("decoder2", "e1")),
        *decoder_block("d1", "d2", 64, 64, "decoder1"),
        replace(torch_deconv("finalrelu1", "d1", 32, kernel=4, pad=1, module="finaldeconv1"), relu=True),
        replace(torch_conv("finalrelu2", "finalrelu1", 32, module="finalconv2"), relu=True),
        torch_conv("logits", "finalrelu2", "classes", module="finalconv3"),
        sigmoid(),
    ),
    blob_names=(
        "image", "firstrelu", "firstmaxpool", "e1", "e2", "e3", "e4", "d4", "d3", "d2", "d1", "finalrelu1",
        "finalrelu2", "logits", "probability",
    ),
    input="image",
    output="probability",
    num_classes=1,
    colour="RGB",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    divisor=255.0,
    any_channels=False,
    citation=f"{UNET_ZOO}, on ResNet-34 (He, Zhang, Ren, Sun, CVPR 2016) with the sums of LinkNet (Chaurasia, "
    "Culurciello, VCIP 2017)",
    source="Andy-zhujunwen/UNET-ZOO@b526ce5 UNet.py, class resnet34_unet; torchvision models/resnet.py",
    naming="torch",
    dropout=None,
    options=("pad",),
    size_least=32,
    size_step=32,
)  # fmt: skip
register(RESNET34_UNET)
