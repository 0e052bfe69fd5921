"""The web page in headless Chromium, with a stand-in for the models: one server and one browser for all tests."""

import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from brightness_models import BrightnessModels
from PIL import Image

# Gradio has warnings of its own.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.process, pytest.mark.slow]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
SECONDS = 20


@pytest.fixture(scope="module")
def served():
    """The stand-in and the address of the page that it serves."""
    from corrclip_jax.app.page import serve

    models = BrightnessModels()
    with serve(["tiny-v2", "another"], model_for=models) as address:
        yield models, address


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium, which keeps its downloads in `browser.downloads`."""
    if CHROMIUM is None or DRIVER is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs Chromium and its driver: apt-get install chromium chromium-driver")
        pytest.skip("no Chromium with its driver here: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "window-size=1280,1400",
    ):
        options.add_argument(f"--{argument}")
    folder = tmp_path_factory.mktemp("downloads")
    several = "profile.default_content_setting_values.automatic_downloads"
    options.add_experimental_option("prefs", {"download.default_directory": str(folder), several: 1})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.downloads = folder
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A photo, dark on the left and bright on the right."""
    path = tmp_path_factory.mktemp("photos") / "street.png"
    Image.fromarray(np.repeat(np.uint8([[40, 220]]), 80, 1).repeat(90, 0)).convert("RGB").save(path)
    return path


class Page:
    """What a user does on the page."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get(address)
        self.wait(lambda: self.all("#photo input[type=file]"))

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector):
        return self.browser.find_element("css selector", selector)

    def wait(self, condition):
        """What the condition gives once it is true; while the page is drawn anew, its elements may vanish."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(
            self.browser, SECONDS, poll_frequency=0.1, ignored_exceptions=[StaleElementReferenceException]
        )
        return wait.until(lambda driver: condition())

    def texts(self, selector):
        """Texts of the elements, read in one step of the page's script, so that none vanishes meanwhile."""
        return self.browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(one => one.textContent.trim())", selector
        )

    def ask(self, photo, classes):
        """Upload a file, type class names, press the button."""
        self.one("#photo input[type=file]").send_keys(str(photo))
        self.wait(lambda: self.all("#photo img"))
        text = self.one("#classes textarea")
        text.clear()
        text.send_keys(classes)
        self.one("#run").click()

    def toast(self):
        """The text of the error that is shown; it is closed."""
        text = self.wait(lambda: [one.text for one in self.all(".toast-body") if one.text])[0]
        self.browser.execute_script("document.querySelectorAll('.toast-close').forEach(one => one.click())")
        self.wait(lambda: not self.all(".toast-body"))
        return text

    def pixel(self, x, y):
        """RGB of a pixel of the overlay; x and y as shares of its size."""
        return self.browser.execute_script(
            """const c = document.querySelector('#view canvas');
            return [...c.getContext('2d').getImageData(arguments[0] * c.width, arguments[1] * c.height, 1, 1).data]
                .slice(0, 3)""",
            x,
            y,
        )

    def move_to(self, x, y):
        """The pointer over a pixel of the overlay."""
        from selenium.webdriver import ActionChains

        canvas = self.one("#view canvas")
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        size = canvas.size
        offset = round((x - 0.5) * size["width"]), round((y - 0.5) * size["height"])
        ActionChains(self.browser).move_to_element_with_offset(canvas, *offset).perform()
        return ActionChains(self.browser)


