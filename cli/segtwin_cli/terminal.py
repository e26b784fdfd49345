"""What a command says while it works: on a terminal a line that moves, elsewhere nothing; results
go to standard output.

Facts are printed by `show_table` and `say`, the same in every command: nothing is shortened, names
are text and never markup.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from segtwin import Converted
from segtwin.files import check_place, check_target, replacing, whole
from segtwin.printable import json_text, printable
from segtwin_engines.installed import require

GAP, INDENT = "  ", "    "
"""Between the columns of a table; before the second and later lines of a folded row."""

quiet_option = click.option("--quiet", is_flag=True, help="Show no progress and no notes.")


def _replacing(context: click.Context, parameter: click.Parameter, overwrite: bool) -> bool:
    context.with_resource(replacing(overwrite))
    return overwrite


overwrite_option = click.option("--overwrite", is_flag=True, callback=_replacing, help="Replace a file that exists.")
"""Without it nothing that the command writes takes the place of another file, whenever that was
made."""


class Errors(Console):
    """Standard error. What is printed is text, never markup."""

    def print(self, *lines: Any, **options: Any) -> None:
        """Lines of text."""
        texts = (printable(line) if isinstance(line, str) else line for line in lines)
        super().print(*texts, **{**options, "markup": False, "emoji": False})


_with_bars: list[Console] = []
"""The consoles of the bars that are shown now."""


def errors() -> Console:
    """Standard error, made afresh so that a redirected stream is seen. While a bar is shown, the bar's: lines then come
    to stand above it, and it is wiped with the last of them."""
    return _with_bars[-1] if _with_bars else Errors(stderr=True, highlight=False, soft_wrap=True)


def noting(quiet: bool) -> Callable[[str], None]:
    """What takes notes: each becomes a line on standard error, unless `quiet`."""
    return lambda line: None if quiet else errors().print(f"note: {line}")


@contextmanager
def moving(columns: Sequence[ProgressColumn], quiet: bool) -> Iterator[Progress]:
    """A bar of these columns, on a terminal; it is wiped at its end."""
    console = errors()
    show = console.is_terminal and not quiet
    with Progress(*columns, console=console, transient=True, disable=not show) as progress:
        _with_bars.append(console)
        try:
            yield progress
        finally:
            _with_bars.remove(console)


def echo(text: object, err: bool = False, **style: Any) -> None:
    """A line of text, names in it included."""
    click.secho(printable(text), err=err, **style)


def echo_path(path: object) -> None:
    """A path: on a terminal as text, else as it is, for the command that takes it."""
    if on_a_terminal():
        echo(path)
    else:
        click.echo(os.fsencode(str(path)))


@contextmanager
def steps(total: int | None, quiet: bool) -> Iterator[Steps]:
    """Show `total` steps of long work (None: nobody knows how many yet); each call of what is yielded begins the next
    one. Conversions on the way become notes."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with moving(columns, quiet) as progress, notes(quiet):
        yield Steps(progress, total)


class Steps:
    """A bar of long work, step by step."""

    def __init__(self, progress: Progress, total: int | None) -> None:
        self.progress, self.task, self.begun = progress, progress.add_task("", total=total), 0

    def __call__(self, text: str) -> None:
        """Begin the next step."""
        self.progress.update(self.task, description=printable(text), completed=self.begun)
        self.begun += 1

    def expect(self, total: int) -> None:
        """Say how many steps there are."""
        self.progress.update(self.task, total=total)


