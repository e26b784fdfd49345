"""The U-Nets in Keras: the network of the paper, and two from torch code.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation"
(MICCAI 2015, arXiv:1505.04597), section 2 and figure 1; layers have the names of the authors' Caffe
release. `unet` is the class `Unet` of Andy-zhujunwen/UNET-ZOO@b526ce5 UNet.py, `unet-small` the
one of 8 to 128 channels over `double_conv2d_bn` and `deconv2d_bn` (tutorials of 2021); layers with
weights have the names of its state_dict. Blobs have the names of the variables of its forward
passes. Its twin is `segtwin_torch/unet.py`.

Departures from the originals: none in what is computed; blobs are N×H×W×C. The paper shows no place
and no rate for its dropout; the authors' release drops half of d3c and d4c, as here. The originals
fail on sizes that do not fit with an error of torch.cat; here they are refused with the sizes that
do, or, with `pad="reflect"`, mirrored at the bottom and right and cut again. Their sigmoid can be
left off (`logits`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import KerasTensor, layers, ops
from segtwin.architectures import get_architecture
from segtwin.architectures.schema import BATCHNORM_EPS, BATCHNORM_MOMENTUM

import tensorflow as tf
from segtwin_keras.fcn import crop
from segtwin_keras.layers import CAFFE, Conv2D, Conv2DTranspose
from segtwin_keras.network import CheckSize, Network, explained, register


def conv(
    x: KerasTensor,
    filters: int,
    name: str,
    kernel: int = 3,
    stride: int = 1,
    pad: int = 1,
    bias: bool = True,
    activation: str | None = None,
) -> KerasTensor:
    """A convolution, padded by `pad` zeros on every side."""
    return shared_conv(filters, name, kernel, stride, pad, bias, activation)(x)


def shared_conv(
    filters: int,
    name: str,
    kernel: int = 3,
    stride: int = 1,
    pad: int = 1,
    bias: bool = True,
    activation: str | None = None,
    dilation: int = 1,
) -> Callable[[KerasTensor], KerasTensor]:
    """A convolution that may be called several times. TensorFlow's SAME pads stride 2 at the bottom and right alone, a
    pixel off."""
    how: dict[str, Any] = {"activation": activation, "use_bias": bias, "kernel_initializer": "zeros", "name": name}
    convolution = Conv2D(filters, kernel, stride, dilation_rate=dilation, **how)
    if not pad:
        return convolution
    padding = layers.ZeroPadding2D(pad, name=f"{name}_pad")
    return lambda x: convolution(padding(x))


def deconv(
    x: KerasTensor,
    filters: int,
    name: str,
    kernel: int = 2,
    stride: int = 2,
    pad: int = 0,
    output_pad: int = 0,
    bias: bool = True,
    activation: str | None = None,
) -> KerasTensor:
    """A transposed convolution: (n − 1)·stride + kernel pixels, less `pad` on every side, `output_pad` more at the
    bottom and right.

    TensorFlow's SAME would leave the same size for kernel 3, stride 2, pad 1, output_pad 1, but cut
    at the other end: one pixel off.
    """
    how: dict[str, Any] = {"activation": activation, "use_bias": bias, "kernel_initializer": "zeros", "name": name}
    x = Conv2DTranspose(filters, kernel, stride, **how)(x)
    if pad:
        x = layers.Cropping2D(((pad, pad - output_pad), (pad, pad - output_pad)), name=f"{name}_crop")(x)
    return x


def central_crop(x: KerasTensor, name: str, offset: int) -> KerasTensor:
    """`x` without `offset` rows and columns on every side. The offsets are those of
    `geometry.crop_offsets`, and tested to be.

    With sizes that fit, that is Caffe's crop: what is left has the size of the up-convolution.
    """
    return layers.Cropping2D(offset, name=name)(x)


def max_pool(x: KerasTensor, name: str) -> KerasTensor:
    """2×2 maxima, stride 2."""
    return layers.MaxPooling2D(2, name=name)(x)


@keras.saving.register_keras_serializable("segtwin")
class PaddedMaxPool(layers.Layer):
    """Maxima of kernel×kernel windows, padded by `pad` pixels of −∞ on every side, by `more` more at the bottom and
    right. SAME would pad stride 2 at the bottom and right alone."""

    def __init__(self, kernel: int, stride: int, pad: int, more: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kernel, self.stride, self.pad, self.more = kernel, stride, pad, more

    def call(self, x: KerasTensor) -> KerasTensor:
        """Rows and columns divided by the stride."""
        before, after = self.pad, self.pad + self.more
        around = [[0, 0], [before, after], [before, after], [0, 0]]
        return tf.nn.max_pool2d(x, self.kernel, self.stride, padding=around)

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        return {
            **super().get_config(),
            "kernel": self.kernel,
            "stride": self.stride,
            "pad": self.pad,
            "more": self.more,
        }


@keras.saving.register_keras_serializable("segtwin")
class BatchNorm(layers.Layer):
    """torch's BatchNorm2d. Keras' own layer differs: eps 1e-3, momentum 0.99, and it keeps the
    biased variance where torch keeps the unbiased.

    Training: x is normalised by the mean and the biased variance of its batch; the running
    statistics move by a tenth towards that mean and the *unbiased* variance (n / (n − 1), n =
    N·H·W); `num_batches_tracked` counts. As in torch, `trainable` has no part in that; `updates` times, where a call
    stands for several with the same x. Else: x is normalised by the running statistics.

    Raises:
        ValueError: training on one value a channel, which has no variance
            (tf.errors.InvalidArgumentError where a graph learns of it as it runs).
    """

    def __init__(self, activation: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make the variables, one number a channel."""
        channels = (shape[-1],)
        self.gamma = self.add_weight(name="gamma", shape=channels, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=channels, initializer="zeros")
        self.moving_mean = self.add_weight(name="moving_mean", shape=channels, initializer="zeros", trainable=False)
        self.moving_variance = self.add_weight(
            name="moving_variance", shape=channels, initializer="ones", trainable=False
        )
        self.num_batches_tracked = self.add_weight(
            name="num_batches_tracked", shape=(), dtype="int64", initializer="zeros", trainable=False
        )

    def call(self, x: KerasTensor, training: bool | None = None, updates: int = 1) -> KerasTensor:
        """Normalised, scaled and shifted; the same shape."""
        if training:
            x = more_than_one(x)
            mean, variance, processes = statistics(x)
            images, height, width = ops.shape(x)[:3]
            for _ in range(updates):
                self.keep(mean, variance, images * height * width * processes)
        else:
            mean, variance = ops.convert_to_tensor(self.moving_mean), ops.convert_to_tensor(self.moving_variance)
        # one operation, so that it is one in ONNX; TensorFlow has it in float32 alone, and rounds more
        exact = CAFFE.get() and tf.executing_eagerly()
        if x.dtype == "float32" and not (training or exact):
            gamma, beta = ops.convert_to_tensor(self.gamma), ops.convert_to_tensor(self.beta)
            eps = BATCHNORM_EPS
            x = tf.raw_ops.FusedBatchNormV3(
                x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=eps, is_training=False
            ).y
        else:
            x = (x - mean) / ops.sqrt(variance + BATCHNORM_EPS) * self.gamma + self.beta
        return self.activation(x)

    def keep(self, mean: KerasTensor, variance: KerasTensor, values: KerasTensor) -> None:
        """Move the running statistics."""
        pixels = ops.cast(values, variance.dtype)
        share = BATCHNORM_MOMENTUM
        self.moving_mean.assign((1 - share) * self.moving_mean + share * mean)
        self.moving_variance.assign((1 - share) * self.moving_variance + share * variance * (pixels / (pixels - 1)))
        self.num_batches_tracked.assign(self.num_batches_tracked + 1)

    def compute_output_shape(self, shape: tuple[int | None, ...], **_: Any) -> tuple[int | None, ...]:
        """The same."""
        return shape

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        return {**super().get_config(), "activation": keras.activations.serialize(self.activation)}


