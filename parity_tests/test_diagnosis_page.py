"""The page of `segtwin diagnose`: what it says of one cause and of several, of networks and of weights alone."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from segtwin_engines.diagnosis_page import draw
from segtwin_engines.verdict import BlobState, Cause, Diagnosis

CAUSE = Cause("mirrored", "fc6", "fc6/weight is mirrored")


def page(result: Diagnosis, folder: Path) -> str:
    result.write_report(folder / "p.html")
    return (folder / "p.html").read_text()


def test_weights_alone_have_no_inputs_and_no_output(tmp_path: Path) -> None:
    result = Diagnosis("a.safetensors", "b.safetensors", "differs", 7.0, causes=[CAUSE])
    result.explanation = "fc6 is mirrored"
    result.blobs = [BlobState("fc6", "fc6", 1.0, None, 1e-7)]
    text = page(result, tmp_path)
    assert "arrays of weights, compared one by one" in text
    assert "<small>compared on" not in text
    assert "largest error of the output" not in text
    assert "of the layer alone" not in text
    assert "Every array" in text
    assert ">fc6 is mirrored.<" in text, "a layer's name stays as it is"


@pytest.mark.parametrize(("count", "reproduced", "words"), [(1, True, "it gives"), (2, False, "they do not give")])
def test_the_verdict_is_a_sentence(count: int, reproduced: bool, words: str, tmp_path: Path) -> None:
    result = Diagnosis("fcn8s", "b.onnx", "differs", 7.0, causes=[CAUSE] * count, reproduced=reproduced)
    result.explanation, result.inputs = "the first blob that differs is fc6", ["a probe"]
    result.blobs = [BlobState("fc6", "fc6", 1.0, 1.0, 1e-7)]
    text = page(result, tmp_path)
    assert ">The first blob that differs is fc6.<" in text
    assert f"Applied to the reference, {words} the port’s output" in text
    assert "of the layer alone" in text


def test_the_maps_count_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a small blob, too: there is no half of one."""
    ticks = []
    monkeypatch.setattr(plt, "close", lambda figure: ticks.extend(figure.axes[0].get_xticks()))
    draw(np.ones((1, 1, 2, 3)), np.zeros((1, 1, 2, 3)))
    assert ticks
    assert all(tick == round(tick) for tick in ticks)
