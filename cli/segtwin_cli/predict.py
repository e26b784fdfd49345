"""`segtwin predict`: masks and overlays of images and folders.

For each image NAME it writes NAME.mask.png and NAME.overlay.png, and on request
NAME.probability.npy; for a file of several pages NAME.mask.tif and NAME.overlay.tif, a page each. A
mask is a palette image whose indices are the classes, as PASCAL VOC's; that of one class, or of
two, holds 0 and 1, shown black and white. Nothing is resized: a mask has the rows and columns of
its image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import segtwin
from PIL import Image, TiffImagePlugin
from segtwin.architectures import list_architectures
from segtwin.files import whole, whole_together
from segtwin.images import ENDINGS, own_output
from segtwin.palette import read_palette

from segtwin_cli import running
from segtwin_cli.convert import read_names
from segtwin_cli.decoders import is_stack, quiet_count, quiet_pages
from segtwin_cli.engines import ENGINES, available_engines
from segtwin_cli.extras import require
from segtwin_cli.pictures import best_class, legend, picture_of_page
from segtwin_cli.preprocessing_options import preprocessing_options, range_option
from segtwin_cli.running import Running, choose_engine, colours_of, fits, is_onnx, names_of
from segtwin_cli.terminal import (
    echo,
    errors,
    json_option,
    quiet_option,
    refuse_to_replace,
    refuse_to_replace_json,
    steps,
    write_json,
)

TINT = 0.5
"""Share of the class's colour in an overlay."""
LEGEND = "classes.legend.png"


