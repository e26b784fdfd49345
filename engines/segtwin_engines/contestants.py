"""Who is compared by `parity`: engines by name, each in the columns of the report that it has.

PyTorch and Keras stand in two columns, as they compute like Caffe and as a plain call computes; ONNX Runtime and
OpenVINO in one for the file exported from each framework.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import segtwin_weights
from segtwin import Architecture
from segtwin.errors import nearest
from segtwin_weights import Dimensions, Weights, ncnn_file
from segtwin_weights.formats import prototxt

from segtwin_engines.installed import NotInstalledError, missing, require
from segtwin_engines.loading import framework_twin, start

FRAMEWORKS = ("torch", "keras")
ON_EXPORTS = ("onnxruntime", "openvino")
OF_CAFFES_LAYERS = ("opencv", "caffe")
ON_FILES = ("ncnn", *OF_CAFFES_LAYERS)
"""Engines that run files which are written from the weights alone."""
NAMES = (*FRAMEWORKS, *ON_EXPORTS, *ON_FILES)
"""The engines that can be compared; the oracle is what they are compared with."""
DEFAULT = ("torch", "keras", "onnxruntime")
TRAINING = ("torch", "keras", "caffe")
"""The engines that have a backward pass."""
TITLES = {
    "torch": "PyTorch",
    "keras": "Keras",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "ncnn": "ncnn",
    "opencv": "OpenCV",
    "caffe": "Caffe",
}
AS_CAFFE = ("PyTorch", "Keras", "Caffe")
"""Columns that are judged by `noise.BOUND`; the others, ONNX Runtime's kernels among them, by
`noise.default_bounds`."""

Pair = tuple[np.ndarray, np.ndarray]
"""data N×C×H×W and label N×C×h×w."""
Blobs = Callable[[np.ndarray], dict[str, np.ndarray]]
"""data → blob name → array."""
Gradients = Callable[[np.ndarray, np.ndarray], tuple[float, dict[str, np.ndarray]]]
"""data and label → the loss, and hub name → gradient."""
SolverSteps = Callable[..., tuple[list[float], Mapping[str, np.ndarray]]]
"""Steps, and fields of the solver → the loss of each step, and hub name → parameter afterwards."""


class Column(NamedTuple):
    """One of an engine's columns."""

    engine: str
    export: str = ""
    """The framework whose export it runs."""
    default: bool = False
    """As a plain call computes; what their vendors' kernels may cost more than Caffe's arithmetic follows from
    `segtwin.noise`."""

    @property
    def label(self) -> str:
        """As the report has it."""
        if self.export:
            return f"{TITLES[self.engine]} ({'Keras' if self.export == 'keras' else self.export} export)"
        return TITLES[self.engine] + " (default kernels)" * self.default


@dataclass
class Contestant:
    """A column that computes."""

    label: str
    blobs: Blobs
    gradients: Gradients | None = None
    """None: the engine has no backward pass, or this is its second column."""
    solver_steps: SolverSteps | None = None


def named(engines: str | Iterable[str] | None) -> tuple[str, ...]:
    """The engines that are asked for, in the order of the report; checked before any work.

    Args:
        engines: names; None: DEFAULT.

    Raises:
        ValueError: there is no such engine.
        ImportError: one is not installed.
    """
    names = set(DEFAULT if engines is None else [engines] if isinstance(engines, str) else engines)
    for name in sorted(names - set(NAMES)):
        if name == "oracle":
            raise ValueError("oracle is what the engines are compared with; name others")
        raise ValueError(f"there is no engine {name!r} to compare; there are {', '.join(NAMES)}{nearest(name, NAMES)}")
    if not names:
        raise ValueError(f"no engine is named; there are {', '.join(NAMES)}")
    ordered = tuple(name for name in NAMES if name in names)
    try:
        require(*ordered, purpose="parity")
    except NotInstalledError as error:
        there = [name for name in ordered if not missing(name)]
        if engines is None and set(there) & set(FRAMEWORKS):
            raise NotInstalledError(f"{error}, or name the engines that are (--engines {','.join(there)})") from None
        raise
    if names & set(ON_EXPORTS) and not exporters():
        require("torch", purpose=f"an export for {' and '.join(sorted(names & set(ON_EXPORTS)))}")
    return ordered


def chosen(engines: str | Iterable[str] | None, architecture: Architecture) -> tuple[str, ...]:
    """The engines to compare a network in: those of `named`, and by default caffe too, where pycaffe can be imported
    and has the network's layers.

    Raises:
        ValueError, ImportError: of `named`; one of the engines cannot run the network.
    """
    names = named(engines)
    if engines is None:
        return (*names, "caffe") if not missing("caffe") and prototxt.writable(architecture) else names
    for name in names:
        if name in OF_CAFFES_LAYERS and not prototxt.writable(architecture):
            raise ValueError(f"{architecture.name}: {name} runs networks of Caffe's layers alone; leave it out")
        if name == "ncnn":
            ncnn_file.check(architecture)
    return names


def exporters() -> tuple[str, ...]:
    """The frameworks that are installed, whose exports are run."""
    return tuple(framework for framework in FRAMEWORKS if not missing(framework))


