"""The kinds of layers: what holds of each of them in any network.

One class a kind: sizes, coordinate map, window, parameters, cost and prototxt message stand
together. `KINDS` maps Caffe's layer types, and the names of the kinds that Caffe lacks, to them.
The operators themselves are in `oracle`, in the PyTorch pages and in the Keras pages: three
implementations that share nothing with this table or with each other.

Sources, BVLC/caffe at 9b891540183ddc834a02b2bd81b31afae71b2153:
`src/caffe/layers/{base_conv,pooling,deconv}_layer.cpp` (sizes, shapes of parameters),
`python/caffe/coord_map.py` (coordinate maps), `src/caffe/proto/caffe.proto` (messages).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from segtwin.errors import ArchitectureError

if TYPE_CHECKING:
    from segtwin.architectures.schema import Layer

Message = Sequence[tuple[str, Any]]
"""(field, value) pairs of a prototxt message; a value that is a list is a message itself."""
Interval = tuple[int, int]
"""First and last pixel along one axis."""


class Word(str):
    """A prototxt value without quotes: an enum or a boolean."""

    __slots__ = ()


class CoordinateMap(NamedTuple):
    """y ↦ scale · y + shift: maps pixel centres of a layer's bottom to those of its top."""

    scale: Fraction = Fraction(1)
    shift: Fraction = Fraction(0)

    def after(self, earlier: CoordinateMap) -> CoordinateMap:
        """Compose: first `earlier`, then this map, s₁(s₂y + b₂) + b₁ (Caffe's `compose(base_map,
        next_map)`)."""
        return CoordinateMap(self.scale * earlier.scale, self.scale * earlier.shift + self.shift)

    def inverse(self) -> CoordinateMap:
        """The map from the top back to the bottom."""
        return CoordinateMap(1 / self.scale, -self.shift / self.scale)


class Axis(NamedTuple):
    """One layer along one axis, for one size of the image."""

    bottom: int = 1
    """Pixels of the first bottom."""
    top: int = 1
    """Pixels of the top."""
    offset: int = 0
    """First pixel that a cropping layer keeps."""


class LayerKind:
    """An elementwise layer: its top has the size and the channels of its first bottom, and it has
    no parameters."""

    caffe: bool = True
    """Whether Caffe has a layer of this type, with a prototxt message."""
    resizes_to_second: bool = False
    """Whether the top has the rows and columns of the second bottom, which lends nothing else."""
    local: bool = True
    """Whether a pixel of the top is made of a window of the bottom, wherever it lies: then an image can be cut into
    tiles."""
    windowed: bool = False
    """Whether kernel, stride and pad mean something."""
    statistics: tuple[tuple[str, float | str], ...] = ()
    """What the layer keeps besides weight and bias, untrained: name and initial value."""

    def output_size(self, layer: Layer, size: int) -> int:
        """Pixels of the top along one axis, for a bottom of `size` pixels; may be below 1."""
        return size

    def channels(self, bottoms: Sequence[int]) -> int:
        """Channels of the top of a layer that states no width."""
        return bottoms[0]

    def offset(self, layer: Layer, axis: Axis) -> int | None:
        """First pixel that the layer keeps, where its sizes decide that; None otherwise."""
        return None

    def coordinate_map(self, layer: Layer, axis: Axis) -> CoordinateMap:
        """Map from the pixels of the first bottom to those of the top."""
        return CoordinateMap()

    def arithmetic(self, layer: Layer, axis: Axis) -> str:
        """The coordinate map written out, with the layer's own numbers; "x" where the grid stays."""
        return "x"

    def window(self, layer: Layer, pixels: Interval, axis: Axis) -> Interval:
        """First and last pixel of the bottom that these pixels of the top are computed from, beyond
        the edges too."""
        return pixels

    def weight_shape(self, layer: Layer, inputs: int, outputs: int) -> tuple[int, ...] | None:
        """Shape of the weight in the hub's layout; None for a layer without one."""
        return None

    def fan_in(self, layer: Layer, shape: tuple[int, ...]) -> int:
        """Products in the longest sum of one output value, from the shape of the weight."""
        return math.prod(shape[1:])

    def flops(self, weight: int, bottom: int, top: int) -> int:
        """Floating-point operations (two per product) from the size of the weight and the pixels of
        bottom and top."""
        return 0

    def prototxt(self, layer: Layer, outputs: int, offset: int) -> Message:
        """The `…_param` messages of the layer; `offset` is that of a Crop."""
        return ()


