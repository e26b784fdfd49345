"""`segtwin bench`: how fast each engine runs a network on this machine, and how far off it is."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import click
import segtwin_weights
from segtwin.architectures import get_architecture
from segtwin.files import whole
from segtwin_engines import speed

from segtwin_cli.explain import Size
from segtwin_cli.terminal import (
    check_outputs,
    json_option,
    quiet_option,
    say,
    show_table,
    steps,
    write_json,
)
from segtwin_cli.weights_file import WeightsFile


@click.command()
@click.argument("weights", type=WeightsFile(), required=False)
@click.option("--network", help="Without WEIGHTS: of this network, with random weights; by default fcn8s.")
@click.option("--size", type=Size(), help="Rows x columns of the image; by default 375x500, or the next that fits.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images at a time.")
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Of each engine, in turn.")
@click.option("--threads", type=click.IntRange(min=1), help="Of each engine; by default one a core.")
@click.option("--engine", "engines", multiple=True, help="Some engines by name, as in torch,ncnn.  [repeatable]")
@click.option("--picture", type=click.Path(dir_okay=False), help="Also draw it into this file (.png, .svg, .pdf).")
@json_option
@quiet_option
def bench(
    weights: str | None,
    network: str | None,
    size: tuple[int, int] | None,
    batch: int,
    runs: int,
    threads: int | None,
    engines: tuple[str, ...],
    picture: str | None,
    json_file: str | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Time WEIGHTS, or a network with random weights, in every engine that is installed.

    Each engine has a process of its own, and all of them run in turn. Times are the least of their runs, in seconds
    and, where ONNX Runtime is among them, in units of a plain export in it. Beside them stands the worst blob of a
    small image, in noise floors: an engine beyond its bound is listed as wrong. The fastest that is right is what
    `predict --engine auto` takes from then on, on this machine and with these versions.

    \b
    --json: {"network", "size", "batch", "threads", "unit", "machine",
             "versions", "rows": [{"name", "engine", "seconds", "least",
             "median", "ratio", "start", "peak", "error", "worst",
             "within", "same_classes", "failed"}]}
    """
    if weights is not None and network is not None:
        raise click.ClickException("--network goes without WEIGHTS, which say it themselves")
    if picture is not None and Path(picture).suffix not in (".png", ".svg", ".pdf"):
        raise click.ClickException(f"{picture}: the name has to end in .png, .svg or .pdf")
    check_outputs(overwrite, picture, json_file)
    names = [name for words in engines for name in words.split(",")] or None
    with tempfile.TemporaryDirectory(prefix="segtwin-") as folder, steps(None, quiet) as step:
        if weights is None:
            step("drawing weights")
            weights = drawn(network or "fcn8s", folder)
        loaded = segtwin_weights.read(weights)
        architecture = get_architecture(segtwin_weights.network_of(loaded))
        size = size or (architecture.legal_size(375), architecture.legal_size(500))
        found = speed.measure(weights, loaded, size, batch=batch, runs=runs, threads=threads, engines=names, step=step)
    facts = speed.facts(found, architecture.name, size, batch, threads or os.cpu_count() or 1)
    best = speed.remember(architecture.name, found) if names is None else None
    if write_json(facts, json_file):
        show(facts)
        if best:
            say(f"predict --engine auto takes {best} for {architecture.name} from now on")
    if picture is not None:
        draw(facts, picture)


def drawn(network: str, folder: str) -> str:
    """A file of seeded weights of a network, none of them zero: zeros are not slower, but hide errors."""
    import numpy as np

    architecture = get_architecture(network)
    start, random = segtwin_weights.initialize(network, seed=1), np.random.default_rng(1)
    blobs = {
        name: (random.standard_normal(blob.shape, np.float32) * np.float32(np.sqrt(2 / blob[0].size)))
        if blob.ndim == 4 and not blob.any()
        else blob
        for name, blob in start.items()
    }
    path = os.path.join(folder, f"{architecture.name}-RANDOM.safetensors")
    segtwin_weights.write(segtwin_weights.Weights(blobs, start.metadata), path)
    return path


def show(facts: dict[str, Any]) -> None:
    """The table."""
    rows, columns = facts["size"]
    processor = " ".join(facts["machine"][name] for name in ("processor", "instructions") if name in facts["machine"])
    say(f"{facts['network']}, {facts['batch']}×{rows}×{columns}, {facts['threads']} threads; {processor}")
    table = []
    for row in facts["rows"]:
        if row["failed"]:
            table.append((row["name"], "–", "–", "–", "–", "–", "–", f"failed: {row['failed']}"))
            continue
        table.append(
            (
                row["name"],
                f"{row['least']:.3f}",
                f"{row['median']:.3f}",
                "–" if row["ratio"] is None else f"{row['ratio']:.2f}",
                f"{row['start']:.1f}",
                f"{row['peak'] / 1e9:.2f}",
                f"{row['error']:.1f} ({row['worst']})",
                "within its bound" if row["within"] else "WRONG: beyond its bound",
            )
        )
    show_table(
        ("engine", "least s", "median s", "ratio", "start s", "peak GB", "noise floors", "verdict"),
        table,
        right=("least s", "median s", "ratio", "start s", "peak GB"),
    )


def draw(facts: dict[str, Any], path: str) -> None:
    """Bars, the fastest above; a wrong engine's are grey."""
    from matplotlib.figure import Figure

    rows = sorted((row for row in facts["rows"] if not row["failed"]), key=lambda row: -row["least"])
    figure = Figure(figsize=(8, 0.5 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(
        [row["name"] for row in rows],
        [row["least"] for row in rows],
        color=["#2a6f97" if row["within"] else "#cccccc" for row in rows],
    )
    axes.bar_label(
        bars, [f"{row['least']:#.3g}{'' if row['within'] else ' (beyond its bound)'}" for row in rows], padding=3
    )
    size = "×".join(map(str, (facts["batch"], *facts["size"])))
    axes.set_xlabel(f"seconds; {facts['network']}, {size}, {facts['machine']['processor']}, {facts['threads']} threads")
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    with whole(path) as draft:
        figure.savefig(draft, dpi=150)
