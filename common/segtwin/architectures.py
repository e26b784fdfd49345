"""The rows: every network as a frozen table of its layers, in the order and under the names of its prototxt.

A row is a contract, not an interpreter. The models in `segtwin_torch` and `segtwin_keras` are written by hand, one layer a line; the tests
hold both to the row, and the rows to the files that real Caffe wrote.

Sources: shelhamer/fcn.berkeleyvision.org at 1305c7378a9f0ab44b2c936f4d60e4687e3d8743, `voc-fcn{32s,16s,8s,8s-atonce}/net.py` and
`solver.prototxt`; Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015 and PAMI 2016; Simonyan and
Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, configuration D; `FCN8VGG` of tensorflow-fcn
(`fcn8_vgg.py`); `VGGFCN32`, `VGGFCN16` and `VGGFCN8`, three torch classes over torchvision's vgg16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from segtwin import geometry
from segtwin.preprocessing import Preprocessing

PASCAL_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class Draw(NamedTuple):
    """A start at random, every number drawn by itself."""

    kind: str
    """"normal" (mean 0), "truncated normal" (of mean 0, drawn again beyond two standard deviations) or "uniform" (−size … size)."""
    size: float
    """The standard deviation, or the bound of "uniform"."""


class Parameter(NamedTuple):
    """One blob of weights, as Caffe would hold it."""

    name: str
    """`conv1_1/weight` or `conv1_1/bias`."""
    shape: tuple[int, ...]
    """O×I×kh×kw of a convolution, I×O×kh×kw of a deconvolution, O×I of an inner product, O of a bias."""
    lr_mult: float
    decay_mult: float
    fill: str | float | Draw
    """How it starts when nothing is copied into it: a constant, a draw, "bilinear", or "counter" (an int64 zero)."""


@dataclass(frozen=True)
class Layer:
    """One layer; its top blob has its name. `relu` and `dropout` stand for the in-place layers that follow, so the blob is what they leave."""

    name: str
    kind: str
    """Caffe's layer type: Convolution, Pooling, Deconvolution, Crop, Eltwise, InnerProduct, Scale, Concat, Sigmoid. And what Caffe has not or has
    otherwise: BatchNorm (torch's, with weight and bias), BGR (RGB turned round, minus the mean), DeconvolutionSame (cut to the size of its second
    bottom as TensorFlow's SAME cuts), ArgMax, PadTo (zeros below and to the right, up to the size of its second bottom), Resize (bilinear with
    aligned corners, to the size of its second bottom), SpaceToBatch and BatchToSpace (blocks of 2×2)."""
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
    fill: str | float | Draw = 0.0
    """Of the weights: a constant, a draw, "bilinear", "he" (σ = √(2/N), N the incoming values of one output), "he-truncated" (the same, of a 1×1
    convolution, drawn again beyond 2σ), "fan-out" (torchvision's ResNets: σ = √(2/N), N the values that one input goes out to) or "torch" (evenly
    within ±1/√N, N = O·kh·kw of a deconvolution and I·kh·kw of a convolution)."""
    sizes: str = "ceil"
    """How a Pooling counts its windows: "ceil" (Caffe), "floor" (torch), or "same" (TensorFlow: ⌈size / stride⌉, hanging over the far edge)."""
    output_pad: int = 0
    """Of a deconvolution: rows and columns more at the bottom and right, as torch's output_padding."""
    module: str = ""
    """What holds its weights, when that has another name than its blob: a module of the state_dict."""


def conv(name: str, bottom: str, width: str, kernel: int = 3, pad: int = 1, dropout: float = 0.0) -> Layer:
    """`conv_relu` of net.py, with the Dropout that follows fc6 and fc7."""
    return Layer(name, "Convolution", (bottom,), width, kernel, pad=pad, relu=True, dropout=dropout)


