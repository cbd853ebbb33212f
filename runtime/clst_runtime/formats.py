"""Where each data set keeps its images and labels, and what its label ids mean. Plain tables, no guessing.

A label file's raw ids become ids of the format's class list; `dataset` then relates that list to the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clst_runtime.errors import ConfigError, DataError, did_you_mean
from clst_runtime.images import read_label
from clst_runtime.labels import (
    IGNORE_ID,
    ClassList,
    LabelMapping,
    identity_mapping,
    load_class_list,
    read_json_object,
)
from clst_runtime.media import pictures_below
from clst_runtime.paths import check_folder


@dataclass(frozen=True, kw_only=True)
class Files:
    """One image and where its label must lie."""

    image: Path
    """The picture."""
    label: Path
    """The label file; it may be missing, which `dataset` reports."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to lay out a data set."""

    name: str
    """Name on the command line."""
    looks_for: str
    """What it is recognised by, in words and as a glob below the root."""
    files: Callable[[Path, str], list[Files]]
    """Images and labels of a split."""
    classes: Callable[[Path], ClassList]
    """The class list of its labels."""
    mapping: Callable[[ClassList], LabelMapping]
    """Raw ids to that list's ids."""
    read: Callable[[Path], npt.NDArray[np.int32]] = read_label
    """Raw ids of a label file, H,W."""


# Cityscapes label id → road19 class; GTA5's labels use the same ids.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_LAST_ID = 33
GTA5_LAST_ID = 34  # the licence plate, which Cityscapes does not draw
# SYNTHIA-RAND-CITYSCAPES class id → road16 class name; all others up to 22 are ignored.
SYNTHIA_IDS = {
    1: "sky", 2: "building", 3: "road", 4: "sidewalk", 5: "fence", 6: "vegetation", 7: "pole", 8: "car",
    9: "traffic sign", 10: "person", 11: "bicycle", 12: "motorcycle", 15: "traffic light", 17: "rider",
    19: "bus", 21: "wall",
}  # fmt: skip
SYNTHIA_LAST_ID = 22
# CamVid's 32 colours, by the 11 classes of the usual grouping; void and the rest are ignored.
CAMVID_COLOURS: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "sky": ((128, 128, 128),),
    "building": ((128, 0, 0), (64, 192, 0), (0, 128, 64), (192, 0, 128), (64, 0, 64)),
    "pole": ((192, 192, 128), (0, 0, 64)),
    "road": ((128, 64, 128), (128, 0, 192), (192, 0, 64)),
    "sidewalk": ((0, 0, 192), (64, 192, 128), (128, 128, 192)),
    "vegetation": ((128, 128, 0), (192, 192, 0)),
    "traffic sign": ((192, 128, 128), (128, 128, 64), (0, 64, 64)),
    "fence": ((64, 64, 128),),
    "car": ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),
    "pedestrian": ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),
    "bicyclist": ((0, 128, 192), (192, 0, 192)),
}
CAMVID_IGNORED = ((0, 0, 0), (192, 64, 0), (64, 64, 192), (128, 192, 64), (192, 192, 192), (64, 192, 192))


def _shipped(name: str) -> Callable[[Path], ClassList]:
    return lambda root: load_class_list(name)


def _table(size: int, values: Mapping[int, int]) -> LabelMapping:
    """Ids 0 … size−1 ignored unless named in `values`; 255 ignored; everything else unknown."""
    table = np.full(256, -1, np.int32)
    table[:size] = IGNORE_ID
    table[IGNORE_ID] = IGNORE_ID
    for raw, mapped in values.items():
        table[raw] = mapped
    return LabelMapping(table=table)


def _cityscapes_mapping(classes: ClassList) -> LabelMapping:
    mapping = _table(CITYSCAPES_LAST_ID + 1, {raw: index for index, raw in enumerate(CITYSCAPES_IDS)})
    return mapping


def _gta5_mapping(classes: ClassList) -> LabelMapping:
    return _table(GTA5_LAST_ID + 1, {raw: index for index, raw in enumerate(CITYSCAPES_IDS)})


def _synthia_mapping(classes: ClassList) -> LabelMapping:
    return _table(SYNTHIA_LAST_ID + 1, {raw: classes.names.index(name) for raw, name in SYNTHIA_IDS.items()})


def _city_files(suffix: str, image_suffix: str) -> Callable[[Path, str], list[Files]]:
    def files(root: Path, split: str) -> list[Files]:
        base, found = root / "leftImg8bit" / split, []
        for image in pictures_below(base):
            if image.stem.endswith(image_suffix):
                name = image.stem.removesuffix(image_suffix) + suffix
                found.append(Files(image=image, label=root / "gtFine" / split / image.parent.relative_to(base) / name))
        return found

    return files


