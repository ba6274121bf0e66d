"""Daemons that share their pool's store, and so elect their master."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from poolcore.errors import PoolError
from poolcore.replica import Delta, Head
from poolmanager.v1 import pool_service_pb2
from poolmaster.layout import HEAD, PAGE, decode_head, read_head, read_log
from poolmaster.store import urls
from poolmaster.store.contract import Store, StoreUnavailable, prefix_end
from support.daemons import WAIT_SECONDS, Cluster, ProcessHost
from support.wholeness import identity_of

STORE_FILE = "pool.db"
NAMES = ("phantom", "ignite", "specter")
READ_ON_SECONDS = 2.0
"""How often what was committed is read: the pool keeps 10,000 commits."""
ALONE_SHARE = 0.375
"""Of the clients: so many know a single host each."""


class Chain:
    """The log of commits in the store, as it is read meanwhile.

    From revision 1 on, if the pool was founded in that store; in one that it has moved into, from
    where the log of its master's replica began. Has to be read before the pool forgets what was
    not: it keeps 10,000 commits.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reading = asyncio.Lock()
        self.deltas: list[Delta] = []

    async def head(self) -> Head:
        """The register, now."""
        head = await read_head(self._store)
        assert head is not None
        return head

    async def heads(self) -> AsyncIterator[Head]:
        """The register as it moves, from the founding on; etcd leaves none of its values out."""
        async for event in self._store.watch(HEAD, prefix_end(HEAD), after_version=0):
            assert event.value is not None, "the register has gone"
            yield decode_head(event.value)

    async def read_on(self) -> None:
        """Take what was committed since; checks that nothing is missing in between."""
        async with self._reading:
            while page := await read_log(self._store, after=self._newest, limit=PAGE):
                for delta, _ in page:
                    if self.deltas:
                        assert delta.commit.revision == self._newest + 1, "a revision is missing"
                        assert delta.predecessor == self.deltas[-1].commit
                        assert delta.commit.term >= self.deltas[-1].commit.term
                    self.deltas.append(delta)

    async def keep_reading(self) -> NoReturn:
        """Take everything before the pool forgets it, until cancelled."""
        while True:
            # Without a quorum nothing can be read for a while, and nothing is forgotten.
            with suppress(StoreUnavailable):
                await self.read_on()
            await asyncio.sleep(READ_ON_SECONDS)

    @property
    def _newest(self) -> int:
        return self.deltas[-1].commit.revision if self.deltas else 0

    @property
    def begins_after(self) -> int:
        """The revision before the first one that was read."""
        return self.deltas[0].predecessor.revision

    @property
    def requests(self) -> dict[str, int]:
        """Which revision each request has become; checks that none became two."""
        made: dict[str, int] = {}
        for delta in self.deltas:
            if delta.request is not None:
                assert delta.request.id not in made, f"{delta.request.id} was made twice"
                made[delta.request.id] = delta.commit.revision
        return made