def pool(name: str, bottom: str, sizes: str = "ceil", stride: int = 2) -> Layer:
    """`max_pool` of net.py: 2×2, stride 2, sizes rounded up."""
    return Layer(name, "Pooling", (bottom,), kernel=2, stride=stride, sizes=sizes)


def score(name: str, bottom: str, fill: float | Draw = 0.0) -> Layer:
    """A 1×1 convolution to the classes. No filler is named in net.py, so Caffe's default holds: it starts at zero."""
    return Layer(name, "Convolution", (bottom,), "classes", fill=fill)


def scale(name: str, bottom: str, value: float) -> Layer:
    """`L.Scale` of voc-fcn8s-atonce/net.py: every channel times its number, which starts at `value` and is not trained (lr_mult 0)."""
    return Layer(name, "Scale", (bottom,), bias=False, lr_mult=(0, 0), fill=value)


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


def same_features(dilated: bool = False) -> tuple[Layer, ...]:
    """bgr … fc7 of tensorflow-fcn's FCN8VGG: SAME padding everywhere, so the VGG-16 pads by 1, and fc6 by 3."""
    start = (Layer("bgr", "BGR", ("image",)), replace(vgg16_features(pad=1)[0], bottoms=("bgr",)))
    rest = tuple(replace(layer, sizes="same") for layer in vgg16_features(pad=1)[1:])
    fc6, fc7 = conv("fc6", "pool5", "fc6", kernel=7, pad=3, dropout=0.5), conv("fc7", "fc6", "fc7", kernel=1, pad=0, dropout=0.5)
    if not dilated:
        return (*start, *rest, fc6, fc7)
    return (
        *start,
        *rest[:12],  # … conv4_3
        pool("pool4_dense", "conv4_3", sizes="same", stride=1),
        Layer("pool4", "SpaceToBatch", ("pool4_dense",)),
        *rest[13:16],  # conv5_1 … conv5_3
        pool("pool5_dense", "conv5_3", sizes="same", stride=1),
        Layer("pool5", "BatchToSpace", ("pool5_dense",)),
        Layer("pool5_phases", "SpaceToBatch", ("pool5_dense",)),
        replace(fc6, bottoms=("pool5_phases",)),
        Layer("fc6_4", "BatchToSpace", ("fc6",)),
        Layer("fc6_1", "BatchToSpace", ("fc6_4",)),
        replace(fc7, bottoms=("fc6_1",)),
    )


def upscore_same(name: str, bottom: str, like: str, kernel: int, stride: int) -> Layer:
    """A bilinear deconvolution that is trained, cut to the size of `like` as TensorFlow's SAME does it."""
    return Layer(name, "DeconvolutionSame", (bottom, like), "classes", kernel, stride, bias=False, lr_mult=(1, 1), fill="bilinear")


VGG16_FEATURES = (("c1", 2), ("c2", 2), ("c3", 3), ("c4", 3), ("c5", 3))
"""Stages of VGG-16: how wide, how many convolutions."""


def torch_features() -> tuple[Layer, ...]:
    """`vgg16.features` of torchvision, the convolutions under their names in the state_dict; poolings round down."""
    layers, top, position = [], "image", 0
    for stage, (width, count) in enumerate(VGG16_FEATURES, start=1):
        for _ in range(count):
            layers.append(conv(f"vgg16.features.{position}", top, width))
            top = layers[-1].name
            position += 2  # the ReLU is a module of its own
        layers.append(pool(f"pool{stage}", top, sizes="floor"))
        top = layers[-1].name
        position += 1
    return tuple(layers)


def torch_classifier() -> tuple[Layer, ...]:
    """`VGGFCN.classifier`."""
    return (
        conv("classifier.0", "pool5", "fc6", kernel=7, pad=3, dropout=0.5),
        conv("classifier.3", "classifier.0", "fc7", kernel=1, pad=0, dropout=0.5),
        score("classifier.6", "classifier.3"),
    )


