"""Any two models compared, with no knowledge of their network: values matched by what is in them, the first
difference, and the causes that show without a table of layers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import segtwin
from segtwin import Preprocessing
from segtwin.hypotheses.case import Change
from segtwin.hypotheses.inputs import CAFFE_MEAN, TORCHVISION, wrong_inputs
from segtwin.hypotheses.output import TURNS, sigmoid, softmax

from segtwin_engines import differences
from segtwin_engines.diagnosis import SEED
from segtwin_engines.loading import Chosen
from segtwin_engines.ports import Port, PortError, open_port
from segtwin_engines.shelf import Seen, Shelf, alike, coarse
from segtwin_engines.verdict import BlobState, Cause, Diagnosis
from segtwin_engines.weights_diagnosis import way

TOLERANCE = 1e-4
"""Relative error up to which two models are equal: what float32 costs through fifty layers in any framework. Nothing
is known of the network from which it could be measured."""
SIZES = ((65, 97), (96, 64), (96, 96), (160, 128), (256, 256), (224, 224), (572, 572))
"""Tried in this order, until three sizes are found that both take."""
ENOUGH = 3


def compare_ports(
    theirs: Any,
    reference: Any,
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    preprocessing: Chosen | None,
    step: Callable[[str], None],
) -> Diagnosis:
    """Compare a model with another one.

    Args:
        theirs: the one, as for `diagnose`.
        reference: the other.
        images: files, compared beside seeded random inputs.
        preprocessing: how the images are made inputs.
        step: is told what begins.

    Raises:
        PortError: one of them cannot be opened, or there is no size that both take.
        ValueError: images without their preprocessing.
    """
    files = [os.fspath(images)] if isinstance(images, str | os.PathLike) else [os.fspath(one) for one in images]
    if files and preprocessing is None:
        raise ValueError("two models say nothing of how images are made inputs: add --colour, --mean, --std, --scale")
    step("opening the models")
    ours = open_port(reference)
    port = open_port(theirs, ours.channels)
    channels = port.channels or ours.channels
    pairs = list(probes(port, ours, channels))
    for name in files:
        count = pairs[0][1].shape[1]
        used = preprocessing(Preprocessing(), count) if callable(preprocessing) else preprocessing
        data = segtwin.preprocess(name, used, count)
        pairs.append((name, data))
    result = Diagnosis(ours.name, port.name, "differs", 0.0, inputs=[name for name, _ in pairs])
    worst = -1.0
    chosen = pairs[0]
    for name, data in pairs:
        step(f"comparing on {name}")
        got, want = outputs(port, ours, data)
        off = differences.error(got, want)
        if off > worst:
            worst, chosen = off, (name, data)
    result.floors = worst / TOLERANCE
    if worst <= TOLERANCE:
        result.verdict = "equal"
        result.explanation = f"the outputs agree on {len(pairs)} inputs within {worst:.1e} of the largest value"
        return result
    for one, words in ((port, port.name), (ours, f"the reference {ours.name}")):
        if one.recorded is None and not steady(one, chosen[1]):
            result.causes = [Cause("dropout_on", "", f"{words}: dropout, or another draw, is on: call eval()")]
            result.first_difference, result.how = "output", "differs from call to call"
            result.explanation = f"two calls on the same input give two outputs; {result.causes[0].text}"
            return result
    step("looking for the first difference")
    first(result, port, ours, chosen[1])
    step("looking for a cause")
    result.causes = result.causes or list(causes(port, ours, [data for _, data in pairs], result))
    head = f"the first value that differs is {result.first_difference}: it {result.how}"
    result.explanation = (
        f"{head}. Cause: {'; and '.join(cause.text for cause in result.causes)}"
        if result.causes
        else f"differs from {result.first_difference} on; no known cause. {head[0].upper()}{head[1:]}"
    )
    return result


def probes(port: Port, ours: Port, channels: int | None) -> Iterator[tuple[str, np.ndarray]]:
    """Random inputs of sizes that both take.

    Raises:
        PortError: there is none.
    """
    for one in (port, ours):
        if one.recorded is not None:
            yield "its own input", one.recorded
            return
    random = np.random.default_rng(SEED)
    found = 0
    why: Exception | None = None
    fixed = tuple(a or b for a, b in zip(port.size, ours.size, strict=True))
    sizes = dict.fromkeys((fixed[0] or rows, fixed[1] or columns) for rows, columns in SIZES)
    for height, width in sizes:
        for count in (channels,) if channels else (3, 1):
            data = random.standard_normal((1, count, height, width)).astype(np.float32)
            try:
                outputs(port, ours, data)
            except PortError as error:
                why = why or error
                continue
            yield f"{height}×{width}", data
            channels, found = count, found + 1
            break
        if found == ENOUGH:
            return
    if not found:
        raise PortError(f"there is no size of inputs that both models take; {why}")


def outputs(port: Port, ours: Port, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The outputs of both that belong together: those that are most alike."""
    got, want = port.run(data), ours.run(data)
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for target in want:
        for one in got:
            laid = differences.laid_out(one, target.shape) if target.ndim == 4 else one
            off = float("inf") if laid is None else differences.error(laid, target)
            if laid is not None and (best is None or off < best[0]):
                best = off, laid, target
    if best is not None:
        return best[1].astype(np.float32), best[2].astype(np.float32)
    return got[0].astype(np.float32), planes(want[0]).astype(np.float32)


