"""What every network here is: a torch module that knows its architecture, its preprocessing and its metadata."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from segtwin import Preprocessing
from segtwin.architectures import Architecture, families, get_architecture
from segtwin.geometry import DeadZones
from torch import Tensor, nn


class Forget(dict[str, Tensor]):
    """The default notebook of blobs: keeps nothing, so that inference frees each blob as it goes."""

    def __setitem__(self, name: str, blob: Tensor) -> None: ...


Notebook = MutableMapping[str, Tensor]
"""Where a forward pass leaves its blobs, under the original's names."""


class Network(nn.Module):
    """Base class of the networks.

    `copy.deepcopy`, pickling and `torch.save` of the whole module keep all of it; `unwrap` finds it
    inside the wrappers of torch.
    """

    architecture: Architecture
    """Set by `register`; by `build` where an option selects a variant."""
    preprocessing: Preprocessing
    """How images become inputs: what the weights state, else the architecture's."""
    metadata: dict[str, Any]
    """What the weights state."""
    logits: bool = False
    """Whether the last sigmoid is left off."""
    pad: str | None = None
    """ "reflect": images are mirrored to a size that fits."""
    leaves_out: bool = True
    """Set by `leave_out_dead_zones`."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing, self.metadata = self.architecture.preprocessing, {}

    @property
    def in_channels(self) -> int:
        """Channels of the image; the first layer's weight is O×I×kh×kw."""
        first = next(layer for layer in self.architecture.layers if layer.width)
        return self.get_parameter(f"{first.module or first.name}.weight".replace("-", "_")).shape[1]

    def left_out(self, n: Notebook) -> DeadZones | None:
        """What a pass does not compute because it sees padding alone: nothing where a blob of it is kept in the
        notebook, or seen by a hook of the model's user."""
        if not self.leaves_out or not isinstance(n, Forget) or any(map(hooked, self.children())):
            return None
        return self.architecture.dead_zones

    def check_size(self, image: Tensor) -> None:
        """Refuse an image that the original cannot take. In an export or a trace sizes are symbols, and not checked.

        Raises:
            ArchitectureError: the message names the sizes that fit.
        """
        if not (torch.compiler.is_exporting() or torch.jit.is_tracing()):  # type: ignore[attr-defined]
            self.architecture.check_size(*image.shape[2:])


def hooked(module: nn.Module) -> bool:
    """Whether someone looks at what a module computes."""
    every = torch.nn.modules.module
    return any(
        (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
            every._global_forward_hooks,
            every._global_forward_pre_hooks,
            every._global_backward_hooks,
            every._global_backward_pre_hooks,
        )
    )


def leave_out_dead_zones(model: nn.Module, leave_out: bool = True) -> None:
    """Whether an FCN computes its borders once: rows and columns of blocks 1 to 3 that see padding alone are all
    the same (`segtwin.geometry.dead_zones`). Scores and gradients are the same numbers, but for roundings.

    Args:
        model: made by `build`; networks that do not pad by 100 pixels stay as they are.
        leave_out: True, as it is after `build`; False: the whole canvas is computed, as the original does.
            `blobs`, a notebook of blobs and hooks see whole blobs in any case.

    Raises:
        TypeError: the model is no network of `build`.
    """
    unwrap(model).leaves_out = leave_out


N = TypeVar("N", bound=type[Network])
_networks: dict[str, type[Network]] = {}


def register(name: str) -> Callable[[N], N]:
    """Class decorator: the network of that name in `segtwin.architectures`."""

    def decorate(network: N) -> N:
        network.architecture = get_architecture(name)
        _networks[name] = network
        return network

    return decorate


def network_class(architecture: Architecture) -> type[Network]:
    """The class of a network; its page is the module that has the name of its family.

    Raises:
        NotImplementedError: the architecture has no page here.
    """
    for family in families():
        if architecture.name not in _networks and find_spec(f"{__package__}.{family}") is not None:
            import_module(f"{__package__}.{family}")
    if architecture.name not in _networks:
        raise NotImplementedError(f"{architecture.name} has no page in {__package__}")
    return _networks[architecture.name]


def unwrap(model: nn.Module) -> Network:
    """The network inside the wrappers of torch.compile, DataParallel, DistributedDataParallel and AveragedModel.

    Raises:
        TypeError: it is none of `build`; a trace or an exported program has lost the names of its blobs.
    """
    inside = model
    while not isinstance(inside, Network):
        wrapped = getattr(inside, "_orig_mod", getattr(inside, "module", None))
        if not isinstance(wrapped, nn.Module):
            kind = f"{type(model).__module__}.{type(model).__qualname__}"
            raise TypeError(
                f"{kind} is no network of segtwin_torch.build and wraps none; give the model it was made of"
            )
        inside = wrapped
    return inside
