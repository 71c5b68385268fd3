"""A real browser, Debian's chromium, that opens pages from the disk and is started by the tests that need one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WHY_NOT = (
    ""
    if shutil.which("chromium") and shutil.which("chromedriver")
    else "chromium and chromedriver are not installed: make browser, or apt-get install chromium chromium-driver"
)

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # containers allow none to root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # whatever would be fetched is an error in the console
)


class Browser:
    """A page in the browser."""

    def __init__(self, driver) -> None:
        self.driver = driver

    def open(self, page: Path) -> None:
        """Opens a page from the disk; what was logged before is forgotten."""
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(page.resolve().as_uri())

    @property
    def errors(self) -> list[str]:
        """What is in the console."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    @property
    def requests(self) -> list[str]:
        """The addresses that were asked for, but those of data in the page itself."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]

    def all(self, selector: str) -> list:
        """Elements by a CSS selector."""
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        """The texts of elements, also where they are not in view."""
        return [element.get_property("textContent").strip() for element in self.all(selector)]

    def click(self, selector: str) -> None:
        """Clicks on the first such element."""
        self.driver.execute_script("arguments[0].click()", self.all(selector)[0])

    def load_pictures(self) -> None:
        """Waits until all pictures are decoded, also those that are not in view."""
        self.driver.execute_async_script(
            "document.querySelectorAll('img').forEach(i => i.loading = 'eager');"
            "Promise.all([...document.querySelectorAll('.strip img')].map(i => i.decode())).then(arguments[0])"
        )

    def emulate(self, command: str, **settings: object) -> None:
        """A command of the browser's own protocol."""
        self.driver.execute_cdp_cmd(command, settings)


@contextmanager
def started(size: tuple[int, int] = (1100, 900)) -> Iterator[Browser]:
    """A browser that ends with the block."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for option in (*_OPTIONS, f"--window-size={size[0]},{size[1]}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    os.environ["SE_OFFLINE"] = "true"
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
