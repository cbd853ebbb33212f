"""Ranges of activations: hand-counted histograms and cuts, and the frames they are measured on."""

import numpy as np
import pytest

from clst_export.quantization.calibration import (
    Method,
    Range,
    calibrate,
    calibration_frames,
    entropy_threshold,
    frames_digest,
    histogram,
    percentile_threshold,
    split_frames,
)
from clst_runtime.data.subsets import Subset
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import write_png
from clst_train.data import video_store
from tests.fakes.videos import jpeg, plain, write_avi
from tests.support.graphs import SIZE_HW, chain, frames

SMALL = {"first_relu", "middle", "middle_relu"}


def grey(value):
    return np.full((*SIZE_HW, 3), value, np.uint8)


# --- ranges of a graph's tensors


def test_the_largest_values_over_all_frames_are_found_on_both_sides():
    model = chain(np.diag([1.0, -0.5, 0.0]))
    found = calibrate(model, [grey(10), grey(200), grey(0)], SMALL, [Method.MAX])
    assert found == {
        Method.MAX: {
            "first_relu": Range(low=0.0, high=200.0),
            "middle": Range(low=-100.0, high=200.0),
            "middle_relu": Range(low=0.0, high=200.0),
        }
    }


def test_a_percentile_cuts_one_bright_pixel_and_max_does_not():
    frame = grey(0)
    frame[:] = 100
    bright = frame.copy()
    bright[0, 0] = 255  # of 128 × 100 pixels, so 3 of 38,400 values: fewer than one in 10,000
    found = calibrate(chain(np.eye(3)), [bright, *[frame] * 99], ["first_relu"])
    assert found[Method.MAX]["first_relu"].high == 255.0
    # 100 lies in bin ⌊100 × 2048 / 255⌋ = 803, whose upper edge is 804 / 2048 of 255
    assert found[Method.PERCENTILE]["first_relu"].high == pytest.approx(804 / 2048 * 255)
    assert list(found) == list(Method)


def test_max_alone_reads_every_frame_once_and_the_others_twice():
    class Counted(list):
        reads = 0

        def __iter__(self):
            Counted.reads += 1
            return super().__iter__()

    calibrate(chain(np.eye(3)), Counted(frames(2)), SMALL, [Method.MAX])
    assert Counted.reads == 1
    calibrate(chain(np.eye(3)), Counted(frames(2)), SMALL, list(Method))
    assert Counted.reads == 3


def test_a_tensor_that_is_always_zero_gets_an_empty_range_by_every_method():
    found = calibrate(chain(np.eye(3)), [grey(0)], ["first_relu"])
    assert {ranges["first_relu"] for ranges in found.values()} == {Range(low=0.0, high=0.0)}


def test_a_cut_limits_both_sides_but_widens_none():
    assert Range(low=-1.0, high=9.0).cut(3.0) == Range(low=-1.0, high=3.0)
    assert Range(low=-8.0, high=2.0).cut(3.0) == Range(low=-3.0, high=2.0)
    assert Range(low=-8.0, high=2.0).largest == 8.0


def test_no_frames_and_broken_weights_are_refused():
    with pytest.raises(DataError, match="no calibration images"):
        calibrate(chain(np.eye(3)), [], SMALL)
    with pytest.raises(DataError, match="tensor middle is infinite or NaN on calibration image 1"):
        calibrate(chain(np.diag([3e38, 1.0, 1.0])), [grey(1), grey(2)], ["middle"])


@pytest.mark.parametrize(("low", "high"), [(1.0, 2.0), (-2.0, -1.0), (0.0, np.nan), (-np.inf, 0.0)])
def test_a_range_without_zero_is_a_bug(low, high):
    with pytest.raises(ValueError, match="must be finite and hold 0"):
        Range(low=low, high=high)


# --- histograms and cuts, by hand


def test_a_histogram_counts_magnitudes_and_keeps_its_upper_edge():
    values = np.array([[0.0, -0.1, 0.3], [-1.0, 1.0, 0.25]], np.float32)
    assert histogram(values, 1.0, 4).tolist() == [2, 2, 0, 2]  # 0, −0.1 | 0.3, 0.25 | | ±1
    assert histogram(np.zeros(5, np.float32), 0.0, 4).tolist() == [5, 0, 0, 0]
    assert histogram(np.zeros(0, np.float32), 1.0, 2).tolist() == [0, 0]


def test_a_percentile_is_the_upper_edge_of_the_bin_where_it_is_reached():
    counts = np.array([0, 0, 0, 9999, 0, 0, 0, 0, 0, 1])
    assert percentile_threshold(counts, 99.99) == 0.4
    assert percentile_threshold(counts, 99.995) == 1.0
    assert percentile_threshold(counts, 100.0) == 1.0
    assert percentile_threshold(np.array([7]), 99.99) == 1.0


