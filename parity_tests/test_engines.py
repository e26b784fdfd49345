"""Every engine computes the blobs of the float64 oracle, from a file, from weights and from a model; and what the
commands do has a name in Python."""

from pathlib import Path

import numpy as np
import pytest
import segtwin
import segtwin_engines
import segtwin_keras
import segtwin_torch
import segtwin_weights
from goldens import LEAST_FLOOR, TINY, recipe, recipe_weights
from PIL import Image
from segtwin import noise, oracle
from segtwin.architectures import get_architecture
from segtwin.errors import WeightsError
from segtwin_weights import Weights
from segtwin_weights.formats import prototxt

LEVELS = (3, 4, 5, 6, 7)
ENGINES = [name for name in segtwin_engines.available_engines() if name != "oracle"]
NETWORKS = {"fcn8s": (60, 45), "unet-paper": (188, 204), "unet-small": (32, 48), "vggfcn8": (64, 90)}


def weights_of(network: str) -> Weights:
    """Numbers that are nowhere zero, in the Caffe nets as goldens/recipe.py makes them."""
    architecture = get_architecture(network)
    if network == "fcn8s":
        return recipe_weights(architecture, TINY, seed=2)
    if network == "unet-paper":
        return recipe_weights(architecture, recipe.TINY_UNET, seed=2)
    widths = LEVELS if network.startswith("unet") else TINY
    return segtwin_weights.initialize(network, widths=widths, num_classes=3, seed=4)


def data_for(network: str) -> np.ndarray:
    architecture = get_architecture(network)
    random = np.random.default_rng(7)
    return random.standard_normal((1, architecture.in_channels, *NETWORKS[network])).astype(np.float32)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request) -> str:
    return request.param


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_computes_the_oracles_blobs(network: str, name: str) -> None:
    """Within what its kernels are allowed: Caffe's arithmetic for the twins, else the bound of default kernels."""
    architecture, weights, data = get_architecture(network), weights_of(network), data_for(network)
    if name in ("opencv", "caffe") and not prototxt.writable(architecture):
        with pytest.raises(ValueError, match=f"{network}: {name} runs networks of Caffe's layers alone"):
            segtwin_engines.load(weights, name, network=network, preprocessing=architecture.preprocessing)
        return
    if name == "ncnn" and network == "vggfcn8":
        with pytest.raises(WeightsError, match=r"vggfcn8 has .*, which is not written for ncnn"):
            segtwin_engines.load(weights, name, network=network, preprocessing=architecture.preprocessing)
        return
    engine = segtwin_engines.load(weights, name, network=network, preprocessing=architecture.preprocessing)
    truth = oracle.run(architecture, weights, data)
    floors = noise.floors(architecture, weights, data, truth)
    bounds = noise.default_bounds(architecture, weights)
    blobs = engine.blobs(data)
    assert set(architecture.exported) <= blobs.keys()
    for blob in architecture.exported:
        assert blobs[blob].shape == truth[blob].shape
        floor = max(floors[blob], LEAST_FLOOR)
        assert oracle.relative_error(blobs[blob], truth[blob]) < bounds[blob] * floor, blob
    scores = engine.scores(data)
    assert (
        oracle.relative_error(scores, truth[architecture.output])
        < bounds[architecture.output] * floors[architecture.output]
    )
    assert scores.flags.c_contiguous


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    weights = segtwin_weights.initialize("unet-small", widths=LEVELS, seed=4)
    segtwin_weights.write(weights, folder / "u.safetensors")
    segtwin_torch.export_onnx(segtwin_torch.load(folder / "u.safetensors"), folder / "u.onnx")
    grey = np.random.default_rng(0).integers(0, 256, (32, 48), np.uint8)
    Image.fromarray(grey).save(folder / "a.png")
    Image.fromarray(grey[::-1]).save(folder / "b.png")
    return folder


@pytest.mark.filterwarnings("ignore::segtwin_engines.Assumed")
def test_a_network_is_loaded_from_whatever_holds_it(files: Path) -> None:
    path, data = files / "u.safetensors", data_for("unet-small")
    with pytest.warns(segtwin_engines.Assumed, match="preprocessing assumed from the network's names: grey"):
        from_file = segtwin_engines.load(path)
    assert (from_file.name, from_file.network, from_file.in_channels) == ("onnxruntime", "unet-small", 1)
    sources = {
        "torch": segtwin_torch.load(path),
        "keras": segtwin_keras.load(path),
        "onnxruntime": files / "u.onnx",
    }
    want = from_file.scores(data)
    for name, source in sources.items():
        engine = segtwin_engines.load(source)
        assert engine.name == name
        assert engine.preprocessing == from_file.preprocessing
        np.testing.assert_allclose(engine.scores(data), want, atol=1e-5)
        assert set(engine.blobs(data)) >= {"image", "conv1", "probability"}
    other = segtwin_engines.load(sources["keras"], "oracle")
    np.testing.assert_allclose(other.scores(data), want, atol=1e-5)


