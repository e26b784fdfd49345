"""Score a network on images with labels: fcn's four metrics, IoU and Dice of each class, ISBI's scores of
a foreground, the worst images."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from segtwin import inference, metrics
from segtwin.collapse import ONE_CLASS
from segtwin.data.labels import Coding, coding_of, read_contents
from segtwin.data.layouts import DataSet, Sample, find
from segtwin.data.stream import read_pair
from segtwin.errors import DataError, SegtwinError, known_arguments
from segtwin.files import whole
from segtwin.losses import IGNORE_LABEL
from segtwin.metrics import Confusion

from segtwin_engines.engine import Engine
from segtwin_engines.loading import by_the_file, load, warn

WORST = 8
"""Images that the page shows."""
PICTURE = 420
"""Columns of a picture on the page, at most."""


STATED = ("network", "engine", "weights", "folder", "layout", "part", "labels", "collapsed")


@dataclass
class Scored:
    """What became of one image."""

    name: str
    pixel_accuracy: float | None = None
    mean_iou: float | None = None
    reason: str | None = None
    """Why it could not be scored."""


@dataclass
class Evaluation:
    """Scores of a network on a part of a data set."""

    network: str
    engine: str
    weights: str
    folder: str
    layout: str
    part: str
    labels: str
    """What the labels' values mean."""
    confusion: Confusion
    names: list[str]
    images: list[Scored] = field(default_factory=list)
    isbi: dict[str, float] = field(default_factory=dict)
    worst: list[tuple[str, float, bytes]] = field(default_factory=list)
    """Name, mean IoU and a JPEG of the image, its label and the prediction."""
    collapsed: str = ""
    """What looks wrong, in a sentence."""

    def asdict(self) -> dict[str, Any]:
        """For JSON: everything but the pictures."""
        scores = self.confusion.asdict(self.names)
        return {
            **scores,
            "iou": {one["name"]: one["iou"] for one in scores["classes"]},
            "dice": {one["name"]: one["dice"] for one in scores["classes"]},
            "pixel_error": None if scores["pixel_accuracy"] is None else 1 - scores["pixel_accuracy"],
            "confusion": self.confusion.counts.tolist(),
            "isbi": self.isbi,
            **{name: getattr(self, name) for name in STATED},
            "images": [vars(one) for one in self.images],
        }


