"""Damaged and hostile files, by the thousand: every reader has to answer with weights or an image,
or with an error that names the file.

    python tests/fuzz.py --cases 10000 [--seed 0] [--kinds weights | images | pth h5 …]
    [--keep FOLDER]

Real files of every format are mutated, every second along its format's own structure (`mutations`).
Each batch runs in a process of its own; one of weights may hold 3 times the file's size over what
the libraries take. A crash, a hang of 20 seconds, another exception, or half a dictionary is
counted, printed with the case that did it, and ends the run with status 1. Cases that ever failed
are kept in `corpus/`, and read by every test run.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import segtwin_weights
from mutations import plain, structured
from segtwin import images
from segtwin_weights import Weights, WeightsError

GOLDENS = Path(__file__).parent.parent / "parity_tests" / "golden"
sys.path.insert(0, str(GOLDENS))
import recipe  # noqa: E402

GOLDEN = GOLDENS / "caffe"
BATCH = 500
HANG_SECONDS = 20
IMAGES_ROOM = 1 << 30
"""Bytes that decoding an image may take: its pixels, not the file, say how many; larger ones are
refused by what `memory.free` says is left."""
PEAK: dict[str, int] = {}
"""Bytes that the last case took in Python's own memory."""
SLACK = 8 << 20
"""Bytes that a reader may hold whatever the file's size: buffers, messages, the interpreter's
objects."""


def small_files(folder: Path) -> dict[str, Path]:
    """A real file of every kind, made by the library whose format it is where that is installed."""
    import h5py
    import torch

    for name in ("tiny_vgg16_s1_v1.caffemodel", "tiny_vgg16_s1_v2.caffemodel"):
        shutil.copy(GOLDEN / name, folder / name)
    weights = segtwin_weights.read(GOLDEN / "tiny_vgg16_s1_v2.caffemodel")
    state = {name.replace("/", "."): torch.from_numpy(blob) for name, blob in weights.items()}
    torch.save(state, folder / "zip.pth")
    torch.save({"epoch": 3, "model_state_dict": state}, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    layers = recipe.vgg16_npy(1, (4, 4, 4, 4, 4, 4, 4))
    np.save(folder / "vgg16.npy", np.array(layers, dtype=object), allow_pickle=True)
    np.savez(
        folder / "vgg16_weights.npz",
        **{f"{name}_{part}": one for name, pair in layers.items() for part, one in zip("Wb", pair, strict=True)},
    )
    for suffix in (".safetensors", ".weights.h5"):
        segtwin_weights.write(weights, folder / f"small{suffix}")
    with h5py.File(folder / "old.h5", "w") as file:  # as Keras 1 and 2 wrote it
        file.attrs["layer_names"] = [b"fc1", b"fc2"]
        for layer in ("fc1", "fc2"):
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}_W".encode(), f"{layer}_b".encode()]
            group[f"{layer}_W"], group[f"{layer}_b"] = np.ones((4, 5), "f4"), np.ones(5, "f4")
    with h5py.File(folder / "small.caffemodel.h5", "w") as file:  # Caffe's HDF5 snapshot
        for name, blob in weights.items():
            file[f"data/{name.replace('/weight', '/0').replace('/bias', '/1')}"] = blob
    with h5py.File(folder / "theano.h5", "w") as file:  # Keras before 0.3, for Theano
        file.attrs["nb_layers"] = len(layers)
        for number, (kernel, bias) in enumerate(layers.values()):
            group = file.create_group(f"layer_{number}")
            group.attrs["nb_params"] = 2
            group["param_0"], group["param_1"] = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel, bias
    _onnx(weights, folder / "small.onnx")
    _keras(folder / "small.weights.h5", folder / "small.keras")
    return {path.name: path for path in sorted(folder.iterdir())}


def _onnx(weights: Weights, path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    make = onnx.helper.make_node
    nodes, initializers = [], []
    for i, (name, blob) in enumerate((name, blob) for name, blob in weights.items() if blob.size < 4000):
        tensor = numpy_helper.from_array(blob, name)
        if i % 3 == 0:
            nodes.append(make("Constant", [], [name], value=tensor))
        else:
            initializers.append(tensor)
        moved = (
            make("Transpose", [name], [f"{name}_moved"], perm=[3, 2, 0, 1])
            if blob.ndim == 4
            else make("Identity", [name], [f"{name}_moved"])
        )
        nodes += [moved, make("Conv", ["x", f"{name}_moved"], [f"y{i}"])]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "small", [], [], initializers)), path)


