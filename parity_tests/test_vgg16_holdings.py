"""VGG-16 as people hold it, under the hub's names."""

from pathlib import Path

import numpy as np
import pytest
import segtwin_weights
from goldens import TINY, recipe, recipe_weights
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


@pytest.mark.parametrize("keys", [("weights", "biases"), ("W", "b"), (b"weights", b"biases")])
def test_npy_of_dicts(keys: tuple, tmp_path: Path) -> None:
    """Faster-RCNN_TF's VGG_imagenet.npy holds {layer: {"weights", "biases"}}, its dicts in either order."""
    layers = recipe.vgg16_npy(1, TINY)
    dicts = {name: {keys[1]: bias, keys[0]: weight} for name, (weight, bias) in layers.items()}
    np.save(tmp_path / "vgg.npy", np.array(dicts, dtype=object), allow_pickle=True)
    got = segtwin_weights.read(tmp_path / "vgg.npy")
    for name, (weight, bias) in layers.items():
        np.testing.assert_array_equal(got[f"{name}/bias"], bias)
        if name != "fc6":
            np.testing.assert_array_equal(got[f"{name}/weight"], np.moveaxis(weight, (-1, -2), (0, 1)))
    maps = layers["fc6"][0].reshape(7, 7, TINY[4], -1)
    np.testing.assert_array_equal(got["fc6/weight"], maps.transpose(3, 2, 0, 1).reshape(TINY[5], -1))


def test_npz_takes_rgb(tmp_path: Path) -> None:
    """vgg16_weights.npz: conv1_1_W, conv1_1_b, …; it takes RGB minus the mean: an FCN gets conv1_1 turned, the rest alike."""
    layers = recipe.vgg16_npy(1, TINY)
    np.save(tmp_path / "vgg16.npy", np.array(layers, dtype=object), allow_pickle=True)
    want = segtwin_weights.convert(segtwin_weights.read(tmp_path / "vgg16.npy"), to="fcn8s", num_classes=5)
    arrays = {f"{name}_{part}": array for name, pair in layers.items() for part, array in zip("Wb", pair, strict=True)}
    arrays["conv1_1_W"] = arrays["conv1_1_W"][:, :, ::-1]
    np.savez(tmp_path / "vgg16_weights.npz", **arrays)
    got = segtwin_weights.convert(segtwin_weights.read(tmp_path / "vgg16_weights.npz"), to="fcn8s", num_classes=5)
    assert got.keys() == want.keys()
    for name, blob in want.items():
        np.testing.assert_array_equal(got[name], blob, err_msg=name)
