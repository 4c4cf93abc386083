"""Tables join to patients, studies and series, and are read back as a table of the store."""

from __future__ import annotations

import csv
import io
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from handmade_store import Series, write_store
from tiny_ct import QUICK, ROOT, write_series

from etl.errors import UsageError
from etl.labels.csv_table import read_csv
from etl.labels.tables import join_table
from etl.read.patients import Volume, open_store
from etl.store.verify import verify_store

READS = "name,R1:ICH,R2:ICH,age,site,lost\nCQ500-CT-0,1,0,63.5,A,\nCQ500-CT-1,0,0,NA,B,\n"


def written(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory, ct_etl) -> Path:
    """A store of three patients, one with two series."""
    folder = tmp_path_factory.mktemp("tables")
    for number in range(3):
        series = f"{ROOT}.2{number}"
        write_series(
            folder / "dicom" / str(number), f"CQ500-CT-{number}", series=series, StudyInstanceUID=f"{series}.9"
        )
    write_series(
        folder / "dicom" / "more", "CQ500-CT-0", series=f"{ROOT}.30", number=3, StudyInstanceUID=f"{ROOT}.20.9"
    )
    done = ct_etl("run", folder / "dicom", folder / "s.zarr", *QUICK)
    assert done.status == 0, done.why
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """One of its own for each test."""
    return Path(shutil.copytree(made / "s.zarr", tmp_path / "s.zarr"))


def test_columns_have_the_narrowest_type_that_all_their_values_have(tmp_path):
    text = (
        "key;whole;real;truth;text;zeros;big\n"
        "a;1;1;true;x;007;99999999999999999999\nb;-2;2.5e1;FALSE;1;1;1\nc;;NaN;;na;;\n"
    )
    table = read_csv(written(tmp_path / "t.csv", "\ufeff" + text), "key")
    assert list(table.rows["a"].values()) == [1, 1.0, True, "x", "007", 1e20]
    assert list(table.rows["b"].values()) == [-2, 25.0, False, "1", "1", 1.0]
    assert set(table.rows["c"].values()) == {None}
    assert [type(v) for v in table.rows["a"].values()] == [int, float, bool, str, str, float]
    assert table.text_columns == ("text", "zeros")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,a\nx,1\n", "has no column 'name'; it has 'id', 'a'"),
        ("name,a\nx,1\ny,2\nx,3\n", "1 values of the key 'name' occur more than once: 'x'"),
        ("name,a\n,1\n", "row 2 has nothing in the key column"),
        ("name,a\nx,1,2\n", "row 2 has 3 fields; there are 2 names"),
        ("name,a,a\nx,1,2\n", "column names must differ"),
        ("name,a\n", "has 1 rows"),
        ('name,a\nx,"1\n', "is no CSV file"),
    ],
)
def test_a_table_that_can_be_read_in_two_ways_is_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        read_csv(written(tmp_path / "t.csv", text), "name")


def test_rows_become_columns_of_their_patients_volumes(store, tmp_path):
    found = join_table(str(store), written(tmp_path / "reads.csv", READS), "name")
    assert (found.matched, found.unmatched_rows, found.unmatched_patients) == (2, (), ("CQ500-CT-2",))
    there = open_store(store)
    expected = {"R1:ICH": 1, "R2:ICH": 0, "age": 63.5, "lost": None, "site": "A"}
    assert [volume.columns for volume in there["CQ500-CT-0"].values()] == [expected] * 2
    assert there["CQ500-CT-2"].default.columns == {}
    one = there["CQ500-CT-0"].default
    assert Volume(one.store_path, one.node, one.patient_id).columns == expected
    assert verify_store(str(store)) == (4, [])


def test_columns_of_a_study_and_of_a_series_go_before_the_patients(store, tmp_path):
    series = {v.attributes["series_instance_uid"]: v for v in open_store(store)["CQ500-CT-0"].values()}
    first, second = sorted(series)
    join_table(str(store), written(tmp_path / "p.csv", "name,a,b,c\nCQ500-CT-0,1,1,1\n"), "name")
    study = written(tmp_path / "study.csv", f"StudyInstanceUID,b,c\n{ROOT}.20.9,2,2\n")
    found = join_table(str(store), study, "StudyInstanceUID")
    assert found.level == "study"
    join_table(
        str(store), written(tmp_path / "s.csv", f"series_instance_uid,c\n{second},3\n"), "series_instance_uid"
    )
    columns = {v.attributes["series_instance_uid"]: v.columns for v in open_store(store)["CQ500-CT-0"].values()}
    assert columns == {first: {"a": 1, "b": 2, "c": 2}, second: {"a": 1, "b": 2, "c": 3}}
    assert verify_store(str(store)) == (4, [])


