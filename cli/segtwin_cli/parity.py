"""`segtwin parity`: the proof, on your weights and your images.

Four engines — PyTorch, Keras, and ONNX Runtime on the file exported from each — compute every blob of a network; each blob is compared with the
numpy oracle in float64. What an engine is allowed is a multiple of what float32 costs Caffe: the distance of the same oracle in float32, which
computes as Caffe does (im2col and one matrix product a layer), is the noise floor of each blob. No engine under test has a part in it.
"""

from __future__ import annotations

import base64
import io
import json
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import jinja2
import numpy as np
import segtwin
import segtwin_weights
from segtwin import oracle
from segtwin.files import whole
from segtwin.palette import voc_palette
from segtwin_weights import metadata

from segtwin_cli.engines import onnx_blobs
from segtwin_cli.export import framework_twin, read_network
from segtwin_cli.extras import require
from segtwin_cli.pictures import best_class, picture_of
from segtwin_cli.terminal import overwrite_option, quiet_option, steps

BOUND = 4.0
"""Noise floors that an engine may be away from the truth. Real engines stay within about 1.6; a wrong pixel or bias is thousands."""
LEAST_FLOOR = 2.0**-23
"""One float32 unit in the last place."""
ENGINES = ("PyTorch", "Keras", "ONNX Runtime (torch export)", "ONNX Runtime (Keras export)")
ONEDNN = "PyTorch (oneDNN)"
"""torch's default kernels on the CPU: shown, not judged, because they round more than Caffe does (`segtwin_torch.caffe_arithmetic`)."""
TRUTH = "float64 (numpy)"


@dataclass
class Blob:
    """One blob of one image: its noise floor and every engine's error, both relative to the largest value of the blob."""

    name: str
    shape: tuple[int, ...]
    largest: float
    floor: float
    errors: dict[str, float]

    @property
    def worst(self) -> float:
        """The largest error of the judged engines, in noise floors."""
        return max(self.errors[engine] for engine in ENGINES) / self.floor


@dataclass
class Comparison:
    """One image through every engine."""

    image: str
    size: tuple[int, int]
    blobs: list[Blob]
    logits: dict[str, list[float]]
    """Scores of every class at the middle pixel."""
    agreement: dict[str, float]
    """Share of the pixels whose best class is that of the float64 run."""

    @property
    def worst(self) -> float:
        """The largest error of any blob in any engine, in noise floors."""
        return max(blob.worst for blob in self.blobs)


@click.command()
@click.argument("weights", type=click.Path())
@click.argument("images", type=click.Path(), nargs=-1, required=True)
@click.option("--report", type=click.Path(), help="Write an HTML page here, and .json and .png beside it.")
@click.option("--torch-onnx", type=click.Path(), help="Test this export of the torch model, not a fresh one.")
@click.option("--keras-onnx", type=click.Path(), help="Test this export of the Keras model, not a fresh one.")
@overwrite_option
@quiet_option
def parity(
    weights: str, images: tuple[str, ...], report: str | None, torch_onnx: str | None, keras_onnx: str | None, overwrite: bool, quiet: bool
) -> int:
    """Compare every blob of WEIGHTS' network on IMAGES in PyTorch, Keras and ONNX Runtime with a float64 run. Status 1 when a bound is missed."""
    if report is not None:
        if Path(report).suffix != ".html":
            raise click.ClickException(f"{report}: the report is an .html file")
        for suffix in (".html", ".json", ".png"):
            if Path(report).with_suffix(suffix).exists() and not overwrite:
                raise click.ClickException(f"{Path(report).with_suffix(suffix)}: exists already; choose another name or add --overwrite")
    require("torch", "keras", "onnxruntime", purpose="parity")
    with steps(3 + 7 * len(images), quiet) as step, tempfile.TemporaryDirectory(prefix="segtwin-") as folder:
        step(f"reading {weights}")
        loaded, found = read_network(weights)
        row = segtwin.get_architecture(found)
        channels = segtwin_weights.dimensions(loaded, row).in_channels
        preprocessing, known = metadata.preprocessing_of(loaded, row, channels)
        if not known and not quiet:
            click.echo(f"note: {weights} does not state its preprocessing; assumed: {preprocessing.describe()}", err=True)
        inputs = [(name, segtwin.preprocess(name, preprocessing, channels), picture_of(name)) for name in images]
        for name, data, _ in inputs:
            try:
                row.check_size(*data.shape[2:])
            except ValueError as error:
                raise click.ClickException(f"{name}: {error}") from None
        engines = start_engines(row, loaded, Path(folder), torch_onnx, keras_onnx, step)
        compared = [compare(name, data, image, row, loaded, engines, step) for name, data, image in inputs]
    comparisons = [comparison for comparison, _ in compared]
    passed = all(comparison.worst < BOUND for comparison in comparisons)
    if report is not None:
        write_report(Path(report), row, loaded, comparisons, [picture for _, picture in compared], passed)
    if not quiet:
        for comparison in comparisons:
            worst = max(comparison.blobs, key=lambda blob: blob.worst)
            click.echo(f"{comparison.image}: worst blob {worst.name}, {worst.worst:.2f} of the noise floor (bound {BOUND:g})")
    click.echo(f"parity of {row.name} {'holds' if passed else 'FAILS'}" + (f": {report}" if report else ""))
    if loaded.metadata.get("synthetic"):
        click.secho(
            "The weights are SYNTHETIC, not trained: the engines are compared, the segmentation means nothing.", fg="yellow", bold=True, err=True
        )
    return 0 if passed else 1


