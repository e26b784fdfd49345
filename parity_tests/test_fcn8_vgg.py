"""fcn8-vgg against the original FCN8VGG of tensorflow-fcn, blob by blob, in four engines."""

import gc

import numpy as np
import pytest
import segtwin_keras
from goldens import LEAST_FLOOR, FCN8VGGGolden, fcn8vgg_golden, fcn8vgg_goldens, vgg16_weights
from segtwin import oracle
from segtwin.architectures import get_architecture
from segtwin_engines.onnxruntime import onnx_blobs
from segtwin_weights import convert, initialize

from engines import (
    ENGINES,
    FOLDER,
    TWINS,
    exported,
    keras_engine,
    made,
    model,
    onnx_of_keras,
    onnx_of_torch,
    torch_engine,
)

GOLDENS = fcn8vgg_goldens()
DILATED = fcn8vgg_golden("tiny_dilated_1x96x128", "fcn8-vgg-dilated")
TINY = (4, 6, 8, 10, 12, 14, 16)


def architecture_of(golden: FCN8VGGGolden) -> str:
    return "fcn8-vgg-dilated" if golden is DILATED else "fcn8-vgg"


@pytest.mark.parametrize("golden", [*GOLDENS, DILATED], ids=str)
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.__name__)
def test_every_blob_is_the_originals(golden: FCN8VGGGolden, engine) -> None:
    """Within 4 noise floors, as real engines stay within about 1.6. pool5 of the dilated net leads
    nowhere: the ONNX files have none."""
    blobs = engine(architecture_of(golden), golden.weights, golden.data)
    if engine in (onnx_of_torch, onnx_of_keras) and golden is DILATED:
        blobs["pool5"] = golden.truth["pool5"]
    errors = golden.errors(blobs)
    assert max(errors.values()) < 4, errors
    if golden is not DILATED:
        np.testing.assert_allclose(
            blobs["upscore32"].sum((2, 3), dtype=np.float64),
            golden.files["upscore32_sum"],
            rtol=0,
            atol=4 * golden.floors["upscore32"] * golden.files["upscore32_absmax"] * blobs["upscore32"][0, 0].size,
        )


@pytest.mark.parametrize("golden", [*GOLDENS, DILATED], ids=str)
def test_the_twins_agree_in_float64(golden: FCN8VGGGolden) -> None:
    torch64 = torch_engine(architecture_of(golden), golden.weights, golden.data, "float64")
    keras64 = keras_engine(architecture_of(golden), golden.weights, golden.data, "float64")
    truth = oracle.run(golden.architecture, golden.weights, golden.data)
    assert list(torch64) == list(keras64) == list(truth) == list(golden.architecture.blobs)
    for name, want in truth.items():
        assert torch64[name].dtype == keras64[name].dtype == want.dtype
        assert oracle.relative_error(torch64[name], keras64[name]) < 1e-12, name
        assert oracle.relative_error(torch64[name], want) < 1e-12, name


@pytest.mark.parametrize("golden", GOLDENS, ids=str)
@pytest.mark.parametrize("engine", [torch_engine, keras_engine], ids=lambda engine: engine.__name__)
def test_pred_and_pred_up_are_the_originals(golden: FCN8VGGGolden, engine) -> None:
    blobs = engine("fcn8-vgg", golden.weights, golden.data)
    np.testing.assert_array_equal(blobs["pred"][:, 0], golden.files["pred"])
    safe = np.ones(blobs["pred_up"].size, bool)
    safe[golden.files["pred_up_unsafe"]] = False
    np.testing.assert_array_equal(blobs["pred_up"].reshape(-1)[safe], golden.files["pred_up"].reshape(-1)[safe])


@pytest.mark.parametrize("golden", [g for g in GOLDENS if "score_fr_weights" in g.files], ids=str)
def test_the_averaged_fc8_is_the_originals_bit_for_bit(golden: FCN8VGGGolden) -> None:
    """20 classes of 50 each, 21 of 47, 150 of 6."""
    weights = convert(vgg16_weights("tiny", 1), "fcn8-vgg", num_classes=golden.meta["num_classes"], seed=1)
    np.testing.assert_array_equal(weights["score_fr/weight"].transpose(2, 3, 1, 0), golden.files["score_fr_weights"])
    np.testing.assert_array_equal(weights["score_fr/bias"], golden.files["score_fr_biases"])


