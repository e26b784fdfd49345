"""The networks of UNET-ZOO beside its U-Net and its ResNet-34, in PyTorch.

Andy-zhujunwen/UNET-ZOO@b526ce5: `attention-unet-unetzoo` is AttU_Net of attention_unet.py, `r2unet`
R2U_Net of r2unet.py, `nested-unet-4heads` and `nested-unet-1head` NestedUNet of unetpp.py, `segnet`
SegNet of segnet.py, `channel-unet` myChannelUnet of channel_unet.py, `ce-net` CE_Net_ of cenet.py,
`fcn8s-unetzoo` and `fcn32s-unetzoo` FCN8s and FCN32s of fcn.py; the papers stand in
`segtwin/architectures/unet_zoo.py`, and so does what is surprising in each. Their parameters have the
names of its state_dict. Its twin is `segtwin_keras/unet_zoo.py`.

Departures from the originals: none in what is computed. What CE-Net's dilated block computes two and
three times is computed once; what no output comes from is not computed, but for the heads of
`nested-unet-4heads`, which are in training and with a notebook. SegNet's unpooling does not depend on
the order in which threads write, and writes as one thread does. Sizes that do not fit are treated as
in `unet.py`, and the sigmoid at the end can be left off (`logits`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, pad, relu

from segtwin_torch.fcn import crop, three_channels
from segtwin_torch.nests import RRCNN, Nested, T, UShape
from segtwin_torch.network import Forget, Network, Notebook, register
from segtwin_torch.resnet34_unet import DecoderBlock, encoder
from segtwin_torch.unet import DoubleConv, answer, conv, deconv, fit


@register("attention-unet-unetzoo")
class AttentionUNetUNetZoo(UShape):
    """`AttU_Net`. Input `image` N×3×H×W, H and W multiples of 16; output `probability` (or `logits`)
    N×classes×H×W."""

    head, gated = "Conv_1x1", True


class Recurrent(nn.Module):
    """x₁ = f(x), then T times x₁ = f(x + x₁)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(channels, channels), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        x1 = self.conv(x)
        for _ in range(T):
            x1 = self.conv(x + x1)
        return x1


class TrueRRCNN(RRCNN):
    """`RRCNN_block` of UNET-ZOO."""

    recurrent, entry = Recurrent, "Conv_1x1"


@register("r2unet")
class R2UNet(UShape):
    """`R2U_Net`. Input `image` N×3×H×W, H and W multiples of 16; output `probability` (or `logits`)
    N×classes×H×W."""

    stage, up, head = "RRCNN", "Up_RRCNN", "Conv_1x1"
    block = TrueRRCNN


@register("nested-unet-4heads")
class NestedUNet4Heads(Nested):
    """`NestedUNet(deepsupervision)`. Input `image` N×3×H×W, H and W multiples of 16; output `probability` (or
    `logits`) of the last head N×classes×H×W."""

    block = DoubleConv

    def __init__(
        self, num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
    ) -> None:
        super().__init__(in_channels, widths, logits, pad)
        for number in (1, 2, 3, 4):
            self.add_module(f"final{number}", conv(widths[0], num_classes, kernel=1, pad=0))

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`probability` or `logits` of an image; with a notebook `n`, every blob in it."""
        n = Forget() if n is None else n
        n["image"] = image
        x = fit(image, self, self.pad)
        *earlier, x4 = self.nest(x, n)
        if not isinstance(n, Forget):
            for number, x in enumerate(earlier, start=1):
                x = self.get_submodule(f"final{number}")(x)
                x = n[f"logits{number}"] = x if self.pad is None else crop(x, like=image, offset=0)
                n[f"probability{number}"] = torch.sigmoid(x)
        return answer(self.get_submodule("final4")(x4), image, n, self.logits, self.pad)


@register("nested-unet-1head")
class NestedUNet1Head(Nested):
    """`NestedUNet` without deep supervision. Input `image` N×3×H×W, H and W multiples of 16; output `probability` (or
    `logits`) N×classes×H×W."""

    block = DoubleConv

    def __init__(
        self, num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
    ) -> None:
        super().__init__(in_channels, widths, logits, pad)
        self.final = conv(widths[0], num_classes, kernel=1, pad=0)

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`probability` or `logits` of an image; with a notebook `n`, every blob in it."""
        n = Forget() if n is None else n
        n["image"] = image
        x = fit(image, self, self.pad)
        *_, x = self.nest(x, n)
        return answer(self.final(x), image, n, self.logits, self.pad)


