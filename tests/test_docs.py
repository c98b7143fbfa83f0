"""What the documents show is true: settings are accepted, code is the code, links lead somewhere."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from stream_detector.pipeline import Pipeline
from stream_detector.settings import load_settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
SAMPLES = [
    pytest.param(text, id=f"{path.stem}-{number}")
    for path in DOCUMENTS
    for number, text in enumerate(re.findall(r"```toml\n(.*?)```", path.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("text", SAMPLES)
def test_samples_of_settings_are_accepted(text: str, tmp_path: Path) -> None:
    for name in re.findall(r'_file = "([^"]+)"', text):  # secrets, where they stand on the reader's machine
        here = tmp_path / Path(name).name
        here.write_text("secret")
        text = text.replace(name, str(here))
    config = tmp_path / "detector.toml"
    config.write_text(text)
    load_settings(config)


def test_there_are_samples() -> None:
    assert len(SAMPLES) > 2


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_hot_path_is_shown_as_it_is() -> None:
    [shown] = re.findall(r"```python\n(batch = .*?)```", (ROOT / "ARCHITECTURE.md").read_text(), re.DOTALL)
    source = inspect.getsource(Pipeline.turn)
    assert [line.strip() for line in shown.splitlines()] == [
        line.strip() for line in source.splitlines()[2:] if line.strip()
    ]
