"""Checkpoints as training scripts leave them."""

import argparse
import collections
import dataclasses
import datetime
import enum
import io
import pathlib
import pydoc
import warnings

import numpy as np
import pytest
import segtwin
import segtwin_torch
import segtwin_weights
import torch
import torchvision
from segtwin.architectures import get_architecture
from segtwin_weights import WeightsError
from segtwin_weights.mappings import checkpoints

NARROW = (2, 3, 4, 5, 6)
ZIPPED = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
FCN = (4, 4, 4, 4, 4, 4, 4)


def unet(seed: int = 1) -> dict[str, torch.Tensor]:
    return segtwin_torch.build("unet-small", widths=NARROW, seed=seed).state_dict()


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


def check_equal(path, state) -> None:
    weights = segtwin_weights.read(path)
    assert list(weights) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(weights[name], value.numpy(), strict=True)


def test_a_file_without_counters_loads(tmp_path) -> None:
    """torch before 0.4.1 counted no batches: the counters start at zero, every other number is the
    file's."""
    state = unet()
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    torch.save(old, tmp_path / "old.pth")
    model = segtwin_torch.build("unet-small", widths=NARROW, weights=tmp_path / "old.pth", seed=2)
    for loaded in (model, segtwin_torch.load(tmp_path / "old.pth")):
        for name, value in loaded.state_dict().items():
            expected = old[name].numpy() if name in old else np.int64(0)
            np.testing.assert_array_equal(value.numpy(), expected)


# ---------------------------------------------------------------------- the network in its wrappers


WRAPS = {
    "a best score beside": lambda s: {"epoch": 3, "state_dict": s, "best_acc1": torch.tensor(0.7)},
    "model_state": lambda s: {"model_state": s, "epoch": 1},
    "weight": lambda s: {"weight": s},
    "generator": lambda s: {"generator": s, "step": 3},
    "net in params": lambda s: {"params": {"net": s}},
    "a name of one's own": lambda s: {"segmenter_v2": s, "epoch": torch.tensor(3)},
    "a list": lambda s: [3, {"weights": s}],
    "a tuple of both": lambda s: (s, {"lr": 0.1}),
    "random generators": lambda s: {
        "model": s, "rng": torch.get_rng_state(), "rngs": [torch.get_rng_state()],
        "np": np.random.RandomState(1).get_state(),
    },
    "a stack of prefixes": lambda s: {"state_dict": prefixed("module.model.net.", s)},
    "prefixes in the middle": lambda s: prefixed("net._orig_mod.module.", s),
    "an optimiser": lambda s: {
        "net": s,
        "optim": (o := torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1, momentum=0.9),
            o.param_groups[0]["params"][0].sum().backward(),
                  o.step(), o.state_dict())[-1],
    },
    "the same twice": lambda s: {"model": s, "state_dict": s},
    "copies": lambda s: {"model": s, "best": {name: value.clone() for name, value in s.items()}},
}  # fmt: skip


