"""Two files of weights compared: which layers are permuted, mirrored, scaled or swapped."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import segtwin_weights
from segtwin.hypotheses.kernels import LAYOUTS
from segtwin_weights import Weights

from segtwin_engines.diagnosis import BlobState, Cause, Diagnosis

EXACT = 1e-6
"""Relative error up to which two arrays hold the same numbers."""


def diagnose_weights(theirs: Any, reference: Any) -> Diagnosis:
    """Compare two files of weights, or two mappings of them, array by array.

    Args:
        theirs: the one.
        reference: the other, that is right.

    Raises:
        WeightsError, OSError: of `segtwin_weights.read`.
    """
    mine, yours = _read(reference, "the reference"), _read(theirs, "theirs")
    result = Diagnosis(
        mine.metadata.get("source", "the reference"), yours.metadata.get("source", "the weights"), "equal", 0.0
    )
    pairs = matched(mine, yours, result)
    for name, other in pairs.items():
        want, got = mine[name], yours[other]
        off = _error(got, want)
        result.blobs.append(BlobState(name, other, off, None, EXACT))
        if off <= EXACT:
            continue
        result.floors = max(result.floors, off / EXACT)
        id, words = way(got, want)
        if not id:
            owner = next((key for key, array in mine.items() if key != name and _error(got, array) <= EXACT), None)
            id, words = ("weights_swapped", f"holds what is {owner}") if owner else ("", "")
        words = words or "holds other numbers"
        alternatives: list[str] = []
        result.causes.append(Cause(id or "other_numbers", name, f"{name} {words}", alternatives))
        result.first_difference = result.first_difference or name
        result.how = result.how or words
    lacking = [name for name in mine if name not in pairs]
    beyond = [name for name in yours if name not in pairs.values()]
    for id, names, words in (("missing", lacking, "is missing"), ("extra", beyond, "is not in the reference")):
        if names:
            text = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
            result.causes.append(
                Cause(id, names[0], f"{text} {words if len(names) == 1 else words.replace('is', 'are')}")
            )
            result.first_difference = result.first_difference or names[0]
    if not result.causes:
        result.explanation = f"all {len(pairs)} arrays hold the same numbers"
        return result
    result.verdict = "differs"
    result.explanation = "; ".join(_listed(result.causes))
    return result


def _listed(causes: list[Cause]) -> Iterator[str]:
    """Causes in words, those of one kind together."""
    for _, group in itertools.groupby(causes, lambda cause: (cause.id, cause.text.removeprefix(cause.layer))):
        those = list(group)
        if len(those) < 3:
            yield from (cause.text for cause in those)
        else:
            words = those[0].text.removeprefix(those[0].layer)
            yield f"{len(those)} arrays, {those[0].layer} to {those[-1].layer}:{words}"


def _read(source: Any, what: str) -> Weights:
    if isinstance(source, str | os.PathLike):
        weights = segtwin_weights.read(source)
        weights.metadata.setdefault("source", os.fspath(source))
        return weights
    if not isinstance(source, Mapping):
        raise TypeError(f"{what} is a file of weights or a mapping, not {type(source).__name__}")
    return Weights({name: np.asarray(array) for name, array in source.items()})


def matched(mine: Weights, yours: Weights, result: Diagnosis) -> dict[str, str]:
    """The reference's names → theirs: the same name, else, where none agrees, the order of arrays of one size."""
    pairs = {name: name for name in mine if name in yours}
    if pairs:
        return pairs
    left = list(yours)
    for name, array in mine.items():
        fitting = [other for other in left if yours[other].size == array.size and yours[other].ndim == array.ndim]
        if fitting:
            pairs[name] = fitting[0]
            left.remove(fitting[0])
    result.notes.append("no name is in both files: arrays were matched by their order and size")
    return pairs


def _error(got: np.ndarray, want: np.ndarray) -> float:
    if got.shape != want.shape:
        return float("inf")
    scale = float(np.abs(want).max(initial=0)) or 1.0
    off = float(np.abs(got.astype(np.float64) - want).max(initial=0)) / scale
    return float("inf") if np.isnan(off) else off