def _keras(weights_file: Path, path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr(
            "config.json",
            '{"class_name": "Functional", "config": {"layers": [{"class_name": "Conv2D", "config": {"name": "a"}}]}}',
        )
        archive.write(weights_file, "model.weights.h5")


def outcome(path: Path, format: str | None = None) -> str:
    """ "weights" or "refused".

    Raises:
        AssertionError: anything else came of reading the file, or it took more memory than it may.
    """
    size = path.stat().st_size
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weights = segtwin_weights.read(path, format)
        assert weights
        assert all(isinstance(name, str) and isinstance(blob, np.ndarray) for name, blob in weights.items())
        result = "weights"
        message = f"{path}:"
    except WeightsError as error:
        result, message = "refused", str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert message.startswith(f"{path}:"), f"the message does not name the file: {message}"
    assert "\n" not in message
    PEAK["bytes"] = peak
    assert peak < 3 * size + SLACK, f"{peak:,} bytes for a file of {size:,}"
    return result


def small_images(folder: Path) -> dict[str, Path]:
    """A picture of every format, mode and compression that is read."""
    import tifffile
    from PIL import Image

    architecture, column = np.mgrid[:40, :52]
    colours = np.stack([column * 4, architecture * 5, (architecture + column) * 2], -1).astype(np.uint8)
    rgb, grey = Image.fromarray(colours), Image.fromarray(colours[..., 0])
    deep, exif = Image.fromarray((column * 800).astype(np.uint16)), Image.Exif()
    exif[0x0112] = 6
    turned = {"save_all": True, "append_images": [rgb.rotate(9)]}
    made: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb.png": (rgb, {}), "grey.png": (grey, {}), "palette.png": (rgb.convert("P"), {}),
        "alpha.png": (rgb.convert("RGBA"), {}),
        "bilevel.png": (rgb.convert("1"), {}), "deep.png": (deep, {}), "animated.png": (rgb, turned),
        "rgb.jpg": (rgb, {}),
        "progressive.jpg": (rgb, {"progressive": True}), "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "exif.jpg": (rgb, {"exif": exif}),
        "plain.tif": (rgb, {}), "lzw.tif": (rgb, {"compression": "tiff_lzw"}),
        "deflate.tif": (rgb, {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": (rgb, {"compression": "jpeg"}), "group4.tif": (rgb.convert("1"), {"compression": "group4"}),
        "stack.tif": (rgb, turned),
        "float.tif": (Image.fromarray(column.astype(np.float32)), {}),
        "whole.tif": (Image.fromarray(column.astype(np.int32)), {}),
        "animated.gif": (rgb, turned), "rgb.webp": (rgb, {}), "animated.webp": (rgb, turned), "rgb.bmp": (rgb, {}),
        "rgb.ppm": (rgb, {}),
        "grey.pgm": (grey, {}), "rgb.jp2": (rgb, {}), "rgb.tga": (rgb, {}),
        "runs.tga": (rgb, {"compression": "tga_rle"}), "rgb.pcx": (rgb, {}),
        "rgb.sgi": (rgb, {}), "rgb.avif": (rgb, {}), "two.mpo": (rgb, turned),
    }  # fmt: skip
    for name, (image, options) in made.items():
        image.copy().save(
            folder / name,
            **{
                key: [one.copy() for one in value] if key == "append_images" else value
                for key, value in options.items()
            },
        )
    bands = np.random.default_rng(0).integers(0, 999, (40, 52, 5)).astype(np.uint16)
    tifffile.imwrite(folder / "bands.tif", np.moveaxis(bands, 2, 0), photometric="minisblack", planarconfig="separate")
    tifffile.imwrite(
        folder / "floats.tif",
        bands.astype(np.float32),
        compression="zlib",
        photometric="minisblack",
        planarconfig="contig",
    )
    tifffile.imwrite(folder / "big.tif", colours, bigtiff=True, photometric="rgb")
    (folder / "deep.ppm").write_bytes(b"P6 52 40 65535\n" + (colours.astype(">u2") * 200).tobytes())
    (folder / "words.ppm").write_text("P3 52 40 1000\n" + " ".join(map(str, colours.ravel())), encoding="ascii")
    np.save(folder / "array.npy", colours)
    return {path.name: path for path in sorted(folder.iterdir())}


def image_outcome(path: Path) -> str:
    """ "image" or "refused".

    Raises:
        AssertionError: a message that is not one line with the file's name. Any other exception is
            a failure, too.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            images.page_count(path)
            for page in islice(images.pages(path), 20):
                channels = page.raw.shape[2] if isinstance(page.raw, np.ndarray) and page.raw.ndim == 3 else 3
                array = page.values(channels, 16 if page.deep else None, None if page.ranged else (0, 60_000))
                assert array.ndim == 3
                assert np.isfinite(array).all()
    except images.ImageError as error:
        message = str(error)
    else:
        return "image"
    assert str(path) in message, f"the message does not name the file: {message}"
    assert "\n" not in message
    return "refused"


def case(files: dict[str, Path], name: str, seed: int, folder: Path) -> Path:
    """The mutated file of one case; the same seed makes the same file. Every second keeps its
    format's structure, where `mutations` knows it."""
    random = np.random.default_rng([seed, *name.encode()])
    path = folder / f"case-{name}"
    injure = structured(name)
    if seed % 2 and injure is not None:
        alike = [other for other in sorted(files) if structured(other) is injure]
        path.write_bytes(
            injure(files[name].read_bytes(), files[alike[int(random.integers(len(alike)))]].read_bytes(), random)
        )
    else:
        other = files[sorted(files)[int(random.integers(len(files)))]]
        path.write_bytes(plain(files[name].read_bytes(), other.read_bytes(), random))
    return path


def worker(folder: Path, name: str, first: int, count: int) -> None:
    """Run cases, saying each before it begins, and what came of it, in how many seconds and bytes
    more."""
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    run = outcome if folder.name == "weights" else image_outcome
    with tempfile.TemporaryDirectory() as scratch, suppress_stderr():
        with suppress(AssertionError, WeightsError):
            run(files[name])  # the libraries are loaded now: a damaged file may be refused before they are
        _, used = _memory()
        room = 3 * files[name].stat().st_size if run is outcome else IMAGES_ROOM
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20) + room,) * 2)
        for seed in range(first, first + count):
            print(f"case {seed}", flush=True)
            signal.alarm(HANG_SECONDS)
            path = case(files, name, seed, Path(scratch))
            begun = time.perf_counter()
            result = run(path)
            print(result, f"{time.perf_counter() - begun:.3f}", PEAK.pop("bytes", 0), path.stat().st_size, flush=True)
    signal.alarm(0)


