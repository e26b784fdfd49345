"""From an image to the array that a network takes, as the original data layers do it.

Source: `voc_layers.py` of shelhamer/fcn.berkeleyvision.org at 1305c7378a9f0ab44b2c936f4d60e4687e3d8743, `load_image`: RGB uint8 → float32 → BGR →
minus the mean → C×H×W.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from segtwin import architectures
from segtwin.images import ImageError, ImageLike, read_image


def preprocess(image: ImageLike | Sequence[ImageLike], row: str | architectures.Row, in_channels: int | None = None) -> np.ndarray:
    """An image as the network of `row` takes it.

    Args:
        image: a file, a PIL image, or an array H×W×3 of uint8 RGB (for one channel H×W); a list of equally large ones makes a batch.
        row: a network's name or its `Row`, which gives the channel order, the mean and the range of values.
        in_channels: of the network, where they are not the row's own: 1 takes grey values.

    Returns:
        float32, N×C×H×W. For the Caffe nets: BGR, 0..255 minus the row's mean; for fcn8-vgg RGB 0..255; for the U-Nets 0..1; for vggfcn* and
        resnet34-unet RGB as torchvision's networks take it, 0..1, minus their mean, over their deviation.

    Raises:
        ImageError: the file is no image; images of a batch differ in size.
        ValueError: the network takes neither 1 nor 3 channels, or the row's mean is for another number.
    """
    row = architectures.get(row)
    channels = row.in_channels if in_channels is None else in_channels
    mean = row.mean if any(row.mean) else (0.0,) * channels
    if channels not in (1, 3) or len(mean) != channels:
        raise ValueError(f"{row.name} with {channels} channels: images have 1 or 3, and the mean of this row is for {len(row.mean)}")
    images = [image] if isinstance(image, str | os.PathLike | Image.Image | np.ndarray) else image
    pixels = [read_image(one, grey=channels == 1) for one in images]
    if len({one.shape for one in pixels}) != 1:
        raise ImageError(f"a batch holds images of one size, not {' and '.join(sorted({f'{p.shape[0]}×{p.shape[1]}' for p in pixels}))}")
    batch: np.ndarray = np.stack(pixels).astype(np.float32)
    if row.colour == "BGR":
        batch = batch[..., ::-1]
    if row.divisor != 1:
        batch = batch / np.float32(row.divisor)
    batch = batch - np.array(mean, np.float32)
    if row.std:
        batch = batch / np.array(row.std, np.float32)
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
