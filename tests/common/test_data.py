"""Layouts of data sets as their publishers have them, label codings, augmentation and the order of
batches: on folders that the tests make."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from segtwin import palette
from segtwin.architectures import get_architecture
from segtwin.data import Augmentation, Coding, Stream, caffe_order, coding_of, find, weight_map
from segtwin.data.augment import deformed, scaled
from segtwin.data.labels import contents_of, read_contents
from segtwin.data.layouts import DataSet, Sample, natural, seg11valid
from segtwin.errors import DataError, ImageError
from sklearn.model_selection import train_test_split

pytestmark = pytest.mark.filterwarnings("ignore::segtwin.images.Converted")
SIZE = (12, 10)


def picture(path: Path, seed: int = 0, mode: str = "RGB", size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (*size, *channels)).astype(np.uint8)).save(path)


def mask(path: Path, values: tuple[int, ...] = (0, 255), seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.RandomState(seed).choice(values, size).astype(np.uint8)).save(path)


def dsb(root: Path) -> None:
    for one in ("aa", "bb", "cc"):
        picture(root / f"stage1_train/{one}/images/{one}.png", mode="RGBA")
        for number in range(3):
            values = np.zeros(SIZE, np.uint8)
            values[number * 4 : number * 4 + 3] = 255
            (root / f"stage1_train/{one}/masks").mkdir(exist_ok=True)
            Image.fromarray(values).save(root / f"stage1_train/{one}/masks/{number}.png")


def prepared(root: Path) -> None:
    for number in range(12):
        picture(root / f"images/{number}.png", number)
        mask(root / f"masks/{number}.png", seed=number)


def liver(root: Path) -> None:
    for part in ("train", "val"):
        for number in range(3):
            picture(root / f"{part}/{number:03d}.png", number)
            mask(root / f"{part}/{number:03d}_mask.png", seed=number)


def esophagus(root: Path) -> None:
    for part in ("train_data", "test_data"):
        for number in range(3):
            picture(root / f"{part}/{number:05d}.png", number)
            mask(root / f"{part}/{number:05d}_mask.png", seed=number)


def isbi(root: Path) -> None:
    images = [Image.fromarray(np.full(SIZE, 20 * number, np.uint8)) for number in range(5)]
    rows = [np.where(np.arange(SIZE[1]) < number + 2, 255, 0).astype(np.uint8) for number in range(5)]
    labels = [Image.fromarray(np.tile(row, (SIZE[0], 1))) for row in rows]
    images[0].save(root / "train-volume.tif", save_all=True, append_images=images[1:])
    labels[0].save(root / "train-labels.tif", save_all=True, append_images=labels[1:])
    images[0].save(root / "test-volume.tif", save_all=True, append_images=images[1:])


def isbi_prepared(root: Path) -> None:
    for number in range(5):
        picture(root / f"train/images/{number}.png", number, "L")
        mask(root / f"train/label/{number}.png", seed=number)


def lung(root: Path) -> None:
    for number in range(3):
        (root / "2d_images").mkdir(exist_ok=True)
        values = np.random.RandomState(number).randint(0, 4096, SIZE).astype(np.uint16)
        Image.fromarray(values).save(root / f"2d_images/ID_{number:04d}_Z_0142.tif")
        mask(root / f"2d_masks/ID_{number:04d}_Z_0142.tif", seed=number)


def corn(root: Path) -> None:
    for folder, part in (("training", "train"), ("val", "val"), ("test", "test")):
        for number in range(2):
            picture(root / f"{folder}/{part}_images/{number}.tif", number)
            mask(root / f"{folder}/{part}_mask/{number}.tif", seed=number)


def drive(root: Path) -> None:
    for folder, word, first in (("training", "training", 21), ("test", "test", 1)):
        for number in range(first, first + 3):
            picture(root / f"{folder}/images/{number:02d}_{word}.tif", number)
            mask(root / f"{folder}/1st_manual/{number:02d}_manual1.gif", seed=number)
            mask(root / f"{folder}/mask/{number:02d}_{word}_mask.gif", seed=number)


def voc(root: Path) -> None:
    ids = [*seg11valid()[:2], "2007_000032", "2007_000039"]
    for number, one in enumerate(ids):
        picture(root / f"JPEGImages/{one}.jpg", number)
        (root / "SegmentationClass").mkdir(exist_ok=True)
        label = Image.fromarray(np.random.RandomState(number).choice([0, 5, 15, 255], SIZE).astype(np.uint8), "P")
        label.putpalette(palette.voc_palette().tobytes())
        label.save(root / f"SegmentationClass/{one}.png")
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000032\n2007_000039\n")
    (lists / "val.txt").write_text("\n".join(seg11valid()[:2]) + "\n")


def sbdd(root: Path) -> None:
    ids = ["2008_000002", "2008_000003"]
    for number, one in enumerate(ids):
        picture(root / f"dataset/img/{one}.jpg", number)
        (root / "dataset/cls").mkdir(exist_ok=True)
        values = np.random.RandomState(number).choice([0, 7, 20], SIZE).astype(np.uint8)
        savemat(root / f"dataset/cls/{one}.mat", {"GTcls": {"Segmentation": values, "CategoriesPresent": [7]}})
    (root / "dataset/train.txt").write_text(ids[0] + "\n")
    (root / "dataset/val.txt").write_text(ids[1] + "\n")


def camvid(root: Path) -> None:
    for part in ("train", "val", "test"):
        lines = []
        for number in range(2):
            picture(root / f"{part}/{part}{number}.png", number)
            mask(root / f"{part}annot/{part}{number}.png", (0, 3, 10, 11), number)
            lines.append(f"/SegNet/CamVid/{part}/{part}{number}.png /SegNet/CamVid/{part}annot/{part}{number}.png")
        (root / f"{part}.txt").write_text("\n".join(lines) + "\n")


def camvid_folders(root: Path) -> None:
    camvid(root)
    for part in ("train", "val", "test"):
        (root / f"{part}.txt").unlink()


def any_folder(root: Path) -> None:
    for part in ("train", "val"):
        for number in range(3):
            picture(root / f"{part}/images/cell{number}.jpg", number)
            mask(root / f"{part}/masks/cell{number}_mask.png", (0, 1), number)


def parts_below(root: Path) -> None:
    for part in ("training", "validation"):
        for number in range(2):
            picture(root / f"images/{part}/{number}.jpg", number)
            mask(root / f"annotations/{part}/{number}.png", (0, 1, 2), number)


CASES: dict[str, tuple[Callable[[Path], None], str, dict[str, int], str]] = {
    "DSB-2018": (dsb, "dsb2018", {"train": 2, "val": 1}, "foreground"),
    "DSB-2018, prepared": (prepared, "images and masks", {"train": 9, "val": 3}, "foreground"),
    "liver": (liver, "suffixes", {"train": 3, "val": 3}, "foreground"),
    "esophagus": (esophagus, "suffixes", {"train": 2, "val": 1, "test": 3}, "foreground"),
    "ISBI-2012": (isbi, "volumes", {"train": 4, "val": 1}, "foreground"),
    "ISBI-2012, prepared": (isbi_prepared, "images and masks", {"train": 4, "val": 1}, "foreground"),
    "lung": (lung, "images and masks", {"train": 2, "val": 1}, "foreground"),
    "corneal nerve": (corn, "images and masks", {"train": 2, "val": 2, "test": 2}, "foreground"),
    "DRIVE": (drive, "drive", {"train": 2, "val": 1, "test": 3}, "foreground"),
    "VOC": (voc, "voc", {"train": 2, "val": 2, "seg11valid": 2}, "index"),
    "SBDD": (sbdd, "sbdd", {"train": 1, "val": 1}, "index"),
    "CamVid lists": (camvid, "camvid lists", {"train": 2, "val": 2, "test": 2}, "index"),
    "CamVid folders": (camvid_folders, "camvid", {"train": 2, "val": 2, "test": 2}, "index"),
    "any": (any_folder, "images and masks", {"train": 3, "val": 3}, "index"),
    "train and val below": (parts_below, "images and masks", {"train": 2, "val": 2}, "index"),
}


@pytest.mark.parametrize("name", CASES)
def test_every_layout_is_told_and_read(name: str, tmp_path: Path) -> None:
    make, layout, parts, kind = CASES[name]
    make(tmp_path)
    data = find(tmp_path)
    assert data.layout == layout
    assert {part: len(samples) for part, samples in data.parts.items()} == parts
    assert not data.without_label or data.without_label == (tmp_path / "test-volume.tif",)
    coding = coding_of([one for files in read_contents(data.samples) for one in files], instances=data.instances)
    assert coding.kind == kind
    stream = Stream(data.samples, coding, get_architecture("fcn8s"), get_architecture("fcn8s").preprocessing, 3)
    for index in range(len(data.samples)):
        values, label = stream.decoded(index)
        assert values.shape == (*SIZE, 3)
        assert label.shape == SIZE
        assert label.dtype == np.uint8
    assert len({sample.name for sample in data.samples}) >= max(parts.values())


def test_drive_takes_the_manual_and_not_the_field_of_view(tmp_path: Path) -> None:
    drive(tmp_path)
    sample = find(tmp_path).part("test")[0]
    assert sample.labels == (tmp_path / "test/1st_manual/01_manual1.gif",)


def test_instances_in_files_of_their_own_are_merged(tmp_path: Path) -> None:
    dsb(tmp_path)
    label = Coding("foreground").read(find(tmp_path).samples[0])
    assert label[:, 0].tolist() == [1, 1, 1, 0] * 3


def test_a_page_of_a_volume_has_its_own_label(tmp_path: Path) -> None:
    isbi(tmp_path)
    data = find(tmp_path, val=1)
    assert [sample.page for sample in data.samples] == [0, 1, 2, 3, 4]
    assert [int(Coding("foreground").read(one)[0].sum()) for one in data.samples] == [2, 3, 4, 5, 6]
    assert [sample.page for sample in data.part("val")] == [4]


def test_the_split_is_scikit_learns(tmp_path: Path) -> None:
    prepared(tmp_path)
    data = find(tmp_path)
    names = sorted((one.name for one in data.samples), key=natural)
    train, val = train_test_split(names, test_size=0.2, random_state=41)
    assert sorted(one.name for one in data.part("val")) == sorted(val)
    assert sorted(one.name for one in data.part("train")) == sorted(train)
    assert any("drawn with seed 41 from the sorted names" in note for note in data.notes)


def test_a_stated_split(tmp_path: Path) -> None:
    prepared(tmp_path)
    assert [one.name for one in find(tmp_path, val=3).part("val")] == [f"images/{n}.png" for n in (9, 10, 11)]
    assert len(find(tmp_path, val="0.5").part("val")) == 6
    (tmp_path / "val.list").write_text("2\nimages/5.png\n7.png\n")
    assert [one.name for one in find(tmp_path, val=str(tmp_path / "val.list")).part("val")] == [
        f"images/{n}.png" for n in (2, 5, 7)
    ]
    (tmp_path / "val.list").write_text("2\n99\n")
    with pytest.raises(DataError, match="'99' is no image of"):
        find(tmp_path, val=str(tmp_path / "val.list"))
    for bad in (12, 1.5, 0.0):
        with pytest.raises(DataError, match="--val"):
            find(tmp_path, val=bad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: shutil.rmtree(root / "masks"), "no images with labels are found here; put images in images/"),
        (lambda root: [one.unlink() for one in (root / "masks").iterdir()], "no image has a label; the first without"),
        (lambda root: mask(root / "masks/3.gif"), "two labels of one image; remove one of them"),
        (lambda root: picture(root / "images/3.jpg"), "two images of one name"),
    ],
)
def test_what_is_no_data_set_is_an_error_of_one_line(
    change: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    prepared(tmp_path)
    change(tmp_path)
    with pytest.raises(DataError) as caught:
        find(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_without_label_and_the_reverse_are_told(tmp_path: Path) -> None:
    prepared(tmp_path)
    (tmp_path / "masks/4.png").unlink()
    (tmp_path / "images/7.png").unlink()
    data = find(tmp_path)
    assert data.without_label == (tmp_path / "images/4.png",)
    assert data.without_image == (tmp_path / "masks/7.png",)


# --------------------------------------------------------------------------------------- labels


def codings(root: Path, *values: tuple[int, ...], classes: int | None = None, **more: object) -> Coding:
    for number, one in enumerate(values):
        mask(root / f"{number}.png", one, number, (40, 40))
    contents = [contents_of(root / f"{number}.png") for number in range(len(values))]
    return coding_of(contents, classes, **more)  # type: ignore[arg-type]


def test_values_say_what_they_mean(tmp_path: Path) -> None:
    assert codings(tmp_path, (0, 255), (0,), classes=1).kind == "foreground"
    assert codings(tmp_path, (0, 255), classes=2).kind == "foreground"
    assert codings(tmp_path, (0, 1), classes=1).kind == "index"
    assert codings(tmp_path, (0, 1, 255), classes=2).kind == "index"
    assert codings(tmp_path, (0, 1, 2), (5, 255), classes=21).kind == "index"
    assert codings(tmp_path, (0, 3, 7, 90), classes=2, instances=True).kind == "foreground"


@pytest.mark.parametrize(
    ("values", "classes", "message"),
    [
        ((0, 255), 21, "hold 0 and 255 alone, a foreground and its background, and the network has 21 classes"),
        ((0, 1, 2), 2, "value 2 in a label"),
        ((0, 128), 1, "value 128 in a label"),
        ((0, 64, 128, 192), None, "if these grey values are the classes, state them: 0,64,128,192"),
        (tuple(range(40)), 2, "a label of so many values was resized or saved as JPEG"),
    ],
)
def test_values_that_contradict_are_an_error(
    values: tuple[int, ...], classes: int | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        codings(tmp_path, values, classes=classes)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_stated_table(tmp_path: Path) -> None:
    coding = codings(tmp_path, (0, 64, 128, 255), classes=3, table=[[0], [64], [128]])
    assert coding.classes(np.array([[0, 64, 128, 255]])).tolist() == [[0, 1, 2, 255]]
    with pytest.raises(DataError, match="holds 128, which the class table has not"):
        codings(tmp_path, (0, 64, 128), table=[[0], [64]])
    with pytest.raises(DataError, match="the same value twice"):
        codings(tmp_path, (0, 64), table=[[0], [0]])


def test_colours_are_vocs_or_need_a_table(tmp_path: Path) -> None:
    colours = palette.voc_palette(21)
    classes = np.random.RandomState(0).choice([0, 3, 20], SIZE)
    Image.fromarray(colours[classes]).save(tmp_path / "a.png")
    coding = coding_of([contents_of(tmp_path / "a.png")], 21)
    assert coding.kind == "colours"
    np.testing.assert_array_equal(coding.classes(colours[classes]), classes)
    own = np.array([[10, 20, 30], [200, 0, 0], [5, 5, 5]], np.uint8)
    Image.fromarray(own[classes % 3]).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"which class each one is is not stated; give a class table.*\(10, 20, 30\)"):
        coding_of([contents_of(tmp_path / "a.png")], 3)
    coding = coding_of([contents_of(tmp_path / "a.png")], 3, table=own.tolist())
    np.testing.assert_array_equal(coding.classes(own[classes % 3]), classes % 3)


def test_a_broken_label_is_named_and_stops_nothing(tmp_path: Path) -> None:
    prepared(tmp_path)
    (tmp_path / "masks/4.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = [one for files in read_contents(find(tmp_path).samples) for one in files]
    broken = [one for one in found if one.error]
    assert [one.file.name for one in broken] == ["4.png"]
    assert str(broken[0].file) in broken[0].error
    assert coding_of(found, 1).kind == "foreground"
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 no")
    sample = Sample("a", tmp_path / "a", (tmp_path / "a.mat",))
    with pytest.raises(ImageError, match="no label of SBDD"):
        Coding("index").read(sample)


# -------------------------------------------------------------------------- augmentation and order

EVERYTHING = Augmentation((0.7, 1.5), 3.0, "both", True, (16, 24), 0.3)


def example(size: tuple[int, int] = (40, 30)) -> tuple[np.ndarray, np.ndarray]:
    """An image whose first channel is the label's class times 50."""
    label = np.random.RandomState(1).randint(0, 5, (size[0] // 10, size[1] // 10)).repeat(10, 0).repeat(10, 1)
    values = np.stack([label * 50, *np.random.RandomState(2).randint(0, 256, (2, *size))], axis=2)
    return values.astype(np.uint8), label.astype(np.uint8)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(flip="horizontal"),
        Augmentation(flip="vertical"),
        Augmentation(right_angles=True),
        Augmentation(crop=(16, 24)),
        Augmentation(crop=(64, 64)),
        Augmentation(elastic=4.0),
        Augmentation(scale=(0.5, 2.0)),
    ],
)
def test_image_and_label_are_changed_alike(augmentation: Augmentation) -> None:
    values, label = example()
    changed = 0
    for seed in range(8):
        got, classes = augmentation.apply(values, label, np.random.default_rng(seed))
        assert got.dtype == np.float32
        assert classes.dtype == np.uint8
        assert set(np.unique(classes)) <= {0, 1, 2, 3, 4, 255}
        known = classes != 255
        agree = np.abs(got[..., 0] / 50 - classes)[known] < 0.5
        assert agree.mean() > (0.999 if augmentation.scale == (1, 1) and not augmentation.elastic else 0.8)
        changed += got.shape != values.shape or bool((got[..., 0] != values[..., 0]).any())
    assert changed >= 2


