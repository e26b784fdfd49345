"""The goldens of `caffe/`, computed anew by real Caffe.

    PYTHONPATH=/path/to/caffe/python OPENBLAS_NUM_THREADS=1 python parity_tests/golden/make_caffe.py
    … python parity_tests/golden/make_caffe.py fwd_tiny_fcn8s_s1_c21_1x67x91 --write /tmp/caffe

Without names every file is made; each is compared with the one that is stored, and the largest distance printed in
units of the blob's largest value (0 on the build that README.md describes). With `--write` the new files are left in a
folder. Needs pycaffe, numpy and recipe.py beside this file, and nothing of segtwin: what is tested has no part in what
it is tested against.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import recipe  # noqa: E402

FOLDER = Path(__file__).parent / "caffe"
FLT_MIN = np.finfo(np.float32).tiny
SCALES = {"scale_pool4": 0.01, "scale_pool3": 0.0001}
"""Of fcn8s-atonce."""


def weights_of(table: list, seed: int) -> dict[str, np.ndarray]:
    """Every parameter of a golden, by its table of (name, shape, kind)."""
    found = {}
    for name, shape, kind in table:
        if kind == "recipe":
            found[name] = recipe.caffe(name, tuple(shape), seed)
        elif name.split("/")[0] in SCALES:
            found[name] = np.full(shape, SCALES[name.split("/")[0]], np.float32)
        else:
            found[name] = bilinear(shape)
    return found


def bilinear(shape: list[int]) -> np.ndarray:
    """surgery.py's diagonal of bilinear kernels (shelhamer/fcn.berkeleyvision.org at 1305c73)."""
    size = shape[-1]
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 == 1 else factor - 0.5
    grid = np.ogrid[:size, :size]
    filled = np.zeros(shape, np.float32)
    filled[range(shape[0]), range(shape[0])] = (1 - abs(grid[0] - centre) / factor) * (1 - abs(grid[1] - centre) / factor)
    return filled


