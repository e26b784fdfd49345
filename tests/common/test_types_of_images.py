"""Values of images of every type that TIFF has, against numpy; what a decoder cannot keep is
refused where it would matter."""

from pathlib import Path

import numpy as np
import pytest
import segtwin
import segtwin_weights
import tifffile
from PIL import Image
from segtwin.images import ImageError, page_count, pages, preprocess_label, read_image
from segtwin_cli.main import main
from segtwin_weights import Weights

TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u2", "u4", "u8")
pytestmark = pytest.mark.filterwarnings("ignore::segtwin.Converted")


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code or 0


def drawn(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    stream = np.random.default_rng(len(shape))
    if kind[0] == "f":
        return (stream.random(shape) * 300 - 100).astype(kind)
    limits = np.iinfo(kind)
    return stream.integers(limits.min, limits.max, shape, kind, endpoint=True)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("kind", TYPES)
def test_a_range_is_applied_to_the_values_of_every_type(
    kind: str, bands: int, planar: str, channels: int, tmp_path: Path
) -> None:
    shape = (20, 30) if bands == 1 else (20, 30, bands)
    values = drawn(kind, shape)
    stored = values if bands == 1 or planar == "contig" else np.moveaxis(values, -1, 0)
    options = {} if bands == 1 else {"planarconfig": planar} | ({"extrasamples": ["unassalpha"]} if bands == 4 else {})
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="minisblack" if bands == 1 else "rgb", **options)
    low, high = float(values.min()), float(values.max())
    want = (values.astype(np.float64) - low) * (255 / (high - low))
    want = np.repeat(want[..., None], 3, axis=2) if bands == 1 else want[..., :3]
    if channels == 1:
        want = (want @ [0.299, 0.587, 0.114])[..., None]
    if kind == "u2" and bands == 4:
        pytest.skip("Pillow reads it, and with a range: test_images has it")
    got = read_image(tmp_path / "x.tif", channels=channels, value_range=(low, high))
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=255 / 65535 / 8)


