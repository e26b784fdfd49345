"""The rows: every network as a frozen table of its layers, in the order and under the names of its prototxt.

A row is a contract, not an interpreter. The models in `segtwin_torch` and `segtwin_keras` are written by hand, one layer a line; the tests
hold both to the row, and the rows to the files that real Caffe wrote.

Sources: shelhamer/fcn.berkeleyvision.org at 1305c7378a9f0ab44b2c936f4d60e4687e3d8743, `voc-fcn8s/net.py` and `solver.prototxt`; Long, Shelhamer
and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015 and PAMI 2016; Simonyan and Zisserman, "Very Deep
Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, configuration D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

from segtwin import geometry

PASCAL_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class Normal(NamedTuple):
    """A start drawn from the normal distribution of mean 0."""

    sigma: float


class Uniform(NamedTuple):
    """A start drawn evenly from −bound … bound."""

    bound: float


class Parameter(NamedTuple):
    """One blob of weights, as Caffe would hold it."""

    name: str
    """`conv1_1/weight` or `conv1_1/bias`."""
    shape: tuple[int, ...]
    """O×I×kh×kw of a convolution, I×O×kh×kw of a deconvolution, O×I of an inner product, O of a bias."""
    lr_mult: float
    decay_mult: float
    fill: str | float | Normal | Uniform
    """How it starts when nothing is copied into it: a constant, a distribution, "bilinear", or "counter" (an int64 zero)."""


@dataclass(frozen=True)
class Layer:
    """One layer; its top blob has its name. `relu` and `dropout` stand for the in-place layers that follow, so the blob is what they leave."""

    name: str
    kind: str
    """Caffe's layer type: Convolution, Pooling, Deconvolution, Crop, Eltwise, InnerProduct, Concat, Sigmoid, BatchNorm (torch's, with weight and
    bias); or MaxPool: pooling as torch does it, sizes rounded down."""
    bottoms: tuple[str, ...]
    width: str | int | None = None
    """Which entry of the row's widths counts the outputs ("c1" … "fc7"), or "classes", or their number."""
    kernel: int = 1
    stride: int = 1
    pad: int = 0
    relu: bool = False
    dropout: float = 0.0
    bias: bool = True
    lr_mult: tuple[float, float] = (1, 2)
    """Of the weight and of the bias."""
    decay_mult: tuple[float, float] = (1, 0)
    fill: str | float = 0.0
    """Of the weights: a constant, "bilinear", "he" (σ = √(2/N), N the incoming values of one output), "fan-out" (torchvision's ResNets: σ = √(2/N),
    N the values that one input goes out to) or "torch" (evenly within ±1/√N, N = O·kh·kw of a deconvolution and I·kh·kw of a convolution)."""
    output_pad: int = 0
    """Of a deconvolution: rows and columns more at the bottom and right, as torch's output_padding."""
    module: str = ""
    """What holds its weights, when that has another name than its blob: a module of the state_dict."""


def conv(name: str, bottom: str, width: str, kernel: int = 3, pad: int = 1, dropout: float = 0.0) -> Layer:
    """`conv_relu` of net.py, with the Dropout that follows fc6 and fc7."""
    return Layer(name, "Convolution", (bottom,), width, kernel, pad=pad, relu=True, dropout=dropout)


def pool(name: str, bottom: str) -> Layer:
    """`max_pool` of net.py: 2×2, stride 2, sizes rounded up."""
    return Layer(name, "Pooling", (bottom,), kernel=2, stride=2)


def score(name: str, bottom: str) -> Layer:
    """A 1×1 convolution to the classes. No filler is named in net.py, so Caffe's default holds: it starts at zero."""
    return Layer(name, "Convolution", (bottom,), "classes")


def upscore(name: str, bottom: str, kernel: int, stride: int) -> Layer:
    """A bilinear deconvolution that is not trained (lr_mult 0), has no bias, and is not padded."""
    return Layer(name, "Deconvolution", (bottom,), "classes", kernel, stride, bias=False, lr_mult=(0, 0), decay_mult=(1, 0), fill="bilinear")


def crop(name: str, bottom: str, like: str) -> Layer:
    """`crop(bottom, like)` of caffe.coord_map: `bottom` cut to the size of `like`, at an offset that `geometry.crop_offsets` derives."""
    return Layer(name, "Crop", (bottom, like))


def fuse(name: str, *bottoms: str) -> Layer:
    """Eltwise SUM."""
    return Layer(name, "Eltwise", bottoms)


def inner_product(name: str, bottom: str, width: str, relu: bool = True, dropout: float = 0.0) -> Layer:
    """A fully connected layer of the classifier; its columns run over its bottom in C·H·W order."""
    return Layer(name, "InnerProduct", (bottom,), width, relu=relu, dropout=dropout)


