"""Which tensors of an ONNX graph are weights, under which name and in which layout.

Exporters hand a weight to its layer through other nodes: tf2onnx transposes kernels, torch stores
equal tensors once and names the others by an Identity, Paddle writes Constant nodes. `Graph`
follows initializers and constants through nodes that only move numbers; whatever a layer gets in
the end is the weight, under the name of the initializer that it began as.

Source: `onnx.proto` of onnx 1.23, docs/Operators.md. Field numbers:

    NodeProto       input 1, output 2, name 3, op_type 4, attribute 5, domain 7
    AttributeProto  name 1, f 2, i 3, t 5, floats 7, ints 8, sparse_tensor 22
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from segtwin_weights.door import SLACK
from segtwin_weights.formats import wire
from segtwin_weights.hub import WeightsError, at_most
from segtwin_weights.mappings.names import identify
from segtwin_weights.notes import note

MOVES = ("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
"""Nodes that are followed. What they do to numbers is what numpy does, so a chain of them is an
array."""
CASTS = {1: np.float32, 10: np.float16, 11: np.float64}
LAYERS = {"Conv": ("weight", "bias"), "ConvTranspose": ("weight", "bias"), "Gemm": ("weight", "bias"),
          "BatchNormalization": ("weight", "bias", "mean", "variance")}  # fmt: skip
"""Nodes that take weights in slots 1, 2, …; what they are."""
SETTINGS = {
    "Resize", "Upsample", "Pad", "Clip", "Slice", "Expand", "Tile", "Range", "OneHot", "TopK", "Pow",
    "ConstantOfShape", "NonMaxSuppression",
    "RoiAlign", "MaxRoiPool", "Dropout", "Equal", "Greater", "Less", "QuantizeLinear",
}  # fmt: skip
"""Nodes whose constants say how, and are no weights."""
BROADCAST = {"Add", "Sub", "Mul", "Div", "PRelu"}
"""Nodes that take a vector as C×1×1: its shape is the vector's, as it was stored."""
UNNAMED = re.compile(r"\d+|onnx::.*|/.*|(Constant|Identity|const|node|val)(_.*|\d*)", re.IGNORECASE)
"""Names that exporters count up."""
SMALL = {"int8", "uint8", "int4", "uint4", "int2", "uint2", "float4", "float8"}
QUANTISED = re.compile("Cast|Dequantize|Integer|QLinear|MatMulNBits|microsoft")
"""Kinds of nodes that take weights of few bits."""
MOST_TIMES = 2
"""Bytes of moved weights, in bytes of those that lie in the file: a Cast doubles them. So it is
with copies that only lay them out anew."""
MOST_NAMED = 8
"""Bytes of weights by all of their names, in bytes of those that lie in the file: tensors that are
equal are stored once, and a Cast doubles them."""


