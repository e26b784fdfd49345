"""What is no file of weights is called by its name, in one line that says what to give instead."""

import json
import pickle
import subprocess
import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import segtwin_weights
import torch
from goldens import TINY, recipe_weights
from safetensors.numpy import save_file
from segtwin_weights import WeightsError
from segtwin_weights.formats import safetensors_file, wire

FILES = {
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "TensorFlow's list of checkpoints": b'model_checkpoint_path: "model.ckpt-7"\n',
    "an ncnn .param": b"7767517\n3 3\nInput data 0 1 data\n",
    "a PNG image": b"\x89PNG\r\n\x1a\n" + bytes(40),
    "a JPEG image": b"\xff\xd8\xff\xe0" + bytes(40),
    "a gzip archive": b"\x1f\x8b\x08" + bytes(40),
    "a TensorFlow Lite model": b"\x1c\0\0\0TFL3" + bytes(40),
    "a tar archive": b"vgg16.npy".ljust(257, b"\0") + b"ustar\x0000" + bytes(300),
    "an OpenVINO graph": b'<?xml version="1.0"?>\n<net name="fcn8s" version="11">',
    "a prototxt": b'name: "fcn8s"\nlayer {\n  name: "conv1_1"\n}\n',
}


@pytest.mark.parametrize("what", FILES)
def test_the_true_kind_is_named(what: str, tmp_path: Path) -> None:
    (path := tmp_path / "file").write_bytes(FILES[what])
    with pytest.raises(WeightsError, match=rf"file: is {what}") as caught:
        segtwin_weights.read(path)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------- written by their own libraries


def blob(*shape: int, legacy: bool) -> bytes:
    """Caffe's BlobProto: num, channels, height, width 1 to 4, or shape 7; data 5."""
    numbers = wire.delimited(5, np.ones(shape, "<f4").tobytes())
    if legacy:
        return b"".join(wire.key(i, 0) + wire.encode(size) for i, size in enumerate(shape, 1)) + numbers
    return numbers + wire.delimited(7, wire.delimited(1, b"".join(map(wire.encode, shape))))


def solverstate(learned: str = "fcn8s_iter_100.caffemodel", histories: int = 2) -> bytes:
    """Caffe's SolverState: iter 1, learned_net 2, history 3, current_step 4."""
    history = b"".join(wire.delimited(3, blob(2, 3, 1, 1, legacy=False)) for _ in range(histories))
    return (
        wire.key(1, 0)
        + wire.encode(100)
        + (wire.text(2, learned) if learned else b"")
        + history
        + wire.key(4, 0)
        + wire.encode(0)
    )


def tensorflow_graph() -> Any:
    import tensorflow

    with tensorflow.Graph().as_default() as graph:
        variable = tensorflow.compat.v1.get_variable("conv1_1/filter", (3, 3, 3, 4))
        tensorflow.nn.conv2d(tensorflow.compat.v1.placeholder(tensorflow.float32, (1, 8, 8, 3)), variable, 1, "SAME")
        return tensorflow.compat.v1.train.export_meta_graph(graph=graph)


def saved_model(meta: Any) -> bytes:
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    model.meta_graphs.add().CopyFrom(meta)
    return model.SerializeToString()


PROTOBUF = {
    "solver": (
        lambda: solverstate(),
        r"a Caffe solver's state .*give the \.caffemodel beside it: fcn8s_iter_100\.caffemodel",
    ),
    "solver without a net": (lambda: solverstate("", 3), "a Caffe solver's state .*give the .caffemodel beside it"),
    "solver without momentum": (lambda: solverstate(histories=0), "a Caffe solver's state"),
    "mean": (lambda: blob(1, 3, 8, 8, legacy=True), "one blob of Caffe's .mean.binaryproto.*give the .caffemodel"),
    "mean of V2": (
        lambda: blob(1, 3, 8, 8, legacy=False),
        "one blob of Caffe's .mean.binaryproto.*give the .caffemodel",
    ),
    "model.ckpt-7.meta": (
        lambda: tensorflow_graph().SerializeToString(),
        r"a TensorFlow graph without weights .*prefix, model\.ckpt-7$",
    ),
    "frozen.pb": (
        lambda: tensorflow_graph().graph_def.SerializeToString(),
        r"a TensorFlow graph \(\.pb\); give the checkpoint",
    ),
    "saved_model.pb": (lambda: saved_model(tensorflow_graph()), "TensorFlow's SavedModel.*variables/variables"),
    "model.mlmodel": (
        lambda: wire.key(1, 0) + wire.encode(4) + wire.text(2, "d") + wire.delimited(500, wire.text(1, "layers")),
        "a CoreML model; give the file it was made from",
    ),
}


