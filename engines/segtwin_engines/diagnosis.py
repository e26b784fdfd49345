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
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import segtwin
import segtwin_weights
from segtwin import Architecture, Preprocessing, noise
from segtwin.architectures import get_architecture
from segtwin.errors import known_arguments
from segtwin.hypotheses import DATA, Case, Hypothesis, hypotheses
from segtwin.hypotheses.case import Values, output_is
from segtwin_weights import Weights, metadata

from segtwin_engines import differences
from segtwin_engines.loading import Chosen, read_network, warn
from segtwin_engines.other_weights import VARIANT, OtherWeights
from segtwin_engines.ports import Port, PortError, open_port

SEED = 14
SIZES = ((65, 97), (96, 64), (33, 46))
"""Rows and columns of the probes, as far as the network takes them: odd and even, where crops and rounding differ; the
first is large enough for crops to be in the image, the last is the cheapest."""
LARGER = ((257, 322), (416, 385))
"""Tried where the port fails on all of those."""
NEXT = 3
"""Layers behind one that is not found where the result of its mistake is looked for: it may have no value."""
PATIENCE = 60.0
"""Seconds for pairs of mistakes."""
RARE = (
    "abs", "batchnorm_unloaded", "bias_copied", "bias_swapped", "dilation", "elu", "gelu", "input_padded",
    "input_resized", "layer_missing", "output_flipped", "output_transposed", "pool_stride", "silu", "skip_source",
    "weights_copied",
)  # fmt: skip
"""Mistakes that are not tried in pairs: there are many of them, and few make them beside others."""
RARE_ALONE = (
    "batchnorm_eps", "batchnorm_identity", "batchnorm_statistics", "batchnorm_swapped", "batchnorm_train", "bias_twice",
    "kernel_flipped_columns", "kernel_flipped_rows", "leaky_relu", "pool_kernel", "relu6", "relu_before_batchnorm",
)  # fmt: skip
"""Those that are not where they are made in one layer alone."""
BEAM = 24
"""Mistakes that are tried in pairs with every other."""
LEFT_OUT = ("relu_missing", "batchnorm_missing", "scale_missing", "relu_before_batchnorm", "abs")
"""Mistakes whose result a network without them computes, too, on its way: they are one if the port goes on from it."""
COMBINATIONS = 24
"""Of mistakes that explain a difference each, as many are tried together."""
WEIGHTED = ("Convolution", "Deconvolution", "DeconvolutionSame")
"""Layers whose values tell whose weights they are made with."""
STRANGE = 2
"""As many of them, all wrong for no known cause, show that the rest will be, too."""
LIKELY = 8
"""Values that are looked at as a layer's, where none is what it should be."""
SAMPLES = 64


@dataclass
class Cause:
    """A mistake that explains a difference."""

    id: str
    layer: str
    """The first layer that it touches."""
    text: str
    """What is wrong, and what is right."""
    alternatives: list[str] = field(default_factory=list)
    """Other mistakes that would do the same on every probe, in words."""


@dataclass
class BlobState:
    """One blob of the network in the port."""

    name: str
    theirs: str | None
    """The port's name of the value that is taken for it; None: it has none."""
    error: float | None
    """Relative distance from the reference's blob."""
    local: float | None
    """The same, of what the reference's layer makes of the port's own values before it."""
    bound: float
    """What rounding may cost."""


