"""Pickles, run by nobody.

A pickle is a program for a stack machine, and any function it can name it can call. The machine here knows the opcodes that data need and no
others, and `find_class` answers with the few constructors that a file of weights needs: inert stand-ins, which note what they were given and
read arrays out of it later. Nothing a pickle names is imported.

Python's own machine in C is not used for two reasons: it lets BUILD set attributes of whatever a file puts on its stack, our classes
included, and it fills a table as long as the largest memo index that a file claims.
"""

from __future__ import annotations

import io
import mmap
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np

from segtwin_weights.hub import WeightsError

MOST_DIMENSIONS = 32
NUMERIC = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


class StandIn:
    """What BUILD may set the state of."""

    __slots__ = ()


class Dtype(StandIn):
    """Stands in for `numpy.dtype`: notes what was asked for."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        self.order = order.decode("latin1") if isinstance(order, bytes) else order

    def numpy(self) -> np.dtype[Any]:
        """The type, when it is one of numbers.

        Raises:
            ValueError: it is not.
        """
        if self.code not in NUMERIC or self.order not in ("<", ">", "=", "|"):
            raise ValueError(f"an array of type {self.code!r}")
        return np.dtype(self.order + self.code)


class Array(StandIn):
    """Stands in for `numpy.ndarray` and its two ways of being rebuilt: keeps shape, type and bytes, and makes an array of them on demand."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(self) -> None:
        self.shape: Any = ()
        self.dtype: Any = None
        self.data: Any = b""
        self.fortran = False

    def __setstate__(self, state: tuple[Any, ...]) -> None:
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
        """The one object of a 0-dimensional array of objects, which np.save makes of a dict; of other arrays the array itself."""
        if isinstance(self.dtype, Dtype) and self.dtype.code in ("O", "O8", "O4") and isinstance(self.data, list) and len(self.data) == 1:
            return self.data[0]
        return self

    def array(self) -> np.ndarray:
        """A numpy array over the pickle's own bytes, without a copy.

        Raises:
            ValueError: type, shape and bytes do not fit each other.
        """
        shape = tuple(int(size) for size in self.shape)
        if len(shape) > MOST_DIMENSIONS or min(shape, default=0) < 0:
            raise ValueError(f"shape {shape}")
        flat = np.frombuffer(self.data, self.dtype.numpy())
        if flat.size != np.prod(shape, dtype=object):
            raise ValueError(f"{flat.size} numbers for the shape {shape}")
        return flat.reshape(shape, order="F" if self.fortran else "C")


def encode(text: Any, encoding: Any = "latin1") -> bytes:
    """`_codecs.encode`, by which pickle protocols 0 to 2 write bytes: latin1 of a string and nothing else."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


class Foreign(StandIn):
    """Stands in for a class that no reader needs, and for every object of it: options, counters, dates, paths. It holds nothing and runs nothing."""

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


class Module(dict[Any, Any]):
    """Stands in for an object of a TorchScript program: its attributes as data."""


PROGRAM = "__torch__"
"""Where the classes of TorchScript programs are."""
REFUSED_MODULES = frozenset({
    "os", "posix", "nt", "posixpath", "ntpath", "subprocess", "_posixsubprocess", "sys", "importlib", "imp", "runpy", "shutil", "socket", "_socket",
    "ctypes", "_ctypes", "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "operator", "_operator", "pty", "code", "codeop", "commands",
    "marshal", "multiprocessing", "asyncio", "webbrowser", "pdb", "bdb", "pip", "timeit", "profile", "cProfile", "trace", "io", "_io", "urllib",
    "requests", "http", "ftplib", "smtplib", "tempfile", "zipimport", "pkgutil", "pydoc", "doctest", "ensurepip", "venv", "platform", "signal",
    "threading", "inspect", "linecache",
})  # fmt: skip
"""What runs programs, opens files or reaches into the interpreter. No training leaves such a thing in a checkpoint, so the file is not trusted."""
REFUSED_BUILTINS = frozenset({
    "eval", "exec", "execfile", "compile", "open", "file", "getattr", "setattr", "delattr", "hasattr", "__import__", "globals", "locals", "vars",
    "dir", "input", "raw_input", "breakpoint", "apply", "reload", "map", "filter", "reduce", "memoryview", "help", "exit", "quit", "print",
})  # fmt: skip
REFUSED = frozenset({("functools", "partial"), ("functools", "reduce"), ("types", "CodeType"), ("types", "FunctionType"), ("torch", "load")})


def refused(module: str, name: str) -> bool:
    """Whether a pickle that names this is not read at all: what could harm, and tensors of kinds that no network here is made of."""
    package = module.split(".")[0]
    if package in REFUSED_MODULES or (module, name) in REFUSED or (package in ("builtins", "__builtin__") and name.split(".")[0] in REFUSED_BUILTINS):
        return True
    return package == "torch" and (name.startswith("_rebuild") or name.endswith("Storage"))


Constructors = Mapping[tuple[str, str], Any]
NUMPY: dict[tuple[str, str], Any] = {("numpy", "ndarray"): Array, ("numpy", "dtype"): Dtype, ("_codecs", "encode"): encode}
for _module in ("numpy.core", "numpy._core"):  # the old and the new home of numpy's insides
    NUMPY |= {
        (f"{_module}.multiarray", "_reconstruct"): Array.reconstruct,
        (f"{_module}.multiarray", "scalar"): Array.scalar,
        (f"{_module}.numeric", "_frombuffer"): Array.frombuffer,
    }


LARGE = 1 << 16
"""Bytes from which on a piece of a file is not copied but mapped."""


class Bounded:
    """A file that refuses to hand out more bytes than it has, before memory for them is asked for; large pieces are views of the mapped file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        at = file.tell()
        self.end = file.seek(0, io.SEEK_END)
        file.seek(at)
        try:
            self.mapped: memoryview | None = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # a stream in memory, a member of an archive
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


