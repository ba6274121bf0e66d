"""Clients that write, read and lock through random hosts, and record what they were told."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random

import grpc

from poolclient import LockHeld, LockLost, OutcomeUnknown, PoolClient, PoolClientError
from poolcore.errors import Reason
from poolcore.model import Lock
from poolcore.requests import request_id
from poolcore.wire.channels import open_channel
from poolcore.wire.status import error_from_rpc
from poolmanager.v1 import host_service_pb2, host_service_pb2_grpc, patch_pb2
from support.history import Call, History, Kind
from support.timeline import entry_key, lock_key

ENTRIES = 16
"""Registers at each host."""
LOCKS = 3
NEVER_SECONDS = 86_400
"""A lock's time to live: nobody but a client ends it."""
TIMEOUT_SECONDS = (0.5, 6.0)
"""Of a call, at least and at most."""
PATIENCE_SECONDS = 20.0
"""Of a call of a client that waits for its host: longer than any fault."""
PAUSE_SECONDS = 0.02
"""Of each client between two calls."""
MAY_BE_MADE = {
    Reason.OUTCOME_UNKNOWN,
    Reason.DEADLINE_PASSED,
    Reason.NO_HOST_ANSWERS,
    Reason.INTERNAL_ERROR,
}
"""What a call without the client library may end with although it was made, or is made later."""
CONNECTED_CALLS = 200
"""How many calls a client makes, at most, before it connects to other hosts."""


@dataclass
class Clients:
    """What they have in common."""

    history: History
    addresses: Sequence[str]
    hosts: Sequence[str]
    """By their names: these have the registers."""
    refusals: Counter[Reason] = field(default_factory=Counter)
    """How often a call failed, and why."""
    orphans: set[str] = field(default_factory=set)
    """Holders of locks that nobody will give up: it is not known that they have been taken."""
    over: bool = False
    """Whether each client is to end after the call that it makes."""

    async def read_at(self, address: str, name: str, chance: Random) -> None:
        """A client of one host that only reads, and waits for its answers, until the end.

        It has a call at a host that stands still: that is what this host answers first when it
        goes on, and may not know yet that it is not the master any more.
        """
        while not self.over:
            try:
                async with PoolClient.connect(address) as pool:
                    client = _Client(self, name, pool, chance, count())
                    while not self.over:
                        await client.read(PATIENCE_SECONDS)
                        await asyncio.sleep(PAUSE_SECONDS)
            except PoolClientError as error:
                self.refusals[error.reason] += 1
                await asyncio.sleep(PAUSE_SECONDS)

    async def write_plainly(self, name: str, chance: Random) -> None:
        """A script without this project's library and without request ids, until the end.

        Nobody can repeat such a write without knowing what became of it, so each refusal is told.
        """
        for number in count():
            if self.over:
                return
            address, host = chance.choice(self.addresses), chance.choice(self.hosts)
            entry, mark = f"register{chance.randrange(ENTRIES)}", f"{name} {number}"
            call = self.history.begin(name, entry_key(host, entry), Kind.WRITE, mark)
            patch = patch_pb2.MetadataPatch(set_other_config={entry: mark})
            request = host_service_pb2.UpdateHostRequest(host=host, patch=patch)
            async with open_channel(address) as channel:
                stub = host_service_pb2_grpc.HostServiceStub(channel)
                try:
                    done = await stub.UpdateHost(request, timeout=chance.uniform(*TIMEOUT_SECONDS))
                except grpc.aio.AioRpcError as error:
                    reason = error_from_rpc(error).reason
                    # Without details it is gRPC's, of a connection that was reset.
                    if reason is not Reason.INTERNAL_ERROR:
                        self.refusals[reason] += 1
                    if reason not in MAY_BE_MADE:
                        call.failed()
                else:
                    call.ok(revision=done.revision)
            await asyncio.sleep(PAUSE_SECONDS)

    async def run(self, name: str, chance: Random) -> None:
        """One client, until the end: with hosts of its choice for a while, then with others."""
        numbers = count()
        while not self.over:
            known = chance.sample(self.addresses, chance.randint(1, len(self.addresses)))
            try:
                async with PoolClient.connect(*known) as pool:
                    await _Client(self, name, pool, chance, numbers).run()
            except PoolClientError as error:
                self.refusals[error.reason] += 1
                await asyncio.sleep(PAUSE_SECONDS)


