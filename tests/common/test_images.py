"""Images of more than 8 bits, of several pages, of other channels; labels of two values. The right
values come from numpy and OpenCV."""

import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import segtwin
from PIL import Image
from segtwin.images import own_output, page_count, pages

RANDOM = np.random.RandomState(7)
DEEP = RANDOM.randint(0, 4022, (9, 11, 3)).astype(np.uint16)
DEEP[0, 0] = 4021
PIXELS = RANDOM.randint(0, 256, (9, 11, 3)).astype(np.uint8)


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_cv2(name: str, values: np.ndarray, *options: int) -> None:
    """RGB, or grey; `options` of cv2.imwrite."""
    assert cv2.imwrite(name, values[..., ::-1] if values.ndim == 3 and values.shape[2] == 3 else values, options)


FILES = {"png": ("d.png", ()), "lzw tiff": ("d.tif", ()), "raw tiff": ("d.tif", (cv2.IMWRITE_TIFF_COMPRESSION, 1))}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("grey", [True, False])
@pytest.mark.parametrize("bits", [12, 16, None])
def test_16_bit_files_keep_every_bit(here: Path, file: str, grey: bool, bits: int | None) -> None:
    name, options = FILES[file]
    values = DEEP[..., 0] if grey else DEEP
    write_cv2(name, values, *options)
    want = values.astype(np.float64) * 255 / (2 ** (bits or 16) - 1)
    want = np.repeat(want[..., None], 3, 2) if grey else want
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = segtwin.read_image(name, bits=bits)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=3e-7)
    said = " ".join(str(one.message) for one in caught)
    assert ("the largest 4021" in said) == (bits is None)
    assert ("say --bits 12" in said) == (bits is None)
    if grey:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", segtwin.Converted)
            np.testing.assert_allclose(segtwin.read_image(name, grey=True, bits=bits), want[..., :1], rtol=3e-7)


def test_values_beyond_the_stated_bits_are_refused(here: Path) -> None:
    write_cv2("d.png", DEEP)
    with pytest.raises(
        segtwin.ImageError, match=r"d\.png: holds values from \d+ to 4021; values of 10 bits are 0\.\.1023"
    ):
        segtwin.read_image("d.png", bits=10)


