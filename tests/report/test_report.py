"""The report and its pictures, against stores written by hand."""

from __future__ import annotations

import base64
import io
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade_store import Series, damage_all_but_first_chunk, head, write_store
from PIL import Image

from etl.codes import ExclusionCode, FailureCode, WarningCode, words_of
from etl.errors import StoreError
from etl.read.patients import Volume, open_store
from etl.report.explain import explanations
from etl.report.histogram import draw_histogram
from etl.report.page import CARDS_A_PAGE, MAX_ROWS, montage_of, write_report

WINDOW = (-1000, 2000)


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.source = path.read_text("utf-8")
        self.texts: list[str] = []
        self.feed(self.source)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in {"td", "th"}

    def handle_data(self, data):
        self.texts.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data.strip()

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def line(outcome: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
    usual = {"patient_id": "P7", "series_key": "0005-ffffffff", "series_number": 5, "slices": 31, "detail": None}
    return usual | {"outcome": outcome, "reason": reason} | more


def small(**options: Any) -> Series:
    return Series(head((9, 10, 11)), spacing_mm=(2, 1, 1), **options)


def report(tmp_path: Path, series: list[Series], **options: Any) -> Page:
    store = write_store(tmp_path / "s.zarr", series)
    return Page(write_report(str(store), tmp_path / "out" / "report.html", **options))


def picture(uri: str) -> np.ndarray:
    head_, _, content = uri.partition(",")
    assert head_ == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def svg(uri: str) -> ET.Element:
    return ET.fromstring(base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")))


def only_volume(tmp_path: Path, one: Series) -> Volume:
    return open_store(write_store(tmp_path / "s.zarr", [one]))[one.patient_id].default


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(tmp_path):
    page = report(tmp_path, [small()], ledger=[line("failed", "undecodable")])
    links = [a[name] for _, a in page.tags for name in ("src", "href", "data", "action") if name in a]
    assert links
    assert all(link.startswith(("data:image/", "#")) for link in links)
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r"url\(|@import|https?:", page.source)
    assert not [name for _, a in page.tags for name in a if name.startswith("on")]


def test_links_inside_the_page_lead_somewhere(tmp_path):
    page = report(tmp_path, [small(), small(patient_id="P2")])
    targets = {a["id"] for _, a in page.tags if "id" in a}
    links = {a["href"].removeprefix("#") for a in page.all("a")}
    assert len(links) == 3
    assert links <= targets


def test_every_picture_has_its_own_alternative_text(tmp_path):
    page = report(tmp_path, [small(), small(patient_id="P2")])
    texts = [image["alt"] for image in page.all("img")]
    assert len(set(texts)) == len(texts) == 4
    assert len(page.all("figcaption")) == 4


def test_values_from_files_are_shown_and_not_obeyed(tmp_path):
    attack = '<script>alert(1)</script>"><img src=x onerror=y>'
    page = report(
        tmp_path,
        [small(patient_id=attack, dicom={"ConvolutionKernel": attack}, warnings=[attack])],
        ledger=[line("failed", attack, detail=attack, patient_id=attack)],
    )
    assert not page.all("script")
    assert len(page.all("img")) == 2
    assert page.text.count("<script>alert(1)</script>") >= 6


def test_no_path_and_no_field_that_was_not_asked_for_is_shown(tmp_path):
    run = {
        "run_dir": str(tmp_path),
        "input": ["/data/ct"],
        "ignored_files": {"count": 3, "paths": ["/data/x.txt"]},
    }
    entry = line("failed", "unreadable", path="/data/ct/1.dcm", patient_name="Doe^Jane", birth_date="19700101")
    page = report(tmp_path, [small(dicom={"PatientName": "Doe^Jane"})], ledger=[entry], run=run)
    for secret in (str(tmp_path), "/data", "Doe", "19700101"):
        assert secret not in page.source
    assert "files that are not DICOM 3" in page.text


def test_a_volume_that_cannot_be_read_is_said_so_without_its_path(tmp_path):
    damaged, whole = small(), small(patient_id="P2")
    store = write_store(tmp_path / "s.zarr", [damaged, whole])
    damage_all_but_first_chunk(store, damaged)
    page = Page(write_report(str(store), tmp_path / "report.html"))
    assert page.text.count("This volume cannot be read") == 1
    assert str(tmp_path) not in page.source
    assert len(page.all("img")) == 2


def test_what_is_left_out_is_listed_failures_first(tmp_path):
    ledger = [
        line("excluded", "localizer", series_number=1, slices=2),
        line("written", series_key="0002-0a1b2c3d", patient_id="P1", slices=34),
        line("failed", "missing-slices", detail="gap of 10 mm", series_number=4),
        line("excluded", "localizer", series_number=9),
    ]
    page = report(tmp_path, [small()], ledger=ledger)
    left_out = [row for row in page.rows if len(row) == 4 and row[0] != "Patient"]
    assert left_out == [
        ["P7", "gap of 10 mm", "4", "31"],
        ["P7", "–", "1", "2"],  # noqa: RUF001
        ["P7", "–", "9", "31"],  # noqa: RUF001
    ]
    # Failures lie open, the rest on demand, each with what to do.
    assert ["open" in attributes for attributes in page.all("details")] == [True, False]
    for code in (FailureCode.MISSING_SLICES, ExclusionCode.LOCALIZER):
        assert f"{code} {code.words} Usual cause: {explanations()[code].cause}" in page.text
    assert "1 failed missing-slices" in page.text
    assert "2 excluded localizer" in page.text
    written = next(row for row in page.rows if row[:2] == ["P1", "0002-0a1b2c3d"])
    assert written[2:6] == ["written", "34", "9 × 10 × 11", "2 × 1 × 1"]  # noqa: RUF001
    for total in ("stacks scanned 4", "written 1", "failed 1", "excluded 2", "patients 1", "volumes 1"):
        assert total in page.text


def test_fifty_thousand_series_make_a_page_below_three_megabytes(tmp_path):
    long = "x" * 2000
    ledger = [
        *(line("failed", "missing-slices", patient_id=f"F{n}", detail=long) for n in range(5_000)),
        *(line("failed", "undecodable", patient_id=f"U{n}", detail=long) for n in range(5)),
        *(line("excluded", "localizer", patient_id=f"L{n}") for n in range(20_000)),
        *(line("written", patient_id=f"W{n}") for n in range(25_000)),
    ]
    page = report(tmp_path, [small()], ledger=ledger)
    assert len(page.source.encode()) < 3e6
    assert "5000 failed missing-slices" in page.text
    assert "20000 excluded localizer" in page.text
    assert "and 4500 more: ledger.jsonl has all." in page.text
    assert "and 19975 more: ledger.jsonl has all." in page.text


def test_many_volumes_are_shown_on_pages_that_lead_to_each_other(tmp_path):
    count = 2 * CARDS_A_PAGE + 3
    series = [small(patient_id=f"P{n:03d}") for n in range(count)]
    page = report(tmp_path, series)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["report-2.html", "report-3.html", "report.html"]
    pages = {path.name: Page(path) for path in out.iterdir()}
    assert [len(pages[name].all("article")) for name in ("report.html", "report-2.html", "report-3.html")] == [
        CARDS_A_PAGE,
        CARDS_A_PAGE,
        3,
    ]
    ids = {name: {a["id"] for _, a in one.tags if "id" in a} for name, one in pages.items()}
    for name, one in pages.items():
        for link in (a["href"] for a in one.all("a")):
            place, _, anchor = link.partition("#")
            assert not anchor or anchor in ids[place or name]
            assert place in {"", *pages}
    assert len([row for row in page.rows if row[0].startswith("P0")]) == count
    # A report of fewer volumes leaves none of these.
    write_report(str(tmp_path / "s.zarr"), out / "report.html", pictures={})
    assert [path.name for path in out.iterdir()] == ["report.html"]


def test_of_many_volumes_the_table_has_some_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("etl.report.page.MAX_ROWS", 3)
    series = [small(patient_id=f"P{n}") for n in range(5)]
    store = write_store(tmp_path / "s.zarr", series)
    last = open_store(store)["P4"].default.node
    page = Page(write_report(str(store), tmp_path / "report.html", pictures={last: None}))
    assert [row[0] for row in page.rows if row[0].startswith("P") and row[0] != "Patient"] == ["P0", "P1", "P4"]
    assert "Of 5 volumes 3" in page.text
    assert MAX_ROWS > 3


def test_a_card_says_what_the_volume_is(tmp_path):
    one = small(tilt_deg=17.5, dicom={"ConvolutionKernel": "H30s"}, warnings=["gantry-tilt", "new-code"])
    text = report(tmp_path, [one]).text
    for fact in ("kernel H30s", "gantry tilt 17.5°", "source size 9 × 512 × 512", "default series"):  # noqa: RUF001
        assert fact in text
    assert f"gantry-tilt {words_of('gantry-tilt')}" in text
    assert "new-code new code" in text


def test_configuration_and_fingerprint_are_shown(tmp_path):
    text = report(tmp_path, [small()]).text
    assert "window -1000, 2000" in text
    assert "mean of body voxels, HU 40.25" in text


def test_a_store_without_volumes_has_a_report(tmp_path):
    page = report(tmp_path, [], ledger=[line("failed", "undecodable")])
    assert "The store is empty." in page.text
    assert "undecodable" in page.text


def test_a_report_is_replaced_as_a_whole(tmp_path):
    store = write_store(tmp_path / "s.zarr", [small()])
    target = tmp_path / "report.html"
    target.write_text("old")
    assert write_report(str(store), target) == target
    assert target.read_text("utf-8").rstrip().endswith("</html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "s.zarr"]
    with pytest.raises(StoreError):
        write_report(str(tmp_path / "none"), target)
    assert target.read_text("utf-8").rstrip().endswith("</html>")


def test_every_code_of_the_contract_has_plain_words():
    for code in (*FailureCode, *ExclusionCode, *WarningCode):
        assert words_of(code) != code.replace("-", " ")


def test_the_patients_right_and_front_are_at_the_upper_left(tmp_path):
    # Columns run to the patient's left and rows to posterior, so low indices are right and anterior.
    hu = np.full((12, 40, 40), 0, np.float32)
    hu[:, 8:16, 8:16] = 80
    volume = only_volume(tmp_path, Series(hu, spacing_mm=(1, 1, 1), chunk=(4, 16, 16)))
    sheet = picture(montage_of(volume).uri)
    tile = sheet[: (sheet.shape[0] - 8) // 3, : (sheet.shape[1] - 12) // 4]
    rows, columns = np.nonzero(tile[30:-30, 30:-30] > 200)
    middle = (tile.shape[0] - 60) / 2
    assert rows.size
    assert rows.max() < middle
    assert columns.max() < middle


def test_slices_run_from_the_lowest_to_the_highest_of_the_body(tmp_path):
    # Air, then a body that grows brighter upwards, then air again.
    hu = np.full((60, 20, 20), -1000, np.float32)
    hu[12:48] = np.linspace(5, 75, 36, dtype=np.float32)[:, None, None]
    volume = only_volume(tmp_path, Series(hu, spacing_mm=(1, 1, 1), chunk=(8, 16, 16)))
    montage = montage_of(volume)
    sheet = picture(montage.uri)
    height, width = (sheet.shape[0] - 8) // 3, (sheet.shape[1] - 12) // 4
    middles = [
        float(sheet[row * (height + 4) + height // 2, column * (width + 4) + width // 2])
        for row in range(3)
        for column in range(4)
    ]
    assert montage.slices == 12
    assert middles == sorted(middles)
    assert middles[0] < 40
    assert middles[-1] > 215


def test_a_slice_is_drawn_to_scale(tmp_path):
    # 20 rows of 2 mm and 80 columns of 1 mm: twice as wide as it is high.
    hu = np.full((4, 20, 80), 30, np.float32)
    volume = only_volume(tmp_path, Series(hu, spacing_mm=(5, 2, 1), chunk=(4, 20, 80)))
    montage = montage_of(volume)
    sheet = picture(montage.uri)
    assert montage.slices == 4
    assert (montage.height_px, montage.width_px) == sheet.shape
    width, height = (sheet.shape[1] - 12) / 4, sheet.shape[0]
    assert math.isclose(width, 2 * height, rel_tol=0.02)


@pytest.mark.parametrize(
    ("shape", "hu"), [((1, 1, 1), -1000.0), ((2, 7, 300), 3000.0), ((50, 3, 3), -1000.0)], ids=str
)
def test_odd_volumes_have_a_montage(tmp_path, shape, hu):
    montage = montage_of(only_volume(tmp_path, Series(np.full(shape, hu, np.float32), chunk=shape)))
    assert picture(montage.uri).shape == (montage.height_px, montage.width_px)


def peak_fraction(drawing: ET.Element) -> float:
    """Where the highest bar of the first panel stands, from 0 at its left to 1 at its right edge."""
    outlines = [e.get("d") for e in drawing.iter("{http://www.w3.org/2000/svg}path") if len(e.get("d", "")) > 500]
    points = np.array([float(v) for v in re.findall(r"-?\d+\.?\d*", outlines[0])]).reshape(-1, 2)
    highest = points[points[:, 1] == points[:, 1].min(), 0]
    return float((highest.mean() - points[:, 0].min()) / np.ptp(points[:, 0]))


@pytest.mark.parametrize("hu", [-995, -400, 40, 1200])
def test_the_highest_bar_stands_at_the_commonest_value(hu):
    counts = np.zeros(3001, np.uint32)
    counts[hu + 1000] = 50_000
    counts[::7] += 3
    found = peak_fraction(svg(draw_histogram(counts, WINDOW)))
    assert math.isclose(found, (hu + 1000) / 3000, abs_tol=10 / 3000)


def test_tissues_are_named_where_the_window_has_them():
    counts = np.ones(3001, np.uint32)
    wide = "".join(svg(draw_histogram(counts, WINDOW)).itertext())
    for name in ("air", "lung", "fat", "water, CSF", "white matter", "gray matter", "blood", "bone"):
        assert name in wide
    narrow = "".join(svg(draw_histogram(counts[:81], (0, 80))).itertext())
    assert "gray matter" in narrow
    assert "fat" not in narrow
    assert "bone" not in narrow


@pytest.mark.parametrize("window", [(-1024, 3071), (0, 1), (-32768, 32767), (-160, 240), (500, 2000)], ids=str)
def test_any_window_has_a_histogram(window):
    counts = np.zeros(window[1] - window[0] + 1, np.uint32)
    assert svg(draw_histogram(counts, window)).tag.endswith("svg")


def test_a_volume_takes_less_than_150_kb_of_the_page(tmp_path):
    one = Series(head((48, 128, 110)), spacing_mm=(3, 1.5, 1.5), chunk=(24, 64, 64))
    assert len(report(tmp_path, [one]).source) < 150_000
