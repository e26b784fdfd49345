"""The losses as modules, for anyone's training loop; `segtwin.losses` has them in numpy.

Scores are N×C×H×W. Labels are N×H×W or N×1×H×W, of any integer or float type; 255 is ignored.
"""

from __future__ import annotations

import torch
from segtwin.losses import IGNORE_LABEL, MOST_LOSS, NORMALIZATIONS, SMOOTH, class_map
from segtwin.losses import normalizer as normalizer_of
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "BinaryCrossEntropy",
    "BinaryCrossEntropyDice",
    "CrossEntropy",
    "Dice",
    "SoftmaxWithLoss",
]


class SoftmaxWithLoss(nn.Module):
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
        self, normalization: str = "BATCH_SIZE", ignore_label: int | None = IGNORE_LABEL, clip: bool = True
    ) -> None:
        super().__init__()
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"there is no normalization {normalization!r}; there are {', '.join(NORMALIZATIONS)}")
        self.normalization, self.ignore_label, self.clip = normalization, ignore_label, clip

    def forward(self, score: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss, a number.

        Args:
            score: N×C×H×W, before the softmax.
            label: N×H×W or N×1×H×W.
            weight: of each pixel, N×H×W or N×1×H×W.

        Raises:
            LabelError: the shapes do not fit, or a label is none of the classes.
        """
        target = torch.from_numpy(class_map(label.detach().cpu().numpy(), tuple(score.shape), self.ignore_label))
        target = target.to(score.device)
        ignored = torch.zeros_like(target, dtype=torch.bool)
        if self.ignore_label is not None:
            ignored = target == self.ignore_label
        divisor = normalizer_of(self.normalization, len(score), target.numel(), int((~ignored).sum()))
        logs = functional.log_softmax(score, dim=1)
        picked = logs.gather(1, target.masked_fill(ignored, 0)[:, None])[:, 0]
        scale = (~ignored).to(score.dtype)
        if weight is not None:
            scale = scale * weight.to(score).reshape(target.shape)
        loss = -(picked * scale).sum() / divisor
        if not self.clip:
            return loss
        # the value of one, the gradient of the other
        reported = -(picked.clamp(min=-MOST_LOSS) * scale).sum() / divisor
        return reported.detach() + (loss - loss.detach())


class CrossEntropy(SoftmaxWithLoss):
    """Mean over the pixels that are not ignored of −log softmax.

    With the map of `segtwin.data.weight_map` as `weight` it is the U-Net paper's energy
    (arXiv:1505.04597, equation 1), divided by the number of pixels.
    """

    def __init__(self, ignore_label: int | None = IGNORE_LABEL) -> None:
        super().__init__("VALID", ignore_label, clip=False)


def _foreground(label: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Targets 0 and 1, and which pixels count; both N×C×H×W in the logits' dtype."""
    label = label[:, None] if label.ndim == logits.ndim - 1 else label
    images, channels, *size = logits.shape
    class_map(label.detach().cpu().numpy().reshape(-1, *label.shape[2:]), (images * channels, 2, *size))
    counted = label != IGNORE_LABEL
    return torch.where(counted, label, 0).to(logits), counted.to(logits)


class BinaryCrossEntropy(nn.Module):
    """Mean over the pixels that are not ignored of the cross-entropy of sigmoid(logits)."""

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss, a number; logits N×C×H×W, labels 0, 1 or 255."""
        target, counted = _foreground(label, logits)
        loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return (loss * counted).sum() / counted.sum().clamp(min=1)


class Dice(nn.Module):
    """1 − (2·Σpt + 1) / (Σp + Σt + 1) of p = sigmoid(logits), the mean over images and channels."""

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss, a number; logits N×C×H×W, labels 0, 1 or 255."""
        target, counted = _foreground(label, logits)
        probability = torch.sigmoid(logits)
        both = 2 * (probability * target * counted).sum(dim=(2, 3)) + SMOOTH
        either = ((probability + target) * counted).sum(dim=(2, 3)) + SMOOTH
        return 1 - (both / either).mean()


class BinaryCrossEntropyDice(nn.Module):
    """The sum of `BinaryCrossEntropy` and `Dice`."""

    def __init__(self) -> None:
        super().__init__()
        self.binary_cross_entropy, self.dice = BinaryCrossEntropy(), Dice()

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss, a number; logits N×C×H×W, labels 0, 1 or 255."""
        return self.binary_cross_entropy(logits, label) + self.dice(logits, label)
