"""The proof that the twins agree, on given weights and images.

Four engines (PyTorch, Keras, and ONNX Runtime on the file exported from each) compute every blob of a network; each
blob is compared with the numpy oracle in float64. What an engine is allowed is a multiple of what float32 costs Caffe:
the distance of the same oracle in float32, which computes as Caffe does (im2col and one matrix product per layer), is
the noise floor of each blob. No engine under test has a part in it.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import segtwin
import segtwin_weights
from segtwin import Architecture, Preprocessing, memory, noise, oracle
from segtwin.architectures import get_architecture
from segtwin.errors import known_arguments
from segtwin.inference import best_class, picture_of_page
from segtwin.noise import BOUND
from segtwin.printable import printable
from segtwin_weights import Weights, metadata
from segtwin_weights.mappings import names as names_of_weights
from segtwin_weights.onnx_check import load_graph

from segtwin_engines.engine import fits
from segtwin_engines.installed import require
from segtwin_engines.loading import Chosen, framework_twin, read_network, warn
from segtwin_engines.prediction import Decoding, decoded

ENGINES = ("PyTorch", "Keras", "ONNX Runtime (torch export)", "ONNX Runtime (Keras export)")
DEFAULT_KERNELS = ("PyTorch (default kernels)", "Keras (default kernels)")
"""The frameworks as a plain call computes; what their vendors' kernels may cost more than Caffe's
arithmetic follows from `segtwin.noise`."""
AS_CAFFE = ENGINES[:2]
"""What is judged by `noise.BOUND`; the others, ONNX Runtime's kernels among them, by
`noise.default_bounds`."""
JUDGED = (*ENGINES, *DEFAULT_KERNELS)
TRUTH = "float64 (numpy)"
KEPT = 3
"""Every blob is kept in float64, and once more in float32, of one engine after the other."""


@dataclass
class Blob:
    """One blob of one image: its noise floor, relative to the blob's largest value, and every
    engine's error in noise floors."""

    name: str
    shape: tuple[int, ...]
    largest: float
    floor: float
    default_bound: float
    """Noise floors that default kernels may be off here."""
    errors: dict[str, float]

    def bound(self, engine: str) -> float:
        """Noise floors that an engine may be off here."""
        return BOUND if engine in AS_CAFFE else self.default_bound

    def missed(self, engine: str) -> bool:
        """Whether an engine is beyond its bound, or gave NaN."""
        return not self.errors[engine] < self.bound(engine)

    @property
    def worst_engine(self) -> str:
        """The engine that is nearest to its bound, or farthest beyond it."""
        return max(self.errors, key=lambda engine: self.errors[engine] / self.bound(engine))

    @property
    def worst(self) -> float:
        """That engine's error in its bound: above 1 it is missed."""
        return self.errors[self.worst_engine] / self.bound(self.worst_engine)


@dataclass
class View:
    """What is drawn of an engine's output; the output itself is let go."""

    labels: np.ndarray
    """Best class of each pixel, H×W uint8."""
    logits: np.ndarray
    """Of the class that varies most, H×W float32."""
    difference: np.ndarray
    """Largest distance of a class's logit from the float64 run, in noise floors, H×W float32."""


@dataclass
class Comparison:
    """One image through every engine."""

    image: str
    size: tuple[int, int]
    blobs: list[Blob]
    logits: dict[str, list[float]]
    """Scores of every class at the middle pixel."""
    agreement: dict[str, float]
    """Share of the pixels whose best class is that of the float64 run."""
    picture: np.ndarray = field(repr=False)
    """The image as it is shown, H×W×3 uint8."""
    varied: int
    """The class whose logit varies most."""
    views: dict[str, View] = field(repr=False)
    """TRUTH and each engine → what is drawn of it."""

    @property
    def worst(self) -> float:
        """The largest error of any blob in any engine, in the bound that holds there."""
        return max(blob.worst for blob in self.blobs)

    @property
    def verdict(self) -> str:
        """In a line: the blob and engine nearest to its bound, and by how much."""
        blob = max(self.blobs, key=lambda blob: blob.worst)
        engine = blob.worst_engine
        return (
            f"{self.image}: worst blob {blob.name} in {engine}, {blob.errors[engine]:.2f} of the noise floor "
            f"(bound {blob.bound(engine):.3g})"
        )


@dataclass
class Parity:
    """Every image's comparison, and the verdict."""

    architecture: Architecture
    weights: Weights
    comparisons: list[Comparison]
    probed: list[str]
    """Weights that held one number each and were compared with seeded probe values in their place."""
    preprocessing: str
    """How the inputs were made, in words."""

    @property
    def equal(self) -> bool:
        """Whether every engine kept its bound on every blob of every image."""
        return not any(blob.missed(engine) for one in self.comparisons for blob in one.blobs for engine in blob.errors)

    @property
    def synthetic(self) -> bool:
        """Whether the weights are synthetic: random numbers, not trained."""
        return bool(self.weights.metadata.get("synthetic"))

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


