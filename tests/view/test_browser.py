"""The viewer in a real browser: what a person sees, against what the store was written with.

Chromium draws WebGL by SwiftShader, so that a machine without a display does. A test fails where a page writes an
error to the console or asks for anything that is not on this machine.
"""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from handmade_store import Series, write_store
from PIL import Image

from etl.codes import VerdictCode, words_of
from etl.read.patients import open_store
from etl.read.verdicts import Verdict, read_verdicts
from etl.view.app import App
from etl.view.server import Server

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SOFTWARE_GPU = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
AXE = Path(__file__).parents[2] / ".readers-browser/node_modules/axe-core/axe.min.js"
DESK, PHONE = 1280, 390
READ_PIXELS = """(image) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return [canvas.height, canvas.width, [...context.getImageData(0, 0, canvas.width, canvas.height).data]];
}"""


class Tilted(Series):
    """A stack whose slices advance by a gantry's tilt of 20 degrees to their normal."""

    @property
    def affine_lps(self) -> np.ndarray:
        dz, dy, dx = self.spacing_mm
        tilt = np.deg2rad(20)
        affine = np.eye(4)
        affine[:3, :3] = [[0, 0, dx], [0, dy * np.cos(tilt), 0], [dz, -dy * np.sin(tilt), 0]]
        return affine


@dataclass
class Viewed:
    """A page of the browser, on the viewer of a store."""

    page: Any
    address: str

    def open_volume(self, series: Series) -> None:
        self.page.goto(f"{self.address}volume?node={series.node}")
        self.settle()

    def settle(self) -> None:
        self.page.wait_for_selector("figure img")
        until(self.page, "[...document.images].every((one) => one.complete && one.naturalWidth > 0)")

    def pixels(self, axis: int) -> np.ndarray:
        """Read what the browser decoded of a plane's picture: (y, x) gray."""
        height, width, values = self.page.locator("figure img").nth(axis).evaluate(READ_PIXELS)
        return np.array(values).reshape(height, width, 4)[..., 0]


