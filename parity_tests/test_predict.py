"""`segtwin predict` as a user runs it."""

from pathlib import Path

import numpy as np
import pytest
import segtwin
import segtwin_torch
import segtwin_weights
import torch
from goldens import TINY
from PIL import Image
from segtwin.palette import voc_palette
from segtwin_cli import predict, running
from segtwin_cli.main import main
from segtwin_weights import Weights, initialize


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def random_weights(row: str, **options) -> Weights:
    """As the network starts, but for zeros: an untrained FCN scores 0 everywhere."""
    start = initialize(row, seed=3, **options)
    random = np.random.RandomState(0)
    blobs = {name: blob if blob.any() or not blob.ndim else random.normal(0, 0.1, blob.shape).astype(np.float32) for name, blob in start.items()}
    return Weights({name: np.abs(blob) + 1 if name.endswith("running_var") else blob for name, blob in blobs.items()}, start.metadata)


SMALL = random_weights("unet-small", widths=(2, 3, 4, 5, 6))


@pytest.fixture
def work(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.RandomState(1).randint(0, 256, (64, 48, 3)).astype(np.uint8)
    Path("in").mkdir()
    Image.fromarray(pixels).save("in/a.png")
    Image.fromarray(pixels[:40, :33, 0]).save("in/b.png")
    Path("in/notes.txt").write_text("no image, and not taken for one")
    segtwin_weights.write(SMALL, "small.safetensors")
    return tmp_path


def middle_of_a() -> float:
    """A threshold that half of a.png is above, between two probabilities."""
    with pytest.warns(segtwin.Converted):
        data = segtwin.preprocess("in/a.png", "unet-small")
    network = segtwin_torch.build("unet-small", widths=(2, 3, 4, 5, 6), weights=SMALL)
    with torch.inference_mode():
        ordered = np.unique(network(torch.from_numpy(data)).numpy())
    return float(ordered[len(ordered) // 2 : len(ordered) // 2 + 2].mean(dtype=np.float64))


def test_a_folder_becomes_masks_and_overlays(work: Path, capsys) -> None:
    half = middle_of_a()
    assert run("predict", "small.safetensors", "in", "-o", "out", "--engine", "torch", "--pad", "reflect", "--probability", "--threshold", half) == 0
    kinds = ("mask.png", "overlay.png", "probability.npy")
    assert sorted(path.name for path in Path("out").iterdir()) == [f"{name}.{kind}" for name in "ab" for kind in kinds]
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "out: 2 of 2 images segmented by unet-small in torch"
    assert [line.rpartition(": ")[0] for line in out.splitlines()[:-1]] == ["in/a.png", "in/b.png"]
    assumed, converted = err.splitlines()
    assert assumed.startswith("note: preprocessing assumed from the network's names: grey, values 0..1; say --colour")
    assert converted == "note: in/a.png: colours became grey, 0.299 R + 0.587 G + 0.114 B"

    network = segtwin_torch.build("unet-small", widths=(2, 3, 4, 5, 6), weights=SMALL, pad="reflect")
    for name in "ab":
        mask, overlay = Image.open(f"out/{name}.mask.png"), np.asarray(Image.open(f"out/{name}.overlay.png"))
        image = np.asarray(Image.open(f"in/{name}.png").convert("RGB"))
        with pytest.warns(segtwin.Converted) if name == "a" else torch.inference_mode():
            data = segtwin.preprocess(f"in/{name}.png", "unet-small")
        with torch.inference_mode():
            want = network(torch.from_numpy(data)).numpy()[0]
        np.testing.assert_allclose(np.load(f"out/{name}.probability.npy"), want, rtol=1e-6)
        assert mask.mode == "P"
        assert set(np.unique(mask.convert("RGB"))) == {0, 255}
        assert np.asarray(mask).max() == 1
        there = np.asarray(mask) == 1
        np.testing.assert_array_equal(segtwin.preprocess_label(f"out/{name}.mask.png")[0, 0], there)
        np.testing.assert_array_equal(there, want[0] >= half)
        assert 0 < there.sum() < there.size
        np.testing.assert_array_equal(overlay[~there], image[~there])
        np.testing.assert_array_equal(overlay[there], np.rint(0.5 * image + 0.5 * np.array([255, 40, 40]))[there])


def test_engines_agree(work: Path) -> None:
    for engine in ("onnxruntime", "torch", "keras"):
        assert run("predict", "small.safetensors", "in/a.png", "-o", engine, "--engine", engine, "--probability", "--quiet") == 0
    for engine in ("onnxruntime", "keras"):
        np.testing.assert_allclose(np.load(f"{engine}/a.probability.npy"), np.load("torch/a.probability.npy"), atol=1e-6)


def test_classes_become_a_palette_image(work: Path) -> None:
    segtwin_weights.write(random_weights("fcn8s", widths=TINY), "fcn8s.safetensors")
    assert run("predict", "fcn8s.safetensors", "in/a.png", "-o", "out", "--engine", "torch", "--probability", "--quiet") == 0
    mask, probability = Image.open("out/a.mask.png"), np.load("out/a.probability.npy")
    assert mask.mode == "P"
    assert probability.shape == (21, 64, 48)
    network = segtwin_torch.build("fcn8s", widths=TINY, weights="fcn8s.safetensors")
    with torch.inference_mode():
        want = torch.softmax(network(torch.from_numpy(segtwin.preprocess("in/a.png", "fcn8s"))), dim=1)
    assert probability.max() > 1.2 / 21, "not all alike"
    np.testing.assert_allclose(probability, want[0].numpy(), rtol=1e-4)
    np.testing.assert_array_equal(np.asarray(mask), probability.argmax(0))
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), voc_palette()[np.asarray(mask)])

    scores = np.random.RandomState(0).rand(21, 64, 48)  # of every class something
    files = {"mask": Path("all.mask.png"), "overlay": Path("all.overlay.png")}
    with predict.writing(files, 1) as put:
        put(scores, np.asarray(Image.open("in/a.png")), 0.5, (voc_palette(), voc_palette()), False)
    mask, image = Image.open("all.mask.png"), np.asarray(Image.open("in/a.png"))
    labels = np.asarray(mask)
    assert set(np.unique(labels)) == set(range(21))
    np.testing.assert_array_equal(labels, scores.argmax(0))
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), voc_palette()[labels])
    tinted = np.where((labels == 0)[..., None], image, np.rint(0.5 * image + 0.5 * voc_palette()[labels]))
    np.testing.assert_array_equal(np.asarray(Image.open("all.overlay.png")), tinted)


