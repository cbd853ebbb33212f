"""Old import paths: each is refused by one line that names the module of today."""

import importlib
import subprocess
import sys
from importlib.util import find_spec

import pytest

from clst_runtime.system import moved
from tests import ROOT

TABLE = [line.split() for line in (ROOT / "runtime/clst_runtime/system/moved.txt").read_text().splitlines()]


def test_every_module_of_the_table_is_where_it_says():
    assert len(TABLE) >= 150
    assert [new for _, new in TABLE if find_spec(new) is None] == []


@pytest.mark.parametrize(("old", "new"), TABLE)
def test_an_old_path_is_refused_with_the_new_one(old, new):
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(old)
    parent, is_now, room = str(caught.value).partition(" is now ")
    assert is_now
    assert (parent, room) == (old, new) or old.startswith(f"{parent}.")


def test_the_line_is_the_last_of_the_traceback_also_of_a_from_import():
    for code in ("import clst_runtime.contest", "from clst_runtime import contest"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        told = "ModuleNotFoundError: clst_runtime.contest is now clst_runtime.evaluation.latency.comparison"
        assert done.stderr.splitlines()[-1] == told


def test_what_never_was_is_missing_as_ever_and_the_finder_is_there_once():
    with pytest.raises(ModuleNotFoundError, match="^No module named 'clst_runtime.nothing'$"):
        importlib.import_module("clst_runtime.nothing")
    assert sys.meta_path.count(moved.Moved) == 1


@pytest.mark.parametrize(("package", "command"), [("clst_train.cli", "train"), ("clst_export.cli", "export")])
def test_a_command_that_was_a_module_names_its_new_place(package, command):
    with pytest.raises(ImportError, match=f"^{package}.main is now {package}.{command}.main$"):
        importlib.import_module(package).main  # noqa: B018
    assert not hasattr(importlib.import_module(package), "nothing")
