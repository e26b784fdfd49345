"""Published weights: where each set is, under which hash its publisher states, and what to do without a network.

A set has several sources that hold the same numbers, tried in turn. Where the publisher states a hash it is checked; where it states none, the
sha256 of the first download is kept in the cache (`known_hashes.json`) and later downloads have to have it. No hash is made up.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs
import pooch
import requests
from segtwin.files import whole

from segtwin_weights.hub import WeightsError, file_kind, sha256

CONNECT_SECONDS, READ_SECONDS = 5, 60
CHUNK = 1 << 16
"""Bytes at once; what is cut off is lost from the last whole chunk on."""
KNOWN = "known_hashes.json"


class Source(NamedTuple):
    """One place of a set."""

    url: str
    hash: str = ""
    """As the publisher states it: "md5:…", "sha256:…", "sha256-prefix:…" (torchvision has it in the name), or "" where it states none."""
    stated: str = ""
    """Where the publisher states it."""


class Entry(NamedTuple):
    """One set of weights."""

    what: str
    file: str
    """Its name in the cache."""
    sources: tuple[Source, ...]


def _berkeley(net: str) -> Entry:
    name = f"{net}-heavy-pascal.caffemodel"
    hosts = (f"http://dl.caffe.berkeleyvision.org/{name}", f"https://dl.caffe.berkeleyvision.org/{name}")
    return Entry(f"{net} heavy, PASCAL VOC (Long, Shelhamer, Darrell)", name, tuple(map(Source, hosts)))


TORCHVISION = "https://download.pytorch.org/models"
CATALOGUE = {
    "vgg16": Entry(
        "VGG-16 (Simonyan, Zisserman; Oxford), ImageNet",
        "vgg16_weights_tf_dim_ordering_tf_kernels.h5",
        tuple(
            Source(f"{host}/vgg16_weights_tf_dim_ordering_tf_kernels.h5", "md5:64373286793e3c8b2b4e3219cbf3544b", "keras.applications.vgg16")
            for host in (
                "https://storage.googleapis.com/tensorflow/keras-applications/vgg16",
                "https://github.com/fchollet/deep-learning-models/releases/download/v0.1",
            )
        ),
    ),
    "vgg16-caffe": Entry(
        "VGG-16 (Simonyan, Zisserman; Oxford), the authors' Caffe file",
        "VGG_ILSVRC_16_layers.caffemodel",
        (
            Source("https://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel"),
            Source("http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel"),
        ),
    ),
    "vgg16-torchvision": Entry(
        "VGG-16, torchvision's own training, IMAGENET1K_V1",
        "vgg16-397923af.pth",
        (Source(f"{TORCHVISION}/vgg16-397923af.pth", "sha256-prefix:397923af", "torchvision.models.VGG16_Weights"),),
    ),
    "resnet34": Entry(
        "ResNet-34, torchvision, IMAGENET1K_V1",
        "resnet34-b627a593.pth",
        (Source(f"{TORCHVISION}/resnet34-b627a593.pth", "sha256-prefix:b627a593", "torchvision.models.ResNet34_Weights"),),
    ),
    **{net: _berkeley(net) for net in ("fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce")},
}


def cache_folder() -> Path:
    """`SEGTWIN_CACHE`, or where the platform puts caches."""
    return Path(os.environ.get("SEGTWIN_CACHE") or platformdirs.user_cache_path("segtwin"))


def fetch(name: str, progress: Any = False, say: Callable[[str], None] = lambda line: None) -> Path:
    """The file of a set of weights, from the cache or, checked, from the first of its sources that answers.

    A download that was cut off goes on where it stopped. Nothing takes the file's name before its hash is right.

    Args:
        name: a key of `CATALOGUE`.
        progress: an object like a tqdm bar, as pooch takes it: `total`, `update(n)`, `reset()`, `close()`.
        say: told, line by line, what happens.

    Raises:
        ValueError: there is no such set.
        WeightsError: no source can be reached; what comes has another hash than the publisher's, or than the first time.
        OSError: the cache cannot be written.
    """
    if name not in CATALOGUE:
        raise ValueError(f"there are no published weights {name!r}; there are {', '.join(CATALOGUE)}")
    entry = CATALOGUE[name]
    final = cache_folder() / entry.file
    if final.is_file():
        _check(final, final, entry.sources[0], first_use=say)
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f"{entry.file}.partial")
    downloader = Resuming(partial, progress)
    failures = []
    for source in entry.sources:
        say(f"{source.url}")
        try:
            downloader(source.url)
        except requests.RequestException as error:
            failures.append(_reason(error))
            continue
        try:
            file_kind(partial)
            _check(partial, final, source, first_use=say)
        except WeightsError:
            partial.unlink()
            raise
        os.replace(partial, final)
        return final
    if partial.is_file() and not partial.stat().st_size:
        partial.unlink()
    why = "; ".join(dict.fromkeys(failures))
    raise WeightsError(f"{name} cannot be fetched ({why}); on a machine with a network fetch {entry.sources[0].url} and put it at {final}")


class Resuming(pooch.HTTPDownloader):
    """pooch's downloader, which goes on with a partial file where the server can: it asks for the range that is missing."""

    def __init__(self, partial: Path, progress: Any = False) -> None:
        super().__init__(progressbar=progress, chunk_size=CHUNK, timeout=(CONNECT_SECONDS, READ_SECONDS), allow_redirects=True)
        self.partial = partial

    def __call__(self, url: str, output_file: Any = None, pooch: Any = None, check_only: bool = False) -> None:
        """Complete the partial file from `url`.

        Raises:
            requests.RequestException: it cannot be reached, answers with an error, or stops short.
        """
        have = self.partial.stat().st_size if self.partial.is_file() else 0
        if not have:
            with open(self.partial, "wb") as file:
                super().__call__(url, file, pooch)
            return
        headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
        with requests.get(url, headers=headers, stream=True, timeout=self.kwargs["timeout"]) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                return  # nothing is missing; the hash decides
            response.raise_for_status()
            goes_on = response.status_code == requests.codes.partial_content
            if self.progressbar:
                self.progressbar.total = int(response.headers.get("content-length", 0)) + (have if goes_on else 0)
                self.progressbar.update(have if goes_on else 0)
            with open(self.partial, "ab" if goes_on else "wb") as file:
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    if self.progressbar:
                        self.progressbar.update(len(chunk))


