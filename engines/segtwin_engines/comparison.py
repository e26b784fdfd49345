"""The proof that the twins agree, on given weights and images.

Engines compute every blob of a network (PyTorch and Keras twice: as Caffe computes, and by their default kernels; ONNX
Runtime on the file exported from each; Caffe itself where it is installed; others by name); each blob is compared with
the numpy oracle in float64. What an engine is allowed is a multiple of what float32 costs Caffe: the distance of the
same oracle in float32, which computes as Caffe does (im2col and one matrix product per layer), is the noise floor of
each blob. No engine under test has a part in it. Gradients and solver steps are compared likewise.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import segtwin
import segtwin_weights
from segtwin import Architecture, Preprocessing, memory, noise, oracle
from segtwin.architectures import get_architecture
from segtwin.errors import known_arguments
from segtwin.inference import best_class, picture_of_page
from segtwin.printable import printable
from segtwin.solver import Solver
from segtwin_weights import Weights, metadata
from segtwin_weights.mappings import names as names_of_weights
from segtwin_weights.onnx_check import load_graph

from segtwin_engines.contestants import (
    OF_CAFFES_LAYERS,
    ON_EXPORTS,
    TITLES,
    TRAINING,
    Contestant,
    built,
    chosen,
    columns,
    exporters,
    named,
    start_all,
)
from segtwin_engines.engine import fits
from segtwin_engines.installed import require
from segtwin_engines.loading import Chosen, read_network, warn
from segtwin_engines.measured import Measured
from segtwin_engines.prediction import Decoding, decoded
from segtwin_engines.training_comparison import (
    TRUTH,
    drawn_label,
    gradients_compared,
    steps_compared,
)

KEPT = 3
"""Every blob is kept in float64, and once more in float32, of one engine after the other."""
SHOWN = 5
"""Pixels of another class that a report names."""


@dataclass
class View:
    """What is drawn of an engine's output; the output itself is let go."""

    labels: np.ndarray
    """Best class of each pixel, H×W uint8."""
    logits: np.ndarray
    """Of the class that varies most, H×W float32."""
    difference: np.ndarray
    """Largest distance of a class's logit from the float64 run, in noise floors, H×W float32."""


class Pixel(NamedTuple):
    """A pixel to which an engine gives another class than the float64 run."""

    row: int
    column: int
    exact: int
    """Its class in the float64 run."""
    given: int
    margin: float
    """In noise floors: how far the float64 run's best class is above its second (of a single class: its probability
    from one half, its logit from zero). A pixel that is nearer than the engine's error may go either way."""


@dataclass
class Disagreement:
    """The pixels to which an engine gives another class than the float64 run."""

    pixels: int
    share: float
    """Of all pixels."""
    largest_margin: float
    """Of these pixels; 0 without any."""
    worst: list[Pixel]
    """Those of the largest margins."""


@dataclass
class Comparison:
    """One image through every engine."""

    image: str
    size: tuple[int, int]
    blobs: list[Measured]
    gradients: list[Measured]
    """Empty unless they were asked for; so are the next two."""
    parameters: list[Measured]
    """Those after the steps."""
    losses: dict[str, list[float]]
    """TRUTH and each engine that trains → the loss of each step; without steps, of the pass of the gradients."""
    logits: dict[str, list[float]]
    """Scores of every class at the middle pixel; of networks that end in a sigmoid, probabilities."""
    agreement: dict[str, float]
    """Share of the pixels whose best class is that of the float64 run."""
    disagreements: dict[str, Disagreement]
    picture: np.ndarray = field(repr=False)
    """The image as it is shown, H×W×3 uint8."""
    varied: int
    """The class whose logit varies most."""
    views: dict[str, View] = field(repr=False)
    """TRUTH and each engine → what is drawn of it."""
    steps: int = 0
    """How many were compared."""
    solver: Solver | None = None
    """What the steps were taken by."""

    @property
    def measured(self) -> list[Measured]:
        """Everything that is judged."""
        return [*self.blobs, *self.gradients, *self.parameters]

    @property
    def worst(self) -> float:
        """The largest error of anything in any engine, in the bound that holds there."""
        return max(one.worst for one in self.measured if one.errors)

    @property
    def verdict(self) -> str:
        """In a line: what is nearest to its bound, in which engine, and by how much."""
        return self._worst_of(self.measured)

    @property
    def verdicts(self) -> list[str]:
        """The same of the blobs, the gradients, the parameters and the losses, each in a line."""
        kinds = dict.fromkeys(one.what for one in self.measured)
        return [self._worst_of([one for one in self.measured if one.what == kind]) for kind in kinds]

    def _worst_of(self, measured: Sequence[Measured]) -> str:
        one = max((one for one in measured if one.errors), key=lambda one: (bool(one.missed_by), one.worst))
        engine = one.worst_engine
        what = one.what if one.name == one.what else f"{one.what} {one.name}"
        return (
            f"{self.image}: worst {what} in {engine}, {one.errors[engine]:.2f} of the noise floor "
            f"(bound {one.bound(engine):.3g})"
        )


