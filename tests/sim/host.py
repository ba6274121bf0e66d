"""A simulated host: its disk, its hypervisor, and the daemon that runs while it has power.

The daemon is the real one but for what reaches outside: files, network, hypervisor and clock are
the simulation's. Its parts are put together as `poolmember.daemon` does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from poolcore.clock import Clock
from poolcore.errors import PoolError
from poolcore.facts import Inventory, Standing, Unreachable
from poolcore.model import Accession, HostId
from poolcore.replica import Head
from poolcore.wire.serving import handlers
from poolcore.wire.status import error_from_rpc
from poolmanager.v1 import pool_service_pb2, pool_service_pb2_grpc
from poolmaster.mastership import Mastership
from poolmember.agent import Agent
from poolmember.daemon import AGENT_SERVICE
from poolmember.drivers.contract import DriverError, FactOverrides
from poolmember.drivers.sim_host import SimHost as Description
from poolmember.drivers.sim_objects import objects
from poolmember.emergency import Emergency
from poolmember.etcd.voter import NoVoter, Voter
from poolmember.following import Uplinks
from poolmember.gateway import Gateway
from poolmember.home import ASK_SECONDS
from poolmember.identity import Identity, Member, Membership
from poolmember.inheriting import prepare
from poolmember.measurements import Disk as DiskMeasure
from poolmember.measurements import DiskGauge
from poolmember.parts import Parts, handlers_while_starting
from poolmember.roles import Roles
from poolmember.session import Follower
from poolmember.standing import standing, take_over
from sim.asking import Asking
from sim.channel import MemoryChannel
from sim.disk import Disk, DiskFiles, PowerCut
from sim.machine import MachineLoop, place
from sim.own_etcd import EtcdProcess, SimVoter
from sim.served import Details
from support.memory_recoveries import MemoryRecoveries

if TYPE_CHECKING:
    from sim.world import World

T = TypeVar("T")


class Hypervisor:
    """A driver of what a description says; `describe` is how things change on the host."""

    def __init__(self, endpoint: str) -> None:
        self.description = Description()
        self.fails = False
        self._endpoint = endpoint
        self._host: HostId | None = None
        self._changed = asyncio.Event()

    def describe(self, description: Description) -> None:
        """Make the host be as described from now on."""
        self.description = description
        self._changed.set()
        self._changed = asyncio.Event()

    async def open(self, host: HostId) -> None:
        self._host = host

    async def inventory(self) -> Inventory:
        if self.fails or self._host is None:
            raise DriverError("the simulated hypervisor does not answer")
        found = objects(self.description, self._host, management_endpoint=self._endpoint)
        return Inventory(profile=self.description.profile, objects=tuple(found))

    async def changes(self) -> AsyncIterator[None]:
        while True:
            await self._changed.wait()
            yield

    def overrides(self) -> FactOverrides:
        return FactOverrides()

    async def close(self) -> None:
        return


class HostClock:
    """A host's own clock: its time of day may jump."""

    def __init__(self, clock: Clock) -> None:
        self.ahead = timedelta()
        """Of the other hosts' time of day."""
        self.monotonic = clock.monotonic
        self.sleep = clock.sleep
        self._clock = clock

    def now(self) -> datetime:
        return self._clock.now() + self.ahead


class SteadyDisk(DiskGauge):
    """A disk of always the same speed."""

    def __init__(self) -> None:
        pass

    def read(self) -> DiskMeasure:
        return DiskMeasure(free_bytes=2**40, fsync_seconds=0.001)


