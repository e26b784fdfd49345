"""Networks, weights and sizes as Hypothesis draws them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import segtwin_weights
from hypothesis import Phase, settings
from hypothesis import strategies as st
from segtwin.architectures import Architecture, get_architecture, list_architectures
from segtwin_weights import Weights

Draw = Callable[[st.SearchStrategy], Any]
NETWORKS = [name for name in list_architectures() if get_architecture(name).widths]
REPEATED = {
    "unet-64", "r2unet-nests", "attention-unet", "nested-unet", "attention-unet-unetzoo", "r2unet", "nested-unet-1head",
    "fcn8s-unetzoo", "vgg16-unet", "unet-milesial-bilinear",
}  # fmt: skip
"""Networks whose layers are all in another one of their repository: tests that take seconds a network leave them to
test_zoo, which holds each to its original."""
VARIED = [name for name in list_architectures() if name not in REPEATED]


def narrow(name: str) -> tuple[int, ...] | None:
    """Small widths, none the same; None for a network that has its own alone."""
    return tuple(range(2, 2 + len(get_architecture(name).widths))) or None


EXACT = 1e-11
"""Of a float64 run's largest value: sums of some hundred products in another order."""
every = settings(deadline=None, derandomize=True, database=None, phases=[Phase.generate])


def drawn(architecture: Architecture, draw: Draw, widest: int = 3) -> Weights:
    """Weights of drawn widths, classes and channels, none of which is zero. Those behind a ReLU are positive, so that
    no network of one channel is silent; scores have either sign."""
    widths = [draw(st.integers(1, widest)) for _ in architecture.widths]
    free = architecture.any_channels and "vgg" not in architecture.name
    channels = draw(st.integers(1, 4)) if free else 3
    start = segtwin_weights.initialize(
        architecture.name, widths=widths, num_classes=draw(st.integers(1, 5)), in_channels=channels, seed=1
    )
    random = np.random.default_rng(2)
    blobs = dict(start)
    for name, blob in start.items():
        if blob.dtype.kind == "f" and not name.startswith(("upscore", "scale_")):
            low = -1 if "score" in name or name.startswith(("conv10", "layer10", "classifier.6")) else 0.1
            share = 2 * len(blob) / blob.size if blob.ndim > 1 else 1  # what comes out is of the size of what goes in
            share *= 0.25 if ".RCNN." in name and name.endswith("conv.1.weight") else 1  # doubled again and again
            blobs[name] = (random.uniform(low, 1, blob.shape) * share).astype(np.float32)
    return Weights(blobs, start.metadata)


def size_for(architecture: Architecture, draw: Draw, most: int = 40) -> tuple[int, int]:
    """Rows and columns that the network takes; every number from 1 up, where it takes all."""
    drawn_size = draw(st.integers(1, most)), draw(st.integers(1, most))
    for more in range(0, 420, 7):  # VGGFCN's least sizes, and what vggfcn16's sum cannot join
        height, width = (architecture.legal_size(size + more) for size in drawn_size)
        try:
            architecture.shapes(height, width)
        except ValueError:
            continue
        return height, width
    raise AssertionError(f"{architecture.name} takes no size near {drawn_size}")


def data_for(weights: Weights, architecture: Architecture, images: int, height: int, width: int) -> np.ndarray:
    channels = segtwin_weights.dimensions(weights, architecture).in_channels
    return np.random.default_rng(3).uniform(0.1, 1, (images, channels, height, width)).astype(np.float32)