@known_arguments
def parity(
    weights: str | os.PathLike[str] | Weights,
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    preprocessing: Chosen | None = None,
    value_range: tuple[float, float] | None = None,
    torch_onnx: str | os.PathLike[str] | None = None,
    keras_onnx: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = warn,
    step: Callable[[str], None] = lambda text: None,
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
        say: takes each line that the user should read.
        step: is told what begins: 3 steps, and 8 for each image.
        decoding: a context manager that is entered while a C library decodes.

    Raises:
        ImportError: a framework or ONNX Runtime is not installed.
        WeightsError, ImageError, ValueError, OSError: an input cannot be used.
    """
    require("torch", "keras", "onnxruntime", purpose="parity")
    files = [os.fspath(images)] if isinstance(images, str | os.PathLike) else [os.fspath(one) for one in images]
    onnx_files = [os.fspath(one) for one in (torch_onnx, keras_onnx) if one is not None]
    source = [] if isinstance(weights, Weights) else [os.fspath(weights)]
    for name in (*source, *files, *onnx_files):
        os.stat(name)  # before any work: whatever is not there
    for name in onnx_files:
        load_graph(name)
    where = source[0] if source else "the weights"
    step(f"reading {where}")
    if isinstance(weights, Weights):
        loaded = names_of_weights.hub_names(weights)
        found = segtwin_weights.network_of(loaded)
    else:
        loaded, found = read_network(where)
    architecture = get_architecture(found)
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
        names = ", ".join(probed[:4]) + (", …" if len(probed) > 4 else "")
        say(f"{len(probed)} weights hold one number, mostly zero ({names}); compared with seeded probe values instead")
    with tempfile.TemporaryDirectory(prefix="segtwin-") as folder:
        engines = start_engines(
            architecture, compared, Path(folder), torch_onnx, keras_onnx, step, {name: loaded[name] for name in probed}
        )
        comparisons = [
            compare(name, data, picture, architecture, compared, engines, step)
            for name, data, picture in zip(files, inputs, pictures, strict=True)
        ]
    words = used.describe(size.in_channels) + ("" if known else ", assumed from the network's name")
    return Parity(architecture, loaded, comparisons, probed, words)


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


Compute = Callable[[np.ndarray], dict[str, np.ndarray]]


def start_engines(
    architecture: Architecture,
    weights: Weights,
    folder: Path,
    torch_onnx: str | os.PathLike[str] | None,
    keras_onnx: str | os.PathLike[str] | None,
    step: Callable[[str], None],
    held: dict[str, np.ndarray],
) -> dict[str, Compute]:
    """Engine name → a function from N×C×H×W data to blobs. torch comes first: TensorFlow, then torchvision, would
    abort the interpreter.

    `held` are the weights that have probe values here, as a file that was given holds them.
    """
    options = segtwin_weights.dimensions(weights, architecture)._asdict()
    from segtwin_engines.onnxruntime import onnx_blobs

    models: dict[str, Any] = {}
    files = {"torch": torch_onnx, "keras": keras_onnx}
    for framework in ("torch", "keras"):
        step(f"building and exporting the {framework} model")
        twin = framework_twin(framework)
        models[framework] = twin, twin.build(architecture.name, **options, weights=weights)
        if files[framework] is None:
            files[framework] = str(folder / f"{framework}.onnx")
            twin.export_onnx(models[framework][1], files[framework])
    (torch_twin, torch_model), (keras_twin, keras_model) = models["torch"], models["keras"]
    compute: list[Compute] = [
        lambda data: torch_twin.blobs(torch_model, data),
        lambda data: keras_twin.blobs(keras_model, data),
        lambda data: onnx_blobs(
            str(files["torch"]), data, architecture.exported, {name: weights[name] for name in held}, held
        ),
        lambda data: onnx_blobs(
            str(files["keras"]), data, architecture.exported, {name: weights[name] for name in held}, held
        ),
    ]
    plain: list[Compute] = [
        lambda data: torch_twin.blobs(torch_model, data, caffe=False),
        lambda data: keras_twin.blobs(keras_model, data, caffe=False),
    ]
    return dict(zip(JUDGED, [*compute, *plain], strict=True))


def compare(
    name: str,
    data: np.ndarray,
    image: np.ndarray,
    architecture: Architecture,
    weights: Weights,
    engines: dict[str, Compute],
    step: Callable[[str], None],
) -> Comparison:
    """One image through every engine."""
    step(f"{name}: float64")
    truth = oracle.run(architecture, weights, data)
    step(f"{name}: noise floor")
    floors, bounds = noise.floors(architecture, weights, data, truth), noise.default_bounds(architecture, weights)
    blobs = [
        Blob(blob, truth[blob].shape, float(np.abs(truth[blob]).max()), floors[blob], bounds[blob], {})
        for blob in architecture.exported[1:]
    ]
    output = truth[architecture.output]
    best, varied = best_class(output), int(output[0].std(axis=(1, 2)).argmax())
    middle = (0, slice(None), best.shape[1] // 2, best.shape[2] // 2)
    unit = np.abs(output).max() * floors[architecture.output]
    views: dict[str, View] = {}
    logits: dict[str, list[float]] = {}
    agreement: dict[str, float] = {}

    def look(engine: str, values: np.ndarray) -> None:
        labels = best_class(values)
        difference = (np.abs(values[0] - output[0]).max(0) / unit).astype(np.float32)
        views[engine] = View(labels[0], values[0, varied].astype(np.float32), difference)
        logits[engine] = [float(score) for score in values[middle]]
        agreement[engine] = float((labels == best).mean())

    look(TRUTH, output)
    for engine, compute in engines.items():
        step(f"{name}: {engine}")
        values = compute(data)
        for one in blobs:
            one.errors[engine] = oracle.relative_error(values[one.name], truth[one.name]) / one.floor
        look(engine, values[architecture.output])
    return Comparison(
        image=printable(Path(name).name),
        size=(image.shape[0], image.shape[1]),
        blobs=blobs,
        logits=logits,
        agreement=agreement,
        picture=image,
        varied=varied,
        views=views,
    )
