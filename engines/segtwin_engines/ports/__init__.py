"""Other people's networks, opened so that their values can be seen: files of ONNX, TorchScript, torch.export, Keras,
TensorFlow and Caffe, blobs in an .npz, and functions.

A port is run as it is, in its own framework. That runs what its file says: ONNX Runtime computes and nothing else,
but a TensorFlow graph or TorchScript may read and write files of yours. Nothing is unpickled without restriction, and
a Keras file's Python functions are refused.
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segtwin_engines.ports.port import Port, PortError

__all__ = ["Port", "PortError", "open_port"]


def open_port(theirs: Any, in_channels: int | None = None) -> Port:
    """Open a port.

    Args:
        theirs: an .onnx, TorchScript, torch.export (.pt2), .keras, .h5, frozen .pb, .npz or .prototxt file (its
            .caffemodel beside it), a SavedModel's folder;
            a torch module, an exported program, a Keras model, or any function of an N×C×H×W array.
        in_channels: channels of its input, which tell N×C×H×W from N×H×W×C where a file does not say it.

    Raises:
        PortError: it is none of these; one line that says what it is and what to give.
        OSError: it cannot be read.
        NotInstalledError: its framework is not installed.
    """
    if isinstance(theirs, Port):
        return theirs
    if isinstance(theirs, str | os.PathLike):
        return _file(Path(theirs), in_channels)
    if not callable(theirs) and not hasattr(theirs, "module"):
        raise PortError(
            f"a port is a file, or a function of an N×C×H×W array, not {type(theirs).__name__}; wrap it in a function"
        )
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(theirs, keras.Layer):
        from segtwin_engines.ports import tensorflow_graph

        return tensorflow_graph.of_model(theirs, in_channels)
    if "torch" in sys.modules:
        from segtwin_engines.ports import torch_program

        return torch_program.of_function(theirs)
    return Port.of_function(theirs)


def _file(path: Path, in_channels: int | None) -> Port:
    """A file or folder, told by what is in it."""
    from segtwin_engines.installed import require

    os.stat(path)
    kind = _kind(path)
    frameworks = {"onnx": "onnxruntime", "torchscript": "torch", "export": "torch", "blobs": "", "caffe": "opencv"}
    needs = frameworks.get(kind, "keras")
    require(*filter(None, [needs]), purpose=f"opening {path.name}")
    opener: Callable[[Path, str, int | None], Port]
    if kind == "onnx":
        from segtwin_engines.ports.onnx_file import of_file as opener
    elif kind in ("torchscript", "export"):
        from segtwin_engines.ports.torch_program import of_file as opener
    elif kind == "caffe":
        from segtwin_engines.ports.caffe_net import of_file as opener
    elif kind == "blobs":
        from segtwin_engines.ports.blobs_file import of_file as opener
    else:
        from segtwin_engines.ports.tensorflow_graph import of_file as opener
    return opener(path, kind, in_channels)


def _kind(path: Path) -> str:
    """ "onnx", "torchscript", "export", "keras", "savedmodel", "frozen", "caffe" or "blobs".

    Raises:
        PortError: none of them.
    """
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "savedmodel"
        raise PortError(f"{path}: is a folder without a saved_model.pb; give a SavedModel's folder, or a file")
    with open(path, "rb") as file:
        head = file.read(8)
    if head.startswith(b"PK"):
        return _archive(path)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "keras"
    from segtwin_weights import kinds

    other = kinds.other(path)
    if (other is not None and "GraphDef" in other) or path.suffix == ".pb":
        return "frozen"
    if path.suffix in (".prototxt", ".caffemodel"):
        return "caffe"
    if path.suffix == ".onnx" or (other is None and head[:1] in (b"\x08", b"\x0a")):
        return "onnx"
    raise PortError(
        f"{path}: {'is ' + other if other else 'is no network that can be run here'}; give an ONNX file, TorchScript, "
        "torch.export's .pt2, a .keras file, a SavedModel, or an .npz of blobs (state_dicts and other weights: "
        "segtwin diagnose --weights-only)"
    )


def _archive(path: Path) -> str:
    """What a zip archive is."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise PortError(f"{path}: is a damaged zip archive ({error}); write it anew") from None
    last = {name.rpartition("/")[2] for name in names}
    if {"config.json", "metadata.json"} <= set(names):
        return "keras"
    if any("/data/aotinductor/" in name for name in names):
        raise PortError(
            f"{path}: holds a compiled library (AOTInductor), which is not run; give torch.export.save's .pt2"
        )
    if "archive_format" in last or "serialized_exported_program.json" in last:
        return "export"
    if any("/code/" in name for name in names):
        return "torchscript"
    if names and all(name.endswith(".npy") for name in names):
        return "blobs"
    if "data.pkl" in last:
        raise PortError(
            f"{path}: holds weights (a state_dict), no network; give TorchScript or torch.export's .pt2, or compare "
            "the weights: segtwin diagnose --weights-only"
        )
    raise PortError(
        f"{path}: is an archive of nothing that can be run here; give an ONNX file, a .pt2 or a .keras file"
    )
