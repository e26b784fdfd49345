"""What the optional parts need: which modules, and which extra of the package installs them.
Nothing is imported to find out."""

from __future__ import annotations

from importlib.util import find_spec

import click

MODULES = {
    "torch": ("torch", "onnx_ir", "onnxscript"),
    "keras": ("tensorflow", "keras", "tf2onnx", "onnx_ir"),
    "onnxruntime": ("onnxruntime",),
}
"""Framework or engine → the modules that it is imported from."""
EXTRAS = {"torch": "torch", "keras": "keras", "onnxruntime": "parity"}
"""Framework or engine → the extra that installs it: pip install 'segtwin[…]'."""


def missing(name: str) -> list[str]:
    """The modules of a framework or engine that are not installed here."""
    return [module for module in MODULES[name] if not there(module)]


def there(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def require(*names: str, purpose: str = "this") -> None:
    """Check, before any work, that frameworks and engines are installed.

    Args:
        *names: of "torch", "keras" and "onnxruntime"; other names need nothing.
        purpose: what needs them, for the message.

    Raises:
        click.ClickException: one line: what is missing, and the extra that installs it.
    """
    lacking = {name: missing(name) for name in names if name in MODULES and missing(name)}
    if lacking:
        modules = list(dict.fromkeys(module for found in lacking.values() for module in found))
        verb = "is" if len(modules) == 1 else "are"
        raise click.ClickException(
            f"{purpose} needs {' and '.join(modules)}, which {verb} not installed; {advice(*lacking)}"
        )


def advice(*names: str) -> str:
    """How to install them."""
    return f"pip install 'segtwin[{','.join(EXTRAS[name] for name in names)}]'"


def explain(error: ImportError) -> str:
    """One line of an import that failed, with the extra where there is one."""
    if "pip install" in str(error):
        return str(error)
    module = (error.name or "").partition(".")[0]
    for name, modules in MODULES.items():
        if module in modules:
            return f"{error}; {advice(name)}"
    return f"{error}; a part of segtwin's own installation is missing or damaged: pip install --force-reinstall segtwin"
