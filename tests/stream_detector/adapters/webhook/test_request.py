"""One try against real HTTP servers: what is sent, what comes of each way to answer, what is refused."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from stream_detector.adapters.webhook.request import HttpPost
from stream_detector.events import Alert, Partition
from stream_detector.targets import Target, Webhooks
from stream_detector.webhooks.backlog import Entry
from stream_detector.webhooks.ports import Outcome
from tests.alerts import alert
from tests.receiver import SECRET, Answer, Receiver
from tests.servers.process import free_port
from tests.servers.secure import Authority

OTHER = "whsec_" + "QUFB" * 10


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def entry(one: Alert | None = None) -> Entry:
    return Entry(Partition("alerts", 0), 7, None, None, one or alert(), 0.0, 0.0)


def post(url: str, *, allow: tuple[str, ...] = ("127.0.0.1",), resolve: Any = None, **target: Any) -> HttpPost:
    given = Target.model_validate({"url": url, "secrets": [SECRET], "timeout": "1s", **target})
    settings = Webhooks.model_validate({"allow_internal": allow})
    options = {} if resolve is None else {"resolve": resolve}
    made = HttpPost("ops", given, settings, **options)
    made.prepare()
    return made


def tried(script: Any, stack: ExitStack, **target: Any) -> tuple[Outcome, Receiver]:
    receiver = stack.enter_context(Receiver(script))
    return post(receiver.url, **target)(entry()), receiver


def test_what_is_sent_is_signed_with_every_secret(stack: ExitStack) -> None:
    outcome, receiver = tried(
        lambda request, seen: Answer(), stack, secrets=[SECRET, OTHER], headers={"X-Api-Key": "k"}, bearer_token="t"
    )
    assert outcome.word == "delivered"
    [request] = receiver.requests
    for secret in (SECRET, OTHER):
        told = Webhook(secret).verify(request.body, request.headers)
        assert told["type"] == "anomaly.firing"
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "QkJC" * 10).verify(request.body, request.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body.replace(b"firing", b"fading"), request.headers)
    assert request.id == f"{alert().id}-1"
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 10
    assert (request.headers["x-api-key"], request.headers["authorization"]) == ("k", "Bearer t")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert request.path == "/hook?key=geheim"


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (Answer(200), "delivered"),
        (Answer(202, body=b"{}"), "delivered"),
        (Answer(204), "delivered"),
        (Answer(301, {"Location": "/elsewhere"}), "redirected"),
        (Answer(307, {"Location": "http://127.0.0.1:1/"}), "redirected"),
        (Answer(400), "refused"),
        (Answer(404), "refused"),
        (Answer(408), "refused"),
        (Answer(410), "gone"),
        (Answer(429), "busy"),
        (Answer(500), "refused"),
        (Answer(502), "busy"),
        (Answer(503), "busy"),
        (Answer(504), "busy"),
        (Answer(hang_up=True), "unreachable"),
        (Answer(after=20), "timeout"),
        (Answer(drip=0.2), "timeout"),  # a byte now and then keeps nobody for ever
    ],
)
def test_each_answer_means_something(answer: Answer, word: str, stack: ExitStack) -> None:
    started = time.monotonic()
    outcome, receiver = tried(lambda request, seen: answer, stack)
    assert outcome.word == word
    assert "geheim" not in outcome.message
    assert len(receiver.requests) == 1
    assert time.monotonic() - started < 10
    assert outcome.seconds <= 5


def test_what_a_target_says_about_it_is_told_in_one_line(stack: ExitStack) -> None:
    answer = Answer(400, {"Retry-After": "99999"}, b"no\n\x1b[31m " + b"x" * 100_000)
    outcome, _ = tried(lambda request, seen: answer, stack)
    assert "status 400: no \\x1b[31m xxx" in outcome.message
    assert len(outcome.message) < 400
    assert outcome.retry_after == 3_600


def test_nobody_there(stack: ExitStack) -> None:
    outcome = post(f"http://127.0.0.1:{free_port()}/")(entry())
    assert outcome.word == "unreachable"
    assert "refused" in outcome.message


def test_the_address_that_was_looked_at_is_connected_to(stack: ExitStack) -> None:
    """A name that says another address the next time it is asked leads nowhere else."""
    receiver = stack.enter_context(Receiver())
    answers = iter(["127.0.0.1", "127.0.0.2", "127.0.0.3"])
    asked: list[str] = []

    def resolve(host: str, port: int, type: int) -> list[Any]:
        asked.append(next(answers))
        return [(2, type, 6, "", (asked[-1], port))]

    url = receiver.url.replace("127.0.0.1", "hooks.example")
    send = post(url, resolve=resolve)
    assert send(entry()).word == "delivered"
    assert asked == ["127.0.0.1"]
    assert receiver.requests[0].headers["host"] == f"hooks.example:{receiver.port}"
    outcome = send(entry())
    assert outcome.word == "blocked"
    assert "127.0.0.2" in outcome.message
    assert len(receiver.requests) == 1


def test_proxies_of_the_environment_are_not_used(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    outcome, _ = tried(lambda request, seen: Answer(), stack)
    assert outcome.word == "delivered"


def test_tls_is_verified_by_the_name_though_the_address_was_looked_up(stack: ExitStack, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("hooks", "DNS:hooks.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    receiver = stack.enter_context(Receiver(context=context))

    def resolve(host: str, port: int, type: int) -> list[Any]:
        return [(2, type, 6, "", ("127.0.0.1", port))]

    url = f"https://hooks.example:{receiver.port}/"
    send = post(url, resolve=resolve, ca_file=authority.certificate)
    assert send(entry()).word == "delivered"
    assert [finding.ok for finding in send.findings()] == [True]
    outcome = post(url, resolve=resolve)(entry())
    assert outcome.word == "unreachable"
    assert "unknown authority" in outcome.message
    assert "webhooks.targets.ops.ca_file" in outcome.message
    other = post(url.replace("hooks.example", "other.example"), resolve=resolve, ca_file=authority.certificate)
    outcome = other(entry())
    assert outcome.word == "unreachable"
    assert "other.example" in outcome.message
    [finding] = other.findings()
    assert not finding.ok
    assert len(receiver.requests) == 1


def test_secrets_are_not_logged(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tried(lambda request, seen: Answer(500), stack, bearer_token="t0ken", headers={"X-Key": "k3y"})
    assert caplog.text == "" or not any(word in caplog.text for word in ("geheim", "t0ken", "k3y", SECRET))


def test_ids_of_others_are_made_fit_for_a_header(stack: ExitStack) -> None:
    receiver = stack.enter_context(Receiver())
    send = post(receiver.url)
    for bad in ("a.b", "a\r\nX-Evil: 1", "ü", "x" * 999):
        assert send(entry(alert(id=bad))).word == "delivered"
    assert all(len(name) == 64 and name.isalnum() for name in receiver.ids())
    assert len(set(receiver.ids())) == 4
    assert all("x-evil" not in request.headers for request in receiver.requests)


def test_a_template_that_fails_on_an_alert_is_unsendable(stack: ExitStack) -> None:
    receiver = stack.enter_context(Receiver())
    send = post(receiver.url, format="template", template='{"p": {{ alert.observed["pressure"] }}}')
    assert send(entry()).word == "delivered"
    outcome = send(entry(alert(observed={})))
    assert outcome.word == "unsendable"
    assert "pressure" in outcome.message
