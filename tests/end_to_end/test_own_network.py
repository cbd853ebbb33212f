"""A network of the user's own from training to an ONNX file, and its checkpoint where its module is not."""

import json
import shutil
import sys

import pytest

import clst
from clst_export.cli.export import main as clst_export
from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.cli.bench import main as clst_bench
from clst_runtime.cli.doctor import main as clst_doctor
from clst_runtime.cli.evaluate import main as clst_eval
from clst_runtime.cli.parity import main as clst_parity
from clst_runtime.cli.run import main as clst_run
from clst_runtime.errors import MissingDependency
from clst_train.cli.data import main as clst_data
from clst_train.cli.train import main as clst_train
from clst_train.models.checkpoint import load_checkpoint
from tests import ROOT
from tests.support.command_line import call
from tests.support.documents import commands_of, entry_point
from tests.unit.clst.test_workflow import SETTINGS

MODULE = "nétz_d_essai"
NETWORK = f"{MODULE}:Netz.klein?width=3&label='a \"b\" <c>'"
CODE = """
from tests.support.foreign import TwoHeads

class Netz(TwoHeads):
    @classmethod
    def klein(cls, classes, width, label):
        return cls(classes)
"""


@pytest.fixture(scope="module")
def made(cameras, tmp_path_factory):
    """A run that was started in the folder of its network's module, and its ONNX file."""
    folder = tmp_path_factory.mktemp("where the module lies")
    (folder / f"{MODULE}.py").write_text(CODE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("clst_export.verification.gate.check_build", lambda path, report: {"not_checked": "slow"})
        target = cameras / "new" / "images" / "train"
        run = clst.train(
            source=cameras / "old", target=target, network=NETWORK, out=folder / "run", recipe="demo", settings=SETTINGS
        )
        clst.export(run.adapted, folder / "own.onnx", frames=target)
    return run, folder / "own.onnx"


def test_the_commands_of_the_page_lead_from_a_module_to_masks(cameras, tmp_path, monkeypatch):
    """As they stand, but for fewer steps and a smaller size."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "examples" / "small_unet.py", tmp_path)
    monkeypatch.setattr("clst_export.verification.gate.check_build", lambda path, report: {"not_checked": "slow"})
    train, export, run, *_ = commands_of(ROOT / "docs" / "own_network.md")
    places = {"OLD_CAMERA": cameras / "old", "NEW_CAMERA": cameras / "new" / "images" / "train", "360x480": "64x96",
              "0": cameras / "new" / "images" / "val"}  # fmt: skip
    small = {"clst-train": ["--recipe", "demo", *settings()], "clst-export": [], "clst-run": ["--no-video"]}
    for name, *words in (train, export, run):
        done = call(entry_point(name), *(places.get(word, word) for word in words), *small[name])
        assert done.exit_code == 0, done.output
    assert read_onnx_manifest(tmp_path / "own.onnx").network == "small_unet:SmallUNet?width=24"


def settings():
    """Of a run of two steps, for the command."""
    values = {name: value for name, value in SETTINGS.items() if name != "model.input_hw"}
    return [f"--set={name}={list(v) if isinstance(v, tuple) else str(v).lower()}" for name, v in values.items()]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Another working folder, in a program that has not imported the module."""
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_onnx_file_names_the_network_and_needs_nothing_of_it(made, cameras, elsewhere):
    run, model = made
    manifest = read_onnx_manifest(model)
    assert manifest.network == NETWORK
    assert manifest.source_checkpoint_sha256 == load_checkpoint(run.adapted).sha256
    rows = call(clst_export, "inspect", model).stdout.splitlines()
    escaped = NETWORK.replace("<", "\\<")
    assert [row for row in rows if row.startswith("- network: ")] == [f"- network: {escaped}, fp32"]
    assert json.loads(call(clst_export, "inspect", model, "--json").stdout)["manifest"]["network"] == NETWORK
    done = call(
        clst_run, model, "--source", cameras / "new" / "images" / "val", "--no-video", "--masks", "--out", "live"
    )
    assert done.exit_code == 0, done.output
    assert list((elsewhere / "live" / "masks").iterdir())
    assert MODULE not in sys.modules


def test_the_file_holds_no_folder_of_this_machine(made):
    run, model = made
    content = model.read_bytes()
    for place in (run.path.parent, sys.prefix, "tests/support"):
        assert str(place).encode() not in content


def commands(checkpoint, run, model, cameras):
    """Every command that opens a checkpoint, each with what it needs besides."""
    old, new = cameras / "old", cameras / "new"
    start = ("--source", old, "--target", new / "images" / "train", "--recipe", "demo", "--size", "64x96", *settings())
    return {
        "export": (clst_export, "convert", checkpoint, "--onnx"),
        "eval": (clst_eval, checkpoint, "--data", new),
        "parity": (clst_parity, model, "--checkpoint", checkpoint, "--data", new),
        "run": (clst_run, checkpoint, "--source", new / "images" / "val", "--out", "live"),
        "bench": (clst_bench, checkpoint),
        "doctor": (clst_doctor, "--verify", checkpoint, "--data", new, "--seconds", "1"),
        "features": (clst_data, "features", run.path, "--out", "features"),
        "init": (clst_train, *start, "--init", checkpoint, "--out", "again"),
        "resume": (clst_train, "--resume", run.path),
    }


@pytest.mark.parametrize("name", ["export", "eval", "parity", "run", "bench", "doctor", "features", "init", "resume"])
def test_a_checkpoint_without_its_module_is_one_line_that_names_it(name, made, cameras, elsewhere):
    run, model = made
    command, *arguments = commands(run.adapted, run, model, cameras)[name]
    done = call(command, *arguments)
    assert done.exit_code == MissingDependency.exit_code, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert f"no module '{MODULE}' here" in line
    assert f"{MODULE} lay in the folder that training was started in; start there" in line
    reports = ["clst-acceptance.md"] if name == "doctor" else []
    assert [path.name for path in elsewhere.iterdir()] == reports


def test_python_names_it_too(made, elsewhere):
    run, _ = made
    with pytest.raises(MissingDependency, match=f"adapted.pt: .*no module '{MODULE}' here"):
        clst.load_model(run.path)
    with pytest.raises(MissingDependency, match=f"no module '{MODULE}' here"):
        clst.export(run.path, elsewhere / "own.onnx")
