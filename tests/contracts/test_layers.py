"""The floors hold, and each check can fail: a violation is planted and found."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from tests import ROOT
from tests.conftest import write_rgb_model

FORBID = """
import importlib.abc, sys
class Forbid(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError("forbidden: " + name, name=name)
sys.meta_path.insert(0, Forbid())
"""

RUNTIME = """
import importlib, pkgutil, sys
import numpy as np
from pathlib import Path
import clst_runtime
for module in pkgutil.walk_packages(clst_runtime.__path__, "clst_runtime."):
    importlib.import_module(module.name)
from clst_runtime.backends import open_model
with open_model(Path(sys.argv[1])) as backend:
    rows, columns = backend.manifest.input_hw
    assert backend.predict(np.zeros((rows, columns, 3), np.uint8)).classes.shape == (rows, columns)
"""


def child(code, *arguments, paths=()):
    """Run Python code in a process of its own; `paths` come before the installed packages."""
    code = f"import sys; sys.path[:0] = {[str(path) for path in paths]!r}\n{code}"
    call = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, check=False, timeout=120)


def copied(tmp_path):
    for folder in ("runtime", "train", "export"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return [tmp_path / folder for folder in ("runtime", "train", "export")]


RUNTIME_MUST_NOT = ("torch", "onnx", "clst_train", "clst_export", "rclpy")
NOT_BY_IMPORTING_CLST = (*RUNTIME_MUST_NOT, "cv2", "onnxruntime", "matplotlib", "PIL", "tqdm", "tensorrt")


def test_the_runtime_works_where_torch_onnx_and_training_cannot_be_imported(rgb_model):
    done = child(FORBID.format(names=RUNTIME_MUST_NOT) + RUNTIME, rgb_model)
    assert done.returncode == 0, done.stderr


def test_an_import_of_torch_planted_in_the_runtime_is_found(tmp_path, rgb_model):
    paths = copied(tmp_path)
    with (tmp_path / "runtime/clst_runtime/evaluation/confusion.py").open("a") as stream:
        stream.write("\nimport torch\n")
    done = child(FORBID.format(names=RUNTIME_MUST_NOT) + RUNTIME, rgb_model, paths=paths)
    assert done.returncode != 0
    assert "forbidden: torch" in done.stderr


API = """
import clst
for name in clst.__all__:
    getattr(clst, name)
"""


def test_importing_the_public_api_imports_nothing_heavier_than_numpy():
    done = child(FORBID.format(names=NOT_BY_IMPORTING_CLST) + API)
    assert done.returncode == 0, done.stderr


def test_a_heavy_import_planted_in_the_public_api_is_found(tmp_path):
    paths = copied(tmp_path)
    with (tmp_path / "runtime/clst/model.py").open("a") as stream:
        stream.write("\nimport cv2\n")
    done = child(FORBID.format(names=NOT_BY_IMPORTING_CLST) + API, paths=paths)
    assert done.returncode != 0
    assert "forbidden: cv2" in done.stderr


def contracts(folder, paths=()):
    """Exit code and output of the import contracts in `folder`."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(cache_dir=None))"
    code = f"import sys; sys.path[:0] = {[str(path) for path in paths]!r}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_import_contracts_hold():
    code, told = contracts(ROOT)
    assert code == 0, told


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("train/clst_train/engine/schedule.py", "import clst_export.verification.ties"),
        ("runtime/clst_runtime/live/latency.py", "import clst_train.config"),
        ("runtime/clst_runtime/imaging/geometry.py", "import clst_runtime.data.formats"),
        ("runtime/clst_runtime/sources/raw.py", "import clst_runtime.backends"),
        ("runtime/clst_runtime/live/latency.py", "import torch"),
        ("runtime/clst_runtime/live/latency.py", "import clst_runtime.cli.run"),
        ("runtime/clst_runtime/live/latency.py", "import clst"),
        ("runtime/clst/model.py", "import cv2"),
    ],
)
def test_a_planted_import_breaks_a_contract(tmp_path, file, line):
    paths = copied(tmp_path)
    with (tmp_path / file).open("a") as stream:
        stream.write(f"\n{line}\n")
    code, told = contracts(tmp_path, paths)
    assert code != 0, told
    assert "BROKEN" in told


HEAVY = ("numpy", "cv2", "torch", "onnx", "onnxruntime", "matplotlib", "PIL", "tqdm", "tensorrt", "pycuda", "cuda")
HELP = """
import importlib, sys
module, _, name = sys.argv[1].partition(":")
getattr(importlib.import_module(module), name)(["--help"], standalone_mode=False)
"""


def commands():
    from importlib.metadata import entry_points

    return sorted(e.value for e in entry_points(group="console_scripts") if e.value.startswith("clst_"))


def test_there_are_eleven_commands_and_one_over_them():
    assert len(commands()) == 12


@pytest.mark.parametrize("command", commands())
def test_help_needs_only_click(command):
    done = child(FORBID.format(names=HEAVY) + HELP, command)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_a_heavy_import_planted_in_a_command_is_found(tmp_path):
    paths = copied(tmp_path)
    path = tmp_path / "runtime/clst_runtime/cli/run.py"
    path.write_text(path.read_text().replace("import click\n", "import click\nimport numpy\n", 1))
    done = child(FORBID.format(names=HEAVY) + HELP, "clst_runtime.cli.run:main", paths=paths)
    assert done.returncode != 0
    assert "forbidden: numpy" in done.stderr


def test_a_command_without_its_package_says_what_to_install(tmp_path):
    code = FORBID.format(names=("torch",)) + "from clst_train.cli.train import main\nmain()"
    done = child(code, "--source", "x")
    assert done.returncode == 5
    assert "pip install -e '.[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_checkpoint_where_torch_is_missing_says_what_to_install(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    code = FORBID.format(names=("torch",)) + "from clst_runtime.cli.evaluate import main\nmain()"
    done = child(code, tmp_path / "model.pt", "--data", tmp_path)
    assert done.returncode == 5
    assert ".[train]" in done.stderr


def test_a_planted_mistake_in_a_shipped_recipe_is_found(tmp_path):
    paths = copied(tmp_path)
    with (tmp_path / "train/clst_train/recipes/demo.toml").open("a") as stream:
        stream.write("\nsurprise = 1\n")
    code = "from clst_train.engine.options import configure\nfrom clst_train.recipes.recipe import recipe_names\n"
    code += "[configure(name, {}) for name in recipe_names()]"
    assert child(code, paths=[]).returncode == 0
    done = child(code, paths=paths)
    assert done.returncode != 0
    assert "run.surprise is unknown" in done.stderr


def test_functions_and_files_stay_small():
    import ast

    for path in sorted(ROOT.glob("*/clst*/**/*.py")):
        text = path.read_text()
        assert len(text.splitlines()) <= 500, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


def test_the_rgb_model_of_these_tests_fits_the_contract(tmp_path):
    from clst_runtime.backends import open_model

    with open_model(write_rgb_model(tmp_path / "m.onnx")) as backend:
        assert json.loads(backend.manifest.to_json())["format_version"] == 1


def test_only_dates_are_read_off_the_wall_clock():
    """Ages, deadlines and pauses come from clocks that do not jump; these modules tell when something was."""
    dating = {"statistics_log.py", "recording.py", "bench.py", "collector.py", "mcap_files.py", "run.py", "messages.py"}
    found = {
        path.name
        for path in (ROOT / "runtime" / "clst_runtime").rglob("*.py")
        if re.search(r"\btime\.(time|time_ns|strftime|gmtime|localtime)\(|\bdatetime\b", path.read_text())
    }
    assert found == dating
