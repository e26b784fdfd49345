"""The U-Nets of other repositories: tables, sizes, checkpoints, SegNet's unpooling, heads."""

import json
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
import segtwin
import segtwin_engines
import segtwin_torch
import segtwin_weights
import torch
from goldens import FOLDER, ZOO_KEYS, ZOO_NETS
from segtwin import oracle
from segtwin.architectures import get_architecture
from segtwin.data.stream import Batch
from segtwin.errors import ArchitectureError, WeightsError
from segtwin.recipe import Recipe
from segtwin_weights import Weights, convert, read
from zoo import NAMES

from engines import TWINS

FACTS = json.loads((FOLDER / "zoo" / "zoo_facts.json").read_text())
SIZES = json.loads((FOLDER / "zoo" / "zoo_sizes.json").read_text())
LABELS = {ours: label for label, ours in ZOO_NETS.items()}


# ------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("table", ZOO_KEYS)
def test_rows_have_the_state_dicts_of_the_original(table: str) -> None:
    label, channels, classes = table.rsplit("_", 2)
    architecture = get_architecture(ZOO_NETS[label])
    found = {p.name: list(p.shape) for p in architecture.parameters(int(classes), None, int(channels))}
    assert found == ZOO_KEYS[table]
    if table == f"{label}_3_{21 if 'bubbliiiing' in label else 2}":  # the first public case, of which the facts are
        learned = [name for name in found if "running" not in name and not name.endswith("num_batches_tracked")]
        assert sum(int(np.prod(found[name])) for name in learned) == FACTS[label]["parameters"]


@pytest.mark.parametrize("name", NAMES)
def test_the_sizes_that_the_original_takes_are_taken(name: str) -> None:
    """And no others, but where the original fails late on sizes that are illegal here."""
    architecture, told = get_architecture(name), SIZES[LABELS[name]]
    works = set(numbers(told["works"]))
    width = architecture.legal_size(told["width"])
    for size in numbers(told["heights_tried"]):
        if size in works:
            architecture.check_size(size, width)
            continue
        with pytest.raises(ArchitectureError, match="the nearest"):
            architecture.check_size(size, width)


def numbers(ranges: list[str]) -> list[int]:
    """1, 3, 4, 5 of ["1", "3-5"]."""
    found: list[int] = []
    for one in ranges:
        first, _, last = one.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


# ------------------------------------------------------------------------------------------ weights


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Network → a narrow checkpoint as the original saves it: a state_dict, of milesial's with `mask_values`."""
    folder, found = tmp_path_factory.mktemp("checkpoints"), {}
    for name in NAMES:
        architecture = get_architecture(name)
        widths = (4, 6, 8, 10, 12) if architecture.widths else None
        if architecture.widths:
            weights = segtwin_weights.initialize(name, widths=widths, num_classes=3, seed=1)
            state = {key: torch.from_numpy(blob) for key, blob in weights.items()}
            found[name] = folder / f"{name}.pth"
            torch.save(state | ({"mask_values": [0, 255]} if "milesial" in name else {}), found[name])
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if get_architecture(name).widths])
def test_a_checkpoint_of_the_original_is_told_by_its_keys(name: str, checkpoints: dict[str, Path]) -> None:
    models = [twin.load(checkpoints[name]) for twin in TWINS.values()]
    want = read(checkpoints[name])
    for twin, model in zip(TWINS.values(), models, strict=True):
        assert model.architecture.name == name
        assert twin.read_weights(model).fingerprint() == want.fingerprint()
        assert (model.architecture.name, segtwin_weights.dimensions(want, name).num_classes) == (name, 3)
        assert segtwin_weights.dimensions(want, name).widths == (4, 6, 8, 10, 12)


