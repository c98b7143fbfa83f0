"""The live page as somebody sees it: in a real Chromium, over a real port."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from stream_detector.adapters.page import Listener, LivePage
from tests.browser import Chromium, Tab
from tests.fuzz.messages import HOSTILE_IDS
from tests.pages import access, alert, feed, live_page
from tests.servers.process import free_port

PATIENCE = 30_000  # ms, on a busy machine
expect.set_options(timeout=PATIENCE)


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def opened(listener: Listener) -> Iterator[Callable[..., str]]:
    """Opens pages; the address of each."""
    pages: list[LivePage] = []

    def open_(port: int = 0, **more: Any) -> str:
        pages.append(live_page(listener, **more))
        return pages[-1].open(access(port))

    open_.pages = pages  # type: ignore[attr-defined] # for the test that closes one
    yield open_
    for page in pages:
        page.close()


@pytest.fixture
def look(chromium: Chromium) -> Iterator[Callable[..., Tab]]:
    tabs: list[Tab] = []

    def look_(address: str, **options: Any) -> Tab:
        tab = chromium.look(**options)
        tab.page.set_default_timeout(PATIENCE)
        tabs.append(tab)
        tab.page.goto(address)
        return tab

    yield look_
    for tab in tabs:
        tab.close()


def test_it_shows_the_fleet_and_what_fires_as_it_happens(
    listener: Listener, opened: Callable[..., str], look: Callable[..., Tab]
) -> None:
    feed(listener, "pump-1", [0.2] * 8)
    address = opened()
    tab = look(address)
    page = tab.page
    expect(page.locator("#state")).to_have_text("ready: all answer")
    expect(page.locator("#figures")).to_contain_text("pumps 7")
    expect(page.locator(".tile")).to_have_text(["pump-10.2"])
    expect(page.locator("#alerts-note")).to_have_text("None.")
    feed(listener, "pump-2", [0.5, 3.0], alerts=[alert("pump-2")])
    expect(page.locator("#alerts li")).to_have_count(1)
    expect(page.locator("#alerts li")).to_contain_text("pump-2: flow 3 where 2 was expected")
    expect(page.locator(".tile")).to_have_text(["pump-23 major", "pump-10.2"])
    expect(page).to_have_title("(1) stream-detector")
    feed(listener, "pump-2", [0.1], since=2, alerts=[alert("pump-2", status="resolved")])
    expect(page.locator("#alerts li")).to_have_count(0)
    expect(page.locator(".tile")).to_have_text(["pump-10.2", "pump-20.1"])
    home = urlsplit(address).netloc
    assert {urlsplit(url).netloc for url in tab.asked} == {home}  # nothing from elsewhere
    assert tab.said == []


def test_a_sensor_is_chosen_by_keyboard_and_seen_beside_what_the_model_expects(
    listener: Listener, opened: Callable[..., str], look: Callable[..., Tab]
) -> None:
    feed(listener, "pump-1", [0.2] * 20 + [4.0] * 4, alerts=[alert("pump-1")])
    tab = look(opened())
    page = tab.page
    page.locator(".tile").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#sensor-title")).to_have_text("pump-1")
    expect(page.locator("#charts svg")).to_have_count(3)  # the score and two features
    drawn = page.locator("#charts .expected").first
    expect(drawn).to_have_attribute("d", re.compile(r"^M.*L"))
    expect(page.locator("#charts .value").first).to_have_attribute("d", re.compile(r"^M.*L"))
    assert page.locator("#charts .limit").count() == 1
    expect(page.locator("#charts .span title").first).to_have_text("pump-1: flow 3 where 2 was expected")
    expect(page.locator("#shares .share").first).to_contain_text("flow")
    expect(page.locator("#shares .share .part").first).to_have_text("100 %")
    before = page.locator("#charts .line").get_attribute("d")
    assert before is not None
    feed(listener, "pump-1", [0.2] * 9, since=24)
    expect(page.locator("#charts .line")).not_to_have_attribute("d", before)
    assert page.evaluate("document.activeElement.className").startswith("tile")  # redrawn under the keyboard
    page.keyboard.press("Escape")
    expect(page.locator("#sensor")).to_be_hidden()
    page.fill("#wanted", "nobody")
    page.keyboard.press("Enter")
    expect(page.locator("#sensor-note")).to_contain_text("Nothing was heard of it")
    assert tab.said == []


def test_hostile_names_are_text_and_nothing_runs(
    listener: Listener, opened: Callable[..., str], look: Callable[..., Tab]
) -> None:
    long = '"><svg/onload=alert(2)>' * 450  # ten thousand characters
    evil = "<img src=http://192.0.2.1/x onerror=alert(3)>"
    names = [*HOSTILE_IDS[:40], long]
    for number, name in enumerate(names):
        feed(listener, name, [2.0 + number], alerts=[alert(name, id_=str(number))])
    tab = look(opened(features=(evil, "pressure"), state=lambda: (True, evil)), width=400)
    page = tab.page
    expect(page.locator(".tile")).to_have_count(len(names))
    expect(page.locator("#state")).to_have_text(f"ready: {evil}")
    labels = page.locator(".tile .name").all_text_contents()
    assert "<script>alert(1)</script>" in labels
    assert "\\x202egnp.exe" in labels  # what turns text round is shown, not obeyed
    assert "a\\x0d\\x0ab" in labels
    assert all(label.isprintable() for label in labels)
    page.locator(".tile").first.click()  # the long one is worst
    expect(page.locator("#sensor-title")).to_have_text(long[:200] + "…")
    expect(page.locator("#charts .title").nth(1)).to_have_text(evil)
    page.locator(".tile", has_text="<script>").click()
    expect(page.locator("#sensor-title")).to_have_text("<script>alert(1)</script>")
    expect(page.locator("#shares .share").first).to_contain_text(evil)
    assert page.locator("main img, main script, main iframe, svg svg").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    refused = page.evaluate(
        """() => { try { document.body.innerHTML = "<b>x</b>"; return "" } catch (e) { return e.name } }"""
    )
    assert refused == "TypeError"  # the policy asks for trusted types and trusts none
    assert tab.dialogs == []
    assert [line for line in tab.said if "TrustedHTML" not in line] == []
    home = urlsplit(page.url).netloc
    assert {urlsplit(url).netloc for url in tab.asked} == {home}


def test_it_says_that_the_stream_ended_and_finds_it_again(
    listener: Listener, opened: Any, look: Callable[..., Tab]
) -> None:
    port = free_port()
    feed(listener, "pump-1", [0.2] * 8)
    tab = look(f"{opened(port)}#sensor=pump-1")
    page = tab.page
    expect(page.locator("#sensor-title")).to_have_text("pump-1")
    opened.pages[0].close()
    expect(page.locator("#state")).to_have_text("disconnected, trying again …")
    assert page.locator("#state").get_attribute("class") == "state lost"
    feed(listener, "pump-1", [5.0] * 8, since=100)
    opened(port)
    expect(page.locator("#state")).to_have_text("ready: all answer")
    expect(page.locator(".tile")).to_have_text(["pump-15"])
    expect(page.locator("#sensor-title")).to_have_text("pump-1")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_the_eyes(
    scheme: str, listener: Listener, opened: Callable[..., str], look: Callable[..., Tab]
) -> None:
    for number in range(30):
        feed(listener, f"a-sensor-with-a-rather-long-name-{number}", [0.1 * number] * 30)
    address = f"{opened()}#sensor=a-sensor-with-a-rather-long-name-9"
    page = look(address, width=400, height=800, color_scheme=scheme).page
    expect(page.locator("#charts svg")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    ink, ground = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    bright = {name: sum(map(int, re.findall(r"\d+", text)[:3])) for name, text in (("ink", ink), ("ground", ground))}
    assert (bright["ink"] > bright["ground"]) == (scheme == "dark")
    assert abs(bright["ink"] - bright["ground"]) > 400


def test_who_comes_too_many_is_told_to_wait(listener: Listener, opened: Any, look: Callable[..., Tab]) -> None:
    feed(listener, "pump-1", [0.2] * 8)
    address = opened()
    place = urlsplit(address)
    others = [socket.create_connection((place.hostname, place.port)) for _ in range(opened.pages[0].viewers.most)]
    for other in others:
        other.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for other in others:
        other.recv(1)  # its stream is open
    page = look(address).page
    expect(page.locator("#state")).to_have_text("disconnected, trying again …")
    for other in others:
        other.close()
    expect(page.locator("#state")).to_have_text("ready: all answer")
