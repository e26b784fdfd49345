"""What weights say of themselves: one writer and one reader.

schema          2; files without it are of before `preprocessing` was one value, and hold colour, mean, divisor and std
architecture    name of the network
num_classes, widths
preprocessing   {colour, mean, std, scale, bits} of `segtwin.Preprocessing`; absent where nobody stated it: names alone prove nothing
preprocessing_assumed   true, in files that have to state one for their users (ONNX), when it is the architecture's default
source, sha256, synthetic   of the file that the numbers come from
classes, palette            travel with every conversion that keeps the number of classes
version
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segtwin import Preprocessing, __version__
from segtwin.architectures import Row

from segtwin_weights.hub import Metadata, WeightsError

SCHEMA = 2
ORIGIN = ("source", "sha256", "synthetic")
OF_CLASSES = ("classes", "palette")
OLD = ("colour", "mean", "divisor", "std")
"""Keys of schema 1."""


def describe(
    row: Row,
    num_classes: int | None = None,
    widths: tuple[int, ...] | None = None,
    origin: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Metadata:
    """The metadata of weights of a network.

    Args:
        row: the network.
        num_classes, widths: of these weights; None: not stated.
        origin: metadata of what they were made of; the source, and the classes where their number is the same, are taken over.
        preprocessing: as stated, or proven by the numbers; None: unknown, nothing is stated.
    """
    origin = origin or {}
    metadata: Metadata = {"schema": SCHEMA, "architecture": row.variant_of or row.name}
    if num_classes is not None:
        metadata["num_classes"] = num_classes
    if widths is not None:
        metadata["widths"] = list(widths)
    if preprocessing is not None:
        metadata["preprocessing"] = preprocessing.asdict()
    metadata |= {key: origin[key] for key in ORIGIN if key in origin}
    if num_classes is None or origin.get("num_classes", num_classes) == num_classes:
        metadata |= {key: origin[key] for key in OF_CLASSES if key in origin and (num_classes is None or len(origin[key]) >= num_classes)}
    return metadata | {"version": __version__}


def stated(weights: Any) -> Preprocessing | None:
    """The preprocessing that weights, or metadata, state; None where they state none, or say that it is assumed.

    Raises:
        WeightsError: what they state is none.
    """
    told = getattr(weights, "metadata", weights)
    try:
        if "preprocessing" in told:
            return None if told.get("preprocessing_assumed") else Preprocessing.from_dict(told["preprocessing"])
        if "colour" not in told and "mean" not in told:
            return None
        return _schema_1(told)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{told.get('source', 'the weights')}: the metadata's preprocessing cannot be used: {error}") from None


def _schema_1(told: Mapping[str, Any]) -> Preprocessing:
    """Of colour, mean, divisor and std, which schema 1 wrote without the last two: they are then the architecture's own."""
    from segtwin.architectures import ROWS

    row = ROWS.get(str(told.get("architecture")))
    default = row.preprocessing if row else Preprocessing()
    default = default.in_order(told.get("colour", default.colour))
    scale = 1 / float(told["divisor"]) if "divisor" in told else default.scale
    std = told.get("std") or (default.std if "divisor" not in told else (1.0,))
    return default.replace(mean=told.get("mean", default.mean), std=std, scale=scale)


def preprocessing_of(weights: Any, row: Row, in_channels: int | None = None) -> tuple[Preprocessing, bool]:
    """How the inputs of a network with these weights are made, and whether that is known: stated (True), or the architecture's default (False)."""
    said = stated(weights)
    channels = row.in_channels if in_channels is None else in_channels
    return (said or row.preprocessing).for_channels(channels), said is not None


def state(weights: Any, preprocessing: Preprocessing) -> Metadata:
    """Metadata of weights with another preprocessing stated."""
    kept = {key: value for key, value in getattr(weights, "metadata", weights).items() if key not in (*OLD, "preprocessing_assumed")}
    return {**kept, "schema": SCHEMA, "preprocessing": preprocessing.asdict()}
