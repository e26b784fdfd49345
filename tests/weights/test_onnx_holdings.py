"""ONNX files whose numbers lie in other fields than raw_data: onnx's own reader says what they are."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import segtwin
import segtwin_weights
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.slow

VALUES = [1.0, -2.5, 0.15625, 3.0, -0.0078125, 96.0]


@pytest.mark.filterwarnings("ignore::segtwin.Converted")
@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"])
def test_numbers_in_typed_fields(kind: str, tmp_path: Path) -> None:
    """float16 and bfloat16 lie in int32_data, as helper.make_tensor writes them."""
    tensor = helper.make_tensor("conv/weight", getattr(TensorProto, kind), [2, 3], VALUES)
    assert not tensor.raw_data
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], [tensor])), tmp_path / "m.onnx")
    got = segtwin_weights.read(tmp_path / "m.onnx")["conv/weight"]
    np.testing.assert_array_equal(got.astype(np.float64), numpy_helper.to_array(tensor).astype(np.float64))
    np.testing.assert_array_equal(got.astype(np.float64), np.reshape(VALUES, (2, 3)))


def test_counters_in_int64_data(tmp_path: Path) -> None:
    tensors = [
        helper.make_tensor("bn.num_batches_tracked", TensorProto.INT64, [], [7]),
        helper.make_tensor("bn.weight", TensorProto.FLOAT, [1], [2.0]),
    ]
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], tensors)), tmp_path / "m.onnx")
    got = segtwin_weights.read(tmp_path / "m.onnx")["bn.num_batches_tracked"]
    assert (got.dtype, int(got)) == (np.dtype(np.int64), 7)


# --------------------------------------------------- weights that reach their layers through others

WAYS = ["constant", "identity", "cast", "transpose", "reshape", "flat constant", "squeeze", "unsqueeze", "sparse"]


def rewritten(model: onnx.ModelProto, way: str) -> None:
    """The same network, its kernels stored otherwise and put right by nodes, as exporters do."""
    graph = model.graph
    tensors, nodes = list(graph.initializer), []
    del graph.initializer[:]
    for tensor in tensors:
        name, array = tensor.name, numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.ndim not in (1, 4):
            graph.initializer.append(tensor)
            continue
        made = f"{name}_read"
        stored, step, settings, attributes = array, "Identity", [], {}
        if way in ("constant", "flat constant"):
            flat = way == "flat constant" and array.ndim == 1
            value = {"value_floats": array.tolist()} if flat else {"value": tensor}
            nodes.append(helper.make_node("Constant", [], [name], **value))
            continue
        if way == "sparse" and array.ndim == 1:
            index = numpy_helper.from_array(np.arange(array.size, dtype=np.int64), f"{name}_at")
            graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, index, array.shape))
            continue
        if way == "cast":
            stored, step, attributes = array.astype(np.float64), "Cast", {"to": TensorProto.FLOAT}
        elif way == "transpose" and array.ndim == 4:  # HWIO, as TensorFlow keeps kernels
            stored, step, attributes = array.transpose(2, 3, 1, 0), "Transpose", {"perm": [3, 2, 0, 1]}
        elif way == "reshape":
            stored, step, settings = array.reshape(-1), "Reshape", list(array.shape)
        elif way == "squeeze":
            stored, step, settings = array[None], "Squeeze", [0]
        elif way == "unsqueeze" and array.ndim == 4 and array.shape[3] == 1:
            stored, step, settings = array[..., 0], "Unsqueeze", [-1]
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(stored), name))
        inputs = [name]
        if settings:
            graph.initializer.append(numpy_helper.from_array(np.array(settings, np.int64), f"{name}_settings"))
            inputs.append(f"{name}_settings")
        nodes.append(helper.make_node(step, inputs, [made], **attributes))
        for node in graph.node:
            node.input[:] = [made if one == name else one for one in node.input]
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A U-Net as torch exports it, saying nothing of this project, and its state_dict."""
    import segtwin_torch

    model = segtwin_torch.build("unet-small", widths=(2, 3, 4, 5, 6), seed=3)
    path = tmp_path_factory.mktemp("onnx") / "plain.onnx"
    segtwin_torch.export_onnx(model, path)
    plain = onnx.load(path)
    del plain.metadata_props[:]
    onnx.save(plain, path)
    return path, {
        name: blob
        for name, blob in segtwin_torch.read_weights(model).items()
        if not name.endswith("num_batches_tracked")
    }


def ran(path: Path) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    data = np.random.RandomState(5).rand(1, 1, 32, 32).astype(np.float32)
    return session.run(None, {session.get_inputs()[0].name: data})[0]


