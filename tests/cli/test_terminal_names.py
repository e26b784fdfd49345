"""Names that a terminal would obey, ends that a user makes, and full disks: one line of text, and
nothing left."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import segtwin_weights
from PIL import Image
from segtwin.printable import json_text, printable
from segtwin_cli.main import main
from segtwin_weights import Weights

pytestmark = pytest.mark.slow

HOSTILE = [
    "[red]x[/red]",
    "[/]",
    "a\x1b[31mb\x1b]0;t\x07",
    "new\nline\r",
    "bidi\u202e\u2066",
    ":smile: [link=x]",
    "c1\x9b2J",
    os.fsdecode(b"\xff\xfe"),
]
COMMAND = [sys.executable, "-c", "from segtwin_cli.main import main; main()"]


def start(*arguments: object, **options) -> subprocess.Popen:
    words = [os.fsencode(str(one)) for one in arguments]
    take = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731 - background jobs ignore it
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([*COMMAND, *words], preexec_fn=take, **pipes)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    segtwin_weights.write(segtwin_weights.initialize("fcn8s", widths=(2, 2, 3, 3, 4, 5, 5)), path)
    return path


def is_text(text: str, lines: int | None = None) -> None:
    assert all(one.isprintable() or one in "\n\t" for one in text), ascii(text)
    assert lines is None or text.count("\n") == lines, ascii(text)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_names_are_text_in_every_command(
    name: str, tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture
) -> None:
    there = tmp_path / f"{name}.safetensors"
    there.parent.mkdir(exist_ok=True)  # a tag that is closed is a folder, and a file in it
    there.write_bytes(weights.read_bytes())
    image = tmp_path / f"{name}.png"
    with open(image, "wb") as file:
        Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(file, "png")
    facts = tmp_path / f"{name}.json"
    out = tmp_path / f"out{name}"
    for arguments in (
        ("convert", there, tmp_path / f"{name}.npz2"),
        ("convert", tmp_path / f"no{name}", tmp_path / "x.npy"),
        ("convert", there, tmp_path / f"{name}.pth"),
        ("inspect", there, "--json", facts),
        ("inspect", there),
        ("inspect", there, image),
        ("predict", there, image, "-o", out, "--engine", "oracle", "--json", tmp_path / f"p{name}.json"),
        ("predict", there, tmp_path / f"no{name}", "-o", out, "--engine", "oracle"),
        ("export", there, tmp_path / f"{name}.xyz", "--framework", "torch"),
        ("convert", there, tmp_path / "y.pth", "--classes", tmp_path / f"no{name}"),
        (name,),
        ("list", f"--{name}"),
    ):
        status = run(*arguments)
        out_text, err = capfd.readouterr()
        is_text(out_text)
        is_text(err, None if status == 0 else 1)
        assert "Traceback" not in err
    assert json.loads(facts.read_text("utf-8"))
    found = json.loads((tmp_path / f"p{name}.json").read_text("utf-8"))
    assert found[0]["image"] == str(image)  # as it is
    is_text((tmp_path / f"p{name}.json").read_text("utf-8"))


def on_a_terminal(*arguments: object) -> bytes:
    """What a command that succeeds writes to a terminal."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "1000"}
    process = start(*arguments, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    said = b""
    try:
        while part := os.read(master, 4096):
            said += part
    except OSError:  # the other end is closed
        pass
    os.close(master)
    assert process.wait(60) == 0, said
    return said


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_progress_on_a_terminal_shows_names_as_text(name: str, tmp_path: Path, weights: Path) -> None:
    there = tmp_path / f"{name}.safetensors"
    there.parent.mkdir(exist_ok=True)  # a tag that is closed is a folder, and a file in it
    there.write_bytes(weights.read_bytes())
    target = tmp_path / f"{name}.pth"
    said = on_a_terminal("convert", there, target)
    for evil in (b"\x1b[31m", b"\x07", "\u202e".encode(), b"\xc2\x9b", b"\xff"):
        assert evil not in said
    assert b"Traceback" not in said
    assert f"{printable(target)}: Weights".encode() in said  # the steps may pass faster than they are drawn


def test_a_note_takes_the_place_of_the_bar(tmp_path: Path, weights: Path) -> None:
    held = segtwin_weights.read(weights)
    unknown = tmp_path / "unknown.safetensors"
    segtwin_weights.write(Weights(dict(held)), unknown)
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "grey.png")
    said = on_a_terminal("predict", unknown, tmp_path / "grey.png", "-o", tmp_path / "out", "--engine", "oracle")
    lines = [re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]|\r", b"", line.rpartition(b"\x1b[2K")[2]) for line in said.split(b"\n")]
    notes = [line for line in lines if b"note: " in line]
    assert len(notes) == 2, said
    assert all(line.startswith(b"note: ") for line in notes), said
    assert "━".encode() in said


def test_no_step_is_counted_before_the_training_says_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from segtwin_cli.train import shown

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with shown(quiet=False):
        pass
    said = sys.stderr.getvalue()
    assert "starting" in said
    assert "None" not in said


def test_json_text_is_json_for_every_name() -> None:
    names = [*HOSTILE, "\U000e0001", "\ud83d", "\u2028", "Größe ×"]
    text = json_text(json.dumps(names, ensure_ascii=False, indent=1))
    assert json.loads(text.encode("utf-8")) == names
    is_text(text)
    assert "Größe ×" in text
    assert all(printable(name).isprintable() for name in names)


@pytest.mark.parametrize("delay", [0.1, 0.4, 1.5])
@pytest.mark.parametrize("command", ["convert", "export"])
def test_ctrl_c_at_any_moment(command: str, delay: float, tmp_path: Path, weights: Path) -> None:
    """Also while numpy, torch and ONNX are imported. It may come after the end."""
    out = tmp_path / "out"
    rest = ["--framework", "torch"] if command == "export" else []
    process = start(command, weights, out / ("x.onnx" if rest else "x.caffemodel"), *rest)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) in ((130, b"segtwin: interrupted\n"), (0, b""), (-2, b"")), err
    left = sorted(path.name for path in out.iterdir()) if out.exists() else []
    whole = ["x.onnx"] if rest else ["x.caffemodel", "x.deploy.prototxt", "x.solver.prototxt", "x.train_val.prototxt"]
    assert left in ([], whole)


