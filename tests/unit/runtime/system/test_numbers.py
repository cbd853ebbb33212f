"""NaN, infinity and what no counter holds are refused wherever a number can be given: one line, the right exit code."""

import math
import os
from importlib.metadata import entry_points

import click
import pytest

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.classes.labels import load_class_list
from clst_runtime.errors import ConfigError, DataError, ModelFileError
from clst_runtime.sources import open_source
from clst_runtime.system.files.json_values import parse_object
from clst_runtime.system.numbers import finite_or_none, parse_size
from clst_train.config import Config, RunConfig
from clst_train.engine.options import check_settings, check_threads
from clst_train.training import _threads_here
from tests.conftest import rgb_manifest
from tests.support.command_line import call

COMMANDS = ["run", "bench", "eval", "parity", "doctor", "train", "data", "export", "demo"]
UNUSABLE = ("nan", "NaN", "inf", "-inf", "Infinity", "1e999", "-1e999", "9" * 400, str(2**63), str(-(2**63)))


def commands(command, path):
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, (*path, name))


def numeric_options():
    for name in COMMANDS:
        (found,) = entry_points(group="console_scripts", name=f"clst-{name}")
        for path, command in commands(found.load(), (f"clst-{name}",)):
            for option in command.params:
                if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType):
                    yield pytest.param(command, option, id=f"{' '.join(path)} {option.opts[0]}")


@pytest.mark.parametrize(("command", "option"), list(numeric_options()))
def test_no_numeric_option_takes_a_number_that_is_none(command, option):
    with command.make_context("x", [], resilient_parsing=True) as context:
        for text in UNUSABLE:
            with pytest.raises(click.BadParameter) as refused:
                option.type.convert(text, option, context)
            assert refused.value.exit_code == 2, text
            assert "\n" not in refused.value.message


def test_there_are_numeric_options_in_every_command_but_one():
    named = {each.id.split()[0] for each in numeric_options()}
    assert named == {f"clst-{name}" for name in COMMANDS}


@pytest.mark.parametrize("text", ["0x0", "1x", "x", "-1x5", "²x5", "32x99999999999999999999", "nanx5", "20000x32"])
def test_sizes_that_no_picture_has_are_refused(text):
    with pytest.raises(ConfigError, match="rows"):
        parse_size(text)


def test_a_size_is_rows_and_columns():
    assert parse_size("360X480") == (360, 480)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 30, "1" * 5000])
def test_files_of_json_hold_only_usable_numbers(number, tmp_path):
    with pytest.raises(ValueError):
        parse_object(f'{{"a": [1, {number}]}}')
    (tmp_path / "c.json").write_text(f'{{"names": ["a", "b"], "colors": [[1, 2, 3], [1, 2, {number}]]}}')
    with pytest.raises(DataError, match="c.json"):
        load_class_list(tmp_path / "c.json")
    text = rgb_manifest().to_json().replace("0.0", number, 1)
    with pytest.raises(ModelFileError, match="damaged"):
        Manifest.from_json(text, where="m.onnx")


def test_usable_numbers_of_json_stay_what_they_are():
    assert parse_object('{"a": [1, -2.5, 1e3, 9223372036854775807]}') == {"a": [1, -2.5, 1000.0, 2**63 - 1]}


@pytest.mark.parametrize(
    "uri",
    [*(f"camera:0?fps={value}" for value in UNUSABLE), "raw:99999999x64", "raw:20000x64", "camera:0?size=1x99999999999",
     "raw:64x48?fps=inf", "csi:0?fps=nan"],
)  # fmt: skip
def test_options_of_sources_are_numbers_that_a_camera_can_have(uri):
    with pytest.raises(ConfigError):
        open_source(uri)


def test_a_camera_of_a_number_that_no_system_has_is_none():
    with pytest.raises(DataError, match="no camera"):
        open_source("camera:99999999999999999999")


def test_a_refused_option_is_one_line_and_code_2():
    (run,) = entry_points(group="console_scripts", name="clst-run")
    done = call(run.load(), "m.onnx", "--source", "camera:0", "--deadline-ms", "nan")
    assert done.exit_code == 2
    assert done.output.splitlines()[-1].startswith("Error: Invalid value for '--deadline-ms': nan is not a finite")


@pytest.mark.parametrize("name", ["run", "bench", "eval", "doctor"])
def test_more_threads_than_cores_are_refused(name, monkeypatch):
    (found,) = entry_points(group="console_scripts", name=f"clst-{name}")
    (option,) = (each for each in found.load().params if each.name == "threads")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert option.type.convert("3", option, None) == 3
    with pytest.raises(click.BadParameter, match="4 threads, but this machine has 3 cores"):
        option.type.convert("4", option, None)


def test_training_takes_at_most_a_thread_a_core_and_a_run_of_a_larger_machine_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    check_threads(Config(run=RunConfig(threads=3)))
    with pytest.raises(ConfigError, match=r"run.threads = 4; this machine has 3 cores"):
        check_threads(Config(run=RunConfig(threads=4)))
    check_settings(Config(run=RunConfig(threads=4)))  # as of a run to go on with
    assert [_threads_here(3), _threads_here(4)] == [3, 3]
    assert capsys.readouterr().err == "note: run.threads = 4, but this machine has 3 cores, which are taken\n"


def test_json_gets_null_for_what_is_no_finite_number():
    assert [finite_or_none(value) for value in (0.5, math.nan, -math.inf)] == [0.5, None, None]
