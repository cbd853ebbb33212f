"""The picture of both networks' classes over images of the new camera."""

from types import SimpleNamespace

import numpy as np
import pytest

from clst_runtime.backends.base import Prediction
from clst_runtime.data.dataset import open_dataset
from clst_runtime.imaging.image_files import read_image, write_png
from clst_runtime.imaging.overlay import beside_legend
from clst_train.data.target import open_target
from clst_train.engine.run_folder import RunFolder
from clst_train.inspection import examples
from tests.conftest import RGB_CLASSES, SIZE_HW, rgb_manifest, write_labelled

LEGEND = beside_legend(np.zeros((1, 1, 3), np.uint8), RGB_CLASSES).shape[1] - 1


class Network:
    """Says red everywhere, or the strongest channel."""

    manifest = rgb_manifest()

    def __init__(self, *, right):
        self.right = right

    def predict(self, frame):
        found = frame.argmax(2).astype(np.uint8)
        return Prediction(classes=found if self.right else np.zeros_like(found))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Where source.pt says red everywhere, and adapted.pt is right."""
    monkeypatch.setattr(examples, "open_checkpoint", lambda path, **_: Network(right=path.stem == "adapted"))
    data, rng = write_labelled(tmp_path / "d", count=2), np.random.default_rng(0)
    for name in "ab":
        write_png(tmp_path / "new" / f"{name}.png", rng.integers(0, 256, (*SIZE_HW, 3), np.uint8))
    return SimpleNamespace(
        folder=RunFolder(tmp_path / "run"),
        validation=open_dataset(data, split="val"),
        target=open_target([str(tmp_path / "new")], input_hw=SIZE_HW),
        classes=RGB_CLASSES,
        device=None,
    )


def drawn(run):
    examples.draw_examples(run)
    return read_image(run.folder.examples / "before_after.png")


def panel(picture, row, column, *, right):
    """The middle of the left or right half of an image of 320x640, 4 pixels after each and 22 over all."""
    return picture[22 + row * 324 + 160, column * 644 + (480 if right else 160)].tolist()


def test_with_labels_they_stand_beside_both_networks_with_the_miou_of_each_image(run, monkeypatch):
    written = []
    monkeypatch.setattr(examples, "write_text", lambda image, text, place: written.append(text))
    picture = drawn(run)
    assert picture.shape == (22 + 2 * 324, 4 * 644 + LEGEND, 3)
    # Of 128 pixels 64 are blue, 63 red, and one has no label: red is right in 63 of 127, and blue in none of 64
    assert written == ["mIoU 24.8", "mIoU 100.0"] * 2
    blue = [panel(picture, 1, column, right=True) for column in range(4)]
    assert blue == [[0, 0, 200], [0, 0, 233], [153, 0, 80], [0, 0, 233]]  # 0.6 of the class's colour
    assert panel(picture, 1, 2, right=False) == [233, 0, 0]


def test_without_labels_target_images_stand_beside_both_networks(run):
    run.validation = None
    assert drawn(run).shape == (22 + 2 * 324, 3 * 644 + LEGEND, 3)


def test_it_is_drawn_smaller_until_the_file_is_small_enough(run, monkeypatch):
    monkeypatch.setattr(examples, "LARGEST_BYTES", 200_000)
    rng = np.random.default_rng(0)
    for file in run.validation.files:
        write_png(file.image, rng.integers(0, 256, (160, 320, 3), np.uint8))
        write_png(file.label, np.zeros((160, 320), np.uint8))
    columns = drawn(run).shape[1]
    assert (run.folder.examples / "before_after.png").stat().st_size <= 200_000
    assert columns < 4 * 644
