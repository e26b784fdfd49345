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
# # Finding what is wrong with a port
#
# Somebody has written FCN-8s again. It loads the weights, it runs, its masks look right, and its
# scores are not the original's. Here is such a port, with two mistakes in it that were each made in
# public more than once, and how `segtwin diagnose` finds them: where the port leaves the original,
# how, and why.

# %%
import os

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import matplotlib.pyplot as plt
import numpy as np
import segtwin_engines
import torch
from segtwin import oracle
from segtwin.architectures import get_architecture
from segtwin_weights import Weights, initialize
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, max_pool2d

# %% [markdown]
# ## The weights
#
# Narrow and random, to be quick; the original's widths take half a minute. A converted network has
# zeros in its skips, which would hide what a skip does wrong, so these have numbers everywhere.

# %%
architecture = get_architecture("fcn8s")
start = initialize("fcn8s", widths=(4, 6, 8, 10, 12, 14, 16), num_classes=5, seed=1)
random = np.random.default_rng(0)
weights = Weights(
    {
        name: blob
        if blob.any()
        else random.normal(0, np.sqrt(2 / blob[0].size) if blob.ndim > 1 else 0.3, blob.shape).astype(np.float32)
        for name, blob in start.items()
    },
    start.metadata,
)

# %% [markdown]
# ## The port
#
# A page of torch, its names its own. The first mistake: `max_pool2d` rounds down unless it is told
# otherwise, and Caffe rounds up. The second: the last map is cropped in the middle, as the U-Nets do
# it, not at 31.

# %%


class Port(nn.Module):
    """FCN-8s, almost."""

    ceil_mode = False

    def __init__(self, held: Weights) -> None:
        super().__init__()
        for name, blob in held.items():
            self.register_buffer(name.replace("/", "_"), torch.from_numpy(blob))

    def layer(self, x: torch.Tensor, name: str, pad: int) -> torch.Tensor:
        """A convolution and its ReLU."""
        return torch.relu(conv2d(x, getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"), padding=pad))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores."""
        size = x.shape[2:]
        taken = {}
        for stage, count in enumerate((2, 2, 3, 3, 3), 1):
            for number in range(1, count + 1):
                x = self.layer(x, f"conv{stage}_{number}", 100 if (stage, number) == (1, 1) else 1)
            x = taken[stage] = max_pool2d(x, 2, ceil_mode=self.ceil_mode)
        x = self.layer(self.layer(x, "fc6", 0), "fc7", 0)
        x = conv2d(x, self.score_fr_weight, self.score_fr_bias)
        for stage, name, offset in ((4, "upscore2", 5), (3, "upscore_pool4", 9)):
            x = conv_transpose2d(x, getattr(self, f"{name}_weight"), stride=2)
            skip = conv2d(
                taken[stage], getattr(self, f"score_pool{stage}_weight"), getattr(self, f"score_pool{stage}_bias")
            )
            x = x + skip[:, :, offset : offset + x.shape[2], offset : offset + x.shape[3]]
        x = conv_transpose2d(x, self.upscore8_weight, stride=8)
        top, left = self.last_crop(x, size)
        return x[:, :, top : top + size[0], left : left + size[1]]

    def last_crop(self, x: torch.Tensor, size: torch.Size) -> tuple[int, int]:
        """First row and column."""
        return (x.shape[2] - size[0]) // 2, (x.shape[3] - size[1]) // 2


port = Port(weights).eval()

# %% [markdown]
# ## Right, on some sizes
#
# On an image of 90×122 pixels nothing is wrong: 90 + 198 is 9 · 32, so that no pooling has anything
# to round, and the middle of the last map is at 31. Whoever tests a port on one size has even odds of
# testing it where it is right. One pixel more, and it is off.


# %%
def scores(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The original's and the port's."""
    data = np.random.default_rng(1).uniform(-120, 130, (1, 3, *size)).astype(np.float32)
    with torch.inference_mode():
        return oracle.run(architecture, weights, data)["score"], port(torch.from_numpy(data)).numpy()


for size in ((90, 122), (91, 123), (100, 100)):
    truth, theirs = scores(size)
    same = (theirs.argmax(1) == truth.argmax(1)).mean()
    apart = oracle.relative_error(theirs, truth)
    print(
        f"{size[0]}×{size[1]}: {same:.1%} of the pixels have the same class; scores are {apart:.1e} of the largest off"
    )

# %% [markdown]
# ## The diagnosis
#
# The port is run on probes of odd and even sizes. Layer by layer the numpy oracle computes what
# should come of the port's *own* values, and looks for it among the port's values; where it is not
# there, the known mistakes are tried at that layer. So the second mistake is not hidden by the first.

# %%
found = segtwin_engines.diagnose(port, "fcn8s", weights)
print(found.verdict, "- the first blob that differs:", found.first_difference)
print(found.explanation)
for cause in found.causes:
    print("-", cause.id)
assert {cause.id for cause in found.causes} == {"floor_pooling", "crop_centre"}

# %% [markdown]
# ## Where it shows
#
# What was found of each blob: the port's value, how far it is from the original's, and how far from
# what the original's layer makes of the port's own values before it. The second number tells the
# guilty layers from those that only inherit. Below, the scores of an image of 100×100 pixels.

# %%
for blob in found.blobs:
    if blob.name.startswith(("pool", "fc", "score", "upscore8")):
        errors = ["–" if e is None else "another size" if np.isinf(e) else f"{e:.1e}" for e in (blob.error, blob.local)]
        print(f"{blob.name:14} from the original's: {errors[0]:14} from its layer, given the port's input: {errors[1]}")
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
channel = int(truth[0].std(axis=(1, 2)).argmax())
for axis, (name, plane) in zip(
    axes,
    {
        "the original's score": truth[0, channel],
        "the port's": theirs[0, channel],
        "their distance": np.abs(theirs - truth)[0, channel],
    }.items(),
    strict=True,
):
    figure.colorbar(axis.imshow(plane), ax=axis, shrink=0.8)
    axis.set_title(name, fontsize=10)
    axis.set_axis_off()

# %% [markdown]
# ## Mended
#
# `ceil_mode=True`, and the last crop at 31: then nothing is found.


# %%
class Mended(Port):
    """With both lines changed."""

    ceil_mode = True

    def last_crop(self, x: torch.Tensor, size: torch.Size) -> tuple[int, int]:
        """First row and column."""
        return 31, 31


print(segtwin_engines.diagnose(Mended(weights).eval(), "fcn8s", weights).verdict)
