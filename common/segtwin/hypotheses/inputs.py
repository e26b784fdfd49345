"""Wrong inputs: channels, mean, scale, orientation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from segtwin.architectures.vgg16 import VGG_MEAN
from segtwin.hypotheses.case import DATA, Apply, Change
from segtwin.hypotheses.catalogue import Hypothesis
from segtwin.preprocessing import Preprocessing

CAFFE_MEAN = (104.00699, 116.66877, 122.67892)
"""fcn.berkeleyvision.org, B, G, R; the VGG mean is 103.939, 116.779, 123.68."""
TORCHVISION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of torchvision's ImageNet weights, R, G, B, of values 0..1."""


class WrongInput(NamedTuple):
    """A way to prepare an input wrongly."""

    id: str
    text: str
    change: Change
    """The right input → the wrong one."""
    variant: str = ""


def of(preprocessing: Preprocessing, channels: int) -> Iterator[Hypothesis]:
    """Hypotheses about the input of a network."""
    for one in wrong_inputs(preprocessing, channels):
        yield Hypothesis(one.id, (DATA,), one.text, prepared_by(one.change), one.variant)


def said_in_words(said: Preprocessing) -> str:
    """What is done to 0..255."""
    numbers = ["×" + f"{said.scale:g}"] * (said.scale != 1)
    numbers += ["less " + ", ".join(f"{value:g}" for value in said.mean)] * any(said.mean)
    numbers += ["by " + ", ".join(f"{value:g}" for value in said.std)] * any(value != 1 for value in said.std)
    return f"{said.colour} of 0..255{', ' * bool(numbers)}{', '.join(numbers)}"


def prepared_by(change: Change) -> Apply:
    """Something is done to the input."""
    return lambda case: case.with_input(change)


