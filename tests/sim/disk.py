"""What a simulated host keeps while its power is off, and the files a daemon sees of it."""

from __future__ import annotations

import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.model import PoolId
from poolcore.replica import State
from poolcore.wire.channels import OpenChannel
from poolmaster.layout import read_head
from poolmaster.store import urls
from poolmaster.store.contract import Compare, ReadResult, Store, StoreUnavailable, Write
from poolmaster.store.etcd.store import EtcdOptions, EtcdStore
from poolmaster.store.memory import MemoryStore, MemoryStoreData
from poolmember.etcd.member import EtcdMember
from poolmember.identity import Identity, Membership, Own
from poolmember.session import Replica
from poolmember.state_dir import REPLICA_FILE, STORE_FILE
from support.memory_replica import MemoryReplica, ReplicaContent
from support.stores import StoreAround

if TYPE_CHECKING:
    from sim.etcd_raft import Node

ETCD = "etcd:"


class PowerCut(BaseException):
    """The machine is off: nothing that would have come next comes."""


@dataclass
class StoreOnDisk:
    """A store's file."""

    pool: PoolId
    incarnation: str
    data: MemoryStoreData = field(default_factory=MemoryStoreData)


@dataclass
class OwnMember:
    """A member of the pool's own etcd."""

    started_as: EtcdMember
    node: Node


@dataclass
class Disk:
    """Everything that is durable at a host."""

    identity: Identity | None = None
    full: bool = False
    """Whether replicas and stores cannot be written any more."""
    failed_syncs: int = 0
    """So many writes of the replica are told as failed from now on, although they got there."""
    silent: bool = False
    """Whether what the replica holds cannot be read."""
    store: StoreOnDisk | None = None
    replica: ReplicaContent | None = None
    voter: OwnMember | None = None
    """The host's member of the pool's own etcd."""

    def retire(self, name: str) -> None:
        """Put a database aside."""
        match name:
            case "store.db":
                self.store = None
            case "replica.db":
                self.replica = None
            case _:
                raise ValueError(name)


class Power(Protocol):
    """The daemon's supply; `ensure` raises `PowerCut` once it is off."""

    def ensure(self) -> None: ...


@dataclass
class Hooks:
    """Who looks on, and who pulls the plug."""

    store_founded: Callable[[StoreOnDisk], None]
    replica_changed: Callable[[ReplicaContent], None]
    identity_changed: Callable[[], None]
    about_to_commit: Callable[[Sequence[Write]], None]
    committed: Callable[[Sequence[Write]], None]
    new_handle: Callable[[MemoryStore], None]
    around: Callable[[Store], Store]


class PoweredStore(StoreAround):
    """A handle that is of use only while its daemon has power."""

    def __init__(self, inner: Store, power: Power, hooks: Hooks, disk: Disk) -> None:
        super().__init__(inner)
        self._disk = disk
        self._power = power
        self._hooks = hooks

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        self._power.ensure()
        self._hooks.about_to_commit(writes)
        self._power.ensure()
        if self._disk.full:
            raise StoreUnavailable("nothing was written: database or disk is full")
        applied = await super().transact(compares, writes)
        self._power.ensure()
        if applied:
            self._hooks.committed(writes)
        self._power.ensure()
        return applied

    async def read(
        self,
        start: bytes,
        end: bytes | None = None,
        *,
        limit: int | None = None,
        linearizable: bool = True,
    ) -> ReadResult:
        self._power.ensure()
        result = await super().read(start, end, limit=limit, linearizable=linearizable)
        self._power.ensure()
        return result


class DiskReplica(MemoryReplica):
    """A replica on a disk that may not say what it holds."""

    def __init__(
        self,
        content: ReplicaContent,
        disk: Disk,
        *,
        sync: Callable[[], Awaitable[None]],
        changed: Callable[[ReplicaContent], None],
    ) -> None:
        super().__init__(content, sync=sync, changed=changed)
        self._disk = disk

    async def load(self) -> tuple[State | None, int]:
        if self._disk.silent:
            raise _unwritable("disk I/O error")
        return await super().load()