def test_nothing_is_done_by_default() -> None:
    values, label = example()
    got, same = Augmentation().apply(values, label, np.random.default_rng(0))
    np.testing.assert_array_equal(got, values)
    np.testing.assert_array_equal(same, label)


def test_brightness_stays_within_the_values() -> None:
    values, label = example()
    for seed in range(5):
        got, _ = Augmentation(brightness=0.5).apply(values, label, np.random.default_rng(seed))
        factors = got[values > 0] / values[values > 0]
        assert got.max() <= 255
        assert factors.min() > 0.49
        assert factors.max() < 1.51


def test_labels_are_scaled_by_nearest_neighbours() -> None:
    _, label = scaled(np.zeros((4, 4, 1), np.float32), np.array([[0, 0, 4, 4]] * 4, np.uint8), 2.5)
    assert set(np.unique(label)) == {0, 4}


def test_labels_are_deformed_by_nearest_neighbours() -> None:
    label = np.where(np.arange(32) < 16, 0, 4).astype(np.uint8) * np.ones((32, 1), np.uint8)
    moved = 0
    for seed in range(5):
        _, got = deformed(np.zeros((32, 32, 1), np.float32), label, 3.0, np.random.default_rng(seed))
        assert set(np.unique(got)) == {0, 4}
        moved += int((got != label).sum())
    assert moved > 20


