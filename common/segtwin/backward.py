"""The oracle's backward pass: gradients of every weight, from the gradient of the output.

What `oracle` computes layer by layer is gone through from the end: each operator below takes the
gradient of a layer's top and gives those of its bottoms and of its weights. Dropout is off and
BatchNorm normalises by its running statistics, as in inference: real Caffe's training nets here have
neither. A pooling window sends its gradient to the first of its largest pixels, as Caffe's does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from segtwin import oracle
from segtwin.architectures import Architecture, Layer
from segtwin.architectures.schema import BATCHNORM_EPS
from segtwin.layer_kinds import output_size
from segtwin.losses import softmax_with_loss

Pass = tuple[list[np.ndarray], list[np.ndarray]]
"""Gradients of the bottoms, and of the parameters (weight, bias)."""
Loss = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]
"""From scores N×C×h×w and labels: the loss, and its gradient in the shape of the scores."""


def gradients(
    architecture: Architecture,
    weights: Mapping[str, np.ndarray],
    data: np.ndarray,
    label: np.ndarray,
    loss: Loss = softmax_with_loss,
    dtype: str = "float64",
) -> tuple[float, dict[str, np.ndarray]]:
    """A loss at the network's scores, or at its logits where it ends with a sigmoid, and its gradients.

    Args:
        architecture: any network with one output.
        weights: hub name → array.
        data: N×C×H×W.
        label: N×1×h×w, h×w the size of the output.
        loss: of `segtwin.losses`; by default Caffe's SoftmaxWithLoss (normalize: false).
        dtype: of every number computed.

    Returns:
        The loss as Caffe reports it, and hub name → gradient of every trained parameter (lr_mult
        above 0), in the order of the architecture.
    """
    if architecture.sigmoid:
        *layers, _ = architecture.layers
        architecture = replace(architecture, layers=tuple(layers), output=layers[-1].name)
    blobs = {architecture.input: data.astype(dtype)}
    for layer in architecture.layers:
        if layer.idle:
            continue
        bottoms = [blobs[bottom] for bottom in layer.bottoms]
        parameters = oracle.parameters_of(layer, architecture, weights, dtype)
        top = oracle.OPERATORS[layer.kind](layer, architecture, bottoms, parameters)
        blobs[layer.name] = np.maximum(top, 0) if layer.relu else top
    value, slope = loss(blobs[architecture.output], label)
    return value, of_output(architecture, weights, blobs, slope)


def of_output(
    architecture: Architecture, weights: Mapping[str, np.ndarray], blobs: Mapping[str, np.ndarray], slope: np.ndarray
) -> dict[str, np.ndarray]:
    """Gradients of the trained parameters from that of the output.

    Args:
        architecture: the network.
        weights: hub name → array.
        blobs: the top of every layer, and the input.
        slope: the gradient of the output, in its shape.
    """
    slopes = {architecture.output: slope}
    found: dict[str, np.ndarray] = {}
    for layer in reversed(architecture.layers):
        if layer.name not in slopes:  # the output does not come from it
            for kind in () if layer.idle else ("weight", "bias"):
                name = architecture.parameter_name(layer, kind)
                if name in weights:
                    found.setdefault(name, np.zeros_like(weights[name], slope.dtype))
            continue
        above = slopes.pop(layer.name)
        if layer.relu:
            above = above * (blobs[layer.name] > 0)
        bottoms = [blobs[bottom] for bottom in layer.bottoms]
        parameters = oracle.parameters_of(layer, architecture, weights, slope.dtype)
        below, own = OPERATORS[layer.kind](layer, architecture, bottoms, parameters, above)
        for bottom, one in zip(layer.bottoms, below, strict=False):  # a second bottom may lend its size alone
            slopes[bottom] = slopes[bottom] + one if bottom in slopes else one
        for kind, one in zip(("weight", "bias"), own, strict=False):
            name = architecture.parameter_name(layer, kind)
            found[name] = found[name] + one if name in found else one  # layers may share theirs
    return {one.name: found[one.name] for one in architecture.parameters() if one.lr_mult and one.name in found}


def summed(above: np.ndarray) -> np.ndarray:
    """Over images and pixels, N×C×h×w → C.

    In float32 one after the other, as a plain loop adds: numpy's own pairwise sum would hide what a sum of many pixels
    that cancel costs real engines.
    """
    if above.dtype != np.float32:
        return above.sum(axis=(0, 2, 3))
    return np.cumsum(above.swapaxes(0, 1).reshape(above.shape[1], -1), axis=1, dtype=np.float32)[:, -1]


def convolution(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """dW = above · im2col(x)ᵀ, dx = col2im(Wᵀ · above)."""
    (x,), (weight, *bias) = bottoms, parameters
    biases = [summed(above)] if bias else []
    if layer.groups != 1:
        one = replace(layer, groups=1)
        shares = [np.split(array, layer.groups, axis=1) for array in (x, above)]
        passes = [
            convolution(one, architecture, [part], [own], slope)
            for part, own, slope in zip(shares[0], np.split(weight, layer.groups), shares[1], strict=True)
        ]
        below = np.concatenate([one[0][0] for one in passes], axis=1)
        return [below], [np.concatenate([one[1][0] for one in passes]), *biases]
    kernel, stride, dilation = layer.kernel, layer.stride, layer.dilation
    padded = np.pad(x, ((0, 0), (0, 0), layer.pads, layer.pads))
    height, width = above.shape[2:]
    slope, below = np.empty_like(weight), np.zeros_like(padded)
    for i in range(kernel):
        for j in range(kernel):
            rows = slice(i * dilation, i * dilation + (height - 1) * stride + 1, stride)
            columns = slice(j * dilation, j * dilation + (width - 1) * stride + 1, stride)
            slope[:, :, i, j] = np.einsum("nohw,nihw->oi", above, padded[:, :, rows, columns], optimize=True)
            below[:, :, rows, columns] += np.einsum("oi,nohw->nihw", weight[:, :, i, j], above, optimize=True)
    before, _ = layer.pads
    return [below[:, :, before : before + x.shape[2], before : before + x.shape[3]]], [slope, *biases]


def deconvolution(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """A convolution of the gradient, back to the pixels that each kernel was added from."""
    x, (weight, *bias) = bottoms[0], parameters
    kernel, stride, pad = layer.kernel, layer.stride, layer.pad
    height, width = x.shape[2:]
    whole = np.zeros((*above.shape[:2], (height - 1) * stride + kernel, (width - 1) * stride + kernel), above.dtype)
    rows, columns = (min(pad + size, full) for size, full in zip(above.shape[2:], whole.shape[2:], strict=True))
    whole[:, :, pad:rows, pad:columns] = above[:, :, : rows - pad, : columns - pad]
    slope, below = np.empty_like(weight), np.zeros_like(x)
    for i in range(kernel):
        for j in range(kernel):
            part = whole[:, :, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
            slope[:, :, i, j] = np.einsum("nihw,nohw->io", x, part, optimize=True)
            below += np.einsum("io,nohw->nihw", weight[:, :, i, j], part, optimize=True)
    return [below], [slope, *([summed(above)] if bias else [])]


def deconvolution_same(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """The deconvolution's, of a gradient that is zero where its top was cut."""
    x = bottoms[0]
    full = [(size - 1) * layer.stride + layer.kernel for size in x.shape[2:]]
    whole = np.zeros((*above.shape[:2], *full), above.dtype)
    rows, columns = ((have - size) // 2 for have, size in zip(full, above.shape[2:], strict=True))
    whole[:, :, rows : rows + above.shape[2], columns : columns + above.shape[3]] = above
    return deconvolution(layer, architecture, bottoms, parameters, whole)


def pooling(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """To the first of the largest pixels of each window, row by row."""
    (x,) = bottoms
    pad, kernel, stride = layer.pad, layer.kernel, layer.stride
    height, width = above.shape[2:]
    hang = [max(0, (output_size(layer, size) - 1) * stride + kernel - pad - size) for size in x.shape[2:]]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, hang[0]), (pad, hang[1])), constant_values=-np.inf)
    windows = sliding_window_view(padded, (kernel, kernel), axis=(2, 3))[:, :, ::stride, ::stride]
    first = windows.reshape(*above.shape, -1).argmax(-1)
    below = np.zeros_like(padded)
    for place in range(kernel**2):
        i, j = divmod(place, kernel)
        below[:, :, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride] += above * (
            first == place
        )
    return [below[:, :, pad : pad + x.shape[2], pad : pad + x.shape[3]]], []


