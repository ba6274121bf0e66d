"""The API of one host, for tests: raw calls, typed, failing with the `PoolError` that was answered.

Thinner than the client library on purpose: no retries, no second address, nothing remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from poolcore.model import SR, HostMetrics, Kind, MasterRecord, Task, TaskStatus
from poolcore.replica import Change, Put, Remove, State, changed
from poolcore.requests import request_id
from poolcore.wire.chain import SnapshotAssembler
from poolcore.wire.channels import open_channel
from poolcore.wire.codec import enum_from_proto, enum_to_proto, from_proto, object_from_proto
from poolcore.wire.status import error_from_rpc
from poolmanager.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
    host_service_pb2_grpc,
    network_service_pb2_grpc,
    patch_pb2,
    pool_service_pb2,
    pool_service_pb2_grpc,
    storage_service_pb2,
    storage_service_pb2_grpc,
    task_service_pb2,
    task_service_pb2_grpc,
    vm_service_pb2_grpc,
)

CALL_SECONDS = 10.0
WAIT_SECONDS = 20.0

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Api:
    """The services of one host over a channel of its own; a context manager.

    `endpoint` is `host:port` or `unix:///path`.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.channel = open_channel(endpoint)
        self.pools = pool_service_pb2_grpc.PoolServiceStub(self.channel)
        self.hosts = host_service_pb2_grpc.HostServiceStub(self.channel)
        self.storage = storage_service_pb2_grpc.StorageServiceStub(self.channel)
        self.networks = network_service_pb2_grpc.NetworkServiceStub(self.channel)
        self.vms = vm_service_pb2_grpc.VMServiceStub(self.channel)
        self.tasks = task_service_pb2_grpc.TaskServiceStub(self.channel)
        self.events = event_service_pb2_grpc.EventServiceStub(self.channel)
        self.agent = agent_service_pb2_grpc.AgentServiceStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.channel.close()

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        timeout_seconds: float = CALL_SECONDS,
    ) -> ResponseT:
        """Call a stub's method; `PoolError` as answered, or as the failed call amounts to."""
        try:
            return await method(request, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, endpoint=self.endpoint) from error

    # -- reading ----------------------------------------------------------------------------------

    async def status(self) -> pool_service_pb2.GetStatusResponse:
        """What `pool status` shows."""
        return await self.call(self.pools.GetStatus, pool_service_pb2.GetStatusRequest())

    async def srs(self) -> list[SR]:
        """What `pool sr list` shows."""
        response = await self.call(self.storage.ListSrs, storage_service_pb2.ListSrsRequest())
        return [from_proto(sr) for sr in response.srs]

    async def task(self, uuid: str) -> Task:
        """One task."""
        request = task_service_pb2.GetTaskRequest(task=uuid)
        found: Task = from_proto((await self.call(self.tasks.GetTask, request)).task)
        return found

    async def emergency_transition(
        self, *, accept_loss: bool = False, confirmed: bool = True
    ) -> agent_service_pb2.EmergencyTransitionResponse:
        """`pool emergency-transition-to-master`, at this very host."""
        request = agent_service_pb2.EmergencyTransitionRequest(
            confirmed=confirmed, accept_loss=accept_loss
        )
        return await self.call(self.agent.EmergencyTransition, request)

    async def states(self) -> AsyncGenerator[State, None]:
        """The pool's state now and after each commit from now on, from the event stream.

        Requests are those of the first: the stream does not tell them.
        """
        call = self.events.Watch(event_service_pb2.WatchRequest())
        assembler, state = SnapshotAssembler(), None
        try:
            async for response in call:
                match response.WhichOneof("item"):
                    case "snapshot":
                        state = assembler.add(response.snapshot)
                    case "commit":
                        assert state is not None
                        state = _after(state, response.commit)
                    case _:
                        continue
                if state is not None:
                    yield state
        finally:
            call.cancel()

    async def state(self) -> State:
        """The pool's state now, requests included."""
        async with asyncio.timeout(WAIT_SECONDS), aclosing(self.states()) as states:
            return await anext(states)

    async def until(
        self, condition: Callable[[State], bool], *, seconds: float = WAIT_SECONDS
    ) -> State:
        """The first state that fulfils the condition, over as many streams as it takes."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    async with aclosing(self.states()) as states:
                        async for state in states:
                            if condition(state):
                                return state
                except grpc.aio.AioRpcError:
                    # The host starts, or changes its role.
                    await asyncio.sleep(0.02)

    async def quiet(self) -> State:
        """The state once nothing more is committed unless asked for.

        Every host is attached then, and the mastership is recorded.
        """
        term = (await self.status()).head.term

        def settled(state: State) -> bool:
            recorded = any(record.term == term for record in state.all(MasterRecord))
            return recorded and all(m.live for m in state.all(HostMetrics))

        return await self.until(settled)

    async def in_step(self) -> pool_service_pb2.GetStatusResponse:
        """Until every host is attached and has everything; the status then."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                status = await self.status()
                if all(host.live and host.in_step for host in status.hosts):
                    return status
                await asyncio.sleep(0.02)

    async def commits_after(
        self, revision: int, count: int
    ) -> list[event_service_pb2.CommitEvents]:
        """The next so many commits after a revision, from the event stream."""
        request = event_service_pb2.WatchRequest(since_revision=revision)
        found: list[event_service_pb2.CommitEvents] = []
        call = self.events.Watch(request, timeout=WAIT_SECONDS)
        try:
            async for response in call:
                if response.HasField("commit"):
                    found.append(response.commit)
                if len(found) == count:
                    break
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, endpoint=self.endpoint) from error
        finally:
            call.cancel()
        return found

    # -- writing ----------------------------------------------------------------------------------

    async def update_pool(
        self, *, asked: str | None = None, timeout_seconds: float = CALL_SECONDS, **patch: Any
    ) -> pool_service_pb2.UpdatePoolResponse:
        """Change the pool object; `patch` are fields of `MetadataPatch`."""
        request = pool_service_pb2.UpdatePoolRequest(
            request_id=asked, patch=patch_pb2.MetadataPatch(**patch)
        )
        return await self.call(self.pools.UpdatePool, request, timeout_seconds=timeout_seconds)

    async def tag_sr(self, sr: str, tag: str) -> SR:
        """Put a tag on an SR."""
        request = storage_service_pb2.UpdateSrRequest(
            sr=sr, patch=patch_pb2.MetadataPatch(add_tags=[tag])
        )
        found: SR = from_proto((await self.call(self.storage.UpdateSr, request)).sr)
        return found

    async def commits(self, number: int, *, base_revision: int | None = None) -> None:
        """Make as many commits, at most 1,000; with a request id each if a revision is given."""
        items = [
            pool_service_pb2.UpdateItem(
                request_id=None if base_revision is None else request_id(base_revision, f"{n:08}"),
                kind=enum_to_proto(Kind.POOL),
                patch=patch_pb2.MetadataPatch(name_description=f"{number - n} to go"),
            )
            for n in range(number)
        ]
        request = pool_service_pb2.BatchUpdateRequest(items=items)
        response = await self.call(self.pools.BatchUpdate, request, timeout_seconds=30.0)
        assert all(outcome.HasField("done") for outcome in response.outcomes)

    # -- hosts coming and going -------------------------------------------------------------------

    async def check_host(
        self, address: str, *, force: bool = False
    ) -> pool_service_pb2.CheckHostResponse:
        """What `pool add-host --dry-run` finds."""
        request = pool_service_pb2.CheckHostRequest(address=address, force=force)
        return await self.call(self.pools.CheckHost, request, timeout_seconds=30.0)

    async def add_host(
        self, address: str, *, force: bool = False, asked: str | None = None
    ) -> Task:
        """The task of a join, once it has begun."""
        request = pool_service_pb2.AddHostRequest(address=address, force=force, request_id=asked)
        response = await self.call(self.pools.AddHost, request, timeout_seconds=30.0)
        task: Task = from_proto(response.task)
        return task

    async def eject_host(self, host: str, *, asked: str | None = None) -> Task:
        """The task of a departure, once it has begun."""
        request = pool_service_pb2.EjectHostRequest(host=host, request_id=asked)
        task: Task = from_proto((await self.call(self.pools.EjectHost, request)).task)
        return task

    async def ended(self, task: Task) -> Task:
        """The task when it has ended."""

        def is_final(state: State) -> bool:
            found = state.get(Task, task.uuid)
            return found is not None and found.status.is_final

        found = (await self.until(is_final)).get(Task, task.uuid)
        assert found is not None
        return found

    async def join(self, address: str, *, force: bool = False) -> Task:
        """Take a host in: the task when it has ended well."""
        return _well(await self.ended(await self.add_host(address, force=force)))

    async def eject(self, host: str) -> Task:
        """Let a host leave: the task when it has ended well."""
        return _well(await self.ended(await self.eject_host(host)))


def _well(task: Task) -> Task:
    assert task.status is TaskStatus.SUCCESS, task
    return task


def _after(state: State, commit: event_service_pb2.CommitEvents) -> State:
    def change(event: event_service_pb2.Event) -> Change:
        if event.HasField("object"):
            return Put(object_from_proto(event.object))
        return Remove(enum_from_proto(Kind, event.kind), event.uuid)

    tables = changed(state.tables, map(change, commit.events))
    return replace(state, last=from_proto(commit.commit), tables=tables)
