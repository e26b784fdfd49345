"""`segtwin inspect`: what a file of weights holds."""

from __future__ import annotations

import json

import click
import segtwin_weights
from rich.console import Console
from rich.table import Table

from segtwin_cli.terminal import quiet_option, steps


@click.command()
@click.argument("file", type=click.Path())
@quiet_option
def inspect(file: str, quiet: bool) -> None:
    """Print the blobs of FILE with shapes and ranges, its metadata and its fingerprint."""
    with steps(2, quiet) as step:
        step(f"reading {file}")
        weights = segtwin_weights.read(file)
        step("fingerprint")
        fingerprint = weights.fingerprint()
    table = Table("blob", "shape", "type", "min", "max", "mean")
    for name, blob in weights.items():
        numbers = (f"{value:.4g}" for value in (blob.min(), blob.max(), blob.mean(dtype="float64"))) if blob.size else ("", "", "")
        table.add_row(name, "×".join(map(str, blob.shape)), str(blob.dtype), *numbers)
    console = Console()
    console.print(table)
    for key, value in weights.metadata.items():
        console.print(f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}", markup=False)
    console.print(f"fingerprint: {fingerprint}")
