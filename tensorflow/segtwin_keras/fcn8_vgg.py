"""FCN8VGG of tensorflow-fcn in Keras: an FCN-8s without the padding of 100 pixels, whose upsampling
is trained.

Layer for layer `fcn8_vgg.py` of MarvinTeichmann/tensorflow-fcn (class FCN8VGG, TensorFlow 1), after
Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation" (CVPR 2015).
Its twin is `segtwin_torch/fcn8_vgg.py`.

Departures from the original: none in what is computed. `pred` and `pred_up` are N×H×W×1, as all
blobs here have four axes. With `use_dilated` the blobs between are where the original has them, and
fc7, a 1×1 convolution, runs after its phases are back in place, not before: the same numbers.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import KerasTensor, layers, ops
from segtwin.architectures.vgg16 import VGG_MEAN

import tensorflow as tf
from segtwin_keras.fcn import conv, features, pool, three_channels
from segtwin_keras.layers import Conv2DTranspose
from segtwin_keras.network import Network, check_size, checked_network, register
from segtwin_keras.weights import table

WEIGHT_DECAY = 5e-4
"""`self.wd`, of every term."""


@keras.saving.register_keras_serializable("segtwin")
class BGRMinusMean(layers.Layer):
    """RGB 0..255 as the VGG-16 takes it."""

    def call(self, image: KerasTensor) -> KerasTensor:
        """In the shape of `image`."""
        red, green, blue = ops.split(image, 3, axis=-1)
        return ops.concatenate([blue - VGG_MEAN[0], green - VGG_MEAN[1], red - VGG_MEAN[2]], axis=-1)


def bgr_minus_mean(image: KerasTensor, name: str) -> KerasTensor:
    """A `BGRMinusMean` layer."""
    return BGRMinusMean(name=name)(image)


@keras.saving.register_keras_serializable("segtwin")
class UpscoreSame(Conv2DTranspose):
    """Upsampling by `stride` as a deconvolution that starts bilinear and is trained, with full
    weights, cut to the size of `like` as SAME does.

    A transposed convolution is the gradient of a convolution; that one would pad the asked-for size
    by (n − 1)·s + k − size pixels, the smaller half first, and (n − 1)·s + k is what the whole
    deconvolution has. So the first row and column depend on the size. Keras' own SAME knows no
    other size than n·s.
    """

    def build(self, x_shape: tuple[int | None, ...], like_shape: tuple[int | None, ...]) -> None:
        """The kernel."""
        super().build(x_shape)

    def call(self, x: KerasTensor, like: KerasTensor) -> KerasTensor:  # type: ignore[override]
        """N×H×W×classes, H and W those of `like`."""
        x = super().call(x)
        _, rows, columns, _ = ops.shape(like)
        top, left = (ops.shape(x)[1] - rows) // 2, (ops.shape(x)[2] - columns) // 2
        return x[:, top : top + rows, left : left + columns]

    def compute_output_shape(
        self, x_shape: tuple[int | None, ...], like_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """N×H×W×classes."""
        return (*like_shape[:3], self.filters)


def upscore(x: KerasTensor, name: str, like: KerasTensor, kernel: int, stride: int) -> KerasTensor:
    """An `UpscoreSame` layer."""
    return UpscoreSame(x.shape[-1], kernel, stride, use_bias=False, kernel_initializer="zeros", name=name)(x, like)


@keras.saving.register_keras_serializable("segtwin")
class Predict(layers.Layer):
    """The class of the highest score, N×h×w×1; the first of equals."""

    def call(self, x: KerasTensor) -> KerasTensor:
        """int64, as the original's."""
        return ops.cast(ops.argmax(x, axis=-1, keepdims=True), "int64")


def predict(x: KerasTensor, name: str) -> KerasTensor:
    """A `Predict` layer."""
    return Predict(name=name)(x)


@register("fcn8-vgg")
def fcn8_vgg(num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> Network:
    """fcn8-vgg. Input N×H×W×3, RGB 0..255; output `upscore32` N×H×W×classes; any size from 1×1 up."""
    three_channels("fcn8-vgg", in_channels)
    image = keras.Input((None, None, in_channels), dtype=keras.config.dtype_policy().compute_dtype, name="image")
    bgr = bgr_minus_mean(image, "bgr")
    pool3, pool4, fc7 = features(bgr, widths, dropout, pad=1, pad6=3)  # SAME: ⌈H/8⌉, ⌈H/16⌉, ⌈H/32⌉

    x = conv(fc7, num_classes, "score_fr", kernel=1, pad=0, activation=None)
    pred = predict(x, "pred")
    x = upscore(x, "upscore2", like=pool4, kernel=4, stride=2)

    skip = conv(pool4, num_classes, "score_pool4", kernel=1, pad=0, activation=None)
    x = layers.Add(name="fuse_pool4")([x, skip])
    x = upscore(x, "upscore4", like=pool3, kernel=4, stride=2)

    skip = conv(pool3, num_classes, "score_pool3", kernel=1, pad=0, activation=None)
    x = layers.Add(name="fuse_pool3")([x, skip])
    x = upscore(x, "upscore32", like=bgr, kernel=16, stride=8)  # N×H×W×classes

    pred_up = predict(x, "pred_up")
    return with_aside(Network(image, x, name="fcn8-vgg"), pred=pred, pred_up=pred_up)


def dense_pool(x: KerasTensor, name: str) -> KerasTensor:
    """2×2 maxima of stride 1, SAME: the last window hangs over the edge."""
    return layers.MaxPooling2D(2, strides=1, padding="same", name=name)(x)


@keras.saving.register_keras_serializable("segtwin")
class SpaceToBatch(layers.Layer):
    """The four phases of 2×2 blocks, one batch after the other: 4N×h/2×w/2×C."""

    def call(self, x: KerasTensor) -> KerasTensor:
        """As the original's `space_to_batch` with block size 2."""
        return tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]])

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """4N×h/2×w/2×C."""
        return (None, None, None, shape[3])


