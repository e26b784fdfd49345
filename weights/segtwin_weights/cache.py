"""Where downloads, and what is made of weights once, are kept."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """`SEGTWIN_CACHE`, or where the platform puts caches."""
    return Path(os.environ.get("SEGTWIN_CACHE") or platformdirs.user_cache_path("segtwin"))