@pytest.mark.parametrize("name", PROTOBUF)
def test_messages_are_told_by_their_fields(name: str, tmp_path: Path) -> None:
    make, says = PROTOBUF[name]
    (path := tmp_path / name).write_bytes(make())
    with pytest.raises(WeightsError, match=rf"{name}: is {says}") as caught:
        segtwin_weights.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".caffemodel", ".onnx"])
def test_messages_of_weights_are_no_other_kind(suffix: str, tmp_path: Path) -> None:
    weights = recipe_weights("fcn8s", TINY)
    if suffix == ".onnx":
        import segtwin_torch

        segtwin_torch.export_onnx(segtwin_torch.build("fcn8s", widths=TINY, weights=weights), tmp_path / "file.onnx")
    else:
        segtwin_weights.write(weights, tmp_path / "file.caffemodel")
    got = segtwin_weights.read(tmp_path / f"file{suffix}")
    assert got.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(got[name], array)


def hdf5(name: str, path: Path) -> None:
    """HDF5 as Caffe, Caffe's data layer, PyTables and a home-made script write it."""
    with h5py.File(path, "w") as file:
        if name == "solver":
            file["iter"], file["current_step"] = 100, 0
            file["history/0"] = np.ones(3, "f4")
        elif name == "data":
            file["data"], file["label"] = np.ones((2, 3, 4, 4), "f4"), np.zeros((2, 1, 4, 4), "f4")
        elif name == "table":
            file.attrs["CLASS"], file.attrs["PYTABLES_FORMAT_VERSION"] = b"GROUP", b"2.1"
            file["df/block0_values"] = np.ones((2, 2))
        elif name == "other":
            file["volume"], file["mask"] = np.ones((4, 4, 4), "f4"), np.ones((4, 4, 4), "u1")


HDF5 = {
    "solver": "a Caffe solver's state in HDF5 .*give the .caffemodel.h5 beside it",
    "data": "a set of images and labels in HDF5, for a training; give the file of weights",
    "table": "a table of PyTables or pandas; give",
    "other": r"an HDF5 file without layers of Keras or Caffe \(it holds mask, volume\); give",
}


@pytest.mark.parametrize("name", HDF5)
def test_hdf5_of_other_kinds(name: str, tmp_path: Path) -> None:
    hdf5(name, tmp_path / "file.h5")
    with pytest.raises(WeightsError, match=rf"file\.h5: is {HDF5[name]}"):
        segtwin_weights.read(tmp_path / "file.h5")


MORE = {
    "a MATLAB file": b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\1IM" + bytes(40),
    "a MATLAB file (": b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n" + bytes(40),
    "a TensorRT engine": b"ftrt" + bytes(60),
    "a darknet .weights file": np.array([0, 2, 5, 32013312, 0], "<i4").tobytes() + np.ones(9, "<f4").tobytes(),
    "a .params file of MXNet": b"\x12\1\0\0\0\0\0\0" + bytes(40),
    "a label map": b"item {\n  id: 1\n  name: 'cat'\n}\n",
    "a TensorFlow graph as text": b'node {\n  name: "x"\n  op: "Const"\n}\n',
    "an LMDB database": bytes(16) + b"\xde\xc0\xef\xbe" + bytes(40),
    "a Keras model's config": b'{"class_name": "Functional", "config": {}}',
    "a Python pickle of a dict": pickle.dumps({"conv1_1": 1}, 4),
    "a Python pickle of a list": pickle.dumps([1, 2], 2),
    "a Python pickle of collections.OrderedDict": pickle.dumps(OrderedDict(a=1), 4),
    "a Python pickle of collections.OrderedDict, no": pickle.dumps(OrderedDict(a=1), 2),
}


