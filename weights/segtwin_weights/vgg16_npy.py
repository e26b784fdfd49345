"""`vgg16.npy`, as tensorflow-vgg and tensorflow-fcn use it: an .npy file whose one object is the pickled dict {layer: [weights, biases]}.

    conv1_1 … conv5_3   3×3×I×O  HWIO, channels of the input in BGR order
    fc6                 25088×4096, rows over pool5 in H·W·C order
    fc7, fc8            4096×4096, 4096×1000
    biases              O

The hub keeps Caffe's order, so convolutions become O×I×3×3 and fc6's columns C·H·W. A wrong order of fc6 fails silently, since the shapes
agree.

Files were pickled by Python 2 or 3 and by many versions of numpy. A pickle is a program; this reader runs none: it lets the pickle machine
name the few constructors that an array's pickle needs, gives it inert stand-ins for them, and reads the arrays out of those.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
from segtwin import Converted, architectures
from segtwin.files import whole

from segtwin_weights.hub import Weights, WeightsError, at_most, check_finite, sha256

LAYERS = [layer for layer in architectures.VGG16.layers if layer.width]
"""conv1_1 … conv5_3, fc6, fc7, fc8."""
MOST_DIMENSIONS = 32


def read(path: str | os.PathLike[str]) -> Weights:
    """Read a vgg16.npy of any widths.

    Returns:
        `Weights` of the row vgg16 in Caffe's layouts, float32.

    Raises:
        WeightsError: the file is damaged, asks for anything to be called, lacks a layer or has another, contradicts itself, or holds NaN.
        OSError: it cannot be read.
    """
    layers = _unpickle(path)
    _check_layers(path, layers)
    blobs: dict[str, np.ndarray] = {}
    digest = sha256(path)
    for layer in LAYERS:
        pair = layers.pop(layer.name)  # popped: the source of each layer is let go before the next is converted
        weight, bias = (_float32(path, f"{layer.name} {kind}", array) for kind, array in zip(("weights", "biases"), pair, strict=True))
        del pair
        check_finite(path, f"{layer.name} weights", weight)
        check_finite(path, f"{layer.name} biases", bias)
        blobs[f"{layer.name}/weight"] = to_caffe(layer.name, weight)
        blobs[f"{layer.name}/bias"] = bias
    row = architectures.VGG16
    metadata = {
        "architecture": row.name,
        "num_classes": len(blobs["fc8/bias"]),
        "colour": row.colour,
        "mean": list(row.mean),
        "source": Path(path).name,
        "sha256": digest,
    }
    if SYNTHETIC in Path(path).name:
        metadata["synthetic"] = True
    return Weights(blobs, metadata)


SYNTHETIC = "SYNTHETIC"
"""In the name of a file whose numbers are random, so that nobody takes them for a training's."""


def write(weights: Weights, path: str | os.PathLike[str]) -> None:
    """Write the weights of a VGG-16 as a vgg16.npy that numpy and the original tensorflow-fcn code load.

    Raises:
        WeightsError: they are not a VGG-16's.
        OSError: the file cannot be written.
    """
    wanted = {f"{layer.name}/{kind}" for layer in LAYERS for kind in ("weight", "bias")}
    if weights.keys() != wanted:
        raise WeightsError(f"{path}: a vgg16.npy holds a VGG-16 classifier; {at_most(wanted ^ weights.keys())} is missing or has no place in it")
    layers = {layer.name: [from_caffe(layer.name, weights[f"{layer.name}/weight"]), weights[f"{layer.name}/bias"]] for layer in LAYERS}
    with whole(path) as draft, open(draft, "wb") as file:
        np.save(file, np.array(layers, dtype=object), allow_pickle=True)


def to_caffe(name: str, weight: np.ndarray) -> np.ndarray:
    """One layer's weights from vgg16.npy's layout to Caffe's, contiguous."""
    if weight.ndim == 4:
        return np.ascontiguousarray(weight.transpose(3, 2, 0, 1))  # HWIO → OIHW
    return _outputs_first(weight, architectures.CLASSIFIER_PIXELS if name == "fc6" else 1)


def from_caffe(name: str, weight: np.ndarray) -> np.ndarray:
    """The way back of `to_caffe`."""
    if weight.ndim == 4:
        return np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
    outputs, pixels = len(weight), architectures.CLASSIFIER_PIXELS if name == "fc6" else 1
    return np.ascontiguousarray(weight.reshape(outputs, -1, pixels).transpose(2, 1, 0)).reshape(-1, outputs)


