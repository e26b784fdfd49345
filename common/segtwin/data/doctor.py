"""What is wrong with a data set, before a training finds it out the slow way.

An "error" makes a training go wrong; a "warning" may; a "note" tells what was found.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from segtwin.data.labels import Coding, Contents, coding_of, contents_of
from segtwin.data.layouts import DataSet, Sample, find
from segtwin.errors import DataError, ImageError
from segtwin.images import ORIENTATION, Converted, pages
from segtwin.losses import IGNORE_LABEL

RARE = 0.001
"""Share of the pixels below which a class is called rare."""
MOSTLY_VOID = 0.5


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    level: str
    """"error", "warning" or "note"."""
    kind: str
    """"size", "unreadable", "values", "duplicate", …"""
    text: str
    """One line."""
    files: tuple[str, ...] = ()


@dataclass
class Checked:
    """What the doctor found out of one image."""

    sample: Sample
    size: tuple[int, int] | None = None
    error: str = ""
    digest: str = ""
    contents: list[Contents] = field(default_factory=list)


@dataclass
class Report:
    """Of a folder."""

    folder: Path
    data: DataSet
    coding: Coding | None
    checked: list[Checked]
    findings: list[Finding]
    shares: dict[str, dict[int, float]]
    """Part → class → share of the pixels; 255 is void."""

    @property
    def good(self) -> bool:
        """Whether nothing makes a training go wrong."""
        return not any(one.level == "error" for one in self.findings)

    def asdict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "folder": str(self.folder),
            "layout": self.data.layout,
            "good": self.good,
            "labels": None if self.coding is None else self.coding.words,
            "parts": {name: len(samples) for name, samples in self.data.parts.items()},
            "shares": {
                part: {str(number): share for number, share in shares.items()} for part, shares in self.shares.items()
            },
            "findings": [
                {"level": one.level, "kind": one.kind, "text": one.text, "files": list(one.files)}
                for one in self.findings
            ],
        }


def examine(
    folder: str | Path,
    num_classes: int | None = None,
    val: float | int | str | None = None,
    table: Sequence[Sequence[int]] | None = None,
    workers: int = 2,
    step: Callable[[str], None] = lambda text: None,
) -> Report:
    """Look at every image and every label of a folder.

    Args:
        folder: of the data.
        num_classes: of the network that it is for; None: not known.
        val: as of `layouts.find`.
        table: grey value, or colour, of each class.
        workers: threads that read.
        step: told of each image.

    Raises:
        DataError: no data set is in the folder at all.
        OSError: the folder cannot be read.
    """
    data = find(folder, val)
    samples = tuple({sample.name: sample for sample in data.samples}.values())

    def one(sample: Sample) -> Checked:
        step(sample.name)
        return look(sample)

    # around the threads: the filters are the whole process'
    with warnings.catch_warnings(), ThreadPoolExecutor(max(1, workers)) as pool:
        warnings.simplefilter("ignore", Converted)
        checked = list(pool.map(one, samples))
    findings = [Finding("note", "layout", note) for note in data.notes]
    findings += _of_files(data, checked)
    coding: Coding | None = None
    try:
        readable = [found for one in checked for found in one.contents if not found.error]
        coding = coding_of(readable, num_classes, data.instances, table)
        findings.append(Finding("note", "labels", coding.words))
    except DataError as error:
        findings.append(Finding("error", "values", str(error)))
    shares: dict[str, dict[int, float]] = {}
    if coding is not None:
        shares = _shares(data, checked, coding)
        findings += _of_classes(shares, coding, checked, num_classes)
    findings += _duplicates(data, checked)
    return Report(Path(folder), data, coding, checked, findings, shares)


def look(sample: Sample) -> Checked:
    """Read an image and its labels; an error is in the result."""
    found = Checked(sample)
    try:
        found.size = image_size(sample)
        digest = hashlib.sha256(sample.image.read_bytes())
        digest.update(str(sample.page).encode())
        found.digest = digest.hexdigest()
    except (ImageError, OSError, ValueError, MemoryError) as error:
        found.error = why_not(error, sample)
    found.contents = [contents_of(file, sample.page) for file in sample.labels]
    return found


def why_not(error: Exception, sample: Sample) -> str:
    """Why an image cannot be read, in one line with its file."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if str(sample.image) in text else f"{sample.image}: {text}"


def image_size(sample: Sample) -> tuple[int, int]:
    """Rows and columns of an image as it is shown; it is decoded, so that a truncated one is found."""
    reader = pages(sample.image)
    try:
        for number, page in enumerate(reader):
            if number == (sample.page or 0):
                raw = page.raw
                if not isinstance(raw, Image.Image):
                    height, width, turned = raw.shape[0], raw.shape[1], page.orientation
                else:
                    raw.load()
                    width, height = raw.size
                    turned = raw.getexif().get(ORIENTATION, 1)
                return (width, height) if turned in (5, 6, 7, 8) else (height, width)
    finally:
        reader.close()  # type: ignore[attr-defined] # a generator's
    raise DataError(f"{sample.image}: has no page {sample.page or 0}")


