"""Minutes decide, not frames; a fault is not another camera."""

import json

import numpy as np
import pytest

from clst_runtime.live.monitor.drift import FAULTY_FRAMES, HELD, LEAST_WINDOW, WINDOW, DriftDetector, State
from tests.unit.runtime.live.monitor.conftest import OTHER, image, prediction


@pytest.fixture
def detector(reference):
    return DriftDetector(reference, 3)


def look(detector, indices, level=100):
    """The states after each of some frames."""
    return [detector.look(frame := image(index, level), prediction(frame)).state for index in indices]


def look_at(detector, frame, times=1):
    return [detector.look(frame, prediction(frame)).state for _ in range(times)]


def test_the_own_camera_is_known_after_the_first_window_and_stays_known(detector):
    states = look(detector, range(100, 300))
    assert states[: LEAST_WINDOW - 1] == [State.UNKNOWN] * (LEAST_WINDOW - 1)
    assert states[LEAST_WINDOW - 1 :] == [State.SAME] * (200 - LEAST_WINDOW + 1)
    assert detector.status.window == WINDOW
    assert detector.status.text.startswith("this looks like the model's camera: shift 0.")


def test_another_camera_is_believed_after_a_minute_and_a_half_and_no_sooner(detector):
    states = look(detector, range(LEAST_WINDOW + HELD - 2), OTHER)
    assert set(states) == {State.UNKNOWN}
    assert detector.status.text.startswith(
        "this looks like another camera, but it is not sure yet (89 of 90 looks): shift "
    )
    assert detector.status.leaning is State.OTHER
    assert look(detector, [900], OTHER) == [State.OTHER]
    told = detector.status
    assert "this looks like another camera: shift" in told.text
    assert told.comparison.part in ("brightness", "classes")
    assert told.to_json()["shift"] > told.to_json()["threshold"] == 1.5


def test_a_change_on_the_way_is_noticed_and_so_is_the_way_back(detector):
    look(detector, range(60))
    states = look(detector, range(200), OTHER)
    first = states.index(State.OTHER)
    assert HELD - 1 <= first < HELD + WINDOW
    assert set(states[:first]) == {State.SAME}
    assert set(states[first:]) == {State.OTHER}
    back = look(detector, range(300, 300 + HELD + WINDOW))
    assert back[HELD - 2] is State.OTHER
    assert back[-1] is State.SAME


def test_a_tunnel_of_a_minute_is_not_another_camera(detector):
    look(detector, range(40))
    assert set(look(detector, range(HELD - WINDOW), 30)) == {State.SAME}
    assert detector.status.comparison.shift > 1.5
    assert set(look(detector, range(300, 400))) == {State.SAME}


def test_what_the_newest_frames_look_like_is_told_while_it_is_not_believed_yet(detector):
    assert look(detector, range(LEAST_WINDOW), OTHER)[-1] is State.UNKNOWN
    told = detector.status.to_json()
    assert (told["state"], told["leaning"], told["held"], told["needed"]) == ("unknown", "other", 1, 90)
    assert told["words"].startswith("this looks like another camera, but it is not sure yet (1 of 90 looks): shift ")
    look(detector, range(HELD - 1), OTHER)
    told = detector.status.to_json()
    assert (told["state"], told["leaning"]) == ("other", None)
    assert "sure" not in told["words"]
    look(detector, range(300, 300 + WINDOW))  # the own camera again, for the whole window
    told = detector.status.to_json()
    assert (told["state"], told["leaning"]) == ("other", "same")
    assert told["words"].startswith("this looks like the model's camera again, but it is not sure yet (")
    assert f"of 90 looks): shift {told['shift']:.1f} (another camera above 1.5)" in told["words"]


def test_a_camera_known_so_far_that_looks_like_another_one_is_not_called_the_own_without_a_doubt(detector):
    look(detector, range(40))
    look(detector, range(WINDOW), OTHER)
    told = detector.status.to_json()
    assert (told["state"], told["leaning"]) == ("same", "other")
    assert told["words"].startswith("this looks like another camera, but it is not sure yet (")
    black = np.zeros((32, 48, 3), np.uint8)
    look_at(detector, black, FAULTY_FRAMES)
    assert detector.status.to_json()["leaning"] is None, "of a camera that sees nothing, nothing is said"


def test_between_the_thresholds_another_camera_is_told_with_the_threshold_that_it_is_above(detector, monkeypatch):
    look(detector, range(LEAST_WINDOW + HELD - 1), OTHER)
    monkeypatch.setattr("clst_runtime.live.monitor.drift.OTHER_ABOVE", 1e9)
    assert look(detector, [900], OTHER) == [State.OTHER]
    assert "(the model's own below 1.2)" in detector.status.text


def test_between_the_two_thresholds_nothing_changes(detector, monkeypatch):
    look(detector, range(40))
    monkeypatch.setattr("clst_runtime.live.monitor.drift.OTHER_ABOVE", -1.0)
    assert set(look(detector, range(40, 40 + HELD - 1))) == {State.SAME}
    assert look(detector, [500]) == [State.OTHER]
    monkeypatch.setattr("clst_runtime.live.monitor.drift.OTHER_ABOVE", 1e9)
    monkeypatch.setattr("clst_runtime.live.monitor.drift.SAME_BELOW", -1e9)
    assert set(look(detector, range(600, 600 + 2 * HELD))) == {State.OTHER}


def test_a_frozen_camera_is_told_and_forgotten_when_it_moves_again(detector):
    look(detector, range(40))
    frame = image(77)
    states = look_at(detector, frame, FAULTY_FRAMES + 3)
    assert states == [State.SAME] * FAULTY_FRAMES + [State.FROZEN] * 3
    assert "frozen" in detector.status.text
    assert look(detector, [78]) == [State.SAME]


def test_a_lens_that_is_covered_or_blinded_is_told_and_is_no_other_camera(detector):
    look(detector, range(40))
    for level in (0, 255):
        noise = np.random.default_rng(level)
        dull = [np.clip(level + noise.normal(0.0, 1.0, (32, 48, 3)), 0, 255).astype(np.uint8) for _ in range(150)]
        states = [detector.look(frame, prediction(frame)).state for frame in dull]
        assert states == [State.SAME] * (FAULTY_FRAMES - 1) + [State.UNIFORM] * (150 - FAULTY_FRAMES + 1)
        assert not detector.took_last
        assert "black, blinded or covered" in detector.status.text
        assert look(detector, [500 + level]) == [State.SAME]
    assert detector.status.comparison.shift < 1.2


def test_a_fault_from_the_start_needs_no_window(detector):
    states = look_at(detector, np.zeros((32, 48, 3), np.uint8), FAULTY_FRAMES)
    assert states[-1] is State.UNIFORM
    assert detector.status.to_json()["shift"] is None


def test_before_the_first_frame_there_is_a_judgement_in_plain_values(detector):
    told = detector.status.to_json()
    assert (told["state"], told["window"], told["shift"], told["parts"]) == ("unknown", 0, None, {})
    assert (told["leaning"], told["words"]) == (None, "the camera is not judged yet: 0 frames looked at, 16 needed")
    assert json.loads(json.dumps(told)) == told
