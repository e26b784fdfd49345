"""bubbliiiing's U-Nets over VGG-16 and ResNet-50, in PyTorch.

bubbliiiing/unet-pytorch@5bcd6b4 nets/unet.py, class `Unet` with backbone='vgg' and 'resnet50', after
Ronneberger, Fischer and Brox, "U-Net" (MICCAI 2015, arXiv:1505.04597); its parameters have the names
of its state_dict. The encoders are written out here, so that torchvision is not imported. Its twin is
`segtwin_keras/bubbliiiing.py`.

Departures from the original: none in what is computed. Its ResNet-50 differs from torchvision's in
the first pooling, which is not padded and rounds up. Sizes that do not fit are treated as in
`unet.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from segtwin_torch.fcn import three_channels
from segtwin_torch.network import Forget, Network, Notebook, register
from segtwin_torch.unet import answer, conv, fit


class UNetUp(nn.Module):
    """Bilinear to twice the size, behind the skip, two convolutions with ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, outputs), conv(outputs, outputs)
        self.up = nn.UpsamplingBilinear2d(scale_factor=2)  # aligns corners

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """Of what `up` gave, same rows and columns."""
        x = torch.cat([skip, x], dim=1)
        return relu(self.conv2(relu(self.conv1(x))))


class Decoder(Network):
    """up4 to up1 over five maps of an encoder, and the classes."""

    def __init__(self, num_classes: int, features: tuple[int, ...], widths: tuple[int, ...], pad: str | None) -> None:
        super().__init__()
        three_channels(self.architecture.name, self.architecture.in_channels)
        self.pad = pad
        f1, f2, f3, f4, f5 = features
        w1, w2, w3, w4 = widths
        self.up_concat4, self.up_concat3 = UNetUp(f4 + f5, w4), UNetUp(f3 + w4, w3)
        self.up_concat2, self.up_concat1 = UNetUp(f2 + w3, w2), UNetUp(f1 + w2, w1)

    def decode(self, feat: tuple[Tensor, ...], n: Notebook) -> Tensor:
        """up1 of feat1 … feat5."""
        feat1, feat2, feat3, feat4, x = feat
        x = n["up_concat4.up"] = self.up_concat4.up(x)
        x = n["up4"] = self.up_concat4(feat4, x)
        x = n["up_concat3.up"] = self.up_concat3.up(x)
        x = n["up3"] = self.up_concat3(feat3, x)
        x = n["up_concat2.up"] = self.up_concat2.up(x)
        x = n["up2"] = self.up_concat2(feat2, x)
        x = n["up_concat1.up"] = self.up_concat1.up(x)
        x = n["up1"] = self.up_concat1(feat1, x)
        return x


