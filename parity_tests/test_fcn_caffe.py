"""The FCNs against real Caffe, blob by blob, in four engines."""

import numpy as np
import pytest
from goldens import CaffeGolden, caffe_goldens
from segtwin import noise, oracle

from engines import ENGINES, TWINS, keras_engine, model, scores, torch_engine

NETWORKS = ["fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce"]
GOLDENS = [golden for architecture in NETWORKS for golden in caffe_goldens(architecture)]


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.__name__)
def test_every_blob_is_caffes(golden: CaffeGolden, engine) -> None:
    """Real engines stay within about 1.6 noise floors of Caffe; 4 is the bound, and a pixel's shift
    or a bias is thousands."""
    blobs = engine(golden.architecture.name, golden.weights, golden.data)
    assert {name: blob.shape for name, blob in blobs.items()} == golden.shapes
    errors = golden.errors(blobs)
    assert max(errors.values()) < 4, errors
    # the files thin out large blobs, and sums of absolute values cover the rest; there rounding averages out
    for name, blob in blobs.items():
        assert np.abs(blob).sum(dtype=np.float64) == pytest.approx(golden.stats[name][1], rel=2e-6), name
    # the classes, where the two best scores differ by more than the bound allows for
    want, scale = golden.file["score_argmax"], float(np.abs(golden.blobs["score"]).max())
    second, first = np.sort(blobs["score"], axis=1)[:, -2:].transpose(1, 0, 2, 3)
    clear = first - second > 8 * golden.floors["score"] * scale
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(blobs["score"].argmax(1)[clear], want[clear])


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
@pytest.mark.parametrize("framework", TWINS)
def test_a_call_of_the_model_gives_caffes_scores(golden: CaffeGolden, framework: str) -> None:
    """It leaves out what sees padding alone. Default kernels may add up all products of an output in one number."""
    network = model(framework, golden.architecture.name, golden.weights)
    got = golden.stored("score", {"score": scores(framework, network, golden.data)})
    error = oracle.relative_error(got, golden.blobs["score"]) / golden.floors["score"]
    assert error < noise.default_bounds(golden.architecture, golden.weights)["score"]


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_the_twins_agree_in_float64(golden: CaffeGolden) -> None:
    torch64 = torch_engine(golden.architecture.name, golden.weights, golden.data, "float64")
    keras64 = keras_engine(golden.architecture.name, golden.weights, golden.data, "float64")
    truth = oracle.run(golden.architecture, golden.weights, golden.data)
    assert list(torch64) == list(keras64) == list(truth)
    for name, want in truth.items():
        assert torch64[name].dtype == keras64[name].dtype == np.float64
        assert oracle.relative_error(torch64[name], keras64[name]) < 1e-12, name
        assert oracle.relative_error(torch64[name], want) < 1e-12, name
