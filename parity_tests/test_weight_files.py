"""Every format against the library that writes it: what goes in comes out, bit for bit, under the
hub's names and in its layouts."""

import json
import subprocess
import sys
import warnings

import fuzz
import keras
import numpy as np
import onnx
import pytest
import segtwin
import segtwin_keras
import segtwin_torch
import segtwin_weights
import torch
import torchvision
from goldens import FOLDER, TINY, recipe, recipe_weights, weights_of
from keras import layers
from segtwin import oracle
from segtwin.architectures import get_architecture, known_architectures, list_architectures
from segtwin_weights import Weights, WeightsError, surgery
from segtwin_weights.formats import caffemodel, prototxt, safetensors_file, wire
from segtwin_weights.mappings import names

import tensorflow as tf
from engines import exported

CAFFE_NETWORKS = [architecture.name for architecture in known_architectures() if prototxt.writable(architecture)]
# of Keras 3.15 itself, under numpy 2
KERAS_SAVES = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CAFFE_FILES = ["tiny_fcn8s_s1_c21", "tiny_vgg16_s1_v1", "tiny_vgg16_s1_v2"]


def caffe_file(stem: str):
    return FOLDER / "caffe" / f"{stem}.caffemodel"


def drawn(architecture: str) -> Weights:
    """Narrow random weights of a Caffe net."""
    architecture = get_architecture(architecture)
    widths = TINY if len(architecture.widths) == len(TINY) else recipe.TINY_UNET
    return recipe_weights(architecture, widths, num_classes=min(architecture.num_classes, 21))


def assert_equal(got: Weights, want: Weights) -> None:
    assert got.keys() == want.keys()
    for name, blob in want.items():
        assert got[name].dtype == blob.dtype, name
        assert got[name].shape == blob.shape, name
        assert got[name].tobytes() == np.ascontiguousarray(blob).tobytes(), name


# -------------------------------------------------------------------------------------- .caffemodel


@pytest.mark.parametrize("stem", CAFFE_FILES)
def test_files_of_real_caffe_read_exactly(stem: str) -> None:
    weights = segtwin_weights.read(caffe_file(stem))
    architecture = get_architecture(weights.metadata["architecture"])
    classes, channels, widths = segtwin_weights.dimensions(weights, architecture)
    assert (channels, widths) == (3, TINY)
    assert {name: blob.shape for name, blob in weights.items()} == {
        p.name: p.shape for p in architecture.parameters(classes, widths)
    }
    for parameter in architecture.parameters(classes, widths):
        if parameter.lr_mult:
            np.testing.assert_array_equal(weights[parameter.name], recipe.caffe(parameter.name, parameter.shape, 1))
        else:
            np.testing.assert_array_equal(
                weights[parameter.name], segtwin.geometry.bilinear_deconvolution(classes, parameter.shape[-1])
            )


def test_the_vgg16_of_caffe_computes_what_caffe_computed() -> None:
    """fc6's columns are C·H·W: H·W·C would have the same shape."""
    golden = np.load(FOLDER / "caffe" / "tiny_vgg16_s1_out.npz")
    weights = segtwin_weights.read(caffe_file("tiny_vgg16_s1_v1"))
    blobs = oracle.run(get_architecture("vgg16"), weights, recipe.caffe_input((1, 3, 224, 224), 1))
    for name in ("fc6", "fc7", "fc8"):
        assert oracle.relative_error(blobs[name].reshape(golden[name].shape), golden[name]) < 4e-6, name


