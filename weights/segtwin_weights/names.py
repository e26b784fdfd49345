"""Who calls what how: names and layouts of other projects, and the hub's for the same numbers.

    ours                 torchfcn, our .pth      torchvision VGG-16            keras.applications      tensorflow-fcn
    conv1_1/weight       conv1_1.weight          features.0.weight             block1_conv1            conv1_1/filter
    conv1_1/bias         conv1_1.bias            features.0.bias               block1_conv1            conv1_1/biases
    fc6/weight           fc6.weight              classifier.0.weight           fc1                     fc6/weights
    fc8/weight                                   classifier.6.weight           predictions

torchvision's VGG-16 is another training than Oxford's: it takes RGB, 0..1, minus mean, divided by std. Both are told in the metadata
(`colour`, `mean`, `std`, in the 0..255 scale), and `surgery.convert` turns such a conv1_1 into one for BGR minus the mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from segtwin import architectures
from segtwin.architectures import Row

from segtwin_weights.hub import Weights, WeightsError

PREFIXES = ("module.", "_orig_mod.", "model.")
"""Put before every key by DataParallel, torch.compile and Lightning."""
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Keys under which training scripts keep the state_dict beside the epoch and the optimiser."""

VGG16_LAYERS = [layer.name for layer in architectures.VGG16.layers if layer.width]
"""conv1_1 … conv5_3, fc6, fc7, fc8."""
TORCHVISION_FEATURES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Where the convolutions stand in `vgg16().features`; ReLUs and pools lie between them."""
TORCHVISION_VGG16 = {
    **{f"features.{i}": layer for i, layer in zip(TORCHVISION_FEATURES, VGG16_LAYERS, strict=False)},
    **{f"classifier.{i}": layer for i, layer in zip((0, 3, 6), VGG16_LAYERS[-3:], strict=True)},
}
KERAS_VGG16 = {
    **{f"block{layer[4]}_conv{layer[6]}": layer for layer in VGG16_LAYERS[:-3]},
    **dict(zip(("fc1", "fc2", "predictions"), VGG16_LAYERS[-3:], strict=True)),
}
IMAGENET_RGB = {"colour": "RGB", "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
"""torchvision's (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225), times 255."""
RESNET34_UNET = {"conv1": "firstconv", "bn1": "firstbn", **{f"layer{i}": f"encoder{i}" for i in range(1, 5)}}
"""Modules of torchvision's resnet34 → those of the seed's resnet34_unet."""


def unwrap(keys: Iterable[str]) -> str:
    """The prefix, of any number of `PREFIXES`, that all keys share.

    "model." alone is left: the key of a module called so cannot be told from it.
    """
    keys, prefix = list(keys), ""
    while keys:
        more = next((one for one in PREFIXES if all(key.startswith(prefix + one) for key in keys)), None)
        if more is None or (more == "model." and not prefix and not _known(key.removeprefix(more) for key in keys)):
            break
        prefix += more
    return prefix


def _known(keys: Iterable[str]) -> bool:
    return any(key in {"conv1_1.weight", "features.0.weight", "vgg16.features.0.weight", "conv1.weight", "conv1.conv.0.weight"} for key in keys)


def identify(blobs: Mapping[str, Any]) -> Row | None:
    """The row whose blobs have exactly these names."""
    for row in (*architectures.ROWS.values(), *architectures.CLASSIFIERS.values()):
        if blobs.keys() == {parameter.name for parameter in row.parameters()}:
            return row
    return None


def hub_names(weights: Weights) -> Weights:
    """Weights of another project under the hub's names, where they are known; else as they are.

    Arrays are shared. Known are Caffe's names with a dot (torchfcn's and our own checkpoints), torchvision's VGG-16.

    Raises:
        WeightsError: they are torchvision's IMAGENET1K_FEATURES, which has no classifier.
    """
    keys = set(weights)
    if {"features.0.weight", "features.28.weight"} <= keys:
        return _torchvision_vgg16(weights)
    if "conv1_1.weight" in keys or "conv_d0a-b.weight" in keys:
        renamed = {name if "/" in name else "/".join(name.rsplit(".", 1)): blob for name, blob in weights.items()}
        metadata = {"colour": "BGR", "mean": list(architectures.FCN_MEAN)} if "conv1_1.weight" in keys else {}
        if row := identify(renamed):
            metadata |= {"architecture": row.name, "colour": row.colour, "mean": list(row.mean)}
        return Weights(renamed, metadata | weights.metadata)
    return weights


