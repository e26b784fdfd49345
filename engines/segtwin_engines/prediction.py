"""Segment images: masks and overlays of files and folders.

For each image NAME, NAME.mask.png and NAME.overlay.png are written, and on request NAME.probability.npy; for a file of
several pages NAME.mask.tif and NAME.overlay.tif, a page each. A mask is a palette image whose indices are the classes,
as PASCAL VOC's; that of one class, or of two, holds 0 and 1, shown black and white. Nothing is resized: a mask has the
rows and columns of its image.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import TiffImagePlugin
from segtwin.errors import ImageError, known_arguments
from segtwin.files import check_target, whole, whole_together
from segtwin.images import ENDINGS, Page, own_output, page_count, pages
from segtwin.inference import (
    MOST_CLASSES,
    best_class,
    colours_of,
    legend,
    mask_of,
    names_of,
    overlay_of,
    picture_of_page,
)

from segtwin_engines.engine import SMALLER, Engine, fits
from segtwin_engines.loading import load, warn

LEGEND = "classes.legend.png"
"""Name of the picture of the classes that were found."""
EFFORT = 2
"""Of zlib, for masks and overlays: a quarter of the time that its default takes, for files a twelfth larger."""
Colours = tuple[np.ndarray, np.ndarray]
"""Colours of a mask's classes, and of an overlay's; n×3 uint8."""
Decoding = Callable[[], AbstractContextManager[None]]
"""A context manager that is entered while a C library decodes."""


@dataclass
class Prediction:
    """What became of one file."""

    image: str
    status: Literal["ok", "failed"] = "ok"
    reason: str | None = None
    """Why it failed, in one line with the file's name."""
    width: int | None = None
    height: int | None = None
    pages: int | None = None
    classes: dict[str, float] = field(default_factory=dict)
    """Name of a class that was found → its share of the pixels."""
    outputs: dict[str, str] = field(default_factory=dict)
    """"mask", "overlay", "probability" → the file that was written."""
    ms: float | None = None
    labels: np.ndarray | None = None
    """Without an output folder: the class of each pixel, pages×H×W uint8."""

    def asdict(self) -> dict[str, Any]:
        """For JSON; a file that failed has no sizes, classes and outputs."""
        result = ("width", "height", "pages", "classes", "outputs") if self.status == "ok" else ()
        return {name: getattr(self, name) for name in ("image", "status", "reason", *result, "ms")}


@known_arguments
def predict(
    engine: Engine | str | os.PathLike[str],
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    pad: Literal["reflect"] | None = None,
    tile: int | None = None,
    threshold: float | None = None,
    probability: bool = False,
    bits: int | None = None,
    value_range: tuple[float, float] | None = None,
    classes: list[str] | None = None,
    palette: list[list[int]] | None = None,
    with_legend: bool = False,
    recursive: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = warn,
    step: Callable[[str], None] = lambda text: None,
    decoding: Decoding = nullcontext,
) -> Iterator[Prediction]:
    """Segment files and folders. A file that fails is reported, and the next one is done.

    Args:
        engine: of `load`, or what `load` takes.
        images: files, and folders of them.
        output: the folder to write to; None: nothing is written, and the labels are in the result.
        pad: mirror images whose size does not fit at the bottom and right, and cut the result.
        tile: rows and columns of unet-paper's input tiles, by default 572; of other networks those that a tile gives:
            memory does not grow with the image. By default they take it whole.
        threshold: of the probability of a single class; by default 0.5.
        probability: write the probabilities of all classes too, C×H×W float32 (N×C×H×W of a stack).
        bits: of the images' values, where the engine's preprocessing does not say it.
        value_range: of float and 32-bit images: the values that become 0 and 255.
        classes: names of the classes, where the engine's metadata do not have them.
        palette: colours of the classes, likewise.
        with_legend: write the names and colours of the classes that were found.
        recursive: take the images in the folders' folders too; the output has the same folders.
        overwrite: replace files.
        say: takes each line that the user should read.
        step: is told the name of each file as it begins.
        decoding: a context manager that is entered while a C library decodes.

    Yields:
        One `Prediction` a file, in the order of the files.

    Raises:
        ValueError, OSError: before the first file: an argument is wrong, there is no image, or a file to be written is
            there already.
    """
    found = collect([images] if isinstance(images, str | os.PathLike) else images, recursive)
    targets = (
        {path: {} for path in found} if output is None else plan(found, Path(output), probability, overwrite, decoding)
    )
    if output is not None and with_legend:
        check_target(str(Path(output) / LEGEND), overwrite)
    running = engine if isinstance(engine, Engine) else load(engine, say=say)
    if threshold is not None and running.num_classes != 1:
        raise ValueError(f"--threshold is for networks of one class; {running.network} has {running.num_classes}")
    if running.num_classes > MOST_CLASSES:
        raise ValueError(
            f"{running.file}: has {running.num_classes} classes; a mask is an image of at most {MOST_CLASSES}"
        )
    colours = colours_of(running.metadata, palette, running.num_classes)
    names = names_of(running.metadata, classes, running.num_classes)
    own_bits = running.preprocessing.bits if running.preprocessing.bits != 8 else None
    job = Job(
        engine=running,
        bits=bits or own_bits,
        value_range=value_range,
        pad=pad,
        tile=tile,
        threshold=0.5 if threshold is None else threshold,
        colours=colours,
        probability=probability,
        say=say,
        decoding=decoding,
    )
    legend_file = Path(output) / LEGEND if output is not None and with_legend else None
    return one_by_one(job, targets, names, legend_file, step)


