"""Starting fake hosts for the length of a test."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from poolcore.replica import State
from support.fake_pool import FakePool
from support.fake_server import FakeHost
from support.small_pool import small_pool


@asynccontextmanager
async def fake_hosts(number: int = 1, state: State | None = None) -> AsyncIterator[list[FakeHost]]:
    """Hosts of one pool, serving on loopback ports."""
    pool = FakePool(state or small_pool())
    hosts = [FakeHost(pool) for _ in range(number)]
    try:
        for host in hosts:
            await host.start()
        yield hosts
    finally:
        for host in hosts:
            await host.stop()


@contextmanager
def served() -> Iterator[tuple[FakeHost, asyncio.AbstractEventLoop]]:
    """A fake host in a thread of its own."""
    ready, ended = threading.Event(), threading.Event()
    found: list[tuple[FakeHost, asyncio.AbstractEventLoop]] = []

    async def serve() -> None:
        async with fake_hosts() as [host]:
            found.append((host, asyncio.get_running_loop()))
            ready.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    ready.wait()
    try:
        yield found[0]
    finally:
        ended.set()
        thread.join()
