"""What the values of label files mean: indices of classes, a foreground of 255, numbers of objects, or
colours.

Nothing is guessed where two readings are possible and differ in what is trained: it is an error that
names both, and says how to state which one is meant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from segtwin.data.layouts import Sample
from segtwin.errors import DataError, ImageError
from segtwin.images import LOSSY, ORIENTATION, page_count, pages, turned
from segtwin.losses import IGNORE_LABEL
from segtwin.palette import voc_palette

KINDS = ("index", "foreground", "values", "colours")
GREY_STEP = 16
"""Values that are so far apart are rather greys, chosen to be seen, than numbers of classes."""


@dataclass(frozen=True)
class Coding:
    """How labels become classes.

    "index": the value is the class, 255 is void. "foreground": 0 is the background, and whatever is not
    0 is class 1. "values": the table's grey values are the classes, in its order. "colours": the
    table's colours are; what is not in the table is void.
    """

    kind: str
    table: tuple[tuple[int, ...], ...] = ()
    words: str = ""
    """How it was decided, a sentence."""

    def classes(self, values: Any) -> np.ndarray:
        """H×W uint8 of classes, of a file's values: H×W, or H×W×3."""
        if self.kind == "foreground":
            return (values.any(axis=2) if values.ndim == 3 else values != 0).astype(np.uint8)
        if self.kind == "index":
            if values.ndim == 3:
                values = values[..., 0]
            return values.astype(np.uint8) if int(values.max(initial=0)) <= IGNORE_LABEL else values
        classes = np.full(values.shape[:2], IGNORE_LABEL, np.uint8)
        for number, entry in enumerate(self.table):
            classes[(values == np.array(entry)).all(axis=2) if values.ndim == 3 else values == entry[0]] = number
        return classes

    def count(self, contents: Iterable[Contents]) -> Counter[int]:
        """Class → pixels, of what label files hold."""
        found: Counter[int] = Counter()
        for one in contents:
            for value, pixels in one.counts.items():
                pixel = np.array([[value if len(value) == 3 else value[0]]])
                found[int(self.classes(pixel)[0, 0])] += pixels
        return found

    def read(self, sample: Sample) -> np.ndarray:
        """H×W uint8, the class of each pixel; 255 is void.

        Raises:
            ImageError: a file is no label.
            DataError: the labels of one image differ in size.
        """
        merged: np.ndarray | None = None
        for file in sample.labels:
            one = self.classes(values_of(file, sample.page))
            if merged is not None and merged.shape != one.shape:
                raise DataError(f"{file}: has {_size(one)} pixels, {sample.labels[0]} has {_size(merged)}")
            merged = one if merged is None else np.maximum(merged, one)
        if merged is None:
            raise DataError(f"{sample.image}: has no label")
        return merged


def _size(array: np.ndarray) -> str:
    return f"{array.shape[0]}×{array.shape[1]}"


def values_of(file: Path, page: int | None = None) -> np.ndarray:
    """A label file's own values: H×W of indices, or H×W×3 of colours that are no grey.

    Raises:
        ImageError: it is no image, or one whose values are no labels (floats, CMYK).
    """
    if file.suffix.lower() == ".mat":
        return sbdd_values(file)
    if page is not None:
        return _stack(file)[page]
    if page_count(file) > 1:
        raise ImageError(f"{file}: holds {page_count(file)} pages, and a label is one")
    (values,) = _values(file)
    return values


def sbdd_values(file: Path) -> np.ndarray:
    """GTcls.Segmentation of one of SBDD's .mat files.

    Raises:
        ImageError: it is none of them.
    """
    from scipy.io import loadmat

    try:
        mat = loadmat(file, variable_names=["GTcls"])
        return np.asarray(mat["GTcls"][0]["Segmentation"][0])
    except OSError:
        raise
    except Exception as error:  # loadmat raises whatever a damaged file leads it to
        raise ImageError(
            f"{file}: is no label of SBDD (GTcls.Segmentation): {' '.join(str(error).split())[:120]}"
        ) from None


@lru_cache(maxsize=2)
def _stack(file: Path) -> list[np.ndarray]:
    """The pages of a volume of labels."""
    return list(_values(file))