@dataclass
class SharedPool:
    """Three hosts of one pool, each a daemon of its own."""

    hosts: tuple[ProcessHost, ...]
    file: Path | None
    """The store's, if it is in one."""
    chain: Chain

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where all of them answer."""
        return tuple(host.endpoint for host in self.hosts)

    def known_to(self, clients: int) -> list[tuple[str, ...]]:
        """The addresses that each of so many clients knows: all hosts', or one of them."""
        ends = self.endpoints
        alone_from = clients - round(ALONE_SHARE * clients)
        return [ends if n < alone_from else (ends[n % len(ends)],) for n in range(clients)]

    async def one_master(self) -> ProcessHost:
        """Until every host names the same master, which says that it leads; that host."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                named = {await master_by(host) for host in self.hosts}
                if len(named) == 1 and (name := named.pop()):
                    return next(host for host in self.hosts if host.name == name)
                await asyncio.sleep(0.02)

    def others(self, *hosts: ProcessHost) -> list[ProcessHost]:
        """All but these."""
        return [host for host in self.hosts if host not in hosts]

    async def master(self) -> ProcessHost:
        """The host that the register names."""
        return self.master_in(await self.chain.head())

    def master_in(self, head: Head) -> ProcessHost:
        """The host that a value of the register names."""
        return next(host for host in self.hosts if identity_of(host).host == head.master)

    async def another_master(self, than: ProcessHost) -> ProcessHost:
        """Until another host is named in the register, and says that it leads; that host."""
        async with asyncio.timeout(WAIT_SECONDS):
            # The register is watched by looking, as the daemons do.
            while (host := await self.master()) is than:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await host.says("master of pool")
        return host

    async def freeze(self, host: ProcessHost) -> None:
        """Stop a daemon, but not in the middle of a transaction on a file.

        It would keep the store's lock then, and nobody could take over: a limit of hosts that
        share a file.
        """
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                host.signal(signal.SIGSTOP)
                await host.stopped()
                if self._may_be_written():
                    return
                host.signal(signal.SIGCONT)
                await asyncio.sleep(0.003)

    def _may_be_written(self) -> bool:
        if self.file is None:
            return True
        with closing(sqlite3.connect(self.file, timeout=0.0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.execute("ROLLBACK")
            return True

    async def attached(self, master: ProcessHost) -> None:
        """Until every host has a session with the master and is less than a second behind."""
        async with master.api() as api, asyncio.timeout(WAIT_SECONDS):
            while True:
                status = await api.status()
                if all(host.live and host.lag_seconds < 1.0 for host in status.hosts):
                    return
                await asyncio.sleep(0.02)

    def check_masterships(self) -> None:
        """That one host led in each term, as the daemons' logs tell it."""
        found: dict[int, str] = {}
        pool = f" is master of pool {NAMES[0]}, term "
        for host in self.hosts:
            for line in host.log.splitlines():
                if pool in line:
                    term = int(line.rpartition(pool)[2])
                    assert term not in found, f"term {term}: {found[term]} and {host.name}"
                    found[term] = host.name
        assert found.keys() >= {delta.commit.term for delta in self.chain.deltas} - {1}


async def master_by(host: ProcessHost) -> str:
    """Who is master as a host tells it, with an answer that is fresh; empty if it cannot."""
    async with host.api() as api:
        try:
            status = await api.status()
        except PoolError:
            return ""
    masters = [h.name for h in status.hosts if h.role == pool_service_pb2.ROLE_MASTER]
    return "" if status.freshness.stale or len(masters) != 1 else masters[0]


@asynccontextmanager
async def shared_pool(
    cluster: Cluster, folder: Path, *, sims: Sequence[str] = ("", "", ""), url: str = ""
) -> AsyncIterator[SharedPool]:
    """A pool of three whose store is there, or `STORE_FILE` in `folder`; phantom is the master."""
    file = None if url else folder / STORE_FILE
    url = url or f"sqlite://{file}"
    hosts = [
        cluster.process(name, sim=sim, options=() if nth else [f"--store={url}"])
        for nth, (name, sim) in enumerate(zip(NAMES, sims, strict=True))
    ]
    await cluster.start(*hosts)
    await join_all(hosts)
    async with pool_at(hosts, url, file=file) as pool:
        yield pool


async def join_all(hosts: Sequence[ProcessHost]) -> None:
    """Have the first host's pool take all others in, until each has everything."""
    first, *others = hosts
    async with first.api() as api:
        for other in others:
            await api.join(other.endpoint)
        await api.in_step()


@asynccontextmanager
async def pool_at(
    hosts: Sequence[ProcessHost], url: str, *, file: Path | None = None
) -> AsyncIterator[SharedPool]:
    """The pool of these hosts whose store is at `url`, in `file` if that is one."""
    async with hosts[0].api() as api:
        pool = (await api.status()).pool_uuid
    store = await urls.open_store(url, pool=pool)
    try:
        chain = Chain(store)
        await chain.read_on()
        yield SharedPool(tuple(hosts), file, chain)
    finally:
        await store.close()
