"""The thread in which the event loop of a blocking client runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

R = TypeVar("R")


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._main, name="poolclient", daemon=True)

    def _main(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await self._stop.wait()

    def start(self) -> None:
        """Start the thread; returns when the loop runs."""
        self._thread.start()
        self._started.wait()

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """The result of a coroutine that runs in the loop."""
        if self._loop is None or not self._thread.is_alive():
            coroutine.close()
            raise RuntimeError("enter the client first: `with BlockingPoolClient.connect(...)`")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[R]) -> Iterator[R]:
        """The items of an asynchronous iterator, which is closed when the caller has enough."""
        end = object()

        async def following() -> Any:
            return await anext(items, end)

        async def close() -> None:
            aclose = getattr(items, "aclose", None)
            if aclose is not None:
                await aclose()

        try:
            while (item := self.run(following())) is not end:
                yield item
        finally:
            if self._thread.is_alive():
                self.run(close())

    def stop(self) -> None:
        """End the loop and the thread."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
