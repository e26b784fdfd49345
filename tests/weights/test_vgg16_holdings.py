"""VGG-16 as people hold it, under the hub's names."""

from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
import segtwin_weights
import torch
from goldens import TINY, recipe, recipe_weights
from segtwin_weights import Weights, WeightsError
from segtwin_weights.formats import wire
from segtwin_weights.mappings import names


def test_torchvisions_old_classifier() -> None:
    """Sequential(Dropout, Linear, ReLU, Dropout, Linear, ReLU, Linear): the layers are 1, 4 and 6."""
    want = recipe_weights("vgg16", TINY, num_classes=30)
    convolutions = dict(
        zip(
            (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), dict.fromkeys(n.split("/")[0] for n in want), strict=False
        )
    )
    keys = {layer: f"features.{i}" for i, layer in convolutions.items()} | {
        "fc6": "classifier.1",
        "fc7": "classifier.4",
        "fc8": "classifier.6",
    }
    got = names.hub_names(
        Weights({f"{keys[name.split('/')[0]]}.{name.split('/')[1]}": blob for name, blob in want.items()})
    )
    assert got.keys() == want.keys()
    for name, blob in want.items():
        np.testing.assert_array_equal(got[name], blob)


@pytest.mark.parametrize("keys", [("weights", "biases"), ("W", "b"), (b"weights", b"biases")])
def test_npy_of_dicts(keys: tuple, tmp_path: Path) -> None:
    """Faster-RCNN_TF's VGG_imagenet.npy holds {layer: {"weights", "biases"}}, its dicts in either
    order."""
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
    """vgg16_weights.npz: conv1_1_W, conv1_1_b, …; it takes RGB minus the mean: an FCN gets conv1_1
    turned, the rest alike."""
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


# --------------------------------------- the convolutional VGG-16 that the FCN authors started from

Layers = Mapping[str, list[np.ndarray]]
PLAIN = recipe.vgg16_npy(1, TINY)
CLASSIFIER = ("fc6", "fc7", "fc8")


def kernel(name: str, weight: np.ndarray) -> np.ndarray:
    """A layer of vgg16.npy as TensorFlow's convolution: 7×7×I×O and 1×1×I×O of inner products."""
    if weight.ndim == 4:
        return weight
    return weight.reshape(7, 7, -1, weight.shape[1]) if name == "fc6" else weight[None, None]


def caffes(name: str, weight: np.ndarray) -> np.ndarray:
    """The same as Caffe's convolution, O×I×h×w."""
    return np.ascontiguousarray(np.moveaxis(kernel(name, weight), (-1, -2), (0, 1)))


def blob_v1(array: np.ndarray) -> bytes:
    sizes = (1,) * (4 - array.ndim) + array.shape
    head = b"".join(wire.key(number, 0) + wire.encode(size) for number, size in enumerate(sizes, 1))
    return head + wire.delimited(5, array.astype("<f4").tobytes())


def blob_v2(array: np.ndarray) -> bytes:
    return wire.delimited(7, wire.delimited(1, b"".join(map(wire.encode, array.shape)))) + wire.delimited(
        5, array.astype("<f4").tobytes()
    )


def caffemodel_v1(layers: Layers, path: Path) -> None:
    """V1LayerParameter: name 4, type 5 (CONVOLUTION = 4), blobs 6."""
    data = wire.text(1, "VGG16")
    for name, (weight, bias) in layers.items():
        blobs = b"".join(wire.delimited(6, blob_v1(one)) for one in (caffes(name, weight), bias))
        data += wire.delimited(2, wire.text(4, name) + wire.key(5, 0) + wire.encode(4) + blobs)
    path.write_bytes(data)


def caffemodel_v2(layers: Layers, path: Path) -> None:
    """LayerParameter: name 1, type 2, blobs 7."""
    data = wire.text(1, "VGG16")
    for name, (weight, bias) in layers.items():
        blobs = b"".join(wire.delimited(7, blob_v2(one)) for one in (caffes(name, weight), bias))
        data += wire.delimited(100, wire.text(1, name) + wire.text(2, "Convolution") + blobs)
    path.write_bytes(data)


def surgery_names(layers: Layers, path: Path) -> None:
    """Caffe's net surgery example calls what it makes of fc6 fc6-conv."""
    caffemodel_v2(
        {f"{name}-conv" if name in CLASSIFIER else name: [kernel(name, w), b] for name, (w, b) in layers.items()}, path
    )


def npy(layers: Layers, path: Path) -> None:
    with open(path, "wb") as file:
        np.save(
            file,
            np.array({name: [kernel(name, w), b] for name, (w, b) in layers.items()}, dtype=object),
            allow_pickle=True,
        )


