"""The U-Nets in PyTorch: the network of the paper, and two from torch code.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation"
(MICCAI 2015, arXiv:1505.04597), section 2 and figure 1; layers have the names of the authors' Caffe
release. `unet` is the class `Unet` of Andy-zhujunwen/UNET-ZOO@b526ce5 UNet.py, `unet-small` the
one of 8 to 128 channels over `double_conv2d_bn` and `deconv2d_bn` (tutorials of 2021); their
parameters have the names of its state_dict. Blobs have the names of the variables of its forward
passes. Its twin is `segtwin_keras/unet.py`.

Departures from the originals: none in what is computed. The paper shows no place and no rate for
its dropout; the authors' release drops half of d3c and d4c, as here. The originals fail on sizes
that do not fit with an error of torch.cat; here they are refused with the sizes that do, or, with
`pad="reflect"`, mirrored at the bottom and right and cut again. Their sigmoid can be left off
(`logits`).
"""

from __future__ import annotations

import torch
from segtwin.errors import ArchitectureError
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from segtwin_torch.fcn import crop
from segtwin_torch.network import Forget, Network, Notebook, register


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, pad: int = 1, bias: bool = True) -> nn.Conv2d:
    """A convolution, padded by `pad` zeros on every side."""
    return nn.Conv2d(inputs, outputs, kernel, stride, pad, bias=bias)


def deconv(
    inputs: int, outputs: int, kernel: int = 2, stride: int = 2, pad: int = 0, output_pad: int = 0
) -> nn.ConvTranspose2d:
    """A transposed convolution with bias: (n − 1)·stride + kernel pixels, less `pad` on every side,
    `output_pad` more at the bottom and right."""
    return nn.ConvTranspose2d(inputs, outputs, kernel, stride, pad, output_pad)


def central_crop(x: Tensor, offset: int) -> Tensor:
    """`x` without `offset` rows and columns on every side. The offsets are those of
    `geometry.crop_offsets`, and tested to be.

    With sizes that fit, that is Caffe's crop: what is left has the size of the up-convolution.
    """
    return x[:, :, offset:-offset, offset:-offset]


def fit(image: Tensor, network: Network, pad: str | None) -> Tensor:
    """The image as a network takes it: as it is, or mirrored to a legal size.

    Raises:
        ArchitectureError: its size does not fit and it is not to be padded; a trace with padding.
    """
    if pad is None:
        network.check_size(image)
        return image
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        raise ArchitectureError(f"{network.architecture.name} with pad cannot be traced: a trace would keep one size")
    legal = network.architecture.legal_size
    rows, columns = (mirrored(size, legal(size)).to(image.device) for size in image.shape[2:])
    return image[:, :, rows][:, :, :, columns]


def mirrored(size: int, legal: int) -> Tensor:
    """Indices 0 … legal − 1 of an axis of `size` pixels, mirrored at its last pixel (and again at
    its first), which is not repeated."""
    there_and_back = max(2 * (size - 1), 1)
    i = torch.arange(legal) % there_and_back
    return torch.where(i < size, i, there_and_back - i)


