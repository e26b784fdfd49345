"""The reference outputs in golden/, with the weights and inputs that made them redrawn from their
recipe and checked by sha256."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import segtwin
from segtwin import noise, oracle
from segtwin.architectures import get_architecture
from segtwin.noise import LEAST_FLOOR
from segtwin_weights import Weights, convert, initialize
from segtwin_weights.layouts import to_caffe

FOLDER = Path(__file__).parent / "golden"
sys.path.insert(0, str(FOLDER))
import recipe  # noqa: E402

TF1_NOISE, TORCH_NOISE = 3.5e-6, 5e-6
"""The originals' float32 against float64, at most (golden/README.md says 3e-6 and 5e-6; `score_fr`
at full width is 3.03e-6)."""
FULL_WIDTH = 10_000_000
"""Numbers of weights."""
TINY = recipe.TINY_VGG
FULL = recipe.FULL_VGG


def recipe_weights(
    architecture: segtwin.Architecture | str, widths: tuple[int, ...], seed: int = 1, num_classes: int | None = None
) -> Weights:
    """The weights behind the Caffe goldens: learned layers from the recipe, fixed layers as the
    network starts them."""
    architecture = get_architecture(architecture)
    start = initialize(architecture, num_classes=num_classes, widths=widths)
    drawn = {
        p.name: recipe.caffe(p.name, p.shape, seed) for p in architecture.parameters(num_classes, widths) if p.lr_mult
    }
    return Weights({name: drawn.get(name, blob) for name, blob in start.items()}, start.metadata)


def sha256(arrays) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()


class Golden:
    """One run of an original: its float32 blobs, or the parts of them that the file stores, and
    what they were computed from."""

    path: Path
    architecture: segtwin.Architecture
    most_noise: float
    """float32 against float64 in the original, at most, over all blobs (golden/README.md, "Measured
    noise")."""

    def __str__(self) -> str:
        return self.path.stem.removeprefix("fwd_")

    @property
    def data(self) -> np.ndarray:
        """The input, N×C×H×W."""
        raise NotImplementedError

    @property
    def weights(self) -> Weights:
        """Under the hub's names."""
        raise NotImplementedError

    @property
    def blobs(self) -> dict[str, np.ndarray]:
        """What is stored, N×C×H×W."""
        raise NotImplementedError

    def stored(self, name: str, blobs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Out of an engine's whole blobs, what the file stores under `name`."""
        raise NotImplementedError

    def source(self, name: str) -> str:
        """The blob of which `name` is stored."""
        return name

    def parts(self, blob_name: str, blob: np.ndarray) -> dict[str, np.ndarray]:
        """What the file stores of a blob."""
        return {name: self.stored(name, {blob_name: blob}) for name in self.blobs if self.source(name) == blob_name}

    @cached_property
    def truth(self) -> dict[str, np.ndarray]:
        """Every stored blob in float64, by the numpy oracle."""
        found: dict[str, np.ndarray] = {}
        for name, blob in oracle.blobs(self.architecture, self.weights, self.data):
            found |= self.parts(name, blob)
        return {name: found[name] for name in self.blobs}

    @cached_property
    def floors(self) -> dict[str, float]:
        """Blob → what float32 costs there, however it is added up: in the original, and in numpy
        runs of other orders of summation (`noise.rounding`). No engine under test has a part in it.

        Networks of full width, whose maxima are over many numbers, get one such run.
        """
        original = {name: oracle.relative_error(self.truth[name], want) for name, want in self.blobs.items()}
        far = max(original.values())
        assert far < self.most_noise, (
            f"{self}: the oracle is {far} away from the original; the floors would excuse anything"
        )
        narrow = sum(blob.size for blob in self.weights.values()) < FULL_WIDTH
        orders = noise.ORDERS if narrow else noise.ORDERS[:1]
        ours = noise.rounding(self.architecture, self.weights, self.data, self.truth, orders, self.parts)
        return {name: max(error, ours[name], LEAST_FLOOR) for name, error in original.items()}

    def errors(self, blobs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Blob → distance of an engine's blob from the original's, in noise floors."""
        return {
            name: oracle.relative_error(self.stored(name, blobs), want) / self.floors[name]
            for name, want in self.blobs.items()
        }


# --------------------------------------------------------------------------------------- real Caffe

CAFFE_NETS = {"unet": "unet-paper"}
"""Name in the files of Caffe → architecture."""


class CaffeGolden(Golden):
    """One file fwd_*.npz of real Caffe."""

    most_noise = 2e-6

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = np.load(path)
        self.meta = json.loads(str(self.file["meta"]))
        self.strides = json.loads(str(self.file["strides"]))
        self.shapes = {name: tuple(shape) for name, shape in json.loads(str(self.file["shape_table"])).items()}
        self.offsets = {name: crop["offset"][0] for name, crop in json.loads(str(self.file["crop_offsets"])).items()}
        self.parameters = json.loads(str(self.file["param_table"]))
        self.stats = json.loads(str(self.file["blob_stats"]))
        self.architecture = get_architecture(CAFFE_NETS.get(self.meta["net"], self.meta["net"]))
        widths = self.meta["widths"]
        self.widths = tuple(widths) if isinstance(widths, list) else (*widths["conv"], widths["fc6"], widths["fc7"])

    @cached_property
    def data(self) -> np.ndarray:
        bounds = (0.0, 1.0) if self.meta["net"] == "unet" else (-120.0, 130.0)
        data = recipe.caffe_input(self.shapes["data"], self.meta["seed"], *bounds)
        assert sha256([data]) == str(self.file["input_sha256"])
        return data

    @cached_property
    def weights(self) -> Weights:
        weights = weights_of(self.architecture.name, self.widths, self.meta["seed"])
        assert sha256(weights[name] for name, _, kind in self.parameters if kind == "recipe") == str(
            self.file["weights_sha256"]
        )
        return weights

    @cached_property
    def blobs(self) -> dict[str, np.ndarray]:
        """Blob name → Caffe's values, every `strides[name]`-th row and column."""
        return {name: self.file[name] for name in self.strides}

    def stored(self, name: str, blobs: Mapping[str, np.ndarray]) -> np.ndarray:
        return blobs[name][:, :, :: self.strides[name], :: self.strides[name]]


@cache
def weights_of(architecture: str, widths: tuple[int, ...], seed: int) -> Weights:
    return recipe_weights(architecture, widths, seed)


@cache
def caffe_goldens(architecture: str, width: str = "tiny") -> list[CaffeGolden]:
    paths = sorted((FOLDER / "caffe").glob(f"fwd_{width}_{architecture}_s*.npz"))
    assert paths, f"no golden of {architecture}"
    return [CaffeGolden(path) for path in paths]


@cache
def unet_paper_goldens() -> list[CaffeGolden]:
    paths = sorted((FOLDER / "caffe").glob("unet_tiny_*.npz"))
    assert paths
    return [CaffeGolden(path) for path in paths]


# ---------------------------------------------------------------------------- the U-Nets from torch

SEED_NETS = {"Unet": "unet", "UnetSmall": "unet-small", "resnet34_unet": "resnet34-unet"}
"""First word of the model's name in the files of the originals → architecture."""
STATE_DICTS = json.loads((FOLDER / "seed" / "torch_state_dict_keys.json").read_text())


@cache
def seed_weights(table: str, seed: int) -> Weights:
    """The state_dict behind the goldens of the original torch code, its names and shapes as the
    original has them."""
    return Weights(recipe.torch_state(STATE_DICTS[table], seed))


class UNetGolden(Golden):
    """One file of the U-Nets from torch: the output `out` and the logits before its sigmoid."""

    most_noise = TORCH_NOISE

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = np.load(path)
        self.meta = json.loads(str(self.file["meta"]))
        model = self.meta["model"].split()[0]
        self.architecture = get_architecture(SEED_NETS[model])
        channels = {
            "Unet": f"_{self.meta.get('in_ch')}_{self.meta.get('out_ch')}",
            "resnet34_unet": f"_n{self.meta.get('num_classes')}",
        }
        self.table = model + channels.get(model, "")

    @cached_property
    def data(self) -> np.ndarray:
        data = recipe.seed_input(self.meta["input_shape"], self.meta["seed"], *self.meta["input_range"])
        assert sha256([data]) == self.meta["input_sha256"]
        return data

    @cached_property
    def weights(self) -> Weights:
        weights = seed_weights(self.table, self.meta["seed"])
        assert (
            sha256(blob for name, blob in weights.items() if not name.endswith("num_batches_tracked"))
            == self.meta["weights_sha256"]
        )
        return weights

    @cached_property
    def blobs(self) -> dict[str, np.ndarray]:
        """What is compared; the probability only where the sigmoid is not saturated, since steps
        from 0 to 1 would be all that it shows."""
        saturated = float(self.file["logits_absmax"]) > 30
        return (
            {"logits": self.file["logits"]}
            if saturated
            else {"logits": self.file["logits"], "probability": self.file["out"]}
        )

    def stored(self, name: str, blobs: Mapping[str, np.ndarray]) -> np.ndarray:
        blob = blobs[name]
        return blob[::3, :, ::4, ::4] if self.meta.get("stored", "all") != "all" else blob


@cache
def unet_goldens(pattern: str) -> list[UNetGolden]:
    paths = [path for path in sorted((FOLDER / "seed").glob(pattern)) if "train" not in path.stem]
    assert paths, f"no golden {pattern}"
    return [UNetGolden(path) for path in paths]


# ------------------------------------------------------- FCN8VGG and VGGFCN: TensorFlow 1 and torch

WIDTHS = MappingProxyType({"tiny": recipe.TINY_VGG, "full": recipe.FULL_VGG})


class SeedFCNGolden(Golden):
    """One run of an original: files NAME.npz and NAME_*.npz. Blobs are N×C×H×W here, whatever the
    original's layout."""

    def __init__(self, path: Path, architecture: str) -> None:
        self.path, self.architecture = path, get_architecture(architecture)
        self.files = {}
        for part in sorted(path.parent.glob(f"{path.stem}*.npz")):
            with np.load(part) as file:
                self.files |= {key: file[key] for key in file.files}
        self.meta = json.loads(str(np.load(path)["meta"]))

    @cached_property
    def data(self) -> np.ndarray:
        data = recipe.seed_input(tuple(self.meta["input_shape"]), self.meta["seed"], *self.meta["input_range"])
        assert sha256([data]) == self.meta["input_sha256"]
        return data.transpose(0, 3, 1, 2) if self.meta["layout"].startswith("NHWC") else data


class FCN8VGGGolden(SeedFCNGolden):
    """fcn8vgg_*."""

    most_noise = TF1_NOISE
    VIEWS = MappingProxyType(
        {
            "upscore32_s8": ("upscore32", np.s_[..., ::8, ::8]),
            "upscore32_crop": ("upscore32", np.s_[..., 183:203, 247:271]),
            "upscore32_corner": ("upscore32", np.s_[..., -9:, -9:]),
        }
    )

    @cached_property
    def weights(self) -> Weights:
        return fcn8vgg_weights(self.meta["width"], self.meta["num_classes"], self.meta["seed"])

    @cached_property
    def blobs(self) -> dict[str, np.ndarray]:
        names = [name for name in self.files if name in self.architecture.blobs and not name.startswith("pred")] + [
            n for n in self.VIEWS if n in self.files
        ]
        return {name: self.files[name].transpose(0, 3, 1, 2) for name in names}

    def source(self, name: str) -> str:
        return self.VIEWS.get(name, (name,))[0]

    def stored(self, name: str, blobs: Mapping[str, np.ndarray]) -> np.ndarray:
        blob, view = self.VIEWS.get(name, (name, np.s_[...]))
        stride = self.meta.get(f"{name}_stride", 1)
        return blobs[blob][view][..., ::stride, ::stride]


class VGGFCNGolden(SeedFCNGolden):
    """vggfcn*_c21_*: the output and what the final resize starts from."""

    most_noise = TORCH_NOISE

    @cached_property
    def weights(self) -> Weights:
        return vggfcn_weights(
            self.architecture.name, self.meta["n_classes"], self.meta["seed"], self.meta["weights_sha256"]
        )

    @cached_property
    def blobs(self) -> dict[str, np.ndarray]:
        return {"scores": self.files["out"], self.lowres: self.files["scores_lowres"]}

    @property
    def lowres(self) -> str:
        return self.architecture.layers[-1].bottoms[0]

    def stored(self, name: str, blobs: Mapping[str, np.ndarray]) -> np.ndarray:
        stride = self.meta["out_stride"] if name == "scores" else 1
        return blobs[name][..., ::stride, ::stride]


@cache
def vgg16_weights(width: str, seed: int) -> Weights:
    """The vgg16.npy behind the FCN8VGG goldens, as the hub holds it."""
    layers = recipe.vgg16_npy(seed, WIDTHS[width])
    blobs = {}
    for layer, (weight, bias) in layers.items():
        blobs |= {f"{layer}/weight": to_caffe(layer, weight), f"{layer}/bias": bias}
    return Weights(blobs)


@cache
def fcn8vgg_weights(width: str, num_classes: int, seed: int) -> Weights:
    """What the original makes of the vgg16.npy, with the score layers that it would draw at random
    drawn by the recipe."""
    weights = convert(vgg16_weights(width, seed), "fcn8-vgg", num_classes=num_classes, seed=0)
    drawn = {}
    for layer in ("score_pool4", "score_pool3"):
        outputs, inputs, *_ = weights[f"{layer}/weight"].shape
        drawn[f"{layer}/weight"] = np.ascontiguousarray(
            recipe.fcn8vgg_score_weight(layer, (1, 1, inputs, outputs), seed).transpose(3, 2, 0, 1)
        )
    return Weights({**weights, **drawn}, weights.metadata)


@cache
def torch_blob(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """One blob of `recipe.torch_state`; the three VGGFCNs have most of them in common."""
    return recipe.torch_state({key: shape}, seed)[key]


@cache
def vggfcn_weights(architecture: str, num_classes: int, seed: int, digest: str) -> Weights:
    """The state_dict behind a VGGFCN golden; keys that share their storage hold what the later one
    does."""
    architecture = get_architecture(architecture)
    shapes = {p.name: p.shape for p in architecture.parameters(num_classes)}
    assert shapes == {key: tuple(shape) for key, shape in state_dict_shapes(architecture.name, num_classes).items()}
    assert list(shapes) == list(state_dict_shapes(architecture.name, num_classes))
    blobs = {key: torch_blob(key, shape, seed) for key, shape in shapes.items() if key not in architecture.aliases}
    weights = Weights({key: blobs[architecture.aliases.get(key, key)].reshape(shape) for key, shape in shapes.items()})
    assert sha256(blob for key, blob in weights.items() if key not in architecture.idle) == digest
    return weights


def state_dict_shapes(architecture: str, num_classes: int) -> dict[str, list[int]]:
    """Key → shape of the original class."""
    return STATE_DICTS[f"{architecture.upper()}_n{num_classes}"]


def fcn8vgg_goldens() -> list[FCN8VGGGolden]:
    return [FCN8VGGGolden(path, "fcn8-vgg") for path in sorted((FOLDER / "seed").glob("fcn8vgg_tiny_c*.npz"))]


def fcn8vgg_golden(name: str, architecture: str = "fcn8-vgg") -> FCN8VGGGolden:
    return FCN8VGGGolden(FOLDER / "seed" / f"fcn8vgg_{name}.npz", architecture)


@cache
def vggfcn_goldens(architecture: str) -> list[VGGFCNGolden]:
    return [VGGFCNGolden(path, architecture) for path in sorted((FOLDER / "seed").glob(f"{architecture}_c*.npz"))]


# ------------------------------------------------------------------ the U-Nets of other repositories

ZOO_NETS = MappingProxyType(
    {
        "milesial_unet_transposed": "unet-milesial",
        "milesial_unet_bilinear": "unet-milesial-bilinear",
        "nests_u_net": "unet-64",
        "nests_r2u_net": "r2unet-nests",
        "nests_attu_net": "attention-unet",
        "nests_r2attu_net": "r2attention-unet",
        "nests_nestedunet": "nested-unet",
        "bubbliiiing_unet_vgg": "vgg16-unet",
        "bubbliiiing_unet_resnet50": "resnet50-unet",
        "unetzoo_segnet": "segnet",
        "unetzoo_channel_unet": "channel-unet",
        "unetzoo_ce_net": "ce-net",
        "unetzoo_nestedunet": "nested-unet-4heads",
        "unetzoo_nestedunet_single": "nested-unet-1head",
        "unetzoo_attu_net": "attention-unet-unetzoo",
        "unetzoo_r2u_net": "r2unet",
        "unetzoo_fcn8s": "fcn8s-unetzoo",
        "unetzoo_fcn32s": "fcn32s-unetzoo",
    }
)
"""Label in the files → architecture."""
ZOO_BLOBS = MappingProxyType(
    {
        "channel-unet": {"conv5": "c5", "up6": "up_6", "gau_1": "gau1", "gau_4": "gau4", "conv9": "c9"},
        "segnet": {
            "bn12": "x12", "bn53": "x53", "conv53d:in": "x5d", "conv43d:in": "x4d", "conv12d:in": "x1d",
        },
        "ce-net": {"encoder4": "e4"},
        "fcn8s-unetzoo": {"pretrained_net.features.30": "x5"},
        "fcn32s-unetzoo": {"pretrained_net.features.23": "x4"},
        "vgg16-unet": {
            "vgg.features.3": "feat1", "vgg.features.29": "feat5", "up_concat4": "up4", "up_concat2": "up2",
        },
        "resnet50-unet": {
            "resnet.maxpool": "maxpool", "resnet.layer1": "feat2", "resnet.layer4": "feat5", "up_concat4": "up4",
        },
    }
)  # fmt: skip
"""Module whose output (`:in`: whose input) is stored → the blob, where their names differ."""
ZOO_KEYS = json.loads((FOLDER / "zoo" / "zoo_state_dict_keys.json").read_text())


@lru_cache(maxsize=2)  # 40 MB to 200 MB each
def zoo_weights(table: str, seed: int, scale: tuple[tuple[str, float], ...]) -> Weights:
    """The state_dict behind a golden of zoo/, with its extra factors."""
    state = recipe.torch_state(ZOO_KEYS[table], seed)
    for key in state:
        for pattern, factor in scale:
            if re.search(pattern, key):
                state[key] = state[key] * np.float32(factor)
    return Weights(state)


@contextmanager
def places_of(blobs: Mapping[str, np.ndarray]) -> Iterator[None]:
    """Inside, the oracle unpools by the places that an engine's blobs have.

    Two pixels of a window may differ by less than float32 rounds; then which of them is larger is the engine's own
    affair, and all that comes behind is right given that choice.
    """
    original = oracle.OPERATORS["Unpooling"]

    def given(layer, architecture, bottoms, parameters):
        return original(layer, architecture, [bottoms[0], blobs[layer.bottoms[1]]], parameters)

    oracle.OPERATORS["Unpooling"] = given
    try:
        yield
    finally:
        oracle.OPERATORS["Unpooling"] = original


class ZooGolden(Golden):
    """One run of a public repository's own class."""

    most_noise = TORCH_NOISE

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = np.load(path)
        self.meta = json.loads(str(self.file["meta"]))
        self.architecture = get_architecture(ZOO_NETS[self.meta["label"]])

    @cached_property
    def data(self) -> np.ndarray:
        data = recipe.seed_input(self.meta["input_shape"], self.meta["seed"], *self.meta["input_range"])
        assert sha256([data]) == self.meta["input_sha256"]
        return data

    @property
    def weights(self) -> Weights:
        scale = tuple((pattern, factor) for pattern, factor in self.meta["scale"])
        weights = zoo_weights(self.meta["state_dict"], self.meta["seed"], scale)
        assert (
            sha256(blob for name, blob in weights.items() if not name.endswith("num_batches_tracked"))
            == self.meta["weights_sha256"]
        )
        return weights

    @cached_property
    def names(self) -> dict[str, str]:
        """Key of the file → blob."""
        heads = ("logits", "logits1", "logits2", "logits3", "logits4", "out", "out1", "out2", "out3", "out4")
        several = "out4" in self.file
        ends = {"out": self.architecture.output, "logits": "logits"}
        ends |= {f"out{i}": f"probability{i}" for i in (1, 2, 3)} | {f"logits{i}": f"logits{i}" for i in (1, 2, 3)}
        ends |= {"out4": "probability", "logits4": "logits"} if several else {}
        own = ZOO_BLOBS.get(self.architecture.name, {})
        inner = [key for key in self.file.files if key.startswith("act/")]
        return {key: ends[key] for key in heads if key in self.file} | {
            key: own.get(key.removeprefix("act/"), key.removeprefix("act/")) for key in inner
        }

    @cached_property
    def blobs(self) -> dict[str, np.ndarray]:
        found = {key: self.file[key] for key in self.names}
        if self.architecture.name == "segnet":  # its ReLU is no module: what BatchNorm gives is stored
            found |= {key: np.maximum(found[key], 0) for key in ("act/bn12", "act/bn53")}
        return found

    def source(self, name: str) -> str:
        return self.names[name]

    def stored(self, name: str, blobs: Mapping[str, np.ndarray]) -> np.ndarray:
        channels, pixels = 1, 1
        if name in self.meta["strides"]:
            channels, pixels = self.meta["strides"][name]
        return blobs[self.names[name]][:, ::channels, ::pixels, ::pixels]


@cache
def zoo_goldens(pattern: str = "*") -> list[ZooGolden]:
    paths = [path for path in sorted((FOLDER / "zoo").glob(f"{pattern}.npz")) if "trainfwd" not in path.stem]
    assert paths, f"no golden {pattern}"
    return [ZooGolden(path) for path in paths]
