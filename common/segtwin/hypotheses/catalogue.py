"""The entry of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from segtwin.hypotheses.case import Case


@dataclass(frozen=True)
class Hypothesis:
    """One way to be wrong."""

    id: str
    layers: tuple[str, ...]
    """The layers that are computed otherwise; `case.DATA` for the input."""
    text: str
    """What is wrong, and what is right."""
    apply: Callable[[Case], Case]
    """The network as somebody wrote it → the same with this mistake."""
    variant: str = ""
    """Which of several of this id and place, as "+1"."""

    @property
    def key(self) -> str:
        """Unique among the hypotheses of a network."""
        return ":".join(filter(None, (self.id, self.layers[0] if len(self.layers) == 1 else "", self.variant)))
