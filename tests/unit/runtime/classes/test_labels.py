import json
import re

import numpy as np
import pytest

from clst_runtime.classes.labels import (
    ClassList,
    builtin_names,
    identity_mapping,
    load_class_list,
    load_mapping,
    relate,
    unrelated,
)
from clst_runtime.errors import ConfigError, DataError

AB = ClassList(name="ab", names=("a", "b"), colours=((1, 2, 3), (4, 5, 6)))
BC = ClassList(name="bc", names=("b", "c"), colours=((1, 2, 3), (4, 5, 6)))


def test_shipped_lists_have_the_lengths_their_names_say():
    assert [len(load_class_list(name)) for name in ("road19", "road16", "camvid11", "idd7", "scenes10")] == [
        19,
        16,
        11,
        7,
        10,
    ]
    assert set(builtin_names()) == {"road19", "road16", "camvid11", "idd7", "scenes10"}


def test_a_mistyped_list_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'road19'"):
        load_class_list("road20")


def test_identity_keeps_ids_and_ignore_and_refuses_the_rest():
    mapping = identity_mapping(AB)
    assert mapping.apply(np.array([[0, 1, 255]]), where="x").tolist() == [[0, 1, 255]]
    with pytest.raises(DataError, match=r"x: label ids outside the map: 2 \(2 pixels\), 300 \(1 pixels\)"):
        mapping.apply(np.array([[2, 2, 300]]), where="x")


def test_a_negative_id_is_unknown_and_does_not_wrap_around():
    with pytest.raises(DataError, match=r"-1 \(1 pixels\)"):
        identity_mapping(AB).apply(np.array([[-1]]), where="x")


def test_relating_by_names_ignores_what_the_target_lacks():
    assert relate(AB, BC).apply(np.array([[0, 1, 255]]), where="x").tolist() == [[255, 0, 255]]


def test_relating_lists_without_a_common_name_is_refused():
    other = ClassList(name="z", names=("z",), colours=((0, 0, 0),))
    with pytest.raises(ConfigError, match=r"only 0 have equal names \(none\); give a mapping file"):
        relate(AB, other)


def test_relating_lists_that_share_less_than_half_of_the_shorter_is_refused():
    """CamVid's 11 classes and the 7 groups share only `sky`; SYNTHIA's 16 are all among the 19 of Cityscapes."""
    lists = {name: load_class_list(name) for name in ("camvid11", "idd7", "road16", "road19")}
    with pytest.raises(ConfigError, match=r"only 1 have equal names \(sky\)"):
        relate(lists["camvid11"], lists["idd7"])
    relate(lists["road16"], lists["road19"])


def test_a_mapping_to_nothing_is_refused():
    with pytest.raises(ConfigError, match="leaves no class"):
        relate(AB, BC, {"a": None, "b": None})


def test_what_a_mapping_leaves_out_is_said_of_both_lists():
    assert unrelated(AB, BC, relate(AB, BC)) == [
        "pixels of a are ignored, bc has no such class",
        "no label of ab becomes c",
    ]
    assert unrelated(AB, AB, relate(AB, AB)) == []


def test_a_mapping_file_must_speak_of_every_source_class(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"map": {"a": "c"}}))
    with pytest.raises(ConfigError, match="no entry for b"):
        load_mapping(path, AB, BC)


def test_a_mapping_file_maps_and_ignores(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"map": {"a": "c", "b": None}}))
    assert load_mapping(path, AB, BC).apply(np.array([[0, 1]]), where="x").tolist() == [[1, 255]]


def test_two_mappings_in_a_row_keep_unknown_ids_unknown():
    chained = identity_mapping(AB).then(relate(AB, BC))
    assert chained.table[:3].tolist() == [255, 0, -1]


def test_a_label_with_three_channels_is_refused():
    with pytest.raises(DataError, match="expected one channel"):
        identity_mapping(AB).apply(np.zeros((2, 2, 3), int), where="x")


def test_a_class_named_twice_is_refused():
    with pytest.raises(ConfigError, match="twice"):
        ClassList(name="x", names=("a", "a"), colours=((0, 0, 0), (1, 1, 1)))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "names is None, expected a list"),
        ({"names": "road"}, "names is 'road', expected a list"),
        ({"names": {"0": "road"}}, "expected a list"),
        ({"names": ["road", 7]}, "names is 7, expected a name"),
        ({"names": ["road", ""]}, "names is '', expected a name"),
        ({"names": ["road", " "]}, "expected a name"),
        ({"names": ["road", "a\nb"]}, "expected a name"),
        ({"names": ["road", "\u202eback"]}, "expected a name"),
        ({"names": ["road", "x" * 201]}, "expected a name of 1 to 200"),
        ({"names": ["road", "road"]}, "names a class twice"),
        ({"names": [f"c{i}" for i in range(256)]}, "256 classes, at most 255"),
        ({"names": ["a", "b"], "colors": [[1, 2, 3]]}, "expected a list of 2 values"),
        ({"names": ["a"], "colors": [[1, 2, 300]]}, "colors is 300, expected a whole number from 0 to 255"),
        ({"names": ["a"], "colors": [[1, 2]]}, "expected a list of 3 values"),
        ({"names": ["a"], "colors": [[1, 2, 3.5]]}, "3.5, expected a whole number"),
        ({"names": ["a"], "colors": ["red"]}, "expected a list of 3 values"),
        ({"names": ["a"], "colours": [[1, 2, 3]]}, "'colours' is unknown; did you mean 'colors'"),
        ({"names": ["a"], "ignore_id": 0}, "ignore_id is 0, but 255 is ignored in labels; give a mapping file"),
        ({"names": ["a"], "name": 3}, "name is 3, expected a name"),
    ],
)
def test_a_class_list_of_another_form_is_refused_with_what_is_wrong(value, words, tmp_path):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_class_list(path)


def test_a_class_list_may_begin_with_a_mark_and_hold_notes_and_no_colours(tmp_path):
    path = tmp_path / "classes.json"
    path.write_bytes(b'\xef\xbb\xbf{"names": ["a", "b"], "look": "old", "ignore": 255}')
    classes = load_class_list(path)
    assert (classes.name, classes.names, len(set(classes.colours))) == ("classes", ("a", "b"), 2)
    path.write_text('{"names": ["a"]}', encoding="utf-16")
    with pytest.raises(DataError, match=r"classes\.json is in UTF-16; save it in UTF-8"):
        load_class_list(path)
    path.write_bytes(b'{"names": ["\xe9"]}')
    with pytest.raises(DataError, match="not in UTF-8"):
        load_class_list(path)


def test_a_mapping_to_something_else_than_a_name_is_refused(tmp_path):
    classes = ClassList(name="x", names=("a",), colours=((0, 0, 0),))
    (tmp_path / "m.json").write_text('{"map": {"a": ["b"]}}')
    with pytest.raises(ConfigError, match="expected"):
        load_mapping(tmp_path / "m.json", classes, classes)
