"""`clst.train` and `clst.export`: what the commands do, with exceptions instead of exit codes."""

import inspect
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import clst
from clst.errors import BudgetNotHeld, ConfigError, DataError, MissingDependency, ModelFileError
from clst_export.cli.export import convert
from clst_runtime.imaging.image_files import read_image
from clst_runtime.imaging.media import images_below
from clst_train.cli.train import main as clst_train
from clst_train.models.checkpoint import load_checkpoint
from tests.contracts.test_layers import child
from tests.support.command_line import call

pytestmark = pytest.mark.usefixtures("narrow")
SETTINGS = {
    "model.input_hw": [64, 96],
    "augmentation.crop_hw": (64, 64),
    "source.batch": 2,
    "source.iterations": 2,
    "adaptation.iterations": 2,
    "adaptation.batch": 2,
    "run.seed": 3,
    "run.precision": "fp32",
    "run.threads": 1,
    "run.deterministic": False,
}


@pytest.fixture(scope="module")
def run(cameras, narrow, tmp_path_factory):
    """A run of two steps in each stage."""
    out = tmp_path_factory.mktemp("runs") / "run"
    target = cameras / "new" / "images" / "train"
    return clst.train(source=cameras / "old", target=target, out=str(out), recipe="demo", settings=SETTINGS)


def test_a_run_from_python_has_the_weights_of_the_command(run, cameras, tmp_path):
    settings = [f"--set={name}={list(v) if isinstance(v, tuple) else v}" for name, v in SETTINGS.items()]
    settings = [text.replace("=False", "=false") for text in settings]
    places = ("--source", cameras / "old", "--target", cameras / "new" / "images" / "train", "--out", tmp_path / "run")
    done = call(clst_train, *places, "--recipe", "demo", *settings)
    assert done.exit_code == 0, done.output
    assert Path(done.stdout.strip()) == tmp_path / "run" / "checkpoints" / "adapted.pt"
    mine = load_checkpoint(run.adapted).segmenter_state
    theirs = load_checkpoint(tmp_path / "run" / "checkpoints" / "adapted.pt").segmenter_state
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert run.path.joinpath("config.toml").is_file()


def test_an_adapted_network_is_exported_and_segments(run, cameras, tmp_path, monkeypatch):
    monkeypatch.setattr("clst_export.verification.gate.check_build", lambda path, report: {"not_checked": "slow"})
    exported = clst.export(run.adapted, tmp_path / "front.onnx", confidence=True)
    assert exported.path == tmp_path / "front.onnx"
    assert exported.comparison.agreement > 0.999
    assert exported.manifest.precision == "fp32"
    image = read_image(images_below(cameras / "new" / "images")[0])
    with clst.load_model(exported.path) as model, clst.load_model(run.path) as reference:
        result = model.segment(image)
        assert result.confidence.shape == result.classes.shape == (64, 96)
        assert np.mean(result.classes == reference.segment(image).classes) > 0.999
    with pytest.raises(DataError, match=r"front.onnx exists"):
        clst.export(run.adapted, tmp_path / "front.onnx")


def test_a_run_goes_on_from_python(run):
    assert clst.train(resume=run.path).adapted == run.adapted


def test_a_run_with_nothing_left_to_train_says_nothing_of_memory(cameras, tmp_path, caplog):
    run = clst.train(source=cameras / "old", out=tmp_path / "run", recipe="demo", settings=SETTINGS)
    caplog.clear()
    caplog.set_level("INFO")
    assert clst.train(resume=run.path).source == run.source
    assert "nothing left to train" in caplog.text
    assert "memory" not in caplog.text


