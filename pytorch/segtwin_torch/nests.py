"""The networks of bigmb's Nest of U-Nets in PyTorch.

bigmb/Unet-Segmentation-Pytorch-Nest-of-Unets@f63262d Models.py: `unet-64` is its class `U_Net`,
`r2unet-nests` `R2U_Net` (Alom et al., arXiv:1802.06955), `attention-unet` `AttU_Net` (Oktay et al.,
arXiv:1804.03999), `r2attention-unet` `R2AttU_Net`, `nested-unet` `NestedUNet` (Zhou et al., UNet++,
arXiv:1807.10165). Their parameters have the names of its state_dict; blobs have those of its modules.
Its twin is `segtwin_keras/nests.py`.

Departures from the originals: none in what is computed; their bugs are kept (see
`segtwin/architectures/nests.py`). The recurrent block gives the same for every t ≥ 1, so that it is
computed once in inference; in training it is called as often as there, because each call updates the
running statistics. Sizes that do not fit are treated as in `unet.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from segtwin_torch.network import Forget, Network, Notebook, register
from segtwin_torch.unet import DoubleConv, DoubleConv2dBN, answer, conv, fit

T = 2
"""Calls of a recurrent block beside the first: the original's default."""
FINEST_GATE = 32


class UpConv(nn.Module):
    """Every pixel four times, 3×3 convolution, BatchNorm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        larger = nn.Upsample(scale_factor=2)
        self.up = nn.Sequential(larger, conv(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """Twice the rows and columns."""
        return self.up(x)


class Recurrent(nn.Module):
    """y = f(x), then f(y + y): as written there, not as published."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(channels, channels), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        y = self.conv(x)
        for _ in range(T if self.training else 1):
            x = self.conv(y + y)
        return x


class RRCNN(nn.Module):
    """A 1×1 convolution, and beside its result two recurrent blocks, added."""

    recurrent: Callable[[int], nn.Module] = Recurrent
    entry = "Conv"

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        recurrent = type(self).recurrent
        self.RCNN = nn.Sequential(recurrent(outputs), recurrent(outputs))
        self.add_module(self.entry, conv(inputs, outputs, kernel=1, pad=0))


class Attention(nn.Module):
    """The skip times σ(BN(1×1(ReLU(W_g·gate + W_x·skip)))), one number a pixel."""

    def __init__(self, channels: int, inside: int) -> None:
        super().__init__()
        self.W_g = nn.Sequential(conv(channels, inside, kernel=1, pad=0), nn.BatchNorm2d(inside))
        self.W_x = nn.Sequential(conv(channels, inside, kernel=1, pad=0), nn.BatchNorm2d(inside))
        self.psi = nn.Sequential(conv(inside, 1, kernel=1, pad=0), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, gate: Tensor, skip: Tensor) -> Tensor:
        """`psi`, N×1×H×W."""
        return self.psi(relu(self.W_g(gate) + self.W_x(skip)))


