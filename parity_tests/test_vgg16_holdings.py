"""VGG-16 as people hold it, under the hub's names."""

import numpy as np
from goldens import TINY, recipe_weights
from segtwin_weights import Weights, names


def test_torchvisions_old_classifier() -> None:
    """Sequential(Dropout, Linear, ReLU, Dropout, Linear, ReLU, Linear): the layers are 1, 4 and 6."""
    want = recipe_weights("vgg16", TINY, num_classes=30)
    convolutions = dict(zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), dict.fromkeys(n.split("/")[0] for n in want), strict=False))
    keys = {layer: f"features.{i}" for i, layer in convolutions.items()} | {"fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6"}
    got = names.hub_names(Weights({f"{keys[name.split('/')[0]]}.{name.split('/')[1]}": blob for name, blob in want.items()}))
    assert got.keys() == want.keys()
    for name, blob in want.items():
        np.testing.assert_array_equal(got[name], blob)
