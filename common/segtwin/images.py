"""Images and labels in files, read as arrays. Every conversion on the way is said.

Source: `voc_layers.py` of shelhamer/fcn.berkeleyvision.org at
1305c7378a9f0ab44b2c936f4d60e4687e3d8743, `load_image` and `load_label`. The original reads colour
JPEGs only. What other files hold is converted, and said.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from segtwin import memory, tiff
from segtwin.errors import ImageError

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray"

FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "DIB", "PPM", "JPEG2000", "MPO", "TGA", "PCX", "SGI", "AVIF")
"""What is read, by Pillow's names. Formats that run another program (PostScript) or hold no picture
are not among them."""
ENDINGS = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".gif", ".webp", ".bmp", ".dib", ".ppm",
    ".pgm", ".pbm", ".pnm", ".jp2",
    ".j2k", ".mpo", ".tga", ".pcx", ".sgi", ".avif", ".npy",
)  # fmt: skip
"""Endings of files that a folder's images have; .npy holds an array H×W×C."""
LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")
"""Formats whose values are near those that were saved."""
STACKS = ("TIFF", "GIF", "PNG", "WEBP", "AVIF")
"""Formats whose further pages are images of their own; those of a phone's JPEG (MPO) are previews."""
MOST_PIXELS = 1 << 28
"""Of one image. A file of some kilobytes may state more than any camera takes, and would be made so
large when it is decoded."""
DECODED = 4 + 4 + 4 + 4
"""Bytes of memory for a number of an image, at the least: in Pillow, as the bytes that numpy gets
of it, as float32, and as the network's input."""
NO_MEMORY = "decoding it takes more memory than there is, or it is damaged; copy it again, or make it smaller"
HIGH_BYTE = "16 bits a value became 8, the high byte"
DEEP_MODES = ("RGB", "RGBA", "RGBX", "L", "LA")
"""Pillow's modes of 16-bit values of which its high bytes are the values of an 8-bit image of the
same kind."""
LEAST_PAGE = 8
"""Bytes that a page takes in a file at the least: a header of its own. An animation's first bytes
may state any number of them."""
ORIENTATION = 0x0112
PHOTOMETRIC = 262
REDUCED = 254
"""TIFF tag NewSubfileType; bit 0: a smaller copy of another page."""
CONVERSIONS = {
    "1": "black and white became grey in three channels",
    "L": "grey became three equal channels",
    "LA": "grey became three equal channels, the alpha channel is dropped",
    "P": "palette colours were looked up",
    "RGBA": "the alpha channel is dropped",
}
TO_GREY = "colours became grey, 0.299 R + 0.587 G + 0.114 B"
OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B"}
"""Pillow's name of the order of two bytes → the order under which it takes the other one. It keeps
one byte of each value of a colour image."""


class Converted(UserWarning):
    """Something was converted on the way in; the message says what and how."""


