"""A command from its words to its exit status; whatever goes wrong is one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import click
from segtwin.printable import printable
from segtwin_engines.quiet import tensorflow_starts_quietly

from segtwin_cli.commands import segtwin

MISTAKE, NOBODY_READS = 2, 141
"""Exit statuses; the second is what the shell gives a command whose pipe was closed, 128 + SIGPIPE."""


def run(arguments: Sequence[str] | None) -> int:
    """Run a command. Returns the exit status; KeyboardInterrupt passes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names that are no text
    tensorflow_starts_quietly()
    try:
        words = sys.argv[1:] if arguments is None else list(arguments)
        segtwin._main_shell_completion({}, "segtwin")
        with segtwin.make_context("segtwin", words) as context:  # click's own main would print an empty line on Ctrl-C
            status = segtwin.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        status = MISTAKE
    except click.exceptions.Exit as ended:
        status = ended.exit_code
    except (click.Abort, EOFError):
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        status = complain(error.format_message())
    except BrokenPipeError as error:
        status = complain(f"{error.filename}: {error.strerror}") if error.filename is not None else NOBODY_READS
        deaf()
    except OSError as error:
        where = " → ".join(
            os.fsdecode(name) if isinstance(name, bytes) else str(name)
            for name in (error.filename, error.filename2)
            if name
        )
        status = complain(f"{where}: {error.strerror or error}" if where else str(error))
        deaf()
    except (ValueError, KeyError) as error:
        if os.environ.get("SEGTWIN_TRACEBACK"):
            raise
        plain = isinstance(error, UnicodeError) or not error.args  # whose first argument is the name of a codec
        status = complain(str(error) or type(error).__name__ if plain else str(error.args[0]))
    except ImportError as error:
        if os.environ.get("SEGTWIN_TRACEBACK"):
            raise
        from segtwin_engines import installed

        status = complain(installed.explain(error))
    except MemoryError:
        status = complain("not enough memory; close other programs or use a smaller network")
    return status if isinstance(status, int) else 0


def deaf() -> None:
    """Where standard output takes nothing more, what is still in its buffer goes nowhere: Python
    would complain about it at its end."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


def complain(message: str) -> int:
    """One line, whatever the message holds."""
    with suppress(OSError):  # nobody reads standard error
        click.echo(f"segtwin: {printable(' '.join(message.split()))}", err=True)
    return MISTAKE
