"""ONNX, caffemodel and safetensors files that say little and ask for much: each is weights or one
line, in seconds, and in a few times its size."""

import json
import resource
import struct
import subprocess
import sys

import fuzz
import numpy as np
import onnx
import pytest
import segtwin_weights
from onnx import helper, numpy_helper
from segtwin_weights import WeightsError
from segtwin_weights.formats import wire

pytestmark = pytest.mark.slow

MEASURED = """
import json, os, resource, sys, time, warnings
import h5py, onnx, safetensors
import segtwin_weights
from segtwin_weights import WeightsError
warnings.simplefilter("ignore")
first, *paths = sys.argv[1:]
segtwin_weights.read(first)  # the libraries are loaded
for path in paths:
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    # 3 times, and the file mapped
    resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20) + 4 * os.path.getsize(path), -1))
    try:
        print(json.dumps([path, repr(segtwin_weights.read(path))]), flush=True)
    except WeightsError as error:
        print(json.dumps([path, str(error)]), flush=True)
"""


def graph(path, nodes, initializers) -> None:
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "g", [], [], initializers)).SerializeToString())


def onnx_files(folder):
    """(name, what is said)."""
    made = helper.make_node
    small = numpy_helper.from_array(np.random.default_rng(0).random((500, 500)).astype("f4"), "w")
    large = numpy_helper.from_array(np.random.default_rng(0).random((1000, 2500)).astype("f4"), "w")
    moves, turns, before = [], [], "w"
    for number in range(20_000):
        moves.append(made("Identity", [before], [f"t{number}"]))
        turns.append(made("Transpose", [before], [f"t{number}"], perm=[1, 0]))
        before = f"t{number}"
    graph(folder / "moves.onnx", moves, [small])
    graph(folder / "turns.onnx", turns, [small])
    yield from (("moves.onnx", "Weights"), ("turns.onnx", "Weights"))
    graph(folder / "identities.onnx", [made("Identity", ["w"], [f"t{number}"]) for number in range(20_000)], [large])
    graph(
        folder / "reshapes.onnx",
        [made("Reshape", ["w"], [f"t{number}"], shape=[2_500_000]) for number in range(10_000)],
        [large],
    )
    pairs = [
        (made("Transpose", ["w"], [f"t{n}"], perm=[1, 0]), made("MatMul", ["x", f"t{n}"], [f"y{n}"]))
        for n in range(1000)
    ]
    graph(folder / "transposes.onnx", [node for pair in pairs for node in pair], [small])
    yield from ((name, "over and over") for name in ("identities.onnx", "reshapes.onnx", "transposes.onnx"))
    half = onnx.TensorProto(name="w", dims=[5_000_000], data_type=10, raw_data=bytes(10_000_000))
    graph(folder / "casts.onnx", [made("Cast", ["w"], [f"c{number}"], to=11) for number in range(10)], [half])
    yield "casts.onnx", "over and over"
    packed = wire.delimited(5, wire.text(1, "value_ints") + wire.delimited(8, b"\x01" * 4_000_000))
    node = wire.text(2, "c") + wire.text(4, "Constant") + packed
    (folder / "integers.onnx").write_bytes(wire.key(1, 0) + b"\x08" + wire.delimited(7, wire.delimited(1, node)))
    yield "integers.onnx", "fields"
    integers = onnx.TensorProto(name="w", dims=[4_000_000], data_type=7)
    integers.int64_data.extend([1] * 4_000_000)
    graph(folder / "int64.onnx", [], [integers])
    yield "int64.onnx", "more numbers as varints"
    graph(
        folder / "many.onnx", [], [numpy_helper.from_array(np.ones(1, "f4"), f"{number:x}") for number in range(40_000)]
    )
    yield "many.onnx", "more tensors"
    tensor = b"".join(wire.key(4, 5) + bytes(4) + wire.delimited(4, b"") for _ in range(30_000))
    (folder / "pieces.onnx").write_bytes(
        wire.key(1, 0)
        + b"\x08"
        + wire.delimited(7, wire.delimited(5, wire.key(2, 0) + b"\x01" + wire.text(8, "w") + tensor))
    )
    yield "pieces.onnx", "pieces"


def caffemodels(folder):
    def layer(name: str, blobs: bytes) -> bytes:
        return wire.delimited(100, wire.text(1, name) + wire.text(2, "Convolution") + blobs)

    one = wire.delimited(7, wire.delimited(5, bytes(4)))
    (folder / "pieces.caffemodel").write_bytes(
        layer("w", wire.delimited(7, (wire.key(5, 5) + bytes(4) + wire.delimited(5, b"")) * 140_000))
    )
    (folder / "blobs.caffemodel").write_bytes(layer("w", one * 140_000))
    (folder / "layers.caffemodel").write_bytes(b"".join(layer(f"{number:x}", one) for number in range(60_000)))
    (folder / "tops.caffemodel").write_bytes(layer("w", wire.text(3, "a") * 290_000))
    return [
        ("pieces.caffemodel", "pieces"),
        ("blobs.caffemodel", "more blobs"),
        ("layers.caffemodel", "more blobs"),
        ("tops.caffemodel", "no layer"),
    ]


