"""VGGFCN32, VGGFCN16 and VGGFCN8 in Keras: FCNs over torchvision's VGG-16, which resize their
scores with aligned corners at the end.

Layer for layer the torch classes of those names, after Long, Shelhamer and Darrell, "Fully
Convolutional Networks for Semantic Segmentation" (CVPR 2015); every layer has its key in their
state_dict. Their twin is `segtwin_torch/vggfcn.py`.

Departures from the original: none in what is computed. Its `_maybe_pad` is a pad by one row and one
column and a crop, since 2·⌊n/2⌋ is n or n − 1. Blobs are named after its modules and variables,
where it has names for them; `pool3_fused` it calls `x`. They are N×H×W×C.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import KerasTensor, layers, ops
from segtwin.architectures.vgg16 import VGG16

import tensorflow as tf
from segtwin_keras.fcn import conv, crop, three_channels
from segtwin_keras.layers import Conv2DTranspose
from segtwin_keras.network import Network, check_size, register


def pool(x: KerasTensor, name: str) -> KerasTensor:
    """2×2 maxima, stride 2. torch rounds sizes down: the last row or column may be left out."""
    return layers.MaxPooling2D(2, name=name)(x)


def upscale(x: KerasTensor, name: str) -> KerasTensor:
    """Twice as large, by a deconvolution that is trained and starts at random."""
    return Conv2DTranspose(x.shape[-1], 2, 2, kernel_initializer="zeros", name=name)(x)


def fit(x: KerasTensor, name: str, like: KerasTensor) -> KerasTensor:
    """`_maybe_pad`: zeros below and to the right, up to the size of `like`, which is at most one
    row and one column larger."""
    return crop(layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad")(x), name, like=like, offset=0)


@keras.saving.register_keras_serializable("segtwin")
class Resize(layers.Layer):
    """Bilinear, to the size of `like`; the centres of the corner pixels stay where they are. Keras'
    own resizing aligns the image's edges."""

    def call(self, x: KerasTensor, like: KerasTensor) -> KerasTensor:
        """N×H×W×C, H and W those of `like`."""
        size = ops.shape(like)[1:3]
        if x.dtype != "float64":
            return tf.raw_ops.ResizeBilinear(images=x, size=size, align_corners=True)
        # that kernel returns float32
        return tf.einsum("Hh,nhwc,Ww->nHWc", shares(ops.shape(x)[1], size[0]), x, shares(ops.shape(x)[2], size[1]))

    def compute_output_shape(
        self, x_shape: tuple[int | None, ...], like_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """N×H×W×C."""
        return (*like_shape[:3], x_shape[3])


def shares(have: int, want: int) -> KerasTensor:
    """want × have: how much of each old pixel is in each new one, 1 at the same place, falling to 0
    at a distance of one old pixel; float64."""
    scale = tf.cast(have - 1, "float64") / tf.cast(tf.maximum(want - 1, 1), "float64")
    distance = scale * tf.range(tf.cast(want, "float64"), dtype="float64")[:, None] - tf.range(
        tf.cast(have, "float64"), dtype="float64"
    )
    return tf.nn.relu(1 - tf.abs(distance))


def resize(x: KerasTensor, name: str, like: KerasTensor) -> KerasTensor:
    """A `Resize` layer."""
    return Resize(name=name)(x, like)


@keras.saving.register_keras_serializable("segtwin")
class Carried(layers.Layer):
    """The part of `vgg16.classifier` that no convolution shares: it computes nothing, but is in the
    state_dict. Passes its input on."""

    def __init__(self, c6: int, c7: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.c6, self.c7 = c6, c7

    def build(self, shape: tuple[int | None, ...]) -> None:
        """In torch's layouts."""
        shapes = {
            "0.bias": (self.c6,),
            "3.bias": (self.c7,),
            "6.weight": (VGG16.num_classes, self.c7),
            "6.bias": (VGG16.num_classes,),
        }
        self.carried = {
            name: self.add_weight(shape=shape, initializer="zeros", trainable=False, name=name)
            for name, shape in shapes.items()
        }

    def call(self, x: KerasTensor) -> KerasTensor:
        """`x` itself."""
        return x

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        return {**super().get_config(), "c6": self.c6, "c7": self.c7}


def features(image: KerasTensor, widths: tuple[int, ...]) -> tuple[KerasTensor, KerasTensor, KerasTensor]:
    """pool3, pool4 and pool5 of an image N×H×W×3."""
    c1, c2, c3, c4, c5, _, _ = widths
    x = conv(image, c1, "vgg16.features.0")  # N×H×W×64
    x = conv(x, c1, "vgg16.features.2")
    x = pool(x, "pool1")  # N×⌊H/2⌋×…×64

    x = conv(x, c2, "vgg16.features.5")
    x = conv(x, c2, "vgg16.features.7")
    x = pool(x, "pool2")  # N×⌊H/4⌋×…×128

    x = conv(x, c3, "vgg16.features.10")
    x = conv(x, c3, "vgg16.features.12")
    x = conv(x, c3, "vgg16.features.14")
    pool3 = x = pool(x, "pool3")  # N×⌊H/8⌋×…×256

    x = conv(x, c4, "vgg16.features.17")
    x = conv(x, c4, "vgg16.features.19")
    x = conv(x, c4, "vgg16.features.21")
    pool4 = x = pool(x, "pool4")  # N×⌊H/16⌋×…×512

    x = conv(x, c5, "vgg16.features.24")
    x = conv(x, c5, "vgg16.features.26")
    x = conv(x, c5, "vgg16.features.28")
    pool5 = pool(x, "pool5")  # N×⌊H/32⌋×…×512
    return pool3, pool4, pool5


def classify(pool5: KerasTensor, num_classes: int, widths: tuple[int, ...], dropout: float) -> KerasTensor:
    """The scores of pool5, in its size."""
    *_, c6, c7 = widths
    x = Carried(c6, c7, name="vgg16.classifier")(pool5)
    x = layers.Dropout(dropout, name="drop6")(conv(x, c6, "classifier.0", kernel=7, pad=3))
    x = layers.Dropout(dropout, name="drop7")(conv(x, c7, "classifier.3", kernel=1, pad=0))
    return conv(x, num_classes, "classifier.6", kernel=1, pad=0, activation=None)


@register("vggfcn32")
def vggfcn32(num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> Network:
    """vggfcn32. Input N×H×W×3 as torchvision's VGG-16 takes it, 32×32 and larger; output `scores`
    N×H×W×classes."""
    three_channels("vggfcn", in_channels)
    image = keras.Input((None, None, in_channels), dtype=keras.config.dtype_policy().compute_dtype, name="image")
    _, _, pool5 = features(check_size("vggfcn32", image), widths)
    x = classify(pool5, num_classes, widths, dropout)

    x = resize(x, "scores", like=image)  # N×H×W×classes
    return Network(image, x, name="vggfcn32")


@register("vggfcn16")
def vggfcn16(num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> Network:
    """vggfcn16. Input N×H×W×3 as torchvision's VGG-16 takes it, with ⌊H/16⌋ and ⌊W/16⌋ even; output
    `scores` N×H×W×classes."""
    three_channels("vggfcn", in_channels)
    image = keras.Input((None, None, in_channels), dtype=keras.config.dtype_policy().compute_dtype, name="image")
    _, pool4, pool5 = features(check_size("vggfcn16", image), widths)
    x = classify(pool5, num_classes, widths, dropout)

    x = upscale(x, "upscale5")
    skip = conv(pool4, num_classes, "score4", kernel=1, pad=0, activation=None)
    x = layers.Add(name="pool4_fused")([skip, x])

    x = resize(x, "scores", like=image)  # N×H×W×classes
    return Network(image, x, name="vggfcn16")


@register("vggfcn8")
def vggfcn8(num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> Network:
    """vggfcn8. Input N×H×W×3 as torchvision's VGG-16 takes it, 32×32 and larger; output `scores`
    N×H×W×classes."""
    three_channels("vggfcn", in_channels)
    image = keras.Input((None, None, in_channels), dtype=keras.config.dtype_policy().compute_dtype, name="image")
    pool3, pool4, pool5 = features(check_size("vggfcn8", image), widths)
    x = classify(pool5, num_classes, widths, dropout)

    x = upscale(x, "upscale5")
    x = fit(x, "pool5_upscaled", like=pool4)
    skip = conv(pool4, num_classes, "score4", kernel=1, pad=0, activation=None)
    x = layers.Add(name="pool4_fused")([skip, x])

    x = upscale(x, "upscale4")
    x = fit(x, "pool4_upscaled", like=pool3)
    skip = conv(pool3, num_classes, "score3", kernel=1, pad=0, activation=None)
    x = layers.Add(name="pool3_fused")([skip, x])

    x = resize(x, "scores", like=image)  # N×H×W×classes
    return Network(image, x, name="vggfcn8")
