"""What a training is told: a network, a loss, a solver, and what is done to the images; as a TOML file,
by name, or field by field.

`published` recipes are those of the authors (`segtwin.solver.PUBLISHED`, `LIGHT`, the U-Net paper,
UNET-ZOO); the defaults of a network are what learns at a first try.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from segtwin.architectures import Architecture, get_architecture
from segtwin.data.augment import Augmentation
from segtwin.errors import RunError, nearest
from segtwin.losses import NORMALIZATIONS
from segtwin.solver import LIGHT, PUBLISHED, Solver

LOSSES = ("softmax", "cross-entropy", "border", "bce", "dice", "bce-dice")
SIGMOID_LOSSES = ("bce", "dice", "bce-dice")
OPTIMIZERS = ("caffe-sgd", "adam")
MIXED = "mixed_bfloat16"
DTYPES = ("float32", "float64", MIXED)


@dataclass(frozen=True)
class Recipe:
    """Everything that a training depends on beside the data and the starting weights."""

    network: str
    loss: str
    """"softmax": Caffe's SoftmaxWithLoss; "cross-entropy": its mean over pixels, unclipped; "border": that
    with the U-Net paper's weight map; "bce", "dice", "bce-dice": of a sigmoid's logits."""
    normalization: str = "BATCH_SIZE"
    """Of "softmax"."""
    optimizer: str = "caffe-sgd"
    """"adam" is torch's, in both frameworks: eps 1e-8 beside the corrected root, betas 0.9 and 0.999."""
    base_lr: float = 1e-4
    momentum: float = 0.9
    weight_decay: float = 0.0
    lr_policy: str = "fixed"
    gamma: float | None = None
    power: float | None = None
    stepsize: int | None = None
    stepvalue: tuple[int, ...] = ()
    steps: int = 1000
    batch: int = 1
    iter_size: int = 1
    """Batches whose gradients are added up before a step; Caffe divides by it."""
    dropout: float | None = None
    num_classes: int | None = None
    in_channels: int | None = None
    widths: tuple[int, ...] | None = None
    seed: int = 0
    order: str = "epochs"
    scale: tuple[float, float] = (1.0, 1.0)
    elastic: float = 0.0
    flip: str = "none"
    right_angles: bool = False
    crop: tuple[int, int] | None = None
    brightness: float = 0.0
    val: str | None = None
    """A share, a number of images or a file of names, where the data have no part for validation."""
    table: tuple[tuple[int, ...], ...] = ()
    """Grey value, or colour, of each class."""
    classes: tuple[str, ...] = ()
    """Names of the classes, for whoever uses the weights."""
    palette: tuple[tuple[int, int, int], ...] = ()
    """Their colours, red, green, blue 0..255."""
    validate_every: int | None = None
    """Steps; None: ten times in all."""
    dtype: str = "float32"
    """"float32", "float64"; or "mixed_bfloat16": weights, loss and update in float32, layers in bfloat16, which
    has float32's range, so that no loss has to be scaled."""

    def __post_init__(self) -> None:
        """Refuse what cannot be done, before any work.

        Raises:
            RunError: a value is none of those that there are.
            SolverError, DataError: of the solver and the augmentation.
        """
        for what, value, known in (
            ("loss", self.loss, LOSSES),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("normalization", self.normalization, NORMALIZATIONS),
            ("order", self.order, ("epochs", "caffe", "listed")),
            ("dtype", self.dtype, DTYPES),
        ):
            if value not in known:
                raise RunError(f"there is no {what} {value!r}; there are {', '.join(known)}{nearest(value, known)}")
        for what, least in (("steps", 1), ("batch", 1), ("iter_size", 1), ("seed", 0), ("validate_every", 1)):
            value = getattr(self, what)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise RunError(f"{what} is {value!r}; it is a whole number of at least {least}")
        if not self.base_lr > 0:
            raise RunError(f"base_lr is {self.base_lr}; nothing is learned without a rate above 0")
        if self.optimizer == "adam" and self.momentum != 0.9:
            raise RunError(f"momentum is {self.momentum}, and Adam has its own; leave it out, or take caffe-sgd")
        if self.loss != "softmax" and self.normalization not in ("BATCH_SIZE", "VALID"):
            raise RunError(f"normalization is of the loss softmax; {self.loss} is a mean over pixels")
        _ = self.solver, self.augmentation
        self.check(self.architecture)
        count = self.architecture.num_classes if self.num_classes is None else self.num_classes
        if self.classes and len(self.classes) not in ({count} if count > 1 else {1, 2}):
            raise RunError(f"classes names {len(self.classes)}, and the network has {count}")
        if self.palette and len(self.palette) < max(2, count):
            raise RunError(f"palette has {len(self.palette)} colours, and there are {max(2, count)} classes")

    @property
    def architecture(self) -> Architecture:
        """Of the network."""
        return get_architecture(self.network)

    def check(self, architecture: Architecture) -> None:
        """Refuse a loss that the network's output cannot have.

        Raises:
            RunError: a sigmoid's loss of scores, or the reverse.
        """
        classes = architecture.num_classes if self.num_classes is None else self.num_classes
        if self.loss in SIGMOID_LOSSES and not (classes == 1 and architecture.binary(classes)):
            raise RunError(
                f"{self.network} with {classes} classes: the loss {self.loss} is of one sigmoid; take cross-entropy"
            )
        if self.loss not in SIGMOID_LOSSES and classes == 1:
            raise RunError(f"{self.network} with 1 class: {self.loss} needs two classes or more; take bce or bce-dice")

    @property
    def solver(self) -> Solver:
        """The solver's part."""
        return Solver(
            self.base_lr, self.lr_policy, self.gamma, self.power, self.stepsize, self.stepvalue, self.momentum,
            self.weight_decay, self.iter_size, self.steps,
        )  # fmt: skip

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation's part."""
        return Augmentation(self.scale, self.elastic, self.flip, self.right_angles, self.crop, self.brightness)

    @property
    def labels(self) -> dict[str, Any]:
        """Names and colours of the classes, as weights state them."""
        stated = {"classes": list(self.classes), "palette": [list(colour) for colour in self.palette]}
        return {name: one for name, one in stated.items() if one}

    @property
    def mixed(self) -> bool:
        """Whether layers are computed in bfloat16."""
        return self.dtype == MIXED

    @property
    def weights_dtype(self) -> str:
        """Of weights and update."""
        return "float32" if self.mixed else self.dtype

    @property
    def summed(self) -> bool:
        """Whether the loss is a sum over pixels, which takes rates of another size than a mean."""
        return self.loss == "softmax" and self.normalization in ("BATCH_SIZE", "NONE")

    @property
    def every(self) -> int:
        """Steps between two validations."""
        return self.validate_every or max(1, self.steps // 10)

    def toml(self) -> str:
        """The text of a recipe file; what is None is left out."""
        return "".join(f"{name} = {_toml(value)}\n" for name, value in asdict(self).items() if value not in (None, ()))


def _toml(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        text = repr(value)
        return text if any(sign in text for sign in ".en") else f"{text}.0"
    return json.dumps(value, ensure_ascii=False)


# ---------------------------------------------------------------------------------------- by name


def default(network: str, num_classes: int | None = None) -> dict[str, Any]:
    """The fields of a network's own recipe: what learns at a first try.

    The Caffe nets get their authors' solver; fcn8-vgg and vggfcn* the mean cross-entropy with Adam; the
    U-Nets Adam (UNET-ZOO's optimizer), with cross-entropy and Dice of one class together. Adam's rate falls
    to zero (poly, 0.9), so that the last weights are good ones.
    """
    architecture = get_architecture(network)
    classes = architecture.num_classes if num_classes is None else num_classes
    if network in PUBLISHED:
        return of_solver(PUBLISHED[network], "BATCH_SIZE") | {"flip": "horizontal"}
    u_net = architecture.output in ("probability", "logits")
    loss = "bce-dice" if architecture.binary(classes) and classes == 1 else "cross-entropy"
    rate = 1e-3 if u_net else 1e-4
    geometry = {"flip": "both", "right_angles": True} if u_net or network == "unet-paper" else {"flip": "horizontal"}
    return {"loss": loss, "optimizer": "adam", "base_lr": rate, "lr_policy": "poly", "power": 0.9, **geometry}


def of_solver(solver: Solver, normalization: str) -> dict[str, Any]:
    """The fields that a solver.prototxt gives."""
    names = ("base_lr", "lr_policy", "gamma", "power", "stepsize", "stepvalue", "momentum", "weight_decay", "iter_size")
    found = {name: getattr(solver, name) for name in names}
    more = {} if solver.max_iter is None else {"steps": solver.max_iter}
    return {"loss": "softmax", "normalization": normalization, "optimizer": "caffe-sgd", **found, **more}


def named(network: str) -> dict[str, dict[str, Any]]:
    """Recipe's name → its fields, of the recipes that a network has."""
    found: dict[str, dict[str, Any]] = {}
    if network in PUBLISHED:
        found["heavy"] = of_solver(PUBLISHED[network], "BATCH_SIZE") | {"order": "caffe", "seed": 1337}
        found["light"] = of_solver(LIGHT, "VALID") | {"iter_size": 20, "steps": 2000}
    if network == "unet-paper":
        # section 3: one image a step, momentum 0.99, elastic deformation of 10 pixels; no rate is named there
        found["paper"] = {
            "loss": "border", "optimizer": "caffe-sgd", "base_lr": 1e-4, "momentum": 0.99, "elastic": 10.0,
            "flip": "both", "right_angles": True,
        }  # fmt: skip
    if network == "fcn8-vgg":
        # 5e-4 · Σw²/2 in both collections of the original: Caffe's decay of the weights, and none of the biases
        found["tensorflow-fcn"] = {"loss": "cross-entropy", "optimizer": "adam", "base_lr": 1e-6, "weight_decay": 5e-4}
    if network in ("unet", "resnet34-unet"):
        found["unet-zoo"] = {"loss": "bce", "optimizer": "adam", "base_lr": 1e-3}
    return found


def make(network: str, recipe: str | os.PathLike[str] | Mapping[str, Any] | None = None, **given: Any) -> Recipe:
    """A recipe: a network's default, changed by a recipe, changed by what is given.

    Args:
        network: name.
        recipe: a TOML file, a solver.prototxt, the name of a recipe of the network, or fields.
        **given: fields; None changes nothing.

    Raises:
        RunError: there is no such recipe or field; the nearest is named.
        SolverError, DataError: a field has a value that cannot be.
        OSError: the file cannot be read.
    """
    known = [field.name for field in fields(Recipe)]
    for name in given:
        if name not in known:
            raise RunError(f"a recipe has no field {name!r}{nearest(name, known)}")
    stated = {name: value for name, value in given.items() if value is not None}
    chosen = {} if recipe is None else dict(recipe) if isinstance(recipe, Mapping) else read(network, recipe)
    for name in chosen:
        if name not in known:
            raise RunError(f"{recipe if not isinstance(recipe, Mapping) else 'recipe'}: there is no field {name!r}"
                           f"{nearest(name, known)}")  # fmt: skip
    if (of := chosen.pop("network", network)) != network:
        raise RunError(f"{recipe}: is a recipe of {of}, and the network is {network}")
    classes = stated.get("num_classes", chosen.get("num_classes"))
    own = default(network, classes)
    if "lr_policy" in {**chosen, **stated}:  # its numbers go with it
        own = {name: value for name, value in own.items() if name not in OF_A_POLICY}
    merged = {**own, **chosen, **stated}
    if merged.get("optimizer") == "adam":
        merged.pop("momentum", None)
    typed = {name: _tuple(value) if name in TUPLES else value for name, value in merged.items()}
    try:
        return Recipe(network=network, **{name: _number(name, value) for name, value in typed.items()})
    except TypeError as error:
        raise RunError(f"recipe: {error}") from None


OF_A_POLICY = ("gamma", "power", "stepsize", "stepvalue")
TUPLES = ("stepvalue", "widths", "scale", "crop", "table", "classes", "palette")
FLOATS = ("base_lr", "momentum", "weight_decay", "gamma", "power", "elastic", "brightness", "dropout")


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list | tuple) else value


def _number(name: str, value: Any) -> Any:
    if name in FLOATS and value is not None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RunError(f"{name} is a number, not {value!r}")
        return float(value)
    if name == "scale":
        return tuple(map(float, value))
    return str(value) if name == "val" and value is not None else value


def read(network: str, recipe: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of a recipe by name, or of a file.

    Raises:
        RunError: there is none; the file is no TOML.
        OSError: the file cannot be read.
    """
    own = named(network)
    if str(recipe) in own:
        return own[str(recipe)]
    path = Path(recipe)
    if not path.is_file():
        have = f"{network} has {', '.join(own)}" if own else f"{network} has none of its own"
        raise RunError(f"{recipe}: is no recipe file, and no recipe's name; {have}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RunError(f"{recipe}: is no text; a recipe is a TOML file, or a solver.prototxt") from None
    if path.suffix == ".prototxt":
        return of_solver(Solver.from_prototxt(text), "BATCH_SIZE")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RunError(f"{recipe}: {error}") from None


def changed(old: Recipe, new: Recipe) -> list[str]:
    """Names of the fields in which two recipes differ."""
    return [field.name for field in fields(Recipe) if getattr(old, field.name) != getattr(new, field.name)]


def overfitting(recipe: Recipe) -> Recipe:
    """The same without augmentation and dropout: for learning a few images by heart."""
    return replace(
        recipe, scale=(1.0, 1.0), elastic=0.0, flip="none", right_angles=False, brightness=0.0,
        dropout=0.0 if recipe.architecture.dropout is not None else None,
    )  # fmt: skip
