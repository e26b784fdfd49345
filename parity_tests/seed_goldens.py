"""The reference outputs of the original TF1 and torch FCNs in golden/seed, with their weights and inputs redrawn and checked by sha256."""

from __future__ import annotations

import json
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import segtwin
from goldens import FOLDER, LEAST_FLOOR, recipe, sha256
from segtwin import oracle
from segtwin_weights import Weights, convert
from segtwin_weights.vgg16_npy import to_caffe

TF1_NOISE, TORCH_NOISE = 3.5e-6, 5e-6
"""The originals' float32 against float64, at most (golden/README.md says 3e-6 and 5e-6; `score_fr` at full width is 3.03e-6)."""
WIDTHS = MappingProxyType({"tiny": recipe.TINY_VGG, "full": recipe.FULL_VGG})


class SeedGolden:
    """One run of an original: files NAME.npz and NAME_*.npz. Blobs are N×C×H×W here, whatever the original's layout."""

    noise: float

    def __init__(self, path: Path, row: str) -> None:
        self.name, self.row = path.stem, segtwin.get(row)
        self.files = {}
        for part in sorted(path.parent.glob(f"{path.stem}*.npz")):
            with np.load(part) as file:
                self.files |= {key: file[key] for key in file.files}
        self.meta = json.loads(str(np.load(path)["meta"]))

    def __str__(self) -> str:
        return self.name

    @cached_property
    def data(self) -> np.ndarray:
        data = recipe.seed_input(tuple(self.meta["input_shape"]), self.meta["seed"], *self.meta["input_range"])
        assert sha256([data]) == self.meta["input_sha256"]
        return data.transpose(0, 3, 1, 2) if self.meta["layout"].startswith("NHWC") else data

    @cached_property
    def truth(self) -> dict[str, np.ndarray]:
        """Every stored blob in float64, by the numpy oracle, as the file stores it."""
        blobs = dict(oracle.blobs(self.row, self.weights, self.data))
        return {name: self.stored(name, blobs) for name in self.blobs}

    @cached_property
    def floors(self) -> dict[str, float]:
        """Blob → max|the original's float32 − float64| ÷ max|·|: what float32 costs the original itself. No engine under test has a part in it."""
        floors = {name: max(oracle.relative_error(self.truth[name], want), LEAST_FLOOR) for name, want in self.blobs.items()}
        assert max(floors.values()) < self.noise, f"{self}: the oracle is far from the original; the floors would excuse anything: {floors}"
        return floors

    def errors(self, blobs: dict[str, np.ndarray]) -> dict[str, float]:
        """Blob → distance of an engine's blob from the original's, in noise floors."""
        return {name: oracle.relative_error(self.stored(name, blobs), want) / self.floors[name] for name, want in self.blobs.items()}

    def stored(self, name: str, blobs: dict[str, np.ndarray]) -> np.ndarray:
        """A whole blob as the file stores it."""
        raise NotImplementedError

    @property
    def blobs(self) -> dict[str, np.ndarray]:
        """What the file stores, N×C×H×W."""
        raise NotImplementedError

    @property
    def weights(self) -> Weights:
        """The weights behind it."""
        raise NotImplementedError


class FCN8VGGGolden(SeedGolden):
    """fcn8vgg_*."""

    noise = TF1_NOISE
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
        names = [name for name in self.files if name in self.row.blobs and not name.startswith("pred")] + [n for n in self.VIEWS if n in self.files]
        return {name: self.files[name].transpose(0, 3, 1, 2) for name in names}

    def stored(self, name: str, blobs: dict[str, np.ndarray]) -> np.ndarray:
        blob, view = self.VIEWS.get(name, (name, np.s_[...]))
        stride = self.meta.get(f"{name}_stride", 1)
        return blobs[blob][view][..., ::stride, ::stride]


class VGGFCNGolden(SeedGolden):
    """vggfcn*_c21_*: the output and what the final resize starts from."""

    noise = TORCH_NOISE

    @cached_property
    def weights(self) -> Weights:
        return vggfcn_weights(self.row.name, self.meta["n_classes"], self.meta["seed"], self.meta["weights_sha256"])

    @cached_property
    def blobs(self) -> dict[str, np.ndarray]:
        return {"scores": self.files["out"], self.lowres: self.files["scores_lowres"]}

    @property
    def lowres(self) -> str:
        return self.row.layers[-1].bottoms[0]

    def stored(self, name: str, blobs: dict[str, np.ndarray]) -> np.ndarray:
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
    """What the original makes of the vgg16.npy, with the score layers that it would draw at random drawn by the recipe."""
    weights = convert(vgg16_weights(width, seed), "fcn8-vgg", num_classes, seed=0)
    drawn = {}
    for layer in ("score_pool4", "score_pool3"):
        outputs, inputs, *_ = weights[f"{layer}/weight"].shape
        drawn[f"{layer}/weight"] = np.ascontiguousarray(recipe.fcn8vgg_score_weight(layer, (1, 1, inputs, outputs), seed).transpose(3, 2, 0, 1))
    return Weights({**weights, **drawn}, weights.metadata)


@cache
def torch_blob(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """One blob of `recipe.torch_state`; the three VGGFCNs have most of them in common."""
    return recipe.torch_state({key: shape}, seed)[key]


@cache
def vggfcn_weights(row: str, num_classes: int, seed: int, digest: str) -> Weights:
    """The state_dict behind a VGGFCN golden; keys that share their storage hold what the later one does."""
    row = segtwin.get(row)
    shapes = {p.name: p.shape for p in row.parameters(num_classes)}
    assert shapes == {key: tuple(shape) for key, shape in state_dict_shapes(row.name, num_classes).items()}
    assert list(shapes) == list(state_dict_shapes(row.name, num_classes))
    blobs = {key: torch_blob(key, shape, seed) for key, shape in shapes.items() if key not in row.aliases}
    weights = Weights({key: blobs[row.aliases.get(key, key)].reshape(shape) for key, shape in shapes.items()})
    assert sha256(blob for key, blob in weights.items() if key not in row.idle) == digest
    return weights


def state_dict_shapes(row: str, num_classes: int) -> dict[str, list[int]]:
    """Key → shape of the original class."""
    return json.loads((FOLDER / "seed" / "torch_state_dict_keys.json").read_text())[f"{row.upper()}_n{num_classes}"]


def fcn8vgg_goldens() -> list[FCN8VGGGolden]:
    return [FCN8VGGGolden(path, "fcn8-vgg") for path in sorted((FOLDER / "seed").glob("fcn8vgg_tiny_c*.npz"))]


def fcn8vgg_golden(name: str, row: str = "fcn8-vgg") -> FCN8VGGGolden:
    return FCN8VGGGolden(FOLDER / "seed" / f"fcn8vgg_{name}.npz", row)


def vggfcn_goldens(row: str) -> list[VGGFCNGolden]:
    return [VGGFCNGolden(path, row) for path in sorted((FOLDER / "seed").glob(f"{row}_c*.npz"))]
