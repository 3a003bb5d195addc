"""The search page in a real browser."""

import contextlib
import itertools
import re
import shutil
import socket
import threading
import time

import numpy as np
import pytest

from galleria.serving.keys import read_keys
from galleria.serving.prediction import Prediction
from tests.drawings import drawing
from tests.media.films import film, solid
from tests.serving.bundles import presented
from tests.serving.conftest import FakeModel, fake_app

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def browser():
    """Closed before other modules: Playwright keeps an event loop running, beside which none of theirs can."""
    from playwright.sync_api import Error, sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    quiet = ("quic", "background-networking", "component-update", "sync", "gpu")
    options = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    with sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=found, args=options)
        except Error as error:
            pytest.fail(
                "there is no browser to test the page with: install chromium (apt-get install chromium), or run "
                f"'playwright install chromium'\n{error}"
            )
        yield opened
        opened.close()


class Visit:
    """A page, and what the browser had to say of it."""

    def __init__(self, browser, address, path="/", **options):
        self.page = browser.new_context(**options).new_page()
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", self._complaint)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._request)
        self.address = address
        self.page.goto(address + path)

    def _complaint(self, message):
        if not message.location["url"].endswith("/v1/items/bare/image"):  # the one that has none
            self.complaints.append(message.text)

    def _request(self, request):
        if not request.url.startswith((self.address, "blob:", "data:")):
            self.elsewhere.append(request.url)

    def titles(self):
        return self.page.locator("#hits .name").all_text_contents()

    def close(self):
        self.page.context.close()


@pytest.fixture
def visit(browser, address):
    opened = Visit(browser, address)
    yield opened
    opened.close()


def test_a_visit(visit):
    from playwright.sync_api import expect

    page = visit.page
    expect(page.locator("#examples button")).to_have_count(5)
    expect(page.locator("#samples a")).to_have_count(8)

    page.set_input_files("#file", [{"name": "query.png", "mimeType": "image/png", "buffer": drawing(5)}])
    expect(page.locator("#hits li")).to_have_count(24)
    assert page.locator("#hits a").first.get_attribute("data-like") == "5-studio"
    expect(page.locator("#hits .score").first).to_have_text("1.00")
    expect(page.locator("#hits .path").first).to_have_text(re.compile("things › (odd|even)"))
    expect(page.locator("#picture")).to_be_visible()
    expect(page.locator("#timing")).to_contain_text("embed")
    expect(page.locator("#origin")).to_contain_text(re.compile(r"catalogue version \d+"))
    page.wait_for_function("document.querySelector('#hits img').naturalWidth > 0")

    page.locator("#hits a").nth(1).click()
    expect(page.locator("#title")).to_have_text(re.compile("^More like Thing"))
    page.go_back()
    expect(page.locator("#title")).to_have_text("Similar to your picture")

    page.keyboard.press("/")
    page.keyboard.type("thing number 3")
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text("“thing number 3”")
    assert "text=thing+number+3" in page.url

    assert visit.complaints == []
    page.set_input_files("#file", [{"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"}])
    expect(page.get_by_role("alert")).to_contain_text("That file is not a picture that can be read.")
    expect(page.get_by_role("alert")).to_contain_text("JPEG, PNG")
    assert all("415" in complaint for complaint in visit.complaints)  # the browser's own note of the refused upload
    assert visit.elsewhere == []


def test_more_are_shown_until_there_are_no_more(browser, address, catalogue):
    from playwright.sync_api import expect

    visit = Visit(browser, address, "/?text=thing")
    expect(visit.page.locator("#hits li")).to_have_count(24)
    visit.page.locator("#more").click()
    expect(visit.page.locator("#hits li")).to_have_count(len(catalogue.ids))
    expect(visit.page.locator("#more")).to_be_hidden()
    visit.close()


def test_a_picture_is_dropped(visit):
    from playwright.sync_api import expect

    transfer = visit.page.evaluate_handle(
        """(bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
            return transfer;
        }""",
        list(drawing(7)),
    )
    visit.page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
    expect(visit.page.locator("body")).to_have_class(re.compile("dragging"))
    visit.page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    expect(visit.page.locator("#hits .score").first).to_have_text("1.00")
    assert visit.complaints == []


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_cut_off(browser, address, width):
    from playwright.sync_api import expect

    visit = Visit(browser, address, "/?text=thing", viewport={"width": width, "height": 700})
    expect(visit.page.locator("#hits li")).to_have_count(24)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.close()


