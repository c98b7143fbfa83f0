"""One try at one target: an HTTP request, signed as Standard Webhooks has it, to an address that was checked."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpcore
import httpx
from standardwebhooks import Webhook

from stream_detector.adapters.pictures.alert import draw
from stream_detector.adapters.webhook.guard import Blocked, GuardedBackend, Resolve, addresses
from stream_detector.errors import StreamDetectorError
from stream_detector.events import Alert, Finding
from stream_detector.targets import Target, Webhooks, shown
from stream_detector.text import visible
from stream_detector.tls import Names, cause_of, context_of, explained
from stream_detector.webhooks.backlog import Entry
from stream_detector.webhooks.bodies import BODIES
from stream_detector.webhooks.ports import Outcome, Word
from stream_detector.webhooks.schedule import retry_after
from stream_detector.webhooks.templates import template_of

log = logging.getLogger(__name__)

BUSY = (429, 502, 503, 504)
TOLD = 200  # characters of an answer that says no
AGENT = "stream-detector"


class HttpPost:
    """`ports.Post` over httpx: a connection of its own for each try, no redirects, no proxies, TLS verified."""

    def __init__(
        self,
        name: str,
        target: Target,
        settings: Webhooks,
        *,
        now: Callable[[], float] = time.time,
        resolve: Resolve = socket.getaddrinfo,
    ) -> None:
        self._name, self._target, self._settings, self._now, self._resolve = name, target, settings, now, resolve
        self._where = shown(target)
        self._names = Names(f"webhooks.targets.{name}.ca_file", "", "", f"write http:// in webhooks.targets.{name}.url")
        self._signers: list[Webhook] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._body = BODIES.get(target.format)

    def prepare(self) -> None:
        """Read certificates and the template. Raises `SettingsError`."""
        for logger in ("httpx", "httpcore"):  # they log URLs, which may be secret
            logging.getLogger(logger).setLevel(logging.WARNING)
        if self._target.address.startswith("https://"):
            self._context = context_of(self._names, authority=self._target.ca_file)
        self._signers = [Webhook(secret.get_secret_value()) for secret in self._target.secrets]
        if self._target.format == "template":
            self._body = template_of(self._target, self._name)

    def __call__(self, entry: Entry) -> Outcome:
        """See `ports.Post`."""
        started = time.monotonic()
        outcome = self._tried(entry)
        return Outcome(outcome.word, outcome.message, time.monotonic() - started, outcome.retry_after)

    def findings(self) -> list[Finding]:
        """Whether the target can be reached; nothing is sent but, over TLS, a greeting."""
        what = f"webhook {self._name}"
        parts = urlsplit(self._target.address)
        host, plain = parts.hostname or "", parts.scheme == "http"
        port = parts.port or (80 if plain else 443)
        try:
            self.prepare()
            found = addresses(host, port, self._settings.allows, plain=plain, resolve=self._resolve)
            backend = GuardedBackend(self._settings.allows, 10.0, plain=plain, resolve=self._resolve)
            stream = backend.connect_tcp(host, port)
            try:
                if not plain:
                    stream = stream.start_tls(self._context, host)
            finally:
                stream.close()
        except Exception as error:  # whatever it is, it is a finding
            return [Finding(what, False, self._failure(error).message)]
        return [Finding(what, True, f"{self._where} answers at {found[0]}; {self._target.format}")]

    def _tried(self, entry: Entry) -> Outcome:
        if entry.alert is None or self._body is None:
            return Outcome("unsendable", "nothing to make a body of")
        try:
            body = self._body(entry.alert, self._target, self._name, self._picture(entry.alert))
        except Exception as error:  # a user's template may fail in any way
            return Outcome("unsendable", f"no body can be made of it: {error}")
        try:
            return self._sent(self._headers(entry.id, body), body)
        except Exception as error:  # a try must end in an outcome
            return self._failure(error)

    def _picture(self, alert: Alert) -> bytes | None:
        return draw(alert) if self._target.picture else None

    def _headers(self, name: str, body: bytes) -> dict[str, str]:
        now = datetime.fromtimestamp(self._now(), UTC)
        target = self._target
        headers = {key: value.get_secret_value() for key, value in target.headers.items()}
        if target.bearer_token is not None:
            headers["Authorization"] = f"Bearer {target.bearer_token.get_secret_value()}"
        headers |= {
            "Content-Type": "application/json",
            "webhook-id": name,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if self._signers:
            signatures = (signer.sign(name, now, body.decode()) for signer in self._signers)
            headers["webhook-signature"] = " ".join(signatures)
        return headers

    def _sent(self, headers: dict[str, str], body: bytes) -> Outcome:
        plain = not self._target.address.startswith("https://")
        seconds = self._target.timeout / 1_000
        backend = GuardedBackend(self._settings.allows, seconds, plain=plain, resolve=self._resolve)
        with (
            httpx.Client(
                transport=GuardedTransport(self._context, backend),
                trust_env=False,
                follow_redirects=False,
                timeout=seconds,
                headers={"User-Agent": AGENT, "Accept-Encoding": "identity"},
            ) as client,
            client.stream("POST", self._target.address, content=body, headers=headers) as answer,
        ):
            status = answer.status_code
            if answer.is_success:
                return Outcome("delivered", f"status {status}")
            longest = self._settings.max_retry_after / 1_000
            asked = retry_after(answer.headers.get("retry-after"), self._now(), longest)
            return Outcome(_word(status), f"{self._where}: status {status}{_told(answer)}", retry_after=asked)

    def _failure(self, error: Exception) -> Outcome:
        where = self._where
        if isinstance(error, Blocked):
            return Outcome("blocked", f"{where}: {error}")
        if isinstance(error, (httpx.TimeoutException, httpcore.TimeoutException)):
            return Outcome("timeout", f"{where}: no answer within {self._target.timeout / 1_000:g} s")
        if isinstance(error, StreamDetectorError):
            return Outcome("unreachable", str(error))
        if (cause := cause_of(error)) is not None:
            return Outcome("unreachable", str(explained(cause, where, self._names)))
        if not isinstance(error, (httpx.HTTPError, httpcore.ConnectError, httpx.InvalidURL)):
            log.error("%s: a try failed in a way that was not foreseen: %r", self._name, error)
        return Outcome("unreachable", f"{where}: {str(error) or type(error).__name__}")


class GuardedTransport(httpx.HTTPTransport):
    """httpx' own, with a network of ours beneath; it has no other way to be given one."""

    def __init__(self, context: ssl.SSLContext, backend: httpcore.NetworkBackend) -> None:
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.ConnectionPool(
            ssl_context=context, max_connections=1, max_keepalive_connections=0, network_backend=backend
        )


def _word(status: int) -> Word:
    if status in BUSY:
        return "busy"
    if status == 410:
        return "gone"
    return "redirected" if 300 <= status < 400 else "refused"


def _told(answer: httpx.Response) -> str:
    """The beginning of what the target says about it."""
    try:
        text = next(answer.iter_raw(4 * TOLD), b"").decode("utf-8", "replace")
    except httpx.HTTPError:
        return ""
    line = visible(" ".join(text.split()))[:TOLD]
    return f": {line}" if line else ""
