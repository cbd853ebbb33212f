"""The changes of camera that are measured: which images are the old camera's and the new one's, which a choice may
read, and which are the test's. All pairs stand in a table in docs/measurements.md.

CamVid's three drives: `0001TP` at dusk (124 frames, one a second), `0006R0` (101) and `0016E5` (204) by day. Its split
`val`, 101 frames of 6.7 seconds, serves nothing here. IDD-Lite names its files `<drive>_<frame>`; its `train` and `val`
share no drive.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import click

from clst_runtime.system.files.atomic import write_text


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One split of a labelled data set, brought to the pair's classes."""

    root: Path
    """Its folder."""
    split: str
    """Which split."""
    classes: str = ""
    """Class list that its labels are brought to; empty = its own."""
    mapping: str = ""
    """JSON that relates them; empty = by equal names."""

    def as_source(self) -> list[str]:
        """Options of clst-train that train on it."""
        more = ["--classes", self.classes] if self.classes else []
        more += ["--mapping", self.mapping] if self.mapping else []
        return ["--source", str(self.root), "--split", self.split, *more]

    def open(self, classes: Any = None) -> Any:
        """The data set in the runtime's terms."""
        from clst_runtime.classes.labels import load_class_list
        from clst_runtime.data.dataset import open_dataset

        wanted = classes or (load_class_list(self.classes) if self.classes else None)
        return open_dataset(
            self.root, split=self.split, classes=wanted, mapping_file=Path(self.mapping) if self.mapping else None
        )


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One change of camera."""

    name: str
    """Of the result file."""
    title: str
    """In tables."""
    size: str
    """Input size HxW of the network."""
    source: Labelled
    """The old camera."""
    oracle: Labelled
    """The new camera's images that are adapted to; their labels are for the oracles, and for the choice where it is the
    same split."""
    choice: Labelled
    """Labelled images of the new camera that choices may read: of a recipe, a checkpoint, an oracle."""
    test: Labelled
    """Whole drives of the new camera that nothing has read: the score."""
    stretch: int = 0
    """Frames, by their numbers, that count as one of the test's stretches; 0 = a whole drive."""
    headline: tuple[str, ...] = ()
    """Classes whose mean is the score; empty = all."""
    merged: tuple[tuple[str, ...], ...] = ()
    """Groups of classes that both cameras' labels separate in the same way, where single classes are not; a second
    score."""

    @property
    def target(self) -> Path:
        """The new camera's images, to be read without labels."""
        return self.oracle.root / "images" / self.oracle.split

    def classes(self) -> tuple[str, ...]:
        """Names of the pair's classes."""
        return tuple(self.source.open().classes.names)


DUSK, DAY = ("0001TP",), ("0006R0", "0016E5")
CAMVID_SPLITS = {
    "dusk": (DUSK, ("train", "test")),
    "dusk_first": (DUSK, ("train",)),
    "dusk_second": (DUSK, ("test",)),
    "day": (DAY, ("train",)),
    "day_target": (("0016E5",), ("train",)),
    "day_test": (("0006R0",), ("train",)),
    "all": ((*DUSK, *DAY), ("train", "test")),
}
"""CamVid by its drives: each split's drives, and the splits of the data set that they are taken from."""
CAMVID_STRETCH = 300
"""CamVid's cameras gave 30 frames a second: after ten seconds a car is in another part of the street."""
SOURCE_SHARE, CHOICE_FRAMES = 0.5, 120
"""Of IDD-Lite's `train`: what is the old camera's, and how many frames a choice may read."""
SYNTHETIC_FOR_CAMVID = {"train": 400}
"""Synthetic scenes of the old camera."""
LABELLED_ALIKE = ("road", "sidewalk", "building", "pole", "traffic sign", "vegetation", "sky", "person", "car")
CAMVID_AS_SYNTHETIC = {
    **{name: name for name in LABELLED_ALIKE if name != "person"},
    "pedestrian": "person",
    "fence": None,
    "bicyclist": None,
}
"""CamVid's classes as those of synthetic scenes; its bicyclists include the rider, synthetic bicycles have none."""
ALIKE = ("drivable", "living things", "vehicles", "far objects", "sky")
"""The groups that CamVid and IDD-Lite label alike; walls, kerbs and verges differ by definition."""
MERGED = (
    ("drivable", "non-drivable"),
    ("living things",),
    ("vehicles",),
    ("road-side objects", "far objects"),
    ("sky",),
)
"""What is left when the groups that differ are merged with their neighbours: CamVid's pavements are non-drivable, where
IDD-Lite calls most ground beside the lane drivable; its walls are road-side objects, CamVid's belong to buildings. No
unlabelled image shows such a rule, and it costs the five groups as well, whose pixels it moves."""


