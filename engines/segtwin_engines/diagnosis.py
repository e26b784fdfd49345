"""What is wrong with somebody's port of a network: the first blob that differs, how, and the mistake that explains it.

The port is run on seeded probe images of odd and even sizes. Layer by layer the reference (the numpy oracle) computes
what should come of the port's own values before that layer, and looks for it among the port's values; so a mistake in
one layer does not hide those behind it, and names need not agree. Where a layer's result is not there, every mistake
of `segtwin.hypotheses` that touches the layer is tried in the reference; the one whose result is there is the cause. A
port that cannot be looked into is taken as one large layer. In the end all causes together have to reproduce the
port's output on every probe.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import segtwin
import segtwin_weights
from segtwin import Architecture, Preprocessing, noise
from segtwin.architectures import get_architecture
from segtwin.errors import known_arguments
from segtwin.hypotheses import DATA, Case, Hypothesis, hypotheses
from segtwin.hypotheses.case import Values
from segtwin_weights import Weights, metadata

from segtwin_engines import differences
from segtwin_engines.loading import Chosen, read_network, warn
from segtwin_engines.other_weights import VARIANT, OtherWeights
from segtwin_engines.ports import Port, PortError, open_port
from segtwin_engines.shelf import Shelf, coarse, dropped
from segtwin_engines.trail import Hit, Trail
from segtwin_engines.verdict import Cause, Diagnosis, first_and_last, in_words

SEED = 14
SIZES = ((65, 97), (96, 64), (33, 46))
"""Rows and columns of the probes, as far as the network takes them: odd and even, where crops and rounding differ; the
first is large enough for crops to be in the image, the last is the cheapest."""
LARGER = ((257, 322), (416, 385))
"""Tried where the port fails on all of those."""
PATIENCE = 60.0
"""Seconds for pairs of mistakes."""
COMBINATIONS = 24
"""Of mistakes that explain a difference each, as many are tried together."""


@known_arguments
def diagnose(
    theirs: Any,
    network: str | None = None,
    weights: str | os.PathLike[str] | Mapping[str, np.ndarray] | None = None,
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = (),
    *,
    reference: Any = None,
    weights_only: bool = False,
    preprocessing: Chosen | None = None,
    patience: float = PATIENCE,
    say: Callable[[str], None] = warn,
    step: Callable[[str], None] = lambda text: None,
) -> Diagnosis:
    """Find out what is wrong with a port of a network.

    Args:
        theirs: the port: an ONNX, TorchScript, torch.export (.pt2), .keras or frozen .pb file, a SavedModel's folder,
            an .npz of blobs with their input; a torch module, a Keras model, or any function that takes the network's
            input (N×C×H×W float32, prepared as for the network) and returns its output.
        network: its name; by default the one that the weights are of.
        weights: of the network, those that the port has; or a file of them.
        images: files, on which it is compared beside the probes.
        reference: another port, in place of network and weights: any two models can be compared.
        weights_only: `theirs` are weights, too: the two are compared array by array.
        preprocessing: how the images are made inputs; by default as the weights or the network say.
        patience: seconds that may be spent on pairs of mistakes where no single one explains.
        say: takes each line that the user should read.
        step: is told what begins.

    Raises:
        PortError: the port cannot be opened, or fails on every probe.
        WeightsError, ArchitectureError, ImageError, ValueError, OSError: an input cannot be used.
    """
    if reference is not None:
        if network is not None or weights is not None:
            raise ValueError("reference takes the place of network and weights; leave those out")
        from segtwin_engines.two_ports import compare_ports

        return compare_ports(theirs, reference, images, preprocessing, step)
    if weights_only and weights is not None:
        from segtwin_engines.weights_diagnosis import diagnose_weights

        step("comparing the weights")
        return diagnose_weights(theirs, weights)
    if weights is None:
        raise ValueError("the weights that the port has are missing: give weights, or another model as reference")
    files = [os.fspath(images)] if isinstance(images, str | os.PathLike) else [os.fspath(one) for one in images]
    for name in files:
        os.stat(name)
    step("reading the weights")
    loaded, architecture = _network(weights, network)
    size = segtwin_weights.dimensions(loaded, architecture)
    stated, known = metadata.preprocessing_of(loaded, architecture, size.in_channels)
    if preprocessing is None or isinstance(preprocessing, Preprocessing):
        used = preprocessing or stated
    else:
        used = preprocessing(stated, size.in_channels)
    inputs = [(name, segtwin.preprocess(name, used, size.in_channels)) for name in files]
    if files and not known and preprocessing is None:
        say(f"the weights do not state their preprocessing; assumed: {used.describe(size.in_channels)}")
    step("opening the port")
    port = open_port(theirs, size.in_channels)
    search = Search(port, architecture, loaded, used, size.in_channels, patience, step)
    result = search.diagnosis(inputs)
    result.synthetic = bool(loaded.metadata.get("synthetic"))
    return result


def _network(weights: Any, network: str | None) -> tuple[Weights, Architecture]:
    """Weights under the hub's names, and the network that they are of."""
    if isinstance(weights, str | os.PathLike):
        loaded, found = read_network(os.fspath(weights), network)
    else:
        given = weights if isinstance(weights, Weights) else Weights(dict(weights))
        loaded = segtwin_weights.mappings.names.hub_names(given)
        found = segtwin_weights.network_of(loaded, network)
    architecture = get_architecture(found)
    return segtwin_weights.weights_for(loaded, architecture), architecture


