import json
import shutil

import numpy as np

from clst_runtime.imaging.image_files import read_label, write_png
from clst_runtime.imaging.media import files_below
from clst_train.cli.data import main as clst_data
from tests.conftest import write_labelled
from tests.support.command_line import call


def test_a_good_data_set_passes_and_gets_a_contact_sheet(tmp_path):
    data, sheet = write_labelled(tmp_path / "d"), tmp_path / "sheet.png"
    done = call(clst_data, "check", data, "--split", "val", "--sheet", sheet, "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["images"] == 3
    # 8x16 pixels: 64 red of which one is ignored, 64 blue
    assert values["shares"] == {"red": 63 / 128, "green": 0.0, "blue": 0.5}
    assert values["remarks"] == ["classes without a single pixel: green"]
    assert sheet.stat().st_size > 0


def test_what_is_wrong_is_said_in_words_with_counts(tmp_path):
    data = write_labelled(tmp_path / "d", count=4)
    labels = read_label(data / "labels/val/0.png").astype(np.uint8)
    labels[0, 1:4] = 77
    write_png(data / "labels/val/0.png", labels)
    write_png(data / "labels/val/1.png", np.zeros((2, 2), np.uint8))
    (data / "labels/val/2.png").unlink()
    (data / "images/val/3.png").write_bytes(b"no picture")
    done = call(clst_data, "check", data, "--split", "val", "--sheet", tmp_path / "s.png")
    assert done.exit_code == 3
    assert "label ids outside the map: 77 (3 pixels)" in done.stdout
    assert "image and label must have the same size" in done.stdout
    assert "2.png: No such file" in done.stdout
    assert "3.png: not a readable image" in done.stdout
    assert "4 things to mend" in done.stderr


def test_scenes_are_written_and_can_be_checked(tmp_path):
    out = tmp_path / "s"
    done = call(clst_data, "scenes", out, "--look", "new", "--count", 2, "--val-count", 1, "--size", "48x64")
    assert done.exit_code == 0, done.stderr
    assert call(clst_data, "check", out, "--sheet", tmp_path / "x.png").exit_code == 0
    assert call(clst_data, "scenes", out).exit_code == 3
    assert call(clst_data, "scenes", tmp_path / "t", "--look", "newest").exit_code == 3
    assert call(clst_data, "scenes", tmp_path / "t", "--size", "48").exit_code == 3


def test_every_image_of_a_converted_data_set_has_a_file_of_its_own(tmp_path):
    data = write_labelled(tmp_path / "d", count=1)
    for kind in ("images", "labels"):
        for name in ("a/b", "a__b", "A/B"):
            (data / kind / "val" / name).parent.mkdir(exist_ok=True)
            shutil.copy(data / kind / "val/0.png", data / kind / "val" / f"{name}.png")
    assert call(clst_data, "convert", data, tmp_path / "out", "--split", "val").exit_code == 0
    for kind in ("images", "labels"):
        found = [
            str(path.relative_to(tmp_path / "out" / kind / "val")) for path in files_below(tmp_path / "out" / kind)
        ]
        assert found == ["0.png", "A/B.png", "a/b~2.png", "a__b.png"]


def test_a_converted_data_set_has_the_same_labels(tmp_path):
    write_png(tmp_path / "city/leftImg8bit/val/ulm/a_leftImg8bit.png", np.zeros((1, 2, 3), np.uint8))
    write_png(tmp_path / "city/gtFine/val/ulm/a_gtFine_labelIds.png", np.array([[7, 26]], np.uint8))
    done = call(clst_data, "convert", tmp_path / "city", tmp_path / "out", "--split", "val")
    assert done.exit_code == 0, done.stderr
    files = list((tmp_path / "out/labels/val").iterdir())
    assert len(files) == 1
    assert read_label(files[0]).tolist() == [[0, 13]]
    assert json.loads((tmp_path / "out/classes.json").read_text())["names"][13] == "car"
