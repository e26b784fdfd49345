"""Wrong heads: crops, upsampling, sums, concatenations, the at-once scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from segtwin import oracle
from segtwin.architectures import Architecture, Layer
from segtwin.hypotheses.case import Case, Change, computed_by, cropped_at, cut, layer_is, times, weight_is
from segtwin.hypotheses.catalogue import Hypothesis
from segtwin.hypotheses.kernels import LAYOUTS, every
from segtwin.oracle import Operator

NEAR = 9
"""Crop offsets are tried up to so many pixels away."""


def of(case: Case) -> Iterator[Hypothesis]:
    """Hypotheses about crops, upsampling and what joins two paths."""
    for layer in case.architecture.layers:
        if layer.kind == "Crop":
            yield from crops(case, layer)
        elif layer.kind in ("Deconvolution", "DeconvolutionSame"):
            yield from upsampling(case, layer)
        elif layer.kind == "Resize":
            yield from resizing(layer)
        elif layer.kind == "PadTo":
            yield from fitting(layer)
        elif layer.kind == "Eltwise":
            yield from sums(layer)
        elif layer.kind == "Concat":
            yield from orders(layer)
        elif layer.kind == "Scale":
            yield from scales(case, layer)
    joins = [layer for layer in case.architecture.layers if layer.kind == "Concat"]
    joined = [layer.name for layer in joins]
    if len(joined) > 1:
        yield Hypothesis(
            "concat_order", tuple(joined), "the concatenations have their parts in the wrong order: "
            f"{joined[0]} is {', '.join(joins[0].bottoms)}", computed_by(reversed_parts, *joined),
        )  # fmt: skip
        if any(len(layer.bottoms) > 2 for layer in joins):
            yield Hypothesis(
                "concat_order", tuple(joined), "the concatenations have their last part, what was upsampled, first",
                computed_by(last_first, *joined), "last first",
            )  # fmt: skip
    yield from all_learned(case)
    cropped = [layer.name for layer in case.architecture.layers if layer.kind == "Crop"]
    if len(cropped) > 1:
        yield Hypothesis(
            "crop_centre", tuple(cropped), "the crops cut out the middle: their offsets are the same at every size",
            computed_by(centre, *cropped),
        )  # fmt: skip
    growing = [layer.name for layer in case.architecture.layers if layer.kind == "Deconvolution"]
    for id, words, operator, variant in interpolations():
        if len(growing) > 1 and cropped:
            yield Hypothesis(
                id, tuple(growing), f"the deconvolutions are {words}",
                computed_by(operator, *growing), variant,
            )  # fmt: skip


# ------------------------------------------------------------------------------------------- crops


def crops(case: Case, layer: Layer) -> Iterator[Hypothesis]:
    """Other offsets, and the middle."""
    offset = case.architecture.offsets[layer.name]
    near = [offset + sign * by for by in range(1, NEAR + 1) for sign in (-1, 1)]
    for other in dict.fromkeys([*near, 0]):
        if other >= 0 and other != offset:
            yield Hypothesis(
                "crop_offset", (layer.name,), f"{layer.name} begins at row and column {other}: the offset is {offset}",
                cropped_at(layer.name, other), f"{other - offset:+d}",
            )  # fmt: skip
    for by in (-2, -1, 1, 2):
        for axis, words in enumerate(("row", "column")):
            begin = [offset, offset]
            begin[axis] += by
            if begin[axis] >= 0:
                yield Hypothesis(
                    "crop_offset", (layer.name,),
                    f"{layer.name} begins at {words} {begin[axis]}: the offset is {offset} along both axes",
                    computed_by(partial(cut, top=begin[0], left=begin[1]), layer.name), f"{words} {by:+d}",
                )  # fmt: skip
    yield Hypothesis(
        "crop_centre", (layer.name,), f"{layer.name} cuts out the middle: the offset is {offset} at every size",
        computed_by(centre, layer.name),
    )  # fmt: skip
    source = case.architecture.layer(layer.bottoms[0]) if layer.bottoms[0] != case.architecture.input else None
    if source is not None and source.kind == "Deconvolution":
        for id, words, operator in (
            ("align_corners", "align_corners=True", resized(True)),
            ("half_pixels", "align_corners=False", resized(False)),
            ("nearest", "pixels repeated", nearest),
        ):
            yield Hypothesis(
                id, (layer.name,),
                f"{source.bottoms[0]} is resized to the size of {layer.bottoms[1]} ({words}), without {source.name} "
                "and the crop: they put the pixels elsewhere",
                straight(layer.name, (source.bottoms[0], layer.bottoms[1]), operator), "straight",
            )  # fmt: skip
    yield Hypothesis(
        "crop_end", (layer.name,), f"{layer.name} cuts off the beginning alone: the offset is {offset}",
        computed_by(end, layer.name),
    )  # fmt: skip


def straight(name: str, bottoms: tuple[str, ...], operator: Operator) -> Callable[[Case], Case]:
    """A layer is computed from other bottoms."""
    return lambda case: case.with_layer(name, bottoms=bottoms, kind="Resize").with_operator(operator, name)


def centre(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """The middle of the first bottom."""
    x, like = bottoms
    rows, columns = ((have - want) // 2 for have, want in zip(x.shape[2:], like.shape[2:], strict=True))
    return x[:, :, rows : rows + like.shape[2], columns : columns + like.shape[3]]


def end(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """The last rows and columns of the first bottom."""
    x, like = bottoms
    return x[:, :, x.shape[2] - like.shape[2] :, x.shape[3] - like.shape[3] :]


# -------------------------------------------------------------------------------------- upsampling


def upsampling(case: Case, layer: Layer) -> Iterator[Hypothesis]:
    """Kernels of deconvolutions, and what takes their place."""
    name = case.architecture.parameter_name(layer, "weight")
    if name not in case.weights:
        return
    kernel = layer.kernel
    weight = case.weights[name]
    inputs, outputs = weight.shape[:2]
    bilinear = inputs == outputs and np.array_equal(weight, diagonal(weight[0, 0])(weight))
    if not bilinear:
        yield from learned(layer, name, inputs == outputs)
    if inputs == outputs and layer.fill == "bilinear":
        f, c = -(kernel // -2), (kernel - 1) / 2 if kernel % 2 == 0 else -(kernel // -2) - 1
        for id, values, words in kernels(kernel, layer.stride):
            yield Hypothesis(
                id, (layer.name,),
                f"the kernel of {layer.name} {words}: it is bilinear, (1 − |x − {c:g}|/{f})(1 − |y − {c:g}|/{f})",
                weight_is(name, diagonal(values)),
            )  # fmt: skip
        if inputs > 1:
            yield Hypothesis(
                "deconv_off_diagonal", (layer.name,),
                f"{layer.name} adds up all classes, its weight is filled off the diagonal: every class is upsampled "
                "by itself",
                weight_is(name, lambda w: diagonal(w[0, 0], dense=True)(w)),
            )  # fmt: skip
            yield Hypothesis(
                "deconv_first_class", (layer.name,), f"{layer.name} upsamples the first class alone",
                weight_is(name, first_class),
            )  # fmt: skip
    if layer.fill == "bilinear" and layer.kind == "Deconvolution":
        for id, words, operator, variant in interpolations():
            yield Hypothesis(
                id, (layer.name,), f"{layer.name} is {words}",
                computed_by(operator, layer.name), variant,
            )  # fmt: skip
    if layer.kind == "DeconvolutionSame":
        for shift, words in ((1, "later"), (-1, "earlier")):
            yield Hypothesis(
                "deconv_offset", (layer.name,), f"{layer.name} is cut one pixel {words} than TensorFlow's SAME cuts it",
                computed_by(same_shifted(shift), layer.name), f"{shift:+d}",
            )  # fmt: skip
        yield Hypothesis(
            "crop_offset", (layer.name,), f"{layer.name} is cut from the first row and column on: SAME cuts both ends",
            computed_by(same_shifted(None), layer.name), "0",
        )  # fmt: skip
        for id, corners in (("align_corners", True), ("half_pixels", False)):
            yield Hypothesis(
                id, (layer.name,), f"{layer.name} is an interpolation, align_corners={corners}: it is a deconvolution",
                computed_by(resized(corners), layer.name),
            )  # fmt: skip
    if layer.pad or layer.output_pad:
        for rows in (-1, 1):
            yield Hypothesis(
                "deconv_offset", (layer.name,),
                f"{layer.name} is shifted by a pixel: it pads {layer.pad}, with {layer.output_pad} more at the bottom "
                "and right (TensorFlow's SAME cuts otherwise)",
                computed_by(deconvolution_shifted(rows), layer.name), f"{rows:+d}",
            )  # fmt: skip


MIRRORED = {
    "kernel_flipped": "mirrored along both axes",
    "kernel_transposed": "stored with rows and columns exchanged",
    "kernel_flipped_rows": "stored with their rows in the reverse order",
    "kernel_flipped_columns": "stored with their columns in the reverse order",
}
"""Layouts of a deconvolution's kernel I×O×kh×kw that is not bilinear, in words."""


