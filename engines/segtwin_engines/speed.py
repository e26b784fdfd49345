"""How fast the engines run a network on this machine, side by side: interleaved runs, each engine in a process of its
own, and beside its seconds how far its worst blob is from a float64 run. A fast wrong engine is listed as wrong.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import segtwin_weights
from segtwin import Architecture, noise, oracle
from segtwin.architectures import get_architecture
from segtwin.errors import nearest
from segtwin_weights import Weights, ncnn_file
from segtwin_weights.formats import prototxt
from segtwin_weights.onnx_check import probe_sizes

from segtwin_engines.contestants import exporters
from segtwin_engines.facts import machine, versions
from segtwin_engines.fastest import keep
from segtwin_engines.installed import NotInstalledError, available_engines, require
from segtwin_engines.installed import there as there_is

PLAIN = "ONNX Runtime, whole canvas"
"""A plain export, as torch.onnx writes one."""


def unit(architecture: Architecture) -> str:
    """The row that the others' times are divided by: a plain export in ONNX Runtime."""
    return PLAIN if architecture.dead_zones else "ONNX Runtime"


SETTLE = 0.5
"""Seconds before a run: the threads of the engine before it wait for more work for a while, and take its cores."""


@dataclass(frozen=True)
class Row:
    """Something to measure."""

    name: str
    engine: str
    """Of `ENGINES`: what has to be installed."""
    start: str
    """Of `speed_process.STARTERS`."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What it is told besides."""
    asked: bool = False
    """Measured only where its engine is asked for by name: it takes minutes to start."""
    faithful: bool = True
    """Whether `--engine` runs it like this; the fastest of these within its bound is "auto"."""


ROWS = (
    Row(PLAIN, "onnxruntime", "onnxruntime", {"file": "whole"}, faithful=False),
    Row("torchfcn", "torchfcn", "torchfcn", faithful=False),
    Row("ONNX Runtime", "onnxruntime", "onnxruntime", {"file": "torch"}),
    Row("ONNX Runtime, Keras export", "onnxruntime", "onnxruntime", {"file": "keras"}, faithful=False),
    Row("PyTorch, whole canvas", "torch", "torch", {"leave_out": False}, faithful=False),
    Row("PyTorch", "torch", "torch"),
    Row("PyTorch, channels last", "torch", "torch", {"channels_last": True}, faithful=False),
    Row("PyTorch, torch.compile", "torch", "torch", {"compile": True}, asked=True, faithful=False),
    Row("Keras", "keras", "keras"),
    Row("Keras, XLA", "keras", "keras", {"xla": True}, faithful=False),
    Row("ncnn", "ncnn", "another", {"engine": "ncnn"}),
    Row("OpenVINO", "openvino", "openvino", {"file": "torch", "precision": "f32"}),
    Row("OpenVINO, bfloat16", "openvino", "openvino", {"file": "torch", "precision": "bf16"}, faithful=False),
    Row("OpenCV", "opencv", "another", {"engine": "opencv"}),
)


@dataclass
class Speed:
    """What was found of one row."""

    name: str
    engine: str
    seconds: list[float]
    """Of each run, after one that is not counted."""
    start: float
    """Seconds from the weights or the file to a network that is ready."""
    peak: int
    """Bytes of its process at their most."""
    error: float
    """Of the worst blob at the small probe size, in noise floors."""
    worst: str
    """That blob."""
    within: bool
    """Whether every blob is within its bound (`segtwin.noise.default_bounds`)."""
    same_classes: float
    """Share of pixels with the class of the float64 run."""
    failed: str = ""
    """What it said instead."""

    @property
    def least(self) -> float:
        """Seconds of the fastest run."""
        return min(self.seconds, default=float("nan"))

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds) if self.seconds else float("nan")


