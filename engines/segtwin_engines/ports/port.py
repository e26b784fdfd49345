"""What a port is, whatever it was opened from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from segtwin.errors import SegtwinError

Values = dict[str, np.ndarray]


@dataclass
class Port:
    """A network of somebody else's."""

    name: str
    """Of its file or function."""
    run: Callable[[np.ndarray], list[np.ndarray]]
    """N×C×H×W float32 → its outputs."""
    values: Callable[[np.ndarray], Values]
    """The same → every array of numbers in between, in the order in which they are computed, under the names that the
    port has for them; the outputs are not among them. Empty where one cannot look inside."""
    size: tuple[int | None, int | None] = (None, None)
    """Rows and columns that it takes; None for any."""
    channels: int | None = None
    """Channels of its input, where it says so."""
    recorded: np.ndarray | None = None
    """The one input that there are values of; None for a port that can be run."""
    nodes: Mapping[str, Any] = field(default_factory=dict)
    """Value → the ONNX node that makes it."""
    weights: Callable[[], Values] = dict
    """Its constant arrays of numbers under its names, in its order; none where one cannot look inside."""
    channels_last: bool = False
    """Whether it takes N×H×W×C, and gives its output so."""

    @classmethod
    def of_function(cls, function: Callable[[np.ndarray], Any], name: str | None = None) -> Port:
        """A function that cannot be looked into."""
        own = name or named(function)

        def run(data: np.ndarray) -> list[np.ndarray]:
            try:
                return arrays(function(data))
            except Exception as error:  # whatever a stranger's function raises
                raise failed(own, data, error) from error

        return cls(own, run, lambda data: {})


def up_to_failure(names: Sequence[str], fetch: Callable[[Sequence[str]], Sequence[Any]]) -> dict[str, Any]:
    """Name → value of those that are computed before a network fails, where it does.

    Args:
        names: in the order in which they are computed.
        fetch: computes some of them, and nothing that they do not need.
    """
    try:
        return dict(zip(names, fetch(names), strict=True))
    except Exception:  # of the framework; what comes from `run` says it
        good, bad = 0, len(names)
    found: dict[str, Any] = {}
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            found = dict(zip(names[:middle], fetch(names[:middle]), strict=True))
        except Exception:
            bad = middle
        else:
            good = middle
    return found


def named(function: Any) -> str:
    """What a function or module is called."""
    return str(getattr(function, "__name__", type(function).__name__))


class PortError(SegtwinError, ValueError):
    """A port cannot be opened or run."""


def failed(name: str, data: np.ndarray, error: Exception) -> PortError:
    """What a port says of an input that it does not take."""
    what = " ".join(str(error).split())[-200:] or type(error).__name__
    return PortError(f"{name}: fails on an input of {'×'.join(map(str, data.shape))}: {what}")


def arrays(result: Any) -> list[np.ndarray]:
    """Every array in what a function returned, in order.

    Raises:
        TypeError: there is none.
    """
    found: list[np.ndarray] = []

    def look(one: Any) -> None:
        if isinstance(one, Mapping):
            for value in one.values():
                look(value)
        elif isinstance(one, np.ndarray):
            found.append(one)
        elif isinstance(one, Sequence) and not isinstance(one, str | bytes):
            for value in one:
                look(value)
        elif hasattr(one, "detach"):  # of torch
            found.append(one.detach().cpu().float().numpy() if one.is_floating_point() else one.detach().cpu().numpy())
        elif hasattr(one, "__array__"):
            found.append(np.asarray(one))

    look(result)
    if not found:
        raise TypeError(f"it returned {type(result).__name__}, which holds no array")
    return found


@dataclass(frozen=True)
class Input:
    """How a port wants its input."""

    name: str
    shape: tuple[int | None, ...]
    """Four numbers, or of an N×H×W×C or H×W×C without its batch three; None for any."""
    dtype: np.dtype[Any]
    channels_last: bool

    @classmethod
    def of(cls, name: str, shape: Sequence[Any], dtype: Any, in_channels: int | None, last: bool) -> Input:
        """From what a file says. `last` is what is meant where it does not say where the channels are."""
        known = tuple(int(one) if isinstance(one, int | np.integer) and one > 0 else None for one in shape)
        if len(known) not in (3, 4):
            raise ValueError(f"takes {name} of {len(known)} axes; a network of images has N×C×H×W or N×H×W×C")
        channels = (in_channels,) if in_channels else (1, 3)
        first, end = known[-3], known[-1]
        if first in channels and end not in channels:
            last = False
        elif end in channels and first not in channels:
            last = True
        elif first is not None and end is None:
            last = False
        elif end is not None and first is None:
            last = True
        return cls(name, known, np.dtype(dtype), last)

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Rows and columns."""
        rows, columns = self.shape[-3:-1] if self.channels_last else self.shape[-2:]
        return rows, columns

    @property
    def channels(self) -> int | None:
        """Channels, where it says so."""
        return self.shape[-1] if self.channels_last else self.shape[-3]

    def fed(self, data: np.ndarray) -> np.ndarray:
        """N×C×H×W → what the port takes."""
        if len(self.shape) == 4 and self.shape[0] not in (None, len(data)):
            data = np.concatenate([data] * -(-self.shape[0] // len(data)))[: self.shape[0]]
        data = data.transpose(0, 2, 3, 1) if self.channels_last else data
        data = data[0] if len(self.shape) == 3 else data
        return np.ascontiguousarray(data.astype(self.dtype, copy=False))
