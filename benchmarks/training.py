"""Time a step of training beside the loops that people run: `python benchmarks/training.py --torchfcn
DIR --unet-zoo DIR [--runs 5]`.

DIR are checkouts of wkentaro/pytorch-fcn (b526ce5 … 4b98850: the loop is `torchfcn/trainer.py`) and of
Andy-zhujunwen/UNET-ZOO; their code is imported, not copied. Steps are taken in turn in one run, because
machines are noisy: the ratio is what counts. Each pair does the same work: the same network, image,
label, loss and optimizer. Then: what a batch costs to make, beside the step that it is for; and the
peak of memory by batch and size.
"""

from __future__ import annotations

import argparse
import datetime
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import segtwin_torch
import segtwin_weights
import torch
from rich.console import Console
from rich.table import Table
from segtwin import recipe
from segtwin.data.stream import Batch, Stream
from segtwin_torch.train import Learner

HEIGHT, WIDTH = 375, 500
ROOT = Path(__file__).parent.parent


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(runs: int, *works: Callable[[], object]) -> list[list[float]]:
    """Seconds of each, after one round that warms up."""
    rounds = [[seconds(work) for work in works] for _ in range(runs + 1)]
    return [list(one) for one in zip(*rounds[1:], strict=True)]


def batch_of(channels: int, classes: int, size: tuple[int, int], images: int = 1, less: int = 0) -> Batch:
    """Noise; the label has `less` rows and columns less."""
    random = np.random.RandomState(0)
    data = random.normal(0, 50, (images, channels, *size)).astype(np.float32)
    return Batch(
        data, random.randint(classes, size=(images, 1, size[0] - less, size[1] - less)).astype(np.uint8), None, ("0",)
    )


def started(network: str) -> segtwin_weights.Weights:
    """Weights that are not zero, so that every gradient is computed in earnest."""
    weights = segtwin_weights.initialize(network, seed=0)
    random = np.random.default_rng(0)
    return segtwin_weights.Weights(
        {
            name: blob
            if blob.ndim != 4 or "upscore" in name
            else (random.standard_normal(blob.shape, np.float32) * float(np.sqrt(2 / blob[0].size)))
            for name, blob in weights.items()
        },
        weights.metadata,
    )


def learner(network: str, weights: segtwin_weights.Weights | None = None, **fields: object) -> Learner:
    made = recipe.make(network, **fields)
    logits = made.architecture.sigmoid
    model = segtwin_torch.build(network, weights=weights, logits=logits, seed=0)
    return Learner(model, made)


def torchfcn(folder: Path, name: str, batch: Batch, weights: segtwin_weights.Weights) -> Callable[[], object]:
    """A step of torchfcn's own loop."""
    # what its modules import and the loop does not use
    for module in ("fcn", "skimage", "skimage.io"):
        sys.modules.setdefault(module, types.ModuleType(module))
    zones = types.ModuleType("pytz")
    zones.timezone = lambda name: datetime.UTC  # type: ignore[attr-defined]
    sys.modules.setdefault("pytz", zones)
    bars = types.ModuleType("tqdm")
    bars.tqdm = lambda steps, **kwargs: steps  # type: ignore[attr-defined]
    sys.modules.setdefault("tqdm", bars)
    package = types.ModuleType("torchfcn")
    package.__path__ = [str(folder / "torchfcn")]
    sys.modules["torchfcn"] = package
    from torchfcn import trainer, utils
    from torchfcn.models import fcn8s

    package.utils = utils  # type: ignore[attr-defined]
    model = {"fcn8s": fcn8s.FCN8s}[name](n_class=21)
    for key, parameter in model.named_parameters():
        layer, kind = key.rsplit(".", 1)
        parameter.data = (
            torch.from_numpy(weights[f"{layer}/{kind}"].copy()) if f"{layer}/{kind}" in weights else parameter
        )
    trained = [one for key, one in model.named_parameters() if "upscore" not in key]
    optimizer = torch.optim.SGD(trained, lr=1e-14, momentum=0.99, weight_decay=0.0005)

    class Loader(list):
        dataset = types.SimpleNamespace(class_names=[str(one) for one in range(21)])

    pair = torch.from_numpy(batch.data), torch.from_numpy(batch.label[:, 0].astype(np.int64))
    with tempfile.TemporaryDirectory() as out:
        loop = trainer.Trainer(False, model, optimizer, Loader([pair]), None, out, 10**9)
    loop.validate = lambda: None

    def step() -> None:
        Path(out).mkdir(exist_ok=True)
        loop.iteration = 0
        loop.train_epoch()

    return step