def upscale(name: str, bottom: str) -> Layer:
    """`nn.ConvTranspose2d(n_classes, n_classes, 2, 2)`: trained, with a bias, not bilinear."""
    return Layer(name, "Deconvolution", (bottom,), "classes", kernel=2, stride=2)


def torch_state(heads: tuple[str, ...]) -> Callable[[int, int, Mapping[str, int]], tuple[Parameter, ...]]:
    """Every parameter of a VGGFCN, in the order of its state_dict.

    `vgg16` starts as torchvision's does without a download (`vgg._initialize_weights`: convolutions normal with σ = √(2 / (O·kh·kw)), linear
    layers with σ = 0.01, biases zero), the rest as torch's convolutions do: uniform within ±1/√fan_in, biases too. `classifier.0` and
    `classifier.3` take their weights from `vgg16.classifier`.
    """

    def state(classes: int, in_channels: int, widths: Mapping[str, int]) -> tuple[Parameter, ...]:
        parameters: list[Parameter] = []

        def put(name: str, shape: tuple[int, ...], weight: Draw | None = None) -> None:
            outputs, fan_in = (shape[1], math.prod(shape[1:])) if name.startswith("upscale") else (shape[0], math.prod(shape[1:]))
            bound = Draw("uniform", 1 / math.sqrt(fan_in))
            bias = 0.0 if name.startswith("vgg16") else bound
            parameters.append(Parameter(f"{name}.weight", shape, 1, 1, weight or bound))
            parameters.append(Parameter(f"{name}.bias", (outputs,), 1, 1, bias))

        inputs = in_channels
        for layer in torch_features():
            if layer.width:
                outputs = widths[str(layer.width)]
                put(layer.name, (outputs, inputs, 3, 3), Draw("normal", math.sqrt(2 / (outputs * 9))))
                inputs = outputs
        c3, c4, c5, c6, c7 = (widths[name] for name in ("c3", "c4", "c5", "fc6", "fc7"))
        linear = Draw("normal", 0.01)
        put("vgg16.classifier.0", (c6, c5 * CLASSIFIER_PIXELS), linear)
        put("vgg16.classifier.3", (c7, c6), linear)
        put("vgg16.classifier.6", (VGG16.num_classes, c7), linear)
        put("classifier.0", (c6, c5, 7, 7), linear)
        put("classifier.3", (c7, c6, 1, 1), linear)
        put("classifier.6", (classes, c7, 1, 1))
        skips = {"score4": (classes, c4, 1, 1), "score3": (classes, c3, 1, 1)}
        for name in heads:
            put(name, skips.get(name, (classes, classes, 2, 2)))
        return tuple(parameters)

    return state


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
    """Subtracted from the values (0..255 divided by `divisor`), in the order of `colour`."""
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
    """For networks with layers whose tops have no name in the original: every blob that has, the input first."""
    divisor: float = 1.0
    """The 0..255 values are divided by it before the mean is subtracted."""
    std: tuple[float, ...] = ()
    """Each channel is divided by its own, after the mean, in the order of `colour`; empty: by none."""
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Weight → the later one whose storage it shares: a load leaves the later one's numbers in both."""
    idle: tuple[str, ...] = ()
    """Weights that the original carries along and computes nothing with."""
    size_least: int = 1
    """The smallest rows or columns of an input."""
    size_step: int = 1
    """The next legal size is so many pixels larger."""
    size_rule: Callable[[int, int], None] | None = None
    """Where that does not say it: (height, width) → ValueError for sizes that the original cannot take, with one that it can."""
    variants: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Option of `build` that makes another row of it → that row's name."""
    variant_of: str = ""
    """The row that such an option was given to."""

    @property
    def any_channels(self) -> bool:
        """Whether it takes images of any number of channels; vggfcn*, fcn8-vgg and resnet34-unet keep the 3 of their originals."""
        return not (self.name.startswith(("vggfcn", "fcn8-vgg", "resnet34")))

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image is prepared where the weights do not say."""
        return Preprocessing(self.colour, self.mean, self.std or (1.0,), 1 / self.divisor)

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

    @cached_property
    def exported(self) -> tuple[str, ...]:
        """The blobs that an ONNX file holds: those that the output is computed from, the output the last."""
        needed = {self.output}
        for layer in reversed(self.layers):
            if layer.name in needed:
                needed.update(layer.bottoms)
        return tuple(name for name in self.blobs if name in needed)

    def spare(self) -> set[str]:
        """Names of the weights of the row this one is a variant of that this one does without: a load passes over them."""
        return {p.name for p in ROWS[self.variant_of].parameters()} - {p.name for p in self.parameters()} if self.variant_of else set()

    def variant(self, options: Mapping[str, Any]) -> Row:
        """The row that `build` makes with these options.

        Raises:
            ValueError: there is no such option, or two of them exclude each other.
        """
        if unknown := options.keys() - set(self.options):
            raise ValueError(f"{self.name} has no option {', '.join(sorted(unknown))}")
        chosen = [self.variants[option] for option, value in options.items() if value and option in self.variants]
        if len(chosen) > 1:
            raise ValueError(f"{self.name}: {' and '.join(option for option, value in options.items() if value)} exclude each other")
        return get(chosen[0]) if chosen else self

    @property
    def keeps_size(self) -> bool:
        """Whether the output has the rows and columns of the input."""
        last = self.layer(self.output)
        return last.kind == "Sigmoid" or (last.kind in LIKE and last.bottoms[1] == self.input)

    def legal_size(self, size: int) -> int:
        """The smallest legal number of rows or columns that is not below `size`."""
        return self.size_least + max(0, -((size - self.size_least) // -self.size_step)) * self.size_step

    def check_size(self, height: int, width: int) -> None:
        """Refuse images whose rows or columns do not fit.

        Raises:
            ValueError: the message says which sizes do and names one that is near.
        """
        if self.size_rule is not None:
            self.size_rule(height, width)
        if (height, width) == (above := (self.legal_size(height), self.legal_size(width))):
            return
        below = tuple(max(self.size_least, self.legal_size(size - self.size_step + 1)) for size in (height, width))
        nearest = " or ".join(dict.fromkeys(f"{rows}×{columns}" for rows, columns in (below, above)))
        rule = f"{self.size_least} + {self.size_step}·k" if self.size_least % self.size_step else f"multiples of {self.size_step}"
        raise ValueError(f"{self.name}: {height}×{width} pixels do not fit; rows and columns are {rule}, the nearest {nearest}")

    @cached_property
    def example_size(self) -> tuple[int, int]:
        """Rows and columns to trace the network with: odd ones, at which no rounding is an accident, where it takes them.

        Neither is 0 or 1, which would be taken for constants, and the two differ, so that they are not taken for one.
        """
        size = self.legal_size(self.size_least + 66), self.legal_size(self.size_least + 98)
        try:
            self.check_size(*size)
        except ValueError:
            return 96, 160
        return size

    def parameter_name(self, layer: Layer | str, kind: str) -> str:
        """`conv1_1/weight` in Caffe's networks, `conv1.conv.0.weight` in those that come from torch; of a layer, or of what holds its weights."""
        module = layer if isinstance(layer, str) else layer.module or layer.name
        return f"{module}{'/' if self.naming == 'caffe' else '.'}{kind}"

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

    def shapes(
        self, height: int, width: int, num_classes: int | None = None, widths: Iterable[int] | None = None, every_layer: bool = False
    ) -> dict[str, tuple[int, int, int]]:
        """Blob name → (channels, rows, columns) for an input of height × width pixels; with `every_layer`, of unnamed tops too.

        Raises:
            ValueError: the input is too small for a layer, which is named, or does not fit the network.
        """
        self.check_size(height, width)
        channels = self.channels(num_classes, widths)
        sizes = {self.input: (height, width)}
        for layer in self.layers:
            if layer.kind == "InnerProduct":
                sizes[layer.name] = (1, 1)
            elif layer.kind in LIKE:
                sizes[layer.name] = sizes[layer.bottoms[1]]
            else:
                rows, columns = sizes[layer.bottoms[0]]
                sizes[layer.name] = (geometry.output_size(layer, rows), geometry.output_size(layer, columns))
        return {name: (channels[name], *sizes[name]) for name in (sizes if every_layer else self.blobs)}

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
            elif layer.kind in ("Deconvolution", "DeconvolutionSame"):
                shape = (inputs, outputs, *window)
            elif layer.kind == "Scale":
                shape = (inputs,)
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


