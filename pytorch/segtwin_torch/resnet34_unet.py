"""resnet34-unet in PyTorch: ResNet-34 as the encoder, LinkNet's decoder with sums in place of
concatenations.

Class `resnet34_unet` of Andy-zhujunwen/UNET-ZOO@b526ce5 UNet.py; its parameters have the names of
its state_dict. The encoder is torchvision's `resnet34` (He, Zhang, Ren, Sun, "Deep Residual
Learning for Image Recognition", CVPR 2016), written out here, so that torchvision is not imported;
the decoder is that of Chaurasia and Culurciello, "LinkNet" (VCIP 2017, arXiv:1707.03718). Its twin
is `segtwin_keras/resnet34_unet.py`.

Departures from the original: none in what is computed. Without weights the encoder starts as
torchvision's untrained one; the original downloads ImageNet weights, which
`segtwin_weights.convert(…, to="resnet34-unet")` makes of torchvision's file. Sizes that do not fit
and `logits` are treated as in `unet.py`.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from segtwin_torch.network import Forget, Network, Notebook, register
from segtwin_torch.unet import answer, conv, deconv, fit


class BasicBlock(nn.Module):
    """Two 3×3 convolutions, added to what came in; where the size is halved, that passes a 1×1
    convolution of stride 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1:
            beside = conv(inputs, outputs, kernel=1, stride=stride, pad=0, bias=False)
            self.downsample = nn.Sequential(beside, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Rows and columns divided by the stride."""
        identity = x
        x = relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        if self.downsample is not None:
            identity = self.downsample(identity)
        return relu(x + identity)


def encoder(inputs: int, outputs: int, blocks: int, stride: int = 2) -> nn.Sequential:
    """One layer of ResNet-34; its first block halves the size, but for the first layer."""
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride), *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    )


class DecoderBlock(nn.Module):
    """1×1 to a quarter of the channels, transposed convolution of stride 2, 1×1; each with
    BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(inputs, inputs // 4, kernel=1, pad=0), nn.BatchNorm2d(inputs // 4)
        self.deconv2 = deconv(inputs // 4, inputs // 4, kernel=3, pad=1, output_pad=1)
        self.norm2 = nn.BatchNorm2d(inputs // 4)
        self.conv3, self.norm3 = conv(inputs // 4, outputs, kernel=1, pad=0), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Twice the rows and columns."""
        x = relu(self.norm1(self.conv1(x)))
        x = relu(self.norm2(self.deconv2(x)))
        return relu(self.norm3(self.conv3(x)))


@register("resnet34-unet")
class ResNet34UNet(Network):
    """Input `image` N×3×H×W, H and W multiples of 32; output `probability` (or `logits`)
    N×classes×H×W."""

    def __init__(
        self, num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
    ) -> None:
        super().__init__()
        self.logits, self.pad = logits, pad
        self.firstconv = conv(in_channels, 64, kernel=7, stride=2, pad=3, bias=False)
        self.firstbn = nn.BatchNorm2d(64)
        self.firstmaxpool = nn.MaxPool2d(3, stride=2, padding=1)  # pads with −∞
        self.encoder1 = encoder(64, 64, blocks=3, stride=1)
        self.encoder2 = encoder(64, 128, blocks=4)
        self.encoder3 = encoder(128, 256, blocks=6)
        self.encoder4 = encoder(256, 512, blocks=3)

        self.decoder4 = DecoderBlock(512, 256)
        self.decoder3 = DecoderBlock(256, 128)
        self.decoder2 = DecoderBlock(128, 64)
        self.decoder1 = DecoderBlock(64, 64)
        self.finaldeconv1 = deconv(64, 32, kernel=4, pad=1)
        self.finalconv2 = conv(32, 32)
        self.finalconv3 = conv(32, num_classes)

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`probability` or `logits` of an image; with a notebook `n`, every blob in it."""
        n = Forget() if n is None else n
        n["image"] = image
        x = fit(image, self, self.pad)

        x = n["firstrelu"] = relu(self.firstbn(self.firstconv(x)))  # N×64×H/2×W/2
        x = n["firstmaxpool"] = self.firstmaxpool(x)
        e1 = n["e1"] = self.encoder1(x)  # N×64×H/4×W/4
        e2 = n["e2"] = self.encoder2(e1)  # N×128×H/8×W/8
        e3 = n["e3"] = self.encoder3(e2)  # N×256×H/16×W/16
        x = n["e4"] = self.encoder4(e3)  # N×512×H/32×W/32

        x = n["d4"] = self.decoder4(x) + e3
        x = n["d3"] = self.decoder3(x) + e2
        x = n["d2"] = self.decoder2(x) + e1
        x = n["d1"] = self.decoder1(x)  # N×64×H/2×W/2

        x = n["finalrelu1"] = relu(self.finaldeconv1(x))  # N×32×H×W
        x = n["finalrelu2"] = relu(self.finalconv2(x))
        return answer(self.finalconv3(x), image, n, self.logits, self.pad)