@pytest.mark.parametrize(
    "wrong",
    [{"flip": "left"}, {"scale": (2.0, 1.0)}, {"brightness": 2.0}, {"elastic": -1.0}, {"crop": (0, 5)}],
)
def test_what_cannot_be_done_is_refused(wrong: dict) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        Augmentation(**wrong)


def test_the_weight_map_is_equation_2() -> None:
    """Against distances to all pixels of each object, computed one by one; the class weights are those
    of three tenths foreground."""
    label = np.zeros((20, 30), np.uint8)
    label[3:9, 2:10] = label[4:15, 12:16] = label[0:4, 22:30] = 1
    label[19, 29] = 255
    objects = [np.argwhere(box) for box in (masks(label, 0, 11), masks(label, 11, 20), masks(label, 20, 30))]
    got = weight_map(label)
    counted = label != 255
    for y, x in [(0, 0), (6, 10), (6, 11), (10, 20), (3, 21), (19, 0), (5, 5), (19, 29)]:
        if label[y, x] == 255:
            assert got[y, x] == 0
            continue
        near = sorted(np.sqrt(((one - (y, x)) ** 2).sum(1)).min() for one in objects)
        balance = counted.sum() / (2 * (label[counted] == label[y, x]).sum())
        border = 10 * np.exp(-((near[0] + near[1]) ** 2) / 50) if label[y, x] == 0 else 0
        assert got[y, x] == pytest.approx(balance + border, rel=1e-5)
    assert got[6, 10] > 7
    single = np.zeros((20, 20), np.uint8)
    single[5:9, 5:9] = 1
    assert (weight_map(single, balance=False) == 1).all()


