"""`segtwin …` as a user runs it: what it makes, what it says, and how it ends."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import segtwin_weights
from goldens import TINY, recipe
from PIL import Image
from segtwin import noise, oracle
from segtwin.architectures import get_architecture
from segtwin_cli.main import main
from segtwin_engines.contestants import AS_CAFFE, chosen, columns
from segtwin_weights import Weights, layouts

PHOTO = Path(__file__).parent.parent / "docs/images/chelsea.jpg"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.fixture
def vgg16(tmp_path: Path) -> Path:
    blobs = {}
    for name, (weight, bias) in recipe.vgg16_npy(1, TINY).items():
        blobs[f"{name}/weight"], blobs[f"{name}/bias"] = layouts.to_caffe(name, weight), bias
    segtwin_weights.write(Weights(blobs), tmp_path / "vgg16.npy")
    return tmp_path / "vgg16.npy"


@pytest.fixture
def fcn8s(tmp_path: Path, vgg16: Path) -> Path:
    segtwin_weights.write(segtwin_weights.convert(segtwin_weights.read(vgg16), "fcn8s"), tmp_path / "fcn8s.safetensors")
    return tmp_path / "fcn8s.safetensors"


def one_line(capsys: pytest.CaptureFixture, *words: object) -> None:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("segtwin: ")
    assert err.count("\n") == 1, err
    for word in words:
        assert str(word) in err, err


def test_convert_makes_what_the_library_makes(tmp_path: Path, vgg16: Path) -> None:
    out = tmp_path / "new/folder/fcn8s.safetensors"
    assert run("convert", vgg16, out, "--to", "fcn8s", "--num-classes", 5, "--score-init", "zeros") == 0
    want = segtwin_weights.convert(segtwin_weights.read(vgg16), "fcn8s", num_classes=5, score_init="zeros")
    assert segtwin_weights.read(out).fingerprint() == want.fingerprint()
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_convert_says_what_became_of_the_blobs(tmp_path: Path, vgg16: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("convert", vgg16, tmp_path / "a.safetensors", "--to", "fcn8s") == 0
    said, err = capsys.readouterr()
    for words in ("28 copied", "2 reshaped", "2 averaged", "3 bilinear", "4 zero"):
        assert words in said
    assert err.startswith("note: preprocessing assumed from the names")
    assert err.count("\n") == 1
    assert run("convert", vgg16, tmp_path / "b.npy", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert segtwin_weights.read(tmp_path / "b.npy").fingerprint() == segtwin_weights.read(vgg16).fingerprint()


def test_a_file_is_not_replaced_unasked(tmp_path: Path, vgg16: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    assert run("convert", vgg16, out, "--to", "fcn8s") == 2
    one_line(capsys, out, "--overwrite")
    assert out.read_text() == "precious"
    assert run("convert", vgg16, out, "--to", "fcn8s", "--overwrite", "--quiet") == 0
    assert out.stat().st_size > 1000


@pytest.mark.parametrize("classes", ["0", "1000", "-1"])
def test_impossible_classes_are_one_line(
    tmp_path: Path, vgg16: Path, classes: str, capsys: pytest.CaptureFixture
) -> None:
    assert run("convert", vgg16, tmp_path / "x.safetensors", "--to", "fcn8s", "--num-classes", classes) == 2
    one_line(capsys, f"num_classes is {classes}")
    assert not (tmp_path / "x.safetensors").exists()


def test_bad_files_are_one_line_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    bad = tmp_path / "vgg16.npy"
    out = tmp_path / "out"
    for content, word in ((b"", "empty"), (b"\x93NUMPY\x01\x00", "cut short"), (b"hello, this is text", "neither")):
        bad.write_bytes(content)
        assert run("convert", bad, out / "x.safetensors", "--to", "fcn8s") == 2
        one_line(capsys, bad, word)
    assert run("convert", tmp_path / "missing.npy", out / "x.safetensors", "--to", "fcn8s") == 2
    one_line(capsys, "missing.npy", "No such file")
    assert run("convert", tmp_path, out / "x.safetensors", "--to", "fcn8s") == 2
    one_line(capsys, tmp_path, "Is a directory")
    assert not out.exists()


def test_mistakes_on_the_command_line_are_one_line(tmp_path: Path, vgg16: Path, capsys: pytest.CaptureFixture) -> None:
    for arguments, word in (
        (("convert", vgg16), "Missing argument"),
        (("convert", vgg16, tmp_path / "x.safetensors", "--to", "fcn9s"), "fcn9s"),
        (("convert", vgg16, tmp_path / "x.txt"), "has to end in"),
        (("export", vgg16, tmp_path / "x.onnx"), "--framework"),
        (("export", vgg16, tmp_path / "x.pth", "--framework", "keras"), ".weights.h5"),
        (("export", vgg16, tmp_path / "x.onnx", "--framework", "torch"), "vgg16"),
        (("frobnicate",), "frobnicate"),
        (("parity", vgg16, PHOTO, "--report", tmp_path / "x.pdf"), ".html"),
    ):
        assert run(*arguments) == 2
        one_line(capsys, word)


def test_an_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, vgg16: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert run("convert", vgg16, tmp_path / "file/x.safetensors", "--to", "fcn8s") == 2
    one_line(capsys, tmp_path / "file")
    # a folder in which not even root makes files
    assert run("convert", vgg16, "/proc/x.safetensors", "--to", "fcn8s") == 2
    one_line(capsys, "/proc")


WRITING = {
    "parity": ("no.safetensors", "no.png", "--report"),
    "evaluate": ("no.safetensors", "no", "--report"),
    "diagnose": ("no.onnx", "--weights", "no.safetensors", "--report"),
    "check-data": ("no", "--report"),
    "bench": ("no.safetensors", "--picture"),
    "explain": ("fcn9s", "--size", "32x32", "--picture"),
}
"""Command → arguments of which nothing is there, before the name of a file that it writes."""


@pytest.mark.parametrize("command", WRITING)
def test_outputs_that_cannot_be_are_refused_before_any_work(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "a.png" if WRITING[command][-1] == "--picture" else "a.html"
    assert run(command, *WRITING[command], name, "--json", f"./{name}") == 2
    one_line(capsys, f"./{name}: would be written twice")
    assert run(command, *WRITING[command], f"/proc/{name}") == 2  # a folder in which not even root makes files
    one_line(capsys, f"/proc/{name}: No such file")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--json", "--junit"])
def test_a_file_of_the_report_is_written_once(option: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The page is not alone."""
    for name in ("a.html", "a.json", "a.png", "a-2.png"):
        words = ("no.safetensors", "no.png", "no.png", "--report", tmp_path / "a.html", option, tmp_path / name)
        assert run("parity", *words) == 2
        one_line(capsys, f"{tmp_path / name}: would be written twice")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, vgg16: Path) -> None:
    """A limit on the size of files stands for the full disk: both fail in the middle of a write."""
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000));"
        "from segtwin_cli.main import main; main()"
    )
    for name in ("x.safetensors", "x.npy"):
        arguments = [
            "convert",
            str(vgg16),
            str(tmp_path / "out" / name),
            *(["--to", "fcn8s"] if name.endswith("rs") else []),
        ]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert "out" in done.stderr
        assert list((tmp_path / "out").iterdir()) == []


