"""`segtwin explain`: what a network does to an image of some size, as a table and as a drawing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from segtwin import explanation, geometry
from segtwin.architectures import Architecture, get_architecture
from segtwin.explanation import Explained, formula
from segtwin.files import whole
from segtwin.layer_kinds import CoordinateMap

from segtwin_cli.terminal import check_outputs, json_option, say, show_table, write_json


class Size(click.ParamType):  # type: ignore[type-arg] # click before 8.3 cannot be subscripted
    """Rows × columns, as in 375x500."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """(rows, columns)."""
        match = re.fullmatch(r"(\d+)[x×](\d+)", str(value))
        if not match or not all(int(number) for number in match.groups()):
            self.fail(f"{value!r} is not a size; give rows x columns, as in 375x500", param, ctx)
        return int(match[1]), int(match[2])


@click.command()
@click.argument("network")
@click.option("--size", type=Size(), required=True, help="Rows x columns of the image, as in 375x500.")
@click.option("--num-classes", type=click.IntRange(min=1), help="Classes of the scores; by default the network's own.")
@click.option("--in-channels", type=click.IntRange(min=1), help="Channels of the image; by default the network's own.")
@click.option(
    "--picture",
    type=click.Path(dir_okay=False),
    help="Also draw what an output pixel sees, and the padding, into this file (.png, .svg, .pdf).",
)
@click.option(
    "--steps", is_flag=True, help="Write out the coordinate maps from which each crop follows, layer by layer."
)
@click.option(
    "--pad", type=click.IntRange(min=0), help="What if: another padding of the first convolution, as 99 in an FCN."
)
@json_option
def explain(
    network: str,
    size: tuple[int, int],
    num_classes: int | None,
    in_channels: int | None,
    picture: str | None,
    steps: bool,
    pad: int | None,
    json_file: str | None,
    overwrite: bool,
) -> None:
    """Show kernel, output size, receptive field, coordinate map, crop, parameters and FLOPs of each
    layer of NETWORK, for one size of the image.

    \b
    --json: {"network", "input": {"name", "shape"}, "parameters", "flops",
             "blobs": [{"name", "kind", "shape", "window", "sees", "map",
                        "offset", "derivation", "parameters", "flops"}]}
    shapes are [channels, rows, columns]; window is [kernel, stride, pad]
    or null; sees, map and offset are
    [of rows, of columns]; map is {"scale", "shift"} as exact fractions.
    """
    if picture is not None and Path(picture).suffix not in (".png", ".svg", ".pdf"):
        raise click.ClickException(f"{picture}: the name has to end in .png, .svg or .pdf")
    check_outputs(overwrite, picture, json_file)
    architecture = get_architecture(network)
    if pad is not None:
        architecture = explanation.with_pad(architecture, pad)
    blobs = explanation.explain(architecture, *size, num_classes, in_channels)
    channels = architecture.in_channels if in_channels is None else in_channels
    if write_json(facts_of(architecture, (channels, *size), blobs), json_file):
        show(architecture, (channels, *size), blobs, steps)
    if picture is not None:
        draw(architecture, size, picture)


def facts_of(architecture: Architecture, image: tuple[int, int, int], blobs: list[Explained]) -> dict[str, Any]:
    """What `--json` writes."""
    return {
        "network": architecture.name,
        "input": {"name": architecture.input, "shape": image},
        "parameters": sum(blob.parameters for blob in blobs),
        "flops": sum(blob.flops for blob in blobs),
        "blobs": [
            {
                "name": blob.name,
                "kind": blob.kind,
                "shape": blob.shape,
                "window": blob.window,
                "sees": blob.field,
                "map": [{"scale": str(one.scale), "shift": str(one.shift)} for one in blob.maps],
                "offset": blob.offset,
                "derivation": blob.derivation,
                "parameters": blob.parameters,
                "flops": blob.flops,
            }
            for blob in blobs
        ],
    }


def show(architecture: Architecture, image: tuple[int, int, int], blobs: list[Explained], steps: bool) -> None:
    """The table: one line a blob, the sums at the end; and where the crops come from."""
    lines = [(architecture.input, "", "", " × ".join(map(str, image)), "1", "x", "", "", "")]
    for blob in blobs:
        lines.append(
            (
                blob.name,
                blob.kind,
                "" if blob.window is None else "/".join(map(str, blob.window)),
                " × ".join(map(str, blob.shape)),
                both(*blob.field),
                both(*(formula(one, "x") for one in blob.maps)),
                "" if blob.offset is None else both(*blob.offset),
                readable(blob.parameters),
                readable(blob.flops),
            )
        )
    columns = ("blob", "layer", "k/s/p", "output", "sees", f"y of {architecture.input}'s x", "crop", "params", "FLOP")
    show_table(
        columns,
        lines,
        right=("k/s/p", "output", "sees", "crop", "params", "FLOP"),
        title=f"{architecture.name}, an image of {image[1]} × {image[2]}",
        footer=(
            "sum",
            *[""] * 6,
            readable(sum(blob.parameters for blob in blobs)),
            readable(sum(blob.flops for blob in blobs)),
        ),
    )
    for blob in blobs:
        if blob.derivation and blob.offset is not None:
            say(f"{blob.name}: offset {both(*blob.offset)}")
            say(f"    {blob.derivation}")
    if steps:
        show_steps(architecture)


def show_steps(architecture: Architecture) -> None:
    """For each crop: the maps of the two ways from the blob that both come from, layer by layer."""
    for crop, (blob, like, common) in explanation.alignments(architecture).items():
        say(f"{crop} cuts {blob} to {like}; both come from {common}, x is a pixel of {common}")
        for end in (blob, like):
            total = formula(CoordinateMap(), "x")
            for step in explanation.steps(architecture, common, end):
                total = formula(step.total, "x")
                if step.arithmetic != "x":
                    own = formula(step.own, "x")
                    say(f"    {step.layer}: y = {step.arithmetic} = {own}; from {common}: {total}")
            say(f"    {end} = {total}")


def readable(count: int) -> str:
    """ "102.8 M", "39.5 G"; "" for none."""
    if not count:
        return ""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)


def both(rows: object, columns: object) -> str:
    """What holds of rows and of columns, once where it is the same."""
    return str(rows) if rows == columns else f"{rows} | {columns}"


def draw(architecture: Architecture, size: tuple[int, int], path: str) -> None:
    """Left: the image, its padding, and what the first and the middle output pixel see through each
    branch. Right: what each crop cuts away. Below: the two grids that each crop aligns."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    height, width = size
    shapes = architecture.shapes(height, width, every_layer=True)
    first = next(layer for layer in architecture.layers if layer.kind == "Convolution")
    pad = first.pad
    aligned = explanation.alignments(architecture)
    figure = plt.figure(figsize=(13, 6 + 1.1 * len(aligned)), layout="constrained")
    parts: Any = (figure,)
    if aligned:
        parts = figure.subfigures(2, 1, height_ratios=(6, 1.1 * len(aligned)))
        draw_grids(parts[1], architecture)
    where, cuts = parts[0].subplots(1, 2, width_ratios=(3, 2))

    where.add_patch(
        Rectangle(
            (-pad, -pad),
            width + 2 * pad,
            height + 2 * pad,
            facecolor="#dddddd",
            label=f"padding of {first.name}: {pad} pixels",
        )
    )
    where.add_patch(
        Rectangle((0, 0), width, height, facecolor="#fff6d5", edgecolor="black", label=f"the image, {height} × {width}")
    )
    colours = dict(zip(explanation.branches(architecture), ("tab:green", "tab:blue", "tab:red"), strict=False))
    for number, sight in enumerate(explanation.sights(architecture, height, width)):
        (top, bottom), (left, right) = sight.box
        label = None
        if number % 2:  # the middle pixel's, which says more
            through = f" through {sight.branch}" if sight.branch != architecture.output else ""
            label = f"seen{through}: {bottom - top + 1} × {right - left + 1}"
        where.add_patch(
            Rectangle(
                (left, top),
                right - left + 1,
                bottom - top + 1,
                fill=False,
                edgecolor=colours[sight.branch],
                linewidth=1.5,
                label=label,
            )
        )
        # a pixel is the square from its index to the next
        where.plot(float(sight.centre[1]) + 0.5, float(sight.centre[0]) + 0.5, "k+", markersize=12)
    where.autoscale_view()
    where.set_aspect("equal")
    where.invert_yaxis()
    where.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2, fontsize=8)
    where.set_title(f"{architecture.name}: what the first and the middle pixel of `{architecture.output}` see")

    cropped = [layer for layer in architecture.layers if layer.name in explanation.crops(architecture, shapes)]
    for line, layer in enumerate(cropped):
        begin = explanation.crops(architecture, shapes)[layer.name][0]
        rows, kept = shapes[layer.bottoms[0]][1], shapes[layer.name][1]
        before = rows if layer.kind == "Crop" else (rows - 1) * layer.stride + layer.kernel
        cuts.barh(line, before, color="#dddddd", edgecolor="black")
        cuts.barh(line, kept, left=begin, color="#7fb7e6", edgecolor="black")
        cuts.text(
            0, line - 0.45, f"{layer.name}: rows {begin} … {begin + kept - 1} of {before}", va="bottom", fontsize=8
        )
    cuts.invert_yaxis()
    cuts.set_yticks([])
    cuts.set_title("what the crops keep (blue) and cut away (grey)" if cropped else "nothing is cropped")
    with whole(path) as draft:
        figure.savefig(draft, dpi=120, metadata={"Software": None} if path.endswith(".png") else None)
    plt.close(figure)