def wrong_inputs(preprocessing: Preprocessing, channels: int) -> Iterator[WrongInput]:
    """The ways to prepare an input wrongly, the commonest first.

    Args:
        preprocessing: how it is prepared rightly.
        channels: of the input.
    """
    said = preprocessing.for_channels(channels)

    def a_channel(values: object) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, np.float64), (channels,))[:, None, None]

    mean, std, scale = a_channel(said.mean), a_channel(said.std), float(said.scale)

    def raw(data: np.ndarray) -> np.ndarray:
        """0..255, in the network's order of channels."""
        return (data * std + mean) / scale

    def prepared(image: np.ndarray) -> np.ndarray:
        return (image * scale - mean) / std

    other = "RGB" if said.colour == "BGR" else "BGR"
    colours = (said.colour, other) if channels == 3 else (said.colour,)
    if channels == 3:
        yield WrongInput(
            "input_order",
            f"the network takes its channels in the order {other}: they are {said.colour}; turn the image's channels "
            "round, or the inputs of the first convolution's kernels",
            lambda data: data[:, ::-1],
        )
        if np.ptp(mean):
            yield WrongInput(
                "mean_order",
                f"the mean is subtracted in the order of {other}: give it in {said.colour}",
                lambda data: (raw(data) * scale - mean[::-1]) / std,
            )
            yield WrongInput(
                "image_order",
                f"the image is {other} where the mean is in {said.colour}: read the image as {said.colour} before the "
                "mean is subtracted",
                lambda data: prepared(raw(data)[:, ::-1]),
            )
        if np.ptp(std):
            yield WrongInput(
                "std_order", f"the standard deviations are in the order of {other}", lambda data: data * std / std[::-1]
            )
    if mean.any():
        yield WrongInput("mean_missing", "no mean is subtracted", lambda data: data + mean / std)
        yield WrongInput("mean_twice", "the mean is subtracted twice", lambda data: data - mean / std)
        yield WrongInput("mean_added", "the mean is added, not subtracted", lambda data: data + 2 * mean / std)
        if channels == 3:
            order = 1 if said.colour == "BGR" else -1
            for id, other_mean in (("mean_vgg", VGG_MEAN), ("mean_caffe", CAFFE_MEAN)):
                theirs = a_channel(other_mean[::order]) * scale
                if 0 < float(np.abs(theirs - mean).max()) < 2 * scale:
                    numbers = ", ".join(f"{value:g}" for value in other_mean)
                    yield WrongInput(
                        id,
                        f"the mean is {numbers} (B, G, R): it is {', '.join(f'{value:g}' for value in mean[:, 0, 0])} "
                        f"({said.colour})",
                        lambda data, theirs=theirs: data + (mean - theirs) / std,  # type: ignore[misc]
                    )
    if mean.any() or scale != 1 or (std != 1).any():
        for colour in colours:
            turn = colour != said.colour
            yield WrongInput(
                "preprocessing_inside",
                f"the network prepares its input by itself and takes {colour} images of 0..255: give it images as they "
                "are, or take the preprocessing out of it",
                lambda data, turn=turn: prepared(data[:, ::-1] if turn else data),  # type: ignore[misc]
                colour,
            )
            yield WrongInput(
                "preprocessing_missing",
                f"the input is a {colour} image of 0..255 with nothing subtracted and nothing divided",
                lambda data, turn=turn: raw(data)[:, ::-1] if turn else raw(data),  # type: ignore[misc]
                colour,
            )
    for change, words, variant in (
        (lambda image: image / 255, "0..1, nothing subtracted (torchvision's ToTensor alone)", "0..1"),
        (lambda image: image / 127.5 - 1, "−1..1", "-1..1"),
        (lambda image: image - mean.mean() / scale, "that with one mean for all channels subtracted", "one mean"),
        (lambda image: image - 128, "that with 128 subtracted", "128"),
    ):
        for colour in colours:
            if variant == "one mean" and not np.ptp(mean):
                continue
            turn = colour != said.colour
            yield WrongInput(
                "preprocessing_other",
                f"the input is a {colour} image of {words}: the network takes {said_in_words(said)}",
                lambda data, turn=turn, change=change: change(  # type: ignore[misc]
                    raw(data)[:, ::-1] if turn else raw(data)
                ),
                f"{variant} {colour}",
            )
    yield WrongInput("input_inverted", "the image is inverted, dark for bright", lambda data: prepared(255 - raw(data)))
    if channels == 3:
        own_mean, own_std = (np.array(one)[:: 1 if said.colour == "RGB" else -1, None, None] for one in TORCHVISION)
        if said.scale == 1:
            yield WrongInput(
                "preprocessing_torchvision",
                "the input is prepared as for torchvision's weights (0..1, mean 0.485 0.456 0.406, standard deviation "
                "0.229 0.224 0.225)",
                lambda data: (raw(data) / 255 - own_mean) / own_std,
            )
            turned_mean, turned_std = own_mean[::-1], own_std[::-1]
            yield WrongInput(
                "preprocessing_torchvision",
                "the input is prepared as for torchvision's weights, the numbers in the order of the other colours",
                lambda data: (raw(data) / 255 - turned_mean) / turned_std,
                "turned",
            )
    for factor, words in (
        (1 / 255, "0..1 in place of 0..255"),
        (255.0, "0..255 in place of 0..1"),
        (1 / 127.5, "−1..1"),
    ):
        yield WrongInput(
            "input_scale",
            f"the input is scaled to {words}: factor {factor:.4g}",
            lambda data, factor=factor: data * factor,  # type: ignore[misc]
            f"{factor:.4g}",
        )
    yield WrongInput(
        "input_transposed", "rows and columns of the image are exchanged", lambda data: data.swapaxes(2, 3)
    )
    yield WrongInput(
        "input_flipped", "the image's rows are in the reverse order", lambda data: data[:, :, ::-1], "rows"
    )
    yield WrongInput(
        "input_flipped", "the image's columns are in the reverse order", lambda data: data[:, :, :, ::-1], "columns"
    )
    yield WrongInput(
        "input_reshaped",
        "the image is H×W×C and reshaped to C×H×W, which mixes pixels with channels: transpose it",
        lambda data: data.transpose(0, 2, 3, 1).reshape(data.shape),
        "hwc",
    )
