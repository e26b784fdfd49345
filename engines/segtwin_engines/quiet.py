"""Starting TensorFlow without what it prints."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_start() -> Iterator[None]:
    """TensorFlow says on standard error which libraries of a GPU it lacks, before its own log level
    can be set; said only when the import fails."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with tempfile.TemporaryFile() as chatter:
            os.dup2(chatter.fileno(), 2)
            try:
                yield
            except BaseException:
                chatter.seek(0)
                os.write(stderr, chatter.read())
                raise
            finally:
                os.dup2(stderr, 2)
    finally:
        os.close(stderr)