class DiskFiles:
    """Implements `poolmember.files.Files` on a `Disk`."""

    def __init__(
        self,
        disk: Disk,
        power: Power,
        hooks: Hooks,
        *,
        shared: dict[str, StoreOnDisk],
        open_channel: OpenChannel,
        clock: Clock,
        dice: random.Random,
    ) -> None:
        self._disk = disk
        self._shared = shared
        self._open_channel = open_channel
        self._dice = dice
        self._power = power
        self._hooks = hooks
        self._clock = clock
        self._replicas: list[MemoryReplica] = []
        self._in_etcd: list[EtcdStore] = []

    async def close(self) -> None:
        """Give back what a daemon that has died does not."""
        for store in self._in_etcd:
            await store.close()

    def lose_power(self) -> None:
        """What was being written has got to the disk, or it has not."""
        for replica in self._replicas:
            if self._dice.random() < 0.5:
                with suppress(PoolError):
                    replica.finish_writing()

    @property
    def identity(self) -> Identity | None:
        return self._disk.identity

    def write_identity(self, identity: Identity, *, retire: Sequence[str] = ()) -> None:
        self._power.ensure()
        self._disk.identity = identity
        for name in retire:
            self._disk.retire(name)
        self._hooks.identity_changed()

    def retire(self, name: str) -> None:
        self._power.ensure()
        self._disk.retire(name)

    def finish_interrupted(self) -> None:
        """What opening a state directory does with a founding that was cut short."""
        identity = self._disk.identity
        if identity is not None and identity.membership is None:
            for name in (STORE_FILE, REPLICA_FILE):
                self._disk.retire(name)

    async def found_store(
        self, pool: PoolId, shared: str | None, *, incarnation: str | None = None
    ) -> tuple[Store, str]:
        self._power.ensure()
        if shared is not None and shared.startswith(ETCD):
            return await self._found_in_etcd(pool, shared, incarnation or str(uuid.uuid4()))
        present = self._disk.store if shared is None else self._shared.get(shared)
        if present is not None and (shared is None or present.pool != pool):
            raise PoolError(
                Reason.STATE_OF_ANOTHER_POOL, path="store", found="a pool", expected="none"
            )
        if present is not None:
            return self._handle(present), present.incarnation
        store = StoreOnDisk(pool, incarnation or str(uuid.uuid4()))
        if shared is None:
            self._disk.store = store
        else:
            self._shared[shared] = store
        self._hooks.store_founded(store)
        return self._handle(store), store.incarnation

    async def open_store(self, membership: Membership) -> Store:
        self._power.ensure()
        shared = membership.store
        if shared is not None and shared.startswith(ETCD):
            options = self._options(shared)
            named = membership.incarnation if isinstance(membership, Own) else None
            return self._kept(
                await EtcdStore.open(options, pool=membership.pool, incarnation=named)
            )
        store = self._disk.store if shared is None else self._shared.get(shared)
        own = isinstance(membership, Own) and membership.incarnation
        if store is None or store.pool != membership.pool or own not in {False, store.incarnation}:
            raise PoolError(Reason.STATE_CORRUPT, path="store", problem="it is not there")
        return self._handle(store)

    async def _found_in_etcd(self, pool: PoolId, url: str, incarnation: str) -> tuple[Store, str]:
        options = self._options(url)
        try:
            store = await EtcdStore.found(options, pool=pool, incarnation=incarnation)
        except PoolError as error:
            if error.reason is not Reason.STATE_OF_ANOTHER_POOL:
                raise
            store = await EtcdStore.open(options, pool=pool)
            head = await read_head(store)
            if head is not None and head.term > 1:
                await store.close()
                raise
        return self._kept(store), store.incarnation

    def _options(self, url: str) -> EtcdOptions:
        parsed = urls.parse(url)
        assert isinstance(parsed, urls.EtcdUrl)
        return replace(parsed.options, clock=self._clock, open_channel=self._open_channel)

    def _kept(self, store: EtcdStore) -> Store:
        self._in_etcd.append(store)
        return self._hooks.around(store)

    async def open_replica(self, pool: PoolId) -> Replica:
        self._power.ensure()
        if self._disk.replica is None:
            self._disk.replica = ReplicaContent(pool)
        content = self._disk.replica
        if content.pool != pool:
            raise PoolError(
                Reason.STATE_OF_ANOTHER_POOL, path="replica", found=content.pool, expected=pool
            )

        async def sync() -> None:
            # Most often quick, sometimes slow: what must wait for it has the time to go wrong.
            await self._clock.sleep(self._dice.choice([0.001, 0.001, 0.001, 0.08]))
            self._power.ensure()
            if self._disk.full:
                raise _unwritable("database or disk is full")

        def changed(content: ReplicaContent) -> None:
            self._hooks.replica_changed(content)
            if self._disk.failed_syncs:
                self._disk.failed_syncs -= 1
                raise _unwritable("disk I/O error")

        replica = DiskReplica(content, self._disk, sync=sync, changed=changed)
        self._replicas.append(replica)
        return replica

    def _handle(self, store: StoreOnDisk) -> Store:
        handle = MemoryStore(store.data, clock=self._clock)
        handle.faults.latency_seconds = 0.0005
        self._hooks.new_handle(handle)
        return PoweredStore(self._hooks.around(handle), self._power, self._hooks, self._disk)


def _unwritable(problem: str) -> PoolError:
    return PoolError(Reason.STATE_UNWRITABLE, path="replica.db", problem=problem)
