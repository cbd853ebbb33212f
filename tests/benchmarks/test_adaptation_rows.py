"""Rows of benchmarks/adaptation/compare.py: what each trains with, and the messages for wrong options."""

import pytest
from click.testing import CliRunner

from benchmarks.adaptation import compare as adaptation
from clst_train.engine.options import configure


def config_of(method: adaptation.Method):
    settings = tuple(each.replace("TEACHER", "teacher.pt") for each in method.settings)
    return configure("new_camera", {"source": "old", "target": ("new",), "settings": settings})


@pytest.mark.parametrize("name", sorted(adaptation.METHODS))
def test_every_row_trains_with_settings_that_exist(name):
    assert config_of(adaptation.METHODS[name]).adaptation.iterations > 0


def test_no_other_row_trains_as_clst_itself_does():
    own = config_of(adaptation.METHODS["clst"])
    assert [name for name, method in adaptation.METHODS.items() if config_of(method) == own and not method.patch] == [
        "clst"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "clst,clts"], "unknown methods clts"),
        (["--methods", "distilled"], "needs --teacher"),
        (["--size", "240"], "not rows x columns"),
    ],
)
def test_a_wrong_option_is_one_line_and_nothing_is_made(tmp_path, arguments, message):
    work = tmp_path / "work"
    result = CliRunner().invoke(adaptation.main, ["camera-none", "--work", str(work), *arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert not work.exists()
