"""`segtwin explain`: what a network does to an image of some size, as a table and as a drawing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table
from segtwin import architectures, explanation
from segtwin.explanation import Explained, formula
from segtwin.files import whole

from segtwin_cli.terminal import overwrite_option


class Size(click.ParamType):
    """Rows × columns, as in 375x500."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """(rows, columns)."""
        match = re.fullmatch(r"(\d+)[x×](\d+)", str(value))
        if not match or not all(int(number) for number in match.groups()):
            self.fail(f"{value!r} is not a size; give rows x columns, as in 375x500", param, ctx)
        return int(match[1]), int(match[2])


@click.command()
@click.argument("row")
@click.option("--size", type=Size(), required=True, help="Rows x columns of the image, as in 375x500.")
@click.option("--num-classes", type=click.IntRange(min=1), help="Classes of the scores; by default the row's own.")
@click.option("--picture", type=click.Path(dir_okay=False), help="Also draw what an output pixel sees, and the padding, into this file (.png, .svg).")
@overwrite_option
def explain(row: str, size: tuple[int, int], num_classes: int | None, picture: str | None, overwrite: bool) -> None:
    """Say of every layer of ROW, for one size of the image: output size, receptive field, coordinate map, crop, parameters, FLOPs."""
    if picture is not None and Path(picture).suffix not in (".png", ".svg", ".pdf"):
        raise click.ClickException(f"{picture}: the name has to end in .png, .svg or .pdf")
    if picture is not None and Path(picture).exists() and not overwrite:
        raise click.ClickException(f"{picture}: exists already; choose another name or add --overwrite")
    blobs = explanation.explain(row, *size, num_classes)
    console = Console(highlight=False)
    console.print(table(architectures.get(row), size, blobs))
    for blob in blobs:
        if blob.derivation and blob.offset is not None:
            console.print(f"{blob.name}: offset {both(*blob.offset)}\n    {blob.derivation}", markup=False, soft_wrap=True)
    if picture is not None:
        draw(architectures.get(row), size, blobs, picture)


def table(row: architectures.Row, size: tuple[int, int], blobs: list[Explained]) -> Table:
    """The table: one line a blob, the sums at the end."""
    columns = ("output", "sees", "crop", "parameters", "MFLOP")
    made = Table(
        Column("blob", no_wrap=True),
        Column("layer"),
        *(Column(name, justify="right", no_wrap=True) for name in columns[:2]),
        Column(f"y of {row.input}'s x", no_wrap=True),
        *(Column(name, justify="right", no_wrap=True) for name in columns[2:]),
        title=f"{row.name}, an image of {size[0]} × {size[1]}",
        show_footer=True,
    )
    made.add_row(row.input, "", " × ".join(map(str, (row.in_channels, *size))), "1", "x", "", "", "")
    for blob in blobs:
        offset = "" if blob.offset is None else both(*blob.offset)
        mapping = both(*(formula(one, "x") for one in blob.maps))
        parameters, flops = f"{blob.parameters:,}" if blob.parameters else "", f"{blob.flops / 1e6:,.1f}" if blob.flops else ""
        made.add_row(blob.name, blob.kind, " × ".join(map(str, blob.shape)), both(*blob.field), mapping, offset, parameters, flops)
    made.columns[6].footer = f"{sum(blob.parameters for blob in blobs):,}"
    made.columns[7].footer = f"{sum(blob.flops for blob in blobs) / 1e6:,.1f}"
    return made


def both(rows: object, columns: object) -> str:
    """What holds of rows and of columns, once where it is the same."""
    return str(rows) if rows == columns else f"{rows} | {columns}"


def draw(row: architectures.Row, size: tuple[int, int], blobs: list[Explained], path: str) -> None:
    """Left: the image, its padding, and what the first and the middle output pixel see through each branch. Right: what each crop cuts away."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    height, width = size
    shapes = row.shapes(height, width, every_layer=True)
    offsets = explanation.crops(row, shapes)
    first = next(layer for layer in row.layers if layer.kind == "Convolution")
    pad = first.pad
    cropped = [blob for blob in blobs if blob.offset is not None]
    figure, (where, cuts) = plt.subplots(1, 2, figsize=(13, 6), layout="constrained", width_ratios=(3, 2))

    where.add_patch(Rectangle((-pad, -pad), width + 2 * pad, height + 2 * pad, facecolor="#dddddd", label=f"padding of {first.name}: {pad} pixels"))
    where.add_patch(Rectangle((0, 0), width, height, facecolor="#fff6d5", edgecolor="black", label=f"the image, {height} × {width}"))
    branches: list[str] = [name for name in ("pool3", "pool4", "pool5") if name in branches_of(row)] or [row.output]
    for colour, branch in zip(("tab:green", "tab:blue", "tab:red"), branches, strict=False):
        for number, (y, x) in enumerate(((0, 0), (height // 2, width // 2))):
            (top, bottom), (left, right) = (through(row, branch, place, axis, shapes, offsets) for axis, place in enumerate((y, x)))
            label = f"seen{f' through {branch}' if branch != row.output else ''}: {bottom - top + 1} × {right - left + 1}" if number else None
            where.add_patch(Rectangle((left, top), right - left + 1, bottom - top + 1, fill=False, edgecolor=colour, linewidth=1.5, label=label))
            where.plot(x + 0.5, y + 0.5, "k+", markersize=12)
    where.autoscale_view()
    where.set_aspect("equal")
    where.invert_yaxis()
    where.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2, fontsize=8)
    where.set_title(f"{row.name}: what the first and the middle pixel of `{row.output}` see")

    for line, blob in enumerate(cropped):
        layer = row.layer(blob.name)
        rows = shapes[layer.bottoms[0]][1]
        whole_size = rows if layer.kind == "Crop" else (rows - 1) * layer.stride + layer.kernel
        assert blob.offset is not None
        cuts.barh(line, whole_size, color="#dddddd", edgecolor="black")
        cuts.barh(line, blob.shape[1], left=blob.offset[0], color="#7fb7e6", edgecolor="black")
        text = f"{blob.name}: rows {blob.offset[0]} … {blob.offset[0] + blob.shape[1] - 1} of {whole_size}"
        cuts.text(0, line - 0.45, text, va="bottom", fontsize=8)
    cuts.invert_yaxis()
    cuts.set_yticks([])
    cuts.set_title("what the crops keep (blue) and cut away (grey)" if cropped else "nothing is cropped")
    with whole(path) as draft:
        figure.savefig(draft, dpi=120, metadata={"Software": None} if path.endswith(".png") else None)
    plt.close(figure)


def branches_of(row: architectures.Row) -> set[str]:
    """The poolings that the output is computed from by another way than the next convolution: where the branches part, and the deepest."""
    users: dict[str, int] = {}
    for layer in row.layers:
        for bottom in layer.bottoms[:1] if layer.kind in architectures.LIKE else layer.bottoms:
            users[bottom] = users.get(bottom, 0) + 1
    parted = {name for name, count in users.items() if name.startswith("pool") and count > 1}
    return parted | {"pool5"} if "pool5" in users else set()  # the U-Nets' branches are too many to draw


def through(row: architectures.Row, branch: str, pixel: int, axis: int, shapes: explanation.Shapes, offsets: explanation.Offsets) -> tuple[int, int]:
    """First and last row (or column) of the image that one pixel of the output sees by way of a pooling."""
    seen = explanation.sees(row, row.output, (pixel, pixel), axis, shapes, offsets)
    if branch == row.output:
        return seen[row.input]
    deeper = [name for name in ("pool3", "pool4", "pool5") if name > branch]
    if deeper and branch in branches_of(row):  # what the branch itself is asked for, without what goes on below it
        heads = [layer for layer in row.layers if layer.bottoms[0] == branch and not layer.name.startswith(("conv", "vgg16"))]
        asked = [explanation.look(layer, seen[layer.name], axis, shapes, offsets) for layer in heads]
        pixels = min(first for first, _ in asked), max(last for _, last in asked)
    else:
        pixels = seen[branch]
    return explanation.sees(row, branch, pixels, axis, shapes, offsets)[row.input]
