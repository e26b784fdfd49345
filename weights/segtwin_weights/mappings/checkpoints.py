"""Where the network is in what a training script saved: state_dicts in dicts and lists, beside
optimisers, averages, losses and counts.

One rule for all of them: every tensor has a dotted name, made of the keys that lead to it. A
network is there when all of its names are there behind one prefix, and the largest such network is
taken. BatchNorm's counters, which old files lack, are no condition.

    {"epoch": 3, "state_dict": {"module.conv1_1.weight": …}, "best": tensor}    prefix "state_dict."; module. is dropped
    {"net.conv1.conv.0.weight": …, "criterion.pos_weight": …}   prefix "net.", and a word on the criterion
    {"model": …, "model_ema": …}                                prefix "model.", and a word on the average
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from segtwin.architectures import get_architecture, known_architectures

from segtwin_weights import metadata
from segtwin_weights.door import quoted
from segtwin_weights.formats import pickles
from segtwin_weights.hub import WeightsError
from segtwin_weights.mappings import encoders
from segtwin_weights.mappings.names import OLD_CLASSIFIER, TORCHVISION_VGG16, WRAPPERS, unwrap
from segtwin_weights.notes import note

DEEPEST = 40
"""How deep dicts may lie in each other; the modules of a TorchScript program are about ten deep."""
MOST_ITEMS = 4_000_000
"""Items of dicts and lists that are looked at, shared ones as often as they are shared."""
TRANSPARENT = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that DataParallel, torch.compile, FSDP and checkpoint_wrapper put in, wherever
they stand."""
AVERAGE = re.compile(r"(?<![a-z])(ema|avg|averaged?|swa)(?![a-z])")
NUMBER = re.compile(r"\d+")
SHOWN = 5
MOST_NAME = 1024
"""Characters of a tensor's name; networks of torchvision have names of 60."""
ENTRY = 512
"""Bytes that an entry takes here, beside its name."""


class Entry(NamedTuple):
    """A tensor and the way to it."""

    where: tuple[str, ...]
    """Keys and numbers that lead to the dict that holds it."""
    key: str
    name: str
    """All of them and its key, joined by dots, without the parts of `TRANSPARENT`."""
    tensor: Any


class Network(NamedTuple):
    """A network by the names of its tensors."""

    title: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = {}
    """Of names that others have, too: ResNet-50 has every name of ResNet-34."""


class Candidate(NamedTuple):
    """A network that is there, whole."""

    network: Network
    prefix: str
    entries: tuple[Entry, ...]

    @property
    def tensors(self) -> dict[str, Any]:
        """Its tensors under the network's own names, in the order of the file."""
        return {entry.name.removeprefix(self.prefix): entry.tensor for entry in self.entries}

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return repr(self.prefix.rstrip(".")) if self.prefix else "the outermost dict"

    @property
    def average(self) -> bool:
        """Whether the way to it says that its numbers are an average over the training."""
        return bool(AVERAGE.search(re.sub(r"([a-z])([A-Z])", r"\1_\2", self.prefix).lower()))


@cache
def networks() -> tuple[Network, ...]:
    """What is looked for, largest first."""
    found = []
    for architecture in known_architectures():
        required = [parameter.name for parameter in architecture.parameters() if parameter.fill != "counter"]
        optional = tuple(parameter.name for parameter in architecture.parameters() if parameter.fill == "counter")
        dotted = [name.replace("/", ".") for name in required]
        spellings = {tuple(required), tuple(dotted), tuple(name.replace("-", "_") for name in dotted)}
        found += [Network(architecture.name, spelling, optional) for spelling in sorted(spellings)]
    for renamed in ({}, {new: old for old, new in OLD_CLASSIFIER.items()}):
        modules = [renamed.get(module, module) for module in TORCHVISION_VGG16]
        found.append(Network("vgg16", tuple(f"{module}.{kind}" for module in modules for kind in ("weight", "bias"))))
    encoder = {
        source: p
        for p in get_architecture("resnet34-unet").parameters()
        if (source := encoders.source_name(p.name, encoders.RESNET34.modules)) is not None
    }
    shapes = {name: tuple(p.shape) for name, p in encoder.items() if p.fill != "counter"}
    counters = tuple(name for name in encoder if name not in shapes)
    found.append(Network("resnet34", tuple(shapes), (*counters, "fc.weight", "fc.bias"), shapes))
    return tuple(sorted(found, key=lambda network: -len(network.required)))


