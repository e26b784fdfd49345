"""Minimal filtering computes the same sums from fewer products."""

import numpy as np
import pytest
from segtwin_weights import filtering


@pytest.mark.parametrize(("outputs", "taps"), [(2, 7), (1, 7), (2, 3), (4, 3), (3, 5), (1, 2), (2, 1)])
def test_outputs_are_those_of_the_filter(outputs: int, taps: int) -> None:
    to_outputs, to_taps, to_inputs = filtering.matrices(outputs, taps)
    assert (to_outputs.shape, to_taps.shape) == ((outputs, outputs + taps - 1), (outputs + taps - 1, taps))
    random = np.random.default_rng(1)
    inputs, filters = random.standard_normal((5, outputs + taps - 1)), random.standard_normal((5, taps))
    got = ((filters @ to_taps.T) * (inputs @ to_inputs.T)) @ to_outputs.T
    want = [np.correlate(one, other) for one, other in zip(inputs, filters, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_what_is_computed_in_float32_is_exact_there() -> None:
    to_outputs, _, to_inputs = filtering.matrices(2, 7)
    for matrix in (to_outputs, to_inputs):
        np.testing.assert_array_equal(matrix, matrix.astype(np.float32))


def test_known_matrices() -> None:
    """F(2,3) of Lavin and Gray, equation 7, but for signs and powers of two, with the points 0, 1, -1."""
    _, to_taps, to_inputs = filtering.matrices(2, 3)
    np.testing.assert_array_equal(to_taps[1] / to_taps[1, 0], [1, 1, 1])
    np.testing.assert_array_equal(to_taps[2] / to_taps[2, 0], [1, -1, 1])
    np.testing.assert_array_equal(
        abs(to_inputs / abs(to_inputs).max(1, keepdims=True)), [[1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 0, 1]]
    )


@pytest.mark.parametrize(("outputs", "taps"), [(3, 7), (9, 1), (1, 1), (0, 1)])
def test_there_are_so_many_points(outputs: int, taps: int) -> None:
    with pytest.raises(ValueError, match="products; there are points for 8"):
        filtering.matrices(outputs, taps)
