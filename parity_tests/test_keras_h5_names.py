"""Keras files whose arrays only their names, their config, or their time's conventions explain. The
right values are Keras' own variables, by attribute, and convolutions computed in numpy.
"""

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import segtwin_keras
import segtwin_weights
from goldens import TINY, recipe, recipe_weights
from keras import layers
from segtwin import Converted
from segtwin.architectures.vgg16 import CLASSIFIER_PIXELS
from segtwin_weights import Weights, WeightsError
from test_weight_files import KERAS_SAVES, assert_equal

ATTRIBUTES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def variables(model: keras.Model) -> Iterator[tuple[str, np.ndarray]]:
    """Hub name → value of every variable, asked of the layers by attribute; models in models are
    entered."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from variables(layer)
        elif isinstance(layer, layers.BatchNormalization):
            for attribute, kind in ATTRIBUTES.items():
                if (variable := getattr(layer, attribute, None)) is not None:
                    yield f"{layer.name}/{kind}", variable.numpy()
        elif isinstance(layer, layers.DepthwiseConv2D):
            kernel = layer.kernel.numpy()  # kh×kw×I×M
            maps = [kernel[:, :, i, m] for i in range(kernel.shape[2]) for m in range(kernel.shape[3])]
            yield f"{layer.name}/weight", np.stack(maps)[:, None]
            yield f"{layer.name}/bias", layer.bias.numpy()
        elif isinstance(layer, layers.Conv2D | layers.Conv2DTranspose | layers.Dense):
            yield f"{layer.name}/weight", np.moveaxis(layer.kernel.numpy(), (-1, -2), (0, 1))
            if layer.use_bias:
                yield f"{layer.name}/bias", layer.bias.numpy()


def filled(model: keras.Model) -> keras.Model:
    random = np.random.default_rng(5)
    model.set_weights([random.random(array.shape, np.float32) for array in model.get_weights()])
    return model


def norms_and_nests() -> keras.Model:
    """BatchNorm with and without its parts, a model in a model in a model, and a Sequential."""
    deepest = keras.Sequential(
        [layers.Input((6, 6, 4)), layers.Conv2D(4, 1, name="c3", use_bias=False), layers.BatchNormalization(name="n3")],
        name="z",
    )
    x = image = layers.Input((8, 8, 3))
    x = layers.BatchNormalization(center=False, name="n2")(deepest(layers.Conv2D(4, 3, name="c2")(x)))
    inner = keras.Model(image, x, name="a_model")
    single = keras.Sequential([layers.Input((6, 6, 4)), layers.Conv2D(4, 1, name="alone")], name="single")
    outer = keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            inner,
            single,
            layers.BatchNormalization(scale=False, name="n1"),
            layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="dw"),
            layers.BatchNormalization(scale=False, center=False, name="n0"),
            layers.Conv2DTranspose(2, 2, name="up"),
            layers.Flatten(),
            layers.Dense(3, name="d"),
        ],
        name="outer",
    )
    return filled(outer)


def save_h5(model: keras.Model, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)


@KERAS_SAVES
@pytest.mark.parametrize("name", ["m.h5", "m.keras", "weights_only.h5", "chunked.h5"])
def test_stated_names_beat_positions(name: str, tmp_path: Path) -> None:
    model = norms_and_nests()
    want = dict(variables(model))
    assert {"n0/running_var", "n1/bias", "n1/running_mean", "n2/weight", "n3/running_var"} <= want.keys()
    assert "n1/weight" not in want
    save_h5(model, tmp_path / ("m.keras" if name == "m.keras" else "m.h5"))
    if name in ("weights_only.h5", "chunked.h5"):  # what save_weights wrote: the groups at the root and no config
        with h5py.File(tmp_path / "m.h5") as whole, h5py.File(tmp_path / name, "w") as file:
            for key, value in whole["model_weights"].attrs.items():
                file.attrs[key] = value
            for group in whole["model_weights"]:
                whole.copy(whole["model_weights"][group], file, group)
            if name == "chunked.h5":
                groups = [file, *(file[group] for group in file)]
                for group in groups:
                    key = "layer_names" if group is file else "weight_names"
                    names = list(group.attrs[key])
                    del group.attrs[key]
                    for i in range(0, max(len(names), 1), 2):
                        group.attrs.create(
                            f"{key}{i // 2}", [n.encode() for n in names[i : i + 2]] or np.array([], "S1")
                        )
    got = segtwin_weights.read(tmp_path / name)
    assert got.keys() == want.keys()
    for key, value in want.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key)


@KERAS_SAVES
def test_keras_2_names_its_variables_with_numbers(tmp_path: Path) -> None:
    """`norm/moving_mean:0` in a Keras 2 file; `norm_1/…` where the session had one of that name
    before."""
    random = np.random.default_rng(0)
    mean, variance, beta, kernel = (random.random(shape, np.float32) for shape in ((4,), (4,), (4,), (3, 3, 2, 4)))
    for suffix in ("", "_1"):
        with h5py.File(tmp_path / "old.h5", "w") as file:
            file.attrs["layer_names"] = [b"conv", b"norm", b"block/conv"]
            file.attrs["keras_version"], file.attrs["backend"] = "2.3.1", "tensorflow"
            for layer, arrays in {
                "conv": {"kernel:0": kernel},
                "norm": {"beta:0": beta, "moving_mean:0": mean, "moving_variance:0": variance},
                "block/conv": {"kernel:0": kernel + 1},
            }.items():
                group = file.create_group(layer)
                group.attrs["weight_names"] = [f"{layer}{suffix}/{part}".encode() for part in arrays]
                for part, array in arrays.items():
                    group[f"{layer}{suffix}/{part}"] = array
        got = segtwin_weights.read(tmp_path / "old.h5")
        assert {name: name for name in got}.keys() >= {"norm/bias", "norm/running_mean", "norm/running_var"}
        np.testing.assert_array_equal(got["norm/bias"], beta)
        np.testing.assert_array_equal(got["norm/running_mean"], mean)
        np.testing.assert_array_equal(got["norm/running_var"], variance)
        both = [value for name, value in got.items() if name.endswith("conv/weight")]
        assert sorted(float(value.min()) > 1 for value in both) == [False, True]


@KERAS_SAVES
def test_without_names_a_partial_batchnorm_is_refused(tmp_path: Path) -> None:
    """.weights.h5 only counts: with three variables nobody can say which of gamma and beta is left
    out. Two, and four, are certain."""
    for settings, message in (
        ({"scale": False}, "without gamma or without beta"),
        ({"center": False}, "without gamma or without beta"),
    ):
        model = filled(keras.Sequential([layers.Input((4,)), layers.BatchNormalization(name="norm", **settings)]))
        model.save_weights(tmp_path / "m.weights.h5")
        with pytest.raises(
            WeightsError, match=rf"m\.weights\.h5: norm is a batch_normalization {message}.*model\.save"
        ):
            segtwin_weights.read(tmp_path / "m.weights.h5")
    for settings in ({}, {"scale": False, "center": False}):
        model = filled(keras.Sequential([layers.Input((4,)), layers.BatchNormalization(name="norm", **settings)]))
        model.save_weights(tmp_path / "m.weights.h5")
        got, want = segtwin_weights.read(tmp_path / "m.weights.h5"), dict(variables(model))
        assert got.keys() == want.keys()
        for key, value in want.items():
            np.testing.assert_array_equal(got[key], value)


@KERAS_SAVES
def test_layers_of_one_name_in_two_models_keep_both(tmp_path: Path) -> None:
    def branch(name: str) -> keras.Model:
        image = layers.Input((4, 4, 3))
        return keras.Model(image, layers.Conv2D(2, 3, name="conv")(image), name=name)

    image = layers.Input((4, 4, 3))
    one, two = branch("one"), branch("two")
    model = filled(keras.Model(image, layers.Add()([one(image), two(image)])))
    for name in ("m.weights.h5", "m.keras"):
        (model.save if name == "m.keras" else model.save_weights)(tmp_path / name)
        got = segtwin_weights.read(tmp_path / name)
        assert got.keys() == {f"{branch}/conv/{kind}" for branch in ("one", "two") for kind in ("weight", "bias")}
        for part in (one, two):
            np.testing.assert_array_equal(got[f"{part.name}/conv/bias"], part.get_layer("conv").bias.numpy())


@KERAS_SAVES
@pytest.mark.parametrize("architecture", ["unet-small", "resnet34-unet", "vggfcn8", "fcn8s-atonce"])
def test_whole_models_in_h5(architecture: str, tmp_path: Path) -> None:
    """The networks with BatchNorm, counters and carried layers, in the old format."""
    widths = {"unet-small": recipe.TINY_UNET, "resnet34-unet": None}.get(architecture, TINY)
    weights = segtwin_weights.initialize(architecture, widths=widths, seed=4)
    weights = Weights(
        {name: blob + 7 if blob.dtype == np.int64 else blob for name, blob in weights.items()}, weights.metadata
    )
    save_h5(segtwin_keras.build(architecture, widths=widths, weights=weights), tmp_path / "m.h5")
    read = segtwin_weights.read(tmp_path / "m.h5")
    assert read.metadata["architecture"] == architecture
    assert_equal(read, weights)


# ------------------------------------------------------------------------ Theano, and Keras 0 and 1


BLOCKS = [f"block{stage}_conv{i}" for stage, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, count + 1)] + [
    "fc1",
    "fc2",
    "predictions",
]


def theano_layers(weights: Weights, turn: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """VGG-16 as Theano has it: O×I×kh×kw, turned by 180°; inner products I×O, the first one's rows
    C·H·W."""
    layers_of = list(dict.fromkeys(name.split("/")[0] for name in weights))
    found = []
    for layer in layers_of:
        weight = weights[f"{layer}/weight"]
        if weight.ndim == 2:
            weight = weight.T
        elif turn:
            weight = np.rot90(weight, 2, axes=(2, 3))
        found.append((weight, weights[f"{layer}/bias"]))
    return found


def write_keras_1(path: Path, arrays: list[tuple[np.ndarray, np.ndarray]], how: str) -> None:
    """Layers named as keras.applications', as Keras 1 numbers them, or counted as Keras 0 did (the
    gist's vgg16_weights.h5)."""
    with h5py.File(path, "w") as file:
        if how == "gist":
            file.attrs["nb_layers"] = 37
            places = [1, 3, 6, 8, 11, 13, 15, 18, 20, 22, 25, 27, 29, 32, 34, 36]
            for i in range(37):
                pair = arrays[places.index(i)] if i in places else ()
                group = file.create_group(f"layer_{i}")
                group.attrs["nb_params"] = len(pair)
                for j, array in enumerate(pair):
                    group[f"param_{j}"] = array
            return
        names = (
            BLOCKS
            if how == "blocks"
            else [f"convolution2d_{i}" for i in range(1, 14)] + [f"dense_{i}" for i in range(1, 4)]
        )
        file.attrs["layer_names"] = [name.encode() for name in names]
        for name, (weight, bias) in zip(names, arrays, strict=True):
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}_W_1:0".encode(), f"{name}_b_1:0".encode()]
            group[f"{name}_W_1:0"], group[f"{name}_b_1:0"] = weight, bias


