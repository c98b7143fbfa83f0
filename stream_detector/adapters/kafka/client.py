"""Settings as arguments of kafka-python's clients; clients that leave nothing behind when they cannot connect."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Self

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.errors import KafkaTimeoutError
from kafka.net.compat import KafkaNetClient

from stream_detector.adapters.kafka.assignor import HonestAssignor
from stream_detector.adapters.kafka.failures import translate
from stream_detector.adapters.kafka.handshake import diagnosis
from stream_detector.adapters.kafka.security import secured
from stream_detector.errors import SettingsError
from stream_detector.settings import Settings

OURS = {
    "enable_auto_commit": "offsets are committed together with the results; remove it",
    "auto_commit_interval_ms": "offsets are committed together with the results; remove it",
    "transactional_id": "it is derived from kafka.group_id and kafka.group_instance_id; remove it",
    "transaction_timeout_ms": "set delivery.transaction_timeout",
    "max_poll_records": "set poll.max_records",
}
OBJECTS = {  # kafka-python takes Python objects there, which a settings file cannot hold
    "default_offset_commit_callback",
    "kafka_client",
    "key_deserializer",
    "key_serializer",
    "metric_reporters",
    "partitioner",
    "sasl_kerberos_name",
    "sasl_oauth_token_provider",  # set sasl_oauth_token_file
    "selector",
    "socket_options",
    "ssl_context",
    "value_deserializer",
    "value_serializer",
}
ASSIGNORS = {
    "cooperative-sticky": HonestAssignor,
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
}
WHOLE = {"receive_buffer_bytes", "send_buffer_bytes", "retries"}  # whose defaults do not tell their type
SECRET = ("password", "secret", "token")

LOGGED = {
    # At debug level it prints keys, values and requests. Where a broker is away, it logs tens of errors a second,
    # of which our own exceptions tell once; and also while it waits for an open transaction, which is no error.
    "kafka": logging.WARNING,
    "kafka.cluster": logging.CRITICAL,
    "kafka.coordinator": logging.CRITICAL,
    "kafka.coordinator.heartbeat": logging.WARNING,
    "kafka.net": logging.CRITICAL,
    "kafka.producer": logging.CRITICAL,
}

SHARED: dict[str, Any] = {
    "bootstrap_timeout_ms": 10_000,
    "reconnect_backoff_max_ms": 1_000,  # kafka-python's 30 s would delay recovery
    "allow_auto_create_topics": False,  # a misspelt topic shall be an error
    "metrics_enabled": False,  # nobody reads them, and they cost time
}
CONSUMER: dict[str, Any] = {
    "request_timeout_ms": 15_000,
    "isolation_level": "read_committed",
    "fetch_max_bytes": 32 * 1024 * 1024,
    "max_partition_fetch_bytes": 4 * 1024 * 1024,
}
PRODUCER: dict[str, Any] = {
    "acks": "all",
    "enable_idempotence": True,
    "compression_type": "lz4",
    "linger_ms": 20,
    "batch_size": 256 * 1024,
    "max_block_ms": 15_000,
    "delivery_timeout_ms": 30_000,
    "request_timeout_ms": 15_000,
}


def consumer_options(settings: Settings) -> dict[str, Any]:
    """Arguments of the group's consumer."""
    options = _options(settings, KafkaConsumer, SHARED | CONSUMER)
    if settings.delivery.mode == "exactly_once" and options["isolation_level"] != "read_committed":
        # It also makes reading the committed offset wait for open transactions: else a hand-over doubles windows.
        got = options["isolation_level"]
        raise SettingsError(
            f"kafka.isolation_level: exactly-once delivery needs read_committed (got {got!r});"
            ' remove it, or set delivery.mode = "at_least_once"'
        )
    options.setdefault("partition_assignment_strategy", [HonestAssignor()])
    # Where to start is decided in `reconcile.py` alone: left to the client, a position that the log no longer reaches
    # would be moved in silence.
    ours = {"enable_auto_commit": False, "auto_offset_reset": "none", "max_poll_records": settings.poll.max_records}
    return options | ours


def producer_options(settings: Settings) -> dict[str, Any]:
    """Arguments of the producer, transactions aside."""
    options = _options(settings, KafkaProducer, SHARED | PRODUCER)
    if options["acks"] not in ("all", -1, "-1") or not options["enable_idempotence"]:
        raise SettingsError('kafka.acks, kafka.enable_idempotence: nothing less than acks = "all" is safe; remove them')
    return options


def admin_options(settings: Settings) -> dict[str, Any]:
    """Arguments of the admin client, for preflight checks."""
    return _options(settings, KafkaAdminClient, SHARED)


