"""`segtwin …`: one file a command. A user's mistake is one line on standard error and status 2;
Ctrl-C leaves nothing half-written, status 130.

Nothing but what Python has imported already is imported before `main` has taken charge of Ctrl-C:
it works while everything else is imported, too.
"""

import os
import sys

TYPE_CHECKING = False  # as `typing` has it
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from segtwin_cli.command_line import complain
    from segtwin_cli.commands import COMMANDS, segtwin

__all__ = ["COMMANDS", "complain", "main", "segtwin"]

INTERRUPTED, MISTAKE = 130, 2


def __getattr__(name: str) -> "Any":
    if name not in ("COMMANDS", "complain", "segtwin"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from segtwin_cli import command_line, commands

    return getattr(command_line if name == "complain" else commands, name)


def main(arguments: "Sequence[str] | None" = None) -> None:
    """Run a command and exit: 0 done, 1 a bound was missed, 2 a user's mistake, 130 interrupted."""
    taken = "SIGINT" if arguments is None and at_once() else ""
    from segtwin_cli.stopping import Stopping

    stopping = Stopping()
    with stopping.installed(for_good=arguments is None, taken=taken):
        status = INTERRUPTED
        try:
            from segtwin_cli.command_line import run

            status = run(arguments)
        except ModuleNotFoundError as error:
            if error.name not in ("click", "rich"):
                raise
            os.write(2, f"segtwin: the commands need {error.name}; pip install 'segtwin[cli]'\n".encode())
            status = MISTAKE
        except KeyboardInterrupt:
            stopping.number = stopping.number or 2
        except Exception:
            if not stopping.number:  # else it is what a library made of the interruption
                raise
        if stopping.number:
            status = stopping.said()
    sys.exit(status)


def at_once() -> bool:
    """End the process at the first Ctrl-C: nothing is there yet that has to be put away. False: the
    signal is ignored, or somebody else's."""
    import _signal  # type: ignore[import-not-found] # the part of `signal` that needs no import

    def stop(number: int, frame: object) -> None:
        os.write(2, b"segtwin: interrupted\n")
        os._exit(INTERRUPTED)

    try:
        if _signal.getsignal(_signal.SIGINT) is not _signal.default_int_handler:
            return False
        _signal.signal(_signal.SIGINT, stop)
    except ValueError:  # only the main thread can
        return False
    return True
