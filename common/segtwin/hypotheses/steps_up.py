"""Wrong on the way up of the newer U-Nets: upsampling, gates, recurrence, unpooling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from segtwin import oracle
from segtwin.architectures import Architecture, Layer
from segtwin.hypotheses import heads
from segtwin.hypotheses.case import Apply, Case, computed_by
from segtwin.hypotheses.catalogue import Hypothesis
from segtwin.oracle import Operator

Arrays = list[np.ndarray]


def of(case: Case) -> Iterator[Hypothesis]:
    """Hypotheses about layers that grow a map, multiply it, or use weights again."""
    layers = case.architecture.layers
    for kind, wrong in MISTAKES.items():
        those = [layer for layer in layers if layer.kind == kind]
        for id, words, operator in wrong if those else ():
            yield from everywhere_and_each(id, words, operator, those)
    yield from gates([layer for layer in layers if layer.kind == "Multiply"], case)
    yield from recurrences(layers)


def everywhere_and_each(id: str, words: str, operator: Operator, layers: Sequence[Layer]) -> Iterator[Hypothesis]:
    """A mistake in all layers of a kind, and in one of them."""
    if len(layers) > 1:
        names = tuple(layer.name for layer in layers)
        yield Hypothesis(id, names, f"every one of {', '.join(names)} {words}", computed_by(operator, *names))
    for layer in layers:
        yield Hypothesis(id, (layer.name,), f"{layer.name} {words}", computed_by(operator, layer.name))


def to_its_size(operator: Operator) -> Operator:
    """An interpolation of the first bottom to the size of a layer's top."""

    def resized(layer: Layer, architecture: Architecture, bottoms: Arrays, parameters: Arrays) -> np.ndarray:
        like = np.empty((1, 1, *size_of(layer, bottoms)), bottoms[0].dtype)
        return operator(layer, architecture, [bottoms[0], like], parameters)

    return resized


def size_of(layer: Layer, bottoms: Arrays) -> tuple[int, int]:
    """Rows and columns of the top."""
    if layer.kind == "ResizeHalfPixel":
        return bottoms[1].shape[2], bottoms[1].shape[3]
    return 2 * bottoms[0].shape[2], 2 * bottoms[0].shape[3]


nearest, asymmetric = to_its_size(heads.nearest), to_its_size(heads.asymmetric)
aligned, half_pixel = to_its_size(heads.resized(True)), to_its_size(heads.resized(False))


def unpooled_in_reverse(layer: Layer, architecture: Architecture, bottoms: Arrays, parameters: Arrays) -> np.ndarray:
    """Of several pixels that go to one place, the first stays."""
    x, like = bottoms
    rows, columns = oracle.places(layer, like, x.shape[2:])
    top = np.zeros_like(like)
    images, channels = np.ogrid[: x.shape[0], : x.shape[1]]
    for i in reversed(range(x.shape[2])):
        for j in reversed(range(x.shape[3])):
            top[images, channels, rows[:, :, i, j], columns[:, :, i, j]] = x[:, :, i, j]
    return top


def unpooled_sums(layer: Layer, architecture: Architecture, bottoms: Arrays, parameters: Arrays) -> np.ndarray:
    """Several pixels that go to one place are added up."""
    x, like = bottoms
    rows, columns = oracle.places(layer, like, x.shape[2:])
    top = np.zeros_like(like)
    images, channels = (index[..., None, None] for index in np.ogrid[: x.shape[0], : x.shape[1]])
    np.add.at(top, (images, channels, rows, columns), x)
    return top


ALIGNED = "it is bilinear with aligned corners"
NEAREST = "it repeats every pixel"
HALF = "it is bilinear with the edges in their places (align_corners=False)"
MISTAKES: dict[str, tuple[tuple[str, str, Operator], ...]] = {
    "UpsampleBilinear": (
        ("align_corners", f"does not align the corners: {ALIGNED}", half_pixel),
        ("upsample_nearest", f"repeats every pixel: {ALIGNED}", nearest),
        ("half_pixels_missing", f"has neither aligned corners nor pixel centres: {ALIGNED}", asymmetric),
    ),
    "UpsampleNearest": (
        ("upsample_bilinear", f"is bilinear, corners not aligned: {NEAREST}", half_pixel),
        ("align_corners", f"is bilinear with aligned corners: {NEAREST}", aligned),
    ),
    "ResizeHalfPixel": (
        ("align_corners", f"aligns the corners: {HALF}", aligned),
        ("upsample_nearest", f"repeats every pixel: {HALF}", nearest),
        ("half_pixels_missing", f"has neither aligned corners nor pixel centres: {HALF}", asymmetric),
    ),
    "Unpooling": (
        ("unpool_order", "keeps the first pixel that goes to a place: the last one stays", unpooled_in_reverse),
        ("unpool_sum", "adds up pixels that go to one place: the last one stays", unpooled_sums),
    ),
}
"""Kind of layer → id, words and operator of what is done in its place."""


