"""`segtwin parity`: the proof, on your weights and your images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import segtwin_engines
from segtwin_engines.installed import ENGINES

from segtwin_cli.decoders import silenced
from segtwin_cli.preprocessing_options import over, preprocessing_options, range_option
from segtwin_cli.terminal import (
    check_outputs,
    check_page,
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
@click.option("--report", type=click.Path(), help="Write an HTML page here, and .json and .png beside it.")
@click.option("--torch-onnx", type=click.Path(), help="Test this export of the torch model, not a fresh one.")
@click.option("--keras-onnx", type=click.Path(), help="Test this export of the Keras model, not a fresh one.")
@click.option(
    "--engine",
    "--engines",
    "engines",
    multiple=True,
    metavar="NAME[,NAME…]",
    help=f"Compare these: {', '.join(one for one in ENGINES if one != 'oracle')}. By default the first three, and "
    "caffe where pycaffe is installed.",
)
@click.option("--gradients", is_flag=True, help="Compare the gradients of every parameter, too.")
@click.option(
    "--steps", "count", type=click.IntRange(min=1), help="Compare N steps of Caffe's solver, too.", metavar="N"
)
@click.option("--base-lr", type=float, help="Learning rate of the steps.")
@click.option("--junit", type=click.Path(), help="Write the verdicts as JUnit's XML, for a CI server.")
@preprocessing_options
@range_option
@json_option
@quiet_option
def parity(
    weights: str,
    images: tuple[str, ...],
    report: str | None,
    torch_onnx: str | None,
    keras_onnx: str | None,
    engines: tuple[str, ...],
    gradients: bool,
    count: int | None,
    base_lr: float | None,
    junit: str | None,
    stated: dict[str, Any],
    value_range: tuple[float, float] | None,
    json_file: str | None,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Compare every blob of WEIGHTS' network on IMAGES in PyTorch, Keras and ONNX Runtime, or in
    other engines, with a float64 run; on request gradients and steps of training, too. Status 1
    when a bound is missed.

    --colour, --mean, --std, --scale and --bits say how the images become inputs; they overrule what
    WEIGHTS says.
    """
    check_page(report)
    pages: Sequence[Path] = ()
    if report is not None:
        from segtwin_engines.report import report_files

        pages = report_files(Path(report), len(images))[::-1]
    check_outputs(overwrite, *pages, junit, json_file)
    named = tuple(name.strip() for text in engines for name in text.split(",") if name.strip()) if engines else None

    say = noting(quiet)
    with steps(None, quiet) as step:
        result = segtwin_engines.parity(
            weights,
            images,
            preprocessing=partial(over, stated, say) if stated else None,
            value_range=value_range,
            torch_onnx=torch_onnx,
            keras_onnx=keras_onnx,
            engines=named,
            gradients=gradients,
            steps=count or 0,
            base_lr=base_lr,
            say=say,
            step=step,
            expect=step.expect,
            decoding=silenced,
        )
    if report is not None:
        result.write_report(report, overwrite)
    if junit is not None:
        result.write_junit(junit, overwrite)
    if write_json(result.asdict(), json_file):
        if not quiet:
            for line in result.verdicts:
                echo(line)
        verdict = "holds" if result.equal else "FAILS"
        echo(f"parity of {result.architecture.name} {verdict}" + (f": {report}" if report else ""))
    if result.synthetic:
        echo(
            "The weights are SYNTHETIC, not trained: the engines are compared, the segmentation means nothing.",
            fg="yellow",
            bold=True,
            err=True,
        )
    return 0 if result.equal else 1
