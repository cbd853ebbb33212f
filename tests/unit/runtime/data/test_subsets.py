import pytest

from clst_runtime.data.subsets import Subset, evenly_spread


@pytest.mark.parametrize(
    ("total", "most", "first", "middle"),
    [
        (0, 4, [], []),
        (1, None, [0], [0]),
        (3, None, [0, 1, 2], [0, 1, 2]),
        (3, 5, [0, 1, 2], [0, 1, 2]),
        (7, 2, [0, 3], [1, 5]),
        (8, 4, [0, 2, 4, 6], [1, 3, 5, 7]),
        (10, 5, [0, 2, 4, 6, 8], [1, 3, 5, 7, 9]),
        (10, 0, [], []),
    ],
)
def test_positions_are_the_first_or_the_middle_of_equal_parts(total, most, first, middle):
    assert evenly_spread(total, most) == first
    assert evenly_spread(total, most, centred=True) == middle


class Read(list):
    """Items that note which of them were read."""

    def __init__(self, items):
        super().__init__(items)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


def test_a_subset_reads_what_is_asked_for_and_no_more():
    items = Read("abcde")
    some = Subset(items, [4, 0, 2])
    assert len(some) == 3
    assert (some[1], some[-1]) == ("a", "c")
    part = some[:2]
    assert items.read == [0, 2]
    assert list(part) == ["e", "a"]
    with pytest.raises(IndexError):
        some[3]
    assert list(Subset("abc", range(1, 3))) == ["b", "c"]
    assert list(Subset("abc", [])) == []