@pytest.mark.parametrize("how", ["blocks", "numbered", "gist"])
@pytest.mark.parametrize("turn", [True, False])
def test_theanos_order(how: str, turn: bool, tmp_path: Path) -> None:
    if how == "gist" and not turn:
        pytest.skip("there was Theano alone")
    weights = recipe_weights("vgg16", TINY, num_classes=30)
    path = tmp_path / (
        "vgg16_weights.h5" if how == "gist" else f"vgg16_weights_th_dim_ordering_{'th' if turn else 'tf'}_kernels.h5"
    )
    write_keras_1(path, theano_layers(weights, turn), how)
    if how == "blocks":
        got = segtwin_weights.read(path)
    else:
        with pytest.warns(Converted, match="by their shapes and order they are a VGG-16's"):
            got = segtwin_weights.read(path)
    assert got.metadata["architecture"] == "vgg16"
    assert_equal(got, weights)


def test_theanos_kernels_compute_the_same(tmp_path: Path) -> None:
    """Theano's convolution, written out: y[i, j] = Σ x[i + m − a, j + n − b]·w[a, b] is the
    correlation with the turned kernel."""
    weights = recipe_weights("vgg16", TINY, num_classes=30)
    write_keras_1(path := tmp_path / "x_th_kernels.h5", arrays := theano_layers(weights, True), "blocks")
    got = segtwin_weights.read(path)["conv1_1/weight"]
    x = np.random.default_rng(0).random((3, 5, 5))
    theirs = arrays[0][0]
    for o in range(len(theirs)):
        # at output 1, 1 of m = n = 2
        convolved = sum(x[c, 3 - a, 3 - b] * theirs[o, c, a, b] for c in range(3) for a in range(3) for b in range(3))
        correlated = sum(x[c, 1 + a, 1 + b] * got[o, c, a, b] for c in range(3) for a in range(3) for b in range(3))
        assert abs(convolved - correlated) < 1e-5


