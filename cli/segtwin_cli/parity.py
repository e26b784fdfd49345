"""`segtwin parity`: the proof, on your weights and your images.

Four engines — PyTorch, Keras, and ONNX Runtime on the file exported from each — compute every blob
of a network; each blob is compared with the numpy oracle in float64. What an engine is allowed is a
multiple of what float32 costs Caffe: the distance of the same oracle in float32, which computes as
Caffe does (im2col and one matrix product a layer), is the noise floor of each blob. No engine under
test has a part in it.
"""

from __future__ import annotations

import base64
import io
import json
import os
import platform
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import jinja2
import numpy as np
import segtwin
import segtwin_weights
from segtwin import memory, noise, oracle
from segtwin.architectures import get_architecture
from segtwin.files import whole_together
from segtwin.noise import BOUND
from segtwin.palette import voc_palette
from segtwin_weights import metadata
from segtwin_weights import names as names_of_weights
from segtwin_weights.onnx_check import load_graph

from segtwin_cli.decoders import quiet_pages
from segtwin_cli.engines import onnx_blobs
from segtwin_cli.export import framework_twin, read_network
from segtwin_cli.extras import require
from segtwin_cli.pictures import best_class, picture_of_page
from segtwin_cli.preprocessing_options import chosen, preprocessing_options, range_option
from segtwin_cli.printable import json_text, printable
from segtwin_cli.running import fits
from segtwin_cli.terminal import echo, overwrite_option, quiet_option, refuse_to_replace, steps

ENGINES = ("PyTorch", "Keras", "ONNX Runtime (torch export)", "ONNX Runtime (Keras export)")
DEFAULT_KERNELS = ("PyTorch (default kernels)", "Keras (default kernels)")
"""The frameworks as a plain call computes; what their vendors' kernels may cost more than Caffe's
arithmetic follows from `segtwin.noise`."""
AS_CAFFE = ENGINES[:2]
"""What is judged by `noise.BOUND`; the others, ONNX Runtime's kernels among them, by
`noise.default_bounds`."""
JUDGED = (*ENGINES, *DEFAULT_KERNELS)
TRUTH = "float64 (numpy)"
KEPT = 3
"""Every blob is kept in float64, and once more in float32, of one engine after the other."""


