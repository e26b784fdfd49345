"""Where a vgg16.npy comes from: yours, the cache, a checked download, or, without a network, a
synthetic one that says so.

The file was once at ftp://mi.eng.cam.ac.uk/pub/mttt2/models/vgg16.npy, without a hash, and is gone.
The same Oxford weights are served by keras.applications as HDF5, with a hash, in the same layouts;
they are written as the vgg16.npy that they once were.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from segtwin.architectures.vgg16 import VGG16
from segtwin.files import replacing, whole

from segtwin_weights import catalogue
from segtwin_weights.cache import cache_folder
from segtwin_weights.catalogue import UnreachableError, only_one
from segtwin_weights.formats import keras_file, vgg16_npy
from segtwin_weights.hub import WeightsError

SYNTHETIC_SEED = 16


def find_vgg16(say: Callable[[str], None] = lambda line: None, progress: Any = False) -> Path:
    """The path of a vgg16.npy, fetched or made when there is none.

    In this order: `VGG16_NPY`; vgg16.npy in the cache; the download; vgg16-SYNTHETIC.npy in the
    cache, made of random numbers.

    Args:
        say: told, line by line, what happens.
        progress: an object like a tqdm bar, told how much of the download has come; False: none.

    Raises:
        WeightsError: `VGG16_NPY` names no file; the download is not what its publisher says.
        OSError: the cache cannot be written.
    """
    if own := os.environ.get("VGG16_NPY"):
        if not Path(own).is_file():
            raise WeightsError(f"{own}: VGG16_NPY names no file; correct it, or unset it to fetch the weights")
        return Path(own)
    cached = cache_folder() / "vgg16.npy"
    if cached.is_file():
        return cached
    with only_one(cached, say, download=catalogue.CATALOGUE["vgg16"].file):
        # another process may have made it meanwhile
        return cached if cached.is_file() else _make_vgg16(cached, say, progress)


def _make_vgg16(cached: Path, say: Callable[[str], None], progress: Any) -> Path:
    """Fetch or make the file; the lock is held."""
    try:
        return download_vgg16(cached, progress)
    except UnreachableError as error:
        say(
            f"The Oxford weights cannot be fetched ({error.why}). To use real ones, set VGG16_NPY=/path/to/vgg16.npy "
            f"or put the file at {cached}."
        )
        synthetic = cached.with_name(f"vgg16-{vgg16_npy.SYNTHETIC}.npy")
        if not synthetic.is_file():
            say(f"Making {synthetic}: random numbers in the schema of vgg16.npy.")
            write_synthetic(synthetic)
        say("These weights are SYNTHETIC: not trained, good for comparing engines and for nothing else.")
        return synthetic


def download_vgg16(path: Path, progress: Any = False) -> Path:
    """Fetch keras.applications' VGG-16, check it, and write it as vgg16.npy.

    Raises:
        UnreachableError: no source answers.
        WeightsError: its hash or content is not what the publisher says.
        OSError: the file cannot be written.
    """
    fetched = catalogue.fetch("vgg16", progress)
    with replacing(True):
        vgg16_npy.write(keras_file.read(fetched), path)
    fetched.unlink()
    return path


def write_synthetic(path: Path, widths: tuple[int, ...] | None = None) -> None:
    """Random numbers in the schema and the size of vgg16.npy; its name has to say so, as every
    report then does.

    Kernels are uniform with He's variance, 2 / inputs, so that activations keep their size from
    layer to layer; biases are within ±0.1.

    Raises:
        ValueError: the name does not say that it is synthetic.
        OSError: the file cannot be written.
    """
    if vgg16_npy.SYNTHETIC not in path.name:
        raise ValueError(f"{path}: the name of a synthetic file has to contain {vgg16_npy.SYNTHETIC}")
    random = np.random.default_rng(SYNTHETIC_SEED)
    layers: dict[str, list[np.ndarray]] = {}
    parameters = {parameter.name: parameter.shape for parameter in VGG16.parameters(widths=widths)}
    for layer in vgg16_npy.LAYERS:
        shape = parameters[f"{layer.name}/weight"]
        schema = shape[2:] + shape[1::-1]  # O×I×h×w → h×w×I×O, O×I → I×O
        bound = np.float32(np.sqrt(6 / np.prod(schema[:-1])))
        kernel = random.random(schema, np.float32)
        kernel *= 2 * bound
        kernel -= bound
        layers[layer.name] = [kernel, random.random(shape[0], np.float32) * np.float32(0.2) - np.float32(0.1)]
    with whole(path, replace=True) as draft, open(draft, "wb") as file:
        np.save(file, np.array(layers, dtype=object), allow_pickle=True)
