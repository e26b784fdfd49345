"""`segtwin download`: published weights into the cache, checked."""

from __future__ import annotations

import click
from segtwin_weights import catalogue

from segtwin_cli.terminal import (
    check_outputs,
    download_bar,
    echo_path,
    errors,
    json_option,
    quiet_option,
    write_json,
)


@click.command(epilog=f"NAME is one of {', '.join(catalogue.CATALOGUE)}.")
@click.argument("name", type=click.Choice(list(catalogue.CATALOGUE)), metavar="NAME")
@json_option
@quiet_option
def download(name: str, json_file: str | None, overwrite: bool, quiet: bool) -> None:
    """Fetch the published weights NAME, check their hash, and print where they are.

    --json: {"name", "path"}
    """
    check_outputs(overwrite, json_file)
    with download_bar(name, quiet) as bar:
        say = (lambda line: None) if quiet else (lambda line: errors().print(line))
        path = catalogue.fetch(name, bar, say)
    if write_json({"name": name, "path": str(path)}, json_file):
        echo_path(path)
