"""Where memory is too short for a thread to begin, Python waits for it for ever: small files are read without one."""

import os
import threading

import numpy as np
import pytest
import segtwin_weights
from goldens import FOLDER
from segtwin_weights import hdf5_guard, vgg16_npy


@pytest.mark.skipif(os.name != "posix", reason="pipes of Windows need a thread")
def test_small_files_start_no_thread(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise AssertionError(f"{thread.name} was started")

    weights = segtwin_weights.read(FOLDER / "caffe" / "tiny_vgg16_s1_v2.caffemodel")
    monkeypatch.setattr(threading.Thread, "start", refused)
    hdf5_guard._at_exit()
    for name in ("w.weights.h5", "w.npy", "w.pth", "w.safetensors"):
        segtwin_weights.write(weights, tmp_path / name)
        assert segtwin_weights.read(tmp_path / name).fingerprint() == weights.fingerprint()


def test_many_threads_move_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(0).random((490, 130)).astype(np.float32)
    alone = vgg16_npy.to_caffe("fc6", weight)
    monkeypatch.setattr(vgg16_npy, "WORTH_A_THREAD", 0)
    assert np.array_equal(vgg16_npy.to_caffe("fc6", weight), alone)
