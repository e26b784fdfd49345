"""safetensors: the hub on disk. Names, shapes and numbers as they are, metadata as JSON strings in the header."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from segtwin.files import whole

from segtwin_weights.hub import Weights, WeightsError, check_finite


def read(path: str | os.PathLike[str]) -> Weights:
    """Read a safetensors file, ours or another's: its tensors keep their names.

    Raises:
        WeightsError: the file is damaged, has types that numpy has not, or holds NaN.
        OSError: it cannot be read.
    """
    blobs: dict[str, np.ndarray] = {}
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            metadata = {key: _loads(text) for key, text in (file.metadata() or {}).items()}
            for name in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                blobs[name] = file.get_tensor(name)
    except SafetensorError as error:
        raise WeightsError(f"{path}: the safetensors file is damaged ({error}); fetch or convert it again") from None
    except TypeError as error:
        raise WeightsError(f"{path}: holds a type that numpy has not ({error}); store it as float32") from None
    for name, blob in blobs.items():
        check_finite(path, name, blob)
    return Weights(blobs, metadata)


def write(weights: Weights, path: str | os.PathLike[str]) -> None:
    """Write weights and metadata.

    Raises:
        OSError: the file cannot be written.
    """
    metadata = {key: json.dumps(value, ensure_ascii=False) for key, value in weights.metadata.items()}
    with whole(path) as draft:
        try:
            save_file({name: np.require(blob, requirements="C") for name, blob in weights.items()}, draft, metadata)
        except SafetensorError as error:  # it hides the errno of a full disk in a string
            raise OSError(None, f"cannot be written ({error})", os.fspath(path)) from None


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # another writer's metadata
