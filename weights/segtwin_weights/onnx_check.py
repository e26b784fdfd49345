"""An ONNX file held against the model that it was made from: read back, checked, and run once in
ONNX Runtime.

Weights are compared bit by bit, one at a time and mapped from the disk. Then both compute one small
random image. Layers whose weights are zero everywhere, as the new ones of a network that was just
converted, get the same random weights in both for this run: with zeros compared with zeros, a wrong
crop behind them would pass.
"""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper
from segtwin import Converted, noise, oracle
from segtwin.architectures import Architecture, Layer

from segtwin_weights import onnx_dead_zones, onnx_stamp
from segtwin_weights.hub import file_kind

PROBABILITY_ROUNDING = 2.0**-22
"""Of a sigmoid's own, in either implementation: two units in the last place of 1."""


@dataclass(frozen=True)
class Source:
    """The model behind a file, whatever its framework."""

    architecture: Architecture
    opset: int
    blobs: Sequence[str]
    """Those that the graph may hold, its output the last."""
    in_channels: int
    model_weights: Callable[[], Iterable[tuple[str, np.ndarray]]]
    """Hub name and array of every weight of the model that the graph computes with."""
    run: Callable[[np.ndarray, Mapping[str, np.ndarray], Sequence[str]], dict[str, np.ndarray]]
    """(N×C×H×W data, weights to compute with in place of the model's, names of blobs) → those
    blobs, by the framework's own kernels."""
    shape: tuple[int, int, int] | None = None
    """(N, H, W) of a graph of one size."""
    folded: Mapping[str, np.ndarray] | None = None
    """The weights of the file where BatchNorm is in its convolutions: others than the model's."""

    @property
    def output(self) -> str:
        """The blob that is the graph's output."""
        return self.blobs[-1]

    def file_weights(self) -> Iterable[tuple[str, np.ndarray]]:
        """Hub name and array of every weight that the file has to hold, in order."""
        return self.model_weights() if self.folded is None else self.folded.items()


def verify(file: Path, path: str | os.PathLike[str], source: Source) -> None:
    """Hold a file against its model.

    Args:
        file: where it is now, its external weights beside it.
        path: its name for people.
        source: what it was made from.

    Raises:
        ValueError: the checker refuses it, or its signature, a weight or the result of a run
            differs; the message says what.
    """
    try:
        model = onnx.load(file, load_external_data=False)
        size = file.stat().st_size
        onnx.checker.check_model(file, full_check=size < onnx.checker.MAXIMUM_PROTOBUF)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, DecodeError) as error:
        raise ValueError(f"{path}: {differs(f'the ONNX checker refuses it: {first_line(error)}')}") from error
    zero = compare_weights(model, file, path, source)
    check_signature(model, path, source)
    untouched = {
        name: array
        for name, array in zero.items()
        if source.folded is None or name not in batchnorm_convolutions(source)
    }
    check_run(model, file, path, source, probes(untouched))


def batchnorm_convolutions(source: Source) -> set[str]:
    """Weights of the convolutions that BatchNorm was folded into."""
    layers = {layer.name: layer for layer in source.architecture.layers}
    folded = {bottom for layer in layers.values() if layer.kind == "BatchNorm" for bottom in layer.bottoms}
    return {source.architecture.parameter_name(layers[name], kind) for name in folded for kind in ("weight", "bias")}


def differs(what: str) -> str:
    """The end of every refusal."""
    return f"{what}; the exported file was not kept"


def first_line(error: Exception) -> str:
    """What an exception says first."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def compare_weights(
    model: onnx.ModelProto, file: Path, path: str | os.PathLike[str], source: Source
) -> dict[str, np.ndarray]:
    """Every weight of the model is in the file under its hub name, bit by bit. Returns those that
    are zero everywhere."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    zero = {}
    for name, array in source.file_weights():
        if name not in held:
            raise ValueError(f"{path}: {differs(f'the weight {name} is missing')}")
        try:
            stored = read_tensor(held[name], file)
        except (ValueError, OSError, KeyError) as error:
            raise ValueError(
                f"{path}: {differs(f'the weight {name} cannot be read back: {first_line(error)}')}"
            ) from error
        if stored.dtype != array.dtype or stored.shape != array.shape or not same_bits(stored, array):
            raise ValueError(f"{path}: {differs(f'the weight {name} is not that of the model')}")
        if array.size and not array.any():
            zero[name] = array
    return zero


