"""vgg16.npy as people have it, and everything that a file of that name may be instead."""

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import segtwin
import segtwin_weights
from goldens import TINY, recipe
from segtwin_weights import WeightsError, catalogue, sources
from segtwin_weights.formats import vgg16_npy
from segtwin_weights.mappings.names import KERAS_VGG16

LAYERS = recipe.vgg16_npy(1, TINY)


def save(path: Path, layers, protocol: int = 4) -> Path:
    """As np.save does, in any pickle protocol."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(np.array(layers, dtype=object), file, protocol=protocol)
    return path


def python2(layers: dict) -> bytes:
    """The bytes that numpy 1.x under Python 2 pickled: protocol 2, byte strings,
    numpy.core.multiarray."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def dtype(code: bytes, order: bytes, flags: bytes) -> bytes:
        state = number(3) + string(order) + b"NNN" + number(-1) + number(-1) + b"K" + flags
        return b"cnumpy\ndtype\n(" + string(code) + number(0) + number(1) + b"tR(" + state + b"tb"

    def array(shape: tuple, kind: bytes, data: bytes) -> bytes:
        empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + string(b"b") + b"tR("
        return empty + number(1) + b"(" + b"".join(number(n) for n in shape) + b"t" + kind + b"\x89" + data + b"tb"

    pairs = b""
    for name, pair in layers.items():
        pairs += (
            string(name.encode())
            + b"]("
            + b"".join(array(a.shape, dtype(b"f4", b"<", b"\0"), string(a.tobytes())) for a in pair)
            + b"e"
        )
    return b"\x80\x02" + array((), dtype(b"O8", b"|", b"\x3f"), b"](}(" + pairs + b"ue") + b"."


def check(weights: segtwin_weights.Weights) -> None:
    """Caffe's layouts, value by value."""
    for name, (weight, bias) in LAYERS.items():
        got = weights[f"{name}/weight"]
        assert got.dtype == np.float32
        np.testing.assert_array_equal(weights[f"{name}/bias"], bias)
        if name.startswith("conv"):
            np.testing.assert_array_equal(got, np.moveaxis(weight, (3, 2), (0, 1)))
        elif name != "fc6":
            np.testing.assert_array_equal(got, weight.T)
    rows, channels = LAYERS["fc6"][0], TINY[4]
    # column (c·7 + y)·7 + x of Caffe is row (y·7 + x)·C + c here
    for output, channel, y, x in ((0, 0, 0, 1), (3, 5, 2, 6), (13, 11, 6, 0)):
        assert (
            weights["fc6/weight"][output, (channel * 7 + y) * 7 + x] == rows[(y * 7 + x) * channels + channel, output]
        )


@pytest.mark.parametrize("protocol", range(6))
def test_every_pickle_protocol_reads_as_numpy_reads_it(tmp_path: Path, protocol: int) -> None:
    path = save(tmp_path / "vgg16.npy", LAYERS, protocol)
    assert np.load(path, allow_pickle=True, encoding="latin1").item().keys() == LAYERS.keys()
    check(segtwin_weights.read(path))


def test_a_file_of_python_2_reads(tmp_path: Path) -> None:
    path = tmp_path / "vgg16.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(python2(LAYERS))
    np.testing.assert_array_equal(
        np.load(path, allow_pickle=True, encoding="latin1").item()["fc8"][0], LAYERS["fc8"][0]
    )
    check(segtwin_weights.read(path))


def test_np_save_reads_and_says_what_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "vgg16.npy", np.array(LAYERS, dtype=object), allow_pickle=True)
    weights = segtwin_weights.read(tmp_path / "vgg16.npy", format="vgg16.npy")
    check(weights)
    metadata = weights.metadata
    assert (metadata["architecture"], metadata["num_classes"]) == ("vgg16", 1000)
    assert "preprocessing" not in metadata  # the file does not state it
    assert len(metadata["sha256"]) == 64
    assert "synthetic" not in metadata


def test_other_number_types_are_converted_and_said(tmp_path: Path) -> None:
    for dtype in (np.float16, np.float64, np.dtype(">f4")):
        layers = {name: [array.astype(dtype) for array in pair] for name, pair in LAYERS.items()}
        with pytest.warns(segtwin.Converted, match="converted to float32"):
            weights = segtwin_weights.read(save(tmp_path / "vgg16.npy", layers))
        np.testing.assert_allclose(
            weights["conv3_2/weight"], np.moveaxis(LAYERS["conv3_2"][0], (3, 2), (0, 1)), rtol=1e-3
        )


