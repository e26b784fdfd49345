"""Weights prepared once: what an engine makes of a file is kept in the cache, and the next start reads neither the
file nor any framework.

What is kept belongs to one state of one file: it is found by the file's place, size and times, the last of which is
the system's own (ctime) and moves with every change. It belongs to this program, too, as its source is, to the
version of the engine and to the processor: another makes it anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import segtwin
import segtwin_weights
from segtwin import Architecture
from segtwin.architectures import get_architecture
from segtwin.errors import WeightsError
from segtwin_weights import Dimensions, Weights
from segtwin_weights.cache import cache_folder

FACTS, PARTS = "facts.json", "parts.json"
ENGINES = {"onnxruntime": "mapped", "ncnn": "ncnn"}
"""Engines that have something to keep → the module with `write`, `finish` and `open_prepared`."""
MOST_BYTES, MOST_FILES = 4_000_000_000, 64
"""Of what is kept, in all; what was not used for the longest time goes first."""
ABANDONED = 86_400.0
"""Seconds after which a draft is nobody's any more."""

Scores = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Prepared:
    """What is kept of a file of weights."""

    folder: Path
    architecture: Architecture
    size: Dimensions
    metadata: dict[str, Any]
    """Of the weights."""
    notes: Sequence[str] = ()
    """What reading the file had to say, and every start says."""

    def text(self) -> str:
        """As it is kept."""
        size = {**self.size._asdict(), "widths": list(self.size.widths)}
        facts = {"network": self.architecture.name, "size": size, "metadata": self.metadata, "notes": list(self.notes)}
        return json.dumps({**facts, "sha256": digest(facts)})

    def of(self, engine: str) -> Path:
        """Where an engine's part is, whether it is there or not."""
        return self.folder / f"{engine}-{version(engine)}-{processor()}"

    def open(self, engine: str) -> Scores | None:
        """The scores of an engine's part; None where there is none, or where it was changed."""
        if engine not in ENGINES:
            return None
        folder = self.of(engine)
        try:
            known = json.loads((folder / PARTS).read_text(encoding="utf-8"))
            if known != parts(folder):
                raise ValueError(f"{folder}: was changed")
            os.utime(self.folder / FACTS)
            found: Scores = import_module(f"segtwin_engines.{ENGINES[engine]}").open_prepared(folder, self.architecture)
        except FileNotFoundError:
            return None
        except Exception:  # the engines' own errors have no class in common; it is made again
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return found


def find(folder: Path | None) -> Prepared | None:
    """What is kept in the `place` of a file; None where that is nothing."""
    if folder is None:
        return None
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if facts.pop("sha256") != digest(facts):
            return None
        size = Dimensions(**{**facts["size"], "widths": tuple(facts["size"]["widths"])})
        return Prepared(folder, get_architecture(facts["network"]), size, facts["metadata"], facts["notes"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


@dataclass(frozen=True)
class Draft:
    """Something to keep that has been written and is not finished: its weights can be let go."""

    prepared: Prepared
    engine: str
    folder: Path

    def finish(self) -> Prepared | None:
        """Keep it; None where that fails."""
        place = self.prepared.folder
        try:
            import_module(f"segtwin_engines.{ENGINES[self.engine]}").finish(self.folder)
            (self.folder / PARTS).write_text(json.dumps(parts(self.folder)), encoding="utf-8")
            with suppress(OSError):  # another process was first
                os.rename(self.folder, self.prepared.of(self.engine))
            facts = place / f"{self.folder.name}.json"
            facts.write_text(self.prepared.text(), encoding="utf-8")
            os.replace(facts, place / FACTS)
        except Exception:  # no room, most often; the engines' own errors have no class in common
            return None
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        prune(place)
        return self.prepared


def write(folder: Path, engine: str, weights: Weights, network: str, notes: Sequence[str] = ()) -> Draft | None:
    """Write what an engine prepares weights from; None where it cannot be kept.

    Args:
        folder: `place` of the file, as it was before the weights were read.
        engine: of `ENGINES`.
        weights: what the file holds, under the hub's names.
        network: that they are of.
        notes: what reading it had to say.

    Raises:
        WeightsError: the engine cannot run the network.
    """
    architecture = get_architecture(network)
    size = segtwin_weights.dimensions(weights, architecture)
    prepared = Prepared(folder, architecture, size, dict(weights.metadata), tuple(notes))
    draft = None
    try:
        if json.loads(prepared.text())["metadata"] != prepared.metadata:  # it would be another at the next start
            return None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder))
        import_module(f"segtwin_engines.{ENGINES[engine]}").write(weights, architecture, draft)
    except (OSError, TypeError, ValueError) as error:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, WeightsError):
            raise
        return None
    return Draft(prepared, engine, draft)


def digest(facts: dict[str, Any]) -> str:
    """Hash of what is kept beside the parts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def parts(folder: Path) -> dict[str, list[int]]:
    """Name of each file → its size and when it was changed last: by its own time, and by the system's, which nobody
    sets."""
    states = {file.name: file.stat() for file in folder.iterdir() if file.name != PARTS}
    return {name: [state.st_size, state.st_mtime_ns, state.st_ctime_ns] for name, state in states.items()}


def place(path: str | os.PathLike[str], network: str | None) -> Path | None:
    """The folder of one state of one file; None for what is no file, or one of several that belong together."""
    try:
        full = os.path.realpath(path)
        with open(full, "rb") if os.path.isfile(full) else open(os.devnull, "rb") as file:
            state = os.fstat(file.fileno())
            head = file.read(9)
            if not head or (head.lstrip()[:1] == b"{" and head[8:] != b"{"):  # none, or the index of shards
                return None
        if segtwin_weights.file_kind(full) == "tensorflow":
            return None
    except (OSError, ValueError):
        return None
    where = (full, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    text = json.dumps([*map(str, where), network, segtwin.__version__, program()])
    return cache_folder() / "prepared" / hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


@cache
def program() -> str:
    """Hash of the source that reads weights and writes what is kept."""
    digest = hashlib.sha256()
    own, common = Path(__file__).parent, Path(segtwin.__file__).parent
    files = [*Path(segtwin_weights.__file__).parent.rglob("*.py"), *(common / "architectures").glob("*.py")]
    files += [common / "geometry.py", common / "layer_kinds.py", *(own / f"{name}.py" for name in ENGINES.values())]
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def processor() -> str:
    """Hash of what decides the order of the weights: the processor's name and instructions."""
    told = [platform.machine(), platform.processor()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
        told += [line for line in lines if line.startswith(("model", "flags", "Features", "CPU"))]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]


def prune(keeping: Path) -> None:
    """Remove what was not used for the longest time, as far as there is too much, and drafts that nobody writes."""
    now = time.time()
    for draft in keeping.parent.glob("*/.draft-*"):
        with suppress(OSError):
            if now - draft.stat().st_mtime > ABANDONED:
                shutil.rmtree(draft, ignore_errors=True) if draft.is_dir() else draft.unlink()
    folders = sorted((folder for folder in keeping.parent.iterdir() if folder != keeping), key=used, reverse=True)
    total = weight(keeping)
    for count, folder in enumerate(folders, start=2):
        total += weight(folder)
        if count > MOST_FILES or total > MOST_BYTES:
            shutil.rmtree(folder, ignore_errors=True)


def used(folder: Path) -> float:
    """When it was used last; long ago where nothing says so."""
    try:
        return (folder / FACTS).stat().st_mtime
    except OSError:
        return 0.0


def weight(folder: Path) -> int:
    """Bytes in a folder."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total
