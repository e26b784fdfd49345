"""TIFF files of several bands, which Pillow does not read: any number of channels of integers or
floats, by tifffile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np


class Unsupported(ValueError):
    """A file that is whole, of a kind that is not read here; the message says what to do, without
    the file's name."""


REDUCED = 1
"""Bit of NewSubfileType (TIFF 6.0, section 8): a smaller copy of another page."""
MOST_VALUES = 1 << 31
MOST_INFLATION = 1032
"""deflate makes at most so many bytes of one."""


class _Complaints(logging.Handler):
    """What tifffile reports and reads on: a field beyond the end, a page that is not there. A guess
    takes its place there; here it is an error."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.ERROR or "TiffPages" in text:
            raise ValueError(f"the TIFF is cut off or damaged: {text}")


@contextmanager
def _opened(path: str) -> Iterator[list[Any]]:
    """The pages of a TIFF, without copies of others in a smaller size."""
    import tifffile  # when one is met: few images need it

    logger, handler = logging.getLogger("tifffile"), _Complaints()
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        with tifffile.TiffFile(path) as file:
            found = [page for page in file.pages if not int(getattr(page.aspage(), "subfiletype", 0)) & REDUCED]
            if not found:
                raise ValueError("the TIFF holds no page")
            yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def is_tiff(path: str) -> bool:
    """Whether a file begins as a TIFF or a BigTIFF does."""
    with open(path, "rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def beyond_pillow(path: str) -> dict[int, bool]:
    """The number of each page → whether it has bands that Pillow refuses or takes for one band:
    more than four, 32 bits, floats, deep planes."""
    try:
        with _opened(path) as found:
            return {frame.index: _beyond(frame.aspage()) for frame in found}
    except Exception:  # tifffile's errors have no class in common; it is Pillow's to say what is wrong
        return {}


def _beyond(page: Any) -> bool:
    bands, dtype, apart = page.samplesperpixel, page.dtype, page.planarconfig == 2
    if dtype is None:
        return False
    if dtype.kind == "f" and dtype.itemsize != 4:
        return True
    return bands > 4 or (bands > 1 and (dtype.itemsize > 2 or dtype.kind == "f" or (dtype.itemsize > 1 and apart)))


ORIENTATION = 274
NOT_BANDS = {
    0: "whose zero is white",
    3: "of a palette",
    5: "of inks (CMYK)",
    6: "of YCbCr",
    8: "of CIELab",
    9: "of ICCLab",
    10: "of ITULab",
}
"""Values of PhotometricInterpretation (TIFF 6.0, and its supplements) that are not what the numbers
of three bands look like."""


RGB = 2
"""Of PhotometricInterpretation: red, green, blue, and an alpha channel where there is a fourth
band."""


class Bands(NamedTuple):
    """A page."""

    values: np.ndarray
    """H×W×bands in the file's own values, in the order of the machine."""
    orientation: int
    colours: bool
    """The first three bands are red, green and blue."""


def pages(path: str, admit: Callable[[int, int, int], object], which: Iterable[int] | None = None) -> Iterator[Bands]:
    """Each page.

    Args:
        path: the file.
        admit: told rows, columns and bands of each page before it is decoded.
        which: places among the pages; None: all.

    Raises:
        Unsupported: it is whole, and of a kind that is not read.
        ValueError: it is damaged; the message says so without the file's name.
    """
    with _opened(path) as found:
        for number in range(len(found)) if which is None else which:
            page = found[number].aspage()
            if page.dtype is None or set(page.axes) - set("YXS"):
                raise Unsupported(f"the TIFF holds {page.axes} of {page.dtype}; save it as .npy, H×W×C")
            if not 0 < page.size < MOST_VALUES or page.nbytes > MOST_INFLATION * sum(page.databytecounts):
                raise ValueError(
                    f"the TIFF states {page.imagewidth}×{page.imagelength} pixels of {page.samplesperpixel} bands"
                )
            if page.samplesperpixel <= 4 and (what := NOT_BANDS.get(int(page.photometric))):
                raise Unsupported(
                    f"a TIFF {what}, {page.samplesperpixel} bands of {page.dtype}, is not converted here; save it "
                    "as RGB"
                )
            admit(page.imagelength, page.imagewidth, page.samplesperpixel)
            try:
                values = page.asarray()
            except ValueError as error:
                if "requires the 'imagecodecs' package" not in str(error):
                    raise
                name = getattr(page.compression, "name", page.compression)
                kind = f"{page.samplesperpixel} band{'s' * (page.samplesperpixel > 1)} of {page.dtype}"
                raise Unsupported(
                    f"a TIFF of {kind} is not read with compression {name}; save it uncompressed, or as .npy, H×W×C"
                ) from None
            values = values[..., np.newaxis] if "S" not in page.axes else np.moveaxis(values, page.axes.index("S"), -1)
            orientation = page.tags.valueof(ORIENTATION, 1)
            values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
            yield Bands(
                values,
                orientation if isinstance(orientation, int) else 1,
                int(page.photometric) == RGB and values.shape[2] in (3, 4),
            )
