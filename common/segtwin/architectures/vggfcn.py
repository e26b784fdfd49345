"""VGGFCN32, VGGFCN16 and VGGFCN8: three torch classes over torchvision's vgg16.

After Long, Shelhamer and Darrell (`fcn.py`), with padding 1 as in VGG-16, poolings that round down,
and scores resized to the image by bilinear interpolation with aligned corners.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from segtwin.architectures import register
from segtwin.architectures.fcn import CVPR, fuse, score
from segtwin.architectures.schema import Architecture, Draw, Layer, Parameter
from segtwin.architectures.vgg16 import CLASSIFIER_PIXELS, VGG16, VGG16_WIDTHS, conv, pool
from segtwin.errors import ArchitectureError

VGG16_FEATURES = (("c1", 2), ("c2", 2), ("c3", 3), ("c4", 3), ("c5", 3))
"""Stages of VGG-16: how wide, how many convolutions."""


def torch_features() -> tuple[Layer, ...]:
    """`vgg16.features` of torchvision, the convolutions under their names in the state_dict;
    poolings round down."""
    layers, top, position = [], "image", 0
    for stage, (width, count) in enumerate(VGG16_FEATURES, start=1):
        for _ in range(count):
            layers.append(conv(f"vgg16.features.{position}", top, width))
            top = layers[-1].name
            position += 2  # the ReLU is a module of its own
        layers.append(pool(f"pool{stage}", top, sizes="floor"))
        top = layers[-1].name
        position += 1
    return tuple(layers)


def torch_classifier() -> tuple[Layer, ...]:
    """`VGGFCN.classifier`."""
    return (
        conv("classifier.0", "pool5", "fc6", kernel=7, pad=3, dropout=0.5),
        conv("classifier.3", "classifier.0", "fc7", kernel=1, pad=0, dropout=0.5),
        score("classifier.6", "classifier.3"),
    )


def upscale(name: str, bottom: str) -> Layer:
    """`nn.ConvTranspose2d(n_classes, n_classes, 2, 2)`: trained, with a bias, not bilinear."""
    return Layer(name, "Deconvolution", (bottom,), "classes", kernel=2, stride=2)


def torch_state(heads: tuple[str, ...]) -> Callable[[int, int, Mapping[str, int]], tuple[Parameter, ...]]:
    """Every parameter of a VGGFCN, in the order of its state_dict.

    `vgg16` starts as torchvision's does without a download (`vgg._initialize_weights`: convolutions
    normal with σ = √(2 / (O·kh·kw)), linear layers with σ = 0.01, biases zero), the rest as torch's
    convolutions do: uniform within ±1/√fan_in, biases too. `classifier.0` and `classifier.3` take
    their weights from `vgg16.classifier`.
    """

    def state(classes: int, in_channels: int, widths: Mapping[str, int]) -> tuple[Parameter, ...]:
        parameters: list[Parameter] = []

        def put(name: str, shape: tuple[int, ...], weight: Draw | None = None) -> None:
            outputs, fan_in = (
                (shape[1], math.prod(shape[1:])) if name.startswith("upscale") else (shape[0], math.prod(shape[1:]))
            )
            bound = Draw("uniform", 1 / math.sqrt(fan_in))
            bias = 0.0 if name.startswith("vgg16") else bound
            parameters.append(Parameter(f"{name}.weight", shape, 1, 1, weight or bound))
            parameters.append(Parameter(f"{name}.bias", (outputs,), 1, 1, bias))

        inputs = in_channels
        for layer in torch_features():
            if layer.width:
                outputs = widths[str(layer.width)]
                put(layer.name, (outputs, inputs, 3, 3), Draw("normal", math.sqrt(2 / (outputs * 9))))
                inputs = outputs
        c3, c4, c5, c6, c7 = (widths[name] for name in ("c3", "c4", "c5", "fc6", "fc7"))
        linear = Draw("normal", 0.01)
        put("vgg16.classifier.0", (c6, c5 * CLASSIFIER_PIXELS), linear)
        put("vgg16.classifier.3", (c7, c6), linear)
        put("vgg16.classifier.6", (VGG16.num_classes, c7), linear)
        put("classifier.0", (c6, c5, 7, 7), linear)
        put("classifier.3", (c7, c6, 1, 1), linear)
        put("classifier.6", (classes, c7, 1, 1))
        skips = {"score4": (classes, c4, 1, 1), "score3": (classes, c3, 1, 1)}
        for name in heads:
            put(name, skips.get(name, (classes, classes, 2, 2)))
        return tuple(parameters)

    return state


def vggfcn(
    name: str, head: tuple[Layer, ...], state: tuple[str, ...], size_rule: Callable[[int, int], None]
) -> Architecture:
    """One of the three: the shared features and classifier, and its own head."""
    return register(
        Architecture(
            name=name,
            layers=(*torch_features(), *torch_classifier(), *head),
            output="scores",
            num_classes=21,
            colour="RGB",
            mean=(0.485, 0.456, 0.406),
            divisor=255.0,
            std=(0.229, 0.224, 0.225),
            citation=CVPR,
            source=f"class {name.upper()} over torchvision.models.vgg16",
            input="image",
            naming="torch",
            widths=VGG16_WIDTHS,
            any_channels=False,
            state=torch_state(state),
            aliases=MappingProxyType({f"vgg16.classifier.{i}.weight": f"classifier.{i}.weight" for i in (0, 3)}),
            idle=tuple(f"vgg16.classifier.{i}.{kind}" for i in (0, 3, 6) for kind in ("weight", "bias")),
            size_rule=size_rule,
        )
    )


def vggfcn_size(height: int, width: int, name: str = "vggfcn32 and vggfcn8", least: int = 32) -> None:
    """Five poolings that round down leave something of 32 pixels and more."""
    if min(height, width) < least:
        fits = " × ".join(str(max(size, least)) for size in (height, width))
        raise ArchitectureError(f"{name}: {height} × {width} is too small, pool5 would be empty; pad to {fits}")


def vggfcn16_size(height: int, width: int) -> None:
    """pool5, twice as large, has to be as large as pool4: ⌊H/16⌋ and ⌊W/16⌋ are even. VGGFCN16
    alone does not pad."""
    vggfcn_size(height, width, "vggfcn16")
    if height // 16 % 2 or width // 16 % 2:
        fits = " × ".join(str(size if size // 16 % 2 == 0 else -(-(size + 1) // 32) * 32) for size in (height, width))
        raise ArchitectureError(
            f"vggfcn16 takes sizes with ⌊H/16⌋ and ⌊W/16⌋ even, not {height} × {width}; pad to {fits}"
        )


def fit(name: str, bottom: str, like: str) -> Layer:
    """`_maybe_pad`: zeros below and to the right, up to the size of `like`."""
    return Layer(name, "PadTo", (bottom, like))


def resize(name: str, bottom: str, like: str) -> Layer:
    """`F.interpolate(…, mode="bilinear", align_corners=True)`."""
    return Layer(name, "Resize", (bottom, like))


VGGFCN32 = vggfcn("vggfcn32", (resize("scores", "classifier.6", like="image"),), (), vggfcn_size)
VGGFCN16 = vggfcn(
    "vggfcn16",
    (
        upscale("upscale5", "classifier.6"),
        score("score4", "pool4"),
        fuse("pool4_fused", "score4", "upscale5"),
        resize("scores", "pool4_fused", like="image"),
    ),
    ("score4", "upscale5"),
    vggfcn16_size,
)
VGGFCN8 = vggfcn(
    "vggfcn8",
    (
        upscale("upscale5", "classifier.6"),
        fit("pool5_upscaled", "upscale5", like="pool4"),
        score("score4", "pool4"),
        fuse("pool4_fused", "score4", "pool5_upscaled"),
        upscale("upscale4", "pool4_fused"),
        fit("pool4_upscaled", "upscale4", like="pool3"),
        score("score3", "pool3"),
        fuse("pool3_fused", "score3", "pool4_upscaled"),
        resize("scores", "pool3_fused", like="image"),
    ),
    ("upscale4", "score4", "score3", "upscale5"),
    vggfcn_size,
)
