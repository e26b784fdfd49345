"""Broken ports of the newer U-Nets are diagnosed: what each gets wrong is named."""

from collections.abc import Callable

import numpy as np
import pytest
import segtwin_engines
import segtwin_torch
import segtwin_weights
import torch
from segtwin_torch import nests, unet_zoo
from segtwin_weights import Weights
from torch import nn


def corners_not_aligned(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Upsample):
            module.align_corners = False


def gates_exchanged(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nests.Attention):
            original = module.forward
            module.forward = lambda gate, skip, original=original: original(gate=skip, skip=gate)


def recurrent(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nests.Recurrent):
            module.forward = lambda x, conv=module.conv: conv(x + conv(x))


def skip_last(model: nn.Module) -> None:
    for module in model.modules():
        if type(module).__name__ == "Up":
            convolution = module.conv
            module.forward = lambda x, skip, convolution=convolution: convolution(torch.cat([x, skip], dim=1))


def first_stays(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(x: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        top = torch.zeros_like(nn.functional.pad(x, (0, 1, 0, 1)))
        for corner in (0, 1, 2, 3):
            i, j = divmod(corner, 2)
            around = (j, 1 - j, i, 1 - i)
            here = nn.functional.pad(place, around, value=-1) == corner
            top = torch.where(here, nn.functional.pad(x, around), top)
        return top

    monkeypatch.setattr(unet_zoo, "put", put)


PORTS: list[tuple[str, Callable[..., None], str]] = [
    ("unet-milesial-bilinear", corners_not_aligned, "align_corners"),
    ("unet-milesial", skip_last, "concat_order"),
    ("attention-unet", gates_exchanged, "gate_arguments"),
    ("r2unet-nests", recurrent, "recurrence"),
    ("segnet", first_stays, "unpool_order"),
]


@pytest.mark.parametrize(("network", "broken", "cause"), PORTS, ids=[cause for *_, cause in PORTS])
def test_a_mistake_is_named(network: str, broken: Callable[..., None], cause: str, monkeypatch) -> None:
    start = segtwin_weights.initialize(network, widths=(4, 5, 6, 7, 8), num_classes=2, seed=1)
    scaled = {key: (blob * factor(network, key, blob)).astype(blob.dtype) for key, blob in start.items()}
    weights = Weights(scaled, start.metadata)
    model = segtwin_torch.build(network, weights=weights)
    right = segtwin_engines.diagnose(port(model), network=network, weights=weights)
    assert right.verdict == "equal"
    broken(model, monkeypatch) if broken is first_stays else broken(model)
    found = segtwin_engines.diagnose(port(model), network=network, weights=weights)
    assert found.verdict == "differs"
    assert cause in [one.id for one in found.causes], found.causes


def factor(network: str, key: str, blob: np.ndarray) -> float:
    """Nothing explodes in blocks that double, and nothing fades in SegNet's 26 layers, so that all are to be seen."""
    if ".RCNN." in key and key.endswith("conv.1.weight"):
        return 0.25
    return 6**0.5 if network == "segnet" and blob.ndim == 4 else 1


def port(model: nn.Module) -> Callable:
    """As a function of images alone: no blob has a name."""
    return lambda data: model(torch.as_tensor(data)).detach().numpy()
