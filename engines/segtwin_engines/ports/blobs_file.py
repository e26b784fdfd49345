"""Blobs that were written down: an .npz of arrays, the input among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segtwin_engines.ports.port import Input, Port, PortError, Values

INPUTS = ("data", "image", "input", "inputs", "x")
OUTPUTS = ("probability", "score", "scores", "upscore32", "output", "out", "logits", "upscore")
"""Names of outputs; without one of them it is the last blob."""


def of_file(path: Path, kind: str, in_channels: int | None) -> Port:
    """Open an .npz of blobs, name → array.

    Raises:
        PortError: it is damaged, or its input is not in it.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            blobs = {name: np.asarray(file[name]) for name in file.files}
    except Exception as error:  # zipfile's, numpy's and zlib's have no class in common
        raise PortError(f"{path}: cannot be read: {' '.join(str(error).split())}; write it with numpy.savez") from None
    name = next((one for one in INPUTS if one in blobs), None)
    if name is None or blobs[name].ndim not in (3, 4):
        raise PortError(
            f"{path}: holds {', '.join(list(blobs)[:6]) or 'nothing'} and no input; put what the network was given "
            f"into it as {INPUTS[0]!r}, N×C×H×W"
        )
    data = blobs.pop(name)
    data = data[np.newaxis] if data.ndim == 3 else data
    if Input.of(name, data.shape, np.float32, in_channels, last=False).channels_last:
        data = data.transpose(0, 3, 1, 2)
    values: Values = {key: blob for key, blob in blobs.items() if blob.dtype.kind == "f" and blob.ndim >= 2}
    if not values:
        raise PortError(f"{path}: holds the input and no blob; add those of the layers, and the output")
    output = next((one for one in OUTPUTS if one in values), list(values)[-1])
    result = values.pop(output)
    return Port(
        str(path),
        lambda data: [result],
        lambda data: values,
        (data.shape[2], data.shape[3]),
        data.shape[1],
        np.ascontiguousarray(data, np.float32),
    )
