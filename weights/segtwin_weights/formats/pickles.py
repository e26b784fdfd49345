"""Restricted unpickler for NumPy and torch files; executes nothing.

A pickle is a program for a stack machine, and any function it can name it can call. The machine
here knows the opcodes that data need and no others, and `find_class` answers with the few
constructors that a file of weights needs: inert stand-ins, which note what they were given and read
arrays out of it later. Nothing a pickle names is imported.

Python's own machine in C is not used for two reasons: it lets BUILD set attributes of whatever a
file puts on its stack, our classes included, and it fills a table as long as the largest memo index
that a file claims.

A few bytes of a pickle can ask for many: an empty set is one byte and takes 216, a string that was
named once is encoded again and again. What the objects take is counted before they are made, in one
`Budget` per file; the number of opcodes and the length of integers, names and keys are bounded.
"""

from __future__ import annotations

import codecs
import io
import math
import mmap
import pickle
import struct
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, BinaryIO, NoReturn

import numpy as np

from segtwin_weights import door
from segtwin_weights.door import quoted, shown
from segtwin_weights.hub import WeightsError

MOST_DIMENSIONS = 32
NUMERIC = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")

ROOM = 6 << 20
"""Bytes that may be held whatever the file's size: a small file is mostly names and tables, which
take more room as objects."""
MOST_OPCODES = 4_000_000
"""Of one pickle; as many as the items that are looked at in it (`checkpoints.MOST_ITEMS`), some
seconds. A tensor is told by about 60."""
MOST_INTEGER = 64
"""Bytes of an integer: sizes have 8, torch's magic number 10, the states of random generators 16 to
32."""
MOST_LINE = 4096
"""Characters of a line of protocol 0 that is no string: a number, a memo's index, a module or a
class."""
NO_NETWORK_HERE = {
    (
        "torch._utils",
        "_rebuild_tensor_v3",
    ): "a tensor of a type that numpy has not (float8, or an unsigned integer of more than 8 bits)",
    ("torch._utils", "_rebuild_qtensor"): "a quantised tensor",
    **{
        ("torch", f"{kind}Storage"): "a quantised tensor"
        for kind in ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")
    },
    ("torch._utils", "_rebuild_sparse_tensor"): "a sparse tensor",
    ("torch._utils", "_rebuild_nested_tensor"): "a nested tensor",
}
"""What torch saves that is harmless, and of no network here."""
MOST_NAME = 256
"""Characters of a module's or a class's name, of a storage's key or a type's code."""
MOST_ARGUMENTS = 64
"""Of a constructor, a reference, a shape; torch's own take eight, and a shape has at most 64 sizes
in numpy."""


class Budget(door.Budget):
    """Bytes that may be held for one file of pickles or arrays, spent before they are taken."""

    def __init__(self, path: object, size: int) -> None:
        super().__init__(path, size, slack=ROOM)


