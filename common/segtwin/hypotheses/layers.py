"""Wrong layers of the backbone: padding, poolings, ReLUs, dropout, skips that leave too early."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from segtwin import oracle
from segtwin.architectures import Architecture, Layer
from segtwin.hypotheses.case import Apply, Case, Change, computed_by, layer_is, layers_are, left_out, output_is, times
from segtwin.hypotheses.catalogue import Hypothesis
from segtwin.layer_kinds import KINDS, output_size
from segtwin.oracle import Operator

MODES = {
    "edge": "the edge's pixels repeated", "reflect": "the image mirrored",
    "symmetric": "the image mirrored, its edge repeated", "wrap": "the other side of the image",
}  # fmt: skip
"""Of padding: what numpy calls it, and in words."""
NEARBY = 6
"""Layers before and behind the right one that a skip may leave from."""
SLOPES = (0.01, 0.1, 0.2, 0.3)
"""Of leaky ReLUs: torch's and TensorFlow 1's default, darknet's, TensorFlow's, Keras'."""


def of(case: Case) -> Iterator[Hypothesis]:
    """Hypotheses about padding, poolings, ReLUs, dropout and skips."""
    yield from paddings(case)
    yield from poolings(case)
    yield from activations(case)
    yield from left_out_layers(case)
    yield from skips(case)
    yield from elsewhere(case)


def kind(case: Case, *kinds: str) -> list[Layer]:
    """The layers of these kinds."""
    return [layer for layer in case.architecture.layers if layer.kind in kinds]


# ----------------------------------------------------------------------------------------- padding


def paddings(case: Case) -> Iterator[Hypothesis]:
    """Pad 100, padding of convolutions, TensorFlow's SAME."""
    convolutions = kind(case, "Convolution")
    first = convolutions[0]
    if first.pad > 1:
        yield from hundred(first, convolutions[1])
    for layer in convolutions:
        if layer.kernel > 1 and layer.pad != 0 and layer is not first:
            yield Hypothesis(
                "conv_pad", (layer.name,), f"{layer.name} is not padded: it pads {layer.pad}",
                layer_is(layer.name, pad=0),
            )  # fmt: skip
        if layer.kernel > 1 and layer.pad == 0 and layer.pad_after is None:
            half = layer.kernel // 2
            yield Hypothesis(
                "conv_pad", (layer.name,), f"{layer.name} is padded by {half}: it has no padding",
                layer_is(layer.name, pad=half),
            )  # fmt: skip
        if layer.kernel > 1 and layer.dilation == 1:
            yield Hypothesis(
                "dilation", (layer.name,), f"{layer.name} is dilated by 2, and padded by {2 * layer.pad}: it is not",
                layer_is(layer.name, dilation=2, pad=2 * layer.pad),
            )  # fmt: skip
        if layer.stride > 1 and layer.pad:
            yield Hypothesis(
                "conv_same", (layer.name,),
                f"{layer.name} is padded as TensorFlow's SAME, which puts the smaller half first: pad {layer.pad} on "
                "every side, then convolve without padding",
                computed_by(convolution_same, layer.name),
            )  # fmt: skip
    strided = [layer for layer in convolutions if layer.stride > 1 and layer.pad]
    if len(strided) > 1:
        yield Hypothesis(
            "conv_same", tuple(layer.name for layer in strided),
            "convolutions of stride 2 are padded as TensorFlow's SAME, which puts the smaller half first: pad on every "
            "side, then convolve without padding",
            computed_by(convolution_same, *(layer.name for layer in strided)),
        )  # fmt: skip
    padded = [layer for layer in convolutions if layer.kernel > 1 and layer.pad]
    for mode, words in MODES.items() if padded else ():
        yield Hypothesis(
            f"pad_{mode}", tuple(layer.name for layer in padded),
            f"convolutions are padded with {words}: the padding is zeros",
            computed_by(padded_with(mode), *(layer.name for layer in padded)),
            "all",
        )  # fmt: skip
        for layer in padded if mode in ("edge", "reflect") and len(padded) > 1 else ():
            yield Hypothesis(
                f"pad_{mode}", (layer.name,), f"{layer.name} is padded with {words}: the padding is zeros",
                computed_by(padded_with(mode), layer.name), "alone",
            )  # fmt: skip


