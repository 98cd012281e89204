"""A server, and a headless Chromium that can reach nothing else.

Chromium and its driver are Debian's (`chromium`, `chromium-driver`); nothing is downloaded. Without them the tests fail:
a page that nobody opened is not tested.
"""

import os
import pathlib
import shutil
import sys

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "e2e"))

from harness import Server, gossamer  # noqa: E402


def installed(variable, *names):
    for name in (os.environ.get(variable), *names):
        path = name and shutil.which(name)
        if path:
            return path
    raise AssertionError(f"none of {names} found: install chromium and chromium-driver, or set {variable}")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """With authentication on, and the page and its document open, as `docs/api.md` advises."""
    keys = str(tmp_path_factory.mktemp("keys") / "keys.json")
    scopes = "inference,models,status,docs"
    made = gossamer("keys", "create", "--key-file", keys, "--name", "browser", "--scopes", scopes)
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    with Server("--date", "2026-01-01", "--key-file", keys, "--anonymous-scopes", "docs", key=key) as server:
        yield server
        assert server.stop() == 0, server.log()


@pytest.fixture
def browser():
    options = Options()
    options.binary_location = installed("CHROMIUM", "chromium", "chromium-browser")
    for flag in (
        "--headless=new",
        # Tests run as root in containers, where Chromium's sandbox cannot start.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        # Whatever the page asks of another host fails; that it asks at all is seen in the log of requests.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--window-size=1280,1400",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(installed("CHROMEDRIVER", "chromedriver")))
    try:
        driver.set_page_load_timeout(60)
        yield driver
    finally:
        driver.quit()
