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
# # One photograph, two frameworks, four engines
#
# FCN-8s is written twice here: in PyTorch and in Keras. Both are meant to be *the* FCN-8s, the one
# that Caffe computed. This page takes one photograph through both, and through ONNX Runtime on the
# file exported from each, and looks at every blob on the way. In the end it does what ports usually
# get wrong, on purpose, to see what wrong looks like next to rounding.

# %%
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import matplotlib.pyplot as plt
import numpy as np
import segtwin
import segtwin_torch  # before TensorFlow
import segtwin_weights
from segtwin import geometry, noise, oracle
from segtwin.architectures import get_architecture
from segtwin.layer_kinds import CoordinateMap
from segtwin_engines.onnxruntime import onnx_blobs
from segtwin_engines.quiet import quiet_start
from segtwin_weights.sources import find_vgg16

with quiet_start():  # TensorFlow lists the GPU libraries that it lacks
    import segtwin_keras

ROOT = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "docs/images").is_dir())
architecture = get_architecture("fcn8s")

# %% [markdown]
# ## The weights
#
# `make convert-vgg` leaves them in `out/`. Without a network they are **synthetic**: random numbers
# in the schema and size of `vgg16.npy`. Nothing below asks whether the cat is found; it asks
# whether four engines compute the same numbers, and for that random weights are as good.

# %%
converted = ROOT / "out/fcn8s.safetensors"
weights = (
    segtwin_weights.read(converted)
    if converted.exists()
    else segtwin_weights.convert(segtwin_weights.read(find_vgg16(lambda line: None)), "fcn8s")
)
print(weights)
print("synthetic" if weights.metadata.get("synthetic") else "trained", "- from", weights.metadata["source"])

# %% [markdown]
# A converted network starts with `score_pool4` and `score_pool3` at zero, as Caffe starts them: its
# skips say nothing yet. So that they are compared too, they get small random weights here.

# %%
random = np.random.default_rng(8)
blobs = dict(weights)
for name in ("score_pool4", "score_pool3"):
    shape = blobs[f"{name}/weight"].shape
    blobs[f"{name}/weight"] = random.normal(0, 0.3 / np.sqrt(shape[1]), shape).astype(np.float32)
weights = segtwin_weights.Weights(blobs, weights.metadata)

# %% [markdown]
# ## The photograph, as the network sees it
#
# RGB becomes BGR, the mean of the training images is subtracted, and `conv1_1` pads by 100 pixels:
# more than half of what the first layers compute here is border. It is there so that even an image
# of one pixel reaches `fc6`, whose 7×7 window needs a `pool5` of 7×7.

# %%
image = segtwin.read_image(ROOT / "docs/images/chelsea.jpg")
data = segtwin.preprocess(image, architecture)
padded = np.pad(data[0], ((0, 0), (100, 100), (100, 100)))
print(
    "data",
    data.shape,
    data.dtype,
    "from",
    data.min(),
    "to",
    data.max(),
    "- photograph's share of the padded image:",
    f"{data[0].size / padded.size:.0%}",
)

figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
axes[0].imshow(image)
axes[0].set_title("the file (RGB)")
axes[1].imshow((padded.transpose(1, 2, 0) + 128).clip(0, 255).astype(np.uint8))
axes[1].set_title("what conv1_1 sees: BGR minus mean, 100 pixels of zeros around")
for axis in axes:
    axis.set_axis_off()

# %% [markdown]
# ## Four engines
#
# The twins are built from the same dictionary; each is exported, and ONNX Runtime computes the two
# files. The referee is none of them: a numpy run of the network in float64. How close can float32
# come at all? That is measured too, by the same numpy run in float32, which computes a convolution
# as Caffe does: im2col and one matrix product. Its distance from float64 is the **noise floor** of
# a blob.

# %%
dimensions = segtwin_weights.dimensions(weights, architecture)._asdict()
torch_model = segtwin_torch.build("fcn8s", **dimensions, weights=weights)
keras_model = segtwin_keras.build("fcn8s", **dimensions, weights=weights)
folder = tempfile.TemporaryDirectory()
torch_file, keras_file = Path(folder.name) / "torch.onnx", Path(folder.name) / "keras.onnx"
segtwin_torch.export_onnx(torch_model, torch_file)
segtwin_keras.export_onnx(keras_model, keras_file)

