"""Settings: one TOML file, every key also as an environment variable, secrets also from files.

``STREAM_DETECTOR__SECTION__KEY`` wins over the file. A key that ends in ``_file`` names a file that holds the value of
the key without that ending (for secrets). This module is the only reader of the environment.
"""

from __future__ import annotations

import os
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import (
    SettingsError as SettingsFileError,
)

from stream_detector.errors import SettingsError
from stream_detector.policy import Alerts as Alerts  # others take it from here
from stream_detector.policy import Faults, Feature, Group, check_groups
from stream_detector.sections import Duration, Section, together
from stream_detector.targets import Target, Webhooks

PREFIX = "STREAM_DETECTOR__"
SECRETS = ("password", "secret", "token", "url", "routing_key", "headers")  # keys whose values are never shown


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError("give an IANA time zone such as Europe/Berlin") from None
    return value


class Kafka(Section):
    """kafka-python's own names, passed through unchanged; those below have defaults of ours."""

    model_config = ConfigDict(extra="allow", frozen=True)

    bootstrap_servers: str | list[str] = "127.0.0.1:9092"
    """Brokers to begin with: one text with commas, or a list."""
    group_id: str = Field("stream-detector", min_length=1)
    """The consumer group. Workers of the same group share the partitions."""
    group_instance_id: str | None = None
    """A name that stays, for static membership; it must differ from worker to worker."""
    auto_offset_reset: Literal["earliest", "latest"] = "earliest"
    """Where a group starts that never committed."""
    sasl_plain_password: SecretStr | None = None
    """For `sasl_mechanism` PLAIN and SCRAM."""
    sasl_oauth_token_file: Path | None = None
    """Ours: holds the token for OAUTHBEARER, read anew at each login."""
    ssl_password: SecretStr | None = None
    """Of the key in `ssl_keyfile`."""
    proxy_url: SecretStr | None = None
    """A proxy to the brokers. May hold a password, hence secret."""
    socks5_proxy: SecretStr | None = None
    """The same under its older name."""

    def client(self) -> dict[str, Any]:
        """What was set, secrets revealed, as keyword arguments of kafka-python."""
        given = self.model_dump(exclude_none=True, exclude={"sasl_oauth_token_file"})
        return {
            key: value.get_secret_value() if isinstance(value, SecretStr) else value for key, value in given.items()
        }


class Topics(Section):
    """Names of topics; all differ."""

    events: str = "sensor-events"
    """Events are read from here."""
    scores: str = "sensor-scores"
    """One record a window goes here."""
    alerts: str = "sensor-alerts"
    """One record a change of an alert goes here."""
    dead_letters: str = "sensor-events-dead-letters"
    """Events that cannot be used go here."""
    embeddings: str = "sensor-embeddings"
    """What the model's code makes of each window; used with `publish.embeddings` alone."""
    webhook_dead_letters: str = "sensor-alerts-webhook-dead-letters"
    """Alerts that a target did not take; used by `stream-detector webhooks` alone."""

    @model_validator(mode="after")
    def _distinct(self) -> Topics:
        name, times = Counter(self.model_dump().values()).most_common(1)[0]
        if times > 1:
            *most, last = type(self).model_fields
            raise ValueError(f"{name!r} is given twice; {', '.join(most)} and {last} need a topic each")
        return self


class Redis(Section):
    """Where windows live."""

    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """`redis://`, or `rediss://` for TLS. May hold a password, hence secret."""
    username: str | None = None
    """Of Redis' ACL; it and the password win over those in the URL."""
    password: SecretStr | None = None
    """Of that user, or of Redis where there are no users."""
    ca_file: Path | None = None
    """An authority for `rediss://`; the system's count too."""
    cert_file: Path | None = None
    """The certificate that we show, if Redis asks for one."""
    key_file: Path | None = None
    """Its key."""
    cluster: bool = False
    """Whether the URL names a node of a Redis Cluster; any will do."""
    timeout: Duration = 5_000
    """To connect, and for each answer."""
    prefix: str = Field("sd", min_length=1, pattern=r"^[^{}\s]+$")
    """Begins each key, so that several services can share one Redis."""

    @model_validator(mode="after")
    def _no_contradictions(self) -> Redis:
        together(self, "cert_file", "key_file")
        for key in ("ca_file", "cert_file"):
            if getattr(self, key) is not None and not self.url.get_secret_value().startswith("rediss://"):
                raise ValueError(f"{key} does nothing without TLS; write rediss:// in url")
        if self.username is not None and self.password is None:
            raise ValueError("username needs password too; set both, or write them into url")
        return self


