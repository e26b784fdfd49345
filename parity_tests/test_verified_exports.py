"""An export is held against its model before it takes its name: whatever an exporter could get
wrong is seen, and leaves what was there before."""

import builtins
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import segtwin
import segtwin_weights
from drawn_networks import VARIED
from goldens import TINY
from onnx import numpy_helper
from segtwin.architectures import get_architecture
from segtwin_cli.main import main
from segtwin_weights import Weights, onnx_check

from engines import TWINS

REAL = onnx_check.verify
UNET = (3, 4, 5, 6, 7)


def weights_of(name: str) -> Weights:
    """As `segtwin convert` leaves them: the score layers of an FCN's skips are zero."""
    if name == "unet-small":
        return segtwin_weights.initialize(name, widths=UNET, seed=3)
    random = np.random.default_rng(4)
    start = segtwin_weights.initialize("vgg16", widths=TINY)
    numbers = {
        key: random.standard_normal(blob.shape, np.float32) * np.sqrt(2 / blob[0].size) for key, blob in start.items()
    }
    return segtwin_weights.convert(Weights(numbers, start.metadata), to=name, num_classes=3)


def conv(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """The convolution that has this weight."""
    return next(node for node in model.graph.node if len(node.input) > 1 and node.input[1] == name)


def initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def flip_a_bit(model: onnx.ModelProto, first: str) -> None:
    tensor = initializer(model, first)
    raw = bytearray(tensor.raw_data)
    raw[-4] ^= 1
    tensor.raw_data = bytes(raw)


def turn_a_kernel(model: onnx.ModelProto, first: str) -> None:
    tensor = initializer(model, first)
    tensor.CopyFrom(
        numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(tensor).swapaxes(2, 3)), tensor.name)
    )


def lose_a_weight(model: onnx.ModelProto, first: str) -> None:
    initializer(model, first).name = "other"
    conv(model, first).input[1] = "other"


def shift_by_a_pixel(model: onnx.ModelProto, first: str) -> None:
    """Padding of the last 3×3 convolution before the scores: one more at one end, one less at the
    other."""
    node = next(
        node
        for node in reversed(model.graph.node)
        if any(a.name == "pads" and list(a.ints) == [1, 1, 1, 1] for a in node.attribute)
    )
    pads = next(attribute for attribute in node.attribute if attribute.name == "pads")
    pads.ints[:] = [2, 1, 0, 1]


def no_relu(model: onnx.ModelProto, first: str) -> None:
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Abs"


def no_bias(model: onnx.ModelProto, first: str) -> None:
    node = conv(model, first)
    del node.input[2:]


def rename_the_output(model: onnx.ModelProto, first: str) -> None:
    was, model.graph.output[0].name = model.graph.output[0].name, "out"
    for node in model.graph.node:
        node.output[:] = ["out" if name == was else name for name in node.output]


def another_opset(model: onnx.ModelProto, first: str) -> None:
    model.opset_import[0].version += 1


def a_fixed_size(model: onnx.ModelProto, first: str) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 64


def no_operator(model: onnx.ModelProto, first: str) -> None:
    model.graph.node[0].op_type = "Convolution"


def another_epsilon(model: onnx.ModelProto, first: str) -> None:
    """Keras' in place of torch's; in the twins' graphs it stands in an attribute or in a constant."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 1e-1
            elif (
                attribute.name == "value"
                and attribute.t.dims == []
                and 0 < abs(float(numpy_helper.to_array(attribute.t))) < 1e-4
            ):
                attribute.t.CopyFrom(numpy_helper.from_array(np.float32(1e-1)))
    for tensor in model.graph.initializer:
        if not tensor.dims and tensor.data_type == 1 and 0 < abs(float(numpy_helper.to_array(tensor))) < 1e-4:
            tensor.CopyFrom(numpy_helper.from_array(np.float32(1e-1), tensor.name))


def late_crop(model: onnx.ModelProto, first: str) -> None:
    """The skip's crop begins a pixel later, where its layer is zero."""
    made = {name: node for node in model.graph.node for name in node.output}
    node = made["score_pool4c"]
    while node.op_type != "Slice":
        node = made[node.input[0]]
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    if node.input[1] in held:
        place = held[node.input[1]]
    else:
        place = next(attribute.t for attribute in made[node.input[1]].attribute if attribute.name == "value")
    starts = numpy_helper.to_array(place)
    assert 5 in starts
    place.CopyFrom(numpy_helper.from_array(np.where(starts == 5, 6, starts), place.name))


FAULTS = {
    flip_a_bit: "is not that of the model",
    turn_a_kernel: "is not that of the model",
    lose_a_weight: "is missing",
    shift_by_a_pixel: "away from the model",
    no_relu: "away from the model",
    no_bias: "away from the model",
    rename_the_output: "it computes",
    another_opset: "not opset 18|the ONNX checker",
    a_fixed_size: "its input is",
    no_operator: "the ONNX checker refuses it",
}
OF_ONE = {"unet-small": {another_epsilon: "away from the model"}, "fcn8s": {late_crop: "ONNX Runtime"}}
CASES = [(name, fault, words) for name in OF_ONE for fault, words in (FAULTS | OF_ONE[name]).items()]
FIRST = {"unet-small": "layer1_conv.conv1.weight", "fcn8s": "conv1_1/weight"}


