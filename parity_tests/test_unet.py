"""The U-Nets against real Caffe and the original torch code, in four engines."""

import math

import keras
import numpy as np
import pytest
import segtwin_keras
import segtwin_torch
import torch
from goldens import LEAST_FLOOR, STATE_DICTS, CaffeGolden, UNetGolden, seed_weights, unet_goldens, unet_paper_goldens
from segtwin import noise, oracle
from segtwin.architectures import get_architecture
from segtwin_weights import Weights, WeightsError, convert, initialize, read, write

from engines import ENGINES, TWINS, exported, keras_engine, model, torch_engine

PAPER = unet_paper_goldens()
SEED = [*unet_goldens("unet_*.npz"), *unet_goldens("unetsmall_*.npz"), *unet_goldens("resnet34_unet_*.npz")]
TABLES = {
    "Unet_3_2": "unet",
    "Unet_1_1": "unet",
    "UnetSmall": "unet-small",
    "resnet34_unet_n1": "resnet34-unet",
    "resnet34_unet_n3": "resnet34-unet",
}
NAMES = ["unet-paper", "unet", "unet-small", "resnet34-unet"]
TINY = (3, 5, 7, 9, 11)


def name_of(engine) -> str:
    return engine.__name__


@pytest.mark.parametrize("golden", PAPER, ids=str)
@pytest.mark.parametrize("engine", ENGINES, ids=name_of)
def test_every_blob_of_the_papers_net_is_caffes(golden: CaffeGolden, engine) -> None:
    blobs = engine(golden.architecture.name, golden.weights, golden.data)
    assert {name: blob.shape for name, blob in blobs.items()} == golden.shapes
    errors = golden.errors(blobs)
    assert max(errors.values()) < 4, errors
    for name, blob in blobs.items():  # the files thin out large blobs; sums cover the rest
        assert np.abs(blob).sum(dtype=np.float64) == pytest.approx(golden.stats[name][1], rel=2e-6), name


@pytest.mark.parametrize("golden", SEED, ids=str)
@pytest.mark.parametrize("engine", ENGINES, ids=name_of)
def test_logits_and_probability_are_the_originals(engine, golden: UNetGolden) -> None:
    """resnet34-unet saturates its sigmoid with these weights; its logits carry the comparison."""
    blobs = engine(golden.architecture.name, golden.weights, golden.data)
    errors = golden.errors(blobs)
    assert max(errors.values()) < 4, errors
    allowed = 4 * golden.floors["logits"] * float(golden.file["logits_absmax"])
    # no sigmoid is steeper than 1/4
    assert np.abs(golden.stored("probability", blobs) - golden.file["out"]).max() < max(allowed / 4, 2.0**-22)
    # of all pixels, where the file thins them out
    for name, key in (("logits", "logits_sum"), ("probability", "out_sum")):
        bound = np.abs(blobs[name]).sum(axis=(2, 3), dtype=np.float64).max() * (2e-6 if name in golden.blobs else 1e-4)
        np.testing.assert_allclose(blobs[name].sum(axis=(2, 3), dtype=np.float64), golden.file[key], rtol=0, atol=bound)


@pytest.mark.parametrize("golden", [golden for golden in SEED if golden.meta.get("stored", "all") == "all"], ids=str)
def test_the_oracle_measures_the_noise_that_the_original_measured(golden: UNetGolden) -> None:
    """The file says how far the original's float32 logits are from its own float64 ones; the numpy
    oracle stands in for the latter."""
    assert oracle.relative_error(golden.truth["logits"], golden.blobs["logits"]) == pytest.approx(
        golden.meta["f32_vs_f64_logits_relerr"], rel=1e-2
    )


