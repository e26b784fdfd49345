"""Parameter-name mappings to torchfcn, torchvision, Keras and TF1.

    ours                 torchfcn, our .pth      torchvision VGG-16            keras.applications      tensorflow-fcn
    conv1_1/weight       conv1_1.weight          features.0.weight             block1_conv1            conv1_1/filter
    conv1_1/bias         conv1_1.bias            features.0.bias               block1_conv1            conv1_1/biases
    fc6/weight           fc6.weight              classifier.0.weight           fc1                     fc6/weights
    fc8/weight                                   classifier.6.weight           predictions

torchvision's VGG-16 is another training than Oxford's: it takes RGB, 0..1, minus mean, divided by
std. The names do not prove which of the two a file holds: Oxford's weights are also distributed under
torchvision's names. `vgg16_preprocessing` asks the metadata first, then the numbers; `turned`
makes a conv1_1 for one kind of inputs into one for another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from segtwin import Preprocessing
from segtwin.architectures import Architecture, known_architectures
from segtwin.architectures.vgg16 import VGG16

from segtwin_weights import metadata, plausibility
from segtwin_weights.hub import Weights, WeightsError
from segtwin_weights.plausibility import IMAGENET_RGB, OXFORD_INPUTS

PREFIXES = ("module.", "_orig_mod.", "model.")
"""Put before every key by DataParallel, torch.compile and Lightning."""
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "generator",
    "params",
    "weights",
    "weight",
)
"""Keys under which training scripts keep the state_dict beside the epoch and the optimiser."""

VGG16_LAYERS = [layer.name for layer in VGG16.layers if layer.width]
"""conv1_1 … conv5_3, fc6, fc7, fc8."""
TORCHVISION_FEATURES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Where the convolutions stand in `vgg16().features`; ReLUs and pools lie between them."""
TORCHVISION_VGG16 = {
    **{f"features.{i}": layer for i, layer in zip(TORCHVISION_FEATURES, VGG16_LAYERS, strict=False)},
    **{f"classifier.{i}": layer for i, layer in zip((0, 3, 6), VGG16_LAYERS[-3:], strict=True)},
}
OLD_CLASSIFIER = {"classifier.1": "classifier.0", "classifier.4": "classifier.3"}
"""torchvision before 0.2 began the classifier with its dropout; its last layer was the sixth then,
too."""
CONVOLUTIONAL = {f"{layer}{end}": layer for layer in ("fc6", "fc7", "fc8") for end in ("-conv", "_conv")}
"""What Caffe's net surgery calls inner products that it made convolutions of."""
KERAS_VGG16 = {
    **{f"block{layer[4]}_conv{layer[6]}": layer for layer in VGG16_LAYERS[:-3]},
    **dict(zip(("fc1", "fc2", "predictions"), VGG16_LAYERS[-3:], strict=True)),
}


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
    """Whether one of the keys begins a checkpoint that is read: torchvision's VGG-16 and ResNet-34,
    and the networks here."""
    first = (architecture.parameters()[0].name for architecture in known_architectures())
    begins = {"features.0.weight", "conv1.weight"}
    begins |= {name.replace("-", "_").replace("/", ".") for name in first}
    return any(key in begins for key in keys)


def identify(blobs: Mapping[str, Any]) -> Architecture | None:
    """The architecture whose blobs have exactly these names; BatchNorm's counters may be missing. Of several the one
    whose shapes fit (UNET-ZOO's two FCNs have the same names)."""
    from segtwin_weights.surgery import shapes_fit

    found = []
    for architecture in known_architectures():
        parameters = architecture.parameters()
        needed = {parameter.name for parameter in parameters if parameter.fill != "counter"}
        if needed <= blobs.keys() <= {parameter.name for parameter in parameters}:
            found.append(architecture)
    return next((one for one in found[1:] if shapes_fit(blobs, one)), found[0]) if found else None


class Nearest(NamedTuple):
    """A network that some weights are nearly those of."""

    architecture: Architecture
    missing: tuple[str, ...]
    """Weights that it has and they have not."""
    over: tuple[str, ...]
    """Weights that they have and it has not."""

    def __str__(self) -> str:
        """In words."""
        parts = [
            f"{len(keys)} weights {what} ({', '.join(keys[:SHOWN])}{' …' if len(keys) > SHOWN else ''})"
            for what, keys in (("more", self.over), ("missing", self.missing))
            if keys
        ]
        return f"nearest is {self.architecture.name}: {' and '.join(parts)}"


