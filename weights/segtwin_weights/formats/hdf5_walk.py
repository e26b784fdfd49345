"""Walks HDF5 files in a process of its own, as a reader would, so that a file on which HDF5's C
code never returns, crashes or takes all memory does so here. A script that imports nothing of this
project: `hdf5_guard` starts it, sends a line of JSON for each file and reads one back.

    → {"sys.path": […], "names": []}                                          once
    ← {"ready": true}
    → {"path": "…", "offset": 0, "size": N, "most": bytes, "seconds": N}
    ← {"error": null} or {"error": "OSError: …", "memory": false}

Every group, link, attribute and data set is opened, every chunk decoded. Numbers that lie in the
file in one piece are left to the reader: HDF5 only copies them. What a reader refuses anyhow
(links, external and virtual data, other filters, more numbers than the file can hold) is passed
over. Linux' limits of memory and processor time hold for this process alone, and are set anew for
each file.
"""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any

if __name__ == "__main__":
    sys.path[:] = json.loads(sys.stdin.buffer.readline())["sys.path"]  # where the starting process finds h5py

import h5py
import numpy as np

try:
    import resource
except ImportError:  # Windows: the time-out of the starting process alone
    resource = None  # type: ignore[assignment]

MOST_OBJECTS = 100_000
DEEPEST = 16
MOST_CHUNKS = 10_000
"""That are decoded one by one; a data set of more has small ones, and is read at once, as the
reader does."""
FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
"""What is decoded; the reader refuses the rest, which would load a plug-in."""
PASSED = (TypeError, UnicodeError, NotImplementedError)
"""h5py's own, in Python, on types that numpy has not: nothing of the file's structure, and the
reader meets the same where it asks for the value."""


class Part(io.RawIOBase):
    """A run of bytes of a file, as a file: a member of a zip archive that is stored as it is."""

    def __init__(self, path: str, offset: int, size: int) -> None:
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by `close`
        self.offset, self.size, self.at = offset, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place of the part."""
        at = offset + (0, self.at, self.size)[whence]
        if at < 0:
            raise ValueError("a place before the beginning")
        self.at = at
        return at

    def tell(self) -> int:
        """The place of the next byte."""
        return self.at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with what comes next, as far as there is some."""
        view = memoryview(buffer).cast("B")
        self.file.seek(self.offset + self.at)
        count = self.file.readinto(view[: max(min(len(view), self.size - self.at), 0)]) or 0
        self.at += count
        return count

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        super().close()


def walk(file: Any, most: int) -> None:
    """Everything of a file.

    Args:
        file: opened by h5py.
        most: bytes of numbers beyond which a data set is not decoded.
    """
    attributes(file)
    seen: set[int] = set()
    pending: list[tuple[int, Any]] = [(0, file)]
    while pending:
        depth, group = pending.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen or len(seen) > MOST_OBJECTS:
                continue
            seen.add(address)
            attributes(item)
            if isinstance(item, h5py.Group) and depth < DEEPEST:
                pending.append((depth + 1, item))
            elif isinstance(item, h5py.Dataset):
                try:
                    numbers(item, most)
                except PASSED:
                    continue


def attributes(item: Any) -> None:
    """Every attribute of a group or data set."""
    names = list(item.attrs)
    for name in names:
        try:
            item.attrs[name]
        except PASSED:
            continue


def numbers(item: Any, most: int) -> None:
    """The chunks of a data set, one by one."""
    if item.dtype.kind not in "fiu" or item.shape is None:
        return
    plist = item.id.get_create_plist()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if (
        item.external
        or item.is_virtual
        or not set(filters) <= set(FILTERS)
        or item.size * item.dtype.itemsize > most
        or not item.size
    ):
        return
    if plist.get_layout() == h5py.h5d.CONTIGUOUS:
        item[(0,) * item.ndim]
        item[(-1,) * item.ndim]
    elif plist.get_layout() == h5py.h5d.COMPACT or item.size // int(np.prod(item.chunks)) > MOST_CHUNKS:
        item[()]
    else:
        for piece in item.iter_chunks():
            item[tuple(one.start for one in piece)]  # the whole chunk is decoded for one number of it


def confined(most: int, seconds: int) -> None:
    """Limits of this process for one file: memory beyond what it has now, and processor time."""
    if resource is None:
        return
    raised = {resource.RLIMIT_CPU: int(sum(os.times()[:2])) + 1 + seconds}
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm", encoding="ascii") as file:
            raised[resource.RLIMIT_AS] = int(file.read().split()[0]) * resource.getpagesize() + most
    for limit, value in raised.items():
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """What becomes of one file."""
    confined(asked["memory"], asked["seconds"])
    try:
        if asked["offset"] is None:
            with h5py.File(asked["path"], "r") as file:
                walk(file, asked["most"])
        else:
            with Part(asked["path"], asked["offset"], asked["size"]) as part, h5py.File(part, "r") as file:
                walk(file, asked["most"])
    except Exception as error:
        text = " ".join(str(error).split())
        memory = isinstance(error, MemoryError) or "alloc" in text
        return {
            "error": f"{type(error).__name__}: {text}"[:400],
            "memory": memory,
            "errno": getattr(error, "errno", None),
        }
    return {"error": None}


def main() -> None:
    """Answer until the starting process has gone."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)  # nothing that a library prints is an answer
    with h5py.File(io.BytesIO(), "w") as file:  # what is loaded at the first use is loaded before memory is counted
        file.create_dataset("a", data=np.zeros(64, "f4"), chunks=(32,), compression="gzip", shuffle=True).attrs["b"] = [
            "c"
        ]
        walk(file, 1 << 20)
    out.write(b'{"ready": true}\n')
    for line in sys.stdin.buffer:
        out.write(json.dumps(answer(json.loads(line))).encode() + b"\n")


if __name__ == "__main__":
    main()
