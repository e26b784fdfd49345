"""`segtwin convert`: weights from one file and network to another."""

from __future__ import annotations

from collections import Counter

import click
import segtwin_weights
from segtwin.architectures import ROWS
from segtwin_weights import surgery

from segtwin_cli.terminal import overwrite_option, quiet_option, refuse_to_replace, steps


@click.command()
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@click.option("--to", type=click.Choice(list(ROWS)), help="The network to make; without it only the format changes.")
@click.option("--num-classes", type=int, help="Classes of the result; by default the row's own.")
@click.option("--score-init", type=click.Choice(surgery.SCORE_INITS), default="fc8-average", show_default=True, help="How score_fr starts.")
@overwrite_option
@quiet_option
def convert(source: str, target: str, to: str | None, num_classes: int | None, score_init: str, overwrite: bool, quiet: bool) -> None:
    """Read SOURCE, make the weights of another network of them, and write TARGET (.safetensors, .npy, .caffemodel, .pth or .weights.h5)."""
    refuse_to_replace(target, overwrite)
    with steps(3, quiet) as step:
        step(f"reading {source}")
        weights = segtwin_weights.read(source)
        step("converting")
        changes: list[surgery.Change] = []
        if to is not None:
            weights, changes = surgery.convert_with_report(weights, to, num_classes, score_init)
        step(f"writing {target}")
        segtwin_weights.write(weights, target)
    if not quiet:
        counts = Counter(change.what for change in changes)
        said = ", ".join(f"{count} {what}" for what, count in counts.items())
        click.echo(f"{target}: {weights!r}" + (f"; blobs {said}" if said else ""))
        if weights.metadata.get("synthetic"):
            click.secho(f"{target}: SYNTHETIC weights, not trained", fg="yellow", bold=True, err=True)
