"""FCN-8s and U-Net as people port them to torch: functional, with names of their own, written without a look at this
project's models, and breakable in the ways in which public ports are broken.

Nothing here shares a line with `segtwin.hypotheses` or with the twins.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import segtwin_weights
import torch
from torch.nn import functional

FCN = {
    "rgb": "input_order", "mean_missing": "mean_missing", "mean_twice": "mean_twice", "scaled_255": "input_scale",
    "transposed_image": "input_transposed", "pad_edge": "pad_edge", "pad_reflect": "pad_reflect",
    "pad_before_mean": "pad_mean", "pad_at_conv1_2": "pad_moved", "pad_1": "pad_missing", "floor": "floor_pooling",
    "average": "average_pooling", "no_relu_conv3_2": "relu_missing", "leaky": "leaky_relu", "fc6_hwc": "fc6_order",
    "fc6_flipped": "kernel_flipped", "all_flipped": "kernel_flipped", "all_transposed": "kernel_transposed",
    "crop5_late": "crop_offset", "crop9_early": "crop_offset", "crop31_early": "crop_offset", "centred": "crop_centre",
    "aligned": "align_corners", "nearest": "nearest", "odd": "bilinear_odd_centre",
    "off_diagonal": "deconv_off_diagonal", "skip_conv4_3": "skip_before_pool", "fuse_mean": "fuse_mean",
    "no_pool3": "skip_missing", "dropout": "dropout_on", "dropout_2d": "dropout_on", "dropout_scaled": "dropout_scale",
    "softmax": "softmax", "no_bias": "bias_missing", "swapped": "weights_swapped", "half": "half_precision",
    "log_softmax": "log_softmax", "biases_swapped": "bias_swapped", "half_weights": "half_precision_weights",
    "relu6": "relu6", "fc_leaky": "leaky_relu", "dropout_scaled_twice": "dropout_scale",
    "reflect_conv4_2": "pad_reflect", "pool_3x3": "pool_kernel", "crop5_row": "crop_offset",
    "skip_conv4_2": "skip_source", "output_transposed": "output_transposed", "other_conv4_2": "weights_other",
}  # fmt: skip
"""Bug → what `diagnose` has to call it."""
UNET = {
    "train": "batchnorm_train", "eps": "batchnorm_eps", "concat": "concat_order", "twice": "sigmoid_twice",
    "logits": "sigmoid_missing", "no_norm": "batchnorm_missing", "up_flipped": "kernel_flipped", "rgb": "input_order",
    "relu_first": "relu_before_batchnorm", "root": "batchnorm_deviation",
}  # fmt: skip
PAIRS = (
    ("rgb", "crop9_early"), ("floor", "no_relu_conv3_2"), ("fc6_hwc", "crop31_early"), ("mean_missing", "fc6_hwc"),
    ("pad_edge", "crop5_late"), ("rgb", "softmax"), ("fc6_flipped", "fuse_mean"), ("no_bias", "crop9_early"),
    ("leaky", "crop31_early"), ("swapped", "rgb"), ("mean_twice", "floor"), ("average", "crop9_early"),
    ("all_transposed", "crop5_late"), ("odd", "rgb"), ("off_diagonal", "floor"), ("no_pool3", "fc6_hwc"),
    ("scaled_255", "crop31_early"), ("dropout_scaled", "rgb"), ("skip_conv4_3", "fc6_hwc"), ("rgb", "mean_twice"),
)  # fmt: skip
MEAN = torch.tensor([104.00699, 116.66877, 122.67892]).view(1, 3, 1, 1)


NARROW = {"fcn8s": (8, 9, 10, 11, 12, 13, 14), "unet": (4, 5, 6, 7, 8)}


def weights_of(
    network: str, seed: int = 1, narrow: bool = True, widths: tuple[int, ...] | None = None
) -> dict[str, np.ndarray]:
    """Random weights of the scale that trained ones have, so that every layer matters."""
    widths = widths or (NARROW[network] if narrow else None)
    blobs = segtwin_weights.initialize(network, num_classes=5 if network == "fcn8s" else None, widths=widths, seed=seed)
    random = np.random.default_rng(seed)
    found = {}
    for name, blob in blobs.items():
        if blob.dtype.kind != "f" or "upscore" in name:
            found[name] = blob
        elif name.endswith("running_var"):
            found[name] = random.uniform(0.5, 2, blob.shape).astype(np.float32)
        elif blob.ndim == 4:
            spread = 0.1 if "score_fr" in name else 1.0  # the skips are to matter
            found[name] = (random.standard_normal(blob.shape) * spread * np.sqrt(2 / blob[0].size)).astype(np.float32)
        else:
            found[name] = (random.standard_normal(blob.shape) * 0.3 + name.endswith("weight")).astype(np.float32)
    return found


class Port(torch.nn.Module):
    """A port with bugs."""

    def __init__(self, weights: Mapping[str, np.ndarray], *bugs: str) -> None:
        super().__init__()
        self.bugs = set(bugs)
        for name, blob in weights.items():
            array = torch.from_numpy(np.array(blob, np.float32))
            if "all_flipped" in bugs and array.dim() == 4 and not name.startswith("upscore"):
                array = array.flip(2, 3)
            if "all_transposed" in bugs and array.dim() == 4 and not name.startswith("upscore"):
                array = array.transpose(2, 3).contiguous()
            self.register_buffer(self.key(name), array)
        if "half" in bugs:
            self.bfloat16()

    @staticmethod
    def key(name: str) -> str:
        return name.replace("/", "__").replace(".", "__")

    def blob(self, name: str) -> torch.Tensor:
        return self.get_buffer(self.key(name))


class FCN8s(Port):
    """FCN-8s."""

    def __init__(self, weights: Mapping[str, np.ndarray], *bugs: str) -> None:
        own = dict(weights)
        if "fc6_hwc" in bugs:
            own["fc6/weight"] = np.ascontiguousarray(own["fc6/weight"].transpose(0, 2, 3, 1)).reshape(
                own["fc6/weight"].shape
            )
        if "fc6_flipped" in bugs:
            own["fc6/weight"] = own["fc6/weight"][:, :, ::-1, ::-1]
        if "swapped" in bugs:
            own["conv3_2/weight"], own["conv3_3/weight"] = own["conv3_3/weight"], own["conv3_2/weight"]
            own["conv3_2/bias"], own["conv3_3/bias"] = own["conv3_3/bias"], own["conv3_2/bias"]
        if "biases_swapped" in bugs:
            own["conv4_1/bias"], own["conv4_2/bias"] = own["conv4_2/bias"], own["conv4_1/bias"]
        if "other_conv4_2" in bugs:
            own["conv4_2/weight"] = own["conv4_2/weight"][::-1] * 0.9
            own["conv4_2/bias"] = own["conv4_2/bias"] + 0.1
        if "half_weights" in bugs:
            own = {name: blob.astype(np.float16).astype(np.float32) for name, blob in own.items()}
        if "odd" in bugs:
            taps = np.maximum(0, 1 - np.abs(np.arange(16) - 8) / 8)
            own["upscore8/weight"] = own["upscore8/weight"].copy()
            for one in range(len(own["upscore8/weight"])):
                own["upscore8/weight"][one, one] = np.outer(taps, taps)
        if "off_diagonal" in bugs:
            own["upscore2/weight"] = np.zeros_like(own["upscore2/weight"]) + own["upscore2/weight"][0, 0]
        super().__init__(own, *bugs)

    def conv(self, x: torch.Tensor, name: str, pad: int = 1, relu: bool = True) -> torch.Tensor:
        bias = self.blob(f"{name}/bias")
        if name == "conv4_2" and "reflect_conv4_2" in self.bugs:
            x, pad = functional.pad(x, (1, 1, 1, 1), mode="reflect"), 0
        x = functional.conv2d(x, self.blob(f"{name}/weight"), bias * 0 if "no_bias" in self.bugs else bias, padding=pad)
        if not relu or (name == "conv3_2" and "no_relu_conv3_2" in self.bugs):
            return x
        if "relu6" in self.bugs:
            return functional.relu6(x)
        leaky = "leaky" in self.bugs or ("fc_leaky" in self.bugs and name in ("fc6", "fc7"))
        return functional.leaky_relu(x, 0.1) if leaky else functional.relu(x)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        if "average" in self.bugs:
            return functional.avg_pool2d(x, 2, 2, ceil_mode=True)
        if "pool_3x3" in self.bugs:
            return functional.max_pool2d(x, 3, 2, ceil_mode=True)
        return functional.max_pool2d(x, 2, 2, ceil_mode="floor" not in self.bugs)

    def prepared(self, x: torch.Tensor) -> torch.Tensor:
        if "rgb" in self.bugs:
            x = x.flip(1)
        if "mean_missing" in self.bugs:
            x = x + MEAN
        if "mean_twice" in self.bugs:
            x = x - MEAN
        if "scaled_255" in self.bugs:
            x = x / 255
        return x.transpose(2, 3) if {"transposed_image", "transposed_and_back"} & self.bugs else x

    def first(self, x: torch.Tensor) -> torch.Tensor:
        for mode in ("edge", "reflect"):
            if f"pad_{mode}" in self.bugs:
                wide = np.pad(x.numpy(), ((0, 0), (0, 0), (99, 99), (99, 99)), mode=mode)
                return self.conv(torch.from_numpy(wide), "conv1_1")
        if "pad_before_mean" in self.bugs:
            return self.conv(functional.pad(x + MEAN, (100,) * 4) - MEAN, "conv1_1", 0)
        return self.conv(x, "conv1_1", 1 if {"pad_1", "pad_at_conv1_2"} & self.bugs else 100)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = x
        x = self.first(self.prepared(x.bfloat16() if "half" in self.bugs else x))
        x = self.pool(self.conv(x, "conv1_2", 100 if "pad_at_conv1_2" in self.bugs else 1))
        for name in ("conv2_1", "conv2_2"):
            x = self.conv(x, name)
        x = self.pool(x)
        for name in ("conv3_1", "conv3_2", "conv3_3"):
            x = self.conv(x, name)
        x = pool3 = self.pool(x)
        for name in ("conv4_1", "conv4_2", "conv4_3"):
            x = self.conv(x, name)
            if "skip_conv4_2" not in self.bugs or name == "conv4_2":
                deep = x
        x = pool4 = self.pool(x)
        for name in ("conv5_1", "conv5_2", "conv5_3"):
            x = self.conv(x, name)
        x = self.conv(self.pool(x), "fc6", 0)
        if "dropout" in self.bugs:
            x = functional.dropout(x, 0.5, True)
        if "dropout_2d" in self.bugs:
            x = functional.dropout2d(x, 0.5, True)
        if {"dropout_scaled", "dropout_scaled_twice"} & self.bugs:
            x = x * 0.5
        x = self.conv(x, "fc7", 0)
        if "dropout_scaled_twice" in self.bugs:
            x = x * 0.5
        x = self.conv(x, "score_fr", 0, False)
        x = self.up(x, "upscore2", 2)
        source = deep if {"skip_conv4_3", "skip_conv4_2"} & self.bugs else pool4
        x = self.fused(x, self.conv(source, "score_pool4", 0, False), 5)
        x = self.up(x, "upscore_pool4", 2)
        if "no_pool3" not in self.bugs:
            x = self.fused(x, self.conv(pool3, "score_pool3", 0, False), 9)
        if "aligned" in self.bugs:
            x = functional.interpolate(x, scale_factor=8, mode="bilinear", align_corners=True)[:, :, 27:, 27:]
        elif "nearest" in self.bugs:
            x = functional.interpolate(x, scale_factor=8, mode="nearest")[:, :, 27:, 27:]
        else:
            start = 30 if "crop31_early" in self.bugs else 31
            x = self.up(x, "upscore8", 8)[:, :, start:, start:]
        rows, columns = image.shape[3:1:-1] if "transposed_and_back" in self.bugs else image.shape[2:]
        x = x[:, :, :rows, :columns].float()
        if {"transposed_and_back", "output_transposed"} & self.bugs:
            x = x.transpose(2, 3)
        if "log_softmax" in self.bugs:
            return x.log_softmax(1)
        return x.softmax(1) if "softmax" in self.bugs else x

    def up(self, x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        return functional.conv_transpose2d(x, self.blob(f"{name}/weight"), stride=stride)

    def fused(self, x: torch.Tensor, skip: torch.Tensor, offset: int) -> torch.Tensor:
        rows = columns = offset + {5: "crop5_late" in self.bugs, 9: -("crop9_early" in self.bugs)}[offset]
        if "centred" in self.bugs:
            rows, columns = (skip.shape[2] - x.shape[2]) // 2, (skip.shape[3] - x.shape[3]) // 2
        rows -= offset == 5 and "crop5_row" in self.bugs
        skip = skip[:, :, rows : rows + x.shape[2], columns : columns + x.shape[3]]
        return (x + skip) / 2 if "fuse_mean" in self.bugs and offset == 5 else x + skip


class UNet(Port):
    """The seed's U-Net."""

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        if "no_norm" in self.bugs:
            return x
        statistics = [self.blob(f"{name}.running_{kind}") for kind in ("mean", "var")]
        if "root" in self.bugs:
            statistics[1] = statistics[1].sqrt()
        if "negative_variance" in self.bugs and name == "conv4.conv.1":
            statistics[1] = -statistics[1]
        return functional.batch_norm(
            x, *statistics, self.blob(f"{name}.weight"), self.blob(f"{name}.bias"),
            training="train" in self.bugs, eps=1e-3 if "eps" in self.bugs else 1e-5,
        )  # fmt: skip

    def conv(self, x: torch.Tensor, name: str, pad: int = 1) -> torch.Tensor:
        return functional.conv2d(x, self.blob(f"{name}.weight"), self.blob(f"{name}.bias"), padding=pad)

    def double(self, x: torch.Tensor, name: str) -> torch.Tensor:
        for conv, norm in ((0, 1), (3, 4)):
            x = self.conv(x, f"{name}.conv.{conv}")
            if "relu_first" in self.bugs:
                x = self.norm(functional.relu(x), f"{name}.conv.{norm}")
            else:
                x = functional.relu(self.norm(x, f"{name}.conv.{norm}"))
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flip(1) if "rgb" in self.bugs else x
        skips = []
        for level in range(1, 5):
            skips.append(self.double(x, f"conv{level}"))
            x = functional.max_pool2d(skips[-1], 2)
        x = self.double(x, "conv5")
        for level in range(6, 10):
            weight = self.blob(f"up{level}.weight")
            weight = weight.flip(2, 3) if "up_flipped" in self.bugs else weight
            up = functional.conv_transpose2d(x, weight, self.blob(f"up{level}.bias"), stride=2)
            parts = [up, skips.pop()]
            x = self.double(torch.cat(parts[::-1] if "concat" in self.bugs else parts, 1), f"conv{level}")
        x = self.conv(x, "conv10", 0)
        if "logits" in self.bugs:
            return x
        return torch.sigmoid(torch.sigmoid(x)) if "twice" in self.bugs else torch.sigmoid(x)


def build(
    network: str, *bugs: str, seed: int = 1, narrow: bool = True
) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    """A port with these bugs, and the weights that it was written for."""
    weights = weights_of(network, seed, narrow)
    return {"fcn8s": FCN8s, "unet": UNet}[network](weights, *bugs).eval(), weights