def npy_flat(layers: Layers, path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, np.array(dict(layers), dtype=object), allow_pickle=True)


def npz(layers: Layers, path: Path) -> None:
    arrays = {
        f"{name}_{part}": array for name, (w, b) in layers.items() for part, array in (("W", kernel(name, w)), ("b", b))
    }
    with open(path, "wb") as file:
        np.savez(file, **{**arrays, "conv1_1_W": arrays["conv1_1_W"][:, :, ::-1]})


def pth(layers: Layers, path: Path) -> None:
    state = {
        f"{name}.{kind}": one
        for name, (w, b) in layers.items()
        for kind, one in (("weight", caffes(name, w)), ("bias", b))
    }
    torch.save({key: torch.from_numpy(array) for key, array in state.items()}, path)


def keras_h5(layers: Layers, path: Path) -> None:
    """Keras 2, keras.applications' names."""
    theirs = {ours: keras for keras, ours in names.KERAS_VGG16.items()}
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [theirs[name].encode() for name in layers]
        file.attrs["keras_version"], file.attrs["backend"] = b"2.2.4", b"tensorflow"
        for name, (weight, bias) in layers.items():
            group = file.create_group(theirs[name])
            group.attrs["weight_names"] = [f"{theirs[name]}/{kind}:0".encode() for kind in ("kernel", "bias")]
            group[f"{theirs[name]}/kernel:0"], group[f"{theirs[name]}/bias:0"] = kernel(name, weight), bias


HOLDINGS: list[Callable[[Layers, Path], None]] = [
    caffemodel_v1,
    caffemodel_v2,
    surgery_names,
    npy,
    npy_flat,
    npz,
    pth,
    keras_h5,
]
holding = pytest.mark.parametrize("write", HOLDINGS, ids=lambda write: write.__name__)


def converted(path: Path, to: str, score_init: str) -> Weights:
    return segtwin_weights.convert(segtwin_weights.read(path), to=to, num_classes=5, score_init=score_init)


def by_hand(to: str, score_init: str) -> dict[str, np.ndarray]:
    """What an FCN of 5 classes starts with: the layers' own kernels; fc8's 1000 classes in averages
    of 200, or zeros."""
    want = {}
    for name, (weight, bias) in PLAIN.items():
        if name != "fc8":
            want |= {f"{name}/weight": caffes(name, weight), f"{name}/bias": bias}
    weight, bias = (np.zeros_like(one) if score_init == "zeros" else one for one in PLAIN["fc8"])
    averages = weight.T.reshape(5, 200, -1).astype(np.float64).mean(axis=1)
    return want | {
        "score_fr/weight": averages[:, :, None, None],
        "score_fr/bias": bias.reshape(5, 200).astype(np.float64).mean(axis=1),
    }


@pytest.mark.parametrize("score_init", ["fc8-average", "zeros"])
@pytest.mark.parametrize("to", ["fcn32s", "fcn8s"])
@holding
def test_an_fcn_of_each(write: Callable[[Layers, Path], None], to: str, score_init: str, tmp_path: Path) -> None:
    """The file with fc8, and for "zeros" the file without it, which is the one that people cut."""
    layers = {name: pair for name, pair in PLAIN.items() if name != "fc8" or score_init != "zeros"}
    write(layers, tmp_path / "file")
    npy_flat(PLAIN, tmp_path / "vgg16.npy")
    got, plain = converted(tmp_path / "file", to, score_init), converted(tmp_path / "vgg16.npy", to, score_init)
    assert got.keys() == plain.keys()
    for name, blob in plain.items():
        np.testing.assert_array_equal(got[name], blob, err_msg=name)
    for name, blob in by_hand(to, score_init).items():
        np.testing.assert_allclose(
            got[name], blob, rtol=1e-5 if name.startswith("score") else 0, atol=1e-7 if name.startswith("score") else 0
        )


@holding
def test_without_fc8_there_is_no_average(write: Callable[[Layers, Path], None], tmp_path: Path) -> None:
    write({name: pair for name, pair in PLAIN.items() if name != "fc8"}, tmp_path / "file")
    with pytest.raises(
        WeightsError,
        match=r"file: the VGG-16 has no fc8 to average for score_fr; start it at zero \(--score-init zeros\)",
    ):
        converted(tmp_path / "file", "fcn8s", "fc8-average")


