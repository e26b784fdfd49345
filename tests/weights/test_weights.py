"""The hub on disk, and net surgery from a VGG-16."""

import json
from pathlib import Path

import numpy as np
import pytest
import segtwin
import segtwin_weights
from goldens import TINY, recipe
from segtwin.architectures import get_architecture
from segtwin_weights import Weights, WeightsError, layouts, surgery


@pytest.fixture(scope="module")
def vgg16() -> Weights:
    blobs = {}
    for name, (weight, bias) in recipe.vgg16_npy(3, TINY).items():
        blobs[f"{name}/weight"], blobs[f"{name}/bias"] = layouts.to_caffe(name, weight), bias
    return Weights(blobs, {"architecture": "vgg16", "source": "vgg16.npy", "sha256": "0" * 64})


def test_fc6_becomes_a_convolution_over_c_h_w(vgg16: Weights) -> None:
    """The order that fails silently: rows of vgg16.npy run over (y, x, channel), the channels of a
    convolution over (channel, y, x)."""
    rows = recipe.vgg16_npy(3, TINY)["fc6"][0]
    fc6 = segtwin_weights.convert(vgg16, to="fcn8s")["fc6/weight"]
    assert fc6.shape == (14, 12, 7, 7)
    np.testing.assert_array_equal(fc6, rows.reshape(7, 7, 12, 14).transpose(3, 2, 0, 1))