class Life:
    """One run of a host's daemon. Implements `poolmember.agent.Home` and `Network`."""

    def __init__(self, host: SimHost) -> None:
        self.over = False
        self.frozen = False
        self._host = host
        self._world = host.world
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._channels: dict[MemoryChannel, None] = {}
        self.gateway = Gateway()
        self.gateway.serve_locally(handlers_while_starting(host.name))
        self.agent = Agent(
            self,
            host.hypervisor,
            SteadyDisk(),
            endpoint=host.endpoint,
            listen=host.endpoint.rpartition(":")[0],
            clock=host.clock,
            network=self,
            recoveries=host.recoveries,
        )
        self._own_handlers = handlers(AGENT_SERVICE, self.agent.functions(), host=host.name)
        self.files = DiskFiles(
            host.disk,
            self,
            self._world.hooks_of(host),
            shared=self._world.shared,
            open_channel=self.open_channel,
            clock=self._world.clock,
            dice=random.Random(f"{self._world.seed} disk of {host.name}"),
        )
        self.parts = Parts(
            files=self.files,
            driver=host.hypervisor,
            agent=self.agent,
            agents=Asking(self._world, self.open_channel),
            gateway=self.gateway,
            connect=Uplinks(self.open_channel).connected,
            clock=host.clock,
            reached=self.reached,
            on_role=lambda _: self._world.on_role(host),
            voter=SimVoter(host, self._world.etcd) if host.votes else NoVoter(host.name),
            recoveries=host.recoveries,
        )
        self._roles = Roles(self.parts, shared_store=host.founds_in)
        self.emergency = Emergency(self.parts, self._roles)
        self._running = self.begin(self._run())

    async def _run(self) -> None:
        await self._host.hypervisor.open(self.identity.host)
        await self._roles.run()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something in this life; it ends with the power."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(work, context=place(self._host.name))  # kept; `end` cancels it
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled() or self.over:
            # What ended with the power ended somehow; nobody is there to be told.
            task.cancelled() or task.exception()
            return
        error = task.exception()
        if error is not None and (task is self._running or not isinstance(error, PoolError)):
            self._world.violations.expect(False, f"{self._host.name} ran into {error!r}")

    def end(self) -> None:
        """The power is off, from this very moment."""
        self.over = True
        for channel in tuple(self._channels):
            channel.abandon()
        for task in tuple(self._tasks):
            task.cancel()

    def freeze(self) -> None:
        """Stop the daemon; to be thawed."""
        self.frozen = True
        self._loop.freeze(self._host.name)

    def thaw(self) -> None:
        """Let the daemon go on, or be gone."""
        self.frozen = False
        self._loop.thaw(self._host.name)

    @property
    def _loop(self) -> MachineLoop:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, MachineLoop)
        return loop

    def ensure(self) -> None:
        """Raise `PowerCut` if the power is off."""
        if self.over:
            raise PowerCut

    # -- the daemon, as its agent sees it ---------------------------------------------------------

    @property
    def identity(self) -> Identity:
        return self.parts.identity

    @property
    def mastership(self) -> Mastership | None:
        return self.parts.mastership

    @property
    def follower(self) -> Follower | None:
        return self.parts.follower

    async def standing(self, pool: str, term: int) -> Standing:
        return await standing(self.parts, pool, term)

    async def take_over(self, head: Head, why: Accession) -> None:
        """Become the master in the place of the one that `head` names."""
        await take_over(self.parts, head, why)

    async def prepare_succession(self, pool: str, incarnation: str, store: str | None) -> None:
        """Copy what this host has of `pool` into a store of `incarnation`, at that URL if any."""
        await prepare(self.parts, pool, incarnation, store)

    @property
    def voter(self) -> Voter:
        return self.parts.voter

    async def become(self, membership: Member) -> None:
        await self._roles.become(membership)

    def reached(self, point: str) -> None:
        self.ensure()
        self._world.reached(self._host, point)
        self.ensure()

    # -- calls to others --------------------------------------------------------------------------

    def open_channel(self, endpoint: str) -> MemoryChannel:
        """The way to another host."""
        channel = MemoryChannel(
            self._world.network,
            self._host.endpoint,
            endpoint,
            begin=self.begin,
            on_close=lambda closed: self._channels.pop(closed, None),
        )
        self._channels[channel] = None
        return channel

    async def get_join(
        self, endpoint: str, request: pool_service_pb2.GetJoinRequest
    ) -> pool_service_pb2.GetJoinResponse:
        async with self.open_channel(endpoint) as channel:
            stub = pool_service_pb2_grpc.PoolServiceStub(channel)
            try:
                return await stub.GetJoin(request, timeout=ASK_SECONDS)
            except grpc.aio.AioRpcError as error:
                raise error_from_rpc(error, endpoint=endpoint) from error

    async def unreachable(
        self, from_host: str, targets: tuple[tuple[str, str], ...]
    ) -> tuple[Unreachable, ...]:
        found = []
        for name, endpoint in targets:
            wire = await self._world.network.connected(self._host.endpoint, endpoint)
            if isinstance(wire, str):
                found.append(
                    Unreachable(from_host=from_host, to_host=name, endpoint=endpoint, problem=wire)
                )
            else:
                wire.break_()
        return tuple(found)

    # -- calls from others ------------------------------------------------------------------------

    def handler(self, details: Details) -> Any:
        """gRPC's handler of a call, as the daemon's server finds it."""
        found = self._own_handlers.get(details.method) or self.gateway.service(details)
        return self._world.on_call(found)


