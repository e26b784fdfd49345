"""The FCNs in Keras: VGG-16 as a fully convolutional network, its coarse scores alone (32s) or
fused with those of pool4 (16s) and pool3 (8s).

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation" (CVPR 2015,
arXiv:1411.4038; PAMI 2016, arXiv:1605.06211). Layer for layer
`voc-fcn{32s,16s,8s,8s-atonce}/net.py` of shelhamer/fcn.berkeleyvision.org at
1305c7378a9f0ab44b2c936f4d60e4687e3d8743; every blob has its name there. The four share `features`
and differ in their heads. Its twin is `segtwin_torch/fcn.py`.

Departures from the original: none in what is computed. What blocks 1 to 3 would compute of padding alone
is computed once in inference, and repeated (`segtwin.geometry.dead_zones`). The data and loss layers are
not part of the model; blobs are N×H×W×C.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import KerasTensor, layers, ops
from segtwin.architectures import get_architecture
from segtwin.geometry import DeadZones

import tensorflow as tf
from segtwin_keras.layers import LEFT_OUT, Conv2D, Conv2DTranspose
from segtwin_keras.network import Network, register


@keras.saving.register_keras_serializable("segtwin")
class Canvas(layers.ZeroPadding2D):
    """The zeros around the image; fewer of them, `least`, where zones are left out."""

    def __init__(self, padding: Any, least: int, **kwargs: Any) -> None:
        super().__init__(padding, **kwargs)
        self.least = least

    def call(self, x: KerasTensor) -> KerasTensor:
        """N×H+2·pad×W+2·pad×C."""
        pads = [self.least] * 2
        return ops.pad(x, [[0, 0], pads, pads, [0, 0]]) if LEFT_OUT.get() else super().call(x)

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        return {**super().get_config(), "least": self.least}


@keras.saving.register_keras_serializable("segtwin")
class Pooling(layers.MaxPooling2D):
    """Maxima. Where zones are left out before it, its top has one of their rows repeated, and then a column."""

    def __init__(self, pool_size: Any, row: int = 0, times: int = 0, **kwargs: Any) -> None:
        super().__init__(pool_size, **kwargs)
        self.row, self.times = row, times

    def call(self, x: KerasTensor) -> KerasTensor:
        """N×H×W×C."""
        x = super().call(x)
        row, times = self.row, self.times
        if not (times and LEFT_OUT.get()):
            return x
        for axis in (1, 2):
            inner = ops.shape(x)[axis] - 2 * row
            before, between, after = tf.split(x, (row, inner, row), axis)
            first, last = tf.gather(between, (0,), axis=axis), tf.gather(between, (inner - 1,), axis=axis)
            x = tf.concat([before, *[first] * times, between, *[last] * times, after], axis)
        return x

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        return {**super().get_config(), "row": self.row, "times": self.times}


def conv(
    x: KerasTensor,
    filters: int,
    name: str,
    kernel: int = 3,
    pad: int = 1,
    activation: str | None = "relu",
    zones: DeadZones | None = None,
) -> KerasTensor:
    """A convolution of stride 1, with the ReLU that Caffe runs in its place. Layers start at zero:
    `build` fills them."""
    if zones is not None:
        x = Canvas(pad, zones.pad, name=f"{name}_pad")(x)
    elif pad:
        x = layers.ZeroPadding2D(pad, name=f"{name}_pad")(x)
    return Conv2D(filters, kernel, activation=activation, kernel_initializer="zeros", name=name)(x)


def pool(x: KerasTensor, name: str, zones: DeadZones | None = None) -> KerasTensor:
    """2×2 maxima, stride 2. Caffe rounds sizes up: the last window may hang over the edge, as it
    does in TensorFlow's SAME."""
    row, times = (0, 0) if zones is None else zones.repeats[name]
    return Pooling(2, padding="same", row=row, times=times, name=name)(x)


def upscore(x: KerasTensor, name: str, kernel: int, stride: int) -> KerasTensor:
    """Bilinear upsampling by `stride` as a deconvolution that is not trained, with Caffe's full
    weights: a diagonal of kernels."""
    return Conv2DTranspose(
        x.shape[-1], kernel, stride, use_bias=False, kernel_initializer="zeros", trainable=False, name=name
    )(x)


