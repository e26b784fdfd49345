"""What a freshly converted network's zeros would hide from `segtwin parity`: every crop, skip, bias
and scale is seen to matter."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import segtwin_keras
import segtwin_torch
import segtwin_weights
import torch
from goldens import TINY, recipe
from PIL import Image
from segtwin import geometry, oracle
from segtwin.architectures import get_architecture
from segtwin_cli.main import main
from segtwin_engines import comparison as parity_command
from segtwin_engines.contestants import AS_CAFFE, columns
from segtwin_engines.onnxruntime import onnx_blobs
from segtwin_weights import Weights, layouts

from engines import TWINS

ENGINES = ("torch", "keras", "onnxruntime")
JUDGED = [column.label for column in columns(ENGINES)]
NETS = ("fcn8s", "fcn16s", "fcn32s", "fcn8s-atonce")
CROPS = [(net, name) for net in NETS for name in geometry.crop_offsets(get_architecture(net).layers)]
PHOTO = Path(__file__).parent.parent / "docs/images/chelsea.jpg"
WIDTHS = (*TINY[:2], 10, 10, *TINY[4:])
"""pool3 and pool4 alike, so that one can be taken for the other."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each network, what `convert` makes of a VGG-16, and its exports; an image."""
    folder = tmp_path_factory.mktemp("converted")
    blobs = {}
    for name, (weight, bias) in recipe.vgg16_npy(1, WIDTHS).items():
        blobs[f"{name}/weight"], blobs[f"{name}/bias"] = layouts.to_caffe(name, weight), bias
    for net in NETS:
        weights = segtwin_weights.convert(Weights(blobs), net, num_classes=5, score_init="zeros")
        segtwin_weights.write(weights, folder / f"{net}.safetensors")
        export(net, folder, folder)
    with Image.open(PHOTO) as photo:
        photo.resize((61, 47)).save(folder / "i.png")
    return folder


def export(net: str, source: Path, target: Path, change: Callable[[str, object], None] | None = None) -> None:
    """Both exports of a network, `change`d between building and exporting."""
    for framework, twin in TWINS.items():
        model = twin.load(source / f"{net}.safetensors")
        if change is not None:
            change(framework, model)
        twin.export_onnx(model, target / f"{net}-{framework}.onnx")


def report(net: str, folder: Path, exports: Path, tmp_path: Path, status: int) -> tuple[dict, set[tuple[str, str]]]:
    """The facts of a parity report, and (engine, blob) of what is beyond its bound."""
    files = (
        "--torch-onnx",
        exports / f"{net}-torch.onnx",
        "--keras-onnx",
        exports / f"{net}-keras.onnx",
        "--report",
        tmp_path / "p.html",
        "--engines",
        ",".join(ENGINES),  # Caffe, where it is installed, has no part in the faults below
    )
    with pytest.raises(SystemExit) as ended:
        main(
            [
                str(argument)
                for argument in (
                    "parity",
                    folder / f"{net}.safetensors",
                    folder / "i.png",
                    *files,
                    "--quiet",
                    "--overwrite",
                )
            ]
        )
    facts = json.loads((tmp_path / "p.json").read_text())
    assert ended.value.code == status
    assert facts["verdict"] == ("DIFFERENT" if status else "equal")
    missed = set()
    for blob in facts["comparisons"][0]["blobs"]:
        assert blob["largest"] > 0, f"{blob['name']} is zero: nothing is compared"
        for engine, error in blob["errors"].items():
            if not error < (4 if engine in AS_CAFFE else blob["default_bound"]):
                missed.add((engine, blob["name"]))
    return facts, missed


@pytest.mark.parametrize("net", NETS)
def test_a_converted_network_is_equal_and_nothing_in_it_zero(net: str, folder: Path, tmp_path: Path) -> None:
    facts, missed = report(net, folder, folder, tmp_path, status=0)
    assert not missed
    weights = segtwin_weights.read(folder / f"{net}.safetensors")
    zeros = {name for name, blob in weights.items() if not blob.any()}
    assert zeros >= {"score_fr/weight", "score_fr/bias"}
    assert zeros <= set(facts["probed"])


