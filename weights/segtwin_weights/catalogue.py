"""Published weights: where each set is, under which hash its publisher states, and what to do
without a network.

A set has several sources that hold the same numbers, tried in turn. Where the publisher states a
hash it is checked; where it states none, the sha256 of the first download is kept in the cache
(`known_hashes.json`) and later downloads have to have it. No hash is made up.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import requests
from filelock import FileLock, Timeout
from segtwin.files import whole

from segtwin_weights.cache import cache_folder
from segtwin_weights.hub import WeightsError, file_kind, sha256

CONNECT_SECONDS, READ_SECONDS = 5, 60
CHUNK = 1 << 16
"""Bytes at once; what is cut off is lost from the last whole chunk on."""
KNOWN = "known_hashes.json"
POLL_SECONDS = 1.0
WAIT_SECONDS = 300.0
"""How long another process may hold a lock without a byte more of the file: above the time-outs of
its two sources, and what is made of it."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""The disk, or what one may write to it, is full: what has come is in the way of everything, and is
removed."""


class UnreachableError(WeightsError):
    """No source of a set answers."""

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message)
        self.why = why
        """What the sources answered, in a few words."""


class Source(NamedTuple):
    """One place of a set."""

    url: str
    hash: str = ""
    """As the publisher states it: "md5:…", "sha256:…", "sha256-prefix:…" (torchvision has it in the
    name), or "" where it states none."""
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
            Source(
                f"{host}/vgg16_weights_tf_dim_ordering_tf_kernels.h5",
                "md5:64373286793e3c8b2b4e3219cbf3544b",
                "keras.applications.vgg16",
            )
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
        (
            Source(
                f"{TORCHVISION}/resnet34-b627a593.pth", "sha256-prefix:b627a593", "torchvision.models.ResNet34_Weights"
            ),
        ),
    ),
    **{net: _berkeley(net) for net in ("fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce")},
}


def fetch(name: str, progress: Any = False, say: Callable[[str], None] = lambda line: None) -> Path:
    """The file of a set of weights, from the cache or, checked, from the first of its sources that
    answers.

    A download that was cut off goes on where it stopped. Nothing takes the file's name before its
    hash is right. Of several processes and threads one downloads, and the others wait for it.

    Args:
        name: a key of `CATALOGUE`.
        progress: an object like a tqdm bar: `total`, `update(n)`, `reset()`,
            `close()`.
        say: told, line by line, what happens.

    Raises:
        ValueError: there is no such set.
        UnreachableError: no source can be reached.
        WeightsError: what comes has another hash than the publisher's, or than the first time;
            another process holds the lock and does nothing; the hashes of the first downloads cannot
            be read.
        OSError: the cache cannot be written.
    """
    if name not in CATALOGUE:
        raise ValueError(f"there are no published weights {name!r}; there are {', '.join(CATALOGUE)}")
    entry = CATALOGUE[name]
    final = cache_folder() / entry.file
    if not final.is_file():
        with only_one(final, say):
            if not final.is_file():  # another process may have made it meanwhile
                _download(name, entry, final, progress, say)
                return final
    _check(final, final, entry.sources[0], first_use=say)
    return final


def _download(name: str, entry: Entry, final: Path, progress: Any, say: Callable[[str], None]) -> None:
    """Fetch a set that is not in the cache; the lock is held.

    Raises:
        WeightsError, OSError: as `fetch`.
    """
    recorded(final.name)  # before the work: it may be damaged
    download = Download(final.with_name(f"{entry.file}.partial"), progress)
    failures = []
    for source in entry.sources:
        say(f"{source.url}")
        try:
            resumed = download(source.url, checked=bool(source.hash))
            try:
                _arrived(download.partial, final, source, say)
            except WeightsError:
                download.forget()
                if not resumed:
                    raise
                say(f"{final.name}: what was there of it is of another file; it is fetched afresh")
                download(source.url, checked=bool(source.hash))
                try:
                    _arrived(download.partial, final, source, say)
                except WeightsError:
                    download.forget()
                    raise
        except requests.RequestException as error:
            failures.append(_reason(error))
            continue
        except OSError as error:
            if error.errno in FULL:
                download.forget()
            raise
        os.replace(download.partial, final)
        download.forget()
        return
    if download.size() == 0:
        download.forget()
    why = "; ".join(dict.fromkeys(failures))
    raise UnreachableError(
        f"{name} cannot be fetched ({why}); on a machine with a network fetch {entry.sources[0].url} and put it at "
        f"{final}",
        why,
    )


def _arrived(partial: Path, final: Path, source: Source, say: Callable[[str], None]) -> None:
    """Check a whole download, and see that its bytes are on disk."""
    file_kind(partial)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _check(partial, final, source, first_use=say)


@contextmanager
def only_one(
    final: Path, say: Callable[[str], None] = lambda line: None, download: str | None = None
) -> Iterator[None]:
    """Hold the lock of a file in the cache, `final`.lock, for this thread alone; wait for another
    holder as long as it does something.

    The system gives the lock back when its holder ends, however it ends.

    Args:
        final: the file.
        say: told when another process holds it.
        download: name of the file that its holder downloads, where it is not `final` itself.

    Raises:
        WeightsError: the holder has not added a byte for WAIT_SECONDS.
        OSError: the lock cannot be made.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    path = final.with_name(f"{final.name}.lock")
    partial = final.with_name(f"{download or final.name}.partial")
    lock = FileLock(path)
    size, since = -1, time.monotonic()
    waited = False
    while True:
        try:
            lock.acquire(timeout=POLL_SECONDS if waited else 0)
            break
        except Timeout:
            if not waited:
                say(f"{final.name}: another process is making it; waiting")
                waited = True
        now = partial.stat().st_size if partial.is_file() else 0
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > WAIT_SECONDS:
            words = (
                f"another process holds it and has done nothing for {WAIT_SECONDS:.0f} s; end that process, or try "
                "again"
            )
            raise WeightsError(f"{path}: {words}")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # while it is held: whoever waits for it sees that it is gone, and makes a new one
        lock.release()


