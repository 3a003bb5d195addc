"""The search page in a real browser."""

import itertools
import re
import shutil
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest

from galleria.serving.config import SEARCH
from galleria.serving.http.keys import read_keys
from galleria.serving.inference.types import Prediction
from galleria.serving.schemas.problems import too_many_requests
from tests.drawings import drawing
from tests.media.films import film, solid
from tests.serving.bundles import presented
from tests.serving.conftest import FakeModel, FakeSearcher, FakeState, fake_app, local_app
from tests.serving.served import served

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def browser():
    """Closed before other modules: Playwright keeps an event loop running, so theirs could not run."""
    from playwright.sync_api import Error, expect, sync_playwright

    expect.set_options(timeout=20_000)  # milliseconds; other tests may use all cores

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    quiet = ("quic", "background-networking", "component-update", "sync", "gpu", "software-rasterizer")
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
    """A page, and the errors that the browser logged."""

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


def test_search_by_picture_item_and_text(visit):
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
    expect(page.locator("#hits img").first).not_to_have_js_property("naturalWidth", 0)

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
    assert all("415" in complaint for complaint in visit.complaints)  # the browser's own note of the rejected upload
    assert visit.elsewhere == []


def test_page_sends_its_session(browser, address):
    from playwright.sync_api import expect

    visit = Visit(browser, address)
    sessions = []
    visit.page.on("request", lambda request: sessions.append(request.headers.get("x-session-id")))
    for _ in range(2):
        visit.page.goto(f"{address}/?text=thing")
        expect(visit.page.locator("#hits li")).to_have_count(24)
    other = Visit(browser, address)
    other.page.on("request", lambda request: sessions.append(request.headers.get("x-session-id")))
    other.page.goto(f"{address}/?text=thing")
    expect(other.page.locator("#hits li")).to_have_count(24)

    assert len({session for session in sessions if session}) == 2, "one for each visit"
    visit.close()
    other.close()


def test_more_button_shows_all_hits(browser, address, catalogue):
    from playwright.sync_api import expect

    visit = Visit(browser, address, "/?text=thing")
    expect(visit.page.locator("#hits li")).to_have_count(24)
    visit.page.locator("#more").click()
    expect(visit.page.locator("#hits li")).to_have_count(len(catalogue.ids))
    expect(visit.page.locator("#more")).to_be_hidden()
    visit.close()


def test_dropped_picture_is_searched(visit):
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
def test_hits_fit_the_viewport(browser, address, width):
    from playwright.sync_api import expect

    visit = Visit(browser, address, "/?text=thing", viewport={"width": width, "height": 700})
    expect(visit.page.locator("#hits li")).to_have_count(24)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.close()


CLIP = film([solid((30, 50 * second, 200)) for second in range(5) for _ in range(4)], rate=4)


def choose(page, name, kind, content):
    page.set_input_files("#file", [{"name": name, "mimeType": kind, "buffer": content}])


def test_picture_shows_a_card_per_model(visit, models):
    from playwright.sync_api import expect

    choose(visit.page, "query.png", "image/png", drawing(5))
    cards = visit.page.locator("#insights .insight")
    expect(cards).to_have_count(2)
    expected = presented(models["mood"], {"image": drawing(5)})
    for index, head in enumerate(("aesthetics", "emotion")):
        card = cards.nth(index)
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


def test_video_shows_a_timeline_to_seek(visit, models):
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
    heights = [page.locator(".frame span").nth(index).bounding_box()["height"] for index in range(5)]
    attention = [frame["attention"] for frame in expected["timeline"]]
    assert heights[attention.index(max(attention))] == max(heights)
    lefts = [frames.nth(index).bounding_box()["x"] for index in range(5)]
    steps = [after - before for before, after in itertools.pairwise(lefts)]
    assert max(steps) - min(steps) < 1
    expect(page.locator("#video")).to_have_js_property("duration", 5)

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


