"""``python -m tests.screenshot DEMO FOLDER``: the demo's report and the live page as the README shows them.

Looks at what the demo left in one folder, in Chromium, and writes ``report.png``, of one pump, and ``page.png`` to the
other. For the page it replays the stream up to a moment at which two alerts fire, and looks at the sensor of one of
them. ``make demo`` first, then ``make screenshot``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import expect

from tests.browser import Chromium
from tests.servers.process import free_port
from tests.service import DEADLINE, environment

MOMENT, WORN = "2026-09-17T17:30", "pump-1"  # in the demo's plant of seed 0, of which one has a worn bearing


def take(demo: Path, out: Path) -> None:
    """Look at both."""
    with Chromium() as chromium:
        tab = chromium.look(1_000, 1_000)
        tab.page.goto((demo / "report.html").absolute().as_uri())
        tab.page.locator("section", has_text=WORN).first.screenshot(path=out / "report.png")
        tab.close()
        _replay(chromium, demo / "bundle", demo / "data" / "stream.csv", out / "page.png")


def _replay(chromium: Chromium, bundle: Path, stream: Path, picture: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data, port = Path(folder) / "stream.csv", free_port()
        header, *rows = stream.read_text().splitlines()
        at = header.split(",").index("timestamp")
        data.write_text("\n".join([header, *(row for row in rows if row.split(",")[at] < MOMENT)]) + "\n")
        command = [sys.executable, "-m", "stream_detector", "replay", str(data), "--bundle", str(bundle)]
        with subprocess.Popen(
            [*command, "--out", folder, "--serve"],
            env=environment(STREAM_DETECTOR__PAGE__PORT=str(port)),
            stdout=subprocess.PIPE,
            text=True,
        ) as replay:
            try:
                assert replay.stdout is not None
                assert any("the live page stays" in line for line in replay.stdout), "the replay failed"
                _look(chromium, f"http://127.0.0.1:{port}/", picture)
            finally:
                replay.terminate()


def _look(chromium: Chromium, address: str, picture: Path) -> None:
    tab = chromium.look(1280, 860)
    page = tab.page
    page.set_default_timeout(DEADLINE * 1_000)
    page.goto(address)
    page.locator(".alert", has_text="anomaly").first.click()
    filled = """() => { const d = document.querySelector("#charts .expected")?.getAttribute("d") ?? "";
        return d.split(/[ML]/).length > 300 }"""
    page.wait_for_function(filled)  # the model has been asked about all that is shown
    expect(page.locator("#state")).to_contain_text("the replay has ended")
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.screenshot(path=picture)
    tab.close()


if __name__ == "__main__":
    take(*map(Path, sys.argv[1:]))
