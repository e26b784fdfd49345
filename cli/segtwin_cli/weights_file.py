"""The argument of commands that read weights."""

from __future__ import annotations

import os
from typing import Any

import click
from segtwin_weights import DEMO


class WeightsFile(click.Path):
    """The path of a file of weights; "demo" is the demonstration's, where no file is called so."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """The path."""
        if value == "demo" and not os.path.lexists(value):
            value = DEMO
        return super().convert(value, parameter, context)