def fills(layer: Layer, shape: tuple[int, ...]) -> tuple[str | float | Draw, float | Draw]:
    """How the weights (of this shape, in the hub's layout) and the biases of a layer start; what the words mean stands at `Layer.fill`."""
    window = math.prod(shape[2:])
    if layer.fill == "he":  # one pixel of a deconvolution whose stride is its kernel sees one number of each input channel
        return Draw("normal", math.sqrt(2 / (shape[0] if layer.kind == "Deconvolution" else shape[1] * window))), 0.0
    if layer.fill == "he-truncated":
        return Draw("truncated normal", math.sqrt(2 / shape[1])), 0.0
    if layer.fill == "fan-out":
        return Draw("normal", math.sqrt(2 / (shape[0] * window))), 0.0
    if layer.fill == "torch":  # kaiming_uniform_ with a = √5: √(6 / (1 + a²) / N); it takes the second axis for the inputs, in both layouts
        bound = Draw("uniform", 1 / math.sqrt(shape[1] * window))
        return bound, bound
    return layer.fill, 0.0


LIKE = ("Crop", "DeconvolutionSame", "PadTo", "Resize")
"""Kinds of layers whose output has the rows and columns of their second bottom."""
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

FCN32S = Row(
    name="fcn32s",
    layers=(
        *fcn_features(),
        score("score_fr", "fc7"),
        upscore("upscore", "score_fr", kernel=64, stride=32),
        crop("score", "upscore", like="data"),
    ),
    output="score",
    num_classes=21,
    colour="BGR",
    mean=FCN_MEAN,
    citation=CVPR,
    source=f"{FCN_COMMIT} voc-fcn32s/net.py",
    classes=PASCAL_CLASSES,
    published="63.6 mean IU on PASCAL VOC 2011 seg11valid (heavy)",
)