@dataclass(frozen=True)
class Job:
    """What holds for every file of a call."""

    engine: Engine
    bits: int | None
    value_range: tuple[float, float] | None
    pad: str | None
    tile: int | None
    threshold: float
    colours: Colours
    probability: bool
    say: Callable[[str], None]
    decoding: Decoding


def one_by_one(
    job: Job,
    targets: dict[Path, dict[str, Path]],
    names: list[str],
    legend_file: Path | None,
    step: Callable[[str], None],
) -> Iterator[Prediction]:
    """Every file's prediction, and at the end the legend."""
    present: set[int] = set()
    for path, files in targets.items():
        step(str(path))
        begun = time.perf_counter()
        result = Prediction(str(path))
        try:
            counts = segment(job, path, files, result)
            result.classes = {names[at]: float(count / counts.sum()) for at, count in enumerate(counts) if count}
            result.outputs = {kind: str(file) for kind, file in files.items()}
            present |= set(np.flatnonzero(counts).tolist())
        except Exception as error:  # the engines' own errors have no class in common; the other images are worth doing
            result.status, result.reason, result.labels = "failed", describe(path, error), None
        result.ms = round(1000 * (time.perf_counter() - begun), 1)
        yield result
    if legend_file is not None and present:
        with whole(legend_file) as draft:
            legend([(names[at], tuple(job.colours[1][at])) for at in sorted(present)]).save(draft)


def describe(path: Path, error: Exception) -> str:
    """One line: the image and what was wrong with it."""
    text = "not enough memory" if isinstance(error, MemoryError) else str(getattr(error, "strerror", None) or error)
    if not isinstance(error, OSError | ValueError | MemoryError):
        text = f"{type(error).__name__}: {text}"
    return " ".join((text if str(path) in text else f"{path}: {text}").split())


def collect(images: Iterable[str | os.PathLike[str]], recursive: bool = False) -> dict[Path, Path]:
    """Image → the folder of its output, seen from the output's: the files given, and those in the
    folders given that have an image's ending and are no masks or overlays that were written here.

    Raises:
        ValueError, OSError: there is no such file, or no image in a folder.
    """
    found: dict[Path, Path] = {}
    for name in images:
        path = Path(name)
        if path.is_dir():
            candidates = path.rglob("*") if recursive else path.iterdir()
            inside = sorted(
                one
                for one in candidates
                if one.suffix.lower() in ENDINGS and one.is_file() and not own_output(one) and not hidden(one, path)
            )
            if not inside:
                raise ValueError(f"{name}: the folder holds no image")
            for one in inside:
                found.setdefault(one, one.parent.relative_to(path))
        elif path.exists():
            found.setdefault(path, Path())
        else:
            raise FileNotFoundError(errno.ENOENT, "there is no such file or folder", str(name))
    return found


