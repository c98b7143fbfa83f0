"""The whole service in a hostile place: TLS, logins, least permissions; and what is said where one of them is wrong.

Settings and permissions are those of docs/security.md, taken from there.
"""

from __future__ import annotations

import base64
import http.client
import io
import logging
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from stream_detector.adapters.kafka import probe_kafka
from stream_detector.adapters.prometheus.observer import PrometheusObserver
from stream_detector.checks import findings
from stream_detector.events import Model
from stream_detector.settings import Settings, load_settings
from tests.commandline import invoke
from tests.servers.process import free_port
from tests.servers.secure import Authority, SecureBroker, SecureRedis, leaks, token
from tests.service import RunningService, command, committed_records, json_values, produce, score_count, wait_for
from tests.test_service import expected_windows, messages
from training.plant import Plant

pytestmark = pytest.mark.servers

DOCUMENT = (Path(__file__).parent.parent / "docs" / "security.md").read_text("utf-8")
BLOCKS = {
    found["what"]: found["text"]
    for found in re.finditer(r"<!-- (?P<what>[^>]+?) -->\n```\w*\n(?P<text>.*?)```", DOCUMENT, re.DOTALL)
}
PARTITIONS = 2
TOPICS = ("sensor-events", "sensor-scores", "sensor-alerts", "sensor-events-dead-letters")
SECRETS = {"detector": "Tr0ub4dor-and-3", "partial": "correct-horse-battery", "everybody": "staple-of-redis"}
WRONG = "not-the-password"


class Place:
    """The servers, and files as the document's samples name them."""

    def __init__(self, folder: Path, broker: SecureBroker, redis: SecureRedis, authority: Authority) -> None:
        self.folder, self.broker, self.redis = folder, broker, redis
        own = authority.issue("detector")
        (folder / "ca.pem").write_bytes(authority.certificate.read_bytes())
        (folder / "tls.pem").write_bytes(own.certificate.read_bytes())
        (folder / "tls.key").write_bytes(own.key.read_bytes())
        for user in ("kafka-password", "redis-password", "metrics-password"):
            (folder / user).write_text(SECRETS["detector"] + "\n")
        self.token = token("detector")
        (folder / "kafka-token").write_text(self.token)
        for name, text in {"wrong": WRONG, "partial": SECRETS["partial"]}.items():
            (folder / f"{name}-password").write_text(text)
        Authority(folder, "foreign")

    def config(self, name: str, bundle: Path, kafka: Mapping[str, str], redis: Mapping[str, str]) -> Path:
        """The document's samples, with the places of this run, and with these words of theirs replaced."""
        texts = []
        for sample, changes, listener in (("kafka: SCRAM", kafka, "SCRAM"), ("redis", redis, "right")):
            text = BLOCKS[sample]
            for old, new in changes.items():
                if old == "listener":
                    listener = new
                    continue
                assert old in text
                text = text.replace(old, new)
            where = {"kafka.example:9093": self.broker.at.get(listener, "")}
            if sample == "redis":
                where = {"rediss://redis.example:6379/0": self.redis.url(listener)}
            texts.append(self.here(text, where))
        # One shape to compile: what goes wrong here does so whatever the size of batches.
        texts.append(f'[metrics]\nport = {free_port()}\n[bundle]\npath = "{bundle}"\n[device]\nmax_batch_windows = 1\n')
        path = self.folder / f"{name}.toml"
        path.write_text("\n".join(texts))
        return path

    def here(self, text: str, where: Mapping[str, str]) -> str:
        folders = {"/etc/stream-detector/": f"{self.folder}/", "/run/secrets/": f"{self.folder}/"}
        for old, new in {**where, **folders}.items():
            text = text.replace(old, new)
        return text

    def failures(self, config: Path, command_too: bool) -> list[str]:
        """What `check` finds wrong; with the real command, too, which takes ten seconds for TensorFlow alone."""
        found = [
            one
            for one in findings(_without_bundle(load_settings(config)), None)
            if one.what not in ("bundle", "device")
        ]
        lines = [f"{one.what}: {one.message}" for one in found if not one.ok]
        assert leaks([*SECRETS.values(), WRONG, self.token], {"findings": str(found)}) == []
        if command_too:
            code, output = self.told("check", "--config", config)
            assert code == 1
            assert [line.removeprefix("FAIL ") for line in output.splitlines() if line.startswith("FAIL")] == lines
        return lines

    def told(self, *arguments: str | Path) -> tuple[object, str]:
        """Exit code and output of a command as a user starts it, which must not show a secret."""
        done = command(*arguments)
        return done.returncode, self.clean(done.stdout + done.stderr)

    def told_here(self, *arguments: str | Path) -> tuple[object, str]:
        """The same of a command in this process, with what is logged."""
        log = logging.StreamHandler(io.StringIO())
        logging.getLogger().addHandler(log)
        try:
            done = invoke(*arguments)
        finally:
            logging.getLogger().removeHandler(log)
        return done.code, self.clean(done.out + done.err + log.stream.getvalue())

    def clean(self, output: str) -> str:
        assert leaks([*SECRETS.values(), WRONG, self.token], {"output": output}) == []
        assert "Traceback" not in output
        return output


