"""The options that every session of ONNX Runtime begins with."""

from __future__ import annotations

import onnxruntime
from segtwin import threads


def options(severity: int) -> onnxruntime.SessionOptions:
    """Options of a session that logs nothing below this severity, and takes as many threads as OMP_NUM_THREADS says,
    which ONNX Runtime itself does not read."""
    found = onnxruntime.SessionOptions()
    found.log_severity_level = severity
    found.intra_op_num_threads = threads.allowed() or 0  # 0: as it sees fit
    return found
