"""FCN8VGG of tensorflow-fcn in PyTorch: an FCN-8s without the padding of 100 pixels, whose
upsampling is trained.

Layer for layer `fcn8_vgg.py` of MarvinTeichmann/tensorflow-fcn (class FCN8VGG, TensorFlow 1), after
Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation" (CVPR 2015).
Its twin is `segtwin_keras/fcn8_vgg.py`.

Departures from the original: none in what is computed. `pred` and `pred_up` are N×1×H×W, as all
blobs here have four axes. With `use_dilated` the blobs between are where the original has them, and
fc7, a 1×1 convolution, runs after its phases are back in place, not before: the same numbers.
"""

from __future__ import annotations

import torch
from segtwin.architectures.vgg16 import VGG_MEAN
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad, relu

from segtwin_torch.fcn import Features, conv, pool, three_channels
from segtwin_torch.network import Forget, Notebook, register, unwrap
from segtwin_torch.weights import table

WEIGHT_DECAY = 5e-4
"""`self.wd`, of every term."""


def bgr_minus_mean(image: Tensor) -> Tensor:
    """RGB 0..255 as the VGG-16 takes it."""
    red, green, blue = image.split(1, dim=1)
    return torch.cat([blue - VGG_MEAN[0], green - VGG_MEAN[1], red - VGG_MEAN[2]], dim=1)


def upscore(channels: int, kernel: int, stride: int) -> nn.ConvTranspose2d:
    """Upsampling by `stride` as a deconvolution that starts bilinear and is trained, with full
    weights."""
    return nn.ConvTranspose2d(channels, channels, kernel, stride, bias=False)


def same(x: Tensor, like: Tensor) -> Tensor:
    """What TensorFlow's SAME leaves of a whole deconvolution `x` for a size that was asked for,
    here that of `like`.

    A transposed convolution is the gradient of a convolution; that one would pad the asked-for size
    by (n − 1)·s + k − size pixels, the smaller half first, and (n − 1)·s + k is what `x` has. So
    the first row and column depend on the size.
    """
    rows, columns = like.shape[2:]
    top, left = (x.shape[2] - rows) // 2, (x.shape[3] - columns) // 2
    return x[:, :, top : top + rows, left : left + columns]


def predict(x: Tensor) -> Tensor:
    """The class of the highest score, N×1×h×w; the first of equals."""
    return x.argmax(dim=1, keepdim=True)


@register("fcn8-vgg")
class FCN8VGG(Features):
    """fcn8-vgg. Input N×3×H×W, RGB 0..255; output `upscore32` N×classes×H×W; any size from 1×1 up."""

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> None:
        three_channels("fcn8-vgg", in_channels)
        super().__init__(in_channels, widths, dropout, pad=1, pad6=3)  # SAME
        _, _, c3, c4, _, _, c7 = widths
        self.score_fr = conv(c7, num_classes, kernel=1, pad=0)
        self.upscore2 = upscore(num_classes, kernel=4, stride=2)
        self.score_pool4 = conv(c4, num_classes, kernel=1, pad=0)
        self.upscore4 = upscore(num_classes, kernel=4, stride=2)
        self.score_pool3 = conv(c3, num_classes, kernel=1, pad=0)
        self.upscore32 = upscore(num_classes, kernel=16, stride=8)

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`upscore32`. With a dict as the notebook `n`, every blob on the way is left in it under
        the original's name."""
        n = Forget() if n is None else n
        n["image"] = image
        bgr = n["bgr"] = bgr_minus_mean(image)
        pool3, pool4, fc7 = self.features(bgr, n)  # ⌈H/8⌉, ⌈H/16⌉, ⌈H/32⌉

        x = n["score_fr"] = self.score_fr(fc7)
        n["pred"] = predict(x)
        x = n["upscore2"] = same(self.upscore2(x), like=pool4)

        skip = n["score_pool4"] = self.score_pool4(pool4)
        x = n["fuse_pool4"] = x + skip
        x = n["upscore4"] = same(self.upscore4(x), like=pool3)

        skip = n["score_pool3"] = self.score_pool3(pool3)
        x = n["fuse_pool3"] = x + skip
        x = n["upscore32"] = same(self.upscore32(x), like=bgr)  # N×classes×H×W

        n["pred_up"] = predict(x)
        return x


def dense_pool(x: Tensor) -> Tensor:
    """2×2 maxima of stride 1, SAME: the last window hangs over the edge."""
    return max_pool2d(pad(x, (0, 1, 0, 1), value=-torch.inf), 2, stride=1)


