"""The door of every reader: which files are opened, what becomes of whatever a parser raises, and
how much may be made of a file.

A reader of files that people give is decorated with `reader`. Inside, it may fail in any way;
outside there are weights, a `WeightsError` of one line that begins with the name the caller gave,
or an `OSError` with its errno and file name.
"""

from __future__ import annotations

import errno
import functools
import json
import math
import os
import stat
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from segtwin.errors import WeightsError

Result = TypeVar("Result")

TIMES = 3
"""Bytes that a reader may hold, in sizes of its file: the numbers as they lie, a copy in the hub's
layout, and what is on the way."""
SLACK = 8 << 20
"""Bytes that it may hold whatever the size: buffers, tables of names, the interpreter's objects."""
OBJECT = 500
"""Bytes that an entry of a table of contents (a tensor's name, shape and place) costs as Python
objects."""
LONGEST = 1000
"""Characters of a message; the longest of our own, with a path and two names, have 500."""
DEEPEST = 100
"""Levels of JSON: a Keras model in a model takes 4 levels, and 16 of these are followed."""
SPARSE = 256 << 20
"""Bytes from which on a file that is mostly a hole is refused: it may be larger than the disk."""
DAMAGE = (None, errno.EINVAL, errno.EOVERFLOW, errno.EFBIG, errno.EFAULT)
"""What the system says when a file's content sends a parser to a place before its beginning or
beyond all ends."""


# ----------------------------------------------------------------------------------------- messages


def shown(text: object, most: int = LONGEST) -> str:
    """A text of a file as it may stand in a message: what no printer shows or what moves a cursor
    is escaped, the middle of a long one left out."""
    plain = str(text)
    if len(plain) > most:
        plain = f"{plain[: most // 2]} … {plain[-most // 2 :]}"
    if plain.isprintable():
        return plain
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in plain)


def quoted(name: object) -> str:
    """A name of a file as it stands in a message, in quotes; of what is no text its type."""
    if isinstance(name, bytes):
        name = name[:LONGEST].decode("latin1")
    if isinstance(name, int) and abs(name) < 1 << 64:
        return str(name)
    return f"'{shown(name, 80)}'" if isinstance(name, str) else f"a {type(name).__name__}"


def line(error: BaseException) -> str:
    """An error's message on one short line."""
    return shown(" ".join(str(error).split()), 120)


def check_name(path: object, name: object) -> None:
    """Refuse names that are no text: control characters, NUL, halves of characters (what UTF-8
    cannot decode), marks that turn the writing around.

    Raises:
        WeightsError: the name, escaped.
    """
    plain = name if isinstance(name, str) else ""
    if not plain or (not plain.isprintable() and any(unicodedata.category(one) in UNNAMEABLE for one in plain)):
        raise WeightsError(
            f"{path}: a tensor is called {shown(repr(name), 80)}, which is no name; the file is damaged or hostile"
        )


UNNAMEABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


# -------------------------------------------------------------------------------------------- files