def crop_late(source: Path, target: Path, name: str) -> None:
    """An ONNX file of which one crop begins, and ends, a pixel late."""
    model = onnx.load(source)
    graph = model.graph
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    constants |= {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant"
    }
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "a pixel"))
    value, axes = name, []
    while (node := next(node for node in graph.node if value in node.output)).op_type == "Slice":
        axes += constants[node.input[3]].ravel().tolist()
        for at in (1, 2):  # starts, ends
            place = list(graph.node).index(node)
            graph.node.insert(place, onnx.helper.make_node("Add", [node.input[at], "a pixel"], [f"{value} {at} late"]))
            node.input[at] = f"{value} {at} late"
        value = node.input[0]
    assert sorted(axes) == [2, 3]
    onnx.save(model, target)


@pytest.mark.parametrize(("net", "name"), CROPS, ids=[f"{net}-{name}" for net, name in CROPS])
def test_a_crop_moved_by_a_pixel_is_seen(
    net: str, name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every engine: torch's model, Keras' model, and ONNX Runtime on both files."""
    late = geometry.crop_offsets(get_architecture(net).layers)[name]
    torch_crop, keras_crop = segtwin_torch.fcn.crop, segtwin_keras.fcn.crop
    monkeypatch.setattr(
        segtwin_torch.fcn, "crop", lambda x, like, offset: torch_crop(x, like, offset + (offset == late))
    )
    monkeypatch.setattr(
        segtwin_keras.fcn, "crop", lambda x, name, like, offset: keras_crop(x, name, like, offset + (offset == late))
    )
    for framework in TWINS:
        crop_late(folder / f"{net}-{framework}.onnx", tmp_path / f"{net}-{framework}.onnx", name)
    _, missed = report(net, folder, tmp_path, tmp_path, status=1)
    names = get_architecture(net).exported
    for engine in JUDGED:
        assert next(blob for blob in names if (engine, blob) in missed) == name, (
            f"{engine}: the crop itself, and nothing before it"
        )


def swap_skip(framework: str, model: object) -> None:
    """score_pool4 sees what looks like pool4 but was made of pool3."""
    if framework == "torch":
        seen = {}
        model.conv4_1.register_forward_pre_hook(lambda _, inputs: seen.update(pool3=inputs[0]))
        model.score_pool4.register_forward_pre_hook(lambda _, inputs: (segtwin_torch.fcn.pool(seen["pool3"]),))
    else:
        plain, layer = model.get_layer("score_pool4").call, model.get_layer("score_pool4")
        layer.call = lambda x, **kwargs: plain(x[..., ::-1], **kwargs)


def drop_biases(framework: str, model: object, layers: tuple[str, ...]) -> None:
    for name in layers:
        if framework == "torch":
            getattr(model, name).register_forward_hook(lambda layer, _, result: result - layer.bias[:, None, None])
        else:
            model.get_layer(name).use_bias = False


def leave_scale_out(framework: str, model: object) -> None:
    """Every channel times one."""
    if framework == "torch":
        model.scale_pool4.weight.data.fill_(1)
    else:
        model.get_layer("scale_pool4").weight.assign(np.ones(model.get_layer("scale_pool4").weight.shape))


FAULTS = {
    "another skip": ("fcn8s", "score_pool4", swap_skip),
    "no bias of a skip": (
        "fcn16s",
        "score_pool4",
        lambda framework, model: drop_biases(framework, model, ("score_pool4",)),
    ),
    "no bias at the coarse scores": (
        "fcn32s",
        "score_fr",
        lambda framework, model: drop_biases(framework, model, ("score_fr",)),
    ),
    "no scale": ("fcn8s-atonce", "scale_pool4", leave_scale_out),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_zeros_hide_is_seen(fault: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, name, change = FAULTS[fault]
    export(net, folder, tmp_path, change)
    for framework, twin in TWINS.items():
        built = twin.build

        def build(*arguments, framework=framework, built=built, **options):
            model = built(*arguments, **options)
            change(framework, model)
            return model

        monkeypatch.setattr(twin, "build", build)
    _, missed = report(net, folder, tmp_path, tmp_path, status=1)
    assert {engine for engine, blob in missed if blob == name} == set(JUDGED)
    first = {
        engine: next(blob for blob in get_architecture(net).exported if (engine, blob) in missed) for engine in JUDGED
    }
    assert set(first.values()) == {name}, "nothing before it"


def test_weights_stored_outside_the_file_are_overridden(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for framework, twin in TWINS.items():
        path = tmp_path / f"fcn8s-{framework}.onnx"
        twin.export_onnx(twin.load(folder / "fcn8s.safetensors"), path, external_data=True)
        stored = {one.name: one for one in onnx.load(path, load_external_data=False).graph.initializer}
        assert stored["conv1_2/weight"].data_location == onnx.TensorProto.EXTERNAL
        outside = {name for name, one in stored.items() if one.data_location == onnx.TensorProto.EXTERNAL}
        probed, _ = parity_command.with_probes(segtwin_weights.read(folder / "fcn8s.safetensors"), {})
        new = {"conv1_2/weight": probed["conv1_2/weight"] * 2, "score_pool3/weight": probed["score_pool3/weight"]}
        assert outside & new.keys()
        data = np.random.default_rng(0).uniform(-100, 100, (1, 3, 40, 33)).astype(np.float32)
        architecture = get_architecture("fcn8s")
        truth = dict(oracle.blobs(architecture, {**segtwin_weights.read(folder / "fcn8s.safetensors"), **new}, data))
        got = onnx_blobs(path, data, architecture.exported, new)
        for name in ("conv1_2", "fc7", "score_pool3", "score"):
            assert oracle.relative_error(got[name], truth[name]) < 1e-5, name
            assert np.abs(truth[name]).max() > 0
    report("fcn8s", folder, tmp_path, tmp_path, status=0)


@pytest.mark.parametrize("net", ["unet-small", "vggfcn8"])
def test_probes_of_networks_that_torch_starts(net: str) -> None:
    """BatchNorm's ones become other positive numbers, counters stay, and a weight that two names
    share stays one."""
    architecture = get_architecture(net)
    start = segtwin_weights.initialize(architecture, widths=TINY if net == "vggfcn8" else (2, 3, 4, 5, 6), seed=1)
    zeroed = Weights({name: blob * 0 if "classifier" in name else blob for name, blob in start.items()}, start.metadata)
    probed, names = parity_command.with_probes(zeroed, architecture.aliases)
    assert probed.keys() == start.keys()
    for name, blob in probed.items():
        assert blob.dtype == start[name].dtype
        assert blob.shape == start[name].shape
        if blob.dtype.kind == "f" and blob.size > 1:
            assert np.ptp(blob) > 0, name
        if name not in names:
            np.testing.assert_array_equal(blob, zeroed[name])
        if name.endswith("running_var"):
            assert (blob > 0).all()
    for name, owner in architecture.aliases.items():
        np.testing.assert_array_equal(probed[name].ravel(), probed[owner].ravel())
    again, _ = parity_command.with_probes(zeroed, architecture.aliases)
    assert again.fingerprint() == probed.fingerprint(), "seeded"


def test_batch_norm_left_out_is_seen() -> None:
    """As PyTorch starts it, BatchNorm changes almost nothing."""
    architecture = get_architecture("unet-small")
    start = segtwin_weights.initialize(architecture, widths=(2, 3, 4, 5, 6), seed=1)
    probed, _ = parity_command.with_probes(start, architecture.aliases)
    data = np.random.default_rng(0).uniform(0, 1, (1, 1, 32, 32)).astype(np.float32)
    norm = next(name.rpartition(".")[0] for name in start if name.endswith("running_var"))
    for weights, seen in (start, False), (probed, True):
        model = segtwin_torch.build("unet-small", widths=(2, 3, 4, 5, 6), weights=weights)
        module = model.get_submodule(norm)
        truth = dict(oracle.blobs(architecture, weights, data))[architecture.output]
        with torch.no_grad():
            module.weight.fill_(1)
            module.running_mean.fill_(0)
        error = oracle.relative_error(segtwin_torch.blobs(model, data)[architecture.output], truth)
        assert (error > 1e-4) == seen
