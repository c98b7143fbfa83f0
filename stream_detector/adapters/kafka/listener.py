"""Carries the group's rebalances from the client's event loop to the pipeline."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.future import Future
from kafka.structs import TopicPartition

Handler = Callable[[list[TopicPartition]], None]


class Rebalances(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Calls handlers in a thread of their own while `KafkaConsumer.poll` waits for them.

    kafka-python calls listeners on its event loop, where blocking stops the heartbeats and where the consumer
    cannot be asked anything. In a thread beside it a handler may take its time, deliver, and even commit. The
    thread that polls waits meanwhile, so there are never two at work.
    """

    def __init__(self, assigned: Handler, revoked: Handler, lost: Handler) -> None:
        self._assigned, self._revoked, self._lost = assigned, revoked, lost
        self._wake: Callable[[], None] = lambda: None
        self._failure: BaseException | None = None

    def attach(self, wake: Callable[[], None]) -> None:
        """``wake`` makes the event loop look again: a future completed by another thread does not."""
        self._wake = wake

    def raise_failure(self) -> None:
        """Raise what a handler raised; from the listener it would come wrapped, and logged as a mistake."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        await self._beside(self._assigned, assigned)

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        await self._beside(self._revoked, revoked)

    async def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        await self._beside(self._lost, lost)

    async def _beside(self, handler: Handler, partitions: Collection[TopicPartition]) -> None:
        done = Future()

        def run() -> None:
            try:
                handler(sorted(partitions))
            except BaseException as error:  # raised again where `poll` was called
                self._failure = self._failure or error
            done.success(None)
            self._wake()

        threading.Thread(target=run, name="kafka-rebalance", daemon=True).start()
        await done
