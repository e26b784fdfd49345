"""Convolutions that can be computed as Caffe computes them: im2col and a matrix product.

By default TensorFlow takes its vendor's kernels (oneDNN on x86), which may add up all products of
an output in one float32 number: 25,088 in fc6. How they do it differs from CPU to CPU. Inside
`caffe_arithmetic` a sum is taken in pieces of `PIECE` products, as BLAS takes it, whichever kernels
compute the pieces: a running sum of n products is off by about √n roundings, one in pieces by
√(PIECE + n / PIECE) (`segtwin.noise`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import keras
from keras import KerasTensor, layers

import tensorflow as tf

PIECE = 256
"""Products that are added up at once. BLAS libraries cut the inner dimension at 192 to 512."""
BLOCK = 1 << 24
"""Numbers in the im2col matrix at once."""
CAFFE: ContextVar[bool] = ContextVar("caffe_arithmetic", default=False)

LEFT_OUT: ContextVar[bool] = ContextVar("left_out", default=False)
"""Whether a pass computes dead zones once: set by a network that is called as a whole, so that a model of some of its
layers has whole blobs."""


@contextmanager
def caffe_arithmetic() -> Iterator[None]:
    """Inside, the models of this package compute convolutions as Caffe does, in this thread and in
    eager calls; graphs are not changed."""
    token = CAFFE.set(True)
    try:
        yield
    finally:
        CAFFE.reset(token)


@keras.saving.register_keras_serializable("segtwin")
class Conv2D(layers.Conv2D):
    """Keras' own layer but for `caffe_arithmetic`; not padded."""

    def call(self, inputs: KerasTensor) -> KerasTensor:
        """N×H×W×filters."""
        if not (CAFFE.get() and tf.executing_eagerly()):
            return super().call(inputs)
        x = convolve(inputs, tf.convert_to_tensor(self.kernel), self.strides[0], self.dilation_rate[0])
        x = add_bias(x, tf.convert_to_tensor(self.bias)) if self.use_bias else x
        return self.activation(x)


@keras.saving.register_keras_serializable("segtwin")
class Conv2DTranspose(layers.Conv2DTranspose):
    """Keras' own layer but for `caffe_arithmetic`; not padded, (n − 1)·stride + kernel pixels."""

    def call(self, inputs: KerasTensor) -> KerasTensor:
        """N×H×W×filters."""
        if not (CAFFE.get() and tf.executing_eagerly()):
            return super().call(inputs)
        x = deconvolve(inputs, tf.convert_to_tensor(self.kernel), self.strides[0])
        x = add_bias(x, tf.convert_to_tensor(self.bias)) if self.use_bias else x
        return self.activation(x)


def convolve(x: tf.Tensor, kernel: tf.Tensor, stride: int, dilation: int = 1) -> tf.Tensor:
    """im2col(x) · kernel. x is N×H×W×I, the kernel k×k×I×O, d·(k − 1) + 1 pixels wide, the result N×⌊(H − extent) /
    stride⌋ + 1×…×O."""
    size, _, inputs, outputs = kernel.shape
    extent = dilation * (size - 1) + 1
    rows, columns = ((length - extent) // stride + 1 for length in x.shape[1:3])
    at_once = max(1, BLOCK // (columns * size * size * inputs * x.shape[0]))
    pieces = []
    for y in range(0, rows, at_once):
        window = x[:, y * stride : (min(y + at_once, rows) - 1) * stride + extent]
        patches = (
            window[:, ::stride, ::stride]
            if size == 1
            else tf.image.extract_patches(
                window, (1, size, size, 1), (1, stride, stride, 1), (1, dilation, dilation, 1), "VALID"
            )
        )
        pieces.append(product(patches, tf.reshape(kernel, (-1, outputs))))
    return tf.concat(pieces, axis=1)


def deconvolve(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """col2im(x · kernelᵀ). x is N×h×w×I, the kernel k×k×O×I, the result N×(h − 1)·stride + k×…×O.

    The kernel is cut into blocks of stride×stride; the blocks in the same place tile the output,
    and those in different places are added.
    """
    images, rows, columns, inputs = x.shape
    size, _, outputs, _ = kernel.shape
    blocks = -(size // -stride)
    more = blocks * stride - size
    kernel = tf.reshape(tf.pad(kernel, ((0, more), (0, more), (0, 0), (0, 0))), (-1, inputs))
    cols = tf.reshape(
        product(x, tf.transpose(kernel)), (images, rows, columns, blocks, stride, blocks, stride, outputs)
    )
    canvas: list[tf.Tensor] = []
    for i in range(blocks):
        for j in range(blocks):
            tiles = tf.transpose(cols[:, :, :, i, :, j], (0, 1, 3, 2, 4, 5))  # N×h×stride×w×stride×O
            tiles = tf.reshape(tiles, (images, rows * stride, columns * stride, outputs))
            around = tf.constant(
                [[0, 0], [i * stride, (blocks - 1 - i) * stride], [j * stride, (blocks - 1 - j) * stride], [0, 0]]
            )
            canvas.append(tf.pad(tiles, around))
    return tf.add_n(canvas)[:, : (rows - 1) * stride + size, : (columns - 1) * stride + size]


def add_bias(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """x + bias, whose gradient is summed over the columns first: one sum of all pixels of conv1_1 is off
    by 100 roundings."""
    images, rows, _, channels = x.shape
    return x + tf.broadcast_to(bias, (images, rows, 1, channels))


def product(x: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """x (…×K) · matrix (K×O), the sum over K in pieces."""
    flat = tf.reshape(x, (-1, matrix.shape[0]))
    total = tf.matmul(flat[:, :PIECE], matrix[:PIECE])
    for start in range(PIECE, matrix.shape[0], PIECE):
        total += tf.matmul(flat[:, start : start + PIECE], matrix[start : start + PIECE])
    return tf.reshape(total, (*x.shape[:-1], matrix.shape[1]))
