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
# # Large images through the paper's U-Net, tile by tile
#
# The U-Net of the paper (Ronneberger, Fischer and Brox, arXiv:1505.04597) has convolutions without
# padding: 572×572 pixels go in, 388×388 come out. That is its point: an image of any size can be
# computed in tiles whose results are what one pass over the whole image gives, up to its borders,
# where the image is mirrored. This page derives the numbers, tiles an image, looks for seams, and
# shows the two usual mistakes.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import segtwin
import segtwin_torch
import torch
from PIL import Image
from segtwin import geometry, oracle, tiles
from segtwin.architectures import get_architecture
from segtwin.explanation import explain

ROOT = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "docs/images").is_dir())
architecture = get_architecture("unet-paper")

# %% [markdown]
# ## 572, 388 and 184
#
# Eighteen 3×3 windows take two pixels each, at scales 1 to 16: 184 in all, 92 on each side,
# whatever the size. Sizes that fit are those that every pooling can halve: 16k + 60.

# %%
for size in (188, 204, 572, 1100):
    shape = architecture.shapes(size, size)
    print(f"{size} pixels in, {shape['conv_u0d-score'][1]} out; the deepest level has {shape['conv_d4b-c'][1]}")
print("the skips lose", geometry.crop_offsets(architecture.layers), "pixels on each side")
try:
    architecture.check_size(570, 572)
except ValueError as error:
    print(error)

# %% [markdown]
# ## Tiles
#
# `segtwin.overlap_tile` takes any engine. Each tile looks at 92 pixels more on every side than it
# writes; beyond the image it looks into a mirror. Only one tile is in memory.

# %%
network_of = segtwin_torch.build("unet-paper", widths=(8, 16, 32, 64, 128), seed=2)


def network(part: np.ndarray) -> np.ndarray:
    """Scores of a part of an image."""
    with torch.inference_mode():
        return network_of(torch.from_numpy(part)).numpy()


pixels = np.asarray(Image.open(ROOT / "docs/images/nuclei.png"))
image = segtwin.preprocess(pixels, architecture)[:, :, :260, :300]
print("image", image.shape, "in tiles of 252:", tiles.cuts(260, 252), "rows (first output pixel, input pixels)")
whole = segtwin.overlap_tile(network, image, tile=(460, 492))
tiled = segtwin.overlap_tile(network, image, tile=252)
floor = 4 * 2.0**-21
print(f"tiled and whole differ by {oracle.relative_error(tiled, whole):.1e} of the largest score")
assert oracle.relative_error(tiled, whole) < floor

# %% [markdown]
# ## Two mistakes
#
# Figure 2 of the paper sets tiles as far apart as their output is large. A network that pools four
# times is the same everywhere only up to shifts by 16 pixels; the output of a tile of 252 is 68,
# which is no multiple, so that each tile stands in another phase of the pooling grid. And a border of
# zeros in place of the mirror is seen 92 pixels deep.

# %%
height, width = image.shape[2:]


def laid(step: int, mode: str) -> np.ndarray:
    """Tiles of 252 pixels, `step` apart, over an image with a border of this kind."""
    around = np.pad(image, ((0, 0), (0, 0), (92, 252), (92, 252)), mode=mode)
    out = np.empty_like(whole)
    for top in range(0, height, step):
        for left in range(0, width, step):
            target = out[:, :, top : top + 68, left : left + 68]
            scores = network(np.ascontiguousarray(around[:, :, top : top + 252, left : left + 252]))
            target[...] = scores[:, :, : target.shape[2], : target.shape[3]]
    return out


versions = {
    "overlap_tile": tiled,
    "tiles 68 apart": laid(68, "reflect"),
    "a border of zeros": laid(64, "constant"),
}
figure, axes = plt.subplots(1, 4, figsize=(14, 3), layout="constrained")
axes[0].imshow(image[0, 0], cmap="gray")
axes[0].set_title("the image")
for axis, (name, scores) in zip(axes[1:], versions.items(), strict=True):
    difference = np.abs(scores - whole).max(axis=1)[0] / np.abs(whole).max()
    shown = axis.imshow(np.log10(np.maximum(difference, 1e-8)), vmin=-8, vmax=0, cmap="magma")
    axis.set_title(f"{name}: at most {difference.max():.0e}")
for axis in axes:
    axis.set_axis_off()
figure.colorbar(shown, ax=axes, label="log₁₀ of the difference\nfrom one pass", shrink=0.9)
assert oracle.relative_error(versions["tiles 68 apart"], whole) > 1000 * floor

# %% [markdown]
# ## What a pixel sees
#
# An output pixel sees more than the 185 pixels that lie under a window of 184 + 1: which ones depends
# on where it stands in the pooling grid. All of them are in its tile, since the tile stands on the
# grid. One changed pixel of the image reaches:

# %%
changed = image.copy()
changed[0, 0, 130, 150] += 1
reach = np.abs(segtwin.overlap_tile(network, changed, tile=(460, 492)) - whole).max(axis=1)[0] > 0
rows, columns = np.nonzero(reach)
(field, _) = explain("unet-paper", 572, 572)[-1].field
print(f"rows {rows.min()} to {rows.max()}, columns {columns.min()} to {columns.max()} of the output changed")
print(f"the largest window of an output pixel is {field} pixels")
assert max(130 - rows.min(), rows.max() - 130, 150 - columns.min(), columns.max() - 150) < field