def test_bits_of_a_network_reach_the_image(here: Path) -> None:
    write_cv2("d.png", DEEP)
    data = segtwin.preprocess("d.png", segtwin.Preprocessing(colour="BGR", mean=(1, 2, 3), bits=12))
    want = DEEP[..., ::-1].astype(np.float64) * 255 / 4095 - (1, 2, 3)
    np.testing.assert_allclose(data[0], want.transpose(2, 0, 1), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(segtwin.read_image(DEEP, bits=12), segtwin.read_image("d.png", bits=12))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_of_unknown_range_need_one(here: Path, dtype) -> None:
    """Float and 32-bit files: the error names the smallest and the largest value; it is not taken
    for damage."""
    values = (RANDOM.rand(6, 5) * 3000 - 1000).astype(dtype)
    values[0, 0], values[0, 1] = -1000, 2000
    Image.fromarray(values).save("f.tif")
    for image, where in (("f.tif", r"f\.tif: "), (values, "image: ")):
        with pytest.raises(
            segtwin.ImageError, match=rf"^{where}holds .* values from -1000 to 2000, .*--range -1000,2000"
        ) as caught:
            segtwin.read_image(image, grey=True)
        assert "damaged" not in str(caught.value)
        got = segtwin.read_image(image, grey=True, value_range=(-1000, 2000))
        np.testing.assert_allclose(got[..., 0], (values.astype(np.float64) + 1000) * 255 / 3000, rtol=1e-5, atol=1e-4)
    with pytest.warns(segtwin.Converted, match=r"lie outside 0\.\.1000 and were cut off"):
        cut = segtwin.read_image("f.tif", grey=True, value_range=(0, 1000))
    np.testing.assert_allclose(cut[..., 0], np.clip(values.astype(np.float64), 0, 1000) * 0.255, rtol=1e-5, atol=1e-4)
    values = values.astype(np.float32)
    values[2, 2] = np.nan
    with pytest.raises(segtwin.ImageError, match="no numbers"):
        segtwin.read_image(values, grey=True, value_range=(0, 1))


@pytest.mark.parametrize("ending", ["tif", "gif", "png", "webp"])
def test_a_stack_is_its_pages(here: Path, ending: str) -> None:
    want = [np.roll(PIXELS[..., 0] // 64 * 64, shift, 1) for shift in range(4)]
    frames = [Image.fromarray(one) for one in want]
    options = {"lossless": True} if ending == "webp" else {}
    frames[0].save(f"s.{ending}", save_all=True, append_images=frames[1:], **options)
    assert page_count(f"s.{ending}") == 4
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        batch = segtwin.preprocess(f"s.{ending}", segtwin.Preprocessing())
        assert len(caught) <= 2, "said once, not for each page"
        segtwin.read_image(f"s.{ending}")
    np.testing.assert_allclose(batch[:, 0], np.array(want), atol=1 if ending == "webp" else 0)
    assert any(f"s.{ending}: holds 4 images, the first is read" in str(one.message) for one in caught)


def test_deep_pages_and_smaller_copies(here: Path) -> None:
    """16-bit colours keep their bits on every page; a TIFF's reduced copies are no pages."""
    assert cv2.imwritemulti("s.tif", [DEEP[..., ::-1].copy(), DEEP[::-1, :, ::-1].copy()])
    batch = segtwin.preprocess("s.tif", segtwin.Preprocessing(bits=12))
    want = np.stack([DEEP, DEEP[::-1]]).transpose(0, 3, 1, 2) * 255.0 / 4095
    np.testing.assert_allclose(batch, want, rtol=1e-6)
    small = Image.fromarray(PIXELS[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}  # NewSubfileType: a reduced copy
    Image.fromarray(PIXELS).save("copies.tif", save_all=True, append_images=[small])
    with Image.open("copies.tif") as opened:
        assert opened.n_frames == 2
    assert page_count("copies.tif") == 1
    np.testing.assert_array_equal(segtwin.read_image("copies.tif"), PIXELS)


def test_pages_are_read_one_at_a_time(here: Path) -> None:
    """200 pages of 1 MB take the memory of a few."""
    import tracemalloc

    page = Image.fromarray(RANDOM.randint(0, 256, (1000, 1000)).astype(np.uint8))
    page.save("s.tif", save_all=True, append_images=[page] * 199)
    tracemalloc.start()
    assert sum(1 for one in pages("s.tif") if one.values(1).shape == (1000, 1000, 1)) == 200
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_arrays_of_other_channels(here: Path) -> None:
    values = RANDOM.randint(0, 256, (5, 4, 6)).astype(np.uint8)
    np.save("six.npy", values)
    data = segtwin.preprocess("six.npy", segtwin.Preprocessing(), in_channels=6)
    np.testing.assert_array_equal(data[0], values.transpose(2, 0, 1))
    Image.fromarray(values[..., :4]).save("four.tif")
    np.testing.assert_array_equal(
        segtwin.preprocess("four.tif", segtwin.Preprocessing(), in_channels=4)[0], values[..., :4].transpose(2, 0, 1)
    )
    with pytest.raises(segtwin.ImageError, match=r"four\.tif: has 4 channels, the network takes 6"):
        segtwin.preprocess("four.tif", segtwin.Preprocessing(), in_channels=6)
    with pytest.raises(segtwin.ImageError, match=r"six\.npy: an image array is H×W×3 .*not 5×4×6"):
        segtwin.read_image("six.npy")
    Path("bad.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(segtwin.ImageError, match=r"bad\.npy: is no \.npy file"):
        segtwin.read_image("bad.npy")


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_is_none_turns_nothing(here: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save("a.png", exif=exif)
    np.testing.assert_array_equal(segtwin.read_image("a.png"), PIXELS)  # and no warning


def test_postscript_is_no_image(here: Path) -> None:
    """Pillow would run Ghostscript on it."""
    Image.fromarray(PIXELS).save("a.eps")
    Path("a.png").write_bytes(Path("a.eps").read_bytes())
    for name in ("a.eps", "a.png"):
        with pytest.raises(segtwin.ImageError, match="is not an image"):
            segtwin.read_image(name)


@pytest.mark.parametrize(
    "error", [NotImplementedError("x"), RuntimeError("x"), OverflowError("x"), KeyError("x"), OSError("x")]
)
def test_whatever_a_decoder_raises_names_the_file(here: Path, monkeypatch, error: Exception) -> None:
    def fail(*arguments):
        raise error

    Image.fromarray(PIXELS).save("a.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(segtwin.ImageError, match=r"^a\.png: the image is damaged \('?x'?\); copy it again$"):
        segtwin.read_image("a.png")


def test_binary_labels(here: Path) -> None:
    """255 beside 0 alone is void unless the caller says that it is the foreground; that it could be
    either is said."""
    there = RANDOM.rand(6, 7) > 0.5
    Image.fromarray(there.astype(np.uint8) * 255).save("255.png")
    Image.fromarray(there.astype(np.uint8)).save("01.png")
    Image.fromarray(there).save("bit.png")
    with Image.open("bit.png") as opened:
        assert opened.mode == "1"
    for name in ("255.png", "01.png", "bit.png"):
        label = segtwin.preprocess_label(name, binary=True)
        assert label.shape == (1, 1, 6, 7)
        np.testing.assert_array_equal(label[0, 0], there)
    for name in ("01.png", "bit.png"):
        np.testing.assert_array_equal(segtwin.preprocess_label(name)[0, 0], there)
    with pytest.warns(segtwin.Converted, match=r"255\.png: holds 0 and 255 alone; 255 is read as void.*binary=True"):
        np.testing.assert_array_equal(segtwin.preprocess_label("255.png")[0, 0], there * 255)
    for values in ((0, 3), (0, 1, 255), (128,)):
        Image.fromarray(np.resize(np.array(values, np.uint8), (2, 3))).save("other.png")
        with pytest.raises(segtwin.ImageError, match=r"other\.png: a binary label holds 0 and 255, or 0 and 1"):
            segtwin.preprocess_label("other.png", binary=True)
    first, second = Image.fromarray(there.astype(np.uint8) * 7), Image.fromarray(~there * np.uint8(5))
    first.save("s.tif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(segtwin.preprocess_label("s.tif")[:, 0], [there * 7, ~there * 5])


def test_own_outputs_are_known_by_name() -> None:
    own = [
        "a.mask.png",
        "b/a.overlay.png",
        "a.mask.tif",
        "a.jpg.overlay.tif",
        "a.probability.npy",
        "classes.legend.png",
    ]
    assert [name for name in [*own, "mask.png", "a.png", "my.masks.png", "a.mask.jpg"] if own_output(name)] == own


def write_tiff(name: str, values: np.ndarray, planar: bool = False, deflate: bool = False, order: str = "<") -> None:
    """H×W×C as strips of two rows, as section 2 of the TIFF specification says, with struct."""
    height, width, bands = values.shape
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    planes = [values[..., at : at + 1] for at in range(bands)] if planar else [values]
    strips = [
        plane[y : y + 2].astype(values.dtype.newbyteorder(order)).tobytes()
        for plane in planes
        for y in range(0, height, 2)
    ]
    strips = [zlib.compress(strip) for strip in strips] if deflate else strips
    data, offsets = b"", []
    for strip in strips:
        offsets.append(8 + len(data))
        data += strip
    bits = values.dtype.itemsize * 8
    fields = {
        256: [width],
        257: [height],
        258: [bits] * bands,
        259: [8 if deflate else 1],
        262: [1],
        273: offsets,
        277: [bands],
        278: [2],
    }
    fields |= {279: list(map(len, strips)), 284: [2 if planar else 1], 338: [0] * (bands - 1), 339: [kind] * bands}
    directory, after = struct.pack(order + "H", len(fields)), b""
    end = 8 + len(data) + 2 + 12 * len(fields) + 4
    for tag, numbers in fields.items():
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        place = packed if len(packed) == 4 else struct.pack(order + "I", end + len(after))
        after += packed if len(packed) > 4 else b""
        directory += struct.pack(order + "HHI", tag, 4, len(numbers)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    Path(name).write_bytes(head + data + directory + bytes(4) + after)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("planar", [False, True])
def test_tiffs_of_several_bands(here: Path, planar: bool, deflate: bool, order: str) -> None:
    values = RANDOM.randint(0, 4096, (5, 4, 6)).astype(np.uint16)
    write_tiff("six.tif", values, planar, deflate, order)
    got = segtwin.preprocess("six.tif", segtwin.Preprocessing(bits=12), in_channels=6)
    np.testing.assert_allclose(got[0], values.transpose(2, 0, 1) * 255.0 / 4095, rtol=1e-6)
    write_tiff("five.tif", (values[..., :5] >> 4).astype(np.uint8), planar, deflate, order)
    got = segtwin.preprocess("five.tif", segtwin.Preprocessing(), in_channels=5)
    np.testing.assert_array_equal(got[0], (values[..., :5] >> 4).transpose(2, 0, 1))
    colours = RANDOM.rand(5, 4, 3).astype(np.float32)
    write_tiff("float.tif", colours, planar, deflate, order)
    np.testing.assert_allclose(segtwin.read_image("float.tif", value_range=(0, 1)), colours * 255, rtol=1e-5)
    with pytest.raises(segtwin.ImageError, match=r"float\.tif: holds float values"):
        segtwin.read_image("float.tif")
    with pytest.raises(segtwin.ImageError, match=r"six\.tif: .*H×W×3"):
        segtwin.read_image("six.tif")
    whole = Path("six.tif").read_bytes()
    for length in (6, 40, len(whole) // 2, len(whole) - 4):
        Path("six.tif").write_bytes(whole[:length])
        with pytest.raises(segtwin.ImageError, match=r"six\.tif: "):
            segtwin.preprocess("six.tif", segtwin.Preprocessing(bits=12), in_channels=6)


@pytest.mark.parametrize("kind", ["<u2", ">u2", "u1", "<f4"])
def test_big_tiffs_of_several_bands(kind: str, here: Path) -> None:
    """Offsets of 64 bits, as files above 4 GB have them."""
    values = (RANDOM.rand(5, 4, 6) * 250).astype(kind)
    order, bits, bands = (">" if kind[0] == ">" else "<"), values.dtype.itemsize * 8, 6
    data, integer = values.tobytes(), 3 if values.dtype.kind == "f" else 1
    at = 16 + len(data)
    fields = {
        256: (3, [4]),
        257: (3, [5]),
        258: (3, [bits] * bands),
        259: (3, [1]),
        262: (3, [1]),
        273: (16, [16]),
        277: (3, [bands]),
        278: (3, [5]),
    }
    fields |= {279: (16, [len(data)]), 284: (3, [1]), 339: (3, [integer] * bands)}
    directory, after, end = struct.pack(order + "Q", len(fields)), b"", at + 8 + 20 * len(fields) + 8
    for tag, (kind_of_field, numbers) in fields.items():
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind_of_field == 3 else 'Q'}", *numbers)
        place = packed.ljust(8, b"\0") if len(packed) <= 8 else struct.pack(order + "Q", end + len(after))
        after += packed if len(packed) > 8 else b""
        directory += struct.pack(order + "HHQ", tag, kind_of_field, len(numbers)) + place
    head = (b"II+\0" if order == "<" else b"MM\0+") + struct.pack(order + "HHQ", 8, 0, at)
    Path("big.tif").write_bytes(head + data + directory + bytes(8) + after)
    span = (0, 255) if kind == "<f4" else None
    got = segtwin.preprocess(
        "big.tif", segtwin.Preprocessing(bits=values.dtype.itemsize * 8), in_channels=6, value_range=span
    )
    want = values.astype(float) * (255 / 65535 if kind.endswith("u2") else 1)
    np.testing.assert_allclose(got[0], want.transpose(2, 0, 1), rtol=1e-5)


def test_tiffs_of_opencv_with_four_bands(here: Path) -> None:
    """Four 16-bit bands, by another writer."""
    values = RANDOM.randint(0, 65536, (20, 30, 4)).astype(np.uint16)
    assert cv2.imwrite("four.tif", values[..., [2, 1, 0, 3]])
    got = segtwin.preprocess("four.tif", segtwin.Preprocessing(bits=16), in_channels=4)
    np.testing.assert_allclose(got[0], values.transpose(2, 0, 1) * 255.0 / 65535, rtol=1e-6)


def test_a_pgm_states_its_range(here: Path) -> None:
    values = np.array([[0, 4095, 2000]], ">u2")
    Path("p.pgm").write_bytes(b"P5 3 1 4095\n" + values.tobytes())
    for bits in (None, 12):
        got = segtwin.read_image("p.pgm", grey=True, bits=bits)
        np.testing.assert_allclose(got[..., 0], values * 255.0 / 4095, atol=0.004)  # Pillow rounds to 16 bits
    with pytest.raises(segtwin.ImageError, match=r"p\.pgm: the file's header states its range"):
        segtwin.read_image("p.pgm", grey=True, value_range=(0, 100))


def test_deep_colours_with_alpha(here: Path) -> None:
    values = RANDOM.randint(0, 65536, (7, 5, 4)).astype(np.uint16)
    assert cv2.imwrite("rgba.png", values[..., [2, 1, 0, 3]])
    with pytest.warns(segtwin.Converted, match="the alpha channel is dropped"):
        got = segtwin.read_image("rgba.png", bits=16)
    np.testing.assert_allclose(got, values[..., :3] * 255.0 / 65535, rtol=1e-6)
    with pytest.warns(segtwin.Converted, match=r"became grey, 0\.299 R"):
        grey = segtwin.read_image("rgba.png", grey=True, bits=16)
    np.testing.assert_allclose(grey[..., 0], values[..., :3] @ [0.299, 0.587, 0.114] * 255 / 65535, rtol=1e-5)


@pytest.mark.parametrize("largest", [65535, 4095, 1000])
@pytest.mark.parametrize("plain", [False, True], ids=["P6", "P3"])
def test_a_colour_ppm_keeps_its_bits(largest: int, plain: bool, tmp_path) -> None:
    """Pillow keeps 8 of them without a word; the header states the range."""
    values = np.random.default_rng(1).integers(0, largest + 1, (5, 7, 3))
    body = " ".join(map(str, values.ravel())).encode() if plain else values.astype(">u2").tobytes()
    (tmp_path / "a.ppm").write_bytes(b"P%d\n# a comment\n7 5\n%d\n" % (3 if plain else 6, largest) + body)
    found = segtwin.preprocess(tmp_path / "a.ppm", segtwin.Preprocessing())[0].transpose(1, 2, 0)
    np.testing.assert_allclose(found, values * 255 / largest, atol=255 / 65535)
    (tmp_path / "short.ppm").write_bytes((tmp_path / "a.ppm").read_bytes()[:-9])
    with pytest.raises(segtwin.ImageError, match=r"short\.ppm"):
        segtwin.preprocess(tmp_path / "short.ppm", segtwin.Preprocessing())
