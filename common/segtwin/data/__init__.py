"""Data sets as people have them: found, checked, read, augmented and put in an order that a seed decides.

    layouts    folder → which images and which labels belong together, and to train, val or test
    labels     what the values of the label files mean
    doctor     what is wrong with a data set
    augment    flips, right angles, scale, crop, brightness, elastic deformation, the U-Net's weight map
    stream     batches, the same for a seed in either framework and with any number of workers

numpy, Pillow and scipy; no framework.
"""

from __future__ import annotations

from segtwin.data.augment import Augmentation, weight_map
from segtwin.data.labels import Coding, coding_of
from segtwin.data.layouts import DataSet, Sample, find
from segtwin.data.stream import Batch, Stream, caffe_order

__all__ = [
    "Augmentation",
    "Batch",
    "Coding",
    "DataSet",
    "Sample",
    "Stream",
    "caffe_order",
    "coding_of",
    "find",
    "weight_map",
]
