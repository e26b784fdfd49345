"""Every network, and FCN-8s at sizes from 1×1 to 1024×2048 and in batches, in the engines that run weights:
`python benchmarks/networks.py [--runs 2] [--only fcn8s unet …]`.

Seconds of ONNX Runtime, the least of its runs, and of the others in units of it; engines run in turn in one process,
with a pause before each. Beside each network stands its worst blob at a small size in noise floors, as `segtwin
bench` judges it. "–" is an engine that has not all of the network's layers.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from pathlib import Path

import numpy as np
import segtwin_weights
from rich.console import Console
from rich.table import Table
from segtwin.architectures import get_architecture, list_architectures
from segtwin.errors import WeightsError
from segtwin_cli.bench import drawn
from segtwin_engines.engine import Engine
from segtwin_engines.loading import start
from segtwin_engines.speed import SETTLE, Judge

ENGINES = {"onnxruntime": "ONNX Runtime", "ncnn": "ncnn", "openvino": "OpenVINO", "torch": "PyTorch"}
SIZES = ((1, 1), (64, 64), (128, 128), (1024, 2048))
BATCHES = (2, 8)


def cases(network: str) -> list[tuple[tuple[int, int], int]]:
    """Size and batch of each line."""
    architecture = get_architecture(network)
    found = [((architecture.legal_size(375), architecture.legal_size(500)), 1)]
    if network == "fcn8s":
        found += [(size, 1) for size in SIZES] + [((128, 128), batch) for batch in BATCHES]
    return found


def started(network: str, folder: str) -> tuple[dict[str, Engine], dict[str, str]]:
    """The engines that have the network, and what is off in each."""
    weights, architecture = segtwin_weights.read(drawn(network, folder)), get_architecture(network)
    judge = Judge(architecture, weights, Path(folder))
    probe = np.load(judge.folder / "probe.npy")
    engines, off = {}, {}
    for name in ENGINES:
        try:
            engines[name] = start(name, architecture, weights)
        except WeightsError:
            continue
        errors = judge.errors(engines[name].blobs(probe))
        wrong = any(error > judge.bounds[blob] for blob, error in errors.items())
        off[name] = f"{max(errors.values()):.1f}{' WRONG' if wrong else ''}"
    return engines, off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(list_architectures()))
    given = parser.parse_args()
    table = Table("network", "images", "ONNX Runtime s", *list(ENGINES.values())[1:], "worst blobs, noise floors")
    for network in given.only:
        with tempfile.TemporaryDirectory(prefix="segtwin-bench-") as folder:
            engines, off = started(network, folder)
            for size, batch in cases(network):
                channels = engines["onnxruntime"].in_channels
                data = np.random.default_rng(0).uniform(-120, 130, (batch, channels, *size)).astype(np.float32)
                took: dict[str, list[float]] = {name: [] for name in engines}
                for _ in range(given.runs + 1):
                    for name, engine in engines.items():
                        time.sleep(SETTLE)
                        begun = time.perf_counter()
                        engine.scores(data)
                        took[name].append(time.perf_counter() - begun)
                least = {name: min(times[1:]) for name, times in took.items()}
                unit = least["onnxruntime"]
                ratios = [f"{least[name] / unit:.2f}" if name in least else "–" for name in list(ENGINES)[1:]]
                images = f"{batch}×{size[0]}×{size[1]}"
                table.add_row(network, images, f"{unit:.3f}", *ratios, ", ".join(off.values()))
            engines.clear()
            gc.collect()
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
