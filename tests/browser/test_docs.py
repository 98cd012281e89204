"""Swagger UI at /docs, as a person uses it: open, authorize, try a chat completion, read the answer.

`UPDATE=1` writes the picture of it that the documentation shows.
"""

import json
import os
import pathlib

from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from harness import MODEL

PICTURE = pathlib.Path(__file__).parent.parent.parent / "docs" / "swagger-ui.png"
CHAT = "#operations-OpenAI-createChatCompletion"
QUESTION = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "reasoning_effort": "low",
    "temperature": 0,
}


class Page:
    """The page at /docs, and what the browser saw and sent for it."""

    def __init__(self, browser, server):
        self.browser, self.server, self.events = browser, server, []
        browser.get(f"{server.url}/docs")
        self.find(".opblock")

    def find(self, selector, timeout=30):
        """The first visible element."""

        def visible(browser):
            return next((e for e in browser.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()), None)

        return WebDriverWait(self.browser, timeout).until(visible, f"{selector} does not appear")

    def gone(self, selector, timeout=30):
        def absent(browser):
            return not browser.find_elements(By.CSS_SELECTOR, selector)

        WebDriverWait(self.browser, timeout).until(absent, f"{selector} stays")

    def click(self, selector):
        element = self.find(selector)
        # A sticky header must not lie over what is clicked.
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def authorize(self, token):
        self.click(".auth-wrapper .btn.authorize")
        self.find(".modal-ux input").send_keys(token)
        self.click(".modal-ux .auth-btn-wrapper .btn.authorize")
        self.find(".modal-ux .auth-btn-wrapper .btn:not(.btn-done)")  # Logout takes its place
        self.click(".modal-ux .btn-done")
        self.gone(".modal-ux")

    def try_chat(self, body):
        """Sends a chat completion from the page. Returns status and text of the answer as the page shows them."""
        if not self.browser.find_elements(By.CSS_SELECTOR, f"{CHAT} .opblock-body"):
            self.click(f"{CHAT} .opblock-summary-control")
            self.click(f"{CHAT} .try-out__btn")
        area = self.find(f"{CHAT} textarea.body-param__text")
        # Pasted rather than typed: the page draws itself anew after every input.
        paste = "arguments[0].focus(); arguments[0].select(); document.execCommand('insertText', false, arguments[1])"
        self.browser.execute_script(paste, area, json.dumps(body, indent=2))
        if self.browser.find_elements(By.CSS_SELECTOR, f"{CHAT} .live-responses-table"):
            self.click(f"{CHAT} .btn-clear")
            self.gone(f"{CHAT} .live-responses-table")
        self.click(f"{CHAT} .execute")
        row = self.find(f"{CHAT} .live-responses-table tr.response", timeout=120)
        status = row.find_element(By.CSS_SELECTOR, ".response-col_status").text.split()[0]
        return int(status), self.find(f"{CHAT} .live-responses-table .microlight, {CHAT} .live-responses-table pre code").text

    def requests(self):
        """Every request that the browser sent, so far."""
        self.events += [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [params["request"] for params in sent]

    def assert_clean(self, *expected):
        """Nothing was asked of another host, and the console holds no errors but these: no file missing, nothing blocked."""
        urls = [request["url"] for request in self.requests()]
        assert len(urls) > 5, urls
        foreign = [url for url in urls if not url.startswith((f"{self.server.url}/", "data:"))]
        assert not foreign, foreign
        console = [entry for entry in self.browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        assert len(console) == len(expected), console
        for entry, words in zip(console, expected, strict=True):
            assert words in entry["message"], entry


def test_a_person_tries_a_chat_completion(browser, server):
    page = Page(browser, server)
    assert browser.current_url == f"{server.url}/docs/"
    assert page.find(".information-container .title").text.startswith("Gossamer")

    status, text = page.try_chat(QUESTION)
    assert status == 401, text
    assert json.loads(text)["error"]["code"] == "invalid_api_key"

    page.authorize(server.key)
    status, text = page.try_chat(QUESTION)
    assert status == 200, text
    answer = json.loads(text)
    assert answer["object"] == "chat.completion"
    assert "Paris" in answer["choices"][0]["message"]["content"], answer

    sent = [request for request in page.requests() if request["method"] == "POST"]
    assert [request["url"] for request in sent] == [f"{server.url}/v1/chat/completions"] * 2
    credentials = [request["headers"].get("Authorization") for request in sent]
    assert credentials == [None, f"Bearer {server.key}"]
    page.assert_clean("401 (Unauthorized)")
    if os.environ.get("UPDATE") == "1":
        picture(page)


def test_a_stream_is_shown_as_its_events(browser, server):
    page = Page(browser, server)
    page.authorize(server.key)
    status, text = page.try_chat({**QUESTION, "stream": True})
    assert status == 200, text
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    assert "Paris" in "".join(delta.get("content") or "" for delta in deltas)
    page.assert_clean()


def test_every_operation_can_be_opened(browser, server):
    page = Page(browser, server)
    blocks = browser.find_elements(By.CSS_SELECTOR, ".opblock")
    document = json.loads(server.get("/openapi.json").text)
    assert len(blocks) == sum(len(item) for item in document["paths"].values())
    for block in blocks:
        control = block.find_element(By.CSS_SELECTOR, ".opblock-summary-control")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", control)
        control.click()
        WebDriverWait(browser, 30).until(lambda _: block.find_elements(By.CSS_SELECTOR, ".responses-table"))
        assert not block.find_elements(By.CSS_SELECTOR, ".errors-wrapper")
        # Left open, every one makes the next slower to draw.
        control.click()
    page.assert_clean()


def picture(page):
    """The operation with its request and its answer, in one picture."""
    page.browser.set_window_size(1280, 1900)
    # The command line on the page has the key in it; so would the picture.
    hide = "document.querySelectorAll('.curl-command').forEach(element => element.remove())"
    page.browser.execute_script(hide)
    page.browser.execute_script("arguments[0].scrollIntoView({block: 'start'})", page.find(CHAT))
    PICTURE.write_bytes(page.browser.get_screenshot_as_png())