class UShape(Network):
    """What the four networks in the form of a U have in common: stages `stage`1 … 5, steps up `Up`5 … 2 with stages
    `up`5 … 2, gates `Att`5 … 2 or none, and a 1×1 convolution `head`."""

    stage, up, head = "Conv", "Up_conv", "Conv"
    block: Callable[[int, int], nn.Module] = DoubleConv
    gated = False

    def __init__(
        self, num_classes: int, in_channels: int, widths: tuple[int, ...], logits: bool = False, pad: str | None = None
    ) -> None:
        super().__init__()
        self.logits, self.pad = logits, pad
        c1, c2, c3, c4, c5 = widths
        block = type(self).block
        for level, (inputs, outputs) in enumerate(zip((in_channels, c1, c2, c3, c4), widths, strict=True), start=1):
            self.add_module(f"{self.stage}{level}", block(inputs, outputs))
        for level, inputs, outputs, inside in (
            (5, c5, c4, c3),
            (4, c4, c3, c2),
            (3, c3, c2, c1),
            (2, c2, c1, FINEST_GATE),
        ):
            self.add_module(f"Up{level}", UpConv(inputs, outputs))
            if self.gated:
                self.add_module(f"Att{level}", Attention(outputs, inside))
            self.add_module(f"{self.up}{level}", block(2 * outputs, outputs))
        self.add_module(self.head, conv(c1, num_classes, kernel=1, pad=0))

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`logits` or `probability` of an image; with a notebook `n`, every blob in it."""
        n = Forget() if n is None else n
        n["image"] = image
        x = fit(image, self, self.pad)

        e1 = self.call(f"{self.stage}1", x, n)  # N×64×H×W
        x = n["Maxpool1"] = max_pool2d(e1, 2)
        e2 = self.call(f"{self.stage}2", x, n)  # N×128×H/2×W/2
        x = n["Maxpool2"] = max_pool2d(e2, 2)
        e3 = self.call(f"{self.stage}3", x, n)  # N×256×H/4×W/4
        x = n["Maxpool3"] = max_pool2d(e3, 2)
        e4 = self.call(f"{self.stage}4", x, n)  # N×512×H/8×W/8
        x = n["Maxpool4"] = max_pool2d(e4, 2)
        x = self.call(f"{self.stage}5", x, n)  # N×1024×H/16×W/16

        x = self.step(5, x, e4, n)
        x = self.step(4, x, e3, n)
        x = self.step(3, x, e2, n)
        x = self.step(2, x, e1, n)
        x = self.get_submodule(self.head)(x)
        return answer(x, image, n, self.logits or not self.architecture.sigmoid, self.pad)

    def step(self, level: int, x: Tensor, skip: Tensor, n: Notebook) -> Tensor:
        """One step up: upsampled, behind the skip, which passes a gate or not, and a stage."""
        x = self.call(f"Up{level}", x, n)
        if self.gated:
            psi = n[f"Att{level}.psi"] = self.get_submodule(f"Att{level}")(gate=x, skip=skip)
            skip = n[f"Att{level}"] = skip * psi
        return self.call(f"{self.up}{level}", torch.cat([skip, x], dim=1), n)

    def call(self, name: str, x: Tensor, n: Notebook) -> Tensor:
        """The blob that a module gives, and those inside it."""
        module = self.get_submodule(name)
        if isinstance(module, RRCNN):
            x = module.get_submodule(module.entry)(x)
            y = n[f"{name}.RCNN.0"] = module.RCNN[0](x)
            y = n[f"{name}.RCNN.1"] = module.RCNN[1](y)
            x = x + y
        else:
            x = module(x)
        n[name] = x
        return x


@register("unet-64")
class UNet64(UShape):
    """`U_Net`. Input `image` N×3×H×W, H and W multiples of 16; output `logits` N×classes×H×W."""


@register("r2unet-nests")
class R2UNetNests(UShape):
    """`R2U_Net`. Input `image` N×3×H×W, H and W multiples of 16; output `logits` N×classes×H×W."""

    stage, up = "RRCNN", "Up_RRCNN"
    block = RRCNN


@register("attention-unet")
class AttentionUNet(UShape):
    """`AttU_Net`. Input `image` N×3×H×W, H and W multiples of 16; output `logits` N×classes×H×W."""

    gated = True


@register("r2attention-unet")
class R2AttentionUNet(UShape):
    """`R2AttU_Net`. Input `image` N×3×H×W, H and W multiples of 16; output `logits` N×classes×H×W."""

    stage, up = "RRCNN", "Up_RRCNN"
    block = RRCNN
    gated = True


class Nested(Network):
    """U-Net++ up to its heads: x(i, j) of level i is made of x(i, 0) … x(i, j − 1) and x(i + 1, j − 1), upsampled."""

    block: Callable[[int, int], nn.Module] = DoubleConv2dBN

    def __init__(self, in_channels: int, widths: tuple[int, ...], logits: bool = False, pad: str | None = None) -> None:
        super().__init__()
        self.logits, self.pad = logits, pad
        block = type(self).block
        for level, (inputs, outputs) in enumerate(zip((in_channels, *widths[:4]), widths, strict=True)):
            self.add_module(f"conv{level}_0", block(inputs, outputs))
        for column in range(1, 5):
            for level in range(5 - column):
                outputs = widths[level]
                self.add_module(f"conv{level}_{column}", block(column * outputs + widths[level + 1], outputs))
        self.larger = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    def nest(self, x: Tensor, n: Notebook) -> list[Tensor]:
        """x(0, 1) … x(0, 4)."""
        rows: list[list[Tensor]] = [[], [], [], [], []]  # level → what there is of it
        for last in range(5):  # by antidiagonals: x(0,0); x(1,0), x(0,1); x(2,0), …
            for column in range(last + 1):
                level = last - column
                if column:
                    below = n[f"up{level}_{column}"] = self.larger(rows[level + 1][column - 1])
                    x = torch.cat([*rows[level], below], dim=1)
                elif level:
                    x = n[f"pool{level}"] = max_pool2d(rows[level - 1][0], 2)
                x = n[f"conv{level}_{column}"] = self.get_submodule(f"conv{level}_{column}")(x)
                rows[level].append(x)
        return rows[0][1:]


@register("nested-unet")
class NestedUNet(Nested):
    """`NestedUNet`. Input `image` N×3×H×W, H and W multiples of 16; output `logits` N×classes×H×W."""

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...], pad: str | None = None) -> None:
        super().__init__(in_channels, widths, pad=pad)
        self.final = conv(widths[0], num_classes, kernel=1, pad=0)

    def forward(self, image: Tensor, n: Notebook | None = None) -> Tensor:
        """`logits` of an image; with a notebook `n`, every blob in it."""
        n = Forget() if n is None else n
        n["image"] = image
        x = fit(image, self, self.pad)
        *_, x = self.nest(x, n)
        return answer(self.final(x), image, n, logits=True, pad=self.pad)
