"""`segtwin evaluate`: scores of a network on images with labels."""

from __future__ import annotations

import click
import segtwin
import segtwin_engines
from segtwin_engines.installed import ENGINES, available_engines, require

from segtwin_cli.data_options import read_table, table_option
from segtwin_cli.terminal import (
    check_outputs,
    check_page,
    echo,
    json_option,
    noting,
    quiet_option,
    show_table,
    steps,
    write_json,
)
from segtwin_cli.weights_file import WeightsFile


@click.command()
@click.argument("weights", type=WeightsFile())
@click.argument("data", type=click.Path())
@click.option(
    "--engine", type=click.Choice(["auto", *ENGINES]), metavar=f"[{'|'.join(['auto', *available_engines()])}]",
    default="auto", show_default=True, help="What computes the network.",
)  # fmt: skip
@click.option("--part", help="val, test, train, seg11valid, …; by default the folder's own val, else everything.")
@table_option
@click.option(
    "--tile", type=click.IntRange(min=1), help="Compute images in tiles of so many rows and columns, as predict does."
)
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Of a single class.")
@click.option("--report", type=click.Path(dir_okay=False), help="Write an HTML page with the worst images.")
@json_option
@quiet_option
def evaluate(
    weights: str,
    data: str,
    engine: str,
    part: str | None,
    table: str | None,
    tile: int | None,
    threshold: float,
    report: str | None,
    json_file: str | None,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Score the network of WEIGHTS on the folder DATA: fcn's four metrics, IoU and Dice of each class.

    The published table (mean IU 63.6, 65.0, 65.5 and 65.4) is measured with --part seg11valid on VOC 2011.
    """
    require(engine, purpose=f"--engine {engine}")
    require("train", purpose="segtwin evaluate")
    check_page(report)
    check_outputs(overwrite, report, json_file)
    stated = read_table(table)
    count = len(segtwin_engines.chosen(segtwin.data.find(data), part)[0])
    with steps(1 + count, quiet) as step:
        step(f"reading {weights}")
        found = segtwin_engines.evaluate(
            weights,
            data,
            engine=engine,
            part=part,
            table=stated,
            tile=tile,
            threshold=threshold,
            say=noting(quiet),
            step=step,
        )
        if report is not None:
            segtwin_engines.write_evaluation(found, report, overwrite)
    facts = found.asdict()
    failures = [one for one in found.images if one.reason]
    if write_json(facts, json_file):
        shown = [
            (one["name"], *(_percent(one[kind]) for kind in ("iou", "dice", "accuracy")), f"{one['pixels']:,}")
            for one in facts["classes"]
        ]
        columns = ("class", "IoU", "Dice", "accuracy", "pixels")
        show_table(columns, shown, right=columns[1:], title=f"{found.network} on {data}, {found.part}")
        for name, label in (
            ("pixel_accuracy", "pixel accuracy"), ("mean_accuracy", "mean accuracy"), ("mean_iou", "mean IoU"),
            ("frequency_weighted_iou", "frequency-weighted IoU"), ("mean_dice", "mean Dice"),
        ):  # fmt: skip
            echo(f"{label}: {_percent(facts[name])}")
        for name, value in facts["isbi"].items():
            echo(f"ISBI 2012 {name.replace('_', ' ')}: {_percent(value)}")
        if found.collapsed:
            echo(found.collapsed, fg="yellow", bold=True)
    for one in failures:
        echo(f"failed: {one.reason}", err=True)
    return 1 if failures else 0


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"
