"""A network that can be run on images, whatever computes it."""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from segtwin import Architecture, Preprocessing, inference, memory, tiles
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
            legal = self.legal_size(height, width)
            if any(self.architecture.size_slack) and legal != (height, width):
                raise ValueError(
                    f"{self.architecture.name}: of {height}×{width} pixels it makes scores of another size; the next "
                    f"size that it keeps is {legal[0]}×{legal[1]}"
                )

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns to which an image is mirrored."""
        legal = [
            fixed or (self.architecture.legal_size(size) if self.architecture else size)
            for fixed, size in zip(self.size, (height, width), strict=True)
        ]
        return legal[0], legal[1]

    def memory(self, height: int, width: int, pad: str | None, tile: int | None) -> int:
        """Bytes that the network's blobs take at the least for one image, which may be computed in
        tiles; 0 for a size that it does not take."""
        ends = memory.FLOAT32 * (self.in_channels + self.num_classes) * height * width
        if self.architecture is None or self.widths is None:
            return ends
        try:
            sizes = [
                (len(piece.rows.looks), len(piece.columns.looks)) for piece in self.pieces(height, width, pad, tile)
            ]
            rows, columns = max(sizes, key=math.prod)
            return memory.of_blobs(self.architecture, rows, columns, self.num_classes, self.in_channels, self.widths)
        except ValueError:
            return 0

    def pieces(self, height: int, width: int, pad: str | None, tile: int | None) -> Iterator[Piece]:
        """The parts that an image is computed in, one unless there are tiles.

        Args:
            height: rows of the image.
            width: its columns.
            pad: "reflect": mirrored at the bottom and right to a size that fits.
            tile: rows and columns of unet-paper's input tiles, by default 572; of other networks those that a tile
                gives, which looks farther; None: the whole image at once.

        Raises:
            ValueError: the size, or the tile, does not fit the network.
        """
        if self.architecture and self.architecture.name == "unet-paper":
            side = tiles.TILE if tile is None else tile
            shape = self.size[0] or side, self.size[1] or side
            border = 2 * tiles.BORDER
            for one in tiles.tiles(height, width, shape, fixed=self.size != (None, None)):
                rows = Span(one.rows, one.top, min(len(one.rows) - border, height - one.top))
                yield Piece(rows, Span(one.columns, one.left, min(len(one.columns) - border, width - one.left)))
            return
        legal = self.checked_size(height, width, pad)
        if tile is None:
            yield Piece(Span(range(legal[0]), 0, height), Span(range(legal[1]), 0, width))
            return
        if self.architecture is None:
            raise ValueError(f"{self.file}: a network that is not known here cannot be cut into tiles")
        if self.size != (None, None):
            raise ValueError(f"{self.file}: takes images of one size; leave out --tile, or export it for any")
        every = [tiles.cuts_with_context(self.architecture, size, tile) for size in legal]
        for row in every[0]:
            for column in every[1]:
                yield Piece(span(row, height), span(column, width))

    @property
    def takes_tiles(self) -> bool:
        """Whether images can be computed in tiles."""
        try:
            return next(self.pieces(*self.legal_size(1, 1), "reflect", 1)) is not None
        except ValueError:
            return False

    def checked_size(self, height: int, width: int, pad: str | None) -> tuple[int, int]:
        """Rows and columns that the network is run on.

        Raises:
            ValueError: the image does not fit.
        """
        legal = self.legal_size(height, width)
        if pad is None:
            try:
                self.check_size(height, width)
            except ValueError as error:
                fits = legal[0] >= height and legal[1] >= width
                raise ValueError(f"{error} (or add --pad reflect)" if fits else str(error)) from None
            return height, width
        if legal[0] < height or legal[1] < width:
            self.check_size(height, width)
        return legal

    def probabilities(self, data: np.ndarray, pad: str | None, tile: int | None, always: bool) -> np.ndarray:
        """classes×H×W of one image: what the network gives, scores made probabilities if `always`,
        or where a single class needs a threshold.

        Raises:
            ValueError: the image does not fit the network.
        """
        height, width = data.shape[2:]
        whole: np.ndarray | None = None
        for piece in self.pieces(height, width, pad, tile):
            part = self.part(
                piece, lambda rows, columns: data[:, :, rows[:, np.newaxis], columns], height, width, always
            )
            if part.shape[1:] == (height, width):
                return part
            if whole is None:
                whole = np.empty((len(part), height, width), part.dtype)
            whole[:, piece.rows.place, piece.columns.place] = part
        assert whole is not None
        return whole

    @staticmethod
    def looks(piece: Piece, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of an image that the network is given for a piece, mirrored beyond its end."""
        rows, columns = (
            tiles.mirrored(span.looks.start, span.looks.stop, size) if isinstance(span.looks, range) else span.looks
            for span, size in zip(piece, (height, width), strict=True)
        )
        return rows, columns

    def part(
        self,
        piece: Piece,
        data_of: Callable[[np.ndarray, np.ndarray], np.ndarray],
        height: int,
        width: int,
        always: bool,
    ) -> np.ndarray:
        """What `probabilities` gives for a piece: classes × its rows × its columns.

        Args:
            piece: of `pieces`.
            data_of: rows and columns of the image (some of them mirrored, so repeated) → 1×C×h×w.
            height: rows of the image.
            width: its columns.
            always: as in `probabilities`.

        Raises:
            ValueError: the network does not give a class a pixel.
        """
        rows, columns = self.looks(piece, height, width)
        result = self.scores(np.ascontiguousarray(data_of(rows, columns)))
        around = 2 * tiles.BORDER if self.architecture and self.architecture.name == "unet-paper" else 0
        expected = len(rows) - around, len(columns) - around
        if result.ndim != 4 or result.shape[2:] != expected:
            raise ValueError(
                f"{self.file}: gives {'×'.join(map(str, result.shape))} for {len(rows)}×{len(columns)} pixels, no "
                "class a pixel (N×classes×H×W)"
            )
        result = result[:, :, piece.rows.inner, piece.columns.inner]
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


