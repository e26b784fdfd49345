"""The opset of an exported file is the one that was asked for, or there is no file."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import onnx
import pytest


@pytest.mark.parametrize("opset", [-1, 0, *range(7, 27), 1000])
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_the_file_has_the_opset_asked_for_or_is_not_there(framework: str, opset: int, tmp_path: Path) -> None:
    twin = import_module(f"segtwin_{framework}")
    path = tmp_path / "u.onnx"
    network = twin.build("unet-small", seed=1)
    if not 18 <= opset <= {"torch": 23, "keras": 18}[framework]:
        with pytest.raises(ValueError, match=f"opset {opset} cannot be written"):
            twin.export_onnx(network, path, opset=opset)
        assert not list(tmp_path.iterdir())
        return
    twin.export_onnx(network, path, opset=opset)
    assert {entry.domain: entry.version for entry in onnx.load(path).opset_import} == {"": opset}
    onnx.checker.check_model(path, full_check=True)
