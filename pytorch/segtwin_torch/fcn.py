"""The FCNs in PyTorch: VGG-16 as a fully convolutional network, its coarse scores alone (32s) or
fused with those of pool4 (16s) and pool3 (8s).

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation" (CVPR 2015,
arXiv:1411.4038; PAMI 2016, arXiv:1605.06211). Layer for layer
`voc-fcn{32s,16s,8s,8s-atonce}/net.py` of shelhamer/fcn.berkeleyvision.org at
1305c7378a9f0ab44b2c936f4d60e4687e3d8743; every blob has its name there. The four share `features`
and differ in their heads. Its twin is `segtwin_keras/fcn.py`.

Departures from the original: none in what is computed. What blocks 1 to 3 would compute of padding alone
is computed once in inference, and repeated (`segtwin.geometry.dead_zones`). The data and loss layers are
not part of the model.
"""

from __future__ import annotations

import torch
from segtwin.geometry import DeadZones
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, relu

from segtwin_torch.network import Forget, Network, Notebook, register


def conv(inputs: int, outputs: int, kernel: int = 3, pad: int = 1) -> nn.Conv2d:
    """A convolution of stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, padding=pad)


def pool(x: Tensor) -> Tensor:
    """2×2 maxima, stride 2. Caffe rounds sizes up: the last window may hang over the edge."""
    return max_pool2d(x, 2, ceil_mode=True)


def on_canvas(conv: nn.Conv2d, data: Tensor, zones: DeadZones | None) -> Tensor:
    """The first convolution; padded by less where zones are left out."""
    return conv(data) if zones is None else conv2d(data, conv.weight, conv.bias, padding=zones.pad)


def whole(x: Tensor, zones: DeadZones | None, name: str) -> Tensor:
    """A pooling's top with the rows, and then the columns, repeated that were left out before it."""
    if zones is None:
        return x
    row, times = zones.repeats[name]
    for axis in (2, 3):
        inner = x.shape[axis] - 2 * row
        before, between, after = x.split((row, inner, row), axis)
        first, last = between.narrow(axis, 0, 1), between.narrow(axis, inner - 1, 1)
        x = torch.cat([before, *[first] * times, between, *[last] * times, after], axis)
    return x


def upscore(channels: int, kernel: int, stride: int) -> nn.ConvTranspose2d:
    """Bilinear upsampling by `stride` as a deconvolution that is not trained, with Caffe's full
    weights: a diagonal of kernels."""
    return nn.ConvTranspose2d(channels, channels, kernel, stride, bias=False).requires_grad_(False)


def crop(x: Tensor, like: Tensor, offset: int) -> Tensor:
    """`x` from row and column `offset` on, in the size of `like`. The offsets are those of
    `geometry.crop_offsets`, and tested to be."""
    height, width = like.shape[2:]
    return x[:, :, offset : offset + height, offset : offset + width]


def three_channels(name: str, in_channels: int) -> None:
    """Refuse another number: the original names them R, G and B."""
    if in_channels != 3:
        raise ValueError(f"{name} takes images of 3 channels (R, G, B), not {in_channels}")