def vgg16_features(pad: int) -> tuple[Layer, ...]:
    """conv1_1 … pool5 of VGG-16. The FCNs pad the first convolution by 100 pixels, so that an image of any size reaches fc6."""
    return (
        conv("conv1_1", "data", "c1", pad=pad),
        conv("conv1_2", "conv1_1", "c1"),
        pool("pool1", "conv1_2"),
        conv("conv2_1", "pool1", "c2"),
        conv("conv2_2", "conv2_1", "c2"),
        pool("pool2", "conv2_2"),
        conv("conv3_1", "pool2", "c3"),
        conv("conv3_2", "conv3_1", "c3"),
        conv("conv3_3", "conv3_2", "c3"),
        pool("pool3", "conv3_3"),
        conv("conv4_1", "pool3", "c4"),
        conv("conv4_2", "conv4_1", "c4"),
        conv("conv4_3", "conv4_2", "c4"),
        pool("pool4", "conv4_3"),
        conv("conv5_1", "pool4", "c5"),
        conv("conv5_2", "conv5_1", "c5"),
        conv("conv5_3", "conv5_2", "c5"),
        pool("pool5", "conv5_3"),
    )


def fcn_features() -> tuple[Layer, ...]:
    """What the FCNs share: VGG-16 with its classifier as convolutions, "fully conv" in net.py."""
    return (
        *vgg16_features(pad=100),
        conv("fc6", "pool5", "fc6", kernel=7, pad=0, dropout=0.5),
        conv("fc7", "fc6", "fc7", kernel=1, pad=0, dropout=0.5),
    )


VGG16_WIDTHS: Mapping[str, int] = MappingProxyType({"c1": 64, "c2": 128, "c3": 256, "c4": 512, "c5": 512, "fc6": 4096, "fc7": 4096})


