"""The rows, the coordinate algebra and the preprocessing of the Caffe-era segmentation networks. numpy only: no framework is imported."""

from segtwin import palette, tiles
from segtwin.architectures import ROWS, Layer, Parameter, Row, get
from segtwin.preprocessing import Converted, ImageError, preprocess, preprocess_label, read_image
from segtwin.tiles import overlap_tile

__version__ = "0.1.0"

__all__ = [
    "ROWS",
    "Converted",
    "ImageError",
    "Layer",
    "Parameter",
    "Row",
    "__version__",
    "get",
    "overlap_tile",
    "palette",
    "preprocess",
    "preprocess_label",
    "read_image",
    "tiles",
]