def output_of(architecture: Architecture, num_classes: int, logits: bool = False) -> str:
    """What `Engine.output` is of a network; `logits`: its last sigmoid was left off."""
    if architecture.sigmoid and not logits:
        return "probability"
    return "logits" if architecture.binary(num_classes) else "score"


class Span(NamedTuple):
    """A piece along one axis."""

    looks: range | np.ndarray
    """Pixels of the image that the network is given; beyond its end it is mirrored."""
    first: int
    """Pixel of the image that the piece gives first."""
    gives: int
    """How many it gives."""
    skips: int = 0
    """Pixels of the network's output before them."""

    @property
    def inner(self) -> slice:
        """Where they are in the network's output."""
        return slice(self.skips, self.skips + self.gives)

    @property
    def place(self) -> slice:
        """Where they are in the image."""
        return slice(self.first, self.first + self.gives)


class Piece(NamedTuple):
    """A part of an image that is computed at once."""

    rows: Span
    columns: Span


def span(cut: tiles.Cut, size: int) -> Span:
    """A tile with context; what it gives beyond the image's end, which is mirrored, is left out."""
    return Span(range(cut.start, cut.stop), cut.first, min(cut.last, size) - cut.first, cut.first - cut.start)


NEARLY = 1e-3
"""What a probability may lie outside 0..1: float16 and rounded sums of a softmax."""
SMALLER = "cut the image into smaller ones"
ENGINES_SPACE = 4
"""An engine may take so many times what the blobs take: measured 1 to 3 in PyTorch and ONNX
Runtime, up to 9 in Keras, which keeps every blob of a functional model, 3 to 6 in numpy."""


def fits(
    name: str,
    height: int,
    width: int,
    network: str,
    need: int,
    say: Callable[[str], None],
    advice: str = SMALLER,
) -> None:
    """Whether the memory that is free holds a network's blobs; said before it is spent, since the
    system kills what takes more, without a word.

    Args:
        name: of the image.
        height: its rows.
        width: its columns.
        network: its name.
        need: bytes of the blobs.
        say: told where it may become scarce.
        advice: what to do where it does not.

    Raises:
        ImageError: it does not.
    """
    free = memory.free()
    if free is None or ENGINES_SPACE * need <= free:
        return
    what = f"{name}: {height}×{width} pixels take {memory.gigabytes(need)} of memory in {network}"
    if need > free:
        raise ImageError(f"{what}, {memory.gigabytes(free)} are free; {advice}")
    say(f"{what}, or several times as much, {memory.gigabytes(free)} are free")