CLIP = film([solid((30, 50 * second, 200)) for second in range(5) for _ in range(4)], rate=4)


def choose(page, name, kind, content):
    page.set_input_files("#file", [{"name": name, "mimeType": kind, "buffer": content}])


def test_a_picture_gets_the_models_cards(visit, models):
    from playwright.sync_api import expect

    choose(visit.page, "query.png", "image/png", drawing(5))
    cards = visit.page.locator("#insights .insight")
    expect(cards).to_have_count(2)
    expected = presented(models["mood"], {"image": drawing(5)})
    for place, head in enumerate(("aesthetics", "emotion")):
        card = cards.nth(place)
        classes = expected[head]["classes"]
        expect(card.locator("h3")).to_have_text(head)
        expect(card.locator(".verdict")).to_have_text(expected[head]["label"])
        expect(card.locator(".class")).to_have_text([one["name"] for one in classes[:4]])
        expect(card.locator(".share")).to_have_text([f"{one['probability']:.0%}".replace("%", " %") for one in classes])
        expect(card.locator(".by")).to_contain_text("mood · ")
    expect(visit.page.locator("#hits li")).to_have_count(24)
    expect(visit.page.locator("#levels")).to_be_hidden()  # this search has none
    choose(visit.page, "other.png", "image/png", drawing(6))
    expect(visit.page.locator("#hits a").first).to_have_attribute("data-like", "6-studio")
    expect(cards).to_have_count(2)
    assert visit.complaints == []


def test_a_video_gets_a_timeline_to_seek_with(visit, models):
    from playwright.sync_api import expect

    page = visit.page
    choose(page, "clip.mp4", "video/mp4", CLIP)
    expect(page.locator("#title")).to_have_text("clip.mp4")
    expected = presented(models["party"], {"video": CLIP})
    card = page.locator("#stories .insight").first
    expect(card.locator(".class")).to_have_text([event["name"] for event in expected["events"]])
    sure = [event["name"] for event in expected["events"] if event["over_threshold"]]
    expect(card.locator(".verdict")).to_have_text(", ".join(sure) or "Nothing that is certain")
    expect(card.locator(".strong")).to_have_count(len(sure))

    frames = page.locator(".chart .frame")
    expect(frames).to_have_count(5)
    expect(page.locator(".chart .key")).to_have_count(3)
    expect(page.locator(".moments button")).to_have_count(3)
    heights = [page.locator(".frame span").nth(place).bounding_box()["height"] for place in range(5)]
    attention = [frame["attention"] for frame in expected["timeline"]]
    assert heights[attention.index(max(attention))] == max(heights)
    lefts = [frames.nth(place).bounding_box()["x"] for place in range(5)]
    steps = [after - before for before, after in itertools.pairwise(lefts)]
    assert max(steps) - min(steps) < 1
    page.wait_for_function("document.querySelector('#video').duration === 5")

    frames.nth(3).click()
    assert page.evaluate("document.querySelector('#video').currentTime") == 3
    expect(frames.nth(3)).to_have_class(re.compile("now"))
    box = page.locator(".chart").bounding_box()
    page.locator(".chart").dispatch_event("click", {"clientX": box["x"] + box["width"] / 2})
    assert page.evaluate("document.querySelector('#video').currentTime") == pytest.approx(2.5, abs=0.02)
    page.locator(".moments button").first.focus()
    page.keyboard.press("Enter")
    first = min(frame["seconds"] for frame in expected["key_frames"])
    assert page.evaluate("document.querySelector('#video').currentTime") == first
    expect(page.locator("#timing")).to_contain_text("predict")

    page.go_back()
    expect(page.locator("#footage")).to_be_hidden()
    assert page.evaluate("document.querySelector('#video').getAttribute('src')") is None
    page.go_forward()
    expect(frames).to_have_count(5)
    assert visit.complaints == []
    assert visit.elsewhere == []


