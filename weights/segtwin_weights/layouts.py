"""Layouts of weights: OIHW of Caffe and torch, HWIO of TensorFlow and Keras, and the columns of fc6.

    kernels          Caffe, torch, hub   O×I×kh×kw      TensorFlow, Keras, vgg16.npy   kh×kw×I×O
    deconvolutions   Caffe, torch, hub   I×O×kh×kw      TensorFlow, Keras              kh×kw×O×I
    fc6              Caffe, torch, hub   O×(C·H·W)      TensorFlow, Keras, vgg16.npy   (H·W·C)×O

One transposition serves convolutions and deconvolutions, since both turn I and O.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from segtwin.architectures.vgg16 import CLASSIFIER_PIXELS

TO_OIHW = (3, 2, 0, 1)
"""Transposition of a kernel from TensorFlow's layout to the hub's."""
TO_HWIO = (2, 3, 1, 0)
"""The way back."""


def to_caffe(name: str, weight: np.ndarray) -> np.ndarray:
    """One layer's weights from vgg16.npy's layout to Caffe's, contiguous."""
    if weight.ndim == 4:
        return np.ascontiguousarray(weight.transpose(TO_OIHW))
    return _outputs_first(weight, CLASSIFIER_PIXELS if name == "fc6" else 1)


def from_caffe(name: str, weight: np.ndarray) -> np.ndarray:
    """The way back of `to_caffe`."""
    if weight.ndim == 4:
        return np.ascontiguousarray(weight.transpose(TO_HWIO))
    outputs, pixels = len(weight), CLASSIFIER_PIXELS if name == "fc6" else 1
    return np.ascontiguousarray(weight.reshape(outputs, -1, pixels).transpose(2, 1, 0)).reshape(-1, outputs)


WORTH_A_THREAD = 16 << 20
"""Bytes that one thread moves in some milliseconds. Where memory is short, Python waits for ever
for a thread that cannot begin."""


def _outputs_first(
    weight: np.ndarray, pixels: int, channels_at_once: int = 16, outputs_at_once: int = 64
) -> np.ndarray:
    """An inner product from (H·W·C)×O to O×(C·H·W), with H·W = `pixels`.

    fc6 is 411 MB that change places: the move goes block by block, so that both of its ends stay in
    the processor's cache, and two at a time.
    """
    outputs = weight.shape[1]
    source = weight.reshape(pixels, -1, outputs)
    channels = source.shape[1]
    target = np.empty((outputs, channels, pixels), weight.dtype)

    def move(o: int) -> None:
        for c in range(0, channels, channels_at_once):
            block = source[:, c : c + channels_at_once, o : o + outputs_at_once]
            target[o : o + outputs_at_once, c : c + channels_at_once] = block.transpose(2, 1, 0)

    moves = range(0, outputs, outputs_at_once)
    if weight.nbytes < WORTH_A_THREAD:
        for o in moves:
            move(o)
    else:
        with ThreadPoolExecutor(max_workers=2) as pool:  # numpy copies without holding the interpreter's lock
            list(pool.map(move, moves))
    return target.reshape(outputs, -1)
