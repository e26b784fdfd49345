"""Caffe-era segmentation networks without a framework: architectures, preprocessing, geometry and a
numpy reference.

Submodules are imported on first use, so that `import segtwin` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segtwin import palette, tiles
    from segtwin.architectures import Architecture, Layer, Parameter, get_architecture, list_architectures
    from segtwin.images import Converted, ImageError, preprocess_label, read_image
    from segtwin.preprocessing import Preprocessing, preprocess
    from segtwin.tiles import overlap_tile

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "Converted",
    "ImageError",
    "Layer",
    "Parameter",
    "Preprocessing",
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

_WHERE = {
    "Layer": "architectures", "Parameter": "architectures", "Architecture": "architectures",
    "get_architecture": "architectures", "list_architectures": "architectures",
    "Converted": "images", "ImageError": "images", "preprocess_label": "images", "read_image": "images",
    "Preprocessing": "preprocessing", "preprocess": "preprocessing",
    "overlap_tile": "tiles",
    "architectures": "", "explanation": "", "files": "", "geometry": "", "images": "", "layer_kinds": "",
    "noise": "", "oracle": "", "palette": "", "preprocessing": "", "tiles": "",
}  # fmt: skip
"""Name → the submodule that defines it; "": it is a submodule itself."""


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _WHERE[name]
    value = getattr(import_module(f"segtwin.{module}"), name) if module else import_module(f"segtwin.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
