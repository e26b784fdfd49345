"""A network that can be run on images, whatever computes it."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import segtwin
from segtwin import Architecture, Preprocessing, inference, memory
from segtwin.errors import ImageError


class Folder:
    """A folder of temporary files, removed when nothing holds this object any more."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="segtwin-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass
class Engine:
    """A network in an engine, with what is known of it."""

    name: str
    """Of the engine: one of ENGINES."""
    scores: Callable[[np.ndarray], np.ndarray]
    """float32 N×C×H×W, as `segtwin.preprocess` makes it → the network's output, N×classes×H×W."""
    blobs: Callable[[np.ndarray], dict[str, np.ndarray]]
    """The same data → every blob that the engine can give, under its original name, N×C×H×W."""
    file: str
    """Where the network comes from, for messages."""
    architecture: Architecture | None
    """None: an ONNX file of a network that is not known here."""
    num_classes: int
    in_channels: int
    preprocessing: Preprocessing
    """How images become `data`."""
    output: str
    """"probability", "logits" (of a sigmoid), or "score" (of a softmax)."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What the file states."""
    size: tuple[int | None, int | None] = (None, None)
    """Rows and columns where the file fixes them."""
    widths: tuple[int, ...] | None = None
    """Of the architecture's layers; None: not known."""
    holds: object = None
    """What has to live as long as the engine: a model, a folder of files that it reads."""

    @property
    def network(self) -> str:
        """Name of the network, or of its file where it is not known."""
        return self.architecture.name if self.architecture else Path(self.file).name

    def check_size(self, height: int, width: int) -> None:
        """Refuse an image that the network does not take.

        Raises:
            ValueError: the message names the sizes that it takes.
        """
        if any(fixed not in (None, size) for fixed, size in zip(self.size, (height, width), strict=True)):
            wanted = "×".join("any" if size is None else str(size) for size in self.size)
            raise ValueError(f"{self.file}: takes images of {wanted} pixels alone, not {height}×{width}")
        if self.architecture and self.architecture.name != "unet-paper":
            self.architecture.check_size(height, width)

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns to which an image is mirrored."""
        legal = [
            fixed or (self.architecture.legal_size(size) if self.architecture else size)
            for fixed, size in zip(self.size, (height, width), strict=True)
        ]
        return legal[0], legal[1]

    def memory(self, height: int, width: int, pad: str | None, tile: int) -> int:
        """Bytes that the network's blobs take at the least for one image, which may be computed in
        tiles; 0 for a size that it does not take."""
        ends = memory.FLOAT32 * (self.in_channels + self.num_classes) * height * width
        if self.architecture is None or self.widths is None:
            return ends
        if self.architecture.name == "unet-paper":
            shape = (self.size[0] or tile, self.size[1] or tile)
            try:
                rows, columns = (
                    max(size for _, size in segtwin.tiles.cuts(n, one))
                    for n, one in zip((height, width), shape, strict=True)
                )
            except ValueError:
                return 0
            return ends + memory.of_blobs(
                self.architecture, rows, columns, self.num_classes, self.in_channels, self.widths
            )
        if pad is not None:
            height, width = self.legal_size(height, width)
        try:
            return memory.of_blobs(self.architecture, height, width, self.num_classes, self.in_channels, self.widths)
        except ValueError:
            return 0

    def probabilities(self, data: np.ndarray, pad: str | None, tile: int, always: bool) -> np.ndarray:
        """classes×H×W of one image: what the network gives, scores made probabilities if `always`,
        or where a single class needs a threshold.

        Raises:
            ValueError: the image does not fit the network.
        """
        height, width = data.shape[2:]
        if self.architecture and self.architecture.name == "unet-paper":
            shape = self.size[0] or tile, self.size[1] or tile
            result = segtwin.overlap_tile(self.scores, data, shape, fixed=self.size != (None, None))
        elif pad is None:
            try:
                self.check_size(height, width)
            except ValueError as error:
                legal = self.legal_size(height, width)
                raise ValueError(
                    f"{error} (or add --pad reflect)" if legal[0] >= height and legal[1] >= width else str(error)
                ) from None
            result = self.scores(data)
        else:
            legal = self.legal_size(height, width)
            if legal[0] < height or legal[1] < width:
                self.check_size(height, width)
            padded = inference.padded(data, *legal)
            result = self.scores(padded)
            if result.ndim != 4 or result.shape[2:] != padded.shape[2:]:
                raise ValueError(
                    f"{self.file}: gives {'×'.join(map(str, result.shape))} for {legal[0]}×{legal[1]} pixels, no "
                    "class a pixel"
                )
            result = result[:, :, :height, :width]
        if result.ndim != 4 or result.shape[2:] != (height, width):
            raise ValueError(
                f"{self.file}: gives {'×'.join(map(str, result.shape))} for {height}×{width} pixels, no class a "
                "pixel (N×classes×H×W)"
            )
        if self.output == "probability" and not -NEARLY <= float(result.min()) <= float(result.max()) <= 1 + NEARLY:
            raise ValueError(
                f"{self.file}: gives values from {result.min():.4g} to {result.max():.4g}, which are no probabilities; "
                'call the output "logits" where a sigmoid is still to come, or export the graph with it'
            )
        single = result.shape[1] == 1
        if self.output == "logits" and (always or single):
            result = inference.sigmoid(result)
        elif self.output == "score" and always and not single:
            result = inference.softmax(result)
        return result[0]


NEARLY = 1e-3
"""What a probability may lie outside 0..1: float16 and rounded sums of a softmax."""
ENGINES_SPACE = 4
"""An engine may take so many times what the blobs take: measured 1 to 3 in PyTorch and ONNX
Runtime, up to 9 in Keras, which keeps every blob of a functional model, 3 to 6 in numpy."""


def fits(name: str, height: int, width: int, network: str, need: int, say: Callable[[str], None]) -> None:
    """Whether the memory that is free holds a network's blobs; said before it is spent, since the
    system kills what takes more, without a word.

    Args:
        name: of the image.
        height: its rows.
        width: its columns.
        network: its name.
        need: bytes of the blobs.
        say: told where it may become scarce.

    Raises:
        ImageError: it does not.
    """
    free = memory.free()
    if free is None or ENGINES_SPACE * need <= free:
        return
    what = f"{name}: {height}×{width} pixels take {memory.gigabytes(need)} of memory in {network}"
    if need > free:
        raise ImageError(f"{what}, {memory.gigabytes(free)} are free; cut the image into smaller ones")
    say(f"{what}, or several times as much, {memory.gigabytes(free)} are free")