@pytest.mark.parametrize("architecture", CAFFE_NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_caffemodel_round_trip(architecture: str, dtype: str, tmp_path) -> None:
    weights = Weights({name: blob.astype(dtype) for name, blob in drawn(architecture).items()})
    segtwin_weights.write(weights, tmp_path / "w.caffemodel")
    again = segtwin_weights.read(tmp_path / "w.caffemodel")
    assert_equal(again, weights)
    assert list(again) == list(weights)
    assert again.metadata["architecture"] == architecture
    assert (tmp_path / "w.deploy.prototxt").read_text().count("layer {") >= len(get_architecture(architecture).layers)


def test_prototxt_is_net_py() -> None:
    """Layer for layer and value for value the deploy file that Caffe's own net.py wrote, crop
    offsets, fillers and multipliers included."""
    for architecture in CAFFE_NETWORKS:
        path = FOLDER / "caffe" / f"tiny_{architecture}_deploy.prototxt"
        if path.exists():
            theirs, ours = parse(path.read_text()), parse(prototxt.deploy(get_architecture(architecture), 21, 3, TINY))
            theirs[0][1]["input_param"] = ours[0][1]["input_param"]
            assert [layer["name"] for _, layer in ours] == [layer["name"] for _, layer in theirs]
            for (_, ours_), (_, theirs_) in zip(ours, theirs, strict=True):
                assert without_defaults(ours_) == without_defaults(theirs_), (architecture, ours_["name"])


def parse(text: str) -> list:
    """[(field, {field: [values]})] of a prototxt; enough of the text format for net.py's files."""
    import re

    tokens = iter(re.findall(r'"[^"]*"|[{}]|[\w.\-+]+', re.sub(r"#.*", "", text)))

    def message() -> dict:
        fields: dict = {}
        for token in tokens:
            if token == "}":
                break
            value = next(tokens)
            fields.setdefault(token, []).append(message() if value == "{" else value.strip('"'))
        return fields

    return [("layer", {**layer, "name": layer["name"][0]}) for layer in message()["layer"]]


def without_defaults(layer: dict) -> dict:
    """Caffe's defaults, said or not, are one."""
    layer = json.loads(json.dumps(layer))
    for params in layer.values():
        for one in params if isinstance(params, list) else []:
            if isinstance(one, dict):
                for field, default in (
                    ("pad", "0"),
                    ("stride", "1"),
                    ("operation", "SUM"),
                    ("axis", "1"),
                    ("decay_mult", "1"),
                ):
                    if one.get(field) == [default]:
                        del one[field]
    return layer


def test_training_files_go_with_an_fcn(tmp_path) -> None:
    segtwin_weights.write(drawn("fcn8s"), tmp_path / "w.caffemodel")
    solver = (tmp_path / "w.solver.prototxt").read_text()
    assert "base_lr: 1e-14\n" in solver
    assert "momentum: 0.99\n" in solver
    assert 'net: "w.train_val.prototxt"' in solver
    theirs = parse((FOLDER / "caffe" / "tiny_fcn8s_train.prototxt").read_text())
    ours = parse((tmp_path / "w.train_val.prototxt").read_text())
    learned = ("Convolution", "Deconvolution", "Crop", "Eltwise", "SoftmaxWithLoss")
    want = {layer["name"]: without_defaults(layer) for _, layer in theirs if layer["type"][0] in learned}
    assert {layer["name"]: without_defaults(layer) for _, layer in ours if layer["type"][0] in learned} == want
    assert [layer["type"] for _, layer in ours[:2]] == [["Python"], ["Python"]]


def test_old_and_odd_caffemodels_read() -> None:
    """Unpacked floats, doubles, fields of a later Caffe, layers without blobs, a blob of no axis,
    an inner product of four axes."""
    values = np.arange(12, dtype=np.float32)

    def blob(data: bytes, *dims: int, legacy: bool = False) -> bytes:
        if legacy:
            return b"".join(wire.key(n, 0) + wire.encode(d) for n, d in zip((1, 2, 3, 4), dims, strict=True)) + data
        return wire.delimited(7, b"".join(wire.key(1, 0) + wire.encode(d) for d in dims)) + data

    unpacked = b"".join(wire.key(5, 5) + value.tobytes() for value in values)
    doubles = wire.delimited(8, values.astype("<f8").tobytes())
    unknown = wire.text(77, "of a later Caffe") + wire.key(78, 0) + b"\x05" + wire.key(79, 1) + bytes(8)
    file = wire.text(1, "odd") + unknown
    file += wire.delimited(100, wire.text(1, "data") + wire.text(2, "Input"))
    file += wire.delimited(
        100, wire.text(1, "a") + wire.text(2, "Convolution") + wire.delimited(7, blob(unpacked, 3, 1, 2, 2)) + unknown
    )
    file += wire.delimited(
        100, wire.delimited(7, blob(doubles, 3, 4)) + wire.text(2, "InnerProduct") + wire.text(1, "b")
    )
    v1 = wire.text(4, "c") + wire.key(5, 0) + wire.encode(14)
    v1 += wire.delimited(6, blob(unpacked, 1, 1, 3, 4, legacy=True)) + wire.delimited(
        6, blob(wire.delimited(5, values[:3].tobytes()), 1, 1, 1, 3, legacy=True)
    )
    file += wire.delimited(2, v1)
    (path := FOLDER.parent / ".odd.caffemodel").write_bytes(file)
    try:
        weights = caffemodel.read(path)
    finally:
        path.unlink()
    np.testing.assert_array_equal(weights["a/weight"], values.reshape(3, 1, 2, 2))
    np.testing.assert_array_equal(weights["b/weight"], values.reshape(3, 4).astype("f8"))
    np.testing.assert_array_equal(weights["c/weight"], values.reshape(3, 4))
    assert weights["c/bias"].shape == (3,)
    assert weights["b/weight"].dtype == np.float64


# -------------------------------------------------------------------------------------------- torch


def small_module() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ConvTranspose2d(4, 2, 2, 2))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: dict(state),
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {
            "epoch": 3, "iteration": 400, "arch": "FCN8s", "best_mean_iu": np.float64(0.6), "model_state_dict": state,
            "optim_state_dict": torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=0.1,
                momentum=0.9).state_dict(),
        },
    ],
    ids=["OrderedDict", "dict", "DataParallel", "compile", "state_dict", "torchfcn"],
)  # fmt: skip
def test_torch_checkpoints(zipped: bool, wrap, tmp_path) -> None:
    state = small_module().state_dict()
    torch.save(wrap(state), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert_equal(
        segtwin_weights.read(tmp_path / "w.pth"), Weights({key: value.numpy() for key, value in state.items()})
    )


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torch_views_parameters_and_types(zipped: bool, tmp_path) -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    tensors = {
        "transposed": x.t(), "cut": x[1:, 2:], "half": x.half(), "double": x.double(), "number": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "counter": torch.tensor(7), "bytes": torch.arange(5, dtype=torch.uint8), "flags": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(x + 1), "strided": x[::2, ::3],
    }  # fmt: skip
    torch.save(tensors, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    weights = segtwin_weights.read(tmp_path / "w.pt")
    assert_equal(weights, Weights({key: value.detach().numpy() for key, value in tensors.items()}))
    torch.save({"b": x.bfloat16()}, tmp_path / "b.pt", _use_new_zipfile_serialization=zipped)
    with pytest.warns(segtwin.Converted, match="bfloat16"):
        weights = segtwin_weights.read(tmp_path / "b.pt")
    np.testing.assert_array_equal(weights["b"], x.bfloat16().float().numpy())


def test_written_state_dict_is_torchs(tmp_path) -> None:
    """`torch.load` of its safe kind reads it; numbers, types, shapes, strides and order are those
    of torch's own file."""
    state = {**small_module().state_dict(), "double": torch.ones(2, dtype=torch.float64), "one": torch.tensor(2.5)}
    weights = Weights({key: value.numpy() for key, value in state.items()}, {"colour": "BGR", "mean": [1.0, 2.0, 3.0]})
    segtwin_weights.write(weights, tmp_path / "w.pth")
    loaded = torch.load(tmp_path / "w.pth", weights_only=True)
    assert list(loaded) == list(state)
    for key, value in state.items():
        assert (loaded[key].dtype, loaded[key].shape, loaded[key].stride()) == (
            value.dtype,
            value.shape,
            value.stride(),
        ), key
        assert torch.equal(loaded[key], value), key
    again = segtwin_weights.read(tmp_path / "w.pth")
    assert_equal(again, weights)
    assert again.metadata["mean"] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "model", ["Unet_3_2", "UnetSmall", "resnet34_unet_n1", "VGGFCN32_n21", "VGGFCN16_n21", "VGGFCN8_n21"]
)
def test_checkpoints_of_the_seeds_classes(model: str, tmp_path) -> None:
    """The keys are those of the original state_dicts; widths are cut to a quarter of a quarter, the
    tied classifier of VGGFCN stays tied."""
    shapes = json.loads((FOLDER / "seed" / "torch_state_dict_keys.json").read_text())[model]
    small = {key: [size if size < 16 else size // 16 for size in shape] for key, shape in shapes.items()}
    state = {key: torch.from_numpy(np.asarray(value)) for key, value in recipe.torch_state(small, 1).items()}
    for i in (0, 3):
        if f"vgg16.classifier.{i}.weight" in state:
            state[f"classifier.{i}.weight"] = state[f"vgg16.classifier.{i}.weight"].reshape(
                state[f"classifier.{i}.weight"].shape
            )
    torch.save(state, tmp_path / "w.pth")
    assert_equal(
        segtwin_weights.read(tmp_path / "w.pth"), Weights({key: value.numpy() for key, value in state.items()})
    )


TORCHFCN = [path.name.split("_")[0] for path in sorted((FOLDER / "torchfcn").glob("*.npz"))]


@pytest.mark.parametrize("net", [net for net in TORCHFCN if net in list_architectures()])
def test_torchfcn_checkpoints_compute_what_torchfcn_computed(net: str, tmp_path) -> None:
    """golden/torchfcn holds the keys and the scores of the published models; its at-once net has
    its scales in the code."""
    golden = np.load(FOLDER / "torchfcn" / f"{net}_1x67x91.npz")
    shapes = json.loads(str(golden["shapes"]))
    state = {}
    for key, shape in shapes.items():
        name = key.replace(".", "/")
        blob = (
            segtwin.geometry.bilinear_deconvolution(shape[0], shape[-1])
            if key.startswith("upscore")
            else recipe.caffe(name, tuple(shape), 1)
        )
        state[key] = torch.from_numpy(blob)
    torch.save({"arch": net, "model_state_dict": state}, tmp_path / "checkpoint.pth.tar")
    read = segtwin_weights.read(tmp_path / "checkpoint.pth.tar", raw=True)
    assert read.keys() == shapes.keys()
    weights = segtwin_weights.convert(read, to=net)
    model = segtwin_torch.build(net, widths=TINY, weights=weights)
    score = segtwin_torch.blobs(model, recipe.caffe_input((1, 3, 67, 91), 1))["score"]
    thin = score[:, :, :: int(golden["stride"]), :: int(golden["stride"])]
    # two float32 runs of one network, each within 2e-6 of float64 (golden/README.md); measured 6e-7
    assert oracle.relative_error(thin, golden["score"]) < 4e-6


def test_our_own_checkpoints_load_in_both_twins(tmp_path) -> None:
    weights = drawn("fcn8s")
    model = segtwin_torch.build("fcn8s", widths=TINY, weights=weights)
    segtwin_torch.save_checkpoint(model, tmp_path / "w.pth")
    for twin in (segtwin_torch, segtwin_keras):
        assert_equal(twin.read_weights(twin.build("fcn8s", widths=TINY, weights=tmp_path / "w.pth")), weights)


# -------------------------------------------------------------------------------------- torchvision


def torchvision_vgg16() -> torch.nn.Module:
    """torchvision's vgg16, narrowed."""
    torch.manual_seed(2)
    c1, c2, c3, c4, c5, fc6, fc7 = TINY
    stages = [c1, c1, "M", c2, c2, "M", c3, c3, c3, "M", c4, c4, c4, "M", c5, c5, c5, "M"]
    model = torchvision.models.VGG(
        torchvision.models.vgg.make_layers(stages, batch_norm=False), num_classes=30, init_weights=True
    )
    for i, (inputs, outputs) in {0: (49 * c5, fc6), 3: (fc6, fc7), 6: (fc7, 30)}.items():
        model.classifier[i] = torch.nn.Linear(inputs, outputs)
    return model.eval()


def test_torchvisions_vgg16_computes_the_same_from_bgr(tmp_path) -> None:
    """RGB, scaled and normalised there; BGR minus the mean here, with conv1_1 turned. With
    torchvision's own mean the padding agrees too."""
    model = torchvision_vgg16()
    torch.save(model.state_dict(), tmp_path / "vgg16.pth")
    read = segtwin_weights.read(tmp_path / "vgg16.pth", raw=True)
    assert read.keys() == model.state_dict().keys()
    image = np.random.default_rng(5).integers(0, 256, (224, 224, 3)).astype(np.float64)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    with torch.no_grad():
        want = model.double()(torch.from_numpy(((image / 255 - mean) / std).transpose(2, 0, 1)[None])).numpy()
    weights = names.turned(names.hub_names(read), segtwin.Preprocessing("BGR", 255 * mean[::-1]))
    bgr = (image[..., ::-1] - 255 * mean[::-1]).transpose(2, 0, 1)[None]
    got = oracle.run(get_architecture("vgg16"), weights, bgr)["fc8"].reshape(want.shape)
    assert oracle.relative_error(got, want) < 1e-6  # conv1_1 was rounded to float32 once
    converted = segtwin_weights.convert(read, to="fcn8s", num_classes=5)
    assert "preprocessing" not in converted.metadata, "torchvision's names alone do not prove its training"
    window = image[None, 100:140, 100:140, ::-1].transpose(0, 3, 1, 2) - bgr_mean("fcn8s")
    inside = oracle.run(get_architecture("fcn8s"), converted, window)["conv1_1"]
    whole = oracle.run(get_architecture("vgg16"), weights, bgr)["conv1_1"]
    # pad 100 around the image, less 1 for the kernel
    cut = inside[:, :, 100:-100, 100:-100] if inside.shape[2] > 200 else inside
    np.testing.assert_allclose(cut[:, :, 2:36, 2:36], whole[:, :, 103:137, 103:137], atol=1e-4)


def bgr_mean(architecture: str) -> np.ndarray:
    return np.array(get_architecture(architecture).mean)[None, :, None, None]


def test_the_features_only_vgg16_is_refused_by_name(tmp_path) -> None:
    state = torchvision_vgg16().state_dict()
    for key in state:
        if key.startswith("classifier"):
            state[key] = torch.full_like(state[key], float("nan"))
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(WeightsError, match=r"nan\.pth: these are torchvision's vgg16 IMAGENET1K_FEATURES"):
        segtwin_weights.read(tmp_path / "nan.pth")
    torch.save({key: value for key, value in state.items() if key.startswith("features")}, tmp_path / "features.pth")
    with pytest.raises(WeightsError, match="IMAGENET1K_FEATURES"):
        segtwin_weights.convert(segtwin_weights.read(tmp_path / "features.pth"), to="fcn8s")
    torch.save(
        torchvision.models.VGG(
            torchvision.models.vgg.make_layers([4, "M"], batch_norm=True), init_weights=False
        ).features.state_dict(),
        tmp_path / "a.pth",
    )
    with pytest.raises(WeightsError, match="not the weights of vgg16"):
        segtwin_weights.convert(segtwin_weights.read(tmp_path / "a.pth"), to="fcn8s")


@pytest.mark.parametrize("twin", [segtwin_torch, segtwin_keras])
@pytest.mark.parametrize(
    ("metadata", "want"),
    [
        ({"colour": "RGB"}, lambda rgb: rgb - [122.67892, 116.66877, 104.00699]),
        (
            {"colour": "BGR", "mean": [122.67892, 116.66877, 104.00699]},
            lambda rgb: rgb[..., ::-1] - [122.67892, 116.66877, 104.00699],
        ),
        (
            {"colour": "BGR", "mean": [0.408, 0.457, 0.481], "divisor": 255.0},
            lambda rgb: rgb[..., ::-1] / 255 - [0.408, 0.457, 0.481],
        ),
        (
            {"colour": "BGR", "mean": [103.5, 116.3, 123.7], "std": [57.4, 57.1, 58.4]},
            lambda rgb: (rgb[..., ::-1] - [103.5, 116.3, 123.7]) / [57.4, 57.1, 58.4],
        ),
        (
            {"preprocessing": {"colour": "RGB", "mean": [0.5], "std": [0.5], "scale": 1 / 255, "bits": 8}},
            lambda rgb: (rgb / 255 - 0.5) / 0.5,
        ),
        ({}, lambda rgb: rgb[..., ::-1] - [104.00699, 116.66877, 122.67892]),
    ],
)
def test_a_models_preprocessing_is_its_weights(twin, metadata: dict, want) -> None:
    model = twin.build("fcn8s", weights=Weights(drawn("fcn8s"), metadata))
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    expected = want(image.astype(np.float64)).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(segtwin.preprocess(image, model), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(segtwin.preprocess(image, model.preprocessing), expected, rtol=1e-5, atol=1e-5)
    again = twin.build("fcn8s", weights=twin.read_weights(model))
    assert again.preprocessing == model.preprocessing


# -------------------------------------------------------------------------------------------- Keras


@KERAS_SAVES
@pytest.mark.parametrize(
    "architecture", [architecture for architecture in CAFFE_NETWORKS if architecture in list_architectures()]
)
def test_keras_files_both_ways(architecture: str, tmp_path) -> None:
    """What Keras writes of the twin is read; what is written is loaded by Keras."""
    weights = drawn(architecture)
    widths = segtwin_weights.dimensions(weights, architecture).widths
    model = segtwin_keras.build(architecture, widths=widths, weights=weights)
    model.save_weights(tmp_path / "theirs.weights.h5")
    model.save(tmp_path / "theirs.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "theirs.h5")
    for name in ("theirs.weights.h5", "theirs.keras", "theirs.h5"):
        assert_equal(read := segtwin_weights.read(tmp_path / name), weights)
        assert read.metadata["architecture"] == architecture
    segtwin_weights.write(weights, tmp_path / "ours.weights.h5")
    assert_equal(segtwin_weights.read(tmp_path / "ours.weights.h5"), weights)
    empty = segtwin_keras.build(architecture, widths=widths)
    empty.load_weights(tmp_path / "ours.weights.h5")
    assert_equal(segtwin_keras.read_weights(empty), weights)


@KERAS_SAVES
@pytest.mark.parametrize(
    "architecture", [architecture for architecture in list_architectures() if architecture not in CAFFE_NETWORKS]
)
def test_keras_files_of_the_other_networks_are_read(architecture: str, tmp_path) -> None:
    """With BatchNorm's statistics and counters, idle layers, and keys that share their storage.
    Only Keras writes them, and the error says how."""
    widths = {7: TINY, 5: recipe.TINY_UNET, 0: None}[len(get_architecture(architecture).widths)]
    weights = segtwin_weights.initialize(architecture, widths=widths, seed=4)
    weights = Weights(
        {name: blob + 7 if blob.dtype == np.int64 else blob for name, blob in weights.items()}, weights.metadata
    )
    model = segtwin_keras.build(architecture, widths=widths, weights=weights)
    model.save_weights(tmp_path / "theirs.weights.h5")
    model.save(tmp_path / "theirs.keras")
    for name in ("theirs.weights.h5", "theirs.keras"):
        read = segtwin_weights.read(tmp_path / name)
        assert read.metadata["architecture"] == architecture
        assert_equal(read, weights)
    with pytest.raises(WeightsError, match="use segtwin export … --framework keras"):
        segtwin_weights.write(weights, tmp_path / "ours.weights.h5")
    assert not (tmp_path / "ours.weights.h5").exists()


def keras_vgg16() -> keras.Model:
    """keras.applications' VGG16, narrowed: its layer names in its order."""
    keras.utils.set_random_seed(3)
    x = image = keras.Input((224, 224, 3))
    for stage, (width, count) in enumerate(zip(TINY[:5], (2, 2, 3, 3, 3), strict=True), 1):
        for i in range(1, count + 1):
            x = layers.Conv2D(
                width,
                3,
                padding="same",
                activation="relu",
                name=f"block{stage}_conv{i}",
                bias_initializer="random_normal",
            )(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(TINY[5], activation="relu", name="fc1")(x)
    x = layers.Dense(TINY[6], activation="relu", name="fc2")(x)
    return keras.Model(image, layers.Dense(30, name="predictions")(x))


@KERAS_SAVES
def test_keras_applications_vgg16(tmp_path) -> None:
    """fc1's rows are H·W·C; read as C·H·W they would compute something else."""
    model = keras_vgg16()
    data = recipe.caffe_input((1, 3, 224, 224), 1)
    want = model(data.transpose(0, 2, 3, 1)).numpy()
    model.save_weights(tmp_path / "new.weights.h5")
    model.save(tmp_path / "new.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "old.h5")
    read = [segtwin_weights.read(tmp_path / name) for name in ("new.weights.h5", "new.keras", "old.h5")]
    for weights in read:
        assert weights.metadata["architecture"] == "vgg16"
        got = oracle.run(get_architecture("vgg16"), weights, data)["fc8"].reshape(want.shape)
        assert oracle.relative_error(got, want) < 4e-6
        assert weights.fingerprint() == read[0].fingerprint()
    segtwin_weights.write(read[0], tmp_path / "back.weights.h5")
    model.set_weights([0 * array for array in model.get_weights()])
    model.load_weights(tmp_path / "back.weights.h5")
    np.testing.assert_array_equal(model(data.transpose(0, 2, 3, 1)).numpy(), want)


@KERAS_SAVES
def test_keras_layers_by_the_config_of_older_versions(tmp_path) -> None:
    """Keras before 3.10 left the layers' names out of the weights; config.json has them. Batch
    normalisation keeps its four arrays."""
    import h5py

    x = image = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="second")(layers.Conv2D(5, 3, name="first")(x)))
    model = keras.Model(image, layers.Conv2DTranspose(2, 2, name="up")(x))
    model.save(tmp_path / "m.keras")
    import zipfile

    with zipfile.ZipFile(tmp_path / "m.keras") as archive, zipfile.ZipFile(tmp_path / "old.keras", "w") as old:
        (tmp_path / "w.h5").write_bytes(archive.read("model.weights.h5"))
        with h5py.File(tmp_path / "w.h5", "r+") as file:
            file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
        old.writestr("config.json", archive.read("config.json"))
        old.write(tmp_path / "w.h5", "model.weights.h5")
    weights = segtwin_weights.read(tmp_path / "old.keras")
    assert weights["first/weight"].shape == (5, 3, 3, 3)
    np.testing.assert_array_equal(
        weights["second/weight"], model.get_layer("second").kernel.numpy().transpose(3, 2, 0, 1)
    )
    np.testing.assert_array_equal(weights["up/weight"], model.get_layer("up").kernel.numpy().transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(weights["norm/running_var"], model.get_layer("norm").moving_variance.numpy())


# --------------------------------------------------------------------------------------------- ONNX


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_onnx_exports_give_their_weights_back(framework: str, external: bool, tmp_path) -> None:
    weights = weights_of("fcn8s", TINY, 1)
    path = exported(framework, "fcn8s", weights)
    if external:
        onnx.save(onnx.load(path), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
        path = tmp_path / "m.onnx"
    read = segtwin_weights.read(path)
    assert_equal(read, weights)
    assert list(read) == list(weights)
    default = {"colour": "BGR", "mean": [104.00699, 116.66877, 122.67892], "std": [1.0], "scale": 1.0, "bits": 8}
    assert (read.metadata["preprocessing"], read.metadata["preprocessing_assumed"]) == (default, True)


def test_onnx_of_torchvision_by_its_names(tmp_path) -> None:
    model = torchvision_vgg16()
    initializers = [onnx.numpy_helper.from_array(value.numpy(), key) for key, value in model.state_dict().items()]
    initializers.append(onnx.numpy_helper.from_array(np.array([1, -1], np.int64), "shape"))
    floats = onnx.helper.make_tensor("unpacked", onnx.TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [*initializers, floats])), tmp_path / "m.onnx"
    )
    read = segtwin_weights.read(tmp_path / "m.onnx")
    assert read.keys() == {*model.state_dict(), "unpacked"}
    np.testing.assert_array_equal(read["unpacked"], [[1, 2], [3, 4]])
    torch.save(model.state_dict(), tmp_path / "m.pth")
    want = segtwin_weights.convert(segtwin_weights.read(tmp_path / "m.pth"), to="fcn8s", num_classes=5)
    without = Weights({name: blob for name, blob in read.items() if name != "unpacked"})
    assert_equal(segtwin_weights.convert(without, to="fcn8s", num_classes=5), want)


# --------------------------------------------------------------------- safetensors and TensorFlow 1


def test_safetensors_shards(tmp_path) -> None:
    weights = drawn("fcn8s")
    safetensors_file.write(weights, tmp_path / "w.safetensors", shard_bytes=100_000)
    assert len(list(tmp_path.glob("w-*-of-*.safetensors"))) > 2
    assert_equal(read := segtwin_weights.read(tmp_path / "w.safetensors.index.json"), weights)
    assert read.metadata["architecture"] == "fcn8s"
    next(iter(tmp_path.glob("w-00001-*"))).unlink()
    with pytest.raises(WeightsError, match="shard w-00001"):
        segtwin_weights.read(tmp_path / "w.safetensors.index.json")


def test_safetensors_of_others_by_their_names(tmp_path) -> None:
    from safetensors.torch import save_file

    weights = drawn("fcn8s")
    save_file(
        {f"module.{name.replace('/', '.')}": torch.from_numpy(blob) for name, blob in weights.items()},
        tmp_path / "w.safetensors",
    )
    read = segtwin_weights.read(tmp_path / "w.safetensors", raw=True)
    assert "conv1_1.weight" in read  # by the rule of checkpoints, as a .pth
    assert_equal(segtwin_weights.convert(read, to="fcn8s"), weights)
    assert_equal(segtwin_weights.read(tmp_path / "w.safetensors"), weights)


def test_checkpoints_of_tensorflow_fcn(tmp_path) -> None:
    weights = drawn("fcn8s")
    variables = {}
    for name, blob in weights.items():
        layer, kind = name.split("/")
        kinds = (
            {"bias": "biases"}
            if kind == "bias"
            else {"weight": "filter" if layer.startswith("conv") else "up_filter" if "up" in layer else "weights"}
        )
        variables[f"{layer}/{kinds[kind]}"] = blob.transpose(2, 3, 1, 0) if blob.ndim == 4 else blob
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in variables.items():
            tf.compat.v1.get_variable(name, initializer=value)
        tf.compat.v1.get_variable("conv1_1/filter/Adam", initializer=np.ones(3, "f4"))
        tf.compat.v1.get_variable("global_step", initializer=np.int64(7))
        session.run(tf.compat.v1.global_variables_initializer())
        prefix = tf.compat.v1.train.Saver().save(session, str(tmp_path / "fcn8.ckpt"), global_step=7)
    for path in (prefix, f"{prefix}.index", f"{prefix}.data-00000-of-00001"):
        assert_equal(segtwin_weights.read(path), weights)


def test_without_tensorflow_a_checkpoint_says_what_it_needs(tmp_path, monkeypatch) -> None:
    (tmp_path / "fcn8.ckpt.index").write_bytes(bytes(100))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(WeightsError, match=r"fcn8\.ckpt: is a TensorFlow checkpoint; pip install tensorflow"):
        segtwin_weights.read(tmp_path / "fcn8.ckpt")


# --------------------------------------------------------------------------------------- any to any


@pytest.mark.parametrize("target", list(segtwin_weights.SUFFIXES))
@pytest.mark.parametrize("source", ["w.caffemodel", "w.pth", "w.weights.h5", "w.safetensors"])
@pytest.mark.parametrize("architecture", ["fcn8s", "vgg16"])
def test_any_readable_file_becomes_any_writable_one(architecture: str, source: str, target: str, tmp_path) -> None:
    weights = drawn(architecture)
    segtwin_weights.write(weights, tmp_path / source)
    read = segtwin_weights.read(tmp_path / source)
    path = tmp_path / f"out{target}"
    if target == ".npy" and architecture != "vgg16":
        with pytest.raises(WeightsError, match=r"a vgg16\.npy holds a VGG-16 classifier"):
            segtwin_weights.write(read, path)
        assert not path.exists()
        return
    segtwin_weights.write(read, path)
    assert_equal(names.hub_names(segtwin_weights.read(path)), weights)


def test_kinds_are_told_by_content(tmp_path) -> None:
    for suffix, kind in {
        ".caffemodel": "caffemodel",
        ".pth": "torch",
        ".weights.h5": "keras",
        ".safetensors": "safetensors",
        ".npy": "vgg16.npy",
    }.items():
        segtwin_weights.write(drawn("vgg16"), tmp_path / f"w{suffix}")
        (tmp_path / f"w{suffix}").rename(tmp_path / "nameless")
        assert segtwin_weights.file_kind(tmp_path / "nameless") == kind
        assert_equal(names.hub_names(segtwin_weights.read(tmp_path / "nameless")), drawn("vgg16"))
    for content, says in (
        (b"", "is empty"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"\x00" * 100, "is neither"),
        (b"PK\x03\x04", "damaged"),
    ):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(WeightsError, match=says):
            segtwin_weights.read(tmp_path / "bad")


def test_conversion_of_the_same_network() -> None:
    weights = drawn("fcn8s")
    dotted = Weights({name.replace("/", "."): blob for name, blob in weights.items()})
    same, changes = surgery.convert_with_report(dotted, "fcn8s")
    assert_equal(same, weights)
    assert {change.what for change in changes} == {"copied"}
    told = segtwin_weights.convert(Weights(weights, {"colour": "RGB"}), to="fcn8s")
    assert told.metadata["preprocessing"]["colour"] == "RGB", (
        "what a file says of its colours is not overruled by its names"
    )
    assert told.metadata["preprocessing"]["mean"] == [122.67892, 116.66877, 104.00699]
    model = segtwin_torch.build("fcn8s", widths=TINY, weights=told)
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)
    want = (
        image.astype(np.float32).transpose(2, 0, 1)[None]
        - np.array([122.67892, 116.66877, 104.00699], np.float32)[:, None, None]
    )
    np.testing.assert_array_equal(segtwin.preprocess(image, model), want)
    with pytest.raises(WeightsError, match="conv3_2/weight"):
        segtwin_weights.convert(Weights({**weights, "conv3_2/weight": np.zeros((1, 2, 3, 3), np.float32)}), to="fcn8s")


def test_no_framework_is_needed_to_read(tmp_path) -> None:
    """Every format but TensorFlow's checkpoints is read without torch and without TensorFlow."""
    paths = fuzz.small_files(tmp_path).values()
    code = """
import sys, segtwin_weights
for path in sys.argv[1:]:
    segtwin_weights.read(path)
assert not {"torch", "torchvision", "tensorflow", "keras"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True)


def test_read_gives_the_hubs_names_or_the_files(tmp_path) -> None:
    model = torchvision_vgg16()
    torch.save(model.state_dict(), tmp_path / "vgg16.pth")
    raw = segtwin_weights.read(tmp_path / "vgg16.pth", raw=True)
    read = segtwin_weights.read(tmp_path / "vgg16.pth")
    assert set(read) == {parameter.name for parameter in get_architecture("vgg16").parameters()}
    np.testing.assert_array_equal(read["conv1_1/weight"], raw["features.0.weight"])
    torch.save({"a.weight": torch.ones(2, 2)}, tmp_path / "other.pth")
    assert list(segtwin_weights.read(tmp_path / "other.pth")) == ["a.weight"]
    with pytest.raises(ValueError, match="did you mean safetensors"):
        segtwin_weights.read(tmp_path / "other.pth", "safetensor")
    with pytest.raises(TypeError, match="read\\(\\) has no argument 'fromat'; did you mean format"):
        segtwin_weights.read(tmp_path / "other.pth", fromat="torch")
