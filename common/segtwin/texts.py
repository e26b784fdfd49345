"""Short text files that people write: names of classes, colours."""

from __future__ import annotations

import os
import stat

MOST_BYTES = 1 << 20
"""Of such a file; 256 classes take a few kilobytes."""


def read_lines(path: str | os.PathLike[str], what: str) -> list[str]:
    """Lines of a UTF-8 text, stripped, without empty ones at its ends.

    Args:
        path: a regular file.
        what: what each line is, for messages.

    Raises:
        ValueError: it is a pipe, a device, too long, empty, or no text; the message names it.
        OSError: it cannot be read.
    """
    name = os.fspath(path)
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"{name}: is a pipe, socket or device; write {what} a line to a file and give that")
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        text = "\0"
    if len(data) > MOST_BYTES or "\0" in text:
        raise ValueError(
            f"{name}: is no text{' of a reasonable length' if len(data) > MOST_BYTES else ''}; write {what} a "
            "line, in UTF-8"
        )
    if not text:
        raise ValueError(f"{name}: is empty; write {what} a line")
    return [line.strip() for line in text.splitlines()]
