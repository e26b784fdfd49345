"""Dataclasses of the tables: `Architecture`, `Layer`, `Parameter`, `Draw`.

An architecture is a contract, not an interpreter. The models in `segtwin_torch` and `segtwin_keras`
are written by hand, one layer a line; the tests compare both with the table of layers, and the
tables with files that real Caffe wrote.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from segtwin import architectures, geometry
from segtwin.errors import ArchitectureError, LayerNotFoundError, nearest
from segtwin.layer_kinds import KINDS, output_size
from segtwin.preprocessing import Preprocessing


class Draw(NamedTuple):
    """Random initializer (i.i.d. elements)."""

    kind: str
    """"normal" (mean 0), "truncated normal" (mean 0, redrawn beyond two standard deviations) or
    "uniform" (from −size to size)."""
    size: float
    """Standard deviation; for "uniform" the bound."""


class Parameter(NamedTuple):
    """One array of weights in the hub's layout."""

    name: str
    """`conv1_1/weight` or `conv1_1/bias`."""
    shape: tuple[int, ...]
    """O×I×kh×kw of a convolution, I×O×kh×kw of a deconvolution, O×I of an inner product, O of a
    bias."""
    lr_mult: float
    decay_mult: float
    fill: str | float | Draw
    """Initial value: a constant, a `Draw`, "bilinear", or "counter" (int64 zero)."""


@dataclass(frozen=True)
class Layer:
    """One layer. Its top blob has the layer's name and is what the in-place ReLU and Dropout leave."""

    name: str
    kind: str
    """A key of `layer_kinds.KINDS`: Caffe's layer type, or the name of a kind that Caffe lacks."""
    bottoms: tuple[str, ...]
    width: str | int | None = None
    """Number of outputs: a key of `Architecture.widths` ("c1" … "fc7"), "classes", or an int. None:
    as many as the bottom has."""
    kernel: int = 1
    stride: int = 1
    pad: int = 0
    relu: bool = False
    dropout: float = 0.0
    bias: bool = True
    lr_mult: tuple[float, float] = (1, 2)
    """Multiplier of the learning rate, for the weight and for the bias."""
    decay_mult: tuple[float, float] = (1, 0)
    fill: str | float | Draw = 0.0
    """Initializer of the weight: a constant, a `Draw`, "bilinear", "he" (normal, σ = √(2/N), N the
    fan-in), "he-truncated" (the same, redrawn beyond 2σ; 1×1 convolutions only), "fan-out" (normal,
    σ = √(2/N), N the fan-out, as in torchvision's ResNets), "torch" (uniform within ±1/√N,
    N = I·kh·kw for a convolution, O·kh·kw for a deconvolution) or "torch, no bias" (the same, biases zero)."""
    sizes: str = "ceil"
    """Rounding of a Pooling's output size: "ceil" (Caffe), "floor" (torch) or "same" (TensorFlow)."""
    output_pad: int = 0
    """Additional rows and columns at the bottom and right of a deconvolution: torch's output_padding."""
    dilation: int = 1
    """Dilation of a convolution."""
    groups: int = 1
    """Groups of a convolution."""
    pad_after: int | None = None
    """Padding of a convolution at the bottom and right, where it differs from `pad`."""
    module: str = ""
    """Module that holds the weights in the state_dict, where its name differs from the blob's. Layers that state the
    same one share its weights."""

    idle: bool = False
    """The original makes it and never uses what it gives: its weights are in the state_dict, and nothing is
    computed."""

    @property
    def pads(self) -> tuple[int, int]:
        """Padding before and after each axis."""
        return self.pad, self.pad if self.pad_after is None else self.pad_after

    @property
    def sources(self) -> tuple[str, ...]:
        """The bottoms whose values are used, without one that only gives the size."""
        return self.bottoms[:1] if KINDS[self.kind].resizes_to_second else self.bottoms