truth = oracle.run(architecture, weights, data)
floor = noise.floors(architecture, weights, data, truth)
default_bound = noise.default_bounds(architecture, weights)
engines = {
    "PyTorch": segtwin_torch.blobs(torch_model, data),
    "Keras": segtwin_keras.blobs(keras_model, data),
    "ONNX Runtime, torch export": onnx_blobs(torch_file, data, architecture.blobs),
    "ONNX Runtime, Keras export": onnx_blobs(keras_file, data, architecture.blobs),
}

# %% [markdown]
# ## What the blobs look like
#
# One channel of six blobs, from the torch twin above and the Keras twin below. The grid gets
# coarser by two at each pooling, and the border of 100 pixels is there until the crops take it
# away. `fc7` has as many pixels as 7×7 windows fit into `pool5`.

# %%
shown = ["conv1_1", "pool2", "pool4", "fc7", "fuse_pool4", "score"]
figure, axes = plt.subplots(2, len(shown), figsize=(14, 4.6), layout="constrained")
for column, name in enumerate(shown):
    channel = int(truth[name][0].std(axis=(1, 2)).argmax())
    for axis, engine in zip(axes[:, column], ("PyTorch", "Keras"), strict=True):
        axis.imshow(engines[engine][name][0, channel], cmap="viridis")
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0, column].set_title(f"{name}[{channel}]\n{truth[name].shape[2]}×{truth[name].shape[3]}", fontsize=10)
for axis, engine in zip(axes[:, 0], ("PyTorch", "Keras"), strict=True):
    axis.set_ylabel(engine)
if Path.cwd().name == "_built":
    figure.savefig("twins.png", dpi=80)

# %% [markdown]
# ## How the rounding grows
#
# Pictures that look alike prove little. The numbers: each blob's largest error, relative to its
# largest value, through the depth of the network. The black line is the floor: the worst of several
# float32 runs in numpy that add up in different orders. The dark band is what Caffe's way of
# computing is allowed, four times the floor. The dotted lines are both frameworks with their
# vendors' kernels, which may add up all products of an output in a single float32 number; in `fc6`
# these are 25,088. What that may cost follows from the length of the sums (`segtwin.noise`): the
# light band. Where the dotted lines lie in it depends on the CPU.

# %%
default_kernels = {
    "PyTorch, default kernels": segtwin_torch.blobs(torch_model, data, caffe=False),
    "Keras, default kernels": segtwin_keras.blobs(keras_model, data, caffe=False),
}
names = [name for name in architecture.blobs if name != "data"]
x = np.arange(len(names))
floors = np.array([floor[name] for name in names])
figure, axis = plt.subplots(figsize=(13, 4.5), layout="constrained")
bounds = np.array([default_bound[name] for name in names])
axis.fill_between(x, floors, bounds * floors, color="0.95", label="allowed for default kernels")
axis.fill_between(x, floors, noise.BOUND * floors, color="0.85", label="allowed: 4 × the floor")
axis.plot(x, floors, "k", lw=2, label="noise floor (numpy in float32, as Caffe computes)")
for engine, values in engines.items():
    axis.plot(x, [oracle.relative_error(values[name], truth[name]) for name in names], "o-", ms=3, lw=1, label=engine)
for colour, (engine, values) in zip(("0.2", "0.55"), default_kernels.items(), strict=True):
    axis.plot(x, [oracle.relative_error(values[name], truth[name]) for name in names], ":", color=colour, label=engine)
axis.set_yscale("log")
axis.set_xticks(x, names, rotation=70, ha="right", fontsize=8)
axis.set_ylabel("max|engine − float64| / max|float64|")
axis.legend(fontsize=8, ncols=2)
if Path.cwd().name == "_built":
    figure.savefig("rounding.png", dpi=80)
