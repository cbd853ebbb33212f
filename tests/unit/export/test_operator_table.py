"""The table of operators in docs/precision.md says what the code does."""

import re

from clst_export.graph.compatibility import SUPPORTED
from clst_export.quantization.int8 import BETWEEN, OUTPUT_AXIS
from tests import ROOT


def rows():
    """Of each line of the table its operators and its three cells."""
    text = (ROOT / "docs" / "precision.md").read_text("utf-8")
    section = text.split("## Operators\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`(\w+)`", names), [cell.strip() for cell in cells]) for names, *cells in lines]


def test_every_operator_of_the_table_is_taken_or_refused_as_it_says():
    for names, cells in rows():
        assert set(names) <= SUPPORTED or cells == ["refused"] * 3
        assert not SUPPORTED.intersection(names) or "refused" not in cells


def test_the_table_names_all_that_is_computed_in_8_bits_and_nothing_else():
    def quantised(column):
        return {name for names, cells in rows() for name in names if cells[column].startswith(("int8", "uint8"))}

    assert quantised(1) == {*OUTPUT_AXIS, "Add"}
    assert quantised(2) == {*OUTPUT_AXIS, *BETWEEN}


def test_the_table_names_what_transformers_and_mobile_networks_are_made_of():
    named = {name for names, _ in rows() for name in names}
    assert {
        "LayerNormalization",
        "Softmax",
        "Erf",
        "MatMul",
        "InstanceNormalization",
        "HardSwish",
        "ConvTranspose",
    } <= named
