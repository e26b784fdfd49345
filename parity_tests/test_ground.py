"""The ground that everything stands on: names, floors, versions."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import segtwin
import segtwin_keras
import segtwin_torch
import segtwin_weights
from segtwin.architectures import list_architectures

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("cwd", [ROOT, ROOT / "tensorflow"])
def test_tensorflow_is_the_installed_library(cwd: Path) -> None:
    """Although a folder of that name stands in the root, and whether or not Python puts the working
    directory on its path."""
    find = "import importlib.util as u; print(u.find_spec('tensorflow').origin); print(u.find_spec('pytorch'))"
    for flags in ([], ["-P"]):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
        out = subprocess.run(
            [sys.executable, *flags, "-c", find], cwd=cwd, env=environment, capture_output=True, text=True, check=True
        ).stdout
        origin, pytorch = out.split()[0], out.split("\n")[1]
        assert "site-packages" in origin, f"tensorflow would be {origin}"
        assert flags == [] or pytorch == "None"
    assert "site-packages" in str(importlib.util.find_spec("tensorflow").origin)


@pytest.mark.parametrize("package", ["segtwin", "segtwin_weights", "segtwin.oracle", "segtwin_cli.main"])
def test_no_framework_is_imported_below_the_twins(package: str) -> None:
    code = f"import {package}, sys; print([m for m in ('torch', 'tensorflow', 'keras', 'jax') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_one_twin_does_not_import_the_other() -> None:
    for package, other in (
        ("segtwin_torch", "tensorflow"),
        ("segtwin_torch", "torchvision"),
        ("segtwin_keras", "torch"),
    ):
        code = f"import {package}, sys; print({other!r} in sys.modules)"
        assert (
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
            == "False"
        ), (package, other)


def test_torch_trains_beside_the_keras_twin() -> None:
    """torch's optimizers import triton when they step; after TensorFlow that aborts the
    interpreter, so that segtwin_torch imports it before."""
    code = """
import segtwin_torch, segtwin_keras, torch
model = segtwin_torch.build("unet-small", widths=(2, 2, 2, 2, 2), seed=1).train()
optimizer = torch.optim.Adam(model.parameters())
model(torch.rand(2, 1, 32, 32)).sum().backward()
optimizer.step()
twin = segtwin_keras.build("unet-small", widths=(2, 2, 2, 2, 2), weights=segtwin_torch.read_weights(model))
print("stepped", twin.name)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stdout == "stepped unet-small\n", ended.stderr


def test_versions_agree() -> None:
    assert segtwin.__version__ == segtwin_weights.__version__ == segtwin_torch.__version__ == segtwin_keras.__version__


def test_every_version_is_pinned_and_no_host_is_named() -> None:
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+", line), line


def test_both_twins_have_the_same_names() -> None:
    assert segtwin_torch.list_networks() == segtwin_keras.list_networks() == list(list_architectures())
