"""The table of what tells slices apart, as the documents show it and as headers are read by it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from etl.scan.distinctions import DISTINCTIONS, read_marks, table_rows

ROOT = Path(__file__).parents[2]
VALUES = {"UL": 7, "US": 7, "FD": 7.5, "FL": 7.5, "UI": "1.2.3", "DA": "20200101", "TM": "10", "DT": "2020010110"}
PAGE = (ROOT / "docs" / "dicom.md").read_text("utf-8")


def test_the_documents_show_the_table_as_it_is() -> None:
    assert "\n".join(table_rows()) in PAGE


def test_each_line_of_what_is_handled_names_a_test_that_is_there() -> None:
    tests = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", PAGE)
    assert len(named) > 20
    assert [name for name in named if f"def {name}(" not in tests] == []


@pytest.mark.parametrize("row", DISTINCTIONS, ids=lambda row: row.keyword)
def test_every_row_is_read_from_the_top_and_from_its_functional_group(row) -> None:
    if row.keyword == "DimensionIndexValues":
        pytest.skip("read with its sequence")
    at = row.keywords.index(row.keywords[-1])
    value = VALUES.get(dictionary_VR(row.keywords[-1]), "7")
    classic, group, item = Dataset(), Dataset(), Dataset()
    setattr(classic, row.keywords[-1], value)
    k = DISTINCTIONS.index(row)
    assert read_marks(classic, ())[k].strip() == str(value)
    assert all(not mark for i, mark in enumerate(read_marks(classic, ())) if i != k)
    if row.macro:
        setattr(item, row.keywords[at], value)
        group.add_new(Tag(tag_for_keyword(row.macro)), "SQ", [item])
        assert read_marks(Dataset(), (None, group))[k] == str(value)