@pytest.mark.parametrize("kind", ["i1", "u4", "f2", "f8"])
def test_without_a_range_they_are_refused(kind: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", drawn(kind, (20, 30)), photometric="minisblack")
    with pytest.raises(ImageError, match=r"x.tif: holds .* whose range is not known; say which become 0 and 255"):
        read_image(tmp_path / "x.tif")


def test_each_page_is_read_by_what_reads_it(tmp_path: Path) -> None:
    stream = np.random.default_rng(1)
    grey, colours = stream.integers(0, 256, (20, 30), np.uint8), stream.integers(0, 256, (20, 30, 3), np.uint8)
    floats = stream.random((20, 30, 3), np.float32) * 255
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        for page in (grey, floats, colours):
            writer.write(page, photometric="rgb" if page.ndim == 3 else "minisblack")
    assert page_count(tmp_path / "x.tif") == 3
    found = [page.values(3, None, (0, 255)) for page in pages(tmp_path / "x.tif")]
    for got, want in zip(found, (np.repeat(grey[..., None], 3, axis=2), floats, colours), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)
    assert [page.name.rpartition(", ")[2] for page in pages(tmp_path / "x.tif")] == ["page 1", "page 2", "page 3"]


def test_what_is_whole_is_not_called_damaged(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        writer.write(np.zeros((20, 30, 3), np.float32), photometric="rgb")
        writer.write(np.zeros((20, 30), np.uint8), photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    reader = pages(tmp_path / "x.tif")
    assert next(reader).values(3, None, (-1, 1)).shape == (20, 30, 3)
    with pytest.raises(
        ImageError, match=r"x.tif, page 2: a TIFF of a palette, 1 bands of uint8, is not converted here; save it as RGB"
    ) as refused:
        next(reader)
    assert "damaged" not in str(refused.value)
    tifffile.imwrite(tmp_path / "lab.tif", np.zeros((20, 30, 3), np.uint16), photometric="cielab")
    with pytest.raises(ImageError, match=r"lab.tif: .*CIELab.* is not converted here; save it as RGB") as refused:
        read_image(tmp_path / "lab.tif")
    assert "damaged" not in str(refused.value)


DEEP = {
    "rgb.jp2": lambda path: jpeg2000(path),
    "la.png": lambda path: png_of_16_bits(path, 4, 2),
    "cmyk.tif": lambda path: tifffile.imwrite(path, np.full((9, 9, 4), 4000, np.uint16), photometric="separated"),
}


def jpeg2000(path: Path) -> None:
    import cv2

    assert cv2.imwrite(str(path), np.full((48, 48, 3), 4000, np.uint16))


def png_of_16_bits(path: Path, kind: int, bands: int) -> None:
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + np.full(9 * bands, 4000, ">u2").tobytes() for _ in range(9))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 16, kind, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("options", [{"bits": 12}, {"value_range": (0, 4095)}], ids=["bits", "range"])
@pytest.mark.parametrize("name", DEEP)
def test_bits_that_a_decoder_drops_are_not_scaled(name: str, options: dict, tmp_path: Path) -> None:
    """4000 of 12 bits is nearly white: the high byte, 15, taken as the value, would be black."""
    DEEP[name](tmp_path / name)
    with pytest.raises(ImageError, match="its values of 16 bits are decoded to 8 here"):
        read_image(tmp_path / name, **options)
    assert read_image(tmp_path / name).max() < 256


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_one_bit_is_black_and_white(suffix: str, tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 2, (9, 9)).astype(bool)
    Image.fromarray(values).save(tmp_path / f"x{suffix}")
    for bits in (None, 1):
        np.testing.assert_array_equal(read_image(tmp_path / f"x{suffix}", bits=bits)[..., 0], values * 255)


def test_labels_of_a_lossy_format_are_said(tmp_path: Path) -> None:
    Image.fromarray(np.kron([[0, 1], [2, 3]], np.ones((16, 16))).astype(np.uint8)).save(tmp_path / "x.jpg")
    with pytest.warns(segtwin.Converted, match=r"x.jpg: is a JPEG, which changes the values"):
        preprocess_label(tmp_path / "x.jpg")


def test_a_folder_copied_from_a_mac(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    segtwin_weights.write(
        Weights(
            segtwin_weights.initialize("unet-small", widths=(2, 2, 2, 2, 2), seed=1), {"architecture": "unet-small"}
        ),
        tmp_path / "w.pth",
    )
    folder = tmp_path / "in"
    (folder / ".hidden").mkdir(parents=True)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "a.png")
    for name in ("._a.png", ".hidden/b.png", "Thumbs.db", "a.xml"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    assert (
        run("predict", tmp_path / "w.pth", folder, "-o", tmp_path / "o2", "--recursive", "--engine", "torch", "--quiet")
        == 0
    )
    assert sorted(one.name for one in (tmp_path / "o2").rglob("*.mask.png")) == ["a.mask.png"]


@pytest.mark.slow
def test_parity_takes_a_range(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    segtwin_weights.write(
        Weights(
            segtwin_weights.initialize("unet-small", widths=(2, 2, 2, 2, 2), seed=1), {"architecture": "unet-small"}
        ),
        tmp_path / "w.pth",
    )
    tifffile.imwrite(
        tmp_path / "x.tif", np.random.default_rng(1).random((32, 32), np.float32), photometric="minisblack"
    )
    assert run("parity", tmp_path / "w.pth", tmp_path / "x.tif", "--quiet") == 2
    assert "--range" in capsys.readouterr().err
    assert run("parity", tmp_path / "w.pth", tmp_path / "x.tif", "--range", "1,0") != 0
    assert "the smaller number first" in capsys.readouterr().err
    assert run("parity", tmp_path / "w.pth", tmp_path / "x.tif", "--range", "0,1", "--quiet") == 0
