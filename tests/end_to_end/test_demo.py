import json

from tests.shell import shell


def test_the_demo_goes_through_the_whole_loop(tmp_path):
    out = tmp_path / "demo"
    quick = ("source.iterations=3", "adaptation.iterations=3", "source.batch=2", "adaptation.batch=2")
    settings = [part for setting in quick for part in ("--set", setting)]
    done = shell("clst-demo", "--out", out, "--scenes", 8, *settings)
    assert done.returncode == 0, done.stderr
    for name in ("before_after.png", "drive.mp4", "model.onnx", "report.txt", "run/curves.png", "run/config.toml"):
        assert (out / name).stat().st_size > 0, name
    values = json.loads((out / "results.json").read_text())
    assert values["agreement"] >= 0.999
    assert abs(values["miou_drop"]) < 0.0005
    assert "mIoU" in done.stdout
    assert shell("clst-demo", "--out", out).returncode == 3