def statistics(x: KerasTensor) -> tuple[KerasTensor, KerasTensor, int]:
    """Mean and biased variance of each channel, of the batch of all processes of a strategy; and how many
    processes there are."""
    context = tf.distribute.get_replica_context()
    processes = 1 if context is None else context.num_replicas_in_sync
    if processes == 1:
        return ops.mean(x, axis=(0, 1, 2)), ops.var(x, axis=(0, 1, 2)), 1
    mean = context.all_reduce("mean", ops.mean(x, axis=(0, 1, 2)))
    return mean, context.all_reduce("mean", ops.mean(ops.square(x - mean), axis=(0, 1, 2))), processes


def more_than_one(x: KerasTensor) -> KerasTensor:
    """`x` itself, where a channel has more than one value. torch refuses the rest too, before the
    statistics become NaN."""
    images, height, width, _ = ops.shape(x)
    complaint = "BatchNorm: training needs more than one value a channel; give larger images or more of them"
    try:
        check = tf.debugging.assert_greater(images * height * width, 1, complaint)
    except tf.errors.InvalidArgumentError:  # in place, as torch has it; where sizes are symbols the graph raises it
        raise explained(ValueError(f"{complaint}, not {images}×{height}×{width}")) from None
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(x)


@keras.saving.register_keras_serializable("segtwin")
class Fit(CheckSize):
    """The image as the network of that name can take it: as it is, or mirrored to a legal size.

    Raises:
        ValueError: its size does not fit and it is not to be padded.
    """

    def __init__(self, architecture: str, pad: str | None, **kwargs: Any) -> None:
        super().__init__(architecture, **kwargs)
        self.pad = pad

    def call(self, image: KerasTensor) -> KerasTensor:
        """Rows and columns that fit."""
        if self.pad is None:
            return super().call(image)
        least, step = (getattr(get_architecture(self.architecture), name) for name in ("size_least", "size_step"))
        for axis, size in ((1, ops.shape(image)[1]), (2, ops.shape(image)[2])):
            legal = least + ops.maximum(0, -(-(size - least) // step)) * step
            image = ops.take(image, mirrored(size, legal), axis=axis)
        return image

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The same, or not known."""
        return shape if self.pad is None else (shape[0], None, None, shape[3])

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        return {**super().get_config(), "pad": self.pad}


def mirrored(size: Any, legal: Any) -> KerasTensor:
    """Indices 0 … legal − 1 of an axis of `size` pixels, mirrored at its last pixel (and again at
    its first), which is not repeated."""
    there_and_back = ops.maximum(2 * (size - 1), 1)
    i = ops.arange(legal) % there_and_back
    return ops.where(i < size, i, there_and_back - i)


def image_input(in_channels: int, name: str) -> KerasTensor:
    """Images of any size."""
    return keras.Input((None, None, in_channels), dtype=keras.config.dtype_policy().compute_dtype, name=name)


@register("unet-paper")
def unet_paper(num_classes: int, in_channels: int, widths: tuple[int, ...], dropout: float) -> Network:
    """The network of figure 1. Input `data` N×(16k+60)×(16l+60)×1, k, l ≥ 8; output
    `conv_u0d-score` N×…×classes, 184 rows and columns less."""
    c1, c2, c3, c4, c5 = widths
    data = image_input(in_channels, "data")
    x = Fit("unet-paper", pad=None, name="fit")(data)

    x = conv(x, c1, "conv_d0a-b", pad=0, activation="relu")
    d0c = conv(x, c1, "conv_d0b-c", pad=0, activation="relu")  # N×(H−4)×(W−4)×64
    x = max_pool(d0c, "pool_d0c-1a")

    x = conv(x, c2, "conv_d1a-b", pad=0, activation="relu")
    d1c = conv(x, c2, "conv_d1b-c", pad=0, activation="relu")  # N×(H−12)/2×…×128
    x = max_pool(d1c, "pool_d1c-2a")

    x = conv(x, c3, "conv_d2a-b", pad=0, activation="relu")
    d2c = conv(x, c3, "conv_d2b-c", pad=0, activation="relu")  # N×(H−28)/4×…×256
    x = max_pool(d2c, "pool_d2c-3a")

    x = conv(x, c4, "conv_d3a-b", pad=0, activation="relu")
    # N×(H−60)/8×…×512
    d3c = layers.Dropout(dropout, name="drop_d3c")(conv(x, c4, "conv_d3b-c", pad=0, activation="relu"))
    x = max_pool(d3c, "pool_d3c-4a")

    x = conv(x, c5, "conv_d4a-b", pad=0, activation="relu")
    # N×(H−124)/16×…×1024
    x = layers.Dropout(dropout, name="drop_d4c")(conv(x, c5, "conv_d4b-c", pad=0, activation="relu"))

    x = deconv(x, c4, "upconv_d4c_u3a")  # no ReLU: "up-convolution" in figure 1
    skip = central_crop(d3c, "crop_d3c-d3cc", offset=4)
    x = layers.Concatenate(name="concat_d3cc_u3a-b")([x, skip])
    x = conv(x, c4, "conv_u3b-c", pad=0, activation="relu")
    x = conv(x, c4, "conv_u3c-d", pad=0, activation="relu")

    x = deconv(x, c3, "upconv_u3d_u2a")
    skip = central_crop(d2c, "crop_d2c-d2cc", offset=16)
    x = layers.Concatenate(name="concat_d2cc_u2a-b")([x, skip])
    x = conv(x, c3, "conv_u2b-c", pad=0, activation="relu")
    x = conv(x, c3, "conv_u2c-d", pad=0, activation="relu")

    x = deconv(x, c2, "upconv_u2d_u1a")
    skip = central_crop(d1c, "crop_d1c-d1cc", offset=40)
    x = layers.Concatenate(name="concat_d1cc_u1a-b")([x, skip])
    x = conv(x, c2, "conv_u1b-c", pad=0, activation="relu")
    x = conv(x, c2, "conv_u1c-d", pad=0, activation="relu")

    x = deconv(x, c1, "upconv_u1d_u0a")
    skip = central_crop(d0c, "crop_d0c-d0cc", offset=88)
    x = layers.Concatenate(name="concat_d0cc_u0a-b")([x, skip])
    x = conv(x, c1, "conv_u0b-c", pad=0, activation="relu")
    x = conv(x, c1, "conv_u0c-d", pad=0, activation="relu")

    x = conv(x, num_classes, "conv_u0d-score", kernel=1, pad=0)  # N×(H−184)×(W−184)×classes
    return Network(data, x, name="unet-paper")


def double_conv(x: KerasTensor, filters: int, name: str) -> KerasTensor:
    """(3×3 convolution, BatchNorm, ReLU) twice: `DoubleConv`."""
    x = BatchNorm("relu", name=f"{name}.conv.1")(conv(x, filters, f"{name}.conv.0"))
    return BatchNorm("relu", name=f"{name}.conv.4")(conv(x, filters, f"{name}.conv.3"))


@register("unet")
def unet(num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None) -> Network:
    """UNET-ZOO's U-Net. Input `image` N×H×W×3, H and W multiples of 16; output `probability` (or
    `logits`) N×H×W×classes."""
    w1, w2, w3, w4, w5 = widths
    image = image_input(in_channels, "image")
    x = Fit("unet", pad, name="fit")(image)

    c1 = double_conv(x, w1, "conv1")  # N×H×W×32
    x = max_pool(c1, "p1")
    c2 = double_conv(x, w2, "conv2")  # N×H/2×W/2×64
    x = max_pool(c2, "p2")
    c3 = double_conv(x, w3, "conv3")  # N×H/4×W/4×128
    x = max_pool(c3, "p3")
    c4 = double_conv(x, w4, "conv4")  # N×H/8×W/8×256
    x = max_pool(c4, "p4")
    x = double_conv(x, w5, "conv5")  # N×H/16×W/16×512

    x = deconv(x, w4, "up6")
    x = layers.Concatenate(name="merge6")([x, c4])
    x = double_conv(x, w4, "conv6")
    x = deconv(x, w3, "up7")
    x = layers.Concatenate(name="merge7")([x, c3])
    x = double_conv(x, w3, "conv7")
    x = deconv(x, w2, "up8")
    x = layers.Concatenate(name="merge8")([x, c2])
    x = double_conv(x, w2, "conv8")
    x = deconv(x, w1, "up9")
    x = layers.Concatenate(name="merge9")([x, c1])
    x = double_conv(x, w1, "conv9")

    x = conv(x, num_classes, "conv10", kernel=1, pad=0)
    return Network(image, answer(x, image, logits, pad), name="unet")


def answer(x: KerasTensor, image: KerasTensor, logits: bool, pad: str | None) -> KerasTensor:
    """`logits` in the size of the image, and their `probability` unless the logits are asked for."""
    x = x if pad is None else crop(x, "logits", like=image, offset=0)
    if not logits:
        x = layers.Activation("sigmoid", name="probability")(x)
    return x


def double_conv2d_bn(x: KerasTensor, filters: int, name: str) -> KerasTensor:
    """(3×3 convolution, BatchNorm, ReLU) twice: `double_conv2d_bn`."""
    x = BatchNorm("relu", name=f"{name}.bn1")(conv(x, filters, f"{name}.conv1"))
    return BatchNorm("relu", name=f"{name}.bn2")(conv(x, filters, f"{name}.conv2"))


def deconv2d_bn(x: KerasTensor, filters: int, name: str) -> KerasTensor:
    """2×2 transposed convolution of stride 2, BatchNorm, ReLU: `deconv2d_bn`."""
    return BatchNorm("relu", name=f"{name}.bn1")(deconv(x, filters, f"{name}.conv1"))


@register("unet-small")
def unet_small(
    num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
) -> Network:
    """The small U-Net. Input `image` N×H×W×1, H and W multiples of 16; output `probability` (or
    `logits`) N×H×W×classes."""
    c1, c2, c3, c4, c5 = widths
    image = image_input(in_channels, "image")
    x = Fit("unet-small", pad, name="fit")(image)

    conv1 = double_conv2d_bn(x, c1, "layer1_conv")  # N×H×W×8
    x = max_pool(conv1, "pool1")
    conv2 = double_conv2d_bn(x, c2, "layer2_conv")  # N×H/2×W/2×16
    x = max_pool(conv2, "pool2")
    conv3 = double_conv2d_bn(x, c3, "layer3_conv")  # N×H/4×W/4×32
    x = max_pool(conv3, "pool3")
    conv4 = double_conv2d_bn(x, c4, "layer4_conv")  # N×H/8×W/8×64
    x = max_pool(conv4, "pool4")
    x = double_conv2d_bn(x, c5, "layer5_conv")  # N×H/16×W/16×128

    x = deconv2d_bn(x, c4, "deconv1")
    x = layers.Concatenate(name="concat1")([x, conv4])
    x = double_conv2d_bn(x, c4, "layer6_conv")
    x = deconv2d_bn(x, c3, "deconv2")
    x = layers.Concatenate(name="concat2")([x, conv3])
    x = double_conv2d_bn(x, c3, "layer7_conv")
    x = deconv2d_bn(x, c2, "deconv3")
    x = layers.Concatenate(name="concat3")([x, conv2])
    x = double_conv2d_bn(x, c2, "layer8_conv")
    x = deconv2d_bn(x, c1, "deconv4")
    x = layers.Concatenate(name="concat4")([x, conv1])
    x = double_conv2d_bn(x, c1, "layer9_conv")

    x = conv(x, num_classes, "layer10_conv")
    return Network(image, answer(x, image, logits, pad), name="unet-small")
