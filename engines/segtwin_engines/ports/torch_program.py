"""TorchScript, exported programs and torch modules. Every operator's result is seen by a dispatch mode, whatever the
program was written in."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import segtwin_torch  # noqa: F401 - torch's dispatch modes import triton: before TensorFlow, or never
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from segtwin_engines.ports.port import Port, PortError, Values, arrays, failed, named


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Copies every array of numbers that an operator returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values: Values = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute, and keep a copy."""
        result = func(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, tuple | list) and result else result
        if isinstance(first, torch.Tensor) and first.is_floating_point() and first.dim() >= 2:
            name = func.overloadpacket.__name__
            count = sum(one.startswith(f"{name}.") for one in self.values)
            self.values[f"{name}.{count}"] = np.array(first.detach().cpu().float().numpy())
        return result


def of_file(path: Path, kind: str, in_channels: int | None) -> Port:
    """Open a TorchScript file or what torch.export.save wrote.

    Raises:
        PortError: torch cannot read it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "torchscript":
                program = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
            else:
                # it would unpickle whatever is there where the restricted way fails
                with mock.patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}), open(path, "rb") as file:
                    program = torch.export.load(file)
            return of_function(program, str(path))
    except Exception as error:  # torch's errors have no class in common
        raise PortError(f"{path}: torch cannot read it: {' '.join(str(error).split())[:200]}") from None


def size_of(exported: torch.export.ExportedProgram) -> tuple[int | None, int | None]:
    """Rows and columns of a program's first input; None for what may vary."""
    names = exported.graph_signature.user_inputs
    shapes = (node.meta["val"].shape for node in exported.graph.nodes if node.name in names and "val" in node.meta)
    shape = next((one for one in shapes if len(one) >= 2), (None, None))
    rows, columns = (one if isinstance(one, int) else None for one in shape[-2:])
    return rows, columns


def of_function(function: Any, name: str | None = None) -> Port:
    """A torch module, an exported program, or any function; one that wants arrays, and one that wants tensors."""
    own = name or named(function)
    called: Any = function.module() if isinstance(function, torch.export.ExportedProgram) else function
    ways: list[Callable[[np.ndarray], Any]] = [
        called, lambda data: called(torch.from_numpy(np.ascontiguousarray(data)))
    ]  # fmt: skip
    if isinstance(called, torch.nn.Module):
        del ways[0]

    def call(data: np.ndarray, recorder: Any = None) -> Any:
        # outside of the recorder: what is put back afterwards is copied first, and no value of the network
        with torch.no_grad(), warnings.catch_warnings(), untouched(called), recorder or nullcontext():
            warnings.simplefilter("ignore")
            for way in list(ways):
                try:
                    result = way(data)
                except Exception:
                    if way is ways[-1]:
                        raise
                    continue
                ways[:] = [way]
                return result
        return None

    def run(data: np.ndarray) -> list[np.ndarray]:
        try:
            return arrays(call(data))
        except Exception as error:  # whatever a stranger's function raises
            raise failed(own, data, error) from error

    def values(data: np.ndarray) -> Values:
        looked_at = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)  # ours leave nothing out then
        recorder = Recorder()
        with looked_at, suppress(Exception):  # what was computed before it failed is there
            call(data, recorder)
        return recorder.values

    def weights() -> Values:
        held = called.state_dict() if isinstance(called, torch.nn.Module) else {}
        return {
            key: array.detach().cpu().float().numpy()
            for key, array in held.items()
            if isinstance(array, torch.Tensor) and array.is_floating_point() and array.dim()
        }

    size = size_of(function) if isinstance(function, torch.export.ExportedProgram) else (None, None)
    return Port(own, run, values, size, weights=weights)


@contextmanager
def untouched(module: Any) -> Iterator[None]:
    """What a call changes is put back: torch's random numbers, and a module's running statistics in training mode."""
    buffers = list(module.buffers()) if isinstance(module, torch.nn.Module) else []
    before = [one.clone() for one in buffers]
    with torch.random.fork_rng(devices=[]):
        torch.seed()
        try:
            yield
        finally:
            for buffer, kept in zip(buffers, before, strict=True):
                if not torch.equal(buffer, kept):
                    buffer.copy_(kept)
