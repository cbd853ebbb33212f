"""What follows from the numbers of two engines, and the file that holds them."""

import json

import pytest

from clst_runtime.backends.tensorrt.bundle.proof import Outcome, Proof, read_proof, write_proof
from clst_runtime.errors import BudgetNotHeld, ClstError, ModelFileError
from tests.unit.runtime.backends.tensorrt.conftest import FP16, INT8

MACHINE = {"gpu": "Orin", "compute_capability": "8.7", "multiprocessors": 16}
MACHINE |= {"tensorrt": "10.3.0", "cuda": "12.6", "driver": "Jetson Linux 36.4.3", "library": "tensorrt"}


def outcome(engine, ms=1.0, **values):
    precision = "int8" if engine == INT8 else "fp16"
    usual = {"engine": engine, "precision": precision, "onnx_sha256": "a", "engine_sha256": "b", "agreement": 0.9975}
    return Outcome(**usual | {"compute_ms": ms} | values)


def proof(*engines):
    return Proof(machine=MACHINE, options={}, engines=engines, seconds=12.5)


@pytest.mark.parametrize(
    ("int8", "used", "told"),
    [
        (96.9, INT8, "INT8 saves 3.1 %"),
        (97.0, FP16, "INT8 does not save 3 %"),
        (100.0, FP16, "INT8 does not save 3 %"),
        (110.0, FP16, "INT8 does not save 3 %"),
    ],
)
def test_int8_must_save_more_than_three_percent(int8, used, told):
    found = proof(outcome(INT8, int8), outcome(FP16, 100.0))
    assert found.used.engine == used
    assert found.why == f"INT8 takes {int8:.2f} ms, FP16 100.00 ms on this GPU: {told}"


def test_an_engine_alone_is_used_for_its_agreement():
    found = proof(outcome(FP16))
    assert (found.used.engine, found.why) == (FP16, "99.750 % of the pixels agree")


def test_an_engine_that_failed_leaves_it_to_the_next_and_one_of_the_moment_keeps_nothing():
    lost = outcome(INT8).failed(ModelFileError("no layer"))
    found = proof(lost, outcome(FP16))
    assert (found.used.engine, found.is_lasting) == (FP16, True)
    assert found.why == "INT8 cannot be used on this GPU (no layer)"
    now = proof(outcome(INT8).failed(ClstError("no memory")), outcome(FP16))
    assert now.why.startswith("INT8 cannot be used now (no memory)")
    assert not now.is_lasting
    none = proof(lost, outcome(FP16).failed(BudgetNotHeld("50 %")))
    assert (none.used, none.is_lasting) == (None, True)
    assert none.why.endswith("(no layer) and FP16 cannot be used on this GPU (50 %)")


@pytest.mark.parametrize("value", [None, -1.0, float("nan"), "fast"])
def test_an_engine_that_works_has_its_measurements(value):
    with pytest.raises(ValueError, match="is no measurement"):
        outcome(FP16, compute_ms=value)
    with pytest.raises(ValueError, match="is no measurement"):
        outcome(FP16, agreement=value)


def test_the_file_holds_plain_numbers_and_what_follows_from_them(tmp_path):
    made = proof(outcome(INT8, 6.0), outcome(FP16, 7.5))
    write_proof(made, tmp_path / "proof.json")
    assert read_proof(tmp_path / "proof.json") == made
    value = json.loads((tmp_path / "proof.json").read_text())
    assert value["machine"] == MACHINE
    assert (value["used"], value["why"]) == (INT8, made.why)
    assert (value["seconds"], value["int8_must_save"], value["trying"]) == (12.5, 0.03, [])
    assert [(each["precision"], each["compute_ms"], each["agreement"]) for each in value["engines"]] == [
        ("int8", 6.0, 0.9975),
        ("fp16", 7.5, 0.9975),
    ]


def change(**values):
    return lambda value: value | values


def change_engine(**values):
    return lambda value: value | {"engines": [value["engines"][0] | values, value["engines"][1]]}


@pytest.mark.parametrize(
    "harm",
    [
        change(used=FP16),
        change(why="because"),
        change(format_version=2),
        change(int8_must_save=0.1),
        change(engines=None),
        change(engines=[4]),
        change(machine={}),
        change(machine=None),
        change(trying=3),
        change(engines=[], used=None, why=""),
        change(surplus=1),
        change_engine(compute_ms=None),
        change_engine(compute_ms="fast"),
        change_engine(compute_ms=0.0),
        change_engine(compute_ms=9.0),
        change_engine(agreement=None),
        change_engine(surplus=1),
        change_engine(engine="../model.engine"),
        change_engine(engine=5),
        lambda value: [],
        lambda value: {},
    ],
)
def test_what_does_not_follow_from_its_numbers_is_damaged(tmp_path, harm):
    value = proof(outcome(INT8, 6.0), outcome(FP16, 7.5)).to_json()
    (tmp_path / "proof.json").write_text(json.dumps(harm(value)))
    with pytest.raises(ModelFileError, match="proof.json is damaged") as error:
        read_proof(tmp_path / "proof.json")
    assert "\n" not in error.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format_version": 1}'])
def test_a_file_that_was_cut_is_damaged(tmp_path, text):
    (tmp_path / "proof.json").write_text(text)
    with pytest.raises(ModelFileError, match="proof.json is damaged"):
        read_proof(tmp_path / "proof.json")
