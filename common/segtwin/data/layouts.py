"""Which files of a folder are images, which are their labels, and which belong to train, val or test.

The layouts are those of the data sets' publishers and of the scripts of Andy-zhujunwen/UNET-ZOO at
b526ce5 (`dataset.py`); VOC and SBDD as `voc_layers.py` of shelhamer/fcn.berkeleyvision.org at
1305c7378a9f0ab44b2c936f4d60e4687e3d8743 reads them. What has no split of its own gets one, and it is
said.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

import numpy as np

from segtwin.errors import DataError
from segtwin.images import ENDINGS, own_output, page_count
from segtwin.texts import read_lines

VAL_SHARE = 0.2
SPLIT_SEED = 41
"""UNET-ZOO splits by scikit-learn's train_test_split(test_size=0.2, random_state=41)."""
LABEL_FOLDERS = ("masks", "labels", "mask", "label", "annotations", "annots", "annot", "gt", "groundtruth")
IMAGE_FOLDERS = ("images", "image", "imgs", "img")
PARTS = {
    **dict.fromkeys(("train", "training", "train_data"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "val_data"), "val"),
    **dict.fromkeys(("test", "testing", "test_data"), "test"),
}
"""Name of a folder → the part of the data in it."""


@dataclass(frozen=True)
class Sample:
    """One image and its label."""

    name: str
    """Of the image, seen from the data set's folder, with / between folders; "#3" behind it is a page."""
    image: Path
    labels: tuple[Path, ...]
    """One file; of instances in files of their own, all of them; none where nothing was found."""
    page: int | None = None
    """Of a TIFF volume."""


@dataclass(frozen=True)
class DataSet:
    """The images and labels of a folder."""

    folder: Path
    layout: str
    """Name of the layout: "voc", "sbdd", "camvid lists", "images and masks", …"""
    parts: Mapping[str, tuple[Sample, ...]]
    """"train", "val", "test" → samples with a label, in natural order."""
    notes: tuple[str, ...] = ()
    """What was found and what was decided, a sentence each."""
    without_label: tuple[Path, ...] = ()
    without_image: tuple[Path, ...] = ()
    instances: bool = False
    """Labels hold numbers of objects, or an object a file: what is not 0 is foreground."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All of them."""
        return tuple(sample for part in self.parts.values() for sample in part)

    def part(self, name: str) -> tuple[Sample, ...]:
        """The samples of a part.

        Raises:
            DataError: there is none of that name.
        """
        if name not in self.parts:
            raise DataError(f"{self.folder}: has no part {name!r}; there are {', '.join(self.parts)}")
        return self.parts[name]


def natural(text: str | Path) -> list[object]:
    """A key that sorts 2 before 10."""
    return [int(piece) if piece.isdigit() else piece.lower() for piece in re.split(r"(\d+)", str(text))]


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, in natural order; no hidden files, nor what `predict` wrote."""
    return sorted(
        (
            one
            for one in folder.iterdir()
            if one.suffix.lower() in ENDINGS and one.is_file() and not one.name.startswith(".") and not own_output(one)
        ),
        key=lambda one: natural(one.name),
    )


def inside(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of these folders that is in a folder, in any case of letters."""
    there = {one.name.lower(): one for one in folder.iterdir() if one.is_dir()}
    return next((there[name] for name in names if name in there), None)


@dataclass
class Pairs:
    """What matching images and labels by their names gave."""

    samples: list[Sample] = field(default_factory=list)
    without_label: list[Path] = field(default_factory=list)
    without_image: list[Path] = field(default_factory=list)


WORDS = r"[ _.-]*(masks?|labels?|gt|manual\d*|seg(mentation)?|ground_?truth|annot(ation)?s?|l)$"
"""What the name of a label has behind that of its image."""
Key = Callable[[str], str]


def without_words(stem: str) -> str:
    """NAME of NAME_mask."""
    return re.sub(WORDS, "", stem, flags=re.IGNORECASE)


def without_parts(stem: str) -> str:
    """01 of 01_training, and of 01_test_mask."""
    return re.sub(r"[ _.-]*(training|train|test|val|image|img)$", "", without_words(stem), flags=re.IGNORECASE)


