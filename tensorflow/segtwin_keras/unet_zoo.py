"""The networks of UNET-ZOO beside its U-Net and its ResNet-34, in Keras.

Andy-zhujunwen/UNET-ZOO@b526ce5: `attention-unet-unetzoo` is AttU_Net of attention_unet.py, `r2unet`
R2U_Net of r2unet.py, `nested-unet-4heads` and `nested-unet-1head` NestedUNet of unetpp.py, `segnet`
SegNet of segnet.py, `channel-unet` myChannelUnet of channel_unet.py, `ce-net` CE_Net_ of cenet.py,
`fcn8s-unetzoo` and `fcn32s-unetzoo` FCN8s and FCN32s of fcn.py; the papers stand in
`segtwin/architectures/unet_zoo.py`, and so does what is surprising in each. Layers with weights have
the names of its state_dict. Its twin is `segtwin_torch/unet_zoo.py`.

Departures from the originals: none in what is computed; blobs are N×H×W×C. What CE-Net's dilated block
computes two and three times is computed once; what no output comes from is not computed, but for the
heads of `nested-unet-4heads`. SegNet's unpooling does not depend on the order in which threads write,
and writes as one thread does. Sizes that do not fit are treated as in `unet.py`, and the sigmoid at
the end can be left off (`logits`).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import KerasTensor, layers, ops

import tensorflow as tf
from segtwin_keras.fcn import crop, three_channels
from segtwin_keras.nests import Blobs, T, conv_block, named, nest, rrcnn_block, u_shape
from segtwin_keras.network import Network, check_size, register
from segtwin_keras.resnet34_unet import decoder_block, encoder
from segtwin_keras.unet import (
    BatchNorm,
    Fit,
    PaddedMaxPool,
    answer,
    conv,
    deconv,
    double_conv,
    image_input,
    shared_conv,
)
from segtwin_keras.unet import max_pool as halve


@keras.saving.register_keras_serializable("segtwin")
class Beside(layers.Layer):
    """Passes its first input on; the others belong to the network, too, though its output does not come from them."""

    def call(self, x: KerasTensor, *others: KerasTensor) -> KerasTensor:
        """x itself."""
        return x

    def compute_output_shape(self, shape: tuple[int | None, ...], *_: Any) -> tuple[int | None, ...]:
        """The same."""
        return shape


@keras.saving.register_keras_serializable("segtwin")
class Idle(layers.Layer):
    """Weights that the original makes and does not use, in torch's layouts: it passes its input on.

    Args:
        shapes: parameter → its shape; a `num_batches_tracked` is int64.
    """

    def __init__(self, shapes: dict[str, list[int]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shapes = shapes

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make the variables."""
        self.carried = {
            name: self.add_weight(
                name=name,
                shape=tuple(own),
                initializer="zeros",
                dtype="int64" if name == "num_batches_tracked" else None,
                trainable=name in ("weight", "bias"),
            )
            for name, own in self.shapes.items()
        }

    def call(self, x: KerasTensor) -> KerasTensor:
        """x itself."""
        return x

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        return {**super().get_config(), "shapes": self.shapes}


def idle_conv(x: KerasTensor, name: str, shape: list[int], outputs: int) -> KerasTensor:
    """A convolution that is never called; its weight has this shape in torch."""
    return Idle({"weight": shape, "bias": [outputs]}, name=name)(x)


def idle_norm(x: KerasTensor, name: str, channels: int) -> KerasTensor:
    """A BatchNorm that is never called."""
    kinds = ("weight", "bias", "running_mean", "running_var")
    return Idle({kind: [channels] for kind in kinds} | {"num_batches_tracked": []}, name=name)(x)


@register("attention-unet-unetzoo")
def attention_unet_unetzoo(
    num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
) -> Network:
    """`AttU_Net`. Input `image` N×H×W×3, H and W multiples of 16; output `probability` (or `logits`) N×H×W×classes."""
    return u_shape("attention-unet-unetzoo", num_classes, in_channels, widths, logits, pad, head="Conv_1x1", gated=True)


