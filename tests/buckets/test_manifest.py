"""Manifests: each line a source; what is no manifest stays a file."""

from __future__ import annotations

import pytest

from etl.dicom.sources import Source, find_sources
from etl.errors import UsageError

IDC = """# To obtain this manifest and download it: s5cmd --no-sign-request run manifest.s5cmd
cp s3://idc-open-data/0a1b/* .
cp --show-progress 's3://idc-open-data/2c3d/*' ./out

cp s3://idc-open-data/0a1b/* .
"""
TABLE = 'series,aws_url,gcs_url\n1,"s3://b/x/y/",gs://c/x/y\n2,s3://b/v1.2/z,\n3,s3://b/k/one.zip,\n4,s3://b/k/1.dcm,\n'


def found_in(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return find_sources([str(tmp_path / name)])


@pytest.mark.parametrize("name", ["m.s5cmd", "m.txt", "m.manifest"])
def test_lines_of_s5cmd_are_a_source_each(tmp_path, name):
    assert found_in(tmp_path, name, IDC) == [
        Source("s3://idc-open-data/0a1b/", "0a1b"),
        Source("s3://idc-open-data/2c3d/", "2c3d"),
    ]


def test_rows_of_a_table_are_a_source_each(tmp_path):
    assert found_in(tmp_path, "m.csv", TABLE) == [
        Source("s3://b/x/y/", "y"),
        Source("s3://b/v1.2/z/", "z"),
        Source("s3://b/k/one.zip", "one"),
        Source("s3://b/k/", "1", ("1.dcm",)),
    ]


@pytest.mark.parametrize(
    ("name", "text"), [("x.txt", "a note\n"), ("x.txt", ""), ("x.dcm", IDC), ("x.csv", "a,b\n")]
)
def test_what_is_no_manifest_stays_a_file(tmp_path, name, text):
    assert found_in(tmp_path, name, text) == [Source(str(tmp_path), tmp_path.name, (name,))]


@pytest.mark.parametrize(
    ("line", "said"),
    [("rm -rf x", "line 2 names no"), ("cp s3://b/*/x .", "allowed is one"), ("cp s3://b/x* .", "allowed is one")],
)
def test_a_line_that_cannot_be_meant_is_told_with_its_number(tmp_path, line, said):
    with pytest.raises(UsageError, match=said):
        found_in(tmp_path, "m.s5cmd", f"cp s3://b/x/* .\n{line}\n")
