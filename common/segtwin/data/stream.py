"""Batches in an order that a seed decides: which images, how they are augmented, and how they are made
to fit a network.

Batch number s is a function of the seed and of s alone. So it is the same in both frameworks, with any
number of workers, and after any interruption.
"""

from __future__ import annotations

import random as python_random
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from segtwin.architectures import Architecture
from segtwin.data.augment import Augmentation, grown, weight_map
from segtwin.data.labels import Coding
from segtwin.data.layouts import Sample
from segtwin.errors import ArchitectureError, DataError
from segtwin.images import pages
from segtwin.preprocessing import Preprocessing
from segtwin.tiles import BORDER, looked_at

CAFFE_SEED = 1337
ORDERS = ("epochs", "caffe", "listed")
KEPT = 1 << 29
"""Bytes of decoded images that a stream keeps."""
AHEAD = 2
"""Batches per worker that are made before they are asked for."""


@dataclass(frozen=True)
class Batch:
    """What one step trains on."""

    data: np.ndarray
    """float32 N×C×H×W, preprocessed."""
    label: np.ndarray
    """uint8 N×1×h×w, h×w the size of the network's output; 255 is void."""
    weight: np.ndarray | None
    """float32 N×1×h×w, of each pixel."""
    names: tuple[str, ...]


def caffe_order(images: int, count: int, seed: int = CAFFE_SEED) -> list[int]:
    """The first `count` images that Caffe's data layer draws, with replacement.

    `voc_layers.py` of shelhamer/fcn.berkeleyvision.org at 1305c73 seeds Python 2's `random` with 1337
    and draws `random.randint(0, n - 1)`, which there is int(random() · n); Python 3's differs.
    """
    generator = python_random.Random(seed)
    return [int(generator.random() * images) for _ in range(count)]


class Stream:
    """The batches of a training, or the images of a validation.

    Args:
        samples: images with labels.
        coding: what their values mean.
        architecture: of the network, for the sizes that it takes.
        preprocessing: of the network.
        in_channels: of the network.
        batch: images a step.
        seed: of order and augmentation.
        augmentation: what is done to each image.
        order: "epochs" (every image once, in an order of its own each time), "caffe" (`caffe_order`), or
            "listed".
        border_weights: make the U-Net paper's weight map for every label.
        share: number of this process, and processes that share each batch; only its part is made.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        coding: Coding,
        architecture: Architecture,
        preprocessing: Preprocessing,
        in_channels: int,
        batch: int = 1,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        order: str = "epochs",
        border_weights: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        if not samples:
            raise DataError("there is no image with a label")
        if order not in ORDERS:
            raise DataError(f"the order of images is {' or '.join(ORDERS)}, not {order!r}")
        if batch < 1:
            raise DataError(f"a batch has at least 1 image, not {batch}")
        self.samples, self.coding, self.architecture = tuple(samples), coding, architecture
        self.preprocessing, self.in_channels = preprocessing, in_channels
        self.batch, self.seed, self.order = batch, seed, order
        self.augmentation = augmentation or Augmentation()
        self.border_weights, (rank, size) = border_weights, share
        if batch % size:
            raise DataError(f"{size} processes cannot share a batch of {batch}; take a multiple of {size} (--batch)")
        self._places = range(rank * batch // size, (rank + 1) * batch // size)
        self._kept: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._bytes, self._lock = 0, threading.Lock()
        self._drawn: list[int] = []

    def index(self, position: int) -> int:
        """Which sample comes at a position, counted in images from 0."""
        count = len(self.samples)
        if self.order == "listed":
            return position % count
        if self.order == "caffe":
            with self._lock:
                if position >= len(self._drawn):
                    self._drawn = caffe_order(count, max(1024, 2 * position), self.seed)
                return self._drawn[position]
        epoch, place = divmod(position, count)
        return int(np.random.default_rng([self.seed, 1, epoch]).permutation(count)[place])

    def decoded(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Values 0..255 H×W×C of a sample, and its label H×W.

        Raises:
            DataError: image and label differ in size.
            ImageError, OSError: one of them cannot be read.
        """
        with self._lock:
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
        sample = self.samples[index]
        values, label = read_pair(sample, self.coding, self.in_channels, self.preprocessing)
        with self._lock:
            size = values.nbytes + label.nbytes
            if index not in self._kept and size <= KEPT:
                self._kept[index] = values, label
                self._bytes += size
                while self._bytes > KEPT:
                    _, (old, other) = self._kept.popitem(last=False)
                    self._bytes -= old.nbytes + other.nbytes
        return values, label

    def one(self, position: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, str]:
        """Input C×H×W, label h×w, weights h×w or None, and name, of the image at a position."""
        index = self.index(position)
        values, label = self.decoded(index)
        generator = np.random.default_rng([self.seed, 2, position])
        values, label = self.augmentation.apply(values, label, generator)
        weight = weight_map(label) if self.border_weights else None
        data, label, weight = fitted(values, label, weight, self.architecture, self.samples[index].name)
        prepared = self.preprocessing.for_channels(self.in_channels).apply(data[np.newaxis])[0]
        return prepared, label, weight, self.samples[index].name

    def batch_at(self, step: int) -> Batch:
        """The batch of a step, counted from 0, or this process' part of it.

        Raises:
            DataError: its images differ in size.
        """
        ones = [self.one(step * self.batch + number) for number in self._places]
        first = ones[0][0].shape
        for data, _, _, name in ones:
            if data.shape != first:
                raise DataError(
                    f"{name} has {data.shape[1]}×{data.shape[2]} pixels and {ones[0][3]} {first[1]}×{first[2]}; images "
                    "of one batch have one size: give --crop, or --batch 1"
                )
        weights = [weight for _, _, weight, _ in ones if weight is not None]
        return Batch(
            np.stack([data for data, _, _, _ in ones]),
            np.stack([label for _, label, _, _ in ones])[:, np.newaxis],
            np.stack(weights)[:, np.newaxis] if weights else None,
            tuple(name for _, _, _, name in ones),
        )

    def batches(self, start: int, stop: int, workers: int = 2) -> Iterator[Batch]:
        """The batches start … stop − 1, made ahead by threads; an error is raised where its batch would
        come."""
        if workers < 1:
            yield from (self.batch_at(step) for step in range(start, stop))
            return
        pool = ThreadPoolExecutor(workers, thread_name_prefix="segtwin-data")
        waiting: list[Future[Batch]] = []
        try:
            for step in range(start, stop):
                waiting.append(pool.submit(self.batch_at, step))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def read_pair(
    sample: Sample, coding: Coding, channels: int, preprocessing: Preprocessing
) -> tuple[np.ndarray, np.ndarray]:
    """Values 0..255 H×W×channels of a sample's image, and its label H×W.

    Raises:
        DataError: they differ in size.
        ImageError, OSError: one of them cannot be read.
    """
    values, label = image_values(sample, channels, preprocessing), coding.read(sample)
    if values.shape[:2] != label.shape:
        raise DataError(
            f"{sample.labels[0]}: has {label.shape[0]}×{label.shape[1]} pixels, and {sample.image} "
            f"{values.shape[0]}×{values.shape[1]}"
        )
    return values, label


