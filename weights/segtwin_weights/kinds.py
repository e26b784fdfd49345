"""Files that people give in place of weights, told by their content: what each is, and what to give
instead."""

from __future__ import annotations

import os
import pickletools
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h5py

DARKNET = "a darknet .weights file, numbers without names; give weights of a network that is known here"
BEGINNINGS = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself; run git lfs pull"),
    (b"model_checkpoint_path:", "TensorFlow's list of checkpoints; give the prefix that it names, such as model.ckpt"),
    (b"7767517", "an ncnn .param, a graph without weights; give the file it was made from"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image; give a file of weights"),
    (b"\xff\xd8\xff", "a JPEG image; give a file of weights"),
    (b"\x1f\x8b", "a gzip archive; unpack it and give the file of weights in it"),
    (b"BZh", "a bzip2 archive; unpack it and give the file of weights in it"),
    (b"\xfd7zXZ\0", "an xz archive; unpack it and give the file of weights in it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it and give the file of weights in it"),
    (b"Rar!", "a rar archive; unpack it and give the file of weights in it"),
    (
        b"MATLAB 5.0 MAT-file",
        "a MATLAB file (MatConvNet's, perhaps); give the .caffemodel or the vgg16.npy of the same network",
    ),
    (
        b"MATLAB 7.3 MAT-file",
        "a MATLAB file (MatConvNet's, perhaps); give the .caffemodel or the vgg16.npy of the same network",
    ),
    (b"ftrt", "a TensorRT engine, compiled for one GPU; give the ONNX file it was made from"),
    (b"ptrt", "a TensorRT engine, compiled for one GPU; give the ONNX file it was made from"),
    (b"GGUF", "a GGUF file, of language models; give a file of weights of a network of images"),
    (b"\x12\x01\0\0\0\0\0\0", "a .params file of MXNet; give the file it was made from, or its ONNX export"),
    (
        b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1",
        "a .t7 file of Torch 7 (Lua); give the .caffemodel or .pth of the same network",
    ),
    (b"[net]", "a darknet .cfg, a graph without weights; give weights of a network that is known here"),
    (b"\0\0\0\0\x01\0\0\0", DARKNET),
    (b"\0\0\0\0\x02\0\0\0", DARKNET),
    (
        b"item {",
        "a label map, names of classes and no weights; give the file of weights (names go into --classes, one a line)",
    ),
    (
        b"item{",
        "a label map, names of classes and no weights; give the file of weights (names go into --classes, one a line)",
    ),
    (b"node {", "a TensorFlow graph as text; give the checkpoint's prefix, such as model.ckpt"),
    (b"node{", "a TensorFlow graph as text; give the checkpoint's prefix, such as model.ckpt"),
    (b"%PDF", "a PDF; give a file of weights"),
)
PROTOTXT = (b"layer {", b"layers {", b"layer{", b"layers{", b"base_lr:")
HEAD = 4096


def other(path: str | os.PathLike[str]) -> str | None:
    """What a file is that holds no weights, in words that go on "is …"; None where it may hold
    some."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    text = head.lstrip()
    for beginning, what in BEGINNINGS:
        if text.startswith(beginning) or head.startswith(beginning):
            return what
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model; give the Keras file or checkpoint it was made from"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it and give the file of weights in it"
    if text.startswith((b"<net", b"<?xml")) and b"<net" in text:
        return "an OpenVINO graph without weights; give the ONNX file it was made from"
    if head[16:20] == b"\xde\xc0\xef\xbe":
        return "an LMDB database, images for a training; give the file of weights"
    if text.startswith(b"{") and b'"class_name"' in text and b'"weight_map"' not in text:
        return "a Keras model's config as JSON, without weights; give the .weights.h5 or .keras file"
    if b"\0" not in head and any(mark in head for mark in PROTOTXT):
        return "a prototxt, which describes a network and holds no weights; give the .caffemodel"
    if head[:1] in PROTOBUF:
        return protobuf(path)
    return None


# --------------------------------------------------------------------------------- Protocol Buffers

PROTOBUF = (b"\x08", b"\x0a", b"\x12", b"\x2a")
"""What messages of the kinds here begin with: field 1 as a number or with a length, field 2, field
5."""
MOST_FIELDS = 100_000
Message = dict[int, list["int | memoryview"]]


def protobuf(path: str | os.PathLike[str]) -> str | None:
    """What a message is that holds no weights, told by the fields that it has; None for those of
    ONNX and Caffe's nets, and damaged ones.

    SolverState    iter 1, learned_net 2, history 3 {blob}, current_step 4         caffe.proto
    BlobProto      num … width 1 to 4, data 5, shape 7
    GraphDef       node 1 {name 1, op 2}, versions 4                               tensorflow/core/framework/graph.proto
    MetaGraphDef   meta_info_def 1, graph_def 2, saver_def 3                       …/protobuf/meta_graph.proto
    SavedModel     schema version 1, meta_graphs 2                                 …/protobuf/saved_model.proto
    Model          version 1, description 2, one of 200 …                          CoreML's Model.proto
    """
    from segtwin_weights.formats import wire

    with wire.mapped(path) as data:
        top = _message(data)
        if top is None:
            return None
        numbered = isinstance(_first(top, 1), int)
        if numbered and 7 not in top and any(number >= 200 for number in top):
            return "a CoreML model; give the file it was made from"
        if ((numbered and isinstance(_first(top, 2), int)) or not top.keys() & {1, 2, 3, 4}) and isinstance(
            _first(top, 5), memoryview
        ):
            return (
                "one blob of Caffe's (mean.binaryproto), the mean of a training's images; give the .caffemodel "
                "(the mean goes into --mean)"
            )
        if numbered and 7 not in top:
            if any(_meta_graph(one) for one in top.get(2, [])[:1]):
                return "TensorFlow's SavedModel, a graph; give the variables beside it: the prefix variables/variables"
            learned = _text(_first(top, 2))
            if learned.endswith((".caffemodel", ".h5")) or isinstance(_first(top, 4), int) or _blob(_first(top, 3)):
                beside = f": {learned}" if learned else ""
                return (
                    "a Caffe solver's state (.solverstate), its momentum and not the network; give the "
                    f".caffemodel beside it{beside}"
                )
        if not numbered and len(top.get(2, [])) == 1 and _graph(_first(top, 2)) and not _name(_first(top, 1)):
            return f"a TensorFlow graph without weights (.meta); give the checkpoint's prefix, {_prefix(path)}"
        if not numbered and 100 not in top and 1 in top and all(_node(one) for one in top[1][:3]):
            return "a TensorFlow graph (.pb); give the checkpoint or Keras file it was made from, or its ONNX export"
    return None


def _prefix(path: str | os.PathLike[str]) -> str:
    name = Path(path).name
    return name.removesuffix(".meta") if name.endswith(".meta") else "such as model.ckpt"


def _message(data: object) -> Message | None:
    """The fields of a message; None where the bytes are none."""
    from segtwin_weights.formats import wire

    if not isinstance(data, memoryview):
        return None
    reader = wire.Reader()
    reader.left = MOST_FIELDS
    found: Message = {}
    try:
        for number, _, value in reader.fields(data):
            found.setdefault(number, []).append(value)
    except wire.Malformed:
        return None
    return found


def _first(message: Message | None, number: int) -> int | memoryview | None:
    return message[number][0] if message and number in message else None


def _text(value: object) -> str:
    """A string; "" where the bytes are none."""
    if not isinstance(value, memoryview) or len(value) > HEAD:
        return ""
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        return ""


def _name(value: object) -> bool:
    """A net's name, where TensorFlow has a message."""
    text = _text(value)
    return bool(text and text.isprintable())


