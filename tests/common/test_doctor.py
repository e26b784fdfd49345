"""What the doctor finds in a folder, and the page that it writes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segtwin.data import doctor

pytestmark = pytest.mark.filterwarnings("ignore::segtwin.images.Converted")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pairs to train, two to validate, nothing wrong."""
    for part, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (tmp_path / "data" / part / kind).mkdir(parents=True)
        for number in range(count):
            random = np.random.RandomState(number + 10 * (part == "val"))
            values, label = random.randint(0, 256, (12, 10)), random.choice([0, 255], (12, 10))
            for kind, array in (("images", values), ("masks", label)):
                Image.fromarray(array.astype(np.uint8)).save(tmp_path / "data" / part / kind / f"{part}{number}.png")
    return tmp_path / "data"


def found(folder: Path, level: str) -> dict[str, list[doctor.Finding]]:
    kinds: dict[str, list[doctor.Finding]] = {}
    for one in doctor.examine(folder).findings:
        if one.level == level:
            kinds.setdefault(one.kind, []).append(one)
    return kinds


def test_a_sound_folder_is_good(folder: Path) -> None:
    report = doctor.examine(folder)
    assert report.good
    assert not found(folder, "error") | found(folder, "warning")
    assert set(report.shares) == {"train", "val"}
    assert sum(report.shares["train"].values()) == pytest.approx(1)


def test_an_image_in_train_and_in_val_is_an_error_whatever_its_name(folder: Path) -> None:
    shutil.copy(folder / "train/images/train1.png", folder / "val/images/val1.png")
    (one,) = found(folder, "error")["duplicate"]
    assert sorted(Path(name).stem for name in one.files) == ["train1", "val1"]
    assert "in train and val: scores would be too good" in one.text


def test_an_image_twice_in_train_is_a_warning(folder: Path) -> None:
    shutil.copy(folder / "train/images/train1.png", folder / "train/images/train2.png")
    assert not found(folder, "error")
    (one,) = found(folder, "warning")["duplicate"]
    assert sorted(Path(name).stem for name in one.files) == ["train1", "train2"]


def test_a_label_of_another_size_is_an_error(folder: Path) -> None:
    Image.fromarray(np.eye(5, 7, dtype=np.uint8) * 255).save(folder / "train/masks/train0.png")
    (one,) = found(folder, "error")["size"]
    assert "masks/train0.png: has 5×7 pixels, and its image 12×10" in one.text


def test_images_without_label_and_labels_without_image_are_warnings(folder: Path) -> None:
    (folder / "train/masks/train3.png").unlink()
    (folder / "train/images/train2.png").unlink()
    texts = [one.text for one in found(folder, "warning")["unmatched"]]
    assert any(text.startswith("1 images have no label") and "train3" in text for text in texts)
    assert any(text.startswith("1 labels have no image") and "train2" in text for text in texts)


def test_what_cannot_be_decoded_is_named_and_stops_nothing(folder: Path) -> None:
    whole = (folder / "train/images/train0.png").read_bytes()
    (folder / "train/images/train0.png").write_bytes(whole[: len(whole) // 2])
    (folder / "train/masks/train1.png").write_bytes(b"no image")
    broken = {Path(one.files[0]).name: one.text for one in found(folder, "error")["unreadable"]}
    assert set(broken) == {"train0.png", "train1.png"}
    assert all(str(folder) in text and "\n" not in text for text in broken.values())


def test_the_command_says_it_in_json_on_a_page_and_by_its_status(folder: Path, tmp_path: Path, capsys) -> None:
    from segtwin_cli.main import main

    def status(*words: object) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["check-data", str(folder), *map(str, words)])
        return int(ended.value.code or 0)

    page = tmp_path / "page.html"
    assert status("--report", page) == 0
    assert "nothing here makes a training go wrong" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert "Nothing here makes a training go wrong." in text
    assert len(re.findall(r'src="data:image/jpeg;base64,/9j/', text)) == 6
    assert status("--report", page) == 2  # nothing is replaced
    shutil.copy(folder / "train/images/train1.png", folder / "val/images/val1.png")
    assert status("--report", page, "--overwrite", "--json", tmp_path / "facts.json") == 1
    assert "A training on this would go wrong." in page.read_text(encoding="utf-8")
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert not facts["good"]
    assert any(one["kind"] == "duplicate" for one in facts["findings"])
