"""Net surgery between FCNs: what is copied, what is new, and that it computes what it should."""

import numpy as np
import pytest
import segtwin_keras
import segtwin_torch
from goldens import TINY, recipe_weights, vgg16_weights
from segtwin import geometry
from segtwin.architectures import list_architectures
from segtwin_weights import Weights, WeightsError, convert, initialize
from segtwin_weights.surgery import convert_with_report


@pytest.fixture(scope="module")
def fcn32s() -> Weights:
    return recipe_weights("fcn32s", TINY)


def kinds(changes) -> dict[str, set[str]]:
    """What happened → to which blobs that are no plain copies."""
    table: dict[str, set[str]] = {}
    for change in changes:
        if change.what != "copied":
            table.setdefault(change.what, set()).add(change.blob)
    return table


def test_each_net_starts_from_the_one_before(fcn32s: Weights) -> None:
    """32s → 16s → 8s → at once, the tables in full: the originals are trained in these stages."""
    fcn16s, changes = convert_with_report(fcn32s, "fcn16s")
    assert kinds(changes) == {
        "bilinear": {"upscore2/weight", "upscore16/weight"},
        "zero": {"score_pool4/weight", "score_pool4/bias"},
        "dropped": {"upscore/weight"},
    }
    for name in ("conv1_1/weight", "fc6/weight", "score_fr/weight", "score_fr/bias"):
        np.testing.assert_array_equal(fcn16s[name], fcn32s[name])
    np.testing.assert_array_equal(fcn16s["upscore16/weight"], geometry.bilinear_deconvolution(21, 32))

    trained = Weights(
        {**fcn16s, "score_pool4/weight": np.full_like(fcn16s["score_pool4/weight"], 0.5)}, fcn16s.metadata
    )
    fcn8s, changes = convert_with_report(trained, "fcn8s")
    assert kinds(changes) == {
        "bilinear": {"upscore_pool4/weight", "upscore8/weight"},
        "zero": {"score_pool3/weight", "score_pool3/bias"},
        "dropped": {"upscore16/weight"},
    }
    np.testing.assert_array_equal(fcn8s["score_pool4/weight"], 0.5)

    at_once, changes = convert_with_report(fcn8s, "fcn8s-atonce")
    assert kinds(changes) == {"constant": {"scale_pool4/weight", "scale_pool3/weight"}}
    np.testing.assert_array_equal(at_once["scale_pool4/weight"], np.float32(0.01))
    np.testing.assert_array_equal(at_once["scale_pool3/weight"], np.float32(0.0001))
    assert at_once["scale_pool4/weight"].shape == (10,)
    assert at_once["scale_pool3/weight"].shape == (8,)
    assert [at_once.metadata[key] for key in ("architecture", "num_classes", "widths")] == [
        "fcn8s-atonce",
        21,
        list(TINY),
    ]
    assert "classes" in at_once.metadata


def test_a_new_skip_changes_nothing_before_it_is_trained(fcn32s: Weights) -> None:
    """The new score layer is zero, so fcn16s computes fcn32s' scores, upsampled in two steps; where
    both crop, the coarse scores are equal."""
    data = np.random.default_rng(1).uniform(-100, 100, (1, 3, 40, 50)).astype(np.float32)
    before = segtwin_torch.blobs(segtwin_torch.build("fcn32s", widths=TINY, weights=fcn32s), data)
    after = segtwin_torch.blobs(segtwin_torch.build("fcn16s", widths=TINY, weights=convert(fcn32s, "fcn16s")), data)
    np.testing.assert_array_equal(after["score_fr"], before["score_fr"])
    np.testing.assert_array_equal(after["fuse_pool4"], after["upscore2"])


def test_more_classes_begin_with_the_old_ones(fcn32s: Weights) -> None:
    """`expand_score`: the old classes keep their scores, the new ones start at zero."""
    larger, changes = convert_with_report(fcn32s, "fcn32s", num_classes=30)
    assert kinds(changes) == {
        "expanded": {"score_fr/weight", "score_fr/bias"},
        "bilinear": {"upscore/weight"},
        "dropped": {"upscore/weight"},
    }
    for kind in ("weight", "bias"):
        np.testing.assert_array_equal(larger[f"score_fr/{kind}"][:21], fcn32s[f"score_fr/{kind}"])
        assert not larger[f"score_fr/{kind}"][21:].any()
    assert "classes" not in larger.metadata
    data = np.random.default_rng(2).uniform(-100, 100, (1, 3, 9, 20)).astype(np.float32)
    old = segtwin_keras.blobs(segtwin_keras.build("fcn32s", widths=TINY, weights=fcn32s), data)["score"]
    new = segtwin_keras.blobs(segtwin_keras.build("fcn32s", num_classes=30, widths=TINY, weights=larger), data)["score"]
    np.testing.assert_allclose(new[:, :21], old, rtol=0, atol=1e-5 * np.abs(old).max())
    assert not new[:, 21:].any()