@dataclass
class Diagnosis:
    """The verdict, and what it is based on."""

    network: str
    theirs: str
    verdict: str
    """"equal" or "differs"."""
    floors: float
    """Largest error of the output over all inputs, in what rounding may cost: above 1 it differs."""
    first_difference: str | None = None
    how: str = ""
    """The way in which the first blob differs, in words."""
    causes: list[Cause] = field(default_factory=list)
    reproduced: bool | None = None
    """Whether all causes together give the port's output on every input; None where that could not be tried."""
    explanation: str = ""
    notes: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    blobs: list[BlobState] = field(default_factory=list)
    maps: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)
    """The first blob that differs: the port's, and the reference's."""
    synthetic: bool = False

    @property
    def equal(self) -> bool:
        """Whether the port computes what the network computes."""
        return self.verdict == "equal"

    def asdict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "network": self.network,
            "theirs": self.theirs,
            "verdict": self.verdict,
            "error_in_bounds": self.floors,
            "first_difference": self.first_difference,
            "how": self.how,
            "causes": [cause.id for cause in self.causes],
            "reproduced": self.reproduced,
            "explanation": self.explanation,
            "details": [vars(cause) for cause in self.causes],
            "inputs": self.inputs,
            "notes": self.notes,
            "blobs": [vars(blob) for blob in self.blobs],
            "synthetic": self.synthetic,
        }

    def write_report(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write an HTML page with maps of the first difference.

        Raises:
            OSError: the file cannot be written, or is there already.
            ImportError: Jinja2 or Matplotlib is not installed.
        """
        from segtwin_engines.diagnosis_page import write_page

        write_page(self, path, overwrite)


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


@dataclass
class Hit:
    """A mistake, or two, whose result is among the port's values."""

    hypotheses: tuple[Hypothesis, ...]
    target: str
    value: Seen
    error: float

    @property
    def key(self) -> str:
        """Unique among hits."""
        return " + ".join(one.key for one in self.hypotheses)

    @property
    def layers(self) -> tuple[str, ...]:
        """What they touch."""
        return tuple(layer for one in self.hypotheses for layer in one.layers)

    @property
    def words(self) -> str:
        """What is wrong."""
        return "; and ".join(one.text for one in self.hypotheses)

    def applied(self, case: Case) -> Case:
        """The network with them."""
        for one in self.hypotheses:
            case = one.apply(case)
        return case


@dataclass
class Seen:
    """A value of the port that is taken for a blob."""

    name: str
    array: np.ndarray


class Shelf:
    """The port's values, found by what is in them."""

    def __init__(self, values: Mapping[str, np.ndarray], outputs: Sequence[np.ndarray]) -> None:
        self.items = [*values.items(), *(("output", output) for output in outputs)]
        self.inside, self.has_output = bool(values), bool(outputs)
        self.by_shape: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}

    def shaped(self, shape: tuple[int, ...]) -> list[tuple[int, np.ndarray]]:
        """Place and array of the values that can be of a shape."""
        if shape not in self.by_shape:
            laid = ((place, differences.laid_out(array, shape)) for place, (_, array) in enumerate(self.items))
            self.by_shape[shape] = [(place, array) for place, array in laid if array is not None]
        return self.by_shape[shape]

    def find(self, want: np.ndarray, tolerance: float, taken: Iterable[str] = ()) -> tuple[Seen, float] | None:
        """The value that equals an array, and how far it is off; none of those that are taken. The nearest, and of
        equal ones the last: what is done in place is done at the end."""
        scale = float(np.abs(want).max(initial=0))
        if not np.isfinite(scale) or not want.size:
            return None
        some = np.linspace(0, want.size - 1, SAMPLES).astype(int)
        samples = want.flat[some]
        best: tuple[Seen, float] | None = None
        for place, array in self.shaped(want.shape):
            if np.abs(array.flat[some] - samples).max() > 2 * tolerance * scale or self.items[place][0] in taken:
                continue
            off = differences.error(array, want)
            if off <= tolerance and (best is None or off <= best[1]):
                best = Seen(self.items[place][0], array), off
        return best


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
        result.reproduced = None
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
        result.reproduced = chosen is not None if trail.found and not trail.unknown else None
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


