"""The U-Nets of other repositories in ONNX and ncnn, at their own width, against their own code."""

import warnings
from pathlib import Path

import pytest
import segtwin
import segtwin_torch
from drawn_networks import REPEATED
from goldens import ZooGolden
from segtwin import noise
from segtwin_engines.loading import start
from segtwin_engines.onnxruntime import onnx_blobs
from segtwin_weights import ncnn_file, onnx_check
from zoo import ONE_EACH, errors

from engines import TWINS, made


@pytest.mark.parametrize("golden", ONE_EACH, ids=str)
@pytest.mark.parametrize("framework", TWINS)
def test_exported_files_compute_the_originals_blobs(golden: ZooGolden, framework: str, tmp_path: Path) -> None:
    """At the original's own width."""
    model = made(framework, golden.architecture.name, golden.weights)
    TWINS[framework].export_onnx(model, tmp_path / "x.onnx", verify=False)
    blobs = onnx_blobs(tmp_path / "x.onnx", golden.data, golden.architecture.exported)
    found = errors(golden, blobs)
    assert max(found.values()) < noise.BOUND, found


@pytest.mark.parametrize("golden", ONE_EACH, ids=str)
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "ncnn"])
def test_files_from_the_table_compute_the_originals_blobs(golden: ZooGolden, engine: str) -> None:
    if engine == "ncnn" and not ncnn_file.writable(golden.architecture):
        pytest.skip("refused, see test_ncnn")
    if engine == "openvino" and golden.architecture.name in REPEATED:
        pytest.skip("its layers are all in another one here")
    blobs = start(engine, golden.architecture, golden.weights).blobs(golden.data)
    allowed = noise.default_bounds(golden.architecture, golden.weights)
    for key, error in errors(golden, blobs).items():
        assert error < allowed[golden.source(key)], key


@pytest.mark.parametrize("framework", TWINS)
def test_segnets_export_is_compared_on_an_image_without_near_maxima(framework: str, tmp_path: Path) -> None:
    """Some of the images that are tried have them, with these weights."""
    model = TWINS[framework].build("segnet", widths=(4, 5, 6, 7, 8), num_classes=2, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TWINS[framework].export_onnx(model, tmp_path / "x.onnx")


def test_segnets_export_says_where_it_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = segtwin_torch.build("segnet", widths=(2, 3, 4, 5, 6), seed=1)
    monkeypatch.setattr(onnx_check, "same_places", lambda *_: False)
    with pytest.warns(segtwin.Converted, match="compared with the model up to x5p: behind it maxima differ by less"):
        segtwin_torch.export_onnx(model, tmp_path / "x.onnx")
    monkeypatch.setattr(onnx_check.oracle, "unpooling", lambda layer, architecture, bottoms, parameters: bottoms[1])
    with pytest.raises(ValueError, match="x5d is not what its layer makes of its bottoms; the exported"):
        segtwin_torch.export_onnx(model, tmp_path / "y.onnx")
    assert not (tmp_path / "y.onnx").exists()
