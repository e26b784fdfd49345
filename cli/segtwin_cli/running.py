"""Networks that can be run on images: weights in a framework or in numpy, ONNX files in ONNX
Runtime as they are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import segtwin
import segtwin_weights
from segtwin import Architecture, Preprocessing, memory
from segtwin.architectures import find_architecture, get_architecture
from segtwin.images import ImageError
from segtwin.palette import voc_palette
from segtwin_weights import Weights, metadata, names, onnx_stamp
from segtwin_weights.hub import file_kind

from segtwin_cli.engines import ENGINES, available_engines
from segtwin_cli.export import framework_twin, read_network
from segtwin_cli.extras import advice, require
from segtwin_cli.preprocessing_options import chosen

Network = Callable[[np.ndarray], np.ndarray]
"""N×C×H×W → N×classes×H×W."""
OF_A_NETWORK = {"colour", "mean", "std", "scale"}
"""Options that say how the inputs of a network were made; bits is of the images."""


@dataclass
class Running:
    """A network in an engine, with what is known of it."""

    network: Network
    file: str
    engine: str
    architecture: Architecture | None
    num_classes: int
    in_channels: int
    preprocessing: Preprocessing
    output: str
    """"probability", "logits" (of a sigmoid), or "score" (of a softmax)."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Its metadata."""
    size: tuple[int | None, int | None] = (None, None)
    """Rows and columns where the file fixes them."""
    widths: tuple[int, ...] | None = None
    """Of the architecture's layers; None: not known."""

    @property
    def name(self) -> str:
        """Of the network, or of its file."""
        return self.architecture.name if self.architecture else Path(self.file).name

    def check_size(self, height: int, width: int) -> None:
        """Refuse an image that the network does not take.

        Raises:
            ValueError: the message names the sizes that it takes.
        """
        if any(fixed not in (None, size) for fixed, size in zip(self.size, (height, width), strict=True)):
            wanted = "×".join("any" if size is None else str(size) for size in self.size)
            raise ValueError(f"{self.file}: takes images of {wanted} pixels alone, not {height}×{width}")
        if self.architecture and self.architecture.name != "unet-paper":
            self.architecture.check_size(height, width)

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns to which an image is mirrored."""
        legal = [
            fixed or (self.architecture.legal_size(size) if self.architecture else size)
            for fixed, size in zip(self.size, (height, width), strict=True)
        ]
        return legal[0], legal[1]

    def memory(self, height: int, width: int, pad: str | None, tile: int) -> int:
        """Bytes that the network's blobs take at the least for one image, which may be computed in
        tiles; 0 for a size that it does not take."""
        ends = memory.FLOAT32 * (self.in_channels + self.num_classes) * height * width
        if self.architecture is None or self.widths is None:
            return ends
        if self.architecture.name == "unet-paper":
            shape = (self.size[0] or tile, self.size[1] or tile)
            try:
                rows, columns = (
                    max(size for _, size in segtwin.tiles.cuts(n, one))
                    for n, one in zip((height, width), shape, strict=True)
                )
            except ValueError:
                return 0
            return ends + memory.of_blobs(
                self.architecture, rows, columns, self.num_classes, self.in_channels, self.widths
            )
        if pad is not None:
            height, width = self.legal_size(height, width)
        try:
            return memory.of_blobs(self.architecture, height, width, self.num_classes, self.in_channels, self.widths)
        except ValueError:
            return 0

    def probabilities(self, data: np.ndarray, pad: str | None, tile: int, always: bool) -> np.ndarray:
        """classes×H×W of one image: what the network gives, scores made probabilities if `always`,
        or where a single class needs a threshold.

        Raises:
            ValueError: the image does not fit the network.
        """
        height, width = data.shape[2:]
        if self.architecture and self.architecture.name == "unet-paper":
            shape = self.size[0] or tile, self.size[1] or tile
            result = segtwin.overlap_tile(self.network, data, shape, fixed=self.size != (None, None))
        elif pad is None:
            try:
                self.check_size(height, width)
            except ValueError as error:
                legal = self.legal_size(height, width)
                raise ValueError(
                    f"{error} (or add --pad reflect)" if legal[0] >= height and legal[1] >= width else str(error)
                ) from None
            result = self.network(data)
        else:
            legal = self.legal_size(height, width)
            if legal[0] < height or legal[1] < width:
                self.check_size(height, width)
            rows, columns = (
                segtwin.tiles.mirrored(0, new, size) for new, size in zip(legal, (height, width), strict=True)
            )
            padded = np.ascontiguousarray(data[:, :, rows[:, np.newaxis], columns])
            result = self.network(padded)
            if result.ndim != 4 or result.shape[2:] != padded.shape[2:]:
                raise ValueError(
                    f"{self.file}: gives {'×'.join(map(str, result.shape))} for {legal[0]}×{legal[1]} pixels, no "
                    "class a pixel"
                )
            result = result[:, :, :height, :width]
        if result.ndim != 4 or result.shape[2:] != (height, width):
            raise ValueError(
                f"{self.file}: gives {'×'.join(map(str, result.shape))} for {height}×{width} pixels, no class a "
                "pixel (N×classes×H×W)"
            )
        if self.output == "probability" and not -NEARLY <= float(result.min()) <= float(result.max()) <= 1 + NEARLY:
            raise ValueError(
                f"{self.file}: gives values from {result.min():.4g} to {result.max():.4g}, which are no probabilities; "
                'call the output "logits" where a sigmoid is still to come, or export the graph with it'
            )
        single = result.shape[1] == 1
        if self.output == "logits" and (always or single):
            result = 1 / (1 + np.exp(-result.astype(np.float64)))
        elif self.output == "score" and always and not single:
            powers = np.exp(result - result.max(axis=1, keepdims=True))
            result = powers / powers.sum(axis=1, keepdims=True)
        return result[0]


NEARLY = 1e-3
"""What a probability may lie outside 0..1: float16 and rounded sums of a softmax."""
ENGINES_SPACE = 4
"""An engine may take so many times what the blobs take: measured 1 to 3 in PyTorch and ONNX
Runtime, up to 9 in Keras, which keeps every blob of a functional model, 3 to 6 in numpy."""


def fits(name: str, height: int, width: int, network: str, need: int, say: Callable[[str], None]) -> None:
    """Whether the memory that is free holds a network's blobs; said before it is spent, since the
    system kills what takes more, without a word.

    Args:
        name: of the image.
        height: its rows.
        width: its columns.
        network: its name.
        need: bytes of the blobs.
        say: told where it may become scarce.

    Raises:
        ImageError: it does not.
    """
    free = memory.free()
    if free is None or ENGINES_SPACE * need <= free:
        return
    what = f"{name}: {height}×{width} pixels take {memory.gigabytes(need)} of memory in {network}"
    if need > free:
        raise ImageError(f"{what}, {memory.gigabytes(free)} are free; cut the image into smaller ones")
    say(f"{what}, or several times as much, {memory.gigabytes(free)} are free")


def choose_engine(engine: str, onnx: bool, path: str) -> str:
    """The engine that runs a file; found and checked before any long work.

    Raises:
        click.ClickException: it is not installed, or cannot run such a file.
    """
    if onnx:
        if engine not in ("auto", "onnxruntime"):
            raise click.ClickException(
                f"{path}: is an ONNX file, which --engine onnxruntime runs; {engine} takes weights"
            )
        require("onnxruntime", purpose="running an ONNX file")
        return "onnxruntime"
    there = available_engines()
    if engine == "auto":
        return next(one for one in ("torch", "keras", "oracle") if one in there)
    require(engine, purpose=f"--engine {engine}")
    if engine == "onnxruntime" and not {"torch", "keras"} & set(there):
        raise click.ClickException(
            f"--engine onnxruntime needs torch or keras to export {path}; {advice('torch')}, or use --engine oracle"
        )
    return engine


def is_onnx(path: str) -> bool:
    """Whether a file is an ONNX graph, by content.

    Raises:
        WeightsError: it is no file of weights.
        OSError: it cannot be read.
    """
    return file_kind(path) == "onnx"


def start_onnx(path: str, network: str | None, stated: dict[str, Any], say: Callable[[str], None]) -> Running:
    """An ONNX file in ONNX Runtime.

    Args:
        path: the file, run as it is.
        network: its name, where the file does not say it.
        stated: options of preprocessing.
        say: takes a line that the user should read.

    Raises:
        ValueError: the file cannot be run, takes no N×C×H×W, or nothing says how its inputs are
            made.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
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
        channels = 1 if stated.get("colour") == "grey" else architecture.in_channels if architecture else 3
    if channels not in (1, 3) and size[1] in (1, 3):
        raise ValueError(
            f"{path}: takes {'×'.join(map(str, source.shape))}, channels last; predict runs networks of one input "
            "N×C×H×W"
        )
    own = metadata.stated(facts, architecture)
    base = own or (architecture.preprocessing if architecture else None)
    if base is None and not OF_A_NETWORK & stated.keys():
        raise ValueError(
            f"{path}: says neither its network nor how its inputs are made; add --network NAME, or --colour, "
            "--mean, --std, --scale"
        )
    preprocessing = prepared(base or Preprocessing(), channels, own is not None or base is None, stated, say)
    result = next((one for one in outputs if len(one.shape) == 4), outputs[0])
    classes = (
        result.shape[1]
        if len(result.shape) == 4 and isinstance(result.shape[1], int)
        else int(facts.get("num_classes", 0))
    )
    output = (
        result.name
        if result.name in ("probability", "logits")
        else "probability"
        if architecture and architecture.output == "probability"
        else "score"
    )
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
        full = (
            np.concatenate([data, *[data[-1:]] * (-len(data) % batch)]) if batch else data
        )  # a fixed number of images at a time
        parts = np.split(full, len(full) // batch) if batch else [full]
        results = [session.run([result.name], {source.name: part})[0] for part in parts]
        return np.concatenate(results)[: len(data)].astype(np.float32, copy=False)

    return Running(
        run, path, "onnxruntime", architecture, classes, channels, preprocessing, output, facts, (size[0], size[1])
    )


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


TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def start_weights(
    path: str,
    engine: str,
    network: str | None,
    stated: dict[str, Any],
    say: Callable[[str], None],
    step: Callable[[str], None],
    stack: ExitStack,
) -> Running:
    """Weights in an engine.

    Args:
        path: of the weights.
        engine: of ENGINES.
        network: its name, where the file does not say it.
        stated: options of preprocessing.
        say: takes a line that the user should read.
        step: is told what begins.
        stack: keeps the folder of an export until the end.

    Raises:
        ValueError: the file holds no network that is known here.
    """
    step(f"reading {path}")
    loaded, found = read_network(path, network)
    architecture = get_architecture(found)
    size = segtwin_weights.dimensions(loaded, architecture)
    if size.num_classes > 256:
        raise click.ClickException(f"{path}: has {size.num_classes} classes; a mask is an image of at most 256")
    own = metadata.stated(loaded, architecture)
    if not OF_A_NETWORK & stated.keys():
        names.check_inputs(loaded, architecture)
    preprocessing = prepared(own or architecture.preprocessing, size.in_channels, own is not None, stated, say)
    step(f"starting {engine}")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segtwin-")))
    output = "probability" if architecture.output == "probability" else "score"
    facts = dict(loaded.metadata)
    network_in_engine = start(engine, architecture, size, loaded, folder)
    return Running(
        network_in_engine,
        path,
        engine,
        architecture,
        size.num_classes,
        size.in_channels,
        preprocessing,
        output,
        facts,
        widths=tuple(size.widths),
    )


def prepared(
    base: Preprocessing, channels: int, known: bool, stated: dict[str, Any], say: Callable[[str], None]
) -> Preprocessing:
    """The preprocessing that is used: the file's or the architecture's, as the options change it.
    What is only assumed is said."""
    preprocessing = chosen(base, stated, say, channels)
    if not known and not OF_A_NETWORK & stated.keys():
        assumed = preprocessing.describe(channels)
        say(
            f"preprocessing assumed from the network's names: {assumed}; say --colour, --mean, --std, --scale "
            "where it was another"
        )
    return preprocessing


def start(
    engine: str, architecture: Architecture, size: segtwin_weights.Dimensions, weights: Weights, folder: Path
) -> Network:
    """The network in an engine. ONNX Runtime gets the export of whichever framework is installed,
    kept in `folder`."""
    if engine == "oracle":
        from segtwin import oracle

        if not architecture.layers:
            raise ValueError(
                f"{architecture.name}: --engine oracle has no table of its layers; use {', '.join(ENGINES[:3])}"
            )
        return lambda data: oracle.run(architecture, weights, data, "float32")[architecture.output]
    if engine == "onnxruntime":
        import onnxruntime

        twin = framework_twin("torch" if "torch" in available_engines() else "keras")
        twin.export_onnx(twin.build(architecture.name, **size._asdict(), weights=weights), folder / "network.onnx")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(folder / "network.onnx", options, providers=["CPUExecutionProvider"])
        return lambda data: session.run(None, {architecture.input: data})[0]
    model: Any = framework_twin(engine).build(architecture.name, **size._asdict(), weights=weights)
    if engine == "keras":
        return lambda data: np.ascontiguousarray(
            model(data.transpose(0, 2, 3, 1), training=False).numpy().transpose(0, 3, 1, 2)
        )
    import torch

    def run(data: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(data)).numpy()

    return run


def colours_of(facts: dict[str, Any], palette: list[list[int]] | None, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """n×3 uint8: colours of a mask's classes, and of an overlay's. One or two classes without a
    palette are black and white, in an overlay red."""
    colours = palette or facts.get("palette")
    if colours is None and classes <= 2:
        return np.array([(0, 0, 0), (255, 255, 255)], np.uint8), np.array([(0, 0, 0), FOREGROUND], np.uint8)
    chosen_colours = np.array(colours if colours is not None else voc_palette(), np.uint8).reshape(-1, 3)
    if len(chosen_colours) < max(classes, 2):
        raise click.ClickException(
            f"the palette has {len(chosen_colours)} colours, the network {max(classes, 2)} classes"
        )
    return chosen_colours, chosen_colours


FOREGROUND = (255, 40, 40)
"""Colour of the one class in an overlay."""


def names_of(facts: dict[str, Any], names: list[str] | None, classes: int) -> list[str]:
    """Names of a mask's indices; numbers where nobody names them. A single class stands beside the
    background."""
    found = list(map(str, names or facts.get("classes") or []))
    indices = max(classes, 2)
    if classes == 1 and len(found) == 1:
        found = ["background", *found]
    if names is not None and len(found) != indices:
        raise click.ClickException(f"--classes names {len(found)} classes, the network has {classes}")
    return found if len(found) >= indices else [str(number) for number in range(indices)]
