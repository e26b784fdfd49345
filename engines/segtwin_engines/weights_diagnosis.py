"""Two files of weights compared: which layers are permuted, mirrored, scaled or swapped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import segtwin_weights
from segtwin.hypotheses.kernels import LAYOUTS
from segtwin_weights import Weights

from segtwin_engines.differences import some
from segtwin_engines.verdict import BlobState, Cause, Diagnosis

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
            id, words = ("weights_swapped", f"holds what is {owner} in the reference") if owner else ("", "")
        words = words or "holds other numbers"
        alternatives: list[str] = []
        result.causes.append(Cause(id or "other_numbers", name, f"{name} {words}", alternatives))
        result.first_difference = result.first_difference or name
        result.how = result.how or words
    lacking = [name for name in mine if name not in pairs]
    beyond = [name for name in yours if name not in pairs.values()]
    for id, names, words in (("missing", lacking, "missing"), ("extra", beyond, "not in the reference")):
        if names:
            text = ", ".join(names[:6]) + (f", … ({len(names)} arrays)" if len(names) > 6 else "")
            result.causes.append(Cause(id, names[0], f"{text} {'is' if len(names) == 1 else 'are'} {words}"))
            result.first_difference = result.first_difference or names[0]
    if not result.causes:
        result.explanation = f"all {len(pairs)} arrays hold the same numbers"
        return result
    result.verdict = "differs"
    result.explanation = "; ".join(_listed(result.causes))
    return result


def _listed(causes: list[Cause]) -> Iterator[str]:
    """Causes in words, those of one kind together, whatever arrays they name."""
    alike: dict[tuple[str, str], list[Cause]] = {}
    for cause in causes:
        words = cause.text.removeprefix(cause.layer)
        kind = cause.id if cause.id in ("weights_swapped", "scaled", "other_numbers", "offset") else ""
        alike.setdefault((cause.id, kind or words), []).append(cause)
    for those in alike.values():
        if len(those) < 3:
            yield from (cause.text for cause in those)
        else:
            first = those[0].text.removeprefix(those[0].layer).strip()
            own = all(cause.text.removeprefix(cause.layer).strip() == first for cause in those)
            yield (
                f"{len(those)} arrays, {those[0].layer} … {those[-1].layer}: each {first}"
                if own
                else (f"{len(those)} arrays, {those[0].layer} … {those[-1].layer}, alike: {those[0].text}")
            )


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
        if want.ndim == 4 and got.ndim == 2 and got.shape == (len(want), want[0].size):
            o, i, height, width = want.shape
            if _error(got, want.transpose(0, 2, 3, 1).reshape(got.shape)) <= EXACT:
                return "fc6_order", (
                    f"has the shape {_shape(got)}, its inputs in the order H·W·C: reshape to {o}×{height}×{width}×{i}, "
                    "then transpose"
                )
        if want.ndim == 4 and got.ndim == 2 and got.shape == (want[0].size, len(want)):
            for axes, words in (((2, 3, 1, 0), "H·W·C"), ((1, 2, 3, 0), "C·H·W")):
                if _error(got, want.transpose(axes).reshape(got.shape)) <= EXACT:
                    return "kernel_layout", f"has the shape {_shape(got)}: inputs ({words}) × outputs, as Keras' Dense"
        if got.size == want.size and _error(got.reshape(want.shape), want) <= EXACT:
            return "shape", f"has the shape {_shape(got)} in place of {_shape(want)}, with the same numbers"
        return "shape", f"has the shape {_shape(got)} in place of {_shape(want)}"
    if not got.any():
        return "weights_zero", "is zero everywhere"
    if np.isnan(got).any():
        return "nan", f"holds NaN ({int(np.isnan(got).sum())} of {got.size})"
    half = got.astype(np.float32)
    with np.errstate(over="ignore"):
        if np.array_equal(half, want.astype(np.float16).astype(np.float32)):
            return "half_precision", "is rounded to float16"
    top = np.unravel_index(np.abs(want).argmax(), want.shape)
    factor = float(got[top]) / float(want[top]) if want[top] else 0.0
    if want.size > 1 and factor and _error(got, want * factor) <= EXACT * 4 * max(1, abs(factor)):
        return "scaled", f"is {factor:.6g} times as large"
    offset = float(np.median(got.astype(np.float64) - want))
    if want.size > 1 and _error(got, want + offset) <= EXACT * 8:
        return "offset", f"is larger by {offset:.6g} everywhere"
    for axis, words in ((0, "outputs"), (1, "inputs")):
        if want.ndim > axis and want.shape[axis] > 1 and want.ndim > 1:
            order = permutation(np.moveaxis(got, axis, 0), np.moveaxis(want, axis, 0))
            if order is not None:
                return "channels_permuted", f"has its {words} in another order ({some(order)})"
    if want.ndim == 1 and want.size > 1 and np.array_equal(np.sort(half), np.sort(want.astype(np.float32))):
        order = permutation(got, want)
        if order is not None:
            return "channels_permuted", f"has its numbers in another order ({some(order)})"
    if want.ndim == 1 and want.size > 1 and want.min() > 0:
        for power, words in (
            (0.5, "the square root: a standard deviation in place of a variance"),
            (2.0, "the square: a variance in place of a standard deviation"),
        ):
            if _error(got, want.astype(np.float64) ** power) <= 4 * EXACT:
                return "batchnorm_deviation", f"is {words}"
    if want.ndim == 4 and want.shape[1] > 1 and (factors := along(got, want, 1)) is not None:
        return "scaled", f"has each of its inputs times a number of its own ({some(factors)})"
    if want.ndim > 1 and want.shape[0] > 1 and (factors := along(got, want, 0)) is not None:
        return "scaled", f"has each of its outputs times a number of its own ({some(factors)}): BatchNorm, folded in?"
    if (steps := quantised(got, want)) is not None:
        return "quantised", f"is rounded to {steps} steps, as 8-bit integers are"
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
    untransposed = want.transpose(2, 3, 1, 0).reshape(want.shape)
    yield "kernel_layout", "was stored kh×kw×I×O (TensorFlow's) and is read as O×I×kh×kw, not transposed", untransposed
    untransposed = want.swapaxes(0, 1).reshape(want.shape)
    yield "kernel_in_out", "was stored with inputs and outputs exchanged, and is reshaped, not transposed", untransposed
    for turns in (1, 3) if height == width > 1 else ():
        yield "kernel_turned", f"is turned by {90 * turns} degrees", np.rot90(want, turns, (2, 3))
    if height * width > 1 and i > 1:
        both = "has rows and columns exchanged, and its inputs in the reverse order"
        yield "kernel_transposed", both, want.swapaxes(2, 3)[:, ::-1]
        yield (
            "kernel_flipped",
            "is mirrored along both axes, and has its inputs in the reverse order",
            want[:, ::-1, ::-1, ::-1],
        )


def along(got: np.ndarray, want: np.ndarray, axis: int) -> list[str] | None:
    """The factors by which the parts of an array along an axis are larger; None where they are not, or are all one."""
    mine, yours = (np.moveaxis(one, axis, 0).reshape(one.shape[axis], -1).astype(np.float64) for one in (got, want))
    size = (yours * yours).sum(1)
    if not size.all() or mine.shape[1] < 2:
        return None
    factors = (mine * yours).sum(1) / size
    off = np.abs(mine - factors[:, None] * yours).max(1)
    if (off > 8 * EXACT * np.abs(mine).max(1)).any() or not factors.all():
        return None
    return [f"{factor:.4g}" for factor in factors]


def quantised(got: np.ndarray, want: np.ndarray) -> int | None:
    """How many steps an array is rounded to, where each of its numbers is the nearest of at most 256 evenly spaced ones
    of its output."""
    if want.ndim < 2 or want.size < 1024:
        return None
    mine = got.reshape(len(got), -1).astype(np.float64)
    count = max(len(np.unique(row)) for row in mine.astype(np.float32))
    whole = len(np.unique(mine.astype(np.float32)))
    near = np.abs(got - want).max() <= np.ptp(want) / 100
    if near and whole <= 256 < want.size // 4:
        return whole
    return count if near and count <= 256 < mine.shape[1] // 4 else None


def permutation(got: np.ndarray, want: np.ndarray) -> list[int] | None:
    """For each row of `want` the row of `got` that equals it; None where one has none."""
    flat = [np.ascontiguousarray(one.reshape(len(one), -1), np.float32) for one in (got, want)]
    places = {row.tobytes(): number for number, row in enumerate(flat[0])}
    order = [places.get(row.tobytes(), -1) for row in flat[1]]
    return order if sorted(order) == list(range(len(want))) else None


def _shape(array: np.ndarray) -> str:
    return "×".join(map(str, array.shape)) or "a number"