@register("vgg16-unet")
class VGG16UNet(Decoder):
    """`Unet(backbone='vgg')`. Input `image` N×3×H×W, H and W multiples of 16; output `logits` N×classes×H×W."""

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...], pad: str | None = None) -> None:
        super().__init__(num_classes, widths, widths[:4], pad)
        c1, c2, c3, c4, c5 = widths
        self.vgg = nn.Module()
        self.vgg.features = nn.ModuleDict(
            {"0": conv(in_channels, c1), "2": conv(c1, c1)}
            | {"5": conv(c1, c2), "7": conv(c2, c2)}
            | {"10": conv(c2, c3), "12": conv(c3, c3), "14": conv(c3, c3)}
            | {"17": conv(c3, c4), "19": conv(c4, c4), "21": conv(c4, c4)}
            | {"24": conv(c4, c5), "26": conv(c5, c5), "28": conv(c5, c5)}
        )
        self.final = conv(c1, num_classes, kernel=1, pad=0)

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`logits` of an image; with a notebook `n`, every blob in it."""
        n = Forget() if n is None else n
        n["image"] = image
        x = fit(image, self, self.pad)

        vgg: Any = self.vgg.features
        x = relu(vgg["0"](x))
        feat1 = n["feat1"] = relu(vgg["2"](x))  # N×64×H×W
        x = n["pool1"] = max_pool2d(feat1, 2)
        x = relu(vgg["5"](x))
        feat2 = n["feat2"] = relu(vgg["7"](x))  # N×128×H/2×W/2
        x = n["pool2"] = max_pool2d(feat2, 2)
        x = relu(vgg["12"](relu(vgg["10"](x))))
        feat3 = n["feat3"] = relu(vgg["14"](x))  # N×256×H/4×W/4
        x = n["pool3"] = max_pool2d(feat3, 2)
        x = relu(vgg["19"](relu(vgg["17"](x))))
        feat4 = n["feat4"] = relu(vgg["21"](x))  # N×512×H/8×W/8
        x = n["pool4"] = max_pool2d(feat4, 2)
        x = relu(vgg["26"](relu(vgg["24"](x))))
        feat5 = n["feat5"] = relu(vgg["28"](x))  # N×512×H/16×W/16

        x = self.decode((feat1, feat2, feat3, feat4, feat5), n)
        return answer(self.final(x), image, n, logits=True, pad=self.pad)


class Bottleneck(nn.Module):
    """1×1, 3×3 with the stride, 1×1 to four times the channels, added to what came in, which passes a 1×1 convolution
    where size or width change."""

    def __init__(self, inputs: int, inside: int, stride: int, downsample: bool) -> None:
        super().__init__()
        outputs = 4 * inside
        self.conv1, self.bn1 = conv(inputs, inside, kernel=1, pad=0, bias=False), nn.BatchNorm2d(inside)
        self.conv2, self.bn2 = conv(inside, inside, stride=stride, bias=False), nn.BatchNorm2d(inside)
        self.conv3, self.bn3 = conv(inside, outputs, kernel=1, pad=0, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = None
        if downsample:
            beside = conv(inputs, outputs, kernel=1, stride=stride, pad=0, bias=False)
            self.downsample = nn.Sequential(beside, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Rows and columns divided by the stride."""
        identity = x
        x = relu(self.bn1(self.conv1(x)))
        x = relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        if self.downsample is not None:
            identity = self.downsample(identity)
        return relu(x + identity)


def layer(inputs: int, inside: int, blocks: int, stride: int = 2) -> nn.Sequential:
    """One layer of ResNet-50."""
    rest = (Bottleneck(4 * inside, inside, 1, downsample=False) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(inputs, inside, stride, downsample=True), *rest)


@register("resnet50-unet")
class ResNet50UNet(Decoder):
    """`Unet(backbone='resnet50')`. Input `image` N×3×H×W, H and W multiples of 32 or one less; output `logits`
    N×classes×32k×32l."""

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...], pad: str | None = None) -> None:
        super().__init__(num_classes, (64, 256, 512, 1024, 2048), (64, 128, 256, 512), pad)
        self.resnet = nn.Module()
        self.resnet.conv1 = conv(in_channels, 64, kernel=7, stride=2, pad=3, bias=False)
        self.resnet.bn1 = nn.BatchNorm2d(64)
        self.resnet.layer1 = layer(64, 64, blocks=3, stride=1)
        self.resnet.layer2 = layer(256, 128, blocks=4)
        self.resnet.layer3 = layer(512, 256, blocks=6)
        self.resnet.layer4 = layer(1024, 512, blocks=3)
        self.up_conv = nn.ModuleDict({"1": conv(64, 64), "3": conv(64, 64)})
        self.larger = nn.UpsamplingBilinear2d(scale_factor=2)
        self.final = conv(64, num_classes, kernel=1, pad=0)

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`logits` of an image; with a notebook `n`, every blob in it."""
        n = Forget() if n is None else n
        n["image"] = image
        x = fit(image, self, self.pad)

        resnet: Any = self.resnet
        feat1 = n["feat1"] = relu(resnet.bn1(resnet.conv1(x)))  # N×64×H/2×W/2
        x = n["maxpool"] = max_pool2d(feat1, 3, stride=2, ceil_mode=True)  # torchvision's pads by one
        feat2 = n["feat2"] = resnet.layer1(x)  # N×256×H/4×W/4
        feat3 = n["feat3"] = resnet.layer2(feat2)  # N×512×H/8×W/8
        feat4 = n["feat4"] = resnet.layer3(feat3)  # N×1024×H/16×W/16
        feat5 = n["feat5"] = resnet.layer4(feat4)  # N×2048×H/32×W/32

        x = self.decode((feat1, feat2, feat3, feat4, feat5), n)
        x = n["up_conv.0"] = self.larger(x)  # N×64×H×W
        x = relu(self.up_conv["1"](x))
        x = n["up_conv"] = relu(self.up_conv["3"](x))
        return answer(self.final(x), image, n, logits=True, pad=self.pad)
