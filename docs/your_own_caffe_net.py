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
# # Porting a Caffe net of your own
#
# You have a `.prototxt` and a `.caffemodel`, and no Caffe. This page takes such a pair through the
# tools: read the blobs, run the net by OpenCV's importer as the reference, write the page in
# PyTorch, find what is wrong with it, and make it a network of this project, which then has a Keras
# twin to write, an oracle, exports and proofs. The pair is one that real Caffe wrote: a narrow VGG-16
# of 30 classes (`parity_tests/golden/caffe`), for which Caffe's own answers are on file, too.

# %%
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import segtwin_engines
import segtwin_weights
import torch
from segtwin import oracle
from segtwin.architectures.schema import Architecture, Layer
from segtwin_engines.ports import open_port
from torch import nn
from torch.nn.functional import conv2d, linear, max_pool2d, softmax

ROOT = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "docs/images").is_dir())
FOLDER = ROOT / "parity_tests/golden/caffe"
folder = tempfile.TemporaryDirectory()
prototxt, caffemodel = Path(folder.name) / "deploy.prototxt", Path(folder.name) / "vgg16.caffemodel"
shutil.copy(FOLDER / "tiny_vgg16_s1_deploy.prototxt", prototxt)
shutil.copy(FOLDER / "tiny_vgg16_s1_v2.caffemodel", caffemodel)

# %% [markdown]
# ## 1. What is in the file
#
# `read` takes the old V1 files and the newer V2; `raw=True` leaves the names as Caffe wrote them.
# (`segtwin inspect net.caffemodel` prints the same.)

# %%
weights = segtwin_weights.read(caffemodel, raw=True)
for name, blob in list(weights.items())[:4] + list(weights.items())[-4:]:
    print(f"{name:16} {'×'.join(map(str, blob.shape)):12} {blob.min():+.3f} … {blob.max():+.3f}")
text = prototxt.read_text()
kinds = sorted({line.split('"')[1] for line in text.splitlines() if "type:" in line})
print(text.count("layer {"), "layers:", ", ".join(kinds))

# %% [markdown]
# ## 2. The reference
#
# OpenCV (below 5) reads Caffe's files. It is someone else's reader and no Caffe; on this net it can
# be held against what Caffe itself computed.

# %%
golden = np.load(FOLDER / "tiny_vgg16_s1_out.npz")
data = np.random.RandomState(1).uniform(-120, 130, (1, 3, 224, 224)).astype(np.float32)
reference = open_port(prototxt)  # the .caffemodel lies beside it
(probability,) = reference.run(data)
print(f"OpenCV's output is {oracle.relative_error(probability, golden['prob']):.0e} from Caffe's")
assert oracle.relative_error(probability, golden["prob"]) < 4e-5  # a softmax of large scores

# %% [markdown]
# ## 3. A page in PyTorch
#
# Written from the prototxt, and wrong in one place: the author divides the image by 255 first,
# as torchvision's nets want it.


# %%
class Page(nn.Module):
    """VGG-16, with the blobs of the file."""

    def __init__(self, held: segtwin_weights.Weights, divisor: float) -> None:
        super().__init__()
        self.divisor = divisor
        for name, blob in held.items():
            self.register_buffer(name.replace("/", "_"), torch.from_numpy(blob))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Probabilities."""
        x = x / self.divisor
        for stage, count in enumerate((2, 2, 3, 3, 3), 1):
            for number in range(1, count + 1):
                name = f"conv{stage}_{number}"
                x = torch.relu(conv2d(x, getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"), padding=1))
            x = max_pool2d(x, 2, ceil_mode=True)  # Caffe rounds up
        x = x.flatten(1)  # C·H·W, as Caffe's blobs lie
        x = torch.relu(linear(x, self.fc6_weight, self.fc6_bias))
        x = torch.relu(linear(x, self.fc7_weight, self.fc7_bias))
        return softmax(linear(x, self.fc8_weight, self.fc8_bias), dim=1)


# %% [markdown]
# ## 4. What is wrong with it
#
# `diagnose` with a reference in the place of a network's name compares any two models: values are
# matched by what is in them, and the causes are sought that need no knowledge of the network.

# %%
found = segtwin_engines.diagnose(Page(weights, 255.0).eval(), reference=prototxt)
print(found.verdict, "-", found.explanation)
print("causes:", [cause.id for cause in found.causes])
found = segtwin_engines.diagnose(Page(weights, 1.0).eval(), reference=prototxt)
print(found.verdict, "-", found.explanation)
assert found.equal

# %% [markdown]
# ## 5. A network of this project
#
# A table of layers is all that the numpy oracle, the size formulas and the prototxt writer need:
# bottoms by name, windows as the prototxt has them. (The twins' pages are CONTRIBUTING.md, "Adding a
# network is three files"; here the table stays in this page.)

# %%
layers, bottom = [], "data"
for stage, count in enumerate((2, 2, 3, 3, 3), 1):
    for number in range(1, count + 1):
        name = f"conv{stage}_{number}"
        layers.append(Layer(name, "Convolution", (bottom,), f"c{stage}", kernel=3, pad=1, relu=True))
        bottom = name
    layers.append(Layer(f"pool{stage}", "Pooling", (bottom,), kernel=2, stride=2))
    bottom = f"pool{stage}"
layers += [
    Layer("fc6", "Convolution", ("pool5",), "c6", kernel=7, relu=True),
    Layer("fc7", "Convolution", ("fc6",), "c7", kernel=1, relu=True),
    Layer("fc8", "Convolution", ("fc7",), "classes", kernel=1),
]
mine = Architecture(
    name="my-vgg16",
    layers=tuple(layers),
    input="data",
    output="fc8",
    num_classes=30,
    colour="BGR",
    mean=(104.0, 117.0, 123.0),
    divisor=1.0,
    widths={"c1": 4, "c2": 6, "c3": 8, "c4": 10, "c5": 12, "c6": 14, "c7": 16},
    dropout=None,
    citation="Simonyan and Zisserman, arXiv:1409.1556",
    source="tiny_vgg16_s1_deploy.prototxt",
)
# inner products as convolutions, so that the net takes larger images, too
convolutional = {
    name: blob.reshape(len(blob), -1, *((7, 7) if name == "fc6/weight" else (1, 1))) if blob.ndim == 2 else blob
    for name, blob in weights.items()
}
blobs = oracle.run(mine, convolutional, data)
for name in ("pool5", "fc6", "fc7", "fc8"):
    want = golden[name].reshape(blobs[name].shape)
    print(f"{name:6} the oracle's float64 is {oracle.relative_error(want, blobs[name]):.0e} from Caffe's float32")
    assert oracle.relative_error(want, blobs[name]) < 5e-6
print("fc8 of an image of 500×375:", "×".join(map(str, mine.shapes(375, 500)["fc8"])))
