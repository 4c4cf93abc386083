"""The answers of the viewer, without a network."""

from __future__ import annotations

import io
import json
from urllib.parse import parse_qs, urlencode

import numpy as np
import pytest
from handmade_store import damage_all_but_first_chunk
from ledger_lines import LEDGER
from PIL import Image

from etl.codes import words_of
from etl.read.patients import open_store
from etl.read.verdicts import read_verdicts
from etl.view.app import App
from etl.view.scene import CLIENT, client_folder


def get(app, path, byte_range=None, **values):
    return app.get(path, parse_qs(urlencode(values, doseq=True)), byte_range=byte_range, base="http://here/t")


def load(app, path, **values):
    answer = get(app, path, **values)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def nodes(app, **values):
    return [row["node"].rpartition("-")[2][0] for row in load(app, "api/volumes", **values)["rows"]]


def post(app, path, **value):
    answer = app.post(path, json.dumps(value).encode())
    return answer.status, json.loads(answer.body)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "cabd"),
        ({"q": "p1"}, "ab"),
        ({"q": "siemens P1"}, "b"),
        ({"q": "nobody"}, ""),
        ({"warning": "gantry-tilt"}, "a"),
        ({"warning": ["gantry-tilt", "missing-slice"]}, "ca"),
        ({"kernel": "H31s 3"}, "cb"),
        ({"manufacturer": "GE", "warning": "missing-slice"}, ""),
        ({"label": "lesion"}, "a"),
        ({"slices_min": 6, "slices_max": 9}, "ab"),
        ({"thickness_mm_max": 2}, "a"),
        ({"sort": "slices"}, "cbad"),
        ({"sort": "-slices"}, "dabc"),
        ({"sort": "thickness"}, "abcd"),
        ({"first": 1, "count": 2}, "ab"),
    ],
)
def test_volumes_are_searched_filtered_sorted_and_cut_into_pages(app, asked, expected):
    found = nodes(app, **asked)
    if "sort" in asked or "first" in asked or not asked:
        assert "".join(found) == expected
    else:
        assert sorted(found) == sorted(expected)


def test_a_filter_lists_what_can_be_chosen_with_its_counts(app):
    choices = load(app, "api/volumes")["choices"]
    assert choices["manufacturer"] == [["GE", 1], ["SIEMENS", 2]]
    assert choices["label"] == [["lesion", 1]]
    assert choices["verdict"] == [["none", 4]]


def test_a_row_says_what_its_warnings_mean(app):
    [row] = load(app, "api/volumes", q="aaaaaaaa")["rows"]
    assert row["warnings"] == [{"code": "gantry-tilt", "words": words_of("gantry-tilt")}]
    assert (row["shape"], row["slices"], row["thickness_mm"]) == ([9, 10, 11], 9, 1.25)


def test_what_was_left_out_is_grouped_by_reason_in_plain_words_failures_first_without_paths(app):
    found = load(app, "api/left-out")
    assert [(r["outcome"], r["count"], r["words"]) for r in found["reasons"]] == [
        ("failed", 1, words_of("missing-slices")),
        ("excluded", 2, words_of("localizer")),
    ]
    lines = load(app, "api/left-out", outcome="excluded", reason="localizer", first=1)["lines"]
    assert [line["patient_id"] for line in lines] == ["P2"]
    assert "secret" not in json.dumps(load(app, "api/left-out", outcome="failed", reason="missing-slices"))
    assert len(LEDGER) == 4