def hidden(path: Path, folder: Path) -> bool:
    """Whether a file, or a folder on the way to it, begins with a dot, as ._a.png, which macOS
    leaves on other systems' disks."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def plan(
    found: dict[Path, Path],
    folder: Path,
    probability: bool,
    overwrite: bool,
    decoding: Decoding = nullcontext,
) -> dict[Path, dict[str, Path]]:
    """Image → {"mask": …, "overlay": …, "probability": …}, what is written for it. Names that
    differ in the ending alone keep it: a.jpg.mask.png.

    Raises:
        ValueError, FileExistsError: two images would be written to one file, or a file is there already.
    """
    together: dict[Path, set[str]] = {}
    for path, place in found.items():
        together.setdefault(folder / place / path.stem, set()).add(path.name)
    targets: dict[Path, dict[str, Path]] = {}
    owners: dict[Path, Path] = {}
    for path, place in found.items():
        stem = path.stem if len(together[folder / place / path.stem]) == 1 else path.name
        ending = "tif" if is_stack(path, decoding) else "png"
        files = {"mask": f"{stem}.mask.{ending}", "overlay": f"{stem}.overlay.{ending}"}
        if probability:
            files["probability"] = f"{stem}.probability.npy"
        targets[path] = {kind: folder / place / name for kind, name in files.items()}
        other = owners.setdefault(folder / place / stem, path)
        if other != path:
            raise ValueError(
                f"{other} and {path}: both would be written to {targets[path]['mask']}; segment them into two folders"
            )
    inputs = {path.resolve() for path in found}
    for file in (file for files in targets.values() for file in files.values()):
        if file.exists() and file.resolve() in inputs:
            raise ValueError(f"{file}: is one of the images; choose another folder")
        if file.exists() and not overwrite:
            raise FileExistsError(errno.EEXIST, "exists already; choose another folder or add --overwrite", str(file))
    return targets


def is_stack(path: Path, decoding: Decoding) -> bool:
    """Whether a file holds more than one image; one that cannot be read is told of when it is its turn."""
    try:
        with decoding():
            return page_count(path) > 1
    except (ImageError, OSError):
        return False


def decoded(path: Path, admit: Callable[[int, int], None], decoding: Decoding) -> Iterator[Page]:
    """`segtwin.images.pages`; `decoding` is entered for each page."""
    reader = pages(path, admit)
    while True:
        with decoding():
            page = next(reader, None)
        if page is None:
            return
        yield page


def segment(job: Job, path: Path, files: dict[str, Path], result: Prediction) -> np.ndarray:
    """Segment the pages of a file, one at a time; write what `plan` says, or else keep the labels.
    Returns the classes' counts of pixels."""
    engine, counts = job.engine, np.zeros(MOST_CLASSES, np.int64)
    kept: list[np.ndarray] = []

    def admit(height: int, width: int) -> None:
        need = engine.memory(height, width, job.pad, job.tile)
        advice = f"add --tile 1024, or {SMALLER}" if job.tile is None and engine.takes_tiles else SMALLER
        fits(str(path), height, width, engine.network, need, job.say, advice)

    with job.decoding():
        number = page_count(path)
    with writing(files, number) if files else nullcontext() as put:
        for page in decoded(path, admit, job.decoding):
            values = page.values(engine.in_channels, job.bits, job.value_range)
            labels, output = computed(job, values)
            counts += np.bincount(labels.ravel(), minlength=MOST_CLASSES)
            if put is None:
                kept.append(labels)
            else:
                picture = picture_of_page(page, engine.in_channels, job.bits, job.value_range)
                put(output, labels, picture, job.colours, job.probability)
            result.pages = (result.pages or 0) + 1
            result.height, result.width = labels.shape
    if put is None:
        result.labels = np.stack(kept)
    return counts


def computed(job: Job, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The class of each pixel of an image H×W×C, H×W uint8, and where they are written the probabilities,
    classes×H×W float32."""
    engine, (height, width) = job.engine, values.shape[:2]
    ready = engine.preprocessing.for_channels(engine.in_channels)
    labels = np.empty((height, width), np.uint8)
    output: np.ndarray | None = None

    def data_of(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return ready.apply(values[rows[:, np.newaxis], columns][np.newaxis])

    for piece in engine.pieces(height, width, job.pad, job.tile):
        part = engine.part(piece, data_of, height, width, always=job.probability)
        if len(part) > MOST_CLASSES:
            raise ValueError(f"{engine.file}: gives {len(part)} classes; a mask is an image of at most {MOST_CLASSES}")
        (labels[piece.rows.place, piece.columns.place],) = best_class(part[np.newaxis], job.threshold)
        if job.probability:
            output = np.empty((len(part), height, width), np.float32) if output is None else output
            output[:, piece.rows.place, piece.columns.place] = part
    return labels, output


@contextmanager
def writing(files: dict[str, Path], count: int) -> Iterator[Callable[..., None]]:
    """A function that writes mask, overlay and probabilities of the next page. The files appear
    whole, all of them, or not at all."""
    with ExitStack() as stack:
        drafts = dict(zip(files, stack.enter_context(whole_together(*files.values())), strict=True))
        stacks: dict[str, Any] = {}
        if count > 1:
            inner = stack.enter_context(ExitStack())
            stacks = {
                kind: inner.enter_context(TiffImagePlugin.AppendingTiffWriter(str(drafts[kind]), new=True))
                for kind in ("mask", "overlay")
            }
        kept: dict[str, np.ndarray] = {}
        number = 0

        def put(
            result: np.ndarray | None,
            labels: np.ndarray,
            picture: np.ndarray,
            colours: Colours,
            probability: bool,
        ) -> None:
            nonlocal number
            for kind, image in (
                ("mask", mask_of(labels, colours[0])),
                ("overlay", overlay_of(labels, picture, colours[1])),
            ):
                if stacks:
                    image.save(stacks[kind], format="TIFF")
                    stacks[kind].newFrame()
                else:
                    image.save(drafts[kind], compress_level=EFFORT)
            if probability and count == 1:
                assert result is not None
                np.save(drafts["probability"], result)
            elif probability:
                assert result is not None
                if not kept:
                    shape = (count, *result.shape)
                    kept["all"] = np.lib.format.open_memmap(
                        drafts["probability"], mode="w+", dtype=np.float32, shape=shape
                    )
                if kept["all"].shape[1:] != result.shape:
                    raise ValueError("the pages differ in size; probabilities are written of equally large ones")
                kept["all"][number] = result
                kept["all"].flush()  # type: ignore[attr-defined]
            number += 1

        yield put
        kept.clear()