@pytest.mark.parametrize("golden", [*PAPER, *(golden for golden in SEED if len(golden.data) == 1)], ids=str)
def test_the_twins_agree_in_float64(golden) -> None:
    torch64 = torch_engine(golden.architecture.name, golden.weights, golden.data, "float64")
    keras64 = keras_engine(golden.architecture.name, golden.weights, golden.data, "float64")
    truth = oracle.run(golden.architecture, golden.weights, golden.data)
    assert list(torch64) == list(keras64) == list(truth) == list(golden.architecture.blobs)
    for name, want in truth.items():
        assert torch64[name].dtype == keras64[name].dtype == np.float64
        assert oracle.relative_error(torch64[name], keras64[name]) < 1e-12, name
        assert oracle.relative_error(torch64[name], want) < 1e-12, name


# ----------------------------------------------------------------------------------------- the rows


def test_the_papers_net_has_the_papers_parameters_and_offsets() -> None:
    architecture = get_architecture("unet-paper")
    assert sum(math.prod(parameter.shape) for parameter in architecture.parameters()) == 31_030_658
    assert (
        dict(architecture.offsets)
        == PAPER[0].offsets
        == {"crop_d3c-d3cc": 4, "crop_d2c-d2cc": 16, "crop_d1c-d1cc": 40, "crop_d0c-d0cc": 88}
    )
    assert architecture.shapes(572, 572)["conv_u0d-score"] == (2, 388, 388)
    tiny = architecture.parameters(2, TINY)
    assert [[parameter.name, list(parameter.shape)] for parameter in tiny] == [
        [name, shape] for name, shape, _ in PAPER[0].parameters
    ]


@pytest.fixture(scope="module")
def full_width() -> tuple[Weights, np.ndarray, dict[str, np.ndarray], dict[str, float]]:
    """The paper's own widths with random biases, an image, every blob in float64, and what float32
    costs numpy there."""
    start, random = initialize("unet-paper", seed=4), np.random.RandomState(4)
    weights = Weights(
        {
            name: blob if blob.ndim > 1 else random.normal(0, 0.1, blob.shape).astype(np.float32)
            for name, blob in start.items()
        }
    )
    image = random.uniform(0, 1, (1, 1, 188, 204)).astype(np.float32)
    architecture = get_architecture("unet-paper")
    truth = oracle.run(architecture, weights, image)
    errors = noise.rounding(architecture, weights, image, truth, orders=(None,))
    floors = {name: max(error, LEAST_FLOOR) for name, error in errors.items()}
    assert max(floors.values()) < 2e-6, "Caffe's own is 1e-6; a floor above would excuse anything"
    return weights, image, truth, floors


@pytest.mark.parametrize("engine", ENGINES, ids=name_of)
def test_the_papers_net_agrees_at_full_width(engine, full_width) -> None:
    """31 million weights. Caffe's goldens are of narrow networks; here the oracle, which they hold
    to Caffe, is the reference."""
    weights, image, truth, floors = full_width
    assert sum(blob.size for blob in weights.values()) == 31_030_658
    blobs = engine("unet-paper", weights, image)
    errors = {name: oracle.relative_error(blobs[name], want) / floors[name] for name, want in truth.items()}
    assert max(errors.values()) < 4, errors


@pytest.mark.parametrize("table", TABLES)
def test_rows_have_the_state_dicts_of_the_original(table: str) -> None:
    architecture = get_architecture(TABLES[table])
    shapes = STATE_DICTS[table]
    *_, classes = (
        shape[0] for name, shape in shapes.items() if name.split(".")[0] in ("conv10", "layer10_conv", "finalconv3")
    )
    channels = next(iter(shapes.values()))[1]
    assert {
        parameter.name: list(parameter.shape) for parameter in architecture.parameters(classes, None, channels)
    } == shapes


@pytest.mark.parametrize("name", NAMES)
def test_models_have_the_shapes_of_their_rows(name: str) -> None:
    architecture = get_architecture(name)
    height, width = architecture.size_least + architecture.size_step, architecture.size_least
    blobs = torch_engine(name, tiny(name), np.zeros((2, architecture.in_channels, height, width), np.float32))
    widths = None if name == "resnet34-unet" else TINY
    assert {blob: array.shape[1:] for blob, array in blobs.items()} == architecture.shapes(height, width, widths=widths)