@pytest.mark.parametrize(("classes", "each"), [(20, 50), (21, 47), (150, 6), (501, 1), (999, 1), (1, 1000)])
def test_fc8_is_averaged_over_neighbours_and_the_rest_is_dropped(vgg16: Weights, classes: int, each: int) -> None:
    converted = segtwin_weights.convert(vgg16, to="fcn8s", num_classes=classes)
    weight, bias = vgg16["fc8/weight"].astype(np.float64), vgg16["fc8/bias"].astype(np.float64)
    assert converted["score_fr/weight"].shape == (classes, 16, 1, 1)
    for i in {0, 1, classes // 2, classes - 1} & set(range(classes)):
        np.testing.assert_allclose(
            converted["score_fr/weight"][i, :, 0, 0], weight[i * each : (i + 1) * each].mean(0), rtol=0, atol=1e-6
        )
        np.testing.assert_allclose(
            converted["score_fr/bias"][i], bias[i * each : (i + 1) * each].mean(), rtol=0, atol=1e-6
        )
    assert converted["score_fr/weight"].dtype == converted["score_fr/bias"].dtype == np.float32


def test_the_rest_starts_as_caffe_starts_it(vgg16: Weights) -> None:
    converted, changes = surgery.convert_with_report(vgg16, "fcn8s", 5, "zeros")
    assert [p.name for p in get_architecture("fcn8s").parameters()] == list(converted)
    for name in ("score_fr", "score_pool4", "score_pool3"):
        assert not converted[f"{name}/weight"].any()
        assert not converted[f"{name}/bias"].any()
    np.testing.assert_array_equal(converted["upscore8/weight"], segtwin.geometry.bilinear_deconvolution(5, 16))
    np.testing.assert_array_equal(converted["conv4_3/weight"], vgg16["conv4_3/weight"])
    np.testing.assert_array_equal(converted["fc7/weight"][:, :, 0, 0], vgg16["fc7/weight"])
    what = {change.blob: change.what for change in changes}
    assert (
        what["conv1_1/weight"],
        what["fc6/weight"],
        what["score_fr/bias"],
        what["upscore2/weight"],
        what["fc8/weight"],
    ) == (
        "copied",
        "reshaped",
        "zero",
        "bilinear",
        "dropped",
    )
    assert converted.metadata["widths"] == list(TINY)
    assert converted.metadata["sha256"] == "0" * 64


@pytest.mark.parametrize("classes", [0, -1, 1000, 1001])
def test_class_counts_out_of_range_are_refused(vgg16: Weights, classes: int) -> None:
    with pytest.raises(WeightsError, match=f"num_classes is {classes};"):
        segtwin_weights.convert(vgg16, to="fcn8s", num_classes=classes)


def test_what_cannot_be_converted_is_refused(vgg16: Weights) -> None:
    with pytest.raises(ValueError, match="no network 'fcn9s'"):
        segtwin_weights.convert(vgg16, to="fcn9s")
    with pytest.raises(ValueError, match="nothing is converted to 'vgg16'"):
        segtwin_weights.convert(vgg16, to="vgg16")
    with pytest.raises(ValueError, match="score_init is"):
        segtwin_weights.convert(vgg16, to="fcn8s", score_init="random")
    with pytest.raises(WeightsError, match="conv3_2/weight"):
        segtwin_weights.convert(Weights({n: b for n, b in vgg16.items() if n != "conv3_2/weight"}), to="fcn8s")
    with pytest.raises(WeightsError, match="another shape, first 'conv1_2/weight'"):
        segtwin_weights.convert(
            Weights(dict(vgg16) | {"conv1_2/weight": np.zeros((4, 3, 3, 3), np.float32)}), to="fcn8s"
        )


def test_safetensors_keep_every_number_and_word(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    blobs = {
        "a/weight": random.standard_normal((2, 3, 1, 1)).astype(np.float32),
        "b/bias": np.zeros(0, np.float32),
        "n": np.array(7, np.int64),
    }
    given = Weights(
        blobs,
        {"architecture": "fcn8s", "classes": ["chat", "chien"], "mean": [1.5, 2, 3], "synthetic": True, "source": "é"},
    )
    segtwin_weights.write(given, tmp_path / "w.safetensors")
    back = segtwin_weights.read(tmp_path / "w.safetensors")
    assert back.metadata == given.metadata
    assert back.fingerprint() == given.fingerprint()
    assert back["n"].dtype == np.int64
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o044, "others may read it, as any file"
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_safetensors_of_others_read(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.ones(2, np.float32)}, tmp_path / "w.bin", {"format": "pt"})
    weights = segtwin_weights.read(tmp_path / "w.bin")
    assert weights.metadata == {"format": "pt"}
    assert list(weights) == ["x"]


def test_damaged_safetensors_are_one_error(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    segtwin_weights.write(Weights({"x": np.arange(100, dtype=np.float32)}), path)
    whole = path.read_bytes()
    header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    hostile = [
        whole[:-1],
        whole[:20],
        whole[:8],
        len(header).to_bytes(8, "little") + header,
        (1 << 62).to_bytes(8, "little") + b"{",
        whole + b"x",
    ]
    for content in hostile:
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"w\.safetensors: "):
            segtwin_weights.read(path)
    segtwin_weights.write(Weights({"x": np.array([1, np.nan], np.float32)}), path)
    with pytest.raises(WeightsError, match="x holds 1 NaN"):
        segtwin_weights.read(path)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    segtwin_weights.write(Weights({"x": np.ones(3, np.float32)}), path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        segtwin_weights.write(Weights({"x": np.ones(3, np.float32)}, {"bad": object()}), path)
    with pytest.raises(WeightsError, match="has to end in"):
        segtwin_weights.write(Weights({}), tmp_path / "w.txt")
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["w.safetensors"]


def test_fingerprints_tell_weights_apart() -> None:
    one = Weights({"a": np.arange(6, dtype=np.float32), "b": np.ones(1)})
    assert one.fingerprint() == Weights({"b": np.ones(1), "a": np.arange(6, dtype=np.float32)}).fingerprint()
    for other in (
        {"a": np.arange(6, dtype=np.float64)},
        {"a": np.arange(6, dtype=np.float32).reshape(2, 3)},
        {"c": np.arange(6, dtype=np.float32)},
    ):
        assert Weights({**other, "b": np.ones(1)}).fingerprint() != one.fingerprint()


def test_dimensions_are_read_off_the_weights() -> None:
    start = segtwin_weights.initialize("fcn8s", num_classes=7, in_channels=4, widths=TINY)
    assert segtwin_weights.dimensions(start, "fcn8s") == (7, 4, TINY)
    with pytest.raises(WeightsError, match=r"not the weights of fcn8s: fc7/weight is missing"):
        segtwin_weights.dimensions(Weights({n: b for n, b in start.items() if "fc7" not in n}), "fcn8s")
    with pytest.raises(WeightsError, match="1 missing, first 'fc7/bias'"):
        segtwin_weights.dimensions(Weights({n: b for n, b in start.items() if n != "fc7/bias"}), "fcn8s")
