"""Where each data set keeps its images and labels, and what its label ids mean. Plain tables, no guessing.

A label file's raw ids become ids of the format's class list; `dataset` then relates that list to the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clst_runtime.classes.labels import (
    IGNORE_ID,
    ClassList,
    LabelMapping,
    identity_mapping,
    load_class_list,
)
from clst_runtime.errors import ConfigError, DataError, did_you_mean
from clst_runtime.imaging.image_files import png_layout, read_image, read_label
from clst_runtime.imaging.media import files_below, images_below, without_suffix
from clst_runtime.system.files.json_values import read_json_object, read_text
from clst_runtime.system.files.paths import check_folder


@dataclass(frozen=True, kw_only=True)
class Files:
    """One image and where its label must lie."""

    image: Path
    label: Path
    """The label file; it may be missing, which `dataset` reports."""


def _read_ids(root: Path, path: Path, mapping: LabelMapping) -> npt.NDArray[np.int32]:
    return read_label(path, np.flatnonzero(mapping.table >= 0).tolist())


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to lay out a data set."""

    name: str
    """Name on the command line."""
    looks_for: str
    """What it is recognised by, as text and as a glob below the root."""
    files: Callable[[Path, str], list[Files]]
    """Images and labels of a split."""
    classes: Callable[[Path], ClassList]
    splits: Callable[[Path], list[str]]
    mapping: Callable[[ClassList], LabelMapping] = identity_mapping
    """Raw ids to that list's ids."""
    read: Callable[[Path, Path, LabelMapping], npt.NDArray[np.int32]] = _read_ids
    """Raw ids H,W of a data set's label file; those that the mapping knows decide which of two readings a file has."""


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
PARTS = ("train", "val")
"""Splits of a layout that has none of its own."""
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


def _cityscapes_mapping(last_id: int) -> Callable[[ClassList], LabelMapping]:
    return lambda classes: _table(last_id + 1, {raw: index for index, raw in enumerate(CITYSCAPES_IDS)})


def _synthia_mapping(classes: ClassList) -> LabelMapping:
    return _table(SYNTHIA_LAST_ID + 1, {raw: classes.names.index(name) for raw, name in SYNTHIA_IDS.items()})


class _Labels:
    """The label files below a folder by their path without suffix, which may be missing or in capitals."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[str, list[Path]] = {}
        for path in files_below(folder) if folder.is_dir() else ():
            self._found.setdefault(without_suffix(path.relative_to(folder)).as_posix(), []).append(path)

    def of(self, *names: str) -> Path:
        """The label of the first name that has one, else where it ought to be.

        Raises:
            DataError: it has several.
        """
        for name in names:
            found = self._found.get(name, [])
            found = [path for path in found if path.suffix.lower() == ".png"] or found
            if len(found) > 1:
                raise DataError(f"{found[0]} and {found[1].name} are labels of one image; take one out")
            if found:
                return found[0]
        return self.folder / f"{names[-1]}.png"


def _city_files(suffix: str, image_suffix: str) -> Callable[[Path, str], list[Files]]:
    def files(root: Path, split: str) -> list[Files]:
        base, labels, found = root / "leftImg8bit" / split, _Labels(root / "gtFine" / split), []
        for image in images_below(base):
            name = without_suffix(image.relative_to(base)).as_posix()
            if name.endswith(image_suffix):
                found.append(Files(image=image, label=labels.of(name.removesuffix(image_suffix) + suffix)))
        return found

    return files


def _flat_files(images: str, labels: str) -> Callable[[Path, str], list[Files]]:
    """Layouts without splits; the split `val` is every tenth image, `train` the others, `all` all of them."""

    def files(root: Path, split: str) -> list[Files]:
        base, beside = root / images, _Labels(root / labels)
        names = [(image, without_suffix(image.relative_to(base))) for image in images_below(base)]
        return _part([Files(image=image, label=beside.of(str(name), name.name)) for image, name in names], split)

    return files


def _part(files: list[Files], split: str) -> list[Files]:
    parts = {"all": files, "val": files[9::10], "train": [pair for i, pair in enumerate(files) if i % 10 != 9]}
    return parts.get(split, [])


def _folder_files(root: Path, split: str) -> list[Files]:
    base, labels = root / "images" / split, _Labels(root / "labels" / split)
    return [
        Files(image=image, label=labels.of(without_suffix(image.relative_to(base)).as_posix()))
        for image in images_below(base)
    ]


def _camvid_files(root: Path, split: str) -> list[Files]:
    labels = _Labels(root / "LabeledApproved_full")
    names = [(image, without_suffix(image).name) for image in images_below(root / "701_StillsRaw_full")]
    found = [Files(image=image, label=labels.of(f"{name}_L")) for image, name in names]
    listing = root / f"{split}.txt"
    if not listing.is_file():
        return found if split == "all" else [] if _camvid_lists(root) else _part(found, split)
    wanted = {without_suffix(Path(line)).name for line in read_text(listing).split()}
    if lacking := sorted(wanted - {name for _, name in names}):
        raise DataError(f"{listing} names {len(lacking)} images that are not there, e.g. {lacking[0]}; mend the list")
    return [pair for pair, (_, name) in zip(found, names, strict=True) if name in wanted]


def _camvid_lists(root: Path) -> list[str]:
    return sorted(path.stem for path in root.glob("*.txt") if path.stem in ("train", "val", "test", "trainval"))


def _folders(images: str) -> Callable[[Path], list[str]]:
    def splits(root: Path) -> list[str]:
        inside = (root / images).iterdir() if (root / images).is_dir() else ()
        return sorted(path.name for path in inside if path.is_dir() and not path.name.startswith("."))

    return splits


def _read_camvid(root: Path, path: Path, mapping: LabelMapping) -> npt.NDArray[np.int32]:
    """CamVid's colours as camvid11 ids; a colour that CamVid does not have becomes 254, which the map refuses."""
    image = read_image(path).astype(np.int32)
    keys = image[..., 0] << 16 | image[..., 1] << 8 | image[..., 2]
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


