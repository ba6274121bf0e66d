"""The engine `etcd` (see `poolmaster.store.contract` for what is promised).

Transactions are etcd's own, sent to one member, once; whatever is not known to have been refused
before it was proposed is `OutcomeUnknown`. Linearizable reads are etcd's default reads; they are
repeated at another member when one does not answer. A local read asks the nearest member for what
it has; it is read anew when that is older than what this object has seen.

A pool has one store in a cluster: one key says of which incarnation it is, and the write of that
key is version 0. All others lie under a prefix of the incarnation's own. Versions are etcd's
revisions counted from there; on a cluster that others write to as well they grow by more than one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import grpc

from poolcore.clock import Clock, SystemClock
from poolcore.errors import PoolError, Reason
from poolmanager.etcd.v3 import rpc_pb2 as pb
from poolmaster.store.contract import (
    Compare,
    Item,
    LeaseGone,
    LeaseId,
    OutcomeUnknown,
    ReadResult,
    StoreUnavailable,
    TransactionTooLarge,
    WatchEvent,
    WatchGone,
    Write,
    check_written_once,
)
from poolmaster.store.etcd.calls import (
    COMPACT,
    LEASE_GRANT,
    LEASE_REVOKE,
    RANGE,
    TXN,
    WATCH,
    described,
    is_lease_gone,
    is_too_large,
    was_not_applied,
)
from poolmaster.store.etcd.cluster import Cluster, Tls

log = logging.getLogger(__name__)

T = TypeVar("T")

TRANSACT_SECONDS = 2.0
"""How long a transaction may take before its outcome is called unknown."""
REWATCH_SECONDS = 0.05
"""From the end of a watch's stream to the next attempt."""
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """How a cluster is reached and used."""

    addresses: tuple[str, ...]
    """`host:port` of each member, the nearest first."""
    PREFIX: ClassVar[str] = "poolmaster/"
    prefix: str = PREFIX
    """Below which everything is."""
    tls: Tls | None = None
    kept_versions: int | None = None
    """How many versions watches may start from; none leaves compaction to the cluster's owner."""
    clock: Clock = field(default_factory=SystemClock)


