import numpy as np
import pytest

from clst_runtime.imaging.array_pool import BorrowableArray, Pool


def address(array):
    return array.__array_interface__["data"][0]


def test_an_array_is_used_again_only_when_no_view_of_it_is_held():
    pool = Pool(1)
    first = pool.take((4, 4))
    place, view = address(first), first[1:3, ::2]
    del first
    second = pool.take((4, 4))
    assert address(second) != place, "a view is still held"
    del view, second
    assert address(pool.take((4, 4))) == place


def test_who_holds_more_than_the_pool_has_gets_memory_of_its_own():
    pool = Pool(2)
    held = [pool.take((3,)) for _ in range(5)]
    assert len({address(array) for array in held}) == 5
    for number, array in enumerate(held):
        array[:] = number
    assert [array.tolist() for array in held] == [[number] * 3 for number in range(5)]


def test_another_shape_replaces_the_arrays_and_leaves_what_is_held():
    pool = Pool(1)
    held = pool.take((2, 2))
    held[:] = 7
    assert pool.take((5, 1)).shape == (5, 1)
    assert held.tolist() == [[7, 7], [7, 7]]


def test_what_is_lent_can_be_read_only():
    borrowed = BorrowableArray(np.zeros(3, np.uint8))
    array = borrowed.borrow()
    assert not borrowed.is_free
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    del array
    assert borrowed.is_free
