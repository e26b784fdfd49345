"""`segtwin download`: published weights into the cache, checked."""

from __future__ import annotations

import click
from segtwin_weights import catalogue

from segtwin_cli.terminal import download_bar, errors, quiet_option


@click.command()
@click.argument("name", type=click.Choice(list(catalogue.CATALOGUE)))
@quiet_option
def download(name: str, quiet: bool) -> None:
    """Fetch the published weights NAME, check their hash, and print where they are."""
    console = errors()
    with download_bar(name, quiet) as bar:
        say = (lambda line: None) if quiet else (lambda line: console.print(line, markup=False))
        path = catalogue.fetch(name, bar, say)
    click.echo(path)
