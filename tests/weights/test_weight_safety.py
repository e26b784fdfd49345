"""Hostile and damaged files: the outcome is weights or one line that names the file and the reason;
nothing runs, hangs, or fills the memory.

`fuzz.py` runs the same mutations by the thousand, each batch in a process of its own.
"""

import io
import os
import pickle
import struct
import zipfile
from functools import partial

import fuzz
import h5py
import numpy as np
import onnx
import pytest
import segtwin_weights
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segtwin_weights import Weights, WeightsError
from segtwin_weights.formats import pickles, wire

pytestmark = pytest.mark.fuzz

SEEDS = 25


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return fuzz.small_files(tmp_path_factory.mktemp("small"))


KINDS = [
    "legacy.pth", "old.h5", "small.caffemodel.h5", "small.keras", "small.onnx", "small.safetensors",
    "small.weights.h5", "theano.h5",
    "tiny_vgg16_s1_v1.caffemodel", "tiny_vgg16_s1_v2.caffemodel", "vgg16.npy", "vgg16_weights.npz", "zip.pth",
]  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_mutated_files(name: str, files, tmp_path) -> None:
    assert sorted(files) == sorted(KINDS)
    outcomes = {fuzz.outcome(fuzz.case(files, name, seed, tmp_path)) for seed in range(SEEDS)}
    assert "refused" in outcomes


@pytest.mark.parametrize("name", KINDS)
def test_files_cut_short_anywhere(name: str, files, tmp_path) -> None:
    """A file cut inside an array is refused; a message format cut between two layers cannot tell,
    and a shorter dictionary is what it holds."""
    data = files[name].read_bytes()
    path = tmp_path / name
    for length in (1, 7, 64, len(data) // 3, len(data) - 1):
        path.write_bytes(data[:length])
        assert fuzz.outcome(path) == "refused", length


MAGIC = {
    "caffemodel": b"",
    "onnx": b"\x08",
    "torch": b"PK\x03\x04",
    "keras": b"\x89HDF\r\n\x1a\n",
    "safetensors": b"",
    "vgg16.npy": b"\x93NUMPY\x01\x00",
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(MAGIC)), tail=st.binary(max_size=200))
def test_random_bytes(kind: str, tail: bytes, tmp_path) -> None:
    path = tmp_path / "random"
    path.write_bytes(MAGIC[kind] + tail + b"\0")
    fuzz.outcome(path, kind)


def message(depth: int):
    """Well-formed protobuf of random fields, messages in messages."""
    number = st.sampled_from([1, 2, 4, 5, 6, 7, 8, 9, 13, 14, 100])
    leaf = st.one_of(
        st.builds(lambda n, v: wire.key(n, 0) + wire.encode(v), number, st.integers(0, 2**64 - 1)),
        st.builds(lambda n, v: wire.key(n, 5) + v, number, st.binary(min_size=4, max_size=4)),
        st.builds(lambda n, v: wire.key(n, 1) + v, number, st.binary(min_size=8, max_size=8)),
        st.builds(wire.delimited, number, st.binary(max_size=24)),
    )
    if not depth:
        return st.lists(leaf, max_size=4).map(b"".join)
    return st.lists(leaf | st.builds(wire.delimited, number, message(depth - 1)), max_size=4).map(b"".join)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["caffemodel", "onnx"]), data=message(3))
def test_random_messages(kind: str, data: bytes, tmp_path) -> None:
    path = tmp_path / "message"
    path.write_bytes(data + b"\0")
    fuzz.outcome(path, kind)
    path.write_bytes(data or wire.text(1, "x"))
    fuzz.outcome(path, kind)


