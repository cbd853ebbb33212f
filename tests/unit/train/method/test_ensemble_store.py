"""The store's files, their copies in a checkpoint, and images that move to other processes."""

import errno
import math
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from clst_runtime.errors import ClstError, ModelFileError
from clst_runtime.imaging.image_files import write_png
from clst_train.compute.ranks import Ranks
from clst_train.data.target import open_target
from clst_train.method.ensemble.store import (
    create_store,
    remove_other_copies,
    restore_store,
    save_copy,
    shape_of,
    target_hash,
)

IMAGES = 7


def group(count):
    return [Ranks(rank=rank, count=count) for rank in range(count)]


def one_line(error, *words):
    text = error.value.format_message()
    assert "\n" not in text
    for word in words:
        assert word in text, text


def test_an_image_takes_two_bytes_a_class_and_cell():
    """Cityscapes' 2975 training images at 1024x512 and stride 8: 0.93 GB, of which four processes have a quarter."""
    assert 2 * math.prod(shape_of(Ranks(), 2975, 19, (64, 128))) == 2 * 2975 * 19 * 64 * 128 == 926_105_600
    assert [shape_of(here, 2975, 19, (64, 128))[0] for here in group(4)] == [744, 744, 744, 743]


def test_the_hash_tells_lists_of_images_apart_but_not_folders(tmp_path):
    def listed(folder, *names, side=8):
        rng = np.random.default_rng(0)
        for name in names:
            write_png(tmp_path / folder / name, rng.integers(256, size=(side, side, 3), dtype=np.uint8))
        return target_hash(open_target([str(tmp_path / folder)], input_hw=(8, 8)))

    first = listed("a", "1.png", "2.png")
    assert listed("b", "1.png", "2.png") == first
    assert listed("c", "1.png", "3.png") != first
    assert listed("d", "1.png") != first
    assert listed("e", "1.png", "2.png", side=9) != first


def test_an_empty_store_is_a_npy_file_of_zeros_that_are_on_the_disk(tmp_path):
    store = create_store(tmp_path / "e.npy", (3, 4, 50, 60))
    assert store.shape == (3, 4, 50, 60)
    assert store.dtype == np.uint16
    assert (tmp_path / "e.npy").stat().st_blocks * 512 >= 2 * 3 * 4 * 50 * 60
    store[1] = 7
    again = np.load(tmp_path / "e.npy")
    assert again[1].min() == 7
    assert not again[[0, 2]].any()
    assert create_store(tmp_path / "none.npy", (0, 4, 5, 6)).shape == (0, 4, 5, 6)  # a process without an image


def test_a_limit_of_the_system_is_one_line_and_leaves_nothing(tmp_path):
    """A real refusal, as of a full disk: this process may not write files of more than 1 MB."""
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from clst_train.method.ensemble.store import create_store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
        "create_store(Path(sys.argv[1]), (99, 4, 64, 64))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "e.npy")], capture_output=True, text=True)
    expected = r"DataError: cannot write .*e\.npy: File too large, the ensemble needs 3 MiB and \d+ MiB are free"
    assert re.search(expected, done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []


def saved(folder, count, iteration=7):
    """Copies by so many processes: image i has the value i + 1 everywhere; the last image was never visited."""
    visits = np.array([3, 1, 2, 5, 1, 1, 0])
    for here in group(count):
        working = folder / f"work-{here.rank}.npy"
        store = create_store(working, shape_of(here, IMAGES, 2, (1, 3)))
        for row, image in enumerate(here.share(IMAGES)):
            store[row] = (image + 1) * bool(visits[image])
        save_copy(working, folder / "checkpoints", iteration, here)
        store[:] = 99  # runs ahead
    return visits


def restored(folder, here, processes, visits, iteration=7):
    store = create_store(folder / "again.npy", shape_of(here, IMAGES, 2, (1, 3)))
    visits = visits.copy()
    lost = restore_store(store, folder / "checkpoints", iteration, processes, visits, here)
    assert all(row.min() == row.max() for row in store)
    return dict(zip(here.share(IMAGES), store[:, 0, 0, 0].tolist(), strict=True)), visits.tolist(), lost


@pytest.mark.parametrize("now", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("before", [1, 2, 3, 7, 8])
def test_every_average_goes_to_the_process_that_has_its_image_now(tmp_path, before, now):
    visits = saved(tmp_path, before)
    averages, counted = {}, np.zeros(IMAGES, int)
    for here in group(now):
        found, kept, lost = restored(tmp_path, here, before, visits)
        assert lost == 0
        averages |= found
        counted += kept
    assert averages == {0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 0}
    assert counted.tolist() == visits.tolist()


def test_images_whose_copy_another_machine_has_begin_anew(tmp_path):
    """Of three processes' copies that of images 1 and 4 is not here."""
    visits = saved(tmp_path, 3)
    (tmp_path / "checkpoints" / "ensemble-7-1-of-3.npy").unlink()
    found, kept, lost = restored(tmp_path, Ranks(), 3, visits)
    assert found == {0: 1, 1: 0, 2: 3, 3: 4, 4: 0, 5: 6, 6: 0}
    assert kept == [3, 0, 2, 5, 0, 1, 0]
    assert lost == 2


def test_a_copy_that_is_missing_damaged_or_of_another_run_is_refused(tmp_path):
    visits = saved(tmp_path, 1)
    copy = tmp_path / "checkpoints" / "ensemble-7-0-of-1.npy"
    with pytest.raises(ModelFileError) as error:
        restored(tmp_path, Ranks(), 1, visits, iteration=8)
    one_line(error, "ensemble-8-0-of-1.npy: no such copy of the ensemble", "start a new run")
    whole = copy.read_bytes()
    for content in (b"", whole[:40], whole[:-1], b"no numbers"):
        copy.write_bytes(content)
        with pytest.raises(ModelFileError) as error:
            restored(tmp_path, Ranks(), 1, visits)
        one_line(error, "ensemble-7-0-of-1.npy is damaged; restore it")
    for other in (np.zeros((IMAGES, 3, 1, 3), np.uint16), np.zeros((IMAGES, 2, 1, 3), np.float32)):
        np.save(copy, other)
        with pytest.raises(ModelFileError) as error:
            restored(tmp_path, Ranks(), 1, visits)
        one_line(error, "is of another run", str(other.shape), "expected uint16 of (7, 2, 1, 3)")


def test_only_the_copies_that_resume_names_are_kept(tmp_path):
    for iteration, count in ((5, 3), (7, 2), (70, 1)):
        saved(tmp_path, count, iteration)
    (tmp_path / "checkpoints" / "resume.pt").write_bytes(b"")
    remove_other_copies(tmp_path / "checkpoints", 7)
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["ensemble-7-0-of-2.npy", "ensemble-7-1-of-2.npy", "resume.pt"]


def test_a_full_disk_at_a_checkpoint_keeps_the_copy_before(tmp_path, monkeypatch):
    saved(tmp_path, 1)

    def half(source, destination):
        destination.write_bytes(source.read_bytes()[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(ClstError) as error:
        save_copy(tmp_path / "work-0.npy", tmp_path / "checkpoints", 8, Ranks())
    one_line(error, "ensemble-8-0-of-1.npy: No space left on device; nothing of it was left behind")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["ensemble-7-0-of-1.npy"]
