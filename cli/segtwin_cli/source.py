"""`segtwin source vgg16`: where the weights that everything starts from are."""

from __future__ import annotations

import click
from segtwin_weights.sources import find_vgg16

from segtwin_cli.terminal import (
    check_outputs,
    download_bar,
    echo_path,
    errors,
    json_option,
    quiet_option,
    write_json,
)


@click.command()
@click.argument("name", type=click.Choice(["vgg16"]))
@json_option
@quiet_option
def source(name: str, json_file: str | None, overwrite: bool, quiet: bool) -> None:
    """Print the path of vgg16.npy: VGG16_NPY, the cache, a checked download, or, without a network,
    a SYNTHETIC file made now.

    --json: {"name", "path"}
    """
    check_outputs(overwrite, json_file)
    with download_bar("VGG-16", quiet) as bar:
        path = find_vgg16(say=lambda line: errors().print(line, style="bold yellow"), progress=bar)
    if write_json({"name": name, "path": str(path)}, json_file):
        echo_path(path)
