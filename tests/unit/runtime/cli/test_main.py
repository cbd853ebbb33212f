"""`clst`: one command with all others below it."""

import importlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from clst_runtime.cli.main import COMMANDS
from clst_runtime.cli.main import main as clst
from clst_runtime.errors import MissingDependency
from tests.support.command_line import call
from tests.support.shell import shell


def test_each_subcommand_is_the_command_of_that_name():
    scripts = {each.name: each.value for each in entry_points(group="console_scripts") if each.name.startswith("clst-")}
    assert {f"clst-{name}": f"{module}:main" for name, (module, _) in COMMANDS.items()} == scripts


def test_listing_and_versions_import_nothing_heavy():
    program = (
        "import sys\n"
        "from clst_runtime.cli.main import main\n"
        "try:\n    main.main([sys.argv[1]], prog_name='clst')\n"
        "except SystemExit as done:\n    assert done.code == 0\n"
        "heavy = {'torch', 'cv2', 'onnxruntime', 'numpy', 'tensorrt', 'clst_train', 'clst_export'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for option in ("--help", "--version"):
        subprocess.run([sys.executable, "-c", program, option], env=environment, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("name", "nearest"), [("trian", "did you mean 'train'? "), ("benhc", "did you mean 'bench'? "), ("xyz", "")]
)
def test_a_wrong_subcommand_comes_with_the_nearest_and_all(name, nearest):
    done = call(clst, name, "--out", "x")
    assert done.exit_code == 2
    assert f"no command {name!r}; {nearest}known: bench, data, demo" in done.stderr


def test_errors_and_exit_codes_are_those_of_the_subcommand(tmp_path):
    done = call(clst, "-q", "run", tmp_path / "none.onnx", "--source", tmp_path)
    assert done.exit_code == 4
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_package_that_is_not_installed_is_one_line(monkeypatch):
    real = importlib.import_module

    def lacking(name, *rest):
        if name.startswith("clst_train"):
            raise ModuleNotFoundError("No module named 'clst_train'", name="clst_train")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", lacking)
    done = call(clst, "train")
    assert done.exit_code == MissingDependency.exit_code
    assert "the training package: pip install -e '.[train]'" in done.stderr
    assert call(clst, "--help").exit_code == 0


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        ("clst", "clst ru", "plain,run"),
        ("clst", "clst run --dead", "plain,--deadline-ms"),
        ("clst", "clst data ch", "plain,check"),
        ("clst-run", "clst-run --dead", "plain,--deadline-ms"),
        ("clst-export", "clst-export --max-m", "plain,--max-miou-drop"),
    ],
)
def test_the_shell_completes_names_and_options(command, words, expected):
    variable = f"_{command.upper().replace('-', '_')}_COMPLETE"
    count = str(len(words.split()) - 1)
    done = shell(command, environment={variable: "bash_complete", "COMP_WORDS": words, "COMP_CWORD": count})
    assert done.stdout.split() == [expected], done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_takes_the_completion_that_the_command_prints():
    source = shell("clst", environment={"_CLST_COMPLETE": "bash_source"})
    assert source.returncode == 0, source.stderr
    done = subprocess.run(["bash", "-c", f"{source.stdout}\ncomplete -p clst"], capture_output=True, text=True)
    assert "_clst_completion" in done.stdout