def recurrent(x: KerasTensor, filters: int, name: str) -> KerasTensor:
    """x₁ = f(x), then T times x₁ = f(x + x₁)."""
    convolution, norm = shared_conv(filters, f"{name}.conv.0"), BatchNorm("relu", name=f"{name}.conv.1")
    x1 = norm(convolution(x))
    for number in range(T):
        x1 = norm(convolution(layers.Add(name=f"{name}.sum{number}")([x, x1])))
    return x1


def true_rrcnn_block(x: KerasTensor, filters: int, name: str, n: Blobs) -> KerasTensor:
    """`RRCNN_block` of UNET-ZOO."""
    return rrcnn_block(x, filters, name, n, recurrent, entry="Conv_1x1")


@register("r2unet")
def r2unet(
    num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
) -> Network:
    """`R2U_Net`. Input `image` N×H×W×3, H and W multiples of 16; output `probability` (or `logits`) N×H×W×classes."""
    stage, up, head = "RRCNN", "Up_RRCNN", "Conv_1x1"
    return u_shape(
        "r2unet", num_classes, in_channels, widths, logits, pad, stage=stage, up=up, head=head, block=true_rrcnn_block
    )


@register("nested-unet-4heads")
def nested_unet_4heads(
    num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
) -> Network:
    """`NestedUNet(deepsupervision)`. Input `image` N×H×W×3, H and W multiples of 16; output `probability` (or `logits`)
    of the last head N×H×W×classes."""
    n: Blobs = {}
    image = image_input(in_channels, "image")
    x = Fit("nested-unet-4heads", pad, name="fit")(image)
    *earlier, x4 = nest(x, widths, n, conv_block)
    for number, x in enumerate(earlier, start=1):
        x = conv(x, num_classes, f"final{number}", kernel=1, pad=0)
        x = n[f"logits{number}"] = x if pad is None else crop(x, f"logits{number}", like=image, offset=0)
        n[f"probability{number}"] = layers.Activation("sigmoid", name=f"probability{number}")(x)
    x = conv(x4, num_classes, "final4", kernel=1, pad=0)
    x = Beside(name="heads")(x, *(n[f"probability{number}"] for number in (1, 2, 3)))
    return named(Network(image, answer(x, image, logits, pad), name="nested-unet-4heads"), n)


@register("nested-unet-1head")
def nested_unet_1head(
    num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
) -> Network:
    """`NestedUNet` without deep supervision. Input `image` N×H×W×3, H and W multiples of 16; output `probability` (or
    `logits`) N×H×W×classes."""
    n: Blobs = {}
    image = image_input(in_channels, "image")
    x = Fit("nested-unet-1head", pad, name="fit")(image)
    *_, x = nest(x, widths, n, conv_block)
    x = conv(x, num_classes, "final", kernel=1, pad=0)
    return named(Network(image, answer(x, image, logits, pad), name="nested-unet-1head"), n)


# -------------------------------------------------------------------------------------- SegNet


def max_pool(x: KerasTensor, name: str) -> KerasTensor:
    """2×2 maxima, stride 1: one row and one column less."""
    return layers.MaxPooling2D(2, strides=1, name=name)(x)


def channels_first(x: tf.Tensor) -> tf.Tensor:
    """N×C×H×W, in which an ONNX graph has it."""
    return tf.transpose(x, (0, 3, 1, 2))


def corners(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """The first, second, third and fourth pixel of every 2×2 window, row by row."""
    return x[:, :, :-1, :-1], x[:, :, :-1, 1:], x[:, :, 1:, :-1], x[:, :, 1:, 1:]


def place_of_maximum(like: tf.Tensor) -> tf.Tensor:
    """Which pixel of every 2×2 window is its largest, 0 to 3; the first of several."""
    first, second, third, fourth = corners(like)
    most = tf.maximum(tf.maximum(first, second), tf.maximum(third, fourth))
    place = tf.where(third == most, 2, 3)
    place = tf.where(second == most, 1, place)
    return tf.where(first == most, 0, place)


def put(x: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Each pixel of x, which stands for a window, at its place in it; of several the last window's, row by row."""
    top = tf.zeros_like(tf.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1))))
    for corner in (3, 2, 1, 0):  # of the windows that share a pixel, the first has it as its last corner
        i, j = divmod(corner, 2)
        around = ((0, 0), (0, 0), (i, 1 - i), (j, 1 - j))
        top = tf.where(tf.pad(place, around, constant_values=-1) == corner, tf.pad(x, around), top)
    return top


