"""Threads: the same numbers from every one of them, and nothing of torch's or a model's that is
changed for the others."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import segtwin_torch
import segtwin_weights
import torch
from segtwin_weights import Weights, WeightsError

import engines

WIDTHS = {"fcn8s": (2, 3, 3, 4, 4, 6, 6), "unet-small": (2, 2, 3, 3, 4), "unet": (2, 2, 3, 3, 4)}
SIZES = {"fcn8s": (40, 33), "unet-small": (32, 48)}


def made(framework: str, network: str, seed: int):
    start = segtwin_weights.initialize(network, widths=WIDTHS[network], seed=seed)
    random = np.random.default_rng(seed)
    weights = {
        name: random.standard_normal(blob.shape).astype(np.float32) / 3 if blob.dtype.kind == "f" else blob
        for name, blob in start.items()
    }
    weights = {name: np.abs(blob) + 0.5 if name.endswith("running_var") else blob for name, blob in weights.items()}
    return engines.TWINS[framework].build(network, widths=WIDTHS[network], weights=Weights(weights))


def images(network: str, seed: int) -> np.ndarray:
    channels = 3 if network == "fcn8s" else 1
    return np.random.default_rng(seed).uniform(-100, 100, (1, channels, *SIZES[network])).astype(np.float32)


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("caffe", [True, False])
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_four_threads_compute_what_one_does(framework: str, caffe: bool) -> None:
    """The same model in all of them, and two others beside it."""
    twin = engines.TWINS[framework]
    models = [made(framework, "fcn8s", 1), made(framework, "unet-small", 2)]
    names = ["fcn8s", "unet-small"]
    jobs = [(at % 2, at) for at in range(24)]
    want = [twin.blobs(models[at], images(names[at], seed), caffe=caffe) for at, seed in jobs]
    before = torch.backends.mkldnn.enabled, torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda job: twin.blobs(models[job[0]], images(names[job[0]], job[1]), caffe=caffe), jobs))
    assert all(equal(one, other) for one, other in zip(got, want, strict=True))
    assert (torch.backends.mkldnn.enabled, torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


def test_both_arithmetics_at_once() -> None:
    """torch's switch is off for those that ask for Caffe's, and on for the others."""
    model = made("torch", "fcn8s", 1)
    wants = [segtwin_torch.blobs(model, images("fcn8s", 7), caffe=caffe) for caffe in (False, True)]
    assert not equal(*wants)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda at: segtwin_torch.blobs(model, images("fcn8s", 7), caffe=bool(at % 2)), range(40)))
    assert all(equal(one, wants[at % 2]) for at, one in enumerate(got))


@pytest.mark.parametrize("switch", [True, False])
def test_the_switches_come_back_after_an_error(switch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("torch", "fcn8s", 1).train()

    def broken(*_):
        assert not torch.backends.mkldnn.enabled
        raise ZeroDivisionError

    monkeypatch.setattr(torch.backends.mkldnn, "enabled", switch)
    handle = model.fc6.register_forward_pre_hook(broken)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            segtwin_torch.blobs(model, images("fcn8s", 1))
        assert torch.backends.mkldnn.enabled is switch
        assert torch.is_grad_enabled()
        assert all(module.training for module in model.modules())
    handle.remove()
    with ThreadPoolExecutor(1) as pool:  # the lock is free
        assert pool.submit(segtwin_torch.blobs, model, images("fcn8s", 1)).result(60)


def test_another_thread_trains_meanwhile() -> None:
    """Its model is in training mode whenever it looks, and its dropout drops."""
    model = made("torch", "fcn8s", 1).train()
    want = segtwin_torch.blobs(model, images("fcn8s", 3))
    ended, modes, gradients = threading.Event(), set(), set()

    def train() -> None:
        data = torch.from_numpy(images("fcn8s", 4))
        while not ended.is_set():
            score = model(data)
            modes.add((model.training, model.drop6.training, torch.is_grad_enabled()))
            gradients.add(score.requires_grad)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        got = [segtwin_torch.blobs(model, images("fcn8s", 3)) for _ in range(20)]
    finally:
        ended.set()
        thread.join()
    assert modes == {(True, True, True)}
    assert gradients == {True}
    assert all(equal(one, want) for one in got)


def spoiled(weights: Weights, how: str) -> dict[str, np.ndarray]:
    """The last tensor that fits `how`, wrong."""
    found = {name: blob + 1 if blob.dtype.kind == "f" else blob for name, blob in weights.items()}
    name = next(
        name
        for name in reversed(list(found))
        if (name.endswith("running_var") if how == "variance" else found[name].dtype.kind == "f")
    )
    wrong = {
        "nan": lambda array: np.full_like(array, np.nan),
        "infinite": lambda array: np.full_like(array, -np.inf),
        "beyond": lambda array: np.full_like(array, 1e39, dtype=np.float64),
        "complex": lambda array: array.astype(np.complex64),
        "object": lambda array: array.astype(object),
        "text": lambda array: np.full(array.shape, "abc"),
        "shape": lambda array: array[..., np.newaxis],
        "variance": lambda array: -array,
    }[how]
    return {**found, name: wrong(found[name])}


@pytest.mark.parametrize("how", ["nan", "infinite", "beyond", "complex", "object", "text", "shape", "variance"])
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_load_that_fails_changes_nothing(framework: str, how: str) -> None:
    twin = engines.TWINS[framework]
    model = made(framework, "unet" if how == "variance" else "fcn8s", 1)
    before, metadata = twin.read_weights(model), dict(model.metadata)
    with pytest.raises((ValueError, KeyError)) as error:
        twin.load_weights(model, Weights(spoiled(before, how)))
    assert "\n" not in str(error.value)
    assert next(name for name in reversed(list(before)) if name in str(error.value))
    assert twin.read_weights(model).fingerprint() == before.fingerprint()
    assert model.metadata == metadata


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_big_endian_and_other_floats_are_converted(framework: str) -> None:
    twin = engines.TWINS[framework]
    model = made(framework, "fcn8s", 1)
    before = twin.read_weights(model)
    for dtype in (">f4", ">f8", np.longdouble):
        twin.load_weights(model, Weights({name: blob.astype(dtype) for name, blob in before.items()}))
        assert twin.read_weights(model).fingerprint() == before.fingerprint()


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_loads_at_once_leave_one_of_them_whole(framework: str) -> None:
    twin = engines.TWINS[framework]
    model = made(framework, "fcn8s", 1)
    candidates = [
        Weights({name: np.full_like(blob, value) for name, blob in twin.read_weights(model).items()})
        for value in range(4)
    ]
    allowed = {weights.fingerprint() for weights in candidates}
    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(twin.load_weights, model, candidates[at % 4]) for at in range(40)]
        seen = {twin.read_weights(model).fingerprint() for _ in range(20)}
        for load in loads:
            load.result(60)
    assert twin.read_weights(model).fingerprint() in allowed
    assert len(seen - allowed) <= 1  # the weights that it was made with


def test_a_message_names_the_tensor() -> None:
    model = made("torch", "fcn8s", 1)
    with pytest.raises(WeightsError, match=r": upscore8/weight holds \d+ NaN or infinite values"):
        segtwin_torch.load_weights(model, Weights(spoiled(segtwin_torch.read_weights(model), "nan")))


THREADS_OF_AN_ENGINE = """
import importlib, os, sys
import numpy
import segtwin_weights
from segtwin.architectures import get_architecture
from segtwin_engines.loading import start

importlib.import_module({"opencv": "cv2"}.get(sys.argv[1], sys.argv[1]))  # some libraries start threads when imported
before = len(os.listdir("/proc/self/task"))
engine = start(sys.argv[1], get_architecture("fcn8s"), segtwin_weights.initialize("fcn8s", widths=(8,) * 7))
engine.scores(numpy.zeros((1, 3, 96, 96), numpy.float32))
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in Linux' /proc")
@pytest.mark.parametrize("engine", ["onnxruntime", "ncnn", "opencv"])
def test_engines_take_as_many_threads_as_omp_num_threads_says(engine: str) -> None:
    for count in (1, 4):
        place = dict(os.environ, OMP_NUM_THREADS=str(count))
        command = [sys.executable, "-c", THREADS_OF_AN_ENGINE, engine]
        done = subprocess.run(command, env=place, capture_output=True, text=True, check=True)
        assert int(done.stdout) == count - 1
