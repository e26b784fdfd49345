"""`segtwin diagnose`: what is wrong with somebody's port."""

from __future__ import annotations

from functools import partial
from typing import Any

import click
from segtwin import list_architectures

from segtwin_cli.preprocessing_options import over, preprocessing_options
from segtwin_cli.terminal import (
    check_outputs,
    check_page,
    echo,
    json_option,
    noting,
    quiet_option,
    steps,
    write_json,
)
from segtwin_cli.weights_file import WeightsFile


@click.command()
@click.argument("theirs", type=click.Path())
@click.argument("images", type=click.Path(), nargs=-1)
@click.option("--network", type=click.Choice(list_architectures()), metavar="NAME", help="By default the weights'.")
@click.option("--weights", type=WeightsFile(), help="Those that THEIRS has.")
@click.option("--reference", type=click.Path(), help="Another model, in place of --network and --weights.")
@click.option("--weights-only", is_flag=True, help="THEIRS is a file of weights: compare it with --weights.")
@click.option(
    "--patience", type=click.FloatRange(0), default=60, show_default=True, help="Seconds for pairs of causes."
)
@click.option("--report", type=click.Path(dir_okay=False), help="Write an HTML page with maps of the difference.")
@preprocessing_options
@json_option
@quiet_option
def diagnose(
    theirs: str,
    images: tuple[str, ...],
    network: str | None,
    weights: str | None,
    reference: str | None,
    weights_only: bool,
    patience: float,
    report: str | None,
    stated: dict[str, Any],
    json_file: str | None,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Find the first blob in which THEIRS, somebody's port of a network, differs from the original, how it differs,
    and the mistake that explains it. Status 1 when it differs.

    THEIRS is an ONNX, TorchScript, torch.export (.pt2), .keras or frozen .pb file, a SavedModel's folder, a Caffe
    .prototxt beside its .caffemodel, or an .npz of blobs with their input `data`. It is compared on probes of
    odd and even sizes, and on IMAGES. Running it runs what it says: ask only what you would run.
    """
    check_page(report)
    check_outputs(overwrite, report, json_file)
    if weights_only and weights is None and len(images) == 1:
        (weights,), images = images, ()
    if weights_only and (weights is None or reference is not None or images):
        raise click.UsageError("--weights-only compares THEIRS with --weights FILE alone")
    if reference is not None and (weights is not None or network is not None):
        raise click.UsageError("--reference takes the place of --network and --weights")
    if reference is None and weights is None:
        raise click.UsageError("add --weights FILE, those that THEIRS has, or --reference FILE, another model")
    from segtwin_engines.diagnosis import diagnose as find

    say = noting(quiet)
    with steps(None, quiet) as step:
        result = find(
            theirs, network, weights, images, reference=reference, weights_only=weights_only,
            preprocessing=partial(over, stated, say) if stated else None, patience=patience, say=say, step=step,
        )  # fmt: skip
    if report is not None:
        result.write_report(report, overwrite)
    if write_json(result.asdict(), json_file):
        echo(f"{result.theirs} {'equals' if result.equal else 'differs from'} {result.network}", bold=True)
        echo(result.explanation)
    for line in result.notes:
        say(line)
    return 0 if result.equal else 1
