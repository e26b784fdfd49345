"""ONNX Runtime as an engine: on ONNX files as they are, and on the export of whichever framework is installed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from segtwin import Architecture, Preprocessing
from segtwin.architectures import find_architecture
from segtwin_weights import Dimensions, Weights, metadata, onnx_dead_zones, onnx_session, onnx_stamp, onnx_table
from segtwin_weights.onnx_check import first_line, onnx_values, values_of

from segtwin_engines.engine import Engine, Folder, output_of

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def export(architecture: Architecture, weights: Weights) -> Folder:
    """A folder with network.onnx, written from the table of layers."""
    folder = Folder()
    onnx_table.write(weights, architecture, folder.path / "network.onnx")
    return folder


def start(
    architecture: Architecture, size: Dimensions, weights: Weights
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], dict[str, np.ndarray]], object]:
    """Weights of a network, by way of its file."""
    folder = export(architecture, weights)
    session = open_session(str(folder.path / "network.onnx"), 3)
    return (
        lambda data: session.run(None, {architecture.input: data})[0],
        lambda data: onnx_blobs(folder.path / "network.onnx", data, architecture.exported),
        folder,
    )


def open_session(path: str, severity: int) -> onnxruntime.InferenceSession:
    """A session on the CPU that logs nothing below this severity."""
    return onnxruntime.InferenceSession(path, onnx_session.options(severity), providers=["CPUExecutionProvider"])


def open_file(
    path: str, network: str | None, in_channels: int | None, chosen: bool, say: Callable[[str], None]
) -> Engine:
    """An ONNX file, run as it is.

    Args:
        path: the file.
        network: its name, where the file does not state it.
        in_channels: its channels, likewise.
        chosen: whether the user says how its inputs are made.
        say: takes each line that the user should read.

    Raises:
        ValueError: the file cannot be run, takes no N×C×H×W, or nothing says how its inputs are made.
    """
    try:
        session = open_session(path, 4)
    except Exception as error:  # ONNX Runtime's errors have no class in common but this
        raise ValueError(f"{path}: ONNX Runtime cannot run it: {' '.join(str(error).split())}") from None
    texts = session.get_modelmeta().custom_metadata_map
    facts = {key: metadata.loads(path, key, text, Path(path).stat().st_size) for key, text in texts.items()}
    metadata.check(path, facts)
    onnx_stamp.check_data(path, facts)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in TYPES:
        found = ", ".join(f"{one.name} {one.type} {'×'.join(map(str, one.shape))}" for one in inputs)
        raise ValueError(f"{path}: takes {found}; predict runs networks of one input N×C×H×W of floats")
    source, dtype = inputs[0], TYPES[inputs[0].type]
    batch, channels, *size = (one if isinstance(one, int) and one > 0 else None for one in source.shape)
    told = network or facts.get("architecture")
    architecture = find_architecture(told)
    if network and facts.get("architecture") not in (None, network):
        raise ValueError(f"{path}: is {facts['architecture']}, not {network}")
    if channels is None:
        channels = in_channels or (architecture.in_channels if architecture else 3)
    if channels not in (1, 3) and size[1] in (1, 3):
        raise ValueError(
            f"{path}: takes {'×'.join(map(str, source.shape))}, channels last; predict runs networks of one input "
            "N×C×H×W"
        )
    own = metadata.stated(facts, architecture)
    base = own or (architecture.preprocessing if architecture else None)
    if base is None and not chosen:
        raise ValueError(
            f"{path}: says neither its network nor how its inputs are made; say network (--network NAME), or "
            "preprocessing (--colour, --mean, --std, --scale)"
        )
    result = next((one for one in outputs if len(one.shape) == 4), outputs[0])
    classes = (
        result.shape[1]
        if len(result.shape) == 4 and isinstance(result.shape[1], int)
        else int(facts.get("num_classes", 0))
    )
    if architecture and architecture.output == "logits":  # of one class or of several
        output = output_of(architecture, classes or architecture.num_classes)
    elif result.name in ("probability", "logits"):
        output = result.name
    else:
        output = output_of(architecture, classes) if architecture else "score"
    if not architecture:
        last = last_operation(path, result.name)
        if last == "ArgMax" or result.type not in TYPES:
            raise ValueError(
                f"{path}: its output {result.name!r} is a class a pixel, no scores; export the graph without its ArgMax"
            )
        if last in ("Softmax", "Sigmoid"):
            output = "probability"
        elif classes == 1 and output == "score":
            output = "probability"
            say(f"{path}: its one output {result.name!r} is taken for a probability 0..1")
        if len([one for one in outputs if len(one.shape) == 4]) > 1:
            say(f"{path}: has {len(outputs)} outputs; {result.name!r} is taken")

    def run(data: np.ndarray) -> np.ndarray:
        data = data.astype(dtype, copy=False)
        # a fixed number of images at a time
        full = np.concatenate([data, *[data[-1:]] * (-len(data) % batch)]) if batch else data
        parts = np.split(full, len(full) // batch) if batch else [full]
        results = [session.run([result.name], {source.name: part})[0] for part in parts]
        return np.concatenate(results)[: len(data)].astype(np.float32, copy=False)

    return Engine(
        name="onnxruntime",
        scores=run,
        blobs=lambda data: onnx_blobs(path, data, blob_names(path, architecture)),
        file=path,
        architecture=architecture,
        num_classes=classes,
        in_channels=channels,
        preprocessing=base or Preprocessing(),
        output=output,
        metadata=facts,
        size=(size[0], size[1]),
        holds=session,
    )


def blob_names(path: str, architecture: Architecture | None) -> list[str]:
    """The blobs of a file: those of the network, or of one that is not known every value that a node computes."""
    model = onnx.load(path, load_external_data=False)
    known = [] if architecture is None else list(onnx_dead_zones.held(architecture.exported, model))
    return known or [name for node in model.graph.node for name in node.output if name]


def last_operation(path: str, output: str) -> str:
    """What computes an output of an ONNX file, behind operations that move or convert its values
    alone; "" where the graph does not say it."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    makers = {name: node for node in graph.node for name in node.output}
    for _ in range(len(graph.node)):
        node = makers.get(output)
        if node is None or not node.input:
            return ""
        if node.op_type not in ("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice"):
            return node.op_type
        output = node.input[0]
    return ""


def probes_of(
    path: str | os.PathLike[str], probes: Mapping[str, np.ndarray], held: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The probe values to compute with in place of a file's weights.

    Args:
        path: the .onnx file.
        probes: hub name → probe values.
        held: what the file should hold of these; where it holds something else, that stays, so that a comparison
            shows it.
    """
    own = values_of(path, probes) if probes else {}
    return {name: array for name, array in probes.items() if name in own and np.array_equal(own[name], held[name])}


def onnx_blobs(
    path: str | os.PathLike[str],
    data: np.ndarray,
    names: Sequence[str],
    overrides: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Blobs of an exported network by ONNX Runtime on the CPU.

    Args:
        path: a file of `export_onnx`; its values carry the names of the blobs.
        data: N×C×H×W.
        names: which blobs; the network's input may be among them.
        overrides: weights to compute with in place of the file's, hub name → array.

    Raises:
        ValueError: it is no ONNX file, or cannot be run; the graph has no such value.
    """
    try:
        return onnx_values(path, data, names, overrides)
    except Exception as error:  # ONNX Runtime's errors have no class in common
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise ValueError(f"{path}: ONNX Runtime cannot run it: {first_line(error)}") from None