def tiny(name: str) -> Weights:
    return TINY_WEIGHTS.setdefault(name, initialize(name, widths=None if name == "resnet34-unet" else TINY, seed=7))


TINY_WEIGHTS: dict[str, Weights] = {}


# ------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("framework", TWINS)
@pytest.mark.parametrize("table", ["Unet_3_2", "UnetSmall", "resnet34_unet_n1"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_come_back_bit_for_bit(framework: str, table: str, dtype: str, tmp_path) -> None:
    """Through a safetensors file and a model, statistics and counters included; the integer counter
    keeps its type and its empty shape."""
    given = dict(seed_weights(table, 1))
    counters = [name for name in given if name.endswith("num_batches_tracked")]
    # beyond int32 and float32
    given |= {name: np.array(i, np.int64) for i, name in enumerate(counters, start=100_000_000_000)}
    write(Weights(given), tmp_path / "w.safetensors")
    back = TWINS[framework].read_weights(model(framework, TABLES[table], read(tmp_path / "w.safetensors"), dtype))
    assert back.keys() == given.keys()
    for name, blob in given.items():
        assert back[name].dtype == (np.int64 if name in counters else np.dtype(dtype)), name
        assert back[name].shape == blob.shape, name
        np.testing.assert_array_equal(back[name], blob, err_msg=name)


@pytest.mark.parametrize("framework", TWINS)
def test_a_state_dict_that_does_not_fit_changes_nothing(framework: str) -> None:
    twin = TWINS[framework]
    network = twin.build("unet-small", widths=TINY, seed=1)
    before = twin.read_weights(network).fingerprint()
    good = dict(initialize("unet-small", widths=TINY, seed=2))
    with pytest.raises(KeyError, match=r"1 missing, first 'deconv3.bn1.running_var'"):
        twin.load_weights(
            network, Weights({name: blob for name, blob in good.items() if name != "deconv3.bn1.running_var"})
        )
    with pytest.raises(ValueError, match=r"first 'layer5_conv.conv1.weight'"):
        twin.load_weights(network, Weights({**good, "layer5_conv.conv1.weight": np.zeros((1, 1, 3, 3), np.float32)}))
    assert twin.read_weights(network).fingerprint() == before


# Keras reads the counter, a 0-d tensor, as numpy 2 deprecates
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("framework", TWINS)
def test_frameworks_keep_checkpoints_of_their_own(framework: str, tmp_path) -> None:
    twin, weights = TWINS[framework], tiny("unet-small")
    path = tmp_path / ("w.pth" if framework == "torch" else "w.weights.h5")
    twin.save_checkpoint(model(framework, "unet-small", weights), path)
    other = twin.build("unet-small", widths=TINY, seed=3)
    if framework == "torch":
        other.load_state_dict(torch.load(path, weights_only=True))
    else:
        other.load_weights(path)
    assert twin.read_weights(other).fingerprint() == weights.fingerprint()


@pytest.mark.parametrize("name", NAMES)
def test_twins_start_alike_from_a_seed(name: str) -> None:
    widths = None if name == "resnet34-unet" else TINY
    starts = [twin.read_weights(twin.build(name, widths=widths, seed=5)) for twin in TWINS.values()]
    assert starts[0].fingerprint() == starts[1].fingerprint() == initialize(name, widths=widths, seed=5).fingerprint()
    assert starts[0].fingerprint() != initialize(name, widths=widths, seed=6).fingerprint()


def test_the_papers_net_starts_as_he_asks() -> None:
    """σ = √(2/N), N incoming values: 9·64 in front of the second convolution; one number of each
    channel in front of an up-convolution."""
    start = initialize("unet-paper", seed=1)
    for name, incoming in {
        "conv_d0b-c": 9 * 64,
        "conv_d4a-b": 9 * 512,
        "conv_u0b-c": 9 * 128,
        "upconv_d4c_u3a": 1024,
        "conv_u0d-score": 64,
    }.items():
        drawn = start[f"{name}/weight"]
        # four standard errors of σ
        assert drawn.std() == pytest.approx(math.sqrt(2 / incoming), rel=4 / math.sqrt(2 * drawn.size)), name
        assert not start[f"{name}/bias"].any()


TORCH_LAYERS = {
    "unet": {
        "conv3.conv.3": torch.nn.Conv2d(128, 128, 3),
        "up6": torch.nn.ConvTranspose2d(512, 256, 2),
        "conv9.conv.0": torch.nn.Conv2d(64, 32, 3),
    },
    "resnet34-unet": {
        "decoder4.deconv2": torch.nn.ConvTranspose2d(128, 128, 3),
        "finalconv2": torch.nn.Conv2d(32, 32, 3),
    },
}


@pytest.mark.parametrize("name", TORCH_LAYERS)
def test_the_seeds_nets_start_as_torchs_layers_do(name: str) -> None:
    """Evenly within the bounds that torch's own layers reach; BatchNorm at 1, 0, 0, 1 and 0."""
    start = initialize(name, seed=1)
    for module, layer in TORCH_LAYERS[name].items():
        bound = float(layer.weight.detach().abs().max())
        few = 1 - 20 / layer.weight.numel()  # the largest of n even draws is bound · (1 − 1/n) or so
        for kind, own in layer.named_parameters():
            drawn = np.abs(start[f"{module}.{kind}"])
            assert drawn.max() <= bound / few, (module, kind)
            if own.numel() > 1000:
                assert drawn.max() >= bound * few, (module, kind)
                assert drawn.mean() == pytest.approx(bound / 2, rel=0.05)
            else:
                assert drawn.any(), (module, kind)
    for kind, value in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1, "num_batches_tracked": 0}.items():
        norms = [
            blob
            for blob_name, blob in start.items()
            if blob_name.rsplit(".", 1)[0] + ".running_var" in start and blob_name.endswith(f".{kind}")
        ]
        assert norms
        assert all((blob == value).all() for blob in norms)


@pytest.mark.parametrize("table", ["Unet_3_2", "UnetSmall", "resnet34_unet_n1"])
def test_a_checkpoint_of_the_original_becomes_weights_that_say_what_they_are(table: str, tmp_path) -> None:
    """As torch.save writes it, from DataParallel; and as torch before 0.4.1 wrote it, without
    counters."""
    given, architecture = seed_weights(table, 1), get_architecture(TABLES[table])
    torch.save({f"module.{name}": torch.from_numpy(blob) for name, blob in given.items()}, tmp_path / "w.pth")
    for framework, twin in TWINS.items():
        network = twin.build(architecture.name, num_classes=2 if table == "Unet_3_2" else 1, weights=tmp_path / "w.pth")
        assert twin.read_weights(network).fingerprint() == Weights(given).fingerprint(), framework
    weights = convert(read(tmp_path / "w.pth"), to=architecture.name)
    assert weights.fingerprint() == Weights(given).fingerprint()
    assert weights.metadata["architecture"] == architecture.name
    assert weights.metadata["schema"] == 2
    old = Weights({name: blob for name, blob in given.items() if not name.endswith("num_batches_tracked")})
    assert convert(old, to=architecture.name).keys() == given.keys()
    assert not any(
        blob for name, blob in convert(old, to=architecture.name).items() if name.endswith("num_batches_tracked")
    )
    with pytest.raises(
        WeightsError,
        match=f"num_classes is 5; the weights are those of a {architecture.name} that has "
        f"{2 if table == 'Unet_3_2' else 1}",
    ):
        convert(Weights(given), to=architecture.name, num_classes=5)


def test_an_exported_unet_comes_back() -> None:
    weights = tiny("unet-small")
    for framework in TWINS:
        back = convert(read(exported(framework, "unet-small", weights)), to="unet-small")
        assert {name: blob.tobytes() for name, blob in back.items()} == {
            name: blob.tobytes() for name, blob in weights.items()
        }


@pytest.fixture(scope="module")
def resnet34() -> torch.nn.Module:
    from torchvision.models import resnet34

    torch.manual_seed(0)
    net = resnet34()
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    return net.eval()


def test_torchvisions_resnet34_fills_the_encoder(resnet34) -> None:
    """And computes what torchvision computes, up to layer4."""
    state = Weights(
        {name: tensor.numpy() for name, tensor in resnet34.state_dict().items()}, {"source": "resnet34-b627a593.pth"}
    )
    weights = convert(state, to="resnet34-unet", num_classes=2, seed=1)
    assert weights.metadata["source"] == "resnet34-b627a593.pth"
    assert weights["finalconv3.weight"].shape[0] == 2
    image = np.random.RandomState(0).uniform(-2, 2, (1, 3, 64, 96)).astype(np.float32)
    kept = {}
    for blob, module in {
        "firstmaxpool": "maxpool",
        "e1": "layer1",
        "e2": "layer2",
        "e3": "layer3",
        "e4": "layer4",
    }.items():
        getattr(resnet34, module).register_forward_hook(lambda _, __, top, blob=blob: kept.update({blob: top.numpy()}))
    with torch.inference_mode():
        resnet34(torch.from_numpy(image))
    for engine in (torch_engine, keras_engine):
        blobs = engine("resnet34-unet", weights, image)
        for blob, want in kept.items():
            assert oracle.relative_error(blobs[blob], want) < 5e-6, (engine.__name__, blob)


def test_what_is_no_resnet34_is_refused(resnet34) -> None:
    state = {name: tensor.numpy() for name, tensor in resnet34.state_dict().items()}
    with pytest.raises(WeightsError, match=r"layer4\.2\.bn2\.bias is missing"):
        convert(
            Weights({name: blob for name, blob in state.items() if name != "layer4.2.bn2.bias"}), to="resnet34-unet"
        )
    with pytest.raises(WeightsError, match=r"layer3\.6\.conv1\.weight has no place"):
        convert(Weights({**state, "layer3.6.conv1.weight": state["layer3.5.conv1.weight"]}), to="resnet34-unet")
    with pytest.raises(WeightsError, match="starts from random numbers"):
        convert(Weights(state), to="unet")


# -------------------------------------------------------------------------------- sizes and options

REFUSED = {  # as golden/seed/seed_shape_behaviour.json has them
    "unet": [(50, 64), (15, 16)],
    "unet-small": [(40, 40)],
    "resnet34-unet": [(48, 64), (65, 64)],
    "unet-paper": [(187, 188), (173, 188), (572, 573)],
}


@pytest.mark.parametrize("framework", TWINS)
@pytest.mark.parametrize("name", NAMES)
def test_sizes_that_do_not_fit_are_refused_with_the_nearest_that_do(framework: str, name: str) -> None:
    architecture, network = get_architecture(name), model(framework, name, tiny(name))
    for height, width in REFUSED[name]:
        with pytest.raises(
            ValueError, match=f"{name}: {height}×{width} pixels do not fit; rows and columns are .*, the nearest "
        ) as caught:
            run(framework, network, np.zeros((1, architecture.in_channels, height, width), np.float32))
        message = str(caught.value)
        assert "\n" not in message
        for rows, columns in (size.split("×") for size in message.split("nearest ")[1].split(" or ")):
            architecture.check_size(int(rows), int(columns))
            assert abs(int(rows) - height) < architecture.size_step
            assert abs(int(columns) - width) < architecture.size_step


def run(framework: str, network, data: np.ndarray) -> np.ndarray:
    """The output for N×C×H×W, by calling the model as a user does."""
    if framework == "torch":
        with torch.inference_mode():
            return network(torch.from_numpy(data)).numpy()
    return network(data.transpose(0, 2, 3, 1)).numpy().transpose(0, 3, 1, 2)


PADDED = [
    ("unet", (50, 67)),
    ("unet", (1, 5)),
    ("unet-small", (50, 67)),
    ("unet-small", (64, 32)),
    ("resnet34-unet", (50, 67)),
]


@pytest.mark.parametrize("framework", TWINS)
@pytest.mark.parametrize(("name", "size"), PADDED)
def test_padded_images_are_mirrored_and_cut(framework: str, name: str, size: tuple[int, int]) -> None:
    """The same as the mirrored image itself, cut: the same numbers are computed, whose last bit may
    depend on where they lie in memory."""
    architecture, weights = get_architecture(name), tiny(name)
    data = np.random.RandomState(1).uniform(0, 1, (1, architecture.in_channels, *size)).astype(np.float32)
    padded = data
    for axis, one in enumerate(size, start=2):  # a single architecture has nothing to mirror but itself
        widths = [(0, architecture.legal_size(one) - one) if axis == this else (0, 0) for this in range(4)]
        padded = np.pad(padded, widths, mode="reflect" if one > 1 else "edge")
    twin = TWINS[framework]
    widths = None if name == "resnet34-unet" else TINY
    network = twin.build(name, widths=widths, weights=weights, pad="reflect")
    got = run(framework, network, data)
    assert got.shape[2:] == size
    want = run(framework, model(framework, name, weights), padded)[:, :, : size[0], : size[1]]
    assert oracle.relative_error(got, want) < 4 * 2.0**-23
    blobs = twin.blobs(network, data)
    assert list(blobs) == list(architecture.blobs)
    assert oracle.relative_error(blobs["probability"], got) < 4 * 2.0**-23
    with pytest.raises(ValueError, match="build the model without pad"):
        twin.export_onnx(network, "never.onnx")


def test_strides_and_pools_pad_as_torchs_do() -> None:
    """Each trap by itself, exactly: whole numbers below zero, where a pool that pads with zeros
    shows, which behind a ReLU it would not."""
    from segtwin_keras.unet import PaddedMaxPool, conv, deconv

    x = np.random.RandomState(0).randint(-9, 0, (2, 3, 9, 12)).astype(np.float32)
    weight = np.random.RandomState(1).randint(-3, 4, (3, 3, 3, 3)).astype(np.float32)
    image = keras.Input((None, None, 3))
    kernel = weight.transpose(2, 3, 1, 0)
    cases = {
        "pool": (torch.nn.MaxPool2d(3, stride=2, padding=1), PaddedMaxPool(3, stride=2, pad=1)(image)),
        "conv": (
            torch.nn.Conv2d(3, 3, 3, stride=2, padding=1, bias=False),
            conv(image, 3, "conv", stride=2, bias=False),
        ),
        "deconv": (
            torch.nn.ConvTranspose2d(3, 3, 3, 2, 1, 1),
            deconv(image, 3, "deconv", kernel=3, pad=1, output_pad=1),
        ),
    }
    for name, (theirs, ours) in cases.items():
        network = keras.Model(image, ours)
        if name != "pool":
            theirs.weight.data = torch.from_numpy(weight)
            network.get_layer(name).kernel.assign(kernel)
        if name == "deconv":
            theirs.bias.data.zero_()
        for size in ((9, 12), (8, 12), (1, 2)):  # SAME pads odd and even sizes differently
            part = x[:, :, : size[0], : size[1]]
            want = theirs(torch.from_numpy(part)).detach().numpy()
            np.testing.assert_array_equal(run("keras", network, part), want, err_msg=f"{name} {size}")


@pytest.mark.parametrize("framework", TWINS)
def test_logits_leave_the_sigmoid_off(framework: str) -> None:
    twin, golden = TWINS[framework], next(golden for golden in SEED if golden.path.stem == "unetsmall_1x32x48")
    network = twin.build("unet-small", weights=golden.weights, logits=True)
    logits = run(framework, network, golden.data)
    assert oracle.relative_error(logits, golden.blobs["logits"]) < 4 * golden.floors["logits"]
    blobs = twin.blobs(network, golden.data)
    assert list(blobs) == list(golden.architecture.blobs)[:-1]


@pytest.mark.parametrize("framework", TWINS)
def test_options_that_a_row_has_not_are_refused(framework: str) -> None:
    build = TWINS[framework].build
    with pytest.raises(ValueError, match="unet-small has no dropout"):
        build("unet-small", dropout=0.3)
    build("unet-small", widths=TINY, dropout=0.0)
    with pytest.raises(ValueError, match="unet-paper has no option pad"):
        build("unet-paper", pad="reflect")
    with pytest.raises(ValueError, match="pad is None or 'reflect', not 'edge'"):
        build("unet-small", pad="edge")
    with pytest.raises(ValueError, match="resnet34-unet has no widths"):
        build("resnet34-unet", widths=TINY)


@pytest.mark.parametrize("framework", TWINS)
def test_dropout_ends_the_contracting_path(framework: str) -> None:
    """Half of d3c, before it is pooled and before it is handed across, and half of d4c; nothing in
    inference."""
    weights = tiny("unet-paper")
    data = np.random.RandomState(0).uniform(0, 1, (1, 1, 188, 188)).astype(np.float32)
    if framework == "torch":
        network = segtwin_torch.build("unet-paper", widths=TINY, weights=weights).train()
        blobs: dict = {}
        network(torch.from_numpy(data), blobs)
        blobs = {name: blob.detach().numpy() for name, blob in blobs.items()}
    else:
        network = segtwin_keras.build("unet-paper", widths=TINY, weights=weights)
        wanted = {
            "conv_d2b-c": "conv_d2b-c",
            "conv_d3b-c": "drop_d3c",
            "conv_d4b-c": "drop_d4c",
            "crop_d3c-d3cc": "crop_d3c-d3cc",
        }
        notebook = keras.Model(network.input, {blob: network.get_layer(layer).output for blob, layer in wanted.items()})
        blobs = {
            name: blob.numpy().transpose(0, 3, 1, 2)
            for name, blob in notebook(data.transpose(0, 2, 3, 1), training=True).items()
        }
    still = torch_engine("unet-paper", weights, data)
    np.testing.assert_allclose(blobs["conv_d2b-c"], still["conv_d2b-c"], rtol=1e-5, atol=1e-6)
    d3c, whole = blobs["conv_d3b-c"], still["conv_d3b-c"]
    dropped = (d3c == 0) & (whole > 1e-3)
    assert 0.4 < dropped.sum() / (whole > 1e-3).sum() < 0.6
    np.testing.assert_allclose(d3c[~dropped & (whole > 1e-3)], 2 * whole[~dropped & (whole > 1e-3)], rtol=1e-3)
    np.testing.assert_array_equal(blobs["crop_d3c-d3cc"], d3c[:, :, 4:-4, 4:-4])
    assert (blobs["conv_d4b-c"] == 0).mean() > (still["conv_d4b-c"] == 0).mean() + 0.1


# Keras reads the counter, a 0-d tensor, as numpy 2 deprecates
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_keras_model_survives_its_own_file(tmp_path) -> None:
    network = segtwin_keras.build("resnet34-unet", seed=1, pad="reflect")
    network.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    data = np.random.RandomState(0).uniform(-2, 2, (1, 40, 33, 3)).astype(np.float32)
    np.testing.assert_array_equal(again(data).numpy(), network(data).numpy())


# --------------------------------------------------------------------------------------------- ONNX


@pytest.mark.parametrize("framework", TWINS)
@pytest.mark.parametrize("golden", [next(golden for golden in SEED if str(golden) == "unetsmall_1x32x48")], ids=str)
def test_batchnorm_folds_on_request(framework: str, golden: UNetGolden, tmp_path) -> None:
    import onnx
    from segtwin_engines.onnxruntime import onnx_blobs

    path = tmp_path / "folded.onnx"
    TWINS[framework].export_onnx(model(framework, golden.architecture.name, golden.weights), path, fold_batchnorm=True)
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "BatchNormalization" not in operators
    assert "BatchNormalization" in {
        node.op_type for node in onnx.load(exported(framework, golden.architecture.name, golden.weights)).graph.node
    }
    onnx.checker.check_model(path, full_check=True)
    # one more rounding a weight: 4 floors are for engines that round like the original
    logits = onnx_blobs(path, golden.data, ["logits"])["logits"]
    assert oracle.relative_error(logits, golden.blobs["logits"]) < 8 * golden.floors["logits"]


def test_a_wrong_fold_is_noticed() -> None:
    """Keras' eps in place of torch's; a bias forgotten; a blob that is used twice."""
    from onnx import helper
    from segtwin_torch.export import skeleton
    from segtwin_weights import batchnorm

    architecture = get_architecture("unet-small")
    weights = {name: blob for name, blob in tiny(architecture.name).items() if not name.endswith("num_batches_tracked")}
    graph = skeleton(model("torch", architecture.name, tiny(architecture.name)), 18)
    folded, arrays = batchnorm.fold(graph, weights, architecture)
    # the layers behind it pass less than 1e-5 of it on
    with pytest.raises(ValueError, match=r"moves .* by .* of its maximum; export it unfolded"):
        batchnorm.check(
            graph,
            weights,
            folded,
            arrays | {"deconv2.conv1.bias": 0 * arrays["deconv2.conv1.bias"] + 0.1},
            architecture,
        )
    # eps is nothing beside 1
    weights = {name: blob * 0.01 if name.endswith("running_var") else blob for name, blob in weights.items()}
    folded, arrays = batchnorm.fold(graph, weights, architecture)
    norms = [node for node in graph.graph.node if node.op_type == "BatchNormalization"]
    for node in norms:
        next(one for one in node.attribute if one.name == "epsilon").f = 1e-3
    keras_folded, keras_arrays = batchnorm.fold(graph, weights, architecture)
    with pytest.raises(ValueError, match=r"moves .* by .* of its maximum"):
        batchnorm.check(graph, weights, folded, arrays, architecture)
    assert keras_arrays.keys() == arrays.keys()
    graph.graph.node.append(helper.make_node("Relu", [norms[3].input[0]], ["twice"]))
    with pytest.raises(ValueError, match=r"whose only user it is; there is none here"):
        batchnorm.fold(graph, weights, architecture)
    assert keras_folded.graph.node


@pytest.mark.parametrize("framework", TWINS)
@pytest.mark.parametrize("name", NAMES)
def test_onnx_files_have_the_rows_signature_and_no_detours(framework: str, name: str) -> None:
    import onnx

    weights = {
        "unet": seed_weights("Unet_3_2", 1),
        "unet-small": seed_weights("UnetSmall", 1),
        "resnet34-unet": seed_weights("resnet34_unet_n1", 1),
    }
    path = exported(framework, name, weights.get(name) or PAPER[0].weights)
    onnx.checker.check_model(path, full_check=True)
    graph, architecture = onnx.load(path).graph, get_architecture(name)
    assert [value.name for value in graph.input] == [architecture.input]
    assert [value.name for value in graph.output] == [architecture.output]
    for value in (*graph.input, *graph.output):
        axes = [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        assert axes[0] == "N"
        assert all(isinstance(axis, str) for axis in axes[2:]), "rows and columns are free"
    allowed = {"Conv", "ConvTranspose", "BatchNormalization", "Relu", "MaxPool", "Concat", "Add", "Sigmoid"} | (
        {"Slice"} if name == "unet-paper" else set()
    )
    assert {node.op_type for node in graph.node} <= allowed
    assert sum(node.op_type == "Slice" for node in graph.node) == (4 if name == "unet-paper" else 0)
    parameters = {
        parameter.name for parameter in architecture.parameters() if not parameter.name.endswith("num_batches_tracked")
    }
    assert parameters <= {tensor.name for tensor in graph.initializer}


@pytest.mark.parametrize("framework", TWINS)
def test_logits_are_exported_as_logits(framework: str, tmp_path) -> None:
    import onnx

    network = TWINS[framework].build("unet-small", widths=TINY, weights=tiny("unet-small"), logits=True)
    TWINS[framework].export_onnx(network, tmp_path / "l.onnx")
    graph = onnx.load(tmp_path / "l.onnx").graph
    assert [value.name for value in graph.output] == ["logits"]
    assert "Sigmoid" not in {node.op_type for node in graph.node}