def draw_grids(figure: Any, architecture: Architecture) -> None:
    """For each crop, the pixel centres of both blobs in the coordinates of the image: where they coincide, the crop
    begins."""
    layers = {layer.name: layer for layer in architecture.layers}
    aligned = explanation.alignments(architecture)
    axes = figure.subplots(len(aligned), 1, squeeze=False)[:, 0]
    for axis, (crop, (blob, like, _)) in zip(axes, aligned.items(), strict=True):
        offset = architecture.offsets[crop]
        for height, name in ((1, blob), (0, like)):
            onto_image = geometry.maps_to_ancestors(layers, name, architecture.offsets)[architecture.input].inverse()
            first = -2 if name == like else offset - 2
            for pixel in range(first, first + 9):
                place = float(onto_image.scale * pixel + onto_image.shift)
                kept = pixel >= (offset if name == blob else 0)
                colour, fill = "#1f77b4" if kept else "#bbbbbb", "full" if pixel >= 0 else "none"
                axis.plot(place, height, "o", color=colour, fillstyle=fill)
                above = (0, 6) if height else (0, -13)
                axis.annotate(str(pixel), (place, height), above, textcoords="offset points", ha="center", fontsize=7)
                if kept:
                    axis.plot([place, place], [0, 1], color="#1f77b4", linewidth=0.5)
        axis.set_ylim(-1.1, 2.1)
        axis.set_yticks([0, 1], [like, blob], fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
        axis.set_title(f"{crop}: pixel {offset} of {blob} lies on pixel 0 of {like}", fontsize=9, loc="left")
    axes[-1].set_xlabel(f"rows (or columns) of {architecture.input}", fontsize=8)
