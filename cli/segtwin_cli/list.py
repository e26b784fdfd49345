"""`segtwin list`: the networks."""

from __future__ import annotations

import math

import click
from rich.console import Console
from rich.table import Column, Table
from segtwin.architectures import ROWS


@click.command("list")
def networks() -> None:
    """List the networks: parameters, input, output and source."""
    table = Table(
        "row", Column("learned", justify="right", no_wrap=True), Column("fixed", justify="right", no_wrap=True), "classes", "input → output", "from"
    )
    for row in ROWS.values():
        parameters = row.parameters()
        learned = sum(math.prod(parameter.shape) for parameter in parameters if parameter.lr_mult)
        fixed = sum(math.prod(parameter.shape) for parameter in parameters if not parameter.lr_mult)
        table.add_row(row.name, f"{learned:,}", f"{fixed:,}", str(row.num_classes), f"{row.input} → {row.output}", row.source)
    Console().print(table)