def learned(layer: Layer, name: str, square: bool) -> Iterator[Hypothesis]:
    """Layouts of one such kernel."""
    if square:
        yield Hypothesis(
            "kernel_in_out", (layer.name,),
            f"the kernels of {layer.name} have inputs and outputs exchanged: a deconvolution's are I×O×kh×kw",
            weight_is(name, lambda w: w.swapaxes(0, 1)),
        )  # fmt: skip
    for id, words in MIRRORED.items():
        yield Hypothesis(id, (layer.name,), f"the kernels of {layer.name} are {words}", weight_is(name, LAYOUTS[id]))


def all_learned(case: Case) -> Iterator[Hypothesis]:
    """Layouts of all of them."""
    table = case.architecture
    those = [layer for layer in table.layers if layer.kind == "Deconvolution" and layer.fill != "bilinear"]
    names = [table.parameter_name(layer, "weight") for layer in those]
    if len(those) < 2 or not case.weights.keys() >= set(names):
        return
    for id, words in MIRRORED.items():
        text = f"the deconvolutions' kernels are {words}"
        yield Hypothesis(id, tuple(layer.name for layer in those), text, every(case, those, LAYOUTS[id]), "up")


def first_class(weight: np.ndarray) -> np.ndarray:
    """Everything but the first class left at zero."""
    new = np.zeros_like(weight)
    new[0, 0] = weight[0, 0]
    return new


