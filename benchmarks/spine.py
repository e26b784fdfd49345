"""Measure the spine beside a plain copy of the same bytes: `python benchmarks/spine.py [--runs 5]`.

Conversion is timed without start-up and without hashing, and compared with copying vgg16.npy and
waiting until it is on the disk. Both are done in turn in one run, because machines are noisy: the
ratio is what counts. Exports and inference follow, with peaks of resident memory.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from segtwin_weights import sources
from segtwin_weights.formats import vgg16_npy


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def copy_and_sync(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def peak(*arguments: object) -> tuple[float, float]:
    """Seconds and peak of resident memory (GB) of a `segtwin` command in a process of its own."""
    code = (
        "import atexit; atexit.register(lambda: print(open('/proc/self/status').read())); from "
        "segtwin_cli.main import main; main()"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True
    )
    return time.perf_counter() - start, 1024 * int(re.search(r"VmHWM:\s+(\d+)", done.stdout)[1]) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    table = Table("what", "median s", "peak GB", "beside it")
    with tempfile.TemporaryDirectory(prefix="segtwin-bench-", dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        source = folder / "vgg16-SYNTHETIC.npy"
        sources.write_synthetic(source)
        convert, copy = measure_conversion(source, folder, runs)
        ratios = [one / other for one, other in zip(convert, copy, strict=True)]
        table.add_row(
            "vgg16.npy → fcn8s.safetensors (553 MB)",
            f"{statistics.median(convert):.2f}",
            "",
            f"{statistics.median(ratios):.2f} × copy with fsync ({statistics.median(copy):.2f} s), runs "
            f"{min(ratios):.2f} … {max(ratios):.2f}",
        )
        weights = folder / "fcn8s.safetensors"
        for what, arguments in (
            (
                "segtwin convert, the whole command",
                ("convert", source, weights, "--to", "fcn8s", "--overwrite", "--quiet"),
            ),
            (
                "segtwin export --framework torch",
                ("export", weights, folder / "torch.onnx", "--framework", "torch", "--quiet"),
            ),
            (
                "segtwin export --framework keras",
                ("export", weights, folder / "keras.onnx", "--framework", "keras", "--quiet"),
            ),
        ):
            took, memory = peak(*arguments)
            table.add_row(what, f"{took:.1f}", f"{memory:.2f}", "")
        for what, took in inference(weights, folder, runs).items():
            table.add_row(f"1×3×375×500, {what}", f"{took:.2f}", "", "")
    Console(width=130).print(table)


def measure_conversion(source: Path, folder: Path, runs: int) -> tuple[list[float], list[float]]:
    import segtwin_weights

    vgg16_npy.sha256 = lambda path: "not measured here"  # type: ignore[assignment]
    target, convert, copy = folder / "fcn8s.safetensors", [], []

    def once() -> None:
        segtwin_weights.write(segtwin_weights.convert(segtwin_weights.read(source), "fcn8s"), target)

    once()
    for _ in range(runs):
        os.sync()
        copy.append(seconds(lambda: copy_and_sync(source, folder / "copy")))
        (folder / "copy").unlink()
        os.sync()
        convert.append(seconds(once))
    return convert, copy


def inference(weights: Path, folder: Path, runs: int) -> dict[str, float]:
    import onnxruntime
    import torch
    from segtwin_engines.loading import framework_twin

    data = np.random.default_rng(0).uniform(-120, 130, (1, 3, 375, 500)).astype(np.float32)
    torch_twin, keras_twin = framework_twin("torch"), framework_twin("keras")
    model = torch_twin.build("fcn8s", weights=weights)
    keras_model = keras_twin.build("fcn8s", weights=weights)
    last = np.ascontiguousarray(data.transpose(0, 2, 3, 1))
    sessions = {
        name: onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
        for name in ("torch", "keras")
    }

    def in_caffes_arithmetic() -> None:
        with torch_twin.caffe_arithmetic():
            model(torch.from_numpy(data))

    engines: dict[str, Callable[[], object]] = {
        "PyTorch": lambda: model(torch.from_numpy(data)),
        "PyTorch in Caffe's arithmetic": in_caffes_arithmetic,
        "Keras": lambda: keras_model(last, training=False),
        "ONNX Runtime, torch export": lambda: sessions["torch"].run(None, {"data": data}),
        "ONNX Runtime, Keras export": lambda: sessions["keras"].run(None, {"data": data}),
    }
    with torch.inference_mode():
        for engine in engines.values():
            engine()
        took: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(runs):  # in turn, so that a slow minute is everybody's
            for name, engine in engines.items():
                took[name].append(seconds(engine))
    return {name: statistics.median(times) for name, times in took.items()}


if __name__ == "__main__":
    main()
