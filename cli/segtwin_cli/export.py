"""`segtwin export`: a network with its weights as ONNX, and as the framework's own checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import click
import segtwin_weights
from safetensors import SafetensorError, safe_open
from segtwin.architectures import get_architecture, list_architectures
from segtwin_engines.installed import advice, missing, require
from segtwin_engines.loading import framework_twin, read_network
from segtwin_engines.prediction import collect
from segtwin_weights import Weights, metadata, ncnn_file, onnx_file
from segtwin_weights.mappings import names

from segtwin_cli.convert import losses
from segtwin_cli.explain import Size
from segtwin_cli.preprocessing_options import chosen, preprocessing_options
from segtwin_cli.terminal import check_outputs, echo, noting, overwrite_option, quiet_option, steps
from segtwin_cli.weights_file import WeightsFile

CHECKPOINTS = {"torch": (".pth", ".pt"), "keras": (".weights.h5",)}
"""Framework → endings of its own files of weights."""


@click.command()
@click.argument("weights", type=WeightsFile())
@click.argument("outputs", type=click.Path(), nargs=-1, required=True)
@click.option(
    "--framework", type=click.Choice(["torch", "keras"]), help="Whose model is exported; ncnn's files are nobody's."
)
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
@click.option(
    "--whole-canvas",
    is_flag=True,
    help="Of an FCN, compute what sees padding alone as often as Caffe does: the graph has every blob as Caffe has it.",
)
@click.option(
    "--int8", "images", type=click.Path(exists=True),
    help="Quantise to 8-bit integers, with ranges from these images (a folder or a file): other numbers, smaller and "
    "on some processors faster. What it costs is said. No framework is needed.",
)  # fmt: skip
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
    framework: str | None,
    opset: int | None,
    size: tuple[int, int] | None,
    batch: int | None,
    logits: bool,
    fold_batchnorm: bool,
    whole_canvas: bool,
    images: str | None,
    one_file: bool,
    no_verify: bool,
    overwrite: bool,
    quiet: bool,
    stated: dict[str, Any],
) -> None:
    """Write WEIGHTS to OUTPUTS: .onnx, and .pth or .pt (a torch state_dict) or .weights.h5 (Keras); .ncnn.

    An ONNX file is read back and checked, its weights are compared with those of the model, and
    ONNX Runtime and the model compute a small random image, before it takes its name. --colour,
    --mean, --std, --scale and --bits say how the network's inputs are made, where WEIGHTS do not;
    the ONNX file carries it. NAME.ncnn stands for NAME.ncnn.param and NAME.ncnn.bin, and NAME.ncnn.json, which carries
    it; they are held against the network likewise where ncnn is installed.
    """
    if images is not None:
        options_given = {
            "--framework": framework, "--opset": opset, "--size": size, "--batch": batch, "--logits": logits,
            "--fold-batchnorm": fold_batchnorm, "--whole-canvas": whole_canvas, "--one-file": one_file,
            "--no-verify": no_verify, **{f"--{name}": value for name, value in stated.items()},
        }  # fmt: skip
        export_int8(weights, outputs, images, options_given, overwrite, quiet)
        return
    endings = (".onnx", ".ncnn", *(CHECKPOINTS[framework] if framework else ()))
    for output in outputs:
        if not output.endswith(endings):
            whose = framework or "without --framework segtwin"
            raise click.ClickException(f"{output}: {whose} writes files that end in {' or '.join(endings)}")
        if framework is None and not output.endswith(".ncnn"):
            raise click.ClickException(f"{output}: add --framework torch or --framework keras: whose model is exported")
    check_outputs(overwrite, *(file for output in outputs for file in companions(output)))
    ncnn = [output for output in outputs if output.endswith(".ncnn")]
    given: dict[str, Any] = {
        "--size": size,
        "--logits": logits,
        "--fold-batchnorm": fold_batchnorm,
        "--whole-canvas": whole_canvas,
    }
    given |= {} if framework else {"--opset": opset, "--batch": batch, "--one-file": one_file}
    for option, value in given.items():
        if ncnn and value:
            raise click.ClickException(
                f"{ncnn[0]}: {option} is for ONNX; ncnn's files take any size and end as the network does"
            )
    files = [output for output in outputs if output.endswith(".onnx")]
    for file in files:
        onnx_file.check_name(file)
    if batch is not None and size is None:
        raise click.ClickException("--batch goes with --size: it fixes the number of images of a graph of one size")
    options: dict[str, Any] = {"size": size, "batch": batch, "fold_batchnorm": fold_batchnorm, "verify": not no_verify}
    if opset is not None and framework:
        options["opset"] = opset
        onnx_file.check_opset(files[0] if files else outputs[0], opset, framework)
    check_size(weights, network_in_header(weights), size)
    if framework:
        require(framework, purpose=f"--framework {framework}")
    say = noting(quiet)
    with steps(3 + len(outputs), quiet) as step:
        step(f"reading {weights}")
        loaded, architecture = read_network(weights)
        check_size(weights, architecture, size)
        if not stated:
            names.check_inputs(loaded, get_architecture(architecture))
        else:
            channels = segtwin_weights.dimensions(loaded, architecture).in_channels
            base, _ = metadata.preprocessing_of(loaded, get_architecture(architecture), channels)
            loaded = Weights(loaded, metadata.state(loaded, chosen(base, stated, say, channels)))
        dimensions, facts = segtwin_weights.dimensions(loaded, architecture), loaded.metadata
        for output in ncnn:
            ncnn_file.check(get_architecture(architecture), output)
        for output in ncnn:
            step(f"writing {output}")
            write_ncnn(loaded, architecture, output, not no_verify)
        if framework:
            step(f"starting {framework}")
            twin = framework_twin(framework)
            step("building the network")
            model = twin.build(architecture, **dimensions._asdict(), weights=loaded, logits=logits)
            if whole_canvas:
                twin.leave_out_dead_zones(model, False)
        del loaded
        for output in outputs:
            if output in ncnn:
                continue
            step(f"writing {output}")
            if output.endswith(".onnx"):
                twin.export_onnx(model, output, external_data=False if one_file else None, **options)
            else:
                twin.save_checkpoint(model, output)
    if not quiet:
        for output in outputs:
            for line in losses(facts, weights, output, None):
                say(line)
            if output in ncnn and not no_verify and missing("ncnn"):
                say(f"{output}: not run, for ncnn is not installed; {advice('ncnn')}")
            echo(f"{output}: {architecture}{'' if output in ncnn else f' from {framework}'}")


def export_int8(
    weights: str, outputs: Sequence[str], images: str, given: Mapping[str, Any], overwrite: bool, quiet: bool
) -> None:
    """`--int8`: one ONNX file, written from the table of layers and quantised."""
    (output, *others) = outputs
    if others or not output.endswith(".onnx"):
        raise click.ClickException(f"{outputs[-1]}: --int8 writes one file that ends in .onnx")
    for option, value in given.items():
        if value:
            raise click.ClickException(f"{output}: {option} does not go with --int8")
    check_outputs(overwrite, output)
    onnx_file.check_name(output)
    require("onnxruntime", purpose="--int8")
    found = list(collect([images]))
    from segtwin_engines import int8  # imports onnxruntime

    with steps(2, quiet) as step:
        step(f"reading {weights}")
        loaded, network = read_network(weights)
        names.check_inputs(loaded, get_architecture(network))
        step(f"quantising with {len(found)} images")
        cost = int8.export(loaded, get_architecture(network), found, output)
    if not quiet:
        echo(
            f"{output}: {network} in 8-bit integers; of the pixels of {images} {cost.same_classes:.4f} keep float32's "
            f"class, mean IU with float32's masks {cost.mean_iu:.4f}"
        )


def companions(output: str) -> list[str]:
    """The files that an output is written to."""
    if output.endswith(".ncnn"):
        return [str(file) for file in ncnn_file.files(output)]
    return [output, *([output + ".data"] if output.endswith(".onnx") else [])]


def write_ncnn(weights: Weights, network: str, output: str, verify: bool) -> None:
    """Files of ncnn, held against the network before they take their names where ncnn is installed."""
    architecture = get_architecture(network)
    check = None
    if verify and not missing("ncnn"):
        from segtwin_engines import ncnn

        check = partial(ncnn.verify, weights, architecture)
    ncnn_file.write(weights, architecture, output, check)


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
