"""Overlap-tile: the tiled result is that of one pass over the whole mirrored image, and memory does
not grow."""

import tracemalloc

import numpy as np
import pytest
import segtwin
import torch
from goldens import unet_paper_goldens
from segtwin import oracle, tiles
from segtwin.architectures import get_architecture
from segtwin.preprocessing import preprocess
from segtwin_engines.onnxruntime import onnx_blobs
from segtwin_weights import Weights, initialize

import tensorflow as tf
from engines import exported, model

TINY = (3, 5, 7, 9, 11)
GOLDEN = unet_paper_goldens()[0]
SIZES = [(37, 21), (16, 20), (1, 33)]
TILE = 204  # 20 pixels of output, 16 apart: many seams in a small image


def network(engine: str, weights: Weights, dtype: str):
    if engine == "torch":
        net = model("torch", "unet-paper", weights, dtype)

        def run(x):
            with torch.inference_mode():
                return net(torch.from_numpy(x)).numpy()
    elif engine == "keras":
        net = model("keras", "unet-paper", weights, dtype)

        def run(x):
            return net(tf.constant(x.transpose(0, 2, 3, 1)), training=False).numpy().transpose(0, 3, 1, 2)
    else:
        path = exported("torch", "unet-paper", weights)

        def run(x):
            return onnx_blobs(path, x, ["conv_u0d-score"])["conv_u0d-score"]

    return run


def untiled(run, image: np.ndarray) -> np.ndarray:
    """One pass over the whole image, mirrored all around, by numpy's own mirror."""
    height, width = image.shape[2:]
    architecture = get_architecture("unet-paper")
    around = [(92, architecture.legal_size(size + 184) - size - 92) for size in (height, width)]
    padded = np.pad(image, ((0, 0), (0, 0), around[0], (0, 0)), mode="reflect" if height > 1 else "edge")
    padded = np.pad(padded, ((0, 0), (0, 0), (0, 0), around[1]), mode="reflect" if width > 1 else "edge")
    return run(padded)[:, :, :height, :width]


def whole_numbers() -> Weights:
    """Weights for which float64 is exact: every output sums three inputs times ±1, so that numbers
    stay below 3^23 · 255 < 2^53."""
    random = np.random.RandomState(0)
    blobs = {}
    for name, blob in initialize("unet-paper", widths=TINY, seed=1).items():
        if blob.ndim == 1:
            blobs[name] = random.randint(-3, 4, blob.shape).astype(np.float32)
            continue
        weight = np.zeros(blob.shape, np.float32)
        by_output = weight.swapaxes(0, 1) if name.startswith("upconv") else weight  # a view
        for taps in by_output:
            for channel, i, j in zip(*(random.randint(0, size, 3) for size in taps.shape), strict=True):
                taps[channel, i, j] = 1 if random.rand() < 0.7 else -1
        blobs[name] = weight
    return Weights(blobs)


WHOLE = whole_numbers()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("engine", ["torch", "keras"])
def test_tiles_have_no_seams_bit_for_bit(engine: str, size: tuple[int, int]) -> None:
    """In exact arithmetic (whole numbers in float64) no order of sums matters: what differs,
    differs in what it computes."""
    run = network(engine, WHOLE, "float64")
    image = np.random.RandomState(2).randint(0, 256, (1, 1, *size)).astype(np.float64)
    want = untiled(run, image)
    assert np.abs(want).max() < 2.0**53
    assert len(np.unique(want)) > min(want.size, 40) / 2, "the network passes the image on"
    np.testing.assert_array_equal(segtwin.overlap_tile(run, image, TILE), want)


@pytest.mark.parametrize("engine", ["torch", "keras", "onnxruntime"])
def test_tiles_have_no_seams_in_float32(engine: str) -> None:
    """Within 4 noise floors of the network: engines cut sums differently in images of different
    size."""
    run = network(engine, GOLDEN.weights, "float32")
    image = np.random.RandomState(2).uniform(0, 1, (2, 1, 37, 21)).astype(np.float32)
    assert (
        oracle.relative_error(segtwin.overlap_tile(run, image, TILE), untiled(run, image))
        < 4 * GOLDEN.floors["conv_u0d-score"]
    )


