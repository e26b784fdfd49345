"""The half of training that knows no framework: data, steps, validation, checkpoints, the run folder.

A run folder holds everything to repeat the training and to go on with it:

    recipe.toml          what was asked, every field
    log.json             versions, data, the loss and the rate of every step, every validation
    last.safetensors     the network as it is: a file of weights like any other
    best.safetensors     as it was when it did best on the images that it does not learn
    state.safetensors    weights, the optimizer's state and the step, in the dtype of the training
    curves.png           loss and scores over the steps
    tensorboard/         the same for TensorBoard

`state.safetensors`, `last.safetensors` and `log.json` are published together. A step depends on the
state before it, the recipe and the step's number alone: the order of the images, their augmentation
and the masks of dropout are drawn from the seed and that number. So a run that was stopped, however it
was stopped, goes on from its last state to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from segtwin import collapse, inference
from segtwin import recipe as recipes
from segtwin.architectures import Architecture, list_architectures
from segtwin.data.doctor import image_size, why_not
from segtwin.data.labels import Coding, Contents, coding_of, read_contents
from segtwin.data.layouts import DataSet, Sample, find
from segtwin.data.stream import Batch, Stream
from segtwin.errors import DataError, RunError, SegtwinError
from segtwin.files import uninterrupted, whole, whole_together
from segtwin.images import Converted
from segtwin.losses import IGNORE_LABEL
from segtwin.metrics import Confusion
from segtwin.preprocessing import Preprocessing
from segtwin.recipe import Recipe
from segtwin.solver import trained
from segtwin.tensorboard_log import Log

import segtwin_weights
from segtwin_weights.hub import Weights

STATE, LAST, BEST, LOG, RECIPE = "state.safetensors", "last.safetensors", "best.safetensors", "log.json", "recipe.toml"
WORKERS = 2
LEARNED = 0.99
"""Pixel accuracy from which a network has learned a few images by heart."""


class Processes:
    """The processes that train together: here, one alone. A recipe's batch is that of all of them, so that
    many train as one does."""

    rank, size = 0, 1
    """Number of this one, and how many there are; the first one writes."""

    def total(self, values: np.ndarray) -> np.ndarray:
        """The sum over all processes, float64."""
        return values

    def weight(self, batch: Batch) -> float:
        """What the mean over the pixels of this process' images weighs in that of the whole batch, times
        the processes: 1 where all have as many that are not void.

        Raises:
            DataError: the images of the processes differ in size.
        """
        if self.size == 1:
            return 1.0
        facts = np.zeros((self.size, 3))
        facts[self.rank] = (batch.label != IGNORE_LABEL).sum(), *batch.data.shape[2:]
        pixels, *sizes = self.total(facts).T
        if any(len(set(one)) > 1 for one in sizes):
            raise DataError("the images of one batch have one size: give --crop, or --batch 1 and one process")
        return float(pixels[self.rank] * self.size / max(pixels.sum(), 1))


def tensorflow_workers() -> int:
    """Processes that TF_CONFIG names.

    Raises:
        RunError: it is no JSON of a cluster.
    """
    try:
        return len(json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {}).get("worker", []))
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise RunError(f"TF_CONFIG is no JSON of a cluster and a task ({error})") from None


class Learner(Protocol):
    """A network with its optimizer, in a framework."""

    processes: Processes

    architecture: Architecture
    preprocessing: Preprocessing
    in_channels: int
    num_classes: int

    def step(self, number: int, batches: Sequence[Batch], rate: float) -> float:
        """Train on iter_size batches; the mean of their losses before the update, of all processes."""
        ...

    def output(self, data: np.ndarray) -> np.ndarray:
        """N×C×H×W → scores, or logits of one class, N×classes×H×W."""
        ...

    def blobs(self, data: np.ndarray) -> Mapping[str, np.ndarray]:
        """Every blob of an inference pass, N×C×H×W."""
        ...

    def weights(self) -> Weights:
        """The network's, under the hub's names, with metadata."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """The optimizer's, "history/NAME" and the like, in the hub's layouts."""
        ...

    def restore(self, weights: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray], number: int) -> None:
        """Go on from a step's weights and state."""
        ...


@dataclass
class Said:
    """What happened in a step, for whoever shows progress."""

    step: int
    steps: int
    loss: float
    rate: float
    images: float
    """A second."""
    scores: Mapping[str, Any] | None = None
    """Of the validation, where there was one."""


