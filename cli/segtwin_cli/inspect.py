"""`segtwin inspect`: what a file of weights holds, whether its numbers are plausible, and where it
differs from another."""

from __future__ import annotations

import json
from typing import Any

import click
import numpy as np
import segtwin_weights
from segtwin import Preprocessing
from segtwin.architectures import find_architecture, get_architecture, list_architectures
from segtwin_weights import Weights, WeightsError, metadata, plausibility, surgery
from segtwin_weights.mappings import names

from segtwin_cli.terminal import check_outputs, json_option, quiet_option, say, show_table, steps, write_json
from segtwin_cli.weights_file import WeightsFile

DIFFERENT = 1


@click.command()
@click.argument("file", type=WeightsFile())
@click.option(
    "--check",
    is_flag=True,
    help="Test the numbers: the order of fc6, the colours of conv1_1. Status 1 when they contradict the file.",
)
@click.option(
    "--diff", "other", type=click.Path(), help="Another file: say what differs. Status 1 when something does."
)
@json_option
@quiet_option
def inspect(file: str, check: bool, other: str | None, json_file: str | None, overwrite: bool, quiet: bool) -> int:
    """Print the blobs of FILE with shapes and ranges, its metadata and its fingerprint.

    \b
    --json: {"file", "blobs": [{"name", "shape", "dtype", "min", "max", "mean"}],
             "numbers", "metadata", "fingerprint",
             "preprocessing", "preprocessing_known": false where assumed,
             "in_channels",
             "network": {"name", "num_classes", "in_channels", "widths"}, or
             "nearest": {"name", "missing", "over"} where none fits}
    and with --check "findings": [{"what", "says", "evidence", "good"}];
    with --diff: {"file", "other", "blobs": count, "equal",
                  "differences": [{"name", "difference"}]}
    """
    check_outputs(overwrite, json_file)
    with steps(2 + bool(other), quiet) as step:
        step(f"reading {file}")
        weights = segtwin_weights.read(file, raw=True)
        step("fingerprint")
        fingerprint = weights.fingerprint()
        if other is not None:
            step(f"reading {other}")
            rows = differences(names.hub_names(weights), segtwin_weights.read(other))
    if other is not None:
        return show_differences(file, other, rows, len(weights), json_file)
    findings = plausibility.check(names.hub_names(weights)) if check else []
    facts = (
        {
            "file": file,
            "blobs": [blob_facts(name, blob) for name, blob in weights.items()],
            "numbers": sum(blob.size for blob in weights.values()),
            "metadata": dict(weights.metadata),
            "fingerprint": fingerprint,
        }
        | network(names.hub_names(weights))
        | inputs(names.hub_names(weights))
        | ({"findings": [finding._asdict() for finding in findings]} if check else {})
    )
    if write_json(facts, json_file):
        show(facts, findings)
    return 0 if all(finding.good for finding in findings) else DIFFERENT


def network(weights: Weights) -> dict[str, Any]:
    """{"network"} that the weights' names and shapes are of, or {"nearest"}, or nothing."""
    found = names.identify(weights)
    if found is not None:
        dimensions = {"widths": (), **surgery.found_dimensions(weights, found)}
        return {"network": {"name": found.name, **dimensions, "widths": list(dimensions["widths"])}}
    near = names.nearest(weights)
    if near is None:
        return {}
    return {"nearest": {"name": near.architecture.name, "missing": list(near.missing), "over": list(near.over)}}


def inputs(weights: Weights) -> dict[str, Any]:
    """{"preprocessing", "preprocessing_known", "in_channels"} of a network that is known here:
    stated or shown by the numbers, else assumed from the names.
    """
    architecture = find_architecture(weights.metadata.get("architecture")) or names.identify(weights)
    try:
        said = metadata.stated(weights, architecture)
        if architecture is None:
            return {} if said is None else {"preprocessing": said.asdict(), "preprocessing_known": True}
        if said is None and architecture.name not in list_architectures():
            found, proven = names.vgg16_preprocessing(weights)
            return {"preprocessing": found.asdict(), "preprocessing_known": proven}
        if said is None:
            names.check_inputs(weights, architecture)
    except WeightsError as error:
        return {"preprocessing": None, "preprocessing_known": False, "preprocessing_problem": str(error)}
    channels = surgery.found_dimensions(weights, architecture).get("in_channels", architecture.in_channels)
    preprocessing = (said or architecture.preprocessing).for_channels(channels)
    return {"preprocessing": preprocessing.asdict(), "preprocessing_known": said is not None, "in_channels": channels}