@tf.custom_gradient  # type: ignore[untyped-decorator]
def unpool(x: tf.Tensor, place: tf.Tensor) -> Any:
    """`put`, whose gradient is torch's own of max_unpool2d: every pixel takes that of its place, also where another
    has overwritten it."""

    def gradient(above: tf.Tensor) -> tuple[tf.Tensor, None]:
        first, second, third, below = corners(above)
        for corner, one in ((2, third), (1, second), (0, first)):
            below = tf.where(place == corner, one, below)
        return below, None

    return put(x, place), gradient


@keras.saving.register_keras_serializable("segtwin")
class MaxUnpool(layers.Layer):
    """`max_unpool2d(kernel_size=2, stride=1)` by the places of the maxima of `like`, in its size."""

    def call(self, x: KerasTensor, like: KerasTensor) -> KerasTensor:
        """One row and one column more."""
        place = place_of_maximum(channels_first(tf.stop_gradient(like)))
        return tf.transpose(unpool(channels_first(x), place), (0, 2, 3, 1))

    def compute_output_shape(
        self, x_shape: tuple[int | None, ...], like_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """That of `like`, with the channels of x."""
        return (*like_shape[:3], x_shape[3])


def max_unpool(x: KerasTensor, name: str, like: KerasTensor) -> KerasTensor:
    """A `MaxUnpool` layer."""
    return MaxUnpool(name=name)(x, like)


@register("segnet")
def segnet(num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool) -> Network:
    """`SegNet`. Input `image` N×H×W×3, H and W at least 6; output `probability` (or `logits`) N×H×W×classes."""
    n: Blobs = {}
    c1, c2, c3, c4, c5 = widths
    image = image_input(in_channels, "image")
    x = check_size("segnet", image)

    def run(x: KerasTensor, *stages: tuple[str, int]) -> KerasTensor:
        """Convolution, BatchNorm and ReLU, one after the other."""
        for name, filters in stages:
            x = n[f"x{name}"] = BatchNorm("relu", name=f"bn{name}")(conv(x, filters, f"conv{name}"))
        return x

    x12 = run(x, ("11", c1), ("12", c1))  # N×H×W×64
    x = max_pool(x12, "x1p")
    x22 = run(x, ("21", c2), ("22", c2))  # N×(H−1)×(W−1)×128
    x = max_pool(x22, "x2p")
    x33 = run(x, ("31", c3), ("32", c3), ("33", c3))  # N×(H−2)×(W−2)×256
    x = max_pool(x33, "x3p")
    x43 = run(x, ("41", c4), ("42", c4), ("43", c4))  # N×(H−3)×(W−3)×512
    x = max_pool(x43, "x4p")
    x53 = run(x, ("51", c5), ("52", c5), ("53", c5))  # N×(H−4)×(W−4)×512
    x = max_pool(x53, "x5p")

    x = max_unpool(x, "x5d", like=x53)
    x = run(x, ("53d", c5), ("52d", c5), ("51d", c4))
    x = max_unpool(x, "x4d", like=x43)
    x = run(x, ("43d", c4), ("42d", c4), ("41d", c3))
    x = max_unpool(x, "x3d", like=x33)
    x = run(x, ("33d", c3), ("32d", c3), ("31d", c2))
    x = max_unpool(x, "x2d", like=x22)
    x = run(x, ("22d", c2), ("21d", c1))
    x = max_unpool(x, "x1d", like=x12)
    x = run(x, ("12d", c1))
    x = conv(x, num_classes, "conv11d")
    return named(Network(image, answer(x, image, logits, pad=None), name="segnet"), n)


# -------------------------------------------------------------------------------- channel-unet


@keras.saving.register_keras_serializable("segtwin")
class GlobalMean(layers.Layer):
    """The mean of every channel."""

    def call(self, x: KerasTensor) -> KerasTensor:
        """N×1×1×C."""
        return ops.mean(x, axis=(1, 2), keepdims=True)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """N×1×1×C."""
        return shape[0], 1, 1, shape[3]


def gau(high: KerasTensor, low: KerasTensor, module: str, name: str) -> KerasTensor:
    """Global Attention Upsample: ReLU(BN(transposed convolution of `high`) + BN(convolution of `low`) · ReLU(1×1 of the
    mean of `high`)). `bn_high` is never called."""
    filters = low.shape[-1]
    mean = GlobalMean(name=f"{module}.mean")(high)
    mean = conv(mean, filters, f"{module}.conv1x1", kernel=1, pad=0, bias=False, activation="relu")  # N×1×1×low
    mean = idle_norm(mean, f"{module}.bn_high", filters)
    attended = BatchNorm(name=f"{module}.bn_low")(conv(low, filters, f"{module}.conv3x3", bias=False))
    attended = layers.Multiply(name=f"{module}.att")([attended, mean])
    x = deconv(high, filters, f"{module}.conv_upsample", kernel=4, pad=1, bias=False)
    x = BatchNorm(name=f"{module}.bn_upsample")(x)
    return layers.ReLU(name=name)(layers.Add(name=f"{module}.add")([x, attended]))


@register("channel-unet")
def channel_unet(
    num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
) -> Network:
    """`myChannelUnet`. Input `image` N×H×W×3, H and W multiples of 16; output `probability` (or `logits`)
    N×H×W×classes."""
    w1, w2, w3, w4, w5 = widths
    image = image_input(in_channels, "image")
    x = Fit("channel-unet", pad, name="fit")(image)

    c1 = double_conv(x, w1, "conv1")  # N×H×W×64
    x = halve(c1, "p1")
    c2 = double_conv(x, w2, "conv2")  # N×H/2×W/2×128
    x = halve(c2, "p2")
    c3 = double_conv(x, w3, "conv3")  # N×H/4×W/4×256
    x = halve(c3, "p3")
    c4 = double_conv(x, w4, "conv4")  # N×H/8×W/8×512
    x = halve(c4, "p4")
    c5 = double_conv(x, w5, "conv5")  # N×H/16×W/16×1024

    x = deconv(c5, w4, "up6")
    g = gau(c5, c4, "gau_1", "gau1")
    x = layers.Concatenate(name="merge6")([c4, x, g])
    x = double_conv(x, w4, "conv6")
    x = deconv(x, w3, "up7")
    g = gau(g, c3, "gau_2", "gau2")  # of the block before, not of the decoder
    x = layers.Concatenate(name="merge7")([c3, x, g])
    x = double_conv(x, w3, "conv7")
    x = deconv(x, w2, "up8")
    g = gau(g, c2, "gau_3", "gau3")
    x = layers.Concatenate(name="merge8")([c2, x, g])
    x = double_conv(x, w2, "conv8")
    x = deconv(x, w1, "up9")
    g = gau(g, c1, "gau_4", "gau4")
    x = layers.Concatenate(name="merge9")([c1, x, g])
    x = double_conv(x, w1, "conv9")

    x = conv(x, num_classes, "conv10", kernel=1, pad=0)
    return Network(image, answer(x, image, logits, pad), name="channel-unet")


# -------------------------------------------------------------------------------------- CE-Net


@keras.saving.register_keras_serializable("segtwin")
class ResizeHalfPixel(layers.Layer):
    """Bilinear, to the size of `like`; the edges of the corner pixels stay where they are."""

    def call(self, x: KerasTensor, like: KerasTensor) -> KerasTensor:
        """N×H×W×C, H and W those of `like`."""
        size, have = ops.shape(like)[1:3], ops.shape(x)[1:3]
        if x.dtype != "float64":
            return tf.raw_ops.ResizeBilinear(images=x, size=size, half_pixel_centers=True)
        # that kernel returns float32
        return tf.einsum("Hh,nhwc,Ww->nHWc", shares(have[0], size[0]), x, shares(have[1], size[1]))

    def compute_output_shape(
        self, x_shape: tuple[int | None, ...], like_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """N×H×W×C."""
        return (*like_shape[:3], x_shape[3])


def shares(have: int, want: int) -> KerasTensor:
    """want × have: how much of each old pixel is in each new one; float64."""
    old, new = tf.range(tf.cast(have, "float64"), dtype="float64"), tf.range(tf.cast(want, "float64"), dtype="float64")
    place = (new + 0.5) * (tf.cast(have, "float64") / tf.cast(want, "float64")) - 0.5
    place = tf.clip_by_value(place, 0, tf.cast(have - 1, "float64"))
    return tf.nn.relu(1 - tf.abs(place[:, None] - old))


def dac_block(x: KerasTensor, filters: int) -> KerasTensor:
    """Dense atrous convolutions: the input and four branches of convolutions that they share, added."""
    dilate1 = shared_conv(filters, "dblock.dilate1")
    dilate2 = shared_conv(filters, "dblock.dilate2", pad=3, dilation=3)
    dilate3 = shared_conv(filters, "dblock.dilate3", pad=5, dilation=5)
    conv1x1 = shared_conv(filters, "dblock.conv1x1", kernel=1, pad=0)
    one = dilate1(x)
    first = layers.ReLU(name="dblock.dilate1_out")(one)
    second = layers.ReLU(name="dblock.dilate2_out")(conv1x1(dilate2(x)))
    two = dilate2(one)
    third = layers.ReLU(name="dblock.dilate3_out")(conv1x1(two))
    fourth = layers.ReLU(name="dblock.dilate4_out")(conv1x1(dilate3(two)))
    return layers.Add(name="dblock")([x, first, second, third, fourth])


def spp_block(x: KerasTensor) -> KerasTensor:
    """Pyramid pooling: maxima of 2×2, 3×3, 5×5 and 6×6 windows, one channel each, in the size of the input, before the
    input itself."""
    convolution = shared_conv(1, "spp.conv", kernel=1, pad=0)
    levels = []
    for number, size in enumerate((2, 3, 5, 6), start=1):
        pooled = convolution(layers.MaxPooling2D(size, name=f"spp.pool{number}")(x))
        levels.append(ResizeHalfPixel(name=f"spp.layer{number}")(pooled, x))
    return layers.Concatenate(name="spp")([*levels, x])


@register("ce-net")
def ce_net(
    num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
) -> Network:
    """`CE_Net_`. Input `image` N×H×W×3, H and W multiples of 32 from 192 on, or up to 3 less; output `probability` (or
    `logits`) N×32k×32l×classes."""
    three_channels("ce-net", in_channels)
    image = image_input(in_channels, "image")
    x = Fit("ce-net", pad, name="fit")(image)

    # N×H/2×W/2×64
    x = BatchNorm("relu", name="firstbn")(conv(x, 64, "firstconv", kernel=7, stride=2, pad=3, bias=False))
    x = PaddedMaxPool(3, stride=2, pad=1, name="firstmaxpool")(x)  # pads with −∞
    e1 = encoder(x, 64, "encoder1", "e1", blocks=3, stride=1)  # N×H/4×W/4×64
    e2 = encoder(e1, 128, "encoder2", "e2", blocks=4)  # N×H/8×W/8×128
    e3 = encoder(e2, 256, "encoder3", "e3", blocks=6)  # N×H/16×W/16×256
    x = encoder(e3, 512, "encoder4", "e4", blocks=3)  # N×H/32×W/32×512

    x = dac_block(x, 512)
    x = spp_block(x)  # N×H/32×W/32×516

    decoder4 = decoder_block(x, 256, "decoder4")
    x = layers.Add(name="d4")([decoder4, e3])
    x = layers.Add(name="d3")([decoder_block(x, 128, "decoder3"), e2])
    x = layers.Add(name="d2")([decoder_block(x, 64, "decoder2"), e1])
    x = decoder_block(x, 64, "decoder1")  # N×H/2×W/2×64

    x = layers.ReLU(name="finalrelu1")(deconv(x, 32, "finaldeconv1", kernel=4, pad=1))  # N×H×W×32
    x = conv(x, 32, "finalconv2", activation="relu")
    x = conv(x, num_classes, "finalconv3")
    return named(Network(image, answer(x, image, logits, pad), name="ce-net"), {"decoder4": decoder4})


# -------------------------------------------------------------------------------- the two FCNs


def features(x: KerasTensor, widths: tuple[int, ...], stages: int) -> list[KerasTensor]:
    """Pooled maps x1 … of so many stages of VGG-16."""
    found = []
    for number, modules in enumerate(((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))[:stages], start=1):
        for module in modules:
            x = conv(x, widths[number - 1], f"pretrained_net.features.{module}", activation="relu")
        x = halve(x, f"x{number}")
        found.append(x)
    return found


def larger(x: KerasTensor, filters: int, number: int, skip: KerasTensor | None = None) -> KerasTensor:
    """Transposed convolution of stride 2, ReLU, the skip added, BatchNorm."""
    x = layers.ReLU(name=f"relu{number}")(deconv(x, filters, f"deconv{number}", kernel=3, pad=1, output_pad=1))
    x = x if skip is None else layers.Add(name=f"sum{number}")([x, skip])
    return BatchNorm(name=f"bn{number}")(x)


@register("fcn8s-unetzoo")
def fcn8s_unetzoo(
    num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
) -> Network:
    """`FCN8s`. Input `image` N×H×W×3, H and W multiples of 32 or up to 7 more; output `probability` (or `logits`)
    N×32k×32l×classes."""
    three_channels("fcn8s-unetzoo", in_channels)
    c1, c2, c3, c4, _ = widths
    image = image_input(in_channels, "image")
    x = Fit("fcn8s-unetzoo", pad, name="fit")(image)
    _, _, x3, x4, x5 = features(x, widths, stages=5)

    x = larger(x5, c4, 1, skip=x4)  # N×H/16×W/16×512
    x = larger(x, c3, 2, skip=x3)  # N×H/8×W/8×256
    x = larger(x, c2, 3)
    x = larger(x, c1, 4)
    x = larger(x, 32, 5)  # N×H×W×32
    x = conv(x, num_classes, "classifier", kernel=1, pad=0)
    return Network(image, answer(x, image, logits, pad), name="fcn8s-unetzoo")


@register("fcn32s-unetzoo")
def fcn32s_unetzoo(
    num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool, pad: str | None = None
) -> Network:
    """`FCN32s`. Input `image` N×H×W×3, H and W at least 32; output `probability` (or `logits`) N×16k×16l×classes, k =
    ⌊H/16⌋. `features.24`, `26`, `28`, `deconv5` and `bn5` have no part in it."""
    three_channels("fcn32s-unetzoo", in_channels)
    c1, c2, c3, c4, c5 = widths
    image = image_input(in_channels, "image")
    x = Fit("fcn32s-unetzoo", pad, name="fit")(image)
    *_, x = features(x, widths, stages=4)
    for module, inputs in ((24, c4), (26, c5), (28, c5)):
        x = idle_conv(x, f"pretrained_net.features.{module}", [c5, inputs, 3, 3], c5)

    x = larger(x, c4, 1)  # N×H/8×W/8×512
    x = larger(x, c3, 2)
    x = larger(x, c2, 3)
    x = larger(x, c1, 4)  # N×H×W×64
    x = idle_norm(idle_conv(x, "deconv5", [c1, 32, 3, 3], 32), "bn5", 32)
    x = conv(x, num_classes, "classifier", kernel=1, pad=0)
    return Network(image, answer(x, image, logits, pad), name="fcn32s-unetzoo")