def _values(file: Path) -> Iterable[np.ndarray]:
    for page in pages(file):
        raw = page.raw
        if isinstance(raw, Image.Image):
            orientation = raw.getexif().get(ORIENTATION, 1)
            if raw.mode in ("P", "L", "1", "I", "I;16", "I;16B"):
                values = np.array(raw).astype(np.int32) // page.spread
                values = _black_and_white(raw, values)
            elif raw.mode in ("RGB", "RGBA", "RGBX", "LA"):
                values = np.array(raw.convert("RGB"))
            else:
                raise ImageError(f"{page.name}: a label holds classes or colours; this one holds {raw.mode} values")
        else:
            orientation, values = page.orientation, np.array(raw)
            if values.dtype.kind not in "ui" or values.ndim not in (2, 3) or values.shape[2:] not in ((), (1,), (3,)):
                raise ImageError(
                    f"{page.name}: a label holds classes or colours; this one {values.dtype} {values.shape}"
                )
            values = values[..., 0] if values.shape[2:] == (1,) else values
        if page.white_is_zero:
            raise ImageError(f"{page.name}: is a TIFF whose zero is white; save it with black as zero")
        if values.ndim == 3 and (values == values[..., :1]).all():
            values = values[..., 0].astype(np.int32)
        yield turned(values, orientation)


def _black_and_white(image: Image.Image, values: np.ndarray) -> np.ndarray:
    """Indices of a palette of which black and white alone are used, as 0 and 255: in a GIF either may be
    index 0. Indices of other palettes are classes."""
    colours = image.getpalette("RGB") if image.mode == "P" else None
    if not colours:
        return values
    used = {index: tuple(colours[3 * index : 3 * index + 3]) for index in np.unique(values).tolist()}
    if not set(used.values()) <= {(0, 0, 0), (255, 255, 255)} or (255, 255, 255) not in used.values():
        return values
    return np.where(np.isin(values, [index for index, colour in used.items() if colour[0]]), 255, 0)


@dataclass
class Contents:
    """What a label file holds."""

    file: Path
    size: tuple[int, int] = (0, 0)
    counts: Counter[tuple[int, ...]] = field(default_factory=Counter)
    """Value, or colour → pixels."""
    lossy: bool = False
    error: str = ""
    """Why it cannot be read."""


