"""README and docs as data: code blocks, tables, links and what stands in backticks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Fence:
    """A block of code."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Page:
    """A Markdown page of the repository, by its path from the root."""

    name: str

    @property
    def path(self) -> Path:
        return ROOT / self.name

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def fences(self) -> list[Fence]:
        """Code blocks in their order; a language of "" where none is named."""
        found: list[Fence] = []
        start, indent, language, lines = 0, "", "", []
        for number, line in enumerate(self.text.splitlines(), start=1):
            mark = re.fullmatch(r"( *)```(\S*)", line)
            if mark and not start:
                start, indent, language, lines = number, mark[1], mark[2], []
            elif mark:
                found.append(Fence(language, "\n".join(lines) + "\n", start))
                start = 0
            elif start:
                lines.append(line.removeprefix(indent))
        assert not start, f"{self.name}: a code block does not end"
        return found

    @cached_property
    def prose(self) -> str:
        """Everything but the code blocks."""
        return re.sub(r"(?ms)^ *```.*?^ *```$", "", self.text)

    @cached_property
    def blocks(self) -> list[str]:
        """Paragraphs, list entries and rows of tables."""
        parts = re.split(r"\n\s*\n|\n(?=\s*(?:[*-]|\d+\.|\|) ?)", self.prose)
        return [part for part in parts if part.strip()]

    @cached_property
    def headings(self) -> dict[str, str]:
        """Heading by the anchor that links use."""
        titles = re.findall(r"(?m)^#+ (.+)$", self.prose)
        return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-"): title for title in titles}

    def table(self, heading: str) -> list[list[str]]:
        """Rows of the first table under a heading, without its head; cells as they are written."""
        section = re.split(r"(?m)^#+ ", self.prose.split(f"# {heading}\n", 1)[1], maxsplit=1)[0]
        rows = re.findall(r"(?m)^\|(.+)\|$", section)
        assert len(rows) > 2, f"{self.name}: no table under {heading!r}"
        return [[cell.strip() for cell in row.split(" | ")] for row in rows[2:]]

    def names(self, heading: str) -> list[str]:
        """First column of a table, without backticks."""
        return [row[0].strip("`") for row in self.table(heading)]


def in_backticks(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def pages() -> list[Page]:
    """Every page that people read."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")]
    return [Page(path.relative_to(ROOT).as_posix()) for path in sorted(found)]


def apply_diff(text: str, folder: Path) -> None:
    """Apply a unified diff: each hunk where its lines stand, nearest to where it says they are."""
    for change in re.split(r"(?m)^(?=--- )", text):
        if not change:
            continue
        (old, new), hunks = (
            re.findall(r"(?m)^(?:---|\+\+\+) (?:[ab]/)?(.+)$", change),
            re.split(r"(?m)^@@ ", change)[1:],
        )
        path = folder / new
        lines = [] if old == "/dev/null" else path.read_text("utf-8").splitlines()
        # From the end, so that the numbers of the hunks before stay right.
        for hunk in reversed(hunks):
            head, *body = hunk.splitlines()
            numbers = re.match(r"-(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@", head)
            assert numbers, f"{new}: @@ {head}"
            before = [line[1:] for line in body if not line.startswith("+")]
            after = [line[1:] for line in body if not line.startswith("-")]
            assert [len(before), len(after)] == [int(numbers[2] or 1), int(numbers[3] or 1)], f"{new}: @@ {head}"
            said = max(int(numbers[1]) - 1, 0)
            fits = [n for n in range(len(lines) + 1) if lines[n : n + len(before)] == before]
            assert fits, f"{new} has no such lines: {before}"
            at = min(fits, key=lambda n: abs(n - said))
            lines[at : at + len(before)] = after
        path.write_text("\n".join(lines) + "\n", "utf-8")