def masks(label: np.ndarray, left: int, right: int) -> np.ndarray:
    here = np.zeros(label.shape, bool)
    here[:, left:right] = label[:, left:right] == 1
    return here


def stream(root: Path, **more: object) -> Stream:
    if not (root / "images").exists():
        prepared(root)
    data: DataSet = find(root)
    unet = get_architecture("unet-small")
    return Stream(data.part("train"), Coding("foreground"), unet, unet.preprocessing, 1, **more)  # type: ignore[arg-type]


def test_batches_depend_on_the_seed_alone(tmp_path: Path) -> None:
    """Byte for byte with 0, 1 and 5 workers, from the start or from the middle."""
    want = [stream(tmp_path, batch=2, seed=3, augmentation=EVERYTHING).batch_at(step) for step in range(9)]
    for workers, start in ((0, 0), (1, 0), (5, 0), (3, 4)):
        same = stream(tmp_path, batch=2, seed=3, augmentation=EVERYTHING, border_weights=False)
        got = list(same.batches(start, 9, workers))
        assert [one.names for one in got] == [one.names for one in want[start:]]
        for one, other in zip(got, want[start:], strict=True):
            assert one.data.tobytes() == other.data.tobytes()
            assert one.label.tobytes() == other.label.tobytes()
    other = stream(tmp_path, batch=2, seed=4, augmentation=EVERYTHING).batch_at(0)
    assert other.data.tobytes() != want[0].data.tobytes()


