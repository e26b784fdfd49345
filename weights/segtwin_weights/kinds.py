"""Files that people give in place of weights, told by their content: what each is, and what to give instead."""

from __future__ import annotations

import os

BEGINNINGS = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself; run git lfs pull"),
    (b"model_checkpoint_path:", "TensorFlow's list of checkpoints; give the prefix that it names, such as model.ckpt"),
    (b"7767517", "an ncnn .param, a graph without weights; give the file it was made from"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image; give a file of weights"),
    (b"\xff\xd8\xff", "a JPEG image; give a file of weights"),
    (b"\x1f\x8b", "a gzip archive; unpack it and give the file of weights in it"),
    (b"BZh", "a bzip2 archive; unpack it and give the file of weights in it"),
    (b"\xfd7zXZ\0", "an xz archive; unpack it and give the file of weights in it"),
)
PROTOTXT = (b"layer {", b"layers {", b"layer{", b"layers{", b"base_lr:")
HEAD = 4096


def other(path: str | os.PathLike[str]) -> str | None:
    """What a file is that holds no weights, in words that go on "is …"; None where it may hold some."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    text = head.lstrip()
    for beginning, what in BEGINNINGS:
        if text.startswith(beginning) or head.startswith(beginning):
            return what
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model; give the Keras file or checkpoint it was made from"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it and give the file of weights in it"
    if text.startswith((b"<net", b"<?xml")) and b"<net" in text:
        return "an OpenVINO graph without weights; give the ONNX file it was made from"
    if b"\0" not in head and any(mark in head for mark in PROTOTXT):
        return "a prototxt, which describes a network and holds no weights; give the .caffemodel"
    return None
