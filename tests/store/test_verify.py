"""What `ct-etl verify` finds in a store that was damaged on purpose, and what `--repair` removes."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import zarr
from pairwise import each_once
from series import small_series

from etl.store.verify import verify_store

QUICK = ("--spacing-mm", "12", "--workers", "0", "-q")
PARTIAL = "0.0123456789abcdef0123456789abcdef.partial"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, ct_etl):
    folder = tmp_path_factory.mktemp("whole")
    for n in range(2):
        small_series(folder / "dicom" / f"p{n}", f"P{n}", seed=n)
    done = ct_etl("run", folder / "dicom", folder / "s.zarr", *QUICK)
    assert done.status == 0, done.why
    return folder


@pytest.fixture
def store(whole, tmp_path):
    shutil.copytree(whole / "s.zarr", tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


@pytest.fixture
def series(store):
    [path] = [p for p in (store / "P0").iterdir() if p.is_dir()]
    return path


def name_of(series):
    return f"P0/{series.name}"


def edit_json(path, change):
    node = json.loads(path.read_text())
    change(node)
    path.write_text(json.dumps(node, indent=2))


def expect_found(in_process, store, place):
    """`verify` exits 3 and says where; a line for each finding."""
    done = in_process("verify", store)
    assert done.status == 3, done.why
    assert any(line.startswith(f"{place}: ") for line in done.stdout.splitlines()), done.why
    return done


def repaired(in_process, whole, store, contents):
    """`--repair`, then a run: the store is as it was."""
    done = in_process("verify", store, "--repair")
    assert done.status == 3, done.why
    again = in_process("run", whole / "dicom", store, *QUICK)
    assert again.status == 0, again.why
    assert in_process("verify", store).status == 0
    assert contents(store) == contents(whole / "s.zarr")


def test_a_whole_store_has_no_findings(in_process, store, stamps):
    before = stamps(store)
    done = in_process("verify", store)
    assert (done.status, done.stdout) == (0, "2 volumes checked\n"), done.why
    assert in_process("verify", store, "--repair").status == 0
    assert stamps(store) == before


@pytest.mark.parametrize(
    "key",
    [
        "volume/c/0/0/0",
        "volume/zarr.json",
        "hu_histogram/c/0",
        "hu_histogram/zarr.json",
        "source/zarr.json",
        "source/sop_instance_uid/c/0/0",
        "source/position_mm/c/0",
        "source/position_mm/zarr.json",
        "source/instance_number/c/0",
    ],
)
def test_a_missing_key_is_found(in_process, store, series, key):
    (series / key).unlink()
    expect_found(in_process, store, name_of(series))


def test_a_lost_chunk_is_repaired(in_process, whole, store, series, contents):
    (series / "volume/c/0/0/0").unlink()
    repaired(in_process, whole, store, contents)


@pytest.mark.parametrize("keep", [0, 1, 0.5, -1])
def test_a_truncated_shard_is_found(in_process, store, series, keep):
    shard = series / "volume/c/0/0/0"
    content = shard.read_bytes()
    shard.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    expect_found(in_process, store, name_of(series))


def test_bytes_after_the_end_of_a_shard_are_found(in_process, store, series):
    with (series / "volume/c/0/0/0").open("ab") as stream:
        stream.write(b"\0")
    expect_found(in_process, store, name_of(series))


def files_of(store):
    return sorted(p for p in store.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    "level",
    ["zarr.json", "P0/zarr.json", "series", "volume/zarr.json", "volume/c/0/0/0", "source", "hu_histogram"],
)
def test_a_flipped_bit_is_found_wherever_it_is(store, series, level):
    """Twenty bits of every file of the level, one after the other."""
    files = {
        "zarr.json": [store / "zarr.json"],
        "P0/zarr.json": [store / "P0" / "zarr.json"],
        "series": [series / "zarr.json"],
        "source": files_of(series / "source"),
        "hu_histogram": files_of(series / "hu_histogram"),
    }.get(level) or [series / level]
    rng = np.random.default_rng(4)
    missed = []
    for path in files:
        content = path.read_bytes()
        for bit in rng.integers(0, 8 * len(content), 20 if len(files) == 1 else 6).tolist():
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            if not verify_store(str(store))[1]:
                missed.append((path.relative_to(store).as_posix(), bit, content[bit // 8 - 20 : bit // 8 + 20]))
        path.write_bytes(content)
    assert missed == []
    assert verify_store(str(store))[1] == []


@pytest.mark.slow
@pytest.mark.skip(reason="flips every byte of the metadata: minutes; run it by hand")
def test_no_flipped_bit_in_any_metadata_is_missed(store):
    """A bit of every byte of every zarr.json; a flip that makes verify itself fail counts as missed."""
    rng = np.random.default_rng(5)
    missed = []
    for path in sorted(store.rglob("zarr.json")):
        if "P1" in path.parts:
            continue
        content = path.read_bytes()
        for at in range(0, len(content), 1 if len(content) < 2500 else 7):
            flipped = bytearray(content)
            flipped[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            if not verify_store(str(store))[1]:
                missed.append((path.relative_to(store).as_posix(), at, bytes(flipped[max(0, at - 25) : at + 25])))
        path.write_bytes(content)
    assert missed == []


@pytest.mark.parametrize(
    "change",
    [
        lambda ours: ours["fingerprint"].update(mean_hu=ours["fingerprint"]["mean_hu"] + 1),
        lambda ours: ours.update(format_version="1.2"),
        lambda ours: ours["software"].update(numpy="0.1"),
        lambda ours: ours["config"].update(window=[-1000, 1999]),
        lambda ours: ours.pop("fingerprint"),
    ],
    ids=["fingerprint", "format version", "software", "config", "no fingerprint"],
)
def test_edited_attributes_of_the_root_are_found(in_process, store, change):
    edit_json(store / "zarr.json", lambda node: change(node["attributes"]["ct_etl"]))
    expect_found(in_process, store, "zarr.json")


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("geometry", "spacing_mm", [1.0, 1.0, 1.0]),
        ("normalization", "center", 0.5),
        ("qc", "warnings", ["gantry-tilt"]),
        ("provenance", "source_digest", "0" * 64),
        ("provenance", "entry_digest", "0" * 64),
    ],
)
def test_edited_attributes_of_a_series_are_found(in_process, store, series, part, key, value):
    for path in (series / "zarr.json", store / "zarr.json"):  # consistently, as an editor with care would
        edit_json(
            path,
            lambda node: (
                node["consolidated_metadata"]["metadata"][name_of(series)]
                if "consolidated_metadata" in node
                else node
            )["attributes"]["ct_etl"][part].update({key: value}),
        )
    expect_found(in_process, store, name_of(series))


def test_an_attribute_that_was_added_is_found(in_process, store, series):
    edit_json(series / "zarr.json", lambda node: node["attributes"]["dicom"].update(PatientName="X"))
    expect_found(in_process, store, name_of(series))


def test_an_edited_patient_is_found(in_process, store):
    edit_json(store / "P0" / "zarr.json", lambda node: node["attributes"]["ct_etl"].update(patient_id="P9"))
    expect_found(in_process, store, "P0")


def test_a_series_under_another_patient_is_found(in_process, store, series):
    shutil.copytree(series, store / "P1" / series.name)
    expect_found(in_process, store, f"P1/{series.name}")


def test_a_lost_series_is_found(in_process, whole, store, series, contents):
    shutil.rmtree(series)
    expect_found(in_process, store, name_of(series))
    repaired(in_process, whole, store, contents)


def test_an_unfinished_publication_is_found_and_repaired(in_process, whole, store, series, contents):
    (series / "zarr.json").unlink()
    done = expect_found(in_process, store, name_of(series))
    assert "unfinished" in done.stdout
    repaired(in_process, whole, store, contents)
    (series / "zarr.json").unlink()
    in_process("verify", store, "--repair")
    assert not series.exists()


@pytest.mark.parametrize("place", ["", "P0", "P0/{series}/volume/c/0/0", "P0/{series}/source"])
def test_a_half_written_file_is_found_and_repaired(in_process, store, series, place):
    folder = store / place.format(series=series.name)
    (folder / PARTIAL).write_bytes(b"half")
    expect_found(in_process, store, (folder / PARTIAL).relative_to(store).as_posix())
    done = in_process("verify", store, "--repair")
    assert not (folder / PARTIAL).exists(), done.why
    assert in_process("verify", store).status == 0


FOREIGN = [
    "notes.txt",
    ".DS_Store",
    "P0/notes.txt",
    "P0/mine/notes.txt",
    "P0/{series}/notes.txt",
    "P0/{series}/volume/notes.txt",
    "P0/{series}/source/mine/zarr.json",
    "EMPTY/notes.txt",
    "other.partial.txt",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_what_others_left_is_reported_and_never_touched(in_process, store, series, name):
    path = store / name.format(series=series.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"{}")
    for options in ([], ["--repair"]):
        done = in_process("verify", store, *options)
        assert done.status == 3, done.why
        assert any(line.split(": ")[0] in path.as_posix() for line in done.stdout.splitlines() if ": " in line)
        assert path.read_bytes() == b"{}", done.why


@pytest.mark.parametrize("name", ["thesis.partial", "P0/thesis.partial", "P0/0007-12345678/thesis.txt"])
def test_repair_does_not_remove_what_only_looks_like_ours(in_process, store, name):
    """No zarr wrote it, no run can make it again."""
    path = store / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"years of work")
    in_process("verify", store, "--repair")
    assert path.read_bytes() == b"years of work"


def test_repair_keeps_foreign_files_that_lie_in_a_damaged_series(in_process, store, series):
    (series / "thesis.txt").write_bytes(b"years of work")
    (series / "volume/c/0/0/0").unlink()
    in_process("verify", store, "--repair")
    assert (series / "thesis.txt").read_bytes() == b"years of work"


def test_repair_follows_no_link_out_of_the_store(in_process, store, series, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis.txt").write_bytes(b"years of work")
    shutil.rmtree(series / "volume")
    (series / "volume").symlink_to(tmp_path / "elsewhere")
    in_process("verify", store, "--repair")
    assert (tmp_path / "elsewhere" / "thesis.txt").read_bytes() == b"years of work"


def test_several_damages_are_all_listed(in_process, store, series):
    (series / "volume/c/0/0/0").unlink()
    [other] = [p for p in (store / "P1").iterdir() if p.is_dir()]
    (other / "zarr.json").unlink()
    (store / "notes.txt").write_text("x")
    done = expect_found(in_process, store, name_of(series))
    for place in (f"P1/{other.name}", "notes.txt"):
        assert f"{place}: " in done.stdout


@pytest.mark.parametrize(
    ("content", "level"),
    each_once(
        [b"", b"[]", b"{}", b"\xff", b'{"attributes": []}', b"[" * 100_000] * 2,
        ["", "P0", "P0/{series}", "P0/{series}/volume", "P0/{series}"],
    ),
)
def test_metadata_of_any_kind_is_a_finding_and_no_crash(in_process, store, series, level, content):
    (store / level.format(series=series.name) / "zarr.json").write_bytes(content)
    done = in_process("verify", store)
    assert done.status == 3, done.why
    assert "Traceback" not in done.stderr


def test_no_store_is_one_line_and_exit_1(in_process, tmp_path):
    done = in_process("verify", tmp_path / "none.zarr")
    assert done.status == 1
    assert len(done.stderr.splitlines()) == 1


# --- against the input ----------------------------------------------------------------------------------


def forge(store, series, change):
    """Change values and all digests and copies of them, as only somebody who knows the format can."""
    array = zarr.open_array(series / "volume", mode="r+")
    values = array[...]
    change(values)
    array[...] = values
    node = json.loads((series / "zarr.json").read_text())
    provenance = node["attributes"]["ct_etl"]["provenance"]
    provenance.pop("entry_digest")
    provenance["volume_digest"] = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
    keys = {
        p.relative_to(series).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files_of(series)
        if p != series / "zarr.json"
    }
    sealed = {"keys": keys, "attributes": node["attributes"]}
    text = json.dumps(sealed, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    provenance["entry_digest"] = hashlib.sha256(text.encode()).hexdigest()
    (series / "zarr.json").write_text(json.dumps(node, indent=2))
    edit_json(
        store / "zarr.json",
        lambda root: root["consolidated_metadata"]["metadata"].update({name_of(series): node}),
    )


def test_several_inputs_may_follow_one_input_option(in_process, whole, store):
    parts = sorted((whole / "dicom").iterdir())
    assert len(parts) == 2
    done = in_process("verify", store, "--input", *parts)
    assert done.status == 0, done.why
    assert "2 volumes compared with the input" in done.stdout


def test_a_second_store_is_wrong_usage(in_process, store):
    done = in_process("verify", store, store)
    assert (done.status, done.stdout) == (2, "")
    assert "--input" in done.stderr


def test_input_that_agrees_has_no_findings(in_process, whole, store):
    done = in_process("verify", store, "--input", whole / "dicom")
    assert done.status == 0, done.why
    assert "2 volumes compared with the input" in done.stdout


@pytest.mark.parametrize("voxels", ["all", "one"])
def test_values_changed_with_all_digests_are_found_by_the_input(in_process, whole, store, series, voxels):
    def change(values):
        values[...] += np.float32(2**-13) * (np.indices(values.shape).sum(0) == 7 if voxels == "one" else 1)

    def change_one(values):
        values[1, 2, 3] += np.float32(0.25)

    forge(store, series, change_one if voxels == "one" else change)
    assert in_process("verify", store).status == 0  # by itself, the store is consistent
    done = in_process("verify", store, "--input", whole / "dicom")
    assert done.status == 3, done.why
    assert name_of(series) in done.stdout


def test_input_of_other_values_is_found(in_process, store, tmp_path):
    for n in range(2):
        edit = {"edit": lambda _, ds: setattr(ds, "RescaleIntercept", -1000)} if n else {}
        small_series(tmp_path / "other" / f"p{n}", f"P{n}", seed=n, **edit)
    done = in_process("verify", store, "--input", tmp_path / "other")
    assert done.status == 3, done.why
    assert "P1/" in done.stdout
    assert "P0/" not in done.stdout


@pytest.mark.parametrize(
    "options", [("--center", "0"), ("--center", "volume", "--precision-bits", "full"), ("--zoom", "1,.5,.5")]
)
def test_input_is_compared_by_the_stores_own_configuration(in_process, whole, tmp_path, options):
    store = tmp_path / "t.zarr"
    quick = options if "--zoom" in options else ("--spacing-mm", "12", *options)
    done = in_process("run", whole / "dicom", store, *quick, "--workers", "0", "-q")
    assert done.status == 0, done.why
    done = in_process("verify", store, "--input", whole / "dicom")
    assert done.status == 0, done.why