def test_a_video_that_cannot_be_read_says_so(visit):
    from playwright.sync_api import expect

    choose(visit.page, "clip.mp4", "video/mp4", CLIP[: len(CLIP) // 2])
    expect(visit.page.get_by_role("alert")).to_contain_text("That video is damaged.")
    choose(visit.page, "clip.mp4", "video/mp4", b"hello")
    expect(visit.page.get_by_role("alert")).to_contain_text("not a video that can be read")


@contextlib.contextmanager
def served(app):
    """The address of a service in this process."""
    import uvicorn

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def tree_address(tree):
    """The service that knows a category tree, at an address of its own."""
    with served(tree.service) as address:
        yield address


def test_a_service_with_keys_asks_for_one_and_shows_its_pictures_then(browser):
    from playwright.sync_api import expect

    answers = Prediction("h1", {"embedding": np.array([1, 0], np.float32)})
    app = fake_app(FakeModel(answers), keys=read_keys("", {"GALLERIA_READ_KEY": "open sesame; ü"}))
    with served(app) as address:
        visit = Visit(browser, address)
        key = visit.page.get_by_label("Key", exact=True)
        expect(key).to_be_focused()
        key.fill("wrong")
        key.press("Enter")
        expect(key).to_be_focused()
        key.fill("open sesame; ü")
        key.press("Enter")
        expect(visit.page.get_by_role("dialog")).to_be_hidden()
        choose(visit.page, "query.png", "image/png", drawing(5))
        expect(visit.page.locator("#hits .name").first).to_have_text("A")
        shown = "() => document.querySelector('#hits img')?.naturalWidth > 0"
        visit.page.wait_for_function(shown)
        visit.close()


def test_levels_are_shown_and_can_be_weighed(browser, tree_address, tree):
    from playwright.sync_api import expect

    visit = Visit(browser, tree_address)
    page = visit.page
    expect(page.locator("#headline")).to_have_text("Find it by a picture.")
    choose(page, "query.png", "image/png", drawing(500))
    levels = page.locator("#levels li")
    expect(levels).to_have_count(3)  # two of the tree, and the product
    names = presented(tree.bundle, {"image": drawing(500)})["levels"][1]["classes"]
    expect(levels.nth(1).locator(".chip").first).to_contain_text(names[0]["name"].split(" / ")[-1], ignore_case=True)
    plain = page.locator("#hits .score").all_text_contents()

    for place, weight in enumerate((1, 0, 0)):
        levels.nth(place).locator("input").fill(str(weight))
    expect(levels.locator("output")).to_have_text(["100 %", "0 %", "0 %"])
    query = presented(tree.bundle, {"image": drawing(500), "level_weights": [1, 0, 0]})["embedding"]
    expected = np.sort(tree.vectors @ np.array(query, np.float32))[::-1][:24]
    expect(page.locator("#hits .score")).to_have_text([f"{score:.2f}" for score in expected])
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#hits .score")).to_have_text(plain)
    expect(page.get_by_role("button", name="Reset")).to_be_hidden()
    assert visit.complaints == []
    visit.close()


@pytest.mark.parametrize("width", [320, 390])
@pytest.mark.parametrize(("name", "kind"), [("query.png", "image/png"), ("clip.mp4", "video/mp4")])
def test_nothing_that_models_say_is_cut_off(browser, address, width, name, kind):
    from playwright.sync_api import expect

    visit = Visit(browser, address, viewport={"width": width, "height": 700})
    choose(visit.page, name, kind, CLIP if "video" in kind else drawing(5))
    expect(visit.page.locator(".timeline" if "video" in kind else "#insights .insight").first).to_be_visible()
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.close()


def test_a_link_to_an_item_that_is_gone_says_so(browser, address):
    from playwright.sync_api import expect

    visit = Visit(browser, address, "/?like=gone")
    expect(visit.page.get_by_role("alert")).to_contain_text("It is not in the catalogue.")
    visit.close()


def test_the_reference_works_without_the_internet(browser, address):
    visit = Visit(browser, address, "/docs")
    visit.page.wait_for_selector(".opblock")
    assert visit.elsewhere == []
    assert visit.complaints == []
    visit.close()