def slow_divergence(counts, end, levels):
    """The same definition, pixel by pixel: merge bins into levels, spread each evenly over its non-empty bins."""
    real = [float(count) for count in counts]
    real[0] = 0.0
    reference = real[:end]
    reference[-1] += sum(real[end:])
    guess = [0.0] * end
    for level in range(levels):
        bins = range(level * end // levels, (level + 1) * end // levels)
        held = [place for place in bins if real[place] > 0]
        for place in held:
            guess[place] = sum(real[other] for other in held) / len(held)
    total, guessed = sum(reference), sum(guess)
    if guessed == 0:
        return np.inf
    floor = 1e-4 / end
    return sum(
        r / total * np.log(r / total / max(g / guessed, floor)) for r, g in zip(reference, guess, strict=True) if r > 0
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_entropy_cut_is_the_one_of_a_slow_count(seed):
    random = np.random.default_rng(seed)
    counts = np.bincount(np.minimum(np.abs(random.normal(0, 12, 4000)).astype(int), 63), minlength=64)
    counts[60 + seed] += 3
    candidates = [8 + 8 * step for step in range(8)]
    best = min(candidates, key=lambda end: (slow_divergence(counts, end, 8), -end))
    assert entropy_threshold(counts, levels=8) == best / 64


def test_entropy_cuts_off_a_lonely_outlier_and_keeps_a_flat_histogram_whole():
    bell = np.histogram(np.abs(np.random.default_rng(0).normal(0, 100, 100_000)), 2048, (0, 2048))[0]
    bell[-1] = 1
    assert 250 / 2048 < entropy_threshold(bell) < 600 / 2048  # 2.5 to 6 deviations
    assert entropy_threshold(np.full(2048, 50)) == 1.0


def test_entropy_does_not_look_at_the_zeros_of_a_relu():
    counts = np.full(2048, 50)
    counts[0] = 10**9
    assert entropy_threshold(counts) == 1.0
    counts[1:] = 0
    assert entropy_threshold(counts) == 1.0  # nothing but zeros: nothing to cut


# --- which frames


def test_a_fingerprint_depends_on_pixels_order_and_size():
    first, second = frames(2)
    assert frames_digest([first, second]) == frames_digest([first.copy(), second.copy()])
    others = [[second, first], [first], [], [first.reshape(16, 8, 3), second], [first, second + 1]]
    assert len({frames_digest(each) for each in [[first, second], *others]}) == 6
    assert len(frames_digest([])) == 64


def test_a_split_takes_held_out_frames_from_the_whole_drive_and_loses_none():
    calibration, held_out = split_frames(list("abcdefghij"), held_out=2)
    assert (calibration, held_out) == (list("abdefgij"), list("ch"))
    for count in (0, 10, 11):
        with pytest.raises(DataError, match=f"{count} of 10 frames cannot be held out"):
            split_frames(list("abcdefghij"), held_out=count)


def pictures(folder, count, size_hw=(16, 32), start=0):
    for index in range(count):
        write_png(folder / f"{start + index:02d}.png", np.full((*size_hw, 3), start + index, np.uint8))
    return folder


def test_calibration_frames_are_spread_over_the_places_at_the_model_s_size(tmp_path):
    places = [str(pictures(tmp_path / "a", 6)), str(pictures(tmp_path / "b", 2, start=6))]
    found = calibration_frames(places, SIZE_HW, 4)
    assert [int(frame[0, 0, 0]) for frame in found] == [1, 3, 5, 7]
    assert {frame.shape for frame in found} == {(*SIZE_HW, 3)}
    assert [int(frame[0, 0, 0]) for frame in found[1:3]] == [3, 5]


def test_an_empty_folder_and_too_few_pictures_are_refused_with_both_numbers(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in it"):
        calibration_frames([str(tmp_path / "empty")], SIZE_HW, 1)
    folder = str(pictures(tmp_path / "few", 3))
    with pytest.raises(DataError) as caught:
        calibration_frames([folder], SIZE_HW, 5)
    assert caught.value.message == "5 calibration images asked, 3 found; add images or lower --calib-count"
    with pytest.raises(DataError, match="0 calibration images asked"):
        calibration_frames([folder], SIZE_HW, 0)


def test_pictures_of_another_camera_are_refused(tmp_path):
    folder = str(pictures(tmp_path / "wide", 2))
    assert len(calibration_frames([folder], SIZE_HW, 2, expected_aspect=2.0)) == 2
    assert len(calibration_frames([folder], SIZE_HW, 2, expected_aspect=1.98)) == 2
    with pytest.raises(DataError, match=r"00.png is 32×16 \(aspect 2.000\), the model's camera has aspect 1.333"):
        calibration_frames([folder], SIZE_HW, 2, expected_aspect=4 / 3)
    pictures(tmp_path / "wide", 1, size_hw=(24, 32), start=2)
    with pytest.raises(DataError, match="02.png is 32×24"):
        calibration_frames([folder], SIZE_HW, 3)


def test_a_video_of_another_camera_is_refused(tmp_path):
    import cv2

    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 32))
    for value in (40, 80, 120, 160):
        writer.write(np.full((32, 64, 3), value, np.uint8))
    writer.release()
    found = calibration_frames([str(path)], SIZE_HW, 2, expected_aspect=2.0)
    assert [round(float(frame.mean()), -1) for frame in found] == [80, 160]
    with pytest.raises(DataError, match=r"drive.avi is 64×32 \(aspect 2.000\)"):
        calibration_frames([str(path)], SIZE_HW, 2, expected_aspect=4 / 3)


def test_a_damaged_picture_is_named(tmp_path):
    folder = pictures(tmp_path / "a", 2)
    (folder / "01.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match="01.png: not a readable image"):
        calibration_frames([str(folder)], SIZE_HW, 2)


def test_two_passes_over_a_video_decode_it_once_and_only_what_is_wanted(tmp_path, monkeypatch):
    path = write_avi(tmp_path / "drive.avi", [jpeg(plain(10 * number)) for number in range(24)])
    opened = []
    monkeypatch.setattr(
        video_store, "open_video", lambda path, real=video_store.open_video: opened.append(path) or real(path)
    )
    found = calibration_frames([str(path)], SIZE_HW, 3)
    passes = [[round(float(frame[0, -1, 0]), -1) for frame in found] for _ in range(2)]
    assert passes == [[40, 120, 200]] * 2
    assert len(opened) == 1
    assert len(found.video_frames) == 3
    rest, kept = Subset(found, [0, 2]), Subset(found, [1])
    assert [round(float(frame[0, -1, 0]), -1) for frame in (*rest, *kept)] == [40, 200, 120]
