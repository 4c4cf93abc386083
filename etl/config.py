"""The configuration of a run: a frozen value, read from a preset, a TOML file and the command line.

Every option of ``ct-etl run`` is a key of the TOML file, with ``-`` or ``_``. What changes the bytes of a
volume is the *recipe*; its digest is kept with every volume and in the store's root.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from etl import option_rules as rules
from etl.errors import UsageError

MAX_STEPS = 2**15 - 1
GRID_OPTIONS = ("spacing_mm", "zoom", "native")


@dataclass(frozen=True)
class Option:
    """All that is known about one option; parser, command line, help, TOML keys and recipe come from it.

    Parameters
    ----------
    rule : Rule
    help : str
        For ``--help``.
    metavar : str, optional
        What stands for the value there; None: a flag.
    short : str, optional
        One-letter form.
    in_recipe : bool
        It decides the bytes of a volume.
    in_result : bool
        It decides what a run finds or writes; the others only say how and where it works.
    is_repeated : bool
        It may be given several times.
    """

    rule: rules.Rule
    help: str
    metavar: str | None = None
    short: str | None = None
    in_recipe: bool = False
    in_result: bool = True
    is_repeated: bool = False


def _option(default: Any, rule: rules.Rule, text: str, metavar: str | None = None, **more: Any) -> Any:
    return field(default=default, metadata={"option": Option(rule, text, metavar, **more)})


@dataclass(frozen=True)
class Config:
    """Options of one run; the names are the command line's and the TOML file's.

    Exactly one of `spacing_mm`, `zoom` and `native` says what the output grid is.
    """

    spacing_mm: tuple[float, float, float] | None = _option(
        None, rules.SPACING_MM, "Resample to this voxel spacing, mm.", "Z,Y,X|S", in_recipe=True
    )
    zoom: tuple[float, float, float] | None = _option(
        None, rules.ZOOM, "Resample by scipy.ndimage.zoom's factors.", "Z,Y,X", in_recipe=True
    )
    native: bool = _option(False, rules.FLAG, "Keep the scanner's own grid.", in_recipe=True)
    window: tuple[int, int] = _option(
        (-1000, 2000), rules.WINDOW_HU, "Hounsfield units that become 0 and 1.", "LO,HI", in_recipe=True
    )
    center: float | Literal["volume", "none"] = _option(
        "none", rules.CENTER, "What is subtracted after windowing.", "volume|none|VALUE", in_recipe=True
    )
    precision_bits: int | Literal["full"] = _option(
        13, rules.PRECISION_BITS, "Round to multiples of 2^-N.  [13]", "N|full", in_recipe=True
    )
    dtype: Literal["float32", "int16"] = _option(
        "float32", rules.DTYPE, "Store values, or the same as whole steps.  [float32]", "NAME", in_recipe=True
    )
    codec: Literal["lz4hc", "lz4", "zstd", "none"] = _option(
        "lz4hc", rules.CODEC, "How a volume is packed: none reads fastest.  [lz4hc]", "NAME|none", in_recipe=True
    )
    chunk: tuple[int, int, int] | None = _option(
        None, rules.CHUNK, "Inner chunk of a volume.  [for crops]", "Z,Y,X", in_recipe=True
    )
    max_gap_mm: float = _option(
        2.5, rules.GAP_MM, "Widest gap of a lost slice to interpolate.  [2.5]", "MM", in_recipe=True
    )
    assume_hu: bool = _option(
        False, rules.FLAG, "Take values of unspecified unit for Hounsfield units.", in_recipe=True
    )
    slice_count: int | None = _option(None, rules.SLICES, "Only series of exactly N slices.", "N")
    min_slices: int = _option(8, rules.SLICES, "Only series of at least N slices.  [8]", "N")
    series: Literal["all", "default"] = _option(
        "all", rules.SERIES, "All series, or each patient's default one.  [all]", "all|default"
    )
    deidentify: str | None = _option(None, rules.KEY_FILE, "Replace identifiers by keyed hashes.", "KEYFILE")
    deidentify_map: str | None = _option(
        None, rules.PATH, "Write whose pseudonym is whose, for the owner only.", "FILE"
    )
    max_file_mb: int = _option(4096, rules.SIZE_MB, "Largest file to read, inflated.  [4096]", "MB")
    max_volume_mb: int = _option(4096, rules.SIZE_MB, "Largest volume to write, in memory.  [4096]", "MB")
    time_limit_s: float = _option(900.0, rules.TIME_S, "Longest time for one series.  [900]", "S")
    labels: tuple[str, ...] = _option(
        (), rules.PATHS, "Then put these masks onto the volumes, as ct-etl label does.", "SOURCE", is_repeated=True
    )
    workers: int | Literal["auto"] = _option(
        "auto", rules.WORKERS, "Worker processes; 0: in this process.  [auto]", "auto|N|0", in_result=False
    )
    scheduler: str | None = _option(
        None, rules.ADDRESS, "Submit to a running Dask scheduler.", "ADDRESS|FILE", in_result=False
    )
    wait_workers: float = _option(
        600.0, rules.TIME_S, "Longest wait for the scheduler's workers.  [600]", "S", in_result=False
    )
    overwrite: bool = _option(False, rules.FLAG, "Start the store anew.", in_result=False)
    replace: bool = _option(False, rules.FLAG, "Let a series lose slices that the store has.")
    dry_run: bool = _option(False, rules.FLAG, "Show what would be done; write nothing.", in_result=False)
    run_dir: str | None = _option(
        None, rules.PATH, "Folder for ledger and report.  [STORE.runs/TIME]", "DIR", in_result=False
    )
    json: bool = _option(False, rules.FLAG, "Print one JSON object.", in_result=False)
    all: bool = _option(False, rules.FLAG, "List every series, also what was left out.", in_result=False)
    quiet: bool = _option(False, rules.FLAG, "No progress.", short="q", in_result=False)

    def recipe(self, *, key_digest: str | None = None) -> dict[str, Any]:
        """Give what decides the bytes of a volume, as plain JSON values.

        Parameters
        ----------
        key_digest : str, optional
            Tells stores of different keys apart where identifiers are replaced; the key's path means nothing
            elsewhere.
        """
        values = {name: getattr(self, name) for name, option in OPTIONS.items() if option.in_recipe}
        if not self.assume_hu:
            # Stores that were written before there was this option keep their digests.
            del values["assume_hu"]
        return {
            **{name: list(v) if isinstance(v, tuple) else v for name, v in values.items()},
            "deidentify": key_digest,
        }

    def result_options(self) -> dict[str, Any]:
        """Give the options that decide what a run finds and writes."""
        return {name: getattr(self, name) for name, option in OPTIONS.items() if option.in_result}

    @staticmethod
    def from_recipe(recipe: Mapping[str, Any], **others: Any) -> Config:
        """Give the configuration that a store's recipe came from; `others` are options that are not in it.

        Raises
        ------
        UsageError
            A key or value is not allowed: another version wrote it.
        """
        given = {name: value for name, value in recipe.items() if name != "deidentify" and value is not None}
        return build_config({}, {**given, **others})


# What a run refuses by size or time; they decide no byte of what is written.
LIMITS = ("max_file_mb", "max_volume_mb", "time_limit_s")
OPTIONS: dict[str, Option] = {f.name: f.metadata["option"] for f in fields(Config)}


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
        path = Path(name_or_path).expanduser()
        if path.suffix != ".toml" or not path.is_file():
            allowed = ", ".join(preset_names())
            near = rules.did_you_mean(name_or_path, preset_names())
            raise UsageError(f"preset {name_or_path!r}: no such preset or TOML file; presets are {allowed}{near}")
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
    grids = [name for name in GRID_OPTIONS if chosen.get(name)]
    if len(grids) > 1:
        raise UsageError(f"{flag_of(grids[0])} and {flag_of(grids[1])}: only one of them says what the grid is")
    merged = dict(preset)
    if grids:
        merged = {name: value for name, value in merged.items() if name not in GRID_OPTIONS}
    config = replace(Config(), **{**merged, **chosen})
    given = [name for name in GRID_OPTIONS if getattr(config, name)]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]}: only one of them says what the grid is")
    if not given:
        raise UsageError("the configuration has no grid; one of spacing_mm, zoom, native is needed")
    _check_steps(config)
    return config


def _check_steps(config: Config) -> None:
    """Refuse steps that int16 cannot count."""
    if config.dtype != "int16":
        return
    if config.precision_bits == "full":
        raise UsageError("--dtype int16: --precision-bits full has no steps; allowed is a number of bits")
    # What is subtracted from 0 to 1 is itself between them, or the number given.
    center = config.center if isinstance(config.center, float | int) else 0.0
    steps = max(1.0, abs(center), abs(1 - center)) * 2**config.precision_bits
    if steps > MAX_STEPS:
        raise UsageError(
            f"--dtype int16: --precision-bits {config.precision_bits} with --center {config.center} needs "
            f"{steps:.0f} steps; allowed are {MAX_STEPS}"
        )


def flag_of(name: str) -> str:
    """Give the command-line form of an option."""
    return "--" + name.replace("_", "-")


def _known_keys(raw: Mapping[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for key, value in raw.items():
        name = key.replace("-", "_")
        if name not in OPTIONS:
            near = rules.did_you_mean(name, OPTIONS)
            raise UsageError(f"unknown key {key!r} (value {value!r}); allowed keys are {', '.join(OPTIONS)}{near}")
        known[name] = value
    return known


def _checked(name: str, value: Any) -> Any:
    rule = OPTIONS[name].rule
    try:
        return rule.parse(value)
    except (TypeError, ValueError, OverflowError) as error:
        near = rules.did_you_mean(value, rule.words)
        raise UsageError(f"{flag_of(name)} {_shown(value)}: allowed is {rule.allowed}{near}") from error


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
