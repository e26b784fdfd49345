"""HDF5, read so that nothing in a file leads out of it: links, external and virtual data sets are
refused, and filters that would load a plug-in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from segtwin.errors import WeightsError

from segtwin_weights.formats import hdf5_guard

if TYPE_CHECKING:
    import h5py

MOST_OBJECTS = 100_000
DEEPEST = 16


@contextmanager
def opened(path: str | os.PathLike[str], part: tuple[int, int] | None = None) -> Iterator[h5py.File]:
    """An HDF5 file, after another process has walked it to its end.

    Args:
        path: the file.
        part: where the HDF5 file is a run of bytes of it: its first byte, and how many there are.

    Raises:
        WeightsError: HDF5 cannot read it, does not come to an end, crashes, or takes too much
            memory.
        OSError: it cannot be read.
    """
    hdf5_guard.walk(path, part)
    import h5py

    from segtwin_weights.formats.hdf5_walk import Part

    with ExitStack() as stack:
        yield stack.enter_context(h5py.File(stack.enter_context(Part(os.fspath(path), *part)) if part else path, "r"))


def group() -> type:
    """`h5py.Group`; h5py is loaded when a file of its kind is."""
    import h5py

    return h5py.Group


def inside(parent: h5py.Group, name: str) -> Any:
    """A member of a group; None where there is none, or only a link to another place."""
    import h5py

    return parent[name] if isinstance(parent.get(name, getlink=True), h5py.HardLink) else None


def natural(name: str) -> list[Any]:
    """layer_2 comes before layer_10."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def objects(path: object, root: h5py.Group) -> Iterator[tuple[str, Any]]:
    """(path, group or data set) of everything under a group, every object once. Nothing that leads
    out of the file is followed."""
    import h5py

    seen: set[int] = set()
    pending = [("", root)]
    while pending:
        prefix, group = pending.pop()
        for name in group:
            link = group.get(name, getlink=True)
            where = f"{prefix}{name}"
            if not isinstance(link, h5py.HardLink):
                raise WeightsError(
                    f"{path}: {where} is a link ({type(link).__name__}), as no files of weights have; do not trust "
                    "this file"
                )
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen or len(seen) > MOST_OBJECTS or where.count("/") > DEEPEST:
                raise WeightsError(f"{path}: {where} is there twice, or one of too many; do not trust this file")
            seen.add(address)
            yield where, item
            if isinstance(item, h5py.Group):
                pending.append((f"{where}/", item))


def check_dataset(path: object, where: str, item: Any) -> None:
    """Refuse what is no array of numbers in the file itself.

    Raises:
        WeightsError: it is not.
    """
    import h5py

    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu":
        raise WeightsError(f"{path}: {where} is no array of numbers; the file is damaged")
    plist = item.id.get_create_plist()
    filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    if (
        item.external
        or item.is_virtual
        or filters - {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
    ):
        raise WeightsError(f"{path}: {where} lies outside the file or needs a plug-in; do not trust this file")


TOO_MANY = (
    "declares more numbers than 3 times its own size holds; it is damaged, made to fill memory, or "
    "compressed so far: save it uncompressed"
)


def numbers(path: object, root: h5py.Group, budget: int) -> Iterator[tuple[str, Any]]:
    """(path, data set) of every array under a group, checked.

    Args:
        path: of the file, for messages.
        root: the group.
        budget: bytes that the arrays may declare, all of them together.

    Raises:
        WeightsError: one is no array of numbers, leads out of the file, or they declare more than
            that.
    """
    for where, item in objects(path, root):
        if not isinstance(item, group()):
            check_dataset(path, where, item)
            budget -= item.size * item.dtype.itemsize
            if budget < 0:
                raise WeightsError(f"{path}: {TOO_MANY}")
            yield where, item
