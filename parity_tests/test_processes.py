"""Processes beside each other: one cache, one target, drafts of the living and of the dead, and
what a file keeps when it is replaced."""

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import segtwin_torch
import segtwin_weights
from goldens import FOLDER
from segtwin import files
from segtwin.files import replacing, whole, whole_together
from segtwin_cli.main import main
from segtwin_engines.onnxruntime import onnx_blobs
from segtwin_weights import Weights, WeightsError, catalogue
from segtwin_weights.catalogue import Entry, Source

TINY = (2, 2, 3, 3, 4, 5, 5)
DATA = (FOLDER / "caffe" / "tiny_fcn8s_s1_c21.caffemodel").read_bytes()
OTHER = bytes([*DATA[:1000], DATA[1000] ^ 1, *DATA[1001:-1], DATA[-1] ^ 1])
"""Another file of that length: neither half is DATA's."""
SHA = hashlib.sha256(DATA).hexdigest()


# ---------------------------------------------------------------------------------------- the cache


class Publisher(BaseHTTPRequestHandler):
    """Serves DATA slowly, with ranges; the path says what is wrong with it."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str, str]] = []  # noqa: RUF012 - of all connections

    def do_GET(self) -> None:
        ranges, version = self.headers.get("Range", ""), self.headers.get("If-Range", "")
        self.asked.append((self.path, ranges, version))
        body, etag = (OTHER, '"two"') if self.path in ("/changed", "/deaf") else (DATA, '"one"')
        begin = int(ranges.removeprefix("bytes=").rstrip("-") or 0)
        if version and version != etag and self.path != "/deaf":
            begin = 0
        part = body[begin:]
        self.send_response(206 if begin else 200)
        if begin:
            first = begin + 7 if self.path == "/another-part" else begin
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        if self.path != "/nameless":
            self.send_header("ETag", etag)
        if self.path != "/endless":
            self.send_header("Content-Length", str(len(part) + (99 if self.path == "/short" else 0)))
        self.end_headers()
        if self.path in ("/cut", "/nameless", "/endless"):
            part = part[: len(part) // 2]
        with suppress(ConnectionError):  # some clients hang up, or are killed
            for at in range(0, len(part), 1 << 16):
                self.wfile.write(part[at : at + (1 << 16)])
                if self.path == "/slow":
                    time.sleep(0.05)
        self.close_connection = True

    def log_message(self, *_) -> None: ...


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGTWIN_CACHE", str(tmp_path / "cache"))
    Publisher.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Publisher) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def published(publisher, monkeypatch):
    def publish(digest: str, *names: str) -> None:
        sources = tuple(Source(f"{publisher}/{name}", digest, "its publisher" if digest else "") for name in names)
        monkeypatch.setitem(catalogue.CATALOGUE, "net", Entry("a net", "net.caffemodel", sources))

    return publish


FETCH = """
import sys
from segtwin_weights import catalogue
catalogue.CATALOGUE["net"] = catalogue.Entry("a net", "net.caffemodel", (catalogue.Source(sys.argv[1]),))
print("ready", flush=True)
print(catalogue.fetch("net", say=lambda line: print(line, flush=True)))
"""


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_four_processes_download_once(publisher, tmp_path) -> None:
    command = [sys.executable, "-c", FETCH, f"{publisher}/slow"]
    ended = [
        process.communicate(timeout=60)
        for process in [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    ]
    cache = tmp_path / "cache"
    assert [said.splitlines()[-1] for said, _ in ended] == [str(cache / "net.caffemodel")] * 4
    assert (cache / "net.caffemodel").read_bytes() == DATA
    assert len(Publisher.asked) == 1
    assert json.loads((cache / "known_hashes.json").read_text()) == {"net.caffemodel": SHA}
    assert contents(cache) == ["known_hashes.json", "net.caffemodel"]
    assert sum("another process is making it" in said for said, _ in ended) <= 3


def test_threads_download_once_too(published, tmp_path) -> None:
    published("", "slow")
    with ThreadPoolExecutor(4) as pool:
        assert len({*pool.map(lambda _: catalogue.fetch("net"), range(4))}) == 1
    assert len(Publisher.asked) == 1


def test_a_killed_download_leaves_the_lock_free_and_its_bytes_are_used(publisher, tmp_path) -> None:
    process = subprocess.Popen([sys.executable, "-c", FETCH, f"{publisher}/slow"], stdout=subprocess.PIPE)
    partial = tmp_path / "cache/net.caffemodel.partial"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    have = partial.stat().st_size
    assert 0 < have < len(DATA)
    done = subprocess.run(
        [sys.executable, "-c", FETCH, f"{publisher}/slow"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "waiting" not in done.stdout
    assert Publisher.asked[-1] == ("/slow", f"bytes={have}-", '"one"')
    assert (tmp_path / "cache/net.caffemodel").read_bytes() == DATA


def test_a_holder_that_does_nothing_is_not_waited_for_forever(published, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(catalogue, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(catalogue, "POLL_SECONDS", 0.05)
    published("", "good")
    said: list[str] = []
    with (
        catalogue.only_one(tmp_path / "cache/net.caffemodel"),
        pytest.raises(WeightsError, match=r"net\.caffemodel\.lock: another process holds it"),
    ):
        catalogue.fetch("net", say=said.append)
    assert said == ["net.caffemodel: another process is making it; waiting"]
    assert catalogue.fetch("net").read_bytes() == DATA


@pytest.mark.parametrize("digest", ["", f"sha256:{SHA}"])
@pytest.mark.parametrize("now", ["/changed", "/deaf"])
def test_pieces_of_two_versions_are_never_joined(now: str, digest: str, published, tmp_path, monkeypatch) -> None:
    """The file changes between the two tries: the rest of the new one does not go behind the
    beginning of the old one; also where the server does not hear If-Range.
    """
    published(digest, "cut")
    with pytest.raises(WeightsError, match="cannot be fetched"):
        catalogue.fetch("net")
    cut = Publisher.asked[-1][0]
    monkeypatch.setattr(Publisher, "do_GET", lambda self, get=Publisher.do_GET: (setattr(self, "path", now), get(self)))
    if digest:
        with pytest.raises(WeightsError, match="its publisher states"):
            catalogue.fetch("net")
        assert contents(tmp_path / "cache") == []
    else:
        assert catalogue.fetch("net").read_bytes() == OTHER
        assert catalogue.recorded("net.caffemodel") == hashlib.sha256(OTHER).hexdigest()
    assert cut == "/cut"


def test_without_a_version_and_a_hash_it_begins_again(published) -> None:
    published("", "nameless")
    with pytest.raises(WeightsError, match="cannot be fetched"):
        catalogue.fetch("net")
    published("", "good")
    assert catalogue.fetch("net").read_bytes() == DATA
    assert Publisher.asked[-1] == ("/good", "", "")


@pytest.mark.parametrize("name", ["short", "endless", "cut"])
def test_a_wrong_length_is_recorded_nowhere(name: str, published, tmp_path) -> None:
    published("", name)
    with pytest.raises(WeightsError, match="cannot be fetched") as error:
        catalogue.fetch("net")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "cache/net.caffemodel").exists()
    assert catalogue.recorded("net.caffemodel") == ""


def test_another_part_than_asked_for_is_fetched_again(published) -> None:
    published("", "cut")
    with pytest.raises(WeightsError):
        catalogue.fetch("net")
    have = (catalogue.cache_folder() / "net.caffemodel.partial").stat().st_size
    version = catalogue.cache_folder() / "net.caffemodel.partial.version"
    version.write_text(version.read_text().replace("/cut", "/another-part"))
    published("", "another-part")
    assert catalogue.fetch("net").read_bytes() == DATA
    assert [ranges for path, ranges, _ in Publisher.asked if path == "/another-part"] == [f"bytes={have}-", ""]


def test_a_damaged_resume_begins_again(published, tmp_path) -> None:
    """The first half is another file's, which only the hash tells."""
    published(f"sha256:{SHA}", "nameless")
    partial = tmp_path / "cache/net.caffemodel.partial"
    partial.parent.mkdir()
    partial.write_bytes(OTHER[-200:])
    published(f"sha256:{SHA}", "good")
    assert catalogue.fetch("net").read_bytes() == DATA
    assert [ranges for _, ranges, _ in Publisher.asked] == ["bytes=200-", ""]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"net.caffemodel": 5}', '{"net.caffemodel": "ab"}', "[" * 100_000, "\xff"]
)
def test_damaged_known_hashes_are_an_error(text: str, published, tmp_path) -> None:
    known = tmp_path / "cache/known_hashes.json"
    known.parent.mkdir()
    known.write_bytes(text.encode("latin-1"))
    published("", "good")
    with pytest.raises(WeightsError, match=r"known_hashes\.json: is no table"):
        catalogue.fetch("net")
    assert known.read_bytes() == text.encode("latin-1")
    assert Publisher.asked == []


