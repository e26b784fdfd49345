"""What both twins do to export a network: check what was asked, make the graph, fold, write and verify."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
from segtwin.architectures import Architecture

from segtwin_weights import batchnorm, onnx_check, onnx_dead_zones, onnx_file


@dataclass(frozen=True)
class Exportable:
    """A model of one of the frameworks, as far as an export needs it."""

    framework: str
    """"torch" or "keras"."""
    architecture: Architecture
    metadata: Mapping[str, Any]
    blobs: Sequence[str]
    """Names of the blobs that the model computes."""
    in_channels: int
    pad: str | None
    """The option `pad` that it was built with."""
    skeleton: Callable[[int, tuple[int, int, int] | None], onnx.ModelProto]
    """(opset, (N, H, W) or None) → the graph without its weights."""
    weights: Callable[[], Iterable[tuple[str, np.ndarray]]]
    """Hub name and array of everything that goes into the file."""
    run: Callable[[np.ndarray, Mapping[str, np.ndarray], Sequence[str]], dict[str, np.ndarray]]
    """(data, weights in the place of some, names of blobs) → these blobs, by the framework's default kernels."""
    leaves_out: bool = True
    """Whether the graph computes dead zones once."""


def export(
    model: Exportable,
    path: str | os.PathLike[str],
    opset: int,
    external_data: bool | None,
    size: tuple[int, int] | None,
    batch: int | None,
    fold_batchnorm: bool,
    verify: bool,
) -> None:
    """Write a model as ONNX; arguments and errors are described at `export_onnx` of the twins."""
    architecture = model.architecture
    if model.pad is not None:
        raise ValueError(
            f"{path}: the ONNX graph of {architecture.name} takes sizes that fit; build the model without pad"
        )
    onnx_file.check_name(path)
    onnx_file.check_opset(path, opset, model.framework)
    shape = onnx_file.fixed_shape(path, architecture, size, batch)
    graph, metadata = model.skeleton(opset, shape), dict(model.metadata)
    onnx_file.check_written(path, graph, opset)
    blobs = [name for name in model.blobs if name in architecture.exported]
    source = onnx_check.Source(architecture, opset, blobs, model.in_channels, model.weights, model.run, shape)
    if fold_batchnorm:
        graph, folded = batchnorm.fold(graph, dict(model.weights()), architecture)
        source, metadata["batchnorm"] = replace(source, folded=folded), "folded"
    if model.leaves_out and (left_out := onnx_dead_zones.leave_out(graph, architecture)):
        metadata[onnx_dead_zones.KEY] = left_out
    check = partial(onnx_check.verify, path=path, source=source) if verify else None
    onnx_file.write(graph, source.file_weights(), path, architecture, metadata, external_data, check, shape)
