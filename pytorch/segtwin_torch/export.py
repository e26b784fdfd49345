"""From a torch model to ONNX, and to torch's own checkpoint.

torch.onnx traces the network with every blob as an output, so that each keeps its name in the graph; then the outputs are reduced to the row's
one. The weights stay out of the trace and are put into the file as the hub has them.
"""

from __future__ import annotations

import logging
import os
import warnings

import onnx
import onnx_ir as ir
import torch
from segtwin import architectures
from segtwin.files import whole
from segtwin_weights import onnx_file
from torch import nn
from torch.export import Dim

from segtwin_torch.weights import table

OPSET = 18


def export_onnx(model: nn.Module, path: str | os.PathLike[str], opset: int = OPSET, external_data: bool | None = None) -> None:
    """Write a model as ONNX.

    The graph takes one input N×C×H×W under the row's name (`data`) and gives one output N×classes×H×W (`score`); N, H and W are free. Row,
    colour order and mean stand in its metadata.

    Args:
        model: made by `build`; exported as in inference.
        path: the .onnx file; external weights go to `path` + ".data".
        opset: version of the ONNX operators, 18 or later.
        external_data: weights in a file of their own: None (above 100 MB), True or False.

    Raises:
        ValueError: the weights are above 2 GB and `external_data` is False.
        OSError: a file cannot be written.
    """
    row = architectures.get(str(model.name))
    weights = ((name, tensor.detach().cpu().numpy()) for name, tensor in table(model).items())
    onnx_file.write(skeleton(model, opset), weights, path, onnx_file.metadata_of(row, getattr(model, "weights_metadata", {})), external_data)


def save_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the state_dict, which `torch.load(path, weights_only=True)` reads.

    Raises:
        OSError: the file cannot be written.
    """
    with whole(path) as draft:
        torch.save(model.state_dict(), draft)


class EveryBlob(nn.Module):
    """A model whose outputs are all of its blobs, in order, but for the input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Every blob after the input."""
        notebook: dict[str, torch.Tensor] = {}
        self.model(data, notebook)
        return tuple(notebook.values())[1:]


def skeleton(model: nn.Module, opset: int) -> onnx.ModelProto:
    """The graph of a model, its weights as inputs under their hub names, its values under the names of the blobs."""
    row = architectures.get(str(model.name))
    training = model.training
    like = next(model.parameters())
    example = torch.zeros(2, next(model.parameters()).shape[1], 67, 91, dtype=like.dtype, device=like.device)
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        program = torch.onnx.export(
            EveryBlob(model).eval(),
            (example,),
            input_names=[row.input],
            output_names=list(row.blobs[1:]),
            dynamic_shapes=(free,),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    finally:
        model.train(training)
    assert program is not None
    graph = program.model.graph
    for name in list(graph.initializers):
        value = graph.initializers[name]
        if name.startswith("model."):
            del graph.initializers[name]
            value.name = name.removeprefix("model.").replace(".", "/")
            value.const_value = None
            graph.inputs.append(value)
    for value in list(graph.outputs):
        if value.name != row.output:
            graph.outputs.remove(value)
    return ir.to_proto(program.model)
