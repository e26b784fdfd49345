"""A third implementation, in numpy: it runs an architecture as Caffe would, and is what the twins
are measured against.

Caffe computes a convolution as im2col and one matrix product a layer; so does this. In float64 it
is the truth that errors are counted from; in float32 it rounds as Caffe rounds, so its distance
from the float64 run is the noise floor where no real Caffe can be asked. It reads the rows, not the
models, and shares no line with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from segtwin.architectures import Architecture, Layer
from segtwin.architectures.schema import BATCHNORM_EPS
from segtwin.architectures.vgg16 import VGG_MEAN
from segtwin.layer_kinds import output_size

BLOCK = 1 << 24
"""Numbers in the im2col matrix at once. Caffe unfolds a whole image; columns do not mix, so cutting
them changes memory and nothing else."""


def run(
    architecture: Architecture, weights: Mapping[str, np.ndarray], data: np.ndarray, dtype: str = "float64"
) -> dict[str, np.ndarray]:
    """Every blob of an inference pass.

    Args:
        architecture: any architecture of `architectures`.
        weights: hub name → array.
        data: N×C×H×W.
        dtype: "float64" or "float32", of every number computed.

    Returns:
        Blob name → N×C×H×W, in the order of the architecture.
    """
    return dict(blobs(architecture, weights, data, dtype))


def blobs(
    architecture: Architecture,
    weights: Mapping[str, np.ndarray],
    data: np.ndarray,
    dtype: str = "float64",
    order: str | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """The blobs of `run`, one by one as they are computed; those that no later layer needs are let
    go.

    `order` is that of the products in the sums of convolutions: as they lie (None), "reversed" or
    "shuffled". It changes roundings and nothing else.
    """
    kept = {architecture.input: data.astype(dtype)}
    yield architecture.input, kept[architecture.input]
    for position, layer in enumerate(architecture.layers):
        if layer.idle:
            continue
        parameters = parameters_of(layer, architecture, weights, dtype)
        bottoms = [kept[bottom] for bottom in layer.bottoms]
        if layer.kind == "Convolution":
            top = convolution(layer, architecture, bottoms, parameters, order)
        else:
            top = OPERATORS[layer.kind](layer, architecture, bottoms, parameters)
        kept[layer.name] = np.maximum(top, 0, out=top) if layer.relu else top
        needed = {bottom for later in architecture.layers[position + 1 :] for bottom in later.bottoms}
        kept = {name: blob for name, blob in kept.items() if name in needed or name == layer.name}
        if layer.name in architecture.blobs:
            yield layer.name, kept[layer.name]


def parameters_of(
    layer: Layer, architecture: Architecture, weights: Mapping[str, np.ndarray], dtype: str | np.dtype
) -> list[np.ndarray]:
    """Weight, bias, running mean and running variance of a layer, those that it has."""
    kinds = ("weight", "bias", "running_mean", "running_var")
    names = [architecture.parameter_name(layer, kind) for kind in kinds]
    return [weights[name].astype(dtype) for name in names if name in weights]


def convolution(
    layer: Layer,
    architecture: Architecture,
    bottoms: list[np.ndarray],
    parameters: list[np.ndarray],
    order: str | None = None,
) -> np.ndarray:
    """W · im2col(x) + b."""
    (x,), (weight, *bias) = bottoms, parameters
    if layer.groups != 1:
        one = replace(layer, groups=1)
        parts = zip(np.split(x, layer.groups, axis=1), np.split(weight, layer.groups), strict=True)
        top = np.concatenate([convolution(one, architecture, [part], [own], order) for part, own in parts], axis=1)
        return top + bias[0][:, None, None] if bias else top
    images, _, *_ = x.shape
    outputs, stride, dilation = len(weight), layer.stride, layer.dilation
    extent = dilation * (layer.kernel - 1) + 1
    padded = np.pad(x, ((0, 0), (0, 0), layer.pads, layer.pads))
    windows = sliding_window_view(padded, (extent, extent), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride, ::dilation, ::dilation]  # N×I×h×w×k×k
    height, width = windows.shape[2:4]
    flat = weight.reshape(outputs, -1)
    products = np.arange(flat.shape[1])
    products = {"reversed": products[::-1], "shuffled": np.random.default_rng(0).permutation(products)}.get(
        order or "", products
    )
    flat = flat[:, products] if order else flat
    top = np.empty((images, outputs, height, width), x.dtype)
    rows_at_once = max(1, BLOCK // (flat.shape[1] * width))
    for image in range(images):
        for y in range(0, height, rows_at_once):
            # im2col
            columns = windows[image, :, y : y + rows_at_once].transpose(0, 3, 4, 1, 2).reshape(flat.shape[1], -1)
            columns = columns[products] if order else columns
            top[image, :, y : y + rows_at_once] = (flat @ columns).reshape(outputs, -1, width)
    return top + bias[0][:, None, None] if bias else top


def deconvolution(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """col2im(Wᵀ · x) + b: every input pixel adds its kernel to the output."""
    if layer.dilation != 1 or layer.groups != 1 or layer.pad_after is not None:
        raise NotImplementedError(f"{layer.name}: a deconvolution with dilation, groups or uneven pads")
    (x,), (weight, *bias) = bottoms, parameters
    images, _, height, width = x.shape
    outputs, kernel, stride, pad = weight.shape[1], layer.kernel, layer.stride, layer.pad
    top = np.zeros((images, outputs, (height - 1) * stride + kernel, (width - 1) * stride + kernel), x.dtype)
    inputs = len(weight)
    for i in range(kernel):  # one row of the kernel at a time: a matrix product, then col2im
        flat = weight[:, :, i].reshape(inputs, -1).T
        for image in range(images):
            columns = (flat @ x[image].reshape(inputs, -1)).reshape(outputs, kernel, height, width)
            rows = top[image, :, i : i + (height - 1) * stride + 1 : stride]
            for j in range(kernel):
                rows[:, :, j : j + (width - 1) * stride + 1 : stride] += columns[:, j]
    more = layer.output_pad - pad
    top = top[:, :, pad : top.shape[2] + more, pad : top.shape[3] + more]
    return top + bias[0][:, None, None] if bias else top


def pooling(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """Maxima of windows; sizes round as the layer's `sizes` say, and a window that hangs over an
    edge takes what there is."""
    (x,) = bottoms
    pad = layer.pad
    hang = [max(0, (output_size(layer, size) - 1) * layer.stride + layer.kernel - pad - size) for size in x.shape[2:]]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, hang[0]), (pad, hang[1])), constant_values=-np.inf)
    windows = sliding_window_view(padded, (layer.kernel, layer.kernel), axis=(2, 3))
    return windows[:, :, :: layer.stride, :: layer.stride].max(axis=(4, 5))


def batch_norm(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """(x − running mean) / √(running variance + eps) · weight + bias, channel by channel."""
    weight, bias, mean, variance = (one[:, None, None] for one in parameters)
    return (bottoms[0] - mean) / np.sqrt(variance + np.array(BATCHNORM_EPS, variance.dtype)) * weight + bias


def concat(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """Channels, one bottom after the other."""
    return np.concatenate(bottoms, axis=1)


def sigmoid(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """1 / (1 + e⁻ˣ), from e^−|x|, which does not overflow."""
    (x,) = bottoms
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1) / (1 + small)


def crop(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """The first bottom cut to the size of the second."""
    x, like = bottoms
    offset = architecture.offsets[layer.name]
    return x[:, :, offset : offset + like.shape[2], offset : offset + like.shape[3]]


def eltwise(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """SUM."""
    return sum(bottoms[1:], start=bottoms[0])


def inner_product(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """W · x + b over all pixels of all channels, in C·H·W order."""
    (x,), (weight, bias) = bottoms, parameters
    return (x.reshape(len(x), -1) @ weight.T + bias)[:, :, None, None]


def scale(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """Every channel times its own number."""
    (x,), (weight,) = bottoms, parameters
    return x * weight[:, None, None]


def bgr(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """RGB turned round, minus VGG_MEAN."""
    (x,) = bottoms
    return x[:, ::-1] - np.array(VGG_MEAN, x.dtype)[:, None, None]


def deconvolution_same(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """The transpose of the SAME convolution that takes `like` to x: TensorFlow pads that one by (n
    − 1)·s + k − size, the smaller half first."""
    x, like = bottoms
    top = deconvolution(layer, architecture, [x], parameters)
    rows, columns = ((full - size) // 2 for full, size in zip(top.shape[2:], like.shape[2:], strict=True))
    return top[:, :, rows : rows + like.shape[2], columns : columns + like.shape[3]]


def argmax(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """The index of the largest channel."""
    return bottoms[0].argmax(1)[:, None]


def pad_to(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """Zeros below and to the right."""
    x, like = bottoms
    return np.pad(
        x, ((0, 0), (0, 0), *((0, want - have) for want, have in zip(like.shape[2:], x.shape[2:], strict=True)))
    )


def resize(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """Linear interpolation along each axis; first and last pixels keep their places."""
    x, like = bottoms
    for axis in (2, 3):
        x = sampled(x, axis, np.linspace(0, x.shape[axis] - 1, like.shape[axis]))
    return x


def relu(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """max(x, 0)."""
    return np.maximum(bottoms[0], 0)


def upsample_bilinear(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """`resize` to twice the rows and columns."""
    (x,) = bottoms
    for axis in (2, 3):
        x = sampled(x, axis, np.linspace(0, x.shape[axis] - 1, 2 * x.shape[axis]))
    return x


def upsample_nearest(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """Every row and column twice."""
    return bottoms[0].repeat(2, axis=2).repeat(2, axis=3)


def resize_half_pixel(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """Linear interpolation along each axis; the edges of first and last pixels keep their places."""
    x, like = bottoms
    for axis in (2, 3):
        x = sampled(x, axis, half_pixel_places(x.shape[axis], like.shape[axis]))
    return x


def half_pixel_places(have: int, want: int) -> np.ndarray:
    """Where the centres of `want` pixels fall among `have`."""
    return ((np.arange(want) + 0.5) * (have / want) - 0.5).clip(0, have - 1)


def global_mean(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """Σ / (h·w)."""
    return bottoms[0].mean(axis=(2, 3), keepdims=True)


def multiply(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """One channel, or one pixel, of the second stands for all."""
    x, gate = bottoms
    return x * gate


def unpooling(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """One pixel after the other, row by row, so that a later one overwrites an earlier one."""
    x, pooled = bottoms
    rows, columns = places(layer, pooled, x.shape[2:])
    size = [(side - 1) * layer.stride + layer.kernel for side in x.shape[2:]]
    top = np.zeros((*x.shape[:2], *size), x.dtype)
    images, channels = np.ogrid[: x.shape[0], : x.shape[1]]
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            top[images, channels, rows[:, :, i, j], columns[:, :, i, j]] = x[:, :, i, j]
    return top


def places(layer: Layer, pooled: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column, in what was pooled, of the largest pixel of each of size[0] × size[1] windows; of several the
    first, row by row."""
    windows = sliding_window_view(pooled, (layer.kernel, layer.kernel), axis=(2, 3))
    windows = windows[:, :, :: layer.stride, :: layer.stride][:, :, : size[0], : size[1]]
    rows, columns = np.divmod(windows.reshape(*windows.shape[:4], -1).argmax(-1), layer.kernel)
    return rows + np.arange(size[0])[:, None] * layer.stride, columns + np.arange(size[1]) * layer.stride