@click.command()
@click.argument("weights", type=click.Path())
@click.argument("images", type=click.Path(), nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(file_okay=False), required=True, help="The folder to write to.")
@click.option(
    "--engine", type=click.Choice(["auto", *ENGINES]), metavar=f"[{'|'.join(['auto', *available_engines()])}]",
    default="auto", show_default=True,
    help="What computes the network; auto: ONNX Runtime for an ONNX file, else PyTorch, Keras or numpy, what is "
    "installed.",
)  # fmt: skip
@click.option(
    "--network",
    "architecture",
    type=click.Choice(list(list_architectures())),
    help="The network, where the file does not say it.",
)
@click.option(
    "--pad",
    type=click.Choice(["reflect"]),
    help="Mirror images whose size does not fit a U-Net at the bottom and right, and cut the result.",
)
@click.option(
    "--tile", type=int, default=segtwin.tiles.TILE, show_default=True, help="Rows and columns of unet-paper's tiles."
)
@click.option(
    "--threshold", type=click.FloatRange(0, 1), help="Probability from which on a single class is there (0.5)."
)
@click.option(
    "--probability",
    is_flag=True,
    help="Write the probabilities of all classes too, C×H×W float32 (N×C×H×W of a stack).",
)
@preprocessing_options
@range_option
@click.option("--classes", "class_file", type=click.Path(), help="Text file of the classes' names, one a line.")
@click.option("--palette", help="Colours of the classes: voc, or a file of a colour (#rrggbb or r g b) a line.")
@click.option("--legend", "with_legend", is_flag=True, help=f"Write {LEGEND}: names and colours of the classes found.")
@click.option(
    "--recursive", is_flag=True, help="Take the images in the folders' folders too; the output has the same folders."
)
@json_option
@quiet_option
def predict(
    weights: str,
    images: tuple[str, ...],
    output: str,
    engine: str,
    architecture: str | None,
    pad: str | None,
    tile: int,
    threshold: float | None,
    probability: bool,
    stated: dict[str, Any],
    value_range: tuple[float, float] | None,
    class_file: str | None,
    palette: str | None,
    with_legend: bool,
    recursive: bool,
    json_file: str | None,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Segment IMAGES (files, or folders of them) with the network of WEIGHTS: a file of weights, or
    an ONNX file, which is run as it is."""
    require(engine, purpose=f"--engine {engine}")
    folder = Path(output)
    found = collect(images, recursive)
    targets = plan(found, folder, probability, overwrite)
    if with_legend:
        refuse_to_replace(str(folder / LEGEND), overwrite)
    refuse_to_replace_json(json_file, overwrite)
    onnx = is_onnx(weights)
    engine = choose_engine(engine, onnx, weights)
    given_names = None if class_file is None else read_names(class_file)
    given_palette = None if palette is None else read_palette(palette)
    console = errors()
    say: Callable[[str], None] = (
        (lambda line: None) if quiet else (lambda line: console.print(f"note: {line}", markup=False))
    )
    reports: list[dict[str, Any]] = []
    facts: Any = reports
    with ExitStack() as stack, steps(2 + len(found), quiet) as step:
        if onnx:
            step(f"reading {weights}")
            step(f"starting {engine}")
            network = running.start_onnx(weights, architecture, stated, say)
        else:
            network = running.start_weights(weights, engine, architecture, stated, say, step, stack)
        if threshold is not None and network.num_classes != 1:
            raise click.ClickException(
                f"--threshold is for networks of one class; {network.name} has {network.num_classes}"
            )
        colours = colours_of(network.facts, given_palette, network.num_classes)
        names = names_of(network.facts, given_names, network.num_classes)
        for path in found:
            step(str(path))
            begun = time.perf_counter()
            report: dict[str, Any] = {"image": str(path), "status": "ok", "reason": None}
            try:
                bits = stated.get("bits") or (network.preprocessing.bits if network.preprocessing.bits != 8 else None)
                shares = segment(
                    network,
                    path,
                    targets[path],
                    bits,
                    value_range,
                    pad,
                    tile,
                    0.5 if threshold is None else threshold,
                    colours,
                    probability,
                    say,
                )
                counts = shares.pop("counts")
                report |= shares | {
                    "classes": {names[at]: float(count / counts.sum()) for at, count in enumerate(counts) if count}
                }
                report["outputs"] = {kind: str(file) for kind, file in targets[path].items()}
            # the engines' own, out of memory among them, have no class in common; the other images
            # are worth doing
            except Exception as error:
                report |= {"status": "failed", "reason": describe(path, error)}
            reports.append(report | {"ms": round(1000 * (time.perf_counter() - begun), 1)})
    present = {name for report in reports for name in report.get("classes", {})}
    if with_legend and present:
        with whole(folder / LEGEND) as draft:
            legend([(name, tuple(colours[1][at])) for at, name in enumerate(names) if name in present]).save(draft)
    failures = [report["reason"] for report in reports if report["status"] == "failed"]
    if network.facts.get("synthetic"):
        echo(f"{weights}: SYNTHETIC weights, not trained", fg="yellow", bold=True, err=True)
    if write_json(facts, json_file) and not quiet:
        for report in reports:
            if report["status"] == "ok" and len(reports) > 1:
                echo(f"{report['image']}: {report['ms']:.0f} ms")
        echo(
            f"{output}: {len(found) - len(failures)} of {len(found)} images segmented by {network.name} in "
            f"{network.engine}"
        )
    for failure in failures:
        echo(f"failed: {failure}", err=True)
    if not failures:
        return 0
    return 1 if len(failures) < len(found) else 2  # nothing was segmented: as any file that cannot be read


def describe(path: Path, error: Exception) -> str:
    """One line: the image and what was wrong with it."""
    text = "not enough memory" if isinstance(error, MemoryError) else str(getattr(error, "strerror", None) or error)
    if not isinstance(error, OSError | ValueError | MemoryError):
        text = f"{type(error).__name__}: {text}"
    return " ".join((text if str(path) in text else f"{path}: {text}").split())


# --------------------------------------------------------------------------------- files in and out


def collect(images: tuple[str, ...], recursive: bool = False) -> dict[Path, Path]:
    """Image → the folder of its output, seen from the output's: the files given, and those in the
    folders given that have an image's ending and are no masks or overlays that were written here.

    Raises:
        click.ClickException: there is no such file, or no image in a folder.
    """
    found: dict[Path, Path] = {}
    for name in images:
        path = Path(name)
        if path.is_dir():
            candidates = path.rglob("*") if recursive else path.iterdir()
            inside = sorted(
                one
                for one in candidates
                if one.suffix.lower() in ENDINGS and one.is_file() and not own_output(one) and not hidden(one, path)
            )
            if not inside:
                raise click.ClickException(f"{name}: the folder holds no image")
            for one in inside:
                found.setdefault(one, one.parent.relative_to(path))
        elif path.exists():
            found.setdefault(path, Path())
        else:
            raise click.ClickException(f"{name}: there is no such file or folder")
    return found


def hidden(path: Path, folder: Path) -> bool:
    """Whether a file, or a folder on the way to it, begins with a dot, as ._a.png, which macOS
    leaves on other systems' disks."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def plan(found: dict[Path, Path], folder: Path, probability: bool, overwrite: bool) -> dict[Path, dict[str, Path]]:
    """Image → {"mask": …, "overlay": …, "probability": …}, what is written for it. Names that
    differ in the ending alone keep it: a.jpg.mask.png.

    Raises:
        click.ClickException: two images would be written to one file, or a file is there already.
    """
    together: dict[Path, set[str]] = {}
    for path, place in found.items():
        together.setdefault(folder / place / path.stem, set()).add(path.name)
    targets: dict[Path, dict[str, Path]] = {}
    owners: dict[Path, Path] = {}
    for path, place in found.items():
        stem = path.stem if len(together[folder / place / path.stem]) == 1 else path.name
        ending = "tif" if is_stack(path) else "png"
        files = {"mask": f"{stem}.mask.{ending}", "overlay": f"{stem}.overlay.{ending}"}
        if probability:
            files["probability"] = f"{stem}.probability.npy"
        targets[path] = {kind: folder / place / name for kind, name in files.items()}
        other = owners.setdefault(folder / place / stem, path)
        if other != path:
            raise click.ClickException(
                f"{other} and {path}: both would be written to {targets[path]['mask']}; segment them into two folders"
            )
    inputs = {path.resolve() for path in found}
    for file in (file for files in targets.values() for file in files.values()):
        if file.exists() and file.resolve() in inputs:
            raise click.ClickException(f"{file}: is one of the images; choose another folder")
        if file.exists() and not overwrite:
            raise click.ClickException(f"{file}: exists already; choose another folder or add --overwrite")
    return targets


def segment(
    network: Running,
    path: Path,
    files: dict[str, Path],
    bits: int | None,
    value_range: tuple[float, float] | None,
    pad: str | None,
    tile: int,
    threshold: float,
    colours: tuple[np.ndarray, np.ndarray],
    probability: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Segment the pages of a file, one at a time, and write what `plan` says. Returns pages, width,
    height and the classes' counts of pixels."""
    counts = np.zeros(256, np.int64)
    number = 0

    def admit(height: int, width: int) -> None:
        fits(str(path), height, width, network.name, network.memory(height, width, pad, tile), say)

    with writing(files, quiet_count(path)) as put:
        for page in quiet_pages(path, admit):
            values = page.values(network.in_channels, bits, value_range)
            data = network.preprocessing.for_channels(network.in_channels).apply(values[np.newaxis])
            result = network.probabilities(data, pad, tile, always=probability)
            if len(result) > 256:
                raise ValueError(f"{network.file}: gives {len(result)} classes; a mask is an image of at most 256")
            picture = picture_of_page(page, network.in_channels, bits, value_range)
            counts += put(result, picture, threshold, colours, probability)
            number += 1
            height, width = result.shape[1:]
    return {"width": width, "height": height, "pages": number, "counts": counts}


@contextmanager
def writing(files: dict[str, Path], count: int) -> Iterator[Callable[..., np.ndarray]]:
    """A function that writes mask, overlay and probabilities of the next page. The files appear
    whole, all of them, or not at all."""
    with ExitStack() as stack:
        drafts = dict(zip(files, stack.enter_context(whole_together(*files.values())), strict=True))
        stacks: dict[str, Any] = {}
        if count > 1:
            inner = stack.enter_context(ExitStack())
            stacks = {
                kind: inner.enter_context(TiffImagePlugin.AppendingTiffWriter(str(drafts[kind]), new=True))
                for kind in ("mask", "overlay")
            }
        kept: dict[str, np.ndarray] = {}
        number = 0

        def put(
            result: np.ndarray,
            picture: np.ndarray,
            threshold: float,
            colours: tuple[np.ndarray, np.ndarray],
            probability: bool,
        ) -> np.ndarray:
            nonlocal number
            (labels,) = best_class(result[np.newaxis], threshold)
            for kind, image in (
                ("mask", mask_of(labels, colours[0])),
                ("overlay", overlay_of(labels, picture, colours[1])),
            ):
                if stacks:
                    image.save(stacks[kind], format="TIFF")
                    stacks[kind].newFrame()
                else:
                    image.save(drafts[kind])
            if probability and count == 1:
                np.save(drafts["probability"], result.astype(np.float32))
            elif probability:
                if not kept:
                    shape = (count, *result.shape)
                    kept["all"] = np.lib.format.open_memmap(
                        drafts["probability"], mode="w+", dtype=np.float32, shape=shape
                    )
                if kept["all"].shape[1:] != result.shape:
                    raise ValueError("the pages differ in size; probabilities are written of equally large ones")
                kept["all"][number] = result
                kept["all"].flush()  # type: ignore[attr-defined]
            number += 1
            return np.bincount(labels.ravel(), minlength=256)

        yield put
        kept.clear()


def mask_of(labels: np.ndarray, colours: np.ndarray) -> Image.Image:
    """A palette image whose indices are the classes."""
    mask = Image.fromarray(labels)
    mask.putpalette(colours.tobytes())
    return mask


def overlay_of(labels: np.ndarray, picture: np.ndarray, colours: np.ndarray) -> Image.Image:
    """The image, tinted where there is a class other than 0."""
    tinted = np.rint((1 - TINT) * picture + TINT * colours[labels]).astype(np.uint8)
    return Image.fromarray(np.where((labels != 0)[..., np.newaxis], tinted, picture))
