"""What can be told of a checkpoint's path without PyTorch, and a run's folder in its place."""

import zipfile

import pytest
import torch

from clst_export.cli.export import main as clst_export
from clst_runtime.cli.evaluate import main as clst_eval
from clst_runtime.cli.parity import main as clst_parity
from clst_runtime.errors import ModelFileError
from clst_runtime.system.files.paths import check_weights, checkpoint_of, is_checkpoint, is_safetensors
from tests.conftest import write_labelled
from tests.support.command_line import call


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.toml").write_text("")
    return folder


def test_the_adapted_network_is_taken_else_the_source_network_which_is_said(run, capsys):
    source, adapted = run / "checkpoints/source.pt", run / "checkpoints/adapted.pt"
    source.write_bytes(b"")
    assert checkpoint_of(run) == source
    assert f"{run} has no adapted.pt; taking {source}" in capsys.readouterr().err
    adapted.write_bytes(b"")
    assert checkpoint_of(run) == adapted
    assert capsys.readouterr().err == ""


def test_other_paths_stay_what_they_are(run, tmp_path):
    for path in (tmp_path / "none.pt", run / "config.toml", tmp_path):
        assert checkpoint_of(path) == path


def test_a_run_without_a_result_says_how_to_go_on(run):
    (run / "checkpoints" / "resume.pt").write_bytes(b"")
    with pytest.raises(ModelFileError, match=f"no result yet .* clst-train --resume {run}"):
        checkpoint_of(run)


def test_commands_refuse_a_folder_without_checkpoints_in_one_line(run, tmp_path, rgb_model):
    data = write_labelled(tmp_path / "data")
    for command, *arguments in (
        (clst_export, run, "--onnx"),
        (clst_export, data, "--onnx"),
        (clst_eval, run, "--data", data),
        (clst_eval, data, "--data", data),
        (clst_parity, rgb_model, "--checkpoint", run, "--data", data),
    ):
        done = call(command, *arguments)
        assert done.exit_code == 4, done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: ")


def test_a_checkpoint_of_training_is_told_from_other_weights(tmp_path):
    torch.save({"format": "clst-checkpoint-1"}, tmp_path / "ours.pt")
    torch.save({"format": "another"}, tmp_path / "theirs.pt")
    (tmp_path / "text.pt").write_text("clst-checkpoint-1")
    found = [is_checkpoint(tmp_path / f"{name}.pt") for name in ("ours", "theirs", "text")]
    assert found == [True, False, False]


def test_safetensors_are_known_by_their_beginning_or_their_name(tmp_path):
    (tmp_path / "w.bin").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "pickle.pth").write_bytes(b"\x80\x02}q\x00.")
    found = [is_safetensors(tmp_path / name) for name in ("w.bin", "empty.safetensors", "pickle.pth")]
    assert found == [True, True, False]


def test_what_cannot_be_weights_is_refused_without_pytorch(tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html>\n<html>")
    (tmp_path / "empty.pth").touch()
    with zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1000))
    cases = {
        "page.pth": "begins with '<!DOCTYPE html>'", "empty.pth": "(0 bytes)", "small.pth": "archive is compressed",
        "none.pth": "no such file of weights",
    }  # fmt: skip
    for name, words in cases.items():
        with pytest.raises(ModelFileError) as caught:
            check_weights(tmp_path / name)
        assert words in caught.value.message
