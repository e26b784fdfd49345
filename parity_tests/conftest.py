"""torch and torchvision come before TensorFlow: the other order aborts the interpreter (each of
them brings an LLVM)."""

import gc
import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # each worker its share of the cores: threads of several OpenMP pools that wait for each other spin
    share = str(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ.setdefault(name, share)

import torch  # noqa: F401, I001
import torchvision  # noqa: F401
import tensorflow  # noqa: F401


@pytest.fixture(scope="module", autouse=True)
def give_memory_back() -> Iterator[None]:
    """Models, and weights of full width, are made once a module, not kept for the whole run: those
    of full width are half a gigabyte each."""
    yield
    import goldens

    import engines

    for cache in (
        engines.model,
        goldens.vgg16_weights,
        goldens.fcn8vgg_weights,
        goldens.vggfcn_weights,
        goldens.vggfcn_goldens,
        goldens.torch_blob,
    ):
        cache.cache_clear()
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def prepared_weights_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What engines keep of the weights of tests is not kept in the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segtwin_engines.prepared.cache_folder", lambda: folder)
        yield


@pytest.fixture(scope="module", autouse=True)
def nothing_was_measured_here() -> Iterator[None]:
    """What `segtwin bench` found the fastest on this machine is no engine's default in a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segtwin_engines.loading.fastest", lambda network: None)
        yield
