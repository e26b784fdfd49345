"""The verdict on a port, and what it is based on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Cause:
    """A mistake that explains a difference."""

    id: str
    layer: str
    """The first layer that it touches."""
    text: str
    """What is wrong, and what is right."""
    alternatives: list[str] = field(default_factory=list)
    """Other mistakes that would do the same on every probe, in words."""


@dataclass
class BlobState:
    """One blob of the network in the port."""

    name: str
    theirs: str | None
    """The port's name of the value that is taken for it; None: it has none."""
    error: float | None
    """Relative distance from the reference's blob."""
    local: float | None
    """The same, of what the reference's layer makes of the port's own values before it."""
    bound: float
    """What rounding may cost."""


@dataclass
class Diagnosis:
    """The verdict, and what it is based on."""

    network: str
    theirs: str
    verdict: str
    """"equal" or "differs"."""
    floors: float
    """Largest error of the output over all inputs, in what rounding may cost: above 1 it differs."""
    first_difference: str | None = None
    how: str = ""
    """The way in which the first blob differs, in words."""
    causes: list[Cause] = field(default_factory=list)
    reproduced: bool | None = None
    """Whether all causes together give the port's output on every input; None where that could not be tried."""
    explanation: str = ""
    notes: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    blobs: list[BlobState] = field(default_factory=list)
    maps: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)
    """The first blob that differs: the port's, and the reference's."""
    synthetic: bool = False

    @property
    def equal(self) -> bool:
        """Whether the port computes what the network computes."""
        return self.verdict == "equal"

    def asdict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "network": self.network,
            "theirs": self.theirs,
            "verdict": self.verdict,
            "error_in_bounds": self.floors,
            "first_difference": self.first_difference,
            "how": self.how,
            "causes": [cause.id for cause in self.causes],
            "reproduced": self.reproduced,
            "explanation": self.explanation,
            "details": [vars(cause) for cause in self.causes],
            "inputs": self.inputs,
            "notes": self.notes,
            "blobs": [vars(blob) for blob in self.blobs],
            "synthetic": self.synthetic,
        }

    def write_report(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write an HTML page with maps of the first difference.

        Raises:
            OSError: the file cannot be written, or is there already.
            ImportError: Jinja2 or Matplotlib is not installed.
        """
        from segtwin_engines.diagnosis_page import write_page

        write_page(self, path, overwrite)


def in_words(causes: Iterable[Cause]) -> Iterator[str]:
    """Their texts; of more than two that say the same of one name each, "each of a, b, c (3 in all) is left out"."""
    alike: dict[tuple[str, str], list[Cause]] = {}
    for cause in causes:
        alike.setdefault((cause.id, cause.text.partition(" ")[2]), []).append(cause)
    for (_, rest), those in alike.items():
        names = [cause.text.partition(" ")[0] for cause in those]
        if len(those) < 3:
            yield from (cause.text for cause in those)
        else:
            yield f"each of {first_and_last(names)} ({len(names)} in all) {rest}"


def first_and_last(names: Sequence[str]) -> str:
    """Names, of many the first three and the last."""
    return ", ".join(names if len(names) < 6 else [*names[:3], "…", names[-1]])
