"""The U-Nets of other repositories in ONNX and ncnn, at their own width, against their own code."""

from pathlib import Path

import pytest
from goldens import ZooGolden
from segtwin import noise
from segtwin_engines.loading import start
from segtwin_engines.onnxruntime import onnx_blobs
from segtwin_weights import ncnn_file
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
@pytest.mark.parametrize("engine", ["onnxruntime", "ncnn"])
def test_files_from_the_table_compute_the_originals_blobs(golden: ZooGolden, engine: str) -> None:
    if engine == "ncnn" and not ncnn_file.writable(golden.architecture):
        pytest.skip("refused, see test_ncnn")
    blobs = start(engine, golden.architecture, golden.weights).blobs(golden.data)
    allowed = noise.default_bounds(golden.architecture, golden.weights)
    for key, error in errors(golden, blobs).items():
        assert error < allowed[golden.source(key)], key
