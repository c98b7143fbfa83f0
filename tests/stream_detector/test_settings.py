"""Settings: what wins over what, what is refused and how it is said, and that secrets stay secret."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.errors import SettingsError
from stream_detector.settings import Settings, duration, load_settings, worker_environment

SECRET = "hunter2-secret"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("STREAM_DETECTOR__"):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def refusal(config: Path, text: str) -> str:
    """The one line with which these settings are refused."""
    config.write_text(text)
    return refused(config)


def refused(config: Path | None = None) -> str:
    with pytest.raises(SettingsError) as told:
        load_settings(config)
    assert "\n" not in str(told.value)
    assert SECRET not in str(told.value) + repr(told.value)
    return str(told.value)


def test_without_any_there_are_defaults() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert settings.topics.events == "sensor-events"
    assert settings.publish.scores == "all"
    assert settings.delivery.mode == "exactly_once"


def test_the_environment_wins_over_the_file_key_by_key(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('[window]\nlength = 32\nstride = 4\n\n[publish]\nscores = "none"\n')
    monkeypatch.setenv("STREAM_DETECTOR__WINDOW__LENGTH", "16")
    monkeypatch.setenv("stream_detector__metrics__port", "9999")
    settings = load_settings(config)
    assert (settings.window.length, settings.window.stride) == (16, 4)
    assert settings.publish.scores == "none"
    assert settings.metrics.port == 9999


def test_every_key_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {
        "COLUMNS__IGNORED": '["a", "b"]',
        "WINDOW__MAX_GAP": "5m",
        "WINDOW__GRACE": "0.25",
        "BUNDLE__PATH": "/models/pumps",
        "ALERTS__MAJOR": "1.5",
        "KAFKA__BOOTSTRAP_SERVERS": "one:9092,two:9092",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"STREAM_DETECTOR__{name}", value)
    settings = load_settings()
    assert settings.columns.ignored == ["a", "b"]
    assert (settings.window.max_gap, settings.window.grace) == (300_000, 250)
    assert settings.bundle.path == "/models/pumps"
    assert settings.alerts.major == 1.5
    assert settings.kafka.client()["bootstrap_servers"] == "one:9092,two:9092"


def test_kafkas_own_names_pass_through(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('[kafka]\nsession_timeout_ms = 6000\nsecurity_protocol = "SASL_SSL"\n')
    monkeypatch.setenv("STREAM_DETECTOR__KAFKA__SASL_PLAIN_USERNAME", "plant")
    monkeypatch.setenv("STREAM_DETECTOR__KAFKA__SASL_PLAIN_PASSWORD", SECRET)
    client = load_settings(config).kafka.client()
    assert client["session_timeout_ms"] == 6000
    assert client["security_protocol"] == "SASL_SSL"
    assert (client["sasl_plain_username"], client["sasl_plain_password"]) == ("plant", SECRET)
    assert "group_instance_id" not in client
    assert "ssl_password" not in client


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[window]\nlenght = 16", ["window.lenght", "unknown", "length"]),
        ("[windows]\nlength = 16", ["windows", "unknown", "window,"]),
        ("length = 16", ["length", "unknown"]),
        ("[window]\nlength = 0", ["window.length", "1", "got 0"]),
        ('[window]\nlength = "long"', ["window.length", "integer", "got 'long'"]),
        ("[window]\nlength = true", ["window.length", "True"]),
        ("[device]\nmax_batch_windows = true", ["device.max_batch_windows", "True"]),
        ("[window]\ngrace = true", ["window.grace", "True"]),
        ('[window]\ngrace = "soon"', ["window.grace", '"5m"', "got 'soon'"]),
        ('[window]\ngrace = "-5m"', ["window.grace", '"5m"', "got '-5m'"]),
        ("[window]\ngrace = inf", ["window.grace", '"5m"', "got inf"]),
        ("[window]\ngrace = nan", ["window.grace", '"5m"', "got nan"]),
        ('[window]\nttl = "inf"', ["window.ttl", '"5m"', "got 'inf'"]),
        ('[window]\nttl = "1e300d"', ["window.ttl", '"5m"', "got '1e300d'"]),
        ('[window]\nttl = "40000d"', ["window.ttl", "century", "got '40000d'"]),
        ('[publish]\nscores = "some"', ["publish.scores", "'anomalous'", "got 'some'"]),
        ("[metrics]\nport = 70000", ["metrics.port", "65535", "got 70000"]),
        ("[topics]\nevents = 5", ["topics.events", "string", "got 5"]),
        ("[kafka]\nbootstrap_servers = 5", ["kafka.bootstrap_servers:", "string", "got 5"]),
        ('[kafka]\ngroup_id = ""', ["kafka.group_id", "got ''"]),
        ('[columns]\ntimezone = "Mars"', ["columns.timezone", "Europe/Berlin", "got 'Mars'"]),
        ('[redis]\nprefix = "a{b"', ["redis.prefix", "got 'a{b'"]),
        ("window = 5", ["window", "[window]"]),
        ("[alerts]\ncritical = 2\nmajor = 3", ["alerts", "critical = 2.0", "above major = 3.0"]),
        ("[alerts]\ncritical = 3\nmajor = 3", ["alerts", "critical = 3.0", "above major = 3.0"]),
        ("[alerts]\nresolve_below = 1.5", ["alerts.resolve_below", "1", "got 1.5"]),
        ("[alerts]\nmajor = nan", ["alerts.major", "got nan"]),
        ('[alerts]\nmin_duration = "long"', ["alerts.min_duration", '"5m"', "got 'long'"]),
        ("[alerts]\ncooldowns = 5", ["alerts.cooldowns", "unknown", "cooldown"]),
        ("[groups.a]\nmin_windows = 2", ["groups.a.sensors", "required"]),
        ('[groups.a]\nsensors = "x"\nwindows = 2', ["groups.a.windows", "unknown", "min_windows"]),
        ('[groups.a]\nsensors = "x"\nmin_windows = 0', ["groups.a.min_windows", "1", "got 0"]),
        ('[groups.a]\nsensors = "x"\nmajor = 7', ["groups.a", "critical = 5.0", "above major = 7.0", "[alerts]"]),
        ('[groups.a]\nsensors = "x"\n[groups.b]\nsensors = "x"', ["groups", "'x'", "two groups"]),
        ("[groups]\na = 5", ["groups.a", "[groups.a]"]),
        (
            '[groups.a]\nsensors = "x"\n[groups.a.features.t]\nlow = 2',
            ["groups.a.features.t.low", "unknown", "range"],
        ),
        ('[groups.a]\nsensors = "x"\nfeatures.t = 5', ["groups.a.features.t", "[groups.a.features.t]"]),
        (
            '[groups.a]\nsensors = "x"\nfeatures.t.range = [2, 1]',
            ["groups.a.features.t.range", "[lowest, highest]"],
        ),
        ('[features.p]\ndirection = "up"', ["features.p.direction", "'below_expected'", "got 'up'"]),
        ("[features.p]\nmin_deviation = -1", ["features.p.min_deviation", "0", "got -1"]),
        ("[features.p]\nrange = [3, 1]", ["features.p.range", "[lowest, highest]"]),
        ("[features.p]\nrange = [nan, 1]", ["features.p.range", "[lowest, highest]"]),
        ("[features.p]\nranges = [3, 1]", ["features.p.ranges", "unknown", "range"]),
        ("[features.p]\nstuck_events = 1", ["features.p.stuck_events", "2", "got 1"]),
        ("[faults]\ndropout = 2", ["faults.dropout", '"off"', "got 2"]),
        ('[faults]\nstuck = "yes"', ["faults.stuck", "'learned'", "got 'yes'"]),
        ('[topics]\nscores = "x"\nalerts = "x"', ["topics", "'x'", "a topic each"]),
        ('[topics]\nscores = "sensor-events"', ["topics", "'sensor-events'", "a topic each"]),
        ("[window\n", ["not valid TOML", "line 1"]),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_file_key_value_and_remedy(
    config: Path, text: str, told: list[str]
) -> None:
    line = refusal(config, text)
    assert line.startswith(f"{config}: ")
    for part in told:
        assert part in line


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("WINDOW__LENGTH", "none", ["window.length", "integer", "got 'none'"]),
        ("WINDOW__LENGHT", "16", ["window.lenght", "unknown", "length"]),
        ("WINDOWS__LENGTH", "16", ["no section 'windows'", "window,"]),
        ("WINDOW__LENGTH__X", "16", ["window.length"]),
        ("WINDOW", "16", ["window", "[window]"]),
        ("WINDOW", "{", ["window", "JSON"]),
        ("COLUMNS__IGNORED", "a,b", ["ignored", 'JSON, such as ["a", "b"]']),
        ("PUBLISH__SCORES", "", ["publish.scores", "got ''"]),
        ("ALERTS__MAJOR", "9", ["critical = 5.0", "major = 9.0"]),
    ],
)
def test_a_mistake_in_the_environment_is_one_line(
    monkeypatch: pytest.MonkeyPatch, config: Path, name: str, value: str, told: list[str]
) -> None:
    monkeypatch.setenv(f"STREAM_DETECTOR__{name}", value)
    line = refused()
    for part in told:
        assert part in line


def test_a_mistake_in_the_environment_names_the_variable_and_not_the_file(
    monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    monkeypatch.setenv("STREAM_DETECTOR__WINDOW__LENGTH", "none")
    line = refusal(config, "[window]\nlength = 16")
    assert line.startswith("STREAM_DETECTOR__WINDOW__LENGTH: window.length: ")
    assert str(config) not in line


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.toml")
    assert "directory" in refused(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    assert "not valid TOML" in refused(binary)


def test_secrets_come_from_files(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "password"
    secret.write_text(SECRET + "\n")
    config.write_text(f'[redis]\npassword_file = "{secret}"\n')
    monkeypatch.setenv("STREAM_DETECTOR__KAFKA__SASL_PLAIN_PASSWORD_FILE", str(secret))
    settings = load_settings(config)
    assert settings.redis.password is not None
    assert settings.redis.password.get_secret_value() == SECRET
    assert settings.kafka.client()["sasl_plain_password"] == SECRET
    assert "sasl_plain_password_file" not in settings.kafka.client()


def test_secrets_are_not_shown(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(
        f'[redis]\nurl = "redis://:{SECRET}@host"\npassword = "{SECRET}"\n'
        f'[kafka]\nssl_password = "{SECRET}"\nproxy_url = "socks5://user:{SECRET}@host"\n'
    )
    monkeypatch.setenv("STREAM_DETECTOR__KAFKA__SASL_PLAIN_PASSWORD", SECRET)
    settings = load_settings(config)
    for shown in (repr(settings), str(settings), repr(settings.kafka), settings.model_dump_json()):
        assert SECRET not in shown
    assert settings.kafka.client()["proxy_url"] == f"socks5://user:{SECRET}@host"  # but the client gets it


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f'[redis]\npassword = ["{SECRET}"]', ["redis.password"]),
        (f'[redis]\nurl = {{ x = "{SECRET}" }}', ["redis.url"]),
        (f'redis = "redis://:{SECRET}@host"', ["redis", "[redis]"]),
        (f'[redis]\npasswort = "{SECRET}"', ["redis.passwort", "unknown", "password"]),
        (f'[kafka]\nsasl_plain_password = ["{SECRET}"]', ["kafka.sasl_plain_password"]),
        (f'[redis]\npassword = "{SECRET}"\npassword_file = "x"', ["password or password_file"]),
        ('[redis]\npassword_file = "/nowhere/password"', ["password_file", "/nowhere/password"]),
        ("[redis]\npassword_file = 5", ["password_file"]),
        (f'[redis]\nurl = "redis://:{SECRET}@host"\nprefix = ""', ["redis.prefix"]),
    ],
)
def test_a_mistake_about_a_secret_does_not_show_it(config: Path, text: str, told: list[str]) -> None:
    line = refusal(config, text)  # which looks for the secret
    for part in told:
        assert part in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS", f"redis://:{SECRET}@host"),
        ("REDIS__PASSWORT", SECRET),
        ("REDIS__PASSWORD__X", SECRET),
        ("REDDIS__PASSWORD", SECRET),
        ("KAFKA", f'{{"sasl_plain_password": "{SECRET}"'),
    ],
)
def test_a_mistake_about_a_secret_in_the_environment_does_not_show_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"STREAM_DETECTOR__{name}", value)
    refused()


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_durations_are_milliseconds_whatever_their_unit(number: int, unit: str) -> None:
    factor = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}[unit]
    if number * factor > 36_500 * 86_400_000:
        with pytest.raises(SettingsError, match="century"):
            duration("--period", f"{number}{unit}")
    else:
        assert duration("--period", f"{number}{unit}") == number * factor


@given(st.text(max_size=8))
def test_any_text_is_a_duration_or_a_settings_error(text: str) -> None:
    with contextlib.suppress(SettingsError):  # and nothing else
        found = duration("--period", text)
        assert found is not None
        assert 0 <= found <= 36_500 * 86_400_000


@pytest.mark.parametrize("text", ["", "s", "5x", "1e999", "nan", "-1s", "5 m m", "d5"])
def test_what_is_no_duration_is_told_with_what_it_should_be(text: str) -> None:
    with pytest.raises(SettingsError, match=f'^--period {text}: give a duration such as "30s"'):
        duration("--period", text)


def test_no_duration_is_none() -> None:
    assert duration("--period", None) is None


def test_workers_get_metrics_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_DETECTOR__METRICS__HOST", "::1")
    for index, port in enumerate((9464, 9465)):
        for name, value in worker_environment(index, 9464).items():
            monkeypatch.setenv(name, value)
        assert (load_settings().metrics.host, load_settings().metrics.port) == ("::1", port)
    assert worker_environment(3, 0)["STREAM_DETECTOR__METRICS__PORT"] == "0"  # any free port stays any free port
    assert worker_environment(3, 0, 9564)["STREAM_DETECTOR__PAGE__PORT"] == "9567"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[redis]\nca_file = "/ca.pem"', ["ca_file does nothing without TLS", "rediss://"]),
        ('[redis]\nurl = "rediss://host"\ncert_file = "/tls.pem"', ["cert_file needs key_file too"]),
        ('[redis]\nurl = "rediss://host"\nkey_file = "/tls.key"', ["key_file needs cert_file too"]),
        ('[redis]\nusername = "detector"', ["username needs password too"]),
        ('[metrics]\ntls_cert_file = "/tls.pem"', ["tls_cert_file needs tls_key_file too"]),
        ('[metrics]\ntls_key_file = "/tls.key"', ["tls_key_file needs tls_cert_file too"]),
        (f'[metrics]\npassword = "{SECRET}"', ["password needs username too"]),
        ('[metrics]\nusername = "prometheus"', ["username needs password too"]),
        (f'[metrics]\nusername = "a:b"\npassword = "{SECRET}"', ["must not hold a colon"]),
    ],
)
def test_a_contradiction_about_security_is_one_line(config: Path, text: str, told: list[str]) -> None:
    line = refusal(config, text)
    assert line.startswith(f"{config}: {text[1 : text.index(']')]}: ")
    for part in told:
        assert part in line


def test_files_that_are_no_secrets_stay_paths(config: Path) -> None:
    config.write_text(
        '[redis]\nurl = "rediss://host"\nca_file = "/ca.pem"\n[kafka]\nsasl_oauth_token_file = "/run/token"\n'
        '[metrics]\ntls_cert_file = "/tls.pem"\ntls_key_file = "/tls.key"\n'
    )
    settings = load_settings(config)
    assert settings.redis.ca_file == Path("/ca.pem")
    assert settings.metrics.tls_key_file == Path("/tls.key")
    assert settings.kafka.sasl_oauth_token_file == Path("/run/token")
    assert "sasl_oauth_token_file" not in settings.kafka.client()  # kafka-python does not know it
