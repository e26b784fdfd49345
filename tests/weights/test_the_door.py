"""What every reader of weights does with files that are none: one line with the file's name,
whatever the parser raised; nothing hangs."""

import json
import os
import socket
import struct

import numpy as np
import onnx
import pytest
import segtwin_weights
from segtwin import Preprocessing
from segtwin.architectures import get_architecture
from segtwin_weights import FORMATS, Weights, WeightsError, door, hub
from segtwin_weights.formats import wire


@pytest.fixture
def fifo(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def one_line(error: BaseException, path: object) -> str:
    message = str(error)
    assert message.startswith(f"{path}:"), message
    assert message.isprintable(), message
    assert len(message) < 1500
    return message


@pytest.mark.parametrize("format", [None, *FORMATS])
def test_pipes_devices_sockets_and_links_to_them(format, fifo, tmp_path) -> None:
    (tmp_path / "link").symlink_to(fifo)
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name, what in (("pipe", "FIFO"), ("link", "FIFO"), ("zero", "device"), ("socket", "socket")):
            with pytest.raises(WeightsError, match=f"{name}: is a {what}") as caught:
                segtwin_weights.read(tmp_path / name, format)
            one_line(caught.value, tmp_path / name)
            if format:
                with pytest.raises(WeightsError, match=f"{name}: is a {what}"):
                    FORMATS[format].read(tmp_path / name)
    with pytest.raises(WeightsError, match="pipe: is a FIFO"):
        hub.file_kind(fifo)


@pytest.mark.parametrize("format", [one for one in FORMATS if one != "tensorflow"])
def test_folders_missing_empty_and_unreadable_files(format, tmp_path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    for name, kind in (("missing", FileNotFoundError), (".", IsADirectoryError)):
        with pytest.raises(kind) as caught:
            FORMATS[format].read(tmp_path / name)
        assert caught.value.errno
        assert caught.value.filename == str(tmp_path / name)
    with pytest.raises(WeightsError, match=r"empty: is empty"):
        FORMATS[format].read(tmp_path / "empty")


@pytest.mark.parametrize(
    "raised",
    [
        struct.error("unpack"), OverflowError("too large"), RecursionError(), MemoryError(),
        ValueError("the limit (4300 digits)"), KeyError("x"),
        RuntimeError("h5"), NotImplementedError(), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        OSError(22, "Invalid"), OSError("h5py"),
        EOFError(), AssertionError(), TypeError("a\nb\x1b[31m"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_a_reader_raises_is_one_line(raised, tmp_path) -> None:
    @door.reader
    def read(path):
        raise raised

    (tmp_path / "w").write_bytes(b"x")
    with pytest.raises(WeightsError) as caught:
        read(tmp_path / "w")
    one_line(caught.value, tmp_path / "w")


def test_errors_of_the_system_and_of_others_pass(tmp_path) -> None:
    (tmp_path / "w").write_bytes(b"x")
    for raised in (OSError(5, "Input/output error"), ImportError("h5py"), KeyboardInterrupt()):

        @door.reader
        def read(path, raised=raised):
            raise raised

        with pytest.raises(type(raised)) as caught:
            read(tmp_path / "w")
        if isinstance(raised, OSError):
            assert (caught.value.errno, caught.value.filename) == (5, str(tmp_path / "w"))


def test_names_are_escaped_and_shortened(tmp_path) -> None:
    path = tmp_path / "a\x1b[2J\nb"
    path.write_bytes(b"x")
    with pytest.raises(WeightsError) as caught:
        segtwin_weights.read(path, "safetensors")
    assert str(caught.value).isprintable()
    assert r"a\x1b[2J\nb: " in str(caught.value)
    for name in ("a\0b", "a\udc80", "\x1b[31m", "x\u202ey", "", "a\n"):
        with pytest.raises(WeightsError, match="is called") as caught:
            door.check_name(path, name)
    for name in ("conv1_1/weight", "größe", "層/重み", "a b", "onnx::Conv_1"):
        door.check_name(path, name)


def safetensors(path, header, numbers=b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + numbers)


SHAPES = {
    "zero times a huge dimension": [0, 1 << 62],
    "zero times a large one": [0, 1 << 40],
    "65 dimensions": [1] * 64 + [0],
}


@pytest.mark.parametrize("what", SHAPES)
def test_shapes_that_no_array_has(what, tmp_path) -> None:
    shape = SHAPES[what]
    safetensors(tmp_path / "w.safetensors", {"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}})
    tensor = onnx.TensorProto(name="w", dims=shape, data_type=1)
    (tmp_path / "w.onnx").write_bytes(
        onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor])).SerializeToString()
    )
    blob = wire.delimited(7, wire.delimited(1, b"".join(map(wire.encode, shape)))) + wire.delimited(5, b"")
    (tmp_path / "w.caffemodel").write_bytes(
        wire.delimited(100, wire.text(1, "w") + wire.text(2, "Convolution") + wire.delimited(7, blob))
    )
    for name in ("w.safetensors", "w.onnx", "w.caffemodel"):
        with pytest.raises(WeightsError) as caught:
            segtwin_weights.read(tmp_path / name)
        one_line(caught.value, tmp_path / name)


def test_an_inner_product_of_four_axes(tmp_path) -> None:
    blob = wire.delimited(7, wire.delimited(1, bytes([2, 1, 3, 1]))) + wire.delimited(5, bytes(24))
    (tmp_path / "w.caffemodel").write_bytes(
        wire.delimited(100, wire.text(1, "fc") + wire.text(2, "InnerProduct") + wire.delimited(7, blob))
    )
    with pytest.raises(WeightsError, match=r"w\.caffemodel: the inner product fc has weights of shape 2×1×3×1"):
        segtwin_weights.read(tmp_path / "w.caffemodel")


def test_a_name_twice_in_a_header(tmp_path) -> None:
    entry = b'"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    safetensors(tmp_path / "w.safetensors", b"{" + entry + b"," + entry + b"}", bytes(4))
    with pytest.raises(WeightsError, match=r"w\.safetensors: .*'w' twice"):
        segtwin_weights.read(tmp_path / "w.safetensors")
    (tmp_path / "i.index.json").write_text('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}')
    with pytest.raises(WeightsError, match=r"i\.index\.json: .*'a' twice"):
        segtwin_weights.read(tmp_path / "i.index.json")


def test_shards_and_external_data_that_are_pipes(tmp_path) -> None:
    os.mkfifo(tmp_path / "x.safetensors")
    os.mkfifo(tmp_path / "x.data")
    (tmp_path / "w.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}')
    tensor = onnx.TensorProto(name="w", dims=[4], data_type=1, data_location=1)
    tensor.external_data.add(key="location", value="x.data")
    (tmp_path / "w.onnx").write_bytes(
        onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor])).SerializeToString()
    )
    for name in ("w.index.json", "w.onnx"):
        with pytest.raises(WeightsError, match=r"x\.(safetensors|data): is a FIFO") as caught:
            segtwin_weights.read(tmp_path / name)
        one_line(caught.value, tmp_path / name)


def test_external_data_named_over_and_over(tmp_path) -> None:
    (tmp_path / "x.data").write_bytes(bytes(4_000_000))

    def model(count: int) -> None:
        tensors = []
        for number in range(count):
            tensors.append(onnx.TensorProto(name=f"w{number}", dims=[1_000_000], data_type=1, data_location=1))
            tensors[-1].external_data.add(key="location", value="x.data")
        (tmp_path / "w.onnx").write_bytes(
            onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], tensors)).SerializeToString()
        )

    model(1)
    assert len(segtwin_weights.read(tmp_path / "w.onnx")) == 1
    model(20)
    with pytest.raises(WeightsError, match=r"w\.onnx: names more numbers in the data beside it"):
        segtwin_weights.read(tmp_path / "w.onnx")


