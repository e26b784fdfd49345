"""How one array differs from another: registered, in words."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from segtwin import oracle

SHIFTS = 4
"""Pixels that a blob is moved by, to see whether it fits elsewhere."""


@dataclass(frozen=True)
class Way:
    """A way to differ."""

    id: str
    """As "shifted", "mirrored"; "" where none of them fits."""
    words: str
    """As in "is shifted by 1 row and 0 columns"."""


def error(got: np.ndarray, want: np.ndarray) -> float:
    """Relative to the largest value; infinite where the shapes differ."""
    with np.errstate(all="ignore"):  # a wrong network may have overflowed
        return oracle.relative_error(got, want)


def laid_out(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """A value as N×C×H×W of this shape, or None: as it is, channels last, without an axis of one image or one
    channel, or with more images than asked for."""
    if value.ndim == 4 and value.shape[0] > shape[0]:
        value = value[: shape[0]]
    for one in (value, value[np.newaxis] if value.ndim == 3 else value):
        if one.shape == shape:
            return one
        if one.ndim == 4 and (turned := one.transpose(0, 3, 1, 2)).shape == shape:
            return turned
    if value.ndim in (2, 3) and shape[1] == 1 and value.size == np.prod(shape):
        return value.reshape(shape)
    if value.ndim == 2 and len(shape) == 4 and value.shape == shape[:2] and shape[2:] == (1, 1):
        return value[:, :, np.newaxis, np.newaxis]
    return None


def describe(got: np.ndarray, want: np.ndarray, tolerance: float) -> Way:
    """How `got` differs from `want`, both N×C×H×W.

    Args:
        got: the one.
        want: the other.
        tolerance: relative error up to which they are equal.
    """
    if got.shape != want.shape:
        return Way("shape", f"has the shape {_shape(got)} in place of {_shape(want)}")
    scale = float(np.abs(want).max(initial=0)) or 1.0
    if np.isnan(got).any():
        return Way("nan", f"is not a number in {np.isnan(got).mean():.0%} of its values")
    if not got.any():
        return Way("zero", "is zero everywhere")
    if np.abs(got - want).max() <= tolerance * scale:
        return Way("", "is right itself, and something else is made of it")
    for id, words, mine, yours in _moves(got, want):
        if mine.size and np.abs(mine - yours).max() <= tolerance * scale:
            return Way(id, words)
    order = _permutation(got, want, tolerance * scale)
    if order is not None:
        return Way("channels_permuted", f"has its channels in another order ({some(order)})")
    factor = _factor(got, want)
    if factor and np.abs(got - factor * want).max() <= tolerance * abs(factor) * scale:
        return Way("scaled", f"is {factor:.6g} times as large")
    offset = _offset(got, want)
    if np.abs(got - want - offset).max() <= tolerance * scale:
        return Way("offset", "differs by a constant in each channel")
    off = np.abs(got - want) > tolerance * scale
    pixels, channels = off.any((0, 1)), off.any((0, 2, 3))
    where = _where(pixels)
    if channels.sum() < len(channels):
        return Way("channels", f"differs in {int(channels.sum())} of {len(channels)} channels, {where}")
    return Way("edge" if "edge" in where else "", f"differs {where}")


def changes(
    got: np.ndarray, want: np.ndarray, tolerance: float
) -> Iterator[tuple[str, str, Callable[[np.ndarray], np.ndarray]]]:
    """What can be done to the channels of an output as a whole so that it becomes another one.

    Args:
        got: the one, N×C×H×W.
        want: the other, of perhaps another number of channels.
        tolerance: relative error up to which they are equal.

    Yields:
        An id, in words, and what makes `got` of `want`.
    """
    if got.ndim != 4 or got.shape[2:] != want.shape[2:] or got.shape[0] != want.shape[0]:
        return
    scale = float(np.abs(want).max(initial=0)) or 1.0
    if got.shape == want.shape:
        order = _permutation(want, got, tolerance * scale)
        if order is not None:
            text = f"the output's channels are in another order: it has the network's {some(order)}"
            yield "output_channels_permuted", text, lambda x: x[:, order]
        factor = _factor(got, want)
        if np.isfinite(factor) and factor:
            text = f"the output is {factor:.6g} times the network's"
            yield "output_scaled", text, lambda x: x * x.dtype.type(factor)
        offset = _offset(got, want)
        if np.isfinite(offset).all():
            text = f"the output's channels are larger by {some([f'{value:.4g}' for value in offset.ravel()])}"
            yield "output_offset", text, lambda x: x + offset.astype(x.dtype)
        return
    near = np.array([[np.abs(a - b).max(initial=0) for b in want.swapaxes(0, 1)] for a in got.swapaxes(0, 1)])
    places = near.argmin(1)
    known = near.min(1) <= tolerance * scale
    constant = np.ptp(got, axis=(0, 2, 3)) == 0
    if known.any() and (known | constant).all() and len(set(places[known])) == known.sum():
        values = got[0, :, 0, 0]
        lacking = sorted(set(range(want.shape[1])) - set(places[known].tolist()))
        beyond = [place for place in range(got.shape[1]) if not known[place]]
        texts = [f"lacks the channels {some(lacking)} of the network's"] * bool(lacking)
        texts += [f"has the channels {some(beyond)} beside the network's, which are constant"] * bool(beyond)

        def chosen(x: np.ndarray) -> np.ndarray:
            picked = x[:, places].copy()
            picked[:, ~known] = values[~known][:, None, None]
            return picked

        yield "output_channels", f"the output {' and '.join(texts)}", chosen


def _factor(got: np.ndarray, want: np.ndarray) -> float:
    """By which `got` is most nearly larger."""
    return float((got * want).sum(dtype=np.float64) / max(float((want * want).sum(dtype=np.float64)), 1e-30))


def _offset(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """By which each channel of `got` is larger."""
    return np.median(got - want, axis=(0, 2, 3), keepdims=True)


def _moves(got: np.ndarray, want: np.ndarray) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Id, words, and the two arrays that are equal if so."""
    yield "rows_mirrored", "has its rows in the reverse order", got[:, :, ::-1], want
    yield "columns_mirrored", "has its columns in the reverse order", got[:, :, :, ::-1], want
    yield "mirrored", "is mirrored along both axes", got[:, :, ::-1, ::-1], want
    yield "channels_reversed", "has its channels in the reverse order", got[:, ::-1], want
    if want.shape[2] == want.shape[3]:
        yield "transposed", "has rows and columns exchanged", got.swapaxes(2, 3), want
    if min(want.shape[2:]) > 2 * SHIFTS:
        steps = sorted(itertools.product(range(-SHIFTS, SHIFTS + 1), repeat=2), key=lambda d: abs(d[0]) + abs(d[1]))
        for dy, dx in steps[1:]:
            words = f"is shifted by {dy:+d} {_plural(dy, 'row')} and {dx:+d} {_plural(dx, 'column')}"
            yield ("shifted", words, *_overlap(got, want, dy, dx))


