"""Training in both frameworks: the same losses and weights, exact resume after any end, checkpoints that
every command takes, and what is refused."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import segtwin_keras
import segtwin_torch
from goldens import recipe_weights
from PIL import Image
from safetensors.numpy import load_file
from segtwin.errors import DataError, RunError
from segtwin_cli.main import main
from segtwin_weights import Weights, convert, initialize, read, write

pytestmark = pytest.mark.filterwarnings("ignore::segtwin.images.Converted")
TWINS = {"torch": segtwin_torch, "keras": segtwin_keras}
frameworks = pytest.mark.parametrize("framework", TWINS)
EXACT = 1e-9
WIDTHS = (3, 4, 4, 4, 4)
TINY = (4, 6, 8, 10, 12, 14, 16)


def blobs_of_light(
    root: Path, count: int = 8, size: int = 32, foreground: int = 255, radius: tuple[float, float] = (4, 8)
) -> Path:
    """Grey images of bright discs on noise, and their masks."""
    y, x = np.mgrid[:size, :size]
    for number in range(count):
        random = np.random.RandomState(number)
        inside = np.zeros((size, size), bool)
        for _ in range(2):
            cy, cx = random.uniform(6, size - 6, 2)
            inside |= (y - cy) ** 2 + (x - cx) ** 2 < random.uniform(*radius) ** 2
        values = random.normal(60, 15, (size, size)) + 120 * inside
        for folder, array in (("images", values.clip(0, 255)), ("masks", inside * foreground)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(root / folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blobs_of_light(tmp_path_factory.mktemp("data"))


def run(framework: str, data: Path, folder: Path, **more: object):
    fields = {"widths": WIDTHS, "steps": 6, "batch": 2, "seed": 1, "validate_every": 3, **more}
    return TWINS[framework].train("unet-small", data, folder, **fields)


def log(folder: Path) -> dict:
    return json.loads((folder / "log.json").read_text())


def same_arrays(one: Path, other: Path) -> None:
    mine, yours = load_file(one / "state.safetensors"), load_file(other / "state.safetensors")
    assert mine.keys() == yours.keys()
    for name, array in mine.items():
        np.testing.assert_array_equal(array, yours[name], err_msg=name)


@pytest.mark.parametrize("optimizer", ["adam", "caffe-sgd"])
def test_the_twins_train_alike_and_go_on_from_each_other(optimizer: str, data: Path, tmp_path: Path) -> None:
    """float64: 20 steps in torch, in Keras, and 10 + 10 both ways round, within 1e-9: losses, weights and
    the optimizer's state. BatchNorm, augmentation, decay and two batches a step are on."""
    more = {
        "dtype": "float64", "optimizer": optimizer, "weight_decay": 1e-3, "iter_size": 2, "elastic": 2.0,
        "base_lr": 1e-2 if optimizer == "caffe-sgd" else 1e-3, "lr_policy": "exp", "gamma": 0.95, "validate_every": 10,
    }  # fmt: skip
    ways = {
        "torch": ("torch", "torch"),
        "over": ("torch", "keras"),
        "keras": ("keras", "keras"),
        "back": ("keras", "torch"),
    }
    for first in TWINS:
        run(first, data, tmp_path / first, steps=10, **more)
    shutil.copytree(tmp_path / "torch", tmp_path / "over")
    shutil.copytree(tmp_path / "keras", tmp_path / "back")
    for name, (_, second) in ways.items():
        run(second, data, tmp_path / name, steps=20, resume=True, **more)
    want = load_file(tmp_path / "torch" / "state.safetensors")
    losses = np.array([loss for _, loss, _ in log(tmp_path / "torch")["steps"]])
    assert len(losses) == 20
    assert losses[-4:].mean() < losses[:4].mean()
    for name in ways:
        np.testing.assert_allclose([loss for _, loss, _ in log(tmp_path / name)["steps"]], losses, rtol=EXACT)
        got = load_file(tmp_path / name / "state.safetensors")
        assert got.keys() == want.keys()
        for key, array in want.items():
            if not rounding_alone(key, want):
                scale = max(float(np.abs(array).max()), 1e-9)
                assert np.abs(got[key] - array).max() <= EXACT * scale, (name, key)
    assert log(tmp_path / "over")["framework"] == "torch, keras from step 10"