@dataclass
class Result:
    """What a training came to."""

    run: Path
    steps: int
    loss: float
    scores: dict[str, Any] = field(default_factory=dict)
    """Of the last validation."""
    best: dict[str, Any] = field(default_factory=dict)
    """"step" and "mean_iou" of `best.safetensors`."""
    causes: list[str] = field(default_factory=list)
    """What is wrong, if something is."""
    rank: int = 0
    """Of this process among those that trained; the first one writes and speaks."""

    def asdict(self) -> dict[str, Any]:
        """For JSON."""
        return {**{name: one for name, one in asdict(self).items() if name != "rank"}, "run": str(self.run)}


@dataclass(frozen=True)
class Job:
    """A training before it begins: everything is read and nothing is written."""

    recipe: Recipe
    data: DataSet
    coding: Coding
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    contents: dict[str, list[Contents]]
    data_hash: str
    start: Weights | None
    overfit: bool = False


def prepare(
    network: str | Weights,
    data: str | os.PathLike[str],
    weights: str | os.PathLike[str] | Weights | None = None,
    recipe: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    overfit: int | None = None,
    say: Callable[[str], None] = lambda line: None,
    workers: int = WORKERS,
    resumed: str | os.PathLike[str] | None = None,
    **given: Any,
) -> Job:
    """Read recipe, starting weights and labels, and refuse what cannot be trained.

    Args:
        network: name, or weights (or a file of them) to start from, whose network it is.
        data: folder.
        weights: to start from; those of another network of the family are converted.
        recipe: a TOML file, the name of a recipe, or fields.
        overfit: learn so many images by heart: no augmentation, validation on the same images.
        say: takes each line that the user should read.
        workers: threads that read.
        resumed: the folder of a run that is gone on with; its recipe holds where none is given.
        **given: fields of the recipe.

    Raises:
        RunError, DataError, SolverError, WeightsError: what is wrong, in one line.
        OSError: a file cannot be read.
    """
    if not isinstance(network, Weights) and network not in list_architectures() and Path(network).exists():
        network = segtwin_weights.read(network)
    if isinstance(network, Weights):
        if weights is not None:
            raise RunError("two weights to start from are given; name the network, and give those to start from")
        weights, network = network, segtwin_weights.network_of(network)
    if resumed is not None and recipe is None and (Path(resumed) / RECIPE).is_file():
        recipe = Path(resumed) / RECIPE
    start = _start(network, weights, given.get("num_classes"), say)
    if start is not None and given.get("num_classes") is None:
        given["num_classes"] = start.metadata.get("num_classes")
    made = recipes.make(network, recipe, **given)
    if start is None:
        _check_start(made)
    found = find(data, made.val)
    for note in found.notes:
        say(note)
    samples = tuple({sample.name: sample for part in ("train", "val") for sample in found.parts.get(part, ())}.values())
    read = dict(zip([sample.name for sample in samples], read_contents(samples, workers), strict=True))
    broken = {name: one.error for name, files in read.items() for one in files if one.error}
    broken |= _images(samples, read, workers)
    for error in broken.values():
        say(f"left out: {error}")
    whole_files = [one for name, files in read.items() if name not in broken for one in files]
    architecture = made.architecture
    classes = architecture.num_classes if made.num_classes is None else made.num_classes
    coding = coding_of(whole_files, classes, found.instances, made.table or None)
    say(coding.words)
    train, val = (
        tuple(sample for sample in found.parts.get(part, ()) if sample.name not in broken) for part in ("train", "val")
    )
    if not train:
        raise DataError(f"{data}: no image is left to train with")
    if overfit is not None:
        if overfit < 1:
            raise RunError(f"--overfit is a number of images, not {overfit}")
        train = val = train[:overfit]
        made = recipes.overfitting(made)
        say(f"learning {len(train)} images by heart: no augmentation, and validation on the same images")
    seen = coding.count(one for sample in train for one in read[sample.name]).keys() - {IGNORE_LABEL}
    if len(seen) < 2:
        raise DataError(
            f"{data}: the labels of all training images hold one class alone ({', '.join(map(str, seen)) or 'void'}); "
            "there is nothing to tell apart"
        )
    digest = hashlib.sha256()
    hashed = cache(lambda file: hashlib.sha256(file.read_bytes()).digest())  # a volume is the file of many samples
    for sample in (*train, *val):
        for file in (sample.image, *sample.labels):
            digest.update(f"{sample.name}\0{file.name}\0".encode(errors="surrogateescape"))
            digest.update(hashed(file))
    return Job(made, found, coding, train, val, read, digest.hexdigest(), start, overfit is not None)