def _overlap(got: np.ndarray, want: np.ndarray, dy: int, dx: int) -> tuple[np.ndarray, np.ndarray]:
    height, width = want.shape[2:]
    mine = got[:, :, max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
    yours = want[:, :, max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)]
    return mine, yours


def _permutation(got: np.ndarray, want: np.ndarray, tolerance: float) -> list[int] | None:
    """For each channel of `want` the one of `got` that equals it; None where one has none."""
    order = []
    for channel in want.swapaxes(0, 1):
        off = np.abs(got.swapaxes(0, 1) - channel).max((1, 2, 3))
        place = int(off.argmin())
        if off[place] > tolerance:
            return None
        order.append(place)
    return order if sorted(order) == list(range(len(order))) else None


def _where(pixels: np.ndarray) -> str:
    """Which pixels differ, in words."""
    if not pixels.any():
        return "nowhere by more than rounding"
    height, width = pixels.shape
    for border in (1, 2, 4, 8, 16):
        if min(height, width) > 3 * border and not pixels[border:-border, border:-border].any():
            near = {
                "top": pixels[:border].any(), "bottom": pixels[-border:].any(), "left": pixels[:, :border].any(),
                "right": pixels[:, -border:].any(),
            }  # fmt: skip
            sides = [side for side, there in near.items() if there]
            corner_only = (not near["top"] and not near["left"]) and len(sides) == 2
            which = "the bottom and right" if corner_only else "every side" if len(sides) == 4 else " and ".join(sides)
            return f"at the edge alone, within {border} {_plural(border, 'pixel')} of {which}"
    return f"in {pixels.mean():.0%} of the pixels" if pixels.mean() < 0.995 else "everywhere"


def some(values: Sequence[object]) -> str:
    """The first of them."""
    return ", ".join(map(str, values[:8])) + (", …" if len(values) > 8 else "")


def _shape(array: np.ndarray) -> str:
    return "×".join(map(str, array.shape))


def _plural(number: int, word: str) -> str:
    return word if abs(number) == 1 else f"{word}s"
