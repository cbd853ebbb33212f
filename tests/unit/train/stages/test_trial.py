"""Networks that are not built in are tried before there is a run: one line names the pass, the size and the place."""

from importlib.metadata import EntryPoint

import pytest

from clst_runtime.errors import MissingDependency, ModelFileError
from clst_train.cli.train import main as clst_train
from clst_train.stages import trial
from tests.support.command_line import call

pytestmark = pytest.mark.usefixtures("no_pictures", "no_export")
SMALL = (
    *("--recipe", "demo", "--size", "64x96", "--set", "augmentation.crop_hw=[64,64]", "--set", "source.batch=2"),
    *("--set", "source.iterations=1", "--set", "adaptation.iterations=1", "--set", "adaptation.batch=2"),
    *("--set", "run.precision=fp32"),
)


def start(cameras, out, network, *settings):
    places = ("--source", cameras / "old", "--target", cameras / "new" / "images" / "train", "--out", out)
    return call(clst_train, *SMALL, *places, "--network", f"tests.support.{network}",
                *(part for each in settings for part in ("--set", each)))  # fmt: skip


def refused(cameras, out, network, *settings):
    done = start(cameras, out, network, *settings)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert (done.exit_code, len(lines)) == (3, 1), done.stderr
    assert not out.exists()
    return lines[0].removeprefix("error: tests.support.")


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        ("NotANumber", (), ": its logits are not all finite before any training"),
        ("NotANumberInTraining", (), ": loss or gradient is not finite in the first step of source training"),
        ("Random", (), " gives one image other logits each time, also in eval mode; draw random numbers in training"),
        ("InPlace", (), " fails in source training of 2 images of 64x64, in the backward pass of Mul, at "
         "`logits = self.classifier(features * features)` (faulty.py, line "),
        ("WithoutBackward", (), "in the backward pass of _Doubled, at `return self.classifier(_Doubled"),
        ("OnlyToItsSize", (), " of 64x96, in its layer 'positions': no position there"),
        ("OnlyInFloat32", ("run.precision=bf16",), "bfloat16: set run.precision=fp32"),
        ("NotCopied", (), " cannot be copied by copy.deepcopy, as validation, teachers and export do: cannot pickle"),
    ],
)  # fmt: skip
def test_what_fails_in_one_pass_is_refused_by_it(cameras, tmp_path, network, settings, message):
    line = refused(cameras, tmp_path / "run", f"faulty:{network}", *settings)
    assert line.startswith(f"faulty:{network}")
    assert message in line
    assert ("in place" in line) == (network == "InPlace")


def test_crops_of_a_size_that_it_does_not_take_are_named(cameras, tmp_path):
    line = refused(cameras, tmp_path / "run", "foreign:UNet", "augmentation.crop_hw=[62,62]")
    assert " fails in source training of 2 images of 62x62" in line
    assert line.endswith("; it needs rows and columns in multiples of 4: set augmentation.crop_hw")


def test_a_note_says_what_is_frozen_and_that_there_are_no_statistics(cameras, tmp_path):
    done = start(cameras, tmp_path / "run", "faulty:half_frozen")
    assert done.exit_code == 0, done.stderr
    name = "note: 2 of the 4 weights of tests.support.faulty:half_frozen are frozen and stay so, e.g. features.weight"
    assert name in done.stderr.splitlines()
    assert "tests.support.faulty:half_frozen has no BatchNorm with running statistics" in done.stderr
    assert "statistics:" not in done.stderr, "there are none of either camera to choose from"


@pytest.mark.parametrize(
    "settings",
    [
        ("adaptation.entropy_first=0.5", "adaptation.class_balance=0.5"),
        ("adaptation.teacher=mean_teacher", "run.precision=bf16", "model.fit=letterbox"),
        ("adaptation.teacher=none", "adaptation.self_training_weight=0", "adaptation.contrastive_weight=0"),
        ("adaptation.batch=1", "source.batch=1", "run.precision=fp16"),
    ],
)
@pytest.mark.parametrize("network", ["unet", "TwoHeads"])
def test_what_can_be_trained_passes_with_every_kind_of_step(cameras, tmp_path, network, settings):
    done = start(cameras, tmp_path / "run", f"foreign:{network}", *settings)
    assert done.exit_code == 0, done.stderr


def exporting(monkeypatch, error=None):
    """The entry point of an export that raises the error, or takes what it is given."""
    asked = []

    def check(segmenter, input_hw):
        asked.append(input_hw)
        if error is not None:
            raise error

    entry = EntryPoint(name="export", value="none:none", group=trial.CHECKS)
    monkeypatch.setattr(trial, "entry_points", lambda **wanted: [entry])
    monkeypatch.setattr(EntryPoint, "load", lambda self: check)
    return asked


def test_a_network_that_cannot_be_exported_is_refused(cameras, tmp_path, monkeypatch):
    asked = exporting(monkeypatch, ModelFileError("DFT /segmenter/body/DFT: TensorRT does not import it"))
    line = refused(cameras, tmp_path / "run", "foreign:Plain")
    assert line == "foreign:Plain cannot be exported: DFT /segmenter/body/DFT: TensorRT does not import it"
    assert asked == [(64, 96)]


def test_where_an_export_is_not_possible_a_note_says_so(cameras, tmp_path, monkeypatch):
    exporting(monkeypatch, MissingDependency("onnx cannot be imported"))
    done = start(cameras, tmp_path / "run", "foreign:Plain")
    assert done.exit_code == 0
    assert "note: whether clst-export can write tests.support.foreign:Plain was not tried: onnx cannot" in done.stderr


def test_a_long_trial_is_reported(cameras, tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "LONG_SECONDS", 0.0)
    done = start(cameras, tmp_path / "run", "foreign:Plain")
    assert "note: tests.support.foreign:Plain was tried for " in done.stderr


def test_built_in_networks_are_not_tried(narrow, monkeypatch, cameras, tmp_path):
    monkeypatch.setattr(trial, "_small", None)
    places = ("--source", cameras / "old", "--out", tmp_path / "run")
    assert call(clst_train, *SMALL, *places, "--network", "ddrnet23_slim").exit_code == 0