class Incomplete(requests.RequestException):
    """What came cannot be the whole file."""


class Download:
    """A file on its way into the cache. What has come stays in a partial file, with what its server
    calls this version of it (ETag, or the time of its last change), and the next try asks for the
    rest of the same version.
    """

    def __init__(self, partial: Path, progress: Any = False) -> None:
        self.partial, self.progress = partial, progress
        self.version = partial.with_name(f"{partial.name}.version")

    def size(self) -> int:
        """Bytes that have come."""
        return self.partial.stat().st_size if self.partial.is_file() else 0

    def forget(self) -> None:
        """Remove what has come."""
        self.partial.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)

    def __call__(self, url: str, checked: bool) -> bool:
        """Complete the partial file.

        Args:
            url: where from.
            checked: whether a published hash will be compared. If not, pieces are only joined where
                the server says that they are of one version, and its length has to be known.

        Returns:
            Whether what was there before is part of the file.

        Raises:
            requests.RequestException: it cannot be reached, answers with an error, or stops short.
            OSError: the partial file cannot be written.
        """
        have = self.size()
        version = self._known(url)
        if have and not (checked or version):
            self.forget()
            have = 0
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-"} | ({"If-Range": version} if version else {})
        with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as response:
            first, total = _range(response.headers.get("content-range", ""))
            if have and response.status_code == requests.codes.requested_range_not_satisfiable:
                if total in (None, have):
                    return True  # nothing is missing; the hash decides
                self.forget()
                return self(url, checked)
            response.raise_for_status()
            goes_on = bool(have) and response.status_code == requests.codes.partial_content
            other_part = first != have if first is not None or not checked else False  # or it does not say
            # of a server that does not hear If-Range
            other_version = bool(version) and _version(response) not in ("", version)
            if goes_on and (other_part or other_version):
                self.forget()
                return self(url, checked)
            length = response.headers.get("content-length", "")
            length_known = length.isascii() and length.isdigit()
            if not (checked or length_known or response.headers.get("transfer-encoding", "").lower() == "chunked"):
                raise Incomplete("the server does not say how long the file is, and no hash is published")
            have = have if goes_on else 0
            expected = have + int(length) if length_known else None
            if self.progress:
                self.progress.total = expected or 0
                self.progress.update(have)
            self._write(response, goes_on, url)
        if (expected is not None and self.size() != expected) or (total is not None and self.size() != total):
            if total is not None and self.size() > total:
                self.forget()
            raise Incomplete(f"{self.size()} bytes came of {expected if total is None else total}")
        return goes_on

    def _write(self, response: requests.Response, goes_on: bool, url: str) -> None:
        try:
            with open(self.partial, "ab" if goes_on else "wb") as file:
                self._remember(url, response)
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    if self.progress:
                        self.progress.update(len(chunk))
        except requests.RequestException:
            raise
        except OSError as error:
            error.filename = error.filename or os.fspath(self.partial)
            raise

    def _known(self, url: str) -> str:
        """What the server of `url` called the version that has come in part, or ""."""
        with contextlib.suppress(OSError, ValueError):
            where, _, version = self.version.read_text(encoding="utf-8").partition("\n")
            return version if where == url else ""
        return ""

    def _remember(self, url: str, response: requests.Response) -> None:
        if version := _version(response):
            self.version.write_text(f"{url}\n{version}", encoding="utf-8")
        else:
            self.version.unlink(missing_ok=True)