def test_ctrl_c_while_writing_leaves_nothing(
    tmp_path: Path, vgg16: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import safetensors.numpy

    def half(tensors, path, metadata) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.numpy, "save_file", half)
    assert run("convert", vgg16, tmp_path / "out/x.safetensors", "--to", "fcn8s") == 130
    assert capsys.readouterr().err.strip() == "segtwin: interrupted"  # after the line on which a terminal shows ^C
    assert list((tmp_path / "out").iterdir()) == []


def test_other_number_types_are_noted(tmp_path: Path, vgg16: Path, capsys: pytest.CaptureFixture) -> None:
    layers = np.load(vgg16, allow_pickle=True).item()
    layers["fc8"] = [array.astype(np.float64) for array in layers["fc8"]]
    np.save(tmp_path / "double.npy", np.array(layers, dtype=object), allow_pickle=True)
    assert run("convert", tmp_path / "double.npy", tmp_path / "x.safetensors", "--to", "fcn8s") == 0
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 3
    assert all(note.startswith("note: ") for note in notes)
    assert all("float64, converted to float32" in note for note in notes[:2])
    assert "preprocessing assumed from the names" in notes[2]


def test_rows_and_inspect(fcn8s: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("list") == 0
    assert "134,362,751" in capsys.readouterr().out
    assert run("inspect", fcn8s) == 0
    said = capsys.readouterr().out
    assert "conv1_1/weight" in said
    assert segtwin_weights.read(fcn8s).fingerprint() in said.replace("\n", "")


def test_source_prints_the_path(vgg16: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("VGG16_NPY", str(vgg16))
    assert run("source", "vgg16") == 0
    assert capsys.readouterr() == (f"{vgg16}\n", "")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose skips are not zero, and everything that export makes of them."""
    from goldens import recipe_weights

    folder = tmp_path_factory.mktemp("exported")
    segtwin_weights.write(recipe_weights("fcn8s", TINY), folder / "fcn8s.safetensors")
    assert (
        run("export", folder / "fcn8s.safetensors", folder / "torch.onnx", folder / "fcn8s.pth", "--framework", "torch")
        == 0
    )
    assert (
        run(
            "export",
            folder / "fcn8s.safetensors",
            folder / "keras.onnx",
            folder / "fcn8s.weights.h5",
            "--framework",
            "keras",
            "--one-file",
        )
        == 0
    )
    return folder


def test_export_writes_onnx_and_checkpoints(exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} >= {
        "fcn8s.safetensors",
        "torch.onnx",
        "keras.onnx",
        "fcn8s.pth",
        "fcn8s.weights.h5",
    }
    for name in ("torch.onnx", "keras.onnx"):
        onnx.checker.check_model(str(exported / name))


def test_parity_holds_and_is_reported(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    report = tmp_path / "parity.html"
    small = tmp_path / "small.png"
    Image.open(PHOTO).resize((90, 60)).save(small)
    files = ("--torch-onnx", exported / "torch.onnx", "--keras-onnx", exported / "keras.onnx")
    assert run("parity", exported / "fcn8s.safetensors", small, small, "--report", report, *files) == 0
    assert "parity of fcn8s holds" in capsys.readouterr().out
    facts = json.loads(report.with_suffix(".json").read_text())
    assert facts["verdict"] == "equal"
    assert not facts["synthetic"]
    assert len(facts["comparisons"]) == 2
    comparison = facts["comparisons"][0]
    assert [blob["name"] for blob in comparison["blobs"]][-1] == "score"
    judged = columns(chosen(None, get_architecture("fcn8s")))
    assert list(comparison["blobs"][0]["errors"]) == [column.label for column in judged] == facts["columns"]
    assert len(comparison["logits"]["Keras"]) == 21
    page = report.read_text()
    assert "Equal: every blob" in page
    assert page.count("data:image/png") == 2
    assert "SYNTHETIC" not in page
    with Image.open(report.with_suffix(".png")) as picture:
        assert picture.size[0] > 1000
    assert (tmp_path / "parity-2.png").exists()
    assert run("parity", exported / "fcn8s.safetensors", small, "--report", report, *files) == 2
    one_line(capsys, "exists already")


def test_parity_fails_when_an_engine_is_wrong(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """An ONNX file whose last crop begins a pixel late."""
    model = onnx.load(exported / "keras.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "score offset":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([32, 32]), "score offset"))
    onnx.save(model, tmp_path / "late.onnx")
    files = ("--torch-onnx", exported / "torch.onnx", "--keras-onnx", tmp_path / "late.onnx")
    assert run("parity", exported / "fcn8s.safetensors", PHOTO, "--report", tmp_path / "p.html", *files) == 1
    assert "parity of fcn8s FAILS" in capsys.readouterr().out
    facts = json.loads((tmp_path / "p.json").read_text())
    assert facts["verdict"] == "DIFFERENT"
    missed = {
        (blob["name"], engine)
        for blob in facts["comparisons"][0]["blobs"]
        for engine, error in blob["errors"].items()
        if error > (4 if engine in AS_CAFFE else blob["default_bound"])
    }
    assert missed == {("score", "ONNX Runtime (Keras export)")}
    page = (tmp_path / "p.html").read_text()
    assert page.count('class="missed"') == 1
    assert "things measured is beyond its bound." in page
    assert "chelsea.jpg: worst blob score in ONNX Runtime (Keras export)" in page, (
        "the banner names image, blob and engine"
    )


def test_parity_says_that_weights_are_synthetic(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights = segtwin_weights.read(exported / "fcn8s.safetensors")
    segtwin_weights.write(Weights(weights, weights.metadata | {"synthetic": True}), tmp_path / "s.safetensors")
    files = ("--torch-onnx", exported / "torch.onnx", "--keras-onnx", exported / "keras.onnx")
    assert run("parity", tmp_path / "s.safetensors", PHOTO, "--report", tmp_path / "p.html", *files) == 0
    assert "SYNTHETIC" in capsys.readouterr().err
    assert "SYNTHETIC WEIGHTS" in (tmp_path / "p.html").read_text()


def test_a_unet_is_exported_with_logits_and_folded_on_request(tmp_path: Path) -> None:
    # tells its network by its names
    segtwin_weights.write(segtwin_weights.initialize("unet-small", widths=(2, 3, 4, 5, 6), seed=1), tmp_path / "u.pth")
    for options, output, norms in (
        ((), "probability", 22),
        (("--logits",), "logits", 22),
        (("--logits", "--fold-batchnorm"), "logits", 0),
    ):
        assert (
            run(
                "export",
                tmp_path / "u.pth",
                tmp_path / "u.onnx",
                "--framework",
                "torch",
                "--overwrite",
                "--quiet",
                *options,
            )
            == 0
        )
        graph = onnx.load(tmp_path / "u.onnx").graph
        assert [value.name for value in graph.output] == [output]
        assert sum(node.op_type == "BatchNormalization" for node in graph.node) == norms


def test_parity_takes_a_unet(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Whose sizes, channels and single class are its own. A conversion is said once."""
    random = np.random.RandomState(0)
    start = segtwin_weights.initialize("unet-small", widths=(3, 4, 5, 6, 7), seed=2)
    norms = {
        name: np.abs(blob + random.normal(0, 0.3, blob.shape)).astype("f4")
        for name, blob in start.items()
        if "bn" in name and blob.ndim
    }
    segtwin_weights.write(Weights({**start, **norms}, start.metadata), tmp_path / "u.safetensors")
    with Image.open(PHOTO) as photo:
        photo.resize((64, 48)).save(tmp_path / "fits.png")
        photo.resize((64, 47)).save(tmp_path / "odd.png")
    assert run("parity", tmp_path / "u.safetensors", tmp_path / "fits.png", "--report", tmp_path / "p.html") == 0
    out, err = capsys.readouterr()
    assert "parity of unet-small holds" in out
    assert err.count("colours became grey") == 1
    facts = json.loads((tmp_path / "p.json").read_text())["comparisons"][0]
    assert [blob["name"] for blob in facts["blobs"]] == list(get_architecture("unet-small").blobs[1:])
    assert {len(scores) for scores in facts["logits"].values()} == {1}
    assert run("parity", tmp_path / "u.safetensors", tmp_path / "odd.png") == 2
    assert "odd.png: unet-small: 47×64 pixels do not fit" in capsys.readouterr().err


def test_a_blobs_noise_floor_is_not_below_that_of_its_bottoms() -> None:
    """A maximum over few numbers is sometimes small by luck; an engine without that luck is not
    wrong."""
    architecture, weights = (
        get_architecture("unet"),
        segtwin_weights.initialize("unet", widths=(4, 6, 8, 10, 12), seed=2),
    )
    data = np.random.RandomState(0).uniform(0, 1, (1, 3, 16, 32)).astype(np.float32)
    truth = dict(oracle.blobs(architecture, weights, data))
    own = {
        name: oracle.relative_error(blob, truth[name])
        for name, blob in oracle.blobs(architecture, weights, data, "float32")
    }
    for order in ("reversed", "shuffled"):
        for name, blob in oracle.blobs(architecture, weights, data, "float32", order):
            own[name] = max(own[name], oracle.relative_error(blob, truth[name]))
    floors = noise.floors(architecture, weights, data, truth)
    assert floors["c1"] == max(own["c1"], 2.0**-23)
    assert floors["merge9"] >= floors["c1"] >= floors["image"]
    assert all(floors[name] >= max(own[name], 2.0**-23) for name in own)
    assert max(floors.values()) == max(*own.values(), 2.0**-23), "nothing is added to what was measured"
    wrong = {**weights, "conv1.conv.0.bias": weights["conv1.conv.0.bias"] + np.float32(1e-2)}
    errors = {
        name: oracle.relative_error(blob, truth[name]) / floors[name]
        for name, blob in oracle.blobs(architecture, wrong, data)
    }
    assert min(errors[name] for name in ("c1", "c5", "c9", "logits")) > 20, (
        "a hundredth in the first biases shows everywhere"
    )


def test_parity_refuses_what_is_no_image(fcn8s: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty.jpg").touch()
    assert run("parity", fcn8s, tmp_path / "empty.jpg", "--report", tmp_path / "p.html") == 2
    one_line(capsys, "empty.jpg", "0 bytes")
    assert not (tmp_path / "p.html").exists()
