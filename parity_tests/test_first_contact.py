"""The command on a machine that has only a part of what it can use; what it costs to start; what
modules show."""

import importlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import segtwin_weights
from click.testing import CliRunner
from goldens import FOLDER
from segtwin_cli.main import COMMANDS, segtwin
from segtwin_engines import installed
from segtwin_engines.installed import available_engines
from segtwin_engines.quiet import quiet_start

PHOTO = Path(__file__).parent.parent / "docs/images/chelsea.jpg"

RUN = """
import sys
lacking = set(filter(None, sys.argv.pop(1).split(",")))
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in lacking:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from segtwin_cli.main import main
main()
"""
ABSENT = {"torch": "torch,torchvision,onnxscript", "keras": "tensorflow,keras,tf2onnx", "onnxruntime": "onnxruntime"}
EVERYTHING = ",".join(ABSENT.values())


def run(lacking: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, lacking, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "u.safetensors"
    segtwin_weights.write(segtwin_weights.initialize("unet-small", widths=(2, 2, 2, 2, 2), seed=1), path)
    return path


def test_without_any_framework_everything_else_works(weights: Path, tmp_path: Path) -> None:
    for arguments in (
        ("--version",),
        ("--help",),
        *((command, "--help") for command in COMMANDS),
        ("list",),
        ("inspect", weights, "--check"),
        ("explain", "unet-small", "--size", "32x32", "--picture", tmp_path / "p.png"),
        ("convert", weights, tmp_path / "u.pth"),
        ("convert", FOLDER / "caffe/tiny_fcn8s_s1_c21.caffemodel", tmp_path / "f.weights.h5"),
    ):
        done = run(EVERYTHING, *arguments)
        assert (done.returncode, done.stderr) == (0, ""), (arguments, done.stderr)
        assert done.stdout


@pytest.mark.parametrize(
    "lacking", [some for count in (1, 2, 3) for some in itertools.combinations(ABSENT, count)], ids=" ".join
)
def test_what_is_missing_is_one_line_before_any_work(lacking: tuple[str, ...], tmp_path: Path) -> None:
    """The weights do not exist: a command that began to read them would say so."""
    modules = ",".join(ABSENT[name] for name in lacking)
    nowhere = tmp_path / "nowhere.safetensors"
    wanted = [(("parity", nowhere, PHOTO), lacking)]
    for framework in {"torch", "keras"} & set(lacking):
        wanted.append((("export", nowhere, tmp_path / "x.onnx", "--framework", framework), (framework,)))
    for engine in lacking:
        wanted.append((("predict", nowhere, PHOTO, "-o", tmp_path, "--engine", engine), (engine,)))
    for arguments, names in wanted:
        done = run(modules, *arguments)
        assert (done.returncode, done.stdout) == (2, ""), (arguments, done.stderr)
        assert done.stderr.startswith("segtwin: ")
        assert done.stderr.count("\n") == 1
        assert f"pip install 'segtwin[{','.join(installed.EXTRAS[name] for name in names)}]'" in done.stderr


def test_parity_names_the_engines_that_it_could_compare(tmp_path: Path) -> None:
    """Where the default ones are not all there."""
    done = run(ABSENT["keras"], "parity", tmp_path / "nowhere.safetensors", PHOTO)
    assert done.returncode == 2
    assert "parity needs tensorflow, keras and tf2onnx, which are not installed; " in done.stderr
    assert "--engines torch,onnxruntime" in done.stderr
    named = run(ABSENT["keras"], "parity", tmp_path / "nowhere.safetensors", PHOTO, "--engines", "keras")
    assert "--engines" not in named.stderr


def test_engines_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"torch", "keras", "onnxruntime", "opencv", "oracle"} <= set(available_engines())
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # None: an import fails
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "ncnn", None)
    assert set(available_engines()) - {"caffe"} == {"torch", "opencv", "oracle"}


def test_a_framework_that_fails_late_is_one_line(weights: Path) -> None:
    """A dependency of a dependency."""
    done = run("click_does_not_exist,safetensors", "inspect", weights)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "safetensors" in done.stderr


@pytest.mark.parametrize("arguments", ["--help", "--version"])
def test_starting_imports_almost_nothing(arguments: str) -> None:
    names = "torch torchvision tensorflow keras onnx onnxruntime h5py matplotlib jinja2 requests numpy PIL rich"
    code = f"""
import sys
from segtwin_cli.main import main
try: main([{arguments!r}])
except SystemExit as ended: assert not ended.code
print("loaded", [name for name in {names!r}.split() if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_the_list_of_commands_is_the_commands() -> None:
    said = CliRunner().invoke(segtwin, ["--help"]).output
    for name in COMMANDS:
        assert f"\n  {name} " in said
        command = segtwin.get_command(None, name)
        assert command.name == name


def test_python_m_segtwin_is_the_command() -> None:
    mine = subprocess.run([sys.executable, "-m", "segtwin", "--help"], capture_output=True, text=True, check=True)
    assert mine.stdout == run("", "--help").stdout
    done = subprocess.run([sys.executable, "-m", "segtwin", "frobnicate"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    code = "import sys, runpy; sys.modules['segtwin_cli'] = None; runpy.run_module('segtwin', run_name='__main__')"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert alone.returncode == 2
    assert alone.stderr.count("\n") == 1
    assert "not installed" in alone.stderr


@pytest.mark.parametrize("name", ["segtwin", "segtwin_weights", "segtwin_torch", "segtwin_keras"])
def test_a_module_shows_its_public_names(name: str) -> None:
    module = importlib.import_module(name)
    assert dir(module) == sorted(module.__all__)
    for public in module.__all__:
        assert getattr(module, public) is not None


def test_torch_trains_after_tensorflow() -> None:
    """triton after TensorFlow aborts the interpreter; torch's optimizers and torchvision import it."""
    code = """
import tensorflow, torch, segtwin_torch
model = segtwin_torch.build("unet-small", widths=(2, 2, 2, 2, 2), seed=1).train()
optimizer = torch.optim.Adam(model.parameters())
model(torch.rand(2, 1, 32, 32)).sum().backward()
optimizer.step()
import torchvision
print("stepped")
"""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert ended.stdout == "stepped\n", ended.stderr


def test_a_command_that_imports_tensorflow_is_quiet(tmp_path: Path) -> None:
    """Whatever imports it, and without a level of its log that the user set."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    code = "from segtwin_cli.main import main; main()"
    (tmp_path / "saved_model.pb").touch()
    for words in (
        ("train", "unet-small", tmp_path, "-o", tmp_path / "run", "--framework", "keras"),
        ("diagnose", tmp_path, "--weights", segtwin_weights.DEMO),
    ):
        command = [sys.executable, "-c", code, *map(str, words)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert ended.returncode == 2, ended.stderr
        assert ended.stderr.startswith("segtwin: "), ended.stderr
        assert ended.stderr.count("\n") == 1, ended.stderr


def test_tensorflow_starts_where_standard_error_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with quiet_start():
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"]
