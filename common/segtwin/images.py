"""Images and labels in files, read as arrays. Every conversion on the way is said.

Source: `voc_layers.py` of shelhamer/fcn.berkeleyvision.org at 1305c7378a9f0ab44b2c936f4d60e4687e3d8743, `load_image` and `load_label`. The original
reads colour JPEGs only. What other files hold is converted, and said.
"""

from __future__ import annotations

import os
import warnings
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray"


class ImageError(ValueError):
    """A file that is no image, or not one that can be used here; the message is one line and names the file."""


class Converted(UserWarning):
    """Something was converted on the way in; the message says what and how."""


def read_image(image: ImageLike, grey: bool = False) -> np.ndarray:
    """An image as H×W×3 RGB uint8, the way a viewer shows it, or as H×W×1. Every conversion on the way is said in a `Converted` warning.

    Grey values are repeated in the three channels (with `grey`, colours become 0.299 R + 0.587 G + 0.114 B), palettes are looked up, an alpha
    channel is dropped (the colours under it stay as they are stored), of 16 bits the high byte is taken, and an EXIF rotation is carried out.

    Raises:
        ImageError: the file is empty, no image, or damaged; the array is not H×W×3 (or, with `grey`, H×W) of uint8.
    """
    if isinstance(image, np.ndarray):
        if grey:
            if image.dtype == np.uint8 and image.ndim == 2 and image.size:
                return image[..., np.newaxis]
            raise ImageError(f"a grey image array is H×W of uint8, not {'×'.join(map(str, image.shape))} of {image.dtype}")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ImageError(f"an image array is H×W×3 of uint8 (RGB), not {'×'.join(map(str, image.shape))} of {image.dtype}")
        return image
    if isinstance(image, Image.Image):
        return _pixels(image, "image", grey)
    name = os.fspath(image)
    try:
        with Image.open(name) as opened:
            return _pixels(opened, name, grey)
    except UnidentifiedImageError:
        size = os.path.getsize(name)
        raise ImageError(f"{name}: {'is empty (0 bytes)' if not size else 'is not an image'}; give a JPEG or PNG file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # not the image's fault: missing, a folder, not readable
        raise ImageError(f"{name}: the image is damaged ({error}); copy it again") from None


def _pixels(image: Image.Image, name: str, grey: bool) -> np.ndarray:
    said = []
    deep = ";16" in str(getattr(image, "tile", None))  # Pillow shows a 16-bit RGB file as RGB, of the high bytes
    if image.getexif().get(ORIENTATION, 1) != 1:
        said.append("rotated as its EXIF orientation asks")
        image = ImageOps.exif_transpose(image)
    if deep or image.mode.startswith("I;16"):
        said.append("16 bits a value became 8, the high byte")
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageError(f"{name}: holds 32-bit values, whose range is not known; save it as an 8-bit image")
    if grey:
        if image.mode not in ("L", "1"):
            said.append("the alpha channel is dropped" if image.mode == "LA" else "colours became grey, 0.299 R + 0.587 G + 0.114 B")
        image = image.convert("RGB" if image.mode == "P" else image.mode).convert("L")
    elif image.mode != "RGB":
        said.append(CONVERSIONS.get(image.mode, f"colour mode {image.mode} became RGB"))
        image = image.convert("RGBA") if "transparency" in image.info else image
        image = image.convert("RGB")
    if said:
        warnings.warn(f"{name}: {'; '.join(said)}", Converted, stacklevel=3)
    pixels = np.asarray(image)
    return pixels[..., np.newaxis] if grey else pixels


ORIENTATION = 0x0112
CONVERSIONS = {
    "1": "black and white became grey in three channels",
    "L": "grey became three equal channels",
    "LA": "grey became three equal channels, the alpha channel is dropped",
    "P": "palette colours were looked up",
    "RGBA": "the alpha channel is dropped",
}


def preprocess_label(path: str | os.PathLike[str]) -> np.ndarray:
    """A label image as 1×1×H×W uint8 class indices; 255 is void. The index of a palette image is the class, its colours mean nothing.

    Raises:
        ImageError: the file is no image, or holds colours in place of indices.
    """
    name = os.fspath(path)
    try:
        with Image.open(name) as image:
            if image.mode not in ("P", "L"):
                raise ImageError(f"{name}: a label is a palette or grey PNG whose values are classes; this one holds {image.mode} colours")
            return np.asarray(image)[np.newaxis, np.newaxis]
    except UnidentifiedImageError:
        raise ImageError(f"{name}: is not an image; give a PNG of class indices") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise ImageError(f"{name}: the image is damaged ({error}); copy it again") from None
