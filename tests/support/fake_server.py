"""Hosts of a pool that exist only on the wire: what a client sees, and every way it can go wrong.

A `FakeHost` serves a `FakePool`, the truth, on a port of its own over real gRPC; several hosts of
one pool stand for its members. Requests are
executed as the API's comments say: request ids are remembered, reads are fresh unless the host is
told to be stale or behind, and a fault is a line in `host.faults`, used up when it has struck.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from enum import StrEnum
from types import ModuleType
from typing import Any

import grpc
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.message_factory import GetMessageClass
from immutables import Map

from poolcore.errors import PoolError, Reason
from poolcore.model import CLASSES, Kind, Object, Pool, Task, TaskId, TaskStatus
from poolcore.replica import Head, Put, State
from poolcore.wire.chain import snapshot_frames
from poolcore.wire.channels import SERVER_OPTIONS
from poolcore.wire.codec import (
    enum_from_proto,
    enum_to_proto,
    object_to_proto,
    to_proto,
)
from poolcore.wire.status import status_of
from poolmanager.v1 import (
    chain_pb2,
    event_service_pb2,
    host_service_pb2,
    lock_service_pb2,
    network_service_pb2,
    pool_service_pb2,
    storage_service_pb2,
    task_service_pb2,
    vm_service_pb2,
)
from support.fake_pool import Commit, FakePool, patched

MODULES: tuple[ModuleType, ...] = (
    pool_service_pb2,
    host_service_pb2,
    storage_service_pb2,
    network_service_pb2,
    vm_service_pb2,
    task_service_pb2,
    lock_service_pb2,
    event_service_pb2,
)


class Fault(StrEnum):
    """What can happen to a call."""

    LOST_BEFORE = "the connection breaks before the request is executed"
    LOST_AFTER = "the connection breaks after the request was executed"
    UNKNOWN_BEFORE = "the outcome is unknown, and it was not executed"
    UNKNOWN_AFTER = "the outcome is unknown, and it was executed"
    NO_MASTER = "the host has no master"
    SILENT = "the host never answers"


class FakeHost:
    """One host of a `FakePool` on a port of its own."""

    def __init__(self, pool: FakePool, address: str = "127.0.0.1") -> None:
        self.pool = pool
        self.address = address
        self.stale = False
        self.frozen_at: State | None = None
        """The state it answers from, if not the newest."""
        self.faults: dict[str, deque[Fault]] = {}
        self.calls: Counter[str] = Counter()
        self.batches: list[int] = []
        self._server: grpc.aio.Server | None = None
        self._breaks = asyncio.Event()
        self._called = asyncio.Condition()

    async def start(self) -> None:
        """Serve; at the same port as before when it was stopped in between."""
        server = grpc.aio.server(options=SERVER_OPTIONS)
        for module in MODULES:
            for service in module.DESCRIPTOR.services_by_name.values():
                handlers = {m.name: self._handler(m) for m in service.methods}
                server.add_generic_rpc_handlers(
                    (grpc.method_handlers_generic_handler(service.full_name, handlers),)
                )
        target = self.address if ":" in self.address else f"{self.address}:0"
        port = server.add_insecure_port(target)
        self.address = f"{target.rpartition(':')[0]}:{port}"
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Cut every connection at once."""
        if self._server is not None:
            self.break_streams()
            await self._server.stop(None)
            self._server = None

    def break_streams(self) -> None:
        """End every stream as a host does that has lost its master."""
        self._breaks.set()
        self._breaks = asyncio.Event()

    def fault(self, method: str, *faults: Fault) -> None:
        """What happens to the next calls of `method`, in turn."""
        self.faults.setdefault(method, deque()).extend(faults)

    async def until_called(self, method: str, times: int = 1) -> None:
        """Wait until `method` was called so often."""
        async with asyncio.timeout(5), self._called:
            await self._called.wait_for(lambda: self.calls[method] >= times)

    async def _count(self, method: str) -> None:
        async with self._called:
            self.calls[method] += 1
            self._called.notify_all()

    # -- how calls come in ------------------------------------------------------------------------

    def _handler(self, method: Any) -> Any:
        decode = GetMessageClass(method.input_type).FromString
        encode = GetMessageClass(method.output_type).SerializeToString
        if method.name == "Watch":
            return grpc.unary_stream_rpc_method_handler(self._watch, decode, encode)

        async def call(request: Any, context: Any) -> Any:
            await self._count(method.name)
            fault = self.faults.get(method.name, deque())
            try:
                return await self._call(method, request, fault.popleft() if fault else None)
            except PoolError as error:
                code, text, trailing = status_of(error)
                await context.abort(code, text, trailing)
            except ConnectionError:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")

        return grpc.unary_unary_rpc_method_handler(call, decode, encode)

    async def _call(self, method: Any, request: Any, fault: Fault | None) -> Any:
        response = GetMessageClass(method.output_type)
        if fault is Fault.LOST_BEFORE:
            raise ConnectionError
        if fault is Fault.UNKNOWN_BEFORE:
            raise PoolError(Reason.OUTCOME_UNKNOWN, request_id=getattr(request, "request_id", ""))
        if fault is Fault.NO_MASTER:
            raise PoolError(Reason.NO_MASTER, host="fake", problem="it was told so")
        if fault is Fault.SILENT:
            await asyncio.Event().wait()
        own: Callable[[Any], Awaitable[Any]] | None = getattr(self, f"_{method.name}", None)
        if own is not None:
            answer = await own(request)
        elif method.name.startswith("List"):
            answer = self._list(request, response)
        elif method.name.startswith("Get"):
            answer = self._get(request, response)
        else:
            raise PoolError(Reason.INTERNAL_ERROR, incident=method.name, host="fake")
        if fault is Fault.LOST_AFTER:
            raise ConnectionError
        if fault is Fault.UNKNOWN_AFTER:
            raise PoolError(Reason.OUTCOME_UNKNOWN, request_id=getattr(request, "request_id", ""))
        return answer

    # -- reads ------------------------------------------------------------------------------------

    def _state(self) -> State:
        return self.frozen_at or self.pool.state

    def _freshness(self) -> chain_pb2.Freshness:
        state = self._state()
        return chain_pb2.Freshness(
            incarnation=state.incarnation.uuid,
            revision=state.revision,
            stale=self.stale,
            age_seconds=12.5 if self.stale else 0.0,
        )

    def _list(self, request: Any, response: Callable[..., ProtoMessage]) -> ProtoMessage:
        field = response().DESCRIPTOR.fields[0]
        kind = _kind_of(_message_name(field))
        table = self._state().tables.get(kind, Map())
        uuids = [u for u in sorted(table) if u > request.page_token]
        size = request.page_size or 1_000
        return response(
            **{field.name: [to_proto(table[u]) for u in uuids[:size]]},
            next_page_token=uuids[size - 1] if len(uuids) > size else None,
            freshness=self._freshness(),
        )

    def _get(self, request: Any, response: Callable[..., ProtoMessage]) -> ProtoMessage:
        field = response().DESCRIPTOR.fields[0]
        kind = _kind_of(_message_name(field))
        found = self.pool.find(kind, getattr(request, field.name))
        return response(**{field.name: to_proto(found)}, freshness=self._freshness())

    async def _GetPool(self, request: Any) -> Any:
        return pool_service_pb2.GetPoolResponse(
            pool=to_proto(self._state().pool), freshness=self._freshness()
        )

    async def _GetStatus(self, request: Any) -> Any:
        state, head = self._state(), self.pool.head
        if self.frozen_at is not None:
            head = Head(state.incarnation, state.last.term, state.revision, head.master)
        return pool_service_pb2.GetStatusResponse(
            pool_uuid=state.pool.uuid,
            pool_name=state.pool.name_label,
            head=to_proto(head),
            engine="memory",
            quorum=pool_service_pb2.Quorum(voters=1, needed=1, survives=0),
            hosts=[
                pool_service_pb2.HostStatus(
                    uuid=uuid,
                    name=getattr(host, "name_label", ""),
                    address="127.0.0.1:7443",
                    role=pool_service_pb2.ROLE_MASTER
                    if uuid == head.master
                    else pool_service_pb2.ROLE_MEMBER,
                    live=True,
                    in_step=True,
                    applied_revision=state.revision,
                    lag_seconds=0.0,
                )
                for uuid, host in sorted(state.tables[Kind.HOST].items())
            ],
            warnings=[
                pool_service_pb2.Warning(code="A_WARNING", message="Mind this.", remedy="Do that.")
            ],
            freshness=self._freshness(),
        )

    async def _watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._count("Watch")
        breaks = self._breaks
        pb = event_service_pb2
        try:
            head = self.pool.head
            if request.HasField("incarnation") and request.incarnation != head.incarnation.uuid:
                raise PoolError(
                    Reason.INCARNATION_MISMATCH,
                    expected=request.incarnation,
                    actual=head.incarnation.uuid,
                )
            if request.HasField("since_revision"):
                cursor = request.since_revision
                self.pool.after(cursor)
            else:
                cursor = self.pool.state.revision
                for frame in snapshot_frames(self.pool.state):
                    yield pb.WatchResponse(snapshot=frame)
            yield pb.WatchResponse(head=to_proto(head))
            while not breaks.is_set():
                moved = self.pool.moved
                for commit in self.pool.after(cursor):
                    yield pb.WatchResponse(commit=_events(commit, request.kinds))
                    cursor = commit.id.revision
                await _first_of(moved, breaks)
        except PoolError as error:
            code, text, trailing = status_of(error)
            await context.abort(code, text, trailing)

    # -- writes -----------------------------------------------------------------------------------

    async def _UpdatePool(self, request: Any) -> Any:
        def do() -> Object:
            pool = patched(self.pool.state.pool, request.patch)
            assert isinstance(pool, Pool)
            if request.HasField("host_limit"):
                pool = dataclasses.replace(pool, host_limit=request.host_limit)
            return pool

        obj, revision = self.pool.once(request.request_id, do)
        return pool_service_pb2.UpdatePoolResponse(
            pool=to_proto(obj),
            revision=revision,
            incarnation=self.pool.state.incarnation.uuid,
        )

    async def _BatchUpdate(self, request: Any) -> Any:
        self.batches.append(len(request.items))
        outcomes = []
        for item in request.items:
            kind = enum_from_proto(Kind, item.kind)
            faults = self.faults.get("item")
            fault = faults.popleft() if faults else None
            try:
                if fault is Fault.UNKNOWN_BEFORE:
                    raise PoolError(Reason.OUTCOME_UNKNOWN, request_id=item.request_id)
                if fault is Fault.NO_MASTER:
                    raise PoolError(Reason.NO_MASTER, host=self.address, problem="it has ended")
                obj, revision = self.pool.once(
                    item.request_id,
                    lambda kind=kind, item=item: patched(  # type: ignore[misc]
                        self.pool.find(kind, item.object), item.patch
                    ),
                )
                if fault is Fault.UNKNOWN_AFTER:
                    raise PoolError(Reason.OUTCOME_UNKNOWN, request_id=item.request_id)
            except PoolError as error:
                failed = pool_service_pb2.UpdateError(reason=error.reason, params=error.params)
                outcomes.append(pool_service_pb2.UpdateOutcome(error=failed))
                continue
            done = pool_service_pb2.Done(
                object=object_to_proto(obj),
                revision=revision,
                incarnation=self.pool.state.incarnation.uuid,
            )
            outcomes.append(pool_service_pb2.UpdateOutcome(done=done))
        return pool_service_pb2.BatchUpdateResponse(outcomes=outcomes)

    # -- hosts and tasks --------------------------------------------------------------------------

    def _refuse(self, address: str) -> None:
        if any(f.blocks for f in self.pool.findings):
            raise PoolError(
                Reason.JOIN_REFUSED,
                findings=self.pool.findings,
                host=address,
                count=str(len(self.pool.findings)),
            )

    async def _CheckHost(self, request: Any) -> Any:
        return pool_service_pb2.CheckHostResponse(
            host_uuid="00000000-0000-4000-8000-0000000000aa",
            host_name=request.address,
            findings=[to_proto(f) for f in self.pool.findings],
            may_join=not any(f.blocks for f in self.pool.findings),
        )

    def _start(self, operation: str, request_id: str, **params: str) -> Task:
        def do() -> Object:
            number = self.pool.state.revision
            return Task(
                uuid=TaskId(f"00000000-0000-4000-8000-{number:012}"),
                name_label=operation,
                operation=operation,
                step="started",
                params=Map(params),
                created=datetime(2026, 1, 1, tzinfo=UTC),
            )

        task, _ = self.pool.once(request_id, do)
        assert isinstance(task, Task)
        return task

    async def _AddHost(self, request: Any) -> Any:
        self._refuse(request.address)
        task = self._start("host.join", request.request_id, endpoint=request.address)
        return pool_service_pb2.AddHostResponse(
            task=to_proto(task), findings=[to_proto(f) for f in self.pool.findings]
        )

    async def _EjectHost(self, request: Any) -> Any:
        host = self.pool.find(Kind.HOST, request.host)
        task = self._start("host.eject", request.request_id, host=host.uuid)
        return pool_service_pb2.EjectHostResponse(task=to_proto(task))

    async def _CancelTask(self, request: Any) -> Any:
        task = self.pool.find(Kind.TASK, request.task)
        assert isinstance(task, Task)
        if task.step == "committed":
            raise PoolError(Reason.TASK_NOT_CANCELLABLE, task=task.uuid, step=task.step)
        self.pool.put(task, status=TaskStatus.CANCELLING)
        cancelled = self.pool.find(Kind.TASK, task.uuid)
        return task_service_pb2.CancelTaskResponse(task=to_proto(cancelled))


def _message_name(field: Any) -> str:
    name: str = field.message_type.name
    return name


def _kind_of(message: str) -> Kind:
    return next(kind for kind, cls in CLASSES.items() if cls.__name__ == message)


def _events(commit: Commit, kinds: Any) -> event_service_pb2.CommitEvents:
    pb = event_service_pb2
    events = []
    for change in commit.changes:
        kind = change.object.KIND if isinstance(change, Put) else change.kind
        if kinds and enum_to_proto(kind) not in kinds:
            continue
        put = isinstance(change, Put)
        events.append(
            pb.Event(
                type=pb.EVENT_TYPE_PUT if put else pb.EVENT_TYPE_REMOVE,
                kind=enum_to_proto(kind),
                uuid=change.object.uuid if isinstance(change, Put) else change.uuid,
                object=object_to_proto(change.object) if isinstance(change, Put) else None,
            )
        )
    return pb.CommitEvents(commit=to_proto(commit.id), events=events)


async def _first_of(*events: asyncio.Event) -> None:
    tasks = [asyncio.get_running_loop().create_task(e.wait()) for e in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