def walk(path: object, loaded: Any, kind: type, spend: Callable[[int], None] = lambda _: None) -> list[Entry]:
    """Every tensor in dicts, lists and tuples, but for those of optimisers.

    Args:
        path: for messages.
        loaded: what the file holds.
        kind: the type of a tensor.
        spend: counts the bytes that the entries take: dicts that are shared are walked as often as
            they are shared.

    Raises:
        WeightsError: the items are more than any training saves, or a name is none.
    """
    entries: list[Entry] = []
    count = 0
    open_now: set[int] = set()

    def visit(container: Any, where: tuple[str, ...]) -> None:
        nonlocal count
        if id(container) in open_now or (isinstance(container, dict) and "param_groups" in container):
            return
        if len(where) > DEEPEST:
            return
        open_now.add(id(container))
        for key, value in container.items() if isinstance(container, dict) else enumerate(container):
            count += 1
            if count > MOST_ITEMS:
                raise WeightsError(
                    f"{path}: has more than {MOST_ITEMS:,} items in its dicts and lists; save model.state_dict() alone"
                )
            if isinstance(value, kind):
                step = _text(key)
                name = _joined((*where, step))
                if len(name) > MOST_NAME or not (name.isprintable() or name.isascii()) or "\0" in name:
                    raise WeightsError(
                        f"{path}: a tensor is named {quoted(name)}, as no network's is; the file is damaged"
                    )
                spend(ENTRY + 4 * len(name))
                entries.append(Entry(where, step, name, value))
            elif isinstance(value, dict | list | tuple):
                step = _text(key)
                visit(value, (*where, step if len(step) <= MOST_NAME else f"{step[:MOST_NAME]}…"))
        open_now.discard(id(container))

    if isinstance(loaded, dict | list | tuple):
        visit(loaded, ())
    return entries


def _text(key: Any) -> str:
    if isinstance(key, bytes):
        return key.decode("latin1")
    return str(key) if isinstance(key, str | int | pickles.Key) else "?"


def _joined(steps: Iterable[str]) -> str:
    return ".".join(part for step in steps for part in step.split(".") if part not in TRANSPARENT)


def complete(entries: list[Entry]) -> list[Candidate]:
    """The largest network that is there whole, once for every place where it is."""
    named: dict[str, Entry] = {}
    for entry in entries:
        named.setdefault(entry.name, entry)
    for network in networks():
        anchor = network.required[0]
        candidates = []
        for name in named:
            if name != anchor and not name.endswith(f".{anchor}"):
                continue
            prefix = name.removesuffix(anchor)
            if not all(prefix + one in named for one in network.required):
                continue
            own = {prefix + one for one in (*network.required, *network.optional)}
            shaped = all(named[prefix + one].tensor.shape == shape for one, shape in network.shapes.items())
            if shaped and not _larger(network, prefix, [entry for entry in named.values() if entry.name not in own]):
                candidates.append(
                    Candidate(network, prefix, tuple(entry for entry in named.values() if entry.name in own))
                )
        if candidates:
            return candidates
    return []


def _larger(network: Network, prefix: str, others: list[Entry]) -> bool:
    """Whether tensors beside a network are layers of the same kind: named as its own but for a
    number, as VGG-19's conv3_4 beside VGG-16's."""
    kinds = {NUMBER.sub("#", name) for name in network.required if name.endswith("weight")}
    names = [
        entry.name.removeprefix(prefix)
        for entry in others
        if entry.name.startswith(prefix) and len(entry.tensor.shape) > 1
    ]
    return any(NUMBER.sub("#", name) in kinds for name in names)


def find(
    path: object, loaded: Any, kind: type, nested: bool = False, spend: Callable[[int], None] = lambda _: None
) -> list[dict[str, Any]]:
    """The tensors of the network that a checkpoint holds, by the network's own names; several when
    only their numbers can tell if they are one.

    Where no known network is whole, the one dict of tensors that there is, its keys as they are but
    for the prefixes of training scripts.

    Args:
        path: for messages.
        loaded: what the file holds.
        kind: the type of a tensor.
        nested: a dict is a module, and the dicts in it are its modules.
        spend: counts the bytes that are taken.

    Raises:
        WeightsError: there is no dict of tensors, or more than one and no network.
    """
    if not isinstance(loaded, dict | list | tuple):
        raise WeightsError(f"{path}: holds a {_what(loaded)}, no state_dict; save model.state_dict()")
    entries = walk(path, loaded, kind, spend)
    candidates = complete(entries)
    if not candidates:
        return [_raw(path, loaded, entries, nested)]
    averages = [candidate for candidate in candidates if candidate.average]
    if averages and len(averages) < len(candidates):
        candidates = [candidate for candidate in candidates if not candidate.average]
        places = ", ".join(candidate.place for candidate in averages)
        note(
            f"{path}: holds the {candidates[0].network.title} twice; {candidates[0].place} is taken, the average "
            f"in {places} left aside",
            stacklevel=4,
        )
    used = {id(entry.tensor) for candidate in (*candidates, *averages) for entry in candidate.entries}
    _say_aside(path, candidates[0], [entry for entry in entries if id(entry.tensor) not in used])
    return [candidate.tensors for candidate in candidates]


