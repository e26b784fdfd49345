"""What commands that read data sets ask for alike."""

from __future__ import annotations

import re
from pathlib import Path

import click
from segtwin.errors import DataError
from segtwin.palette import read_palette
from segtwin.texts import read_lines

table_option = click.option(
    "--table",
    metavar="VALUES|FILE",
    help="Grey values of the classes, as 0,128,255, or a file of a colour (#rrggbb or r g b), or a value, a line.",
)
val_option = click.option(
    "--val",
    metavar="SHARE|N|FILE",
    help="What validates where the folder has no val: a share (0.2), a number of images (the last ones), or a file of "
    "names.",
)


def read_table(text: str | None) -> list[list[int]] | None:
    """A class table: grey value, or colour, of each class.

    Raises:
        DataError: it is none.
        OSError: the file cannot be read.
    """
    if text is None:
        return None
    if re.fullmatch(r"\d+(,\d+)*", text):
        return [[int(value)] for value in text.split(",")]
    if text != "voc" and not Path(text).is_file():
        raise DataError(f"--table is grey values (0,128,255), voc, or a file of a colour a line, not {text!r}")
    if text == "voc":
        return read_palette(text)[:21]
    lines = read_lines(text, "a grey value or a colour")
    return [[int(line)] for line in lines] if all(map(str.isdigit, lines)) else read_palette(text)


def size(text: str | None) -> tuple[int, int] | None:
    """Rows and columns of "375x500", or of one number for both."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)(?:[x×](\d+))?", text.strip().lower())
    if not found:
        raise DataError(f"a size is rows x columns, as 256x256, not {text!r}")
    return int(found[1]), int(found[2] or found[1])
