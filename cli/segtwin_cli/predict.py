"""`segtwin predict`: masks and overlays of images and folders.

For each image NAME it writes NAME.mask.png and NAME.overlay.png, and on request NAME.probability.npy. A mask is a palette PNG whose indices are the
classes, as PASCAL VOC's; networks of one or two classes write 0 and 255. Nothing is resized: a mask has the rows and columns of its image.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import segtwin
import segtwin_weights
from PIL import Image
from segtwin import Row
from segtwin.files import whole
from segtwin.palette import voc_palette
from segtwin_weights import Dimensions, Weights

from segtwin_cli.export import framework_twin, read_network
from segtwin_cli.extras import require
from segtwin_cli.pictures import best_class, picture_of
from segtwin_cli.terminal import overwrite_option, quiet_option, steps

ENGINES = ("onnxruntime", "torch", "keras")
LATER = ("opencv", "openvino")
FOREGROUND = (255, 40, 40)
"""Colour of the one class in an overlay of 0 and 255."""
TINT = 0.5
"""Share of the class's colour in an overlay."""

Network = Callable[[np.ndarray], np.ndarray]
"""N×C×H×W → N×classes×H×W."""


@click.command()
@click.argument("weights", type=click.Path())
@click.argument("images", type=click.Path(), nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(file_okay=False), required=True, help="The folder to write to.")
@click.option("--engine", type=click.Choice([*ENGINES, *LATER]), default="onnxruntime", show_default=True, help="What computes the network.")
@click.option("--network", "row", type=click.Choice(list(segtwin.architectures.ROWS)), help="The network, where the file does not say it.")
@click.option(
    "--pad", type=click.Choice(["reflect"]), help="Mirror images whose size does not fit a U-Net at the bottom and right, and cut the result."
)
@click.option("--tile", type=int, default=segtwin.tiles.TILE, show_default=True, help="Rows and columns of unet-paper's tiles.")
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Probability from which on a single class is there.")
@click.option("--probability", is_flag=True, help="Write the probabilities of all classes too, C×H×W float32.")
@overwrite_option
@quiet_option
def predict(
    weights: str,
    images: tuple[str, ...],
    output: str,
    engine: str,
    row: str | None,
    pad: str | None,
    tile: int,
    threshold: float,
    probability: bool,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Segment IMAGES (files, or folders of them) with the network whose WEIGHTS are given."""
    if engine in LATER:
        raise click.ClickException(f"{engine} is not an engine of this version; use {', '.join(ENGINES)}")
    require(engine, purpose=f"--engine {engine}")
    paths = collect(images)
    targets = plan(paths, Path(output), probability, overwrite)
    failures: list[str] = []
    with steps(2 + len(paths), quiet) as step:
        step(f"reading {weights}")
        loaded, found = read_network(weights, row)
        network_row = segtwin.get_architecture(found)
        size = segtwin_weights.dimensions(loaded, network_row)
        if size.num_classes > 256:
            raise click.ClickException(f"{weights}: has {size.num_classes} classes; a mask is an image of at most 256")
        step(f"starting {engine}")
        with tempfile.TemporaryDirectory(prefix="segtwin-") as folder:
            network = start(engine, network_row, size, loaded, Path(folder))
            colours = np.array(loaded.metadata.get("palette", voc_palette()), np.uint8)
            synthetic = loaded.metadata.get("synthetic")
            del loaded
            for path in paths:
                step(str(path))
                try:
                    data = segtwin.preprocess(path, network_row, size.in_channels)
                    result = probabilities(network, network_row, data, pad, tile, always=probability)
                    write(result, path, targets[path], size.num_classes, threshold, colours, probability)
                except Exception as error:  # the engines' own, out of memory among them, have no class in common; the other images are worth doing
                    failures.append(describe(path, error))
    if synthetic:
        click.secho(f"{weights}: SYNTHETIC weights, not trained", fg="yellow", bold=True, err=True)
    if not quiet:
        click.echo(f"{output}: {len(paths) - len(failures)} of {len(paths)} images segmented by {network_row.name} in {engine}")
    for failure in failures:
        click.echo(f"failed: {failure}", err=True)
    return 1 if failures else 0


def describe(path: Path, error: Exception) -> str:
    """One line: the image and what was wrong with it."""
    text = "not enough memory" if isinstance(error, MemoryError) else str(getattr(error, "strerror", None) or error)
    if not isinstance(error, OSError | ValueError | MemoryError):
        text = f"{type(error).__name__}: {text}"
    return " ".join((text if str(path) in text else f"{path}: {text}").split())


# ------------------------------------------------------------------------------------------------------------------------- files in and out


def collect(images: tuple[str, ...]) -> list[Path]:
    """The files given, and those in the folders given that have an image's ending.

    Raises:
        click.ClickException: there is no such file, or no image in a folder.
    """
    paths: list[Path] = []
    endings = set(Image.registered_extensions())
    for name in images:
        path = Path(name)
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if one.suffix.lower() in endings and one.is_file())
            if not inside:
                raise click.ClickException(f"{name}: the folder holds no image")
            paths += inside
        elif path.exists():
            paths.append(path)
        else:
            raise click.ClickException(f"{name}: there is no such file or folder")
    return list(dict.fromkeys(paths))


def plan(paths: list[Path], folder: Path, probability: bool, overwrite: bool) -> dict[Path, dict[str, Path]]:
    """Image → {"mask": …, "overlay": …, "probability": …}, what is written for it.

    Raises:
        click.ClickException: two images would be written to one file, or a file is there already.
    """
    endings = {"mask": ".mask.png", "overlay": ".overlay.png"} | ({"probability": ".probability.npy"} if probability else {})
    targets = {path: {kind: folder / (path.stem + ending) for kind, ending in endings.items()} for path in paths}
    owners: dict[Path, Path] = {}
    for path, files in targets.items():
        other = owners.setdefault(files["mask"], path)
        if other != path:
            raise click.ClickException(f"{other} and {path}: both would be written to {files['mask']}; segment them into two folders")
    for file in (file for files in targets.values() for file in files.values()):
        if file.exists() and not overwrite:
            raise click.ClickException(f"{file}: exists already; choose another folder or add --overwrite")
    return targets


def write(result: np.ndarray, image: Path, files: dict[str, Path], classes: int, threshold: float, colours: np.ndarray, probability: bool) -> None:
    """Mask and overlay of one image, and its probabilities; each file appears whole or not at all.

    Args:
        result: classes×H×W, probabilities, or scores where nobody asked for probabilities.
        image: the file it was made of.
        files: of `plan`.
        classes: of the network.
        threshold: for a single class.
        colours: of the classes, n×3 uint8.
        probability: write them.
    """
    (labels,) = best_class(result[np.newaxis], threshold)
    if classes <= 2:
        mask, paint = Image.fromarray(labels * 255), np.array([(0, 0, 0), FOREGROUND], np.uint8)
    else:
        mask, paint = Image.fromarray(labels), colours
        mask.putpalette(colours.tobytes())
    pixels = picture_of(image)
    tinted = np.rint((1 - TINT) * pixels + TINT * paint[labels]).astype(np.uint8)
    overlay = Image.fromarray(np.where((labels != 0)[..., np.newaxis], tinted, pixels))
    with whole(files["mask"]) as draft:
        mask.save(draft)
    with whole(files["overlay"]) as draft:
        overlay.save(draft)
    if probability:
        with whole(files["probability"]) as draft:
            np.save(draft, result.astype(np.float32))


# ------------------------------------------------------------------------------------------------------------------------------- computing


def probabilities(network: Network, row: Row, data: np.ndarray, pad: str | None, tile: int, always: bool) -> np.ndarray:
    """classes×H×W of one image: what the network gives, scores made probabilities (softmax) if `always`.

    Raises:
        ValueError: the image does not fit the network.
    """
    height, width = data.shape[2:]
    if row.name == "unet-paper":
        result = segtwin.overlap_tile(network, data, tile)
    elif pad is None:
        try:
            row.check_size(height, width)
        except ValueError as error:
            raise ValueError(f"{error} (or add --pad reflect)") from None
        result = network(data)
    else:
        rows, columns = (segtwin.tiles.mirrored(0, row.legal_size(size), size) for size in (height, width))
        result = network(np.ascontiguousarray(data[:, :, rows[:, np.newaxis], columns]))[:, :, :height, :width]
    if always and row.output != "probability":
        powers = np.exp(result - result.max(axis=1, keepdims=True))
        result = powers / powers.sum(axis=1, keepdims=True)
    return result[0]


def start(engine: str, row: Row, size: Dimensions, weights: Weights, folder: Path) -> Network:
    """The network in an engine. ONNX Runtime gets the export of whichever framework is installed, kept in `folder`."""
    if engine == "onnxruntime":
        import onnxruntime

        twin = framework_twin("torch" if find_spec("torch") else "keras")
        twin.export_onnx(twin.build(row.name, **size._asdict(), weights=weights), folder / "network.onnx")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(folder / "network.onnx", options, providers=["CPUExecutionProvider"])
        return lambda data: session.run(None, {row.input: data})[0]
    model: Any = framework_twin(engine).build(row.name, **size._asdict(), weights=weights)
    if engine == "keras":
        return lambda data: np.ascontiguousarray(model(data.transpose(0, 2, 3, 1), training=False).numpy().transpose(0, 3, 1, 2))
    import torch

    def run(data: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(data)).numpy()

    return run