def _outputs_first(weight: np.ndarray, pixels: int, channels_at_once: int = 16, outputs_at_once: int = 64) -> np.ndarray:
    """An inner product from (H·W·C)×O to O×(C·H·W), with H·W = `pixels`.

    fc6 is 411 MB that change places: the move goes block by block, so that both of its ends stay in the processor's cache, and two at a time.
    """
    outputs = weight.shape[1]
    source = weight.reshape(pixels, -1, outputs)
    channels = source.shape[1]
    target = np.empty((outputs, channels, pixels), weight.dtype)

    def move(o: int) -> None:
        for c in range(0, channels, channels_at_once):
            block = source[:, c : c + channels_at_once, o : o + outputs_at_once]
            target[o : o + outputs_at_once, c : c + channels_at_once] = block.transpose(2, 1, 0)

    with ThreadPoolExecutor(max_workers=2) as pool:  # numpy copies without holding the interpreter's lock
        list(pool.map(move, range(0, outputs, outputs_at_once)))
    return target.reshape(outputs, -1)


def _float32(path: object, name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype == np.float32:
        return array.astype(np.float32, copy=False)
    warnings.warn(f"{path}: {name} is {array.dtype}, converted to float32", Converted, stacklevel=2)
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which check_finite refuses
        return array.astype(np.float32)


def _check_layers(path: object, layers: dict[str, list[np.ndarray]]) -> None:
    """Every layer is there, no other is, and the widths follow on each other."""
    names = {layer.name for layer in LAYERS}
    if missing := names - layers.keys():
        raise WeightsError(f"{path}: lacks {at_most(missing)} of VGG-16's 16 layers; it is another network or was cut")
    if extra := layers.keys() - names:
        raise WeightsError(f"{path}: holds {at_most(extra)}, which VGG-16 has not; it is another network")
    width = architectures.VGG16.in_channels
    for layer in LAYERS:
        weight, bias = layers[layer.name]
        outputs = weight.shape[-1] if weight.ndim else 0
        if layer.kind == "Convolution":
            expected: tuple[int, ...] = (layer.kernel, layer.kernel, width, outputs)
        else:
            expected = (width * (architectures.CLASSIFIER_PIXELS if layer.name == "fc6" else 1), outputs)
        if not outputs or weight.shape != expected:
            raise WeightsError(f"{path}: {layer.name} weights are {weight.shape}, but {expected} follows from the layer before")
        if bias.shape != (outputs,):
            raise WeightsError(f"{path}: {layer.name} biases are {bias.shape}, its weights have {outputs} outputs")
        width = outputs


# ---------------------------------------------------------------------------------------------------------------- the pickle, run by nobody


def _unpickle(path: str | os.PathLike[str]) -> dict[str, list[np.ndarray]]:
    """{layer: [weights, biases]} of the file, as arrays over the bytes of the pickle."""
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(file)
            if shape != () or not dtype.hasobject:
                raise WeightsError(f"{path}: is one array {shape} of {dtype}, not the pickled dict of a vgg16.npy")
            loaded = _Unpickler(_Bounded(file), path).load()
            if file.read(1):
                raise WeightsError(f"{path}: goes on after its pickle; the file is damaged")
    except WeightsError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise WeightsError(f"{path}: is damaged ({error})") from None
    except Exception as error:  # a damaged pickle fails in as many ways as there are opcodes
        raise WeightsError(f"{path}: is cut short or damaged ({type(error).__name__}: {_line(error)}); fetch it again") from None
    if isinstance(loaded, _Array):
        loaded = loaded.item(path)
    if not isinstance(loaded, dict):
        raise WeightsError(f"{path}: holds a {type(loaded).__name__}, not the dict of a vgg16.npy")
    return {_text(path, name): _pair(path, name, value) for name, value in loaded.items()}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _text(path: object, name: Any) -> str:
    if isinstance(name, bytes) and name.isascii():
        return name.decode()
    if isinstance(name, str):
        return name
    raise WeightsError(f"{path}: a layer's name is a {type(name).__name__}, not a string")


def _pair(path: object, name: Any, value: Any) -> list[np.ndarray]:
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(one, _Array) for one in value):
        return [one.array(path, f"{name} {kind}") for one, kind in zip(value, ("weights", "biases"), strict=True)]
    raise WeightsError(f"{path}: {name} is not a list [weights, biases] of two arrays")


