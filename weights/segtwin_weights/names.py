"""Who calls what how: names and layouts of other projects, and the hub's for the same numbers.

    ours                 torchfcn, our .pth      torchvision VGG-16            keras.applications      tensorflow-fcn
    conv1_1/weight       conv1_1.weight          features.0.weight             block1_conv1            conv1_1/filter
    conv1_1/bias         conv1_1.bias            features.0.bias               block1_conv1            conv1_1/biases
    fc6/weight           fc6.weight              classifier.0.weight           fc1                     fc6/weights
    fc8/weight                                   classifier.6.weight           predictions

torchvision's VGG-16 is another training than Oxford's: it takes RGB, 0..1, minus mean, divided by std. Both are told in the metadata
(`colour`, `divisor`, `mean`, `std`: (values / divisor − mean) / std), and `turned` makes such a conv1_1 into one for BGR minus the mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from segtwin import architectures
from segtwin.architectures import Row

from segtwin_weights.hub import Metadata, Weights, WeightsError

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
OLD_CLASSIFIER = {"classifier.1": "classifier.0", "classifier.4": "classifier.3"}
"""torchvision before 0.2 began the classifier with its dropout; its last layer was the sixth then, too."""
KERAS_VGG16 = {
    **{f"block{layer[4]}_conv{layer[6]}": layer for layer in VGG16_LAYERS[:-3]},
    **dict(zip(("fc1", "fc2", "predictions"), VGG16_LAYERS[-3:], strict=True)),
}
IMAGENET_RGB: Metadata = {"colour": "RGB", "divisor": 255.0, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
"""How torchvision's classifiers take an image: (values / divisor − mean) / std."""


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


KNOWN = {
    "conv1_1.weight",
    "features.0.weight",
    "vgg16.features.0.weight",
    "conv1.weight",
    "conv_d0a_b.weight",
    "conv1.conv.0.weight",
    "layer1_conv.conv1.weight",
    "firstconv.weight",
}
"""First keys of the checkpoints that are read: VGG-16s, ResNet-34, and the networks here."""


def _known(keys: Iterable[str]) -> bool:
    return any(key in KNOWN for key in keys)


def identify(blobs: Mapping[str, Any]) -> Row | None:
    """The row whose blobs have exactly these names."""
    for row in (*architectures.ROWS.values(), *architectures.CLASSIFIERS.values()):
        if blobs.keys() == {parameter.name for parameter in row.parameters()}:
            return row
    return None


def caffe_names() -> dict[str, str]:
    """Module of a torch model → layer, for every Caffe net: `conv_d0a_b` is `conv_d0a-b`, since a module's name has no hyphen."""
    rows = (*architectures.ROWS.values(), *architectures.CLASSIFIERS.values())
    return {layer.name.replace("-", "_"): layer.name for row in rows if row.naming == "caffe" for layer in row.layers}


def hub_names(weights: Weights) -> Weights:
    """Weights of another project under the hub's names, where they are known; else as they are. Arrays are shared.

    Known are Caffe's names with a dot (torchfcn's and our own checkpoints) and torchvision's VGG-16, with the prefixes of `PREFIXES`.

    Raises:
        WeightsError: they are torchvision's IMAGENET1K_FEATURES, which has no classifier, or a VGG-16 of another kind.
    """
    if prefix := unwrap(weights):
        weights = Weights({name.removeprefix(prefix): blob for name, blob in weights.items()}, weights.metadata)
    if {"features.0.weight", "features.28.weight"} <= weights.keys():
        return _torchvision_vgg16(weights)
    if not {"conv1_1.weight", "conv_d0a_b.weight", "conv_d0a-b.weight"} & weights.keys():
        return weights
    layers = caffe_names()
    blobs = {}
    for name, blob in weights.items():
        module, _, kind = name.rpartition(".")
        blobs[f"{layers.get(module, module)}/{kind}" if module else name] = blob
    row = identify(blobs)
    known: Metadata = {"architecture": row.name, "colour": row.colour, "mean": list(row.mean)} if row else {}
    return Weights(blobs, known | weights.metadata)


def _torchvision_vgg16(weights: Weights) -> Weights:
    """vgg16 of torchvision in Caffe's names; its layouts are Caffe's, its fc6 columns too (`flatten` of C×H×W)."""
    old = OLD_CLASSIFIER if "classifier.1.weight" in weights and "classifier.0.weight" not in weights else {}
    blobs = {}
    for name, blob in weights.items():
        module, _, kind = name.rpartition(".")
        module = old.get(module, module)
        if module not in TORCHVISION_VGG16:
            raise WeightsError(f"{name} is no part of torchvision's vgg16 (batch normalisation, or another depth); use vgg16 IMAGENET1K_V1")
        blobs[f"{TORCHVISION_VGG16[module]}/{kind}"] = blob
    if "fc6/weight" not in blobs or np.isnan(blobs["fc6/weight"][:1]).all():
        raise WeightsError(f"{weights.metadata.get('source', 'the weights')}: these {FEATURES_ONLY}")
    return Weights(blobs, {"architecture": "vgg16", **IMAGENET_RGB, **weights.metadata})


