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
# # A U-Net trained in one framework and used in the other
#
# The weights of a U-Net with BatchNorm are more than its kernels: statistics gathered while it
# trained belong to them. This page trains `unet-small` in PyTorch on half a picture, hands it to
# Keras, and looks at the other half with both. Then it shows two places where ports of U-Nets go
# wrong without any error: the variance that BatchNorm keeps, and the pixel by which a transposed
# convolution is off. (A third, the seams between tiles, has a page of its own.)

# %%
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import matplotlib.pyplot as plt
import numpy as np
import segtwin
import segtwin_torch  # before TensorFlow
import torch
from PIL import Image
from segtwin import oracle
from segtwin.architectures import get_architecture
from segtwin_engines.quiet import quiet_start

with quiet_start():  # TensorFlow lists the GPU libraries that it lacks
    import keras
    import segtwin_keras
    from segtwin_keras.unet import BatchNorm

ROOT = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "docs/images").is_dir())

# %% [markdown]
# ## The picture
#
# Nuclei under a microscope, and which pixels belong to one. The left half is for training, the
# right half for looking.

# %%
architecture = get_architecture("unet-small")
pixels = np.asarray(Image.open(ROOT / "docs/images/nuclei.png"))
data = segtwin.preprocess(pixels, architecture)  # 1×1×512×512, 0..1
nucleus = (np.asarray(Image.open(ROOT / "docs/images/nuclei_instances.png")) > 0)[np.newaxis, np.newaxis].astype(
    np.float32
)
half = data.shape[3] // 2

# %% [markdown]
# ## Training, in PyTorch
#
# A plain loop: crops of the left half, turned at random, and Adam. The network is a
# `torch.nn.Module` like any other.

# %%
random = np.random.default_rng(0)
torch.manual_seed(0)
torch_model = segtwin_torch.build("unet-small", logits=True, seed=1).train()
optimizer = torch.optim.Adam(torch_model.parameters(), lr=3e-3)
losses = []
for _ in range(150):
    crops = []
    for _ in range(4):
        top, left = random.integers(0, data.shape[2] - 96), random.integers(0, half - 96)
        crop = np.concatenate([one[0, :, top : top + 96, left : left + 96] for one in (data, nucleus)])
        crops.append(np.rot90(crop, random.integers(4), axes=(1, 2)))
    image, target = torch.from_numpy(np.stack(crops)).split(1, dim=1)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(torch_model(image), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"loss {losses[0]:.3f} at first, {np.mean(losses[-10:]):.3f} over the last ten steps")

# %% [markdown]
# ## Handing it over
#
# `read_weights` gives what the state_dict holds, under its own keys: kernels, statistics, counters.
# The Keras twin takes the same keys. Both look at the half that was not trained on, and so does
# numpy, in float64 and in float32: the second one's distance is what float32 costs, the noise
# floor.

# %%
weights = segtwin_torch.read_weights(torch_model)
keras_model = segtwin_keras.build("unet-small", logits=True, weights=weights)
right = np.ascontiguousarray(data[..., half:])
logits = {
    "PyTorch": segtwin_torch.blobs(torch_model.eval(), right)["logits"],
    "Keras": segtwin_keras.blobs(keras_model, right)["logits"],
}
truth = oracle.run(architecture, weights, right)["logits"]
floor = oracle.relative_error(oracle.run(architecture, weights, right, "float32")["logits"], truth)
for framework, found in logits.items():
    error = oracle.relative_error(found, truth)
    wanted = nucleus[..., half:] > 0
    overlap = ((found > 0) & wanted).sum() / ((found > 0) | wanted).sum()
    print(
        f"{framework:8} intersection over union {overlap:.4f}; logits {error:.1e} from float64, "
        f"{error / floor:.2f} of the noise floor"
    )
    assert error < 4 * floor
    assert overlap > 0.7

figure, axes = plt.subplots(1, 4, figsize=(13, 7), layout="constrained")
axes[0].imshow(right[0, 0], cmap="gray")
axes[0].set_title("the half not trained on")
for axis, (framework, found) in zip(axes[1:3], logits.items(), strict=True):
    axis.imshow(found[0, 0] > 0, cmap="gray")
    axis.set_title(framework)