def test_two_networks_of_the_same_names_are_told_by_their_shapes(checkpoints: dict[str, Path]) -> None:
    keys = [set(read(checkpoints[name])) for name in ("fcn8s-unetzoo", "fcn32s-unetzoo")]
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("one", "other"), [("r2unet", "r2unet-nests"), ("attention-unet", "attention-unet-unetzoo"), ("unet-64", "unet")]
)
def test_weights_of_a_twin_by_shape_are_refused(one: str, other: str, checkpoints: dict[str, Path]) -> None:
    """They would load under other names, and compute something else."""
    for twin in TWINS.values():
        with pytest.raises((WeightsError, KeyError, ValueError)) as caught:
            twin.build(other, weights=checkpoints[one])
        assert "missing" in str(caught.value)


@pytest.mark.parametrize("twin", TWINS.values())
def test_bilinear_is_an_option_and_what_weights_say(twin, checkpoints: dict[str, Path]) -> None:
    plain, bilinear = checkpoints["unet-milesial"], checkpoints["unet-milesial-bilinear"]
    assert twin.build("unet-milesial", bilinear=True, seed=1).architecture.name == "unet-milesial-bilinear"
    assert twin.build("unet-milesial", weights=bilinear).architecture.name == "unet-milesial-bilinear"
    assert twin.build("unet-milesial", weights=plain).architecture.name == "unet-milesial"
    for said, weights, name in ((True, plain, "unet-milesial"), (False, bilinear, "unet-milesial-bilinear")):
        words = f"unet-milesial with bilinear={said}: {name}.pth holds a {name}$"
        with pytest.raises(ArchitectureError, match=words):
            twin.build("unet-milesial", bilinear=said, weights=weights)
    assert twin.build("unet-milesial-bilinear", bilinear=True, seed=1).architecture.name == "unet-milesial-bilinear"
    with pytest.raises(ArchitectureError, match="bilinear=False: it is the bilinear one"):
        twin.build("unet-milesial-bilinear", bilinear=False)
    with pytest.raises(ArchitectureError, match="unet-64 has no option bilinear"):
        twin.build("unet-64", bilinear=True)
    with pytest.raises(TypeError, match="bilinear is True or False"):
        twin.build("unet-milesial", bilinear="yes")