# -------------------------------------------------------------------------------------- SegNet


def max_pool(x: Tensor) -> Tensor:
    """2×2 maxima, stride 1: one row and one column less."""
    return max_pool2d(x, 2, stride=1)


def corners(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first, second, third and fourth pixel of every 2×2 window, row by row."""
    return x[:, :, :-1, :-1], x[:, :, :-1, 1:], x[:, :, 1:, :-1], x[:, :, 1:, 1:]


def place_of_maximum(like: Tensor) -> Tensor:
    """Which pixel of every 2×2 window is its largest, 0 to 3; the first of several."""
    first, second, third, fourth = corners(like)
    most = torch.maximum(torch.maximum(first, second), torch.maximum(third, fourth))
    place = torch.where(third == most, 2, 3)
    place = torch.where(second == most, 1, place)
    return torch.where(first == most, 0, place)


def put(x: Tensor, place: Tensor) -> Tensor:
    """Each pixel of x, which stands for a window, at its place in it; of several the last window's, row by row."""
    top = torch.zeros_like(pad(x, (0, 1, 0, 1)))
    for corner in (3, 2, 1, 0):  # of the windows that share a pixel, the first has it as its last corner
        i, j = divmod(corner, 2)
        around = (j, 1 - j, i, 1 - i)
        top = torch.where(pad(place, around, value=-1) == corner, pad(x, around), top)
    return top


class Unpool(torch.autograd.Function):
    """`put`, whose gradient is torch's own of max_unpool2d: every pixel takes that of its place, also where another
    has overwritten it."""

    @staticmethod
    def forward(context: Any, x: Tensor, place: Tensor) -> Tensor:
        """One row and one column more."""
        context.save_for_backward(place)
        return put(x, place)

    @staticmethod
    def backward(context: Any, *above: Tensor) -> tuple[Tensor, None]:
        """To each window from its place."""
        (place,) = context.saved_tensors
        first, second, third, below = corners(above[0])
        for corner, one in ((2, third), (1, second), (0, first)):
            below = torch.where(place == corner, one, below)
        return below, None


def max_unpool(x: Tensor, like: Tensor) -> Tensor:
    """`max_unpool2d(kernel_size=2, stride=1)` by the places of the maxima of `like`, in its size."""
    place = place_of_maximum(like.detach())
    return Unpool.apply(x, place) if x.requires_grad else put(x, place)


@register("segnet")
class SegNet(Network):
    """`SegNet`. Input `image` N×3×H×W, H and W at least 6; output `probability` (or `logits`) N×classes×H×W."""

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool) -> None:
        super().__init__()
        self.logits = logits
        c1, c2, c3, c4, c5 = widths
        inputs = in_channels
        for outputs, *names in (
            (c1, "11", "12"), (c2, "21", "22"), (c3, "31", "32", "33"), (c4, "41", "42", "43"), (c5, "51", "52", "53"),
            (c5, "53d", "52d"), (c4, "51d", "43d", "42d"), (c3, "41d", "33d", "32d"), (c2, "31d", "22d"),
            (c1, "21d", "12d"),
        ):  # fmt: skip
            for name in names:
                self.add_module(f"conv{name}", conv(inputs, outputs))
                self.add_module(f"bn{name}", nn.BatchNorm2d(outputs))
                inputs = outputs
        self.conv11d = conv(c1, num_classes)

    def run(self, x: Tensor, n: Notebook, *names: str) -> Tensor:
        """Convolution, BatchNorm and ReLU, one after the other."""
        for name in names:
            x = relu(self.get_submodule(f"bn{name}")(self.get_submodule(f"conv{name}")(x)))
            n[f"x{name}"] = x
        return x

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`probability` or `logits` of an image; with a notebook `n`, every blob in it."""
        n = Forget() if n is None else n
        self.check_size(image)
        n["image"] = image

        x12 = self.run(image, n, "11", "12")  # N×64×H×W
        x = n["x1p"] = max_pool(x12)
        x22 = self.run(x, n, "21", "22")  # N×128×(H−1)×(W−1)
        x = n["x2p"] = max_pool(x22)
        x33 = self.run(x, n, "31", "32", "33")  # N×256×(H−2)×(W−2)
        x = n["x3p"] = max_pool(x33)
        x43 = self.run(x, n, "41", "42", "43")  # N×512×(H−3)×(W−3)
        x = n["x4p"] = max_pool(x43)
        x53 = self.run(x, n, "51", "52", "53")  # N×512×(H−4)×(W−4)
        x = n["x5p"] = max_pool(x53)

        x = n["x5d"] = max_unpool(x, like=x53)
        x = self.run(x, n, "53d", "52d", "51d")
        x = n["x4d"] = max_unpool(x, like=x43)
        x = self.run(x, n, "43d", "42d", "41d")
        x = n["x3d"] = max_unpool(x, like=x33)
        x = self.run(x, n, "33d", "32d", "31d")
        x = n["x2d"] = max_unpool(x, like=x22)
        x = self.run(x, n, "22d", "21d")
        x = n["x1d"] = max_unpool(x, like=x12)
        x = self.run(x, n, "12d")
        return answer(self.conv11d(x), image, n, self.logits, pad=None)


# -------------------------------------------------------------------------------- channel-unet


class GAU(nn.Module):
    """Global Attention Upsample: ReLU(BN(transposed convolution of `high`) + BN(convolution of `low`) · ReLU(1×1 of the
    mean of `high`))."""

    def __init__(self, high: int, low: int) -> None:
        super().__init__()
        self.conv3x3, self.bn_low = conv(low, low, bias=False), nn.BatchNorm2d(low)
        self.conv1x1, self.bn_high = conv(high, low, kernel=1, pad=0, bias=False), nn.BatchNorm2d(low)
        self.conv_upsample = nn.ConvTranspose2d(high, low, 4, stride=2, padding=1, bias=False)
        self.bn_upsample = nn.BatchNorm2d(low)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """In the size of `low`. `bn_high` is never called."""
        mean = high.mean(dim=(2, 3), keepdim=True)
        mean = relu(self.conv1x1(mean))  # N×low×1×1
        attended = self.bn_low(self.conv3x3(low)) * mean
        return relu(self.bn_upsample(self.conv_upsample(high)) + attended)


@register("channel-unet")
class ChannelUNet(Network):
    """`myChannelUnet`. Input `image` N×3×H×W, H and W multiples of 16; output `probability` (or `logits`)
    N×classes×H×W."""

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

        self.up6, self.conv6 = deconv(c5, c4), DoubleConv(3 * c4, c4)
        self.up7, self.conv7 = deconv(c4, c3), DoubleConv(3 * c3, c3)
        self.up8, self.conv8 = deconv(c3, c2), DoubleConv(3 * c2, c2)
        self.up9, self.conv9 = deconv(c2, c1), DoubleConv(3 * c1, c1)
        self.conv10 = conv(c1, num_classes, kernel=1, pad=0)
        self.gau_1, self.gau_2, self.gau_3, self.gau_4 = GAU(c5, c4), GAU(c4, c3), GAU(c3, c2), GAU(c2, c1)

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`probability` or `logits` of an image; with a notebook `n`, every blob in it."""
        n = Forget() if n is None else n
        n["image"] = image
        x = fit(image, self, self.pad)

        c1 = n["c1"] = self.conv1(x)  # N×64×H×W
        x = n["p1"] = self.pool1(c1)
        c2 = n["c2"] = self.conv2(x)  # N×128×H/2×W/2
        x = n["p2"] = self.pool2(c2)
        c3 = n["c3"] = self.conv3(x)  # N×256×H/4×W/4
        x = n["p3"] = self.pool3(c3)
        c4 = n["c4"] = self.conv4(x)  # N×512×H/8×W/8
        x = n["p4"] = self.pool4(c4)
        c5 = n["c5"] = self.conv5(x)  # N×1024×H/16×W/16

        x = n["up_6"] = self.up6(c5)
        gau = n["gau1"] = self.gau_1(c5, c4)
        x = n["merge6"] = torch.cat([c4, x, gau], dim=1)
        x = n["c6"] = self.conv6(x)
        x = n["up_7"] = self.up7(x)
        gau = n["gau2"] = self.gau_2(gau, c3)  # of the block before, not of the decoder
        x = n["merge7"] = torch.cat([c3, x, gau], dim=1)
        x = n["c7"] = self.conv7(x)
        x = n["up_8"] = self.up8(x)
        gau = n["gau3"] = self.gau_3(gau, c2)
        x = n["merge8"] = torch.cat([c2, x, gau], dim=1)
        x = n["c8"] = self.conv8(x)
        x = n["up_9"] = self.up9(x)
        gau = n["gau4"] = self.gau_4(gau, c1)
        x = n["merge9"] = torch.cat([c1, x, gau], dim=1)
        x = n["c9"] = self.conv9(x)

        return answer(self.conv10(x), image, n, self.logits, self.pad)


