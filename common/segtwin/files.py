"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the name `path` when the block ends, and is removed when the block fails or is interrupted.

    The bytes are on disk before the name is: a crash leaves the old file or the new one. Missing folders are made.

    Raises:
        OSError: the folder cannot be made or written to, the disk is full.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    # The last suffixes stay, because libraries choose formats by them (".weights.h5", ".npy").
    draft = final.with_name(f".{secrets.token_hex(4)}.part-{final.name}")
    try:
        yield draft
        _settle(draft)
        os.replace(draft, final)
    except OSError as error:
        if error.filename in (None, os.fspath(draft)):
            error.filename = os.fspath(final)  # the name that the user knows
        raise
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def whole_together(*paths: str | os.PathLike[str]) -> Iterator[list[Path]]:
    """Files of one folder that name each other: paths to write to, with the final names, in a new folder beside them.

    When the block ends, those that were written take their places, in the order given; when it fails or is interrupted, or a name cannot be taken,
    the files that were there before are there again. The new folder is removed either way.

    Raises:
        OSError: the folder cannot be made or written to, the disk is full.
    """
    finals = [Path(path) for path in paths]
    home = finals[-1].parent
    home.mkdir(parents=True, exist_ok=True)
    try:
        folder = Path(tempfile.mkdtemp(prefix=".", suffix=f".part-{finals[-1].name}", dir=home))
    except OSError as error:
        error.filename = os.fspath(finals[-1])
        raise
    drafts = [folder / final.name for final in finals]
    try:
        yield drafts
        written = [(draft, final) for draft, final in zip(drafts, finals, strict=True) if draft.exists()]
        for draft, _ in written:
            _settle(draft)
        _publish(written, folder)
    except OSError as error:
        known = {os.fspath(draft): os.fspath(final) for draft, final in zip(drafts, finals, strict=True)}
        error.filename = known.get(str(error.filename), os.fspath(finals[-1]) if error.filename is None else error.filename)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(written: list[tuple[Path, Path]], folder: Path) -> None:
    """Give drafts their final names; when one fails, those before it are taken back."""
    kept = {}
    for number, (_, final) in enumerate(written):
        with suppress(OSError):  # there is none; or the file system has no links, and what was there cannot be put back
            os.link(final, folder / f"{number}.before")
            kept[final] = folder / f"{number}.before"
    taken: list[Path] = []
    try:
        for draft, final in written:
            there = final.exists()
            os.replace(draft, final)
            taken += [final] if final in kept or not there else []
    except BaseException:
        for final in taken:
            os.replace(kept[final], final) if final in kept else final.unlink()
        raise


def _settle(draft: Path) -> None:
    """The bytes are on disk, and whoever may read new files may read them: some writers make files that only their owner can read."""
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.chmod(0o666 & ~_umask())


def _umask() -> int:
    umask = os.umask(0o022)  # it can only be read by setting it
    os.umask(umask)
    return umask