class _Dtype:
    """Stands in for `numpy.dtype`: notes what was asked for."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        self.order = order.decode("latin1") if isinstance(order, bytes) else order

    def numpy(self) -> np.dtype[Any]:
        if self.code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8") or self.order not in "<>=|":
            raise ValueError(f"an array of type {self.code!r}")
        return np.dtype(self.order + self.code)


class _Array:
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
    def reconstruct(cls, *_: Any) -> _Array:
        """`numpy._core.multiarray._reconstruct(ndarray, (0,), b"b")`; the state follows."""
        return cls()

    @classmethod
    def frombuffer(cls, data: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> _Array:
        """`numpy._core.numeric._frombuffer(buffer, dtype, shape, order)`, of pickle protocol 5."""
        array = cls()
        array.data, array.dtype, array.shape, array.fortran = data, dtype, shape, order in ("F", b"F")
        return array

    @classmethod
    def scalar(cls, dtype: Any, data: Any, *_: Any) -> _Array:
        """`numpy._core.multiarray.scalar(dtype, bytes)`."""
        return cls.frombuffer(data, dtype, ())

    def item(self, path: object) -> Any:
        """The one object of a 0-dimensional array of objects: what np.save makes of a dict."""
        if isinstance(self.dtype, _Dtype) and self.dtype.code in ("O", "O8", "O4") and isinstance(self.data, list) and len(self.data) == 1:
            return self.data[0]
        raise WeightsError(f"{path}: holds an array, not the pickled dict of a vgg16.npy")

    def array(self, path: object, name: str) -> np.ndarray:
        """A numpy array over the pickle's own bytes, without a copy."""
        try:
            shape = tuple(int(size) for size in self.shape)
            if len(shape) > MOST_DIMENSIONS or min(shape, default=0) < 0:
                raise ValueError(f"shape {shape}")
            flat = np.frombuffer(self.data, self.dtype.numpy())
            if flat.size != np.prod(shape, dtype=object):
                raise ValueError(f"{flat.size} numbers for the shape {shape}")
            return flat.reshape(shape, order="F" if self.fortran else "C")
        except Exception as error:
            raise WeightsError(f"{path}: {name} cannot be rebuilt ({_line(error)}); the file is damaged") from None


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """`_codecs.encode`, by which pickle protocols 0 to 2 write bytes: latin1 of a string and nothing else."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


class _Constructor:
    """What a name in a pickle stands for. It can be called, and nothing can be set in it."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        raise ValueError("a constructor with a state")


_CONSTRUCTORS = {("numpy", "dtype"): _Constructor(_Dtype), ("_codecs", "encode"): _Constructor(_encode)}
_CONSTRUCTORS["numpy", "ndarray"] = _Constructor(lambda: ())  # named as what `_reconstruct` should make, never called
for _module in ("numpy.core", "numpy._core"):  # the old and the new home of numpy's insides
    _CONSTRUCTORS |= {
        (f"{_module}.multiarray", "_reconstruct"): _Constructor(_Array.reconstruct),
        (f"{_module}.multiarray", "scalar"): _Constructor(_Array.scalar),
        (f"{_module}.numeric", "_frombuffer"): _Constructor(_Array.frombuffer),
    }


class _Bounded:
    """A file that is never asked for more bytes than it has: a length in a damaged pickle costs no memory."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.file = file
        self.left = os.fstat(file.fileno()).st_size - file.tell()

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise EOFError(f"{size} bytes announced, {self.left} left")
        self.left -= size
        return self.file.read(size)

    def readline(self) -> bytes:
        line = self.file.readline()
        self.left -= len(line)
        return line


class _Unpickler(pickle._Unpickler):
    """Builds dicts, lists, strings, bytes, numbers and the stand-ins above. Whatever else a pickle names is refused before it is imported.

    This is Python's own machine in Python: that in C lets one opcode (LONG_BINPUT) take 64 GB of memory. Arrays are single opcodes, so it is as
    fast here.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    append: Callable[[Any], None]
    read: Callable[[int], bytes]

    def __init__(self, file: _Bounded, path: object) -> None:
        super().__init__(file, fix_imports=False, encoding="bytes")  # Python 2's strings are bytes: an array's need no decoding
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _CONSTRUCTORS[module, name]
        except KeyError:
            raise WeightsError(f"{self.path}: asks for {module}.{name}, which weights do not need; nothing was run: do not trust this file") from None

    def persistent_load(self, pid: Any) -> NoReturn:
        raise WeightsError(f"{self.path}: refers to objects outside the file; it is not a vgg16.npy")

    def load_bytearray8(self) -> None:
        """As the original, but the bytes are read before room is made for them."""
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