# -------------------------------------------------------------------------------------- CE-Net


def dilated(channels: int, dilation: int) -> nn.Conv2d:
    """3×3, keeps the size."""
    return nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)


class DACBlock(nn.Module):
    """Dense atrous convolutions: the input and four branches of convolutions that they share, added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dilate1, self.dilate2, self.dilate3 = dilated(channels, 1), dilated(channels, 3), dilated(channels, 5)
        self.conv1x1 = conv(channels, channels, kernel=1, pad=0)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        one = self.dilate1(x)
        first = relu(one)
        second = relu(self.conv1x1(self.dilate2(x)))
        two = self.dilate2(one)
        third = relu(self.conv1x1(two))
        fourth = relu(self.conv1x1(self.dilate3(two)))
        return x + first + second + third + fourth


class SPPBlock(nn.Module):
    """Pyramid pooling: maxima of 2×2, 3×3, 5×5 and 6×6 windows, one channel each, in the size of the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, 1, kernel=1, pad=0)

    def level(self, x: Tensor, size: int) -> Tensor:
        """N×1×h×w."""
        pooled = self.conv(max_pool2d(x, size))
        return interpolate(pooled, size=x.shape[2:], mode="bilinear", align_corners=False)


@register("ce-net")
class CENet(Network):
    """`CE_Net_`. Input `image` N×3×H×W, H and W multiples of 32 from 192 on, or up to 3 less; output `probability` (or
    `logits`) N×classes×32k×32l."""

    def __init__(
        self, num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
    ) -> None:
        super().__init__()
        three_channels("ce-net", in_channels)
        self.logits, self.pad = logits, pad
        self.firstconv = conv(in_channels, 64, kernel=7, stride=2, pad=3, bias=False)
        self.firstbn = nn.BatchNorm2d(64)
        self.firstmaxpool = nn.MaxPool2d(3, stride=2, padding=1)  # pads with −∞
        self.encoder1 = encoder(64, 64, blocks=3, stride=1)
        self.encoder2 = encoder(64, 128, blocks=4)
        self.encoder3 = encoder(128, 256, blocks=6)
        self.encoder4 = encoder(256, 512, blocks=3)

        self.dblock = DACBlock(512)
        self.spp = SPPBlock(512)

        self.decoder4 = DecoderBlock(516, 256)
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

        x = n["dblock"] = self.dblock(x)
        layer1 = n["spp.layer1"] = self.spp.level(x, size=2)
        layer2 = n["spp.layer2"] = self.spp.level(x, size=3)
        layer3 = n["spp.layer3"] = self.spp.level(x, size=5)
        layer4 = n["spp.layer4"] = self.spp.level(x, size=6)
        x = n["spp"] = torch.cat([layer1, layer2, layer3, layer4, x], dim=1)  # N×516×H/32×W/32

        x = n["decoder4"] = self.decoder4(x)
        x = n["d4"] = x + e3
        x = n["d3"] = self.decoder3(x) + e2
        x = n["d2"] = self.decoder2(x) + e1
        x = n["d1"] = self.decoder1(x)  # N×64×H/2×W/2

        x = n["finalrelu1"] = relu(self.finaldeconv1(x))  # N×32×H×W
        x = n["finalrelu2"] = relu(self.finalconv2(x))
        return answer(self.finalconv3(x), image, n, self.logits, self.pad)


