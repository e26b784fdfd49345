"""Measure what the tests assert, and print it as the README's table: `python
parity_tests/proven.py`, and `python parity_tests/proven.py zoo` for the networks of other repositories.

For every golden of a network (of real Caffe, or of the original TensorFlow 1 or torch code) and
every engine: the largest distance of any blob from the original, in noise floors (the tests allow
4); the largest distance of both twins with their vendors' default kernels, and what these are
allowed (`segtwin.noise`); the largest relative error; and how far the float64 twins are apart. At
full width the latter is left out (for vggfcn*, whose goldens have no other, it is that of narrow
networks).
"""

import gc
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import conftest  # noqa: F401 - torch before TensorFlow
from goldens import (
    FULL,
    TINY,
    Golden,
    caffe_goldens,
    fcn8vgg_golden,
    fcn8vgg_goldens,
    unet_goldens,
    unet_paper_goldens,
    vggfcn_goldens,
    zoo_goldens,
)
from segtwin import noise, oracle
from segtwin_engines.facts import machine
from segtwin_engines.loading import start
from segtwin_weights import dimensions, initialize
from test_fcn_caffe import NETWORKS
from test_referee import GOLDENS as OPENCV
from test_referee import opencv

from engines import ENGINES, TWINS, exported, keras_engine, made, model, torch_engine

NAMES = [
    "PyTorch",
    "Keras",
    "ONNX (torch)",
    "ONNX (Keras)",
    "PyTorch, default kernels",
    "Keras, default kernels",
    "these are allowed",
]
CAFFE, TF1, TORCH = "real Caffe", "the original TF1 code", "the original torch code"


def goldens() -> Iterator[tuple[str, str, Sequence[Golden]]]:
    """What is printed, a line each: how it is called, what it is compared with, and its goldens."""
    for architecture in NETWORKS:
        yield f"{architecture}, narrow", CAFFE, caffe_goldens(architecture)
    yield "fcn8s, full width", CAFFE, caffe_goldens("fcn8s", "full")
    yield "fcn8-vgg, narrow", TF1, fcn8vgg_goldens()
    yield "fcn8-vgg, full width", TF1, [fcn8vgg_golden("full_c21_1x375x500")]
    for architecture in ("vggfcn32", "vggfcn16", "vggfcn8"):
        yield f"{architecture}, full width", TORCH, vggfcn_goldens(architecture)
    yield "unet-paper, narrow", CAFFE, unet_paper_goldens()
    yield "unet, full width", TORCH, unet_goldens("unet_*.npz")
    yield "unet-small, full width", TORCH, unet_goldens("unetsmall_*.npz")
    yield "resnet34-unet, full width", TORCH, unet_goldens("resnet34_unet_*.npz")


def measure(goldens: Sequence[Golden]) -> str:
    """The numbers of a line."""
    ratios = dict.fromkeys(ENGINES, 0.0)
    defaults = dict.fromkeys(TWINS, 0.0)
    worst = apart = allowed = 0.0
    for golden in goldens:
        name, weights = golden.architecture.name, golden.weights
        for engine in ENGINES:
            errors = golden.errors(engine(name, weights, golden.data))
            ratios[engine] = max(ratios[engine], *errors.values())
            worst = max(worst, *(error * golden.floors[blob] for blob, error in errors.items()))
        bounds = noise.default_bounds(golden.architecture, weights)
        allowed = max(allowed, *(bounds[name] for name in golden.architecture.blobs))
        for framework, twin in TWINS.items():
            blobs = twin.blobs(model(framework, name, weights), golden.data, caffe=False)
            defaults[framework] = max(defaults[framework], *golden.errors(blobs).values())
        if (full := dimensions(weights, golden.architecture).widths == FULL) and name.startswith("vggfcn"):
            weights, full = initialize(golden.architecture, widths=TINY, seed=1), False
        if not full:
            twins = [engine(name, weights, golden.data, "float64") for engine in (torch_engine, keras_engine)]
            apart = max(apart, *(oracle.relative_error(twins[0][blob], twins[1][blob]) for blob in twins[0]))
    blobs = sum(len(golden.blobs) for golden in goldens)
    engines = " | ".join(f"{ratio:.2f}" for ratio in (*ratios.values(), *defaults.values())) + f" | {allowed:.1f}"
    return f"{blobs} | {engines} | {worst:.1e} | {f'{apart:.1e}' if apart else '–'} |"


def main() -> None:
    print(f"Measured on {machine()['processor']}.\n")
    print(f"| network | compared with | input sizes | blobs | {' | '.join(NAMES)} | largest error | float64 twins |")
    print("|---|---|---|---:|" + "---:|" * len(NAMES) + "---:|---:|")
    for name, original, those in goldens():
        sizes = ", ".join(
            dict.fromkeys("×".join(str(golden.data.shape[axis]) for axis in (0, 2, 3)) for golden in those)
        )
        print(f"| {name} | {original} | {sizes} | {measure(those)}", flush=True)
        for cache in (model, exported):
            cache.cache_clear()
        gc.collect()


def zoo() -> None:
    """The networks of other repositories: against their own code, at their own width."""
    print(f"Measured on {machine()['processor']}.\n")
    print("| network | repository, class | parameters | goldens | PyTorch | Keras | ONNX Runtime | largest error |")
    print("|---|---|---:|---|---:|---:|---:|---:|")
    every = zoo_goldens()
    for name in dict.fromkeys(golden.architecture.name for golden in every):
        those = [golden for golden in every if golden.architecture.name == name]
        architecture = those[0].architecture
        sizes = ", ".join("×".join(map(str, golden.data.shape)) for golden in those)
        ratios = [0.0, 0.0, 0.0]
        worst = 0.0
        for golden in those:
            runs = [twin.blobs(made(framework, name, golden.weights), golden.data) for framework, twin in TWINS.items()]
            runs.append(start("onnxruntime", architecture, golden.weights).blobs(golden.data))
            for number, blobs in enumerate(runs):
                held = [key for key in golden.blobs if golden.source(key) in blobs]
                errors = [oracle.relative_error(golden.stored(key, blobs), golden.blobs[key]) for key in held]
                floors = [golden.floors[key] for key in held]
                ratios[number] = max(ratios[number], *(a / b for a, b in zip(errors, floors, strict=True)))
                worst = max(worst, *errors)
        learned = [
            p
            for p in architecture.parameters()
            if "running" not in p.name and not p.name.endswith("num_batches_tracked")
        ]
        count = sum(math.prod(p.shape) for p in learned)
        where = architecture.source.split(" ", 1)
        cells = [f"`{name}`", f"{where[0]}: {where[1]}", f"{count:,}", sizes, *(f"{one:.2f}" for one in ratios)]
        print(f"| {' | '.join(cells)} | {worst:.1e} |", flush=True)
        gc.collect()


def referee() -> None:
    """OpenCV on the exported Caffe files, with and without its Winograd convolutions."""
    for winograd in (False, True):
        ratios = []
        for golden in OPENCV:
            with tempfile.TemporaryDirectory() as folder:
                score = opencv(golden.architecture.name, golden.weights, golden.data, Path(folder), winograd)
            wanted = golden.architecture.output
            error = oracle.relative_error(golden.stored(wanted, {wanted: score}), golden.blobs[wanted])
            ratios.append(error / golden.floors[wanted])
        print(
            f"OpenCV on the exported files, Winograd {'on' if winograd else 'off'}: {max(ratios):.2f} floors from "
            "real Caffe at most"
        )


if __name__ == "__main__":
    if sys.argv[1:] == ["zoo"]:
        zoo()
    else:
        main()
        referee()