class Scale(nn.Module):
    """Every channel times its own number, which is not trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """In the shape of `x`."""
        return x * self.weight[:, None, None]


class Features(Network):
    """What the FCNs share: VGG-16, its classifier turned into convolutions. `pad` is that of
    conv1_1, `pad6` that of fc6."""

    def __init__(
        self, in_channels: int, widths: tuple[int, ...], dropout: float, pad: int = 100, pad6: int = 0
    ) -> None:
        super().__init__()
        c1, c2, c3, c4, c5, c6, c7 = widths
        self.conv1_1, self.conv1_2 = conv(in_channels, c1, pad=pad), conv(c1, c1)
        self.conv2_1, self.conv2_2 = conv(c1, c2), conv(c2, c2)
        self.conv3_1, self.conv3_2, self.conv3_3 = conv(c2, c3), conv(c3, c3), conv(c3, c3)
        self.conv4_1, self.conv4_2, self.conv4_3 = conv(c3, c4), conv(c4, c4), conv(c4, c4)
        self.conv5_1, self.conv5_2, self.conv5_3 = conv(c4, c5), conv(c5, c5), conv(c5, c5)
        self.fc6, self.fc7 = conv(c5, c6, kernel=7, pad=pad6), conv(c6, c7, kernel=1, pad=0)
        # of elements, as Caffe's; not of whole channels
        self.drop6, self.drop7 = nn.Dropout(dropout), nn.Dropout(dropout)

    def features(self, data: Tensor, n: Notebook) -> tuple[Tensor, Tensor, Tensor]:
        """pool3, pool4 and fc7 of an image N×C×H×W."""
        # 100 pixels of padding: even a 1×1 image reaches fc6, whose 7×7 window needs a pool5 of 7×7
        zones = self.left_out(n)
        x = n["conv1_1"] = relu(on_canvas(self.conv1_1, data, zones))  # N×64×(H+198)×(W+198)
        x = n["conv1_2"] = relu(self.conv1_2(x))
        x = n["pool1"] = whole(pool(x), zones, "pool1")  # N×64×⌈(H+198)/2⌉×…

        x = n["conv2_1"] = relu(self.conv2_1(x))
        x = n["conv2_2"] = relu(self.conv2_2(x))
        x = n["pool2"] = whole(pool(x), zones, "pool2")  # N×128×⌈(H+198)/4⌉×…

        x = n["conv3_1"] = relu(self.conv3_1(x))
        x = n["conv3_2"] = relu(self.conv3_2(x))
        x = n["conv3_3"] = relu(self.conv3_3(x))
        pool3 = x = n["pool3"] = whole(pool(x), zones, "pool3")  # N×256×⌈(H+198)/8⌉×…

        x = n["conv4_1"] = relu(self.conv4_1(x))
        x = n["conv4_2"] = relu(self.conv4_2(x))
        x = n["conv4_3"] = relu(self.conv4_3(x))
        pool4 = x = n["pool4"] = pool(x)  # N×512×⌈(H+198)/16⌉×…

        x = n["conv5_1"] = relu(self.conv5_1(x))
        x = n["conv5_2"] = relu(self.conv5_2(x))
        x = n["conv5_3"] = relu(self.conv5_3(x))
        x = n["pool5"] = pool(x)  # N×512×h×w, h = ⌈(H+198)/32⌉

        x = n["fc6"] = self.drop6(relu(self.fc6(x)))  # N×4096×(h−6)×(w−6)
        fc7 = n["fc7"] = self.drop7(relu(self.fc7(x)))
        return pool3, pool4, fc7


@register("fcn32s")
class FCN32s(Features):
    """voc-fcn32s. Input N×3×H×W, BGR minus the mean; output `score` N×classes×H×W; any size from
    1×1 up."""

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> None:
        super().__init__(in_channels, widths, dropout)
        *_, c7 = widths
        self.score_fr = conv(c7, num_classes, kernel=1, pad=0)
        self.upscore = upscore(num_classes, kernel=64, stride=32)

    def forward(self, data: Tensor, n: Notebook | None = None) -> Tensor:
        """`score`. With a dict as the notebook `n`, every blob on the way is left in it under its
        Caffe name."""
        n = Forget() if n is None else n
        n["data"] = data
        _, _, fc7 = self.features(data, n)

        x = n["score_fr"] = self.score_fr(fc7)
        x = n["upscore"] = self.upscore(x)

        x = n["score"] = crop(x, like=data, offset=19)  # N×classes×H×W
        return x


@register("fcn16s")
class FCN16s(Features):
    """voc-fcn16s. Input N×3×H×W, BGR minus the mean; output `score` N×classes×H×W; any size from
    1×1 up."""

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> None:
        super().__init__(in_channels, widths, dropout)
        _, _, _, c4, _, _, c7 = widths
        self.score_fr = conv(c7, num_classes, kernel=1, pad=0)
        self.upscore2 = upscore(num_classes, kernel=4, stride=2)
        self.score_pool4 = conv(c4, num_classes, kernel=1, pad=0)
        self.upscore16 = upscore(num_classes, kernel=32, stride=16)

    def forward(self, data: Tensor, n: Notebook | None = None) -> Tensor:
        """`score`. With a dict as the notebook `n`, every blob on the way is left in it under its
        Caffe name."""
        n = Forget() if n is None else n
        n["data"] = data
        _, pool4, fc7 = self.features(data, n)

        x = n["score_fr"] = self.score_fr(fc7)
        x = n["upscore2"] = self.upscore2(x)

        skip = n["score_pool4"] = self.score_pool4(pool4)
        skip = n["score_pool4c"] = crop(skip, like=x, offset=5)
        x = n["fuse_pool4"] = x + skip
        x = n["upscore16"] = self.upscore16(x)

        x = n["score"] = crop(x, like=data, offset=27)  # N×classes×H×W
        return x


@register("fcn8s")
class FCN8s(Features):
    """voc-fcn8s. Input N×3×H×W, BGR minus the mean; output `score` N×classes×H×W; any size from 1×1
    up."""

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> None:
        super().__init__(in_channels, widths, dropout)
        _, _, c3, c4, _, _, c7 = widths
        self.score_fr = conv(c7, num_classes, kernel=1, pad=0)
        self.upscore2 = upscore(num_classes, kernel=4, stride=2)
        self.score_pool4 = conv(c4, num_classes, kernel=1, pad=0)
        self.upscore_pool4 = upscore(num_classes, kernel=4, stride=2)
        self.score_pool3 = conv(c3, num_classes, kernel=1, pad=0)
        self.upscore8 = upscore(num_classes, kernel=16, stride=8)

    def forward(self, data: Tensor, n: Notebook | None = None) -> Tensor:
        """`score`. With a dict as the notebook `n`, every blob on the way is left in it under its
        Caffe name."""
        n = Forget() if n is None else n
        n["data"] = data
        pool3, pool4, fc7 = self.features(data, n)

        x = n["score_fr"] = self.score_fr(fc7)
        x = n["upscore2"] = self.upscore2(x)

        skip = n["score_pool4"] = self.score_pool4(pool4)
        skip = n["score_pool4c"] = crop(skip, like=x, offset=5)
        x = n["fuse_pool4"] = x + skip
        x = n["upscore_pool4"] = self.upscore_pool4(x)

        skip = n["score_pool3"] = self.score_pool3(pool3)
        skip = n["score_pool3c"] = crop(skip, like=x, offset=9)
        x = n["fuse_pool3"] = x + skip
        x = n["upscore8"] = self.upscore8(x)

        x = n["score"] = crop(x, like=data, offset=31)  # N×classes×H×W
        return x


@register("fcn8s-atonce")
class FCN8sAtOnce(Features):
    """voc-fcn8s-atonce: one stage, skips scaled down. Input N×3×H×W, BGR minus the mean; output
    `score` N×classes×H×W; any size from 1×1 up."""

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> None:
        super().__init__(in_channels, widths, dropout)
        _, _, c3, c4, _, _, c7 = widths
        self.score_fr = conv(c7, num_classes, kernel=1, pad=0)
        self.upscore2 = upscore(num_classes, kernel=4, stride=2)
        self.scale_pool4 = Scale(c4)
        self.score_pool4 = conv(c4, num_classes, kernel=1, pad=0)
        self.upscore_pool4 = upscore(num_classes, kernel=4, stride=2)
        self.scale_pool3 = Scale(c3)
        self.score_pool3 = conv(c3, num_classes, kernel=1, pad=0)
        self.upscore8 = upscore(num_classes, kernel=16, stride=8)

    def forward(self, data: Tensor, n: Notebook | None = None) -> Tensor:
        """`score`. With a dict as the notebook `n`, every blob on the way is left in it under its
        Caffe name."""
        n = Forget() if n is None else n
        n["data"] = data
        pool3, pool4, fc7 = self.features(data, n)

        x = n["score_fr"] = self.score_fr(fc7)
        x = n["upscore2"] = self.upscore2(x)

        skip = n["scale_pool4"] = self.scale_pool4(pool4)  # × 0.01
        skip = n["score_pool4"] = self.score_pool4(skip)
        skip = n["score_pool4c"] = crop(skip, like=x, offset=5)
        x = n["fuse_pool4"] = x + skip
        x = n["upscore_pool4"] = self.upscore_pool4(x)

        skip = n["scale_pool3"] = self.scale_pool3(pool3)  # × 0.0001
        skip = n["score_pool3"] = self.score_pool3(skip)
        skip = n["score_pool3c"] = crop(skip, like=x, offset=9)
        x = n["fuse_pool3"] = x + skip
        x = n["upscore8"] = self.upscore8(x)

        x = n["score"] = crop(x, like=data, offset=31)  # N×classes×H×W
        return x
