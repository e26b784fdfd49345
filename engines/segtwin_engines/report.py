"""The report of a comparison: an HTML page, its facts as JSON, and a picture for each image."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from segtwin.files import check_target, whole_together
from segtwin.noise import BOUND
from segtwin.palette import voc_palette
from segtwin.printable import json_text, printable

from segtwin_engines.comparison import Comparison, of_one_number
from segtwin_engines.contestants import AS_CAFFE
from segtwin_engines.facts import facts_of
from segtwin_engines.training_comparison import TRUTH

if TYPE_CHECKING:
    from segtwin_engines.comparison import Parity


def report_files(path: Path, images: int) -> list[Path]:
    """A picture of each image, the facts, and the page."""
    pictures = [path.with_suffix(".png")] + [
        path.with_name(f"{path.stem}-{number}.png") for number in range(2, images + 1)
    ]
    return [*pictures, path.with_suffix(".json"), path]


def check_report(path: str | os.PathLike[str], images: int, overwrite: bool) -> None:
    """Refuse a name for a report, before any work.

    Raises:
        ValueError: it does not end in .html.
        OSError: one of its files is there already, or cannot be written.
    """
    if Path(path).suffix != ".html":
        raise ValueError(f"{path}: the report is an .html file")
    for file in report_files(Path(path), images):
        check_target(file, overwrite)


def write_report(parity: Parity, path: str | os.PathLike[str], overwrite: bool) -> None:
    """`path`, and .json and .png beside it (one .png per image: STEM-2.png … from the second on)."""
    check_report(path, len(parity.comparisons), overwrite)
    page_file = Path(path)
    facts = facts_of(parity)
    classes = classes_of(parity)
    kind = "probability" if parity.architecture.sigmoid else "logit"
    pictures = [draw(one, kind, classes[one.varied], parity.synthetic) for one in parity.comparisons]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segtwin_engines", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["dataurl"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    environment.filters["transposed"] = lambda rows: zip(*rows, strict=True)
    environment.filters["chart"] = chart
    page = environment.get_template("report.html.j2").render(
        facts=facts,
        classes=classes,
        of_one_number=of_one_number(parity.probed),
        architecture=parity.architecture,
        comparisons=list(zip(parity.comparisons, pictures, strict=True)),
        engines=parity.labels,
        bound=BOUND,
        parity=parity,
        judged=sum(len(one.errors) for comparison in parity.comparisons for one in comparison.measured),
        missed=sum(len(one.missed_by) for comparison in parity.comparisons for one in comparison.measured),
        passed=parity.equal,
    )
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False)
    with whole_together(*report_files(page_file, len(pictures))) as (*drafts, facts_draft, page_draft):
        for draft, picture in zip(drafts, pictures, strict=True):
            draft.write_bytes(picture)
        facts_draft.write_text(json_text(text) + "\n", encoding="utf-8")
        page_draft.write_text(page, encoding="utf-8")


def classes_of(parity: Parity) -> list[str]:
    """The names of the output's channels, or their numbers. A single one is of the class beside the background."""
    count = len(parity.comparisons[0].logits[TRUTH])
    names = parity.weights.metadata.get("classes")
    return list(names[-count:]) if names else [str(number + (count == 1)) for number in range(count)]


def chart(comparison: Comparison) -> str:
    """Every engine's error through the depth of the network, beside the bounds: an SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(10, 3.8), layout="constrained")
    names = [blob.name for blob in comparison.blobs]
    for engine in comparison.blobs[0].errors:
        axis.plot(
            names,
            [blob.errors[engine] for blob in comparison.blobs],
            "-" if engine in AS_CAFFE else "--",
            label=engine,
            linewidth=1.2,
        )
    axis.axhline(BOUND, color="black", linewidth=0.8, label="bound of Caffe's arithmetic")
    axis.plot(
        names,
        [blob.default_bound for blob in comparison.blobs],
        color="grey",
        linewidth=0.8,
        label="bound of default kernels",
    )
    axis.set_yscale("log")
    axis.set_ylabel("error in noise floors")
    axis.tick_params(axis="x", rotation=90, labelsize=7)
    figure.legend(fontsize=7, ncols=4, loc="outside lower center")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = buffer.getvalue()
    return '<div class="chart">' + svg[svg.index("<svg") :] + "</div>"


def draw(comparison: Comparison, kind: str, class_name: str, synthetic: bool) -> bytes:
    """Each engine's classes, its output for the class that varies most, and how far its output is
    from the float64 run; and the image (PNG).

    Args:
        comparison: of one image.
        kind: what the output is, "logit" or "probability".
        class_name: of the class that varies most.
        synthetic: whether the weights are.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    image, views = comparison.picture, comparison.views
    palette = voc_palette()
    low, high = float(views[TRUTH].logits.min()), float(views[TRUTH].logits.max())
    height = min(max(3 * image.shape[0] / image.shape[1], 1), 4.5)
    figure, axes = plt.subplots(
        len(views) + 1,
        3,
        figsize=(10.5, (height + 0.1) * len(views) + 0.8),
        height_ratios=[*[height] * len(views), 0.12],
        layout="constrained",
        dpi=110,
    )
    for line, (engine, view) in enumerate(views.items()):
        axes[line, 0].imshow(palette[view.labels])
        axes[line, 0].set_ylabel(engine.replace(" (", "\n("), fontsize=9)
        logits = axes[line, 1].imshow(view.logits, vmin=low, vmax=high, cmap="viridis")
        if line:
            distance = axes[line, 2].imshow(view.difference, vmin=0, vmax=BOUND, cmap="magma")
            axes[line, 2].set_xlabel(f"at most {view.difference.max():.2f}", fontsize=8)
    axes[0, 2].imshow(image)
    for axis in axes[:-1].flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis, title in zip(axes[0], ("class", f"{kind} of class {printable(class_name)}", "the image"), strict=True):
        axis.set_title(title, fontsize=10)
    axes[1, 2].set_title(f"|{kind} − float64| in noise floors", fontsize=10)
    axes[-1, 0].axis("off")
    for axis, shown in zip(axes[-1, 1:], (logits, distance), strict=True):
        figure.colorbar(shown, cax=axis, orientation="horizontal", ticks=MaxNLocator(5)).ax.tick_params(labelsize=8)
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