@register("unet-paper")
class UNetPaper(Network):
    """The network of figure 1. Input `data` N×1×(16k+60)×(16l+60), k, l ≥ 8; output
    `conv_u0d-score` N×classes, 184 rows and columns less."""

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = widths
        self.conv_d0a_b, self.conv_d0b_c = conv(in_channels, c1, pad=0), conv(c1, c1, pad=0)
        self.conv_d1a_b, self.conv_d1b_c = conv(c1, c2, pad=0), conv(c2, c2, pad=0)
        self.conv_d2a_b, self.conv_d2b_c = conv(c2, c3, pad=0), conv(c3, c3, pad=0)
        self.conv_d3a_b, self.conv_d3b_c = conv(c3, c4, pad=0), conv(c4, c4, pad=0)
        self.conv_d4a_b, self.conv_d4b_c = conv(c4, c5, pad=0), conv(c5, c5, pad=0)
        self.drop_d3c, self.drop_d4c = nn.Dropout(dropout), nn.Dropout(dropout)

        self.upconv_d4c_u3a = deconv(c5, c4)
        self.conv_u3b_c, self.conv_u3c_d = conv(2 * c4, c4, pad=0), conv(c4, c4, pad=0)
        self.upconv_u3d_u2a = deconv(c4, c3)
        self.conv_u2b_c, self.conv_u2c_d = conv(2 * c3, c3, pad=0), conv(c3, c3, pad=0)
        self.upconv_u2d_u1a = deconv(c3, c2)
        self.conv_u1b_c, self.conv_u1c_d = conv(2 * c2, c2, pad=0), conv(c2, c2, pad=0)
        self.upconv_u1d_u0a = deconv(c2, c1)
        self.conv_u0b_c, self.conv_u0c_d = conv(2 * c1, c1, pad=0), conv(c1, c1, pad=0)
        self.conv_u0d_score = conv(c1, num_classes, kernel=1, pad=0)

    def forward(self, data: Tensor, n: Notebook | None = None) -> Tensor:
        """`conv_u0d-score` of an image; with a notebook `n`, every blob in it."""
        n = Forget() if n is None else n
        n["data"] = data
        data = fit(data, self, pad=None)

        x = n["conv_d0a-b"] = relu(self.conv_d0a_b(data))
        d0c = n["conv_d0b-c"] = relu(self.conv_d0b_c(x))  # N×64×(H−4)×(W−4)
        x = n["pool_d0c-1a"] = max_pool2d(d0c, 2)

        x = n["conv_d1a-b"] = relu(self.conv_d1a_b(x))
        d1c = n["conv_d1b-c"] = relu(self.conv_d1b_c(x))  # N×128×(H−12)/2×…
        x = n["pool_d1c-2a"] = max_pool2d(d1c, 2)

        x = n["conv_d2a-b"] = relu(self.conv_d2a_b(x))
        d2c = n["conv_d2b-c"] = relu(self.conv_d2b_c(x))  # N×256×(H−28)/4×…
        x = n["pool_d2c-3a"] = max_pool2d(d2c, 2)

        x = n["conv_d3a-b"] = relu(self.conv_d3a_b(x))
        d3c = n["conv_d3b-c"] = self.drop_d3c(relu(self.conv_d3b_c(x)))  # N×512×(H−60)/8×…
        x = n["pool_d3c-4a"] = max_pool2d(d3c, 2)

        x = n["conv_d4a-b"] = relu(self.conv_d4a_b(x))
        x = n["conv_d4b-c"] = self.drop_d4c(relu(self.conv_d4b_c(x)))  # N×1024×(H−124)/16×…

        x = n["upconv_d4c_u3a"] = self.upconv_d4c_u3a(x)  # no ReLU: "up-convolution" in figure 1
        skip = n["crop_d3c-d3cc"] = central_crop(d3c, offset=4)
        x = n["concat_d3cc_u3a-b"] = torch.cat([x, skip], dim=1)
        x = n["conv_u3b-c"] = relu(self.conv_u3b_c(x))
        x = n["conv_u3c-d"] = relu(self.conv_u3c_d(x))

        x = n["upconv_u3d_u2a"] = self.upconv_u3d_u2a(x)
        skip = n["crop_d2c-d2cc"] = central_crop(d2c, offset=16)
        x = n["concat_d2cc_u2a-b"] = torch.cat([x, skip], dim=1)
        x = n["conv_u2b-c"] = relu(self.conv_u2b_c(x))
        x = n["conv_u2c-d"] = relu(self.conv_u2c_d(x))

        x = n["upconv_u2d_u1a"] = self.upconv_u2d_u1a(x)
        skip = n["crop_d1c-d1cc"] = central_crop(d1c, offset=40)
        x = n["concat_d1cc_u1a-b"] = torch.cat([x, skip], dim=1)
        x = n["conv_u1b-c"] = relu(self.conv_u1b_c(x))
        x = n["conv_u1c-d"] = relu(self.conv_u1c_d(x))

        x = n["upconv_u1d_u0a"] = self.upconv_u1d_u0a(x)
        skip = n["crop_d0c-d0cc"] = central_crop(d0c, offset=88)
        x = n["concat_d0cc_u0a-b"] = torch.cat([x, skip], dim=1)
        x = n["conv_u0b-c"] = relu(self.conv_u0b_c(x))
        x = n["conv_u0c-d"] = relu(self.conv_u0c_d(x))

        x = n["conv_u0d-score"] = self.conv_u0d_score(x)  # N×classes×(H−184)×(W−184)
        return x


class DoubleConv(nn.Module):
    """(3×3 convolution, BatchNorm, ReLU) twice."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        first = conv(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        self.conv = nn.Sequential(*first, conv(outputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """Same rows and columns."""
        return self.conv(x)


@register("unet")
class UNet(Network):
    """UNET-ZOO's U-Net. Input `image` N×3×H×W, H and W multiples of 16; output `probability` (or
    `logits`) N×classes×H×W."""

    def __init__(
        self, num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
    ) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = widths
        self.logits, self.pad = logits, pad
        self.conv1, self.pool1 = DoubleConv(in_channels, c1), nn.MaxPool2d(2)
        self.conv2, self.pool2 = DoubleConv(c1, c2), nn.MaxPool2d(2)
        self.conv3, self.pool3 = DoubleConv(c2, c3), nn.MaxPool2d(2)
        self.conv4, self.pool4 = DoubleConv(c3, c4), nn.MaxPool2d(2)
        self.conv5 = DoubleConv(c4, c5)

        self.up6, self.conv6 = deconv(c5, c4), DoubleConv(2 * c4, c4)
        self.up7, self.conv7 = deconv(c4, c3), DoubleConv(2 * c3, c3)
        self.up8, self.conv8 = deconv(c3, c2), DoubleConv(2 * c2, c2)
        self.up9, self.conv9 = deconv(c2, c1), DoubleConv(2 * c1, c1)
        self.conv10 = conv(c1, num_classes, kernel=1, pad=0)

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`probability` or `logits` of an image; with a notebook `n`, every blob in it."""
        n = Forget() if n is None else n
        n["image"] = image
        x = fit(image, self, self.pad)

        c1 = n["c1"] = self.conv1(x)  # N×32×H×W
        x = n["p1"] = self.pool1(c1)
        c2 = n["c2"] = self.conv2(x)  # N×64×H/2×W/2
        x = n["p2"] = self.pool2(c2)
        c3 = n["c3"] = self.conv3(x)  # N×128×H/4×W/4
        x = n["p3"] = self.pool3(c3)
        c4 = n["c4"] = self.conv4(x)  # N×256×H/8×W/8
        x = n["p4"] = self.pool4(c4)
        x = n["c5"] = self.conv5(x)  # N×512×H/16×W/16

        x = n["up_6"] = self.up6(x)
        x = n["merge6"] = torch.cat([x, c4], dim=1)
        x = n["c6"] = self.conv6(x)
        x = n["up_7"] = self.up7(x)
        x = n["merge7"] = torch.cat([x, c3], dim=1)
        x = n["c7"] = self.conv7(x)
        x = n["up_8"] = self.up8(x)
        x = n["merge8"] = torch.cat([x, c2], dim=1)
        x = n["c8"] = self.conv8(x)
        x = n["up_9"] = self.up9(x)
        x = n["merge9"] = torch.cat([x, c1], dim=1)
        x = n["c9"] = self.conv9(x)

        return answer(self.conv10(x), image, n, self.logits, self.pad)


