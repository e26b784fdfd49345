"""Damaged and hostile files of weights, by the thousand: every reader has to answer with weights or with a `WeightsError` that names the file.

    python parity_tests/fuzz.py --cases 10000 [--seed 0] [--kinds torch keras …]

Real files of every format are mutated: bits flipped, lengths blown up, pieces cut out, doubled, swapped with another file's. Each batch runs in a
process of its own that may hold 3 times the file's size over what the libraries take; a crash, a hang of 20 seconds, another exception, or half
a dictionary is counted, printed with the case that did it, and ends the run with status 1.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import segtwin_weights
from segtwin_weights import Weights, WeightsError

sys.path.insert(0, str(Path(__file__).parent / "golden"))
import recipe

GOLDEN = Path(__file__).parent / "golden" / "caffe"
BATCH = 500
HANG_SECONDS = 20
SLACK = 8 << 20
"""Bytes that a reader may hold whatever the file's size: buffers, messages, the interpreter's objects."""
BOMBS = [
    b"\xff" * 4,
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x00" * 8,
    b"\x80" * 10,
    b"\xff" * 9 + b"\x01",
]


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
    np.savez(folder / "vgg16_weights.npz", **{f"{name}_{part}": one for name, pair in layers.items() for part, one in zip("Wb", pair, strict=True)})
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
        moved = make("Transpose", [name], [f"{name}_moved"], perm=[3, 2, 0, 1]) if blob.ndim == 4 else make("Identity", [name], [f"{name}_moved"])
        nodes += [moved, make("Conv", ["x", f"{name}_moved"], [f"y{i}"])]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "small", [], [], initializers)), path)


def _keras(weights_file: Path, path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", '{"class_name": "Functional", "config": {"layers": [{"class_name": "Conv2D", "config": {"name": "a"}}]}}')
        archive.write(weights_file, "model.weights.h5")


def mutated(data: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """A file with one to four injuries, most of them near its ends, where formats keep their structure."""
    out = bytearray(data)
    for _ in range(int(random.integers(1, 5))):
        if not out:
            break
        where = int(
            random.choice([random.integers(len(out)), random.integers(min(len(out), 512)), len(out) - 1 - random.integers(min(len(out), 2048))])
        )
        length = int(random.integers(1, 64))
        match int(random.integers(8)):
            case 0:
                out[where] ^= 1 << int(random.integers(8))
            case 1:
                out[where] = int(random.integers(256))
            case 2:
                bomb = BOMBS[int(random.integers(len(BOMBS)))]
                out[where : where + len(bomb)] = bomb
            case 3:
                del out[where:]
            case 4:
                del out[where : where + length]
            case 5:
                out[where:where] = out[where : where + length]
            case 6:
                start = int(random.integers(max(1, len(other))))
                out[where : where + length] = other[start : start + length]
            case 7:
                out[where:where] = bytes(random.integers(0, 256, length, dtype=np.uint8))
    return bytes(out)


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
    assert peak < 3 * size + SLACK, f"{peak:,} bytes for a file of {size:,}"
    return result


def case(files: dict[str, Path], name: str, seed: int, folder: Path) -> Path:
    """The mutated file of one case; the same seed makes the same file."""
    random = np.random.default_rng([seed, *name.encode()])
    other = files[sorted(files)[int(random.integers(len(files)))]]
    path = folder / f"case-{name}"
    path.write_bytes(mutated(files[name].read_bytes(), other.read_bytes(), random))
    return path


def worker(folder: Path, name: str, first: int, count: int) -> None:
    """Run cases, saying each before it begins."""
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    with tempfile.TemporaryDirectory() as scratch:
        outcome(case(files, name, first, Path(scratch)))  # the libraries are loaded now
        _, used = _memory()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20) + 3 * files[name].stat().st_size,) * 2)
        for seed in range(first, first + count):
            print(f"case {seed}", flush=True)
            signal.alarm(HANG_SECONDS)
            print(outcome(case(files, name, seed, Path(scratch))), flush=True)
    signal.alarm(0)


def _memory() -> tuple[int, int]:
    """(resident, virtual) bytes of this process."""
    pages = Path("/proc/self/statm").read_text().split()
    return int(pages[1]) * resource.getpagesize(), int(pages[0]) * resource.getpagesize()


def main() -> int:
    """Run the cases; 0 when every one ended as it may."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", help="parts of the names of the files to mutate")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        folder, name, first, count = options.worker
        worker(Path(folder), name, int(first), int(count))
        return 0
    failures = 0
    with tempfile.TemporaryDirectory(prefix="segtwin-fuzz-") as scratch:
        folder = Path(scratch)
        names = [name for name in small_files(folder) if not options.kinds or any(kind in name for kind in options.kinds)]
        each = -(-options.cases // len(names))
        for name in names:
            counts: Counter[str] = Counter()
            seed, end = options.seed, options.seed + each
            while seed < end:
                count = min(BATCH, end - seed)
                run = subprocess.run([sys.executable, __file__, "--worker", scratch, name, str(seed), str(count)], capture_output=True, text=True)
                lines = run.stdout.split("\n")
                counts.update(line for line in lines if line in ("weights", "refused"))
                if run.returncode == 0:
                    seed += count
                    continue
                began = [int(line.split()[1]) for line in lines if line.startswith("case ")]
                last = began[-1] if began else seed
                counts["FAILED"] += 1
                print(f"{name} seed {last}: status {run.returncode}: {run.stderr.strip()[-600:]}", file=sys.stderr)
                seed = last + 1
            failures += counts["FAILED"]
            print(f"{name}: {', '.join(f'{count:,} {what}' for what, count in sorted(counts.items()))}", flush=True)
    print(f"{each * len(names):,} cases, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