def test_hashes_kept_at_once_are_all_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SEGTWIN_CACHE", str(tmp_path))
    code = (
        "import sys; from segtwin_weights import catalogue\nfor at in range(10): "
        "catalogue.record(f'{sys.argv[1]}-{at}', '0' * 64)"
    )
    for process in [subprocess.Popen([sys.executable, "-c", code, str(one)]) for one in range(3)]:
        assert process.wait(60) == 0
    assert len(catalogue._known_hashes()) == 30


# ---------------------------------------------------------------------------------- files and names


def test_what_is_replaced_gives_its_mode_and_owner(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for mode in (0o600, 0o664, 0o444):
        path.write_text("before")
        path.chmod(mode)
        if os.geteuid() == 0:
            os.chown(path, 12345, 12346)
        with whole(path) as draft:
            draft.write_text("after")
        found = path.stat()
        assert (path.read_text(), stat.S_IMODE(found.st_mode)) == ("after", mode)
        if os.geteuid() == 0:
            assert (found.st_uid, found.st_gid) == (12345, 12346)
        path.unlink()


def test_new_files_have_the_mode_that_the_system_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", None)  # reading it would change it for other threads
        with whole(tmp_path / "x") as draft:
            descriptor = os.open(draft, os.O_CREAT | os.O_WRONLY, 0o600)  # a writer that is careful
            os.close(descriptor)
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["x" * 251 + ".npy", "é" * 125 + ".npy", "." + "y" * 240 + ".weights.h5"])
def test_long_names(name: str, tmp_path: Path) -> None:
    with whole(tmp_path / name) as draft:
        assert draft.name == name
        draft.write_text("a")
    assert contents(tmp_path) == [name]
    with pytest.raises(OSError, match="too long") as error, whole(tmp_path / (name + "zzzzz" * 40)) as draft:
        draft.write_text("a")
    assert error.value.filename == str(tmp_path / (name + "zzzzz" * 40))
    assert contents(tmp_path) == [name]


