"""Rows and columns that see padding alone, left out of an ONNX graph and put back by repetition.

What is left out is `segtwin.geometry.dead_zones`. The blobs from the last repetition on are whole, and keep
their names. One before it is smaller than the network's, and has a name that says so; `whole` makes the
network's blob of it, by what the file's metadata say under `KEY`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper
from segtwin.architectures import Architecture
from segtwin.geometry import Repeat

from segtwin_weights.from_table import INNER

KEY = "left_out"
"""Of the metadata: blob → (row, times) as JSON."""
MOST = 1000
"""Rows: ten times what any network here leaves out."""


def leave_out(skeleton: onnx.ModelProto, architecture: Architecture) -> dict[str, tuple[int, int]]:
    """Compute an FCN's first blocks on a smaller canvas; other networks stay as they are.

    Args:
        skeleton: its values have the names of the blobs; changed in place.
        architecture: what it computes.

    Returns:
        For the metadata: blob → (row, times), those that are not whole.

    Raises:
        NotImplementedError: the first convolution does not pad by what the architecture says.
    """
    zones = architecture.dead_zones
    if zones is None:
        return {}
    graph = skeleton.graph
    first = next(node for node in graph.node if node.input[0] == graph.input[0].name and node.op_type == "Conv")
    pads = next(attribute for attribute in first.attribute if attribute.name == "pads")
    if set(pads.ints) != {architecture.layers[0].pad}:
        raise NotImplementedError(f"{architecture.name}: {first.output[0]} pads by {list(pads.ints)}")
    pads.ints[:] = [zones.pad] * 4
    inner = {blob: blob + INNER for blob in zones.left_out}
    for node in graph.node:
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner.get(name, name) for name in node.output]
    for pooling, repeat in zones.repeats.items():
        top = inner.get(pooling, pooling)
        place = next(i for i, node in enumerate(graph.node) if node.output[0] == top)
        graph.node[place].output[0] = f"{pooling}_once"
        nodes, constants = repetition(f"{pooling}_once", top, repeat, pooling)
        for node in reversed(nodes):
            graph.node.insert(place + 1, node)
        graph.initializer.extend(constants)
    return {blob: (repeat.row, repeat.times) for blob, repeat in zones.left_out.items()}


def repetition(bottom: str, top: str, repeat: Repeat, name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Rows, then columns: cut into five pieces, and put together with the second and the fourth, one row each,
    repeated."""
    row, times = repeat
    ends = np.iinfo(np.int64).max
    cuts = {
        "before": (0, row),
        "first": (row, row + 1),
        "between": (row, -row if row else ends),
        "last": (-row - 1, -row if row else ends),
        "after": (-row, ends),
    }
    nodes, constants = [], []

    def constant(what: str, value: int) -> str:
        constants.append(numpy_helper.from_array(np.array([value], np.int64), f"{name} {what}"))
        return constants[-1].name

    bounds = {
        what: (constant(f"{what} start", start), constant(f"{what} end", end)) for what, (start, end) in cuts.items()
    }
    for axis, whole in (("rows", f"{name}_rows"), ("columns", top)):
        along = constant(axis, 2 if axis == "rows" else 3)
        pieces = {}
        for what, (start, end) in bounds.items():
            if row or what not in ("before", "after"):
                pieces[what] = f"{name}_{what}_{axis}"
                nodes.append(helper.make_node("Slice", [bottom, start, end, along], [pieces[what]]))
        parts = [part for what, part in pieces.items() for part in [part] * (times if what in ("first", "last") else 1)]
        nodes.append(helper.make_node("Concat", parts, [whole], axis=2 if axis == "rows" else 3))
        bottom = whole
    return nodes, constants


def held(names: Iterable[str], model: onnx.ModelProto) -> dict[str, tuple[str, Repeat | None]]:
    """Blobs of these names that a graph has → the value, and what makes it whole where it is not.

    Raises:
        ValueError: what the file says of itself cannot be.
    """
    computed = {value for node in model.graph.node for value in node.output}
    inner = stated(model)
    found: dict[str, tuple[str, Repeat | None]] = {}
    for name in names:
        if name in computed:
            found[name] = name, None
        elif name in inner and name + INNER in computed:
            found[name] = name + INNER, inner[name]
    return found


def whole(held: Mapping[str, tuple[str, Repeat | None]], values: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """The network's blobs, from the values of `held` in its order."""
    return {
        name: repeat.whole(value) if repeat else value
        for (name, (_, repeat)), value in zip(held.items(), values, strict=True)
    }


def stated(model: onnx.ModelProto) -> dict[str, Repeat]:
    """Blob that a file says it computes without what it left out → what makes it whole.

    Raises:
        ValueError: what it says cannot be.
    """
    text = next((entry.value for entry in model.metadata_props if entry.key == KEY), "{}")
    try:
        found = {str(blob): Repeat(int(row), int(times)) for blob, (row, times) in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        found = {"": Repeat(-1, 0)}
    if any(not (0 <= row < MOST and 0 < times < MOST) for row, times in found.values()):
        raise ValueError(f"the metadata's {KEY} is damaged; export the file again")
    return found
