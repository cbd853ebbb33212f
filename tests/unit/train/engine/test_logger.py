"""The log of a run: lines, and what is forgotten when a broken-off run is gone on with."""

import json

import pytest

from clst_train.engine.logger import Logbook


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_an_entry_is_a_line_and_what_is_no_number_becomes_null(tmp_path):
    book = Logbook(tmp_path)
    book.add("source", 1, loss=2.5, miou=float("nan"))
    assert lines(tmp_path) == [{"stage": "source", "iteration": 1, "loss": 2.5, "miou": None}]


@pytest.mark.parametrize(
    "damaged", ['{"stage": "sou', '{"stage": "sou{"stage": "source", "iteration": 2}', "{}", "\0\xff"]
)
def test_a_half_written_or_damaged_line_is_left_out(tmp_path, damaged):
    good = '{"stage": "source", "iteration": %d, "loss": 1.0}\n'
    (tmp_path / "log.jsonl").write_text(good % 1 + damaged + "\n" + good % 3, encoding="latin-1")
    assert [entry["iteration"] for entry in Logbook(tmp_path).entries] == [1, 3]


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


def test_the_curves_show_every_part_of_the_loss_that_was_logged(tmp_path, monkeypatch):
    """Steps of entropy first, then steps by labels: a part that one of them has is there."""
    from matplotlib.figure import Figure

    shown = []

    def noted(figure, *_, **__):
        legends = [axes.get_legend() for axes in figure.axes]
        shown.append([[text.get_text() for text in legend.get_texts()] for legend in legends if legend is not None])

    book = Logbook(tmp_path)
    book.add("adapted", 1, loss=1.0, source=0.9, entropy=0.5)
    book.add("adapted", 2, loss=1.0, source=0.9, self_training=0.1, contrastive=0.1, confidence=0.5)
    monkeypatch.setattr(Figure, "savefig", noted)
    book.draw()
    parts = ["loss", "source", "self_training", "contrastive", "entropy"]
    assert shown == [[parts, ["confidence"]]]


def test_the_old_network_is_a_level_line_and_the_beginning_of_self_training_an_upright_one(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    shown = []

    def noted(figure, *_, **__):
        shown.append([[(line.get_label(), *line.get_data()) for line in axes.lines] for axes in figure.axes])

    monkeypatch.setattr(Figure, "savefig", noted)
    book = Logbook(tmp_path, steps_before_labels=30)
    for iteration, miou in ((1, 20.0), (2, 41.25)):
        book.add("source", iteration, miou=miou)
    book.draw()
    book.add("adapted", 100, loss=1.0, miou=44.0)
    book.draw()
    (_, _, loss, quality), (_, _, later_loss, later_quality) = shown
    assert (loss, quality) == ([], [])  # there is no adaptation yet
    begins = ("self-training begins", [30, 30], [0, 1])
    assert later_loss[1:] == [begins]
    assert later_quality[1:] == [("old network, miou 41.2", [0, 1], [41.25, 41.25]), begins]


def test_without_a_score_of_the_old_network_and_steps_of_entropy_there_are_no_such_lines(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    shown = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: shown.extend(len(a.lines) for a in figure.axes))
    book = Logbook(tmp_path)
    book.add("adapted", 100, loss=1.0, miou=44.0)
    book.draw()
    assert shown == [0, 0, 1, 1]


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
