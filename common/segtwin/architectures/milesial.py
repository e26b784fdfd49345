"""milesial's U-Net, with transposed convolutions or bilinear upsampling.

Source: milesial/Pytorch-UNet at 21d7850f2af30a9695bbeea75f3136aa538cfc4a, `unet/unet_model.py` and
`unet/unet_parts.py`; it follows Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015
(arXiv:1505.04597), with padded convolutions and BatchNorm.

What differs from the other U-Nets here: the 3×3 convolutions have no bias; the skip comes first in
the concatenations; any size from 16×16 up is taken, for what was upsampled is padded by zeros at the
bottom and right where the skip is a row or a column larger; there is no sigmoid and no softmax at
the end. With bilinear upsampling, which does not change the number of channels, the lowest level has
half of them, and the first convolution of each step up halves what was concatenated.

Preprocessing: values 0..1 (`BasicDataset.preprocess` of `utils/data_loading.py`, which divides by
255).
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from segtwin.architectures import register
from segtwin.architectures.schema import Architecture, Layer
from segtwin.architectures.unet import halve, merge, norm, torch_conv, torch_deconv


def conv(name: str, bottom: str, width: str) -> Layer:
    """nn.Conv2d(kernel_size=3, padding=1, bias=False)."""
    return replace(torch_conv(name, bottom, width), bias=False)


def double_conv(name: str, bottom: str, middle: str, width: str, module: str) -> tuple[Layer, ...]:
    """`DoubleConv`: (convolution, BatchNorm, ReLU) twice, `middle` channels in between."""
    return (
        conv(f"{module}.double_conv.0", bottom, middle),
        norm(f"{module}.double_conv.1", f"{module}.double_conv.0"),
        conv(f"{module}.double_conv.3", f"{module}.double_conv.1", width),
        norm(name, f"{module}.double_conv.3", f"{module}.double_conv.4"),
    )


def down(name: str, bottom: str, width: str) -> tuple[Layer, ...]:
    """`Down`."""
    pool = f"{name}.maxpool_conv.0"
    return halve(pool, bottom), *double_conv(name, pool, width, width, f"{name}.maxpool_conv.1")


def up(name: str, bottom: str, skip: str, middle: str, width: str, bilinear: bool) -> tuple[Layer, ...]:
    """`Up`: to twice the rows and columns, padded to the skip, behind the skip, two convolutions."""
    larger = (
        Layer(f"{name}.up", "UpsampleBilinear", (bottom,))
        if bilinear
        else torch_deconv(f"{name}.up", bottom, middle, kernel=2)
    )
    return (
        larger,
        Layer(f"{name}.pad", "PadTo", (f"{name}.up", skip)),
        merge(f"{name}.cat", skip, f"{name}.pad"),
        *double_conv(name, f"{name}.cat", middle, width, f"{name}.conv"),
    )


def milesial(name: str, bilinear: bool) -> Architecture:
    """`UNet(n_channels, n_classes, bilinear)`."""
    # widths of up1 … up4; of a step with a transposed convolution its middle and its outputs are alike
    outputs = ("c3", "c2", "c1", "c1") if bilinear else ("c4", "c3", "c2", "c1")
    return Architecture(
        name=name,
        layers=(
            *double_conv("inc", "image", "c1", "c1", "inc"),
            *down("down1", "inc", "c2"),
            *down("down2", "down1", "c3"),
            *down("down3", "down2", "c4"),
            *down("down4", "down3", "c5"),
            *up("up1", "down4", "down3", "c4", outputs[0], bilinear),
            *up("up2", "up1", "down2", "c3", outputs[1], bilinear),
            *up("up3", "up2", "down1", "c2", outputs[2], bilinear),
            *up("up4", "up3", "inc", "c1", outputs[3], bilinear),
            torch_conv("logits", "up4", "classes", kernel=1, module="outc.conv"),
        ),
        blob_names=(
            "image", "inc", "down1", "down2", "down3", "down4",
            "up1.up", "up1", "up2.up", "up2", "up3.up", "up3", "up4.up", "up4", "logits",
        ),
        input="image",
        output="logits",
        num_classes=2,
        colour="RGB",
        mean=(0.0, 0.0, 0.0),
        divisor=255.0,
        widths=MappingProxyType({"c1": 64, "c2": 128, "c3": 256, "c4": 512, "c5": 512 if bilinear else 1024}),
        citation="milesial's torch code of Ronneberger, Fischer, Brox: U-Net, MICCAI 2015 (arXiv:1505.04597)",
        source="milesial/Pytorch-UNet@21d7850 unet/unet_model.py, class UNet" + (", bilinear=True" if bilinear else ""),
        published="Dice 0.988423 on 100k test images of Carvana (README)",
        naming="torch",
        dropout=None,
        size_least=16,
    )  # fmt: skip


MILESIAL_BILINEAR = register(milesial("unet-milesial-bilinear", bilinear=True), listed=False)
MILESIAL = register(
    replace(
        milesial("unet-milesial", bilinear=False),
        options=("bilinear",),
        variants=MappingProxyType({"bilinear": MILESIAL_BILINEAR}),
    )
)
register(MILESIAL_BILINEAR)