FEATURES_ONLY = (
    "are torchvision's vgg16 IMAGENET1K_FEATURES: convolutions alone, its classifier is NaN; "
    "use IMAGENET1K_V1 (segtwin download vgg16-torchvision) or Oxford's (segtwin download vgg16)"
)


def turned(weights: Weights, to_mean: Sequence[float] = architectures.VGG_MEAN) -> Weights:
    """Weights whose first layer takes RGB, scaled, as weights whose first layer takes BGR, 0..255 minus a mean: conv1_1 changes, nothing else.

    With x' = (rgb / divisor − mean) / std and x = bgr − m, W·x' + b = V·x + c for V = W / (divisor·std), its channels reversed, and
    c = b + ΣV·(m − divisor·mean), m being `to_mean`. It holds where the window lies inside the image: the padding is zero in x, not in x'.
    All but classifiers that say RGB are returned as they are.
    """
    if (weights.metadata.get("architecture"), weights.metadata.get("colour")) != (architectures.VGG16.name, "RGB"):
        return weights
    divisor = float(weights.metadata.get("divisor", 1.0))
    mean, std = (np.array(weights.metadata.get(key, default), np.float64) for key, default in (("mean", [0.0] * 3), ("std", [1.0] * 3)))
    weight = weights["conv1_1/weight"].astype(np.float64) / (divisor * std)[:, None, None]
    weight = weight[:, ::-1]
    shift = np.array(to_mean) - divisor * mean[::-1]
    bias = weights["conv1_1/bias"] + (weight * shift[:, None, None]).sum(axis=(1, 2, 3))
    blobs = {**weights, "conv1_1/weight": np.ascontiguousarray(weight, np.float32), "conv1_1/bias": bias.astype(np.float32)}
    metadata = {key: value for key, value in weights.metadata.items() if key not in ("divisor", "std", "sha256")}
    return Weights(blobs, {**metadata, "colour": "BGR", "mean": list(to_mean)})


def state_dict_names(weights: Weights) -> dict[str, np.ndarray]:
    """The keys of the state_dict that a torch model of these weights has."""
    names = (name.split("/") for name in weights)
    return {".".join((*(part.replace("-", "_") for part in layer), kind)): blob for (*layer, kind), blob in zip(names, weights.values(), strict=True)}


def held(weights: Weights, row: Row) -> Weights | None:
    """The blobs of a network out of weights that hold all of them, in its order; None when one is missing.

    BatchNorm's counters may be: torch before 0.4.1 counted no batches, and ONNX files carry none. They start at zero, and no number depends on them.
    """
    parameters = row.parameters()
    counters = {parameter.name: np.zeros(parameter.shape, np.int64) for parameter in parameters if parameter.fill == "counter"}
    names = [parameter.name for parameter in parameters]
    if not weights.keys() >= set(names) - counters.keys():
        return None
    blobs = {name: weights[name] if name in weights else counters[name] for name in names}
    known: Metadata = {"colour": row.colour, "mean": list(row.mean)}
    return Weights(blobs, known | weights.metadata | {"architecture": row.name})


def check_preprocessing(weights: Weights, row: Row) -> None:
    """Refuse weights that were trained on other inputs than the row's `preprocess` makes.

    Means that differ by less than two grey levels are one: the FCNs were started from Oxford's VGG-16 (103.939, …) and trained with their own
    (104.007, …).

    Raises:
        ValueError: the order of the channels, the mean or the scale is another.
    """
    told = weights.metadata
    if "colour" in told and told["colour"] != row.colour:
        raise ValueError(f"{row.name} takes {row.colour}, these weights were made for {told['colour']}: {TURN}")
    if "mean" not in told:
        return
    own = _greys(row.divisor, row.mean, row.std)
    theirs = _greys(told.get("divisor", row.divisor), told["mean"], told.get("std", row.std if "divisor" not in told else ()))
    for what, here, there in zip(("subtracts", "divides by"), own, theirs, strict=True):
        if len(here) != len(there) or np.abs(np.subtract(here, there)).max(initial=0) >= SAME_GREY:
            raise ValueError(f"{row.name} {what} {tuple(map(float, here))}, these weights were made for {tuple(map(float, there))}: {TURN}")


SAME_GREY = 2.0
TURN = "convert them to the network (segtwin convert … --to)"


def _greys(divisor: Any, mean: Any, std: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and divisor of the 0..255 values."""
    mean = np.atleast_1d(np.array(mean, np.float64)) * divisor
    return mean, (np.array(std, np.float64) if len(std) else np.ones(len(mean))) * divisor
