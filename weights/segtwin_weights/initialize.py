"""Weights with which a network starts, as its original does."""

from __future__ import annotations

import zlib

import numpy as np
from segtwin import geometry
from segtwin.architectures import Architecture, Draw, Parameter, get_architecture
from segtwin.errors import known_arguments

from segtwin_weights import metadata
from segtwin_weights.hub import Weights


@known_arguments
def initialize(
    architecture: str | Architecture,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    widths: tuple[int, ...] | None = None,
    seed: int | None = None,
) -> Weights:
    """What a network holds before anything is loaded into it: what its original starts with.

    net.py names no filler, so the Caffe nets start at zero (Caffe's default) but for the bilinear
    deconvolutions: they are meant to be started from a VGG-16, by `convert`. So is fcn8-vgg, whose
    original cannot start without a vgg16.npy: here its VGG-16 starts at zero, its other layers as
    there. vggfcn* start as torch starts them, their `vgg16` without torchvision's download. The
    U-Nets start at random: that of the paper as its section 3 asks, the others as torch's and
    torchvision's layers do.

    Args:
        architecture: a network.
        num_classes, in_channels, widths: as `build` takes them.
        seed: of what is drawn. Every blob has a stream of its own (numpy's PCG64 of the seed and
            the blob's name), so both twins start alike and a new layer changes no other; None draws
            other numbers every time.
    """
    architecture = get_architecture(architecture)
    parameters = architecture.parameters(num_classes, widths, in_channels)
    blobs: dict[str, np.ndarray] = {p.name: start(p, seed) for p in parameters if p.name not in architecture.aliases}
    blobs = {p.name: blobs[architecture.aliases.get(p.name, p.name)].reshape(p.shape) for p in parameters}
    return Weights(blobs, metadata.describe(architecture))


def start(parameter: Parameter, seed: int | None) -> np.ndarray:
    """One blob as `Parameter.fill` says: float32, counters int64."""
    shape, fill = parameter.shape, parameter.fill
    if fill == "bilinear":
        return geometry.bilinear_deconvolution(shape[0], shape[-1])
    if fill == "counter":
        return np.zeros(shape, np.int64)
    if not isinstance(fill, Draw):
        return np.full(shape, fill, np.float32)
    stream = np.random.default_rng(None if seed is None else [seed, zlib.crc32(parameter.name.encode())])
    if fill.kind == "uniform":
        return (stream.random(shape, np.float32) * 2 - 1) * np.float32(fill.size)
    blob = stream.standard_normal(shape, np.float32)
    while fill.kind == "truncated normal" and (far := np.abs(blob) > 2).any():
        blob[far] = stream.standard_normal(int(far.sum()), np.float32)
    return blob * np.float32(fill.size)
