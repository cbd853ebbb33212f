"""Progress bars: silent with `-q`, as lines in a log file."""

import logging

from clst_runtime.cli.messages import keep_in, set_level
from clst_train.compute.bars import Lines, tqdm_options


def test_quiet_switches_bars_off_and_a_log_file_does_not_switch_them_on_again(tmp_path):
    assert tqdm_options()["disable"] is False
    set_level(logging.WARNING)
    keep_in(tmp_path / "run.log")
    assert tqdm_options()["disable"] is True


def test_without_a_command_nothing_is_shown(monkeypatch):
    monkeypatch.setattr(logging.getLogger("clst_runtime"), "level", logging.NOTSET)
    logging.getLogger("clst_runtime").manager._clear_cache()
    assert tqdm_options()["disable"] is True


def test_lines_go_to_the_log_file_too(tmp_path):
    keep_in(tmp_path / "run.log")
    Lines().write("\r source 3/8  \r")
    assert (tmp_path / "run.log").read_text().endswith(" INFO    source 3/8\n")