def _without_bundle(settings: Settings) -> Settings:
    """So that the model is left out."""
    return settings.model_copy(update={"bundle": settings.bundle.model_copy(update={"path": None})})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    authority = Authority(folder / "authority")
    users = {user: SECRETS[user] for user in ("detector", "partial")}
    with SecureBroker(authority, users) as broker, SecureRedis(authority, SECRETS["everybody"]) as redis:
        broker.create_topics(dict.fromkeys(TOPICS, PARTITIONS))
        rules = BLOCKS["kafka-acls"].splitlines()
        broker.allow(rules)
        broker.allow([rule.replace("User:detector", "User:partial") for rule in rules if "sensor-scores" not in rule])
        line = BLOCKS["redis-acl"].strip()
        redis.allow(line.replace("PASSWORD", SECRETS["detector"]))
        partial = line.replace("PASSWORD", SECRETS["partial"]).replace("SETUSER detector", "SETUSER partial")
        redis.allow(partial.replace(" +hmget", ""))
        yield Place(folder, broker, redis, authority)


def test_a_whole_run_over_tls_with_the_least_permissions(place: Place, bundle: Path, plant: Plant) -> None:
    config = place.config("whole", bundle, {}, {})
    config.write_text(config.read_text().replace("max_batch_windows = 1", ""))
    code, checked = place.told("check", "--config", config)
    assert code == 0, checked
    for told in ("logged in as detector by SCRAM-SHA-512", "READ and WRITE allowed", "redis permissions: reading and"):
        assert told in checked
    sent = messages(plant, slice(0, 400))
    produce(place.broker.bootstrap, "sensor-events", [*sent, (b"pump-1", b"{not json")], PARTITIONS)
    with RunningService(config) as service:
        service.wait_ready()
        wait_for(lambda: score_count(service) >= expected_windows(sent), "all windows", service)
        _, metrics = service.get("/metrics")
        _, health = service.get("/readyz")
        assert service.terminate() == 143
    shown = {"log": service.log.read_text(), "metrics": metrics, "health": health}
    assert leaks([*SECRETS.values(), place.token], shown) == []
    scores = json_values(committed_records(place.broker.bootstrap, "sensor-scores"))
    assert len({score["id"] for score in scores}) == len(scores) == expected_windows(sent)
    assert len(committed_records(place.broker.bootstrap, "sensor-events-dead-letters")) == 1
    with place.redis.admin() as admin:
        denied = {entry["object"] for entry in admin.acl_log() if entry["username"] == "detector"}
        assert denied <= {"client|setinfo", "client|maint_notifications"}  # redis-py's own, which it can do without
        assert {key.split(b":")[0] for key in admin.keys("*")} == {b"{sd"}