class Columns(Section):
    """How the fields of events and the columns of files are named."""

    sensor_id: str = "sensor_id"
    """The sensor's id. Where an event has none, the record's key is taken."""
    timestamp: str = "timestamp"
    """When it was measured."""
    values: str = "values"
    """The object that holds the values; they may also stand beside the others."""
    ignored: list[str] = Field(default_factory=list)
    """Fields that are no features."""
    label: str | None = None
    """A column of labels, for `train`; no feature."""
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    """Of timestamps that name none: an IANA name such as `Europe/Berlin`."""


class EventRules(Section):
    """Which events are taken."""

    unknown_features: Literal["reject", "ignore"] = "reject"
    """What becomes of an event with features that the bundle does not know."""
    unknown_sensors: Literal["accept", "reject"] = "accept"
    """… of sensors that the bundle was not trained on."""
    missing: Literal["last", "mean", "reject"] = "last"
    """Stands in for a missing value: the sensor's last, the mean of training, or nothing (dead letter)."""
    max_bytes: int = Field(65_536, gt=0)
    """Longer messages are dead letters."""
    max_sensor_id: int = Field(256, gt=0)
    """Characters; longer ids are dead letters."""
    max_future: Duration = 3_600_000
    """How far a timestamp may lie beyond the record's own at the broker."""


class Window(Section):
    """What a sensor's window holds. Durations are event time."""

    length: int | None = Field(None, ge=1)
    """Events in a window: the bundle's, and checked against it."""
    stride: int | None = Field(None, ge=1)
    """Events from window to window: the bundle's if not given."""
    grace: Duration = 0
    """An event that is older than its sensor's newest by more than this is late: a dead letter."""
    duplicates: Literal["drop", "keep"] = "drop"
    """What becomes of an event that repeats a sensor's timestamp."""
    max_gap: Duration | Literal["learned", "off"] = "learned"
    """After a longer silence of a sensor its window starts over; `learned`: than any of its windows in training."""
    clock_reset: Duration | None = None
    """An event further behind: the clock was set back and the window starts over; by default it is late."""
    ttl: Duration = 7 * 86_400_000
    """A sensor this far behind its partition's newest event is forgotten."""
    max_sensors: int = Field(100_000, gt=0, le=10_000_000)
    """Per partition; events of more sensors are dead letters."""

    @model_validator(mode="after")
    def _apart(self) -> Window:
        if self.clock_reset is not None and self.clock_reset <= self.grace:
            raise ValueError("clock_reset must be longer than grace: what is late by less is no reset of the clock")
        return self


class Silence(Section):
    """Alerts of kind `silence`: a sensor that was expected to speak and did not."""

    after: Duration | Literal["off", "learned"] = "off"
    """How long is too long; `learned`: by the usual interval of each sensor in training."""
    factor: float = Field(10.0, gt=1)
    """With `learned`: silent for so many usual intervals …"""
    at_least: Duration = 60_000
    """… and for so long."""
    sensors: dict[str, Duration] = Field(default_factory=dict)
    """By pattern of sensor ids, such as `{"pump-*" = "5m"}`; the first that fits wins."""


class Publish(Section):
    """What is published beside alerts."""

    scores: Literal["all", "anomalous", "none"] = "all"
    """Which scores go to their topic."""
    embeddings: bool = False
    """What the model's code makes of each window, to a topic of its own."""