def _version(response: requests.Response) -> str:
    """What a server calls the version that it sends, or ""; a weak ETag does not join pieces."""
    etag = response.headers.get("etag", "")
    return etag if etag.startswith('"') else response.headers.get("last-modified", "")


def _range(text: str) -> tuple[int | None, int | None]:
    """First byte and length of the whole of a Content-Range; None where it does not say."""
    match = re.fullmatch(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(?:(\d{1,18})|\*)", text.strip())
    first, total = match.groups() if match else (None, None)
    return None if first is None else int(first), None if total is None else int(total)


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
        known = recorded(final.name)
        wanted = known or found
        good = found == wanted
        if not known:
            record(final.name, found)
            first_use(
                f"{final.name}: its publisher states no hash; sha256 {found} is kept and later downloads have to "
                "have it"
            )
    if not good:
        by = f"{source.stated} states" if source.stated else "the first download had"
        what = "delete it and fetch it again" if path == final else "the download is damaged or another file; try again"
        raise WeightsError(f"{path}: has the {kind.removesuffix('-prefix') or 'sha256'} {found}, {by} {wanted}; {what}")


def recorded(name: str) -> str:
    """The sha256 that a file had at its first download, or ""."""
    return _known_hashes().get(name, "")


def record(name: str, digest: str) -> None:
    """Keep a file's sha256."""
    path = cache_folder() / KNOWN
    with only_one(path):
        known = _known_hashes()
        with whole(path, replace=True) as draft:
            draft.write_text(json.dumps({**known, name: digest}, indent=2, sort_keys=True), encoding="utf-8")


def _known_hashes() -> dict[str, str]:
    """File → its sha256.

    Raises:
        WeightsError: the file of them is damaged. Taken for empty, it would let any download in.
        OSError: it cannot be read.
    """
    path = cache_folder() / KNOWN
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        known, why = None, f" ({type(error).__name__})"
    else:
        why = ""
    if not isinstance(known, dict) or not all(
        isinstance(one, str) and re.fullmatch("[0-9a-f]{64}", one) for one in known.values()
    ):
        what = (
            f"is no table of files and their sha256{why}; correct it, or delete it and every file beside it whose "
            "publisher states no hash"
        )
        raise WeightsError(f"{path}: {what}")
    return known
