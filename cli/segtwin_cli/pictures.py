"""From a network's output to what is shown of it."""

from __future__ import annotations

import warnings

import numpy as np
import segtwin
from PIL import Image, ImageDraw, ImageFont
from segtwin.images import Page


def best_class(output: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Each pixel's class: the largest of N×classes×H×W; of a single class, whose output is its
    probability, 1 from the threshold on. N×H×W uint8."""
    best = output[:, 0] >= threshold if output.shape[1] == 1 else output.argmax(1)
    return best.astype(np.uint8)


def picture_of_page(
    page: Page, channels: int, bits: int | None = None, value_range: tuple[float, float] | None = None
) -> np.ndarray:
    """A page as it is shown, H×W×3 uint8; of arrays with other channels the first three, or the
    first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", segtwin.Converted)
        if isinstance(page.raw, np.ndarray) or channels not in (1, 3):
            values = page.values(channels, bits, value_range)
            return shown(values[..., :3] if values.shape[2] >= 3 else np.repeat(values[..., :1], 3, axis=2))
        return shown(page.values(3, bits, value_range))


def shown(values: np.ndarray) -> np.ndarray:
    """Values 0..255 as uint8, rounded."""
    return values if values.dtype == np.uint8 else np.rint(values).clip(0, 255).astype(np.uint8)


def legend(classes: list[tuple[str, tuple[int, int, int]]]) -> Image.Image:
    """A picture of names beside their colours, a line each."""
    line = 20
    font = ImageFont.load_default()
    width = max((round(font.getlength(_drawable(name))) for name, _ in classes), default=0)
    picture = Image.new("RGB", (width + 2 * line, line * max(len(classes), 1)), "white")
    draw = ImageDraw.Draw(picture)
    for number, (name, colour) in enumerate(classes):
        top = number * line
        draw.rectangle((3, top + 3, line - 4, top + line - 4), fill=tuple(map(int, colour)), outline="black")
        draw.text((line + 4, top + 4), _drawable(name), fill="black", font=font)
    return picture


def _drawable(name: str) -> str:
    """What the built-in font has letters for."""
    return name.encode("latin-1", "replace").decode("latin-1")
