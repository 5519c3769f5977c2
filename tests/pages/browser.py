"""Chromium, without a window, on the pages of a server; what goes wrong on them is kept."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from playwright.sync_api import Browser, Page, sync_playwright

from tests.pages.server import Server

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str | None:
    """The browser's path: `CHROMIUM`, or the first of `NAMES` that is installed; None without one."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Window:
    """A page of the browser, and the `problems` that it met: console errors, failed answers, addresses elsewhere.

    A violation of the content security policy is a console error.
    """

    def __init__(self, page: Page, server: Server) -> None:
        self.page, self.server = page, server
        self.problems: list[str] = []
        page.on("console", lambda message: self._note(message.text, message.type in ("error", "warning")))
        page.on("pageerror", lambda error: self._note(str(error), True))
        page.on("response", lambda answer: self._note(f"{answer.status} {answer.url}", answer.status >= 400))
        page.on("request", lambda request: self._note(f"asks {request.url}", self._is_elsewhere(request.url)))

    def _is_elsewhere(self, url: str) -> bool:
        return not url.startswith((self.server.url, "data:", "blob:"))

    def _note(self, what: str, is_problem: bool) -> None:
        if is_problem:
            self.problems.append(f"{self.page.url}: {what}")

    def open(self, path: str) -> Page:
        self.page.goto(self.server.url + path)
        return self.page

    def sign_in(self) -> None:
        self.open("/admin/login/?next=/admin/")
        self.page.fill("#id_username", self.server.email)
        self.page.fill("#id_password", self.server.password)
        self.page.press("#id_password", "Enter")
        self.page.wait_for_url("**/admin/")

    def follow(self, selector: str) -> Page:
        """Click, and wait for the page that comes."""
        with self.page.expect_navigation():
            self.page.click(selector)
        return self.page

    def authorize(self) -> Page:
        """Open the API page and give it the access token, as a person does."""
        page = self.open("/api/docs")
        page.click(".btn.authorize")
        page.fill(".auth-container input", self.server.token)
        page.click(".auth-btn-wrapper .authorize")
        page.click(".auth-btn-wrapper .btn-done")
        return page

    def is_wider_than_the_window(self) -> bool:
        wider: bool = self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        return wider


@contextmanager
def running_browser() -> Iterator[Browser]:
    options: dict[str, Any] = {"executable_path": chromium(), "args": ARGUMENTS}
    with sync_playwright() as playwright, playwright.chromium.launch(**options) as browser:
        yield browser


@contextmanager
def window(
    browser: Browser,
    server: Server,
    width: int = 1280,
    height: int = 800,
    theme: Literal["light", "dark"] = "light",
) -> Iterator[Window]:
    """With cookies and a cache of its own."""
    with browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme) as context:
        yield Window(context.new_page(), server)
