"""A run's folder in the place of a checkpoint."""

import pytest

from clst_export.cli.export import main as clst_export
from clst_runtime.cli.evaluate import main as clst_eval
from clst_runtime.cli.parity import main as clst_parity
from clst_runtime.errors import ModelFileError
from clst_runtime.system.files.paths import checkpoint_of
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
