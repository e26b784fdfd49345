"""`segtwin inspect`: what it prints, its checks of silent errors, its differences."""

import numpy as np
import pytest
import segtwin_weights
from goldens import FOLDER, TINY, recipe_weights
from segtwin_cli.inspect import inspect
from segtwin_weights import Weights, plausibility

CAFFEMODEL = FOLDER / "caffe" / "tiny_vgg16_s1_v2.caffemodel"


def smooth_fc6(outputs: int = 300, channels: int = 12) -> np.ndarray:
    """Outputs × channels × 7 × 7 of random hills: neighbouring pixels are alike, channels are not."""
    random = np.random.default_rng(0)
    noise = random.normal(size=(outputs, channels, 9, 9))
    return sum(noise[:, :, i : i + 7, j : j + 7] for i in range(3) for j in range(3)).astype(np.float32)


def run(*arguments) -> int:
    return inspect.main([str(argument) for argument in arguments], standalone_mode=False)


def test_the_order_of_fc6_is_seen_in_its_smoothness() -> None:
    maps = smooth_fc6()
    chw = maps.reshape(len(maps), -1)
    hwc = maps.transpose(0, 2, 3, 1).reshape(len(maps), -1)
    for weight in (chw, maps):
        finding = plausibility.fc6_order(weight)
        assert (finding.says, finding.good) == ("looks CHW", True)
        assert "correlation" in finding.evidence
    assert plausibility.fc6_order(hwc)[1::2] == ("looks HWC", False)
    noise = np.random.default_rng(1).normal(size=chw.shape).astype(np.float32)
    assert plausibility.fc6_order(noise)[1::2] == ("cannot be told", True)
    assert plausibility.fc6_order(np.zeros_like(chw)).says == "cannot be told"
    faint = noise + chw * 0.15  # a fifth of the variance: still seen
    assert plausibility.fc6_order(faint).says == "looks CHW"


def test_the_colours_of_conv1_1_are_oxfords() -> None:
    weight = np.zeros((4, 3, 3, 3), np.float32)
    weight[0, :, 0, 0] = plausibility.OXFORD_BGR
    bgr, rgb = plausibility.OXFORD_INPUTS, plausibility.OXFORD_INPUTS.in_order("RGB")
    assert plausibility.colour_order(weight, bgr)[1::2] == ("looks BGR", True)
    assert plausibility.colour_order(weight[:, ::-1], bgr)[1::2] == ("looks RGB", False)
    assert plausibility.colour_order(weight[:, ::-1], rgb)[1::2] == ("looks RGB", True)
    # of another range
    assert plausibility.colour_order(weight[:, ::-1], plausibility.IMAGENET_RGB)[1::2] == ("looks RGB", False)
    assert plausibility.colour_order(weight + 1, bgr)[1::2] == ("cannot be told", True)
    weight[0, :, 0, 0] = plausibility.TORCHVISION_RGB
    assert plausibility.colour_order(weight, plausibility.IMAGENET_RGB)[1::2] == ("looks RGB", True)
    assert plausibility.colour_order(weight, rgb)[1::2] == ("looks RGB", False)


def test_check_fails_on_a_wrong_order(tmp_path, capsys) -> None:
    weights = dict(recipe_weights("fcn8s", TINY))
    maps = smooth_fc6(14, 12)
    weights["fc6/weight"] = maps
    segtwin_weights.write(Weights(weights), tmp_path / "good.safetensors")
    assert run(tmp_path / "good.safetensors", "--check") == 0
    assert "fc6: looks CHW" in capsys.readouterr().out
    weights["fc6/weight"] = maps.transpose(0, 2, 3, 1).reshape(maps.shape)
    segtwin_weights.write(Weights(weights), tmp_path / "bad.safetensors")
    assert run(tmp_path / "bad.safetensors", "--check") == 1
    assert "fc6: WRONG ORDER: looks HWC" in capsys.readouterr().out


def test_it_prints_blobs_metadata_and_fingerprint(capsys) -> None:
    assert run(CAFFEMODEL) == 0
    out = capsys.readouterr().out
    weights = segtwin_weights.read(CAFFEMODEL)
    for said in (
        "conv1_1/weight",
        "4×3×3×3",
        "float32",
        "blobs: 32, numbers: 17,674",
        "architecture: vgg16",
        f"fingerprint: {weights.fingerprint()}",
    ):
        assert said in out


def test_it_says_what_differs(tmp_path, capsys) -> None:
    """Formats and names do not count: a .pth of the same numbers is equal."""
    weights = segtwin_weights.read(CAFFEMODEL)
    segtwin_weights.write(weights, tmp_path / "same.pth")
    assert run(CAFFEMODEL, "--diff", tmp_path / "same.pth") == 0
    assert "32 blobs, all equal" in capsys.readouterr().out
    changed = {name: blob.copy() for name, blob in weights.items() if name != "fc8/bias"}
    changed["conv1_1/bias"][2] += 0.5
    changed["fc7/weight"] = changed["fc7/weight"][:, :3].copy()
    changed["new/weight"] = np.zeros(3, np.float32)
    segtwin_weights.write(Weights(changed), tmp_path / "other.safetensors")
    assert run(CAFFEMODEL, "--diff", tmp_path / "other.safetensors") == 1
    out = capsys.readouterr().out
    for said in (
        "1 of 4 numbers differ, by at most 0.5",
        "16×14 against 16×3",
        "fc8/bias",
        "only in the first",
        "only in the second",
    ):
        assert said in " ".join(out.split())


def test_a_bad_file_is_one_line() -> None:
    with pytest.raises(segtwin_weights.WeightsError, match="pyproject"):
        run(FOLDER.parent.parent / "pyproject.toml")