# ------------------------------------------------------------------------------------------- gates


def ungated(layer: Layer, architecture: Architecture, bottoms: Arrays, parameters: Arrays) -> np.ndarray:
    """The skip as it is."""
    return bottoms[0]


def added(layer: Layer, architecture: Architecture, bottoms: Arrays, parameters: Arrays) -> np.ndarray:
    """A sum in place of the product."""
    return bottoms[0] + bottoms[1]


def one_minus(layer: Layer, architecture: Architecture, bottoms: Arrays, parameters: Arrays) -> np.ndarray:
    """Gated the other way round."""
    x, gate = bottoms
    return x * (1 - gate)


def gates(products: list[Layer], case: Case) -> Iterator[Hypothesis]:
    """A gate that is left out, or turned round; its two arguments exchanged."""
    if not products:
        return
    yield from everywhere_and_each("gate_missing", "is the skip as it is: it is multiplied", ungated, products)
    yield from everywhere_and_each("gate_added", "is the skip plus the gate: it is multiplied", added, products)
    yield from everywhere_and_each("gate_inverted", "is multiplied by 1 − the gate", one_minus, products)
    by_name = {layer.name: layer for layer in case.architecture.layers}
    for product in products:
        pair = [by_name.get(f"{product.name}.{which}.0") for which in ("W_g", "W_x")]
        if pair[0] is not None and pair[1] is not None:
            names = pair[0].name, pair[1].name
            yield Hypothesis(
                "gate_arguments", names, f"{product.name} takes the gate for the skip: W_g is of the upsampled map",
                exchanged(*names), product.name,
            )  # fmt: skip


def exchanged(one: str, other: str) -> Apply:
    """Two layers have each other's bottoms."""

    def apply(case: Case) -> Case:
        first, second = case.architecture.layer(one).bottoms, case.architecture.layer(other).bottoms
        return case.with_layer(one, bottoms=second).with_layer(other, bottoms=first)

    return apply


# -------------------------------------------------------------------------------------- recurrence


def recurrences(layers: Sequence[Layer]) -> Iterator[Hypothesis]:
    """f(y + y) where it is f(x + y), and the other way round: the two R2U-Nets."""
    doubled = [layer for layer in layers if layer.name.endswith(".doubled")]
    if doubled:
        yield Hypothesis(
            "recurrence", tuple(layer.name for layer in doubled),
            "the blocks are recurrent, f(x + f(x)) as in UNET-ZOO: bigmb's take f(2·f(x))",
            partial(rewired_all, pairs=[(layer.name, source_of(layers, layer), layer.bottoms[0]) for layer in doubled]),
        )  # fmt: skip
    sums = [layer for layer in layers if layer.name.endswith(".RCNN.0.sum") or layer.name.endswith(".RCNN.1.sum")]
    if sums:
        first = [layer for layer in layers if layer.name.endswith(".second.sum")]
        yield Hypothesis(
            "recurrence", tuple(layer.name for layer in (*first, *sums)),
            "the blocks are not recurrent, f(2·f(x)) as bigmb's: UNET-ZOO's take f(x + f(x)), twice",
            partial(rewired_all, pairs=[(layer.name, *twice_first(layer)) for layer in (*first, *sums)]),
        )  # fmt: skip


def source_of(layers: Sequence[Layer], doubled: Layer) -> str:
    """What a recurrent block takes: the bottom of its first call."""
    linear = f"{doubled.bottoms[0]}.linear"
    return next(layer.bottoms[0] for layer in layers if layer.name == linear)


def twice_first(sum_: Layer) -> tuple[str, str]:
    """The bottoms of a sum of a block that is not recurrent: f(x), twice."""
    first = f"{sum_.name.removesuffix('.sum').removesuffix('.second')}.first"
    return first, first


def rewired_all(case: Case, pairs: Sequence[tuple[str, str, str]]) -> Case:
    """Layers have other bottoms."""
    for name, one, other in pairs:
        case = case.with_layer(name, bottoms=(one, other))
    return case
