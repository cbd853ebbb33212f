"""The camera changes that are measured: which images are the old camera's, the new one's, and the test's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click


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

    def as_validation(self) -> list[str]:
        """Options of clst-train that report on it."""
        more = ["--val-mapping", self.mapping] if self.mapping else []
        return ["--val", str(self.root), "--val-split", self.split, *more]

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
    """One camera change."""

    name: str
    """Of the result file."""
    title: str
    """In tables."""
    size: str
    """Input size HxW of the network."""
    source: Labelled
    """The old camera."""
    own_validation: Labelled | None
    """Held-out images of the old camera: shows when source training stops improving."""
    target: tuple[str, ...]
    """Unlabelled images of the new camera."""
    oracle: Labelled
    """Their labels, for the oracle alone."""
    test: Labelled
    """Other labelled images of the new camera: the score."""
    headline: tuple[str, ...] = ()
    """Classes whose mean is the score; empty = all."""
    merged: tuple[tuple[str, ...], ...] = ()
    """Groups of classes that both cameras' labels separate in the same way, where single classes are not; a second
    score."""

    def classes(self) -> tuple[str, ...]:
        """Names of the pair's classes."""
        return tuple(self.source.open().classes.names)

    def class_count(self) -> int:
        """How many there are."""
        return len(self.classes())


SYNTHETIC_FOR_CAMVID = {"train": 400, "val": 50}
"""Synthetic scenes of the old camera."""
LABELLED_ALIKE = ("road", "sidewalk", "building", "pole", "traffic sign", "vegetation", "sky", "person", "car")
CAMVID_AS_SYNTHETIC = {
    **{name: name for name in LABELLED_ALIKE if name != "person"},
    "pedestrian": "person",
    "fence": None,
    "bicyclist": None,
}
"""CamVid's classes as those of synthetic scenes; its bicyclists include the rider, synthetic bicycles have none."""
DAY, DUSK = ("0006R0", "0016E5"), ("0001TP",)
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


def drives_of(data: Path, out: Path, drives: tuple[str, ...], splits: tuple[str, ...]) -> Path:
    """Links below `out` to the frames of some of CamVid's drives."""
    for split in splits:
        for kind, suffix in (("images", "jpg"), ("labels", "png")):
            folder = out / kind / split
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted((data / kind / split).glob(f"*.{suffix}")):
                link = folder / path.name
                if path.stem.startswith(drives) and not link.exists():
                    link.symlink_to(path.resolve())
    (out / "classes.json").write_text((data / "classes.json").read_text())
    return out


def synthetic(work: Path, data: Path | None) -> Pair:
    """Synthetic scenes with two looks, as clst-demo makes them; needs no data."""
    from clst_train.synthetic.camera_looks import LOOKS
    from clst_train.synthetic.scenes import write_scenes

    for seed, look in enumerate(LOOKS.values()):
        folder = work / "drawn_scenes" / look.name
        if not (folder / "classes.json").exists():
            write_scenes(folder, look=look, counts={"train": 200, "val": 50}, size_hw=(160, 320), seed=seed)
    old, new = work / "drawn_scenes" / "old", work / "drawn_scenes" / "new"
    return Pair(
        name="drawn", title="synthetic scenes, old → new camera, 10 classes", size="160x320",
        source=Labelled(root=old, split="train"), own_validation=Labelled(root=old, split="val"),
        target=(str(new / "images" / "train"),), oracle=Labelled(root=new, split="train"),
        test=Labelled(root=new, split="val"),
    )  # fmt: skip


def synthetic_to_camvid(work: Path, data: Path | None) -> Pair:
    """Synthetic scenes → Cambridge: a crude simulator in the place of the old camera."""
    from clst_train.synthetic.camera_looks import OLD
    from clst_train.synthetic.scenes import write_scenes

    camvid, scenes, relation = _needed(data) / "camvid", work / "drawn_for_camvid", work / "camvid_to_drawn.json"
    if not (scenes / "classes.json").exists():
        write_scenes(scenes, look=OLD, counts=SYNTHETIC_FOR_CAMVID, size_hw=(240, 320), seed=1)
    relation.write_text(json.dumps({"map": CAMVID_AS_SYNTHETIC}))
    related = {"classes": "scenes10", "mapping": str(relation)}
    return Pair(
        name="drawn_to_camvid", title="synthetic scenes → CamVid, 9 classes", size="240x320", headline=LABELLED_ALIKE,
        source=Labelled(root=scenes, split="train"), own_validation=Labelled(root=scenes, split="val"),
        target=(str(camvid / "images" / "train"),), oracle=Labelled(root=camvid, split="train", **related),
        test=Labelled(root=camvid, split="val", **related),
    )  # fmt: skip