@dataclass
class Blob:
    """One blob of one image: its noise floor, relative to the blob's largest value, and every
    engine's error in noise floors."""

    name: str
    shape: tuple[int, ...]
    largest: float
    floor: float
    default_bound: float
    """Noise floors that default kernels may be off here."""
    errors: dict[str, float]

    def bound(self, engine: str) -> float:
        """Noise floors that an engine may be off here."""
        return BOUND if engine in AS_CAFFE else self.default_bound

    def missed(self, engine: str) -> bool:
        """Whether an engine is beyond its bound, or gave NaN."""
        return not self.errors[engine] < self.bound(engine)

    @property
    def worst_engine(self) -> str:
        """The engine that is nearest to its bound, or farthest beyond it."""
        return max(self.errors, key=lambda engine: self.errors[engine] / self.bound(engine))

    @property
    def worst(self) -> float:
        """That engine's error in its bound: above 1 it is missed."""
        return self.errors[self.worst_engine] / self.bound(self.worst_engine)


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
        """The largest error of any blob in any engine, in the bound that holds there."""
        return max(blob.worst for blob in self.blobs)

    @property
    def verdict(self) -> str:
        """In a line: the blob and engine nearest to its bound, and by how much."""
        blob = max(self.blobs, key=lambda blob: blob.worst)
        engine = blob.worst_engine
        return (
            f"{self.image}: worst blob {blob.name} in {engine}, {blob.errors[engine]:.2f} of the noise floor "
            f"(bound {blob.bound(engine):.3g})"
        )

    def chart(self) -> str:
        """Every engine's error through the depth of the network, beside the bounds: an SVG."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        figure, axis = plt.subplots(figsize=(10, 3.2), layout="constrained")
        names = [blob.name for blob in self.blobs]
        for engine in JUDGED:
            axis.plot(
                names,
                [blob.errors[engine] for blob in self.blobs],
                "-" if engine in AS_CAFFE else "--",
                label=engine,
                linewidth=1.2,
            )
        axis.axhline(BOUND, color="black", linewidth=0.8, label="bound of Caffe's arithmetic")
        axis.plot(
            names,
            [blob.default_bound for blob in self.blobs],
            color="grey",
            linewidth=0.8,
            label="bound of default kernels",
        )
        axis.set_yscale("log")
        axis.set_ylabel("error in noise floors")
        axis.tick_params(axis="x", rotation=90, labelsize=7)
        axis.legend(fontsize=7, ncols=2)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
        svg = buffer.getvalue()
        return '<div class="chart">' + svg[svg.index("<svg") :] + "</div>"


@click.command()
@click.argument("weights", type=click.Path())
@click.argument("images", type=click.Path(), nargs=-1, required=True)
@click.option("--report", type=click.Path(), help="Write an HTML page here, and .json and .png beside it.")
@click.option("--torch-onnx", type=click.Path(), help="Test this export of the torch model, not a fresh one.")
@click.option("--keras-onnx", type=click.Path(), help="Test this export of the Keras model, not a fresh one.")
@preprocessing_options
@range_option
@overwrite_option
@quiet_option
def parity(
    weights: str,
    images: tuple[str, ...],
    report: str | None,
    torch_onnx: str | None,
    keras_onnx: str | None,
    stated: dict[str, Any],
    value_range: tuple[float, float] | None,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Compare every blob of WEIGHTS' network on IMAGES in PyTorch, Keras and ONNX Runtime with a
    float64 run. Status 1 when a bound is missed.

    --colour, --mean, --std, --scale and --bits say how the images become inputs; they overrule what
    WEIGHTS says.
    """
    if report is not None:
        if Path(report).suffix != ".html":
            raise click.ClickException(f"{report}: the report is an .html file")
        for file in report_files(Path(report), len(images)):
            refuse_to_replace(str(file), overwrite)
    require("torch", "keras", "onnxruntime", purpose="parity")
    for name in (weights, *images, torch_onnx, keras_onnx):
        if name is not None:
            os.stat(name)  # before any work: whatever is not there
    for name in (torch_onnx, keras_onnx):
        if name is not None:
            load_graph(name)

    def say(line: str) -> None:
        if not quiet:
            echo(f"note: {line}", err=True)

    with steps(3 + 8 * len(images), quiet) as step, tempfile.TemporaryDirectory(prefix="segtwin-") as folder:
        step(f"reading {weights}")
        loaded, found = read_network(weights)
        architecture = get_architecture(found)
        size = segtwin_weights.dimensions(loaded, architecture)
        channels = size.in_channels
        if not stated:
            names_of_weights.check_inputs(loaded, architecture)
        preprocessing, known = metadata.preprocessing_of(loaded, architecture, channels)
        if stated:
            preprocessing = chosen(preprocessing, stated, say, channels)
            loaded.metadata = metadata.state(loaded, preprocessing)
            known = True

        def admit(name: str, height: int, width: int) -> None:
            try:
                need = KEPT * memory.of_blobs(architecture, height, width, *size, every=True)
            except ValueError:  # a size that the network does not take is told of below
                return
            fits(name, height, width, f"{architecture.name}'s comparison", need, say)

        pictures = [first_page(name, channels, preprocessing, value_range, partial(admit, name)) for name in images]
        inputs = [
            (name, segtwin.preprocess(name, preprocessing, channels, value_range), picture)
            for name, picture in zip(images, pictures, strict=True)
        ]
        if not known and not quiet:
            echo(f"note: {weights} does not state its preprocessing; assumed: {preprocessing.describe()}", err=True)
        for name, data, _ in inputs:
            try:
                architecture.check_size(*data.shape[2:])
            except ValueError as error:
                raise click.ClickException(f"{name}: {error}") from None
        compared_weights, probed = with_probes(loaded, architecture.aliases)
        if probed and not quiet:
            names = ", ".join(probed[:4]) + (", …" if len(probed) > 4 else "")
            echo(
                f"note: {len(probed)} weights hold one number, mostly zero ({names}); compared with seeded probe "
                "values instead",
                err=True,
            )
        engines = start_engines(
            architecture,
            compared_weights,
            Path(folder),
            torch_onnx,
            keras_onnx,
            step,
            {name: loaded[name] for name in probed},
        )
        compared = [
            compare(name, data, image, architecture, compared_weights, engines, step) for name, data, image in inputs
        ]
    comparisons = [comparison for comparison, _ in compared]
    passed = not any(
        blob.missed(engine) for comparison in comparisons for blob in comparison.blobs for engine in blob.errors
    )
    if report is not None:
        origin = preprocessing.describe() + ("" if known else ", assumed from the network's name")
        write_report(
            Path(report),
            architecture,
            loaded,
            comparisons,
            [picture for _, picture in compared],
            passed,
            probed,
            origin,
        )
    if not quiet:
        for comparison in comparisons:
            echo(comparison.verdict)
    echo(f"parity of {architecture.name} {'holds' if passed else 'FAILS'}" + (f": {report}" if report else ""))
    if loaded.metadata.get("synthetic"):
        echo(
            "The weights are SYNTHETIC, not trained: the engines are compared, the segmentation means nothing.",
            fg="yellow",
            bold=True,
            err=True,
        )
    return 0 if passed else 1