KEYS: tuple[tuple[Key, Key], ...] = (
    (lambda stem: stem, lambda stem: stem),
    (lambda stem: stem, without_words),
    (without_parts, without_parts),
)
"""What is compared of an image's stem and of a label's; the first pair under which most match."""


def pair(root: Path, images: Iterable[Path], labels: Iterable[Path], key: Key | None = None) -> Pairs:
    """Match images and labels by their stems: equal ones, or those that differ in _mask, _label and the
    like.

    Args:
        root: of the data set.
        images: files.
        labels: files.
        key: what is compared of both stems, where the layout says it.

    Raises:
        DataError: two labels, or two images, have the same name.
    """
    images, labels = list(images), list(labels)
    keys = KEYS if key is None else ((key, key),)
    matches = [len({mine(one.stem) for one in images} & {yours(one.stem) for one in labels}) for mine, yours in keys]
    of_image, of_label = keys[matches.index(max(matches))]
    by_key: dict[str, Path] = {}
    for label in labels:
        other = by_key.setdefault(of_label(label.stem), label)
        if other != label:
            raise DataError(f"{other} and {label}: two labels of one image; remove one of them")
    found, seen = Pairs(), dict[str, Path]()
    for image in images:
        name = of_image(image.stem)
        if name in seen:
            raise DataError(f"{seen[name]} and {image}: two images of one name; rename one of them")
        seen[name] = image
        if name in by_key:
            found.samples.append(Sample(named(root, image), image, (by_key[name],)))
        else:
            found.without_label.append(image)
    found.without_image = [label for name, label in by_key.items() if name not in seen]
    return found


def named(root: Path, image: Path) -> str:
    """A path seen from the root, with / between folders."""
    return image.relative_to(root).as_posix() if image.is_relative_to(root) else image.as_posix()