def test_joining_again_changes_no_byte_and_a_new_table_replaces_its_columns_everywhere(
    store, tmp_path, contents, stamps
):
    reads = written(tmp_path / "reads.csv", READS)
    join_table(str(store), reads, "name")
    before = stamps(store)
    join_table(str(store), reads, "name")
    assert stamps(store) == before
    join_table(str(store), written(tmp_path / "new.csv", "name,age\nCQ500-CT-1,40\n"), "name")
    columns = {patient: v.default.columns for patient, v in open_store(store).items()}
    assert "age" not in columns["CQ500-CT-0"]
    assert columns["CQ500-CT-1"]["age"] == 40
    assert columns["CQ500-CT-0"]["site"] == "A"
    join_table(str(store), reads, "name")
    again = contents(store)
    assert {path for path in again if path.count("/") < 2} == {
        path for path in contents(store) if path.count("/") < 2
    }


def test_the_order_of_tables_does_not_show_in_the_bytes(made, tmp_path, contents):
    stores = [shutil.copytree(made / "s.zarr", tmp_path / name) for name in ("a.zarr", "b.zarr")]
    tables = [
        written(tmp_path / "1.csv", "name,z\nCQ500-CT-0,1\n"),
        written(tmp_path / "2.csv", "name,a\nCQ500-CT-0,1\nCQ500-CT-1,2\n"),
    ]
    for one, order in zip(stores, (tables, tables[::-1]), strict=True):
        for table in order:
            join_table(str(one), table, "name")
    assert contents(stores[0]) == contents(stores[1])


def test_a_later_run_keeps_what_was_joined(made, store, tmp_path, in_process):
    join_table(str(store), written(tmp_path / "reads.csv", READS), "name")
    before = (store / "zarr.json").read_bytes()
    write_series(tmp_path / "dicom", "CQ500-CT-9", series=f"{ROOT}.40")
    done = in_process("run", made / "dicom", tmp_path / "dicom", store, *QUICK)
    assert done.status == 0, done.why
    there = open_store(store)
    assert there["CQ500-CT-0"].default.columns["R1:ICH"] == 1
    assert there["CQ500-CT-9"].default.columns == {}
    assert (store / "zarr.json").read_bytes() != before
    assert verify_store(str(store))[1] == []


def test_names_that_are_alike_but_for_case_and_punctuation_are_joined_and_told(store, tmp_path, in_process):
    table = written(tmp_path / "reads.csv", "name,a\nCQ500CT0,1\ncq500_ct_1,2\nCQ500-CT-7,3\n")
    done = in_process("label", store, table, "--key", "name")
    assert done.status == 0, done.why
    printed = " ".join(done.stdout.split())
    assert "2 rows joined by patient: a" in printed
    assert "CQ500CT0 is CQ500-CT-0, cq500_ct_1 is CQ500-CT-1" in printed
    assert "1 rows without a counterpart in the store: CQ500-CT-7" in printed
    assert "(patient): CQ500-CT-2" in printed
    assert open_store(store)["CQ500-CT-1"].default.columns == {"a": 2}


def test_two_rows_that_are_alike_are_not_guessed(store, tmp_path):
    table = written(tmp_path / "reads.csv", "name,a\nCQ500CT0,1\ncq500ct0,2\nCQ500-CT-1,3\n")
    found = join_table(str(store), table, "name")
    assert found.unmatched_rows == ("CQ500CT0", "cq500ct0")
    assert open_store(store)["CQ500-CT-0"].default.columns == {}


def test_what_cannot_be_joined_is_refused_and_changes_nothing(store, tmp_path, in_process, stamps):
    before = stamps(store)
    for text, options, message in (
        ("name,a\nnobody,1\n", ("--key", "name"), "none of its 1 values of 'name' is a Patient ID of the store"),
        (
            "name,patient_id\nCQ500-CT-0,1\n",
            ("--key", "name"),
            "'patient_id' has the name of a column of the store",
        ),
        ("name,a\nCQ500-CT-0,1\n", (), "a table needs --key"),
    ):
        done = in_process("label", store, written(tmp_path / "t.csv", text), *options)
        assert done.status == 2
        assert message in done.stderr
    assert stamps(store) == before


def test_edited_labels_are_found(store, tmp_path):
    join_table(str(store), written(tmp_path / "reads.csv", READS), "name")
    path = store / "CQ500-CT-0" / "zarr.json"
    path.write_text(path.read_text().replace('"R1:ICH":1', '"R1:ICH":0'))
    problems = {finding.path: finding.problem for finding in verify_store(str(store))[1]}
    assert problems["CQ500-CT-0"] == "its labels are not what was written"