def columns(engines: Sequence[str]) -> list[Column]:
    """The columns of these engines, in the order of the report."""
    return [
        *(Column(name) for name in engines if name in FRAMEWORKS),
        *(Column(name, export=framework) for name in engines if name in ON_EXPORTS for framework in exporters()),
        *(Column(name) for name in engines if name in ON_FILES),
        *(Column(name, default=True) for name in engines if name in FRAMEWORKS),
    ]


def built(engines: Sequence[str], files: Mapping[str, str | os.PathLike[str] | None]) -> tuple[str, ...]:
    """The frameworks whose models are built: those that are compared, and those that an export is made from.

    Args:
        engines: of `chosen`.
        files: framework → an export of it that is given.
    """
    exported = {column.export for column in columns(engines)}
    return tuple(one for one in FRAMEWORKS if one in engines or (one in exported and files.get(one) is None))


def start_all(
    engines: Sequence[str],
    architecture: Architecture,
    weights: Weights,
    folder: Path,
    files: Mapping[str, str | os.PathLike[str] | None],
    step: Callable[[str], None],
    held: Mapping[str, np.ndarray],
) -> list[Contestant]:
    """The columns, ready to compute. torch comes first: TensorFlow, then torchvision, would abort the interpreter.

    Args:
        engines: of `chosen`.
        architecture: the network.
        weights: that are compared.
        folder: for exports.
        files: framework → an export of it to be tested in place of a fresh one.
        step: is told what begins.
        held: the weights that have probe values in `weights`, as a file that was given holds them.
    """
    size = segtwin_weights.dimensions(weights, architecture)
    wanted = columns(engines)
    models: dict[str, Any] = {}
    exports: dict[str, str] = {}
    building = built(engines, files)
    for framework in FRAMEWORKS:
        exported = any(column.export == framework for column in wanted)
        given = files.get(framework)
        if framework in building:
            step(f"building {'and exporting ' * (exported and given is None)}the {framework} model")
            twin = framework_twin(framework)
            models[framework] = twin.build(architecture.name, **size._asdict(), weights=weights)
            if exported and given is None:
                given = folder / f"{framework}.onnx"
                twin.export_onnx(models[framework], given)
        if exported and given is not None:
            exports[framework] = os.fspath(given)
    found = []
    for column in wanted:
        if column.export:
            run = on_export(column.engine, exports[column.export], architecture, weights, held)
            found.append(Contestant(column.label, run))
        elif column.engine in FRAMEWORKS:
            run = partial(framework_twin(column.engine).blobs, models[column.engine], caffe=not column.default)
            training = (None, None) if column.default else of_framework(column.engine, architecture, size, weights)
            found.append(Contestant(column.label, run, *training))
        else:
            step(f"starting {column.label}")
            engine = start(column.engine, architecture, weights)
            training = of_caffe(architecture, size, weights) if column.engine == "caffe" else (None, None)
            found.append(Contestant(column.label, engine.blobs, *training))
    return found


def on_export(
    engine: str, path: str, architecture: Architecture, weights: Weights, held: Mapping[str, np.ndarray]
) -> Blobs:
    """An exported file in ONNX Runtime or OpenVINO, with the probe values in it."""
    from segtwin_engines import onnxruntime

    probes = onnxruntime.probes_of(path, {name: weights[name] for name in held}, held)
    if engine == "onnxruntime":
        return lambda data: onnxruntime.onnx_blobs(path, data, architecture.exported, probes)
    from segtwin_engines import openvino

    return lambda data: openvino.onnx_blobs(path, data, architecture, probes)


def of_framework(
    framework: str, architecture: Architecture, size: Dimensions, weights: Weights
) -> tuple[Gradients, SolverSteps]:
    """Gradients and steps of a twin. Each call builds a model of its own, since steps change it; it ends with logits,
    which the losses take."""
    twin = framework_twin(framework)
    more = {"logits": True} if architecture.sigmoid else {}
    loss = twin.BinaryCrossEntropy() if architecture.binary(size.num_classes) else None

    def build() -> Any:
        return twin.build(architecture.name, **size._asdict(), weights=weights, **more)

    def taken(data: np.ndarray) -> np.ndarray:
        return data if framework == "torch" else np.ascontiguousarray(data.transpose(0, 2, 3, 1))

    def gradients(data: np.ndarray, label: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        result: tuple[float, dict[str, np.ndarray]] = twin.gradients(build(), taken(data), label, loss=loss)
        return result

    def solver_steps(steps: Sequence[Sequence[Pair]], **solver: Any) -> tuple[list[float], Mapping[str, np.ndarray]]:
        model = build()
        given = [[(taken(data), label) for data, label in pairs] for pairs in steps]
        return twin.solver_steps(model, given, loss=loss, **solver), twin.read_weights(model)

    return gradients, solver_steps


def of_caffe(architecture: Architecture, size: Dimensions, weights: Weights) -> tuple[Gradients, SolverSteps]:
    """Gradients and steps of Caffe itself."""
    from segtwin_engines import caffe

    return (
        partial(caffe.gradients, architecture, size, weights),
        partial(caffe.solver_steps, architecture, size, weights),
    )