def read_tensor(tensor: TensorProto, file: Path) -> np.ndarray:
    """An initializer, mapped from the file beside the graph where it is there."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    where = {entry.key: entry.value for entry in tensor.external_data}
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if math.prod(tensor.dims) * dtype.itemsize != int(where["length"]):
        raise ValueError(f"{tensor.name}: {where['length']} bytes are not those of {tuple(tensor.dims)}")
    return np.memmap(file.parent / where["location"], dtype, "r", int(where["offset"]), tuple(tensor.dims))


def values_of(path: str | os.PathLike[str], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Initializers of a file, those of these names that it has."""
    wanted = set(names)
    model = load_graph(path)
    return {tensor.name: read_tensor(tensor, Path(path)) for tensor in model.graph.initializer if tensor.name in wanted}


def load_graph(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The graph of a file, its external weights left beside it.

    Raises:
        ValueError: it is no ONNX file, is damaged, or its external weights are another export's.
        OSError: it cannot be read.
    """
    if (kind := file_kind(path)) != "onnx":
        raise ValueError(f"{path}: is a file of the kind {kind}, no ONNX file")
    try:
        model = onnx.load(os.fspath(path), load_external_data=False)
    except (DecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no ONNX file, or is damaged ({first_line(error)}); export it again") from None
    if len(model.graph.input) < 1:
        raise ValueError(f"{path}: its graph takes no input; export it again")
    onnx_stamp.check_data(path, {entry.key: entry.value for entry in model.metadata_props})
    return model


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Of equal shapes and types; in pieces, so that the comparison takes no memory of their size."""
    pieces = zip(np.atleast_1d(one), np.atleast_1d(other), strict=True)
    return all(np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes() for a, b in pieces)


def check_signature(model: onnx.ModelProto, path: str | os.PathLike[str], source: Source) -> None:
    """Opset, names, ranks, channels, and the size where it is fixed."""
    found = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if found != {"ai.onnx": source.opset}:
        raise ValueError(f"{path}: {differs(f'its operators are {found}, not opset {source.opset}')}")
    graph = model.graph
    if [value.name for value in (*graph.input, *graph.output)] != [source.architecture.input, source.output]:
        names = f"{[value.name for value in graph.input]} to {[value.name for value in graph.output]}"
        raise ValueError(
            f"{path}: {differs(f'it computes {names}, not {source.architecture.input} to {source.output}')}"
        )
    shape = dimensions(graph.input[0])
    n, height, width = source.shape or (None, None, None)
    if shape != [n, source.in_channels, height, width]:
        raise ValueError(
            f"{path}: {differs(f'its input is {shape}, and should be {[n, source.in_channels, height, width]}')}"
        )


def dimensions(value: onnx.ValueInfoProto) -> list[int | None]:
    """Sizes along the axes, None where they are free."""
    return [axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim]


def probes(zero: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Random weights for those that are zero: of a size that keeps values as large as they come,
    positive where they are one a channel."""
    random = np.random.default_rng(13)
    found = {}
    for name, array in zero.items():
        values = (
            random.standard_normal(array.shape) / math.sqrt(array[0].size)
            if array.ndim > 1
            else random.uniform(0.5, 1, array.shape)
        )
        found[name] = values.astype(array.dtype)
    return found


def probe_image(source: Source, seed: int = 13) -> np.ndarray:
    """A seeded random image, N×C×H×W: of the graph's size, or of a small legal one that is not the
    one it was traced at."""
    sizes = [source.shape] if source.shape else [(1, *size) for size in probe_sizes(source.architecture)]
    n, height, width = sizes[0]
    return np.random.default_rng(seed).uniform(-128, 128, (n, source.in_channels, height, width)).astype(np.float32)


def probe_sizes(architecture: Architecture) -> list[tuple[int, int]]:
    """Small sizes that a network takes, the one it is traced at not among them."""
    least = architecture.size_least
    found = []
    for size in (
        (architecture.legal_size(least + 17), architecture.legal_size(least + 1)),
        (49, 33),
        (64, 32),
        (64, 96),
        architecture.example_size[::-1],
    ):
        try:
            architecture.check_size(*size)
        except ValueError:
            continue
        found += [size] if size != architecture.example_size else []
    return found


def check_run(
    model: onnx.ModelProto, file: Path, path: str | os.PathLike[str], source: Source, instead: Mapping[str, np.ndarray]
) -> None:
    """One image through both; the output's shape is the file's declared one, and every blob that
    the graph has is the model's.

    Every blob, not the output alone: a wrong crop of a branch that adds little, or before ReLUs
    that pass nothing on, hardly shows there.
    """
    names = list(onnx_dead_zones.held(source.blobs, model))
    if any(layer.kind == "Unpooling" for layer in source.architecture.layers):
        check_unpooling_run(model, file, path, source, instead, names)
    else:
        check_image(model, file, path, source, instead, names, probe_image(source))


def check_image(
    model: onnx.ModelProto,
    file: Path,
    path: str | os.PathLike[str],
    source: Source,
    instead: Mapping[str, np.ndarray],
    names: Sequence[str],
    data: np.ndarray,
    compared: Sequence[str] | None = None,
) -> None:
    """These blobs of one image; those that are compared, where not all of them are."""
    want = source.run(data, instead, names)
    declared, shape = dimensions(model.graph.output[0]), want[source.output].shape
    if (
        len(declared) != len(shape)
        or declared[1] != shape[1]
        or any(size not in (None, real) for size, real in zip(declared, shape, strict=True))
    ):
        raise ValueError(
            f"{path}: {differs(f'its output is declared as {declared}, and the model makes {list(shape)}')}"
        )
    try:
        got = onnx_values(file, data, names, instead, model, plain=True)
    except ImportError:
        words = "checked and read back, but not run: ONNX Runtime is not installed; pip install 'segtwin[onnx]'"
        warnings.warn(f"{path}: {words}", Converted, stacklevel=4)
        return
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise ValueError(f"{path}: {differs(f'ONNX Runtime cannot run it: {first_line(error)}')}") from error
    if not all(np.isfinite(array).all() for array in want.values()):
        warnings.warn(f"{path}: not compared with the model, whose values are not finite", Converted, stacklevel=4)
        return
    bound = rounding(model)
    probability = source.output if source.architecture.sigmoid else None
    compared = names if compared is None else compared
    errors = {name: oracle.relative_error(got[name], want[name]) for name in compared if name != probability}
    bounds = dict.fromkeys(errors, bound)
    if any(not errors[name] <= bound for name in errors) and all(off < 1e-2 for off in errors.values()):
        measured = own_rounding(source, instead, data)  # the network may magnify roundings: ask it how much
        bounds = {name: max(bound, measured.get(name, 0.0)) for name in errors}
    for name, off in errors.items():
        if not off <= bounds[name]:
            words = (
                f"ONNX Runtime computes {name} {off:.1e} of its maximum away from the model ({bounds[name]:.1e} "
                "allowed)"
            )
            raise ValueError(f"{path}: {differs(words)}")
    if probability is not None and probability in compared:  # a sigmoid is nowhere steeper than 1/4
        (scores,) = source.architecture.layer(probability).bottoms
        off = float(np.abs(got[probability] - want[probability].astype(np.float64)).max())
        if not off <= bounds[scores] * float(np.abs(want[scores]).max()) / 4 + PROBABILITY_ROUNDING:
            raise ValueError(f"{path}: {differs(f'ONNX Runtime computes {probability} {off:.1e} away from the model')}")


TRIES = 4
"""Images that are tried until two runs take the same pixel of every window."""


def check_unpooling_run(
    model: onnx.ModelProto,
    file: Path,
    path: str | os.PathLike[str],
    source: Source,
    instead: Mapping[str, np.ndarray],
    names: Sequence[str],
) -> None:
    """A network that unpools by the places of maxima: where two pixels of a window differ by less than float32 rounds,
    two correct runs may take different ones, and part there.

    So an image is looked for of which both take the same. If there is none (large images have too many windows), what
    lies before the first unpooling is compared, and that every unpooling is right for what it is given; the rest is
    not, which is said.
    """
    layers = [layer for layer in source.architecture.layers if layer.kind == "Unpooling"]
    for seed in range(13, 13 + TRIES):
        data = probe_image(source, seed)
        try:
            got = onnx_values(file, data, names, instead, copy.deepcopy(model), plain=True)
        except Exception:  # `check_image` says what it is
            check_image(copy.deepcopy(model), file, path, source, instead, names, data)
            return
        want = source.run(data, instead, names)
        if all(same_places(layer, got, want) for layer in layers):
            check_image(copy.deepcopy(model), file, path, source, instead, names, data)
            return
    for layer in layers:
        exact = oracle.unpooling(layer, source.architecture, [got[bottom] for bottom in layer.bottoms], [])
        if not np.array_equal(exact, got[layer.name]):
            raise ValueError(f"{path}: {differs(f'{layer.name} is not what its layer makes of its bottoms')}")
    before = names[: names.index(layers[0].name)]
    check_image(model, file, path, source, instead, names, data, before)
    words = f"compared with the model up to {before[-1]}: behind it maxima differ by less than rounding"
    warnings.warn(f"{path}: {words}", Converted, stacklevel=4)


def same_places(layer: Layer, one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """Whether two runs take the same pixel of every window."""
    small, pooled = layer.bottoms
    places = [oracle.places(layer, blobs[pooled], blobs[small].shape[2:]) for blobs in (one, other)]
    return all(np.array_equal(a, b) for a, b in zip(*places, strict=True))


def rounding(model: onnx.ModelProto) -> float:
    """How far two correct float32 runs of a graph may differ, relative to the largest number of a
    blob.

    A running sum of n products is off by about u·√(n/6) of its size (u = 2⁻²⁴; see
    `segtwin.noise`). Roundings of different layers are independent, so their squares add up; two
    runs differ by √2 more; and `noise.BOUND` is what is left to chance. fcn8s: 4e-5, 1e-5 at least;
    a wrong crop, bias or kernel moves a blob by 1e-3 and more.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    products = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm") and node.input[1] in shapes:
            weight = shapes[node.input[1]]
            products += weight[0] * math.prod(weight[2:]) if node.op_type == "ConvTranspose" else math.prod(weight[1:])
    return max(1e-5, noise.BOUND * math.sqrt(2 * products / 6) * 2.0**-24)


def own_rounding(source: Source, instead: Mapping[str, np.ndarray], data: np.ndarray) -> dict[str, float]:
    """The same of every blob, measured: float32 runs of the oracle against its float64 run. Slow,
    so only for networks that magnify roundings."""
    weights = {**dict(source.model_weights()), **instead}
    truth = oracle.run(source.architecture, weights, data)
    floors, growths = (
        noise.floors(source.architecture, weights, data, truth),
        noise.default_bounds(source.architecture, weights),
    )
    folded = 2 if source.folded else 1  # products of two roundings in place of one
    return {name: floors[name] * growths[name] * math.sqrt(2) * folded for name in truth}


def onnx_values(
    file: str | os.PathLike[str],
    data: np.ndarray,
    names: Sequence[str],
    instead: Mapping[str, np.ndarray] | None = None,
    model: onnx.ModelProto | None = None,
    plain: bool = False,
) -> dict[str, np.ndarray]:
    """Values of a graph by ONNX Runtime on the CPU.

    Args:
        file: the .onnx file.
        data: for its one input.
        names: of its values; the input may be among them. Blobs that are computed in part are made whole
            (`onnx_dead_zones`).
        instead: weights to compute with in place of the file's, name → array.
        model: the graph, if it was read already; changed in place.
        plain: run the operators as they stand, without making others of them: slower, and without
            second copies of the weights. A graph of float64, whose convolutions ONNX Runtime has
            not, is run in float32.

    Raises:
        ValueError: the graph has no such value.
        ImportError: ONNX Runtime is not installed.
    """
    import onnxruntime

    from segtwin_weights import onnx_session

    model = load_graph(file) if model is None else model
    graph = model.graph
    held = onnx_dead_zones.held([name for name in names if name != graph.input[0].name], model)
    if missing := [name for name in names if name not in (graph.input[0].name, *held)]:
        raise ValueError(f"{file}: the graph has no blob {missing[0]!r} ({len(missing)} missing)")
    wanted = [value for value, _ in held.values()]
    options = onnx_session.options(4 if plain else 3)
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
    double = plain and graph.input[0].type.tensor_type.elem_type == TensorProto.DOUBLE
    if double:
        in_single(model, Path(file), instead or {})
    present = {output.name for output in graph.output}
    if not (instead or double) and present.issuperset(wanted):
        session = onnxruntime.InferenceSession(os.fspath(file), options, providers=["CPUExecutionProvider"])
    else:
        # The session gets a copy of the graph with the changes; the other weights stay in the file.
        for initializer in graph.initializer:
            if instead and initializer.name in instead and not double:
                initializer.CopyFrom(numpy_helper.from_array(instead[initializer.name], initializer.name))
        graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted if name not in present)
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(Path(file).resolve().parent)
        )
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = session.run(wanted, {graph.input[0].name: data})
    return {graph.input[0].name: data, **onnx_dead_zones.whole(held, values)}


def in_single(model: onnx.ModelProto, file: Path, instead: Mapping[str, np.ndarray]) -> None:
    """A float64 graph made one of float32, its weights, those in the place of some among them,
    inside it."""
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.DOUBLE:
            array = instead[tensor.name] if tensor.name in instead else read_tensor(tensor, file)
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.DOUBLE:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.DOUBLE:
                attribute.i = TensorProto.FLOAT
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]