NAMES = st.sampled_from(
    [
        b"numpy\nndarray",
        b"numpy\ndtype",
        b"collections\nOrderedDict",
        b"torch._utils\n_rebuild_tensor_v2",
        b"os\nsystem",
        b"torch\nFloatStorage",
    ]
)
OPCODES = st.one_of(
    st.sampled_from([
        pickle.MARK, pickle.EMPTY_TUPLE, pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.TUPLE, pickle.REDUCE,
        pickle.BUILD, pickle.SETITEMS,
        pickle.SETITEM, pickle.APPENDS, pickle.DUP, pickle.POP, pickle.NEWOBJ, pickle.OBJ, pickle.BINPERSID,
        pickle.NONE, pickle.TUPLE2,
        pickle.POP_MARK, pickle.MEMOIZE, pickle.STACK_GLOBAL, pickle.NEWTRUE,
    ]),
    NAMES.map(lambda name: pickle.GLOBAL + name + b"\n"),
    NAMES.map(lambda name: pickle.INST + name + b"\n"),
    st.integers(0, 2**31 - 1).map(lambda n: pickle.LONG_BINPUT + struct.pack("<I", n)),
    st.integers(0, 2**31 - 1).map(lambda n: pickle.LONG_BINGET + struct.pack("<I", n)),
    st.integers(-5, 5).map(lambda n: pickle.BININT + struct.pack("<i", n)),
    st.text(max_size=4).map(lambda s: pickle.BINUNICODE + struct.pack("<I", len(s.encode())) + s.encode()),
    st.integers(0, 2**64 - 1).map(lambda n: pickle.BINBYTES8 + struct.pack("<Q", n)),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=st.lists(OPCODES, max_size=25))
def test_random_pickle_programs(program: list[bytes], tmp_path) -> None:
    path = tmp_path / "program.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + b"".join(program) + pickle.STOP)
    fuzz.outcome(path)
    assert pickles.Array.reconstruct().shape == ()  # no program changes the stand-ins
    assert pickles.encode("a") == b"a"


# ------------------------------------------------------------------------------ nothing a file says


