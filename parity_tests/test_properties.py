"""What holds of every network in both frameworks, whatever its sizes: shapes, batches, and weights that go through
models and files without the loss of a bit. Hypothesis draws them."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import segtwin_weights
from drawn_networks import EXACT, NETWORKS, data_for, drawn, every, size_for
from hypothesis import given, settings
from hypothesis import strategies as st
from segtwin import oracle
from segtwin.architectures import get_architecture
from segtwin_weights import Weights
from segtwin_weights.formats import prototxt

from engines import TWINS


@pytest.mark.parametrize("name", NETWORKS)
@settings(every, max_examples=2)
@given(draw=st.data())
def test_the_twins_give_the_predicted_shapes_and_do_not_mix_images(name: str, draw: st.DataObject) -> None:
    """In float64, where nothing but a mistake is larger than rounding."""
    architecture = get_architecture(name)
    weights = drawn(architecture, draw.draw)
    size = segtwin_weights.dimensions(weights, architecture)
    height, width = size_for(architecture, draw.draw, most=24)
    data = data_for(weights, architecture, 2, height, width).astype(np.float64)
    shapes = architecture.shapes(height, width, size.num_classes, size.widths)
    for twin in TWINS.values():
        model = twin.build(name, **size._asdict(), weights=weights, dtype="float64")
        found = twin.blobs(model, data)
        assert {blob: array.shape[1:] for blob, array in found.items() if blob != architecture.input} == {
            blob: shapes[blob] for blob in found if blob != architecture.input
        }
        alone = twin.blobs(model, data[1:])[architecture.output]
        assert oracle.relative_error(found[architecture.output][1:], alone) < EXACT


@pytest.mark.parametrize("name", NETWORKS)
@settings(every, max_examples=2)
@given(draw=st.data())
def test_weights_go_through_both_frameworks_and_every_format_bit_by_bit(name: str, draw: st.DataObject) -> None:
    """The smallest numbers of float32, minus zero and the largest among them."""
    architecture = get_architecture(name)
    start = drawn(architecture, draw.draw)
    odd = np.array([1e-45, -1e-40, -0.0, np.finfo(np.float32).max, np.finfo(np.float32).tiny], np.float32)
    blobs = {}
    for key, blob in start.items():
        blobs[key] = blob.copy()
        if blob.dtype == np.float32 and not key.startswith(("upscore", "scale_")) and "var" not in key:
            blobs[key].flat[0] = odd[draw.draw(st.integers(0, len(odd) - 1))]
    for key, owner in architecture.aliases.items():
        blobs[key] = blobs[owner].reshape(blobs[key].shape)
    weights = Weights(blobs, start.metadata)
    with tempfile.TemporaryDirectory() as folder:
        if name != "vgg16":
            for framework, twin in TWINS.items():
                model = twin.build(name, **segtwin_weights.dimensions(weights, architecture)._asdict(), weights=weights)
                same_bits(twin.read_weights(model), weights)
                file = Path(folder) / f"own{'.pth' if framework == 'torch' else '.weights.h5'}"
                twin.save_checkpoint(model, file)
                same_bits(segtwin_weights.read(file), weights)
        endings = [".safetensors", ".pth"]
        endings += [".weights.h5", ".caffemodel"] if prototxt.writable(architecture) else []
        endings += [".npy"] if name == "vgg16" else []
        for ending in endings:
            file = Path(folder) / f"w{ending}"
            segtwin_weights.write(weights, file)
            same_bits(segtwin_weights.read(file), weights)


def same_bits(got: Weights, want: Weights) -> None:
    assert got.keys() == want.keys()
    for name, blob in want.items():
        assert got[name].dtype == blob.dtype, name
        assert got[name].shape == blob.shape, name
        assert got[name].tobytes() == blob.tobytes(), name