def inner_product(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """dW = aboveᵀ · x, dx = above · W."""
    (x,), (weight, _) = bottoms, parameters
    flat = above[:, :, 0, 0]
    return [(flat @ weight).reshape(x.shape)], [flat.T @ x.reshape(len(x), -1), flat.sum(0)]


def scale(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """The same factors."""
    (x,), (weight,) = bottoms, parameters
    return [above * weight[:, None, None]], [summed(above * x)]


def batch_norm(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """Through the running statistics, which are constants."""
    (x,), (weight, _, mean, variance) = bottoms, parameters
    deviation = np.sqrt(variance + BATCHNORM_EPS)[:, None, None]
    normal = (x - mean[:, None, None]) / deviation
    return [above * weight[:, None, None] / deviation], [summed(above * normal), summed(above)]


def crop(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """Zero where it was cut."""
    below, offset = np.zeros_like(bottoms[0]), architecture.offsets[layer.name]
    below[:, :, offset : offset + above.shape[2], offset : offset + above.shape[3]] = above
    return [below], []


def eltwise(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """To every summand."""
    return [above] * len(bottoms), []


def concat(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """Cut where the bottoms meet."""
    return np.split(above, np.cumsum([bottom.shape[1] for bottom in bottoms])[:-1], axis=1), []


def pad_to(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """Without the zeros."""
    height, width = bottoms[0].shape[2:]
    return [above[:, :, :height, :width]], []


def resize(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """To the pixels that it was mixed from."""
    x = bottoms[0]
    places = [np.linspace(0, x.shape[axis] - 1, above.shape[axis]) for axis in (2, 3)]
    return [shared_back(x, places, above)], []


def relu(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """Where it is above zero."""
    return [above * (bottoms[0] > 0)], []


def resize_half_pixel(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """To the pixels that it was mixed from."""
    x = bottoms[0]
    places = [oracle.half_pixel_places(x.shape[axis], above.shape[axis]) for axis in (2, 3)]
    return [shared_back(x, places, above)], []


def shared_back(x: np.ndarray, places: list[np.ndarray], above: np.ndarray) -> np.ndarray:
    """Each pixel's shares back to the four pixels that it was mixed from, one after the other (see `summed`).

    Args:
        x: what was sampled.
        places: of rows and of columns: where the samples fall.
        above: the gradient of the samples.
    """
    shares = []
    for axis, place in zip((2, 3), places, strict=True):
        before = np.minimum(place.astype(int), max(x.shape[axis] - 2, 0))
        after = np.minimum(before + 1, x.shape[axis] - 1)
        shares.append([(before, 1 - (place - before)), (after, place - before)])
    flat = np.moveaxis(above, (2, 3), (0, 1)).reshape(-1, *above.shape[:2])
    below = np.zeros((x.shape[2] * x.shape[3], *x.shape[:2]), above.dtype)
    for (row, down), (column, across) in itertools.product(*shares):
        share = np.outer(down, across).astype(above.dtype).reshape(-1, 1, 1)
        np.add.at(below, np.add.outer(row * x.shape[3], column).ravel(), flat * share)
    return np.moveaxis(below.reshape(*x.shape[2:], *x.shape[:2]), (0, 1), (2, 3))


def upsample_nearest(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """Each block's sum."""
    upper, lower = (above[:, :, i::2, 0::2] + above[:, :, i::2, 1::2] for i in (0, 1))
    return [upper + lower], []


def global_mean(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """An equal share to every pixel."""
    (x,) = bottoms
    return [np.broadcast_to(above / np.array(x.shape[2] * x.shape[3], above.dtype), x.shape).copy()], []


def multiply(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """Each times the other; what one channel or pixel stood for is summed."""
    x, gate = bottoms
    stood = tuple(axis for axis in (1, 2, 3) if gate.shape[axis] != x.shape[axis])
    return [above * gate, (above * x).sum(axis=stood, keepdims=True)], []


def unpooling(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """Every pixel takes the gradient of where it went, also one that was overwritten there: so does torch's
    max_unpool2d. Nothing for what was pooled, which lends places alone."""
    x, pooled = bottoms
    rows, columns = oracle.places(layer, pooled, x.shape[2:])
    images, channels = (index[..., None, None] for index in np.ogrid[: x.shape[0], : x.shape[1]])
    return [above[images, channels, rows, columns]], []


def space_to_batch(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """The way back."""
    return [oracle.batch_to_space(layer, architecture, [above], [])], []


def batch_to_space(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """The way back."""
    return [oracle.space_to_batch(layer, architecture, [above], [])], []


def sigmoid(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """p · (1 − p)."""
    probability = oracle.sigmoid(layer, architecture, bottoms, parameters)
    return [above * probability * (1 - probability)], []


def bgr(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray], above: np.ndarray
) -> Pass:
    """BGR turned round."""
    return [above[:, ::-1]], []


Operator = Callable[[Layer, Architecture, list[np.ndarray], list[np.ndarray], np.ndarray], Pass]
OPERATORS: dict[str, Operator] = {
    "Convolution": convolution,
    "Deconvolution": deconvolution,
    "DeconvolutionSame": deconvolution_same,
    "Pooling": pooling,
    "InnerProduct": inner_product,
    "Scale": scale,
    "BatchNorm": batch_norm,
    "Crop": crop,
    "Eltwise": eltwise,
    "Concat": concat,
    "PadTo": pad_to,
    "Resize": resize,
    "ReLU": relu,
    "ResizeHalfPixel": resize_half_pixel,
    "UpsampleBilinear": resize,
    "UpsampleNearest": upsample_nearest,
    "Unpooling": unpooling,
    "GlobalMean": global_mean,
    "Multiply": multiply,
    "SpaceToBatch": space_to_batch,
    "BatchToSpace": batch_to_space,
    "Sigmoid": sigmoid,
    "BGR": bgr,
}
"""ArgMax has no gradient."""
