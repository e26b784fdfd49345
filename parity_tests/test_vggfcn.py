"""vggfcn32, vggfcn16 and vggfcn8 against the original torch classes, in four engines."""

import gc
from pathlib import Path

import numpy as np
import pytest
import segtwin_keras
import segtwin_torch
import torch
from goldens import LEAST_FLOOR, TORCH_NOISE, VGGFCNGolden, vggfcn_goldens
from segtwin import oracle
from segtwin.architectures import get_architecture
from segtwin_engines.onnxruntime import onnx_blobs
from segtwin_weights import Weights, initialize, read, write

from engines import ENGINES, FOLDER, TWINS, exported, keras_engine, made, torch_engine

NETWORKS = ["vggfcn32", "vggfcn16", "vggfcn8"]
TINY = (4, 6, 8, 10, 12, 14, 16)
SIZES = {"vggfcn32": [(67, 91), (32, 32)], "vggfcn16": [(67, 70), (33, 47)], "vggfcn8": [(67, 91), (33, 47), (63, 80)]}


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("framework", TWINS)
def test_the_scores_are_the_originals(architecture: str, framework: str) -> None:
    """At the original's full width, which its class fixes; within 4 noise floors, as real engines
    stay within about 1.6."""
    goldens, twin = vggfcn_goldens(architecture), TWINS[framework]
    network = made(framework, architecture, goldens[0].weights)
    for golden in goldens:
        check(golden, twin.blobs(network, golden.data))
    path = Path(FOLDER.name) / "vggfcn.onnx"
    twin.export_onnx(network, path, verify=False)  # it is compared with the original below
    del network
    gc.collect()
    for golden in goldens:
        check(golden, onnx_blobs(path, golden.data, [golden.lowres, "scores"]))


def check(golden: VGGFCNGolden, blobs: dict[str, np.ndarray]) -> None:
    errors = golden.errors(blobs)
    assert max(errors.values()) < 4, (str(golden), errors)
    scores, safe = blobs["scores"], np.ones(golden.files["argmax"].size, bool)
    assert list(scores.shape) == golden.meta["out_shape"]
    safe[golden.files["argmax_unsafe"]] = False
    np.testing.assert_array_equal(scores.argmax(1).reshape(-1)[safe], golden.files["argmax"].reshape(-1)[safe])
    bound = 4 * golden.floors["scores"] * golden.files["out_absmax"] * scores[0, 0].size
    np.testing.assert_allclose(scores.sum((2, 3), dtype=np.float64), golden.files["out_sum"], rtol=0, atol=bound)


@pytest.fixture(scope="module", params=NETWORKS)
def tiny(request: pytest.FixtureRequest) -> tuple[str, Weights]:
    return request.param, initialize(request.param, num_classes=5, widths=TINY, seed=3)


def test_the_twins_agree_blob_by_blob(tiny: tuple[str, Weights]) -> None:
    """In float64 with the oracle; in float32 within 4 of the oracle's own float32 floors. Odd sizes
    make every pad and rounding act."""
    architecture, weights = tiny
    for height, width in SIZES[architecture]:
        data = np.random.default_rng(height).uniform(-2, 2, (2, 3, height, width)).astype(np.float32)
        truth, single = (
            oracle.run(get_architecture(architecture), weights, data),
            oracle.run(get_architecture(architecture), weights, data, "float32"),
        )
        torch64, keras64 = (
            torch_engine(architecture, weights, data, "float64"),
            keras_engine(architecture, weights, data, "float64"),
        )
        assert list(torch64) == list(keras64) == list(truth)
        for name, want in truth.items():
            assert torch64[name].dtype == keras64[name].dtype == np.float64
            assert oracle.relative_error(torch64[name], keras64[name]) < 1e-12, name
            assert oracle.relative_error(torch64[name], want) < 1e-12, name
        floors = {name: max(oracle.relative_error(single[name], want), LEAST_FLOOR) for name, want in truth.items()}
        assert max(floors.values()) < TORCH_NOISE
        for engine in ENGINES:
            blobs = engine(architecture, weights, data)
            errors = {name: oracle.relative_error(blobs[name], want) / floors[name] for name, want in truth.items()}
            assert max(errors.values()) < 4, (engine.__name__, errors)


@pytest.mark.parametrize(("have", "want"), [(1, 1), (1, 7), (2, 67), (4, 33), (5, 5), (9, 2), (3, 1)])
def test_resizing_aligns_the_corners(have: int, want: int) -> None:
    """Each twin's own resize, also to one pixel and to fewer, is numpy's linear interpolation
    between aligned corners."""
    from segtwin_keras.vggfcn import Resize
    from segtwin_torch.vggfcn import resize

    x = np.random.default_rng(have).normal(size=(1, 2, have, 3))
    truth = np.empty((1, 2, want, 5))
    for channel in range(2):
        rows = np.stack(
            [np.interp(np.linspace(0, have - 1, want), range(have), x[0, channel, :, j]) for j in range(3)], 1
        )
        truth[0, channel] = np.stack([np.interp(np.linspace(0, 2, 5), range(3), architecture) for architecture in rows])
    like = np.zeros((1, 1, want, 5))
    np.testing.assert_allclose(resize(torch.from_numpy(x), torch.from_numpy(like)), truth, rtol=0, atol=1e-12)
    last = lambda array: array.transpose(0, 2, 3, 1)  # noqa: E731
    np.testing.assert_allclose(
        np.asarray(Resize(dtype="float64")(last(x), last(like))), last(truth), rtol=0, atol=1e-12
    )
    single = Resize()(last(x).astype(np.float32), last(like).astype(np.float32))
    np.testing.assert_allclose(np.asarray(single), last(truth), rtol=0, atol=4e-6)


