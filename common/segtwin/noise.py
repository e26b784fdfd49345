"""How far apart two correct float32 implementations of a network may be: noise floors, and bounds
in units of them.

The noise floor of a blob is what float32 costs when a layer is computed as Caffe does, im2col and
one matrix product: the largest distance of several float32 runs of the numpy oracle, which differ
in the order of summation, from its float64 run, relative to the blob's largest value. No engine
under test has a part in it.

Kernels that add up in another way round more. A float32 sum of n products of random sign is a
random walk: the rounding of each partial sum is about u·|partial sum|, so a running sum is off by
about u·√(n/6) of its size, and a sum in pieces of b, as BLAS takes it, by u·√((b + n/b)/6) (the
probabilistic analysis of N. J. Higham and T. Mary, "A New Approach to Probabilistic Rounding Error
Analysis", SIAM J. Sci. Comput. 41, 2019: errors grow with √n, not with n). Their ratio is `growth`:
what vendors' kernels (oneDNN's direct convolutions, for one) may cost more than Caffe's. It depends
on the network alone, not on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from segtwin import oracle
from segtwin.architectures import Architecture, Layer
from segtwin.layer_kinds import KINDS

BOUND = 4.0
"""Noise floors within which an engine that computes as Caffe does has to stay. A wrong pixel,
kernel or bias is thousands."""
LEAST_FLOOR = 2.0**-23
"""One float32 unit in the last place."""
PIECE = 256
"""Products that BLAS adds up before it begins the next partial sum."""
ORDERS = (None, "reversed", "shuffled")
"""Orders of summation of the float32 runs."""


def growth(products: int, piece: int = PIECE) -> float:
    """Rounding of a running sum of so many products, in that of a sum in pieces: 1 for short sums,
    8.4 for fc6's 25,088."""
    return math.sqrt(max(1.0, products / (piece + products / piece)))


def longest_sums(architecture: Architecture, weights: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Blob or layer → products in the longest sum on the way to it."""
    longest = {architecture.input: 1}
    for layer in architecture.layers:
        own = 1
        weight = weights.get(architecture.parameter_name(layer, "weight"))
        if weight is not None:
            own = KINDS[layer.kind].fan_in(layer, weight.shape)
        longest[layer.name] = max(own, *(longest[bottom] for bottom in layer.bottoms))
    return longest


def default_bounds(architecture: Architecture, weights: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Blob → noise floors within which a vendor's default kernels have to stay there."""
    return {name: BOUND * growth(products) for name, products in longest_sums(architecture, weights).items()}


def rounding(
    architecture: Architecture,
    weights: Mapping[str, np.ndarray],
    data: np.ndarray,
    truth: Mapping[str, np.ndarray],
    orders: Iterable[str | None] = ORDERS,
    parts: Callable[[str, np.ndarray], Mapping[str, np.ndarray]] = lambda name, blob: {name: blob},
) -> dict[str, float]:
    """Blob → the largest distance of float32 runs of the oracle from the truth, relative to the
    blob's largest value.

    Args:
        architecture: the network.
        weights: hub name → array.
        data: N×C×H×W.
        truth: the oracle's blobs in float64, or parts of them under names of their own.
        orders: orders of summation, one run each.
        parts: from a blob's name and the blob, what is compared with `truth`.
    """
    found: dict[str, float] = {}
    for order in orders:
        for blob_name, blob in oracle.blobs(architecture, weights, data, "float32", order):
            for name, part in parts(blob_name, blob).items():
                found[name] = max(found.get(name, 0.0), oracle.relative_error(part, truth[name]))
    return found


def floors(
    architecture: Architecture, weights: Mapping[str, np.ndarray], data: np.ndarray, truth: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Blob or layer → noise floor, relative to the blob's largest value.

    It is never less than what the floors of the blobs it is computed from become in it (`carried`):
    what came in with an error goes out with one, unless by luck, which the next engine need not have.

    Args:
        architecture: the network.
        weights: hub name → array.
        data: N×C×H×W.
        truth: the oracle's blobs in float64.
    """
    own = rounding(architecture, weights, data, truth)
    found = {architecture.input: LEAST_FLOOR}
    for layer in architecture.layers:
        found[layer.name] = max(own.get(layer.name, 0.0), carried(layer, found, truth))
    return found


def carried(layer: Layer, floors: Mapping[str, float], truth: Mapping[str, np.ndarray]) -> float:
    """The floor that a layer's bottoms alone give its top: the largest of theirs.

    A sigmoid makes of a relative error e of its logits an error of e · max |logit| · slope, and few
    pixels lie where it is steep: whether one of the runs that measure a floor has its largest
    errors there is luck. So the steepest slope of the image is taken.

    Args:
        layer: the layer.
        floors: of its bottoms.
        truth: the oracle's blobs, those that there are.
    """
    most = max(floors[bottom] for bottom in layer.bottoms)
    if layer.kind == "Sigmoid" and layer.name in truth and layer.bottoms[0] in truth:
        logits, top = truth[layer.bottoms[0]], truth[layer.name]
        if top.size and np.max(top) > 0:
            steep = float(np.max(top * (1 - top)) / np.max(top))
            most = max(most, floors[layer.bottoms[0]] * float(np.abs(logits).max()) * steep)
    return most
