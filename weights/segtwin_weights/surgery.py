"""Net surgery: weights of one network as the start of another, as `solve.py` and `surgery.py` of
fcn.berkeleyvision.org do it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from segtwin import Preprocessing
from segtwin.architectures import Architecture, Draw, Parameter, get_architecture, list_architectures
from segtwin.architectures.vgg16 import VGG16, VGG_MEAN
from segtwin.errors import known_arguments

from segtwin_weights import metadata
from segtwin_weights.hub import WITHOUT_CLASSIFIER, Weights, WeightsError, check_keys
from segtwin_weights.initialize import start
from segtwin_weights.mappings import encoders, names
from segtwin_weights.notes import note

SCORE_INITS = ("fc8-average", "zeros", "random")


class Change(NamedTuple):
    """What became of one blob."""

    blob: str
    what: str
    """copied, turned (made for other inputs), reshaped, averaged, expanded, zero, constant,
    counter, drawn, bilinear or dropped."""
    source: str
    shape: tuple[int, ...]


@known_arguments
def convert(
    weights: Weights,
    to: str,
    *,
    num_classes: int | None = None,
    score_init: str = "fc8-average",
    seed: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> Weights:
    """Weights of one network as those that another starts its training from: an FCN from a VGG-16
    classifier or from another FCN, a U-Net over a ResNet or a VGG-16 from torchvision's.

    Weights that hold the network already, as another project's checkpoint of it does, come out
    under the hub's names.

    From a VGG-16: convolutions are copied; fc6 and fc7 become the 7×7 and 1×1 convolutions that
    they are; `score_fr` is the average of neighbouring classes of fc8 (tensorflow-fcn; "zeros"
    starts it at zero, as Caffe does; "random" as random_init_fc8 of fcn8-vgg does). A VGG-16 that
    was trained on other inputs than the network's gets a conv1_1 for these (`names.turned`).

    From an FCN, as the original trains 16s from 32s and 8s from 16s: layers of the same name are
    copied (`Net::CopyTrainedLayersFrom`). With more classes than before, the old ones become the
    first of each score layer and the rest start at zero (`surgery.expand_score`).

    Whatever is new starts as the architecture starts it: deconvolutions bilinear
    (`surgery.interp`), score layers at zero, in fcn8-vgg drawn. Arrays are shared with `weights`
    where no number changes.

    Args:
        weights: of a VGG-16 or an FCN, with any widths, in Caffe's layouts.
        to: name of the architecture to make.
        num_classes: of the result; by default the architecture's own from a classifier, and as
            before from an FCN. Averaging needs fewer than fc8 has, another FCN at most as many as
            the result.
        score_init: "fc8-average", "zeros" or "random"; of a VGG-16's `score_fr` only.
        seed: of what is drawn: the score layers of fcn8-vgg, the decoder of resnet34-unet.
        preprocessing: how the inputs of `weights` were made, where they do not state it; it
            overrules what they state.

    Raises:
        WeightsError: the weights are neither a VGG-16's nor an FCN's, the number of classes cannot
            be made of them, a trained layer has another shape than the network's, or the numbers of
            conv1_1 speak against what the names say of the inputs, and nothing is stated.
        ValueError: there is no such architecture or `score_init`.
    """
    return convert_with_report(weights, to, num_classes, score_init, seed, preprocessing)[0]


def convert_with_report(
    weights: Weights,
    to: str,
    num_classes: int | None = None,
    score_init: str = "fc8-average",
    seed: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> tuple[Weights, list[Change]]:
    """`convert`, and what became of each blob: one `Change` a blob of the result, in its order,
    then the blobs that were dropped."""
    architecture = get_architecture(to)
    if architecture.name not in list_architectures():
        there = [*vgg_networks(), *encoders.TARGETS, *encoders.VGG_TARGETS]
        raise ValueError(f"nothing is converted to {architecture.name!r}; there are {', '.join(there)}")
    if score_init not in SCORE_INITS:
        raise ValueError(f"score_init is {', '.join(SCORE_INITS[:-1])} or {SCORE_INITS[-1]}, not {score_init!r}")
    weights = flattened(names.hub_names(weights))
    if preprocessing is not None:
        weights = Weights(weights, metadata.state(weights, preprocessing))
    held = names.held(weights, architecture)
    trained = None if held is None else dimensions(held, architecture).num_classes
    if held is not None:
        names.check_inputs(held, architecture)
    if held is not None and num_classes in (None, trained):
        size = dimensions(held, architecture)
        kept = {key: value for key, value in held.metadata.items() if key not in metadata.OLD}
        held.metadata = kept | metadata.describe(
            architecture, size.num_classes, size.widths, kept, metadata.stated(held)
        )
        changes = [
            Change(name, "copied" if name in weights else "counter", name if name in weights else "", held[name].shape)
            for name in held
        ]
        return held, changes + [
            Change(name, "dropped", name, blob.shape) for name, blob in weights.items() if name not in held
        ]
    if held is not None and architecture.naming == "torch":
        raise WeightsError(
            f"num_classes is {num_classes}; the weights are those of a {architecture.name} that has {trained}"
        )
    if architecture.name not in (*vgg_networks(), *encoders.TARGETS, *encoders.VGG_TARGETS):
        raise WeightsError(
            f"nothing is converted to {architecture.name!r}: it starts from random numbers (build it without weights)"
        )
    classes = architecture.num_classes if num_classes is None else num_classes
    if architecture.name in encoders.TARGETS:
        return from_resnet(weights, architecture, classes, seed)
    if architecture.name in encoders.VGG_TARGETS:
        return from_vgg16(weights, architecture, classes, seed)
    if score_init == "random" and "random_init_fc8" not in architecture.variants:
        raise ValueError(
            f"score_init is 'fc8-average' or 'zeros' for {architecture.name}, not 'random', which is the "
            "random_init_fc8 of fcn8-vgg"
        )
    origin = source_of(weights)
    from_classifier = origin.name not in list_architectures()
    where = weights.metadata.get("source", "the weights")
    if from_classifier and "conv5_3/weight" in weights and not {"fc6/weight", "fc7/weight"} & weights.keys():
        raise WeightsError(f"{where}: is a VGG-16 {WITHOUT_CLASSIFIER}")
    originals, in_channels, widths = dimensions(weights, origin)
    classes = num_classes if num_classes is not None else architecture.num_classes if from_classifier else originals
    if classes < 1:
        raise WeightsError(f"num_classes is {classes}; a network has at least 1 class")
    if from_classifier and score_init == "fc8-average" and not originals:
        raise WeightsError(
            f"{where}: the VGG-16 has no fc8 to average for score_fr; start it at zero (--score-init zeros)"
        )
    if from_classifier and score_init == "fc8-average" and classes >= originals:
        raise WeightsError(
            f"num_classes is {classes}; averaging fc8 needs fewer than its {originals} classes (or start the score "
            "layer at zero)"
        )
    if not from_classifier and classes < originals:
        raise WeightsError(
            f"num_classes is {classes}; the weights score {originals} classes, which can become more, not fewer"
        )
    if not from_classifier and (architecture.name == "fcn8-vgg") != (origin.name == "fcn8-vgg"):
        raise WeightsError(
            f"{architecture.name} does not start from {origin.name}: they differ in padding and in the mean; "
            "convert a VGG-16"
        )

    known, given = metadata.stated(weights), weights
    if not from_classifier:
        names.check_inputs(weights, origin)
    else:
        proven = names.vgg16_preprocessing(weights)[1]
        # fcn8-vgg turns RGB round itself
        inner = Preprocessing("BGR", architecture.mean if architecture.colour == "BGR" else VGG_MEAN)
        given, weights = weights, names.turned(weights, inner)
        known = architecture.preprocessing.for_channels(in_channels) if proven else None
    blobs: dict[str, np.ndarray] = {}
    changes = []
    if in_channels != architecture.in_channels and not architecture.any_channels:
        raise WeightsError(
            f"{architecture.name} takes {architecture.in_channels} channels, as its original does; conv1_1 of the "
            f"weights takes {in_channels}"
        )
    if score_init == "random" and from_classifier:
        architecture = architecture.variants["random_init_fc8"]
    for parameter in architecture.parameters(classes, widths, in_channels):
        name, shape = parameter.name, parameter.shape
        layer, kind = name.split("/")
        if from_classifier and layer == "score_fr" and score_init == "fc8-average":
            blobs[name], what, source = (
                average_classes(weights[f"fc8/{kind}"], classes).reshape(shape),
                "averaged",
                f"fc8/{kind}",
            )
        elif from_classifier and layer == "score_fr" and score_init == "zeros":
            blobs[name], what, source = np.zeros(shape, np.float32), "zero", ""
        elif name in weights and (
            weights[name].shape == shape or (from_classifier and weights[name].size == math.prod(shape))
        ):
            source = name
            what = (
                "turned"
                if weights[name] is not given[name]
                else "copied"
                if weights[name].shape == shape
                else "reshaped"
            )
            blobs[name] = weights[name].reshape(shape)
        elif name in weights and layer.startswith("score"):
            blobs[name], what, source = expand_score(weights[name], shape), "expanded", name
        elif name in weights and parameter.lr_mult:
            raise WeightsError(
                f"{name} is {weights[name].shape}, but {architecture.name} with these widths and classes has "
                f"{shape}; a trained layer is not dropped"
            )
        else:
            blobs[name], what, source = start(parameter, seed), started(parameter), ""
        changes.append(Change(name, what, source, shape))
    used = {change.source for change in changes}
    changes += [Change(name, "dropped", name, weights[name].shape) for name in weights if name not in used]

    described = metadata.describe(architecture, classes, widths, weights.metadata | {"num_classes": originals}, known)
    if architecture.classes and classes == len(architecture.classes):
        described.setdefault("classes", list(architecture.classes))
    return Weights(blobs, described), changes


def expand_score(blob: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A score layer for more classes: the old ones first, zeros after them
    (`surgery.expand_score`)."""
    larger = np.zeros(shape, blob.dtype)
    larger[: len(blob)] = blob
    return larger


