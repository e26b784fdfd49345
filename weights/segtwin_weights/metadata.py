"""What weights say of themselves: one writer and one reader.

schema          2; files without it are of before `preprocessing` was one value, and hold colour, mean, divisor and std
architecture    name of the network
num_classes, widths
preprocessing   {colour, mean, std, scale, bits} of `segtwin.Preprocessing`; absent where nobody stated
                it: names alone prove nothing
preprocessing_assumed   true, in files that have to state one for their users (ONNX), when it is the
                architecture's default
source, sha256, synthetic   of the file that the numbers come from
classes, palette            travel with every conversion that keeps the number of classes
version
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from segtwin import Preprocessing, __version__
from segtwin.architectures import Architecture, find_architecture

from segtwin_weights.door import line, shown
from segtwin_weights.door import loads as loads_json
from segtwin_weights.hub import Metadata, WeightsError

SCHEMA = 2
ORIGIN = ("source", "sha256", "synthetic")
OF_CLASSES = ("classes", "palette")
OLD = ("colour", "mean", "divisor", "std")
"""Keys of schema 1."""


def describe(
    architecture: Architecture,
    num_classes: int | None = None,
    widths: tuple[int, ...] | None = None,
    origin: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Metadata:
    """The metadata of weights of a network.

    Args:
        architecture: the network.
        num_classes, widths: of these weights; None: not stated.
        origin: metadata of what they were made of; the source, and the classes where their number
            is the same, are taken over.
        preprocessing: as stated, or proven by the numbers; None: unknown, nothing is stated.
    """
    origin = origin or {}
    metadata: Metadata = {"schema": SCHEMA, "architecture": architecture.variant_of or architecture.name}
    if num_classes is not None:
        metadata["num_classes"] = num_classes
    if widths is not None:
        metadata["widths"] = list(widths)
    if preprocessing is not None:
        metadata["preprocessing"] = preprocessing.asdict()
    metadata |= {key: origin[key] for key in ORIGIN if key in origin}
    if num_classes is None or origin.get("num_classes", num_classes) == num_classes:
        metadata |= {
            key: origin[key]
            for key in OF_CLASSES
            if key in origin and (num_classes is None or len(origin[key]) >= num_classes)
        }
    return metadata | {"version": __version__}


def stated(weights: Any, architecture: Architecture | None = None) -> Preprocessing | None:
    """The preprocessing that weights, or metadata, state; None where they state none, or say that
    it is assumed. What files of schema 1 leave open is the network's own, `architecture`'s where
    they do not name one.

    Raises:
        WeightsError: what they state is none.
    """
    told = getattr(weights, "metadata", weights)
    try:
        if "preprocessing" in told:
            return None if told.get("preprocessing_assumed") else Preprocessing.from_dict(told["preprocessing"])
        if "colour" not in told and "mean" not in told:
            return None
        return _schema_1(told, architecture)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise WeightsError(
            f"{told.get('source', 'the weights')}: the metadata's preprocessing cannot be used: {line(error)}"
        ) from None


def _schema_1(told: Mapping[str, Any], architecture: Architecture | None) -> Preprocessing:
    """Of colour, mean, divisor and std, which schema 1 wrote without the last two: they are then
    the architecture's own."""

    architecture = find_architecture(told.get("architecture")) or architecture
    default = architecture.preprocessing if architecture else Preprocessing()
    default = default.in_order(told.get("colour", default.colour))
    scale = 1 / float(told["divisor"]) if "divisor" in told else default.scale
    std = told.get("std", default.std if "divisor" not in told else (1.0,))
    return default.replace(mean=told.get("mean", default.mean), std=std, scale=scale)


def preprocessing_of(
    weights: Any, architecture: Architecture, in_channels: int | None = None
) -> tuple[Preprocessing, bool]:
    """How the inputs of a network with these weights are made, and whether that is known: stated
    (True), or the architecture's default (False)."""
    said = stated(weights, architecture)
    channels = architecture.in_channels if in_channels is None else in_channels
    return (said or architecture.preprocessing).for_channels(channels), said is not None


def state(weights: Any, preprocessing: Preprocessing) -> Metadata:
    """Metadata of weights with another preprocessing stated."""
    kept = {
        key: value
        for key, value in getattr(weights, "metadata", weights).items()
        if key not in (*OLD, "preprocessing_assumed")
    }
    return {**kept, "schema": SCHEMA, "preprocessing": preprocessing.asdict()}


# ----------------------------------------------------------------------------------------- checking


