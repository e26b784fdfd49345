"""A training's numbers for TensorBoard: scalars, histograms of the weights, example masks. Nothing is
written where the package tensorboard is not installed."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BINS = 30


class Log:
    """A folder of event files.

    Args:
        folder: where they go; None: nowhere.
        begin: step to go on from; events of later steps, of a run that was stopped, are not shown.
    """

    def __init__(self, folder: Path | None, begin: int = 0) -> None:
        self.writer = None
        if folder is None:
            return
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.events, self.summaries = event_pb2, summary_pb2
        # tensorboard's own EventFileWriter imports TensorFlow where it is installed
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self.writer = RecordWriter(open(folder / name, "ab"))  # noqa: SIM115 # `close` does
        self._write(self.events.Event(wall_time=time.time(), file_version="brain.Event:2"))
        if begin:
            session = self.events.SessionLog(status=self.events.SessionLog.START)
            self._write(self.events.Event(wall_time=time.time(), session_log=session, step=begin))

    def _write(self, event: Any) -> None:
        assert self.writer is not None
        self.writer.write(event.SerializeToString())
        self.writer.flush()

    def _add(self, step: int, **value: Any) -> None:
        if self.writer is not None:
            summary = self.summaries.Summary(value=[self.summaries.Summary.Value(**value)])
            self._write(self.events.Event(wall_time=time.time(), summary=summary, step=step))

    def scalar(self, name: str, value: float, step: int) -> None:
        """One number."""
        self._add(step, tag=name, simple_value=value)

    def scores(self, scores: Mapping[str, Any], step: int) -> None:
        """Those of a validation."""
        for name, value in scores.items():
            if isinstance(value, float):
                self.scalar(f"validation/{name}", value, step)

    def weights(self, weights: Mapping[str, np.ndarray], step: int) -> None:
        """A histogram of each blob, as the original's summaries have."""
        if self.writer is None:
            return
        for name, blob in weights.items():
            if blob.dtype.kind == "f" and blob.size:
                values = blob.astype(np.float64).ravel()
                try:
                    counts, edges = np.histogram(values, BINS)
                except ValueError:  # all values lie closer together than float64 can cut into so many
                    continue
                histogram = self.summaries.HistogramProto(
                    min=values.min(), max=values.max(), num=values.size, sum=values.sum(),
                    sum_squares=(values**2).sum(), bucket_limit=edges[1:].tolist(), bucket=counts.tolist(),
                )  # fmt: skip
                self._add(step, tag=f"weights/{name}", histo=histogram)

    def pictures(self, picture: np.ndarray, step: int) -> None:
        """H×W×3: a label and a prediction beside each other."""
        if self.writer is None:
            return
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        image = self.summaries.Summary.Image(
            height=picture.shape[0], width=picture.shape[1], colorspace=3, encoded_image_string=file.getvalue()
        )
        self._add(step, tag="label and prediction", image=image)

    def close(self) -> None:
        """Write what is left."""
        if self.writer is not None:
            self.writer.close()
