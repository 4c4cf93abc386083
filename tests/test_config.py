"""The configuration: presets, what is allowed, and what one line a wrong value gives."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.config import Config, build_config, load_preset, preset_names
from etl.errors import UsageError

NAN, INF = float("nan"), float("inf")
WRONG = {
    "spacing_mm": ["", "0", "-1", "abc", "1,2", "1,2,3,4", "nan", "inf", "51", "0.01,1,1", "1,,1", 0, NAN, True,
                   [1, 1], [1, 1, "x"], [1, 1, True], {}],
    "zoom": ["1", "0.5", "1,0,1", "1,2", "21,1,1", "1,nan,1", 1.0, [1.0], [1, 1, -1], "x"],
    "native": ["yes", 1, 0, "true", []],
    "assume_hu": ["yes", 1],
    "window": ["0", "0,0", "10,-10", "0.5,10", "-40000,0", "0,40000", "a,b", "1,2,3", [0, INF], [0, NAN],
               [False, True], 5],
    "center": ["mean", "", "11", "-11", "nan", "inf", True, [1, 2], {}],
    "precision_bits": ["3", "24", "12.5", "FULL", "", 3, 24, 13.5, True, NAN, INF, [13]],
    "chunk": ["64", "64,64", "0,64,64", "64,64,4097", "64,64,1.5", [64, 64], [64, 64, True], "a,b,c"],
    "dtype": ["float64", "int8", "", "FLOAT32", 16, True],
    "codec": ["lz5", "", "NONE", None, 1, True],
    "max_gap_mm": ["-1", "nan", "inf", "abc", "1,2", True, {}],
    "slice_count": ["1", "0", "2.5", "x", True, 100_001, INF],
    "min_slices": ["1", "-3", "8.5", "x", True],
    "series": ["", "first", "ALL", 1, []],
    "workers": ["-1", "many", "1.5", "1025", True, None],
    "scheduler": ["", 8786, None, True, "host:8786"],
    "wait_workers": [0, "soon", -1, float("inf")],
    "labels": ["", 3, [""]],
    "overwrite": ["yes", 1],
    "replace": ["yes", 1],
    "dry_run": ["no", 0],
    "run_dir": ["", 3],
    "deidentify": ["", 3],
    "deidentify_map": ["", 3],
    "max_file_mb": [0, "many", 1.5],
    "max_volume_mb": [0, "-1", True],
    "time_limit_s": [0, "soon", -1, float("inf")],
    "json": ["true", 1],
    "all": ["yes", 1],
    "quiet": ["q", 0],
}  # fmt: skip
GRID = {"spacing_mm": [1.0, 1.0, 1.0]}


def shown(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def test_every_option_has_wrong_values_in_this_table() -> None:
    assert set(WRONG) == {f.name for f in fields(Config)}


def refusal(name: str, value: Any) -> str:
    """Give the message that refuses a value; empty where it is taken."""
    try:
        build_config({} if name in {"spacing_mm", "zoom", "native"} else GRID, {name: value})
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_refused_by_option_value_and_what_is_allowed(name: str) -> None:
    for value in WRONG[name]:
        message = refusal(name, value)
        assert message.startswith("--" + name.replace("_", "-") + " " + shown(value)), repr(value)
        assert len(message.split("allowed is ")[1]) > 3
        assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "spacing_mm",
            [
                ("2", (2.0, 2.0, 2.0)),
                ("5,1,.5", (5.0, 1.0, 0.5)),
                (1, (1.0, 1.0, 1.0)),
                ("0.05,50,1", (0.05, 50.0, 1.0)),
            ],
        ),
        ("zoom", [("1,.5,.5", (1.0, 0.5, 0.5))]),
        ("native", [(True, True)]),
        ("window", [("-100,100", (-100, 100)), ([-32768, 32767], (-32768, 32767))]),
        ("center", [("volume", "volume"), ("none", "none"), ("0.25", 0.25), (-10, -10.0)]),
        ("precision_bits", [("full", "full"), ("4", 4), (23, 23)]),
        ("chunk", [("1,64,4096", (1, 64, 4096))]),
        ("max_gap_mm", [("0", 0.0)]),
        ("slice_count", [("140", 140)]),
        ("min_slices", [(2, 2)]),
        ("series", [("default", "default")]),
        ("workers", [("auto", "auto"), ("0", 0)]),
        ("scheduler", [("tcp://127.0.0.1:8786", "tcp://127.0.0.1:8786"), ("run/s.json", "run/s.json")]),
    ],
)
def test_a_right_value_is_taken_as_typed_or_as_a_number(name: str, values: list[tuple[Any, Any]]) -> None:
    grid = {} if name in {"spacing_mm", "zoom", "native"} else GRID
    for value, expected in values:
        found = getattr(build_config(grid, {name: value}), name)
        assert found == expected
        assert type(found) is type(expected)


def test_the_head_ct_preset_is_one_millimeter_with_one_center_for_all() -> None:
    assert load_preset("head-ct") == {
        "spacing_mm": (1.0, 1.0, 1.0), "window": (-1000, 2000), "center": 0.25, "precision_bits": 13,
    }  # fmt: skip


def test_the_article_preset_is_its_recipe() -> None:
    assert load_preset("article") == {
        "zoom": (1.0, 0.5, 0.5), "window": (-1000, 2000), "center": "volume", "precision_bits": 13,
    }  # fmt: skip


def test_the_presets_are_listed() -> None:
    assert {"article", "head-ct"} <= set(preset_names())
    assert preset_names() == sorted(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_makes_a_configuration(name: str) -> None:
    config = build_config(load_preset(name), {})
    assert sum(bool(grid) for grid in (config.spacing_mm, config.zoom, config.native)) == 1


def test_a_preset_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(UsageError, match=r"'nope'.*article, head-ct"):
        load_preset("nope")


def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("spacing_mm = [1,", "utf-8")
    with pytest.raises(UsageError, match=r"bad\.toml.*not TOML"):
        load_preset(str(path))


def test_a_file_that_is_not_text_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"bad\.toml.*cannot be read"):
        load_preset(str(path))


def test_a_missing_toml_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.toml"):
        load_preset(str(tmp_path / "absent.toml"))


def test_keys_may_have_dashes_or_underscores(tmp_path: Path) -> None:
    values = []
    for dash in "-_":
        path = tmp_path / f"{'dash' if dash == '-' else 'underscore'}.toml"
        path.write_text(f"spacing{dash}mm = [2, 1, 1]\nmin{dash}slices = 20\nmax{dash}gap{dash}mm = 3\n", "utf-8")
        values.append(load_preset(str(path)))
    assert values[0] == values[1] == {"spacing_mm": (2.0, 1.0, 1.0), "min_slices": 20, "max_gap_mm": 3.0}


@pytest.mark.parametrize("key", ["spacing", "Window", "recipe"])
def test_an_unknown_key_is_refused_by_name_with_the_allowed_ones(tmp_path: Path, key: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f'"{key}" = 17\n', "utf-8")
    with pytest.raises(UsageError) as raised:
        load_preset(str(path))
    message = str(raised.value)
    assert repr(key) in message
    assert "17" in message
    assert all(f.name in message for f in fields(Config))


def test_a_table_is_an_unknown_key(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[tool]\nspacing_mm = 1\n", "utf-8")
    with pytest.raises(UsageError, match="'tool'"):
        load_preset(str(path))


def test_a_wrong_value_in_a_file_is_refused_as_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("spacing_mm = 1979-05-27\n", "utf-8")
    with pytest.raises(UsageError, match=r"--spacing-mm .*1979.*allowed is"):
        load_preset(str(path))


@pytest.mark.parametrize(
    ("preset", "options", "grid"),
    [
        ("article", {"spacing-mm": "2"}, ((2.0, 2.0, 2.0), None, False)),
        ("head-ct", {"zoom": "1,.5,.5"}, (None, (1.0, 0.5, 0.5), False)),
        ("head-ct", {"native": True}, (None, None, True)),
    ],
)
def test_a_grid_on_the_command_line_replaces_the_presets(
    preset: str, options: dict[str, Any], grid: tuple[Any, ...]
) -> None:
    config = build_config(load_preset(preset), options)
    assert (config.spacing_mm, config.zoom, config.native) == grid
    assert config.window == (-1000, 2000)


def test_an_option_replaces_only_its_own_key_of_the_preset() -> None:
    preset = load_preset("head-ct")
    assert build_config(preset, {"window": "0,80"}) == replace(build_config(preset, {}), window=(0, 80))


def test_two_grids_on_the_command_line_are_refused() -> None:
    with pytest.raises(UsageError, match="--spacing-mm and --zoom"):
        build_config(load_preset("head-ct"), {"spacing_mm": "1", "zoom": "1,1,1"})


def test_two_grids_in_a_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("spacing_mm = 1\nnative = true\n", "utf-8")
    with pytest.raises(UsageError, match="spacing_mm and native"):
        build_config(load_preset(str(path)), {})


@pytest.mark.parametrize("preset", [{}, {"native": False}])
def test_a_configuration_without_a_grid_is_refused(preset: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="no grid"):
        build_config(preset, {"window": "0,80"})


def test_building_changes_neither_preset_nor_options() -> None:
    preset, options = load_preset("head-ct"), {"zoom": [1.0, 0.5, 0.5]}
    build_config(preset, options)
    assert preset == load_preset("head-ct")
    assert options == {"zoom": [1.0, 0.5, 0.5]}


def test_a_configuration_cannot_be_changed() -> None:
    config = build_config(load_preset("head-ct"), {})
    with pytest.raises(FrozenInstanceError):
        config.window = (0, 1)  # type: ignore[misc]


OTHER_RECIPE = {
    "spacing_mm": "2", "zoom": "1,.5,.5", "native": True, "window": "0,80", "center": "none",
    "precision_bits": "full", "chunk": "8,8,8", "max_gap_mm": "3", "dtype": "int16", "codec": "none",
    "assume_hu": True,
}  # fmt: skip
SAME_RECIPE = {
    "slice_count": "9", "min_slices": "9", "series": "default", "workers": "0", "scheduler": "tcp://127.0.0.1:1",
    "wait_workers": "5", "deidentify": "key", "overwrite": True, "replace": True, "dry_run": True, "run_dir": "x",
    "json": True, "quiet": True, "all": True, "labels": "x",
    "deidentify_map": "x", "max_file_mb": "1", "max_volume_mb": "1", "time_limit_s": "1",
}  # fmt: skip


def test_every_option_either_decides_the_bytes_or_does_not() -> None:
    assert set(OTHER_RECIPE) | set(SAME_RECIPE) == {f.name for f in fields(Config)}
    preset = load_preset("head-ct")
    plain = build_config(preset, {}).recipe()
    assert all(build_config(preset, {name: value}).recipe() != plain for name, value in OTHER_RECIPE.items())
    assert all(build_config(preset, {name: value}).recipe() == plain for name, value in SAME_RECIPE.items())
    assert build_config(preset, {}).recipe(key_digest="ab") == {**plain, "deidentify": "ab"}


@given(
    spacing=st.tuples(*[st.floats(0.05, 50)] * 3),
    low=st.integers(-32768, 32766),
    width=st.integers(1, 65535),
    center=st.floats(-10, 10) | st.sampled_from(["volume", "none"]),
    bits=st.integers(4, 23) | st.just("full"),
)
def test_a_recipe_is_read_back_as_the_same_configuration(
    spacing: tuple[float, ...], low: int, width: int, center: Any, bits: Any
) -> None:
    options = {
        "spacing_mm": ",".join(map(repr, spacing)), "window": [low, min(low + width, 32767)], "center": center,
        "precision_bits": bits,
    }  # fmt: skip
    config = build_config({}, options)
    assert config.spacing_mm == spacing
    assert Config.from_recipe(config.recipe()) == config


@pytest.mark.parametrize(
    ("bits", "center", "message"),
    [
        ("full", "none", "--precision-bits full has no steps"),
        (15, "none", "needs 32768 steps; allowed are 32767"),
        (14, -1.5, "needs 40960 steps; allowed are 32767"),
        (13, 4.5, "needs 36864 steps; allowed are 32767"),
    ],
)
def test_steps_that_int16_cannot_count_are_refused(bits: Any, center: Any, message: str) -> None:
    options = {"dtype": "int16", "precision_bits": bits, "center": center}
    with pytest.raises(UsageError, match=message):
        build_config(load_preset("head-ct"), options)
    assert build_config(load_preset("head-ct"), {**options, "dtype": "float32"}).dtype == "float32"


@pytest.mark.parametrize(("bits", "center"), [(14, "volume"), (14, 0.25), (13, -2.9), (4, 10)])
def test_steps_that_int16_can_count_are_taken(bits: int, center: Any) -> None:
    options = {"dtype": "int16", "precision_bits": bits, "center": center}
    assert build_config(load_preset("head-ct"), options).dtype == "int16"
