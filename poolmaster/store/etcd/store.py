"""The engine `etcd` (see `poolmaster.store.contract` for what is promised).

Transactions are etcd's own, sent to one member, once; whatever is not known to have been refused
before it was proposed is `OutcomeUnknown`. Linearizable reads are etcd's default reads; another
member is asked as well when one takes long. A local read asks the nearest member for what it has;
it is read anew when that is older than what this object had told already.

A pool has one store in a cluster: one key says of which incarnation it is, and the write of that
key is version 0. All others lie under a prefix of the incarnation's own. Reads and transactions
compare that key, so that a store that was founded anew is shut to whoever has the one before it
open: `StoreFailed`. Versions are etcd's revisions counted from there; on a cluster that others
write to as well they grow by more than one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import grpc

from poolcore.clock import Clock, SystemClock
from poolcore.errors import PoolError, Reason
from poolcore.wire.channels import OpenChannel
from poolmanager.etcd.v3 import rpc_pb2 as pb
from poolmaster.store.contract import (
    Compare,
    Item,
    LeaseGone,
    LeaseId,
    OutcomeUnknown,
    ReadResult,
    StoreFailed,
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
    TXN,
    WATCH,
    described,
    is_lease_gone,
    is_too_large,
    was_not_applied,
)
from poolmaster.store.etcd.cluster import (
    Cluster,
    Tls,
    insecure_channel,
    secure_channels,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

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
    clock: Clock = field(default_factory=SystemClock, compare=False)
    open_channel: OpenChannel = field(default=insecure_channel, compare=False)
    """How members are reached without TLS."""

    def cluster(self) -> Cluster:
        """A client of that cluster; raises `StoreUnavailable` when a file of `tls` is no use."""
        ways = self.open_channel if self.tls is None else secure_channels(self.tls)
        return Cluster(self.addresses, clock=self.clock, open_channel=ways)


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
        self._keys = key_prefix(options.prefix, pool, incarnation)
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
        `ETCD_VERSION_REFUSED`, `StoreUnavailable`, or `OutcomeUnknown`: then it may be founded at
        any time until the same is asked again and answered.
        """
        key, value = _identity_key(options, pool), _identity_value(pool, incarnation)
        cluster = options.cluster()
        try:
            await cluster.check_versions()
            before = None if replacing is None else _identity_value(pool, replacing)
            answer = await _sent(
                cluster,
                pb.TxnRequest(
                    compare=[_compare(b"", Compare(key, before))],
                    success=[_write(b"", Write(key, value))],
                    failure=[pb.RequestOp(request_range=pb.RangeRequest(key=key))],
                ),
            )
            base = answer.header.revision
            if not answer.succeeded:
                kvs = answer.responses[0].response_range.kvs
                if not kvs or kvs[0].value != value:
                    there = _parsed(key, kvs[0].value)["incarnation"] if kvs else "none"
                    raise _of_another(key, pool, there, replacing or "no store")
                # An earlier attempt has landed, or had done so.
                base = kvs[0].mod_revision
            cluster.id = answer.header.cluster_id
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
        it is of another incarnation, `STATE_CORRUPT`, `STATE_SCHEMA_TOO_NEW`,
        `ETCD_VERSION_REFUSED`, or `StoreUnavailable`.
        """
        key = _identity_key(options, pool)
        cluster = options.cluster()
        try:
            await cluster.check_versions()
            request = pb.TxnRequest(success=[_range(pb.RangeRequest(key=key))])
            answer = await _asked(cluster.ask(TXN, request))
            kvs = answer.responses[0].response_range.kvs
            if not kvs:
                raise PoolError(Reason.STORE_MISSING, pool=pool, store=f"etcd:{key.decode()}")
            found = _parsed(key, kvs[0].value)
            if incarnation not in {None, found["incarnation"]}:
                raise _of_another(key, pool, found["incarnation"], incarnation or "")
            cluster.id = answer.header.cluster_id
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

    @property
    def cluster(self) -> Cluster:
        """Where it is."""
        return self._cluster

    # -- transactions and reads -------------------------------------------------------------------

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        """As `Store.transact`, within the cluster's limits."""
        check_written_once(writes)
        # A transaction that neither reads nor writes would be answered by a member that is behind.
        identity = _range(pb.RangeRequest(key=self._identity, keys_only=True))
        request = pb.TxnRequest(
            compare=[self._ours(), *(_compare(self._keys, compare) for compare in compares)],
            success=[_write(self._keys, write) for write in writes] or [identity],
            failure=[identity],
        )
        return await self._to_its_end(self._transact(request))

    async def _transact(self, request: pb.TxnRequest) -> bool:
        answer = await _sent(self._cluster, request)
        if not answer.succeeded:
            kvs = answer.responses[0].response_range.kvs
            if not kvs or kvs[0].mod_revision != self._base:
                raise self._founded_anew()
        self._see(answer.header)
        self._compact_if_due()
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
        # etcd would take an end before the start for a range, too, but an empty one for none.
        last = start if end is not None and end <= start else end
        request = pb.RangeRequest(
            key=self._keys + start,
            range_end=b"" if last is None else self._keys + last,
            limit=limit or 0,
        )
        return await self._to_its_end(self._read(request, linearizable=linearizable))

    async def _read(self, request: pb.RangeRequest, *, linearizable: bool) -> ReadResult:
        seen = self._seen
        answer = await self._ranged(request, linearizable=linearizable)
        if answer.header.revision - self._base < seen:
            answer = await self._ranged(request, linearizable=True)
        found = answer.responses[0].response_range
        self._see(answer.header)
        items = tuple(
            Item(kv.key[len(self._keys) :], kv.value, kv.mod_revision - self._base)
            for kv in found.kvs
        )
        return ReadResult(items, answer.header.revision - self._base, found.more)

    async def _ranged(self, request: pb.RangeRequest, *, linearizable: bool) -> pb.TxnResponse:
        """The range, if the store is still the one that was opened."""
        asked = pb.RangeRequest()
        asked.CopyFrom(request)
        asked.serializable = not linearizable
        transaction = pb.TxnRequest(compare=[self._ours()], success=[_range(asked)])
        answer = await _asked(self._cluster.ask(TXN, transaction, without_leader=not linearizable))
        if answer.succeeded:
            return answer
        if not linearizable:
            # It may be a member that does not know of the founding yet.
            return await self._ranged(request, linearizable=True)
        raise self._founded_anew()

    def _ours(self) -> pb.Compare:
        return pb.Compare(key=self._identity, target=pb.Compare.MOD, mod_revision=self._base)

    def _founded_anew(self) -> StoreFailed:
        return StoreFailed("the pool's store was founded anew, for another incarnation")

    # -- watching ---------------------------------------------------------------------------------

    async def watch(
        self, start: bytes, end: bytes, *, after_version: int
    ) -> AsyncIterator[WatchEvent]:
        """As `Store.watch`; every change, as long as it is kept."""
        told = after_version
        """The newest version of which everything has been told."""
        beyond: set[tuple[bytes, int]] = set()
        """What has been told beyond that: of a version that came in part."""
        while not self._closed.is_set():
            # One earlier than needed: of the oldest revision that is kept, removals are not.
            request = pb.WatchCreateRequest(
                key=self._keys + start,
                range_end=self._keys + end,
                start_revision=max(self._base + told, 1),
                progress_notify=True,
                fragment=True,
            )
            async with aclosing(self._answers(request)) as answers:
                async for answer in answers:
                    if answer.compact_revision:
                        raise WatchGone(answer.compact_revision - self._base)
                    for event in map(self._event, answer.events):
                        mark = (event.key, event.version)
                        if event.version <= told or mark in beyond:
                            continue
                        beyond.add(mark)
                        self._seen = max(self._seen, event.version)
                        yield event
                        if self._closed.is_set():
                            return
                    if answer.events and not answer.fragment:
                        told = max((told, *(version for _, version in beyond)))
                        beyond.clear()
                    # Nothing but a notice of progress says how far everything has been told. The
                    # answer to the request itself has the member's revision, too.
                    elif not (answer.events or answer.created or answer.canceled):
                        told = max(told, answer.header.revision - self._base)
            with suppress(TimeoutError):
                async with asyncio.timeout(REWATCH_SECONDS):
                    await self._closed.wait()

    async def _answers(
        self, request: pb.WatchCreateRequest
    ) -> AsyncGenerator[pb.WatchResponse, None]:
        """What one watch's stream tells, until it or this object ends."""
        try:
            endpoint = await self._cluster.endpoint()
        except StoreUnavailable as error:
            log.info("there is nothing to watch at: %s", error)
            return
        async with endpoint.stream(WATCH) as stream:
            try:
                await self._unless_closed(stream.write(pb.WatchRequest(create_request=request)))
                while True:
                    answer = await self._unless_closed(stream.read())
                    if not isinstance(answer, pb.WatchResponse):
                        break
                    yield answer
                    if answer.canceled:
                        log.warning("%s ends a watch: %s", endpoint.address, answer.cancel_reason)
                        break
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                log.info("the watch at %s has ended: %s", endpoint.address, error)
        if not self._closed.is_set():
            self._cluster.avoid(endpoint)

    async def _unless_closed(self, call: Coroutine[Any, Any, T]) -> T | None:
        """Its result; none as soon as this object is closed."""
        calling = asyncio.ensure_future(call)  # noqa: TID251 - awaited below
        closed = asyncio.ensure_future(self._closed.wait())  # noqa: TID251 - as above
        try:
            await asyncio.wait((calling, closed), return_when=asyncio.FIRST_COMPLETED)
            return None if closed.done() else calling.result()
        finally:
            calling.cancel()
            closed.cancel()
            await asyncio.gather(calling, closed, return_exceptions=True)

    def _event(self, event: pb.Event) -> WatchEvent:
        key, version = event.kv.key[len(self._keys) :], event.kv.mod_revision - self._base
        removed = event.type == pb.Event.DELETE
        return WatchEvent(key, None if removed else event.kv.value, version)

    # -- leases -----------------------------------------------------------------------------------

    async def grant_lease(self, ttl_seconds: float) -> LeaseId:
        """As `Store.grant_lease`, in whole seconds, and not shorter than the cluster allows."""
        request = pb.LeaseGrantRequest(ttl=max(math.ceil(ttl_seconds), 1))
        # One that is granted to nobody, because the answer was lost, ends by itself.
        return LeaseId(await self._to_its_end(self._grant(request)))

    async def _grant(self, request: pb.LeaseGrantRequest) -> int:
        return (await _asked(self._cluster.ask(LEASE_GRANT, request))).id

    async def keep_alive(self, lease: LeaseId) -> bool:
        """As `Store.keep_alive`."""
        return await self._to_its_end(self._cluster.keep_alive(lease)) > 0

    async def revoke(self, lease: LeaseId) -> None:
        """As `Store.revoke`."""
        await self._to_its_end(self._revoke(lease))

    async def _revoke(self, lease: LeaseId) -> None:
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
        try:
            while self._flying:
                await asyncio.wait(self._flying)
        finally:
            await self._cluster.close()

    async def _to_its_end(self, call: Coroutine[Any, Any, T]) -> T:
        """Its result; it goes on when the caller is cancelled, and `close` waits for it."""
        if self._closed.is_set():
            call.close()
            raise StoreUnavailable("the store is closed")
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

    def _compact_if_due(self) -> None:
        kept = self._kept_versions
        if kept is None or self._seen - self._compacted < 2 * kept:
            return
        self._compacted = self._seen - kept
        compacting = asyncio.ensure_future(  # noqa: TID251 - `close` waits for it
            self._compact(self._compacted)
        )
        self._flying.add(compacting)
        compacting.add_done_callback(self._landed)

    async def _compact(self, version: int) -> None:
        try:
            await self._cluster.ask(COMPACT, pb.CompactionRequest(revision=self._base + version))
        except (StoreUnavailable, grpc.aio.AioRpcError) as error:
            # Somebody else may have; if not, it is done some transactions later.
            log.info("etcd is not compacted to version %d: %s", version, error)


