"""Settings of webhooks: who gets which alerts, in what form, and where requests may go."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from stream_detector.events import Severity
from stream_detector.sections import Duration, Section

Format = Literal["json", "alertmanager", "slack", "pagerduty", "template"]
Kind = Literal["anomaly", "silence", "fault"]

PAGERDUTY = "https://events.pagerduty.com/v2/enqueue"
HOUR = 3_600_000
# The time from one try to the next as the Standard Webhooks specification suggests it; the first is immediate.
RETRIES = (5_000, 300_000, 1_800_000, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # what HTTP allows as a header's name
# Without these a request would be another one than the one that is signed or checked.
OURS = ("connection", "content-length", "content-type", "host", "transfer-encoding")
SHORTEST, LONGEST = 24, 64  # bytes of a secret


def _split(given: object) -> object:
    """A list from one text, as a file or a variable of the environment holds it."""
    return re.split(r"[\s,]+", given.strip()) if isinstance(given, str) else given


def _listed(given: object) -> object:
    return [given] if isinstance(given, str) else given


def _lines(given: object) -> object:
    """Headers from the lines of a file: ``Name: value``."""
    if not isinstance(given, str):
        return given
    pairs = [line.partition(":") for line in given.splitlines() if line.strip()]
    if not all(colon for _, colon, _ in pairs):
        raise ValueError('give one header a line, such as "X-Api-Key: …"')
    return {name.strip(): value.strip() for name, _, value in pairs}


def _secret(given: SecretStr) -> SecretStr:
    text = given.get_secret_value()
    try:
        size = len(base64.b64decode(text.removeprefix("whsec_"), validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if not text.startswith("whsec_") or not SHORTEST <= size <= LONGEST:
        raise ValueError(f"give whsec_ and {SHORTEST} to {LONGEST} random bytes in base64 after it")
    return given


def _headers(given: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
    for name, value in given.items():
        if not TOKEN.fullmatch(name):
            raise ValueError("a header's name holds letters, digits and hyphens")
        if name.lower() in OURS or name.lower().startswith("webhook-"):
            raise ValueError(f"the header {name} is set by the detector itself; remove it")
        if not re.fullmatch(r"[\x20-\x7e\t]*", value.get_secret_value()):
            raise ValueError(f"the value of the header {name} holds characters that HTTP does not allow")
    return given


def _token(given: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]+", given.get_secret_value()):
        raise ValueError("give a token without spaces")
    return given


def _network(given: str) -> str:
    """An address, a network, or a host's name."""
    if not given or (re.search(r"[\s@:/]", given) and network_of(given) is None):
        raise ValueError('give a host\'s name, an address or a network such as "10.1.0.0/16"')
    return given.lower()


def _patience(given: int) -> int:
    if not 100 <= given <= 120_000:
        raise ValueError('give from "100ms" to "2m"')
    return given