def until(page: Any, condition: str) -> None:
    """Wait until a condition is true; Playwright's own way to wait evaluates text, which the pages forbid."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {condition}")


def chromium() -> str:
    pytest.importorskip("playwright.sync_api", reason="Playwright drives the browser; make test-browser adds it")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium; on Debian: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[[list[str]], Any]]:
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # Chromium's own sandbox needs rights that a container lacks; the pages are ours.
        yield lambda options: driver.chromium.launch(executable_path=path, args=["--no-sandbox", *options])


@pytest.fixture(scope="module")
def browser(launch: Callable[[list[str]], Any]) -> Iterator[Any]:
    found = launch(SOFTWARE_GPU)
    yield found
    found.close()


@pytest.fixture
def look(browser: Any) -> Iterator[Callable[..., Viewed]]:
    """Open the viewer of an `App`; at the end nothing may have gone wrong or left the machine."""
    wrong: list[str] = []
    open_now: list[tuple[Server, threading.Thread, Any]] = []

    def start(app: App, *, width: int = DESK) -> Viewed:
        server = Server(app)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        context = browser.new_context(viewport={"width": width, "height": 900})
        page = context.new_page()
        open_now.append((server, thread, context))
        page.on("console", lambda one: wrong.append(one.text) if one.type in {"error", "warning"} else None)
        page.on("pageerror", lambda one: wrong.append(str(one)))
        own = (f"http://127.0.0.1:{server.server_port}/", "data:", "blob:")
        context.on("request", lambda one: None if one.url.startswith(own) else wrong.append(one.url))
        page.goto(server.address)
        page.wait_for_selector("a.row")
        return Viewed(page, server.address)

    yield start
    for server, thread, context in open_now:
        context.close()
        server.shutdown()
        thread.join()
        server.server_close()
    assert wrong == []


def rows(page: Any) -> list[str]:
    return [text.rpartition("-")[2][0] for text in page.locator("a.row .series").all_text_contents()]


def wait_for_rows(page: Any, count: int) -> None:
    until(page, f"document.querySelectorAll('a.row').length === {count}")


def test_the_cohort_is_searched_filtered_and_sorted(look, app):
    page = look(app).page
    assert sorted(rows(page)) == list("abcd")
    page.keyboard.press("/")
    page.keyboard.type("p1")
    wait_for_rows(page, 2)
    assert sorted(rows(page)) == list("ab")
    page.locator("summary", has_text="Filters").click()
    page.select_option("select[name=manufacturer]", "GE")
    wait_for_rows(page, 1)
    assert page.locator("#found").text_content() == "1 of 4 volumes"
    page.reload()  # the address keeps what was chosen
    wait_for_rows(page, 1)
    page.locator("button[type=reset]").click()
    wait_for_rows(page, 4)
    page.select_option("select[name=sort]", "slices")
    page.locator("input[name=descending]").check()
    until(page, "document.querySelector('a.row .series').textContent.includes('dddd')")
    assert rows(page) == list("dabc")


def test_thumbnails_are_there_and_warnings_say_what_they_mean(look, app):
    page = look(app).page
    until(page, "[...document.images].every((one) => one.complete && one.naturalWidth === 208)")
    assert page.locator(".badge.warning", has_text="gantry-tilt").get_attribute("title") == words_of("gantry-tilt")


def test_what_was_left_out_opens_with_its_reason_in_words(look, app):
    page = look(app).page
    part = page.locator("#left-out details", has_text=words_of("localizer"))
    part.locator("summary").click()
    part.locator("li").nth(1).wait_for()
    assert [text.split()[0] for text in part.locator("li").all_text_contents()] == ["P1", "P2"]


def test_keys_alone_go_from_volume_to_volume_and_judge(look, app, store):
    viewed = look(app)
    page = viewed.page
    first, second = (row.node for row in app._cohort.rows[:2])
    page.keyboard.press("j")
    page.keyboard.press("1")
    until(page, "document.getElementById('progress').textContent === '1 of 4 seen'")
    page.keyboard.press("Enter")
    viewed.settle()
    page.keyboard.press("n")
    page.keyboard.type("moved")
    page.keyboard.press("Enter")
    page.keyboard.press("2")
    until(page, "document.getElementById('progress').textContent === '2 of 4 seen'")
    assert read_verdicts(str(store)) == {
        first: Verdict(VerdictCode.KEEP),
        second: Verdict(VerdictCode.REJECT, "moved"),
    }
    assert page.locator("[data-verdict=reject]").get_attribute("aria-pressed") == "true"
    page.keyboard.press("u")
    until(page, "document.getElementById('progress').textContent === '1 of 4 seen'")
    assert list(read_verdicts(str(store))) == [first]
    page.keyboard.press(".")
    page.wait_for_url(f"**/volume?{urlencode({'node': app._cohort.rows[2].node})}")
    viewed.settle()
    page.keyboard.press("c")
    page.wait_for_selector("a.row")
    assert page.locator(".verdict[data-verdict=keep]").count() == 1


def cubes(tmp_path: Path, hu: np.ndarray, kind: type[Series] = Series, spacing_mm=(1.0, 1.0, 1.0)):
    one = kind(hu, spacing_mm=spacing_mm)
    return one, App(open_store(write_store(tmp_path / "cubes.zarr", [one])))


def test_a_volumes_pixels_are_the_hounsfield_units_of_the_store(look, tmp_path):
    hu = np.random.default_rng(1).integers(-200, 300, (20, 24, 28)).astype(np.float32)
    one, app = cubes(tmp_path, hu)
    viewed = look(app)
    viewed.open_volume(one)
    viewed.page.select_option("select[name=window]", "soft tissue")
    viewed.settle()
    viewed.page.wait_for_timeout(300)
    for axis, plane in enumerate((hu[10], hu[::-1, 12], hu[::-1, :, 14])):
        expected = 255 * np.clip((plane + 160) / 400, 0, 1)
        assert np.abs(viewed.pixels(axis) - expected).max() < 1


def test_the_pointer_tells_the_hounsfield_units_below_it(look, tmp_path):
    hu = np.arange(20 * 24 * 28, dtype=np.float32).reshape(20, 24, 28) % 1999
    one, app = cubes(tmp_path, hu)
    viewed = look(app)
    viewed.open_volume(one)
    box = viewed.page.locator("figure img").nth(2).bounding_box()
    # Sagittal, 24 wide and 20 high: column 5 from the left, row 3 from the top, which is the seventeenth plane.
    viewed.page.mouse.move(box["x"] + 5.5 / 24 * box["width"], box["y"] + 3.5 / 20 * box["height"])
    until(viewed.page, "document.getElementById('pointer').textContent.includes('HU at')")
    text = viewed.page.locator("#pointer").text_content()
    assert "voxel (16, 5, 14)" in text
    assert float(text.split()[0]) == pytest.approx(hu[16, 5, 14], abs=0.3)


def test_a_tilted_stack_is_drawn_as_it_lies_in_the_patient(look, tmp_path):
    hu = np.full((40, 60, 60), -1000, np.float32)
    marks = [(8, 12), (8, 48), (32, 12)]  # (k, j)
    for k, j in marks:
        hu[k - 1 : k + 2, j - 1 : j + 2, :] = 1000
    one, app = cubes(tmp_path, hu, Tilted, spacing_mm=(2.0, 1.0, 1.0))
    viewed = look(app)
    viewed.open_volume(one)
    picture = viewed.pixels(2).astype(float)
    places = []
    for k, j in marks:
        # LPS mm of a mark, and where that is on a picture of 1 mm a pixel with superior up and posterior right.
        _, y_mm, z_mm, _ = one.affine_lps @ [k, j, 30, 1]
        places.append((y_mm, -z_mm))
    bright = np.argwhere(picture > 200)[:, ::-1] + 0.5
    # To each mark the bright pixels that are nearest to it once the whole is moved onto the center of all.
    offset = bright.mean(axis=0) - np.mean(places, axis=0)
    nearest = np.linalg.norm(bright[:, None] - (np.array(places) + offset)[None], axis=2).argmin(axis=1)
    drawn = np.array([bright[nearest == number].mean(axis=0) for number in range(len(marks))])
    moved = drawn - places
    assert np.linalg.norm(moved - moved.mean(axis=0), axis=1).max() < 0.7


def test_overlays_and_slices_change_by_keys(look, app, series):
    viewed = look(app)
    viewed.open_volume(series[0])
    page = viewed.page
    assert page.locator("select[name=overlay] option").all_text_contents() == ["none", "validity", "label lesion"]
    page.keyboard.press("o")
    page.wait_for_selector("#legend:visible")
    page.locator(".picture").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("figcaption").first.text_content() == "axial 4 / 9"
    page.keyboard.press("Shift+ArrowUp")
    assert page.locator("figcaption").first.text_content() == "axial 9 / 9"
    viewed.settle()


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_no_page_is_wider_than_the_screen(look, app, series, width):
    viewed = look(app, width=width)
    for open_page in (lambda: None, lambda: viewed.open_volume(series[0])):
        open_page()
        assert viewed.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_axe_finds_no_serious_fault(look, app, series, width):
    if not AXE.is_file():
        pytest.skip("axe-core is not there; make test-browser adds it where there is npm")
    viewed = look(app, width=width)
    viewed.page.locator("summary", has_text="Filters").click()
    for open_page in (lambda: None, lambda: viewed.open_volume(series[0])):
        open_page()
        viewed.page.evaluate(AXE.read_text("utf-8"))
        found = viewed.page.evaluate("axe.run()")
        bad = [
            (fault["id"], [node["html"] for node in fault["nodes"]])
            for fault in found["violations"]
            if fault["impact"] in {"serious", "critical"}
        ]
        assert bad == []
        assert found["passes"]


def test_neuroglancer_draws_a_tilted_block_with_its_true_area(look, tmp_path):
    pytest.importorskip("neuroglancer", reason="the extra `view`")
    hu = np.full((30, 40, 40), -1000, np.float32)
    hu[5:25, 10:30, 10:30] = 1000
    one, app = cubes(tmp_path, hu, Tilted, spacing_mm=(2.0, 1.0, 1.0))
    viewed = look(app)
    viewed.open_volume(one)
    page = viewed.page
    page.locator("#neuroglancer").click()
    page.wait_for_url("**/v/neuroglancer/**")
    mm_per_px = 60 / 400
    # Sagittal, the second panel: 20 planes, 2 mm apart, of 20 rows, 1 mm apart, at an angle of 70 degrees.
    expected = 40 * 20 * np.cos(np.deg2rad(20)) / mm_per_px**2
    area = 0
    for _ in range(60):
        page.wait_for_timeout(500)
        picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))
        panel = picture[60 : 60 + 400, picture.shape[1] // 2 + 10 : -60]
        area = int((panel > 250).sum())
        if abs(area - expected) < 0.05 * expected:
            break
    assert area == pytest.approx(expected, rel=0.05)


def test_without_webgl_the_page_says_so_and_shows_the_slices(launch, app, series):
    pytest.importorskip("neuroglancer", reason="the extra `view`")
    with Server(app) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        other = launch(["--disable-3d-apis"])
        page = other.new_page()
        page.goto(f"{server.address}volume?node={series[0].node}")
        Viewed(page, server.address).settle()
        assert page.locator("#no-neuroglancer").is_visible()
        assert not page.locator("#neuroglancer").is_visible()
        assert page.locator("figure img").count() == 3
        other.close()
        server.shutdown()
        thread.join()
