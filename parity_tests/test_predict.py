"""`segtwin predict` as a user runs it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import segtwin
import segtwin_torch
import segtwin_weights
import torch
from drawn_networks import narrow
from goldens import TINY
from PIL import Image
from segtwin.architectures import get_architecture, list_architectures
from segtwin.palette import voc_palette
from segtwin_cli.main import main
from segtwin_engines import loading, prediction
from segtwin_engines import torch as torch_runtime
from segtwin_weights import Weights, initialize


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def random_weights(architecture: str, **options) -> Weights:
    """As the network starts, but for zeros: an untrained FCN scores 0 everywhere."""
    start = initialize(architecture, seed=3, **options)
    random = np.random.RandomState(0)
    blobs = {
        name: blob if blob.any() or not blob.ndim else random.normal(0, 0.1, blob.shape).astype(np.float32)
        for name, blob in start.items()
    }
    return Weights(
        {name: np.abs(blob) + 1 if name.endswith("running_var") else blob for name, blob in blobs.items()},
        start.metadata,
    )


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
    assert (
        run(
            "predict",
            "small.safetensors",
            "in",
            "-o",
            "out",
            "--engine",
            "torch",
            "--pad",
            "reflect",
            "--probability",
            "--threshold",
            half,
        )
        == 0
    )
    kinds = ("mask.png", "overlay.png", "probability.npy")
    assert sorted(path.name for path in Path("out").iterdir()) == [f"{name}.{kind}" for name in "ab" for kind in kinds]
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "out: 2 of 2 images segmented by unet-small in torch"
    assert [line.rpartition(": ")[0] for line in out.splitlines()[:-1]] == ["in/a.png", "in/b.png"]
    assumed, converted = err.splitlines()
    assert assumed.startswith("note: preprocessing assumed from the network's names: grey, values 0..1; say")
    assert "(--colour, --mean, --std, --scale)" in assumed
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
        assert (
            run(
                "predict", "small.safetensors", "in/a.png", "-o", engine, "--engine", engine, "--probability", "--quiet"
            )
            == 0
        )
    for engine in ("onnxruntime", "keras"):
        np.testing.assert_allclose(
            np.load(f"{engine}/a.probability.npy"), np.load("torch/a.probability.npy"), atol=1e-6
        )


def test_classes_become_a_palette_image(work: Path) -> None:
    segtwin_weights.write(random_weights("fcn8s", widths=TINY), "fcn8s.safetensors")
    assert (
        run("predict", "fcn8s.safetensors", "in/a.png", "-o", "out", "--engine", "torch", "--probability", "--quiet")
        == 0
    )
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
    with prediction.writing(files, 1) as put:
        labels = scores.argmax(0).astype(np.uint8)
        put(scores, labels, np.asarray(Image.open("in/a.png")), (voc_palette(), voc_palette()), False)
    mask, image = Image.open("all.mask.png"), np.asarray(Image.open("in/a.png"))
    labels = np.asarray(mask)
    assert set(np.unique(labels)) == set(range(21))
    np.testing.assert_array_equal(labels, scores.argmax(0))
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), voc_palette()[labels])
    tinted = np.where((labels == 0)[..., None], image, np.rint(0.5 * image + 0.5 * voc_palette()[labels]))
    np.testing.assert_array_equal(np.asarray(Image.open("all.overlay.png")), tinted)


@pytest.mark.parametrize("architecture", list_architectures())
def test_every_row_predicts(work: Path, architecture: str) -> None:
    segtwin_weights.write(random_weights(architecture, widths=narrow(architecture)), "w.safetensors")
    rows, columns = (
        (64, 96) if architecture == "unet-paper" else map(get_architecture(architecture).legal_size, (64, 96))
    )
    Image.open("in/a.png").resize((columns, rows)).save("fits.png")
    assert (
        run("predict", "w.safetensors", "fits.png", "-o", "out", "--engine", "torch", "--probability", "--quiet") == 0
    )
    mask, probability = np.asarray(Image.open("out/fits.mask.png")), np.load("out/fits.probability.npy")
    assert probability.shape == (get_architecture(architecture).num_classes, rows, columns)
    assert 0 <= probability.min() <= probability.max() <= 1
    labels = probability.argmax(0) if len(probability) > 1 else probability[0] >= 0.5
    np.testing.assert_array_equal(mask, labels)


def test_the_papers_net_takes_any_size_in_tiles(work: Path) -> None:
    segtwin_weights.write(initialize("unet-paper", widths=(2, 2, 2, 2, 2), seed=1), "paper.safetensors")
    for tile in (204, 572):
        assert (
            run(
                "predict",
                "paper.safetensors",
                "in/b.png",
                "-o",
                f"t{tile}",
                "--engine",
                "torch",
                "--tile",
                tile,
                "--probability",
                "--quiet",
            )
            == 0
        )
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
        "failed: in/b.png: unet-small: 40×33 pixels do not fit; rows and columns are multiples of 16, the nearest "
        "32×32 or 48×48 (or "
    )
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.mask.png", "a.overlay.png"]


GAVE_UP = [
    (RuntimeError("[enforce fail]\nyou tried to allocate"), "RuntimeError: [enforce fail] you"),
    (MemoryError(), "not enough memory"),
]


@pytest.mark.parametrize(("error", "said"), GAVE_UP)
def test_an_engine_that_gives_up_on_an_image_does_not_stop_the_rest(
    work: Path, monkeypatch, capsys, error: Exception, said: str
) -> None:
    started = torch_runtime.start

    def start(*arguments):
        network, blobs, holds = started(*arguments)

        def run_or_fail(data):
            if data.shape[2] == 64:
                raise error
            return network(data)

        return run_or_fail, blobs, holds

    monkeypatch.setattr(torch_runtime, "start", start)
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
    "missing image": (
        ("small.safetensors", "in/none.png", "-o", "out"),
        "in/none.png: there is no such file or folder",
    ),
    "empty folder": (("small.safetensors", "empty", "-o", "out"), "empty: the folder holds no image"),
    "same name": (
        ("small.safetensors", "in", "more", "-o", "out"),
        "in/a.png and more/a.png: both would be written to out/a.mask.png",
    ),
    "existing": (("small.safetensors", "in/a.png", "-o", "old"), "old/a.overlay.png: exists already"),
    "engine": (
        ("small.safetensors", "in/a.png", "-o", "out", "--engine", "tensorrt"),
        "'tensorrt' is not one of 'auto', 'onnxruntime', 'torch', 'keras', 'ncnn', 'openvino', 'opencv', 'caffe', "
        "'oracle'",
    ),
    "no architecture": (
        ("unknown.safetensors", "in/a.png", "-o", "out"),
        "are of no network that is known here; make them a network's with",
    ),
    "wrong architecture": (
        ("small.safetensors", "in/a.png", "-o", "out", "--network", "unet"),
        "are not the weights of unet: conv1.conv.0.weight is missing",
    ),
    "no weights": (("in/a.png", "in/a.png", "-o", "out"), "in/a.png: is a PNG image; give a file of weights"),
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
    """As torch.save writes it, from DataParallel too; or the architecture is given."""
    segtwin_weights.write(SMALL, "small.pth")
    torch.save(
        {f"module.{name}": tensor for name, tensor in torch.load("small.pth", weights_only=True).items()},
        "parallel.pth",
    )
    masks = []
    for number, (file, *architecture) in enumerate(
        [("small.safetensors",), ("small.pth",), ("parallel.pth",), ("small.pth", "--network", "unet-small")]
    ):
        assert (
            run(
                "predict",
                file,
                "in/a.png",
                "-o",
                f"o{number}",
                "--engine",
                "torch",
                "--threshold",
                0.503,
                "--quiet",
                *architecture,
            )
            == 0
        )
        masks.append(Path(f"o{number}/a.mask.png").read_bytes())
    assert len(set(masks)) == 1


def probabilities_of(file: str, data: np.ndarray) -> np.ndarray:
    """By the model of torch."""
    network = segtwin_torch.load(file)
    with torch.inference_mode():
        return network(torch.from_numpy(data)).numpy()


def random_grey(*shape: int) -> np.ndarray:
    return np.random.RandomState(5).randint(0, 256, shape).astype(np.uint8)


def test_a_stack_gives_a_stack(work: Path) -> None:
    """A page each, in a TIFF; the second run does not take them for images."""
    images = random_grey(3, 32, 48)
    first, *others = map(Image.fromarray, images)
    first.save("in/s.tif", save_all=True, append_images=others)
    data = images[:, None].astype(np.float32) / np.float32(255)
    want = probabilities_of("small.safetensors", data)
    half = float(np.median(want))
    options = ("--engine", "torch", "--pad", "reflect", "--probability", "--threshold", half, "--quiet")
    for overwrite in ((), ("--overwrite",)):
        assert run("predict", "small.safetensors", "in", "-o", "in", *options, *overwrite) == 0
        kinds = ("mask.{}", "overlay.{}", "probability.npy")
        outputs = {f"{name}.{kind}".format("tif" if name == "s" else "png") for name in "abs" for kind in kinds}
        assert {path.name for path in Path("in").iterdir()} == {"a.png", "b.png", "s.tif", "notes.txt"} | outputs
    np.testing.assert_allclose(np.load("in/s.probability.npy"), want, rtol=1e-5)
    with Image.open("in/s.mask.tif") as mask, Image.open("in/s.overlay.tif") as overlay:
        assert mask.n_frames == overlay.n_frames == 3
        for page in range(3):
            mask.seek(page)
            overlay.seek(page)
            assert mask.mode == "P"
            there = np.asarray(mask) == 1
            np.testing.assert_array_equal(there, np.load("in/s.probability.npy")[page, 0] >= half)
            np.testing.assert_array_equal(np.asarray(overlay)[~there], np.repeat(images[page][~there][:, None], 3, 1))
    assert segtwin.preprocess_label("in/s.mask.tif").shape == (3, 1, 32, 48)


def test_a_folder_takes_images_alone(work: Path) -> None:
    for name in ("a.pdf", "a.mpg", "a.h5", "a.eps", "b.mask.png", "b.overlay.png"):
        Path("in", name).write_bytes(b"x")
    assert set(prediction.collect(("in",))) == {Path("in/a.png"), Path("in/b.png")}


def test_names_that_differ_in_their_endings_and_folders_in_folders(work: Path) -> None:
    Path("in/deep/er").mkdir(parents=True)
    Image.open("in/a.png").save("in/a.tif")
    Image.open("in/a.png").save("in/deep/er/a.png")
    assert (
        run(
            "predict",
            "small.safetensors",
            "in",
            "-o",
            "out",
            "--engine",
            "torch",
            "--pad",
            "reflect",
            "--recursive",
            "--quiet",
        )
        == 0
    )
    masks = {str(path.relative_to("out")) for path in Path("out").rglob("*.mask.*")}
    assert masks == {"a.png.mask.png", "a.tif.mask.png", "b.mask.png", "deep/er/a.mask.png"}


def test_json_says_what_became_of_each_image(work: Path, capsys) -> None:
    Path("in/c.png").write_bytes(b"no image")
    Path("names.txt").write_text("cell\n")
    arguments = (
        "--engine",
        "torch",
        "--pad",
        "reflect",
        "--threshold",
        middle_of_a(),
        "--json",
        "-",
        "--classes",
        "names.txt",
        "--legend",
    )
    assert run("predict", "small.safetensors", "in", "-o", "out", *arguments) == 1
    facts = json.loads(capsys.readouterr().out)
    assert [(one["image"], one["status"]) for one in facts] == [
        ("in/a.png", "ok"),
        ("in/b.png", "ok"),
        ("in/c.png", "failed"),
    ]
    assert facts[2]["reason"] == "in/c.png: is not an image; give a JPEG or PNG file"
    for one, (height, width) in zip(facts, [(64, 48), (40, 33)], strict=False):
        mask = np.asarray(Image.open(one["outputs"]["mask"]))
        assert (one["width"], one["height"], one["pages"]) == (width, height, 1)
        assert one["ms"] > 0
        wanted = {"background": float((mask == 0).mean()), "cell": float((mask == 1).mean())}
        assert one["classes"] == pytest.approx({name: share for name, share in wanted.items() if share})
    legend = np.asarray(Image.open("out/classes.legend.png"))
    assert (legend == (255, 40, 40)).all(axis=2).any(), "the overlay's colour"


def test_classes_and_palette_of_the_weights_are_used(work: Path) -> None:
    weights = random_weights("fcn8s", widths=TINY, num_classes=2)
    weights = Weights(
        dict(weights), {**weights.metadata, "classes": ["road", "sky"], "palette": [[9, 8, 7], [1, 2, 3]]}
    )
    segtwin_weights.write(weights, "two.safetensors")
    assert (
        run(
            "predict",
            "two.safetensors",
            "in/a.png",
            "-o",
            "out",
            "--engine",
            "torch",
            "--json",
            "facts.json",
            "--quiet",
        )
        == 0
    )
    mask = Image.open("out/a.mask.png")
    assert set(np.unique(mask)) <= {0, 1}
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), np.array([(9, 8, 7), (1, 2, 3)])[np.asarray(mask)])
    assert set(json.loads(Path("facts.json").read_text())[0]["classes"]) <= {"road", "sky"}
    Path("colours.txt").write_text("#000000\n#102030\n")
    assert (
        run(
            "predict",
            "two.safetensors",
            "in/a.png",
            "-o",
            "out2",
            "--engine",
            "torch",
            "--palette",
            "colours.txt",
            "--quiet",
        )
        == 0
    )
    mask = Image.open("out2/a.mask.png")
    np.testing.assert_array_equal(
        np.asarray(mask.convert("RGB")), np.array([(0, 0, 0), (16, 32, 48)])[np.asarray(mask)]
    )


def test_an_onnx_file_is_run_as_it_is(work: Path, monkeypatch, capsys) -> None:
    """It is not read, rebuilt and exported again; its metadata says how inputs are made."""
    mean, std = (0.5,), (0.5,)
    stated = {
        **SMALL.metadata,
        "preprocessing": {"colour": "grey", "mean": mean, "std": std, "scale": 1 / 255, "bits": 8},
    }
    model = segtwin_torch.build("unet-small", widths=(2, 3, 4, 5, 6), weights=Weights(dict(SMALL), stated))
    segtwin_torch.export_onnx(model, "small.onnx")
    monkeypatch.setattr(loading, "start", lambda *_: pytest.fail("built again"))
    monkeypatch.setattr(loading, "read_network", lambda *_: pytest.fail("read as weights"))
    grey = random_grey(32, 48)
    Image.fromarray(grey).save("g.png")
    assert run("predict", "small.onnx", "g.png", "-o", "out", "--probability") == 0
    out, err = capsys.readouterr()
    assert out == "out: 1 of 1 images segmented by unet-small in onnxruntime\n"
    assert err == ""
    with torch.inference_mode():
        want = model(torch.from_numpy(((grey / 255 - 0.5) / 0.5).astype(np.float32)[None, None])).numpy()[0]
    np.testing.assert_allclose(np.load("out/g.probability.npy"), want, atol=1e-6)
    assert run("predict", "small.onnx", "g.png", "-o", "out2", "--engine", "torch") == 2
    assert capsys.readouterr().err.count("small.onnx: is an ONNX file, which the engine onnxruntime runs") == 1
    Image.fromarray(grey[:30]).save("odd.png")
    assert run("predict", "small.onnx", "odd.png", "-o", "out3") == 2
    assert "30×48 pixels do not fit" in capsys.readouterr().err


def foreign_onnx(path: str, height: int | str = "h", width: int | str = "w") -> None:
    """Two classes: the first channel of the input, and 0."""
    kernel = np.array([[1, 0, 0], [0, 0, 0]], np.float32).reshape(2, 3, 1, 1)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w0"], ["y"])],
        "foreign",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", 3, height, width])],
        [onnx.helper.make_tensor_value_info("y", 1, ["n", 2, height, width])],
        [onnx.numpy_helper.from_array(kernel, "w0")],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)


def test_a_foreign_onnx_file_is_run_with_what_is_stated(work: Path, capsys) -> None:
    foreign_onnx("their.onnx")
    assert run("predict", "their.onnx", "in/a.png", "-o", "none") == 2
    assert "says neither its network nor how its inputs are made" in capsys.readouterr().err
    stated = ("--colour", "bgr", "--mean", "100,0,0", "--scale", "1")
    assert run("predict", "their.onnx", "in/a.png", "-o", "out", *stated, "--quiet") == 0
    blue = np.asarray(Image.open("in/a.png"))[..., 2]
    # argmax takes the first of equals
    np.testing.assert_array_equal(np.asarray(Image.open("out/a.mask.png")), blue < 100)
    foreign_onnx("fixed.onnx", 64, 48)
    assert run("predict", "fixed.onnx", "in/a.png", "-o", "fixed", *stated, "--quiet") == 0
    assert Path("fixed/a.mask.png").read_bytes() == Path("out/a.mask.png").read_bytes()
    assert run("predict", "fixed.onnx", "in/b.png", "-o", "misfit", *stated) == 2
    assert "fixed.onnx: takes images of 64×48 pixels alone, not 40×33" in capsys.readouterr().err
    assert run("predict", "fixed.onnx", "in/b.png", "-o", "padded", "--pad", "reflect", *stated, "--quiet") == 0
    np.testing.assert_array_equal(np.asarray(Image.open("padded/b.mask.png")), np.asarray(Image.open("in/b.png")) < 100)


def test_deep_images_floats_and_arrays(work: Path, capsys) -> None:
    deep = (random_grey(32, 48).astype(np.uint16) << 4) + 7
    Image.fromarray(deep).save("d.png")
    Image.fromarray(deep.astype(np.float32) - 500).save("f.tif")
    np.save("d.npy", deep)
    want = probabilities_of("small.safetensors", (deep / 4095).astype(np.float32)[None, None])[0]
    for image, options in (("d.png", ("--bits", 12)), ("d.npy", ("--bits", 12)), ("f.tif", ("--range", "-500,3595"))):
        assert (
            run(
                "predict",
                "small.safetensors",
                image,
                "-o",
                "out",
                "--engine",
                "torch",
                "--probability",
                "--overwrite",
                "--quiet",
                *options,
            )
            == 0
        )
        np.testing.assert_allclose(np.load(f"out/{image[0]}.probability.npy"), want, atol=1e-6)
    assert run("predict", "small.safetensors", "f.tif", "-o", "none", "--engine", "torch") == 2
    assert "f.tif: holds float values from" in capsys.readouterr().err
    segtwin_weights.write(random_weights("fcn32s", widths=TINY, in_channels=6), "six.safetensors")
    np.save("six.npy", np.random.RandomState(3).randint(0, 256, (32, 40, 6)).astype(np.uint8))
    assert run("predict", "six.safetensors", "six.npy", "-o", "out", "--engine", "torch", "--quiet") == 0
    scores = probabilities_of("six.safetensors", np.load("six.npy").astype(np.float32).transpose(2, 0, 1)[None])
    np.testing.assert_array_equal(np.asarray(Image.open("out/six.mask.png")), scores[0].argmax(0))


def test_the_engine_is_what_is_installed(monkeypatch) -> None:
    for there, chosen in (
        (["torch", "keras", "oracle"], "torch"),
        (["keras", "onnxruntime", "oracle"], "onnxruntime"),
        (["keras", "ncnn", "oracle"], "keras"),
        (["oracle"], "oracle"),
    ):
        monkeypatch.setattr(loading, "available_engines", lambda there=there: there)
        assert loading.by_default(get_architecture("unet-small")) == chosen


def test_numpy_computes_it_too(work: Path) -> None:
    for engine in ("torch", "oracle"):
        assert (
            run(
                "predict", "small.safetensors", "in/a.png", "-o", engine, "--engine", engine, "--probability", "--quiet"
            )
            == 0
        )
    np.testing.assert_allclose(np.load("oracle/a.probability.npy"), np.load("torch/a.probability.npy"), atol=1e-6)


def test_a_stack_that_does_not_fit_leaves_nothing(work: Path, capsys) -> None:
    first, second = Image.fromarray(random_grey(32, 48)), Image.fromarray(random_grey(30, 48))
    first.save("late.tif", save_all=True, append_images=[second])
    second.save("early.tif", save_all=True, append_images=[first])
    assert run("predict", "small.safetensors", "late.tif", "early.tif", "-o", "out", "--engine", "torch") == 2
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed")]
    assert len(failed) == 2
    assert all("30×48 pixels do not fit" in line for line in failed)
    assert not list(Path("out").iterdir())