def test_tiles_of_the_paper_set_388_apart_would_show_seams(monkeypatch) -> None:
    """Why they are 384 apart: in another phase of the pooling grid the same pixel gets another
    score."""
    run = network("torch", WHOLE, "float64")
    image = np.random.RandomState(2).randint(0, 256, (1, 1, 37, 41)).astype(np.float64)
    want = untiled(run, image)
    monkeypatch.setattr(
        tiles, "cuts", lambda size, tile, fixed: [(start, tile) for start in range(0, size, tile - 184)]
    )
    assert (segtwin.overlap_tile(run, image, TILE) != want).any()


@pytest.mark.parametrize("size", [1, 2, 3, 20, 21, 36, 37, 388, 389, 772, 773, 5000])
@pytest.mark.parametrize("tile", [204, 572])
def test_tiles_cover_the_axis_on_the_pooling_grid(size: int, tile: int) -> None:
    cuts = tiles.cuts(size, tile)
    covered = np.zeros(size + tile, int)
    for start, count in cuts:
        assert start % 16 == 0
        get_architecture("unet-paper").check_size(count, count)
        covered[start : start + count - 184] += 1
    assert covered[:size].all()
    assert all(start < size for start, _ in cuts)
    assert len({count for _, count in cuts}) == 1, "one shape, so that an engine plans once"


def test_the_border_is_mirrored() -> None:
    image = np.arange(7, dtype=np.float32)
    assert image[tiles.looked_at(0, 188, 7)].tolist() == np.pad(image, (92, 89), mode="reflect").tolist()
    assert tiles.looked_at(5, 3, 1).tolist() == [0, 0, 0]


@pytest.mark.parametrize("tile", [188, 200, 571, 573])
def test_tiles_that_do_not_fit_are_refused(tile: int) -> None:
    with pytest.raises(ValueError, match=f"a tile of {tile} pixels does not fit unet-paper: tiles are 204, 220, 236"):
        segtwin.overlap_tile(lambda x: x, np.zeros((1, 1, 500, 500), np.float32), tile)


def test_memory_does_not_grow_with_the_image() -> None:
    """Beyond image and result: the peak for 16 times the pixels is that of the small image, but for
    the list of tiles."""

    def peak(size: int) -> int:
        image, out = np.zeros((1, 1, size, size), np.float32), np.empty((1, 2, size, size), np.float32)
        tracemalloc.start()
        segtwin.overlap_tile(lambda x: np.concatenate([x, x], axis=1)[:, :, 92:-92, 92:-92], image, out=out)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    small, large = peak(1000), peak(4000)
    assert small > 572 * 572 * 4
    assert large < small + 50_000


def test_progress_counts_every_tile() -> None:
    calls = []
    segtwin.overlap_tile(
        lambda x: x[:, :, 92:-92, 92:-92],
        np.zeros((1, 1, 40, 25), np.float32),
        TILE,
        progress=lambda *done: calls.append(done),
    )
    assert calls == [(i, 6) for i in range(1, 7)]


# ----------------------------------------------------------------------------- preparing the images


def test_images_become_what_the_unets_take() -> None:
    colours = np.random.RandomState(0).randint(0, 256, (5, 4, 3)).astype(np.uint8)
    np.testing.assert_array_equal(
        preprocess(colours, "unet"), (colours.astype(np.float32) / np.float32(255)).transpose(2, 0, 1)[None]
    )
    normal = (colours / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(
        preprocess(colours, "resnet34-unet"), normal.transpose(2, 0, 1)[None], rtol=1e-5, atol=1e-6
    )
    grey = colours[..., 0]
    for name, channels in (("unet-paper", None), ("unet-small", None), ("unet", 1)):
        np.testing.assert_array_equal(
            preprocess(grey, name, channels), (grey.astype(np.float32) / np.float32(255))[None, None]
        )
    with pytest.raises(ValueError, match="an image array is H×W×4 of uint8, not 5×4×3"):
        preprocess(colours, "unet", 4)
    with pytest.raises(ValueError, match="resnet34-unet with 1 channels"):
        preprocess(grey, "resnet34-unet", 1)


def test_files_become_grey_and_say_so(tmp_path, recwarn) -> None:
    from PIL import Image

    grey = np.random.RandomState(0).randint(0, 256, (6, 5)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(
        preprocess(tmp_path / "grey.png", "unet-paper"), (grey.astype(np.float32) / np.float32(255))[None, None]
    )
    assert not recwarn
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "colour.png")
    with pytest.warns(segtwin.Converted, match=r"colour\.png: colours became grey, 0\.299 R"):
        np.testing.assert_array_equal(
            preprocess(tmp_path / "colour.png", "unet-paper"), preprocess(tmp_path / "grey.png", "unet-paper")
        )
