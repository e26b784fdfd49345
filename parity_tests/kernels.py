"""How near to their bounds both twins come when their kernels are those of other CPUs.

    PYTHONPATH=parity_tests python parity_tests/kernels.py [SETTING…]

oneDNN, MKL and PyTorch can be told to leave newer instructions alone, so one CPU stands for several
older ones. Each setting runs in a process of its own; a line is the worst error of any blob in its
bound (above 1 it is missed): as Caffe computes (`noise.BOUND`), and with the vendors' default
kernels (`noise.default_bounds`). Errors are distances from the originals' float32, in noise floors.
"""

from __future__ import annotations

import os
import subprocess
import sys

SETTINGS = (
    "", "TF_ENABLE_ONEDNN_OPTS=0", "ONEDNN_MAX_CPU_ISA=SSE41", "ONEDNN_MAX_CPU_ISA=AVX2",
    "ONEDNN_MAX_CPU_ISA=AVX512_CORE",
    "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16", "ATEN_CPU_CAPABILITY=default", "ATEN_CPU_CAPABILITY=avx2",
    "MKL_CBWR=COMPATIBLE",
    "OMP_NUM_THREADS=1", "OMP_NUM_THREADS=2",
    "ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE OMP_NUM_THREADS=1",
)  # fmt: skip
"""Of the environment; the last is the oldest CPU that can be had here."""
COLUMNS = ("PyTorch", "Keras", "PyTorch (default kernels)", "Keras (default kernels)")


def measure() -> None:
    """The worst ratio of each column in this process, and where it is."""
    import conftest  # noqa: F401 - torch before TensorFlow
    from goldens import caffe_goldens, fcn8vgg_goldens, unet_goldens, unet_paper_goldens, vggfcn_goldens
    from segtwin import noise
    from test_fcn_caffe import NETWORKS

    from engines import TWINS, model

    goldens = [golden for architecture in NETWORKS for golden in caffe_goldens(architecture)]
    goldens += [
        *fcn8vgg_goldens(),
        *unet_paper_goldens(),
        *unet_goldens("unet_*.npz"),
        *unet_goldens("unetsmall_*.npz"),
    ]
    goldens += [*unet_goldens("resnet34_unet_*.npz"), *vggfcn_goldens("vggfcn16")]
    worst = dict.fromkeys(COLUMNS, (0.0, ""))
    for golden in goldens:
        bounds = noise.default_bounds(golden.architecture, golden.weights)
        for column in COLUMNS:
            caffe, framework = "default" not in column, "torch" if "PyTorch" in column else "keras"
            twin = TWINS[framework].blobs(
                model(framework, golden.architecture.name, golden.weights), golden.data, caffe=caffe
            )
            for name, error in golden.errors(twin).items():
                worst[column] = max(
                    worst[column],
                    (error / (noise.BOUND if caffe else bounds[name]), f"{golden.architecture.name} {name}"),
                )
    print(" | ".join(f"{ratio:.2f} ({where})" for ratio, where in worst.values()), flush=True)


def main() -> None:
    """A line of Markdown for each setting."""
    if sys.argv[1:] == ["measure"]:
        return measure()
    print(f"| setting | {' | '.join(COLUMNS)} |")
    print("|---|" + "---|" * len(COLUMNS), flush=True)
    for setting in sys.argv[1:] or SETTINGS:
        environment = os.environ | dict(one.split("=", 1) for one in setting.split())
        done = subprocess.run(
            [sys.executable, __file__, "measure"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
        print(f"| {setting or 'none'} | {done.stdout.splitlines()[-1]} |", flush=True)
    return None


if __name__ == "__main__":
    main()