class Delivery(Section):
    """How results and positions are committed, and what is read again after a loss of state."""

    mode: Literal["exactly_once", "at_least_once"] = "exactly_once"
    """`at_least_once`: for brokers without transactions; records may repeat after a crash, ids the same."""
    transaction_timeout: Duration = 10_000
    """What takes longer is given up and tried again."""
    fenced: Literal["rejoin", "exit"] = "rejoin"
    """What a worker does that another has taken over from."""
    lookback_events: int | None = Field(None, ge=1)
    """Read again where Redis lost its state: of each sensor; else a window and what hysteresis counts …"""
    lookback_time: Duration = 86_400_000
    """… or by the records' own timestamps …"""
    lookback_limit: int = Field(1_000_000, ge=0)
    """… or events of a partition, whichever bound comes first."""


class Access(Section):
    """A port that is listened on, and who may ask there."""

    host: str = "127.0.0.1"
    """The address that is listened on. Think before you open it to a network."""
    port: int = Field(0, ge=0, le=65_535)
    """The port that is listened on; 0 takes a free one."""
    tls_cert_file: Path | None = None
    """With `tls_key_file`: https. Both are read anew when they change."""
    tls_key_file: Path | None = None
    """The certificate's key."""
    username: str | None = None
    """Who may ask, by HTTP's basic authentication; needs `password`."""
    password: SecretStr | None = None
    """Of that user."""

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        together(self, "tls_cert_file", "tls_key_file")
        together(self, "username", "password")
        if self.username is not None and ":" in self.username:
            raise ValueError("username must not hold a colon; HTTP puts one between user and password")
        return self


class Metrics(Access):
    """User and password are asked for at /metrics; /livez and /readyz stay open."""

    port: int = Field(9464, ge=0, le=65_535)
    """The port that is listened on; 0 takes a free one, `run --workers` counts up from it."""
    worst_sensors: int = Field(10, ge=0, le=1_000)
    """So many sensors, those with the highest scores, have series of their own …"""
    firing_sensors: int = Field(50, ge=0, le=1_000)
    """… and so have so many with an open alert, the most severe first."""


class Page(Access):
    """The live page. On a port of its own: orchestrators need the other one, and the page shows what was measured."""

    enabled: bool = False
    """Whether `run` serves the page."""
    port: int = Field(9564, ge=0, le=65_535)
    """The port that is listened on; 0 takes a free one, `run --workers` counts up from it."""
    names: list[str] = Field(default_factory=list)
    """Host names it answers to, beside those of loopback."""


class Bundle(Section):
    """The model that judges."""

    path: str | None = None
    """A bundle, or a registry of them; a folder or a URL such as `s3://bucket/models`."""
    reload: Duration | Literal["off"] = 30_000
    """How often to look for another one there."""


class Device(Section):
    """What the model runs on."""

    max_batch_windows: int = Field(1_024, ge=1)
    """More windows are scored in several calls; the device's memory decides."""


class Poll(Section):
    """How much is read at a time."""

    max_records: int = Field(20_000, ge=1, le=100_000)
    """In a batch, hence in a transaction."""
    max_window_bytes: int = Field(268_435_456, ge=1)
    """Of a batch's windows; wide models get smaller batches."""
    timeout: Duration = 500
    """How long a poll waits for events."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    kafka: Kafka = Kafka()
    topics: Topics = Topics()
    redis: Redis = Redis()
    columns: Columns = Columns()
    events: EventRules = EventRules()
    window: Window = Window()
    alerts: Alerts = Alerts()
    groups: dict[str, Group] = {}
    """The first whose pattern fits a sensor counts; `train` learns what the sensors of each have in common."""
    features: dict[str, Feature] = {}
    faults: Faults = Faults()
    silence: Silence = Silence()
    publish: Publish = Publish()
    delivery: Delivery = Delivery()
    metrics: Metrics = Metrics()
    page: Page = Page()
    bundle: Bundle = Bundle()
    device: Device = Device()
    poll: Poll = Poll()
    webhooks: Webhooks = Webhooks()

    @model_validator(mode="after")
    def _groups(self) -> Settings:
        check_groups(self.groups, self.alerts)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, which comes in as init arguments."""
        return _Environment(settings_cls), init_settings


