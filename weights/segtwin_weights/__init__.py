"""Weights of the Caffe-era networks from and to the files people have. No framework is needed to read one."""

from __future__ import annotations

import os

from segtwin import Row, __version__

from segtwin_weights import caffemodel, keras_file, names, onnx_weights, safetensors_file, tf_checkpoint, torch_file, vgg16_npy
from segtwin_weights.hub import Weights, WeightsError, check_keys, file_kind
from segtwin_weights.surgery import Dimensions, convert, dimensions, initialize

__all__ = [
    "Dimensions",
    "Weights",
    "WeightsError",
    "__version__",
    "as_row",
    "check_keys",
    "convert",
    "dimensions",
    "file_kind",
    "initialize",
    "read",
    "write",
]


def __dir__() -> list[str]:
    return sorted(__all__)


FORMATS = {
    "vgg16.npy": vgg16_npy,
    "safetensors": safetensors_file,
    "caffemodel": caffemodel,
    "torch": torch_file,
    "keras": keras_file,
    "onnx": onnx_weights,
    "tensorflow": tf_checkpoint,
}
SUFFIXES = {
    ".npy": vgg16_npy, ".safetensors": safetensors_file, ".caffemodel": caffemodel, ".pth": torch_file, ".pt": torch_file, ".weights.h5": keras_file,
}  # fmt: skip

CAFFE_NAMED = (vgg16_npy, caffemodel, keras_file)
"""Formats that hold Caffe's layers, for BGR minus the mean; the others keep names as they are."""


def read(path: str | os.PathLike[str], format: str | None = None) -> Weights:
    """Read weights. The format is told by the file's content, not by its name.

    Args:
        path: the file; of a TensorFlow checkpoint its prefix or any of its files, of shards their index.
        format: a key of `FORMATS`, to insist on one.

    Raises:
        WeightsError: the file is empty, damaged, hostile or of another format; one line with its name, the reason and what to do.
        OSError: it cannot be read.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"format is one of {', '.join(FORMATS)}, not {format!r}")
    return FORMATS[format or file_kind(path)].read(path)


def write(weights: Weights, path: str | os.PathLike[str]) -> None:
    """Write weights; the name's ending chooses the format.

    .safetensors · .npy, the schema of vgg16.npy · .caffemodel, with STEM.deploy.prototxt beside it · .pth or .pt, a state_dict · .weights.h5
    for `load_weights` of the Keras twin. Every file appears whole or not at all.

    Raises:
        WeightsError: the ending is unknown, or the format cannot hold these weights.
        OSError: the file cannot be written.
    """
    for suffix, module in SUFFIXES.items():
        if os.fspath(path).endswith(suffix):
            if module in CAFFE_NAMED:
                weights = names.turned(names.hub_names(weights))
            return module.write(weights, path)
    raise WeightsError(f"{path}: the name has to end in {', '.join(SUFFIXES)}")


def as_row(weights: Weights, row: Row) -> Weights:
    """Weights on their way into a model of a row: under the hub's names, and made for the inputs that the row takes.

    Raises:
        ValueError: they were made for another colour order, mean or scale.
    """
    if not isinstance(weights, Weights):
        return weights
    weights = names.hub_names(weights)
    names.check_preprocessing(weights, row)
    return weights
