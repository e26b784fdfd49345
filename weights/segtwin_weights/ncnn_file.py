"""A network for ncnn: `.param`, its layers as text, and `.bin`, its weights, written from the table of layers.

No framework and no converter has a part in it. Blobs keep their names, sizes are free, and of an FCN what sees
padding alone is left out (`segtwin.geometry.dead_zones`), as in the ONNX files.

Source: docs/developer-guide/operators.md and param-and-model-file-structure.md of Tencent/ncnn at a4d2ea1d4, and the
`load_param` of each layer there.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from segtwin.architectures import Architecture, Layer
from segtwin.architectures.schema import BATCHNORM_EPS
from segtwin.errors import WeightsError
from segtwin.files import whole_together
from segtwin.geometry import Repeat

from segtwin_weights import filtering
from segtwin_weights.from_table import INNER, KINDS, single
from segtwin_weights.hub import Weights
from segtwin_weights.metadata import SCHEMA, preprocessing_of
from segtwin_weights.surgery import dimensions

MAGIC = 7767517
FLOAT32 = bytes(4)
"""The flag before weights that may be of other types."""
TO_THE_END = EQUAL = -233
ROWS, COLUMNS = 1, 2
"""Axes of C×H×W."""
RELU = " 9=1"
ENDINGS = (".param", ".bin", ".json")
FILTERED_TAPS = 7
"""Columns of kernels that are computed by `filtered`: fc6's."""
FILTERED_CHANNELS = 64
"""From so many channels on. Filtering costs five noise floors of one layer, less where sums are short; what
`segtwin.noise` allows grows with the sums: 4 for narrow networks, 13.7 here, 33 at fc6's full width."""
OUTPUTS = 2
"""Columns that are computed together there."""