def test_a_deidentified_store_takes_numbers_by_its_key_and_no_text(tmp_path, in_process):
    write_series(tmp_path / "dicom", "Doe^John")
    key, other = tmp_path / "key", tmp_path / "other"
    for n, file in enumerate((key, other)):
        file.write_bytes(bytes(range(n, 32 + n)))
        file.chmod(0o600)
    store, table = tmp_path / "s.zarr", written(tmp_path / "t.csv", "name,ICH,note\nDoe^John,1,John Doe\n")
    assert in_process("run", tmp_path / "dicom", store, *QUICK, "--deidentify", key).status == 0
    assert "give the key" in in_process("label", store, table, "--key", "name").stderr
    wrong = in_process("label", store, table, "--key", "name", "--deidentify", other)
    assert "another key" in wrong.stderr
    done = in_process("label", store, table, "--key", "name", "--deidentify", key, "--json")
    assert done.status == 0, done.why
    assert done.json["tables"][0]["left_out"] == ["note"]
    [patient] = open_store(store).values()
    assert patient.default.columns == {"ICH": 1}
    assert not [p for p in store.rglob("zarr.json") if b"Doe" in p.read_bytes()]


def test_info_gives_as_csv_what_table_gives_to_pandas(store, tmp_path, in_process):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    join_table(str(store), written(tmp_path / "reads.csv", READS), "name")
    frame = open_store(store).table()
    assert len(frame) == 4
    assert frame.loc[frame["R1:ICH"] == 1, "patient_id"].unique().tolist() == ["CQ500-CT-0"]
    assert frame["is_default"].sum() == 3
    done = in_process("info", store, "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(rows[0]) == list(frame.columns)
    pandas.testing.assert_frame_equal(
        pandas.read_csv(io.StringIO(done.stdout))[["shape_z", "spacing_x_mm", "R1:ICH", "age"]],
        frame[["shape_z", "spacing_x_mm", "R1:ICH", "age"]],
    )


@pytest.mark.parametrize("patient_id", ["labels", "patient", "study", "R1"])
def test_a_patient_named_as_a_part_of_the_labels_is_still_found(tmp_path, in_process, patient_id):
    write_series(tmp_path / "dicom", patient_id)
    store = tmp_path / "s.zarr"
    assert in_process("run", tmp_path / "dicom", store, *QUICK).status == 0
    join_table(str(store), written(tmp_path / "t.csv", f"name,R1,labels\n{patient_id},1,2\n"), "name")
    volume = open_store(store)[patient_id].default
    assert volume.columns == {"R1": 1, "labels": 2}


def test_the_table_of_many_volumes_is_quick(tmp_path):
    """A thousand in the consolidated metadata; 5,000 take five times as long."""
    store = write_store(tmp_path / "s.zarr", [Series(np.zeros((4, 4, 4), np.float32), dicom={"KVP": 120})])
    root = json.loads((store / "zarr.json").read_text())
    nodes = root["consolidated_metadata"]["metadata"]
    one = {path: node for path, node in nodes.items() if path.startswith("P1")}
    for number in range(1000):
        for path, node in one.items():
            copied = json.loads(json.dumps(node))
            if "/" not in path:
                copied["attributes"]["ct_etl"]["patient_id"] = f"Q{number}"
            nodes[f"Q{number}{path[2:]}"] = copied
    (store / "zarr.json").write_text(json.dumps(root))
    there = open_store(store)
    start = time.process_time()
    names, rows = there.rows()
    assert time.process_time() - start < 2
    assert len(rows) == 1001
    assert "dicom.KVP" in names


def test_columns_choose_and_label_what_is_trained_on(store, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from etl.training import CropDataset, VolumeDataset, collate

    join_table(str(store), written(tmp_path / "reads.csv", READS), "name")
    crops = CropDataset(
        store, (4, 8, 8), where={"site": ("A", "B")}, targets=("R1:ICH", "R2:ICH"), crops_per_volume=2
    )
    assert len(crops) == 4
    batch = next(iter(torch.utils.data.DataLoader(crops, batch_size=4, collate_fn=collate)))
    assert batch["target"].tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]
    assert VolumeDataset(store, where={"R1:ICH": 0}, targets=("R1:ICH",))[0]["target"].tolist() == [0]
    for options, message in (
        ({"where": {"R9": 1}}, "no volume has a column 'R9'"),
        ({"targets": ("R1:ICH",)}, "CQ500-CT-2/.* column 'R1:ICH' has None; a number is needed"),
        ({"targets": "R1:ICH"}, "allowed is a sequence of names"),
        ({"labels": ("R1:ICH",)}, "columns of tables are targets="),
    ):
        with pytest.raises(UsageError, match=message):
            CropDataset(store, **options)