def test_an_epoch_has_every_image_once(tmp_path: Path) -> None:
    one = stream(tmp_path, seed=5)
    count = len(one.samples)
    epochs = [[one.index(epoch * count + place) for place in range(count)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_caffes_order_is_python_2s() -> None:
    """random.seed(1337); [random.randint(0, 8497) for _ in range(8)] in Python 2.7."""
    drawn = (0.6177528569514706, 0.5332655736050008, 0.36584835924937553)  # random.random(), alike in 2 and 3
    assert caffe_order(8498, 3) == [int(value * 8498) for value in drawn]
    random.seed(1337)
    assert caffe_order(8498, 8) != [random.randint(0, 8497) for _ in range(8)]  # Python 3's


def test_sizes_are_made_to_fit_and_what_is_added_is_void(tmp_path: Path) -> None:
    prepared(tmp_path)
    sample = find(tmp_path).samples[:1]
    for name, data_size, label_size in (
        ("unet", (16, 16), (16, 16)),
        ("unet-paper", (204, 204), (20, 20)),
        ("fcn8s", SIZE, SIZE),
    ):
        network = get_architecture(name)
        one = Stream(sample, Coding("foreground"), network, network.preprocessing, 3)
        batch = one.batch_at(0)
        assert batch.data.shape == (1, 3, *data_size)
        assert batch.label.shape == (1, 1, *label_size)
        inside = batch.label[0, 0, : SIZE[0], : SIZE[1]]
        np.testing.assert_array_equal(inside, Coding("foreground").read(sample[0]))
        assert (batch.label == 255).sum() == batch.label.size - inside.size
    network = get_architecture("vggfcn8")
    with pytest.raises(DataError, match=r"0\.png: vggfcn32 and vggfcn8: 12 × 10 is too small"):
        Stream(sample, Coding("foreground"), network, network.preprocessing, 3).batch_at(0)


def test_the_paper_sees_the_mirrored_image_around_each_pixel(tmp_path: Path) -> None:
    prepared(tmp_path)
    network = get_architecture("unet-paper")
    sample = find(tmp_path).samples[0]
    one = Stream([sample], Coding("foreground"), network, network.preprocessing, 1)
    data = one.batch_at(0).data[0, 0]
    values, _ = one.decoded(0)
    np.testing.assert_allclose(data[92 : 92 + SIZE[0], 92 : 92 + SIZE[1]], values[..., 0] / 255, atol=1e-6)
    np.testing.assert_array_equal(data[91], data[93])


def test_a_batch_of_two_sizes_and_a_label_of_another_are_named(tmp_path: Path) -> None:
    prepared(tmp_path)
    picture(tmp_path / "images/3.png", size=(30, 30))
    data = find(tmp_path)
    network = get_architecture("fcn8s")
    one = Stream(data.samples, Coding("foreground"), network, network.preprocessing, 3, batch=12)
    with pytest.raises(DataError, match=r"3\.png: has 12×10 pixels, and .*3\.png 30×30"):
        one.batch_at(0)
    mask(tmp_path / "masks/3.png", size=(30, 30))
    with pytest.raises(DataError, match=r"images of one batch have one size: give --crop, or --batch 1"):
        one.batch_at(0)
