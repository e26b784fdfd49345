"""The rows, the coordinate algebra and the preprocessing of the Caffe-era segmentation networks. numpy only: no framework is imported."""

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
