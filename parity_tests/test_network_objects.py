"""A network knows its architecture, preprocessing and metadata, whatever the frameworks do with it."""

import copy
import pickle
from pathlib import Path

import keras
import numpy as np
import pytest
import segtwin_keras
import segtwin_torch
import segtwin_weights
import torch
from segtwin import Preprocessing
from segtwin.architectures import get_architecture, list_architectures
from segtwin_weights import Weights
from torch.optim.swa_utils import AveragedModel

NETWORKS = [(name, {}) for name in list_architectures()]
NETWORKS += [("fcn8-vgg", {"use_dilated": True}), ("fcn8-vgg", {"random_init_fc8": True}), ("unet", {"pad": "reflect"})]
STATED = Preprocessing("grey", mean=(0.25,), scale=1 / 255)


def small(name: str) -> dict:
    widths = get_architecture(name).widths
    return {"widths": tuple(range(2, 2 + len(widths)))} if widths else {}


def data_for(name: str) -> np.ndarray:
    architecture = get_architecture(name)
    size = (188, 204) if name == "unet-paper" else tuple(map(architecture.legal_size, (64, 96)))
    return np.random.default_rng(0).random((1, architecture.in_channels, *size), np.float32)


def assert_same(blobs: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> None:
    assert blobs.keys() == others.keys()
    for name, blob in blobs.items():
        np.testing.assert_array_equal(blob, others[name], err_msg=name)


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=str)
def test_torch_copies_and_pickles_keep_everything(name: str, options: dict, tmp_path: Path) -> None:
    model, data = segtwin_torch.build(name, seed=1, **small(name), **options), data_for(name)
    blobs = segtwin_torch.blobs(model, data)
    torch.save(model, tmp_path / "whole.pt")
    copies = (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(tmp_path / "whole.pt", weights_only=False),
    )
    for other in copies:
        assert other.architecture is model.architecture
        assert (other.preprocessing, other.metadata) == (model.preprocessing, model.metadata)
        assert_same(segtwin_torch.blobs(other, data), blobs)


WRAPPERS = {
    "compile": lambda model: torch.compile(model, backend="eager"),
    "DataParallel": torch.nn.DataParallel,
    "AveragedModel": AveragedModel,
    "both": lambda model: torch.compile(torch.nn.DataParallel(model), backend="eager"),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", ["fcn8s", "unet-small", "vggfcn8"])
def test_torchs_wrappers_are_looked_through(name: str, wrapper: str, tmp_path: Path) -> None:
    model, data = segtwin_torch.build(name, seed=1, **small(name)), data_for(name)
    wrapped = WRAPPERS[wrapper](model)
    want = segtwin_torch.read_weights(model)
    assert segtwin_torch.read_weights(wrapped).fingerprint() == want.fingerprint()
    assert_same(segtwin_torch.blobs(wrapped, data), segtwin_torch.blobs(model, data))
    with torch.inference_mode():
        output = wrapped(torch.from_numpy(data))
        assert (output - model(torch.from_numpy(data))).abs().max() == 0
    other = segtwin_weights.initialize(name, seed=2, **small(name))
    segtwin_torch.load_weights(wrapped, other)
    assert segtwin_torch.read_weights(wrapped).fingerprint() == other.fingerprint()
    if name == "unet-small":  # the wrapper is the same for all
        segtwin_torch.export_onnx(wrapped, tmp_path / "x.onnx")
    segtwin_torch.save_checkpoint(wrapped, tmp_path / "x.pth")
    assert segtwin_weights.read(tmp_path / "x.pth").fingerprint() == other.fingerprint()


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
@pytest.mark.parametrize("name", ["fcn8s", "unet-small", "vggfcn8"])
def test_traces_and_exports_compute_the_same_and_say_that_they_are_no_networks(name: str) -> None:
    model = segtwin_torch.build(name, seed=1, **small(name))
    data = torch.from_numpy(data_for(name))
    with torch.inference_mode():
        want = model(data)
    for other in (torch.jit.trace(model, data), torch.export.export(model, (data,)).module()):
        torch.testing.assert_close(other(data), want)
        for function in (segtwin_torch.read_weights, lambda it: segtwin_torch.blobs(it, data)):
            with pytest.raises(TypeError, match=r"is no network of segtwin_torch\.build and wraps none"):
                function(other)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
def test_a_trace_of_a_mirrored_network_is_refused() -> None:
    """It would keep the size that it was traced with."""
    model = segtwin_torch.build("unet", seed=1, pad="reflect", **small("unet"))
    with pytest.raises(ValueError, match="unet with pad cannot be traced"):
        torch.jit.trace(model, torch.zeros(1, 3, 40, 50))


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=str)
def test_keras_files_and_copies_keep_everything(name: str, options: dict, tmp_path: Path) -> None:
    model, data = segtwin_keras.build(name, seed=1, **small(name), **options), data_for(name)
    model.layers[2].trainable = False
    blobs = segtwin_keras.blobs(model, data)
    model.save(tmp_path / "m.keras")
    for other in (
        keras.models.load_model(tmp_path / "m.keras"),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
    ):
        assert isinstance(other, segtwin_keras.Network)
        assert other.architecture is model.architecture
        assert (other.preprocessing, dict(other.metadata), other.name) == (
            model.preprocessing,
            model.metadata,
            model.name,
        )
        assert [layer.trainable for layer in other.layers] == [layer.trainable for layer in model.layers]
        assert_same(segtwin_keras.blobs(other, data), blobs)
    with pytest.raises(TypeError, match=r"clone_model keeps the layers alone; take copy\.deepcopy"):
        segtwin_keras.blobs(keras.models.clone_model(model), data)


def test_keras_float64_stays_float64(tmp_path: Path) -> None:
    model = segtwin_keras.build("fcn8s", dtype="float64", **small("fcn8s"))
    model.save(tmp_path / "m.keras")
    other = keras.models.load_model(tmp_path / "m.keras")
    assert {variable.dtype for variable in other.weights} == {"float64"}
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("twin", [segtwin_torch, segtwin_keras])
def test_what_the_weights_state_is_the_models(twin, tmp_path: Path) -> None:
    weights = segtwin_weights.initialize("unet-small", seed=1, **small("unet-small"))
    stated = {**weights.metadata, "preprocessing": STATED.asdict(), "classes": ["cell"]}
    model = twin.build("unet-small", weights=Weights(dict(weights), stated))
    assert model.preprocessing == STATED
    assert model.metadata["classes"] == ["cell"]
    assert (model.in_channels, model.architecture.name) == (1, "unet-small")
    plain = twin.build("fcn8s", **small("fcn8s"))
    assert plain.preprocessing == get_architecture("fcn8s").preprocessing


def test_another_model_of_keras_is_refused() -> None:
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 1)])
    for function in (segtwin_keras.read_weights, lambda it: segtwin_keras.blobs(it, data_for("fcn8s"))):
        with pytest.raises(TypeError, match=r"is no network of segtwin_keras\.build"):
            function(model)


def test_the_device_is_the_users() -> None:
    model = segtwin_torch.build("fcn8s", device="cpu", **small("fcn8s"))
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    with pytest.raises(RuntimeError):
        segtwin_torch.build("fcn8s", device="nowhere", **small("fcn8s"))
