"""kafka-python's exceptions, translated into ours: what may pass, what was refused, what ends our ownership."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import kafka.errors as kafka_errors
from kafka.consumer.fetcher import RecordTooLargeError

from stream_detector.errors import Fenced, Refused, SettingsError, StreamDetectorError, Unavailable

T = TypeVar("T")

FENCED = (
    kafka_errors.ProducerFencedError,
    kafka_errors.InvalidProducerEpochError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.UnknownMemberIdError,
    kafka_errors.CommitFailedError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.FencedMemberEpochError,
    kafka_errors.StaleMemberEpochError,
)

# What will not pass by itself, and what to do about it.
REMEDIES: dict[type[Exception], str] = {
    kafka_errors.TopicAuthorizationFailedError: ("grant this user READ on the events topic and WRITE on the others"),
    kafka_errors.GroupAuthorizationFailedError: "grant this user READ on the consumer group kafka.group_id",
    kafka_errors.TransactionalIdAuthorizationFailedError: (
        "grant this user WRITE and DESCRIBE on transactional ids prefixed with kafka.group_id,"
        ' or set delivery.mode = "at_least_once"'
    ),
    kafka_errors.ClusterAuthorizationFailedError: "grant this user IDEMPOTENT_WRITE on the cluster",
    kafka_errors.AuthorizationError: "grant this user the permission",
    kafka_errors.SaslAuthenticationFailedError: "check kafka.sasl_plain_username and …_password",
    kafka_errors.UnsupportedSaslMechanismError: "set kafka.sasl_mechanism to one that the broker enables",
    kafka_errors.IllegalSaslStateError: "set kafka.security_protocol to what the listener uses",
    kafka_errors.SecurityDisabledError: "the broker has no authorizer; set one up",
    # A frozen worker that wakes up while its successor runs under the same name must end, not take over again.
    kafka_errors.FencedInstanceIdError: (
        "another worker runs with the same kafka.group_instance_id; give each its own"
    ),
    kafka_errors.UnreleasedInstanceIdError: "give each worker its own kafka.group_instance_id",
    kafka_errors.UnknownTopicOrPartitionError: "create the topic, or correct its name in [topics]",
    kafka_errors.InvalidTopicError: "correct the topic's name in the [topics] section",
    kafka_errors.MessageSizeTooLargeError: "raise the topic's max.message.bytes and kafka.max_request_size",
    kafka_errors.RecordListTooLargeError: "raise segment.bytes of the topic or lower kafka.batch_size",
    RecordTooLargeError: "raise kafka.max_partition_fetch_bytes",
    kafka_errors.InvalidRequiredAcksError: 'set kafka.acks = "all"',
    kafka_errors.InconsistentGroupProtocolError: (
        "the group's other members use another kafka.partition_assignment_strategy; give all the same"
    ),
    kafka_errors.InvalidGroupIdError: "set kafka.group_id",
    kafka_errors.GroupMaxSizeReachedError: "the group is full: run fewer workers or raise group.max.size",
    kafka_errors.InvalidSessionTimeoutError: "set kafka.session_timeout_ms within the broker's bounds",
    kafka_errors.InvalidTransactionTimeoutError: (
        "lower delivery.transaction_timeout below the broker's transaction.max.timeout.ms"
    ),
    kafka_errors.UnsupportedVersionError: (
        'the broker is too old: use 2.5 or newer, or delivery.mode = "at_least_once"'
    ),
    kafka_errors.UnsupportedForMessageFormatError: "raise the topic's message format to 0.11 or newer",
    kafka_errors.UnrecognizedBrokerVersion: "use a broker of version 2.5 or newer",
    kafka_errors.UnsupportedCodecError: "install the topic's compression: lz4, zstandard or python-snappy",
    kafka_errors.UnsupportedCompressionTypeError: "set another kafka.compression_type",
    kafka_errors.PolicyViolationError: "the broker's policy forbids it; ask whoever runs it",
    kafka_errors.InvalidRecordError: "the broker will not take such records; see the topic's settings",
    kafka_errors.InvalidTimestampError: "see the topic's message.timestamp.before.max.ms and .after.max.ms",
    kafka_errors.OffsetOutOfRangeError: 'set kafka.auto_offset_reset = "earliest"',
    kafka_errors.NoOffsetForPartitionError: 'set kafka.auto_offset_reset = "earliest"',
    kafka_errors.CorruptRecordError: "the log is damaged; restore it, or move the group's offset past it",
    kafka_errors.DelegationTokenExpiredError: "renew the delegation token",
    kafka_errors.UnsupportedAssignorError: "set another kafka.partition_assignment_strategy",
}


def translate(error: BaseException, doing: str) -> StreamDetectorError:
    """What ``error``, which came up while ``doing``, means to us, as one line."""
    if isinstance(error, StreamDetectorError):
        return error
    root = cause(error)
    text = f"Kafka: {doing}: {_one_line(root)}"
    if isinstance(root, kafka_errors.KafkaConfigurationError):
        return SettingsError(f"kafka: {_one_line(root)}")
    if isinstance(root, FENCED):
        return Fenced(text)
    for kind in type(root).__mro__:
        if kind in REMEDIES:
            return Refused(f"{text}; {REMEDIES[kind]}")
    return Unavailable(text)


def cause(error: BaseException) -> BaseException:
    """The exception that matters: some are wrapped in a bare KafkaError, as an argument or as mere text."""
    if type(error) is not kafka_errors.KafkaError:
        return error
    for inner in (*error.args, error.__cause__):
        if isinstance(inner, Exception):
            return cause(inner)
    for name in re.findall(r"\b[A-Z]\w+Error\b", str(error)):
        kind = getattr(kafka_errors, name, None)
        if kind is not None and kind is not kafka_errors.KafkaError:
            found: BaseException = kind(str(error.args[0]))
            return found
    return error


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Kafka's exceptions that come up inside are raised as ours; our own mistakes (TypeError, …) pass."""
    try:
        yield
    except (
        kafka_errors.KafkaError,
        OSError,
        RuntimeError,
    ) as error:  # RuntimeError: its event loop has been closed
        raise translate(error, doing) from error


def within(seconds: float, call: Callable[..., T], *args: Any) -> T:
    """``call(*args)``, given up after ``seconds``: kafka-python waits for transactions without end.

    What was given up goes on in a thread of its own; let go of the client that it hangs on.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call(*args))
        except BaseException as error:  # raised again where it was called
            failure.append(error)

    thread = threading.Thread(target=run, name="kafka-call", daemon=True)
    thread.start()
    thread.join(max(seconds, 0))
    if failure:
        raise failure[0]
    if not outcome:
        raise kafka_errors.KafkaTimeoutError(f"no answer within {seconds:.1f} s")
    return outcome[0]


def _one_line(error: BaseException) -> str:
    name = type(error).__name__
    text = " ".join(str(error).split()).removeprefix(f"{name}: ")
    return text if text.startswith("[Error") or name in text else f"{name}: {text}" if text else name