def started(parameter: Parameter) -> str:
    """In a word, how a blob starts into which nothing is copied."""
    fill = parameter.fill
    return fill if isinstance(fill, str) else "drawn" if isinstance(fill, Draw) else "constant" if fill else "zero"


def from_resnet(
    weights: Weights, architecture: Architecture, num_classes: int, seed: int | None
) -> tuple[Weights, list[Change]]:
    """torchvision's ResNet as the encoder of a U-Net; the rest starts as the network's own does."""
    kind = encoders.TARGETS[architecture.name]
    shapes = {parameter.name: parameter.shape for parameter in architecture.parameters(num_classes)}
    filled = encoders.encoder(weights, shapes, kind)
    if kind.said:
        note(f"{architecture.name}: {kind.said}", stacklevel=3)
    return with_encoder(weights, weights, filled, architecture, num_classes, seed, metadata.stated(weights))


def from_vgg16(
    weights: Weights, architecture: Architecture, num_classes: int, seed: int | None
) -> tuple[Weights, list[Change]]:
    """VGG-16's convolutions as the encoder of a U-Net or FCN over it.

    torchvision's are copied as they are, as the original does, though its inputs are made otherwise than
    torchvision's; a VGG-16 of other inputs (Oxford's) gets a conv1_1 for the network's (`names.turned`).

    Raises:
        WeightsError: the weights are no VGG-16.
    """
    prefix = encoders.VGG_TARGETS[architecture.name]
    modules = dict(zip(names.TORCHVISION_FEATURES, names.VGG16_LAYERS, strict=False))
    given = weights
    if "conv1_1/weight" in weights and weights.metadata.get("names") != "torchvision":
        given = names.turned(weights, architecture.preprocessing)
    filled = {f"{prefix}.{n}.{kind}": f"{layer}/{kind}" for n, layer in modules.items() for kind in ("weight", "bias")}
    shapes = {parameter.name: parameter.shape for parameter in architecture.parameters(num_classes)}
    for name, source in filled.items():
        if source not in given or given[source].shape != shapes[name]:
            what = "is missing" if source not in given else f"is {given[source].shape}, not {shapes[name]}"
            raise WeightsError(f"the weights are no VGG-16: {source} {what}")
    return with_encoder(weights, given, filled, architecture, num_classes, seed, None)


