"""Images one page at a time, without what libtiff prints of a damaged file: the error that follows
says it, in one line with the file's name."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from segtwin.errors import ImageError
from segtwin.images import Page, page_count, pages

STANDARD_ERROR = 2


def quiet_pages(path: str | os.PathLike[str], admit: Callable[[int, int], None]) -> Iterator[Page]:
    """`segtwin.images.pages`, with the C libraries silenced while they decode."""
    reader = pages(path, admit)
    while True:
        with silenced():
            page = next(reader, None)
        if page is None:
            return
        yield page


def is_stack(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds more than one image; one that cannot be read is told of when it is its
    turn."""
    try:
        return quiet_count(path) > 1
    except (ImageError, OSError):
        return False


def quiet_count(path: str | os.PathLike[str]) -> int:
    """`segtwin.images.page_count`, silenced likewise."""
    with silenced():
        return page_count(path)


@contextmanager
def silenced() -> Iterator[None]:
    """What C code writes to standard error goes nowhere, nor do Pillow's warnings, which lack the
    file's name; `sys.stderr` goes where it went.

    For commands, which have the process for themselves: the descriptor is the whole process's.
    """
    stream = sys.stderr
    try:
        mine = stream.fileno() == STANDARD_ERROR
        stream.flush()
    except (AttributeError, OSError, ValueError):  # closed, or a stream in memory
        mine = False
    try:
        kept = os.dup(STANDARD_ERROR)
    except OSError:  # there is none
        with without_pillows_warnings():
            yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        if mine:
            sys.stderr = open(os.dup(kept), "w", encoding=stream.encoding, errors=stream.errors, buffering=1)  # noqa: SIM115 - closed below
        os.dup2(nowhere, STANDARD_ERROR)
        with without_pillows_warnings():
            yield
    finally:
        os.dup2(kept, STANDARD_ERROR)
        os.close(kept)
        os.close(nowhere)
        if mine:
            aside, sys.stderr = sys.stderr, stream
            with suppress(OSError, ValueError):
                aside.close()


@contextmanager
def without_pillows_warnings() -> Iterator[None]:
    """Of damaged metadata, and of large images, for which there is a limit of our own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
