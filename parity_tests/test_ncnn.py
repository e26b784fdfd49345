"""ncnn, on files written from the table of layers: every blob is Caffe's, or the original's, within the bound of every
engine's default kernels; what is written is checked, and what cannot be written is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import segtwin_engines
import segtwin_weights
from click.testing import CliRunner
from goldens import TINY, caffe_goldens, unet_goldens, unet_paper_goldens
from segtwin import noise, oracle
from segtwin.architectures import get_architecture, list_architectures
from segtwin.errors import WeightsError
from segtwin_cli.main import main, segtwin
from segtwin_engines import ncnn
from segtwin_engines.loading import start
from segtwin_weights import Weights, ncnn_file

FCNS = ("fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce")
GOLDENS = [
    *(golden for name in FCNS for golden in caffe_goldens(name)),
    *unet_paper_goldens()[:1],
    *unet_goldens("unetsmall_*.npz")[:1],
    *unet_goldens("resnet34_unet_*.npz")[:1],
]


@pytest.fixture(scope="module")
def drawn() -> Weights:
    random = np.random.default_rng(3)
    start = segtwin_weights.initialize("fcn8s", widths=TINY, num_classes=5)
    blobs = {
        name: blob if name.startswith("upscore") else random.uniform(-0.5, 1, blob.shape).astype(np.float32) / 8
        for name, blob in start.items()
    }
    return Weights(blobs, start.metadata)


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
def test_every_blob_is_the_originals(golden) -> None:
    engine = start("ncnn", golden.architecture, golden.weights)
    blobs = engine.blobs(golden.data)
    assert list(blobs) == list(golden.architecture.exported)
    allowed = noise.default_bounds(golden.architecture, golden.weights)
    for name, error in golden.errors(blobs).items():
        assert error < allowed[golden.source(name)], name
    score = engine.scores(golden.data)
    np.testing.assert_array_equal(score, blobs[golden.architecture.output])


def test_a_deconvolution_that_is_not_diagonal_runs_dense(drawn: Weights) -> None:
    random = np.random.default_rng(4)
    weights = Weights(
        {
            name: random.standard_normal(blob.shape).astype(np.float32) / 16 if name.startswith("upscore") else blob
            for name, blob in drawn.items()
        },
        drawn.metadata,
    )
    data = random.uniform(-120, 130, (2, 3, 35, 40)).astype(np.float32)
    got = start("ncnn", get_architecture("fcn8s"), weights).blobs(data)
    for name, want in oracle.run(get_architecture("fcn8s"), weights, data).items():
        assert oracle.relative_error(got[name], want) < 2e-5, name


@pytest.mark.parametrize("network", ["fcn8s", "fcn32s"])
@pytest.mark.parametrize("size", [(1, 1), (20, 32), (35, 60), (64, 97)], ids=lambda size: "x".join(map(str, size)))
def test_fc6_is_filtered_where_its_sums_are_long(network: str, size: tuple[int, int]) -> None:
    """Columns of fc6 are computed in pairs: 1, 2, 3 and 4 of them here."""
    architecture = get_architecture(network)
    weights = segtwin_weights.initialize(network, widths=(2, 3, 3, 4, 64, 9, 8), num_classes=5)
    random = np.random.default_rng(6)
    drawn = {
        name: random.standard_normal(blob.shape).astype(np.float32) * np.sqrt(2 / np.prod(blob.shape[1:], initial=1))
        for name, blob in weights.items()
    }
    weights = Weights({**drawn, **{n: b for n, b in weights.items() if n.startswith("upscore")}}, weights.metadata)
    (products,) = (node for node in ncnn_file.graph(weights, architecture) if node.name == "fc6_products")
    assert len(products.bottoms) == 8
    data = random.uniform(-120, 130, (2, 3, *size)).astype(np.float32)
    truth = oracle.run(architecture, weights, data)
    floors = noise.floors(architecture, weights, data, truth)
    allowed = noise.default_bounds(architecture, weights)
    engine = start("ncnn", architecture, weights)
    blobs = engine.blobs(data)
    for name in architecture.exported:
        if name != architecture.input:
            assert oracle.relative_error(blobs[name], truth[name]) < allowed[name] * floors[name], name
    np.testing.assert_array_equal(engine.scores(data), blobs["score"])


def test_short_sums_are_not_filtered(drawn: Weights) -> None:
    """They have no noise floors to spare for it."""
    assert "fc6_products" not in {node.name for node in ncnn_file.graph(drawn, get_architecture("fcn8s"))}


@pytest.mark.filterwarnings("default::segtwin_engines.Assumed")
def test_parity_has_a_column_for_it(drawn: Weights, tmp_path: Path) -> None:
    segtwin_weights.write(drawn, tmp_path / "w.safetensors")
    np.save(tmp_path / "image.npy", np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8))
    found = segtwin_engines.parity(tmp_path / "w.safetensors", [tmp_path / "image.npy"], engines=["ncnn"])
    assert found.equal
    with pytest.raises(WeightsError, match="which is not written for ncnn"):
        segtwin_engines.parity(
            segtwin_weights.initialize("fcn8-vgg", widths=TINY, seed=1), [tmp_path / "image.npy"], engines=["ncnn"]
        )


@pytest.mark.parametrize("network", list_architectures())
def test_what_is_not_written_is_said_before_it_begins(network: str, tmp_path: Path) -> None:
    architecture = get_architecture(network)
    refused = network.startswith(("vggfcn", "fcn8-vgg", "unet-milesial", "segnet", "channel-unet", "ce-net"))
    if refused:
        with pytest.raises(WeightsError, match=f"x: {network} has .* which is not written for ncnn"):
            ncnn_file.check(architecture, "x")
    else:
        ncnn_file.check(architecture)


def test_the_command(
    drawn: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    segtwin_weights.write(drawn, "w.safetensors")
    run = CliRunner().invoke
    assert run(segtwin, ["export", "w.safetensors", "out/w.ncnn", "--quiet"]).exit_code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["w.ncnn.bin", "w.ncnn.json", "w.ncnn.param"]
    said = json.loads(Path("out/w.ncnn.json").read_text())
    assert (said["architecture"], said["output"], said["num_classes"]) == ("fcn8s", "score", 5)
    scores, _ = ncnn.open_files("out/w.ncnn", get_architecture("fcn8s"))
    data = np.random.default_rng(1).uniform(-100, 100, (1, 3, 20, 31)).astype(np.float32)
    want = oracle.run(get_architecture("fcn8s"), drawn, data)["score"]
    assert oracle.relative_error(scores(data), want) < 1e-5
    for arguments, complaint in (
        (["out/w.ncnn"], "out/w.ncnn.param: exists already"),
        (["x.onnx"], "x.onnx: add --framework"),
        (["x.pth"], "x.pth: without --framework segtwin writes files that end in"),
        (["x.ncnn", "--size", "3x4"], "x.ncnn: --size is for ONNX"),
        (["x.ncnn", "--logits"], "x.ncnn: --logits is for ONNX"),
        (["x.ncnn", "--opset", "18"], "x.ncnn: --opset is for ONNX"),
        (["x.ncnn", "x.onnx", "--framework", "torch", "--fold-batchnorm"], "x.ncnn: --fold-batchnorm is for ONNX"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["export", "w.safetensors", *arguments])
        assert (end.value.code, capsys.readouterr().err.startswith(f"segtwin: {complaint}")) == (2, True), arguments
    assert not list(Path().glob("x*"))


@pytest.mark.parametrize("damage", ["a weight", "too short", "too long", "an offset"])
def test_files_that_differ_are_not_kept(
    drawn: Weights, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = get_architecture("fcn8s")

    def damaged_then_verified(path: Path) -> None:
        param, data, _ = ncnn_file.files(path)
        if damage == "an offset":
            param.write_text(param.read_text().replace("0=31 1=31", "0=30 1=31"))
        else:
            content = bytearray(data.read_bytes())
            content[1000] ^= damage == "a weight"
            data.write_bytes(content[: -4 if damage == "too short" else None] + b"0" * (damage == "too long"))
        ncnn.verify(drawn, architecture, path)

    with pytest.raises(ValueError, match="the exported file was not kept"):
        ncnn_file.write(drawn, architecture, tmp_path / "x.ncnn", damaged_then_verified)
    assert not list(tmp_path.iterdir())


def test_zero_weights_hide_nothing(drawn: Weights, tmp_path: Path) -> None:
    """The score layers of a new network are zero, and everything behind them would be."""
    new = segtwin_weights.initialize("fcn8s", widths=TINY)
    ncnn_file.write(new, get_architecture("fcn8s"), tmp_path / "x.ncnn")
    ncnn.verify(new, get_architecture("fcn8s"), tmp_path / "x.ncnn")
    original = ncnn_file.crop

    def shifted(made):
        made.offset += 1
        return original(made)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ncnn_file.WRITERS, "Crop", shifted)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="ncnn computes score_pool4c"):
            ncnn.verify(new, get_architecture("fcn8s"), tmp_path / "x.ncnn")


def test_float64_becomes_float32_and_what_that_has_not_is_refused(drawn: Weights, tmp_path: Path) -> None:
    double = Weights({name: blob.astype(np.float64) for name, blob in drawn.items()}, drawn.metadata)
    for name, weights in (("a.ncnn", drawn), ("b.ncnn", double)):
        ncnn_file.write(weights, get_architecture("fcn8s"), tmp_path / name)
    ncnn.verify(double, get_architecture("fcn8s"), tmp_path / "b.ncnn")
    assert (tmp_path / "a.ncnn.bin").read_bytes() == (tmp_path / "b.ncnn.bin").read_bytes()
    for bad in (1e39, np.nan):
        double["conv2_1/bias"][0] = bad
        with pytest.raises(WeightsError, match="conv2_1/bias: holds NaN, or numbers that float32 has not"):
            ncnn_file.write(double, get_architecture("fcn8s"), tmp_path / "c.ncnn")
    assert not list(tmp_path.glob("c*"))
