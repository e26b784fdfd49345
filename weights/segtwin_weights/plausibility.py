"""What the numbers themselves say about their order: checks of errors that no shape shows.

Trained filters are smooth: neighbouring pixels of one channel resemble each other, neighbouring
channels do not. So fc6, read in the right order, is correlated along rows and columns, and read in
the wrong one is not. And the first filters of the two trainings of VGG-16 that everybody starts
from, Oxford's and torchvision's, are known: they tell BGR from RGB, and 0..255 from 0..1, in every
network that was started from one of them and not trained long.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from segtwin import Preprocessing
from segtwin.architectures import Architecture, find_architecture, get_architecture
from segtwin.architectures.vgg16 import CLASSIFIER_PIXELS, VGG_MEAN

from segtwin_weights import metadata
from segtwin_weights.hub import Weights

IMAGENET_RGB = Preprocessing("RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1 / 255)
"""How torchvision's classifiers take an image."""
OXFORD_INPUTS = Preprocessing("BGR", VGG_MEAN)
"""How the VGG authors' own files do."""
OXFORD_BGR = (0.429470569, 0.550379455, 0.480015397)
"""Oxford's VGG-16, conv1_1, filter 0, top left, of the channels B, G, R: as keras.applications'
VGG16 prints its first kernel."""
TORCHVISION_RGB = (-0.5537, 0.1755, 0.3130)
"""The same of torchvision's vgg16 IMAGENET1K_V1 (features.0), of the channels R, G, B: as many a
notebook prints its first kernel."""
KNOWN = (
    ("BGR", OXFORD_BGR, True, "Oxford's Caffe", "0..255 minus the mean"),
    ("RGB", TORCHVISION_RGB, False, "torchvision's", "0..1, minus its mean, over its deviation"),
)
"""Order, first filter, whether the inputs are of hundreds, whose training, and what it takes."""
NEAR = 0.02
"""How far fine-tuning may have moved them; Oxford's B and R are 0.05 apart."""
OUTPUTS = 256
"""Outputs of fc6 that are looked at: with 512 channels and 42 pairs in each, 5 million pairs a
direction."""
SIGMAS = 8.0
"""A correlation counts when it is so many of its standard deviations, 1/√pairs, from zero …"""
LEAST = 0.02
"""… and at least this."""


class Finding(NamedTuple):
    """One check."""

    what: str
    """fc6, conv1_1 or numbers."""
    says: str
    """"looks CHW", "looks BGR", …"""
    evidence: str
    good: bool
    """False: the weights contradict the hub's order."""


def check(weights: Weights) -> list[Finding]:
    """Every check that the weights allow."""
    findings = []
    if "fc6/weight" in weights and weights["fc6/weight"].ndim in (2, 4):
        findings.append(fc6_order(weights["fc6/weight"]))
    if (first := first_layer(weights)) and weights[first].shape[1:] == (3, 3, 3):
        architecture = find_architecture(weights.metadata.get("architecture"))
        if first != "conv1_1/weight":
            architecture = architecture or get_architecture("vggfcn8")  # the three take the same inputs
        findings.append(colour_order(weights[first], seen(weights, architecture)))
    dead = [name for name, blob in weights.items() if name.endswith("weight") and blob.ndim > 1 and not np.any(blob)]
    findings.append(
        Finding(
            "numbers",
            f"{len(dead)} weights are all zero" if dead else "no weight is all zero",
            ", ".join(dead[:4]),
            True,
        )
    )
    return findings


def fc6_order(weight: np.ndarray) -> Finding:
    """Whether fc6 (O×(C·H·W) or O×C×7×7) is smooth along H and W as the hub reads it, or would be
    if its columns were H·W·C."""
    flat = weight.reshape(len(weight), -1)[:OUTPUTS].astype(np.float64)
    side = round(CLASSIFIER_PIXELS**0.5)
    if flat.shape[1] % side**2:
        return Finding("fc6", "cannot be told", f"{flat.shape[1]} columns are no 7×7 maps", True)
    chw, pairs = _smoothness(flat.reshape(len(flat), -1, side, side))
    hwc, _ = _smoothness(flat.reshape(len(flat), side, side, -1).transpose(0, 3, 1, 2))
    evidence = f"correlation of neighbouring pixels {chw:+.3f} as C·H·W, {hwc:+.3f} as H·W·C"
    threshold = max(LEAST, SIGMAS / pairs**0.5)
    if max(chw, hwc) < threshold:
        return Finding("fc6", "cannot be told", f"{evidence}: not trained, or too narrow", True)
    return Finding("fc6", "looks CHW" if chw > hwc else "looks HWC", evidence, chw > hwc)


