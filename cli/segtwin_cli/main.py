"""`segtwin …`: one file a command. A user's mistake is one line on standard error and status 2; Ctrl-C leaves nothing half-written, status 130.

A command's file is imported when the command is called: `segtwin --help` imports none of them, nor what they import.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click
from segtwin import __version__

MISTAKE, INTERRUPTED = 2, 130

COMMANDS = {
    "list": ("segtwin_cli.list:networks", "List the networks: parameters, input, output and source."),
    "source": ("segtwin_cli.source:source", "Print the path of vgg16.npy: yours, the cache's, a download, or a SYNTHETIC one."),
    "download": ("segtwin_cli.download:download", "Fetch published weights, check their hash, and print where they are."),
    "convert": ("segtwin_cli.convert:convert", "Read weights, make those of another network of them, and write them in any format."),
    "export": ("segtwin_cli.export:export", "Write a network with its weights as ONNX, and as the framework's own checkpoint."),
    "parity": ("segtwin_cli.parity:parity", "Compare every blob on images in PyTorch, Keras and ONNX Runtime with a float64 run."),
    "predict": ("segtwin_cli.predict:predict", "Segment images, or folders of them: masks, overlays, probabilities."),
    "inspect": ("segtwin_cli.inspect:inspect", "Print what a file of weights holds; check it; compare it with another."),
    "explain": ("segtwin_cli.explain:explain", "Say what each layer does to an image of some size: sizes, fields, crops, cost."),
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
    """Caffe-era segmentation networks as twin PyTorch and Keras implementations: weights, ONNX files and the proof that they agree."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 a bound was missed, 2 a user's mistake, 130 interrupted."""
    try:
        status = segtwin.main(arguments, prog_name="segtwin", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        status = MISTAKE
    except (click.Abort, KeyboardInterrupt):
        click.echo("segtwin: interrupted", err=True)
        status = INTERRUPTED
    except click.ClickException as error:
        status = complain(error.format_message())
    except OSError as error:
        where = " → ".join(str(name) for name in (error.filename, error.filename2) if name)
        status = complain(f"{where}: {error.strerror or error}" if where else str(error))
    except (ValueError, KeyError) as error:
        if os.environ.get("SEGTWIN_TRACEBACK"):
            raise
        status = complain(str(error.args[0]) if error.args else type(error).__name__)
    except ImportError as error:
        if os.environ.get("SEGTWIN_TRACEBACK"):
            raise
        from segtwin_cli import extras

        status = complain(extras.explain(error))
    except MemoryError:
        status = complain("not enough memory; close other programs or use a smaller network")
    sys.exit(status if isinstance(status, int) else 0)


def complain(message: str) -> int:
    """One line, whatever the message holds."""
    click.echo(f"segtwin: {' '.join(message.split())}", err=True)
    return MISTAKE
