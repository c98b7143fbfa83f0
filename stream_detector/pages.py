"""The live page of a pipeline: put together here, since it needs the pipeline's device."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import NamedTuple

from stream_detector.adapters.page import Board, Listener, LivePage
from stream_detector.errors import SettingsError, Unavailable
from stream_detector.events import Float32
from stream_detector.pipeline import Pipeline
from stream_detector.settings import Page


class Showing(NamedTuple):
    """What a replay does with the page."""

    access: Page
    opened: Callable[[str], None]  # told the address
    stay: bool = False  # whether it is shown on when the replay has ended, until a signal comes
    anywhere: bool = False  # whether any free port will do where the wanted one is taken


def page_of(pipeline: Pipeline, listener: Listener, state: Callable[[], tuple[bool, str]]) -> LivePage:
    """The page, not open yet. ``listener`` is one of the pipeline's observers."""
    rules = pipeline.rules
    board = Board(rules.features, rules.length, grace=rules.grace, clock_reset=rules.clock_reset, clock=time.monotonic)

    def expect(sensors: list[str], values: Float32) -> Float32 | None:
        """What the model expects, by the thread that runs the device, between two batches."""
        try:
            answer = pipeline.device.submit(pipeline.scorer.expect, sensors, values, [])
        except RuntimeError:  # that thread has ended, and so nobody else calls the device
            return pipeline.scorer.expect(sensors, values, [])
        with suppress(CancelledError, Unavailable):
            return answer.result()
        return None

    return LivePage(listener, board, lambda: pipeline.models.things, state=state, expect=expect)


def open_page(page: LivePage, showing: Showing) -> None:
    """Open it and tell where. Raises `SettingsError` for a port that is not to be had."""
    try:
        address = page.open(showing.access)
    except SettingsError:
        if not showing.anywhere:
            raise
        address = page.open(showing.access.model_copy(update={"port": 0}))
    showing.opened(address)
