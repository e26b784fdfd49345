"""Images that lie, stall or explode: one line with the file's name, before memory or time is spent,
in `predict` as in `parity`."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import segtwin
import segtwin_weights
from PIL import Image
from segtwin import memory
from segtwin.architectures import get_architecture
from segtwin.images import MOST_PIXELS, ImageError, page_count, pages, preprocess_label

PHOTO = np.random.default_rng(1).integers(0, 256, (40, 52, 3), np.uint8)


def png(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG that states a size and holds a line or two of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, format, **options)
    return buffer.getvalue()


def bigtiff_before_its_beginning() -> bytes:
    """A TIFF whose first directory lies before the file's beginning, as a signed offset has it: the
    system answers EINVAL."""
    data = bytearray(encoded(Image.fromarray(PHOTO), "TIFF", big_tiff=True))
    data[8:16] = struct.pack("<q", -3)
    return bytes(data)


def npy_header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


HOSTILE = {
    "photo.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 40\n%%EndComments\n%%EOF\n",
    "script.png": b"%!PS\n(x) print quit\n",
    "document.tif": b"%PDF-1.4\n%%EOF\n",
    "empty.png": b"",
    "short.png": b"\x89PNG\r\n\x1a\n",
    "wide.png": png(2**31 - 1, 2**31 - 1),
    "flat.png": png(2**31 - 1, 1),
    "zero.png": png(0, 5),
    "bilevel.png": png(60_000, 60_000, depth=1, colour=0),
    "cut.jpg": encoded(Image.fromarray(PHOTO), "JPEG")[:300],
    "einval.tif": bigtiff_before_its_beginning(),
    "cut.tif": encoded(Image.fromarray(PHOTO), "TIFF", compression="tiff_lzw")[:-200],
    "token.npy": npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': ((("),
    "deep.npy": npy_header(b"(" * 9000),
    "huge.npy": npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000, 3), }\n"),
    "overflow.npy": npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4, 3), }\n"),
    "negative.npy": npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 4, 3), }\n") + bytes(400),
    "objects.npy": npy_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (4, 4, 3), }\n") + bytes(400),
    "archive.npy": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_image_is_one_line_with_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No program is started, and nothing is raised but an ImageError."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    path = tmp_path / name
    path.write_bytes(HOSTILE[name])
    for read in (
        page_count,
        lambda path: [page.values(3, 16) for page in pages(path)],
        segtwin.read_image,
        preprocess_label,
    ):
        if read is page_count and name in ("wide.png", "flat.png", "bilevel.png", "cut.jpg", "cut.tif", "zero.png"):
            continue  # to count the pages nothing is decoded
        with pytest.raises(ImageError) as error:
            read(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


BROKEN = [
    struct.error("unpack"), NotImplementedError("mode"), RuntimeError("decoder"), OSError(22, "Invalid argument"),
    ValueError("value"),
    IndexError("index"), KeyError("key"), SyntaxError("not a TIFF"), ZeroDivisionError(), OverflowError("int"),
    MemoryError(), AssertionError(),
    RecursionError(), UnicodeDecodeError("ascii", b"", 0, 1, "x"),
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_what_a_decoder_raises_names_the_file(
    broken: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PHOTO).save(path)

    def load(self: Image.Image) -> None:
        raise broken

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(ImageError, match=r"a\.png"):
        segtwin.read_image(path)


def test_the_file_systems_errors_stay_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        segtwin.read_image(tmp_path / "nothing.png")
    with pytest.raises(IsADirectoryError):
        segtwin.read_image(tmp_path)


@pytest.mark.parametrize("ending", ["png", "tif", "npy"])
def test_pipes_are_refused_before_they_are_opened(ending: str, tmp_path: Path) -> None:
    """Opening one waits for a writer, for ever: in a process that is killed if it does."""
    path = tmp_path / f"pipe.{ending}"
    os.mkfifo(path)
    link = tmp_path / f"link.{ending}"
    link.symlink_to(path)
    code = (
        "import sys, segtwin\nfor path in sys.argv[1:]:\n  try: segtwin.read_image(path)\n  except "
        "segtwin.ImageError as error: print(error)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, path, link], capture_output=True, text=True, timeout=60, check=True
    ).stdout.split("\n")
    assert [line.split(":")[0] for line in told[:2]] == [str(path), str(link)]
    assert "pipe, socket or device" in told[0]


@pytest.mark.parametrize("orientation", [0, 9, 65535, 1])
def test_orientations_that_are_none_rotate_nothing(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PHOTO).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(segtwin.read_image(tmp_path / "a.png"), PHOTO)


# ------------------------------------------------------------------------------------------- memory


def test_blobs_in_memory_by_hand() -> None:
    """A plain recount: at each layer, what is made and still to be read."""
    architecture = get_architecture("fcn32s")
    sizes = {name: 4 * np.prod(shape) for name, shape in architecture.shapes(64, 64, every_layer=True).items()}
    made = {architecture.input: -1} | {layer.name: number for number, layer in enumerate(architecture.layers)}
    read = {
        name: max(
            (number for number, layer in enumerate(architecture.layers) if name in layer.bottoms), default=made[name]
        )
        for name in sizes
    }
    moments = [
        sum(sizes[name] for name in sizes if made[name] <= number <= read[name])
        for number in range(len(architecture.layers))
    ]
    assert memory.of_blobs(architecture, 64, 64) == max(moments)
    assert memory.of_blobs(architecture, 64, 64, every=True) == sum(sizes.values())


def test_an_image_larger_than_memory_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png(9000, 9000))
    assert MOST_PIXELS > 9000 * 9000
    monkeypatch.setattr(memory, "free", lambda: 10**9)
    with pytest.raises(ImageError, match=r"large\.png: 9000×9000 pixels take 3\.9 GB of memory, 1\.0 GB are free"):
        segtwin.read_image(path)
    monkeypatch.setattr(memory, "free", lambda: None)
    with pytest.raises(ImageError, match="damaged"):
        segtwin.read_image(path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "unet-small.safetensors"
    segtwin_weights.write(segtwin_weights.initialize("unet-small", widths=(4, 4, 4, 4, 4), in_channels=3), path)
    return path


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "segtwin", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_predict_says_a_line_an_image_and_nothing_else(weights: Path, tmp_path: Path) -> None:
    """libtiff prints to standard error what it thinks of a file; the user reads one line with the
    name."""
    for name in ("cut.tif", "photo.jpg", "einval.tif", "wide.png", "token.npy"):
        (tmp_path / name).write_bytes(HOSTILE[name])
    damaged = bytearray(encoded(Image.fromarray(PHOTO), "TIFF", compression="tiff_adobe_deflate"))
    damaged[60:64] = b"\xff\0\xff\0"
    (tmp_path / "deflate.tif").write_bytes(damaged)
    done = cli(
        "predict",
        weights,
        tmp_path,
        "-o",
        tmp_path / "out",
        "--engine",
        "oracle",
        "--colour",
        "rgb",
        "--mean",
        "0",
        "--scale",
        "1",
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note:")]
    told = [line.split(": ")[1] for line in lines]
    assert sorted(told) == sorted(
        str(tmp_path / name) for name in ("cut.tif", "photo.jpg", "einval.tif", "wide.png", "token.npy", "deflate.tif")
    )
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_parity_says_the_same(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(HOSTILE["photo.jpg"])
    done = cli("parity", weights, path)
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if not line.startswith("note:")]
    assert told == [f"segtwin: {path}: is not an image; give a JPEG or PNG file"]


def test_the_networks_memory_is_told_before_it_is_spent(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from segtwin_cli.main import main

    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    architecture = get_architecture("unet-small")
    need = memory.of_blobs(architecture, 64, 64, 1, 3, (4, 4, 4, 4, 4))
    run = ["predict", str(weights), str(tmp_path / "a.png"), "--engine", "oracle", "-o"]

    def status(free: int) -> int:
        monkeypatch.setattr(memory, "free", lambda: free)
        with pytest.raises(SystemExit) as done:
            main([*run, str(tmp_path / str(free))])
        return int(done.value.code or 0)

    assert status(need - 1) == 2
    told = capsys.readouterr().err
    assert "a.png: 64×64 pixels take" in told
    assert "are free; add --tile 1024, or cut the image" in told
    assert status(2 * need) == 0
    assert "or several times as much" in capsys.readouterr().err
    assert status(100 * need) == 0
    assert "pixels take" not in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--classes", "--palette"])
def test_short_texts_are_texts(option: str, weights: Path, tmp_path: Path, capsys) -> None:
    """A pipe waits for ever, /dev/zero never ends: neither is opened."""
    from segtwin_cli.main import main

    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe")
    for name, content in (
        ("bytes", bytes(range(256))),
        ("latin", "hinté".encode("latin-1")),
        ("empty", b" \n"),
        ("long", b"a\n" * 600_000),
    ):
        (tmp_path / name).write_bytes(content)
    for name in (tmp_path / "pipe", "/dev/zero", *(tmp_path / name for name in ("bytes", "latin", "empty", "long"))):
        with pytest.raises(SystemExit) as done:
            main(
                [
                    "predict",
                    str(weights),
                    str(tmp_path / "a.png"),
                    "-o",
                    str(tmp_path / "out"),
                    "--engine",
                    "oracle",
                    option,
                    str(name),
                ]
            )
        assert done.value.code == 2
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 1
        assert told[0].startswith(f"segtwin: {name}: ")
