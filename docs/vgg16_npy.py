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
# # vgg16.npy, dissected
#
# Most FCNs begin with one file: `vgg16.npy`, Caffe's VGG-16 (Simonyan and Zisserman,
# arXiv:1409.1556) as [tensorflow-vgg](https://github.com/machrisaa/tensorflow-vgg) and
# [tensorflow-fcn](https://github.com/MarvinTeichmann/tensorflow-fcn) read it. This page opens it:
# what its arrays are, in which order they lie, why `fc6` is where conversions fail, and what happens
# to `fc8` when 1,000 classes become 21. Where there is no network the file is **synthetic**: random
# numbers in its schema and size. Nothing below depends on what the numbers are.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import segtwin_weights
from segtwin import oracle
from segtwin_weights import layouts, plausibility
from segtwin_weights.sources import find_vgg16

path = find_vgg16(lambda line: None)
weights = segtwin_weights.read(path)
print(f"{os.path.getsize(path) / 1e6:.0f} MB,", "synthetic" if weights.metadata.get("synthetic") else "trained")

# %% [markdown]
# ## What is in it
#
# A pickled dict: layer → [weights, biases]. (A pickle can run anything; this one is read without
# running it, see SECURITY.md. Below, `from_caffe` gives the arrays as they lie in the file.) The
# kernels lie as TensorFlow has them, kh×kw×I×O; Caffe, PyTorch and this project's hub have O×I×kh×kw.

# %%
file = {name: layouts.from_caffe(name, weights[f"{name}/weight"]) for name in ("conv1_1", "conv5_3", "fc6", "fc8")}
for name, array in file.items():
    print(f"{name:8} in the file {array.shape!s:18} in the hub {weights[f'{name}/weight'].shape}")
assert np.array_equal(file["conv1_1"].transpose(layouts.TO_OIHW), weights["conv1_1/weight"])

# %% [markdown]
# ## fc6: the order of its columns
#
# `fc6` is an inner product of 25,088 numbers: a `pool5` of 7×7 pixels and 512 channels, laid flat.
# TensorFlow flattens N×H×W×C to H·W·C; Caffe flattens N×C×H×W to C·H·W. The rows of the file's
# matrix are in TensorFlow's order. Turned into a 7×7 convolution by the wrong one, the shapes fit,
# nothing complains, and every window sees its pixels shuffled.

# %%
matrix, bias = file["fc6"], weights["fc6/bias"]
pool5 = np.maximum(np.random.default_rng(0).normal(0, 1, (1, 512, 7, 7)), 0).astype(np.float32)
want = pool5.transpose(0, 2, 3, 1).reshape(1, -1) @ matrix + bias  # as TensorFlow computes it
as_it_is = layouts.to_caffe("fc6", matrix)  # O×(C·H·W)
right = pool5.reshape(1, -1) @ as_it_is.T + bias
wrong = pool5.reshape(1, -1) @ matrix + bias  # the file's rows taken for C·H·W
print(f"read as H·W·C: {oracle.relative_error(right, want):.1e} from what TensorFlow computes")
print(f"read as C·H·W: {oracle.relative_error(wrong, want):.1e}")
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharex=True, sharey=True)
for axis, (name, found) in zip(axes, {"H·W·C": right, "C·H·W": wrong}.items(), strict=True):
    axis.plot(want[0], found[0], ".", ms=2)
    axis.set_title(f"fc6 of one window, rows read as {name}")
    axis.set_xlabel("TensorFlow's inner product")
axes[0].set_ylabel("as a convolution")

# %% [markdown]
# As a convolution the same matrix is O×512×7×7: that is all that "convolutionalising" VGG-16 means.

# %%
kernel = weights["fc6/weight"].reshape(4096, 512, 7, 7)
as_convolution = np.einsum("ochw,nchw->no", kernel, pool5, optimize=True) + bias
print(f"the 7×7 convolution at one pixel: {oracle.relative_error(as_convolution, want):.1e} from the inner product")
fcn = segtwin_weights.convert(weights, to="fcn8s", num_classes=21)
assert np.array_equal(fcn["fc6/weight"], kernel)

# %% [markdown]
# ## fc8: from 1,000 classes to 21
#
# Caffe's FCNs throw `fc8` away and start `score_fr` at zero. tensorflow-fcn's FCN8VGG keeps it in a
# way: with n classes, each new one is the mean of ⌊1000 / n⌋ old ones that lie side by side. With 21
# classes these are 47, and the last thirteen old ones are in none.

# %%
averaged = segtwin_weights.convert(weights, to="fcn8-vgg", num_classes=21)["score_fr/weight"]
fc8 = weights["fc8/weight"]  # 1000×4096
each = 1000 // 21
print("score_fr", averaged.shape, "from fc8", fc8.shape)
for new in (0, 1, 20):
    part = fc8[each * new : each * (new + 1)]
    apart = np.abs(averaged[new].reshape(-1) - part.mean(axis=0)).max() / np.abs(averaged).max()
    print(f"class {new:2}: the mean of old classes {each * new} to {each * new + len(part) - 1}, {apart:.0e} from it")

# %% [markdown]
# ## What the numbers tell
#
# `segtwin inspect vgg16.npy --check` looks at a file as this page did: whether the rows of `fc6` go
# with the channels or the pixels, and whether `conv1_1` expects blue first, can be told from trained
# weights, by how neighbouring rows resemble each other. From a synthetic file nothing can be told,
# and it says so.

# %%
for finding in plausibility.check(weights):
    print(f"{finding.what:8} {finding.says} ({finding.evidence})")
