"""`segtwin inspect`: what a file of weights holds, whether its numbers are plausible, and where it differs from another."""

from __future__ import annotations

import json

import click
import numpy as np
import segtwin_weights
from rich.console import Console
from rich.table import Table
from segtwin_weights import Weights, names, plausibility

from segtwin_cli.terminal import quiet_option, steps

DIFFERENT = 1


@click.command()
@click.argument("file", type=click.Path())
@click.option("--check", is_flag=True, help="Test the numbers: the order of fc6, the colours of conv1_1. Status 1 when they contradict the file.")
@click.option("--diff", "other", type=click.Path(), help="Another file: say what differs. Status 1 when something does.")
@quiet_option
def inspect(file: str, check: bool, other: str | None, quiet: bool) -> int:
    """Print the blobs of FILE with shapes and ranges, its metadata and its fingerprint."""
    console = Console()
    with steps(2 + bool(other), quiet) as step:
        step(f"reading {file}")
        weights = segtwin_weights.read(file)
        step("fingerprint")
        fingerprint = weights.fingerprint()
        if other is not None:
            step(f"reading {other}")
            rows = differences(names.hub_names(weights), names.hub_names(segtwin_weights.read(other)))
    if other is not None:
        return show_differences(console, file, other, rows, len(weights))
    table = Table("blob", "shape", "type", "min", "max", "mean")
    for name, blob in weights.items():
        numbers = (f"{value:.4g}" for value in (blob.min(), blob.max(), blob.mean(dtype="float64"))) if blob.size else ("", "", "")
        table.add_row(name, "×".join(map(str, blob.shape)), str(blob.dtype), *numbers)
    console.print(table)
    console.print(f"blobs: {len(weights)}, numbers: {sum(blob.size for blob in weights.values()):,}")
    for key, value in weights.metadata.items():
        console.print(f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}", markup=False)
    console.print(f"fingerprint: {fingerprint}")
    findings = plausibility.check(names.hub_names(weights)) if check else []
    for finding in findings:
        mark = "" if finding.good else "WRONG ORDER: "
        console.print(f"{finding.what}: {mark}{finding.says}" + (f" ({finding.evidence})" if finding.evidence else ""), markup=False, soft_wrap=True)
    return 0 if all(finding.good for finding in findings) else DIFFERENT


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
    return f"{kinds}{unequal:,} of {a.size:,} numbers differ, by at most {largest:.3g} (of {float(np.abs(a).max()):.3g})"


def show_differences(console: Console, file: str, other: str, rows: list[tuple[str, str]], count: int) -> int:
    """Print them; the status."""
    if not rows:
        console.print(f"{file} and {other}: {count} blobs, all equal", markup=False, soft_wrap=True)
        return 0
    table = Table("blob", "difference")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    return DIFFERENT