@dataclass
class _Client:
    """One client, as long as it stays with the same hosts."""

    common: Clients
    name: str
    pool: PoolClient
    chance: Random
    numbers: Iterator[int]

    async def run(self) -> None:
        for _ in range(self.chance.randint(1, CONNECTED_CALLS)):
            if self.common.over:
                return
            (call,) = self.chance.choices([self._read, self._write, self._lock], [5, 4, 1])
            await call()
            await asyncio.sleep(PAUSE_SECONDS)

    def _begin(
        self, key: str, kind: Kind, value: str | None = None, *, expected: str | None = None
    ) -> Call:
        return self.common.history.begin(self.name, key, kind, value, expected=expected)

    def _refused(self, call: Call, error: PoolClientError) -> None:
        """What is known when a call has raised an error: that nothing was done, or nothing."""
        self.common.refusals[error.reason] += 1
        if not isinstance(error, OutcomeUnknown) and error.reason is not Reason.INTERNAL_ERROR:
            call.failed()

    @property
    def _timeout(self) -> float:
        return self.chance.uniform(*TIMEOUT_SECONDS)

    def _mark(self) -> str:
        return f"{self.name} {next(self.numbers)}"

    # -- entries ----------------------------------------------------------------------------------

    async def _read(self) -> None:
        await self.read(self._timeout)

    async def read(self, timeout_seconds: float) -> None:
        """Read one register, with so much time."""
        host, entry = self.chance.choice(self.common.hosts), self._entry()
        call = self._begin(entry_key(host, entry), Kind.READ)
        try:
            found, freshness = await self.pool.hosts.read(host, timeout_seconds=timeout_seconds)
        except PoolClientError as error:
            self._refused(call, error)
            return
        call.ok(
            value=found.other_config.get(entry),
            revision=freshness.revision,
            stale=freshness.stale,
            # A host without a master says since when.
            behind=freshness.stale and not freshness.age_seconds,
            host=self.pool.address,
        )

    async def _write(self) -> None:
        """One write; half of those of unknown outcome are asked again until that is known."""
        host, entry, mark = self.chance.choice(self.common.hosts), self._entry(), self._mark()
        asked = request_id(self.pool.revision, secrets.token_hex(8))
        insists = self.chance.random() < 0.5
        unknown = False
        call = self._begin(entry_key(host, entry), Kind.WRITE, mark)
        while True:
            try:
                done = await self.pool.hosts.set(
                    host,
                    other_config={entry: mark},
                    request_id=asked,
                    timeout_seconds=self._timeout,
                )
            except PoolClientError as error:
                if unknown := unknown or isinstance(error, OutcomeUnknown):
                    # Of a repetition, a refusal tells nothing about the first attempt.
                    self.common.refusals[error.reason] += 1
                else:
                    self._refused(call, error)
                if not unknown or not insists or self.common.over:
                    return
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                call.ok(revision=done.revision)
                return

    def _entry(self) -> str:
        return f"register{self.chance.randrange(ENTRIES)}"

    # -- locks ------------------------------------------------------------------------------------

    async def _lock(self) -> None:
        """Take a lock and give it up, or break it if its holder is nobody any more."""
        name, holder = f"lock{self.chance.randrange(LOCKS)}", self._mark()
        lock = self.pool.lock(name, ttl_seconds=NEVER_SECONDS, holder=holder)
        taking = self._begin(lock_key(name), Kind.SWAP, holder)
        try:
            await lock.acquire()
        except LockHeld as held:
            taking.found(held.params["holder"])
            if held.params["holder"] in self.common.orphans:
                await self._break(name)
            return
        except PoolClientError as error:
            self._refused(taking, error)
            self.common.orphans.add(holder)
            return
        taking.ok()
        await asyncio.sleep(PAUSE_SECONDS)
        giving = self._begin(lock_key(name), Kind.SWAP, expected=holder)
        try:
            await lock.release()
        except LockLost:
            giving.ok(matched=False)
            return
        if lock.released:
            giving.ok()
        else:
            self.common.orphans.add(holder)

    async def _break(self, name: str) -> None:
        reading = self._begin(lock_key(name), Kind.READ)
        try:
            lock, freshness = await self.pool.locks.read(name, timeout_seconds=self._timeout)
        except PoolClientError as error:
            self._refused(reading, error)
            return
        reading.ok(value=lock.holder, revision=freshness.revision, stale=freshness.stale)
        if lock.holder not in self.common.orphans:
            return
        await self._release(lock)

    async def _release(self, lock: Lock) -> None:
        breaking = self._begin(lock_key(lock.name_label), Kind.SWAP, expected=lock.holder)
        try:
            await self.pool.break_lock(lock, timeout_seconds=self._timeout)
        except PoolClientError as error:
            self._refused(breaking, error)
        else:
            breaking.ok()