def slow_write(how: str) -> str:
    return f"""
import os, signal, sys, time
from pathlib import Path
import safetensors.numpy
def half(tensors, path, metadata):
    Path(path).write_bytes(b"half")
    print("writing", flush=True)
    {how}
safetensors.numpy.save_file = half
from segtwin_cli.main import main
main()
"""


def as_in_a_terminal() -> None:
    """Signals as a command gets them there: a background job ignores SIGINT, and nohup SIGHUP, and
    both hand that on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated"), (signal.SIGHUP, "hung up")]
)
@pytest.mark.parametrize("how", ["time.sleep(60)", "Swallow()"])
def test_a_signal_while_a_file_is_written(how: str, number: int, word: str, tmp_path: Path, weights: Path) -> None:
    """Also where Python swallows the interruption, in a destructor."""
    swallow = "class Swallow:\n    def __del__(self): time.sleep(60)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", "import time\n" + swallow + slow_write(how), "convert", weights,
            tmp_path / "out/x.safetensors"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=as_in_a_terminal,
    )  # fmt: skip
    assert process.stdout.readline() == b"writing\n"
    time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err.decode()) == (128 + number, f"segtwin: {word}\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_library_makes_of_ctrl_c_is_an_interruption(tmp_path: Path, weights: Path) -> None:
    how = (
        "\n    try: os.kill(os.getpid(), signal.SIGINT); time.sleep(9)\n    except BaseException: raise "
        "RuntimeError('C code failed') from None"
    )
    command = [sys.executable, "-c", slow_write(how), "convert", weights, tmp_path / "out/x.safetensors"]
    take = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=take)
    assert (done.returncode, done.stderr) == (130, "segtwin: interrupted\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_nobody_reads(tmp_path: Path, weights: Path) -> None:
    for arguments in (("list",), ("inspect", weights), ("inspect", weights, "--json", "-"), ("--help",)):
        reader, writer = os.pipe()
        os.close(reader)
        process = start(*arguments, stdout=writer)
        os.close(writer)
        _, err = process.communicate(timeout=60)
        assert err == b""
        assert process.returncode == 141


def test_a_full_standard_output_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "wb") as full:
        process = start("list", stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith(b"segtwin: ")
    assert err.count(b"\n") == 1


FULL = (
    "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
    "from segtwin_cli.main import main; main()"
)


@pytest.mark.parametrize("name", ["x.safetensors", "x.caffemodel", "x.pth", "x.weights.h5"])
def test_a_full_disk_leaves_nothing_in_any_format(name: str, tmp_path: Path, weights: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, "convert", weights, tmp_path / "out" / name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert name in done.stderr
    assert ".part-" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("framework", "names"), [("torch", ("x.pth", "x.onnx")), ("keras", ("x.weights.h5", "x.onnx"))]
)
def test_a_full_disk_leaves_nothing_of_an_export(
    framework: str, names: tuple[str, str], tmp_path: Path, weights: Path
) -> None:
    out = tmp_path / "out"
    for name in names[:1] if framework == "keras" else names:
        command = [sys.executable, "-c", FULL, "export", weights, out / name, "--framework", framework]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert name in done.stderr
        assert list(out.iterdir()) == []


def test_a_failing_second_shard_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.numpy
    from segtwin_weights.formats import safetensors_file

    weights = segtwin_weights.initialize("fcn8s", widths=(2, 2, 3, 3, 4, 5, 5))
    save, count = safetensors.numpy.save_file, []

    def failing(*arguments) -> None:
        count.append(1)
        if len(count) == 2:
            raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
        save(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.numpy, "save_file", failing)
        with pytest.raises(OSError, match="No space left") as error:
            safetensors_file.write(weights, tmp_path / "x.safetensors", shard_bytes=100_000)
    assert "x-00002-of-" in error.value.filename
    assert list(tmp_path.iterdir()) == []
    safetensors_file.write(weights, tmp_path / "x.safetensors", shard_bytes=100_000)
    assert segtwin_weights.read(tmp_path / "x.safetensors.index.json").fingerprint() == weights.fingerprint()


@pytest.mark.parametrize("ending", [".safetensors", ".caffemodel", ".pth", ".weights.h5"])
def test_names_that_are_no_text_are_written_and_read(ending: str, tmp_path: Path, weights: Path) -> None:
    path = tmp_path / f"{os.fsdecode(bytes([255, 254]))}{ending}"
    held = segtwin_weights.read(weights)
    segtwin_weights.write(held, path)
    again = segtwin_weights.read(path)
    assert (
        segtwin_weights.convert(again, to="fcn8s").fingerprint()
        == segtwin_weights.convert(held, to="fcn8s").fingerprint()
    )
    segtwin_weights.write(again, tmp_path / "x.safetensors")  # with the name of its source
    if ending == ".caffemodel":
        assert (
            b'net: "\xff\xfe.train_val.prototxt"'
            in path.with_name(path.name.replace(ending, ".solver.prototxt")).read_bytes()
        )


def test_an_onnx_file_has_a_name_that_is_text(tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture) -> None:
    path = tmp_path / f"{os.fsdecode(bytes([255, 254]))}.onnx"
    assert run("export", weights, path, "--framework", "torch", "--quiet") == 2
    said = capfd.readouterr().err
    is_text(said, 1)
    assert "no UTF-8" in said
