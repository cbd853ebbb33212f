"""The store's file and its copies in a checkpoint."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clst_runtime.errors import ClstError, ConfigError, DataError, ModelFileError
from clst_runtime.imaging.image_files import write_png
from clst_train.config import AdaptationConfig
from clst_train.data.target import open_target
from clst_train.method.ensemble import snapshot
from clst_train.method.ensemble.snapshot import copy_file, remove_other_snapshots, restore_snapshot, save_snapshot
from clst_train.method.ensemble.store import EnsembleStore, StoreLayout, choose_layout, target_hash
from clst_train.method.ensemble.temporal import TemporalEnsemble


def layout(**changes):
    return StoreLayout(**({"images": 3, "classes": 4, "size_hw": (5, 6), "top_k": 2, "target": "t"} | changes))


def one_line(error, *words):
    text = error.value.format_message()
    assert "\n" not in text
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(
    ("classes", "top_k", "expected"),
    [
        (19, None, 64 * 128 * (2 * 19 + 1)),  # 16 bits a class and 8 bits of visits
        (19, 5, 64 * 128 * (2 * 5 + 5 + 1)),  # 16 bits and a class id for each of five
    ],
)
def test_bytes_of_an_image_are_those_of_the_arithmetic(classes, top_k, expected):
    full = layout(images=2975, classes=classes, size_hw=(64, 128), top_k=top_k)
    assert full.record.itemsize == expected
    assert full.file_bytes == 4096 + 12288 + 2975 * expected  # 2975 counts of 4 bytes fill three blocks


def test_top_5_of_19_classes_at_stride_8_is_below_a_300th_of_dense_float32():
    assert 1024 * 512 * 19 * 4 / layout(classes=19, size_hw=(64, 128), top_k=5).record.itemsize >= 300


@pytest.mark.parametrize(
    ("store", "images", "classes", "top_k", "expected"),
    [
        ("auto", 800, 19, 5, None),  # 800 × 319,488 B = 243.8 MiB
        ("auto", 900, 19, 5, 5),  # 274.2 MiB
        ("auto", 10000, 7, 5, None),  # five values with ids (15 B) are more than seven values (14 B)
        ("exact", 900, 19, 5, None),
        ("top_k", 1, 19, 3, 3),
    ],
)
def test_auto_keeps_every_class_where_that_is_small(store, images, classes, top_k, expected):
    settings = AdaptationConfig(ensemble_store=store, ensemble_top_k=top_k)
    chosen = choose_layout(settings, images=images, classes=classes, size_hw=(64, 128), target="t")
    assert chosen.top_k == expected


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="ensemble_store = 'topk'; give auto, exact or top_k"):
        AdaptationConfig(ensemble_store="topk")
    with pytest.raises(ConfigError, match="ensemble_top_k = 0; give 1 or more"):
        AdaptationConfig(ensemble_top_k=0)
    settings = AdaptationConfig(ensemble_store="top_k", ensemble_top_k=4)
    with pytest.raises(ConfigError) as error:
        choose_layout(settings, images=1, classes=4, size_hw=(1, 1), target="t")
    one_line(error, "ensemble_top_k = 4 of 4 classes", 'ensemble_store = "exact"')
    with pytest.raises(ConfigError, match="257 classes; 1 to 256"):
        layout(classes=257)


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


def test_what_is_written_is_there_when_it_is_opened_again(tmp_path):
    store = EnsembleStore.create(tmp_path / "e.store", layout())
    assert (tmp_path / "e.store").stat().st_size == layout().file_bytes
    ensemble = TemporalEnsemble(store, 0.9)
    ensemble.update(np.array([1, 2]), torch.rand(2, 4, 5, 6).softmax(1))
    ensemble.flush()
    again = TemporalEnsemble(EnsembleStore.open(tmp_path / "e.store", layout(), 0), 0.9)
    assert np.array_equal(again.read(np.arange(3)), ensemble.read(np.arange(3)))
    assert again.visits.tolist() == [0, 1, 1]
    again.store.expect(np.arange(3))
    EnsembleStore(layout(), np.zeros(layout().file_bytes, np.uint8)).expect(np.arange(3))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": 4}, ("images 3, expected 4",)),
        ({"target": "u"}, ("target t, expected u",)),
        ({"classes": 5, "top_k": None}, ("classes 4, expected 5", "top_k 2, expected None")),
        ({"size_hw": (6, 5)}, ("size_hw [5, 6], expected [6, 5]",)),
    ],
)
def test_a_store_of_another_run_is_refused(tmp_path, change, words):
    EnsembleStore.create(tmp_path / "e.store", layout())
    with pytest.raises(ModelFileError) as error:
        EnsembleStore.open(tmp_path / "e.store", layout(**change), 0)
    one_line(error, "e.store is the store of another run", "start a new run", *words)


def test_a_missing_damaged_cut_or_foreign_file_is_refused(tmp_path):
    path = tmp_path / "e.store"
    with pytest.raises(ModelFileError, match="no such store"):
        EnsembleStore.open(path, layout(), 0)
    for content in (b"", b"[1]", np.random.default_rng(0).bytes(9000)):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match="damaged or no store"):
            EnsembleStore.open(path, layout(), 0)
    path.write_text(json.dumps({"format": "clst-ensemble-0"}))
    with pytest.raises(ModelFileError, match="'clst-ensemble-0', expected 'clst-ensemble-1'"):
        EnsembleStore.open(path, layout(), 0)
    EnsembleStore.create(path, layout())
    os.truncate(path, layout().file_bytes - 1)
    with pytest.raises(ModelFileError) as error:
        EnsembleStore.open(path, layout(), 0)
    one_line(error, f"has {layout().file_bytes - 1} bytes, expected {layout().file_bytes}")
    with pytest.raises(ModelFileError, match="iteration 0, expected 5"):
        EnsembleStore.open(path, layout(), 5)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor, start, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for top_k, needed, hint in ((2, "needs 55 MiB", "(free some)"), (None, "needs 70 MiB", 'ensemble_store = "top_k"')):
        with pytest.raises(DataError) as error:
            EnsembleStore.create(tmp_path / "run" / "e.store", layout(images=2000, size_hw=(64, 64), top_k=top_k))
        one_line(error, "e.store: No space left on device", needed, "MiB are free", hint)
        assert list((tmp_path / "run").iterdir()) == []


def test_a_limit_of_the_system_is_one_line_and_leaves_nothing(tmp_path):
    """The same by a real refusal: this process may not write files of more than 1 MB."""
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from clst_train.method.ensemble.store import EnsembleStore, StoreLayout\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
        "layout = StoreLayout(images=99, classes=4, size_hw=(64, 64), top_k=None, target='t')\n"
        "EnsembleStore.create(Path(sys.argv[1]), layout)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "e.store")], capture_output=True, text=True)
    assert re.search(r"DataError: cannot write .*e\.store: File too large, the ensemble needs 3 MiB", done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["function", "support"])
def test_where_the_system_cannot_reserve_zeros_are_written(tmp_path, monkeypatch, missing):
    def unsupported(descriptor, start, size):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    if missing == "function":
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", unsupported)
    big = layout(images=40, size_hw=(64, 64))  # 1.1 MB: more than one block of zeros
    EnsembleStore.create(tmp_path / "e.store", big)
    assert (tmp_path / "e.store").stat().st_size == big.file_bytes
    assert (tmp_path / "e.store").stat().st_blocks * 512 >= big.file_bytes


@pytest.fixture
def saved(tmp_path):
    """A store with a copy at iteration 7, ahead of it by one update."""
    working, checkpoints = tmp_path / "ensemble.store", tmp_path / "checkpoints"
    ensemble = TemporalEnsemble(EnsembleStore.create(working, layout()), 0.9)
    ensemble.update(np.array([0, 2]), torch.rand(2, 4, 5, 6).softmax(1))
    state = save_snapshot(ensemble, working, checkpoints, 7)
    at_seven = ensemble.read(np.arange(3))
    ensemble.update(np.array([0, 1]), torch.rand(2, 4, 5, 6).softmax(1))
    ensemble.flush()
    return working, checkpoints, state, at_seven


def test_resuming_takes_the_copy_not_the_store_that_ran_ahead(saved):
    working, checkpoints, state, at_seven = saved
    assert state == {
        "snapshot": "ensemble-7.store",
        "iteration": 7,
        "bytes": layout().file_bytes,
        "crc32": state["crc32"],
    }
    restore_snapshot(state, checkpoints, working, layout())
    again = TemporalEnsemble(EnsembleStore.open(working, layout(), 7), 0.9)
    assert np.array_equal(again.read(np.arange(3)), at_seven)
    assert again.visits.tolist() == [1, 0, 1]
    again.update(np.array([1]), torch.full((1, 4, 5, 6), 0.25))
    again.flush()  # the copy is not the store: it stays as it was
    restore_snapshot(state, checkpoints, working, layout())
    third = TemporalEnsemble(EnsembleStore.open(working, layout(), 7), 0.9)
    assert third.visits.tolist() == [1, 0, 1]


def test_a_copy_that_is_missing_or_of_another_checkpoint_or_run_is_refused(saved):
    working, checkpoints, state, _ = saved
    copy = checkpoints / "ensemble-7.store"
    other = copy.with_name("ensemble-8.store")
    other.write_bytes(copy.read_bytes())
    with pytest.raises(ModelFileError) as error:
        restore_snapshot(state | {"snapshot": other.name, "iteration": 8}, checkpoints, working, layout())
    one_line(error, "iteration 7, expected 8")
    with pytest.raises(ModelFileError) as error:
        restore_snapshot(state, checkpoints, working, layout(images=62))
    one_line(error, "images 3, expected 62", "restore the run's own files, settings and target images")
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    with pytest.raises(ModelFileError) as error:
        restore_snapshot(state, checkpoints, working, layout())
    one_line(error, "not the copy that resume.pt was saved with", "--init", "source.pt")
    copy.unlink()
    with pytest.raises(ModelFileError) as error:
        restore_snapshot(state, checkpoints, working, layout())
    one_line(error, "ensemble-7.store: no such store")


def test_a_checkpoint_with_the_ensemble_inside_is_refused(tmp_path):
    old = {"store": torch.zeros(1), "visits": torch.zeros(1)}
    with pytest.raises(ModelFileError) as error:
        restore_snapshot(old, tmp_path, tmp_path / "e.store", layout())
    one_line(error, "resume.pt is of an earlier version", "--init", "source.pt")


def test_only_the_copy_that_resume_names_is_kept(saved):
    _, checkpoints, state, _ = saved
    (checkpoints / "ensemble-5.store").write_bytes(b"")
    (checkpoints / "ensemble-90.store").write_bytes(b"")
    (checkpoints / "resume.pt").write_bytes(b"")
    remove_other_snapshots(checkpoints, state)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["ensemble-7.store", "resume.pt"]


def test_a_full_disk_at_a_checkpoint_keeps_the_copy_before(saved, monkeypatch):
    working, checkpoints, _, _ = saved

    def half(source, destination):
        destination.write_bytes(source.read_bytes()[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    ensemble = TemporalEnsemble(EnsembleStore.open(working, layout(), 7), 0.9)
    monkeypatch.setattr(snapshot, "copy_file", half)
    with pytest.raises(ClstError) as error:
        save_snapshot(ensemble, working, checkpoints, 8)
    one_line(error, "ensemble-8.store: No space left on device; nothing of it was left behind")
    assert [path.name for path in checkpoints.iterdir()] == ["ensemble-7.store"]


@pytest.mark.parametrize("refusal", ["none", "missing", "unsupported", "part"])
@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_copy_is_whole_whatever_the_kernel_can_do(tmp_path, monkeypatch, refusal, size):
    content = np.random.default_rng(0).bytes(size)
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(b"")
    kernel = os.copy_file_range

    def unsupported(*arguments):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    def part(source, destination, count):
        return kernel(source, destination, min(count, 999))

    if refusal == "missing":
        monkeypatch.delattr(os, "copy_file_range")
    elif refusal != "none":
        monkeypatch.setattr(os, "copy_file_range", {"unsupported": unsupported, "part": part}[refusal])
    copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == content


def test_a_real_error_while_copying_is_not_hidden(tmp_path, monkeypatch):
    def broken(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "a").write_bytes(b"12")
    (tmp_path / "b").write_bytes(b"")
    monkeypatch.setattr(os, "copy_file_range", broken)
    with pytest.raises(OSError, match="Input/output error"):
        copy_file(Path(tmp_path / "a"), Path(tmp_path / "b"))
