"""The losses as `keras.losses.Loss`, for `model.compile` and anyone's training loop; `segtwin.losses`
has them in numpy.

Scores are N×H×W×C. Labels are N×H×W or N×H×W×1, of any integer or float type; 255 is ignored. They
are computed in the dtype of the scores, and are one number, whatever `reduction` says elsewhere.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops
from segtwin.errors import LabelError
from segtwin.losses import IGNORE_LABEL, MOST_LOSS, NORMALIZATIONS, SMOOTH, class_map

import tensorflow as tf

__all__ = [
    "BinaryCrossEntropy",
    "BinaryCrossEntropyDice",
    "CrossEntropy",
    "Dice",
    "SoftmaxWithLoss",
]


class OneNumber(keras.losses.Loss):
    """A loss of a whole batch, in the dtype of the scores."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name=name, reduction=None)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> KerasTensor:
        """The loss; `sample_weight` is a weight of each pixel, N×H×W or N×H×W×1."""
        y_pred = ops.convert_to_tensor(y_pred)
        y_true = ops.convert_to_tensor(y_true)
        if sample_weight is None:
            return self.call(y_true, y_pred)
        return self.call(y_true, y_pred, ops.cast(sample_weight, y_pred.dtype))

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        return {"name": self.name}


def checked_label(label: KerasTensor, score: KerasTensor, classes: int, ignore_label: int | None) -> KerasTensor:
    """Labels as N×H×W int64. In a graph, where a value cannot be an error of its own, one that is no
    class stops the graph; compiled by XLA, which has no such stop, it makes the loss NaN."""
    if len(label.shape) == len(score.shape) and label.shape[-1] == 1:
        label = label[..., 0]
    if tf.executing_eagerly():
        return ops.convert_to_tensor(
            class_map(np.asarray(label), (score.shape[0], classes, *score.shape[1:-1]), ignore_label), "int64"
        )
    if len(label.shape) != 3:
        raise LabelError(f"a label of the shape {tuple(label.shape)} for scores of {tuple(score.shape)}")
    target = ops.cast(label, "int64")
    good = (target >= 0) & (target < classes) & (ops.cast(target, label.dtype) == label)
    if ignore_label is not None:
        good |= target == ignore_label
    complaint = f"a label that is none of the classes 0 to {classes - 1}"
    with tf.control_dependencies([
        tf.debugging.Assert(tf.reduce_all(good), [complaint]),
        tf.debugging.assert_equal(tf.shape(label), tf.shape(score)[:-1], "labels of another size than the scores"),
    ]):  # fmt: skip
        return tf.identity(target)


@keras.saving.register_keras_serializable("segtwin")
class SoftmaxWithLoss(OneNumber):
    """Caffe's layer (BVLC/caffe at 9b89154, `src/caffe/layers/softmax_loss_layer.cpp`).

    The value is Caffe's, with probabilities clipped at FLT_MIN; the gradient is softmax − one-hot, not
    clipped.

    Args:
        normalization: "BATCH_SIZE" (Caffe's `normalize: false`), "VALID" (`normalize: true`), "FULL" or
            "NONE".
        ignore_label: its pixels do not count; None: every label is a class.
        clip: as Caffe reports it; False: the logarithm as it is.
    """

    def __init__(
        self,
        normalization: str = "BATCH_SIZE",
        ignore_label: int | None = IGNORE_LABEL,
        clip: bool = True,
        name: str = "softmax_with_loss",
    ) -> None:
        super().__init__(name)
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"there is no normalization {normalization!r}; there are {', '.join(NORMALIZATIONS)}")
        self.normalization, self.ignore_label, self.clip = normalization, ignore_label, clip

    def call(self, y_true: KerasTensor, y_pred: KerasTensor, weight: KerasTensor | None = None) -> KerasTensor:
        """The loss, a number.

        Args:
            y_true: labels N×H×W or N×H×W×1.
            y_pred: scores N×H×W×C, before the softmax.
            weight: of each pixel, N×H×W or N×H×W×1.

        Raises:
            LabelError: the shapes do not fit, or a label is none of the classes.
        """
        target = checked_label(y_true, y_pred, y_pred.shape[-1], self.ignore_label)
        counted = ops.ones_like(target, dtype="bool")
        if self.ignore_label is not None:
            counted = target != self.ignore_label
        scale = ops.cast(counted, y_pred.dtype)
        pixels = ops.cast(ops.size(target), y_pred.dtype)
        divisor = {
            "BATCH_SIZE": ops.cast(ops.shape(y_pred)[0], y_pred.dtype),
            "VALID": ops.sum(scale),
            "FULL": pixels,
            "NONE": ops.ones_like(pixels),
        }[self.normalization]
        divisor = ops.maximum(divisor, 1)
        logs = ops.log_softmax(y_pred, axis=-1)
        picked = tf.gather(logs, ops.where(counted, target, 0), axis=-1, batch_dims=3)
        # what gather returns for an index out of range differs; a graph of XLA's has no other stop
        wrong = counted & ((target < 0) | (target >= y_pred.shape[-1]))
        picked = ops.where(wrong, ops.cast(float("nan"), y_pred.dtype), picked)
        if weight is not None:
            scale *= ops.reshape(weight, ops.shape(target))
        loss = -ops.sum(picked * scale) / divisor
        if not self.clip:
            return loss
        # the value of one, the gradient of the other
        reported = -ops.sum(ops.maximum(picked, -MOST_LOSS) * scale) / divisor
        return ops.stop_gradient(reported) + (loss - ops.stop_gradient(loss))

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        more = {"normalization": self.normalization, "ignore_label": self.ignore_label, "clip": self.clip}
        return {**super().get_config(), **more}


