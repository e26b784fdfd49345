"""`segtwin check-data`: what is wrong with a data set."""

from __future__ import annotations

import click
from segtwin.data import doctor
from segtwin_engines.installed import require

from segtwin_cli.data_options import read_table, table_option, val_option
from segtwin_cli.terminal import (
    check_outputs,
    check_page,
    echo,
    json_option,
    quiet_option,
    show_table,
    steps,
    write_json,
)

LEVELS = ("error", "warning", "note")


@click.command("check-data")
@click.argument("folder", type=click.Path())
@click.option("--num-classes", type=click.IntRange(1), help="Classes of the network that it is for.")
@table_option
@val_option
@click.option("--report", type=click.Path(dir_okay=False), help="Write an HTML page with thumbnails.")
@json_option
@quiet_option
def check_data(
    folder: str,
    num_classes: int | None,
    table: str | None,
    val: str | None,
    report: str | None,
    json_file: str | None,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Look at every image and label of FOLDER; exit status 1 if a training on it would go wrong."""
    require("train", purpose="segtwin check-data")
    check_page(report)
    check_outputs(overwrite, report, json_file)
    stated = read_table(table)
    with steps(1, quiet) as step:
        step(f"looking at {folder}")
        found = doctor.examine(folder, num_classes, val, stated)
        if report is not None:
            from segtwin_engines import write_data_page

            write_data_page(found, report, overwrite)
    if write_json(found.asdict(), json_file):
        ordered = sorted(found.findings, key=lambda one: LEVELS.index(one.level))
        show_table(("level", "kind", "what"), [(one.level, one.kind, one.text) for one in ordered])
        if found.shares:
            numbers = sorted({number for shares in found.shares.values() for number in shares})
            rows = [
                (
                    "void" if number == 255 else number,
                    *(f"{shares.get(number, 0):.2%}" for shares in found.shares.values()),
                )
                for number in numbers
            ]
            show_table(("class", *found.shares), rows, right=tuple(found.shares))
        verdict = "nothing here makes a training go wrong" if found.good else "a training on this would go wrong"
        echo(f"{folder}: {verdict}", fg="green" if found.good else "red")
    return 0 if found.good else 1