SHOWN = 3
ALIKE = 0.5
"""Share of names that two networks have in common, of all that either has, from which one is called near."""


def nearest(names: Iterable[str]) -> Nearest | None:
    """The network that shares most names with these, where it is at least half of all; None for a network that is
    known, and for names that are far from all."""
    keys = [name for name in names if not name.endswith("num_batches_tracked")]
    best: tuple[float, Nearest] | None = None
    for architecture in known_architectures():
        for spelling in (str, _dotted):
            own = [spelling(parameter.name) for parameter in architecture.parameters() if parameter.fill != "counter"]
            common = len({*own} & {*keys})
            share = common / len({*own} | {*keys})
            if share >= ALIKE and (best is None or share > best[0]):
                lacking, more = ({*own} - {*keys}), ({*keys} - {*own})
                best = (
                    share,
                    Nearest(architecture, tuple(k for k in own if k in lacking), tuple(k for k in keys if k in more)),
                )
    return best[1] if best and (best[1].missing or best[1].over) else None


def _dotted(name: str) -> str:
    return name.replace("-", "_").replace("/", ".")


def caffe_names() -> dict[str, str]:
    """Module of a torch model → layer, for every Caffe net: `conv_d0a_b` is `conv_d0a-b`, since a
    module's name has no hyphen."""
    known = known_architectures()
    return {
        layer.name.replace("-", "_"): layer.name
        for architecture in known
        if architecture.naming == "caffe"
        for layer in architecture.layers
    }


def known_under_hub_names(weights: Weights) -> Weights:
    """Weights under the hub's names where they are those of a network that is known here, or of a
    VGG-16 without its last layers; else as they are."""
    try:
        named = hub_names(weights)
    except WeightsError:  # a VGG-16 without its classifier, or of another depth
        return weights
    vgg16 = {parameter.name for parameter in VGG16.parameters()}
    cut = {name for name in vgg16 if not name.startswith("fc")} <= named.keys() <= vgg16
    return named if cut or identify(named) is not None else weights


def hub_names(weights: Weights) -> Weights:
    """Weights of another project under the hub's names, where they are known; else as they are.
    Arrays are shared.

    Known are Caffe's names with a dot (torchfcn's and our own checkpoints) and torchvision's
    VGG-16, with the prefixes of `PREFIXES`.

    Raises:
        WeightsError: they are torchvision's IMAGENET1K_FEATURES, which has no classifier, or a
            VGG-16 of another kind.
    """
    if prefix := unwrap(weights):
        weights = Weights({name.removeprefix(prefix): blob for name, blob in weights.items()}, weights.metadata)
    if {"features.0.weight", "features.28.weight"} <= weights.keys():
        return _torchvision_vgg16(weights)
    if "conv1_1/weight" in weights and any(name.startswith(f"{layer}/") for name in weights for layer in CONVOLUTIONAL):
        blobs = {
            f"{CONVOLUTIONAL.get(layer, layer)}/{kind}": blob
            for name, blob in weights.items()
            for layer, _, kind in [name.rpartition("/")]
        }
        if len(blobs) == len(weights):
            architecture = identify(blobs)
            return Weights(blobs, ({"architecture": architecture.name} if architecture else {}) | weights.metadata)
    layers = caffe_names()
    slashed = {}
    for name, blob in weights.items():
        module, _, kind = name.rpartition(".")
        slashed[f"{layers.get(module, module)}/{kind}" if module else name] = blob
    architecture = identify(slashed)
    if architecture is None and not {"conv1_1.weight", "conv_d0a_b.weight", "conv_d0a-b.weight"} & weights.keys():
        # of our Keras twin, as a layer of a user's model
        dotted = {name.replace("/", "."): blob for name, blob in weights.items()}
        if (
            dotted.keys() != weights.keys()
            and (architecture := identify(dotted)) is not None
            and architecture.naming == "torch"
        ):
            return Weights(dotted, {"architecture": architecture.name} | weights.metadata)
        return weights
    return Weights(slashed, ({"architecture": architecture.name} if architecture else {}) | weights.metadata)