async def _sent(cluster: Cluster, request: pb.TxnRequest) -> pb.TxnResponse:
    """What a transaction came to."""
    try:
        return await cluster.send(TXN, request)
    except grpc.aio.AioRpcError as error:
        problem = f"etcd: {described(error)}"
        if is_too_large(error):
            raise TransactionTooLarge(problem) from error
        if is_lease_gone(error):
            raise LeaseGone(problem) from error
        if was_not_applied(error):
            raise StoreUnavailable(problem) from error
        raise OutcomeUnknown(problem) from error


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


def _parsed(key: bytes, value: bytes) -> dict[str, Any]:
    """What a store says of itself; `STATE_CORRUPT`, or `STATE_SCHEMA_TOO_NEW`."""
    path = f"etcd:{key.decode()}"
    try:
        found: dict[str, Any] = json.loads(value)
        schema, _ = int(found["schema"]), str(found["incarnation"])
    except (ValueError, KeyError, TypeError) as error:
        problem = f"it is none of a pool: {value[:60]!r}"
        raise PoolError(Reason.STATE_CORRUPT, path=path, problem=problem) from error
    if schema > SCHEMA:
        raise PoolError(
            Reason.STATE_SCHEMA_TOO_NEW, path=path, found=str(schema), known=str(SCHEMA)
        )
    return found


def _of_another(key: bytes, pool: str, found: str, expected: str) -> PoolError:
    return PoolError(
        Reason.STATE_OF_ANOTHER_POOL,
        path=f"etcd:{key.decode()}",
        found=f"incarnation {found} of pool {pool}",
        expected=expected,
    )


def key_prefix(prefix: str, pool: str, incarnation: str) -> bytes:
    """What the keys of an incarnation's store begin with."""
    return f"{prefix}{pool}/{incarnation}/".encode()


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


def _range(request: pb.RangeRequest) -> pb.RequestOp:
    return pb.RequestOp(request_range=request)
