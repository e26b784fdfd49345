"""What a network needs of memory for an image of some size, and what there is: told before it is
spent.

An image's size is in its first bytes: a file of a few kilobytes may state 100,000 × 100,000 pixels,
and an honest satellite image may do the same. The system kills a process that takes more memory
than there is, without a word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segtwin.architectures import Architecture

FLOAT32 = 4


def of_blobs(
    architecture: Architecture,
    height: int,
    width: int,
    num_classes: int | None = None,
    in_channels: int | None = None,
    widths: Iterable[int] | None = None,
    every: bool = False,
) -> int:
    """Bytes of the blobs that are in memory at the same time, float32, for one image of height ×
    width.

    A blob is dropped after the last layer that reads it, as a framework does. It is less than what
    an engine takes: each of them has working space of its own besides.

    Args:
        architecture: a network.
        height: rows of the image, a legal size.
        width: its columns.
        num_classes: by default the architecture's own.
        in_channels: likewise.
        widths: likewise.
        every: all blobs are kept, as `blobs` does.
    """
    channels = architecture.channels(num_classes, widths, in_channels)
    shapes = architecture.shapes(height, width, every_layer=True)
    size = {name: FLOAT32 * channels[name] * math.prod(shape[1:]) for name, shape in shapes.items()}
    if every:
        return sum(size.values())
    last = {bottom: number for number, layer in enumerate(architecture.layers) for bottom in layer.bottoms}
    last[architecture.output] = len(architecture.layers)
    alive, most = {architecture.input}, 0
    for number, layer in enumerate(architecture.layers):
        alive.add(layer.name)
        most = max(most, sum(size[name] for name in alive))
        alive = {name for name in alive if last.get(name, -1) > number}
    return most


def free() -> int | None:
    """Bytes that this process can still take: the system's, within its own limits; None where the
    system does not say."""
    found = []
    with suppress(OSError):
        told = dict(re.findall(r"(MemAvailable|SwapFree):\s+(\d+) kB", Path("/proc/meminfo").read_text()))
        if "MemAvailable" in told:
            found.append(1024 * sum(map(int, told.values())))
    for limit, used in CGROUPS:
        with suppress(OSError, ValueError):  # none, or "max"
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
    with suppress(ImportError, OSError, ValueError):
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            found.append(most - resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0]))
    return max(min(found), 0) if found else None


CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Where the limit of a container is, and what it has taken: version 2 of Linux's control groups,
and version 1."""


def gigabytes(count: int) -> str:
    """ "2.3 GB" """
    return f"{count / 1e9:.1f} GB"
