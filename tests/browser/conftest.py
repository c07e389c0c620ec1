"""A headless Chromium for tests of pages; skipped where there is none, unless DCSURGERY_REQUIRE_BROWSER is set."""

from __future__ import annotations

import json
import os
import shutil

import pytest

PROGRAMS = {"browser": ("chromium", "chromium-browser", "google-chrome"), "driver": ("chromedriver",)}


def _missing(what):
    if os.environ.get("DCSURGERY_REQUIRE_BROWSER"):
        pytest.fail(f"{what} is missing, and DCSURGERY_REQUIRE_BROWSER asks for it")
    pytest.skip(f"{what} is not installed")


def _program(kind):
    found = next((path for name in PROGRAMS[kind] if (path := shutil.which(name))), None)
    return found or _missing(f"a {kind} ({', '.join(PROGRAMS[kind])})")


class Page:
    """One page in a browser that has no network."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path, fragment=""):
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(f"file://{path}{fragment}")
        self.wait("return document.documentElement.dataset.ready === 'true'")

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, script):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 20).until(lambda driver: driver.execute_script(script))

    def find(self, selector):
        from selenium.webdriver.common.by import By

        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector):
        from selenium.webdriver.common.by import By

        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    @property
    def labels(self):
        """What the boxes and frames of all panes say."""
        return self.run("return [...document.querySelectorAll('.pane svg [aria-label]')].map(e => e.ariaLabel)")

    @property
    def requests(self):
        """Every address that the page asked for, itself left out."""
        entries = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("file:", "about:"))]

    @property
    def complaints(self):
        """What the console says."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="session")
def driver():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _program("browser")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(_program("driver")))
    made.execute_cdp_cmd("Network.enable", {})
    made.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    yield made
    made.quit()


@pytest.fixture
def page(driver):
    return Page(driver)