def _images(samples: Sequence[Sample], read: Mapping[str, list[Contents]], workers: int) -> dict[str, str]:
    """Name → what is wrong, of images that cannot be decoded.

    Raises:
        DataError: a label has another size than its image.
    """

    def of(sample: Sample) -> tuple[int, int] | str:
        try:
            return image_size(sample)
        except (SegtwinError, ValueError, OSError, MemoryError) as error:
            return why_not(error, sample)

    # around the threads: the filters are the whole process'
    with warnings.catch_warnings(), ThreadPoolExecutor(max(1, workers)) as pool:
        warnings.simplefilter("ignore", Converted)  # said when it is read for training
        sizes = dict(zip([sample.name for sample in samples], pool.map(of, samples), strict=True))
    for sample in samples:
        size = sizes[sample.name]
        for label in read[sample.name]:
            if isinstance(size, tuple) and not label.error and label.size != size:
                raise DataError(
                    f"{label.file}: has {label.size[0]}×{label.size[1]} pixels, and {sample.image} {size[0]}×{size[1]}"
                )
    return {name: size for name, size in sizes.items() if isinstance(size, str)}


def _start(
    network: str, weights: str | os.PathLike[str] | Weights | None, num_classes: int | None, say: Callable[[str], None]
) -> Weights | None:
    """Starting weights of this network, converted where they are another's."""
    if weights is None:
        return None
    found = weights if isinstance(weights, Weights) else segtwin_weights.read(weights)
    try:
        own = segtwin_weights.network_of(found)
    except ValueError:
        own = None
    if own == network:
        have = found.metadata.get("num_classes")
        if num_classes is not None and have is not None and num_classes != have:
            raise RunError(f"the weights have {have} classes, and {num_classes} are asked for; leave num_classes out")
        return found
    say(f"the weights are converted to {network}")
    return segtwin_weights.convert(found, to=network, num_classes=num_classes)


def _check_start(made: Recipe) -> None:
    """Refuse a start without weights that learns nothing."""
    architecture = made.architecture
    first = next(one for one in architecture.parameters() if one.lr_mult and one.name.endswith("weight"))
    if first.fill == 0.0:  # score layers may well start at zero
        raise RunError(
            f"{made.network} starts at zero, as its original does, and zeros learn nothing; give --weights (vgg16.npy, "
            "or a stage before)"
        )


# ------------------------------------------------------------------------------------------- the run


def run(
    job: Job,
    learner: Learner,
    folder: str | os.PathLike[str],
    resume: bool = False,
    overwrite: bool = False,
    framework: str = "",
    progress: Callable[[Said], None] = lambda said: None,
    say: Callable[[str], None] = lambda line: None,
    workers: int = WORKERS,
) -> Result:
    """Train.

    Args:
        job: of `prepare`.
        learner: of a twin.
        folder: of the run.
        resume: go on from its last state.
        overwrite: begin anew in a folder that holds a run.
        framework: for the log.
        progress: told of every step.
        say: takes each line that the user should read.
        workers: threads that make batches.

    Raises:
        RunError: the folder holds a run and neither `resume` nor `overwrite` is given; there is nothing
            to resume; it was another recipe, network or data; the loss is no number.
        KeyboardInterrupt: as it came, after a checkpoint.
        OSError: a file cannot be written.
    """
    path = Path(folder)
    recipe, processes = job.recipe, learner.processes
    streams = {
        "train": Stream(
            job.train, job.coding, learner.architecture, learner.preprocessing, learner.in_channels, recipe.batch,
            recipe.seed, recipe.augmentation, recipe.order, recipe.loss == "border", (processes.rank, processes.size),
        )
    }  # fmt: skip
    log, begin = _opened(path, job, learner, resume, overwrite, framework, say)
    if job.val:
        streams["val"] = Stream(
            job.val, job.coding, learner.architecture, learner.preprocessing, learner.in_channels, order="listed"
        )
    checked = streams.get("val") or streams["train"]
    if not job.val:
        say("there is nothing else to validate with: scores are of the images that are learned, and too good")
    board = Log(path / "tensorboard" if processes.rank == 0 else None, begin)
    step = begin
    try:
        batches = streams["train"].batches(begin * recipe.iter_size, recipe.steps * recipe.iter_size, workers)
        while True:
            if _due(log, recipe, step):
                scores = validated(job, learner, checked)
                _judge(job, learner, checked, log, scores, step, say)
                _kept(path, learner, log, scores, step)
                board.scores(scores, step)
                board.weights(learner.weights(), step)
                if processes.rank == 0:
                    board.pictures(_example(job, learner, checked), step)
                log["validations"].append({"step": step, **scores})
                checkpoint(path, learner, log, step)
                progress(Said(step, recipe.steps, log["steps"][-1][1], log["steps"][-1][2], 0.0, scores))
            if step >= recipe.steps:
                break
            clock = time.perf_counter()
            group = [next(batches) for _ in range(recipe.iter_size)]
            rate = recipe.solver.learning_rate(step)
            with uninterrupted():  # half a step would be a state that no other run comes to
                loss = learner.step(step, group, rate)
                if not np.isfinite(loss):
                    raise RunError(diverged(recipe, step, loss, rate, path))
                step += 1
                log["steps"].append([step, loss, rate])
            spent = time.perf_counter() - clock
            board.scalar("loss", loss, step)
            board.scalar("learning_rate", rate, step)
            progress(Said(step, recipe.steps, loss, rate, recipe.batch * recipe.iter_size / max(spent, 1e-9)))
    except KeyboardInterrupt:
        if processes.size == 1:  # else another may be a step behind: what was written last holds
            with uninterrupted():
                checkpoint(path, learner, log, step)
            say(f"interrupted after step {step}; {path / STATE} holds it, --resume goes on")
        raise
    finally:
        board.close()
    if processes.rank == 0:
        curves(path / "curves.png", log)
    loss, scores = log["steps"][-1][1], log["validations"][-1]
    return Result(path, step, loss, scores, log["best"], log["causes"], processes.rank)