def blob_facts(name: str, blob: np.ndarray) -> dict[str, Any]:
    """One blob: its name, shape, type and range; the range of nothing is null."""
    low, high, mean = (blob.min(), blob.max(), blob.mean(dtype="float64")) if blob.size else (None, None, None)
    return {"name": name, "shape": list(blob.shape), "dtype": str(blob.dtype), "min": low, "max": high, "mean": mean}


def show(facts: dict[str, Any], findings: list[plausibility.Finding]) -> None:
    """Print the facts of a file."""
    rows = []
    for blob in facts["blobs"]:
        numbers = ("" if blob[key] is None else f"{blob[key]:.4g}" for key in ("min", "max", "mean"))
        rows.append((blob["name"], "×".join(map(str, blob["shape"])), blob["dtype"], *numbers))
    show_table(("blob", "shape", "type", "min", "max", "mean"), rows, right=("min", "max", "mean"))
    say(f"blobs: {len(rows)}, numbers: {facts['numbers']:,}")
    if "network" in facts:
        say(f"network: {in_words(facts['network'])}")
    elif "nearest" in facts:
        near = facts["nearest"]
        words = names.Nearest(get_architecture(near["name"]), tuple(near["missing"]), tuple(near["over"]))
        say(f"network: none that is known here; {words}")
    for key, value in facts["metadata"].items():
        say(f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    if facts.get("preprocessing"):
        says = Preprocessing.from_dict(facts["preprocessing"]).describe(facts.get("in_channels"))
        say(
            f"inputs: {says} "
            f"({'known' if facts['preprocessing_known'] else 'assumed from names: the file does not state it'})"
        )
    elif "preprocessing_problem" in facts:
        say(f"inputs: not known: {facts['preprocessing_problem']}")
    say(f"fingerprint: {facts['fingerprint']}")
    for finding in findings:
        mark = "" if finding.good else "WRONG ORDER: "
        say(f"{finding.what}: {mark}{finding.says}" + (f" ({finding.evidence})" if finding.evidence else ""))


def in_words(found: dict[str, Any]) -> str:
    """A network with what its weights tell of it."""
    widths = " ".join(map(str, found["widths"]))
    parts = [
        f"{found[key]} {word}{'' if found[key] == 1 else more}"
        for key, word, more in (("num_classes", "class", "es"), ("in_channels", "channel", "s"))
        if key in found
    ]
    return ", ".join([found["name"], *parts, *([f"widths {widths}"] if widths else [])])


def differences(one: Weights, two: Weights) -> list[tuple[str, str]]:
    """(blob, what differs) of two sets of weights, in the order of the first."""
    rows = []
    for name in [*one, *(name for name in two if name not in one)]:
        if name not in two:
            rows.append((name, "only in the first"))
        elif name not in one:
            rows.append((name, "only in the second"))
        elif one[name].shape != two[name].shape:
            rows.append((name, f"{'×'.join(map(str, one[name].shape))} against {'×'.join(map(str, two[name].shape))}"))
        elif one[name].dtype != two[name].dtype or one[name].tobytes() != two[name].tobytes():
            rows.append((name, describe(one[name], two[name])))
    return rows


def describe(a: np.ndarray, b: np.ndarray) -> str:
    """How two arrays of one shape differ."""
    kinds = f"{a.dtype} against {b.dtype}, " if a.dtype != b.dtype else ""
    unequal = int((a != b).sum())
    if not unequal:
        return f"{kinds}equal numbers"
    largest = float(np.abs(np.subtract(a, b, dtype=np.float64)).max())
    return (
        f"{kinds}{unequal:,} of {a.size:,} numbers differ, by at most {largest:.3g} (of {float(np.abs(a).max()):.3g})"
    )


def show_differences(file: str, other: str, rows: list[tuple[str, str]], count: int, json_file: str | None) -> int:
    """Print them; the status."""
    differing = [{"name": name, "difference": difference} for name, difference in rows]
    if write_json(
        {"file": file, "other": other, "blobs": count, "equal": not rows, "differences": differing}, json_file
    ):
        if rows:
            show_table(("blob", "difference"), rows)
        else:
            say(f"{file} and {other}: {count} blobs, all equal")
    return DIFFERENT if rows else 0
