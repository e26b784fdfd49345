"""Measure the spine beside a plain copy of the same bytes: `python benchmarks/spine.py [--runs 5]`.

Conversion is timed without start-up and without hashing, and compared with copying vgg16.npy and
waiting until it is on the disk. Both are done in turn in one run, because machines are noisy: the
ratio is what counts. Exports, the start of the commands and a folder of images follow, with peaks of resident
memory. Inference itself is what `segtwin bench` measures.
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
import segtwin_weights
from PIL import Image
from rich.console import Console
from rich.table import Table
from segtwin_weights import sources
from segtwin_weights.formats import vgg16_npy

PHOTO = Path(__file__).parent.parent / "docs/images/chelsea.jpg"


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
        os.environ["SEGTWIN_CACHE"] = str(folder / "cache")
        image = folder / "image.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)).save(image)
        table.add_row("segtwin --help", f"{statistics.median(peak('--help')[0] for _ in range(runs)):.2f}", "", "")
        command = ("predict", weights, image, "-o", folder / "masks", "--overwrite", "--quiet")
        for what in ("the first start: weights are prepared", "the second start"):
            took, memory = peak(*command)
            table.add_row(f"segtwin predict of 375×500, {what}", f"{took:.1f}", f"{memory:.2f}", "")
        for what, file in (("fcn8s, 4 × 375×500", weights), ("unet-small, 12 × 384×512", segtwin_weights.DEMO)):
            table.add_row(f"a folder of {what}", "", "", f"{overlap(file, folder, runs):.2f} of pure inference")
    Console(width=130).print(table)


def measure_conversion(source: Path, folder: Path, runs: int) -> tuple[list[float], list[float]]:
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


def overlap(weights: Path, folder: Path, runs: int) -> float:
    """What a folder of images, read, segmented and written, has of the throughput of inference alone."""
    import segtwin_engines

    engine = segtwin_engines.load(weights, say=lambda line: None)
    count, size = (12, (384, 512)) if engine.network == "unet-small" else (4, (375, 500))
    images, random = folder / engine.network, np.random.default_rng(0)
    images.mkdir()
    with Image.open(PHOTO) as photo:
        for number in range(count):
            photo.resize(size[::-1]).save(images / f"{number}.jpg", quality=90)
    data = random.uniform(0, 1, (1, engine.in_channels, *size)).astype(np.float32)

    def whole_folder() -> None:
        list(segtwin_engines.predict(engine, images, folder / "masks", overwrite=True, say=lambda line: None))

    ratios = []
    for _ in range(runs + 1):
        alone = seconds(lambda: [engine.scores(data) for _ in range(count)])
        ratios.append(alone / seconds(whole_folder))
    return statistics.median(ratios[1:])


if __name__ == "__main__":
    main()
