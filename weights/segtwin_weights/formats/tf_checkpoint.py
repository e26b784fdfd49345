"""Checkpoints of TensorFlow 1 (`NAME.index` and `NAME.data-…`, or one file of the old kind), by
variable name, through TensorFlow itself.

tensorflow-fcn calls its variables

    conv1_1/filter, conv1_1/biases         3×3×I×O, O
    fc6/weights, score_fr/weights, …       7×7×I×O, 1×1×I×O; biases O
    upscore2/up_filter                     kh×kw×O×I

and they become `conv1_1/weight` O×I×3×3, `upscore2/weight` I×O×kh×kw. Optimiser slots, averages and
counters have no such name and are left. Source: `fcn8_vgg.py`, class FCN8VGG of
MarvinTeichmann/tensorflow-fcn.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from segtwin.architectures import get_architecture, list_architectures

from segtwin_weights import layouts
from segtwin_weights.door import file_name, reader_of_parts, regular, shown
from segtwin_weights.formats import tf_table
from segtwin_weights.hub import Metadata, Weights, WeightsError, check_finite, checkpoint_prefix, line
from segtwin_weights.mappings.names import identify

KINDS = {"filter": "weight", "weights": "weight", "up_filter": "weight", "biases": "bias"}
MOST_TIMES = 3


@reader_of_parts
def read(path: str | os.PathLike[str]) -> Weights:
    """Read a checkpoint; `path` is its prefix (`fcn8.ckpt`) or any of its files.

    Raises:
        WeightsError: TensorFlow is not installed, the checkpoint is damaged, holds no variables of
            tensorflow-fcn, or holds NaN.
        OSError: it cannot be read.
    """
    try:
        import tensorflow
    except ImportError:
        raise WeightsError(f"{path}: is a TensorFlow checkpoint; pip install tensorflow to read it") from None
    prefix = checkpoint_prefix(path)
    name = Path(prefix).name
    beside = Path(prefix).parent.iterdir()
    files = [file for file in beside if file.name == name or file.name.startswith((f"{name}.index", f"{name}.data-"))]
    budget = MOST_TIMES * sum(regular(file).st_size for file in files)
    bundle = os.path.lexists(f"{prefix}.index")
    tf_table.check(f"{prefix}.index" if bundle else prefix, shown(prefix), bundle)
    try:
        reader = tensorflow.train.load_checkpoint(prefix)
        shapes = reader.get_variable_to_shape_map()
        wanted = {
            name: f"{layer}/{KINDS[kind]}"
            for name in sorted(shapes)
            if "/" in name
            for layer, kind in [name.rsplit("/", 1)]
            if kind in KINDS
        }
        types = reader.get_variable_to_dtype_map()
        if odd := [name for name in wanted if not types[name].is_floating]:
            raise WeightsError(
                f"{path}: {shown(odd[0], 80)} is {types[odd[0]].name}, no floating-point numbers; it is damaged"
            )
        if sum(math.prod(shapes[name]) * types[name].size for name in wanted) > budget:
            raise WeightsError(f"{path}: declares more numbers than its files can hold; it is damaged")
        blobs = {blob: np.asarray(reader.get_tensor(name)) for name, blob in wanted.items()}
    except WeightsError:
        raise
    except Exception as error:  # TensorFlow's errors are of many kinds
        raise WeightsError(f"{path}: TensorFlow cannot read the checkpoint ({line(error)})") from None
    if not blobs:
        raise WeightsError(
            f"{path}: holds no variable called LAYER/{' or LAYER/'.join(KINDS)}; it is no checkpoint of tensorflow-fcn"
        )
    for name, blob in blobs.items():
        check_finite(path, name, blob)
        if blob.ndim == 4:
            blobs[name] = np.ascontiguousarray(blob.transpose(layouts.TO_OIHW))
        elif blob.ndim == 2:
            blobs[name] = np.ascontiguousarray(blob.T)
    metadata: Metadata = {"source": file_name(prefix)}
    if architecture := identify(blobs):
        metadata["architecture"] = architecture.name
    order = [p.name for architecture in map(get_architecture, list_architectures()) for p in architecture.parameters()]
    return Weights(
        dict(sorted(blobs.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))), metadata
    )
