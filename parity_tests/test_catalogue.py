"""Published weights: fetched, checked, resumed, kept; and what is said without a network. A server
of this machine plays the publishers."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from goldens import FOLDER
from segtwin_cli.download import download
from segtwin_weights import WeightsError, catalogue
from segtwin_weights.catalogue import Entry, Source

DATA = (FOLDER / "caffe" / "tiny_fcn8s_s1_c21.caffemodel").read_bytes()


class Publisher(BaseHTTPRequestHandler):
    """Serves DATA under any name; /cut stops half-way, /page is a web page, /gone is a 404."""

    protocol_version = "HTTP/1.1"
    requests: list[tuple[str, str]] = []  # noqa: RUF012 - of all connections

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.requests.append((self.path, asked))
        start = int(asked.removeprefix("bytes=").rstrip("-") or 0)
        body = b"<html>moved</html>" if self.path == "/page" else DATA[start:]
        if self.path == "/gone":
            self.send_error(404)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)
        self.close_connection = True

    def log_message(self, *_) -> None: ...


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGTWIN_CACHE", str(tmp_path / "cache"))
    Publisher.requests = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Publisher) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def published(publisher, monkeypatch):
    """publish(hash, *names): a set "net" at these names of the server."""

    def publish(digest: str, *names: str) -> None:
        sources = tuple(Source(f"{publisher}/{name}", digest, "its publisher" if digest else "") for name in names)
        monkeypatch.setitem(catalogue.CATALOGUE, "net", Entry("a net", "net.caffemodel", sources))

    return publish


SHA = hashlib.sha256(DATA).hexdigest()
MD5 = hashlib.md5(DATA).hexdigest()


@pytest.mark.parametrize("digest", [f"md5:{MD5}", f"sha256:{SHA}", f"sha256-prefix:{SHA[:8]}"])
def test_a_stated_hash_is_checked(digest: str, published, tmp_path) -> None:
    published(digest, "good")
    path = catalogue.fetch("net")
    assert path == tmp_path / "cache" / "net.caffemodel"
    assert path.read_bytes() == DATA
    assert catalogue.fetch("net") == path
    assert len(Publisher.requests) == 1  # the second time it was there
    path.write_bytes(DATA[:-1] + b"\0")
    with pytest.raises(WeightsError, match=r"net\.caffemodel: has the .* its publisher states"):
        catalogue.fetch("net")
    path.unlink()
    kind, _, value = digest.partition(":")
    published(f"{kind}:{'0' * len(value)}", "good")
    with pytest.raises(WeightsError, match="its publisher states 0"):
        catalogue.fetch("net")
    assert not list(path.parent.iterdir())


def test_without_a_stated_hash_the_first_download_is_the_measure(published, tmp_path) -> None:
    published("", "good")
    said: list[str] = []
    path = catalogue.fetch("net", say=said.append)
    assert any("states no hash" in line and SHA in line for line in said)
    path.write_bytes(DATA + b"\0")
    with pytest.raises(WeightsError, match="the first download had"):
        catalogue.fetch("net")


def test_a_cut_download_goes_on(published, tmp_path) -> None:
    published(f"sha256:{SHA}", "cut")
    with pytest.raises(WeightsError, match="cannot be fetched"):
        catalogue.fetch("net")
    partial = tmp_path / "cache" / "net.caffemodel.partial"
    have = partial.stat().st_size
    assert len(DATA) // 4 < have <= len(DATA) // 2
    assert DATA.startswith(partial.read_bytes())
    published(f"sha256:{SHA}", "good")
    assert catalogue.fetch("net").read_bytes() == DATA
    assert Publisher.requests[-1] == ("/good", f"bytes={have}-")
    assert not partial.exists()


def test_sources_are_tried_in_turn_and_a_web_page_is_no_weights(published) -> None:
    published(f"sha256:{SHA}", "gone", "good")
    assert catalogue.fetch("net").read_bytes() == DATA
    (catalogue.cache_folder() / "net.caffemodel").unlink()
    published("", "page")
    with pytest.raises(WeightsError, match="a web page"):
        catalogue.fetch("net")
    assert catalogue.recorded("net.caffemodel") == ""


def test_without_a_network_it_says_what_to_put_where(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("SEGTWIN_CACHE", str(tmp_path))
    entry = Entry(
        "a net", "net.caffemodel", (Source("http://127.0.0.1:9/net.caffemodel"), Source("http://127.0.0.1:9/other"))
    )
    monkeypatch.setitem(catalogue.CATALOGUE, "fcn8s", entry)
    with pytest.raises(
        WeightsError,
        match=(
            rf"fcn8s cannot be fetched \(no network\).*127\.0\.0\.1:9/net\.caffemodel and put it at "
            rf"{tmp_path}/net\.caffemodel"
        ),
    ):
        download.main(["fcn8s", "--quiet"], standalone_mode=False)
    assert not list(tmp_path.iterdir())
    (tmp_path / "net.caffemodel").write_bytes(DATA)
    download.main(["fcn8s"], standalone_mode=False)
    assert capsys.readouterr().out.strip() == str(tmp_path / "net.caffemodel")


def test_the_catalogue_is_what_the_publishers_state() -> None:
    """torchvision's and Keras' own tables, as installed."""
    import keras.src.applications.vgg16 as keras_vgg16
    import torchvision

    for name, weights in (
        ("vgg16-torchvision", torchvision.models.VGG16_Weights),
        ("resnet34", torchvision.models.ResNet34_Weights),
    ):
        source = catalogue.CATALOGUE[name].sources[0]
        assert source.url == weights.IMAGENET1K_V1.url
        assert source.hash.removeprefix("sha256-prefix:") in source.url
    assert catalogue.CATALOGUE["vgg16"].sources[0].url == keras_vgg16.WEIGHTS_PATH
    with open(keras_vgg16.__file__, encoding="utf-8") as file:
        assert catalogue.CATALOGUE["vgg16"].sources[0].hash.removeprefix("md5:") in file.read()
    assert {"fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce"} <= catalogue.CATALOGUE.keys()
    with pytest.raises(ValueError, match="there are no published weights 'x'"):
        catalogue.fetch("x")
