"""ncnn on the CPU, in float32, on files that are written from the table of layers: fast where it computes 3×3
convolutions by Winograd's minimal filtering (Lavin and Gray, arXiv:1509.09308)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import ncnn
import numpy as np
import segtwin_weights
from segtwin import Architecture, oracle, threads
from segtwin_weights import Dimensions, Weights, ncnn_file
from segtwin_weights.from_table import INNER

from segtwin_engines.engine import Folder

FILE = "network.ncnn"
NARROW = (
    "use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage",
    "use_int8_inference",
)  # fmt: skip
"""Options that would store or compute in fewer bits; some are on by default."""
FAR = "use_winograd63_convolution"
"""Six outputs at a time are faster still, and their transforms cost up to 8 noise floors of a narrow network where
`segtwin.noise` allows 4; four at a time cost 2."""


def start(
    architecture: Architecture, size: Dimensions, weights: Weights
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], dict[str, np.ndarray]], object]:
    """Weights of a network, by way of its files.

    Raises:
        WeightsError: it has a layer that is not written for ncnn.
    """
    folder = Folder()
    write(weights, architecture, folder.path)
    scores, blobs = open_files(folder.path / FILE, architecture)
    return scores, blobs, folder


def write(weights: Weights, architecture: Architecture, folder: Path) -> None:
    """Write a network's files into a folder.

    Raises:
        WeightsError: it has a layer that is not written for ncnn.
        OSError: they cannot be written.
    """
    ncnn_file.write(weights, architecture, folder / FILE)


def finish(folder: Path) -> None:
    """ncnn reads its files as they are."""


def open_prepared(folder: Path, architecture: Architecture) -> Callable[[np.ndarray], np.ndarray]:
    """The scores of files that `write` wrote."""
    return open_files(folder / FILE, architecture)[0]


def opened(path: str | os.PathLike[str]) -> ncnn.Net:
    """ncnn's network of PATH.param and PATH.bin, in float32.

    Raises:
        ValueError: ncnn cannot read them.
    """
    net = ncnn.Net()
    for option in (*NARROW, FAR):
        setattr(net.opt, option, False)
    net.opt.num_threads = threads.allowed() or os.cpu_count() or 1
    param, data_file, _ = ncnn_file.files(path)
    if net.load_param(str(param)) or net.load_model(str(data_file)):
        raise ValueError(f"{path}: ncnn cannot read {param.name} and {data_file.name}; export them again")
    return net


def open_files(
    path: str | os.PathLike[str], architecture: Architecture
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], dict[str, np.ndarray]]]:
    """scores and blobs of PATH.param and PATH.bin.

    Raises:
        ValueError: ncnn cannot read them.
    """
    zones = architecture.dead_zones
    inner = {} if zones is None else zones.left_out
    names = [name for name in architecture.exported if name != architecture.input]

    net = opened(path)

    def computed(image: np.ndarray, wanted: list[str]) -> list[np.ndarray]:
        extractor = net.create_extractor()
        extractor.set_light_mode(len(wanted) == 1)  # else blobs are kept
        extractor.input(architecture.input, ncnn.Mat(np.ascontiguousarray(image, np.float32)).clone())
        found = []
        for name in wanted:
            status, value = extractor.extract(name + INNER if name in inner else name)
            if status:
                raise ValueError(f"{path}: ncnn cannot compute {name} of an image of {'×'.join(map(str, image.shape))}")
            blob = np.array(value)[None]
            found.append(inner[name].whole(blob) if name in inner else blob)
        return found

    def scores(data: np.ndarray) -> np.ndarray:
        return np.concatenate([computed(image, names[-1:])[0] for image in data])

    def blobs(data: np.ndarray) -> dict[str, np.ndarray]:
        images = [computed(image, names) for image in data]
        return {architecture.input: data} | {
            name: np.concatenate(parts) for name, parts in zip(names, zip(*images, strict=True), strict=True)
        }

    return scores, blobs


def verify(weights: Weights, architecture: Architecture, path: str | os.PathLike[str]) -> None:
    """Hold files against the weights that they were written from: every byte of the .bin, and the blobs of one small
    image against the numpy oracle's. Weights that are zero everywhere, as a new network's are, would hide what lies
    behind them: that image is computed with others in their place, from files beside these.

    Raises:
        ValueError: something differs; the message says what.
    """
    from segtwin_weights.onnx_check import differs, probe_sizes, probes  # a start needs no `onnx`

    _, data, _ = ncnn_file.files(path)
    try:
        ncnn_file.compare(weights, architecture, data)
    except ValueError as error:
        raise ValueError(f"{path}: {differs(str(error))}") from None
    zero = {name: blob for name, blob in weights.items() if blob.dtype.kind == "f" and blob.size and not blob.any()}
    probed = Weights({**weights, **probes(zero)}, weights.metadata)
    height, width = probe_sizes(architecture)[0]
    channels = segtwin_weights.dimensions(weights, architecture).in_channels
    image = np.random.default_rng(13).uniform(-128, 128, (1, channels, height, width)).astype(np.float32)
    if zero:
        folder = Folder()
        ncnn_file.write(probed, architecture, folder.path / "probed.ncnn")
        _, blobs = open_files(folder.path / "probed.ncnn", architecture)
    else:
        _, blobs = open_files(path, architecture)
    got = blobs(image)
    for name, want in oracle.blobs(architecture, probed, image, "float32"):
        if name in got and not (off := oracle.relative_error(got[name], want)) <= NEAR:
            raise ValueError(
                f"{path}: {differs(f'ncnn computes {name} {off:.1e} of its maximum away from the network')}"
            )


NEAR = 1e-3
"""Of a blob's largest value: what Winograd's transforms may cost a deep network. A wrong crop or kernel is beyond."""
