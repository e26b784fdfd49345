"""safetensors: the hub on disk. Names, shapes and numbers as they are, metadata as JSON strings in
the header.

Large sets may lie in shards, `NAME-00001-of-00003.safetensors` …, with
`NAME.safetensors.index.json` beside them that says what lies where, as the Hugging Face hub has
them; `read` takes the index as it takes a file.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
from segtwin.files import whole, whole_together

from segtwin_weights.door import OBJECT, Budget, check_name, line, reader, regular
from segtwin_weights.door import loads as loads_json
from segtwin_weights.hub import Metadata, Weights, WeightsError, check_finite
from segtwin_weights.mappings import checkpoints
from segtwin_weights.metadata import loads


@reader
def read(path: str | os.PathLike[str]) -> Weights:
    """Read a safetensors file or the index of shards, ours or another's: its tensors keep their
    names.

    Raises:
        WeightsError: the file is one shard of several, is damaged, names shards outside its folder,
            has types that numpy has not, or holds NaN.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(16)
    if head[8:9] != b"{" and head.lstrip()[:1] == b"{":
        return _found(path, _read_shards(Path(path)))
    if (shard := ONE_OF.fullmatch(Path(path).name)) and int(shard[3]) > 1:
        raise WeightsError(
            f"{path}: is shard {int(shard[2])} of {int(shard[3])}; give their index, "
            f"{shard[1]}.safetensors.index.json, beside all of them"
        )
    return _found(path, _read_one(path))


def _found(path: str | os.PathLike[str], weights: Weights) -> Weights:
    """The network among tensors of a training script, by the same rule as in a torch file; weights
    of no known network as they are."""
    if not checkpoints.complete(checkpoints.walk(path, dict(weights), np.ndarray)):
        return weights
    first, *others = checkpoints.find(path, dict(weights), np.ndarray)
    if any(
        first.keys() != other.keys() or not all(np.array_equal(first[name], other[name]) for name in first)
        for other in others
    ):
        places = checkpoints.places(dict(weights), np.ndarray)
        raise WeightsError(
            f"{path}: holds a network more than once, with other numbers: {places}; save the one to use alone"
        )
    return Weights(first, weights.metadata)


def _read_one(path: str | os.PathLike[str]) -> Weights:
    from safetensors import SafetensorError, safe_open

    size = _check_header(path)
    blobs: dict[str, np.ndarray] = {}
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            metadata = {key: loads(path, key, text, size) for key, text in (file.metadata() or {}).items()}
            for name in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                blobs[name] = file.get_tensor(name)
    except SafetensorError as error:
        raise WeightsError(f"{path}: the safetensors file is damaged ({error}); fetch or convert it again") from None
    except (TypeError, AttributeError, KeyError) as error:
        raise WeightsError(f"{path}: holds a type that numpy has not ({error}); store it as float32") from None
    for name, blob in blobs.items():
        check_finite(path, name, blob)
    return Weights(blobs, metadata)


def _check_header(path: str | os.PathLike[str]) -> int:
    """The size of a file whose header names each tensor once, and no more of them than it is good
    for; the library checks types, shapes and places.

    Raises:
        WeightsError: it does not.
    """
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, MOST_HEADER):
            raise WeightsError(
                f"{path}: the safetensors file is cut short or damaged (a header of {length:,} bytes); fetch or "
                "convert it again"
            )
        head = file.read(length)
    Budget(path, size).spend(OBJECT * head.count(b"data_offsets"), "names more tensors")
    try:
        header = loads_json(head, size)
    except ValueError as error:
        raise WeightsError(
            f"{path}: the safetensors file's header is damaged ({line(error)}); fetch or convert it again"
        ) from None
    for name in header if isinstance(header, dict) else ():
        check_name(path, name)
    return size


MOST_HEADER = 100_000_000
"""Bytes; the format's own limit."""


def _read_shards(path: Path) -> Weights:
    try:
        if path.stat().st_size > MOST_INDEX:
            raise ValueError(f"{path.stat().st_size:,} bytes of JSON")
        index = loads_json(path.read_bytes(), path.stat().st_size)
        if isinstance(index, dict) and "weight_map" not in index:
            raise WeightsError(
                f"{path}: is JSON, and no index of safetensors shards; give the file of weights, or fetch it again"
            )
        where = index["weight_map"]
        if not where or not all(isinstance(shard, str) and SHARD.fullmatch(shard) for shard in where.values()):
            raise ValueError("a shard that is no safetensors file beside it")
    except WeightsError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{path}: is no index of safetensors shards ({' '.join(str(error).split())[:120]})"
        ) from None
    blobs: dict[str, np.ndarray] = {}
    metadata: Metadata = {}
    for shard in sorted(set(where.values())):
        if not (path.parent / shard).exists():
            raise WeightsError(f"{path}: the shard {shard} is not beside it; fetch all of them")
        regular(path.parent / shard)
        part = _read_one(path.parent / shard)
        metadata |= part.metadata
        if part.keys() != {name for name, file in where.items() if file == shard}:
            raise WeightsError(
                f"{path}: the shard {shard} holds other tensors than the index says; fetch all of them again"
            )
        blobs |= part
    return Weights({name: blobs[name] for name in where}, metadata)


SHARD = re.compile(r"[^/\\\0]{1,243}\.safetensors")
ONE_OF = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
MOST_INDEX = 64 << 20


def write(weights: Weights, path: str | os.PathLike[str], shard_bytes: int | None = None) -> None:
    """Write weights and metadata.

    Args:
        weights: what to write.
        path: NAME.safetensors; with shards, the place of NAME.safetensors.index.json and
            NAME-00001-of-….safetensors.
        shard_bytes: numbers of at most so many bytes go into one file (a larger tensor has one to
            itself); None: one file.

    Raises:
        OSError: a file cannot be written.
    """
    if shard_bytes is None:
        with whole(path) as draft:
            _write_one(weights, draft, path)
        return
    groups: list[dict[str, np.ndarray]] = [{}]
    for name, blob in weights.items():
        if groups[-1] and sum(other.nbytes for other in groups[-1].values()) + blob.nbytes > shard_bytes:
            groups.append({})
        groups[-1][name] = blob
    path = Path(path)
    shards = [f"{path.stem}-{number:05}-of-{len(groups):05}.safetensors" for number in range(1, len(groups) + 1)]
    where = {name: shard for group, shard in zip(groups, shards, strict=True) for name in group}
    total = sum(blob.nbytes for blob in weights.values())
    index = path.with_name(f"{path.name}.index.json")
    # an index never appears before its shards
    with whole_together(*map(path.with_name, shards), index) as (*drafts, draft):
        for group, shard in zip(groups, drafts, strict=True):
            _write_one(Weights(group, weights.metadata), shard, path.with_name(shard.name))
        draft.write_text(
            json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2), encoding="utf-8"
        )


def _write_one(weights: Weights, draft: Path, path: str | os.PathLike[str]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    metadata = {key: json.dumps(value, ensure_ascii=False) for key, value in weights.metadata.items()}
    try:
        save_file({name: np.require(blob, requirements="C") for name, blob in weights.items()}, draft, metadata)
    except SafetensorError as error:  # it hides the errno of a full disk in a string
        raise OSError(None, f"cannot be written ({error})", os.fspath(path)) from None
