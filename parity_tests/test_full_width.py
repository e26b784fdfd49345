"""The whole thing at its real size: 134 million parameters, 375×500 pixels, every engine, and the
commands that make the files.

The golden of real Caffe holds `score_fr` and `score`; all other blobs are compared with the numpy
oracle in float64, against the noise of the oracle in float32, which computes as Caffe does.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import segtwin_keras
import segtwin_torch
import segtwin_weights
import torch
from goldens import FULL, LEAST_FLOOR, CaffeGolden, caffe_goldens, recipe_weights
from segtwin import noise, oracle
from segtwin.architectures import get_architecture
from segtwin_engines.onnxruntime import onnx_blobs
from segtwin_weights import sources

pytestmark = pytest.mark.full_width

GIGABYTE = 1e9


def segtwin_command(*arguments: object) -> float:
    """Run `segtwin …` in a process of its own; its peak of resident memory in bytes, as that
    process sees it at its end."""
    code = (
        "import atexit; atexit.register(lambda: print(open('/proc/self/status').read())); from "
        "segtwin_cli.main import main; main()"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    status = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


@pytest.fixture(scope="module")
def golden() -> CaffeGolden:
    return caffe_goldens("fcn8s", "full")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, golden: CaffeGolden) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("full")
    assert golden.widths == FULL
    segtwin_weights.write(golden.weights, folder / "fcn8s.safetensors")
    yield folder
    for file in folder.iterdir():  # gigabytes that pytest would keep for three runs
        file.unlink()


@pytest.fixture(scope="module")
def truth(golden: CaffeGolden) -> dict[str, np.ndarray]:
    truth = oracle.run(golden.architecture, golden.weights, golden.data)
    # not computed twice: it takes a while at this size
    golden.truth = {name: golden.stored(name, truth) for name in golden.blobs}
    return truth


@pytest.fixture(scope="module")
def floors(golden: CaffeGolden, truth: dict[str, np.ndarray]) -> dict[str, float]:
    errors = noise.rounding(golden.architecture, golden.weights, golden.data, truth, orders=(None,))
    return {name: max(error, LEAST_FLOOR) for name, error in errors.items()}


@pytest.fixture(scope="module")
def torch_model(folder: Path) -> torch.nn.Module:
    return segtwin_torch.build("fcn8s", weights=folder / "fcn8s.safetensors")


@pytest.fixture(scope="module", params=["torch", "keras", "onnx of torch", "onnx of keras"])
def blobs(
    request: pytest.FixtureRequest, golden: CaffeGolden, folder: Path, truth: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    if request.param == "torch":
        return segtwin_torch.blobs(request.getfixturevalue("torch_model"), golden.data)
    if request.param == "keras":
        return segtwin_keras.blobs(segtwin_keras.build("fcn8s", weights=folder / "fcn8s.safetensors"), golden.data)
    framework = request.param.split()[-1]
    peak = segtwin_command(
        "export", folder / "fcn8s.safetensors", folder / f"{framework}.onnx", "--framework", framework, "--quiet"
    )
    assert peak < 3.4 * GIGABYTE
    assert (folder / f"{framework}.onnx").stat().st_size < 100_000
    assert (folder / f"{framework}.onnx.data").stat().st_size > 537_000_000
    values = onnx_blobs(folder / f"{framework}.onnx", golden.data, golden.architecture.blobs)
    (folder / f"{framework}.onnx.data").unlink()
    return values


def test_the_oracle_is_caffe(golden: CaffeGolden, truth: dict[str, np.ndarray], floors: dict[str, float]) -> None:
    """Where Caffe's blobs are known, float32 costs Caffe what it costs the oracle, to a factor of
    2; `floors` caps it."""
    for name in golden.blobs:
        assert 0.5 < golden.floors[name] / floors[name] < 2, name
    for name, blob in truth.items():
        assert np.abs(blob).sum() == pytest.approx(golden.stats[name][1], rel=1e-6), name


def test_the_scores_are_caffes(golden: CaffeGolden, blobs: dict[str, np.ndarray]) -> None:
    assert {name: blob.shape for name, blob in blobs.items()} == golden.shapes
    errors = golden.errors(blobs)
    assert max(errors.values()) < 4, errors


def test_every_blob_is_within_the_noise(
    truth: dict[str, np.ndarray], floors: dict[str, float], blobs: dict[str, np.ndarray]
) -> None:
    errors = {name: oracle.relative_error(blobs[name], want) / floors[name] for name, want in truth.items()}
    assert max(errors.values()) < 4, errors


def test_the_classes_are_caffes(golden: CaffeGolden, blobs: dict[str, np.ndarray]) -> None:
    """But for pixels whose two best scores are a rounding apart."""
    second, first = np.sort(blobs["score"], axis=1)[:, -2:].transpose(1, 0, 2, 3)
    clear = first - second > 8 * golden.floors["score"] * np.abs(golden.blobs["score"]).max()
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(blobs["score"].argmax(1)[clear], golden.file["score_argmax"][clear])


def test_the_scores_are_caffes_with_torchs_own_kernels(
    golden: CaffeGolden, truth: dict[str, np.ndarray], torch_model: torch.nn.Module
) -> None:
    """Not in Caffe's arithmetic: what `model(data)` gives."""
    with torch.inference_mode():
        score = torch_model(torch.from_numpy(golden.data)).numpy()
    assert (
        oracle.relative_error(golden.stored("score", {"score": score}), golden.blobs["score"])
        < 4 * golden.floors["score"]
    )