def test_what_is_nearly_a_network_is_said(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    state = torch.load(checkpoints["unet-milesial"], weights_only=True)
    state.pop("mask_values")
    lacking = {key: one for key, one in state.items() if not key.startswith("outc")} | {"gate.weight": torch.zeros(3)}
    torch.save(lacking, tmp_path / "near.pth")
    with pytest.raises(WeightsError, match=r"nearest is unet-milesial: 1 weights more \(gate\.weight\) and 2 weights"):
        segtwin_torch.load(tmp_path / "near.pth")
    torch.save(state | {"gate.weight": torch.zeros(3)}, tmp_path / "more.pth")
    with pytest.warns(UserWarning, match=r"left aside: 1 tensors that are no part of it \(gate\.weight\)"):
        assert segtwin_torch.load(tmp_path / "more.pth").architecture.name == "unet-milesial"


@pytest.mark.parametrize(("name", "encoder"), [("resnet50-unet", "resnet50"), ("ce-net", "resnet34")])
def test_torchvisions_resnets_fill_encoders(name: str, encoder: str) -> None:
    """The first stage is torchvision's; of resnet50-unet what comes behind its other pooling is not, which is said."""
    import torchvision

    torch.manual_seed(0)
    classifier = getattr(torchvision.models, encoder)().eval()
    state = Weights({key: tensor.numpy() for key, tensor in classifier.state_dict().items()})
    differs = encoder == "resnet50"
    with pytest.warns(segtwin.Converted, match="its first pooling is not padded") if differs else nullcontext():
        weights = convert(state, to=name, num_classes=2, seed=1)
    image = np.random.RandomState(0).uniform(-2, 2, (1, 3, 192, 192)).astype(np.float32)
    blobs = segtwin_torch.blobs(segtwin_torch.build(name, weights=weights), image)
    with torch.inference_mode():
        first = classifier.relu(classifier.bn1(classifier.conv1(torch.from_numpy(image))))
        second = classifier.layer1(classifier.maxpool(first)).numpy()
    ours = ("feat1", "feat2") if differs else ("firstrelu", "e1")
    assert oracle.relative_error(blobs[ours[0]], first.numpy()) < 5e-6
    assert (oracle.relative_error(blobs[ours[1]], second) < 5e-6) != differs


@pytest.mark.parametrize("name", ["vgg16-unet", "fcn8s-unetzoo", "fcn32s-unetzoo"])
def test_vgg16_fills_encoders(name: str) -> None:
    """torchvision's as it is; Oxford's, in BGR, with a conv1_1 for the network's inputs."""
    architecture = get_architecture(name)
    oxford = segtwin_weights.initialize("vgg16", seed=1)
    random = np.random.default_rng(2)
    blobs = {key: random.uniform(-0.1, 0.1, blob.shape).astype(np.float32) for key, blob in oxford.items()}
    stated = {"preprocessing": segtwin.Preprocessing("BGR", (104, 117, 123)).asdict()}
    given = convert(Weights(blobs, stated), to=name, num_classes=3, seed=1)
    prefix = "vgg.features" if name == "vgg16-unet" else "pretrained_net.features"
    np.testing.assert_array_equal(given[f"{prefix}.28.weight"], blobs["conv5_3/weight"])
    assert given[f"{prefix}.0.weight"].shape == blobs["conv1_1/weight"].shape
    image = random.integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    theirs = segtwin.preprocess(image[0], segtwin.Preprocessing("BGR", (104, 117, 123)))
    ours = segtwin.preprocess(image[0], architecture.preprocessing)
    first, second = (
        torch.nn.functional.conv2d(torch.from_numpy(np.asarray(data)), torch.from_numpy(w), torch.from_numpy(b))
        for data, w, b in (
            (theirs, blobs["conv1_1/weight"], blobs["conv1_1/bias"]),
            (ours, given[f"{prefix}.0.weight"], given[f"{prefix}.0.bias"]),
        )
    )
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-3)
    with pytest.raises(WeightsError, match="conv5_3/weight is missing"):
        convert(Weights({key: one for key, one in blobs.items() if key != "conv5_3/weight"}), to=name)


def test_a_mask_of_another_size_is_not_made(tmp_path: Path) -> None:
    """Sizes that the original takes and answers in another size: the image is mirrored, or refused with a word."""
    weights = segtwin_weights.initialize("resnet50-unet", num_classes=2, seed=1)
    engine = segtwin_engines.load(segtwin_torch.build("resnet50-unet", weights=weights))
    data = np.random.default_rng(1).random((1, 3, 63, 31), np.float32)
    with pytest.raises(
        ValueError, match=r"makes scores of another size; the next .* is 64×32 \(or add --pad reflect\)"
    ):
        engine.probabilities(data, None, None, always=True)
    assert engine.probabilities(data, "reflect", None, always=True).shape == (2, 63, 31)


# ------------------------------------------------------------------------------------------ SegNet


