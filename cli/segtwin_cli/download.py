"""`segtwin download`: published weights into the cache, checked."""

from __future__ import annotations

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from segtwin_weights import catalogue

from segtwin_cli.terminal import errors, quiet_option


class Bar:
    """What pooch tells its progress to, as tqdm's interface has it, on rich's bar."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress, self.task = progress, progress.add_task(name, total=None)

    @property
    def total(self) -> float | None:
        """Bytes of the whole file."""
        return self.progress.tasks[0].total

    @total.setter
    def total(self, size: float) -> None:
        self.progress.update(self.task, total=size or None)

    def update(self, count: int) -> None:
        """So many bytes more have come."""
        self.progress.advance(self.task, count)

    def reset(self) -> None:
        """Begin again."""
        self.progress.reset(self.task)

    def close(self) -> None:
        """The last byte has come."""


@click.command()
@click.argument("name", type=click.Choice(list(catalogue.CATALOGUE)))
@quiet_option
def download(name: str, quiet: bool) -> None:
    """Fetch the published weights NAME, check their hash, and print where they are."""
    console = errors()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        say = (lambda line: None) if quiet else (lambda line: console.print(line, markup=False))
        path = catalogue.fetch(name, Bar(progress, name), say)
    click.echo(path)