class Convolution(LayerKind):
    """Caffe's Convolution: sizes round down; `pad` may differ before and after an axis."""

    windowed = True

    def extent(self, layer: Layer) -> int:
        """Pixels from the first to the last of a dilated kernel, both included: d·(k − 1) + 1."""
        return layer.dilation * (layer.kernel - 1) + 1

    def output_size(self, layer: Layer, size: int) -> int:
        """⌊(size + pads − extent) / stride⌋ + 1."""
        before, after = layer.pads
        return (size + before + after - self.extent(layer)) // layer.stride + 1

    def coordinate_map(self, layer: Layer, axis: Axis) -> CoordinateMap:
        """Output y is centred on input s·y − p + (extent − 1)/2; solved for y."""
        return CoordinateMap(
            Fraction(1, layer.stride), (layer.pads[0] - Fraction(self.extent(layer) - 1, 2)) / layer.stride
        )

    def window(self, layer: Layer, pixels: Interval, axis: Axis) -> Interval:
        """From s·first − p to s·last − p + extent − 1."""
        before, _ = layer.pads
        return pixels[0] * layer.stride - before, pixels[1] * layer.stride - before + self.extent(layer) - 1

    def arithmetic(self, layer: Layer, axis: Axis) -> str:
        """(x + pad − (extent − 1)/2) / stride."""
        return f"(x + {layer.pads[0]} − ({self.extent(layer)} − 1)/2) / {layer.stride}"

    def weight_shape(self, layer: Layer, inputs: int, outputs: int) -> tuple[int, ...]:
        """O×I×kh×kw, with I the inputs of one group."""
        return outputs, inputs // layer.groups, layer.kernel, layer.kernel

    def flops(self, weight: int, bottom: int, top: int) -> int:
        """Every weight once per output pixel."""
        return 2 * weight * top

    def prototxt(self, layer: Layer, outputs: int, offset: int) -> Message:
        """`convolution_param`."""
        fields: list[tuple[str, Any]] = [("num_output", outputs)]
        fields += [] if layer.bias else [("bias_term", Word("false"))]
        if layer.pad_after is not None:
            raise NotImplementedError(f"{layer.name}: Caffe pads both ends of an axis alike")
        fields += [("pad", layer.pad), ("kernel_size", layer.kernel), ("stride", layer.stride)]
        fields += [("dilation", layer.dilation)] if layer.dilation != 1 else []
        fields += [("group", layer.groups)] if layer.groups != 1 else []
        return [("convolution_param", fields)]