@dataclass
class Page:
    """One image of a file, not yet converted; it has to be used before the next page is asked for."""

    name: str
    raw: Image.Image | np.ndarray
    low: np.ndarray | None = None
    """Low bytes of 16-bit colours, of which `raw` has the high ones."""
    deep: bool = False
    """The values have 16 bits, of which `raw` has the high bytes."""
    ranged: bool = False
    """The file's header states the largest value, which here is 65535 (PGM and PPM)."""
    orientation: int = 1
    """Of an array: as EXIF and TIFF number the ways in which an image lies."""
    white_is_zero: bool = False
    """A TIFF whose zero is white, which Pillow turns around where a value has 8 bits or fewer."""
    spread: int = 1
    """Grey values of 2 or 4 bits, which Pillow spreads over 0..255: so far apart."""
    lost: int = 0
    """The values have so many bits, of which the decoder keeps 8 (JPEG 2000, AVIF)."""
    own: str = ""
    """The type of a TIFF's values where Pillow takes their bytes for another: int8 for uint8,
    uint32 for int32."""
    bands: bool = False
    """An array that is a page of a TIFF that Pillow does not read."""
    colours: bool = False
    """Its first three bands are red, green and blue."""
    told: set[str] = field(default_factory=set)
    """What was said of earlier pages of the file: a stack says it once."""

    def values(
        self, channels: int = 3, bits: int | None = None, value_range: tuple[float, float] | None = None
    ) -> np.ndarray:
        """H×W×channels, values 0..255: uint8 as the file has them, or float32 where they had more
        bits or another range.

        Args:
            channels: 3 is RGB, 1 grey; for other numbers the file must have as many, and they are
                kept as they are.
            bits: of the values; None: not stated.
            value_range: values that become 0 and 255.

        Raises:
            ImageError: the image has other channels, or values of an unknown range.
        """
        try:
            return self._values(channels, bits, value_range)
        except MemoryError:
            raise ImageError(f"{self.name}: {NO_MEMORY}") from None

    def _values(self, channels: int, bits: int | None, value_range: tuple[float, float] | None) -> np.ndarray:
        said: list[str] = []
        with _decoding(self.name):
            array = self._array(channels, said)
        dropped = self.lost or (16 if HIGH_BYTE in said else 0)
        if dropped and (value_range is not None or (bits or 8) > 8):
            raise ImageError(
                f"{self.name}: its values of {dropped} bits are decoded to 8 here, which "
                f"{'--bits' if value_range is None else '--range'} does not "
                "speak of; save it as an RGB or grey image of 16 bits (PNG or TIFF, without alpha), or as .npy"
            )
        if bits is not None and bits == self._few_bits():
            bits = None  # Pillow has spread them over 0..255
        if self.ranged and array.dtype != np.uint8:
            if value_range is not None:
                raise ImageError(f"{self.name}: the file's header states its range; leave --range out")
            array, bits = array.astype(np.uint16), 16
        array = _scaled(array, self.name, bits, value_range, said)
        if channels == 1 and array.shape[2] == 3:
            array = _grey(array)
        elif channels == 3 and array.shape[2] == 1:
            array = np.repeat(array, 3, axis=2)
        kind = re.sub(r"\d+", "", "; ".join(said))
        if said and kind not in self.told:
            self.told.add(kind)
            warnings.warn(f"{self.name}: {'; '.join(said)}", Converted, stacklevel=4)
        return array

    def _few_bits(self) -> int:
        """Bits of a value where they are 1, 2 or 4; else 8."""
        return {85: 2, 17: 4}.get(self.spread, 1 if isinstance(self.raw, Image.Image) and self.raw.mode == "1" else 8)

    def _array(self, channels: int, said: list[str]) -> np.ndarray:
        """H×W×1, H×W×3 or H×W×channels in the file's own values."""
        image = self.raw
        if isinstance(image, np.ndarray):
            array = self._of_bands(image, channels, said) if self.bands else self._of_array(image, channels)
            if self.orientation != 1:
                said.append("rotated as its orientation asks")
            return turned(array, self.orientation)
        orientation = image.getexif().get(ORIENTATION, 1)
        if orientation in range(2, 9):
            said.append("rotated as its EXIF orientation asks")
            image = ImageOps.exif_transpose(image)
        if self.lost:
            said.append(f"{self.lost} bits a value became 8, the high ones")
        if channels not in (1, 3):
            array = np.asarray(image)
            if array.ndim != 3 or array.shape[2] != channels:
                found = array.shape[2] if array.ndim == 3 else 1
                raise ImageError(
                    f"{self.name}: has {found} channels, the network takes {channels}; give an array "
                    f"H×W×{channels} (.npy)"
                )
            return self._with_low(array, orientation, said)
        if image.mode.startswith("I") or image.mode == "F" or self.own:
            return self._grey_values(image, channels, said)
        if self.deep and image.mode in DEEP_MODES:
            array = self._with_low(np.asarray(image), orientation, said)
            if array.shape[2] in (2, 4) and image.mode != "RGBX":
                said.append("the alpha channel is dropped")
            array = array[..., : 1 if array.shape[2] < 3 else 3]
            if channels == 1 and array.shape[2] == 3:
                said.append(TO_GREY)
            elif channels == 3 and array.shape[2] == 1:
                said.append(CONVERSIONS["L"])
            return array
        if self.deep:
            said.append(HIGH_BYTE)
        if channels == 1:
            if image.mode not in ("L", "1"):
                said.append("the alpha channel is dropped" if image.mode == "LA" else TO_GREY)
            return np.asarray(
                self._converted(image, "RGB" if image.mode not in ("L", "1", "LA") else image.mode).convert("L")
            )[..., np.newaxis]
        if image.mode != "RGB":
            said.append(CONVERSIONS.get(image.mode, f"colour mode {image.mode} became RGB"))
            image = image.convert("RGBA") if "transparency" in image.info else image
            image = self._converted(image, "RGB")
        return np.asarray(image)

    def _converted(self, image: Image.Image, mode: str) -> Image.Image:
        """An image in another mode of Pillow's."""
        if image.mode in ("LAB", "HSV"):
            raise ImageError(f"{self.name}: its colours are {image.mode}, which are not converted here; save it as RGB")
        return image.convert(mode)

    def _grey_values(self, image: Image.Image, channels: int, said: list[str]) -> np.ndarray:
        """H×W×1 of 16 or 32 bits, or floats."""
        array = np.asarray(image)[..., np.newaxis]
        if self.own:
            array = np.ascontiguousarray(array).view(self.own)
        if channels == 3:
            said.append(CONVERSIONS["L"])
        if not self.white_is_zero:
            return array
        if image.mode not in ("I;16", "I;16B", "I;16L", "I;16N"):
            raise ImageError(
                f"{self.name}: is a TIFF whose zero is white, with values of no stated range; save it with black "
                "as zero"
            )
        said.append("turned around: its zero is white")
        return 65535 - array.astype(np.uint16)

    def _with_low(self, high: np.ndarray, orientation: int, said: list[str]) -> np.ndarray:
        low = None if self.low is None else turned(self.low, orientation)
        if low is not None and low.shape == high.shape:
            return (high.astype(np.uint16) << 8) | low
        if self.deep:
            said.append(HIGH_BYTE)
        return high

    def _of_bands(self, values: np.ndarray, channels: int, said: list[str]) -> np.ndarray:
        """Of the bands of a TIFF: as of an image that Pillow reads."""
        if channels in (1, 3) and self.colours and values.shape[2] == 4:
            values = values[..., :3]
            said.append(CONVERSIONS["RGBA"])
        if channels == 1 and self.colours:
            said.append(TO_GREY)
            channels = 3
        elif channels == 3 and values.shape[2] == 1:
            said.append(CONVERSIONS["L"])
            channels = 1
        return self._of_array(values, channels)

    def _of_array(self, array: np.ndarray, channels: int) -> np.ndarray:
        shape = "×".join(map(str, array.shape))
        if channels == 1 and array.ndim == 2:
            array = array[..., np.newaxis]
        name = "" if self.name == "image" else f"{self.name}: "
        if array.dtype.kind not in "uif" or (array.dtype == np.int64 and not array.size):
            raise ImageError(f"{name}an array of {array.dtype} is no image; give one of uint8, uint16 or float32")
        if array.ndim != 3 or array.shape[2] != channels or not array.size:
            what = "a grey image array is H×W" if channels == 1 else f"an image array is H×W×{channels}"
            raise ImageError(f"{name}{what} of uint8{' (RGB)' if channels == 3 else ''}, not {shape} of {array.dtype}")
        return array


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """H×W×C as a viewer shows it, of one that lies as its orientation says (EXIF: CIPA DC-008,
    4.6.5); other numbers than 2 to 8: as it is."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return array[rows, columns]


def _scaled(
    array: np.ndarray, name: str, bits: int | None, value_range: tuple[float, float] | None, said: list[str]
) -> np.ndarray:
    """Values 0..255 of values of so many bits or of such a range; 8-bit values stay as they are."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.uint8 and value_range is None and (bits is None or bits >= 8):
        return array
    smallest, largest = array.min(), array.max()
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        raise ImageError(f"{name}: holds values that are no numbers (NaN or infinity)")
    if value_range is not None:
        low, high = value_range
        if not low < high:
            raise ImageError(f"{name}: the range {low:g},{high:g} is empty; the first number is the one that becomes 0")
        outside = int(np.count_nonzero((array < low) | (array > high)))
        if outside:
            said.append(
                f"{outside} of {array.size} values lie outside {low:g}..{high:g} and were cut off; they reach from "
                f"{smallest:g} to {largest:g}"
            )
        return ((np.clip(array.astype(np.float64), low, high) - low) * (255 / (high - low))).astype(np.float32)
    if bits is None:
        if array.dtype != np.uint16:
            kind = "float" if array.dtype.kind == "f" else f"{array.dtype.itemsize * 8}-bit"
            raise ImageError(
                f"{name}: holds {kind} values from {smallest:g} to {largest:g}, whose range is not known; say "
                "which become 0 and 255: "
                f"--range {smallest:g},{largest:g} (value_range=), or --bits N"
            )
        bits = 16
        looks = max(int(largest).bit_length(), 1)
        advice = f"; it looks like {looks} bits: say --bits {looks}" if looks < 16 else ""
        said.append(f"16-bit values, the largest {largest}, are taken as 0..65535{advice}")
    top = 2**bits - 1
    if smallest < 0 or largest > top:
        raise ImageError(f"{name}: holds values from {smallest:g} to {largest:g}; values of {bits} bits are 0..{top}")
    return (
        (array.astype(np.float64) * (255 / top)).astype(np.float32)
        if bits > 24
        else array.astype(np.float32) * np.float32(255) / np.float32(top)
    )