def planes(value: np.ndarray) -> np.ndarray:
    """N×H×W×C as N×C×H×W, where the axes tell it."""
    if value.ndim == 4 and value.shape[3] < min(value.shape[1:3]):
        return value.transpose(0, 3, 1, 2)
    return value


def steady(port: Port, data: np.ndarray) -> bool:
    """Whether two calls give the same."""
    one, other = port.run(data), port.run(data)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


def first(result: Diagnosis, port: Port, ours: Port, data: np.ndarray) -> None:
    """The first value of the reference that the port should have, and has differently."""
    got, want = outputs(port, ours, data)
    shelf = Shelf(port.values(data), [got])
    values = {name: planes(value) for name, value in ours.values(data).items()}
    values["output"] = want
    matched: dict[str, Seen] = {}
    for name, value in values.items():
        there = shelf.find(value, TOLERANCE)
        if there is not None and value.any():
            matched[name] = there[0]
    taken = {seen.name for seen in matched.values()}
    place: tuple[str, Seen] | None = None
    for name, value in values.items():
        if name in matched or not value.any():
            continue
        if value.min() >= 0 and (unrectified := before_relu(shelf, value)) is not None:
            place = name, unrectified
            text = f"there is no ReLU after {unrectified.name}: the reference's {name} is its positive part"
            result.causes = [Cause("relu_missing", name, text)]
            break
        named = next((array for other, array in shelf.items if other == name), None)
        if named is not None and named.shape != value.shape and name not in taken:
            place = name, Seen(name, named)  # of another size
            break
        left = [
            (shelf.items[number][0] == name, alike(array, value), -number, array)
            for number, array in shelf.shaped(value.shape)
            if shelf.items[number][0] not in taken
        ]
        if left:
            same, score, number, array = max(left, key=lambda one: one[:3])
            if same or score > 0.3 or name == "output":
                place = name, Seen(shelf.items[-number][0], array)
                break
    result.first_difference, seen = place or ("output", Seen("output", got))
    target = values[result.first_difference]
    result.how = differences.describe(seen.array, target, TOLERANCE).words
    if seen.array.shape == target.shape and target.ndim == 4:
        result.maps = seen.array, target
    for name, value in values.items():
        taken_for = seen if name == result.first_difference else matched.get(name)
        off = None if taken_for is None else differences.error(taken_for.array, value)
        result.blobs.append(BlobState(name, taken_for.name if taken_for else None, off, None, TOLERANCE))


def before_relu(shelf: Shelf, value: np.ndarray) -> Seen | None:
    """The value of a model whose positive part another value is."""
    for number, array in shelf.shaped(value.shape):
        if array.min() < 0 and differences.error(np.maximum(array, 0), value) <= TOLERANCE:
            return Seen(shelf.items[number][0], array)
    return None


def causes(port: Port, ours: Port, data: list[np.ndarray], result: Diagnosis) -> Iterator[Cause]:
    """What explains the difference and needs no knowledge of the network."""
    pairs = [outputs(port, ours, one) for one in data]

    def explained(change: Callable[[np.ndarray], np.ndarray]) -> bool:
        return all(
            (changed := change(want)).shape == got.shape and differences.error(got, changed) <= TOLERANCE
            for got, want in pairs
        )

    def undone(change: Callable[[np.ndarray], np.ndarray]) -> bool:
        return all(
            (changed := change(got)).shape == want.shape and differences.error(changed, want) <= TOLERANCE
            for got, want in pairs
        )

    with np.errstate(all="ignore"):
        for id, there, missing, function in (
            (
                "softmax",
                "ends in a softmax, the reference does not",
                "does not end in the reference's softmax",
                softmax,
            ),
            (
                "sigmoid",
                "ends in a sigmoid, the reference does not",
                "does not end in the reference's sigmoid",
                sigmoid,
            ),
        ):
            if explained(function):
                yield Cause(id, "output", f"the model {there}")
                return
            if undone(function):
                yield Cause(f"{id}_missing", "output", f"the model {missing}")
                return
    if explained(lambda want: want.argmax(1, keepdims=True).astype(np.float32)):
        yield Cause("argmax", "output", "the model gives a class a pixel, the reference scores")
        return
    if port.recorded is None and ours.recorded is None:
        found = next(wrong_input(port, ours, data), None)
        if found is not None:
            yield found
            return
    node = next(wrong_node(port, ours, result), None)
    if node is not None:
        yield node
        return
    if (found := other_arrays(port, ours)) is not None:
        yield found
        return
    for id, _, words, turn in TURNS:
        if explained(turn):
            yield Cause(f"output_{id}", "output", f"the model's output: {words}")
            return
    for id, words, change in differences.changes(*pairs[0], TOLERANCE):
        if explained(change):
            yield Cause(id, "output", words.replace("the network's", "the reference's"))
            return
    way = differences.describe(*pairs[0], TOLERANCE)
    if way.id in ("mirrored", "shifted", "zero", "nan") and all(
        differences.describe(got, want, TOLERANCE).id == way.id for got, want in pairs
    ):  # fmt: skip
        yield Cause(f"output_{way.id}", "output", f"the model's output {way.words}")
    elif (precision := coarse(pairs[0][0])) and differences.error(*pairs[0]) < 0.1:
        yield Cause("half_precision", "output", f"the model computes in {precision}")


