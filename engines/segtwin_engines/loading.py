"""From a file or a model to an engine."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import segtwin_weights
from segtwin import Architecture, Preprocessing
from segtwin.architectures import get_architecture
from segtwin.errors import WeightsError, known_arguments, nearest
from segtwin_weights import Dimensions, Weights, metadata
from segtwin_weights.door import file_name
from segtwin_weights.hub import file_kind
from segtwin_weights.mappings import names
from segtwin_weights.notes import heard, note

from segtwin_engines import prepared
from segtwin_engines.engine import Engine, output_of
from segtwin_engines.fastest import fastest
from segtwin_engines.installed import ENGINES, available_engines, require
from segtwin_engines.prepared import Prepared, Scores

Chosen = Preprocessing | Callable[[Preprocessing, int], Preprocessing]
"""How inputs are made; or a function of (what the file or the network states, number of channels)."""


OTHERWISE = "say preprocessing (--colour, --mean, --std, --scale) where it was another"
"""What may be done about an assumption."""


class Assumed(UserWarning):
    """Something that a file does not state was assumed; the message says what, and how to state it."""


def warn(line: str) -> None:
    """What `load` does with a line that its user should read."""
    warnings.warn(line, Assumed, stacklevel=3)


def by_the_file(say: Callable[[str], None]) -> Callable[[str], None]:
    """The same for whoever can say nothing of preprocessing but in the file."""
    return lambda line: say(line.replace(OTHERWISE, "where it was another, let segtwin convert write it into the file"))


@known_arguments
def load(
    source: str | os.PathLike[str] | Weights | Any,
    engine: str = "auto",
    *,
    network: str | None = None,
    preprocessing: Chosen | None = None,
    in_channels: int | None = None,
    say: Callable[[str], None] = warn,
) -> Engine:
    """A network in an engine.

    Args:
        source: a file of weights or an ONNX file; `Weights`; or a model of `segtwin_torch` or `segtwin_keras`.
        engine: one of `available_engines()`; "auto": ONNX Runtime for an ONNX file, the model's own framework for a
            model, and for weights what `segtwin bench` found the fastest here, else the first of onnxruntime, torch,
            keras and oracle that is installed.
        network: its name, where the source does not state it.
        preprocessing: how inputs are made; it overrules what the source states.
        in_channels: of an ONNX file that does not state them.
        say: takes each line that the user should read, on what was assumed; by default an `Assumed` warning.

    Raises:
        ImportError: the engine is not installed; the message says how to install it.
        WeightsError, ValueError: the source holds no network that is known here, the engine cannot run it, or nothing
            says how its inputs are made.
        OSError: it cannot be read.
    """
    if engine not in ("auto", *ENGINES):
        raise ValueError(f"there is no engine {engine!r}; there are {', '.join(ENGINES)}{nearest(engine, ENGINES)}")
    if not isinstance(source, str | os.PathLike | Weights):
        return of_model(source, engine, preprocessing)
    onnx = not isinstance(source, Weights) and file_kind(source) == "onnx"
    where = "the weights" if isinstance(source, Weights) else str(source)
    if onnx:
        engine = for_onnx(engine, where)
        runtime: Any = import_module(f"segtwin_engines.{engine}")
        opened = runtime.open_file(where, network, in_channels, preprocessing is not None, say)
        return ready(opened, preprocessing, metadata.stated(opened.metadata, opened.architecture) is not None, say)
    if engine != "auto":
        require(engine, purpose=f"the engine {engine}")
    if not isinstance(source, Weights):
        return of_file(where, engine, network, preprocessing, say)
    weights = names.hub_names(source)
    architecture = get_architecture(segtwin_weights.network_of(weights, network))
    if preprocessing is None:
        names.check_inputs(weights, architecture)
    running = start(by_default(architecture) if engine == "auto" else engine, architecture, weights)
    return ready(running, preprocessing, stated(weights, architecture), say)


def of_file(
    path: str, engine: str, network: str | None, preprocessing: Chosen | None, say: Callable[[str], None]
) -> Engine:
    """A file of weights: what was prepared of it, or else the weights, which are prepared where that is possible."""
    place = prepared.place(path, network)
    if (kept := prepared.find(place)) is not None:
        chosen = by_default(kept.architecture) if engine == "auto" else engine
        if (scores := kept.open(chosen)) is not None:
            for line in kept.notes:
                note(line, stacklevel=3)
            return ready(of_prepared(kept, chosen, scores, path, network), preprocessing, known(kept), say)
    with heard() as notes:
        weights, name = read_network(path, network)
    architecture = get_architecture(name)
    chosen = by_default(architecture) if engine == "auto" else engine
    try:
        names.check_inputs(weights, architecture)
    except WeightsError:
        if preprocessing is None:
            raise
        place = None  # the next start is to say it
    draft = None
    if place is not None and chosen in prepared.ENGINES and place == prepared.place(path, network):
        draft = prepared.write(place, chosen, weights, name, notes)
    if draft is not None:
        del weights  # half a gigabyte that is not needed while the engine makes its own of it
        if (kept := draft.finish()) is not None and (scores := kept.open(chosen)) is not None:
            return ready(of_prepared(kept, chosen, scores, path, network), preprocessing, known(kept), say)
        weights, _ = read_network(path, name)
    running = start(chosen, architecture, weights, path)
    return ready(running, preprocessing, stated(weights, architecture), say)


def by_default(architecture: Architecture) -> str:
    """What runs weights of a network where no engine is named."""
    there = available_engines()
    return fastest(architecture.name) or next(
        one for one in ("onnxruntime", "torch", "keras", "oracle") if one in there
    )


def start(engine: str, architecture: Architecture, weights: Weights, file: str = "the weights") -> Engine:
    """Weights of a network in an engine, with the preprocessing that they state, or else the network's own."""
    size = segtwin_weights.dimensions(weights, architecture)
    scores, blobs, holds = import_module(f"segtwin_engines.{engine}").start(architecture, size, weights)
    return assembled(engine, scores, blobs, file, architecture, size, weights.metadata, holds)


