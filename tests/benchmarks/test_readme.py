"""The table of benchmarks: each command in it exists, with the options that it is shown with, and none is missing."""

import importlib
import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS = [line for line in (BENCHMARKS / "README.md").read_text().splitlines() if "`python -m benchmarks." in line]


def module_of(row):
    return re.search(r"python -m (benchmarks[\w.]+)", row)[1]


def test_every_script_has_one_row():
    scripts = {
        ".".join(("benchmarks", *path.relative_to(BENCHMARKS).with_suffix("").parts))
        for path in BENCHMARKS.rglob("*.py")
        if '__name__ == "__main__"' in path.read_text() and path.name != "one_quantizer.py"  # started by quantizers
    }
    assert sorted(map(module_of, ROWS)) == sorted(scripts)


@pytest.mark.parametrize("row", ROWS, ids=module_of)
def test_the_options_of_a_row_exist(row):
    main = importlib.import_module(module_of(row)).main
    commands = (main, *getattr(main, "commands", {}).values())
    known = {option for command in commands for each in getattr(command, "params", ()) for option in each.opts}
    assert set(re.findall(r"--[a-z-]+", row.partition("`python -m")[2])) - known <= {"--confidence"}  # clst-export's
