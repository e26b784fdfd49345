"""Files that appear whole or not at all, in threads, in processes that share a folder, and whatever
stops them.

A file is written as a draft in a new folder beside its place, `.XXXXXXXX-YYYYYYYY.part-NAME`: X is
random, Y is this machine. The process that writes holds a lock (flock) on that folder, which ends
with the process however it ends. So a draft is left over if it is this machine's and its folder can
be locked; the next file that is written beside it removes it. A process number in the name would
not do: numbers are used again, and containers that share a folder do not see each other's. Another
machine's drafts are never touched, because not every network file system passes locks on; nor are
those on file systems without locks.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # no flock: drafts are never taken for left over
    fcntl = None  # type: ignore[assignment]

REPLACE: ContextVar[bool] = ContextVar("replace", default=True)
"""Whether a file that exists is replaced, where the caller does not say it."""
STOPPING = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
"""Signals that end a command."""
NAME_BYTES = 100
"""Of a file's name in its draft folder's: with what is before it far below the 143 that the
strictest file system (eCryptfs) takes."""
LEFT_OVER = re.compile(r"\.[0-9a-f]{8}-([0-9a-f]{8})\.part-.*", re.DOTALL)
PUBLISH_SECONDS = 10.0
"""How long files that belong together wait for others that take their names in the same folder:
many times what renaming takes."""
OPEN: dict[Path, int | None] = {}
"""Draft folders of this process, with the descriptor that holds the lock."""
_swept: dict[str, tuple[float, float]] = {}


@contextmanager
def whole(path: str | os.PathLike[str], replace: bool | None = None) -> Iterator[Path]:
    """A path to write to, of the same name in a folder beside `path`; it takes its place when the
    block ends, and is removed when the block fails.

    The bytes are on disk before the name is: a crash leaves the old file or the new one. Missing
    folders are made. A file that is replaced gives its mode, and where that is allowed its owner,
    to the new one. A symbolic link is written through.

    Args:
        path: where the file will be.
        replace: False: a file that is there, or that somebody makes before the block ends, stays,
            and is an error. None: as `replacing` says.

    Raises:
        FileExistsError: `replace` is False, and there is such a file.
        OSError: it is a folder or a device, the folder cannot be made or written to, the disk is
            full. The name is the one that was given.
    """
    with _drafts([Path(path)], replace, all_of_them=True) as (draft,):
        yield draft


@contextmanager
def whole_together(*paths: str | os.PathLike[str], replace: bool | None = None) -> Iterator[list[Path]]:
    """Files that belong together: paths to write to, with the final names, in one new folder beside
    the last of them.

    When the block ends, those that were written take their places, in the order given; when it
    fails or is interrupted, or a name cannot be taken, the files that were there before are there
    again. The new folder is removed either way. The rest is as in `whole`.

    Raises:
        FileExistsError: `replace` is False, and one of those that were written exists.
        OSError: one is a folder or a device, the folder cannot be made or written to, the disk is
            full.
    """
    with _drafts([Path(path) for path in paths], replace, all_of_them=False) as drafts:
        yield drafts


@contextmanager
def replacing(allowed: bool) -> Iterator[None]:
    """Inside, and in this thread, files that exist are replaced or, where that is not allowed, an
    error; also files that appear meanwhile."""
    token = REPLACE.set(allowed)
    try:
        yield
    finally:
        REPLACE.reset(token)


@contextmanager
def written_by_a_library(path: str | os.PathLike[str]) -> Iterator[None]:
    """What libraries make of a full disk becomes an error of the system's kind: HDF5 and torch hide
    its number in a text, or leave it out.

    Raises:
        OSError: the block failed to write.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        text = " ".join(str(error).split())
        number = next((int(found[1]) for found in re.finditer(r"errno = (\d{1,3})\b", text) if int(found[1])), None)
        words = os.strerror(number) if number else f"cannot be written ({text[:100]}); is there room on the disk?"
        raise OSError(number, words, os.fspath(path)) from None


