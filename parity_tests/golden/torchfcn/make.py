"""What torchfcn 1.9.7 (wkentaro/pytorch-fcn) computes with the weights of the Caffe goldens, and
what its checkpoints call them.

    pip install --no-deps --target PEER torchfcn==1.9.7
    PYTHONPATH=PEER python parity_tests/golden/torchfcn/make.py

Its models are run as published, in float32 on the CPU, narrowed to the widths of the tiny Caffe
goldens: `nn.Conv2d` of its modules makes layers of those widths, and nothing else changes. `fcn`,
which it imports for downloads, is not needed. Made with torch 2.15.0.
"""

import json
import sys
import types
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import recipe  # noqa: I001

sys.modules["fcn"] = types.ModuleType("fcn")
package = types.ModuleType("torchfcn")  # its __init__ imports trainers and data sets; the models alone are wanted
package.__path__ = [next(str(Path(p) / "torchfcn") for p in sys.path if (Path(p) / "torchfcn" / "models").is_dir() and p != str(Path(__file__).parents[1]))]
sys.modules["torchfcn"] = package
import torch
from torchfcn.models import fcn8s, fcn16s, fcn32s

FULL_TO_TINY = dict(zip((64, 128, 256), recipe.TINY_VGG, strict=False))
MODELS = {"fcn32s": fcn32s.FCN32s, "fcn16s": fcn16s.FCN16s, "fcn8s": fcn8s.FCN8s, "fcn8s-atonce": fcn8s.FCN8sAtOnce}
STRIDE = 3


def narrow(model: torch.nn.Module) -> None:
    """Tiny layers in place of the published ones."""
    channels = {f"conv{i}": width for i, width in enumerate(recipe.TINY_VGG[:5], 1)} | {"fc6": recipe.TINY_VGG[5], "fc7": recipe.TINY_VGG[6]}
    bottoms = {"score_fr": "fc7", "score_pool4": "conv4", "score_pool3": "conv3"}
    before = 3
    for name, layer in list(model.named_children()):
        if isinstance(layer, torch.nn.Conv2d):
            stage = name.split("_")[0]
            inputs, outputs = (channels[bottoms[name]], layer.out_channels) if name in bottoms else (before, channels[stage])
            before = before if name in bottoms else outputs
            setattr(model, name, torch.nn.Conv2d(inputs, outputs, layer.kernel_size, padding=layer.padding))


if __name__ == "__main__":
    data = recipe.caffe_input((1, 3, 67, 91), 1)
    for name, kind in MODELS.items():
        model = kind(n_class=21).eval()
        narrow(model)
        state = model.state_dict()
        for key, value in state.items():
            if not key.startswith("upscore"):
                value.copy_(torch.from_numpy(recipe.caffe(key.replace(".", "/"), tuple(value.shape), 1)))
        with torch.no_grad():
            score = model(torch.from_numpy(data)).numpy()
        shapes = {key: list(value.shape) for key, value in state.items()}
        np.savez_compressed(
            Path(__file__).parent / f"{name}_1x67x91.npz", score=score[:, :, ::STRIDE, ::STRIDE], shapes=json.dumps(shapes), stride=STRIDE
        )
        print(name, score.shape, float(np.abs(score).max()))
