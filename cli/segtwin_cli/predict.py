"""`segtwin predict`: masks and overlays of images and folders."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
import segtwin_engines
from segtwin.architectures import list_architectures
from segtwin.palette import read_palette
from segtwin_engines import LEGEND, Prediction
from segtwin_engines.installed import ENGINES, available_engines, require

from segtwin_cli.convert import read_names
from segtwin_cli.decoders import silenced
from segtwin_cli.preprocessing_options import OF_A_NETWORK, over, preprocessing_options, range_option
from segtwin_cli.terminal import (
    check_outputs,
    echo,
    json_option,
    noting,
    quiet_option,
    steps,
    write_json,
)
from segtwin_cli.weights_file import WeightsFile


@click.command()
@click.argument("weights", type=WeightsFile())
@click.argument("images", type=click.Path(), nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(file_okay=False), required=True, help="The folder to write to.")
@click.option(
    "--engine", type=click.Choice(["auto", *ENGINES]), metavar=f"[{'|'.join(['auto', *available_engines()])}]",
    default="auto", show_default=True,
    help="What computes the network; auto: what `segtwin bench` found the fastest here, else ONNX Runtime, PyTorch, "
    "Keras or numpy, what is installed.",
)  # fmt: skip
@click.option(
    "--network",
    type=click.Choice(list_architectures()),
    metavar="NETWORK",
    help="The network, where the file does not say it (see segtwin list).",
)
@click.option(
    "--pad",
    type=click.Choice(["reflect"]),
    help="Mirror images whose size does not fit a U-Net at the bottom and right, and cut the result.",
)
@click.option(
    "--tile", type=click.IntRange(min=1),
    help="Compute images in tiles of so many rows and columns: memory does not grow with the image, and the result "
    "is the same. Of unet-paper, which always does, it is the input's size (572).",
)  # fmt: skip
@click.option("--threshold", type=click.FloatRange(0, 1), help="Foreground threshold for networks of one class (0.5).")
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
    network: str | None,
    pad: str | None,
    tile: int | None,
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
    given_names = None if class_file is None else read_names(class_file)
    given_palette = None if palette is None else read_palette(palette)
    say = noting(quiet)
    found = segtwin_engines.collect(images, recursive)
    segtwin_engines.plan(found, Path(output), probability, overwrite, silenced)  # before anything is loaded
    check_outputs(overwrite, json_file, str(Path(output) / LEGEND) if with_legend else None)
    results: list[Prediction] = []
    with steps(2 + len(found), quiet) as step:
        step(f"reading {weights}")
        running = segtwin_engines.load(
            weights,
            engine,
            network=network,
            preprocessing=partial(over, stated, say) if OF_A_NETWORK & stated.keys() else None,
            in_channels=1 if stated.get("colour") == "grey" else None,
            say=say,
        )
        predictions = segtwin_engines.predict(
            running,
            images,
            output,
            pad=pad,  # type: ignore[arg-type]
            tile=tile,
            threshold=threshold,
            probability=probability,
            bits=stated.get("bits"),
            value_range=value_range,
            classes=given_names,
            palette=given_palette,
            with_legend=with_legend,
            recursive=recursive,
            overwrite=overwrite,
            say=say,
            step=step,
            decoding=silenced,
        )
        results.extend(predictions)
    failures = [result.reason for result in results if result.status == "failed"]
    if running.metadata.get("synthetic"):
        echo(f"{weights}: SYNTHETIC weights, not trained", fg="yellow", bold=True, err=True)
    facts: Any = [result.asdict() for result in results]
    if write_json(facts, json_file) and not quiet:
        for result in results:
            if result.status == "ok" and len(results) > 1:
                echo(f"{result.image}: {result.ms:.0f} ms")
        done = len(results) - len(failures)
        echo(f"{output}: {done} of {len(results)} images segmented by {running.network} in {running.name}")
    for failure in failures:
        echo(f"failed: {failure}", err=True)
    if not failures:
        return 0
    return 1 if len(failures) < len(results) else 2  # nothing was segmented: as any file that cannot be read
