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
from segtwin_weights import Weights, WeightsError

from segtwin_cli.terminal import overwrite_option, quiet_option, refuse_to_replace, steps

CHECKPOINTS = {"torch": ".pth", "keras": ".weights.h5"}


@click.command()
@click.argument("weights", type=click.Path())
@click.argument("outputs", type=click.Path(), nargs=-1, required=True)
@click.option("--framework", type=click.Choice(["torch", "keras"]), required=True, help="Whose model is exported.")
@click.option("--opset", type=int, help="Version of the ONNX operators; by default 18.")
@click.option("--one-file", is_flag=True, help="Keep the weights inside the .onnx file even above 100 MB.")
@overwrite_option
@quiet_option
def export(weights: str, outputs: tuple[str, ...], framework: str, opset: int | None, one_file: bool, overwrite: bool, quiet: bool) -> None:
    """Write WEIGHTS to OUTPUTS: .onnx, and .pth (a torch state_dict) or .weights.h5 (Keras)."""
    endings = (".onnx", CHECKPOINTS[framework])
    for output in outputs:
        if not output.endswith(endings):
            raise click.ClickException(f"{output}: {framework} writes files that end in {' or '.join(endings)}")
        refuse_to_replace(output, overwrite)
    with steps(3 + len(outputs), quiet) as step:
        step(f"reading {weights}")
        loaded = segtwin_weights.read(weights)
        row, dimensions = row_of(loaded, weights), None
        dimensions = segtwin_weights.dimensions(loaded, row)
        step(f"starting {framework}")
        twin = framework_twin(framework)
        step("building the network")
        model = twin.build(row, **dimensions._asdict(), weights=loaded)
        del loaded
        for output in outputs:
            step(f"writing {output}")
            if output.endswith(".onnx"):
                twin.export_onnx(model, output, **({} if opset is None else {"opset": opset}), external_data=False if one_file else None)
            else:
                twin.save_checkpoint(model, output)
    if not quiet:
        for output in outputs:
            click.echo(f"{output}: {row} from {framework}")


def row_of(weights: Weights, path: str) -> str:
    """The network that a file's metadata names.

    Raises:
        WeightsError: it names none.
    """
    row = weights.metadata.get("architecture")
    if not isinstance(row, str):
        raise WeightsError(f"{path}: does not say which network it is for; make it with `segtwin convert … --to ROW`")
    return row


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
