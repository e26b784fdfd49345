"""FCN8VGG of tensorflow-fcn: the FCN-8s with SAME padding in place of pad 100 and crops.

MarvinTeichmann/tensorflow-fcn `fcn8_vgg.py`, class FCN8VGG, after Long, Shelhamer and Darrell
(`fcn.py`). The network subtracts the VGG mean itself and trains its deconvolutions.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from segtwin.architectures import register
from segtwin.architectures.fcn import CVPR, fuse, score
from segtwin.architectures.schema import Architecture, Draw, Layer
from segtwin.architectures.vgg16 import VGG16_WIDTHS, conv, pool, vgg16_features
from segtwin.errors import ArchitectureError


def same_features(dilated: bool = False) -> tuple[Layer, ...]:
    """bgr … fc7 of tensorflow-fcn's FCN8VGG: SAME padding everywhere, so the VGG-16 pads by 1, and
    fc6 by 3."""
    start = (Layer("bgr", "BGR", ("image",)), replace(vgg16_features(pad=1)[0], bottoms=("bgr",)))
    rest = tuple(replace(layer, sizes="same") for layer in vgg16_features(pad=1)[1:])
    fc6, fc7 = (
        conv("fc6", "pool5", "fc6", kernel=7, pad=3, dropout=0.5),
        conv("fc7", "fc6", "fc7", kernel=1, pad=0, dropout=0.5),
    )
    if not dilated:
        return (*start, *rest, fc6, fc7)
    return (
        *start,
        *rest[:12],  # … conv4_3
        pool("pool4_dense", "conv4_3", sizes="same", stride=1),
        Layer("pool4", "SpaceToBatch", ("pool4_dense",)),
        *rest[13:16],  # conv5_1 … conv5_3
        pool("pool5_dense", "conv5_3", sizes="same", stride=1),
        Layer("pool5", "BatchToSpace", ("pool5_dense",)),
        Layer("pool5_phases", "SpaceToBatch", ("pool5_dense",)),
        replace(fc6, bottoms=("pool5_phases",)),
        Layer("fc6_4", "BatchToSpace", ("fc6",)),
        Layer("fc6_1", "BatchToSpace", ("fc6_4",)),
        replace(fc7, bottoms=("fc6_1",)),
    )


def upscore_same(name: str, bottom: str, like: str, kernel: int, stride: int) -> Layer:
    """A bilinear deconvolution that is trained, cut to the size of `like` as TensorFlow's SAME does
    it."""
    return Layer(
        name,
        "DeconvolutionSame",
        (bottom, like),
        "classes",
        kernel,
        stride,
        bias=False,
        lr_mult=(1, 1),
        fill="bilinear",
    )


def dilated_size(height: int, width: int) -> None:
    """⌈H/8⌉ and ⌈W/8⌉ have to be divisible by 4: pool4 is cut into 2×2 phases, and each of them
    again at pool5."""
    if -(height // -8) % 4 or -(width // -8) % 4:
        fits = " × ".join(str(-(size // -32) * 32 if -(size // -8) % 4 else size) for size in (height, width))
        raise ArchitectureError(
            f"fcn8-vgg with use_dilated takes sizes with ⌈H/8⌉ and ⌈W/8⌉ divisible by 4, not {height} × {width}; "
            f"pad to {fits}"
        )


HEADS = (
    score("score_fr", "fc7"),
    Layer("pred", "ArgMax", ("score_fr",), 1),
    upscore_same("upscore2", "score_fr", like="pool4", kernel=4, stride=2),
    score("score_pool4", "pool4", Draw("truncated normal", 1e-3)),
    fuse("fuse_pool4", "upscore2", "score_pool4"),
    upscore_same("upscore4", "fuse_pool4", like="pool3", kernel=4, stride=2),
    score("score_pool3", "pool3", Draw("truncated normal", 1e-4)),
    fuse("fuse_pool3", "upscore4", "score_pool3"),
    # the original says `bgr`, which is as large
    upscore_same("upscore32", "fuse_pool3", like="image", kernel=16, stride=8),
    Layer("pred_up", "ArgMax", ("upscore32",), 1),
)
FACTS: dict[str, Any] = {
    "num_classes": 21,  # 20 is the default of the original's `build`; here all FCNs start with PASCAL's 21
    "colour": "RGB",
    "mean": (0.0, 0.0, 0.0),  # the network subtracts VGG_MEAN itself
    "citation": f"{CVPR}; MarvinTeichmann/tensorflow-fcn",
    "source": "tensorflow-fcn fcn8_vgg.py, class FCN8VGG",
    "input": "image",
    "widths": VGG16_WIDTHS,
    "any_channels": False,
}

RANDOM_FC8 = Architecture(  # the same network under the same name, with another start
    name="fcn8-vgg",
    layers=(
        *same_features(),
        *(replace(layer, fill="he-truncated") if layer.name == "score_fr" else layer for layer in HEADS),
    ),
    output="upscore32",
    variant_of="fcn8-vgg",
    **FACTS,
)
DILATED = Architecture(
    name="fcn8-vgg-dilated",
    layers=same_features(dilated=True),
    output="fc7",
    variant_of="fcn8-vgg",
    unused=tuple(
        parameter.name for parameter in RANDOM_FC8.parameters() if parameter.name.startswith(("score", "upscore"))
    ),
    size_rule=dilated_size,
    **FACTS,
)
register(DILATED, listed=False)
FCN8_VGG = Architecture(
    name="fcn8-vgg",
    layers=(*same_features(), *HEADS),
    output="upscore32",
    options=("random_init_fc8", "use_dilated"),
    variants=MappingProxyType({"random_init_fc8": RANDOM_FC8, "use_dilated": DILATED}),
    **FACTS,
)
register(FCN8_VGG)