@pytest.mark.parametrize("row", segtwin.architectures.ROWS)
def test_every_row_predicts(work: Path, row: str) -> None:
    widths = {"unet-paper": (2, 2, 2, 2, 2), "unet": (2, 3, 4, 5, 6), "unet-small": (2, 3, 4, 5, 6), "resnet34-unet": None}.get(row, TINY)
    segtwin_weights.write(random_weights(row, widths=widths), "w.safetensors")
    Image.open("in/a.png").resize((96, 64)).save("fits.png")
    assert run("predict", "w.safetensors", "fits.png", "-o", "out", "--engine", "torch", "--probability", "--quiet") == 0
    mask, probability = np.asarray(Image.open("out/fits.mask.png")), np.load("out/fits.probability.npy")
    assert probability.shape == (segtwin.get_architecture(row).num_classes, 64, 96)
    assert 0 <= probability.min() <= probability.max() <= 1
    labels = probability.argmax(0) if len(probability) > 1 else probability[0] >= 0.5
    np.testing.assert_array_equal(mask, labels)


def test_the_papers_net_takes_any_size_in_tiles(work: Path) -> None:
    segtwin_weights.write(initialize("unet-paper", widths=(2, 2, 2, 2, 2), seed=1), "paper.safetensors")
    for tile in (204, 572):
        assert run("predict", "paper.safetensors", "in/b.png", "-o", f"t{tile}", "--engine", "torch", "--tile", tile, "--probability", "--quiet") == 0
    np.testing.assert_allclose(np.load("t204/b.probability.npy"), np.load("t572/b.probability.npy"), atol=1e-6)
    assert np.load("t204/b.probability.npy").shape == (2, 40, 33)
    assert set(np.unique(Image.open("t204/b.mask.png"))) <= {0, 1}


def test_a_bad_image_does_not_stop_the_rest(work: Path, capsys) -> None:
    """It is listed at the end, and the status is 1."""
    Path("in/a0.png").write_bytes(b"no image")
    Path("in/a1.png").write_bytes(Path("in/a.png").read_bytes()[:200])
    assert run("predict", "small.safetensors", "in", "-o", "out", "--engine", "torch") == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "out: 1 of 4 images segmented by unet-small in torch"
    failed = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert failed[0] == "failed: in/a0.png: is not an image; give a JPEG or PNG file"
    assert failed[1].startswith("failed: in/a1.png: the image is damaged")
    assert failed[2].startswith(
        "failed: in/b.png: unet-small: 40×33 pixels do not fit; rows and columns are multiples of 16, the nearest 32×32 or 48×48 (or "
    )
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.mask.png", "a.overlay.png"]


