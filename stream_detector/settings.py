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
    group_id: str = Field("stream-detector", min_length=1)
    group_instance_id: str | None = None
    auto_offset_reset: Literal["earliest", "latest"] = "earliest"  # where a group starts that never committed
    sasl_plain_password: SecretStr | None = None
    sasl_oauth_token_file: Path | None = None  # ours: holds the token for OAUTHBEARER, read anew at each login
    ssl_password: SecretStr | None = None
    proxy_url: SecretStr | None = None  # may hold a password
    socks5_proxy: SecretStr | None = None

    def client(self) -> dict[str, Any]:
        """What was set, secrets revealed, as keyword arguments of kafka-python."""
        given = self.model_dump(exclude_none=True, exclude={"sasl_oauth_token_file"})
        return {
            key: value.get_secret_value() if isinstance(value, SecretStr) else value for key, value in given.items()
        }


class Topics(Section):
    events: str = "sensor-events"
    scores: str = "sensor-scores"
    alerts: str = "sensor-alerts"
    dead_letters: str = "sensor-events-dead-letters"
    embeddings: str = "sensor-embeddings"  # used with publish.embeddings alone
    webhook_dead_letters: str = "sensor-alerts-webhook-dead-letters"  # used by `stream-detector webhooks` alone

    @model_validator(mode="after")
    def _distinct(self) -> Topics:
        name, times = Counter(self.model_dump().values()).most_common(1)[0]
        if times > 1:
            *most, last = type(self).model_fields
            raise ValueError(f"{name!r} is given twice; {', '.join(most)} and {last} need a topic each")
        return self


class Redis(Section):
    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")  # may hold a password, hence secret
    username: str | None = None  # of Redis' ACL; it and the password win over those in the URL
    password: SecretStr | None = None
    ca_file: Path | None = None  # for rediss://; the system's authorities count too
    cert_file: Path | None = None
    key_file: Path | None = None
    timeout: Duration = 5_000
    prefix: str = Field("sd", min_length=1, pattern=r"^[^{}\s]+$")

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
    timestamp: str = "timestamp"
    values: str = "values"
    ignored: list[str] = Field(default_factory=list)
    label: str | None = None
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"  # of timestamps that name none


class EventRules(Section):
    unknown_features: Literal["reject", "ignore"] = "reject"
    unknown_sensors: Literal["accept", "reject"] = "accept"  # known: those that the bundle was trained on
    missing: Literal["last", "mean", "reject"] = "last"
    max_bytes: int = Field(65_536, gt=0)
    max_sensor_id: int = Field(256, gt=0)
    max_future: Duration = 3_600_000  # beyond the record's own timestamp at the broker


class Window(Section):
    length: int | None = Field(None, ge=1)  # the bundle's, and checked against it
    stride: int | None = Field(None, ge=1)
    grace: Duration = 0
    duplicates: Literal["drop", "keep"] = "drop"
    max_gap: Duration | None = None  # None: no gap starts a window over
    clock_reset: Duration | None = None  # an event further behind: the sensor's clock was set back; None: it is late
    ttl: Duration = 7 * 86_400_000
    max_sensors: int = Field(100_000, gt=0, le=10_000_000)  # per partition

    @model_validator(mode="after")
    def _apart(self) -> Window:
        if self.clock_reset is not None and self.clock_reset <= self.grace:
            raise ValueError("clock_reset must be longer than grace: what is late by less is no reset of the clock")
        return self


class Silence(Section):
    """Alerts of kind `silence`: a sensor that was expected to speak and did not."""

    after: Duration | Literal["off", "learned"] = "off"  # learned: by the usual interval of each sensor in training
    factor: float = Field(10.0, gt=1)  # learned: silent for so many usual intervals …
    at_least: Duration = 60_000  # … and for so long
    # By pattern of sensor ids, such as {"pump-*" = "5m"}; the first that fits wins:
    sensors: dict[str, Duration] = Field(default_factory=dict)


class Publish(Section):
    scores: Literal["all", "anomalous", "none"] = "all"
    embeddings: bool = False  # what the model's code makes of each window, to a topic of its own


class Delivery(Section):
    mode: Literal["exactly_once", "at_least_once"] = "exactly_once"
    transaction_timeout: Duration = 10_000
    fenced: Literal["rejoin", "exit"] = "rejoin"  # what a worker does that another has taken over from
    # What is read again where Redis has lost its state, whichever bound comes first:
    lookback_events: int | None = Field(None, ge=1)  # of each sensor; None: a window and what hysteresis counts
    lookback_time: Duration = 86_400_000  # by the records' own timestamps
    lookback_limit: int = Field(1_000_000, ge=0)  # events of a partition


class Access(Section):
    """A port that is listened on, and who may ask there."""

    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65_535)
    tls_cert_file: Path | None = None  # both: https; read anew when they change
    tls_key_file: Path | None = None
    username: str | None = None
    password: SecretStr | None = None
    worst_sensors: int = Field(10, ge=0, le=1_000)  # have series of their own …
    firing_sensors: int = Field(50, ge=0, le=1_000)  # … and so have so many with an open alert

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


class Page(Access):
    """The live page. On a port of its own: orchestrators need the other one, and the page shows what was measured."""

    enabled: bool = False
    port: int = Field(9564, ge=0, le=65_535)
    names: list[str] = Field(default_factory=list)  # host names it answers to, beside those of loopback


class Bundle(Section):
    path: str | None = None  # a bundle, or a registry of them; a folder or a URL such as s3://bucket/models
    reload: Duration | Literal["off"] = 30_000  # how often to look for another one there


class Device(Section):
    max_batch_windows: int = Field(1_024, ge=1)


class Poll(Section):
    max_records: int = Field(20_000, ge=1, le=100_000)  # in a batch, hence in a transaction
    max_window_bytes: int = Field(268_435_456, ge=1)  # of a batch's windows; wide models get smaller batches
    timeout: Duration = 500


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    kafka: Kafka = Kafka()
    topics: Topics = Topics()
    redis: Redis = Redis()
    columns: Columns = Columns()
    events: EventRules = EventRules()
    window: Window = Window()
    alerts: Alerts = Alerts()
    groups: dict[str, Group] = {}  # the first whose pattern fits a sensor counts
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
        tables: dict[str, Any] = {"groups": Group, "features": Feature}
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
    return int(place[:1] in (("groups",), ("features",)))