def rounding_alone(key: str, state: dict[str, np.ndarray]) -> bool:
    """A convolution's bias before a BatchNorm: its gradient is zero but for rounding, which Adam makes a
    step of."""
    module, _, kind = key.rpartition(".")
    if kind != "bias":
        return False
    stem, _, number = module.rpartition(".")
    return number.isdigit() and f"weights/{stem.split('/', 1)[-1]}.{int(number) + 1}.running_mean" in state


@frameworks
def test_a_killed_run_goes_on_to_the_same_bits(framework: str, data: Path, tmp_path: Path) -> None:
    """kill −9 between two checkpoints, in a process of its own, and --resume: state, log and best are
    those of a run that nobody stopped."""
    run(framework, data, tmp_path / "whole")
    code = (
        "import os, signal, sys\n"
        f"import segtwin_{framework} as twin\n"
        "def told(said):\n"
        "    if said.step == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"twin.train('unet-small', {str(data)!r}, {str(tmp_path / 'killed')!r}, widths={WIDTHS}, steps=6, batch=2, "
        "seed=1, validate_every=3, progress=told)\n"
    )
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(log(tmp_path / "killed")["steps"]) == 3
    resumed = run(framework, data, tmp_path / "killed", resume=True)
    assert resumed.steps == 6
    same_arrays(tmp_path / "whole", tmp_path / "killed")
    mine, yours = log(tmp_path / "whole"), log(tmp_path / "killed")
    assert mine["steps"] == yours["steps"]
    assert mine["validations"] == yours["validations"]
    assert mine["best"] == yours["best"]
    for name in ("last", "best"):
        one, other = (read(tmp_path / folder / f"{name}.safetensors") for folder in ("whole", "killed"))
        assert one.fingerprint() == other.fingerprint()
    assert not list((tmp_path / "killed").glob(".*part*"))


@frameworks
def test_dropout_is_the_same_after_a_resume(framework: str, data: Path, tmp_path: Path) -> None:
    """Masks are drawn from the seed and the number of the step."""
    more = {"widths": (2, 2, 2, 2, 2), "validate_every": 2, "steps": 4, "batch": 1, "lr_policy": "fixed"}
    twin = TWINS[framework]
    twin.train("unet-paper", data, tmp_path / "whole", **more)
    twin.train("unet-paper", data, tmp_path / "parts", **{**more, "steps": 2})
    twin.train("unet-paper", data, tmp_path / "parts", resume=True, **more)
    same_arrays(tmp_path / "whole", tmp_path / "parts")
    twin.train("unet-paper", data, tmp_path / "without", dropout=0.0, **more)
    first, second = (log(tmp_path / name)["steps"][0][1] for name in ("whole", "without"))
    assert first != second


@frameworks
def test_ctrl_c_writes_a_checkpoint_and_exits_130(framework: str, data: Path, tmp_path: Path) -> None:
    """In the middle of the command, through the signal."""
    folder = tmp_path / "run"
    words = ["train", "unet-small", str(data), "-o", str(folder), "--framework", framework, "--steps", "100000"]
    # a test run in the background hands on a SIGINT that is ignored
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heard}; from segtwin_cli.main import main; main()", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    events = folder / "tensorboard"
    while not (events.is_dir() and sum(one.stat().st_size for one in events.iterdir()) > 2000):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, words_said = process.communicate(timeout=120)
    assert process.returncode == 130, words_said
    assert "--resume goes on" in words_said
    done = len(log(folder)["steps"])
    assert done > 5
    assert int(load_file(folder / "state.safetensors")["step"]) == done
    assert "Traceback" not in words_said


