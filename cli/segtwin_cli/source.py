"""`segtwin source vgg16`: where the weights that everything starts from are."""

from __future__ import annotations

import click
from segtwin_weights.sources import find_vgg16

from segtwin_cli.terminal import download_bar, errors, quiet_option


@click.command()
@click.argument("name", type=click.Choice(["vgg16"]))
@quiet_option
def source(name: str, quiet: bool) -> None:
    """Print the path of vgg16.npy: VGG16_NPY, the cache, a checked download, or, without a network, a SYNTHETIC file made now."""
    with download_bar("VGG-16", quiet) as bar:
        path = find_vgg16(say=lambda line: errors().print(line, style="bold yellow", markup=False), progress=bar)
    click.echo(path)
