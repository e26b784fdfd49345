"""The layers that both twins run are those of the network's table: the same names, kinds, kernels, strides, pads and
groups, in the same order."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import keras
import pytest
import segtwin_keras
import segtwin_torch
import torch
from segtwin.architectures import get_architecture, list_architectures
from segtwin.architectures.schema import Architecture
from segtwin.layer_kinds import KINDS
from segtwin_keras.fcn import Scale
from segtwin_keras.unet import BatchNorm
from segtwin_torch.fcn import Scale as TorchScale
from torch import nn

NETWORKS = [(name, {}) for name in list_architectures()] + [("fcn8-vgg", {"use_dilated": True})]


class Run(NamedTuple):
    """One layer with weights, as it was run."""

    name: str
    kind: str
    kernel: int = 1
    stride: int = 1
    pad: int = 0
    output_pad: int = 0
    dilation: int = 1


def small(name: str) -> dict:
    """Arguments of a cheap build."""
    widths = get_architecture(name).widths
    return {"widths": tuple(range(2, 2 + len(widths)))} if widths else {}


def table(architecture: Architecture) -> list[Run]:
    """What the table of layers says."""
    runs = []
    for layer in architecture.layers:
        if KINDS[layer.kind].weight_shape(layer, 1, 1) is not None and not layer.idle:
            kind = layer.kind.removesuffix("Same")
            name = (layer.module or layer.name).replace("-", "_")
            runs.append(Run(name, kind, layer.kernel, layer.stride, layer.pad, layer.output_pad, layer.dilation))
    return runs


def run_by_torch(model: segtwin_torch.Network, data: torch.Tensor) -> list[Run]:
    """Modules with weights in the order in which a forward pass calls them."""
    runs: list[Run] = []

    def window(module: nn.Module) -> tuple[int, int, int]:
        return module.kernel_size[0], module.stride[0], module.padding[0]

    def note(name: str, module: nn.Module) -> None:
        if isinstance(module, nn.ConvTranspose2d):
            kernel, stride, pad, more = (
                one[0] for one in (module.kernel_size, module.stride, module.padding, module.output_padding)
            )
            runs.append(Run(name, "Deconvolution", kernel, stride, pad, more, module.dilation[0]))
        elif isinstance(module, nn.Conv2d):
            kernel, stride, pad, dilation = (
                one[0] for one in (module.kernel_size, module.stride, module.padding, module.dilation)
            )
            runs.append(Run(name, "Convolution", kernel, stride, pad, 0, dilation))
        elif isinstance(module, nn.BatchNorm2d):
            runs.append(Run(name, "BatchNorm"))
        elif isinstance(module, TorchScale):
            runs.append(Run(name, "Scale"))

    hooks = [
        module.register_forward_pre_hook(lambda module, _, name=name: note(name, module))
        for name, module in model.named_modules()
    ]
    with torch.inference_mode():
        model(data, {})  # with a notebook, every head
    for hook in hooks:
        hook.remove()
    return runs


@contextmanager
def calls_of_layers() -> Iterator[list[keras.layers.Layer]]:
    """Keras' layers in the order in which they are called while a model is built."""
    called: list[keras.layers.Layer] = []
    original = keras.layers.Layer.__call__

    def call(self, *arguments, **options):
        result = original(self, *arguments, **options)
        called.append(self)
        return result

    keras.layers.Layer.__call__ = call
    try:
        yield called
    finally:
        keras.layers.Layer.__call__ = original


def run_by_keras(called: list[keras.layers.Layer]) -> list[Run]:
    """Layers with weights, with the paddings before and the cuts behind them that make up their pads."""
    by_name = {layer.name: layer for layer in called}
    runs = []
    for layer in called:
        name = layer.name.replace("-", "_")
        if isinstance(layer, keras.layers.Conv2DTranspose):
            cut = by_name.get(f"{layer.name}_crop")
            before, after = (0, 0) if cut is None else cut.cropping[0]
            runs.append(Run(name, "Deconvolution", layer.kernel_size[0], layer.strides[0], before, before - after))
        elif isinstance(layer, keras.layers.Conv2D):
            padding = by_name.get(f"{layer.name}_pad")
            pad = 0 if padding is None else padding.padding[0][0]
            assert layer.padding == "valid"
            runs.append(
                Run(name, "Convolution", layer.kernel_size[0], layer.strides[0], pad, 0, layer.dilation_rate[0])
            )
        elif isinstance(layer, BatchNorm):
            runs.append(Run(name, "BatchNorm"))
        elif isinstance(layer, Scale):
            runs.append(Run(name, "Scale"))
    return runs


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=lambda value: value if isinstance(value, str) else "")
def test_both_twins_run_the_tables_layers(name: str, options: dict) -> None:
    model = segtwin_torch.build(name, seed=1, **small(name), **options)
    architecture = model.architecture
    want = table(architecture)
    data = torch.zeros(1, architecture.in_channels, *architecture.example_size)
    assert run_by_torch(model, data) == want
    with calls_of_layers() as called:
        twin = segtwin_keras.build(name, seed=1, **small(name), **options)
    assert twin.architecture is architecture
    assert run_by_keras(called) == want
    assert segtwin_torch.weights.blob_names(model) == segtwin_keras.weights.blob_names(twin) == architecture.blobs
