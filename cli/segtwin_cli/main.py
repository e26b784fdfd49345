"""`segtwin …`: one file a command. A user's mistake is one line on standard error and status 2; Ctrl-C leaves nothing half-written, status 130.

Nothing but Python's own start-up modules is imported before `main` has taken charge of Ctrl-C: it works while the others are imported, too.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segtwin_cli.commands import COMMANDS, segtwin

__all__ = ["COMMANDS", "complain", "main", "segtwin"]

MISTAKE, INTERRUPTED, NOBODY_READS = 2, 130, 141
"""Exit statuses; the last is what the shell gives a command whose pipe was closed, 128 + SIGPIPE."""
WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}


def __getattr__(name: str) -> Any:
    if name not in ("COMMANDS", "segtwin"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from segtwin_cli import commands

    return getattr(commands, name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 a bound was missed, 2 a user's mistake, 130 interrupted."""
    stopping = Stopping()
    with stopping.installed(for_good=arguments is None):
        try:
            status = run(arguments)
        except KeyboardInterrupt:
            status = INTERRUPTED
            stopping.number = stopping.number or signal.SIGINT
        except Exception:
            if not stopping.number:  # else it is what a library made of the interruption
                raise
        if stopping.number:
            status = stopping.said()
    sys.exit(status)


class Stopping:
    """What happens on Ctrl-C, and where a command is ended or its terminal closed.

    The signal becomes a KeyboardInterrupt, which unwinds the command: drafts and temporary folders are removed on the way. There are places from
    which it would not come back: C code that is being imported makes another error of it, or ends the process; destructors swallow it. There, and
    at a second signal, everything is removed here and the process ends at once.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """Of the first signal that came."""
        self.stderr: int | None = None
        """Standard error as it was: it is turned elsewhere while TensorFlow is imported."""

    @contextmanager
    def installed(self, for_good: bool) -> Iterator[None]:
        """Handle the signals that would end the process; `for_good`: also while Python shuts down afterwards."""
        before: dict[int, Any] = {}
        hook = sys.unraisablehook
        with suppress(OSError):
            self.stderr = os.dup(2)
        try:
            with suppress(ValueError):  # only the main thread can
                for name in WORDS:
                    number = getattr(signal, name, None)
                    if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                        before[number] = signal.signal(number, self.stop)
            sys.unraisablehook = self.swallowed(hook)
            yield
        finally:
            if not for_good:
                sys.unraisablehook = hook
                for number, handler in before.items():
                    signal.signal(number, handler)
                if self.stderr is not None:
                    os.close(self.stderr)
            else:
                self.number = self.number or 0  # from now on nothing is left to unwind

    def stop(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        first, self.number = self.number is None, self.number or number
        while frame is not None and first:
            first = not frame.f_code.co_filename.startswith("<frozen importlib")
            frame = frame.f_back
        if not first:
            self.end()
        raise KeyboardInterrupt

    def swallowed(self, hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A hook for errors that Python cannot pass on."""

        def look(error: Any) -> None:
            if issubclass(error.exc_type, KeyboardInterrupt) and self.number:
                self.end()
            hook(error)

        return look

    def said(self) -> int:
        """Say that the command was stopped. Returns the exit status."""
        word = next((word for name, word in WORDS.items() if getattr(signal, name, None) == self.number), "stopped")
        line = f"segtwin: {word}\n"
        with suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.write(line)
                sys.stderr.flush()
        return 128 + (self.number or signal.SIGINT)

    def end(self) -> None:
        """Remove what would be left, say so, and end the process without unwinding."""
        with suppress(BaseException):
            if (files := sys.modules.get("segtwin.files")) is not None:
                files.discard_all()
        with suppress(BaseException):
            weakref = sys.modules["weakref"]
            weakref.finalize._exitfunc()  # temporary folders
        with suppress(BaseException):
            if self.stderr is not None:
                os.dup2(self.stderr, 2)
                if os.isatty(2):
                    os.write(2, b"\r\x1b[?25h\x1b[K")  # the cursor, which a progress bar hides
        with suppress(BaseException):
            os.write(
                2, f"segtwin: {next((word for name, word in WORDS.items() if getattr(signal, name, None) == self.number), 'stopped')}\n".encode()
            )
        os._exit(128 + (self.number or signal.SIGINT))


def run(arguments: Sequence[str] | None) -> int:
    """Run a command. Returns the exit status; KeyboardInterrupt passes."""
    import click

    from segtwin_cli.commands import segtwin

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names that are no text
    try:
        status = segtwin.main(arguments, prog_name="segtwin", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        status = MISTAKE
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        status = complain(error.format_message())
    except BrokenPipeError as error:
        if error.filename is not None:
            status = complain(f"{error.filename}: {error.strerror}")
        else:
            status = NOBODY_READS
        deaf()
    except OSError as error:
        where = " → ".join(os.fsdecode(name) if isinstance(name, bytes) else str(name) for name in (error.filename, error.filename2) if name)
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
        from segtwin_cli import extras

        status = complain(extras.explain(error))
    except MemoryError:
        status = complain("not enough memory; close other programs or use a smaller network")
    return status if isinstance(status, int) else 0


def deaf() -> None:
    """Where standard output takes nothing more, what is still in its buffer goes nowhere: Python would complain about it at its end."""
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
    import click

    from segtwin_cli.printable import printable

    with suppress(OSError):  # nobody reads standard error
        click.echo(f"segtwin: {printable(' '.join(message.split()))}", err=True)
    return MISTAKE
