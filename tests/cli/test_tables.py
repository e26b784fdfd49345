"""What commands print as tables: every name whole, on a terminal of 80 columns, in a pipe, and as
JSON."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
import segtwin_weights
from click.testing import CliRunner
from segtwin import explanation
from segtwin.architectures import get_architecture, list_architectures
from segtwin_cli.main import COMMANDS, segtwin
from segtwin_weights import Weights, catalogue

NAMES = [
    "[red]inc.double_conv.0.weight[/red]",
    "[/]",
    "a b[31m",
    "up4.conv.double_conv.1.num_batches_tracked.of.a.name.wider.than.eighty.columns",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal_of_80_columns(command: str) -> None:
    """And no name is broken."""
    said = CliRunner().invoke(segtwin, [command, "--help"], terminal_width=80).output
    assert [line for line in said.splitlines() if len(line) > 80] == []
    if command == "download":
        assert set(catalogue.CATALOGUE) <= set(said.replace(",", " ").replace(".", " ").split())


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("odd") / "odd.safetensors"
    segtwin_weights.write(Weights({name: np.full((512, 1024, 1, 3), -1.2345e-12, np.float32) for name in NAMES[:1]} | {
        name: np.zeros(2, np.float32) for name in NAMES[1:]}), path)  # fmt: skip
    return path


def piped(*arguments: object) -> str:
    return subprocess.run(
        [sys.executable, "-m", "segtwin", *map(str, arguments)], capture_output=True, text=True, check=True
    ).stdout


def on_a_terminal(*arguments: object, columns: int = 80) -> list[str]:
    """The lines of a terminal, without the codes of colours."""
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | {
        "TERM": "dumb"
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "segtwin", *map(str, arguments)],
        stdout=theirs,
        stdin=theirs,
        stderr=subprocess.PIPE,
        env=environment,
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            more = os.read(mine, 4096)
        except OSError:  # the last writer has gone
            break
        if not more:
            break
        said += more
    os.close(mine)
    assert process.wait(60) == 0
    process.stderr.close()
    return said.decode().replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\r", "").splitlines()


SHOWN = [
    ("list",),
    ("explain", "unet", "--size", "64x96"),
    ("explain", "fcn8s", "--size", "375x500"),
    ("explain", "vggfcn8", "--size", "64x96"),
]


@pytest.mark.parametrize("arguments", SHOWN, ids=lambda arguments: " ".join(arguments[:2]))
def test_names_are_whole_in_80_columns_and_in_a_pipe(arguments: tuple[str, ...]) -> None:
    architecture = arguments[1] if len(arguments) > 1 else ""
    names = (
        [layer.name for layer in get_architecture(architecture).layers] if architecture else list(list_architectures())
    )
    lines = on_a_terminal(*arguments)
    assert [name for name in names if name not in {line.split("  ")[0].split(" ")[0] for line in lines}] == []
    assert max(map(len, lines)) <= 80
    table = [line.split("\t") for line in piped(*arguments).splitlines() if "\t" in line]
    assert len({len(line) for line in table}) == 1
    assert [name for name in names if name not in {line[0] for line in table}] == []
    assert not {"…", "│", "━"} & set("".join(line[0] for line in table))


def test_names_are_text_and_not_markup(odd: Path) -> None:
    escaped = [name.replace("\t", "\\t").replace("\x1b", "\\x1b") for name in NAMES]
    assert {line.split("\t")[0] for line in piped("inspect", odd).splitlines()} >= set(escaped)
    lines = on_a_terminal("inspect", odd, "--quiet")
    assert {line.split("  ")[0] for line in lines} >= set(escaped)
    assert max(len(line) for line in lines if not line.startswith("up4")) <= 80
    facts = json.loads(piped("inspect", odd, "--json", "-"))
    assert {blob["name"] for blob in facts["blobs"]} == set(NAMES)


def test_json_of_inspect(odd: Path, tmp_path: Path) -> None:
    piped("inspect", odd, "--json", tmp_path / "facts.json")
    facts = json.loads((tmp_path / "facts.json").read_text())
    weights = segtwin_weights.read(odd)
    assert (facts["fingerprint"], facts["numbers"]) == (weights.fingerprint(), 3 * 512 * 1024 + 3 * 2)
    blob = facts["blobs"][list(weights).index(NAMES[0])]
    assert (blob["shape"], blob["dtype"], blob["min"]) == ([512, 1024, 1, 3], "float32", float(np.float32(-1.2345e-12)))
    again = subprocess.run(
        [sys.executable, "-m", "segtwin", "inspect", str(odd), "--json", str(tmp_path / "facts.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (again.returncode, "--overwrite" in again.stderr) == (2, True)
    same = json.loads(piped("inspect", odd, "--diff", odd, "--json", "-"))
    assert (same["equal"], same["differences"], same["blobs"]) == (True, [], 4)


def test_json_of_list_and_explain(monkeypatch: pytest.MonkeyPatch, odd: Path) -> None:
    listed = json.loads(piped("list", "--json", "-"))["networks"]
    assert [one["name"] for one in listed] == list(list_architectures())
    assert (listed[2]["learned"], listed[2]["fixed"]) == (134_362_751, 127_008)
    facts = json.loads(
        piped("explain", "fcn8s", "--size", "375x500", "--in-channels", 4, "--num-classes", 5, "--json", "-")
    )
    blobs = {blob["name"]: blob for blob in facts["blobs"]}
    assert facts["input"] == {"name": "data", "shape": [4, 375, 500]}
    assert blobs["conv1_1"]["parameters"] == 64 * 4 * 9 + 64
    assert (blobs["score"]["shape"], blobs["score"]["offset"]) == ([5, 375, 500], [31, 31])
    assert blobs["pool3"]["map"][0] == {"scale": "1/8", "shift": "191/16"}
    monkeypatch.setenv("VGG16_NPY", str(odd))
    assert json.loads(piped("source", "vgg16", "--json", "-")) == {"name": "vgg16", "path": str(odd)}


@pytest.mark.parametrize("name", list_architectures())
@pytest.mark.parametrize("more", [0, 64])
def test_what_is_drawn_lies_within_the_image_and_its_padding(name: str, more: int) -> None:
    architecture = get_architecture(name)
    sizes = (188, 204) if name == "unet-paper" else (64, 96)
    height, width = (architecture.legal_size(size + more) for size in sizes)
    pad = next(layer.pad for layer in architecture.layers if layer.kind == "Convolution")
    for sight in explanation.sights(architecture, height, width):
        for (first, last), centre, size in zip(sight.box, sight.centre, (height, width), strict=True):
            assert -pad <= first <= centre <= last <= size - 1 + pad


def test_an_output_pixel_of_the_valid_unet_lies_92_pixels_inside() -> None:
    """572 → 388 in the paper: 92 pixels are lost on each side, so that output (0, 0) lies on image
    (92, 92), and the middle on the middle."""
    first, middle = explanation.sights(get_architecture("unet-paper"), 572, 572)
    assert (first.pixel, first.centre) == ((0, 0), (92, 92))
    assert (middle.pixel, middle.centre) == ((194, 194), (286, 286))
    assert all(low >= 0 and high <= 571 for low, high in middle.box)