def unet_zoo(folder: Path, batch: Batch) -> Callable[[], object]:
    """A step of the loop of UNET-ZOO's main.py, with its class."""
    sys.path.insert(0, str(folder))
    from UNet import Unet

    torch.manual_seed(0)
    model = Unet(3, 1).train()
    optimizer = torch.optim.Adam(model.parameters())
    criterion = torch.nn.BCELoss()
    inputs, labels = torch.from_numpy(batch.data), torch.from_numpy(batch.label.astype(np.float32))

    def step() -> None:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def memory(network: str, size: tuple[int, int], images: int) -> float:
    """Peak of resident memory, GB, of two steps in a process of their own."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import training; "
        f"training.two_steps({network!r}, {size!r}, {images})"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def two_steps(network: str, size: tuple[int, int], images: int) -> None:
    made = learner(network, started(network) if network.startswith("fcn") else None)
    classes = max(2, made.num_classes)
    less = 184 if network == "unet-paper" else 0
    for number in range(2):
        made.step(number, [batch_of(made.in_channels, classes, size, images, less)], 1e-14)
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--torchfcn", type=Path, help="checkout of wkentaro/pytorch-fcn")
    parser.add_argument("--unet-zoo", type=Path, help="checkout of Andy-zhujunwen/UNET-ZOO")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help="mixed_bfloat16 is for GPUs")
    parser.add_argument("--no-memory", action="store_true")
    given = parser.parse_args()
    steps = Table("a step", "ours, s", "theirs, s", "theirs ÷ ours", "runs")

    def compare(what: str, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
        mine, yours = in_turn(given.runs, ours, theirs)
        ratios = [yours_one / mine_one for mine_one, yours_one in zip(mine, yours, strict=True)]
        steps.add_row(
            what, f"{statistics.median(mine):.2f}", f"{statistics.median(yours):.2f}",
            f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} … {max(ratios):.2f}",
        )  # fmt: skip

    if given.torchfcn:
        batch, weights = batch_of(3, 21, (HEIGHT, WIDTH)), started("fcn8s")
        for dtype in given.dtypes:
            made = learner("fcn8s", weights, dtype=dtype)
            compare(
                f"fcn8s, 1×3×{HEIGHT}×{WIDTH}, {dtype}; torchfcn's Trainer",
                lambda made=made: made.step(0, [batch], 1e-14),
                torchfcn(given.torchfcn, "fcn8s", batch, weights),
            )
    if given.unet_zoo:
        batch = batch_of(3, 2, (256, 256), 4)
        for dtype in given.dtypes:
            made = learner("unet", loss="bce", dtype=dtype)
            compare(
                f"unet, 4×3×256×256, {dtype}; UNET-ZOO's loop",
                lambda made=made: made.step(0, [batch], 1e-3),
                unet_zoo(given.unet_zoo, batch),
            )
    console = Console(width=110)
    console.print(steps)

    loading = Table("a batch of 4 crops 256×256 of unet-small", "s")
    found = segtwin_torch_data()
    making = statistics.median(seconds(lambda: found.batch_at(0)) for _ in range(given.runs))
    made = learner("unet-small", batch=4)
    batch = found.batch_at(0)
    training = statistics.median(seconds(lambda: made.step(0, [batch], 1e-3)) for _ in range(given.runs))
    loading.add_row("making it (flips, right angles, elastic deformation)", f"{making:.3f}")
    loading.add_row("the step that it is for", f"{training:.3f}")
    console.print(loading)
    if not given.no_memory:
        peaks = Table("peak of resident memory", "GB")
        for network, size, images in (
            ("fcn8s", (375, 500), 1), ("fcn32s", (375, 500), 1), ("unet", (256, 256), 1), ("unet", (256, 256), 4),
            ("unet", (512, 512), 4), ("unet-small", (512, 512), 4), ("unet-paper", (572, 572), 1),
        ):  # fmt: skip
            peaks.add_row(f"{network}, {images}×{size[0]}×{size[1]}", f"{memory(network, size, images):.2f}")
        console.print(peaks)


def segtwin_torch_data() -> Stream:
    from segtwin.data import coding_of, find
    from segtwin.data.augment import Augmentation
    from segtwin.data.labels import read_contents

    found = find(ROOT / "docs/nuclei", None)
    samples = found.parts["train"]
    coding = coding_of([one for files in read_contents(samples, 1) for one in files], 1, found.instances, None)
    augmentation = Augmentation(elastic=10.0, flip="both", right_angles=True, crop=(256, 256))
    architecture = segtwin_torch.build("unet-small").architecture
    return Stream(samples, coding, architecture, architecture.preprocessing, 1, 4, 0, augmentation)


if __name__ == "__main__":
    main()
