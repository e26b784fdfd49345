"""`segtwin export`: a network with its weights as ONNX, and as the framework's own checkpoint."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import click
import segtwin_weights
from segtwin_weights import Weights, names

from segtwin_cli.extras import require
from segtwin_cli.terminal import overwrite_option, quiet_option, refuse_to_replace, steps

CHECKPOINTS = {"torch": ".pth", "keras": ".weights.h5"}


@click.command()
@click.argument("weights", type=click.Path())
@click.argument("outputs", type=click.Path(), nargs=-1, required=True)
@click.option("--framework", type=click.Choice(["torch", "keras"]), required=True, help="Whose model is exported.")
@click.option("--opset", type=int, help="Version of the ONNX operators; by default 18.")
@click.option("--logits", is_flag=True, help="End in the logits where a U-Net ends in a sigmoid.")
@click.option("--fold-batchnorm", is_flag=True, help="Make BatchNorm part of the convolutions before it, and check that the graph computes the same.")
@click.option("--one-file", is_flag=True, help="Keep the weights inside the .onnx file even above 100 MB.")
@overwrite_option
@quiet_option
def export(
    weights: str,
    outputs: tuple[str, ...],
    framework: str,
    opset: int | None,
    logits: bool,
    fold_batchnorm: bool,
    one_file: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write WEIGHTS to OUTPUTS: .onnx, and .pth (a torch state_dict) or .weights.h5 (Keras)."""
    endings = (".onnx", CHECKPOINTS[framework])
    for output in outputs:
        if not output.endswith(endings):
            raise click.ClickException(f"{output}: {framework} writes files that end in {' or '.join(endings)}")
        refuse_to_replace(output, overwrite)
    require(framework, purpose=f"--framework {framework}")
    with steps(3 + len(outputs), quiet) as step:
        step(f"reading {weights}")
        loaded, row = read_network(weights)
        dimensions = segtwin_weights.dimensions(loaded, row)
        step(f"starting {framework}")
        twin = framework_twin(framework)
        step("building the network")
        model = twin.build(row, **dimensions._asdict(), weights=loaded, logits=logits)
        del loaded
        for output in outputs:
            step(f"writing {output}")
            if output.endswith(".onnx"):
                options = {} if opset is None else {"opset": opset}
                twin.export_onnx(model, output, **options, external_data=False if one_file else None, fold_batchnorm=fold_batchnorm)
            else:
                twin.save_checkpoint(model, output)
    if not quiet:
        for output in outputs:
            click.echo(f"{output}: {row} from {framework}")


def read_network(path: str, row: str | None = None) -> tuple[Weights, str]:
    """A file's weights under the hub's names, and the network that they are for: `row`, or what the file says, or what its names tell.

    Raises:
        WeightsError: it is of no network; or one of `segtwin_weights.read`.
        OSError: it cannot be read.
    """
    weights = names.hub_names(segtwin_weights.read(path))
    weights.metadata.setdefault("source", os.path.basename(path))
    return weights, segtwin_weights.network_of(weights, row)


def framework_twin(framework: str) -> ModuleType:
    """`segtwin_torch` or `segtwin_keras`, imported now: each takes seconds."""
    if framework == "torch":
        import segtwin_torch

        return segtwin_torch
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet_start():
        import segtwin_keras

        return segtwin_keras


@contextmanager
def quiet_start() -> Iterator[None]:
    """TensorFlow says on standard error which libraries of a GPU it lacks, before its own log level can be set; said only when the import fails."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with tempfile.TemporaryFile() as chatter:
            os.dup2(chatter.fileno(), 2)
            try:
                yield
            except BaseException:
                chatter.seek(0)
                os.write(stderr, chatter.read())
                raise
            finally:
                os.dup2(stderr, 2)
    finally:
        os.close(stderr)
