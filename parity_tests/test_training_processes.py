"""Several processes train as one does: torchrun, and MultiWorkerMirroredStrategy; of unequal shares, too."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import segtwin_keras
import segtwin_torch
import segtwin_weights
from PIL import Image
from safetensors.numpy import load_file

pytestmark = pytest.mark.filterwarnings("ignore::segtwin.images.Converted")
EXACT = 1e-12
"""float64: sums over two processes are added up in another order."""
RUNS = {
    # BatchNorm, and a loss that is a mean over pixels beside one that is a mean over images
    "unet-small": {"widths": (3, 4, 4, 4, 4), "loss": "bce-dice", "iter_size": 2},
    # summed over pixels; and a mean over pixels of which the processes have unequal numbers
    "fcn8s": {"loss": "softmax", "base_lr": 1e-6, "normalization": "BATCH_SIZE"},
    "fcn16s": {"loss": "softmax", "base_lr": 1e-3, "normalization": "VALID", "iter_size": 2},
}
CODE = """
import json, sys
framework, network, data, run, more = sys.argv[1:]
twin = __import__(f"segtwin_{framework}")
more = json.loads(more)
result = twin.train(network, data, run, **more)
print(result.rank, result.loss)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images, the first ones mostly void."""
    root = tmp_path_factory.mktemp("data")
    for number in range(6):
        random = np.random.RandomState(number)
        label = (random.rand(4, 4) > 0.5).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        values = random.normal(60, 15, (32, 32)) + 120 * label
        label[: 24 - 4 * number] = 255
        for folder, array in (("images", values.clip(0, 255)), ("masks", label)):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(root / folder / f"{number}.png")
    return root


def fields(network: str, folder: Path, **more: object) -> dict[str, object]:
    found = {"steps": 3, "batch": 4, "seed": 1, "validate_every": 3, "dtype": "float64", "val": "2"}
    found |= {**RUNS[network], **more}
    if network != "unet-small":
        weights = segtwin_weights.initialize(network, num_classes=2, widths=(2, 3, 4, 4, 4, 6, 6), seed=2)
        random = np.random.RandomState(3)
        blobs = {
            name: one if name.startswith("upscore") else random.normal(0, 0.1, one.shape).astype(np.float32)
            for name, one in weights.items()
        }
        segtwin_weights.write(segtwin_weights.Weights(blobs, weights.metadata), folder / "start.safetensors")
        found |= {"weights": str(folder / "start.safetensors"), "dropout": 0.0}
    return found


def train(framework: str, network: str, data: Path, run: Path, more: dict[str, object], processes: int = 2) -> None:
    """In processes of their own."""
    arguments = ["-W", "ignore", "-c", CODE, framework, network, str(data), str(run), json.dumps(more)]
    if framework == "torch":
        script = run.parent / "code.py"
        script.write_text(CODE)
        arguments = ["-W", "ignore", "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
                     str(script), *arguments[4:]]  # fmt: skip
    started, workers = [], [f"localhost:{free_port()}" for _ in range(processes)]
    for index in range(processes if framework == "keras" else 1):
        place = dict(os.environ, OMP_NUM_THREADS="1")
        if framework == "keras":
            place["TF_CONFIG"] = json.dumps(
                {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            )
        started.append(
            subprocess.Popen([sys.executable, *arguments], env=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
    ended = []
    try:
        for one in started:
            _, errors = one.communicate(timeout=300)
            ended.append((one.returncode, errors.decode()[-2000:]))
    finally:
        for one in started:
            one.kill()
            one.wait()
    for status, errors in ended:
        assert status == 0, errors


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def losses(run: Path) -> list[float]:
    return [loss for _, loss, _ in json.loads((run / "log.json").read_text())["steps"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "network"),
    [("torch", "unet-small"), ("torch", "fcn8s"), ("torch", "fcn16s"), ("keras", "unet-small"), ("keras", "fcn16s")],
)
def test_two_processes_train_as_one(framework: str, network: str, data: Path, tmp_path: Path) -> None:
    more = fields(network, tmp_path)
    train(framework, network, data, tmp_path / "two", more)
    twin = {"torch": segtwin_torch, "keras": segtwin_keras}[framework]
    twin.train(network, data, tmp_path / "one", **more)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=EXACT)
    one, two = (json.loads((tmp_path / run / "log.json").read_text()) for run in ("one", "two"))
    assert two["validations"] == one["validations"]
    assert (one["processes"], two["processes"]) == (1, 2)
    want, got = (load_file(tmp_path / run / "state.safetensors") for run in ("one", "two"))
    assert got.keys() == want.keys()
    for name, array in want.items():
        if network == "unet-small" and name.endswith("bias"):  # before a BatchNorm: the gradient is rounding
            continue
        scale = max(float(np.abs(array).max()), 1e-9)
        bound = EXACT if network != "unet-small" else 1e-8  # Adam divides by the gradient's size
        assert np.abs(got[name] - array).max() <= bound * scale, name
