"""Measure what the tests assert, and print it as the README's table: `python parity_tests/proven.py`.

For every network and engine: the largest distance of any blob from the reference outputs, in noise floors (the tests allow 4); the largest
relative error; and how far the float64 twins are apart.
"""

import conftest  # noqa: F401 - torch before TensorFlow
from engines import ENGINES, keras_engine, torch_engine
from goldens import caffe_goldens, seed_goldens, unet_paper_goldens
from seed_goldens import fcn8vgg_goldens, vggfcn_goldens
from segtwin import oracle
from test_fcn_caffe import ROWS

NAMES = ["PyTorch", "Keras", "ONNX (torch)", "ONNX (Keras)"]
CAFFE, TF1, TORCH = "real Caffe", "the original TF1 code", "the original torch code"


def measure(goldens, float64: bool = True, onnx: bool = True) -> str:
    ratios, worst, apart, blobs = dict.fromkeys(ENGINES, 0.0), 0.0, 0.0, 0
    for golden in goldens:
        row = golden.row.name
        for engine in ENGINES if onnx else ENGINES[:2]:
            errors = golden.errors(engine(row, golden.weights, golden.data))
            ratios[engine] = max(ratios[engine], *errors.values())
            floor = golden.noise_floor if hasattr(golden, "noise_floor") else golden.floors.__getitem__
            worst = max(worst, *(error * floor(name) for name, error in errors.items()))
        blobs += len(errors)
        if float64:
            left, right = (engine(row, golden.weights, golden.data, "float64") for engine in (torch_engine, keras_engine))
            apart = max(apart, *(oracle.relative_error(left[name], right[name]) for name in left))
    engines = " | ".join(f"{ratio:.2f}" if ratio else "–" for ratio in ratios.values())
    return f"{blobs} | {engines} | {worst:.1e} | {f'{apart:.1e}' if apart else '–'} |"


def sizes(goldens) -> str:
    return ", ".join(dict.fromkeys("×".join(str(golden.data.shape[axis]) for axis in (0, 2, 3)) for golden in goldens))


def main() -> None:
    print(f"| network | compared with | input sizes | blobs | {' | '.join(NAMES)} | largest error | float64 twins |")
    print("|---|---|---|---:|" + "---:|" * len(NAMES) + "---:|---:|")
    for row in ROWS:
        print(f"| {row}, narrow | {CAFFE} | {sizes(caffe_goldens(row))} | {measure(caffe_goldens(row))}", flush=True)
    full = caffe_goldens("fcn8s", "full")
    print(f"| fcn8s, full width | {CAFFE} | {sizes(full)} | {measure(full, float64=False)}", flush=True)
    narrow = [golden for golden in fcn8vgg_goldens() if golden.meta["width"] == "tiny"]
    print(f"| fcn8-vgg, narrow | {TF1} | {sizes(narrow)} | {measure(narrow)}", flush=True)
    for row in ("vggfcn32", "vggfcn16", "vggfcn8"):
        wide = vggfcn_goldens(row)
        print(f"| {row}, full width | {TORCH} | {sizes(wide)} | {measure(wide, float64=False)}", flush=True)
    print(f"| unet-paper, narrow | {CAFFE} | {sizes(unet_paper_goldens())} | {measure(unet_paper_goldens())}", flush=True)
    for row, pattern in (("unet", "unet_*.npz"), ("unet-small", "unetsmall_*.npz"), ("resnet34-unet", "resnet34_unet_*.npz")):
        seed = seed_goldens(pattern)
        print(f"| {row}, full width | {TORCH} | {sizes(seed)} | {measure(seed)}", flush=True)


if __name__ == "__main__":
    main()
