"""Wrong at the end: a sigmoid or softmax too many or too few."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from segtwin import oracle
from segtwin.architectures import Architecture, Layer
from segtwin.hypotheses.case import DATA, Case, Change, computed_by, cut, left_out, output_is
from segtwin.hypotheses.catalogue import Hypothesis
from segtwin.oracle import Operator


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the channels."""
    small = np.exp(scores - scores.max(1, keepdims=True))
    return small / small.sum(1, keepdims=True)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Over the channels; the logarithm of `softmax`, which may be zero, would be infinite."""
    small = scores - scores.max(1, keepdims=True)
    return small - np.log(np.exp(small).sum(1, keepdims=True))


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """Of every number."""
    small = np.exp(-np.abs(scores))
    return np.where(scores < 0, small, 1) / (1 + small)


TURNS: tuple[tuple[str, str, str, Change], ...] = (
    ("transposed", "", "rows and columns are exchanged", lambda x: x.swapaxes(2, 3)),
    ("flipped", "rows", "rows are in the reverse order", lambda x: x[:, :, ::-1]),
    ("flipped", "columns", "columns are in the reverse order", lambda x: x[:, :, :, ::-1]),
)
"""What is done to a map: end of the id, variant, in words, and the change, which undoes itself."""


def turned_back(case: Case) -> Iterator[Hypothesis]:
    """An input that is turned, and the output turned back: the same as kernels that are turned, which is likelier."""
    output = case.architecture.output
    for id, variant, words, change in TURNS:
        yield Hypothesis(
            f"input_{id}", (DATA, output),
            f"the image's {words}, and back again at the end: the kernels see it turned",
            lambda case, change=change: case.with_input(change).with_output(output, change),  # type: ignore[misc]
            f"{variant}, and back".removeprefix(", "),
        )  # fmt: skip


MULTIPLES = (32, 16)
"""Pixels; of as many as five and four poolings halve."""


class Fitted:
    """An image brought to whole multiples of a size, and scores brought back to the image's."""

    def __init__(self, multiple: int, mode: str, centred: bool) -> None:
        self.multiple, self.mode, self.centred = multiple, mode, centred
        self.size = (0, 0)

    def image(self, data: np.ndarray) -> np.ndarray:
        """The larger image."""
        self.size = data.shape[2], data.shape[3]
        more = [-size % self.multiple for size in self.size]
        if self.mode == "resize":
            for axis, by in zip((2, 3), more, strict=True):
                want = data.shape[axis] + by
                data = oracle.sampled(data, axis, oracle.half_pixel_places(data.shape[axis], want))
            return data
        before = [by // 2 * self.centred for by in more]
        widths = ((0, 0), (0, 0), *((a, by - a) for a, by in zip(before, more, strict=True)))
        return np.pad(data, widths, mode=self.mode)  # type: ignore[call-overload]

    def scores(self, scores: np.ndarray) -> np.ndarray:
        """What is left of them.

        Raises:
            ValueError: the image was not looked at: its layers' values were given.
        """
        size, self.size = self.size, (0, 0)
        if not all(size):
            raise ValueError("the size of the image is not known")
        if self.mode == "resize":
            for axis, want in zip((2, 3), size, strict=True):
                scores = oracle.sampled(scores, axis, oracle.half_pixel_places(scores.shape[axis], want))
            return scores
        rows, columns = ((-one % self.multiple) // 2 * self.centred for one in size)
        return scores[:, :, rows : rows + size[0], columns : columns + size[1]]


def fitted(output: str) -> Iterator[Hypothesis]:
    """Images padded or resized to whole multiples of 32, as networks without pad 100 want them."""
    for multiple in MULTIPLES:
        for mode, words in (
            ("constant", "padded with zeros"), ("reflect", "padded, mirrored,"), ("edge", "padded with its edge"),
            ("resize", "resized"),
        ):  # fmt: skip
            for centred in (False, True) if mode in ("constant", "reflect") else (False,):
                way = Fitted(multiple, mode, centred)
                back = "resized back" if mode == "resize" else "cut to the image's size"
                yield Hypothesis(
                    "input_resized" if mode == "resize" else "input_padded", (DATA, output),
                    f"the image is {words} {'on every side ' * centred}to a multiple of {multiple} pixels, and the "
                    f"scores are {back}: the network takes images of any size as they are",
                    lambda case, way=way: case.with_input(way.image).with_output(output, way.scores),  # type: ignore[misc]
                    f"{multiple} {mode}{' centred' * centred}",
                )  # fmt: skip


def cut_to_image(offset: int) -> Operator:
    """The last crop, to the size that the image had before its rows and columns were exchanged."""

    def operator(
        layer: Layer, architecture: Architecture, bottoms: list[np.ndarray], parameters: list[np.ndarray]
    ) -> np.ndarray:
        x, like = bottoms
        return cut(layer, architecture, [x, like.swapaxes(2, 3)], parameters, offset, offset)

    return operator


def of(case: Case) -> Iterator[Hypothesis]:
    """Hypotheses about the output of a network."""
    output = case.architecture.output
    last = case.architecture.layer(output)

    def after(id: str, text: str, function: Change, variant: str = "") -> Hypothesis:
        return Hypothesis(id, (output,), text, output_is(output, function), variant)

    for id, variant, words, change in TURNS:
        yield after(f"output_{id}", f"the output's {words}", change, variant)
    if case.architecture.legal_size(MULTIPLES[0] + 1) == MULTIPLES[0] + 1:
        yield from fitted(output)
    if last.kind == "Crop" and last.bottoms[1] == case.architecture.input:
        yield Hypothesis(
            "input_transposed", (DATA, output),
            "rows and columns of the image are exchanged, and the scores are cut to its size as it was",
            lambda one: one.with_input(TURNS[0][3]).with_operator(cut_to_image(one.offsets[output]), output),
            "cut as it was",
        )  # fmt: skip
    if last.kind == "Sigmoid":
        yield after("sigmoid_twice", "the sigmoid is applied twice", sigmoid)
        yield Hypothesis(
            "sigmoid_missing",
            (output,),
            "the output is logits: the original ends in a sigmoid",
            computed_by(left_out, output),
        )
        yield Hypothesis(
            "softmax",
            (output,),
            "the output is a softmax over classes: the original ends in a sigmoid",
            lambda one: one.with_operator(lambda layer, table, bottoms, parameters: softmax(bottoms[0]), output),
        )
        yield after("output_inverted", "the output is 1 − p: the original gives p, of the object", lambda p: 1 - p)
        yield after(
            "output_two_channels", "the output is 1 − p and p, two channels: the original gives p alone",
            lambda p: np.concatenate([1 - p, p], 1),
        )  # fmt: skip
        for id, words, function in (
            ("tanh", "a tanh", np.tanh), ("hard_sigmoid", "a hard sigmoid", lambda x: np.clip(x / 6 + 0.5, 0, 1)),
        ):  # fmt: skip
            yield Hypothesis(
                id, (output,), f"the output is {words}: the original ends in a sigmoid",
                lambda one, function=function: one.with_operator(  # type: ignore[misc]
                    lambda layer, table, bottoms, parameters: function(bottoms[0]), output
                ),
            )  # fmt: skip
        yield after(
            "threshold", "the output is 0 or 1, cut at one half: the original gives probabilities",
            lambda p: (p > 0.5).astype(p.dtype),
        )  # fmt: skip
        return
    yield after("softmax", "the output is probabilities of a softmax: the original gives scores", softmax)
    yield after(
        "log_softmax", "the output is logarithms of probabilities: the original gives scores",
        log_softmax,
    )  # fmt: skip
    yield after("sigmoid", "the output goes through a sigmoid: the original gives scores", sigmoid)
    yield after(
        "argmax", "the output is a class a pixel: the original gives scores",
        lambda scores: scores.argmax(1)[:, None].astype(scores.dtype),
    )  # fmt: skip
    yield after(
        "argmax", "the output is 1 for the largest score of a pixel and 0 for the others: the original gives scores",
        lambda scores: (scores == scores.max(1, keepdims=True)).astype(scores.dtype), "one-hot",
    )  # fmt: skip
    if case.architecture.num_classes > 1 and last.kind != "ArgMax":
        yield after("classes_reversed", "the classes are in the reverse order", lambda scores: scores[:, ::-1])
        yield after(
            "background_last", "the background is the last class: it is the first", lambda s: np.roll(s, -1, axis=1)
        )
