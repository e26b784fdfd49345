"""The page of a diagnosis: the verdict, every blob, and maps of the first difference."""

from __future__ import annotations

import io
import os

import numpy as np

from segtwin_engines.evaluation import write_page as write
from segtwin_engines.verdict import Diagnosis


def write_page(result: Diagnosis, path: str | os.PathLike[str], overwrite: bool) -> None:
    """Write an HTML page.

    Raises:
        ValueError: the name does not end in .html.
        OSError: it exists, or cannot be written.
    """
    picture = None if result.maps is None else draw(*result.maps)
    write("diagnosis.html.j2", path, overwrite, result=result, picture=picture, verdict=sentence(result))


def sentence(result: Diagnosis) -> str:
    """The explanation with a capital letter, unless the name of a layer is first, and a full stop."""
    text = result.explanation
    first = text.split(" ", 1)[0]
    if first.isalpha() and first not in {one.name for one in result.blobs}:
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def draw(theirs: np.ndarray, reference: np.ndarray) -> bytes:
    """The port's blob, the reference's, and their difference, of the channel that differs most (JPEG)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    away = np.nan_to_num(np.abs(theirs - reference)[0])
    channel = int(away.max((1, 2)).argmax())
    shown = [theirs[0, channel], reference[0, channel], theirs[0, channel] - reference[0, channel]]
    low, high = float(np.nanmin(reference[0, channel])), float(np.nanmax(reference[0, channel]))
    most = float(np.nanmax(np.abs(shown[2]))) or 1.0
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.6), layout="constrained", dpi=100)
    for axis, array, title in zip(axes, shown, ("the port", "the reference", "the port − the reference"), strict=True):
        difference = array is shown[2]
        image = axis.imshow(
            array,
            vmin=-most if difference else low,
            vmax=most if difference else high,
            cmap="RdBu_r" if difference else "viridis",
            interpolation="nearest",
        )
        axis.set_title(f"{title}, channel {channel}", fontsize=10)
        axis.tick_params(labelsize=8)
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(MaxNLocator(6, integer=True))
        figure.colorbar(image, ax=axis, location="bottom", aspect=30).ax.tick_params(labelsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", bbox_inches="tight", pil_kwargs={"quality": 90})
    plt.close(figure)
    return buffer.getvalue()