def sha256(arrays: list[np.ndarray]) -> str:
    """Of their bytes, one behind the other."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(one).tobytes() for one in arrays)).hexdigest()


def prototxt_of(stem: str) -> Path:
    """The net that a golden was computed by."""
    net = "unet" if stem.startswith("unet") else "vgg16_s1" if "vgg16" in stem else stem.split("_")[2]
    return FOLDER / f"tiny_{net}_{'train' if stem.startswith('train') else 'deploy'}.prototxt"


def load_net(caffe: Any, stem: str, table: list, seed: int, phase: int, folder: Path) -> Any:
    """The net with the widths of the table and its weights."""
    from caffe.proto import caffe_pb2
    from google.protobuf import text_format

    message = text_format.Parse(prototxt_of(stem).read_text(), caffe_pb2.NetParameter())
    shapes = {name: shape for name, shape, _ in table}
    for layer in message.layer:
        shape = shapes.get(f"{layer.name}/weight")
        if layer.type == "Convolution":
            layer.convolution_param.num_output = shape[0]
        elif layer.type == "Deconvolution":
            layer.convolution_param.num_output = shape[1] * layer.convolution_param.group
        elif layer.type == "InnerProduct":
            layer.inner_product_param.num_output = shape[0]
    file = folder / "net.prototxt"
    file.write_text(text_format.MessageToString(message))
    net = caffe.Net(str(file), phase)
    put(net, weights_of(table, seed))
    return net


def put(net: Any, weights: Mapping[str, np.ndarray]) -> None:
    """Set every parameter of a net."""
    for name, array in weights.items():
        layer, kind = name.rsplit("/", 1)
        net.params[layer][("weight", "bias").index(kind)].data[...] = array


def get(net: Any, names: list[str], part: str) -> dict[str, np.ndarray]:
    """Values ("data") or gradients ("diff") of parameters."""
    return {
        name: getattr(net.params[name.rsplit("/", 1)[0]][("weight", "bias").index(name.rsplit("/", 1)[1])], part).copy()
        for name in names
    }


# ------------------------------------------------------------------------------------------ forward


def forward(caffe: Any, stem: str, old: Any, folder: Path) -> dict[str, np.ndarray]:
    """fwd_*.npz, unet_*.npz and tiny_vgg16_s1_out.npz."""
    meta, table = json.loads(str(old["meta"])), json.loads(str(old["param_table"]))
    net = load_net(caffe, stem, table, meta["seed"], caffe.TEST, folder)
    shape = tuple(meta["input_shape"])
    data = recipe.caffe_input(shape, meta["seed"], *((0.0, 1.0) if stem.startswith("unet") else ()))
    net.blobs["data"].reshape(*shape)
    net.blobs["data"].data[...] = data
    net.forward()
    blobs = {name: np.array(blob.data) for name, blob in net.blobs.items() if "_split_" not in name}
    strides = json.loads(str(old["strides"])) if "strides" in old.files else dict.fromkeys(set(old.files) & set(blobs), 1)
    new: dict[str, Any] = {
        name: blobs[name][:, :, ::step, ::step] if blobs[name].ndim == 4 else blobs[name]
        for name, step in strides.items()
    }
    if "score_argmax" in old.files:
        score = blobs["conv_u0d-score" if stem.startswith("unet") else "score"]
        best = np.sort(score, axis=1)
        new["score_argmax"] = score.argmax(1).astype(np.uint8)
        new["score_sum"] = score.astype(np.float64).sum(axis=(2, 3))
        new["score_abssum"] = np.abs(score.astype(np.float64)).sum(axis=(2, 3))
        new["score_margin_q"] = np.quantile((best[:, -1] - best[:, -2]).astype(np.float64), [0, 0.001, 0.01, 0.1, 0.5])
    new["shape_table"] = json.dumps({name: list(blob.shape) for name, blob in blobs.items()})
    new["blob_stats"] = json.dumps(
        {name: [float(v.astype(np.float64).sum()), float(np.abs(v.astype(np.float64)).sum())] for name, v in blobs.items()}
    )
    if "strides" in old.files:
        new["strides"], new["crop_offsets"] = str(old["strides"]), str(old["crop_offsets"])
    recipes = [array for (_, _, kind), array in zip(table, weights_of(table, meta["seed"]).values(), strict=True) if kind == "recipe"]
    return new | {
        "param_table": str(old["param_table"]),
        "input_sha256": sha256([data]),
        "weights_sha256": sha256(recipes),
        "meta": str(old["meta"]),
    }


# ----------------------------------------------------------------------------------------- training


def training(caffe: Any, stem: str, old: Any, folder: Path) -> dict[str, Any]:
    """train_*.npz: Caffe's SGDSolver; the pairs of a step are put in by a hook before its first layer."""
    meta, table = json.loads(str(old["meta"])), json.loads(str(old["param_table"]))
    fixed = [name for name, _, kind in table if kind != "recipe"]
    moved = [name for name, _, kind in table if kind == "recipe"]
    count, steps, seed = meta["iter_size"], meta["steps"], meta["seed"]
    _, _, height, width = meta["input_shape"]
    pairs = [
        (
            recipe.caffe_input(tuple(meta["input_shape"]), seed + 100 * k) * np.float32(meta["input_scale"]),
            recipe.caffe_labels(height, width, tuple(one + 100 * k for one in meta["label_seeds"])),
        )
        for k in range(count)
    ]
    (folder / "solver.prototxt").write_text(
        f'net: "{prototxt_of(stem)}"\nbase_lr: {meta["base_lr"]}\nlr_policy: "{meta["lr_policy"]}"\n'
        f'momentum: {meta["momentum"]}\nweight_decay: {meta["weight_decay"]}\niter_size: {count}\n'
        f'max_iter: 100000\nsolver_mode: CPU\nsnapshot_prefix: "{folder / "s"}"\nsnapshot_after_train: false\n'
    )
    solver = caffe.SGDSolver(str(folder / "solver.prototxt"))
    net = solver.net
    start = weights_of(table, seed)
    put(net, start)
    new: dict[str, Any] = {}
    losses, unclipped, saturated, counted, passes = [], [], [], [], [0]
    last = len(net.layers) - 1

    def before(layer: int) -> None:
        if layer == 0:
            net.blobs["data"].data[...], net.blobs["label"].data[...] = pairs[passes[0] % count]
            passes[0] += 1

    def after(layer: int) -> None:
        if layer == last:
            losses.append(float(net.blobs["loss"].data))
            value, low, labelled = exact_loss(net.blobs["score"].data, net.blobs["label"].data)
            unclipped.append(value)
            saturated.append(low)
            counted.append(labelled)

    net.before_forward(before)
    net.after_forward(after)
    # the first step's gradients, before the solver divides and decays them: from a net that is not the solver's
    probe = caffe.Net(str(prototxt_of(stem)), caffe.TRAIN)
    put(probe, start)
    probe.clear_param_diffs()
    for data, label in pairs:
        probe.blobs["data"].data[...], probe.blobs["label"].data[...] = data, label
        probe.forward()
        probe.backward()
    new |= {f"grad0/{name}": one for name, one in get(probe, moved, "diff").items()}
    for step in range(1, steps + 1):
        solver.step(1)
        for kind in [f"p{step}"] * (step <= 2) + ["last"] * (step == steps):
            new |= {f"{kind}/{name}": one for name, one in get(net, moved, "data").items()}
    for name, array in get(net, fixed, "data").items():
        assert np.array_equal(array, start[name]), f"{name} has lr_mult 0 and moved"
    micro = np.array(losses).reshape(steps, count)
    return new | {
        "loss": micro.mean(1),
        "loss_micro": micro,
        "loss_micro_unclipped": np.array(unclipped).reshape(steps, count),
        "saturated_pixels": np.array(saturated).reshape(steps, count),
        "counted_pixels": np.array(counted).reshape(steps, count),
    } | {key: str(old[key]) for key in ("input_sha256", "label_sha256", "weights_sha256", "param_table", "update_rule_check", "meta")}


