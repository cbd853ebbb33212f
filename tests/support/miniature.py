"""The literature's data sets in miniature: synthetic scenes in the very folders, names and encodings of the originals.

GTA5             images/00001.png            labels/00001.png (paletted, the index is the label id)
SYNTHIA          RGB/0000000.png             GT/LABELS/0000000.png (16 bits, three channels: class, instance, 0)
Cityscapes       leftImg8bit/<split>/<city>/<city>_000000_000019_leftImg8bit.png
                 gtFine/<split>/<city>/<city>_000000_000019_gtFine_{labelIds,instanceIds,color}.png
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from clst_runtime.classes.labels import load_class_list
from clst_runtime.imaging.image_files import write_png
from clst_train.synthetic.camera_looks import LOOKS, find_look
from clst_train.synthetic.scenes import draw_scene, write_scenes

SIZE_HW = (64, 128)
# What each drawn class is called in the other data sets, in the order of the class list `scenes10`:
# road, sidewalk, building, pole, traffic sign, vegetation, sky, person, car, bicycle.
CITYSCAPES_IDS = np.array([7, 8, 11, 17, 20, 21, 23, 24, 26, 33], np.uint8)
SYNTHIA_IDS = np.array([3, 4, 2, 7, 9, 6, 1, 10, 8, 11], np.uint16)


def drawn_cameras(folder: Path, **counts: int) -> Path:
    """Drawn scenes of 64×96 as the `old` and the `new` camera see them, `counts` by split; returns the folder."""
    for seed, look in enumerate(map(find_look, LOOKS)):
        write_scenes(folder / look.name, look=look, counts=counts, size_hw=(64, 96), seed=seed)
    return folder


def write_gta5(root: Path, *, count: int = 4) -> Path:
    """Images and paletted labels; the first row of the first label is a licence plate (34), the next is void (0)."""
    palette = np.zeros((256, 3), np.uint8)
    palette[CITYSCAPES_IDS] = load_class_list("scenes10").colours
    (root / "labels").mkdir(parents=True)
    for index in range(count):
        image, labels = _scene("old", index)
        ids = CITYSCAPES_IDS[labels]
        if index == 0:
            ids[0], ids[1] = 34, 0
        write_png(root / "images" / f"{index + 1:05d}.png", image)
        label = Image.fromarray(ids)
        label.putpalette(palette.ravel().tolist())  # makes it a paletted picture
        label.save(root / "labels" / f"{index + 1:05d}.png")
    return root


def write_synthia(root: Path, *, count: int = 4) -> Path:
    """Images and labels of 16 bits: class in the first channel, instance in the second."""
    (root / "GT" / "LABELS").mkdir(parents=True)
    for index in range(count):
        image, labels = _scene("old", index)
        write_png(root / "RGB" / f"{index:07d}.png", image)
        bgr = np.zeros((*labels.shape, 3), np.uint16)
        bgr[..., 2], bgr[..., 1] = SYNTHIA_IDS[labels], 1000 + index
        cv2.imwrite(str(root / "GT" / "LABELS" / f"{index:07d}.png"), bgr)
    return root


def write_cityscapes(root: Path, *, counts: dict[str, int] | None = None) -> Path:
    """All splits in two cities each, with everything that the original keeps beside the images."""
    for place, (split, count) in enumerate((counts or {"train": 3, "val": 2, "test": 1}).items()):
        for index in range(count):
            city = f"{split}{'ab'[index % 2]}"
            name = f"{city}_{index:06d}_000019"
            image, labels = _scene("new", 100 * (place + 1) + index)
            write_png(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image)
            truth = root / "gtFine" / split / city / name
            ids = CITYSCAPES_IDS[labels]
            ids[-4:] = 1  # the ego vehicle
            write_png(truth.with_name(f"{name}_gtFine_labelIds.png"), ids)
            write_png(truth.with_name(f"{name}_gtFine_color.png"), np.repeat(ids[..., None], 3, axis=2))
            Image.fromarray(ids.astype(np.uint16) * 1000).save(truth.with_name(f"{name}_gtFine_instanceIds.png"))
            truth.with_name(f"{name}_gtFine_polygons.json").write_text("{}")
    return root


def _scene(look: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return draw_scene(np.random.default_rng(seed), find_look(look), SIZE_HW)