def space_to_batch(x: Tensor) -> Tensor:
    """The four phases of 2×2 blocks, one batch after the other: 4N×C×h/2×w/2."""
    return torch.cat([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)])


def batch_to_space(x: Tensor) -> Tensor:
    """The way back of `space_to_batch`."""
    phases = x.unflatten(0, (4, -1)).movedim(0, 2).flatten(1, 2)  # N×4C×h×w, the phases of a channel side by side
    return torch.pixel_shuffle(phases, 2)


@register("fcn8-vgg-dilated")
class DilatedFCN8VGG(Features):
    """fcn8-vgg with use_dilated: pool4 and pool5 keep the resolution of pool3, on which fc6 and fc7
    run in 16 interleaved phases.

    Input N×3×H×W, RGB 0..255, with ⌈H/8⌉ and ⌈W/8⌉ divisible by 4; output `fc7` N×4096×⌈H/8⌉×⌈W/8⌉:
    the original ends before the score layers.
    """

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> None:
        three_channels("fcn8-vgg", in_channels)
        super().__init__(in_channels, widths, dropout, pad=1, pad6=3)

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`fc7`. With a dict as the notebook `n`, every blob on the way is left in it under the
        original's name."""
        n = Forget() if n is None else n
        self.check_size(image)
        n["image"] = image
        x = n["bgr"] = bgr_minus_mean(image)

        x = n["conv1_1"] = relu(self.conv1_1(x))
        x = n["conv1_2"] = relu(self.conv1_2(x))
        x = n["pool1"] = pool(x)

        x = n["conv2_1"] = relu(self.conv2_1(x))
        x = n["conv2_2"] = relu(self.conv2_2(x))
        x = n["pool2"] = pool(x)

        x = n["conv3_1"] = relu(self.conv3_1(x))
        x = n["conv3_2"] = relu(self.conv3_2(x))
        x = n["conv3_3"] = relu(self.conv3_3(x))
        x = n["pool3"] = pool(x)  # N×256×h×w, h = ⌈H/8⌉

        x = n["conv4_1"] = relu(self.conv4_1(x))
        x = n["conv4_2"] = relu(self.conv4_2(x))
        x = n["conv4_3"] = relu(self.conv4_3(x))
        x = n["pool4_dense"] = dense_pool(x)
        x = n["pool4"] = space_to_batch(x)  # 4N×512×h/2×w/2

        x = n["conv5_1"] = relu(self.conv5_1(x))
        x = n["conv5_2"] = relu(self.conv5_2(x))
        x = n["conv5_3"] = relu(self.conv5_3(x))
        x = n["pool5_dense"] = dense_pool(x)
        n["pool5"] = batch_to_space(x)  # N×512×h×w
        x = n["pool5_phases"] = space_to_batch(x)  # 16N×512×h/4×w/4

        x = n["fc6"] = self.drop6(relu(self.fc6(x)))  # 16N×4096×h/4×w/4
        x = n["fc6_4"] = batch_to_space(x)
        x = n["fc6_1"] = batch_to_space(x)
        x = n["fc7"] = self.drop7(relu(self.fc7(x)))  # N×4096×h×w
        return x


def regularization_terms(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """The terms that the original adds to two collections, for a training to sum and add to its
    loss.

    Args:
        model: fcn8-vgg, made by `build` with any of its options.

    Returns:
        "regularization_losses" (the 3×3 convolutions and the score layers that start at random) and
        "fc_wlosses" (fc6, fc7, the averaged score_fr and the upsampling), each with the original's
        names (`conv1_1/weight_loss`) → 5e-4 · Σw²/2, a number to differentiate. Biases have none.
    """
    terms: dict[str, dict[str, Tensor]] = {"regularization_losses": {}, "fc_wlosses": {}}
    network = unwrap(model)
    slots = dict(network.named_parameters())
    drawn = [layer.name for layer in network.architecture.layers if layer.name.startswith("score") and layer.fill]
    for name in table(network):
        layer, kind = name.split("/")
        collection = "regularization_losses" if layer.startswith("conv") or layer in drawn else "fc_wlosses"
        if kind == "weight":
            weight = slots[f"{layer}.weight"]
            terms[collection][f"{layer}/weight_loss"] = WEIGHT_DECAY * (weight**2).sum() / 2
    return terms