def drive_of(stem: str) -> str:
    """The drive that a frame of CamVid or IDD-Lite belongs to."""
    return stem.partition("_")[0]


def stretch_of(stem: str, frames: int) -> str:
    """The stretch of a drive that a frame belongs to: `frames` by its number, or all where that is 0."""
    number = stem.rpartition("_")[2].lstrip("f")
    return f"{drive_of(stem)}/{int(number) // frames}" if frames else drive_of(stem)


def link_drives(data: Path, out: Path, split: str, drives: Iterable[str], of: Iterable[str]) -> None:
    """Make the split `split` of `out`: links to the frames of some drives in the splits `of` of a data set."""
    wanted = set(drives)
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        folder = out / kind / split
        folder.mkdir(parents=True, exist_ok=True)
        for path in (path for part in of for path in (data / kind / part).glob(f"*.{suffix}")):
            if drive_of(path.stem) in wanted:
                with suppress(FileExistsError):  # linked before, or by another process just now
                    (folder / path.name).symlink_to(path.resolve())
    write_text(out / "classes.json", (data / "classes.json").read_text())


def shared_out(stems: Iterable[str]) -> dict[str, list[str]]:
    """IDD-Lite's drives as `source`, `choice` and `target`, in the order of the SHA-256 of their names.

    The first that hold half of the frames are the source's, the next 120 frames are for choices.
    """
    frames: dict[str, int] = {}
    for stem in stems:
        frames[drive_of(stem)] = frames.get(drive_of(stem), 0) + 1
    limits = {"source": SOURCE_SHARE * sum(frames.values()), "choice": CHOICE_FRAMES}
    found: dict[str, list[str]] = {"source": [], "choice": [], "target": []}
    for drive in sorted(frames, key=lambda name: sha256(name.encode()).hexdigest()):
        part = next((each for each in limits if sum(frames[name] for name in found[each]) < limits[each]), "target")
        found[part].append(drive)
    return found


def idd_by_drive(work: Path, data: Path) -> Path:
    """IDD-Lite as `source`, `target`, `choice` and `test`, which share no drive."""
    idd, out = data / "idd_lite", work / "idd_by_drive"
    stems = {part: [path.stem for path in (idd / "images" / part).glob("*.jpg")] for part in ("train", "val")}
    for split, drives in shared_out(stems["train"]).items():
        link_drives(idd, out, split, drives, ("train",))
    link_drives(idd, out, "test", {drive_of(stem) for stem in stems["val"]}, ("val",))
    return out


def camvid_by_drive(work: Path, data: Path) -> Path:
    """CamVid in the splits of `CAMVID_SPLITS`."""
    out = work / "camvid_by_drive"
    for split, (drives, of) in CAMVID_SPLITS.items():
        link_drives(data / "camvid", out, split, drives, of)
    return out


def re_imaged(old: Path, new: Path, severity: str) -> Path:
    """What another camera would have seen of the new camera's part of IDD-Lite; made once.

    Raises:
        UsageError: it was made when the camera of this name was another one.
    """
    from clst_train.data.reimaged import reimage_folder
    from clst_train.synthetic.camera_model import find_camera

    wanted = find_camera(severity)
    if not new.is_dir():
        reimage_folder(old, new, wanted, splits=("target", "choice", "test"))
    if find_camera(new / "camera.toml") != wanted:
        raise click.UsageError(f"{new} was made when the camera {severity} was another; give another --work")
    return new


