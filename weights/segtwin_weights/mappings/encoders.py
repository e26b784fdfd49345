"""torchvision's classifiers (state_dicts of `IMAGENET1K_V1`) as encoders of U-Nets, whose layers have other names.

torchvision                            here
resnet34: conv1, bn1                   firstconv, firstbn                  resnet34-unet, ce-net
          layer1 … layer4              encoder1 … encoder4
resnet50: conv1, bn1, layer1 … layer4  resnet.conv1, …                     resnet50-unet
vgg16:    features.N                   vgg.features.N                      vgg16-unet
                                       pretrained_net.features.N           fcn8s-unetzoo, fcn32s-unetzoo
fc, classifier                         not used
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from segtwin_weights.hub import WeightsError


class Encoder(NamedTuple):
    """A classifier that a network starts from."""

    title: str
    modules: Mapping[str, str]
    """Module of the network → module of the classifier."""
    said: str = ""
    """What is different there, in words."""


RESNET34 = Encoder(
    "ResNet-34", {"firstconv": "conv1", "firstbn": "bn1"} | {f"encoder{i}": f"layer{i}" for i in range(1, 5)}
)
RESNET50 = Encoder(
    "ResNet-50",
    {f"resnet.{name}": name for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")},
    "its first pooling is not padded, where torchvision's is: features are others than torchvision's",
)
TARGETS: Mapping[str, Encoder] = {"resnet34-unet": RESNET34, "ce-net": RESNET34, "resnet50-unet": RESNET50}
"""Network → the ResNet that it starts from."""
VGG_TARGETS: Mapping[str, str] = {
    "vgg16-unet": "vgg.features",
    "fcn8s-unetzoo": "pretrained_net.features",
    "fcn32s-unetzoo": "pretrained_net.features",
}
"""Network → where torchvision's `vgg16().features` stand in it."""


def source_name(name: str, modules: Mapping[str, str]) -> str | None:
    """Name in the classifier of a blob of the network; None for those of its decoder."""
    for ours, theirs in modules.items():
        if name.startswith(f"{ours}."):
            return f"{theirs}.{name.removeprefix(f'{ours}.')}"
    return None


def encoder(
    weights: Mapping[str, np.ndarray], target: Mapping[str, tuple[int, ...]], of: Encoder = RESNET34
) -> dict[str, str]:
    """Name in the network → name in the ResNet, for every blob of the encoder.

    Args:
        weights: a state_dict of torchvision's.
        target: name → shape of the network.
        of: which ResNet.

    Raises:
        WeightsError: the weights are not those of such a ResNet; the first culprit is named.
    """
    found = {}
    for name, shape in target.items():
        source = source_name(name, of.modules)
        if source is None:
            continue
        if source not in weights:
            raise WeightsError(f"the weights are no {of.title} of torchvision: {source} is missing")
        if weights[source].shape != shape:
            raise WeightsError(
                f"the weights are no {of.title} of torchvision: {source} is {weights[source].shape}, not {shape}"
            )
        found[name] = source
    if foreign := [name for name in weights if name not in found.values() and not name.startswith("fc.")]:
        raise WeightsError(f"the weights are no {of.title} of torchvision: {foreign[0]} has no place in it")
    return found
