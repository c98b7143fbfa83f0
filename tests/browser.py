"""The machine's own Chromium, driven by Playwright; nothing is downloaded."""

from __future__ import annotations

import os
import shutil
from types import TracebackType
from typing import Any, Self

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Chromium:
    """A running browser; `look` opens a tab that notes whatever it should not do."""

    def __init__(self) -> None:
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None

    def __enter__(self) -> Self:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        if found is None:
            raise RuntimeError("no Chromium on PATH: the live page is tested in a real one; apt-get install chromium")
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(
            executable_path=found,
            # As root, as in most containers, Chromium's own sandbox is not to be had.
            args=["--disable-gpu", "--disable-dev-shm-usage", *(["--no-sandbox"] if root else [])],
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._browser is not None:
            self._browser.close()
        if self._playwright is not None:
            self._playwright.stop()

    def look(self, width: int = 1280, height: int = 900, **options: Any) -> Tab:
        """A tab of its own."""
        assert self._browser is not None, "not started"
        return Tab(self._browser.new_context(viewport={"width": width, "height": height}, **options))


class Tab:
    """A page with notes of what it logged, asked for, and opened."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.page: Page = context.new_page()
        self.said: list[str] = []  # warnings and errors of the console, such as violations of the policy
        self.asked: list[str] = []  # addresses
        self.dialogs: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.said.append(f"uncaught: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("dialog", self._dialog)

    def close(self) -> None:
        self.context.close()

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("warning", "error"):
            self.said.append(message.text)

    def _dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()