def exact_loss(score: np.ndarray, label: np.ndarray) -> tuple[float, int, int]:
    """In float64, not clipped: the loss, how many pixels Caffe's clip touches, and how many count."""
    score, label = score.astype(np.float64), label[:, 0].astype(int)
    logs = score - score.max(1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(1, keepdims=True))
    known = label != 255
    picked = np.take_along_axis(logs, np.where(known, label, 0)[:, None], 1)[:, 0][known]
    return float(-picked.sum() / len(score)), int((picked < np.log(FLT_MIN)).sum()), int(known.sum())


# ------------------------------------------------------------------------------------- caffemodels


def caffemodel(caffe: Any, stem: str, folder: Path) -> tuple[bytes, float]:
    """A .caffemodel: written by Caffe (V2), or (V1, which Caffe reads and no longer writes) the numbers anew in the
    structure of the stored one. With the largest distance of its numbers from the stored ones."""
    from caffe.proto import caffe_pb2

    old = caffe_pb2.NetParameter.FromString((FOLDER / f"{stem}.caffemodel").read_bytes())
    layers = old.layer or old.layers
    table = [
        [f"{layer.name}/{kind}", list(blob.shape.dim) or legacy_shape(blob), kind_of(layer)]
        for layer in layers
        for kind, blob in zip(("weight", "bias"), layer.blobs, strict=False)
    ]
    weights = weights_of(table, 1)
    distance = 0.0
    for layer in layers:
        for kind, blob in zip(("weight", "bias"), layer.blobs, strict=False):
            array = weights[f"{layer.name}/{kind}"].ravel()
            distance = max(distance, float(np.abs(np.array(blob.data, np.float32) - array).max()))
            del blob.data[:]
            blob.data.extend(array.tolist())
    if stem.endswith("_v1"):
        return old.SerializeToString(), distance
    net = caffe.Net(str(FOLDER / f"{stem.removesuffix('_v2')}_deploy.prototxt"), caffe.TEST)
    put(net, weights)
    net.save(str(folder / "net.caffemodel"))
    return (folder / "net.caffemodel").read_bytes(), distance


