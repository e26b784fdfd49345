"""The networks of bigmb's Nest of U-Nets: a plain U-Net, R2U-Net, attention U-Net, both at once, U-Net++.

Source: bigmb/Unet-Segmentation-Pytorch-Nest-of-Unets at f63262de13dc7a31f426e3ac6cd22eafdbd60131,
`Models.py`, classes `U_Net` (`unet-64`), `R2U_Net` (`r2unet-nests`), `AttU_Net` (`attention-unet`),
`R2AttU_Net` (`r2attention-unet`) and `NestedUNet` (`nested-unet`), after Ronneberger, Fischer and
Brox, "U-Net" (arXiv:1505.04597); Alom, Hasan, Yakopcic, Taha and Asari, "Recurrent Residual
Convolutional Neural Network based on U-Net" (arXiv:1802.06955); Oktay and others, "Attention U-Net"
(arXiv:1804.03999); Zhou, Siddiquee, Tajbakhsh and Liang, "UNet++" (arXiv:1807.10165).

As written there, and kept here for the sake of the weights that were trained so:

* The recurrent block is not recurrent: it computes y = f(x) once and then f(y + y) t times from the
  same y, so that its result is the same for every t ≥ 1. In training each of the 1 + t calls updates
  the running statistics; t is 2, as by default there. UNET-ZOO's block of the same shapes is recurrent
  (`unet_zoo.r2unet`).
* `W_g` of an attention gate takes as many channels as it says of the skip, and `W_x` as it says of
  the gate. They are equal wherever it is used. The finest gate has 32 channels inside, whatever the
  widths.
* No network ends in a sigmoid: the scripts apply it.

Blobs have the names of the modules that give them.

Preprocessing: values 0..1, minus 0.5, divided by 0.5 (`pytorch_run.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from segtwin.architectures import register
from segtwin.architectures.schema import Architecture, Layer
from segtwin.architectures.unet import double_conv, double_conv2d_bn, halve, merge, norm, torch_conv

Block = Callable[[str, str, str], tuple[Layer, ...]]
"""Name of the module, bottom, width → the layers of a stage."""

UNET_5 = MappingProxyType({"c1": 64, "c2": 128, "c3": 256, "c4": 512, "c5": 1024})
FINEST_GATE = 32
"""Channels inside the gate of the finest level (`F_int=32`)."""


def conv_block(module: str, bottom: str, width: str) -> tuple[Layer, ...]:
    """`conv_block`: (convolution, BatchNorm, ReLU) twice."""
    return double_conv(module, bottom, width, module)


def nested_block(module: str, bottom: str, width: str) -> tuple[Layer, ...]:
    """`conv_block_nested`: the same two stages, their four modules side by side."""
    return double_conv2d_bn(module, bottom, width, module)


def up_conv(module: str, bottom: str, width: str) -> tuple[Layer, ...]:
    """`up_conv`: every pixel four times, convolution, BatchNorm, ReLU."""
    return (
        Layer(f"{module}.up.0", "UpsampleNearest", (bottom,)),
        torch_conv(f"{module}.up.1", f"{module}.up.0", width),
        norm(module, f"{module}.up.1", f"{module}.up.2"),
    )


def call(name: str, bottom: str, width: str, module: str) -> tuple[Layer, ...]:
    """One call of the convolution, BatchNorm and ReLU that a recurrent block shares."""
    return (
        torch_conv(f"{name}.linear", bottom, width, module=f"{module}.conv.0"),
        norm(name, f"{name}.linear", f"{module}.conv.1"),
    )


def twice(module: str, bottom: str, width: str) -> tuple[Layer, ...]:
    """`Recurrent_block` of Nest of U-Nets: y = f(x), then f(y + y)."""
    return (
        *call(f"{module}.first", bottom, width, module),
        Layer(f"{module}.doubled", "Eltwise", (f"{module}.first", f"{module}.first")),
        *call(module, f"{module}.doubled", width, module),
    )


def rrcnn_block(
    module: str, bottom: str, width: str, recurrent: Block = twice, entry: str = "Conv"
) -> tuple[Layer, ...]:
    """`RRCNN_block`: a 1×1 convolution, and beside its result two recurrent blocks, added."""
    return (
        torch_conv(f"{module}.{entry}", bottom, width, kernel=1),
        *recurrent(f"{module}.RCNN.0", f"{module}.{entry}", width),
        *recurrent(f"{module}.RCNN.1", f"{module}.RCNN.0", width),
        Layer(module, "Eltwise", (f"{module}.{entry}", f"{module}.RCNN.1")),
    )


def attention(module: str, gate: str, skip: str, inside: str | int) -> tuple[Layer, ...]:
    """`Attention_block`: the skip times σ(BN(1×1(ReLU(W_g·gate + W_x·skip)))), one number a pixel."""
    return (
        torch_conv(f"{module}.W_g.0", gate, inside, kernel=1),
        norm(f"{module}.W_g.1", f"{module}.W_g.0", relu=False),
        torch_conv(f"{module}.W_x.0", skip, inside, kernel=1),
        norm(f"{module}.W_x.1", f"{module}.W_x.0", relu=False),
        Layer(f"{module}.relu", "Eltwise", (f"{module}.W_g.1", f"{module}.W_x.1"), relu=True),
        torch_conv(f"{module}.psi.0", f"{module}.relu", 1, kernel=1),
        norm(f"{module}.psi.1", f"{module}.psi.0", relu=False),
        Layer(f"{module}.psi", "Sigmoid", (f"{module}.psi.1",)),
        Layer(module, "Multiply", (skip, f"{module}.psi")),
    )


def encoder(stage: str, block: Block) -> tuple[Layer, ...]:
    """Five stages with poolings between them; the module of the first is `stage`1."""
    layers = block(f"{stage}1", "image", "c1")
    for level in range(2, 6):
        pool = f"Maxpool{level - 1}"
        layers += halve(pool, f"{stage}{level - 1}"), *block(f"{stage}{level}", pool, f"c{level}")
    return layers


def decoder(stage: str, block: Block, gated: bool) -> tuple[Layer, ...]:
    """Four steps up: upsampled, behind the skip, which passes a gate or not, and a stage."""
    layers: tuple[Layer, ...] = ()
    bottom = f"{stage}5"
    for level in range(5, 1, -1):
        width, skip = f"c{level - 1}", f"{stage}{level - 1}"
        layers += up_conv(f"Up{level}", bottom, width)
        if gated:
            layers += attention(f"Att{level}", f"Up{level}", skip, FINEST_GATE if level == 2 else f"c{level - 2}")
            skip = f"Att{level}"
        bottom = f"Up_{stage[0].lower() + stage[1:] if stage == 'Conv' else stage}{level}"
        layers += merge(f"cat{level}", skip, f"Up{level}"), *block(bottom, f"cat{level}", width)
    return layers


def u_shape(stage: str, block: Block, gated: bool) -> tuple[Layer, ...]:
    """Encoder and decoder; its last blob is Up_conv2 or Up_RRCNN2."""
    return encoder(stage, block) + decoder(stage, block, gated)


def nested(block: Block) -> tuple[Layer, ...]:
    """U-Net++: x(i, j) of level i is made of x(i, 0) … x(i, j − 1) and of x(i + 1, j − 1), upsampled."""
    layers: tuple[Layer, ...] = ()
    for last in range(5):  # by antidiagonals, as there: x(0,0); x(1,0), x(0,1); x(2,0), …
        for column in range(last + 1):
            level = last - column
            top, width = f"conv{level}_{column}", f"c{level + 1}"
            if column:
                below, bottom = f"conv{level + 1}_{column - 1}", f"cat{level}_{column}"
                layers += (
                    Layer(f"up{level}_{column}", "UpsampleBilinear", (below,)),
                    merge(bottom, *(f"conv{level}_{k}" for k in range(column)), f"up{level}_{column}"),
                )
            elif level:
                bottom = f"pool{level}"
                layers += (halve(bottom, f"conv{level - 1}_0"),)
            else:
                bottom = "image"
            layers += block(top, bottom, width)
    return layers


def blobs(layers: tuple[Layer, ...], *ends: str) -> tuple[str, ...]:
    """The image, poolings, what is upsampled, gates, stages, and `ends`: what the pages give names to."""
    heads = ("Conv", "RRCNN", "Maxpool", "Up", "Att", "conv", "pool", "up")
    inside = (".psi", ".RCNN.0", ".RCNN.1")
    named = [layer.name for layer in layers if layer.name.startswith(heads)]
    return "image", *(name for name in named if "." not in name or name.endswith(inside)), *ends


def nest(name: str, layers: tuple[Layer, ...], head: str, class_name: str, paper: str) -> Architecture:
    """A network of Models.py: a 1×1 convolution, called `head`, at the end."""
    return register(
        Architecture(
            name=name,
            layers=(*layers, torch_conv("logits", layers[-1].name, "classes", kernel=1, module=head)),
            blob_names=blobs(layers, "logits"),
            input="image",
            output="logits",
            num_classes=1,
            colour="RGB",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            divisor=255.0,
            widths=UNET_5,
            citation=f"bigmb's torch code of {paper}",
            source=f"bigmb/Unet-Segmentation-Pytorch-Nest-of-Unets@f63262d Models.py, class {class_name}",
            naming="torch",
            dropout=None,
            options=("pad",),
            size_least=16,
            size_step=16,
        )
    )


R2UNET = "Alom et al.: Recurrent Residual CNN based on U-Net (arXiv:1802.06955)"
ATTENTION = "Oktay et al.: Attention U-Net (arXiv:1804.03999)"
PLUSPLUS = "Zhou et al.: UNet++ (arXiv:1807.10165)"

UNET_64 = nest(
    "unet-64",
    u_shape("Conv", conv_block, gated=False),
    "Conv",
    "U_Net",
    "Ronneberger, Fischer, Brox: U-Net, MICCAI 2015 (arXiv:1505.04597)",
)
R2UNET_NESTS = nest("r2unet-nests", u_shape("RRCNN", rrcnn_block, gated=False), "Conv", "R2U_Net", R2UNET)
ATTENTION_UNET = nest("attention-unet", u_shape("Conv", conv_block, gated=True), "Conv", "AttU_Net", ATTENTION)
R2ATTENTION_UNET = nest(
    "r2attention-unet", u_shape("RRCNN", rrcnn_block, gated=True), "Conv", "R2AttU_Net", f"{R2UNET} with {ATTENTION}"
)
NESTED_UNET = nest("nested-unet", nested(nested_block), "final", "NestedUNet", PLUSPLUS)
