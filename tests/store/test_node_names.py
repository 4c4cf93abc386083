"""Group names: the rule of format 1.0, case by case, and what holds for any identifier."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.store.node_names import patient_key, series_digits, series_key

SAFE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
# pydicom hands undecodable bytes on as lone surrogates from U+DC80 to U+DCFF.
ANY_ID = st.text(
    st.characters(exclude_categories=["Cs"]) | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF)
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def test_an_allowed_id_is_its_own_key() -> None:
    allowed = [
        "CQ500-CT-108", "PLASTIC", "LIDC-IDRI-0001", "1.2.3", "a", "C1", "cc", "a.b_c-d", "_x", "-x", "x.", "x..",
        "x__", "0", "zarr.json2", "xzarr.json", "console", "com0", "com", "com10", "lpt", "nully", "a" * 64,
        "Anna", "ANNA",
    ]  # fmt: skip
    assert list(map(patient_key, allowed)) == allowed


def test_any_other_id_keeps_its_safe_characters_and_gets_a_digest() -> None:
    stems = [
        ("", ""),
        (".", "."),
        ("..", ".."),
        (".hidden", ".hidden"),
        ("__x", "__x"),
        ("zarr.json", "zarr.json"),
        ("ZARR.JSON", "ZARR.JSON"),
        ("c", "c"),
        ("C", "C"),
        ("CON", "CON"),
        ("con.txt", "con.txt"),
        ("prn", "prn"),
        ("Aux", "Aux"),
        ("NUL.a.b", "NUL.a.b"),
        ("com1", "com1"),
        ("LPT9.x", "LPT9.x"),
        ("a" * 65, "a" * 48),
        ("a" * 1000, "a" * 48),
        ("../../x", ".._.._x"),
        ("/etc/passwd", "_etc_passwd"),
        ("a\\b:c*d?e", "a_b_c_d_e"),
        ("DOE^JOHN", "DOE_JOHN"),
        ("a b", "a_b"),
        (" a", "_a"),
        ("a\n", "a_"),
        ("a\x00b", "a_b"),
        ("\N{GRINNING FACE}", "_"),
        ("e\N{COMBINING ACUTE ACCENT}", "e_"),
        ("M\N{LATIN SMALL LETTER U WITH DIAERESIS}ller", "M_ller"),
        ("\N{ARABIC-INDIC DIGIT ONE}\N{FULLWIDTH LATIN SMALL LETTER A}", "__"),
        ("%2e%2e", "_2e_2e"),
        ("x/" + "y" * 60, "x_" + "y" * 46),
    ]
    expected = [(patient_id, f"{stem}-{digest(patient_id)}") for patient_id, stem in stems]
    assert [(patient_id, patient_key(patient_id)) for patient_id, _ in stems] == expected


@given(ANY_ID)
def test_every_patient_key_is_a_name_that_all_stores_take(patient_id: str) -> None:
    key = patient_key(patient_id)
    assert SAFE_NAME.fullmatch(key)
    assert key.strip("."), "a name of dots alone is a path"
    assert key.lower() not in {"c", "zarr.json", "con", "prn", "aux", "nul"}


@given(ANY_ID, ANY_ID)
def test_two_patients_do_not_share_a_key(one: str, other: str) -> None:
    assert (patient_key(one) == patient_key(other)) == (one == other)


@given(st.text(st.sampled_from("./_ ^a"), max_size=5), st.text(st.sampled_from("./_ ^a"), max_size=5))
def test_ids_that_differ_only_in_what_is_replaced_do_not_share_a_key(one: str, other: str) -> None:
    assert (patient_key(one) == patient_key(other)) == (one == other)


@pytest.mark.parametrize(
    ("number", "suffix", "head", "tail"),
    [
        (3, "", "0003-", ""),
        (0, "", "0000-", ""),
        (-1, "", "0000-", ""),
        (12345, "", "12345-", ""),
        (3, "0123456789abcdef", "0003-", "-01234567"),
    ],
)
def test_a_series_key_is_number_digest_and_suffix(number: int, suffix: str, head: str, tail: str) -> None:
    uid = "1.2.840.113619.2.30.1"
    key = series_key(number, uid, suffix)
    assert key == head + hashlib.sha256(uid.encode()).hexdigest()[:16] + tail
    assert series_digits(key) == hashlib.sha256(uid.encode()).hexdigest()[:16]


@given(st.integers(-(2**31), 2**31 - 1), ANY_ID, st.sampled_from(["", "0123456789abcdef"]))
def test_every_series_key_is_a_name_that_all_stores_take(number: int, uid: str, suffix: str) -> None:
    assert SAFE_NAME.fullmatch(series_key(number, uid, suffix))


def test_two_series_with_one_number_have_two_keys() -> None:
    assert series_key(2, "1.2.3") != series_key(2, "1.2.4")
