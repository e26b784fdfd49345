"""The colours that PASCAL VOC gives to classes."""

from __future__ import annotations

import numpy as np


def voc_palette(colours: int = 256) -> np.ndarray:
    """colours × 3 RGB uint8: the bits of a class's number, dealt out to red, green and blue from the top (`VOClabelcolormap` of the VOC devkit)."""
    palette = np.zeros((colours, 3), np.uint8)
    number = np.arange(colours)
    for bit in range(7, -1, -1):
        for channel in range(3):
            palette[:, channel] |= ((number >> channel & 1) << bit).astype(np.uint8)
        number >>= 3
    return palette
