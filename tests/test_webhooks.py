"""`stream-detector webhooks` as a user runs it: the real command, a real broker, real HTTP servers that misbehave."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from tests.alerts import alert, record
from tests.commandline import invoke
from tests.receiver import SECRET, Answer, Receiver, Request
from tests.servers import KafkaBroker
from tests.servers.process import free_port
from tests.service import RunningService, committed_records, produce, wait_for

PARTITIONS = 2


class Webhooks(RunningService):
    command = "webhooks"

    def __init__(self, config: Path) -> None:
        super().__init__(config, fresh=True)  # it does without TensorFlow


@pytest.fixture
def receivers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def config_of(
    folder: Path, broker: KafkaBroker, name: str, targets: dict[str, dict[str, Any]], **webhooks: Any
) -> Path:
    """Settings with topics and groups of their own; the topics are made."""
    broker.create_topics({f"{name}-alerts": PARTITIONS, f"{name}-dead": 1})
    port = free_port()
    shared = {
        "group_id": name,
        "start": "earliest",
        "allow_internal": ["127.0.0.1"],
        "metrics_port": port,
        "jitter": 0,
        **webhooks,
    }
    sections: dict[str, dict[str, Any]] = {
        "kafka": {"bootstrap_servers": broker.bootstrap, "session_timeout_ms": 6_000, "heartbeat_interval_ms": 500},
        "topics": {"alerts": f"{name}-alerts", "webhook_dead_letters": f"{name}-dead"},
        "metrics": {"port": port},
        "webhooks": shared,
        **{f"webhooks.targets.{target}": {"timeout": "2s", **given} for target, given in targets.items()},
    }
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path = folder / f"{name}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def own(receiver: Receiver, **more: Any) -> dict[str, Any]:
    return {"url": receiver.url, "secrets": [SECRET], **more}


def id_of(name: str, revision: int = 1) -> str:
    return f"{alert(name).id}-{revision}"


def metric(service: RunningService, line: str) -> float:
    for one in service.get("/metrics")[1].splitlines():
        if one.startswith(line):
            return float(one.split()[-1])
    return 0.0


def letters(broker: KafkaBroker, name: str) -> list[tuple[str, str, bytes]]:
    """Target, reason and value of each dead letter."""
    found = []
    for one in committed_records(broker.bootstrap, f"{name}-dead"):
        headers = {key: value.decode() for key, value in one.headers}
        found.append((headers["errors.target"], headers["errors.exception"], one.value))
    return sorted(found)


def flaky(request: Request, seen: int) -> Answer:
    """Fails the first two tries of each alert, in ways that differ."""
    ways = [Answer(500), Answer(hang_up=True), Answer(404), Answer(302, {"Location": "/elsewhere"})]
    return ways[(sum(request.body) + seen) % len(ways)] if seen < 2 else Answer()


def test_every_target_gets_what_it_wants_whatever_the_others_do(
    kafka_broker: KafkaBroker, receivers: ExitStack, tmp_path: Path
) -> None:
    name = "hooks"
    busy_at: list[float] = []

    def busy(request: Request, seen: int) -> Answer:
        busy_at.append(request.at)
        return Answer(429, {"Retry-After": "1"}) if len(busy_at) == 1 else Answer()

    good, bad = receivers.enter_context(Receiver()), receivers.enter_context(Receiver(flaky))
    gone = receivers.enter_context(Receiver(lambda request, seen: Answer(410)))
    slow = receivers.enter_context(Receiver(lambda request, seen: Answer(after=30)))
    limited = receivers.enter_context(Receiver(busy))
    targets = {
        "good": own(good, sensors=["pump-*"], severities=["major", "critical"], bearer_token="t0ken"),
        "flaky": own(bad),
        "gone": own(gone),
        "slow": own(slow, timeout="500ms"),
        "limited": own(limited, concurrency=1),
        "closed": {"url": f"http://127.0.0.1:{free_port()}/", "format": "slack"},
    }
    config = config_of(tmp_path, kafka_broker, name, targets, retries=["100ms", "300ms", "1s"], circuit_failures=50)
    done = invoke("webhooks", "--check", "--config", config)
    assert (done.code, done.out.count("ok  "), done.out.count("FAIL webhook closed")) == (1, 5, 1), done.out
    assert "geheim" not in done.out
    sent = [record(one, revision, status) for one in "abcdef" for revision, status in ((1, "firing"), (2, "resolved"))]
    produce(kafka_broker.bootstrap, f"{name}-alerts", [*sent, record("quiet", severity="minor")], PARTITIONS)
    produce(kafka_broker.bootstrap, f"{name}-alerts", [(b"x", b"no alert")], PARTITIONS)
    expected = {id_of(one, revision) for one in "abcdef" for revision in (1, 2)}
    with Webhooks(config) as service:
        service.wait_ready()
        wait_for(lambda: set(good.ids()) == expected, "the good target", service)
        wait_for(lambda: len(set(bad.ids())) == 13, "the flaky target", service)
        wait_for(lambda: len(set(limited.ids())) == 13, "the limited target", service)
        # 14 records each for those that accept nothing, and the one that is no alert for each of the others.
        wait_for(lambda: len(letters(kafka_broker, name)) == 3 * 14 + 3, "dead letters", service)
        assert service.get("/livez")[0] == 200
        assert metric(service, 'stream_detector_webhooks_target_state{state="disabled",target="gone"}') == 1
        assert metric(service, 'stream_detector_webhooks_delivered_total{target="good"}') == 12
        assert metric(service, 'stream_detector_webhooks_attempts_total{outcome="timeout",target="slow"}') >= 13
        assert metric(service, 'stream_detector_webhooks_attempts_total{outcome="busy",target="limited"}') == 1
        assert metric(service, 'stream_detector_webhooks_dead_letters_total{reason="disabled",target="gone"}') >= 9
        wait_for(lambda: metric(service, 'stream_detector_webhooks_waiting{target="slow"}') == 0, "no backlog", service)
        assert service.terminate() == 143
        assert "geheim" not in service.tail()
    for receiver in (good, bad, limited):
        order = receiver.ids()
        assert len(order) == len(set(order)), "accepted twice though nothing died"
        for one in "abcdef":
            assert order.index(id_of(one, 1)) < order.index(id_of(one, 2))
    assert {request.path for request in bad.requests} == {"/hook?key=geheim"}, "a redirect was followed"
    for request in good.requests:
        assert request.headers["authorization"] == "Bearer t0ken"
        told = Webhook(SECRET).verify(request.body, request.headers)
        assert told["data"]["id"] in request.id
    assert busy_at[1] - busy_at[0] >= 1.0
    reasons = {(target, reason) for target, reason, _ in letters(kafka_broker, name)}
    assert ("slow", "exhausted") in reasons
    assert ("closed", "exhausted") in reasons
    assert {("gone", "gone"), ("gone", "disabled"), ("good", "unreadable")} <= reasons
    assert {target for target, reason, _ in letters(kafka_broker, name) if reason != "unreadable"} == {
        "gone",
        "slow",
        "closed",
    }
    # What is dead is sent again by hand once the target is well.
    gone.script = lambda request, seen: Answer()
    done = invoke("webhooks", "--config", config, "--replay-dead-letters", "--target", "gone")
    assert done.code == 0, done.err
    assert "13 sent; 1 left out: no alert" in done.out
    assert gone.ids() == [request.id for request in gone.accepted]
    assert set(gone.ids()) == expected | {id_of("quiet")}
    done = invoke("webhooks", "--config", config, "--replay-dead-letters", "--target", "gone")
    assert "no dead letters" in done.out


def test_a_request_that_a_kill_cut_off_counts_as_none() -> None:
    """Of the receiver in these tests: a sender may be killed between headers and body."""
    with Receiver() as receiver:
        for body in (b"half", b"whole!"):
            with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as connection:
                connection.sendall(b"POST / HTTP/1.0\r\nwebhook-id: x\r\ncontent-length: 6\r\n\r\n" + body)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1_024):  # until it was dealt with
                    pass
        assert [request.body for request in receiver.requests] == [b"whole!"]


def test_nothing_is_lost_when_it_is_killed(kafka_broker: KafkaBroker, receivers: ExitStack, tmp_path: Path) -> None:
    name = "killed-hooks"
    stuck = id_of("s0")

    def script(request: Request, seen: int) -> Answer:
        return Answer(500) if request.id == stuck else Answer(after=0.02)

    receiver = receivers.enter_context(Receiver(script))
    config = config_of(tmp_path, kafka_broker, name, {"ops": own(receiver, concurrency=8)}, retries=["1h"])
    names = [f"s{number}" for number in range(60)]
    sent = [record(one, revision) for one in names for revision in (1, 2)]
    expected = {id_of(one, revision) for one in names[1:] for revision in (1, 2)}
    produce(kafka_broker.bootstrap, f"{name}-alerts", sent[:80], PARTITIONS)
    with Webhooks(config) as service:
        wait_for(lambda: len(receiver.accepted) >= 15, "some", service)
        service.kill()
    killed_at = len(receiver.accepted)
    produce(kafka_broker.bootstrap, f"{name}-alerts", sent[80:], PARTITIONS)
    with Webhooks(config) as service:
        wait_for(lambda: set(receiver.ids()) == expected, "all", service)
        assert service.terminate() == 143
    before_restart = len(receiver.requests)
    assert killed_at < len(expected)
    order = receiver.ids()
    for one in names[1:]:
        assert order.index(id_of(one, 1)) < order.index(id_of(one, 2))
    for request in receiver.accepted:
        Webhook(SECRET).verify(request.body, request.headers)
    # The one that the target does not take holds up neither the others nor makes a restart repeat them, and its turn
    # comes when its schedule says so and not with each start.
    produce(kafka_broker.bootstrap, f"{name}-alerts", [record("last")], PARTITIONS)
    with Webhooks(config) as service:
        wait_for(lambda: id_of("last") in receiver.ids(), "one more", service)
        wait_for(lambda: metric(service, 'stream_detector_webhooks_waiting{target="ops"}') == 2, "two left", service)
        assert service.terminate() == 143
    assert [request.id for request in receiver.requests[before_restart:]] == [id_of("last")]


def test_what_is_not_there_is_one_line(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    target = {"url": "https://hooks.example/", "secrets": [SECRET]}
    config = config_of(tmp_path, kafka_broker, "no-dead", {"ops": target})
    config.write_text(config.read_text().replace('"no-dead-dead"', '"nobody-made-it"'))
    done = invoke("webhooks", "--config", config)
    assert done.code == 1
    assert "nobody-made-it" in done.err
    assert len(done.err.strip().splitlines()) == 1
