"""Options by which a user says how a network's inputs were made."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import click
from segtwin import Preprocessing

OF_A_NETWORK = {"colour", "mean", "std", "scale"}
"""Options that say how the inputs of a network were made; bits is of the images."""


class Numbers(click.ParamType):  # type: ignore[type-arg] # click before 8.3 cannot be subscripted
    """One number, or one a channel, separated by commas; fractions as 1/255 too."""

    name = "NUMBERS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """The numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(Fraction(part.strip())) for part in str(value).split(","))
        except (ValueError, ZeroDivisionError, OverflowError):
            self.fail(
                f"{value!r} is no list of numbers; write one, or one a channel, as in 0.485,0.456,0.406 or 1/255",
                param,
                ctx,
            )


OPTIONS = (
    click.option(
        "--colour",
        type=click.Choice(["bgr", "rgb", "grey"], case_sensitive=False),
        help="Order of the input's channels.",
    ),
    click.option(
        "--mean",
        type=Numbers(),
        help="Subtracted from the scaled values: one number, or one a channel in the order of --colour.",
    ),
    click.option("--std", type=Numbers(), help="The values minus the mean are divided by it, likewise."),
    click.option(
        "--scale", type=Numbers(), help="Factor on the values 0..255, as 1/255 for a network that takes 0..1."
    ),
    click.option(
        "--bits", type=click.IntRange(1, 32), help="Bits of the images' values, as 12 for 12-bit data in 16-bit files."
    ),
)


def preprocessing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --colour, --mean, --std, --scale and --bits, as one argument `stated`: a dict of those
    that were given."""

    def wrapped(*args: Any, **options: Any) -> Any:
        names = ("colour", "mean", "std", "scale", "bits")
        given = {name: value for name in names if (value := options.pop(name)) is not None}
        if "scale" in given:
            if len(given["scale"]) != 1:
                raise click.ClickException("--scale is one number, as 1/255")
            (given["scale"],) = given["scale"]
        return command(*args, stated=given, **options)

    wrapped.__doc__, wrapped.__name__ = command.__doc__, command.__name__
    wrapped.__click_params__ = list(getattr(command, "__click_params__", []))  # type: ignore[attr-defined]
    for option in reversed(OPTIONS):
        wrapped = option(wrapped)
    return wrapped


range_option = click.option(
    "--range", "value_range", type=Numbers(), callback=lambda context, option, value: span(value),
    help="LOW,HIGH: the values that become 0 and 255, of float and 32-bit images.",
)  # fmt: skip


def span(value: tuple[float, ...] | None) -> tuple[float, float] | None:
    """The two numbers of `--range`.

    Raises:
        click.ClickException: they are not two, the smaller one first.
    """
    if value is None:
        return None
    if len(value) != 2 or not value[0] < value[1]:
        raise click.ClickException("--range is LOW,HIGH, the smaller number first")
    return value[0], value[1]


def chosen(
    base: Preprocessing,
    stated: dict[str, Any],
    say: Callable[[str], None] = lambda line: None,
    channels: int | None = None,
) -> Preprocessing:
    """What the options state; what they leave open is taken from `base`.

    Args:
        base: what holds without them.
        stated: the options that were given.
        say: takes a line that the user should read.
        channels: of the network's input; None: not known.

    A mean or std without --scale tells the scale: numbers of at most 1 are for values 0..1, larger
    ones for 0..255. Where that is another scale than that of `base`, it is said. With another
    --scale than that of `base`, its mean and std are not used: the mean has to be stated, the std
    is 1.

    Raises:
        ValueError: mean and std are for different ranges, or for another number of channels; a
            value is none.
    """
    if channels is not None:
        for name in ("mean", "std"):
            if len(stated.get(name, ())) not in (0, 1, channels):
                raise ValueError(
                    f"--{name} gives {len(stated[name])} numbers, the network takes {channels} "
                    f"channel{'s' * (channels > 1)}"
                )
        if channels == 1 and stated.get("colour", "grey").lower() != "grey":
            raise ValueError(f"--colour {stated['colour']}: the network takes one channel, grey")
        if channels not in (1, 3) and "colour" in stated:
            raise ValueError(
                f"--colour {stated['colour']}: the network takes {channels} channels, which keep the order that "
                "they have in the image"
            )
        base = base.for_channels(channels)
    if "colour" in stated:
        base = base.in_order(stated["colour"])
    if "scale" not in stated and ("mean" in stated or "std" in stated):
        sizes = [max(map(abs, stated[name])) for name in ("mean", "std") if name in stated and any(stated[name])]
        units = {size <= 1 for size in sizes if size != 1}
        if len(units) > 1:
            raise ValueError(
                f"--mean {stated['mean']} and --std {stated['std']} are for different ranges of values; add "
                "--scale (1, or 1/255)"
            )
        scale = (1 / 255 if units.pop() else 1.0) if units else base.scale
        if abs(scale / base.scale - 1) > 1e-6:
            say(f"--mean and --std are taken for values 0..{255 * scale:g}; --scale says it otherwise")
            other = {name: (0.0,) if name == "mean" else (1.0,) for name in ("mean", "std") if name not in stated}
            base = base.replace(scale=scale, **other)
    elif "scale" in stated and abs(Preprocessing(scale=stated["scale"]).scale / base.scale - 1) > 1e-6:
        # of another range: the same normalisation in other words, or none? Nobody can tell
        if any(base.mean) and "mean" not in stated:
            raise ValueError(
                f"--scale {stated['scale']:g} is another range of values than the mean's ({base.describe()}); say "
                "--mean too (and --std)"
            )
        base = base.replace(std=(1.0,))  # a deviation of the other range
    return base.replace(**stated)


def over(stated: dict[str, Any], say: Callable[[str], None], base: Preprocessing, channels: int) -> Preprocessing:
    """What the options state, over what the file states."""
    return chosen(base, stated, say, channels)