@dataclass
class Node:
    """A line of the .param file, and the arrays that it takes from the .bin, in order; a flag is written before the
    first where the layer reads one."""

    kind: str
    name: str
    bottoms: Sequence[str]
    parameters: str = ""
    arrays: Iterable[np.ndarray] = ()
    flag: bool = False
    tops: Sequence[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tops = self.tops or [self.name]


def write(
    weights: Weights,
    architecture: Architecture,
    path: str | os.PathLike[str],
    verify: Callable[[Path], None] | None = None,
) -> None:
    """Write PATH.param, PATH.bin and PATH.json, which says how inputs are made, for PATH as in `fcn8s.ncnn`.

    Args:
        weights: hub name → array; in the file they are float32.
        architecture: the network that they are for.
        path: without the endings.
        verify: called with the path of the files before they take their names; when it raises, nothing is left.

    Raises:
        WeightsError: the network has a layer that is not written, or a weight is no number of float32.
        ValueError: what `verify` raises.
        OSError: a file cannot be written.
    """
    check(architecture, path)
    nodes = list(graph(weights, architecture))
    text = written(nodes)
    said = facts(weights, architecture)
    param, data, facts_file = files(path)
    with whole_together(data, facts_file, param) as (bin_draft, facts_draft, param_draft):
        with open(bin_draft, "wb") as file:
            for node in nodes:
                write_arrays(file, node)
        facts_draft.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        param_draft.write_text(text, encoding="utf-8")
        if verify is not None:
            verify(param_draft.with_name(param_draft.name.removesuffix(".param")))


def files(path: str | os.PathLike[str]) -> tuple[Path, Path, Path]:
    """The three files of a name."""
    param, data, facts_file = (Path(os.fspath(path) + ending) for ending in ENDINGS)
    return param, data, facts_file


def facts(weights: Weights, architecture: Architecture) -> dict[str, object]:
    """What a user of the files has to know and ncnn's own two have no place for."""
    size = dimensions(weights, architecture)
    preprocessing, known = preprocessing_of(weights, architecture, size.in_channels)
    return {
        "schema": SCHEMA,
        "architecture": architecture.name,
        "input": architecture.input,
        "output": architecture.output,
        "num_classes": size.num_classes,
        "preprocessing": preprocessing.asdict(),
        **({} if known else {"preprocessing_assumed": True}),
        "how": f"float32 {size.in_channels}×H×W; {preprocessing.describe(size.in_channels)}",
        **{
            key: weights.metadata[key]
            for key in ("source", "sha256", "synthetic", "classes")
            if key in weights.metadata
        },
    }


def check(architecture: Architecture, path: str | os.PathLike[str] = "ncnn") -> None:
    """Refuse a network that cannot be written.

    Raises:
        WeightsError: the message names the layer.
    """
    for layer in architecture.used:
        if layer.kind not in WRITERS:
            raise WeightsError(
                f"{path}: {architecture.name} has {layer.name} ({layer.kind}), which is not written for ncnn"
            )


def writable(architecture: Architecture) -> bool:
    """Whether `check` passes."""
    return all(layer.kind in WRITERS for layer in architecture.used)


def graph(weights: Weights, architecture: Architecture) -> Iterator[Node]:
    """The layers, and between them what puts the dead zones back."""
    zones = architecture.dead_zones
    inner = {} if zones is None else {blob: blob + INNER for blob in zones.left_out}
    channels = channels_of(weights, architecture)
    yield Node("Input", architecture.input, ())
    for layer in architecture.used:
        names = [architecture.parameter_name(layer, kind) for kind in KINDS]
        own = [single(weights[name], name) for name in names if name in weights]
        top, bottoms = inner.get(layer.name, layer.name), [inner.get(bottom, bottom) for bottom in layer.bottoms]
        repeat = zones.repeats.get(layer.name) if zones else None
        pad = zones.pad if zones and layer is architecture.layers[0] else layer.pad
        made = Made(
            layer,
            layer.name + "_once" if repeat else top,
            bottoms,
            own,
            pad,
            architecture.offsets.get(layer.name, 0),
            channels,
        )
        yield from WRITERS[layer.kind](made)
        if repeat:
            yield from repetition(layer.name, layer.name + "_once", top, repeat)


def channels_of(weights: Weights, architecture: Architecture) -> dict[str, int]:
    """Blob → its channels."""
    size = dimensions(weights, architecture)
    return architecture.channels(size.num_classes, size.widths or None, size.in_channels)


@dataclass
class Made:
    """What a layer is written from."""

    layer: Layer
    top: str
    bottoms: list[str]
    arrays: list[np.ndarray]
    pad: int
    """Of a convolution."""
    offset: int
    """Of a crop."""
    channels: Mapping[str, int]
    """Blob → its channels."""


# ---------------------------------------------------------------------------------------- layers


def convolution(made: Made) -> Iterator[Node]:
    """O×I×kh×kw as in the hub; a ReLU behind it is a part of it."""
    layer, (weight, *bias) = made.layer, made.arrays
    if filterable(layer, weight, made.pad):
        yield from filtered(made)
        return
    before, after = (made.pad, made.pad) if layer.pad_after is None else layer.pads
    words = f"0={len(weight)} 1={layer.kernel} 2={layer.dilation} 3={layer.stride}"
    words += f" 4={before} 15={after} 14={before} 16={after} 5={len(bias)} 6={weight.size}" + (
        f" 7={layer.groups}" if layer.groups > 1 else ""
    )
    kind = "ConvolutionDepthWise" if layer.groups > 1 else "Convolution"
    yield Node(kind, made.top, made.bottoms, words + RELU * layer.relu, [weight, *bias], flag=True)


def filterable(layer: Layer, weight: np.ndarray, pad: int) -> bool:
    """Whether `filtered` writes a convolution."""
    plain = (layer.stride, layer.dilation, layer.groups, pad, layer.pad_after) == (1, 1, 1, 0, None)
    return plain and layer.kernel == FILTERED_TAPS and weight.shape[1] >= FILTERED_CHANNELS


def filtered(made: Made) -> Iterator[Node]:
    """A convolution with long rows: two columns from eight products a row of taps instead of fourteen
    (`segtwin_weights.filtering`).

    Bᵀ is a convolution with stride 2 along the columns, the products are eight convolutions with kernels a column
    wide, and Aᵀ is a deconvolution with stride 2. An odd last column is computed with a zero beside it, and cut off.
    """
    (weight, *bias), top = made.arrays, made.top
    (bottom,) = made.bottoms
    out, channels, rows, taps = weight.shape
    to_outputs, to_taps, to_inputs = filtering.matrices(OUTPUTS, taps)
    count = len(to_taps)
    yield Node("Reshape", f"{top}_lines", [bottom], "0=0 1=-1 2=1")  # all channels' rows below each other
    words = f"0={count} 1={count} 11=1 2=1 3={OUTPUTS} 13=1 4=0 15=1 14=0 16=0 5=0 6={to_inputs.size}"
    tiles = [to_inputs.astype(np.float32)]
    yield Node("Convolution", f"{top}_tiles", [f"{top}_lines"], words, tiles, flag=True)
    yield Node("Reshape", f"{top}_groups", [f"{top}_tiles"], f"0=0 1=-1 2={count * channels}")
    parts, products = ([f"{top}_{what}_{number}" for number in range(count)] for what in ("part", "product"))
    yield Node("Slice", f"{top}_parts", [f"{top}_groups"], f"-23300={count}{f',{EQUAL}' * count}", tops=parts)
    words = f"0={out} 1=1 11={rows} 2=1 3=1 4=0 14=0 5=0 6={out * channels * rows}"
    for part, product, row in zip(parts, products, to_taps, strict=True):
        # not one convolution in groups: in bfloat16 ncnn's crashes
        yield Node("Convolution", product, [part], words, map(along_rows, [weight], [row]), flag=True)
    yield Node("Concat", f"{top}_products", products, "0=0")
    yield Node("Reshape", f"{top}_sums", [f"{top}_products"], f"0=0 1=-1 2={count}")
    words = f"0=1 1={OUTPUTS} 11=1 2=1 3={OUTPUTS} 13=1 4=0 14=0 18=0 5=0 6={to_outputs.size}"
    columns = [np.ascontiguousarray(to_outputs.T, np.float32)]
    yield Node("Deconvolution", f"{top}_columns", [f"{top}_sums"], words, columns, flag=True)
    yield Node("Reshape", f"{top}_even", [f"{top}_columns"], f"0=0 1=-1 2={out}")
    ends = f"-23309=3,0,0,0 -23310=3,1,{1 - rows},{1 - taps} -23311=3,0,1,2"
    yield from size_of(top, bottom, ends)
    yield Node("Crop", f"{top}_sum", [f"{top}_even", f"{top}_size"], "0=0 1=0")
    yield from activated(made, Node("Bias", top, [f"{top}_sum"], f"0={out}", bias))


def along_rows(weight: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """O×I×kh×kw → O×I×kh: rows of taps, weighted and added in float64, rounded once."""
    found = np.empty(weight.shape[:-1], np.float32)
    for some in range(0, len(weight), 64):  # a copy of all of fc6 in float64 takes 0.8 GB
        found[some : some + 64] = weight[some : some + 64].astype(np.float64) @ taps
    return found


def deconvolution(made: Made) -> Iterator[Node]:
    """I×O×kh×kw in the hub, O×I×kh×kw in ncnn."""
    layer, (weight, *bias) = made.layer, made.arrays
    words = f"0={weight.shape[1]} 1={layer.kernel} 3={layer.stride} 4={layer.pad} 18={layer.output_pad}"
    words += f" 5={len(bias)} 6={weight.size}"
    arrays = [np.ascontiguousarray(weight.transpose(1, 0, 2, 3)), *bias]
    yield Node("Deconvolution", made.top, made.bottoms, words + RELU * layer.relu, arrays, flag=True)


PAD_MODES = {"ceil": 0, "floor": 1, "same": 2}


def pooling(made: Made) -> Iterator[Node]:
    """Maxima."""
    layer = made.layer
    if layer.sizes == "ceil" and layer.pad:
        raise WeightsError(f"{layer.name}: ncnn's sizes differ from Caffe's for a pooling that is padded")
    words = f"0=0 1={layer.kernel} 2={layer.stride} 3={layer.pad} 5={PAD_MODES[layer.sizes]}"
    yield Node("Pooling", made.top, made.bottoms, words)


def crop(made: Made) -> Iterator[Node]:
    """To the rows and columns of the second bottom. ncnn would take its channels, too, where it has three axes: so
    it is cut to one of its channels and that axis dropped."""
    layer, (bottom, like) = made.layer, made.bottoms
    if made.channels[layer.bottoms[1]] != made.channels[layer.name]:
        yield from size_of(layer.name, like, "-23309=1,0 -23310=1,1 -23311=1,0")
        like = f"{layer.name}_size"
    yield Node("Crop", made.top, [bottom, like], f"0={made.offset} 1={made.offset}")


def size_of(name: str, like: str, part: str) -> Iterator[Node]:
    """NAME_size: a part of a blob, one channel of it, without that axis. What is cut to it keeps its channels."""
    yield Node("Crop", f"{name}_channel", [like], part)
    yield Node("Squeeze", f"{name}_size", [f"{name}_channel"], "2=1")


def eltwise(made: Made) -> Iterator[Node]:
    """The sum of two."""
    if len(made.bottoms) != 2:
        raise WeightsError(f"{made.layer.name}: a sum of {len(made.bottoms)} is not written for ncnn")
    yield from activated(made, Node("BinaryOp", made.top, made.bottoms, "0=0"))


def concat(made: Made) -> Iterator[Node]:
    """Along the channels."""
    yield Node("Concat", made.top, made.bottoms, "0=0")


def scale(made: Made) -> Iterator[Node]:
    """Every channel times its number."""
    (weight,) = made.arrays
    yield Node("Scale", made.top, made.bottoms, f"0={weight.size} 1=0", [weight])


def batch_norm(made: Made) -> Iterator[Node]:
    """weight, mean, variance, bias, as ncnn reads them."""
    weight, bias, mean, variance = made.arrays
    node = Node(
        "BatchNorm", made.top, made.bottoms, f"0={weight.size} 1={BATCHNORM_EPS:e}", [weight, mean, variance, bias]
    )
    yield from activated(made, node)


def upsample_nearest(made: Made) -> Iterator[Node]:
    """Every pixel four times."""
    yield Node("Interp", made.top, made.bottoms, "0=1 1=2 2=2")


def upsample_bilinear(made: Made) -> Iterator[Node]:
    """To twice the size, with aligned corners."""
    yield Node("Interp", made.top, made.bottoms, "0=2 1=2 2=2 6=1")


def relu(made: Made) -> Iterator[Node]:
    """max(x, 0)."""
    yield Node("ReLU", made.top, made.bottoms)


def multiply(made: Made) -> Iterator[Node]:
    """One channel of the second stands for all."""
    if made.channels[made.layer.bottoms[1]] != 1:
        raise WeightsError(f"{made.layer.name}: only products with a single channel are written for ncnn")
    yield Node("BinaryOp", made.top, made.bottoms, "0=2")


def sigmoid(made: Made) -> Iterator[Node]:
    """1 / (1 + e⁻ˣ)."""
    yield Node("Sigmoid", made.top, made.bottoms)


def activated(made: Made, node: Node) -> Iterator[Node]:
    """A ReLU behind a layer that has none of its own."""
    if made.layer.relu:
        node.name, node.tops = f"{made.top}_linear", [f"{made.top}_linear"]
    yield node
    if made.layer.relu:
        yield Node("ReLU", made.top, node.tops)


def repetition(name: str, bottom: str, top: str, repeat: Repeat) -> Iterator[Node]:
    """Rows, then columns: cut into three, the outer two with their inner edge repeated, and put together."""
    row, times = repeat
    cuts = {"first": (0, row + 1), "between": (row + 1, -row - 1), "last": (-row - 1, TO_THE_END)}
    for axis, what, result in ((ROWS, "rows", f"{name}_rows"), (COLUMNS, "columns", top)):
        for place, (start, end) in cuts.items():
            yield Node("Crop", f"{name}_{place}_{what}", [bottom], f"-23309=1,{start} -23310=1,{end} -23311=1,{axis}")
        # Padding: top, bottom, left, right; 4=1: with the edge's own values
        for place, side in (("first", 1), ("last", 0)):
            side += 2 * (axis == COLUMNS)
            yield Node("Padding", f"{name}_{place}_{what}_repeated", [f"{name}_{place}_{what}"], f"{side}={times} 4=1")
        parts = [f"{name}_first_{what}_repeated", f"{name}_between_{what}", f"{name}_last_{what}_repeated"]
        yield Node("Concat", result, parts, f"0={axis}")
        bottom = result


WRITERS: Mapping[str, Callable[[Made], Iterator[Node]]] = {
    "Convolution": convolution,
    "Deconvolution": deconvolution,
    "Pooling": pooling,
    "Crop": crop,
    "Eltwise": eltwise,
    "Concat": concat,
    "Scale": scale,
    "BatchNorm": batch_norm,
    "Sigmoid": sigmoid,
    "UpsampleNearest": upsample_nearest,
    "UpsampleBilinear": upsample_bilinear,
    "ReLU": relu,
    "Multiply": multiply,
}
"""Kind of layer → its nodes. Resize is not among them: ncnn computes its coefficients in float32 (`linear_coeffs` of
src/layer/interp.cpp), and nothing here has held that against the bound."""


# ---------------------------------------------------------------------------------------- files


def written(nodes: Sequence[Node]) -> str:
    """The text of the .param file. A blob that several layers take goes through a Split, as ncnn wants it."""
    uses = Counter(bottom for node in nodes for bottom in node.bottoms)
    taken: Counter[str] = Counter()
    lines, blobs = [], 0
    for node in nodes:
        bottoms = []
        for bottom in node.bottoms:
            bottoms.append(bottom if uses[bottom] == 1 else f"{bottom}_split_{taken[bottom]}")
            taken[bottom] += 1
        lines.append(line(node.kind, node.name, bottoms, node.tops, node.parameters))
        blobs += len(node.tops)
        for top in node.tops:
            if uses[top] > 1:
                copies = [f"{top}_split_{number}" for number in range(uses[top])]
                lines.append(line("Split", f"{top}_split", [top], copies))
                blobs += len(copies)
    return "\n".join([str(MAGIC), f"{len(lines)} {blobs}", *lines]) + "\n"


def line(kind: str, name: str, bottoms: Sequence[str], tops: Sequence[str], parameters: str = "") -> str:
    """Kind, name, numbers of blobs, blobs, parameters."""
    return " ".join(
        [f"{kind:<16}", f"{name:<24}", str(len(bottoms)), str(len(tops)), *bottoms, *tops, parameters]
    ).rstrip()


def write_arrays(file: BinaryIO, node: Node) -> None:
    """One layer's share of the .bin."""
    for number, array in enumerate(node.arrays):
        if node.flag and not number:
            file.write(FLOAT32)
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def compare(weights: Weights, architecture: Architecture, data: Path) -> None:
    """Read a .bin back, and compare every byte.

    Raises:
        ValueError: a weight differs, or there is more or less of it.
    """
    with open(data, "rb") as file:
        for node in graph(weights, architecture):
            for number, array in enumerate(node.arrays):
                flag = file.read(len(FLOAT32)) if node.flag and not number else FLOAT32
                if flag != FLOAT32 or file.read(array.nbytes) != np.ascontiguousarray(array).tobytes():
                    raise ValueError(f"the weights of {node.name} are not those of the network")
        if file.read(1):
            raise ValueError("there are more weights than the network has")
