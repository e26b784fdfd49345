"""The ONNX files of both twins: one signature, a graph as one would draw it, weights where they
belong."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import segtwin_weights
from goldens import TINY, caffe_goldens, recipe_weights
from segtwin import oracle
from segtwin_engines.onnxruntime import onnx_blobs

from engines import TWINS

FRAMEWORKS = list(TWINS)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("export")
    weights = recipe_weights("fcn8s", TINY)
    weights.metadata["source"] = "recipe.py"
    for framework, twin in TWINS.items():
        twin.export_onnx(twin.build("fcn8s", widths=TINY, weights=weights), folder / f"{framework}.onnx")
    return {framework: folder / f"{framework}.onnx" for framework in TWINS}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_file_is_valid_and_says_what_it_is(files: dict[str, Path], framework: str) -> None:
    model = onnx.load(files[framework])
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["architecture"] == "fcn8s"
    stated = {"colour": "BGR", "mean": [104.00699, 116.66877, 122.67892], "std": [1.0], "scale": 1.0, "bits": 8}
    assert json.loads(properties["preprocessing"]) == stated
    assert properties["preprocessing_assumed"] == "true"
    assert properties["input"] == "float32 N×3×H×W; BGR, values 0..255, minus (104.007, 116.669, 122.679)"
    assert properties["source"] == "recipe.py"
    text = str(model)
    assert "/root" not in text, "a path of the exporting machine is in the file"
    assert ".py" not in text.replace("net.py", "").replace("recipe.py", ""), (
        "a trace of the exporting machine is in the file"
    )


def signature(path: Path) -> list:
    graph = onnx.load(path).graph
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
        )
        for value in (*graph.input, *graph.output)
    ]


def test_both_files_have_the_same_signature(files: dict[str, Path]) -> None:
    assert (
        signature(files["torch"])
        == signature(files["keras"])
        == [("data", 1, ["N", 3, "H", "W"]), ("score", 1, ["N", 21, "H", "W"])]
    )


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_graph_is_as_one_would_draw_it(files: dict[str, Path], framework: str) -> None:
    """One node a layer; nothing is transposed; what is left besides are the sizes of the three
    crops, and behind three poolings what puts rows and columns back: five pieces and a Concat each."""
    graph = onnx.load(files[framework]).graph
    operators = Counter(node.op_type for node in graph.node)
    assert not operators.keys() & {"Transpose", "Pad", "Cast", "Where", "Identity", "Split"}
    layers = {"Conv": 18, "Relu": 15, "MaxPool": 5, "ConvTranspose": 3, "Slice": 3 + 3 * 2 * 5}
    assert {kind: operators[kind] for kind in layers} == layers
    assert all(len(node.input) == 3 for node in graph.node if node.op_type == "Conv"), (
        "every bias is inside its convolution"
    )
    assert operators["Add"] >= 2, "the two sums of the skips"
    sizes = operators - Counter(layers) - Counter({"Add": 2, "Concat": 3 * 2})
    # torch computes the sizes of the crops from H and W, Keras' graph looks them up: scalars in
    # both
    assert (
        sizes.keys()
        <= {"torch": {"Shape", "Squeeze", "Add", "Mul", "Div", "Reshape", "Concat"}, "keras": {"Shape", "Add"}}[
            framework
        ]
    )
    assert sizes.total() <= {"torch": 27, "keras": 6}[framework], sizes


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_weights_are_the_hubs(files: dict[str, Path], framework: str) -> None:
    initializers = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(files[framework]).graph.initializer}
    for name, blob in recipe_weights("fcn8s", TINY).items():
        np.testing.assert_array_equal(initializers.pop(name), blob)
    assert all(one.size <= 4 for one in initializers.values()), "besides the weights there are only offsets and axes"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_equal_weights_stay_apart(tmp_path: Path, framework: str) -> None:
    """Exporters merge equal initializers; an untrained network is full of equal ones, and its file
    has to be fillable."""
    twin = TWINS[framework]
    twin.export_onnx(twin.build("fcn8s", widths=TINY), tmp_path / "zero.onnx")
    names = {one.name for one in onnx.load(tmp_path / "zero.onnx").graph.initializer}
    assert names >= set(segtwin_weights.initialize("fcn8s", widths=TINY))


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 3, 1, 200), (3, 3, 75, 32), (2, 3, 200, 131)], ids=str)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_any_number_of_images_of_any_size(files: dict[str, Path], framework: str, shape: tuple) -> None:
    golden = caffe_goldens("fcn8s")[0]
    data = np.random.default_rng(0).uniform(-120, 130, shape).astype(np.float32)
    truth = oracle.run(golden.architecture, golden.weights, data)
    got = onnx_blobs(files[framework], data, golden.architecture.blobs)
    floor = {
        name: max(oracle.relative_error(blob, truth[name]), 2**-23)
        for name, blob in oracle.blobs(golden.architecture, golden.weights, data, "float32")
    }
    assert max(oracle.relative_error(got[name], truth[name]) / floor[name] for name in golden.architecture.blobs) < 4


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_weights_go_beside_the_graph_or_into_it(tmp_path: Path, framework: str) -> None:
    weights, twin, data = recipe_weights("fcn8s", TINY), TWINS[framework], caffe_goldens("fcn8s")[0].data
    model = twin.build("fcn8s", widths=TINY, weights=weights)
    twin.export_onnx(model, tmp_path / "one.onnx", external_data=False)
    twin.export_onnx(model, tmp_path / "two.onnx", external_data=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.onnx", "two.onnx", "two.onnx.data"]
    assert (tmp_path / "two.onnx").stat().st_size < 40_000
    onnx.checker.check_model(str(tmp_path / "two.onnx"))
    scores = [
        onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"]).run(
            ["score"], {"data": data}
        )[0]
        for name in ("one.onnx", "two.onnx")
    ]
    np.testing.assert_array_equal(*scores)
    np.testing.assert_array_equal(onnx_blobs(tmp_path / "two.onnx", data, ["data", "score"])["score"], scores[0])
    for one in onnx.load(tmp_path / "two.onnx", load_external_data=False).graph.initializer:
        if one.external_data:
            assert int({e.key: e.value for e in one.external_data}["offset"]) % 4096 == 0, "weights begin on pages"


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    from segtwin_torch import export as torch_export
    from segtwin_weights import onnx_file

    model = TWINS["torch"].build("fcn8s", widths=TINY)
    skeleton = torch_export.skeleton(model, 18)
    few = list(segtwin_weights.initialize("fcn8s", widths=TINY).items())[:5]
    with pytest.raises(ValueError, match="no weights for"):
        onnx_file.write(
            skeleton, few, tmp_path / "x.onnx", caffe_goldens("fcn8s")[0].architecture, {}, external_data=True
        )
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_load_without_this_project(tmp_path: Path) -> None:
    import keras
    import torch

    weights = recipe_weights("fcn8s", TINY)
    models = {framework: twin.build("fcn8s", widths=TINY, weights=weights) for framework, twin in TWINS.items()}
    TWINS["torch"].save_checkpoint(models["torch"], tmp_path / "fcn8s.pth")
    state = torch.load(tmp_path / "fcn8s.pth", weights_only=True)
    assert {name.replace(".", "/") for name in state} == weights.keys()
    np.testing.assert_array_equal(state["fc6.weight"].numpy(), weights["fc6/weight"])
    TWINS["keras"].save_checkpoint(models["keras"], tmp_path / "fcn8s.weights.h5")
    fresh = TWINS["keras"].build("fcn8s", widths=TINY)
    fresh.load_weights(tmp_path / "fcn8s.weights.h5")
    assert TWINS["keras"].read_weights(fresh).fingerprint() == segtwin_weights.Weights(weights).fingerprint()
    models["keras"].save(tmp_path / "fcn8s.keras")
    again = keras.models.load_model(tmp_path / "fcn8s.keras")
    data = caffe_goldens("fcn8s")[0].data.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(again(data), models["keras"](data))


def test_torch_exports_after_tensorflow_in_a_process_of_their_own(tmp_path: Path) -> None:
    """torch.onnx would import torchvision and triton; after TensorFlow either import aborts the
    interpreter."""
    code = (
        f"import tensorflow, segtwin_torch as t; t.export_onnx(t.build('fcn8s', widths={TINY}), "
        f"{str(tmp_path / 'x.onnx')!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "x.onnx").exists()


def test_blobs_that_are_not_there_are_named(files: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"torch\.onnx: the graph has no blob 'pool6' \(1 missing\)"):
        onnx_blobs(files["torch"], np.zeros((1, 3, 1, 1), np.float32), ["score", "pool6"])


def test_nothing_is_said_on_the_way(tmp_path: Path) -> None:
    """Where torchvision is not installed too, whose operators torch.onnx misses aloud."""
    script = (
        "import sys; sys.modules['torchvision'] = None\n"
        "import segtwin_torch\n"
        "segtwin_torch.export_onnx(segtwin_torch.build('unet-small', widths=(2, 2, 2, 2, 2), seed=1), 'x.onnx')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