def test_damaged_video_is_reported(visit):
    from playwright.sync_api import expect

    choose(visit.page, "clip.mp4", "video/mp4", CLIP[: len(CLIP) // 2])
    expect(visit.page.get_by_role("alert")).to_contain_text("That video is damaged.")
    choose(visit.page, "clip.mp4", "video/mp4", b"hello")
    expect(visit.page.get_by_role("alert")).to_contain_text("not a video that can be read")


@pytest.fixture(scope="module")
def tree_address(tree):
    """The service that knows a category tree, at an address of its own."""
    with served(tree.service) as address:
        yield address


def test_key_dialog_unlocks_the_page(browser):
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
        expect(visit.page.locator("#hits img").first).not_to_have_js_property("naturalWidth", 0)
        visit.close()


def test_levels_can_be_weighted(browser, tree_address, tree):
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

    for index, weight in enumerate((1, 0, 0)):
        levels.nth(index).locator("input").fill(str(weight))
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
def test_predictions_fit_the_viewport(browser, address, width, name, kind):
    from playwright.sync_api import expect

    visit = Visit(browser, address, viewport={"width": width, "height": 700})
    choose(visit.page, name, kind, CLIP if "video" in kind else drawing(5))
    expect(visit.page.locator(".timeline" if "video" in kind else "#insights .insight").first).to_be_visible()
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.close()


def test_link_to_missing_item_is_reported(browser, address):
    from playwright.sync_api import expect

    visit = Visit(browser, address, "/?like=gone")
    expect(visit.page.get_by_role("alert")).to_contain_text("It is not in the catalogue.")
    visit.close()


def test_reference_works_offline(browser, address):
    visit = Visit(browser, address, "/docs")
    visit.page.wait_for_selector(".opblock")
    assert visit.elsewhere == []
    assert visit.complaints == []
    visit.close()


def url_query(page):
    """Return the query in the page's address."""
    return parse_qs(urlsplit(page.url).query, keep_blank_values=True)


def test_category_filters_hits_and_url(visit):
    from playwright.sync_api import expect

    page = visit.page
    buttons = page.locator("#categories button")
    choose(page, "query.png", "image/png", drawing(5))
    expect(buttons).to_have_text(["things"])
    buttons.first.click()
    expect(buttons.nth(0)).to_have_text("Everything")
    expect(page.get_by_role("button", name="Take off things")).to_be_focused()
    expect(page.locator("#sub")).to_have_text(re.compile("^The 24 most alike in things[.] "))
    assert url_query(page) == {"picture": [""], "in": ["things"]}

    page.locator("#categories").get_by_text("odd", exact=True).click()
    expect(buttons).to_have_text(["Everything", "things", "odd"])
    expect(page.locator("#sub")).to_contain_text("in things › odd")
    assert set(page.locator("#hits .path").all_text_contents()) == {"things › odd"}
    assert page.locator("#hits a").first.get_attribute("data-like") == "5-studio"
    expect(page.locator("#insights .insight")).to_have_count(2)  # what the models say of the picture stays
    expect(page.locator("#title")).to_have_text("Similar to your picture")

    page.keyboard.press("Enter")  # on the category that was chosen
    expect(page.get_by_role("button", name="Take off things")).to_be_focused()
    page.go_back()
    expect(page.locator("#sub")).to_contain_text("in things › odd")
    page.get_by_role("button", name="Everything").click()
    expect(buttons).to_have_text(["things"])
    assert url_query(page) == {"picture": [""]}
    assert visit.complaints == []


def test_category_of_hit_survives_reload(browser, address):
    from playwright.sync_api import expect

    visit = Visit(browser, address, "/?text=thing")
    page = visit.page
    page.locator("#hits .path", has_text="even").first.get_by_text("even", exact=True).click()
    for _ in range(2):
        expect(page.locator("#sub")).to_contain_text("in things › even")
        assert set(page.locator("#hits .path").all_text_contents()) == {"things › even"}
        assert url_query(page) == {"text": ["thing"], "in": ["things", "even"]}
        page.reload()
    page.go_back()
    expect(page.locator("#sub")).to_contain_text(re.compile(r"^24 of \d+, most alike first"))
    page.goto(f"{address}/?text=thing&in=nowhere")
    expect(page.locator("#sub")).to_have_text("There is nothing else in nowhere.")
    page.get_by_role("button", name="Take off nowhere").click()
    expect(page.locator("#hits li")).to_have_count(24)
    assert visit.complaints == []
    visit.close()


def test_words_are_mixed_with_picture(visit, catalogue):
    from playwright.sync_api import expect

    def scores(share):
        image, text = ({"image": drawing(5)}, {"text": "thing number 8"})
        parts = [np.array(presented(catalogue.bundle, row)["embedding"]) for row in (image, text)]
        mixed = (1 - share) * parts[0] / np.linalg.norm(parts[0]) + share * parts[1] / np.linalg.norm(parts[1])
        found = np.sort(catalogue.vectors @ (mixed / np.linalg.norm(mixed)))[::-1]
        return [f"{score:.2f}" for score in found[:24]]

    page = visit.page
    words = page.get_by_label("Words to add to the picture")
    weight = page.get_by_label("How much the words count")
    shown = page.locator("#hits .score")
    choose(page, "query.png", "image/png", drawing(5))
    expect(shown).to_have_text(scores(0))
    expect(weight).to_be_hidden()
    page.keyboard.press("/")
    words.focus()
    page.keyboard.type("thing number 8")
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text("Similar to your picture, and “thing number 8”")
    expect(shown).to_have_text(scores(0.5))
    expect(weight).to_have_attribute("aria-valuetext", "Picture 50 %, Words 50 %")
    weight.fill("0.9")
    expect(shown).to_have_text(scores(0.9))
    assert url_query(page) == {"picture": [""], "words": ["thing number 8"], "share": ["0.9"]}

    page.locator("#categories button").first.click()
    expect(page.locator("#sub")).to_contain_text("in things")
    page.go_back()
    expect(shown).to_have_text(scores(0.9))
    page.get_by_role("button", name="Take the words off").click()
    expect(shown).to_have_text(scores(0))
    expect(words).to_be_focused()
    page.go_back()
    expect(words).to_have_value("thing number 8")
    expect(shown).to_have_text(scores(0.9))
    page.go_back()
    expect(page.locator("#title")).to_have_text("Similar to your picture")
    expect(weight).to_be_hidden()
    assert visit.complaints == []


def searches(page):
    """Collect the requests that the page sends to the search."""
    found = []
    page.on("request", lambda request: found.append(request) if request.url.endswith("/v1/search") else None)
    return found


def test_more_like_item_sends_its_id(visit, address, tree_address, browser):
    from playwright.sync_api import expect

    page = visit.page
    choose(page, "query.png", "image/png", drawing(5))
    expect(page.locator("#hits li")).to_have_count(24)
    sent = searches(page)
    page.locator("#hits a").first.click()
    expect(page.locator("#title")).to_have_text("More like Thing 5")
    expect(page.locator("#insights .insight")).to_have_count(2)
    expect(page.locator("#picture")).not_to_have_js_property("naturalWidth", 0)
    assert "5-studio" not in [link.get_attribute("data-like") for link in page.locator("#hits a").all()]
    assert [request.post_data_json for request in sent] == [{"item": "5-studio", "k": 24}]

    page.get_by_label("Words to add to the picture").fill("red")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#title")).to_have_text("More like Thing 5, and “red”")
    parts = [{"item": "5-studio", "weight": 0.5}, {"text": "red", "weight": 0.5}]
    assert sent[-1].post_data_json == {"mix": parts, "k": 24}
    page.reload()
    expect(page.locator("#title")).to_have_text("More like Thing 5, and “red”")
    page.goto(f"{address}/?like=bare")
    expect(page.locator("#hits li")).to_have_count(24)  # though it has no picture
    expect(page.locator("#query")).to_be_hidden()
    assert visit.complaints == []

    leveled = Visit(browser, tree_address, "/?like=4-studio")
    expect(leveled.page.locator("#levels li")).to_have_count(3)  # they are of the picture, so that is what is sent
    sent = searches(leveled.page)
    leveled.page.locator("#levels input").first.fill("1")
    expect(leveled.page.get_by_role("button", name="Reset")).to_be_visible()
    expect(leveled.page.locator("body")).not_to_have_class(re.compile("busy"))
    expect(leveled.page.locator("#mix")).to_be_hidden()  # this model reads no words
    assert leveled.complaints == []
    leveled.close()


def test_partial_search_is_reported(browser):
    from playwright.sync_api import expect

    class Halved(FakeSearcher):
        state = FakeState(shard_count=2)

    answers = Prediction("h1", {"embedding": np.array([1, 0], np.float32)})
    with served(fake_app(FakeModel(answers), Halved())) as address:
        visit = Visit(browser, address)
        choose(visit.page, "query.png", "image/png", drawing(5))
        expect(visit.page.locator("#sub")).to_contain_text("Only 1 of 2 parts of the catalogue could be searched")
        visit.close()


def test_busy_service_is_reported_and_retried(browser):
    from playwright.sync_api import expect

    answers = Prediction("h1", {"embedding": np.array([1, 0], np.float32)})
    model = FakeModel(answers)
    with served(fake_app(model)) as address:
        visit = Visit(browser, address)
        model.outcome = too_many_requests("64 queries are being answered")
        choose(visit.page, "query.png", "image/png", drawing(5))
        expect(visit.page.get_by_role("alert")).to_contain_text("The service is busy.")
        expect(visit.page.get_by_role("alert")).to_contain_text("try again in a second")
        model.outcome = answers
        choose(visit.page, "query.png", "image/png", drawing(5))
        expect(visit.page.locator("#hits li")).to_have_count(2)
        expect(visit.page.get_by_role("alert")).to_be_hidden()
        visit.close()


def test_phone_takes_a_picture(browser, address):
    from playwright.sync_api import expect

    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    visit = Visit(browser, address, **phone)
    expect(visit.page.get_by_text("take one")).to_be_visible()
    assert visit.page.get_attribute("#camera", "capture") == "environment"
    visit.page.set_input_files("#camera", [{"name": "photo.png", "mimeType": "image/png", "buffer": drawing(7)}])
    expect(visit.page.locator("#hits .score").first).to_have_text("1.00")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    visit.close()


@pytest.fixture
def editable(catalogue, tmp_path):
    """What a service needs for a copy of the catalogue that a test may change."""
    table = shutil.copytree(catalogue.config.table, tmp_path / "table.lance")
    index = shutil.copytree(catalogue.config.index, tmp_path / "index")
    return catalogue.config.model_copy(update={"table": str(table), "index": str(index), "writable": True})


@pytest.fixture
def editable_address(editable, catalogue):
    with served(local_app(editable, {SEARCH: catalogue.bundle})) as address:
        yield address


def test_edit_keeps_unchanged_fields(browser, editable_address, catalogue):
    from playwright.sync_api import expect

    name = catalogue.ids[1]  # it has attributes
    with httpx.Client(base_url=editable_address, trust_env=False) as client:
        before = client.get(f"/v1/items/{name}").json()["item"]
        visit = Visit(browser, editable_address, f"/?like={name}")
        page = visit.page
        page.get_by_role("button", name="Edit").click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_label("Title")).to_be_focused()
        expect(dialog.get_by_label("Id", exact=True)).to_be_hidden()
        expect(dialog.get_by_label("Category")).to_have_value(" › ".join(before["category"]))
        dialog.get_by_label("Title").fill("A / boot")
        dialog.get_by_label("Category").fill("Shoes > Boots")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status").filter(has_text="was changed")).to_have_text("“A / boot” was changed.")
        expect(dialog).to_be_hidden()
        expect(page.locator("#title")).to_have_text("More like A / boot")

        changed = {"title": "A / boot", "category": ["Shoes", "Boots"]}
        assert client.get(f"/v1/items/{name}").json()["item"] == {**before, **changed}
        assert client.get(f"/v1/items/{name}/image").content == catalogue.images[1]

        page.get_by_role("button", name="Edit").click()
        dialog.get_by_role("button", name="Save").click()
        expect(page.locator("#done")).to_contain_text("there was nothing to change")
        page.get_by_role("button", name="Edit").click()
        expect(dialog).to_be_visible()  # the item is read before it opens
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="Edit")).to_be_focused()
    assert visit.complaints == []
    assert visit.elsewhere == []
    visit.close()


