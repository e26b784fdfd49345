"""milesial's U-Net in Keras, with transposed convolutions or bilinear upsampling.

milesial/Pytorch-UNet@21d7850 unet/unet_model.py, class `UNet`, after Ronneberger, Fischer and Brox,
"U-Net" (MICCAI 2015, arXiv:1505.04597); layers with weights have the names of its state_dict, and so
have the blobs. Its twin is `segtwin_torch/milesial.py`.

Departures from the original: none in what is computed; blobs are N×H×W×C. Checkpoints of its
training script carry `mask_values`, grey values or colours of the classes, which are no weights.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import KerasTensor, layers, ops

import tensorflow as tf
from segtwin_keras.network import Network, check_size, register
from segtwin_keras.unet import BatchNorm, conv, deconv, image_input, max_pool
from segtwin_keras.vggfcn import fit, shares


@keras.saving.register_keras_serializable("segtwin")
class UpsampleBilinear(layers.Layer):
    """Twice the rows and columns; the centres of the corner pixels stay where they are. Keras' own upsampling aligns
    the image's edges."""

    def call(self, x: KerasTensor) -> KerasTensor:
        """N×2H×2W×C."""
        have = ops.shape(x)[1:3]
        size = [2 * side for side in have]
        if x.dtype != "float64":
            return tf.raw_ops.ResizeBilinear(images=x, size=size, align_corners=True)
        # that kernel returns float32
        return tf.einsum("Hh,nhwc,Ww->nHWc", shares(have[0], size[0]), x, shares(have[1], size[1]))

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """N×2H×2W×C."""
        return shape[0], *(None if side is None else 2 * side for side in shape[1:3]), shape[3]


def upsample_bilinear(x: KerasTensor, name: str) -> KerasTensor:
    """An `UpsampleBilinear` layer."""
    return UpsampleBilinear(name=name)(x)


def double_conv(x: KerasTensor, middle: int, filters: int, module: str, name: str) -> KerasTensor:
    """(3×3 convolution without bias, BatchNorm, ReLU) twice, `middle` channels in between; its blob is `name`."""
    x = conv(x, middle, f"{module}.double_conv.0", bias=False)
    x = BatchNorm("relu", name=f"{module}.double_conv.1")(x)
    x = conv(x, filters, f"{module}.double_conv.3", bias=False)
    return BatchNorm("relu", name=f"{module}.double_conv.4")(x)


def down(x: KerasTensor, filters: int, name: str) -> KerasTensor:
    """2×2 maxima, two convolutions."""
    x = max_pool(x, f"{name}.maxpool_conv.0")
    return double_conv(x, filters, filters, f"{name}.maxpool_conv.1", name)


def up(x: KerasTensor, skip: KerasTensor, filters: int, name: str, bilinear: bool) -> KerasTensor:
    """To twice the rows and columns, behind the skip, two convolutions."""
    channels = skip.shape[-1]
    x = upsample_bilinear(x, f"{name}.up") if bilinear else deconv(x, channels, f"{name}.up")
    x = layers.Concatenate(name=f"{name}.cat")([skip, fit(x, f"{name}.fit", like=skip)])
    return double_conv(x, channels if bilinear else filters, filters, f"{name}.conv", name)


def milesial(name: str, num_classes: int, in_channels: int, widths: tuple[int, ...], bilinear: bool) -> Network:
    """What both have in common."""
    c1, c2, c3, c4, c5 = widths
    # a bilinear step passes on half of what it has; a transposed convolution halves it itself
    u1, u2, u3, u4 = (c3, c2, c1, c1) if bilinear else (c4, c3, c2, c1)
    image = image_input(in_channels, "image")
    x = check_size(name, image)

    x1 = double_conv(x, c1, c1, "inc", "inc")  # N×H×W×64
    x2 = down(x1, c2, "down1")  # N×⌊H/2⌋×…×128
    x3 = down(x2, c3, "down2")  # N×⌊H/4⌋×…×256
    x4 = down(x3, c4, "down3")  # N×⌊H/8⌋×…×512
    x = down(x4, c5, "down4")  # N×⌊H/16⌋×…×1024, or N×…×512

    x = up(x, x4, u1, "up1", bilinear)
    x = up(x, x3, u2, "up2", bilinear)
    x = up(x, x2, u3, "up3", bilinear)
    x = up(x, x1, u4, "up4", bilinear)

    x = conv(x, num_classes, "outc.conv", kernel=1, pad=0)  # N×H×W×classes
    return Network(image, x, name=name)


@register("unet-milesial")
def unet_milesial(**arguments: Any) -> Network:
    """`UNet(bilinear=False)`. Input `image` N×H×W×3, H and W at least 16; output `logits` N×H×W×classes."""
    return milesial("unet-milesial", bilinear=False, **arguments)


@register("unet-milesial-bilinear")
def unet_milesial_bilinear(**arguments: Any) -> Network:
    """`UNet(bilinear=True)`. Input `image` N×H×W×3, H and W at least 16; output `logits` N×H×W×classes."""
    return milesial("unet-milesial-bilinear", bilinear=True, **arguments)