def sampled(x: np.ndarray, axis: int, place: np.ndarray) -> np.ndarray:
    """Values between the pixels of an axis, by linear interpolation."""
    have = x.shape[axis]
    before = np.minimum(place.astype(int), max(have - 2, 0))
    after = np.minimum(before + 1, have - 1)
    share = (place - before).astype(x.dtype).reshape(-1, *[1] * (3 - axis))
    return x.take(before, axis) * (1 - share) + x.take(after, axis) * share


def space_to_batch(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """The four phases of 2×2 blocks, one batch after the other."""
    (x,) = bottoms
    return np.concatenate([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)])


def batch_to_space(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """The way back of `space_to_batch`."""
    (x,) = bottoms
    top = np.empty((len(x) // 4, x.shape[1], 2 * x.shape[2], 2 * x.shape[3]), x.dtype)
    for phase, pixels in enumerate(np.split(x, 4)):
        top[:, :, phase // 2 :: 2, phase % 2 :: 2] = pixels
    return top


Operator = Callable[[Layer, Architecture, list[np.ndarray], list[np.ndarray]], np.ndarray]
OPERATORS: dict[str, Operator] = {
    "Convolution": convolution,
    "Deconvolution": deconvolution,
    "Pooling": pooling,
    "Crop": crop,
    "Eltwise": eltwise,
    "InnerProduct": inner_product,
    "Scale": scale,
    "BGR": bgr,
    "DeconvolutionSame": deconvolution_same,
    "ArgMax": argmax,
    "PadTo": pad_to,
    "Resize": resize,
    "ReLU": relu,
    "ResizeHalfPixel": resize_half_pixel,
    "UpsampleBilinear": upsample_bilinear,
    "UpsampleNearest": upsample_nearest,
    "Unpooling": unpooling,
    "GlobalMean": global_mean,
    "Multiply": multiply,
    "SpaceToBatch": space_to_batch,
    "BatchToSpace": batch_to_space,
    "BatchNorm": batch_norm,
    "Concat": concat,
    "Sigmoid": sigmoid,
}


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """max|got − want| ÷ max|want|; 0 for two blobs of zeros, infinite for unequal shapes, and for
    NaN."""
    if got.shape != want.shape:
        return float("inf")
    difference = float(np.abs(got - want.astype(np.float64)).max(initial=0))
    scale = float(np.abs(want).max(initial=0))
    return (
        float("inf")
        if np.isnan(difference) or np.isnan(scale)
        else difference / scale
        if scale
        else (float("inf") if difference else 0.0)
    )