def test_int8_is_asked_for_with_its_images_and_budget(run, cameras, tmp_path, monkeypatch):
    """The default of clst-export is agreement on held-out frames; the network of two steps would not hold it."""
    asked = []

    def refusing(checkpoint, out, request, inputs, log):
        asked.extend((checkpoint.path, out, request, inputs))
        raise BudgetNotHeld("INT8 loses 3 points")

    monkeypatch.setattr("clst_export.pipeline.convert", refusing)
    frames = cameras / "new" / "images" / "val"
    with pytest.raises(BudgetNotHeld, match="loses 3 points"):
        clst.export(run.adapted, precision="int8", target="cpu", calib=frames, frames=frames, max_miou_drop=0.5)
    checkpoint, out, request, inputs = asked
    assert (checkpoint, out) == (run.adapted, run.adapted.with_name("adapted.int8-cpu.onnx"))
    assert (request.precision.value, request.target.value, request.budget) == ("int8", "cpu", 0.005)
    assert len(inputs.calibration) == len(inputs.frames) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"settings": {"adaptation.iteration": 1}}, "did you mean 'iterations'"),
        ({"settings": {"source.batch": 0}}, "source.batch = 0; give 1 or more"),
        ({"settings": {"adaptation.iterations": "many"}}, "expected int"),
        ({"settings": {"adaptation.iterations": None}}, "settings['adaptation.iterations'] = None; give"),
        ({"settings": {"run.seed": object()}}, "settings['run.seed'] = <object"),
        ({"settings": {"run.seed=3 #": 4}}, "settings['run.seed=3 #'] = 4; give section.key"),
        ({"settings": {"iterations": 1}}, "expected section.key=value"),
        ({"recipe": "new_cam"}, "did you mean 'new_camera'"),
        ({"resume": "runs/a", "source": "old"}, "resume = 'runs/a' goes on with the run as it was configured"),
        ({}, "no source images"),
        ({"target": None}, "no source images"),
    ],
)
def test_settings_that_cannot_be_are_refused(given, words):
    with pytest.raises(ConfigError) as caught:
        clst.train(**given)
    assert words in str(caught.value)


def test_a_network_is_named_and_not_handed_over(cameras):
    for network, kind in ((torch.nn.Identity(), "Identity"), (torch.nn.Conv2d, "type")):
        with pytest.raises(ConfigError, match=f"network is a {kind}; give a name, 'package.module:factory'"):
            clst.train(source=cameras / "old", network=network)


def test_places_that_are_missing_are_refused(tmp_path):
    with pytest.raises(DataError, match="none"):
        clst.train(source=tmp_path / "none")
    with pytest.raises(ModelFileError, match="none.pt"):
        clst.train(source=tmp_path, init=tmp_path / "none.pt")
    with pytest.raises(ModelFileError, match="none.pt"):
        clst.export(tmp_path / "none.pt")


def test_a_wrong_setting_is_found_before_pytorch_is_imported():
    code = "import clst, sys\ntry: clst.train(settings={'run.sed': 1})\n"
    code += "except clst.errors.ConfigError as error: print('torch' in sys.modules, error)"
    began = time.monotonic()
    done = child(code)
    assert done.stdout.startswith("False recipe new_camera: run.sed is unknown; did you mean 'seed'"), done.stderr
    assert time.monotonic() - began < 10  # 0.5 s on an idle machine


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"precision": "fp8"}, "did you mean 'fp32'|did you mean 'fp16'"),
        ({"precision": "int8", "target": "gpu"}, "known: cpu, tensorrt"),
        ({"target": "cpu"}, "are for int8, not for fp32"),
        ({"precision": "fp16", "max_miou_drop": 1.0}, "are for int8, not for fp16"),
        ({"precision": "int8", "max_miou_drop": 101}, "max_miou_drop = 101; give 0 to 100"),
        ({"mapping": "m.json"}, "relates the classes of data; give both"),
        ({"size": (0, 64)}, "size '0x64'"),
        ({"size": "0x64"}, "size '0x64'"),
    ],
)
def test_arguments_of_an_export_that_cannot_be_are_refused(run, given, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        clst.export(run.adapted, tmp_path / "m.onnx", **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("use", [lambda: clst.train(source="old"), lambda: clst.export("adapted.pt")])
def test_without_their_packages_they_say_what_to_install(use, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependency, match=r"pip install -e '\.\[train\]'"):
        use()


def test_an_export_has_the_defaults_of_the_command():
    from clst.workflow import _OTHER_OPTIONS

    with convert.make_context("convert", ["adapted.pt"]) as context:
        command = context.params
    assert {name: command[name] for name in _OTHER_OPTIONS} == dict(_OTHER_OPTIONS)
    mine = {name: each.default for name, each in inspect.signature(clst.export).parameters.items()}
    for name in ("target", "split", "confidence", "overwrite"):
        assert mine[name] == command[name], name


def test_an_interrupt_stops_a_run_and_signals_are_as_before(cameras, tmp_path, monkeypatch):
    as_started = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        monkeypatch.setattr("clst_train.training.start_run", lambda **_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            clst.train(source=cameras / "old")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, as_started)