def camvid_dusk(work: Path, data: Path | None) -> Pair:
    """CamVid by day → at dusk; the score is that of the other half of the drive at dusk."""
    camvid = _needed(data) / "camvid"
    day = drives_of(camvid, work / "camvid_day", DAY, ("train", "val"))
    dusk = drives_of(camvid, work / "camvid_at_dusk", DUSK, ("train", "test"))
    return Pair(
        name="camvid_dusk", title="CamVid by day → at dusk, 11 classes", size="240x320",
        source=Labelled(root=day, split="train"), own_validation=Labelled(root=day, split="val"),
        target=(str(dusk / "images" / "train"),), oracle=Labelled(root=dusk, split="train"),
        test=Labelled(root=dusk, split="test"),
    )  # fmt: skip


def camvid_dusk_to_day(work: Path, data: Path | None) -> Pair:
    """The other way: 62 labelled frames at dusk → by day, two other drives."""
    pair = camvid_dusk(work, data)
    return Pair(
        name="camvid_dusk_to_day", title="CamVid at dusk → by day, 11 classes", size=pair.size,
        source=pair.oracle, own_validation=pair.test, target=(str(pair.source.root / "images" / "train"),),
        oracle=pair.source, test=Labelled(root=pair.source.root, split="val"),
    )  # fmt: skip


def same_camera(work: Path, data: Path | None) -> Pair:
    """The null test: the unlabelled images are the old camera's own; adaptation should gain about nothing."""
    pair = camvid_dusk(work, data)
    images = str(pair.source.root / "images" / "train")
    return Pair(
        name="camvid_same", title="null test: CamVid by day → by day", size=pair.size, source=pair.source,
        own_validation=pair.own_validation, target=(images,), oracle=pair.source,
        test=Labelled(root=pair.source.root, split="val"),
    )  # fmt: skip


def idd_to_camvid(work: Path, data: Path | None) -> Pair:
    """India → Cambridge, another camera."""
    folder = _needed(data)
    idd, camvid = folder / "idd_lite", folder / "camvid"
    related = {"classes": str(idd / "classes.json"), "mapping": str(folder / "camvid_to_idd7.json")}
    return Pair(
        name="idd_to_camvid", title="IDD-Lite → CamVid, 5 of 7 groups", size="240x320", headline=ALIKE, merged=MERGED,
        source=Labelled(root=idd, split="train"), own_validation=Labelled(root=idd, split="val"),
        target=(str(camvid / "images" / "train"),), oracle=Labelled(root=camvid, split="train", **related),
        test=Labelled(root=camvid, split="val", **related),
    )  # fmt: skip


def camvid_to_idd(work: Path, data: Path | None) -> Pair:
    """Cambridge → India, another camera."""
    there = idd_to_camvid(work, data)
    return Pair(
        name="camvid_to_idd", title="CamVid → IDD-Lite, 5 of 7 groups", size="240x320", headline=ALIKE, merged=MERGED,
        source=there.oracle, own_validation=there.test, target=(str(there.source.root / "images" / "train"),),
        oracle=there.source, test=Labelled(root=there.source.root, split="val"),
    )  # fmt: skip


def _needed(data: Path | None) -> Path:
    if data is None:
        raise click.UsageError("this pair needs --data, the folder that holds camvid/ and idd_lite/")
    return data


PAIRS: dict[str, Callable[[Path, Path | None], Pair]] = {
    "drawn": synthetic,
    "drawn-to-camvid": synthetic_to_camvid,
    "camvid-dusk": camvid_dusk,
    "camvid-dusk-to-day": camvid_dusk_to_day,
    "camvid-same": same_camera,
    "idd-to-camvid": idd_to_camvid,
    "camvid-to-idd": camvid_to_idd,
}
