"""The table of layer kinds against torch: sizes, shapes and values of what no network here has yet, too."""

import itertools

import numpy as np
import pytest
import torch
from segtwin import ArchitectureError, oracle
from segtwin.architectures import Layer
from segtwin.layer_kinds import KINDS, output_size
from torch.nn.functional import conv2d, conv_transpose2d, pad

OPTIONS = list(itertools.product((1, 2, 3, 5), (1, 2, 3), ((0, None), (2, None), (1, 3)), (1, 2, 3), (1, 2)))


@pytest.mark.parametrize(("kernel", "stride", "pads", "dilation", "groups"), OPTIONS)
def test_a_convolution_is_torchs(kernel: int, stride: int, pads: tuple, dilation: int, groups: int) -> None:
    layer = Layer(
        "c", "Convolution", ("x",), 6, kernel, stride, pads[0], pad_after=pads[1], dilation=dilation, groups=groups
    )
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 4, 17, 14))
    weight = random.standard_normal(KINDS["Convolution"].weight_shape(layer, 4, 6))
    bias = random.standard_normal(6)
    before, after = layer.pads
    padded = pad(torch.from_numpy(x), (before, after, before, after))
    want = conv2d(padded, torch.from_numpy(weight), torch.from_numpy(bias), stride, 0, dilation, groups).numpy()
    assert want.shape[2:] == (output_size(layer, 17), output_size(layer, 14))
    got = oracle.convolution(layer, None, [x], [weight, bias])
    np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "more"), [(4, 2, 0, 0), (3, 2, 1, 1), (2, 2, 0, 0), (16, 8, 0, 0)]
)
def test_a_deconvolution_is_torchs(kernel: int, stride: int, padding: int, more: int) -> None:
    layer = Layer("u", "Deconvolution", ("x",), 3, kernel, stride, padding, output_pad=more)
    random = np.random.default_rng(0)
    x, weight = random.standard_normal((1, 2, 5, 6)), random.standard_normal((2, 3, kernel, kernel))
    assert KINDS["Deconvolution"].weight_shape(layer, 2, 3) == weight.shape
    want = conv_transpose2d(torch.from_numpy(x), torch.from_numpy(weight), None, stride, padding, more).numpy()
    assert want.shape[2:] == (output_size(layer, 5), output_size(layer, 6))
    np.testing.assert_allclose(oracle.deconvolution(layer, None, [x], [weight]), want, atol=1e-12)


@pytest.mark.parametrize("options", [{"dilation": 2}, {"groups": 2}, {"pad_after": 1}])
def test_what_the_oracle_cannot_do_is_said(options: dict) -> None:
    layer = Layer("u", "Deconvolution", ("x",), 4, 4, 2, **options)
    with pytest.raises(NotImplementedError, match="u: a deconvolution with dilation, groups or uneven pads"):
        oracle.deconvolution(layer, None, [np.zeros((1, 2, 3, 3))], [np.zeros((2, 4, 4, 4))])


def test_windows_see_what_the_values_depend_on() -> None:
    """Of a dilated convolution and a deconvolution: changing a pixel outside of the window changes nothing, the first
    and the last inside of it do."""
    from segtwin.layer_kinds import Axis

    for kind, options in (("Convolution", {"dilation": 3}), ("Deconvolution", {})):
        layer = Layer("l", kind, ("x",), 1, 3, 2, 1, **options)
        compute = oracle.convolution if kind == "Convolution" else oracle.deconvolution
        size, weight = 20, np.ones((1, 1, 3, 3))
        zero = compute(layer, None, [np.zeros((1, 1, size, size))], [weight])
        for pixel in range(4, 7):
            first, last = KINDS[kind].window(layer, (pixel, pixel), Axis())
            seen = []
            for row in range(size):
                x = np.zeros((1, 1, size, size))
                x[:, :, row] = 1
                if (compute(layer, None, [x], [weight])[0, 0, pixel] != zero[0, 0, pixel]).any():
                    seen.append(row)
            assert (seen[0], seen[-1]) == (max(first, 0), last)


def test_an_axis_that_is_too_small_is_said() -> None:
    with pytest.raises(ArchitectureError, match="c: an axis of 4 pixels is too small for kernel 3"):
        output_size(Layer("c", "Convolution", ("x",), 1, 3, dilation=3), 4)
