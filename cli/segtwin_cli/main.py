"""`segtwin …`: one file a command. A user's mistake is one line on standard error and status 2; Ctrl-C leaves nothing half-written, status 130."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click
from segtwin import __version__

from segtwin_cli.convert import convert
from segtwin_cli.download import download
from segtwin_cli.explain import explain
from segtwin_cli.export import export
from segtwin_cli.inspect import inspect
from segtwin_cli.list import networks
from segtwin_cli.parity import parity
from segtwin_cli.predict import predict
from segtwin_cli.source import source

MISTAKE, INTERRUPTED = 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="segtwin")
def segtwin() -> None:
    """Caffe-era segmentation networks as twin PyTorch and Keras implementations: weights, ONNX files and the proof that they agree."""


for command in (networks, source, download, convert, export, parity, predict, inspect, explain):
    segtwin.add_command(command)


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
    except MemoryError:
        status = complain("not enough memory; close other programs or use a smaller network")
    sys.exit(status if isinstance(status, int) else 0)


def complain(message: str) -> int:
    """One line, whatever the message holds."""
    click.echo(f"segtwin: {' '.join(message.split())}", err=True)
    return MISTAKE