@keras.saving.register_keras_serializable("segtwin")
class Crop(layers.Layer):
    """`x` from row and column `offset` on, in the size of `like`. The offsets are those of
    `geometry.crop_offsets`, and tested to be."""

    def __init__(self, offset: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.offset = offset

    def call(self, x: KerasTensor, like: KerasTensor) -> KerasTensor:
        """Rows and columns of `x`; channels and batch stay."""
        _, height, width, _ = ops.shape(like)
        return x[:, self.offset : self.offset + height, self.offset : self.offset + width]

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        return {**super().get_config(), "offset": self.offset}


def crop(x: KerasTensor, name: str, like: KerasTensor, offset: int) -> KerasTensor:
    """A `Crop` layer."""
    return Crop(offset, name=name)(x, like)


def three_channels(name: str, in_channels: int) -> None:
    """Refuse another number: the original names them R, G and B."""
    if in_channels != 3:
        raise ValueError(f"{name} takes images of 3 channels (R, G, B), not {in_channels}")


@keras.saving.register_keras_serializable("segtwin")
class Scale(layers.Layer):
    """Every channel times its own number, which is not trained."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """One number a channel."""
        self.weight = self.add_weight(shape=shape[-1:], initializer="zeros", trainable=False, name="weight")

    def call(self, x: KerasTensor) -> KerasTensor:
        """In the shape of `x`."""
        return x * self.weight


def scale(x: KerasTensor, name: str) -> KerasTensor:
    """A `Scale` layer."""
    return Scale(name=name)(x)


def features(
    data: KerasTensor, widths: tuple[int, ...], dropout: float, pad: int = 100, pad6: int = 0
) -> tuple[KerasTensor, KerasTensor, KerasTensor]:
    """pool3, pool4 and fc7 of an image N×H×W×C: what the FCNs share, VGG-16, its classifier turned
    into convolutions.

    `pad` is that of conv1_1, `pad6` that of fc6.
    """
    c1, c2, c3, c4, c5, c6, c7 = widths
    zones = get_architecture("fcn8s").dead_zones if pad == 100 else None  # the four share them
    # 100 pixels of padding: even a 1×1 image reaches fc6, whose 7×7 window needs a pool5 of 7×7
    x = conv(data, c1, "conv1_1", pad=pad, zones=zones)  # N×(H+198)×(W+198)×64
    x = conv(x, c1, "conv1_2")
    x = pool(x, "pool1", zones)  # N×⌈(H+198)/2⌉×…×64

    x = conv(x, c2, "conv2_1")
    x = conv(x, c2, "conv2_2")
    x = pool(x, "pool2", zones)  # N×⌈(H+198)/4⌉×…×128

    x = conv(x, c3, "conv3_1")
    x = conv(x, c3, "conv3_2")
    x = conv(x, c3, "conv3_3")
    pool3 = x = pool(x, "pool3", zones)  # N×⌈(H+198)/8⌉×…×256

    x = conv(x, c4, "conv4_1")
    x = conv(x, c4, "conv4_2")
    x = conv(x, c4, "conv4_3")
    pool4 = x = pool(x, "pool4")  # N×⌈(H+198)/16⌉×…×512

    x = conv(x, c5, "conv5_1")
    x = conv(x, c5, "conv5_2")
    x = conv(x, c5, "conv5_3")
    x = pool(x, "pool5")  # N×h×w×512, h = ⌈(H+198)/32⌉

    x = layers.Dropout(dropout, name="drop6")(conv(x, c6, "fc6", kernel=7, pad=pad6))  # N×(h−6)×(w−6)×4096
    fc7 = layers.Dropout(dropout, name="drop7")(conv(x, c7, "fc7", kernel=1, pad=0))
    return pool3, pool4, fc7


@register("fcn32s")
def fcn32s(num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> Network:
    """voc-fcn32s. Input N×H×W×3, BGR minus the mean; output `score` N×H×W×classes; any size from
    1×1 up."""
    data = keras.Input((None, None, in_channels), dtype=keras.config.dtype_policy().compute_dtype, name="data")
    _, _, fc7 = features(data, widths, dropout)

    x = conv(fc7, num_classes, "score_fr", kernel=1, pad=0, activation=None)
    x = upscore(x, "upscore", kernel=64, stride=32)

    x = crop(x, "score", like=data, offset=19)  # N×H×W×classes
    return Network(data, x, name="fcn32s")


@register("fcn16s")
def fcn16s(num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> Network:
    """voc-fcn16s. Input N×H×W×3, BGR minus the mean; output `score` N×H×W×classes; any size from
    1×1 up."""
    data = keras.Input((None, None, in_channels), dtype=keras.config.dtype_policy().compute_dtype, name="data")
    _, pool4, fc7 = features(data, widths, dropout)

    x = conv(fc7, num_classes, "score_fr", kernel=1, pad=0, activation=None)
    x = upscore(x, "upscore2", kernel=4, stride=2)

    skip = conv(pool4, num_classes, "score_pool4", kernel=1, pad=0, activation=None)
    skip = crop(skip, "score_pool4c", like=x, offset=5)
    x = layers.Add(name="fuse_pool4")([x, skip])
    x = upscore(x, "upscore16", kernel=32, stride=16)

    x = crop(x, "score", like=data, offset=27)  # N×H×W×classes
    return Network(data, x, name="fcn16s")


@register("fcn8s")
def fcn8s(num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> Network:
    """voc-fcn8s. Input N×H×W×3, BGR minus the mean; output `score` N×H×W×classes; any size from 1×1
    up."""
    data = keras.Input((None, None, in_channels), dtype=keras.config.dtype_policy().compute_dtype, name="data")
    pool3, pool4, fc7 = features(data, widths, dropout)

    x = conv(fc7, num_classes, "score_fr", kernel=1, pad=0, activation=None)
    x = upscore(x, "upscore2", kernel=4, stride=2)

    skip = conv(pool4, num_classes, "score_pool4", kernel=1, pad=0, activation=None)
    skip = crop(skip, "score_pool4c", like=x, offset=5)
    x = layers.Add(name="fuse_pool4")([x, skip])
    x = upscore(x, "upscore_pool4", kernel=4, stride=2)

    skip = conv(pool3, num_classes, "score_pool3", kernel=1, pad=0, activation=None)
    skip = crop(skip, "score_pool3c", like=x, offset=9)
    x = layers.Add(name="fuse_pool3")([x, skip])
    x = upscore(x, "upscore8", kernel=16, stride=8)

    x = crop(x, "score", like=data, offset=31)  # N×H×W×classes
    return Network(data, x, name="fcn8s")


@register("fcn8s-atonce")
def fcn8s_atonce(num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> Network:
    """voc-fcn8s-atonce: one stage, skips scaled down. Input N×H×W×3, BGR minus the mean; output
    `score` N×H×W×classes; any size from 1×1 up."""
    data = keras.Input((None, None, in_channels), dtype=keras.config.dtype_policy().compute_dtype, name="data")
    pool3, pool4, fc7 = features(data, widths, dropout)

    x = conv(fc7, num_classes, "score_fr", kernel=1, pad=0, activation=None)
    x = upscore(x, "upscore2", kernel=4, stride=2)

    skip = scale(pool4, "scale_pool4")  # × 0.01
    skip = conv(skip, num_classes, "score_pool4", kernel=1, pad=0, activation=None)
    skip = crop(skip, "score_pool4c", like=x, offset=5)
    x = layers.Add(name="fuse_pool4")([x, skip])
    x = upscore(x, "upscore_pool4", kernel=4, stride=2)

    skip = scale(pool3, "scale_pool3")  # × 0.0001
    skip = conv(skip, num_classes, "score_pool3", kernel=1, pad=0, activation=None)
    skip = crop(skip, "score_pool3c", like=x, offset=9)
    x = layers.Add(name="fuse_pool3")([x, skip])
    x = upscore(x, "upscore8", kernel=16, stride=8)

    x = crop(x, "score", like=data, offset=31)  # N×H×W×classes
    return Network(data, x, name="fcn8s-atonce")
