"""Where memory is too short for a thread to begin, Python waits for it for ever: small files are
read without one."""

import os
import threading

import numpy as np
import pytest
import segtwin_weights
from goldens import FOLDER
from segtwin_weights import layouts
from segtwin_weights.formats import hdf5_guard


@pytest.mark.skipif(os.name != "posix", reason="pipes of Windows need a thread")
def test_small_files_start_no_thread(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise AssertionError(f"{thread.name} was started")

    weights = segtwin_weights.read(FOLDER / "caffe" / "tiny_vgg16_s1_v2.caffemodel")
    names = ("w.weights.h5", "w.npy", "w.pth", "w.safetensors")
    wants = []
    for name in names:
        segtwin_weights.write(weights, tmp_path / name)
        wants.append(segtwin_weights.read(tmp_path / name).fingerprint())
    hdf5_guard._at_exit()
    hdf5_guard._walked.clear()
    monkeypatch.setattr(threading.Thread, "start", refused)
    assert [segtwin_weights.read(tmp_path / name).fingerprint() for name in names] == wants


def test_many_threads_move_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(0).random((490, 130)).astype(np.float32)
    alone = layouts.to_caffe("fc6", weight)
    monkeypatch.setattr(layouts, "WORTH_A_THREAD", 0)
    assert np.array_equal(layouts.to_caffe("fc6", weight), alone)
