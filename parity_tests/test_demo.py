"""`segtwin demo`: what its page computes, and that it is served to this machine alone."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import segtwin_weights
from PIL import Image
from segtwin_cli.main import main
from segtwin_engines.demo_page import BUTTONS, Answer, difference, rows, side_by_side

PICTURE = Path(__file__).parent.parent / "docs/images/nuclei.png"


def test_masks_of_several_engines_side_by_side() -> None:
    """The demonstration's weights on a part of their picture whose size does not fit the network."""
    image = np.asarray(Image.open(PICTURE).convert("RGB"))[:90, 300:411]
    said: list[str] = []
    opened: dict = {}
    answers = side_by_side(image, "demo", None, ["torch", "keras", "oracle"], opened, said.append)
    assert [answer.engine for answer in answers] == ["torch", "keras", "oracle"]
    for answer in answers:
        assert answer.overlay.shape == image.shape
        assert 0.02 < answer.labels.mean() < 0.9
        assert np.abs(answer.result - answers[-1].result).max() < 1e-5
        assert (answer.overlay[answer.labels == 0] == image[answer.labels == 0]).all()
        assert answer.ms > 0
    assert any("grey" in line for line in said), "a conversion is said"
    again = side_by_side(image, "demo", None, ["torch"], opened, said.append)
    assert len(opened) == 3, "an engine is opened once"
    np.testing.assert_array_equal(again[0].labels, answers[0].labels)
    with pytest.raises(FileNotFoundError):
        side_by_side(image, "nothere.pth", None, ["torch"], {}, said.append)


def test_the_difference_and_the_table() -> None:
    one = Answer("a", np.zeros((2, 2, 2)), np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3), np.uint8), 3.4)
    other = Answer("b", np.zeros((2, 2, 2)), np.array([[0, 1], [0, 0]], np.uint8), one.overlay, 12.6)
    other.result[1, 0, 1], other.result[0, 1, 1] = 0.5, 0.25
    picture, title = difference([one, other])
    assert picture[..., 0].tolist() == [[0, 255], [0, 127]]
    assert title.endswith("(white: 5.0e-01)")
    picture, title = difference([one, one])
    assert picture.max() == 0
    assert title.endswith("nowhere")
    assert rows([one, other]) == [["a", "3", "0.0e+00", "0"], ["b", "13", "5.0e-01", "1"]]


def test_the_page_advises_nothing_that_it_does_not_have(tmp_path: Path) -> None:
    """Options of commands, say, where weights do not state their preprocessing."""
    weights = dict(segtwin_weights.initialize("unet-small", widths=(2, 2, 2, 2, 2), seed=1))
    segtwin_weights.write(segtwin_weights.Weights(weights), tmp_path / "u.safetensors")
    said: list[str] = []
    side_by_side(np.zeros((32, 32, 3), np.uint8), str(tmp_path / "u.safetensors"), None, ["oracle"], {}, said.append)
    assert said[0].startswith("preprocessing assumed")
    assert "segtwin convert" in said[0]
    assert not any("--" in line for line in said)


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code = f"from segtwin_cli.main import main; main(['demo', '--port', '{port}'])"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"segtwin: 127.0.0.1:{port}: is taken")
    assert "--port" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_the_page_is_served_to_this_machine_alone(tmp_path: Path) -> None:
    """By the command itself; the button's function, and the page as a browser draws it, where one is installed."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", "from segtwin_cli.main import main; main(['demo'])"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[0]
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/?", address), address
            port = int(address.rstrip("/").rsplit(":", 1)[1])
            listening = Path("/proc/net/tcp").read_text().splitlines() if Path("/proc/net/tcp").exists() else []
            bound = {line.split()[1] for line in listening[1:] if line.split()[3] == "0A"}
            assert not listening or f"0100007F:{port:04X}" in bound
            assert f"00000000:{port:04X}" not in bound
            page = get(address)
            assert "segtwin demo" in page
            config = json.loads(get(f"{address.rstrip('/')}/config"))
            parts = [(one["type"], one["props"]) for one in config["components"]]
            assert [part["buttons"] for kind, part in parts if kind in ("image", "gallery")] == [BUTTONS] * 3
            assert [part["wrap"] for kind, part in parts if kind == "dataframe"] == [True]
            cleared, segmented = config["dependencies"]
            assert cleared["outputs"] == segmented["outputs"], "nothing old stays beside an error"
            call = json.dumps({"data": [None, "demo", "as the weights say", ["torch"]]}).encode()
            request = urllib.request.Request(f"{address.rstrip('/')}/gradio_api/call/segment", data=call)
            request.add_header("Content-Type", "application/json")
            with urllib.request.urlopen(request, timeout=60) as answer:
                event = json.load(answer)["event_id"]
            assert "drop an image first" in get(f"{address.rstrip('/')}/gradio_api/call/segment/{event}")
            if browser := shutil.which("chromium"):
                drawn = subprocess.run(
                    [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000",
                     f"--user-data-dir={tmp_path}", "--dump-dom", address],
                    capture_output=True, text=True, timeout=120, check=False,
                )  # fmt: skip
                for word in ("Segment", "Drop Image Here", "onnxruntime", "where their probabilities differ"):
                    assert word in drawn.stdout, drawn.stderr[-2000:]
        finally:
            server.terminate()


def get(address: str) -> str:
    for _ in range(50):
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return answer.read().decode()
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{address} does not answer")


def test_without_gradio_the_command_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as ended:
        main(["demo"])
    assert ended.value.code == 2
    assert "pip install 'segtwin[demo]'" in capsys.readouterr().err
    assert segtwin_weights.DEMO.exists()
