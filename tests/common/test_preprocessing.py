"""From files to arrays, by values."""

import io
from pathlib import Path

import numpy as np
import pytest
import segtwin
from PIL import Image
from segtwin.architectures import get_architecture

PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3) * 4
MEAN_BGR = np.array([104.00699, 116.66877, 122.67892], np.float32)


@pytest.fixture
def save(tmp_path: Path):
    def save(image: Image.Image, name: str = "image.png", **options) -> Path:
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save


def test_an_rgb_file_becomes_bgr_minus_the_mean(save) -> None:
    data = segtwin.preprocess(save(Image.fromarray(PIXELS)), "fcn8s")
    assert data.dtype == np.float32
    assert data.shape == (1, 3, 4, 5)
    assert data.flags["C_CONTIGUOUS"]
    for channel, colour in enumerate((2, 1, 0)):  # blue, green, red
        np.testing.assert_array_equal(data[0, channel], PIXELS[:, :, colour].astype(np.float32) - MEAN_BGR[channel])
    # red 10, green 20, blue 30
    one = segtwin.preprocess(np.full((1, 1, 3), (10, 20, 30), np.uint8), get_architecture("fcn8s"))
    np.testing.assert_allclose(one.ravel(), [30 - 104.00699, 20 - 116.66877, 10 - 122.67892], rtol=1e-6)


def test_a_list_becomes_a_batch(save) -> None:
    path = save(Image.fromarray(PIXELS))
    batch = segtwin.preprocess([path, PIXELS, Image.fromarray(PIXELS)], "fcn8s")
    assert batch.shape == (3, 3, 4, 5)
    assert (batch == batch[0]).all()
    with pytest.raises(segtwin.ImageError, match="one size, not 4×5 and 5×4"):
        segtwin.preprocess([PIXELS, PIXELS.transpose(1, 0, 2)], "fcn8s")


def converted(path, what: str) -> np.ndarray:
    with pytest.warns(segtwin.Converted, match=what) as caught:
        image = segtwin.read_image(path)
    assert str(path) in str(caught[0].message)
    assert image.dtype == np.uint8
    return image


def test_what_is_converted_is_said(save) -> None:
    grey = PIXELS[:, :, 0]
    np.testing.assert_array_equal(
        converted(save(Image.fromarray(grey)), "grey became three equal channels"), np.repeat(grey[:, :, None], 3, 2)
    )

    palette = Image.new("P", (5, 4), 1)
    palette.putpalette([1, 2, 3, 9, 8, 7])
    assert (converted(save(palette), "palette colours were looked up") == (9, 8, 7)).all()

    alpha = np.dstack([PIXELS, np.zeros((4, 5), np.uint8)])
    np.testing.assert_array_equal(converted(save(Image.fromarray(alpha)), "alpha channel is dropped"), PIXELS)

    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows become columns
    turned = converted(save(Image.fromarray(PIXELS), "turned.png", exif=exif), "rotated as its EXIF")
    np.testing.assert_array_equal(turned, np.rot90(PIXELS, -1))

    bilevel = Image.fromarray(grey > 100)
    assert set(np.unique(converted(save(bilevel), "black and white"))) == {0, 255}
    assert converted(save(Image.fromarray(PIXELS).convert("CMYK"), "image.jpg"), "CMYK became RGB").shape == (4, 5, 3)


def test_an_ordinary_photograph_is_read_without_a_word(save) -> None:
    np.testing.assert_array_equal(segtwin.read_image(save(Image.fromarray(PIXELS))), PIXELS)
    photo = Path(__file__).parents[2] / "docs/images/chelsea.jpg"
    assert segtwin.read_image(photo).shape == (300, 451, 3)


def test_what_is_no_image_is_refused(tmp_path: Path, save) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    whole = save(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name, message in (("empty.png", "is empty"), ("text.png", "is not an image"), ("cut.png", "is damaged")):
        with pytest.raises(segtwin.ImageError, match=message) as caught:
            segtwin.read_image(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        segtwin.read_image(tmp_path / "missing.png")
    with pytest.raises(IsADirectoryError):
        segtwin.read_image(tmp_path)
    for array in (PIXELS[:, :, 0], PIXELS[:, :, :2], PIXELS[:0]):
        with pytest.raises(segtwin.ImageError, match="H×W×3 of uint8"):
            segtwin.read_image(array)


def test_a_label_is_its_indices(save) -> None:
    indices = np.array([[0, 1, 20], [255, 15, 0]], np.uint8)
    palette = Image.fromarray(indices).convert("L")
    coloured = Image.fromarray(indices, mode=None)
    coloured = coloured.convert("P") if coloured.mode != "P" else coloured
    as_palette = Image.new("P", (3, 2))
    as_palette.putdata(indices.ravel().tolist())
    as_palette.putpalette(segtwin.palette.voc_palette().ravel().tolist())
    for image in (palette, as_palette):
        label = segtwin.preprocess_label(save(image, "label.png"))
        assert label.shape == (1, 1, 2, 3)
        np.testing.assert_array_equal(label[0, 0], indices)
    with pytest.raises(segtwin.ImageError, match="classes"):
        segtwin.preprocess_label(save(Image.fromarray(PIXELS), "colours.png"))


def test_the_palette_is_vocs() -> None:
    """Colours known from the VOC development kit: aeroplane, bicycle, person, void."""
    palette = segtwin.palette.voc_palette()
    assert [tuple(int(v) for v in palette[i]) for i in (0, 1, 2, 15, 255)] == [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (192, 128, 128),
        (224, 224, 192),
    ]


def test_an_image_in_memory(save) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "png")
    np.testing.assert_array_equal(segtwin.read_image(Image.open(buffer)), PIXELS)