def _due(log: Mapping[str, Any], recipe: Recipe, step: int) -> bool:
    """Whether a step has to be validated, and was not before an interruption."""
    last = log["validations"][-1]["step"] if log["validations"] else 0
    return step > last and (step % recipe.every == 0 or step == recipe.steps)


def _opened(
    path: Path,
    job: Job,
    learner: Learner,
    resume: bool,
    overwrite: bool,
    framework: str,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], int]:
    """The log, and the step to begin with."""
    there = (path / RECIPE).exists() or (path / STATE).exists()
    if resume:
        return _resumed(path, job, learner, framework, say)
    if there and not overwrite and learner.processes.rank == 0:
        raise RunError(
            f"{path}: holds a run already; go on with it by --resume, or choose another folder, or --overwrite"
        )
    log: dict[str, Any] = {
        "network": job.recipe.network,
        "framework": framework,
        "recipe": asdict(job.recipe),
        "data": {
            "folder": str(job.data.folder), "layout": job.data.layout, "labels": job.coding.words,
            "sha256": job.data_hash, "train": [sample.name for sample in job.train],
            "val": [sample.name for sample in job.val],
        },
        "start": None if job.start is None else {**job.start.metadata, "fingerprint": job.start.fingerprint()},
        "versions": versions(),
        "processes": learner.processes.size,
        "steps": [],
        "validations": [],
        "best": {},
        "causes": [],
    }  # fmt: skip
    if learner.processes.rank:
        return log, 0
    path.mkdir(parents=True, exist_ok=True)
    with whole(path / RECIPE, replace=True) as draft:
        draft.write_text(job.recipe.toml(), encoding="utf-8")
    for name in (STATE, LAST, BEST, LOG):
        (path / name).unlink(missing_ok=True)
    checkpoint(path, learner, log, 0)
    return log, 0


