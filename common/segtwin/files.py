"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
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
        descriptor = os.open(draft, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.chmod(0o666 & ~_umask())  # some writers make files that only their owner can read
        os.replace(draft, final)
    except OSError as error:
        if error.filename in (None, os.fspath(draft)):
            error.filename = os.fspath(final)  # the name that the user knows
        raise
    finally:
        draft.unlink(missing_ok=True)


def _umask() -> int:
    umask = os.umask(0o022)  # it can only be read by setting it
    os.umask(umask)
    return umask