@frameworks
def test_the_command_learns_and_others_take_its_files(framework: str, data: Path, tmp_path: Path, capsys) -> None:
    """Discs on noise: above 0.9 IoU within 60 steps; predict, evaluate, inspect and export take the
    checkpoint as it is."""
    folder = tmp_path / "run"
    words = [
        "train",
        "unet-small",
        str(data),
        "-o",
        str(folder),
        "--framework",
        framework,
        "--steps",
        "60",
        "--batch",
        "4",
    ]
    assert status([*words, "--lr", "0.01", "--json", str(tmp_path / "facts.json"), "--quiet"]) == 0
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["best"]["mean_iou"] > 0.9
    assert {one.name for one in folder.iterdir()} >= {
        "recipe.toml", "log.json", "last.safetensors", "best.safetensors", "state.safetensors", "curves.png",
        "tensorboard",
    }  # fmt: skip
    best = folder / "best.safetensors"
    weights = read(best)
    assert weights.metadata["preprocessing"]["scale"] == pytest.approx(1 / 255)
    assert status(["evaluate", str(best), str(data), "--json", str(tmp_path / "scores.json"), "--quiet"]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["mean_iou"] > 0.9
    assert not scores["collapsed"]
    assert status(["predict", str(best), str(data / "images"), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    mask = np.array(Image.open(tmp_path / "out" / "0.mask.png"))
    truth = np.array(Image.open(data / "masks" / "0.png")) > 0
    assert (mask.astype(bool) == truth).mean() > 0.95
    assert status(["export", str(best), str(tmp_path / "x.onnx"), "--framework", framework, "--quiet"]) == 0
    assert "assumed" not in capsys.readouterr().err


def status(words: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


@frameworks
def test_what_cannot_be_resumed_is_refused(framework: str, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(framework, data, folder, steps=2, validate_every=1)
    more = {"validate_every": 1}
    for change, message in (
        ({}, "holds a run already; go on with it by --resume"),
        ({"resume": True, "base_lr": 0.5}, "another recipe: base_lr was 0.001 and is 0.5"),
        ({"resume": True, "steps": 1}, "has done 2 steps, and 1 are asked for"),
    ):
        with pytest.raises(RunError, match=message):
            run(framework, data, folder, **{**more, "steps": 4, **change})
    with pytest.raises(RunError, match=r"holds no state\.safetensors, nothing to resume"):
        run(framework, data, tmp_path / "none", resume=True)
    with pytest.raises(RunError, match=r"is a recipe of unet-small, and the network is unet"):
        TWINS[framework].train("unet", data, folder, resume=True)
    other = blobs_of_light(tmp_path / "other", 9)
    with pytest.raises(RunError, match="begun with other data: 1 images are new and 0 are gone"):
        run(framework, other, folder, **more, steps=4, resume=True)
    (other / "images/8.png").unlink()
    (other / "masks/8.png").unlink()
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(other / "images/3.png")
    with pytest.raises(RunError, match="begun with other data: a file has changed"):
        run(framework, other, folder, **more, steps=4, resume=True)
    assert len(log(folder)["steps"]) == 2
    damaged = (folder / "state.safetensors").read_bytes()[:500]
    (folder / "state.safetensors").write_bytes(damaged)
    with pytest.raises(RunError, match=r"state\.safetensors or log\.json is damaged"):
        run(framework, data, folder, **more, steps=4, resume=True)


@pytest.mark.parametrize(
    ("network", "fields", "message"),
    [
        ("unet-small", {"stepps": 4}, "a recipe has no field 'stepps'; did you mean steps"),
        ("unet-small", {"loss": "softmax"}, "1 class: softmax needs two classes or more"),
        ("unet-paper", {"loss": "dice"}, "the loss dice is of one sigmoid"),
        ("unet-small", {"loss": "dise"}, "there is no loss 'dise'.*did you mean dice"),
        ("unet-small", {"recipe": "heavy"}, "is no recipe file, and no recipe's name; unet-small has none of its own"),
        ("unet-small", {"base_lr": 0.0}, "nothing is learned without a rate above 0"),
        (
            "unet-small",
            {"momentum": 0.5, "optimizer": "caffe-sgd", "lr_policy": "step"},
            "'step' needs gamma and stepsize",
        ),
        ("fcn8s", {}, "fcn8s starts at zero, as its original does, and zeros learn nothing; give --weights"),
        ("fcn8-vgg", {}, "fcn8-vgg starts at zero"),
        ("unet-small", {"overfit": 0}, "--overfit is a number of images"),
        ("unet-smal", {}, "unet-smal"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_work(
    network: str, fields: dict, message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        segtwin_torch.train(network, data, tmp_path / "run", **fields)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_bad_data_is_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        run("torch", tmp_path / "none", tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images with labels are found here"):
        run("torch", tmp_path / "empty", tmp_path / "run")
    one_class = blobs_of_light(tmp_path / "one", foreground=0)
    with pytest.raises(DataError, match="hold one class alone"):
        run("torch", one_class, tmp_path / "run")
    strange = blobs_of_light(tmp_path / "strange", foreground=77)
    with pytest.raises(DataError, match="value 77 in a label"):
        run("torch", strange, tmp_path / "run")
    sizes = blobs_of_light(tmp_path / "sizes")
    Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(sizes / "masks/2.png")
    with pytest.raises(DataError, match=r"masks/2\.png: has 16×16 pixels, and .*images/2\.png 32×32"):
        run("torch", sizes, tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()


def test_broken_files_are_left_out_and_said(tmp_path: Path) -> None:
    """A label, and an image whose end is missing, before the first step."""
    broken = blobs_of_light(tmp_path / "data")
    (broken / "masks/3.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    (broken / "images/5.png").write_bytes((broken / "images/5.png").read_bytes()[:400])
    said: list[str] = []
    run("torch", broken, tmp_path / "run", say=said.append, steps=1)
    for name in ("masks/3.png", "images/5.png"):
        assert any(line.startswith("left out: ") and name in line for line in said), name
    taken = log(tmp_path / "run")["data"]
    assert not {"3", "5"} & {Path(name).stem for name in taken["train"] + taken["val"]}


@frameworks
def test_nan_stops_with_the_rate_and_keeps_the_last_checkpoint(framework: str, data: Path, tmp_path: Path) -> None:
    more = {"base_lr": 1e30, "lr_policy": "fixed", "optimizer": "caffe-sgd", "steps": 50, "validate_every": 1}
    with pytest.raises(RunError, match=r"the loss is (nan|inf) at step \d+, with the learning rate 1e\+30.*a tenth"):
        run(framework, data, tmp_path / "run", **more)
    assert read(tmp_path / "run" / "last.safetensors")


def test_a_collapse_is_said_with_its_cause(tmp_path: Path) -> None:
    """A foreground of some pixels in a thousand: the background everywhere has a low loss."""
    rare = blobs_of_light(tmp_path / "data", size=64, radius=(1, 2))
    said: list[str] = []
    result = run(
        "torch", rare, tmp_path / "run", steps=60, validate_every=60, loss="bce", base_lr=0.01, say=said.append
    )
    assert any(cause.startswith("COLLAPSE: class 0 is predicted in ") for cause in result.causes)
    assert any("of the pixels, and the largest alone gives a low loss" in line for line in said)
    assert log(tmp_path / "run")["causes"] == result.causes


def test_a_few_images_are_learned_by_heart(data: Path, tmp_path: Path) -> None:
    said: list[str] = []
    run("torch", data, tmp_path / "run", overfit=2, steps=120, base_lr=0.01, validate_every=60, say=said.append)
    assert any(line.startswith("learned by heart: ") for line in said)
    assert log(tmp_path / "run")["data"]["train"] == log(tmp_path / "run")["data"]["val"]


@frameworks
def test_an_fcn_is_trained_stage_by_stage_from_vgg16(framework: str, data: Path, tmp_path: Path) -> None:
    """vgg16.npy → fcn32s → fcn16s: weights are converted on the way; what is fixed stays bit-identical."""
    vgg = tmp_path / "vgg16.safetensors"
    write(recipe_weights("vgg16", TINY, 1), vgg)
    twin, more = TWINS[framework], {"num_classes": 2, "steps": 2, "validate_every": 2}
    twin.train("fcn32s", data, tmp_path / "32", weights=vgg, **more)
    before = read(tmp_path / "32" / "last.safetensors")
    twin.train("fcn16s", data, tmp_path / "16", weights=tmp_path / "32" / "last.safetensors", steps=2, validate_every=2)
    after = read(tmp_path / "16" / "last.safetensors")
    assert after.metadata["architecture"] == "fcn16s"
    assert after.metadata["num_classes"] == 2
    np.testing.assert_array_equal(after["upscore16/weight"], initialize("fcn16s", num_classes=2)["upscore16/weight"])
    moved = np.abs(before["score_fr/weight"] - convert(read(vgg), to="fcn32s", num_classes=2)["score_fr/weight"]).max()
    assert moved > 0
    assert log(tmp_path / "16")["start"]["fingerprint"] == convert(before, to="fcn16s").fingerprint()


@frameworks
def test_a_disk_that_is_full_keeps_the_last_state(framework: str, data: Path, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "run"
    run(framework, data, folder, steps=2, validate_every=1)
    before = (folder / "state.safetensors").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(folder / "state.safetensors"))

    monkeypatch.setattr("segtwin_weights.training.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        run(framework, data, folder, steps=4, validate_every=1, resume=True)
    assert (folder / "state.safetensors").read_bytes() == before
    assert not [one for one in os.listdir(folder) if ".part-" in one]
    monkeypatch.undo()
    assert run(framework, data, folder, steps=4, validate_every=1, resume=True).steps == 4


def test_weights_that_are_given_go_on(data: Path, tmp_path: Path) -> None:
    run("torch", data, tmp_path / "first")
    trained = tmp_path / "first" / "best.safetensors"
    result = segtwin_keras.train(read(trained), data, tmp_path / "second", steps=1, batch=2)
    assert result.steps == 1
    assert log(tmp_path / "second")["recipe"]["network"] == "unet-small"
    assert isinstance(read(tmp_path / "second" / "last.safetensors"), Weights)


@frameworks
def test_batches_in_parts_are_the_larger_batch(framework: str, data: Path, tmp_path: Path) -> None:
    """2 × 2 images and 1 × 4: the same updates, where no BatchNorm looks at the whole batch."""
    more = {"widths": (2, 2, 2, 2, 2), "steps": 3, "dtype": "float64", "dropout": 0.0, "validate_every": 3}
    twin = TWINS[framework]
    twin.train("unet-paper", data, tmp_path / "whole", batch=4, **more)
    twin.train("unet-paper", data, tmp_path / "parts", batch=2, iter_size=2, **more)
    whole, parts = log(tmp_path / "whole")["steps"], log(tmp_path / "parts")["steps"]
    np.testing.assert_allclose([one[1] for one in parts], [one[1] for one in whole], rtol=EXACT)


@frameworks
def test_mixed_precision_keeps_weights_and_validation_in_float32(framework: str, data: Path, tmp_path: Path) -> None:
    """Layers in bfloat16 (8 bits) for the step: a loss near float32's and not the same."""
    run(framework, data, tmp_path / "mixed", dtype="mixed_bfloat16", steps=2, validate_every=1)
    run("torch", data, tmp_path / "single", steps=1)
    mixed, single = (log(tmp_path / name)["steps"][0][1] for name in ("mixed", "single"))
    assert 2.0**-20 < abs(mixed - single) / single < 2.0**-5
    state = load_file(tmp_path / "mixed" / "state.safetensors")
    assert {array.dtype for name, array in state.items() if "num_batches" not in name and name != "step"} == {
        np.dtype(np.float32)
    }
    best = TWINS[framework].load(tmp_path / "mixed" / "last.safetensors", logits=True)
    rounded = [blob.dtype for blob in TWINS[framework].blobs(best, np.zeros((1, 1, 32, 32), np.float32)).values()]
    assert set(rounded) == {np.dtype(np.float32)}


def test_names_and_colours_of_the_classes_travel(data: Path, tmp_path: Path) -> None:
    labels = {"classes": ["night", "light"], "palette": [[0, 0, 0], [255, 255, 0]]}
    for framework in TWINS:
        run(framework, data, tmp_path / framework, steps=1, **labels)
        metadata = read(tmp_path / framework / "best.safetensors").metadata
        assert {name: metadata[name] for name in labels} == labels
    with pytest.raises(RunError, match="classes names 3, and the network has 1"):
        run("torch", data, tmp_path / "no", classes=["a", "b", "c"])
    with pytest.raises(RunError, match="palette has 1 colours, and there are 2 classes"):
        run("torch", data, tmp_path / "no", palette=[[0, 0, 0]])


def test_a_rate_that_falls_to_zero_is_planned_anew_and_said(data: Path, tmp_path: Path) -> None:
    run("torch", data, tmp_path / "run", steps=2)
    said: list[str] = []
    run("torch", data, tmp_path / "run", steps=4, resume=True, say=said.append)
    assert any("it was planned for 2, and from here on is that of 4" in line for line in said)


def test_processes_of_the_other_framework_are_refused(data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="torchrun starts PyTorch's processes"):
        run("keras", data, tmp_path / "run")
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": 0}}))
    with pytest.raises(RunError, match="TF_CONFIG is TensorFlow's"):
        run("torch", data, tmp_path / "run")
    monkeypatch.setenv("TF_CONFIG", "{")
    with pytest.raises(RunError, match="TF_CONFIG is no JSON"):
        run("keras", data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_processes_cannot_share_is_refused(data: Path) -> None:
    from segtwin.architectures import get_architecture
    from segtwin.data import Coding, Stream, find

    architecture = get_architecture("unet-small")
    with pytest.raises(DataError, match="2 processes cannot share a batch of 3; take a multiple of 2"):
        Stream(find(data).samples, Coding("foreground"), architecture, architecture.preprocessing, 1, 3, share=(0, 2))


def test_the_report_of_an_evaluation_shows_the_worst_first(data: Path, tmp_path: Path) -> None:
    run("torch", data, tmp_path / "run", steps=1)
    page, facts = tmp_path / "page.html", tmp_path / "facts.json"
    words = ["evaluate", str(tmp_path / "run" / "last.safetensors"), str(data), "--report", str(page)]
    assert status([*words, "--json", str(facts), "--quiet"]) == 0
    scores = json.loads(facts.read_text())
    assert 0 <= scores["isbi"]["warping_error"] <= scores["pixel_error"]
    text = page.read_text(encoding="utf-8")
    shown = re.findall(r"<figcaption>([^<:]+): mean IoU", text)
    by_score = sorted(scores["images"], key=lambda one: one["mean_iou"])
    assert sorted(shown) == sorted(one["name"] for one in by_score)
    assert next(one["mean_iou"] for one in by_score if one["name"] == shown[0]) == by_score[0]["mean_iou"]
    assert "data:image/jpeg;base64,/9j/" in text
    assert status(words) == 2  # the page is there already


def test_the_demonstration_is_a_name_where_no_file_has_it(tmp_path: Path, monkeypatch) -> None:
    """segtwin predict demo: the half of the picture that it was not trained on."""
    monkeypatch.chdir(tmp_path)
    picture = Path(__file__).parent.parent / "docs/nuclei/val"
    assert status(["predict", "demo", str(picture / "images"), "-o", "out", "--quiet"]) == 0
    found = np.array(Image.open(next(Path("out").glob("*.mask.png")))) == 1
    wanted = np.array(Image.open(next((picture / "masks").glob("*.png")))) > 0
    assert (found & wanted).sum() / (found | wanted).sum() > 0.8
    Path("demo").write_bytes(b"something else")
    assert status(["inspect", "demo"]) == 2
