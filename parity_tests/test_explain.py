"""`segtwin explain` against figures that were measured or published, not computed by it."""

import numpy as np
import pytest
import segtwin_torch
import torch
from click.testing import CliRunner
from goldens import caffe_goldens
from PIL import Image
from segtwin import ArchitectureError, explanation
from segtwin.architectures import get_architecture, list_architectures
from segtwin.layer_kinds import CoordinateMap
from segtwin_cli.explain import explain as command
from segtwin_torch import fcn, fcn8_vgg, vggfcn
from torch.nn.functional import avg_pool2d


def facts(architecture: str, height: int, width: int) -> dict[str, explanation.Explained]:
    return {blob.name: blob for blob in explanation.explain(architecture, height, width)}


@pytest.mark.parametrize("architecture", ["fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce"])
def test_sizes_crops_and_parameters_are_caffes(architecture: str) -> None:
    for golden in caffe_goldens(architecture):
        blobs = facts(architecture, *golden.shapes["data"][2:])
        assert {name: blob.shape[1:] for name, blob in blobs.items()} == {
            n: s[2:] for n, s in golden.shapes.items() if n != "data"
        }
        assert {name: blob.offset for name, blob in blobs.items() if blob.offset} == {
            n: (o, o) for n, o in golden.offsets.items()
        }
    assert blobs["score"].maps[0] == (1, 0)  # an output pixel lies on its image pixel


def test_the_numbers_of_vgg16_and_fcn8s() -> None:
    """pool5 of VGG-16 sees 212 pixels and its fc6 404; fcn8s has 134,362,751 learned and 127,008
    fixed weights."""
    blobs = facts("fcn8s", 375, 500)
    assert (blobs["pool5"].field, blobs["fc7"].field) == ((212, 212), (404, 404))
    assert sum(blob.parameters for blob in blobs.values()) == 134_362_751 + 127_008
    assert blobs["conv1_2"].flops == 2 * 64 * 64 * 9 * 573 * 698
    assert "so upscore8 = data + 31" in blobs["score"].derivation


