"""What `clst-train` prints at its end."""

import json

import pytest

from clst_train.cli.data import main as clst_data
from clst_train.cli.train import print_result
from clst_train.engine.run_folder import RunFolder
from tests.support.command_line import call


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.toml").write_text('[data]\ntarget = ["a drive.mp4", "more"]\n')
    (tmp_path / "checkpoints" / "source.pt").write_bytes(b"")
    entries = [("source", 10.0), ("source", 50.0), ("adapted", 25.0)]
    lines = [json.dumps({"stage": stage, "iteration": 1, "miou": value}) for stage, value in entries]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"stage": "adapted", "iteration": 2, "loss": 1.0}', ""]))
    return RunFolder(tmp_path)


def test_the_adapted_checkpoint_is_named_else_the_source_one(folder, capsys):
    print_result(folder, as_json=False)
    folder.adapted.write_bytes(b"")
    print_result(folder, as_json=False)
    assert capsys.readouterr().out == f"{folder.source}\n{folder.adapted}\n"


def test_as_json_it_has_the_folder_both_checkpoints_and_the_last_miou_of_each_stage(folder, capsys):
    print_result(folder, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "run": str(folder.path),
        "source": str(folder.source),
        "adapted": None,
        "miou": {"source": 0.5, "adapted": 0.25},
        "comparison": None,
    }


LABEL = ["clst-data pick 'a drive.mp4' more --model OLD --model RUN --out FEW", "clst-eval OLD RUN --data FEW"]


@pytest.mark.parametrize(
    ("verdict", "commands"),
    [
        ("better", ["clst-export RUN --onnx", "clst-report RUN"]),
        ("worse", []),
        ("unclear", LABEL),
        ("no change", LABEL),
        (None, LABEL),
    ],
)
def test_what_to_do_next_fits_the_verdict(folder, capsys, verdict, commands):
    folder.adapted.write_bytes(b"")
    if verdict is not None:
        folder.verdict.write_text(json.dumps({"verdict": verdict, "text": "…", "miou": {"change_points": 1.0}}))
    print_result(folder, as_json=False)
    lines = capsys.readouterr().err.replace(str(folder.source), "OLD").replace(str(folder.path), "RUN").splitlines()
    assert [line.partition(": ")[2] for line in lines if "clst-" in line] == commands
    assert [line.startswith("next") or line.startswith("then") for line in lines] == [True] * max(1, len(commands))


def test_a_run_without_a_target_has_no_next_step(folder, capsys):
    print_result(folder, as_json=False)
    assert capsys.readouterr().err == ""


def test_labels_without_a_known_class_give_no_miou(folder, capsys):
    with (folder.path / "log.jsonl").open("a") as log:
        log.write('{"stage": "adapted", "iteration": 3, "miou": null}\n')
    print_result(folder, as_json=True)
    assert json.loads(capsys.readouterr().out)["miou"] == {"source": 0.5, "adapted": None}


def test_scenes_as_json(tmp_path):
    done = call(clst_data, "scenes", tmp_path / "s", "--count", "1", "--val-count", "0", "--size", "32x64", "--json")
    assert json.loads(done.stdout) == {"folder": str(tmp_path / "s"), "images": {"train": 1, "val": 0}}
