"""Every network as a table of its layers, one module per family.

A family has one name in three places: `segtwin/architectures/fcn.py` is the table,
`segtwin_torch/fcn.py` and `segtwin_keras/fcn.py` the models. Modules in this folder are found by
themselves; each registers its networks.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from segtwin.architectures.schema import Architecture, Draw, Layer, Parameter
from segtwin.errors import ArchitectureError, listed, nearest

__all__ = [
    "Architecture",
    "Draw",
    "Layer",
    "Parameter",
    "families",
    "find_architecture",
    "get_architecture",
    "known_architectures",
    "list_architectures",
    "register",
]

ORDER = (
    "vgg16", "fcn", "fcn8_vgg", "vggfcn", "unet", "resnet34_unet", "milesial", "nests", "unet_zoo", "bubbliiiing",
)  # fmt: skip
"""Families in the order of `list_architectures`; those not named here follow in alphabetical order."""

_registered: dict[str, Architecture] = {}
_listed: list[str] = []


def register(architecture: Architecture, *, listed: bool = True) -> Architecture:
    """Make an architecture known under its name, and return it.

    Args:
        architecture: the table of a network.
        listed: whether both twins build it under this name; False for classifiers that only lend
            their weights, and for what an option of `build` selects.

    Raises:
        ValueError: the name is taken by another architecture.
    """
    if _registered.get(architecture.name, architecture) != architecture:
        raise ValueError(f"there is already an architecture {architecture.name!r}")
    if listed and architecture.name not in _listed:
        _listed.append(architecture.name)
    _registered[architecture.name] = architecture
    return architecture


def families() -> list[str]:
    """Names of the modules in this folder that define networks."""
    found = {module.name for module in iter_modules(__path__)} - {"schema"}
    return [name for name in ORDER if name in found] + sorted(found - {*ORDER})


def get_architecture(name: str | Architecture) -> Architecture:
    """The architecture of that name; an `Architecture` is returned as it is.

    Raises:
        ArchitectureError: there is none; the message lists those that exist.
    """
    if isinstance(name, Architecture):
        return name
    networks = list_architectures()
    if name not in _registered:
        raise ArchitectureError(f"there is no network {name!r}; there are {listed(networks)}{nearest(name, networks)}")
    return _registered[name]


def find_architecture(name: object) -> Architecture | None:
    """The network of that name that both twins build, or None: for names that stand in a file."""
    return _registered[str(name)] if str(name) in list_architectures() else None


def restored(name: str, option: str | None = None) -> Architecture:
    """The architecture that was pickled under this name, or a variant of it."""
    base = get_architecture(name)
    return base if option is None else base.variants[option]


def list_architectures() -> list[str]:
    """Names of the networks that both twins build."""
    for family in families():
        import_module(f"{__name__}.{family}")
    return list(_listed)


def known_architectures() -> list[Architecture]:
    """Every network that weights can be of: those of `list_architectures`, then the classifiers."""
    names = list_architectures()
    return [_registered[name] for name in names] + [
        one for name, one in _registered.items() if name not in names and not one.variant_of
    ]
