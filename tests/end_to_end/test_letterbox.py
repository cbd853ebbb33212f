"""Two cameras of different shapes in one letterbox: trained, adapted, exported and driven, with one geometry.

The old camera's images are 48×64, the new one's 32×96, the model's frames 64×96: so the old ones lie in columns
5–90 (48 → 64 rows, 64 → 85 columns), the new ones in rows 16–47.
"""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from clst_export.cli.export import main as export
from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.data.dataset import open_dataset
from clst_runtime.errors import ModelFileError
from clst_runtime.evaluation.acceptance.parity import compare_with_export
from clst_runtime.evaluation.evaluate import evaluate, predict_at
from clst_runtime.evaluation.latency.comparison import Candidate, compare_with_exports
from clst_runtime.evaluation.parity import compare
from clst_runtime.imaging.geometry import Content, Fit, content_of
from clst_runtime.imaging.image_files import read_image, read_label
from clst_runtime.imaging.media import images_below
from clst_train.engine.run_folder import open_run
from clst_train.models.checkpoint import load_checkpoint
from clst_train.models.checkpoint_backend import open_checkpoint
from clst_train.synthetic.camera_looks import LOOKS, find_look
from clst_train.synthetic.scenes import write_scenes
from clst_train.training import start_run
from tests.support.shell import shell

pytestmark = pytest.mark.usefixtures("narrow")
SETTINGS = (
    *(
        "augmentation.crop_hw=[64,64]",
        "model.fit=letterbox",
        "source.batch=2",
        "source.iterations=16",
        "adaptation.iterations=4",
        "adaptation.batch=2",
    ),
    *(
        "run.seed=2",
        "run.checkpoint_every=4",
        "run.precision=fp32",
        "run.threads=1",
    ),
    "augmentation.target_look=true",
)


@pytest.fixture(scope="module")
def cameras(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cameras")
    for seed, (look, size_hw) in enumerate(zip(map(find_look, LOOKS), ((48, 64), (32, 96)), strict=True)):
        write_scenes(folder / look.name, look=look, counts={"train": 5, "val": 2}, size_hw=size_hw, seed=seed)
    return folder


@pytest.fixture(scope="module")
def trained(cameras, tmp_path_factory):
    """A run on both cameras."""
    places = {
        "source": str(cameras / "old"),
        "target": (str(cameras / "new/images/train"),),
        "val": str(cameras / "new"),
    }
    options = {**places, "size": "64x96", "settings": SETTINGS}
    out = tmp_path_factory.mktemp("runs") / "boxed"
    return start_run(recipe="demo", out=out, init=None, resume=None, options=options)


@pytest.fixture(scope="module")
def model(trained, cameras, tmp_path_factory):
    """Its adapted network as an ONNX file."""
    out = tmp_path_factory.mktemp("models") / "m.onnx"
    done = CliRunner().invoke(
        export, [str(trained.adapted), "--onnx", "--out", str(out), "--data", str(cameras / "new")]
    )
    assert done.exit_code == 0, done.output
    return out


def test_the_pictures_lie_where_they_should():
    assert content_of((48, 64), (64, 96), Fit.LETTERBOX) == Content(0, 5, 64, 85)
    assert content_of((32, 96), (64, 96), Fit.LETTERBOX) == Content(16, 0, 32, 96)


def test_run_checkpoint_and_model_file_say_letterbox(trained, model):
    assert open_run(trained.path)[1].fit is Fit.LETTERBOX
    assert load_checkpoint(trained.adapted).fit is Fit.LETTERBOX
    manifest = read_onnx_manifest(model)
    assert manifest.fit is Fit.LETTERBOX
    assert manifest.parity["holds"]
    done = CliRunner().invoke(export, ["inspect", str(model)])
    assert "64x96 RGB uint8 1,64,96,3; frames of another size: letterbox" in done.output


def test_examples_show_the_pictures_without_their_padding(trained):
    """Two labelled images of 32×96 as rows of 213×640, 4 pixels after each, below the titles."""
    assert read_image(trained.examples / "before_after.png").shape[0] == 22 + 2 * (213 + 4)


def test_driving_says_what_evaluation_measures(model, cameras, tmp_path):
    images = cameras / "new/images/val"
    done = shell("clst-run", model, "--source", images, "--out", tmp_path / "out", "--masks")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out/frames.jsonl").read_text().splitlines()]
    found = images_below(images)
    assert len(lines) == len(found) == 2
    with OrtBackend(model) as backend:
        for path, line in zip(found, lines, strict=True):
            mask, said = read_label(tmp_path / "out/masks" / path.name), predict_at(backend, read_image(path))
            assert mask.shape == (32, 96)
            assert (mask == said).all()
            assert len(np.unique(mask)) > 1
            share = line["shares"][backend.manifest.classes.names[mask[0, 0]]]
            assert share == pytest.approx((mask == mask[0, 0]).mean(), abs=1e-4)  # content and camera: 32×96 both


def test_pytorch_and_the_file_agree_in_the_same_frame_and_are_not_compared_in_different_ones(trained, model, cameras):
    data = open_dataset(cameras / "new", split="val")
    with open_checkpoint(trained.adapted) as reference, OrtBackend(model) as candidate:
        result = compare(reference, candidate, data)
        assert result.agreement > 0.999
        assert result.candidate.miou == pytest.approx(evaluate(candidate, data).miou)
        assert result.candidate.miou == pytest.approx(candidate.manifest.parity["miou"])
        names = [Candidate.parse(str(model))]
        (tie,) = compare_with_exports(names, [candidate], str(cameras / "new/images/val"))
        assert (tie.found, tie.of, tie.equal) == (2, 2, 2)
        judged = compare_with_export(candidate, model, cameras / "new")
        assert judged.values["fingerprint"]["holds"]
        assert judged.values["labels"]["holds"]
        candidate.manifest = dataclasses.replace(candidate.manifest, fit=Fit.STRETCH)
        assert evaluate(candidate, data).miou != pytest.approx(result.candidate.miou)  # it would be noticed
        with pytest.raises(ModelFileError, match="fits differ: stretch and letterbox"):
            compare(reference, candidate, data)