def way(got: np.ndarray, want: np.ndarray) -> tuple[str, str]:
    """How an array differs from another one, as an id and in words; "" where nothing fits."""
    for id, words, changed in layouts(want):
        if changed.shape == got.shape and _error(got, changed) <= EXACT:
            return id, words
    if got.shape != want.shape:
        if got.size == want.size and _error(got.reshape(want.shape), want) <= EXACT:
            return "shape", f"has the shape {_shape(got)} in place of {_shape(want)}, with the same numbers"
        return "shape", f"has the shape {_shape(got)} in place of {_shape(want)}"
    if not got.any():
        return "weights_zero", "is zero everywhere"
    if np.isnan(got).any():
        return "nan", f"holds NaN ({int(np.isnan(got).sum())} of {got.size})"
    top = np.unravel_index(np.abs(want).argmax(), want.shape)
    factor = float(got[top]) / float(want[top]) if want[top] else 0.0
    if factor and _error(got, want * factor) <= EXACT * 4 * max(1, abs(factor)):
        return "scaled", f"is {factor:.6g} times as large"
    offset = float(np.median(got.astype(np.float64) - want))
    if _error(got, want + offset) <= EXACT * 8:
        return "offset", f"is larger by {offset:.6g} everywhere"
    for axis, words in ((0, "outputs"), (1, "inputs")):
        if want.ndim > axis and want.shape[axis] > 1 and want.ndim > 1:
            order = permutation(np.moveaxis(got, axis, 0), np.moveaxis(want, axis, 0))
            if order is not None:
                start = ", ".join(map(str, order[:8])) + (", …" if len(order) > 8 else "")
                return "channels_permuted", f"has its {words} in another order ({start})"
    half = got.astype(np.float32)
    if np.array_equal(half, want.astype(np.float16).astype(np.float32)):
        return "half_precision", "is rounded to float16"
    wrong = np.abs(got - want) > EXACT * np.abs(want).max()
    if want.ndim > 1 and (rows := wrong.reshape(len(want), -1).any(1)).sum() < len(want) / 2:
        return "", f"holds other numbers in {int(rows.sum())} of {len(want)} outputs"
    return "", ""


def layouts(want: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    """The ways in which a kernel is laid out wrongly."""
    hwc, chw = (
        "was stored in the order H·W·C and is read as C·H·W",
        "was stored in the order C·H·W and is read as H·W·C",
    )
    if want.ndim == 1 and want.size > 1:
        yield "channels_reversed", "is in the reverse order", want[::-1]
    if want.ndim == 2:
        yield "transposed", "is transposed", want.T
        if want.shape[1] % 49 == 0:
            yield "fc6_order", f"{hwc}", want.reshape(len(want), -1, 7, 7).transpose(0, 2, 3, 1).reshape(want.shape)
            yield "fc6_order", f"{chw}", want.reshape(len(want), 7, 7, -1).transpose(0, 3, 1, 2).reshape(want.shape)
    if want.ndim != 4:
        return
    o, i, height, width = want.shape
    if i > 1:
        yield "input_order", "has its inputs in the reverse order (RGB for BGR)", want[:, ::-1]
    if o > 1:
        yield "channels_reversed", "has its outputs in the reverse order", want[::-1]
    if height * width > 1:
        yield "kernel_flipped", "is mirrored along both axes", LAYOUTS["kernel_flipped"](want)
        yield "kernel_flipped_rows", "has its rows in the reverse order", LAYOUTS["kernel_flipped_rows"](want)
        yield "kernel_flipped_columns", "has its columns in the reverse order", LAYOUTS["kernel_flipped_columns"](want)
        yield "kernel_transposed", "has rows and columns exchanged", LAYOUTS["kernel_transposed"](want)
        order = "fc6_order" if height == 7 else "kernel_order"
        yield order, hwc, LAYOUTS["kernel_order"](want)
        yield order, chw, LAYOUTS["kernel_order_chw"](want)
    yield "kernel_in_out", "has inputs and outputs exchanged", want.swapaxes(0, 1)
    yield "kernel_layout", "is laid out kh×kw×I×O (TensorFlow's), not O×I×kh×kw", want.transpose(2, 3, 1, 0)
    if height * width > 1 and i > 1:
        both = "has rows and columns exchanged, and its inputs in the reverse order"
        yield "kernel_transposed", both, want.swapaxes(2, 3)[:, ::-1]
        yield (
            "kernel_flipped",
            "is mirrored along both axes, and has its inputs in the reverse order",
            want[:, ::-1, ::-1, ::-1],
        )


def permutation(got: np.ndarray, want: np.ndarray) -> list[int] | None:
    """For each row of `want` the row of `got` that equals it; None where one has none."""
    flat = [np.ascontiguousarray(one.reshape(len(one), -1), np.float32) for one in (got, want)]
    places = {row.tobytes(): number for number, row in enumerate(flat[0])}
    order = [places.get(row.tobytes(), -1) for row in flat[1]]
    return order if sorted(order) == list(range(len(want))) else None


def _shape(array: np.ndarray) -> str:
    return "×".join(map(str, array.shape)) or "a number"