@pytest.mark.parametrize("name", ["日本 ' \" \\ <b>", "100%25?&#=+;"])
def test_delete_needs_a_second_press(browser, editable_address, name):
    from playwright.sync_api import expect

    visit = Visit(browser, editable_address)
    page = visit.page
    page.goto(f"{editable_address}/?{httpx.QueryParams(like=name)}")
    page.get_by_role("button", name="Edit").click()
    remove = page.get_by_role("button", name="Delete")
    remove.click()
    expect(remove).to_have_text("Delete it for good")
    page.keyboard.press("Tab")
    expect(remove).to_have_text("Delete…")  # who goes on to something else did not mean it
    remove.click()
    remove.click()
    expect(page.locator("#done")).to_contain_text("was deleted")
    expect(page.locator("#title")).to_have_text("Similar to your picture")
    assert name not in [link.get_attribute("data-like") for link in page.locator("#hits a").all()]
    assert "like" not in url_query(page)
    assert visit.complaints == []
    visit.close()


def test_added_picture_is_found_at_once(browser, editable_address):
    from playwright.sync_api import expect

    visit = Visit(browser, editable_address)
    page = visit.page
    choose(page, "red boot.png", "image/png", drawing(700))
    page.get_by_role("button", name="Add this picture to the catalogue").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Id", exact=True)).to_have_value(re.compile("^red boot-[a-z0-9]+$"))
    expect(dialog.get_by_role("button", name="Delete")).to_be_hidden()
    dialog.get_by_label("Id", exact=True).fill("bare")
    dialog.get_by_label("Title").fill("Red boot")
    dialog.get_by_role("button", name="Add").click()
    expect(dialog.get_by_role("alert")).to_contain_text("There is an item bare already")
    dialog.get_by_label("Id", exact=True).fill("new/1 <b>")
    page.keyboard.press("Enter")
    expect(page.locator("#done")).to_have_text("“Red boot” is in the catalogue now.")
    expect(page.locator("#hits .name").first).to_have_text("Red boot")
    expect(page.locator("#hits .score").first).to_have_text("1.00")
    expect(page.locator("#hits img").first).not_to_have_js_property("naturalWidth", 0)
    expect(page.locator("#add")).to_be_hidden()  # once is enough
    assert all("404" in complaint for complaint in visit.complaints)  # the browser's own note that the id is free
    visit.close()