class Trail:
    """One input followed through the layers."""

    def __init__(self, search: Search, probe: Input, shelf: Shelf) -> None:
        self.search, self.probe, self.shelf = search, probe, shelf
        self.inner = {name for name, _ in shelf.items} - {"output"}
        """The values that are not the port's output."""
        self.architecture, self.bounds = search.architecture, search.bounds
        self.known: dict[str, np.ndarray] = {}
        """Blob → the port's value."""
        self.names: dict[str, str] = {}
        """Blob → the port's name of it."""
        self.found: list[list[Hit]] = []
        """For each difference the mistakes that explain it."""
        self.equals: dict[int, list[Hit]] = {}
        self.special: list[Cause] = []
        """Causes that are no hypotheses about layers."""
        self.unknown: list[str] = []
        """Blobs that differ for no known cause."""
        self.places: list[str] = []
        """Where something differs."""
        self.blind: set[str] = set()
        """Layers that have no value in the port."""
        self.followed: set[str] = set()
        """Blobs that are right themselves, and that a mistake is made with next."""
        self.case = search.case
        """What mistakes are applied to."""
        self.values = self.fresh()

    def fresh(self) -> Values:
        """What the reference makes of the values that are known."""
        return Values(self.search.case, self.probe.data, self.known)

    def match(self) -> None:
        """Find the layers that compute what they should, from the port's own values before them."""
        for layer in self.search.order:
            if layer.name in self.known or layer.name in self.blind:
                continue
            want = self.values.get(layer.name)
            if want is None:
                continue
            last = layer.name == self.architecture.output
            there = self.shelf.find(want, self.bounds[layer.name], self.inner if last else ())
            if there is not None:
                self.take(layer.name, there[0])

    def take(self, name: str, value: Seen) -> None:
        """A value is a blob."""
        self.known[name] = value.array.astype(np.float32, copy=False)
        self.names[name] = value.name

    def passed(self) -> set[str]:
        """Layers without a value of their own, through which a value behind them was computed rightly."""
        passed: set[str] = set(self.blind)
        for layer in reversed(self.search.order):
            if layer.name in self.known or layer.name in passed:
                passed.update(bottom for bottom in layer.sources if bottom not in self.known)
        return passed

    def follow(self) -> None:
        """From the input to the output, over what differs."""
        output = self.architecture.output
        while output not in self.known:
            self.values = self.fresh()
            self.match()
            passed = self.passed()
            left = [layer for layer in self.search.order if layer.name not in self.known and layer.name not in passed]
            if not left:
                break
            first = left[0]
            if self.ends_early(first):
                return
            if self.special_cause(first):
                continue
            hits = self.explained(first)
            if hits:
                self.found.append(hits)
                self.places.append(self.begins(hits[0]))
                self.take(hits[0].target, hits[0].value)
                if first.name not in {*self.known, *self.passed()}:  # it gives its target nothing but a size
                    self.blind.add(first.name)
            elif not self.shelf.has_output and self.found:
                return
            elif not self.likely(first):
                if first.name == output or not self.shelf.inside:
                    self.unknown.append(output)
                    self.places.append(output)
                    return
                self.blind.add(first.name)
            if len(strange := self.strange()) >= STRANGE:  # nothing of it is there
                self.unknown.append(strange[0])
                self.places.append(strange[0])
                return

    def begins(self, hit: Hit) -> str:
        """The first layer between what is known and a hit that its mistake is in: its value need not be there."""
        return next((layer.name for layer in self.between(hit.target) if layer.name in hit.layers), hit.target)

    def strange(self) -> list[str]:
        """The layers with weights that have no value in the port or none that is known to be theirs, if they all are
        such."""
        weighted = [one.name for one in self.search.order if one.kind in WEIGHTED]
        wrong = [name for name in weighted if name in self.blind or name in self.unknown]
        right = [name for name in weighted if name in self.known and name not in self.unknown]
        return [] if right else wrong

    def unseen(self) -> list[str]:
        """The layers with weights that have no value in the port, in order."""
        return [one.name for one in self.search.order if one.name in self.blind and one.kind in WEIGHTED]

    def segment(self, target: str) -> set[str]:
        """The layers between what is known and a target, and DATA where the input is one of their bottoms."""
        by_name = self.values.layers
        found, waiting = {target}, [target]
        while waiting:
            for bottom in by_name[waiting.pop()].bottoms:
                if bottom == self.architecture.input:
                    found.add(DATA)
                elif bottom not in self.known and bottom not in found:
                    found.add(bottom)
                    waiting.append(bottom)
        return found

    def targets(self, first: Any) -> list[str]:
        """Where the result of a mistake in a layer is looked for: there, and in the next layers."""
        output = self.architecture.output
        if not self.shelf.inside:
            return [output]
        found, waiting = [first.name], [first.name]
        while waiting and len(found) <= NEXT:
            for user in self.search.users.get(waiting.pop(0), []):
                if user not in self.known and user not in found:
                    found.append(user)
                    waiting.append(user)
        return [*found, *([output] if output not in found and self.shelf.has_output else [])]

    def explained(self, first: Any) -> list[Hit]:
        """The mistakes that explain why a layer's value is not there."""
        if time.monotonic() > self.search.end:
            self.search.say_unfinished()
            return []
        own = sum(group[0].hypotheses[0].variant.startswith(VARIANT) for group in self.found)
        if own > 1 and (hits := self.other_weights(first)):
            return hits  # a third layer of other weights
        already = {hit.key for group in self.found for hit in group}
        for number, target in enumerate(self.targets(first)):
            segment = self.segment(target)
            candidates = [one for one in self.search.catalogue if segment & set(one.layers)]
            if self.shelf.inside and number > NEXT:  # what lies far behind is a matter of its own
                if hits := self.other_weights(first):
                    return hits
                candidates = [one for one in candidates if first.name in one.layers or DATA in one.layers]
            if hits := self.sorted_hits(candidates, target, already):
                return hits
        hits = self.behind(first) or self.other_weights(first)
        if hits:
            return hits
        if hits := self.at_the_end():
            return hits
        if not self.shelf.has_output and self.found:
            return []  # it failed there
        if self.shelf.inside and any(self.search.other.lacks(layer) for layer in self.between(first.name)):
            return []  # no two mistakes make up for weights that are not there
        return self.pairs(first.name if self.shelf.inside else self.architecture.output)

    def sorted_hits(self, candidates: list[Hypothesis], target: str, already: set[str]) -> list[Hit]:
        """The mistakes whose result is there, the likeliest first: those that were made before."""
        hits = self.tried(sorted(candidates, key=lambda one: one.key not in already), target)
        hits = [hit for hit in hits if not hit.key.startswith(LEFT_OUT) or self.goes_on(hit)]
        least = min((hit.error for hit in hits), default=0.0)
        places = {name: place for place, (name, _) in enumerate(self.shelf.items)}
        latest = max((places.get(hit.value.name, 0) for hit in hits), default=0)

        def passing(hit: Hit) -> bool:
            """Whether something is left out, and something else is made of the value next, as a ReLU6."""
            return hit.key.startswith(LEFT_OUT) and places.get(hit.value.name, 0) < latest

        return sorted(hits, key=lambda hit: (hit.key not in already, passing(hit), hit.error > 10 * least))

    def goes_on(self, hit: Hit) -> bool:
        """Whether the port computes the next layer from what a mistake makes of this one."""
        users = self.search.users.get(hit.target, [])
        if not users or not self.shelf.inside:
            return True
        known = {**self.known, hit.target: hit.value.array}
        for case in (self.search.case, hit.applied(self.search.case)):
            values = Values(case, self.probe.data, known)
            for user in users:
                want = values.get(user)
                if want is None or np.array_equal(want, hit.value.array) or self.has(want, user, hit):
                    return True
                mistakes = (one for one in self.search.catalogue if user in one.layers)
                if any(self.has(values.of(one.apply(case), one.layers).get(user), user, hit) for one in mistakes):
                    return True
        return False

    def has(self, want: np.ndarray | None, name: str, hit: Hit) -> bool:
        """Whether the port has a value of a layer, other than that of a hit before it."""
        there = None if want is None else self.shelf.find(want, self.bounds[name], {hit.value.name})
        if there is None:
            return False
        before = hit.value.array
        return before.shape != there[0].array.shape or not any(
            np.array_equal(there[0].array, one) for one in (before, np.maximum(before, 0))
        )

    def behind(self, first: Any) -> list[Hit]:
        """Mistakes that are made behind a layer whose own value is right: a mean of two maps is their sum at first."""
        taken = {name: self.known.pop(name) for name in first.sources if name in self.known}
        hits: list[Hit] = []
        if taken and self.shelf.inside:
            for group in self.found:  # what was made of the mistakes before it
                self.case = group[0].applied(self.case)
            given = {name: array for name, array in self.known.items() if name not in self.followed}
            self.values = Values(self.case, self.probe.data, given)
            candidates = [one for one in self.search.catalogue if taken.keys() & set(one.layers)]
            hits = self.tried(candidates, first.name)
        self.known.update(taken)
        if hits:
            wrong = self.values.of(hits[0].applied(self.case), hits[0].layers)
            for name in taken.keys() & set(hits[0].layers):
                value = wrong.get(name)
                there = None if value is None else self.shelf.find(value, self.bounds[name])
                self.places.append(name)
                if there is not None:
                    self.take(name, there[0])
                else:
                    self.followed.add(name)
        self.case = self.search.case
        self.values = self.fresh()
        return hits

    def between(self, target: str) -> list[Any]:
        """The layers between what is known and a target."""
        segment = self.segment(target)
        return [layer for layer in self.search.order if layer.name in segment]

    def other_weights(self, first: Any) -> list[Hit]:
        """A layer that the port has other weights for, proven with those that it has."""
        if not self.shelf.inside:
            return []
        for target in self.targets(first)[: NEXT + 1]:
            layers = self.between(target)
            candidates = (one for layer in layers for one in self.search.other.hypotheses(layer))
            for one in candidates:
                hit = self.tested((one,), target)
                if hit is not None:
                    return [hit]
        return []

    def at_the_end(self) -> list[Hit]:
        """Something that is done to the output as a whole, told by the output itself."""
        name = self.architecture.output
        want = self.values.get(name) if self.shelf.has_output else None
        if want is None:
            return []
        for id, words, change in differences.changes(self.probe.output, want, self.bounds[name]):
            hit = self.tested((Hypothesis(id, (name,), words, output_is(name, change)),), name)
            if hit is not None:
                return [hit]
        return []

    def consistent(self) -> list[Hit]:
        """For each difference the mistake that changes least of what was found to be right."""

        def contradicted(hit: Hit) -> int:
            return sum(layer in self.known and layer not in self.places for layer in hit.layers)

        return [min(group, key=contradicted) for group in self.found]

    def tried(self, candidates: Sequence[Hypothesis], target: str) -> list[Hit]:
        """The mistakes whose result is among the port's values, at a target."""
        hits: list[Hit] = []
        self.search.step(f"looking for a cause at {target}")
        for one in candidates:
            if hits and not self.shelf.inside and one.layers[0] != hits[0].layers[0]:
                continue
            hit = self.tested((one,), target)
            if hit is not None:
                hits.append(hit)
        return hits

    def tested(self, those: tuple[Hypothesis, ...], target: str) -> Hit | None:
        """One mistake, or two together."""
        case = self.case
        for one in those:
            case = one.apply(case)
        layers = [layer for one in those for layer in one.layers]
        values = self.values.of(case, layers)
        got = values.get(target)
        if got is None or not got.size:
            return None
        last = target == self.architecture.output and self.shelf.has_output
        if last and self.search.ignores_input:  # it proves no cause but one in the last layer
            before = {*self.values.layers[target].bottoms} - {self.architecture.input}
            if not before <= self.known.keys():
                return None
        if not last and got.ndim == 4 and min(got.shape[2:]) > 1 and not np.ptp(got, axis=(2, 3)).any():
            return None  # neither does one that is constant, as behind ReLUs that have died
        if not last and any(got.shape == one.shape and np.array_equal(got, one) for one in self.known.values()):
            return None  # nothing is done there: what comes next shows it
        taken = self.inner if last else {*self.names.values()} - {"output"}
        allowed = self.search.allowed(values, target, layers)
        if not self.shelf.inside:  # whatever is wrong before it rounds otherwise, too
            allowed = max(allowed, min(4 * allowed, self.probe.error / 16))
        there = self.shelf.find(got, allowed, taken)
        if there is None or (not last and self.before_relu(there[0].array, target)):
            return None
        return Hit(those, target, *there)

    def before_relu(self, array: np.ndarray, target: str) -> bool:
        """Whether a value is another layer's before its ReLU: every port has it, on its way to that."""
        if not array.size or array.min() >= 0:
            return False
        positive = np.maximum(array, 0)
        return any(
            name != target
            and positive.shape == one.shape
            and self.values.layers[name].relu
            and differences.error(positive, one) <= self.bounds[name]
            for name, one in self.known.items()
            if name in self.values.layers
        )

    def pairs(self, target: str) -> list[Hit]:
        """Two mistakes between what is known and a target, the likelier first, within the patience."""
        begun = time.monotonic()
        try:
            return self.pairs_until(target, begun + self.search.left)
        finally:
            self.search.left -= time.monotonic() - begun

    def pairs_until(self, target: str, until: float) -> list[Hit]:
        """The same until a moment."""
        self.search.step(f"looking for two causes at {target}")
        for one, other in self.likely_pairs(target, until):
            if time.monotonic() > until:
                self.search.say_unfinished()
                return []
            if one.key == other.key or (one.id == other.id and one.layers == other.layers):
                continue
            hit = self.tested((one, other), target)
            if hit is not None and (self.shelf.inside or self.search.holds(hit)):
                return [hit]
        return []

    def likely_pairs(self, target: str, until: float) -> Iterator[tuple[Hypothesis, Hypothesis]]:
        """Two mistakes: those of the likeliest, first one that is made twice, which may be a rare one; then one of
        those and any."""
        segment = self.segment(target)
        candidates = [one for one in self.search.catalogue if segment & set(one.layers)]
        ranked = self.ranked([one for one in candidates if not rare(one)], target, until)
        best, rest = ranked[:BEAM], ranked[BEAM:]
        yield from (pair for pair in itertools.combinations(best, 2) if pair[0].id == pair[1].id)
        yield from (pair for pair in itertools.permutations(best, 2) if pair[0].id != pair[1].id)
        seldom = self.ranked([one for one in candidates if rare(one)], target, until)[: 4 * BEAM]
        yield from (pair for pair in itertools.combinations(seldom, 2) if pair[0].id == pair[1].id)
        for one, other in itertools.product(best, rest):
            yield one, other
            yield other, one

    def ranked(self, candidates: Sequence[Hypothesis], target: str, until: float) -> list[Hypothesis]:
        """Mistakes by how much what comes of them is like what the port has; as many as there is time for."""
        taken = {*self.names.values()} - {"output"}
        wanted = [array for name, array in self.shelf.items if name not in taken]
        found: list[tuple[float, int]] = []
        for number, one in enumerate(candidates):
            if time.monotonic() > until:
                break
            got = self.values.of(one.apply(self.search.case), one.layers).get(target)
            found.append((-max((alike(array, got) for array in wanted), default=0.0), number))
        return [candidates[number] for _, number in sorted(found)]

    def ends_early(self, first: Any) -> bool:
        """Whether the port's output is another blob of the network."""
        output = self.architecture.output
        last = next((blob for blob, name in self.names.items() if name == "output"), None)
        if last is None or last == output:
            return False
        ends = [one for one in self.search.catalogue if one.layers == (output,)]
        if hits := self.tried(ends, output):  # a sigmoid that is missing
            self.found.append(hits)
            self.places.append(output)
            self.take(output, hits[0].value)
            return True
        self.special.append(
            Cause("output_early", first.name, f"the port's output is {last}: the network goes on with {first.name}")
        )
        self.places.append(first.name)
        return True

    def special_cause(self, first: Any) -> bool:
        """Dropout that is on with a mask that stays; half precision."""
        if not self.shelf.inside:
            first = self.values.layers[self.architecture.output]
        want = self.values.get(first.name)
        if want is None:
            return False
        for place, array in self.shelf.shaped(want.shape):
            name = self.shelf.items[place][0]
            if name in self.names.values() and name != "output":
                continue
            if first.dropout and (words := dropped(array, want, self.bounds[first.name])):
                self.special.append(Cause("dropout_on", first.name, f"{words}: call eval(), or training=False"))
            elif (precision := coarse(array)) and differences.error(array, want) < 0.1:
                if not any(cause.id == "half_precision" for cause in self.special):
                    does = "computes in" if self.search.port.recorded is None else "has values of"
                    text = f"the port {does} {precision}, the network float32"
                    self.special.append(Cause("half_precision", first.name, text))
            else:
                continue
            self.places.append(first.name)
            self.take(first.name, Seen(name, array))
            return True
        return False

    def likely(self, first: Any) -> bool:
        """Take the value that is most likely meant for a layer, though it differs for no known cause."""
        want = self.values.get(first.name)
        items = self.shelf.items
        taken = set(self.names.values())
        named = next((item for item in items if item[0] == first.name), None)
        found: Seen | None = None
        reference = self.probe.values[first.name]
        for shape in {reference.shape, *([want.shape] if want is not None else [])}:
            if named is not None and (laid := differences.laid_out(named[1], shape)) is not None:
                found = Seen(named[0], laid)
                break
            ranked = [
                (alike(array, want if want is not None and want.shape == shape else reference), -place, array)
                for place, array in self.shelf.shaped(shape)
                if items[place][0] not in taken
            ]
            ranked.sort(key=lambda one: one[:2], reverse=True)
            for _, place, array in ranked[:LIKELY]:
                if self.leads_on(first, array):
                    found = Seen(items[-place][0], array)
                    break
            if found is None and ranked:
                score, place, array = ranked[0]
                folded = self.normalised(first)
                if folded is not None and alike(array, folded) > score:
                    continue  # a convolution and the BatchNorm behind it are one there
                if score > 0.5 or (first.name == self.architecture.output and items[-place][0] == "output"):
                    found = Seen(items[-place][0], array)
        if found is None:
            return False
        self.unknown.append(first.name)
        self.places.append(first.name)
        self.take(first.name, found)
        return True

    def leads_on(self, layer: Any, array: np.ndarray) -> bool:
        """Whether the port has what the next layer makes of a value, if it is this layer's."""
        values = Values(self.search.case, self.probe.data, {**self.known, layer.name: array})
        for user in self.search.users.get(layer.name, []):
            want = values.get(user)
            if want is None or np.array_equal(want, array) or not np.ptp(want):
                continue
            there = self.shelf.find(want, self.bounds[user])
            if there is not None and there[0].array is not array:
                return True
        return False

    def normalised(self, layer: Any) -> np.ndarray | None:
        """What the reference's BatchNorm makes of a convolution, where nothing else takes it."""
        users = self.search.users.get(layer.name, [])
        if layer.kind != "Convolution" or len(users) != 1 or self.values.layers[users[0]].kind != "BatchNorm":
            return None
        return self.probe.values[users[0]]

    def states(self) -> list[BlobState]:
        """Every blob in the port."""
        found = []
        local = Values(self.search.case, self.probe.data, {})
        for layer in self.search.order:
            there = self.known.get(layer.name)
            off = here = None
            if there is not None:
                off = differences.error(there, self.probe.values[layer.name])
                local.given = {name: array for name, array in self.known.items() if name != layer.name}
                local.found = {}
                want = local.get(layer.name)
                here = differences.error(there, want) if want is not None else float("inf")
            found.append(BlobState(layer.name, self.names.get(layer.name), off, here, self.bounds[layer.name]))
        return found