def check_room(draft: Path, size: int) -> None:
    """See that a file of `size` bytes can be written: HDF5 does not survive a disk that fills while
    it writes, and ends the process.

    Raises:
        OSError: there is no room; the draft is named.
    """
    if not hasattr(os, "posix_fallocate"):
        if shutil.disk_usage(draft.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(draft))
        return
    room = draft.with_name("room")
    descriptor = os.open(room, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        # the file system cannot say
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(error.errno, error.strerror, os.fspath(draft)) from None
    finally:
        os.close(descriptor)
        room.unlink()


def check_target(path: str | os.PathLike[str], replace: bool = True) -> None:
    """Refuse a name that no file can take, before any work.

    Raises:
        FileExistsError: there is a file and `replace` is False.
        OSError: it is a folder, a device or a pipe, or a link that leads to itself.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder; give the name of a file", os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(
            errno.EINVAL, "is a device or a pipe, which cannot be replaced; give the name of a file", os.fspath(path)
        )
    if not replace:
        raise FileExistsError(errno.EEXIST, "exists already; choose another name or add --overwrite", os.fspath(path))


def check_place(path: str | os.PathLike[str]) -> None:
    """Refuse a place where no file can be made, before any work. Missing folders would be made.

    Raises:
        OSError: nothing can be written there.
    """
    folder = Path(os.path.realpath(path)).parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".segtwin-", dir=folder))
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


class Target(NamedTuple):
    """A file that is being written."""

    given: Path
    final: Path
    """Where it will be: `given`, links followed."""
    draft: Path


@contextmanager
def _drafts(paths: Sequence[Path], replace: bool | None, all_of_them: bool) -> Iterator[list[Path]]:
    replace = REPLACE.get() if replace is None else replace
    for path in paths:
        check_target(path, replace if all_of_them else True)  # of files that belong together, not all are written
    finals = [Path(os.path.realpath(path)) for path in paths]
    folder: Path | None = None
    targets: list[Target] = []
    try:
        folder = _folder(finals[-1])
        targets = [Target(path, final, folder / path.name) for path, final in zip(paths, finals, strict=True)]
        mode = _mode_of_new_files(folder)
        yield [target.draft for target in targets]
        written = [target for target in targets if all_of_them or target.draft.exists()]
        for target in written:
            _settle(target, mode)
        with uninterrupted():
            _publish(written, folder, replace)
    except OSError as error:
        _name(error, targets, folder, paths)
        raise
    finally:
        with uninterrupted():
            if folder is not None:
                _discard(folder)


def _name(error: OSError, targets: Sequence[Target], folder: Path | None, paths: Sequence[Path]) -> None:
    """Give an error the name that the user knows."""
    name = error.filename
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    for target in targets:
        if name in (os.fspath(target.draft), os.fspath(target.final)):
            error.filename, error.filename2 = os.fspath(target.given), None
            return
    if name is None or (folder is not None and str(name).startswith(os.fspath(folder))):
        error.filename, error.filename2 = os.fspath(paths[-1]), None


def _folder(final: Path) -> Path:
    """A new folder beside `final`, locked; missing folders above it are made."""
    tail = os.fsencode(final.name)[-NAME_BYTES:].decode("ascii", "replace").replace("\ufffd", "_")
    for _ in range(100):
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final.parent)
        folder = final.parent / f".{secrets.token_hex(4)}-{_machine()}.part-{tail}"
        try:
            folder.mkdir(0o700)
        except FileNotFoundError:
            continue  # somebody removed the folder above it
        except FileExistsError:
            continue
        except OSError as error:
            error.filename = os.fspath(final)
            raise
        OPEN[folder] = None
        try:
            OPEN[folder] = descriptor = _locked(folder)
        except FileNotFoundError:
            del OPEN[folder]
            continue  # another process took it for left over before it was locked
        if descriptor is None or os.path.exists(folder):
            return folder
        _discard(folder)
    raise OSError(errno.EBUSY, "its folder changes all the time", os.fspath(final))


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the lock of a folder; None: the system has no locks for folders, or
    another holds it."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _discard(folder: Path) -> None:
    """Remove a draft folder of this process, then give up its lock."""
    descriptor = OPEN.pop(folder, None)
    shutil.rmtree(folder, ignore_errors=True)
    if descriptor is not None:
        os.close(descriptor)


def discard_all() -> None:
    """Remove every draft of this process: it is about to end without unwinding."""
    for folder in list(OPEN):
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _machine() -> str:
    """Eight digits for this machine."""
    words = socket.gethostname()
    with suppress(OSError):
        words += Path("/etc/machine-id").read_text(encoding="ascii", errors="replace")
    return hashlib.sha256(words.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _sweep(home: Path) -> None:
    """Remove drafts that processes of this machine left beside a file when they were killed.

    A folder is looked through again only after a hundred times as long as it last took: in one of
    many files this costs a hundredth of the time.
    """
    if fcntl is None:
        return
    key, now = os.fspath(home), time.monotonic()
    last, took = _swept.get(key, (-1e9, 0.0))
    if now - last < 100 * took:
        return
    try:
        with os.scandir(home) as entries:
            found = [
                Path(entry.path)
                for entry in entries
                if (match := LEFT_OVER.fullmatch(entry.name))
                and match[1] == _machine()
                and entry.is_dir(follow_symlinks=False)
            ]
        for folder in found:
            if folder not in OPEN and (descriptor := _locked(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(descriptor)
    except OSError:
        pass  # a folder that cannot be listed can still be written to
    _swept[key] = now, time.monotonic() - now


def _mode_of_new_files(folder: Path) -> int:
    """What the system gives to a new file here, by the umask and the folder's own rules: the umask
    itself can only be read by changing it."""
    probe = folder / "probe"
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        probe.unlink()


def _settle(target: Target, mode: int) -> None:
    """The bytes are on disk, and whoever could read the file before can, or whoever may read new
    files: some writers make them their owner's."""
    descriptor = os.open(target.draft, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    with suppress(FileNotFoundError):
        before = os.stat(target.final)
        mode = stat.S_IMODE(before.st_mode)
        if hasattr(os, "chown"):
            for owner, group in ((before.st_uid, -1), (-1, before.st_gid)):
                with suppress(PermissionError):
                    os.chown(target.draft, owner, group)
    target.draft.chmod(mode)


def _publish(written: Sequence[Target], folder: Path, replace: bool) -> None:
    """Give drafts their final names; when one fails, those before it are taken back.

    Files that belong together take their names under a lock of the folder: two processes that write
    the same ones do not mix them.
    """
    lock = _publishing(folder.parent) if len(written) > 1 else None
    away: list[Path] = []
    undo: list[tuple[Path, Path | None]] = []
    try:
        for number, target in enumerate(written):
            draft = target.draft
            if target.final.parent != folder.parent:  # a link led elsewhere, perhaps to another disk
                away.append(_folder(target.final))
                draft = Path(shutil.move(draft, away[-1] / target.draft.name))
            if not replace:
                _take(draft, target)
                undo.append((target.final, None))
                continue
            check_target(target.final)
            aside = draft.parent / f"{number}.before"
            kept: Path | None = aside
            there = True
            try:
                os.link(target.final, aside)
            except FileNotFoundError:
                kept, there = None, False
            except OSError:
                kept = None  # a file system without links: what was there cannot be put back
            os.replace(draft, target.final)
            if kept or not there:
                undo.append((target.final, kept))
    except BaseException:
        for final, before in reversed(undo):
            with suppress(OSError):
                if before is None:
                    final.unlink()
                else:
                    os.replace(before, final)
        raise
    finally:
        for one in away:
            _discard(one)
        if lock is not None:
            os.close(lock)


def _take(draft: Path, target: Target) -> None:
    """Give a draft its name unless that is taken: in one step, so that of two processes one wins."""
    taken = FileExistsError(
        errno.EEXIST, "exists already; choose another name or add --overwrite", os.fspath(target.given)
    )
    try:
        os.link(draft, target.final)
    except FileExistsError:
        raise taken from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        try:  # a file system without links: the name is taken by an empty file first
            os.close(os.open(target.final, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            raise taken from None
        os.replace(draft, target.final)


def _publishing(home: Path) -> int | None:
    """A descriptor that holds the lock of a folder, waited for; None where there are no locks, or
    it is not to be had."""
    if fcntl is None:
        return None
    end = time.monotonic() + PUBLISH_SECONDS
    descriptor = os.open(home, os.O_RDONLY)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > end:
                break
            time.sleep(0.01)
        except OSError:
            break
    os.close(descriptor)
    return None


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals that a program has a handler for, as Ctrl-C, wait until the block ends."""
    if threading.current_thread() is not threading.main_thread():  # handlers run in the main thread alone
        yield
        return
    caught: list[int] = []
    before = {number: handler for number in STOPPING if callable(handler := signal.getsignal(number))}
    try:
        for number in before:
            signal.signal(number, lambda number, frame: caught.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in caught[:1]:
            signal.raise_signal(number)
