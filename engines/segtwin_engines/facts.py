"""A comparison as numbers and words, for JSON; parity.schema.json beside this file describes them."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtwin.noise import BOUND

if TYPE_CHECKING:
    from segtwin_engines.comparison import Parity
    from segtwin_engines.measured import Measured

SCHEMA = 1
"""Of the facts; another number where a reader of the JSON would have to change."""
INSTRUCTIONS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16",
    "asimd", "asimdhp", "bf16", "i8mm", "sve", "sve2", "sme",
)  # fmt: skip
"""What decides how fast a processor computes, and how it rounds, as Linux spells it: two of one name need not have the
same."""


def facts_of(parity: Parity) -> dict[str, Any]:
    """Everything but the pictures. What is no number in JSON (NaN, ∞) is null."""
    facts = {
        "schema": SCHEMA,
        "network": parity.architecture.name,
        "engines": list(parity.engines),
        "columns": parity.labels,
        "verdict": "equal" if parity.equal else "DIFFERENT",
        "bound": BOUND,
        "worst": [comparison.verdict for comparison in parity.comparisons],
        "probed": parity.probed,
        "preprocessing": parity.preprocessing,
        "machine": machine(),
        "synthetic": parity.synthetic,
        "weights": {**parity.weights.metadata, "fingerprint": parity.weights.fingerprint()},
        "versions": versions(parity.engines),
        "python": platform.python_version(),
        "comparisons": [
            {
                "image": comparison.image,
                "size": list(comparison.size),
                "blobs": [facts_of_one(one) for one in comparison.blobs],
                "gradients": [facts_of_one(one) for one in comparison.gradients],
                "parameters": [facts_of_one(one) for one in comparison.parameters],
                "losses": comparison.losses,
                "solver": comparison.solver and {"steps": comparison.steps, **comparison.solver.stated()},
                "logits": comparison.logits,
                "agreement": comparison.agreement,
                "disagreements": {
                    engine: {**asdict(one), "worst": [pixel._asdict() for pixel in one.worst]}
                    for engine, one in comparison.disagreements.items()
                },
            }
            for comparison in parity.comparisons
        ],
    }
    return {name: finite(value) for name, value in facts.items()}


def finite(value: Any) -> Any:
    """The same with None in the place of what is no number, and lists for tuples."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def facts_of_one(one: Measured) -> dict[str, Any]:
    """Something measured, with the engines that are beyond their bounds."""
    return {**vars(one), "missed_by": one.missed_by}


def versions(engines: Sequence[str]) -> dict[str, str]:
    """Of what computed."""
    used = {
        "torch": ("torch",),
        "keras": ("tensorflow", "keras"),
        "onnxruntime": ("onnxruntime", "onnx"),
        "openvino": ("openvino", "onnx"),
        "ncnn": ("ncnn",),
        "opencv": ("opencv-python-headless",),
    }
    names = ("segtwin", *(name for engine in engines for name in used.get(engine, ())), "numpy")
    found = {}
    for name in dict.fromkeys(names):
        with suppress(PackageNotFoundError):  # another build of OpenCV has another name
            found[name] = version(name)
    return found


def machine() -> dict[str, str]:
    """The processor and the kernels: roundings are theirs."""
    told: dict[str, str] = {}
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
        told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    model = told.get("model name") or platform.processor() or platform.machine()
    flags = (told.get("flags") or told.get("Features") or "").split()
    wide = " ".join(flag for flag in INSTRUCTIONS if flag in flags)
    kernels = {"instructions": wide} if wide else {}
    if "torch" in sys.modules:
        import torch

        onednn = f"oneDNN {'on' if torch.backends.mkldnn.enabled else 'off'}"
        kernels["PyTorch's kernels"] = f"{onednn}, {torch.backends.cpu.get_cpu_capability()}"
    if "tensorflow" in sys.modules:
        onednn = "off" if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0" else "as TensorFlow decides"
        kernels["TensorFlow's kernels"] = f"oneDNN {onednn}"
    return {"processor": model, **kernels}
