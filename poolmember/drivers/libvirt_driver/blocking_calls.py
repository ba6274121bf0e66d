"""Blocking calls in a few threads of their own, each with a deadline.

A thread cannot be stopped while the library waits for a daemon that hangs. So a call that has run
out of time is left alone: its caller goes on with an error, its thread stays occupied until the
library comes back, and when all threads are occupied further calls fail in time as well. The
threads are daemonic, which those of `concurrent.futures.ThreadPoolExecutor` are not: the
interpreter would wait for them at its end, for ever.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from poolmember.drivers.contract import DriverError

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Call:
    what: str
    function: Callable[[], Any]
    outcome: Future[Any] = field(default_factory=Future)
    started: float = 0.0


class BlockingCalls:
    """At most `threads` calls at once, in the order in which they came."""

    def __init__(self, *, threads: int, timeout_seconds: float) -> None:
        self._threads = threads
        self._timeout_seconds = timeout_seconds
        self._started = 0
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._running: list[_Call] = []
        self._closed = False

    async def run(
        self, what: str, function: Callable[[], T], *, timeout_seconds: float | None = None
    ) -> T:
        """The result of `function`, called in a thread, or what it raised.

        Raises `DriverError` naming `what` when that does not come in time, the wait for a thread
        included. Then `function` is not called any more, or its result is dropped.
        """
        limit_seconds = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        deadline = asyncio.timeout(limit_seconds)
        try:
            async with deadline:
                return await asyncio.wrap_future(self.begin(what, function))
        except TimeoutError:
            # The function may have raised one of its own.
            if not deadline.expired():
                raise
            raise DriverError(self._too_late(what, limit_seconds)) from None

    def begin(self, what: str, function: Callable[[], T]) -> Future[T]:
        """Have `function` called as soon as a thread is free, without a deadline."""
        if self._closed:
            raise DriverError(f"{what}: closed")
        call = _Call(what, function)
        self._queue.put(call)
        if self._started < self._threads:
            self._started += 1
            threading.Thread(target=self._work, name=what, daemon=True).start()
        return call.outcome

    def close(self, last: Callable[[], object] | None = None) -> Future[Any]:
        """Take no more calls, and let the threads end when those they have are done.

        `last` is called after them, by the first thread to end; the future has its outcome.
        """
        self._closed = True
        call = _Call("the last call", last or (lambda: None))
        if self._started:
            self._queue.put(call)
            for _ in range(self._started):
                self._queue.put(None)
        else:
            call.outcome.set_result(None)
        return call.outcome

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            if not call.outcome.set_running_or_notify_cancel():
                continue
            call.started = time.monotonic()
            self._running.append(call)
            try:
                result = call.function()
            except BaseException as error:
                # Whatever it is, it belongs to the caller.
                call.outcome.set_exception(error)
            else:
                call.outcome.set_result(result)
            self._running.remove(call)
            # The next call may be long in coming, and this one's data with it.
            del call

    def _too_late(self, what: str, limit_seconds: float) -> str:
        error = f"{what}: no answer within {limit_seconds:g} s"
        oldest = min(list(self._running), key=lambda call: call.started, default=None)
        if oldest is None or oldest.what == what:
            return error
        waiting = time.monotonic() - oldest.started
        return f"{error}; “{oldest.what}” has not been answered for {waiting:.1f} s"
