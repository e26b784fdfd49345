"""Someone else's Caffe reader: OpenCV runs the exported prototxt and .caffemodel, and computes what
Caffe computed."""

import cv2
import numpy as np
import pytest
import segtwin_weights
from goldens import FOLDER, LEAST_FLOOR, TINY, CaffeGolden, caffe_goldens, recipe, recipe_weights
from segtwin import oracle
from segtwin.architectures import get_architecture, list_architectures
from segtwin_weights import Weights
from segtwin_weights.formats import prototxt

NETWORKS = [name for name in list_architectures() if prototxt.writable(get_architecture(name))]
GOLDENS = [
    golden
    for architecture in NETWORKS
    if any((FOLDER / "caffe").glob(f"fwd_tiny_{architecture}_s*.npz"))
    for golden in caffe_goldens(architecture)
]
FLOAT32_NOISE = 5e-6
"""No network here rounds worse in float32 (golden/README.md: Caffe's own at most 2e-6, 5e-6 for a
softmax): a larger floor would excuse a bug."""


def opencv(architecture: str, weights: Weights, data: np.ndarray, folder, winograd: bool = False) -> np.ndarray:
    """The network's output by OpenCV, from the files alone."""
    segtwin_weights.write(weights, folder / "w.caffemodel")
    net = cv2.dnn.readNetFromCaffe(str(folder / "w.deploy.prototxt"), str(folder / "w.caffemodel"))
    net.enableWinograd(winograd)
    net.setInput(data)
    return net.forward(get_architecture(architecture).output)


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_opencv_computes_what_caffe_computed(golden: CaffeGolden, tmp_path) -> None:
    """Measured: 1 … 2 noise floors of Caffe. A Crop one pixel off, or fixed weights left out, are
    thousands."""
    output = golden.architecture.output
    score = opencv(golden.architecture.name, golden.weights, golden.data, tmp_path)
    assert score.shape == golden.shapes[output]
    assert (
        oracle.relative_error(golden.stored(output, {output: score}), golden.blobs[output]) < 4 * golden.floors[output]
    )


@pytest.mark.parametrize("architecture", NETWORKS)
def test_opencv_runs_every_caffe_row(architecture: str, tmp_path) -> None:
    """Against the numpy oracle's float64; the floor is that of numpy's own float32."""
    table = get_architecture(architecture)
    weights = recipe_weights(table, TINY if len(table.widths) == len(TINY) else recipe.TINY_UNET, seed=2)
    height, width = (60, 45) if table.keeps_size else (188, 204)
    data = recipe.caffe_input((1, table.in_channels, height, width), 2)
    truth, rounded = (oracle.run(table, weights, data, dtype)[table.output] for dtype in ("float64", "float32"))
    floor = max(oracle.relative_error(rounded, truth), LEAST_FLOOR)
    assert floor < FLOAT32_NOISE
    assert oracle.relative_error(opencv(architecture, weights, data, tmp_path), truth) < 4 * floor
