"""Caffe-era segmentation networks without a framework: architectures, preprocessing, geometry and a
numpy reference.

Submodules are imported on first use, so that `import segtwin` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segtwin import palette, tiles
    from segtwin.architectures import Architecture, Layer, Parameter, get_architecture, list_architectures
    from segtwin.errors import ArchitectureError, ImageError, SegtwinError, WeightsError
    from segtwin.images import Converted, preprocess_label, read_image
    from segtwin.preprocessing import Preprocessing, preprocess
    from segtwin.tiles import overlap_tile

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "ArchitectureError",
    "Converted",
    "ImageError",
    "Layer",
    "Parameter",
    "Preprocessing",
    "SegtwinError",
    "WeightsError",
    "__version__",
    "get_architecture",
    "list_architectures",
    "overlap_tile",
    "palette",
    "preprocess",
    "preprocess_label",
    "read_image",
    "tiles",
]

_DEFINED_IN = {
    "architectures": ("Architecture", "Layer", "Parameter", "get_architecture", "list_architectures"),
    "errors": ("ArchitectureError", "ImageError", "SegtwinError", "WeightsError"),
    "images": ("Converted", "preprocess_label", "read_image"),
    "preprocessing": ("Preprocessing", "preprocess"),
    "tiles": ("overlap_tile",),
}
"""Submodule → the names of it that are the package's own."""
_SUBMODULES = {
    *_DEFINED_IN,
    "data",
    "explanation",
    "files",
    "geometry",
    "layer_kinds",
    "losses",
    "metrics",
    "noise",
    "oracle",
    "palette",
    "recipe",
    "solver",
}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"segtwin.{name}")
    for module, names in _DEFINED_IN.items():
        if name in names:
            globals()[name] = value = getattr(import_module(f"segtwin.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
