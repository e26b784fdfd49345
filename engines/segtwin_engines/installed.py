"""Which frameworks and engines are installed here, found without importing them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from segtwin.errors import SegtwinError


class NotInstalledError(SegtwinError, ImportError):
    """A framework or an engine is not installed; the message says how to install it."""


ENGINES = ("onnxruntime", "torch", "keras", "ncnn", "openvino", "opencv", "caffe", "oracle")
"""What can compute a network. "oracle" is numpy in float64 and always installed."""
MODULES = {
    "torch": ("torch", "onnx_ir", "onnxscript"),
    "keras": ("tensorflow", "keras", "tf2onnx", "onnx_ir"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "ncnn": ("ncnn",),
    "openvino": ("openvino", "onnx"),
    "opencv": ("cv2",),
    "caffe": ("caffe",),
    "report": ("jinja2", "matplotlib"),
    "train": ("scipy",),
    "demo": ("gradio",),
}
"""Framework or engine → the modules that it is imported from."""
EXTRAS = {"torch": "torch", "keras": "keras", "onnxruntime": "onnx", "report": "cli", "train": "train", "demo": "demo"}
"""Framework or engine → the extra that installs it: pip install 'segtwin[…]'."""
PACKAGES = {"ncnn": "ncnn", "openvino": "openvino", "opencv": "'opencv-python-headless<5'"}
"""Engine → the package that installs it, where no extra does."""


def available_engines() -> list[str]:
    """The engines that are installed here."""
    return [engine for engine in ENGINES if engine == "oracle" or not missing(engine)]


def missing(name: str) -> list[str]:
    """The modules of a framework or engine that are not installed here."""
    return [module for module in MODULES[name] if not there(module)]


def there(module: str) -> bool:
    """Whether a module can be found; it is not imported. A folder of that name is none."""
    try:
        spec = find_spec(module)
        return spec is not None and spec.origin is not None
    except (ImportError, ValueError):
        return False


def require(*names: str, purpose: str = "this") -> None:
    """Check, before any work, that frameworks and engines are installed.

    Args:
        *names: frameworks and engines; other names need nothing.
        purpose: what needs them, for the message.

    Raises:
        NotInstalledError: what is missing, and the extra or package that installs it.
    """
    lacking = {name: missing(name) for name in names if name in MODULES and missing(name)}
    if lacking:
        modules = list(dict.fromkeys(module for found in lacking.values() for module in found))
        verb = "is" if len(modules) == 1 else "are"
        raise NotInstalledError(f"{purpose} needs {listed(modules)}, which {verb} not installed; {advice(*lacking)}")


def listed(names: Sequence[str]) -> str:
    """In words: one, two and three."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def advice(*names: str) -> str:
    """How to install them."""
    extras = [EXTRAS[name] for name in names if name in EXTRAS]
    wanted = [f"'segtwin[{','.join(extras)}]'"] if extras else []
    wanted += [PACKAGES[name] for name in names if name in PACKAGES]
    if not wanted:
        return "pycaffe comes with Caffe built from source (make pycaffe); put its folder python/ on PYTHONPATH"
    return f"pip install {' '.join(wanted)}"


def explain(error: ImportError) -> str:
    """One line of an import that failed, with the extra where there is one."""
    if isinstance(error, NotInstalledError) or "pip install" in str(error):
        return str(error)
    module = (error.name or "").partition(".")[0]
    for name, modules in MODULES.items():
        if module in modules:
            return f"{error}; {advice(name)}"
    return f"{error}; a part of segtwin's own installation is missing or damaged: pip install --force-reinstall segtwin"