def _of_files(data: DataSet, checked: Sequence[Checked]) -> list[Finding]:
    found: list[Finding] = []
    for one in checked:
        if one.error:
            found.append(Finding("error", "unreadable", one.error, (str(one.sample.image),)))
        for label in one.contents:
            if label.error:
                found.append(Finding("error", "unreadable", label.error, (str(label.file),)))
            elif one.size and label.size != one.size:
                text = f"{label.file}: has {_size(label.size)} pixels, and its image {_size(one.size)}"
                found.append(Finding("error", "size", text, (str(label.file), str(one.sample.image))))
            elif label.lossy:
                text = f"{label.file}: a lossy format changes the values at every edge; save labels as PNG"
                found.append(Finding("warning", "lossy", text, (str(label.file),)))
    for files, level, text in (
        (data.without_label, "warning", "images have no label, and are left out"),
        (data.without_image, "warning", "labels have no image, and are left out"),
    ):
        if files:
            names = tuple(map(str, files))
            found.append(Finding(level, "unmatched", f"{len(files)} {text}; the first is {names[0]}", names))
    sizes = Counter(one.size for one in checked if one.size)
    if len(sizes) > 1:
        listed = ", ".join(f"{count} of {_size(size)}" for size, count in sizes.most_common(3) if size)
        text = f"images of {len(sizes)} sizes ({listed}): a batch of several needs --crop"
        found.append(Finding("note", "sizes", text))
    return found


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _shares(data: DataSet, checked: Sequence[Checked], coding: Coding) -> dict[str, dict[int, float]]:
    by_name = {one.sample.name: one for one in checked}
    found = {}
    for part, samples in data.parts.items():
        counts = coding.count(label for sample in samples for label in by_name[sample.name].contents)
        total = sum(counts.values())
        found[part] = {number: counts[number] / total for number in sorted(counts)} if total else {}
    return found


def _of_classes(
    shares: dict[str, dict[int, float]], coding: Coding, checked: Sequence[Checked], num_classes: int | None
) -> list[Finding]:
    found: list[Finding] = []
    train = shares.get("train", {})
    classes = {number: share for number, share in train.items() if number != IGNORE_LABEL}
    void = train.get(IGNORE_LABEL, 0.0)
    if len(classes) < 2:
        what = f"class {next(iter(classes))} alone" if classes else "void alone"
        found.append(Finding("error", "one class", f"the training labels hold {what}; there is nothing to tell apart"))
    if void > MOSTLY_VOID:
        found.append(Finding("warning", "void", f"{void:.0%} of the training pixels are void (255), and teach nothing"))
    for number, share in classes.items():
        if share < RARE:
            found.append(Finding("warning", "rare", f"class {number} is {share:.4%} of the training pixels"))
    for number in sorted(set(shares.get("val", {})) - set(train) - {IGNORE_LABEL}):
        found.append(Finding("warning", "unseen", f"class {number} is in val and never in train"))
    if num_classes is not None and num_classes > 2:
        missing = [number for number in range(num_classes) if number not in train]
        if missing:
            listed = ", ".join(map(str, missing[:10]))
            found.append(Finding("warning", "absent", f"classes {listed} of {num_classes} are in no training label"))
    empty = [one for one in checked if one.contents and coding.count(one.contents).keys() <= {0, IGNORE_LABEL}]
    if empty and len(empty) < len(checked):
        names = tuple(one.sample.name for one in empty)
        found.append(
            Finding("note", "empty", f"{len(empty)} labels hold background alone; the first is {names[0]}", names)
        )
    return found


def _duplicates(data: DataSet, checked: Sequence[Checked]) -> list[Finding]:
    """Images of the same bytes, within train and between the parts."""
    part_of = {sample.name: part for part, samples in data.parts.items() for sample in samples}
    groups: dict[str, list[str]] = {}
    for one in checked:
        if one.digest:
            groups.setdefault(one.digest, []).append(one.sample.name)
    found: list[Finding] = []
    for names in groups.values():
        if len(names) < 2:
            continue
        parts = {part_of[name] for name in names}
        if "train" in parts and len(parts) > 1:
            where = " and ".join(sorted(parts))
            text = f"{' and '.join(names[:3])} are the same image, in {where}: scores would be too good"
            found.append(Finding("error", "duplicate", text, tuple(names)))
        else:
            found.append(Finding("warning", "duplicate", f"{' and '.join(names[:3])} are the same image", tuple(names)))
    return found