def first_page(
    name: str,
    channels: int,
    preprocessing: segtwin.Preprocessing,
    value_range: tuple[float, float] | None,
    admit: Callable[[int, int], None],
) -> np.ndarray:
    """The image as it is shown, H×W×3 uint8. What is converted on the way is said when it is
    prepared for the network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", segtwin.Converted)
        return picture_of_page(
            next(quiet_pages(name, admit)),
            channels,
            preprocessing.bits if preprocessing.bits != 8 else None,
            value_range,
        )


def with_probes(
    weights: segtwin_weights.Weights, aliases: Mapping[str, str]
) -> tuple[segtwin_weights.Weights, list[str]]:
    """Weights in which no blob holds one number everywhere, and the names of the blobs that did.

    The skip layers and biases of a network that was just converted start at zero: zeros would be
    compared with zeros there, and a wrong crop would pass. BatchNorm starts at ones and zeros, and
    would pass where it is left out.

    Args:
        weights: of a network.
        aliases: blob → the one whose storage it shares (`Architecture.aliases`).
    """
    random = np.random.default_rng(15)
    probes: dict[str, np.ndarray] = {}
    for name, blob in weights.items():
        if blob.dtype.kind != "f" or not blob.size or (blob != blob.flat[0]).any() or (blob.size == 1 and blob.any()):
            continue
        if blob.any():  # a variance stays positive
            probe = blob * random.uniform(0.75, 1.25, blob.shape)
        else:
            probe = random.standard_normal(blob.shape) / np.sqrt(blob[0].size if blob.ndim > 1 else 100)
        probes[name] = probe.astype(blob.dtype)
    probes |= {
        name: probes[owner].reshape(probes[name].shape)
        for name, owner in aliases.items()
        if {name, owner} <= probes.keys()
    }
    return segtwin_weights.Weights({**weights, **probes}, weights.metadata), list(probes)


Engine = Callable[[np.ndarray], dict[str, np.ndarray]]


def start_engines(
    architecture: segtwin.Architecture,
    weights: segtwin_weights.Weights,
    folder: Path,
    torch_onnx: str | None,
    keras_onnx: str | None,
    step: Callable[[str], None],
    held: dict[str, np.ndarray],
) -> dict[str, Engine]:
    """Engine name → N×C×H×W data to blobs. torch comes first: TensorFlow, then torchvision, would
    abort the interpreter.

    `held` are the weights that have probe values here, as a file that was given holds them.
    """
    options = segtwin_weights.dimensions(weights, architecture)._asdict()
    models: dict[str, Any] = {}
    files = {"torch": torch_onnx, "keras": keras_onnx}
    for framework in ("torch", "keras"):
        step(f"building and exporting the {framework} model")
        twin = framework_twin(framework)
        models[framework] = twin, twin.build(architecture.name, **options, weights=weights)
        if files[framework] is None:
            files[framework] = str(folder / f"{framework}.onnx")
            twin.export_onnx(models[framework][1], files[framework])
    (torch_twin, torch_model), (keras_twin, keras_model) = models["torch"], models["keras"]
    compute: list[Engine] = [
        lambda data: torch_twin.blobs(torch_model, data),
        lambda data: keras_twin.blobs(keras_model, data),
        lambda data: onnx_blobs(
            str(files["torch"]), data, architecture.exported, {name: weights[name] for name in held}, held
        ),
        lambda data: onnx_blobs(
            str(files["keras"]), data, architecture.exported, {name: weights[name] for name in held}, held
        ),
    ]
    plain: list[Engine] = [
        lambda data: torch_twin.blobs(torch_model, data, caffe=False),
        lambda data: keras_twin.blobs(keras_model, data, caffe=False),
    ]
    return dict(zip(JUDGED, [*compute, *plain], strict=True))


def compare(
    name: str,
    data: np.ndarray,
    image: np.ndarray,
    architecture: segtwin.Architecture,
    weights: segtwin_weights.Weights,
    engines: dict[str, Engine],
    step: Callable[[str], None],
) -> tuple[Comparison, bytes]:
    """One image through every engine, and the picture of it (PNG)."""
    step(f"{name}: float64")
    truth = oracle.run(architecture, weights, data)
    step(f"{name}: noise floor")
    floors, bounds = noise.floors(architecture, weights, data, truth), noise.default_bounds(architecture, weights)
    blobs = [
        Blob(blob, truth[blob].shape, float(np.abs(truth[blob]).max()), floors[blob], bounds[blob], {})
        for blob in architecture.exported[1:]
    ]
    outputs: dict[str, np.ndarray] = {TRUTH: truth[architecture.output]}
    for engine, compute in engines.items():
        step(f"{name}: {engine}")
        values = compute(data)
        for one in blobs:
            one.errors[engine] = oracle.relative_error(values[one.name], truth[one.name]) / one.floor
        outputs[engine] = values[architecture.output]
    best = best_class(truth[architecture.output])
    middle = (0, slice(None), best.shape[1] // 2, best.shape[2] // 2)
    comparison = Comparison(
        image=printable(Path(name).name),
        size=(image.shape[0], image.shape[1]),
        blobs=blobs,
        logits={engine: [float(score) for score in output[middle]] for engine, output in outputs.items()},
        agreement={engine: float((best_class(output) == best).mean()) for engine, output in outputs.items()},
    )
    return comparison, draw(image, outputs, blobs[-1].floor, bool(weights.metadata.get("synthetic")))


def draw(image: np.ndarray, outputs: dict[str, np.ndarray], floor: float, synthetic: bool) -> bytes:
    """Each engine's classes, its logits of the class that varies most, and how far its logits are
    from the float64 run; and the image (PNG)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    palette = voc_palette()
    truth = outputs[TRUTH]
    varied = int(truth[0].std(axis=(1, 2)).argmax())
    low, high = float(truth[0, varied].min()), float(truth[0, varied].max())
    height = min(max(3 * image.shape[0] / image.shape[1], 1), 4.5)
    figure, axes = plt.subplots(
        len(outputs),
        3,
        figsize=(10.5, (height + 0.1) * len(outputs) + 0.7),
        layout="constrained",
        dpi=110,
        squeeze=False,
    )
    for line, (engine, output) in enumerate(outputs.items()):
        axes[line, 0].imshow(palette[best_class(output)[0]])
        axes[line, 0].set_ylabel(engine.replace(" (", "\n("), fontsize=9)
        logits = axes[line, 1].imshow(output[0, varied], vmin=low, vmax=high, cmap="viridis")
        if line:
            difference = np.abs(output[0] - truth[0]).max(0) / (np.abs(truth).max() * floor)
            distance = axes[line, 2].imshow(difference, vmin=0, vmax=BOUND, cmap="magma")
            axes[line, 2].set_xlabel(f"at most {difference.max():.2f}", fontsize=8)
    axes[0, 2].imshow(image)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis, title in zip(axes[0], ("class", f"logit of class {varied}", "the image"), strict=True):
        axis.set_title(title, fontsize=10)
    axes[1, 2].set_title("|logit − float64| in noise floors", fontsize=10)
    figure.colorbar(logits, ax=axes[:, 1], location="bottom", aspect=30)
    figure.colorbar(distance, ax=axes[:, 2], location="bottom", aspect=30)
    if synthetic:
        figure.suptitle(
            "SYNTHETIC weights, not trained: the engines are compared, the classes mean nothing",
            color="#b36b00",
            fontsize=10,
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def machine() -> dict[str, str]:
    """The processor and the kernels: roundings are theirs."""
    import torch

    model = platform.processor() or platform.machine()
    with suppress(OSError):
        model = next(
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        )
    onednn = "off" if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0" else "as TensorFlow decides"
    return {
        "processor": model,
        "PyTorch's kernels": ", ".join(
            (f"oneDNN {'on' if torch.backends.mkldnn.enabled else 'off'}", torch.backends.cpu.get_cpu_capability())
        ),
        "TensorFlow's kernels": f"oneDNN {onednn}",
    }


def report_files(path: Path, images: int) -> list[Path]:
    """A picture of each image, the facts, and the page."""
    pictures = [path.with_suffix(".png")] + [
        path.with_name(f"{path.stem}-{number}.png") for number in range(2, images + 1)
    ]
    return [*pictures, path.with_suffix(".json"), path]


def write_report(
    path: Path,
    architecture: segtwin.Architecture,
    weights: segtwin_weights.Weights,
    comparisons: list[Comparison],
    pictures: list[bytes],
    passed: bool,
    probed: list[str],
    preprocessing: str,
) -> None:
    """`path`, and .json and .png beside it (one .png an image: STEM-2.png … from the second on)."""
    facts = {
        "network": architecture.name,
        "verdict": "equal" if passed else "DIFFERENT",
        "bound": BOUND,
        "worst": [comparison.verdict for comparison in comparisons],
        "probed": probed,
        "preprocessing": preprocessing,
        "machine": machine(),
        "synthetic": bool(weights.metadata.get("synthetic")),
        "weights": {**weights.metadata, "fingerprint": weights.fingerprint()},
        "versions": {
            name: version(name) for name in ("segtwin", "torch", "tensorflow", "keras", "onnxruntime", "onnx", "numpy")
        },
        "python": platform.python_version(),
        "comparisons": [asdict(comparison) for comparison in comparisons],
    }
    names = report_files(path, len(pictures))[:-2]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segtwin_cli", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["dataurl"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    environment.filters["transposed"] = lambda rows: zip(*rows, strict=True)
    page = environment.get_template("report.html.j2").render(
        facts=facts,
        architecture=architecture,
        comparisons=list(zip(comparisons, pictures, strict=True)),
        engines=JUDGED,
        bound=BOUND,
        passed=passed,
    )
    with whole_together(*names, path.with_suffix(".json"), path) as (*drafts, facts_draft, page_draft):
        for draft, picture in zip(drafts, pictures, strict=True):
            draft.write_bytes(picture)
        facts_draft.write_text(json_text(json.dumps(facts, indent=1, ensure_ascii=False)) + "\n", encoding="utf-8")
        page_draft.write_text(page, encoding="utf-8")