# ----------------------------------------------------------------------------------------- metadata

PREPROCESSING = {"colour": "RGB", "mean": [0.0], "std": [1.0], "scale": 1.0, "bits": 8}
NONSENSE = [
    ("schema", '"x"'), ("schema", "99"), ("divisor", "0"), ("divisor", "null"), ("divisor", "-1"),
    ("divisor", "NaN"), ("classes", '"cat"'),
    ("classes", "[1, 2]"), ("palette", "[[1, 2, 300]]"), ("palette", "[[1, 2]]"), ("palette", "7"),
    ("colour", '"xyz"'), ("mean", '"abc"'),
    ("mean", "[NaN]"), ("mean", "[1e999]"), ("std", "0"), ("std", "2"), ("std", "[0]"), ("std", "[-1]"),
    ("std", "[NaN]"), ("num_classes", '"3"'),
    ("num_classes", "-1"), ("widths", '"x"'), ("architecture", "[]"), ("preprocessing", "[" * 2000 + "]" * 2000),
    ("classes", "[" * 200 + "]" * 200),
    ("mean", "[" + "9" * 5000 + "]"),
    *(("preprocessing", json.dumps({**PREPROCESSING, key: value})) for key, value in (
        ("scale", 0), ("scale", None), ("scale", -1), ("scale", float("nan")), ("std", 3), ("std", [0]),
        ("std", [float("nan")]), ("mean", "abc"),
        ("mean", [1, 2, 3, 4]), ("bits", 0), ("bits", 99), ("colour", "xyz"), ("colour", None), ("mean", [1e39]),
        ("std", [1e-44]), ("x", 1),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("key", "text"), NONSENSE, ids=lambda value: value[:40])
def test_metadata_that_cannot_be(key, text, tmp_path) -> None:
    told = {"architecture": '"fcn8s"', "num_classes": "2", "colour": '"RGB"'} | {key: text}
    safetensors(
        tmp_path / "w.safetensors",
        {"__metadata__": told, "conv1_1/weight": {"dtype": "F32", "shape": [1, 3, 1, 1], "data_offsets": [0, 12]}},
        bytes(12),
    )
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [], "g", [], [], [onnx.numpy_helper.from_array(np.ones((1, 3, 1, 1), "f4"), "conv1_1/weight")]
        )
    )
    onnx.helper.set_model_props(model, told)
    (tmp_path / "w.onnx").write_bytes(model.SerializeToString())
    for name in ("w.safetensors", "w.onnx"):
        if name.endswith("onnx") and key == "widths":  # these files do not have them
            continue
        with pytest.raises(WeightsError, match="metadata") as caught:
            segtwin_weights.read(tmp_path / name)
        one_line(caught.value, tmp_path / name)


