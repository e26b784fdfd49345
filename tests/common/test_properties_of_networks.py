"""What holds of every network, whatever its sizes: the numpy oracle on images, batches, classes and widths that
Hypothesis draws."""

import numpy as np
import pytest
import segtwin
import segtwin_weights
from drawn_networks import EXACT, NETWORKS, data_for, drawn, every, size_for
from hypothesis import given, settings
from hypothesis import strategies as st
from segtwin import backward, oracle
from segtwin.architectures import get_architecture
from segtwin.losses import binary_cross_entropy, softmax_with_loss
from segtwin.solver import trained
from segtwin_weights import Weights

CAFFE = ["fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce"]


@pytest.mark.parametrize("name", NETWORKS)
@settings(every, max_examples=8)
@given(draw=st.data())
def test_sizes_are_as_the_table_predicts_and_images_do_not_meet(name: str, draw: st.DataObject) -> None:
    """Every blob's shape follows from the layers' formulas; and each image of a batch is computed as if alone."""
    architecture = get_architecture(name)
    weights = drawn(architecture, draw.draw)
    size = segtwin_weights.dimensions(weights, architecture)
    height, width = size_for(architecture, draw.draw)
    images = draw.draw(st.integers(1, 3))
    data = data_for(weights, architecture, images, height, width)
    found = oracle.run(architecture, weights, data)
    predicted = architecture.shapes(height, width, size.num_classes, size.widths)
    assert {blob: array.shape[1:] for blob, array in found.items() if blob != architecture.input} == {
        blob: shape for blob, shape in predicted.items() if blob != architecture.input
    }
    assert all(len(array) == images for array in found.values())
    if architecture.keeps_size:
        assert found[architecture.output].shape[2:] == (height, width)
    one = draw.draw(st.integers(0, images - 1))
    alone = oracle.run(architecture, weights, data[one : one + 1])[architecture.output]
    assert oracle.relative_error(found[architecture.output][one : one + 1], alone) < EXACT


@pytest.mark.parametrize("name", CAFFE)
@settings(every, max_examples=3)
@given(draw=st.data())
def test_an_image_moved_by_32_pixels_has_its_scores_moved_by_32(name: str, draw: st.DataObject) -> None:
    """The five poolings and the crops keep the grid: their offsets are those of the coordinate maps. On black canvases,
    and without biases, so that the padding of every layer is what lies around the image; but for the border, where the
    last upscore has coarse scores on one side alone."""
    architecture = get_architecture(name)
    held = drawn(architecture, draw.draw, widest=2)
    weights = {blob: array * 0 if blob.endswith("bias") else array for blob, array in held.items()}
    height, width = draw.draw(st.integers(1, 40)), draw.draw(st.integers(1, 40))
    down, right = (32 * draw.draw(st.integers(0, 1)) for _ in range(2))
    image = data_for(held, architecture, 1, height, width)
    still, moved = (np.zeros((*image.shape[:2], height + 160, width + 160), np.float32) for _ in range(2))
    still[:, :, 64 : 64 + height, 64 : 64 + width] = image
    moved[:, :, 64 + down : 64 + down + height, 64 + right : 64 + right + width] = image
    before, after = (oracle.run(architecture, weights, data)[architecture.output] for data in (still, moved))
    part = before[:, :, 48 : height + 80, 48 : width + 80]
    assert np.abs(part).max() > 0
    gone = after[:, :, 48 + down : height + 80 + down, 48 + right : width + 80 + right]
    assert oracle.relative_error(gone, part) < EXACT


@settings(every, max_examples=6)
@given(draw=st.data())
def test_a_part_of_the_image_has_that_part_of_the_papers_map(draw: st.DataObject) -> None:
    """Valid convolutions: what is cut off by multiples of 16 has no part in what is left, and tiles are the whole."""
    architecture = get_architecture("unet-paper")
    weights = drawn(architecture, draw.draw, widest=2)
    rows, columns = (188 + 16 * draw.draw(st.integers(1, 3)) for _ in range(2))
    down, right = draw.draw(st.integers(0, (rows - 188) // 16)), draw.draw(st.integers(0, (columns - 188) // 16))
    data = data_for(weights, architecture, 1, rows, columns)
    whole = oracle.run(architecture, weights, data)[architecture.output]
    part = oracle.run(architecture, weights, data[:, :, 16 * down :, 16 * right :])[architecture.output]
    assert oracle.relative_error(part, whole[:, :, 16 * down :, 16 * right :]) < EXACT

    height, width = draw.draw(st.integers(1, 30)), draw.draw(st.integers(1, 30))
    image = data_for(weights, architecture, 1, height, width)
    tile = 204 + 16 * draw.draw(st.integers(0, 1)), 204 + 16 * draw.draw(st.integers(0, 1))

    def network(x: np.ndarray) -> np.ndarray:
        return oracle.run(architecture, weights, x)[architecture.output]

    tiled, untiled = (segtwin.overlap_tile(network, image, size) for size in (tile, (252, 252)))
    assert tiled.shape[2:] == (height, width)
    assert oracle.relative_error(tiled, untiled) < EXACT


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "segnet"])  # see `backward.unpooling`
@settings(every, max_examples=2)
@given(draw=st.data())
def test_gradients_are_the_differences_that_they_predict(name: str, draw: st.DataObject) -> None:
    """In float64, along a random direction of all weights at once; at most one part in 10⁴ off, which a kink (a ReLU,
    a maximum) on the way of 10⁻⁷ could cost."""
    architecture = get_architecture(name)
    weights = {blob: one.astype(np.float64) for blob, one in drawn(architecture, draw.draw).items()}
    height, width = size_for(architecture, draw.draw, most=20)
    size = segtwin_weights.dimensions(Weights(weights), architecture)
    data = np.random.default_rng(4).uniform(-1, 1, (2, size.in_channels, height, width))
    shape = (2, *architecture.shapes(height, width, size.num_classes, size.widths)[architecture.output])
    binary = architecture.binary(size.num_classes)
    loss = binary_cross_entropy if binary else softmax_with_loss
    channels, classes = (shape[1], 2) if binary else (1, shape[1])
    label = np.random.default_rng(5).integers(0, classes, (2, channels, *shape[2:]))
    _, slopes = backward.gradients(architecture, weights, data, label, loss)
    assert slopes.keys() >= {one.name for one in trained(architecture)}
    random = np.random.default_rng(6)
    way = {blob: random.normal(0, 1, one.shape) * np.abs(weights[blob]).max() for blob, one in slopes.items()}
    step = 1e-7
    ahead, behind = (
        backward.gradients(
            architecture, {**weights, **{b: weights[b] + sign * step * w for b, w in way.items()}}, data, label, loss
        )[0]
        for sign in (1, -1)
    )
    predicted = sum(float((slopes[blob] * one).sum()) for blob, one in way.items())
    scale = sum(float(np.abs(slopes[blob] * one).sum()) for blob, one in way.items())
    assert abs((ahead - behind) / (2 * step) - predicted) <= 1e-4 * scale