@dataclass(frozen=True)
class Architecture:
    """A network: its layers, its preprocessing and what else a user of its weights needs to know."""

    name: str
    layers: tuple[Layer, ...]
    output: str
    """Name of the output blob, and of the ONNX output."""
    num_classes: int
    colour: str
    """Order of the input's channels, "BGR" or "RGB"."""
    mean: tuple[float, ...]
    """Subtracted from the values (0..255 divided by `divisor`), in the order of `colour`."""
    citation: str
    source: str
    """Repository, commit and file, or paper section, that the table was read from."""
    input: str = "data"
    in_channels: int = 3
    widths: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    classes: tuple[str, ...] | None = None
    """Names of the classes of the published weights."""
    published: str = ""
    """Result that the publication reports."""
    dropout: float | None = 0.5
    """Dropout rate in training; None for a network without dropout."""
    options: tuple[str, ...] = ()
    """Options of `build` that only some networks have."""
    naming: str = "caffe"
    """Names in the hub: "caffe" (`conv1_1/weight`) or "torch" (state_dict keys, `conv1.conv.0.weight`)."""
    state: Callable[[int, int, Mapping[str, int]], tuple[Parameter, ...]] | None = None
    """Function (num_classes, in_channels, widths) → parameters in the order of the state_dict, where
    the layers do not determine them."""
    blob_names: tuple[str, ...] = ()
    """The named blobs, input first, of a network in which not every layer's top has a name."""
    divisor: float = 1.0
    """The 0..255 values are divided by it before the mean is subtracted."""
    std: tuple[float, ...] = ()
    """Divisor of each channel after the mean, in the order of `colour`; empty for none."""
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Weight → the weight whose storage it shares. The latter's values are the ones that count."""
    idle: tuple[str, ...] = ()
    """Weights that are in the original's state_dict and not used in its forward pass."""
    heads: tuple[str, ...] = ()
    """Logits whose losses are averaged in training (deep supervision), the output's the last; empty: the output's
    alone."""
    size_least: int = 1
    """Smallest height and width of an input."""
    size_step: int = 1
    """Legal sizes are `size_least` + k · `size_step`, unless `size_rule` says otherwise."""
    size_slack: tuple[int, int] = (0, 0)
    """How many rows and columns an input may lack to a legal size, or have beyond one; the output has the legal size
    all the same."""
    size_rule: Callable[[int, int], None] | None = None
    """Function (height, width) that raises an ArchitectureError for sizes that do not fit."""
    any_channels: bool = True
    """Whether it can be built for images of another number of channels."""
    variants: Mapping[str, Architecture] = field(default_factory=lambda: MappingProxyType({}))
    """Option of `build` → the architecture that it selects."""
    variant_of: str = ""
    """For a variant: name of the base network."""
    unused: tuple[str, ...] = ()
    """Parameters of the base network that this variant does not use."""

    @property
    def sigmoid(self) -> bool:
        """Whether the output is probabilities of a sigmoid; `logits` leaves it off."""
        return self.layer(self.output).kind == "Sigmoid"

    def binary(self, num_classes: int | None = None) -> bool:
        """Whether the output, for so many classes, is of sigmoids: it ends in them, or in the logits of a single class,
        which its original hands to one."""
        classes = self.num_classes if num_classes is None else num_classes
        return self.sigmoid or (self.output == "logits" and classes == 1)

    @property
    def stored_name(self) -> tuple[str, str | None]:
        """The name under which `get_architecture` finds it, and the option of `build` that selects it."""
        if not self.variant_of:
            return self.name, None
        base = architectures.get_architecture(self.variant_of)
        return base.name, next(option for option, variant in base.variants.items() if variant is self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied as what it is: an entry of a table."""
        return architectures.restored, self.stored_name

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image is prepared where the weights do not say."""
        return Preprocessing(self.colour, self.mean, self.std or (1.0,), 1 / self.divisor)

    @cached_property
    def offsets(self) -> Mapping[str, int]:
        """Crop layer → its offset, derived."""
        return geometry.crop_offsets(self.layers)

    @cached_property
    def dead_zones(self) -> geometry.DeadZones | None:
        """What the network computes of padding alone, and need not; None where it pads by a pixel."""
        return geometry.dead_zones(self.layers)

    def layer(self, name: str) -> Layer:
        """The layer of that name.

        Raises:
            LayerNotFoundError: there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise LayerNotFoundError(
            f"{self.name} has no layer {name!r}{nearest(name, (layer.name for layer in self.layers))}"
        )

    @cached_property
    def blobs(self) -> tuple[str, ...]:
        """Every blob of a forward pass, in order: the input, then the top of each layer."""
        return self.blob_names or (self.input, *(layer.name for layer in self.layers))

    @cached_property
    def used(self) -> tuple[Layer, ...]:
        """The layers that the output is computed from, in order."""
        needed, found = {self.output}, []
        for layer in reversed(self.layers):
            if layer.name in needed:
                needed.update(layer.bottoms)
                found.append(layer)
        return tuple(found[::-1])

    @cached_property
    def exported(self) -> tuple[str, ...]:
        """The blobs that an ONNX file holds: those that the output is computed from, the output the
        last."""
        needed = {name for layer in self.used for name in (layer.name, *layer.bottoms)}
        return tuple(name for name in self.blobs if name in needed)

    @cached_property
    def not_exported(self) -> frozenset[str]:
        """Weights that the output does not come from: they are in no ONNX file."""
        return self._with_idle(layer for layer in self.layers if layer not in self.used)

    @cached_property
    def carried(self) -> frozenset[str]:
        """Weights that nothing is computed from: `idle`, and those of idle layers."""
        return self._with_idle(layer for layer in self.layers if layer.idle)

    def _with_idle(self, layers: Iterable[Layer]) -> frozenset[str]:
        """`idle`, and what these layers may keep."""
        kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return frozenset(self.idle) | {self.parameter_name(layer, kind) for layer in layers for kind in kinds}

    def variant(self, options: Mapping[str, Any]) -> Architecture:
        """The architecture that `build` makes with these options.

        Raises:
            ArchitectureError: there is no such option, or two of them exclude each other.
        """
        if unknown := options.keys() - set(self.options):
            raise ArchitectureError(f"{self.name} has no option {', '.join(sorted(unknown))}")
        chosen = [self.variants[option] for option, value in options.items() if value and option in self.variants]
        if len(chosen) > 1:
            raise ArchitectureError(
                f"{self.name}: {' and '.join(option for option, value in options.items() if value)} exclude each other"
            )
        return chosen[0] if chosen else self

    @cached_property
    def keeps_size(self) -> bool:
        """Whether the output has the rows and columns of an input of a legal size."""
        return self.shapes(*self.example_size)[self.output][1:] == self.example_size

    def legal_size(self, size: int) -> int:
        """The smallest legal number of rows or columns that is not below `size`."""
        return self.size_least + max(0, -((size - self.size_least) // -self.size_step)) * self.size_step

    def nearly(self, size: int) -> bool:
        """Whether a number of rows or columns is legal, but for the slack."""
        fewer, more = self.size_slack
        above = self.legal_size(size)
        below = above - self.size_step
        return above - size <= fewer or (below >= self.size_least and size - below <= more)

    def check_size(self, height: int, width: int) -> None:
        """Refuse images whose rows or columns do not fit.

        Raises:
            ArchitectureError: the message says which sizes do and names one that is near.
        """
        if self.size_rule is not None:
            self.size_rule(height, width)
        above = self.legal_size(height), self.legal_size(width)
        if all(self.nearly(size) for size in (height, width)):
            return
        below = tuple(max(self.size_least, self.legal_size(size - self.size_step + 1)) for size in (height, width))
        nearest = " or ".join(dict.fromkeys(f"{rows}×{columns}" for rows, columns in (below, above)))
        rule = (
            f"at least {self.size_least}"
            if self.size_step == 1
            else f"{self.size_least} + {self.size_step}·k"
            if self.size_least % self.size_step
            else f"multiples of {self.size_step}, at least {self.size_least}"
            if self.size_least > self.size_step
            else f"multiples of {self.size_step}"
        )
        fewer, more = self.size_slack
        rule += f" or up to {fewer} fewer" if fewer else f" or up to {more} more" if more else ""
        raise ArchitectureError(
            f"{self.name}: {height}×{width} pixels do not fit; rows and columns are {rule}, the nearest {nearest}"
        )

    @cached_property
    def example_size(self) -> tuple[int, int]:
        """Rows and columns to trace the network with: odd ones, at which no rounding is an
        accident, where it takes them.

        Neither is 0 or 1, which would be taken for constants, and the two differ, so that they are
        not taken for one.
        """
        size = self.legal_size(self.size_least + 66), self.legal_size(self.size_least + 98)
        try:
            self.check_size(*size)
        except ValueError:
            return 96, 160
        return size

    def parameter_name(self, layer: Layer | str, kind: str) -> str:
        """`conv1_1/weight` in Caffe's networks, `conv1.conv.0.weight` in those that come from
        torch; of a layer, or of what holds its weights."""
        module = layer if isinstance(layer, str) else layer.module or layer.name
        return f"{module}{'/' if self.naming == 'caffe' else '.'}{kind}"

    def resolve_widths(self, widths: Iterable[int] | None = None) -> dict[str, int]:
        """The architecture's own widths, or these in their place: (c1, c2, c3, c4, c5, fc6, fc7)
        for the VGG nets, (c1, …, c5) from the finest level down for the U-Nets, none for
        resnet34-unet.

        Raises:
            ArchitectureError: a wrong number of widths, or one below 1.
        """
        if widths is None:
            return dict(self.widths)
        values = [int(width) for width in widths]
        if len(values) != len(self.widths) or min(values, default=1) < 1:
            raise ArchitectureError(
                f"{self.name}: widths are {len(self.widths)} positive numbers ({', '.join(self.widths)}), not "
                f"{tuple(values)}"
            )
        return dict(zip(self.widths, values, strict=True))

    def channels(
        self, num_classes: int | None = None, widths: Iterable[int] | None = None, in_channels: int | None = None
    ) -> dict[str, int]:
        """Blob name → its channels."""
        count = {**self.resolve_widths(widths), "classes": self.num_classes if num_classes is None else num_classes}
        if count["classes"] < 1:
            raise ArchitectureError(f"{self.name}: num_classes is at least 1, not {num_classes}")
        channels = {self.input: self.in_channels if in_channels is None else in_channels}
        for layer in self.layers:
            if isinstance(layer.width, int):
                channels[layer.name] = layer.width
            elif layer.width:
                channels[layer.name] = count[layer.width]
            else:
                channels[layer.name] = KINDS[layer.kind].channels([channels[bottom] for bottom in layer.bottoms])
        return channels

    def shapes(
        self,
        height: int,
        width: int,
        num_classes: int | None = None,
        widths: Iterable[int] | None = None,
        every_layer: bool = False,
    ) -> dict[str, tuple[int, int, int]]:
        """Blob name → (channels, rows, columns) for an input of height × width pixels; with
        `every_layer`, of unnamed tops too.

        Raises:
            ArchitectureError: the input is too small for a layer, which is named, or does not fit the
                network.
        """
        self.check_size(height, width)
        channels = self.channels(num_classes, widths)
        sizes = {self.input: (height, width)}
        for layer in self.layers:
            if KINDS[layer.kind].resizes_to_second:
                sizes[layer.name] = sizes[layer.bottoms[1]]
            else:
                rows, columns = sizes[layer.bottoms[0]]
                sizes[layer.name] = output_size(layer, rows), output_size(layer, columns)
        return {name: (channels[name], *sizes[name]) for name in (sizes if every_layer else self.blobs)}

    def parameters(
        self, num_classes: int | None = None, widths: Iterable[int] | None = None, in_channels: int | None = None
    ) -> tuple[Parameter, ...]:
        """Every blob of weights, weight before bias, in the order of the prototxt."""
        widths = None if widths is None else tuple(widths)
        if self.state is not None:
            count = self.num_classes if num_classes is None else num_classes
            return self.state(
                count, self.in_channels if in_channels is None else in_channels, self.resolve_widths(widths)
            )
        channels = self.channels(num_classes, widths, in_channels)
        parameters: list[Parameter] = []
        for layer in self.layers:
            inputs, outputs = channels[layer.bottoms[0]], channels[layer.name]
            shape = KINDS[layer.kind].weight_shape(layer, inputs, outputs)
            if shape is None:
                continue
            (lr, bias_lr), (decay, bias_decay) = layer.lr_mult, layer.decay_mult
            weight_fill, bias_fill = fills(layer, shape)
            if self.parameter_name(layer, "weight") in (one.name for one in parameters):
                continue  # shared with an earlier layer
            parameters.append(Parameter(self.parameter_name(layer, "weight"), shape, lr, decay, weight_fill))
            if layer.bias:
                parameters.append(
                    Parameter(self.parameter_name(layer, "bias"), (outputs,), bias_lr, bias_decay, bias_fill)
                )
            for name, fill in KINDS[layer.kind].statistics:
                parameters.append(
                    Parameter(self.parameter_name(layer, name), () if fill == "counter" else shape, 0, 0, fill)
                )
        return tuple(parameters)


def fills(layer: Layer, shape: tuple[int, ...]) -> tuple[str | float | Draw, float | Draw]:
    """How the weights (of this shape, in the hub's layout) and the biases of a layer start; what
    the words mean stands at `Layer.fill`."""
    window = math.prod(shape[2:])
    if layer.fill == "he":
        return Draw("normal", math.sqrt(2 / KINDS[layer.kind].fan_in(layer, shape))), 0.0
    if layer.fill == "he-truncated":
        return Draw("truncated normal", math.sqrt(2 / shape[1])), 0.0
    if layer.fill == "fan-out":
        return Draw("normal", math.sqrt(2 / (shape[0] * window))), 0.0
    # kaiming_uniform_ with a = √5: √(6 / (1 + a²) / N); it takes the second axis for the inputs, in both layouts
    if layer.fill in ("torch", "torch, no bias"):
        bound = Draw("uniform", 1 / math.sqrt(shape[1] * window))
        return bound, 0.0 if layer.fill == "torch, no bias" else bound
    return layer.fill, 0.0


BATCHNORM_EPS, BATCHNORM_MOMENTUM = 1e-5, 0.1
"""torch's defaults: added to the variance; the share of a new batch in the running statistics
(Keras' momentum is that of the old ones: 0.9)."""
