"""The configuration of a run: a frozen value, read from a preset, a TOML file and the command line.

Every option of ``ct-etl run`` is a key of the TOML file, with ``-`` or ``_``. What changes the bytes of a
volume is the *recipe*; its digest is kept with every volume and in the store's root.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from etl.errors import UsageError
from etl.option_rules import RULES, Triple


@dataclass(frozen=True)
class Config:
    """Options of one run; the names are the command line's and the TOML file's.

    Exactly one of `spacing_mm`, `zoom` and `native` says what the output grid is.
    """

    spacing_mm: Triple | None = None
    """Distance between voxel centers along (z, y, x), mm."""
    zoom: Triple | None = None
    """Factors of `scipy.ndimage.zoom` along (z, y, x)."""
    native: bool = False
    """Keep the scanner's own grid."""
    window: tuple[int, int] = (-1000, 2000)
    """Hounsfield units that become 0 and 1."""
    center: float | Literal["volume", "none"] = "none"
    """What is subtracted after windowing: the volume's own mean, nothing, or a constant."""
    precision_bits: int | Literal["full"] = 13
    """Values are rounded to a multiple of 2^-precision_bits."""
    chunk: tuple[int, int, int] | None = None
    """Inner chunk (z, y, x); None: about 1 MB."""
    max_gap_mm: float = 2.5
    """Largest gap left by a missing slice that is interpolated."""
    deidentify: str | None = None
    """Key file; identifiers become keyed hashes."""
    deidentify_map: str | None = None
    """File to write the mapping to."""
    max_file_mb: int = 4096
    """Largest file or zip member that is read, inflated."""
    max_volume_mb: int = 4096
    """Largest volume that is written, as float32 in memory."""
    time_limit_s: float = 900.0
    """Longest time for one series, and for one header."""
    slice_count: int | None = None
    """Only series of exactly this many slices."""
    min_slices: int = 8
    series: Literal["all", "default"] = "all"
    workers: int | Literal["auto"] = "auto"
    scheduler: str | None = None
    overwrite: bool = False
    dry_run: bool = False
    run_dir: str | None = None
    json: bool = False
    quiet: bool = False

    def recipe(self) -> dict[str, Any]:
        """Give the keys that decide the bytes of a volume, as plain JSON values."""
        names = (
            *("spacing_mm", "zoom", "native", "window", "center", "precision_bits", "chunk", "max_gap_mm"),
            "deidentify",
        )
        values = {name: getattr(self, name) for name in names}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def preset_names() -> list[str]:
    """List the presets that ship with the package."""
    folder = resources.files("etl") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_preset(name_or_path: str) -> dict[str, Any]:
    """Read a preset by name, or a TOML file by path, into option values.

    Raises
    ------
    UsageError
        There is no such preset or file, it is not TOML, or a key or value is not allowed.
    """
    if name_or_path in preset_names():
        text = (resources.files("etl") / "presets" / f"{name_or_path}.toml").read_text("utf-8")
    else:
        path = Path(name_or_path)
        if path.suffix != ".toml" or not path.is_file():
            allowed = ", ".join(preset_names())
            raise UsageError(f"preset {name_or_path!r}: no such preset or TOML file; presets are {allowed}")
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"preset {name_or_path!r}: cannot be read ({error})") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"preset {name_or_path!r}: not TOML ({error})") from error
    return {name: _checked(name, value) for name, value in _known_keys(raw).items()}


def build_config(preset: Mapping[str, Any], options: Mapping[str, Any]) -> Config:
    """Lay command-line options over a preset.

    Parameters
    ----------
    preset : mapping
        From `load_preset`.
    options : mapping
        By option name; a value is a string as typed, or already a number, list or bool.

    Raises
    ------
    UsageError
        Naming the option, the value and what is allowed.
    """
    chosen = {name: _checked(name, value) for name, value in _known_keys(options).items()}
    grids = [name for name in ("spacing_mm", "zoom", "native") if chosen.get(name)]
    if len(grids) > 1:
        raise UsageError(f"{_flag(grids[0])} and {_flag(grids[1])}: only one of them says what the grid is")
    merged = dict(preset)
    if grids:
        merged = {name: value for name, value in merged.items() if name not in {"spacing_mm", "zoom", "native"}}
    config = replace(Config(), **{**merged, **chosen})
    given = [name for name in ("spacing_mm", "zoom", "native") if getattr(config, name)]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]}: only one of them says what the grid is")
    if not given:
        raise UsageError("the configuration has no grid; one of spacing_mm, zoom, native is needed")
    return config


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _known_keys(raw: Mapping[str, Any]) -> dict[str, Any]:
    allowed = [f.name for f in fields(Config)]
    known: dict[str, Any] = {}
    for key, value in raw.items():
        name = key.replace("-", "_")
        if name not in allowed:
            raise UsageError(f"unknown key {key!r} (value {value!r}); allowed keys are {', '.join(allowed)}")
        known[name] = value
    return known


def _checked(name: str, value: Any) -> Any:
    parse, allowed = RULES[name]
    try:
        return parse(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{_flag(name)} {_shown(value)}: allowed is {allowed}") from error


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