KINDS = (
    (stat.S_ISFIFO, "a FIFO (a pipe)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def regular(path: str | os.PathLike[str]) -> os.stat_result:
    """Refuse what is no regular file with bytes in it, before it is opened: opening a FIFO never
    returns, reading /dev/zero never ends. Links are followed.

    Raises:
        WeightsError: it is a FIFO, socket or device, empty, or all but a hole.
        OSError: it is a folder, or not there.
    """
    name = shown(path)
    try:
        found = os.stat(path)
    except ValueError:  # a NUL in the name
        raise WeightsError(f"{name}: no file can be called so") from None
    for test, what in KINDS:
        if test(found.st_mode):
            raise WeightsError(f"{name}: is {what}, no regular file; write its content to a file and give that")
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not found.st_size:
        raise WeightsError(f"{name}: is empty (0 bytes); fetch it again")
    if found.st_size > SPARSE and (held := _held(path, found.st_size // 8)) < found.st_size // 8:
        raise WeightsError(
            f"{name}: {held:,} bytes of its {found.st_size:,} are on the disk, the rest is a hole; fetch it again"
        )
    return found


def _held(path: str | os.PathLike[str], enough: int) -> int:
    """Bytes of a file that are no holes, as far as `enough`; file systems that do not know of holes
    say that there are none."""
    if not hasattr(os, "SEEK_DATA"):
        return enough
    held = at = 0
    with open(path, "rb") as file:
        try:
            for _ in range(MOST_EXTENTS):
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
                end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
                held, at = held + end - at, end
                if held >= enough:
                    break
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: no more data
                return enough
    return held


MOST_EXTENTS = 10_000


def file_name(path: str | os.PathLike[str]) -> str:
    """A file's name as metadata hold it: text, where the file system has bytes that are none (a
    name in Latin-1 on a disk of UTF-8)."""
    return os.path.basename(os.fspath(path)).encode("utf-8", "backslashreplace").decode()


@contextmanager
def damage(path: str | os.PathLike[str]) -> Iterator[None]:
    """What a damaged file does to the parser in the block becomes one line.

    Raises:
        WeightsError: the block failed, in whatever way; the message begins with the file's name, as
            it was given.
        OSError: the file cannot be read, which is not its content's fault; it has the file's name.
    """
    name = shown(path)
    try:
        yield
    except WeightsError as error:
        message = str(error)
        # else of a part of it
        told = next(
            (message.removeprefix(f"{one}:") for one in (path, name) if message.startswith(f"{one}:")), f" {message}"
        )
        wanted = f"{name}:{shown(told)}"
        if wanted == message:
            raise
        raise WeightsError(wanted) from None
    except OSError as error:
        if error.errno in DAMAGE:
            raise WeightsError(f"{name}: is damaged ({line(error)}); fetch it again") from None
        if error.filename is None:
            raise OSError(error.errno, os.strerror(error.errno or 0), os.fspath(path)) from None
        raise
    except RecursionError:
        raise WeightsError(
            f"{name}: is nested deeper than any file of weights; it is damaged or was made to fill memory"
        ) from None
    except MemoryError:
        raise WeightsError(
            f"{name}: asks for more memory than there is; it is damaged, or too large for this machine"
        ) from None
    except (ImportError, Warning):
        raise  # a library that is missing, and warnings that their user turned into errors, are nothing of the file's
    except Exception as error:  # parsers and C libraries fail in as many ways as there are bytes
        raise WeightsError(
            f"{name}: is cut short or damaged ({type(error).__name__}: {line(error)}); fetch it again"
        ) from None


def reader(read: Callable[..., Result], parts: bool = False) -> Callable[..., Result]:
    """Decorator of a function whose first argument is a file: the door.

    Args:
        read: the function.
        parts: it also takes folders, and names that begin those of several files; they are told by
            the files in them.
    """

    @functools.wraps(read)
    def through(path: str | os.PathLike[str], *arguments: Any, **options: Any) -> Result:
        given = os.fspath(path)  # TypeError: no path, a mistake of the caller's and not the file's
        with damage(given):
            prefix = (
                parts
                and "\0" not in given
                and (os.path.isdir(given) or (not os.path.lexists(given) and os.path.exists(f"{given}.index")))
            )
            if not prefix:
                regular(given)
            result = read(path, *arguments, **options)
            _check(given, result)
            return result

    return through


reader_of_parts = functools.partial(reader, parts=True)


def _check(path: str, result: Any) -> None:
    """What every format's weights are asked."""
    from segtwin_weights import hub, metadata

    if isinstance(result, hub.Weights):
        for name in result:
            check_name(path, name)
        metadata.check(path, result.metadata, result)


# ------------------------------------------------------------------------------------------ budgets


class Budget:
    """How much may be made of one file: `TIMES` its size and `SLACK`, unless more is said."""

    def __init__(self, path: object, size: int, times: float = TIMES, slack: int = SLACK) -> None:
        self.path, self.size = path, size
        self.left = int(times * size) + slack

    def spend(self, count: int, what: str = "asks for more memory") -> None:
        """Note that `count` bytes are made.

        Raises:
            WeightsError: they are more than the file can hold.
        """
        self.left -= count
        if self.left < 0:
            raise WeightsError(
                f"{self.path}: {what} than a file of {self.size:,} bytes can hold; it is damaged or was made to "
                "fill memory"
            )


# --------------------------------------------------------------------------------------------- JSON


def loads(text: str | bytes, size: int) -> Any:
    """JSON of a file of weights: finite numbers, at most `DEEPEST` levels, names once in an object,
    and not more values than the file is good for.

    Args:
        text: the JSON.
        size: of the file that it comes from, in bytes.

    Raises:
        ValueError: it is none of that, or no JSON.
    """
    plain = text if isinstance(text, str) else text.decode("utf-8")
    members, values = plain.count(":"), plain.count(",") + plain.count("{") + plain.count("[")
    if MEMBER * members + VALUE * values + STRING * (plain.count('"') // 2) > TIMES * size + SLACK:
        raise ValueError(f"{members + values:,} values in JSON")
    try:
        loaded = json.loads(
            plain, parse_constant=_refused, parse_float=_finite, parse_int=_whole, object_pairs_hook=_once
        )
    except RecursionError:
        raise ValueError(f"JSON of more than {DEEPEST} levels") from None
    pending = [(loaded, 1)]
    while pending:
        value, depth = pending.pop()
        if depth > DEEPEST:
            raise ValueError(f"JSON of more than {DEEPEST} levels")
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            pending += [(one, depth + 1) for one in inner if isinstance(one, dict | list)]
    return loaded


MEMBER, VALUE, STRING = 150, 50, 60
"""Bytes that a name with its value, a value, and a string of JSON cost as Python objects: their
places in a dict or list, a pair on the way there."""
MOST_DIGITS = 40


def _refused(word: str) -> Any:
    raise ValueError(f"{word} in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{shown(text, 20)} in JSON")
    return value


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits in JSON")
    return int(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"{shown(repr(name), 60)} twice in JSON")
            seen.add(name)
    return found