def _grey(array: np.ndarray) -> np.ndarray:
    """Of RGB values, H×W×1."""
    return array @ np.array([[0.299], [0.587], [0.114]], np.float32)


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Around calls of Pillow: what its decoders raise is the image's fault, but for the file
    system's errors. Nothing of ours is raised inside."""
    try:
        yield
    except UnidentifiedImageError:
        size = os.path.getsize(name) if os.path.exists(name) else 1
        raise ImageError(
            f"{name}: {'is empty (0 bytes)' if not size else 'is not an image'}; give a JPEG or PNG file"
        ) from None
    except ImageError:
        raise
    except tiff.Unsupported as error:
        raise ImageError(f"{name}: {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the warning where warnings are errors
        raise ImageError(
            f"{name}: states more pixels than Pillow opens ({2 * (Image.MAX_IMAGE_PIXELS or 0):,}); cut it up, or "
            "give it as .npy"
        ) from None
    except MemoryError:  # of lengths that a damaged file states, or because there is none
        raise ImageError(f"{name}: {NO_MEMORY}") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NOT_THE_IMAGE:
            error.filename = error.filename or name
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: the image is damaged ({reason}); copy it again") from None


NOT_THE_IMAGE = frozenset({
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG,
    errno.EMFILE, errno.ENFILE, errno.EIO,
    errno.ENXIO, errno.ENODEV, errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.EINTR,
})  # fmt: skip
"""Errors of the file system. Another number comes of what a damaged file asks for: EINVAL of a
place before its beginning."""


def _open(name: str) -> Image.Image:
    Image.init()
    _regular(name)
    return Image.open(name, formats=[one for one in FORMATS if one in Image.OPEN])


def _regular(name: str) -> None:
    """Refuse what is not a file of bytes: opening a pipe waits for somebody to write, a device
    never ends.

    Raises:
        ImageError: it is a pipe, a socket or a device.
    """
    mode = os.stat(name).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ImageError(f"{name}: is a pipe, socket or device; give the image as a file")


def _fits(name: str, height: int, width: int, channels: int) -> None:
    """Refuse an image by the size that its header states, before it is decoded.

    Raises:
        ImageError: no camera makes so many pixels, or the memory that is free does not hold them.
    """
    if height * width > MOST_PIXELS:
        raise ImageError(
            f"{name}: states {height}×{width} pixels, more than {MOST_PIXELS:,}; cut it into smaller ones, or give "
            "it as .npy"
        )
    need, free = height * width * channels * DECODED, memory.free()
    if free is not None and need > free:
        raise ImageError(
            f"{name}: {height}×{width} pixels take {memory.gigabytes(need)} of memory, {memory.gigabytes(free)} "
            "are free; cut it into smaller ones"
        )


def _page_numbers(opened: Image.Image) -> list[int]:
    """The pages that are images of their own."""
    count = getattr(opened, "n_frames", 1) if opened.format in STACKS else 1
    if count > os.path.getsize(opened.filename) // LEAST_PAGE + 1:  # type: ignore[attr-defined]
        raise ValueError(f"it states {count:,} pages")
    if count == 1 or not isinstance(opened, TiffImagePlugin.TiffImageFile):
        return list(range(count))
    full = []
    for number in range(count):
        opened.seek(number)
        if not int(opened.tag_v2.get(REDUCED, 0)) & 1:
            full.append(number)
    return full or [0]


def page_count(image: ImageLike) -> int:
    """How many images a file holds: the pages of a TIFF, the frames of an animation, the first axis
    of an array N×H×W×C.

    Raises:
        ImageError: the file is no image.
    """
    if isinstance(image, Image.Image):
        return 1
    if isinstance(image, np.ndarray) or _is_array(image):
        array = _load_array(image)
        return len(array) if array.ndim == 4 else 1
    if beyond := _beyond_pillow(os.fspath(image)):
        return len(beyond)
    with _decoding(os.fspath(image)), _open(os.fspath(image)) as opened:
        return len(_page_numbers(opened))


def pages(image: ImageLike, admit: Callable[[int, int], None] = lambda height, width: None) -> Iterator[Page]:
    """The images of a file, one after the other: one at a time is in memory.

    Args:
        image: a file, a PIL image, or an array H×W×C, or N×H×W×C for several.
        admit: told rows and columns of each before it is decoded; it raises an ImageError where
            they will not do.

    Raises:
        ImageError: the file is empty, no image, or damaged; its header states more than the memory
            holds.
    """
    if isinstance(image, np.ndarray) or (not isinstance(image, Image.Image) and _is_array(image)):
        array = _load_array(image)
        name = "image" if isinstance(image, np.ndarray) else os.fspath(image)
        for one in array if array.ndim == 4 else [array]:
            if one.ndim >= 2:
                admit(one.shape[0], one.shape[1])
            yield Page(name, np.asarray(one))
        return
    if isinstance(image, Image.Image):
        admit(image.height, image.width)
        with _decoding("image"):
            deep = _two_bytes(image)
            image.load()
        yield Page("image", image, deep=deep)
        return
    name = os.fspath(image)
    beyond = _beyond_pillow(name)
    told: set[str] = set()

    def of_bands(places: Iterable[int]) -> Iterator[Page]:
        title = name

        def admitted(height: int, width: int, bands: int) -> None:
            _fits(title, height, width, bands)
            admit(height, width)

        places = list(places)
        banded = tiff.pages(name, admitted, places)
        for place in places:
            title = name if len(beyond) == 1 else f"{name}, page {place + 1}"
            with _decoding(title):
                page = next(banded)
            yield Page(title, page.values, orientation=page.orientation, bands=True, colours=page.colours, told=told)

    if beyond and beyond[min(beyond)]:  # Pillow opens a file that begins with a page that it knows
        yield from of_bands(range(len(beyond)))
        return
    with _decoding(name):
        opened = _open(name)
    with opened:
        with _decoding(name):
            numbers = list(beyond) or _page_numbers(opened)
        for number in numbers:
            place = numbers.index(number)
            title = name if len(numbers) == 1 else f"{name}, page {place + 1}"
            if beyond.get(number):
                yield from of_bands([place])
                continue
            with _decoding(title):
                opened.seek(number)
            _fits(title, opened.height, opened.width, len(opened.getbands()))
            admit(opened.height, opened.width)
            with _decoding(title):
                colours, raw, low = _deep_ppm(name, opened), opened, None
                if colours is not None:
                    raw, low, deep, spread = (
                        Image.fromarray((colours >> 8).astype(np.uint8)),
                        (colours & 255).astype(np.uint8),
                        True,
                        1,
                    )
                else:
                    deep, spread = _two_bytes(opened), _spread(opened)
                    opened.load()
                    low = _low_bytes(name, number) if deep else None
                white = isinstance(opened, TiffImagePlugin.TiffImageFile) and opened.tag_v2.get(PHOTOMETRIC) == 0
                lost, own = _lost_bits(name, opened), _own_type(opened)
            yield Page(
                title,
                raw,
                low,
                deep,
                opened.format == "PPM",
                white_is_zero=white,
                spread=spread,
                lost=lost,
                own=own,
                told=told,
            )


def _two_bytes(image: Image.Image) -> bool:
    """Whether Pillow will take the high bytes of 16-bit colours, which it does without a word.
    Asked before the image is loaded."""
    return not image.mode.startswith("I") and ";16" in str(getattr(image, "tile", None))


def _spread(image: Image.Image) -> int:
    """How far apart Pillow will put grey values of 2 or 4 bits. Asked before the image is loaded."""
    modes = [
        tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args
        for tile in getattr(image, "tile", None) or []
    ]
    depths = {found[1] for mode in modes if (found := re.match(r"L;([24])\b", str(mode)))}
    return 255 // (2 ** int(depths.pop()) - 1) if len(depths) == 1 else 1


def _own_type(image: Image.Image) -> str:
    """The type of a TIFF's grey values where Pillow takes their bytes for another (TIFF 6.0,
    SampleFormat); "" where it does not."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return ""
    kinds = {("L", 2): "i1", ("I", 1): "u4"}
    formats, depth = image.tag_v2.get(339, (1,)), image.tag_v2.get(258, (1,))
    return kinds.get((image.mode, formats[0]), "") if depth in ((8,), (32,)) else ""


def _lost_bits(name: str, image: Image.Image) -> int:
    """Bits of a value of a JPEG 2000 or AVIF image of colours, of which Pillow's decoders keep 8; 0
    where they keep all."""
    if image.format not in ("JPEG2000", "AVIF") or image.mode.startswith("I"):
        return 0
    with open(name, "rb") as file:
        head = file.read(1 << 16)
    # AV1 Codec ISO Media File Format Binding, 2.3.3: two bits behind the profile and the tier
    if image.format == "AVIF":
        at = head.find(b"av1C")
        return {0b10: 10, 0b11: 12}.get(head[at + 6] >> 5 & 3, 0) if 0 <= at < len(head) - 6 else 0
    at = head.find(b"\xff\x4f\xff\x51")  # ITU-T T.800, A.5.1: SOC, then SIZ, whose components follow 38 bytes
    bits = (head[at + 42] & 127) + 1 if 0 <= at < len(head) - 42 else 8
    return bits if bits > 8 else 0


def _deep_ppm(name: str, opened: Image.Image) -> np.ndarray | None:
    """H×W×3 uint16 of a colour PPM of more than 8 bits, of which Pillow keeps 8: 0..65535, whatever
    the header states as the largest value."""
    if opened.format != "PPM" or opened.mode != "RGB" or not (tiles := getattr(opened, "tile", None)):
        return None
    (tile,) = tiles
    largest = tile.args[-1] if isinstance(tile.args, tuple) else tile.args
    if not isinstance(largest, int) or largest < 256:
        return None
    count = 3 * opened.width * opened.height
    with open(name, "rb") as file:
        file.seek(tile.offset)
        if tile.codec_name == "ppm_plain":
            values = np.array(re.sub(rb"#[^\n\r]*", b" ", file.read()).split()[:count], np.int64)
        else:
            values = np.frombuffer(file.read(2 * count), ">u2").astype(np.int64)
    if len(values) != count or values.min() < 0 or values.max() > largest:
        raise ValueError(
            f"holds {len(values)} of {count} values of 0..{largest}"
            if len(values) != count
            else f"holds values outside 0..{largest}"
        )
    return np.rint(values * (65535 / largest)).astype(np.uint16).reshape(opened.height, opened.width, 3)


def _low_bytes(name: str, number: int) -> np.ndarray | None:
    """The low bytes of 16-bit colours: the file decoded again, with the order of the two bytes
    turned around."""
    with _open(name) as again:
        again.seek(number)
        opened: Any = again
        tiles = []
        for tile in opened.tile:
            mode, *others = tile.args if isinstance(tile.args, tuple) else (tile.args,)
            colours, _, order = str(mode).partition(";")
            if order not in OTHER_BYTE or colours not in ("RGB", "RGBA", "RGBX"):
                return None
            turned = f"{colours};{OTHER_BYTE[order]}"
            tiles.append(tile._replace(args=(turned, *others) if isinstance(tile.args, tuple) else turned))
        opened.tile = tiles
        again.load()
        return np.array(again)


def _beyond_pillow(name: str) -> dict[int, bool]:
    """The numbers of a TIFF's pages → whether they are of a kind that Pillow does not know; nothing
    where none is."""
    _regular(name)
    with _decoding(name):
        if not tiff.is_tiff(name):
            return {}
        found = tiff.beyond_pillow(name)
        if any(found.values()):
            return found
        try:
            _open(name).close()
        except UnidentifiedImageError:
            return dict.fromkeys(found or [0], True)
        return {}


def _is_array(image: Any) -> bool:
    return str(os.fspath(image)).lower().endswith(".npy")


def _load_array(image: Any) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    name = os.fspath(image)
    _regular(name)
    try:
        return np.lib.format.open_memmap(name, mode="r")
    except Exception as error:  # the header is Python's text, and whatever its parser raises comes through
        if isinstance(error, OSError) and error.errno in NOT_THE_IMAGE:
            raise
        raise ImageError(
            f"{name}: is no .npy file of numbers ({' '.join(str(error).split())[:160] or type(error).__name__})"
        ) from None


def read_image(
    image: ImageLike,
    grey: bool = False,
    bits: int | None = None,
    value_range: tuple[float, float] | None = None,
    channels: int | None = None,
) -> np.ndarray:
    """An image as H×W×3 RGB, the way a viewer shows it, or as H×W×1. Every conversion on the way is
    said in a `Converted` warning.

    Grey values are repeated in the three channels (with `grey`, colours become 0.299 R + 0.587 G +
    0.114 B), palettes are looked up, an alpha channel is dropped (the colours under it stay as they
    are stored), and an EXIF rotation is carried out. Of several pages the first is read.

    Args:
        image: a file, a PIL image, or an array H×W×3 (with `grey` H×W).
        grey: one channel.
        bits: of values with more than 8: 0 … 2^bits − 1 become 0..255, unrounded. Where it is not
            stated, 16-bit values are taken as 16 bits.
        value_range: the values that become 0 and 255, for float and 32-bit images.
        channels: 1 is `grey`; other numbers than 1 and 3 are kept in the file's order.

    Returns:
        uint8 of 8-bit images, else float32; values 0..255.

    Raises:
        ImageError: the file is empty, no image, or damaged; the array has other channels; float or
            32-bit values, and no range.
    """
    wanted = channels or (1 if grey else 3)
    count = page_count(image)
    if count > 1:
        warnings.warn(
            f"{image if not isinstance(image, np.ndarray) else 'array'}: holds {count} images, the first is read",
            Converted,
            stacklevel=2,
        )
    reader = pages(image)
    try:
        return next(reader).values(wanted, bits, value_range)
    finally:
        reader.close()  # type: ignore[attr-defined]


def preprocess_label(path: str | os.PathLike[str], binary: bool = False) -> np.ndarray:
    """A label image as N×1×H×W uint8 class indices, a page each; 255 is void. The index of a
    palette image is the class, its colours mean nothing. A rotation by EXIF is carried out, as of
    the image that it belongs to.

    Args:
        path: a palette, grey or 1-bit image.
        binary: 255 is the foreground, class 1, as 1 is; there are no other values.

    Raises:
        ImageError: the file is no image, holds colours in place of indices, or with `binary` other
            values than 0 and 255, or 0 and 1.
    """
    labels = []
    for page in pages(path):
        image = page.raw
        mode = image.mode if isinstance(image, Image.Image) else ""
        if isinstance(image, Image.Image) and mode == "1":
            labels.append(np.array(turned(np.asarray(image).astype(np.uint8), image.getexif().get(ORIENTATION, 1))))
            continue
        if isinstance(image, np.ndarray):
            usable, what = image.dtype == np.uint8 and image.ndim == 2, f"{image.dtype} values"
        else:
            usable, what = mode in ("P", "L"), f"{mode} colours"
        if not usable:
            raise ImageError(
                f"{page.name}: a label is a palette or grey PNG whose values are classes; this one holds {what}"
            )
        if (kind := getattr(image, "format", None)) in LOSSY:
            words = f"is a {kind}, which changes the values at every edge: classes that nobody drew; save labels as PNG"
            warnings.warn(f"{page.name}: {words}", Converted, stacklevel=2)
        if page.white_is_zero:
            raise ImageError(
                f"{page.name}: is a TIFF whose zero is white; which values are classes is not clear: save it with "
                "black as zero"
            )
        orientation = page.orientation if isinstance(image, np.ndarray) else image.getexif().get(ORIENTATION, 1)
        indices = np.array(turned(np.array(image) // page.spread, orientation))
        found = np.unique(indices)
        if binary:
            if not (set(found.tolist()) <= {0, 255} or set(found.tolist()) <= {0, 1}):
                raise ImageError(
                    f"{page.name}: a binary label holds 0 and 255, or 0 and 1; this one holds "
                    f"{', '.join(map(str, found[:8]))}"
                )
            indices = (indices != 0).astype(np.uint8)
        elif 255 in found and set(found.tolist()) <= {0, 255}:
            words = (
                "holds 0 and 255 alone; 255 is read as void, not as a class. If it is the foreground, say binary=True"
            )
            warnings.warn(f"{page.name}: {words}", Converted, stacklevel=2)
        labels.append(indices)
    if len({one.shape for one in labels}) != 1:
        raise ImageError(f"{os.fspath(path)}: the pages differ in size")
    return np.stack(labels)[:, np.newaxis]


def own_output(path: str | os.PathLike[str]) -> bool:
    """Whether a file has the name of a mask, an overlay or probabilities that `segtwin predict`
    wrote."""
    parts = Path(path).name.lower().rsplit(".", 2)
    return len(parts) == 3 and (
        (parts[1] in ("mask", "overlay", "legend") and parts[2] in ("png", "tif"))
        or parts[1:] == ["probability", "npy"]
    )
