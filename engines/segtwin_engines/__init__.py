"""What the commands do, in Python: networks in any engine, predictions, and the comparison of the twins.

    engine = segtwin_engines.load("out/fcn8s.safetensors")            # segtwin predict --engine auto
    blobs = engine.blobs(segtwin.preprocess("photo.jpg", engine.preprocessing))
    for result in segtwin_engines.predict(engine, ["photos/"], "out/masks"):
        print(result.image, result.classes)
    print(segtwin_engines.diagnose("port.onnx", "fcn8s", "out/fcn8s.safetensors").explanation)  # segtwin diagnose
    print(segtwin_engines.parity("out/fcn8s.safetensors", ["photo.jpg"]).equal)  # segtwin parity

Frameworks and engines are imported when they are first used.
"""

from segtwin import __version__
from segtwin.explanation import explain

from segtwin_engines.comparison import Comparison, Parity, parity
from segtwin_engines.diagnosis import Diagnosis, diagnose
from segtwin_engines.engine import Engine
from segtwin_engines.evaluation import Evaluation, chosen, evaluate, write_data_page, write_evaluation
from segtwin_engines.installed import ENGINES, available_engines
from segtwin_engines.loading import Assumed, load
from segtwin_engines.ports import Port, PortError, open_port
from segtwin_engines.prediction import LEGEND, Prediction, collect, plan, predict
from segtwin_engines.weights_diagnosis import diagnose_weights

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