@dataclass
class Input:
    """What the port and the reference are run on, and what the port made of it."""

    name: str
    data: np.ndarray
    output: np.ndarray
    values: Values
    """Of the reference."""
    error: float


class Search:
    """The comparison of one port with one network."""

    def __init__(
        self,
        port: Port,
        architecture: Architecture,
        weights: Weights,
        preprocessing: Preprocessing,
        in_channels: int,
        patience: float,
        step: Callable[[str], None],
    ) -> None:
        self.port, self.architecture, self.patience, self.step = port, architecture, patience, step
        self.case = Case(architecture, {name: np.asarray(blob, np.float32) for name, blob in weights.items()})
        self.in_channels = in_channels
        self.catalogue = hypotheses(architecture, self.case.weights, preprocessing, in_channels)
        self.order = self.needed()
        self.users: dict[str, list[str]] = {}
        for layer in self.order:
            for bottom in layer.bottoms:
                self.users.setdefault(bottom, []).append(layer.name)
        self.left = patience
        """Seconds that may still be spent on pairs."""
        self.end = time.monotonic() + patience + PATIENCE
        """When the search stops, whatever it has found; each step is short, their number is not known."""
        self.notes: list[str] = []
        used = (architecture.parameter_name(layer, "weight") for layer in self.order)
        zeros = [name for name in used if name in weights and not np.any(weights[name])]
        if zeros:
            names = ", ".join(zeros[:4]) + (", …" if len(zeros) > 4 else "")
            self.notes.append(
                f"{names} {'is' if len(zeros) == 1 else 'are'} zero: what lies behind cannot show; give both a trained "
                "network's weights, or random ones"
            )
        self.bounds: dict[str, float] = {}
        self.ignores_input = False
        self.probed: list[Input] = []
        """The inputs that the port took."""

    @cached_property
    def other(self) -> OtherWeights:
        """The port's own arrays."""
        self.step("looking for the weights in the port")
        return OtherWeights(self.port.weights(), self.case)

    def needed(self) -> list[Any]:
        """The layers that the output is computed from, in order."""
        names = {self.architecture.output}
        found = []
        for layer in reversed(self.architecture.layers):
            if layer.name in names:
                names.update(layer.bottoms)
                found.append(layer)
        return found[::-1]

    def say_unfinished(self) -> None:
        """That something was left untried."""
        note = f"not every pair of mistakes was tried within {self.patience:g} seconds (--patience)"
        if note not in self.notes:
            self.notes.append(note)

    # ------------------------------------------------------------------------------------- the inputs

    def probes(self, sizes: Sequence[tuple[int, int]] = SIZES) -> Iterator[tuple[str, np.ndarray]]:
        """Seeded inputs; one, where the port holds the values of one."""
        if self.port.recorded is not None:
            yield "its own input", self.port.recorded
            return
        random = np.random.default_rng(SEED)
        said = self.architecture.preprocessing.for_channels(self.in_channels)
        mean, std = (np.asarray(one, np.float64).reshape(-1, 1, 1) for one in (said.mean, said.std))
        legal: dict[tuple[int, int], None] = {}
        for rows, columns in sizes:
            legal.setdefault(self.legal(self.port.size[0] or rows, self.port.size[1] or columns))
        for height, width in legal:
            pixels = random.uniform(0, 255, (1, self.in_channels, height, width))
            yield f"{height}×{width}", ((pixels * said.scale - mean) / std).astype(np.float32)

    def legal(self, height: int, width: int) -> tuple[int, int]:
        """The nearest size that the network takes."""
        least = [self.architecture.legal_size(size) for size in (height, width)]
        for more in range(64):
            for up in itertools.product((0, more), repeat=2):
                size = least[0] + up[0], least[1] + up[1]
                try:
                    self.architecture.check_size(*size)
                except ValueError:
                    continue
                return size
        raise ValueError(f"{self.architecture.name} takes no size near {height}×{width}")

    def reference(self, data: np.ndarray) -> Values:
        """The reference's values; the first time, what rounding may cost is measured."""
        values = Values(self.case, data)
        if not self.bounds:
            exact = Values(self.case, data.astype(np.float64))
            allowed = noise.default_bounds(self.architecture, self.case.weights)
            floors = {self.architecture.input: noise.LEAST_FLOOR}
            for layer in self.order:
                own = differences.error(values[layer.name], exact[layer.name])
                floors[layer.name] = max(own, noise.carried(layer, floors, exact.found))
                self.bounds[layer.name] = floors[layer.name] * allowed[layer.name]
        return values

    def measured(self, name: str, data: np.ndarray) -> Input:
        """The port's output on an input, beside the reference's.

        Raises:
            PortError: the port fails.
        """
        values = self.reference(data)
        want = values[self.architecture.output]
        outputs = self.port.run(data)
        laid = [one for one in (differences.laid_out(output, want.shape) for output in outputs) if one is not None]
        if laid:
            output = min(laid, key=lambda one: differences.error(one, want))
            if not any(one.ndim == 4 and one.shape[1:] == want.shape[1:] for one in outputs):
                self.say_layout(outputs, want)
        else:
            output = next((one for one in outputs if one.ndim >= 3), outputs[0])
        output = output.astype(np.float32, copy=False)
        return Input(name, data, output, values, differences.error(output, want))

    def say_layout(self, outputs: Sequence[np.ndarray], want: np.ndarray) -> None:
        """That an output is laid out otherwise than the network's, which is no difference between the two."""
        one = next(one for one in outputs if differences.laid_out(one, want.shape) is not None)
        last = one.shape[-3:] == (*want.shape[2:], want.shape[1])
        if last and self.port.channels_last:
            return
        words = ["its channels last"] * last + ["fewer axes"] * (one.ndim < want.ndim)
        note = f"the port's output, {'×'.join(map(str, one.shape))}, has {' and '.join(words)}: compared as N×C×H×W"
        if not any("compared as N×C×H×W" in one for one in self.notes):
            self.notes.append(note)

    # ---------------------------------------------------------------------------------- the diagnosis

    def diagnosis(self, images: Sequence[tuple[str, np.ndarray]]) -> Diagnosis:
        """The verdict on a port."""
        inputs: list[Input] = []
        failed: list[PortError] = []
        output = self.architecture.output
        for sizes in (SIZES, LARGER):
            for name, data in self.probes(sizes) if not inputs else ():
                self.step(f"comparing on {name}")
                try:
                    inputs.append(self.measured(name, data))
                except PortError as error:
                    failed.append(error)
                    self.notes.append(f"the port takes no input of {name}, which the network takes: {error}")
        if not inputs:
            return self.broken(failed[-1])
        for name, data in images if self.port.recorded is None else ():
            self.step(f"comparing on {name}")
            inputs.append(self.measured(name, data))
        self.probed = inputs
        bound = self.bounds[output]
        worst = max(inputs, key=lambda one: min(one.error, 1e9))
        result = Diagnosis(
            self.architecture.name, self.port.name, "differs", worst.error / bound, notes=self.notes,
            inputs=[one.name for one in inputs],
        )  # fmt: skip
        if worst.error <= bound:
            result.verdict = "equal"
            result.explanation = (
                f"the outputs agree on {len(inputs)} inputs ({', '.join(result.inputs)}) within "
                f"{result.floors:.2f} of what rounding may cost"
            )
            if failed:
                result.explanation += f"; {self.notes[-1]}"
            if self.port.recorded is not None:
                self.check_blobs(result, inputs[0])
            return result
        probe = next((one for one in inputs if one.error > bound), worst)
        again = [] if self.port.recorded is not None else self.port.run(probe.data)
        if again and not any(
            (laid := differences.laid_out(one, probe.output.shape)) is not None
            and np.array_equal(laid, probe.output, equal_nan=True)
            for one in again
        ):
            return self.random(result, probe)
        self.step("following the layers")
        shelf = Shelf(self.port.values(probe.data), [probe.output])
        if np.isnan(probe.output).all():
            return self.undefined(result, probe, shelf)
        self.ignores_input = self.port.recorded is None and self.constant(probe)
        if not shelf.inside:
            cheapest = min((one for one in inputs if one.error > bound), key=lambda one: one.data.size)
            probe, shelf = cheapest, Shelf({}, [cheapest.output])
        trail = Trail(self, probe, shelf)
        trail.follow()
        self.conclude(result, trail, inputs)
        return result

    def check_blobs(self, result: Diagnosis, probe: Input) -> None:
        """Blobs that a file has under the network's names are to agree, too, whether the output shows it or not."""
        values = self.port.values(probe.data)
        for layer in self.order:
            want = probe.values[layer.name]
            got = None if layer.name not in values else differences.laid_out(values[layer.name], want.shape)
            off = 0.0 if got is None else differences.error(got, want)
            if got is not None and layer.relu:  # it may be kept from before its ReLU
                off = min(off, differences.error(np.maximum(got, 0), want))
            if got is None or off <= self.bounds[layer.name] or (coarse(got) and off < 0.01):
                continue
            result.verdict, result.first_difference = "differs", layer.name
            result.floors = off / self.bounds[layer.name]
            result.how = differences.describe(got, want, self.bounds[layer.name]).words
            result.maps = got, want
            result.explanation = (
                f"the output agrees within what rounding may cost, but the file's {layer.name} {result.how}; the "
                "output of this input does not show it"
            )
            return

    def constant(self, probe: Input) -> bool:
        """Whether the port gives the same output on another input: then it proves nothing about a mistake."""
        try:
            other = self.port.run(np.ascontiguousarray(probe.data[:, :, ::-1, ::-1] * np.float32(0.5)))
        except PortError:
            return False
        same = any(
            (laid := differences.laid_out(one, probe.output.shape)) is not None
            and differences.error(laid, probe.output) <= self.bounds[self.architecture.output]
            for one in other
        )
        if same:
            self.notes.append(
                "the port's output is the same on another input: something before it has died or is saturated, and the "
                "output proves no cause"
            )
        return same

    def broken(self, error: PortError) -> Diagnosis:
        """A port that fails on every probe, from what it computed before it failed.

        Raises:
            PortError: it computed nothing that can be seen.
        """
        name, data = next(iter(self.probes()))
        values = self.port.values(data)
        if not any(array.shape != data.shape for array in values.values()):
            raise error
        reference = self.reference(data)
        trail = Trail(self, Input(name, data, np.empty(0), reference, float("inf")), Shelf(values, []))
        trail.follow()
        result = Diagnosis(
            self.architecture.name, self.port.name, "differs", float("inf"), notes=self.notes, inputs=[name]
        )  # fmt: skip
        self.conclude(result, trail, [])
        self.notes[:] = [note for note in self.notes if not note.startswith("the port takes no input")]
        result.explanation = f"the port fails on every input that was tried ({error}). {result.explanation}"
        return result

    def random(self, result: Diagnosis, probe: Input) -> Diagnosis:
        """A port that gives another output at every call."""
        first, second = (self.port.values(probe.data) for _ in range(2))
        changing = [
            name for name in first if name in second and first[name].shape == second[name].shape
            and not np.array_equal(first[name], second[name], equal_nan=True)
        ]  # fmt: skip
        steady = {name: first[name] for name in first if name not in changing}
        trail = Trail(self, probe, Shelf(steady, []))
        trail.match()
        dropping = [layer.name for layer in self.order if layer.dropout]
        right = {*trail.known, *trail.passed()}
        left = [layer.name for layer in self.order if layer.name not in right]
        place = (left if steady and left else dropping or [self.architecture.output])[0]
        for name in dropping:  # a layer's own value is there, and the same with values dropped
            if name in trail.known and any(
                (laid := differences.laid_out(first[key], trail.known[name].shape)) is not None
                and dropped(laid, trail.known[name], self.bounds[name])
                for key in changing
            ):
                place = name
                break
        result.first_difference, result.how = place, "differs from call to call"
        text = "dropout, or another draw, is on: call eval(), or training=False"
        result.causes = [Cause("dropout_on", place, text)]
        result.explanation = f"two calls on the same input give two outputs, from {place} on; {text}"
        return result

    def undefined(self, result: Diagnosis, probe: Input, shelf: Shelf) -> Diagnosis:
        """A port whose output is not a number: nothing behind the first such value can be compared."""
        trail = Trail(self, probe, shelf)
        trail.match()
        right = {*trail.known, *trail.passed()}
        place = next((layer.name for layer in self.order if layer.name not in right), self.architecture.output)
        result.first_difference, result.how = place, "is not a number (NaN)"
        result.blobs = trail.states()
        wrong = next((name for name, array in shelf.items if np.isnan(array).any()), "output")
        result.explanation = (
            f"the output is not a number; the first such value of the port is {wrong}, and the first blob that differs "
            f"{place}: look for a root of a negative variance, a division by zero, a logarithm of zero, weights that "
            "are not numbers"
        )
        return result

    def conclude(self, result: Diagnosis, trail: Trail, inputs: Sequence[Input]) -> None:
        """From what was found on one input to the verdict."""
        others = [one for one in inputs if one is not trail.probe]
        chosen = self.confirmed(trail, [trail.probe, *others]) if inputs else None
        result.reproduced = chosen is not None if inputs and trail.found and not trail.unknown else None
        groups = trail.found
        picks = chosen or trail.consistent()
        seen: dict[str, tuple[Hypothesis, Cause]] = {}
        for number, (group, pick) in enumerate(zip(groups, picks, strict=True)):
            same = trail.equals.get(number, []) if chosen else [one for one in group if one is not pick][:6]
            for one in pick.hypotheses:
                if one.key not in seen:
                    seen[one.key] = one, self.cause(one)
                    seen[one.key][1].alternatives = [other.words for other in same]
        result.causes = sorted([*together(seen.values()), *trail.special], key=lambda cause: self.place(cause.layer))
        reference = trail.probe.values
        places = [name for name in trail.places if name]
        first = min(places, key=self.place) if places else self.architecture.output
        if first in trail.unknown and (lost := trail.strange() or self.lost(trail, first)):
            self.notes.append(self.about_lost(lost))
            first = lost[0]
        if not trail.shelf.inside and result.causes:
            first = min((cause.layer for cause in result.causes), key=self.place)
        result.first_difference = first
        there = trail.known.get(first)
        if first == self.architecture.output and inputs:
            laid = differences.laid_out(trail.probe.output, reference[first].shape)
            there = trail.probe.output if laid is None else laid
        if there is not None:
            result.how = differences.describe(there, reference[first], self.bounds[first]).words
            if there.shape == reference[first].shape:
                result.maps = there, reference[first]
        elif trail.probe.output.shape == reference[self.architecture.output].shape:
            result.maps = trail.probe.output, reference[self.architecture.output]
        result.blobs = trail.states()
        result.explanation = self.words(result, trail)

    def lost(self, trail: Trail, first: str) -> list[str]:
        """The convolutions up to the first place whose results are nowhere in the port; not one that a BatchNorm
        behind it may be folded into."""
        names = [name for name in trail.unseen() if self.place(name) <= self.place(first)]
        layers = {layer.name: layer for layer in self.order}
        return names if len(names) != 1 or trail.normalised(layers[names[0]]) is None else []

    def about_lost(self, lost: Sequence[str]) -> str:
        """What is to be said where the results of layers are nowhere in the port."""
        some = f"{', '.join(lost[:3])}{', …' * (len(lost) > 3)}"
        weights = (self.architecture.parameter_name(self.architecture.layer(name), "weight") for name in lost)
        if any(name in self.other.held for name in weights):
            return (
                f"the port has the weights of {some}, but nothing in it is what they make: what they are given is "
                "another image (padded, resized, cut) or another blob, or they are used in another way"
            )
        return (
            f"nothing in the port is what the weights of {some} make: it has other weights, or computes something else"
        )

    def cause(self, one: Hypothesis) -> Cause:
        """A hypothesis as a cause."""
        layer = one.layers[0]
        if layer == DATA:
            layer = next(layer.name for layer in self.order if self.architecture.input in layer.bottoms)
        return Cause(one.id, layer, one.text)

    def place(self, name: str) -> int:
        """Where a layer is in the table."""
        return next((number for number, layer in enumerate(self.order) if layer.name == name), len(self.order))

    def confirmed(self, trail: Trail, inputs: Sequence[Input]) -> list[Hit] | None:
        """One of each group of hits, so that all together give the port's output on every input."""
        if not trail.found or trail.unknown or trail.special:
            return None
        if self.port.recorded is not None:
            inputs = inputs[:1]
        times = Counter(key for group in trail.found for key in {hit.key for hit in group})
        for group in trail.found:  # one mistake in many layers rather than many in one each
            group.sort(key=lambda hit: (-times[hit.key], len(hit.layers)))
        alone = [min(group, key=lambda hit: len(hit.layers)) for group in trail.found]  # as many mistakes as layers
        tried = itertools.islice(itertools.product(*trail.found), COMBINATIONS)
        for hits in (*tried, trail.consistent(), alone):
            case = self.case
            changed: list[str] = []
            applied: set[str] = set()
            for hit in hits:
                if hit.key not in applied:
                    case = hit.applied(case)
                    changed += hit.layers
                    applied.add(hit.key)
            if all(self.reproduces(case, changed, one) for one in inputs):
                self.alternatives(trail, hits, inputs)
                return list(hits)
        return None

    def holds(self, hit: Hit) -> bool:
        """Whether mistakes give the port's output on every probe, not by the luck of one size."""
        return all(self.reproduces(hit.applied(self.case), hit.layers, one) for one in self.probed)

    def reproduces(self, case: Case, changed: Sequence[str], one: Input) -> bool:
        """Whether a network with mistakes gives the port's output."""
        self.step(f"confirming on {one.name}")
        values = one.values.of(case, changed)
        output = values.get(self.architecture.output)
        if output is None:
            return False
        laid = differences.laid_out(one.output, output.shape)
        allowed = 4 * self.allowed(values, self.architecture.output, changed)
        return laid is not None and differences.error(laid, output) <= allowed

    def allowed(self, values: Values, target: str, changed: Sequence[str]) -> float:
        """What rounding may cost a target of a network with mistakes: what it costs the reference; relative to what is
        left of it, where a function like ReLU6 cuts it off; and behind a softmax or a sigmoid too many, what the
        rounding of their input becomes."""
        bound = self.bounds[target]
        if target in changed and values.base is not None and values.layers[target].relu is False:
            blobs = values.base.get(target), values.get(target)
            before, own = (0.0 if one is None else float(np.abs(one).max(initial=0)) for one in blobs)
            if values.base.layers[target].relu and 0 < own < before:
                bound = min(bound * before / own, 1e-3)
        if target not in changed or target != self.architecture.output:
            return bound
        random = np.random.default_rng(SEED)
        given = {}
        for bottom in values.layers[target].bottoms:
            if bottom != self.architecture.input:
                blob = values[bottom]
                off = self.bounds[bottom] * float(np.abs(blob).max(initial=0))
                given[bottom] = blob + off * random.choice([-1, 1], blob.shape).astype(blob.dtype)
        moved = Values(values.case, values.data, {**values.given, **given}).get(target)
        return bound if moved is None else max(bound, min(differences.error(moved, values[target]), 1e-2))

    def alternatives(self, trail: Trail, hits: Sequence[Hit], inputs: Sequence[Input]) -> None:
        """Keep, beside a hit, those of its group that reproduce every input just as well."""
        if len(trail.found) > 1:  # they would have to be tried in every combination
            return
        others = (other for other in trail.found[0] if other is not hits[0])
        same = (
            other
            for other in others
            if all(self.reproduces(other.applied(self.case), other.layers, one) for one in inputs)
        )
        trail.equals[0] = list(itertools.islice(same, 3))

    def words(self, result: Diagnosis, trail: Trail) -> str:
        """The explanation."""
        head = f"the first blob that differs is {result.first_difference}"
        if result.how:
            head += f": it {result.how}"
        if not result.causes:
            known = f"differs from {result.first_difference} on; no known cause"
            return f"{known}. {head[0].upper()}{head[1:]}"
        listed = "; and ".join(in_words(result.causes))
        if trail.unknown and self.place(trail.unknown[0]) < min(self.place(cause.layer) for cause in result.causes):
            known = f"differs from {result.first_difference} on; no known cause"
            return f"{known}. {head[0].upper()}{head[1:]}. Further on: {listed}"
        text = f"{head}. Cause: {listed}"
        if trail.unknown:
            text += f". Beyond that it differs from {', '.join(trail.unknown[:3])} on, for no known cause"
        elif result.reproduced:
            text += (
                f". The reference with {'this' if len(result.causes) == 1 else 'these'} gives the port's output on "
                + ("every input" if len(result.inputs) > 1 else "its input")
            )
        elif result.reproduced is False:
            every = "the output on all" if len(result.inputs) > 1 else "the whole output"
            text += f". That explains what was found on one input, not {every}: something else is wrong, too"
        if result.causes[0].alternatives:
            text += f" (or, with the same result: {'; '.join(result.causes[0].alternatives[:3])})"
        return text


def together(found: Iterable[tuple[Hypothesis, Cause]]) -> Iterator[Cause]:
    """Causes, where more than two layers have arrays of the port's own for one reason, those as one."""
    alike: dict[str, list[Cause]] = {}
    for one, cause in found:
        if one.variant.startswith(VARIANT):
            alike.setdefault(one.id, []).append(cause)
        else:
            yield cause
    for id, causes in alike.items():
        if len(causes) < 3:
            yield from causes
            continue
        names = [cause.layer for cause in causes]
        some = first_and_last(names)
        if id == "weights_other":
            text = f"{len(names)} layers ({some}) do not have the weights given; load those, or compare with the port's"
        else:
            text = f"{len(names)} layers ({some}) alike: {causes[0].text}"
        yield Cause(id, names[0], text)
