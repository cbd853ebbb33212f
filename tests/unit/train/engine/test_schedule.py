import pytest

from clst_train.engine.schedule import ensemble_interval, learning_rate_factor, ramp, times_shown


@pytest.mark.parametrize(
    ("iterations", "batch", "images", "turns"),
    [
        (3000, 4, 300, 7),  # shown 40 times, 40 / 6 = 6.7
        (1000, 4, 305, 3),  # 13.1 times: it would be 2, which costs too much
        (1500, 4, 305, 3),  # 19.7 times
        (1000, 4, 124, 5),  # 32.3 times
        (1000, 4, 1400, 3),  # 2.9 times: most images are predicted once
        (100_000, 4, 300, 8),  # never less often
        (90, 4, 2, 8),  # a step shows two images at most: each 90 times
        (24, 8, 1, 4),
        (0, 4, 300, 3),
    ],
)
def test_the_fewer_times_an_image_is_shown_the_more_often_it_is_predicted(iterations, batch, images, turns):
    assert ensemble_interval(times_shown(iterations, batch, images)) == turns


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
