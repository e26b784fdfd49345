"""`segtwin train`: a network on a folder of images and labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from segtwin.architectures import list_architectures
from segtwin.errors import RunError, nearest
from segtwin.palette import read_palette
from segtwin.recipe import DTYPES, LOSSES, OPTIMIZERS
from segtwin.solver import NEEDS
from segtwin_engines.installed import missing, require

from segtwin_cli.convert import read_names
from segtwin_cli.data_options import read_table, size, table_option, val_option
from segtwin_cli.terminal import (
    check_outputs,
    echo,
    errors,
    json_option,
    moving,
    notes,
    noting,
    quiet_option,
    write_json,
)
from segtwin_cli.weights_file import WeightsFile


@click.command()
@click.argument("network", type=WeightsFile())
@click.argument("data", type=click.Path())
@click.option("-o", "--output", "run", type=click.Path(file_okay=False), required=True, help="The run folder.")
@click.option("--framework", type=click.Choice(["torch", "keras"]), help="What trains; by default what is installed.")
@click.option("--recipe", help="A TOML file, a solver.prototxt, or a recipe's name: heavy, light, paper, unet-zoo.")
@click.option("--weights", type=WeightsFile(), help="To start from; those of VGG-16 or of another FCN are converted.")
@click.option("--num-classes", type=click.IntRange(1), help="By default those of --weights, else the network's own.")
@click.option("--steps", type=click.IntRange(1), help="Updates of the weights.")
@click.option("--batch", type=click.IntRange(1), help="Images at once.")
@click.option("--iter-size", type=click.IntRange(1), help="Batches whose gradients are added up before a step.")
@click.option("--lr", "base_lr", type=float, help="Learning rate.")
@click.option("--lr-policy", type=click.Choice(list(NEEDS)), help="How the rate changes; by name as Caffe's.")
@click.option("--gamma", type=float, help="Of --lr-policy step, multistep, exp, inv, sigmoid.")
@click.option("--power", type=float, help="Of --lr-policy poly and inv.")
@click.option("--stepsize", type=click.IntRange(1), help="Of --lr-policy step and sigmoid.")
@click.option("--loss", type=click.Choice(LOSSES))
@click.option("--normalization", help="Of the loss softmax: BATCH_SIZE (summed over pixels), VALID, FULL, NONE.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS))
@click.option("--momentum", type=float)
@click.option("--weight-decay", type=float)
@click.option("--dropout", type=float)
@click.option("--dtype", type=click.Choice(DTYPES), help="mixed_bfloat16: layers in bfloat16, weights in float32.")
@click.option("--seed", type=click.IntRange(0), help="Of the start, the order of images, augmentation, dropout.")
@click.option("--crop", help="Train on pieces of so many rows and columns, as 256x256.")
@click.option("--flip", type=click.Choice(["none", "horizontal", "vertical", "both"]))
@click.option("--right-angles/--no-right-angles", default=None, help="Turn by 0, 90, 180 or 270 degrees.")
@click.option("--scale", type=float, nargs=2, help="Bounds of a random factor of the size, as 0.5 2.")
@click.option("--elastic", type=float, help="Elastic deformation: deviation of a 3×3 grid in pixels (paper: 10).")
@click.option("--brightness", type=float, help="Values times a factor from 1 − b to 1 + b.")
@val_option
@table_option
@click.option("--classes", "class_file", type=click.Path(), help="Text file of the classes' names, one a line.")
@click.option("--palette", help="Colours of the classes: voc, or a file of a colour (#rrggbb or r g b) a line.")
@click.option("--validate-every", type=click.IntRange(1), help="Steps; by default ten times in all.")
@click.option("--overfit", type=click.IntRange(1), help="Learn so many images by heart: the first check of new data.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, … (torch)")
@click.option("--workers", type=click.IntRange(0), default=2, show_default=True, help="Threads that read images.")
@click.option("--resume", is_flag=True, help="Go on with the run in the folder.")
@json_option
@quiet_option
def train(
    network: str,
    data: str,
    run: str,
    framework: str | None,
    recipe: str | None,
    weights: str | None,
    table: str | None,
    crop: str | None,
    scale: tuple[float, float] | None,
    class_file: str | None,
    palette: str | None,
    overfit: int | None,
    device: str,
    workers: int,
    resume: bool,
    json_file: str | None,
    overwrite: bool,
    quiet: bool,
    **given: Any,
) -> int:
    """Train NETWORK (a name, or a file of weights to go on from) on the folder DATA.

    The run folder holds last.safetensors and best.safetensors, which every other command takes, and all
    that is needed to repeat the training or, with --resume, to go on with it to the same bits.

    Several processes share each batch: torchrun -m segtwin train … starts PyTorch's, TF_CONFIG names Keras'.
    """
    check_outputs(overwrite, json_file)
    chosen = framework or next((one for one in ("torch", "keras") if not missing(one)), "torch")
    require(chosen, "train", purpose=f"segtwin train --framework {chosen}")
    if chosen == "keras" and device != "cpu":
        raise RunError("--device is torch's; TensorFlow takes the devices that CUDA_VISIBLE_DEVICES shows")
    known = list_architectures()
    if network not in known and not Path(network).exists():
        raise RunError(
            f"{network}: is no file of weights and no network; there are {', '.join(known)}{nearest(network, known)}"
        )
    fields = {**given, "table": read_table(table), "crop": size(crop), "scale": scale or None}
    fields |= {} if class_file is None else {"classes": read_names(class_file)}
    fields |= {} if palette is None else {"palette": read_palette(palette)}
    twin = import_module(f"segtwin_{chosen}")
    options = {"device": device} if chosen == "torch" else {}
    with notes(quiet), shown(quiet) as progress:
        result = twin.train(
            network,
            data,
            run,
            weights=weights,
            recipe=recipe,
            resume=resume,
            overwrite=overwrite,
            overfit=overfit,
            workers=workers,
            progress=progress,
            say=noting(quiet),
            **options,
            **{name: value for name, value in fields.items() if value is not None},
        )
    if result.rank == 0 and write_json(result.asdict(), json_file) and not quiet:
        scores = result.scores
        echo(f"{run}: {result.steps} steps, loss {result.loss:.5g}")
        echo(f"validation: pixel accuracy {scores['pixel_accuracy']:.2%}, mean IoU {scores['mean_iou']:.2%}")
        reached, at = result.best["mean_iou"], result.best["step"]
        echo(f"best: mean IoU {reached:.2%} at step {at}, {Path(run) / 'best.safetensors'}")
    return 0


@contextmanager
def shown(quiet: bool) -> Iterator[Any]:
    """On a terminal a line that moves: loss, learning rate, images a second, time left."""
    columns = (
        TextColumn("{task.fields[at]}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with moving(columns, quiet) as bar:
        task = bar.add_task("", total=None, at="starting")

        def told(said: Any) -> None:
            words = f"loss {said.loss:.4g} lr {said.rate:.2g} {said.images:.2g} images/s"
            if said.scores is None:
                at = f"step {said.step}/{said.steps}"
                bar.update(task, total=said.steps, completed=said.step, description=words, at=at)
            elif not quiet:
                accuracy, iou = said.scores["pixel_accuracy"], said.scores["mean_iou"]
                words = f"pixel accuracy {accuracy:.2%}, mean IoU {iou:.2%}"
                errors().print(f"step {said.step}: loss {said.loss:.5g}, {words}")

        yield told