@dataclass(frozen=True)
class Row:
    """A network: its layers and everything a user of its weights has to know."""

    name: str
    layers: tuple[Layer, ...]
    output: str
    """The blob that is the answer; the ONNX output of the same name."""
    num_classes: int
    colour: str
    """Order of the input's channels, "BGR" or "RGB"."""
    mean: tuple[float, ...]
    """Subtracted from the values (0..255 divided by `scale`), in the order of `colour`."""
    citation: str
    source: str
    """The definition this row was read from, with its commit."""
    input: str = "data"
    in_channels: int = 3
    widths: Mapping[str, int] = field(default_factory=lambda: VGG16_WIDTHS)
    classes: tuple[str, ...] | None = None
    """Names of the classes, when the published weights have them."""
    published: str = ""
    """What the publication reports of it."""
    dropout: float | None = 0.5
    """The rate in training; None: the network has no dropout."""
    options: tuple[str, ...] = ()
    """Names of the row options of `build`."""
    naming: str = "caffe"
    """How the hub names its weights: "caffe" (`conv1_1/weight`) or "torch" (the state_dict's keys, `conv1.conv.0.weight`)."""
    state: Callable[[int, int, Mapping[str, int]], tuple[Parameter, ...]] | None = None
    """For networks without a table of layers: (num_classes, in_channels, widths) → every parameter, in the order of the state_dict."""
    blob_names: tuple[str, ...] = ()
    """For networks without a table of layers, or with layers whose tops have no name in the original: every blob, the input first."""
    scale: float = 1.0
    """Divides the 0..255 values first."""
    std: tuple[float, ...] = ()
    """Divides them last, after the mean is gone, in the order of `colour`."""
    size_least: int = 1
    """The smallest rows or columns of an input."""
    size_step: int = 1
    """The next legal size is so many pixels larger."""

    @cached_property
    def offsets(self) -> Mapping[str, int]:
        """Crop layer → its offset, derived."""
        return geometry.crop_offsets(self.layers)

    def layer(self, name: str) -> Layer:
        """The layer of that name.

        Raises:
            KeyError: there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"{self.name} has no layer {name!r}")

    @cached_property
    def blobs(self) -> tuple[str, ...]:
        """Every blob of a forward pass, in order: the input, then the top of each layer."""
        return self.blob_names or (self.input, *(layer.name for layer in self.layers))

    @property
    def keeps_size(self) -> bool:
        """Whether the output has the rows and columns of the input."""
        last = self.layer(self.output)
        if last.kind == "Sigmoid":
            return True
        return last.kind == "Crop" and last.bottoms[1] == self.input

    def legal_size(self, size: int) -> int:
        """The smallest legal number of rows or columns that is not below `size`."""
        return self.size_least + max(0, -((size - self.size_least) // -self.size_step)) * self.size_step

    def check_size(self, height: int, width: int) -> None:
        """Refuse images whose rows or columns do not fit.

        Raises:
            ValueError: the message says which sizes do and names the nearest.
        """
        if (height, width) == (above := (self.legal_size(height), self.legal_size(width))):
            return
        below = tuple(max(self.size_least, self.legal_size(size - self.size_step + 1)) for size in (height, width))
        nearest = " or ".join(dict.fromkeys(f"{rows}×{columns}" for rows, columns in (below, above)))
        rule = f"{self.size_least} + {self.size_step}·k" if self.size_least % self.size_step else f"multiples of {self.size_step}"
        raise ValueError(f"{self.name}: {height}×{width} pixels do not fit; rows and columns are {rule}, the nearest {nearest}")

    def parameter_name(self, layer: Layer, kind: str) -> str:
        """`conv1_1/weight` in Caffe's networks, `conv1.conv.0.weight` in those that come from torch."""
        return f"{layer.module or layer.name}{'/' if self.naming == 'caffe' else '.'}{kind}"

    def resolve_widths(self, widths: Iterable[int] | None = None) -> dict[str, int]:
        """The row's own widths, or these in their place: (c1, c2, c3, c4, c5, fc6, fc7) for the VGG nets, (c1, …, c5) from
        the finest level down for the U-Nets, none for resnet34-unet.

        Raises:
            ValueError: a wrong number of widths, or one below 1.
        """
        if widths is None:
            return dict(self.widths)
        values = [int(width) for width in widths]
        if len(values) != len(self.widths) or min(values, default=1) < 1:
            raise ValueError(f"{self.name}: widths are {len(self.widths)} positive numbers ({', '.join(self.widths)}), not {tuple(values)}")
        return dict(zip(self.widths, values, strict=True))

    def channels(self, num_classes: int | None = None, widths: Iterable[int] | None = None, in_channels: int | None = None) -> dict[str, int]:
        """Blob name → its channels."""
        count = {**self.resolve_widths(widths), "classes": self.num_classes if num_classes is None else num_classes}
        if count["classes"] < 1:
            raise ValueError(f"{self.name}: num_classes is at least 1, not {num_classes}")
        channels = {self.input: self.in_channels if in_channels is None else in_channels}
        for layer in self.layers:
            if isinstance(layer.width, int):
                channels[layer.name] = layer.width
            elif layer.kind == "Concat":
                channels[layer.name] = sum(channels[bottom] for bottom in layer.bottoms)
            else:
                channels[layer.name] = count[layer.width] if layer.width else channels[layer.bottoms[0]]
        return channels

    def shapes(self, height: int, width: int, num_classes: int | None = None, widths: Iterable[int] | None = None) -> dict[str, tuple[int, int, int]]:
        """Blob name → (channels, rows, columns) for an input of height × width pixels.

        Raises:
            ValueError: the input is too small for a layer, which is named, or does not fit the network.
        """
        self.check_size(height, width)
        channels = self.channels(num_classes, widths)
        sizes = {self.input: (height, width)}
        for layer in self.layers:
            if layer.kind == "InnerProduct":
                sizes[layer.name] = (1, 1)
            elif layer.kind == "Crop":
                sizes[layer.name] = sizes[layer.bottoms[1]]
            else:
                rows, columns = sizes[layer.bottoms[0]]
                more = layer.output_pad
                sizes[layer.name] = (geometry.output_size(layer, rows) + more, geometry.output_size(layer, columns) + more)
        return {name: (channels[name], *sizes[name]) for name in self.blobs}

    def parameters(
        self, num_classes: int | None = None, widths: Iterable[int] | None = None, in_channels: int | None = None
    ) -> tuple[Parameter, ...]:
        """Every blob of weights, weight before bias, in the order of the prototxt."""
        widths = None if widths is None else tuple(widths)
        if self.state is not None:
            count = self.num_classes if num_classes is None else num_classes
            return self.state(count, self.in_channels if in_channels is None else in_channels, self.resolve_widths(widths))
        channels = self.channels(num_classes, widths, in_channels)
        parameters = []
        for layer in self.layers:
            inputs, outputs = channels[layer.bottoms[0]], channels[layer.name]
            window = (layer.kernel, layer.kernel)
            if layer.kind == "Convolution":
                shape: tuple[int, ...] = (outputs, inputs, *window)
            elif layer.kind == "Deconvolution":
                shape = (inputs, outputs, *window)
            elif layer.kind == "InnerProduct":
                pixels = CLASSIFIER_PIXELS if layer.bottoms[0] == "pool5" else 1
                shape = (outputs, inputs * pixels)
            elif layer.kind == "BatchNorm":
                learned, kept = (("weight", 1.0), ("bias", 0.0)), (("running_mean", 0.0), ("running_var", 1.0))
                parameters += [Parameter(self.parameter_name(layer, kind), (outputs,), 1, 1, fill) for kind, fill in learned]
                parameters += [Parameter(self.parameter_name(layer, kind), (outputs,), 0, 0, fill) for kind, fill in kept]
                parameters.append(Parameter(self.parameter_name(layer, "num_batches_tracked"), (), 0, 0, "counter"))
                continue
            else:
                continue
            weight_fill, bias_fill = fills(layer, shape)
            parameters.append(Parameter(self.parameter_name(layer, "weight"), shape, layer.lr_mult[0], layer.decay_mult[0], weight_fill))
            if layer.bias:
                parameters.append(Parameter(self.parameter_name(layer, "bias"), (outputs,), layer.lr_mult[1], layer.decay_mult[1], bias_fill))
        return tuple(parameters)