Secrets = Annotated[tuple[Annotated[SecretStr, AfterValidator(_secret)], ...], BeforeValidator(_split)]
Headers = Annotated[dict[str, SecretStr], BeforeValidator(_lines), AfterValidator(_headers)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
Delays = Annotated[tuple[Annotated[Duration, Field(ge=1)], ...], Field(max_length=50)]


def network_of(text: str) -> IPv4Network | IPv6Network | None:
    """The network that ``text`` means; None for a host's name."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


class Target(Section):
    """One receiver of webhooks."""

    url: SecretStr | None = None
    """Where requests go. May hold a token, as Slack's does; hence secret. PagerDuty's is known."""
    format: Format = "json"
    """Of the body."""
    secrets: Secrets = ()
    """`whsec_…`; each request is signed with all of them, so that receivers can change over. `json` needs one."""
    headers: Headers = Field(default_factory=dict)
    """Further ones, such as an API key; in a file, `Name: value` a line."""
    bearer_token: Annotated[SecretStr, AfterValidator(_token)] | None = None
    """Sent as `Authorization: Bearer …`."""
    routing_key: SecretStr | None = None
    """Of PagerDuty's integration."""
    template: str | None = Field(None, min_length=1)
    """Of the body, Jinja2; with `format = "template"`."""
    template_file: Path | None = None
    """A file that holds it."""
    severities: Annotated[tuple[Severity, ...], Field(min_length=1)] = get_args(Severity)
    """Alerts of other severities are not sent."""
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = get_args(Kind)
    """Alerts of other kinds are not sent."""
    sensors: Patterns = ("*",)
    """Patterns of sensor ids, as in a shell; one of them must fit."""
    send_resolved: bool = True
    """Whether the end of an alert is told too."""
    picture: bool = False
    """Of what was observed and expected, in the body: a small PNG, with `json` and `template`."""
    timeout: Annotated[Duration, AfterValidator(_patience)] = 15_000
    """Of one try, all in all; from `100ms` to `2m`."""
    concurrency: int = Field(4, ge=1, le=64)
    """Tries at a time, of different alerts."""
    ca_file: Path | None = None
    """An authority beside the system's."""

    @property
    def address(self) -> str:
        """The URL, revealed."""
        return PAGERDUTY if self.url is None else self.url.get_secret_value()

    @model_validator(mode="after")
    def _no_contradictions(self) -> Target:
        if self.url is None and self.format != "pagerduty":
            raise ValueError("url is missing; say where alerts go")
        check_url(self.address)
        if (self.routing_key is None) == (self.format == "pagerduty"):
            raise ValueError('routing_key and format = "pagerduty" need each other')
        templates = (self.template is not None) + (self.template_file is not None)
        if templates != (self.format == "template"):
            raise ValueError('format = "template" needs template or template_file, one of them; other formats neither')
        if self.format == "json" and not self.secrets:
            raise ValueError(
                'format = "json" needs secrets (or secrets_file): receivers verify the signature with them'
            )
        if self.picture and self.format not in ("json", "template"):
            raise ValueError(f'picture does nothing with format = "{self.format}", which cannot hold one; remove it')
        if self.bearer_token is not None and any(name.lower() == "authorization" for name in self.headers):
            raise ValueError("give bearer_token or the header Authorization, not both")
        if self.ca_file is not None and not self.address.startswith("https://"):
            raise ValueError("ca_file does nothing without TLS; write https:// in url")
        return self


def check_url(text: str) -> None:
    """Raise `ValueError`, without the URL, if it is none that a webhook can go to."""
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise ValueError("url is not a valid URL") from None
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\x00-\x1f]", text):
        raise ValueError("url must begin with https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("url must not hold a user or a password; set bearer_token or headers")
    if parts.fragment or port == 0:
        raise ValueError("url must not hold a fragment or port 0")


class Webhooks(Section):
    """What all targets share."""

    group_id: str = Field("stream-detector-webhooks", min_length=1)
    """Each target's consumer group is this, a hyphen, its name."""
    start: Literal["latest", "earliest"] = "latest"
    """Which alerts a target gets that is new."""
    retries: Delays = RETRIES
    """From one try to the next; after the last, dead letters."""
    jitter: float = Field(0.1, ge=0, le=1, allow_inf_nan=False)
    """So much of each is added at random, at most."""
    max_retry_after: Duration = HOUR
    """What receivers may ask for by `Retry-After`."""
    circuit_failures: int = Field(5, ge=1)
    """In a row; then one probe at a time."""
    max_waiting: int = Field(1_000, ge=1, le=100_000)
    """Unfinished alerts of a target in memory; then no more are read."""
    allow_internal: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    """Hosts, addresses or networks that are internal and may be reached all the same."""
    metrics_port: int = Field(9465, ge=0, le=65_535)
    """The rest is as in `[metrics]`."""
    targets: dict[str, Target] = Field(default_factory=dict)
    """By name: letters, digits, `_` and `-`, at most 64."""

    @model_validator(mode="after")
    def _reachable(self) -> Webhooks:
        for name, target in self.targets.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"targets.{name}: a name holds letters, digits, _ and -, at most 64")
            try:
                self._check_address(target)
            except ValueError as error:
                raise ValueError(f"targets.{name}: {error}") from None
        return self

    def _check_address(self, target: Target) -> None:
        """What can be said without a look-up; `adapters.webhook.guard` looks at every address that is connected to."""
        parts = urlsplit(target.address)
        host = (parts.hostname or "").lower()
        if parts.scheme == "http" and not self.allow_internal:
            raise ValueError("url must begin with https://, unless webhooks.allow_internal holds its host")
        try:
            address = ip_address(host)
        except ValueError:
            return
        if not address.is_global and not self.allows(host, str(address)):
            raise ValueError("url leads to an internal address; add it to webhooks.allow_internal if it should")

    def allows(self, host: str, address: str) -> bool:
        """Whether requests to this host, found at this address, may go there though it be internal."""
        found = ip_address(address)
        networks = [network_of(entry) for entry in self.allow_internal]
        return host.lower() in self.allow_internal or any(
            network is not None and network.version == found.version and found in network for network in networks
        )


def shown(target: Target) -> str:
    """Scheme, host and port of a target: the rest of its URL may be secret."""
    parts = urlsplit(target.address)
    return f"{parts.scheme}://{parts.netloc}"