@pytest.mark.parametrize(
    ("architecture", "size"), [("fcn16s", (40, 33)), ("fcn8-vgg", (75, 90)), ("vggfcn8", (64, 96))]
)
def test_a_pixel_sees_what_its_gradient_reaches(architecture: str, size: tuple[int, int]) -> None:
    """With all weights positive the gradient of one output pixel is above zero exactly on the image
    pixels it sees."""
    model = segtwin_torch.build(architecture, num_classes=2, widths=(1,) * 7, dtype="float64", seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(
                0.1 if parameter.requires_grad and "upscore" not in name else 1.0
            ) if parameter.ndim == 4 else parameter.zero_()
    shapes = get_architecture(architecture).shapes(*size)
    offsets = explanation.crops(get_architecture(architecture), shapes)
    with pytest.MonkeyPatch.context() as patch:  # a maximum lets one pixel through, a mean all
        for module in (fcn, vggfcn):
            patch.setattr(module, "max_pool2d", avg_pool2d)
        for pixel in ((0, 0), (size[0] // 2, size[1] // 3), (size[0] - 1, size[1] - 1)):
            image = torch.full((1, 3, *size), 200.0, dtype=torch.float64, requires_grad=True)
            model(image)[0, 0, pixel[0], pixel[1]].backward()
            assert image.grad is not None
            reached = image.grad[0, 0].numpy() != 0
            for axis in (0, 1):
                first, last = explanation.sees(
                    get_architecture(architecture),
                    get_architecture(architecture).output,
                    (pixel[axis],) * 2,
                    axis,
                    shapes,
                    offsets,
                )[get_architecture(architecture).input]
                touched = np.flatnonzero(reached.any(1 - axis))
                assert (touched[0], touched[-1]) == (max(first, 0), min(last, size[axis] - 1))


def test_tensorflows_crop_depends_on_the_size() -> None:
    blobs = facts("fcn8-vgg", 375, 500)
    assert blobs["upscore32"].offset == (4, 6)  # ⌊((47 − 1)·8 + 16 − 375)/2⌋ and ⌊((63 − 1)·8 + 16 − 500)/2⌋
    rows = fcn8_vgg.same(torch.arange(384.0).reshape(1, 1, 384, 1), like=torch.zeros(1, 1, 375, 1))
    assert (float(rows[0, 0, 0, 0]), rows.shape[2]) == (4, 375)


def test_the_command_prints_the_table_and_draws(tmp_path) -> None:
    picture = tmp_path / "fcn8s.png"
    run = CliRunner(env={"COLUMNS": "160"})
    result = run.invoke(command, ["fcn8s", "--size", "375x500", "--picture", str(picture)])
    assert result.exit_code == 0, result.output
    for text in (
        "21 × 440 × 568",
        "x/8 + 191/16",
        "102.8 M",
        "134.5 M",
        "7/1/0",
        "score: offset 31",
        "score_pool4 = upscore2 + 5",
    ):
        assert text in result.output, text
    with Image.open(picture) as image:
        assert image.size > (1000, 500)
    again = run.invoke(command, ["fcn8s", "--size", "375x500", "--picture", str(picture)])
    assert again.exit_code == 1
    assert "exists already" in str(again.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fcn9s", "--size", "9x9"], "there is no network 'fcn9s'"),
        (["fcn8s", "--size", "375"], "is not a size; give rows x columns"),
        (["fcn8s", "--size", "0x9"], "is not a size"),
        (["vggfcn16", "--size", "67x91"], "pad to 67 × 96"),
        (["fcn8s", "--size", "9x9", "--picture", "x.gif"], "has to end in"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code != 0
    assert message in (result.output if isinstance(result.exception, SystemExit) else str(result.exception))


@pytest.mark.parametrize("architecture", list_architectures())
def test_every_row_is_explained(architecture: str, tmp_path) -> None:
    """Its learned parameters, counted layer by layer, are the architecture's; running statistics,
    counters and what is carried along idly are not counted."""
    this = get_architecture(architecture)
    height, width = (188, 204) if architecture == "unet-paper" else map(this.legal_size, (64, 96))
    idle = {*this.carried, *this.aliases}
    counted = [
        p
        for p in this.parameters()
        if p.name not in idle and "running" not in p.name and not p.name.endswith("num_batches_tracked")
    ]
    assert sum(blob.parameters for blob in explanation.explain(architecture, height, width)) == sum(
        int(np.prod(p.shape)) for p in counted
    )
    done = CliRunner().invoke(
        command, [architecture, "--size", f"{height}x{width}", "--picture", str(tmp_path / "seen.png")]
    )
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "seen.png") as picture:
        assert picture.size[0] > 1000


def test_the_steps_multiply_to_the_maps_and_the_crops() -> None:
    architecture = get_architecture("fcn8s")
    total = explanation.steps(architecture, "data", "fc6")[-1].total
    assert (str(total.scale), str(total.shift)) == ("1/32", "-25/64")
    first = explanation.steps(architecture, "data", "conv1_1")
    assert [step.arithmetic for step in first] == ["(x + 100 − (3 − 1)/2) / 1"]
    for crop, (blob, like, common) in explanation.alignments(architecture).items():
        here, there = (explanation.steps(architecture, common, end) for end in (blob, like))
        shifts = [steps[-1].total if steps else CoordinateMap() for steps in (here, there)]
        assert shifts[0].scale == shifts[1].scale
        assert shifts[0].shift - shifts[1].shift == architecture.offsets[crop]
    with pytest.raises(ArchitectureError, match="score_pool4 is not computed from fc6"):
        explanation.steps(architecture, "fc6", "score_pool4")


@pytest.mark.parametrize(("pad", "offset"), [(99, 30), (100, 31), (101, 32)])
def test_another_pad_moves_the_last_crop_alone(pad: int, offset: int) -> None:
    """The experiment of `explain --pad`: why net.py has 100."""
    architecture = explanation.with_pad(get_architecture("fcn8s"), pad)
    assert architecture.offsets == {"score_pool4c": 5, "score_pool3c": 9, "score": offset}