class SimHost:
    """A machine: its disk and hypervisor stay, its daemon lives while the power is on."""

    def __init__(
        self,
        world: World,
        name: str,
        number: int,
        *,
        founds_in: str | None = None,
        votes: bool = False,
    ) -> None:
        self.world = world
        self.votes = votes
        """Whether it may run a member of the pool's own etcd."""
        self.founds_in = founds_in
        """URL of the shared store in which it founds its pool; none: in one of its own."""
        self.name = name
        self.endpoint = f"10.0.0.{number}:7443"
        self.uuid = HostId(f"20000000-0000-4000-8000-{number:012}")
        self.disk = Disk(identity=Identity(host=self.uuid, name=name))
        self.hypervisor = Hypervisor(self.endpoint)
        self.clock = HostClock(world.clock)
        self.recoveries = MemoryRecoveries()
        self.life: Life | None = None
        self.etcd: EtcdProcess | None = None
        self._dice = random.Random(f"{world.seed} host {name}")

    @property
    def mastership(self) -> Mastership | None:
        """The mastership of its daemon, if it has one."""
        return None if self.life is None else self.life.mastership

    @property
    def membership(self) -> Membership | None:
        """Which pool it is in, by its own account."""
        return None if self.disk.identity is None else self.disk.identity.membership

    def power_on(self) -> None:
        """Start the daemon, and the host's etcd."""
        self.start_etcd()
        if self.life is None:
            self.life = Life(self)
            self.life.files.finish_interrupted()
            self.world.network.listening[self.endpoint] = self.life

    def start_etcd(self) -> None:
        """Start the host's member of the pool's own etcd, if there is one that does not run."""
        if self.etcd is None:
            self.etcd = self.world.etcd.run(self)

    def kill_etcd(self) -> None:
        """Kill that member alone."""
        if self.etcd is not None:
            self.etcd.end()
            self.etcd = None

    def cut_power(self) -> None:
        """Kill everything. What was sent to the disk may or may not have got there."""
        self.kill_etcd()
        self.kill()

    def kill(self) -> None:
        """Kill the daemon alone: the host's etcd is a process of its own."""
        if self.life is None:
            return
        self.life.thaw()
        self.life.end()
        self.life.files.lose_power()
        self.world.leave_behind(self.life.files.close())
        self.life = None
        del self.world.network.listening[self.endpoint]
        self.world.network.gone(self.endpoint)
        if self.disk.store is not None:
            data = self.disk.store.data
            if self._dice.random() < 0.5:
                data.settle(self.world.clock.monotonic() + 1.0)
            data.crash()

    def freeze(self) -> None:
        """Stop the daemon, as SIGSTOP does."""
        if self.life is not None:
            self.life.freeze()

    def thaw(self) -> None:
        """Let it go on, as SIGCONT does."""
        if self.life is not None:
            self.life.thaw()

    def reset(self) -> None:
        """What a person does who starts the host over: `poolmember reset`."""
        self.cut_power()
        self.world.etcd.forget(self.disk.voter)
        self.disk = Disk(identity=Identity(host=self.uuid, name=self.name))
        self.power_on()
