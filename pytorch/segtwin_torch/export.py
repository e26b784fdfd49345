"""From a torch model to ONNX, and to torch's own checkpoint.

torch.onnx traces the network with every blob as an output, so that each keeps its name in the
graph; then the outputs are reduced to the architecture's one. The weights stay out of the trace and
are put into the file as the hub has them.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript.optimizer import optimize
from segtwin.architectures import Architecture
from segtwin.errors import known_arguments
from segtwin.files import whole, written_by_a_library
from segtwin.layer_kinds import KINDS
from segtwin_weights import onnx_export, onnx_file
from segtwin_weights.formats import torch_file
from torch import nn
from torch.export import Dim
from torch.func import functional_call

from segtwin_torch.network import Network, unwrap
from segtwin_torch.weights import blob_names, in_eval_mode, table, used_weights

OPSET = onnx_file.OPSETS["torch"][0]


@known_arguments
def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    opset: int = OPSET,
    external_data: bool | None = None,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    fold_batchnorm: bool = False,
    verify: bool = True,
) -> None:
    """Write a model as ONNX.

    The graph takes one input N×C×H×W under the architecture's name (`data`, `image`) and gives one
    output N×classes×H×W (`score`, `probability`, `logits`); N, H and W are free, as far as they fit
    the network, unless `size` is given. Architecture and preprocessing stand in its metadata. What sees
    padding alone is left out unless `leave_out_dead_zones(model, False)` was called.
    Before the file takes its name it is checked, its weights are compared with the model's, and
    ONNX Runtime and the model compute one small random image.

    Args:
        model: made by `build`; exported as in inference.
        path: the .onnx file; external weights go to `path` + ".data".
        opset: version of the ONNX operators, 18 to 23; the file has this one.
        external_data: weights in a file of their own: None (above 100 MB), True or False.
        size: rows and columns of every image: the graph is of this one size, and computes no sizes.
        batch: number of images, with `size`; by default 1.
        fold_batchnorm: make one operation of a convolution and the BatchNorm behind it, and check
            the result against the unfolded graph.
        verify: False: write the file without checking, comparing and running it.

    Raises:
        ValueError: another opset, or one that the graph cannot be written in.
        ValueError: the model was built with `pad`; the size does not fit the network; `batch`
            without `size`; folding moves the output.
        ValueError: the weights are above 2 GB and `external_data` is False; the file differs from
            the model. Nothing is left of it then.
        OSError: a file cannot be written.
    """
    network = unwrap(model)
    source = onnx_export.Exportable(
        framework="torch",
        architecture=network.architecture,
        metadata=network.metadata,
        blobs=blob_names(network),
        in_channels=network.in_channels,
        pad=network.pad,
        skeleton=partial(skeleton, network),
        weights=lambda: ((name, tensor.detach().cpu().numpy()) for name, tensor in used_weights(network).items()),
        run=partial(run, network),
        leaves_out=network.leaves_out,
    )
    onnx_export.export(source, path, opset, external_data, size, batch, fold_batchnorm, verify)


def save_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the state_dict, which `torch.load(path, weights_only=True)` reads, and beside it in the
    archive the model's metadata, which `load` reads.

    Raises:
        OSError: the file cannot be written.
    """
    network = unwrap(model)
    with whole(path) as draft, written_by_a_library(path):
        torch.save(network.state_dict(), draft)
        torch_file.add_metadata(draft, network.metadata)


def run(
    model: Network, data: np.ndarray, instead: Mapping[str, np.ndarray], blobs: Sequence[str]
) -> dict[str, np.ndarray]:
    """Some blobs of an inference pass on the CPU by torch's default kernels, with other weights in
    the place of some.

    Args:
        model: left as it is.
        data: N×C×H×W.
        instead: hub name → array.
        blobs: their names.
    """
    slots = table(model)
    keys = dict(zip(slots, model.state_dict(), strict=True))
    tensors = {key: tensor.detach().cpu() for key, tensor in (*model.named_parameters(), *model.named_buffers())}
    tensors |= {keys[name]: torch.from_numpy(array) for name, array in instead.items()}
    notebook: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        first = next(iter(tensors.values()))
        functional_call(in_eval_mode(model), tensors, (torch.from_numpy(data).to(first.dtype), notebook))
    return {name: notebook[name].numpy() for name in blobs}


