"""Inputs that people really had: what becomes of them, and that no volume holds planes of two scans.

Each cohort names its scans by a number of HU that is added to every voxel; the truth is the formula in `cohorts`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import pydicom
import pytest
from cohorts import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    SIZE,
    ZS,
    dimensions,
    encapsulated,
    encode,
    enhanced,
    fragment,
    hu_at,
    one_slice,
    scan_of,
    store_files,
    uid,
    zipped,
)
from pairwise import each_once

from etl.config import Config
from etl.entry import Entry
from etl.read.patients import open_store
from etl.run.run import run

BETWEEN = [z + 1.25 for z in ZS]
JPEG_LOSSLESS, JPEG_2000 = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90"
WRITTEN = ("written", None)
DELIMITER = b"\xfe\xff\xdd\xe0" + bytes(4)


class Landed(NamedTuple):
    entries: list[Entry]
    extras: list[float]
    """HU by which each volume is another scan than the first."""

    @property
    def outcomes(self) -> list[tuple[str, str | None, int]]:
        return sorted((entry.outcome, entry.reason, entry.slices) for entry in self.entries)

    @property
    def warnings(self) -> set[str]:
        return {code for entry in self.entries for code in entry.warnings}


def land(folder: Path, *, is_exact: bool = True, **options: Any) -> Landed:
    config = Config(native=True, precision_bits="full", workers=0, quiet=True, overwrite=True, **options)
    store = folder.parent / f"{folder.name}.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("etl.report.page.write_report", lambda *_, **__: None)
        entries = list(run([str(folder)], str(store), config).entries)
    assert not [entry for entry in entries if entry.reason == "internal-error"]
    written = [entry for entry in entries if entry.outcome == "written"]
    return Landed(entries, sorted(extra_of(store, entry, 3 if is_exact else 8) for entry in written))


def extra_of(store: Path, entry: Entry, spread_hu: float) -> float:
    """Give what a volume adds to the formula, the same in every voxel."""
    volume = open_store(str(store))[entry.patient_id][entry.series_key]
    k, j, i = np.indices(volume.shape).reshape(3, -1)
    x, y, z = (volume.affine_lps @ np.stack([k, j, i, np.ones_like(k)]))[:3]
    extra = volume.to_hu().ravel() - (100 + 10 * x + 6 * y + 8 * z)
    assert np.ptp(extra) < spread_hu, "planes of several scans in one volume"
    return float(np.round(extra.mean()))


def told(folder: Path, parts: dict[float, dict[str, Any]], *, zs: list[list[float]] | None = None) -> Path:
    """Write scans of one series that differ in some attributes, each at its own positions."""
    for n, (extra, values) in enumerate(parts.items()):
        at = zs[n] if zs else ZS
        store_files(folder / f"{n}", scan_of(at, part=n, extra=extra, **values))
    return folder


# --- A: told apart by the header, never woven -----------------------------------------------------------

WOVEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "kernel": ({"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"}),
    "thickness": ({}, {"SliceThickness": "10"}),
    "image type": ({}, {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "MIP"]}),
    "tube voltage": ({"KVP": "80"}, {"KVP": "140"}),
    "study": ({"StudyInstanceUID": uid(1)}, {"StudyInstanceUID": uid(2)}),
    "series number": ({"SeriesNumber": 4}, {"SeriesNumber": 5}),
    "stack": ({"StackID": "1"}, {"StackID": "2"}),
    "field of view": ({"ReconstructionDiameter": 350}, {"ReconstructionDiameter": 200}),
    "space": ({"FrameOfReferenceUID": uid(3)}, {"FrameOfReferenceUID": uid(4)}),
    "study date without uids": (
        {"StudyDate": "20200101", "SeriesInstanceUID": None, "StudyInstanceUID": None},
        {"StudyDate": "20210101", "SeriesInstanceUID": None, "StudyInstanceUID": None},
    ),
}


@pytest.mark.parametrize(("name", "shift_mm"), each_once(list(WOVEN), [1.25, 0.8, 0.0]))
def test_scans_that_the_header_tells_apart_are_never_woven(name: str, shift_mm: float, tmp_path: Path) -> None:
    first, second = WOVEN[name]
    folder = tmp_path / "in" / "p"
    zs = [ZS, [z + shift_mm for z in ZS]]
    if "SeriesInstanceUID" in first:
        # One folder: there the series would be one.
        files = [scan_of(zs[n], part=n, extra=300.0 * n, **WOVEN[name][n]) for n in range(2)]
        store_files(folder, [*files[0], *files[1]])
    else:
        told(folder, {0: first, 300: second}, zs=zs)
    landed = land(tmp_path / "in")
    assert landed.outcomes == [(*WRITTEN, 12)] * 2
    assert landed.extras == [0, 300]


@pytest.mark.parametrize("attribute", ["ConvolutionKernel", "SliceThickness", "KVP", "AcquisitionNumber"])
def test_what_changes_along_the_way_stays_one_volume(attribute: str, tmp_path: Path) -> None:
    values = {"ConvolutionKernel": ("B30f", "B70f"), "SliceThickness": ("2.5", "3")}.get(attribute, ("80", "140"))
    zs = [ZS, [30 + z for z in ZS]]
    told(tmp_path / "in", {0: {attribute: values[0]}, 0.0001: {attribute: values[1]}}, zs=zs)
    assert land(tmp_path / "in").outcomes == [(*WRITTEN, 24)]


def test_slices_that_alternate_between_two_spaces_as_one_scan_are_refused(tmp_path: Path) -> None:
    spaces = [uid("a"), uid("b")]
    files = scan_of(ZS, per_slice=lambda k: {"FrameOfReferenceUID": spaces[k % 2]})
    landed = land(store_files(tmp_path / "in", files))
    assert {entry.reason for entry in landed.entries} == {"inconsistent-slices"}
    assert all("Frame of Reference UID" in str(entry.detail) for entry in landed.entries)


def test_blocks_of_two_kernels_that_take_turns_are_refused_by_name(tmp_path: Path) -> None:
    kernel = lambda k: {"ConvolutionKernel": ("B30f", "B70f")[k // 2 % 2]}  # noqa: E731
    [entry] = land(store_files(tmp_path / "in", scan_of(ZS, per_slice=kernel))).entries
    assert entry.reason == "inconsistent-slices"
    assert "Convolution Kernel" in str(entry.detail)


# --- B, C: whose it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", [lambda k: f"P{k % 2}", lambda k: f"P{k // 12}", lambda k: f"P{k == 7:d}"])
def test_one_series_torn_between_patients_is_refused_by_name(owner: Callable[[int], str], tmp_path: Path) -> None:
    zs = [2.5 * k for k in range(24)]
    landed = land(store_files(tmp_path / "in", scan_of(zs, per_slice=lambda k: {"PatientID": owner(k)})))
    assert {entry.reason for entry in landed.entries} == {"inconsistent-slices"}
    assert all("Patient ID (0010,0020)" in str(entry.detail) for entry in landed.entries)


def test_two_patients_with_one_series_uid_stay_apart_with_a_warning(tmp_path: Path) -> None:
    told(tmp_path / "in", {0: {"PatientID": "P1"}, 300: {"PatientID": "P2"}})
    landed = land(tmp_path / "in")
    assert landed.extras == [0, 300]
    assert "shared-series-uid" in landed.warnings


@pytest.mark.parametrize("character_set", ["ISO_IR 192", None, "ISO_IR 6", "NOBODY KNOWS"])
def test_ids_of_other_bytes_are_other_patients(character_set: str | None, tmp_path: Path) -> None:
    for n, name in enumerate([b"M\xfcller12", b"M\xf6ller12"]):
        files = []
        for k, z in enumerate(ZS):
            ds = one_slice(
                z, k, part=n, extra=300.0 * n, series=f"s{n}", StudyInstanceUID=uid(n), PatientID="MARK1234"
            )
            files.append(encode(ds).replace(b"MARK1234", name))
        store_files(tmp_path / "in" / f"{n}", files)
    landed = land(tmp_path / "in")
    assert {entry.patient_id for entry in landed.entries} == {r"M\xfcller12", r"M\xf6ller12"}
    assert "undecodable-patient-id" in landed.warnings


def test_an_id_that_lost_a_character_names_one_study_only(tmp_path: Path) -> None:
    for n in range(2):
        values = {"SpecificCharacterSet": "ISO_IR 192", "PatientID": "M\ufffdller12"}
        files = scan_of(ZS, extra=300.0 * n, series=f"s{n}", StudyInstanceUID=uid(n), **values)
        store_files(tmp_path / "in" / f"{n}", files)
    landed = land(tmp_path / "in")
    assert len({entry.patient_id for entry in landed.entries}) == 2
    assert "undecodable-patient-id" in landed.warnings


def test_a_written_backslash_is_no_byte_that_does_not_decode(tmp_path: Path) -> None:
    files = scan_of(ZS, PatientID=r"M\xfcller12")
    [entry] = land(store_files(tmp_path / "in", files)).entries
    assert (entry.patient_id, entry.warnings) == (r"M\x5cxfcller12", ("no-air-peak",))


@pytest.mark.parametrize(
    "persons",
    [
        [{"PatientBirthDate": "19500101"}, {"PatientBirthDate": "19510101"}],
        [{"PatientSex": "F"}, {"PatientSex": "M"}],
        [{"IssuerOfPatientID": "East"}, {"IssuerOfPatientID": "West"}],
    ],
)
def test_one_id_of_several_people_is_told(persons: list[dict[str, Any]], tmp_path: Path) -> None:
    for n, values in enumerate(persons):
        store_files(tmp_path / "in" / f"{n}", scan_of(ZS, series=f"s{n}", StudyInstanceUID=uid(n), **values))
    landed = land(tmp_path / "in")
    assert all("patient-id-conflict" in entry.warnings for entry in landed.entries)
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "in" not in path.parts]
    assert not any(re.search(rb"19(50|51)-?01-?01", text) for text in texts)


def test_a_birth_date_that_is_absent_or_written_otherwise_contradicts_nothing(tmp_path: Path) -> None:
    for n, date in enumerate(["19500101", "1950.01.01", None]):
        store_files(tmp_path / "in" / f"{n}", scan_of(ZS, series=f"s{n}", PatientBirthDate=date))
    assert "patient-id-conflict" not in land(tmp_path / "in").warnings


# --- D: zips that hold a name more than once ------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [lambda k: f"IM{k % 6:04d}.dcm", lambda _: "IM.dcm", lambda k: ["a", "a#2", "b"][k % 3]]
)
def test_every_entry_of_a_zip_is_a_file(name: Callable[[int], str], tmp_path: Path) -> None:
    zipped(tmp_path / "in" / "p.zip", ((name(k), content) for k, content in enumerate(scan_of(ZS))))
    landed = land(tmp_path / "in")
    assert landed.outcomes == [(*WRITTEN, 12)]
    assert "duplicates-dropped" not in landed.warnings


# --- E, F: times, phases, repeats -----------------------------------------------------------------------


def cine(stamp: Callable[[int], dict[str, Any]], passes: int = 3) -> Iterator[bytes]:
    """Yield slices one second after the other, from 18 seconds before midnight on."""
    for turn in range(passes):
        for k, z in enumerate(ZS):
            yield encode(one_slice(z, k, part=turn, extra=100.0 * turn, **stamp(86382 + 12 * turn + k)))


def clock(second: int) -> tuple[str, str]:
    date, second = ("20240101", "20240102")[second >= 86400], second % 86400
    return date, f"{second // 3600:02d}{second // 60 % 60:02d}{second % 60:02d}"


STAMPS: dict[str, Callable[[int], dict[str, Any]]] = {
    "date and time": lambda s: dict(zip(("AcquisitionDate", "AcquisitionTime"), clock(s), strict=True)),
    "date time": lambda s: {"AcquisitionDateTime": "".join(clock(s))},
    "date time with offset": lambda s: {"AcquisitionDateTime": "".join(clock(s)) + ".25+0100"},
    "acr-nema": lambda s: {
        "AcquisitionDate": clock(s)[0],
        "AcquisitionTime": re.sub(r"(..)(..)(..)", r"\1:\2:\3", clock(s)[1]),
    },
    "content": lambda s: dict(zip(("ContentDate", "ContentTime"), clock(s), strict=True)),
    "trigger": lambda s: {"TriggerTime": f"{s - 86382}"},
}


@pytest.mark.parametrize("name", STAMPS)
def test_a_cine_scan_is_parted_by_instants_also_over_midnight(name: str, tmp_path: Path) -> None:
    landed = land(store_files(tmp_path / "in", cine(STAMPS[name])))
    assert landed.outcomes == [(*WRITTEN, 12)] * 3
    assert landed.extras == [0, 100, 200]


CLASSIC_REPEATS: dict[str, Callable[[int], dict[str, Any]]] = {
    "temporal position": lambda t: {"TemporalPositionIdentifier": t + 1, "AcquisitionNumber": 1},
    "phase": lambda t: {"NominalPercentageOfCardiacPhase": 10.0 * t},
    "delay": lambda t: {"NominalCardiacTriggerDelayTime": 75.0 * t},
    "scan options": lambda t: {"ScanOptions": f"TP{t}"},
    "image type": lambda t: {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", f"PHASE{t}"]},
    "short times": lambda t: {"AcquisitionTime": ("10", "1012", "101200.5")[t]},
    "study": lambda t: {"StudyInstanceUID": uid("t", t)},
}


@pytest.mark.parametrize(("name", "left"), each_once(list(CLASSIC_REPEATS), [12, 5, 1]))
def test_repeats_are_parted_and_a_fragment_costs_itself(name: str, left: int, tmp_path: Path) -> None:
    parts = {50.0 * t: CLASSIC_REPEATS[name](t) for t in range(3)}
    landed = land(told(tmp_path / "in", parts, zs=[ZS, ZS, ZS[:left]]))
    last = (*WRITTEN, 12) if left == 12 else ("excluded", "too-few-slices", left)
    assert landed.outcomes == sorted([(*WRITTEN, 12), (*WRITTEN, 12), last])
    assert landed.extras == [0, 50, 100][: 2 + (left == 12)]


FRAME_REPEATS: dict[str, Callable[[int], dict[str, Any]]] = {
    "frame acquisition": lambda t: {
        "FrameAcquisitionDateTime": f"2022022316432{t}.715",
        "TemporalPositionIndex": 1,
    },
    "frame reference": lambda t: {"FrameReferenceDateTime": f"20220223164320.{t}15+0100"},
    "temporal index": lambda t: {"TemporalPositionIndex": t + 1},
    "stack": lambda t: {"StackID": f"{t}"},
    "acquisition": lambda t: {"FrameAcquisitionNumber": t + 1},
}


@pytest.mark.parametrize(("name", "one_file"), each_once(list(FRAME_REPEATS), [True, False]))
def test_frames_are_parted_in_one_file_and_in_several(name: str, one_file: bool, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    if one_file:
        ds = enhanced(ZS * 3, frame=lambda k: FRAME_REPEATS[name](k // 12))
        planes = np.frombuffer(ds.PixelData, "<u2").reshape(3, 12, SIZE, SIZE)
        ds.PixelData = (planes + np.arange(0, 150, 50, "<u2")[:, None, None, None]).astype("<u2").tobytes()
        store_files(folder, [encode(ds)])
    else:
        made = [
            enhanced(ZS, part=t, extra=50.0 * t, frame=lambda _, t=t: FRAME_REPEATS[name](t)) for t in range(3)
        ]
        store_files(folder, map(encode, made))
    landed = land(folder)
    assert landed.outcomes == [(*WRITTEN, 12)] * 3
    assert landed.extras == [0, 50, 100]


@pytest.mark.parametrize("has_sequence", [True, False])
def test_dimension_index_values_are_read_with_their_sequence(has_sequence: bool, tmp_path: Path) -> None:
    def edit(ds: pydicom.Dataset) -> None:
        if has_sequence:
            ds.DimensionIndexSequence = dimensions("InStackPositionNumber", "NominalCardiacTriggerDelayTime")

    for t in range(2):
        frame = lambda k, t=t: {"DimensionIndexValues": [k + 1, t + 1]}  # noqa: E731
        made = enhanced(ZS, part=t, extra=50.0 * t, edit=edit, frame=frame)
        store_files(tmp_path / "in" / f"{t}", [encode(made)])
    landed = land(tmp_path / "in")
    assert landed.extras == ([0, 50] if has_sequence else [])
    if not has_sequence:
        assert landed.outcomes == [("failed", "duplicate-positions", 12)]


def test_macros_of_an_enhanced_image_tell_its_kernels_apart(tmp_path: Path) -> None:
    for t, kernel in enumerate(["B30f", "B70f"]):
        macros = {"CTReconstructionSequence": {"ConvolutionKernel": kernel}}
        made = enhanced([z + 1.25 * t for z in ZS], part=t, extra=300.0 * t, macros=macros)
        del made.ConvolutionKernel
        store_files(tmp_path / "in" / f"{t}", [encode(made)])
    assert land(tmp_path / "in").extras == [0, 300]


@pytest.mark.parametrize("attribute", ["AcquisitionNumber", "StackID"])
def test_regions_far_apart_are_two_volumes_where_an_attribute_says_so(attribute: str, tmp_path: Path) -> None:
    zs = [ZS, [z + 130 for z in ZS]]
    landed = land(told(tmp_path / "in", {0: {attribute: "1"}, 10: {attribute: "2"}}, zs=zs))
    assert (landed.outcomes, landed.extras) == ([(*WRITTEN, 12)] * 2, [0, 10])
    assert land(told(tmp_path / "none", {0: {}, 10: {}}, zs=zs)).outcomes == [("failed", "missing-slices", 24)]


def test_images_that_were_exported_again_are_copies_and_others_are_not(tmp_path: Path) -> None:
    again = {"ContentTime": "101010", "ContentDate": "20200101", "InstanceNumber": 7}
    for name, extra in (("same", 0.0), ("other", 50.0)):
        told(tmp_path / name, {0: {}, extra + 1e-4: again})
    same, other = land(tmp_path / "same"), land(tmp_path / "other")
    assert same.outcomes == [(*WRITTEN, 12)]
    assert "duplicates-dropped" in same.warnings
    assert other.outcomes == [("failed", "duplicate-positions", 12)]
    for looked_at in ("Convolution Kernel", "Slice Thickness", "Series Number"):
        assert looked_at in str(other.entries[0].detail)


# --- G: any order ---------------------------------------------------------------------------------------


def turned(angle: float) -> list[str]:
    return [f"{v:.6f}" for v in (np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0)]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_noise_in_the_orientation_never_parts_whatever_comes_first(order: tuple[int, ...], tmp_path: Path) -> None:
    files = scan_of(ZS, per_slice=lambda k: {"ImageOrientationPatient": turned((-0.0009, 0.0, 0.0009)[k % 3])})
    ordered = sorted(range(12), key=lambda k: (order.index(k % 3), k))
    landed = land(store_files(tmp_path / "in", [files[k] for k in ordered]))
    assert landed.outcomes == [(*WRITTEN, 12)]


def test_an_orientation_that_drifts_without_end_is_refused(tmp_path: Path) -> None:
    files = scan_of(ZS, per_slice=lambda k: {"ImageOrientationPatient": turned(0.0009 * k)})
    [entry] = land(store_files(tmp_path / "in", files)).entries
    assert entry.reason == "inconsistent-slices"
    assert "drifts" in str(entry.detail)


# --- H: where pixels lie --------------------------------------------------------------------------------


def stored(ds: pydicom.Dataset) -> np.ndarray:
    return np.frombuffer(ds.PixelData, "<u2").reshape(-1, SIZE, SIZE)


@pytest.mark.parametrize("behind", [b"", bytes(2), bytes(20), bytes(4096), b"\xff" * 9 + b"\0", b"padding!"])
@pytest.mark.parametrize(
    "end", [b"\xfe\xff\xdd\xe0\0\0\0\0", bytes(8), b""], ids=["delimiter", "zeros", "nothing"]
)
def test_jpeg_frames_are_read_whatever_lies_behind_them(behind: bytes, end: bytes, tmp_path: Path) -> None:
    files = []
    for k, z in enumerate(ZS):
        ds = one_slice(z, k)
        frame = imagecodecs.ljpeg_encode(np.ascontiguousarray(stored(ds)[0]), bitspersample=16)
        content = encapsulated(ds, fragment(b"") + fragment(frame + behind), JPEG_LOSSLESS)
        files.append(content.removesuffix(DELIMITER) + end)
    assert land(store_files(tmp_path / "in", files)).extras == [0]


@pytest.mark.parametrize("table", ["shifted", "zeros", "short", "absent"])
def test_a_wrong_offset_table_hides_no_frame(table: str, tmp_path: Path) -> None:
    ds = enhanced(ZS)
    encoded = [
        imagecodecs.jpeg2k_encode(frame, codecformat="j2k", reversible=True, level=0) for frame in stored(ds)
    ]
    fragments = [fragment(frame) for frame in encoded]
    starts = np.cumsum([0, *map(len, fragments)])[:12].astype("<u4")
    tables = {"shifted": starts + 8, "zeros": starts * 0, "short": starts[:3], "absent": starts[:0]}
    content = encapsulated(ds, fragment(tables[table].tobytes()) + b"".join(fragments), JPEG_2000)
    assert land(store_files(tmp_path / "in", [content])).extras == [0]


@pytest.mark.parametrize(("said", "is_so"), [(IMPLICIT, EXPLICIT), (EXPLICIT, IMPLICIT)])
def test_what_the_data_set_is_goes_before_what_the_meta_header_says(said: str, is_so: str, tmp_path: Path) -> None:
    files = []
    for k, z in enumerate(ZS):
        heads = [encode(one_slice(z, k), syntax) for syntax in (said, is_so)]
        ends = [144 + int.from_bytes(content[140:144], "little") for content in heads]
        files.append(heads[0][: ends[0]] + heads[1][ends[1] :])
    assert land(store_files(tmp_path / "in", files)).extras == [0]


@pytest.mark.parametrize("rows", [SIZE, SIZE - 1])
@pytest.mark.parametrize("vr", ["OW", "OB"])
def test_bytes_in_big_endian_words_are_read_in_their_order(vr: str, rows: int, tmp_path: Path) -> None:
    files = []
    for k, z in enumerate(ZS):
        bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
        ds = one_slice(z, k, RescaleSlope=4, RescaleIntercept=-200, Rows=rows, Columns=rows, **bits)
        values = np.rint((hu_at(z)[:rows, :rows] + 200) / 4).astype(np.uint8).tobytes()
        values += bytes(len(values) % 2)
        if vr == "OW":
            values = np.frombuffer(values, "<u2").byteswap().tobytes()
        head = encode(ds, BIG_ENDIAN)
        at = head.index(b"\x7f\xe0\x00\x10")
        files.append(
            head[:at] + b"\x7f\xe0\x00\x10" + vr.encode() + bytes(2) + len(values).to_bytes(4, "big") + values
        )
    [entry] = (landed := land(store_files(tmp_path / "in", files), is_exact=False)).entries
    assert entry.outcome == "written", entry.detail
    assert abs(landed.extras[0]) <= 2


def test_a_frame_that_was_cut_off_is_still_truncated(tmp_path: Path) -> None:
    files = []
    for k, z in enumerate(ZS):
        ds = one_slice(z, k)
        frame = imagecodecs.ljpeg_encode(np.ascontiguousarray(stored(ds)[0]), bitspersample=16)
        files.append(encapsulated(ds, fragment(b"") + fragment(frame[: len(frame) // 2]), JPEG_LOSSLESS))
    assert land(store_files(tmp_path / "in", files)).outcomes == [("failed", "truncated-pixel-data", 12)]


# --- I: evidence of loss --------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [(1, 2), (1, 3), (2, 3)])
def test_a_concatenation_that_lost_a_part_is_refused(there: tuple[int, ...], tmp_path: Path) -> None:
    for n in there:
        made = enhanced(
            ZS[4 * n - 4 : 4 * n], part=n, ConcatenationUID=uid("c"), InConcatenationNumber=n,
            InConcatenationTotalNumber=3, ConcatenationFrameOffsetNumber=4 * n - 4,
        )  # fmt: skip
        store_files(tmp_path / "in" / f"{n}", [encode(made)])
    assert land(tmp_path / "in").outcomes == [("failed", "missing-slices", 8)]


def test_time_points_of_a_concatenation_that_lost_one_are_told(tmp_path: Path) -> None:
    for n in (1, 3):
        of = {"ConcatenationUID": uid("c"), "InConcatenationNumber": n, "InConcatenationTotalNumber": 3}
        frame = lambda _, n=n: {"TemporalPositionIndex": n}  # noqa: E731
        made = enhanced(ZS, part=n, extra=50.0 * n, frame=frame, **of)
        store_files(tmp_path / "in" / f"{n}", [encode(made)])
    landed = land(tmp_path / "in")
    assert landed.extras == [50, 150]
    assert all("incomplete-concatenation" in entry.warnings for entry in landed.entries)


@pytest.mark.parametrize("stated", [1, 5, 14])
def test_a_number_of_frames_that_the_pixels_deny_is_inconsistent(stated: int, tmp_path: Path) -> None:
    made = enhanced(ZS, edit=lambda ds: setattr(ds, "NumberOfFrames", stated))
    landed = land(store_files(tmp_path / "in", [encode(made)]))
    assert [(outcome, reason) for outcome, reason, _ in landed.outcomes] == [("failed", "inconsistent-slices")]


def test_numbers_that_lack_are_named_where_slices_are_missing(tmp_path: Path) -> None:
    files = scan_of([2.5 * k for k in range(24)], ImagesInAcquisition=24)
    del files[10:13]
    [entry] = land(store_files(tmp_path / "in", files)).entries
    assert entry.reason == "missing-slices"
    assert "without 11, 12, 13" in str(entry.detail)
    assert "Images in Acquisition (0020,1002) is 24" in str(entry.detail)


# --- K, L: routine, and masks ---------------------------------------------------------------------------


def test_a_monitoring_scan_is_no_failure(tmp_path: Path) -> None:
    files = scan_of([10.0] * 15, per_slice=lambda k: {"AcquisitionNumber": k + 1, "SOPInstanceUID": uid("m", k)})
    assert land(store_files(tmp_path / "in", files)).outcomes == [("excluded", "single-position", 15)]


def test_unspecified_units_are_taken_where_asked_for(tmp_path: Path) -> None:
    store_files(tmp_path / "in", scan_of(ZS, RescaleType="US"))
    [entry] = land(tmp_path / "in").entries
    assert (entry.reason, "--assume-hu" in str(entry.detail)) == ("missing-rescale", True)
    landed = land(tmp_path / "in", assume_hu=True)
    assert landed.extras == [0]
    assert "assumed-hu" in landed.warnings


@pytest.mark.parametrize("spelled", ["Houndsfield Unit", "hounsfield units", "hu", "H.U.", "HU "])
def test_spellings_of_hounsfield_units_are_hu(spelled: str, tmp_path: Path) -> None:
    assert land(store_files(tmp_path / "in", scan_of(ZS, RescaleType=spelled))).extras == [0]


@pytest.mark.parametrize(("bits", "values"), [(8, (0, 255)), (8, (0, 1)), (16, (0, 1)), (16, (24, 1024))])
@pytest.mark.parametrize("series", ["all", "default"])
def test_masks_that_pose_as_ct_are_no_volumes(
    bits: int, values: tuple[int, int], series: str, tmp_path: Path
) -> None:
    def edit(ds: pydicom.Dataset, _: int) -> None:
        shape = np.full((SIZE, SIZE), values[0])
        shape[4:9, 4:9] = values[1]
        ds.PixelData = shape.astype(f"<u{bits // 8}").tobytes()
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1

    store_files(tmp_path / "in" / "p" / "m", scan_of(ZS, edit=edit, series="mask", SeriesNumber=1))
    store_files(tmp_path / "in" / "p" / "c", scan_of(ZS, series="ct", SeriesNumber=2))
    landed = land(tmp_path / "in", series=series)
    assert landed.outcomes == [("excluded", "mask", 12), (*WRITTEN, 12)]
    store = open_store(str(tmp_path / "in.zarr"))
    assert store["CASE"].default.attributes["series_instance_uid"] == uid("ct")