def test_a_verdict_is_saved_counted_found_and_undone(app, store, series):
    node = series[0].node
    assert post(app, "api/verdict", node=node, verdict="reject", note="crooked") == (
        200,
        {"node": node, "progress": {"seen": 1, "total": 4}},
    )
    assert read_verdicts(str(store))[node].note == "crooked"
    assert nodes(app, verdict="reject") == ["a"]
    assert nodes(app, verdict="none") == ["c", "b", "d"]
    about = load(app, "api/volume", node=node)
    assert (about["verdict"], about["note"], about["progress"]["seen"]) == ("reject", "crooked", 1)
    assert post(app, "api/undo") == (200, {"node": node, "progress": {"seen": 0, "total": 4}})
    assert not read_verdicts(str(store))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"node": "P1/0002-aaaaaaaa", "verdict": "perhaps"}', "keep, reject, look-again"),
        (b'{"node": "P1/none", "verdict": "keep"}', "no volume"),
        (b"[]", "a node and a verdict"),
        (b"{", "a node and a verdict"),
        (b'{"node": "P1/0002-aaaaaaaa", "verdict": []}', "a node and a verdict"),
    ],
)
def test_a_verdict_that_makes_no_sense_is_refused_and_nothing_is_saved(app, store, body, words):
    answer = app.post("api/verdict", body)
    assert answer.status == 400
    assert words in json.loads(answer.body)["error"]
    assert not read_verdicts(str(store))


def test_a_read_only_view_takes_no_verdict_and_offers_none(store):
    app = App(open_store(store))
    assert post(app, "api/verdict", node="P1/0002-aaaaaaaa", verdict="keep")[0] == 403
    assert b"read-only" in get(app, "").body
    assert b"data-verdict" not in get(app, "volume", node="P1/0002-aaaaaaaa").body


def test_the_neighbors_are_those_of_the_list_that_was_asked_for(app, series):
    about = load(app, "api/volume", node=series[1].node, manufacturer="SIEMENS")
    assert (about["previous"], about["next"]) == (series[2].node, None)
    outside = load(app, "api/volume", node=series[0].node, manufacturer="SIEMENS")
    assert (outside["previous"], outside["next"]) == (None, series[2].node)


def test_hounsfield_units_and_position_at_a_voxel_are_the_stores(app, series):
    one = series[0]
    found = load(app, "api/hu", node=one.node, k=4, j=5, i=6)
    assert found["hu"] == pytest.approx(one.hu[4, 5, 6], abs=0.3)
    assert found["position_lps_mm"] == pytest.approx((one.affine_lps @ [4, 5, 6, 1])[:3].tolist(), abs=0.06)
    assert (found["validity"], found["clipped"]) == ("measured", False)
    air = load(app, "api/hu", node=one.node, k=0, j=0, i=0)
    assert air["validity"].startswith("outside")


def test_a_picture_has_the_size_that_the_page_is_told(app, series):
    for plane in load(app, "api/volume", node=series[0].node)["planes"]:
        answer = get(app, "picture", node=series[0].node, axis=plane["axis"], index=3, window="brain")
        assert answer.content_type == "image/png"
        assert list(Image.open(io.BytesIO(answer.body)).size) == plane["size_px"]


@pytest.mark.parametrize(
    ("path", "values", "status"),
    [
        ("nothing", {}, 404),
        ("static/../app.py", {}, 404),
        ("thumbnail", {"node": "P1/none"}, 404),
        ("picture", {"node": "P1/0002-aaaaaaaa", "axis": 3, "index": 0, "window": "brain"}, 400),
        ("picture", {"node": "P1/0002-aaaaaaaa", "axis": 0, "index": -1, "window": "brain"}, 400),
        ("api/hu", {"node": "P1/0002-aaaaaaaa", "k": 0, "j": 0, "i": 99}, 400),
        ("api/volumes", {"sort": "beauty"}, 400),
        ("api/volumes", {"slices_min": "few"}, 400),
        ("store/../cohort.zarr.verdicts.csv", {}, 404),
        ("store/P1/../../cohort.zarr.verdicts.csv", {}, 404),
        ("store/P1", {}, 404),
        (f"{CLIENT}../__init__.py", {}, 404 if client_folder() else 400),
    ],
)
def test_what_is_not_there_or_makes_no_sense_is_refused(app, path, values, status):
    answer = get(app, path, **values)
    assert answer.status == status
    assert json.loads(answer.body)["error"]