for engine, values in (engines | default_kernels).items():
    ratios = {name: oracle.relative_error(values[name], truth[name]) / floor[name] for name in names}
    bound = {name: noise.BOUND if engine in ("PyTorch", "Keras") else default_bound[name] for name in names}
    worst = max(names, key=lambda name: ratios[name] / bound[name])
    print(f"{engine:28} worst blob {worst:14} {ratios[worst]:.2f} of the noise floor, allowed {bound[worst]:.1f}")
    assert all(ratios[name] < bound[name] for name in names)

# %% [markdown]
# ## What wrong looks like
#
# Each of these is a real mistake of a public port, made here on purpose. The shapes agree in every
# case; nothing crashes; the picture may even look plausible. The right column is the error of
# `score` in noise floors: rounding is below 4.


# %%
def odd_kernel(kernel: int) -> np.ndarray:
    """Bilinear weights centred as for an odd kernel: f − 1, where an even one needs f − ½."""
    factor = (kernel + 1) // 2
    ramp = 1 - np.abs(np.arange(kernel) - (factor - 1)) / factor
    return np.outer(ramp, ramp).astype(np.float32)


fc6, score_channels = weights["fc6/weight"], np.arange(architecture.num_classes)
odd = {name: np.zeros_like(weights[name]) for name in weights if "upscore" in name}
for blob in odd.values():
    blob[score_channels, score_channels] = odd_kernel(blob.shape[-1])
mistakes = {
    "none": (weights, data),
    "fc6 read as H·W·C in place of C·H·W": (
        {**weights, "fc6/weight": fc6.reshape(len(fc6), 7, 7, -1).transpose(0, 3, 1, 2)},
        data,
    ),
    "RGB for BGR": (weights, data[:, ::-1]),
    "the mean's order turned around": (
        weights,
        data
        + np.array(architecture.mean, np.float32)[:, None, None]
        - np.array(architecture.mean[::-1], np.float32)[:, None, None],
    ),
    "bilinear kernels centred as if odd": ({**weights, **odd}, data),
    "the bias of fc6 forgotten": ({**weights, "fc6/bias": 0 * weights["fc6/bias"]}, data),
}
scores = {}
for mistake, (wrong_weights, wrong_data) in mistakes.items():
    segtwin_torch.load_weights(torch_model, segtwin_weights.Weights(wrong_weights))
    scores[mistake] = segtwin_torch.blobs(torch_model, np.ascontiguousarray(wrong_data))["score"]
    error = oracle.relative_error(scores[mistake], truth["score"]) / floor["score"]
    print(f"{mistake:42} {error:>14,.1f}")
    assert (error < 4) == (mistake == "none")
late = np.roll(truth["score"], (1, 1), (2, 3))
print(f"{'a crop that begins a pixel late':42} {oracle.relative_error(late, truth['score']) / floor['score']:>14,.1f}")

# %%
channel = int(truth["score"][0].std(axis=(1, 2)).argmax())
figure, axes = plt.subplots(1, len(scores), figsize=(15, 3), layout="constrained")
for axis, (mistake, score) in zip(axes, scores.items(), strict=True):
    axis.imshow(
        score[0, channel], vmin=truth["score"][0, channel].min(), vmax=truth["score"][0, channel].max(), cmap="viridis"
    )
    axis.set_title(mistake, fontsize=8)
    axis.set_axis_off()

# %% [markdown]
# ## Where 5, 9 and 31 come from
#
# The crops of FCN-8s begin at row and column 5, 9 and 31. In the models these numbers are typed,
# and tested against this derivation: each layer maps pixel centres by y ↦ scale · y + shift, and a
# crop has to undo the shift between two blobs of equal scale.

# %%
by_name = {layer.name: layer for layer in architecture.layers}
for crop, offset in architecture.offsets.items():
    blob, like = by_name[crop].bottoms
    here = geometry.maps_to_ancestors(by_name, blob, architecture.offsets)["data"]
    there = (
        geometry.maps_to_ancestors(by_name, like, architecture.offsets)["data"] if like != "data" else CoordinateMap()
    )
    print(
        f"{crop:13} {blob:12} is y ↦ {here.scale}·y + {here.shift},  {like:14} y ↦ {there.scale}·y + {there.shift} "
        f"  → offset {offset}"
    )

folder.cleanup()
