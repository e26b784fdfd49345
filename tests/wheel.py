"""The built wheel in an empty environment, one for each extra: what a user has after `pip install
'segtwin[…]'`.

`make test-wheel` runs it for every extra, or for those named: python tests/wheel.py base
torch. The environments are made under the folder for temporary files and removed; `--keep FOLDER`
makes them there, and the next run only puts the new wheel into them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXTRAS = {
    "base": set(), "cli": set(), "cli,onnx": {"onnxruntime"}, "torch": {"torch", "onnxruntime"},
    "cli,torch": {"torch", "onnxruntime"}, "cli,keras": {"keras", "onnxruntime"},
    "cli,torch,train": {"torch", "onnxruntime", "train"}, "cli,demo": {"demo"},
    "all": {"torch", "keras", "onnxruntime", "train", "demo"},
}  # fmt: skip
"""Extra → what it makes usable."""
PHOTO = ROOT / "docs/images/chelsea.jpg"
NUCLEI = ROOT / "docs/nuclei"
MAKE_WEIGHTS = (
    "import segtwin_weights as w; w.write(w.initialize('unet-small', widths=(2, 2, 2, 2, 2), seed=1), 'u.safetensors')"
)
MAKE_FCN8S = (
    "import segtwin_weights as w; w.write(w.initialize('fcn8s', widths=(2, 2, 2, 2, 2, 3, 3), seed=1), 'f.caffemodel')"
)


MODULES = {"torch": "segtwin_torch", "keras": "segtwin_keras"}
"""Framework → the module that needs it."""


class Place:
    """An environment with nothing but the wheel and what an extra brings, and an empty folder to
    work in."""

    def __init__(self, folder: Path, environment: Path, wheel: Path, extra: str) -> None:
        self.folder = folder
        self.bin = environment / "bin"
        self.noise: dict[str, str] = {}
        """Command → what it wrote to standard error although it worked, without segtwin's notes."""
        there = self.bin.exists()
        if not there:
            venv.create(environment, with_pip=True)
        wanted = f"{wheel}[{extra}]" if extra != "base" else str(wheel)
        pip = [self.bin / "python", "-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check"]
        subprocess.run(
            [*pip, *(("--no-deps", "--force-reinstall") if there else ()), wanted], check=True, cwd=self.folder
        )

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment; the paths that lead to this checkout, and what quietens
        frameworks, are not given to it."""
        gone = ("PYTHON", "VIRTUAL_ENV", "SEGTWIN", "TF_", "CUDA_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(gone)}
        program, *rest = map(str, arguments)
        command = [str(self.bin / program), *rest]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def works(self, *arguments: object, status: int = 0) -> str:
        """It ends with 0."""
        done = self.run(*arguments)
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        foreign = [line for line in done.stderr.splitlines() if not line.startswith(("note: ", "segtwin: "))]
        if foreign:
            self.noise[" ".join(map(str, arguments))] = "\n".join(foreign)
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

    def offers(self) -> set[str]:
        """The engines that `predict --help` names."""
        text = self.works("segtwin", "predict", "--help")
        return set("".join(text[text.index("[auto") + 1 :].split("]")[0].split()).split("|"))


def check_library(place: Place, usable: set[str]) -> None:
    """Without the commands' packages: the library works, and a command says in one line what it needs."""
    for module in ("click", "rich", "matplotlib"):
        assert place.run("python", "-c", f"import {module}").returncode == 1, module
    for command in (("segtwin", "list"), ("python", "-m", "segtwin", "list")):
        done = place.run(*command)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert "pip install 'segtwin[cli]'" in done.stderr
    place.works("python", "-c", MAKE_WEIGHTS)
    code = (
        "import numpy, segtwin_engines as e; engine = e.load('u.safetensors', say=print); "
        "print(engine.name, engine.scores(numpy.zeros((1, 1, 32, 48), 'float32')).shape)"
    )
    assert place.works("python", "-c", code).endswith(f"{'onnxruntime' if usable else 'oracle'} (1, 1, 32, 48)\n")
    check_modules(place, usable)


def check(place: Place, usable: set[str]) -> None:
    """Everything that an installation can do, it does; what it cannot, it says."""
    assert place.works("segtwin", "--version").startswith("segtwin, version ")
    assert place.works("segtwin", "--help") == place.works("python", "-m", "segtwin", "--help")
    for command in (
        "list",
        "source",
        "download",
        "convert",
        "export",
        "parity",
        "predict",
        "inspect",
        "explain",
        "train",
        "evaluate",
        "check-data",
        "diagnose",
        "demo",
        "bench",
    ):
        assert "--help" in place.works("segtwin", command, "--help")
    assert "fcn8s\t134,362,751" in place.works("segtwin", "list")
    for code in (MAKE_WEIGHTS, MAKE_FCN8S):
        place.works("python", "-c", code)
    place.works("segtwin", "convert", "u.safetensors", "u.pth")
    assert "all equal" in place.works("segtwin", "inspect", "u.safetensors", "--diff", "u.pth")
    place.works("segtwin", "convert", "f.caffemodel", "f.weights.h5")
    assert "conv1_1/weight" in place.works("segtwin", "inspect", "f.caffemodel", "--check")
    place.works("segtwin", "explain", "unet-paper", "--size", "188x204", "--picture", "seen.png")
    place.works(
        "python", "-c", f"from PIL import Image; Image.open({str(PHOTO)!r}).convert('L').resize((48, 32)).save('i.png')"
    )
    assert (
        place.works("python", "-c", "import segtwin; print(segtwin.preprocess('i.png', 'unet-small').shape)")
        == "(1, 1, 32, 48)\n"
    )
    check_modules(place, usable)
    check_engines(place, usable)
    check_training(place, usable)