class Unpickler(PurePython):
    """Builds dicts, lists, tuples, strings, bytes, numbers and stand-ins.

    Args:
        file: where the pickle begins.
        path: for messages.
        constructors: (module, name) → stand-in.
        persistent: what answers references to objects outside the pickle; without it they are refused.
        foreign: objects of other classes become `Foreign`, where they are not `refused`; else none of them is read.
    """

    def __init__(
        self, file: BinaryIO, path: object, constructors: Constructors, persistent: Callable[[Any], Any] | None = None, foreign: bool = False
    ) -> None:
        # Python 2's strings are bytes: an array's need no decoding
        super().__init__(Bounded(file), fix_imports=False, encoding="bytes")
        self.path, self.constructors, self.persistent, self.foreign = path, constructors, persistent, foreign

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for what the pickle names.

        Raises:
            WeightsError: there is none for it.
        """
        try:
            return self.constructors[module, name]
        except KeyError:
            if self.foreign and not refused(module, name):
                return Module if module.split(".")[0] == PROGRAM else Foreign(f"{module}.{name}")
            raise WeightsError(
                f"{self.path}: asks for {module}.{name}, which weights do not need (nothing was run); "
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
            self.stack[-1].update(state)
        elif not isinstance(self.stack[-1], dict):  # an OrderedDict's attributes, as a state_dict's _metadata, are no weights
            raise ValueError(f"the state of a {type(self.stack[-1]).__name__}")

    def reduce(self) -> None:
        """REDUCE, for constructors alone; of a `Foreign` comes itself."""
        arguments = self.stack.pop()
        constructor = self.stack[-1]
        if isinstance(constructor, Foreign):
            return
        if not any(constructor is known for known in self.constructors.values()):
            raise ValueError(f"a call of a {type(constructor).__name__}")
        self.stack[-1] = constructor(*arguments)

    def bytearray8(self) -> None:
        """BYTEARRAY8, whose bytes are read before room is made for them."""
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))

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


def _dispatch() -> dict[int, Any]:
    """The opcodes of data, those above in place of Python's, and a refusal for the registries."""
    table = dict(PurePython.dispatch)
    table[pickle.BUILD[0]], table[pickle.REDUCE[0]] = Unpickler.build, Unpickler.reduce
    table[pickle.BYTEARRAY8[0]] = Unpickler.bytearray8
    table[pickle.NEWOBJ[0]], table[pickle.NEWOBJ_EX[0]] = Unpickler.newobj, Unpickler.newobj_ex
    table[pickle.INST[0]], table[pickle.OBJ[0]] = Unpickler.inst, Unpickler.obj
    for opcode in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER):
        table[opcode[0]] = Unpickler.unknown
    return table


Unpickler.dispatch = _dispatch()
