"""Wrong use of the builders and of `blobs`: one line that says what is allowed, the same words in
both twins."""

import numpy as np
import pytest
import segtwin_weights
import torch
from segtwin import ArchitectureError

import engines

TINY = (2, 2, 3, 3, 4, 5, 5)


def complaint(function, *arguments, **options) -> tuple[type, str]:
    with pytest.raises((TypeError, ValueError)) as error:
        function(*arguments, **options)
    text = str(error.value.args[0])
    assert "\n" not in text
    assert len(text) < 400
    return type(error.value), text


BUILDERS = [
    ({"num_classes": -1}, ValueError, "num_classes is -1; it is a whole number from 1 to"),
    ({"num_classes": 0}, ValueError, "num_classes is 0"),
    ({"num_classes": 2**40}, ValueError, "from 1 to 65536"),
    ({"num_classes": "3"}, TypeError, "num_classes is a whole number from 1 to 65536, not '3' (str)"),
    ({"num_classes": True}, TypeError, "not True (bool)"),
    ({"num_classes": np.bool_(True)}, TypeError, "num_classes is a whole number"),
    ({"num_classes": 3.0}, TypeError, "not 3.0 (float)"),
    ({"num_classes": float("nan")}, TypeError, "not nan"),
    ({"num_classes": [3]}, TypeError, "not [3] (list)"),
    ({"num_classes": "x\n" * 999}, TypeError, "…"),
    ({"in_channels": 0}, ValueError, "in_channels is 0"),
    ({"in_channels": "3"}, TypeError, "in_channels is a whole number"),
    ({"in_channels": 1.5}, TypeError, "in_channels is a whole number"),
    ({"in_channels": 2**40}, ValueError, "in_channels is"),
    ({"widths": (2, 2, 3, 3, 4, 5, 1.5)}, TypeError, "the width fc7 is a whole number"),
    ({"widths": (2, 2, 3, 3, 4, 5, -5)}, ValueError, "the width fc7 is -5"),
    ({"widths": (2, 2, 3)}, ValueError, "widths are 7 positive numbers (c1, c2, c3, c4, c5, fc6, fc7), not (2, 2, 3)"),
    ({"widths": 5}, TypeError, "widths are 7 positive numbers"),
    ({"widths": "2222222"}, TypeError, "widths are 7 positive numbers"),
    ({"widths": (65536,) * 7}, ValueError, "this machine has"),
    ({"weights": 5}, TypeError, "weights are Weights, a mapping or a file's path, not int"),
    ({"weights": [1]}, TypeError, "weights are Weights"),
    ({"dropout": "0.5"}, TypeError, "dropout is a rate"),
    ({"dropout": 1.5}, ValueError, "dropout is 1.5"),
    ({"dropout": -0.1}, ValueError, "dropout is -0.1"),
    ({"seed": -1}, ValueError, "seed is -1"),
    ({"seed": 1.5}, TypeError, "seed is a whole number"),
    ({"dtype": "float16"}, ValueError, "dtype is 'float32' or 'float64'"),
    ({"dtype": np.float32}, ValueError, "dtype is 'float32' or 'float64'"),
    ({"colour": "rgb"}, TypeError, "build() has no argument 'colour'"),
    ({"num_clases": 3}, TypeError, "build() has no argument 'num_clases'; did you mean num_classes?"),
    ({"pad": "reflect"}, ArchitectureError, "fcn8s has no option pad"),
    ({"logits": "yes"}, TypeError, "logits is True or False, not 'yes' (str)"),
]


@pytest.mark.parametrize(
    ("options", "kind", "words"), BUILDERS, ids=lambda value: str(value)[:40] if isinstance(value, dict) else ""
)
def test_builders_say_what_they_take(options: dict, kind: type, words: str) -> None:
    said = [complaint(twin.build, "fcn8s", **options) for twin in engines.TWINS.values()]
    assert said[0] == said[1]
    assert said[0][0] is kind
    assert words in said[0][1]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("fcn9s", ArchitectureError),
        ("", ArchitectureError),
        (5, TypeError),
        (None, TypeError),
        ([], TypeError),
        ({}, TypeError),
    ],
)
def test_unknown_networks(name: object, kind: type) -> None:
    said = [complaint(twin.build, name) for twin in engines.TWINS.values()]
    assert said[0] == said[1]
    assert said[0][0] is kind
    assert "fcn32s" in said[0][1]