@ZIPPED
@pytest.mark.parametrize("wrap", WRAPS)
def test_the_network_is_found(wrap: str, zipped: bool, tmp_path) -> None:
    state = unet()
    torch.save(WRAPS[wrap](state), tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    check_equal(tmp_path / "c.pth", state)  # without a word: warnings are errors


@ZIPPED
@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (
            lambda s: {"state_dict": prefixed("net.", s) | {"criterion.pos_weight": torch.ones(1)}},
            r"1 tensors .*state_dict\.criterion\.pos_weight",
        ),
        (
            lambda s: s | {"total_ops": torch.zeros(1), "layer1_conv.total_params": torch.zeros(1)},
            r"2 tensors .*total_ops, layer1_conv\.total_params",
        ),
        (
            lambda s: {"generator": s, "discriminator": {"conv.weight": torch.ones(2, 3)}},
            r"1 tensors .*discriminator\.conv\.weight",
        ),
    ],
    ids=["Lightning", "thop", "GAN"],
)
def test_what_is_left_aside_is_said(wrap, said: str, zipped: bool, tmp_path) -> None:
    state = unet()
    torch.save(wrap(state), tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    with pytest.warns(segtwin.Converted, match=rf"c\.pth: the unet-small in .* left aside: {said}"):
        check_equal(tmp_path / "c.pth", state)


@ZIPPED
@pytest.mark.parametrize("average", ["model_ema", "modelEMA", "swa_model", "averaged"])
def test_an_average_is_left_aside(average: str, zipped: bool, tmp_path) -> None:
    state = unet()
    torch.save({average: unet(2), "model": state}, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    with pytest.warns(segtwin.Converted, match=rf"c\.pth: .*'model' is taken, the average in '{average}' left aside"):
        check_equal(tmp_path / "c.pth", state)
    torch.save({average: state}, tmp_path / "only.pth")
    check_equal(tmp_path / "only.pth", state)


@ZIPPED
def test_two_networks_of_a_kind_are_refused(zipped: bool, tmp_path) -> None:
    torch.save(
        {"student": unet(1), "teacher": {"net": unet(2)}}, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(WeightsError, match=r"c\.pth: .*'student' and 'teacher\.net'"):
        segtwin_weights.read(tmp_path / "c.pth")


def test_no_known_network_lists_what_is_there(tmp_path) -> None:
    torch.save({"a": {"x.weight": torch.ones(2)}, "b": {"y.weight": torch.ones(2)}}, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=r"c\.pth: holds 2 dicts of tensors .*a: x\.weight …; b: y\.weight …"):
        segtwin_weights.read(tmp_path / "c.pth")


def test_an_fcn_is_more_than_the_vgg_in_it(tmp_path) -> None:
    model = segtwin_torch.build("vggfcn8", widths=FCN, seed=1)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save({"net": state, "loss": 0.1}, tmp_path / "c.pth")
    check_equal(tmp_path / "c.pth", state)


def test_resnet50_has_the_names_of_resnet34_and_is_none() -> None:
    """Told by the shapes; torchvision's own modules, which have no numbers here."""
    with torch.device("meta"):
        states = [
            torchvision.models.resnet34(weights=None).state_dict(),
            torchvision.models.resnet50(weights=None).state_dict(),
        ]
    assert {name for name in states[0] if not name.startswith("fc")} < states[1].keys()
    found = [
        checkpoints.complete(
            [checkpoints.Entry(("backbone",), name, f"backbone.{name}", value) for name, value in state.items()]
        )
        for state in states
    ]
    assert [len(candidates) for candidates in found] == [1, 0]
    assert found[0][0].tensors.keys() == states[0].keys()


# --------------------------------------------------------------------------------------- bystanders


@dataclasses.dataclass
class Options:
    """A class of the user."""

    rate: float = 0.1


class Split(enum.Enum):
    """An enum of the user."""

    TRAIN = 1


class Words(dict):
    """A dict of the user."""


class Numbers(list):
    """A list of the user."""


@ZIPPED
@pytest.mark.parametrize(
    "bystander",
    [
        argparse.Namespace(lr=0.1), collections.Counter("abc"), datetime.datetime(2020, 1, 2), datetime.timedelta(3),
        pathlib.PosixPath("/data/voc"),
        np.float64(0.5), Options(), Options, Split.TRAIN, np.float32, np.dtype("f4"), Words(a=1), Numbers([1, 2]),
        {1, 2}, frozenset("a"),
        slice(1, 2), complex(1, 2), range(3), np.random.RandomState(1), torch.float16,
        torch.device("cpu"), collections.deque([1]),
    ],
    ids=lambda bystander: repr(bystander).split(" at 0x")[0],
)  # fmt: skip
@pytest.mark.parametrize("protocol", [2, 4])
def test_bystanders_do_not_hide_the_network(bystander, protocol: int, zipped: bool, tmp_path) -> None:
    state = unet()
    torch.save(
        {"args": bystander, "model": state},
        tmp_path / "c.pth",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    check_equal(tmp_path / "c.pth", state)


@ZIPPED
def test_a_whole_model_is_named(zipped: bool, tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch looks for the source of the class
        torch.save(
            torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)), tmp_path / "m.pth", _use_new_zipfile_serialization=zipped
        )
    with pytest.raises(
        WeightsError, match=r"m\.pth: holds a torch\.nn\.modules\.container\.Sequential.*save model\.state_dict"
    ):
        segtwin_weights.read(tmp_path / "m.pth")


class Call:
    """What Python's own machine would call."""

    def __init__(self, call) -> None:
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "name",
    [
        "os.getcwd",
        "subprocess.Popen",
        "builtins.open",
        "builtins.eval",
        "operator.attrgetter",
        "pickle.loads",
        "shutil.rmtree",
    ],
)
def test_what_runs_programs_is_no_bystander(name: str, tmp_path) -> None:
    buffer = io.BytesIO()
    torch.save({"model": unet(), "args": Call((pydoc.locate(name), ("x",)))}, buffer)
    (tmp_path / "c.pth").write_bytes(buffer.getvalue())
    with pytest.raises(WeightsError, match=r"c\.pth: asks for .*nothing was run"):
        segtwin_weights.read(tmp_path / "c.pth")


# -------------------------------------------------------------------------------- TorchScript, ONNX


@pytest.mark.parametrize(("name", "widths"), [("unet-small", NARROW), ("vggfcn32", FCN)])
@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")
def test_a_torchscript_program_is_read_as_its_state(name: str, widths, tmp_path) -> None:
    model = segtwin_torch.build(name, widths=widths, seed=1).eval()

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, x):
            return self.net(x)

    for module, file in ((model, "bare.pt"), (Wrapped(), "wrapped.pt")):
        torch.jit.trace(module, torch.zeros(1, 1 if name == "unet-small" else 3, 64, 64), check_trace=False).save(
            tmp_path / file
        )
        weights = segtwin_weights.read(tmp_path / file)
        state = model.state_dict()
        assert weights.keys() == state.keys()
        for key, value in state.items():
            np.testing.assert_array_equal(weights[key], value.numpy(), strict=True)
    torch.jit.freeze(torch.jit.load(tmp_path / "bare.pt")).save(tmp_path / "frozen.pt")
    with pytest.raises(WeightsError, match=r"frozen\.pt: is a TorchScript program .*frozen"):
        segtwin_weights.read(tmp_path / "frozen.pt")


def test_onnx_files_of_batchnorm_networks(tmp_path) -> None:
    """Theirs carry no counters; a folded one has no BatchNorm left to load."""
    model = segtwin_torch.build("unet-small", widths=NARROW, seed=1)
    segtwin_torch.export_onnx(model, tmp_path / "u.onnx")
    loaded = segtwin_torch.load(tmp_path / "u.onnx").state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value), name
    segtwin_torch.export_onnx(model, tmp_path / "f.onnx", fold_batchnorm=True)
    for load in (segtwin_torch.load, lambda path: segtwin_torch.build("unet-small", widths=NARROW, weights=path)):
        with pytest.raises(WeightsError, match=r"f\.onnx: its BatchNorm is folded .*segtwin predict \S*f\.onnx"):
            load(tmp_path / "f.onnx")