def _torchvision_vgg16(weights: Weights) -> Weights:
    """vgg16 of torchvision in Caffe's names; its layouts are Caffe's, its fc6 columns too
    (`flatten` of C×H×W)."""
    old = OLD_CLASSIFIER if "classifier.1.weight" in weights and "classifier.0.weight" not in weights else {}
    blobs = {}
    for name, blob in weights.items():
        module, _, kind = name.rpartition(".")
        module = old.get(module, module)
        if module not in TORCHVISION_VGG16:
            raise WeightsError(
                f"{name} is no part of torchvision's vgg16 (batch normalisation, or another depth); use vgg16 "
                "IMAGENET1K_V1"
            )
        blobs[f"{TORCHVISION_VGG16[module]}/{kind}"] = blob
    if "fc6/weight" not in blobs or np.isnan(blobs["fc6/weight"][:1]).all():
        raise WeightsError(f"{weights.metadata.get('source', 'the weights')}: these {FEATURES_ONLY}")
    return Weights(blobs, {"architecture": "vgg16", "names": "torchvision", **weights.metadata})


FEATURES_ONLY = (
    "are torchvision's vgg16 IMAGENET1K_FEATURES: convolutions alone, its classifier is NaN; "
    "use IMAGENET1K_V1 (segtwin download vgg16-torchvision) or Oxford's (segtwin download vgg16)"
)


def vgg16_preprocessing(weights: Weights) -> tuple[Preprocessing, bool]:
    """How the inputs of a VGG-16 are made, and whether that is known (stated, or shown by the
    numbers) or only what its names suggest.

    Raises:
        WeightsError: the numbers speak against the names, and nothing is stated; the message says
            which option settles it.
    """
    if (said := metadata.stated(weights)) is not None:
        return said, True
    torchvision = weights.metadata.get("names") == "torchvision"
    named = plausibility.of_names(weights)
    if "conv1_1/weight" not in weights or weights["conv1_1/weight"].shape[1:2] != (3,):
        return named, False
    numbers = plausibility.training(weights["conv1_1/weight"], weights.get("conv1_1/bias"))
    if numbers is None:
        return named, False
    if numbers.against(named):
        raise WeightsError(
            f"{weights.metadata.get('source', 'the weights')}: "
            f"{'torchvision names' if torchvision else 'names of the Caffe training'} say "
            f"{named.describe()}, but {numbers.evidence}; nothing was turned. {OPTIONS}"
        )
    return named, numbers.colour == named.colour


def check_inputs(weights: Weights, architecture: Architecture) -> None:
    """Refuse weights of a network that was made of a VGG-16 where their first filters speak against
    what its names say of the inputs, and nothing is stated.

    Raises:
        WeightsError: they do; the message says which option settles it.
    """
    first = plausibility.first_layer(weights)
    if first is None or metadata.stated(weights, architecture) is not None or weights[first].shape[1] != 3:
        return
    inputs = plausibility.seen(weights, architecture)
    numbers = plausibility.training(weights[first], weights.get(first.removesuffix("weight") + "bias"))
    if numbers is None or not numbers.against(inputs):
        return
    where, evidence = (
        weights.metadata.get("source", "the weights"),
        numbers.evidence.replace("conv1_1", first.removesuffix("weight")[:-1], 1),
    )
    if architecture.name == "fcn8-vgg":
        raise WeightsError(
            f"{where}: fcn8-vgg turns RGB round, so that its conv1_1 gets {inputs.colour}, but {evidence}; convert "
            "the VGG-16 that it came from "
            "again, or, if it was trained so, say --colour rgb"
        )
    raise WeightsError(f"{where}: the names of {architecture.name} say {inputs.describe()}, but {evidence}. {OPTIONS}")


