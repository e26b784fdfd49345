"""Ctrl-C, SIGTERM and a terminal that is closed: a command ends with one line and leaves nothing."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}


class Stopping:
    """What happens on Ctrl-C, and where a command is ended or its terminal closed.

    The signal becomes a KeyboardInterrupt, which unwinds the command: drafts and temporary folders
    are removed on the way. There are places from which it would not come back: C code that is being
    imported makes another error of it, or ends the process; destructors swallow it. There, and at a
    second signal, everything is removed here and the process ends at once.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """Of the first signal that came."""
        self.stderr: int | None = None
        """Standard error as it was: it is turned elsewhere while TensorFlow is imported."""

    @contextmanager
    def installed(self, for_good: bool, taken: str = "") -> Iterator[None]:
        """Handle the signals that would end the process; `for_good`: also while Python shuts down
        afterwards. `taken` is one that has another handler of ours."""
        before: dict[int, Any] = {}
        hook = sys.unraisablehook
        with suppress(OSError):
            self.stderr = os.dup(2)
        try:
            with suppress(ValueError):  # only the main thread can
                for name in WORDS:
                    number = getattr(signal, name, None)
                    if number is not None and (
                        (for_good and name == taken)
                        or signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
                    ):
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
        with suppress(OSError, ValueError):
            if sys.stderr is not None:
                # after the ^C that a terminal shows
                sys.stderr.write(("\n" if sys.stderr.isatty() else "") + self.line())
                sys.stderr.flush()
        return 128 + (self.number or signal.SIGINT)

    def line(self) -> str:
        """What is said."""
        word = next((word for name, word in WORDS.items() if getattr(signal, name, None) == self.number), "stopped")
        return f"segtwin: {word}\n"

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
            os.write(2, self.line().encode())
        os._exit(128 + (self.number or signal.SIGINT))
