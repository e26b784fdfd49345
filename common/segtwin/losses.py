"""The losses, in numpy: each returns its value and its gradient, and is what the twins' are measured
against.

`softmax_with_loss` is Caffe's layer, BVLC/caffe at 9b891540183ddc834a02b2bd81b31afae71b2153,
`src/caffe/layers/{softmax_loss_layer,loss_layer}.cpp`. The others are the everyday ones of the
U-Nets: the cross-entropies, the Dice loss of Milletari et al. (V-Net, arXiv:1606.04797, section 3,
with one smoothing term in numerator and denominator), and the weighted cross-entropy of the U-Net
paper (arXiv:1505.04597, equations 1 and 2).
"""

from __future__ import annotations

import math

import numpy as np

from segtwin.errors import LabelError

IGNORE_LABEL = 255
"""Pixels of this label have no part in a loss: VOC's void."""
NORMALIZATIONS = ("BATCH_SIZE", "VALID", "FULL", "NONE")
"""What a sum over pixels is divided by: the images, the pixels that are not ignored, all pixels, or 1.

Caffe's `normalize: false` is BATCH_SIZE, its `normalize: true` and its default are VALID.
"""
MOST_LOSS = -math.log(np.finfo(np.float32).tiny)
"""Caffe reports −log(max(p, FLT_MIN)), at most 87.34 a pixel. Its gradient knows nothing of it."""
SMOOTH = 1.0
"""Added to both halves of the Dice fraction, so that an empty mask is no 0/0."""


def class_map(label: np.ndarray, shape: tuple[int, ...], ignore_label: int | None = IGNORE_LABEL) -> np.ndarray:
    """Labels as N×H×W whole numbers.

    Args:
        label: N×1×H×W or N×H×W, of integers or of floats that are whole.
        shape: of the scores, N×C×H×W.
        ignore_label: allowed beside 0 … C − 1; None: nothing is.

    Raises:
        LabelError: the shapes do not fit; a label is none of the classes; the first is named.
    """
    images, classes, *size = shape
    label = np.asarray(label)
    if label.shape not in ((images, *size), (images, 1, *size)):
        raise LabelError(
            f"a label of the shape {label.shape} for scores of {tuple(shape)}; it is "
            f"{'×'.join(map(str, (images, 1, *size)))}, one class a pixel"
        )
    label = label.reshape(images, *size)
    whole = label.astype(np.int64)
    wrong = (whole != label) | (whole < 0) | (whole >= classes)
    if ignore_label is not None:
        wrong &= whole != ignore_label
    if wrong.any():
        first = label[wrong][0]
        hint = "; a mask of 0 and 255 has to become 0 and 1 first" if first == 255 and classes <= 2 else ""
        raise LabelError(
            f"label {first} in {int(wrong.sum())} of {label.size} pixels; the classes are 0 to {classes - 1}"
            f"{'' if ignore_label is None else f', and {ignore_label} is ignored'}{hint}"
        )
    return whole


