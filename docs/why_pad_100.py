# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Why pad 100, and where 5, 9, 19, 27 and 31 come from
#
# The first convolution of the FCNs (Long, Shelhamer and Darrell, arXiv:1411.4038; the prototxt of
# [fcn.berkeleyvision.org](https://github.com/shelhamer/fcn.berkeleyvision.org/tree/1305c7378a9f0ab44b2c936f4d60e4687e3d8743))
# pads the image by 100 pixels, and their crops begin at 5, 9 and 31 (FCN-8s), 27 (FCN-16s) or 19
# (FCN-32s). Ports copy these numbers, drop the first and keep the others, or centre the crops. None
# of them is free: here they are computed.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import segtwin
from segtwin import geometry, oracle
from segtwin.architectures import get_architecture
from segtwin.explanation import coordinate_maps, crops, explain, formula, with_pad
from segtwin_weights import Weights, initialize

ROOT = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "docs/images").is_dir())
fcn8s = get_architecture("fcn8s")

# %% [markdown]
# ## What the padding is for
#
# Five poolings leave ⌈·/2⌉ five times, and `fc6`, once the first of VGG-16's inner products, is a
# 7×7 window without padding. So `pool5` needs 7 pixels. With the ordinary padding of 1 an image of
# fewer than 193 pixels leaves less; with 100 even one pixel is enough, since 1 + 198 pixels leave
# exactly 7.

# %%


def pool5(size: int, pad: int) -> int:
    """Pixels of pool5 for `size` pixels of image: conv1_1's 3×3 window with a padding, then five poolings that round
    up."""
    size += 2 * pad - 2
    for _ in range(5):
        size = -(-size // 2)
    return size


for pad in (1, 50, 99, 100):
    least = next(size for size in range(1, 500) if pool5(size, pad) >= 7)
    print(f"pad {pad:3}: the smallest image is {least:3} pixels; pool5 of a 500-pixel image is {pool5(500, pad)}")
assert pool5(1, 100) == 7
assert [fcn8s.shapes(size, size)["pool5"][1] for size in (1, 33, 500)] == [pool5(size, 100) for size in (1, 33, 500)]

# %% [markdown]
# ## A layer is a map between coordinates
#
# Pixel a·y + b of a layer's top lies over pixel y of its bottom: a window of kernel k, stride s and
# padding p has a = 1/s and b = (p − (k − 1)/2)/s; a transposed one the inverse of that. Maps of
# layers one behind the other are composed, and two blobs can be added where their maps to the image have
# the same scale: the difference of their shifts is the crop. Caffe's `coord_map.py` does it so, and
# so does `segtwin.geometry`.

# %%
shapes = fcn8s.shapes(500, 500)
maps = coordinate_maps(fcn8s, shapes, crops(fcn8s, shapes))
for name in ("conv1_1", "pool3", "pool4", "pool5", "fc7", "upscore2", "upscore_pool4", "upscore8", "score"):
    rows, _ = maps[name]
    print(f"pixel y of the image is pixel {formula(rows, 'y'):14} of {name}")

# %% [markdown]
# The padding of 100 is in the shifts, less what the windows take. After three upsamplings the
# image's pixel y is pixel y + 31 of `upscore8`, in every image of every size. That is the last crop.

# %%
for name in ("fcn32s", "fcn16s", "fcn8s"):
    print(name, geometry.crop_offsets(get_architecture(name).layers))
for one in explain("fcn8s", 500, 500):
    if one.offset:
        print(f"\n{one.name}: {one.derivation}")

# %% [markdown]
# ## What if
#
# Another padding moves the last crop, by as much, and leaves the others alone: both blobs of the
# inner crops come from the same padded image. A port with pad 1 and a crop of 31 is 99 pixels off,
# if it finds so many.

# %%
for pad in (90, 99, 100, 101, 132):
    print(f"pad {pad}: {geometry.crop_offsets(with_pad(fcn8s, pad).layers)}")
assert geometry.crop_offsets(with_pad(fcn8s, 99).layers)["score"] == 30

# %% [markdown]
# ## What a wrong crop looks like
#
# Random weights, one image, the numpy oracle: the right scores, those of centred crops, and those
# of a last crop that begins one pixel late. In a picture the last one is hard to see, and it costs
# each border of each object a pixel. Measured, it is a hundred thousand noise floors.

# %%
start = initialize("fcn8s", widths=(4, 6, 8, 10, 12, 14, 16), num_classes=3, seed=1)
random = np.random.default_rng(0)
weights = Weights(
    {
        name: blob if blob.any() else random.normal(0, 1 / np.sqrt(blob[0].size if blob.ndim > 1 else 9), blob.shape)
        for name, blob in start.items()
    },
    start.metadata,
)
image = segtwin.read_image(ROOT / "docs/images/chelsea.jpg")[100:228, 120:280]
data = segtwin.preprocess(image, fcn8s)
blobs = oracle.run(fcn8s, weights, data)
right, upscore8 = blobs["score"], blobs["upscore8"]
height, width = data.shape[2:]
rounding = oracle.relative_error(oracle.run(fcn8s, weights, data, "float32")["score"], right)
top, left = (upscore8.shape[2] - height) // 2, (upscore8.shape[3] - width) // 2
versions = {
    "offset 31": right,
    f"centred: offsets {top}, {left}": upscore8[:, :, top : top + height, left : left + width],
    "offset 32": upscore8[:, :, 32 : 32 + height, 32 : 32 + width],
}
figure, axes = plt.subplots(1, 4, figsize=(13, 2.9), layout="constrained")
axes[0].imshow(image)
axes[0].set_title("the image")
channel = int(right[0].std(axis=(1, 2)).argmax())
for axis, (name, score) in zip(axes[1:], versions.items(), strict=True):
    axis.imshow(score[0, channel], vmin=right[0, channel].min(), vmax=right[0, channel].max())
    axis.set_title(name, fontsize=10)
    print(
        f"{name:24} {oracle.relative_error(score, right) / rounding:12,.0f} roundings of float32 from the right score"
    )
for axis in axes:
    axis.set_axis_off()
