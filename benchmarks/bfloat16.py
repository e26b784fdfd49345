"""What bfloat16 costs in classes: `python benchmarks/bfloat16.py [WEIGHTS DATA] [--part val]`.

The weights, by default those of the demonstration, run in OpenVINO on the graph that is written from the table of
layers, once in float32 and once in bfloat16, on labelled images: their mean IU, and the share of pixels that keep their
class. How fast it is, `segtwin bench` measures. On a processor without AVX512-BF16 or AMX the numbers are the same, and
slow.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import segtwin_weights
from rich.console import Console
from rich.table import Table
from segtwin.architectures import get_architecture
from segtwin_engines import evaluate, onnxruntime, openvino
from segtwin_engines.engine import Engine

ROOT = Path(__file__).parent.parent
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def remembering(engine: Engine, classes: list[np.ndarray]) -> Engine:
    """An engine that puts the class of each pixel into a list."""

    def scores(data: np.ndarray) -> np.ndarray:
        found = engine.scores(data)
        half = 0.5 if engine.output == "probability" else 0.0
        classes.append(found.argmax(1) if found.shape[1] > 1 else found > half)
        return found

    return replace(engine, scores=scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", nargs="?", default=os.fspath(segtwin_weights.DEMO))
    parser.add_argument("data", nargs="?", default=str(ROOT / "docs/nuclei"))
    parser.add_argument("--part")
    given = parser.parse_args()
    weights = segtwin_weights.read(given.weights)
    architecture = get_architecture(segtwin_weights.network_of(weights))
    folder = onnxruntime.export(architecture, weights)
    file = str(folder.path / "network.onnx")
    table, classes = Table("precision", "mean IU", "pixels that keep their class"), {}
    for name, hint in PRECISIONS.items():
        engine = openvino.open_file(file, None, None, True, print)
        scores, _ = openvino.compile_file(file, architecture, {"INFERENCE_PRECISION_HINT": hint})
        classes[name] = []
        found = evaluate(remembering(replace(engine, scores=scores), classes[name]), given.data, part=given.part)
        same = np.concatenate(
            [(one == other).ravel() for one, other in zip(classes["float32"], classes[name], strict=True)]
        )
        table.add_row(name, f"{100 * found.confusion.mean_iou:.2f} %", f"{100 * same.mean():.3f} %")
    Console(width=80).print(table)


if __name__ == "__main__":
    main()
