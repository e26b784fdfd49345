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
# # Training as Caffe's solver trains
#
# A port that computes the same scores can still train to something else: the loss is averaged where
# Caffe sums, 255 is a class, the learning rate stands outside of the momentum, biases are decayed.
# Here both twins repeat a run of real Caffe (BVLC/caffe at 9b89154, its `SGDSolver` on a narrow
# FCN-8s, two images a step) and are compared with what Caffe left behind: losses, gradients,
# parameters.

# %%
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import sys

import matplotlib.pyplot as plt
import numpy as np
import segtwin_torch  # before TensorFlow
import torch
from segtwin import losses, oracle
from segtwin.architectures import get_architecture
from segtwin.solver import Solver
from segtwin_engines.quiet import quiet_start

with quiet_start():  # TensorFlow lists the GPU libraries that it lacks
    import segtwin_keras

ROOT = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "docs/images").is_dir())
sys.path[:0] = [str(ROOT / "parity_tests"), str(ROOT / "parity_tests/golden")]
import recipe  # redraws the weights, images and labels of the run
from goldens import weights_of

# %% [markdown]
# ## The run
#
# `parity_tests/golden/caffe/train_*.npz` holds what Caffe computed; `make_caffe.py` beside it makes
# the files anew, given a pycaffe. Weights, images and labels are drawn again from their seeds.

# %%
golden = np.load(ROOT / "parity_tests/golden/caffe/train_tiny_fcn8s_s1_lr1e-10_iter2.npz")
weights = weights_of("fcn8s", (4, 6, 8, 10, 12, 14, 16), 1)
pairs = [
    (recipe.caffe_input((1, 3, 67, 91), 1 + 100 * k), recipe.caffe_labels(67, 91, (3 + 100 * k, 4 + 100 * k)))
    for k in range(2)
]
steps = [pairs] * len(golden["loss"])
print(f"{len(steps)} steps of {len(pairs)} images; Caffe's losses:", *(f"{loss:.6g}" for loss in golden["loss"]))

# %% [markdown]
# ## Both twins

# %%
twins = {"PyTorch": segtwin_torch, "Keras": segtwin_keras}
after = {}
for name, twin in twins.items():
    model = twin.build("fcn8s", widths=(4, 6, 8, 10, 12, 14, 16), weights=weights)
    given = [[(x if twin is segtwin_torch else x.transpose(0, 2, 3, 1), label) for x, label in one] for one in steps]
    reported = twin.solver_steps(model, given, base_lr=1e-10, momentum=0.99, weight_decay=0.0005)
    after[name] = twin.read_weights(model)
    apart = max(abs(a / b - 1) for a, b in zip(reported, golden["loss"], strict=True))
    print(f"{name:8} losses {apart:.0e} from Caffe's")
    assert apart < 1e-4  # Caffe adds up 12,000 pixels in float32

moved = {key.removeprefix("last/"): golden[key] for key in golden.files if key.startswith("last/")}
figure, axis = plt.subplots(figsize=(11, 3.6), layout="constrained")
for name, found in after.items():
    errors = [
        np.abs(found[key] - want).max() / max(np.abs(want - weights[key]).max(), 1e-30) for key, want in moved.items()
    ]
    axis.plot(list(moved), errors, "o-", ms=3, label=name)
    print(f"{name:8} parameters at most {max(errors):.0e} of their movement from Caffe's")
axis.set_yscale("log")
axis.tick_params(axis="x", rotation=90, labelsize=7)
axis.set_ylabel("distance from Caffe's / movement")
axis.legend()

# %% [markdown]
# ## What the loss is
#
# `SoftmaxWithLoss` with `normalize: false` sums over the pixels and divides by the images; 255 is no
# class; the *value* is clipped at the smallest float32 probability and the *gradient* is not. A mean
# over pixels is the same thing with a learning rate thousands of times smaller, which is why
# published rates of 1e-10 look absurd.

# %%
model = segtwin_torch.build("fcn8s", widths=(4, 6, 8, 10, 12, 14, 16), weights=weights)
score = segtwin_torch.blobs(model, pairs[0][0])["score"].astype(np.float64)
label = pairs[0][1]
for normalization in ("BATCH_SIZE", "VALID"):
    value, slope = losses.softmax_with_loss(score, label, normalization)
    print(f"{normalization:10} loss {value:12.6g}, largest gradient of a score {np.abs(slope).max():.3g}")
clipped, _ = losses.softmax_with_loss(score, label)
exact, _ = losses.softmax_with_loss(score, label, clip=False)
print(f"as Caffe reports it {clipped:.6g}, not clipped {exact:.6g}")
assert abs(clipped / golden["loss_micro"][0, 0] - 1) < 1e-4

# %% [markdown]
# ## Where the learning rate stands
#
# Caffe: history ← momentum · history + **lr** · gradient; w ← w − history. PyTorch's SGD keeps the
# rate outside: w ← w − **lr** · history. As long as the rate is constant both walk the same path.
# Where it falls by ten, torch's next step is ten times shorter at once, and Caffe's only loses what
# is added anew. One number, a gradient of 1, momentum 0.9, and a rate that falls at step 10:

# %%
solver = Solver(base_lr=1.0, lr_policy="step", gamma=0.1, stepsize=10, momentum=0.9)
caffe_path, torch_path = [0.0], [0.0]
history = 0.0
weight = torch.nn.Parameter(torch.zeros(()))
optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
for step in range(30):
    rate = solver.learning_rate(step)
    history = 0.9 * history + rate
    caffe_path.append(caffe_path[-1] - history)
    optimizer.param_groups[0]["lr"] = rate
    weight.grad = torch.ones(())
    optimizer.step()
    torch_path.append(weight.item())
figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
axis.plot(caffe_path, label="Caffe (segtwin_torch.CaffeSGD)")
axis.plot(torch_path, "--", label="torch.optim.SGD")
axis.axvline(10, color="0.7", lw=1)
axis.set_xlabel("step")
axis.legend()
print(f"after 30 steps: {caffe_path[-1]:.1f} and {torch_path[-1]:.1f}; alike up to step 10")
assert np.allclose(caffe_path[:11], torch_path[:11])

# %% [markdown]
# The multipliers of the prototxt are part of the network too: biases learn twice as fast and are not
# decayed, the bilinear deconvolutions do not learn at all.

# %%
for one in get_architecture("fcn8s").parameters():
    if one.name in ("conv1_1/weight", "conv1_1/bias", "upscore8/weight"):
        print(f"{one.name:16} lr_mult {one.lr_mult}, decay_mult {one.decay_mult}")
gradients = {}
for name, twin in twins.items():
    model = twin.build("fcn8s", widths=(4, 6, 8, 10, 12, 14, 16), weights=weights)
    image = pairs[0][0] if twin is segtwin_torch else pairs[0][0].transpose(0, 2, 3, 1)
    _, gradients[name] = twin.gradients(model, image, label)
assert "upscore8/weight" not in gradients["Keras"]
worst = max(oracle.relative_error(gradients["Keras"][key], one) for key, one in gradients["PyTorch"].items())
print(f"the twins' gradients differ by {worst:.0e} of their largest value at most")