@keras.saving.register_keras_serializable("segtwin")
class CrossEntropy(SoftmaxWithLoss):
    """Mean over the pixels that are not ignored of −log softmax.

    With the map of `segtwin.data.weight_map` as `sample_weight` it is the U-Net paper's energy
    (arXiv:1505.04597, equation 1), divided by the number of pixels.
    """

    def __init__(self, ignore_label: int | None = IGNORE_LABEL, name: str = "cross_entropy") -> None:
        super().__init__("VALID", ignore_label, clip=False, name=name)

    def get_config(self) -> dict[str, Any]:
        """For `model.save`."""
        return {"name": self.name, "ignore_label": self.ignore_label}


def _foreground(label: KerasTensor, logits: KerasTensor) -> tuple[KerasTensor, KerasTensor]:
    """Targets 0 and 1, and which pixels count; both N×H×W×C in the logits' dtype."""
    label = label[..., None] if len(label.shape) == len(logits.shape) - 1 else label
    if label.shape[-1] != logits.shape[-1]:
        raise LabelError(f"a label of the shape {tuple(label.shape)} for outputs of {tuple(logits.shape)}")
    maps = [
        checked_label(label[..., channel], logits[..., channel : channel + 1], 2, IGNORE_LABEL)
        for channel in range(logits.shape[-1])
    ]
    target = ops.stack(maps, axis=-1)
    counted = target != IGNORE_LABEL
    return ops.cast(ops.where(counted, target, 0), logits.dtype), ops.cast(counted, logits.dtype)


class Foreground(OneNumber):
    """A loss of sigmoids, that takes no weights of pixels."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> KerasTensor:
        """The loss, a number; labels 0, 1 or 255, and logits N×H×W×C."""
        if sample_weight is not None:
            raise ValueError(f"{self.name} takes no sample_weight; ignore pixels by the label {IGNORE_LABEL}")
        return super().__call__(y_true, y_pred)


@keras.saving.register_keras_serializable("segtwin")
class BinaryCrossEntropy(Foreground):
    """Mean over the pixels that are not ignored of the cross-entropy of sigmoid(logits)."""

    def __init__(self, name: str = "binary_cross_entropy") -> None:
        super().__init__(name)

    def call(self, y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
        """The loss, a number; labels 0, 1 or 255, and logits N×H×W×C."""
        target, counted = _foreground(y_true, y_pred)
        loss = tf.nn.sigmoid_cross_entropy_with_logits(target, y_pred)
        return ops.sum(loss * counted) / ops.maximum(ops.sum(counted), 1)


@keras.saving.register_keras_serializable("segtwin")
class Dice(Foreground):
    """1 − (2·Σpt + 1) / (Σp + Σt + 1) of p = sigmoid(logits), the mean over images and channels."""

    def __init__(self, name: str = "dice") -> None:
        super().__init__(name)

    def call(self, y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
        """The loss, a number; labels 0, 1 or 255, and logits N×H×W×C."""
        target, counted = _foreground(y_true, y_pred)
        probability = ops.sigmoid(y_pred)
        both = 2 * ops.sum(probability * target * counted, axis=(1, 2)) + SMOOTH
        either = ops.sum((probability + target) * counted, axis=(1, 2)) + SMOOTH
        return 1 - ops.mean(both / either)


@keras.saving.register_keras_serializable("segtwin")
class BinaryCrossEntropyDice(Foreground):
    """The sum of `BinaryCrossEntropy` and `Dice`."""

    def __init__(self, name: str = "binary_cross_entropy_dice") -> None:
        super().__init__(name)
        self.binary_cross_entropy, self.dice = BinaryCrossEntropy(), Dice()

    def call(self, y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
        """The loss, a number; labels 0, 1 or 255, and logits N×H×W×C."""
        return self.binary_cross_entropy.call(y_true, y_pred) + self.dice.call(y_true, y_pred)