def test_links_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    for name, target in (("link", "far/file"), ("dangling", "far/new"), ("second", "link")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "far/file").write_text("before")
    for name in ("link", "dangling", "second"):
        with whole(tmp_path / name) as draft:
            draft.write_text(name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_text() == name
    assert contents(tmp_path / "far") == ["file", "new"]
    with whole_together(tmp_path / "dangling", tmp_path / "plain") as (one, other):
        assert one.parent == other.parent
        one.write_text("1")
        other.write_text("2")
    assert ((tmp_path / "far/new").read_text(), (tmp_path / "plain").read_text()) == ("1", "2")
    assert contents(tmp_path / "far") == ["file", "new"]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "in/w.safetensors"
    segtwin_weights.write(segtwin_weights.initialize("fcn8s", widths=TINY), path)
    return path


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_what_is_no_file_is_no_target(overwrite, tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture) -> None:
    os.mkfifo(tmp_path / "fifo.pth")
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    (tmp_path / "device.pth").symlink_to("/dev/null")
    (tmp_path / "full.pth").symlink_to("/dev/full")
    (tmp_path / "file").write_text("")
    for name in ("fifo.pth", "folder.pth", "loop.pth", "device.pth", "full.pth", "file/x.pth"):
        assert run("convert", weights, tmp_path / name, *overwrite) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith(f"segtwin: {tmp_path / name}: ") or name == "file/x.pth"
    assert contents(tmp_path) == ["device.pth", "fifo.pth", "file", "folder.pth", "full.pth", "in", "loop.pth"]


def test_companions_are_not_replaced(tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture) -> None:
    for name in ("x.deploy.prototxt", "x.train_val.prototxt", "x.solver.prototxt"):
        (tmp_path / name).write_text("mine")
        assert run("convert", weights, tmp_path / "x.caffemodel") == 2
        assert (
            capfd.readouterr().err
            == f"segtwin: {tmp_path / name}: exists already; choose another name or add --overwrite\n"
        )
        assert (tmp_path / name).read_text() == "mine"
        assert contents(tmp_path) == ["in", name]
        (tmp_path / name).unlink()
    assert run("convert", weights, tmp_path / "x.caffemodel") == 0
    assert len(contents(tmp_path)) == 5


@pytest.mark.parametrize("name", ["x.safetensors", "x.caffemodel", "x.pth", "x.weights.h5"])
def test_a_file_that_appears_meanwhile_stays(
    name: str, tmp_path: Path, weights: Path, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process makes it between the check and the name's taking: the last of a .caffemodel's
    files, too."""
    write = segtwin_weights.write

    def late(loaded: Weights, target: str) -> None:
        (tmp_path / name).write_text("theirs")
        write(loaded, target)

    monkeypatch.setattr(segtwin_weights, "write", late)
    assert run("convert", weights, tmp_path / name) == 2
    assert (
        capfd.readouterr().err
        == f"segtwin: {tmp_path / name}: exists already; choose another name or add --overwrite\n"
    )
    assert (tmp_path / name).read_text() == "theirs"
    assert contents(tmp_path) == sorted(["in", name])
    assert run("convert", weights, tmp_path / name, "--overwrite") == 0
    assert (tmp_path / name).stat().st_size > 1000


def two_files(folder: Path) -> None:
    with replacing(False), whole_together(folder / "a", folder / "b") as (one, other):
        one.write_text("1")
        other.write_text("2")
        (folder / "b").write_text("theirs")


def test_the_last_step_does_not_replace_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _number in range(2):
        with pytest.raises(FileExistsError) as error:
            two_files(tmp_path)
        assert error.value.filename == str(tmp_path / "b")
        assert contents(tmp_path) == ["b"]
        (tmp_path / "b").unlink()

        def no_links(*_):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "link", no_links)  # as on FAT


def test_of_two_processes_one_wins(tmp_path: Path, weights: Path) -> None:
    """Eight pairs; the winner's file is whole, the other says that there is one."""
    code = """
import sys, os
from segtwin_cli.main import main
import segtwin_weights.formats.torch_file
print("ready", flush=True)
sys.stdin.readline()
main()
"""
    for at in range(4):
        target = tmp_path / f"{at}.caffemodel"
        command = [sys.executable, "-c", code, "convert", str(weights), str(target)]
        both = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for process in both:
            assert process.stdout.readline() == "ready\n"
        for process in both:
            process.stdin.write("\n")
            process.stdin.flush()
        errors = [process.communicate(timeout=60)[1] for process in both]
        assert sorted(process.returncode for process in both) == [0, 2], errors
        assert next(error for error in errors if error).endswith(
            "exists already; choose another name or add --overwrite\n"
        )
        assert segtwin_weights.read(target).fingerprint() == segtwin_weights.read(weights).fingerprint()
    assert len(contents(tmp_path)) == 4 * 4 + 1


# ------------------------------------------------------------------------------------------- drafts

WRITE = """
import sys, time
from segtwin.files import whole, whole_together
with whole_together(sys.argv[1] + ".data", sys.argv[1]) as drafts:
    for draft in drafts:
        draft.write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()
"""


def test_drafts_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE, str(tmp_path / "x.onnx")]
    dead, living = (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    )
    for process in (dead, living):
        assert process.stdout.readline() == "writing\n"
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    assert len(contents(tmp_path)) == 2
    elsewhere = tmp_path / f".01234567-{'0' * 8}.part-x.onnx"  # of another machine
    elsewhere.mkdir()
    (tmp_path / ".mine.part-x").mkdir()  # nobody's
    files._swept.clear()
    with whole(tmp_path / "y") as draft:
        draft.write_text("y")
    assert len(contents(tmp_path)) == 4
    living.communicate("go on\n")
    assert living.returncode == 0
    assert contents(tmp_path) == sorted([elsewhere.name, ".mine.part-x", "x.onnx", "x.onnx.data", "y"])
    assert (tmp_path / "x.onnx").read_text() == "half"


def test_threads_that_write_one_file_leave_one_whole(tmp_path: Path) -> None:
    def write(at: int) -> None:
        with whole_together(tmp_path / "x.data", tmp_path / "x") as drafts:
            for draft in drafts:
                draft.write_text(f"{at}" * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert contents(tmp_path) == ["x", "x.data"]
    assert (tmp_path / "x").read_text()[:1] == (tmp_path / "x.data").read_text()[:1]
    assert (tmp_path / "x").read_text() == (tmp_path / "x.data").read_text()
    assert files.OPEN == {}


# -------------------------------------------------------------------------- a graph and its weights


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    for name, value in (("a", 0.5), ("b", 0.25)):
        start = segtwin_weights.initialize("fcn8s", widths=TINY)
        model = segtwin_torch.build(
            "fcn8s", widths=TINY, weights=Weights({key: blob + np.float32(value) for key, blob in start.items()})
        )
        segtwin_torch.export_onnx(model, folder / f"{name}.onnx", external_data=True, verify=name == "a")
    return folder


@pytest.fixture
def pair(exports: Path, tmp_path: Path) -> Path:
    for name in ("a.onnx", "a.onnx.data", "b.onnx", "b.onnx.data"):
        shutil.copy(exports / name, tmp_path / name)
    return tmp_path / "a.onnx"


def complaint(function, *arguments) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_of_another_export_are_noticed(pair: Path, capfd: pytest.CaptureFixture) -> None:
    data = np.zeros((1, 3, 9, 9), np.float32)
    first = segtwin_weights.read(pair).fingerprint()
    assert onnx_blobs(pair, data, ["score"])["score"].shape == (1, 21, 9, 9)
    shutil.copy(pair.with_name("b.onnx.data"), pair.with_name("a.onnx.data"))  # as large, of the same shapes
    for said in (complaint(segtwin_weights.read, pair), complaint(onnx_blobs, pair, data, ["score"])):
        assert said == (
            f"{pair}: a.onnx.data beside it is of another export, or only one of the two files was written; "
            "export it again"
        )
    photo = Path(__file__).parent.parent / "docs/images/chelsea.jpg"
    for arguments in (
        ("predict", pair, photo, "-o", pair.parent / "out"),
        ("inspect", pair),
        ("convert", pair, pair.parent / "x.pth"),
        ("parity", pair.parent / "b.onnx", photo, "--torch-onnx", pair),
    ):
        assert run(*arguments) == 2
        err = capfd.readouterr().err
        assert "a.onnx.data beside it is of another export" in err
        assert err.count("\n") == 1
    shutil.move(pair, pair.with_name("moved.onnx"))
    shutil.copy(pair.parent / "b.onnx", pair)
    assert "b.onnx.data" in pair.read_bytes().decode("latin-1")
    assert segtwin_weights.read(pair).fingerprint() != first  # a copied graph finds the file that it names


def test_weights_that_are_replaced_while_they_are_read_come_from_one_file(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process exports other weights and then these again: the stamps before and after are
    equal, and what lies between is not."""
    from segtwin_weights.formats import onnx_weights

    want = segtwin_weights.read(pair).fingerprint()
    inner, count = onnx_weights._external, []

    def meanwhile(*arguments):
        count.append(1)
        if len(count) in (5, 9):
            shutil.copy(pair.parent / ("b.onnx.data" if len(count) == 5 else "kept"), pair.parent / "new")
            os.replace(pair.parent / "new", pair.parent / "a.onnx.data")
        return inner(*arguments)

    shutil.copy(pair.parent / "a.onnx.data", pair.parent / "kept")
    monkeypatch.setattr(onnx_weights, "_external", meanwhile)
    assert segtwin_weights.read(pair).fingerprint() == want
    assert len(count) > 9


def test_an_export_through_a_link_is_read(pair: Path) -> None:
    import onnxruntime

    (pair.parent / "far").mkdir()
    (pair.parent / "link.onnx").symlink_to("far/real.onnx")
    model = segtwin_torch.build("fcn8s", widths=TINY)
    segtwin_torch.export_onnx(model, pair.parent / "link.onnx", external_data=True, verify=False)
    assert (pair.parent / "link.onnx").is_symlink()
    assert (
        segtwin_weights.read(pair.parent / "link.onnx").fingerprint() == segtwin_torch.read_weights(model).fingerprint()
    )
    onnxruntime.InferenceSession(pair.parent / "link.onnx")
    (pair.parent / "to-a.onnx").symlink_to("far/a.onnx")
    for name in ("a.onnx", "a.onnx.data"):
        shutil.move(pair.parent / name, pair.parent / "far" / name)
    assert segtwin_weights.read(pair.parent / "to-a.onnx")


def test_an_export_without_a_stamp_is_read(pair: Path) -> None:
    import onnx

    want = segtwin_weights.read(pair).fingerprint()
    model = onnx.load(pair, load_external_data=False)
    kept = [entry for entry in model.metadata_props if entry.key != "external_data"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    pair.write_bytes(model.SerializeToString())
    assert segtwin_weights.read(pair).fingerprint() == want
    for stated in (
        "{",
        "[]",
        '{"file": "../a", "sha256": "x"}',
        '{"file": 5}',
        '{"file": "a.onnx.data", "sha256": "0"}',
        "[" * 9999,
        "\\u0000",
    ):
        entry = model.metadata_props.add()
        entry.key, entry.value = "external_data", stated
        pair.write_bytes(model.SerializeToString())
        assert str(pair) in complaint(segtwin_weights.read, pair)
        model.metadata_props.pop()


def test_an_export_that_stops_between_its_two_names(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash after the first name was taken: nothing is undone then."""
    code = f"""
import os, segtwin_torch
replace = os.replace
def last(source, target):
    replace(source, target)
    if str(target).endswith(".data"): os._exit(9)
os.replace = last
import segtwin_weights
model = segtwin_torch.build("fcn8s", widths={TINY})
segtwin_torch.export_onnx(model, {str(pair)!r}, external_data=True, verify=False)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert "is of another export" in complaint(segtwin_weights.read, pair)


def test_parity_of_a_file_that_is_no_graph(pair: Path, capfd: pytest.CaptureFixture) -> None:
    photo = Path(__file__).parent.parent / "docs/images/chelsea.jpg"
    bad = pair.parent / "bad.onnx"
    for content in (b"", b"\x08\x09\x3a\xff\xff", np.random.default_rng(1).bytes(5000), b"hello"):
        bad.write_bytes(content)
        assert run("parity", pair, photo, "--torch-onnx", bad) == 2
        err = capfd.readouterr().err
        assert err.startswith(f"segtwin: {bad}: ")
        assert err.count("\n") == 1
    for option in ("--torch-onnx", "--keras-onnx"):
        assert run("parity", pair, photo, option, pair.parent / "nowhere.onnx") == 2
        assert capfd.readouterr().err == f"segtwin: {pair.parent / 'nowhere.onnx'}: No such file or directory\n"