def test_a_models_logits_stay_logits(files: Path) -> None:
    data = data_for("unet-small")
    for twin in (segtwin_torch, segtwin_keras):
        engine = segtwin_engines.load(twin.load(files / "u.safetensors", logits=True))
        assert engine.output == "logits"
        whole = segtwin_engines.load(twin.load(files / "u.safetensors"))
        np.testing.assert_allclose(
            engine.probabilities(data, None, 572, always=True),
            whole.probabilities(data, None, 572, always=True),
            atol=1e-6,
        )


def test_a_model_in_training_is_run_in_inference(files: Path) -> None:
    model, data = segtwin_torch.load(files / "u.safetensors").train(), data_for("unet-small")
    engine = segtwin_engines.load(model)
    np.testing.assert_array_equal(engine.scores(data), engine.scores(data))
    assert model.training
    assert int(model.layer1_conv.bn1.num_batches_tracked) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("u.safetensors", "onxruntime"), ValueError, "did you mean onnxruntime"),
        (("u.onnx", "torch"), ValueError, "is an ONNX file, which the engine onnxruntime runs"),
        (("nowhere.safetensors",), FileNotFoundError, "nowhere"),
        (("u.safetensors", "caffe"), ImportError, "^the engine caffe needs"),
        ((np.zeros(3),), TypeError, "is no network of segtwin_torch.build"),
    ],
    ids=str,
)
def test_what_cannot_be_loaded(files: Path, arguments, error, words, monkeypatch) -> None:
    monkeypatch.chdir(files)
    with pytest.raises(error, match=words):
        segtwin_engines.load(*arguments)
    with pytest.raises(TypeError, match="load\\(\\) has no argument 'netwrok'; did you mean network"):
        segtwin_engines.load("u.safetensors", netwrok="unet-small")


@pytest.mark.filterwarnings("ignore::segtwin_engines.Assumed")
def test_predict_is_the_commands(files: Path, tmp_path: Path) -> None:
    from segtwin_cli.main import main

    with pytest.raises(SystemExit) as done:
        main(["predict", str(files / "u.safetensors"), str(files), "-o", str(tmp_path / "cli"), "--quiet"])
    assert done.value.code == 0
    engine = segtwin_engines.load(files / "u.safetensors")
    (tmp_path / "bad.png").write_bytes(b"no image")
    results = list(segtwin_engines.predict(engine, [files, tmp_path / "bad.png"], tmp_path / "python"))
    assert [result.status for result in results] == ["ok", "ok", "failed"]
    assert results[2].reason == f"{tmp_path / 'bad.png'}: is not an image; give a JPEG or PNG file"
    for name in ("a.mask.png", "a.overlay.png", "b.mask.png", "b.overlay.png"):
        assert (tmp_path / "python" / name).read_bytes() == (tmp_path / "cli" / name).read_bytes()
    (only,) = segtwin_engines.predict(engine, files / "a.png")
    assert only.outputs == {}
    with Image.open(tmp_path / "cli/a.mask.png") as mask:
        np.testing.assert_array_equal(only.labels[0], np.asarray(mask))
    with pytest.raises(FileExistsError):
        segtwin_engines.predict(engine, files / "a.png", tmp_path / "python")


@pytest.mark.filterwarnings("ignore::segtwin_engines.Assumed")
def test_parity_is_the_commands(files: Path, tmp_path: Path) -> None:
    result = segtwin_engines.parity(files / "u.safetensors", files / "a.png")
    assert result.equal
    assert {blob.name for blob in result.comparisons[0].blobs} == set(result.architecture.exported[1:])
    result.write_report(tmp_path / "r.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html", "r.json", "r.png"]
    with pytest.raises(FileExistsError):
        result.write_report(tmp_path / "r.html")
    right = segtwin_weights.read(files / "u.safetensors")
    name = "layer3_conv.conv1.weight"
    wrong = Weights({**right, name: right[name] * np.float32(1.001)}, right.metadata)
    segtwin_torch.export_onnx(segtwin_torch.build("unet-small", weights=wrong), tmp_path / "wrong.onnx")
    other = segtwin_engines.parity(files / "u.safetensors", [files / "a.png"], torch_onnx=tmp_path / "wrong.onnx")
    assert not other.equal
    assert "torch export" in other.comparisons[0].verdict


def test_explain_is_data() -> None:
    blobs = {blob.name: blob for blob in segtwin_engines.explain("fcn8s", 375, 500)}
    assert blobs["score"].offset == (31, 31)
    assert blobs["score"].shape == (21, 375, 500)
    assert segtwin.explanation.explain("fcn8s", 375, 500)[-1] == blobs["score"]
