"""The models are compared with the tables of layers, the tables with Caffe's files, and the twins with each other."""

import ast
import inspect
import math

import numpy as np
import pytest
import segtwin
import segtwin_keras
import segtwin_keras.fcn
import segtwin_torch
import segtwin_torch.fcn
import segtwin_weights
import torch
from goldens import TINY, caffe_goldens, recipe_weights
from segtwin.architectures import get_architecture

CAFFE_NETWORKS = ["fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce"]


@pytest.mark.parametrize("architecture", CAFFE_NETWORKS)
def test_the_parameters_are_caffes_in_caffes_order(architecture: str) -> None:
    for golden in caffe_goldens(architecture):
        parameters = golden.architecture.parameters(widths=golden.widths)
        assert [(p.name, p.shape) for p in parameters] == [(name, tuple(shape)) for name, shape, _ in golden.parameters]


def test_the_multipliers_are_net_pys() -> None:
    for parameter in get_architecture("fcn8s").parameters():
        if "upscore" in parameter.name:
            assert parameter.lr_mult == 0
        elif parameter.name.endswith("bias"):
            assert (parameter.lr_mult, parameter.decay_mult) == (2, 0)
        else:
            assert (parameter.lr_mult, parameter.decay_mult) == (1, 1)


def test_fcn8s_has_its_published_size() -> None:
    parameters = get_architecture("fcn8s").parameters()
    assert sum(math.prod(p.shape) for p in parameters if p.lr_mult) == 134_362_751
    assert sum(math.prod(p.shape) for p in parameters if not p.lr_mult) == 127_008


@pytest.mark.parametrize("architecture", CAFFE_NETWORKS)
def test_the_models_have_the_rows_parameters_and_train_what_the_row_trains(architecture: str) -> None:
    want = {p.name: (p.shape, bool(p.lr_mult)) for p in get_architecture(architecture).parameters(5, TINY, 4)}
    torch_model = segtwin_torch.build(architecture, num_classes=5, in_channels=4, widths=TINY)
    assert {
        name.replace(".", "/"): (tuple(p.shape), p.requires_grad) for name, p in torch_model.named_parameters()
    } == want
    keras_model = segtwin_keras.build(architecture, num_classes=5, in_channels=4, widths=TINY)
    trained = {id(variable) for variable in keras_model.trainable_variables}
    slots = segtwin_keras.weights.table(keras_model)
    assert {n: (segtwin_keras.weights.hub_array(*s).shape, id(s[0]) in trained) for n, s in slots.items()} == want


@pytest.mark.parametrize("twin", [segtwin_torch, segtwin_keras], ids=["torch", "keras"])
@pytest.mark.parametrize("architecture", CAFFE_NETWORKS)
def test_a_network_starts_as_net_py_starts_it(twin, architecture: str) -> None:
    """Convolutions at zero (net.py names no filler), deconvolutions bilinear on the diagonal,
    scales at their value."""
    weights = twin.read_weights(twin.build(architecture, num_classes=3, widths=TINY))
    for name, blob in weights.items():
        if "upscore" in name:
            want = segtwin.geometry.bilinear_deconvolution(3, blob.shape[-1])
            np.testing.assert_array_equal(blob, want)
        elif "scale" in name:
            np.testing.assert_array_equal(
                blob, np.float32({"scale_pool4/weight": 0.01, "scale_pool3/weight": 0.0001}[name])
            )
        else:
            assert not blob.any(), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("twin", [segtwin_torch, segtwin_keras], ids=["torch", "keras"])
def test_weights_go_in_and_come_out_bit_for_bit(twin, dtype: str) -> None:
    random = np.random.default_rng(0)
    architecture = get_architecture("fcn8s")
    given = {p.name: random.standard_normal(p.shape).astype(dtype) for p in architecture.parameters(4, TINY)}
    back = twin.read_weights(
        twin.build("fcn8s", num_classes=4, widths=TINY, weights=segtwin_weights.Weights(given), dtype=dtype)
    )
    assert back.keys() == given.keys()
    for name, blob in given.items():
        assert back[name].dtype == dtype
        np.testing.assert_array_equal(back[name], blob)


