"""What stands around a network in files of others: names and colours of classes, wrappers inside
its names, a model that it is a layer of."""

from pathlib import Path

import numpy as np
import pytest
import segtwin
import segtwin_keras
import segtwin_weights
import torch
from segtwin_cli.main import main
from segtwin_weights import Weights

WIDTHS = (2, 3, 4, 5, 6)
NAMES, COLOURS = ["background", "nucleus"], [[0, 0, 0], [9, 8, 7]]


def drawn(num_classes: int = 1) -> Weights:
    return segtwin_weights.initialize("unet-small", num_classes=num_classes, widths=WIDTHS, seed=1)


def tensors(weights: Weights) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(blob)) for name, blob in weights.items()}


def equal(read: Weights, want: Weights) -> None:
    got = segtwin_weights.convert(read, to="unet-small")
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


META = {
    "MMSegmentation 0": {"meta": {"CLASSES": tuple(NAMES), "PALETTE": COLOURS, "time": "now"}},
    "MMSegmentation 1": {
        "meta": {"dataset_meta": {"classes": NAMES, "palette": [tuple(one) for one in COLOURS]}, "epoch": 3}
    },
}


@pytest.mark.parametrize("layout", META)
def test_names_and_colours_of_mmsegmentation_travel(layout: str, tmp_path: Path) -> None:
    torch.save({"state_dict": tensors(drawn(2)), **META[layout]}, tmp_path / "w.pth")
    read = segtwin_weights.read(tmp_path / "w.pth")
    equal(read, drawn(2))
    segtwin_weights.write(segtwin_weights.convert(read, to="unet-small"), tmp_path / "w.safetensors")
    metadata = segtwin_weights.read(tmp_path / "w.safetensors").metadata
    assert (metadata["classes"], metadata["palette"]) == (NAMES, COLOURS)


@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": ["a", "b", "c"], "PALETTE": COLOURS * 2},
        {"CLASSES": 5},
        {"PALETTE": [[0, 0, 256]] * 2},
        {"CLASSES": ["a", 5]},
        7,
    ],
)
@pytest.mark.filterwarnings("ignore::segtwin.Converted")
def test_those_of_another_number_are_left_aside(meta: object, tmp_path: Path) -> None:
    torch.save({"state_dict": tensors(drawn(2)), "meta": meta}, tmp_path / "w.pth")
    read = segtwin_weights.read(tmp_path / "w.pth")
    equal(read, drawn(2))
    assert not {"classes", "palette"} & read.metadata.keys()
    if isinstance(meta, dict) and len(meta) == 2:
        with pytest.warns(
            segtwin.Converted,
            match="3 names and 4 colours stand beside a network of 2 classes; left aside: classes and palette",
        ):
            segtwin_weights.read(tmp_path / "w.pth")


@pytest.mark.parametrize("part", ["_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_orig_mod", "module"])
def test_wrappers_inside_names(part: str, tmp_path: Path) -> None:
    want = drawn()
    renamed = {name.replace(".", f".{part}.", 1): tensor for name, tensor in tensors(want).items()}
    torch.save(renamed, tmp_path / "w.pth")
    equal(segtwin_weights.read(tmp_path / "w.pth"), want)


@pytest.mark.parametrize("ending", [".keras", ".h5", ".weights.h5"])
@pytest.mark.filterwarnings("ignore")
def test_the_keras_twin_as_a_layer_of_another_model(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import keras

    want = drawn()
    model = keras.Sequential([keras.Input((None, None, 3)), segtwin_keras.build("unet-small", weights=want)])
    path = tmp_path / f"w{ending}"
    model.save_weights(path) if ending == ".weights.h5" else model.save(path)
    read = segtwin_weights.read(path)
    equal(read, want)
    with pytest.raises(SystemExit) as end:
        main(["convert", str(path), str(tmp_path / "x.safetensors"), "--to", "unet-small"])
    assert not end.value.code


def test_export_says_what_a_format_cannot_hold(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights = segtwin_weights.convert(
        drawn(), to="unet-small", preprocessing=segtwin.Preprocessing(mean=0.5, std=0.5, scale=1 / 255)
    )
    weights.metadata |= {"classes": NAMES, "palette": COLOURS}
    segtwin_weights.write(weights, tmp_path / "w.safetensors")
    with pytest.raises(SystemExit) as end:
        main(["export", str(tmp_path / "w.safetensors"), str(tmp_path / "x.weights.h5"), "--framework", "keras"])
    assert not end.value.code
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "this format cannot hold classes and palette and the preprocessing (RGB, values 0..1, minus 0.5, over 0.5)"
        in said
    )