def _read_ids_or_colours(root: Path, path: Path, mapping: LabelMapping) -> npt.NDArray[np.int32]:
    """Of a colour PNG, as labelling tools export, the classes of these colours; black is ignored unless it is one's."""
    if png_layout(path) != (8, 2):
        return _read_ids(root, path, mapping)
    colours = _folder_classes(root).colours
    if len(set(colours)) < len(colours):
        raise DataError(f"{path}: colours, of which {root / 'classes.json'} gives one to two classes; give class ids")
    image = read_image(path).astype(np.int32)
    keys = image[..., 0] << 16 | image[..., 1] << 8 | image[..., 2]
    ids = np.where(keys == 0, IGNORE_ID, -1)
    for index, (red, green, blue) in enumerate(colours):
        ids[keys == (red << 16 | green << 8 | blue)] = index
    if (ids < 0).any():
        row, column = np.argwhere(ids < 0)[0]
        raise DataError(
            f"{path}: {int((ids < 0).sum())} pixels have a colour that is no class's in {root / 'classes.json'}, "
            f"the first {tuple(image[row, column].tolist())}; give its colours, or class ids"
        )
    return ids.astype(np.int32)


FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format(
            name="cityscapes",
            looks_for="gtFine/*/*/*_gtFine_labelIds.png",
            files=_city_files("_gtFine_labelIds", "_leftImg8bit"),
            splits=_folders("leftImg8bit"),
            classes=_shipped("road19"),
            mapping=_cityscapes_mapping(CITYSCAPES_LAST_ID),
        ),
        Format(
            name="cityscapes-trainids",
            looks_for="gtFine/*/*/*_gtFine_labelTrainIds.png",
            files=_city_files("_gtFine_labelTrainIds", "_leftImg8bit"),
            splits=_folders("leftImg8bit"),
            classes=_shipped("road19"),
        ),
        Format(
            name="synthia",
            looks_for="GT/LABELS/*.png",
            files=_flat_files("RGB", "GT/LABELS"),
            splits=lambda root: [*PARTS, "all"],
            classes=_shipped("road16"),
            mapping=_synthia_mapping,
        ),
        Format(
            name="camvid",
            looks_for="LabeledApproved_full/*_L.png",
            files=_camvid_files,
            splits=lambda root: [*(_camvid_lists(root) or PARTS), "all"],
            classes=_shipped("camvid11"),
            read=_read_camvid,
        ),
        Format(
            name="idd",
            looks_for="gtFine/*/*/*_label.png",
            files=_city_files("_label", "_image"),
            splits=_folders("leftImg8bit"),
            classes=_shipped("idd7"),
        ),
        Format(
            name="folder",
            looks_for="labels/*/**/*.png",
            files=_folder_files,
            splits=_folders("images"),
            classes=_folder_classes,
            read=_read_ids_or_colours,
        ),
        Format(
            name="gta5",
            looks_for="labels/*.png",
            files=_flat_files("images", "labels"),
            splits=lambda root: [*PARTS, "all"],
            classes=_shipped("road19"),
            mapping=_cityscapes_mapping(GTA5_LAST_ID),
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
        if next(root.glob(each.looks_for.replace(".png", ".[pP][nN][gG]")), None) is not None:
            return each
    text = "; ".join(f"{each.name}: {each.looks_for}" for each in FORMATS.values())
    raise DataError(f"{root}: no known layout (looked for {text}); convert it to the folder layout")


def files_of_split(form: Format, root: Path, split: str) -> list[Files]:
    """Images and labels of a split, sorted; a label may be missing.

    Raises:
        DataError: there are no images; the message lists the splits that exist.
    """
    inside = Path(split)  # a folder below that of the images, and not that one itself, whose splits it would mix
    named = bool(inside.parts) and not inside.is_absolute() and ".." not in inside.parts
    files = form.files(root, split) if named else []
    if files:
        return files
    there = [name for name in form.splits(root) if name != split and form.files(root, name)]
    text = f"its splits are {', '.join(there)}" if there else "nor in any other"
    raise DataError(f"{root}: no images in split {split!r} of the {form.name} layout; {text}")


def shared_labels(files: Sequence[Files]) -> list[str]:
    """The message where two images have one label."""
    first: dict[Path, Path] = {}
    return [
        f"{first[pair.label]} and {pair.image} share the label {pair.label}; rename one with its label, or take it out"
        for pair in files
        if first.setdefault(pair.label, pair.image) is not pair.image
    ]