def test_nobody_said_whether_the_kernels_are_turned(tmp_path: Path) -> None:
    weights = recipe_weights("vgg16", TINY, num_classes=30)
    write_keras_1(path := tmp_path / "vgg16.h5", theano_layers(weights, True), "blocks")
    with pytest.raises(
        WeightsError, match=r"vgg16\.h5: its kernels are O×I×kh×kw.*put th_kernels \(turned\) or tf_kernels"
    ):
        segtwin_weights.read(path)
    with h5py.File(path, "r+") as file:
        file.attrs["backend"] = "theano"
    assert_equal(segtwin_weights.read(path), weights)


@pytest.mark.parametrize("says", ["th", "tf"])
def test_oxfords_first_filter_tells_for_itself(says: str, tmp_path: Path) -> None:
    """0.429, 0.550, 0.480 at the top left for B, G, R, as keras.applications' own file begins."""
    weights = recipe_weights("vgg16", TINY, num_classes=30)
    first = weights["conv1_1/weight"].copy()
    first[0, :, 0, 0] = 0.42947057, 0.55037946, 0.48001540
    weights = Weights({**weights, "conv1_1/weight": first})
    for turn in (True, False):
        write_keras_1(path := tmp_path / f"x_{says}_kernels.h5", theano_layers(weights, turn), "blocks")
        if turn == (says == "th"):
            got = segtwin_weights.read(path)
        else:
            with pytest.warns(Converted, match="conv1_1 begins as Oxford's"):
                got = segtwin_weights.read(path)
        assert_equal(got, weights)