class Key:
    """A key of a dict that is no string: an integer, a float or a short tuple, as counters and
    optimisers have.

    Python's own hash of these is no secret, so that a file could choose thousands of equal ones,
    each of which is compared with all others.
    """

    __slots__ = ("hashed", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.hashed = hash(repr(value))  # the hash of strings differs from run to run

    def __hash__(self) -> int:
        return self.hashed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and type(self.value) is type(other.value) and self.value == other.value

    def __str__(self) -> str:
        return str(self.value) if isinstance(self.value, int) else "?"


SMALL_KEYS = 1 << 16
"""Integers below are their own hashes, and too few to be chosen for a place in a table."""


def key(value: Any) -> Any:
    """A key as a dict may have it.

    Strings and bytes; integers of 64 bits, which optimisers count parameters by (torch before 1.6
    by their addresses); None, booleans, floats; classes and numpy's numbers, which are known by
    themselves alone; flat tuples of eight of the first.

    Raises:
        ValueError: it is anything else.
    """
    if (
        type(value) is str
        or type(value) is bytes
        or value is None
        or type(value) is bool
        or isinstance(value, StandIn | StandInText)
    ):
        return value
    if type(value) is int:
        if 0 <= value < SMALL_KEYS:
            return value
        if abs(value) < 1 << 64:
            return Key(value)
        raise ValueError("a key that is an integer of more than 64 bits")
    if type(value) is float:
        return Key(value)
    if type(value) is tuple and len(value) <= 8 and all(_plain(one) for one in value):
        return Key(value)
    raise ValueError(f"a key that is a {type(value).__name__}")


def _plain(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 1 << 64
    if type(value) in (str, bytes):
        return len(value) <= MOST_NAME
    return value is None or type(value) in (bool, float)


class StandInText(str):
    """What stands in for types, devices and storage types: their names."""

    __slots__ = ()


class StandIn:
    """What BUILD may set the state of."""

    __slots__ = ()


class Dtype(StandIn):
    """Stands in for `numpy.dtype`: notes what was asked for."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code[:MOST_NAME].decode("latin1") if isinstance(code, bytes) else code
        self.order: Any = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        self.order = order[:MOST_NAME].decode("latin1") if isinstance(order, bytes) else order

    def numpy(self) -> np.dtype[Any]:
        """The type, when it is one of numbers.

        Raises:
            ValueError: it is not.
        """
        if self.code not in NUMERIC or self.order not in ("<", ">", "=", "|"):
            raise ValueError(f"an array of type {quoted(self.code)}")
        return np.dtype(self.order + self.code)


def dimensions(shape: Any) -> tuple[int, ...]:
    """A shape out of a file.

    Raises:
        ValueError: it is none, or numpy could have no array of it.
    """
    if not isinstance(shape, tuple | list) or not all(type(size) is int for size in shape[:MOST_ARGUMENTS]):
        raise ValueError("a shape that is no list of integers")
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"a shape of {len(shape)} dimensions")
    if not all(0 <= size < 1 << 48 for size in shape):
        raise ValueError("a shape with a negative size, or one beyond every memory")
    # numpy multiplies sizes and strides though one of them is zero
    if math.prod(size for size in shape if size) >= 1 << 56:
        raise ValueError(f"the shape {tuple(shape)}, which is beyond every memory")
    return tuple(shape)


class Array(StandIn):
    """Stands in for `numpy.ndarray` and its two ways of being rebuilt: keeps shape, type and bytes,
    and makes an array of them on demand."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(self) -> None:
        self.shape: Any = ()
        self.dtype: Any = None
        self.data: Any = b""
        self.fortran = False

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("an array whose state is no five things")
        _, self.shape, self.dtype, self.fortran, self.data = state

    @classmethod
    def reconstruct(cls, *_: Any) -> Array:
        """`numpy._core.multiarray._reconstruct(ndarray, (0,), b"b")`; the state follows."""
        return cls()

    @classmethod
    def frombuffer(cls, data: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> Array:
        """`numpy._core.numeric._frombuffer(buffer, dtype, shape, order)`, of pickle protocol 5."""
        array = cls()
        array.data, array.dtype, array.shape, array.fortran = data, dtype, shape, order in ("F", b"F")
        return array

    @classmethod
    def scalar(cls, dtype: Any, data: Any = b"", *_: Any) -> Array:
        """`numpy._core.multiarray.scalar(dtype, bytes)`."""
        return cls.frombuffer(data, dtype, ())

    def item(self) -> Any:
        """The one object of a 0-dimensional array of objects, which np.save makes of a dict; of
        other arrays the array itself."""
        if (
            isinstance(self.dtype, Dtype)
            and self.dtype.code in ("O", "O8", "O4")
            and isinstance(self.data, list)
            and len(self.data) == 1
        ):
            return self.data[0]
        return self

    def array(self) -> np.ndarray:
        """A numpy array over the pickle's own bytes, without a copy.

        Raises:
            ValueError: type, shape and bytes do not fit each other.
        """
        shape = dimensions(self.shape)
        if not isinstance(self.dtype, Dtype) or not isinstance(self.data, bytes | bytearray | memoryview):
            raise ValueError("an array without a type or without bytes")
        flat = np.frombuffer(self.data, self.dtype.numpy()) if len(self.data) else np.empty(0, self.dtype.numpy())
        if flat.size != math.prod(shape):
            raise ValueError(f"{flat.size} numbers for the shape {shape}")
        return flat.reshape(shape, order="F" if self.fortran else "C")


def encode(text: Any, encoding: Any = "latin1") -> bytes:
    """`_codecs.encode`, by which pickle protocols 0 to 2 write bytes: latin1 of a string and
    nothing else."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError(f"_codecs.encode to {quoted(encoding)}")
    return text.encode("latin1")


class Foreign(StandIn):
    """Stands in for a class that no reader needs, and for every object of it: options, counters,
    dates, paths. It holds nothing and runs nothing."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name

    def __setstate__(self, state: Any) -> None:
        """Dropped."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Dropped: items of a subclass of dict."""

    def append(self, value: Any) -> None:
        """Dropped: items of a subclass of list."""

    def extend(self, values: Any) -> None:
        """Dropped: items of a subclass of list."""

    def add(self, value: Any) -> None:
        """Dropped: items of a subclass of set."""


SET = Foreign("a set")
"""Stands in for every set: no weights are in one."""


def make_set(*_: Any) -> Foreign:
    """`set([…])`, of pickle protocols 0 to 2."""
    return SET


class Module(dict[Any, Any]):
    """Stands in for an object of a TorchScript program: its attributes as data."""

    __slots__ = ()


PROGRAM = "__torch__"
"""Where the classes of TorchScript programs are."""
REFUSED_MODULES = frozenset({
    "os", "posix", "nt", "posixpath", "ntpath", "subprocess", "_posixsubprocess", "sys", "importlib", "imp", "runpy",
    "shutil", "socket", "_socket",
    "ctypes", "_ctypes", "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "operator", "_operator", "pty",
    "code", "codeop", "commands",
    "marshal", "multiprocessing", "asyncio", "webbrowser", "pdb", "bdb", "pip", "timeit", "profile", "cProfile",
    "trace", "io", "_io", "urllib",
    "requests", "http", "ftplib", "smtplib", "tempfile", "zipimport", "pkgutil", "pydoc", "doctest", "ensurepip",
    "venv", "platform", "signal",
    "threading", "inspect", "linecache",
})  # fmt: skip
"""What runs programs, opens files or reaches into the interpreter. No training leaves such a thing
in a checkpoint, so the file is not trusted."""
REFUSED_BUILTINS = frozenset({
    "eval", "exec", "execfile", "compile", "open", "file", "getattr", "setattr", "delattr", "hasattr", "__import__",
    "globals", "locals", "vars",
    "dir", "input", "raw_input", "breakpoint", "apply", "reload", "map", "filter", "reduce", "memoryview", "help",
    "exit", "quit", "print",
})  # fmt: skip
REFUSED = frozenset(
    {
        ("functools", "partial"),
        ("functools", "reduce"),
        ("types", "CodeType"),
        ("types", "FunctionType"),
        ("torch", "load"),
    }
)


def refused(module: str, name: str) -> bool:
    """Whether a pickle that names this is not read at all: what could harm, and tensors of kinds
    that no network here is made of."""
    package = module.split(".")[0]
    if (
        package in REFUSED_MODULES
        or (module, name) in REFUSED
        or (package in ("builtins", "__builtin__") and name.split(".")[0] in REFUSED_BUILTINS)
    ):
        return True
    return package == "torch" and (name.startswith("_rebuild") or name.endswith("Storage"))


Constructors = Mapping[tuple[str, str], Any]
NUMPY: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Dtype,
    ("_codecs", "encode"): encode,
}
for _module in ("numpy.core", "numpy._core"):  # the old and the new home of numpy's insides
    NUMPY |= {
        (f"{_module}.multiarray", "_reconstruct"): Array.reconstruct,
        (f"{_module}.multiarray", "scalar"): Array.scalar,
        (f"{_module}.numeric", "_frombuffer"): Array.frombuffer,
    }


LARGE = 1 << 16
"""Bytes from which on a piece of a file is not copied but mapped."""


class Bounded:
    """A file, or bytes, that refuses to hand out more than it has, before memory for it is asked
    for; large pieces are views of the mapped file."""

    def __init__(self, file: BinaryIO | bytes) -> None:
        self.mapped: memoryview | None = None
        if isinstance(file, bytes):
            self.mapped, file = memoryview(file), io.BytesIO(file)
        self.file = file
        at = file.tell()
        self.end = file.seek(0, io.SEEK_END)
        file.seek(at)
        if self.mapped is None:
            try:
                self.mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            except (OSError, ValueError):  # a stream in memory
                self.mapped = None

    def read(self, count: int) -> bytes | memoryview:
        """Exactly `count` bytes."""
        at = self.file.tell()
        if count < 0 or count > self.end - at:
            raise EOFError(f"{count:,} bytes are asked for, {self.end - at:,} are left")
        if self.mapped is None or count < LARGE:
            return self.file.read(count)
        self.file.seek(at + count)
        return self.mapped[at : at + count]

    def readline(self) -> bytes:
        """The rest of the line; protocol 0 writes everything so, arrays too."""
        return self.file.readline()


PurePython: Any = pickle._Unpickler
"""Python's own machine, written in Python."""

PLACE = 10
"""Bytes of a place on the stack or in a list, which grow by an eighth."""
MEMO = 120
"""Bytes of an entry of the memo, its number and the dict's spare places with it."""
ITEM = 110
"""Bytes of an entry of a dict, its spare places with it, while it grows."""
OBJECT = 160
"""Bytes of a stand-in, or of a dict that holds little."""
COSTS = {
    **dict.fromkeys((pickle.EMPTY_LIST, pickle.LIST, pickle.EMPTY_TUPLE, pickle.TUPLE), 72 + PLACE),
    **dict.fromkeys((pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3), 80 + PLACE),
    **dict.fromkeys(
        (pickle.EMPTY_DICT, pickle.DICT, pickle.REDUCE, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.OBJ, pickle.INST),
        OBJECT + PLACE,
    ),
    **dict.fromkeys((pickle.GLOBAL, pickle.STACK_GLOBAL), OBJECT + PLACE),
    **dict.fromkeys((pickle.BINPERSID, pickle.PERSID), 4 * OBJECT),
    **dict.fromkeys((pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE), MEMO),
    pickle.APPEND: 32,
    pickle.MARK: 120,
    **dict.fromkeys((pickle.INT, pickle.BININT, pickle.BININT2, pickle.FLOAT, pickle.BINFLOAT), 32 + PLACE),
    **dict.fromkeys((pickle.LONG, pickle.LONG1, pickle.LONG4), 40 + MOST_INTEGER + PLACE),
    **dict.fromkeys((pickle.POP, pickle.POP_MARK, pickle.BUILD, pickle.SETITEM, pickle.STOP, pickle.PROTO), 0),
}
"""Bytes that an opcode takes beside the text, the bytes or the items that come with it; others take
a place on the stack."""
PRICES = [COSTS.get(bytes([code]), PLACE) for code in range(256)]


COPIED = (str, bytes, bytearray, memoryview, list, tuple, dict)


class Unpickler(PurePython):
    """Builds dicts, lists, tuples, strings, bytes, numbers and stand-ins.

    Args:
        file: where the pickle begins, or the bytes of it.
        budget: of the file that it is in.
        constructors: (module, name) → stand-in.
        persistent: what answers references to objects outside the pickle; without it they are
            refused.
        foreign: objects of other classes become `Foreign`, where they are not `refused`; else none
            of them is read.
    """

    def __init__(
        self,
        file: BinaryIO | bytes,
        budget: Budget,
        constructors: Constructors,
        persistent: Callable[[Any], Any] | None = None,
        foreign: bool = False,
    ) -> None:
        # Python 2's strings are bytes: an array's need no decoding
        super().__init__(Bounded(file), fix_imports=False, encoding="bytes")
        self.path, self.spend = budget.path, budget.spend
        self.constructors, self.persistent, self.foreign = constructors, persistent, foreign
        self.callable = {id(known) for known in constructors.values()}

    def load(self) -> Any:
        """Run the opcodes to the end of the pickle, counting them and what they take.

        Raises:
            WeightsError: they name what no weights need, or take more than the file may.
            ValueError: they are nonsense; so are other errors.
        """
        self._unframer = framed = pickle._Unframer(self._file_read, self._file_readline)  # type: ignore[attr-defined]
        self.read, self.readinto, self.line = framed.read, framed.readinto, framed.readline
        self.metastack: list[list[Any]] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        self.proto = 0
        read, dispatch, prices, spend = self.read, self.dispatch, PRICES, self.spend
        try:
            for _ in range(MOST_OPCODES):
                code = read(1)[0]
                if price := prices[code]:
                    spend(price)
                dispatch[code](self)
        except pickle._Stop as stop:  # type: ignore[attr-defined]
            return stop.value
        raise WeightsError(
            f"{self.path}: has a pickle of more than {MOST_OPCODES:,} steps; save model.state_dict() alone"
        )

    def readline(self) -> bytes:
        """A line that is no string.

        Raises:
            ValueError: it is longer than any.
        """
        line: bytes = self.line()
        if len(line) > MOST_LINE:
            raise ValueError(f"a line of {len(line):,} characters for a number or a name")
        return line

    def read_size(self, layout: str) -> int:
        """The length that comes before some text or bytes."""
        (size,) = struct.unpack(layout, self.read(struct.calcsize(layout)))
        return int(size)

    def text(self, layout: str) -> None:
        """A string in UTF-8; Python keeps it with 1, 2 or 4 bytes a character, as the widest one
        needs."""
        size = self.read_size(layout)
        if size < LARGE:
            string = str(self.read(size), "utf-8", "surrogatepass")
            self.spend(sys.getsizeof(string))
            self.append(string)
            return
        data = self.read(size)
        widest = int(np.frombuffer(data, np.uint8).max())
        self.spend(size * (1 if widest < 0xC4 else 2 if widest < 0xF0 else 4) + OBJECT)
        self.append(str(data, "utf-8", "surrogatepass"))

    def line_of_text(self) -> None:
        """UNICODE, a line of text."""
        line = self.line()
        self.spend(len(line) * (4 if b"\\u" in line or b"\\U" in line else 1) + OBJECT)
        self.append(codecs.raw_unicode_escape_decode(memoryview(line)[:-1])[0])

    def binary(self, layout: str) -> None:
        """Bytes; views of the file where they are many."""
        size = self.read_size(layout)
        self.spend((size if size < LARGE else 0) + OBJECT)
        self.append(self.read(size))

    def string(self) -> None:
        """STRING, a quoted line."""
        line = self.line()
        self.spend(2 * len(line) + OBJECT)
        literal = line[:-1]
        if len(literal) < 2 or literal[:1] not in (b"'", b'"') or literal[-1:] != literal[:1]:
            raise ValueError("a string without its quotes")
        self.append(codecs.escape_decode(literal[1:-1])[0])

    def bytearray8(self) -> None:
        """BYTEARRAY8, whose bytes are read before room is made for them."""
        size = self.read_size("<Q")
        data = self.read(size)
        self.spend(size + OBJECT)
        self.append(bytearray(data))

    def frame(self) -> None:
        """FRAME, which is read at once."""
        size = self.read_size("<Q")
        self.spend(size)
        self._unframer.load_frame(size)

    def integer(self, layout: str) -> None:
        """An integer of some bytes.

        Raises:
            ValueError: it is longer than any that weights need.
        """
        size = self.read_size(layout)
        if not 0 <= size <= MOST_INTEGER:
            raise ValueError(f"an integer of {size:,} bytes")
        self.append(int.from_bytes(self.read(size), "little", signed=True))

    def decimal(self) -> None:
        """INT and LONG, in digits.

        Raises:
            ValueError: they are longer than any integer that weights need.
        """
        line = self.readline()[:-1]
        if len(line) > 3 * MOST_INTEGER:
            raise ValueError(f"an integer of {len(line):,} digits")
        self.append(line == b"01" if line in (b"00", b"01") else int(line.removesuffix(b"L"), 0))

    def empty_set(self) -> None:
        """EMPTY_SET."""
        self.append(SET)

    def frozen_set(self) -> None:
        """FROZENSET."""
        self.pop_mark()
        self.append(SET)

    def long_tuple(self) -> None:
        """TUPLE."""
        items = self.pop_mark()
        self.spend(8 * len(items))
        self.append(tuple(items))

    def full_dict(self) -> None:
        """DICT."""
        items = self.pop_mark()
        self.append({})
        self.set_items(items)

    def setitem(self) -> None:
        """SETITEM."""
        value, name = self.stack.pop(), self.stack.pop()
        self.set_items([name, value])

    def setitems(self) -> None:
        """SETITEMS."""
        self.set_items(self.pop_mark())

    def set_items(self, items: list[Any]) -> None:
        """Keys and values into the dict that lies on the stack."""
        target = self.stack[-1]
        if isinstance(target, Foreign):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError(f"items for a {type(target).__name__}")
        self.spend(ITEM * (len(items) // 2) + OBJECT)
        for at in range(0, len(items), 2):
            if type(items[at]) is not str:
                self.spend(OBJECT)
            target[key(items[at])] = items[at + 1]

    def appends(self) -> None:
        """APPENDS."""
        self.extend(self.pop_mark())

    def append_one(self) -> None:
        """APPEND."""
        self.extend([self.stack.pop()])

    def extend(self, items: list[Any]) -> None:
        """Values onto the list that lies on the stack."""
        target = self.stack[-1]
        if isinstance(target, list):
            self.spend(PLACE * len(items))
            target.extend(items)
        elif not isinstance(target, Foreign):
            raise ValueError(f"items for a {type(target).__name__}")

    def additems(self) -> None:
        """ADDITEMS; what is in sets is no weights."""
        self.pop_mark()
        if not isinstance(self.stack[-1], Foreign):
            raise ValueError(f"items for a {type(self.stack[-1]).__name__}")

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for what the pickle names.

        Raises:
            WeightsError: there is none for it.
        """
        if len(module) + len(name) > MOST_NAME:
            raise ValueError(f"a class with a name of {len(module) + len(name):,} characters")
        try:
            return self.constructors[module, name]
        except KeyError:
            if what := NO_NETWORK_HERE.get((module, name)):
                raise WeightsError(
                    f"{self.path}: holds {what}; save the network's state_dict alone, its tensors as float()"
                ) from None
            if self.foreign and not refused(module, name):
                named = f"{module}.{name}"
                self.spend(4 * len(named) + OBJECT)
                return (
                    Module
                    if module.split(".")[0] == PROGRAM
                    else Foreign(named if named.isprintable() and named.isascii() else shown(named, 80))
                )
            raise WeightsError(
                f"{self.path}: asks for {shown(f'{module}.{name}', 80)}, which weights do not need (nothing was run); "
                "do not trust this file, or save its state_dict where it holds a whole model"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        """A storage."""
        if self.persistent is None:
            raise WeightsError(f"{self.path}: refers to objects outside the file; it is damaged or of another kind")
        return self.persistent(pid)

    def build(self) -> None:
        """BUILD, for stand-ins alone: it sets no attribute of anything else."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], StandIn) and hasattr(self.stack[-1], "__setstate__"):
            self.stack[-1].__setstate__(state)
        elif isinstance(self.stack[-1], Module) and isinstance(state, dict):
            self.spend(ITEM * len(state))
            self.stack[-1].update(state)
        elif not isinstance(
            self.stack[-1], dict
        ):  # an OrderedDict's attributes, as a state_dict's _metadata, are no weights
            raise ValueError(f"the state of a {type(self.stack[-1]).__name__}")

    def reduce(self) -> None:
        """REDUCE, for constructors alone; of a `Foreign` comes itself."""
        arguments = self.stack.pop()
        constructor = self.stack[-1]
        if isinstance(constructor, Foreign):
            return
        if id(constructor) not in self.callable:
            raise ValueError(f"a call of a {type(constructor).__name__}")
        if not isinstance(arguments, tuple) or len(arguments) > MOST_ARGUMENTS:
            raise ValueError("a call with arguments that are no tuple, or too many")
        # each makes at most one object of what its arguments hold: bytes of a string, a dict or a
        # tuple of a list
        self.spend(
            sum(
                ITEM * len(one) if isinstance(one, list | tuple | dict) else len(one)
                for one in arguments
                if isinstance(one, COPIED)
            )
        )
        self.stack[-1] = constructor(*arguments)

    def newobj(self) -> None:
        """NEWOBJ: an object of a class that is none here, or of a TorchScript program's."""
        self.stack.pop()
        self.made()

    def newobj_ex(self) -> None:
        """NEWOBJ_EX, which has arguments by name, too."""
        del self.stack[-2:]
        self.made()

    def made(self) -> None:
        """The object of the class that lies on the stack."""
        if self.stack[-1] is Module:
            self.stack[-1] = Module()
        elif not isinstance(self.stack[-1], Foreign):
            self.unknown()

    def inst(self) -> None:
        """INST, which names the class itself."""
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        self.pop_mark()
        self.append(self.find_class(module, name))
        self.made()

    def obj(self) -> None:
        """OBJ, whose class lies below its arguments."""
        made = self.pop_mark()
        self.append(made[0])
        self.made()

    def unknown(self) -> NoReturn:
        """Opcodes that make objects of classes, or look into the interpreter's registries."""
        raise ValueError("an opcode that weights do not need")


SIZED = {
    "text": {pickle.BINUNICODE: "<I", pickle.BINUNICODE8: "<Q", pickle.SHORT_BINUNICODE: "<B"},
    "binary": {
        pickle.BINBYTES: "<I",
        pickle.BINBYTES8: "<Q",
        pickle.SHORT_BINBYTES: "<B",
        pickle.BINSTRING: "<i",
        pickle.SHORT_BINSTRING: "<B",
    },
    "integer": {pickle.LONG1: "<B", pickle.LONG4: "<i"},
}
"""What is read by a length that comes before it: opcode → the length's layout."""


def _dispatch() -> dict[int, Any]:
    """The opcodes of data, those above in place of Python's, and a refusal for the registries."""
    table = dict(PurePython.dispatch)
    table[pickle.BUILD[0]], table[pickle.REDUCE[0]] = Unpickler.build, Unpickler.reduce
    table[pickle.NEWOBJ[0]], table[pickle.NEWOBJ_EX[0]] = Unpickler.newobj, Unpickler.newobj_ex
    table[pickle.INST[0]], table[pickle.OBJ[0]] = Unpickler.inst, Unpickler.obj
    table[pickle.UNICODE[0]], table[pickle.STRING[0]] = Unpickler.line_of_text, Unpickler.string
    table[pickle.BYTEARRAY8[0]], table[pickle.FRAME[0]] = Unpickler.bytearray8, Unpickler.frame
    for read, layouts in SIZED.items():
        for opcode, layout in layouts.items():
            table[opcode[0]] = partial(getattr(Unpickler, read), layout=layout)
    table[pickle.INT[0]] = table[pickle.LONG[0]] = Unpickler.decimal
    table[pickle.EMPTY_SET[0]], table[pickle.FROZENSET[0]] = Unpickler.empty_set, Unpickler.frozen_set
    table[pickle.TUPLE[0]], table[pickle.DICT[0]] = Unpickler.long_tuple, Unpickler.full_dict
    table[pickle.SETITEM[0]], table[pickle.SETITEMS[0]] = Unpickler.setitem, Unpickler.setitems
    table[pickle.APPEND[0]], table[pickle.APPENDS[0]] = Unpickler.append_one, Unpickler.appends
    table[pickle.ADDITEMS[0]] = Unpickler.additems
    for opcode in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER):
        table[opcode[0]] = Unpickler.unknown
    return table


Unpickler.dispatch = _dispatch()


def let_go(array: np.ndarray) -> None:
    """Take an array that is a view of a mapped file out of memory; it is read from the file again when it is used
    again."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    mapping = getattr(base, "obj", None)
    if not isinstance(mapping, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    first = array.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
    start = -(first // -mmap.PAGESIZE) * mmap.PAGESIZE
    if (length := (first + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - start) > 0:
        mapping.madvise(mmap.MADV_DONTNEED, start, length)
