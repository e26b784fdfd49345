"""An architecture as Caffe would be told of it: deploy, train/val and solver prototxt, from the
architecture's table of layers.

Source: the prototxt files that net.py of shelhamer/fcn.berkeleyvision.org at
1305c7378a9f0ab44b2c936f4d60e4687e3d8743 writes, and its solver.prototxt files. Departure: crop
offsets are written into the deploy file as they are into theirs, but derived
(`geometry.crop_offsets`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from segtwin import Preprocessing
from segtwin.architectures import Architecture, Layer
from segtwin.layer_kinds import KINDS, Message, Word
from segtwin.solver import PUBLISHED


class CaffeLayer(NamedTuple):
    """One layer of the net, with what it says beside its name, type, bottoms and tops."""

    name: str
    kind: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    more: Message = ()


DEPLOY_SIZES = {"vgg16": (224, 224), "unet-paper": (572, 572)}
DEPLOY_SIZE = (500, 500)
"""Rows and columns in a deploy file; Caffe and OpenCV reshape to whatever comes."""


def net(architecture: Architecture, classes: int, in_channels: int, widths: tuple[int, ...]) -> Iterator[CaffeLayer]:
    """The layers of an architecture, with the in-place ReLU and Dropout layers behind those that
    have one."""
    channels = architecture.channels(classes, widths, in_channels)
    height, width = DEPLOY_SIZES.get(architecture.name, DEPLOY_SIZE)
    yield CaffeLayer(
        architecture.input,
        "Input",
        (),
        (architecture.input,),
        [("input_param", [("shape", [("dim", d) for d in (1, in_channels, height, width)])])],
    )
    for layer in architecture.layers:
        yield CaffeLayer(
            layer.name, layer.kind, layer.bottoms, (layer.name,), parameters(layer, architecture, channels[layer.name])
        )
        if layer.relu:
            yield CaffeLayer(beside(layer.name, "relu"), "ReLU", (layer.name,), (layer.name,))
        if layer.dropout:
            yield CaffeLayer(
                beside(layer.name, "drop"),
                "Dropout",
                (layer.name,),
                (layer.name,),
                [("dropout_param", [("dropout_ratio", layer.dropout)])],
            )


def beside(name: str, kind: str) -> str:
    """relu1_1 for conv1_1, drop6 for fc6: how net.py calls the layers in place."""
    return re.sub(r"^(conv|fc)", kind, name) if re.match(r"conv|fc", name) else f"{kind}_{name}"


def parameters(layer: Layer, architecture: Architecture, outputs: int) -> Message:
    """The `param` and `…_param` messages of a layer."""
    more: list[tuple[str, object]] = []
    kind = KINDS[layer.kind]
    if kind.weight_shape(layer, 1, 1) is not None:
        for lr, decay in list(zip(layer.lr_mult, layer.decay_mult, strict=True))[: 1 + layer.bias]:
            # a fixed layer says lr_mult 0 alone, as in net.py
            more.append(("param", [("lr_mult", lr), ("decay_mult", decay)] if lr else [("lr_mult", 0)]))
    return [*more, *kind.prototxt(layer, outputs, architecture.offsets.get(layer.name, 0))]


def writable(architecture: Architecture) -> bool:
    """Whether Caffe has every layer of a network, so that it can be said as a prototxt."""
    return architecture.naming == "caffe" and all(KINDS[layer.kind].caffe for layer in architecture.layers)


def layer_text(layer: CaffeLayer) -> str:
    """One `layer { … }`."""
    head: Message = [
        ("name", layer.name),
        ("type", layer.kind),
        *(("bottom", b) for b in layer.bottoms),
        *(("top", t) for t in layer.tops),
    ]
    return "layer {\n" + body([*head, *layer.more], "  ") + "}\n"


def body(message: Message, indent: str = "") -> str:
    """The fields of a message, one a line."""
    lines = []
    for name, value in message:
        if isinstance(value, list | tuple):
            lines.append(f"{indent}{name} {{\n{body(value, indent + '  ')}{indent}}}\n")
        elif isinstance(value, str) and not isinstance(value, Word):
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'{indent}{name}: "{escaped}"\n')
        else:
            lines.append(f"{indent}{name}: {value}\n")
    return "".join(lines)


def deploy(
    architecture: Architecture,
    classes: int,
    in_channels: int,
    widths: tuple[int, ...],
    preprocessing: Preprocessing | None = None,
) -> str:
    """The net for inference: an Input layer of one image, no loss. A comment says how inputs are
    made, where it is stated."""
    said = (preprocessing or architecture.preprocessing).for_channels(in_channels).describe(in_channels)
    said += "" if preprocessing else " (the network's default)"
    header = f'# {architecture.name}: {architecture.source}\n# input: {said}\nname: "{architecture.name}"\n'
    return header + "".join(map(layer_text, net(architecture, classes, in_channels, widths)))


def train_val(architecture: Architecture, classes: int, in_channels: int, widths: tuple[int, ...]) -> str:
    """The net for training and validation: net.py's Python data layers (voc_layers.py beside it),
    and the summed loss that ignores 255."""
    mean = f"({', '.join(map(str, architecture.mean))})"
    texts = [f'name: "{architecture.name}"\n']
    for phase, layer, options in (
        ("TRAIN", "SBDDSegDataLayer", "'sbdd_dir': '../data/sbdd/dataset', 'seed': 1337, 'split': 'train'"),
        ("TEST", "VOCSegDataLayer", "'voc_dir': '../data/pascal/VOC2011', 'seed': 1337, 'split': 'seg11valid'"),
    ):
        param = [("module", "voc_layers"), ("layer", layer), ("param_str", f"{{{options}, 'mean': {mean}}}")]
        texts.append(layer_text(CaffeLayer(
            architecture.input, "Python", (), (architecture.input, "label"),
            [("include", [("phase", Word(phase))]), ("python_param", param)],
        )))  # fmt: skip
    texts += [layer_text(layer) for layer in net(architecture, classes, in_channels, widths) if layer.kind != "Input"]
    return "".join([*texts, loss_text(architecture)])


def training(
    architecture: Architecture,
    classes: int,
    in_channels: int,
    widths: tuple[int, ...],
    data: tuple[int, ...],
    label: tuple[int, ...],
) -> str:
    """The net for training whose data and labels, of these shapes, are put in by hand: Input layers, no Dropout, and
    the summed loss."""
    texts = [
        layer_text(CaffeLayer(name, "Input", (), (name,), [("input_param", [("shape", [("dim", d) for d in shape])])]))
        for name, shape in ((architecture.input, data), ("label", label))
    ]
    texts += [
        layer_text(layer)
        for layer in net(architecture, classes, in_channels, widths)
        if layer.kind not in ("Input", "Dropout")
    ]
    return "".join([*texts, loss_text(architecture)])


def loss_text(architecture: Architecture) -> str:
    """Caffe's summed loss, that ignores 255."""
    loss = [("loss_param", [("ignore_label", 255), ("normalize", Word("false"))])]
    return layer_text(CaffeLayer("loss", "SoftmaxWithLoss", (architecture.output, "label"), ("loss",), loss))


def files(
    architecture: Architecture,
    classes: int,
    in_channels: int,
    widths: tuple[int, ...],
    stem: str,
    preprocessing: Preprocessing | None = None,
) -> dict[str, str]:
    """Ending of the name → text, of every prototxt that goes with an architecture's .caffemodel."""
    texts = {".deploy.prototxt": deploy(architecture, classes, in_channels, widths, preprocessing)}
    if solver := PUBLISHED.get(architecture.name):
        texts[".train_val.prototxt"] = train_val(architecture, classes, in_channels, widths)
        named = replace(solver, net=f"{stem}.train_val.prototxt", snapshot_prefix=f"snapshot/{stem}")
        texts[".solver.prototxt"] = named.prototxt()
    return texts
