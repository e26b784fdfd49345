"""Starting TensorFlow without what it prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


@contextmanager
def quiet_start() -> Iterator[None]:
    """TensorFlow says on standard error which libraries of a GPU it lacks, before its own log level
    holds; said only when the import fails. Afterwards it logs nothing, unless its user set another level."""
    import tempfile

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if sys.stderr is None:  # closed
        yield
        return
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


class QuietTensorFlow(MetaPathFinder):
    """Lets whoever imports TensorFlow first start it quietly."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """TensorFlow where the other finders find it; nothing else."""
        others = [finder for finder in sys.meta_path if finder is not self] if name == "tensorflow" else []
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            start = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with quiet_start():
                    start(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def tensorflow_starts_quietly() -> None:
    """From now on in this process, whatever imports it."""
    if not any(isinstance(finder, QuietTensorFlow) for finder in sys.meta_path):
        sys.meta_path.insert(0, QuietTensorFlow())