def answer(x: Tensor, image: Tensor, n: Notebook, logits: bool, pad: str | None) -> Tensor:
    """`logits` in the size of the image, and their `probability` unless the logits are asked for."""
    x = n["logits"] = x if pad is None else crop(x, like=image, offset=0)
    if not logits:
        x = n["probability"] = torch.sigmoid(x)
    return x


class DoubleConv2dBN(nn.Module):
    """(3×3 convolution, BatchNorm, ReLU) twice, the four modules side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, outputs), conv(outputs, outputs)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Same rows and columns."""
        x = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(x)))


class Deconv2dBN(nn.Module):
    """2×2 transposed convolution of stride 2, BatchNorm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = deconv(inputs, outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Twice the rows and columns."""
        return relu(self.bn1(self.conv1(x)))


@register("unet-small")
class UNetSmall(Network):
    """The small U-Net. Input `image` N×1×H×W, H and W multiples of 16; output `probability` (or
    `logits`) N×classes×H×W."""

    def __init__(
        self, num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
    ) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = widths
        self.logits, self.pad = logits, pad
        self.layer1_conv, self.layer2_conv = DoubleConv2dBN(in_channels, c1), DoubleConv2dBN(c1, c2)
        self.layer3_conv, self.layer4_conv = DoubleConv2dBN(c2, c3), DoubleConv2dBN(c3, c4)
        self.layer5_conv = DoubleConv2dBN(c4, c5)
        self.layer6_conv, self.layer7_conv = DoubleConv2dBN(2 * c4, c4), DoubleConv2dBN(2 * c3, c3)
        self.layer8_conv, self.layer9_conv = DoubleConv2dBN(2 * c2, c2), DoubleConv2dBN(2 * c1, c1)
        self.layer10_conv = conv(c1, num_classes)
        self.deconv1, self.deconv2 = Deconv2dBN(c5, c4), Deconv2dBN(c4, c3)
        self.deconv3, self.deconv4 = Deconv2dBN(c3, c2), Deconv2dBN(c2, c1)

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`probability` or `logits` of an image; with a notebook `n`, every blob in it."""
        n = Forget() if n is None else n
        n["image"] = image
        x = fit(image, self, self.pad)

        conv1 = n["conv1"] = self.layer1_conv(x)  # N×8×H×W
        x = n["pool1"] = max_pool2d(conv1, 2)
        conv2 = n["conv2"] = self.layer2_conv(x)  # N×16×H/2×W/2
        x = n["pool2"] = max_pool2d(conv2, 2)
        conv3 = n["conv3"] = self.layer3_conv(x)  # N×32×H/4×W/4
        x = n["pool3"] = max_pool2d(conv3, 2)
        conv4 = n["conv4"] = self.layer4_conv(x)  # N×64×H/8×W/8
        x = n["pool4"] = max_pool2d(conv4, 2)
        x = n["conv5"] = self.layer5_conv(x)  # N×128×H/16×W/16

        x = n["convt1"] = self.deconv1(x)
        x = n["concat1"] = torch.cat([x, conv4], dim=1)
        x = n["conv6"] = self.layer6_conv(x)
        x = n["convt2"] = self.deconv2(x)
        x = n["concat2"] = torch.cat([x, conv3], dim=1)
        x = n["conv7"] = self.layer7_conv(x)
        x = n["convt3"] = self.deconv3(x)
        x = n["concat3"] = torch.cat([x, conv2], dim=1)
        x = n["conv8"] = self.layer8_conv(x)
        x = n["convt4"] = self.deconv4(x)
        x = n["concat4"] = torch.cat([x, conv1], dim=1)
        x = n["conv9"] = self.layer9_conv(x)

        return answer(self.layer10_conv(x), image, n, self.logits, self.pad)