@holding
def test_without_a_classifier_no_fcn_starts(write: Callable[[Layers, Path], None], tmp_path: Path) -> None:
    """include_top=False."""
    write({name: pair for name, pair in PLAIN.items() if name not in CLASSIFIER}, tmp_path / "file")
    with pytest.raises(WeightsError, match="file: is a VGG-16 without its classifier"):
        converted(tmp_path / "file", "fcn8s", "zeros")


def test_a_convolutional_fc6_of_another_size(tmp_path: Path) -> None:
    """DeepLab's fc6 has a kernel of 3×3 or 4×4: other numbers, not another layout."""
    layers = {
        name: [kernel(name, w)[:4, :4] if name == "fc6" else kernel(name, w), b] for name, (w, b) in PLAIN.items()
    }
    npy_flat(layers, tmp_path / "file.npy")
    with pytest.raises(
        WeightsError, match=r"file\.npy: fc6 weights are \(4, 4, 12, 14\), but \(7, 7, 12, 14\) follows"
    ):
        segtwin_weights.read(tmp_path / "file.npy")


# --------------------------------------------------------------------------- Caffe's HDF5 snapshots


def caffemodel_h5(layers: Layers, path: Path, dtype: str = "<f4", flat: bool = False) -> None:
    """As `Net::ToHDF5` writes: a group a layer, its blobs by number; empty for layers without;
    gradients where they are asked for."""
    with h5py.File(path, "w") as file:
        for group in (file.create_group("data"), file.create_group("diff")):
            group.create_group("relu1_1")
            for name, (weight, bias) in layers.items():
                array = caffes(name, weight)
                array = array.reshape(len(array), -1) if flat and name in CLASSIFIER else array
                sign = 1 if group.name == "/data" else np.nan  # whoever reads gradients reads NaN
                layer = group.create_group(name)
                layer.create_dataset("0", data=array.astype(dtype) * sign)
                layer.create_dataset("1", data=bias.astype(dtype) * sign)


@pytest.mark.parametrize("flat", [False, True], ids=["convolutions", "inner products"])
@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_a_snapshot_in_hdf5(dtype: str, flat: bool, tmp_path: Path) -> None:
    caffemodel_h5(PLAIN, tmp_path / "vgg16.caffemodel.h5", dtype, flat)
    npy_flat(PLAIN, tmp_path / "vgg16.npy")
    read = segtwin_weights.read(tmp_path / "vgg16.caffemodel.h5")
    assert segtwin_weights.file_kind(tmp_path / "vgg16.caffemodel.h5") == "caffemodel.h5"
    assert list(read)[:3] == ["conv1_1/weight", "conv1_1/bias", "conv1_2/weight"]
    assert {blob.dtype for blob in read.values()} == {np.dtype(dtype)}
    got, want = (
        segtwin_weights.convert(one, to="fcn8s", num_classes=5)
        for one in (read, segtwin_weights.read(tmp_path / "vgg16.npy"))
    )
    assert got.keys() == want.keys()
    # of a mean of 200 numbers in float32, which doubles are free of
    rounding = 200 * 2.0**-24 * np.abs(PLAIN["fc8"][0]).max()
    for name, blob in want.items():
        np.testing.assert_allclose(
            got[name],
            blob,
            rtol=0,
            atol=rounding if dtype == "<f8" and name.startswith("score_fr") else 0,
            err_msg=name,
        )


def test_a_trained_fcn_in_hdf5(tmp_path: Path) -> None:
    """Deconvolutions and all; the same blobs as in the .caffemodel."""
    want = recipe_weights("fcn8s", TINY)
    with h5py.File(tmp_path / "file", "w") as file:
        for name, blob in want.items():
            file[f"data/{name.replace('/weight', '/0').replace('/bias', '/1')}"] = blob
    got = segtwin_weights.read(tmp_path / "file")
    assert list(got) == list(want)
    assert got.metadata["architecture"] == "fcn8s"
    for name, blob in want.items():
        np.testing.assert_array_equal(got[name], blob)


def test_a_damaged_snapshot_in_hdf5(tmp_path: Path) -> None:
    caffemodel_h5(PLAIN, tmp_path / "file")
    with h5py.File(tmp_path / "file", "a") as file:
        del file["data/conv1_1/0"]
    with pytest.raises(WeightsError, match="file: conv1_1 has the blobs"):
        segtwin_weights.read(tmp_path / "file")
    with h5py.File(tmp_path / "other", "w") as file:
        file.create_group("data/relu")
        file["data/conv1_1"] = h5py.ExternalLink("file", "/data/conv1_1")
    with pytest.raises(WeightsError, match="other: conv1_1 is a link"):
        segtwin_weights.read(tmp_path / "other")