@dataclass
class Parity:
    """Every image's comparison, and the verdict."""

    architecture: Architecture
    weights: Weights
    engines: tuple[str, ...]
    """Their names; the columns are `labels`."""
    labels: list[str]
    comparisons: list[Comparison]
    probed: list[str]
    """Weights that held one number each and were compared with seeded probe values in their place."""
    preprocessing: str
    """How the inputs were made, in words."""

    @property
    def equal(self) -> bool:
        """Whether every engine kept its bound everywhere."""
        return not any(one.missed_by for comparison in self.comparisons for one in comparison.measured)

    @property
    def synthetic(self) -> bool:
        """Whether the weights are synthetic: random numbers, not trained."""
        return bool(self.weights.metadata.get("synthetic"))

    @property
    def trained(self) -> list[str]:
        """The engines whose gradients or steps were compared, as the report names them."""
        return [engine for engine in self.comparisons[0].losses if engine != TRUTH]

    @property
    def verdicts(self) -> list[str]:
        """Every image's `Comparison.verdicts`, and the engines that had no part in gradients and steps."""
        lines = [line for comparison in self.comparisons for line in comparison.verdicts]
        without = [TITLES[name] for name in self.engines if TITLES[name] not in self.trained]
        if self.trained and without:
            lines.append(f"without a backward pass, so not in gradients and steps: {', '.join(without)}")
        return lines

    def asdict(self) -> dict[str, Any]:
        """Everything but the pictures, for JSON, as parity.schema.json describes it."""
        from segtwin_engines.facts import facts_of

        return facts_of(self)

    def write_report(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write an HTML page, and .json and .png beside it.

        Raises:
            ValueError: the name does not end in .html.
            OSError: a file cannot be written, or is there already.
            ImportError: Jinja2 or Matplotlib is not installed.
        """
        require("report", purpose="a report")
        from segtwin_engines.report import write_report

        write_report(self, path, overwrite)

    def write_junit(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write JUnit's XML, as CI servers show it: a suite for each image, a case for each blob, gradient and
        parameter of each engine.

        Raises:
            OSError: the file cannot be written, or is there already.
        """
        from segtwin_engines.junit import write_junit

        write_junit(self, path, overwrite)


@known_arguments
def parity(
    weights: str | os.PathLike[str] | Weights,
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    preprocessing: Chosen | None = None,
    value_range: tuple[float, float] | None = None,
    torch_onnx: str | os.PathLike[str] | None = None,
    keras_onnx: str | os.PathLike[str] | None = None,
    engines: str | Iterable[str] | None = None,
    gradients: bool = False,
    steps: int = 0,
    base_lr: float | None = None,
    say: Callable[[str], None] = warn,
    step: Callable[[str], None] = lambda text: None,
    expect: Callable[[int], None] = lambda total: None,
    decoding: Decoding = nullcontext,
) -> Parity:
    """Compare every blob of a network in every engine with a float64 run.

    Args:
        weights: of the network, or a file of them.
        images: files.
        preprocessing: how inputs are made; it overrules what the weights state.
        value_range: of float and 32-bit images: the values that become 0 and 255.
        torch_onnx: an export of the torch model to be tested in place of a fresh one.
        keras_onnx: an export of the Keras model, likewise.
        engines: names among torch, keras, onnxruntime, openvino, opencv and caffe; None: the first three, and caffe
            where pycaffe can be imported and has the network's layers.
        gradients: compare the gradients of a loss, too, with seeded labels: Caffe's SoftmaxWithLoss, or of a network
            that ends with a sigmoid the mean binary cross-entropy.
        steps: compare the parameters after so many steps of Caffe's solver on each image, too.
        base_lr: of these steps; None: a power of ten, so that the first step moves no parameter by more than about a
            thousandth of its largest value.
        say: takes each line that the user should read.
        step: is told what begins.
        expect: is told how often `step` will be called.
        decoding: a context manager that is entered while a C library decodes.

    Raises:
        ImportError: an engine is not installed.
        WeightsError, ImageError, ValueError, OSError: an input or an option cannot be used.
    """
    if steps < 0 or (base_lr is not None and not base_lr > 0):
        raise ValueError(f"{steps} steps at base_lr {base_lr}; steps are counted from 0, and base_lr is above 0")
    if base_lr is not None and not steps:
        raise ValueError("base_lr is of steps; say how many steps there are")
    if engines is not None:
        engines = (engines,) if isinstance(engines, str) else tuple(engines)
    asked = named(engines)
    given = {"torch": torch_onnx, "keras": keras_onnx}
    files = [os.fspath(images)] if isinstance(images, str | os.PathLike) else [os.fspath(one) for one in images]
    onnx_files = [os.fspath(one) for one in given.values() if one is not None]
    source = [] if isinstance(weights, Weights) else [os.fspath(weights)]
    for name in (*source, *files, *onnx_files):
        os.stat(name)  # before any work: whatever is not there
    for name in onnx_files:
        load_graph(name)
    check_options(asked, given, gradients or steps > 0)
    where = source[0] if source else "the weights"
    step(f"reading {where}")
    if isinstance(weights, Weights):
        loaded = names_of_weights.hub_names(weights)
        found = segtwin_weights.network_of(loaded)
    else:
        loaded, found = read_network(where)
    architecture = get_architecture(found)
    using = chosen(engines, architecture)
    size = segtwin_weights.dimensions(loaded, architecture)
    if preprocessing is None:
        names_of_weights.check_inputs(loaded, architecture)
    used, known = metadata.preprocessing_of(loaded, architecture, size.in_channels)
    if preprocessing is not None:
        used = preprocessing if isinstance(preprocessing, Preprocessing) else preprocessing(used, size.in_channels)
        loaded, known = Weights(loaded, metadata.state(loaded, used)), True

    def admit(name: str, height: int, width: int) -> None:
        try:
            need = KEPT * memory.of_blobs(architecture, height, width, *size, every=True)
        except ValueError:  # a size that the network does not take is told of below
            return
        fits(name, height, width, f"{architecture.name}'s comparison", need, say)

    pictures = [first_page(name, size.in_channels, used, value_range, partial(admit, name), decoding) for name in files]
    inputs = [segtwin.preprocess(name, used, size.in_channels, value_range) for name in files]
    if not known:
        say(f"{where} does not state its preprocessing; assumed: {used.describe(size.in_channels)}")
    for name, data in zip(files, inputs, strict=True):
        try:
            architecture.check_size(*data.shape[2:])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    compared, probed = with_probes(loaded, architecture.aliases)
    if probed:
        say(f"{of_one_number(probed)}; compared with seeded probe values instead")
    wanted = columns(using)
    training = sum(name in TRAINING for name in using)
    each = 2 + len(wanted) + (gradients + (steps > 0)) * (2 + training)
    starting = len(built(using, given)) + sum(name in OF_CAFFES_LAYERS for name in using)
    expect(1 + starting + each * len(files))
    with tempfile.TemporaryDirectory(prefix="segtwin-") as folder:
        held = {name: loaded[name] for name in probed}
        contestants = start_all(using, architecture, compared, Path(folder), given, step, held)
        comparisons = [
            compare(name, shown, data, picture, architecture, compared, contestants, step, gradients, steps, base_lr)
            for name, shown, data, picture in zip(files, told_apart(files), inputs, pictures, strict=True)
        ]
    words = used.describe(size.in_channels) + ("" if known else ", assumed from the network's name")
    labels = [column.label for column in wanted]
    return Parity(architecture, loaded, using, labels, comparisons, probed, words)


def told_apart(files: Sequence[str]) -> list[str]:
    """How images are named: by the files' names, and where files of several folders have one, by their paths."""
    paths: dict[str, set[str]] = {}
    for file in files:
        paths.setdefault(Path(file).name, set()).add(file)
    names = [file if len(paths[Path(file).name]) > 1 else Path(file).name for file in files]
    return [printable(name) for name in names]


def of_one_number(probed: Sequence[str]) -> str:
    """In words, that weights hold one number each; the first of them by name."""
    names = ", ".join(probed[:4]) + (", …" if len(probed) > 4 else "")
    count = "1 weight holds" if len(probed) == 1 else f"{len(probed)} weights hold"
    return f"{count} one number, mostly zero ({names})"


def check_options(engines: Sequence[str], files: Mapping[str, str | os.PathLike[str] | None], training: bool) -> None:
    """Refuse what could not be honoured.

    Raises:
        ValueError: an export is to be tested and no engine runs one, or no engine has a backward pass.
    """
    for framework, path in files.items():
        if path is not None and not set(engines) & set(ON_EXPORTS):
            raise ValueError(
                f"{os.fspath(path)}: none of the engines {', '.join(engines)} runs an export; name onnxruntime, too"
            )
        if path is not None and framework not in exporters():
            raise ValueError(f"{os.fspath(path)}: {framework} is not installed, so that its export has no column")
    if training and not set(engines) & set(TRAINING):
        raise ValueError(f"none of the engines {', '.join(engines)} has a backward pass; torch, keras and caffe have")


def first_page(
    name: str,
    channels: int,
    preprocessing: segtwin.Preprocessing,
    value_range: tuple[float, float] | None,
    admit: Callable[[int, int], None],
    decoding: Decoding,
) -> np.ndarray:
    """The image as it is shown, H×W×3 uint8. What is converted on the way is said when it is
    prepared for the network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", segtwin.Converted)
        return picture_of_page(
            next(decoded(Path(name), admit, decoding)),
            channels,
            preprocessing.bits if preprocessing.bits != 8 else None,
            value_range,
        )


def with_probes(weights: Weights, aliases: Mapping[str, str]) -> tuple[Weights, list[str]]:
    """Weights in which no blob holds one number everywhere, and the names of the blobs that did.

    The skip layers and biases of a network that was just converted start at zero: zeros would be
    compared with zeros there, and a wrong crop would pass. BatchNorm starts at ones and zeros, and
    would pass where it is left out.

    Args:
        weights: of a network.
        aliases: blob → the one whose storage it shares (`Architecture.aliases`).
    """
    random = np.random.default_rng(15)
    probes: dict[str, np.ndarray] = {}
    for name, blob in weights.items():
        if blob.dtype.kind != "f" or not blob.size or (blob != blob.flat[0]).any() or (blob.size == 1 and blob.any()):
            continue
        if blob.any():  # a variance stays positive
            probe = blob * random.uniform(0.75, 1.25, blob.shape)
        else:
            probe = random.standard_normal(blob.shape) / np.sqrt(blob[0].size if blob.ndim > 1 else 100)
        probes[name] = probe.astype(blob.dtype)
    probes |= {
        name: probes[owner].reshape(probes[name].shape)
        for name, owner in aliases.items()
        if {name, owner} <= probes.keys()
    }
    return Weights({**weights, **probes}, weights.metadata), list(probes)


def compare(
    name: str,
    shown: str,
    data: np.ndarray,
    image: np.ndarray,
    architecture: Architecture,
    weights: Weights,
    engines: Sequence[Contestant],
    step: Callable[[str], None],
    gradients: bool,
    steps: int,
    base_lr: float | None,
) -> Comparison:
    """One image, which is named as `shown`, through every engine."""
    step(f"{name}: float64")
    truth = oracle.run(architecture, weights, data)
    step(f"{name}: noise floor")
    floors, bounds = noise.floors(architecture, weights, data, truth), noise.default_bounds(architecture, weights)
    blobs = [
        Measured(blob, truth[blob].shape, float(np.abs(truth[blob]).max()), floors[blob], bounds[blob], {})
        for blob in architecture.exported[1:]
    ]
    output = truth[architecture.output]
    threshold = 0.5 if architecture.sigmoid else 0.0
    best, varied = best_class(output, threshold), int(output[0].std(axis=(1, 2)).argmax())
    middle = (0, slice(None), best.shape[1] // 2, best.shape[2] // 2)
    unit = np.abs(output).max() * floors[architecture.output]
    margins = margins_of(output, threshold) / unit
    views: dict[str, View] = {}
    logits: dict[str, list[float]] = {}
    agreement: dict[str, float] = {}
    disagreements: dict[str, Disagreement] = {}

    def look(engine: str, values: np.ndarray) -> None:
        labels = best_class(values, threshold)
        difference = (np.abs(values[0] - output[0]).max(0) / unit).astype(np.float32)
        views[engine] = View(labels[0], values[0, varied].astype(np.float32), difference)
        logits[engine] = [float(score) for score in values[middle]]
        agreement[engine] = float((labels == best).mean())
        if engine != TRUTH:
            disagreements[engine] = disagreement(best[0], labels[0], margins[0])

    look(TRUTH, output)
    for engine in engines:
        step(f"{name}: {engine.label}")
        values = engine.blobs(data)
        for one in blobs:
            one.errors[engine.label] = oracle.relative_error(values[one.name], truth[one.name]) / one.floor
        look(engine.label, values[architecture.output])
        del values
    found: Comparison = Comparison(
        image=shown,
        size=(image.shape[0], image.shape[1]),
        blobs=blobs,
        gradients=[],
        parameters=[],
        losses={},
        logits=logits,
        agreement=agreement,
        disagreements=disagreements,
        picture=image,
        varied=varied,
        views=views,
    )
    del truth
    if gradients or steps:
        pair = data, drawn_label(architecture, output)
        say = partial(_say_of, name, step)
        if gradients:
            done = gradients_compared(architecture, weights, pair, engines, say)
            found.gradients, found.losses = done.gradients, done.losses
        if steps:
            done = steps_compared(architecture, weights, pair, steps, base_lr, engines, say)
            found.parameters, found.losses = done.parameters, done.losses
            found.steps, found.solver = steps, done.solver
    return found


def _say_of(name: str, step: Callable[[str], None], text: str) -> None:
    step(f"{name}: {text}")


def margins_of(output: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """N×C×H×W → N×H×W: how far each pixel's best class is above its second; of a single class, how far it is from the
    threshold."""
    if output.shape[1] == 1:
        return np.abs(output[:, 0] - threshold)
    second, first = np.partition(output, -2, axis=1)[:, -2:].transpose(1, 0, 2, 3)
    return first - second


def disagreement(exact: np.ndarray, given: np.ndarray, margins: np.ndarray) -> Disagreement:
    """Of classes H×W and margins H×W."""
    rows, cols = np.nonzero(exact != given)
    order = np.argsort(-margins[rows, cols])[:SHOWN]
    worst = [
        Pixel(int(row), int(col), int(exact[row, col]), int(given[row, col]), float(margins[row, col]))
        for row, col in zip(rows[order], cols[order], strict=True)
    ]
    return Disagreement(len(rows), len(rows) / exact.size, worst[0].margin if worst else 0.0, worst)