def test_metadata_of_others_stay_text(tmp_path) -> None:
    told = {"format": "pt", "note": "[" * 3000, "value": "NaN"}
    safetensors(
        tmp_path / "w.safetensors",
        {"__metadata__": told, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        bytes(4),
    )
    assert segtwin_weights.read(tmp_path / "w.safetensors").metadata == told


def test_a_preprocessing_whose_values_float32_cannot_hold() -> None:
    for wrong in (
        {"mean": 1e39},
        {"std": 1e-44},
        {"scale": 1e-300},
        {"mean": (1, 2, 3), "std": (1, 2)},
        {"mean": 10**400},
    ):
        with pytest.raises(ValueError, match=r"mean|std|scale"):
            Preprocessing(**wrong)


# ------------------------------------------------------------------------------------------ numbers


def test_numbers_that_no_network_computes_with(tmp_path) -> None:
    cases = {
        "double": ("w", np.array([1e300])),
        "variance": ("bn.running_var", np.array([-1.0], "f4")),
        "nan": ("w", np.array([np.nan], "f2")),
    }
    from safetensors.numpy import save_file

    for what, (name, array) in cases.items():
        save_file({name: array}, tmp_path / f"{what}.safetensors")
        with pytest.raises(WeightsError, match=rf"{what}\.safetensors: {name} (holds|is a variance)"):
            segtwin_weights.read(tmp_path / f"{what}.safetensors")


def test_numbers_given_in_memory() -> None:
    architecture = get_architecture("unet")
    good = segtwin_weights.initialize("unet", widths=(2, 2, 2, 2, 2), seed=0)
    first = next(name for name in good if good[name].ndim == 4)
    variance = next(name for name in good if name.endswith("running_var"))
    wrong = {
        first: [
            np.full(good[first].shape, value, dtype)
            for value, dtype in ((np.nan, "f4"), (np.inf, "f4"), (1e300, "f8"), (1, "c8"), ("x", "O"))
        ],
        variance: [-good[variance] - 1],
    }
    for name, arrays in wrong.items():
        for array in arrays:
            for kind in (dict, Weights):
                with pytest.raises(WeightsError, match=name):
                    segtwin_weights.weights_for(kind({**good, name: array}), architecture)
    assert segtwin_weights.weights_for(dict(good), architecture).keys() == good.keys()


@pytest.mark.parametrize("command", ["predict", "inspect", "parity"])
def test_an_onnx_file_with_nonsense_in_its_metadata_is_one_line_of_every_command(
    command, tmp_path, capsys, monkeypatch
) -> None:
    from PIL import Image
    from segtwin_cli.main import main

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    values = [onnx.helper.make_tensor_value_info(name, 1, ["N", 3, "H", "W"]) for name in ("image", "scores")]
    weight = onnx.numpy_helper.from_array(np.ones((3, 3, 1, 1), "f4"), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["image", "w"], ["scores"])], "g", values[:1], values[1:], [weight]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    for text in ('{"colour": "RGB", "mean": [0], "std": [NaN], "scale": 1, "bits": 8}', '{"scale": 0}'):
        onnx.helper.set_model_props(model, {"preprocessing": text})
        (tmp_path / "w.onnx").write_bytes(model.SerializeToString())
        arguments = {
            "predict": ["predict", "w.onnx", "a.png", "-o", "out"],
            "inspect": ["inspect", "w.onnx"],
            "parity": ["parity", "w.onnx", "a.png"],
        }
        with pytest.raises(SystemExit) as caught:
            main([*arguments[command], "--quiet"])
        said = capsys.readouterr().err
        assert caught.value.code == 2
        assert said.count("\n") == 1
        assert "w.onnx: the metadata's preprocessing cannot be used" in said
    assert not (tmp_path / "out").exists()
