"""Train both twins on the same images and compare their losses: `python benchmarks/twin_training.py DATA
[--steps 100] [--picture FILE.png]`.

Same weights, order and augmentation. In float64 what is left is rounding; in float32 the vendors' kernels
round differently, and training magnifies it: the picture shows how fast.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import segtwin_torch  # before TensorFlow: triton has to be there first

import segtwin_keras  # isort: skip

TWINS = {"torch": segtwin_torch, "keras": segtwin_keras}


def losses(framework: str, data: Path, dtype: str, steps: int) -> np.ndarray:
    with tempfile.TemporaryDirectory() as run:
        TWINS[framework].train(
            "unet-small", data, run, overwrite=True, steps=steps, batch=2, crop=(128, 128), elastic=10.0,
            seed=0, dtype=dtype, validate_every=steps, val="5",
        )  # fmt: skip
        return np.array([loss for _, loss, _ in json.loads((Path(run) / "log.json").read_text())["steps"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    found = {
        (framework, dtype): losses(framework, given.data, dtype, given.steps)
        for dtype in ("float64", "float32")
        for framework in TWINS
    }
    want = found["torch", "float64"]
    apart = {
        "Keras from torch, float64": np.abs(found["keras", "float64"] - want) / want,
        "Keras from torch, float32": np.abs(found["keras", "float32"] - found["torch", "float32"]) / want,
        "torch, float32 from float64": np.abs(found["torch", "float32"] - want) / want,
        "Keras, float32 from float64": np.abs(found["keras", "float32"] - want) / want,
    }
    print(f"unet-small, {given.steps} steps of 2 crops 128×128; loss {want[0]:.4f} → {want[-1]:.4f}")
    for name, distance in apart.items():
        print(f"{name}: {distance[0]:.1e} after 1 step, at most {distance.max():.1e}")
    if given.picture:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        steps = np.arange(1, given.steps + 1)
        for (framework, dtype), values in found.items():
            style = {"linestyle": "-" if framework == "torch" else "--", "linewidth": 1.2}
            left.plot(steps, values, label=f"{framework}, {dtype}", **style)
        left.set(xlabel="step", ylabel="loss", title="four trainings")
        left.legend(frameon=False)
        for name, distance in apart.items():
            right.semilogy(steps, np.maximum(distance, 1e-17), label=name, linewidth=1.2)
        right.set(xlabel="step", title="distance of the losses, relative", ylim=(1e-17, 1))
        right.legend(frameon=False, fontsize=8, loc="center right")
        FigureCanvasAgg(figure).print_figure(given.picture, dpi=110, format="png")


if __name__ == "__main__":
    main()
