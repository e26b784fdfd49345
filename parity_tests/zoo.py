"""The goldens of the U-Nets of other repositories, and how an engine is held to them."""

from __future__ import annotations

import numpy as np
from goldens import ZooGolden, places_of, zoo_goldens
from segtwin import noise, oracle
from segtwin.architectures import get_architecture

from engines import TWINS, made

GOLDENS = zoo_goldens()
ONE_EACH = list({golden.architecture.name: golden for golden in reversed(GOLDENS)}.values())[::-1]
"""The smallest of each network: the file with one image, where there is one."""
NAMES = [golden.architecture.name for golden in ONE_EACH]


def errors(golden: ZooGolden, blobs: dict[str, np.ndarray]) -> dict[str, float]:
    """Blob → distance from the original's, in noise floors; of SegNet, where an engine takes the other of two pixels
    that are equal but for rounding, from what follows of its choice in float64."""
    held = {key: want for key, want in golden.blobs.items() if golden.source(key) in blobs}  # ONNX: the last head's
    found = {
        key: oracle.relative_error(golden.stored(key, blobs), want) / golden.floors[key] for key, want in held.items()
    }
    if golden.architecture.name != "segnet" or max(found.values()) < noise.BOUND:
        return found
    plain = oracle.run(golden.architecture, golden.weights, golden.data)
    for layer in golden.architecture.layers:
        if layer.kind == "Unpooling":
            ties_alone(layer.bottoms[1], blobs, plain)
    with places_of(blobs):
        truth = oracle.run(golden.architecture, golden.weights, golden.data)
    return {
        key: oracle.relative_error(golden.stored(key, blobs), golden.stored(key, truth)) / golden.floors[key]
        for key in held
    }


def ties_alone(name: str, blobs: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> None:
    """Where another pixel of a window is taken, it is the largest but for what float32 rounds."""
    got, want = blobs[name], truth[name]
    near = noise.BOUND * 1e-6 * np.abs(want).max()
    shape = tuple(side - 1 for side in want.shape[2:])
    layer = next(one for one in get_architecture("segnet").layers if one.kind == "Unpooling")
    images, channels = (index[..., None, None] for index in np.ogrid[: want.shape[0], : want.shape[1]])
    here, there = (want[(images, channels, *oracle.places(layer, one, shape))] for one in (want, got))
    assert (here - there).max() < near


def computed(framework: str, golden: ZooGolden, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Every blob, of a model that is not kept: each has the original's 10 to 50 million weights."""
    return TWINS[framework].blobs(made(framework, golden.architecture.name, golden.weights, dtype), golden.data)
