"""One input followed through the layers of a network, over what a port does differently."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from segtwin.hypotheses import DATA, Case, Hypothesis
from segtwin.hypotheses.case import Values, output_is

from segtwin_engines import differences
from segtwin_engines.other_weights import VARIANT
from segtwin_engines.shelf import Seen, Shelf, alike, coarse, dropped
from segtwin_engines.verdict import BlobState, Cause

if TYPE_CHECKING:
    from segtwin_engines.diagnosis import Input, Search

NEXT = 3
"""Layers behind one that is not found where the result of its mistake is looked for: it may have no value."""
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
WEIGHTED = ("Convolution", "Deconvolution", "DeconvolutionSame")
"""Layers whose values tell whose weights they are made with."""
STRANGE = 2
"""As many of them, all wrong for no known cause, show that the rest will be, too."""
LIKELY = 8
"""Values that are looked at as a layer's, where none is what it should be."""


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
    def leaves_out(self) -> bool:
        """Whether one of them leaves out what a port computes."""
        return any(one.id in LEFT_OUT for one in self.hypotheses)

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
        hits = [hit for hit in hits if self.goes_on(hit)]
        least = min((hit.error for hit in hits), default=0.0)
        places = {name: place for place, (name, _) in enumerate(self.shelf.items)}
        latest = max((places.get(hit.value.name, 0) for hit in hits), default=0)

        def passing(hit: Hit) -> bool:
            """Whether something is left out, and something else is made of the value next, as a ReLU6."""
            return hit.leaves_out and places.get(hit.value.name, 0) < latest

        return sorted(hits, key=lambda hit: (hit.key not in already, passing(hit), hit.error > 10 * least))

    def goes_on(self, hit: Hit) -> bool:
        """Whether the port computes the next layer from what a mistake makes of this one, where it would have that
        without the mistake, too."""
        users = self.search.users.get(hit.target, [])
        if not hit.leaves_out or not users or not self.shelf.inside:
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
            if one.id == other.id and set(one.layers) & set(other.layers):
                continue
            hit = self.tested((one, other), target)
            if hit is None:
                continue
            if self.goes_on(hit) if self.shelf.inside else self.search.holds(hit):
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
    turned_back = DATA in one.layers and len(one.layers) > 1  # the same as kernels that are turned
    return turned_back or one.id in RARE or (len(one.layers) == 1 and one.id in RARE_ALONE)
