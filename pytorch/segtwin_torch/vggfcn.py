"""VGGFCN32, VGGFCN16 and VGGFCN8 in PyTorch: FCNs over torchvision's VGG-16, which resize their
scores with aligned corners at the end.

Layer for layer the torch classes of those names, after Long, Shelhamer and Darrell, "Fully
Convolutional Networks for Semantic Segmentation" (CVPR 2015); every parameter has its key in their
state_dict. Their twin is `segtwin_keras/vggfcn.py`.

Departures from the original: none in what is computed. Its `_maybe_pad` is a pad by one row and one
column and a crop, since 2·⌊n/2⌋ is n or n − 1. Blobs are named after its modules and variables,
where it has names for them; `pool3_fused` it calls `x`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from segtwin.architectures.vgg16 import CLASSIFIER_PIXELS, VGG16
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, pad, relu

from segtwin_torch.fcn import conv, crop, three_channels
from segtwin_torch.network import Forget, Network, Notebook, register


def pool(x: Tensor) -> Tensor:
    """2×2 maxima, stride 2. torch rounds sizes down: the last row or column may be left out."""
    return max_pool2d(x, 2)


def upscale(channels: int) -> nn.ConvTranspose2d:
    """Twice as large, by a deconvolution that is trained and starts at random."""
    return nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)


def fit(x: Tensor, like: Tensor) -> Tensor:
    """`_maybe_pad`: zeros below and to the right, up to the size of `like`, which is at most one
    row and one column larger."""
    return crop(pad(x, (0, 1, 0, 1)), like=like, offset=0)


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the size of `like`; the centres of the corner pixels stay where they are."""
    return interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)


class VGGFCN(Network):
    """What the three share: torchvision's vgg16 as a whole, its classifier once more as
    convolutions."""

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        three_channels("vggfcn", in_channels)
        c1, c2, c3, c4, c5, c6, c7 = widths
        self.vgg16 = nn.Module()
        self.vgg16.features = nn.ModuleDict(
            {"0": conv(in_channels, c1), "2": conv(c1, c1)}
            | {"5": conv(c1, c2), "7": conv(c2, c2)}
            | {"10": conv(c2, c3), "12": conv(c3, c3), "14": conv(c3, c3)}
            | {"17": conv(c3, c4), "19": conv(c4, c4), "21": conv(c4, c4)}
            | {"24": conv(c4, c5), "26": conv(c5, c5), "28": conv(c5, c5)}
        )
        self.vgg16.classifier = nn.ModuleDict(  # computes nothing, but is in the state_dict
            {"0": nn.Linear(c5 * CLASSIFIER_PIXELS, c6), "3": nn.Linear(c6, c7), "6": nn.Linear(c7, VGG16.num_classes)}
        )
        self.classifier = nn.ModuleDict(
            {
                "0": conv(c5, c6, kernel=7, pad=3),
                "3": conv(c6, c7, kernel=1, pad=0),
                "6": conv(c7, num_classes, kernel=1, pad=0),
            }
        )
        self.drop6, self.drop7 = nn.Dropout(dropout), nn.Dropout(dropout)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Whatever moves or converts the parameters leaves the two pairs sharing their storage, as
        they do in the original when it is made."""
        super()._apply(fn, recurse)
        self.share()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copies and pickles share them, too; torch copies every parameter by itself."""
        super().__setstate__(state)
        self.share()

    def share(self) -> None:
        """Make the weights of `vgg16.classifier` views of those of `classifier`."""
        linear: Any = self.vgg16.classifier
        convolution: Any = self.classifier
        for layer in ("0", "3"):
            own, owner = linear[layer].weight, convolution[layer].weight
            if own.data_ptr() != owner.data_ptr():
                own.data = owner.data.view(own.shape)

    def features(self, image: Tensor, n: Notebook) -> tuple[Tensor, Tensor, Tensor]:
        """pool3, pool4 and pool5 of an image N×3×H×W."""
        vgg16: Any = self.vgg16.features
        x = n["vgg16.features.0"] = relu(vgg16["0"](image))  # N×64×H×W
        x = n["vgg16.features.2"] = relu(vgg16["2"](x))
        x = n["pool1"] = pool(x)  # N×64×⌊H/2⌋×…

        x = n["vgg16.features.5"] = relu(vgg16["5"](x))
        x = n["vgg16.features.7"] = relu(vgg16["7"](x))
        x = n["pool2"] = pool(x)  # N×128×⌊H/4⌋×…

        x = n["vgg16.features.10"] = relu(vgg16["10"](x))
        x = n["vgg16.features.12"] = relu(vgg16["12"](x))
        x = n["vgg16.features.14"] = relu(vgg16["14"](x))
        pool3 = x = n["pool3"] = pool(x)  # N×256×⌊H/8⌋×…

        x = n["vgg16.features.17"] = relu(vgg16["17"](x))
        x = n["vgg16.features.19"] = relu(vgg16["19"](x))
        x = n["vgg16.features.21"] = relu(vgg16["21"](x))
        pool4 = x = n["pool4"] = pool(x)  # N×512×⌊H/16⌋×…

        x = n["vgg16.features.24"] = relu(vgg16["24"](x))
        x = n["vgg16.features.26"] = relu(vgg16["26"](x))
        x = n["vgg16.features.28"] = relu(vgg16["28"](x))
        pool5 = n["pool5"] = pool(x)  # N×512×⌊H/32⌋×…
        return pool3, pool4, pool5

    def classify(self, pool5: Tensor, n: Notebook) -> Tensor:
        """The scores of pool5, in its size."""
        classifier: Any = self.classifier
        x = n["classifier.0"] = self.drop6(relu(classifier["0"](pool5)))
        x = n["classifier.3"] = self.drop7(relu(classifier["3"](x)))
        x = n["classifier.6"] = classifier["6"](x)
        return x