def _resumed(
    path: Path, job: Job, learner: Learner, framework: str, say: Callable[[str], None]
) -> tuple[dict[str, Any], int]:
    """Log and step of a run that was stopped; the learner is put where it was."""
    if not (path / STATE).is_file():
        raise RunError(f"{path}: holds no {STATE}, nothing to resume; leave --resume out to begin")
    try:
        log = json.loads((path / LOG).read_text(encoding="utf-8"))
        arrays = load_file(path / STATE)
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: {STATE} or {LOG} is damaged ({' '.join(str(error).split())}); begin anew") from None
    before = recipes.make(log["network"], log["recipe"]) if log["network"] == job.recipe.network else None
    if before is None:
        raise RunError(f"{path}: is a run of {log['network']}, and {job.recipe.network} is asked for")
    if other := [name for name in recipes.changed(before, job.recipe) if name != "steps"]:
        raise RunError(
            f"{path}: was begun with another recipe: {other[0]} was {getattr(before, other[0])!r} and is "
            f"{getattr(job.recipe, other[0])!r}; a run is resumed as it was begun ({RECIPE})"
        )
    if log["data"]["sha256"] != job.data_hash:
        was, now = set(log["data"]["train"] + log["data"]["val"]), {one.name for one in (*job.train, *job.val)}
        change = (
            f"{len(now - was)} images are new and {len(was - now)} are gone" if was != now else "a file has changed"
        )
        raise RunError(f"{path}: was begun with other data: {change}; begin anew in another folder")
    step = int(arrays.pop("step"))
    if job.recipe.steps < step:
        raise RunError(f"{path}: has done {step} steps, and {job.recipe.steps} are asked for")
    weights = {name.removeprefix("weights/"): one for name, one in arrays.items() if name.startswith("weights/")}
    state = {name.removeprefix("state/"): one for name, one in arrays.items() if name.startswith("state/")}
    learner.restore(weights, state, step)
    log["steps"] = log["steps"][:step]
    log["validations"] = [one for one in log["validations"] if one["step"] <= step]
    if job.recipe.lr_policy == "poly" and job.recipe.steps != before.steps:
        say(
            f"the learning rate falls to zero over all steps (poly): it was planned for {before.steps}, and from here "
            f"on is that of {job.recipe.steps}"
        )
    log["recipe"]["steps"] = job.recipe.steps
    if framework and framework != log["framework"]:
        log["framework"] = f"{log['framework']}, {framework} from step {step}"
    if learner.processes.rank == 0:
        with whole(path / RECIPE, replace=True) as draft:
            draft.write_text(job.recipe.toml(), encoding="utf-8")
    return log, step


def checkpoint(path: Path, learner: Learner, log: Mapping[str, Any], step: int) -> None:
    """State, weights and log, published together: what is there before stays until they are whole. The
    first process writes."""
    if learner.processes.rank:
        return
    weights = learner.weights()
    arrays = {f"weights/{name}": np.require(blob, requirements="C") for name, blob in weights.items()}
    arrays |= {f"state/{name}": np.require(one, requirements="C") for name, one in learner.state().items()}
    arrays["step"] = np.array(step, np.int64)
    with whole_together(path / STATE, path / LAST, path / LOG, replace=True) as (state, last, facts):
        save_file(arrays, state)
        segtwin_weights.write(hub(learner, step), last)
        facts.write_text(json.dumps(_plain(log), indent=1, ensure_ascii=False), encoding="utf-8")