def test_fc8_for_501_classes_is_its_first_501() -> None:
    """1000 // 501 = 1 class each, 499 dropped."""
    vgg16 = vgg16_weights("tiny", 1)
    weights = convert(vgg16, "fcn8-vgg", num_classes=501, seed=1)
    np.testing.assert_array_equal(weights["score_fr/weight"][:, :, 0, 0], vgg16["fc8/weight"][:501])
    np.testing.assert_array_equal(weights["score_fr/bias"], vgg16["fc8/bias"][:501])


@pytest.mark.parametrize("golden", [*GOLDENS, DILATED], ids=str)
@pytest.mark.parametrize("framework", TWINS)
def test_the_regularisation_terms_are_the_originals(golden: FCN8VGGGolden, framework: str) -> None:
    """Both collections, term by term; the bound is 4 times what float32 costs the original, as for
    the blobs."""
    terms = TWINS[framework].regularization_terms(model(framework, architecture_of(golden), golden.weights))
    for collection, stored, names in (
        ("regularization_losses", "reg_losses", "reg"),
        ("fc_wlosses", "fc_wlosses", "fc"),
    ):
        assert set(terms[collection]) == set(golden.meta["loss_names"][names])
        for name, want in zip(golden.meta["loss_names"][names], golden.files[stored], strict=True):
            truth = 5e-4 * (golden.weights[name.replace("weight_loss", "weight")].astype(np.float64) ** 2).sum() / 2
            floor = max(abs(want / truth - 1), LEAST_FLOOR)
            assert floor < 1e-6, name
            got = terms[collection][name]
            assert abs(float(got.detach() if framework == "torch" else got) / want - 1) < 4 * floor, name


def test_random_init_fc8_moves_score_fr_to_the_other_collection_and_starts_it_as_he_does() -> None:
    start = initialize(
        get_architecture("fcn8-vgg").variant({"random_init_fc8": True}),
        num_classes=300,
        widths=(4, 6, 8, 10, 12, 14, 400),
        seed=5,
    )
    assert start.metadata["architecture"] == "fcn8-vgg"
    for layer, sigma in (("score_fr", (2 / 400) ** 0.5), ("score_pool4", 1e-3), ("score_pool3", 1e-4)):
        drawn = start[f"{layer}/weight"] / np.float32(sigma)
        assert np.abs(drawn).max() <= 2.0001  # truncated at two deviations, which leaves a deviation of 0.8796
        assert drawn.std() == pytest.approx(0.8796, rel=3 / np.sqrt(2 * drawn.size))
        assert not start[f"{layer}/bias"].any()
    for twin in TWINS.values():
        network = twin.build("fcn8-vgg", widths=TINY, seed=5, random_init_fc8=True)
        terms = twin.regularization_terms(network)
        assert "score_fr/weight_loss" in terms["regularization_losses"]
        assert "score_fr/weight_loss" not in terms["fc_wlosses"]
        plain = twin.regularization_terms(twin.build("fcn8-vgg", widths=TINY, seed=5))
        assert "score_fr/weight_loss" in plain["fc_wlosses"]
        weights = twin.read_weights(network)
        again = initialize(get_architecture("fcn8-vgg").variant({"random_init_fc8": True}), widths=TINY, seed=5)
        assert weights.fingerprint() == again.fingerprint()
        assert weights["score_fr/weight"].any()
    assert not initialize("fcn8-vgg", widths=TINY, seed=5)["score_fr/weight"].any()
    assert (
        initialize("fcn8-vgg", widths=TINY, seed=6).fingerprint()
        != initialize("fcn8-vgg", widths=TINY, seed=5).fingerprint()
    )


@pytest.mark.parametrize(("height", "width", "fits"), [(67, 91, "96 × 91"), (89, 88, "89 × 96"), (33, 128, "64 × 128")])
def test_sizes_that_use_dilated_cannot_take_are_refused_with_one_that_works(height: int, width: int, fits: str) -> None:
    for twin in TWINS.values():
        network = twin.build("fcn8-vgg", widths=TINY, seed=1, use_dilated=True)
        image = np.zeros((1, 3, height, width), np.float32)
        with pytest.raises(ValueError, match=f"^fcn8-vgg with use_dilated .* not {height} × {width}; pad to {fits}$"):
            twin.blobs(network, image)