def of_classes(loaded: Any) -> dict[str, list[Any]]:
    """{"classes", "palette"} as MMSegmentation writes them beside a state_dict: `meta` has CLASSES
    and PALETTE before 1.0, since then a dict `dataset_meta` with both. What is no list of names, or
    of colours, is left out.
    """
    meta = loaded.get("meta") if isinstance(loaded, dict) else None
    if not isinstance(meta, dict):
        return {}
    inner = meta.get("dataset_meta")
    classes, palette = (
        (inner.get("classes"), inner.get("palette"))
        if isinstance(inner, dict)
        else (meta.get("CLASSES"), meta.get("PALETTE"))
    )
    found: dict[str, list[Any]] = {}
    if (
        isinstance(classes, list | tuple)
        and classes
        and all(isinstance(one, str) and one.isprintable() and len(one) <= MOST_NAME for one in classes)
    ):
        found["classes"] = list(classes)
    if palette and metadata.is_palette(palette):
        found["palette"] = [list(one) for one in palette]
    return found


def places(loaded: Any, kind: type) -> str:
    """Where the networks of a checkpoint are, for the message that there are several."""
    return " and ".join(candidate.place for candidate in complete(walk("", loaded, kind)) if not candidate.average)


def _say_aside(path: object, chosen: Candidate, rest: list[Entry]) -> None:
    """A word on tensors beside the network: all of its own dict; of others what may be weights, not
    single numbers and states of generators."""
    own = {entry.where for entry in chosen.entries}
    aside = [entry for entry in rest if entry.where in own or not _state(entry)]
    if aside:
        names = [entry.name for entry in aside]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        note(
            f"{path}: the {chosen.network.title} in {chosen.place} is read; left aside: {len(names)} tensors that "
            "are no part of it "
            f"({', '.join(names[:SHOWN])}{more})",
            stacklevel=5,
        )


def _state(entry: Entry) -> bool:
    """A single number, as a best score is, or the bytes of a random generator."""
    return len(entry.tensor.shape) == 0 or (
        getattr(entry.tensor, "storage", entry.tensor).dtype in ("u1", "uint8") and len(entry.tensor.shape) == 1
    )


def _raw(path: object, loaded: Any, entries: list[Entry], nested: bool) -> dict[str, Any]:
    """The one dict of tensors of a checkpoint whose network is not known."""
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for entry in entries:
        if nested:
            groups.setdefault((), {})[entry.name] = entry.tensor
        else:
            groups.setdefault(entry.where, {})[entry.key] = entry.tensor
    by_name = {where: group for where, group in groups.items() if nested or _by_name(loaded, where)}
    states = {entry.where for entry in entries} - {entry.where for entry in entries if not _state(entry)}
    likely = [where for where in by_name if where not in states] or list(by_name)
    wrapped = [where for where in likely if all(step in WRAPPERS for step in where)]
    if len(likely) > 1 and len(wrapped) == 1:
        likely = wrapped
    if not likely and nested:
        raise WeightsError(
            f"{path}: is a TorchScript program whose weights are constants (frozen); save model.state_dict() instead"
        )
    if (
        not likely
        and isinstance(loaded, dict)
        and any("param_groups" in one for one in (loaded, *loaded.values()) if isinstance(one, dict))
    ):
        raise WeightsError(
            f"{path}: is the state of an optimiser, without the network; give the file that has its state_dict"
        )
    if not likely:
        raise WeightsError(f"{path}: holds no tensors by name{_objects(loaded)}; save model.state_dict()")
    if len(likely) > 1:
        listed = "; ".join(
            f"{'.'.join(where) or 'outermost'}: {next(iter(by_name[where]))} …" for where in likely[:SHOWN]
        )
        raise WeightsError(
            f"{path}: holds {len(likely)} dicts of tensors and no network that is known here ({listed}); save one "
            "state_dict alone"
        )
    named = by_name[likely[0]]
    prefix = unwrap(named)
    return {key.removeprefix(prefix): tensor for key, tensor in named.items()}


def _by_name(loaded: Any, where: tuple[str, ...]) -> bool:
    """Whether the tensors there lie in a dict under strings."""
    for step in where:
        loaded = next(
            (v for k, v in (loaded.items() if isinstance(loaded, dict) else enumerate(loaded)) if _text(k) == step),
            None,
        )
    return isinstance(loaded, dict) and all(isinstance(key, str | bytes) for key in loaded)


def _objects(loaded: Any) -> str:
    """The objects of a checkpoint that is a dict, for a message: a whole model among them is none
    of weights."""
    values: Iterator[tuple[Any, Any]] = iter(loaded.items()) if isinstance(loaded, dict) else iter(())
    named = [f"{quoted(_text(key))} is a {_what(value)}" for key, value in values if isinstance(value, pickles.Foreign)]
    return f" ({', '.join(named[:SHOWN])})" if named else ""


def _what(value: Any) -> str:
    return str(value) if isinstance(value, pickles.Foreign) else type(value).__name__