@KERAS_SAVES
def test_theanos_backend_of_keras_2(tmp_path: Path) -> None:
    """kh×kw×I×O and turned: Keras 2 turned the kernels of such a file when TensorFlow loaded it."""
    x = image = layers.Input((8, 8, 3))
    model = filled(keras.Model(image, layers.Conv2D(5, 3, name="c")(x)))
    save_h5(model, tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        for place in (file, file["model_weights"]):
            place.attrs["backend"], place.attrs["keras_version"] = "theano", "2.2.4"
    want = model.get_layer("c").kernel.numpy()[::-1, ::-1].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(segtwin_weights.read(tmp_path / "m.h5")["c/weight"], want)


@pytest.mark.parametrize("flatten", ["channels_first", "channels_last"])
def test_rows_of_fc1_in_a_channels_first_model(flatten: str, tmp_path: Path) -> None:
    """Flatten moves the channels last where it is told that they are first; else the rows are
    C·H·W."""
    weights = recipe_weights("vgg16", TINY, num_classes=30)
    config = {"class_name": "Model", "config": {"name": "vgg16", "layers": [
        {"class_name": "Conv2D", "name": name,
            "config": {"name": name, "data_format": "channels_first"}} for name in BLOCKS[:-3]
    ] + [{"class_name": "Flatten", "name": "flatten",
        "config": {"name": "flatten", "data_format": flatten}}]}}  # fmt: skip
    with h5py.File(path := tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [name.encode() for name in BLOCKS]
        root.attrs["keras_version"], root.attrs["backend"] = "2.4.0", "tensorflow"
        for name, layer in zip(BLOCKS, dict.fromkeys(re.sub("/.*", "", key) for key in weights), strict=True):
            weight = weights[f"{layer}/weight"]
            if layer == "fc6" and flatten == "channels_first":
                weight = weight.reshape(len(weight), -1, 7, 7).transpose(0, 2, 3, 1).reshape(len(weight), -1)
            group = root.create_group(name)
            group.attrs["weight_names"] = [f"{name}/kernel:0".encode(), f"{name}/bias:0".encode()]
            group[f"{name}/kernel:0"] = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
            group[f"{name}/bias:0"] = weights[f"{layer}/bias"]
    assert_equal(segtwin_weights.read(path), weights)
    assert CLASSIFIER_PIXELS == 49
