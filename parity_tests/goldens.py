"""The reference outputs in golden/, with the weights and inputs that made them redrawn from their recipe and checked by sha256."""

from __future__ import annotations

import hashlib
import json
import sys
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import segtwin
from segtwin import oracle
from segtwin_weights import Weights, untrained

FOLDER = Path(__file__).parent / "golden"
sys.path.insert(0, str(FOLDER))
import recipe  # noqa: E402

LEAST_FLOOR = 2.0**-23
"""One float32 unit in the last place: no engine can be asked to be closer than its own rounding."""
CAFFE_NOISE = 2e-6
"""Caffe's float32 against float64, at most, over all blobs (golden/README.md, "Measured noise")."""
TINY = recipe.TINY_VGG
FULL = recipe.FULL_VGG


def recipe_weights(row: segtwin.Row | str, widths: tuple[int, ...], seed: int = 1, num_classes: int | None = None) -> Weights:
    """The weights behind the Caffe goldens: learned layers from the recipe, fixed layers as the network starts them."""
    row = segtwin.get(row)
    start = untrained(row, num_classes, widths=widths)
    drawn = {p.name: recipe.caffe(p.name, p.shape, seed) for p in row.parameters(num_classes, widths) if p.lr_mult}
    return Weights({name: drawn.get(name, blob) for name, blob in start.items()}, start.metadata)


def sha256(arrays) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()


class CaffeGolden:
    """One file fwd_*.npz of real Caffe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = np.load(path)
        self.meta = json.loads(str(self.file["meta"]))
        self.strides = json.loads(str(self.file["strides"]))
        self.shapes = {name: tuple(shape) for name, shape in json.loads(str(self.file["shape_table"])).items()}
        self.offsets = {name: crop["offset"][0] for name, crop in json.loads(str(self.file["crop_offsets"])).items()}
        self.parameters = json.loads(str(self.file["param_table"]))
        self.stats = json.loads(str(self.file["blob_stats"]))
        self.row = segtwin.get(self.meta["net"])
        self.widths = (*self.meta["widths"]["conv"], self.meta["widths"]["fc6"], self.meta["widths"]["fc7"])

    def __str__(self) -> str:
        return self.path.stem.removeprefix("fwd_")

    @cached_property
    def data(self) -> np.ndarray:
        data = recipe.caffe_input(self.shapes["data"], self.meta["seed"])
        assert sha256([data]) == str(self.file["input_sha256"])
        return data

    @cached_property
    def weights(self) -> Weights:
        weights = weights_of(self.row.name, self.widths, self.meta["seed"])
        assert sha256(weights[name] for name, _, kind in self.parameters if kind == "recipe") == str(self.file["weights_sha256"])
        return weights

    @cached_property
    def blobs(self) -> dict[str, np.ndarray]:
        """Blob name → Caffe's values, every `strides[name]`-th row and column."""
        return {name: self.file[name] for name in self.strides}

    def thin(self, name: str, blob: np.ndarray) -> np.ndarray:
        """A whole blob as the file stores it."""
        return blob[:, :, :: self.strides[name], :: self.strides[name]]

    @cached_property
    def truth(self) -> dict[str, np.ndarray]:
        """Every stored blob in float64, by the numpy oracle, as the file stores it."""
        return {name: self.thin(name, blob) for name, blob in oracle.blobs(self.row, self.weights, self.data) if name in self.strides}

    def noise_floor(self, name: str) -> float:
        """max|Caffe's float32 − float64| ÷ max|Caffe's|: what float32 costs Caffe itself. No engine under test has a part in it."""
        floor = max(oracle.relative_error(self.truth[name], self.blobs[name]), LEAST_FLOOR)
        assert floor < CAFFE_NOISE, f"{self}: the oracle is {floor:.1e} from Caffe in {name}; the floor would excuse anything"
        return floor

    def errors(self, blobs: dict[str, np.ndarray]) -> dict[str, float]:
        """Blob name → distance of an engine's blob from Caffe's, in noise floors."""
        return {name: oracle.relative_error(self.thin(name, blobs[name]), want) / self.noise_floor(name) for name, want in self.blobs.items()}


@cache
def weights_of(row: str, widths: tuple[int, ...], seed: int) -> Weights:
    return recipe_weights(row, widths, seed)


@cache
def caffe_goldens(row: str, width: str = "tiny") -> list[CaffeGolden]:
    paths = sorted((FOLDER / "caffe").glob(f"fwd_{width}_{row}_s*.npz"))
    assert paths, f"no golden of {row}"
    return [CaffeGolden(path) for path in paths]
