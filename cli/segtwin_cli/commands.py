"""The group of the commands. A command's file is imported when the command is called: `segtwin
--help` imports none of them, nor what they import."""

from __future__ import annotations

from importlib import import_module

import click
from segtwin import __version__

COMMANDS = {
    "list": ("segtwin_cli.list:networks", "List the networks: parameters, input, output and source."),
    "source": (
        "segtwin_cli.source:source",
        "Print the path of vgg16.npy: yours, the cache's, a download, or a SYNTHETIC one.",
    ),
    "download": (
        "segtwin_cli.download:download",
        "Fetch published weights, check their hash, and print where they are.",
    ),
    "convert": (
        "segtwin_cli.convert:convert",
        "Read weights, make those of another network of them, and write them in any format.",
    ),
    "export": (
        "segtwin_cli.export:export",
        "Write a network with its weights as ONNX, and as the framework's own checkpoint.",
    ),
    "parity": (
        "segtwin_cli.parity:parity",
        "Compare every blob on images in PyTorch, Keras and ONNX Runtime with a float64 run.",
    ),
    "diagnose": (
        "segtwin_cli.diagnose:diagnose",
        "Find what is wrong with somebody's port: the first blob that differs, how, and why.",
    ),
    "predict": ("segtwin_cli.predict:predict", "Segment images, or folders of them: masks, overlays, probabilities."),
    "check-data": (
        "segtwin_cli.check_data:check_data",
        "Look at every image and label of a folder: what would make a training go wrong.",
    ),
    "train": ("segtwin_cli.train:train", "Train a network on a folder of images and labels."),
    "evaluate": ("segtwin_cli.evaluate:evaluate", "Score a network on images with labels."),
    "inspect": (
        "segtwin_cli.inspect:inspect",
        "Print what a file of weights holds; check it; compare it with another.",
    ),
    "demo": (
        "segtwin_cli.demo:demo",
        "Serve a page to this machine: drop an image, see the engines' masks side by side.",
    ),
    "bench": (
        "segtwin_cli.bench:bench",
        "Time a network in every engine on this machine, and say which are right.",
    ),
    "explain": (
        "segtwin_cli.explain:explain",
        "Say what each layer does to an image of some size: sizes, fields, crops, cost.",
    ),
}
"""Command → where it is, and the line that the list of commands has for it."""


class Commands(click.Group):
    """The commands of `COMMANDS`, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        return getattr(import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="segtwin")
def segtwin() -> None:
    """Caffe-era segmentation networks as twin PyTorch and Keras implementations: weights, ONNX
    files and the proof that they agree."""