def _smoothness(maps: np.ndarray) -> tuple[float, int]:
    """(correlation of horizontal and vertical neighbours, number of pairs) of O×C×H×W."""
    centred = maps - maps.mean(axis=(2, 3), keepdims=True)
    variance = float((centred**2).mean())
    if not variance:
        return 0.0, 1
    across, down = centred[..., 1:] * centred[..., :-1], centred[..., 1:, :] * centred[..., :-1, :]
    # a map of n pixels whose mean is taken away has −1/(n − 1) between any two of unrelated values
    unrelated = -1 / (maps.shape[2] * maps.shape[3] - 1)
    return float((across.mean() + down.mean()) / 2 / variance - unrelated), across.size + down.size


def first_layer(weights: Weights) -> str | None:
    """The blob of a VGG-16's first filters, in a classifier or a network made of one; None where
    there is none."""
    return next(
        (name for name in ("conv1_1/weight", "vgg16.features.0.weight") if name in weights and weights[name].ndim == 4),
        None,
    )


def of_names(weights: Weights) -> Preprocessing:
    """What the names of a VGG-16 suggest of its inputs."""
    return IMAGENET_RGB if weights.metadata.get("names") == "torchvision" else OXFORD_INPUTS


def seen(weights: Weights, architecture: Architecture | None) -> Preprocessing:
    """What the first filters of a network, or of a VGG-16 (None), get, by what is stated, or else
    by the names."""
    said = metadata.stated(weights, architecture) or (architecture.preprocessing if architecture else of_names(weights))
    if architecture is None or architecture.name != "fcn8-vgg":
        return said
    # it takes RGB, and turns it and subtracts the mean before conv1_1
    return said.in_order("RGB" if said.colour == "BGR" else "BGR")


class Training(NamedTuple):
    """What conv1_1 shows of the inputs that it was trained on."""

    colour: str | None
    """BGR or RGB, or None where they do not show it."""
    large: bool
    """True: values of hundreds, 0..255 minus a mean; False: of a few units."""
    evidence: str

    def against(self, inputs: Preprocessing) -> bool:
        """Whether it contradicts that the network gets these inputs."""
        return self.large != (inputs.scale * 255 > UNITS) or self.colour not in (None, inputs.colour)


def training(weight: np.ndarray, bias: np.ndarray | None) -> Training | None:
    """What kind of inputs conv1_1 (O×3×k×k) was trained on; None where its numbers show nothing.

    Oxford's first filter is known (0..255 minus the mean), and torchvision's (0..1, minus its mean,
    over its deviation). Else the scales: the answers of a layer whose filters have the norm n to
    inputs of about ±s are about n·s. Where n·2 is far below the biases, or below a twentieth,
    inputs of ±2 would move nothing: they are of hundreds. Norms as they are common (0.3 … 3) allow
    both, and show nothing.
    """
    if weight.ndim != 4 or weight.shape[1] != 3:
        return None
    for own, first, large, whose, values in KNOWN:
        for order, known in ((own, first), (own[::-1], first[::-1])):
            if np.abs(weight[0, :, 0, 0] - known).max() < NEAR:
                return Training(
                    order, large, f"conv1_1 begins {_first(weight)}: {whose} training, which takes {order}, {values}"
                )
    norms = np.sqrt((weight.astype(np.float64) ** 2).sum(axis=(1, 2, 3)))
    norm = float(np.median(norms[norms > 0])) if np.any(norms > 0) else 0.0
    if not norm:
        return None
    size = float(np.sqrt(np.mean(np.square(bias, dtype=np.float64)))) if bias is not None and bias.size else 0.0
    if norm < SMALL_NORM or size > FAR_BIAS * norm:
        says = (
            f"conv1_1's filters have the norm {norm:.2g} and its biases {size:.2g}: they were made for inputs of "
            "hundreds (0..255), not of ±2"
        )
        return Training(None, True, says)
    if norm > LARGE_NORM and size < norm:
        return Training(
            None,
            False,
            f"conv1_1's filters have the norm {norm:.2g}: made for inputs of units (0..1, ±2), not of hundreds",
        )
    return None


SMALL_NORM, LARGE_NORM, FAR_BIAS = 0.05, 30.0, 8.0
UNITS = 4.0
"""Largest values of an image up to which inputs are of units."""


def _first(weight: np.ndarray) -> str:
    return ", ".join(f"{value:.3f}" for value in weight[0, :, 0, 0])


def colour_order(weight: np.ndarray, inputs: Preprocessing) -> Finding:
    """Whether conv1_1 (O×3×3×3) begins with the first filter of a known training, made for inputs
    as these."""
    found = training(weight, None)
    if found is None or found.colour is None:
        known = f"Oxford's is {', '.join(f'{v:.3f}' for v in OXFORD_BGR)} in B, G, R"
        return Finding(
            "conv1_1", "cannot be told", f"filter 0 begins {_first(weight)}; {known}: another training", True
        )
    return Finding(
        "conv1_1", f"looks {found.colour}", found.evidence.replace("conv1_1", "filter 0", 1), not found.against(inputs)
    )