def kind_of(layer: Any) -> str:
    """How a parameter is drawn: a Deconvolution of an FCN is fixed."""
    return "fixed" if layer.name.startswith("upscore") else "recipe"


def legacy_shape(blob: Any) -> list[int]:
    """Of num, channels, height and width: as Caffe took them for convolutions, inner products and biases."""
    shape = [blob.num, blob.channels, blob.height, blob.width]
    if shape[:3] == [1, 1, 1]:
        return shape[3:]
    return shape[2:] if shape[:2] == [1, 1] else shape


# -------------------------------------------------------------------------------------------- main


def distance(new: Any, old: np.ndarray) -> float:
    """Largest, in units of the largest stored value; infinite where shapes, texts or types differ."""
    if old.dtype.kind == "U":
        a, b = str(new), str(old)
        if a == b:
            return 0.0
        try:
            return nested(json.loads(a), json.loads(b))
        except (ValueError, TypeError, AttributeError):
            return np.inf
    new = np.asarray(new)
    if new.shape != old.shape:
        return np.inf
    return float(np.abs(new.astype(np.float64) - old).max(initial=0) / max(np.abs(old).max(initial=0), 1e-300))


def nested(new: Any, old: Any) -> float:
    """The same of JSON."""
    if isinstance(old, dict):
        return np.inf if new.keys() != old.keys() else max((nested(new[k], old[k]) for k in old), default=0.0)
    if isinstance(old, list) and old and not isinstance(old[0], int | float):
        return np.inf if len(new) != len(old) else max((nested(a, b) for a, b in zip(new, old, strict=True)), default=0.0)
    if isinstance(old, list | int | float) and not isinstance(old, bool):
        a, b = np.asarray(new, float), np.asarray(old, float)
        return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-300)) if a.shape == b.shape else np.inf
    return 0.0 if new == old else np.inf


def make(caffe: Any, stem: str, target: Path | None) -> tuple[str, float]:
    """One file: the key that is farthest from the stored one, and how far."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not (FOLDER / f"{stem}.npz").exists():
            raw, apart = caffemodel(caffe, stem, folder)
            if target is not None:
                (target / f"{stem}.caffemodel").write_bytes(raw)
            return "blobs", apart
        old = np.load(FOLDER / f"{stem}.npz")
        maker: Callable = training if stem.startswith("train") else forward
        new = maker(caffe, stem, old, folder)
    assert set(new) == set(old.files), (stem, set(new) ^ set(old.files))
    if target is not None:
        np.savez_compressed(target / f"{stem}.npz", **new)
    return max(((key, distance(new[key], old[key])) for key in old.files), key=lambda one: one[1])


def main() -> None:
    """Make goldens and print how far each is from the stored one; status 1 where one is farther than --within."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="files of caffe/, without their ending; all of them by default")
    parser.add_argument("--write", type=Path, help="leave the new files here")
    parser.add_argument("--within", type=float, default=1e-4, help="largest distance that is no error")
    options = parser.parse_args()
    known = sorted(file.stem for ending in ("npz", "caffemodel") for file in FOLDER.glob(f"*.{ending}"))
    if unknown := set(options.names) - set(known):
        parser.error(f"there is no golden {sorted(unknown)[0]}; there are {', '.join(known)}")
    import caffe

    caffe.set_mode_cpu()
    if options.write is not None:
        options.write.mkdir(parents=True, exist_ok=True)
    far = 0
    for stem in options.names or known:
        key, apart = make(caffe, stem, options.write)
        far += not apart <= options.within
        print(f"{stem}: {apart:.1e}{f' ({key})' if apart else ''}", flush=True)
    sys.exit(far > 0)


if __name__ == "__main__":
    main()
