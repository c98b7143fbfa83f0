"""The documents as a site: it builds without a warning, needs no network, and what is generated is as the code is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docs.reference.__main__ import FOLDER, generate
from docs.reference.settings import meaning
from stream_detector.sections import Section
from stream_detector.settings import Settings, load_settings

if TYPE_CHECKING:
    from tests.browser import Chromium

ROOT = Path(__file__).parent.parent
LOADING = {"link": "href", "use": "href", "object": "data"}  # what loads by another attribute than src
SETTINGS = (FOLDER / "settings.md").read_text("utf-8")
KEYS = re.findall(r"^### `(.+)`\n\n.*\n\n(.*) · `(STREAM_DETECTOR__\w+)`$", SETTINGS, re.MULTILINE)
NAMED = {"groups": "pumps", "features": "flow", "webhooks": "ops"}


def build(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """As `make docs` does."""
    options = ["--quiet", "--fail-on-warning", "-b", "html", "-c", f"{root}/docs"]
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(root), str(out)], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert (done.returncode, done.stderr) == (0, "")
    return out


class Loads(HTMLParser):
    """Addresses that a page loads by itself; links that a reader may follow are none."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "srcset", LOADING.get(tag))]


def foreign(folder: Path) -> list[str]:
    """What pages and styles of a folder load from elsewhere or in vain."""
    found = []
    for page in folder.rglob("*.html"):
        for address in Loads(page.read_text("utf-8")).found:
            if (
                not address.startswith("#")
                and not (page.parent / address.partition("?")[0].partition("#")[0]).is_file()
            ):
                found.append(f"{page.name}: {address}")
    for style in folder.rglob("*.css"):
        for address in re.findall(r"(?:url\(|@import )['\"]?([^'\")]+)", style.read_text("utf-8")):
            if not address.startswith("data:") and not (style.parent / address.partition("?")[0]).is_file():
                found.append(f"{style.name}: {address}")
    return found


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = {page.relative_to(site) for page in site.rglob("*.html")}
    assert {Path("index.html"), Path("README.html"), Path("docs/index.html"), Path("docs/tutorial.html")} <= pages
    assert foreign(site) == []


def test_what_is_from_elsewhere_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<script src="https://cdn.example/a.js"></script><img src="gone.png">')
    (tmp_path / "b.html").write_text('<link rel="stylesheet" href="//fonts.example/b.css"><a href="https://c.example">')
    (tmp_path / "c.css").write_text('@import "https://d.example/d.css"; p { background: url(https://e.example/e.png) }')
    assert len(foreign(tmp_path)) == 5


def test_links_that_break_and_pages_that_are_not_listed_fail(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("conf.py", "site", "static"):
        source = ROOT / "docs" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / "docs" / name)
    (tmp_path / "docs" / "index.md").write_text("# Index\n\n## Pages\n\n- [a](page.md)\n")
    page = tmp_path / "docs" / "page.md"
    page.write_text("# Page\n\n[index](index.md#pages), [folder](site)\n")
    assert build(tmp_path, tmp_path / "good").returncode == 0
    page.write_text("# Page\n\n[no such page](gone.md), [no such heading](index.md#gone)\n")
    (tmp_path / "docs" / "other.md").write_text("# Other\n")
    done = build(tmp_path, tmp_path / "bad")
    assert done.returncode != 0
    for said in (
        "'gone.md'",
        "local id not found in doc 'docs/index': 'gone'",
        "other.md: WARNING: document isn't included in any toctree",
    ):
        assert said in done.stderr


def test_the_site_is_read_from_disk(site: Path, chromium: Chromium) -> None:
    tab = chromium.look(offline=True)
    try:
        tab.page.goto((site / "index.html").as_uri())
        tab.page.wait_for_url("**/docs/index.html")
        tab.page.get_by_role("link", name="Settings", exact=True).first.click()
        tab.page.wait_for_url("**/settings.html")
        tab.page.locator("input[name=q]").first.fill("cooldown")
        tab.page.keyboard.press("Enter")
        tab.page.get_by_role("link", name="Settings > alerts.cooldown").wait_for()
        assert tab.said == []
        assert all(address.startswith("file://") for address in tab.asked)
    finally:
        tab.close()


def test_no_page_is_wider_than_the_screen(site: Path, chromium: Chromium) -> None:
    tab = chromium.look(offline=True)
    try:
        for page in sorted({*site.rglob("*.html")} - {site / "index.html"}):  # which leads elsewhere
            tab.page.goto(page.as_uri())
            for width in (390, 1280):
                tab.page.set_viewport_size({"width": width, "height": 900})
                assert tab.page.evaluate("document.documentElement.scrollWidth") <= width, (page.name, width)
    finally:
        tab.close()


@pytest.mark.parametrize(("name", "text"), generate().items())
def test_the_reference_is_as_the_code_is(name: str, text: str) -> None:
    assert (FOLDER / name).read_text("utf-8") == text, "run `make reference`"


def test_every_setting_has_a_meaning() -> None:
    sections = set(Settings.model_fields)
    assert {key.partition(".")[0] for key, _, _ in KEYS} == sections
    assert len(KEYS) == SETTINGS.count("\n### ") > 100

    class Wordless(Section):
        key: int = 0

    with pytest.raises(LookupError, match=r"wordless\.key has no meaning"):
        meaning(Wordless, "wordless", "key")


def test_defaults_are_as_they_are_shown() -> None:
    """Written into a file they change nothing."""
    lines: dict[str, list[str]] = {}
    for key, facts, _ in KEYS:
        section, _, name = key.rpartition(".")
        if (default := re.search(r"default `(.*)`", facts)) and "NAME" not in section:
            lines.setdefault(section, []).append(f"{name} = {default[1]}")
    text = "\n".join(f"[{section}]\n" + "\n".join(keys) for section, keys in lines.items())
    assert len(tomllib.loads(text)) > 15
    assert Settings(**tomllib.loads(text)) == Settings()


def test_secrets_show_no_default() -> None:
    secrets = {key: facts for key, facts, _ in KEYS if "secret" in facts.split(" · ")[0]}
    assert {"redis.url", "redis.password", "kafka.sasl_plain_password", "webhooks.targets.NAME.url"} <= set(secrets)
    assert not any("`" in facts for facts in secrets.values())


def test_variables_are_as_they_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, facts, variable in KEYS:
        name = NAMED.get(key.partition(".")[0], "").upper()
        if default := re.search(r"default `(.*)`", facts):
            monkeypatch.setenv(variable.replace("__NAME__", f"__{name}__"), default[1].strip('"'))
    monkeypatch.setenv("STREAM_DETECTOR__GROUPS__PUMPS__SENSORS", "pump-*")
    monkeypatch.setenv("STREAM_DETECTOR__WEBHOOKS__TARGETS__OPS__URL", "https://hooks.example/T0")
    monkeypatch.setenv("STREAM_DETECTOR__WEBHOOKS__TARGETS__OPS__FORMAT", "slack")
    found = load_settings()
    assert found.groups["pumps"].sensors == "pump-*"
    assert found.features["flow"].direction == "both"
    assert found.webhooks.targets["ops"].format == "slack"
    given = {"groups", "features", "webhooks"}
    assert found.model_dump(exclude=given) == Settings.model_construct().model_dump(exclude=given)
