"""The colours that PASCAL VOC gives to classes."""

from __future__ import annotations

import re

import numpy as np

from segtwin.texts import read_lines


def voc_palette(colours: int = 256) -> np.ndarray:
    """colours × 3 RGB uint8: the bits of a class's number, dealt out to red, green and blue from
    the top (`VOClabelcolormap` of the VOC devkit)."""
    palette = np.zeros((colours, 3), np.uint8)
    number = np.arange(colours)
    for bit in range(7, -1, -1):
        for channel in range(3):
            palette[:, channel] |= ((number >> channel & 1) << bit).astype(np.uint8)
        number >>= 3
    return palette


def read_palette(name: str) -> list[list[int]]:
    """Colours of classes, R, G, B 0..255: PASCAL VOC's for "voc", else of a text file with a colour
    a line, `#rrggbb` or three numbers.

    Raises:
        ValueError: it is no text, or a line is no colour; the message names file and line.
        OSError: the file cannot be read.
    """
    if name == "voc":
        return voc_palette().tolist()
    colours = []
    for number, line in enumerate(read_lines(name, "a colour"), 1):
        if re.fullmatch(r"#[0-9a-fA-F]{6}", line):
            colour = [int(line[at : at + 2], 16) for at in (1, 3, 5)]
        else:
            found = re.fullmatch(r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})", line)
            colour = [int(part) for part in found.groups()] if found else []
        if len(colour) != 3 or max(colour) > 255:
            raise ValueError(
                f"{name}: line {number} is no colour: {line[:40]!r}; write #rrggbb or three numbers 0..255"
            )
        colours.append(colour)
    if not colours or len(colours) > 256:
        raise ValueError(f"{name}: holds {len(colours)} colours; a palette has 1 to 256, one a line")
    return colours
