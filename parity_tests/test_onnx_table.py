"""The ONNX graph that is written from the table of layers: every blob is the original's, on any size."""

from pathlib import Path

import numpy as np
import pytest
import segtwin_weights
from drawn_networks import data_for, drawn, every, size_for
from goldens import TINY, caffe_goldens, places_of, unet_goldens, unet_paper_goldens
from hypothesis import given, settings
from hypothesis import strategies as st
from segtwin import noise, oracle
from segtwin.architectures import get_architecture, list_architectures
from segtwin.errors import WeightsError
from segtwin_engines.loading import start
from segtwin_weights import Weights, onnx_table
from segtwin_weights.onnx_check import onnx_values

FCNS = ("fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce")
GOLDENS = [
    *(golden for name in FCNS for golden in caffe_goldens(name)),
    *unet_paper_goldens()[:1],
    *unet_goldens("unetsmall_*.npz")[:1],
    *unet_goldens("resnet34_unet_*.npz")[:1],
]
NEAR = 2e-5
"""Of a blob's largest value: float32 sums of a few hundred products; a wrong pixel is beyond."""


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_every_blob_is_the_originals(golden) -> None:
    engine = start("onnxruntime", golden.architecture, golden.weights)
    blobs = engine.blobs(golden.data)
    assert list(blobs) == list(golden.architecture.exported)
    allowed = noise.default_bounds(golden.architecture, golden.weights)
    for name, error in golden.errors(blobs).items():
        assert error < allowed[golden.source(name)], name
    np.testing.assert_array_equal(engine.scores(golden.data), blobs[golden.architecture.output])


@pytest.mark.parametrize("network", list_architectures())
def test_sizes_and_batches_are_free(network: str, tmp_path: Path) -> None:
    architecture = get_architecture(network)
    assert onnx_table.writable(architecture)

    @settings(every, max_examples=8 if architecture.widths else 2)  # resnet34-unet has its own widths alone
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        weights = drawn(architecture, data.draw)
        file = tmp_path / "network.onnx"
        file.unlink(missing_ok=True)
        onnx_table.write(weights, architecture, file)
        image = data_for(weights, architecture, data.draw(st.integers(1, 2)), *size_for(architecture, data.draw))
        got = onnx_values(file, image, architecture.exported)
        assert list(got) == list(architecture.exported)
        with places_of(got):
            truth = oracle.run(architecture, weights, image)
        for name, want in truth.items():
            if name in got:
                assert oracle.relative_error(got[name], want) < NEAR, (name, image.shape)

    holds()


def test_the_file_says_what_it_is_and_holds_the_weights(tmp_path: Path) -> None:
    weights = segtwin_weights.initialize("fcn8s", widths=TINY, num_classes=5, seed=1)
    onnx_table.write(weights, get_architecture("fcn8s"), tmp_path / "network.onnx")
    read = segtwin_weights.read(tmp_path / "network.onnx")
    assert segtwin_weights.network_of(read) == "fcn8s"
    assert read.metadata["num_classes"] == 5
    for name, blob in weights.items():
        np.testing.assert_array_equal(read[name], blob)


def test_numbers_that_float32_has_not_are_refused(tmp_path: Path) -> None:
    weights = segtwin_weights.initialize("fcn8s", widths=TINY, num_classes=5, seed=1)
    huge = Weights({**weights, "conv1_1/bias": np.full(len(weights["conv1_1/bias"]), 1e300)}, weights.metadata)
    with pytest.raises(WeightsError, match="conv1_1/bias"):
        onnx_table.write(huge, get_architecture("fcn8s"), tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())
