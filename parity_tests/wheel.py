"""The built wheel in an empty environment, one for each extra: what a user has after `pip install 'segtwin[…]'`.

`make test-wheel` runs it for every extra, or for those named: python parity_tests/wheel.py base torch
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXTRAS = {"base": set(), "torch": {"torch"}, "keras": {"keras"}, "parity": {"onnxruntime"}}
"""Extra → what it makes usable."""
PHOTO = ROOT / "docs/images/chelsea.jpg"
MAKE_WEIGHTS = "import segtwin_weights as w; w.write(w.initialize('unet-small', widths=(2, 2, 2, 2, 2), seed=1), 'u.safetensors')"
MAKE_FCN8S = "import segtwin_weights as w; w.write(w.initialize('fcn8s', widths=(2, 2, 2, 2, 2, 3, 3), seed=1), 'f.caffemodel')"


class Place:
    """An environment with nothing but the wheel and what an extra brings, and an empty folder to work in."""

    def __init__(self, folder: Path, wheel: Path, extra: str) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.bin = folder / "environment/bin"
        venv.create(folder / "environment", with_pip=True)
        wanted = f"{wheel}[{extra}]" if extra != "base" else str(wheel)
        subprocess.run([self.bin / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted], check=True, cwd=self.folder)

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment; the paths that lead to this checkout are not given to it."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "SEGTWIN"))}
        program, *rest = map(str, arguments)
        command = [str(self.bin / program), *rest]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def works(self, *arguments: object) -> str:
        """It ends with 0."""
        done = self.run(*arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def refuses(self, *arguments: object, extra: str) -> None:
        """It ends with 2, one line that says what to install, and no file."""
        before = sorted(self.folder.rglob("*"))
        done = self.run(*arguments)
        assert done.returncode == 2, (arguments, done.stdout, done.stderr)
        assert done.stderr.count("\n") == 1, (arguments, done.stderr)
        assert "pip install 'segtwin[" in done.stderr, done.stderr
        assert extra in done.stderr, done.stderr
        assert sorted(self.folder.rglob("*")) == before


def check(place: Place, usable: set[str]) -> None:
    """Everything that an installation can do, it does; what it cannot, it says."""
    assert place.works("segtwin", "--version").startswith("segtwin, version ")
    assert place.works("segtwin", "--help") == place.works("python", "-m", "segtwin", "--help")
    for command in ("list", "source", "download", "convert", "export", "parity", "predict", "inspect", "explain"):
        assert "--help" in place.works("segtwin", command, "--help")
    assert "fcn8s\t134,362,751" in place.works("segtwin", "list")
    for code in (MAKE_WEIGHTS, MAKE_FCN8S):
        place.works("python", "-c", code)
    place.works("segtwin", "convert", "u.safetensors", "u.pth")
    assert "all equal" in place.works("segtwin", "inspect", "u.safetensors", "--diff", "u.pth")
    place.works("segtwin", "convert", "f.caffemodel", "f.weights.h5")
    assert "conv1_1/weight" in place.works("segtwin", "inspect", "f.caffemodel", "--check")
    place.works("segtwin", "explain", "unet-paper", "--size", "188x204", "--picture", "seen.png")

    place.works("python", "-c", f"from PIL import Image; Image.open({str(PHOTO)!r}).convert('L').resize((48, 32)).save('i.png')")
    for framework in ("torch", "keras"):
        export = ("segtwin", "export", "u.safetensors", f"{framework}.onnx", "--framework", framework)
        if framework in usable:
            if "onnxruntime" not in usable and "--no-verify" in place.works("segtwin", "export", "--help"):
                export += ("--no-verify",)
            place.works(*export)
            place.works("segtwin", "predict", "u.safetensors", "i.png", "-o", f"masks-{framework}", "--engine", framework)
        else:
            place.refuses(*export, extra=framework)
            place.refuses("segtwin", "predict", "u.safetensors", "i.png", "-o", "masks", "--engine", framework, extra=framework)
    if "onnxruntime" not in usable:
        place.refuses("segtwin", "predict", "u.safetensors", "i.png", "-o", "masks", "--engine", "onnxruntime", extra="parity")
    lacking = {"torch", "keras", "onnxruntime"} - usable
    if lacking:
        place.refuses("segtwin", "parity", "u.safetensors", "i.png", extra="parity" if lacking == {"onnxruntime"} else min(lacking - {"onnxruntime"}))


def main() -> None:
    """Build the wheel once, and check each extra."""
    with tempfile.TemporaryDirectory(prefix="segtwin-wheel-") as name:
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", name, str(ROOT)]
        subprocess.run(build, check=True)
        (wheel,) = Path(name).glob("*.whl")
        for extra in sys.argv[1:] or EXTRAS:
            with tempfile.TemporaryDirectory(prefix=f"segtwin-{extra}-") as folder:
                check(Place(Path(folder), wheel, extra), EXTRAS[extra])
            print(f"segtwin[{extra}]: works")


if __name__ == "__main__":
    main()
