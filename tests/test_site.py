"""The site of the documents: it builds without a warning, leads nowhere that is not there, and loads nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest
from pages import ROOT

from etl.cli import main
from etl.report.explain import explanations

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed: make docs brings it"),
]


class Links(HTMLParser):
    """The links, resources and anchors of a page, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {found[name] or "" for name in ("id", "name") if name in found}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"] or "")
        if tag in {"img", "script"} and found.get("src"):
            self.loaded.append(found["src"] or "")
        if tag == "link" and found.get("rel") in {"stylesheet", "icon", "preconnect", "preload"}:
            self.loaded.append(found.get("href") or "")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return target


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    return {path: Links(path) for path in site.rglob("*.html")}


def test_every_link_inside_leads_somewhere(site: Path, pages: dict[Path, Links]) -> None:
    assert len(pages) > 15
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.relative_to(site)}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.relative_to(site)}: {link}"


def test_pages_load_nothing_from_elsewhere(pages: dict[Path, Links]) -> None:
    for path, page in pages.items():
        assert not [place for place in page.loaded if urlsplit(place).scheme not in {"", "data"}], path


def test_the_reference_says_what_the_code_says(site: Path, pages: dict[Path, Links]) -> None:
    shown = {name: pages[site / name / "index.html"].text for name in ("command-line", "codes", "python")}
    for name in main.list_commands(click.Context(main)):
        assert f"Usage: ct-etl {name}" in shown["command-line"]
    for one in explanations().values():
        assert one.remedy.replace("`", "") in shown["codes"]
    for name in ("open_store", "CropDataset", "ThreadLoader", "split_patients", "to_hu"):
        assert name in shown["python"]


def test_the_gallery_shows_a_tilted_scan(site: Path, pages: dict[Path, Links]) -> None:
    page = pages[site / "gallery" / "index.html"]
    assert len([place for place in page.loaded if place.endswith((".jpg", ".svg"))]) >= 4
    assert "0.0" in (tilts := re.findall(r"Gantry tilt (-?[\d.]+) degrees", page.text))
    assert any(abs(float(tilt)) > 5 for tilt in tilts)
    assert all(path.stat().st_size > 10_000 for path in (site / "gallery").glob("*.jpg"))
