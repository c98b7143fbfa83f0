"""Settings of webhooks: what is refused, and that nothing secret is in the refusal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from stream_detector.errors import SettingsError
from stream_detector.settings import Settings, load_settings
from stream_detector.targets import PAGERDUTY

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
GOOD: dict[str, Any] = {"url": "https://hooks.example/T0/geheim", "secrets": [SECRET]}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("STREAM_DETECTOR__"):
            monkeypatch.delenv(name)


def load(tmp_path: Path, text: str) -> Settings:
    config = tmp_path / "detector.toml"
    config.write_text(text)
    return load_settings(config)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(SettingsError) as told:
        load(tmp_path, text)
    message = str(told.value)
    assert "\n" not in message
    assert "geheim" not in message
    assert "MfKQ9" not in message
    return message


def target(**changes: str) -> str:
    """TOML of a target with these keys, values as TOML writes them; an empty value leaves a key out."""
    given = {"url": '"https://hooks.example/T0/geheim"', "secrets": f'["{SECRET}"]', **changes}
    return "[webhooks.targets.ops]\n" + "\n".join(f"{key} = {value}" for key, value in given.items() if value)


def test_a_target_and_its_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path, target())
    [(name, one)] = settings.webhooks.targets.items()
    assert (name, one.format, one.timeout, one.send_resolved) == ("ops", "json", 15_000, True)
    assert "geheim" not in repr(settings)
    assert "MfKQ9" not in repr(settings)
    assert settings.webhooks.retries[0] == 5_000
    assert settings.webhooks.group_id == "stream-detector-webhooks"
    assert settings.webhooks.metrics_port != settings.metrics.port


def test_secrets_from_files_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secrets").write_text(f"{SECRET}\n{SECRET[:-1]}x\n")
    (tmp_path / "headers").write_text("X-Key: geheim\n\nX-Other:  a: b \n")
    (tmp_path / "token").write_text("t0ken\n")
    files = {f"{key}_file": f'"{tmp_path / name}"' for key, name in
             (("secrets", "secrets"), ("headers", "headers"), ("bearer_token", "token"))}  # fmt: skip
    one = load(tmp_path, target(secrets="", **files)).webhooks.targets["ops"]
    assert [secret.get_secret_value() for secret in one.secrets] == [SECRET, f"{SECRET[:-1]}x"]
    assert {name: value.get_secret_value() for name, value in one.headers.items()} == {
        "X-Key": "geheim",
        "X-Other": "a: b",
    }
    assert one.bearer_token is not None
    assert one.bearer_token.get_secret_value() == "t0ken"
    monkeypatch.setenv("STREAM_DETECTOR__WEBHOOKS__TARGETS__PAGER__FORMAT", "pagerduty")
    monkeypatch.setenv("STREAM_DETECTOR__WEBHOOKS__TARGETS__PAGER__ROUTING_KEY", "geheim")
    pager = load_settings().webhooks.targets["pager"]
    assert pager.address == PAGERDUTY


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (target(colour="1"), "webhooks.targets.ops.colour: unknown setting; use one of: url, format"),
        (target(format='"xml"'), "webhooks.targets.ops.format"),
        (target(url=""), "webhooks.targets.ops: url is missing"),
        (target(url='"hooks.example/geheim"'), "must begin with https://"),
        (target(url='"ftp://hooks.example/geheim"'), "must begin with https://"),
        (target(url='"http://hooks.example/geheim"'), "webhooks.allow_internal"),
        (target(url='"https://u:geheim@hooks.example/"'), "must not hold a user or a password"),
        (target(url='"https://hooks.example:99999/geheim"'), "not a valid URL"),
        (target(url='"https://hooks.example/geheim#x"'), "fragment"),
        (target(url='"https://169.254.169.254/geheim"'), "internal address"),
        (target(url='"https://[::1]/geheim"'), "internal address"),
        (target(secrets=""), "needs secrets"),
        (target(secrets='["geheim"]'), "whsec_"),
        (target(secrets='["whsec_geheim"]'), "24 to 64 random bytes"),
        (target(secrets='["whsec_***"]'), "24 to 64 random bytes"),
        (target(secrets="true"), "webhooks.targets.ops.secrets: give a value"),
        (target(secrets_file='"/nowhere"'), "give secrets or secrets_file, not both"),
        (target(secrets="", secrets_file='"/nowhere"'), "secrets_file: cannot read the file"),
        (target(headers='{Host = "geheim"}'), "set by the detector itself"),
        (target(headers='{Webhook-Id = "geheim"}'), "set by the detector itself"),
        (target(headers='{X = "geheim\\r\\nY: 1"}'), "HTTP does not allow"),
        (target(headers='"geheim"'), "one header a line"),
        (target(bearer_token='"gehe im"'), "without spaces"),
        (target(bearer_token='"geheim"', headers='{authorization = "geheim"}'), "not both"),
        (target(routing_key='"geheim"'), "need each other"),
        (target(format='"pagerduty"', url="", secrets=""), "need each other"),
        (target(format='"template"'), "template or template_file"),
        (target(template='"{}"'), "template or template_file"),
        (target(format='"slack"', picture="true"), "picture does nothing"),
        (target(severities="[]"), "webhooks.targets.ops.severities"),
        (target(severities='["huge"]'), "webhooks.targets.ops.severities"),
        (target(sensors="[]"), "webhooks.targets.ops.sensors"),
        (target(timeout='"1h"'), '"100ms" to "2m"'),
        (target(concurrency="0"), "webhooks.targets.ops.concurrency"),
        ("[webhooks.targets]\nops = 1", "webhooks.targets.ops: a section, not a value; write [webhooks.targets.ops]"),
        ('[webhooks.targets."a.b"]\nurl = "https://x.example/geheim"\nformat = "slack"', "a name holds letters"),
        ('[webhooks]\nallow_internal = ["10.0.0.0/99"]', "webhooks.allow_internal"),
        ('[webhooks]\nallow_internal = ["http://x"]', "webhooks.allow_internal"),
        ('[webhooks]\nretries = ["0s"]', "webhooks.retries"),
        ('[webhooks]\nretries = ["soon"]', "webhooks.retries"),
        ("[webhooks]\njitter = inf", "webhooks.jitter"),
        ('[webhooks]\ngroup = "x"', "webhooks.group: unknown setting"),
        ('[topics]\nwebhook_dead_letters = "sensor-alerts"', "given twice"),
    ],
)
def test_one_line_says_what_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    assert told in refusal(tmp_path, text)


def test_internal_addresses_are_for_those_who_name_them(tmp_path: Path) -> None:
    for allowed in ("10.0.0.5", "10.0.0.0/8"):
        settings = load(tmp_path, f'[webhooks]\nallow_internal = ["{allowed}"]\n' + target(url='"http://10.0.0.5/"'))
        webhooks = settings.webhooks
        assert webhooks.allows("10.0.0.5", "10.0.0.5")
        assert not webhooks.allows("11.0.0.5", "11.0.0.5")
        assert not webhooks.allows("x", "::1")
    webhooks = load(tmp_path, '[webhooks]\nallow_internal = ["Alerts.Internal"]').webhooks
    assert webhooks.allows("alerts.INTERNAL", "10.0.0.5")
