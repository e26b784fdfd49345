"""One engine in a process of its own, as `speed` measures it: no other engine's threads or memory are in it.

Lines of JSON come in and go out; whatever a library prints goes to standard error.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import segtwin_weights
from segtwin.architectures import get_architecture

Scores = Callable[[np.ndarray], np.ndarray]
Blobs = Callable[[np.ndarray], dict[str, np.ndarray]]


def main() -> None:
    """Start what the first line asks for; then run, give blobs, or end."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**facts: Any) -> None:
        answers.write(json.dumps(facts) + "\n")
        answers.flush()

    asked = json.loads(sys.stdin.readline())
    data = np.random.default_rng(0).uniform(-120, 130, asked["shape"]).astype(np.float32)
    try:
        start = time.perf_counter()
        scores, blobs = STARTERS[asked["start"]](asked)
        answer(seconds=time.perf_counter() - start)
        for line in sys.stdin:
            command = json.loads(line)
            if command["do"] == "run":
                start = time.perf_counter()
                scores(data)
                answer(seconds=time.perf_counter() - start, peak=peak())
            elif command["do"] == "blobs":
                image = np.load(command["image"])
                found: dict[str, Any] = blobs(image)
                last = list(found)[-1] if asked["output"] not in found else asked["output"]
                np.savez(command["file"], **{**found, last: scores(image)})
                answer(done=True)
    except Exception as error:  # an engine's, of any class: it is said beside the others' figures
        answer(error=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def peak() -> int:
    """Bytes of resident memory at their most; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0


def in_torch(asked: dict[str, Any]) -> tuple[Scores, Blobs]:
    """PyTorch's default kernels; its memory format and its dead zones as asked."""
    import segtwin_torch
    import torch

    torch.set_num_threads(asked["threads"])
    model = segtwin_torch.load(asked["weights"])
    segtwin_torch.leave_out_dead_zones(model, asked.get("leave_out", True))
    last = asked.get("channels_last", False)
    running: Any = model.to(memory_format=torch.channels_last) if last else model
    running = torch.compile(running) if asked.get("compile") else running

    def scores(data: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            tensor = torch.from_numpy(data)
            return running(tensor.to(memory_format=torch.channels_last) if last else tensor).numpy()

    return scores, lambda data: segtwin_torch.blobs(model, data, caffe=False)


def in_torchfcn(asked: dict[str, Any]) -> tuple[Scores, Blobs]:
    """The class of the package torchfcn (wkentaro/pytorch-fcn), with our weights. Its blobs have no names: the score
    alone is judged."""
    import torch

    torch.set_num_threads(asked["threads"])
    spec = importlib.util.find_spec("torchfcn")
    assert spec is not None
    package = types.ModuleType("torchfcn")  # its own imports chainer, which nothing here needs
    package.__path__ = list(spec.submodule_search_locations or [])
    sys.modules.update(torchfcn=package, fcn=types.ModuleType("fcn"))
    network, weights = asked["network"], segtwin_weights.read(asked["weights"])
    module = importlib.import_module(f"torchfcn.models.{network}")
    size = segtwin_weights.dimensions(weights, get_architecture(network))
    model = getattr(module, f"FCN{network[3:]}")(n_class=size.num_classes)
    tensors = {name.replace("/", "."): torch.from_numpy(np.array(blob)) for name, blob in weights.items()}
    model.load_state_dict(tensors)
    model.eval()

    def scores(data: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(data)).numpy()

    return scores, lambda data: {asked["output"]: scores(data)}


def in_keras(asked: dict[str, Any]) -> tuple[Scores, Blobs]:
    """TensorFlow's default kernels, eager or compiled by XLA."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(asked["threads"])
    import segtwin_keras

    model = segtwin_keras.load(asked["weights"])
    segtwin_keras.leave_out_dead_zones(model, asked.get("leave_out", True))
    call = tf.function(lambda x: model(x, training=False), jit_compile=asked.get("xla", False))

    def scores(data: np.ndarray) -> np.ndarray:
        return call(tf.constant(data.transpose(0, 2, 3, 1))).numpy().transpose(0, 3, 1, 2)

    return scores, lambda data: segtwin_keras.blobs(model, data, caffe=False)


def in_onnxruntime(asked: dict[str, Any]) -> tuple[Scores, Blobs]:
    """An ONNX file in ONNX Runtime."""
    import onnxruntime

    from segtwin_engines.onnxruntime import blob_names, onnx_blobs

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = asked["threads"], 3
    session = onnxruntime.InferenceSession(asked["file"], options, providers=["CPUExecutionProvider"])
    names = blob_names(asked["file"], get_architecture(asked["network"]))
    source = session.get_inputs()[0].name
    return (
        lambda data: session.run(None, {source: data})[0],
        lambda data: onnx_blobs(asked["file"], data, names),
    )


def in_openvino(asked: dict[str, Any]) -> tuple[Scores, Blobs]:
    """An ONNX file in OpenVINO, in a precision."""
    from segtwin_engines import openvino

    options = {"INFERENCE_PRECISION_HINT": asked["precision"], "INFERENCE_NUM_THREADS": str(asked["threads"])}
    return openvino.compile_file(asked["file"], get_architecture(asked["network"]), options)


def in_another(asked: dict[str, Any]) -> tuple[Scores, Blobs]:
    """An engine that runs files which are written from the weights."""
    from segtwin_engines.loading import load

    if asked["engine"] == "opencv":
        import cv2

        cv2.setNumThreads(asked["threads"])
    engine = load(asked["weights"], asked["engine"], say=lambda line: None)
    return engine.scores, engine.blobs


STARTERS: dict[str, Callable[[dict[str, Any]], tuple[Scores, Blobs]]] = {
    "torch": in_torch,
    "torchfcn": in_torchfcn,
    "keras": in_keras,
    "onnxruntime": in_onnxruntime,
    "openvino": in_openvino,
    "another": in_another,
}

if __name__ == "__main__":
    main()
