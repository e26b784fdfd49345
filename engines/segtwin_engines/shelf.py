"""The values of a port, found by what is in them, and what of an array shows how it was computed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segtwin_engines import differences

SAMPLES = 64


@dataclass
class Seen:
    """A value of the port that is taken for a blob."""

    name: str
    array: np.ndarray


class Shelf:
    """The port's values, found by what is in them."""

    def __init__(self, values: Mapping[str, np.ndarray], outputs: Sequence[np.ndarray]) -> None:
        self.items = [*values.items(), *(("output", output) for output in outputs)]
        self.inside, self.has_output = bool(values), bool(outputs)
        self.by_shape: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}

    def shaped(self, shape: tuple[int, ...]) -> list[tuple[int, np.ndarray]]:
        """Place and array of the values that can be of a shape."""
        if shape not in self.by_shape:
            laid = ((place, differences.laid_out(array, shape)) for place, (_, array) in enumerate(self.items))
            self.by_shape[shape] = [(place, array) for place, array in laid if array is not None]
        return self.by_shape[shape]

    def find(self, want: np.ndarray, tolerance: float, taken: Iterable[str] = ()) -> tuple[Seen, float] | None:
        """The value that equals an array, and how far it is off; none of those that are taken. The nearest, and of
        equal ones the last: what is done in place is done at the end."""
        scale = float(np.abs(want).max(initial=0))
        if not np.isfinite(scale) or not want.size:
            return None
        some = np.linspace(0, want.size - 1, SAMPLES).astype(int)
        samples = want.flat[some]
        best: tuple[Seen, float] | None = None
        for place, array in self.shaped(want.shape):
            if np.abs(array.flat[some] - samples).max() > 2 * tolerance * scale or self.items[place][0] in taken:
                continue
            off = differences.error(array, want)
            if off <= tolerance and (best is None or off <= best[1]):
                best = Seen(self.items[place][0], array), off
        return best


def alike(one: np.ndarray, other: np.ndarray | None) -> float:
    """Correlation of two arrays, the largest over small shifts; 0 where the shapes differ."""
    if other is None:
        return 0.0
    laid = differences.laid_out(one, other.shape)
    if laid is None:
        return 0.0
    best = correlation(laid, other)
    if min(other.shape[2:]) > 8 and best < 0.99:
        for dy, dx in itertools.product((-2, -1, 0, 1, 2), repeat=2):
            best = max(best, correlation(np.roll(laid, (dy, dx), (2, 3)), other))
    return best


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of two arrays of one shape; 0 where one is constant or not finite."""
    with np.errstate(all="ignore"):
        a, b = (x.ravel().astype(np.float64) - x.mean(dtype=np.float64) for x in (one, other))
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(a @ b) / size if size and np.isfinite(size) else 0.0


def dropped(array: np.ndarray, want: np.ndarray, tolerance: float) -> str:
    """Whether an array is another one with values, or channels, dropped, in words; "" if not."""
    scale = float(np.abs(want).max(initial=0)) or 1.0
    there = np.abs(want) > 100 * tolerance * scale
    zero = there & (array == 0)
    if not 0.02 < zero.sum() / max(1, there.sum()) < 0.98:
        return ""
    kept = there & ~zero
    factor = float(np.median(array[kept] / want[kept]))
    if np.abs(array - np.where(zero, 0, want * factor))[there].max() > 8 * tolerance * scale * max(1, abs(factor)):
        return ""
    whole = (zero == there).all((2, 3)) | ~zero.any((2, 3))
    kind = "channels" if whole.all() else "values"
    return f"{zero.sum() / there.sum():.0%} of the {kind} are dropped, the others times {factor:.4g}: dropout is on"


def coarse(array: np.ndarray) -> str:
    """ "float16" or "bfloat16" where all numbers are of that type; "" otherwise."""
    single = np.ascontiguousarray(array, np.float32)
    if not single.any():
        return ""
    with np.errstate(over="ignore"):
        if np.array_equal(single.astype(np.float16).astype(np.float32), single):
            return "float16"
    return "bfloat16" if not (single.view(np.uint32) & 0xFFFF).any() else ""
