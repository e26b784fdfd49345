"""The errors of the project: one line each, and also the builtin error that a caller expects."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class SegtwinError(Exception):
    """Base class. The message is one line: what is wrong, in which file, and what to do."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # KeyError would quote it


class ArchitectureError(SegtwinError, ValueError):
    """There is no such network, or it does not take what was asked of it: a size, channels, an option."""


class LayerNotFoundError(ArchitectureError, KeyError):
    """A network has no layer of that name."""


class WeightsError(SegtwinError, ValueError):
    """Weights, or a file of them, cannot be used."""


class WeightNamesError(WeightsError, KeyError):
    """Weights of other names than a network has."""


class ImageError(SegtwinError, ValueError):
    """An image, or a file of one, cannot be used."""


class LabelError(SegtwinError, ValueError):
    """Labels do not fit what they are the labels of: their size, or a value that is no class."""


class SolverError(SegtwinError, ValueError):
    """A solver, or a solver.prototxt, asks for what there is not."""


class DataError(SegtwinError, ValueError):
    """A folder of images and labels cannot be used to train or to evaluate."""


class RunError(SegtwinError, ValueError):
    """A training cannot be started, or not be resumed."""


LISTED = 12
"""Names in a message; more of them make no line that is read."""


def listed(names: Collection[str]) -> str:
    """The first names of a list, and how many there are more."""
    first = [*names][:LISTED]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} more (`segtwin list` names them)" if more else "")


def nearest(name: object, known: Iterable[str]) -> str:
    """ "; did you mean fcn8s?", or "" where nothing is near."""
    found = get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def known_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: an unexpected keyword argument is a TypeError that names the nearest one."""
    names = [one.name for one in inspect.signature(function).parameters.values() if one.kind is not one.VAR_KEYWORD]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in names:
                raise TypeError(f"{function.__name__}() has no argument {name!r}{nearest(name, names)}")
        return function(*args, **kwargs)

    return call
