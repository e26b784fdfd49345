"""`segtwin export`: a network with its weights as ONNX, and as the framework's own checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click
import segtwin_weights
from safetensors import SafetensorError, safe_open
from segtwin.architectures import get_architecture, list_architectures
from segtwin_engines.installed import require
from segtwin_engines.loading import framework_twin, read_network
from segtwin_weights import Weights, metadata, onnx_file
from segtwin_weights.mappings import names

from segtwin_cli.convert import losses
from segtwin_cli.explain import Size
from segtwin_cli.preprocessing_options import chosen, preprocessing_options
from segtwin_cli.terminal import echo, errors, overwrite_option, quiet_option, refuse_to_replace, steps
from segtwin_cli.weights_file import WeightsFile

CHECKPOINTS = {"torch": (".pth", ".pt"), "keras": (".weights.h5",)}
"""Framework → endings of its own files of weights."""


@click.command()
@click.argument("weights", type=WeightsFile())
@click.argument("outputs", type=click.Path(), nargs=-1, required=True)
@click.option("--framework", type=click.Choice(["torch", "keras"]), required=True, help="Whose model is exported.")
@click.option("--opset", type=int, help="Version of the ONNX operators; by default 18.")
@click.option(
    "--size",
    type=Size(),
    help="Rows x columns of every image, as in 384x512: the graph is of this one size; by default it takes any.",
)
@click.option(
    "--batch", type=click.IntRange(min=1), help="Images at a time in a graph of one size; by default 1.  [with --size]"
)
@click.option("--logits", is_flag=True, help="End in the logits where a U-Net ends in a sigmoid.")
@click.option(
    "--fold-batchnorm",
    is_flag=True,
    help="Make BatchNorm part of the convolutions before it, and check that the graph computes the same.",
)
@click.option("--one-file", is_flag=True, help="Keep the weights inside the .onnx file even above 100 MB.")
@click.option(
    "--no-verify", is_flag=True, help="Write the ONNX file without checking it and running it against the model."
)
@preprocessing_options
@overwrite_option
@quiet_option
def export(
    weights: str,
    outputs: tuple[str, ...],
    framework: str,
    opset: int | None,
    size: tuple[int, int] | None,
    batch: int | None,
    logits: bool,
    fold_batchnorm: bool,
    one_file: bool,
    no_verify: bool,
    overwrite: bool,
    quiet: bool,
    stated: dict[str, Any],
) -> None:
    """Write WEIGHTS to OUTPUTS: .onnx, and .pth or .pt (a torch state_dict) or .weights.h5 (Keras).

    An ONNX file is read back and checked, its weights are compared with those of the model, and
    ONNX Runtime and the model compute a small random image, before it takes its name. --colour,
    --mean, --std, --scale and --bits say how the network's inputs are made, where WEIGHTS do not;
    the ONNX file carries it.
    """
    endings = (".onnx", *CHECKPOINTS[framework])
    for output in outputs:
        if not output.endswith(endings):
            raise click.ClickException(f"{output}: {framework} writes files that end in {' or '.join(endings)}")
        for file in (output, *([output + ".data"] if output.endswith(".onnx") else [])):
            refuse_to_replace(file, overwrite)
    files = [output for output in outputs if output.endswith(".onnx")]
    for file in files:
        onnx_file.check_name(file)
    if batch is not None and size is None:
        raise click.ClickException("--batch goes with --size: it fixes the number of images of a graph of one size")
    options: dict[str, Any] = {"size": size, "batch": batch, "fold_batchnorm": fold_batchnorm, "verify": not no_verify}
    if opset is not None:
        options["opset"] = opset
        onnx_file.check_opset(files[0] if files else outputs[0], opset, framework)
    check_size(weights, network_in_header(weights), size)
    require(framework, purpose=f"--framework {framework}")
    console = errors()
    with steps(3 + len(outputs), quiet) as step:
        step(f"reading {weights}")
        loaded, architecture = read_network(weights)
        check_size(weights, architecture, size)
        if not stated:
            names.check_inputs(loaded, get_architecture(architecture))
        else:
            channels = segtwin_weights.dimensions(loaded, architecture).in_channels
            base, _ = metadata.preprocessing_of(loaded, get_architecture(architecture), channels)
            say: Callable[[str], None] = (
                (lambda line: None) if quiet else (lambda line: console.print(f"note: {line}", markup=False))
            )
            loaded = Weights(loaded, metadata.state(loaded, chosen(base, stated, say, channels)))
        dimensions = segtwin_weights.dimensions(loaded, architecture)
        step(f"starting {framework}")
        twin = framework_twin(framework)
        step("building the network")
        model = twin.build(architecture, **dimensions._asdict(), weights=loaded, logits=logits)
        facts = loaded.metadata
        del loaded
        for output in outputs:
            step(f"writing {output}")
            if output.endswith(".onnx"):
                twin.export_onnx(model, output, external_data=False if one_file else None, **options)
            else:
                twin.save_checkpoint(model, output)
    if not quiet:
        for output in outputs:
            for line in losses(facts, weights, output, None):
                console.print(f"note: {line}", markup=False)
            echo(f"{output}: {architecture} from {framework}")


def network_in_header(path: str) -> str | None:
    """The network that a safetensors file states in its header, found without reading its numbers;
    None where it states none, or is another file."""
    try:
        if segtwin_weights.file_kind(path) != "safetensors":
            return None
        with safe_open(path, framework="numpy") as file:
            stated = json.loads((file.metadata() or {}).get("architecture", "null"))
    except (OSError, ValueError, SafetensorError):  # the reader says what is wrong with it
        return None
    return stated if isinstance(stated, str) else None


def check_size(path: str, network: str | None, size: tuple[int, int] | None) -> None:
    """Refuse a size that a network does not take.

    Raises:
        ValueError: the message names the nearest that it takes.
    """
    if size is not None and network in list_architectures():
        try:
            get_architecture(network).check_size(*size)
        except ValueError as error:
            raise ValueError(f"--size {size[0]}x{size[1]} for {path}: {error}") from None
