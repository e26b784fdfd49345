"""What sees padding alone may be left out: the blobs are the whole network's, whatever its pad and the image's size."""

from dataclasses import replace

import numpy as np
import pytest
from goldens import TINY
from segtwin import oracle
from segtwin.architectures import Architecture, get_architecture, list_architectures
from segtwin.geometry import DeadZones, Repeat, dead_zones

FCNS = ("fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce")
SIZES = [(1, 1), (2, 9), (3, 10), (4, 11), (5, 12), (6, 13), (7, 14), (8, 15), (33, 64)]
"""Every remainder by 8, of rows and of columns."""
FEATURES = get_architecture("fcn8s").layers[:10]


def padded_by(pad: int, width: int = 2) -> Architecture:
    """conv1_1 … pool3 of an FCN that pads by another number."""
    first, *rest = FEATURES[: 1 + next(i for i, layer in enumerate(FEATURES) if layer.name == "conv3_3")]
    pool3 = get_architecture("fcn8s").layer("pool3")
    layers = (replace(first, pad=pad), *rest, pool3)
    return replace(get_architecture("fcn8s"), layers=layers, output="pool3")


def weights_for(architecture: Architecture) -> dict[str, np.ndarray]:
    """Positive and negative; the biases, which are all that a dead zone consists of, are not zero."""
    random = np.random.default_rng(5)
    shapes = {one.name: one.shape for one in architecture.parameters(widths=TINY)}
    return {name: random.uniform(-0.5, 1, shape) / np.sqrt(np.prod(shape[1:])) for name, shape in shapes.items()}


def left_out(architecture: Architecture, zones: DeadZones, weights: dict, data: np.ndarray) -> dict[str, np.ndarray]:
    """The blobs that are computed without dead zones, each made whole."""
    first, *rest = architecture.layers
    x, found = data, {}
    for layer in (replace(first, pad=zones.pad), *rest):
        parameters = oracle.parameters_of(layer, architecture, weights, "float64")
        x = oracle.OPERATORS[layer.kind](layer, architecture, [x], parameters)
        x = np.maximum(x, 0) if layer.relu else x
        x = zones.repeats[layer.name].whole(x) if layer.name in zones.repeats else x
        found[layer.name] = zones.left_out[layer.name].whole(x) if layer.name in zones.left_out else x
    return found


def furthest(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    return max(oracle.relative_error(blob, other[name]) for name, blob in one.items())


def test_the_four_fcns_have_them_and_nobody_else() -> None:
    for name in list_architectures():
        zones = get_architecture(name).dead_zones
        assert (zones is not None) == (name in FCNS)
        if zones is not None:
            assert zones.pad == 8
            assert dict(zones.repeats) == {"pool1": Repeat(1, 6), "pool2": Repeat(2, 8), "pool3": Repeat(3, 6)}


@pytest.mark.parametrize("pad", [9, 10, 15, 16, 31, 32, 50, 51, 68, 99, 100, 101, 102, 128])
def test_every_blob_is_the_whole_networks(pad: int) -> None:
    architecture = padded_by(pad)
    weights, zones = weights_for(architecture), dead_zones(architecture.layers)
    assert zones is not None
    assert zones.pad < pad
    for size in SIZES:
        data = np.random.default_rng(6).standard_normal((1, 3, *size))
        whole = oracle.run(architecture, weights, data)
        assert furthest(left_out(architecture, zones, weights, data), whole) < 1e-13, (pad, size)


@pytest.mark.parametrize("row", [-1, 1])
def test_a_neighbouring_row_would_not_do(row: int) -> None:
    """Nothing less is computed than has to be: the rows beside the one that is repeated are others."""
    architecture = padded_by(100)
    weights, zones = weights_for(architecture), dead_zones(architecture.layers)
    data = np.random.default_rng(6).standard_normal((1, 3, 4, 4))
    whole = oracle.run(architecture, weights, data)
    for pooling, repeat in zones.repeats.items():
        wrong = zones._replace(repeats={**zones.repeats, pooling: repeat._replace(row=repeat.row + row)})
        assert furthest(left_out(architecture, wrong, weights, data), whole) > 1e-6, pooling


def test_networks_that_pad_by_little_leave_nothing_out() -> None:
    for pad in range(1, 8):
        assert dead_zones(padded_by(pad).layers) is None
    assert dead_zones(get_architecture("unet-paper").layers) is None