def with_encoder(
    weights: Weights,
    turned: Weights,
    filled: Mapping[str, str],
    architecture: Architecture,
    num_classes: int,
    seed: int | None,
    preprocessing: Preprocessing | None,
) -> tuple[Weights, list[Change]]:
    """A network whose encoder is filled: its name of a blob → the name among the weights."""
    parameters = architecture.parameters(num_classes)
    blobs = {p.name: turned[filled[p.name]] if p.name in filled else start(p, seed) for p in parameters}

    def what(parameter: Parameter) -> str:
        source = filled.get(parameter.name)
        if source is None:
            return started(parameter)
        return "copied" if turned[source] is weights[source] else "turned"

    changes = [Change(p.name, what(p), filled.get(p.name, ""), p.shape) for p in parameters]
    changes += [Change(name, "dropped", name, weights[name].shape) for name in weights if name not in filled.values()]
    described = metadata.describe(architecture, num_classes, origin=weights.metadata, preprocessing=preprocessing)
    return Weights(blobs, described), changes


def average_classes(blob: np.ndarray, classes: int) -> np.ndarray:
    """fc8 (O×I weights or O biases) for fewer classes: class i is the mean of originals i·n …
    (i+1)·n − 1, n = O // classes; the rest is dropped.

    Source: `_summary_reshape` and `_bias_reshape` of tensorflow-fcn. The mean is taken in float32,
    as numpy takes it there.
    """
    each = len(blob) // classes
    # numpy adds up runs in pairs, as it does there: the same bits
    inputs_first = np.ascontiguousarray(blob[: each * classes].T)
    return np.ascontiguousarray(inputs_first.reshape(*inputs_first.shape[:-1], classes, each).mean(axis=-1).T)


