"""How many threads the engines take."""

from __future__ import annotations

import os


def allowed() -> int | None:
    """What OMP_NUM_THREADS says, for engines that would not read it themselves; None where it says nothing.

    torch and OpenMP read the variable. Whoever sets it, for two jobs side by side or for a share of a machine, means
    every engine. It may hold one number a level of nesting (OpenMP 5.2, section 21.1.2): the first one counts. What is
    no such list is ignored, as OpenMP ignores it.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None
