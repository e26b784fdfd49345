"""The rows: every network as a frozen table of its layers, in the order and under the names of its prototxt.

A row is a contract, not an interpreter. The models in `segtwin_torch` and `segtwin_keras` are written by hand, one layer a line; the tests
hold both to the row, and the rows to the files that real Caffe wrote.

Sources: shelhamer/fcn.berkeleyvision.org at 1305c7378a9f0ab44b2c936f4d60e4687e3d8743, `voc-fcn8s/net.py` and `solver.prototxt`; Long, Shelhamer
and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015 and PAMI 2016; Simonyan and Zisserman, "Very Deep
Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, configuration D.
"""

from __future__ import annotations

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


class Parameter(NamedTuple):
    """One blob of weights, as Caffe would hold it."""

    name: str
    """`conv1_1/weight` or `conv1_1/bias`."""
    shape: tuple[int, ...]
    """O×I×kh×kw of a convolution, I×O×kh×kw of a deconvolution, O×I of an inner product, O of a bias."""
    lr_mult: float
    decay_mult: float
    fill: str | float
    """How it starts when nothing is copied into it: a constant, or "bilinear"."""


@dataclass(frozen=True)
class Layer:
    """One layer; its top blob has its name. `relu` and `dropout` stand for the in-place layers that follow, so the blob is what they leave."""

    name: str
    kind: str
    """Caffe's layer type: Convolution, Pooling, Deconvolution, Crop, Eltwise, InnerProduct."""
    bottoms: tuple[str, ...]
    width: str | None = None
    """Which entry of the row's widths counts the outputs ("c1" … "fc7"), or "classes"."""
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
    """Subtracted from the 0..255 values, in the order of `colour`."""
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
    """For networks without a table of layers: every blob, the input first."""

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
        return last.kind == "Crop" and last.bottoms[1] == self.input

    def resolve_widths(self, widths: Iterable[int] | None = None) -> dict[str, int]:
        """The row's own widths, or these in their place: (c1, c2, c3, c4, c5, fc6, fc7) for the VGG nets.

        Raises:
            ValueError: a wrong number of widths, or one below 1.
        """
        if widths is None:
            return dict(self.widths)
        values = [int(width) for width in widths]
        if len(values) != len(self.widths) or min(values) < 1:
            raise ValueError(f"{self.name}: widths are {len(self.widths)} positive numbers ({', '.join(self.widths)}), not {tuple(values)}")
        return dict(zip(self.widths, values, strict=True))

    def channels(self, num_classes: int | None = None, widths: Iterable[int] | None = None, in_channels: int | None = None) -> dict[str, int]:
        """Blob name → its channels."""
        count = {**self.resolve_widths(widths), "classes": self.num_classes if num_classes is None else num_classes}
        if count["classes"] < 1:
            raise ValueError(f"{self.name}: num_classes is at least 1, not {num_classes}")
        channels = {self.input: self.in_channels if in_channels is None else in_channels}
        for layer in self.layers:
            channels[layer.name] = count[layer.width] if layer.width else channels[layer.bottoms[0]]
        return channels

    def shapes(self, height: int, width: int, num_classes: int | None = None, widths: Iterable[int] | None = None) -> dict[str, tuple[int, int, int]]:
        """Blob name → (channels, rows, columns) for an input of height × width pixels.

        Raises:
            ValueError: the input is too small for a layer, which is named.
        """
        channels = self.channels(num_classes, widths)
        sizes = {self.input: (height, width)}
        for layer in self.layers:
            if layer.kind == "InnerProduct":
                sizes[layer.name] = (1, 1)
            elif layer.kind == "Crop":
                sizes[layer.name] = sizes[layer.bottoms[1]]
            else:
                rows, columns = sizes[layer.bottoms[0]]
                sizes[layer.name] = (geometry.output_size(layer, rows), geometry.output_size(layer, columns))
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
            else:
                continue
            parameters.append(Parameter(f"{layer.name}/weight", shape, layer.lr_mult[0], layer.decay_mult[0], layer.fill))
            if layer.bias:
                parameters.append(Parameter(f"{layer.name}/bias", (outputs,), layer.lr_mult[1], layer.decay_mult[1], 0.0))
        return tuple(parameters)


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

CLASSIFIERS = {row.name: row for row in (VGG16,)}
"""Networks that weights come from."""
ROWS = {row.name: row for row in (FCN8S,)}
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
