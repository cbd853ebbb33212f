"""Packages that are there and cannot be imported: one line that says why, and a cure that helps."""

import importlib
import os
import subprocess
import sys

import click
import pytest

from clst_runtime.cli.command import command
from clst_runtime.errors import MissingDependency
from clst_runtime.system import packages
from clst_runtime.system.optional import LONGEST, NO_TELEMETRY, check_installed, require
from tests.support.command_line import call

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
OWN = f"cpython-{sys.version_info[0]}{sys.version_info[1]}-x86_64-linux-gnu.so"
OTHER = "cpython-39-x86_64-linux-gnu.so"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of packages, first on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(packages._WHEELS, "segments", ("segments", "segments-gpu"))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def package(site, name, code="", *files):
    (site / name).mkdir()
    (site / name / "__init__.py").write_text(code)
    for file in files:
        (site / name / file).parent.mkdir(exist_ok=True)
        (site / name / file).write_bytes(b"")
    importlib.invalidate_caches()


def listed(folder, *wheels):
    for wheel in wheels:
        place = folder / f"{wheel.replace('-', '_')}-1.0.dist-info"
        place.mkdir(parents=True)
        (place / "METADATA").write_text(f"Name: {wheel}\nVersion: 1.0\n")
        (place / "RECORD").write_text("segments/__init__.py,,\n")
    importlib.invalidate_caches()


def refused(module):
    with pytest.raises(MissingDependency) as error:
        require(module)
    assert "\n" not in error.value.message
    return error.value.message


def test_a_package_of_another_python_is_named_with_both_versions(site):
    package(site, "segments", "from segments import _core", f"_core.{OTHER}")
    told = f"segments cannot be imported ({site}/segments is built for Python 3.9, this is Python {HERE}); take no "
    assert refused("segments").startswith(told)
    with pytest.raises(MissingDependency, match=r"built for Python 3.9"):
        check_installed("segments")  # without importing it


def test_a_package_for_several_pythons_is_none_of_another_one(site):
    package(site, "segments", "", f"capi/_core.{OTHER}", f"capi/_core.{OWN}")
    assert packages.fault_of("segments") is None
    package(site, "plain", "", "capi/core.so")
    assert packages.fault_of("plain") is None
    assert packages.fault_of("not_there_at_all") is None


def test_a_wheel_whose_files_another_one_took_along_is_to_be_installed_anew(site):
    """`pip uninstall onnxruntime-gpu` beside `onnxruntime`: pip believes that the latter is still there."""
    listed(site, "segments")
    told = refused("segments")
    assert "segments should be installed, but the files are gone: wheels like segments and segments-gpu own the" in told
    assert told.endswith("pip uninstall segments, then install one of them")
    (site / "segments").mkdir()  # with a folder that is left over, import gives an empty module
    assert "the files are gone" in refused("segments")


def test_a_folder_of_that_name_is_no_package(site):
    (site / "elements").mkdir()
    assert refused("elements").endswith(
        f"({site}/elements is a folder of that name without the package in it); move it away"
    )
    with pytest.raises(MissingDependency, match="without the package in it"):
        check_installed("elements")
    (site / "elements" / "part").mkdir()
    assert refused("elements.other").endswith("pip install elements")  # several packages may share a name, as `cuda`


def test_a_wheel_that_lost_some_of_its_files_is_named(site):
    package(site, "segments", "from segments.capi import core")
    listed(site, "segments")
    assert refused("segments") == (
        "segments cannot be imported (of the files of segments segments.capi is gone); "
        "pip install --force-reinstall --no-deps segments"
    )
    listed(site, "segments-gpu")
    assert refused("segments").endswith("pip uninstall segments segments-gpu, then install one of them")


def test_what_is_missing_and_was_asked_for_is_no_lost_file(site):
    package(site, "segments")
    listed(site, "segments")
    assert refused("segments.parts").endswith("(No module named 'segments.parts'); pip install segments")


def test_only_wheels_in_one_folder_are_rivals(site, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other")
    monkeypatch.syspath_prepend(str(other))
    listed(site, "segments")
    assert packages.rivals(("segments", "segments-gpu")) == []
    listed(other, "segments-gpu")
    assert packages.rivals(("segments", "segments-gpu")) == []  # the first folder on the path is taken, whole
    listed(other, "segments-tpu")
    assert packages.rivals(("segments", "segments-gpu", "segments-tpu")) == ["segments-gpu", "segments-tpu"]


def test_a_package_that_fails_because_of_another_one_blames_that(site):
    package(site, "segments", "import bricks")
    package(site, "bricks", "raise ImportError('a page of advice')", f"_core.{OTHER}")
    assert f"segments cannot be imported ({site}/bricks is built for Python 3.9" in refused("segments")


def test_a_page_of_advice_becomes_a_line(site):
    package(site, "segments", f"raise ImportError('first\\n\\n' + {'word ' * 200!r})")
    told = refused("segments")
    assert told.startswith("segments cannot be imported (first word word")
    assert len(told) < LONGEST + 200


def test_any_command_says_in_one_line_which_package_is_broken_but_keeps_the_traceback_of_a_fault_of_ours(site):
    package(site, "segments", "raise ImportError('line one\\nline two')")

    @command()
    @click.argument("module")
    def main(module):
        importlib.import_module(module)

    done = call(main, "segments")
    assert (done.exit_code, done.output) == (
        5,
        "error: segments cannot be imported (line one line two); pip install segments\n",
    )
    with pytest.raises(ModuleNotFoundError):
        call(main, "clst_runtime.no_such_module")


def left_by_onnx_runtime(tmp_path, importing):
    """What an import leaves in the folders for caches and for temporary files of a process of its own."""
    places = {"HOME": "home", "XDG_CACHE_HOME": "cache", "TMPDIR": "temporary"}
    for name in places.values():
        (tmp_path / name).mkdir()
    environment = {name: str(tmp_path / place) for name, place in places.items()} | {"PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", importing], env=environment, check=True)
    return [path for path in tmp_path.rglob("*") if path.is_file()]


def test_onnx_runtime_sends_no_telemetry_and_keeps_no_identifier(tmp_path):
    assert (
        left_by_onnx_runtime(tmp_path, "from clst_runtime.system.optional import require; require('onnxruntime')") == []
    )


def test_who_has_decided_about_its_telemetry_is_obeyed(monkeypatch):
    monkeypatch.setenv(NO_TELEMETRY, "0")
    require("onnxruntime")
    assert os.environ[NO_TELEMETRY] == "0"
    monkeypatch.delenv(NO_TELEMETRY)
    require("onnxruntime")
    assert os.environ[NO_TELEMETRY] == "1"