def _flat_files(images: str, labels: str) -> Callable[[Path, str], list[Files]]:
    """Layouts without splits; the split `val` is every tenth image, `train` the others, `all` all of them."""

    def files(root: Path, split: str) -> list[Files]:
        found = [
            Files(image=image, label=root / labels / f"{image.stem}.png") for image in pictures_below(root / images)
        ]
        if split == "all":
            return found
        return [pair for index, pair in enumerate(found) if (index % 10 == 9) == (split == "val")]

    return files


def _folder_files(root: Path, split: str) -> list[Files]:
    base = root / "images" / split
    return [
        Files(image=image, label=(root / "labels" / split / image.relative_to(base)).with_suffix(".png"))
        for image in pictures_below(base)
    ]


def _camvid_files(root: Path, split: str) -> list[Files]:
    base = root / "701_StillsRaw_full"
    found = [
        Files(image=image, label=root / "LabeledApproved_full" / f"{image.stem}_L.png")
        for image in pictures_below(base)
    ]
    listing = root / f"{split}.txt"
    if listing.is_file():
        wanted = {Path(line).stem for line in listing.read_text().split()}
        return [pair for pair in found if pair.image.stem in wanted]
    if split == "all":
        return found
    return [pair for index, pair in enumerate(found) if (index % 10 == 9) == (split == "val")]


def _read_camvid(path: Path) -> npt.NDArray[np.int32]:
    """CamVid's colours as camvid11 ids; a colour that CamVid does not have becomes 254, which the map refuses."""
    from clst_runtime.images import read_image

    picture = read_image(path).astype(np.int32)
    keys = picture[..., 0] << 16 | picture[..., 1] << 8 | picture[..., 2]
    classes = load_class_list("camvid11")
    ids = np.full(keys.shape, 254, np.int32)
    for name, colours in CAMVID_COLOURS.items():
        for red, green, blue in colours:
            ids[keys == (red << 16 | green << 8 | blue)] = classes.names.index(name)
    for red, green, blue in CAMVID_IGNORED:
        ids[keys == (red << 16 | green << 8 | blue)] = IGNORE_ID
    return ids


def _folder_classes(root: Path) -> ClassList:
    path = root / "classes.json"
    if not path.is_file():
        raise DataError(f'{root}: no classes.json; write {{"names": ["road", …], "colors": [[128, 64, 128], …]}}')
    return ClassList.from_json(read_json_object(path), name=root.resolve().name)


FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format(
            name="cityscapes",
            looks_for="gtFine/*/*/*_gtFine_labelIds.png",
            files=_city_files("_gtFine_labelIds.png", "_leftImg8bit"),
            classes=_shipped("road19"),
            mapping=_cityscapes_mapping,
        ),
        Format(
            name="cityscapes-trainids",
            looks_for="gtFine/*/*/*_gtFine_labelTrainIds.png",
            files=_city_files("_gtFine_labelTrainIds.png", "_leftImg8bit"),
            classes=_shipped("road19"),
            mapping=identity_mapping,
        ),
        Format(
            name="synthia",
            looks_for="GT/LABELS/*.png",
            files=_flat_files("RGB", "GT/LABELS"),
            classes=_shipped("road16"),
            mapping=_synthia_mapping,
        ),
        Format(
            name="camvid",
            looks_for="LabeledApproved_full/*_L.png",
            files=_camvid_files,
            classes=_shipped("camvid11"),
            mapping=identity_mapping,
            read=_read_camvid,
        ),
        Format(
            name="idd",
            looks_for="gtFine/*/*/*_label.png",
            files=_city_files("_label.png", "_image"),
            classes=_shipped("idd7"),
            mapping=identity_mapping,
        ),
        Format(
            name="folder",
            looks_for="labels/*/**/*.png",
            files=_folder_files,
            classes=_folder_classes,
            mapping=identity_mapping,
        ),
        Format(
            name="gta5",
            looks_for="labels/*.png",
            files=_flat_files("images", "labels"),
            classes=_shipped("road19"),
            mapping=_gta5_mapping,
        ),
    )
}


def find_format(root: Path, name: str | None = None) -> Format:
    """The format of that name, or the one whose files lie below `root`.

    Raises:
        ConfigError: no such name. DataError: no such folder, or nothing in it is recognised.
    """
    check_folder(root)
    if name is not None:
        if name not in FORMATS:
            raise ConfigError(f"no format {name!r}; {did_you_mean(name, FORMATS)}")
        return FORMATS[name]
    if (root / "classes.json").is_file():
        return FORMATS["folder"]
    for each in FORMATS.values():
        if next(root.glob(each.looks_for), None) is not None:
            return each
    told = "; ".join(f"{each.name}: {each.looks_for}" for each in FORMATS.values())
    raise DataError(f"{root}: no known layout (looked for {told}); give --format, or convert it to the folder layout")