def test_a_state_dict_of_the_original_classes_loads_and_comes_back(tiny: tuple[str, Weights], tmp_path) -> None:
    """Of the keys that share storage the later one wins, and both return its value; what computes
    nothing is kept."""
    architecture, weights = tiny
    shared = {"vgg16.classifier.0.weight": "classifier.0.weight", "vgg16.classifier.3.weight": "classifier.3.weight"}
    stale = {key: np.full_like(weights[key], 7) for key in shared}
    write(Weights({**weights, **stale}), tmp_path / "state.safetensors")
    given = read(tmp_path / "state.safetensors")
    for twin in TWINS.values():
        network = twin.build(architecture, num_classes=5, widths=TINY, weights=given)
        back = twin.read_weights(network)
        assert set(back) == set(weights)
        for key in weights:
            np.testing.assert_array_equal(back[key], weights[key] if key in shared else given[key])
        for key, owner in shared.items():
            np.testing.assert_array_equal(back[key], given[owner].reshape(back[key].shape))
    network = segtwin_torch.build(architecture, num_classes=5, widths=TINY, weights=weights)
    assert list(network.state_dict()) == list(weights)
    network.double().float()
    state = network.state_dict()
    for key, owner in shared.items():
        assert state[key].data_ptr() == state[owner].data_ptr()
    network.load_state_dict({key: torch.tensor(blob) for key, blob in {**weights, **stale}.items()})
    np.testing.assert_array_equal(
        network.state_dict()["vgg16.classifier.0.weight"].numpy(), weights["vgg16.classifier.0.weight"]
    )


def test_a_new_network_starts_as_torch_starts_it(tiny: tuple[str, Weights]) -> None:
    architecture, _ = tiny
    start = initialize(architecture, num_classes=5, widths=(64, 64, 64, 64, 64, 64, 64), seed=9)
    twins = [
        twin.read_weights(twin.build(architecture, num_classes=5, widths=TINY, seed=9)).fingerprint()
        for twin in TWINS.values()
    ]
    assert twins == [initialize(architecture, num_classes=5, widths=TINY, seed=9).fingerprint()] * 2
    he = start["vgg16.features.28.weight"]
    assert he.std() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
    assert not start["vgg16.features.28.bias"].any()
    np.testing.assert_array_equal(start["classifier.0.weight"].reshape(64, -1), start["vgg16.classifier.0.weight"])
    assert start["classifier.0.weight"].std() == pytest.approx(0.01, rel=0.02)
    for key, fan_in in {
        "classifier.6.weight": 64,
        "classifier.0.bias": 64 * 49,
        "score4.weight": 64,
        "upscale5.weight": 5 * 4,
    }.items():
        if key in start:
            reference = torch.nn.ConvTranspose2d(5, 5, 2, 2).weight if key.startswith("upscale") else None
            assert np.abs(start[key]).max() <= fan_in**-0.5
            assert start[key].std() == pytest.approx(fan_in**-0.5 / 3**0.5, rel=0.25)
            assert reference is None or float(reference.detach().abs().max()) <= fan_in**-0.5


def test_sizes_the_originals_reject_are_refused_with_one_that_works() -> None:
    refused = [
        ("vggfcn16", 67, 91, r"^vggfcn16 takes sizes with .* not 67 × 91; pad to 67 × 96$"),
        ("vggfcn16", 48, 31, r"too small, pool5 would be empty; pad to 48 × 32$"),
        ("vggfcn32", 31, 64, r"^vggfcn32.*31 × 64 is too small, pool5 would be empty; pad to 32 × 64$"),
        ("vggfcn8", 64, 7, "pad to 64 × 32$"),
    ]
    for architecture, height, width, message in refused:
        with pytest.raises(ValueError, match=message):
            segtwin_torch.build(architecture, num_classes=2, widths=TINY, seed=1)(torch.zeros(1, 3, height, width))
        with pytest.raises(ValueError, match=message):
            segtwin_keras.blobs(
                segtwin_keras.build(architecture, num_classes=2, widths=TINY, seed=1),
                np.zeros((1, 3, height, width), np.float32),
            )
    for twin in TWINS.values():
        with pytest.raises(ValueError, match=r"^vggfcn takes images of 3 channels"):
            twin.build("vggfcn32", in_channels=1, widths=TINY, seed=1)
        for architecture, height, width in (("vggfcn16", 67, 96), ("vggfcn32", 33, 47), ("vggfcn8", 33, 47)):
            network = twin.build(architecture, num_classes=2, widths=TINY, seed=1)
            twin.blobs(network, np.zeros((1, 3, height, width), np.float32))


def test_the_onnx_graphs_resize_once_and_carry_nothing_idle(tiny: tuple[str, Weights]) -> None:
    import onnx

    architecture, weights = tiny
    for framework in TWINS:
        graph = onnx.load(exported(framework, architecture, weights)).graph
        assert (graph.input[0].name, [output.name for output in graph.output]) == ("image", ["scores"])
        resizes = [node for node in graph.node if node.op_type == "Resize"]
        assert [
            next(a.s for a in node.attribute if a.name == "coordinate_transformation_mode") for node in resizes
        ] == [b"align_corners"]
        held = {tensor.name for tensor in graph.initializer}
        assert not held & set(get_architecture(architecture).idle)
        assert held >= set(weights) - set(get_architecture(architecture).idle)
        assert "Transpose" not in {node.op_type for node in graph.node}