@pytest.mark.parametrize("twin", [segtwin_torch, segtwin_keras], ids=["torch", "keras"])
def test_weights_that_do_not_fit_change_nothing(twin) -> None:
    model = twin.build("fcn8s", widths=TINY, weights=recipe_weights("fcn8s", TINY))
    before = twin.read_weights(model).fingerprint()
    good = dict(recipe_weights("fcn8s", TINY, seed=2))
    cases = [
        ({n: b for n, b in good.items() if "conv5" not in n}, KeyError, "6 missing, first 'conv5_1/bias'"),
        (good | {"fc8/weight": np.zeros(3)}, KeyError, "1 not expected, first 'fc8/weight'"),
        (
            good | {"fc6/weight": good["fc6/weight"][:, :, :5]},
            ValueError,
            r"1 blobs have another shape, first 'fc6/weight': \(14, 12, 5, 7\) given",
        ),
    ]
    for blobs, error, message in cases:
        with pytest.raises(error, match=message):
            twin.load_weights(model, segtwin_weights.Weights(blobs))
        assert twin.read_weights(model).fingerprint() == before
    twin.load_weights(model, segtwin_weights.Weights(good))
    assert twin.read_weights(model).fingerprint() != before


@pytest.mark.parametrize("twin", [segtwin_torch, segtwin_keras], ids=["torch", "keras"])
def test_what_build_cannot_make_is_refused(twin) -> None:
    for arguments, message in (
        ({"name": "fcn9s"}, "there is no network 'fcn9s'"),
        ({"name": "fcn8s", "dtype": "float16"}, "dtype is 'float32' or 'float64'"),
        ({"name": "fcn8s", "use_dilated": True}, "fcn8s has no option use_dilated"),
        ({"name": "fcn8s", "widths": (1, 2)}, "widths are 7 positive numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            twin.build(**arguments)


def test_dropout_drops_elements_not_channels() -> None:
    """Caffe's Dropout sets single values to zero and doubles the rest; Dropout2d would take whole
    channels."""
    weights, data = recipe_weights("fcn8s", TINY), caffe_goldens("fcn8s")[2].data[:, :, :60, :60]
    torch_model = segtwin_torch.build("fcn8s", widths=TINY, weights=weights).train()
    inference = segtwin_torch.blobs(torch_model, data)["fc6"]
    assert torch_model.training, "blobs leaves the mode as it was"
    notebook: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        torch_model(torch.from_numpy(data), notebook)
    keras_model = segtwin_keras.build("fcn8s", widths=TINY, weights=weights)
    drop6 = (
        keras_model.get_layer("drop6")(np.ascontiguousarray(inference.transpose(0, 2, 3, 1)), training=True)
        .numpy()
        .transpose(0, 3, 1, 2)
    )
    for dropped in (notebook["fc6"].numpy(), drop6):
        on = inference > 0
        kept = dropped > 0
        assert 0.2 < kept[on].mean() < 0.8
        np.testing.assert_allclose(dropped[kept], 2 * inference[kept], atol=1e-5 * inference.max())
        shares = [kept[0, c][on[0, c]].mean() for c in range(kept.shape[1]) if on[0, c].sum() > 3]
        assert any(0 < share < 1 for share in shares), f"whole channels were dropped: {shares}"


def test_dropout_can_be_set() -> None:
    assert (
        segtwin_torch.build("fcn8s", widths=TINY).drop6.p
        == segtwin_keras.build("fcn8s", widths=TINY).get_layer("drop6").rate
        == 0.5
    )
    assert segtwin_torch.build("fcn8s", widths=TINY, dropout=0.0).drop7.p == 0
    assert segtwin_keras.build("fcn8s", widths=TINY, dropout=0.0).get_layer("drop7").rate == 0


# ------------------------------------------------------------------------------------- line by line


def functions(module) -> dict[str, ast.AST]:
    """Every function and method of a module, by the name that both twins share (a class FCN8sAtOnce
    is the function fcn8s_atonce)."""
    found = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name.replace("_", "")] = node
        elif isinstance(node, ast.ClassDef):
            methods = {m.name: m for m in node.body if isinstance(m, ast.FunctionDef)}
            for shared, method in ((node.name.lower(), "forward"), ("features", "features"), ("classify", "classify")):
                if method in methods:
                    found[shared] = methods[method]
    return found


@pytest.mark.parametrize("module", [segtwin_torch.fcn, segtwin_keras.fcn])
def test_the_offsets_in_the_models_are_the_derived_ones(module) -> None:
    for architecture in CAFFE_NETWORKS:
        calls = [n for n in ast.walk(functions(module)[architecture.replace("-", "")]) if isinstance(n, ast.Call)]
        typed = [k.value.value for call in calls for k in call.keywords if k.arg == "offset"]
        assert typed == list(get_architecture(architecture).offsets.values())