class EtcdStore:
    """A handle on one incarnation's store in a cluster. Made by `found` or `open`; to be closed."""

    engine = "etcd"

    def __init__(
        self, cluster: Cluster, options: EtcdOptions, *, pool: str, incarnation: str, base: int
    ) -> None:
        self.pool = pool
        self.incarnation = incarnation
        self._cluster = cluster
        self._identity = _identity_key(options, pool)
        self._keys = f"{options.prefix}{pool}/{incarnation}/".encode()
        self._kept_versions = options.kept_versions
        self._clock = options.clock
        self._base = base
        """etcd's revision at version 0."""
        self._seen = 0
        """The newest version that this object has told anybody of."""
        self._compacted = 0
        self._flying: set[asyncio.Task[Any]] = set()
        self._closed = asyncio.Event()

    @classmethod
    async def found(
        cls, options: EtcdOptions, *, pool: str, incarnation: str, replacing: str | None = None
    ) -> EtcdStore:
        """Found an empty store for a pool that has none in this cluster, or one `replacing` it.

        Raises `PoolError` `STATE_OF_ANOTHER_POOL` if there is one of another incarnation,
        `ETCD_VERSION_REFUSED`, `StoreUnavailable`, or `OutcomeUnknown`: then `open` says whether it was founded.
        """
        key = _identity_key(options, pool)
        cluster = Cluster(options.addresses, clock=options.clock, tls=options.tls)
        try:
            await cluster.endpoint()
            await cluster.check_versions()
            before = None if replacing is None else _identity_value(pool, replacing)
            answer = await _sent(
                cluster,
                pb.TxnRequest(
                    compare=[_compare(b"", Compare(key, before))],
                    success=[_write(b"", Write(key, _identity_value(pool, incarnation)))],
                    failure=[pb.RequestOp(request_range=pb.RangeRequest(key=key))],
                ),
            )
            if not answer.succeeded:
                kvs = answer.responses[0].response_range.kvs
                there = json.loads(kvs[0].value)["incarnation"] if kvs else "none"
                raise _of_another(key, pool, there, replacing or "no store")
            base = answer.header.revision
            return cls(cluster, options, pool=pool, incarnation=incarnation, base=base)
        except BaseException:
            await cluster.close()
            raise

    @classmethod
    async def open(
        cls, options: EtcdOptions, *, pool: str, incarnation: str | None = None
    ) -> EtcdStore:
        """Open the store of a pool, of this incarnation if one is named.

        Raises `PoolError` `STORE_MISSING` when the cluster has none, `STATE_OF_ANOTHER_POOL` when
        it is of another incarnation, `STATE_SCHEMA_TOO_NEW`, `ETCD_VERSION_REFUSED`, or
        `StoreUnavailable`.
        """
        key = _identity_key(options, pool)
        cluster = Cluster(options.addresses, clock=options.clock, tls=options.tls)
        try:
            kvs = (await _read(cluster, pb.RangeRequest(key=key))).kvs
            if not kvs:
                raise PoolError(Reason.STORE_MISSING, pool=pool, store=f"etcd:{key.decode()}")
            await cluster.check_versions()
            found = json.loads(kvs[0].value)
            if found["schema"] > SCHEMA:
                raise PoolError(
                    Reason.STATE_SCHEMA_TOO_NEW,
                    path=f"etcd:{key.decode()}",
                    found=str(found["schema"]),
                    known=str(SCHEMA),
                )
            if incarnation not in {None, found["incarnation"]}:
                raise _of_another(key, pool, found["incarnation"], incarnation or "")
            return cls(
                cluster,
                options,
                pool=pool,
                incarnation=found["incarnation"],
                base=kvs[0].mod_revision,
            )
        except BaseException:
            await cluster.close()
            raise

    # -- transactions and reads -------------------------------------------------------------------

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        """As `Store.transact`, within the cluster's limits."""
        check_written_once(writes)
        # A pool's store that was founded anew is shut to whoever has the one before it open.
        ours = pb.Compare(key=self._identity, target=pb.Compare.MOD, mod_revision=self._base)
        request = pb.TxnRequest(
            compare=[ours, *(_compare(self._keys, compare) for compare in compares)],
            success=[_write(self._keys, write) for write in writes],
        )
        return await self._to_its_end(self._transact(request))

    async def _transact(self, request: pb.TxnRequest) -> bool:
        answer = await _sent(self._cluster, request)
        self._see(answer.header)
        await self._compact_if_due()
        return answer.succeeded

    async def read(
        self,
        start: bytes,
        end: bytes | None = None,
        *,
        limit: int | None = None,
        linearizable: bool = True,
    ) -> ReadResult:
        """As `Store.read`."""
        if limit is not None and limit < 1:
            raise ValueError("limit must be 1 or more")
        self._ensure_open()
        if end is not None and end <= start:
            # etcd would take an end of nothing for no end at all.
            end = start
        request = pb.RangeRequest(
            key=self._keys + start,
            range_end=b"" if end is None else self._keys + end,
            limit=limit or 0,
            serializable=not linearizable,
        )
        answer = await _read(self._cluster, request)
        if answer.header.revision - self._base < self._seen:
            request.serializable = False
            answer = await _read(self._cluster, request)
        self._see(answer.header)
        items = tuple(
            Item(kv.key[len(self._keys) :], kv.value, kv.mod_revision - self._base)
            for kv in answer.kvs
        )
        return ReadResult(items, answer.header.revision - self._base, answer.more)

    # -- watching ---------------------------------------------------------------------------------

    async def watch(
        self, start: bytes, end: bytes, *, after_version: int
    ) -> AsyncIterator[WatchEvent]:
        """As `Store.watch`; every change, as long as it is kept."""
        seen = after_version
        while not self._closed.is_set():
            # One earlier than needed: of the oldest revision that is kept, removals are not.
            request = pb.WatchCreateRequest(
                key=self._keys + start,
                range_end=self._keys + end,
                start_revision=max(self._base + seen, 1),
                progress_notify=True,
            )
            with suppress(StoreUnavailable, grpc.aio.AioRpcError):
                async with self._cluster.stream(WATCH) as (_, stream):
                    await stream.write(pb.WatchRequest(create_request=request))
                    async for answer in self._answers(stream):
                        if answer.compact_revision:
                            raise WatchGone(answer.compact_revision - self._base)
                        if answer.canceled:
                            break
                        for event in answer.events:
                            told = self._told(event)
                            if told.version > seen:
                                yield told
                            if self._closed.is_set():
                                return
                        seen = max(seen, answer.header.revision - self._base)
            await self._clock.sleep(REWATCH_SECONDS)

    async def _answers(self, stream: Any) -> AsyncIterator[pb.WatchResponse]:
        """What a watch's stream tells, until it or this object ends."""
        closed = asyncio.ensure_future(self._closed.wait())  # noqa: TID251 - awaited below
        try:
            while True:
                reading = asyncio.ensure_future(stream.read())  # noqa: TID251 - awaited below
                try:
                    await asyncio.wait((reading, closed), return_when=asyncio.FIRST_COMPLETED)
                    answer = reading.result() if reading.done() else None
                finally:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
                if not isinstance(answer, pb.WatchResponse):
                    return
                yield answer
        finally:
            closed.cancel()

    def _told(self, event: pb.Event) -> WatchEvent:
        key, version = event.kv.key[len(self._keys) :], event.kv.mod_revision - self._base
        removed = event.type == pb.Event.DELETE
        return WatchEvent(key, None if removed else event.kv.value, version)

    # -- leases -----------------------------------------------------------------------------------

    async def grant_lease(self, ttl_seconds: float) -> LeaseId:
        """As `Store.grant_lease`, in whole seconds, and not shorter than the cluster allows."""
        self._ensure_open()
        request = pb.LeaseGrantRequest(ttl=max(math.ceil(ttl_seconds), 1))
        # A lease that is granted and not known of ends by itself.
        answer = await _asked(self._cluster.ask(LEASE_GRANT, request))
        return LeaseId(answer.id)

    async def keep_alive(self, lease: LeaseId) -> bool:
        """As `Store.keep_alive`."""
        self._ensure_open()
        return await self._cluster.keep_alive(lease) > 0

    async def revoke(self, lease: LeaseId) -> None:
        """As `Store.revoke`."""
        self._ensure_open()
        try:
            answer = await self._cluster.ask(LEASE_REVOKE, pb.LeaseRevokeRequest(id=lease))
        except grpc.aio.AioRpcError as error:
            if not is_lease_gone(error):
                raise StoreUnavailable(f"etcd: {described(error)}") from error
        else:
            self._see(answer.header)

    # -- the rest ---------------------------------------------------------------------------------

    async def close(self) -> None:
        """As `Store.close`."""
        self._closed.set()
        await asyncio.gather(*self._flying, return_exceptions=True)
        await self._cluster.close()

    async def _to_its_end(self, call: Coroutine[Any, Any, T]) -> T:
        """Its result; it goes on when the caller is cancelled, and `close` waits for it."""
        try:
            self._ensure_open()
        except StoreUnavailable:
            call.close()
            raise
        flying = asyncio.ensure_future(call)  # noqa: TID251 - `close` waits for it
        self._flying.add(flying)
        flying.add_done_callback(self._landed)
        return await asyncio.shield(flying)

    def _landed(self, flying: asyncio.Task[Any]) -> None:
        self._flying.discard(flying)
        if not flying.cancelled():
            # Its caller may be gone; then nobody else looks.
            flying.exception()

    def _see(self, header: pb.ResponseHeader) -> None:
        self._seen = max(self._seen, header.revision - self._base)

    async def _compact_if_due(self) -> None:
        kept = self._kept_versions
        if kept is None or self._seen - self._compacted < 2 * kept:
            return
        before, self._compacted = self._compacted, self._seen - kept
        try:
            request = pb.CompactionRequest(revision=self._base + self._compacted)
            await self._cluster.ask(COMPACT, request)
        except (StoreUnavailable, grpc.aio.AioRpcError) as error:
            # Somebody else may have; if not, it is tried again after some more transactions.
            log.info("etcd is not compacted to version %d: %s", self._compacted, error)
            self._compacted = max(before, self._compacted - kept // 2)

    def _ensure_open(self) -> None:
        if self._closed.is_set():
            raise StoreUnavailable("the store is closed")


async def _sent(cluster: Cluster, request: pb.TxnRequest) -> pb.TxnResponse:
    """What a transaction came to; it is sent once."""
    endpoint = await cluster.endpoint()
    try:
        return await endpoint.call(TXN, request, seconds=TRANSACT_SECONDS)
    except grpc.aio.AioRpcError as error:
        problem = f"etcd at {endpoint.address}: {described(error)}"
        if is_too_large(error):
            raise TransactionTooLarge(problem) from error
        if is_lease_gone(error):
            raise LeaseGone(problem) from error
        cluster.avoid(endpoint)
        if was_not_applied(error):
            raise StoreUnavailable(problem) from error
        raise OutcomeUnknown(problem) from error


async def _read(cluster: Cluster, request: pb.RangeRequest) -> pb.RangeResponse:
    return await _asked(cluster.ask(RANGE, request))


async def _asked(answer: Coroutine[Any, Any, T]) -> T:
    try:
        return await answer
    except grpc.aio.AioRpcError as error:
        raise StoreUnavailable(f"etcd: {described(error)}") from error


def _identity_key(options: EtcdOptions, pool: str) -> bytes:
    return f"{options.prefix}{pool}/store".encode()


def _identity_value(pool: str, incarnation: str) -> bytes:
    """What a store says of itself: the same bytes for the same store."""
    return json.dumps({"pool": pool, "incarnation": incarnation, "schema": SCHEMA}).encode()


def _of_another(key: bytes, pool: str, found: str, expected: str) -> PoolError:
    return PoolError(
        Reason.STATE_OF_ANOTHER_POOL,
        path=f"etcd:{key.decode()}",
        found=f"incarnation {found} of pool {pool}",
        expected=expected,
    )


def _compare(prefix: bytes, compare: Compare) -> pb.Compare:
    key = prefix + compare.key
    if compare.value is None:
        return pb.Compare(key=key, target=pb.Compare.CREATE, create_revision=0)
    return pb.Compare(key=key, target=pb.Compare.VALUE, value=compare.value)


def _write(prefix: bytes, write: Write) -> pb.RequestOp:
    key = prefix + write.key
    if write.value is None:
        return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))
    put = pb.PutRequest(key=key, value=write.value, lease=write.lease or 0)
    return pb.RequestOp(request_put=put)
