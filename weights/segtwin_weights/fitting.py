"""Whether the values of weights fit a model: asked of all of them before the first is copied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from segtwin_weights.hub import WeightsError, check_finite


def check_values(weights: Mapping[str, np.ndarray], dtypes: Iterable[tuple[str, str]], what: str) -> None:
    """Compare types and values with what a model holds; names and shapes fit already.

    Args:
        weights: hub name → array; may have more names.
        dtypes: hub name and dtype of each of the model's.
        what: the model, for the message.

    Raises:
        WeightsError: numbers of another kind, NaN, infinities, numbers beyond the model's type, a
            negative variance; the first is named.
    """
    for name, dtype in dtypes:
        array, wanted = weights[name], np.dtype(dtype)
        if array.dtype.kind not in ("fiu" if wanted.kind == "f" else "iu"):
            raise WeightsError(
                f"{what}: {name} holds {array.dtype}, and the model {wanted}; convert it to numbers of that kind"
            )
        check_finite(what, name, array)
        if not array.size:
            continue
        limits = np.finfo(wanted) if wanted.kind == "f" else np.iinfo(wanted)
        low, high = array.min(), array.max()
        if low < limits.min or high > limits.max:
            raise WeightsError(
                f"{what}: {name} holds {float(low):.3g} … {float(high):.3g}, beyond what {wanted} can hold; its "
                "training diverged"
            )
        if name.endswith("running_var") and low < 0:
            raise WeightsError(
                f"{what}: {name} holds a variance of {float(low):.3g}; a variance is not negative: the file is damaged"
            )