def test_a_photo_is_labelled_read_by_pixel_isolated_by_class_and_downloaded(served, browser, photo):
    _, address = served
    page = Page(browser, address)
    assert "knows no photographs" in page.one("#embedded").text
    page.ask(photo, "night; dark, day")
    page.wait(lambda: page.one("#view .shown").is_displayed())
    assert page.texts("#view .legend .name") == ["night", "day"]
    # 45 % of grey 40, 55 % of (230, 73, 82)
    assert page.pixel(0.25, 0.5) == pytest.approx([144, 58, 63], abs=3)
    page.move_to(0.8, 0.5)
    assert page.one("#view .reading").text == "day, probability 86 %"

    browser.execute_script(
        "const o = document.querySelector('#view .opacity'); o.value = 0;"
        "o.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    assert page.pixel(0.25, 0.5) == pytest.approx([40, 40, 40], abs=3)
    assert page.pixel(0.5 - 1 / 160, 0.5) == [255, 255, 255]
    page.one("#view .outlines").click()
    assert page.pixel(0.5 - 1 / 160, 0.5) == pytest.approx([40, 40, 40], abs=3)

    page.move_to(0.8, 0.5).click().perform()
    assert page.pixel(0.25, 0.5) == pytest.approx([32, 32, 32], abs=3)  # dimmed
    assert page.pixel(0.8, 0.5) == pytest.approx([220, 220, 220], abs=3)
    pressed = page.all("#view .legend button[aria-pressed=true] .name")
    assert [one.text for one in pressed] == ["day"]
    page.one("#view .all").click()
    assert page.pixel(0.25, 0.5) == pytest.approx([40, 40, 40], abs=3)

    for link in page.wait(lambda: page.all("#files a[download]")):
        browser.execute_script("arguments[0].click()", link)
    expected = {"street.png", "classes.json", "instances_default.json", "tasks.json", "labelling_config.xml"}
    page.wait(lambda: {path.name for path in browser.downloads.iterdir()} == expected)
    assert np.asarray(Image.open(browser.downloads / "street.png"))[0, [0, -1]].tolist() == [0, 1]
    coco = json.loads((browser.downloads / "instances_default.json").read_text())
    assert [one["name"] for one in coco["categories"]] == ["night", "day"] and len(coco["annotations"]) == 2
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
    assert {urlsplit(one).netloc for one in loaded if one.startswith("http")} == {urlsplit(address).netloc}


def test_several_photos_are_labelled_together_and_looked_at_one_by_one(served, browser, photo, tmp_path):
    Image.fromarray(np.full((30, 60), 220, np.uint8)).save(bright := tmp_path / "bright.png")
    (text := tmp_path / "text.png").write_text("only text\n" * 9)
    page = Page(browser, served[1])
    page.ask(f"{photo}\n{bright}\n{text}", "night, day")
    first, second = page.wait(lambda: page.all("#view .strip button"))
    assert "text.png is not an image" in page.toast()
    assert page.texts("#view .legend .name") == ["night", "day"]
    second.click()
    page.wait(lambda: page.texts("#view .legend .name") == ["day"])
    assert (first.get_attribute("aria-pressed"), second.get_attribute("aria-pressed")) == ("false", "true")
    names = {link.get_attribute("download") for link in page.wait(lambda: page.all("#files a[download]"))}
    assert {"street.png", "bright.png", "instances_default.json", "tasks.json"} < names


def test_files_that_are_no_photo_or_too_large_are_explained(served, browser, tmp_path):
    _, address = served
    page = Page(browser, address)
    Image.new("1", (10_000, 10_000)).save(huge := tmp_path / "huge.png")
    (text := tmp_path / "text.png").write_text("only text\n" * 9)
    (empty := tmp_path / "empty.png").write_bytes(b"")
    page.ask(huge, "cat, dog")
    assert "huge.png has 10000 x 10000 pixels" in page.toast()
    for file, message in [(text, "text.png is not an image"), (empty, "empty.png is an empty file")]:
        page = Page(browser, address)
        page.ask(file, "cat, dog")
        assert message in page.toast()


def test_a_tab_closed_during_work_leaves_the_page_alive_for_others(served, browser, photo):
    models, address = served
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    page = Page(browser, address)
    with paused(models, 1.5):
        models.started.clear()
        page.ask(photo, "night, day")
        assert models.started.wait(SECONDS)
        page.wait(lambda: "Labelling" in page.one("#view").text)
        browser.close()
        browser.switch_to.window(first)
    page = Page(browser, address)
    page.ask(photo, "night, day")
    page.wait(lambda: page.one("#view .shown").is_displayed())


def test_an_example_fills_the_form(served, browser):
    page = Page(browser, served[1])
    page.wait(lambda: page.all("#examples button"))[0].click()
    page.wait(lambda: "sky" in page.one("#classes textarea").get_property("value") and page.all("#photo img"))


def test_ten_uploads_at_once_are_answered_one_after_another(served, photo):
    models, address = served
    before = models.labelled
    models.most = 0
    with paused(models, 0.05), ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda number: asked(address, photo, f"night {number}, day"), range(10)))
    assert [one[0]["photos"][0]["classes"][0]["name"] for one in answers] == [
        f"night {number}" for number in range(10)
    ]
    assert all(len(one[1]) == 5 for one in answers)
    assert models.labelled == before + 10 and models.most == 1


def test_only_own_files_are_served(served):
    address = served[1]
    for path in (
        __file__,
        "/etc/passwd",
        "pyproject.toml",
        str(Path(__file__).parents[2] / "pyproject.toml"),
    ):
        assert httpx.get(f"{address}gradio_api/file={path}").status_code == 403
    assert "default-src 'self'" in httpx.get(address).headers["Content-Security-Policy"]
    assert urlsplit(address).hostname == "127.0.0.1"


def test_an_upload_of_too_many_bytes_is_refused(served):
    from corrclip_jax.app.page import MAX_MEGABYTES

    content = bytes(MAX_MEGABYTES * 1024 * 1024 + 1)
    assert httpx.post(f"{served[1]}gradio_api/upload", files={"files": ("a.png", content)}).status_code == 413


def asked(address, photo, classes):
    """The view and the files that the page's own requests get."""
    with httpx.Client(base_url=f"{address}gradio_api/", timeout=SECONDS) as client:
        (path,) = client.post("upload", files={"files": (photo.name, photo.read_bytes())}).json()
        number = next(
            one["id"]
            for one in httpx.get(f"{address}config").json()["dependencies"]
            if one["api_name"] == "label"
        )
        session = f"{threading.get_ident()}-{time.monotonic_ns()}"
        upload = {"path": path, "orig_name": photo.name, "meta": {"_type": "gradio.FileData"}}
        data = [[{"image": upload, "caption": None}], classes, "tiny-v2", 0, 8]
        joined = {"data": data, "fn_index": number, "session_hash": session, "event_data": None}
        client.post("queue/join", json=joined).raise_for_status()
        with client.stream("GET", "queue/data", params={"session_hash": session}) as stream:
            for line in filter(None, stream.iter_lines()):
                message = json.loads(line.removeprefix("data:"))
                if message["msg"] == "process_completed":
                    assert message["success"], message
                    return message["output"]["data"]
    raise AssertionError("the page closed the stream without an answer")


@contextmanager
def paused(models, seconds):
    """The stand-in takes so long for a photo."""
    models.pause = seconds
    yield
    models.pause = 0.0