def test_every_permission_of_the_document_is_needed(place: Place) -> None:
    """The list for Redis names the commands of the scripts and a few beside them, and no other."""
    source = (Path(__file__).parent.parent / "stream_detector" / "adapters" / "redis" / "store.py").read_text("utf-8")
    in_scripts = {name.lower() for name in re.findall(r"redis\.call\('(\w+)'", source)}
    listed = set(re.findall(r"\+(\S+)", BLOCKS["redis-acl"]))
    assert listed == in_scripts | {"ping", "info", "time", "evalsha", "script|load"}


@pytest.mark.parametrize("way", ["SCRAM", "MTLS", "OAUTH"])
def test_every_way_of_the_document_leads_in(place: Place, way: str) -> None:
    config = place.folder / f"{way}.toml"
    config.write_text(place.here(BLOCKS[f"kafka: {way}"], {"kafka.example:9093": place.broker.at[way]}))
    found = probe_kafka(load_settings(config))
    assert [finding for finding in found if not finding.ok] == []
    assert leaks([*SECRETS.values(), place.token], {"findings": str(found)}) == []


def test_the_sample_for_metrics_asks_for_its_password_over_tls(place: Place) -> None:
    config = place.folder / "metrics.toml"
    config.write_text(place.here(BLOCKS["metrics"], {}))
    access = load_settings(config).metrics
    observer = PrometheusObserver(Model("pumps", "7"), lambda: 0.0)
    server = observer.serve(access.host, 0, lambda: True, lambda: (True, "all answer"), access)
    line = http.client.HTTPSConnection(
        access.host, server.port, timeout=10, context=ssl.create_default_context(cafile=place.folder / "ca.pem")
    )
    login = base64.b64encode(f"prometheus:{SECRETS['detector']}".encode()).decode()
    try:
        for headers, status in (({}, 401), ({"Authorization": f"Basic {login}"}, 200)):
            line.request("GET", "/metrics", headers=headers)
            answer = line.getresponse()
            assert answer.status == status
            assert leaks(SECRETS.values(), {"body": answer.read().decode()}) == []
            line.close()
    finally:
        server.close()


# What is changed in the document's samples for Kafka and for Redis, and what is said then of each.
MISTAKES: dict[str, tuple[dict[str, str], dict[str, str], str, str]] = {
    "wrong authority": (
        {"ca.pem": "foreign.pem"},
        {"ca.pem": "foreign.pem"},
        "unknown authority",
        "unknown authority",
    ),
    "expired certificate": (
        {"listener": "EXPIRED"},
        {"listener": "expired"},
        "the server's certificate has expired; renew it",
        "the server's certificate has expired; renew it",
    ),
    "wrong password": (
        {"kafka-password": "wrong-password"},
        {"redis-password": "wrong-password"},
        "check kafka.sasl_plain_username and kafka.sasl_plain_password",
        "check redis.username, redis.password",
    ),
    "missing permission": (
        {'"detector"': '"partial"', "kafka-password": "partial-password"},
        {'"detector"': '"partial"', "redis-password": "partial-password"},
        "sensor-scores",
        "no permissions to run the 'hmget' command",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_of_check_and_of_the_service(place: Place, bundle: Path, mistake: str) -> None:
    kafka, redis, of_kafka, of_redis = MISTAKES[mistake]
    real = mistake == "wrong password"
    lines = place.failures(place.config("both", bundle, kafka, redis), command_too=real)
    assert len(lines) == 2, lines
    [told_of_kafka] = [line for line in lines if line.startswith("kafka")]
    [told_of_redis] = [line for line in lines if line.startswith("redis")]
    assert of_kafka in told_of_kafka
    assert of_redis in told_of_redis
    kafka |= {'sasl_mechanism = "': 'bootstrap_timeout_ms = 1000\nsasl_mechanism = "'}
    for name, changes, told in (("kafka", (kafka, {}), of_kafka), ("redis", ({}, redis), of_redis)):
        ask = place.told if real else place.told_here
        code, output = ask("run", "--config", place.config(name, bundle, *changes))
        assert code == 1, output
        [error] = [line for line in output.splitlines() if line.startswith("error: ")]
        assert told in error