def _node(value: object) -> bool:
    message = _message(value)
    name, op = _text(_first(message, 1)), _text(_first(message, 2))
    return bool(name and op and name.isprintable() and op.isidentifier())


def _graph(value: object) -> bool:
    return _node(_first(_message(value), 1))


def _meta_graph(value: object) -> bool:
    return _graph(_first(_message(value), 2))


def _blob(value: object) -> bool:
    message = _message(value)
    return message is not None and isinstance(_first(message, 5), memoryview) and message.keys() <= set(range(1, 10))


# --------------------------------------------------------------------------------------------- HDF5


def hdf5(file: h5py.File) -> str:
    """What an HDF5 file is: "keras", "caffemodel.h5", or words that go on "is …" for what holds no
    weights."""
    import h5py

    from segtwin_weights.formats import hdf5

    if any(key in file.attrs for key in ("layer_names", "layer_names0", "nb_layers")) or {
        "model_weights",
        "layers",
        "vars",
    } & set(file):
        return "keras"
    if "PYTABLES_FORMAT_VERSION" in file.attrs:
        return "a table of PyTables or pandas; give a file of weights"
    if "_NCProperties" in file.attrs:
        return "a NetCDF file, a grid of data; give a file of weights"
    if {"iter", "history"} <= set(file):
        return (
            "a Caffe solver's state in HDF5 (.solverstate.h5), its momentum and not the network; give the "
            ".caffemodel.h5 beside it"
        )
    data = hdf5.inside(file, "data")
    if isinstance(data, h5py.Group):
        return "caffemodel.h5"
    if isinstance(data, h5py.Dataset):
        return "a set of images and labels in HDF5, for a training; give the file of weights"
    if any(where.split("/")[-2:-1] == ["vars"] for where, _ in hdf5.objects(file.filename, file)):
        return "keras"
    holds = ", ".join(sorted(file)[:SHOWN]) or "nothing"
    return f"an HDF5 file without layers of Keras or Caffe (it holds {holds}); give a file of weights"


SHOWN = 4


# ------------------------------------------------------------------------------------------ pickles


def pickled(head: bytes) -> str:
    """The class that a bare pickle begins with, read off its opcodes; nothing is run. "a Python
    pickle of …"."""
    words: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(head):
            if opcode.name in ("GLOBAL", "INST") and isinstance(argument, str):
                words = argument.split(" ")
                break
            if opcode.name == "STACK_GLOBAL":
                break
            if isinstance(argument, str):
                words.append(argument)
            if opcode.name in ("EMPTY_DICT", "EMPTY_LIST", "DICT", "LIST", "EMPTY_TUPLE"):
                words = ["a", "dict"] if "DICT" in opcode.name else ["a", "list"]
                return f"a Python pickle of {' '.join(words)}"
    except Exception:  # cut off at the head's end, or damaged
        return "a Python pickle"
    named = ".".join(words[-2:])
    return f"a Python pickle of {named}" if named.replace(".", "").replace("_", "").isalnum() else "a Python pickle"


def folder(path: Path) -> str | None:
    """What a folder is that people take for a file of weights."""
    if (path / "saved_model.pb").is_file():
        return "a folder, TensorFlow's SavedModel; give the prefix of its variables, variables/variables"
    if (path / "Manifest.json").is_file() and path.suffix == ".mlpackage":
        return "a folder, a CoreML package; give the file it was made from"
    if (path / ".metadata").is_file() and any(path.glob("*.distcp")):
        how = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pth"
        return f"a folder, a distributed checkpoint of torch; make one file of it ({how})"
    if (path / "data.pkl").is_file() and (path / "data").is_dir():
        return "a folder, an unpacked torch file; give the .pth as it was, or zip the folder again without compression"
    return None