def test_fortran_order_is_seen(tmp_path: Path) -> None:
    layers = {name: [np.asfortranarray(weight), bias] for name, (weight, bias) in LAYERS.items()}
    check(segtwin_weights.read(save(tmp_path / "vgg16.npy", layers)))


def test_it_is_written_as_it_is_read(tmp_path: Path) -> None:
    weights = segtwin_weights.read(save(tmp_path / "vgg16.npy", LAYERS))
    segtwin_weights.write(weights, tmp_path / "again.npy")
    again = np.load(tmp_path / "again.npy", allow_pickle=True).item()
    assert list(again) == list(LAYERS)
    for name, pair in LAYERS.items():
        for left, right in zip(again[name], pair, strict=True):
            np.testing.assert_array_equal(left, right)
            assert left.dtype == right.dtype
    with pytest.raises(WeightsError, match="'fc6/bias' and 3 more"):
        segtwin_weights.write(
            segtwin_weights.Weights({n: b for n, b in weights.items() if "fc6" not in n and "fc7" not in n}),
            tmp_path / "x.npy",
        )
    assert not (tmp_path / "x.npy").exists()


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Hidden:
    """Calls something through an attribute of an allowed name."""

    def __init__(self, call) -> None:
        self.call = call

    def __reduce__(self):
        return self.call


