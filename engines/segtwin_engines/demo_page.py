"""The page of `segtwin demo`: an image, weights, and the masks of several engines side by side, with their difference
and their timings. It is served to this machine alone, loads nothing from elsewhere, and sends nothing anywhere."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import segtwin
import segtwin_weights
from PIL import Image
from segtwin.architectures import list_architectures
from segtwin.errors import SegtwinError
from segtwin.inference import best_class, overlay_of
from segtwin.palette import voc_palette
from segtwin.printable import printable

from segtwin_engines.engine import Engine
from segtwin_engines.installed import available_engines, require
from segtwin_engines.loading import by_the_file, load

HOST = "127.0.0.1"
STATED = "as the weights say"
DEMO = "demo"
"""Stands for the weights that come with the package."""
APART = "where their probabilities differ"
BUTTONS: list[Any] = ["download", "fullscreen"]
"""Of a picture; Gradio's others send it elsewhere."""
SHOWN_FIRST = ("torch", "keras", "onnxruntime")


@dataclass
class Answer:
    """What one engine makes of an image."""

    engine: str
    result: np.ndarray
    """Probabilities or scores, classes×H×W."""
    labels: np.ndarray
    """H×W uint8."""
    overlay: np.ndarray
    """The image tinted by its classes, H×W×3 uint8."""
    ms: float
    """Of the second run: the first one builds what later ones use."""


def side_by_side(
    image: np.ndarray,
    weights: str,
    network: str | None,
    engines: Sequence[str],
    opened: dict[tuple[str, str | None, str], Engine],
    say: Callable[[str], None],
) -> list[Answer]:
    """An image through several engines.

    Args:
        image: H×W×3 uint8.
        weights: a file of them, or "demo".
        network: its name, where the file does not state it.
        engines: names.
        opened: engines that were opened before; new ones are put into it.
        say: takes each line that the user should read.

    Raises:
        SegtwinError, ValueError, OSError, ImportError: an input cannot be used.
    """
    path = str(segtwin_weights.DEMO) if weights == DEMO and not os.path.lexists(weights) else weights
    answers = []
    for name in engines:
        key = (path, network, name)
        if key not in opened:
            opened[key] = load(path, name, network=network, say=by_the_file(say))
        engine = opened[key]
        with warnings.catch_warnings(record=True) as converted:
            warnings.simplefilter("always", segtwin.Converted)
            data = segtwin.preprocess(Image.fromarray(image), engine.preprocessing, engine.in_channels)
        for warning in converted:
            say(str(warning.message))
        for _ in range(2):
            begun = time.perf_counter()
            result = engine.probabilities(data, "reflect", None, always=True)
            seconds = time.perf_counter() - begun
        labels = best_class(result[np.newaxis])[0]
        answers.append(
            Answer(name, result, labels, np.asarray(overlay_of(labels, image, voc_palette())), 1000 * seconds)
        )
    return answers


def difference(answers: Sequence[Answer]) -> tuple[np.ndarray, str]:
    """Where the probabilities of two of the engines are farthest apart, H×W×3 uint8: white is the largest distance of
    the image, black none. And a title that says how much that is."""
    results = np.stack([answer.result for answer in answers])
    apart = np.ptp(results, axis=0).max(axis=0)
    most = float(apart.max())
    grey = (255 * apart / max(most, np.finfo(np.float32).tiny)).astype(np.uint8)
    return grey[..., np.newaxis].repeat(3, axis=2), f"{APART} (white: {most:.1e})" if most else f"{APART}: nowhere"


def rows(answers: Sequence[Answer]) -> list[list[str]]:
    """Engine, milliseconds, the largest distance of its probabilities from the first engine's, and how many pixels have
    another class."""
    first = answers[0]
    return [
        [
            answer.engine,
            f"{answer.ms:.0f}",
            f"{np.abs(answer.result - first.result).max():.1e}",
            str(int((answer.labels != first.labels).sum())),
        ]
        for answer in answers
    ]


def page() -> Any:
    """The page, as Gradio's Blocks.

    Raises:
        ImportError: Gradio is not installed.
    """
    require("demo", purpose="the page of demo")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio

    opened: dict[tuple[str, str | None, str], Engine] = {}
    there = [name for name in available_engines() if name != "caffe"]
    chosen = [name for name in SHOWN_FIRST if name in there] or ["oracle"]

    def segment(image: np.ndarray | None, weights: str, network: str, engines: list[str]) -> tuple[Any, ...]:
        if image is None:
            raise gradio.Error("drop an image first", print_exception=False)
        if not engines:
            raise gradio.Error("choose an engine", print_exception=False)
        notes: list[str] = []
        # torch before TensorFlow: the other order aborts the interpreter
        order = [name for name in there if name in engines]
        try:
            named = None if network == STATED else network
            answers = side_by_side(image, weights.strip() or DEMO, named, order, opened, notes.append)
        except (SegtwinError, ValueError, OSError, ImportError) as error:
            what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
            raise gradio.Error(printable(what), print_exception=False) from None
        pictures = [(answer.overlay, f"{answer.engine}, {answer.ms:.0f} ms") for answer in answers]
        apart, title = difference(answers)
        return (
            pictures,
            gradio.Image(apart, label=title),
            rows(answers),
            "  \n".join(printable(note) for note in dict.fromkeys(notes)),
        )

    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # none is fetched
    with gradio.Blocks(title="segtwin demo", analytics_enabled=False) as blocks:
        blocks.theme = theme
        gradio.Markdown("# segtwin\nOne image, several engines: their masks, their difference, their timings.")
        with gradio.Row():
            image = gradio.Image(type="numpy", label="image", image_mode="RGB", buttons=BUTTONS)
            with gradio.Column():
                weights = gradio.Textbox(DEMO, label="weights", info="a file on this machine; demo: nuclei, unet-small")
                network = gradio.Dropdown([STATED, *list_architectures()], value=STATED, label="network")
                engines = gradio.CheckboxGroup(there, value=chosen, label="engines")
                button = gradio.Button("Segment", variant="primary")
        gallery = gradio.Gallery(
            label="masks", columns=3, object_fit="contain", format="png", buttons=["download", "fullscreen"]
        )
        with gradio.Row():
            apart = gradio.Image(label=APART, interactive=False, buttons=BUTTONS)
            table = gradio.Dataframe(
                headers=["engine", "ms", "largest distance from the first", "pixels of another class"],
                label="timings",
                interactive=False,
                wrap=True,
                column_widths=["34%", "14%", "27%", "25%"],
            )
        words = gradio.Markdown()
        shown = [gallery, apart, table, words]
        cleared = button.click(
            lambda: (None, gradio.Image(None, label=APART), None, ""), None, shown, api_visibility="private"
        )
        cleared.then(segment, [image, weights, network, engines], shown, api_name="segment")
    return blocks


def serve(port: int | None, block: bool = True, open_browser: bool = False) -> tuple[Any, str]:
    """Serve the page to this machine.

    Args:
        port: of 127.0.0.1; None: the first free one from 7860 on.
        block: until the process is interrupted.
        open_browser: show it.

    Returns:
        The page, which `.close()` ends, and its address.

    Raises:
        OSError: the port is taken.
        ImportError: Gradio is not installed.
    """
    blocks = page()
    try:
        _, address, _ = blocks.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            inbrowser=open_browser,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
        )
    except OSError as error:
        if port is None:
            raise
        words = "is taken, or not allowed; choose another port (--port), or none: then it is the first that is free"
        raise OSError(error.errno, words, f"{HOST}:{port}") from None
    if block:
        blocks.block_thread()
    return blocks, address
