"""What a reader of weights says of a file: a warning, which whoever keeps what was read can hear, to say it again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from segtwin import Converted

_heard: ContextVar[list[str] | None] = ContextVar("heard", default=None)


def note(text: str, stacklevel: int = 1) -> None:
    """Warn that something was converted, or read in one of several ways."""
    if (lines := _heard.get()) is not None:
        lines.append(text)
    warnings.warn(text, Converted, stacklevel=stacklevel + 1)


@contextmanager
def heard() -> Iterator[list[str]]:
    """What is noted inside, in this thread; it is warned of all the same."""
    lines: list[str] = []
    token = _heard.set(lines)
    try:
        yield lines
    finally:
        _heard.reset(token)