BOMBS = {
    "a layer": lambda mark: LAYERS | {"conv1_1": Bomb(mark)},
    "the whole file": Bomb,
    "beside the layers": lambda mark: LAYERS | {"extra": [Bomb(mark), 1]},
    "eval": lambda mark: LAYERS | {"fc8": Hidden((eval, (f"open({str(mark)!r}, 'w')",)))},
    "getattr": lambda mark: LAYERS | {"fc8": Hidden((getattr, ("text", "upper")))},
    "another codec": lambda mark: LAYERS | {"fc8": Hidden((__import__("_codecs").encode, ("eJwDAAAAAAE=", "hex")))},
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_anything_is_refused_and_not_run(tmp_path: Path, bomb: str, protocol: int) -> None:
    mark = tmp_path / "executed"
    path = save(tmp_path / "vgg16.npy", BOMBS[bomb](mark), protocol)
    with pytest.raises(WeightsError, match=r"nothing was run|_codecs.encode to") as caught:
        segtwin_weights.read(path)
    assert not mark.exists()
    assert str(path) in str(caught.value)


def test_the_bomb_is_a_real_one(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    mark = tmp_path / "executed"
    np.load(save(tmp_path / "vgg16.npy", BOMBS["a layer"](mark)), allow_pickle=True)
    assert mark.exists()


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


HOSTILE = {
    "a length beyond the file": opcodes(b"\x8e" + struct.pack("<Q", 1 << 40)),
    "a byte array beyond the file": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    "a memo beyond all memory": opcodes(b"K\x01r" + struct.pack("<I", 0xFFFFFFF0)),
    "a state for a constructor": opcodes(b"c_codecs\nencode\n(N}X\x0c\0\0\0__defaults__)s\x86b"),
    "an array without bytes": opcodes(b"}X\x07\0\0\0conv1_1]cnumpy.core.multiarray\n_reconstruct\n)Ra", b"s"),
    "a persistent id": opcodes(b"X\x01\0\0\0aQ"),
    "ndarray called": opcodes(b"cnumpy\nndarray\n(K\x05K\x06tR"),
    "dtype called oddly": opcodes(b"cnumpy\ndtype\n)R"),
    "a dict as layer name": opcodes(b"}(K\x01K\x02u"),
    "no dict": opcodes(b"K\x05"),
    "a list in itself": opcodes(b"]\x94h\x00a"),
    "an extension": opcodes(b"\x82\x01"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles_are_one_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "vgg16.npy"
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(buffer.getvalue() + HOSTILE[kind])
    with pytest.raises(WeightsError) as caught:
        segtwin_weights.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def without(name: str) -> dict:
    return {key: pair for key, pair in LAYERS.items() if key != name}


def with_value(name: str, index: int, value: float) -> dict:
    pair = [array.copy() for array in LAYERS[name]]
    pair[index].ravel()[3] = value
    return LAYERS | {name: pair}


WRONG = {
    "lacks 'conv4_2'": without("conv4_2"),
    "lacks 'conv1_1' and 15 more": {},
    "holds 'fc9', which": LAYERS | {"fc9": LAYERS["fc8"]},
    "conv3_1 weights are": LAYERS | {"conv3_1": [LAYERS["conv3_1"][0][:, :, :5], LAYERS["conv3_1"][1]]},
    "conv2_1 biases are": LAYERS | {"conv2_1": [LAYERS["conv2_1"][0], LAYERS["conv2_1"][1][:-1]]},
    "fc6 weights are": LAYERS | {"fc6": [LAYERS["fc6"][0][:-1], LAYERS["fc6"][1]]},
    "fc7 weights are": LAYERS | {"fc7": [LAYERS["fc7"][0].T.copy(), LAYERS["fc7"][1]]},
    "conv1_1 weights are": LAYERS | {"conv1_1": [np.zeros((3, 3, 1, 4), np.float32), LAYERS["conv1_1"][1]]},
    "conv5_3 weights holds 1 NaN": with_value("conv5_3", 0, np.nan),
    "fc8 biases holds 1 NaN or infinite": with_value("fc8", 1, np.inf),
    "fc7 is not a list": LAYERS | {"fc7": [LAYERS["fc7"][0]]},
    "fc6 is not a list": LAYERS | {"fc6": LAYERS["fc6"][0]},
    "fc6 weights cannot be rebuilt": LAYERS | {"fc6": [np.array(["a", "b"]), LAYERS["fc6"][1]]},
    "not the pickled dict": [1, 2, 3],
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_no_vgg16_is_refused(tmp_path: Path, message: str) -> None:
    path = save(tmp_path / "vgg16.npy", WRONG[message])
    with pytest.raises(WeightsError, match=message) as caught:
        segtwin_weights.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_and_empty_files_are_refused(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.npy", LAYERS).read_bytes()
    path = tmp_path / "vgg16.npy"
    for length in [0, 1, 6, 9, 50, 128, 129, 500, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"empty|cut short|neither|damaged"):
            segtwin_weights.read(path)
    path.write_bytes(whole + b"more")
    with pytest.raises(WeightsError, match="goes on after its pickle"):
        segtwin_weights.read(path)
    path.write_bytes(b"GIF89a something else entirely")
    with pytest.raises(WeightsError, match="neither"):
        segtwin_weights.read(path)
    np.save(path, np.ones(3))
    with pytest.raises(WeightsError, match="is one array"):
        segtwin_weights.read(path)
    with pytest.raises(FileNotFoundError):
        segtwin_weights.read(tmp_path / "missing.npy")
    with pytest.raises(ValueError, match="format is one of"):
        segtwin_weights.read(path, format="prototxt")


def test_a_mutated_file_is_weights_or_one_error(tmp_path: Path) -> None:
    """Flipped, cut and repeated bytes of a real file: never another exception, a crash or half a
    dictionary."""
    narrow = recipe.vgg16_npy(1, (1, 1, 1, 1, 1, 1, 1))
    whole = save(
        tmp_path / "whole.npy", {**narrow, "fc8": [narrow["fc8"][0][:, :3], narrow["fc8"][1][:3]]}, 2
    ).read_bytes()
    random, path, refused = np.random.default_rng(0), tmp_path / "vgg16.npy", 0
    for _ in range(300):
        mutated = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            at = int(random.integers(len(mutated)))
            mutated[at : at + int(random.integers(0, 3))] = random.bytes(int(random.integers(0, 3)))
        path.write_bytes(mutated)
        try:
            weights = segtwin_weights.read(path)
        except WeightsError:
            refused += 1
        else:
            assert len(weights) == 32
    assert refused > 150


# --------------------------------------------------------------------------------------- where from


def keras_file(path: Path) -> Path:
    """An HDF5 file as keras.applications serves it: HWIO kernels, layer names of Keras, names of
    the weights in attributes."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in ("input_1", *KERAS_VGG16, "flatten")]
        for empty in ("input_1", "flatten"):
            file.create_group(empty).attrs["weight_names"] = np.zeros(0, "S1")
        for keras_name, name in KERAS_VGG16.items():
            group = file.create_group(keras_name)
            names = [f"{keras_name}/{keras_name}_W_1:0", f"{keras_name}/{keras_name}_b_1:0"]
            group.attrs["weight_names"] = [n.encode() for n in names]
            for weight, array in zip(names, LAYERS[name], strict=True):
                group[weight] = array
    return path


def test_the_file_of_keras_applications_reads(tmp_path: Path) -> None:
    check(segtwin_weights.read(keras_file(tmp_path / "vgg16.h5")))


def test_keras_itself_reads_that_file_the_same_way(tmp_path: Path) -> None:
    """So that the file above is a true one."""
    import keras

    path = keras_file(tmp_path / "vgg16.h5")
    image = keras.Input((224, 224, 3), name="input_1")
    x = image
    for keras_name, name in KERAS_VGG16.items():
        x = keras.layers.Flatten(name="flatten")(x) if keras_name == "fc1" else x
        outputs = len(LAYERS[name][1])
        x = (
            keras.layers.Conv2D(outputs, 3, name=keras_name)(x)
            if "conv" in keras_name
            else keras.layers.Dense(outputs, name=keras_name)(x)
        )
        if keras_name in ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3"):
            x = keras.layers.Resizing(7, 7)(x) if keras_name == "block5_conv3" else keras.layers.MaxPooling2D(2)(x)
    model = keras.Model(image, x)
    model.load_weights(path, by_name=True)
    for keras_name, name in KERAS_VGG16.items():
        np.testing.assert_array_equal(model.get_layer(keras_name).get_weights()[0], LAYERS[name][0])


def test_the_hash_and_the_address_are_keras_own() -> None:
    """Keras states them in its source; ours have to be the same."""
    import inspect

    import keras.src.applications.vgg16 as vgg16

    source = inspect.getsource(vgg16)
    ours = catalogue.CATALOGUE["vgg16"].sources[0]
    assert ours.hash.removeprefix("md5:") in source
    assert ours.url.rsplit("/", 1)[1] in source
    assert ours.url == vgg16.WEIGHTS_PATH


def publish(monkeypatch: pytest.MonkeyPatch, port: int, digest: str = "") -> None:
    """Take a server on this machine for the publisher."""
    entry = catalogue.Entry("", "vgg16.h5", (catalogue.Source(f"http://127.0.0.1:{port}/vgg16.h5", digest, "it"),))
    monkeypatch.setitem(catalogue.CATALOGUE, "vgg16", entry)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGTWIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VGG16_NPY", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A server on this machine in the publisher's place."""
    import hashlib
    import http.server
    import threading

    folder = tmp_path / "served"
    folder.mkdir()
    file = keras_file(folder / "vgg16.h5")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        publish(monkeypatch, running.server_address[1], f"md5:{hashlib.md5(file.read_bytes()).hexdigest()}")
        yield file
        running.shutdown()


def test_the_download_becomes_a_true_vgg16_npy(cache: Path, server: Path) -> None:
    from segtwin_cli.terminal import download_bar

    with download_bar("VGG-16", quiet=True) as bar:
        path = sources.find_vgg16(progress=bar)
    assert bar.total == bar.progress.tasks[0].completed == server.stat().st_size
    assert path == cache / "vgg16.npy"
    check(segtwin_weights.read(path))
    assert [file.name for file in cache.iterdir()] == ["vgg16.npy"]
    server.unlink()
    assert sources.find_vgg16() == path, "the cache comes before the download"


def test_a_download_that_is_not_what_its_publisher_says_is_refused(cache: Path, server: Path) -> None:
    server.write_bytes(server.read_bytes() + b"x")
    with pytest.raises(WeightsError, match="has the md5"):
        sources.find_vgg16()
    assert list(cache.iterdir()) == []


def test_without_a_network_the_weights_are_synthetic_and_say_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, 9)  # nobody listens there
    write = sources.write_synthetic
    monkeypatch.setattr(sources, "write_synthetic", lambda path: write(path, TINY))
    said: list[str] = []
    path = sources.find_vgg16(said.append)
    assert path == cache / "vgg16-SYNTHETIC.npy"
    assert "SYNTHETIC" in " ".join(said)
    assert "VGG16_NPY" in said[0]
    weights = segtwin_weights.read(path)
    assert weights.metadata["synthetic"] is True
    assert segtwin_weights.dimensions(weights, "vgg16") == (1000, 3, TINY)
    converted = segtwin_weights.convert(weights, "fcn8s")
    assert converted.metadata["synthetic"] is True
    before = path.stat().st_mtime_ns
    assert sources.find_vgg16(said.append) == path
    assert path.stat().st_mtime_ns == before


def test_your_own_file_comes_first(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = save(tmp_path / "mine.npy", LAYERS)
    monkeypatch.setenv("VGG16_NPY", str(mine))
    assert sources.find_vgg16() == mine
    monkeypatch.setenv("VGG16_NPY", str(tmp_path / "missing.npy"))
    with pytest.raises(WeightsError, match="VGG16_NPY names no file"):
        sources.find_vgg16()


def test_a_synthetic_file_has_to_be_named_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="SYNTHETIC"):
        sources.write_synthetic(tmp_path / "vgg16.npy", TINY)
    assert vgg16_npy.SYNTHETIC == "SYNTHETIC"
