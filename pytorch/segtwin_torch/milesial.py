"""milesial's U-Net in PyTorch, with transposed convolutions or bilinear upsampling.

milesial/Pytorch-UNet@21d7850 unet/unet_model.py, class `UNet`, after Ronneberger, Fischer and Brox,
"U-Net" (MICCAI 2015, arXiv:1505.04597); its parameters have the names of its state_dict, and so have
the blobs. Its twin is `segtwin_keras/milesial.py`.

Departures from the original: none in what is computed. Checkpoints of its training script carry
`mask_values`, grey values or colours of the classes, which are no weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segtwin_torch.network import Forget, Network, Notebook, register
from segtwin_torch.unet import conv, deconv
from segtwin_torch.vggfcn import fit


class DoubleConv(nn.Module):
    """(3×3 convolution without bias, BatchNorm, ReLU) twice, `middle` channels in between."""

    def __init__(self, inputs: int, middle: int, outputs: int) -> None:
        super().__init__()
        first = conv(inputs, middle, bias=False), nn.BatchNorm2d(middle), nn.ReLU(inplace=True)
        second = conv(middle, outputs, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        self.double_conv = nn.Sequential(*first, *second)

    def forward(self, x: Tensor) -> Tensor:
        """Same rows and columns."""
        return self.double_conv(x)


class Down(nn.Module):
    """2×2 maxima, two convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(inputs, outputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Half the rows and columns."""
        return self.maxpool_conv(x)


class Up(nn.Module):
    """To twice the rows and columns, behind the skip, two convolutions."""

    def __init__(self, inputs: int, skip: int, outputs: int, bilinear: bool) -> None:
        super().__init__()
        self.up: nn.Module
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(skip + inputs, skip, outputs)
        else:
            self.up = deconv(inputs, skip)
            self.conv = DoubleConv(2 * skip, outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """What `up` gave, in the size of the skip."""
        return self.conv(torch.cat([skip, fit(x, like=skip)], dim=1))


class Milesial(Network):
    """What both have in common."""

    bilinear: bool

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = widths
        self.inc = DoubleConv(in_channels, c1, c1)
        self.down1, self.down2, self.down3, self.down4 = Down(c1, c2), Down(c2, c3), Down(c3, c4), Down(c4, c5)
        # a bilinear step passes on half of what it has; a transposed convolution halves it itself
        u1, u2, u3, u4 = (c3, c2, c1, c1) if self.bilinear else (c4, c3, c2, c1)
        self.up1, self.up2 = Up(c5, c4, u1, self.bilinear), Up(u1, c3, u2, self.bilinear)
        self.up3, self.up4 = Up(u2, c2, u3, self.bilinear), Up(u3, c1, u4, self.bilinear)
        self.outc = nn.ModuleDict({"conv": conv(c1, num_classes, kernel=1, pad=0)})

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`logits` of an image; with a notebook `n`, every blob in it."""
        n = Forget() if n is None else n
        self.check_size(image)
        n["image"] = image

        x1 = n["inc"] = self.inc(image)  # N×64×H×W
        x2 = n["down1"] = self.down1(x1)  # N×128×⌊H/2⌋×…
        x3 = n["down2"] = self.down2(x2)  # N×256×⌊H/4⌋×…
        x4 = n["down3"] = self.down3(x3)  # N×512×⌊H/8⌋×…
        x = n["down4"] = self.down4(x4)  # N×1024×⌊H/16⌋×…, or N×512×…

        x = n["up1.up"] = self.up1.up(x)
        x = n["up1"] = self.up1(x, x4)
        x = n["up2.up"] = self.up2.up(x)
        x = n["up2"] = self.up2(x, x3)
        x = n["up3.up"] = self.up3.up(x)
        x = n["up3"] = self.up3(x, x2)
        x = n["up4.up"] = self.up4.up(x)
        x = n["up4"] = self.up4(x, x1)

        x = n["logits"] = self.outc["conv"](x)  # N×classes×H×W
        return x


@register("unet-milesial")
class UNetMilesial(Milesial):
    """`UNet(bilinear=False)`. Input `image` N×3×H×W, H and W at least 16; output `logits` N×classes×H×W."""

    bilinear = False


@register("unet-milesial-bilinear")
class UNetMilesialBilinear(Milesial):
    """`UNet(bilinear=True)`. Input `image` N×3×H×W, H and W at least 16; output `logits` N×classes×H×W."""

    bilinear = True