class Bar:
    """What a download tells its progress to, as tqdm's interface has it, on rich's bar."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress, self.task = progress, progress.add_task(printable(name), total=None)

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
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with moving(columns, quiet) as progress:
        yield Bar(progress, name)


@contextmanager
def notes(quiet: bool) -> Iterator[None]:
    """`Converted` warnings become one line each on standard error."""
    say = noting(quiet)

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, Converted):
            say(str(message))
        else:
            original(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        original = warnings.showwarning
        warnings.simplefilter("always", Converted)
        warnings.showwarning = show
        yield


def check_outputs(overwrite: bool, *files: str | os.PathLike[str] | None) -> None:
    """See, before any work, that a command can write its files; None and "-", standard output, are none.

    Raises:
        OSError: one exists and may not be replaced, is a folder, a device or a pipe, or cannot be made there.
        click.ClickException: two are one file.
    """
    seen = set()
    for file in files:
        if file is None or file == "-":
            continue
        check_target(file, overwrite)
        check_place(file)
        place = os.path.realpath(file)
        if place in seen:
            raise click.ClickException(f"{os.fspath(file)}: would be written twice; give each output its own name")
        seen.add(place)


def check_page(report: str | None) -> None:
    """See, before any work, that a page of this name can be made; None: none is asked for.

    Raises:
        NotInstalledError: what makes pages is not installed.
        click.ClickException: the name does not end in .html.
    """
    if report is not None:
        require("report", purpose="--report")
        if Path(report).suffix != ".html":
            raise click.ClickException(f"{report}: the report is an .html file")


# -------------------------------------------------------------------------------- facts, and tables


def json_option(command: Any) -> Any:
    """`--json FILE` and `--overwrite` for a command that prints facts."""
    words = "Write the facts as JSON to this file; - is standard output, then nothing else is."
    return click.option("--json", "json_file", type=click.Path(), help=words)(overwrite_option(command))


def write_json(facts: Mapping[str, Any], json_file: str | None) -> bool:
    """Write what `--json` asks for. Returns whether standard output is still free for people.
    Numbers that JSON has no word for are null."""
    if json_file is None:
        return True
    text = json_text(json.dumps(plain(facts), indent=1, ensure_ascii=False, allow_nan=False)) + "\n"
    if json_file == "-":
        click.echo(text, nl=False)
        return False
    with whole(json_file) as draft:
        draft.write_text(text, encoding="utf-8")
    return True


def plain(facts: Any) -> Any:
    """The same with JSON's own types."""
    if isinstance(facts, Mapping):
        return {str(key): plain(value) for key, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [plain(value) for value in facts]
    if hasattr(facts, "item") and not getattr(facts, "ndim", 0):  # a number of numpy's
        facts = facts.item()
    if isinstance(facts, float) and not math.isfinite(facts):
        return None
    return facts


def on_a_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout is not None and sys.stdout.isatty()


def width() -> int:
    """Columns of the terminal."""
    return max(shutil.get_terminal_size().columns, 20)


def say(text: str) -> None:
    """A line of facts: folded between words on a terminal, whole elsewhere."""
    text = printable(text)
    if on_a_terminal():
        text = "\n".join(folded(text, width(), "    "))
    click.echo(text)


def show_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Collection[str] = (),
    title: str = "",
    footer: Sequence[object] = (),
) -> None:
    """Print a table in which nothing is shortened.

    Elsewhere than on a terminal: the names of the columns, then a line a row, separated by tabs. On
    a terminal: aligned columns; where they are wider than the terminal, each row is folded into
    several lines, the same columns in each, and long texts between words.

    Args:
        columns: their names; the first names the row and is never folded.
        rows: their cells.
        right: the columns aligned to the right, those of numbers.
        title: a line above, on a terminal.
        footer: a last row, of sums.
    """
    lines = [[printable(cell) for cell in row] for row in [columns, *rows, *([footer] if footer else [])]]
    if not on_a_terminal():
        for line in lines:
            click.echo("\t".join(line))
        return
    total = width()
    # what is wider than a terminal's line gets what is left of one, and is folded in itself
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(columns))]
    widths = [widths[0], *(min(one, total - len(INDENT)) for one in widths[1:])]
    groups = packed(widths, total)
    if title:
        click.secho("\n".join(folded(printable(title), total, "    ")), bold=True)
    for number, line in enumerate(lines):
        sums = bool(footer) and number == len(lines) - 1
        for group_number, group in enumerate(groups):
            indent = INDENT if group_number else ""
            cells = [folded(line[column], widths[column], "") if column else [line[column]] for column in group]
            if group_number and not any(map("".join, cells)):
                continue
            for level in range(max(map(len, cells))):
                parts = [cell[level] if level < len(cell) else "" for cell in cells]
                placed = (
                    aligned(part, widths[column], columns[column] in right)
                    for part, column in zip(parts, group, strict=True)
                )
                text = (indent + GAP.join(placed)).rstrip()
                click.echo(click.style(text, bold=True) if number == 0 or sums else text)


def packed(widths: Sequence[int], total: int) -> list[list[int]]:
    """Columns that stand beside each other on one line of the terminal, line by line."""
    groups: list[list[int]] = [[]]
    used = 0
    for column, size in enumerate(widths):
        if groups[-1] and used + len(GAP) + size > total:
            groups.append([])
            used = len(INDENT) - len(GAP)
        used += size + (len(GAP) if column else 0)
        groups[-1].append(column)
    return groups


def aligned(text: str, size: int, right: bool) -> str:
    """Filled with spaces to so many places of the terminal, in which some characters take two."""
    spaces = " " * (size - cell_len(text))
    return spaces + text if right else text + spaces


def folded(text: str, size: int, indent: str) -> list[str]:
    """Text in lines of at most `size` places, broken between words, and inside a word only where it
    is longer than a line."""
    if cell_len(text) <= size:
        return [text]
    return textwrap.wrap(text, size, subsequent_indent=indent, break_on_hyphens=False) or [""]