def rare(one: Hypothesis) -> bool:
    """Whether a mistake is not tried beside another."""
    return one.id in RARE or (len(one.layers) == 1 and one.id in RARE_ALONE)


def in_words(causes: Iterable[Cause]) -> Iterator[str]:
    """Their texts; of more than two that say the same of one name each, "each of a, b, c (3 in all) is left out"."""
    alike: dict[tuple[str, str], list[Cause]] = {}
    for cause in causes:
        alike.setdefault((cause.id, cause.text.partition(" ")[2]), []).append(cause)
    for (_, rest), those in alike.items():
        names = [cause.text.partition(" ")[0] for cause in those]
        if len(those) < 3:
            yield from (cause.text for cause in those)
        else:
            some = names if len(names) < 6 else [*names[:3], "…", names[-1]]
            yield f"each of {', '.join(some)} ({len(names)} in all) {rest}"


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
        some = ", ".join(names if len(names) < 6 else [*names[:3], "…", names[-1]])
        if id == "weights_other":
            text = f"{len(names)} layers ({some}) do not have the weights given; load those, or compare with the port's"
        else:
            text = f"{len(names)} layers ({some}) alike: {causes[0].text}"
        yield Cause(id, names[0], text)


def alike(one: np.ndarray, other: np.ndarray | None) -> float:
    """Correlation of two arrays, the largest over small shifts; 0 where the shapes differ."""
    if other is None:
        return 0.0
    laid = differences.laid_out(one, other.shape)
    if laid is None:
        return 0.0
    best = correlation(laid, other)
    if min(other.shape[2:]) > 8 and best < 0.99:
        for dy, dx in itertools.product((-2, -1, 0, 1, 2), repeat=2):
            best = max(best, correlation(np.roll(laid, (dy, dx), (2, 3)), other))
    return best


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of two arrays of one shape; 0 where one is constant or not finite."""
    with np.errstate(all="ignore"):
        a, b = (x.ravel().astype(np.float64) - x.mean(dtype=np.float64) for x in (one, other))
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(a @ b) / size if size and np.isfinite(size) else 0.0


def dropped(array: np.ndarray, want: np.ndarray, tolerance: float) -> str:
    """Whether an array is another one with values, or channels, dropped, in words; "" if not."""
    scale = float(np.abs(want).max(initial=0)) or 1.0
    there = np.abs(want) > 100 * tolerance * scale
    zero = there & (array == 0)
    if not 0.02 < zero.sum() / max(1, there.sum()) < 0.98:
        return ""
    kept = there & ~zero
    factor = float(np.median(array[kept] / want[kept]))
    if np.abs(array - np.where(zero, 0, want * factor))[there].max() > 8 * tolerance * scale * max(1, abs(factor)):
        return ""
    whole = (zero == there).all((2, 3)) | ~zero.any((2, 3))
    kind = "channels" if whole.all() else "values"
    return f"{zero.sum() / there.sum():.0%} of the {kind} are dropped, the others times {factor:.4g}: dropout is on"


def coarse(array: np.ndarray) -> str:
    """ "float16" or "bfloat16" where all numbers are of that type; "" otherwise."""
    single = np.ascontiguousarray(array, np.float32)
    if not single.any():
        return ""
    with np.errstate(over="ignore"):
        if np.array_equal(single.astype(np.float16).astype(np.float32), single):
            return "float16"
    return "bfloat16" if not (single.view(np.uint32) & 0xFFFF).any() else ""
