"""Take pictures of the viewer's pages, to look at: python tests/screenshots.py STORE FOLDER.

Needs what `make test-browser` adds. A page of each kind is taken at the width of a desk and of a phone, and
Neuroglancer once; requests that leave the machine and errors of pages are printed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from etl.read.patients import open_store
from etl.run.ledger import read_run
from etl.run.run_dir import newest_run
from etl.view.app import App
from etl.view.server import Server
from etl.view.verdict_file import VerdictFile

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTHS_PX = {"desk": 1280, "phone": 390}
OPTIONS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]


def settle(page: Page) -> None:
    """Wait until every picture that is in sight has come."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(500)


def take(page: Page, address: str, folder: Path, name: str) -> None:
    """Go from the list to a volume, and take both."""
    page.goto(address)
    page.wait_for_selector("a.row")
    page.locator("summary", has_text="Filters").click()
    settle(page)
    page.screenshot(path=folder / f"cohort-{name}.png", full_page=True)
    page.locator("a.row").nth(1).click()
    page.wait_for_selector("figure img")
    page.keyboard.press("1")
    page.keyboard.press("o")
    settle(page)
    page.screenshot(path=folder / f"volume-{name}.png", full_page=True)
    page.keyboard.press("?")
    page.screenshot(path=folder / f"keys-{name}.png")
    page.keyboard.press("Escape")


def main() -> None:
    """Take all pictures; the store is only read, verdicts go into the folder of the pictures."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    store = open_store(given.store)
    ledger, _ = read_run(newest_run(Path(store.path)))
    browser_path = shutil.which("chromium") or sys.exit("no chromium")
    with VerdictFile(given.folder / "verdicts.csv") as verdicts:
        server = Server(App(store, ledger=ledger, verdicts=verdicts))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=browser_path, args=OPTIONS)
            for name, width in WIDTHS_PX.items():
                page = browser.new_page(viewport={"width": width, "height": 900})
                page.on("console", lambda one: print(one.type, one.text))
                page.on("pageerror", lambda one: print("error", one))
                take(page, server.address, given.folder, name)
                if name == "desk":
                    page.locator("#neuroglancer").click()
                    page.wait_for_timeout(15_000)
                    page.screenshot(path=given.folder / "neuroglancer.png")
            browser.close()
        server.shutdown()
        server.server_close()
    print(*sorted(given.folder.glob("*.png")), sep="\n")


if __name__ == "__main__":
    main()