@known_arguments
def evaluate(
    weights: Engine | str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    engine: str = "auto",
    part: str | None = None,
    table: list[list[int]] | None = None,
    tile: int | None = None,
    threshold: float = 0.5,
    say: Callable[[str], None] = warn,
    step: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Score a network on images with labels, each as it is: nothing is resized.

    Args:
        weights: a file of weights, an ONNX file, or an engine of `load`.
        data: folder; its layout is told.
        engine: what computes.
        part: "val", "test", "train", "seg11valid", …; by default val where the folder has one of its own,
            else everything.
        table: grey value, or colour, of each class.
        tile: as of `predict`.
        threshold: of the probability of a single class.
        say: takes each line that the user should read.
        step: told the name of each image as it begins.

    Raises:
        DataError: there is no such part, or no image could be scored.
        SegtwinError, ValueError, OSError: of reading the weights and the labels.
    """
    found = find(data)
    samples, part = chosen(found, part)
    running = weights if isinstance(weights, Engine) else load(weights, engine, say=by_the_file(say))
    classes = max(2, running.num_classes)
    contents = read_contents(samples)
    for one in (label for files in contents for label in files if label.error):
        say(f"left out: {one.error}")
    readable = [one for files in contents for one in files if not one.error]
    coding = coding_of(readable, running.num_classes, found.instances, table)
    say(coding.words)
    result = Evaluation(
        running.network, running.name, running.file, str(data), found.layout, part, coding.words, Confusion(classes),
        inference.names_of(dict(running.metadata), None, running.num_classes),
    )  # fmt: skip
    isbi: list[dict[str, float]] = []
    for sample, files in zip(samples, contents, strict=True):
        step(sample.name)
        if any(one.error for one in files):
            result.images.append(Scored(sample.name, reason=next(one.error for one in files if one.error)))
            continue
        try:
            _score(running, sample, coding, result, isbi, tile, threshold)
        except (SegtwinError, ValueError, OSError, MemoryError) as error:
            result.images.append(Scored(sample.name, reason=" ".join(str(error).split())))
    if not result.confusion.pixels:
        reasons = [one.reason for one in result.images if one.reason]
        raise DataError(f"{data}: no image could be scored" + (f"; the first: {reasons[0]}" if reasons else ""))
    if isbi:
        result.isbi = {name: float(np.nanmean([one[name] for one in isbi])) for name in isbi[0]}
    result.collapsed = looks_wrong(result)
    return result


def chosen(data: DataSet, part: str | None) -> tuple[tuple[Sample, ...], str]:
    """The samples of a part; without a part that is the folder's own val, everything."""
    if part is not None:
        return data.part(part), part
    split_here = any(note.startswith("no part for validation") for note in data.notes)
    if "val" in data.parts and not split_here:
        return data.part("val"), "val"
    return tuple({one.name: one for one in data.samples}.values()), "all"


def _score(
    running: Engine,
    sample: Sample,
    coding: Coding,
    result: Evaluation,
    isbi: list[dict[str, float]],
    tile: int | None,
    threshold: float,
) -> None:
    values, label = read_pair(sample, coding, running.in_channels, running.preprocessing)
    data = running.preprocessing.for_channels(running.in_channels).apply(values[np.newaxis])
    pad = "reflect" if running.architecture is not None and running.architecture.size_step > 1 else None
    (predicted,) = inference.best_class(running.probabilities(data, pad, tile, always=False)[np.newaxis], threshold)
    own = Confusion(result.confusion.classes).add(label, predicted)
    result.confusion.counts += own.counts
    scored = Scored(sample.name, metrics.plain(own.pixel_accuracy), metrics.plain(own.mean_iou))
    result.images.append(scored)
    if result.confusion.classes == 2:
        truth = np.where(label == IGNORE_LABEL, 0, label)
        isbi.append(
            metrics.rand_and_information(metrics.objects(truth), metrics.objects(predicted))
            | {"warping_error": metrics.warping_error(truth, np.where(label == IGNORE_LABEL, truth, predicted))}
        )
    reached = -1.0 if scored.mean_iou is None else scored.mean_iou
    if len(result.worst) < WORST or reached < result.worst[-1][1]:
        result.worst.append((sample.name, reached, picture(values, label, predicted, result.confusion.classes)))
        result.worst.sort(key=lambda one: one[1])
        del result.worst[WORST:]


def picture(values: np.ndarray, label: np.ndarray, predicted: np.ndarray, classes: int) -> bytes:
    """The image, the label over it, and the prediction over it, beside each other (JPEG: a page of PNGs of
    photographs has ten times the bytes)."""
    shown, tinted = inference.overlays(values, [label, predicted], classes)
    image = Image.fromarray(np.concatenate([shown, *tinted], axis=1))
    image.thumbnail((3 * PICTURE, 3 * PICTURE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def looks_wrong(result: Evaluation) -> str:
    """One class everywhere, in a sentence; "" where it is not so."""
    predicted, truth = result.confusion.counts.sum(0), result.confusion.counts.sum(1)
    largest = int(predicted.argmax())
    if predicted[largest] < ONE_CLASS * predicted.sum() or (truth > 0).sum() < 2:
        return ""
    return (
        f"{result.names[largest]} is predicted in {predicted[largest] / predicted.sum():.1%} of the pixels, and is "
        f"{truth[largest] / truth.sum():.1%} of the labels: the weights are not trained or not loaded, the images are "
        "prepared otherwise than in training (colour order, mean, scale), or a score layer is still zero"
    )


def write_evaluation(result: Evaluation, path: str | os.PathLike[str], overwrite: bool) -> None:
    """One HTML page of everything.

    Raises:
        ValueError: the name does not end in .html.
        OSError: it exists, or cannot be written.
    """
    write_page("evaluation.html.j2", path, overwrite, result=result, scores=result.asdict())


def write_page(template: str, path: str | os.PathLike[str], overwrite: bool, **facts: Any) -> None:
    """Render a page of this package."""
    import jinja2

    if Path(path).suffix != ".html":
        raise ValueError(f"{path}: the report is an .html file")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segtwin_engines", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["dataurl"] = lambda jpeg: "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.2f}"
    text = environment.get_template(template).render(**facts)
    with whole(path, replace=overwrite) as draft:
        draft.write_text(text, encoding="utf-8")


def thumbnails(report: Any, most: int = 24) -> list[tuple[str, bytes]]:
    """Name and JPEG of the first images of a data set, each with its label over it."""
    from segtwin.preprocessing import Preprocessing

    found: list[tuple[str, bytes]] = []
    for one in report.checked[:most]:
        if one.error or report.coding is None or any(label.error for label in one.contents):
            continue
        try:
            values, label = read_pair(one.sample, report.coding, 3, Preprocessing())
            classes = min(256, max(2, int(np.where(label == IGNORE_LABEL, 0, label).max()) + 1))
            found.append((one.sample.name, picture(values, label, label, classes)))
        except (SegtwinError, ValueError, OSError):
            continue
    return found


def write_data_page(report: Any, path: str | os.PathLike[str], overwrite: bool) -> None:
    """One HTML page of what the doctor found, with thumbnails."""
    write_page("data.html.j2", path, overwrite, report=report, facts=report.asdict(), pictures=thumbnails(report))
