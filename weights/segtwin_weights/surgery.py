"""Net surgery: weights of one network as the start of another, as `solve.py` and `surgery.py` of fcn.berkeleyvision.org do it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from segtwin import __version__, architectures, geometry

from segtwin_weights import names
from segtwin_weights.hub import Metadata, Weights, WeightsError, check_keys

SCORE_INITS = ("fc8-average", "zeros")


class Change(NamedTuple):
    """What became of one blob."""

    blob: str
    what: str
    """copied, reshaped, averaged, zero, bilinear or dropped."""
    source: str
    shape: tuple[int, ...]


def convert(weights: Weights, to: str, num_classes: int | None = None, score_init: str = "fc8-average", seed: int | None = None) -> Weights:
    """Weights of a VGG-16 classifier as those that an FCN starts its training from.

    Weights that hold the network already, as another project's checkpoint of it does, come out under the hub's names. torchvision's VGG-16 gets a
    conv1_1 for BGR (`names.turned`).

    Convolutions are copied; fc6 and fc7 become the 7×7 and 1×1 convolutions that they are; `score_fr` is the average of neighbouring classes
    of fc8 (tensorflow-fcn; "zeros" starts it at zero, as Caffe does); the other score layers are zero and the deconvolutions bilinear
    (`surgery.interp`). Arrays are shared with `weights` where no number changes.

    Args:
        weights: of a VGG-16, with any widths, in Caffe's layouts.
        to: name of the row to make.
        num_classes: of the result; by default the row's own. Averaging needs fewer than fc8 has.
        score_init: "fc8-average" or "zeros".
        seed: unused by the Caffe nets, where nothing starts at random.

    Raises:
        WeightsError: the weights are not a VGG-16's, or the number of classes cannot be made.
        ValueError: there is no such row or `score_init`.
    """
    return convert_with_report(weights, to, num_classes, score_init)[0]


def convert_with_report(weights: Weights, to: str, num_classes: int | None = None, score_init: str = "fc8-average") -> tuple[Weights, list[Change]]:
    """`convert`, and what became of each blob."""
    row = architectures.get(to)
    if row.name not in architectures.ROWS:
        raise ValueError(f"nothing is converted to {row.name!r}; there are {', '.join(architectures.ROWS)}")
    if score_init not in SCORE_INITS:
        raise ValueError(f"score_init is {' or '.join(SCORE_INITS)}, not {score_init!r}")
    weights = names.turned(names.hub_names(weights), row.mean if row.colour == "BGR" else architectures.VGG_MEAN)
    held = names.held(weights, row)
    if held is not None and num_classes in (None, dimensions(held, row).num_classes):
        held.metadata["version"] = __version__
        return held, [Change(name, "copied" if name in held else "dropped", name, blob.shape) for name, blob in weights.items()]
    classes = row.num_classes if num_classes is None else num_classes
    originals, _, widths = dimensions(weights, architectures.VGG16)
    if classes < 1:
        raise WeightsError(f"num_classes is {classes}; a network has at least 1 class")
    if score_init == "fc8-average" and classes >= originals:
        raise WeightsError(f"num_classes is {classes}; averaging fc8 needs fewer than its {originals} classes (or start the score layer at zero)")

    blobs: dict[str, np.ndarray] = {}
    changes = []
    for name, shape, _, _, fill in row.parameters(classes, widths):
        layer, kind = name.split("/")
        if layer == "score_fr" and score_init == "fc8-average":
            blobs[name], what, source = average_classes(weights[f"fc8/{kind}"], classes).reshape(shape), "averaged", f"fc8/{kind}"
        elif name in weights:
            source = name
            what = "copied" if weights[name].shape == shape else "reshaped"
            blobs[name] = weights[name].reshape(shape)
        elif fill == "bilinear":
            blobs[name], what, source = geometry.bilinear_deconvolution(classes, shape[-1]), "bilinear", ""
        else:
            blobs[name], what, source = np.full(shape, fill, np.float32), "zero", ""
        changes.append(Change(name, what, source, shape))
    used = {change.source for change in changes}
    changes += [Change(name, "dropped", name, weights[name].shape) for name in weights if name not in used]

    metadata: Metadata = {
        "architecture": row.name,
        "num_classes": classes,
        "widths": list(widths),
        "colour": row.colour,
        "mean": list(row.mean),
        "version": __version__,
        **{key: weights.metadata[key] for key in ("source", "sha256", "synthetic") if key in weights.metadata},
    }
    if row.classes and classes == len(row.classes):
        metadata["classes"] = list(row.classes)
    return Weights(blobs, metadata), changes


def average_classes(blob: np.ndarray, classes: int) -> np.ndarray:
    """fc8 (O×I weights or O biases) for fewer classes: class i is the mean of originals i·n … (i+1)·n − 1, n = O // classes; the rest is dropped.

    Source: `_summary_reshape` and `_bias_reshape` of tensorflow-fcn. The mean is taken in float32, as numpy takes it there.
    """
    each = len(blob) // classes
    return blob[: each * classes].reshape(classes, each, *blob.shape[1:]).mean(axis=1)


class Dimensions(NamedTuple):
    """What `build` has to be told to make the network that some weights fit."""

    num_classes: int
    in_channels: int
    widths: tuple[int, ...]


def dimensions(weights: Weights, row: str | architectures.Row) -> Dimensions:
    """Classes, channels and widths of a network, read off its weights.

    Raises:
        WeightsError: the weights are another network's, or contradict each other; the first culprit is named.
    """
    row = architectures.get(row)
    found: dict[str, int] = {}
    for layer in row.layers:
        blob = weights.get(f"{layer.name}/weight")
        if layer.width and blob is not None and blob.ndim >= 2:
            found.setdefault(layer.width, blob.shape[1 if layer.kind == "Deconvolution" else 0])
    first = next(layer.name for layer in row.layers if layer.width) + "/weight"
    if missing := {*row.widths, "classes"} - found.keys():
        lacking = next(layer.name for layer in row.layers if layer.width in missing)
        raise WeightsError(f"{weights!r} are not the weights of {row.name}: {lacking}/weight is missing")
    result = Dimensions(found["classes"], weights[first].shape[1], tuple(found[name] for name in row.widths))
    expected = {parameter.name: parameter.shape for parameter in row.parameters(result.num_classes, result.widths, result.in_channels)}
    try:
        check_keys({name: blob.shape for name, blob in weights.items()}, expected, row.name)
    except (KeyError, ValueError) as error:
        raise WeightsError(error.args[0]) from None
    return result


def untrained(
    row: str | architectures.Row,
    num_classes: int | None = None,
    in_channels: int | None = None,
    widths: tuple[int, ...] | None = None,
    seed: int | None = None,
) -> Weights:
    """What a network holds before anything is loaded into it: what its original starts with.

    net.py names no filler, so the Caffe nets start at zero (Caffe's default) but for the bilinear deconvolutions: they are meant to be started
    from a VGG-16, by `convert`. Nothing in them is random, so `seed` changes nothing.
    """
    row = architectures.get(row)
    blobs = {}
    for name, shape, _, _, fill in row.parameters(num_classes, widths, in_channels):
        blobs[name] = geometry.bilinear_deconvolution(shape[0], shape[-1]) if fill == "bilinear" else np.full(shape, fill, np.float32)
    return Weights(blobs, {"architecture": row.name, "colour": row.colour, "mean": list(row.mean)})
