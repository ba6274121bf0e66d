"""A simulated world: hosts on a network, what fails when, and the rules that must hold."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import grpc
from google.protobuf import message_factory

from poolcore.errors import PoolError, Reason
from poolcore.model import Host, HostId, PoolId, Task, TaskStatus
from poolcore.replica import State
from poolcore.requests import request_id
from poolcore.wire.chain import decode_delta
from poolcore.wire.channels import OpenChannel
from poolcore.wire.codec import decode_object, from_proto
from poolcore.wire.status import error_from_rpc
from poolmanager.v1 import agent_service_pb2 as agent_pb
from poolmanager.v1 import agent_service_pb2_grpc, patch_pb2
from poolmanager.v1 import pool_service_pb2 as pb
from poolmanager.v1 import task_service_pb2 as task_pb
from poolmaster.layout import HEAD, LOG, NONCE, OBJECTS
from poolmaster.mastership import Mastership
from poolmaster.service.api import METHODS
from poolmaster.store.contract import Store, Write
from poolmaster.store.memory import MemoryStore
from sim.channel import MemoryChannel, UnaryCall
from sim.disk import Hooks, StoreOnDisk
from sim.host import SimHost
from sim.machine import simulate
from sim.network import Network
from sim.own_etcd import EtcdClusters
from sim.register import Violations
from sim.rules import Rules
from support.memory_replica import ReplicaContent
from support.virtual_clock import VirtualClock

CLIENT = "client"
SETTLE_SECONDS = 40.0
LOOK_SECONDS = 0.05

ANSWER_SECONDS = 30.0
API = "/poolmanager.v1."


@dataclass
class Crash:
    """At a moment of a step, hosts lose their power.

    `point` is `operation:step`. Moments: `before` the step is committed, when it is committed and
    the master has not been told (`unanswered`), and `after`, when the step has been reached.
    """

    point: str
    moment: str
    victims: tuple[str, ...]
    happened: bool = False


class World:
    """See the module's docstring."""

    def __init__(self, seed: object, clock: VirtualClock) -> None:
        self.seed = seed
        self.clock = clock
        self.dice = random.Random(f"{seed} world")
        self.network = Network(seed, clock)
        self.violations = Violations()
        self.rules = Rules(self, self.violations)
        self.hosts: dict[str, SimHost] = {}
        self.shared: dict[str, StoreOnDisk] = {}
        """Stores that several hosts use, by URL."""
        self.etcd = EtcdClusters(self)
        self.crash: Crash | None = None
        self.on_handle: Callable[[SimHost, MemoryStore], None] = lambda host, handle: None
        self.around: Callable[[Store], Store] = lambda store: store
        """Where bugs are planted."""
        self.on_role: Callable[[SimHost], None] = lambda host: None
        """Told when a host's role has become another. Here, too, bugs are planted."""
        self.on_call: Callable[[Any], Any] = lambda handler: handler
        """What is put around the handler of each call."""
        self.on_point: Callable[[SimHost, str], None] = lambda host, point: None
        self.points: list[str] = []
        """Every point that was reached, with the host's name, in order."""
        self._watched = ExitStack()
        self._left_behind: set[asyncio.Task[None]] = set()
        self._asked = 0
        self._channels: dict[MemoryChannel, None] = {}
        """Those of clients."""
        self._connections: dict[str, MemoryChannel] = {}

    def add(self, *names: str, founds_in: str | None = None, votes: bool = False) -> list[SimHost]:
        """Hosts that are switched on; the first founds its pool in the shared store of that URL."""
        added = []
        for name in names:
            host = SimHost(self, name, len(self.hosts) + 1, founds_in=founds_in, votes=votes)
            founds_in = None
            self.hosts[name] = host
            host.power_on()
            added.append(host)
        return added

    # -- what hosts tell --------------------------------------------------------------------------

    def hooks_of(self, host: SimHost) -> Hooks:
        """Who looks on at a host's disk."""
        seen: list[tuple[ReplicaContent, State]] = []

        def replica_changed(content: ReplicaContent) -> None:
            before = next((state for known, state in seen if known is content), None)
            self.rules.replica_changed(host, before, content)
            if content.state is not None:
                seen[:] = [(content, content.state)]

        return Hooks(
            store_founded=lambda store: self.store_founded(host.name, store),
            replica_changed=replica_changed,
            identity_changed=self.rules.check_membership,
            about_to_commit=lambda writes: self.committing(writes, "before"),
            committed=lambda writes: self.committing(writes, "unanswered"),
            new_handle=lambda handle: self.on_handle(host, handle),
            around=self.around,
        )

    def store_founded(self, founder: str, store: StoreOnDisk) -> None:
        """There is a new store."""
        register = self.rules.store_founded(founder, store)
        self._watched.enter_context(store.data.ringing(register))

    def committing(self, writes: Sequence[Write], moment: str) -> None:
        """A transaction is `before` its commit, or committed and `unanswered`."""
        for point in _points_of(writes):
            self._maybe_crash(point, moment)

    def reached(self, host: SimHost, point: str) -> None:
        """A host has come to a point of an operation."""
        self.points.append(f"{host.name} {point}")
        self.on_point(host, point)
        self._maybe_crash(point, "after")

    def _maybe_crash(self, point: str, moment: str) -> None:
        crash = self.crash
        if crash is None or crash.happened or (crash.point, crash.moment) != (point, moment):
            return
        crash.happened = True
        for name in crash.victims:
            self.hosts[name].cut_power()

    # -- waiting ----------------------------------------------------------------------------------

    async def until(self, holds: Callable[[], object], *, seconds: float = 20.0) -> None:
        """Let time pass until something holds."""
        end = self.clock.monotonic() + seconds
        while not holds():
            assert self.clock.monotonic() < end, "it did not come to hold in time"
            await self._let_pass(LOOK_SECONDS)

    async def let_pass(self, seconds: float) -> None:
        """Let time pass, looking at the rules."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            await self._let_pass(min(LOOK_SECONDS, end - self.clock.monotonic()))

    async def _let_pass(self, seconds: float) -> None:
        await self.clock.sleep(seconds)
        self.rules.check_applied()
        self.violations.raise_any()

    async def settle(self) -> None:
        """Heal everything, start every host, and let everything come to its end."""
        self.calm()
        end = self.clock.monotonic() + SETTLE_SECONDS
        while (why := self.rules.unsettled()) is not None:
            assert self.clock.monotonic() < end, f"after {SETTLE_SECONDS:g} s of peace {why}"
            for host in filter(self.rules.is_dead_reservation, self.hosts.values()):
                host.reset()
            await self._let_pass(LOOK_SECONDS)
        self.rules.check_settled()
        self.violations.raise_any()

    def calm(self) -> None:
        """Heal everything, and start every host."""
        self.network.heal()
        self.network.losses = 0.0
        for host in self.hosts.values():
            host.disk.full, host.disk.silent, host.disk.failed_syncs = False, False, 0
            host.clock.ahead = timedelta()
            host.power_on()
            host.thaw()
            if host.etcd is not None:
                host.etcd.thaw()
                host.etcd.node.lags = False

    # -- clients ----------------------------------------------------------------------------------

    async def ask(self, host: SimHost, method: str, request: Any) -> Any:
        """Call a method of the API, `Service/Method`, at a host."""
        answer = message_factory.GetMessageClass(METHODS[API + method].output_type)
        call = self._connection(host.endpoint).unary_unary(
            API + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            return await call(request, timeout=ANSWER_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, endpoint=host.endpoint) from error

    def opener(self, source: str) -> OpenChannel:
        """How a client at `source` opens its channels."""
        return partial(self.open_channel, source=source)

    def _connection(self, endpoint: str) -> MemoryChannel:
        """The client's connection to a host; a new one if that could not be reached."""
        known = self._connections.get(endpoint)
        failed = grpc.ChannelConnectivity.TRANSIENT_FAILURE
        if known is None or known.get_state() is failed:
            if known is not None:
                known.abandon()
            known = self._connections[endpoint] = self.open_channel(endpoint)
        return known

    def open_channel(self, endpoint: str, *, source: str = CLIENT) -> MemoryChannel:
        """The way from a client to a host."""
        channel = MemoryChannel(
            self.network,
            source,
            endpoint,
            begin=asyncio.ensure_future,  # noqa: TID251 - the channel ends it
            on_close=lambda closed: self._channels.pop(closed, None),
        )
        self._channels[channel] = None
        return channel

    def new_request(self, host: SimHost) -> str:
        """A request id by a client that knows the pool of that host."""
        self._asked += 1
        register = self.rules.register_of(host)
        known = 1 if register is None else register.state.revision
        if register is not None and (master := self.master_of(register.state.pool.uuid)):
            # The newest may be acknowledged to nobody yet.
            known = min(known, master.state.revision)
        return request_id(known, f"request{self._asked:04}")

    async def add_host(self, pool: SimHost, joining: SimHost, *, asked: str | None = None) -> Task:
        """Have the master take a host in; the task as it was recorded."""
        request = pb.AddHostRequest(
            address=joining.endpoint, request_id=asked or self.new_request(pool)
        )
        response = await self.ask(pool, "PoolService/AddHost", request)
        task: Task = from_proto(response.task)
        return task

    async def eject(self, pool: SimHost, leaving: SimHost, *, asked: str | None = None) -> Task:
        """Have the master let a host go; the task as it was recorded."""
        request = pb.EjectHostRequest(host=leaving.uuid, request_id=asked or self.new_request(pool))
        response = await self.ask(pool, "PoolService/EjectHost", request)
        task: Task = from_proto(response.task)
        return task

    async def designate(self, at: SimHost, host: SimHost) -> Task:
        """Hand the mastership over; the task as it was recorded."""
        request = pb.DesignateMasterRequest(host=host.uuid, request_id=self.new_request(at))
        response = await self.ask(at, "PoolService/DesignateMaster", request)
        task: Task = from_proto(response.task)
        return task

    async def drill(self, at: SimHost, term: int) -> Task:
        """Have the master of that term fall silent; the task as it was recorded."""
        request = pb.DrillFailoverRequest(term=term, consent=True, request_id=self.new_request(at))
        response = await self.ask(at, "PoolService/DrillFailover", request)
        task: Task = from_proto(response.task)
        return task

    async def emergency(self, at: SimHost, *, accept_loss: bool = False) -> None:
        """A person makes a host the master, at that very host.

        Only the network may leave them without an answer.
        """
        request = agent_pb.EmergencyTransitionRequest(confirmed=True, accept_loss=accept_loss)
        stub = agent_service_pb2_grpc.AgentServiceStub(self._connection(at.endpoint))
        call = stub.EmergencyTransition(request, timeout=ANSWER_SECONDS)
        assert isinstance(call, UnaryCall)
        try:
            await call
        except grpc.aio.AioRpcError as error:
            answered = call.lost or error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
            told = f"{at.name} has neither become master nor refused to"
            self.rules.expect(answered, f"{told} within {ANSWER_SECONDS:g} s")
            raise error_from_rpc(error, endpoint=at.endpoint) from error

    async def reset_master(self, at: SimHost, master: SimHost) -> None:
        """A person tells a host where its master is."""
        stub = agent_service_pb2_grpc.AgentServiceStub(self._connection(at.endpoint))
        request = agent_pb.ResetMasterRequest(address=master.endpoint)
        try:
            await stub.ResetMaster(request, timeout=ANSWER_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, endpoint=at.endpoint) from error

    async def cancel(self, pool: SimHost, task: Task) -> Task:
        """Call a task off; the task as it is then."""
        request = task_pb.CancelTaskRequest(task=task.uuid, request_id=self.new_request(pool))
        response = await self.ask(pool, "TaskService/CancelTask", request)
        now: Task = from_proto(response.task)
        return now

    async def tag(self, pool: SimHost, tag: str, *, asked: str | None = None) -> int:
        """A small write: tag the pool object. The revision it became."""
        request = pb.UpdatePoolRequest(
            patch=patch_pb2.MetadataPatch(add_tags=[tag]),
            request_id=asked or self.new_request(pool),
        )
        response = await self.ask(pool, "PoolService/UpdatePool", request)
        revision: int = response.revision
        return revision

    async def finished(self, pool: SimHost, task: Task) -> Task:
        """The task at its end."""

        def found() -> Task | None:
            register = self.rules.register_of(pool)
            now = None if register is None else register.state.get(Task, task.uuid)
            return now if now is not None and now.status.is_final else None

        await self.until(found, seconds=SETTLE_SECONDS)
        ended = found()
        assert ended is not None
        return ended

    async def join(self, pool: SimHost, joining: SimHost) -> Task:
        """Take a host in and wait for it; AssertionError unless that succeeds."""
        ended = await self.finished(pool, await self.add_host(pool, joining))
        assert ended.status is TaskStatus.SUCCESS, ended
        return ended

    async def leave(self, pool: SimHost, leaving: SimHost) -> Task:
        """Let a host go and wait for it; AssertionError unless that succeeds."""
        ended = await self.finished(pool, await self.eject(pool, leaving))
        assert ended.status is TaskStatus.SUCCESS, ended
        return ended

    def master_of(self, pool: PoolId) -> Mastership | None:
        """The mastership of the newest term that a host has of a pool."""
        found = [h.mastership for h in self.hosts.values() if h.mastership is not None]
        return max(
            (m for m in found if m.pool == pool), key=lambda m: m.ledger.head.term, default=None
        )

    def members(self, pool: SimHost) -> set[HostId]:
        """The hosts that the pool of a master has, as committed."""
        register = self.rules.register_of(pool)
        return set() if register is None else {h.uuid for h in register.state.all(Host)}

    def leave_behind(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something come to its end that nobody waits for any more."""
        loop, nobody = asyncio.get_running_loop(), self.network.context
        task = loop.create_task(work, context=nobody)  # kept until it is done
        self._left_behind.add(task)
        task.add_done_callback(self._left_behind.discard)

    def close(self) -> None:
        """Switch everything off."""
        for host in self.hosts.values():
            host.cut_power()
        for channel in tuple(self._channels):
            channel.abandon()
        self._watched.close()


def _points_of(writes: Sequence[Write]) -> Iterator[str]:
    """The steps that a transaction records."""
    # A copy of what was committed before has no register, or founds the store that goes on.
    keys = {write.key for write in writes}
    commits = HEAD in keys and NONCE not in keys
    for write in writes:
        if write.key.startswith(LOG) and write.value is not None:
            if commits and decode_delta(write.value).succession is not None:
                yield "pool.succession:concluded"
        elif write.key.startswith(OBJECTS + b"task/") and write.value is not None:
            task = decode_object(write.value)
            assert isinstance(task, Task)
            yield f"{task.operation}:{'done' if task.status.is_final else task.step}"


class _Tracebacks(logging.Handler):
    """Notes what the code itself took for a bug."""

    def __init__(self, violations: Violations) -> None:
        super().__init__(logging.ERROR)
        self._violations = violations

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._violations.expect(False, f"{record.getMessage()}: {record.exc_info[1]!r}")


def play(seed: object, scenario: Callable[[World], Coroutine[Any, Any, None]]) -> World:
    """Play a scenario in a new world of that seed; AssertionError when a rule is broken."""
    worlds: list[World] = []

    async def main(clock: VirtualClock) -> None:
        world = World(seed, clock)
        worlds.append(world)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda _, told: world.violations.expect(False, f"{told['message']}: {told!r}")
        )
        watcher = _Tracebacks(world.violations)
        root = logging.getLogger()
        root.addHandler(watcher)
        try:
            await scenario(world)
            world.violations.raise_any()
        finally:
            world.close()
            # Two turns for what was cancelled.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            root.removeHandler(watcher)

    try:
        simulate(seed, main)
    except BaseException:
        # Whatever else went wrong then followed from the rules that were broken.
        if worlds:
            worlds[0].violations.raise_any()
        raise
    return worlds[0]


def is_refused(error: BaseException, *reasons: Reason) -> bool:
    """Whether an error is one of these refusals."""
    return isinstance(error, PoolError) and error.reason in reasons