def test_opencv_computes_the_scores_from_the_caffe_files(
    golden: CaffeGolden, folder: Path, truth: dict[str, np.ndarray]
) -> None:
    """Someone else's reader of prototxt and .caffemodel; its Winograd convolutions, which round 5
    times worse, are off."""
    segtwin_weights.write(golden.weights, folder / "fcn8s.caffemodel")
    net = cv2.dnn.readNetFromCaffe(str(folder / "fcn8s.deploy.prototxt"), str(folder / "fcn8s.caffemodel"))
    (folder / "fcn8s.caffemodel").unlink()
    net.enableWinograd(False)
    net.setInput(golden.data)
    score = net.forward("score")
    assert (
        oracle.relative_error(golden.stored("score", {"score": score}), golden.blobs["score"])
        < 4 * golden.floors["score"]
    )


def test_the_conversion_of_a_whole_vgg16_stays_below_1_6_gb(folder: Path) -> None:
    sources.write_synthetic(folder / "vgg16-SYNTHETIC.npy")
    assert (folder / "vgg16-SYNTHETIC.npy").stat().st_size > 553_000_000
    peak = segtwin_command(
        "convert", folder / "vgg16-SYNTHETIC.npy", folder / "converted.safetensors", "--to", "fcn8s", "--quiet"
    )
    assert peak < 1.6 * GIGABYTE
    (folder / "vgg16-SYNTHETIC.npy").unlink()
    converted = segtwin_weights.read(folder / "converted.safetensors")
    assert {name: blob.shape for name, blob in converted.items()} == {
        p.name: p.shape for p in get_architecture("fcn8s").parameters()
    }
    assert converted.metadata["synthetic"] is True


def test_the_float64_twins_agree_at_full_width(golden: CaffeGolden) -> None:
    """On a smaller image: fc6 alone sums 25,088 products."""
    weights, data = recipe_weights("fcn8s", FULL), golden.data[:, :, :40, :50]
    twins = [
        segtwin_torch.blobs(segtwin_torch.build("fcn8s", weights=weights, dtype="float64"), data),
        segtwin_keras.blobs(segtwin_keras.build("fcn8s", weights=weights, dtype="float64"), data),
    ]
    errors = {name: oracle.relative_error(twins[0][name], twins[1][name]) for name in twins[0]}
    assert max(errors.values()) < 1e-12, errors
