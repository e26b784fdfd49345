"""HDF5 files are walked to their end in a process of their own before this one opens them: HDF5's C
code does not return from every damaged file, crashes on some, and takes memory for what a file
claims.

The process (`hdf5_walk`) starts when the first HDF5 file is read, serves all of them, one at a
time, and ends with this one. It may take, for a file, `TIMES` its size and `SLACK` of memory over
what it had, and seconds by the size, and is killed otherwise; so it is when Ctrl-C is pressed. A
file that was walked is not walked again as long as it stays as it is. Where Python has no
`resource` (Windows) or the system does not keep to the limit of memory (macOS), time is limited
alone.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from segtwin.errors import WeightsError

from segtwin_weights.door import line, shown

TIMES = 3
"""Bytes of memory, in sizes of the file."""
SLACK = 32 << 20
"""Bytes besides: HDF5's caches of structure (at most 32 MB where a file is large) and of chunks (1
MB a data set)."""
SECONDS = 1
"""Of processor time, whatever the size; small files take milliseconds. The system counts whole
ones, so that a loop ends after one or two."""
OBJECTS_SECONDS, OBJECTS_BYTES = 4, 250_000
"""At most so many more, one for so many bytes: a small data set takes a kilobyte, and up to a
millisecond to open."""
BYTES_A_SECOND = 20_000_000
"""How fast a file is decoded at the least: deflate makes 200 MB/s."""
PATIENCE = 3
"""Times the processor's seconds on the clock, of 3 and more: other work on the machine, a slow
disk."""
START_SECONDS = 60
"""In which Python and h5py start, from a slow disk."""
RACY_NANOSECONDS = 2_000_000_000
"""A file that was written so short a time ago may change again and keep its time: clocks of file
systems have steps."""
MOST_KEPT = 1000
ENDLESS = "HDF5 does not come to an end of it"

_lock = threading.Lock()
_child: Child | None = None
_walked: dict[tuple[Any, ...], None] = {}


class Died(Exception):
    """The process ended before it answered."""


class Child:
    """The running process, and its pipes."""

    def __init__(self) -> None:
        flags = [
            *(["-I"] if sys.flags.isolated else []),
            *(["-E"] if sys.flags.ignore_environment else []),
            "-P",
            "-W",
            "ignore",
        ]
        one_thread = dict.fromkeys(
            ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
        )
        environment = {
            key: value for key, value in os.environ.items() if key not in ("PYTHONINSPECT", "PYTHONDEVMODE")
        } | one_thread
        # a Ctrl-C goes to this process, which ends that one
        alone: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
        self.process = subprocess.Popen(
            [sys.executable or "python3", *flags, str(Path(__file__).with_name("hdf5_walk.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env=environment,
            **alone,
        )  # fmt: skip
        self.fresh = True
        """It has read no file: nothing that an earlier one left behind in a C library, and nobody
        who killed it since, can be what ends it."""
        try:
            self.ask({"sys.path": [one for one in sys.path if os.path.isabs(one)]}, START_SECONDS)
        except BaseException:
            self.end()
            raise

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer.

        Raises:
            Died: there was none.
            TimeoutError: not within the time; the process is killed.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        said = b""
        with _clock(self.process, seconds) as left, suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            while not said.endswith(b"\n"):
                left(self.process.stdout)
                if not (piece := self.process.stdout.read(1 << 16)):
                    break
                said += piece
        if not said.endswith(b"\n"):
            raise Died
        told: dict[str, Any] = json.loads(said)
        return told

    def end(self) -> int:
        """Kill it; its status."""
        self.process.kill()
        status = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        return status


@contextmanager
def _clock(process: subprocess.Popen[bytes], seconds: float) -> Iterator[Callable[[Any], None]]:
    """Waits for a pipe of a process until there is something in it, or its end; after so many
    seconds the process is killed.

    No thread waits where the system can do it: where memory is short, Python waits for ever for a
    thread that cannot begin.

    Raises:
        TimeoutError: the seconds are over.
    """
    if os.name == "posix":
        end = time.monotonic() + seconds

        def wait(pipe: Any) -> None:
            with selectors.DefaultSelector() as selector:
                selector.register(pipe, selectors.EVENT_READ)
                if not selector.select(max(end - time.monotonic(), 0)):
                    process.kill()
                    raise TimeoutError

        yield wait
        return
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield lambda pipe: None
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError


def walk(path: str | os.PathLike[str], part: tuple[int, int] | None = None) -> None:
    """Have an HDF5 file walked.

    Args:
        path: the file.
        part: where the HDF5 file is a run of bytes of it: its first byte, and how many there are.

    Raises:
        WeightsError: HDF5 cannot read it, does not come to an end, crashes, or takes more memory
            than the file is good for.
        OSError: the process cannot be started.
    """
    found = os.stat(path)
    known = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, part)
    begun = time.time_ns()
    with _lock:
        if known in _walked:
            return
        size = part[1] if part else found.st_size
        _asked(
            path, {"path": os.fsdecode(os.path.abspath(path)), "offset": part[0] if part else None, "size": size}, size
        )
        if max(found.st_mtime_ns, found.st_ctime_ns) < begun - RACY_NANOSECONDS:
            _walked[known] = None
            if len(_walked) > MOST_KEPT:
                del _walked[next(iter(_walked))]


def _asked(path: str | os.PathLike[str], question: dict[str, Any], size: int) -> None:
    global _child
    decoding = size // BYTES_A_SECOND
    seconds = SECONDS + min(size // OBJECTS_BYTES, OBJECTS_SECONDS) + decoding
    question |= {"most": TIMES * size, "memory": TIMES * size + SLACK, "seconds": seconds}
    name = shown(os.fspath(path))
    while True:
        try:
            if _child is None:
                _child = Child()
        except (Died, TimeoutError, OSError) as error:
            raise WeightsError(
                f"{name}: cannot be examined: the process that reads HDF5 files ({shown(sys.executable, 80)}) does "
                "not start "
                f"({line(error) or type(error).__name__}); is memory short?"
            ) from None
        child = _child
        fresh, child.fresh = child.fresh, False
        try:
            told = child.ask(question, PATIENCE * (SECONDS + OBJECTS_SECONDS + decoding))
        except (TimeoutError, Died) as error:
            status = _ended(child)
            if isinstance(error, TimeoutError) or status == -getattr(signal, "SIGXCPU", 0):
                raise WeightsError(
                    f"{name}: {ENDLESS}; the file is damaged or was made to hang a reader; fetch it again"
                ) from None
            if not fresh:
                continue  # asked once more, of a new process
            raise WeightsError(
                f"{name}: HDF5 crashes on it (status {status}); the file is damaged or hostile; fetch it again"
            ) from None
        except BaseException:
            _ended(child)
            raise
        break
    if told["error"] is None:
        return
    if told["memory"]:
        _ended(child)
        if not fresh:
            _asked(path, question, size)
            return
        raise WeightsError(
            f"{name}: takes more memory than a file of {size:,} bytes can hold; it is damaged or was made to fill "
            "memory"
        )
    raise WeightsError(f"{name}: is cut short or damaged ({shown(told['error'], 160)}); fetch it again")


def _ended(child: Child) -> int:
    global _child
    _child = None
    return child.end()


def _at_exit() -> None:
    if _child is not None:
        _ended(_child)


def _after_fork() -> None:
    """In a fork, the process is the parent's; this one starts its own."""
    global _child, _lock
    _lock = threading.Lock()
    if _child is not None:
        _child.process.returncode = 0  # not this process' to wait for
        for pipe in (_child.process.stdin, _child.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        _child = None


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