# -------------------------------------------------------------------------------- the two FCNs


VGG_FEATURES = ("0", "2"), ("5", "7"), ("10", "12", "14"), ("17", "19", "21"), ("24", "26", "28")


class FCN(Network):
    """What FCN8s and FCN32s have in common: VGG-16's convolutions, five transposed ones, a 1×1 convolution of `last`
    channels."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        widths: tuple[int, ...],
        logits: bool,
        pad: str | None = None,
        last: int | None = None,
    ) -> None:
        super().__init__()
        three_channels(self.architecture.name, in_channels)
        self.logits, self.pad = logits, pad
        c1, c2, c3, c4, c5 = widths
        self.pretrained_net = nn.Module()
        self.pretrained_net.features = nn.ModuleDict(
            {"0": conv(in_channels, c1), "2": conv(c1, c1)}
            | {"5": conv(c1, c2), "7": conv(c2, c2)}
            | {"10": conv(c2, c3), "12": conv(c3, c3), "14": conv(c3, c3)}
            | {"17": conv(c3, c4), "19": conv(c4, c4), "21": conv(c4, c4)}
            | {"24": conv(c4, c5), "26": conv(c5, c5), "28": conv(c5, c5)}
        )
        deepest = c4 if last is None else c5  # FCN32s starts from pool4, FCN8s from pool5
        self.deconv1, self.bn1 = self.larger(deepest, c4), nn.BatchNorm2d(c4)
        self.deconv2, self.bn2 = self.larger(c4, c3), nn.BatchNorm2d(c3)
        self.deconv3, self.bn3 = self.larger(c3, c2), nn.BatchNorm2d(c2)
        self.deconv4, self.bn4 = self.larger(c2, c1), nn.BatchNorm2d(c1)
        self.deconv5, self.bn5 = self.larger(c1, 32), nn.BatchNorm2d(32)
        self.classifier = conv(c1 if last is None else last, num_classes, kernel=1, pad=0)

    @staticmethod
    def larger(inputs: int, outputs: int) -> nn.ConvTranspose2d:
        """Twice the rows and columns."""
        return deconv(inputs, outputs, kernel=3, pad=1, output_pad=1)

    def features(self, x: Tensor, n: Notebook, stages: int) -> list[Tensor]:
        """Pooled maps x1 … of so many stages."""
        features: Any = self.pretrained_net.features
        found = []
        for number, modules in enumerate(VGG_FEATURES[:stages], start=1):
            for module in modules:
                x = relu(features[module](x))
            x = n[f"x{number}"] = max_pool2d(x, 2)
            found.append(x)
        return found


@register("fcn8s-unetzoo")
class FCN8sUNetZoo(FCN):
    """`FCN8s`. Input `image` N×3×H×W, H and W multiples of 32 or up to 7 more; output `probability` (or `logits`)
    N×classes×32k×32l."""

    def __init__(
        self, num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
    ) -> None:
        super().__init__(num_classes, in_channels, widths, logits, pad, last=32)

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`probability` or `logits` of an image; with a notebook `n`, every blob in it."""
        n = Forget() if n is None else n
        n["image"] = image
        x = fit(image, self, self.pad)
        _, _, x3, x4, x5 = self.features(x, n, stages=5)

        x = n["bn1"] = self.bn1(relu(self.deconv1(x5)) + x4)  # N×512×H/16×W/16
        x = n["bn2"] = self.bn2(relu(self.deconv2(x)) + x3)  # N×256×H/8×W/8
        x = n["bn3"] = self.bn3(relu(self.deconv3(x)))
        x = n["bn4"] = self.bn4(relu(self.deconv4(x)))
        x = n["bn5"] = self.bn5(relu(self.deconv5(x)))  # N×32×H×W
        return answer(self.classifier(x), image, n, self.logits, self.pad)


@register("fcn32s-unetzoo")
class FCN32sUNetZoo(FCN):
    """`FCN32s`. Input `image` N×3×H×W, H and W at least 32; output `probability` (or `logits`) N×classes×16k×16l, k =
    ⌊H/16⌋. `features.24`, `26`, `28`, `deconv5` and `bn5` have no part in it."""

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`probability` or `logits` of an image; with a notebook `n`, every blob in it."""
        n = Forget() if n is None else n
        n["image"] = image
        x = fit(image, self, self.pad)
        *_, x = self.features(x, n, stages=4)

        x = n["bn1"] = self.bn1(relu(self.deconv1(x)))  # N×512×H/8×W/8
        x = n["bn2"] = self.bn2(relu(self.deconv2(x)))
        x = n["bn3"] = self.bn3(relu(self.deconv3(x)))
        x = n["bn4"] = self.bn4(relu(self.deconv4(x)))  # N×64×H×W
        return answer(self.classifier(x), image, n, self.logits, self.pad)