def wrong_input(port: Port, ours: Port, data: list[np.ndarray]) -> Iterator[Cause]:
    """What makes one model's input of the other's."""
    said: dict[str, Preprocessing] = {
        "": Preprocessing("BGR", (0.0,), (1.0,), 1.0),
        "VGG's": Preprocessing("BGR", (103.939, 116.779, 123.68), (1.0,), 1.0),
        "Caffe's": Preprocessing("BGR", CAFFE_MEAN, (1.0,), 1.0),
        "torchvision's": Preprocessing("RGB", *TORCHVISION, 1 / 255),
    }
    channels = data[0].shape[1]
    for whose, preprocessing in said.items():
        if whose and channels != 3:
            continue
        for one in wrong_inputs(preprocessing, channels):
            if bool(whose) == one.id.startswith(("preprocessing", "mean")) and all(
                same_with(port, ours, x, one.change) for x in data
            ):
                text = one.text if not whose else f"{one.text} ({whose} preprocessing)"
                yield Cause(one.id, "input", text)


def same_with(port: Port, ours: Port, data: np.ndarray, change: Change) -> bool:
    """Whether the reference gives the port's output on a changed input."""
    try:
        got, _ = outputs(port, ours, data)
        want = ours.run(np.ascontiguousarray(change(data), np.float32))
    except PortError:
        return False
    return any(
        (laid := differences.laid_out(got, planes(one).shape)) is not None
        and differences.error(laid, planes(one)) <= TOLERANCE
        for one in want
    )


def other_arrays(port: Port, ours: Port) -> Cause | None:
    """Of two models whose arrays have the same names: those that hold other numbers."""
    theirs, want = port.weights(), ours.weights()
    wrong = [
        name for name in want
        if name in theirs and theirs[name].shape == want[name].shape and not np.array_equal(theirs[name], want[name])
    ]  # fmt: skip
    if not wrong:
        return None
    first = wrong[0]
    owner = next((name for name in want if np.array_equal(want[name], theirs[first])), None)
    words = f"holds what is {owner} in the reference" if owner else way(theirs[first], want[first])[1]
    rest = f", {len(wrong) - 1} more of its arrays differ, too" if len(wrong) > 1 else ""
    return Cause("weights_other", first, f"the model's {first} {words or 'holds other numbers'}{rest}")


def wrong_node(port: Port, ours: Port, result: Diagnosis) -> Iterator[Cause]:
    """Of two ONNX files: what their nodes say at the first difference."""
    name = result.first_difference or ""
    theirs = next((blob.theirs for blob in result.blobs if blob.name == name), None)
    mine, yours = ours.nodes.get(name), port.nodes.get(theirs or "")
    if mine is None or yours is None:
        return
    if mine.op_type != yours.op_type:
        yield Cause(
            "operator", name, f"{theirs} is computed by {yours.op_type}, the reference's {name} by {mine.op_type}"
        )
        return
    from onnx import helper

    theirs_of, ours_of = port.weights(), ours.weights()
    there = {blob.name: blob.theirs for blob in result.blobs if blob.theirs and blob.name != name}
    for mine_name, your_name in zip(mine.input, yours.input, strict=False):
        want, got = ours_of.get(mine_name), theirs_of.get(your_name)
        if want is not None and got is not None and not np.array_equal(got, want):
            words = way(got, want)[1] or "holds other numbers"
            yield Cause("weights_other", name, f"{yours.op_type} {theirs} has other weights: {your_name} {words}")
            return
        if there.get(mine_name, your_name) != your_name:
            text = f"{yours.op_type} {theirs} takes {your_name}: the reference's {name} takes {there[mine_name]}"
            yield Cause("operand", name, text)
            return
    a, b = ({one.name: helper.get_attribute_value(one) for one in node.attribute} for node in (mine, yours))
    for key in sorted({*a, *b}):
        if a.get(key) != b.get(key):
            yield Cause(
                f"attribute_{key}", name,
                f"{yours.op_type} {theirs} has {key} = {shown(b.get(key))}, the reference {shown(a.get(key))}",
            )  # fmt: skip


def shown(value: Any) -> str:
    """An attribute as it is read."""
    if value is None:
        return "its default"
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