def normalizer(normalization: str, images: int, pixels: int, valid: int) -> int:
    """What the sum is divided by, as `LossLayer::GetNormalizer`: never less than 1.

    Raises:
        ValueError: there is no such normalization.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"there is no normalization {normalization!r}; there are {', '.join(NORMALIZATIONS)}")
    return max(1, {"BATCH_SIZE": images, "VALID": valid, "FULL": pixels, "NONE": 1}[normalization])


def log_softmax(score: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities, over the channels."""
    shifted = score - score.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax_with_loss(
    score: np.ndarray,
    label: np.ndarray,
    normalization: str = "BATCH_SIZE",
    ignore_label: int | None = IGNORE_LABEL,
    clip: bool = True,
    weight: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    """Caffe's SoftmaxWithLoss.

    Args:
        score: N×C×H×W, before the softmax.
        label: N×1×H×W or N×H×W.
        normalization: one of `NORMALIZATIONS`.
        ignore_label: its pixels do not count; None: every label is a class.
        clip: report no probability below FLT_MIN, as Caffe does; the gradient is the same.
        weight: of each pixel, N×1×H×W or N×H×W; the U-Net paper's map. Caffe has none.

    Returns:
        The loss, and its gradient in the shape of the score: (softmax − one-hot) · weight ÷
        normalizer.

    Raises:
        LabelError, ValueError: of `class_map` and `normalizer`.
    """
    target = class_map(label, score.shape, ignore_label)
    counted = np.ones(target.shape, bool) if ignore_label is None else target != ignore_label
    scale = counted.astype(score.dtype)
    if weight is not None:
        scale = scale * np.asarray(weight, score.dtype).reshape(target.shape)
    divisor = normalizer(normalization, len(score), target.size, int(counted.sum()))
    logs = log_softmax(score)
    index = np.where(counted, target, 0)[:, None]
    picked = np.take_along_axis(logs, index, axis=1)[:, 0]
    loss = -(np.maximum(picked, -MOST_LOSS) if clip else picked)
    gradient = np.exp(logs)
    np.put_along_axis(gradient, index, np.take_along_axis(gradient, index, axis=1) - 1, axis=1)
    return float((loss * scale).sum() / divisor), gradient * scale[:, None] / divisor


def cross_entropy(
    score: np.ndarray, label: np.ndarray, ignore_label: int | None = IGNORE_LABEL, weight: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Mean over the pixels that are not ignored of −log softmax, and its gradient; nothing is clipped.

    `weight` multiplies pixels, and does not change what the sum is divided by. The U-Net paper's
    energy (equation 1) is this with the map of equation 2; the paper sums, Caffe's layer divides.
    """
    return softmax_with_loss(score, label, "VALID", ignore_label, clip=False, weight=weight)


def _foreground(label: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Targets 0 and 1, and which pixels count, N×C×H×W; C labels, or one for one output."""
    label = np.asarray(label)
    label = label[:, None] if label.ndim == 3 else label
    if label.shape != tuple(shape):
        raise LabelError(f"a label of the shape {label.shape} for outputs of {tuple(shape)}; both have to be alike")
    counted = label != IGNORE_LABEL
    wrong = counted & (label != 0) & (label != 1)
    if wrong.any():
        raise LabelError(
            f"label {label[wrong][0]} in {int(wrong.sum())} of {label.size} pixels; the foreground is 1, the rest 0, "
            f"and {IGNORE_LABEL} is ignored"
        )
    return np.where(counted, label, 0).astype(dtype), counted.astype(dtype)


def binary_cross_entropy(logits: np.ndarray, label: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean over the pixels that are not ignored of the cross-entropy of sigmoid(logits), and its
    gradient with respect to the logits.

    Args:
        logits: N×C×H×W, before the sigmoid.
        label: 0, 1 or 255 of the same shape; N×H×W for C = 1.
    """
    target, counted = _foreground(label, logits.shape, logits.dtype)
    divisor = max(1.0, float(counted.sum()))
    small = np.exp(-np.abs(logits))
    loss = np.maximum(logits, 0) - logits * target + np.log1p(small)
    probability = np.where(logits < 0, small, 1) / (1 + small)
    return float((loss * counted).sum() / divisor), (probability - target) * counted / divisor


def dice(logits: np.ndarray, label: np.ndarray) -> tuple[float, np.ndarray]:
    """1 − (2·Σpt + 1) / (Σp + Σt + 1) with p = sigmoid(logits), over each image and channel, then their
    mean; and its gradient with respect to the logits. Pixels of label 255 are in no sum."""
    target, counted = _foreground(label, logits.shape, logits.dtype)
    small = np.exp(-np.abs(logits))
    probability = np.where(logits < 0, small, 1) / (1 + small)
    both = 2 * (probability * target * counted).sum(axis=(2, 3), keepdims=True) + SMOOTH
    either = ((probability + target) * counted).sum(axis=(2, 3), keepdims=True) + SMOOTH
    maps = both.size
    slope = -(2 * target * either - both) / either**2 / maps
    return float(1 - (both / either).mean()), slope * counted * probability * (1 - probability)


def binary_cross_entropy_dice(logits: np.ndarray, label: np.ndarray) -> tuple[float, np.ndarray]:
    """The sum of `binary_cross_entropy` and `dice`, and its gradient."""
    (one, slope), (other, more) = binary_cross_entropy(logits, label), dice(logits, label)
    return one + other, slope + more