Engine = Callable[[np.ndarray], dict[str, np.ndarray]]


def start_engines(
    row: segtwin.Row,
    weights: segtwin_weights.Weights,
    folder: Path,
    torch_onnx: str | None,
    keras_onnx: str | None,
    step: Callable[[str], None],
) -> dict[str, Engine]:
    """Engine name → N×C×H×W data to blobs. torch comes first: TensorFlow, then torchvision, would abort the interpreter."""
    options = segtwin_weights.dimensions(weights, row)._asdict()
    models: dict[str, Any] = {}
    files = {"torch": torch_onnx, "keras": keras_onnx}
    for framework in ("torch", "keras"):
        step(f"building and exporting the {framework} model")
        twin = framework_twin(framework)
        models[framework] = twin, twin.build(row.name, **options, weights=weights)
        if files[framework] is None:
            files[framework] = str(folder / f"{framework}.onnx")
            twin.export_onnx(models[framework][1], files[framework])
    (torch_twin, torch_model), (keras_twin, keras_model) = models["torch"], models["keras"]
    compute: list[Engine] = [
        lambda data: torch_twin.blobs(torch_model, data),
        lambda data: keras_twin.blobs(keras_model, data),
        lambda data: onnx_blobs(str(files["torch"]), data, row.exported),
        lambda data: onnx_blobs(str(files["keras"]), data, row.exported),
    ]
    return {**dict(zip(ENGINES, compute, strict=True)), ONEDNN: lambda data: torch_twin.blobs(torch_model, data, caffe=False)}


def noise_floors(row: segtwin.Row, weights: segtwin_weights.Weights, data: np.ndarray, truth: dict[str, np.ndarray]) -> dict[str, float]:
    """Blob → what float32 costs there, relative to its largest value.

    It is one run's distance from the truth, but never less than that of a blob it is computed from: what came in with an error goes out with one,
    unless by luck, which the next engine need not have. (It matters in small blobs, where few numbers make a maximum.)
    """
    own = {name: oracle.relative_error(blob, truth[name]) for name, blob in oracle.blobs(row, weights, data, "float32")}
    floors = {row.input: LEAST_FLOOR}
    for layer in row.layers:
        floors[layer.name] = max(own.get(layer.name, 0.0), *(floors[bottom] for bottom in layer.bottoms))
    return floors


