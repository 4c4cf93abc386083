"""What README and docs name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/promises.md", "docs/performance.md", "docs/training.md")
DEFINED = {
    name
    for path in (ROOT / "tests").rglob("*.py")
    for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))
}


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page):
    named = set(re.findall(r"`(test_\w+)`", (ROOT / page).read_text("utf-8")))
    assert named <= DEFINED
    assert named or page == "docs/performance.md"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_or_links_exists(page):
    text = (ROOT / page).read_text("utf-8")
    files = re.findall(r"`((?:tests|bench|docs|deploy)/[\w./-]+)`", text)
    links = [(ROOT / page).parent / link for link in re.findall(r"\]\(([\w./-]+)\)", text)]
    assert [name for name in files if not (ROOT / name).exists()] == []
    assert [link for link in links if not link.exists()] == []
