"""Convolutions that are computed as Caffe computes them: im2col and a matrix product."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from segtwin_torch.weights import ONE_AT_A_TIME


@contextmanager
def caffe_arithmetic() -> Iterator[None]:
    """Inside, torch computes a convolution on the CPU as Caffe does: im2col and one matrix product.

    By default torch takes its vendor's kernels (oneDNN on x86), which are faster and may add up all
    products of an output in one float32 number: 25,088 in fc6. What that may cost is
    `segtwin.noise.growth`. The switch is torch's own and holds for the whole process while the
    block runs.
    """
    with ONE_AT_A_TIME:
        before = torch.backends.mkldnn.enabled
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.backends.mkldnn.enabled = before