def camera(severity: str, work: Path, data: Path) -> Pair:
    """The same kind of drives through another camera, or through the same one as the null test."""
    old = idd_by_drive(work, data)
    new = old if severity == "none" else re_imaged(old, work / f"idd_camera_{severity}", severity)
    change = "null test: the same camera" if severity == "none" else f"another camera, {severity}"
    return Pair(
        name=f"camera_{severity}", title=f"{change}, IDD-Lite, 7 classes", size="224x320",
        source=Labelled(root=old, split="source"), oracle=Labelled(root=new, split="target"),
        choice=Labelled(root=new, split="choice"), test=Labelled(root=new, split="test"),
    )  # fmt: skip


def light(source: str, target: str, test: str, title: str, work: Path, data: Path) -> Pair:
    """CamVid in another light."""
    root = camvid_by_drive(work, data)
    seen = Labelled(root=root, split=target)
    return Pair(
        name=f"light_{title.replace(' ', '_')}", title=f"CamVid, {title}, 11 classes", size="240x320",
        stretch=CAMVID_STRETCH, source=Labelled(root=root, split=source), oracle=seen, choice=seen,
        test=Labelled(root=root, split=test),
    )  # fmt: skip


def synthetic_to_camvid(work: Path, data: Path) -> Pair:
    """Synthetic scenes → Cambridge: a crude simulator in the place of the old camera."""
    from clst_train.synthetic.camera_looks import find_look
    from clst_train.synthetic.scenes import write_scenes

    camvid, scenes, relation = camvid_by_drive(work, data), work / "drawn_scenes", work / "camvid_to_drawn.json"
    if not (scenes / "classes.json").exists():
        write_scenes(scenes, look=find_look("old"), counts=SYNTHETIC_FOR_CAMVID, size_hw=(240, 320), seed=1)
    write_text(relation, json.dumps({"map": CAMVID_AS_SYNTHETIC}))
    seen, test = (
        Labelled(root=camvid, split=split, classes="scenes10", mapping=str(relation))
        for split in ("day_target", "day_test")
    )
    return Pair(
        name="synthetic_to_camvid", title="synthetic scenes → CamVid, 9 classes", size="240x320",
        headline=LABELLED_ALIKE, stretch=CAMVID_STRETCH, source=Labelled(root=scenes, split="train"), oracle=seen,
        choice=seen, test=test,
    )  # fmt: skip


def country(way: str, work: Path, data: Path) -> Pair:
    """India → Cambridge (`idd-to-camvid`) or the other way: another camera, other streets, other labelling rules."""
    camvid = camvid_by_drive(work, data)
    idd = {split: Labelled(root=data / "idd_lite", split=split) for split in ("train", "val")}
    drives = {
        split: Labelled(root=camvid, split=split, classes=str(data / "idd_lite" / "classes.json"),
                        mapping=str(data / "camvid_to_idd7.json")) for split in ("day_target", "day_test", "all")
    }  # fmt: skip
    there = way == "idd-to-camvid"
    seen = drives["day_target"] if there else idd["train"]
    return Pair(
        name=f"country_{way.replace('-', '_')}",
        title=f"{'IDD-Lite → CamVid' if there else 'CamVid → IDD-Lite'}, 5 of 7 groups", size="240x320",
        headline=ALIKE, merged=MERGED, stretch=CAMVID_STRETCH if there else 0,
        source=idd["train"] if there else drives["all"], oracle=seen, choice=seen,
        test=drives["day_test"] if there else idd["val"],
    )  # fmt: skip


PAIRS: dict[str, Callable[[Path, Path], Pair]] = {
    **{f"camera-{severity}": partial(camera, severity) for severity in ("mild", "middle", "severe", "none")},
    "light-dusk-to-day": partial(light, "dusk", "day_target", "day_test", "dusk to day"),
    "light-day-to-dusk": partial(light, "day", "dusk_first", "dusk_second", "day to dusk"),
    **{f"country-{way}": partial(country, way) for way in ("idd-to-camvid", "camvid-to-idd")},
    "synthetic-to-camvid": synthetic_to_camvid,
}