def test_an_exported_program_is_named(tmp_path) -> None:
    """torch.export.save writes a zip archive of its own kind."""
    program = torch.export.export(torch.nn.Conv2d(1, 1, 3), (torch.zeros(1, 1, 8, 8),))
    torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(WeightsError, match=r"m\.pt2: is a program of torch\.export; save model\.state_dict"):
        segtwin_weights.read(tmp_path / "m.pt2")


@pytest.mark.parametrize("wrapper", [lambda state: state, lambda state: {"state_dict": state}])
def test_a_deeper_network_is_not_taken_for_the_one_whose_names_it_has(wrapper, tmp_path) -> None:
    """VGG-19 has every name of VGG-16, and four layers more."""
    names = [p.name.replace("/", ".") for p in get_architecture("vgg16").parameters()]
    state = {name: torch.ones(2, 2, 3, 3) if name.endswith("weight") else torch.ones(2) for name in names}
    deeper = {
        f"conv{stage}_4.{kind}": torch.ones(2, 2, 3, 3) if kind == "weight" else torch.ones(2)
        for stage in (3, 4, 5)
        for kind in ("weight", "bias")
    }
    torch.save(wrapper(state | deeper), tmp_path / "vgg19.pth")
    read = segtwin_weights.read(tmp_path / "vgg19.pth")
    assert {"conv3_4.weight", "conv5_4.bias"} <= read.keys(), "it is read as it is"
    with pytest.raises((WeightsError, KeyError), match="conv3_4"):
        segtwin_weights.convert(read, to="fcn8s", num_classes=5)
