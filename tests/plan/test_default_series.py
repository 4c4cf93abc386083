"""Which series stands for a patient: the rules that ship, and what a rule can say."""

from __future__ import annotations

import re
from typing import Any

import pytest

from etl.plan.default_series import Fact, Rule, Score, load_rules, score

PLAIN: dict[str, Fact] = {
    "coverage_share": 1.0,
    "slice_spacing_mm": 5.0,
    "kernel": "B",
    "description": "head",
    "image_type": "ORIGINAL\\PRIMARY\\AXIAL",
    "contrast": False,
}


def points(**facts: Fact) -> int:
    return score({**PLAIN, **facts}, load_rules()).points


# --- the rules that ship --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({}, {"contrast": True}),
        ({}, {"description": "head c+ venous"}),
        ({}, {"description": "cta head and neck"}),
        ({"slice_spacing_mm": 0.625}, {}),
        ({"slice_spacing_mm": 1.0}, {"slice_spacing_mm": 2.5}),
        ({"slice_spacing_mm": 2.5}, {}),
        ({}, {"kernel": "BONE"}),
        ({}, {"coverage_share": 0.3}),
        ({}, {"image_type": "DERIVED\\SECONDARY\\REFORMATTED\\AVERAGE"}),
        ({}, {"image_type": "DERIVED\\PRIMARY\\MPR"}),
        # In this order of weight: coverage, then plain, then thin and soft.
        ({"slice_spacing_mm": 5.0}, {"slice_spacing_mm": 0.6, "coverage_share": 0.3}),
        ({"slice_spacing_mm": 5.0}, {"slice_spacing_mm": 0.6, "contrast": True}),
        ({"slice_spacing_mm": 5.0}, {"slice_spacing_mm": 0.6, "kernel": "BONE"}),
    ],
)
def test_plain_thin_soft_and_complete_series_come_first(better: dict[str, Fact], worse: dict[str, Fact]) -> None:
    assert points(**better) > points(**worse)


SOFT = [
    "STANDARD", "SOFT", "H30s", "H31s", "J40f", "J37s", "Br36", "Hr40", "Hc40s", "B30f", "A", "B", "C", "UA", "UB",
    "FC21", "FC26", "FC64",
]  # fmt: skip
SHARP = [
    "BONE", "BONEPLUS", "EDGE", "LUNG", "DETAIL", "H60s", "H70h", "Br64", "B70f", "J70h", "D", "E", "YD", "FC30",
    "FC81",
]  # fmt: skip
"""Convolution Kernel (0018,1210) of GE, Siemens, Philips and Canon, as their files have it."""


def test_soft_and_sharp_kernels_of_the_vendors_are_known() -> None:
    unknown = points(kernel="")
    assert [kernel for kernel in SOFT if points(kernel=kernel) <= unknown] == []
    assert [kernel for kernel in SHARP if points(kernel=kernel) >= unknown] == []


def test_each_rule_of_the_package_is_one_sound_test() -> None:
    rules = load_rules()
    assert len({rule.name for rule in rules}) == len(rules) >= 6
    for rule in rules:
        assert rule.fact in PLAIN
        assert rule.points != 0
        assert rule.name
        tests = [rule.matches, rule.equals, rule.at_least, rule.at_most]
        assert any(test is not None for test in tests)
        if rule.matches is not None:
            re.compile(rule.matches)


# --- what a rule can say --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "value", "applies"),
    [
        (Rule("r", 1, "fact", at_least=0.8), 0.8, True),
        (Rule("r", 1, "fact", at_least=0.8), 0.79, False),
        (Rule("r", 1, "fact", at_most=1.5), 1.5, True),
        (Rule("r", 1, "fact", at_most=1.5), 1.51, False),
        (Rule("r", 1, "fact", at_least=1, at_most=2), 1.5, True),
        (Rule("r", 1, "fact", at_least=1, at_most=2), 2.5, False),
        (Rule("r", 1, "fact", matches="bone"), "BONEPLUS", True),
        (Rule("r", 1, "fact", matches="^one"), "BONE", False),
        (Rule("r", 1, "fact", equals=False), False, True),
        (Rule("r", 1, "fact", equals=False), True, False),
        (Rule("r", 1, "fact", equals="SOFT"), "SOFT", True),
    ],
)
def test_a_rule_tests_one_fact(rule: Rule, value: Fact, applies: bool) -> None:
    assert rule.applies({"fact": value}) is applies


@pytest.mark.parametrize("test", [{"at_least": 0}, {"matches": ""}, {"equals": False}])
def test_a_fact_that_is_not_known_passes_nothing(test: dict[str, Any]) -> None:
    assert not Rule("r", 1, "fact", **test).applies({})


def test_a_score_is_the_sum_and_names_its_reasons() -> None:
    rules = [
        Rule("thin", 20, "mm", at_most=1.5),
        Rule("sharp", -20, "kernel", matches="bone"),
        Rule("x", 5, "y", equals=1),
    ]
    assert score({"mm": 1.0, "kernel": "BONE"}, rules) == Score(0, ("thin +20", "sharp -20"))
    assert str(score({"mm": 1.0}, rules)) == "score 20 (thin +20)"
    assert str(score({}, rules)) == "score 0 (no rule applies)"