@pytest.mark.parametrize("way", WAYS)
def test_weights_through_other_nodes(way: str, exported: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    """ONNX Runtime finds the same network in the file, so the reader has to find the same weights."""
    plain, want = exported
    model = onnx.load(plain)
    rewritten(model, way)
    onnx.save(model, tmp_path / "m.onnx")
    if way != "sparse":  # ONNX Runtime wants the names of sparse tensors elsewhere
        np.testing.assert_array_equal(ran(tmp_path / "m.onnx"), ran(plain))
    got = segtwin_weights.read(tmp_path / "m.onnx")
    assert got.keys() == want.keys()
    assert got.metadata["architecture"] == "unet-small"
    for name, blob in want.items():
        np.testing.assert_array_equal(got[name], blob, err_msg=name)


def saved(path: Path, nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray]) -> Path:
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [], tensors)), path)
    return path


RANDOM = np.random.RandomState(7)
SQUARE, BIAS = RANDOM.rand(5, 5).astype(np.float32), RANDOM.rand(5).astype(np.float32)


ADDED = helper.make_node("Add", ["h", "fc.bias"], ["y"])
INNER_PRODUCTS = {
    "Gemm transB": (SQUARE, [helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["y"], transB=1)]),
    "Gemm": (SQUARE.T, [helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["y"])]),
    "MatMul": (SQUARE.T, [helper.make_node("MatMul", ["x", "fc.weight"], ["h"]), ADDED]),
    "Transpose, MatMul": (
        SQUARE,
        [helper.make_node("Transpose", ["fc.weight"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["h"]), ADDED],
    ),
}


@pytest.mark.parametrize("way", INNER_PRODUCTS)
def test_inner_products_are_outputs_first(way: str, tmp_path: Path) -> None:
    """A square matrix fits either way: how its node takes it tells which of its axes the outputs
    are."""
    stored, nodes = INNER_PRODUCTS[way]
    path = saved(tmp_path / "m.onnx", nodes, {"fc.weight": np.ascontiguousarray(stored), "fc.bias": BIAS})
    got = segtwin_weights.read(path)
    np.testing.assert_array_equal(got["fc.weight"], SQUARE)
    np.testing.assert_array_equal(got["fc.bias"], BIAS)


def test_a_bias_that_is_added(tmp_path: Path) -> None:
    """Keras' convolutions become a Conv and an Add of the bias as 1×C×1×1."""
    nodes = [
        helper.make_node("Conv", ["x", "c/weight"], ["h"]),
        helper.make_node("Reshape", ["c/bias", "shape"], ["b"]),
        helper.make_node("Add", ["h", "b"], ["y"]),
    ]
    kernel = RANDOM.rand(5, 2, 3, 3).astype(np.float32)
    path = saved(tmp_path / "m.onnx", nodes, {"c/weight": kernel, "c/bias": BIAS, "shape": np.array([1, -1, 1, 1])})
    got = segtwin_weights.read(path)
    assert list(got) == ["c/weight", "c/bias"]
    np.testing.assert_array_equal(got["c/bias"], BIAS)


def test_equal_tensors_that_torch_stores_once(tmp_path: Path) -> None:
    """torch.onnx names the second of two equal parameters by an Identity of the first; the
    state_dict has both."""
    nodes = [
        helper.make_node("Identity", ["a.bias"], ["b.bias"]),
        helper.make_node("Conv", ["x", "a.weight", "a.bias"], ["h"]),
        helper.make_node("Conv", ["h", "b.weight", "b.bias"], ["y"]),
    ]
    kernels = {f"{name}.weight": RANDOM.rand(5, 5, 1, 1).astype(np.float32) for name in "ab"}
    got = segtwin_weights.read(saved(tmp_path / "m.onnx", nodes, {**kernels, "a.bias": BIAS}))
    assert got.keys() == {"a.weight", "a.bias", "b.weight", "b.bias"}
    np.testing.assert_array_equal(got["b.bias"], BIAS)


def test_settings_are_no_weights(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["h"]),
        helper.make_node("Constant", [], ["scales"], value_floats=[1.0, 1.0, 2.0, 2.0]),
        helper.make_node("Resize", ["h", "", "scales"], ["r"]),
        helper.make_node("Resize", ["r", "", "more_scales"], ["y"]),
    ]
    arrays = {"a.weight": np.ones((2, 2, 1, 1), np.float32), "more_scales": np.ones(4, np.float32)}
    assert list(segtwin_weights.read(saved(tmp_path / "m.onnx", nodes, arrays))) == ["a.weight"]