@register("vggfcn32")
class VGGFCN32(VGGFCN):
    """vggfcn32. Input N×3×H×W as torchvision's VGG-16 takes it, 32×32 and larger; output `scores`
    N×classes×H×W."""

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`scores`. With a dict as the notebook `n`, every blob on the way is left in it."""
        n = Forget() if n is None else n
        self.check_size(image)
        n["image"] = image
        _, _, pool5 = self.features(image, n)
        x = self.classify(pool5, n)

        x = n["scores"] = resize(x, like=image)  # N×classes×H×W
        return x


@register("vggfcn16")
class VGGFCN16(VGGFCN):
    """vggfcn16. Input N×3×H×W as torchvision's VGG-16 takes it, with ⌊H/16⌋ and ⌊W/16⌋ even; output
    `scores` N×classes×H×W."""

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> None:
        super().__init__(num_classes, in_channels, widths, dropout)
        _, _, _, c4, *_ = widths
        self.score4 = conv(c4, num_classes, kernel=1, pad=0)
        self.upscale5 = upscale(num_classes)

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`scores`. With a dict as the notebook `n`, every blob on the way is left in it."""
        n = Forget() if n is None else n
        self.check_size(image)
        n["image"] = image
        _, pool4, pool5 = self.features(image, n)
        x = self.classify(pool5, n)

        x = n["upscale5"] = self.upscale5(x)
        skip = n["score4"] = self.score4(pool4)
        x = n["pool4_fused"] = skip + x

        x = n["scores"] = resize(x, like=image)  # N×classes×H×W
        return x


@register("vggfcn8")
class VGGFCN8(VGGFCN):
    """vggfcn8. Input N×3×H×W as torchvision's VGG-16 takes it, 32×32 and larger; output `scores`
    N×classes×H×W."""

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> None:
        super().__init__(num_classes, in_channels, widths, dropout)
        _, _, c3, c4, *_ = widths
        self.upscale4 = upscale(num_classes)
        self.score4 = conv(c4, num_classes, kernel=1, pad=0)
        self.score3 = conv(c3, num_classes, kernel=1, pad=0)
        self.upscale5 = upscale(num_classes)

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`scores`. With a dict as the notebook `n`, every blob on the way is left in it."""
        n = Forget() if n is None else n
        self.check_size(image)
        n["image"] = image
        pool3, pool4, pool5 = self.features(image, n)
        x = self.classify(pool5, n)

        x = n["upscale5"] = self.upscale5(x)
        x = n["pool5_upscaled"] = fit(x, like=pool4)
        skip = n["score4"] = self.score4(pool4)
        x = n["pool4_fused"] = skip + x

        x = n["upscale4"] = self.upscale4(x)
        x = n["pool4_upscaled"] = fit(x, like=pool3)
        skip = n["score3"] = self.score3(pool3)
        x = n["pool3_fused"] = skip + x

        x = n["scores"] = resize(x, like=image)  # N×classes×H×W
        return x