class Deconvolution(Convolution):
    """Caffe's Deconvolution: the transpose of a convolution, with torch's `output_padding`."""

    def output_size(self, layer: Layer, size: int) -> int:
        """(size − 1) · stride + extent − pads + output padding."""
        return (size - 1) * layer.stride + self.extent(layer) - sum(layer.pads) + layer.output_pad

    def coordinate_map(self, layer: Layer, axis: Axis) -> CoordinateMap:
        """The inverse of the convolution's."""
        return super().coordinate_map(layer, axis).inverse()

    def window(self, layer: Layer, pixels: Interval, axis: Axis) -> Interval:
        """The input pixels whose kernels reach these outputs."""
        first, last = (pixel + layer.pads[0] for pixel in pixels)
        return -((first - self.extent(layer) + 1) // -layer.stride), last // layer.stride

    def arithmetic(self, layer: Layer, axis: Axis) -> str:
        """stride · x + (extent − 1)/2 − pad."""
        return f"{layer.stride}·x + ({self.extent(layer)} − 1)/2 − {layer.pads[0]}"

    def weight_shape(self, layer: Layer, inputs: int, outputs: int) -> tuple[int, ...]:
        """I×O×kh×kw, with O the outputs of one group."""
        return inputs, outputs // layer.groups, layer.kernel, layer.kernel

    def fan_in(self, layer: Layer, shape: tuple[int, ...]) -> int:
        """Every input channel, as often as kernels overlap."""
        return shape[0] * math.ceil(layer.kernel / layer.stride) ** 2

    def flops(self, weight: int, bottom: int, top: int) -> int:
        """Every weight once per input pixel, as if the kernels were dense."""
        return 2 * weight * bottom


class DeconvolutionSame(Deconvolution):
    """TensorFlow's conv2d_transpose with SAME padding: cut to the size of the second bottom, the
    smaller half first."""

    caffe = False
    resizes_to_second = True

    def offset(self, layer: Layer, axis: Axis) -> int:
        """⌊((n − 1)·s + k − m) / 2⌋, n pixels of the bottom and m of the top."""
        return ((axis.bottom - 1) * layer.stride + layer.kernel - axis.top) // 2

    def coordinate_map(self, layer: Layer, axis: Axis) -> CoordinateMap:
        """The deconvolution's, then the cut."""
        return CoordinateMap(Fraction(layer.stride), Fraction(layer.kernel - 1, 2) - axis.offset)

    def arithmetic(self, layer: Layer, axis: Axis) -> str:
        """stride · x + (kernel − 1)/2 − offset."""
        return f"{layer.stride}·x + ({layer.kernel} − 1)/2 − {axis.offset}"

    def window(self, layer: Layer, pixels: Interval, axis: Axis) -> Interval:
        """The deconvolution's, of the pixels before the cut."""
        return super().window(layer, (pixels[0] + axis.offset, pixels[1] + axis.offset), axis)


class Pooling(LayerKind):
    """Maxima over windows; `sizes` says how windows at the far edge are counted."""

    windowed = True

    def output_size(self, layer: Layer, size: int) -> int:
        """ "ceil": Caffe's, the last window may overhang but starts inside the image or its leading
        pad; "floor": torch's; "same": ⌈size / s⌉."""
        if layer.sizes == "same":
            return -(size // -layer.stride)
        if layer.sizes == "floor":
            return (size + 2 * layer.pad - layer.kernel) // layer.stride + 1
        out = -((size + 2 * layer.pad - layer.kernel) // -layer.stride) + 1
        return out - 1 if layer.pad and (out - 1) * layer.stride >= size + layer.pad else out

    def coordinate_map(self, layer: Layer, axis: Axis) -> CoordinateMap:
        """As a convolution's."""
        return CoordinateMap(Fraction(1, layer.stride), (layer.pad - Fraction(layer.kernel - 1, 2)) / layer.stride)

    def arithmetic(self, layer: Layer, axis: Axis) -> str:
        """(x + pad − (kernel − 1)/2) / stride."""
        return f"(x + {layer.pad} − ({layer.kernel} − 1)/2) / {layer.stride}"

    def window(self, layer: Layer, pixels: Interval, axis: Axis) -> Interval:
        """As a convolution's."""
        return pixels[0] * layer.stride - layer.pad, pixels[1] * layer.stride - layer.pad + layer.kernel - 1

    def prototxt(self, layer: Layer, outputs: int, offset: int) -> Message:
        """`pooling_param`."""
        return [("pooling_param", [("pool", Word("MAX")), ("kernel_size", layer.kernel), ("stride", layer.stride)])]


class InnerProduct(LayerKind):
    """A fully connected layer over a bottom of kernel × kernel pixels, columns in C·H·W order."""

    local = False

    def output_size(self, layer: Layer, size: int) -> int:
        """One pixel."""
        return 1

    def window(self, layer: Layer, pixels: Interval, axis: Axis) -> Interval:
        """All of the bottom."""
        return 0, axis.bottom - 1

    def weight_shape(self, layer: Layer, inputs: int, outputs: int) -> tuple[int, ...]:
        """O × (C·H·W)."""
        return outputs, inputs * layer.kernel**2

    def flops(self, weight: int, bottom: int, top: int) -> int:
        """Every weight once."""
        return 2 * weight

    def prototxt(self, layer: Layer, outputs: int, offset: int) -> Message:
        """`inner_product_param`."""
        return [("inner_product_param", [("num_output", outputs)])]


class Scale(LayerKind):
    """Every channel times its own number."""

    def weight_shape(self, layer: Layer, inputs: int, outputs: int) -> tuple[int, ...]:
        """C."""
        return (inputs,)

    def prototxt(self, layer: Layer, outputs: int, offset: int) -> Message:
        """`scale_param`, with the constant it starts at."""
        return [("scale_param", [("filler", [("type", "constant"), ("value", layer.fill)])])]


class BatchNorm(LayerKind):
    """torch's BatchNorm2d: weight, bias and running statistics in one layer; Caffe needs two."""

    caffe = False
    statistics = (("running_mean", 0.0), ("running_var", 1.0), ("num_batches_tracked", "counter"))

    def weight_shape(self, layer: Layer, inputs: int, outputs: int) -> tuple[int, ...]:
        """C."""
        return (inputs,)


class Crop(LayerKind):
    """The first bottom cut to the size of the second, at an offset that `geometry.crop_offsets`
    derives."""

    resizes_to_second = True

    def coordinate_map(self, layer: Layer, axis: Axis) -> CoordinateMap:
        """A shift."""
        return CoordinateMap(shift=Fraction(-axis.offset))

    def arithmetic(self, layer: Layer, axis: Axis) -> str:
        """x − offset."""
        return f"x − {axis.offset}"

    def window(self, layer: Layer, pixels: Interval, axis: Axis) -> Interval:
        """The same pixels, counted before the cut."""
        return pixels[0] + axis.offset, pixels[1] + axis.offset

    def prototxt(self, layer: Layer, outputs: int, offset: int) -> Message:
        """`crop_param`."""
        return [("crop_param", [("axis", 2), ("offset", offset)])]


class Eltwise(LayerKind):
    """The sum of its bottoms."""

    def prototxt(self, layer: Layer, outputs: int, offset: int) -> Message:
        """`eltwise_param`."""
        return [("eltwise_param", [("operation", Word("SUM"))])]


class Concat(LayerKind):
    """Its bottoms behind each other along the channels."""

    def channels(self, bottoms: Sequence[int]) -> int:
        """Their sum."""
        return sum(bottoms)

    def prototxt(self, layer: Layer, outputs: int, offset: int) -> Message:
        """`concat_param`."""
        return [("concat_param", [("axis", 1)])]


class NotInCaffe(LayerKind):
    """An elementwise layer without parameters that Caffe lacks, or that no network here writes to a
    prototxt."""

    caffe = False


class PadTo(NotInCaffe):
    """Zeros below and to the right, up to the size of the second bottom."""

    resizes_to_second = True


class Resize(NotInCaffe):
    """Bilinear with aligned corners, to the size of the second bottom."""

    resizes_to_second = True
    local = False

    def coordinate_map(self, layer: Layer, axis: Axis) -> CoordinateMap:
        """First onto first, last onto last pixel."""
        return (
            CoordinateMap(Fraction(axis.top - 1, axis.bottom - 1))
            if axis.bottom > 1 and axis.top > 1
            else CoordinateMap()
        )

    def window(self, layer: Layer, pixels: Interval, axis: Axis) -> Interval:
        """The pixels on both sides of where a sample falls."""
        scale = Fraction(axis.bottom - 1, axis.top - 1) if axis.top > 1 else Fraction(0)
        return math.floor(pixels[0] * scale), math.ceil(pixels[1] * scale)


class UpsampleBilinear(Resize):
    """Twice the rows and columns, bilinear with aligned corners: torch's Upsample(2, mode="bilinear", …)."""

    resizes_to_second = False

    def output_size(self, layer: Layer, size: int) -> int:
        """Twice."""
        return 2 * size


class UpsampleNearest(NotInCaffe):
    """Every pixel four times: torch's Upsample(2)."""

    def output_size(self, layer: Layer, size: int) -> int:
        """Twice."""
        return 2 * size

    def coordinate_map(self, layer: Layer, axis: Axis) -> CoordinateMap:
        """The centre of a pixel onto that of its block."""
        return CoordinateMap(Fraction(2), Fraction(1, 2))

    def arithmetic(self, layer: Layer, axis: Axis) -> str:
        """2 · x + 1/2."""
        return "2·x + 1/2"

    def window(self, layer: Layer, pixels: Interval, axis: Axis) -> Interval:
        """The pixel that a block repeats."""
        return pixels[0] // 2, pixels[1] // 2


class ResizeHalfPixel(NotInCaffe):
    """Bilinear to the size of the second bottom, the edges of the first and last pixel in their places: torch's
    interpolate(align_corners=False). A sample beyond the centre of the last pixel is that pixel."""

    resizes_to_second = True
    local = False

    def coordinate_map(self, layer: Layer, axis: Axis) -> CoordinateMap:
        """Edge onto edge."""
        scale = Fraction(axis.top, axis.bottom)
        return CoordinateMap(scale, (scale - 1) / 2)

    def window(self, layer: Layer, pixels: Interval, axis: Axis) -> Interval:
        """The pixels on both sides of where a sample falls."""
        back = self.coordinate_map(layer, axis).inverse()
        first, last = (back.scale * pixel + back.shift for pixel in pixels)
        return max(0, math.floor(first)), min(axis.bottom - 1, math.ceil(last))


class GlobalMean(NotInCaffe):
    """The mean of every channel: one pixel."""

    local = False

    def output_size(self, layer: Layer, size: int) -> int:
        """One pixel."""
        return 1

    def window(self, layer: Layer, pixels: Interval, axis: Axis) -> Interval:
        """All of the bottom."""
        return 0, axis.bottom - 1


class Unpooling(NotInCaffe):
    """The inverse of a max-pooling: each pixel of the first bottom goes to where its window had its largest pixel (the
    first of several, row by row) in the second bottom, which was pooled; elsewhere zero.

    Windows may overlap (`stride` below `kernel`), so that several pixels go to the same place: the last of them, row by
    row, is what stays. That is what one thread of torch's max_unpool2d does.
    """

    windowed = True

    def output_size(self, layer: Layer, size: int) -> int:
        """(size − 1) · stride + kernel."""
        return (size - 1) * layer.stride + layer.kernel

    def coordinate_map(self, layer: Layer, axis: Axis) -> CoordinateMap:
        """A pixel onto the centre of its window."""
        return CoordinateMap(Fraction(layer.stride), Fraction(layer.kernel - 1, 2))

    def arithmetic(self, layer: Layer, axis: Axis) -> str:
        """stride · x + (kernel − 1)/2."""
        return f"{layer.stride}·x + ({layer.kernel} − 1)/2"

    def window(self, layer: Layer, pixels: Interval, axis: Axis) -> Interval:
        """The windows that these pixels lie in, and, of the second bottom, their pixels."""
        first = -((pixels[0] - layer.kernel + 1) // -layer.stride)
        return min(first, pixels[0] - layer.kernel + 1), pixels[1] + layer.kernel - 1


class SpaceToBatch(NotInCaffe):
    """Blocks of 2×2 pixels become four images."""

    def output_size(self, layer: Layer, size: int) -> int:
        """Half."""
        return size // 2

    def coordinate_map(self, layer: Layer, axis: Axis) -> CoordinateMap:
        """Half the scale."""
        return CoordinateMap(Fraction(1, 2))

    def window(self, layer: Layer, pixels: Interval, axis: Axis) -> Interval:
        """Both pixels of a block."""
        return pixels[0] * 2, pixels[1] * 2 + 1


class BatchToSpace(NotInCaffe):
    """The inverse of SpaceToBatch."""

    def output_size(self, layer: Layer, size: int) -> int:
        """Twice."""
        return size * 2

    def coordinate_map(self, layer: Layer, axis: Axis) -> CoordinateMap:
        """Twice the scale."""
        return CoordinateMap(Fraction(2))

    def window(self, layer: Layer, pixels: Interval, axis: Axis) -> Interval:
        """The block of a pixel."""
        return pixels[0] // 2, pixels[1] // 2


KINDS: Mapping[str, LayerKind] = {
    "Convolution": Convolution(),
    "Deconvolution": Deconvolution(),
    "DeconvolutionSame": DeconvolutionSame(),
    "Pooling": Pooling(),
    "InnerProduct": InnerProduct(),
    "Scale": Scale(),
    "BatchNorm": BatchNorm(),
    "Crop": Crop(),
    "Eltwise": Eltwise(),
    "Concat": Concat(),
    "PadTo": PadTo(),
    "Resize": Resize(),
    "ReLU": NotInCaffe(),  # of a blob that is needed without it, too; otherwise it is a part of its layer
    "ResizeHalfPixel": ResizeHalfPixel(),
    "UpsampleBilinear": UpsampleBilinear(),
    "UpsampleNearest": UpsampleNearest(),
    "Unpooling": Unpooling(),
    "GlobalMean": GlobalMean(),
    "Multiply": NotInCaffe(),  # the first bottom times the second, of which one channel or one pixel stands for all
    "SpaceToBatch": SpaceToBatch(),
    "BatchToSpace": BatchToSpace(),
    "Sigmoid": NotInCaffe(),
    "ArgMax": NotInCaffe(),
    "BGR": NotInCaffe(),  # RGB reversed, minus the VGG mean
}


def output_size(layer: Layer, size: int) -> int:
    """Pixels of a layer's top along one axis, for a bottom of `size` pixels.

    Raises:
        ArchitectureError: nothing is left of the axis.
    """
    out = KINDS[layer.kind].output_size(layer, size)
    if out < 1:
        raise ArchitectureError(
            f"{layer.name}: an axis of {size} pixels is too small for kernel {layer.kernel}, stride "
            f"{layer.stride}, pad {layer.pad}"
        )
    return out


ONE_PIXEL = Axis()


def coordinate_map(layer: Layer, axis: Axis = ONE_PIXEL) -> CoordinateMap:
    """Map of one layer from the pixels of its first bottom to those of its top, along one axis."""
    return KINDS[layer.kind].coordinate_map(layer, axis)
