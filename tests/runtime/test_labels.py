import json

import numpy as np
import pytest

from clst_runtime.errors import ConfigError, DataError
from clst_runtime.labels import (
    ClassList,
    builtin_names,
    identity_mapping,
    load_class_list,
    load_mapping,
    relate,
    unrelated,
)

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
    with pytest.raises(ConfigError, match="nothing said of b"):
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
