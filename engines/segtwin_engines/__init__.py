"""What the commands do, in Python: networks in any engine, predictions, and the comparison of the twins.

    engine = segtwin_engines.load("out/fcn8s.safetensors")            # segtwin predict --engine auto
    blobs = engine.blobs(segtwin.preprocess("photo.jpg", engine.preprocessing))
    for result in segtwin_engines.predict(engine, ["photos/"], "out/masks"):
        print(result.image, result.classes)
    print(segtwin_engines.diagnose("port.onnx", "fcn8s", "out/fcn8s.safetensors").explanation)  # segtwin diagnose
    print(segtwin_engines.parity("out/fcn8s.safetensors", ["photo.jpg"]).equal)  # segtwin parity

Frameworks and engines are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segtwin import __version__

if TYPE_CHECKING:
    from segtwin.explanation import explain

    from segtwin_engines.comparison import Comparison, Parity, parity
    from segtwin_engines.diagnosis import diagnose
    from segtwin_engines.engine import Engine
    from segtwin_engines.evaluation import Evaluation, chosen, evaluate, write_data_page, write_evaluation
    from segtwin_engines.installed import ENGINES, available_engines
    from segtwin_engines.loading import Assumed, load
    from segtwin_engines.ports import Port, PortError, open_port
    from segtwin_engines.prediction import LEGEND, Prediction, collect, plan, predict
    from segtwin_engines.verdict import Diagnosis
    from segtwin_engines.weights_diagnosis import diagnose_weights

_PLACES = {
    "segtwin.explanation": ("explain",),
    "segtwin_engines.comparison": ("Comparison", "Parity", "parity"),
    "segtwin_engines.diagnosis": ("diagnose",),
    "segtwin_engines.engine": ("Engine",),
    "segtwin_engines.evaluation": ("Evaluation", "chosen", "evaluate", "write_data_page", "write_evaluation"),
    "segtwin_engines.installed": ("ENGINES", "available_engines"),
    "segtwin_engines.loading": ("Assumed", "load"),
    "segtwin_engines.ports": ("Port", "PortError", "open_port"),
    "segtwin_engines.prediction": ("LEGEND", "Prediction", "collect", "plan", "predict"),
    "segtwin_engines.verdict": ("Diagnosis",),
    "segtwin_engines.weights_diagnosis": ("diagnose_weights",),
}
"""Module → the names that are taken from it when they are first used: a prediction needs no diagnosis."""

__all__ = [
    "ENGINES",
    "LEGEND",
    "Assumed",
    "Comparison",
    "Diagnosis",
    "Engine",
    "Evaluation",
    "Parity",
    "Port",
    "PortError",
    "Prediction",
    "__version__",
    "available_engines",
    "chosen",
    "collect",
    "diagnose",
    "diagnose_weights",
    "evaluate",
    "explain",
    "load",
    "open_port",
    "parity",
    "plan",
    "predict",
    "write_data_page",
    "write_evaluation",
]


def __getattr__(name: str) -> Any:
    for place, names in _PLACES.items():
        if name in names:
            return globals().setdefault(name, getattr(import_module(place), name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
