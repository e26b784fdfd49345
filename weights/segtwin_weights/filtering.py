"""Minimal filtering: several neighbouring outputs of a filter from fewer products than one by one.

F(2,7) computes two neighbouring outputs of seven taps from eight products where 2 · 7 = 14 are usual: with d eight
inputs and g the taps,

    y = Aᵀ ((G g) ⊙ (Bᵀ d))

Source: S. Winograd, "Arithmetic Complexity of Computations" (SIAM, 1980), chapter IV; A. Lavin and S. Gray, "Fast
Algorithms for Convolutional Neural Networks" (arXiv:1509.09308), section 4.1, whose letters these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

POINTS = (
    Fraction(0),
    *(Fraction(sign * one) for one in (Fraction(1), Fraction(1, 2), Fraction(2)) for sign in (1, -1)),
)
"""Where the polynomials are evaluated, and at infinity: small ones, and each with its inverse, so that neither the taps
nor the inputs grow (B. Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep
Neural Networks", arXiv:1803.10986, table 1)."""


def matrices(outputs: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aᵀ (outputs × n), G (n × taps) and Bᵀ (n × n) in float64, for n = outputs + taps - 1 products.

    They are those of Toom and Cook, transposed. Aᵀ and Bᵀ hold numbers that float32 has; G does not, and is applied to
    the taps once. Rows of G and Bᵀ are scaled by powers of two until they are about as long.

    Raises:
        ValueError: there are more products than points.
    """
    count = outputs + taps - 1
    if not 1 < count <= len(POINTS) + 1:
        raise ValueError(f"F({outputs},{taps}) takes {count} products; there are points for {len(POINTS) + 1}")
    points = POINTS[: count - 1]
    others = [[other for other in points if other != point] for point in points]
    a = [[point**power for point in points] + [Fraction(power == outputs - 1)] for power in range(outputs)]
    b = [[*polynomial(rest), Fraction(0)] for rest in others] + [polynomial(points)]
    g = [
        [point**power / value(polynomial(rest), point) for power in range(taps)]
        for point, rest in zip(points, others, strict=True)
    ] + [[Fraction(power == taps - 1) for power in range(taps)]]
    for row, (taps_row, input_row) in enumerate(zip(g, b, strict=True)):
        scale = Fraction(2) ** round(float(np.log2(float(length(taps_row) / length(input_row))) / 2))
        g[row], b[row] = [one / scale for one in taps_row], [one * scale for one in input_row]
    return as_array(a), as_array(g), as_array(b)


def polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of ∏ (x - root), the constant first."""
    found = [Fraction(1)]
    for root in roots:
        found = [before - root * own for before, own in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return found


def value(coefficients: Sequence[Fraction], at: Fraction) -> Fraction:
    """Of a polynomial."""
    return sum((one * at**power for power, one in enumerate(coefficients)), Fraction(0))


def length(row: Sequence[Fraction]) -> Fraction:
    """The sum of absolute values."""
    return sum(map(abs, row), Fraction(0))


def as_array(rows: Sequence[Sequence[Fraction]]) -> np.ndarray:
    """In float64."""
    return np.array([[float(one) for one in row] for row in rows])