def reader_options(settings: Settings) -> dict[str, Any]:
    """Arguments of a consumer that belongs to no group: for reading a span of a topic."""
    options = consumer_options(settings)
    del options["partition_assignment_strategy"]
    options.pop("group_instance_id", None)
    return options | {"group_id": None, "auto_offset_reset": "earliest"}


def connect(kind: Any, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """A client of ``kind`` that has reached a broker, and its network client.

    kafka-python says "unable to bootstrap" whatever went wrong and logs the reason; the reason is put back. What
    it leaves behind when it fails, a thread and sockets, is closed.
    """
    made: list[Any] = []

    def remember(**config: Any) -> Any:
        made.append(KafkaNetClient(**config))
        return made[-1]

    with _Reasons() as reasons:
        try:
            return kind(**options, kafka_client=remember), made[0]
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:  # how it says that a setting is wrong
            _close(made)
            raise SettingsError(f"kafka: {error}") from error
        except Exception as error:  # whatever it is, it is translated
            _close(made)
            if isinstance(error, KafkaTimeoutError) and not (options.get("proxy_url") or options.get("socks5_proxy")):
                found = diagnosis(options["bootstrap_servers"], options)  # which knows no way through a proxy
                if found is not None:
                    raise found from None
            if isinstance(error, KafkaTimeoutError) and reasons.seen:
                error = KafkaTimeoutError(reasons.seen[-1])
            raise translate(error, f"connecting to {_text(options['bootstrap_servers'])}") from None


def _close(clients: list[Any]) -> None:
    for client in clients:
        client.close()


class _Reasons(logging.Handler):
    """Remembers what kafka-python logs about connections, where alone it tells why one failed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []
        self._logger = logging.getLogger("kafka.net.manager")

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        if "failed" in text and "bootstrap failed" not in text.lower():
            self.seen.append((text.partition("failed: ")[2] or text).partition(" (backoff")[0])

    def __enter__(self) -> Self:
        for name, level in LOGGED.items():
            if logging.getLogger(name).level == logging.NOTSET:  # else somebody wants to hear it
                logging.getLogger(name).setLevel(level)
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.WARNING)
        self._logger.propagate = False
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)


def _options(settings: Settings, kind: type[Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What was set, converted, over our defaults, as far as ``kind`` knows the keys."""
    given = {key: _converted(key, value) for key, value in settings.kafka.client().items()}
    merged = secured({**defaults, **given}, settings.kafka.sasl_oauth_token_file)
    return {key: value for key, value in merged.items() if key in kind.DEFAULT_CONFIG}


def _converted(key: str, value: Any) -> Any:
    """One setting in the type that kafka-python expects; variables of the environment are always text."""
    if key in OURS:
        raise SettingsError(f"kafka.{key}: {OURS[key]}")
    if key in OBJECTS:
        raise SettingsError(f"kafka.{key}: a Python object, which cannot be set in a file; remove it")
    kinds = (KafkaConsumer, KafkaProducer, KafkaAdminClient)
    known = [kind.DEFAULT_CONFIG[key] for kind in kinds if key in kind.DEFAULT_CONFIG]
    if not known:
        raise SettingsError(f"kafka.{key}: unknown to kafka-python; remove it, or see its documentation for the name")
    default = known[0]
    try:
        if key == "partition_assignment_strategy":
            names = value.split(",") if isinstance(value, str) else value
            return [ASSIGNORS[str(name).strip()]() for name in names]
        if key == "api_version":
            parts = value.split(".") if isinstance(value, str) else value
            return tuple(int(part) for part in parts)
        if key == "compression_type":
            return None if value == "none" else value
        if isinstance(default, bool):
            return _boolean(value)
        if key in WHOLE or isinstance(default, int):
            return _whole(value)
        if isinstance(default, float):
            return float(value)
        return value
    except (KeyError, TypeError, ValueError):
        got = "" if any(word in key for word in SECRET) else f" (got {value!r})"
        raise SettingsError(f"kafka.{key}: give {_wanted(key, default)}{got}") from None


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[str(value).strip().lower()]


def _whole(value: Any) -> int:
    return int(str(value))  # by way of text, which refuses what only looks like a whole number: true, 1.0


def _wanted(key: str, default: Any) -> str:
    if key == "partition_assignment_strategy":
        return f"a list of {', '.join(ASSIGNORS)}"
    if key == "api_version":
        return 'a version such as "3.8"'
    if isinstance(default, bool):
        return "true or false"
    return "a whole number" if key in WHOLE or isinstance(default, int) else "a number"


def _text(servers: str | list[str]) -> str:
    return servers if isinstance(servers, str) else ",".join(servers)
