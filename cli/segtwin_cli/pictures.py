"""From a network's output to what is shown of it."""

from __future__ import annotations

import os
import warnings

import numpy as np
import segtwin


def best_class(output: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Each pixel's class: the largest of N×classes×H×W; of a single class, whose output is its probability, 1 from the threshold on. N×H×W uint8."""
    best = output[:, 0] >= threshold if output.shape[1] == 1 else output.argmax(1)
    return best.astype(np.uint8)


def picture_of(image: str | os.PathLike[str]) -> np.ndarray:
    """An image file as it is shown, H×W×3. What is converted on the way was said when it was prepared for the network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", segtwin.Converted)
        return segtwin.read_image(image)
