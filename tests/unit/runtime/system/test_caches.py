"""Where kept things lie, and that only so many are kept."""

import os
from pathlib import Path

import pytest

from clst_runtime.system.files import caches
from clst_runtime.system.files.caches import KEPT, cache_root, use_folder


def test_a_service_keeps_them_where_its_manager_says(monkeypatch, tmp_path):
    monkeypatch.setenv("CACHE_DIRECTORY", f"{tmp_path}/service:{tmp_path}/other")
    assert cache_root("rtx") == tmp_path / "service" / "rtx"
    monkeypatch.delenv("CACHE_DIRECTORY")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(caches.os.path, "expanduser", lambda path: path)  # no home
    assert cache_root("rtx") == Path("/var/cache/clst/rtx")


def test_a_folder_is_new_once_and_then_the_one_that_was_used_last(tmp_path):
    assert use_folder(tmp_path / "kind" / "a")
    (tmp_path / "kind" / "a" / "content").write_bytes(b"kept")
    os.utime(tmp_path / "kind" / "a", (0, 0))
    assert not use_folder(tmp_path / "kind" / "a")
    for number in range(KEPT - 1):
        os.utime(tmp_path / "kind" / "a", (10**9, 10**9))
        use_folder(tmp_path / "kind" / str(number))
    assert (tmp_path / "kind" / "a" / "content").read_bytes() == b"kept"
    use_folder(tmp_path / "kind" / "one too many")
    assert not (tmp_path / "kind" / "a").exists()


def test_a_place_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    (tmp_path / "kind").write_text("a file")
    with pytest.raises(OSError):
        use_folder(tmp_path / "kind" / "a")


def test_two_programs_that_use_a_folder_at_once_do_not_disturb_one_another(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "write_bytes", lambda self, content: len(content))  # the other one has removed it since
    assert use_folder(tmp_path / "kind" / "a")
    (tmp_path / "kind" / "gone").symlink_to("nowhere")  # listed, and removed by the other one since
    assert not use_folder(tmp_path / "kind" / "a")
