"""Measure what the tests assert, and print it as the README's table: `python parity_tests/proven.py`.

For every Caffe golden of a network and every engine: the largest distance of any blob from real Caffe, in noise floors (the tests allow 4);
the largest relative error; and how far the float64 twins are apart.
"""

import conftest  # noqa: F401 - torch before TensorFlow
from engines import ENGINES, keras_engine, torch_engine
from goldens import CaffeGolden, caffe_goldens
from segtwin import oracle
from test_fcn_caffe import ROWS

NAMES = ["PyTorch", "Keras", "ONNX (torch)", "ONNX (Keras)"]


def measure(goldens: list[CaffeGolden]) -> str:
    ratios = dict.fromkeys(ENGINES, 0.0)
    worst = apart = 0.0
    for golden in goldens:
        for engine in ENGINES:
            blobs = engine(golden.row.name, golden.weights, golden.data)
            ratios[engine] = max(ratios[engine], *golden.errors(blobs).values())
            worst = max(worst, *(oracle.relative_error(golden.thin(name, blobs[name]), want) for name, want in golden.blobs.items()))
        if golden.widths != (64, 128, 256, 512, 512, 4096, 4096):
            twins = [engine(golden.row.name, golden.weights, golden.data, "float64") for engine in (torch_engine, keras_engine)]
            apart = max(apart, *(oracle.relative_error(twins[0][name], twins[1][name]) for name in twins[0]))
    blobs = sum(len(golden.blobs) for golden in goldens)
    engines = " | ".join(f"{ratio:.2f}" for ratio in ratios.values())
    return f"{blobs} | {engines} | {worst:.1e} | {f'{apart:.1e}' if apart else '–'} |"


def main() -> None:
    print(f"| network | input sizes | blobs | {' | '.join(NAMES)} | largest error | float64 twins |")
    print("|---|---|---:|" + "---:|" * len(NAMES) + "---:|---:|")
    for row in ROWS:
        goldens = caffe_goldens(row)
        sizes = ", ".join("×".join(str(golden.shapes["data"][i]) for i in (0, 2, 3)) for golden in goldens)
        print(f"| {row}, narrow | {sizes} | {measure(goldens)}", flush=True)
    for golden in caffe_goldens("fcn8s", "full"):
        print(f"| {golden.row.name}, full width | 1×375×500 | {measure([golden])}", flush=True)


if __name__ == "__main__":
    main()
