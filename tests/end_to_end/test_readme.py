"""The README's own commands, run from its text in a folder with a tiny old camera and a video of a new one."""

import pytest

from clst_runtime.imaging.image_files import read_label
from tests import ROOT
from tests.support.command_line import call
from tests.support.documents import blocks, command_lines, entry_point
from tests.support.miniature import drawn_cameras
from tests.support.videos import film_new_camera

README = (ROOT / "README.md").read_text()
QUICK = (
    *("--size", "64x96", "--set", "augmentation.crop_hw=[64,64]", "--set", "run.threads=1"),
    *("--set", "source.iterations=4", "--set", "source.batch=2"),
    *("--set", "adaptation.iterations=4", "--set", "adaptation.batch=2"),
)
FRAMES = 8

pytestmark = pytest.mark.usefixtures("narrow")


def own_camera():
    """The commands of the block that adapts to a reader's own camera."""
    (block,) = [each for each in blocks(README) if "clst-train" in each]
    return list(command_lines(block))


def test_the_commands_for_ones_own_camera_end_in_masks(tmp_path, monkeypatch):
    drawn_cameras(tmp_path, train=8, val=2)
    (tmp_path / "old").rename(tmp_path / "old_camera")
    film_new_camera(tmp_path / "new_camera.mp4", frames=FRAMES)
    monkeypatch.chdir(tmp_path)
    words = own_camera()
    assert [each[0] for each in words[:4]] == ["python3", ".", "pip", "pip"]
    commands = words[4:]
    assert [words[0] for words in commands] == ["clst-data", "clst-train", "clst-export", "clst-run", "clst-report"]
    for words in commands:
        done = call(entry_point(words[0]), *words[1:], *(QUICK if words[0] == "clst-train" else ()))
        assert done.exit_code == 0, done.output
    masks = sorted((tmp_path / "driven" / "masks").rglob("*.png"))
    assert len(masks) == FRAMES
    assert read_label(masks[0]).shape == (64, 96)