def check_modules(place: Place, usable: set[str]) -> None:
    """`import segtwin_torch` works, or is an ImportError that names the extra."""
    place.works("python", "-W", "error", "-c", "import segtwin, segtwin_weights")
    for framework, module in MODULES.items():
        if framework in usable:
            place.works("python", "-c", f"import {module}; assert 'fcn8s' in {module}.list_networks()")
        else:
            done = place.run("python", "-c", f"import {module}")
            assert done.returncode == 1
            assert done.stderr.splitlines()[-1].startswith(f"ImportError: {module} needs "), done.stderr
            assert f"pip install 'segtwin[{framework}]'" in done.stderr
    if {"torch", "keras"} <= usable:
        for order in ("segtwin_torch, segtwin_keras", "segtwin_keras, segtwin_torch"):
            place.works("python", "-c", f"import {order}")


def check_engines(place: Place, usable: set[str]) -> None:
    """Export, predict and parity, with what is there."""
    nothing = "nowhere.safetensors"  # does not exist: what is missing is said before weights are read
    assert place.offers() == {"auto", "oracle"} | usable - {"train", "demo"}
    for framework in ("torch", "keras"):
        if framework in usable:
            place.works("segtwin", "export", "u.safetensors", f"{framework}.onnx", "--framework", framework)
            place.works(
                "segtwin", "predict", "u.safetensors", "i.png", "-o", f"masks-{framework}", "--engine", framework
            )
            place.works("segtwin", "export", "f.caffemodel", f"f-{framework}.onnx", "--framework", framework)
            place.works("segtwin", "predict", f"{framework}.onnx", "i.png", "-o", f"masks-{framework}-onnx")
        else:
            place.refuses("segtwin", "export", nothing, f"{framework}.onnx", "--framework", framework, extra=framework)
            place.refuses("segtwin", "predict", nothing, "i.png", "-o", "masks", "--engine", framework, extra=framework)
    engine = "onnxruntime" if "onnxruntime" in usable else "oracle"
    assert f"in {engine}" in place.works("segtwin", "predict", "u.safetensors", "i.png", "-o", "masks-auto")
    assert "in oracle" in place.works(
        "segtwin", "predict", "u.safetensors", "i.png", "-o", "masks-oracle", "--engine", "oracle"
    )
    if "onnxruntime" in usable:
        place.works("segtwin", "predict", "u.safetensors", "i.png", "-o", "masks-ort", "--engine", "onnxruntime")
        place.works("segtwin", "export", "u.safetensors", "int8.onnx", "--int8", "i.png")
    else:
        place.refuses("segtwin", "predict", nothing, "i.png", "-o", "masks", "--engine", "onnxruntime", extra="onnx")
        place.refuses("segtwin", "export", nothing, "int8.onnx", "--int8", "i.png", extra="onnx")
    masks = {path.read_bytes() for path in place.folder.glob("masks-*/i.mask.png")}
    assert len(masks) == 1, "every engine gives the same mask"
    lacking = sorted({"torch", "keras", "onnxruntime"} - usable)
    if lacking:
        for one in lacking:
            place.refuses("segtwin", "parity", nothing, "i.png", extra={"onnxruntime": "onnx"}.get(one, one))
    else:
        assert "holds" in place.works("segtwin", "parity", "u.safetensors", "i.png", "--report", "p.html")


def check_training(place: Place, usable: set[str]) -> None:
    """Train a step in each framework, and score what came of it."""
    if "demo" not in usable:
        place.refuses("segtwin", "demo", extra="demo")
    if "train" not in usable:
        place.refuses("segtwin", "check-data", "nowhere", extra="train")
        place.refuses("segtwin", "evaluate", "nowhere.safetensors", "nowhere", extra="train")
        return
    assert "nothing here makes a training go wrong" in place.works("segtwin", "check-data", NUCLEI)
    for framework in sorted({"torch", "keras"} & usable):
        words = ("--framework", framework, "--steps", "1", "--crop", "32", "--elastic", "3")
        place.works("segtwin", "train", "unet-small", NUCLEI, "-o", f"run-{framework}", *words)
        best = f"run-{framework}/best.safetensors"
        assert "mean IoU" in place.works("segtwin", "evaluate", best, NUCLEI, "--report", f"{framework}.html")


def main() -> None:
    """Build the wheel once, and check each extra."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("extras", nargs="*", choices=[[], *EXTRAS], help="by default all")
    parser.add_argument("--keep", type=Path, help="make the environments here, and keep them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="segtwin-wheel-") as name:
        build = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            name,
            str(ROOT),
        ]
        subprocess.run(build, check=True)
        (wheel,) = Path(name).glob("*.whl")
        for extra in arguments.extras or EXTRAS:
            with tempfile.TemporaryDirectory(prefix=f"segtwin-{extra}-") as folder:
                begun = time.monotonic()
                work = Path(folder) / "work"
                work.mkdir()
                place = Place(work, (arguments.keep or Path(folder)).resolve() / extra, wheel, extra)
                installed = time.monotonic()
                if extra in ("base", "torch"):
                    check_library(place, EXTRAS[extra])
                else:
                    check(place, EXTRAS[extra])
            print(
                f"segtwin[{extra}]: works; installed in {installed - begun:.0f} s, tried in "
                f"{time.monotonic() - installed:.0f} s",
                flush=True,
            )
            for command, text in place.noise.items():
                print(f"  {command}\n    writes to standard error: {text[:300]}", flush=True)


if __name__ == "__main__":
    main()