def hundred(first: Layer, second: Layer) -> Iterator[Hypothesis]:
    """The padding of 100 pixels."""
    pad, name = first.pad, first.name
    for rest in (0, 1):  # all of it by a padding layer, or all but the convolution's own pixel
        for mode, words in MODES.items():
            yield Hypothesis(
                f"pad_{mode}", (name,), f"the {pad} pixels of padding of {name} are {words}: they are zeros",
                computed_by(padded_with(mode, rest), name), f"{rest}",
            )  # fmt: skip
        yield Hypothesis(
            "pad_mean", (name,),
            f"the image is padded by {pad} pixels before the mean is subtracted, so that the padding is minus the "
            "mean: subtract the mean first; the padding is zeros",
            computed_by(padded_with("mean", rest), name), f"{rest}",
        )  # fmt: skip
    yield Hypothesis(
        "pad_moved", (name, second.name),
        f"the padding of {pad} pixels is at {second.name}: it belongs to {name}",
        lambda one: one.with_layer(name, pad=1).with_layer(second.name, pad=pad),
    )  # fmt: skip
    half = (pad + 1) // 2
    yield Hypothesis(
        "pad_split", (name, second.name),
        f"the padding of {pad} pixels is shared by {name} and {second.name}: all of it belongs to {name}",
        lambda one: one.with_layer(name, pad=half).with_layer(second.name, pad=pad + 1 - half),
    )  # fmt: skip
    for other in (1, 0, pad - 1, pad + 1):
        yield Hypothesis(
            "pad_missing" if other < 2 else "pad_amount", (name,),
            f"{name} pads {other}: it pads {pad}; the crops' offsets suppose that",
            layer_is(name, pad=other), f"{other}",
        )  # fmt: skip


def padded_with(mode: str, rest: int = 0) -> Operator:
    """A convolution that fills its padding otherwise, but for the `rest` outermost pixels.

    `mode` is one of numpy's, or "mean": what a black image has after the preprocessing.
    """

    def operator(
        layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
    ) -> np.ndarray:
        (x,) = bottoms
        widths = ((0, 0), (0, 0), *[tuple(one - rest for one in layer.pads)] * 2)
        if mode == "mean":
            said = architecture.preprocessing.for_channels(x.shape[1])
            black = np.broadcast_to(-np.divide(said.mean, said.std).astype(x.dtype), (x.shape[1],))[:, None, None]
            wide = np.pad(x - black, widths) + black
        else:
            wide = np.pad(x, widths, mode=mode)  # type: ignore[call-overload]
        return oracle.convolution(replace(layer, pad=rest, pad_after=None), architecture, [wide], parameters)

    return operator