apart = np.abs(logits["PyTorch"] - logits["Keras"])[0, 0]
shown = axes[3].imshow(apart, cmap="magma")
axes[3].set_title(f"|difference of the logits|,\nwhich reach {np.abs(truth).max():.0f}")
figure.colorbar(shown, ax=axes[3], shrink=0.5)
for axis in axes:
    axis.set_axis_off()
if Path.cwd().name == "_built":
    figure.savefig("unets.png", dpi=70)

# %% [markdown]
# ## The variance that is kept
#
# In train mode both frameworks normalise by the mean and the variance of the batch, and keep
# running ones for later. torch keeps the *unbiased* variance, n/(n − 1) times that of the batch;
# Keras keeps the batch's own. At the deepest level n is small: here one image of 2×2 pixels, where
# a quarter is missing. Keras' layer also moves by a hundredth a batch in place of a tenth and adds
# 1e-3 in place of 1e-5, but that can be set; the bias cannot. The twin's layer keeps what torch
# keeps.

# %%
layers = {
    "torch.nn.BatchNorm2d": torch.nn.BatchNorm2d(1),
    "the twin's BatchNorm": BatchNorm(),
    "Keras, momentum and epsilon as in torch": keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
    "Keras as it comes": keras.layers.BatchNormalization(),
}
variances: dict[str, list[float]] = {name: [] for name in layers}
for _ in range(60):
    batch = random.normal(0, 2, (1, 1, 2, 2)).astype(np.float32)
    for name, layer in layers.items():
        if isinstance(layer, torch.nn.Module):
            layer(torch.from_numpy(batch))
            variances[name].append(float(layer.running_var))
        else:
            layer(batch.transpose(0, 2, 3, 1), training=True)
            variances[name].append(float(layer.moving_variance[0]))
figure, axis = plt.subplots(figsize=(9, 3.5), layout="constrained")
for (name, values), style in zip(variances.items(), ("k", "C1--", "C0", "C3"), strict=True):
    axis.plot(values, style, lw=3 if style == "k" else 1.5, label=name)
axis.axhline(4, color="0.7", lw=1, zorder=0)
axis.set_xlabel("batches of 2×2 pixels")
axis.set_ylabel("running variance")
axis.legend(fontsize=8)
reference = np.array(variances["torch.nn.BatchNorm2d"])
for name, values in variances.items():
    print(f"{name:40} {np.abs(np.array(values) / reference - 1).max():8.1%} from torch's at most")
np.testing.assert_allclose(variances["the twin's BatchNorm"], reference, rtol=1e-6)

# %% [markdown]
# ## A pixel beside
#
# resnet34-unet doubles its size by transposed convolutions of kernel 3, stride 2, padding 1 and
# output padding 1. TensorFlow's `padding="same"` gives the same size, and cuts the other end:
# everything sits one pixel further to the bottom right. One lit pixel shows it.

# %%
spot = np.zeros((1, 1, 4, 4), np.float32)
spot[0, 0, 1, 1] = 1
kernel = np.arange(1, 10, dtype=np.float32).reshape(3, 3)
theirs = torch.nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1, output_padding=1, bias=False)
theirs.weight.data = torch.from_numpy(kernel[np.newaxis, np.newaxis])
same = keras.layers.Conv2DTranspose(
    1, 3, 2, padding="same", use_bias=False, kernel_initializer=lambda *_, **__: kernel[..., None, None]
)
maps = {
    "torch: 3, stride 2, padding 1, output padding 1": theirs(torch.from_numpy(spot)).detach().numpy()[0, 0],
    'TensorFlow: 3, stride 2, "same"': same(spot.transpose(0, 2, 3, 1)).numpy()[0, ..., 0],
}
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
for axis, (name, found) in zip(axes, maps.items(), strict=True):
    axis.imshow(found, cmap="viridis")
    axis.set_title(name, fontsize=9)
    print(name, "- first lit row and column:", *(int(index.min()) for index in np.nonzero(found)))
