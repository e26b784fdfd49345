"""A network in 8-bit integers, as an ONNX file with quantised weights and values: an explicit choice, with its cost.

Every convolution's values are kept in 256 steps between the least and the largest that calibration images gave
(static quantization; Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
Only Inference", CVPR 2018), each output channel's weights in 128: more would overflow the 16-bit sums of processors
without VNNI (ONNX Runtime's `reduce_range`). That is thousands of noise floors: nothing here is called equal, and the
share of pixels that keep their class is what is said instead.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper
from segtwin import Architecture
from segtwin.files import whole
from segtwin.images import pages
from segtwin.inference import best_class
from segtwin_weights import Weights, onnx_table

from segtwin_engines.engine import Engine, Folder
from segtwin_engines.onnxruntime import open_file

PRECISION = "int8"
"""Of the metadata's "precision"."""


class Cost(NamedTuple):
    """What the integers cost on the calibration images, in comparison with float32."""

    same_classes: float
    """Share of the pixels that keep their class."""
    mean_iu: float
    """Mean over the classes of intersection over union, float32's masks taken for the truth."""


def export(
    weights: Weights, architecture: Architecture, images: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str]
) -> Cost:
    """Write a quantised ONNX file.

    Args:
        weights: hub name → array.
        architecture: the network that they are for.
        images: whose values set the ranges: some that look like those that the network will see.
        path: the .onnx file.

    Raises:
        ImageError, ValueError: an image cannot be read or does not fit the network.
        OSError: a file cannot be read or written.
    """
    folder = Folder()
    plain, quantized = folder.path / "float32.onnx", folder.path / "int8.onnx"
    onnx_table.write(weights, architecture, plain)
    engine = open_file(str(plain), architecture.name, None, True, lambda line: None)
    inputs = [data for image in images for data in data_of(engine, Path(image))]
    quantize(str(plain), str(quantized), architecture.input, inputs)
    restore_metadata(quantized, plain)
    with whole(path) as draft:
        shutil.copyfile(quantized, draft)
    return cost(engine, open_file(os.fspath(path), architecture.name, None, True, lambda line: None), inputs)


def data_of(engine: Engine, image: Path) -> Iterator[np.ndarray]:
    """1×C×H×W of every piece that `predict` would compute an image in."""
    ready = engine.preprocessing.for_channels(engine.in_channels)
    for page in pages(image):
        values = page.values(engine.in_channels, None, None)
        for piece in engine.pieces(values.shape[0], values.shape[1], "reflect", None):
            rows, columns = engine.looks(piece, values.shape[0], values.shape[1])
            yield ready.apply(values[rows[:, np.newaxis], columns][np.newaxis])


def quantize(plain: str, quantized: str, source: str, inputs: Sequence[np.ndarray]) -> None:
    """ONNX Runtime's static quantization of one file into another."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The inputs, one at a time."""

        def __init__(self) -> None:
            self.left = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            """The next; None behind the last."""
            data = next(self.left, None)
            return None if data is None else {source: data}

    ready = f"{quantized}.ready"
    # batch normalization becomes part of the convolutions first: their ranges are those of its result
    quant_pre_process(plain, ready, skip_symbolic_shape=True, save_as_external_data=True, all_tensors_to_one_file=True)
    quantize_static(
        ready,
        quantized,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


def restore_metadata(quantized: Path, plain: Path) -> None:
    """What the float file says of itself, and that this one is quantised."""
    model = onnx.load(quantized)
    told: dict[str, Any] = {
        entry.key: entry.value for entry in onnx.load(plain, load_external_data=False).metadata_props
    }
    told = {key: value for key, value in told.items() if key not in ("external_data", "left_out")}
    del model.metadata_props[:]
    helper.set_model_props(model, {**told, "precision": json.dumps(PRECISION)})
    onnx.save(model, quantized)


def cost(plain: Engine, quantized: Engine, inputs: Sequence[np.ndarray]) -> Cost:
    """Compare the classes of two engines."""
    same = pixels = 0
    both = np.zeros(256, np.int64)
    either = np.zeros(256, np.int64)
    for data in inputs:
        one, other = (best_class(engine.scores(data)) for engine in (plain, quantized))
        same, pixels = same + int((one == other).sum()), pixels + one.size
        hit = np.bincount(one[one == other], minlength=256)
        both += hit
        either += np.bincount(one.ravel(), minlength=256) + np.bincount(other.ravel(), minlength=256) - hit
    there = either > 0
    return Cost(same / pixels, float((both[there] / either[there]).mean()))
