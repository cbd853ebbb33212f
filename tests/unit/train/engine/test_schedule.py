import numpy as np
import pytest

from clst_train.compute.ranks import Ranks
from clst_train.data.loading import TARGET_STREAM, positions, steps_of_pass
from clst_train.engine.schedule import learning_rate_factor, predicts, ramp


def drawn(images, batch, iteration, here):
    """What a process draws, as `target_batch` does."""
    size = min(batch, images)
    own = here.share(images)
    chosen = positions(1, TARGET_STREAM, len(own), size // here.count, iteration,
                       share=here.rank, pass_steps=steps_of_pass(images, size))  # fmt: skip
    return [own[place] for place in chosen]


@pytest.mark.parametrize(
    ("images", "batch", "count", "begin", "iterations"),
    [
        (12, 4, 1, 0, 96),  # 32 passes of 3 steps
        (10, 4, 1, 0, 48),  # the batch does not divide: 16 passes of 3 steps
        (10, 4, 1, 7, 60),  # labels begin in the middle of a pass
        (10, 4, 2, 0, 75),  # of two processes each has 5 images and draws 2 a step
        (11, 4, 2, 0, 72),  # 6 and 5 images
        (5, 4, 4, 0, 32),  # 2, 1, 1 and 1, one a step
        (3, 8, 1, 0, 40),  # fewer images than a batch
        (300, 4, 1, 0, 600),  # 8 passes: all of them predict
    ],
)
def test_each_image_is_predicted_before_it_is_read_and_eight_times_where_it_is_shown_as_often(
    images, batch, count, begin, iterations
):
    steps = steps_of_pass(images, batch)
    predicted, shown = np.zeros(images, int), np.zeros(images, int)
    for iteration in range(begin, iterations):
        asked = predicts(iteration, since=begin, iterations=iterations, pass_steps=steps)
        for rank in range(count):
            chosen = drawn(images, batch, iteration, Ranks(rank=rank, count=count))
            assert len(set(chosen)) == len(chosen)
            shown[chosen] += 1
            predicted[chosen] += asked
        assert (predicted[shown > 0] > 0).all()
    assert shown.min() >= (iterations - begin) // steps - 1
    assert predicted.min() >= 8


@pytest.mark.parametrize(("passes", "predicting"), [(1, 1), (7, 7), (15, 15), (16, 8), (24, 8), (32, 8), (100, 25)])
def test_of_many_passes_every_second_to_fourth_predicts(passes, predicting):
    """1 to 15 passes: all; 16 to 23: every second; 24 to 31: every third; from 32 on every fourth."""
    asked = [predicts(step, since=0, iterations=3 * passes, pass_steps=3) for step in range(3 * passes)]
    assert sum(asked) == 3 * predicting
    assert asked[:3] == [True] * 3


def test_the_rate_warms_up_and_falls_to_nothing():
    """Of 100 steps five warm up; with power 1 the rest falls in a line."""
    factors = [learning_rate_factor(step, 100, power=1.0) for step in range(101)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5] == 1.0
    assert factors[24] == pytest.approx(0.8)
    assert factors[100] == 0.0
    assert learning_rate_factor(0, 1) == 1.0


def test_a_ramp_rises_over_its_share_of_the_steps():
    assert [ramp(step, 10, 0.4) for step in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert ramp(0, 10, 0.0) == 1.0