def diagonal(kernel: np.ndarray, dense: bool = False) -> Change:
    """A kernel on the diagonal of a weight I×O×kh×kw, or everywhere."""

    def change(weight: np.ndarray) -> np.ndarray:
        if dense:
            return np.broadcast_to(kernel, weight.shape).astype(weight.dtype)
        new = np.zeros_like(weight)
        for place in range(min(weight.shape[:2])):
            new[place, place] = kernel
        return new

    return change


def kernels(kernel: int, stride: int) -> Iterator[tuple[str, np.ndarray, str]]:
    """Kernels that are taken for the bilinear one."""
    place = np.arange(kernel)

    def outer(values: np.ndarray) -> np.ndarray:
        return np.outer(values, values)

    f = -(kernel // -2)
    yield "bilinear_odd", outer(np.maximum(0, 1 - np.abs(place - (f - 1)) / f)), (
        "is that of an odd kernel (c = f − 1 at an even size), half a pixel off"
    )  # fmt: skip
    yield "bilinear_odd_centre", outer(np.maximum(0, 1 - np.abs(place - kernel // 2) / f)), (
        "has its centre at k/2, half a pixel off"
    )  # fmt: skip
    yield "nearest", outer((np.abs(place - (kernel - 1) / 2) < stride / 2).astype(float)), "repeats pixels"
    yield "deconv_ones", np.ones((kernel, kernel)), "is all ones"
    yield "deconv_zeros", np.zeros((kernel, kernel)), "is all zeros"
    bilinear = outer(1 - np.abs(place - (kernel - 1) / 2) / f)
    yield "deconv_normalised", bilinear / bilinear.sum(), "is divided by its sum"
    yield "align_corners_kernel", outer(np.minimum(1, np.linspace(0, 2, kernel))[:] * np.minimum(
        1, np.linspace(2, 0, kernel))), "reaches zero at its ends"  # fmt: skip


def interpolations() -> Iterator[tuple[str, str, Operator, str]]:
    """Id, words, operator and variant of what takes the place of a deconvolution and the crop after it."""
    right = ": it is a deconvolution without padding, and the crop that follows has its offset"
    kinds = (
        ("upsampling_same", "cut as TensorFlow's SAME cuts it", same_size),
        ("align_corners", "an interpolation with aligned corners (align_corners=True)", resized(True)),
        ("half_pixels", "an interpolation of pixel centres (align_corners=False)", resized(False)),
        ("nearest", "an interpolation that repeats pixels", nearest),
    )
    for id, words, operator in kinds:
        yield (
            id,
            f"{words}, to stride times the size, the crop's offset unchanged{right}",
            placed(operator, False),
            "copied",
        )
        yield id, f"{words}, to stride times the size{right}", placed(operator, True), "placed"
        if operator is not same_size:
            yield id, f"{words}{right}", operator, "full"


def placed(operator: Operator, centred: bool) -> Operator:
    """What is stride times as large, in the place of a whole deconvolution: where its pixels belong, or, as the crop
    that follows has its number from elsewhere, from the first row and column on."""

    def whole(
        layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
    ) -> np.ndarray:
        x = bottoms[0]
        rows, columns = (size * layer.stride for size in x.shape[2:])
        like = np.empty((1, 1, rows, columns), x.dtype)
        part = operator(layer, architecture, [x, like], parameters)
        if not centred and operator is same_size:  # its pixels are those of the deconvolution, and there are no others
            return part
        full = [(size - 1) * layer.stride + layer.kernel for size in x.shape[2:]]
        top = np.zeros((*part.shape[:2], *full), x.dtype)
        off = (layer.kernel - layer.stride) // 2 if centred else 0
        top[:, :, off : off + rows, off : off + columns] = part[:, :, : full[0] - off, : full[1] - off]
        return top

    return whole


def same_size(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """The deconvolution cut as SAME cuts it."""
    x, like = bottoms
    full = oracle.deconvolution(layer, architecture, [x], parameters)
    off = (layer.kernel - layer.stride) // 2
    return full[:, :, off : off + like.shape[2], off : off + like.shape[3]]


def same_shifted(shift: int | None) -> Operator:
    """SAME's cut some pixels later, or from the first pixel on (None)."""

    def operator(
        layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
    ) -> np.ndarray:
        x, like = bottoms
        full = oracle.deconvolution(layer, architecture, [x], parameters)
        begin = [
            0 if shift is None else (have - want) // 2 + shift
            for have, want in zip(full.shape[2:], like.shape[2:], strict=True)
        ]
        return shifted(full, begin[0], begin[1], *like.shape[2:])

    return operator


def shifted(x: np.ndarray, top: int, left: int, rows: int, columns: int) -> np.ndarray:
    """A cut that may reach beyond the edges, where it is zero."""
    wide = np.pad(x, ((0, 0), (0, 0), (max(0, -top), rows), (max(0, -left), columns)))
    top, left = max(0, top), max(0, left)
    return wide[:, :, top : top + rows, left : left + columns]


def deconvolution_shifted(shift: int) -> Operator:
    """A deconvolution of the same size, some pixels later."""

    def operator(
        layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
    ) -> np.ndarray:
        weight, *bias = parameters
        right = oracle.deconvolution(layer, architecture, bottoms, [weight])
        full = oracle.deconvolution(replace(layer, pad=0, output_pad=0), architecture, bottoms, [weight])
        top = shifted(full, layer.pad + shift, layer.pad + shift, *right.shape[2:])
        return top + bias[0][:, None, None] if bias else top

    return operator


def resizing(layer: Layer) -> Iterator[Hypothesis]:
    """An interpolation of another kind."""
    for id, operator, words in (
        ("align_corners", resized(False), "align_corners=False"), ("nearest", nearest, "that repeats pixels"),
        ("half_pixels_missing", asymmetric, "with neither aligned corners nor pixel centres (TensorFlow 1's)"),
    ):  # fmt: skip
        yield Hypothesis(
            id, (layer.name,), f"{layer.name} is an interpolation {words}: it is bilinear with align_corners=True",
            computed_by(operator, layer.name), "resize",
        )  # fmt: skip


def size_of(layer: Layer, bottoms: list[np.ndarray]) -> tuple[int, int]:
    """Rows and columns of an interpolation in a layer's place."""
    if len(bottoms) > 1:
        return bottoms[1].shape[2], bottoms[1].shape[3]
    rows, columns = ((have - 1) * layer.stride + layer.kernel for have in bottoms[0].shape[2:])
    return rows, columns


def resized(corners: bool) -> Operator:
    """Linear interpolation along each axis."""

    def operator(
        layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
    ) -> np.ndarray:
        x = bottoms[0]
        for axis, want in zip((2, 3), size_of(layer, bottoms), strict=True):
            have = x.shape[axis]
            place = np.linspace(0, have - 1, want) if corners else oracle.half_pixel_places(have, want)
            x = oracle.sampled(x, axis, place)
        return x

    return operator


def asymmetric(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """Linear interpolation at y · have / want."""
    x = bottoms[0]
    for axis, want in zip((2, 3), size_of(layer, bottoms), strict=True):
        x = oracle.sampled(x, axis, (np.arange(want) * x.shape[axis] / want).clip(0, x.shape[axis] - 1))
    return x


def nearest(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """Pixels repeated."""
    x = bottoms[0]
    for axis, want in zip((2, 3), size_of(layer, bottoms), strict=True):
        x = x.take((np.arange(want) * x.shape[axis]) // want, axis)
    return x


def fitting(layer: Layer) -> Iterator[Hypothesis]:
    """Padding of an upsampled map on the wrong side."""

    def before(
        own: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
    ) -> np.ndarray:
        x, like = bottoms
        return np.pad(x, ((0, 0), (0, 0), *((b - a, 0) for a, b in zip(x.shape[2:], like.shape[2:], strict=True))))

    for id, operator, words in (
        ("fit_before", before, "padded above and to the left"),
        ("fit_resized", resized(False), "resized"),
        ("fit_resized_corners", resized(True), "resized, align_corners=True"),
    ):  # fmt: skip
        yield Hypothesis(
            id, (layer.name,), f"{layer.name} is {words}: it is padded below and to the right with zeros",
            computed_by(operator, layer.name),
        )  # fmt: skip


# ------------------------------------------------------------------------------------ joining paths


def sums(layer: Layer) -> Iterator[Hypothesis]:
    """Something else than a sum; a part left out."""
    for id, words, function in (
        ("fuse_mean", "a mean", lambda parts: sum(parts[1:], start=parts[0]) / parts[0].dtype.type(len(parts))),
        ("fuse_max", "a maximum", lambda parts: np.maximum.reduce(parts)),
        ("fuse_product", "a product", lambda parts: np.multiply.reduce(parts)),
    ):  # fmt: skip
        yield Hypothesis(
            id, (layer.name,), f"{layer.name} is {words}: it is a sum",
            computed_by(joined(function), layer.name),
        )  # fmt: skip
    for bottom in dict.fromkeys(layer.bottoms):
        number = layer.bottoms.index(bottom)
        yield Hypothesis(
            "skip_missing", (layer.name,), f"{layer.name} lacks {bottom}",
            computed_by(joined(all_but(number)), layer.name), bottom,
        )  # fmt: skip


def joined(function: Callable[[list[np.ndarray]], np.ndarray]) -> Operator:
    """A function of the bottoms."""

    def operator(
        layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
    ) -> np.ndarray:
        return function(bottoms)

    return operator


def all_but(number: int) -> Callable[[list[np.ndarray]], np.ndarray]:
    """The sum of all bottoms but one."""

    def function(parts: list[np.ndarray]) -> np.ndarray:
        return np.add.reduce([part for place, part in enumerate(parts) if place != number])

    return function


def orders(layer: Layer) -> Iterator[Hypothesis]:
    """The parts of a concatenation in the reverse order; of more than two, turned by one place."""
    right = f"it is {', '.join(layer.bottoms)}"
    yield Hypothesis(
        "concat_order", (layer.name,), f"{layer.name} has its parts in the wrong order: {right}",
        computed_by(reversed_parts, layer.name),
    )  # fmt: skip
    if len(layer.bottoms) > 2:
        for words, bottoms in (
            ("last part first", layer.bottoms[-1:] + layer.bottoms[:-1]),
            ("first part last", layer.bottoms[1:] + layer.bottoms[:1]),
        ):
            yield Hypothesis(
                "concat_order", (layer.name,), f"{layer.name} has its {words}: {right}",
                layer_is(layer.name, bottoms=bottoms), words,
            )  # fmt: skip


def reversed_parts(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """The parts of a concatenation in the reverse order."""
    return np.concatenate(bottoms[::-1], axis=1)


def last_first(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """The last part of a concatenation first."""
    return np.concatenate([bottoms[-1], *bottoms[:-1]], axis=1)


def to(value: float) -> Change:
    """Every number is this one."""
    return lambda array: np.full_like(array, value)


def scales(case: Case, layer: Layer) -> Iterator[Hypothesis]:
    """The at-once scales forgotten, or applied behind the score layer, where they scale its bias, too."""
    name = case.architecture.parameter_name(layer, "weight")
    yield Hypothesis(
        "scale_missing", (layer.name,), f"{layer.name} is not applied",
        weight_is(name, np.ones_like),
    )  # fmt: skip
    yield Hypothesis("scale_twice", (layer.name,), f"{layer.name} is applied twice", weight_is(name, np.square))
    for other in case.architecture.layers:
        own = case.architecture.parameter_name(other, "weight")
        if other.kind == "Scale" and other is not layer and own in case.weights:
            factor = np.asarray(case.weights[own]).flat[0]
            yield Hypothesis(
                "scale_swapped", (layer.name,), f"{layer.name} has the scale of {other.name}",
                weight_is(name, to(float(factor))), other.name,
            )  # fmt: skip
    for score in case.architecture.layers:
        if score.bottoms[:1] == (layer.name,) and score.kind == "Convolution" and score.bias:
            factor = float(np.asarray(case.weights[name]).flat[0])
            bias = case.architecture.parameter_name(score, "bias")
            yield Hypothesis(
                "scale_late", (score.name,), f"{layer.name} is applied behind {score.name}, and scales its bias",
                weight_is(bias, times(factor)),
            )  # fmt: skip
