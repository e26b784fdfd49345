"""Overlap-tile: the tiled result is that of one pass over the whole mirrored image, and memory does
not grow."""

import tracemalloc
from contextlib import nullcontext

import numpy as np
import pytest
import segtwin
import segtwin_weights
import torch
from click.testing import CliRunner
from goldens import unet_paper_goldens
from PIL import Image
from segtwin import oracle, tiles
from segtwin.architectures import get_architecture
from segtwin.preprocessing import preprocess
from segtwin_cli.main import segtwin as segtwin_command
from segtwin_engines import loading
from segtwin_engines.onnxruntime import onnx_blobs
from segtwin_engines.prediction import Job, computed
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


# ------------------------------------------------------------------- networks that keep an image's size

TALL = {"fcn32s": (623, 21), "fcn16s": (660, 9), "fcn8s": (641, 40), "fcn8s-atonce": (640, 33), "fcn8-vgg": (661, 37)}
"""Rows and columns with tiles that see neither end, some beyond a multiple of 32."""
TALL |= {"unet": (304, 32), "unet-small": (320, 48), "resnet34-unet": (1120, 32)}


def drawn(name: str) -> Weights:
    architecture = get_architecture(name)
    widths = (2, 2, 3, 3, 4, 5, 4)[: len(architecture.widths)] if architecture.widths else None
    random = np.random.default_rng(1)
    start = initialize(name, widths=widths, num_classes=2, seed=1)
    blobs = {
        key: blob
        if key.startswith("upscore") or blob.dtype.kind != "f"
        else (random.uniform(0.2, 1, blob.shape) * blob.shape[0] / blob.size).astype(np.float32)
        for key, blob in start.items()
    }
    return Weights(blobs, start.metadata)


def in_tiles(name: str, data: np.ndarray, tile: int) -> np.ndarray:
    """By the oracle, float64."""
    weights, architecture = drawn(name), get_architecture(name)
    engine = loading.start("oracle", architecture, weights)
    engine.scores = lambda data: oracle.run(architecture, weights, data)[architecture.output]
    return engine.probabilities(data, None, tile, always=False)


@pytest.mark.parametrize("name", TALL)
def test_tiles_of_every_network_are_the_whole_image(name: str) -> None:
    weights, architecture = drawn(name), get_architecture(name)
    channels = architecture.in_channels
    data = np.random.default_rng(2).uniform(0, 1, (1, channels, *TALL[name])).astype(np.float32)
    whole = oracle.run(architecture, weights, data)[architecture.output][0]
    pieces = list(loading.start("oracle", architecture, weights).pieces(*TALL[name], None, 32))
    inside = [one for one in pieces if one.rows.looks[0] > 0 and one.rows.looks[-1] < TALL[name][0] - 1]
    assert inside, "every tile sees an end of the image"
    assert {len(one.rows.looks) for one in inside} != {TALL[name][0]}
    np.testing.assert_allclose(in_tiles(name, data, 32), whole, rtol=0, atol=1e-12 * abs(whole).max())


@pytest.mark.parametrize("name", ["fcn8s", "unet-small"])
def test_a_tile_that_looks_less_far_shows_its_seams(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = get_architecture(name)
    data = np.random.default_rng(2).uniform(0, 1, (1, architecture.in_channels, *TALL[name])).astype(np.float32)
    whole = in_tiles(name, data, 10_000)
    before, after, step = tiles.reach(architecture)
    for less in (tiles.Reach(before // 8, after, step), tiles.Reach(before, after // 8, step)):
        monkeypatch.setattr(tiles, "_reach", lambda *_, less=less: less)
        assert abs(in_tiles(name, data, 32) - whole).max() > 1e-9 * abs(whole).max()


@pytest.mark.parametrize("name", ["vggfcn8", "vggfcn16", "vggfcn32"])
def test_networks_that_look_at_the_whole_image_are_not_cut(name: str) -> None:
    with pytest.raises(ValueError, match=r"\(Resize\) looks at the whole image, which cannot be cut into tiles"):
        tiles.cuts_with_context(get_architecture(name), 300, 64)
    widths = (2, 2, 2, 2, 2, 3, 3)
    assert not loading.start("oracle", get_architecture(name), initialize(name, widths=widths, seed=1)).takes_tiles
    assert loading.start("oracle", get_architecture("fcn8s"), initialize("fcn8s", widths=widths, seed=1)).takes_tiles


def test_predict_writes_the_same_files_in_tiles(tmp_path) -> None:
    segtwin_weights.write(drawn("unet-small"), tmp_path / "w.safetensors")
    image = np.random.default_rng(3).integers(0, 256, (331, 290), np.uint8)  # mirrored to 336×304
    Image.fromarray(image).save(tmp_path / "a.png")
    arguments = ["predict", str(tmp_path / "w.safetensors"), str(tmp_path / "a.png"), "--pad", "reflect", "--quiet"]
    for folder, more in (("whole", []), ("tiles", ["--tile", "64"])):
        done = CliRunner().invoke(segtwin_command, [*arguments, *more, "--probability", "-o", str(tmp_path / folder)])
        assert done.exit_code == 0, done.output
    whole, in_parts = (np.load(tmp_path / folder / "a.probability.npy") for folder in ("whole", "tiles"))
    np.testing.assert_allclose(in_parts, whole, rtol=0, atol=2e-6)
    masks = [np.asarray(Image.open(tmp_path / folder / "a.mask.png")) for folder in ("whole", "tiles")]
    assert (masks[0] == masks[1]).mean() > 0.999
    done = CliRunner().invoke(segtwin_command, [*arguments, "--tile", "0", "-o", str(tmp_path / "none")])
    assert done.exit_code == 2


def test_memory_does_not_grow_with_an_image_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told beforehand is a tile's, and what is taken is the image and a tile."""
    engine = loading.start("oracle", get_architecture("unet-small"), drawn("unet-small"))
    small, large = (engine.memory(n, n, None, 256) for n in (1024, 8192))
    assert small == large < engine.memory(1024, 1024, None, None)
    engine.scores = lambda data: np.zeros((1, 2, *data.shape[2:]), np.float32)
    job = Job(engine, None, None, None, 256, 0.5, (np.zeros((2, 3)),) * 2, False, lambda line: None, nullcontext)
    values = np.zeros((4096, 4096, 1), np.uint8)
    tracemalloc.start()
    labels, output = computed(job, values)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert output is None
    assert labels.shape == (4096, 4096)
    assert peak < labels.nbytes + 60 * (256 + 2 * 128) ** 2  # float64, indices, two classes: 60 bytes a pixel of a tile