def check(path: object, told: Mapping[str, Any], weights: Mapping[str, Any] | None = None) -> None:
    """Refuse metadata that say what cannot be, whoever wrote them; keys that are not ours are left
    alone.

    Args:
        path: the file that they stand in, for the message.
        told: the metadata.
        weights: whose metadata they are.

    Raises:
        WeightsError: the first value that cannot be used, and what it should be.
    """
    for key, (test, what) in VALUES.items():
        if key in told and not test(told[key]):
            raise WeightsError(
                f"{path}: the metadata's {key} is {shown(repr(told[key]), 60)}, not {what}; convert the weights again"
            )
    for key in ("mean", "std"):
        stated_here = [told[key]] if key in told else []
        if isinstance(told.get("preprocessing"), Mapping) and key in told["preprocessing"]:
            stated_here.append(told["preprocessing"][key])
        if any(not isinstance(one, list | tuple) or not one for one in stated_here):
            raise WeightsError(
                f"{path}: the metadata's {key} is {shown(repr(stated_here[0]), 60)}, not a list of a number a channel"
            )
    if "divisor" in told and not _positive(told["divisor"]):
        raise WeightsError(
            f"{path}: the metadata's divisor is {shown(repr(told['divisor']), 60)}, not a positive number"
        )
    try:
        said = stated({**told, "preprocessing_assumed": False})
    except WeightsError as error:
        raise WeightsError(f"{path}: {str(error).partition(': ')[2]}") from None
    if said is not None and (channels := _channels(told, weights)):
        for name, values in (("mean", said.mean), ("std", said.std)):
            if len(values) not in (1, 3, channels):
                raise WeightsError(
                    f"{path}: the metadata's {name} has {len(values)} values, and the network takes {channels} channels"
                )
    count, classes, palette = told.get("num_classes"), told.get("classes"), told.get("palette")
    if count is not None and classes is not None and not as_many(len(classes), count):
        raise WeightsError(f"{path}: the metadata name {len(classes)} classes, and say that there are {count}")
    if count is not None and palette is not None and len(palette) < max(count, 2):
        raise WeightsError(f"{path}: the metadata's palette has {len(palette)} colours, and there are {count} classes")


def _channels(told: Mapping[str, Any], weights: Mapping[str, Any] | None) -> int | None:
    """Channels that a network takes, where its architecture and weights tell."""

    from segtwin_weights.surgery import found_dimensions

    architecture = find_architecture(told.get("architecture"))
    if architecture is None:
        return None
    found = found_dimensions(weights, architecture).get("in_channels") if weights is not None else None
    return found or (None if architecture.any_channels else architecture.in_channels)


def loads(path: object, key: str, text: str, size: int) -> Any:
    """A value of metadata as a file has it: ours are JSON; what another program wrote stays the
    text that it is.

    Raises:
        WeightsError: the key is ours and the text is no JSON that could be.
    """
    try:
        return loads_json(text, size)
    except ValueError as error:
        if key in (*VALUES, *OLD, "preprocessing") and (
            text.lstrip()[:1] in tuple('[{"') or text.strip() in ("NaN", "Infinity", "-Infinity")
        ):
            raise WeightsError(f"{path}: the metadata's {key} cannot be used: {line(error)}") from None
        return text


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_CLASSES


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e30


def is_palette(value: Any) -> bool:
    """Whether it is a list of colours that a palette image may have."""
    return isinstance(value, list | tuple) and len(value) <= 256 and all(map(_colour, value))


def as_many(names: int, num_classes: int) -> bool:
    """Whether a network of so many classes may have so many names of them: a single class may stand
    beside the background's."""
    return names in ({num_classes} if num_classes > 1 else {1, 2})


def _colour(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(type(one) is int and 0 <= one <= 255 for one in value)
    )


MOST_CLASSES = 1_000_000
VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "schema": (
        lambda value: type(value) is int and 1 <= value <= SCHEMA,
        f"1 or {SCHEMA} (a newer one needs a newer segtwin)",
    ),
    "architecture": (_text, "the name of a network"),
    "num_classes": (_count, "a number of classes"),
    "widths": (lambda value: isinstance(value, list | tuple) and all(map(_count, value)), "a list of channels"),
    "source": (_text, "a file's name"),
    "sha256": (_text, "a hash"),
    "synthetic": (_boolean, "true or false"),
    "preprocessing_assumed": (_boolean, "true or false"),
    "batchnorm": (_text, "a word"),
    "classes": (lambda value: isinstance(value, list | tuple) and all(map(_text, value)), "a list of names"),
    "palette": (is_palette, "a list of at most 256 [red, green, blue], 0..255"),
}
"""Key → test of its value, and what it is."""