def contents_of(file: Path, page: int | None = None) -> Contents:
    """The values of one file; an error is in the result."""
    found = Contents(file)
    try:
        values = values_of(file, page)
        found.size = values.shape[0], values.shape[1]
        flat = values.reshape(values.shape[0] * values.shape[1], -1).astype(np.int64)
        codes = flat[:, 0] if flat.shape[1] == 1 else flat @ np.array([1 << 16, 1 << 8, 1])
        numbers, counts = np.unique(codes, return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            value = (number,) if flat.shape[1] == 1 else (number >> 16, number >> 8 & 255, number & 255)
            found.counts[value] = count
        if file.suffix.lower() not in (".mat", ".npy"):
            with Image.open(file) as opened:
                found.lossy = opened.format in LOSSY
    except (ImageError, OSError, ValueError, MemoryError) as error:
        found.error = " ".join(str(error).split()) or type(error).__name__
        if str(file) not in found.error:
            found.error = f"{file}: {found.error}"
    return found


def read_contents(samples: Sequence[Sample], workers: int = 2) -> list[list[Contents]]:
    """Of each sample, what its label files hold; read in parallel, in the samples' order."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return list(pool.map(lambda sample: [contents_of(file, sample.page) for file in sample.labels], samples))


def coding_of(
    contents: Iterable[Contents],
    num_classes: int | None = None,
    instances: bool = False,
    table: Sequence[Sequence[int]] | None = None,
) -> Coding:
    """How these labels become classes.

    Args:
        contents: of all label files.
        num_classes: of the network; None: not known. One class is a foreground, class 1, without scores
            of its own for the background.
        instances: the values are numbers of objects.
        table: the user's: a colour, or a grey value, a class.

    Raises:
        DataError: the labels do not say it, or contradict the number of classes; the first file that
            does is named.
    """
    files: dict[tuple[int, ...], Path] = {}
    pixels: Counter[tuple[int, ...]] = Counter()
    for one in contents:
        for value, count in one.counts.items():
            files.setdefault(value, one.file)
            pixels[value] += count
    if instances:
        return Coding("foreground", words="labels hold objects: whatever is not 0 is foreground, class 1")
    coloured = [value for value in pixels if len(value) == 3]
    if table is not None:
        return _stated(table, pixels, files)
    if coloured:
        return _colours(coloured, pixels, files)
    values = sorted(value[0] for value in pixels)
    binary = num_classes is None or num_classes <= 2
    most = max(num_classes or 0, 2)
    if set(values) <= {0, IGNORE_LABEL} and IGNORE_LABEL in values:
        if binary:
            return Coding("foreground", words="labels hold 0 and 255: 255 is foreground, class 1")
        raise DataError(
            f"{files[(IGNORE_LABEL,)]}: the labels hold 0 and 255 alone, a foreground and its background, and the "
            f"network has {num_classes} classes; train one with 1 or 2, or state the grey values of the classes"
        )
    if wrong := [value for value in values if value != IGNORE_LABEL and (num_classes is not None and value >= most)]:
        _wrong_values(wrong, values, pixels, files, num_classes or 0)
    apart = min((high - low for low, high in pairwise(values)), default=0)
    if num_classes is None and apart >= GREY_STEP and values[-1] != IGNORE_LABEL and values[-1] >= 2 * GREY_STEP:
        _wrong_values([values[-1]], values, pixels, files, 0)
    void = ", 255 is void" if IGNORE_LABEL in values else ""
    return Coding("index", words=f"labels hold indices of classes, {_listed(values)}{void}")


def _stated(
    table: Sequence[Sequence[int]], pixels: Mapping[tuple[int, ...], int], files: Mapping[tuple[int, ...], Path]
) -> Coding:
    """The user's table; nothing of the labels may be outside of it, but void."""
    entries = tuple(tuple(map(int, entry)) for entry in table)
    if len({len(entry) for entry in entries}) != 1 or len(entries[0]) not in (1, 3):
        raise DataError("a class table holds a grey value a class, or a colour R, G, B a class")
    if len(set(entries)) != len(entries):
        raise DataError("a class table has the same value twice")
    grey = len(entries[0]) == 1
    # a colour file whose values are all grey is read as grey, and the reverse
    known = {(value[0],) for value in entries if len(set(value)) == 1} | set(entries)
    known |= {(value[0],) * 3 for value in entries} if grey else set()
    void = {(IGNORE_LABEL,), (IGNORE_LABEL,) * 3}
    strange = sorted(value for value in pixels if value not in known and value not in void)
    if strange:
        raise DataError(
            f"{files[strange[0]]}: holds {_shown(strange[0])}, which the class table has not ({len(strange)} such "
            "values in all labels)"
        )
    return Coding("values" if grey else "colours", entries, f"labels by the class table of {len(entries)} entries")


def _colours(
    coloured: Sequence[tuple[int, ...]], pixels: Mapping[tuple[int, ...], int], files: Mapping[tuple[int, ...], Path]
) -> Coding:
    """Colours without a table: PASCAL VOC's, which everybody knows, or an error that proposes one."""
    voc = [tuple(map(int, colour)) for colour in voc_palette(21)]
    border = (224, 224, 192)  # VOC's void, where a palette was looked up
    found = {value if len(value) == 3 else (value[0],) * 3 for value in pixels}
    if found <= {*voc, border, (255, 255, 255)} and found & set(voc[1:]):
        return Coding("colours", tuple(voc), "labels hold the colours of PASCAL VOC's classes")
    ranked = sorted(found, key=lambda value: -pixels.get(value, pixels.get(value[:1], 0)))
    proposed = ", ".join(_shown(value) for value in ranked[:8])
    raise DataError(
        f"{files[coloured[0]]}: the labels hold {len(found)} colours, and which class each one is is not stated; "
        f"give a class table, a colour a line in the order of the classes. There are {proposed}"
        + (" …" if len(ranked) > 8 else "")
    )


def _wrong_values(
    wrong: list[int],
    values: list[int],
    pixels: Mapping[tuple[int, ...], int],
    files: Mapping[tuple[int, ...], Path],
    num_classes: int,
) -> NoReturn:
    count = sum(pixels[(value,)] for value in wrong)
    said = f"the network has {num_classes} classes" if num_classes else "they leave gaps"
    hint = (
        f"; if these grey values are the classes, state them: {','.join(map(str, values))}"
        if len(values) <= 32
        else "; a label of so many values was resized or saved as JPEG, or is no label"
    )
    raise DataError(
        f"{files[(wrong[0],)]}: value {wrong[0]} in a label ({count:,} pixels of all labels have such values), and "
        f"{said}{hint}"
    )


def _shown(value: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, value))})" if len(value) == 3 else str(value[0])


def _listed(values: Sequence[int]) -> str:
    values = [value for value in values if value != IGNORE_LABEL]
    return f"{values[0]} to {values[-1]}" if len(values) > 6 else ", ".join(map(str, values)) or "none"