class Node(NamedTuple):
    """One node; of its attributes those of `node`."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str
    attributes: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind} {self.name or ', '.join(self.outputs[:1])!r}"


class Value(NamedTuple):
    """A constant tensor."""

    root: str
    """The initializer or constant that it began as."""
    array: np.ndarray | None
    """None: of a type that numpy has not."""
    type: str
    moves: tuple[str, ...] = ()
    """Kinds of nodes that it went through, each once."""


class Use(NamedTuple):
    """A node that takes a tensor for what it is."""

    node: Node
    slot: int


def node(reader: wire.Reader, data: memoryview) -> Node:
    """A NodeProto; numbers of its attributes as numbers, tensors as their bytes."""
    lists: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: [], 7: []}
    attributes: dict[str, Any] = {}
    for number, _, value in reader.fields(data):
        if number in lists and isinstance(value, memoryview):
            lists[number].append(str(value, "utf-8"))
        elif number == 5 and isinstance(value, memoryview):
            name, content = _attribute(reader, value)
            attributes[name] = content
    kind = "".join(lists[4][-1:])
    if "".join(lists[7][-1:]) not in ("", "ai.onnx"):
        kind = f"{lists[7][-1]}.{kind}"
    return Node(kind, tuple(lists[1]), tuple(lists[2]), "".join(lists[3][-1:]), attributes)


def _attribute(reader: wire.Reader, data: memoryview) -> tuple[str, Any]:
    name = ""
    content: Any = None
    ints: list[int] = []
    floats: list[np.ndarray] = []
    for number, kind, value in reader.fields(data):
        if number == 1 and isinstance(value, memoryview):
            name = str(value, "utf-8")
        elif number == 3 and isinstance(value, int):
            content = wire.signed(value)
        elif number in (5, 22) and isinstance(value, memoryview):
            content = value
        elif number == 8:
            ints += [wire.signed(value)] if isinstance(value, int) else _varints(reader, value)
        elif number in (2, 7) and isinstance(value, memoryview) and kind in (2, 5):
            floats.append(np.frombuffer(value[: len(value) // 4 * 4], "<f4"))
    return name, ints or (np.concatenate(floats) if floats else content)


def _varints(reader: wire.Reader, data: memoryview) -> list[int]:
    """Integers of an attribute: axes and shapes, no weights; each counts as a field."""
    values, at = [], 0
    while at < len(data):
        value, at = wire.varint(data, at)
        values.append(wire.signed(value))
        reader.count()
    return values


Load = Callable[[memoryview], tuple[np.ndarray | None, str]]


class Graph:
    """Constant tensors of a graph, and what takes them."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.values: dict[str, Value] = {}
        self.uses: dict[str, list[Use]] = {}
        self.moved: set[str] = set()
        """Tensors that a node of `MOVES` took."""
        self.initializers: list[str] = []
        self.made: dict[str, Node] = {}
        """Tensor → the node that computes it."""
        self.layers: list[Node] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.stored = 0
        self.copied = 0
        self.named = 0
        self.laid_out = 0

    def add(self, name: str, array: np.ndarray | None, kind: str) -> None:
        """An initializer.

        Raises:
            WeightsError: there are two of the name.
        """
        if name in self.values:
            raise WeightsError(f"{self.path}: has two initializers {name!r}")
        self.values[name] = Value(name, array, kind)
        self.initializers.append(name)
        self.stored += 0 if array is None else array.nbytes

    def visit(self, node: Node, tensor: Load, sparse: Load) -> None:
        """The next node; nodes stand in the order in which they run."""
        if node.kind == "Constant" and len(node.outputs) == 1:
            self._constant(node, tensor, sparse)
            return
        data = self.values.get(node.inputs[0]) if node.inputs else None
        if node.kind in MOVES and data is not None and data.array is not None and len(node.outputs) == 1:
            moved = self._move(node, data.array)
            if moved is not None:
                self.moved.update(node.inputs)
                self.values[node.outputs[0]] = data._replace(
                    array=moved, moves=data.moves if node.kind in data.moves else (*data.moves, node.kind)
                )
                return
        for slot, name in enumerate(node.inputs):
            self.uses.setdefault(name, []).append(Use(node, slot))
        self.made |= dict.fromkeys(node.outputs, node)
        if node.kind in LAYERS:
            self.layers.append(node)

    def _constant(self, node: Node, tensor: Load, sparse: Load) -> None:
        """Constant has one attribute, whose name says what it is."""
        name = node.outputs[0]
        for key, content in node.attributes.items():
            if isinstance(content, memoryview) and key in ("value", "sparse_value"):
                self.values[name] = Value(name, *(tensor if key == "value" else sparse)(content))
            elif key in ("value_float", "value_floats", "value_int", "value_ints") and content is not None:
                array = np.asarray(content, np.float32 if "float" in key else np.int64)
                self.values[name] = Value(
                    name, array.reshape(() if key in ("value_float", "value_int") else -1), str(array.dtype)
                )
        if name in self.values and (array_or_none := self.values[name].array) is not None:
            self.stored += array_or_none.nbytes

    def _move(self, node: Node, array: np.ndarray) -> np.ndarray | None:
        """What a node of `MOVES` makes of an array; None where that is not known before the graph
        runs."""
        own = node.attributes
        second = self.values.get(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
        if (
            len(node.inputs) > 1
            and node.inputs[1]
            and (second is None or second.array is None or second.array.dtype.kind != "i")
        ):
            return None
        given = (
            None if second is None or second.array is None else [int(value) for value in second.array.reshape(-1)[:64]]
        )
        try:
            if node.kind == "Identity":
                return array
            if node.kind == "Cast":
                to = CASTS.get(int(own.get("to", 0)))
                if to is None or array.dtype.kind != "f":
                    return None
                if array.dtype == to:
                    return array
                self._copies(array.size * np.dtype(to).itemsize)
                return array.astype(to)
            if node.kind == "Transpose":
                return array.transpose(own.get("perm"))
            if node.kind == "Flatten":
                axis = int(own.get("axis", 1))
                rows = int(np.prod(array.shape[:axis], dtype=np.int64))
                return self._reshaped(array, [rows, array.size // max(rows, 1)])
            if node.kind == "Reshape":
                shape = given if given is not None else own.get("shape")
                if shape is None:
                    return None
                if not own.get("allowzero"):
                    shape = [array.shape[i] if size == 0 else size for i, size in enumerate(shape)]
                return self._reshaped(array, shape)
            axes = given if given is not None else own.get("axes")
            if node.kind == "Squeeze":
                return array.squeeze(None if axes is None else tuple(axes))
            return None if axes is None else np.expand_dims(array, tuple(axes))
        except WeightsError:
            raise
        except (ValueError, IndexError, TypeError, OverflowError):
            raise WeightsError(
                f"{self.path}: {node} does not fit its weight of shape {array.shape}; the file is damaged"
            ) from None

    def _reshaped(self, array: np.ndarray, shape: list[int]) -> np.ndarray:
        if not array.flags.c_contiguous:  # numpy may have to copy
            self._copies(array.nbytes)
        return array.reshape(shape)

    def _copies(self, count: int) -> None:
        """Bytes that are about to be copied, as long as all of them stay in proportion to the file."""
        self.copied += count
        if self.copied > MOST_TIMES * self.stored:
            raise WeightsError(f"{self.path}: copies its weights over and over; it was made to fill memory")

    def taken(self, array: np.ndarray) -> None:
        """An array gets a name among the weights; one that does not lie as it should is going to be
        copied."""
        self.named += array.nbytes
        self.laid_out += 0 if array.flags.c_contiguous else array.nbytes
        if self.named > MOST_NAMED * self.stored + SLACK or self.laid_out > MOST_TIMES * self.stored + SLACK:
            raise WeightsError(f"{self.path}: names its weights over and over; it was made to fill memory")


def weights(graph: Graph, wanted: list[str] | None) -> dict[str, np.ndarray]:
    """The weights of a graph by name, each once, contiguous.

    Args:
        graph: its nodes have been visited.
        wanted: names of the network whose export by this project the file is; its tensors of these
            names lie in the hub's layout.

    Raises:
        WeightsError: the weights are quantised, or of a type that numpy has not.
    """
    if wanted is not None:
        stored = {
            name: value.array
            for name in wanted
            if (value := graph.values.get(name)) is not None and value.array is not None
        }
        for one in stored.values():
            graph.taken(one)
        return {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in stored.items()}
    found: dict[str, np.ndarray] = {}
    others: dict[str, np.ndarray] = {}
    initializers = set(graph.initializers)
    constants = set(graph.values) - initializers
    # the file's own before those that come of them
    names = [*graph.initializers, *(name for name in graph.values if name in constants)]
    for name in names:
        value = graph.values[name]
        uses = [
            use
            for use in graph.uses.get(name, [])
            if use.node.kind not in SETTINGS or (use.slot == 0 and use.node.kind != "Range")
        ]
        dead = not graph.uses.get(name) and name not in graph.moved
        # what only a subgraph takes is unused here
        if not uses and not (dead and (name in initializers or value.moves)):
            continue
        _refuse_small(graph, name, value, uses)
        array = value.array
        if array is None or not ((array.dtype.kind == "f" and array.ndim) or name.endswith("num_batches_tracked")):
            continue
        array = _laid_out(graph, value, array, uses)
        graph.taken(array)
        root = name if UNNAMED.fullmatch(value.root) and not UNNAMED.fullmatch(name) else value.root
        if root not in found:
            found[root] = array
        elif not _same(found[root], array) or not UNNAMED.fullmatch(name):
            others[name] = array
    everything = {**others, **found}
    beside = {
        name
        for name in found
        if UNNAMED.fullmatch(name) and {use.node.kind for use in graph.uses.get(name, [])} & BROADCAST
    }
    choices = (everything, found, {name: array for name, array in everything.items() if name not in beside})
    blobs = next((choice for choice in choices if identify(choice)), everything)
    if blobs is choices[2]:
        note(
            f"{graph.path}: left aside: {at_most(beside)}, constants that the graph adds or multiplies with, and "
            "no weights of the network that is "
            "in it; they may be the preparation of its images",
            stacklevel=3,
        )
    _say_computed(graph)
    return {name: np.array(array, order="C", copy=None) for name, array in blobs.items()}


def _same(one: np.ndarray, two: np.ndarray) -> bool:
    return one is two or (one.shape == two.shape and np.array_equal(one, two))


def _laid_out(graph: Graph, value: Value, array: np.ndarray, uses: list[Use]) -> np.ndarray:
    """An array in the hub's layout for the layer that takes it: inner products are O×I, vectors
    have one axis."""
    if not uses:
        return array
    kinds = {use.node.kind for use in uses}
    inputs_first = [
        use.slot == 1
        and (use.node.kind == "MatMul" or (use.node.kind == "Gemm" and not use.node.attributes.get("transB")))
        for use in uses
    ]
    if array.ndim == 2 and all(inputs_first):
        return array.T
    stored = graph.values[value.root].array
    if (
        value.moves
        and kinds <= BROADCAST
        and stored is not None
        and stored.ndim == 1
        and {*value.moves} <= {"Identity", *MOVES[3:]}
    ):
        return stored
    return array


def _refuse_small(graph: Graph, name: str, value: Value, uses: list[Use]) -> None:
    """Refuse weights of few bits, and of types that numpy has not."""
    several = value.array is None or value.array.size > 1
    taken = not uses or any(QUANTISED.search(use.node.kind) or use.node.kind in LAYERS for use in uses)
    if value.type in SMALL and several and taken:
        raise WeightsError(
            f"{graph.path}: is quantised: {name} is {value.type}; give the float model that it was made from, or "
            "run it as it is"
        )
    layer = next((use.node for use in uses if use.node.kind in LAYERS and use.slot), None)
    whole = value.array is not None and value.array.dtype.kind in "iub" and layer is not None
    if whole or (value.array is None and value.type != "string"):
        raise WeightsError(
            f"{graph.path}: {name} is {value.type}{f', in {layer}' if layer else ''}, which weights here are not; "
            "store it as float32"
        )


def _say_computed(graph: Graph) -> None:
    """Warn of layers whose weights are no constants."""
    computed = []
    for layer in graph.layers:
        for name, part in zip(layer.inputs[1:], LAYERS[layer.kind], strict=False):
            if name and name not in graph.values:
                by = f"computed by {graph.made[name]}" if name in graph.made else "an input of the graph"
                computed.append(f"the {part} of {layer} is {by}")
    if computed:
        more = f", and {len(computed) - 1} more" if len(computed) > 1 else ""
        note(f"{graph.path}: {computed[0]}{more}; what goes into it is read as it is stored", stacklevel=4)
