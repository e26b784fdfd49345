"""What is no file of weights is called by its name, in one line that says what to give instead."""

from pathlib import Path

import pytest
import segtwin_weights
from segtwin_weights import WeightsError

FILES = {
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "TensorFlow's list of checkpoints": b'model_checkpoint_path: "model.ckpt-7"\n',
    "an ncnn .param": b"7767517\n3 3\nInput data 0 1 data\n",
    "a PNG image": b"\x89PNG\r\n\x1a\n" + bytes(40),
    "a JPEG image": b"\xff\xd8\xff\xe0" + bytes(40),
    "a gzip archive": b"\x1f\x8b\x08" + bytes(40),
    "a TensorFlow Lite model": b"\x1c\0\0\0TFL3" + bytes(40),
    "a tar archive": b"vgg16.npy".ljust(257, b"\0") + b"ustar\x0000" + bytes(300),
    "an OpenVINO graph": b'<?xml version="1.0"?>\n<net name="fcn8s" version="11">',
    "a prototxt": b'name: "fcn8s"\nlayer {\n  name: "conv1_1"\n}\n',
}


@pytest.mark.parametrize("what", FILES)
def test_the_true_kind_is_named(what: str, tmp_path: Path) -> None:
    (path := tmp_path / "file").write_bytes(FILES[what])
    with pytest.raises(WeightsError, match=rf"file: is {what}") as caught:
        segtwin_weights.read(path)
    assert "\n" not in str(caught.value)