@pytest.mark.parametrize("twin", ["torch", "keras"])
def test_unpooling_is_torchs_on_one_thread(twin: str) -> None:
    """Forward with ties, overlapping windows and places that are written twice; backward as torch's own."""
    random = np.random.default_rng(3)
    like = random.integers(0, 3, (2, 3, 7, 8)).astype(np.float32)  # many ties
    x, above = random.standard_normal((2, 3, 6, 7)).astype(np.float32), random.standard_normal(like.shape).astype("f4")
    leaf = torch.from_numpy(x).requires_grad_()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _, indices = torch.nn.functional.max_pool2d(torch.from_numpy(like), 2, 1, return_indices=True)
        assert len(np.unique(indices[0, 0])) < indices[0, 0].numel(), "no place is written twice"
        want = torch.nn.functional.max_unpool2d(leaf, indices, 2, 1)
        want.backward(torch.from_numpy(above))
    finally:
        torch.set_num_threads(threads)
    layer = next(one for one in get_architecture("segnet").layers if one.kind == "Unpooling")
    np.testing.assert_array_equal(oracle.unpooling(layer, None, [x, like], []), want.detach().numpy())
    if twin == "torch":
        from segtwin_torch.unet_zoo import max_unpool

        own = torch.from_numpy(x).requires_grad_()
        got = max_unpool(own, torch.from_numpy(like))
        got.backward(torch.from_numpy(above))
        got, slope = got.detach().numpy(), own.grad.numpy()
        plain = max_unpool(torch.from_numpy(x), torch.from_numpy(like)).numpy()
        np.testing.assert_array_equal(plain, got)
    else:
        from segtwin_keras.unet_zoo import MaxUnpool

        import tensorflow as tf

        own = tf.constant(x.transpose(0, 2, 3, 1))
        with tf.GradientTape() as tape:
            tape.watch(own)
            result = MaxUnpool()(own, tf.constant(like.transpose(0, 2, 3, 1)))
        slope = tape.gradient(result, own, tf.constant(above.transpose(0, 2, 3, 1))).numpy().transpose(0, 3, 1, 2)
        got = result.numpy().transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(got, want.detach().numpy())
    np.testing.assert_array_equal(slope, leaf.grad.numpy())


# ------------------------------------------------------------------------------------------ heads


@pytest.mark.parametrize("framework", TWINS)
def test_the_losses_of_four_heads_are_averaged(framework: str) -> None:
    """One step of plain gradient descent moves the bias of each head by a quarter of its own loss's gradient."""
    name, widths = "nested-unet-4heads", (2, 3, 4, 5, 6)
    recipe = Recipe(network=name, widths=widths, loss="bce", optimizer="caffe-sgd", momentum=0.0, weight_decay=0.0)
    start = segtwin_weights.initialize(name, widths=widths, seed=1)
    random = np.random.default_rng(1)
    data = random.standard_normal((2, 3, 32, 32)).astype(np.float32)
    label = random.integers(0, 2, (2, 1, 32, 32)).astype(np.uint8)
    model = TWINS[framework].build(name, weights=start, logits=True)
    learner = import_module(f"{TWINS[framework].__name__}.train").Learner(model, recipe)
    learner.step(0, [Batch(data, label, None, ("a", "b"))], 1.0)
    after = TWINS[framework].read_weights(model)
    notebook: dict[str, torch.Tensor] = {}
    segtwin_torch.build(name, weights=start, logits=True).train()(torch.from_numpy(data), notebook)
    for number, blob in enumerate(get_architecture(name).heads, start=1):
        slope = (torch.sigmoid(notebook[blob]).detach().numpy() - label).mean() / 4
        moved = (start[f"final{number}.bias"] - after[f"final{number}.bias"]).item()
        assert abs(slope) > 1e-3
        assert moved == pytest.approx(slope, rel=1e-4), number


def test_what_an_onnx_output_is_follows_its_name_and_the_number_of_classes(tmp_path: Path) -> None:
    """Logits of one class go through a sigmoid, of several through a softmax; a user's graph is taken at its word."""
    for classes, kind in ((1, "logits"), (2, "score")):
        model = segtwin_torch.build("unet-64", widths=(2, 3, 4, 5, 6), num_classes=classes, seed=1)
        segtwin_torch.export_onnx(model, tmp_path / f"{classes}.onnx", verify=False)
        assert segtwin_engines.load(tmp_path / f"{classes}.onnx", say=print).output == kind
    fcn = segtwin_torch.build("fcn32s", widths=(2, 3, 4, 5, 6, 7, 8), num_classes=1)
    segtwin_torch.export_onnx(fcn, tmp_path / "fcn.onnx", verify=False)
    for name in ("probability", "logits"):
        graph = onnx.load(tmp_path / "fcn.onnx")
        graph.graph.node.append(onnx.helper.make_node("Identity", ["score"], [name]))
        graph.graph.output[0].name = name
        onnx.save(graph, tmp_path / f"{name}.onnx")
        assert segtwin_engines.load(tmp_path / f"{name}.onnx", say=print).output == name