def _reason(error: Exception) -> str:
    if isinstance(error, requests.Timeout | requests.ConnectionError):
        return "no network"
    return " ".join(str(error).split())[:160]


def _check(path: Path, final: Path, source: Source, first_use: Callable[[str], None]) -> None:
    """Compare a file with the publisher's hash, or with that of the first time.

    Raises:
        WeightsError: they differ.
    """
    kind, _, wanted = source.hash.partition(":")
    if kind == "md5":
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        good = found == wanted
    elif kind:
        found = sha256(path)
        good = found.startswith(wanted) if kind == "sha256-prefix" else found == wanted
    else:
        found = sha256(path)
        wanted = recorded(final.name) or found
        good = found == wanted
        if not recorded(final.name):
            record(final.name, found)
            first_use(f"{final.name}: its publisher states no hash; sha256 {found} is kept and later downloads have to have it")
    if not good:
        by = f"{source.stated} states" if source.stated else "the first download had"
        what = "delete it and fetch it again" if path == final else "the download is damaged or another file; try again"
        raise WeightsError(f"{path}: has the {kind.removesuffix('-prefix') or 'sha256'} {found}, {by} {wanted}; {what}")


def recorded(name: str) -> str:
    """The sha256 that a file had at its first download, or ""."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return str(json.loads((cache_folder() / KNOWN).read_text(encoding="utf-8")).get(name, ""))
    return ""


def record(name: str, digest: str) -> None:
    """Keep a file's sha256."""
    path = cache_folder() / KNOWN
    known: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(path.read_text(encoding="utf-8"))
    with whole(path) as draft:
        draft.write_text(json.dumps({**known, name: digest}, indent=2, sort_keys=True), encoding="utf-8")
