"""Which engine `segtwin bench` found the fastest for a network, on this processor and with these versions."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from segtwin.files import whole
from segtwin_weights.cache import cache_folder

from segtwin_engines.facts import machine, versions
from segtwin_engines.installed import available_engines


def measured_file() -> Path:
    """Where the fastest engine of each network is kept, for this processor and these versions."""
    return cache_folder() / "fastest.json"


def key() -> str:
    """This processor and the versions that are installed: another of either is measured anew."""
    used = [engine for engine in available_engines() if engine != "oracle"]
    here = machine()
    return json.dumps([here["processor"], here.get("instructions", ""), os.cpu_count(), versions(used)], sort_keys=True)


def keep(network: str, engine: str) -> None:
    """Remember an engine for a network. What cannot be written is not remembered."""
    kept = known()
    kept.setdefault(key(), {})[network] = engine
    with suppress(OSError), whole(measured_file(), replace=True) as draft:
        draft.write_text(json.dumps(kept, indent=1), encoding="utf-8")


def known() -> dict[str, dict[str, str]]:
    """What was measured before; nothing where the file is missing or damaged."""
    try:
        found = json.loads(measured_file().read_text(encoding="utf-8"))
        return {str(one): {str(k): str(v) for k, v in engines.items()} for one, engines in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def fastest(network: str) -> str | None:
    """The engine that `segtwin bench` found the fastest for a network here; None where it was not measured."""
    if not measured_file().exists():
        return None
    engine = known().get(key(), {}).get(network)
    return engine if engine in available_engines() else None
