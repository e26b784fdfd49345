"""Every snippet of README and guides does what it says: in order, in one folder, on narrow weights
under the names that the text uses."""

import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
import segtwin
import segtwin_torch
import segtwin_weights
import torch
from goldens import TINY
from PIL import Image
from segtwin_cli.main import main
from test_preprocessing_of_weights import OXFORD, state_dict

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs/guides").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OTHER = {"mermaid"}
"""Languages that are not run."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the reader has: a clone, `make convert-vgg` done, weights, images and names of their
    own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "out").mkdir()
    (tmp_path / "folder/inner").mkdir(parents=True)
    with Image.open(ROOT / "docs/images/chelsea.jpg") as photo:
        for place in ("photo", "folder/a", "folder/inner/b"):
            photo.resize((90, 60)).save(tmp_path / f"{place}.jpg")
    classes = ["background", *(f"class{number}" for number in range(1, 21))]
    (tmp_path / "names.txt").write_text("\n".join(classes) + "\n")

    random = np.random.default_rng(1)
    zeros = segtwin_weights.initialize("vgg16", widths=TINY)
    vgg16 = segtwin_weights.Weights(
        {
            name: random.standard_normal(blob.shape, np.float32) * np.sqrt(2 / blob[0].size)
            for name, blob in zeros.items()
        },
        zeros.metadata,
    )
    segtwin_weights.write(vgg16, tmp_path / "vgg16.npy")
    monkeypatch.setenv("VGG16_NPY", str(tmp_path / "vgg16.npy"))
    fcn8s = segtwin_weights.convert(vgg16, to="fcn8s", num_classes=21)
    segtwin_weights.write(fcn8s, tmp_path / "out/fcn8s.safetensors")
    segtwin_weights.write(fcn8s, tmp_path / "weights.pth")
    segtwin_weights.write(fcn8s, tmp_path / "other.caffemodel")
    unet = segtwin_weights.initialize("unet-milesial", widths=(4, 6, 8, 10, 12), seed=1)
    state = {name: torch.from_numpy(blob) for name, blob in unet.items()}
    torch.save(state | {"mask_values": [0, 255]}, tmp_path / "CP_epoch5.pth")
    torch.save(state_dict(OXFORD, factor=2.0), tmp_path / "vgg16_from_caffe.pth")
    return tmp_path


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of the fenced blocks."""
    return [
        (language, text) for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if language not in OTHER
    ]


def run_line(line: str) -> None:
    """A line of a shell block: `segtwin` is run; of `make` and `pip install .[extra]` the target
    and the extra must exist."""
    words = shlex.split(line, comments=True)
    if not words:
        return
    if words[0] == "segtwin":
        with pytest.raises(SystemExit) as end:
            main(words[1:])
        assert end.value.code in (None, 0), line
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), line
    else:
        assert words[:2] == ["pip", "install"], f"no test knows how to run {line!r}"
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\[(\w+)\]", " ".join(words[2:]))) <= set(extras), line


@pytest.mark.filterwarnings("default::segtwin.Converted", "default::segtwin_engines.Assumed")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_snippet_runs(page: Path, folder: Path) -> None:
    names: dict = {}
    found = blocks(page)
    assert found
    for language, text in found:
        assert language in ("sh", "python"), f"a block of {language or 'no language'} in {page.name}"
        if language == "python":
            exec(compile(text, str(page), "exec"), names)  # README and guides are ours
        else:
            for line in text.splitlines():
                run_line(line)
    if page.name == "README.md":  # the same numbers, as it says, in the layout that it says
        assert names["blobs"].keys() == names["same"].keys()
        assert names["blobs"]["score"].shape == names["same"]["score"].shape == (1, 21, 60, 90)
        apart = np.abs(names["blobs"]["score"] - names["same"]["score"]).max() / np.abs(names["same"]["score"]).max()
        assert apart < 8 * 2.0**-21, "two engines, each within 4 floors"
        assert names["model"].metadata["num_classes"] == 21


def test_the_readme_names_every_command_network_and_extra() -> None:
    from segtwin_cli.main import COMMANDS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in (*(f"`{extra}`" for extra in extras), *(f"`{network}`" for network in segtwin_torch.list_networks())):
        assert name in text, name
    for command in COMMANDS:
        assert f"segtwin {command}" in text or f"`{command}`" in text, command


def test_links_and_pictures_are_there() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in (*re.findall(r"\]\(([^)#]+)\)", text), *re.findall(r'src="([^"]+)"', text)):
            assert "//" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_example_weights_segment_nuclei() -> None:
    """segtwin_weights.DEMO on the half of the picture that it was not trained on."""
    model = segtwin_torch.load(segtwin_weights.DEMO)
    data = segtwin.preprocess(ROOT / "docs/images/nuclei.png", model)[..., 256:]
    found = segtwin_torch.blobs(model, np.ascontiguousarray(data))["probability"][0, 0] > 0.5
    wanted = np.asarray(Image.open(ROOT / "docs/images/nuclei_instances.png"))[:, 256:] > 0
    assert (found & wanted).sum() / (found | wanted).sum() > 0.85


def test_the_site_leads_to_every_guide_and_notebook() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [*(ROOT / "docs/guides").glob("*.md"), *(ROOT / "docs").glob("*.ipynb")]
    assert len(pages) > 10
    assert [page.name for page in pages if f"/{page.name}\n" not in navigation] == []