def _commas(values: Iterable[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


OPTIONS = (
    f"Say how the inputs were made: --colour bgr --scale 1 --mean {_commas(OXFORD_INPUTS.mean)} (Oxford's), "
    f"--colour rgb --scale 1 --mean {_commas(reversed(OXFORD_INPUTS.mean))} (the same in RGB), --colour rgb "
    f"--scale 1/255 --mean {_commas(IMAGENET_RGB.mean)} --std {_commas(IMAGENET_RGB.std)} (torchvision's), or what "
    "else it was (in Python: "
    "preprocessing=segtwin.Preprocessing(…))"
)


def turned(weights: Weights, to: Preprocessing) -> Weights:
    """Weights of a VGG-16 whose first layer is made for other inputs: conv1_1 changes, nothing
    else.

    With x' = (s'·v − m')/σ' what the layer was trained on and x = (s·v − m)/σ what it gets, v the
    values 0..255, x' = (s'/s)·(σ·x + m)/σ' − m'/σ' channel by channel, so W·x' + b = V·x + c for V
    = W·(s'·σ)/(s·σ') and c = b + ΣW·(m·s'/s − m')/σ', after W's channels are put into the order of
    x. It holds where the window lies inside the image: the padding is zero in x, not in x'.
    """
    own = vgg16_preprocessing(weights)[0]
    weight = weights["conv1_1/weight"]
    channels = weight.shape[1]
    if channels not in (1, 3) and metadata.stated(weights) is None and own.scale != to.scale:
        raise WeightsError(
            f"{weights.metadata.get('source', 'the weights')}: conv1_1 takes {channels} channels, whose mean and "
            "deviation the names do not tell; "
            f"say them: --scale 1/255 --mean and --std of {channels} numbers each"
        )
    own, to = own.for_channels(channels), to.for_channels(channels)
    if same_inputs(own, to):
        return Weights(weights, metadata.state(weights, to))
    if channels == 3 and {own.colour, to.colour} == {"RGB", "BGR"}:
        weight, own = weight[:, ::-1], own.in_order(to.colour)
        if same_inputs(own, to):
            kept = {key: value for key, value in weights.metadata.items() if key not in ("sha256", "names")}
            return Weights({**weights, "conv1_1/weight": np.ascontiguousarray(weight)}, metadata.state(kept, to))
    (m, sigma), (m0, sigma0) = (
        [np.broadcast_to(np.array(v, np.float64), channels) for v in (p.mean, p.std)] for p in (to, own)
    )
    factor = own.scale / to.scale
    weight = weight.astype(np.float64)
    shift = (m * factor - m0) / sigma0
    bias = weights["conv1_1/bias"] + (weight * shift[:, None, None]).sum(axis=(1, 2, 3))
    weight = weight * (factor * sigma / sigma0)[:, None, None]
    blobs = {
        **weights,
        "conv1_1/weight": np.ascontiguousarray(weight, np.float32),
        "conv1_1/bias": bias.astype(np.float32),
    }
    kept = {key: value for key, value in weights.metadata.items() if key not in ("sha256", "names")}
    return Weights(blobs, metadata.state(kept, to))


def same_inputs(one: Preprocessing, two: Preprocessing) -> bool:
    """Whether weights trained on inputs of one kind are taken for those of the other as they are.

    Means that differ by less than two grey levels are one: the FCNs were started from Oxford's
    VGG-16 (103.939, …) and trained with their own (104.007, …).
    """
    if (one.colour, one.bits) != (two.colour, two.bits) or not np.isclose(one.scale, two.scale, rtol=1e-6, atol=0):
        return False
    near = np.abs(np.subtract(one.mean, two.mean)).max() < SAME_GREY * one.scale
    return bool(near and np.allclose(one.std, two.std, rtol=1e-6))


SAME_GREY = 2.0


def state_dict_names(weights: Weights) -> dict[str, np.ndarray]:
    """The keys of the state_dict that a torch model of these weights has."""
    names = (name.split("/") for name in weights)
    return {
        ".".join((*(part.replace("-", "_") for part in layer), kind)): blob
        for (*layer, kind), blob in zip(names, weights.values(), strict=True)
    }


def with_counters(weights: Weights, architecture: Architecture) -> Weights:
    """The same weights, with zeros for the BatchNorm counters that they lack: torch before 0.4.1
    and ONNX files have none."""
    missing = {
        p.name: np.zeros(p.shape, np.int64)
        for p in architecture.parameters()
        if p.fill == "counter" and p.name not in weights
    }
    return Weights({**weights, **missing}, weights.metadata) if missing else weights


def held(weights: Weights, architecture: Architecture) -> Weights | None:
    """The blobs of a network out of weights that hold all of them, in its order; None when one is
    missing.

    BatchNorm's counters may be: torch before 0.4.1 counted no batches, and ONNX files carry none.
    They start at zero, and no number depends on them.
    """
    parameters = architecture.parameters()
    counters = {
        parameter.name: np.zeros(parameter.shape, np.int64) for parameter in parameters if parameter.fill == "counter"
    }
    names = [parameter.name for parameter in parameters]
    if not weights.keys() >= set(names) - counters.keys():
        return None
    blobs = {name: weights[name] if name in weights else counters[name] for name in names}
    return Weights(blobs, weights.metadata | {"architecture": architecture.name})
