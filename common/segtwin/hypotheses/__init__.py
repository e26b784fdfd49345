"""What ports of these networks get wrong: one catalogue, for the diagnosis of other people's ports
(`segtwin_engines.diagnose`) and for the mutants that prove the test suite (`make mutants`).

A hypothesis changes a `Case` (table of layers, weights, input) as whoever wrote a port would by
mistake; computed by the numpy oracle it gives the values that such a port gives. Most are bugs of
public ports; each says in words what is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from segtwin.architectures import Architecture
from segtwin.hypotheses import heads, inputs, kernels, layers, norms, output, steps_up
from segtwin.hypotheses.case import DATA, Case, Values
from segtwin.hypotheses.catalogue import Hypothesis
from segtwin.preprocessing import Preprocessing

__all__ = ["DATA", "Case", "Hypothesis", "Values", "hypotheses"]


def hypotheses(
    architecture: Architecture, weights: Mapping[str, np.ndarray], preprocessing: Preprocessing, in_channels: int
) -> list[Hypothesis]:
    """Everything in the catalogue that applies to a network, the commonest first.

    Args:
        architecture: the network.
        weights: hub name → array.
        preprocessing: how its inputs are made.
        in_channels: channels of its input.
    """
    used = tuple(layer for layer in architecture.layers if not layer.idle)
    case = Case(replace(architecture, layers=used), weights)
    return [
        *inputs.of(preprocessing, in_channels),
        *output.of(case),
        *heads.of(case),
        *steps_up.of(case),
        *layers.of(case),
        *kernels.of(case),
        *norms.of(case),
        *output.turned_back(case),
    ]