@pytest.mark.parametrize("network", ["unet-paper", "unet", "unet-small", "resnet34-unet", "vggfcn8", "fcn8-vgg"])
def test_every_network_asks(network: str) -> None:
    for options in (
        {"num_classes": "3"},
        {"num_classes": 0},
        {"in_channels": -1},
        {"widths": (1,) * 99},
        {"widths": [1.5] * 5},
    ):
        said = [complaint(twin.build, network, **options) for twin in engines.TWINS.values()]
        assert said[0] == said[1]


def test_numbers_of_numpy_are_numbers() -> None:
    for twin in engines.TWINS.values():
        model = twin.build(
            "fcn8s", num_classes=np.int64(2), widths=np.array(TINY), in_channels=np.uint8(4), dropout=np.float32(0.25)
        )
        assert segtwin_weights.dimensions(twin.read_weights(model), "fcn8s") == (2, 4, TINY)


GOOD = np.ones((1, 3, 8, 9), np.float32)
DATA = [
    (GOOD[0], ValueError, "four axes, not of the shape (3, 8, 9)"),
    (GOOD[None], ValueError, "four axes"),
    (np.float32(1), ValueError, "four axes"),
    (GOOD[:, :2], ValueError, "has 2 channels"),
    (GOOD.transpose(0, 2, 3, 1), ValueError, "has 8 channels"),
    (GOOD.astype(np.uint8), TypeError, "not one of uint8"),
    (GOOD.astype(np.int64), TypeError, "not one of int64"),
    (GOOD.astype(bool), TypeError, "not one of bool"),
    (GOOD.astype(np.complex64), TypeError, "not one of complex64"),
    (GOOD.astype(object), TypeError, "not one of object"),
    ("photo.jpg", TypeError, "data is an array of float32 or float64"),
    (None, TypeError, "data is an array"),
    (GOOD[:0], ValueError, "not empty"),
    (GOOD[:, :, :0], ValueError, "not empty"),
    (GOOD * np.float32("nan"), ValueError, "216 values that are NaN"),
    (np.where(np.arange(9) == 4, np.float32("-inf"), GOOD), ValueError, "24 values that are NaN"),
    (GOOD.astype(np.float64) * 1e39, ValueError, "too large for float32"),
]


@pytest.fixture(scope="module")
def models() -> dict:
    return {framework: twin.build("fcn8s", widths=TINY) for framework, twin in engines.TWINS.items()}


@pytest.mark.parametrize(("data", "kind", "words"), DATA, ids=range(len(DATA)))
def test_blobs_says_what_it_takes(data: object, kind: type, words: str, models: dict) -> None:
    said = [complaint(twin.blobs, models[framework], data) for framework, twin in engines.TWINS.items()]
    assert said[0] == said[1]
    assert said[0][0] is kind
    assert words in said[0][1]


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_blobs_share_no_memory_with_the_callers_array(framework: str) -> None:
    """One channel, one row, one column: where a transposed array is still contiguous."""
    twin = engines.TWINS[framework]
    for shape in ((1, 1, 32, 32), (1, 1, 32, 64)):
        model = twin.build("unet-small", widths=(2, 2, 2, 2, 2), seed=1)
        data = np.full(shape, 3, np.float32)
        blobs = twin.blobs(model, data)
        before = {name: blob.copy() for name, blob in blobs.items()}
        assert not any(np.shares_memory(blob, data) for blob in blobs.values())
        data[:] = 7
        first = next(iter(blobs))
        assert (blobs[first] == 3).all()
        blobs[first][:] = 5
        assert (data == 7).all()
        assert all(np.array_equal(blobs[name], before[name]) for name in list(blobs)[1:])


def test_torch_takes_tensors_too(models: dict) -> None:
    tensor = torch.ones(1, 3, 8, 9, dtype=torch.float64, requires_grad=True)
    blobs = engines.TWINS["torch"].blobs(models["torch"], tensor)
    blobs["data"][:] = 9
    assert (tensor == 1).all()