GAVE_UP = [(RuntimeError("[enforce fail]\nyou tried to allocate"), "RuntimeError: [enforce fail] you"), (MemoryError(), "not enough memory")]


@pytest.mark.parametrize(("error", "said"), GAVE_UP)
def test_an_engine_that_gives_up_on_an_image_does_not_stop_the_rest(work: Path, monkeypatch, capsys, error: Exception, said: str) -> None:
    started = running.start

    def start(*arguments):
        network = started(*arguments)

        def run_or_fail(data):
            if data.shape[2] == 64:
                raise error
            return network(data)

        return run_or_fail

    monkeypatch.setattr(running, "start", start)
    assert run("predict", "small.safetensors", "in", "-o", "out", "--engine", "torch", "--pad", "reflect") == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "out: 1 of 2 images segmented by unet-small in torch"
    assert next(line for line in err.splitlines() if line.startswith("failed")).startswith(f"failed: in/a.png: {said}")
    assert sorted(path.name for path in Path("out").iterdir()) == ["b.mask.png", "b.overlay.png"]


def test_progress_is_shown_on_a_terminal_alone(work: Path, monkeypatch, capsys) -> None:
    assert run("predict", "small.safetensors", "in/a.png", "-o", "out", "--engine", "torch") == 0
    assert "small.safetensors" not in capsys.readouterr().err
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("TERM", "xterm")
    assert run("predict", "small.safetensors", "in/a.png", "-o", "out2", "--engine", "torch") == 0
    assert "in/a.png" in capsys.readouterr().err
    assert run("predict", "small.safetensors", "in/a.png", "-o", "out3", "--engine", "torch", "--quiet") == 0
    assert capsys.readouterr() == ("", "")


MISTAKES = {
    "missing image": (("small.safetensors", "in/none.png", "-o", "out"), "in/none.png: there is no such file or folder"),
    "empty folder": (("small.safetensors", "empty", "-o", "out"), "empty: the folder holds no image"),
    "same name": (("small.safetensors", "in", "more", "-o", "out"), "in/a.png and more/a.png: both would be written to out/a.mask.png"),
    "existing": (("small.safetensors", "in/a.png", "-o", "old"), "old/a.overlay.png: exists already"),
    "engine": (
        ("small.safetensors", "in/a.png", "-o", "out", "--engine", "opencv"),
        "'opencv' is not one of 'auto', 'onnxruntime', 'torch', 'keras', 'oracle'",
    ),
    "no row": (("unknown.safetensors", "in/a.png", "-o", "out"), "unknown.safetensors: holds no network that is known here; make it one with"),
    "wrong row": (("small.safetensors", "in/a.png", "-o", "out", "--network", "unet"), "are not the weights of unet: conv1.conv.0.weight is missing"),
    "no weights": (("in/a.png", "in/a.png", "-o", "out"), "in/a.png: is neither"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_write_nothing(work: Path, capsys, mistake: str) -> None:
    for folder in ("empty", "more", "old"):
        Path(folder).mkdir()
    Image.new("RGB", (16, 16)).save("more/a.png")
    Path("old/a.overlay.png").write_text("mine")
    segtwin_weights.write(Weights({f"my_{name}": blob for name, blob in SMALL.items()}), "unknown.safetensors")
    arguments, message = MISTAKES[mistake]
    assert run("predict", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert message in err, err
    assert not Path("out").exists()
    assert Path("old/a.overlay.png").read_text() == "mine"
    assert [path.name for path in Path("old").iterdir()] == ["a.overlay.png"]


def test_a_bare_state_dict_is_told_by_its_names(work: Path) -> None:
    """As torch.save writes it, from DataParallel too; or the row is given."""
    segtwin_weights.write(SMALL, "small.pth")
    torch.save({f"module.{name}": tensor for name, tensor in torch.load("small.pth", weights_only=True).items()}, "parallel.pth")
    masks = []
    for number, (file, *row) in enumerate([("small.safetensors",), ("small.pth",), ("parallel.pth",), ("small.pth", "--network", "unet-small")]):
        assert run("predict", file, "in/a.png", "-o", f"o{number}", "--engine", "torch", "--threshold", 0.503, "--quiet", *row) == 0
        masks.append(Path(f"o{number}/a.mask.png").read_bytes())
    assert len(set(masks)) == 1
