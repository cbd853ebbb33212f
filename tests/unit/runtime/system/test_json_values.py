"""Values of JSON that others wrote, checked by name."""

import pytest

from clst_runtime.system.files.json_values import any_text, check_fields, whole

WANTED = {"name": any_text, "count?": whole(0, 9), "inner": {"*": {"count": whole(0, 9)}}, "list": [{"name": any_text}]}
GOOD = {"name": "a", "inner": {"x": {"count": 1}}, "list": [{"name": "b", "more": 3}], "more": 2}


@pytest.mark.parametrize("more", [{}, {"count": 9}, {"inner": {}}, {"list": []}])
def test_an_object_with_the_wanted_fields_is_given_back_as_it_is(more):
    assert check_fields(GOOD | more, WANTED) == GOOD | more


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], r"\[\], expected an object"),
        ({"name": "a"}, "inner is missing"),
        (GOOD | {"count": 10}, "count is 10, expected a whole number from 0 to 9"),
        (GOOD | {"inner": {"x": 3}}, "x is 3, expected an object"),
        (GOOD | {"inner": {"x": {"count": None}}}, "count is None"),
        (GOOD | {"list": {}}, "list is {}, expected a list"),
        (GOOD | {"list": [{}]}, "name is missing"),
    ],
)
def test_what_is_wrong_in_it_is_named(value, words):
    with pytest.raises(ValueError, match=words):
        check_fields(value, WANTED)
