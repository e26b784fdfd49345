"""CONTRIBUTING.md's walk-through, done: three files make a network that everything here takes."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import segtwin.architectures
import segtwin_engines
import segtwin_keras
import segtwin_keras.network
import segtwin_torch
import segtwin_torch.network
import segtwin_weights
from segtwin import oracle

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"
PACKAGES = (segtwin.architectures, segtwin_torch, segtwin_keras)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[str]:
    """The three files, where the packages look for theirs."""
    blocks = re.findall(r"^   ```python\n(.*?)^   ```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(PACKAGES)
    for package, block in zip(PACKAGES, blocks, strict=True):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / "tiny.py").write_text(re.sub(r"(?m)^   ", "", block))
        package.__path__.append(str(folder))
    yield "tiny"
    for package in PACKAGES:
        package.__path__.pop()
        sys.modules.pop(f"{package.__name__}.tiny", None)
        vars(package).pop("tiny", None)
    segtwin.architectures._registered.pop("tiny", None)
    segtwin.architectures._listed.remove("tiny")
    for twin in (segtwin_torch, segtwin_keras):
        twin.network._networks.pop("tiny", None)


def test_three_files_make_a_network(tiny: str, tmp_path: Path) -> None:
    architecture = segtwin.get_architecture(tiny)
    for names in (segtwin.list_architectures(), segtwin_torch.list_networks(), segtwin_keras.list_networks()):
        assert names[-1] == tiny
    weights = segtwin_weights.initialize(tiny, seed=1)
    data = np.random.default_rng(2).random((2, 3, 9, 12), np.float32)
    truth = oracle.run(architecture, weights, data)
    models = [twin.build(tiny, weights=weights) for twin in (segtwin_torch, segtwin_keras)]
    for twin, model in zip((segtwin_torch, segtwin_keras), models, strict=True):
        blobs = twin.blobs(model, data)
        assert list(blobs) == list(architecture.blobs)
        for name, want in truth.items():
            assert oracle.relative_error(blobs[name], want) < 1e-6, name
        again = twin.read_weights(model)
        assert again.fingerprint() == weights.fingerprint()
        twin.export_onnx(model, tmp_path / f"{twin.__name__}.onnx")
        engine = segtwin_engines.load(tmp_path / f"{twin.__name__}.onnx", say=print)
        assert oracle.relative_error(engine.scores(data), truth["score"]) < 1e-6
    for name in ("w.safetensors", "w.pth", "w.caffemodel", "w.weights.h5"):
        segtwin_weights.write(weights, tmp_path / name)
        read = segtwin_weights.read(tmp_path / name)
        assert read.fingerprint() == weights.fingerprint(), name
        assert segtwin_torch.load(tmp_path / name).architecture is architecture
    assert [blob.name for blob in segtwin_engines.explain(tiny, 9, 12)] == ["conv1", "pool1", "score"]


def test_it_is_gone_again() -> None:
    assert "tiny" not in segtwin.list_architectures()
    with pytest.raises(segtwin.ArchitectureError, match="there is no network 'tiny'"):
        segtwin.get_architecture("tiny")
