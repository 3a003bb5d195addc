"""The search page in a real browser."""

import re
import shutil

import pytest

from tests.drawings import drawing

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
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._request)
        self.address = address
        self.page.goto(address + path)

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
    expect(page.locator("#origin")).to_contain_text("catalogue version 1")
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