def test_rejected_edit_keeps_its_fields(browser, editable_address):
    from playwright.sync_api import expect

    visit = Visit(browser, editable_address, "/?like=bare")
    page = visit.page
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("dialog").get_by_label("Title").fill("Nothing to be found by")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("no content to embed")
    expect(page.get_by_role("dialog").get_by_label("Title")).to_have_value("Nothing to be found by")
    visit.close()


def test_read_only_service_hides_editing(browser, tree_address):
    from playwright.sync_api import expect

    visit = Visit(browser, tree_address)
    with visit.page.expect_response("**/v1/catalog"):
        visit.page.reload()
    choose(visit.page, "query.png", "image/png", drawing(5))
    expect(visit.page.locator("#hits li")).to_have_count(24)
    expect(visit.page.locator("#add")).to_be_hidden()
    visit.page.locator("#hits a").first.click()
    expect(visit.page.locator("#title")).to_have_text(re.compile("^More like"))
    expect(visit.page.locator("#edit")).to_be_hidden()
    visit.close()


def test_edit_with_read_key_asks_for_write_key(browser, editable, catalogue):
    from playwright.sync_api import expect

    keys = read_keys("", {"GALLERIA_READ_KEY": "reader", "GALLERIA_WRITE_KEY": "writer"})
    with served(local_app(editable, {SEARCH: catalogue.bundle}, keys)) as address:
        visit = Visit(browser, address, "/?like=5-studio")
        page = visit.page
        key = page.get_by_label("Key", exact=True)
        key.fill("reader")
        key.press("Enter")
        page.get_by_role("button", name="Edit").click()
        page.get_by_role("dialog").get_by_label("Title").fill("Renamed")
        page.keyboard.press("Enter")
        asking = page.get_by_role("dialog", name="Changing the catalogue asks for a key that may write")
        expect(asking).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("may only read")
        page.get_by_role("button", name="Save").click()
        key.fill("writer")
        key.press("Enter")
        expect(page.locator("#title")).to_have_text("More like Renamed")
        expect(page.locator("#done")).to_have_text("“Renamed” was changed.")
        visit.close()


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_refining_and_editing_fit_the_viewport(browser, editable_address, width):
    from playwright.sync_api import expect

    visit = Visit(
        browser,
        editable_address,
        "/?like=5-studio&in=things&words=red&share=0.3",
        viewport={"width": width, "height": 700},
    )
    page = visit.page
    expect(page.get_by_label("How much the words count")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    box = page.get_by_role("dialog").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    visit.close()