def fills(layer: Layer, shape: tuple[int, ...]) -> tuple[str | float | Normal | Uniform, float | Uniform]:
    """How the weights (of this shape, in the hub's layout) and the biases of a layer start; what the words mean stands at `Layer.fill`."""
    window = math.prod(shape[2:])
    if layer.fill == "he":  # one pixel of a deconvolution whose stride is its kernel sees one number of each input channel
        return Normal(math.sqrt(2 / (shape[0] if layer.kind == "Deconvolution" else shape[1] * window))), 0.0
    if layer.fill == "fan-out":
        return Normal(math.sqrt(2 / (shape[0] * window))), 0.0
    if layer.fill == "torch":  # kaiming_uniform_ with a = √5: √(6 / (1 + a²) / N); it takes the second axis for the inputs, in both layouts
        bound = Uniform(1 / math.sqrt(shape[1] * window))
        return bound, bound
    return layer.fill, 0.0


BATCHNORM_EPS, BATCHNORM_MOMENTUM = 1e-5, 0.1
"""torch's defaults: added to the variance; the share of a new batch in the running statistics (Keras' own momentum counts the old ones: 0.9)."""

CLASSIFIER_PIXELS = 7 * 7
"""Pixels of pool5 that VGG-16's fc6 sees, of an image of 224×224: fc6 is a 7×7 convolution in disguise."""

CVPR = "Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015 / PAMI 2016 (arXiv:1411.4038, 1605.06211)"
FCN_COMMIT = "shelhamer/fcn.berkeleyvision.org@1305c7378a9f0ab44b2c936f4d60e4687e3d8743"
FCN_MEAN = (104.00699, 116.66877, 122.67892)
"""Of the ILSVRC training images, B, G, R; `mean` of net.py's data layers."""
VGG_MEAN = (103.939, 116.779, 123.68)
"""B, G, R, as the VGG authors give it."""

VGG16 = Row(
    name="vgg16",
    layers=(
        *vgg16_features(pad=1),
        inner_product("fc6", "pool5", "fc6", dropout=0.5),
        inner_product("fc7", "fc6", "fc7", dropout=0.5),
        inner_product("fc8", "fc7", "classes", relu=False),
    ),
    output="fc8",
    num_classes=1000,
    colour="BGR",
    mean=VGG_MEAN,
    citation="Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015 (arXiv:1409.1556)",
    source="VGG_ILSVRC_16_layers_deploy.prototxt (the authors' release)",
)

FCN8S = Row(
    name="fcn8s",
    layers=(
        *fcn_features(),
        score("score_fr", "fc7"),
        upscore("upscore2", "score_fr", kernel=4, stride=2),
        score("score_pool4", "pool4"),
        crop("score_pool4c", "score_pool4", like="upscore2"),
        fuse("fuse_pool4", "upscore2", "score_pool4c"),
        upscore("upscore_pool4", "fuse_pool4", kernel=4, stride=2),
        score("score_pool3", "pool3"),
        crop("score_pool3c", "score_pool3", like="upscore_pool4"),
        fuse("fuse_pool3", "upscore_pool4", "score_pool3c"),
        upscore("upscore8", "fuse_pool3", kernel=16, stride=8),
        crop("score", "upscore8", like="data"),
    ),
    output="score",
    num_classes=21,
    colour="BGR",
    mean=FCN_MEAN,
    citation=CVPR,
    source=f"{FCN_COMMIT} voc-fcn8s/net.py",
    classes=PASCAL_CLASSES,
    published="65.5 mean IU on PASCAL VOC 2011 seg11valid (heavy)",
)

from segtwin.unet_rows import UNET_ROWS  # noqa: E402 - its rows are made of the layers above

CLASSIFIERS = {row.name: row for row in (VGG16,)}
"""Networks that weights come from."""
ROWS = {row.name: row for row in (FCN8S, *UNET_ROWS)}
"""Networks that both twins build."""


def get(name: str | Row) -> Row:
    """The row of that name; a row is returned as it is.

    Raises:
        ValueError: there is none; the message lists those that are.
    """
    if isinstance(name, Row):
        return name
    try:
        return (ROWS | CLASSIFIERS)[name]
    except KeyError:
        raise ValueError(f"there is no network {name!r}; there are {', '.join(ROWS)}") from None
