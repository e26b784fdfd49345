"""What a command says while it works: on a terminal a line that moves, elsewhere nothing; results go to standard output."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from segtwin import Converted

quiet_option = click.option("--quiet", is_flag=True, help="Show no progress and no notes.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace a file that exists.")


def errors() -> Console:
    """Standard error, made afresh so that a redirected stream is seen."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def steps(total: int, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show `total` steps of long work; each call of what is yielded begins the next one. Conversions on the way become notes."""
    console = errors()
    show = console.is_terminal and not quiet
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not show) as progress, notes(console, quiet):
        task = progress.add_task("", total=total)
        begun = 0

        def step(text: str) -> None:
            nonlocal begun
            progress.update(task, description=text, completed=begun)
            begun += 1

        yield step


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


@contextmanager
def download_bar(name: str, quiet: bool) -> Iterator[Bar]:
    """Show how much of a file has come, on a terminal."""
    console = errors()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        yield Bar(progress, name)


@contextmanager
def notes(console: Console, quiet: bool) -> Iterator[None]:
    """`Converted` warnings become one line each on standard error."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None) -> None:
        if issubclass(category, Converted):
            if not quiet:
                console.print(f"note: {message}", markup=False)
        else:
            original(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        original = warnings.showwarning
        warnings.simplefilter("always", Converted)
        warnings.showwarning = show
        yield


def refuse_to_replace(path: str, overwrite: bool) -> None:
    """Raise unless `path` is free or may be replaced."""
    if os.path.exists(path) and not overwrite:
        raise click.ClickException(f"{path}: exists already; choose another name or add --overwrite")
