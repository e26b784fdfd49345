"""`segtwin convert`: weights from one file and network to another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import click
import segtwin_weights
from segtwin.architectures import find_architecture, list_architectures
from segtwin.palette import read_palette
from segtwin.texts import read_lines
from segtwin_weights import Weights, metadata, plausibility, surgery
from segtwin_weights.formats import caffemodel
from segtwin_weights.mappings import names

from segtwin_cli.preprocessing_options import chosen, preprocessing_options
from segtwin_cli.terminal import check_outputs, echo, noting, overwrite_option, quiet_option, steps
from segtwin_cli.weights_file import WeightsFile


@click.command()
@click.argument("source", type=WeightsFile())
@click.argument("target", type=click.Path())
@click.option(
    "--to",
    type=click.Choice(list_architectures()),
    metavar="NETWORK",
    help="The network to make (see segtwin list); without it only the format changes.",
)
@click.option(
    "--num-classes",
    type=int,
    help="Classes of the result; by default the source's, of a classifier the network's own.  [with --to]",
)
@click.option(
    "--score-init",
    type=click.Choice(surgery.SCORE_INITS),
    help="How score_fr starts; by default fc8-average.  [with --to]",
)
@preprocessing_options
@click.option(
    "--classes",
    "class_file",
    type=click.Path(),
    help="Text file of the classes' names, one a line; they travel with the weights.",
)
@click.option("--palette", help="Colours of the classes: voc, or a file of a colour (#rrggbb or r g b) a line.")
@overwrite_option
@quiet_option
def convert(
    source: str,
    target: str,
    to: str | None,
    num_classes: int | None,
    score_init: str | None,
    class_file: str | None,
    palette: str | None,
    overwrite: bool,
    quiet: bool,
    stated: dict[str, Any],
) -> None:
    """Read SOURCE, make the weights of another network of them, and write TARGET (.safetensors,
    .npy, .caffemodel, .pth or .weights.h5).

    --colour, --mean, --std, --scale and --bits say what inputs the weights of SOURCE were trained
    on, where the file does not. They overrule what it says.
    """
    for option, value in (("--num-classes", num_classes), ("--score-init", score_init)):
        if to is None and value is not None:
            raise click.ClickException(f"{option} goes with --to: without it the network stays as it is")
    check_outputs(overwrite, target, *(caffemodel.companions(target) if target.endswith(".caffemodel") else ()))
    labels: dict[str, Any] = {} if class_file is None else {"classes": read_names(class_file)}
    if palette is not None:
        labels["palette"] = read_palette(palette)
    say = noting(quiet)
    with steps(3, quiet) as step:
        step(f"reading {source}")
        weights = segtwin_weights.read(source, raw=True)
        preprocessing = None
        if stated:
            hub = names.hub_names(weights)
            preprocessing = chosen(base(hub, stated), stated, say, channels_of(hub))
        step("converting")
        changes: list[surgery.Change] = []
        if to is not None:
            weights, changes = surgery.convert_with_report(
                weights, to, num_classes, score_init or "fc8-average", preprocessing=preprocessing
            )
        elif preprocessing is not None:
            weights = Weights(hub, metadata.state(hub, preprocessing))
        else:
            weights = counted(source, weights)
        weights.metadata |= labels
        check_labels(weights, labels)
        step(f"writing {target}")
        segtwin_weights.write(weights, target)
    if not quiet:
        for line in losses(weights.metadata, source, target, to):
            say(line)
        counts = Counter(change.what for change in changes)
        said = ", ".join(f"{count} {what}" for what, count in counts.items())
        echo(f"{target}: {weights!r}" + (f"; blobs {said}" if said else ""))
        if weights.metadata.get("synthetic"):
            echo(f"{target}: SYNTHETIC weights, not trained", fg="yellow", bold=True, err=True)


def counted(source: str, weights: Weights) -> Weights:
    """Weights that are written as they are, with the counters of BatchNorm that ONNX files and old
    ones lack.

    Raises:
        click.ClickException: BatchNorm is folded into the convolutions: they are no network's any
            more.
    """
    if weights.metadata.get("batchnorm") == "folded":
        raise click.ClickException(
            f"{source}: its BatchNorm is folded into the convolutions; run it as it is (segtwin predict {source})"
        )
    architecture = find_architecture(weights.metadata.get("architecture")) or names.identify(weights)
    return (
        names.with_counters(weights, architecture)
        if architecture is not None and architecture.naming == "torch"
        else weights
    )


NO_METADATA = (".npy", ".caffemodel", ".weights.h5")
"""Endings of formats that hold arrays and nothing else."""


def losses(facts: Mapping[str, Any], source: str, target: str, to: str | None) -> list[str]:
    """What the user should know of what was written: preprocessing that was only assumed, facts
    that the format cannot hold."""
    architecture = find_architecture(facts.get("architecture"))
    said = metadata.stated(facts, architecture)
    found = []
    if to is not None and architecture is not None and said is None:
        words = architecture.preprocessing.describe()
        found.append(
            f"preprocessing assumed from the names in {source}: {words}; say --colour, --mean, --std, --scale "
            "where it was another"
        )
    if target.endswith(NO_METADATA):
        lost = [
            key
            for key in ("classes", "palette")
            if facts.get(key) not in (None, list((architecture and architecture.classes) or ()))
        ]
        if (
            said is not None
            and architecture is not None
            and not names.same_inputs(said, architecture.preprocessing.for_channels(len(said.mean)))
        ):
            lost.append(f"the preprocessing ({said.describe()})")
        if lost:
            found.append(
                f"{target}: this format cannot hold {' and '.join(lost)}; keep a .safetensors or .pth beside it"
            )
    return found


def channels_of(weights: Weights) -> int | None:
    """Channels of the input; None where no network is known by these names."""
    try:
        weights = surgery.flattened(weights)
        return segtwin_weights.dimensions(weights, names.identify(weights) or surgery.source_of(weights)).in_channels
    except (ValueError, KeyError):
        return None


def base(weights: Weights, stated: dict[str, Any]) -> Any:
    """What the options add to: the preprocessing that the weights state, or that of the known
    training which fits the options."""
    if (said := metadata.stated(weights)) is not None:
        return said
    architecture = find_architecture(weights.metadata.get("architecture")) or names.identify(weights)
    if architecture is not None and architecture.name in list_architectures():
        return architecture.preprocessing
    torchvision = weights.metadata.get("names") == "torchvision" and str(stated.get("colour", "rgb")).lower() != "bgr"
    return plausibility.IMAGENET_RGB if torchvision else plausibility.OXFORD_INPUTS


def read_names(path: str) -> list[str]:
    """Lines of a text file, without empty ones at its end.

    Raises:
        ValueError, click.ClickException: it is no text, or holds no names.
        OSError: it cannot be read.
    """
    found = read_lines(path, "the name of one class")
    if not all(found):
        raise click.ClickException(f"{path}: holds an empty line; write the name of one class a line")
    return found


def check_labels(weights: Weights, labels: dict[str, Any]) -> None:
    """Refuse names or colours of another number of classes.

    Raises:
        click.ClickException: there are more names than classes, or fewer; fewer colours than
            classes.
    """
    if not labels:
        return
    architecture = find_architecture(segtwin_weights.network_of(names.hub_names(weights)))
    classes = segtwin_weights.dimensions(names.hub_names(weights), architecture).num_classes if architecture else 0
    if "classes" in labels and not metadata.as_many(len(labels["classes"]), classes):
        raise click.ClickException(f"--classes names {len(labels['classes'])} classes, the network has {classes}")
    if "palette" in labels and len(labels["palette"]) < max(classes, 2):
        raise click.ClickException(f"--palette has {len(labels['palette'])} colours, the network has {classes} classes")