def compare(
    name: str,
    data: np.ndarray,
    image: np.ndarray,
    row: segtwin.Row,
    weights: segtwin_weights.Weights,
    engines: dict[str, Engine],
    step: Callable[[str], None],
) -> tuple[Comparison, bytes]:
    """One image through every engine, and the picture of it (PNG)."""
    step(f"{name}: float64")
    truth = oracle.run(row, weights, data)
    step(f"{name}: noise floor")
    floors = noise_floors(row, weights, data, truth)
    blobs = [Blob(blob, truth[blob].shape, float(np.abs(truth[blob]).max()), floors[blob], {}) for blob in row.exported[1:]]
    outputs: dict[str, np.ndarray] = {TRUTH: truth[row.output]}
    for engine, compute in engines.items():
        step(f"{name}: {engine}")
        values = compute(data)
        for one in blobs:
            one.errors[engine] = oracle.relative_error(values[one.name], truth[one.name])
        outputs[engine] = values[row.output]
    best = best_class(truth[row.output])
    middle = (0, slice(None), best.shape[1] // 2, best.shape[2] // 2)
    comparison = Comparison(
        image=Path(name).name,
        size=(image.shape[0], image.shape[1]),
        blobs=blobs,
        logits={engine: [float(score) for score in output[middle]] for engine, output in outputs.items()},
        agreement={engine: float((best_class(output) == best).mean()) for engine, output in outputs.items()},
    )
    return comparison, draw(image, outputs, blobs[-1].floor, bool(weights.metadata.get("synthetic")))


def draw(image: np.ndarray, outputs: dict[str, np.ndarray], floor: float, synthetic: bool) -> bytes:
    """Each engine's classes, its logits of the class that varies most, and how far its logits are from the float64 run; and the image (PNG)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    palette = voc_palette()
    truth = outputs[TRUTH]
    varied = int(truth[0].std(axis=(1, 2)).argmax())
    low, high = float(truth[0, varied].min()), float(truth[0, varied].max())
    figure, axes = plt.subplots(3, len(outputs), figsize=(3 * len(outputs), 6.6), layout="constrained", dpi=110)
    for column, (engine, output) in enumerate(outputs.items()):
        axes[0, column].imshow(palette[best_class(output)[0]])
        axes[0, column].set_title(engine, fontsize=9)
        logits = axes[1, column].imshow(output[0, varied], vmin=low, vmax=high, cmap="viridis")
        if column:
            difference = np.abs(output[0] - truth[0]).max(0) / (np.abs(truth).max() * floor)
            distance = axes[2, column].imshow(difference, vmin=0, vmax=BOUND, cmap="magma")
            axes[2, column].set_title(f"at most {difference.max():.2f}", fontsize=9)
    axes[2, 0].imshow(image)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0, 0].set_ylabel("class")
    axes[1, 0].set_ylabel(f"logit of class {varied}")
    axes[2, 0].set_ylabel("the image")
    figure.colorbar(logits, ax=axes[1, :], aspect=12)
    figure.colorbar(distance, ax=axes[2, :], aspect=12, label="|logit − float64|\nin noise floors")
    if synthetic:
        figure.suptitle("SYNTHETIC weights, not trained: the engines are compared, the classes mean nothing", color="#b36b00", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def write_report(
    path: Path, row: segtwin.Row, weights: segtwin_weights.Weights, comparisons: list[Comparison], pictures: list[bytes], passed: bool
) -> None:
    """`path`, and .json and .png beside it (one .png an image: STEM-2.png … from the second on)."""
    facts = {
        "row": row.name,
        "verdict": "equal" if passed else "DIFFERENT",
        "bound": BOUND,
        "synthetic": bool(weights.metadata.get("synthetic")),
        "weights": {**weights.metadata, "fingerprint": weights.fingerprint()},
        "versions": {name: version(name) for name in ("segtwin", "torch", "tensorflow", "keras", "onnxruntime", "onnx", "numpy")},
        "python": platform.python_version(),
        "comparisons": [asdict(comparison) for comparison in comparisons],
    }
    names = [path.with_suffix(".png")] + [path.with_name(f"{path.stem}-{number}.png") for number in range(2, len(pictures) + 1)]
    for name, picture in zip(names, pictures, strict=True):
        with whole(name) as draft:
            draft.write_bytes(picture)
    with whole(path.with_suffix(".json")) as draft:
        draft.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    environment = jinja2.Environment(loader=jinja2.PackageLoader("segtwin_cli", "."), autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["dataurl"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    page = environment.get_template("report.html.j2").render(
        facts=facts,
        row=row,
        comparisons=list(zip(comparisons, pictures, strict=True)),
        engines=[*ENGINES, ONEDNN],
        judged=ENGINES,
        bound=BOUND,
        passed=passed,
    )
    with whole(path) as draft:
        draft.write_text(page, encoding="utf-8")