@cache
def exported(framework: str, name: str) -> tuple[bytes, onnx_check.Source]:
    """A file as it is before it is verified, and what it is held against."""
    caught: list[tuple[bytes, onnx_check.Source]] = []
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(onnx_check, "verify", lambda file, path, source: caught.append((file.read_bytes(), source)))
        TWINS[framework].export_onnx(TWINS[framework].build(name, weights=weights_of(name)), Path(folder) / "x.onnx")
    return caught[0]


@pytest.mark.parametrize("framework", TWINS)
@pytest.mark.parametrize(
    ("name", "fault", "words"), CASES, ids=[f"{name}-{fault.__name__}" for name, fault, _ in CASES]
)
def test_a_fault_is_seen(
    name: str, fault: Callable[[onnx.ModelProto, str], None], words: str, framework: str, tmp_path: Path
) -> None:
    whole, source = exported(framework, name)
    file = tmp_path / "x.onnx"
    file.write_bytes(whole)
    REAL(file, "x.onnx", source)
    model = onnx.ModelProto.FromString(whole)
    fault(model, FIRST[name])
    damaged = model.SerializeToString()
    assert damaged != whole, "a fault was made"
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"x\.onnx: .*({words})"):
        REAL(file, "x.onnx", source)


@pytest.mark.parametrize("beside", [False, True], ids=["one file", "data beside"])
@pytest.mark.parametrize("framework", TWINS)
def test_a_refused_file_leaves_what_was_there_before(
    beside: bool, framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin, path = TWINS[framework], tmp_path / "x.onnx"

    def damaged(file: Path, path: Path, source: onnx_check.Source) -> None:
        graph = onnx.load(file, load_external_data=False).graph
        if beside:
            place = next(tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL)
            offset = int({entry.key: entry.value for entry in place.external_data}["offset"])
            file = file.with_name(file.name + ".data")
        content = bytearray(file.read_bytes())
        at = offset if beside else content.index(initializer(onnx.load(file), "conv1_2/weight").raw_data)
        content[at] ^= 1
        file.write_bytes(content)
        REAL(file.with_name("x.onnx"), path, source)

    path.write_text("what was there before")
    model = twin.build("fcn8s", weights=weights_of("fcn8s"))
    with monkeypatch.context() as patch:
        patch.setattr(onnx_check, "verify", damaged)
        with pytest.raises(ValueError, match=r"x\.onnx: the weight .* is not that of the model"):
            twin.export_onnx(model, path, external_data=beside)
    assert path.read_text() == "what was there before"
    assert list(tmp_path.iterdir()) == [path]
    twin.export_onnx(model, path, external_data=beside)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.onnx", *["x.onnx.data"] * beside]


KINDS = [
    ("torch", {"fold_batchnorm": True}, "float32"),
    ("keras", {"fold_batchnorm": True}, "float32"),
    ("torch", {}, "float64"),
]


@pytest.mark.parametrize(("framework", "options", "dtype"), KINDS, ids=["torch-folded", "keras-folded", "torch-double"])
def test_folded_and_double_models_are_verified_too(
    framework: str, options: dict, dtype: str, tmp_path: Path, monkeypatch
) -> None:
    twin = TWINS[framework]
    model = twin.build("unet-small", weights=weights_of("unet-small"), dtype=dtype)
    twin.export_onnx(model, tmp_path / "x.onnx", **options)

    def damaged(file: Path, path: Path, source: onnx_check.Source) -> None:
        proto = onnx.load(file)
        no_relu(proto, "")
        file.write_bytes(proto.SerializeToString())
        REAL(file, path, source)

    monkeypatch.setattr(onnx_check, "verify", damaged)
    with pytest.raises(ValueError, match=r"y\.onnx: .*away from the model"):
        twin.export_onnx(model, tmp_path / "y.onnx", **options)
    assert not (tmp_path / "y.onnx").exists()


def test_the_hurried_are_not_held_up(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(onnx_check, "verify", lambda *arguments, **options: pytest.fail("it was verified"))
    segtwin_weights.write(weights_of("unet-small"), tmp_path / "u.safetensors")
    with pytest.raises(SystemExit) as end:
        main(
            [
                "export",
                str(tmp_path / "u.safetensors"),
                str(tmp_path / "x.onnx"),
                "--framework",
                "torch",
                "--no-verify",
                "--quiet",
            ]
        )
    assert not end.value.code
    assert (tmp_path / "x.onnx").exists()


def test_without_onnx_runtime_what_was_not_done_is_said(tmp_path, monkeypatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: object) -> object:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *arguments)

    model = TWINS["torch"].build("unet-small", weights=weights_of("unet-small"))
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.warns(
        segtwin.Converted,
        match=r"x\.onnx: checked and read back, but not run: ONNX Runtime is not installed; pip install",
    ):
        TWINS["torch"].export_onnx(model, tmp_path / "x.onnx")
    assert (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("name", VARIED)
@pytest.mark.parametrize("framework", TWINS)
def test_what_is_right_passes(framework: str, name: str, tmp_path) -> None:
    """Untrained networks of every kind, without a note."""
    architecture = get_architecture(name)
    widths = {7: TINY, 5: UNET, 0: None}[len(architecture.widths)]
    twin = TWINS[framework]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin.export_onnx(twin.build(name, widths=widths, seed=2), tmp_path / "x.onnx")
    assert (tmp_path / "x.onnx").exists()