def space_to_batch(x: KerasTensor, name: str) -> KerasTensor:
    """A `SpaceToBatch` layer."""
    return SpaceToBatch(name=name)(x)


@keras.saving.register_keras_serializable("segtwin")
class BatchToSpace(layers.Layer):
    """The way back of `SpaceToBatch`."""

    def call(self, x: KerasTensor) -> KerasTensor:
        """As the original's `batch_to_space` with block size 2."""
        return tf.batch_to_space(x, [2, 2], [[0, 0], [0, 0]])

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """N×h×w×C."""
        return (None, None, None, shape[3])


def batch_to_space(x: KerasTensor, name: str) -> KerasTensor:
    """A `BatchToSpace` layer."""
    return BatchToSpace(name=name)(x)


@register("fcn8-vgg-dilated")
def dilated_fcn8_vgg(num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> Network:
    """fcn8-vgg with use_dilated: pool4 and pool5 keep the resolution of pool3, on which fc6 and fc7
    run in 16 interleaved phases.

    Input N×H×W×3, RGB 0..255, with ⌈H/8⌉ and ⌈W/8⌉ divisible by 4; output `fc7` N×⌈H/8⌉×⌈W/8⌉×4096:
    the original ends before the score layers.
    """
    three_channels("fcn8-vgg", in_channels)
    c1, c2, c3, c4, c5, c6, c7 = widths
    image = keras.Input((None, None, in_channels), dtype=keras.config.dtype_policy().compute_dtype, name="image")
    x = bgr_minus_mean(check_size("fcn8-vgg-dilated", image), "bgr")

    x = conv(x, c1, "conv1_1")
    x = conv(x, c1, "conv1_2")
    x = pool(x, "pool1")

    x = conv(x, c2, "conv2_1")
    x = conv(x, c2, "conv2_2")
    x = pool(x, "pool2")

    x = conv(x, c3, "conv3_1")
    x = conv(x, c3, "conv3_2")
    x = conv(x, c3, "conv3_3")
    x = pool(x, "pool3")  # N×h×w×256, h = ⌈H/8⌉

    x = conv(x, c4, "conv4_1")
    x = conv(x, c4, "conv4_2")
    x = conv(x, c4, "conv4_3")
    x = dense_pool(x, "pool4_dense")
    x = space_to_batch(x, "pool4")  # 4N×h/2×w/2×512

    x = conv(x, c5, "conv5_1")
    x = conv(x, c5, "conv5_2")
    x = conv(x, c5, "conv5_3")
    x = dense_pool(x, "pool5_dense")
    pool5 = batch_to_space(x, "pool5")  # N×h×w×512
    x = space_to_batch(x, "pool5_phases")  # 16N×h/4×w/4×512

    x = layers.Dropout(dropout, name="drop6")(conv(x, c6, "fc6", kernel=7, pad=3))  # 16N×h/4×w/4×4096
    x = batch_to_space(x, "fc6_4")
    x = batch_to_space(x, "fc6_1")
    x = layers.Dropout(dropout, name="drop7")(conv(x, c7, "fc7", kernel=1, pad=0))  # N×h×w×4096
    return with_aside(Network(image, x, name="fcn8-vgg-dilated"), pool5=pool5)


def regularization_terms(model: keras.Model) -> dict[str, dict[str, Any]]:
    """The terms that the original adds to two collections, for a training to sum and add to its
    loss.

    Args:
        model: fcn8-vgg, made by `build` with any of its options.

    Returns:
        "regularization_losses" (the 3×3 convolutions and the score layers that start at random) and
        "fc_wlosses" (fc6, fc7, the averaged score_fr and the upsampling), each with the original's
        names (`conv1_1/weight_loss`) → 5e-4 · Σw²/2, a number to differentiate. Biases have none.
    """
    terms: dict[str, dict[str, Any]] = {"regularization_losses": {}, "fc_wlosses": {}}
    network = checked_network(model)
    drawn = [layer.name for layer in network.architecture.layers if layer.name.startswith("score") and layer.fill]
    for name, (weight, _) in table(network).items():
        layer, kind = name.split("/")
        collection = "regularization_losses" if layer.startswith("conv") or layer in drawn else "fc_wlosses"
        if kind == "weight":
            terms[collection][f"{layer}/weight_loss"] = WEIGHT_DECAY * ops.sum(ops.square(weight)) / 2
    return terms


def with_aside(model: Network, **blobs: KerasTensor) -> Network:
    """The model, with blobs to be asked for that its output does not come from."""
    model.aside = blobs
    return model