def rows_for(architecture: Architecture, names: Sequence[str] | None = None) -> list[Row]:
    """The rows that this machine can run a network in.

    Args:
        architecture: the network.
        names: of engines; None: those that are installed.

    Raises:
        ValueError: there is no such engine, or it cannot run the network.
        ImportError: it is not installed.
    """
    known = list(dict.fromkeys(row.engine for row in ROWS))
    for name in names or ():
        if name not in known:
            raise ValueError(
                f"there is no engine {name!r} to measure; there are {', '.join(known)}{nearest(name, known)}"
            )
    there = {*available_engines(), *(["torchfcn"] if there_is("torchfcn") else [])}
    for name in names or ():
        if name == "torchfcn" and name not in there:
            raise NotInstalledError("torchfcn is not installed; pip install --no-deps torchfcn")
        require(name, purpose=f"--engine {name}")
    files = {*exporters(), *(["whole"] if exporters() else [])}
    found = []
    for row in ROWS:
        fits = row.engine not in FITS or FITS[row.engine](architecture)
        exports = row.more.get("file", "whole") in files or "file" not in row.more
        again = architecture.dead_zones is None and "whole canvas" in row.name  # the canvas is whole in any case
        asked = row.engine in names if names else not row.asked
        if asked and row.engine in there and exports and fits and not again:
            found.append(row)
    for name in names or ():
        if name not in {row.engine for row in found}:
            raise ValueError(f"{architecture.name}: {name} cannot run it here; leave it out")
    return found


FITS: Mapping[str, Callable[[Architecture], bool]] = {
    "opencv": prototxt.writable,
    "ncnn": ncnn_file.writable,
    "torchfcn": lambda architecture: architecture.name in ("fcn32s", "fcn16s", "fcn8s"),
}
"""Engine → whether it has a network."""


def measure(
    file: str | os.PathLike[str],
    weights: Weights,
    size: tuple[int, int],
    *,
    batch: int = 1,
    runs: int = 5,
    threads: int | None = None,
    engines: Sequence[str] | None = None,
    step: Callable[[str], None] = lambda text: None,
) -> list[Speed]:
    """Time a network in every engine that is installed, in turn, so that a slow minute is everybody's.

    Args:
        file: of weights.
        weights: what it holds.
        size: rows and columns of the image.
        batch: images at a time.
        runs: of each engine; one more comes before them and is not counted.
        threads: of each engine; None: as many as there are cores.
        engines: some by name.
        step: is told what begins.

    Raises:
        WeightsError, ValueError: the file holds no network that is known, or the size does not fit it.
        ImportError: an engine that is asked for is not installed.
        OSError: a file cannot be read or written.
    """
    architecture = get_architecture(segtwin_weights.network_of(weights))
    architecture.check_size(*size)
    rows = rows_for(architecture, engines)
    dimensions = segtwin_weights.dimensions(weights, architecture)
    shape = (batch, dimensions.in_channels, *size)
    with tempfile.TemporaryDirectory(prefix="segtwin-") as name:
        folder = Path(name)
        files = {}
        for kind in sorted({row.more["file"] for row in rows if "file" in row.more}):
            step(f"exporting ({kind})")
            files[kind] = export(file, folder / f"{kind}.onnx", kind)
        step("the float64 run of a small image")
        judge = Judge(architecture, weights, folder)
        running = []
        for row in rows:
            step(f"starting {row.name}")
            running.append(Running(row, os.fspath(file), files, shape, threads or os.cpu_count() or 1, architecture))
        try:
            for run in range(runs + 1):
                step(f"run {run} of {runs}" if run else "a run to warm up")
                for one in running:
                    time.sleep(SETTLE)
                    one.run(counted=run > 0)
            step("the blobs of a small image")
            return [one.judged(judge) for one in running]
        finally:
            for one in running:
                one.end()


