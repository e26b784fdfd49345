"""`segtwin list`: the networks."""

from __future__ import annotations

import math
from typing import Any

import click
from segtwin.architectures import get_architecture, list_architectures

from segtwin_cli.terminal import check_outputs, json_option, show_table, write_json


@click.command("list")
@json_option
def networks(json_file: str | None, overwrite: bool) -> None:
    """List the networks: parameters, input, output and source.

    --json: {"networks": [{"name", "learned", "fixed", "classes", "channels", "input", "output",
    "source"}]}
    """
    check_outputs(overwrite, json_file)
    facts: list[dict[str, Any]] = []
    for architecture in map(get_architecture, list_architectures()):
        sizes = [(math.prod(parameter.shape), bool(parameter.lr_mult)) for parameter in architecture.parameters()]
        facts.append(
            {
                "name": architecture.name,
                "learned": sum(size for size, learned in sizes if learned),
                "fixed": sum(size for size, learned in sizes if not learned),
                "classes": architecture.num_classes,
                "channels": architecture.in_channels,
                "input": architecture.input,
                "output": architecture.output,
                "source": architecture.source,
            }
        )
    if write_json({"networks": facts}, json_file):
        rows = [
            (
                one["name"],
                f"{one['learned']:,}",
                f"{one['fixed']:,}",
                one["channels"],
                one["classes"],
                " → ".join((one["input"], one["output"])),
                one["source"],
            )
            for one in facts
        ]
        columns = ("network", "learned", "fixed", "channels", "classes", "input → output", "from")
        show_table(columns, rows, right=("learned", "fixed", "channels", "classes"))