def test_what_cannot_be_made_is_said(fcn32s: Weights) -> None:
    refused = [
        (fcn32s, "fcn16s", {"num_classes": 20}, WeightsError, "score 21 classes, which can become more, not fewer"),
        (fcn32s, "fcn8-vgg", {}, WeightsError, "fcn8-vgg does not start from fcn32s"),
        (fcn32s, "fcn32s", {"num_classes": 0}, WeightsError, "at least 1 class"),
        (fcn32s, "vggfcn32", {}, ValueError, "nothing is converted to 'vggfcn32'"),
        (vgg16_weights("tiny", 1), "fcn8s", {"score_init": "random"}, ValueError, "random_init_fc8"),
        (vgg16_weights("tiny", 1), "fcn8-vgg", {"num_classes": 1000}, WeightsError, "fewer than its 1000 classes"),
        (
            Weights({k: v for k, v in fcn32s.items() if k != "fc6/bias"}, fcn32s.metadata),
            "fcn16s",
            {},
            WeightsError,
            "1 missing, first 'fc6/bias'",
        ),
        (
            Weights({**fcn32s, "fc7/bias": np.zeros(3, np.float32)}),
            "fcn16s",
            {},
            WeightsError,
            "first 'fc7/bias': \\(3,\\) given",
        ),
    ]
    for weights, to, options, error, message in refused:
        with pytest.raises(error, match=message):
            convert(weights, to, **options)


def test_fcn8_vgg_starts_its_score_layers_at_random_from_a_seed() -> None:
    vgg16 = vgg16_weights("tiny", 1)
    weights, changes = convert_with_report(vgg16, "fcn8-vgg", seed=7)
    assert kinds(changes)["drawn"] == {"score_pool4/weight", "score_pool3/weight"}
    assert kinds(changes)["averaged"] == {"score_fr/weight", "score_fr/bias"}
    assert (
        convert(vgg16, "fcn8-vgg", seed=7).fingerprint()
        == weights.fingerprint()
        != convert(vgg16, "fcn8-vgg", seed=8).fingerprint()
    )
    np.testing.assert_array_equal(
        weights["score_pool4/weight"], initialize("fcn8-vgg", widths=TINY, seed=7)["score_pool4/weight"]
    )
    drawn, changes = convert_with_report(vgg16, "fcn8-vgg", score_init="random", seed=7)
    assert "score_fr/weight" in kinds(changes)["drawn"]
    assert np.abs(drawn["score_fr/weight"]).max() <= 2 * (2 / TINY[-1]) ** 0.5 * (1 + 1e-6)


def test_a_checkpoint_of_another_row_is_refused_and_changes_nothing(fcn32s: Weights) -> None:
    for twin in (segtwin_torch, segtwin_keras):
        model = twin.build("fcn8s-atonce", widths=TINY)
        before = twin.read_weights(model).fingerprint()
        with pytest.raises(
            KeyError, match="9 missing, first 'scale_pool3/weight'; 1 not expected, first 'upscore/weight'"
        ):
            twin.load_weights(model, fcn32s)
        assert twin.read_weights(model).fingerprint() == before
        with pytest.raises(TypeError, match=r"has no argument 'dilated'; did you mean use_dilated\?"):
            twin.build("fcn8-vgg", widths=TINY, dilated=True)
        with pytest.raises(ValueError, match="exclude each other"):
            twin.build("fcn8-vgg", widths=TINY, use_dilated=True, random_init_fc8=True)
        with pytest.raises(ValueError, match="fcn32s has no option use_dilated"):
            twin.build("fcn32s", widths=TINY, use_dilated=True)
    assert set(list_architectures()) == set(segtwin_torch.list_networks()) == set(segtwin_keras.list_networks())
