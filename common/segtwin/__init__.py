"""The rows, the coordinate algebra and the preprocessing of the Caffe-era segmentation networks. numpy only: no framework is imported.

Its parts are imported when they are first used, so that `import segtwin` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segtwin import palette, tiles
    from segtwin.architectures import Layer, Parameter, Row
    from segtwin.architectures import get as get_architecture
    from segtwin.architectures import names as list_architectures
    from segtwin.images import Converted, ImageError, preprocess_label, read_image
    from segtwin.preprocessing import Preprocessing, preprocess
    from segtwin.tiles import overlap_tile

__version__ = "0.1.0"

__all__ = [
    "Converted",
    "ImageError",
    "Layer",
    "Parameter",
    "Preprocessing",
    "Row",
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
    "Layer": "architectures", "Parameter": "architectures", "Row": "architectures",
    "get_architecture": "architectures:get", "list_architectures": "architectures:names",
    "Converted": "images", "ImageError": "images", "preprocess_label": "images", "read_image": "images",
    "Preprocessing": "preprocessing", "preprocess": "preprocessing",
    "overlap_tile": "tiles",
    "architectures": "", "explanation": "", "files": "", "geometry": "", "images": "", "oracle": "", "palette": "", "preprocessing": "", "tiles": "",
}  # fmt: skip
"""Name → the module that has it, and its name there if it is another; "": it is a module itself."""


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, there = _WHERE[name].partition(":")
    value = getattr(import_module(f"segtwin.{module}"), there or name) if module else import_module(f"segtwin.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
