"""Hosts that look after their pool's own etcd: where the store is, who votes, and a power cut."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from poolclient import PoolClient
from poolcore.model import Host, TaskStatus
from poolcore.replica import State, dump
from poolmaster.layout import HEAD
from poolmember.etcd.member import EtcdMember
from poolmember.identity import Own
from poolmember.state_dir import ETCD_FOLDER, STORE_FILE
from support.daemons import Cluster, ProcessHost
from support.shared_pool import master_by
from support.wholeness import at_rest, identity_of

NAMES = ("phantom", "ignite", "specter")
MOVE_SECONDS = 60.0
"""etcd takes a pause of 5 s between two changes of its members."""
LOOK_SECONDS = 0.05


@dataclass
class VotingPool:
    """Daemons whose pool keeps its store by itself. The first of them founded the pool."""

    hosts: list[ProcessHost]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where all of them answer."""
        return tuple(host.endpoint for host in self.hosts)

    async def until(self, condition: Callable[[State], bool]) -> State:
        """The first state that fulfils the condition, as the first of the hosts sees it."""
        async with self.hosts[0].api() as api:
            return await api.until(condition, seconds=MOVE_SECONDS)

    async def master(self) -> ProcessHost:
        """Until a host says who leads; that host."""
        async with asyncio.timeout(MOVE_SECONDS):
            while True:
                for host in self.hosts:
                    if name := await master_by(host):
                        return next(h for h in self.hosts if h.name == name)
                await asyncio.sleep(LOOK_SECONDS)

    async def voted_by(self, *names: str) -> State:
        """Until just these hosts vote, none is about to, and nothing is under way."""
        return await self.until(lambda s: voters(s) == set(names) and at_rest(s))

    async def founded(self) -> State:
        """Until the pool has an etcd of its own, and all its hosts know."""
        state = await self.until(lambda s: s.pool.voters is not None and at_rest(s))
        await self.check_one_store()
        return state

    async def without_voters(self) -> State:
        """Until the store is on one host's disk again, and no host runs an etcd any more."""
        state = await self.until(lambda s: s.pool.voters is None and at_rest(s))
        async with asyncio.timeout(MOVE_SECONDS):
            while any(map(etcds, self.hosts)):  # noqa: ASYNC110 - /proc tells nobody
                await asyncio.sleep(LOOK_SECONDS)
        return state

    async def requests(self) -> dict[str, int]:
        """Which revision each request that the pool remembers has become."""
        async with self.hosts[0].api() as api:
            state = await api.state()
        return {record.id: record.revision for record in state.requests.by_id.values()}

    async def caught_up(self, revision: int) -> None:
        """Until all have that commit on their disks, whatever has been written since."""
        async with asyncio.timeout(MOVE_SECONDS):
            # Files tell nobody that they have changed.
            while any(host.replica_revision() < revision for host in self.hosts):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_SECONDS)

    async def same_everywhere(self) -> None:
        """Until all have what the first one sees, on their disks.

        While anything writes that may never be so; `caught_up` is for then.
        """
        async with self.hosts[0].api() as api, asyncio.timeout(MOVE_SECONDS):
            while True:
                with suppress(grpc.aio.AioRpcError):
                    state = dump(await api.state())
                    if all(host.replica() == state for host in self.hosts):
                        return
                await asyncio.sleep(LOOK_SECONDS)

    async def check_one_store(self) -> None:
        """That the store is either in etcd for all hosts, or on the disk of just one."""
        state = await self.until(at_rest)
        async with asyncio.timeout(MOVE_SECONDS):
            # Files tell nobody that they have changed.
            while not self._agree_on_the_store(  # noqa: ASYNC110 - as above
                in_etcd=state.pool.voters is not None
            ):
                await asyncio.sleep(LOOK_SECONDS)

    def _agree_on_the_store(self, *, in_etcd: bool) -> bool:
        memberships = [identity_of(host).membership for host in self.hosts]
        shared = [m is not None and m.store is not None for m in memberships]
        alone = [isinstance(m, Own) and m.store is None for m in memberships]
        stores = list(map(has_store, self.hosts))
        if in_etcd:
            return all(shared) and not any(stores)
        return (
            not any(shared)
            and sum(alone) == 1
            and stores == alone
            and not any(map(etcds, self.hosts))
        )


def voters(state: State) -> set[str] | None:
    """The names of the hosts that vote; none as long as one is about to, or has left the pool."""
    found = state.pool.voters
    if found is None or found.learners:
        return None
    hosts = [state.get(Host, uuid) for uuid in found.hosts]
    return None if None in hosts else {host.name_label for host in hosts if host is not None}


@asynccontextmanager
async def voting_pool(cluster: Cluster, *names: str) -> AsyncIterator[VotingPool]:
    """Hosts that may vote, taken in one after the other by the first."""
    hosts = [cluster.process(name, options=["--voter"]) for name in names or NAMES]
    await asyncio.gather(*(host.start() for host in hosts))
    for host in hosts[1:]:
        await take_in(hosts[0], host)
    yield VotingPool(hosts)


async def take_in(by: ProcessHost, host: ProcessHost) -> None:
    """Have `host` join the pool of `by`."""
    async with PoolClient.connect(by.endpoint) as client:
        task = await (await client.add_host(host.endpoint))
    assert task.status is TaskStatus.SUCCESS, task


def etcds(host: ProcessHost) -> list[int]:
    """The processes of the host's etcd."""
    return etcds_in(host.state_dir / ETCD_FOLDER)


def etcds_in(folder: Path) -> list[int]:
    """The processes of the etcd that has its data in that folder."""
    return list(_with_argument(os.fsencode(f"--data-dir={folder.absolute()}/")))


def _with_argument(beginning: bytes) -> Iterable[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if any(argument.startswith(beginning) for argument in arguments):
                    yield int(entry.name)


def has_store(host: ProcessHost) -> bool:
    """Whether there is a store on the host's disk: a file that has a register."""
    file = host.state_dir / STORE_FILE
    if not file.exists():
        return False
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT 1 FROM kv WHERE key = ?", (HEAD,)).fetchone() is not None


def kill_etcd(host: ProcessHost) -> None:
    """End the host's etcd by SIGKILL."""
    for pid in etcds(host):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def power_cut(host: ProcessHost) -> None:
    """End the host's daemon, and then its etcd, which nobody starts again."""
    await host.kill()
    kill_etcd(host)


async def until_begun(host: ProcessHost) -> None:
    """Until the host's disk says that the log of its etcd has begun."""
    async with asyncio.timeout(MOVE_SECONDS):
        while (member := _member(host)) is None or not member.begun:  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(LOOK_SECONDS)


def lose_the_etcd_of(host: ProcessHost, *, but: str | None) -> None:
    """Remove what a host's etcd has on the disk, except for one file of that name, if any."""
    folder = host.state_dir / ETCD_FOLDER
    kept = None if but is None else (folder / but).read_bytes()
    shutil.rmtree(folder)
    if but is not None and kept is not None:
        folder.mkdir()
        (folder / but).write_bytes(kept)


def token(host: ProcessHost) -> str | None:
    """Which cluster the host has a member of."""
    member = _member(host)
    return None if member is None else member.token


def _member(host: ProcessHost) -> EtcdMember | None:
    return EtcdMember.load(host.state_dir / ETCD_FOLDER)