def _torchvision_vgg16(weights: Weights) -> Weights:
    """vgg16 of torchvision in Caffe's names; its layouts are Caffe's, its fc6 columns too (`flatten` of C×H×W)."""
    blobs = {}
    for name, blob in weights.items():
        module, kind = name.rsplit(".", 1)
        if module not in TORCHVISION_VGG16:
            raise WeightsError(f"{name} is no part of torchvision's vgg16 (batch normalisation, or another depth); use vgg16 IMAGENET1K_V1")
        blobs[f"{TORCHVISION_VGG16[module]}/{kind}"] = blob
    refuse_features_only(blobs, "the weights")
    return Weights(blobs, {"architecture": "vgg16", **IMAGENET_RGB, **weights.metadata})


FEATURES_ONLY = (
    "are torchvision's vgg16 IMAGENET1K_FEATURES: convolutions alone, its classifier is NaN; "
    "use IMAGENET1K_V1 (segtwin download vgg16-torchvision) or Oxford's (segtwin download vgg16)"
)


def refuse_features_only(blobs: Mapping[str, np.ndarray], what: object) -> None:
    """Refuse a VGG-16 whose classifier is missing or NaN, by its name.

    Raises:
        WeightsError: it is torchvision's IMAGENET1K_FEATURES.
    """
    classifier = [blob for layer in ("fc6", "fc7", "fc8") if (blob := blobs.get(f"{layer}/weight")) is not None]
    if not classifier or all(np.isnan(blob[:1]).all() for blob in classifier):
        raise WeightsError(f"{what} {FEATURES_ONLY}")


def resnet34_encoder(weights: Weights) -> Weights:
    """torchvision's ResNet-34 under the names that the encoder of resnet34_unet has; its fully connected layer has no place there.

    Raises:
        WeightsError: they are no ResNet-34's.
    """
    blobs = {}
    for name, blob in weights.items():
        module, rest = name.split(".", 1)
        if module in RESNET34_UNET:
            blobs[f"{RESNET34_UNET[module]}.{rest}"] = blob
        elif module != "fc":
            raise WeightsError(f"{name} is no part of torchvision's resnet34")
    if "encoder3.5.conv2.weight" not in blobs or "encoder3.6.conv1.weight" in blobs or "encoder1.0.conv3.weight" in blobs:
        raise WeightsError(f"{weights!r} is no ResNet-34")
    return Weights(blobs, {**IMAGENET_RGB, **weights.metadata})


def state_dict_names(weights: Weights) -> dict[str, np.ndarray]:
    """The keys of the state_dict that a torch model of these weights has."""
    return {name.replace("/", "."): blob for name, blob in weights.items()}


def same_network(weights: Weights, row: Row) -> bool:
    """Whether the weights are already those of a row."""
    return weights.keys() >= {parameter.name for parameter in row.parameters() if parameter.lr_mult or row.naming != "caffe"}


def check_preprocessing(weights: Weights, row: Row) -> None:
    """Refuse weights that were trained on other inputs than the row's `preprocess` makes.

    Means that differ by less than a grey level are one: the FCNs were started from Oxford's VGG-16 (103.939, …) and trained with their own (104.007, …).

    Raises:
        ValueError: the order of the channels, the mean or the scale is another.
    """
    colour, mean, std = (weights.metadata.get(key) for key in ("colour", "mean", "std"))
    own_std = getattr(row, "std", None)
    if colour is not None and colour != row.colour:
        raise ValueError(f"{row.name} takes {row.colour}, these weights were made for {colour}; segtwin convert turns their first layer")
    if mean is not None and row.mean and (len(mean) != len(row.mean) or max(abs(a - b) for a, b in zip(mean, row.mean, strict=True)) >= 1):
        raise ValueError(f"{row.name} subtracts {tuple(row.mean)} ({row.colour}), these weights were made for {tuple(mean)}; segtwin convert turns them")
    if std is not None and (own_std is None or max(abs(a - b) for a, b in zip(std, own_std, strict=True)) >= 1):
        raise ValueError(f"{row.name} does not divide its input, these weights were made for values divided by {tuple(std)}; segtwin convert turns them")
