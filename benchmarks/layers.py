"""Where an engine spends a network's time, layer by layer: `python benchmarks/layers.py [WEIGHTS] [--size 375x500]
[--runs 3]`.

Multiplications are counted from the table of layers, with and without the dead zones. ONNX Runtime's times are its
own profile of the plain operators; ncnn's are differences between the times in which it comes to one blob and to the
next, the least of several runs.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import segtwin_weights
from rich.console import Console
from rich.table import Table
from segtwin import Architecture
from segtwin.architectures import get_architecture
from segtwin.layer_kinds import KINDS, output_size
from segtwin_cli.bench import drawn
from segtwin_cli.explain import Size
from segtwin_engines import ncnn
from segtwin_weights import ncnn_file, onnx_table
from segtwin_weights.from_table import INNER


def multiplications(architecture: Architecture, size: tuple[int, int], leave_out: bool) -> dict[str, int]:
    """Layer → products of an image, in a plain computation."""
    zones = architecture.dead_zones if leave_out else None
    channels, found = architecture.channels(), {}
    sizes = {architecture.input: size}
    for layer in architecture.layers:
        if KINDS[layer.kind].resizes_to_second:
            sizes[layer.name] = sizes[layer.bottoms[1]]
            continue
        rows, columns = (output_size(layer, one) for one in sizes[layer.bottoms[0]])
        if zones and layer is architecture.layers[0]:
            rows, columns = (one - 2 * (layer.pad - zones.pad) for one in (rows, columns))
        shape = KINDS[layer.kind].weight_shape(layer, channels[layer.bottoms[0]], channels[layer.name])
        below = sizes[layer.bottoms[0]]
        if shape is not None:
            found[layer.name] = KINDS[layer.kind].flops(math.prod(shape), math.prod(below), rows * columns) // 2
        if zones and (repeat := zones.repeats.get(layer.name)):
            rows, columns = rows + 2 * repeat.times, columns + 2 * repeat.times
        sizes[layer.name] = rows, columns
    return found


def of_onnxruntime(path: Path, data: np.ndarray, runs: int, folder: Path) -> dict[str, float]:
    """Operator → seconds of its fastest run."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.log_severity_level = True, 3
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for _ in range(runs + 1):
        session.run(None, {session.get_inputs()[0].name: data})
    least: dict[str, float] = {}
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time").removesuffix("_nchwc").removesuffix(INNER)
            name = name.removesuffix(" linear").removesuffix(INNER)
            least[name] = min(least.get(name, math.inf), event["dur"] / 1e6)
    return least


def of_ncnn(path: Path, architecture: Architecture, data: np.ndarray, runs: int, blobs: list[str]) -> dict[str, float]:
    """Blob → seconds from the blob before it."""
    import ncnn as library

    inner = architecture.dead_zones.left_out if architecture.dead_zones else {}
    net = ncnn.opened(path)
    least = dict.fromkeys(blobs, math.inf)
    for _ in range(runs + 1):
        for name in blobs:
            extractor = net.create_extractor()
            extractor.input(architecture.input, library.Mat(data[0]).clone())
            start = time.perf_counter()
            extractor.extract(name + INNER if name in inner else name)
            least[name] = min(least[name], time.perf_counter() - start)
    ends = [0.0, *least.values()]
    return {name: end - before for name, before, end in zip(blobs, ends, ends[1:], strict=False)}


def along(architecture: Architecture) -> list[str]:
    """The blobs from the image straight on, as far as each is made of the one before."""
    found = [architecture.input]
    for layer in architecture.layers:
        if layer.bottoms[0] == found[-1] and layer.name in architecture.blobs:
            found.append(layer.name)
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", nargs="?")
    parser.add_argument("--size", default="375x500")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    size = Size().convert(given.size, None, None)
    with tempfile.TemporaryDirectory(prefix="segtwin-bench-") as name:
        folder = Path(name)
        weights = segtwin_weights.read(given.weights or drawn("fcn8s", name))
        architecture = get_architecture(segtwin_weights.network_of(weights))
        channels = segtwin_weights.dimensions(weights, architecture).in_channels
        data = np.random.default_rng(0).uniform(-120, 130, (1, channels, *size)).astype(np.float32)
        onnx_table.write(weights, architecture, folder / "network.onnx")
        ncnn_file.write(weights, architecture, folder / "network.ncnn")
        del weights
        whole, inner = (multiplications(architecture, size, leave_out) for leave_out in (False, True))
        operators = of_onnxruntime(folder / "network.onnx", data, given.runs, folder)
        everything, chain = sum(operators.values()), along(architecture)
        parts = of_ncnn(folder / "network.ncnn", architecture, data, given.runs, [*chain, architecture.output])
    columns = ("layer", "products, 10⁹", "left out, 10⁹", "ONNX Runtime s", "ncnn s", "ncnn, 10⁹ a second")
    table = Table(*columns)
    for blob in (name for name in chain if name in inner):
        before = chain[chain.index(blob) - 1]
        took = parts[blob] + (parts[before] if before not in inner and before in parts else 0)
        table.add_row(
            blob, f"{whole[blob] / 1e9:.2f}", f"{(whole[blob] - inner[blob]) / 1e9:.2f}",
            f"{operators.pop(blob, 0):.3f}", f"{took:.3f}", f"{inner[blob] / took / 1e9:.0f}" if took else "",
        )  # fmt: skip
    heads = sum(count for name, count in inner.items() if name not in chain)
    table.add_row(
        "the rest", f"{heads / 1e9:.2f}", "", f"{sum(operators.values()):.3f}", f"{parts[architecture.output]:.3f}", ""
    )
    one, other, total = sum(whole.values()), sum(inner.values()), sum(parts.values())
    table.add_row(
        "all", f"{one / 1e9:.1f}", f"{(one - other) / 1e9:.1f} ({(one - other) / one:.1%})",
        f"{everything:.2f}", f"{total:.2f}", f"{other / total / 1e9:.0f}",
    )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