def image_values(sample: Sample, channels: int, preprocessing: Preprocessing) -> np.ndarray:
    """Values 0..255 of a sample's image, H×W×channels."""
    bits = preprocessing.bits if preprocessing.bits != 8 else None
    reader = pages(sample.image)
    try:
        for number, page in enumerate(reader):
            if number == (sample.page or 0):
                return page.values(channels, bits)
    finally:
        reader.close()  # type: ignore[attr-defined] # a generator's
    raise DataError(f"{sample.image}: has no page {sample.page}")


def fitted(
    values: np.ndarray, label: np.ndarray, weight: np.ndarray | None, architecture: Architecture, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """An image, its label and its weights in sizes that a network takes and gives.

    unet-paper gets 92 mirrored pixels of context on each side (and what its sizes need beyond), so that
    every pixel of the label is learned; the other U-Nets get mirrored rows and columns below and to the
    right, whose labels are void. The other networks take every size, or say what is too small.

    Raises:
        DataError: the image is too small for the network.
    """
    height, width = label.shape
    if architecture.name == "unet-paper":
        rows, columns = (architecture.legal_size(size + 2 * BORDER) for size in label.shape)
        outside = values[looked_at(0, rows, height)[:, np.newaxis], looked_at(0, columns, width)]
        high, wide = rows - 2 * BORDER, columns - 2 * BORDER
        _, label = grown(label[..., np.newaxis], label, high, wide)
        return outside, label, _with_zeros(weight, high, wide)
    rows, columns = architecture.legal_size(height), architecture.legal_size(width)
    values, label = grown(values, label, rows, columns)
    try:
        architecture.check_size(rows, columns)
    except ArchitectureError as error:
        raise DataError(f"{name}: {error}") from None
    return values, label, _with_zeros(weight, rows, columns)


def _with_zeros(weight: np.ndarray | None, height: int, width: int) -> np.ndarray | None:
    if weight is None:
        return None
    return np.pad(weight, ((0, height - weight.shape[0]), (0, width - weight.shape[1])))
