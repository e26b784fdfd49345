"""What runs in Caffe's own process: `python caffe_process.py FOLDER` reads job.json and given.npz there, and leaves
found.npz. It imports pycaffe and numpy alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import caffe
import numpy as np


def blobs(folder: Path, job: dict[str, Any], given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A forward pass: some blobs of a net."""
    net = caffe.Net(str(folder / job["net"]), str(folder / job["model"]), caffe.TEST)
    for name, data in given.items():
        net.blobs[name].reshape(*data.shape)
        net.blobs[name].data[...] = data
    net.forward()
    return {name: net.blobs[name].data for name in job["names"]}


def gradients(folder: Path, job: dict[str, Any], given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A backward pass: the loss and the parameters' gradients."""
    net = caffe.Net(str(folder / job["net"]), str(folder / job["model"]), caffe.TRAIN)
    for name, data in given.items():
        net.blobs[name].data[...] = data
    net.forward()
    net.clear_param_diffs()
    net.backward()
    return {"loss": net.blobs["loss"].data, **parameters(net, job["parameters"], "diff")}


def steps(folder: Path, job: dict[str, Any], given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Steps of the solver: the loss of each, and the parameters after the last."""
    solver = caffe.SGDSolver(str(folder / job["solver"]))
    net = solver.net
    net.copy_from(str(folder / job["model"]))
    passes, losses, last = iter(range(job["steps"] * job["iter_size"])), [], len(net.layers) - 1

    def before(layer: int) -> None:
        """One step is iter_size passes: a pair is put in before the first layer of each."""
        if layer == 0:
            number = next(passes)
            net.blobs[job["input"]].data[...] = given[f"d {number}"]
            net.blobs["label"].data[...] = given[f"l {number}"]

    def after(layer: int) -> None:
        if layer == last:
            losses.append(float(net.blobs["loss"].data))

    net.before_forward(before)
    net.after_forward(after)
    solver.step(job["steps"])
    means = np.array(losses).reshape(job["steps"], job["iter_size"]).mean(1)
    return {"loss": means, **parameters(net, job["parameters"], "data")}


def parameters(net: Any, names: Iterable[str], part: str) -> dict[str, np.ndarray]:
    """Values ("data") or gradients ("diff") by their names in the hub."""
    found = {}
    for name in names:
        layer, kind = name.rsplit("/", 1)
        found[name] = getattr(net.params[layer][("weight", "bias").index(kind)], part)
    return found


TASKS = {"blobs": blobs, "gradients": gradients, "steps": steps}


def main() -> None:
    """Do the job in the folder that the command line names."""
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    caffe.set_mode_cpu()
    with np.load(folder / "given.npz") as given:
        found: dict[str, Any] = TASKS[job["task"]](folder, job, dict(given))
    np.savez(folder / "found.npz", **found)


if __name__ == "__main__":
    main()
