"""No exception of kafka-python gets past the adapter."""

from __future__ import annotations

import inspect
import time

import kafka.errors
import pytest

from stream_detector.adapters.kafka.failures import FENCED, REMEDIES, translate, translated, within
from stream_detector.errors import Fenced, Refused, SettingsError, StreamDetectorError, Unavailable

EVERY = [
    kind
    for _, kind in inspect.getmembers(kafka.errors, inspect.isclass)
    if issubclass(kind, Exception) and kind.__module__ == "kafka.errors"
]


def made(kind: type[Exception]) -> Exception:
    return kind({}, "text\nof two lines") if kind is kafka.errors.LogTruncationError else kind("text\nof two lines")


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_is_translated_into_one_line(kind: type[Exception]) -> None:
    translation = translate(made(kind), "reading")
    assert type(translation) in (Fenced, Refused, SettingsError, Unavailable)
    assert "\n" not in str(translation)
    with pytest.raises(StreamDetectorError), translated("reading"):
        raise made(kind)


@pytest.mark.parametrize("kind", EVERY)
def test_kinds_of_errors_stay_together(kind: type[Exception]) -> None:
    translation = translate(made(kind), "reading")
    if issubclass(kind, FENCED):
        assert isinstance(translation, Fenced)
    elif issubclass(kind, kafka.errors.AuthorizationError):
        assert isinstance(translation, Refused)
    elif issubclass(kind, kafka.errors.RetriableError) and kind not in REMEDIES:
        assert isinstance(translation, Unavailable)


def test_remedies_are_given() -> None:
    error = translate(kafka.errors.TopicAuthorizationFailedError({"t"}), "reading")
    assert str(error).endswith("grant this user READ on the events topic and WRITE on the others")


def test_wrapped_errors_are_recognised() -> None:
    """kafka-python wraps the cause in a KafkaError: as an argument, as the cause, or in words only."""
    fenced = kafka.errors.ProducerFencedError()
    assert isinstance(translate(kafka.errors.KafkaError("Cannot send", fenced), "x"), Fenced)
    assert isinstance(translate(kafka.errors.KafkaError(f"in an error state: {fenced}"), "x"), Fenced)
    caused = kafka.errors.KafkaError("callback")
    caused.__cause__ = fenced
    assert isinstance(translate(caused, "x"), Fenced)


def test_our_own_errors_and_mistakes_pass() -> None:
    with pytest.raises(Fenced, match=r"^ours$"), translated("x"):
        raise Fenced("ours")
    with pytest.raises(TypeError), translated("x"):
        raise TypeError


def test_within_gives_up_and_passes_on() -> None:
    assert within(1.0, max, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        within(1.0, lambda: 1 // 0)
    with pytest.raises(kafka.errors.KafkaTimeoutError):
        within(0.05, time.sleep, 0.5)
