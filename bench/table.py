"""What a section of the benchmark found, as a table, as JSON, and as the README's Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from measure import Usage

WIDTH = 78


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    figure: float | None
    """None: not measured; `note` says why."""
    unit: str
    target: float | None = None
    at_least: bool = False
    """The target is a lower bound."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the figure keeps to the target; None without either."""
        if self.figure is None or self.target is None:
            return None
        return self.figure >= self.target if self.at_least else self.figure <= self.target

    def cells(self) -> tuple[str, str, str, str]:
        """Give what, figure, target and met as words."""
        figure = (self.note or "not measured") if self.figure is None else f"{_number(self.figure)} {self.unit}"
        bound = "at least" if self.at_least else "at most"
        target = "" if self.target is None else f"{bound} {_number(self.target)} {self.unit}"
        met = {True: "yes", False: "no", None: ""}[self.met]
        return self.what, figure.strip(), target.strip(), met


@dataclass
class Section:
    """Rows, and every single measurement they come from."""

    rows: list[Row] = field(default_factory=list)
    measurements: dict[str, Any] = field(default_factory=dict)

    def keep(self, taken: Mapping[str, Sequence[Usage]], prefix: str = "") -> None:
        """Keep the measurements of all turns."""
        for name, usages in taken.items():
            self.measurements[prefix + name] = [asdict(usage) for usage in usages]

    def to_json(self) -> dict[str, Any]:
        """Give rows with their verdicts, and measurements."""
        return {"rows": [{**asdict(row), "met": row.met} for row in self.rows], "measurements": self.measurements}


def merge(path: Path, name: str, section: Section, session: Mapping[str, Any]) -> None:
    """Put a section into the results file, beside those of other runs."""
    results = load(path)
    results[name] = {"session": dict(session), **section.to_json()}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Read the results file; empty if there is none."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return results


def text_lines(rows: Iterable[Row]) -> list[str]:
    """Give the lines of a terminal's table."""
    lines = []
    for row in rows:
        what, figure, target, met = row.cells()
        lines.append(f"{what:<{WIDTH}} {figure:>22} {target:>24} {met:>4}".rstrip())
        if row.note and row.figure is not None:
            lines.append(f"    {row.note}")
    return lines


def markdown(results: Mapping[str, Any], order: Sequence[str]) -> str:
    """Give the README's table, the machine and the versions."""
    lines = ["| what | figure | target | met |", "| --- | --- | --- | --- |"]
    present = [name for name in order if name in results]
    for name in present:
        for found in results[name]["rows"]:
            row = Row(**{key: value for key, value in found.items() if key != "met"})
            what, *others = row.cells()
            note = f" ({row.note})" if row.note and row.figure is not None else ""
            lines.append(f"| {' | '.join([what + note, *others])} |")
    sections_of: dict[str, list[str]] = {}
    for name in present:
        sections_of.setdefault(_describe(results[name]["session"]), []).append(name)
    described = [f"{', '.join(names)}: {description}" for description, names in sections_of.items()]
    return "\n".join([*lines, "", *(line for one in described for line in (one, ""))]).rstrip()


def _describe(session: Mapping[str, Any]) -> str:
    machine = session["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in session["versions"].items() if version)
    rounds = f"{session['rounds']} rounds{', quick' if session['quick'] else ''}"
    sizes = f"{session['series']} series of {session['slices']} slices"
    computer = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB"
    return (
        f"{session['date'][:10]}, commit {session['commit']}, {rounds}, {sizes}; "
        f"{computer}, Python {session['python']}; {versions}."
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