def export(weights: str | os.PathLike[str], path: Path, kind: str) -> str:
    """An ONNX file by a process of its own: "torch" or "keras", by that framework; "whole", with the whole canvas, by
    the first that is installed."""
    framework = kind if kind != "whole" else exporters()[0]
    command = [sys.executable, "-m", "segtwin", "export", weights, path, "--framework", framework, "--quiet"]
    command += ["--no-verify", *(["--whole-canvas"] if kind == "whole" else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{weights}: cannot be exported: {done.stderr.strip()[-300:]}")
    return str(path)


class Judge:
    """The numpy oracle's blobs of a small image, and what each may be off."""

    def __init__(self, architecture: Architecture, weights: Weights, folder: Path) -> None:
        self.architecture, self.folder = architecture, folder
        self.size = probe_sizes(architecture)[0]
        channels = segtwin_weights.dimensions(weights, architecture).in_channels
        low, high = (-120, 130) if architecture.naming == "caffe" else (0, 1)
        image = np.random.default_rng(1).uniform(low, high, (1, channels, *self.size)).astype(np.float32)
        np.save(folder / "probe.npy", image)
        self.truth = oracle.run(architecture, weights, image)
        self.floors = noise.floors(architecture, weights, image, self.truth)
        self.bounds = noise.default_bounds(architecture, weights)

    def errors(self, blobs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Blob → its distance from the truth in noise floors."""
        return {
            name: oracle.relative_error(blob, self.truth[name]) / max(self.floors[name], noise.LEAST_FLOOR)
            for name, blob in blobs.items()
            if name in self.truth and name != self.architecture.input
        }


class Running:
    """A row's process."""

    def __init__(
        self,
        row: Row,
        weights: str,
        files: Mapping[str, str],
        shape: tuple[int, ...],
        threads: int,
        architecture: Architecture,
    ) -> None:
        self.row, self.found = row, Speed(row.name, row.engine, [], 0.0, 0, float("nan"), "", False, float("nan"))
        count = str(threads)
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), count)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "segtwin_engines.speed_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **limits},
        )
        more = {key: files[value] if key == "file" else value for key, value in row.more.items()}
        answer = self.ask(
            start=row.start,
            weights=weights,
            shape=shape,
            threads=threads,
            network=architecture.name,
            output=architecture.output,
            **more,
        )
        self.found.start = answer.get("seconds", 0.0)

    def ask(self, **words: Any) -> dict[str, Any]:
        """One line, and its answer; what went wrong is kept."""
        if self.found.failed:
            return {}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(words) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        self.found.failed = answer.get("error", "")
        return {} if self.found.failed else answer

    def run(self, counted: bool) -> None:
        """Once."""
        answer = self.ask(do="run")
        if counted and answer:
            self.found.seconds.append(answer["seconds"])
            self.found.peak = answer["peak"]

    def judged(self, judge: Judge) -> Speed:
        """With the errors of its blobs."""
        file = judge.folder / "blobs.npz"
        if self.ask(do="blobs", image=str(judge.folder / "probe.npy"), file=str(file)):
            with np.load(file) as blobs:
                held = {name: blobs[name] for name in blobs.files}
            errors = judge.errors(held)
            self.found.worst = max(errors, key=lambda name: errors[name] / judge.bounds[name])
            self.found.error = errors[self.found.worst]
            self.found.within = all(error <= judge.bounds[name] for name, error in errors.items())
            output = judge.architecture.output
            got, want = (classes(blobs[output]) for blobs in (held, judge.truth))
            self.found.same_classes = float((got == want).mean())
        return self.found

    def end(self) -> None:
        """Close its process."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        self.process.wait()


def classes(scores: np.ndarray) -> np.ndarray:
    """Of each pixel."""
    return scores.argmax(1) if scores.shape[1] > 1 else scores > 0.5


# ------------------------------------------------------------------------------- what "auto" is


def facts(found: Sequence[Speed], network: str, size: tuple[int, int], batch: int, threads: int) -> dict[str, Any]:
    """What `--json` writes."""
    base = unit(get_architecture(network))
    plain = next((one.least for one in found if one.name == base and one.seconds), None)
    rows = [
        {
            **asdict(one),
            "least": one.least,
            "median": one.median,
            "ratio": one.least / plain if plain and one.seconds else None,
        }
        for one in found
    ]
    return {
        "network": network,
        "size": list(size),
        "batch": batch,
        "threads": threads,
        "unit": base,
        "rows": rows,
        "machine": machine(),
        "versions": versions(list(dict.fromkeys(one.engine for one in found))),
    }


def remember(network: str, found: Sequence[Speed]) -> str | None:
    """Keep the fastest engine that `predict` can run as it was measured, and that is within its bound."""
    names = {row.name for row in ROWS if row.faithful}
    fit = [one for one in found if one.name in names and one.within and one.seconds]
    if not fit:
        return None
    engine = min(fit, key=lambda one: one.least).engine
    keep(network, engine)
    return engine
