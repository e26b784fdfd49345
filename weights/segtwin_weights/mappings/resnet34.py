"""torchvision's ResNet-34 (`IMAGENET1K_V1`, its state_dict) as the encoder of resnet34-unet, whose
layers have other names there.

torchvision              resnet34-unet
conv1, bn1               firstconv, firstbn
layer1 … layer4          encoder1 … encoder4
fc                       not used
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from segtwin_weights.hub import WeightsError

TARGET = "resnet34-unet"
"""The architecture that starts from a ResNet-34."""
MODULES = {"firstconv": "conv1", "firstbn": "bn1"} | {f"encoder{i}": f"layer{i}" for i in range(1, 5)}


def encoder(weights: Mapping[str, np.ndarray], target: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Name in resnet34-unet → name in the ResNet-34, for every blob of the encoder.

    Args:
        weights: a state_dict of torchvision's `resnet34`.
        target: name → shape of resnet34-unet.

    Raises:
        WeightsError: the weights are not those of a ResNet-34; the first culprit is named.
    """
    names = {}
    for name, shape in target.items():
        module, _, rest = name.partition(".")
        if module not in MODULES:
            continue
        source = f"{MODULES[module]}.{rest}"
        if source not in weights:
            raise WeightsError(f"the weights are no ResNet-34 of torchvision: {source} is missing")
        if weights[source].shape != shape:
            raise WeightsError(
                f"the weights are no ResNet-34 of torchvision: {source} is {weights[source].shape}, not {shape}"
            )
        names[name] = source
    if foreign := [name for name in weights if name not in names.values() and not name.startswith("fc.")]:
        raise WeightsError(f"the weights are no ResNet-34 of torchvision: {foreign[0]} has no place in it")
    return names