def hub(learner: Learner, step: int) -> Weights:
    """Weights as a file has them: float32, with what is known of them."""
    weights = learner.weights()
    blobs = {name: blob.astype(np.float32) if blob.dtype == np.float64 else blob for name, blob in weights.items()}
    prepared = learner.preprocessing.for_channels(learner.in_channels).asdict()
    more = {"preprocessing": prepared, "source": f"segtwin train, {step} steps"}
    return Weights(blobs, {name: one for name, one in weights.metadata.items() if name != "synthetic"} | more)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def versions() -> dict[str, str]:
    """Of everything that computes."""
    found = {"python": platform.python_version(), "machine": platform.processor() or platform.machine()}
    for name in ("segtwin", "numpy", "scipy", "pillow", "torch", "tensorflow", "keras"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# ------------------------------------------------------------------------------------- validation


def indices(learner: Learner) -> int:
    """Classes of a mask: those of the network, and the background beside a single one."""
    return max(2, learner.num_classes)


def predicted(learner: Learner, data: np.ndarray) -> np.ndarray:
    """H×W classes of one image, 1×C×H×W as it was preprocessed."""
    output = inference.whole_output(learner.output, data, learner.architecture)
    if learner.num_classes == 1:
        return (output[0, 0] >= 0).astype(np.uint8)  # a logit of 0 is a probability of ½
    return np.asarray(output[0].argmax(0))


def validated(job: Job, learner: Learner, stream: Stream) -> dict[str, Any]:
    """The four metrics, IoU and Dice of whole images, as they are in the files; each process predicts
    its part of them."""
    confusion, processes = Confusion(indices(learner)), learner.processes
    for index in range(processes.rank, len(stream.samples), processes.size):
        values, label = stream.decoded(index)
        data = learner.preprocessing.for_channels(learner.in_channels).apply(values[np.newaxis])
        confusion.add(label, predicted(learner, data))
    confusion.counts = processes.total(confusion.counts.astype(np.float64)).astype(np.int64)
    return confusion.asdict()


def _judge(
    job: Job,
    learner: Learner,
    stream: Stream,
    log: dict[str, Any],
    scores: dict[str, Any],
    step: int,
    say: Callable[[str], None],
) -> None:
    """Notice a collapse, and say its likely cause, once."""
    found = collapse.causes(
        job.recipe, scores, log["steps"], [*log["validations"], scores], job.coding,
        [one for sample in job.train for one in job.contents[sample.name]], job.start is not None,
        lambda: zero(learner), lambda: dead(learner, stream),
    )  # fmt: skip
    for cause in found:
        if cause not in log["causes"]:
            log["causes"].append(cause)
            say(cause)
    if job.overfit and step >= job.recipe.steps:
        accuracy = scores["pixel_accuracy"] or 0.0
        say(
            f"learned by heart: {accuracy:.2%} of the pixels are right"
            if accuracy >= LEARNED
            else f"NOT learned by heart: {accuracy:.2%} of the pixels are right after {step} steps; before training on "
            "more data look at the labels (segtwin check-data), the learning rate and the loss"
        )


def zero(learner: Learner) -> list[str]:
    """Trained kernels that are all zero."""
    weights, names = learner.weights(), [one.name for one in trained(learner.architecture)]
    return [name for name in names if name in weights and weights[name].ndim == 4 and not weights[name].any()]


def dead(learner: Learner, stream: Stream) -> list[str]:
    """Layers whose ReLU lets nothing through, of the first image that validates."""
    data, _, _, _ = stream.one(0)
    blobs = learner.blobs(data[np.newaxis])
    layers = [one.name for one in learner.architecture.layers if one.relu]
    return [name for name in layers if name in blobs and not blobs[name].any()]


def _kept(path: Path, learner: Learner, log: dict[str, Any], scores: dict[str, Any], step: int) -> None:
    """Write the best network."""
    reached = scores["mean_iou"] if scores["mean_iou"] is not None else -1.0
    if reached > log["best"].get("mean_iou", -2.0):
        log["best"] = {"step": step, "mean_iou": reached}
        if learner.processes.rank == 0:
            with whole(path / BEST, replace=True) as draft:
                segtwin_weights.write(hub(learner, step), draft)


def _example(job: Job, learner: Learner, stream: Stream) -> np.ndarray:
    """H×W×3: an image's label and what is predicted, beside each other."""
    values, label = stream.decoded(0)
    data = learner.preprocessing.for_channels(learner.in_channels).apply(values[np.newaxis])
    if indices(learner) > inference.MOST_CLASSES:
        return inference.shown(values[..., :1]).repeat(3, 2)
    return np.concatenate(inference.overlays(values, [label, predicted(learner, data)], indices(learner))[1], axis=1)


def diverged(recipe: Recipe, step: int, loss: float, rate: float, path: Path) -> str:
    """Why a loss is no number any more."""
    scale = (
        f"the loss is a sum over pixels (normalization {recipe.normalization}), which takes rates as 1e-10 (fcn32s) to "
        "1e-14 (fcn8s)"
        if recipe.summed
        else "the loss is a mean over pixels"
    )
    return (
        f"the loss is {loss} at step {step + 1}, with the learning rate {rate:g}; {scale}: take a tenth of the rate or "
        f"less ({path / LAST} holds the last good checkpoint)"
    )


def curves(path: Path, log: Mapping[str, Any]) -> None:
    """A picture of the loss and of the scores; nothing where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    steps, losses, _ = zip(*log["steps"], strict=True)
    left.plot(steps, losses, color="#1f77b4", alpha=0.3, linewidth=0.8, label="each step")
    window = max(1, len(losses) // 50)
    smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
    left.plot(steps[window - 1 :], smooth, color="#1f77b4", label=f"mean of {window}")
    left.set(xlabel="step", ylabel="loss", title="training loss")
    if min(losses) > 0 and max(losses) > 20 * min(losses):
        left.set_yscale("log")
    left.legend(frameon=False)
    for name, label in (("pixel_accuracy", "pixel accuracy"), ("mean_iou", "mean IoU"), ("mean_dice", "mean Dice")):
        values = [one[name] for one in log["validations"]]
        right.plot([one["step"] for one in log["validations"]], values, marker=".", label=label)
    right.set(xlabel="step", ylim=(0, 1), title="validation")
    right.legend(frameon=False)
    with whole(path, replace=True) as draft:
        canvas.print_figure(draft, dpi=110, format="png")