@pytest.mark.parametrize("what", MORE)
def test_more_kinds(what: str, tmp_path: Path) -> None:
    (path := tmp_path / "file").write_bytes(MORE[what])
    with pytest.raises(WeightsError) as caught:
        segtwin_weights.read(path)
    assert str(caught.value).startswith(f"{path}: is {what}")
    assert "; give" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_foreign_pickle_is_not_run(tmp_path: Path) -> None:
    (path := tmp_path / "file.pkl").write_bytes(pickle.dumps(subprocess.Popen.__init__, 4))
    with pytest.raises(WeightsError, match="a Python pickle"):
        segtwin_weights.read(path)


def test_an_npz_of_other_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "file.npz", images=np.ones(3), labels=np.ones(3))
    with pytest.raises(WeightsError, match=r"file\.npz: is a \.npz of other arrays \(images, labels\) than VGG-16's"):
        segtwin_weights.read(tmp_path / "file.npz")


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_optimiser_alone(wrapped: bool, tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 3)
    optimiser = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    torch.save(
        {"epoch": 3, "optimizer": optimiser.state_dict()} if wrapped else optimiser.state_dict(), tmp_path / "file.pth"
    )
    with pytest.raises(WeightsError, match=r"file\.pth: is the state of an optimiser, without the network; give"):
        segtwin_weights.read(tmp_path / "file.pth")


def test_one_shard_and_an_index_alone(tmp_path: Path) -> None:
    weights = recipe_weights("fcn8s", TINY)
    safetensors_file.write(weights, tmp_path / "model.safetensors", shard_bytes=20_000)
    index = tmp_path / "model.safetensors.index.json"
    assert segtwin_weights.read(index).keys() == weights.keys()
    shard = sorted(tmp_path.glob("model-00002-of-*.safetensors"))[0]
    with pytest.raises(WeightsError, match=r"is shard 2 of \d+; give their index, model\.safetensors\.index\.json"):
        segtwin_weights.read(shard)
    (alone := tmp_path / "alone").mkdir()
    index.rename(alone / index.name)
    with pytest.raises(
        WeightsError, match=r"index\.json: the shard model-00001-of-\d+\.safetensors is not beside it; fetch all"
    ):
        segtwin_weights.read(alone / index.name)


@pytest.mark.parametrize("length", [0x8B1F, 0x0A0A, 0x0808], ids=["as gzip", "as Caffe", "as ONNX"])
def test_a_safetensors_file_whose_length_looks_like_another_kind(length: int, tmp_path: Path) -> None:
    """A header of 35,615 bytes begins as gzip does; headers may be filled up with spaces."""
    save_file({"conv.weight": np.ones((2, 2), np.float32)}, tmp_path / "plain")
    data = (tmp_path / "plain").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size])).ljust(length)
    (path := tmp_path / "file").write_bytes(length.to_bytes(8, "little") + header.encode() + data[8 + size :])
    assert list(segtwin_weights.read(path)) == ["conv.weight"]


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(WeightsError, match="is a folder, TensorFlow's SavedModel; give the prefix"):
        segtwin_weights.read(tmp_path)


# --------------------------------------------------------------------------------- what is imported


def test_libraries_of_formats_are_imported_when_a_file_asks_for_them() -> None:
    script = (
        "import sys, segtwin_weights; print(*({'h5py', 'onnx', 'safetensors', 'requests', 'torch', "
        "'tensorflow'} & sys.modules.keys()))"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split() == []
    )


def test_json_of_a_failed_download(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text('{"error": "Repository not found"}')
    with pytest.raises(
        WeightsError, match=r"model.safetensors: is JSON, and no index of safetensors shards; give the file of weights"
    ):
        segtwin_weights.read(tmp_path / "model.safetensors")


def test_a_distributed_checkpoint_is_a_folder(tmp_path: Path) -> None:
    import torch
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"w": torch.ones(2, 3)}, checkpoint_id=str(tmp_path / "step"), no_dist=True)
    with pytest.raises(
        WeightsError, match=r"step: is a folder, a distributed checkpoint of torch; make one file of it"
    ):
        segtwin_weights.read(tmp_path / "step")