def find(folder: str | os.PathLike[str], val: float | int | str | None = None) -> DataSet:
    """The data set in a folder, whichever layout it has.

    Args:
        folder: of the data.
        val: where the folder has no part for validation: a share (0.2 by default, drawn as
            scikit-learn's train_test_split with random_state 41 does), a number of images (the last
            ones in natural order), or a text file with a name a line.

    Raises:
        DataError: there is no such folder, no layout that is known, or no image with a label.
        OSError: the folder cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{folder}: there is no such folder; give the folder of the images and their labels")
    for layout in LAYOUTS:
        found = layout(root)
        if found is not None:
            if not found.samples:
                raise DataError(
                    f"{folder}: looks like {found.layout}, and no image has a label"
                    + (f"; the first without one is {found.without_label[0]}" if found.without_label else "")
                )
            return split(found, val)
    raise DataError(
        f"{folder}: no images with labels are found here; put images in images/ and their labels, of the same names, "
        "in masks/ (train/ and val/ above them if you like)"
    )


def split(data: DataSet, val: float | int | str | None) -> DataSet:
    """The same with a part for validation, which is taken from train where there is none."""
    if data.parts.get("val"):
        if val is not None:
            raise DataError(f"{data.folder}: has a part for validation already; leave --val out")
        return data
    whole = data.parts.get("train") or next(iter(data.parts.values()))
    rest = {name: part for name, part in data.parts.items() if part is not whole}
    if len(whole) < 2:
        return replace(
            data,
            parts={"train": whole, **rest},
            notes=(*data.notes, "one image with a label alone: nothing is left to validate with"),
        )
    if isinstance(val, str):
        try:
            number = float(val)
            val = int(number) if number >= 1 and number == int(number) else number
        except ValueError:
            return _split_by_names(data, whole, rest, str(val))
    share = VAL_SHARE if val is None else val
    if isinstance(share, int) or share >= 1:
        if not (1 <= share < len(whole) and share == int(share)):
            raise DataError(f"{data.folder}: --val {share} of {len(whole)} images; one at least is needed to train")
        train, held, how = whole[: -int(share)], whole[-int(share) :], f"the last {int(share)} images validate"
    else:
        if not 0 < share < 1:
            raise DataError(f"--val is a share between 0 and 1, a number of images or a file of names, not {share}")
        order = np.random.RandomState(SPLIT_SEED).permutation(len(whole))
        count = min(max(1, math.ceil(share * len(whole))), len(whole) - 1)
        chosen = set(order[:count].tolist())
        train = tuple(one for number, one in enumerate(whole) if number not in chosen)
        held = tuple(one for number, one in enumerate(whole) if number in chosen)
        how = f"{count} of {len(whole)} images, drawn with seed {SPLIT_SEED} from the sorted names, validate"
    return replace(
        data,
        parts={"train": train, "val": held, **rest},
        notes=(*data.notes, f"no part for validation is given: {how}"),
    )


def _split_by_names(
    data: DataSet, whole: tuple[Sample, ...], rest: Mapping[str, tuple[Sample, ...]], file: str
) -> DataSet:
    wanted = set(read_lines(file, "a name"))
    held = tuple(one for one in whole if {one.name, Path(one.name).name, Path(one.name).stem} & wanted)
    names = {name for one in held for name in (one.name, Path(one.name).name, Path(one.name).stem)}
    if missing := sorted(wanted - names):
        raise DataError(f"{file}: {missing[0]!r} is no image of {data.folder} ({len(missing)} of {len(wanted)} names)")
    train = tuple(one for one in whole if one not in held)
    if not train:
        raise DataError(f"{file}: names every image of {data.folder}; one at least is needed to train")
    return replace(
        data, parts={"train": train, "val": held, **rest}, notes=(*data.notes, f"the images that {file} names validate")
    )


# ---------------------------------------------------------------------------------------- layouts


def made(
    root: Path, layout: str, words: str, parts: Mapping[str, Pairs], notes: Sequence[str] = (), instances: bool = False
) -> DataSet:
    """A data set of what was matched; parts in the order train, val, test."""
    order = sorted(parts, key=lambda name: ("train", "val", "test").index(name) if name in PARTS.values() else 3)
    return DataSet(
        root,
        layout,
        {
            name: tuple(sorted(parts[name].samples, key=lambda one: natural(one.name)))
            for name in order
            if parts[name].samples
        },
        (words, *notes),
        tuple(one for name in order for one in parts[name].without_label),
        tuple(one for name in order for one in parts[name].without_image),
        instances,
    )


def seg11valid() -> list[str]:
    """The 736 images of VOC 2011's validation list that are not in SBDD's training list, on which the
    published table was measured."""
    return resources.files("segtwin.data").joinpath("seg11valid.txt").read_text().split()


def voc(root: Path) -> DataSet | None:
    """PASCAL VOC: JPEGImages/, SegmentationClass/ and the lists in ImageSets/Segmentation/."""
    images, labels = root / "JPEGImages", root / "SegmentationClass"
    if not (images.is_dir() and labels.is_dir()):
        return None
    lists = {"seg11valid": seg11valid()}
    folder = root / "ImageSets" / "Segmentation"
    for file in sorted(folder.glob("*.txt")) if folder.is_dir() else ():
        lists[file.stem] = read_lines(str(file), "an image's name")
    parts: dict[str, Pairs] = {}
    for name, ids in lists.items():
        found = Pairs()
        for one in ids:
            image, label = images / f"{one}.jpg", labels / f"{one}.png"
            if image.is_file() and label.is_file():
                found.samples.append(Sample(named(root, image), image, (label,)))
            elif name != "seg11valid":
                (found.without_label if image.is_file() else found.without_image).append(
                    image if image.is_file() else label
                )
        parts[name] = found
    notes = []
    if not any(name != "seg11valid" for name in lists):
        parts["train"] = pair(root, images_in(images), images_in(labels))
        parts["train"].without_label = []  # most of VOC's images have none
        notes.append("there is no list in ImageSets/Segmentation: every labelled image trains")
    have = len(parts["seg11valid"].samples)
    if 0 < have < len(seg11valid()):
        notes.append(f"{have} of the 736 images of seg11valid are here")
    return made(root, "voc", "PASCAL VOC: palette labels, 255 is void", parts, notes)


def sbdd(root: Path) -> DataSet | None:
    """SBDD (Hariharan et al. 2011): img/, cls/*.mat, train.txt and val.txt; in dataset/, too."""
    base = root / "dataset" if (root / "dataset" / "cls").is_dir() else root
    if not ((base / "img").is_dir() and any((base / "cls").glob("*.mat"))):
        return None
    parts: dict[str, Pairs] = {}
    for name in ("train", "val"):
        if (base / f"{name}.txt").is_file():
            found = parts[name] = Pairs()
            for one in read_lines(str(base / f"{name}.txt"), "an image's name"):
                image, label = base / "img" / f"{one}.jpg", base / "cls" / f"{one}.mat"
                if image.is_file() and label.is_file():
                    found.samples.append(Sample(named(root, image), image, (label,)))
                else:
                    (found.without_label if image.is_file() else found.without_image).append(image)
    if not parts:
        parts["train"] = pair(root, images_in(base / "img"), sorted((base / "cls").glob("*.mat")))
    return made(root, "sbdd", "SBDD: labels are GTcls.Segmentation of cls/*.mat", parts)


def listed(root: Path) -> DataSet | None:
    """CamVid's lists, as SegNet's: train.txt, val.txt, test.txt with `image mask` a line, as the
    publisher's machine had them; the ends of the paths are looked for in the folder."""
    parts: dict[str, Pairs] = {}
    for name in ("train", "val", "test"):
        file = root / f"{name}.txt"
        if not file.is_file():
            continue
        rows = [line.split() for line in read_lines(str(file), "an image and a mask")]
        if not rows or any(len(row) != 2 for row in rows):
            return None
        found = parts[name] = Pairs()
        for image, label in rows:
            one, other = resolved(root, image), resolved(root, label)
            if one is None:
                raise DataError(f"{file}: {image} is not in {root}; the list and the folder do not belong together")
            if other is None:
                found.without_label.append(one)
            else:
                found.samples.append(Sample(named(root, one), one, (other,)))
    return made(root, "camvid lists", "lists of `image mask`, a pair a line", parts) if parts else None


def resolved(root: Path, written: str) -> Path | None:
    """A path of a list, or its end, inside the folder: /SegNet/CamVid/train/a.png is train/a.png."""
    pieces = [piece for piece in written.replace("\\", "/").split("/") if piece not in ("", ".", "..")]
    return next((path for at in range(len(pieces)) if (path := root.joinpath(*pieces[at:])).is_file()), None)


def segnet(root: Path) -> DataSet | None:
    """CamVid without lists: train/ and trainannot/, val/ and valannot/, test/ and testannot/."""
    names = [name for name in ("train", "val", "test") if (root / f"{name}annot").is_dir() and (root / name).is_dir()]
    parts = {name: pair(root, images_in(root / name), images_in(root / f"{name}annot")) for name in names}
    return made(root, "camvid", "CamVid: NAME/ and NAMEannot/", parts) if parts else None


def dsb2018(root: Path) -> DataSet | None:
    """Data Science Bowl 2018 (BBBC038) as published: stage1_train/ID/images/ID.png, and an instance a
    file in stage1_train/ID/masks/."""
    base = root / "stage1_train" if (root / "stage1_train").is_dir() else root
    folders = [one for one in sorted(base.iterdir()) if (one / "images").is_dir() and (one / "masks").is_dir()]
    if not folders or any((base / name).is_dir() for name in ("images", "masks")) or base.name in PARTS:
        return None
    if all(one.name.lower() in PARTS for one in folders):
        return None
    found = Pairs()
    for one in folders:
        images, masks = images_in(one / "images"), images_in(one / "masks")
        if len(images) != 1:
            raise DataError(f"{one / 'images'}: holds {len(images)} images, and DSB-2018 has one a folder")
        if masks:
            found.samples.append(Sample(named(root, images[0]), images[0], tuple(masks)))
        else:
            found.without_label.append(images[0])
    words = "DSB-2018: an instance a file, merged to one foreground"
    return made(root, "dsb2018", words, {"train": found}, instances=True)


def volumes(root: Path) -> DataSet | None:
    """ISBI 2012 as published: train-volume.tif and train-labels.tif, an image a page."""
    there = {one.name.lower(): one for one in root.iterdir() if one.suffix.lower() in (".tif", ".tiff")}
    parts: dict[str, Pairs] = {}
    for name in ("train", "val", "test"):
        volume = next(
            (there[f"{name}-volume{end}"] for end in (".tif", ".tiff") if f"{name}-volume{end}" in there), None
        )
        labels = next(
            (there[f"{name}-labels{end}"] for end in (".tif", ".tiff") if f"{name}-labels{end}" in there), None
        )
        if volume is None:
            continue
        found = parts[name] = Pairs()
        if labels is None:
            found.without_label.append(volume)
            continue
        count, others = page_count(volume), page_count(labels)
        if count != others:
            raise DataError(
                f"{volume} has {count} pages and {labels} has {others}; a page of one is a page of the other"
            )
        found.samples = [Sample(f"{named(root, volume)}#{page}", volume, (labels,), page) for page in range(count)]
    if not any(one.samples for one in parts.values()):
        return None
    return made(root, "volumes", "TIFF volumes, an image a page", parts)


def folders(root: Path) -> DataSet | None:
    """A folder of images beside one of labels, with train/, val/ and test/ above them, in them, or not
    at all; their names as DRIVE, the corneal nerves, the lungs and the prepared cells have them."""
    parts: dict[str, Pairs] = {}
    drive = False

    def add(part: str, images: Path, labels: Path) -> None:
        nonlocal drive
        # DRIVE's mask/ is the field of view
        drive = drive or labels.name == "1st_manual"
        if part in parts:
            raise DataError(f"{root}: has images for {part} in {images} and in a second folder; keep one of them")
        parts[part] = pair(
            root, images_in(images), images_in(labels), drive_key if labels.name == "1st_manual" else None
        )

    for place in (root, *(one for one in sorted(root.iterdir()) if one.is_dir() and one.name.lower() in PARTS)):
        part = PARTS.get(place.name.lower(), "train") if place != root else "train"
        words = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}[part]
        images = inside(place, [*IMAGE_FOLDERS, "2d_images", *(f"{one}_images" for one in words)])
        labels = inside(place, ["1st_manual"]) or inside(
            place, [*LABEL_FOLDERS, "2d_masks", *(f"{one}_{kind}" for one in words for kind in ("mask", "masks"))]
        )
        if images is None or labels is None:
            continue
        below = [one for one in sorted(images.iterdir()) if one.is_dir() and one.name.lower() in PARTS]
        if not below or images_in(images):
            add(part, images, labels)
        for one in below:
            if (labels / one.name).is_dir():
                add(PARTS[one.name.lower()], one, labels / one.name)
    if not parts:
        return None
    return made(root, "drive" if drive else "images and masks", "a folder of images beside one of labels", parts)


def drive_key(name: str) -> str:
    """01 of 01_training and of 01_manual1."""
    return name.split("_")[0]


def suffixed(root: Path) -> DataSet | None:
    """NAME.png and NAME_mask.png side by side: liver and esophagus, with train/, val/ and test/, or
    train_data/ and test_data/, above or without."""
    parts: dict[str, Pairs] = {}
    for place in (root, *(one for one in sorted(root.iterdir()) if one.is_dir() and one.name.lower() in PARTS)):
        files = images_in(place)
        stems = {one.stem for one in files}
        labels = [one for one in files if without_words(one.stem) != one.stem and without_words(one.stem) in stems]
        if labels:
            part = PARTS.get(place.name.lower(), "train") if place != root else "train"
            parts[part] = pair(root, [one for one in files if one not in labels], labels)
    return made(root, "suffixes", "NAME and NAME_mask side by side", parts) if parts else None


def one_file(root: Path) -> DataSet | None:
    """A single image with its label: image.* and label.*, mask.* or instances.*."""
    by_stem = {one.stem.lower(): one for one in images_in(root)}
    label = next((name for name in ("label", "labels", "mask", "instances") if name in by_stem), None)
    if "image" not in by_stem or label is None:
        return None
    image = by_stem["image"]
    found = Pairs([Sample(named(root, image), image, (by_stem[label],))])
    return made(root, "one image", "one image and its label", {"train": found}, instances=label == "instances")


LAYOUTS: tuple[Callable[[Path], DataSet | None], ...] = (
    voc, sbdd, volumes, listed, segnet, dsb2018, folders, suffixed, one_file,
)  # fmt: skip
