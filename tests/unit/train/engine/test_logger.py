"""The log of a run: lines, event files, and what is forgotten when a broken-off run is gone on with."""

import json
import sys

import pytest

from clst_runtime.errors import MissingDependency
from clst_train.engine.events import EventFiles, check_tensorboard
from clst_train.engine.logger import Logbook


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_an_entry_is_a_line_and_what_is_no_number_becomes_null(tmp_path):
    book = Logbook(tmp_path)
    book.add("source", 1, loss=2.5, miou=float("nan"))
    assert lines(tmp_path) == [{"stage": "source", "iteration": 1, "loss": 2.5, "miou": None}]
    assert not (tmp_path / "tensorboard").exists()


def test_a_half_written_last_line_is_left_out(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"stage": "source", "iteration": 1, "loss": 1.0}\n{"stage": "sou')
    assert [entry["iteration"] for entry in Logbook(tmp_path).entries] == [1]


def test_what_lies_past_the_checkpoint_is_forgotten_and_earlier_stages_are_kept(tmp_path):
    book = Logbook(tmp_path)
    for stage, iteration in (("source", 9), ("adapted", 1), ("adapted", 2)):
        book.add(stage, iteration, loss=1.0)
    book.forget_after("adapted", 1)
    assert [(e["stage"], e["iteration"]) for e in lines(tmp_path)] == [("source", 9), ("adapted", 1)]
    book.forget_after("source", 0)
    assert lines(tmp_path) == []


def test_an_empty_log_can_be_drawn(tmp_path):
    Logbook(tmp_path).draw()
    assert (tmp_path / "curves.png").stat().st_size > 0


def scalars(folder, name):
    """(step, value) of one tag as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_scalars_land_in_the_event_files_under_their_names(tmp_path):
    pytest.importorskip("tensorboard")
    book = Logbook(tmp_path, EventFiles(tmp_path / "tensorboard"))
    book.add("source", 20, loss=2.5)
    book.add("adapted", 10, loss=0.5, agreement=0.75)
    assert scalars(tmp_path / "tensorboard" / "source", "loss") == [(20, 2.5)]
    assert scalars(tmp_path / "tensorboard" / "adapted", "loss") == [(10, 0.5)]
    assert scalars(tmp_path / "tensorboard" / "adapted", "agreement") == [(10, 0.75)]


def test_a_resumed_run_shows_no_step_twice_and_hides_none_of_the_other_stage(tmp_path):
    pytest.importorskip("tensorboard")
    book = Logbook(tmp_path, EventFiles(tmp_path / "tensorboard"))
    for iteration in (1, 2, 3, 4):
        book.add("source", iteration, loss=float(iteration))
    for iteration in (1, 2, 3):
        book.add("adapted", iteration, loss=float(iteration))
    again = Logbook(tmp_path, EventFiles(tmp_path / "tensorboard"))
    again.forget_after("adapted", 1)
    for iteration in (2, 3):
        again.add("adapted", iteration, loss=10.0 * iteration)
    assert scalars(tmp_path / "tensorboard" / "adapted", "loss") == [(1, 1.0), (2, 20.0), (3, 30.0)]
    assert [step for step, _ in scalars(tmp_path / "tensorboard" / "source", "loss")] == [1, 2, 3, 4]


def test_without_the_package_event_files_are_refused_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith(("tensorboard.", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingDependency, match=r"pip install -e '\.\[tensorboard\]'") as caught:
        check_tensorboard()
    assert "\n" not in caught.value.message
    with pytest.raises(MissingDependency):
        EventFiles(tmp_path / "tensorboard")
    assert list(tmp_path.iterdir()) == []


def test_the_curves_show_every_part_of_the_loss_that_was_logged(tmp_path, monkeypatch):
    """Steps of entropy first, then steps by labels: a part that one of them has is there."""
    from matplotlib.figure import Figure

    shown = []

    def noted(figure, *_, **__):
        legends = [axes.get_legend() for axes in figure.axes]
        shown.append([[text.get_text() for text in legend.get_texts()] for legend in legends if legend is not None])

    book = Logbook(tmp_path)
    book.add("adapted", 1, loss=1.0, source=0.9, entropy=0.5)
    book.add("adapted", 2, loss=1.0, source=0.9, self_training=0.1, contrastive=0.1, distillation=0.2, confidence=0.5)
    monkeypatch.setattr(Figure, "savefig", noted)
    book.draw()
    parts = ["loss", "source", "self_training", "contrastive", "entropy", "distillation"]
    assert shown == [[parts, ["confidence"]]]


def test_a_value_that_was_logged_once_is_a_dot_as_a_line_of_one_point_cannot_be_seen(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    shown = []
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *_, **__: shown.extend(figure.axes[0].lines + figure.axes[2].lines)
    )
    book = Logbook(tmp_path)
    book.add("source", 5, loss=1.0)
    book.add("adapted", 1, loss=1.0)
    book.add("adapted", 2, loss=0.5)
    book.draw()
    assert [line.get_marker() for line in shown] == [".", "None"]
