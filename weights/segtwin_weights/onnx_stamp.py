"""What ties an ONNX file to the file of its weights beside it: each states the hash of the weights.

Two files cannot take their names at once. A machine that stops between the two, or somebody who
copies one of them, leaves a graph beside the weights of another export, which often have the same
shapes and would be computed with. Reading the first page is enough to see it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from segtwin_weights.hub import WeightsError

STAMP = b"segtwin: weights of an ONNX file\nsha256 %s\n"
"""How a data file begins, on a page of its own: the hash of what follows. The graph states the same
one, so that the two know each other."""


def folder_of(path: str | os.PathLike[str], name: str) -> Path:
    """Where a graph's other file lies: beside the name that is given, as ONNX Runtime has it; or,
    where that is a link, beside what it leads to."""
    folder = Path(path).parent.resolve()
    return folder if (folder / name).exists() else Path(path).resolve().parent


def check_data(
    path: str | os.PathLike[str], facts: Mapping[str, Any], opened: Mapping[Path, BinaryIO] | None = None
) -> None:
    """Compare the stamp of the weights beside a graph with the one that the graph states: they are
    of one export. Older exports state none.

    Args:
        path: the .onnx file.
        facts: its metadata, values as they are or as JSON.
        opened: files beside it from which weights were read: it is these that are looked at,
            whatever has their names now.

    Raises:
        WeightsError: the weights are of another export, or not there.
        OSError: they cannot be read.
    """
    stated = facts.get("external_data")
    if isinstance(stated, str):
        try:
            stated = json.loads(stated)
        except (ValueError, RecursionError):
            stated = {}
    if stated is None:
        return
    name, digest = (stated.get("file"), stated.get("sha256")) if isinstance(stated, dict) else (None, None)
    if (
        not (isinstance(name, str) and isinstance(digest, str))
        or name != os.path.basename(name)
        or name in ("", ".", "..")
        or "\0" in name
    ):
        raise WeightsError(f"{path}: what it states of its weights' file is damaged; export it again")
    wanted = STAMP % digest.encode("utf-8", "replace")
    beside = folder_of(path, name) / name
    try:
        if (file := (opened or {}).get(beside.resolve())) is not None:
            file.seek(0)
            found = file.read(len(wanted))
        else:
            regular = stat.S_ISREG(beside.stat().st_mode)
            with open(beside, "rb") if regular else open(os.devnull, "rb") as file:
                found = file.read(len(wanted))
    except FileNotFoundError:
        raise WeightsError(
            f"{path}: its weights are in {name}, which is not beside it; copy both, or export it again"
        ) from None
    if found != wanted:
        raise WeightsError(
            f"{path}: {name} beside it is of another export, or only one of the two files was written; export it again"
        )