def vgg_networks() -> dict[str, Architecture]:
    """The FCNs with Caffe's names, which start from a VGG-16 or from each other."""
    networks = map(get_architecture, list_architectures())
    return {one.name: one for one in networks if one.naming == "caffe" and "fc7" in one.widths}


def source_of(weights: Weights) -> Architecture:
    """The architecture whose weights these are, told by their names: an FCN with Caffe's names, or
    else a VGG-16."""
    networks = vgg_networks()
    for architecture in networks.values():
        if weights.keys() == {parameter.name for parameter in architecture.parameters()}:
            return architecture
    if "fc7/weight" in weights and not {"fc8/weight", "score_fr/weight"} & weights.keys():
        return HEADLESS_VGG16
    return networks.get("" if "fc8/weight" in weights else str(weights.metadata.get("architecture")), VGG16)


HEADLESS_VGG16 = replace(VGG16, layers=VGG16.layers[:-1], output="fc7")
"""Without fc8, as files that were cut for fine-tuning hold it; classes are counted as 0."""


def flattened(weights: Weights) -> Weights:
    """A convolutional VGG-16, whose fc6 is O×I×7×7 and whose fc7 and fc8 are O×I×1×1, as the
    classifier that it was made of: O×(I·h·w), the same numbers in the same order. The FCN authors
    started from such a file.
    """
    if "score_fr/weight" in weights:
        return weights
    if VGG16.name != weights.metadata.get("architecture", VGG16.name):
        return weights
    layers = ("fc6", "fc7", "fc8")
    flat = {
        name: weights[name].reshape(len(weights[name]), -1)
        for layer in layers
        if (name := f"{layer}/weight") in weights and weights[name].ndim == 4
    }
    return Weights({**weights, **flat}, weights.metadata) if flat else weights