def test_a_link_in_the_store_leads_nowhere(app, store, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (store / "P1/link").symlink_to(tmp_path / "secret")
    assert get(app, "store/P1/link").status == 404


def test_a_damaged_volume_is_said_so_without_the_stores_path(app, store, series):
    damage_all_but_first_chunk(store, series[0])
    answer = get(app, "thumbnail", node=series[0].node)
    assert answer.status == 500
    assert str(store) not in answer.body.decode()


def test_a_volume_whose_metadata_are_damaged_is_listed_as_such(store, series):
    document = json.loads((store / "zarr.json").read_text())
    del document["consolidated_metadata"]["metadata"][series[3].node]["attributes"]["ct_etl"]["geometry"]
    (store / "zarr.json").write_text(json.dumps(document))
    rows = load(App(open_store(store)), "api/volumes")["rows"]
    assert [bool(row["problem"]) for row in rows] == [False, False, False, True]


def test_names_from_files_are_shown_and_not_obeyed(app, series):
    page = get(app, "volume", node=series[2].node).body.decode()
    assert "<b>P2" not in page
    assert "&lt;b&gt;P2&lt;/b&gt;" in page


@pytest.mark.parametrize(
    ("byte_range", "expected"),
    [(None, slice(None)), ((5, 11), slice(5, 11)), ((-20, None), slice(-20, None)), ((7, 10**9), slice(7, None))],
)
def test_the_stores_bytes_are_served_whole_and_in_ranges(app, store, series, byte_range, expected):
    key = f"{series[0].node}/volume/c/0/0/0"
    content = (store / key).read_bytes()
    answer = get(app, f"store/{key}", byte_range=byte_range)
    assert answer.body == content[expected]
    assert answer.status == (206 if byte_range else 200)
    if byte_range:
        start = range(len(content))[expected].start
        assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(answer.body) - 1}/{len(content)}"


def test_a_store_behind_a_url_is_looked_at_in_place(store, series):
    app = App(open_store(f"file://{store}"))
    node = series[0].node
    assert len(nodes(app)) == 4
    about = load(app, "api/volume", node=node)
    assert about["overlays"] == ["validity", "label:lesion"]
    local = App(open_store(store))
    for path, more in (("thumbnail", {}), ("picture", {"axis": 1, "index": 4, "window": "bone"})):
        assert get(app, path, node=node, **more).body == get(local, path, node=node, **more).body
    key = f"store/{node}/volume/c/0/0/0"
    assert get(app, key, (10, 30)).body == get(local, key, (10, 30)).body
    assert get(app, f"store/{node}/none").status == 404


def test_a_range_beyond_the_end_is_refused_with_the_length(app, store, series):
    key = f"{series[0].node}/zarr.json"
    answer = get(app, f"store/{key}", byte_range=(10**9, None))
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{(store / key).stat().st_size}")


def test_neuroglancers_scene_puts_every_voxel_where_the_affine_does(app, series):
    one = series[0]
    scene = load(app, "api/scene", node=one.node, window="brain")
    image, validity, label = scene["layers"]
    assert (validity["source"]["url"], validity["visible"]) == (
        f"http://here/t/store/{one.node}/validity/|zarr3:",
        False,
    )
    assert image["source"]["url"] == f"http://here/t/store/{one.node}/volume/|zarr3:"
    assert label["source"]["url"].endswith("labels/lesion/0/|zarr3:")
    matrix = np.array(image["source"]["transform"]["matrix"])
    # Its voxels reach from k to k + 1, steps are in meters, the last column in millimeters.
    placed = 1000 * matrix[:, :3] @ [4.5, 5.5, 6.5] + matrix[:, 3]
    assert placed == pytest.approx((one.affine_lps @ [4, 5, 6, 1])[:3])
    low, high = image["shaderControls"]["normalized"]["range"]
    assert (low, high) == pytest.approx((1000 / 3000 - 0.25, 1080 / 3000 - 0.25))
