"""What the documents show is true: settings are accepted, code is the code, links lead somewhere."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from stream_detector import cli
from stream_detector.adapters.webhook.request import HttpPost
from stream_detector.events import Partition
from stream_detector.pipeline import Pipeline
from stream_detector.settings import load_settings
from stream_detector.targets import Webhooks
from stream_detector.webhooks.backlog import Entry
from tests.alerts import alert
from tests.receiver import SECRET, Receiver
from training import events, traffic
from training.autoencoders import FAMILY, WRAPPERS
from training.options import TrainOptions, check_options

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
SAMPLES = [
    pytest.param(text, id=f"{path.stem}-{number}")
    for path in DOCUMENTS
    for number, text in enumerate(re.findall(r"```toml\n(.*?)```", path.read_text(), re.DOTALL))
]
SECRETS = {"secrets": SECRET, "url": "https://hooks.example/T0"}  # where not any text will do


@pytest.mark.parametrize("text", SAMPLES)
def test_samples_of_settings_are_accepted(text: str, tmp_path: Path) -> None:
    for key, name in re.findall(r'(\w+)_file = "([^"]+)"', text):  # secrets, where they stand on the reader's machine
        here = tmp_path / Path(name).name
        here.write_text(SECRETS.get(key, "secret"))
        text = text.replace(name, str(here))
    config = tmp_path / "detector.toml"
    config.write_text(text)
    webhooks = load_settings(config).webhooks
    for name, target in webhooks.targets.items():
        HttpPost(name, target, webhooks).prepare()


def test_receivers_verify_webhooks_as_shown() -> None:
    [shown] = re.findall(r"<!-- verifies -->\n```python\n(.*?)```", (ROOT / "docs/webhooks.md").read_text(), re.DOTALL)
    with Receiver() as receiver:
        url = {"url": receiver.url, "secrets": [SECRET]}
        settings = Webhooks.model_validate({"allow_internal": ["127.0.0.1"], "targets": {"ops": url}})
        post = HttpPost("ops", settings.targets["ops"], settings)
        post.prepare()
        post(Entry(Partition("sensor-alerts", 0), 0, None, None, alert(), 0.0, 0.0))
        [request] = receiver.requests
    for body, status in ((request.body, 204), (request.body + b" ", 401)):
        names: dict[str, Any] = {"secret": SECRET, "body": body, "headers": request.headers}
        exec(shown, names)  # noqa: S102 - our own document
        assert names["status"] == status
        assert status == 401 or names["told"].startswith("pump-a is firing: ")


MODELS = (ROOT / "docs" / "models.md").read_text("utf-8")
COMMANDS = [line for text in re.findall(r"```bash\n(.*?)```", MODELS, re.DOTALL) for line in text.splitlines()]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_about_models_make_sense(line: str) -> None:
    program, name, *arguments = shlex.split(line)
    if program == "python":
        module, *arguments = arguments
        text = inspect.getsource({"training.events": events, "training.traffic": traffic}[module])
        assert name == "-m"
        assert all(f'"{part}"' in text for part in arguments if part.startswith("--"))
        return
    assert program == "stream-detector"
    command = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined] # it is a group
    given = command.make_context(name, arguments).params
    if name == "train":
        units = given["units"]
        options = TrainOptions(
            kind=given["model"],
            length=given["window"] or TrainOptions().length,
            stride=given["stride"],
            units=None if units is None else tuple(int(size) for size in units.split(",")),
            stop_gradient=given["stop_gradient"],
            epochs=given["epochs"],
            label=given["label"],
            fine_tune=given["fine_tune"],
            head=given["head"],
        )
        check_options(options)


def test_every_model_and_wrapper_is_described_with_what_it_defaults_to() -> None:
    described, _, measured = MODELS.partition("## Measured quality")
    for name, kind in FAMILY.items():
        assert f"\n| `{name}` |" in measured
        [row] = re.findall(rf"^\| `{name}`.*$", described, re.MULTILINE)
        assert f"| {','.join(map(str, kind.units))} |" in row
        assert f"| {'standardised' if kind.scaling == 'standard' else '0..1'} | {kind.shortest} |" in row
        assert any(f"--model {name}" in line for line in COMMANDS) or name == "lstm"
    for name in WRAPPERS:
        assert re.search(rf"^\| `{name}` \|", MODELS, re.MULTILINE)


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