FCN16S = Row(
    name="fcn16s",
    layers=(
        *fcn_features(),
        score("score_fr", "fc7"),
        upscore("upscore2", "score_fr", kernel=4, stride=2),
        score("score_pool4", "pool4"),
        crop("score_pool4c", "score_pool4", like="upscore2"),
        fuse("fuse_pool4", "upscore2", "score_pool4c"),
        upscore("upscore16", "fuse_pool4", kernel=32, stride=16),
        crop("score", "upscore16", like="data"),
    ),
    output="score",
    num_classes=21,
    colour="BGR",
    mean=FCN_MEAN,
    citation=CVPR,
    source=f"{FCN_COMMIT} voc-fcn16s/net.py",
    classes=PASCAL_CLASSES,
    published="65.0 mean IU on PASCAL VOC 2011 seg11valid (heavy)",
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

FCN8S_ATONCE = Row(
    name="fcn8s-atonce",
    layers=(
        *fcn_features(),
        score("score_fr", "fc7"),
        upscore("upscore2", "score_fr", kernel=4, stride=2),
        scale("scale_pool4", "pool4", 0.01),
        score("score_pool4", "scale_pool4"),
        crop("score_pool4c", "score_pool4", like="upscore2"),
        fuse("fuse_pool4", "upscore2", "score_pool4c"),
        upscore("upscore_pool4", "fuse_pool4", kernel=4, stride=2),
        scale("scale_pool3", "pool3", 0.0001),
        score("score_pool3", "scale_pool3"),
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
    source=f"{FCN_COMMIT} voc-fcn8s-atonce/net.py",
    classes=PASCAL_CLASSES,
    published="65.4 mean IU on PASCAL VOC 2011 seg11valid (heavy)",
)

FCN8_VGG = Row(
    name="fcn8-vgg",
    layers=(
        *same_features(),
        score("score_fr", "fc7"),
        Layer("pred", "ArgMax", ("score_fr",), 1),
        upscore_same("upscore2", "score_fr", like="pool4", kernel=4, stride=2),
        score("score_pool4", "pool4", Draw("truncated normal", 1e-3)),
        fuse("fuse_pool4", "upscore2", "score_pool4"),
        upscore_same("upscore4", "fuse_pool4", like="pool3", kernel=4, stride=2),
        score("score_pool3", "pool3", Draw("truncated normal", 1e-4)),
        fuse("fuse_pool3", "upscore4", "score_pool3"),
        upscore_same("upscore32", "fuse_pool3", like="image", kernel=16, stride=8),  # the original says `bgr`, which is as large
        Layer("pred_up", "ArgMax", ("upscore32",), 1),
    ),
    output="upscore32",
    num_classes=21,  # 20 is the default of the original's `build`; here all FCNs start with PASCAL's 21
    colour="RGB",
    mean=(0.0, 0.0, 0.0),  # the network subtracts VGG_MEAN itself
    citation=f"{CVPR}; MarvinTeichmann/tensorflow-fcn",
    source="tensorflow-fcn fcn8_vgg.py, class FCN8VGG",
    input="image",
    options=("random_init_fc8", "use_dilated"),
    variants=MappingProxyType({"random_init_fc8": "fcn8-vgg-random-fc8", "use_dilated": "fcn8-vgg-dilated"}),
)


def dilated_size(height: int, width: int) -> None:
    """⌈H/8⌉ and ⌈W/8⌉ have to be divisible by 4: pool4 is cut into 2×2 phases, and each of them again at pool5."""
    if -(height // -8) % 4 or -(width // -8) % 4:
        fits = " × ".join(str(-(size // -32) * 32 if -(size // -8) % 4 else size) for size in (height, width))
        raise ValueError(f"fcn8-vgg with use_dilated takes sizes with ⌈H/8⌉ and ⌈W/8⌉ divisible by 4, not {height} × {width}; pad to {fits}")


FCN8_VGG_RANDOM_FC8 = replace(
    FCN8_VGG,  # the same network under the same name; it starts otherwise
    layers=tuple(replace(layer, fill="he-truncated") if layer.name == "score_fr" else layer for layer in FCN8_VGG.layers),
)
FCN8_VGG_DILATED = replace(
    FCN8_VGG,
    name="fcn8-vgg-dilated",
    layers=same_features(dilated=True),
    output="fc7",
    options=(),
    variants=MappingProxyType({}),
    variant_of="fcn8-vgg",
    size_rule=dilated_size,
)


def vggfcn(name: str, head: tuple[Layer, ...], state: tuple[str, ...], size_rule: Callable[[int, int], None]) -> Row:
    """A row of the torch classes VGGFCN32, VGGFCN16 and VGGFCN8."""
    return Row(
        name=name,
        layers=(*torch_features(), *torch_classifier(), *head),
        output="scores",
        num_classes=21,
        colour="RGB",
        mean=(0.485, 0.456, 0.406),
        divisor=255.0,
        std=(0.229, 0.224, 0.225),
        citation=CVPR,
        source=f"class {name.upper()} over torchvision.models.vgg16",
        input="image",
        naming="torch",
        state=torch_state(state),
        aliases=MappingProxyType({f"vgg16.classifier.{i}.weight": f"classifier.{i}.weight" for i in (0, 3)}),
        idle=tuple(f"vgg16.classifier.{i}.{kind}" for i in (0, 3, 6) for kind in ("weight", "bias")),
        size_rule=size_rule,
    )


def vggfcn_size(height: int, width: int, name: str = "vggfcn32 and vggfcn8", least: int = 32) -> None:
    """Five poolings that round down leave something of 32 pixels and more."""
    if min(height, width) < least:
        fits = " × ".join(str(max(size, least)) for size in (height, width))
        raise ValueError(f"{name}: {height} × {width} is too small, pool5 would be empty; pad to {fits}")


def vggfcn16_size(height: int, width: int) -> None:
    """pool5, twice as large, has to be as large as pool4: ⌊H/16⌋ and ⌊W/16⌋ are even. VGGFCN16 alone does not pad."""
    vggfcn_size(height, width, "vggfcn16")
    if height // 16 % 2 or width // 16 % 2:
        fits = " × ".join(str(size if size // 16 % 2 == 0 else -(-(size + 1) // 32) * 32) for size in (height, width))
        raise ValueError(f"vggfcn16 takes sizes with ⌊H/16⌋ and ⌊W/16⌋ even, not {height} × {width}; pad to {fits}")


def fit(name: str, bottom: str, like: str) -> Layer:
    """`_maybe_pad`: zeros below and to the right, up to the size of `like`."""
    return Layer(name, "PadTo", (bottom, like))


def resize(name: str, bottom: str, like: str) -> Layer:
    """`F.interpolate(…, mode="bilinear", align_corners=True)`."""
    return Layer(name, "Resize", (bottom, like))


VGGFCN32 = vggfcn("vggfcn32", (resize("scores", "classifier.6", like="image"),), (), vggfcn_size)
VGGFCN16 = vggfcn(
    "vggfcn16",
    (
        upscale("upscale5", "classifier.6"),
        score("score4", "pool4"),
        fuse("pool4_fused", "score4", "upscale5"),
        resize("scores", "pool4_fused", like="image"),
    ),
    ("score4", "upscale5"),
    vggfcn16_size,
)
VGGFCN8 = vggfcn(
    "vggfcn8",
    (
        upscale("upscale5", "classifier.6"),
        fit("pool5_upscaled", "upscale5", like="pool4"),
        score("score4", "pool4"),
        fuse("pool4_fused", "score4", "pool5_upscaled"),
        upscale("upscale4", "pool4_fused"),
        fit("pool4_upscaled", "upscale4", like="pool3"),
        score("score3", "pool3"),
        fuse("pool3_fused", "score3", "pool4_upscaled"),
        resize("scores", "pool3_fused", like="image"),
    ),
    ("upscale4", "score4", "score3", "upscale5"),
    vggfcn_size,
)

from segtwin.unet_rows import UNET_ROWS  # noqa: E402 - its rows are made of the layers above

CLASSIFIERS = {row.name: row for row in (VGG16,)}
"""Networks that weights come from."""
ROWS = {row.name: row for row in (FCN32S, FCN16S, FCN8S, FCN8S_ATONCE, FCN8_VGG, VGGFCN32, VGGFCN16, VGGFCN8, *UNET_ROWS)}
"""Networks that both twins build."""
VARIANTS = {"fcn8-vgg-random-fc8": FCN8_VGG_RANDOM_FC8, "fcn8-vgg-dilated": FCN8_VGG_DILATED}
"""What an option of `build` makes of a row."""


def get(name: str | Row) -> Row:
    """The row of that name; a row is returned as it is.

    Raises:
        ValueError: there is none; the message lists those that are.
    """
    if isinstance(name, Row):
        return name
    try:
        return (ROWS | CLASSIFIERS | VARIANTS)[name]
    except KeyError:
        raise ValueError(f"there is no network {name!r}; there are {', '.join(ROWS)}") from None


def names() -> list[str]:
    """The networks that both twins build."""
    return list(ROWS)
