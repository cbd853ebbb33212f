"""TensorRT for RTX is loaded, or one line says what stands in the way and how to get it."""

import importlib.metadata
import sys
from types import SimpleNamespace

import pytest

from clst_runtime.backends.tensorrt.rtx import library as rtx
from clst_runtime.errors import MissingDependency

NAMES = ("libtensorrt_rtx.so.1.7.1", "libtensorrt_onnxparser_rtx.so.1.7.1")


def load():
    """Not from the cache."""
    return rtx.load_rtx.__wrapped__()


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """Where other bindings, libraries and NVIDIA's own package may lie; none is there. The platform has wheels."""
    monkeypatch.setattr(rtx, "BINDINGS", "rtx_test_bindings")
    monkeypatch.setattr(rtx, "LIBRARIES", "rtx_test_libraries")
    monkeypatch.setattr(rtx, "COMPLETE", "rtx_test_complete")
    monkeypatch.setattr(rtx, "BINDINGS_PACKAGE", "rtx-test-bindings")
    monkeypatch.setattr(rtx, "sys", SimpleNamespace(platform="linux", version_info=(3, 13)))
    monkeypatch.setattr(rtx, "platform", SimpleNamespace(machine=lambda: "x86_64"))
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(name, code="", files=(), content=b""):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
        for each in files:
            (tmp_path / name / each).write_bytes(content)

    yield add
    for name in ("rtx_test_bindings", "rtx_test_complete"):
        sys.modules.pop(name, None)


@pytest.fixture
def libraries():
    """Files that load as libraries: any that this interpreter has loaded."""
    import _ctypes

    with open(_ctypes.__file__, "rb") as stream:
        return stream.read()


def refused(*told):
    with pytest.raises(MissingDependency) as error:
        load()
    assert "\n" not in error.value.message
    assert all(words in error.value.message for words in told), error.value.message
    return error.value.message


def test_the_real_one_has_a_parser_and_a_builder_and_its_own_version(trt):
    assert trt.__version__ == importlib.metadata.version("tensorrt-rtx-cu13-bindings")
    assert load() is trt
    assert {"Builder", "OnnxParser"} <= set(dir(trt))


def test_without_any_of_it_the_extra_is_named(packages):
    assert refused() == "TensorRT for RTX is not installed; pip install -e '.[rtx]'"


@pytest.mark.parametrize(
    ("there", "lacking"),
    [("rtx_test_bindings", "rtx_test_libraries is missing"), ("rtx_test_libraries", "rtx_test_bindings is missing")],
)
def test_with_one_of_the_two_packages_the_other_is_named(packages, there, lacking):
    packages(there)
    refused(lacking, "pip install -e '.[rtx]'")


@pytest.mark.parametrize(
    ("system", "machine", "version", "here"),
    [
        ("linux", "aarch64", (3, 12), "Linux aarch64 with Python 3.12.0"),
        ("darwin", "arm64", (3, 12), "Darwin arm64 with Python 3.12.0"),
        ("linux", "x86_64", (3, 14), "Linux x86_64 with Python 3.14.0"),
    ],
)
def test_where_there_is_no_wheel_nobody_is_told_to_install_one(packages, monkeypatch, system, machine, version, here):
    python = ".".join(map(str, (*version, 0)))
    monkeypatch.setattr(rtx, "sys", SimpleNamespace(platform=system, version_info=version))
    asked = {"machine": machine, "system": system.capitalize(), "python_version": python}
    monkeypatch.setattr(rtx, "platform", SimpleNamespace(**{name: (lambda it=it: it) for name, it in asked.items()}))
    assert "pip" not in refused(f"no package of it for {here}, only for x86-64 Linux with Python up to 3.13")


def test_nvidias_complete_package_is_taken_where_the_pair_is_not_installed(packages):
    packages("rtx_test_complete", "__version__ = '1.8.0'")
    assert load().__version__ == "1.8.0"


def test_bindings_of_another_version_than_the_library_are_refused_before_they_are_loaded(packages, tmp_path):
    packages("rtx_test_bindings", "raise AssertionError('imported')")
    packages("rtx_test_libraries", files=NAMES)
    (tmp_path / "rtx_test_bindings-1.6.0.34.dist-info").mkdir()
    (tmp_path / "rtx_test_bindings-1.6.0.34.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: rtx-test-bindings\nVersion: 1.6.0.34\n"
    )
    refused("bindings 1.6.0.34 and library 1.7.1 do not fit each other", "--force-reinstall -e '.[rtx]'")


def test_bindings_of_another_python_are_refused_with_their_own_words(packages, libraries):
    told = "Python version mismatch: module was compiled for Python 3.11"
    packages("rtx_test_bindings", f"raise ImportError({told!r})")
    packages("rtx_test_libraries", files=NAMES, content=libraries)
    refused(told)


@pytest.mark.parametrize(("content", "told"), [(b"", "file too short"), (b"rubbish" * 99, "invalid ELF header")])
def test_a_damaged_library_is_a_line(packages, content, told):
    packages("rtx_test_bindings")
    packages("rtx_test_libraries", files=NAMES, content=content)
    refused("does not load", told, "--force-reinstall -e '.[rtx]'")


def test_names_that_the_libraries_package_adds_when_it_is_imported_do_not_matter(packages, libraries, tmp_path):
    """Links, or where those cannot be made copies."""
    packages("rtx_test_bindings", "__version__ = '1.7.1.116'")
    packages("rtx_test_libraries", files=NAMES, content=libraries)
    for name in NAMES:
        (tmp_path / "rtx_test_libraries" / name.replace(".1.7.1", "")).symlink_to(name)
        (tmp_path / "rtx_test_libraries" / name.replace(".1.7.1", ".1")).write_bytes(libraries)
    assert load().__version__ == "1.7.1.116"


def test_a_library_that_is_gone_is_a_line(packages):
    packages("rtx_test_bindings")
    packages("rtx_test_libraries", files=NAMES[1:])
    refused("rtx_test_libraries lacks libtensorrt_rtx.so.*", "--force-reinstall -e '.[rtx]'")


def test_the_message_of_bindings_that_do_not_load_names_the_extra(monkeypatch):
    """The real module's name, which `require` knows the cure for."""
    monkeypatch.setitem(sys.modules, rtx.BINDINGS, None)
    with pytest.raises(MissingDependency, match=r"cannot be imported .*pip install --force-reinstall -e '\.\[rtx\]'"):
        rtx.require(rtx.BINDINGS)