class Gadget:
    """Runs a command when it is unpickled by Python's own machine."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def gadgets(trace) -> list:
    touch = f"touch {trace}"
    return [
        Gadget(os.system, touch),
        Gadget(eval, f"open({str(trace)!r}, 'w')"),
        Gadget(partial, os.system, touch),
        Gadget(getattr, "os", "system"),
    ]


def as_npy(path, thing) -> None:
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(thing, file)


def as_zip(path, thing) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(thing, 2))


def as_legacy(path, thing) -> None:
    path.write_bytes(
        b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, thing, []))
    )


@pytest.mark.parametrize("write", [as_npy, as_zip, as_legacy])
@pytest.mark.parametrize("number", range(4))
def test_gadgets_are_not_run(write, number: int, tmp_path) -> None:
    trace = tmp_path / "ran"
    write(tmp_path / "file", {"conv1_1": gadgets(trace)[number]})
    with pytest.raises(WeightsError, match=r"file: asks for .*nothing was run"):
        segtwin_weights.read(tmp_path / "file")
    assert not trace.exists()


def test_a_pickle_changes_no_stand_in(tmp_path) -> None:
    """BUILD with slots would set attributes of whatever lies on the stack: here our own class and
    function."""
    for name in (b"cnumpy\nndarray\n", b"c_codecs\nencode\n"):
        slots = b"N}X\x05\x00\x00\x00shapeK\x01s\x86b"
        (tmp_path / "f").write_bytes(b"")
        with zipfile.ZipFile(tmp_path / "f", "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x02}X\x01\x00\x00\x00a" + name + slots + b"s.")
        with pytest.raises(WeightsError, match="the state of a"):
            segtwin_weights.read(tmp_path / "f")
    assert not hasattr(pickles.encode, "shape")


def test_memo_and_length_bombs_cost_nothing(tmp_path) -> None:
    bombs = {
        "memo": b"}r\xff\xff\xff\x7f.",
        "bytes": b"\x8e" + b"\xff" * 7 + b"\x7f" + b".",
        "bytearray": b"\x96" + b"\xff" * 4 + b"\x00" * 4 + b".",
        "string": b"T\xff\xff\xff\x7f.",
        "integer": b"\x8b\xff\xff\xff\x7f.",
        "frame": b"\x95" + b"\xff" * 7 + b"\x7f" + b"}.",
    }
    for name, program in bombs.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x04" + program)
        assert fuzz.outcome(tmp_path / name) == "refused"


def test_no_more_bytes_are_asked_for_than_are_left(tmp_path) -> None:
    """Whatever length a pickle claims, the file itself is asked for nothing that it has not; large
    pieces are views of it."""

    class Watched(io.BytesIO):
        def read(self, count: int = -1) -> bytes:
            assert 0 <= count <= 10, "memory is asked for"
            return super().read(count)

    file = pickles.Bounded(Watched(b"0123456789"))
    assert file.read(4) == b"0123"
    for count in (7, 1 << 40, -1):
        with pytest.raises(EOFError, match=r"are asked for, 6 are left"):
            file.read(count)
    assert file.read(6) == b"456789"
    (tmp_path / "large").write_bytes(bytes(range(256)) * 512)
    with open(tmp_path / "large", "rb") as real:
        bounded = pickles.Bounded(real)
        assert bounded.read(1) == b"\x00"
        view = bounded.read(pickles.LARGE)
        assert isinstance(view, memoryview)
        assert bytes(view[:2]) == b"\x01\x02"
        assert bounded.read(1) == b"\x01"


# ----------------------------------------------------------------------------------------- archives


def test_torch_archives_are_not_unpacked_or_inflated(tmp_path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"0" * 10_000_000)
    assert path.stat().st_size < 20_000
    with pytest.raises(WeightsError, match=r"bomb\.pth: 'a/data\.pkl' is compressed"):
        segtwin_weights.read(path)
    good = io.BytesIO()
    torch.save({"a": torch.ones(3)}, good)
    with zipfile.ZipFile(good) as archive, zipfile.ZipFile(path, "w") as out:
        for entry in archive.infolist():
            out.writestr(entry.filename, archive.read(entry))
        out.writestr("../../escaped", "x")
        out.writestr("/absolute", "x")
    assert segtwin_weights.read(path).keys() == {"a"}
    assert {p.name for p in tmp_path.iterdir()} == {"bomb.pth"}


def test_a_small_storage_does_not_become_a_large_array(tmp_path) -> None:
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "wide.pth")
    with pytest.raises(WeightsError, match=r"wide\.pth: names 4,398,046,511,104 bytes"):
        segtwin_weights.read(tmp_path / "wide.pth")
    tensor = torch.zeros(1000)
    torch.save({f"t{i}": tensor for i in range(1000)}, tmp_path / "many.pth")
    with pytest.raises(WeightsError, match=r"many\.pth: names"):
        segtwin_weights.read(tmp_path / "many.pth")


# --------------------------------------------------------------------------------------------- HDF5


def hostile_h5(what: str, folder):
    path, secret = folder / f"{what}.weights.h5", folder / "secret"
    secret.write_bytes(np.arange(4, dtype="<f4").tobytes())
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.ones(4, "f4")
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/conv2d/vars")
        match what:
            case "external link":
                group["0"] = h5py.ExternalLink("other.h5", "/x")
            case "soft link":
                file["x"] = np.ones(4, "f4")
                group["0"] = h5py.SoftLink("/x")
            case "external storage":
                group.create_dataset("0", (4,), "<f4", external=[(str(secret), 0, 16)])
            case "virtual":
                layout = h5py.VirtualLayout((4,), "f4")
                layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (4,))
                group.create_virtual_dataset("0", layout)
            case "huge":
                group.create_dataset("0", (1 << 40,), "f4", chunks=(1 << 20,))
            case "zip bomb":
                group.create_dataset("0", data=np.zeros(10_000_000, "f4"), compression="gzip", chunks=(1 << 20,))
            case "cycle":
                group["again"] = file["layers"]
            case "text":
                group["0"] = "not a number"
    return path


HDF5_REASONS = {
    "external link": "is a link", "soft link": "is a link", "external storage": "lies outside the file",
    "virtual": "lies outside the file",
    "huge": "declares more numbers", "zip bomb": "declares more numbers", "cycle": "is there twice",
    "text": "is no array of numbers",
}  # fmt: skip


@pytest.mark.parametrize("what", HDF5_REASONS)
def test_hdf5_stays_in_its_file_and_its_size(what: str, tmp_path) -> None:
    path = hostile_h5(what, tmp_path)
    assert fuzz.outcome(path) == "refused"
    with pytest.raises(WeightsError, match=rf"{what}\.weights\.h5: .*{HDF5_REASONS[what]}"):
        segtwin_weights.read(path)


# --------------------------------------------------------------------------- ONNX, shards, protobuf


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "sub/../../secret", "link", "", "."])
def test_onnx_reads_no_file_elsewhere(location: str, tmp_path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(16))
    (folder / "link").symlink_to(tmp_path / "secret")
    tensor = onnx.TensorProto(name="w", dims=[4], data_type=1, data_location=1)
    tensor.external_data.add(key="location", value=location)
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor]))
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match=r"m\.onnx: w lies in .*outside the file's folder"):
        segtwin_weights.read(folder / "m.onnx")


@pytest.mark.parametrize("offset", ["-1", "99999999999999999999", "x", "1"])
def test_onnx_reads_nothing_beyond_its_data(offset: str, tmp_path) -> None:
    (tmp_path / "data").write_bytes(bytes(16))
    tensor = onnx.TensorProto(name="w", dims=[4], data_type=1, data_location=1)
    tensor.external_data.add(key="location", value="data")
    tensor.external_data.add(key="offset", value=offset)
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match=r"m\.onnx: w (goes beyond|begins at)"):
        segtwin_weights.read(tmp_path / "m.onnx")


@pytest.mark.parametrize("shard", ["../w.safetensors", "/w.safetensors", "sub/w.safetensors", "w.pth", 3])
def test_shards_lie_beside_their_index(shard, tmp_path) -> None:
    import json

    (tmp_path / "w.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(WeightsError, match=r"index\.json: is no index"):
        segtwin_weights.read(tmp_path / "w.safetensors.index.json")


def test_protobuf_bombs(tmp_path) -> None:
    deep = b""
    for _ in range(2_000):
        deep = wire.delimited(7, deep)
    layer = wire.text(1, "a") + wire.text(2, "Convolution")
    claims = wire.delimited(7, b"".join(wire.key(1, 0) + wire.encode(1 << 40) for _ in range(3))) + wire.delimited(
        5, bytes(8)
    )
    cases = {
        "deep": wire.delimited(100, layer + wire.delimited(7, deep)),
        "claims": wire.delimited(100, layer + wire.delimited(7, claims)),
        "length": wire.text(1, "n") + wire.key(100, 2) + wire.encode(1 << 60),
        "fields": wire.text(1, "n") + (wire.key(5, 0) + b"\x01") * (wire.MOST_FIELDS + 1),
        "dimensions": wire.delimited(
            100, layer + wire.delimited(7, wire.delimited(7, wire.delimited(1, b"\x01" * 1000)))
        ),
        "negative": wire.delimited(
            100, layer + wire.delimited(7, wire.delimited(7, wire.key(1, 0) + wire.encode((1 << 64) - 4)))
        ),
        "twice": 2 * wire.delimited(100, layer + wire.delimited(7, wire.delimited(5, bytes(8)))),
        "v0": wire.delimited(2, wire.delimited(1, b"\x0a\x01a")),
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        assert fuzz.outcome(tmp_path / name, "caffemodel") == "refused", name


@pytest.mark.parametrize("suffix", [".caffemodel", ".pth", ".weights.h5", ".safetensors", ".npy"])
def test_nan_is_refused_whatever_the_format(suffix: str, tmp_path) -> None:
    weights = segtwin_weights.read(fuzz.GOLDEN / "tiny_vgg16_s1_v2.caffemodel")
    broken = weights["conv3_2/weight"].copy()
    broken[0, 0, 0, 0] = np.nan
    segtwin_weights.write(Weights({**weights, "conv3_2/weight": broken}), tmp_path / f"w{suffix}")
    with pytest.raises(WeightsError, match=rf"w\{suffix}: conv3_2\S* .*1 NaN"):
        segtwin_weights.read(tmp_path / f"w{suffix}")


def test_a_failed_write_leaves_nothing(tmp_path) -> None:
    odd = Weights({"a/weight": np.zeros(3, np.complex64)})
    for suffix in (".caffemodel", ".pth", ".weights.h5", ".npy"):
        with pytest.raises(WeightsError):
            segtwin_weights.write(odd, tmp_path / f"w{suffix}")
    assert not list(tmp_path.iterdir())
