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


CAFFE_NETS = {"unet": "unet-paper"}
"""Name in the files of Caffe → row."""


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
        self.row = segtwin.get(CAFFE_NETS.get(self.meta["net"], self.meta["net"]))
        widths = self.meta["widths"]
        self.widths = tuple(widths) if isinstance(widths, list) else (*widths["conv"], widths["fc6"], widths["fc7"])

    def __str__(self) -> str:
        return self.path.stem.removeprefix("fwd_")

    @cached_property
    def data(self) -> np.ndarray:
        bounds = (0.0, 1.0) if self.meta["net"] == "unet" else (-120.0, 130.0)
        data = recipe.caffe_input(self.shapes["data"], self.meta["seed"], *bounds)
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


SEED_NETS = {"Unet": "unet", "UnetSmall": "unet-small", "resnet34_unet": "resnet34-unet"}
"""First word of the model's name in the files of the seed's code → row."""
SEED_NOISE = 5e-6
"""float32 against float64 in the original torch code, at most (golden/README.md, "Noise measured")."""
STATE_DICTS = json.loads((FOLDER / "seed" / "torch_state_dict_keys.json").read_text())


@cache
def seed_weights(table: str, seed: int) -> Weights:
    """The state_dict behind the goldens of the seed's torch code, its names and shapes as the original has them."""
    return Weights(recipe.torch_state(STATE_DICTS[table], seed))


class SeedGolden:
    """One file of the seed's torch code: its output `out` and the logits before its sigmoid."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = np.load(path)
        self.meta = json.loads(str(self.file["meta"]))
        model = self.meta["model"].split()[0]
        self.row = segtwin.get(SEED_NETS[model])
        channels = {"Unet": f"_{self.meta.get('in_ch')}_{self.meta.get('out_ch')}", "resnet34_unet": f"_n{self.meta.get('num_classes')}"}
        self.table = model + channels.get(model, "")

    def __str__(self) -> str:
        return self.path.stem

    @cached_property
    def data(self) -> np.ndarray:
        data = recipe.seed_input(self.meta["input_shape"], self.meta["seed"], *self.meta["input_range"])
        assert sha256([data]) == self.meta["input_sha256"]
        return data

    @cached_property
    def weights(self) -> Weights:
        weights = seed_weights(self.table, self.meta["seed"])
        assert sha256(blob for name, blob in weights.items() if not name.endswith("num_batches_tracked")) == self.meta["weights_sha256"]
        return weights

    @cached_property
    def blobs(self) -> dict[str, np.ndarray]:
        """What is compared; the probability only where the sigmoid is not saturated, since steps from 0 to 1 would be all that it shows."""
        saturated = float(self.file["logits_absmax"]) > 30
        return {"logits": self.file["logits"]} if saturated else {"logits": self.file["logits"], "probability": self.file["out"]}

    def thin(self, blob: np.ndarray) -> np.ndarray:
        """A whole blob as the file stores it."""
        return blob[::3, :, ::4, ::4] if self.meta.get("stored", "all") != "all" else blob

    @cached_property
    def truth(self) -> dict[str, np.ndarray]:
        """Every blob in float64, by the numpy oracle."""
        return oracle.run(self.row, self.weights, self.data)

    def noise_floor(self, name: str) -> float:
        """max|the original's float32 − float64| ÷ max|the original's|; no engine under test has a part in it."""
        floor = max(oracle.relative_error(self.thin(self.truth[name]), self.blobs[name]), LEAST_FLOOR)
        assert floor < SEED_NOISE, f"{self}: the oracle is {floor:.1e} from the original in {name}; the floor would excuse anything"
        return floor

    def errors(self, blobs: dict[str, np.ndarray]) -> dict[str, float]:
        """Blob name → distance of an engine's blob from the original's, in noise floors."""
        return {name: oracle.relative_error(self.thin(blobs[name]), want) / self.noise_floor(name) for name, want in self.blobs.items()}


@cache
def seed_goldens(pattern: str) -> list[SeedGolden]:
    paths = [path for path in sorted((FOLDER / "seed").glob(pattern)) if "train" not in path.stem]
    assert paths, f"no golden {pattern}"
    return [SeedGolden(path) for path in paths]


@cache
def unet_paper_goldens() -> list[CaffeGolden]:
    paths = sorted((FOLDER / "caffe").glob("unet_tiny_*.npz"))
    assert paths
    return [CaffeGolden(path) for path in paths]


@cache
def caffe_goldens(row: str, width: str = "tiny") -> list[CaffeGolden]:
    paths = sorted((FOLDER / "caffe").glob(f"fwd_{width}_{row}_s*.npz"))
    assert paths, f"no golden of {row}"
    return [CaffeGolden(path) for path in paths]
