"""Caffe itself as an engine, where pycaffe can be imported: forward, backward, and its solver.

Everything goes by way of the files that this project writes for Caffe, so that these are what is run. Caffe runs in a
process of its own (caffe_process.py): its protobuf and TensorFlow's abort the interpreter when they meet, and what
Caffe refuses ends the process that it is in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import segtwin_weights
from segtwin import Architecture
from segtwin.solver import Solver, trained
from segtwin_weights import Dimensions, Weights
from segtwin_weights.formats import prototxt

from segtwin_engines.engine import Folder

Pair = tuple[np.ndarray, np.ndarray]
"""data N×C×H×W and label N×1×h×w."""
PROCESS = Path(__file__).with_name("caffe_process.py")
MODEL = "network.caffemodel"


def start(
    architecture: Architecture, size: Dimensions, weights: Weights
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], dict[str, np.ndarray]], object]:
    """Weights of a network of Caffe's layers, on the CPU.

    Raises:
        ValueError: Caffe has not all of its layers.
    """
    check(architecture)
    folder = Folder()
    segtwin_weights.write(weights, folder.path / MODEL)
    net = "network.deploy.prototxt"

    def run(data: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        given = {architecture.input: data}
        return in_its_process(folder.path, given, task="blobs", net=net, model=MODEL, names=list(names))

    return (
        lambda data: run(data, [architecture.output])[architecture.output],
        lambda data: run(data, architecture.blobs),
        folder,
    )


def check(architecture: Architecture) -> None:
    """Refuse a network that Caffe has not all layers of.

    Raises:
        ValueError: the message names it.
    """
    if not prototxt.writable(architecture):
        raise ValueError(f"{architecture.name}: caffe runs networks of Caffe's layers alone; use another engine")


def gradients(
    architecture: Architecture, size: Dimensions, weights: Weights, data: np.ndarray, label: np.ndarray
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss of Caffe's SoftmaxWithLoss (normalize: false, ignore_label 255), and its gradients. Dropout is left out
    of the net, as in `segtwin_torch.gradients`.

    Args:
        architecture: a network of Caffe's layers.
        size: its dimensions.
        weights: hub name → array.
        data: N×C×H×W.
        label: N×1×h×w, h×w the size of the output.
    """
    folder, net = training_files(architecture, size, weights, data, label)
    found = in_its_process(
        folder.path,
        {architecture.input: data, "label": label},
        task="gradients",
        net=net,
        model=MODEL,
        parameters=[one.name for one in trained(architecture)],
    )
    return float(found.pop("loss")), found


def solver_steps(
    architecture: Architecture,
    size: Dimensions,
    weights: Weights,
    steps: Sequence[Sequence[Pair]],
    **options: Any,
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Training by Caffe's own SGDSolver.

    Args:
        architecture: a network of Caffe's layers.
        size: its dimensions.
        weights: to start from; left as they are.
        steps: a list of steps, each a list of iter_size pairs; all pairs are of one size.
        **options: fields of solver.prototxt: base_lr, momentum, weight_decay, lr_policy …

    Returns:
        The loss of each step before its update, the mean over its pairs; and hub name → trained parameter after the
        last step.
    """
    pairs = [pair for step in steps for pair in step]
    folder, net = training_files(architecture, size, weights, *pairs[0])
    text = Solver(net=str(folder.path / net), iter_size=len(steps[0]), **options).prototxt()
    text += f'type: "SGD"\nsolver_mode: CPU\nsnapshot_after_train: false\nsnapshot_prefix: "{folder.path / "s"}"\n'
    (folder.path / "solver.prototxt").write_text(text, encoding="utf-8")
    found = in_its_process(
        folder.path,
        {f"{name} {number}": one for number, pair in enumerate(pairs) for name, one in zip("dl", pair, strict=True)},
        task="steps",
        solver="solver.prototxt",
        model=MODEL,
        input=architecture.input,
        iter_size=len(steps[0]),
        steps=len(steps),
        parameters=[one.name for one in trained(architecture)],
    )
    return found.pop("loss").tolist(), found


def training_files(
    architecture: Architecture, size: Dimensions, weights: Weights, data: np.ndarray, label: np.ndarray
) -> tuple[Folder, str]:
    """A folder with the weights and train.prototxt, whose inputs have these shapes."""
    check(architecture)
    folder = Folder()
    text = prototxt.training(architecture, size.num_classes, size.in_channels, size.widths, data.shape, label.shape)
    (folder.path / "train.prototxt").write_text(text, encoding="utf-8")
    segtwin_weights.write(weights, folder.path / MODEL)
    return folder, "train.prototxt"


def in_its_process(folder: Path, arrays: Mapping[str, np.ndarray], **job: Any) -> dict[str, np.ndarray]:
    """What caffe_process.py computes of a job.

    Raises:
        ValueError: Caffe refuses it; the message is Caffe's.
    """
    given: dict[str, Any] = {name: one.astype(np.float32) for name, one in arrays.items()}
    np.savez(folder / "given.npz", **given)
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONSAFEPATH": "1",  # the folder of this file holds a caffe.py, too
        "GLOG_minloglevel": "2",
    }
    done = subprocess.run(
        [sys.executable, PROCESS, folder],
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = next((line for line in lines if line.startswith("F") or "Error" in line), lines[-1] if lines else "")
        raise ValueError(f"Caffe ended with {done.returncode}: {said.strip()[:300]}")
    with np.load(folder / "found.npz") as found:
        return dict(found)