def convolution_same(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """A convolution as TensorFlow pads it for SAME: as little as is needed, the smaller half first."""
    wide = padded_same(layer, bottoms[0], 0.0)
    return oracle.convolution(replace(layer, pad=0, pad_after=None), architecture, [wide], parameters)


def padded_same(layer: Layer, x: np.ndarray, fill: float) -> np.ndarray:
    """A bottom as TensorFlow pads it for SAME."""
    whole = [max(0, (-(size // -layer.stride) - 1) * layer.stride + layer.kernel - size) for size in x.shape[2:]]
    return np.pad(x, ((0, 0), (0, 0), *((all // 2, all - all // 2) for all in whole)), constant_values=fill)


# ---------------------------------------------------------------------------------------- poolings


def poolings(case: Case) -> Iterator[Hypothesis]:
    """Rounding of sizes, means in place of maxima, padding."""
    pools = [layer for layer in kind(case, "Pooling") if layer.stride > 1]
    sizes = (
        ("floor", "floor_pooling", "down, as torch's and Keras' default"), ("ceil", "ceil_pooling", "up, as Caffe's"),
        ("same", "same_pooling", "up, as TensorFlow's SAME"),
    )  # fmt: skip
    for chosen, id, words in sizes:
        wrong = [layer for layer in pools if layer.sizes != chosen and differently(layer, chosen)]
        for those in ([wrong] if len(wrong) > 1 else []) + [[layer] for layer in wrong]:
            yield Hypothesis(
                id, tuple(layer.name for layer in those),
                f"{'the poolings round' if len(those) > 1 else f'{those[0].name} rounds'} sizes {words}: the original "
                f"rounds them {'up (ceil_mode=True)' if those[0].sizes != 'floor' else 'down'}",
                layers_are(those, sizes=chosen),
            )  # fmt: skip
    for those in ([pools] if len(pools) > 1 else []) + [[layer] for layer in pools]:
        if any(layer.kernel == 2 for layer in those):
            for pad in (0, 1):
                yield Hypothesis(
                    "pool_kernel", tuple(layer.name for layer in those),
                    f"{'the poolings take' if len(those) > 1 else f'{those[0].name} takes'} windows of 3×3"
                    f"{', padded by 1' * pad}: they are 2×2",
                    layers_are(those, kernel=3, pad=pad), f"{pad}",
                )  # fmt: skip
    for layer in pools:
        for kernel, pad in ((2, 0), (3, 1)) if layer.kernel == 2 else ((layer.kernel, layer.pad),):
            yield Hypothesis(
                "pool_stride", (layer.name,),
                f"{layer.name} goes on by 1 pixel, windows of {kernel}×{kernel}: its stride is {layer.stride}",
                layer_is(layer.name, stride=1, kernel=kernel, pad=pad), f"{kernel}",
            )  # fmt: skip
    if pools:
        names = tuple(layer.name for layer in pools)
        yield Hypothesis(
            "average_pooling", names, "the poolings take means: the original takes maxima",
            computed_by(average, *names),
        )  # fmt: skip
        for layer in pools if len(pools) > 1 else ():
            yield Hypothesis(
                "average_pooling", (layer.name,), f"{layer.name} takes means: the original takes maxima",
                computed_by(average, layer.name),
            )  # fmt: skip
        for layer in pools:
            if layer.pad:
                yield Hypothesis(
                    "pool_same", (layer.name,), f"{layer.name} is padded as TensorFlow's SAME: it pads {layer.pad} on "
                    "every side", computed_by(pooling_same, layer.name),
                )  # fmt: skip
                yield Hypothesis(
                    "pool_unpadded", (layer.name,), f"{layer.name} is not padded: it pads {layer.pad} on every side",
                    layer_is(layer.name, pad=0, sizes="ceil"),
                )  # fmt: skip


def differently(layer: Layer, sizes: str) -> bool:
    """Whether a pooling gives other sizes so: Caffe's rounding and SAME agree on 2×2 windows."""
    other = replace(layer, sizes=sizes)
    return any(output_size(layer, size) != output_size(other, size) for size in range(8, 24))


def average(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """Means over what there is of each window."""
    (x,) = bottoms
    total = np.zeros_like(oracle.pooling(layer, architecture, bottoms, parameters))
    count = np.zeros(total.shape[2:], x.dtype)
    for i in range(layer.kernel):
        for j in range(layer.kernel):
            part = x[:, :, max(0, i - layer.pad) :: layer.stride, max(0, j - layer.pad) :: layer.stride]
            part = part[:, :, : total.shape[2], : total.shape[3]]
            total[:, :, : part.shape[2], : part.shape[3]] += part
            count[: part.shape[2], : part.shape[3]] += 1
    return total / count


def pooling_same(
    layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
) -> np.ndarray:
    """Maxima of windows that begin where TensorFlow's SAME begins them."""
    wide = padded_same(layer, bottoms[0], -np.inf)
    return oracle.pooling(replace(layer, pad=0, sizes="floor"), architecture, [wide], parameters)


# -------------------------------------------------------------------------------------- activations


def activations(case: Case) -> Iterator[Hypothesis]:
    """ReLUs that are not there, or are something else; dropout that scales; biases left out."""
    active = [layer.name for layer in case.architecture.layers if layer.relu]
    for slope in SLOPES:
        yield Hypothesis(
            "leaky_relu", tuple(active), f"the ReLUs are leaky, with a slope of {slope:g} below zero: they are not",
            leaky(active, slope), f"{slope:g}",
        )  # fmt: skip
        for name in active if len(active) > 1 else ():
            yield Hypothesis(
                "leaky_relu", (name,), f"the ReLU after {name} is leaky, with a slope of {slope:g} below zero: it is "
                "not", leaky([name], slope), f"{slope:g}",
            )  # fmt: skip
    for id, words, function in OTHERS if active else ():
        yield Hypothesis(
            id, tuple(active), f"{words} stand in the place of the ReLUs", activated(active, function),
        )  # fmt: skip
        for name in active if len(active) > 1 else ():
            yield Hypothesis(
                id, (name,), f"{words.removesuffix('s')} stands in the place of the ReLU after {name}",
                activated([name], function),
            )  # fmt: skip
    if active:
        yield Hypothesis(
            "relu_missing", tuple(active), "there are no ReLUs",
            layers_are([layer for layer in case.architecture.layers if layer.relu], relu=False),
        )  # fmt: skip
    for layer in case.architecture.layers:
        if layer.relu:
            yield Hypothesis(
                "relu_missing", (layer.name,), f"the ReLU after {layer.name} is missing",
                layer_is(layer.name, relu=False),
            )  # fmt: skip
        elif layer.kind in ("Convolution", "Deconvolution", "BatchNorm", "Eltwise"):
            yield Hypothesis(
                "relu_extra", (layer.name,), f"there is a ReLU after {layer.name}: the original has none",
                layer_is(layer.name, relu=True),
            )  # fmt: skip
        if layer.dropout:
            kept = 1 - layer.dropout
            for factor, words in ((kept, "multiplied by"), (1 / kept, "divided by")):
                yield Hypothesis(
                    "dropout_scale", (layer.name,),
                    f"{layer.name} is {words} {kept:g}, what its dropout keeps: inference leaves it as it is",
                    output_is(layer.name, times(factor)), f"{factor:g}",
                )  # fmt: skip


def gaussian(x: np.ndarray) -> np.ndarray:
    """The normal distribution's cumulative function, to 1.5e-7 (Abramowitz and Stegun, 7.1.26)."""
    z = np.abs(x) / np.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    half = 0.5 * (1 - series * np.exp(-z * z))
    return (0.5 + np.where(x < 0, -half, half)).astype(x.dtype)


OTHERS: tuple[tuple[str, str, Change], ...] = (
    ("relu6", "ReLU6s, which end at 6,", lambda x: np.clip(x, 0, 6)),
    ("elu", "ELUs", lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    ("gelu", "GELUs", lambda x: x * gaussian(x)),
    ("abs", "absolute values", np.abs),
    ("silu", "SiLUs", lambda x: x * np.where(x < 0, np.exp(np.minimum(x, 0)), 1) / (1 + np.exp(-np.abs(x)))),
)
"""Other functions in the place of a ReLU: id, in words, and what they compute."""


def leaky(names: list[str], slope: float) -> Apply:
    """ReLUs are leaky."""
    return activated(names, lambda x: np.where(x > 0, x, times(slope)(x)))


def activated(names: list[str], function: Change) -> Apply:
    """ReLUs are something else."""

    def apply(case: Case) -> Case:
        for name in names:
            case = case.with_layer(name, relu=False)
            case = case.with_output(name, function)
        return case

    return apply


# -------------------------------------------------------------------------------------------- skips


def left_out_layers(case: Case) -> Iterator[Hypothesis]:
    """A convolution between others of its width is not there, as in a smaller VGG."""
    for layer in kind(case, "Convolution"):
        weight = case.weights.get(case.architecture.parameter_name(layer, "weight"))
        before = next((one for one in case.architecture.layers if one.name in layer.bottoms), None)
        if weight is None or before is None or weight.ndim != 4 or weight.shape[0] != weight.shape[1]:
            continue
        if layer.kernel > 1 and layer.stride == 1:
            yield Hypothesis(
                "layer_missing", (layer.name,), f"{layer.name} is left out: it comes behind {before.name}",
                computed_by(left_out, layer.name),
            )  # fmt: skip


def skips(case: Case) -> Iterator[Hypothesis]:
    """A skip that leaves before the pooling or the ReLU."""
    by_name = {layer.name: layer for layer in case.architecture.layers}
    users: dict[str, list[Layer]] = {}
    for layer in case.architecture.layers:
        for bottom in dict.fromkeys(layer.sources):
            users.setdefault(bottom, []).append(layer)
    for name, those in users.items():
        source = by_name.get(name)
        if source is None or len(those) < 2:
            continue
        for user in those[1:] if source.kind == "Pooling" or user_first(those) else those:
            several = sum(len(users[bottom]) > 1 for bottom in user.sources) > 1
            which = name if several else ""
            if source.kind == "Pooling":
                before = source.bottoms[0]
                yield Hypothesis(
                    "skip_before_pool", (user.name,), f"{user.name} takes {before}: it takes {name}, after the pooling",
                    rewired(user, name, before), which,
                )  # fmt: skip
            if source.relu:
                yield Hypothesis(
                    "skip_before_relu", (user.name,), f"{user.name} takes {name} before its ReLU: it takes it after",
                    before_relu(user, source), which,
                )  # fmt: skip
            if source.kind == "Pooling" and (inner := by_name.get(source.bottoms[0])) is not None and inner.relu:
                yield Hypothesis(
                    "skip_before_relu", (user.name,),
                    f"{user.name} takes {name} of {inner.name} before its ReLU: it takes it after",
                    pooled_before_relu(user, source, inner), which,
                )  # fmt: skip


def elsewhere(case: Case) -> Iterator[Hypothesis]:
    """A skip that leaves from a layer nearby, of as many channels."""
    layers = case.architecture.layers
    by_name, order = {layer.name: layer for layer in layers}, {layer.name: place for place, layer in enumerate(layers)}
    users: dict[str, list[str]] = {}
    for layer in layers:
        for bottom in dict.fromkeys(layer.bottoms):
            users.setdefault(bottom, []).append(layer.name)
    count = channels(case)
    for name, (follower, *skipping) in ((name, those) for name, those in users.items() if len(those) > 1):
        near = [name]
        for _ in range(NEARBY):
            near = [*by_name[near[0]].bottoms[:1], *near] if near[0] in by_name else near
        ahead = follower
        for _ in range(NEARBY):
            near.append(ahead)
            ahead = users.get(ahead, [ahead])[0]
        for user in skipping if name in by_name else ():
            before = by_name[name].bottoms[:1] if by_name[name].kind == "Pooling" else ()  # skip_before_pool
            for other in dict.fromkeys(near):
                if other in (name, *before) or other not in by_name or order[other] >= order[user]:
                    continue
                if count.get(other) != count.get(name):
                    continue
                yield Hypothesis(
                    "skip_source", (user,), f"{user} takes {other}: it takes {name}",
                    rewired(by_name[user], name, other), f"{name}, {other}",
                )  # fmt: skip
                if by_name[name].kind == "Pooling" and by_name[other].kind != "Pooling":
                    pooled = replace(by_name[name], name=f"{name} of {other}", bottoms=(other,))
                    yield Hypothesis(
                        "skip_source", (user,), f"{user} takes {other}, pooled: it takes {name}, of {before[0]}",
                        inserted(by_name[user], [pooled], name), f"{name}, {other}, pooled",
                    )  # fmt: skip


def channels(case: Case) -> dict[str, int]:
    """Blob → its channels, told by the weights; those that they tell."""
    found: dict[str, int] = {}
    for layer in case.architecture.layers:
        weight = case.weights.get(case.architecture.parameter_name(layer, "weight"))
        if layer.kind in ("Convolution", "Deconvolution", "DeconvolutionSame") and weight is not None:
            found[layer.name] = weight.shape[layer.kind != "Convolution"]
        elif all(bottom in found for bottom in layer.bottoms):
            found[layer.name] = KINDS[layer.kind].channels([found[bottom] for bottom in layer.bottoms])
    return found


def user_first(users: list[Layer]) -> bool:
    """Whether the first user is the path on, not the skip."""
    return users[0].kind in ("Pooling", "Convolution")


def rewired(user: Layer, old: str, new: str) -> Apply:
    """A layer has another bottom."""
    return layer_is(user.name, bottoms=tuple(new if bottom == old else bottom for bottom in user.bottoms))


def inserted(user: Layer, extra: list[Layer], old: str) -> Apply:
    """Layers are put before one, which takes the last of them."""

    def apply(case: Case) -> Case:
        layers: list[Layer] = []
        for layer in case.architecture.layers:
            layers += extra if layer.name == user.name else []
            layers.append(layer)
        return rewired(user, old, extra[-1].name)(case.with_layers(layers))

    return apply


def before_relu(user: Layer, source: Layer) -> Apply:
    """A layer is computed once more without its ReLU, for one of its users."""
    twin = replace(source, name=f"{source.name} before ReLU", relu=False, module=source.module or source.name)
    return inserted(user, [twin], source.name)


def pooled_before_relu(user: Layer, pool: Layer, inner: Layer) -> Apply:
    """A convolution is computed once more without its ReLU, and its pooling, for one of their users."""
    twin = replace(inner, name=f"{inner.name} before ReLU", relu=False, module=inner.module or inner.name)
    pooled = replace(pool, name=f"{pool.name} before ReLU", bottoms=(twin.name,))
    return inserted(user, [twin, pooled], pool.name)
