"""Coordinate maps derive the crop offsets; sizes and kernels are Caffe's."""

from fractions import Fraction

import numpy as np
import pytest
from goldens import caffe_goldens
from segtwin import geometry
from segtwin.architectures import Layer, get_architecture
from segtwin.architectures.fcn import crop, upscore
from segtwin.architectures.vgg16 import conv, pool
from segtwin.layer_kinds import coordinate_map, output_size


def test_the_offsets_of_fcn8s_are_derived() -> None:
    assert dict(get_architecture("fcn8s").offsets) == {"score_pool4c": 5, "score_pool3c": 9, "score": 31}


@pytest.mark.parametrize("architecture", ["fcn8s"])
def test_the_offsets_and_shapes_are_caffes(architecture: str) -> None:
    for golden in caffe_goldens(architecture) + (
        caffe_goldens(architecture, "full") if architecture == "fcn8s" else []
    ):
        assert dict(golden.architecture.offsets) == golden.offsets
        height, width = golden.shapes["data"][2:]
        shapes = golden.architecture.shapes(height, width, widths=golden.widths)
        assert {name: shape[1:] for name, shape in golden.shapes.items()} == shapes


def test_the_map_of_a_layer() -> None:
    """Worked by hand: a 3×3 convolution padded by 100 moves pixels by 99; a pooling halves; a
    deconvolution is the inverse of a convolution."""
    assert coordinate_map(conv("c", "data", "c1", pad=100)) == (1, 99)
    assert coordinate_map(pool("p", "data")) == (Fraction(1, 2), Fraction(-1, 4))
    assert coordinate_map(upscore("u", "data", 4, 2)) == (2, Fraction(3, 2))
    look = coordinate_map(Layer("c", "Convolution", ("x",), "c1", kernel=4, stride=2, pad=1))
    back = coordinate_map(Layer("u", "Deconvolution", ("y",), "c1", kernel=4, stride=2, pad=1))
    assert back.after(look) == (1, 0)
    assert look.inverse() == back


def test_a_crop_that_cannot_be_aligned_says_why() -> None:
    up = [pool("p", "data"), upscore("u", "p", 4, 2)]
    with pytest.raises(ValueError, match="scale 1/2, not 1"):
        geometry.crop_offsets([pool("p", "data"), crop("c", "p", like="data")])
    with pytest.raises(ValueError, match="negative"):
        geometry.crop_offsets([*up, crop("c", "data", like="u")])
    with pytest.raises(ValueError, match="not a whole number"):
        geometry.crop_offsets([pool("p", "data"), upscore("u", "p", 3, 2), crop("c", "u", like="data")])
    with pytest.raises(ValueError, match="no ancestor"):
        geometry.crop_offsets([pool("p", "data"), pool("q", "other"), crop("c", "p", like="q")])


def test_poolings_round_up_and_convolutions_down() -> None:
    two = pool("p", "data")
    assert [output_size(two, size) for size in (2, 3, 4, 5)] == [1, 2, 2, 3]
    # the last window has to start inside the image or its first pad
    padded = Layer("p", "Pooling", ("x",), kernel=2, stride=2, pad=1)
    assert [output_size(padded, size) for size in (1, 2, 3)] == [1, 2, 2]
    strided = Layer("c", "Convolution", ("x",), "c1", kernel=3, stride=2)
    assert [output_size(strided, size) for size in (3, 4, 5)] == [1, 1, 2]
    with pytest.raises(ValueError, match="c: an axis of 2 pixels is too small"):
        output_size(strided, 2)


def test_the_bilinear_kernel() -> None:
    np.testing.assert_allclose(geometry.bilinear_kernel(4)[0], np.array([0.25, 0.75, 0.75, 0.25]) * 0.25)
    np.testing.assert_allclose(geometry.bilinear_kernel(3)[1], [0.5, 1, 0.5])
    for kernel, stride in ((4, 2), (16, 8), (32, 16), (64, 32)):
        weights = geometry.bilinear_deconvolution(3, kernel)
        assert weights.shape == (3, 3, kernel, kernel)
        assert weights.dtype == np.float32
        assert not weights[~np.eye(3, dtype=bool)].any()
        # what bilinear upsampling means: a constant image stays constant inside, so every phase of
        # the stride adds up to 1
        phases = weights[0, 0].reshape(kernel // stride, stride, kernel // stride, stride).sum((0, 2))
        np.testing.assert_allclose(phases, 1)


def test_widths_and_sizes_that_cannot_be_are_refused() -> None:
    architecture = get_architecture("fcn8s")
    with pytest.raises(ValueError, match="widths are 7 positive numbers"):
        architecture.shapes(10, 10, widths=(1, 2, 3))
    with pytest.raises(ValueError, match="num_classes is at least 1"):
        architecture.parameters(num_classes=0)
    with pytest.raises(ValueError, match="no network 'fcn9s'; there are fcn32s, "):
        get_architecture("fcn9s")
    with pytest.raises(KeyError, match="no layer 'pool6'"):
        architecture.layer("pool6")