class _Environment(EnvSettingsSource):
    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Say what is wanted where pydantic would only say that JSON is broken."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            raise ValueError(f'{field_name}: give JSON, such as ["a", "b"] for a list') from None


def duration(name: str, text: str | None) -> int | None:
    """Milliseconds of a duration on the command line, such as ``"5m"``. Raises `SettingsError`."""
    if text is None:
        return None
    try:
        return TypeAdapter(Duration).validate_python(text)
    except ValidationError as error:
        raise SettingsError(f"{name} {text}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def worker_environment(index: int, port: int, page: int = 0) -> dict[str, str]:
    """The environment of one of several worker processes: each has a port for metrics and one for a page."""
    ports = {"METRICS": port, "PAGE": page}
    return os.environ | {f"{PREFIX}{name}__PORT": str(first + index if first else 0) for name, first in ports.items()}


def load_settings(config: Path | None = None) -> Settings:
    """Read, merge and validate. Raises `SettingsError` with one line that names key, value and remedy."""
    given: dict[str, Any] = {}
    if config is not None:
        try:
            given = tomllib.loads(config.read_text("utf-8"))
        except OSError as error:
            raise SettingsError(f"{config}: {error.strerror}; give --config a TOML file that exists") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{config}: not valid TOML: {error}") from error
    try:
        _reject_stray_variables(os.environ)
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError(_explain(error, config, os.environ)) from None
    except SettingsFileError as error:  # an environment variable that should hold JSON does not
        raise SettingsError(f"{PREFIX}…: {error.__cause__ or error}") from None


def _reject_stray_variables(environment: Mapping[str, str]) -> None:
    """A misspelt section in a variable's name would otherwise be ignored in silence."""
    for name in environment:
        if name.upper().startswith(PREFIX):
            section = name[len(PREFIX) :].split("__")[0].lower()
            if section not in Settings.model_fields:
                known = ", ".join(Settings.model_fields)
                raise SettingsError(f"{name}: no section {section!r}; use one of: {known}")


def _explain(error: ValidationError, config: Path | None, environment: Mapping[str, str]) -> str:
    """The first of pydantic's findings as one line: where, what is wrong, what stood there."""
    found = error.errors(include_url=False)[0]
    named = _named(found["loc"])  # tables of sections
    place = [str(part) for part in found["loc"]][: 2 + named]  # deeper is only which type of a union was tried
    key = ".".join(place) or "settings"
    variable = PREFIX + "__".join(place).upper()
    given = {name.upper() for name in environment}
    where = f"{variable}: " if variable in given else f"{config}: " if config is not None else ""
    if found["type"] == "extra_forbidden":
        tables: dict[str, Any] = {"groups": Feature if named == 3 else Group, "features": Feature}
        if named:
            tables["webhooks"] = Target
        section = tables.get(place[0], Settings.model_fields[place[0]].annotation) if len(place) > 1 else Settings
        known = section.model_fields if isinstance(section, type) and issubclass(section, BaseModel) else {}
        return f"{where}{key}: unknown setting; use one of: {', '.join(known)}"
    message = found["msg"].removeprefix("Value error, ")
    if len(place) == 1 + named and found["type"] == "model_type":
        return f"{where}{key}: a section, not a value; write [{key}] and its keys below"
    value = found.get("input")
    simple = isinstance(value, (str, int, float, bool)) and not any(word in key for word in SECRETS)
    got = f" (got {value!r})" if simple else ""
    return f"{where}{key}: {message}{got}"


def _named(place: tuple[int | str, ...]) -> int:
    """How many more parts the name of a key has than section and key: the names of tables of sections."""
    if place[:2] == ("webhooks", "targets") and len(place) > 2:
        return 2
    if place[:1] == ("groups",) and place[2:3] == ("features",) and len(place) > 3:
        return 3
    return int(place[:1] in (("groups",), ("features",)))