def headers(folder):
    def header(name: str, content: object) -> None:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))

    one = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header(
        "many.safetensors",
        {f"{number:x}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(60_000)},
    )
    header("names.safetensors", {"__metadata__": {f"{number:x}": "" for number in range(300_000)}, **one})
    header("deep.safetensors", {"__metadata__": {"classes": "[" * 5_000_000}, **one})
    header("lists.safetensors", {"__metadata__": {"note": "[" + "[]," * 1_500_000 + "[]]"}, **one})
    header("texts.safetensors", {"__metadata__": {"note": "[" + '"ab",' * 1_000_000 + '""]'}, **one})
    (folder / "w.index.json").write_text(
        '{"weight_map":{' + ",".join(f'"{number:x}":"a.safetensors"' for number in range(200_000)) + "}}"
    )
    return [("many.safetensors", "more tensors"),
        *((f"{name}.safetensors", "values in JSON") for name in ("names", "deep", "lists", "texts")),
            ("w.index.json", "values in JSON")]  # fmt: skip


@pytest.mark.skipif(
    not hasattr(resource, "RLIMIT_AS") or sys.platform != "linux", reason="memory cannot be limited here"
)
@pytest.mark.parametrize("make", [onnx_files, caffemodels, headers])
def test_little_files_stay_little(make, tmp_path) -> None:
    said = dict(make(tmp_path))
    first = fuzz.GOLDEN / "tiny_vgg16_s1_v2.caffemodel"
    command = [sys.executable, "-c", MEASURED, str(first), *(str(tmp_path / name) for name in said)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    told = dict(map(json.loads, run.stdout.splitlines()))
    assert run.returncode == 0, (run.stderr[-500:], len(told))
    for name, reason in said.items():
        message = told[str(tmp_path / name)]
        assert reason in message, (name, message)
        assert message.startswith(f"{tmp_path / name}: " if reason != "Weights" else "Weights"), message


def test_half_floats_as_integers_are_read(tmp_path) -> None:
    """As converters to float16 write them: the bits, in varints of one to three bytes."""
    numbers = np.random.default_rng(0).normal(size=(64, 64, 3, 3)).astype("f2")
    tensor = onnx.TensorProto(name="w", dims=numbers.shape, data_type=10)
    tensor.int32_data.extend(numbers.view("u2").ravel().tolist())
    graph(tmp_path / "half.onnx", [], [tensor])
    assert np.array_equal(segtwin_weights.read(tmp_path / "half.onnx")["w"], numbers)
    numbers = np.array([0, 1, -1, 127, 128, 1 << 40, -(1 << 62)], np.int64)
    tensor = onnx.TensorProto(name="w.num_batches_tracked", dims=[7], data_type=7)
    tensor.int64_data.extend(numbers.tolist())
    graph(tmp_path / "whole.onnx", [], [tensor])
    assert np.array_equal(segtwin_weights.read(tmp_path / "whole.onnx")["w.num_batches_tracked"], numbers)


@pytest.mark.parametrize("data", [b"\x80", b"\x80" * 11 + b"\x01", b"\x80" * 100_000, b"\x01" * 65_535 + b"\x80"])
def test_varints_without_an_end(data) -> None:
    with pytest.raises(wire.Malformed, match="without an end"):
        list(wire.varints(memoryview(data)))


def test_varints_across_blocks() -> None:
    values = np.random.default_rng(0).integers(0, 1 << 63, 30_000, dtype=np.uint64) >> np.random.default_rng(
        1
    ).integers(0, 63, 30_000).astype("u8")
    data = b"".join(wire.encode(int(value)) for value in values)
    assert len(data) > 2 * wire.BLOCK
    assert np.array_equal(np.concatenate(list(wire.varints(memoryview(data)))), values)


def test_a_name_of_more_memory_than_the_file_is_refused_not_raised(tmp_path) -> None:
    """An architecture's own names made of one tensor."""
    architecture = segtwin_weights.initialize("unet", widths=(2, 2, 2, 2, 2), seed=0)
    one = numpy_helper.from_array(np.random.default_rng(0).random((1000, 1000)).astype("f4"), "w")
    nodes = [helper.make_node("Transpose", ["w"], [name], perm=[1, 0]) for name in architecture]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], [one]))
    helper.set_model_props(model, {"architecture": '"unet"'})
    (tmp_path / "w.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match=r"w\.onnx: names its weights over and over"):
        segtwin_weights.read(tmp_path / "w.onnx")
