"""Starting fake hosts for the length of a test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