def _memory() -> tuple[int, int]:
    """(resident, virtual) bytes of this process."""
    pages = Path("/proc/self/statm").read_text().split()
    return int(pages[1]) * resource.getpagesize(), int(pages[0]) * resource.getpagesize()


def main() -> int:
    """Run the cases; 0 when every one ended as it may."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=1000, help="of each file of the kinds")
    parser.add_argument("--seed", type=int, default=0, help="the first case")
    parser.add_argument(
        "--kinds", nargs="*", help="parts of the names of the files to mutate; weights or images for all of these"
    )
    parser.add_argument("--keep", type=Path, help="a folder to which the files of failures are copied")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        folder, name, first, count = options.worker
        worker(Path(folder), name, int(first), int(count))
        return 0
    with tempfile.TemporaryDirectory(prefix="segtwin-fuzz-") as scratch, ThreadPoolExecutor(options.jobs) as pool:
        todo = []
        for kind, make in (("weights", small_files), ("images", small_images)):
            (folder := Path(scratch) / kind).mkdir()
            names = [
                name
                for name in make(folder)
                if not options.kinds or any(one in name or one == kind for one in options.kinds)
            ]
            todo += [pool.submit(run_cases, folder, name, options.seed, options.cases, options.keep) for name in names]
        told = [one.result() for one in todo]
    failures = sum(one["FAILED"] for one in told)
    print(f"{sum(sum(one.values()) for one in told):,} cases, {failures} failures")
    return 1 if failures else 0


def run_cases(folder: Path, name: str, first: int, cases: int, keep: Path | None) -> Counter[str]:
    """Run the cases of one file, in processes of their own, and say what came of them."""
    counts: Counter[str] = Counter()
    slowest, largest = (0.0, first), (0, 0, first)
    seed, end = first, first + cases
    while seed < end:
        count = min(BATCH, end - seed)
        command = [sys.executable, __file__, "--worker", str(folder), name, str(seed), str(count)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        at = seed
        for line in run.stdout.split("\n"):
            words = line.split()
            if line.startswith("case "):
                at = int(words[1])
            elif len(words) == 4:
                counts[words[0]] += 1
                slowest, largest = max(slowest, (float(words[1]), at)), max(largest, (int(words[2]), int(words[3]), at))
        if run.returncode == 0:
            seed += count
            continue
        counts["FAILED"] += 1
        print(f"{name} case {at}: status {run.returncode}: {run.stderr.strip()[-600:]}", file=sys.stderr, flush=True)
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
            case(files, name, at, keep).rename(keep / f"{at}-{name}")
        seed = at + 1
    what = ", ".join(f"{count:,} {one}" for one, count in sorted(counts.items()))
    peak = (
        f", most memory {largest[0]:,} bytes for {largest[1]:,} (case {largest[2]})" if folder.name == "weights" else ""
    )
    print(f"{name}: {what}; slowest {slowest[0]:.2f} s (case {slowest[1]}){peak}", flush=True)
    return counts


@contextmanager
def suppress_stderr() -> Iterator[None]:
    """Without what C libraries print of damaged files; Python's own traceback comes through, once
    the descriptor is there again."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)


if __name__ == "__main__":
    sys.exit(main())
