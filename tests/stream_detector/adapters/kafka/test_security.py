"""Certificates, passwords, permissions: each way in works, each closed door is told apart, by `check` and the service.

One broker has a listener for each; see `tests.servers.secure`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from stream_detector.adapters.kafka import probe_kafka
from stream_detector.adapters.kafka.client import producer_options
from stream_detector.errors import Refused, SettingsError
from stream_detector.events import Finding
from stream_detector.settings import Settings
from tests.servers.secure import Authority, SecureBroker, token
from tests.stream_detector.adapters.kafka.cluster import Cluster, Owner

PASSWORD, STRANGER = "correct-horse", "battery-staple"
TOPICS = ("events", "scores", "alerts", "dead_letters")


class Guarded:
    """The broker, what lies before it, and settings that fit."""

    def __init__(self, broker: SecureBroker, authority: Authority, folder: Path) -> None:
        self.broker, self.authority, self.folder = broker, authority, folder
        self.cluster = Cluster(broker)
        self.foreign = Authority(folder / "foreign", "foreign")
        self.own = authority.issue("detector")
        self.alien = self.foreign.issue("detector-alien")
        self.lapsed = authority.issue("detector-lapsed", days=-1)
        self.tokens = {name: folder / name for name in ("fresh", "stale")}
        self.tokens["fresh"].write_text(token("detector") + "\n")
        self.tokens["stale"].write_text(token("detector", -60))

    def settings(self, listener: str, **kafka: Any) -> Settings:
        """SCRAM over TLS unless told otherwise; None takes a setting away."""
        given = {
            "bootstrap_servers": self.broker.at[listener],
            "security_protocol": "SASL_SSL",
            "ssl_cafile": str(self.authority.certificate),
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": "detector",
            "sasl_plain_password": PASSWORD,
            "bootstrap_timeout_ms": 1_500,
            **kafka,
        }
        return self.cluster.settings(**{key: value for key, value in given.items() if value is not None})

    def changes(self, names: Mapping[str, Any]) -> dict[str, Any]:
        """Names of files of this broker as their paths."""
        files = {
            "own.cert": self.own.certificate,
            "own.key": self.own.key,
            "alien.cert": self.alien.certificate,
            "alien.key": self.alien.key,
            "lapsed.cert": self.lapsed.certificate,
            "lapsed.key": self.lapsed.key,
            "foreign": self.foreign.certificate,
            **self.tokens,
        }
        return {key: str(files[value]) if value in files else value for key, value in names.items()}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("secure")
    authority = Authority(folder / "authority")
    with SecureBroker(authority, {"detector": PASSWORD, "stranger": STRANGER}) as broker:
        corner = Guarded(broker, authority, folder)
        topics = corner.cluster.topics
        operations = {"events": "Read", "scores": "Write", "alerts": "Read --operation Write", "dead_letters": "Write"}
        allow = "kafka-acls.sh --add --allow-principal User:detector --operation"
        broker.allow([f"{allow} {operations[kind]} --topic {topics[kind]}" for kind in TOPICS])
        broker.allow([f"{allow} Read --group {corner.cluster.group}"])
        prefix = f"{corner.cluster.group}- --resource-pattern-type prefixed"
        broker.allow([f"{allow} Write --transactional-id {prefix}"])
        yield corner
        corner.cluster.close()


NO_PASSWORD: dict[str, Any] = {"sasl_plain_username": None, "sasl_plain_password": None}
NO_LOGIN = {**NO_PASSWORD, "sasl_mechanism": None}
OAUTH = {**NO_PASSWORD, "sasl_mechanism": "OAUTHBEARER"}
MUTUAL = {**NO_LOGIN, "security_protocol": "SSL"}
WAYS_IN: dict[str, tuple[str, dict[str, Any], str]] = {
    "SCRAM-SHA-512": ("SCRAM", {}, "logged in as detector by SCRAM-SHA-512"),
    "SCRAM-SHA-256": ("SCRAM", {"sasl_mechanism": "SCRAM-SHA-256"}, "logged in as detector by SCRAM-SHA-256"),
    "PLAIN": ("PLAIN", {"sasl_mechanism": "PLAIN"}, "logged in as detector by PLAIN"),
    "OAUTHBEARER": ("OAUTH", {**OAUTH, "sasl_oauth_token_file": "fresh"}, "logged in by OAUTHBEARER"),
    "mTLS": ("MTLS", {**MUTUAL, "ssl_certfile": "own.cert", "ssl_keyfile": "own.key"}, "logged in by certificate"),
    "any name": ("MISNAMED", {"ssl_check_hostname": "false"}, "logged in as detector"),
    "no TLS": ("BARE", {"security_protocol": "SASL_PLAINTEXT", "ssl_cafile": None}, "logged in as detector"),
}
# listener, settings, the step of `check` that fails, and words of what it says
CLOSED: dict[str, tuple[str, dict[str, Any], str, list[str]]] = {
    "wrong password": (
        "SCRAM", {"sasl_plain_password": "secret-typo"}, "login", ["invalid credentials", "kafka.sasl_plain_password"],
    ),
    "wrong user": (
        "SCRAM", {"sasl_plain_username": "nobody"}, "login", ["invalid credentials", "kafka.sasl_plain_username"],
    ),
    "wrong password, PLAIN": (
        "PLAIN", {"sasl_mechanism": "PLAIN", "sasl_plain_password": "secret-typo"}, "login", ["Invalid user"],
    ),
    "wrong mechanism": ("PLAIN", {}, "login", ["SCRAM-SHA-512 is not enabled", "kafka.sasl_mechanism", "PLAIN"]),
    "stale token": (
        "OAUTH", {**OAUTH, "sasl_oauth_token_file": "stale"}, "login", ["invalid_token", "kafka.sasl_oauth_token_file"],
    ),
    "no login where one is wanted": (
        "BARE", {**NO_LOGIN, "security_protocol": None, "ssl_cafile": None}, "login", ["a login", "SASL_PLAINTEXT"],
    ),
    "no login over TLS": ("SCRAM", MUTUAL, "login", ["wants a login", "SASL_SSL"]),
    "login where none is taken": (
        "PLAINTEXT", {"security_protocol": "SASL_PLAINTEXT", "ssl_cafile": None}, "login", ["takes no login"],
    ),
    "unknown authority": ("SCRAM", {"ssl_cafile": "foreign"}, "TLS", ["unknown authority", "kafka.ssl_cafile"]),
    "expired certificate": ("EXPIRED", {}, "TLS", ["has expired", "renew"]),
    "wrong host name": ("MISNAMED", {}, "TLS", ["not valid for '127.0.0.1'", "connect by a name"]),
    "no client certificate": ("MTLS", MUTUAL, "login", ["client certificate is wanted", "kafka.ssl_certfile"]),
    "client certificate of another authority": (
        "MTLS", {**MUTUAL, "ssl_certfile": "alien.cert", "ssl_keyfile": "alien.key"}, "login", ["is refused"],
    ),
    "expired client certificate": (
        "MTLS", {**MUTUAL, "ssl_certfile": "lapsed.cert", "ssl_keyfile": "lapsed.key"}, "login", ["still valid"],
    ),
    "TLS to a port without": ("BARE", {}, "TLS", ["speaks no TLS", "SASL_PLAINTEXT"]),
    "no TLS to a port with": (
        "SCRAM", {"security_protocol": "SASL_PLAINTEXT", "ssl_cafile": None}, "login", ["speaks TLS", "SASL_SSL"],
    ),
    "nothing to a port with": (
        "SCRAM", {**NO_LOGIN, "security_protocol": None, "ssl_cafile": None}, "login", ["speaks TLS", '"SSL"'],
    ),
}  # fmt: skip


def failures(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if not finding.ok]


@pytest.mark.servers
@pytest.mark.parametrize("way", WAYS_IN)
def test_every_way_in(guarded: Guarded, way: str) -> None:
    listener, changes, told = WAYS_IN[way]
    findings = probe_kafka(guarded.settings(listener, **guarded.changes(changes)))
    assert failures(findings) == []
    words = {finding.what: finding.message for finding in findings}
    assert told in words[f"kafka {guarded.broker.at[listener]} login"]
    told_of_tls = words[f"kafka {guarded.broker.at[listener]} TLS"]
    assert ("without TLS" in told_of_tls) == (way == "no TLS")
    assert ("NOT verified" in told_of_tls) == (way == "any name")
    assert words[f"kafka topic {guarded.cluster.topics['alerts']}"].endswith("READ and WRITE allowed")


@pytest.mark.servers
@pytest.mark.parametrize("case", CLOSED)
def test_every_closed_door_is_told_apart(guarded: Guarded, case: str) -> None:
    listener, changes, step, words = CLOSED[case]
    settings = guarded.settings(listener, bootstrap_timeout_ms=500, **guarded.changes(changes))
    [bad] = failures(probe_kafka(settings))
    assert bad.what == f"kafka {guarded.broker.at[listener]} {step}"
    begun = time.monotonic()
    with pytest.raises(Refused) as caught:  # and so it is in the service, which would else try for ever
        guarded.cluster.source(settings).open(Owner())
    assert time.monotonic() - begun < 10
    for told in (bad.message, str(caught.value)):
        assert "\n" not in told
        assert PASSWORD not in told
        assert "secret-typo" not in told
        for word in words:
            assert word in told


@pytest.mark.servers
def test_results_are_delivered_with_the_permissions_that_check_asks_for(guarded: Guarded) -> None:
    """`WAYS_IN` shows that `check` is content with them; here the service itself is, and with nothing else."""
    settings = guarded.settings("SCRAM")
    source = guarded.cluster.joined(settings)
    outlet = guarded.cluster.outlet(settings, source)
    assert outlet.committed(guarded.cluster.partitions[0]) is None


@pytest.mark.servers
def test_a_token_is_read_anew_at_each_login(guarded: Guarded, tmp_path: Path) -> None:
    rotated = tmp_path / "token"
    rotated.write_text(token("detector", -60))
    settings = guarded.settings("OAUTH", **OAUTH, sasl_oauth_token_file=str(rotated))
    provider = producer_options(settings)["sasl_oauth_token_provider"]
    assert failures(probe_kafka(settings))
    rotated.write_text(token("detector"))
    assert failures(probe_kafka(settings)) == []
    assert provider.token() == rotated.read_text()


@pytest.mark.servers
def test_missing_permissions_are_told_one_by_one(guarded: Guarded) -> None:
    stranger = {"sasl_plain_username": "stranger", "sasl_plain_password": STRANGER}
    topics = guarded.cluster.topics
    findings = {finding.what: finding for finding in probe_kafka(guarded.settings("SCRAM", **stranger))}
    operations = {"events": "READ", "scores": "WRITE", "alerts": "READ and WRITE", "dead_letters": "WRITE"}
    for kind, operation in operations.items():
        finding = findings[f"kafka topic {topics[kind]}"]
        assert not finding.ok
        assert f"grant this user {operation} on the topic" in finding.message
    assert "READ on the consumer group" in findings["kafka group"].message
    assert "transactional ids" in findings["kafka transactions"].message
    with pytest.raises(Refused, match="may not describe it"):
        guarded.cluster.source(guarded.settings("SCRAM", **stranger)).open(Owner())
    # Some of it: alerts may be written, but not read again.
    some = [f"kafka-acls.sh --add --allow-principal User:stranger --operation Write --topic {topics['alerts']}"]
    guarded.broker.allow(some)
    findings = {finding.what: finding for finding in probe_kafka(guarded.settings("SCRAM", **stranger))}
    assert findings[f"kafka topic {topics['alerts']}"].message == "no permission; grant this user READ on the topic"
    guarded.broker.forbid(some)


def refused(folder: Path, **kafka: Any) -> str:
    """What the settings are refused with, before anything is sent."""
    files = {name: str(folder / name) for name in ("missing", "empty", "token", "cert", "key")}
    given = {key: files.get(value, value) for key, value in kafka.items()}
    with pytest.raises(SettingsError) as caught:
        producer_options(Settings.model_validate({"kafka": given}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


USER = {"sasl_plain_username": "detector", "sasl_plain_password": PASSWORD}


@pytest.mark.parametrize(
    ("kafka", "told"),
    [
        ({"security_protocol": "TLS"}, ["kafka.security_protocol", "SASL_SSL", "'TLS'"]),
        ({"security_protocol": "SASL_SSL"}, ["kafka.sasl_mechanism", "SCRAM-SHA-512"]),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM"}, ["kafka.sasl_mechanism", "'SCRAM'"]),
        ({"sasl_mechanism": "PLAIN", **USER}, ["kafka.sasl_mechanism", "does nothing", "SASL_PLAINTEXT"]),
        ({"security_protocol": "SSL", "sasl_mechanism": "PLAIN", **USER}, ["kafka.sasl_mechanism", "SASL_SSL"]),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"}, ["kafka.sasl_plain_username", "PLAIN needs it"]),
        ({"ssl_cafile": "cert"}, ["kafka.ssl_cafile", "does nothing", '"SSL"']),
        ({"security_protocol": "SSL", "ssl_cafile": "missing"}, ["kafka.ssl_cafile", "No such file", "PEM"]),
        ({"security_protocol": "SSL", "ssl_cafile": "empty"}, ["kafka.ssl_cafile", "no certificates", "PEM"]),
        ({"security_protocol": "SSL", "ssl_keyfile": "key"}, ["kafka.ssl_keyfile", "needs kafka.ssl_certfile"]),
        (
            {"security_protocol": "SSL", "ssl_certfile": "cert", "ssl_keyfile": "missing"},
            ["kafka.ssl_keyfile", "No such file"],
        ),
        ({"security_protocol": "SSL", "ssl_certfile": "cert", "ssl_keyfile": "empty"}, ["kafka.ssl_certfile", "key"]),
        ({"security_protocol": "SSL", "ssl_crlfile": "missing"}, ["kafka.ssl_crlfile", "No such file"]),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"},
            ["kafka.sasl_oauth_token_file", "OAUTHBEARER needs it"],
        ),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_file": "missing"},
            ["kafka.sasl_oauth_token_file", "No such file"],
        ),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_file": "empty"},
            ["kafka.sasl_oauth_token_file", "holds no token"],
        ),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", **USER, "sasl_oauth_token_file": "token"},
            ["kafka.sasl_oauth_token_file", "PLAIN takes none"],
        ),
    ],
)
def test_contradictions_are_told_before_anything_is_sent(
    tmp_path: Path, kafka: dict[str, Any], told: list[str]
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "token").write_text(token("detector"))
    own = Authority(tmp_path).issue("x")
    own.certificate.rename(tmp_path / "cert")
    own.key.rename(tmp_path / "key")
    line = refused(tmp_path, **kafka)
    assert PASSWORD not in line
    for word in told:
        assert word in line


def test_an_encrypted_key_asks_nobody_for_its_password(tmp_path: Path) -> None:
    """OpenSSL would ask on the terminal, and the service would wait for ever."""
    locked = Authority(tmp_path).locked("detector", PASSWORD)
    kafka = {"security_protocol": "SSL", "ssl_certfile": str(locked.certificate), "ssl_keyfile": str(locked.key)}
    assert "kafka.ssl_keyfile" in refused(tmp_path, **kafka)
    assert "kafka.ssl_keyfile" in refused(tmp_path, **kafka, ssl_password="wrong")
    options = producer_options(Settings.model_validate({"kafka": {**kafka, "ssl_password": PASSWORD}}))
    assert options["ssl_password"] == PASSWORD


def test_a_revocation_list_is_made_use_of(tmp_path: Path) -> None:
    """kafka-python 3.0.12 fails on one by itself, so it is given a context that holds it."""
    authority = Authority(tmp_path)
    revoked = authority.revocations()
    kafka = {"security_protocol": "SSL", "ssl_cafile": str(authority.certificate), "ssl_crlfile": str(revoked)}
    context = producer_options(Settings.model_validate({"kafka": kafka}))["ssl_context"]
    assert context.cert_store_stats()["crl"] == 1