def test_the_trained_upsampling_is_trained_and_fcn8s_is_not() -> None:
    torch_net, keras_net = (twin.build("fcn8-vgg", widths=TINY, seed=1) for twin in TWINS.values())
    assert all(parameter.requires_grad for parameter in torch_net.parameters())
    assert not keras_net.non_trainable_variables[2:]  # the two are the seeds of the dropouts
    fixed = segtwin_keras.build("fcn8s", widths=TINY)
    assert {"upscore2", "upscore_pool4", "upscore8"} == {
        layer.name for layer in fixed.layers if layer.weights and not layer.trainable
    }


@pytest.mark.parametrize("framework", TWINS)
def test_dropout_acts_in_training_alone(framework: str) -> None:
    """Elements of fc6 and fc7 fall out one by one, half of them; the rest doubles."""
    golden = fcn8vgg_golden("tiny_c21_1x96x128")
    network = model(framework, "fcn8-vgg", golden.weights)
    if framework == "torch":
        import torch

        torch.manual_seed(1)
        notebook: dict = {}
        with torch.no_grad():
            network.train()(torch.from_numpy(np.ascontiguousarray(golden.data)), notebook)
        network.eval()
        kept = notebook["fc6"].numpy()
    else:
        import keras

        keras.utils.set_random_seed(1)
        reader = keras.Model(network.input, network.get_layer("drop6").output)
        kept = reader(golden.data.transpose(0, 2, 3, 1), training=True).numpy().transpose(0, 3, 1, 2)
    whole = TWINS[framework].blobs(network, golden.data)["fc6"]
    alive = whole > 0
    dropped = (kept == 0) & alive
    assert 0.3 < dropped.sum() / alive.sum() < 0.7
    # training may take another kernel
    np.testing.assert_allclose(kept[alive & ~dropped], 2 * whole[alive & ~dropped], rtol=1e-3)
    channels = dropped.any((0, 2, 3)) & (alive & ~dropped).any((0, 2, 3))
    assert channels.sum() > 2  # not whole channels


@pytest.mark.parametrize("framework", TWINS)
def test_the_onnx_graph_has_no_transpose_and_one_output(framework: str) -> None:
    import onnx

    golden = fcn8vgg_golden("tiny_c21_1x67x91")
    graph = onnx.load(exported(framework, "fcn8-vgg", golden.weights)).graph
    assert [(value.name, len(value.type.tensor_type.shape.dim)) for value in (*graph.input, *graph.output)] == [
        ("image", 4),
        ("upscore32", 4),
    ]
    operators = {node.op_type for node in graph.node}
    assert not operators & {"Transpose", "Where", "Loop", "If"}, operators
    assert {tensor.name for tensor in graph.initializer} >= {"upscore32/weight", "conv1_1/bias"}


def test_the_full_width_at_375_by_500_is_the_originals() -> None:
    """All engines on the network that people run: 134 million weights, 0.7 million pixels."""
    golden = fcn8vgg_golden("full_c21_1x375x500")
    want = golden.files["pred_up"].reshape(-1)
    safe = np.ones(want.size, bool)
    safe[golden.files["pred_up_unsafe"]] = False
    assert golden.floors  # measured before any engine holds its memory
    for framework, twin in TWINS.items():
        network = made(framework, "fcn8-vgg", golden.weights)
        blobs = twin.blobs(network, golden.data)
        assert max(golden.errors(blobs).values()) < 4, golden.errors(blobs)
        np.testing.assert_array_equal(blobs["pred_up"].reshape(-1)[safe], want[safe])
        np.testing.assert_array_equal(blobs["pred"][:, 0], golden.files["pred"])
        path = f"{FOLDER.name}/fcn8-vgg-full.onnx"
        twin.export_onnx(network, path, verify=False)  # it is compared with the original below
        del network, blobs
        gc.collect()
        names = [name for name in golden.architecture.exported if name in golden.files] + ["upscore32"]
        errors = golden.errors(onnx_blobs(path, np.ascontiguousarray(golden.data), names))
        assert max(errors.values()) < 4, errors
