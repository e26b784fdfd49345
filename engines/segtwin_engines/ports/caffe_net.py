"""Caffe's networks, a prototxt and its .caffemodel, in OpenCV's importer."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from segtwin_engines.ports.port import Port, PortError, Values, failed, up_to_failure


def of_file(path: Path, kind: str, in_channels: int | None) -> Port:
    """Open either of the two; the other one lies beside it, under the same stem or alone of its kind.

    Raises:
        PortError: the other one is not there, or OpenCV cannot read them.
        ImportError: this OpenCV has no Caffe importer (5 and later).
    """
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        raise ImportError("OpenCV 5 has no Caffe importer; pip install 'opencv-python-headless<5'")
    text, binary = (
        (path, other(path, ".caffemodel")) if path.suffix == ".prototxt" else (other(path, ".prototxt"), path)
    )
    try:
        net = cv2.dnn.readNetFromCaffe(str(text), str(binary))
    except cv2.error as error:
        raise PortError(f"{path}: OpenCV cannot read it: {' '.join(str(error).split())[-200:]}") from None
    net.enableWinograd(False)  # rounds more than Caffe does
    net.enableFusion(False)
    names = [name for name in net.getLayerNames() if name != "_input"]
    ends = list(net.getUnconnectedOutLayersNames())

    def run(data: np.ndarray) -> list[np.ndarray]:
        try:
            net.setInput(data)
            return [np.array(one) for one in net.forward(ends)]
        except cv2.error as error:
            raise failed(str(path), data, error) from None

    def values(data: np.ndarray) -> Values:
        net.setInput(data)
        between = [name for name in names if name not in ends]
        found = up_to_failure(between, lambda some: net.forward(list(some)))
        return {name: np.array(one) for name, one in found.items()}

    return Port(str(path), run, values)


def other(path: Path, suffix: str) -> Path:
    """The file of the pair that was not given."""
    stem = path.name.split(".")[0]
    there = sorted(path.parent.glob(f"*{suffix}"))
    named = [one for one in there if one.name.split(".")[0] == stem]
    deploy = [one for one in named if ".deploy" in one.name] or named or (there if len(there) == 1 else [])
    if not deploy:
        raise PortError(f"{path}: no {stem}{suffix} lies beside it; a Caffe network is both files")
    return deploy[0]
