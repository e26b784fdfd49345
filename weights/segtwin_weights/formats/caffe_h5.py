"""`.caffemodel.h5`: a network's blobs as Caffe's HDF5 snapshots have them (`snapshot_format:
HDF5`).

    data/conv1_1/0, data/conv1_1/1    blobs of a layer, in its order; float32, or float64 of a net of doubles
    data/relu1_1                      a layer without any
    diff/…                            gradients, with `snapshot_diff`; left

Names and layouts are those of a `.caffemodel` (V2); the types of layers are not stated. Source:
`Net::ToHDF5` in `src/caffe/net.cpp` of BVLC/caffe at 9b891540183ddc834a02b2bd81b31afae71b2153.
"""

from __future__ import annotations

import os

import numpy as np

from segtwin_weights.door import file_name, reader
from segtwin_weights.formats import hdf5
from segtwin_weights.formats.caffemodel import BLOB_NAMES
from segtwin_weights.hub import Metadata, Weights, WeightsError, check_finite, damage, sha256
from segtwin_weights.mappings.names import identify

MOST_TIMES = 3
"""Bytes of numbers that a file may declare, in sizes of the file: Caffe compresses nothing."""


@reader
def read(path: str | os.PathLike[str]) -> Weights:
    """Read a .caffemodel.h5 of any network.

    Returns:
        `Weights` under Caffe's names, float32 (double data keep float64).

    Raises:
        WeightsError: the file is damaged or hostile, holds no blobs, or holds NaN.
        OSError: it cannot be read.
    """
    import h5py

    layers: dict[str, dict[int, np.ndarray]] = {}
    with damage(path), hdf5.opened(path) as file:
        root = hdf5.inside(file, "data")
        if not isinstance(root, h5py.Group):
            raise WeightsError(f"{path}: has no group called data, in which Caffe's HDF5 snapshots have their layers")
        for where, item in hdf5.numbers(path, root, MOST_TIMES * os.path.getsize(path)):
            layer, _, number = where.rpartition("/")
            if not layer or not number.isdecimal():
                raise WeightsError(f"{path}: data/{where} is no numbered blob of a layer; it is no snapshot of Caffe's")
            layers.setdefault(layer, {})[int(number)] = item[()]
    blobs: dict[str, np.ndarray] = {}
    for layer in sorted(layers, key=hdf5.natural):
        arrays = layers[layer]
        if sorted(arrays) != list(range(len(arrays))):
            raise WeightsError(f"{path}: {layer} has the blobs {sorted(arrays)}; some are missing")
        normalises = len(arrays) == 3 and all(array.ndim == 1 for array in arrays.values()) and len(arrays[2]) == 1
        known = BLOB_NAMES["BatchNorm"] if normalises else ("weight", "bias")
        for i, array in sorted(arrays.items()):
            name = f"{layer}/{known[i] if i < len(known) else f'blob{i}'}"
            array = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
            check_finite(path, name, array)
            blobs[name] = array
    if not blobs:
        raise WeightsError(f"{path}: holds no layer with weights; it is no .caffemodel.h5")
    metadata: Metadata = {"source": file_name(path), "sha256": sha256(path)}
    if architecture := identify(blobs):
        metadata["architecture"] = architecture.name
        blobs = {
            parameter.name: blobs[parameter.name] for parameter in architecture.parameters() if parameter.name in blobs
        }
    return Weights(blobs, metadata)
