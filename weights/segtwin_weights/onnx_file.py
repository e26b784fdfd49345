"""ONNX files: a graph without weights, and the weights put into it on the way to the disk.

The exporters of both frameworks hand over a skeleton whose weights are inputs under their hub
names. Caffe's layouts are ONNX's (Conv O×I×kh×kw, ConvTranspose I×O×kh×kw), so the arrays of the
hub become its initializers as they are, one at a time: memory never holds a second copy.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from segtwin import __version__
from segtwin.architectures import Architecture
from segtwin.files import whole_together

from segtwin_weights import onnx_dead_zones
from segtwin_weights.door import file_name
from segtwin_weights.metadata import SCHEMA, preprocessing_of
from segtwin_weights.onnx_stamp import STAMP

EXTERNAL_ABOVE = 100_000_000
"""Bytes of weights from which on they go into a file of their own beside the graph."""
ALIGNMENT = 4096
"""A tensor in the data file begins on a page, so that runtimes can map it."""


def properties(
    architecture: Architecture,
    weights_metadata: Mapping[str, Any],
    data: onnx.ValueInfoProto,
    shape: tuple[int, int, int] | None = None,
) -> dict[str, Any]:
    """What an ONNX file says of itself: the architecture, and how an image has to be prepared;
    `data` is its input, of one size where `shape` says so."""
    in_channels = data.type.tensor_type.shape.dim[1].dim_value
    n, height, width = shape or ("N", "H", "W")
    dtype = helper.tensor_dtype_to_np_dtype(data.type.tensor_type.elem_type)
    preprocessing, known = preprocessing_of(weights_metadata, architecture, in_channels)
    kept = {
        key: weights_metadata[key]
        for key in (
            "num_classes",
            "source",
            "sha256",
            "synthetic",
            "classes",
            "palette",
            "batchnorm",
            onnx_dead_zones.KEY,
        )
        if key in weights_metadata
    }
    return {
        "schema": SCHEMA,
        "architecture": architecture.variant_of or architecture.name,
        "version": __version__,
        "preprocessing": preprocessing.asdict(),
        **({} if known else {"preprocessing_assumed": True}),
        "input": f"{dtype} {n}×{in_channels}×{height}×{width}; {preprocessing.describe(in_channels)}",
        "citation": architecture.citation,
        **kept,
    }


OPSETS = {"torch": (18, 23), "keras": (18, 18)}
"""Framework → the first and last version of the ONNX operators that its exporter writes; the first
is the default."""


def check_name(path: str | os.PathLike[str]) -> None:
    """Refuse a name that onnx and ONNX Runtime cannot open: they take text.

    Raises:
        ValueError: it holds bytes that are no UTF-8.
    """
    if file_name(path) != os.path.basename(os.fspath(path)):
        raise ValueError(
            f"{path}: the name of an ONNX file is text, and this one holds bytes that are no UTF-8; give it another"
        )


def check_opset(path: str | os.PathLike[str], opset: int, framework: str) -> None:
    """Refuse a version of the ONNX operators that a framework's exporter does not write.

    Raises:
        ValueError: it is none of `OPSETS`.
    """
    first, last = OPSETS[framework]
    if not first <= opset <= last:
        known = f"opset {first}" if first == last else f"opsets {first} to {last}"
        raise ValueError(f"{path}: opset {opset} cannot be written; this framework's exporter writes {known}")


def check_written(path: str | os.PathLike[str], skeleton: onnx.ModelProto, opset: int) -> None:
    """Refuse a graph whose operators are of another version than asked for: exporters fall back
    without an error.

    Raises:
        ValueError: the graph has another opset.
    """
    found = [entry.version for entry in skeleton.opset_import if entry.domain in ("", "ai.onnx")]
    if found != [opset]:
        raise ValueError(
            f"{path}: opset {opset} was asked for, and the exporter made opset {', '.join(map(str, found))}; "
            "nothing was written"
        )


def fixed_shape(
    path: str | os.PathLike[str], architecture: Architecture, size: tuple[int, int] | None, batch: int | None
) -> tuple[int, int, int] | None:
    """(N, H, W) of a graph of one size; None: they are free.

    Raises:
        ValueError: the network does not take this size; no image; a batch without a size.
    """
    if size is None:
        if batch is not None:
            raise ValueError(
                f"{path}: batch {batch} fixes the number of images of a graph of one size; give the size too"
            )
        return None
    batch = 1 if batch is None else batch
    if len(size) != 2 or any(isinstance(one, bool) or not isinstance(one, int) or one < 1 for one in (batch, *size)):
        raise ValueError(
            f"{path}: size is (rows, columns) and batch a number of images, whole numbers from 1 on, not {size!r} "
            f"and {batch!r}"
        )
    architecture.check_size(*size)
    return batch, *size


def write(
    skeleton: onnx.ModelProto,
    weights: Iterable[tuple[str, np.ndarray]],
    path: str | os.PathLike[str],
    architecture: Architecture,
    metadata: Mapping[str, Any],
    external_data: bool | None = None,
    verify: Callable[[Path], None] | None = None,
    shape: tuple[int, int, int] | None = None,
) -> None:
    """Write a skeleton with its weights, and verify the file before it takes its name.

    Args:
        skeleton: its inputs are the data and every weight under its hub name; changed in place.
        weights: hub name → array, for every weight input of the skeleton; read once, in order.
        path: the .onnx file. External weights go to `path` + ".data".
        architecture: what the graph computes.
        metadata: of the weights; goes into metadata_props with the architecture's, values that are
            no strings as JSON.
        external_data: weights in a file of their own (True), in the .onnx (False), or as their size
            asks (None: above 100 MB).
        verify: called with the file as it was written, in a folder of its own; when it raises,
            nothing is left and what was there before stays.
        shape: (N, H, W) of a skeleton of one size; else they are named, and free.

    Raises:
        ValueError: weights and inputs do not match; one file would be above protobuf's 2 GB; what
            `verify` raises.
        OSError: a file cannot be written.
    """
    graph = skeleton.graph
    slots = list(graph.input)[1:]
    wanted = {slot.name: tuple(dim.dim_value for dim in slot.type.tensor_type.shape.dim) for slot in slots}
    size = sum(
        math.prod(shape) * ITEM_SIZES[slot.type.tensor_type.elem_type]
        for slot, shape in zip(slots, wanted.values(), strict=True)
    )
    if external_data is None:
        external_data = size > EXTERNAL_ABOVE
    if not external_data and size >= onnx.checker.MAXIMUM_PROTOBUF:
        raise ValueError(
            f"{path}: {size / 1e9:.1f} GB of weights do not fit into one ONNX file (2 GB); leave external_data on"
        )
    del graph.input[1:]
    free = ("", "", "", "") if shape else ("N", "", "H", "W")
    kept = architecture.keeps_size and not any(architecture.size_slack)
    _name_axes(graph.input[0], free)
    _name_axes(graph.output[0], free if shape or kept else ("N", "", "output rows", "output columns"))
    for node in graph.node:
        node.name = node.output[0]
    del graph.value_info[:]

    path = Path(path)
    # a graph never appears before its data
    with whole_together(path.with_name(path.name + ".data"), path) as (beside, draft):
        with ExitStack() as stack:
            file = stack.enter_context(DataFile(beside)) if external_data else None
            for name, array in weights:
                if wanted.pop(name, None) != array.shape:
                    raise ValueError(f"{path}: the graph has no weight {name} of shape {array.shape}")
                graph.initializer.append(_initializer(name, array, file, beside.name))
                del array
            stamp = {} if file is None else {"external_data": {"file": beside.name, "sha256": file.stamp()}}
        if wanted:
            raise ValueError(f"{path}: no weights for {', '.join(wanted)}")
        del skeleton.metadata_props[:]
        facts = {**properties(architecture, metadata, graph.input[0], shape), **stamp}
        helper.set_model_props(
            skeleton, {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
        )
        skeleton.producer_name, skeleton.producer_version = "segtwin", __version__
        draft.write_bytes(skeleton.SerializeToString())
        skeleton.Clear()  # its weights are in the file now, once
        if verify is not None:
            verify(draft)


class DataFile:
    """The file of the weights beside a graph, hashed as it is written."""

    def __init__(self, path: Path) -> None:
        self.path, self.file, self.digest = path, open(path, "wb"), hashlib.sha256()  # noqa: SIM115 - closed by `__exit__`
        self.file.write(bytes(ALIGNMENT))

    def __enter__(self) -> DataFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, array: np.ndarray) -> int:
        """Write an array on the next page. Returns its offset."""
        for part in (bytes(-self.file.tell() % ALIGNMENT), array.reshape(-1).view(np.uint8).data):
            self.digest.update(part)
            self.file.write(part)
        return self.file.tell() - array.nbytes

    def stamp(self) -> str:
        """Write the hash of the weights into the first page, and return it."""
        self.file.seek(0)
        self.file.write(STAMP % self.digest.hexdigest().encode())
        return self.digest.hexdigest()


def _name_axes(value: onnx.ValueInfoProto, names: tuple[str, ...]) -> None:
    """Axes without a name keep their size."""
    del value.metadata_props[:]
    for axis, name in zip(value.type.tensor_type.shape.dim, names, strict=True):
        if name:
            axis.dim_param = name


ITEM_SIZES = {TensorProto.FLOAT: 4, TensorProto.DOUBLE: 8}


def _initializer(name: str, array: np.ndarray, file: DataFile | None, location: str) -> TensorProto:
    tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
    array = np.ascontiguousarray(array)
    if file is None:
        tensor.raw_data = array.tobytes()
        return tensor
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", file.add(array)), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
