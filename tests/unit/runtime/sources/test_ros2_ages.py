"""How old an image of ROS 2 is, and what is said of a stamp that cannot be of this clock."""

from types import SimpleNamespace

import pytest

from clst_runtime.sources.ros2 import RosCapture

S = 1_000_000_000


def age_of(stamp_ns, now_ns, *, simulated=False):
    """The age, and the first words of what was warned of."""
    said = []
    ros = SimpleNamespace(now_ns=lambda: now_ns, is_simulated=lambda: simulated)
    found = RosCapture._age_ns(SimpleNamespace(_ros=ros, _warn=said.append, _began=0.0), stamp_ns)
    return found, [text.partition(":")[0] for text in said]


@pytest.mark.parametrize(
    ("ahead_ns", "simulated", "warned"),
    [
        (S // 100, False, False),
        (S // 10, False, True),
        (S // 10, True, False),  # /clock comes in steps, and later than the image on a busy machine
        (2 * S, True, True),
    ],
)
def test_a_stamp_ahead_is_of_age_0_and_told_where_no_step_of_the_clock_explains_it(ahead_ns, simulated, warned):
    age, said = age_of(100 * S + ahead_ns, 100 * S, simulated=simulated)
    assert age == 0
    assert said == (["its stamps are ahead of this machine's clock"] if warned else [])


def test_an_ordinary_stamp_tells_the_age_and_a_missing_or_old_one_is_told():
    assert age_of(100 * S, 100 * S + 5) == (5, [])
    assert age_of(0, 100 * S) == (0, ["its images have no stamp"])
    age, said = age_of(80 * S, 100 * S)
    assert age == 20 * S
    assert "10 s old" in said[0]