def of_prepared(kept: Prepared, engine: str, scores: Scores, file: str, network: str | None) -> Engine:
    """An engine that was prepared. Its blobs are computed from the file itself: what is kept has no names."""
    others: list[Engine] = []

    def blobs(data: np.ndarray) -> dict[str, np.ndarray]:
        if not others:
            if prepared.place(file, network) != kept.folder:
                raise WeightsError(f"{file}: was changed since it was loaded; load it again")
            weights, _ = read_network(file, kept.architecture.name)
            others.append(start(engine, kept.architecture, weights, file))
        return others[0].blobs(data)

    return assembled(engine, scores, blobs, file, kept.architecture, kept.size, kept.metadata)


def assembled(
    engine: str,
    scores: Scores,
    blobs: Callable[[np.ndarray], dict[str, np.ndarray]],
    file: str,
    architecture: Architecture,
    size: Dimensions,
    told: Mapping[str, Any],
    holds: object = None,
) -> Engine:
    """An engine of weights, from what they say of themselves."""
    own, _ = metadata.preprocessing_of(told, architecture, size.in_channels)
    return Engine(
        name=engine,
        scores=scores,
        blobs=blobs,
        file=file,
        architecture=architecture,
        num_classes=size.num_classes,
        in_channels=size.in_channels,
        preprocessing=own,
        output=output_of(architecture, size.num_classes),
        metadata=dict(told),
        widths=tuple(size.widths),
        holds=holds,
    )


def of_model(model: Any, engine: str, preprocessing: Chosen | None) -> Engine:
    """A model of one of the twins, in its own framework or, with its weights, in another engine.

    Raises:
        TypeError: it is a model of neither.
    """
    framework = "keras" if type(model).__module__.startswith(("keras", "segtwin_keras")) else "torch"
    runtime = import_module(f"segtwin_engines.{framework}")
    network = runtime.network_of(model)
    weights: Weights = runtime.read_weights(network)
    architecture: Architecture = network.architecture
    if engine not in ("auto", framework):
        if architecture.variant_of:
            raise WeightsError(f"{architecture.name} runs in its own framework alone, {framework}")
        require(engine, purpose=f"the engine {engine}")
        running = start(engine, architecture, weights, "the model")
    else:
        size = segtwin_weights.dimensions(weights, architecture)
        scores, blobs, holds = runtime.of_network(network)
        output = output_of(architecture, size.num_classes, runtime.gives_logits(network))
        running = Engine(
            name=framework,
            scores=scores,
            blobs=blobs,
            file="the model",
            architecture=architecture,
            num_classes=size.num_classes,
            in_channels=size.in_channels,
            preprocessing=network.preprocessing,
            output=output,
            metadata=dict(network.metadata),
            widths=tuple(size.widths),
            holds=holds,
        )
    return ready(running, preprocessing, True, warn)


def stated(weights: Weights, architecture: Architecture) -> bool:
    """Whether weights state how their inputs are made."""
    return metadata.stated(weights, architecture) is not None


def known(kept: Prepared) -> bool:
    """The same of weights that were prepared."""
    return metadata.stated(kept.metadata, kept.architecture) is not None


def ready(engine: Engine, chosen: Chosen | None, told: bool, say: Callable[[str], None]) -> Engine:
    """The engine with the preprocessing that was chosen. What is only assumed is said."""
    if chosen is not None:
        base = engine.preprocessing
        engine.preprocessing = chosen if isinstance(chosen, Preprocessing) else chosen(base, engine.in_channels)
        engine.preprocessing.for_channels(engine.in_channels)
    elif not told:
        assumed = engine.preprocessing.describe(engine.in_channels)
        say(f"preprocessing assumed from the network's names: {assumed}; {OTHERWISE}")
    return engine


def for_onnx(engine: str, path: str) -> str:
    """The engine that runs an ONNX file; found and checked before any long work.

    Raises:
        ImportError: it is not installed.
        ValueError: it cannot run such a file.
    """
    if engine not in ("auto", "onnxruntime", "openvino"):
        raise ValueError(f"{path}: is an ONNX file, which the engine onnxruntime runs; {engine} takes weights")
    engine = "onnxruntime" if engine == "auto" else engine
    require(engine, purpose="running an ONNX file")
    return engine


def read_network(path: str, network: str | None = None) -> tuple[Weights, str]:
    """A file's weights under the hub's names, and the network that they are for: as asked, or what
    the file states, or what its names tell.

    Raises:
        WeightsError: it is of no network; or one of `segtwin_weights.read`.
        OSError: it cannot be read.
    """
    weights = segtwin_weights.read(path)
    weights.metadata.setdefault("source", file_name(path))
    return weights, segtwin_weights.network_of(weights, network)


def framework_twin(framework: str) -> ModuleType:
    """`segtwin_torch` or `segtwin_keras`, imported now: each takes seconds."""
    return import_module(f"segtwin_engines.{framework}").twin()
