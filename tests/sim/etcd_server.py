"""What a member of a simulated etcd answers its clients: the methods and errors that the pool uses.

As etcd 3.4 does: a call that says `hasleader` is refused, or its stream ended, where no leader is
known; a learner tells of itself and nothing else; what reads and may not be old asks the leader
whether it still is one; a change of members is refused while that could cost the quorum.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from poolcore.clock import Clock
from poolmanager.etcd.v3 import rpc_pb2 as pb
from poolmaster.store.etcd import calls
from sim.etcd_raft import HEALTHY_SECONDS, IN_SYNC, Node, RaftGroup, Result
from sim.etcd_state import (
    Command,
    Compact,
    Grant,
    Joined,
    ListedMember,
    Promoted,
    Refused,
    Removed,
    Revoke,
    Txn,
)

VERSION = "3.4.23"
REQUEST_SECONDS = 6.0
"""After so long etcd gives a request up."""
RETRY_SECONDS = 0.05
LEADERLESS_SECONDS = 1.5
"""After so long without a leader a stream ends."""

NO_LEADER = Refused(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
TIMED_OUT = Refused(grpc.StatusCode.UNAVAILABLE, "etcdserver: request timed out")
NOT_FOR_LEARNERS = Refused(grpc.StatusCode.UNAVAILABLE, "etcdserver: rpc not supported for learner")
UNHEALTHY = Refused(grpc.StatusCode.UNAVAILABLE, "etcdserver: unhealthy cluster")
TOO_FEW_STARTED = Refused(
    grpc.StatusCode.FAILED_PRECONDITION,
    "etcdserver: re-configuration failed due to not enough started members",
)
NOT_IN_SYNC = Refused(
    grpc.StatusCode.FAILED_PRECONDITION,
    "etcdserver: can only promote a learner member which is in sync with leader",
)
TOO_MANY_LEARNERS = Refused(
    grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: too many learner members in cluster"
)


class EtcdServer:
    """The handlers of one member."""

    def __init__(
        self, node: Node, group: RaftGroup, cluster: int, *, clock: Clock, dice: random.Random
    ) -> None:
        self.on_transaction: Callable[[pb.TxnRequest], None] = lambda request: None
        """Told of each that is about to be proposed here."""
        self.checks_changes = True
        """Whether members are changed only as etcd allows it; without, as it is told."""
        self.skips_compacted = False
        """A bug: whether a watch from what is compacted begins with what is left."""
        self._node = node
        self._group = group
        self._cluster = cluster
        self._clock = clock
        self._dice = dice
        methods: dict[calls.Method[Any, Any], Callable[[Any], Awaitable[Any]]] = {
            calls.RANGE: self._range,
            calls.TXN: self._transact,
            calls.COMPACT: self._compact,
            calls.LEASE_GRANT: self._grant,
            calls.LEASE_REVOKE: self._revoke,
            calls.MEMBER_LIST: self._list,
            calls.MEMBER_ADD: self._add,
            calls.MEMBER_PROMOTE: self._promote,
            calls.MEMBER_REMOVE: self._remove,
            calls.STATUS: self._status,
            calls.MOVE_LEADER: self._move_leader,
        }
        self._handlers = {
            method.path: grpc.unary_unary_rpc_method_handler(
                self._answering(method, answer),
                request_deserializer=method.request.FromString,
                response_serializer=method.response.SerializeToString,
            )
            for method, answer in methods.items()
        }
        for stream, serve in ((calls.WATCH, self._watch), (calls.LEASE_KEEP_ALIVE, self._keep)):
            self._handlers[stream.path] = grpc.stream_stream_rpc_method_handler(
                serve,
                request_deserializer=stream.request.FromString,
                response_serializer=stream.response.SerializeToString,
            )

    def handler(self, method: str) -> Any:
        """gRPC's handler of a method."""
        return self._handlers.get(method)

    def _answering(
        self, method: calls.Method[Any, Any], answer: Callable[[Any], Awaitable[Any]]
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        async def handle(request: Any, context: Any) -> Any:
            needs_leader = ("hasleader", "true") in context.invocation_metadata()
            try:
                if self._is_learner() and method is not calls.STATUS:
                    raise NOT_FOR_LEARNERS
                if needs_leader and not self._node.leader:
                    raise NO_LEADER
                async with asyncio.timeout(REQUEST_SECONDS):
                    response = await answer(request)
            except TimeoutError:
                await context.abort(TIMED_OUT.code, TIMED_OUT.text)
            except Refused as refusal:
                await context.abort(refusal.code, refusal.text)
            else:
                # Of a transaction it is the revision that this has made.
                revision = response.header.revision or self._node.state.revision
                response.header.CopyFrom(self._header(revision))
                return response

        return handle

    def _header(self, revision: int | None = None) -> pb.ResponseHeader:
        node = self._node
        return pb.ResponseHeader(
            cluster_id=self._cluster,
            member_id=node.id,
            revision=node.state.revision if revision is None else revision,
            raft_term=node.term,
        )

    def _is_learner(self) -> bool:
        listed = self._node.state.members.get(self._node.id)
        return listed is None or listed.learner

    async def _proposed(self, command: Command) -> Result:
        # etcd keeps a proposal until there is a leader to send it to.
        while not self._node.leader:
            await self._clock.sleep(RETRY_SECONDS)
        result = await self._group.propose(self._node, command)
        if isinstance(result, Refused):
            raise result
        return result

    # -- reading ----------------------------------------------------------------------------------

    async def _up_to_date(self) -> None:
        """Wait until this member has all that was committed when it was asked."""
        node = self._node
        while (index := await self._read_index()) is None:
            await self._clock.sleep(RETRY_SECONDS)
        while node.applied < index:
            await node.bell.wait()

    async def _read_index(self) -> int | None:
        """How much is committed, from a leader that still is one; none if there is none."""
        node, group = self._node, self._group
        leader = group.node(node.leader)
        if leader is None or not group.connected(node, leader):
            return None
        await self._clock.sleep(group.delay(node, leader))
        index, term = leader.commit, leader.term
        if not (group.leads(leader, term) and group.is_ready(leader)):
            return None
        await self._clock.sleep(group.delay(leader, node) + group.delay(node, leader))
        followers = [n for n in group.awake_voters(leader) if n.term == term]
        still = group.leads(leader, term) and group.connected(node, leader)
        return index if still and group.has_quorum(leader, followers) else None

    async def _range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        if not request.serializable:
            await self._up_to_date()
        return self._node.state.range(request)

    async def _transact(self, request: pb.TxnRequest) -> pb.TxnResponse:
        operations = (*request.success, *request.failure)
        if all(operation.HasField("request_range") for operation in operations):
            if not all(operation.request_range.serializable for operation in operations):
                await self._up_to_date()
            return self._node.state.transact(request)
        self.on_transaction(request)
        if not self._node.up:
            raise TIMED_OUT  # to nobody: it has lost its power of that
        answer = await self._proposed(Txn(request))
        assert isinstance(answer, pb.TxnResponse)
        return answer

    async def _compact(self, request: pb.CompactionRequest) -> pb.CompactionResponse:
        await self._proposed(Compact(request.revision))
        return pb.CompactionResponse()

    async def _status(self, _: pb.StatusRequest) -> pb.StatusResponse:
        node = self._node
        return pb.StatusResponse(
            version=VERSION,
            leader=node.leader,
            raft_term=node.term,
            raft_index=len(node.log),
            raft_applied_index=node.applied,
            is_learner=self._is_learner(),
        )

    # -- streams ----------------------------------------------------------------------------------

    async def _watch(self, requests: AsyncIterator[pb.WatchRequest], context: Any) -> None:
        node = self._node
        request = (await anext(requests)).create_request
        if self._is_learner():
            await context.abort(NOT_FOR_LEARNERS.code, NOT_FOR_LEARNERS.text)
        await context.write(pb.WatchResponse(header=self._header(), created=True))
        since = request.start_revision or node.state.revision + 1
        leader_at = self._clock.monotonic()
        while True:
            now = self._clock.monotonic()
            leader_at = now if node.leader else leader_at
            if now - leader_at > LEADERLESS_SECONDS:
                await context.abort(NO_LEADER.code, NO_LEADER.text)
            if since < node.state.compacted and not self.skips_compacted:
                await context.write(
                    pb.WatchResponse(
                        header=self._header(),
                        canceled=True,
                        compact_revision=node.state.compacted,
                    )
                )
                return
            answer = pb.WatchResponse(header=self._header())
            for change in node.state.changes(request.key, request.range_end, since=since):
                kv = pb.KeyValue(key=change.key, mod_revision=change.revision)
                if change.value is not None:
                    kv.value = change.value
                kind = pb.Event.DELETE if change.value is None else pb.Event.PUT
                answer.events.append(pb.Event(type=kind, kv=kv))
            since = max(since, node.state.revision + 1)
            if answer.events:
                await context.write(answer)
                continue
            await self._rung()

    async def _rung(self) -> None:
        """Wait until something has been applied, or a moment."""
        try:
            async with asyncio.timeout(LEADERLESS_SECONDS / 3):
                await self._node.bell.wait()
        except TimeoutError:
            return

    async def _keep(self, requests: AsyncIterator[pb.LeaseKeepAliveRequest], context: Any) -> None:
        async for request in requests:
            while not (kept := await self._kept(request.id)):
                if not self._node.leader:
                    await context.abort(NO_LEADER.code, NO_LEADER.text)
                await self._clock.sleep(RETRY_SECONDS)
            kept.header.CopyFrom(self._header())
            await context.write(kept)

    async def _kept(self, lease: int) -> pb.LeaseKeepAliveResponse | None:
        """What the leader says to it, if it can be asked."""
        group, leader = self._group, self._group.node(self._node.leader)
        if leader is None or not leader.awake or not group.connected(self._node, leader):
            return None
        await self._clock.sleep(group.delay(self._node, leader))
        if not (group.leads(leader, leader.term) and group.is_ready(leader)):
            return None
        seconds = leader.state.leases.get(lease, 0)
        if seconds:
            leader.kept_until[lease] = self._clock.monotonic() + seconds
        return pb.LeaseKeepAliveResponse(id=lease, ttl=seconds)

    # -- leases -----------------------------------------------------------------------------------

    async def _grant(self, request: pb.LeaseGrantRequest) -> pb.LeaseGrantResponse:
        lease = request.id or self._dice.getrandbits(62) + 1
        await self._proposed(Grant(lease, request.ttl))
        return pb.LeaseGrantResponse(id=lease, ttl=request.ttl)

    async def _revoke(self, request: pb.LeaseRevokeRequest) -> pb.LeaseRevokeResponse:
        await self._proposed(Revoke(request.id))
        return pb.LeaseRevokeResponse()

    # -- members ----------------------------------------------------------------------------------

    async def _list(self, _: pb.MemberListRequest) -> pb.MemberListResponse:
        return pb.MemberListResponse(members=map(_told, self._node.state.members.values()))

    async def _add(self, request: pb.MemberAddRequest) -> pb.MemberAddResponse:
        node = self._node
        voters = node.state.voters
        if self.checks_changes:
            if any(member.learner for member in node.state.members.values()):
                raise TOO_MANY_LEARNERS
            if not all(self._group.is_connected_since(node, v, HEALTHY_SECONDS) for v in voters):
                raise UNHEALTHY
        peer = request.peer_urls[0].partition("://")[2]
        id = self._dice.getrandbits(62) + 1
        await self._proposed(Joined(id, peer))
        return pb.MemberAddResponse(
            member=pb.Member(id=id, peer_urls=list(request.peer_urls), is_learner=True)
        )

    async def _promote(self, request: pb.MemberPromoteRequest) -> pb.MemberPromoteResponse:
        listed = self._node.state.members.get(request.id)
        if listed is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, "etcdserver: member not found")
        if not listed.learner:
            text = "etcdserver: can only promote a learner member"
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, text)
        if self.checks_changes:
            leader = self._group.node(self._node.leader)
            if leader is None or not leader.leads:
                raise NO_LEADER
            if leader.match.get(request.id, 0) < IN_SYNC * len(leader.log):
                raise NOT_IN_SYNC
            started = [m for m in leader.state.members.values() if m.name and not m.learner]
            if len(started) + 1 < (len(leader.state.voters) + 1) // 2 + 1:
                raise TOO_FEW_STARTED
        await self._proposed(Promoted(request.id))
        return pb.MemberPromoteResponse()

    async def _remove(self, request: pb.MemberRemoveRequest) -> pb.MemberRemoveResponse:
        node, group = self._node, self._group
        listed = node.state.members.get(request.id)
        if listed is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, "etcdserver: member not found")
        removed = group.node(request.id)
        there = removed is not None and removed in group.awake_voters(node)
        if self.checks_changes and not listed.learner and there:
            voters = node.state.voters
            active = [v for v in voters if group.is_connected_since(node, v, HEALTHY_SECONDS)]
            if len(active) - 1 < 1 + (len(voters) - 1) // 2:
                raise UNHEALTHY
        await self._proposed(Removed(request.id))
        return pb.MemberRemoveResponse()

    async def _move_leader(self, request: pb.MoveLeaderRequest) -> pb.MoveLeaderResponse:
        node, to = self._node, self._group.node(request.target_id)
        if not node.leads:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: not leader")
        if to is None or to.id not in node.state.voters:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: bad leader transferee")
        term = node.term
        while self._group.leads(node, term):
            self._group.hand_over(node, to)
            await self._clock.sleep(RETRY_SECONDS)
        return pb.MoveLeaderResponse()


def _told(member: ListedMember) -> pb.Member:
    return pb.Member(
        id=member.id,
        name=member.name,
        peer_urls=[f"http://{member.peer}"],
        client_urls=[f"http://{member.client}"] if member.client else [],
        is_learner=member.learner,
    )