class Dimensions(NamedTuple):
    """What `build` has to be told to make the network that some weights fit."""

    num_classes: int
    in_channels: int
    widths: tuple[int, ...]


def counted(weights: Mapping[str, np.ndarray], architecture: Architecture) -> dict[str | int, int]:
    """Entry of the architecture's widths, or "classes" → how many outputs its layers have in these
    weights."""
    found: dict[str | int, int] = {}
    for layer in architecture.layers:
        blob = weights.get(architecture.parameter_name(layer, "weight"))
        if layer.width and blob is not None and np.ndim(blob) >= 2:
            found.setdefault(layer.width, np.shape(blob)[1 if layer.kind.startswith("Deconvolution") else 0])
    return found


def found_dimensions(weights: Mapping[str, np.ndarray], architecture: Architecture) -> dict[str, Any]:
    """Those of `Dimensions` that weights tell, whether or not they fit the network otherwise."""
    found = counted(weights, architecture)
    told: dict[str, Any] = {}
    if "classes" in found:
        told["num_classes"] = found["classes"]
    first = weights.get(
        architecture.parameter_name(next(layer for layer in architecture.layers if layer.width), "weight")
    )
    if first is not None and np.ndim(first) >= 2:
        told["in_channels"] = np.shape(first)[1]
    if found.keys() >= set(architecture.widths):
        told["widths"] = tuple(found[name] for name in architecture.widths)
    return told


def shapes_fit(weights: Mapping[str, Any], architecture: Architecture) -> bool:
    """Whether arrays (or what has a shape) under a network's names have the shapes of it, in some widths."""
    blobs = {name: np.broadcast_to(np.float32(0), np.shape(blob)) for name, blob in weights.items()}
    told = found_dimensions(blobs, architecture)
    if "num_classes" not in told or (architecture.widths and "widths" not in told):
        return False
    wanted = architecture.parameters(told["num_classes"], told.get("widths"), told.get("in_channels"))
    return all(np.shape(blobs[one.name]) == one.shape for one in wanted if one.name in blobs)


def dimensions(weights: Weights, architecture: str | Architecture) -> Dimensions:
    """Classes, channels and widths of a network, read off its weights.

    Raises:
        WeightsError: the weights are another network's, or contradict each other; the first culprit
            is named.
    """
    architecture = get_architecture(architecture)
    found = counted(weights, architecture)
    first = architecture.parameter_name(next(layer for layer in architecture.layers if layer.width), "weight")
    if architecture is HEADLESS_VGG16:
        found["classes"] = 0
    if missing := {*architecture.widths, "classes"} - found.keys():
        lacking = architecture.parameter_name(
            next(layer for layer in architecture.layers if layer.width in missing), "weight"
        )
        known = names.identify(weights)
        what = repr(weights) if known is None or "architecture" in weights.metadata else f"weights of {known.name}"
        raise WeightsError(f"{what} are not the weights of {architecture.name}: {lacking} is missing")
    result = Dimensions(found["classes"], weights[first].shape[1], tuple(found[name] for name in architecture.widths))
    expected = {
        parameter.name: parameter.shape
        for parameter in architecture.parameters(result.num_classes or None, result.widths, result.in_channels)
    }
    try:
        check_keys({name: blob.shape for name, blob in weights.items()}, expected, architecture.name)
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"{weights.metadata['source']}: {error.args[0]}" if "source" in weights.metadata else error.args[0]
        ) from None
    return result