def test_a_weight_that_is_computed_is_said(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["g", "v"], ["w"], name="norm"),
        helper.make_node("Conv", ["x", "w"], ["y"], name="first"),
    ]
    arrays = {"v": np.ones((2, 2, 1, 1), np.float32), "g": np.ones((2, 1, 1, 1), np.float32)}
    with pytest.warns(segtwin.Converted, match=r"m\.onnx: the weight of Conv 'first' is computed by Mul 'norm'; "):
        got = segtwin_weights.read(saved(tmp_path / "m.onnx", nodes, arrays))
    assert got.keys() == {"v", "g"}


@pytest.mark.parametrize("field", ["int32_data", "raw_data"])
def test_quantised_weights_are_refused(field: str, tmp_path: Path) -> None:
    values = np.arange(-8, 8, dtype=np.int8).reshape(4, 4, 1, 1)
    tensor = helper.make_tensor(
        "w",
        TensorProto.INT8,
        values.shape,
        values.tobytes() if field == "raw_data" else values.reshape(-1).tolist(),
        field == "raw_data",
    )
    scale = helper.make_tensor("s", TensorProto.FLOAT, [], [0.5])
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["f"]), helper.make_node("Conv", ["x", "f"], ["y"])]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [], [tensor, scale])), tmp_path / "m.onnx")
    with pytest.raises(segtwin_weights.WeightsError, match=r"m\.onnx: is quantised: w is int8; give the float model"):
        segtwin_weights.read(tmp_path / "m.onnx")


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint64, np.bool_])
@pytest.mark.parametrize(("kind", "shape"), [("Gemm", (4, 3)), ("Conv", (4, 3, 1, 1))])
def test_whole_numbers_in_a_layer_are_refused(kind: str, shape: tuple[int, ...], dtype: type, tmp_path: Path) -> None:
    """They are weights, and were passed over without a word beside a bias that was read."""
    path = saved(
        tmp_path / "m.onnx",
        [helper.make_node(kind, ["x", "w", "b"], ["y"])],
        {"w": np.ones(shape, dtype), "b": np.ones(4, np.float32)},
    )
    with pytest.raises(
        segtwin_weights.WeightsError, match=rf"m\.onnx: w is {np.dtype(dtype)}, in {kind} 'y', .*; store it as float32"
    ):
        segtwin_weights.read(path)


@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "INT4", "COMPLEX64"])
def test_types_that_numpy_has_not_are_refused(kind: str, tmp_path: Path) -> None:
    tensor = helper.make_tensor("w", getattr(TensorProto, kind), [2, 1], [1.0, 2.0])
    other = helper.make_tensor("v", TensorProto.FLOAT, [2, 1], [1.0, 2.0])
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], [other, tensor])), tmp_path / "m.onnx")
    with pytest.raises(segtwin_weights.WeightsError, match=r"m\.onnx: (is quantised: )?w is "):
        segtwin_weights.read(tmp_path / "m.onnx")


def test_bfloat16_in_raw_data(tmp_path: Path) -> None:
    """The upper halves of float32: 1.0 is 0x3F80, -2.5 is 0xC020."""
    tensor = TensorProto(
        name="w", dims=[1, 2], data_type=TensorProto.BFLOAT16, raw_data=bytes([0x80, 0x3F, 0x20, 0xC0])
    )
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], [tensor])), tmp_path / "m.onnx")
    with pytest.warns(segtwin.Converted, match="w is bfloat16"):
        got = segtwin_weights.read(tmp_path / "m.onnx")["w"]
    assert (got.dtype, got.tolist()) == (np.dtype(np.float32), [[1.0, -2.5]])


def test_weights_that_are_inputs(tmp_path: Path) -> None:
    """torch.onnx with export_params=False."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 1, 1]) for name in ("x", "w")]
    onnx.save(helper.make_model(helper.make_graph([], "g", inputs, [])), tmp_path / "m.onnx")
    with pytest.raises(
        segtwin_weights.WeightsError, match=r"m\.onnx: holds no weights: its graph takes them as inputs"
    ):
        segtwin_weights.read(tmp_path / "m.onnx")


def test_copies_without_end_are_refused(tmp_path: Path) -> None:
    """A chain of casts of one tensor would fill memory."""
    nodes = [
        helper.make_node("Cast", [f"w{i}"], [f"w{i + 1}"], to=(TensorProto.DOUBLE, TensorProto.FLOAT)[i % 2])
        for i in range(50)
    ]
    with pytest.raises(segtwin_weights.WeightsError, match="made to fill memory"):
        segtwin_weights.read(saved(tmp_path / "m.onnx", nodes, {"w0": SQUARE}))
