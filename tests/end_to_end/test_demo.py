import json
import re

from clst_export import demo
from clst_export.cli.demo import main as clst_demo
from clst_export.demo import watch_cameras
from clst_runtime.live.sinks.video_files import video_suffix
from clst_train.recipes.recipe import read_recipe
from tests.conftest import write_labelled
from tests.support.command_line import call


def test_the_demo_goes_through_the_whole_loop(narrow, monkeypatch, tmp_path):
    """In small images; its own are of the size of its recipe."""
    assert list(demo.SIZE_HW) == read_recipe("demo")["model"]["input_hw"]
    monkeypatch.setattr(demo, "SIZE_HW", (64, 96))
    monkeypatch.setattr(demo, "DRIVE_FRAMES", 12)
    out = tmp_path / "demo"
    quick = ("source.iterations=3", "adaptation.iterations=3", "source.batch=2", "adaptation.batch=2")
    quick += ("model.input_hw=[64,96]", "augmentation.crop_hw=[64,64]")
    settings = [part for setting in quick for part in ("--set", setting)]
    done = call(clst_demo, "--out", out, "--scenes", 32, *settings)
    assert done.exit_code == 0, done.stderr
    drive = f"drive{video_suffix()}"
    for name in ("before_after.png", drive, "model.onnx", "report.txt", "run/curves.png", "run/config.toml"):
        assert (out / name).stat().st_size > 0, name
    values = json.loads((out / "results.json").read_text())
    assert values["agreement"] >= 0.999
    assert abs(values["miou_drop"]) < 0.0005
    assert "mIoU" in done.stdout
    assert done.stderr.count("TensorRT for RTX") == 1
    assert re.search(r"TensorRT for RTX [\d.]+ reads and builds it: \d+ layers in|it was not checked: ", done.stderr)
    new, old = re.findall(r"(?:new|old) camera, \d+ images: .*", done.stdout)
    assert new.startswith("new camera, 8 images: the camera is not judged yet: 8 frames looked at")
    unsure = r"this looks like another camera, but it is not sure yet \(17 of 90 looks\): shift ([\d.]+) .*"
    shift = re.fullmatch(f"old camera, 32 images: {unsure}", old)
    assert float(shift[1]) > 1.5, "of another camera, but too few images to say so"
    assert call(clst_demo, "--out", out).exit_code == 3


def test_a_demo_of_too_few_pictures_says_that_its_model_knows_no_camera(tmp_path, rgb_model):
    write_labelled(tmp_path / "data")
    words = watch_cameras(rgb_model, {"new": tmp_path / "data" / "images" / "val"})
    assert words == "is it the new camera? not judged: fewer than 32 images of it; give more --scenes"