class EveryBlob(nn.Module):
    """A model as a function of its weights, whose outputs are these of its blobs."""

    def __init__(self, model: Network, blobs: list[str]) -> None:
        super().__init__()
        self.model, self.blobs = model, blobs

    def forward(self, data: torch.Tensor, weights: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The blobs, in order."""
        notebook: dict[str, torch.Tensor] = {}
        functional_call(self.model, weights, (data, notebook))
        return tuple(notebook[name] for name in self.blobs)


def skeleton(model: Network, opset: int, shape: tuple[int, int, int] | None = None) -> onnx.ModelProto:
    """The graph of a model, its weights as inputs under their hub names, its values under the names
    of the blobs; of any N, H and W, or of one."""
    architecture = model.architecture
    blobs = [name for name in blob_names(model)[1:] if name in architecture.exported]
    slots = used_weights(model)
    keys = dict(zip(table(model), model.state_dict(), strict=True))
    weights = {keys[name]: tensor for name, tensor in slots.items()}
    first = next(iter(weights.values()))
    n, *size = shape or (2, *architecture.example_size)
    data = torch.zeros(n, model.in_channels, *size, dtype=first.dtype, device=first.device)
    free = None if shape else {"data": {0: Dim.DYNAMIC, **free_sizes(architecture)}, "weights": dict.fromkeys(weights)}

    with without("torchvision", "triton"):
        program = torch.onnx.export(
            EveryBlob(in_eval_mode(model), blobs).eval(),
            (data,),
            kwargs={"weights": weights},
            input_names=[architecture.input, *slots],
            output_names=blobs,
            dynamic_shapes=free,
            opset_version=opset,
            dynamo=True,
            optimize=False,  # `tidy` does
            verbose=False,
        )
    assert program is not None
    graph = program.model
    tidy(graph, blobs[-1])
    if free is not None and not free_sizes(architecture):
        sizes_of_blobs(graph.graph, architecture)
    return ir.to_proto(graph)


def sizes_of_blobs(graph: ir.Graph, architecture: Architecture) -> None:
    """A blob that is resized to the size of another, and was traced at one size, takes it from there."""
    values = {value.name: value for node in graph for value in node.outputs}
    for layer in architecture.layers:
        node = values[layer.name].producer() if layer.name in values else None
        if KINDS[layer.kind].resizes_to_second and node is not None and node.op_type == "Resize":
            like = values[layer.bottoms[1]]
            images = ir.node("Shape", [node.inputs[0]], attributes={"start": 0, "end": 2})
            size = ir.node("Shape", [like], attributes={"start": 2, "end": 4})
            whole = ir.node("Concat", [images.outputs[0], size.outputs[0]], attributes={"axis": 0})
            graph.insert_before(node, [images, size, whole])
            node.resize_inputs(4)
            node.replace_input_with(2, None)
            node.replace_input_with(3, whole.outputs[0])


def free_sizes(architecture: Architecture) -> dict[int, Any]:
    """The axes of the image, rows and columns, that the trace takes for symbols.

    The U-Nets take only sizes that fit, so that no operation of theirs depends on the size: they
    are traced at one size, and the axes are named afterwards. As symbols, "16 times something"
    costs torch.export a minute of algebra.
    """
    return {2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if architecture.size_step == 1 else {}


@contextmanager
def without(*modules: str) -> Iterator[None]:
    """Once TensorFlow is there, these count as not installed unless they are there too.

    torch.onnx imports torchvision and triton for operators that no network here has. After
    TensorFlow, either import aborts the interpreter ("LLVM ERROR: inconsistency in registered
    CommandLine options"), because each brings an LLVM.
    """
    absent = [name for name in modules if name not in sys.modules] if "tensorflow" in sys.modules else []
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx._internal.exporter._registration", "torch.utils.flop_counter")
    ]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type] # None: an import of it fails
        yield
    finally:
        for name in absent:
            del sys.modules[name]
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def tidy(model: ir.Model, output: str) -> None:
    """Keep one output, and cut rows and columns in one Slice, not in two."""
    graph = model.graph
    for value in list(graph.outputs):
        if value.name != output:
            graph.outputs.remove(value)
    for columns in list(graph):
        rows = columns.inputs[0].producer() if columns.op_type == "Slice" and columns.inputs[0] is not None else None
        if (
            rows is not None
            and rows.op_type == "Slice"
            and len(rows.outputs[0].uses()) == 1
            and not rows.outputs[0].is_graph_output()
        ):
            both = [ir.node("Concat", [rows.inputs[i], columns.inputs[i]], attributes={"axis": 0}) for i in range(1, 5)]
            graph.insert_before(columns, both)
            columns.replace_input_with(0, rows.inputs[0])
            for i, concat in enumerate(both, start=1):
                columns.replace_input_with(i, concat.outputs[0])
    optimize(model)  # folds the Concats of constants
    passes.ClearMetadataAndDocStringPass()(model)  # traces of the exporting machine
